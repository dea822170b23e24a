r"""Annealed sequential Monte Carlo: AIS's path, with particles resampled where their weights have become uneven.

Particles move along f_0, ..., f_T as in :mod:`pyro_aevb.samplers.ais`.  Between two resamplings each gathers a weight
w; at each of these, and at the end, the mean weight of the N particles is kept, and

.. math:: \hat Z = \prod_s \frac{1}{N} \sum_{n=1}^{N} w_{s,n}

has E[Z] = int f_1, whatever the temperatures and step sizes are, if they were chosen before the particles were drawn.

Source: Del Moral, Doucet and Jasra, *Sequential Monte Carlo samplers*, 2006, Sections 3.2 and 3.5.

Shapes: R replicates of N particles, K = R N in all; M datapoints, J dimensions, T steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_aevb.samplers import ais, hmc
from pyro_aevb.samplers.ais import Path, Tick

SMALLEST_PART = 0.1  # of a ladder's steps that follow the pilot's schedule, whatever the pilot has seen


class Ladder(NamedTuple):
    """Each datapoint's temperatures, ``schedule`` (T+1, M), rising from 0 to 1, and ``step_sizes`` (T-1, M)."""

    schedule: Tensor
    step_sizes: Tensor


def pilot(
    path: Path,
    schedule: Tensor,
    position: Tensor,
    num_temperatures: int,
    num_leapfrog: int,
    *,
    target_acceptance: float = 0.65,
    tick: Tick = lambda part: None,
) -> Ladder:
    """Anneal once, and lay each datapoint's temperatures so that log weights spread evenly over the steps.

    The spread, the standard deviation of a step's log weights over chains, is cumulated along ``schedule``; the ladder
    divides the sum into T equal parts.  A datapoint's ladder comes from its own chains alone.

    Args:
        path: log f_beta and its gradient; beta 0-dim.
        schedule: (S+1,), the pilot's own, from 0 to 1.
        position: (K, M, J), draws of f_0.
        num_temperatures: T.
        num_leapfrog: leapfrog steps a transition.
        target_acceptance: the acceptance probability to tune step sizes to.
        tick: called after each temperature with the fraction of the work that it was.

    >>> from pyro_aevb.samplers import smc
    >>> from pyro_aevb.samplers.ais import sigmoid_schedule
    >>> def path(z, beta):  # from N(0, 1) to 5 N(3, 1): log weights that vary alike all the way
    ...     return -0.5 * ((z - 3 * beta[..., None]) ** 2).sum(-1) - 0.9189 + beta * 1.6094, 3 * beta[..., None] - z
    >>> ladder = smc.pilot(path, sigmoid_schedule(50), torch.randn(500, 1, 1), num_temperatures=4, num_leapfrog=3)
    >>> bool((ladder.schedule[:, 0] - torch.linspace(0, 1, 5)).abs().max() < 0.05)
    True
    """
    tuned = ais.tune(path, schedule, position, num_leapfrog, target_acceptance=target_acceptance, tick=tick)
    spread = tuned.spread.nan_to_num(nan=0.0, posinf=0.0)  # steps on which a chain met zero density
    steps = len(spread)
    share = spread / spread.sum(0).clamp(min=torch.finfo(spread.dtype).tiny)
    share = (1 - SMALLEST_PART) * share + SMALLEST_PART / steps
    work = torch.cat([torch.zeros_like(share[:1]), share.cumsum(0)])
    work = work / work[-1]  # without any spread, every step is the same
    place = torch.linspace(0, 1, num_temperatures + 1).to(work)[:, None].expand(-1, work.shape[1])
    own = schedule.to(work)[:, None].expand(-1, work.shape[1])
    ladder = _interpolated(place, work, own)
    ladder[0], ladder[-1] = 0.0, 1.0
    if num_temperatures == 1:
        return Ladder(ladder, work[:0])
    sizes = torch.cat([tuned.step_sizes[:1], tuned.step_sizes, tuned.step_sizes[-1:]])  # one for each of S+1 betas
    return Ladder(ladder, _interpolated(place[1:-1], work, sizes.log()).exp())


