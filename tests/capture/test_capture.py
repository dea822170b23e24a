"""The fast path gives what the eager run gives, notices when it can't, and keeps within bounds."""

import functools
import gc
import logging
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import some_partners
from pairs import CONTINUOUS, DISCRETE, N, bernoulli_vae
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample
from scripts import load_script
from torch import nn
from torch.distributions import constraints
from torch.utils._pytree import tree_leaves

import pyro_aevb
from pyro_aevb import AEVB, IWAE, MCEM, SGVB, STL, VAE, VIMCO, DReG, ReweightedWakeSleep, ScoreFunction, WakeSleep
from pyro_aevb.capture import Capture
from pyro_aevb.capture.graph_passes import onednn_is_faster
from pyro_aevb.capture.precision import in_precision
from pyro_aevb.capture.python_state import PythonState
from pyro_aevb.capture.reach import LARGEST_ARRAY
from pyro_aevb.evidence import elbo
from pyro_aevb.model_guide import log_density
from pyro_aevb.training import fit

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
LEARNERS = {
    "L^A": lambda p, **kw: AEVB(p.model, p.guide, ADAM, Trace_ELBO(), **kw),
    "L^A, 3 particles": lambda p, **kw: AEVB(p.model, p.guide, ADAM, Trace_ELBO(num_particles=3), **kw),
    "L^A, 3 vectorized": lambda p, **kw: AEVB(
        p.model, p.guide, ADAM, Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1), **kw
    ),
    "L^B, MAP": lambda p, **kw: AEVB(
        p.model, p.guide, ADAM, TraceMeanField_ELBO(), theta_prior=dist.Normal(0.0, 1.0), **kw
    ),
    "wake-sleep": lambda p, **kw: WakeSleep(p.model, p.guide, ADAM, ADAM, theta_prior=dist.Normal(0.0, 1.0), **kw),
    "mcem": lambda p, **kw: MCEM(p.model, ADAM, num_leapfrog=3, **kw),
    "SGVB B, beta": lambda p, **kw: AEVB(p.model, p.guide, ADAM, SGVB(2, kl="analytic", beta=0.5, free_bits=0.1), **kw),
    "STL": lambda p, **kw: AEVB(p.model, p.guide, ADAM, STL(), **kw),
    "blend": lambda p, **kw: AEVB(p.model, p.guide, ADAM, **kw),
    "IWAE": lambda p, **kw: AEVB(p.model, p.guide, ADAM, IWAE(3), **kw),
    "DReG": lambda p, **kw: AEVB(p.model, p.guide, ADAM, DReG(3), **kw),
    "DReG, one by one": lambda p, **kw: AEVB(p.model, p.guide, ADAM, DReG(2, vectorize=False), **kw),
    "score": lambda p, **kw: AEVB(p.model, p.guide, ADAM, ScoreFunction(3, baseline="leave-one-out"), **kw),
    "VIMCO": lambda p, **kw: AEVB(p.model, p.guide, ADAM, VIMCO(3), **kw),
    "reweighted": lambda p, **kw: ReweightedWakeSleep(
        p.model, p.guide, ADAM, ADAM, num_particles=3, insomnia=0.5, **kw
    ),
}
DISCRETE_TOO = ("wake-sleep", "score", "VIMCO", "reweighted")
PAIRS = [(learner, model) for learner in LEARNERS for model in CONTINUOUS] + [
    (learner, model) for learner in DISCRETE_TOO for model in DISCRETE
]
ALL = CONTINUOUS | DISCRETE


