"""Angles: their mean on the circle, and their spread around it; directions, whose mean is one.

Shapes: L draws, N datapoints.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.supports import is_directional, is_periodic


def angles_of(reading: Reading) -> frozenset[str]:
    """Return the names of the latents that are angles, in the model or the guide."""
    sites = [*reading.latents.values(), *reading.proposals.values()]
    return frozenset(site.name for site in sites if is_periodic(site.fn)) & frozenset(reading.latents)


def average(draws: Tensor, *, angle: bool) -> Tensor:
    """Return the mean over draws, (N, ...); of angles that on the circle, the direction of the mean of e^(i z).

    Args:
        draws: (L, N, ...).
        angle: whether they are angles.

    >>> from pyro_aevb.posterior.angles import average
    >>> average(torch.tensor([3.0, -3.0]), angle=True)
    tensor(3.1416)
    """
    if angle:
        return torch.atan2(draws.sin().mean(0), draws.cos().mean(0))
    return (draws if draws.is_floating_point() else draws.to(torch.get_default_dtype())).mean(0)


def unrolled(angles: Tensor) -> Tensor:
    """Return angles as the numbers, equal to them but for turns, that are within half a turn of their mean.

    Args:
        angles: (L, N, ...).
    """
    mean = average(angles, angle=True)
    return mean + wrapped(angles - mean)


def wrapped(angles: Tensor) -> Tensor:
    """Return angles as the numbers from -pi to pi that are equal to them but for turns."""
    return torch.remainder(angles + math.pi, 2 * math.pi) - math.pi


def place_of(mean: Tensor, fn: Any) -> Tensor:
    """Return the mean of a latent as a value of it: of directions that of length 1.

    Args:
        mean: (N, ...).
        fn: the latent's distribution.
    """
    return mean / mean.norm(dim=-1, keepdim=True) if is_directional(fn) else mean


def in_a_line(draws: Tensor, fn: Any) -> Tensor:
    """Return draws of a site as numbers whose deviations are distances: angles unrolled, others as they are.

    Args:
        draws: (L, N, ...).
        fn: the site's distribution.
    """
    return unrolled(draws) if is_periodic(fn) else draws
