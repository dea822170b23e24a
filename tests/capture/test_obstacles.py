"""The line that names an obstacle is the user's line that can't be traced, marked here with ``# this one``."""

import inspect
import math
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_aevb.capture import Capture

OBSTACLES = {}
GENERATOR = random.Random(0)


def obstacle(text):
    def register(fn):
        OBSTACLES[fn.__name__.replace("_", " ")] = fn, text
        return fn

    return register


CONTROL, READS, SIZE = "Python control flow on a tensor's value", " in Python", "whose size depends on values"


@obstacle(CONTROL)
def a_branch(z):
    if z.sum() > 0:  # this one
        return z * 1
    return z


@obstacle(CONTROL)
def a_conditional_expression(z):
    positive = z.sum() > 0
    return z if positive else z * 1  # this one


@obstacle(CONTROL)
def a_branch_in_a_module(z):
    class Inner(nn.Module):
        def forward(self, h):
            if h.mean() > 0:  # this one
                return h
            return h * 2

    return Inner()(z)


@obstacle(CONTROL)
def an_assertion(z):
    assert torch.isfinite(z).all()  # this one
    return z


@obstacle(CONTROL)
def a_comparison_of_two(z):
    return z * max(z[0], z[1])  # this one


@obstacle(READS)
def item_in_a_function(z):
    return z * math.exp(-abs(z.detach().mean().item()))  # this one


@obstacle(READS)
def item_as_a_number_of_repetitions(z):
    k = int(z.detach().abs().sum().item()) % 3 + 1  # this one
    return sum(z for _ in range(k)) / k


@obstacle(READS)
def a_float(z):
    return z * float(z.detach().mean())  # this one


@obstacle(READS)
def a_range(z):
    n = (z > 0).sum()
    for _ in range(n):  # this one
        z = z * 1.0
    return z


@obstacle("Tensor.numpy reads a tensor's values in Python")
def numpy(z):
    a = np.tanh(z.detach().numpy())  # this one
    return z * torch.as_tensor(a)


@obstacle("Tensor.__array__ reads a tensor's values in Python")
def an_array(z):
    a = np.asarray(z.detach())  # this one
    return z * torch.as_tensor(a)


@obstacle("Tensor.__dlpack__ reads a tensor's values in Python")
def an_array_that_shares_memory(z):
    a = np.from_dlpack(z.detach())  # this one
    return z * float(a[0])


@obstacle("Tensor.tolist reads a tensor's values in Python")
def a_list(z):
    values = z.tolist()  # this one
    return z * values[0]


@obstacle(f"aten.nonzero.default gives a result {SIZE}")
def nonzero(z):
    i = z.nonzero()  # this one
    return z + i.shape[0]


@obstacle(f"aten.index.Tensor gives a result {SIZE}")
def a_mask_as_an_index(z):
    positive = z[z > 0]  # this one
    return z + positive.sum()


@obstacle(f"aten.index.Tensor gives a result {SIZE}")
def an_assignment_by_a_mask(z):
    y = z.clone()
    y[y < 0] = y[y < 0] * 0.5  # this one
    return y


@obstacle(f"aten._unique2.default gives a result {SIZE}")
def unique(z):
    return z + torch.unique(z).numel()  # this one


@obstacle("each call draws from Python's random")
def pythons_random(z):
    y = z + 1
    return y * (1 + random.random())  # this one


@obstacle("each call draws from NumPy's random")
def numpys_random(z):
    y = z + 1
    return y * (1 + np.random.rand())  # noqa: NPY002  # this one


@obstacle("each call draws from Random")
def a_generator(z):
    y = z + 1
    return y * (1 + GENERATOR.random())  # this one


def within_pyro(step):
    """Return a function that runs a step inside of Pyro's handlers."""

    def fn(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            return (step(z),)

    return lambda x: pyro.poutine.trace(fn).get_trace(x).nodes["_RETURN"]["value"]


@pytest.mark.parametrize("name", OBSTACLES)
def test_the_line_is_the_one_that_cannot_be_traced(name):
    step, text = OBSTACLES[name]
    lines, first = inspect.getsourcelines(step)
    (number,) = [first + i for i, line in enumerate(lines) if "# this one" in line]
    fast = Capture(within_pyro(step), watched=[step], compile="graph")
    for i in range(4):
        torch.manual_seed(i)
        fast(torch.arange(3.0))
    assert text in fast.obstacle
    assert f" at test_obstacles.py:{number}, `{lines[number - first].strip()}`" in fast.obstacle


def test_a_line_of_pyros_is_named_after_the_users():
    fast = Capture(lambda x: (dist.Stable(x + 1.5, 0.0).rsample(),), compile="graph")
    for _ in range(3):
        fast(torch.zeros(2))
    assert " at test_obstacles.py:" in fast.obstacle
    assert ", in Pyro at stable.py:" in fast.obstacle


def test_the_search_for_a_line_leaves_no_trace():
    """The draws, the gradients and the buffers of the steps are those of eager runs."""
    results = []
    for compile in (False, "graph"):
        net = nn.BatchNorm1d(1)
        fast = Capture(lambda x: _a_loss(net, x), lambda: dict(net.named_parameters()), [net], compile=compile)  # noqa: B023
        torch.manual_seed(0)
        for _ in range(5):
            (loss,) = fast(torch.arange(6.0)[:, None])
        results.append([loss, torch.rand(1), net.running_mean, *(p.grad for p in net.parameters())])
    assert SIZE in fast.obstacle
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def _a_loss(net, x):
    for parameter in net.parameters():
        parameter.grad = None
    h = net(x + torch.randn_like(x))
    loss = h[h > 0].sum()
    loss.backward()
    return (loss.detach(),)
