"""The likelihood that data ask for, where nobody says which: by what is in an array.

============== =========================================================== ======================
kind           its numbers                                                 p(x|z)
============== =========================================================== ======================
binary         0 and 1; pixels of 8 bits that are 0 and 255                 bernoulli
pixels         of 8 bits, made numbers between 0 and 1                     continuous-bernoulli
grey           between 0 and 1                                             continuous-bernoulli
counts         whole, from 0, below 100 in the mean                        negative-binomial
real           any others, in columns                                      gaussian, standardised
============== =========================================================== ======================

Pixels of 8 bits are images in files, and arrays of uint8 that are images by their shape, or have values above 127.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from pyro_aevb.cli.config import TrainingConfig
from pyro_aevb.datasets.array_files import Contents
from pyro_aevb.datasets.scaled_rows import contained, kind_of_array

MOST_STANDARDISED = 2**31  # bytes as float32 of an array that is made a table, in memory
KINDS = {
    "binary": ("bernoulli", "ones and zeros"),
    "black and white": ("bernoulli", "black and white pixels, 0 and 1"),
    "pixels": ("continuous-bernoulli", "pixels of 8 bits, between 0 and 1"),
    "grey": ("continuous-bernoulli", "numbers between 0 and 1"),
    "counts": ("negative-binomial", "counts"),
}


def follow(config: TrainingConfig, x: Any, contents: Contents | None) -> tuple[TrainingConfig, str] | None:
    """Return the configuration with the likelihood that data ask for, and why, in words; ``None`` for real columns.

    Args:
        config: without a likelihood.
        x: the datapoints, (N, D), of a named data set.
        contents: those of a file, or ``None``.

    Raises:
        ValueError: for images of real numbers, and missing or infinite ones among others.
    """
    if contents is None:
        found = contained(np.asarray(x))
        grey = config.pixels != "dynamic" and not (found.whole and found.high <= 1)
        return dataclasses.replace(config, likelihood="continuous-bernoulli" if grey else "bernoulli"), ""
    if config.pixels not in (None, "grey"):
        return dataclasses.replace(config, likelihood="bernoulli"), f"; p(x|z): bernoulli, for {config.pixels} pixels"
    found = contained(contents.values)
    kind = kind_of_array(contents.values, found, images=contents.images)
    if kind == "real":
        _check_columns(config, contents)
        return None
    if found.missing or found.infinite:
        raise ValueError(
            f"expected finite data in {config.data}, got {found.missing + found.infinite} NaN or infinite values; fill "
            "them in, or write a table, whose empty cells are missing"
        )
    likelihood, words = KINDS[kind]
    said = f"; {words}, so that p(x|z) is {likelihood}: --likelihood says otherwise"
    pixels = "grey" if kind in ("pixels", "black and white") else config.pixels
    return dataclasses.replace(config, likelihood=likelihood, pixels=pixels), said


def _check_columns(config: TrainingConfig, contents: Contents) -> None:
    if 4 * contents.values.size > MOST_STANDARDISED:
        raise ValueError(
            f"expected real numbers of up to {MOST_STANDARDISED} bytes as float32 to standardise their columns, got "
            f"{contents.values.shape} of {contents.values.dtype} in {config.data}; pass --likelihood gaussian for the "
            "values as they are"
        )
    if contents.values.ndim > 2 or config.pixels is not None or config.image_shape is not None or config.convolutions:
        found = contained(contents.values)
        raise ValueError(
            f"expected images between 0 and 1, of 8 bits or of counts, got values from {found.low:.4g} to "
            f"{found.high:.4g} in {config.data}; rescale them, or pass --likelihood gaussian for the values as they are"
        )
