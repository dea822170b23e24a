"""A table of mixed columns as numbers with a mask, and back: in the units, the names and the order that it came in.

Shapes: N rows, D columns that are modelled.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_aevb.datasets.columns import (
    KINDS,
    LEFT_OUT,
    Cell,
    Column,
    as_number,
    make_column,
    modelled_columns,
    present,
)
from pyro_aevb.datasets.delimited import DELIMITED, read_rows, with_points
from pyro_aevb.datasets.filled_cells import Filled, filled_numbers
from pyro_aevb.datasets.number_tables import TABLES, is_header, read_parquet
from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.files.comma_separated import comma_separated
from pyro_aevb.files.regular import check_regular


class Table:
    """N rows of columns, each of a kind; ``x`` (N, D) and ``observed`` (N, D) are what a model is trained on.

    Args:
        cells: {name: N cells}: numbers, text, ``None``, arrays of numbers; a frame of pandas or polars, an Arrow table.
        kinds: {name: kind} of columns that are known better than by their look; of levels in an order
            ``"ordered:low,medium,high"``.
        columns: those of an earlier table, by which this one is read; columns of other names are left out.

    Attributes:
        columns: what each is, in the table's order.
        x: their numbers, float32, 0 in the place of a missing cell.
        observed: which cells are there, of bool.

    Raises:
        ValueError: for an empty table, columns of different lengths, an unknown name or kind, and cells that aren't of
            their column's kind.

    >>> from pyro_aevb.datasets import Table
    >>> cells = {"name": ["ann", "bob", "cy", "di"], "age": [31, 43, None, 28], "smokes": ["no", "yes", "no", "?"]}
    >>> people = Table(cells)
    >>> print(people)
    4 rows, 2 columns to model, 2 cells missing
      name    id      left out
      age     count   28 to 43, 1 missing
      smokes  binary  no, yes, 1 missing
    >>> people.x.tolist(), people.observed.tolist()[2]
    ([[31.0, 0.0], [43.0, 1.0], [0.0, 0.0], [28.0, 0.0]], [False, True])
    """

    def __init__(
        self,
        cells: Any,
        kinds: Mapping[str, str] | None = None,
        columns: Sequence[Column] | None = None,
    ) -> None:
        self.cells = _as_cells(cells)
        lengths = {name: len(column) for name, column in self.cells.items()}
        if not lengths or min(lengths.values()) == 0:
            raise ValueError("expected a table of one row or more, got an empty one")
        if len(set(lengths.values())) > 1:
            raise ValueError(f"expected columns of one length, got {lengths}; cut them, or fill them with None")
        kinds = dict(kinds or {})
        if unknown := sorted(kinds.keys() - lengths.keys()):
            close = difflib.get_close_matches(unknown[0], lengths, 1, 0.6)
            remedy = f"did you mean {close[0]!r}?" if close else "name these"
            raise ValueError(f"expected kinds of columns out of {list(lengths)}, got {unknown}; {remedy}")
        if columns is None:
            columns = [make_column(name, column, kinds.get(name)) for name, column in self.cells.items()]
        elif missing := [c.name for c in columns if c.kind not in LEFT_OUT and c.name not in self.cells]:
            raise ValueError(
                f"expected a table with the columns {missing}, got one with {list(self.cells)}; add them, empty where "
                "they aren't known"
            )
        self.columns = tuple(columns)
        if not self.modelled:
            raise ValueError(
                f"expected columns to model, got {[f'{c.name}: {c.kind}' for c in self.columns]}; say other kinds, "
                "give rows that differ, and check what stands between the cells"
            )
        both = [column.numbers(self.cells[column.name]) for column in self.modelled]
        self.x = np.stack([values for values, _ in both], 1).astype(np.float32)
        self.observed = np.stack([observed for _, observed in both], 1)

    @classmethod
    def read(
        cls, path: str | Path, kinds: Mapping[str, str] | None = None, columns: Sequence[Column] | None = None
    ) -> Table:
        """Return the table in a file: .csv, .tsv or .txt with names in its first line, or .parquet (needs pyarrow).

        Args:
            path: the file; ``;``, tabs, decimal commas and UTF-16 are noticed.
            kinds: as for :class:`Table`.
            columns: likewise.

        Raises:
            ValueError: for a file that isn't such a table, and as for :class:`Table`.
            OSError: if it can't be read.
        """
        return cls(read_cells(path), kinds, columns)

    def __len__(self) -> int:
        return len(next(iter(self.cells.values())))

    @property
    def modelled(self) -> tuple[Column, ...]:
        """The D columns that aren't left out."""
        return modelled_columns(self.columns)

    @property
    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """``x`` and ``observed``, (N, D) each: all that a model sees of the rows."""
        return self.x, self.observed

    def __str__(self) -> str:
        """Return a line a column: its name, its kind, its range or levels, and how many cells are missing."""
        missing = int((~self.observed).sum())
        lines = [f"{len(self)} rows, {len(self.modelled)} columns to model, {missing} cells missing"]
        width = max(len(column.name) for column in self.columns)
        kind_width = max(len(column.kind) for column in self.columns)
        lines += [f"  {c.name:{width}}  {c.kind:{kind_width}}  {self._range(c)}" for c in self.columns]
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self) -> str:
        return f"<Table: {len(self)} rows; {', '.join(f'{c.name}: {c.kind}' for c in self.columns)}>"

    def take(self, places: Any) -> Table:
        """Return the table of some rows, read by the same columns.

        Args:
            places: whatever indexes an array of N: a slice, or whole numbers.

        >>> from pyro_aevb.datasets import Table
        >>> Table({"age": [31, 43, None, 28]}).take(slice(1, 3)).cells
        {'age': [43, None]}
        """
        some = np.arange(len(self))[places].tolist()
        return Table({name: _at(column, some) for name, column in self.cells.items()}, columns=self.columns)

    def filled(self, made: Filled, fill: str = "mean") -> dict[str, list[Cell]]:
        """Return the table's cells with the missing ones filled in, in raw units; what was there is as it was.

        Args:
            made: what :func:`~pyro_aevb.impute` gave for ``x`` and ``observed``.
            fill: ``"mean"``, in raw units, and the most frequent level; ``"mode"`` for the most frequent count too;
                ``"draw"`` for the first draw.

        Raises:
            ValueError: for another shape, and another ``fill``.

        >>> from types import SimpleNamespace
        >>> from pyro_aevb.datasets import Table
        >>> table = Table({"height": [1.5, 1.7, None], "pet": ["cat", None, "dog"], "age": [20, 30, 41]})
        >>> draws = torch.tensor(table.x).expand(3, 3, 3).clone()
        >>> draws[:, 1, 1] = torch.tensor([0.0, 1.0, 1.0])  # two dogs
        >>> made = SimpleNamespace(draws=draws, mean=draws.mean(0), mode=draws.mode(0).values)
        >>> table.filled(made)["pet"]
        ['cat', 'dog', 'dog']
        """
        return self.rows(filled_numbers(made, self.modelled, fill), self.observed)

    def rows(self, values: np.ndarray, observed: np.ndarray | None = None) -> dict[str, list[Cell]]:
        """Return a whole table's cells from numbers (N, D): in raw units, with the columns that are left out.

        A mean of numbers is no cell's: of levels it is between them, of a positive column's logarithms it is that of
        their geometric mean.  :meth:`filled` has the means of imputed cells.

        Args:
            values: for each modelled column; NaN for a missing cell.
            observed: cells that are given back as they came, (N, D); by default none.

        Raises:
            ValueError: for another shape, and numbers between the places of levels.
        """
        values = np.asarray(values)
        if values.shape != self.x.shape:
            raise ValueError(f"expected values of shape {self.x.shape}, got {values.shape}")
        found: dict[str, list[Cell]] = {}
        place = {column.name: d for d, column in enumerate(self.modelled)}
        for column in self.columns:
            own = _at(self.cells.get(column.name, [None] * len(self)), range(len(self)))
            if column.name not in place:
                found[column.name] = own
                continue
            d = place[column.name]
            made = column.cells(values[:, d])
            kept = np.zeros(len(self), bool) if observed is None else observed[:, d]
            found[column.name] = [cell if keep else new for cell, keep, new in zip(own, kept, made, strict=True)]
        return found

    def own(self) -> np.ndarray:
        """Return the cells of the modelled columns as they came, (N, D) of float64: NaN where one is missing."""
        return np.stack([column.own(self.cells[column.name]) for column in self.modelled], 1)

    def log_scale(self) -> np.ndarray:
        """Return what is added to each row's log p(x) for the density of its cells in raw units, (N,), nats."""
        terms = [column.log_scale(self.x[:, d]) for d, column in enumerate(self.modelled)]
        return np.where(self.observed, np.stack(terms, 1), 0.0).sum(1)

    def _range(self, column: Column) -> str:
        if column.kind == "id":
            return "left out"
        cells = self.cells.get(column.name, [])
        observed, there = present(cells)
        missing = int((~observed).sum())
        tail = f", {missing} missing" if missing else ""
        if column.kind == "constant":
            return f"left out: {column.levels[0] if column.levels else 'no cell'}{tail}"
        if column.levels:
            between = " < " if column.kind == "ordered" else ", "
            return between.join(column.levels[:6]) + f"{between}..." * (len(column.levels) > 6) + tail
        values = [value for cell in there if (value := as_number(cell)) is not None]
        return f"{min(values):.6g} to {max(values):.6g}{tail}" if values else "no cell" + tail


