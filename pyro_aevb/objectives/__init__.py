"""Bounds on log p(x) for each datapoint, and the estimators of their gradients; Pyro ELBO objects, all of them."""

from pyro_aevb.objectives.blend import Blend
from pyro_aevb.objectives.iwae import IWAE, DReG, Renyi, log_mean_exp
from pyro_aevb.objectives.objective import Objective, Terms
from pyro_aevb.objectives.particles import Particles
from pyro_aevb.objectives.score_function import VIMCO, ScoreFunction
from pyro_aevb.objectives.sgvb import SGVB, STL, WeightedKL

__all__ = [
    "IWAE",
    "SGVB",
    "STL",
    "VIMCO",
    "Blend",
    "DReG",
    "Objective",
    "Particles",
    "Renyi",
    "ScoreFunction",
    "Terms",
    "WeightedKL",
    "log_mean_exp",
]
