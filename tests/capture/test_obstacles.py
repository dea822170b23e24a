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
KEPT, ANOTHER = torch.tensor(1), torch.tensor(1)
KEPT_READ = "torch reads the value of a tensor that the model keeps"


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


@obstacle("Tensor.__repr__ reads a tensor's values in Python")
def text(z):
    return z * (1 if "1" in str(KEPT) else 2)  # this one


@obstacle("Tensor.__format__ reads a tensor's values in Python")
def formatted_text(z):
    return z * (1 if f"{KEPT:.1f}" == "1.0" else 2)  # this one


@obstacle(KEPT_READ)
def a_slice(z):
    return torch.cat([z[:KEPT], 0 * z[KEPT:]])  # this one


@obstacle(KEPT_READ)
def an_index(z):
    return z + z[KEPT]  # this one


@obstacle(KEPT_READ)
def a_slice_that_is_set(z):
    y = z * 1
    y[:KEPT] = 0.0  # this one
    return y


@obstacle(KEPT_READ)
def an_option(z):
    return nn.functional.softplus(z, beta=KEPT)  # this one


@obstacle(KEPT_READ)
def a_factor(z):
    return torch.add(z, z, alpha=KEPT)  # this one


@obstacle(KEPT_READ)
def a_scale(z):
    return z + torch.normal(0.0, KEPT, size=(3,))  # this one


@obstacle(KEPT_READ)
def a_scale_in_place(z):
    return z + torch.empty(3).normal_(0, KEPT)  # this one


@obstacle(KEPT_READ)
def a_size(z):
    return z + torch.zeros(KEPT, 2).numel()  # this one


@obstacle(KEPT_READ)
def a_size_in_a_list(z):
    return z + torch.zeros([2, KEPT]).numel()  # this one


@obstacle(KEPT_READ)
def an_entry(z):
    return z * torch.full((3,), KEPT)  # this one


@obstacle(KEPT_READ)
def a_shift(z):
    return z.roll(KEPT, -1)  # this one


@obstacle(KEPT_READ)
def a_comparison_of_kept_tensors(z):
    return z if torch.equal(KEPT, ANOTHER) else 2 * z  # this one


@obstacle(KEPT_READ)
def a_comparison_by_its_arguments_names(z):
    return z if torch.equal(input=ANOTHER, other=KEPT) else 2 * z  # this one


@obstacle(KEPT_READ)
def a_comparison_up_to_rounding(z):
    return z if torch.allclose(KEPT.double(), ANOTHER.double()) else 2 * z  # this one


@obstacle(KEPT_READ)
def a_question(z):
    return z if KEPT.is_nonzero() else 2 * z  # this one


@obstacle("tensor reads values off tensors that it takes for numbers")
def a_list_of_numbers(z):
    return z * torch.tensor([KEPT, 0, 1])  # this one


@obstacle("new_tensor reads values off tensors that it takes for numbers")
def a_list_of_numbers_of_the_same_dtype(z):
    return z * z.new_tensor((z[0], 1.0, 1.0))  # this one


@obstacle("__getitem__ reads values off tensors that it takes for numbers")
def a_list_as_an_index(z):
    return z + z[..., [KEPT, 0]].sum()  # this one


@obstacle("tensor_split reads values off tensors that it takes for numbers")
def places_to_split_at(z):
    return z + z.tensor_split(KEPT[None])[0].sum()  # this one


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


READ = [name for name, (step, _) in OBSTACLES.items() if "KEPT" in step.__code__.co_names]


@pytest.mark.parametrize("name", READ)
def test_a_kept_tensor_that_changes_in_place_is_read_at_each_call(name):
    step, results = OBSTACLES[name][0], []
    for compile in (False, "graph"):
        KEPT.fill_(1)
        fast = Capture(within_pyro(step), watched=[step], compile=compile)
        for i in range(7):
            KEPT.fill_(1 if i < 5 else 2)
            torch.manual_seed(i)
            (result,) = fast(torch.arange(3.0))
        results.append(result)
    KEPT.fill_(1)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    "fn",
    [
        lambda z: z[KEPT[None]],
        lambda z: z * KEPT,
        lambda z: z.masked_fill(z > 1, KEPT),
        lambda z: z * torch.tensor([2.0]),
    ],
    ids=["an index of a dimension", "a factor", "a value where a tensor may stand", "a list of plain numbers"],
)
def test_what_a_graph_reads_itself_is_no_obstacle(fn):
    fast = Capture(lambda x: (fn(x),), watched=[fn], compile="graph")
    for i in range(7):
        KEPT.fill_(1 if i < 5 else 2)
        torch.testing.assert_close(fast(torch.arange(3.0)), (fn(torch.arange(3.0)),))
    KEPT.fill_(1)
    assert fast.obstacle is None


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
