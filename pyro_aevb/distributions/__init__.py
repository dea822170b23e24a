"""Distributions whose draws can be differentiated (Kingma & Welling 2013, Section 2.4), and others that Pyro lacks."""

from pyro_aevb.distributions.affine_autoregressive import AffineAutoregressive
from pyro_aevb.distributions.autoregressive_spline import AutoregressiveSpline
from pyro_aevb.distributions.discretized_logistic import DiscretizedLogistic
from pyro_aevb.distributions.families import FAMILIES, Erlang, Family
from pyro_aevb.distributions.from_cdf import FromCDF
from pyro_aevb.distributions.inverse_cdf import Gompertz, InverseCDF, Rayleigh, Reciprocal, Triangular
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
from pyro_aevb.distributions.table import ColumnsDistribution

__all__ = [
    "FAMILIES",
    "AffineAutoregressive",
    "AutoregressiveSpline",
    "Cauchy",
    "ColumnsDistribution",
    "DiscretizedLogistic",
    "Erlang",
    "Family",
    "FisherSnedecor",
    "FromCDF",
    "Gompertz",
    "Gumbel",
    "InverseCDF",
    "LogNormal",
    "Logistic",
    "MultivariateStudentT",
    "Pareto",
    "Rayleigh",
    "Reciprocal",
    "StudentT",
    "Triangular",
    "Uniform",
    "Weibull",
]