def batch(step, size=10):
    return torch.arange(size) + size * (step % (N // size))


def only(learner):
    (capture,) = learner.captures
    return capture


def parameters(learner):
    return {n: p.unconstrained.detach().clone() for n, p in (learner.theta | learner.phi).items()}


def train(learner, x, steps):
    """Return the terms of each step, and the parameters at the end."""
    infos = [learner.step(x[batch(i)], index=batch(i)) for i in range(steps)]
    return torch.stack([torch.stack([t.double() for t in scalars(info)]) for info in infos]), parameters(learner)


def scalars(info):
    return [term for term in info if isinstance(term, torch.Tensor)]


def both(learner, model, steps, compile):
    """Train eagerly and on the fast path from the same start, with the same noise."""
    results, captures = [], []
    for how in (False, compile):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            pair, x = ALL[model]() if isinstance(model, str) else model()
            made = LEARNERS[learner](pair, compile=how) if isinstance(learner, str) else learner(pair, compile=how)
            pyro.set_rng_seed(1)
            results.append(train(made, x, steps))
            captures += made.captures
    return *results, captures


def assert_equal(eager, fast, rtol=1e-9):
    torch.testing.assert_close(fast[0], eager[0], rtol=rtol, atol=rtol)
    for name, value in eager[1].items():
        assert (fast[1][name] - value).norm() <= rtol * (1 + value.norm()), name


@pytest.mark.parametrize(("learner", "model"), some_partners(PAIRS))  # the others are slow
def test_steps_and_gradients_are_those_of_eager_pyro(learner, model):
    """At the start and the end, loss and gradient of every parameter to 1e-9, from the graph and Pyro, in float64.

    In between every loss, and every parameter at the end (Adam turns a gradient's last digit into a step's).
    """
    results = []
    for compile in (False, "graph"):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            pair, x = ALL[model]()
            made = LEARNERS[learner](pair, compile=compile)
            made.prepare(x[batch(0)])
            if compile:
                assert_gradients(made, x, learner == "mcem")
            pyro.set_rng_seed(1)
            results.append(train(made, x, 18))  # compared by the fast path itself at 2, 4, 8, 16
            if compile:
                assert_gradients(made, x, learner == "mcem")
    assert_equal(*results, rtol=1e-7)


def assert_gradients(made, x, takes_noise):
    shapes = made._space._shapes.values() if takes_noise else ()
    u = torch.randn(10, sum(s.numel() for s in shapes)).double()
    for capture in made.captures:
        args = (u, x[batch(1)]) if takes_noise else (x[batch(1)],)
        before = made.copy_parameters()  # with buffers: a blend's share, averages
        capture(*args), clear(made)  # traces
        (entry,) = capture._entries.values()
        results = []
        for fn in (lambda *args, graph=entry.graph: graph(args), capture._eager):
            made.put_parameters(before)
            pyro.set_rng_seed(3)
            out = fn(*args)
            results.append(([o.double() for o in tree_leaves(out)], clear(made)))
        assert capture.obstacle is None
        torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)


def clear(learner):
    gradients = {n: g for n, p in (learner.theta | learner.phi).items() if (g := p.unconstrained.grad) is not None}
    for p in (learner.theta | learner.phi).values():
        p.unconstrained.grad = None
    return gradients


COMPILED = {  # by default what is compiled fastest
    ("L^A, 3 particles", "bernoulli_vae"): pytest.mark.slow,
    ("L^B, MAP", "gamma_poisson"): pytest.mark.slow,
    ("wake-sleep", "bernoulli_vae"): pytest.mark.exhaustive,
    ("mcem", "gamma_poisson"): pytest.mark.slow,
    ("L^A, 3 particles", "gamma_poisson"): pytest.mark.exhaustive,
    ("L^B, MAP", "bernoulli_vae"): pytest.mark.exhaustive,
    ("wake-sleep", "gamma_poisson"): pytest.mark.exhaustive,
    ("mcem", "bernoulli_vae"): pytest.mark.exhaustive,
}


@COMPILER
@pytest.mark.parametrize(("learner", "model"), [pytest.param(*pair, marks=m) for pair, m in COMPILED.items()])
def test_inductor_too(learner, model):
    eager, fast, captures = both(learner, model, 20, True)
    assert all(c.obstacle is None for c in captures)
    assert all(e.level == "inductor" for c in captures for e in c._entries.values())
    assert_equal(eager, fast, rtol=1e-7)


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
@pytest.mark.parametrize(
    "objective",
    [TraceGraph_ELBO, lambda: RenyiELBO(alpha=0.5, num_particles=2), lambda: TraceEnum_ELBO(max_plate_nesting=1)],
)
def test_other_objectives_of_pyro(objective):
    make = lambda p, **kw: AEVB(p.model, p.guide, ADAM, objective(), **kw)  # noqa: E731
    eager, fast, (_, capture) = both(make, "bernoulli_vae", 20, "graph")
    assert capture.obstacle is None
    assert_equal(eager, fast)


def test_no_step_runs_python_of_the_model():
    pair, x = bernoulli_vae()
    seen = Hidden(0)

    def model(x):
        seen.value += 1
        return pair.model(x)

    learner = AEVB(model, pair.guide, ADAM, compile="graph")
    train(learner, x, 5)
    before = seen.value
    train(learner, x, 2)
    assert seen.value == before


class Hidden:
    """A value that the fast path can't see: it lies in an array that is too large to be compared at each step."""

    def __init__(self, value):
        self.array = np.full(2 * LARGEST_ARRAY, float(value))

    @property
    def value(self):
        return self.array[0]

    @value.setter
    def value(self, value):
        self.array[0] = value


# -- What models are made of -------------------------------------------------------------------------------------------


class Everything(PyroModule):
    """A PyroModule with buffers and dropout, a constrained parameter, a subsample of Pyro's, a mask, and a scale."""

    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(1.0).double(), constraints.positive)
        self.net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 3)).double()
        self.encoder = nn.Linear(3, 2).double()
        self.beta = 0.5

    def model(self, x):
        pyro.module("net", self.net)
        with pyro.plate("data", N, subsample_size=len(x)):
            with poutine.scale(scale=self.beta):
                z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            with poutine.mask(mask=x[:, 0] > -1):
                pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", N, subsample_size=len(x)), poutine.scale(scale=self.beta):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def everything():
    torch.manual_seed(0)
    return Everything(), torch.randn(N, 3, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("compile", ["graph", pytest.param(True, marks=[COMPILER, pytest.mark.slow])])
def test_modules_buffers_modes_and_scales(compile):
    states = []
    for how in (False, compile):
        with pyro.get_param_store().scope():
            pair, x = everything()
            learner = AEVB(pair.model, pair.guide, ADAM, TraceMeanField_ELBO(), compile=how)
            pyro.set_rng_seed(1)
            infos = train(learner, x, 6)[0]
            pair.eval()
            infos = torch.cat([infos, train(learner, x, 3)[0]])
            pair.train()
            pair.beta = 2.0
            infos = torch.cat([infos, train(learner, x, 3)[0]])
            states.append((infos, {k: v.clone() for k, v in pair.state_dict().items()}))
            assert only(learner).obstacle is None
    assert only(learner)._traces == 3
    torch.testing.assert_close(states[1], states[0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("what", ["conv", "flow", "gaussian", pytest.param("particles", marks=pytest.mark.slow)])
def test_the_models_of_the_benchmark(what):
    """Convolutions, an inverse autoregressive flow, a Gaussian decoder, 5 particles of Pyro's Renyi bound."""
    script = load_script("benchmarks/step_cases.py")
    case = script.Case("small", hidden=8, latent_dim=3, batch=4)._replace(**{what: 5 if what == "particles" else True})
    results = []
    for compile in (False, "graph"):
        with pyro.get_param_store().scope():
            networks = script.Networks(case).double()
            x = script.images(case)[: 4 * 4].double()
            objective = RenyiELBO(alpha=0.0, num_particles=5) if what == "particles" else TraceMeanField_ELBO()
            learner = AEVB(networks.model, networks.guide, ADAM, objective, compile=compile)
            pyro.set_rng_seed(1)
            infos = [learner.step(x[i : i + 4]).loss for i in (0, 4, 8, 12) for _ in range(3)]
            results.append((torch.stack(infos), parameters(learner)))
            assert only(learner).obstacle is None
    assert_equal(*results, rtol=1e-7)


@pytest.mark.slow
def test_a_last_minibatch_of_another_size_and_another_dtype():
    pair, x = bernoulli_vae()
    learner = AEVB(pair.model, pair.guide, ADAM, compile="graph")
    history = fit(learner, x[:35], epochs=4, batch_size=10, progress=False)
    assert history.samples == 140
    assert history.compile_seconds > 0
    capture = only(learner)
    assert [e.runs for e in capture._entries.values()] == [12, 4]
    fit(learner, x[:30], epochs=1, batch_size=10, progress=False)  # the same graph, compared anew
    assert capture._traces == 2
    assert [e.runs for e in capture._entries.values()] == [0, 3]
    pair.float()
    learner = AEVB(pair.model, pair.guide, ADAM, compile="graph")
    assert learner.step(x[:10].float()).loss.isfinite()


@pytest.mark.slow
def test_more_batch_sizes_than_the_cache_holds(monkeypatch):
    """The cache is bounded, and what was dropped is traced anew, with the right result."""
    from pyro_aevb.capture import capture as module

    monkeypatch.setattr(module, "LARGEST_CACHE", 3)  # of 8: a graph a size takes long
    pair, x = CONTINUOUS["gamma_poisson"]()  # traced fastest
    learner = AEVB(pair.model, pair.guide, ADAM, compile="graph")
    learner.step(x[:3])
    capture = only(learner)
    for size in (3, 4, 5, 6, 3, 4):
        pyro.set_rng_seed(size)
        expected = capture._eager(x[:size]).loss
        clear(learner)
        pyro.set_rng_seed(size)
        torch.testing.assert_close(capture(x[:size]).loss, expected, rtol=1e-9, atol=0)
        clear(learner)
        assert len(capture._entries) <= 3
    assert capture._traces == 6
    assert capture.obstacle is None


@pytest.mark.slow
def test_thousands_of_steps_leak_nothing():
    pair, x = bernoulli_vae()
    learner = AEVB(pair.model, pair.guide, ADAM, compile="graph")
    resident = []
    for i in range(3000):
        learner.step(x[batch(i)])
        if i in (500, 2999):
            gc.collect()
            with open("/proc/self/statm") as file:
                resident.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert resident[1] - resident[0] < 1e6  # 400 bytes a step


def test_handlers_and_autocast_around_a_step():
    pair, x = bernoulli_vae()
    sgd = functools.partial(torch.optim.SGD, lr=0.0)
    eager, fast = (AEVB(pair.model, pair.guide, sgd, compile=c) for c in (False, "graph"))
    contexts = [nullcontext(), poutine.scale(scale=3.0), nullcontext(), torch.autocast("cpu"), nullcontext()]
    for i, context in enumerate(contexts * 3):
        losses = []
        for learner in (eager, fast):
            pyro.set_rng_seed(i)
            with context:
                losses.append(learner.step(x[:10]).loss)
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-9, atol=0)
    assert only(fast).obstacle is None


def test_a_parameter_store_that_was_cleared():
    _, x = CONTINUOUS["gamma_poisson"]()
    pair, _ = CONTINUOUS["gamma_poisson"]()
    learner = AEVB(pair.model, pair.guide, lambda p: torch.optim.SGD(p, lr=0.0), Trace_ELBO(), compile="graph")
    train(learner, x, 3)
    pyro.clear_param_store()
    pyro.param("prior_rate", torch.tensor(7.0).double(), constraint=constraints.positive)
    pyro.set_rng_seed(0)
    expected = Trace_ELBO().loss(pair.model, pair.guide, x[:10])
    for _ in range(3):
        pyro.set_rng_seed(0)
        assert abs(learner.step(x[:10]).loss - expected) < 1e-9


# -- What can't be captured --------------------------------------------------------------------------------------------


def eager_after(model, guide, x, caplog, steps=6, objective=None):
    learner = AEVB(model, guide, ADAM, objective, compile="graph")
    with caplog.at_level(logging.WARNING, "pyro_aevb"):
        for i in range(steps):
            learner.step(x[batch(i)])
    (record,) = caplog.records
    assert "running eagerly, without a graph: " in record.message
    assert only(learner).obstacle in record.message
    return record.message


def test_control_flow_on_values_is_named(caplog):
    pair, x = bernoulli_vae()

    def model(x):
        if x.sum() > 3:
            pyro.sample("extra", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))
        return pair.model(x)

    message = eager_after(model, pair.guide, x, caplog)
    assert "Python control flow on a tensor's value at test_capture.py:" in message
    assert "`if x.sum() > 3:`" in message


def test_control_flow_on_a_parameter_is_named(caplog):
    pair, x = bernoulli_vae()

    def model(x):
        a = pyro.param("a", torch.tensor(1.0))
        return pair.model(x if a > 0 else 1 - x)

    assert "`return pair.model(x if a > 0 else 1 - x)`" in eager_after(model, pair.guide, x, caplog)


@pytest.mark.parametrize("read", [lambda x: float(x.numpy().mean()), lambda x: x.tolist()[0][0]])
def test_values_read_behind_the_trace_are_named(read, caplog):
    pair, x = bernoulli_vae()

    def model(x):
        read(x)
        return pair.model(x)

    assert "reads a tensor's values in Python at test_capture.py:" in eager_after(model, pair.guide, x, caplog)


def test_a_size_that_depends_on_values_is_noticed(caplog):
    """A mask as an index: the graph would hold on to the number of entries that the first minibatch had."""

    def model(x):
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            mean = torch.zeros_like(z)
            mean[z > 0] = z[z > 0] * pyro.param("slope", torch.tensor(0.5).double())
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] * pyro.param("a", torch.tensor(0.1).double()), 1.0))

    x = torch.randn(N, 1).double()
    make = lambda p, **kw: AEVB(model, guide, ADAM, **kw)  # noqa: E731
    eager, fast, (_, capture) = both(make, lambda: (None, x), 20, "graph")
    assert "size depends on values" in capture.obstacle
    assert caplog.text.count("size depends on values") == 1
    assert_equal(eager, fast, rtol=0)


