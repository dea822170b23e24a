"""Supports: which numbers a site's distribution is for, and whether the data are such.

A graph runs without Pyro's validation, so the check is part of what is computed: :class:`Inside` notes for each
observation whether it lies in its support, and turns the results of a run into NaN where one doesn't.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from pyro import distributions as dist
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.distributions.wrappers import innermost

BINARY = (
    "; grey pixels are made binary by threshold, statically (sampled once) or dynamically (sampled each visit): see "
    "pyro_aevb.datasets, or kept grey under a ContinuousBernoulli"
)
ONE_SUPPORT = (
    "LogNormal(loc, scale) in the guide for a positive latent, or dist.TransformedDistribution(Normal(loc, scale), "
    "[torch.distributions.biject_to(support)])"
)
OTHERS = "; rescale the data or choose a likelihood with that support"


def is_discrete(fn: Any) -> bool:
    """Return whether a distribution says that it is over discrete values."""
    try:
        return bool(fn.support.is_discrete)
    except (NotImplementedError, AttributeError):
        return False


def is_unchecked(fn: Any) -> bool:
    """Return whether the distribution was made with ``validate_args=False``: whoever wrote that wants no check.

    While Pyro's validation is off everywhere, as it is inside a trace, every distribution looks like that.
    """
    return not all(vars(part).get("_validate_args", True) for part in (fn, innermost(fn)))


def outside(site: Any) -> Tensor | None:
    """Return where an observed site's value lies outside its support, masked entries apart; ``None``: nowhere."""
    fn = site["fn"]
    if not site["is_observed"] or site_is_subsample(site) or isinstance(innermost(fn), (dist.Unit, dist.Delta)):
        return None
    if site["mask"] is False:
        return None
    wrong = ~fn.support.check(site["value"])
    if isinstance(site["mask"], Tensor):
        wrong = wrong & site["mask"]
    return wrong


def check_support(name: str, site: Any) -> None:
    """Raise ``ValueError`` if an observed value lies outside its support, unless the distribution is unchecked."""
    wrong = None if is_unchecked(site["fn"]) else outside(site)
    if wrong is None or not wrong.any():
        return
    raise outside_error(name, site["fn"], site["value"])


def outside_error(name: str, fn: Any, value: Tensor, *, drawn: bool = False) -> ValueError:
    """Return the error that says how data outside of a site's support can be made to fit, or what is ``drawn``."""
    support = fn.support
    if drawn:
        return ValueError(
            f"expected draws of the latent {name!r} inside the support that it has in both halves, {support}, got "
            f"values from {value.min().item():.4g} to {value.max().item():.4g}; give model and guide distributions "
            f"with one support: {ONE_SUPPORT}"
        )
    return ValueError(
        f"expected data inside the support of site {name!r}, {support}, got values from {value.min().item():.4g} to "
        f"{value.max().item():.4g}{BINARY if 'boolean' in repr(support).lower() else OTHERS}"
    )


class Inside(Messenger):
    """Note inside the block whether all observations lie in their supports.

    Args:
        unchecked: the sites that are not to be looked at.

    >>> from pyro_aevb.model_guide.supports import Inside
    >>> with Inside() as inside:
    ...     _ = pyro.sample("x", dist.Bernoulli(0.5), obs=torch.tensor(0.5))
    >>> inside.or_nan(torch.tensor(1.0))
    tensor(nan)
    """

    def __init__(self, unchecked: Collection[str] = ()) -> None:
        super().__init__()
        self._unchecked = unchecked
        self._wrong: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"] not in self._unchecked and (wrong := outside(msg)) is not None:
            self._wrong.append(wrong.any())

    def or_nan(self, value: Tensor) -> Tensor:
        """Return ``value``, or NaN in its place if an observation lay outside."""
        for wrong in self._wrong:
            value = torch.where(wrong, torch.nan, value)
        return value
