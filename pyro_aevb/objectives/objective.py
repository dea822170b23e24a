"""Bounds on log p(x), one for each datapoint, as Pyro ELBO objects.

An objective works in ``pyro.infer.SVI``, as a module ``objective(model, guide)``, and in every learner that takes one.
It has a value for each datapoint and a separate estimate of that value's gradient:

.. math:: \\text{loss} = -\\frac{N}{M} \\sum_{m=1}^M \\text{bound}(x_m)

with N/M from the model's plate, Kingma & Welling 2013, Eq. (8).  N/M stands outside of the bound: 100 copies of a
minibatch have 100 times its bound, however particles are weighed within a datapoint.

Shapes: K particles, M datapoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from pyro.infer.elbo import ELBO
from pyro.poutine.trace_struct import Trace
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_aevb.checks import check_integers
from pyro_aevb.model_guide.structure import structure
from pyro_aevb.model_guide.traces import PyroCallable, trace_pair
from pyro_aevb.objectives.draws import Flow, draw
from pyro_aevb.objectives.particles import Particles, with_gradient
from pyro_aevb.one_thread import one_thread
from pyro_aevb.short_repr import settings_repr, short_repr


class Terms(NamedTuple):
    """A bound and its parts, from one pass; all but ``loss`` are detached from the parameters.

    ``loss``: -N/M sum bound, in nats for the whole data set; ``loss.backward()`` is a step's gradient.
    ``bound``: (M,), nats.  ``reconstruction``: {observed site: mean of log p(x|z) over particles}, (M,).
    ``kl``: {latent: KL(q || p), in closed form or the mean of log q - log p}, (M,).
    ``log_weight``: log p(x, z) - log q(z|x), (K, M); log sum_y p(x, y, z) / q(z|x, y) with y that the guide
    enumerates.
    ``global_kl``: {global latent: KL(q(w) || p(w)), likewise}, (): once for the whole data set, and part of the loss.
    """

    loss: Tensor
    bound: Tensor
    reconstruction: dict[str, Tensor]
    kl: dict[str, Tensor]
    log_weight: Tensor
    global_kl: dict[str, Tensor]

    def __repr__(self) -> str:
        return short_repr(self)


class Objective(ELBO, ABC):
    """A bound on log p(x) for each datapoint, and an estimate of its gradient.

    A subclass implements :meth:`bound`, and sets the class attributes below if the defaults don't suit it.

    Attributes:
        flow: how gradients reach the guide's parameters.  ``"total"``: through the particles and through log q;
            ``"path"``: through the particles only; ``"doubly"``: likewise, and what comes from the model is multiplied
            by ``particles.gradient_scale.weight``, which :meth:`bound` sets; ``"score"``: through log q only, for
            guides that can't be reparameterised.
        least_particles: the smallest number of particles that the bound is defined for.
        with_fewer: the objective to use with fewer, named in the error: ``"STL()"``.
        needs_closed_forms: whether ``particles.kl`` holds KL(q || p) in closed form for the latents that have one.
        one_global_draw: whether all K particles have one draw of the global latents in common, as a bound that isn't a
            mean over particles needs; ``False``: each particle has its own.
        by_entry: whether ``particles.entries`` is asked for.
        sums_values: whether :meth:`bound` sums over the values of latents that the guide enumerates, by
            ``particles.expected`` or ``particles.summed``; else such guides are refused.

    Args:
        num_particles: K, draws from the guide for each datapoint.
        vectorize: whether all particles are drawn in one pass; ``False``: one by one, for a model that can't take z of
            shape (K, M, J).

    Raises:
        ValueError: for fewer particles than ``least_particles``.

    >>> class Median(Objective):
    ...     def bound(self, particles):
    ...         value = particles.log_weight.median(0).values
    ...         return value, value
    >>> Median(num_particles=0)
    Traceback (most recent call last):
    ...
    ValueError: expected num_particles of 1 or more for Median, got 0
    """

    flow: Flow = "total"
    least_particles: int = 1
    with_fewer: str = ""
    needs_closed_forms: bool = False
    one_global_draw: bool = True
    by_entry: bool = False
    sums_values: bool = False

    def __repr__(self) -> str:
        return settings_repr(self)

    def __init__(self, num_particles: int = 1, *, vectorize: bool = True) -> None:
        check_integers(num_particles=num_particles)
        if num_particles < self.least_particles:
            remedy = f"; with fewer use {self.with_fewer}" if self.with_fewer else ""
            raise ValueError(
                f"expected num_particles of {self.least_particles} or more for {type(self).__name__}, "
                f"got {num_particles}{remedy}"
            )
        super().__init__(num_particles=num_particles, vectorize_particles=vectorize)

    @abstractmethod
    def bound(self, particles: Particles) -> tuple[Tensor, Tensor]:
        """Return each datapoint's bound and a surrogate of it, both (M,), in nats.

        The bound is the value that is reported; only the surrogate is differentiated.  They are the same tensor for an
        objective whose gradient is that of its value.

        Args:
            particles: K draws from the guide for each of M datapoints, and their log densities (K, M) by site.
        """

    @one_thread
    def terms(self, model: PyroCallable, guide: PyroCallable, *args: Any, **kwargs: Any) -> Terms:
        """Return the loss, to be differentiated, and the parts of the bound for each datapoint.

        Args:
            model: p(x, z), called as ``model(*args, **kwargs)``.
            guide: q(z|x), called likewise.
            args: a minibatch; ``args[0]`` is x, of shape (M, ...).
            kwargs: further arguments of both.

        Raises:
            ValueError: for a pair that breaks the contract, and a guide that can't be reparameterised if ``flow`` asks
                for it.
            RuntimeError: while another thread runs a pair.

        >>> def model(x):
        ...     with pyro.plate("data", 100, subsample_size=len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", 100, subsample_size=len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> terms = SGVB(num_particles=2, kl="analytic").terms(model, guide, torch.tensor([0.0, 2.0]))
        >>> [round(v, 4) for v in terms.kl["z"].tolist()], terms.log_weight.shape
        ([0.0966, 0.5966], torch.Size([2, 2]))
        """
        particles = self._draw(model, guide, args, kwargs)
        value, surrogate = self.bound(particles)
        value = value.detach()
        of_globals = None
        if particles.global_kl:
            of_globals = with_gradient(*particles.global_bound(value))
        return Terms(
            particles.loss_of(with_gradient(value, surrogate), of_globals),
            value,
            {name: particles.expected(t).detach().mean(0) for name, t in particles.log_likelihood.items()},
            {name: particles.expected(t).detach().mean(0) for name, t in particles.kl.items()},
            particles.summed(particles.log_weight).detach(),
            {name: term.detach().mean() for name, term in particles.global_kl.items()},
        )

    def differentiable_loss(self, model: PyroCallable, guide: PyroCallable, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss in nats for the whole data set."""
        return self.terms(model, guide, *args, **kwargs).loss

    @torch.no_grad()
    def loss(self, model: PyroCallable, guide: PyroCallable, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number, for evaluation."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: PyroCallable, guide: PyroCallable, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number and leave its gradient in the parameters, as ``SVI.step`` expects."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        warn_if_nan(loss, "loss")
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _draw(
        self, model: PyroCallable, guide: PyroCallable, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Particles:
        options = {"analytic_kl": self.needs_closed_forms, "one_global_draw": self.one_global_draw}
        options["by_entry"] = self.by_entry
        several = bool(self.vectorize_particles) and self.num_particles > 1
        pair = structure(model, guide, args, kwargs, several=several, **options)
        if pair.enumerated:
            self._check_sums(list(pair.enumerated))
            if self.vectorize_particles and not several:  # the values are run at once
                structure(model, guide, args, kwargs, several=True, **options)
        return draw(
            model, guide, args, kwargs,
            num_particles=self.num_particles,
            depth=pair.depth if self.vectorize_particles else None,
            flow=self.flow,
            closed_form=pair.closed_form,
            unchecked=pair.unchecked,
            global_names=pair.global_names,
            one_global_draw=self.one_global_draw,
            enumerated=pair.enumerated,
            apart=frozenset() if pair.enumerated else pair.apart,
        )  # fmt: skip

    def _check_sums(self, names: list[str]) -> None:
        """Raise ``ValueError`` for an objective that can't sum over what a guide enumerates."""
        if not self.sums_values:
            raise ValueError(
                f"expected an objective that sums over {names}, which the guide enumerates, got {type(self).__name__}; "
                "use SGVB(), STL(), IWAE(K), Renyi(alpha, K) or ScoreFunction(), or leave the mark out. One of your "
                "own sums with particles.expected or particles.summed, and says so by sums_values = True"
            )

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        guide_trace, model_trace = trace_pair(model, guide, args, kwargs)
        return model_trace, guide_trace
