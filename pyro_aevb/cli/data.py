"""The data of a training run, by a data set's name or from files: what to train on, what to validate on.

Shapes: N datapoints, D data dimensions.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb.cli.config import PARTS, TrainingConfig
from pyro_aevb.datasets.array_files import read_array
from pyro_aevb.datasets.image_datasets import DATASETS, load_dataset
from pyro_aevb.datasets.pixels import Binarized, draw_pixels

ImageShape = tuple[int, ...] | None


class TrainingData(NamedTuple):
    """Datapoints (N, D) to train on and to validate on, and the shape of an image where they are images."""

    train: Tensor | Binarized
    validation: Tensor | None
    image_shape: ImageShape

    @property
    def x_dim(self) -> int:
        """D."""
        return (self.train.images if isinstance(self.train, Binarized) else self.train).shape[1]


class Rows(NamedTuple):
    """Datapoints (N, D), and the shape of an image where they are images."""

    x: Tensor
    image_shape: ImageShape


def training_data(config: TrainingConfig) -> TrainingData:
    """Return the data of a configuration.

    Raises:
        ValueError, OSError: for what can't be read, and sizes that don't fit together.
    """
    if config.data is None:
        raise ValueError("expected data to train on, got none; name a data set or a file")
    generator = torch.Generator().manual_seed(config.seed)
    grey, shape = _images(config.data, "train", config)
    held_out = None
    if (fraction := _fraction(config.validation)) is not None:
        order = torch.randperm(len(grey), generator=generator)
        count = round(fraction * len(grey))
        if not 0 < count < len(grey):
            raise ValueError(f"expected 1 datapoint or more on each side of the split, got {fraction} of {len(grey)}")
        grey, held_out = grey[order[count:]], grey[order[:count]]
        held_out = _drawn(held_out, config.pixels, generator)
    elif config.validation is not None:
        held_out = _validation_rows(config)
    if held_out is not None and held_out.shape[1] != grey.shape[1]:
        raise ValueError(f"expected validation data of {grey.shape[1]} columns, got {held_out.shape[1]}")
    train = Binarized(grey) if config.pixels == "dynamic" else _drawn(grey, config.pixels, generator)
    return TrainingData(train, held_out, _checked_shape(config.image_shape or shape, grey.shape[1]))


def rows(name: str, config: TrainingConfig, part: str = "test") -> Rows:
    """Return the datapoints of a data set's ``part``, or of a file, each pixel drawn once."""
    grey, shape = _images(name, part, config)
    x = _drawn(grey, config.pixels, torch.Generator().manual_seed(config.seed))
    return Rows(x, _checked_shape(config.image_shape or shape, x.shape[1]))


def _validation_rows(config: TrainingConfig) -> Tensor:
    assert config.validation is not None
    assert config.data is not None
    if config.data in DATASETS and config.validation in PARTS:
        return rows(config.data, config, config.validation).x
    return rows(config.validation, config).x


def _images(name: str, part: str, config: TrainingConfig) -> tuple[Tensor, ImageShape]:
    """Return the datapoints of a data set's part, or of a file, with what is drawn still to draw, (N, D)."""
    if name in DATASETS:
        # What the data set draws once, it draws itself; what is drawn at each visit is drawn here.
        data = load_dataset(name, pixels=config.pixels, seed=config.seed)
        images: Any = getattr(data, part)
        if images is None:
            raise ValueError(f"expected a data set with a part for {part}, got {name}, which has none; pass a fraction")
        return images.images if isinstance(images, Binarized) else images, data.image_shape
    array = read_array(name, config.key if Path(name).suffix == ".npz" else None)
    x = torch.from_numpy(array).flatten(1) if array.ndim > 1 else torch.from_numpy(array)[:, None]
    return x, array.shape[1:] if array.ndim in (3, 4) else None


def _drawn(images: Tensor, pixels: str | None, generator: torch.Generator) -> Tensor:
    """Return images with their pixels drawn, once; those that are binary already stay as they are."""
    if pixels is None or pixels == "grey":
        return images
    if images.min() < 0 or images.max() > 1:
        raise ValueError(
            f"expected pixels between 0 and 1 to make {pixels} ones of, got values from {images.min():.4g} to "
            f"{images.max():.4g}; rescale them, or leave pixels out"
        )
    return draw_pixels(images, pixels, generator)


def _fraction(text: str | None) -> float | None:
    try:
        fraction = math.nan if text is None else float(text)
    except ValueError:
        return None
    if math.isnan(fraction):
        return None
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction of the data to validate on, between 0 and 1, got {text}")
    return fraction


def _checked_shape(shape: ImageShape, x_dim: int) -> ImageShape:
    if shape is not None and (math.prod(shape) != x_dim or len(shape) not in (2, 3)):
        raise ValueError(
            f"expected an image_shape of {x_dim} pixels, height,width or channels,height,width, got {shape}"
        )
    return shape
