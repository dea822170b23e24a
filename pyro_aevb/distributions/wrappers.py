"""Wrappers of distributions: what is inside of them."""

from __future__ import annotations

from typing import Any

from pyro import distributions as dist

WRAPPERS = (dist.Independent, dist.MaskedDistribution, dist.ExpandedDistribution)


def innermost(fn: Any) -> Any:
    """Return the distribution inside of ``.to_event``, ``.mask`` and ``.expand``."""
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    return fn