def _interpolated(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Return at ``x`` (X, M), column by column, the polygon through (knots, values), each (S+1, M), knots rising."""
    right = torch.searchsorted(knots.T.contiguous(), x.T.contiguous()).T.clamp(1, len(knots) - 1)
    low, high = knots.gather(0, right - 1), knots.gather(0, right)
    part = ((x - low) / (high - low)).clamp(0.0, 1.0)
    return values.gather(0, right - 1).lerp(values.gather(0, right), part)


def run(
    path: Path,
    ladder: Ladder,
    position: Tensor,
    num_replicates: int,
    num_leapfrog: int,
    *,
    tick: Tick = lambda part: None,
) -> Tensor:
    """Return log Z (R, M) of R independent replicates, each exp of it with mean int f_1.

    A replicate resamples, systematically, where its effective sample size is below half of its particles.

    Args:
        path: log f_beta and its gradient; beta (M,).
        ladder: temperatures and step sizes, chosen beforehand.
        position: (R N, M, J), draws of f_0, the replicates one after the other.
        num_replicates: R.
        num_leapfrog: leapfrog steps a transition.
        tick: called after each temperature with the fraction of the work that it was.

    >>> from pyro_aevb.samplers import smc
    >>> from pyro_aevb.samplers.ais import sigmoid_schedule
    >>> def path(z, beta):  # from N(0, 1) to 5 N(3, 1)
    ...     return -0.5 * ((z - 3 * beta[..., None]) ** 2).sum(-1) - 0.9189 + beta * 1.6094, 3 * beta[..., None] - z
    >>> ladder = smc.pilot(path, sigmoid_schedule(50), torch.randn(50, 1, 1), num_temperatures=10, num_leapfrog=3)
    >>> log_z = smc.run(path, ladder, torch.randn(400, 1, 1), num_replicates=20, num_leapfrog=3)
    >>> bool((log_z.exp().mean() / 5 - 1).abs() < 0.2)
    True
    """
    schedule, step_sizes = ladder
    state = hmc.init(_at(path, schedule[0]), position)
    shape = (num_replicates, len(position) // num_replicates, position.shape[1])
    log_z, log_weight = position.new_zeros(shape[0], shape[2]), torch.zeros_like(state.log_prob)
    steps = len(schedule) - 1
    for t in range(1, steps + 1):
        target = _at(path, schedule[t])
        state, log_weight = ais.cooled(target, state, log_weight)
        if t < steps:
            state, log_weight, log_z = resampled(state, log_weight, log_z)
            state, _ = hmc.transition(target, state, hmc.jittered(step_sizes[t - 1], state), num_leapfrog)
        tick(1 / steps)
    return log_z + log_weight.reshape(shape).logsumexp(1) - math.log(shape[1])


def resampled(state: hmc.HMCState, log_weight: Tensor, log_z: Tensor) -> tuple[hmc.HMCState, Tensor, Tensor]:
    """Return the particles, resampled where their weights are uneven, what is left of the weights, and log Z so far.

    Args:
        state: the particles, (R N, M).
        log_weight: theirs since they were last resampled, (R N, M).
        log_z: the replicates' log Z before, (R, M).

    >>> from pyro_aevb.samplers import hmc, smc
    >>> state = hmc.HMCState(torch.tensor([[[1.0]], [[2.0]]]), torch.zeros(2, 1), torch.zeros(2, 1, 1))
    >>> log_weight = torch.tensor([[0.0], [-torch.inf]])
    >>> resampled, log_weight, log_z = smc.resampled(state, log_weight, torch.zeros(1, 1))
    >>> resampled.position.flatten().tolist(), log_weight.flatten().tolist(), round(log_z.item(), 4)
    ([1.0, 2.0], [0.0, -inf], 0.0)
    """
    num_replicates, num_data = log_z.shape
    by_replicate = log_weight.reshape(num_replicates, -1, num_data)
    size = by_replicate.shape[1]
    total = by_replicate.logsumexp(1)
    ess = (2 * total - (2 * by_replicate).logsumexp(1)).exp()
    uneven = ess < size / 2  # not where all weights are zero: the ratio is no number there
    chosen = systematic(by_replicate.movedim(1, 0)).movedim(0, 1)  # (R, N, M), among the replicate's own
    own = torch.arange(size, device=chosen.device)[:, None]
    first = torch.arange(num_replicates, device=chosen.device)[:, None, None] * size
    index = (torch.where(uneven[:, None], chosen, own) + first).reshape(log_weight.shape)
    state = hmc.HMCState(
        state.position.gather(0, index[..., None].expand_as(state.position)),
        state.log_prob.gather(0, index),
        state.grad.gather(0, index[..., None].expand_as(state.grad)),
    )
    log_z = log_z + torch.where(uneven, total - math.log(size), 0.0)
    return state, torch.where(uneven[:, None], 0.0, by_replicate).reshape(log_weight.shape), log_z


def systematic(log_weight: Tensor) -> Tensor:
    """Return indices of N particles, drawn systematically, in proportion to their weights; like stands by like.

    Particle n is drawn floor(N w_n) or ceil(N w_n) times, w_n its share of the weights, and N w_n times in expectation.

    Args:
        log_weight: (N, ...), one of them at least finite in each column.

    >>> from pyro_aevb.samplers import smc
    >>> smc.systematic(torch.tensor([0.5, 0.0, 0.25, 0.25]).log())
    tensor([0, 0, 2, 3])
    """
    num_particles = len(log_weight)
    cumulative = log_weight.softmax(0).cumsum(0).movedim(0, -1).contiguous()
    start = torch.arange(num_particles).to(log_weight).expand(cumulative.shape)
    place = (start + torch.rand_like(log_weight[0])[..., None]) / num_particles
    chosen = torch.searchsorted(cumulative, place.contiguous()).clamp(max=num_particles - 1)  # a sum may round below 1
    return chosen.movedim(-1, 0)


def _at(path: Path, beta: Tensor) -> hmc.Target:
    return lambda position: path(position, beta)