def test_randomness_from_elsewhere_is_noticed(caplog):
    import random

    pair, x = bernoulli_vae()

    def model(x):
        with poutine.scale(scale=random.random()):
            return pair.model(x)

    assert "each call draws from Python's random" in eager_after(model, pair.guide, x, caplog)


def test_a_value_that_changes_at_each_call_is_named(caplog):
    pair, x = bernoulli_vae()
    count = [0]

    def model(x):
        count[0] += 1
        with poutine.scale(scale=1.0 + count[0]):
            return pair.model(x)

    assert "each call changes count[0]" in eager_after(model, pair.guide, x, caplog)


CHANGES = {
    "power": lambda m: m.set_power(3),
    "GLOBAL_FACTOR": lambda m: m.patch("GLOBAL_FACTOR", 2.0),
    "numbers[1]": lambda m: m.numbers.__setitem__(1, 5),
    "len(numbers)": lambda m: m.numbers.append(0),
    "table['a']": lambda m: m.table.update(a=5),
    "table['a'] renamed": lambda m: m.table.update(b=m.table.pop("a")),
    "the number of table['*']": lambda m: m.table.update(c=1),
    "settings.beta": lambda m: setattr(m.settings, "beta", 2.0),
    "net.temperature": lambda m: setattr(m.net, "temperature", 2.0),
    "the number of net.*": lambda m: setattr(m.net, "another", 1.0),
    "net.training": lambda m: m.net.eval(),
    "net._modules['0']": lambda m: m.net.__setitem__(0, nn.Linear(2, 2)),
    "net._modules['0']._parameters['weight']": lambda m: setattr(m.net[0], "weight", nn.Parameter(torch.zeros(2, 2))),
    "the number of net._modules['0']._forward_hooks['*']": lambda m: m.net[0].register_forward_hook(print),
}
GLOBAL_FACTOR = 1.0


