"""The local latents of a Pyro model as one unconstrained vector a datapoint.

HMC and its relatives move in R^J.  A latent z with support S is written z = T(u), T the bijection that Pyro keeps for
S (``biject_to``), and the density of u is p(x, T(u)) |dT/du|.

Shapes: K particles, M datapoints, J unconstrained dimensions in all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import MixtureSameFamilyConstraint

from pyro_aevb.model_guide.sites import PyroCallable, latent_sites, observed_sites, site_log_prob, sum_log_prob


class JointTerms(NamedTuple):
    """log p(T(u)) + log |dT/du| and log p(x|T(u)), each of shape (M,) or (K, M), in nats."""

    log_prior: Tensor
    log_likelihood: Tensor


class LatentSpace:
    """R^J for the latents of a model, and the log joint on it.

    The model is run once to find its latents.  Their names and shapes stay the same from then on; a support
    may depend on data, parameters and the latents before it.  ``dim`` is J.

    Args:
        model: p(x, z), a Pyro function.
        args: a minibatch.

    Raises:
        ValueError: for a discrete latent, and for one that isn't in the data plate alone.

    >>> from pyro_aevb.samplers import LatentSpace
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    ...         pyro.sample("x", dist.Poisson(rate), obs=x)
    >>> x = torch.tensor([1.0, 3.0, 0.0])
    >>> space = LatentSpace(model, x)
    >>> u = torch.zeros(3, 1)  # rate = exp(u) = 1, Jacobian 1
    >>> space.values(u, x)["rate"].tolist(), [round(v, 4) for v in space.log_joint(u, x).tolist()]
    ([1.0, 1.0, 1.0], [-2.0, -3.7918, -2.0])
    """

    def __init__(self, model: PyroCallable, *args: Tensor) -> None:
        self._model = model
        with torch.no_grad():
            trace = poutine.trace(model).get_trace(*args)
        latents = latent_sites(trace)
        for name, site in latents.items():
            if site["fn"].support.is_discrete:
                raise ValueError(
                    f"expected continuous latents for HMC, got the discrete site {name!r}; "
                    "use WakeSleep to train and method='importance' to evaluate, or sum the site out of the model"
                )
            site_log_prob(name, site, len(args[0]))  # refuses a site outside the plate
            plates = [frame.name for frame in site["cond_indep_stack"] if frame.vectorized]
            if len(plates) > 1:
                raise ValueError(
                    f"expected latents in the data plate alone, got site {name!r} in {plates}; "
                    "declare the other dimensions of the latent with .to_event(...)"
                )
        if not latents:
            raise ValueError("expected a model with local latents, got none; add pyro.sample('z', ...) in its plate")
        self._shapes = {name: u.shape[1:] for name, u in _unconstrained(latents).items()}
        self.dim = sum(shape.numel() for shape in self._shapes.values())
        sites = (latents | observed_sites(trace)).values()
        self._plates = max(-frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.vectorized)

    def prior_draw(self, *args: Tensor) -> Tensor:
        """Return latents drawn from the prior, (M, J)."""
        with torch.no_grad():
            return self.position(poutine.trace(self._model).get_trace(*args), len(args[0]))

    def guide_draw(self, guide: PyroCallable, *args: Tensor) -> Tensor:
        """Return latents drawn from the guide, (M, J)."""
        with torch.no_grad():
            drawn = poutine.trace(guide).get_trace(*args)
            trace = poutine.trace(poutine.replay(self._model, trace=drawn)).get_trace(*args)
        return self.position(trace, len(args[0]))

    def position(self, trace: Trace, num_data: int) -> Tensor:
        """Return the latents of a trace of the model, (M, J)."""
        drawn = _unconstrained({name: trace.nodes[name] for name in self._shapes})
        return torch.cat([u.reshape(num_data, -1) for u in drawn.values()], -1)

    def values(self, u: Tensor, *args: Tensor) -> dict[str, Tensor]:
        """Return the constrained latents {site: (..., M, *event)} at ``u`` (..., M, J)."""
        trace, _ = self.trace(u, *args)
        nodes: dict[str, Any] = trace.nodes
        return {name: nodes[name]["value"] for name in self._shapes}

    def log_joint(self, u: Tensor, *args: Tensor) -> Tensor:
        """Return log p(x, T(u)) + log |dT/du| in nats, shape (M,) for ``u`` (M, J), (K, M) for (K, M, J).

        If ``u`` overflows the result is NaN or infinite, for the sampler to reject: Pyro's validation, which would
        raise, is off inside.
        """
        terms = self.terms(u, *args)
        return terms.log_prior + terms.log_likelihood

    def terms(self, u: Tensor, *args: Tensor) -> JointTerms:
        """Return the two terms of :meth:`log_joint`, the Jacobian with the prior, from one run of the model."""
        with pyro.validation_enabled(False):
            trace, log_det = self.trace(u, *args)
            prior = self._sum(_part(trace, latent_sites(trace)), u)
            return JointTerms(prior + log_det, self._sum(_part(trace, observed_sites(trace)), u))

    def log_joint_and_guide(self, guide: PyroCallable, u: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`log_joint` and log q(T(u)|x) + log |dT/du|, each (M,) or (K, M), in nats."""
        with pyro.validation_enabled(False):
            trace, log_det = self.trace(u, *args)
            guide_trace = poutine.trace(poutine.replay(guide, trace=trace)).get_trace(*args)
            return self._sum(trace, u) + log_det, self._sum(guide_trace, u) + log_det

    def trace(self, u: Tensor, *args: Tensor) -> tuple[Trace, Tensor]:
        """Run the model with its latents at ``u`` (..., M, J); return its trace and log |dT/du| (..., M).

        The dimension of the K particles is left of all plates.
        """
        sizes = [shape.numel() for shape in self._shapes.values()]
        between = (1,) * (self._plates - 1) if u.dim() == 3 else ()
        batch = (*u.shape[:-2], *between, u.shape[-2])
        parts = zip(self._shapes.items(), u.split(sizes, -1), strict=True)
        at = {name: part.reshape(batch + shape) for (name, shape), part in parts}
        handler = _AtUnconstrained(at, batch_dims=len(batch))
        with handler:
            trace = poutine.trace(self._model).get_trace(*args)
        return trace, torch.as_tensor(handler.log_det, dtype=u.dtype, device=u.device).expand(batch).reshape(
            u.shape[:-1]
        )

    def _sum(self, trace: Trace, u: Tensor) -> Tensor:
        particles = (-1 - self._plates, len(u)) if u.dim() == 3 else None
        return sum_log_prob(trace, u.shape[-2], particles).reshape(u.shape[:-1])


