"""Which latents and observations a model or a guide computes from which latents."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.model_guide.marks import Marks
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.sites import weighed_log_prob
from pyro_aevb.model_guide.traces import (
    NO_KWARGS,
    Kwargs,
    PyroCallable,
    is_messenger,
)
from pyro_aevb.random_state import forked, set_torch_state, torch_state

FEWEST_LOOKS, MOST_RUNS = 2, 20  # with other values of a latent that Python made into a number; of all of them


class _Tracked(Messenger):
    """Mark every latent's value with its name; ``drawn`` has the values as they were drawn."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self._marks = marks
        self.drawn: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not (msg["is_observed"] or site_is_subsample(msg)):
            self.drawn[msg["name"]] = msg["value"]
            msg["value"] = self._marks.copy(msg["value"], msg["name"])


class _Replaced(Messenger):
    """Let sites be drawn, for the noise to be the same, then give them these values."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] in self._values:
            msg["value"] = self._values[msg["name"]]


def parents(
    fn: PyroCallable,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] = NO_KWARGS,
    names: Collection[str] | None = None,
) -> dict[str, set[str]]:
    """Return for each latent, or each of these names, the latents that its density, mask or scale was computed from.

    Where Python went on with a number or NumPy with an array, runs with other values of the latent tell.
    """
    noise = torch_state()
    with torch.no_grad(), pyro.validation_enabled(False), Marks() as marks:
        with _Tracked(marks) as tracked:
            nodes: dict[str, Any] = poutine.trace(fn).get_trace(*args, **kwargs).nodes
        left = [name for name in tracked.drawn if name in marks.left]
        asked = [name for name in (tracked.drawn if names is None else nodes) if names is None or name in names]
        values = {name: tracked.drawn.get(name, nodes[name]["value"]) for name in asked}
        found = {name: set(marks.of(weighed_log_prob(nodes[name], values[name]))) for name in asked}
    places = {name: place for place, name in enumerate(nodes)}
    for name in left:
        after = {n: values[n] for n in asked if places[n] > places[name] and name not in found[n]}
        looks = max(FEWEST_LOOKS, MOST_RUNS // len(left))
        for other in _changed(fn, args, kwargs, name, nodes[name]["fn"], tracked.drawn, after, noise, looks):
            found[other].add(name)
    return found


def _changed(
    fn: PyroCallable,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    name: str,
    drawn_from: Any,
    drawn: Mapping[str, Tensor],
    after: Mapping[str, Any],
    noise: dict[str, Any],
    looks: int,
) -> set[str]:
    """Return which of the sites after a latent have another density, mask or scale if the latent has another value.

    All of them, if runs can't be compared, or fail with another value.

    Args:
        fn: the model or the guide.
        args: what it is called with.
        kwargs: likewise.
        name: of the latent.
        drawn_from: its distribution.
        drawn: the latents' values.
        after: the sites after it, and the values that their densities are of.
        noise: the random state that runs begin with.
        looks: how many other values are tried.
    """

    def terms(value: Tensor) -> dict[str, Tensor]:
        with forked(), _Replaced({**drawn, name: value}):
            set_torch_state(noise)
            nodes: dict[str, Any] = poutine.trace(fn).get_trace(*args, **kwargs).nodes
        return {other: weighed_log_prob(nodes[other], value) for other, value in after.items()}

    def other_value() -> Tensor:
        value: Tensor = drawn_from()
        stays = value.is_floating_point() and torch.equal(value, drawn[name])
        return value + 1 if stays else value

    try:
        with torch.no_grad(), forked(), pyro.validation_enabled(False):
            before, again = terms(drawn[name]), terms(drawn[name])
            if not all(is_same(before[other], again[other]) for other in after):
                return set(after)
            seen = [terms(other_value()) for _ in range(looks)]
            return {other for other in after if not all(is_same(before[other], each[other]) for each in seen)}
    except Exception:  # the user's code, run with a value that it may not know
        return set(after)


def is_same(a: Tensor, b: Tensor) -> bool:
    """Return whether numbers of two runs are the same, up to rounding."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)


def ancestors(fn: PyroCallable, args: tuple[Any, ...], kwargs: Mapping[str, Any] = NO_KWARGS) -> dict[str, set[str]]:
    """Return for each latent the latents that it was computed from, directly or on the way."""
    found: dict[str, set[str]] = {}
    for name, direct in parents(fn, args, kwargs).items():  # in the order they are drawn
        found[name] = direct.union(*(found.get(parent, set()) for parent in direct))
    return found


def check_outside(reading: Reading, model: PyroCallable, args: tuple[Any, ...], kwargs: Kwargs = NO_KWARGS) -> None:
    """Check that nothing outside of the data plate is computed from a local latent: it would belong to no datapoint.

    The model is run for it, if a site outside comes after a local latent.

    Args:
        reading: of the pair.
        model: p(x, z).
        args: what the reading was made with.
        kwargs: likewise.

    Raises:
        ValueError: for the first such site.
    """
    places = {name: place for place, name in enumerate(reading.model)}
    first = min((places[name] for name in reading.latents), default=len(places))
    outside = [name for name in reading.sites("model", "given", "global") if places[name] > first]
    if not outside:
        return
    for name, direct in parents(model, args, kwargs, names=outside).items():
        if local := sorted(direct & reading.latents.keys()):
            raise ValueError(
                f"expected sites outside of the data plate that don't depend on latents in it, got {name!r}, computed "
                f"from {local[0]!r}; make all that belongs together one datapoint, x of shape (1, ...), whose parts "
                "are dimensions of its latents: .to_event(1)"
            )


def check_auxiliary(reading: Reading, guide: PyroCallable, args: tuple[Any, ...], kwargs: Kwargs = NO_KWARGS) -> None:
    """Check that a guide's auxiliary sites are all made into latents, where one is: others would be integrated out.

    The guide is run for it, if it has any.

    Args:
        reading: of the pair.
        guide: q(z|x).
        args: what the reading was made with.
        kwargs: likewise.

    Raises:
        ValueError: for a guide with both.
    """
    auxiliary = reading.sites("guide", "auxiliary", "global auxiliary")
    if not auxiliary or is_messenger(guide):
        return
    latents = reading.sites("guide", "local", "global")
    points = [name for name, site in latents.items() if isinstance(innermost(site.fn), dist.Delta)]
    direct = parents(guide, args, kwargs, names=[*auxiliary, *points])
    sources = set().union(*(direct[name] for name in points))
    for name in reversed(direct):  # what a source is made from is one
        sources |= direct[name] if name in sources else set()
    if others := sorted(auxiliary.keys() - sources):
        raise ValueError(
            f"expected auxiliary sites that are made into latents, as {points} are of Delta, or none, got "
            f"{others[0]!r} besides, which is to be integrated out; draw those latents from distributions of their "
            "own, such as TransformedDistribution(...), without auxiliary sites"
        )


def latents_of(trace: Trace) -> dict[str, Any]:
    """Return the sites of a trace that were drawn, but those that choose a subsample."""
    nodes: dict[str, Any] = trace.nodes
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }


def entangled_latents(
    model: PyroCallable, guide: PyroCallable, args: tuple[Any, ...], kwargs: Kwargs
) -> dict[str, str]:
    """Return {latent: another that the model computes it from, and the guide the other way round}."""
    prior, proposal = parents(model, args, kwargs), ancestors(guide, args, kwargs)
    found = {}
    for name, direct in prior.items():
        if backwards := sorted(parent for parent in direct if name in proposal.get(parent, set())):
            found[name] = backwards[0]
    return found
