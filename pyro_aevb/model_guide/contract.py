"""The checks that every entry point begins with, and the error for a loss that is no longer a number."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import _bound_partial, _context_wrap
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyro_aevb.arguments import Arguments, inside_of
from pyro_aevb.checks import left_as_they_are
from pyro_aevb.data_source import Frame, not_a_tensor
from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.model_guide.dependence import check_auxiliary, check_outside
from pyro_aevb.model_guide.guide_supports import MOST_TURNS, wider
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.parameters import Parameter
from pyro_aevb.model_guide.plate_sizes import as_many_entries, check_plate_follows
from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.sites import Site, density
from pyro_aevb.model_guide.supports import check_support, outside, outside_error
from pyro_aevb.model_guide.traces import (
    NO_KWARGS,
    Kwargs,
    PyroCallable,
    number_of_datapoints,
    observed_nodes,
    on_a_side,
    trace_model,
    trace_pair,
)
from pyro_aevb.one_thread import one_thread
from pyro_aevb.random_state import has_marked_seed, mark_seed


class NonFiniteLossError(FloatingPointError):
    """A loss that is NaN or infinite; the message names the sites and parameters that are."""


@one_thread
def read(
    model: PyroCallable,
    guide: PyroCallable | None,
    args: tuple[Any, ...],
    kwargs: Kwargs = NO_KWARGS,
    modules: Sequence[nn.Module] | None = None,
) -> Reading:
    """Run the pair once, on a side, and return what it is; every entry point begins with this.

    Modules are in evaluation mode for it, and they, the random state and everything else are left as they were.

    Args:
        model: p(x, z).
        guide: q(z|x), or ``None``.
        args: what both are called with: tensors with datapoints first, and anything else.
        kwargs: likewise.
        modules: those that the pair can reach; found if not given.

    Raises:
        ValueError: for a pair that breaks the contract, and for data outside of the likelihood's support.
    """
    for half, fn in (("model", model), ("guide", guide)):
        check_call(half, fn, args, kwargs)
    with evaluated(model, guide, modules) as (its_model, its_guide, named), _lengths_in_words(model):
        with left_as_they_are(args, kwargs):
            guide_trace, model_trace = on_a_side(lambda: _run_unseeded(its_model, its_guide, args, kwargs))
        reading = read_traces(model_trace, guide_trace, number_of_datapoints(args, kwargs))
        on_a_side(lambda: _check_plates(reading, its_model, args, kwargs))
        if its_guide is not None:
            on_a_side(lambda: check_auxiliary(reading, its_guide, args, kwargs))
            if (message := wider(reading, its_guide, args, kwargs, most=MOST_TURNS)) is not None:
                raise ValueError(message)
    reading = dataclasses.replace(reading, named_modules=tuple(named))
    for name, site in observed_nodes(model_trace):
        check_support(name, site)
    return reading


def _check_plates(reading: Reading, model: PyroCallable, args: tuple[Any, ...], kwargs: Kwargs) -> None:
    check_outside(reading, model, args, kwargs)
    if plates := as_many_entries(reading):
        form = inside_of(_without_handlers(model))[1]
        check_plate_follows(reading, plates, model, args, kwargs, len(args) if form is None else form.num_rows)


@contextmanager
def _lengths_in_words(model: PyroCallable) -> Iterator[None]:
    """Say which tensors were taken as a whole, by their lengths, if a pair can't be run with them."""
    form = inside_of(_without_handlers(model))[1]
    try:
        yield
    except (RuntimeError, IndexError, ValueError) as error:
        if form is None or not form.guessed:
            raise
        place, length = form.guessed[0]
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"expected as many datapoints in argument {place} as in the first, or a tensor that all datapoints have in "
            f"common, got {length} rows, which model and guide don't take: {text[0]}; cut the data to one length"
        ) from error


