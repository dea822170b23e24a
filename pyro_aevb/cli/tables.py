"""Files of several arrays: columns of a number a datapoint, and what belongs to each cell of an array.

Shapes: N datapoints, D data dimensions.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_aevb.cli.options import tell
from pyro_aevb.cli.table_numbers import raw_numbers
from pyro_aevb.datasets.array_files import write_array
from pyro_aevb.datasets.table import Table, write_cells
from pyro_aevb.evidence.estimates import BoundEstimate, Evidence
from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.files.comma_separated import comma_separated
from pyro_aevb.posterior import AnomalyScore

PER_ROW = (".csv", ".npz")


def write_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write numbers or words of N datapoints, a column each, whole or not at all.

    Args:
        path: ends in .csv or .npz.
        columns: (N,) each, by name.

    >>> import numpy as np
    >>> from pathlib import Path
    >>> from pyro_aevb.cli.tables import write_columns
    >>> write_columns(Path("scores.csv"), {"score": np.array([0.5, 2.0]), "method": np.array(["ais", "importance"])})
    >>> print(Path("scores.csv").read_text().strip())
    score,method
    0.5,ais
    2.0,importance
    """
    if path.suffix == ".npz":
        _write_npz(path, columns)
        return
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    write_atomically(path, comma_separated(columns, rows))


def write_beside(path: Path, x: np.ndarray, more: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    """Write an array and others of its shape: by their names in an .npz, beside it in a .csv as "column name".

    Args:
        path: ends in .csv or .npz.
        x: (N, D).
        more: the others; those of an .npz may have more dimensions.
        names: of the D columns.
    """
    if path.suffix == ".npz":
        _write_npz(path, {"x": x, **more})
        return
    header = [*names, *names_beside(names, more, names)]
    write_atomically(path, comma_separated(header, np.concatenate([x, *more.values()], 1).tolist()))


def names_beside(names: Sequence[str], more: Iterable[str], there: Iterable[str]) -> list[str]:
    """Return the names "column low", ... of columns that are written beside a table's own.

    Args:
        names: of the columns that they are of.
        more: what each of these has besides, such as "low" and "high".
        there: the names of the table's own columns.

    Raises:
        ValueError: for a name that one of these has.
    """
    found = [f"{name} {each}" for each in more for name in names]
    if taken := sorted(set(found) & set(there)):
        raise ValueError(
            f"expected columns of other names than {found[:4]}, which are to be written beside them, got "
            f"{taken[:4]} in the table; write an .npz, or leave --interval out"
        )
    return found


def write_table(path: Path, table: Table, numbers: np.ndarray, observed: np.ndarray | None = None) -> None:
    """Write a table in its own units: its cells to a .csv, the numbers of its modelled columns to an .npy or .npz.

    Args:
        path: ends in .csv, .npy or .npz.
        table: whose columns it has, and whose ids.
        numbers: as the model has them, (N, D).
        observed: cells that are written as they came, (N, D); by default none.
    """
    if path.suffix == ".csv":
        write_cells(path, table.rows(numbers, observed))
        return
    raw = raw_numbers(numbers, table.modelled)
    write_array(path, raw if observed is None else np.where(observed, table.own(), raw))


def with_labels(labels: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return columns of N datapoints with those before them that name the rows."""
    found: dict[str, np.ndarray] = {}
    for name, cells in labels.items():
        while name in columns or name in found:
            name += " (id)"
        found[name] = cells
    return found | dict(columns)


def write_codes(path: Path, codes: np.ndarray, labels: Mapping[str, np.ndarray]) -> None:
    """Write codes (N, J): an .npy of them, an .npz with "z", a .csv; what names the rows is beside them but in an .npy.

    Args:
        path: ends in .csv, .npy or .npz.
        codes: (N, J).
        labels: text (N,) by name.
    """
    names = [f"z{j}" for j in range(codes.shape[1])]
    if not labels or path.suffix == ".npy":
        write_array(path, codes, key="z", names=names)
    elif path.suffix == ".npz":
        _write_npz(path, with_labels(labels, {"z": codes}))
    else:
        write_columns(path, with_labels(labels, dict(zip(names, codes.T, strict=True))))


def evidence_of_cells(table: Table | None, bound: BoundEstimate, evidence: Evidence) -> tuple[BoundEstimate, Evidence]:
    """Return estimates of log p(x) of a table's numbers as those of its cells; others as they are.

    Args:
        table: N rows.
        bound: of their numbers.
        evidence: likewise.
    """
    if table is None:
        return bound, evidence
    tell("log p(x) is that of the observed cells of a row, in the units of the file")
    added = torch.from_numpy(table.log_scale()).to(evidence.value)
    upper = evidence.upper and dataclasses.replace(evidence.upper, value=evidence.upper.value + added)
    evidence = dataclasses.replace(evidence, value=evidence.value + added, upper=upper)
    return bound._replace(value=bound.value + added.to(bound.value)), evidence


def scores_of_cells(table: Table | None, found: AnomalyScore) -> AnomalyScore:
    """Return scores with -log p(x) of a table's cells in the place of that of its numbers; others as they are."""
    if table is None:
        return found
    return dataclasses.replace(found, score=found.score - torch.from_numpy(table.log_scale()).to(found.score))


def evidence_columns(evidence: Evidence, method: str) -> dict[str, np.ndarray]:
    """Return log p(x) of each datapoint in nats, its standard error, method and direction, and the k-hat of weights.

    Args:
        evidence: the estimates.
        method: of those that don't say theirs.
    """
    size = len(evidence.value)
    found: dict[str, np.ndarray] = {
        "value": evidence.value.cpu().numpy(),
        "standard_error": evidence.standard_error.cpu().numpy(),
        "direction": np.array(evidence.directions()),
        "method": np.array(evidence.method or [method] * size),
    }
    if evidence.upper is not None:
        found["upper"] = evidence.upper.value.cpu().numpy()
        found["upper_standard_error"] = evidence.upper.standard_error.cpu().numpy()
    if evidence.pareto_k is not None:
        found["pareto_k"] = evidence.pareto_k.cpu().numpy()
    return found


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer, named = io.BytesIO(), dict[str, Any](arrays)
    for name in {"file", "allow_pickle"} & named.keys():  # what NumPy calls arguments of its own
        named[f"{name} (id)"] = named.pop(name)
    np.savez_compressed(buffer, **named)
    write_atomically(path, buffer.getvalue())
