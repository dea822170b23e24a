"""Ranks: uniform ones stay in the band as often as it says, p-values are uniform, ties are broken evenly."""

import numpy as np
import pytest
import torch
from statistics_tools import SIGMAS, assert_mean

from pyro_aevb.diagnostics import uniform_ranks

SETS = 2000


def uniform_sets(num_ranks, num_draws):
    return torch.from_numpy(np.random.default_rng(7).integers(0, num_draws + 1, (num_ranks, SETS)))


@pytest.mark.parametrize(("num_ranks", "num_draws"), [(50, 9), (200, 49)])
def test_uniform_ranks_stay_in_the_band_as_often_as_it_says(num_ranks, num_draws):
    rank = uniform_sets(num_ranks, num_draws)
    band = uniform_ranks.band(num_ranks, num_draws, coverage=0.8)
    function = uniform_ranks.distribution_function(rank, num_draws)
    inside = ((function >= band.low[:, None]) & (function <= band.high[:, None])).all(0).double().mean().item()
    error = (0.8 * 0.2 * (1 / SETS + 1 / uniform_ranks.NUM_NULL)) ** 0.5
    assert 0.8 - SIGMAS * error < inside < 0.9  # counts are whole: somewhat more than 0.8
    assert (band.low < band.level).all()
    assert (band.level < band.high).all()


@pytest.mark.parametrize("bound", [0.05, 0.3])
def test_uniform_ranks_have_uniform_p_values(bound):
    p_value = uniform_ranks.p_value(uniform_sets(100, 19), 19)
    error = (bound * (1 - bound) * (1 / SETS + 1 / uniform_ranks.NUM_NULL)) ** 0.5
    assert abs((p_value <= bound).double().mean() - bound) < SIGMAS * error + 0.01


def test_ties_are_broken_evenly():
    """z and its draws are throws of one coin: the rank is uniform on 0, ..., 9."""
    throws = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (10, 20_000)))
    rank = uniform_ranks.compared(throws[1:], throws[0]).ranks(torch.Generator().manual_seed(0))
    counts = torch.nn.functional.one_hot(rank, 10).double()
    assert_mean(counts, 0.1, resolution=0.02)


def test_a_band_without_a_probability_is_refused():
    with pytest.raises(ValueError, match="expected coverage between 0 and 1, got 95"):
        uniform_ranks.band(10, 9, coverage=95)
