"""Bounds on log p(x) that keep datapoints apart, in the shape of Pyro's ELBO objects.

An objective works in ``pyro.infer.SVI``, as a module ``objective(model, guide)``, and in every learner that takes one.
It is a value for each datapoint and, apart from that, an estimate of its gradient:

.. math:: \\text{loss} = -\\frac{N}{M} \\sum_{m=1}^M \\text{bound}(x_m)

with N/M from the model's plate, Kingma & Welling 2013, Eq. (8).  It stands outside of the bound: 100 copies of a
minibatch have 100 times its bound, whatever is done to the particles within.

Shapes: K particles, M datapoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro.infer.elbo import ELBO
from pyro.poutine.trace_struct import Trace
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_aevb.model_guide.dependence import Structure, structure
from pyro_aevb.model_guide.traces import PyroCallable, trace_pair
from pyro_aevb.objectives.particles import Flow, Particles, draw


class Terms(NamedTuple):
    """What a bound is made of, from the one pass that made it; all but ``loss`` cut off from the parameters.

    ``loss``: -N/M sum bound, in nats for the whole data set; ``loss.backward()`` is a step's gradient.
    ``bound``: (M,), nats.  ``reconstruction``: {observed site: mean of log p(x|z)}, (M,).  ``kl``: {latent: KL(q || p),
    in closed form or the mean of log q - log p}, (M,).  ``log_weight``: log p(x, z) - log q(z|x), (K, M).
    """

    loss: Tensor
    bound: Tensor
    reconstruction: dict[str, Tensor]
    kl: dict[str, Tensor]
    log_weight: Tensor


class Objective(ELBO, ABC):
    """A per-datapoint bound; subclasses say which (:meth:`_bound`), and how gradients flow to the guide.

    Args:
        num_particles: K, draws a datapoint.
        vectorize_particles: draw them in one pass; ``False``: one by one, for a model that can't take z of shape
            (K, M, J).
    """

    _flow: Flow = "total"
    _least_particles, _with_fewer = 1, ""

    def __init__(self, num_particles: int = 1, *, vectorize_particles: bool = True) -> None:
        if num_particles < self._least_particles:
            remedy = f"; with fewer use {self._with_fewer}" if self._with_fewer else ""
            raise ValueError(
                f"expected num_particles of {self._least_particles} or more for {type(self).__name__}, "
                f"got {num_particles}{remedy}"
            )
        super().__init__(num_particles=num_particles, vectorize_particles=vectorize_particles)
        self._seen = _Seen()

    @abstractmethod
    def _bound(self, particles: Particles) -> tuple[Tensor, Tensor]:
        """Return the bound and a surrogate whose gradient is the estimate of the bound's, both (M,)."""

    def terms(self, model: PyroCallable, guide: PyroCallable, *args: Any, **kwargs: Any) -> Terms:
        """Return the loss, to be differentiated, and what it is made of for each datapoint.

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
        value, surrogate = self._bound(particles)
        value = value.detach()
        with_gradient = value + (surrogate - surrogate.detach()) if surrogate.requires_grad else value
        return Terms(
            particles.loss_of(with_gradient),
            value,
            {name: term.detach().mean(0) for name, term in particles.log_likelihood.items()},
            {name: term.detach().mean(0) for name, term in particles.kl.items()},
            particles.log_weight.detach(),
        )

    def differentiable_loss(self, model: PyroCallable, guide: PyroCallable, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss in nats for the whole data set."""
        return self.terms(model, guide, *args, **kwargs).loss

    @torch.no_grad()
    def loss(self, model: PyroCallable, guide: PyroCallable, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number, for evaluation."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: PyroCallable, guide: PyroCallable, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number and leave its gradient in the parameters; what ``SVI.step`` calls."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        warn_if_nan(loss, "loss")
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    _needs_closed_forms = False

    def _draw(
        self, model: PyroCallable, guide: PyroCallable, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Particles:
        seen = self._seen
        if seen.structure is None or seen.model != model or seen.guide != guide:
            seen.structure = structure(model, guide, args, kwargs, analytic_kl=self._needs_closed_forms)
            seen.model, seen.guide = model, guide
        return draw(
            model, guide, args, kwargs,
            num_particles=self.num_particles,
            depth=seen.structure.depth if self.vectorize_particles else None,
            flow=self._flow,
            closed_form=seen.structure.closed_form,
        )  # fmt: skip

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        guide_trace, model_trace = trace_pair(model, guide, args, kwargs)
        return model_trace, guide_trace


@dataclass(slots=True)
class _Seen:
    """The pair that an objective ran last, and what there is to know of it."""

    model: PyroCallable | None = None
    guide: PyroCallable | None = None
    structure: Structure | None = None