def in_a_librarys_closure(model):
    def run(x):
        return model(x)

    run.__module__ = "pyro.poutine"
    return run


WRAPPERS = {
    "as it is": lambda model: model,
    "in a handler": lambda model: poutine.scale(model, 0.5),
    "in a closure": in_a_librarys_closure,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("what", CHANGES)
def test_each_kind_of_change_is_part_of_the_signature_and_has_a_name(what, wrapper, monkeypatch):
    power, numbers, table, settings = 2, [1, 2], {"a": 1}, SimpleNamespace(beta=1.0)
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    net.temperature = 1.0

    def model(x):
        return GLOBAL_FACTOR * net(x) ** power * numbers[1] * table["a"] * settings.beta

    def set_power(value):
        nonlocal power
        power = value

    state = PythonState([WRAPPERS[wrapper](model)])
    before, kept = state.key(), state.values()  # which live as long as the key
    assert state.key() == before
    CHANGES[what](
        SimpleNamespace(
            numbers=numbers,
            table=table,
            settings=settings,
            net=net,
            set_power=set_power,
            patch=lambda name, value: monkeypatch.setitem(globals(), name, value),
        )
    )
    assert len(kept) == len(before)
    assert state.difference(before) == what.removesuffix(" renamed")


def test_a_neighbour_with_a_name_like_the_package_is_watched():
    code = compile("def model(x):\n    return x * beta\n", f"{Path(pyro_aevb.__file__).parent}_models.py", "exec")
    scope = {"__name__": "pyro_aevb_models", "beta": 1.0}
    exec(code, scope)
    state = PythonState([scope["model"]])
    before = state.key()
    scope["beta"] = 2.0
    assert state.difference(before) == "beta"


def test_what_a_model_logs_with_is_not_part_of_the_signature():
    logger = logging.getLogger("test_capture.model")

    def model(x):
        logger.debug("a run")

    state = PythonState([model])
    before = state.key()
    assert len(before) < 10
    logging.getLogger("test_capture.another")  # the logging package keeps a table of all of them
    assert state.key() == before


@pytest.mark.parametrize("objective", [SGVB(), IWAE(3), ScoreFunction(3)], ids=lambda o: type(o).__name__)
def test_what_is_watched_of_an_objective_is_what_can_be_set(objective):
    names = PythonState([objective]).names()
    assert len(names) < 100, names
    state, steady = PythonState([objective]), objective.num_particles
    before = state.key()
    objective.num_particles = 7
    assert state.difference(before).endswith("num_particles")
    objective.num_particles = steady


def test_a_value_that_never_comes_back_is_named(caplog, monkeypatch):
    """KL annealing from outside, a new weight at each step: each is a trace, until there were too many."""
    from pyro_aevb.capture import capture

    monkeypatch.setattr(capture, "TRACES_ON_TRIAL", 3)  # of 32, which take a minute
    pair, x = CONTINUOUS["gamma_poisson"]()
    weight = [0.0]

    def model(x):
        with poutine.scale(scale=weight[0]):
            return pair.model(x)

    learner = AEVB(model, pair.guide, ADAM, compile="graph")
    with caplog.at_level(logging.WARNING, "pyro_aevb"):
        for i in range(8):
            weight[0] = 1 / (1 + i)
            learner.step(x[batch(i)])
    assert "4 traces in 4 calls: the value of weight[0] changes between calls" in caplog.text


def test_a_change_the_signature_misses_is_found_by_the_next_comparison(caplog):
    """Comparisons come at each power of two."""
    pair, x = bernoulli_vae()
    hidden = Hidden(1.0)

    def model(x):
        with poutine.scale(scale=hidden.value):
            return pair.model(x)

    learner = AEVB(model, pair.guide, ADAM, compile="graph")
    for i in range(20):
        learner.step(x[batch(i)])
    hidden.value = 3.0
    with caplog.at_level(logging.WARNING, "pyro_aevb"):
        for i in range(14):
            learner.step(x[batch(i)])
    assert "differs from the eager run: loss is off by" in caplog.text


def test_sites_that_change_between_calls(caplog):
    pair, x = bernoulli_vae()

    class Alternating:
        def __init__(self):
            self.odd = False

        def __call__(self, x):
            self.odd = not self.odd
            if self.odd:
                pyro.sample("extra", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))
            return pair.model(x)

    assert "each call changes Alternating.odd" in eager_after(Alternating(), pair.guide, x, caplog)


