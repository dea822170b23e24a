"""A model and its guide, run: their two traces, for a guide of any kind.

Shapes: K particles, M datapoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide.effect import GuideMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_aevb.arguments import first_size
from pyro_aevb.capture.graph import CaptureError
from pyro_aevb.model_guide.enumeration import trace_summed
from pyro_aevb.model_guide.unwritten import Unwritten
from pyro_aevb.random_state import forked

PyroCallable = Callable[..., Any]
Kwargs = Mapping[str, Any]
NO_KWARGS: Kwargs = {}


def trace_pair(
    model: PyroCallable, guide: PyroCallable, args: tuple[Any, ...], kwargs: Kwargs = NO_KWARGS
) -> tuple[Trace, Trace]:
    """Run the guide, then the model on what it drew; return both traces, (guide, model).

    A guide messenger (``pyro.infer.autoguide.effect``) runs the model itself and hands over both traces.
    """
    if is_messenger(guide):
        with _shapes_in_words():
            guide(*args, **kwargs)
        messenger: Any = poutine.unwrap(guide)
        model_trace, guide_trace = messenger.get_traces()
        return guide_trace, model_trace
    with _shapes_in_words(), Unwritten():
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    return guide_trace, trace_model(model, guide_trace, args, kwargs)


def trace_model(
    model: PyroCallable, guide_trace: Trace | None, args: tuple[Any, ...], kwargs: Kwargs = NO_KWARGS
) -> Trace:
    """Return the model's trace, its latents at the values of ``guide_trace`` if there is one.

    Discrete latents that are marked for enumeration, and not in the guide, are summed out.
    """
    with _shapes_in_words(), Unwritten():
        return trace_summed(model, guide_trace, args, kwargs)


class Outside(Messenger):
    """Keep the sites of these names out of the plates and handlers around this one: of the particles' plate."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self._names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._names:
            msg["stop"] = True


def drawn(fn: PyroCallable, args: tuple[Any, ...], names: Iterable[str]) -> dict[str, Tensor]:
    """Run a model or a guide, and return what it drew at the sites of these names."""
    nodes: Mapping[str, Any] = poutine.trace(fn).get_trace(*args).nodes
    return {name: nodes[name]["value"] for name in names}


def observed_nodes(trace: Trace) -> Iterator[tuple[str, Any]]:
    """Yield the observed sites of a model's trace as the model wrote them, those too whose latents were summed out."""
    for name, node in trace.nodes.items():
        if node["type"] == "sample" and node["is_observed"]:
            infer: Any = node["infer"] or {}
            yield from infer.get("parts", {name: node}).items()


class PlateShapeError(ValueError):
    """A distribution with other dimensions than the plates around it."""


@contextmanager
def _shapes_in_words() -> Iterator[None]:
    """Say what to do if a distribution has more dimensions than the plates around it."""
    try:
        yield
    except ValueError as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else ""
        if "Shape mismatch inside plate" not in text:
            raise
        raise PlateShapeError(
            f"expected distributions that fit into the plates around them, got: {text}; declare the dimensions of one "
            "datapoint with .to_event(...)"
        ) from error


def is_messenger(guide: PyroCallable) -> bool:
    """Return whether the guide is one of Pyro's guide messengers, which run the model themselves."""
    return isinstance(poutine.unwrap(guide), GuideMessenger)


def require_own_run(guide: PyroCallable | None, remedy: str) -> None:
    """Refuse a guide messenger where the guide's density of draws that aren't its own is asked for.

    Args:
        guide: q(z|x), or ``None``.
        remedy: what to do instead.

    Raises:
        ValueError: for a messenger.
    """
    if guide is not None and is_messenger(guide):
        raise ValueError(
            f"expected a guide that can be run by itself, got a guide messenger (pyro.infer.autoguide.effect); {remedy}"
        )


LINES = "lines_in_one_state"


def in_one_state(fn: PyroCallable, lines: set[str]) -> PyroCallable:
    """Return ``fn``, marked as one that its maker runs in one Python state alone.

    Args:
        fn: a callable of the maker's own.
        lines: those that are logged of it and of others that stand for the same one in other states.
    """
    setattr(fn, LINES, lines)
    return fn


def lines_in_one_state(fn: PyroCallable) -> set[str] | None:
    """Return the lines that :func:`in_one_state` was given; ``None`` for what may be run in any state."""
    return getattr(fn, LINES, None)


@contextmanager
def broadcasting(particles: tuple[int, int] | None) -> Iterator[None]:
    """Say what is expected if a pair can't be run on all its K particles at once."""
    try:
        yield
    except RuntimeError as error:
        if particles is None or isinstance(error, NotImplementedError | CaptureError):
            raise
        raise ValueError(
            f"expected a model and a guide that broadcast over {particles[1]} particles (latents of shape "
            f"(K, M, ...)), got: {str(error).strip().splitlines()[0]}; index with z[..., j] and flatten with "
            "z.flatten(-2), or pass vectorize=False"
        ) from error


def number_of_datapoints(args: tuple[Any, ...], kwargs: Kwargs = NO_KWARGS) -> int:
    """Return M, the length of the first tensor among the arguments; raise ``TypeError`` if there is none."""
    size = first_size(args, kwargs)
    if size is not None:
        return size
    kinds = [type(value).__name__ for value in (*args, *kwargs.values())]
    raise TypeError(f"expected x, a tensor with datapoints first, among the arguments, got {kinds}")


def on_a_side(fn: Callable[[], Any]) -> Any:
    """Return ``fn()``, run without gradients, random numbers and sites that anybody else would see."""
    with torch.no_grad(), forked(), poutine.block():
        return fn()
