"""K draws from the guide for each datapoint, with their densities site by site: what objectives are made of.

What Pyro's objectives sum up, over datapoints, sites and scales, stays apart here, so that a bound can weigh particles
within a datapoint, and datapoints against each other afterwards.  A scale splits in two: N/M and what stands around
every site alike, which weigh a bound from outside, and what else a model writes with ``poutine.scale``, which weighs a
site's log likelihood, or both sides of a latent's log p(z) - log q(z|x).

A global latent w, outside of the data plate, weighs once: its terms stay apart.  Either every particle has a draw of
its own, or all have one in common, and the particles are K draws of the local latents.

Latents that the guide enumerates are summed over, not drawn: each of their V values has K particles.

Shapes: K particles, M datapoints; V K rows instead of K where the guide enumerates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_aevb.model_guide.guide_values import expected, summed
from pyro_aevb.model_guide.sites import Scale
from pyro_aevb.objectives.gradient_scale import GradientScale


@dataclass
class Particles:
    """Draws z_k ~ q(z|x_m) and their log densities in nats, by site, each of shape (K, M); masks are applied.

    Attributes:
        log_likelihood: log p(x|z) of each observed site.
        log_prior: log p(z) of each latent.
        log_q: log q(z|x) of each site of the guide.
        kl: of each latent: KL(q(z|x) || p(z)) in closed form if it was asked for, log q - log p elsewhere.
        score: log q(z|x) of each site without its mask: an unmasked likelihood teaches the guide of a masked latent.
        entries: of each site of ``score`` in plates within a datapoint, entry by entry, (K, M, I) both: the log weight
            of the terms that an entry's value may be in, and the entry's log q(z|x) without its mask.
        sampled_kl: the latents whose ``kl`` is sampled.
        weight: the scales beside ``scale``, by site: numbers, or tensors of shape () or (M,).
        scale: N/M, times a scale that stands around every site alike: a number or (M,).
        note: log densities of what the guide observes in the data plate, times N/M and their own scales, (K, M): part
            of Pyro's loss and not of a bound; or ``None``.
        global_note: likewise outside of the data plate, times their own scales, (K,) or (1,); or ``None``.
        given: the log density of what the model observes outside of the data plate, once for the whole data set, (K,)
            or (1,); or ``None``.
        global_kl: of each global latent: KL(q(w) || p(w)) in closed form, or log q(w) - log p(w): (K,), or (1,) for a
            draw that all particles have in common; once for the whole data set, times its scale.
        global_score: log q(w) of the global latents that were cut off from their parameters, (K,) or (1,), or ``None``.
        gradient_scale: what the gradient from the model into the particles is multiplied by, to be set.
        global_weight: what the global latents' -KL(q(w) || p(w)) is multiplied by, to be set.
        log_share: log q(y|x) of the values that the guide enumerates, (V, K, M); all of the above have rows (V K, M)
            then, which :meth:`expected` and :meth:`summed` make K.  ``None`` if it enumerates nothing.
        reparameterized: of a guide that draws one latent in the data plate: its draw, and the tensors that its
            distribution was made from (none of a flow), once for each pass.
    """

    log_likelihood: dict[str, Tensor]
    log_prior: dict[str, Tensor]
    log_q: dict[str, Tensor]
    kl: dict[str, Tensor]
    score: dict[str, Tensor]
    entries: dict[str, tuple[Tensor, Tensor]]
    sampled_kl: frozenset[str]
    weight: dict[str, Scale]
    scale: Scale
    note: Tensor | None
    global_note: Tensor | None
    given: Tensor | None
    global_kl: dict[str, Tensor]
    global_score: Tensor | None
    gradient_scale: GradientScale
    global_weight: Scale = 1.0
    log_share: Tensor | None = None
    reparameterized: tuple[tuple[Tensor, tuple[Tensor, ...]], ...] = ()

    def expected(self, term: Tensor) -> Tensor:
        """Return sum_y q(y|x) term over the values that the guide enumerates, (K, M); without any, the term.

        Args:
            term: of each row, (V K, M).
        """
        return term if self.log_share is None else expected(term, self.log_share)

    def summed(self, log_term: Tensor) -> Tensor:
        """Return log sum_y q(y|x) exp(log_term) over these values, (K, M); without any, ``log_term``.

        Args:
            log_term: of each row, (V K, M).
        """
        return log_term if self.log_share is None else summed(log_term, self.log_share)

    @property
    def weighted_log_p(self) -> Tensor:
        """log p(x, z), each site times its weight, (K, M)."""
        return self._sum(self.log_likelihood | self.log_prior)

    @property
    def weighted_log_q(self) -> Tensor:
        """log q(z|x), each site times its weight, (K, M)."""
        return self._sum(self.log_q)

    @property
    def log_weight(self) -> Tensor:
        """log w = log p(x, z) - log q(z|x), each site times its weight, (K, M)."""
        return self.weighted_log_p - self.weighted_log_q

    @property
    def global_log_weight(self) -> Tensor | None:
        """log p(w) - log q(w), summed over the global latents, (K,) or (1,); ``None`` without any."""
        return -sum_terms(self.global_kl) if self.global_kl else None

    def global_bound(self, bound: Tensor) -> tuple[Tensor, Tensor]:
        """Return -KL(q(w) || p(w)) of the global latents and a surrogate of it, both (), in nats for all of the data.

        Both are multiplied by ``global_weight``.

        Global latents that can't be reparameterised follow the score function, with the data set's bound as the signal;
        if each particle has its own, the baseline is the mean of the others' bounds.

        Args:
            bound: of each datapoint, (M,).
        """
        log_weight = self.global_log_weight
        assert log_weight is not None
        value = times(self.global_weight, log_weight.mean())
        if self.global_score is None:
            return value, value
        others = len(log_weight) - 1
        given = self.log_given if not others or self.given is None else self.given
        weighted = times(self.global_weight, log_weight) + given
        signal = (self.of_the_data(self.log_weight if others else bound) + weighted).detach()
        if others:
            signal = signal - (signal.sum(0) - signal) / others
        return value, value + (signal * self.global_score).mean()

    def of_the_data(self, bound: Tensor) -> Tensor:
        """Return N/M times the sum over the minibatch of bounds (..., M), in nats for the whole data set, (...)."""
        return self.scale * bound.sum(-1) if isinstance(self.scale, float) else (self.scale * bound).sum(-1)

    def loss_of(self, bound: Tensor, of_globals: Tensor | None = None) -> Tensor:
        """Return the loss of bounds, in nats for the whole data set: -N/M sum bound, and what goes with it.

        Args:
            bound: of each datapoint, (M,).
            of_globals: the global latents' part, -KL(q(w) || p(w)), ().
        """
        loss = -self.of_the_data(bound)
        if of_globals is not None:
            loss = loss - of_globals
        if self.note is not None:
            loss = loss + self.expected(self.note).mean(0).sum()
        if self.global_note is not None:
            loss = loss + self.global_note.mean()
        return loss - self.log_given

    @property
    def log_given(self) -> Tensor | float:
        """The mean of ``given`` over the particles; 0 without it."""
        return 0.0 if self.given is None else self.given.mean()

    def _sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        return sum_terms({name: times(self.weight[name], term) for name, term in terms.items()})


def sum_terms(terms: Mapping[str, Tensor]) -> Tensor:
    """Add up the terms of the sites; 0 for none, as for a model without latents."""
    first, *rest = terms.values() or (torch.zeros(()),)
    for term in rest:
        first = first + term
    return first


def with_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return the value, with the gradient of the surrogate, a tensor of its shape."""
    value = value.detach()
    return value + (surrogate - surrogate.detach()) if surrogate.requires_grad else value


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """Return the log of the mean weight over particles, in nats.

    Args:
        log_weight: (K, M).

    Returns:
        log 1/K sum_k exp(log_weight_k), (M,).
    """
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def times(weight: Scale, term: Tensor) -> Tensor:
    """Return weight * term, and the term itself for a weight of 1."""
    return term if isinstance(weight, float) and weight == 1.0 else weight * term
