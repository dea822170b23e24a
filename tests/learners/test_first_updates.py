"""Parameters that nothing trains: they are named, once, and what is left out on purpose is not."""

import functools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_aevb import AEVB, MCEM, DReG, ReweightedWakeSleep, WakeSleep
from pyro_aevb.learners.checks import FIRST_UPDATES

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
X = torch.linspace(-1.0, 1.0, 8)


def model(x):
    loc = pyro.param("loc", torch.tensor(0.0))
    pyro.param("unused in the model", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    scale, shift = pyro.param("scale", torch.tensor(0.0)), pyro.param("shift", torch.tensor(0.0))
    away = pyro.param("detached", torch.tensor(0.0)).detach()
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2 + shift + away, scale.exp()))


BOTH = ["detached", "unused in the model"]
LEARNERS = {
    "aevb": (lambda: AEVB(model, guide, ADAM, compile=False), BOTH),
    "captured": (lambda: AEVB(model, guide, ADAM, compile="graph"), BOTH),
    "dreg": (lambda: AEVB(model, guide, ADAM, DReG(3), compile=False), BOTH),
    "one half": (lambda: AEVB(model, guide, ADAM, update="guide", compile=False), BOTH[:1]),
    "wake-sleep": (lambda: WakeSleep(model, guide, ADAM, ADAM, compile=False), BOTH),
    "reweighted": (lambda: ReweightedWakeSleep(model, guide, ADAM, ADAM, num_particles=2, compile=False), BOTH),
    "mcem": (lambda: MCEM(model, ADAM, guide, ADAM, num_leapfrog=1, num_updates=1, compile=False), BOTH),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_parameters_without_a_gradient_are_named_once(name):
    make, expected = LEARNERS[name]
    learner = make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = []
        for _ in range(FIRST_UPDATES + 5):
            learner.step(X, index=torch.arange(len(X)))
            said.append([str(w.message) for w in caught if "expected a gradient" in str(w.message)])
    texts = said[-1]
    assert "".join(texts).count("unused in the model") == ("unused in the model" in expected)
    assert "".join(texts).count("'detached'") == 1
    assert not any(said[: FIRST_UPDATES - 1]), "too early to tell"
    assert all("'loc'" not in text and "'shift'" not in text for text in texts)


def test_what_is_left_out_on_purpose_is_not_named():
    """As the warning's remedy says."""
    learner = AEVB(model, guide, ADAM, compile=False)
    learner.prepare(X)
    for name in BOTH:
        (learner.theta | learner.phi)[name].unconstrained.requires_grad_(False)
    for _ in range(FIRST_UPDATES + 1):
        learner.step(X)


def test_a_parameter_that_is_used_now_and_then_is_trained():
    steps = []

    def now_and_then(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        rare = pyro.param("rare", torch.tensor(0.0)) if len(steps) == 5 else pyro.param("rare").detach() if steps else 0
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc + rare, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    pyro.param("rare", torch.tensor(0.0))
    learner = AEVB(now_and_then, lambda x: model_free_guide(x), ADAM, compile=False)
    for i in range(FIRST_UPDATES + 1):
        learner.step(X)
        steps.append(i)


def model_free_guide(x):
    shift = pyro.param("shift", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2 + shift, 0.7))


def named(net, **options):
    def its_model(x):
        pyro.module("net", net, **options)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(net(z[..., None])[..., 0], 1.0), obs=x)

    return its_model


def trained(net, **options):
    before = net.weight.detach().clone()
    learner = AEVB(named(net, **options), model_free_guide, ADAM, compile=False)
    learner.step(X)
    return not torch.equal(net.weight, before)


def test_the_second_module_of_a_name_is_refused_and_a_new_name_is_not():
    assert trained(nn.Linear(1, 1))
    second = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"a module of its own for each name .* two for \['net\$\$\$bias"):
        trained(second)
    pyro.clear_param_store()
    assert trained(second)


def test_a_module_that_takes_over_what_the_store_has_is_not_refused():
    assert trained(nn.Linear(1, 1))
    net = nn.Linear(1, 1)
    learner = AEVB(named(net, update_module_params=True), model_free_guide, ADAM, compile=False)
    learner.step(X)
    assert net.weight is pyro.get_param_store().get_state()["params"]["net$$$weight"]


def test_a_model_that_stays_as_it_is_may_have_a_name_twice():
    assert trained(nn.Linear(1, 1))
    AEVB(named(nn.Linear(1, 1)), model_free_guide, ADAM, update="guide", compile=False).step(X)


OF_NOTHING = {
    "AEVB": lambda model, guide: AEVB(model, guide, ADAM, compile=False),
    "WakeSleep": lambda model, guide: WakeSleep(model, guide, ADAM, ADAM, compile=False),
    "ReweightedWakeSleep": lambda model, guide: ReweightedWakeSleep(model, guide, ADAM, ADAM, compile=False),
    "MCEM": lambda model, _: MCEM(model, ADAM, compile=False),
}


@pytest.mark.parametrize("learner", OF_NOTHING)
def test_a_pair_of_which_nothing_gets_a_gradient_is_refused_at_once(learner):
    def its_model(x):
        loc = pyro.param("loc", torch.tensor(0.0)).detach()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z + loc, 1.0), obs=x)

    def its_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    with pytest.raises(ValueError, match=r"some of the parameters \['loc'\], got one for none.* with .detach\(\)"):
        OF_NOTHING[learner](its_model, its_guide).step(X, index=torch.arange(len(X)))
