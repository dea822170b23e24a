"""Families of Pyro's, written so that draws, densities and gradients keep their digits in the tails."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Size, Tensor
from torch.types import _size

from pyro_aevb.distributions.inverse_cdf import SINGLE, inside_support, standard_uniform


def _exp(log_value: Tensor, power: float = 0.9) -> Tensor:
    """Return exp(log_value), held between max^-power and max^power, so that a scale or a square still fits."""
    limit = power * math.log(torch.finfo(log_value.dtype).max)
    return log_value.clamp(-limit, limit).exp()


def _log_gamma(concentration: Tensor, shape: Size) -> Tensor:
    """Draw log g, g ~ Gamma(a, 1), g = h eps^(1/a), h ~ Gamma(a + 1, 1): g may underflow, its logarithm does not."""
    concentration = concentration.expand(shape)
    h = torch.distributions.Gamma(concentration + 1, torch.ones_like(concentration), validate_args=False).rsample()
    return h.log() + standard_uniform(shape, concentration).log() / concentration


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


class Cauchy(dist.Cauchy):
    """Pyro's, with an undefined (nan) variance; Pyro's is inf, though there is no mean to vary about."""

    @property
    def variance(self) -> Tensor:
        """Nan."""
        return torch.full_like(self.loc, math.nan)


class Logistic(dist.Logistic):
    """Pyro's, g = loc + scale log(eps / (1 - eps)); Pyro's draws eps = 0, so z = -inf, once in 2^24 draws (float32)."""

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
        """Draw z, always finite."""
        return self.icdf(standard_uniform(self._extended_shape(sample_shape), self.loc))


class Gumbel(dist.Gumbel):
    """Pyro's, g = loc - scale log(-log eps); Pyro's ``cdf`` refuses values whose CDF rounds to 0 or 1."""

    def cdf(self, value: Tensor) -> Tensor:
        """Return exp(-exp(-(value - loc) / scale))."""
        if self._validate_args:
            self._validate_sample(value)
        return (-((self.loc - value) / self.scale).exp()).exp()


class Uniform(dist.Uniform):
    """Pyro's, g = low + (high - low) eps; Pyro's may round up to ``high``, whose log density is -inf."""

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
        """Draw z, always below ``high``."""
        return inside_support(super().rsample(sample_shape), self.low, self.high)


class Pareto(dist.Pareto):
    """Pyro's, g = scale (1 - eps)^(-1 / alpha); Pyro's overflows for small alpha."""

    sample = torch.distributions.Distribution.sample

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
        """Draw z, always finite."""
        log_ratio = -standard_uniform(self._extended_shape(sample_shape), self.scale).log() / self.alpha
        return self.scale * _exp(log_ratio)


class Weibull(dist.Weibull):
    """Pyro's, g = scale (-log(1 - eps))^(1 / concentration); Pyro's over- and underflows for small concentrations."""

    sample = torch.distributions.Distribution.sample

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
        """Draw z, always positive and finite."""
        exponential = -standard_uniform(self._extended_shape(sample_shape), self.scale).log()
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

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
        """Draw z, always positive and finite."""
        return _exp(self.base_dist.rsample(sample_shape))


def _student_t_factor(df: Tensor, shape: Size) -> Tensor:
    """Draw sqrt(df / chi2), chi2 ~ Chi-squared(df); it makes a Student's t of a Gaussian."""
    return _exp(0.5 * ((0.5 * df).log() - _log_gamma(0.5 * df, shape)), power=0.4)


class StudentT(dist.StudentT):
    """Pyro's, g = loc + scale eps sqrt(df / chi2): location-scale, and for ``df`` the Gamma's implicit gradient.

    Pyro's loses the gradient of ``df`` below 0.3 (nan) and 0.08 nats of the density at a ``df`` of 1e6 (float32).
    """

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
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

    Args:
        df: degrees of freedom, positive.
        loc: (..., J).
        scale_tril: (..., J, J), lower triangular with a positive diagonal.
        validate_args: as in every Pyro distribution.

    Raises:
        ValueError: if arguments are validated and ``scale_tril`` is anything else.
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

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
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

    def rsample(self, sample_shape: _size = SINGLE) -> Tensor:
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
