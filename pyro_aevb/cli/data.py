"""The data of a training run, by a data set's name or from files: what to train on, what to validate on.

Shapes: N datapoints, D data dimensions.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.cli.classes import covariates_of
from pyro_aevb.cli.config import PARTS, TrainingConfig
from pyro_aevb.cli.follow import follow
from pyro_aevb.cli.parts import DIGEST, digest_of, fraction_of, split
from pyro_aevb.cli.table_files import (
    TableFile,
    is_table,
    likelihood_of_kinds,
    names_of_rows,
    read_again,
    read_table,
    table_of,
)
from pyro_aevb.datasets import array_files
from pyro_aevb.datasets.array_files import Contents, read_contents
from pyro_aevb.datasets.columns import Column
from pyro_aevb.datasets.image_datasets import DATASETS, load_dataset
from pyro_aevb.datasets.number_tables import TABLES
from pyro_aevb.datasets.pixels import Binarized, draw_pixels
from pyro_aevb.datasets.scaled_rows import ScaledRows, contained
from pyro_aevb.datasets.table import Table
from pyro_aevb.vae.likelihoods import LIKELIHOODS

WHITE = 255.0  # of 8 bits
ImageShape = tuple[int, ...] | None


class TrainingData(NamedTuple):
    """Datapoints (N, D) to train on and to validate on, and the configuration of a run on them.

    ``config``: with the likelihood that the data ask for, and the shape of an image where they are images.  ``said``:
    what was read from a file, in a line; empty for a data set's name.  ``splits``: the rows of a file that are trained
    on and those held out, by part, and a digest.  ``observed``, ``validation_observed``: which cells are there, (N, D)
    each, if some aren't.  ``columns``: of a table, whose likelihood is theirs.  ``covariates``,
    ``validation_covariates``: (N, C), of a conditional VAE, a column for each of ``classes``.  ``divisor``: by
    which the values of a file were divided.
    """

    train: Tensor | Binarized | ScaledRows
    validation: Tensor | ScaledRows | None
    config: TrainingConfig
    said: str = ""
    splits: dict[str, np.ndarray] | None = None
    observed: Tensor | None = None
    validation_observed: Tensor | None = None
    columns: tuple[Column, ...] = ()
    covariates: Tensor | None = None
    validation_covariates: Tensor | None = None
    classes: tuple[str, ...] = ()
    divisor: float | None = None

    @property
    def image_shape(self) -> ImageShape:
        """The shape of an image, where the data are images."""
        return self.config.image_shape

    @property
    def x_dim(self) -> int:
        """D."""
        return (self.train.images if isinstance(self.train, Binarized) else self.train).shape[1]

    @property
    def likelihood(self) -> Any:
        """p(x|z): a name, or an object for the columns of a table."""
        return likelihood_of_kinds(self.columns) if self.columns else self.config.likelihood

    @property
    def to_fit(self) -> tuple[Any, Any]:
        """The data to train on and those to validate on, as ``fit`` takes them."""
        train = _args(self.train, self.observed, self.covariates)
        held_out: Any = None
        if self.validation is not None:
            held_out = _args(self.validation, self.validation_observed, self.validation_covariates)
        return _alone(train), _alone(held_out)

    def first(self, number: int, device: str) -> tuple[Any, ...]:
        """Return the arguments of model and guide for the first datapoints."""
        some = torch.arange(min(number, len(self.train)))
        beside = (None if each is None else each[some].to(device) for each in (self.observed, self.covariates))
        return _args(self.train[some].to(device), *beside)


class Rows(NamedTuple):
    """Datapoints (N, D), and the shape of an image where they are images; what was read from a file, in a line.

    ``values``: as they stand in the file, where x has the same units; ``names``: of the columns.  ``table``: the rows
    of a table, whose numbers x are; ``observed``: which cells are there, (N, D), if some aren't; ``classes``: of images
    in several folders, (N,); ``covariates``: (N, C), for a conditional VAE; ``raw``: all that is in the file, (N, ...),
    if it is no table; ``divisor``: by which x is less.
    """

    x: Any
    image_shape: ImageShape
    said: str = ""
    values: np.ndarray | None = None
    names: tuple[str, ...] = ()
    table: Table | None = None
    observed: Tensor | None = None
    classes: tuple[str, ...] = ()
    covariates: Tensor | None = None
    raw: np.ndarray | None = None
    divisor: float | None = None

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments of model and guide."""
        return _args(self.x, self.observed, self.covariates)

    @property
    def known(self) -> dict[str, Tensor]:
        """The arguments of model and guide beside x, by name."""
        return {} if self.covariates is None else {"covariates": self.covariates}

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """The names of each row, text (N,) by what they are: the ids of a table, the classes of images."""
        found = {} if self.table is None else names_of_rows(self.table)
        return found | ({"class": np.array(self.classes)} if self.classes else {})


def _args(x: Any, observed: Tensor | None, covariates: Tensor | None) -> tuple[Any, ...]:
    """Return the arguments of a VAE's model and guide in their order, without those at the end that there aren't."""
    if covariates is not None:
        return x, observed, None, covariates
    return (x,) if observed is None else (x, observed)


