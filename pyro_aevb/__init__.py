"""Auto-Encoding Variational Bayes for models written in Pyro.

Inference never sees a VAE: it sees a model p(z)p(x|z) and a guide q(z|x), two Pyro callables.
"""

from pyro_aevb.distributions.families import FAMILIES
from pyro_aevb.distributions.from_cdf import FromCDF
from pyro_aevb.evidence.annealing import AIS, BDMC
from pyro_aevb.evidence.elbo import elbo
from pyro_aevb.evidence.estimates import Estimate, Evidence, MeanEstimate
from pyro_aevb.evidence.evidence_gap import EvidenceGap, evidence_gap
from pyro_aevb.evidence.importance import Importance
from pyro_aevb.evidence.marginal_likelihood import log_marginal_likelihood
from pyro_aevb.evidence.posterior_density import PosteriorDensity
from pyro_aevb.evidence.quadrature import Quadrature
from pyro_aevb.learners.aevb import AEVB, AEVBInfo
from pyro_aevb.learners.mcem import MCEM, MCEMInfo
from pyro_aevb.learners.reweighted_wake_sleep import ReweightedWakeSleep, ReweightedWakeSleepInfo
from pyro_aevb.learners.wake_sleep import WakeSleep, WakeSleepInfo
from pyro_aevb.model_guide.contract import NonFiniteLossError
from pyro_aevb.model_guide.log_density import LogDensity, capture_log_density, log_density
from pyro_aevb.objectives.iwae import IWAE, DReG, Renyi
from pyro_aevb.objectives.objective import Objective, Terms
from pyro_aevb.objectives.score_function import VIMCO, ScoreFunction
from pyro_aevb.objectives.sgvb import SGVB, STL
from pyro_aevb.training.fit import fit
from pyro_aevb.training.history import History
from pyro_aevb.vae.saving import load, save
from pyro_aevb.vae.vae import VAE
from pyro_aevb.version import __version__

__all__ = [
    "AEVB",
    "AIS",
    "BDMC",
    "FAMILIES",
    "IWAE",
    "MCEM",
    "SGVB",
    "STL",
    "VAE",
    "VIMCO",
    "AEVBInfo",
    "DReG",
    "Estimate",
    "Evidence",
    "EvidenceGap",
    "FromCDF",
    "History",
    "Importance",
    "LogDensity",
    "MCEMInfo",
    "MeanEstimate",
    "NonFiniteLossError",
    "Objective",
    "PosteriorDensity",
    "Quadrature",
    "Renyi",
    "ReweightedWakeSleep",
    "ReweightedWakeSleepInfo",
    "ScoreFunction",
    "Terms",
    "WakeSleep",
    "WakeSleepInfo",
    "__version__",
    "capture_log_density",
    "elbo",
    "evidence_gap",
    "fit",
    "load",
    "log_density",
    "log_marginal_likelihood",
    "save",
]
