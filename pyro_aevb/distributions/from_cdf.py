"""A reparameterised distribution of any CDF, inverted numerically."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.types import _size

from pyro_aevb.distributions.inverse_cdf import SINGLE, standard_uniform


def _ordered(bits: Tensor) -> Tensor:
    """Map the bit patterns of floats to integers in the floats' order; the map is its own inverse."""
    largest = torch.iinfo(bits.dtype).max
    return torch.where(bits < 0, bits ^ largest, bits)


class FromCDF(TorchDistribution):
    r"""The distribution of a CDF F with density p: z = F^-1(eps), found numerically, differentiated implicitly.

    The paper's last resort ("approximate inverse CDF").  eps ~ U(0, 1); z is the smallest float with F(z) >= eps, found
    by bisection over the floats in their order (32 evaluations of ``cdf`` in float32, 64 in float64, whatever the
    scale).  Differentiating F(z(eps, phi); phi) = eps gives

        dz / dphi = -(dF / dphi) / p(z)

    for every tensor phi that ``cdf`` reads, whether passed in or closed over; first derivatives only.

    Args:
        cdf: F, elementwise and increasing from 0 to 1 over the support, finite or not at its ends but never nan; it
            broadcasts values (..., *batch_shape) against its parameters, whose shape and dtype become those of z.
        log_prob: log p in the same fashion.
        support: an interval constraint; its bounds may be tensors.
        validate_args: as in every Pyro distribution.

    Raises:
        ValueError: if arguments are validated and F does not go from 0 to 1 over the support.

    A Gaussian kept to (0, inf), differentiable in loc:

    >>> loc = torch.tensor([-1.0, 0.0, 5.0], requires_grad=True)
    >>> gaussian = dist.Normal(loc, 1.0)
    >>> outside = gaussian.cdf(torch.tensor(0.0))
    >>> z = FromCDF(
    ...     lambda z: (gaussian.cdf(z) - outside) / (1 - outside),
    ...     lambda z: gaussian.log_prob(z) - (1 - outside).log(),
    ...     support=dist.constraints.positive,
    ... ).rsample()
    >>> z.detach(), torch.autograd.grad(z.sum(), loc)[0]
    (tensor([0.4056, 1.1958, 3.6498]), tensor([0.1795, 0.5262, 1.0000]))
    """

    has_rsample = True
    arg_constraints: ClassVar = {}

    def __init__(
        self,
        cdf: Callable[[Tensor], Tensor],
        log_prob: Callable[[Tensor], Tensor],
        *,
        support: constraints.Constraint = constraints.real,
        validate_args: bool | None = None,
    ):
        self._cdf, self._log_prob, self._support = cdf, log_prob, support
        with torch.no_grad():
            probe = cdf(1.0 * torch.as_tensor(getattr(support, "lower_bound", 0.0)))
            largest = torch.finfo(probe.dtype).max
            ends = [getattr(support, n, e) for n, e in (("lower_bound", -largest), ("upper_bound", largest))]
            self._ends = [torch.as_tensor(e, dtype=probe.dtype, device=probe.device).expand(probe.shape) for e in ends]
        super().__init__(probe.shape, validate_args=validate_args)
        if self._validate_args:
            with torch.no_grad():
                low, high = (cdf(e) for e in self._ends)
            if not ((low.abs() < 1e-3) & ((high - 1).abs() < 1e-3)).all():
                raise ValueError(
                    f"expected a cdf that rises from 0 to 1 over its support {support}, got values from {low} to "
                    f"{high}; normalise it, or give the support it has with support="
                )

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The constraint that it was given."""
        return self._support

    def cdf(self, value: Tensor) -> Tensor:
        """Return F(value)."""
        if self._validate_args:
            self._validate_sample(value)
        return self._cdf(value)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self._log_prob(value)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the smallest z with F(z) >= value, differentiable in what F reads and in ``value``."""
        with torch.no_grad():
            shape = torch.broadcast_shapes(value.shape, self.batch_shape)
            low, high = (e.expand(shape).contiguous() for e in self._ends)
            integer = torch.int32 if low.dtype == torch.float32 else torch.int64
            lower, upper = (_ordered(e.view(integer)) for e in (low, high))
            for _ in range(torch.iinfo(integer).bits):
                middle = (lower >> 1) + (upper >> 1) + (lower & upper & 1)
                below = self._cdf(_ordered(middle).view(low.dtype)) < value
                lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
            z = _ordered(upper).view(low.dtype)
            density = self._log_prob(z).exp()
        residual = value - self._cdf(z)  # worth nothing but its gradient: dF/dphi dphi + p dz = deps
        return z + (residual - residual.detach()) / density

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
        """Draw z = F^-1(eps)."""
        return self.icdf(standard_uniform(self._extended_shape(sample_shape), self._ends[0]))
