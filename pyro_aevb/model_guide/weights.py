"""The weight of a site beside N/M: a scale of one number, or one a datapoint, that model and guide agree on."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.capture.graph import is_tracing
from pyro_aevb.model_guide.sites import Scale


def weight_of(name: str, scale: Any, own: float) -> Scale:
    """Return the site's scale without the plate's N/M."""
    weight: Scale = scale / own
    if isinstance(weight, Tensor):
        if weight.dim() > 1:
            raise ValueError(
                f"expected a scale of one number, or one a datapoint, for site {name!r}, got {tuple(weight.shape)}; "
                "sum it over the plates within a datapoint, or write it into the distribution"
            )
        return weight
    return 1.0 if math.isclose(weight, 1.0, rel_tol=1e-12) else float(weight)


def is_one(weight: Scale) -> bool:
    """Return whether a weight changes nothing."""
    return isinstance(weight, float) and weight == 1.0


def are_equal(a: Scale, b: Scale) -> bool:
    """Return whether two weights are the same, up to rounding."""
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        if is_tracing():  # values can't be read; the eager runs beside a graph compare them
            return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-6, atol=0)
    return math.isclose(a, b, rel_tol=1e-6)


def one_weight(name: str, model: Scale, guide: Scale) -> Scale:
    """Return the one weight of a latent's log p and log q, from whichever side has it."""
    for given, other in ((model, guide), (guide, model)):
        if is_one(other):
            return given
    if are_equal(model, guide):
        return model
    raise ValueError(
        f"expected one scale for both sides of the KL of site {name!r}, got {_shown(model)} in the model and "
        f"{_shown(guide)} in the guide; write poutine.scale around the site in one of them, it counts for both"
    )


def _shown(weight: Scale) -> str:
    return f"a tensor {tuple(weight.shape)}" if isinstance(weight, Tensor) and weight.dim() else f"{float(weight):g}"
