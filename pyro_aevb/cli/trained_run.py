"""The folder of a training run, opened again: the model, and what its config.toml says about the data.

Shapes: N datapoints, D data dimensions, J latent dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_aevb.cli.config import CONFIG, TrainingConfig
from pyro_aevb.cli.data import ImageShape, rows
from pyro_aevb.cli.train import check_device
from pyro_aevb.vae.saving import load
from pyro_aevb.vae.vae import VAE

CHUNK = 1000  # datapoints at a time


class TrainedRun:
    """The VAE in a folder, and the configuration it was trained with; defaults, where :func:`save` alone wrote it.

    Args:
        folder: what ``train`` or :func:`~pyro_aevb.save` wrote.
        device: where to put the VAE.
    """

    def __init__(self, folder: Path, device: str) -> None:
        check_device(device)
        self.vae: VAE = load(folder, device=device).eval()
        self.device = device
        path = folder / CONFIG
        self.config = TrainingConfig.read(path) if path.exists() else TrainingConfig()

    def rows(self, data: str, part: str, limit: int | None, options: dict[str, Any]) -> Tensor:
        """Return datapoints (N, D) for the VAE; ``options`` are fields that take the place of the training's.

        Raises ``ValueError`` for other than D columns.
        """
        x = rows(data, dataclasses.replace(self.config.but(options), image_shape=None), part).x[:limit]
        if x.shape[1] != self.vae.x_dim:
            raise ValueError(f"expected {self.vae.x_dim} columns, as the model has, got {x.shape[1]} in {data}")
        return x.to(self.device)

    def image_shape(self, text: str | None) -> tuple[int, ...]:
        """Return the shape of an image: as given, or as in training; ``ValueError`` where neither says."""
        shape: ImageShape = self.config.image_shape or self.vae.image_shape
        if text is not None:
            shape = TrainingConfig().but({"image_shape": text}).image_shape
        if shape is None:
            raise ValueError(
                f"expected the shape of an image of {self.vae.x_dim} pixels, got data without; pass --image-shape, "
                "such as 28,28, or write .npy or .csv"
            )
        return shape

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the means of q(z|x), (N, J)."""
        return _in_chunks(self.vae.encode, x)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the means of p(x|z) at the means of q(z|x), (N, D)."""
        return _in_chunks(lambda chunk: self.vae.decode(self.vae.encode(chunk)), x)

    @torch.no_grad()
    def sample(self, number: int, mean: bool) -> Tensor:
        """Return draws of x (N, D) for z ~ p(z): from p(x|z), or its means."""

        def draws(x: Tensor) -> Tensor:
            nodes: Any = poutine.trace(poutine.uncondition(self.vae.model)).get_trace(x).nodes
            return self.vae.decode(nodes["z"]["value"]) if mean else nodes["x"]["value"]

        return _in_chunks(draws, torch.zeros(number, self.vae.x_dim).to(next(self.vae.parameters())))


def _in_chunks(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([fn(chunk) for chunk in x.split(CHUNK)])