class _AtUnconstrained(Messenger):
    """Give each latent the value T(u), T the bijection of the support that it has in this run; sum up log |dT/du|."""

    def __init__(self, u: dict[str, Tensor], batch_dims: int) -> None:
        super().__init__()
        self._u, self._batch_dims = u, batch_dims
        self.log_det: Tensor | float = 0.0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self._u or msg["is_observed"]:
            return
        u = self._u[msg["name"]]
        transform = _bijection(msg["fn"].support)
        msg["value"], msg["done"] = transform(u), True
        log_det = transform.log_abs_det_jacobian(u, msg["value"])
        self.log_det = self.log_det + sum_rightmost(log_det, log_det.dim() - self._batch_dims)


def _unconstrained(sites: dict[str, Any]) -> dict[str, Tensor]:
    return {name: _bijection(site["fn"].support).inv(site["value"]) for name, site in sites.items()}


def _bijection(support: Any) -> Any:
    """Return T from R^n to ``support``; for a mixture's, which Pyro has no bijection for, its components'."""
    return biject_to(support.base_constraint if isinstance(support, MixtureSameFamilyConstraint) else support)


def _part(trace: Trace, sites: Iterable[str]) -> Trace:
    """Return the trace with these of its sample sites only."""
    part, kept = trace.copy(), set(sites)
    for name in [n for n, site in trace.nodes.items() if site["type"] == "sample" and n not in kept]:
        part.remove_node(name)
    return part
