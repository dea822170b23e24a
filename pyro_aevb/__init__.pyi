# Each public name once, "as" itself: what a stub re-exports.

from . import (
    capture as capture,
    datasets as datasets,
    diagnostics as diagnostics,
    distributions as distributions,
    evidence as evidence,
    learners as learners,
    model_guide as model_guide,
    objectives as objectives,
    plots as plots,
    posterior as posterior,
    samplers as samplers,
    training as training,
    vae as vae,
)
from .arguments import Arguments as Arguments, Shared as Shared
from .diagnostics.arviz_data import to_arviz as to_arviz
from .diagnostics.local_c2st import LocalTest as LocalTest, l_c2st as l_c2st
from .diagnostics.report import Report as Report, report as report
from .diagnostics.sbc import RankStatistics as RankStatistics, sbc as sbc
from .diagnostics.tarp import Coverage as Coverage, tarp as tarp
from .distributions.families import FAMILIES as FAMILIES
from .distributions.from_cdf import FromCDF as FromCDF
from .evidence.annealing import AIS as AIS, BDMC as BDMC
from .evidence.elbo import elbo as elbo
from .evidence.estimates import (
    BoundEstimate as BoundEstimate,
    Estimate as Estimate,
    Evidence as Evidence,
    MeanEstimate as MeanEstimate,
)
from .evidence.evidence_gap import EvidenceGap as EvidenceGap, evidence_gap as evidence_gap
from .evidence.auto import Auto as Auto
from .evidence.importance import Importance as Importance
from .evidence.marginal_likelihood import log_marginal_likelihood as log_marginal_likelihood
from .evidence.posterior_density import PosteriorDensity as PosteriorDensity
from .evidence.quadrature import Quadrature as Quadrature
from .evidence.smc import SMC as SMC
from .learners.aevb import AEVB as AEVB, AEVBInfo as AEVBInfo
from .learners.mcem import MCEM as MCEM, MCEMInfo as MCEMInfo
from .learners.reweighted_wake_sleep import (
    ReweightedWakeSleep as ReweightedWakeSleep,
    ReweightedWakeSleepInfo as ReweightedWakeSleepInfo,
)
from .learners.wake_sleep import WakeSleep as WakeSleep, WakeSleepInfo as WakeSleepInfo
from .model_guide.bayesian import Bayesian as Bayesian
from .model_guide.contract import NonFiniteLossError as NonFiniteLossError
from .model_guide.discrete_posterior import discrete_posterior as discrete_posterior
from .model_guide.log_density import (
    LogDensity as LogDensity,
    capture_log_density as capture_log_density,
    log_density as log_density,
)
from .objectives.blend import Blend as Blend
from .objectives.iwae import IWAE as IWAE, DReG as DReG, Renyi as Renyi
from .objectives.objective import Objective as Objective, Terms as Terms
from .objectives.score_function import VIMCO as VIMCO, ScoreFunction as ScoreFunction
from .objectives.sgvb import SGVB as SGVB, STL as STL
from .posterior.anomaly import AnomalyScore as AnomalyScore, anomaly_score as anomaly_score
from .posterior.denoise import Denoised as Denoised, denoise as denoise
from .posterior.impute import Imputed as Imputed, impute as impute
from .posterior.posterior import Posterior as Posterior
from .training.fit import fit as fit
from .training.history import History as History
from .training.saved_pair import load_pair as load_pair, save_pair as save_pair
from .vae.saving import load as load, save as save
from .vae.vae import VAE as VAE
from .version import __version__ as __version__
