"""The weight of a site beside N/M: a scale of one number, or one a datapoint, that model and guide agree on."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.capture.graph import is_tracing
from pyro_aevb.model_guide.sites import DataPlate, Scale


def weight_of(name: str, scale: Any, own: float, plate: DataPlate, *, local: bool) -> Scale:
    """Return the site's scale without the plate's N/M: a number, a tensor of shape (), or (M,), one a datapoint.

    A scale stands where it meets the site's log probabilities, in Pyro as here: (M,) is one a datapoint in a data plate
    at dim=-1, and (M, 1) in one at dim=-2.

    Args:
        name: the site's.
        scale: the plates' and that of ``poutine.scale``, multiplied.
        own: N/M, or 1 outside of the data plate.
        plate: that of the datapoints.
        local: whether the site is in it.

    Raises:
        ValueError: for one number for each entry of another plate.
    """
    weight: Scale = scale / own
    if not isinstance(weight, Tensor):
        return 1.0 if math.isclose(weight, 1.0, rel_tol=1e-12) else float(weight)
    if weight.numel() == 1:
        return weight.reshape(())
    shape = (plate.size, *(1,) * (-plate.dim - 1))
    if local and weight.shape[max(weight.dim() - len(shape), 0) :] == shape and weight.numel() == plate.size:
        return weight.reshape(plate.size)
    one_each = f", or one a datapoint, of shape {shape} in the data plate at dim={plate.dim}," if local else ""
    raise ValueError(
        f"expected a scale of one number{one_each} for site {name!r}, got {tuple(weight.shape)}; write each entry as a "
        f"site of its own, in a loop: with pyro.poutine.scale(scale=scale[i]): pyro.sample(f'{name}_{{i}}', ...)"
    )


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
