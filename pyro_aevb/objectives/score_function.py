"""Objectives for guides that can't be reparameterised, discrete ones among them.

Kingma & Welling 2013, Section 2.2; Williams 1992; leave-one-out baseline: Kool, van Hoof & Welling 2019; VIMCO: Mnih &
Rezende 2016.
"""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from torch import Tensor

from pyro_aevb.model_guide.guide_values import expected
from pyro_aevb.objectives.objective import Objective
from pyro_aevb.objectives.particles import Particles, log_mean_exp, sum_terms


@final
class ScoreFunction(Objective):
    r"""The evidence lower bound with the naive Monte Carlo gradient of Section 2.2, for each datapoint.

    .. math:: \nabla_\phi E_q[f(z)] \simeq \frac{1}{K} \sum_k (f(z_k) - b_k) \nabla_\phi \log q(z_k|x),
        \quad f = \log p(x, z) - \log q(z|x)

    It "exhibits very high variance".  The baseline b_k, the mean of f over the other particles, lowers the variance and
    leaves the mean of the gradient as it is.  For a latent in a plate within a datapoint f has only the terms that an
    entry of it may be in: other entries' terms in its plates are left out, as in Pyro's ``Trace_ELBO``, unless a first
    run shows that they depend on it after all.

    Args:
        num_particles: K.
        baseline: ``"leave-one-out"``, for K > 1, or ``None``.
        vectorize: whether all particles are drawn in one pass, see :class:`~pyro_aevb.objectives.Objective`.

    Raises:
        ValueError: for another baseline, or a leave-one-out baseline with a single particle.

    >>> logit = torch.tensor(0.0, requires_grad=True)
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Bernoulli(0.5))
    ...         pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Bernoulli(logits=logit.expand(len(x))))
    >>> objective = ScoreFunction(num_particles=10, baseline="leave-one-out")
    >>> objective.differentiable_loss(model, guide, torch.full((100,), 3.0)).backward()
    >>> bool(logit.grad < 0)  # the loss falls as z = 1 becomes more probable
    True
    """

    flow = "score"
    one_global_draw = False
    by_entry = True
    sums_values = True

    def __init__(
        self,
        num_particles: int = 1,
        *,
        baseline: Literal["leave-one-out"] | None = None,
        vectorize: bool = True,
    ) -> None:
        super().__init__(num_particles, vectorize=vectorize)
        if baseline not in (None, "leave-one-out"):
            raise ValueError(f"expected baseline to be None or 'leave-one-out', got {baseline!r}")
        if baseline is not None and num_particles < 2:
            raise ValueError(
                f"expected num_particles of 2 or more for a leave-one-out baseline, got {num_particles}; "
                "with one particle use baseline=None"
            )
        self.baseline = baseline

    def bound(self, particles: Particles) -> tuple[Tensor, Tensor]:
        """Return the mean log weight, and the surrogate with the score function's gradient."""
        log_weight = particles.expected(particles.log_weight)
        signal, each = particles.log_weight.detach(), log_weight.detach()
        if self.baseline is not None:
            signal = signal - _mean_of_the_others(each).repeat(len(signal) // len(each), 1)
        score = signal * sum_terms({n: term for n, term in particles.score.items() if n not in particles.entries})
        for of_entry, log_q in particles.entries.values():
            less = 0.0 if self.baseline is None else _mean_of_the_others(of_entry)
            score = score + ((of_entry - less) * log_q).sum(-1)
        if particles.log_share is None:
            return log_weight.mean(0), (score + particles.weighted_log_p).mean(0)
        # What is enumerated has the whole gradient of its shares; these are numbers to the scores of what is drawn.
        surrogate = particles.expected(particles.weighted_log_p - particles.weighted_log_q.detach())
        return log_weight.mean(0), (surrogate + expected(score, particles.log_share.detach())).mean(0)


def _mean_of_the_others(values: Tensor) -> Tensor:
    """Return for each particle, along the first dimension, the mean over the other ones."""
    return (values.sum(0) - values) / (len(values) - 1)


@final
class VIMCO(Objective):
    r"""IWAE's bound for guides that can't be reparameterised, after Mnih & Rezende 2016.

    .. math:: \nabla = \sum_k (\hat{L} - \hat{L}_{-k}) \nabla_\phi \log q(z_k|x) + \sum_k \tilde{w}_k \nabla \log w_k

    with L the bound and L_{-k} the bound in which the geometric mean of the other weights replaces the k-th; where the
    others are all zero nothing is subtracted.

    Args:
        num_particles: K, two or more.
        vectorize: whether all particles are drawn in one pass, see :class:`~pyro_aevb.objectives.Objective`.

    Raises:
        ValueError: for a single particle.

    >>> VIMCO(1)
    Traceback (most recent call last):
    ...
    ValueError: expected num_particles of 2 or more for VIMCO, got 1; with fewer use ScoreFunction()
    """

    flow = "score"
    least_particles = 2
    with_fewer = "ScoreFunction()"

    def __init__(self, num_particles: int, *, vectorize: bool = True) -> None:
        super().__init__(num_particles, vectorize=vectorize)

    def bound(self, particles: Particles) -> tuple[Tensor, Tensor]:
        """Return IWAE's bound, and the surrogate with the gradient above."""
        log_weight = particles.log_weight
        bound = log_mean_exp(log_weight)
        signal = bound.detach() - _without_each(log_weight.detach())
        return bound, (signal * sum_terms(particles.score)).sum(0) + bound


def _without_each(log_weight: Tensor) -> Tensor:
    """Return the bound with the k-th log weight replaced by the mean of the others, for each k, (K, M).

    Weights of zero count as they are: the geometric mean with one is zero.  If all of the others are zero the result
    is 0, a baseline like any that doesn't look at the k-th particle.
    """
    none, others = torch.full_like(log_weight[:1], -math.inf), len(log_weight) - 1
    before = torch.cat([none, log_weight[:-1].logcumsumexp(0)])
    after = torch.cat([log_weight[1:].flip(0).logcumsumexp(0).flip(0), none])
    zero = log_weight == -math.inf
    finite = log_weight.masked_fill(zero, 0.0)
    mean = torch.where(zero.sum(0) > zero.long(), -math.inf, (finite.sum(0) - finite) / others)
    without = torch.logaddexp(torch.logaddexp(before, after), mean) - math.log(len(log_weight))
    return without.masked_fill(without == -math.inf, 0.0)
