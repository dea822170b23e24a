"""The numbers of a table's columns: central ones of p(x|z), errors of imputed cells, noise, and units.

A number is what the model sees of a cell: a standardised one of a real column, the place of a level.

Shapes: N rows, D columns that are modelled, L draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pyro import distributions as dist
from torch import Tensor

from pyro_aevb.datasets.columns import LEVELED, Column
from pyro_aevb.distributions.table import ColumnsDistribution
from pyro_aevb.posterior.cells import cells_of
from pyro_aevb.posterior.impute import Imputed
from pyro_aevb.random_state import forked


def central_numbers(fn: Any, columns: Sequence[Column]) -> Tensor:
    """Return the numbers (N, D) of each cell's mean in its own units, or of its most probable level.

    A positive column is log-normal: exp(m) is its median, and exp(m + s^2 / 2) its mean, with m and s those of the
    logarithm.

    Args:
        fn: p(x|z) of N rows.
        columns: the D columns.
    """
    if isinstance(fn, ColumnsDistribution):
        pairs = zip(fn.columns, columns, strict=True)
        return torch.cat([_central(cells_of(part)[0], [column]) for part, column in pairs], -1)
    return _central(cells_of(fn)[0], columns)


def raw_numbers(numbers: np.ndarray, columns: Sequence[Column]) -> np.ndarray:
    """Return numbers (..., D) in the units of their columns; levels are their places."""
    return np.stack([column.raw(numbers[..., d]) for d, column in enumerate(columns)], -1)


def imputed_errors(found: Imputed, columns: Sequence[Column]) -> np.ndarray:
    """Return the standard errors (N, D) of the means that are filled in, in the units of the columns; NaN of levels."""
    errors = found.standard_error.cpu().numpy().astype(np.float64)
    draws = found.draws.cpu().numpy()
    for d, column in enumerate(columns):
        if column.kind == "real":
            errors[:, d] *= column.scale
        elif column.kind == "positive":
            errors[:, d] = found.posterior.standard_error(torch.from_numpy(column.raw(draws[..., d]))).numpy()
        elif column.kind in LEVELED:
            errors[:, d] = np.nan
    return errors


def noise_of_columns(kind: str, size: float, columns: Sequence[Column], x: Tensor) -> Callable[[Tensor], Any]:
    """Return the law of noisy numbers given clean ones: of a standard deviation in the cells' units, or flips.

    Args:
        kind: "gaussian" for real columns alone, "flips" for binary ones alone.
        size: the standard deviation, or the probability of a flip.
        columns: the D columns.
        x: noisy numbers, (N, D).

    Raises:
        ValueError: for columns of another kind.
    """
    wanted = {"gaussian": "real", "flips": "binary"}[kind]
    if others := [f"{column.name}: {column.kind}" for column in columns if column.kind != wanted]:
        raise ValueError(
            f"expected {wanted} columns alone for --noise {kind}, got {', '.join(others[:5])}; empty the cells that "
            "are in doubt, and use impute"
        )
    if kind == "flips":
        return lambda clean: dist.Bernoulli(size + (1 - 2 * size) * clean).to_event(1)
    scale = torch.tensor([size / column.scale for column in columns]).to(x)
    return lambda clean: dist.Normal(clean, scale).to_event(1)


def _central(cells: Any, columns: Sequence[Column]) -> Tensor:
    """Return the central numbers of columns of one kind of distribution, (N, D)."""
    if columns[0].kind in LEVELED:
        levels = range(max(len(column.levels) for column in columns))
        with forked():
            like = cells.sample()  # on its device
        each = torch.stack([cells.log_prob(torch.full_like(like, level)) for level in levels])
        return each.argmax(0).to(each)
    mean: Tensor = cells.mean
    above = torch.tensor([column.scale / 2 if column.kind == "positive" else 0.0 for column in columns]).to(mean)
    return mean + above * cells.variance if above.any() else mean
