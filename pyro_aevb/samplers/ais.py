r"""Annealed importance sampling, forwards and backwards, batched over chains and datapoints.

It knows nothing of Pyro.  A path is a function from positions (K, M, J) and beta, a 0-dim tensor, to log f_beta (K, M)
and its gradient (K, M, J): f_0 is normalized and can be drawn from, f_1 is the target.  With HMC transitions T_t that
leave f_t invariant,

.. math:: \log w = \sum_{t=1}^{T} \log f_{\beta_t}(z_{t-1}) - \log f_{\beta_{t-1}}(z_{t-1}),
          \qquad z_t \sim T_t(\cdot | z_{t-1}), \quad z_0 \sim f_0

has E[w] = int f_1.  Run from an exact draw of f_1 down to f_0, it has E[w] = 1 / int f_1.

Source: Neal, *Annealed importance sampling*, 2001; both directions: Grosse, Ghahramani and Adams, *Sandwiching the
marginal likelihood using bidirectional Monte Carlo*, 2015.

Shapes: K chains, M datapoints, J dimensions, T steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_aevb.samplers import hmc

Path = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Tick = Callable[[float], None]


def sigmoid_schedule(num_temperatures: int, sharpness: float = 4.0) -> Tensor:
    """Return beta_0 = 0, ..., beta_T = 1 along a sigmoid, T+1 of them: slow at both ends (Wu et al. 2017, Section 3.1).

    Args:
        num_temperatures: T, 1 or more.
        sharpness: the sigmoid is taken from minus this to this.

    >>> from pyro_aevb.samplers.ais import sigmoid_schedule
    >>> [round(b, 3) for b in sigmoid_schedule(4).tolist()]
    [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    beta = torch.linspace(-sharpness, sharpness, num_temperatures + 1, dtype=torch.float64).sigmoid()
    return (beta - beta[0]) / (beta[-1] - beta[0])


def check_schedule(schedule: Tensor) -> None:
    """Check that a schedule rises from 0 to 1.

    Args:
        schedule: (T+1,).

    Raises:
        ValueError: if it doesn't.
    """
    if schedule.dim() != 1 or len(schedule) < 2 or schedule[0] != 0 or schedule[-1] != 1 or (schedule.diff() < 0).any():
        raise ValueError(
            "expected a schedule (T+1,) that rises from 0 to 1, got "
            f"{[round(b, 4) for b in schedule.flatten()[:3].tolist()]}... of shape {tuple(schedule.shape)}; "
            "for example torch.linspace(0, 1, 1001)"
        )


class Tuned(NamedTuple):
    """The result of tuning: ``step_sizes`` (T-1, M), the chains' last positions (K, M, J), their ``log_weight`` (K, M).

    The weights of chains that were still being tuned show where the mass is; they are no estimate.  ``spread`` (T, M)
    is the standard deviation over chains of what each step added to log w, not a number if a chain met zero density.
    """

    step_sizes: Tensor
    position: Tensor
    log_weight: Tensor
    spread: Tensor


def tune(
    path: Path,
    schedule: Tensor,
    position: Tensor,
    num_leapfrog: int,
    *,
    target_acceptance: float = 0.65,
    step_size: float = 0.1,
    noise: hmc.Noise = hmc.GLOBAL,
    tick: Tick = lambda part: None,
) -> Tuned:
    """Anneal once to find a step size for each temperature between the ends and each datapoint.

    A datapoint's step size follows the mean acceptance of its own chains, and of nobody else's.

    Args:
        path: log f_beta and its gradient.
        schedule: (T+1,), in either direction.
        position: (K, M, J), draws of f at ``schedule[0]``.
        num_leapfrog: leapfrog steps a transition.
        target_acceptance: the acceptance probability to tune to; 0.65 as in Wu et al. 2017.
        step_size: the first temperature's, to begin with.
        noise: of the transitions.
        tick: called after each temperature with the fraction of the work that it was.
    """
    size = position.new_full(position.shape[1:-1], step_size)
    sizes: list[Tensor] = []
    spread: list[Tensor] = []
    state = hmc.init(_at(path, schedule[0], position), position)
    log_weight = torch.zeros_like(state.log_prob)
    steps = len(schedule) - 1
    for t in range(1, steps + 1):
        target, before = _at(path, schedule[t], position), log_weight
        state, log_weight = cooled(target, state, log_weight)
        spread.append((log_weight - before).std(0, correction=0))
        if t < steps:
            for _ in range(20 if t == 1 else 1):  # twenty are enough to find the size to begin with
                state, info = hmc.transition(target, state, hmc.jittered(size, state, noise), num_leapfrog, noise)
                size = hmc.adapt_step_size(size, info.acceptance.mean(0), target_acceptance)
            sizes.append(size)
        tick(1 / steps)
    step_sizes = torch.stack(sizes) if sizes else size.new_zeros(0, *size.shape)
    return Tuned(step_sizes, state.position, log_weight, torch.stack(spread))


def anneal(
    path: Path,
    schedule: Tensor,
    position: Tensor,
    step_sizes: Tensor,
    num_leapfrog: int,
    *,
    tick: Tick = lambda part: None,
) -> Tensor:
    """Return log w (K, M) of chains that begin at ``position`` (K, M, J), exact draws of f at ``schedule[0]``.

    Args:
        path: log f_beta and its gradient.
        schedule: (T+1,), in either direction.
        position: (K, M, J).
        step_sizes: (T-1, M), those of :func:`tune`; fixed here, so that the estimate is unbiased whatever they are.
        num_leapfrog: leapfrog steps a transition.
        tick: called after each temperature with the fraction of the work that it was.

    >>> from pyro_aevb.samplers.ais import anneal, sigmoid_schedule, tune
    >>> def path(z, beta):  # from N(0, 1) to 5 N(3, 1)
    ...     log_f = -0.5 * ((z - 3 * beta) ** 2).sum(-1) - 0.9189 + beta * 1.6094
    ...     return log_f, 3 * beta - z
    >>> schedule = sigmoid_schedule(100)
    >>> sizes = tune(path, schedule, torch.randn(50, 1, 1), num_leapfrog=3).step_sizes
    >>> log_weight = anneal(path, schedule, torch.randn(50, 1, 1), sizes, num_leapfrog=3)
    >>> bool((log_weight.exp().mean() / 5 - 1).abs() < 0.2)
    True
    """
    state = hmc.init(_at(path, schedule[0], position), position)
    log_weight = torch.zeros_like(state.log_prob)
    steps = len(schedule) - 1
    for t in range(1, steps + 1):
        target = _at(path, schedule[t], position)
        state, log_weight = cooled(target, state, log_weight)
        if t < steps:
            state, _ = hmc.transition(target, state, hmc.jittered(step_sizes[t - 1], state), num_leapfrog)
        tick(1 / steps)
    return log_weight


def cooled(target: hmc.Target, state: hmc.HMCState, log_weight: Tensor) -> tuple[hmc.HMCState, Tensor]:
    """Return the state at the same place under the next density, and the log weight after that change.

    Args:
        target: the next density.
        state: the chains, under the one before.
        log_weight: theirs so far, (K, M).

    >>> from pyro_aevb.samplers import ais, hmc
    >>> state = hmc.init(lambda z: (-(z**2).sum(-1), -2 * z), torch.ones(1, 1, 1))
    >>> ais.cooled(lambda z: (-2 * (z**2).sum(-1), -4 * z), state, torch.zeros(1, 1))[1]
    tensor([[-1.]])
    """
    after = hmc.init(target, state.position)
    change = after.log_prob - state.log_prob
    # A chain that has met zero density has weight zero for good.
    return after, log_weight + torch.where(state.log_prob == -torch.inf, -torch.inf, change)


def _at(path: Path, beta: Tensor, like: Tensor) -> hmc.Target:
    beta = beta.to(like)
    return lambda position: path(position, beta)
