"""Optimizers that train one set of weights and keep the means of them for use, as those of schedulefree do."""

import functools
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import bernoulli_vae
from schedulefree import AdamWScheduleFree

from pyro_aevb import AEVB, SGVB, WakeSleep, elbo, fit
from pyro_aevb.learners import SCHEDULE_FREE
from pyro_aevb.learners.optimizer import as_optimizer

FREE = functools.partial(AdamWScheduleFree, lr=0.05, betas=(0.9, 0.999), warmup_steps=3)
ADAM = functools.partial(torch.optim.Adam, lr=0.05)


def weights(pair):
    return torch.cat([p.detach().flatten() for p in pair.parameters()])


@pytest.mark.parametrize("compile", [False, "graph"])
@pytest.mark.parametrize("entry", ["step", "fit"])
def test_steps_are_those_of_its_own_loop_and_leave_the_means_in_place(entry, compile):
    pyro.set_rng_seed(0)
    ours, x = bernoulli_vae()
    noise = torch.get_rng_state()
    learner = AEVB(ours.model, ours.guide, FREE, SGVB(), compile=compile)
    if entry == "step":
        for _ in range(6):
            learner.step(x)
    else:
        fit(learner, x, samples=6 * len(x), batch_size=len(x), progress=False)

    pyro.set_rng_seed(0)
    theirs, x = bernoulli_vae()
    torch.set_rng_state(noise)
    optimizer, objective = FREE(list(theirs.parameters())), SGVB()
    for _ in range(6):
        optimizer.train()
        optimizer.zero_grad()
        objective.loss_and_grads(theirs.model, theirs.guide, x)
        optimizer.step()
        if entry == "step":
            optimizer.eval()
    trained = weights(theirs)
    optimizer.eval()
    assert torch.allclose(weights(ours), weights(theirs), rtol=1e-5, atol=1e-6)
    if entry == "fit":
        assert not torch.allclose(weights(ours), trained, rtol=1e-3, atol=1e-4)


def test_each_evaluation_is_of_the_means_and_so_is_what_is_left():
    pyro.set_rng_seed(0)
    vae, x = bernoulli_vae()
    learner, seen = AEVB(vae.model, vae.guide, FREE), []

    def evaluate():
        (optimizer,) = (each._optimizer for each in learner.optimizers.values())
        seen.append((optimizer.param_groups[0]["train_mode"], weights(vae)))
        return {"own": elbo(vae.model, vae.guide, x, seed=1).mean().value}

    history = fit(learner, x, epochs=3, batch_size=8, progress=False, evaluate=evaluate)
    assert [mode for mode, _ in seen] == [False] * 3
    assert torch.equal(seen[-1][1], weights(vae))
    assert elbo(vae.model, vae.guide, x, seed=1).mean().value == history.records[-1].values["own"]


@pytest.mark.parametrize("ending", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_is_cut_short_leaves_the_means(ending):
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, FREE)
    step, count = learner.step_on, [0]

    def failing(*args):
        count[0] += 1
        if count[0] == 4:
            raise ending
        return step(*args)

    learner.step_on = failing
    try:
        fit(learner, x, epochs=3, batch_size=8, progress=False)
    except RuntimeError:
        assert ending is RuntimeError
    assert [g["train_mode"] for o in learner.optimizers.values() for g in o.param_groups] == [False]


def test_two_phases_have_each_their_means():
    vae, x = bernoulli_vae()
    learner = WakeSleep(vae.model, vae.guide, FREE, FREE)
    learner.step(x)
    assert [o.param_groups[0]["train_mode"] for o in learner.optimizers.values()] == [False, False]
    assert [o.param_groups[0]["k"] for o in learner.optimizers.values()] == [1, 1]


def test_how_far_it_is_is_no_setting():
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, FREE)
    learner.prepare(x)
    before = learner.optimizers["optim"].settings()
    learner.step(x)
    assert learner.optimizers["optim"].settings() == before
    assert before["lr"] == 0.05


def test_an_optimizer_without_modes_has_one_set_of_weights():
    weight = torch.ones(2, requires_grad=True)
    optimizer = as_optimizer(torch.optim.Adam([weight], lr=0.1))
    optimizer.to_train()
    optimizer.to_use()
    assert weight.tolist() == [1.0, 1.0]


def distance(optim):
    """Return how far from the maximum of the likelihood a model ends whose rate stays, root mean square over 50."""
    pyro.set_rng_seed(0)
    x = torch.randn(400, 50) + 1.0
    theta = torch.zeros(50, requires_grad=True)

    def model(x):
        pyro.param("theta", theta)
        with pyro.plate("data", 400, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(theta, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):  # the posterior, whatever theta is
        with pyro.plate("data", 400, subsample_size=len(x)):
            pyro.sample("z", dist.Normal((x + theta.detach()) / 2, 0.5**0.5).to_event(1))

    fit(AEVB(model, guide, optim, SGVB()), x, samples=60_000, batch_size=10, progress=False)
    return (pyro.param("theta") - x.mean(0)).square().mean().sqrt().item()


@pytest.mark.slow
def test_the_means_end_nearer_to_the_maximum_than_a_rate_that_stays():
    """The maximum of sum log N(x; theta, 2) over theta is the mean of x."""
    with pyro.get_param_store().scope():
        adam = distance(ADAM)
    with pyro.get_param_store().scope():
        free = distance(FREE)
    assert adam > 0.05
    assert free < adam / 5


def test_a_stream_without_an_end_is_told_of_them():
    vae, x = bernoulli_vae()
    with pytest.raises(ValueError, match=r"best with optimizers that need none: pyro_aevb.learners.SCHEDULE_FREE"):
        fit(AEVB(vae.model, vae.guide), iter(x.split(10)), progress=False)
    preset = SCHEDULE_FREE["aevb"]
    learner = AEVB(vae.model, vae.guide, preset.factory())
    assert fit(learner, iter(x.split(10)), progress=False).samples == len(x)
    (group,) = learner.optimizers["optim"].param_groups
    assert (group["lr"], group["betas"], group["warmup_steps"]) == (preset.learning_rate, (preset.beta1, 0.999), 1000)


def test_without_the_package_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(ImportError, match=r"expected the package schedulefree .* pip install 'pyro-aevb\[streams\]'"):
        SCHEDULE_FREE["aevb"].factory()
