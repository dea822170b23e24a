"""Draws from p(z|x) for each datapoint, which say how far they can be trusted, and what they are good for."""

from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.impute import Imputed, impute
from pyro_aevb.posterior.posterior import Posterior, posterior

__all__ = ["Chains", "Imputed", "Posterior", "impute", "posterior"]