def _alone(args: Any) -> Any:
    """Return one argument as it is, in place of a tuple of it."""
    return args[0] if args is not None and len(args) == 1 else args


def training_data(config: TrainingConfig) -> TrainingData:
    """Return the data of a configuration.

    Raises:
        ValueError, OSError: for what can't be read, and sizes that don't fit together.
    """
    if config.data is None:
        raise ValueError("expected data to train on, got none; name a data set or a file")
    if config.conditional and not Path(config.data).is_dir():
        raise ValueError(f"expected a folder of folders of images for conditional, got {config.data}; leave it out")
    own = config.model is not None  # which takes the numbers of a file as they are
    if not own and is_table(config):
        return _table_data(config, read_table(config))
    if config.columns:
        raise ValueError(
            f"expected --column for a table ({', '.join(TABLES)}) without --pixels, --image-shape and --convolutions, "
            f"got it for {config.data}; leave it out"
        )
    found, contents = _images(config.data, "train", config)
    if config.likelihood is None and not own:
        followed = follow(config, found.x, contents)
        if followed is None:  # real numbers
            assert contents is not None
            return _table_data(config, table_of(contents))
        config, why = followed
        found = found._replace(said=found.said + why)
        if contents is not None:
            divisor = _divisor(contents, config)
            found = found._replace(x=_in_units(contents, divisor), divisor=divisor)
    return _image_data(config, found)


def _image_data(config: TrainingConfig, found: Rows) -> TrainingData:
    """Return the data of images, or of rows of numbers alike, with their validation part."""
    generator = torch.Generator().manual_seed(config.seed)
    grey = found.x
    held_out, splits = None, None
    classes = tuple(sorted(set(found.classes))) if config.conditional else ()
    covariates = covariates_of(found.classes, classes, str(config.data)) if config.conditional else None
    held_out_covariates = None
    if (fraction := fraction_of(config.validation)) is not None:
        splits = split(fraction, len(grey), generator)
        parts = {name: torch.from_numpy(places) for name, places in splits.items()}
        splits |= {} if found.raw is None else {DIGEST: digest_of([found.raw])}
        grey, held_out = _taken(grey, parts["train"]), _taken(grey, parts["validation"])
        held_out = _drawn(held_out, config.pixels, generator)
        if covariates is not None:
            held_out_covariates, covariates = (covariates[parts[part]] for part in ("validation", "train"))
    elif config.validation is not None:
        others = _validation_rows(config, found)
        held_out = others.x
        if covariates is not None:
            held_out_covariates = covariates_of(others.classes, classes, config.validation)
    _check_validation(held_out, grey.shape[1])
    train: Tensor | Binarized | ScaledRows
    if config.pixels == "dynamic":
        _check_pixels(grey, config.pixels)
        train = Binarized(grey)
    else:
        train = _drawn(grey, config.pixels, generator)
    shape = _checked_shape(config.image_shape or found.image_shape, grey.shape[1])
    config = dataclasses.replace(config, image_shape=shape)
    return TrainingData(
        train,
        held_out,
        config,
        found.said,
        None if config.data in DATASETS else splits,
        covariates=covariates,
        validation_covariates=held_out_covariates,
        classes=classes,
        divisor=found.divisor,
    )


def _table_data(config: TrainingConfig, found: TableFile) -> TrainingData:
    """Return the numbers of a table's modelled columns, with a mask if a cell is missing."""
    train, splits = found.table, None
    held_out = None
    if (fraction := fraction_of(config.validation)) is not None:
        splits = split(fraction, len(train), torch.Generator().manual_seed(config.seed))
        splits[DIGEST] = digest_of(found.table.numbers)
        train, held_out = (train.take(splits[part]) for part in ("train", "validation"))
    elif config.validation is not None:
        held_out = read_again(config.validation, found.table.columns, config.key).table
    parts = [train] if held_out is None else [train, held_out]
    masks = None if all(part.observed.all() for part in parts) else [torch.from_numpy(part.observed) for part in parts]
    return TrainingData(
        torch.from_numpy(train.x),
        None if held_out is None else torch.from_numpy(held_out.x),
        config,
        found.said,
        splits,
        None if masks is None else masks[0],
        None if masks is None or held_out is None else masks[1],
        found.table.columns,
    )


def _check_validation(held_out: Any, x_dim: int) -> None:
    if held_out is not None and held_out.shape[1] != x_dim:
        raise ValueError(f"expected validation data of {x_dim} columns, got {held_out.shape[1]}")


def _taken(x: Tensor | ScaledRows, places: Tensor | slice) -> Any:
    return x.at(places) if isinstance(x, ScaledRows) else x[places]


