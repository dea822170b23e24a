"""Files of tables whose cells were filled in or freed of noise, in the units of the table.

Shapes: N rows, D columns that are modelled, L draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_aevb.cli.table_numbers import imputed_errors, raw_numbers
from pyro_aevb.cli.tables import names_beside, write_beside, write_table
from pyro_aevb.datasets.columns import LEVELED, Cell, Column
from pyro_aevb.datasets.filled_cells import filled_numbers
from pyro_aevb.datasets.table import Table, write_cells
from pyro_aevb.posterior import Denoised, Imputed

UNORDERED = ("binary", "categorical")


def write_imputed(
    path: Path, table: Table, found: Imputed, fill: str, interval: float | None, draws: int | None
) -> None:
    """Write a table with its missing cells filled in.

    Args:
        path: ends in .csv, .npy or .npz.
        table: N rows, of which observed cells are written as they came.
        found: the draws.
        fill: "mean", "mode" or "draw".
        interval: the probability of the central interval whose ends are written too; levels without an order have none.
        draws: how many are written too.
    """
    columns, kept = table.modelled, table.observed
    numbers = filled_numbers(found, columns, fill)
    ends: dict[str, np.ndarray] = {}
    if interval is not None:
        ends = {name: _array(end) for name, end in zip(("low", "high"), found.interval(interval), strict=True)}
    if path.suffix == ".csv":
        write_cells(path, table.rows(numbers, kept) | _ends(table, columns, ends))
        return
    if path.suffix == ".npy":
        write_table(path, table, numbers, kept)
        return
    own = table.own()
    more = {"standard_error": imputed_errors(found, columns)}
    for name, end in ends.items():
        raw = raw_numbers(end, columns)
        raw[:, [column.kind in UNORDERED for column in columns]] = np.nan
        more[name] = np.where(kept, own, raw)
    if draws is not None:
        more["draws"] = np.where(kept, own, raw_numbers(_array(found.draws)[:draws], columns))
    write_beside(path, np.where(kept, own, raw_numbers(numbers, columns)), more, ())


def ended(columns: Sequence[Column]) -> list[str]:
    """Return the names of the columns that have intervals: all but those of levels without an order."""
    return [column.name for column in columns if column.kind not in UNORDERED]


def write_denoised(path: Path, table: Table, found: Denoised, draws: int | None) -> None:
    """Write the clean table behind a noisy one.

    Args:
        path: ends in .csv, .npy or .npz.
        table: the noisy one, of real columns or of binary ones.
        found: the draws.
        draws: how many are written too.
    """
    columns, mean = table.modelled, _array(found.mean)
    if path.suffix != ".npz":
        write_table(path, table, mean)
        return
    units = np.array([column.scale for column in columns])
    more = {"standard_error": _array(found.standard_error) * units}
    if draws is not None:
        more["draws"] = raw_numbers(_array(found.draws)[:draws], columns)
    write_beside(path, raw_numbers(mean, columns), more, ())


def _ends(table: Table, columns: Sequence[Column], ends: dict[str, np.ndarray]) -> dict[str, list[Cell]]:
    """Return the ends of intervals as columns "name low" and "name high"; where a cell is observed, it is both."""
    names = ended(columns)
    leveled = [column.kind in LEVELED for column in columns]
    rounded = [np.where(leveled, end.round(), end) for end in ends.values()]
    cells = [each for end in rounded for name, each in table.rows(end, table.observed).items() if name in names]
    return dict(zip(names_beside(names, ends, table.cells), cells, strict=True))


def _array(values: Any) -> np.ndarray:
    found: np.ndarray = values.cpu().numpy().astype(np.float64)
    return found
