"""Modules that only the model's run can name are evaluated, kept and restored like those that can be seen."""

import functools
import sys
import types

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_aevb import AEVB
from pyro_aevb.evidence import elbo
from pyro_aevb.model_guide import capture_log_density, evaluating, log_density
from pyro_aevb.training import fit

N, D = 40, 3
ADAM = functools.partial(torch.optim.Adam, lr=0.01)
HIDDEN = types.ModuleType("hidden_nets")  # like an installed package's: its attributes are not looked into


def new_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)).double()


@functools.lru_cache
def cached(name):
    return new_net()


class Nets:
    encoder = None


WAYS = {
    "a module's attribute": lambda: HIDDEN.encoder,
    "a class attribute": lambda: Nets.encoder,
    "a cached function": lambda: cached("encoder"),
    "sys.modules": lambda: sys.modules["hidden_nets"].encoder,
}


def pair(way):
    def model(x):
        loc = pyro.param("loc", torch.zeros(D).double())
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(loc + z, 1.0).to_event(1), obs=x)

    def guide(x):
        encoder = pyro.module("e", WAYS[way]())
        with pyro.plate("data", N, subsample_size=len(x)):
            loc, scale = encoder(x).split(1, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    return model, guide


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    monkeypatch.setitem(sys.modules, "hidden_nets", HIDDEN)
    cached.cache_clear()
    HIDDEN.encoder, Nets.encoder = new_net(), new_net()
    return request.param


def anew():
    cached.cache_clear()
    HIDDEN.encoder, Nets.encoder = new_net(), new_net()
    pyro.clear_param_store()


def net(way):
    return WAYS[way]()


def test_they_are_evaluated_and_left_as_they_were(way):
    model, guide = pair(way)
    x = torch.randn(N, D).double()
    before = [buffer.clone() for buffer in net(way).buffers()]
    bounds = [elbo(model, guide, x, seed=0).mean()[0] for _ in range(2)]
    learner = AEVB(model, guide, ADAM, compile=False)
    learner.prepare(x)
    assert all(map(torch.equal, before, net(way).buffers())), "a check moved the running averages"
    assert all(module.training for module in net(way).modules())
    assert net(way)[1] in learner.modules
    net(way).eval()
    assert bounds == [elbo(model, guide, x, seed=0).mean()[0]] * 2, "an evaluation ran in training mode"


class Counting(nn.Module):
    """A module that counts its runs in buffers, in whatever mode."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.register_buffer("n", torch.empty(1).fill_(0.0))
        self.register_buffer("last", torch.full((2,), torch.nan))
        self.register_buffer("mask", None)

    def forward(self, x):
        HOW[self.how](self)
        return x + 0.0 * self.last.nan_to_num()[0]


HOW = {
    "in place": lambda m: m.n.add_(1),
    "through data": lambda m: m.n.data.add_(1),
    "another storage": lambda m: setattr(m.n, "data", m.n + 1),
    "replaced": lambda m: setattr(m, "n", m.n + 1),
    "resized": lambda m: m.n.resize_(len(m.n) + 1).fill_(1.0),
    "came to be": lambda m: setattr(m, "mask", torch.ones(2)),
    "registered": lambda m: m.register_buffer("another", torch.ones(2)),
}


def pair_through(module):
    """Return a model whose mean is what a module gives for z, and a guide; ``module`` returns the module."""

    def model(x):
        mean = module()
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(mean(z)[..., None] + torch.zeros(D), 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x)), 1.0))

    return model, guide


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "named"])
@pytest.mark.parametrize("how", HOW)
def test_what_a_forward_does_to_buffers_is_undone(how, seen):
    counting, x = Counting(how), torch.randn(N, D)
    HIDDEN.encoder, before = counting, {name: tensor.clone() for name, tensor in counting.state_dict().items()}
    tensors, places = list(counting.buffers()), [buffer.data_ptr() for buffer in counting.buffers()]

    elbo(*pair_through(lambda: pyro.module("counting", counting if seen else HIDDEN.encoder)), x, seed=0)
    after = counting.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name].nan_to_num(-1), before[name].nan_to_num(-1)) for name in before)
    assert all(a is b for a, b in zip(counting.buffers(), tensors, strict=True))
    assert [buffer.data_ptr() for buffer in counting.buffers()] == places or how == "resized"


@pytest.mark.parametrize("compile", [False, "graph"])
def test_a_buffer_counts_the_steps_alone(compile):
    counting, x = Counting("in place"), torch.randn(N, D)

    learner = AEVB(*pair_through(lambda: counting), ADAM, compile=compile)
    for _ in range(10):
        learner.step(x)
    assert counting.n.item() == 10


def test_what_an_evaluation_gives_can_be_differentiated_through_its_buffers():
    """Nothing is written back into a buffer that nothing has written: its gradient would be refused."""
    net, x = Counting("registered"), torch.ones(3, requires_grad=True)
    with evaluating([net]):
        loss = (x * net.last.nan_to_num(2.0)[0] * net.last[0]).sum() + (x * net.n).sum()
    loss.backward()
    assert x.grad.isnan().all()


@pytest.mark.parametrize("compile", [False, pytest.param("graph", marks=pytest.mark.slow)])
def test_their_buffers_are_in_the_checkpoint(way, compile, tmp_path):
    x, ends = torch.randn(N, D, generator=torch.Generator().manual_seed(0)).double(), []
    for epochs in ([4], [2, 4]):
        for number in epochs:
            anew()
            pyro.set_rng_seed(0)
            model, guide = pair(way)
            learner = AEVB(model, guide, ADAM, compile=compile)
            fit(learner, x, x[:20], epochs=number, batch_size=10, checkpoint_dir=tmp_path / str(len(epochs)),
                resume=True, progress=False)  # fmt: skip
        ends.append([tensor.clone() for tensor in net(way).state_dict().values()])
    assert all(map(torch.equal, *ends))


def test_a_density_of_modules_with_buffers_is_traced_and_leaves_what_they_count_as_it_was():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("runs", torch.zeros(()))
            self.register_buffer("scale", torch.tensor(2.0))

        def forward(self, z):
            self.runs += 1
            return self.scale * z

    net = Counting()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(net(z), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.4 * x, 0.2**0.5))  # the posterior

    density, x = capture_log_density(model, guide, compile="graph"), torch.linspace(-2, 2, 5)
    for _ in range(4):
        torch.testing.assert_close(density(x).log_weight[0], dist.Normal(0.0, 5**0.5).log_prob(x))
    assert density.obstacle is None
    assert net.runs == 0


class MadeByTheFirstCall:
    """A net that nobody trains, built when it is first wanted."""

    net = None

    def __call__(self, x):
        if self.net is None:
            self.net = nn.Dropout(0.9)
        return self.net(x)


@pytest.mark.parametrize("estimate", [elbo, log_density], ids=lambda fn: fn.__name__)
def test_a_module_that_the_first_call_makes_is_evaluated(estimate):
    made = MadeByTheFirstCall()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x * made(torch.ones(len(x))))

    def guide(x):  # the exact posterior: every weight is p(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.linspace(-2.0, 2.0, 7)
    found = estimate(model, guide, x, num_particles=2)
    value = found.value if estimate is elbo else found.log_weight[0]
    assert torch.allclose(value, dist.Normal(0.0, 2**0.5).log_prob(x), atol=1e-5)
    assert made.net.training
