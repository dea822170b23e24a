"""x of several dimensions: the likelihoods are of rows of it, and p(x|z) is of the whole.

Shapes: D data dimensions, the product of those of x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor


def outputs_in_shape(outputs: Tensor, x_shape: Sequence[int]) -> Tensor:
    """Return outputs of which a likelihood makes rows of x, where x has several dimensions.

    Args:
        outputs: (..., D * outputs_per_dim).
        x_shape: of a datapoint, of product D.

    Returns:
        (..., *x_shape[:-1], x_shape[-1] * outputs_per_dim), in each row the first outputs, then the second ones.

    >>> from pyro_aevb.vae.likelihoods import Gaussian
    >>> from pyro_aevb.vae.shapes import outputs_in_shape
    >>> outputs = outputs_in_shape(torch.arange(12.0), (2, 3))  # 6 means, 6 logarithms of variances
    >>> Gaussian()(outputs).mean.tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    """
    if len(x_shape) == 1:
        return outputs
    return outputs.unflatten(-1, (-1, *x_shape)).movedim(-1 - len(x_shape), -2).flatten(-2)


def of_whole(likelihood: Any, x_shape: Sequence[int]) -> Any:
    """Return p(x|z) of a whole x, where it was made for rows of x, by ``outputs_in_shape``.

    Args:
        likelihood: of independent entries, made by ``.to_event(1)``.
        x_shape: of a datapoint.

    Raises:
        ValueError: for a likelihood whose entries depend on one another.
    """
    if len(x_shape) == 1:
        return likelihood
    if isinstance(likelihood, dist.Independent) and likelihood.reinterpreted_batch_ndims == 1:
        return likelihood.base_dist.to_event(len(x_shape))
    raise ValueError(
        f"expected a likelihood of independent entries for x of shape {tuple(x_shape)}, made by .to_event(1), got "
        f"{type(likelihood).__name__}; use another likelihood, or a flat x_dim={math.prod(x_shape)}"
    )
