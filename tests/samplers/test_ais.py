"""Annealed importance sampling without Pyro: unbiased in both directions, whatever the steps."""

import math

import pytest
import torch
from statistics_tools import assert_mean

from pyro_aevb.samplers import ais, hmc

MEANS = torch.tensor([[1.0], [-2.0]]).double()  # of f_1, for two datapoints
LOG_Z = torch.tensor([0.7, -1.5]).double()


def path(z, beta):
    """From N(0, 1) to exp(LOG_Z) N(MEANS, 0.5^2), both normalized in one dimension."""
    start = -0.5 * z.square() - 0.5 * math.log(2 * math.pi)
    end = -2.0 * (z - MEANS).square() - 0.5 * math.log(2 * math.pi / 4) + LOG_Z[:, None]
    gradient = -(1 - beta) * z - beta * 4 * (z - MEANS)
    return ((1 - beta) * start + beta * end)[..., 0], gradient


def prior(num_chains):
    return torch.randn(num_chains, 2, 1).double()


def posterior(num_chains):
    return MEANS + 0.5 * torch.randn(num_chains, 2, 1).double()


def test_weights_are_unbiased_in_both_directions():
    schedule = ais.sigmoid_schedule(30)
    sizes = ais.tune(path, schedule, prior(100), 3).step_sizes
    assert sizes.shape == (29, 2)
    forward = ais.anneal(path, schedule, prior(10_000), sizes, 3)
    assert_mean((forward - LOG_Z).exp(), 1.0, resolution=0.2)
    backward = ais.anneal(path, schedule.flip(0), posterior(10_000), sizes.flip(0), 3)
    assert_mean((backward + LOG_Z).exp(), 1.0, resolution=0.2)


def test_bad_step_sizes_cost_precision_and_not_unbiasedness():
    schedule = ais.sigmoid_schedule(30)
    for size in (0.01, 3.0):
        forward = ais.anneal(path, schedule, prior(40_000), torch.full((29, 2), size).double(), 3)
        assert_mean((forward - LOG_Z).exp(), 1.0, resolution=0.5)


def test_one_step_is_importance_sampling_from_the_start():
    z = prior(1000)
    log_weight = ais.anneal(path, ais.sigmoid_schedule(1), z, torch.zeros(0, 2), 3)
    one, zero = torch.tensor(1.0).double(), torch.tensor(0.0).double()
    torch.testing.assert_close(log_weight, path(z, one)[0] - path(z, zero)[0])


def test_more_temperatures_bring_both_bounds_together():
    gaps = []
    for num_temperatures in (3, 30, 300):
        schedule = ais.sigmoid_schedule(num_temperatures)
        sizes = ais.tune(path, schedule, prior(200), 3).step_sizes
        forward = ais.anneal(path, schedule, prior(2000), sizes, 3).mean(0)
        backward = -ais.anneal(path, schedule.flip(0), posterior(2000), sizes.flip(0), 3).mean(0)
        assert (forward < LOG_Z + 0.02).all()  # Jensen: each chain's log weight is low in expectation
        assert (backward > LOG_Z - 0.02).all()
        gaps.append((backward - forward).mean().item())
    assert gaps[0] > 5 * gaps[1] > 15 * gaps[2]


def test_step_sizes_are_tuned_to_the_acceptance_asked_for():
    schedule = ais.sigmoid_schedule(200)
    for wanted in (0.65, 0.9):
        tuned = ais.tune(path, schedule, prior(500), 5, target_acceptance=wanted)
        target = lambda z: path(z, schedule[100])  # noqa: E731
        state = hmc.init(target, tuned.position * 0 + MEANS * 0.5)
        for _ in range(20):
            state, info = hmc.transition(target, state, hmc.jittered(tuned.step_sizes[99], state), 5)
        assert (info.acceptance.mean(0) - wanted).abs().max() < 0.1
    assert (tuned.log_weight.logsumexp(0) - math.log(500) - LOG_Z).abs().max() < 0.5


def test_a_chain_that_met_zero_density_has_weight_zero():
    def half(z, beta):  # from N(0, 1) to its positive half
        value, gradient = path(z, torch.zeros(()).double())
        return torch.where((beta > 0) & (z[..., 0] < 0), -torch.inf, value), gradient

    schedule = torch.linspace(0, 1, 4).double()
    log_weight = ais.anneal(half, schedule, prior(2000), torch.full((2, 2), 0.3).double(), 2)
    assert (log_weight[log_weight != -torch.inf] == 0).all()
    assert_mean(log_weight.exp(), 0.5, resolution=0.2)


def test_schedules():
    beta = ais.sigmoid_schedule(100)
    assert len(beta) == 101
    assert beta[0] == 0
    assert beta[-1] == 1
    assert (beta.diff() > 0).all()
    for bad in ([0.0, 0.5], [0.1, 1.0], [0.0, 0.6, 0.5, 1.0], [1.0]):
        with pytest.raises(ValueError, match="rises from 0 to 1"):
            ais.check_schedule(torch.tensor(bad))
