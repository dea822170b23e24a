"""Pairs that know a datapoint by its row of the arguments alone, and those that know its place in the minibatch too.

Where minibatches are parts of the data, in whatever order, a place says nothing of a datapoint: a parameter with an
entry for each place, or the indices that ``pyro.plate`` draws when it is given none, belong to another one each time.

Shapes: M datapoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.model_guide.contract import run_pair
from pyro_aevb.model_guide.given_values import Given, log_densities
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.plates import frame_of
from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.sites import Site
from pyro_aevb.model_guide.traces import PyroCallable, number_of_datapoints, on_a_side

TOLERANCE = 1e-3
DRAWN = ("local", "global", "auxiliary", "global auxiliary", "by-product", "subsample")


def site_of_places(
    model: PyroCallable, guide: PyroCallable | None, args: tuple[Any, ...], num_rows: int | None = None
) -> str | None:
    """Return the name of a site at which the rows of a minibatch, turned around, have other densities each.

    ``None`` stands for no such site, and for a pair that can't tell: one that draws noise besides its latents, one that
    can't be run on these rows, a single row.

    Args:
        model: p(x, z), a function of tensors.
        guide: q(z|x), likewise, or ``None``.
        args: a minibatch.
        num_rows: how many of ``args`` have datapoints first; the rest belongs to all of them.

    >>> from pyro_aevb.model_guide.places import site_of_places
    >>> loc = torch.tensor([0.0, 1.0, 2.0])
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(loc, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> site_of_places(model, None, (torch.zeros(3),))
    'z'
    """
    number = len(args) if num_rows is None else num_rows
    turned = (*(arg.flip(0) for arg in args[:number]), *args[number:])
    with evaluated(model, guide) as (its_model, its_guide, _):

        def run(args: tuple[Any, ...], values: Mapping[str, Tensor]) -> Reading:
            with Given(values):
                guide_trace, model_trace = run_pair(its_model, its_guide, args)
            return read_traces(model_trace, guide_trace, number_of_datapoints(args))

        def compare() -> str | None:
            first = run(args, {})
            drawn = [site for half in (first.model, first.guide) for site in half.values() if site.role in DRAWN]
            expected = log_densities(first)
            again = log_densities(run(args, {site.name: site.value for site in drawn}))
            if _other(expected, again):
                return None  # it draws more than its sites say
            found = log_densities(run(turned, {site.name: _turned(site, first) for site in drawn}))
            return _other(expected, {name: term.flip(-1) for name, term in found.items()})

        try:
            return on_a_side(compare)
        except Exception:  # each pair fails in its own way, and whoever reads it says how
            return None


def _turned(site: Site, reading: Reading) -> Tensor:
    """Return a site's value for the rows turned around; the indices of a plate stay in their places."""
    dim = reading.plate.dim - len(getattr(site.fn, "event_shape", ()))
    inside = site.role != "subsample" and frame_of(site.frames, reading.plate) is not None
    return site.value.flip(dim) if inside and site.value.dim() >= -dim else site.value


def _other(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first site that has other densities in ``found``; ``None`` if all have the same."""
    for name, term in expected.items():
        if not torch.allclose(found[name], term, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            return name.partition(".")[2]
    return None


def place_error(name: str, num_data: int) -> ValueError:
    """Return the error for a pair that knows places, where minibatches are parts of the data, or shuffled.

    Args:
        name: the site at which it does.
        num_data: N.
    """
    return ValueError(
        f"expected a model and a guide that know a datapoint by its row of the arguments, for data in several or "
        f"shuffled minibatches, got site {name!r}, whose density depends on the place in the minibatch; pass each "
        f"datapoint's place in the data beside x, with pyro.plate('data', {num_data}, subsample=index) in both and "
        f"torch.arange({num_data}) in the data, or take all of the data at once: batch_size={num_data}, and "
        "shuffle=False for a DataLoader"
    )
