"""Files of several arrays: columns of a number a datapoint, and what belongs to each cell of an array.

Shapes: N datapoints, D data dimensions.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.files.atomic import write_atomically

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
    _write_csv(path, list(columns), zip(*(column.tolist() for column in columns.values()), strict=True))


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
    header = [*names, *(f"{name} {each}" for each in more for name in names)]
    _write_csv(path, header, np.concatenate([x, *more.values()], 1).tolist())


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
        "direction": np.array([evidence.direction] * size),
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
    np.savez_compressed(buffer, **named)
    write_atomically(path, buffer.getvalue())


def _write_csv(path: Path, header: Sequence[str], rows: Any) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
