"""The VAE that a benchmark of trained models looks at: trained once, kept in its output folder."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO

from pyro_aevb import AEVB, VAE, load, save
from pyro_aevb.datasets import load_dataset
from pyro_aevb.training import fit


def trained(
    args: argparse.Namespace,
    folder: Path,
    position: int | None,
    *,
    latent_dim: int = 20,
    hidden_dim: int = 200,
    learning_rate: float = 1e-3,
    pixels: str | None = None,
    **parts: Any,
) -> VAE | None:
    """Return the VAE in ``folder``, trained there by Adam with linear decay if it isn't yet; ``None`` after ctrl-C.

    Args:
        args: ``dataset``, ``data``, ``samples``, ``device`` and ``quiet`` are looked at.
        folder: where it is kept.
        position: the line of its progress bar.
        latent_dim: J.
        hidden_dim: tanh units of encoder and decoder.
        learning_rate: at the beginning.
        pixels: how they are drawn, by default as the data set has them.
        parts: of the VAE.
    """
    if (folder / "vae.json").exists():
        return load(folder, device=args.device)
    data = load_dataset(args.dataset, pixels=pixels, root=args.data)
    pyro.set_rng_seed(0)
    x_dim, num_data = data.test.shape[1], len(data.train)
    vae = VAE(x_dim, latent_dim, hidden_dims=(hidden_dim,), dataset_size=num_data, **parts).to(args.device)
    adam = functools.partial(torch.optim.Adam, lr=learning_rate)
    history = fit(
        AEVB(vae.model, vae.guide, adam, TraceMeanField_ELBO()),
        data.train,
        samples=args.samples,
        device=args.device,
        schedule=lambda done: 1 - done,
        progress=not args.quiet,
        bar_position=position,
    )
    if history.interrupted:
        return None
    save(vae, folder)
    return vae
