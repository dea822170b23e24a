"""A VAE, q(theta) over it, a learner, an optimizer and the options of ``fit`` from a configuration."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, cast

import pyro.distributions as dist
import torch

from pyro_aevb.cli.config import COMPILE, EPOCHS, OPTIMIZERS, TrainingConfig
from pyro_aevb.cli.objectives import OBJECTIVES, SEVERAL
from pyro_aevb.learners.aevb import AEVB
from pyro_aevb.learners.learner import Learner
from pyro_aevb.learners.mcem import MCEM
from pyro_aevb.learners.optimizer import OptimizerFactory
from pyro_aevb.learners.reweighted_wake_sleep import ReweightedWakeSleep
from pyro_aevb.learners.wake_sleep import WakeSleep
from pyro_aevb.model_guide.bayesian import Bayesian
from pyro_aevb.vae.vae import VAE


def make_vae(config: TrainingConfig, x_dim: int, dataset_size: int, image_shape: tuple[int, ...] | None) -> VAE:
    """Return the VAE, its weights drawn from torch's global generator."""
    if config.convolutions and image_shape is None:
        raise ValueError("expected an image_shape for convolutions, got none; pass image_shape, such as 28,28")
    return VAE(
        x_dim,
        config.latent_dim,
        hidden_dims=config.hidden_dims,
        prior=config.prior,
        likelihood=config.likelihood,
        posterior=config.posterior,
        convolutions=(1, *cast(Any, image_shape))[-3:] if config.convolutions else False,
        init=config.init,
        dataset_size=dataset_size,
    ).to(config.device)


def make_learner(config: TrainingConfig, pair: VAE | Bayesian) -> Learner:
    """Return the learner over the VAE, or over one whose theta is global latents."""
    optimizer = make_optimizer(config)
    prior = None
    if config.theta_prior is not None:
        if not config.theta_prior > 0:
            raise ValueError(f"expected theta_prior, a scale, above 0, got {config.theta_prior}")
        prior = dist.Normal(torch.tensor(0.0, device=config.device), torch.tensor(config.theta_prior).to(config.device))
    if config.learner == "wake-sleep":
        return WakeSleep(pair.model, pair.guide, optimizer, optimizer, theta_prior=prior)
    if config.learner == "reweighted-wake-sleep":
        particles = config.num_particles or SEVERAL
        return ReweightedWakeSleep(
            pair.model, pair.guide, optimizer, optimizer, num_particles=particles, theta_prior=prior
        )
    if config.learner == "mcem":
        return MCEM(pair.model, optimizer, pair.guide, optimizer, theta_prior=prior)
    make, particles = OBJECTIVES[config.objective or "sgvb-b"]
    particles = particles if config.num_particles is None else config.num_particles
    objective = make(particles)
    if isinstance(pair, Bayesian) and particles > 1 and not objective.one_global_draw:
        # Each particle has its own draw of the weights, and a network takes one at a time.
        objective = make(particles, vectorize=False)
    return AEVB(pair.model, pair.guide, optimizer, objective, theta_prior=prior)


def make_optimizer(config: TrainingConfig) -> OptimizerFactory:
    """Return what makes the torch optimizer."""
    if not 0 < config.learning_rate < math.inf:
        raise ValueError(f"expected a learning_rate above 0, got {config.learning_rate}")
    fused = config.optimizer == "adam" or config.device == "cpu"  # what torch has kernels for
    return functools.partial(getattr(torch.optim, OPTIMIZERS[config.optimizer]), lr=config.learning_rate, fused=fused)


def fit_options(config: TrainingConfig) -> dict[str, Any]:
    """Return those arguments of :func:`~pyro_aevb.training.fit` that the configuration has."""
    return {
        "samples": config.samples,
        "epochs": EPOCHS if config.epochs is None and config.samples is None else config.epochs,
        "batch_size": config.batch_size,
        "device": config.device,
        "schedule": _cosine if config.cosine else None,
        "clip_norm": config.clip_norm,
        "kl_warm_up": config.kl_warm_up,
        "evaluate_every": config.evaluate_every,
        "patience": config.patience,
        "keep_best": config.keep_best,
        "seed": config.seed,
        "compile": COMPILE[config.compile],
        "precision": cast(Literal["float32", "bf16"], config.precision),
    }


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))
