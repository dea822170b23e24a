"""The columns of a table: what each of them is, and how its cells become numbers and numbers become cells again.

============== ============================================== ==================================
kind           its cells                                      the numbers
============== ============================================== ==================================
real           any numbers                                    (value - mean) / deviation
positive       numbers above 0 over several orders            the same of log(value)
count          whole numbers from 0                           as they are
binary         two different cells                            0 and 1
categorical    text, or numbers as names                      0, 1, ... by their level
ordered        levels in an order, of text one that is said   0, 1, ... in it
id, constant   a name for each row; one and the same cell     none: left out
============== ============================================== ==================================
"""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

KINDS = ("real", "positive", "count", "binary", "categorical", "ordered", "id", "constant")
LEFT_OUT = ("id", "constant")
LEVELED = ("binary", "categorical", "ordered")
MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "?", "-", "--", ".", "missing", "<na>"}
MOST_LEVELS = 50  # of text that is taken for categories
MOSTLY, FEW = 0.8, 10  # the part of a column's cells, and how many different ones, that make it one of numbers
SMALLEST = 1e-150  # deviation, whose square float64 can hold
MOST_COUNTED = 2**24  # up to which float32 has all whole numbers
SKEWED = 20.0  # the largest of positive numbers over their median, from which they are taken on a log scale

NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d{1,3})?", re.ASCII)  # and no name, as 007 is

Cell = str | float | int | bool | None


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its name.
        kind: out of ``KINDS``.
        loc, scale: mean and standard deviation of a real column, or of the logarithm of a positive one.
        levels: of a binary, categorical or ordered column, as they are written; the one cell of a constant.
    """

    name: str
    kind: str
    loc: float = 0.0
    scale: float = 1.0
    levels: tuple[str, ...] = ()

    def numbers(self, cells: Sequence[Cell] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of cells, 0 where one is missing, and which are there, (N,) each.

        Raises:
            ValueError: for a cell that isn't of the column's kind.
        """
        observed, there = present(cells)
        values = np.zeros(len(cells), dtype=np.float64)
        values[observed] = self._leveled(there) if self.levels else self._measured(there)
        return values, observed

    def own(self, cells: Sequence[Cell] | np.ndarray) -> np.ndarray:
        """Return cells as float64, (N,), not a bit of them lost: the places of levels, NaN where one is missing."""
        observed, there = present(cells)
        values = np.full(len(cells), np.nan)
        values[observed] = self._leveled(there) if self.levels else [as_number(cell) for cell in there]
        return values

    def cells(self, values: np.ndarray) -> list[Cell]:
        """Return the cells of numbers (N,); NaN is a missing one, ``None``.

        Raises:
            ValueError: for a number between the places of several levels, as a mean of them is; of two, the probability
                of the second, the nearer one is the more probable.
        """
        between = np.asarray(values)[np.asarray(values) % 1 > 0]
        if len(between) and len(self.levels) > 2:
            raise ValueError(
                f"expected whole numbers, the places of levels, in column {self.name!r}, which is {self.kind}, got "
                f"{between[0]:.4g}; Table.filled(impute(...)) has the most frequent levels, and argmax the most "
                "probable ones"
            )
        if self.levels:
            last = len(self.levels) - 1
            return [None if math.isnan(v) else self.levels[min(max(round(v), 0), last)] for v in values.tolist()]
        as_whole = self.kind == "count"
        return [None if math.isnan(v) else round(v) if as_whole else v for v in self.raw(values).tolist()]

    def raw(self, values: np.ndarray) -> np.ndarray:
        """Return numbers of any shape in the units of the cells; the places of levels, and counts, as they are."""
        values = np.asarray(values, dtype=np.float64)
        if self.kind in ("real", "positive"):
            values = values * self.scale + self.loc
        return np.exp(values) if self.kind == "positive" else values

    def log_scale(self, values: np.ndarray) -> np.ndarray:
        """Return log |d number / d cell| of numbers (N,): what is added to their log density for that of the cells."""
        if self.kind == "positive":  # number = (log cell - loc) / scale
            return -math.log(self.scale) - (np.asarray(values) * self.scale + self.loc)
        return np.full(len(values), -math.log(self.scale) if self.kind == "real" else 0.0)

    def _leveled(self, cells: Sequence[Cell] | np.ndarray) -> list[float]:
        place = {as_text(level): float(i) for i, level in enumerate(self.levels)}
        place |= {level: float(i) for i, level in enumerate(self.levels)}  # as an earlier version told them apart
        if self.levels == ("0", "1"):
            place |= {"False": 0.0, "True": 1.0}  # an array of booleans was numbers then
        written = [text if (text := str(cell).strip()) in place else as_text(cell) for cell in cells]
        if unknown := sorted({text for text in written if text not in place}):
            raise ValueError(
                f"expected a level out of {list(self.levels)} in column {self.name!r}, got {unknown[0]!r}; it isn't in "
                "the table that the columns were made from: leave the cell empty, or make them from all tables"
            )
        return [place[text] for text in written]

    def _measured(self, cells: Sequence[Cell] | np.ndarray) -> np.ndarray:
        if isinstance(cells, np.ndarray) and self.kind == "real" and np.isfinite(cells).all():
            return (cells - self.loc) / self.scale
        found = [as_number(cell) for cell in cells]
        for cell, value in zip(cells, found, strict=True):
            self._check(cell, value)
        values = np.array(found, dtype=np.float64)
        if self.kind == "count":
            return values
        return ((np.log(values) if self.kind == "positive" else values) - self.loc) / self.scale

    def _check(self, cell: Cell, value: float | None) -> None:
        wanted = {"positive": "a number above 0", "count": "a whole number from 0 to 2^24"}.get(self.kind, "a number")
        if (
            value is None
            or not math.isfinite(value)
            or (self.kind == "positive" and value <= 0)
            or (self.kind == "count" and (not 0 <= value <= MOST_COUNTED or value != round(value)))
        ):
            raise ValueError(
                f"expected {wanted} in column {self.name!r}, which is {self.kind}, got {cell!r}; leave the cell empty "
                f"if it is missing, or say another kind out of {list(KINDS)}"
            )


