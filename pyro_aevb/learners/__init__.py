"""Algorithms that train a model and a guide, one a file: AEVB, wake-sleep, reweighted wake-sleep, Monte Carlo EM."""

from pyro_aevb.learners.aevb import AEVB, AEVBInfo
from pyro_aevb.learners.fast_path import FastPath
from pyro_aevb.learners.learner import Learner, Stateful
from pyro_aevb.learners.mcem import MCEM, MCEMInfo
from pyro_aevb.learners.minibatch_share import Share
from pyro_aevb.learners.optimizer import AnyOptimizer, Optimizer, PyroOptimizer, TorchOptimizer
from pyro_aevb.learners.presets import PAPER, PRESETS, SCHEDULE_FREE, Preset
from pyro_aevb.learners.reweighted_wake_sleep import ReweightedWakeSleep, ReweightedWakeSleepInfo
from pyro_aevb.learners.schedules import Schedule
from pyro_aevb.learners.step import Minibatch, StepInfo, StepSettings
from pyro_aevb.learners.wake_sleep import WakeSleep, WakeSleepInfo

__all__ = [
    "AEVB",
    "MCEM",
    "PAPER",
    "PRESETS",
    "SCHEDULE_FREE",
    "AEVBInfo",
    "AnyOptimizer",
    "FastPath",
    "Learner",
    "MCEMInfo",
    "Minibatch",
    "Optimizer",
    "Preset",
    "PyroOptimizer",
    "ReweightedWakeSleep",
    "ReweightedWakeSleepInfo",
    "Schedule",
    "Share",
    "Stateful",
    "StepInfo",
    "StepSettings",
    "TorchOptimizer",
    "WakeSleep",
    "WakeSleepInfo",
]
