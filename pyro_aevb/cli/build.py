"""A VAE, q(theta) over it, a learner, an optimizer and the options of ``fit`` from a configuration."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, cast

import pyro.distributions as dist
import torch

from pyro_aevb.cli.config import COMPILE, EPOCHS, OBJECTIVE_OPTIONS, TrainingConfig
from pyro_aevb.cli.objectives import OBJECTIVES, SEVERAL
from pyro_aevb.cli.own_pair import Pair
from pyro_aevb.learners.aevb import AEVB
from pyro_aevb.learners.learner import Learner
from pyro_aevb.learners.mcem import MCEM
from pyro_aevb.learners.presets import PAPER, PRESETS, Preset
from pyro_aevb.learners.reweighted_wake_sleep import ReweightedWakeSleep
from pyro_aevb.learners.schedules import Schedule
from pyro_aevb.learners.wake_sleep import WakeSleep
from pyro_aevb.model_guide.bayesian import Bayesian
from pyro_aevb.vae.vae import VAE


def make_vae(
    config: TrainingConfig,
    x_dim: int,
    dataset_size: int,
    image_shape: tuple[int, ...] | None,
    likelihood: Any = None,
    covariates: int = 0,
) -> VAE:
    """Return the VAE, its weights drawn from torch's global generator; its likelihood, if the configuration has none.

    Args:
        config: of the run.
        x_dim: D.
        dataset_size: N.
        image_shape: of the data, if they are images.
        likelihood: what the data ask for.
        covariates: C.
    """
    if config.convolutions and image_shape is None:
        raise ValueError("expected an image_shape for convolutions, got none; pass image_shape, such as 28,28")
    return VAE(
        x_dim,
        config.latent_dim,
        hidden_dims=config.hidden_dims,
        prior=config.prior,
        likelihood=config.likelihood or likelihood or "bernoulli",
        posterior=config.posterior,
        convolutions=(1, *cast(Any, image_shape))[-3:] if config.convolutions else False,
        covariates=covariates,
        init=config.init,
        dataset_size=dataset_size,
    ).to(config.device)


def make_learner(config: TrainingConfig, pair: VAE | Bayesian | Pair) -> Learner:
    """Return the learner over the VAE, over one whose theta is global latents, or over a pair of one's own."""
    preset, prior = preset_of(config), None
    fused = config.optimizer == "adam" or config.device == "cpu"  # what torch has kernels for
    optimizer, guide_optimizer = (preset.factory(guide=guide, fused=fused) for guide in (False, True))
    if config.theta_prior is not None:
        if not config.theta_prior > 0:
            raise ValueError(f"expected theta_prior, a scale, above 0, got {config.theta_prior}")
        prior = dist.Normal(torch.tensor(0.0, device=config.device), torch.tensor(config.theta_prior).to(config.device))
    if config.learner == "wake-sleep":
        return WakeSleep(pair.model, pair.guide, optimizer, guide_optimizer, theta_prior=prior)
    if config.learner == "reweighted-wake-sleep":
        particles = config.num_particles or SEVERAL
        return ReweightedWakeSleep(
            pair.model, pair.guide, optimizer, guide_optimizer, num_particles=particles, theta_prior=prior
        )
    if config.learner == "mcem":
        return MCEM(pair.model, optimizer, pair.guide, guide_optimizer, theta_prior=prior)
    make, particles = OBJECTIVES[config.used_objective]
    particles = particles if config.num_particles is None else config.num_particles
    options = {name: value for name in OBJECTIVE_OPTIONS if (value := getattr(config, name)) is not None}
    objective = make(particles, **options)
    if isinstance(pair, Bayesian) and particles > 1 and not objective.one_global_draw:
        # Each particle has its own draw of the weights, and a network takes one at a time.
        objective = make(particles, **options, vectorize=False)
    return AEVB(pair.model, pair.guide, optimizer, objective, theta_prior=prior)


def preset_of(config: TrainingConfig) -> Preset:
    """Return the settings of the learner's optimizers: the configuration's, and those of its preset where it has none.

    Raises:
        ValueError: for numbers that no optimizer takes.
    """
    preset = (PRESETS if config.optimizer == "adam" else PAPER)[config.learner]
    if config.guide_learning_rate is not None and config.learner == "aevb":
        raise ValueError(
            f"expected no guide_learning_rate for aevb, got {config.guide_learning_rate}; pass learning_rate, which is "
            "that of its one optimizer"
        )
    rate, guide_rate = preset.learning_rate, preset.guide_learning_rate
    if config.learning_rate is not None:
        rate, guide_rate = config.learning_rate, None
    guide_rate = guide_rate if config.guide_learning_rate is None else config.guide_learning_rate
    for name, value in (("learning_rate", rate), ("guide_learning_rate", guide_rate)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"expected a {name} above 0, got {value}")
    beta1 = preset.beta1 if config.beta1 is None else config.beta1
    if beta1 is not None and not 0 <= beta1 < 1:
        raise ValueError(f"expected beta1 in [0, 1), got {beta1}")
    schedule = preset.schedule if config.schedule is None else Schedule(config.schedule)
    if config.warm_up is not None:
        schedule = Schedule(schedule.shape, config.warm_up)
    return Preset(preset.optimizer, rate, guide_rate, beta1, schedule)


def with_preset(config: TrainingConfig) -> TrainingConfig:
    """Return the configuration with the preset's numbers where it has none."""
    preset = preset_of(config)
    return dataclasses.replace(
        config,
        learning_rate=preset.learning_rate,
        guide_learning_rate=preset.guide_learning_rate,
        beta1=preset.beta1,
        schedule=preset.schedule.shape,
        warm_up=preset.schedule.warm_up,
    )


def fit_options(config: TrainingConfig) -> dict[str, Any]:
    """Return those arguments of :func:`~pyro_aevb.training.fit` that the configuration has."""
    return {
        "samples": config.samples,
        "epochs": EPOCHS if config.epochs is None and config.samples is None else config.epochs,
        "batch_size": config.batch_size,
        "device": config.device,
        "schedule": preset_of(config).schedule,
        "clip_norm": config.clip_norm,
        "kl_warm_up": config.kl_warm_up,
        "evaluate_every": config.evaluate_every,
        "patience": config.patience,
        "keep_best": config.keep_best,
        "seed": config.seed,
        "compile": COMPILE[config.compile],
        "precision": cast(Literal["float32", "bf16"], config.precision),
    }
