"""A pair run once more with the values of an earlier run, and the log densities of its sites then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_aevb.model_guide.reading import Reading


class Given(Messenger):
    """Give what would be drawn its value: latents, and the indices of a plate that is given none.

    The sites are latents all the same.

    Args:
        values: by the site's name.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and msg["name"] in self._values:
            msg["value"], msg["done"] = self._values[msg["name"]], True


def log_densities(reading: Reading) -> dict[str, Tensor]:
    """Return the log densities of the sites of both halves, (1, M) in nats, by "model.<name>" and "guide.<name>".

    Args:
        reading: of one run.
    """
    sites = {f"model.{name}": site for name, site in (reading.latents | reading.observations).items()}
    sites |= {f"guide.{name}": site for name, site in reading.proposals.items()}
    return {name: reading.log_prob(site) for name, site in sites.items()}
