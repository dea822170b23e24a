"""Annealed sequential Monte Carlo without Pyro: ladders, resampling, and that replicates are unbiased."""

import math

import torch
from statistics_tools import SIGMAS, assert_mean

from pyro_aevb.samplers import ais, smc

MEANS = torch.tensor([[1.0], [-3.0]]).double()
LOG_Z = torch.tensor([0.7, -1.5]).double()


def path(z, beta):
    """From N(0, 1) to exp(LOG_Z) N(MEANS, 1), both normalized: log weights that vary alike all the way."""
    beta = beta[..., None]
    log_f = -0.5 * (z - beta * MEANS).square() - 0.5 * math.log(2 * math.pi) + beta * LOG_Z[:, None]
    return log_f[..., 0], beta * MEANS - z


def prior(num_chains):
    return torch.randn(num_chains, 2, 1).double()


def test_the_ladder_divides_the_spread_of_log_weights_evenly():
    """Between N(0, 1) and N(mean, 1) a step of beta spreads log w by |mean| times it: equal steps."""
    ladder = smc.pilot(path, ais.sigmoid_schedule(60), prior(1000), num_temperatures=5, num_leapfrog=3)
    even = torch.linspace(0, 1, 6).double()[:, None].expand(-1, 2)
    torch.testing.assert_close(ladder.schedule, even, rtol=0, atol=0.04)
    assert ladder.step_sizes.shape == (4, 2)
    at = ais.anneal(path, torch.linspace(0, 1, 6).double(), prior(2000), ladder.step_sizes, 3)
    assert_mean((at - LOG_Z).exp(), 1.0, resolution=0.8)


def test_a_ladder_of_one_step_and_of_no_spread():
    one = smc.pilot(path, ais.sigmoid_schedule(10), prior(20), num_temperatures=1, num_leapfrog=3)
    assert one.schedule.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert one.step_sizes.shape == (0, 2)

    def still(z, beta):
        return (-0.5 * z.square())[..., 0], -z

    schedule = ais.sigmoid_schedule(10)
    ladder = smc.pilot(still, schedule, prior(20), num_temperatures=10, num_leapfrog=3)
    torch.testing.assert_close(ladder.schedule, schedule[:, None].expand(-1, 2))


def test_a_ladder_is_its_datapoint_s_alone():
    ladder = smc.pilot(path, ais.sigmoid_schedule(20), prior(50), num_temperatures=5, num_leapfrog=3)
    assert not torch.equal(ladder.schedule[:, 0], ladder.schedule[:, 1])
    assert (ladder.schedule.diff(dim=0) > 0).all()


def test_replicates_are_unbiased_whatever_the_ladder():
    even = torch.linspace(0, 1, 4).double()[:, None].expand(-1, 2)
    for size in (0.1, 1.0):
        ladder = smc.Ladder(even, torch.full((2, 2), size).double())
        log_z = smc.run(path, ladder, prior(4000 * 10), 4000, 2)
        assert log_z.shape == (4000, 2)
        assert_mean((log_z - LOG_Z).exp(), 1.0, resolution=0.6)


def test_systematic_draws_are_in_proportion():
    weight = torch.tensor([0.05, 0.25, 0.6, 0.1]).double()
    chosen = smc.systematic(weight.log()[:, None].expand(-1, 10_000))
    counts = torch.stack([(chosen == n).sum(0) for n in range(4)]).double()
    assert (counts >= (4 * weight).floor()[:, None]).all()
    assert (counts <= (4 * weight).ceil()[:, None]).all()
    assert_mean(counts.T, 4 * weight, resolution=0.1)


def test_resampling_makes_uneven_weights_even():
    """Ten particles, one with all the weight: it is everywhere, and the mean weight is kept."""
    state = smc.hmc.HMCState(torch.arange(10.0).double()[:, None, None], *(torch.zeros(10, 1).double(),) * 2)
    state = state._replace(grad=torch.zeros(10, 1, 1).double(), log_prob=torch.arange(10.0).double()[:, None])
    log_weight = torch.full((10, 1), -torch.inf).double()
    log_weight[7] = 1.0
    moved, left, log_z = smc.resampled(state, log_weight, torch.zeros(1, 1).double())
    assert (moved.position == 7).all()
    assert (moved.log_prob == 7).all()
    assert (left == 0).all()
    assert log_z.item() == 1.0 - math.log(10)
    even = torch.zeros(10, 1).double()
    stayed, left, log_z = smc.resampled(state, even, torch.zeros(1, 1).double())
    assert torch.equal(stayed.position, state.position)
    assert log_z.item() == 0.0


def test_a_replicate_without_any_weight_estimates_zero():
    def nowhere(z, beta):
        log_f, gradient = path(z, beta)
        return torch.where(beta > 0, -torch.inf, log_f), gradient

    even = torch.linspace(0, 1, 4).double()[:, None].expand(-1, 2)
    log_z = smc.run(nowhere, smc.Ladder(even, torch.full((2, 2), 0.5).double()), prior(40), 4, 2)
    assert (log_z == -torch.inf).all()


def test_more_replicates_are_as_many_estimates():
    """The variance of log Z of a replicate falls with its particles, that of their mean with their number."""
    even = torch.linspace(0, 1, 6).double()[:, None].expand(-1, 2)
    ladder = smc.Ladder(even, torch.full((4, 2), 1.0).double())
    few, many = (smc.run(path, ladder, prior(500 * n), 500, 2).exp().std(0) for n in (10, 40))
    assert ((few / many - 2.0).abs() < 2.0 * SIGMAS * 2 / 500**0.5).all()
