"""KL(q || p) of two distributions of different batch shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl


def kl_divergence(q: Any, p: Any) -> Tensor:
    """Return KL(q || p) in nats, of the batch shape of both together.

    torch's own takes a mask of one for the other's where either is a Bernoulli, and so needs equal shapes.

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
    if q.batch_shape != p.batch_shape:
        shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        q, p = (each if each.batch_shape == shape else each.expand(shape) for each in (q, p))
    return kl.kl_divergence(q, p)