def check_call(half: str, fn: PyroCallable | None, args: tuple[Any, ...], kwargs: Kwargs = NO_KWARGS) -> None:
    """Raise ``TypeError`` unless ``fn`` can be called with these arguments, by their kinds and its signature.

    Args:
        half: "model" or "guide".
        fn: the model or the guide; ``None`` is a guide that there isn't.
        args: what it is called with.
        kwargs: likewise.
    """
    if fn is None:
        return
    for place, value in enumerate(args):
        if isinstance(value, np.ndarray | Frame) and not isinstance(value, Tensor):
            raise not_a_tensor(value, place)
    bare, form = inside_of(_without_handlers(fn))
    if form is not None:
        bare, call = _without_handlers(bare), form.call(args)
        args, kwargs = call.args, call.kwargs
    try:
        signature = inspect.signature(bare.forward if isinstance(bare, nn.Module) else bare)
    except (TypeError, ValueError):
        return  # it has none that could be looked at
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        shapes = [tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__ for a in args]
        names = f" and {list(kwargs)} by name" if kwargs else ""
        raise TypeError(
            f"expected what {half}{signature} takes, got {len(args)} arguments {shapes}{names}: {error}; give model "
            "and guide the same arguments, and a loader of (x, label) pairs for model(x) a collate_fn that leaves the "
            "label out; a minibatch that is a dict is arguments by name, one in a tuple, (batch,), is one argument"
        ) from error


def named(model: PyroCallable, data: Any) -> Any:
    """Return data of :func:`~pyro_aevb.training.fit`: a dict is arguments by name, if the model has these names.

    Args:
        model: p(x, z).
        data: anything; a dict with other names is one argument.
    """
    if not isinstance(data, dict):
        return data
    bare = _without_handlers(model)
    try:
        inspect.signature(bare.forward if isinstance(bare, nn.Module) else bare).bind(**data)
    except (TypeError, ValueError):
        return Arguments(data)
    return Arguments(**data)


def given(**options: tuple[Any, Any]) -> dict[str, Any]:
    """Return the options that aren't at their defaults; each is passed with its default, (value, default)."""
    return {name: value for name, (value, default) in options.items() if value != default}


def check_options(fns: Sequence[Any], call: Arguments, **options: Any) -> None:
    """Raise ``TypeError`` if an option of ours is an argument of the model's or the guide's too, and could mean both.

    Args:
        fns: model and guide; ``None`` is a guide that there isn't.
        call: what they are called with.
        options: by name, those that were given.
    """
    for fn in fns:
        bare = _without_handlers(fn)
        try:
            signature = inspect.signature(bare.forward if isinstance(bare, nn.Module) else bare)
            taken = set(signature.bind_partial(*call.args, **call.kwargs).arguments)
        except (TypeError, ValueError):
            continue  # it has none that could be looked at, or another error than this
        both = [name for name in options if name in signature.parameters and name not in taken]
        if both:
            raise TypeError(
                f"expected an option with a name of its own, got {both[0]}=, which is an argument of the model or the "
                f"guide too; pass theirs in Arguments(x, {both[0]}=...), by position, or beforehand: "
                f"functools.partial(model, {both[0]}=...)"
            )


def takes(fn: PyroCallable | None, name: str, call: Arguments) -> bool:
    """Return whether a model or a guide has an argument of this name, and the call leaves it open.

    Args:
        fn: the model or the guide; ``None`` is a guide that there isn't.
        name: of the argument; ``**kwargs`` are no such argument.
        call: what it is called with.
    """
    bare = _without_handlers(fn)
    try:
        signature = inspect.signature(bare.forward if isinstance(bare, nn.Module) else bare)
        return name in signature.parameters and name not in signature.bind_partial(*call.args, **call.kwargs).arguments
    except (TypeError, ValueError):
        return False  # it has none that could be looked at


