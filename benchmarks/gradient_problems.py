"""The models whose gradients gradient_variance.py measures, at fixed parameters."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_aevb import AEVB, SGVB, VAE
from pyro_aevb.datasets import load_dataset
from pyro_aevb.training import fit

BATCH_SIZE = 100
STAGES = {"VAE, initialisation": 0, "VAE, mid-training": 1, "VAE, end": 10}  # tenths of the training


class Problem(NamedTuple):
    """A pair at fixed parameters, its minibatch, and the gradient of its evidence lower bound where that is known."""

    name: str
    model: Callable[..., Any]
    guide: Callable[..., Any]
    x: Tensor
    theta: dict[str, Tensor]
    phi: dict[str, Tensor]
    exact: dict[str, Tensor] | None = None


def linear_gaussian(seed: int, latent_dim: int = 5, data_dim: int = 20) -> Problem:
    """Return probabilistic PCA with a diagonal Gaussian guide near its optimum, and its gradients in closed form."""
    pyro.set_rng_seed(seed)
    x = torch.randn(BATCH_SIZE, latent_dim) @ torch.randn(latent_dim, data_dim) + 0.6 * torch.randn(
        BATCH_SIZE, data_dim
    )
    weight, bias, log_noise = torch.randn(data_dim, latent_dim), torch.zeros(data_dim), torch.tensor(-0.2)
    precision = torch.eye(latent_dim) + weight.T @ weight / (2 * log_noise).exp()
    slope = torch.linalg.solve(precision, weight.T) / (2 * log_noise).exp()
    theta = {"weight": weight, "bias": bias, "log_noise": log_noise}
    phi = {"slope": slope + 0.02 * torch.randn_like(slope), "log_scale": -0.5 * precision.diagonal().log() + 0.1}
    for leaf in (theta | phi).values():
        leaf.requires_grad_()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), latent_dim), 1.0).to_event(1))
            mean = z @ theta["weight"].T + theta["bias"]
            pyro.sample("x", dist.Normal(mean, theta["log_noise"].exp()).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = x @ phi["slope"].T
            pyro.sample("z", dist.Normal(loc, phi["log_scale"].exp().expand_as(loc)).to_event(1))

    weight, bias, log_noise = theta.values()
    loc, variance = x @ phi["slope"].T, (2 * phi["log_scale"]).exp()
    residual = (x - bias - loc @ weight.T).square().sum(-1) + (variance * weight.square().sum(0)).sum()
    bound = -data_dim * (0.5 * math.log(2 * math.pi) + log_noise) - 0.5 * residual / (2 * log_noise).exp()
    bound = bound + 0.5 * (1 + 2 * phi["log_scale"] - loc.square() - variance).sum(-1)
    leaves = theta | phi
    exact = dict(zip(leaves, torch.autograd.grad(bound.mean(), list(leaves.values())), strict=True))
    return Problem("linear-Gaussian", model, guide, x, theta, phi, exact)


def vae_problem(name: str, args: argparse.Namespace, position: int | None) -> Problem | None:
    """Train a VAE as far as ``name`` says; ``None`` if ctrl-C came."""
    data = load_dataset(args.dataset, pixels="static", root=args.data)
    pyro.set_rng_seed(args.seed)
    hidden_dims = (100 if args.dataset == "digits" else 500,)
    vae = VAE(data.test.shape[1], args.latent_dim, hidden_dims=hidden_dims)
    learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-3, fused=True), SGVB(kl="analytic"))
    done = 0
    for phase, (reached, samples) in enumerate(STAGES.items()):
        samples = args.samples * samples // 10
        if samples > done:
            history = fit(
                learner,
                data.train,
                samples=samples - done,
                seed=args.seed + phase,
                progress=not args.quiet,
                bar_position=position,
            )
            done = samples
            if history.interrupted:
                return None
        copy = VAE(vae.x_dim, vae.latent_dim, hidden_dims=hidden_dims)
        copy.load_state_dict(vae.state_dict())
        if reached == name:
            break
    theta = {n: p for n, p in copy.named_parameters() if n.startswith("decoder")}
    phi = {n: p for n, p in copy.named_parameters() if n.startswith("encoder")}
    return Problem(name, copy.model, copy.guide, data.train[torch.arange(BATCH_SIZE)], theta, phi)