def rows(
    name: str,
    config: TrainingConfig,
    part: str = "test",
    *,
    holes: bool = False,
    divisor: float | None = None,
    colours: bool = False,
) -> Rows:
    """Return the datapoints of a data set's ``part``, or of a file, each pixel drawn once, which may have ``holes``.

    Those of a large file are :class:`~.scaled_rows.ScaledRows`.  ``divisor``: by which those of a run were divided, if
    that is known.  ``colours``: whether these are images in colour, so that grey ones have three channels too.
    """
    found, _ = _images(name, part, config, holes, divisor, colours)
    generator = torch.Generator().manual_seed(config.seed)
    if isinstance(found.x, ScaledRows):
        x = grey = _drawn(found.x, config.pixels, generator)
    else:
        missing = found.x.isnan()
        grey = found.x.masked_fill(missing, 0.0) if holes else found.x
        x = _drawn(grey, config.pixels, generator)
    values = found.values if x is grey else None  # what is drawn has other values than the file
    x = x.masked_fill(missing, torch.nan) if holes and not isinstance(x, ScaledRows) else x
    shape = _checked_shape(config.image_shape or found.image_shape, x.shape[1])
    return found._replace(x=x, image_shape=shape, values=values)


def _validation_rows(config: TrainingConfig, train: Rows) -> Rows:
    assert config.validation is not None
    assert config.data is not None
    if config.data in DATASETS and config.validation in PARTS:
        return rows(config.data, config, config.validation)
    return rows(config.validation, config, divisor=train.divisor, colours=in_colour(train.image_shape))


def in_colour(shape: ImageShape) -> bool:
    """Return whether images of a shape have three channels."""
    return shape is not None and len(shape) == 3 and shape[0] == 3


def _images(
    name: str,
    part: str,
    config: TrainingConfig,
    holes: bool = False,
    divisor: float | None = None,
    colours: bool = False,
) -> tuple[Rows, Contents | None]:
    """Return the datapoints of a data set's part, or of a file, with what is drawn still to draw, and the file's."""
    if name in DATASETS:
        # What the data set draws once, it draws itself; what is drawn at each visit is drawn here.
        data = load_dataset(name, pixels=config.pixels, seed=config.seed)
        images: Any = getattr(data, part, None)
        if images is None:
            raise ValueError(f"expected a data set with a part for {part}, got {name}, which has none; pass a fraction")
        return Rows(images.images if isinstance(images, Binarized) else images, data.image_shape), None
    if not Path(name).exists() and (close := difflib.get_close_matches(name.lower(), DATASETS, 1)):
        raise FileNotFoundError(
            f"expected a data set out of {sorted(DATASETS)}, a file or a folder, got {name}, which isn't there; did "
            f"you mean {close[0]}?"
        )
    contents = read_contents(name, config.key if Path(name).suffix.lower() == ".npz" else None, holes=holes)
    raw = array = contents.values
    if colours and contents.images and array.ndim == 3:
        array = np.broadcast_to(array[:, None], (len(array), 3, *array.shape[1:]))
        contents = contents._replace(values=array)
    shape = array.shape[1:] if array.ndim in (3, 4) else None
    same = None if contents.images or array.dtype == np.uint8 else array.reshape(len(array), -1)
    divisor = _divisor(contents, config, divisor)
    x = _in_units(contents, divisor)
    found = Rows(x, shape, contents.said, same, contents.names, classes=contents.classes, raw=raw, divisor=divisor)
    return found, contents


def _divisor(contents: Contents, config: TrainingConfig, known: float | None = None) -> float:
    """Return what values are divided by: pixels of 8 bits by 255, unless it is their levels that are modelled.

    An array of bytes is of pixels by its values, or if those of the run were, whose divisor is ``known``.
    """
    array = contents.values
    of_bytes = contents.images or (array.dtype == np.uint8 and (known == WHITE or array.max() > 1))
    any_values = getattr(LIKELIHOODS.get(config.likelihood or ""), "values", "any") == "any"
    as_pixels = config.pixels is not None or (contents.images and any_values)
    return WHITE if of_bytes and as_pixels else 1.0


def _in_units(contents: Contents, divisor: float) -> Any:
    """Return values as float32, divided."""
    array = contents.values
    if 4 * array.size > array_files.IN_MEMORY and array.dtype.itemsize < 4:
        return ScaledRows(array, divisor)
    values = array.astype(np.float32).reshape(len(array), -1)
    return torch.from_numpy(values / np.float32(divisor) if divisor != 1 else values)


def _drawn(images: Any, pixels: str | None, generator: torch.Generator) -> Any:
    """Return images with their pixels drawn, once; those that are binary already stay as they are."""
    if pixels is None or pixels == "grey":
        return images
    _check_pixels(images, pixels)
    if isinstance(images, ScaledRows):
        images = images[torch.arange(len(images))]  # since each has its draw
    return draw_pixels(images, pixels, generator)


def _check_pixels(images: Tensor | ScaledRows, pixels: str) -> None:
    if isinstance(images, ScaledRows):
        low, high = (value / images.divisor for value in contained(images.array)[:2])
    else:
        low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"expected pixels between 0 and 1 to make {pixels} ones of, got values from {low:.4g} to {high:.4g}; "
            "rescale them, or leave pixels out"
        )


def _checked_shape(shape: ImageShape, x_dim: int) -> ImageShape:
    if shape is not None and (math.prod(shape) != x_dim or len(shape) not in (2, 3)):
        raise ValueError(
            f"expected an image_shape of {x_dim} pixels, height,width or channels,height,width, got {shape}"
        )
    return shape
