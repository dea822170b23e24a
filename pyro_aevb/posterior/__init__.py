"""Draws from p(z|x) for each datapoint, which say how far they can be trusted, and what they are good for."""

from pyro_aevb.posterior.anomaly import AnomalyScore, anomaly_score
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.denoise import Denoised, denoise
from pyro_aevb.posterior.impute import Imputed, impute
from pyro_aevb.posterior.posterior import Posterior, posterior

__all__ = [
    "AnomalyScore",
    "Chains",
    "Denoised",
    "Imputed",
    "Posterior",
    "anomaly_score",
    "denoise",
    "impute",
    "posterior",
]
