"""The checks that every entry point begins with, and the error for a loss that is no longer a number."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyro_aevb.capture.guards import PythonState
from pyro_aevb.model_guide.modes import evaluating
from pyro_aevb.model_guide.parameters import Parameter
from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.supports import check_support, is_unchecked, outside, outside_error
from pyro_aevb.model_guide.traces import (
    NO_KWARGS,
    Kwargs,
    PyroCallable,
    number_of_datapoints,
    on_a_side,
    trace_model,
    trace_pair,
)


class NonFiniteLossError(FloatingPointError):
    """A loss that is NaN or infinite; the message names the sites and parameters that are."""


def check_data(*args: Any) -> None:
    """Check that every argument is a non-empty tensor of finite numbers, all with the same number of datapoints.

    Args:
        args: a minibatch.

    Raises:
        TypeError: for what isn't a tensor.
        ValueError: for the rest.

    >>> from pyro_aevb.model_guide import check_data
    >>> check_data(torch.tensor([[1.0], [float("nan")]]))
    Traceback (most recent call last):
    ...
    ValueError: expected finite data, got 1 NaN or infinite value in argument 0, the first in datapoint 1; ...
    """
    for i, x in enumerate(args):
        if not isinstance(x, Tensor):
            raise TypeError(
                f"expected tensors, got {type(x).__name__} as argument {i}; use torch.as_tensor(...) for data; bind "
                "what isn't data beforehand: functools.partial(model, name=value), and the guide likewise"
            )
        if x.dim() == 0 or not len(x):
            raise ValueError(
                f"expected at least one datapoint, got shape {tuple(x.shape)} as argument {i}; a number is bound "
                "beforehand: functools.partial(model, name=value), and the guide likewise"
            )
        if len(x) != len(args[0]):
            raise ValueError(f"expected {len(args[0])} datapoints in argument {i} as in argument 0, got {len(x)}")
        if torch.isfinite(x.sum()):  # a thirtieth of the time of looking at each; finite numbers too large to add go on
            continue
        bad = ~torch.isfinite(x)
        if bad.any():
            count, first = int(bad.sum()), int(bad.reshape(len(x), -1).any(1).nonzero()[0])
            raise ValueError(
                f"expected finite data, got {count} NaN or infinite value{'s' * (count > 1)} in argument {i}, "
                f"the first in datapoint {first}; "
                "drop or fill them, or mask them in the model (poutine.mask) with finite values in their place"
            )


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
    if modules is None:
        modules = PythonState([fn for fn in (model, guide) if fn is not None]).modules
    with evaluating(modules):
        guide_trace, model_trace = on_a_side(lambda: run_pair(model, guide, args, kwargs))
    reading = read_traces(model_trace, guide_trace, number_of_datapoints(args, kwargs))
    for name, site in model_trace.nodes.items():
        if site["type"] == "sample" and site["is_observed"]:
            check_support(name, site)
    return reading


def run_pair(
    model: PyroCallable, guide: PyroCallable | None, args: tuple[Any, ...], kwargs: Kwargs = NO_KWARGS
) -> tuple[Trace | None, Trace]:
    """Return a run's traces, (guide, model); the first is ``None`` without a guide."""
    return (None, trace_model(model, None, args, kwargs)) if guide is None else trace_pair(model, guide, args, kwargs)


def check_supports(
    model: PyroCallable, guide: PyroCallable | None, args: tuple[Any, ...], unchecked: Collection[str]
) -> None:
    """Raise ``ValueError`` for data outside of the likelihood's support, whatever else is wrong with the pair."""
    with pyro.validation_enabled(False):
        _, model_trace = on_a_side(lambda: run_pair(model, guide, args))
    for name, site in model_trace.nodes.items():
        if site["type"] == "sample" and name not in unchecked:
            wrong = outside(site)
            if wrong is not None and wrong.any():
                raise outside_error(name, site["fn"], site["value"])


def unchecked_sites(reading: Reading) -> frozenset[str]:
    """Return the observed sites whose distributions were made without validation."""
    return frozenset(name for name, site in reading.model.items() if is_unchecked(site.fn))


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
                elif not torch.isfinite(site.fn.log_prob(site.value)).all():
                    found.append(f"log probability of site {name!r} in the {where}")
    return ", ".join(found) or "none when run again"


def check_sizes(args: tuple[Tensor, ...], **sizes: int | None) -> None:
    """Raise unless there are data, finite ones, and every size that is given is 1 or more."""
    if not args:
        raise ValueError("expected at least one datapoint, got none; pass x of shape (N, ...)")
    check_data(*args)
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"expected {name} of 1 or more, got {size}")
