"""Hamiltonian and annealed Monte Carlo (AIS and SMC), in the latents' unconstrained coordinates."""

from pyro_aevb.samplers import ais, hmc, smc
from pyro_aevb.samplers.annealed_path import AnnealedPath
from pyro_aevb.samplers.latent_space import JointTerms, LatentSpace

__all__ = ["AnnealedPath", "JointTerms", "LatentSpace", "ais", "hmc", "smc"]