def write_cells(path: str | Path, cells: Mapping[str, Sequence[Cell]]) -> None:
    """Write columns as a .csv or .tsv with their names in the first line; the file is there whole or not at all."""
    path = Path(path)
    rows = (["" if cell is None else cell for cell in row] for row in zip(*cells.values(), strict=True))
    write_atomically(path, comma_separated(cells, rows, "\t" if path.suffix == ".tsv" else ","))


def write_columns(path: str | Path, columns: Iterable[Column]) -> None:
    """Write what columns are as JSON: what a later table is read by."""
    write_atomically(Path(path), (json.dumps([dataclasses.asdict(c) for c in columns], indent=1) + "\n").encode())


def read_columns(path: str | Path) -> tuple[Column, ...]:
    """Return the columns that :func:`write_columns` wrote.

    Raises:
        ValueError: for another file.
    """
    try:
        found = json.loads(Path(path).read_text())
        columns = tuple(Column(**{**each, "levels": tuple(map(str, each["levels"]))}) for each in found)
        if not columns or not all(c.kind in KINDS and math.isfinite(c.loc) and 0 < c.scale < math.inf for c in columns):
            raise ValueError("a kind, a loc or a scale that there isn't")
        return columns
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"expected columns as write_columns writes them, got {path}: {error}; train anew") from error


