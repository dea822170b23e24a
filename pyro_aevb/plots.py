"""Pictures of a VAE: grids of images, the manifold of two latent dimensions, several runs side by side.

Shapes: N images of D = height x width pixels (channels first where there are several), J latent dimensions.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.training.history import ERROR, History
from pyro_aevb.vae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_HEIGHT = 28  # pixels, to which small images are enlarged


def image_grid(images: Tensor, image_shape: Sequence[int], columns: int | None = None, white: float = 1.0) -> Tensor:
    """Return images (N, D) in rows of ``columns``, small ones enlarged, as one image (3, height, width).

    Args:
        images: values between 0 and ``white``; what is outside is cut off.
        image_shape: (height, width) or (channels, height, width).
        columns: by default as many as make the grid square.
        white: the value of the brightest pixel.

    >>> from pyro_aevb.plots import image_grid
    >>> image_grid(torch.rand(6, 64), (8, 8), columns=3).shape
    torch.Size([3, 48, 72])
    """
    from torchvision.utils import make_grid  # here, since it takes a second to import

    *channels, height, width = image_shape
    if math.prod(image_shape) != images.shape[-1]:
        raise ValueError(f"expected an image_shape of {images.shape[-1]} pixels, got {tuple(image_shape)}")
    if channels not in ([], [1], [3]):
        raise ValueError(f"expected images of 1 or 3 channels to show, got {channels[0]}")
    factor = max(1, SHOWN_HEIGHT // height)
    images = (images.detach().cpu() / white).clamp(0, 1).reshape(-1, *(channels or [1]), height, width)
    images = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    return make_grid(images, nrow=columns or math.ceil(len(images) ** 0.5), padding=0)


def pairs(
    x: Tensor, reconstructions: Tensor, image_shape: Sequence[int], columns: int = 10, white: float = 1.0
) -> Tensor:
    """Return rows of datapoints (N, D), each row above its reconstructions, as one image."""
    columns = min(columns, len(x))
    rows = [row for both in zip(x.split(columns), reconstructions.split(columns), strict=True) for row in both]
    return image_grid(torch.cat([_filled(row, columns, white) for row in rows]), image_shape, columns, white)


def _filled(row: Tensor, columns: int, white: float) -> Tensor:
    return torch.cat([row, row.new_full((columns - len(row), row.shape[1]), white)])


def white_of(vae: VAE) -> float:
    """Return the value of the brightest pixel: of images of 8 bits if whole numbers are modelled."""
    if getattr(vae.likelihood, "values", "any") == "counts":
        return 255.0
    return getattr(vae.likelihood, "num_levels", 2) - 1.0


def write_image(image: Tensor, path: str | Path) -> None:
    """Write an image (3, height, width) as PNG; the file is there whole or not at all."""
    from torchvision.utils import save_image

    buffer = io.BytesIO()
    save_image(image, buffer, format="png")
    write_atomically(Path(path), buffer.getvalue())


def write_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG; the file is there whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(Path(path), buffer.getvalue())


def manifold(vae: VAE, image_shape: Sequence[int], side: int = 20) -> Tensor:
    """Return p(x|z)'s means on a grid through the prior's inverse CDF, as one image: the paper's Figure 4.

    >>> from pyro_aevb.plots import manifold
    >>> vae = VAE(64, 2, hidden_dims=(8,))
    >>> manifold(vae, (8, 8), side=4).shape
    torch.Size([3, 96, 96])
    """
    return image_grid(vae.manifold(side), image_shape, side, white_of(vae))


def compare_histories(histories: Mapping[str, History], name: str = "validation") -> Figure:
    """Return a figure of one value of several runs against training samples, with bands of two standard errors."""
    from matplotlib.figure import Figure  # here, since it takes a second to import

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for label, history in histories.items():
        table = history.table()
        samples, values = table["samples"], table[name]
        errors = table.get(name + ERROR, [math.nan] * len(values))
        (line,) = axes.plot(samples, values, marker="o" if len(values) < 20 else None, markersize=3, label=label)
        low, high = ([v + s * 2 * e for v, e in zip(values, errors, strict=True)] for s in (-1, 1))
        axes.fill_between(samples, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel("training samples")
    axes.set_ylabel(f"{name} bound (nats per datapoint)")
    axes.legend(frameon=False)
    return figure
