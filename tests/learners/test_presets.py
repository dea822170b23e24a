"""Tuned settings, taken where no optimizer is given, and the schedules that belong to them."""

import functools
import math

import pytest
import torch

from pyro_aevb import AEVB, MCEM, VAE, ReweightedWakeSleep, WakeSleep, fit
from pyro_aevb.learners import PAPER, PRESETS, Schedule

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
N = 40
MAKE = {
    "aevb": lambda vae: AEVB(vae.model, vae.guide),
    "wake-sleep": lambda vae: WakeSleep(vae.model, vae.guide),
    "reweighted-wake-sleep": lambda vae: ReweightedWakeSleep(vae.model, vae.guide),
    "mcem": lambda vae: MCEM(vae.model, guide=vae.guide),
}


@pytest.fixture
def vae():
    return VAE(6, 2, hidden_dims=(3,), dataset_size=N)


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((N, 6), 0.5))


def factors(learner, x, **options):
    """Return the learning-rate factor of each of four steps."""
    seen, step = [], learner.step_on
    learner.step_on = lambda batch, settings: seen.append(settings.learning_rate_factor) or step(batch, settings)
    fit(learner, x, epochs=1, batch_size=N // 4, progress=False, **options)
    return seen


@pytest.mark.parametrize("name", MAKE)
def test_a_learner_without_optimizers_has_those_of_its_preset(name, vae, x):
    preset, learner = PRESETS[name], MAKE[name](vae)
    fit(learner, x, samples=N, batch_size=N, progress=False)
    for role, optimizer in learner.optimizers.items():
        (group,) = optimizer.param_groups
        expected = preset.guide_learning_rate if "guide" in role else None
        assert group["lr"] == (expected or preset.learning_rate)
        assert group["betas"] == (preset.beta1, 0.999)


def test_there_is_a_preset_for_each_learner():
    assert set(PRESETS) == set(PAPER) == set(MAKE)


@pytest.mark.parametrize("name", MAKE)
def test_the_presets_schedule_is_fits_unless_told_otherwise(name, x):
    made = [MAKE[name](VAE(6, 2, hidden_dims=(3,), dataset_size=N)) for _ in range(3)]
    schedule = PRESETS[name].schedule
    assert factors(made[0], x) == [schedule(quarter / 4) for quarter in range(4)]
    assert factors(made[1], x, schedule="constant") == [1.0] * 4
    assert factors(made[2], x, schedule="linear") == [1.0, 0.75, 0.5, 0.25]


def test_an_optimizer_of_ones_own_has_no_schedule(vae, x):
    assert AEVB(vae.model, vae.guide, ADAM).schedule is None
    assert factors(AEVB(vae.model, vae.guide, ADAM), x) == [1.0] * 4


def test_one_tuned_optimizer_beside_ones_own_is_refused(vae):
    with pytest.raises(ValueError, match="expected model_optim and guide_optim, or neither, got model_optim alone"):
        WakeSleep(vae.model, vae.guide, ADAM)
    with pytest.raises(ValueError, match="or neither, got guide_optim alone; pass both, or leave both out for PRESETS"):
        ReweightedWakeSleep(vae.model, vae.guide, guide_optim=ADAM)
    WakeSleep(vae.model, vae.guide, ADAM, PRESETS["wake-sleep"].factory(guide=True))  # which is what it says


def test_a_stream_without_a_length_is_told_of_the_schedule(vae, x):
    with pytest.raises(ValueError, match="pass samples, dataset_size or schedule='constant'"):
        fit(AEVB(vae.model, vae.guide), iter(x.split(10)), progress=False)
    for remedy in ({"samples": N}, {"dataset_size": N}, {"schedule": "constant"}):
        assert fit(AEVB(vae.model, vae.guide), iter(x.split(10)), progress=False, **remedy).samples == N


def test_a_schedule_is_what_it_says():
    assert [Schedule("linear", 0.5)(done) for done in (0.25, 0.5, 0.75)] == [0.505, 1.0, 0.5]
    assert [Schedule()(done) for done in (0.0, 0.9)] == [1.0, 1.0]
    assert Schedule("cosine")(0.25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert Schedule("cosine", 0.1)(0.0) == 0.01


def test_other_schedules_are_refused_before_training(vae, x):
    learner = AEVB(vae.model, vae.guide, ADAM)
    with pytest.raises(ValueError, match="expected a schedule out of constant, linear, cosine, got 'step'"):
        fit(learner, x, epochs=1, schedule="step")
    assert not learner.theta
    for wrong in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"expected warm_up, a fraction of the run, in \[0, 1\)"):
            Schedule("linear", wrong)
