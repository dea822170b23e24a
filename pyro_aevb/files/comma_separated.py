"""Rows of cells as the bytes of a .csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any


def comma_separated(header: Iterable[str], rows: Iterable[Iterable[Any]], delimiter: str = ",") -> bytes:
    r"""Return a file's bytes: UTF-8, a line a row, after one of names if there are any.

    Args:
        header: names of the columns.
        rows: their cells.
        delimiter: what stands between two cells.

    >>> from pyro_aevb.files import comma_separated
    >>> comma_separated(["x", "kind"], [[0.5, "a, b"]])
    b'x,kind\n0.5,"a, b"\n'
    """
    text, names = io.StringIO(newline=""), list(header)
    writer = csv.writer(text, lineterminator="\n", delimiter=delimiter)
    if names:
        writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue().encode()
