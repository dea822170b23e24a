"""Means of importance weights in logarithms, their standard errors, and the shape of the weights' tail.

Shapes: N or M datapoints, K weights each.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

SAFE_PARETO_K = 0.7
NORMAL_QUANTILE = 1.959963984540054  # P(|Z| < z) = 0.95
LARGE_DF = 200
ROUNDING = 100  # units in the last place of a log weight, by which equal weights may differ


class LogMeanWeight(NamedTuple):
    """The logarithm of a mean of weights, its standard error and the weights' effective sample size, each (M,)."""

    value: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor


class WeightSums:
    """Sums of weights whose logarithms (K, M) arrive in blocks (k, M); memory does not grow with K.

    Sums are kept in float64, relative to the largest weight so far; the largest weights are kept for :func:`pareto_k`.

    Args:
        num_particles: K, of all blocks together.
    """

    def __init__(self, num_particles: int) -> None:
        self.num_particles = num_particles
        self._tail = tail_length(num_particles) + 1
        self._blocks: list[Tensor] = []
        self._largest: Tensor | None = None
        self._eps = 0.0
        self._sum = self._sum_of_squares = self._shift = torch.tensor(0.0)

    def add(self, log_weight: Tensor) -> None:
        """Add a block (k, M)."""
        self._eps = torch.finfo(log_weight.dtype).eps
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
        """Return the estimate from all blocks, with the delta method's error sd(w) / (sqrt(K) mean(w)).

        Raises ``ValueError`` if the weights of a datapoint are all zero, or one of them is NaN or infinite.
        """
        found = self.estimate()
        check_weights(found.value)
        return found

    def estimate(self) -> LogMeanWeight:
        """Return :meth:`result` unchecked: of weights that are all zero, -inf with errors that are no number."""
        self._reduce()
        k = self.num_particles
        value = self._shift + self._sum.log() - math.log(k)
        ess = self._sum.square() / self._sum_of_squares
        variance = (1 / ess - 1 / k).clamp(min=0.0) * k / (k - 1) if k > 1 else ess * torch.nan
        return LogMeanWeight(value, variance.sqrt(), ess)

    def pareto_k(self) -> Tensor:
        """Return the shape of each datapoint's tail, (M,)."""
        self._reduce()
        assert self._largest is not None
        return pareto_k(self._largest, self.num_particles, self._eps)


def log_mean(log_weight: Tensor) -> WeightSums:
    """Return the sums of one block that holds all K log weights (K, M).

    >>> from pyro_aevb.evidence.importance_weights import log_mean
    >>> log_mean(torch.tensor([[1.0], [3.0]]).log()).result()
    LogMeanWeight(value=tensor([0.6931], ...), standard_error=tensor([0.5000], ...), ...([1.6000], dtype=torch.float64))
    """
    sums = WeightSums(len(log_weight))
    sums.add(log_weight)
    return sums


def widened(standard_error: Tensor, num_weights: int) -> Tensor:
    """Return the error that makes value ± 1.96 errors Student's 95% interval, which allows for few weights.

    An error from K weights is itself uncertain; intervals of 1.96 of them cover less than 95%.  With 16 weights the
    factor is 1.09, with 4 it is 1.62, with 1000 it is 1.001.

    Args:
        standard_error: of the mean of K independent weights, of any shape.
        num_weights: K.

    >>> from pyro_aevb.evidence.importance_weights import widened
    >>> widened(torch.tensor([1.0]), num_weights=16)
    tensor([1.0875])
    """
    return standard_error * (student_quantile(num_weights - 1) / NORMAL_QUANTILE if num_weights > 1 else math.nan)


@functools.cache
def student_quantile(df: int) -> float:
    """Return the t with P(|T| < t) = 0.95 for Student's t distribution with ``df`` degrees of freedom.

    >>> from pyro_aevb.evidence.importance_weights import student_quantile
    >>> round(student_quantile(3), 4)
    3.1824
    """
    if df > LARGE_DF:  # the expansion in 1/df, Abramowitz & Stegun 26.7.5
        z = NORMAL_QUANTILE
        return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_mass(middle, df) < 0.95 else (low, middle)
    return low