def make_column(name: str, cells: Sequence[Cell] | np.ndarray, kind: str | None = None) -> Column:
    """Return a column by its cells; the kind is found by them if it isn't said.

    Args:
        name: its name.
        cells: N of them; text is a number if it reads as one.
        kind: out of ``KINDS``; or ``"ordered:low,medium,high"``, with the levels in their order and commas between,
            those that have one in double quotes.

    Raises:
        ValueError: for an unknown kind, for cells that aren't of it, and for ordered text without an order.

    >>> from pyro_aevb.datasets.columns import make_column
    >>> make_column("smokes", ["no", "yes", "NA", "no"])
    Column(name='smokes', kind='binary', loc=0.0, scale=1.0, levels=('no', 'yes'))
    """
    _, there = present(cells)
    if kind is None:
        kind = kind_of(name, there, len(cells))
    kind, colon, order = kind.partition(":")
    if colon and kind == "ordered":
        return _ordered(name, order, there)
    if kind not in KINDS or colon:
        kind += colon + order
        close = difflib.get_close_matches(kind, KINDS, 1, 0.6)
        remedy = f"did you mean {close[0]!r}?" if close else "choose one"
        raise ValueError(f"expected a kind out of {list(KINDS)} for column {name!r}, got {kind!r}; {remedy}")
    if kind in ("binary", "categorical", "ordered"):
        levels = _levels(there)
        if kind == "ordered" and None in map(as_number, levels):
            raise ValueError(
                f"expected the order of the levels of column {name!r}, which are text, got none; say it, the lowest "
                f"first, as its kind: {_with_order(levels)!r}, put into their order"
            )
        if len(levels) < 2 or (kind == "binary" and len(levels) > 2):
            wanted = "two levels" if kind == "binary" else "two levels or more"
            raise ValueError(
                f"expected {wanted} in column {name!r}, which is {kind}, got {list(levels[:5])}; say another kind"
            )
        return Column(name, kind, levels=levels)
    if kind in LEFT_OUT:
        return Column(name, kind, levels=_levels(there)[:1] if kind == "constant" else ())
    plain = Column(name, kind)
    values = plain.numbers(there)[0]
    if kind == "count":
        return plain
    if not len(values) or (values == values[0]).all():
        raise ValueError(f"expected different numbers in column {name!r}, which is {kind}, got one; it is constant")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        loc, scale = float(values.mean()), float(values.std())
    if not (math.isfinite(loc) and SMALLEST < scale < math.inf):
        raise ValueError(
            f"expected numbers in column {name!r} whose mean and deviation float64 can hold, got {values.min():g} to "
            f"{values.max():g}; write them in another unit, so that their squares are between 1e-300 and 1e300"
        )
    return Column(name, kind, loc, scale)


