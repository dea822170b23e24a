r"""Distributions reparameterised as z = g(eps, phi), eps free of phi (Kingma & Welling 2013, Section 2.4).

:data:`FAMILIES` has every one the paper lists.  Most are Pyro's own.  Written here are those which Pyro does not have
(:class:`Rayleigh`, :class:`Reciprocal`, :class:`Gompertz`, :class:`Erlang`, :class:`Triangular`), subclasses of Pyro's
which mend what `docs/reparameterization.md` measured, and the paper's last resort, :class:`FromCDF`.

Samples are drawn with torch's generator, have shape ``sample_shape + batch_shape + event_shape`` and the parameters'
dtype.  Where the exact sample is too large or too small for the dtype it is held at the edge, with gradient zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions.utils import broadcast_all
from torch.types import _size

_ONE = Size()  # the sample shape of a single draw


def _uniform(shape: Size, like: Tensor) -> Tensor:
    """Draw eps from the open interval (0, 1): `torch.rand` returns 0 once in 2^24 draws (float32)."""
    eps = torch.rand(shape, dtype=like.dtype, device=like.device)
    return eps.clamp(min=torch.finfo(like.dtype).eps / 4)


def _exp(log_value: Tensor, power: float = 0.9) -> Tensor:
    """Return exp(log_value), held between max^-power and max^power, so that a scale or a square still fits."""
    limit = power * math.log(torch.finfo(log_value.dtype).max)
    return log_value.clamp(-limit, limit).exp()


def _inside(z: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Move z rounded onto an end of (low, high), or past it, to the next number inside; the gradient is z's."""
    with torch.no_grad():
        shift = torch.minimum(torch.maximum(z, torch.nextafter(low, high)), torch.nextafter(high, low)) - z
    return z + shift


def _log_gamma(concentration: Tensor, shape: Size) -> Tensor:
    """Draw log g, g ~ Gamma(a, 1), g = h eps^(1/a), h ~ Gamma(a + 1, 1): g may underflow, its logarithm does not."""
    concentration = concentration.expand(shape)
    h = torch.distributions.Gamma(concentration + 1, torch.ones_like(concentration), validate_args=False).rsample()
    return h.log() + _uniform(shape, concentration).log() / concentration