def test_without_a_compiler_the_graph_runs(monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("no working C++ compiler found")

    monkeypatch.setattr("pyro_aevb.capture.graph.inductor", fail)
    pair, x = bernoulli_vae()
    learner = AEVB(pair.model, pair.guide, ADAM, compile=True)
    train(learner, x, 5)
    assert "runs without Inductor, which can't compile it here: no working C++ compiler found" in caplog.text
    assert only(learner).obstacle is None


def test_what_was_compiled_once_is_found_again():
    """As by a later process: in torch's cache on disk, which isn't used for a graph without a shape environment."""
    from torch._dynamo.utils import counters

    found = []
    for _ in range(2):
        before = counters["inductor"]["fxgraph_cache_hit"]
        capture = Capture(lambda x: (x.sin() * 0.731).sum(), compile=True)
        for _ in range(2):
            capture(torch.ones(7))
        found.append(counters["inductor"]["fxgraph_cache_hit"] - before)
    assert found[1] == 1


def test_a_wrong_graph_is_refused(monkeypatch, caplog):
    """The guard itself: a graph whose gradients are a thousandth off in one parameter."""
    from pyro_aevb.capture import capture

    original = capture.Graph.__call__

    def wrong(self, args):
        result = original(self, args)
        self._trained[0].grad = self._trained[0].grad * 1.001
        return result

    monkeypatch.setattr(capture.Graph, "__call__", wrong)
    pair, x = bernoulli_vae()
    assert "the gradient of 'decoder.0.weight' is off by" in eager_after(pair.model, pair.guide, x, caplog)


def test_a_graph_that_a_compiler_spoils_runs_without_it(monkeypatch, caplog):
    def spoiling(module, inputs, options):
        def run(*inputs):
            first, *rest = module(*inputs)
            return [1.01 * first, *rest]

        return run

    monkeypatch.setattr("pyro_aevb.capture.graph.inductor", spoiling)
    losses = []
    for compile in (False, True):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            pair, x = bernoulli_vae()
            learner = AEVB(pair.model, pair.guide, ADAM, compile=compile)
            pyro.set_rng_seed(1)
            losses.append(torch.stack([learner.step(x).loss for _ in range(10)]))
    torch.testing.assert_close(losses[1], losses[0])
    assert "running without Inductor, whose results differ from the eager run: loss is off by 1.0e-02" in caplog.text
    assert only(learner).obstacle is None
    assert [e.level for e in only(learner)._entries.values()] == ["graph"]


# -- auto, precision, evaluation ---------------------------------------------------------------------------------------


def test_auto_weighs_calls_against_the_price(monkeypatch):
    from pyro_aevb.capture import capture as module

    monkeypatch.setattr(module, "CALLS_FOR_A_GRAPH", 50)  # of 500
    pair, x = CONTINUOUS["gamma_poisson"]()
    learner = AEVB(pair.model, pair.guide, ADAM)
    train(learner, x, 24)
    capture = only(learner)
    assert not capture._entries
    train(learner, x, 2)
    assert [e.level for e in capture._entries.values()] == ["graph"]
    state = learner.state_dict()
    other = AEVB(pair.model, pair.guide, ADAM)
    other.load_state_dict(state)
    other.step(x[:10])
    assert [e.level for e in only(other)._entries.values()] == ["graph"]
    short, long = (AEVB(pair.model, pair.guide, ADAM) for _ in range(2))
    fit(short, x, samples=100, batch_size=10, progress=False)
    fit(long, x, samples=600, batch_size=10, progress=False)
    assert not only(short)._entries
    assert [e.runs for e in only(long)._entries.values()] == [60]


def test_unknown_choices_are_named():
    pair, x = bernoulli_vae()
    with pytest.raises(ValueError, match="expected compile to be 'auto', True, False or 'graph', got 'fast'"):
        AEVB(pair.model, pair.guide, ADAM, compile="fast")
    with pytest.raises(ValueError, match=r"expected precision out of .*, got 'fp8'"):
        fit(AEVB(pair.model, pair.guide, ADAM), x, epochs=1, batch_size=10, precision="fp8", progress=False)


@pytest.mark.parametrize("compile", [False, pytest.param("graph", marks=pytest.mark.slow)])
def test_bfloat16_products(compile):
    """Close to float32, not equal to it; parameters and losses stay what they are."""
    x = (torch.rand(N, 6) < 0.4).float()
    losses = {}
    for precision in ("float32", "bf16"):
        torch.manual_seed(0)
        vae = VAE(6, 2, hidden_dims=(50,), dataset_size=N)
        learner = AEVB(vae.model, vae.guide, ADAM, compile=compile)
        learner.configure(precision=precision)
        losses[precision] = torch.stack([learner.step(x[batch(i)]).loss for i in range(6)])
        assert vae.decoder[0].weight.dtype == torch.float32
        assert only(learner).obstacle is None
    difference = (losses["bf16"] - losses["float32"]).abs().max() / losses["float32"].abs().max()
    assert 1e-7 < difference < 1e-2


def test_what_bfloat16_rounds():
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    rounded = a.bfloat16().double() @ b.bfloat16().double()
    with in_precision("bf16"):
        product, linear = a @ b, torch.nn.functional.linear(a, b.T, torch.ones(3))
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), rounded, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(linear, product + 1)
    with in_precision("bf16"):
        assert torch.equal(a.double() @ b.double(), a.double() @ b.double())


