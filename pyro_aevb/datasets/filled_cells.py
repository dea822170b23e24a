"""The numbers that a table's missing cells are filled in with, each by what its column is.

Shapes: L draws, N rows, D columns that are modelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from pyro_aevb.datasets.columns import LEVELED, Column

FILLS = ("mean", "mode", "draw")


class Filled(Protocol):
    """Draws of a table's cells, as :func:`~pyro_aevb.impute` gives them, of tensors or arrays."""

    @property
    def draws(self) -> Any:
        """(L, N, D)."""

    @property
    def mean(self) -> Any:
        """(N, D)."""

    @property
    def mode(self) -> Any:
        """(N, D), NaN for columns that are no category and no count; ``None`` if none is."""


def filled_numbers(made: Filled, columns: Sequence[Column], fill: str = "mean") -> np.ndarray:
    """Return numbers (N, D): means in the units of the columns, and the most frequent levels.

    Args:
        made: the draws, and their means and modes.
        columns: the D columns.
        fill: ``"mean"``; ``"mode"`` for the most frequent count too; ``"draw"`` for the first draw.

    Raises:
        ValueError: for another ``fill``, and angles in a column that has another unit than they have.
    """
    if fill not in FILLS:
        raise ValueError(f"expected fill out of {list(FILLS)}, got {fill!r}; the default is 'mean'")
    _check_angles(made, columns)
    if fill == "draw":
        return _array(made.draws[0])
    mean, draws = _array(made.mean), _array(made.draws)
    mode = mean if made.mode is None else _array(made.mode)
    for d, column in enumerate(columns):
        if column.kind in LEVELED or (fill == "mode" and column.kind == "count"):
            mean[:, d] = mode[:, d]
        elif column.kind == "positive":
            mean[:, d] = (np.log(column.raw(draws[..., d]).mean(0)) - column.loc) / column.scale
    return mean


def _check_angles(made: Filled, columns: Sequence[Column]) -> None:
    """Raise ``ValueError`` for angles in a column whose numbers aren't its cells', for a turn of the one is no turn."""
    angles = np.broadcast_to(_array(getattr(made, "angle", False)).astype(bool), len(columns))
    for column, angle in zip(columns, angles, strict=True):
        if angle and (column.kind != "real" or column.scale != 1):
            raise ValueError(
                f"expected angles of column {column.name!r} in radians, as its cells are, got ones of a {column.kind} "
                f"column in units of {column.scale:.4g}; make the table with columns=[..., "
                f"Column({column.name!r}, 'real')], whose cells are taken as they are, and train anew"
            )


def _array(values: Any) -> np.ndarray:
    """Return a tensor or an array as a new array of float64."""
    return np.array(values.cpu().numpy() if hasattr(values, "cpu") else values, dtype=np.float64)
