"""Each pass over a traced graph in the dtype it is for, float32, plain and under Inductor; and what keys a graph."""

import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_aevb import VAE
from pyro_aevb.capture import Capture, trace
from pyro_aevb.capture.graph import random_operations
from pyro_aevb.capture.graph_passes import (
    fill_by_mask,
    keep_eager_noise,
    put_constants_on,
    send_to_onednn,
    without_log1p,
)
from pyro_aevb.model_guide.log_density import capture_log_density

COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
HOW = pytest.mark.parametrize("inductor", [False, pytest.param(True, marks=COMPILER)], ids=["plain", "inductor"])
ONEDNN = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")), reason="no oneDNN"
)


def passed(fn, args, graph_pass, inductor):
    """Return the graph of fn(*args) after a pass, compiled if asked for, and the names of its operations."""
    graph = trace(fn, {}, args)
    graph_pass(graph.module)
    graph.module.graph.lint()
    names = [str(node.target) for node in graph.module.graph.nodes if node.op == "call_function"]
    if inductor:
        graph.compile(args)
    return graph, names


def test_a_trace_describes_all_results_in_one_fake_mode(monkeypatch):
    """One takes milliseconds to make, and torch makes one a result where there is none."""
    made, init = [], FakeTensorMode.__init__

    def counted(self, **options):
        made.append(self)
        init(self, **options)

    monkeypatch.setattr(FakeTensorMode, "__init__", counted)
    graph = trace(lambda x: (x.sin().cos() + 1,), {}, (torch.ones(3),))
    assert {node.meta["val"].fake_mode for node in graph.module.graph.nodes if "val" in node.meta} == {made[0]}
    assert len(made) == 1


# -- Bernoulli densities without log1p --------------------------------------------------------------------------------


def density(logits, x):
    return (dist.Bernoulli(logits=logits, validate_args=False).log_prob(x),)


