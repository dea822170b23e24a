"""Tables of numbers in files: .csv, .tsv and .txt with names in the first line or without, .parquet.

Shapes: N rows, D columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyro_aevb.datasets.columns import as_number
from pyro_aevb.datasets.delimited import DELIMITED, read_rows

TABLES = (*DELIMITED, ".parquet")
SHOWN = 60  # characters of what isn't a number


def read_numbers(path: Path, holes: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a table's numbers (N, D) and the names of its columns, if it has them.

    Args:
        path: ends in one of ``TABLES``.
        holes: whether cells may be empty, which are NaN then, and rows of nothing else.

    Raises:
        ValueError: for anything but numbers.
    """
    return _numbers_of_parquet(path, holes) if path.suffix.lower() == ".parquet" else _read_delimited(path, holes)


def read_parquet(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a .parquet file by name.

    Args:
        path: the file.

    Raises:
        ImportError: without pyarrow.
        ValueError: for a file that isn't one.
    """
    try:
        from pyarrow import ArrowException, parquet  # here, since it is an extra
    except ImportError as error:
        raise ImportError(f"expected pyarrow to read {path}, got none; pip install 'pyro-aevb[parquet]'") from error
    try:
        found: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
    except ArrowException as error:
        raise ValueError(f"expected a whole .parquet file, got {path}: {error}; make it anew") from error
    return found


def _numbers_of_parquet(path: Path, holes: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    columns = read_parquet(path)
    for name, cells in columns.items():
        for row, cell in enumerate(cells):
            if not (isinstance(cell, int | float) or (holes and cell is None)):
                raise ValueError(
                    f"expected numbers in {path}, got {str(cell)[:SHOWN]!r} in column {name!r}, row {row}; fill in "
                    "what is missing, and drop columns of text"
                )
    array = np.array([[np.nan if cell is None else cell for cell in cells] for cells in columns.values()], float).T
    return array, tuple(columns)


def _read_delimited(path: Path, holes: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a table's numbers and the names of its columns, if its first line has them; empty cells are NaN."""
    rows = [(line, row) for line, row in read_rows(path)[1] if any(map(str.strip, row)) or (holes and len(row) > 1)]
    names: tuple[str, ...] = ()
    if rows and is_header(rows[0][1]) and any(map(str.strip, rows[0][1])):
        names = tuple(map(str.strip, rows[0][1]))
        del rows[0]
    if not rows:
        raise ValueError(f"expected rows of numbers, got an empty table in {path}")
    width = len(rows[0][1])
    if names and len(names) != width:
        raise ValueError(f"expected {width} names in the first line of {path}, got {len(names)}")
    for line, row in rows:
        if len(row) != width:
            raise ValueError(f"expected {width} numbers in each line of {path}, got {len(row)} in line {line}")
        for cell in row:
            if not (as_number(cell) is not None or (holes and not cell.strip())):
                raise ValueError(
                    f"expected numbers in {path}, got {cell[:SHOWN]!r} in line {line}; fill in what is missing, "
                    "write decimals with a point, and drop columns of text"
                )
    array = np.array([[as_number(cell) for cell in row] for _, row in rows], dtype=np.float64)  # None is NaN
    if names and names[0] == "" and width > 1 and np.array_equal(array[:, 0], np.arange(len(array))):
        return array[:, 1:], names[1:]  # the number of the row, which pandas writes under no name
    return array, names


def is_header(cells: list[str]) -> bool:
    """Return whether a first line names the columns: by text, or 0, 1, 2, ... as pandas does of its own accord."""
    numbered = [str(i) for i in range(len(cells))]
    stripped = list(map(str.strip, cells))
    return all(as_number(cell) is None for cell in cells) or (
        len(cells) > 2 and (stripped == numbered or stripped == ["", *numbered[:-1]])
    )
