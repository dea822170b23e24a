"""The paper's model and guide, made of parts: networks, priors, likelihoods, posteriors; saved and loaded."""

from pyro_aevb.vae import columns, likelihoods, missingness, networks, posteriors, priors
from pyro_aevb.vae.likelihoods import Likelihood
from pyro_aevb.vae.missingness import Missingness
from pyro_aevb.vae.posteriors import Posterior
from pyro_aevb.vae.priors import Prior
from pyro_aevb.vae.saving import load, load_beside, save
from pyro_aevb.vae.vae import VAE

__all__ = [
    "VAE",
    "Likelihood",
    "Missingness",
    "Posterior",
    "Prior",
    "columns",
    "likelihoods",
    "load",
    "load_beside",
    "missingness",
    "networks",
    "posteriors",
    "priors",
    "save",
]
