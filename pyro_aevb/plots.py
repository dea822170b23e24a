"""Pictures: grids of images, the manifold of two latent dimensions, several runs side by side, diagnostics.

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

from pyro_aevb.diagnostics.figures import (
    COLOURS,
    bound_plot,
    coverage_plot,
    dimension_plot,
    new_axes,
    pareto_k_plot,
    rank_plot,
    report_page,
)
from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.training.history import ERROR, History
from pyro_aevb.vae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PICTURE",
    "bound_plot",
    "compare_histories",
    "coverage_plot",
    "dimension_plot",
    "image_grid",
    "image_rows",
    "manifold",
    "pairs",
    "pareto_k_plot",
    "rank_plot",
    "report_page",
    "white_of",
    "write_figure",
    "write_image",
]

PICTURE = (".png", ".pdf", ".svg", ".jpg")
SHOWN_HEIGHT = 28  # pixels, to which small images are enlarged


def image_grid(
    images: Tensor, image_shape: Sequence[int], columns: int | None = None, white: float = 1.0, *, gap: int = 0
) -> Tensor:
    """Return images (N, D) in rows of ``columns``, small ones enlarged, as one image (3, height, width).

    Args:
        images: values between 0 and ``white``; what is outside is cut off.
        image_shape: (height, width) or (channels, height, width).
        columns: by default as many as make the grid square.
        white: the value of the brightest pixel.
        gap: white pixels between images.

    Raises:
        ValueError: for an ``image_shape`` that the images don't have, or with other than 1 or 3 channels.

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
    grid = make_grid(images, nrow=columns or math.ceil(len(images) ** 0.5), padding=gap, pad_value=1.0)
    return grid[:, gap : grid.shape[1] - gap, gap : grid.shape[2] - gap]


def image_rows(
    rows: Mapping[str, Tensor], image_shape: Sequence[int], white: float = 1.0, gap: int = 2, axes: Axes | None = None
) -> Axes:
    """Return axes with rows of images, the name of each beside it.

    Args:
        rows: images (N, D) by name, from top to bottom, of one N.
        image_shape: (height, width) or (channels, height, width).
        white: the value of the brightest pixel.
        gap: white pixels between images.
        axes: to draw in; by default those of a new figure.

    Raises:
        ValueError: for rows of different lengths, and as :func:`image_grid`.

    >>> from pyro_aevb.plots import image_rows
    >>> axes = image_rows({"x": torch.rand(5, 64), "mean": torch.rand(5, 64)}, (8, 8))
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['x', 'mean']
    """
    lengths = sorted({len(images) for images in rows.values()})
    if len(lengths) != 1:
        raise ValueError(f"expected rows of one length, got {lengths}; cut them to the shortest")
    grid = image_grid(torch.cat(list(rows.values())), image_shape, lengths[0], white, gap=gap)
    height, width = grid.shape[1] / len(rows), grid.shape[2]
    axes = new_axes(axes, (1.0 + width / 60, 0.2 + grid.shape[1] / 60))
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_yticks([(place + 0.5) * height for place in range(len(rows))], labels=list(rows))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes


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
    """Write an image (3, height, width), of the kind that the file's name ends in; it is there whole or not at all.

    Args:
        image: values between 0 and 1.
        path: ends in .png, .jpg, .pdf or .svg.

    Raises:
        ValueError: for another ending.
    """
    kind = _kind(path)
    if kind in ("pdf", "svg"):
        from matplotlib.figure import Figure

        height, width = image.shape[1:]
        figure = Figure(figsize=(width / 100, height / 100), dpi=100)
        figure.figimage(image.permute(1, 2, 0).clamp(0, 1).cpu().numpy())
        write_figure(figure, path)
        return
    from torchvision.utils import save_image

    buffer = io.BytesIO()
    save_image(image, buffer, format=kind)
    write_atomically(Path(path), buffer.getvalue())


def write_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, of the kind that the file's name ends in; the file is there whole or not at all.

    Args:
        figure: of matplotlib's.
        path: ends in .png, .jpg, .pdf or .svg.

    Raises:
        ValueError: for another ending.
    """
    import matplotlib

    kind, buffer = _kind(path), io.BytesIO()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)  # the same figure is the same file
    with matplotlib.rc_context({"svg.hashsalt": "pyro_aevb"}):  # by which its parts are named, else at random
        figure.savefig(buffer, format=kind, dpi=150 if kind in ("png", "jpeg") else "figure", metadata=undated)
    write_atomically(Path(path), buffer.getvalue())


def _kind(path: str | Path) -> str:
    """Return the format that a file's name stands for."""
    suffix = Path(path).suffix
    if suffix not in PICTURE:
        raise ValueError(f"expected a picture that ends in {', '.join(PICTURE)}, got {path}; name another")
    return {".jpg": "jpeg"}.get(suffix, suffix[1:])


def manifold(vae: VAE, image_shape: Sequence[int], side: int = 20) -> Tensor:
    """Return p(x|z)'s means on a grid through the prior's inverse CDF, as one image: the paper's Figure 4.

    >>> from pyro_aevb.plots import manifold
    >>> vae = VAE(64, 2, hidden_dims=(8,))
    >>> manifold(vae, (8, 8), side=4).shape
    torch.Size([3, 96, 96])
    """
    return image_grid(vae.manifold(side).flatten(1), image_shape, side, white_of(vae))


def compare_histories(histories: Mapping[str, History], name: str = "validation") -> Figure:
    """Return a figure of one value of several runs against training samples, with bands of two standard errors."""
    from matplotlib.figure import Figure  # here, since it takes a second to import

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_prop_cycle(color=COLOURS)
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