def read_cells(path: str | Path) -> dict[str, list[Cell]]:
    """Return the columns of a file by name, as they are written there; arguments and errors as :meth:`Table.read`."""
    path = Path(path)
    check_regular(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet(path)
    if suffix not in DELIMITED:
        raise ValueError(f"expected a table in a file that ends in {', '.join(TABLES)}, got {path}; convert it first")
    separator, found = read_rows(path)
    rows = [(line, list(map(str.strip, row))) for line, row in found]
    filled = [place for place, (_, row) in enumerate(rows) if any(row)]
    rows = rows[filled[0] : filled[-1] + 1] if filled else []  # without the empty ones that a spreadsheet adds
    names = _names(rows[0][1], path) if rows else []
    if names is None:
        names = [f"x{place}" for place in range(len(rows[0][1]))]
    else:
        rows = rows[1:]
    if not rows:
        raise ValueError(f"expected names and rows in {path}, got none; write the names in the first line")
    if len(set(names)) < len(names):
        raise ValueError(f"expected different names of columns in {path}, got {names}; rename them")
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"expected {len(names)} cells in each line of {path}, as in its first, got {len(row)} in line {line}; "
                "remove lines that are neither names nor rows, and quote cells that have the separator in them"
            )
    columns = {name: [row[d] for _, row in rows] for d, name in enumerate(names)}
    return {name: list(column) for name, column in with_points(columns, separator, path).items()}


def _names(first: list[str], path: Path) -> list[str] | None:
    """Return the names of columns in a first line, ``None`` if it has numbers alone, as rows do; raise for some."""
    numbers = [cell for cell in first if cell and as_number(cell) is not None]
    if len(numbers) == len(first) and not is_header(first):
        return None
    if numbers and not is_header(first):
        raise ValueError(
            f"expected names in the first line of {path}, got the number {numbers[0]!r} beside text; write a line of "
            "names, none of them a number alone"
        )
    return [name or ("row" if place == 0 else f"column {place}") for place, name in enumerate(first)]


def _at(column: Sequence[Cell] | np.ndarray, places: Sequence[int]) -> list[Cell]:
    """Return some cells of a column, as Python has them."""
    cells: list[Cell] = [column[place] for place in places]
    return np.asarray(cells).tolist() if isinstance(column, np.ndarray) else cells


def _as_cells(table: Any) -> dict[str, Any]:
    """Return columns by name: of a mapping, of a frame of pandas or polars, of an Arrow table."""
    if hasattr(table, "to_pydict"):
        table = table.to_pydict()
    if isinstance(table, Mapping):
        return {str(name): _as_column(str(name), column) for name, column in table.items()}
    if not hasattr(table, "columns"):
        raise TypeError(
            f"expected columns by name or a frame, got {type(table).__name__}; write Table({{'age': [31, 43], ...}}), "
            "or Table.read(path)"
        )
    names = list(map(str, table.columns))
    if len(set(names)) < len(names):
        raise ValueError(f"expected different names of columns, got {names}; rename them")
    return {
        str(name): list(column.to_list() if hasattr(column := table[name], "to_list") else column)
        for name in table.columns
    }


def _as_column(name: str, column: Any) -> Any:
    """Return the cells of a column: an array of numbers as it is, others as a list."""
    if isinstance(column, str) or not isinstance(column, Iterable) or getattr(column, "ndim", 1) != 1:
        got = f"an array of shape {tuple(column.shape)}" if hasattr(column, "shape") else repr(column)
        raise TypeError(f"expected cells in column {name!r}, one a row, got {got}; write a list of them")
    if isinstance(column, np.ndarray) and not isinstance(column, np.ma.MaskedArray) and column.dtype.kind in "iuf":
        return column
    cells: Any = column
    return cells.tolist() if str(getattr(cells, "dtype", "")) in ("bool", "torch.bool") else list(cells)