@pytest.mark.skipif(not onednn_is_faster(), reason="this processor's BLAS is as good as oneDNN")
def test_large_products_are_onednns_and_float32():
    a, b = torch.randn(50, 70), torch.randn(70, 30)
    exact = a.double() @ b.double()
    product = torch.ops.pyro_aevb.linear(a, b.t(), None, "none")
    assert (product - exact).norm() / exact.norm() < 1e-6
    x = torch.rand(250, 100)
    vae = VAE(100, 2, hidden_dims=(90,), dataset_size=250)
    learner = AEVB(vae.model, vae.guide, ADAM, compile="graph")
    for _ in range(3):
        learner.step((x > 0.5).float())
    (entry,) = only(learner)._entries.values()
    targets = [str(n.target) for n in entry.graph.module.graph.nodes]
    assert sum("pyro_aevb.linear" in t for t in targets) == 5  # of the layers between x and 90 units, twice forward
    assert sum("aten.mm" in t or "addmm" in t for t in targets) == 6  # of the layers between 90 units and z
    assert targets.count("aten.tanh.default") == 1  # the encoder's is part of a product


def test_evaluation_on_the_fast_path():
    pair, x = CONTINUOUS["two_level"]()
    for particles, vectorize in ((1, True), (4, True), (2, False)):
        values = [
            elbo(
                pair.model,
                pair.guide,
                x,
                num_particles=particles,
                batch_size=10,
                seed=0,
                vectorize=vectorize,
                compile=c,
            )
            for c in (False, "graph")
        ]
        torch.testing.assert_close(values[1], values[0], rtol=1e-9, atol=1e-9, equal_nan=True)


