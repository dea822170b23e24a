"""The values of sites, which stay what was drawn or observed: their densities are taken when the run is over."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.model_guide.sites import is_deterministic


class Unwritten(Messenger):
    """Raise ``ValueError`` at the end of the block for a site whose value was written to after it was drawn.

    >>> from pyro_aevb.model_guide.unwritten import Unwritten
    >>> with Unwritten():
    ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...     z *= 2.0
    Traceback (most recent call last):
        ...
    ValueError: expected a model and a guide that leave what they draw as it is, got the value of site 'z' written to...
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: list[tuple[str, Tensor, int]] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        if isinstance(value, Tensor) and not (value.is_inference() or site_is_subsample(msg) or is_deterministic(msg)):
            self._values.append((msg["name"], value, value._version))

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        values, self._values = self._values, []
        for name, value, version in values:
            if exc_type is None and value._version != version:
                raise ValueError(
                    "expected a model and a guide that leave what they draw as it is, got the value of site "
                    f"{name!r} written to in place: log p and log q would be those of other numbers; compute with a "
                    "copy, z.clone(), or without inplace=True"
                )
