"""Affine autoregressive maps, Pyro's, with an inverse that takes any dtype and no Python control flow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pyro.distributions import transforms
from torch import Tensor


class AffineAutoregressive(transforms.AffineAutoregressive):
    r"""y = g x + (1 - g) m, gates g and means m of the dimensions before (Kingma et al. 2016, Section 4).

    The inverse is the fixed point of x = (y - (1 - g(x)) m(x)) / g(x), which J passes reach exactly: each settles one
    dimension more.  (Pyro's goes through the dimensions in Python, and in float32.)

    Args:
        network: Pyro's ``AutoRegressiveNN``, or its conditional one with the context given.

    >>> from pyro_aevb.distributions import AffineAutoregressive
    >>> from pyro.nn import AutoRegressiveNN
    >>> layer = AffineAutoregressive(AutoRegressiveNN(3, [16]))
    >>> x = torch.randn(5, 3)
    >>> bool((layer.inv(layer(x).clone()) - x).abs().max() < 1e-5)
    True
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__(network, stable=True)

    def _inverse_stable(self, y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):
            mean, logit = self.arn(x)
            gate = torch.sigmoid(logit + self.sigmoid_bias)
            x = (y - (1 - gate) * mean) / gate
        self._cached_log_scale = F.logsigmoid(logit + self.sigmoid_bias)
        return x