def test_log_densities_on_the_fast_path():
    from pyro_aevb.model_guide.log_density import capture_log_density

    pair, x = CONTINUOUS["gamma_poisson"]()
    fast = capture_log_density(pair.model, pair.guide, num_particles=5, compile="graph")
    for _ in range(3):
        pyro.set_rng_seed(0)
        density = fast(x)
        pyro.set_rng_seed(0)
        torch.testing.assert_close(density, log_density(pair.model, pair.guide, x, num_particles=5), rtol=1e-9, atol=0)
    assert density.log_weight.shape == (5, N)
    assert fast.obstacle is None


# -- Stock Pyro, GPU ---------------------------------------------------------------------------------------------------


def test_a_stock_optimizer_and_svi_give_the_same_steps():
    results = []
    for fast in (False, True):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            pair, x = bernoulli_vae()
            optim = pyro.optim.Adam({"lr": 0.01})
            if fast:
                learner = AEVB(pair.model, pair.guide, optim, Trace_ELBO(), compile="graph")
                pyro.set_rng_seed(1)
                results.append(torch.stack([learner.step(x[batch(i)]).loss for i in range(20)]).double())
            else:
                svi = SVI(pair.model, pair.guide, optim, Trace_ELBO())
                pyro.set_rng_seed(1)
                results.append(torch.tensor([svi.step(x[batch(i)]) for i in range(20)]).double())
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=0)


