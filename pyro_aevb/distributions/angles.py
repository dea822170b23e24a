r"""Distributions of angles and of directions, and their means on the circle.

.. math:: \text{mean} = \arg m, \qquad m = E[e^{i x}]

Of a von Mises distribution m is I_1(k) / I_0(k) e^(i loc), with k its concentration; of a mixture it is the weighted
sum of its components'.  Angles are in radians.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import transforms

from pyro_aevb.distributions.wrappers import WRAPPERS, innermost

PARTS = ("base_dist", "component_distribution", "component0", "component1")  # where distributions keep others
TOLD = (
    torch.distributions.VonMises,
    dist.SineBivariateVonMises,
    dist.Delta,
    torch.distributions.Normal,
    torch.distributions.MultivariateNormal,
    torch.distributions.LowRankMultivariateNormal,
    torch.distributions.Laplace,
    torch.distributions.StudentT,
    torch.distributions.Uniform,
)  # whose own mean is that on the circle too: that of a peak, which falls off alike on both sides


def is_periodic(fn: Any) -> bool:
    """Return whether a distribution is one of angles, or is made of one of angles."""
    if isinstance(fn, torch.distributions.VonMises | dist.SineBivariateVonMises | dist.SineSkewed):
        return True
    return any(is_periodic(getattr(fn, part)) for part in PARTS if hasattr(fn, part))


def is_angle(fn: Any) -> bool:
    """Return whether a distribution is one of angles, whose density repeats beyond (-pi, pi).

    Args:
        fn: a distribution, or a mixture or a shift of it, expanded, masked or not.

    Raises:
        ValueError: for angles in another unit than radians.

    >>> from pyro_aevb.distributions.angles import is_angle
    >>> is_angle(dist.VonMises(0.0, 1.0).expand([2]).to_event(1)), is_angle(dist.Normal(0.0, 1.0))
    (True, False)
    """
    if not is_periodic(fn):
        return False
    found = [fn]
    for each in found:
        if isinstance(each, torch.distributions.TransformedDistribution) and not all(map(_turns, each.transforms)):
            raise ValueError(
                f"expected angles in radians, whose turn is 2 pi, got {type(innermost(each.base_dist)).__name__} under "
                f"{each.transforms}; give the site the distribution in radians, and transform the value that it has"
            )
        found += [getattr(each, part) for part in PARTS if hasattr(each, part)]
    return True


def base_support(fn: Any) -> Any:
    """Return the support of one cell of a distribution of independent ones, or of a mixture."""
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def is_directional(fn: Any) -> bool:
    """Return whether the last dimension of a distribution's values has length 1, which their means don't have.

    It is a direction, or a row of the Cholesky factor of a correlation.
    """
    try:
        support = base_support(fn)
    except (NotImplementedError, AttributeError):
        return False
    return any(support is each for each in (dist.constraints.sphere, dist.constraints.corr_cholesky))


def mean(fn: Any) -> Tensor:
    """Return the mean of a distribution: of angles that on the circle, NaN where E[e^(i x)] is 0.

    Raises:
        NotImplementedError: if it can't be written down.
        ValueError: for angles in another unit than radians.

    >>> from pyro_aevb.distributions.angles import mean
    >>> both = dist.VonMises(torch.tensor([3.0, -3.0]), 5.0)
    >>> mean(dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), both)).abs()
    tensor(3.1416)
    """
    if is_angle(fn):
        return mean_angle(fn)
    if isinstance(innermost(fn), torch.distributions.MixtureSameFamily) and is_directional(fn):
        raise NotImplementedError  # the components' own are of length 1, however sure these are
    return fn.mean


def mean_angle(fn: Any) -> Tensor:
    """Return the mean on the circle of a distribution whose values are angles, whether it is one of angles or not.

    Raises:
        NotImplementedError: if it can't be written down.
    """
    if isinstance(innermost(fn), TOLD):
        return fn.mean
    return direction(moment(fn))


def direction(moment: Tensor) -> Tensor:
    """Return the direction of E[e^(i x)], in radians from -pi to pi; NaN where that is 0 but for rounding.

    Args:
        moment: complex.
    """
    return torch.where(moment.abs() > 10 * torch.finfo(moment.dtype).eps, moment.angle(), torch.nan)


def wrapped(angles: Tensor) -> Tensor:
    """Return angles as the numbers from -pi to pi that are equal to them but for turns."""
    return torch.remainder(angles + math.pi, 2 * math.pi) - math.pi


def near(centre: Tensor, values: Tensor, angle: Tensor) -> Tensor:
    """Return values, angles as the numbers, equal to them but for turns, that are within half a turn of a centre.

    Args:
        centre: of a shape that broadcasts to that of the values.
        values: (..., N, ...).
        angle: which of them are angles, of bool, of a shape that the values' broadcasts to.

    >>> from pyro_aevb.distributions.angles import near
    >>> near(torch.tensor(3.0), torch.tensor([-3.0, 3.1]), torch.tensor(True))
    tensor([3.2832, 3.1000])
    """
    return torch.where(angle.to(values.device), centre + wrapped(values - centre), values)


def unrolled(draws: Tensor, angle: Tensor) -> Tensor:
    """Return draws, angles as the numbers, equal to them but for turns, that are within half a turn of their mean.

    Args:
        draws: (L, N, ...).
        angle: as in :func:`near`.
    """
    return near(centre_of(draws), draws, angle) if angle.any() else draws


def centre_of(draws: Tensor) -> Tensor:
    """Return the mean on the circle of draws (L, N, ...) of angles."""
    return direction(torch.polar(torch.ones_like(draws), draws).mean(0))


def moment(fn: Any) -> Tensor:
    """Return E[e^(i x)] of each entry of x.

    Raises:
        NotImplementedError: if it can't be written down.

    >>> from pyro_aevb.distributions.angles import moment
    >>> moment(dist.Normal(torch.tensor(0.0), 1.0)).real  # exp(-1 / 2)
    tensor(0.6065)
    """
    if isinstance(fn, WRAPPERS):
        return moment(fn.base_dist).expand(*fn.batch_shape, *fn.event_shape)
    if isinstance(fn, torch.distributions.MixtureSameFamily):
        share: Tensor = fn.mixture_distribution.probs
        share = share.reshape(share.shape + (1,) * len(fn.event_shape))
        return (share * moment(fn.component_distribution)).sum(-1 - len(fn.event_shape))
    if isinstance(fn, dist.MaskedMixture):
        mask = torch.as_tensor(fn.mask)  # .mask of other distributions is a method
        mask = mask.reshape(mask.shape + (1,) * len(fn.event_shape))
        return torch.where(mask, moment(fn.component1), moment(fn.component0))
    if isinstance(fn, torch.distributions.TransformedDistribution):
        found = moment(fn.base_dist)
        for each in fn.transforms:
            if not (isinstance(each, transforms.AffineTransform) and _turns(each)):
                raise NotImplementedError
            scale, loc = (
                torch.as_tensor(value, dtype=found.real.dtype, device=found.device) for value in (each.scale, each.loc)
            )
            found = torch.where(scale < 0, found.conj(), found) * torch.polar(torch.ones_like(loc), loc)
        return found
    if isinstance(fn, torch.distributions.VonMises):
        length = torch.special.i1e(fn.concentration) / torch.special.i0e(fn.concentration)
        return torch.polar(length, fn.loc)
    if isinstance(fn, torch.distributions.Normal):
        return torch.polar((-0.5 * fn.scale.square()).exp(), fn.loc)
    if isinstance(fn, dist.Delta):
        return torch.polar(torch.ones_like(fn.v), fn.v)
    raise NotImplementedError


def _turns(transform: Any) -> bool:
    """Return whether a transform takes a turn of every angle to a turn: a shift, a reflection, a reordering."""
    if isinstance(transform, transforms.AffineTransform):
        return bool((torch.as_tensor(transform.scale).abs() == 1).all())
    if isinstance(transform, transforms.ComposeTransform):
        return all(map(_turns, transform.parts))
    if isinstance(transform, transforms.IndependentTransform):
        return _turns(transform.base_transform)
    return isinstance(transform, transforms.ReshapeTransform | dist.transforms.Permute)
