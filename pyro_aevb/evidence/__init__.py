"""The bound and log p(x) for each datapoint, with an error and the direction of its bias."""

from pyro_aevb.evidence.annealing import AIS, BDMC
from pyro_aevb.evidence.auto import Auto
from pyro_aevb.evidence.elbo import elbo
from pyro_aevb.evidence.estimates import BoundEstimate, Estimate, Evidence, MeanEstimate
from pyro_aevb.evidence.estimator import Estimator, Evaluate, Problem
from pyro_aevb.evidence.evidence_gap import EvidenceGap, evidence_gap
from pyro_aevb.evidence.importance import Importance
from pyro_aevb.evidence.marginal_likelihood import METHODS, log_marginal_likelihood
from pyro_aevb.evidence.posterior_density import PosteriorDensity
from pyro_aevb.evidence.quadrature import Quadrature
from pyro_aevb.evidence.smc import SMC
from pyro_aevb.samplers.ais import Tick

__all__ = [
    "AIS",
    "BDMC",
    "METHODS",
    "SMC",
    "Auto",
    "BoundEstimate",
    "Estimate",
    "Estimator",
    "Evaluate",
    "Evidence",
    "EvidenceGap",
    "Importance",
    "MeanEstimate",
    "PosteriorDensity",
    "Problem",
    "Quadrature",
    "Tick",
    "elbo",
    "evidence_gap",
    "log_marginal_likelihood",
]
