"""What an estimate of log p(x) is made of: values, errors, a direction, and how far the weights behind them go.

Shapes: N or M datapoints, K weights each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

SAFE_PARETO_K = 0.7
"""``evaluate(tick, *minibatch)``; ``tick(part)`` is called with the fraction of the work that was done since."""


class LogMeanWeight(NamedTuple):
    """The logarithm of a mean of weights, its standard error and the weights' effective sample size, each (M,)."""

    value: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor


class WeightSums:
    """Sums over log weights (K, M) that arrive a block (k, M) at a time; memory does not grow with K.

    Sums are kept in float64 relative to the largest weight so far.  ``tail`` largest weights are kept for
    :func:`pareto_k`.
    """

    def __init__(self, num_particles: int) -> None:
        self.num_particles = num_particles
        self._tail = tail_length(num_particles) + 1
        self._blocks: list[Tensor] = []
        self._largest: Tensor | None = None
        self._sum = self._sum_of_squares = self._shift = torch.tensor(0.0)

    def add(self, log_weight: Tensor) -> None:
        """Take in a block (k, M)."""
        self._blocks.append(log_weight)
        if sum(map(len, self._blocks)) >= 4 * self._tail:  # to look for the largest each time would cost more
            self._reduce()

    def _reduce(self) -> None:
        if not self._blocks:
            return
        block = torch.cat(self._blocks).double()
        self._blocks = []
        shift = block.max(0).values
        if self._largest is None:
            self._shift = torch.full_like(shift, -torch.inf)
            self._sum, self._sum_of_squares = torch.zeros_like(shift), torch.zeros_like(shift)
            self._largest = block[:0]
        shift = torch.maximum(shift, self._shift)
        reference = torch.where(shift == -torch.inf, 0.0, shift)  # all weights zero so far
        rescale, weight = (self._shift - reference).exp(), (block - reference).exp()
        self._sum = self._sum * rescale + weight.sum(0)
        self._sum_of_squares = self._sum_of_squares * rescale**2 + weight.square().sum(0)
        self._shift = shift
        kept = torch.cat([self._largest, block])
        self._largest = kept.topk(min(self._tail, len(kept)), 0).values

    def result(self) -> LogMeanWeight:
        """Return the estimate from all blocks.

        The error is the delta method's: sd(w) / (sqrt(K) mean(w)).  Raises ``ValueError`` where a datapoint's weights
        are all zero, or one of them isn't a number.
        """
        self._reduce()
        k = self.num_particles
        value = self._shift + self._sum.log() - math.log(k)
        check_weights(value)
        ess = self._sum.square() / self._sum_of_squares
        variance = (1 / ess - 1 / k).clamp(min=0.0) * k / (k - 1) if k > 1 else ess * torch.nan
        return LogMeanWeight(value, variance.sqrt(), ess)

    def pareto_k(self) -> Tensor:
        """Return the shape of each datapoint's tail, (M,)."""
        self._reduce()
        assert self._largest is not None
        return pareto_k(self._largest, self.num_particles)


def log_mean(log_weight: Tensor) -> WeightSums:
    """Return the sums over log weights (K, M) that are all there.

    >>> from pyro_aevb.evidence.importance_weights import log_mean
    >>> log_mean(torch.tensor([[1.0], [3.0]]).log()).result()
    LogMeanWeight(value=tensor([0.6931], ...), standard_error=tensor([0.5000], ...), ...([1.6000], dtype=torch.float64))
    """
    sums = WeightSums(len(log_weight))
    sums.add(log_weight)
    return sums


def check_weights(value: Tensor) -> None:
    """Raise ``ValueError`` unless the log mean weight of every datapoint is a finite number."""
    bad = (~value.isfinite()).nonzero()[:, 0].tolist()
    if bad:
        got = "all -inf" if value[bad[0]] == -torch.inf else "NaN or infinite"
        raise ValueError(
            f"expected finite log weights, got {got} for {len(bad)} datapoints of a minibatch, the first at {bad[0]}; "
            "see that p(x, z) > 0 where the guide draws, widen the guide, or anneal from the prior: method='ais'"
        )


def tail_length(num_particles: int) -> int:
    """Return how many of K weights are the tail: min(K/5, 3 sqrt(K)) (Vehtari et al. 2024, Section 3.2)."""
    return int(min(num_particles / 5, 3 * num_particles**0.5))


def pareto_k(largest: Tensor, num_particles: int) -> Tensor:
    """Return the generalized Pareto shape of the tail of K weights, (M,), as PSIS takes it.

    Args:
        largest: (at least ``tail_length(K) + 1``, M), the largest log weights in falling order.
        num_particles: K.
    """
    length = tail_length(num_particles)
    if length < 5:
        return largest.new_full(largest.shape[1:], torch.nan)
    weight = (largest[: length + 1] - largest[0]).exp()
    excess = weight[:-1] - weight[-1]
    fitted = [fit_generalized_pareto(e[e > 0])[0] if (e > 0).sum() >= 5 else -torch.inf for e in excess.T]
    return largest.new_tensor(fitted)
