"""What a learner checks before it trains on anything, and what it says when a loss is no longer a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_aevb.model_guide.parameters import Parameter
from pyro_aevb.model_guide.sites import PyroCallable, check_sites, latent_sites, observed_sites


class NonFiniteLossError(FloatingPointError):
    """A loss that is NaN or infinite; the message names the sites and parameters that are."""


def check_data(*args: Any) -> None:
    """Raise unless every argument is a non-empty tensor of finite numbers, all with the same number of datapoints.

    Raises ``TypeError`` for what isn't a tensor and ``ValueError`` for the rest.

    >>> from pyro_aevb.model_guide import check_data
    >>> check_data(torch.tensor([[1.0], [float("nan")]]))
    Traceback (most recent call last):
    ...
    ValueError: expected finite data, got 1 NaN or infinite value in argument 0, the first in datapoint 1; ...
    """
    for i, x in enumerate(args):
        if not isinstance(x, Tensor):
            raise TypeError(f"expected tensors, got {type(x).__name__} as argument {i}; use torch.as_tensor(...)")
        if x.dim() == 0 or not len(x):
            raise ValueError(f"expected at least one datapoint, got shape {tuple(x.shape)} as argument {i}")
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


@torch.no_grad()
def check_pair(model: PyroCallable, guide: PyroCallable | None, *args: Tensor) -> None:
    """Run model and guide once and raise ``ValueError`` where they break the contract; leave random state as it was.

    The contract: an observed site, the guide's latents those of the model, data inside the likelihood's support.
    """
    with torch.random.fork_rng(), poutine.block():
        if guide is None:
            model_trace = poutine.trace(model).get_trace(*args)
        else:
            guide_trace = poutine.trace(guide).get_trace(*args)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
            check_sites(model_trace, guide_trace)
    observed = observed_sites(model_trace)
    if not observed:
        raise ValueError("expected a model that observes data, got no observed site; write pyro.sample(..., obs=x)")
    for name, site in observed.items():
        support = site["fn"].support
        inside = support.check(site["value"])
        if site["mask"] is not None and site["mask"] is not True:
            inside = inside | ~torch.as_tensor(site["mask"])
        if not inside.all():
            value = site["value"]
            binary = (
                "; grey pixels are made binary by threshold, statically (sampled once) or dynamically (sampled each "
                "visit): see pyro_aevb.datasets, or kept grey under a ContinuousBernoulli"
                if "boolean" in repr(support).lower()
                else "; rescale the data or choose a likelihood with that support"
            )
            raise ValueError(
                f"expected data inside the support of site {name!r}, {support}, got values from "
                f"{value.min().item():.4g} to {value.max().item():.4g}{binary}"
            )


@torch.no_grad()
def non_finite_terms(
    model: PyroCallable, guide: PyroCallable | None, args: tuple[Tensor, ...], parameters: Mapping[str, Parameter]
) -> str:
    """Say which parameters, latents and log probabilities aren't finite when the pair is run from here."""
    found = [f"parameter {n!r}" for n, p in parameters.items() if not torch.isfinite(p.unconstrained).all()]
    with pyro.validation_enabled(False), poutine.block():
        guide_trace = poutine.trace(guide).get_trace(*args) if guide is not None else None
        replayed = poutine.replay(model, trace=guide_trace) if guide_trace is not None else model
        model_trace = poutine.trace(replayed).get_trace(*args)
        for where, trace in (("guide", guide_trace), ("model", model_trace)):
            if trace is None:
                continue
            for name, site in (latent_sites(trace) | observed_sites(trace)).items():
                if not torch.isfinite(site["value"]).all():
                    found.append(f"value of site {name!r} in the {where}")
                elif not torch.isfinite(site["fn"].log_prob(site["value"])).all():
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