def check_callables(model: Any, guide: Any) -> None:
    """Raise ``TypeError`` unless both are callable; the guide may be ``None``."""
    for half, fn in (("model", model), ("guide", guide)):
        if fn is not None and not callable(fn):
            raise TypeError(
                f"expected a callable {half}, got {type(fn).__name__}; pass two Pyro functions, then the data: "
                "(vae.model, vae.guide, x)"
            )


def _without_handlers(fn: Any) -> Any:
    """Return the function inside of Pyro's handlers."""
    while isinstance(fn, functools.partial):
        if isinstance(fn, _bound_partial):
            fn = fn.func
        elif fn.func is _context_wrap:
            fn = fn.args[1]
        else:
            break
    return fn


def run_pair(
    model: PyroCallable, guide: PyroCallable | None, args: tuple[Any, ...], kwargs: Kwargs = NO_KWARGS
) -> tuple[Trace | None, Trace]:
    """Return a run's traces, (guide, model); the first is ``None`` without a guide."""
    return (None, trace_model(model, None, args, kwargs)) if guide is None else trace_pair(model, guide, args, kwargs)


def _run_unseeded(
    model: PyroCallable, guide: PyroCallable | None, args: tuple[Any, ...], kwargs: Kwargs
) -> tuple[Trace | None, Trace]:
    """Return :func:`run_pair`; raise ``ValueError`` if it seeds torch, but for a first run, which may make modules."""
    for _ in range(2):
        mark_seed()
        traces = run_pair(model, guide, args, kwargs)
        if has_marked_seed():
            return traces
    raise ValueError(
        "expected a model and a guide that leave torch's seed alone, got one that sets it: each step and each particle "
        "would have the same noise; seed once, before training, pyro.set_rng_seed(0), and draw numbers that stay the "
        "same from a generator of their own, torch.Generator().manual_seed(0)"
    )


def check_supports(
    model: PyroCallable, guide: PyroCallable | None, args: tuple[Any, ...], unchecked: Collection[str]
) -> None:
    """Raise ``ValueError`` for data outside of the likelihood's support, whatever else is wrong with the pair."""
    with pyro.validation_enabled(False):
        _, model_trace = on_a_side(lambda: run_pair(model, guide, args))
    for name, site in observed_nodes(model_trace):
        if name not in unchecked:
            wrong = outside(site)
            if wrong is not None and wrong.any():
                raise outside_error(name, site["fn"], site["value"])


def families(reading: Reading) -> dict[str, str]:
    """Return the names of the sites' distributions, by "model.SITE" and "guide.SITE"."""
    halves = {"model": reading.model, "guide": reading.guide}
    return {f"{half}.{n}": type(innermost(s.fn)).__name__ for half, sites in halves.items() for n, s in sites.items()}


@torch.no_grad()
def non_finite_terms(
    model: PyroCallable, guide: PyroCallable | None, args: tuple[Any, ...], parameters: Mapping[str, Parameter]
) -> str:
    """Return which parameters, latents and log probabilities aren't finite when the pair is run from here, in words."""
    found = [f"parameter {n!r}" for n, p in parameters.items() if not torch.isfinite(p.unconstrained).all()]
    with pyro.validation_enabled(False), poutine.block():
        guide_trace, model_trace = run_pair(model, guide, args, NO_KWARGS)
        reading = read_traces(model_trace, guide_trace, number_of_datapoints(args))
        for where, sites in (("guide", reading.guide), ("model", reading.model)):
            for name, site in sites.items():
                if site.role in ("subsample", "deterministic"):
                    continue
                if not torch.isfinite(site.value).all():
                    found.append(f"value of site {name!r} in the {where}")
                elif not _is_density_finite(site):
                    found.append(f"log probability of site {name!r} in the {where}")
    return ", ".join(found) or "none when run again"


def _is_density_finite(site: Site) -> bool:
    """Return whether a site's log probability is finite; one that has none has another error than that."""
    try:
        return bool(torch.isfinite(density(site.name, site.fn, site.value)).all())
    except ValueError:
        return True
