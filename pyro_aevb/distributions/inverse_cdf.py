"""Families that are reparameterised by an inverse CDF (Kingma & Welling 2013, Section 2.4, (1))."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions.utils import broadcast_all
from torch.types import _size

SINGLE = Size()  # the sample shape of a single draw


def standard_uniform(shape: Size, like: Tensor) -> Tensor:
    """Draw eps from the open interval (0, 1): `torch.rand` returns 0 once in 2^24 draws (float32)."""
    eps = torch.rand(shape, dtype=like.dtype, device=like.device)
    return eps.clamp(min=torch.finfo(like.dtype).eps / 4)


def inside_support(z: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return z, moved to the next number inside (low, high) if rounding put it elsewhere; the gradient is z's."""
    with torch.no_grad():
        shift = torch.minimum(torch.maximum(z, torch.nextafter(low, high)), torch.nextafter(high, low)) - z
    return z + shift


class InverseCDF(TorchDistribution):
    """A scalar family with a closed inverse CDF: z = F^-1(eps; phi), eps ~ U(0, 1).

    Subclasses name their parameters in ``__init__`` and define ``icdf``, ``_cdf`` and ``_log_prob``; parameters
    broadcast against each other, and are all differentiable.

    Args:
        parameters: by name.
        validate_args: as in every Pyro distribution.
    """

    has_rsample = True

    def __init__(self, parameters: dict[str, Tensor | float], validate_args: bool | None):
        self._names = tuple(parameters)
        for name, value in zip(self._names, broadcast_all(*parameters.values()), strict=True):
            setattr(self, name, value)
        super().__init__(getattr(self, self._names[0]).shape, validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: Any = None) -> InverseCDF:
        """Return the distribution with its parameters expanded to ``batch_shape``."""
        new = type(self).__new__(type(self)) if _instance is None else _instance
        new._names = self._names
        for name in self._names:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        TorchDistribution.__init__(new, Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
        """Draw z = F^-1(eps)."""
        return self.icdf(standard_uniform(self._extended_shape(sample_shape), getattr(self, self._names[0])))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density at ``value``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self._log_prob(value)

    def cdf(self, value: Tensor) -> Tensor:
        """Return F(value)."""
        if self._validate_args:
            self._validate_sample(value)
        return self._cdf(value)

    def _log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def _cdf(self, value: Tensor) -> Tensor:
        raise NotImplementedError


class Rayleigh(InverseCDF):
    r"""p(z) = z / s^2 exp(-z^2 / 2 s^2) for z > 0: the length of a plane Gaussian vector; g = s sqrt(-2 log(1 - eps)).

    Args:
        scale: s > 0.
        validate_args: as in every Pyro distribution.

    >>> from pyro_aevb.distributions import Rayleigh
    >>> Rayleigh(torch.tensor([0.1, 10.0])).rsample()
    tensor([ 0.1171, 17.0996])
    """

    arg_constraints: ClassVar = {"scale": constraints.positive}
    support = constraints.positive
    scale: Tensor

    def __init__(self, scale: Tensor | float, *, validate_args: bool | None = None):
        super().__init__({"scale": scale}, validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        y = value / self.scale
        return y.log() - self.scale.log() - 0.5 * y.square()

    def _cdf(self, value: Tensor) -> Tensor:
        return -torch.expm1(-0.5 * (value / self.scale).square())

    def icdf(self, value: Tensor) -> Tensor:
        """Return s sqrt(-2 log(1 - value))."""
        return self.scale * (-2 * torch.log1p(-value)).sqrt()

    @property
    def mean(self) -> Tensor:
        """s sqrt(pi / 2)."""
        return self.scale * math.sqrt(math.pi / 2)

    @property
    def variance(self) -> Tensor:
        """(2 - pi / 2) s^2."""
        return self.scale.square() * (2 - math.pi / 2)


class Reciprocal(InverseCDF):
    r"""p(z) = 1 / (z log(b / a)) on [a, b], 0 < a < b: log z is uniform; g = a (b / a)^eps.

    Args:
        low: a.
        high: b.
        validate_args: as in every Pyro distribution.

    >>> from pyro_aevb.distributions import Reciprocal
    >>> Reciprocal(1.0, 100.0).icdf(torch.tensor(0.5))
    tensor(10.)
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor | float, high: Tensor | float, *, validate_args: bool | None = None):
        super().__init__({"low": low, "high": high}, validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """0 < low < high."""
        return {"low": constraints.positive, "high": constraints.greater_than(self.low)}

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """[low, high]."""
        return constraints.interval(self.low, self.high)

    def _log_above(self, value: Tensor) -> Tensor:
        """Log(value / low), right for neighbours as well as for numbers whose ratio overflows."""
        near = value < 2 * self.low
        return torch.where(
            near, torch.log1p((value - self.low).where(near, 0.0) / self.low), value.log() - self.low.log()
        )

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
        """Draw z = F^-1(eps)."""
        return inside_support(super().rsample(sample_shape), self.low, self.high)

    def _log_prob(self, value: Tensor) -> Tensor:
        return -value.log() - self._log_above(self.high).log()

    def _cdf(self, value: Tensor) -> Tensor:
        return self._log_above(value) / self._log_above(self.high)

    def icdf(self, value: Tensor) -> Tensor:
        """Return a (b / a)^value."""
        root = (0.5 * value * self._log_above(self.high)).exp()
        return self.low * root * root

    @property
    def mean(self) -> Tensor:
        """(b - a) / log(b / a)."""
        return (self.high - self.low) / self._log_above(self.high)

    @property
    def variance(self) -> Tensor:
        """(b^2 - a^2) / (2 log(b / a)) - mean^2, as a series in log(b / a) where that would cancel."""
        ratio = self._log_above(self.high)
        near = ratio.clamp(max=0.3)  # a b (sinh(L)/L - 4 sinh(L/2)^2/L^2)
        series = near**2 / 12 + near**4 / 180 + near**6 / 6720 + near**8 / 453600
        exact = (self.high + self.low) * self.mean / 2 - self.mean.square()
        return torch.where(ratio < 0.3, self.low * self.high * series, exact)


class Gompertz(InverseCDF):
    r"""p(z) = eta b exp(b z) exp(-eta (exp(b z) - 1)) for z > 0; g = log(1 - log(1 - eps) / eta) / b.

    Lifetimes whose hazard eta b exp(b z) grows exponentially.  SciPy's ``gompertz(c=eta, scale=1 / b)``.

    Args:
        concentration: eta > 0.
        rate: b > 0.
        validate_args: as in every Pyro distribution.

    >>> from pyro_aevb.distributions import Gompertz
    >>> d = Gompertz(torch.tensor(0.1), torch.tensor(2.0))
    >>> d.cdf(d.icdf(torch.tensor(0.25))), d.mean
    (tensor(0.2500), tensor(1.0073))
    """

    arg_constraints: ClassVar = {"concentration": constraints.positive, "rate": constraints.positive}
    support = constraints.nonnegative
    concentration: Tensor
    rate: Tensor

    def __init__(self, concentration: Tensor | float, rate: Tensor | float, *, validate_args: bool | None = None):
        super().__init__({"concentration": concentration, "rate": rate}, validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        y = self.rate * value
        return self.concentration.log() + self.rate.log() + y - self.concentration * torch.expm1(y)

    def _cdf(self, value: Tensor) -> Tensor:
        return -torch.expm1(-self.concentration * torch.expm1(self.rate * value))

    def icdf(self, value: Tensor) -> Tensor:
        """Return log(1 - log(1 - value) / eta) / b."""
        log_ratio = (-torch.log1p(-value)).log() - self.concentration.log()
        return torch.logaddexp(torch.zeros_like(log_ratio), log_ratio) / self.rate

    def _moment(self, power: int) -> Tensor:
        """E[(b z)^power] = int_0^inf exp(-t) log(1 + t / eta)^power dt, by the double-exponential rule."""
        s = torch.linspace(-4.0, 4.0, 161, dtype=self.rate.dtype, device=self.rate.device)
        t = (s - (-s).exp()).exp()
        weight = (-t).exp() * t * (1 + (-s).exp()) * 0.05
        return (weight * torch.log1p(t / self.concentration.unsqueeze(-1)) ** power).sum(-1)

    @property
    def mean(self) -> Tensor:
        """exp(eta) E_1(eta) / b, E_1 the exponential integral."""
        return self._moment(1) / self.rate

    @property
    def variance(self) -> Tensor:
        """Var[z], no elementary form."""
        return (self._moment(2) - self._moment(1).square()) / self.rate.square()


class Triangular(InverseCDF):
    r"""p(z) rises linearly from 0 at a to 2 / (b - a) at the peak m and falls to 0 at b; a <= m <= b.

    With c = (m - a) / (b - a): g = a + (b - a) sqrt(eps c) for eps < c, else b - (b - a) sqrt((1 - eps)(1 - c)).

    Args:
        low: a.
        high: b > a.
        peak: m in [a, b].
        validate_args: as in every Pyro distribution.

    >>> from pyro_aevb.distributions import Triangular
    >>> Triangular(0.0, 4.0, 1.0).icdf(torch.tensor([0.0, 0.25, 1.0]))
    tensor([0., 1., 4.])
    """

    low: Tensor
    high: Tensor
    peak: Tensor

    def __init__(
        self, low: Tensor | float, high: Tensor | float, peak: Tensor | float, *, validate_args: bool | None = None
    ):
        super().__init__({"low": low, "high": high, "peak": peak}, validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """Low < high, low <= peak <= high."""
        return {
            "low": constraints.real,
            "high": constraints.greater_than(self.low),
            "peak": constraints.interval(self.low, self.high),
        }

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """[low, high]."""
        return constraints.interval(self.low, self.high)

    @property
    def _lengths(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.high - self.low, self.peak - self.low, self.high - self.peak

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
        """Draw z = F^-1(eps)."""
        return inside_support(super().rsample(sample_shape), self.low, self.high)

    def _log_prob(self, value: Tensor) -> Tensor:
        span, left, right = self._lengths
        rising = (value <= self.peak) & (left > 0)
        height = torch.where(rising, value - self.low, self.high - value) / torch.where(rising, left, right)
        return math.log(2) + height.log() - span.log()

    def _cdf(self, value: Tensor) -> Tensor:
        span, left, right = self._lengths
        rising = (value <= self.peak) & (left > 0)
        arm = torch.where(rising, value - self.low, self.high - value)
        area = arm / span * (arm / torch.where(rising, left, right))
        return torch.where(rising, area, 1 - area)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile, g above."""
        span, left, right = self._lengths
        rising = value < left / span
        root = torch.where(rising, value * (left / span), (1 - value) * (right / span)).sqrt()
        return torch.where(rising, self.low + span * root, self.high - span * root)

    @property
    def mean(self) -> Tensor:
        """(a + b + m) / 3."""
        return (self.low + self.high + self.peak) / 3

    @property
    def variance(self) -> Tensor:
        """((b - a)^2 - (m - a)(b - m)) / 18."""
        span, left, right = self._lengths
        return (span.square() - left * right) / 18
