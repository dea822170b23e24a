"""What HMC and AIS report, held to closed forms on Gaussians."""

import math

import torch
from hmc_acceptance import acceptance, jittered_acceptance
from statistics_tools import assert_mean

from pyro_aevb.samplers import ais, hmc

UNIT = hmc.differentiable(lambda z: -0.5 * z.square().sum(-1))


def unit(*shape):
    return torch.randn(*shape).double()


def test_acceptance_on_a_gaussian_is_known():
    """Both fields: the mean probability of acceptance, and how many were."""
    for size in (0.8, 1.2, 1.7):
        state = hmc.init(UNIT, unit(50_000, 1))
        _, info = hmc.transition(UNIT, state, size, num_leapfrog=1)
        assert info.accepted.dtype == torch.bool
        assert_mean(info.acceptance, acceptance(size), resolution=0.01)
        assert_mean(info.accepted.double(), acceptance(size), resolution=0.02)


def test_a_state_is_a_place_its_density_and_its_gradient():
    """Also after a transition, where some moved and some stayed; the rejected are where they were."""
    start = hmc.init(UNIT, unit(20_000, 2))
    state, info = hmc.transition(UNIT, start, 1.5, num_leapfrog=2)
    for at in (start, state):
        torch.testing.assert_close(at.log_prob, -0.5 * at.position.square().sum(-1))
        torch.testing.assert_close(at.grad, -at.position)
    moved = (state.position != start.position).any(-1)
    assert torch.equal(moved, info.accepted)
    assert 0.2 < info.accepted.double().mean() < 0.99
    assert_mean(state.position, 0.0, resolution=0.1)
    assert_mean(state.position.square(), 1.0, resolution=0.1)


def test_tuned_step_sizes_have_the_acceptance_asked_for():
    """At every temperature N(0, 1): the step whose acceptance is 0.8 is known, and positions stay draws from it."""
    num_data, last = 200, 20
    tuned = ais.tune(lambda z, beta: UNIT(z), ais.sigmoid_schedule(61), unit(50, num_data, 1), 1, target_acceptance=0.8)
    assert tuned.step_sizes.shape == (60, num_data)
    found = torch.tensor([jittered_acceptance(size) for size in tuned.step_sizes[-last:].mean(0).tolist()]).double()
    assert_mean(found, 0.8, resolution=0.02)
    assert_mean(tuned.position.flatten(), 0.0, resolution=0.1)
    assert_mean(tuned.position.square().flatten(), 1.0, resolution=0.1)
    assert tuned.position.shape == (50, num_data, 1)


def test_tuned_log_weights_are_the_changes_of_the_density():
    """From N(0, 1) to 5 times itself: log w = log 5 whatever the chains do; in one step, the ratio where it began."""

    def larger(z, beta):
        log_prob, grad = UNIT(z)
        return log_prob + beta * math.log(5.0), grad

    tuned = ais.tune(larger, ais.sigmoid_schedule(10), unit(20, 3, 1), 2)
    torch.testing.assert_close(tuned.log_weight, torch.full((20, 3), math.log(5.0)).double())

    def moved(z, beta):
        return -0.5 * (z - beta).square().sum(-1), beta - z

    z = unit(20, 3, 1)
    tuned = ais.tune(moved, ais.sigmoid_schedule(1), z, 2)
    torch.testing.assert_close(tuned.log_weight, z[..., 0] - 0.5)
    assert torch.equal(tuned.position, z)


def test_the_spread_of_a_step_is_that_of_its_log_weights():
    """log w = b z + const between N(a, 1) and N(a + b, 1), whose spread is b; small b, or chains lag behind."""

    def moved(z, beta):
        return -0.5 * (z - 0.1 * beta).square().sum(-1), 0.1 * beta - z

    schedule = ais.sigmoid_schedule(5)
    tuned = ais.tune(moved, schedule, unit(20_000, 2, 1), 2)
    torch.testing.assert_close(tuned.spread, 0.1 * schedule.diff()[:, None].expand(5, 2), rtol=0.03, atol=0)
