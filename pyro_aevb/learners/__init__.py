"""Algorithms that train a model and a guide, one a file: AEVB, wake-sleep, reweighted wake-sleep, Monte Carlo EM."""

from pyro_aevb.learners.aevb import AEVB, AEVBInfo
from pyro_aevb.learners.learner import Learner, StepInfo
from pyro_aevb.learners.mcem import MCEM, MCEMInfo
from pyro_aevb.learners.mcem_with_guide import MCEMWithGuide
from pyro_aevb.learners.optimizer import AnyOptimizer, Optimizer
from pyro_aevb.learners.reweighted_wake_sleep import ReweightedWakeSleep, ReweightedWakeSleepInfo
from pyro_aevb.learners.wake_sleep import WakeSleep, WakeSleepInfo

__all__ = [
    "AEVB",
    "MCEM",
    "AEVBInfo",
    "AnyOptimizer",
    "Learner",
    "MCEMInfo",
    "MCEMWithGuide",
    "Optimizer",
    "ReweightedWakeSleep",
    "ReweightedWakeSleepInfo",
    "StepInfo",
    "WakeSleep",
    "WakeSleepInfo",
]
