"""Draws from p(z|x) for each datapoint, which say how far they can be trusted, and what they are good for."""

from pyro_aevb.posterior.anomaly import AnomalyScore, anomaly_score
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.denoise import Denoised, denoise
from pyro_aevb.posterior.encode import approximate_posterior, encode
from pyro_aevb.posterior.impute import Imputed, impute
from pyro_aevb.posterior.paths import interpolate, manifold, traverse
from pyro_aevb.posterior.posterior import Posterior, posterior
from pyro_aevb.posterior.reconstruct import decode, reconstruct
from pyro_aevb.posterior.sample import sample

__all__ = [
    "AnomalyScore",
    "Chains",
    "Denoised",
    "Imputed",
    "Posterior",
    "anomaly_score",
    "approximate_posterior",
    "decode",
    "denoise",
    "encode",
    "impute",
    "interpolate",
    "manifold",
    "posterior",
    "reconstruct",
    "sample",
    "traverse",
]
