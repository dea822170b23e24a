"""Observations that are sampled in place of what the model was given, and read as observations all the same."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pyro.poutine.messenger import Messenger


class Dreaming(Messenger):
    """Sample the observed sites of these names, and keep what they observed; other observed sites stay as they are.

    The names are :attr:`.Reading.observed`: a global latent that was given its value isn't among them, and keeps it.

    Args:
        names: of the sites.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"] in self._names:
            msg["infer"] = {**(msg["infer"] or {}), "obs": msg["value"], "dreamed": True}
            msg["is_observed"], msg["value"], msg["done"] = False, None, False
