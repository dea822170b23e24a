"""Hamiltonian Monte Carlo, batched: every entry of the batch is a chain with its own accept or reject.

It knows nothing of Pyro: a target is a function from positions (..., J) to log densities (...) and their gradients
(..., J); :func:`differentiable` makes one of a log density.

Source: Neal, *MCMC using Hamiltonian dynamics*, 2011, Section 3; its use in Monte Carlo EM: Kingma & Welling 2013,
Appendix E.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

LogProb = Callable[[Tensor], Tensor]
Target = Callable[[Tensor], tuple[Tensor, Tensor]]


class Noise(NamedTuple):
    """The random numbers of chains: ``normal`` and ``uniform`` draw, in the shape and dtype of the tensor they get."""

    normal: Callable[[Tensor], Tensor]
    uniform: Callable[[Tensor], Tensor]


GLOBAL = Noise(torch.randn_like, torch.rand_like)  # of torch's global generator


class HMCState(NamedTuple):
    """The chains' place: ``position`` (..., J), ``log_prob`` (...), and its gradient ``grad`` (..., J)."""

    position: Tensor
    log_prob: Tensor
    grad: Tensor


class HMCInfo(NamedTuple):
    """The outcome of a transition for each chain: its ``acceptance`` probability, and ``accepted``, both (...)."""

    acceptance: Tensor
    accepted: Tensor


def differentiable(log_prob: LogProb) -> Target:
    """Return the target of a log density, its gradient by automatic differentiation.

    Args:
        log_prob: a function from positions (..., J) to log densities (...), in nats.

    >>> from pyro_aevb.samplers.hmc import differentiable
    >>> differentiable(lambda z: -0.5 * (z**2).sum(-1))(torch.tensor([[2.0]]))
    (tensor([-2.]), tensor([[-2.]]))
    """

    def target(position: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            position = position.detach().requires_grad_()
            value = log_prob(position)
            (grad,) = torch.autograd.grad(value.sum(), position)
        return value.detach(), grad

    return target


def init(target: Target, position: Tensor) -> HMCState:
    """Return the state at a position.

    Args:
        target: the density to sample from, and its gradient.
        position: (..., J).
    """
    return HMCState(position.detach(), *target(position))


def leapfrog(
    target: Target, state: HMCState, momentum: Tensor, step_size: float | Tensor, num_steps: int
) -> tuple[HMCState, Tensor]:
    """Integrate Hamilton's equations for ``num_steps`` steps; return the new state and momentum.

    Half a step of momentum, whole steps of position and momentum in turn, half a step of momentum: volume is kept,
    and running it again with the momentum negated leads back to the start.

    Args:
        target: the density to sample from, and its gradient.
        state: the start.
        momentum: (..., J).
        step_size: a number, or one for each chain, (...).
        num_steps: leapfrog steps.
    """
    step = step_size.unsqueeze(-1) if isinstance(step_size, Tensor) and step_size.dim() else step_size
    momentum = momentum + 0.5 * step * state.grad
    for i in range(num_steps):
        state = init(target, state.position + step * momentum)
        momentum = momentum + (step if i < num_steps - 1 else 0.5 * step) * state.grad
    return state, momentum


def transition(
    target: Target, state: HMCState, step_size: float | Tensor, num_leapfrog: int = 10, noise: Noise = GLOBAL
) -> tuple[HMCState, HMCInfo]:
    r"""Make one HMC transition that leaves exp(log density) invariant.

    A momentum p ~ N(0, I) is drawn, a trajectory integrated, and its end accepted with probability
    min(1, exp(H(start) - H(end))), H = -log_prob + p.p/2.  A trajectory that ends where H isn't
    finite is rejected.

    Args:
        target: the density to sample from, and its gradient.
        state: the start.
        step_size: a number, or one for each chain, (...).
        num_leapfrog: leapfrog steps.
        noise: of momenta and acceptances.

    >>> from pyro_aevb.samplers.hmc import differentiable, init, transition
    >>> target = differentiable(lambda z: -0.5 * (z**2).sum(-1))
    >>> state = init(target, torch.zeros(1000, 1))
    >>> for _ in range(20):
    ...     state, info = transition(target, state, step_size=0.5, num_leapfrog=3)
    >>> bool(0.9 < state.position.var() < 1.1)
    True
    """
    momentum = noise.normal(state.position)
    end, end_momentum = leapfrog(target, state, momentum, step_size, num_leapfrog)
    at_end = end.log_prob - 0.5 * end_momentum.square().sum(-1)
    log_ratio = at_end - (state.log_prob - 0.5 * momentum.square().sum(-1))
    acceptance = log_ratio.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).clamp(max=0.0).exp()
    acceptance = torch.where(at_end == math.inf, 0.0, acceptance)
    accepted = noise.uniform(acceptance) < acceptance
    chosen = (
        torch.where(accepted.unsqueeze(-1) if e.dim() > accepted.dim() else accepted, e, s)
        for e, s in zip(end, state, strict=True)
    )
    return HMCState(*chosen), HMCInfo(acceptance, accepted)


def jittered(step_size: float | Tensor, state: HMCState, noise: Noise = GLOBAL) -> Tensor:
    """Return a step size for each chain, drawn uniformly between a fifth of ``step_size`` and the whole.

    A fixed number of steps of one size can bring every trajectory round to its start (Neal 2011, 3.2).

    Args:
        step_size: the largest; a number, or one for each chain, (...).
        state: the chains.
        noise: that the sizes are drawn with.
    """
    return step_size * (0.2 + 0.8 * noise.uniform(state.log_prob))


Size = TypeVar("Size", float, Tensor)


def adapt_step_size(step_size: Size, acceptance: Size, target: float = 0.9, rate: float = 0.5) -> Size:
    """Return a step size moved towards the target acceptance: log step += rate * (acceptance - target).

    Robbins and Monro's rule with a constant rate, for targets that go on moving.  A chain whose step size is still
    being adapted is not exactly invariant; freeze it for estimates that need that.

    Args:
        step_size: a number, or one for each chain, (...).
        acceptance: the last transition's acceptance probability, of the same shape.
        target: the acceptance probability to move to.
        rate: the change of log step a unit of acceptance.

    >>> from pyro_aevb.samplers.hmc import adapt_step_size
    >>> adapt_step_size(0.1, acceptance=0.9), round(adapt_step_size(0.1, acceptance=0.5), 4)
    (0.1, 0.0819)
    """
    return step_size * math.e ** (rate * (acceptance - target))
