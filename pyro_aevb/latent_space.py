"""The local latents of a Pyro model as one unconstrained vector a datapoint.

HMC and its relatives move in R^J.  A latent z with support S is written z = T(u), T the bijection that Pyro keeps for
S (``biject_to``), and the density of u is p(x, T(u)) |dT/du|.

Shapes: K particles, M datapoints, J unconstrained dimensions in all.
"""

from __future__ import annotations

from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import Transform, biject_to

from pyro_aevb.log_density import PyroCallable, latent_sites, site_log_prob, sum_log_prob


class _Site(NamedTuple):
    transform: Transform
    shape: torch.Size  # of one datapoint's unconstrained value


class LatentSpace:
    """R^J for the latents of ``model(*args)``, and the log joint on it.

    The model is run once, its observed sites as they are; ``prior_draw`` (M, J) holds the latents of that run, drawn
    from the prior.

    Raises ``ValueError`` for a discrete latent, and for one outside the data plate.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    ...         pyro.sample("x", dist.Poisson(rate), obs=x)
    >>> space = LatentSpace(model, torch.tensor([1.0, 3.0, 0.0]))
    >>> u = torch.zeros(3, 1)  # rate = exp(u) = 1, Jacobian 1
    >>> space.values(u)["rate"].tolist(), [round(v, 4) for v in space.log_joint(u).tolist()]
    ([1.0, 1.0, 1.0], [-2.0, -3.7918, -2.0])
    """

    def __init__(self, model: PyroCallable, *args: Tensor) -> None:
        self._model, self._args, self._num_data = model, args, len(args[0])
        with torch.no_grad():
            trace = poutine.trace(model).get_trace(*args)
        self._sites: dict[str, _Site] = {}
        draws = []
        for name, site in latent_sites(trace).items():
            if site["fn"].support.is_discrete:
                raise ValueError(
                    f"expected continuous latents for HMC, got the discrete site {name!r}; "
                    "use WakeSleep, or sum the site out of the model"
                )
            site_log_prob(name, site, self._num_data)  # refuses a site outside the plate
            transform = biject_to(site["fn"].support)
            u = transform.inv(site["value"])
            self._sites[name] = _Site(transform, u.shape[1:])
            draws.append(u.reshape(self._num_data, -1))
        if not draws:
            raise ValueError("expected a model with local latents, got none; add pyro.sample('z', ...) in its plate")
        self.prior_draw = torch.cat(draws, -1)

    def values(self, u: Tensor) -> dict[str, Tensor]:
        """Return the constrained latents {site: (..., M, *event)} at ``u`` (..., M, J)."""
        return {name: z for name, (z, _) in self._transformed(u).items()}

    def _transformed(self, u: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        parts = u.split([site.shape.numel() for site in self._sites.values()], -1)
        result = {}
        for part, (name, site) in zip(parts, self._sites.items(), strict=True):
            v = part.reshape(part.shape[:-1] + site.shape)
            z = site.transform(v)
            log_det = site.transform.log_abs_det_jacobian(v, z)
            result[name] = (z, sum_rightmost(log_det, log_det.dim() - (u.dim() - 1)))
        return result

    def log_joint(self, u: Tensor) -> Tensor:
        """Return log p(x, T(u)) + log |dT/du| in nats, shape (M,) for ``u`` (M, J), (K, M) for (K, M, J).

        Where ``u`` overflows the result is NaN or infinite, for the sampler to reject: Pyro's validation, which would
        raise, is off inside.
        """
        transformed = self._transformed(u)
        conditioned = poutine.condition(self._model, data={name: z for name, (z, _) in transformed.items()})
        particles = (-2, len(u)) if u.dim() == 3 else None
        with pyro.validation_enabled(False):
            trace = poutine.trace(conditioned).get_trace(*self._args)
            log_joint = sum_log_prob(trace, self._num_data, particles)
        return log_joint.reshape(u.shape[:-1]) + sum(log_det for _, log_det in transformed.values())
