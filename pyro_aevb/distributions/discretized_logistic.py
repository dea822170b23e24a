"""A distribution of pixel levels: a logistic density integrated over the intervals around whole numbers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.types import _size

_ONE = torch.Size()


class DiscretizedLogistic(TorchDistribution):
    r"""P(x) over the levels 0, ..., L-1: the mass of a logistic density in (x - 1/2, x + 1/2), the ends open.

    .. math:: P(x) = \sigma\left(\frac{x + 1/2 - \text{loc}}{\text{scale}}\right)
        - \sigma\left(\frac{x - 1/2 - \text{loc}}{\text{scale}}\right)

    (Salimans et al. 2017, PixelCNN++; Kingma et al. 2016, Appendix C).

    Args:
        loc: in levels, broadcast against ``scale``.
        scale: in levels, positive.
        num_levels: L, 2 or more.
        validate_args: as in every Pyro distribution.

    Raises:
        ValueError: for fewer levels.

    >>> from pyro_aevb.distributions import DiscretizedLogistic
    >>> distribution = DiscretizedLogistic(torch.tensor(100.0), torch.tensor(5.0), num_levels=256)
    >>> levels = torch.arange(256.0)
    >>> round(distribution.log_prob(levels).exp().sum().item(), 4), round(distribution.mean.item(), 2)
    (1.0, 100.0)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012  # torch's own style

    def __init__(self, loc: Tensor, scale: Tensor, num_levels: int = 256, validate_args: bool | None = None) -> None:
        if num_levels < 2:
            raise ValueError(f"expected num_levels of 2 or more, got {num_levels}")
        self.loc, self.scale = broadcast_all(loc, scale)
        self.num_levels = num_levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The whole numbers from 0 to L-1."""
        return constraints.integer_interval(0, self.num_levels - 1)

    def expand(self, batch_shape: Any, _instance: DiscretizedLogistic | None = None) -> DiscretizedLogistic:
        """Return the distribution with a larger batch shape."""
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        new.loc, new.scale, new.num_levels = (
            self.loc.expand(batch_shape),
            self.scale.expand(batch_shape),
            self.num_levels,
        )
        super(DiscretizedLogistic, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value)."""
        if self._validate_args:
            self._validate_sample(value)
        upper, lower = (value + 0.5 - self.loc) / self.scale, (value - 0.5 - self.loc) / self.scale
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)), which loses no digits in the tails.
        log_below = torch.where(value >= self.num_levels - 1, 0.0, F.logsigmoid(upper))
        log_above = torch.where(value <= 0, 0.0, F.logsigmoid(-lower))
        inside = (value > 0) & (value < self.num_levels - 1)
        return log_below + log_above + torch.where(inside, torch.log(-torch.expm1(-1 / self.scale)), 0.0)

    @torch.no_grad()
    def sample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw levels, as numbers of the parameters' dtype."""
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        tiny = torch.finfo(u.dtype).tiny
        x = self.loc + self.scale * torch.logit(u.clamp(tiny, 1 - torch.finfo(u.dtype).eps))
        return x.round().clamp(0, self.num_levels - 1)

    @property
    def mean(self) -> Tensor:
        """The sum of P(x >= k) over k = 1, ..., L-1."""
        k = torch.arange(1, self.num_levels, dtype=self.loc.dtype, device=self.loc.device)
        return torch.sigmoid((self.loc.unsqueeze(-1) - k + 0.5) / self.scale.unsqueeze(-1)).sum(-1)

    @property
    def variance(self) -> Tensor:
        """E x^2 - (E x)^2, with E x^2 the sum of (2k - 1) P(x >= k)."""
        k = torch.arange(1, self.num_levels, dtype=self.loc.dtype, device=self.loc.device)
        above = torch.sigmoid((self.loc.unsqueeze(-1) - k + 0.5) / self.scale.unsqueeze(-1))
        return ((2 * k - 1) * above).sum(-1) - above.sum(-1).square()
