"""KL(q || p) of two distributions of different batch shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import ContinuousBernoulli, Uniform, kl

WRONG = ({Uniform, ContinuousBernoulli},)  # torch's are infinite where both are over (0, 1), in either order


def kl_divergence(q: Any, p: Any) -> Tensor:
    """Return KL(q || p) in nats, of the batch shape of both together.

    torch's own takes a mask of one for the other's where either is a Bernoulli, and so needs equal shapes.  Its closed
    forms of a uniform distribution and a continuous Bernoulli one are wrong, and count as none.

    Args:
        q: a distribution.
        p: another.

    Raises:
        NotImplementedError: for a pair without a closed form.

    >>> from pyro_aevb.distributions.kl import kl_divergence
    >>> kl_divergence(dist.Bernoulli(torch.tensor([[0.5], [1.0]])), dist.Bernoulli(torch.tensor([0.5, 0.5])))
    tensor([[0.0000, 0.0000],
            [0.6931, 0.6931]])
    """
    if any(all(any(isinstance(_inside(fn), kind) for fn in (q, p)) for kind in pair) for pair in WRONG):
        raise NotImplementedError("torch's KL of a Uniform and a ContinuousBernoulli is infinite where it shouldn't be")
    if q.batch_shape != p.batch_shape:
        shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        q, p = (each if each.batch_shape == shape else each.expand(shape) for each in (q, p))
    return kl.kl_divergence(q, p)


def _inside(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn
