"""A script as somebody would write it: a type checker sees the type of every name that it uses."""

import functools
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from typing_extensions import assert_type

from pyro_aevb import (
    AEVB,
    AIS,
    SGVB,
    VAE,
    Arguments,
    BoundEstimate,
    Evidence,
    EvidenceGap,
    History,
    Imputed,
    LogDensity,
    MeanEstimate,
    Objective,
    Report,
    elbo,
    evidence_gap,
    fit,
    impute,
    load,
    log_density,
    log_marginal_likelihood,
    report,
    save,
)
from pyro_aevb.datasets import ImageData, load_dataset
from pyro_aevb.diagnostics import Coverage, RankStatistics, sbc, tarp
from pyro_aevb.learners import Learner
from pyro_aevb.posterior import Posterior, posterior


def model(x: Tensor) -> None:
    """z ~ N(0, 1), x|z ~ N(z + b, 1)."""
    shift = pyro.param("shift", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)


def guide(x: Tensor) -> None:
    """q(z|x) = N(x / 2, 1/2)."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


def train_own_model(x: Tensor) -> float:
    """Train a model and a guide of one's own, and say how good they are."""
    objective: Objective = SGVB(num_particles=2)
    learner: Learner = AEVB(model, guide, functools.partial(torch.optim.Adam, lr=1e-3), objective)
    history = fit(learner, x, epochs=2, batch_size=10, progress=False)
    assert_type(history, History)
    fit(learner, {"x": x}, Arguments(x), epochs=1, batch_size=10, progress=False)
    assert_type(log_density(model, guide, x=x), LogDensity)
    bound = elbo(model, guide, x)
    assert_type(bound, BoundEstimate)
    evidence = log_marginal_likelihood(model, guide, x, method=AIS(10), progress=False)
    assert_type(evidence, Evidence)
    assert_type(evidence_gap(model, guide, x, evidence=evidence, num_steps=5, progress=False), EvidenceGap)
    assert_type(posterior(model, guide, x, progress=False), Posterior)
    assert_type(report(model, guide, x, progress=False), Report)
    assert_type(sbc(model, guide, x, num_simulations=20, progress=False), RankStatistics)
    assert_type(tarp(model, guide, x, num_simulations=20, progress=False), Coverage)
    assert_type(impute(model, guide, x, torch.ones_like(x).bool(), progress=False), Imputed)
    mean = bound.mean()
    assert_type(mean, MeanEstimate)
    return mean.value


def train_a_vae(folder: Path) -> Tensor:
    """Train the paper's VAE on digits, and save it."""
    digits = load_dataset("digits")
    assert_type(digits, ImageData)
    vae = VAE(x_dim=64, latent_dim=2, hidden_dims=(10,), dataset_size=len(digits.train))
    fit(AEVB(vae.model, vae.guide, torch.optim.Adam), digits.train, digits.test, epochs=1)
    save(vae, folder)
    same = load(folder)
    assert_type(same, VAE)
    assert_type(same.encode(torch.zeros(3, 64)), Tensor)
    return same.decode(torch.zeros(3, 2))
