r"""Distributions reparameterised as z = g(eps, phi), eps free of phi (Kingma & Welling 2013, Section 2.4).

:data:`FAMILIES` has every family that the paper lists.  Most are Pyro's own.  Written here are those that Pyro does not
have (:class:`Rayleigh`, :class:`Reciprocal`, :class:`Gompertz`, :class:`Erlang`, :class:`Triangular`), subclasses of
Pyro's without the faults that `docs/reparameterization.md` measures, and the paper's last resort, :class:`FromCDF`.

Samples are drawn with torch's generator, have shape ``sample_shape + batch_shape + event_shape`` and the parameters'
dtype.  A sample too large or too small for the dtype becomes the nearest number that fits, with gradient zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.types import _size

from pyro_aevb.distributions.inverse_cdf import SINGLE, Gompertz, Rayleigh, Reciprocal, Triangular
from pyro_aevb.distributions.stable import (
    Cauchy,
    FisherSnedecor,
    Gumbel,
    Logistic,
    LogNormal,
    MultivariateStudentT,
    Pareto,
    StudentT,
    Uniform,
    Weibull,
)


class Erlang(dist.Gamma):
    r"""Gamma with a whole number k of stages: the law of g = -(1 / b) sum_{i<=k} log eps_i, a sum of k exponentials.

    Differentiable in the rate b alone: k is a count.  Drawn by torch's Gamma sampler, whose cost does not grow with k.

    >>> from pyro_aevb.distributions import Erlang
    >>> Erlang(torch.tensor(3.0), torch.tensor(2.0)).mean
    tensor(1.5000)
    >>> Erlang(torch.tensor(2.5), torch.tensor(2.0), validate_args=True)
    Traceback (most recent call last):
    ValueError: Expected parameter concentration ...
    """

    arg_constraints = {"concentration": constraints.positive_integer, "rate": constraints.positive}  # noqa: RUF012

    def rsample(self, sample_shape: _size = SINGLE, generator: torch.Generator | None = None) -> Tensor:
        """Draw z, with a gradient for the rate."""
        return torch.distributions.Gamma(self.concentration.detach(), self.rate, validate_args=False).rsample(
            sample_shape, generator=generator
        )


class Family(NamedTuple):
    """A family of the paper's Section 2.4: its ``distribution`` class, and the ``strategy`` that it is drawn by."""

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
