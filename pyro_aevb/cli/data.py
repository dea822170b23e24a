"""The data of a training run, by a data set's name or from files: what to train on, what to validate on.

Shapes: N datapoints, D data dimensions.
"""

from __future__ import annotations

import difflib
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.cli.config import PARTS, TrainingConfig
from pyro_aevb.datasets.array_files import Contents, read_contents
from pyro_aevb.datasets.image_datasets import DATASETS, load_dataset
from pyro_aevb.datasets.pixels import Binarized, draw_pixels
from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.vae.likelihoods import LIKELIHOODS

SPLITS = "splits.npz"
ImageShape = tuple[int, ...] | None


class TrainingData(NamedTuple):
    """Datapoints (N, D) to train on and to validate on, and the shape of an image where they are images.

    ``said``: what was read from a file, in a line; empty for a data set's name.  ``splits``: the rows of a file that
    are trained on and those held out, by part.
    """

    train: Tensor | Binarized
    validation: Tensor | None
    image_shape: ImageShape
    said: str = ""
    splits: dict[str, np.ndarray] | None = None

    @property
    def x_dim(self) -> int:
        """D."""
        return (self.train.images if isinstance(self.train, Binarized) else self.train).shape[1]


class Rows(NamedTuple):
    """Datapoints (N, D), and the shape of an image where they are images; what was read from a file, in a line.

    ``values``: as they stand in the file, where x has the same units; ``names``: of the columns.
    """

    x: Tensor
    image_shape: ImageShape
    said: str = ""
    values: np.ndarray | None = None
    names: tuple[str, ...] = ()


def training_data(config: TrainingConfig) -> TrainingData:
    """Return the data of a configuration.

    Raises:
        ValueError, OSError: for what can't be read, and sizes that don't fit together.
    """
    if config.data is None:
        raise ValueError("expected data to train on, got none; name a data set or a file")
    generator = torch.Generator().manual_seed(config.seed)
    grey, shape, said, *_ = _images(config.data, "train", config)
    held_out, splits = None, None
    if (fraction := _fraction(config.validation)) is not None:
        order = torch.randperm(len(grey), generator=generator)
        count = round(fraction * len(grey))
        if not 0 < count < len(grey):
            raise ValueError(f"expected 1 datapoint or more on each side of the split, got {fraction} of {len(grey)}")
        grey, held_out = grey[order[count:]], grey[order[:count]]
        splits = {"train": order[count:].numpy(), "validation": order[:count].numpy()}
        held_out = _drawn(held_out, config.pixels, generator)
    elif config.validation is not None:
        held_out = _validation_rows(config)
    if held_out is not None and held_out.shape[1] != grey.shape[1]:
        raise ValueError(f"expected validation data of {grey.shape[1]} columns, got {held_out.shape[1]}")
    train: Tensor | Binarized
    if config.pixels == "dynamic":
        _check_pixels(grey, config.pixels)
        train = Binarized(grey)
    else:
        train = _drawn(grey, config.pixels, generator)
    shape = _checked_shape(config.image_shape or shape, grey.shape[1])
    return TrainingData(train, held_out, shape, said, None if config.data in DATASETS else splits)


def rows(name: str, config: TrainingConfig, part: str = "test", *, holes: bool = False) -> Rows:
    """Return the datapoints of a data set's ``part``, or of a file, each pixel drawn once, which may have ``holes``."""
    found = _images(name, part, config, holes)
    missing = found.x.isnan()
    grey = found.x.masked_fill(missing, 0.0) if holes else found.x
    x = _drawn(grey, config.pixels, torch.Generator().manual_seed(config.seed))
    values = found.values if x is grey else None  # what is drawn has other values than the file
    x = x.masked_fill(missing, torch.nan) if holes else x
    return Rows(x, _checked_shape(config.image_shape or found.image_shape, x.shape[1]), found.said, values, found.names)


def write_splits(splits: dict[str, np.ndarray] | None, folder: Path) -> None:
    """Write which rows of a file are trained on and which are held out, if it was split."""
    if splits is not None:
        buffer = io.BytesIO()
        named: dict[str, Any] = splits
        np.savez_compressed(buffer, **named)
        write_atomically(folder / SPLITS, buffer.getvalue())