def _student_mass(t: float, df: int) -> float:
    """Return P(|T| < t), a finite sum for whole ``df`` (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(df))
    cosine, odd = math.cos(angle), df % 2
    term = cosine if odd else 1.0
    total = term if df > 1 else 0.0
    for k in range(1 + odd, df - 2, 2):
        term *= cosine**2 * k / (k + 1)
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


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


def relied_on(shape: Tensor, num_particles: int, bound: float = SAFE_PARETO_K) -> Tensor:
    """Return whether a fitted tail shape is below ``bound`` by two standard errors, a tensor of bools of any shape.

    The bound is that of Vehtari et al. 2024.  The error is that of the fit to a tail of L weights whose shape is the
    bound, (1 + bound) / sqrt(L) (Smith 1987, *Estimating tails of probability distributions*), so that weights with a
    heavier tail than the bound pass about once in 44 times, P(Z > 2).

    Args:
        shape: of :func:`pareto_k`.
        num_particles: K.
        bound: the shape that the tail must be below of.

    >>> from pyro_aevb.evidence.importance_weights import relied_on
    >>> relied_on(torch.tensor([0.3, 0.4, torch.nan]), num_particles=1000)  # 0.7 - 2 * 1.7 / sqrt(94) = 0.35
    tensor([ True, False, False])
    """
    error = (1 + bound) / math.sqrt(max(1, tail_length(num_particles)))
    return shape + 2 * error <= bound


def pareto_k(largest: Tensor, num_particles: int, eps: float = 2.0**-52) -> Tensor:
    """Return the generalized Pareto shape of the tail of K weights, (M,), as PSIS takes it.

    It is -inf for a datapoint whose largest weights are equal but for rounding, and NaN if K is too small for a tail.
    Fewer than five weights above the rest have no shape: it is +inf if they outweigh the rest of the tail, else -inf.

    Args:
        largest: (at least ``tail_length(K) + 1``, M), the largest log weights in falling order.
        num_particles: K.
        eps: the relative precision that the log weights were computed in.

    >>> from pyro_aevb.evidence.importance_weights import pareto_k
    >>> pareto_k(torch.zeros(95, 1), num_particles=1000)
    tensor([-inf])
    """
    length = tail_length(num_particles)
    if length < 5:
        return largest.new_full(largest.shape[1:], torch.nan)
    tail = largest[: length + 1]
    weight = (tail - tail[0]).exp()
    excess = weight[:-1] - weight[-1]
    equal = tail[0] - tail[-1] <= ROUNDING * eps * tail[0].abs().clamp(min=1.0)
    above = excess > 0
    fits = ~equal & (above.sum(0) >= 5)
    outweighed = ~equal & (torch.where(above, weight[:-1], 0.0).sum(0) > 0.5 * weight.sum(0))
    without = torch.where(outweighed, torch.inf, -torch.inf)
    shapes = [_pareto_fit(excess[above[:, m], m])[0] if fit else without[m].item() for m, fit in enumerate(fits)]
    return largest.new_tensor(shapes)


def smoothed(log_weight: Tensor) -> Tensor:
    """Return log weights (K, M) whose tail is that of a fitted Pareto distribution: the n largest are its quantiles.

    Pareto smoothed importance sampling (Vehtari et al. 2024, Section 3): the order of the weights stays, none becomes
    larger than the largest was, and weights that have no tail to be fitted (:func:`pareto_k`) stay as they are.

    Args:
        log_weight: (K, M), not normalized.

    >>> from pyro_aevb.evidence.importance_weights import smoothed
    >>> log_weight = torch.arange(100.0)[:, None] / 10
    >>> bool((smoothed(log_weight)[:80] == log_weight[:80]).all()), bool(smoothed(log_weight).max() <= 9.9)
    (True, True)
    """
    length, found = tail_length(len(log_weight)), log_weight.clone()
    if length < 5:
        return found
    tail, place = log_weight.topk(length + 1, 0)
    shape = pareto_k(tail.double(), len(log_weight), torch.finfo(log_weight.dtype).eps)
    for m in shape.isfinite().nonzero()[:, 0].tolist():
        weight = (tail[:, m].double() - tail[0, m]).exp()
        above = int((weight[:-1] > weight[-1]).sum())
        k, scale = _pareto_fit(weight[:above] - weight[-1])
        left = torch.arange(0.5, above).to(weight) / above  # above each quantile, the largest first
        excess = scale * (torch.expm1(-k * left.log()) / k if k else -left.log())
        found[place[:above, m], m] = (weight[-1] + excess).log().clamp(max=0.0).to(found) + tail[0, m]
    return found


def _pareto_fit(excess: Tensor) -> tuple[float, float]:
    """Return the shape k and the scale of a generalized Pareto distribution, fitted to excesses (n,) above its end.

    Zhang & Stephens 2009, with the prior of Vehtari et al. 2024; ``pyro.ops.stats.fit_generalized_pareto`` is the same
    fit, but divides by zero if b = k / sigma = 0, an exponential tail, is among the values it tries.
    """
    x = excess.double().sort().values
    n, grid = len(x), 30 + int(math.sqrt(len(x)))
    b = 1.0 - math.sqrt(grid) / (torch.arange(1, grid + 1, dtype=torch.double, device=x.device) - 0.5).sqrt()
    b = b / (3.0 * x[int(n / 4 - 0.5)]) + 1 / x[-1]
    k = torch.log1p(-b.unsqueeze(-1) * x).mean(-1)
    inverse_scale = torch.where(k == 0, 1 / x.mean(), -b / k)  # the limit for b -> 0
    log_likelihood = n * (inverse_scale.log() - (k + 1.0))
    weight = 1.0 / (log_likelihood - log_likelihood.unsqueeze(-1)).exp().sum(-1)
    likely = weight > 1e-30
    weight, b = weight[likely], b[likely]
    weight = weight / weight.sum()
    mean_b = (b * weight).sum()
    shape = torch.log1p(-mean_b * x).mean()
    scale = torch.where(mean_b == 0, x.mean(), -shape / mean_b).item()
    return shape.item() * n / (n + 10.0) + 5.0 / (n + 10.0), scale