def test_a_fully_bayesian_pyro_module():
    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](2, 1).double()
            self.linear.bias = PyroSample(dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))

        def forward(self, x):
            mean = self.linear(x[:, :2]).squeeze(-1)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=x[:, 2])

    def guide(x):
        loc = pyro.param("loc", torch.zeros(1).double())
        pyro.sample("linear.bias", dist.Normal(loc, 0.1).to_event(1))

    def make():
        torch.manual_seed(0)
        return Pair(Regression(), guide), torch.randn(N, 3).double()

    from pairs import Pair

    eager, fast, captures = both(lambda p, **kw: AEVB(p.model, p.guide, ADAM, **kw), make, 20, "graph")
    assert captures[1].obstacle is None
    assert_equal(eager, fast)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("compile", ["graph", True])
def test_on_a_gpu(compile):
    losses = []
    for how in (False, compile):
        torch.manual_seed(0)
        vae = VAE(6, 2, hidden_dims=(50,), dataset_size=N).cuda()
        x = (torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float().cuda()
        learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=0.01, fused=True), compile=how)
        pyro.set_rng_seed(1)
        losses.append(torch.stack([learner.step(x[batch(i).cuda()]).loss.cpu() for i in range(20)]))
        assert only(learner).obstacle is None
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)


def test_a_capture_of_nothing_but_tensors():
    fast = Capture(lambda x: {"twice": 2 * x, "sum": x.sum()}, compile="graph")
    for _ in range(3):
        result = fast(torch.arange(3.0))
    assert result["twice"].tolist() == [0.0, 2.0, 4.0]
    assert result["sum"] == 3.0


def test_compiling_says_nothing_of_a_missing_gpu_and_hides_nothing_else(caplog, monkeypatch):
    """The line is logged while torch's parts are imported; what else is logged there goes through."""
    of_torch = logging.getLogger("torch.utils.cpp_extension")

    def compile(module, inputs, options):
        of_torch.warning("No CUDA runtime is found, using CUDA_HOME='%s'", "/opt/cuda")
        of_torch.warning("another line")
        return module

    monkeypatch.setattr("pyro_aevb.capture.graph.inductor", compile)
    capture = Capture(lambda x: x.square().sum(), compile=True)
    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(of_torch, "propagate", True)
        of_torch.addHandler(caplog.handler)
        try:
            for _ in range(3):
                capture(torch.ones(2))
            compiled = [record.message for record in caplog.records]
            of_torch.warning("No CUDA runtime is found, using CUDA_HOME='%s'", "/opt/cuda")
        finally:
            of_torch.removeHandler(caplog.handler)
    assert "another line" in compiled
    assert not [line for line in compiled if "No CUDA" in line]
    assert "No CUDA" in caplog.records[-1].message