def _log_gamma_ratio(a: Tensor, n: int) -> Tensor:
    """Return log Gamma(a + n/2) - log Gamma(a) without the cancellation of two large numbers."""
    odd = n % 2
    total = torch.zeros_like(a)
    if odd:  # DLMF 5.11.13; the next term is below 1e-13 from a = 30 on
        b = a.clamp(min=30.0)
        series = 0.5 * b.log() - 1 / (8 * b) + 1 / (192 * b**3) - 1 / (640 * b**5)
        total = torch.where(a < 30.0, torch.lgamma(a + 0.5) - torch.lgamma(a), series)
    for i in range(n // 2):
        total = total + (a + 0.5 * odd + i).log()
    return total


class InverseCDF(TorchDistribution):
    """A scalar family with a closed inverse CDF: z = F^-1(eps; phi), eps ~ U(0, 1).

    Subclasses name their parameters in ``__init__`` and define ``icdf``, ``_cdf`` and ``_log_prob``; parameters
    broadcast against each other, and are all differentiable.
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

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z = F^-1(eps)."""
        return self.icdf(_uniform(self._extended_shape(sample_shape), getattr(self, self._names[0])))

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

    >>> _ = torch.manual_seed(0)
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

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z = F^-1(eps)."""
        return _inside(super().rsample(sample_shape), self.low, self.high)

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

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z = F^-1(eps)."""
        return _inside(super().rsample(sample_shape), self.low, self.high)

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


class Erlang(dist.Gamma):
    r"""Gamma with a whole number k of stages: the law of g = -(1 / b) sum_{i<=k} log eps_i, a sum of k exponentials.

    Differentiable in the rate b alone: k is a count.  Drawn by torch's Gamma sampler, whose cost does not grow with k.

    >>> Erlang(torch.tensor(3.0), torch.tensor(2.0)).mean
    tensor(1.5000)
    >>> Erlang(torch.tensor(2.5), torch.tensor(2.0), validate_args=True)
    Traceback (most recent call last):
    ValueError: Expected parameter concentration ...
    """

    arg_constraints = {"concentration": constraints.positive_integer, "rate": constraints.positive}  # noqa: RUF012

    def rsample(self, sample_shape: _size = _ONE, generator: torch.Generator | None = None) -> Tensor:
        """Draw z, with a gradient for the rate."""
        return torch.distributions.Gamma(self.concentration.detach(), self.rate, validate_args=False).rsample(
            sample_shape, generator=generator
        )


class Cauchy(dist.Cauchy):
    """Pyro's, with an undefined (nan) variance; Pyro's is inf, though there is no mean to vary about."""

    @property
    def variance(self) -> Tensor:
        """Nan."""
        return torch.full_like(self.loc, math.nan)


class Logistic(dist.Logistic):
    """Pyro's, g = loc + scale log(eps / (1 - eps)); Pyro's draws eps = 0, so z = -inf, once in 2^24 draws (float32)."""

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z, always finite."""
        return self.icdf(_uniform(self._extended_shape(sample_shape), self.loc))


class Gumbel(dist.Gumbel):
    """Pyro's, g = loc - scale log(-log eps); Pyro's ``cdf`` refuses values whose CDF rounds to 0 or 1."""

    def cdf(self, value: Tensor) -> Tensor:
        """Return exp(-exp(-(value - loc) / scale))."""
        if self._validate_args:
            self._validate_sample(value)
        return (-((self.loc - value) / self.scale).exp()).exp()


class Uniform(dist.Uniform):
    """Pyro's, g = low + (high - low) eps; Pyro's may round up to ``high``, whose log density is -inf."""

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z, always below ``high``."""
        return _inside(super().rsample(sample_shape), self.low, self.high)


class Pareto(dist.Pareto):
    """Pyro's, g = scale (1 - eps)^(-1 / alpha); Pyro's overflows for small alpha."""

    sample = torch.distributions.Distribution.sample

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z, always finite."""
        log_ratio = -_uniform(self._extended_shape(sample_shape), self.scale).log() / self.alpha
        return self.scale * _exp(log_ratio)


class Weibull(dist.Weibull):
    """Pyro's, g = scale (-log(1 - eps))^(1 / concentration); Pyro's over- and underflows for small concentrations."""

    sample = torch.distributions.Distribution.sample

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z, always positive and finite."""
        exponential = -_uniform(self._extended_shape(sample_shape), self.scale).log()
        return _exp(self.scale.log() + exponential.log() / self.concentration)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log k - log s + (k - 1) y - exp(k y), y = log(value / s)."""
        if self._validate_args:
            self._validate_sample(value)
        y = value.log() - self.scale.log()
        k = self.concentration
        return k.log() - self.scale.log() + (k - 1) * y - (k * y).exp()


class LogNormal(dist.LogNormal):
    """Pyro's, g = exp(loc + scale eps), eps ~ N(0, 1); Pyro's over- and underflows."""

    sample = torch.distributions.Distribution.sample

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z, always positive and finite."""
        return _exp(self.base_dist.rsample(sample_shape))


def _student_t_factor(df: Tensor, shape: Size) -> Tensor:
    """Draw sqrt(df / chi2), chi2 ~ Chi-squared(df); it makes a Student's t of a Gaussian."""
    return _exp(0.5 * ((0.5 * df).log() - _log_gamma(0.5 * df, shape)), power=0.4)


class StudentT(dist.StudentT):
    """Pyro's, g = loc + scale eps sqrt(df / chi2): location-scale, and for ``df`` the Gamma's implicit gradient.

    Pyro's loses the gradient of ``df`` below 0.3 (nan) and 0.08 nats of the density at a ``df`` of 1e6 (float32).
    """

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z, always finite, and so its gradients."""
        factor = _student_t_factor(self.df, self._extended_shape(sample_shape))
        return self.loc + self.scale * torch.randn_like(factor) * factor

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, normalised without cancellation."""
        if self._validate_args:
            self._validate_sample(value)
        y = (value - self.loc) / self.scale
        normaliser = self.scale.log() + 0.5 * (math.pi * self.df).log() - _log_gamma_ratio(0.5 * self.df, 1)
        return -0.5 * (self.df + 1) * torch.log1p(y.square() / self.df) - normaliser


class MultivariateStudentT(dist.MultivariateStudentT):
    """Pyro's, g = loc + scale_tril eps sqrt(df / chi2), eps ~ N(0, I); mended as :class:`StudentT` is.

    Pyro's never validates ``scale_tril``.
    """

    def __init__(self, df: Tensor | float, loc: Tensor, scale_tril: Tensor, validate_args: bool | None = None):
        super().__init__(df, loc, scale_tril, validate_args=validate_args)
        if self._validate_args and not constraints.lower_cholesky.check(scale_tril).all():
            raise ValueError(
                "Expected parameter scale_tril to be lower triangular with a positive diagonal, got "
                f"{scale_tril}; pass torch.linalg.cholesky of the scale matrix"
            )

    def expand(self, batch_shape: _size, _instance: Any = None) -> MultivariateStudentT:
        """Return the distribution with its parameters expanded to ``batch_shape``."""
        return super().expand(batch_shape, type(self).__new__(type(self)) if _instance is None else _instance)

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z, always finite, and so its gradients."""
        shape = self._extended_shape(sample_shape)
        factor = _student_t_factor(self.df, shape[:-1]).unsqueeze(-1)
        eps = torch.randn(shape, dtype=factor.dtype, device=factor.device)
        return self.loc + (self.scale_tril @ (eps * factor).unsqueeze(-1)).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, normalised without cancellation."""
        if self._validate_args:
            self._validate_sample(value)
        n = self.loc.size(-1)
        y = torch.linalg.solve_triangular(self.scale_tril, (value - self.loc).unsqueeze(-1), upper=False).squeeze(-1)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        normaliser = log_det + 0.5 * n * (math.pi * self.df).log() - _log_gamma_ratio(0.5 * self.df, n)
        return -0.5 * (self.df + n) * torch.log1p(y.square().sum(-1) / self.df) - normaliser


class FisherSnedecor(dist.FisherSnedecor):
    """Pyro's, g = (g1 / df1) / (g2 / df2), g_i ~ Gamma(df_i / 2, 1).

    Pyro's has nan for moments that are inf, and loses the gradient of ``df2`` below 0.3.
    """

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z, always positive and finite, and so its gradients."""
        shape = self._extended_shape(sample_shape)
        log_ratio = _log_gamma(0.5 * self.df1, shape) - _log_gamma(0.5 * self.df2, shape)
        return _exp(log_ratio + self.df2.log() - self.df1.log())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, with y = log(df1 value / df2), so that nothing overflows."""
        if self._validate_args:
            self._validate_sample(value)
        a, b = 0.5 * self.df1, 0.5 * self.df2
        y, zero = value.log() + self.df1.log() - self.df2.log(), torch.zeros_like(value)
        log_beta = a.lgamma() + b.lgamma() - (a + b).lgamma()
        return -a * torch.logaddexp(zero, -y) - b * torch.logaddexp(zero, y) - value.log() - log_beta

    @property
    def mean(self) -> Tensor:
        """df2 / (df2 - 2), infinite for df2 <= 2."""
        return self.df2 / (self.df2 - 2).clamp(min=0)

    @property
    def variance(self) -> Tensor:
        """Infinite for 2 < df2 <= 4, undefined (nan) for df2 <= 2, where the mean is infinite."""
        variance = 2 * self.mean.square() * (self.df1 + self.df2 - 2) / (self.df1 * (self.df2 - 4).clamp(min=0))
        return torch.where(self.df2 > 2, variance, math.nan)


def _ordered(bits: Tensor) -> Tensor:
    """Map the bits of floats to integers in the floats' order; its own inverse."""
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
        ValueError: when validated, where F does not go from 0 to 1 over the support.

    A Gaussian kept to (0, inf), differentiable in loc:

    >>> _ = torch.manual_seed(0)
    >>> loc = torch.tensor([-1.0, 0.0, 5.0], requires_grad=True)
    >>> gaussian = dist.Normal(loc, 1.0)
    >>> outside = gaussian.cdf(torch.tensor(0.0))
    >>> z = FromCDF(
    ...     lambda z: (gaussian.cdf(z) - outside) / (1 - outside),
    ...     lambda z: gaussian.log_prob(z) - (1 - outside).log(),
    ...     support=constraints.positive,
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
        """The constraint it was made with."""
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

    def rsample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw z = F^-1(eps)."""
        return self.icdf(_uniform(self._extended_shape(sample_shape), self._ends[0]))


class Family(NamedTuple):
    """A family of the paper's Section 2.4: its ``distribution`` class, and by which ``strategy`` it is drawn."""

    distribution: Callable[..., TorchDistribution]
    strategy: str


INVERSE, LOCATION_SCALE, COMPOSITION = "inverse CDF", "location-scale", "composition"
FAMILIES = {
    "exponential": Family(dist.Exponential, INVERSE),
    "cauchy": Family(Cauchy, INVERSE),
    "logistic": Family(Logistic, f"{INVERSE}, {LOCATION_SCALE}"),
    "rayleigh": Family(Rayleigh, INVERSE),
    "pareto": Family(Pareto, INVERSE),
    "weibull": Family(Weibull, INVERSE),
    "reciprocal": Family(Reciprocal, INVERSE),
    "gompertz": Family(Gompertz, INVERSE),
    "gumbel": Family(Gumbel, INVERSE),
    "erlang": Family(Erlang, INVERSE),
    "laplace": Family(dist.Laplace, LOCATION_SCALE),
    "multivariate-gaussian": Family(dist.MultivariateNormal, LOCATION_SCALE),
    "multivariate-student-t": Family(MultivariateStudentT, LOCATION_SCALE),
    "student-t": Family(StudentT, LOCATION_SCALE),
    "uniform": Family(Uniform, LOCATION_SCALE),
    "triangular": Family(Triangular, LOCATION_SCALE),
    "gaussian": Family(dist.Normal, LOCATION_SCALE),
    "log-normal": Family(LogNormal, COMPOSITION),
    "gamma": Family(dist.Gamma, COMPOSITION),
    "dirichlet": Family(dist.Dirichlet, COMPOSITION),
    "beta": Family(dist.Beta, COMPOSITION),
    "chi-squared": Family(dist.Chi2, COMPOSITION),
    "f": Family(FisherSnedecor, COMPOSITION),
}
