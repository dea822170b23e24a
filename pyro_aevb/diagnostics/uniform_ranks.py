r"""Ranks that should be uniform: their distribution function, bands around it that hold everywhere at once, p-values.

If z is a draw of the same distribution as z_1, ..., z_L, its rank among them is uniform on 0, ..., L.  Of N ranks the
number up to i is binomial with probability (i + 1) / (L + 1); the band has these binomials' quantiles at one level
gamma / 2 on each side, and gamma is such that it holds at all i together as often as asked for, by simulation.

Source: Säilynoja, Bürkner and Vehtari, *Graphical test for discrete uniformity and its applications in goodness of fit
evaluation and multiple sample comparison*, 2022.

Shapes: N ranks, L draws.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NUM_NULL = 2000  # simulated sets of N ranks
SEED = 0


class Band(NamedTuple):
    """The levels (i + 1) / (L + 1), and between what the share of ranks up to i stays, (L,) each, in float64."""

    level: Tensor
    low: Tensor
    high: Tensor


class Compared(NamedTuple):
    """How many draws are below a value, and how many equal to it, of the shape of the value."""

    below: Tensor
    equal: Tensor

    def ranks(self, generator: torch.Generator) -> Tensor:
        """Return the rank of each value, ties broken at random.

        Args:
            generator: for ties.

        >>> from pyro_aevb.diagnostics.uniform_ranks import compared
        >>> compared(torch.tensor([[1.0, 4.0], [2.0, 5.0]]), torch.tensor([1.5, 6.0])).ranks(torch.Generator())
        tensor([1, 2])
        """
        share = torch.rand(self.below.shape, generator=generator, device=generator.device).to(self.below.device)
        return self.below + (share * (self.equal + 1)).long().clamp(max=self.equal)


def compared(draws: Tensor, value: Tensor) -> Compared:
    """Return how draws (L, ...) compare with a value (...)."""
    return Compared((draws < value).sum(0), (draws == value).sum(0))


def distribution_function(rank: Tensor, num_draws: int) -> Tensor:
    """Return the share of ranks up to i, for i = 0, ..., L - 1, (L, ...), in float64.

    Args:
        rank: (N, ...), each between 0 and L.
        num_draws: L.

    >>> from pyro_aevb.diagnostics.uniform_ranks import distribution_function
    >>> distribution_function(torch.tensor([0, 2, 2, 3]), num_draws=3)
    tensor([0.2500, 0.2500, 0.7500], dtype=torch.float64)
    """
    return torch.stack([(rank <= i).double().mean(0) for i in range(num_draws)])


def band(num_ranks: int, num_draws: int, coverage: float = 0.95) -> Band:
    """Return what the distribution function of uniform ranks stays inside of, everywhere at once.

    Args:
        num_ranks: N.
        num_draws: L.
        coverage: the probability with which it does.

    Raises:
        ValueError: for a probability that isn't between 0 and 1.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"expected coverage between 0 and 1, got {coverage}; 0.95 is usual")
    from scipy import stats  # here, since it takes a second to import

    level = np.arange(1, num_draws + 1) / (num_draws + 1)
    gamma = np.quantile(_smallest_tails(num_ranks, num_draws), 1 - coverage)
    low, high = (stats.binom.ppf(q, num_ranks, level) / num_ranks for q in (gamma / 2, 1 - gamma / 2))
    return Band(*map(torch.from_numpy, (level, low, high)))


def p_value(rank: Tensor, num_draws: int) -> Tensor:
    """Return how often uniform ranks leave the binomials' middle as far as these do, at least, (...), in float64.

    Args:
        rank: (N, ...).
        num_draws: L.

    >>> from pyro_aevb.diagnostics.uniform_ranks import p_value
    >>> even, low = torch.arange(100) % 10, torch.arange(100) % 6
    >>> (p_value(torch.stack([even, low], 1), num_draws=9) < 0.01).tolist()
    [False, True]
    """
    flat = rank.reshape(len(rank), -1)
    counts = (distribution_function(flat, num_draws) * len(rank)).round().long().cpu().numpy()  # (L, ...)
    found = _tails(len(rank), num_draws)[np.arange(num_draws)[:, None], counts].min(0)
    null = np.sort(_smallest_tails(len(rank), num_draws))
    as_far = np.searchsorted(null, found * (1 + 1e-9), side="right")
    return torch.from_numpy((1 + as_far) / (1 + len(null))).reshape(rank.shape[1:]).to(rank.device)


@functools.lru_cache(maxsize=8)
def _tails(num_ranks: int, num_draws: int) -> np.ndarray:
    """Return twice the smaller tail of the binomial at each level i and count c, (L, N + 1)."""
    from scipy import stats

    level, count = np.arange(1, num_draws + 1)[:, None] / (num_draws + 1), np.arange(num_ranks + 1)
    up_to = stats.binom.cdf(count, num_ranks, level)
    from_on = stats.binom.sf(count - 1, num_ranks, level)
    return 2 * np.minimum(up_to, from_on)


@functools.lru_cache(maxsize=8)
def _smallest_tails(num_ranks: int, num_draws: int) -> np.ndarray:
    """Return the smallest tail over all levels of each of many simulated sets of N uniform ranks."""
    numbers = np.random.default_rng(SEED).multinomial(num_ranks, [1 / (num_draws + 1)] * (num_draws + 1), NUM_NULL)
    counts = numbers.cumsum(1)[:, :-1]  # (simulations, L)
    return _tails(num_ranks, num_draws)[np.arange(num_draws), counts].min(1)