def kind_of(name: str, cells: Sequence[Cell] | np.ndarray, num_rows: int) -> str:
    """Return what a column seems to be, by the cells of it that are there.

    Whole numbers that go up by one from row to row, and text that is another in each row, name the rows.

    Raises:
        ValueError: for a column of numbers that has a few words.
    """
    levels = {as_text(cell) for cell in cells}
    if len(levels) <= 1:
        return "constant"
    found = [as_number(cell) for cell in cells]
    numbers = [value for value in found if value is not None]
    if len(numbers) < len(found):  # text
        if len(numbers) >= MOSTLY * len(found) and len(set(numbers)) > FEW:
            raise ValueError(
                f"expected numbers in column {name!r}, got {cells[found.index(None)]!r} among {len(numbers)} of them; "
                f"leave such cells empty, or say a kind out of {list(KINDS)}"
            )
        if len(levels) == 2:
            return "binary"
        return "categorical" if len(levels) <= min(MOST_LEVELS, max(len(cells) // 2, 2)) else "id"
    values = np.array(numbers, dtype=np.float64)
    if len(values) == num_rows > 2 and (np.diff(values) == 1).all():
        return "id"
    if len(levels) == 2:
        return "binary"
    if not np.isfinite(values).all():
        return "real"  # which refuses them
    whole = bool((values % 1 == 0).all())
    if whole and len(levels) == num_rows > 2 and name.lower().strip().endswith("id"):
        return "id"
    if whole and values.min() >= 0 and values.max() < MOST_COUNTED:
        return "count" if np.median(values) < 100 else "positive" if _is_skewed(values) else "real"
    return "positive" if _is_skewed(values) else "real"


def present(cells: Sequence[Cell] | np.ndarray) -> tuple[np.ndarray, Sequence[Cell] | np.ndarray]:
    """Return which of N cells are there, (N,), and those; an array of numbers stays one."""
    if isinstance(cells, np.ndarray):
        values = cells.astype(np.float64)
        observed = ~np.isnan(values)
        return observed, values[observed]
    observed = np.array([not is_missing(cell) for cell in cells], dtype=bool)
    return observed, [cell for cell, seen in zip(cells, observed, strict=True) if seen]


def modelled_columns(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Return the columns that aren't left out."""
    return tuple(column for column in columns if column.kind not in LEFT_OUT)


def is_missing(cell: Any) -> bool:
    """Return whether a cell is missing, however that is written: empty, NaN, ``None``, "n/a", "?", ..."""
    if cell is None or cell is np.ma.masked:
        return True
    if isinstance(cell, str):
        return cell.strip().lower() in MISSING
    try:
        return bool(cell != cell)  # NaN, and what pandas has for no time
    except TypeError:  # pandas.NA
        return True


def as_number(cell: Cell) -> float | None:
    """Return a cell's number, ``None`` for text, as which 1_1 counts."""
    if isinstance(cell, str):
        cell = "text" if "_" in cell else cell.replace("\u2212", "-")  # a printed minus
    try:
        return float(cell)  # type: ignore[arg-type]  # None isn't passed
    except (TypeError, ValueError):
        return None


def as_text(cell: Cell) -> str:
    """Return a cell as a level is written, one text for a number: 1 for 1.0 and "1.00"; "01" is a name, and stays."""
    if isinstance(cell, bool | np.bool_):
        return str(bool(cell))
    value = None if isinstance(cell, str) else as_number(cell)
    if value is not None and value.is_integer():
        return str(round(value))
    text = str(cell).strip()
    plain = text.replace("\u2212", "-")
    if not NUMBER.fullmatch(plain):
        return text
    digits = format(Decimal(plain), "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return digits.lstrip("-") if digits in ("0", "-0") else digits


def _levels(cells: Sequence[Cell] | np.ndarray) -> tuple[str, ...]:
    """Return the levels of cells, numbers by size and text by the alphabet."""
    found = {as_text(cell) for cell in cells}
    values = {text: as_number(text) for text in found}
    by_size = None not in values.values()
    return tuple(sorted(found, key=lambda text: (values[text], text) if by_size else (0.0, text)))


def _with_order(levels: Sequence[str]) -> str:
    """Return the kind of ordered levels, as it is said."""
    return "ordered:" + ",".join(f'"{level}"' if "," in level else level for level in levels)


def _ordered(name: str, order: str, cells: Sequence[Cell] | np.ndarray) -> Column:
    """Return a column of levels in an order that is said; raise ``ValueError`` for one that can't be theirs."""
    levels = tuple(as_text(level) for level in next(csv.reader([order], skipinitialspace=True), []))
    if len(set(levels)) != len(levels) or len(levels) < 2 or any(map(is_missing, levels)):
        raise ValueError(
            f"expected two levels or more for column {name!r}, each once, none of them a way to write a missing cell, "
            f"got {list(levels)}; say ordered:low,medium,high, with the levels of the column"
        )
    if others := [level for level in _levels(cells) if level not in levels]:
        raise ValueError(
            f"expected all levels of column {name!r} in its order, got {list(levels)} without {others[:5]}; say "
            f"{_with_order((*levels, *others))!r}, put into their order"
        )
    return Column(name, "ordered", levels=levels)


def _is_skewed(values: np.ndarray) -> bool:
    return bool(values.min() > 0 and values.max() > SKEWED * np.median(values))