@HOW
def test_bernoulli_densities_in_float32(inductor):
    """Right but for the rounding of 1 + exp(-|l|) and of l, for logits of either sign; in float64 left alone."""
    logits = torch.cat([torch.linspace(-100, 100, 401), torch.linspace(-2, 2, 401), torch.randn(222)])
    x = (torch.rand(1024, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    graph, names = passed(density, (logits, x), without_log1p, inductor)
    assert not any("binary_cross_entropy" in name for name in names)
    assert any("aten.log.default" in name for name in names)
    (found,) = graph((logits, x))
    assert found.dtype == torch.float32
    exact = density(logits.double(), x.double())[0]
    assert ((found - exact).abs() <= 1.2e-7 * (1 + logits.abs())).all()
    assert exact.min() < -40
    _, names = passed(density, (logits.double(), x.double()), without_log1p, False)
    assert any("binary_cross_entropy" in name for name in names)


# -- products by oneDNN -----------------------------------------------------------------------------------------------


def layers(x, first, bias, second):
    return (torch.tanh(F.linear(x, first, bias)) @ second,)


@ONEDNN
@HOW
def test_large_products_in_float32(inductor):
    """To float32's accuracy, a bias and a tanh included; small ones and float64 are left alone."""
    generator = torch.Generator().manual_seed(0)
    args = tuple(
        torch.randn(*shape, generator=generator) * scale
        for shape, scale in (((110, 100), 1.0), ((120, 100), 0.1), ((120,), 1.0), ((120, 90), 1.0))
    )
    graph, names = passed(layers, args, send_to_onednn, inductor)
    assert sum("pyro_aevb.linear" in name for name in names) == 2
    assert not any("tanh" in name for name in names)
    (found,) = graph(args)
    (exact,) = layers(*(a.double() for a in args))
    assert found.dtype == torch.float32
    assert (found - exact).norm() / exact.norm() < 1e-6
    assert (found - exact).abs().max() < 1e-4
    for other in (tuple(a.double() for a in args), (args[0][:10], *args[1:])):
        _, names = passed(layers, other, send_to_onednn, False)
        assert not any("pyro_aevb" in name for name in names)


# -- the noise of the eager run ---------------------------------------------------------------------------------------


@HOW
def test_draws_in_float32_are_those_of_the_eager_run(inductor):
    def draws(probs):
        return torch.bernoulli(probs), torch.randn_like(probs), torch.rand_like(probs)

    probs = torch.rand(500, generator=torch.Generator().manual_seed(0))
    graph, names = passed(draws, (probs,), keep_eager_noise, inductor)
    assert any("pyro_aevb.bernoulli" in name for name in names)
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = draws(probs)
        after = torch.rand(())
        torch.manual_seed(seed)
        found = graph((probs,))
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert torch.equal(torch.rand(()), after)


# -- bfloat16 ---------------------------------------------------------------------------------------------------------


def convolved(x, weight, bias):
    """A convolution, its transpose, and what flows back to x and to the weight."""
    weight = weight.detach().requires_grad_()
    x = x.detach().requires_grad_()
    y = F.conv2d(x, weight, bias, stride=2, padding=1)
    back = F.conv_transpose2d(y, weight, stride=2, padding=1)
    gradients = torch.autograd.grad(back.sum() + y.square().sum(), (x, weight))
    return y.detach(), back.detach(), *gradients


@pytest.mark.parametrize("compile", [False, "graph", pytest.param(True, marks=[COMPILER, pytest.mark.slow])])
def test_convolutions_of_bfloat16_factors(compile):
    """Numbers of bfloat16's 8 bits in float32's clothes, close to float32's own and not equal to them."""
    generator = torch.Generator().manual_seed(0)
    args = tuple(torch.randn(*shape, generator=generator) for shape in ((4, 3, 8, 8), (5, 3, 4, 4), (5,)))
    exact = convolved(*args)
    fast = Capture(convolved, compile=compile, precision="bf16")
    for _ in range(3):
        found = fast(*args)
    assert fast.obstacle is None
    for name, a, b in zip(("y", "back", "dx", "dw"), found, exact, strict=True):
        assert a.dtype == torch.float32
        assert 1e-4 < ((a - b).norm() / b.norm()).item() < 2e-2, name
    y = F.conv2d(*(a.bfloat16().float() for a in args), stride=2, padding=1)
    assert torch.equal(found[0], found[0].bfloat16().float())
    torch.testing.assert_close(found[0], y, rtol=1e-2, atol=1e-2)
    wide = convolved(*(a.double() for a in args))  # float64 is not rounded
    fast = Capture(convolved, compile=False, precision="bf16")
    assert all(torch.equal(a, b) for a, b in zip(fast(*(a.double() for a in args)), wide, strict=True))


# -- strides ----------------------------------------------------------------------------------------------------------


@COMPILER
@pytest.mark.slow  # by default the graphs are told apart, below
def test_the_same_numbers_with_other_strides_give_the_same_under_inductor():
    """Inductor runs without asserting strides, so that a graph is for one layout of its arguments alone."""
    torch.manual_seed(0)
    vae = VAE(6, 2, hidden_dims=(8,))
    density = capture_log_density(vae.model, vae.guide, compile=True)
    x = (torch.rand(5, 6) < 0.5).float()
    for _ in range(4):
        density(x)

    def value(x):
        torch.manual_seed(1)
        return density(x).log_weight

    other = x.t().contiguous().t()
    assert torch.equal(other, x)
    assert other.stride() != x.stride()
    for again in (other, x, other, x, other):  # most of these runs aren't compared with the eager one
        torch.testing.assert_close(value(again), value(x), rtol=1e-5, atol=1e-5)
    assert density.obstacle is None


def test_other_strides_are_another_graph():
    """A view of contiguous rows in the one is a copy in the other; no graph serves both."""
    weight = torch.arange(1.0, 31.0)
    traces = []

    def fn(x):
        traces.append(1)
        return (x.reshape(-1) * weight,)

    fast = Capture(fn, compile="graph")
    x = torch.rand(5, 6)
    for a in (x, x.t().contiguous().t(), x[:, :6], x.flip(0)):
        for _ in range(10):
            torch.testing.assert_close(fast(a)[0], a.reshape(-1) * weight)
    assert fast.obstacle is None
    assert len(traces) < 30


def test_a_captured_step_draws_what_the_eager_one_draws():
    """In float32, under a graph: the Bernoulli guide of a belief net, its density without log1p."""
    weight = torch.randn(4, 6)

    def step(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=x @ weight.T).to_event(1))
            return z, dist.Bernoulli(logits=z @ weight).log_prob(x)

    x = (torch.rand(5, 6) < 0.5).float()
    fast = Capture(step, watched=[step], compile="graph")
    for seed in range(4):
        torch.manual_seed(seed)
        found = fast(x)
        torch.manual_seed(seed)
        expected = step(x)
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize(("draws", "kept"), [(1, False), (2, True)])
def test_several_random_operations_stay_in_their_order(monkeypatch, draws, kept):
    """Inductor may reorder them, and did on a GPU under torch 2.11; then one draws the other's numbers."""
    seen = {}
    monkeypatch.setattr(
        "pyro_aevb.capture.graph.inductor", lambda module, inputs, options: seen.update(options) or module
    )

    def fn(x):
        return (sum(pyro.sample(f"z{i}", dist.Normal(x, 1.0)) for i in range(draws)),)

    graph = trace(fn, {}, (torch.zeros(3),))
    assert len(random_operations(graph.module)) == draws
    graph.compile((torch.zeros(3),))
    assert ("reorder_for_locality" in seen) is kept
    assert ("reorder_for_peak_memory" in seen) is kept


def test_a_number_put_by_a_mask_is_no_tensor_of_the_processor():
    """A CUDA graph can't hold a copy from the processor's memory; torch's KL of two Categoricals puts such numbers."""

    def fn(x):
        t = 2 * x
        t[x > 0] = torch.inf
        t[x[:, 0] < 0] = 1
        t[:, 0][x[:, 1] > 0] = 3.0
        t[x < -1] = torch.tensor([4.0])  # one number, though not of no dimension
        return t + torch.tensor(5.0) + torch.tensor([1.0, 2.0])

    x = torch.randn(50, 2)
    module = make_fx(fn)(x)
    fill_by_mask(module)
    assert [node.target for node in module.graph.nodes].count(torch.ops.aten.index_put_.default) == 1
    assert torch.equal(module(x), fn(x))
    other = torch.randn(50, 2)
    assert torch.equal(module(other), fn(other))
    put_constants_on(module, torch.device("meta"))
    places = [getattr(module, node.target) for node in module.graph.nodes if node.op == "get_attr"]
    assert {tuple(value.shape): value.device.type for value in places} == {(): "meta", (1,): "cpu", (2,): "cpu"}


def test_a_constant_that_is_copied_to_the_device_lies_there():
    def fn(x):
        return x + torch.tensor([1.0, 2.0]).to("meta")

    module = make_fx(fn)(torch.randn(3, 2, device="meta"))
    put_constants_on(module, torch.device("meta"))
    assert [getattr(module, n.target).device.type for n in module.graph.nodes if n.op == "get_attr"] == ["meta"]
