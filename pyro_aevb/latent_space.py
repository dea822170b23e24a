"""The local latents of a Pyro model as one unconstrained vector a datapoint.

HMC and its relatives move in R^J.  A latent z with support S is written z = T(u), T the bijection that Pyro keeps for
S (``biject_to``), and the density of u is p(x, T(u)) |dT/du|.

Shapes: K particles, M datapoints, J unconstrained dimensions in all.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import biject_to

from pyro_aevb.log_density import PyroCallable, latent_sites, site_log_prob, sum_log_prob


class LatentSpace:
    """R^J for the latents of a model, and the log joint on it.

    The model is run once on ``args`` to see what its latents are.  Their names and shapes stay the same from then on,
    while a support may depend on data, parameters and the latents before it.

    Raises ``ValueError`` for a discrete latent, and for one outside the data plate.

    >>> import pyro, pyro.distributions as dist
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
        for name, site in latent_sites(trace).items():
            if site["fn"].support.is_discrete:
                raise ValueError(
                    f"expected continuous latents for HMC, got the discrete site {name!r}; "
                    "use WakeSleep, or sum the site out of the model"
                )
            site_log_prob(name, site, len(args[0]))  # refuses a site outside the plate
        self._shapes = {name: u.shape[1:] for name, u in _unconstrained(trace).items()}
        if not self._shapes:
            raise ValueError("expected a model with local latents, got none; add pyro.sample('z', ...) in its plate")

    def prior_draw(self, *args: Tensor) -> Tensor:
        """Return latents drawn from the prior, (M, J)."""
        with torch.no_grad():
            drawn = _unconstrained(poutine.trace(self._model).get_trace(*args))
        return torch.cat([drawn[name].reshape(len(args[0]), -1) for name in self._shapes], -1)

    def values(self, u: Tensor, *args: Tensor) -> dict[str, Tensor]:
        """Return the constrained latents {site: (..., M, *event)} at ``u`` (..., M, J)."""
        trace, _ = self.trace(u, *args)
        nodes: dict[str, Any] = trace.nodes  # type: ignore[assignment]
        return {name: nodes[name]["value"] for name in self._shapes}

    def log_joint(self, u: Tensor, *args: Tensor) -> Tensor:
        """Return log p(x, T(u)) + log |dT/du| in nats, shape (M,) for ``u`` (M, J), (K, M) for (K, M, J).

        Where ``u`` overflows the result is NaN or infinite, for the sampler to reject: Pyro's validation, which would
        raise, is off inside.
        """
        with pyro.validation_enabled(False):
            trace, log_det = self.trace(u, *args)
            log_joint = sum_log_prob(trace, len(args[0]), (-2, len(u)) if u.dim() == 3 else None)
        return log_joint.reshape(u.shape[:-1]) + log_det

    def trace(self, u: Tensor, *args: Tensor) -> tuple[Trace, Tensor | float]:
        """Run the model with its latents at ``u`` (..., M, J); return its trace and log |dT/du| (..., M)."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = zip(self._shapes.items(), u.split(sizes, -1), strict=True)
        at = {name: part.reshape(part.shape[:-1] + shape) for (name, shape), part in parts}
        handler = _AtUnconstrained(at, batch_dims=u.dim() - 1)
        with handler:
            trace = poutine.trace(self._model).get_trace(*args)
        return trace, handler.log_det


class _AtUnconstrained(Messenger):
    """Give each latent the value T(u), T the bijection of the support it turns out to have; sum up log |dT/du|."""

    def __init__(self, u: dict[str, Tensor], batch_dims: int) -> None:
        super().__init__()
        self._u, self._batch_dims = u, batch_dims
        self.log_det: Tensor | float = 0.0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self._u or msg["is_observed"]:
            return
        u = self._u[msg["name"]]
        transform = biject_to(msg["fn"].support)
        msg["value"], msg["done"] = transform(u), True
        log_det = transform.log_abs_det_jacobian(u, msg["value"])
        self.log_det = self.log_det + sum_rightmost(log_det, log_det.dim() - self._batch_dims)


def _unconstrained(trace: Trace) -> dict[str, Tensor]:
    return {name: biject_to(s["fn"].support).inv(s["value"]) for name, s in latent_sites(trace).items()}
