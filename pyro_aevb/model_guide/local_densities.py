"""Guides with a density of their own for each datapoint, and those without: whether log q(z|x) is a number of each.

A point mass has none over a continuous latent, and one joint distribution of all datapoints' latents has none for each.

Shapes: M datapoints.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist

from pyro_aevb.model_guide.dependence import parents
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.supports import is_discrete
from pyro_aevb.model_guide.traces import PyroCallable, is_messenger, on_a_side

REMEDY = (
    "draw it in the plate from a distribution that has one, such as Normal(loc, scale) or AutoNormal, or leave the "
    "guide out: posterior(model, None, ...), log_marginal_likelihood(model, None, ..., method='ais' or 'quadrature')"
)


def require_local_densities(
    reading: Reading, model: PyroCallable, guide: PyroCallable | None, args: tuple[Any, ...], *, points: bool = False
) -> None:
    """Refuse a guide without a density of each datapoint's continuous latents, where log q(z|x) is a term.

    A latent that is computed from an auxiliary site in the data plate has that one's density, and one whose ``Delta``
    is given a ``log_density`` has that.  The guide is run once more if it has point masses.

    Args:
        reading: of the pair.
        model: p(x, z).
        guide: q(z|x), or ``None``.
        args: the minibatch that was read.
        points: whether point masses may stand, as in the objective of MAP.

    Raises:
        ValueError: for the first latent without one, with what to do.
    """
    of_all = reading.sites("guide", "global auxiliary")
    masses = {n: s for n, s in reading.sites("guide", "local").items() if _is_mass(s.fn, reading.model[n].fn)}
    if guide is None or not masses or (points and not of_all):
        return
    sources: dict[str, set[str]] = {}
    if not is_messenger(guide):
        with evaluated(model, guide) as (_, its_guide, _):
            sources = on_a_side(lambda: parents(its_guide, args, names=masses))
    smooth = {n for n, s in reading.sites("guide", "auxiliary").items() if not _has_points(s.fn)}
    for name, site in masses.items():
        point, found = _point(site.fn), sources.get(name, set())
        if point is not None and found & smooth:
            continue
        if shared := sorted(found & of_all.keys()):
            raise ValueError(
                f"expected a guide with a density of {name!r} for each datapoint, got one of all datapoints together, "
                f"that of {shared[0]!r} outside of the data plate; {REMEDY}"
            )
        if not points and (point is None or not torch.as_tensor(point.log_density).any()):
            raise ValueError(
                f"expected a guide with a density of {name!r}, which is continuous in the model, got point masses, "
                f"{type(site.fn if point is None else point).__name__}, which have none; {REMEDY}"
            )


def _is_mass(q: Any, p: Any) -> bool:
    """Return whether q has probabilities of points where p has a density."""
    return _has_points(q) and not _has_points(p)


def _has_points(fn: Any) -> bool:
    return _point(fn) is not None or isinstance(fn, dist.Empirical) or is_discrete(fn)


def _point(fn: Any) -> dist.Delta | None:
    """Return the point mass that a distribution is made of."""
    while fn is not None and not isinstance(fn, dist.Delta):
        fn = getattr(fn, "base_dist", None) or getattr(fn, "_component_distribution", None)
    return fn