def part_of_file(name: str, part: str | None, config: TrainingConfig, folder: Path, count: int) -> tuple[Any, str]:
    """Return the indices of a file's part, and which rows these are, in words.

    Args:
        name: the file.
        part: "train" or "validation", as the run in ``folder`` split it; "all" rows; ``None`` for what was held out if
            this is the file that the run was trained on, and else for all rows.
        config: that of the run.
        folder: the run's.
        count: how many rows the file has now.

    Raises:
        ValueError: for a part that the run doesn't know.
    """
    trained_on = None if config.data in (None, *DATASETS) else Path(str(config.data)).resolve()
    own = trained_on == Path(name).resolve()
    known = folder / SPLITS
    if part == "all" or not own or not known.is_file():
        if part not in (None, "all"):
            raise ValueError(
                f"expected --part for a named data set, or for the file that the run split by --validation, got "
                f"{part!r} for {name}; leave it out for all rows"
            )
        some = "some of them were" if known.is_file() else "all of them were"
        return slice(None), f"; {some} trained on" if own else ""
    splits = {key: read_contents(known, key).values for key in ("train", "validation")}
    total = sum(map(len, splits.values()))
    if total != count:
        raise ValueError(
            f"expected the {total} rows of {name} that the run split, got {count}; pass --part all for all of them"
        )
    if part not in (None, *splits):
        raise ValueError(f"expected --part train, validation or all for the file of the run, got {part!r}")
    words = {"validation": "that were held out", "train": "that were trained on"}[part or "validation"]
    rows = np.sort(splits[part or "validation"])
    return torch.from_numpy(rows), f"; of these the {len(rows)} {words}"


def _validation_rows(config: TrainingConfig) -> Tensor:
    assert config.validation is not None
    assert config.data is not None
    if config.data in DATASETS and config.validation in PARTS:
        return rows(config.data, config, config.validation).x
    return rows(config.validation, config).x


def _images(name: str, part: str, config: TrainingConfig, holes: bool = False) -> Rows:
    """Return the datapoints of a data set's part, or of a file, with what is drawn still to draw, (N, D)."""
    if name in DATASETS:
        # What the data set draws once, it draws itself; what is drawn at each visit is drawn here.
        data = load_dataset(name, pixels=config.pixels, seed=config.seed)
        images: Any = getattr(data, part, None)
        if images is None:
            raise ValueError(f"expected a data set with a part for {part}, got {name}, which has none; pass a fraction")
        return Rows(images.images if isinstance(images, Binarized) else images, data.image_shape)
    if not Path(name).exists() and (close := difflib.get_close_matches(name.lower(), DATASETS, 1)):
        raise FileNotFoundError(
            f"expected a data set out of {sorted(DATASETS)}, a file or a folder, got {name}, which isn't there; did "
            f"you mean {close[0]}?"
        )
    contents = read_contents(name, config.key if Path(name).suffix == ".npz" else None, holes=holes)
    array = contents.values
    x = torch.from_numpy(_in_units(contents, config))
    shape = array.shape[1:] if array.ndim in (3, 4) else None
    same = None if contents.images or array.dtype == np.uint8 else array.reshape(len(array), -1)
    return Rows(x.flatten(1) if array.ndim > 1 else x[:, None], shape, contents.said, same, contents.names)


def _in_units(contents: Contents, config: TrainingConfig) -> np.ndarray:
    """Return values as float32: the pixels of 8 bits between 0 and 1, unless it is their levels that are modelled."""
    values = contents.values.astype(np.float32)
    of_bytes = contents.images or (contents.values.dtype == np.uint8 and contents.values.max() > 1)
    any_values = getattr(LIKELIHOODS.get(config.likelihood), "values", "any") == "any"
    as_pixels = config.pixels is not None or (contents.images and any_values)
    return values / np.float32(255.0) if of_bytes and as_pixels else values


def _drawn(images: Tensor, pixels: str | None, generator: torch.Generator) -> Tensor:
    """Return images with their pixels drawn, once; those that are binary already stay as they are."""
    if pixels is None or pixels == "grey":
        return images
    _check_pixels(images, pixels)
    return draw_pixels(images, pixels, generator)


def _check_pixels(images: Tensor, pixels: str) -> None:
    if images.min() < 0 or images.max() > 1:
        raise ValueError(
            f"expected pixels between 0 and 1 to make {pixels} ones of, got values from {images.min():.4g} to "
            f"{images.max():.4g}; rescale them, or leave pixels out"
        )


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
