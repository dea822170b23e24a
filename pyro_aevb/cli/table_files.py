"""Tables in files: what is read from them in a line, the likelihood that follows, the same columns read again.

Shapes: N rows, D columns that are modelled.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_aevb.cli.config import TrainingConfig
from pyro_aevb.datasets.array_files import Contents, read_contents
from pyro_aevb.datasets.columns import LEFT_OUT, Column, modelled_columns
from pyro_aevb.datasets.image_datasets import DATASETS
from pyro_aevb.datasets.number_tables import TABLES
from pyro_aevb.datasets.table import Table, read_cells
from pyro_aevb.vae.columns import likelihood_of

COLUMNS = "columns.json"  # in a run's folder
ALIKE = {  # kinds whose columns together have a likelihood with a name
    "gaussian": {"real", "positive"},
    "negative-binomial": {"count"},
    "bernoulli": {"binary"},
}
SHOWN = 12  # columns in a line


class TableFile(NamedTuple):
    """A table, and what was read, in a line."""

    table: Table
    said: str


def is_table(config: TrainingConfig) -> bool:
    """Return whether the data are a table of columns of a kind each: in a file of cells, with no word of images."""
    said = (config.likelihood, config.pixels, config.image_shape, config.convolutions or None)
    named = config.data is not None and config.data not in DATASETS and Path(config.data).suffix.lower() in TABLES
    return named and all(each is None for each in said)


def read_table(config: TrainingConfig) -> TableFile:
    """Return the table of a configuration, with the likelihood that follows in its line.

    Raises:
        ValueError, OSError: for what isn't a table, or not of the kinds that are said.
    """
    assert config.data is not None
    _check_there(config.data)
    table = Table.read(config.data, kinds=config.columns)
    return TableFile(table, f"read {config.data}: {_described(table)}; {_modelled_by(table)}")


def table_of(contents: Contents) -> TableFile:
    """Return an array of real numbers (N, D) as a table, its columns called x0, x1, ...; NaN are missing cells."""
    values = contents.values.reshape(len(contents.values), -1).astype(np.float64)
    names = contents.names or [f"x{d}" for d in range(values.shape[1])]
    cells = {name: values[:, d] for d, name in enumerate(names)}
    kinds = {name: "constant" if _is_constant(column) else "real" for name, column in cells.items()}
    table = Table(cells, kinds)
    return TableFile(table, f"{contents.said}; real numbers, {_missing(table)}; {_modelled_by(table)}")


def read_again(name: str, columns: Sequence[Column], key: str | None) -> TableFile:
    """Return a later file's table, read by the columns of an earlier one.

    Args:
        name: a table, or an array where the earlier one had columns without names.
        columns: of the earlier one.
        key: of an array in an .npz.

    Raises:
        ValueError, OSError: for other columns, and cells that these can't have.
    """
    _check_there(name)
    if name not in DATASETS and Path(name).suffix.lower() in TABLES:
        cells = read_cells(name)
        known = {column.name for column in columns}
        new = [each for each in cells if each not in known]
        table = Table(cells, columns=columns)
        more = f"; left out, since the model doesn't know it: {', '.join(new[:SHOWN])}" if new else ""
        said = f"read {name}: {len(table.modelled)} columns, {_missing(table)}, {len(table)} rows{more}"
        return TableFile(table, said)
    names = [column.name for column in columns]
    if name in DATASETS or Path(name).is_dir() or names != [f"x{d}" for d in range(len(names))]:
        raise ValueError(
            f"expected a table ({', '.join(TABLES)}) with the columns {names[:SHOWN]}, as the model has, got {name}; "
            "write it as .csv with their names in the first line"
        )
    contents = read_contents(name, key if Path(name).suffix.lower() == ".npz" else None)
    values = contents.values.reshape(len(contents.values), -1).astype(np.float64)
    if values.shape[1] != len(names):
        raise ValueError(f"expected {len(names)} columns, as the model has, got {values.shape[1]} in {name}")
    table = Table({each: values[:, d] for d, each in enumerate(names)}, columns=columns)
    return TableFile(table, f"{contents.said}; {_missing(table)}")


def likelihood_of_kinds(columns: Sequence[Column]) -> Any:
    """Return p(x|z) of columns: a name where one likelihood is that of all of them, else one for each."""
    modelled = modelled_columns(columns)
    kinds = {column.kind for column in modelled}
    return next((name for name, alike in ALIKE.items() if kinds <= alike), None) or likelihood_of(modelled)


def names_of_rows(table: Table) -> dict[str, np.ndarray]:
    """Return the cells of a table's id columns as text, (N,) by name."""
    named = [column.name for column in table.columns if column.kind == "id" and column.name in table.cells]
    return {name: np.array(["" if cell is None else str(cell) for cell in table.cells[name]]) for name in named}


def is_standardised(columns: Sequence[Column]) -> bool:
    """Return whether some columns' numbers have another unit than their cells."""
    return any(column.kind in ("real", "positive") for column in columns)


def _check_there(name: str) -> None:
    if name not in DATASETS and not Path(name).exists():
        raise FileNotFoundError(f"expected a data set's name, a file or a folder, got {name}, which isn't there")


def _is_constant(values: np.ndarray) -> bool:
    there = values[~np.isnan(values)]
    return bool(len(there) == 0 or (there == there[0]).all())


def _described(table: Table) -> str:
    kinds = [f"{column.name}: {_kind_in_words(column)}" for column in table.modelled]
    left_out = [f"{column.name} ({column.kind})" for column in table.columns if column.kind in LEFT_OUT]
    text = f"{len(table)} rows, {len(kinds)} columns to model ({_some(kinds)}), {_missing(table)}"
    return text + (f"; left out: {_some(left_out)}" if left_out else "")


def _kind_in_words(column: Column) -> str:
    return f"ordered, {' < '.join(column.levels)}" if column.kind == "ordered" else column.kind


def _modelled_by(table: Table) -> str:
    found = likelihood_of_kinds(table.columns)
    if not isinstance(found, str):
        made = [type(each).__name__ for each in found.likelihoods.values()]
        found = ", ".join(f"{number} {name}" for name, number in collections.Counter(made).items())
    unit = "; nats in training are those of standardised numbers" if is_standardised(table.columns) else ""
    return f"p(x|z) by the kinds: {found}{unit}"


def _missing(table: Table) -> str:
    number = int((~table.observed).sum())
    return f"{number} of {table.observed.size} cells missing" if number else "no cell missing"


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:SHOWN]) + f", ... {len(words) - SHOWN} more" * (len(words) > SHOWN)
