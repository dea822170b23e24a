"""Angles: their mean on the circle, and their spread around it; directions, whose mean is one.

Shapes: L draws, N datapoints.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_aevb.distributions.angles import direction, is_angle, is_directional, mean, moment
from pyro_aevb.distributions.table import ColumnsDistribution
from pyro_aevb.model_guide.reading import Reading


def are_angles(fn: Any) -> Tensor:
    """Return whether the cells of a distribution are angles, of bool, of a shape that its values' broadcasts to.

    Args:
        fn: a distribution.

    Raises:
        ValueError: for angles in another unit than radians.
    """
    if isinstance(fn, ColumnsDistribution):
        return torch.tensor([is_angle(column) for column in fn.columns])
    return torch.tensor(is_angle(fn))


def angles_of(reading: Reading) -> dict[str, Tensor]:
    """Return the latents that are angles, in the model or the guide, {site: as :func:`are_angles`}."""
    found: dict[str, Tensor] = {}
    for site in (*reading.latents.values(), *reading.proposals.values()):
        if site.name in reading.latents and (angle := are_angles(site.fn)).any():
            found[site.name] = angle | found.get(site.name, angle)
    return found


NOT_ONE = torch.tensor(False)


def moments(fn: Any) -> Tensor:
    """Return what averages over draws of z are taken of: the mean of x, of angles E[e^(i x)], of directions a draw.

    Where E[e^(i x)] can't be written down it is e^(i x) at a draw.

    Args:
        fn: p(x|z).

    Raises:
        NotImplementedError: for a distribution whose mean can't be written down.
    """
    if isinstance(fn, ColumnsDistribution):
        return torch.cat([moments(column) for column in fn.columns], -1)
    if is_angle(fn):
        try:
            return moment(fn)
        except NotImplementedError:
            return on_the_circle(fn.sample(), are_angles(fn))
    return fn.sample() if is_directional(fn) else mean(fn)


def on_the_circle(values: Tensor, angle: Tensor) -> Tensor:
    """Return e^(i x) of the values that are angles, and the others as they are; all real if none is.

    Args:
        values: (..., N, ...), complex for ones that are on it.
        angle: as :func:`are_angles`.
    """
    values = values if values.is_floating_point() or values.is_complex() else values.to(torch.get_default_dtype())
    if values.is_complex() or not angle.any():
        return values
    return torch.where(angle.to(values.device), torch.polar(torch.ones_like(values), values), values)


def average(values: Tensor, angle: Tensor = NOT_ONE) -> Tensor:
    """Return the mean over draws, (N, ...); of angles that on the circle, the direction of the mean of e^(i z).

    Where that is 0 it has none, NaN.

    Args:
        values: (L, N, ...), draws or :func:`moments`.
        angle: as :func:`are_angles`.

    >>> from pyro_aevb.posterior.angles import average
    >>> average(torch.tensor([3.0, -3.0]), torch.tensor(True))
    tensor(3.1416)
    """
    found = on_the_circle(values, angle).mean(0)
    return torch.where(angle.to(found.device), direction(found), found.real) if found.is_complex() else found


def deviations(values: Tensor, angle: Tensor = NOT_ONE) -> Tensor:
    """Return numbers (L, N, ...) whose mean has the standard error that :func:`average` has.

    Of angles they are sin(z - mean) / |m|, with m the mean of e^(i z): the change of its direction with each draw.

    Args:
        values: (L, N, ...), draws or :func:`moments`.
        angle: as :func:`are_angles`.
    """
    values = on_the_circle(values, angle)
    if not values.is_complex():
        return values
    centre = values.mean(0)
    back = torch.polar(torch.ones_like(centre.real), -direction(centre))
    along = (values * back).imag / centre.abs()
    return torch.where(angle.to(values.device), along, values.real)


def place_of(mean: Tensor, fn: Any) -> Tensor:
    """Return the mean of a site as a value of it: of directions that of length 1.

    Args:
        mean: (N, ...).
        fn: the site's distribution.
    """
    return mean / mean.norm(dim=-1, keepdim=True) if is_directional(fn) else mean


def place_deviations(values: Tensor, fn: Any) -> Tensor:
    """Return numbers (L, N, ...) whose mean has the standard error of the average as a value of the site.

    Of directions they are the draws' parts across their mean m, over |m|.

    Args:
        values: (L, N, ...), draws or :func:`moments`.
        fn: the site's distribution.
    """
    if not is_directional(fn):
        return deviations(values, are_angles(fn))
    centre = values.mean(0)
    towards = place_of(centre, fn)
    return (values - (values * towards).sum(-1, keepdim=True) * towards) / centre.norm(dim=-1, keepdim=True)
