"""The number that a run's pixels of 8 bits are divided by, kept beside the run."""

from __future__ import annotations

import json
from pathlib import Path

from pyro_aevb.files.atomic import write_atomically

UNITS = "units.json"


def write_divisor(folder: Path, divisor: float) -> None:
    """Write the number that pixels were divided by."""
    write_atomically(folder / UNITS, (json.dumps({"divisor": divisor}) + "\n").encode())


def read_divisor(folder: Path) -> float | None:
    """Return what :func:`write_divisor` wrote; ``None`` for a run of an earlier version, or of other data.

    Raises:
        ValueError: for another file.
    """
    path = folder / UNITS
    if not path.exists():
        return None
    try:
        divisor = json.loads(path.read_text())["divisor"]
        if divisor not in (1.0, 255.0):
            raise ValueError(f"the divisor {divisor!r}")
        return float(divisor)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected a divisor of 1 or 255 in {path}, got: {error}; train anew") from error
