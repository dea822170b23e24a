"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` under another name, force it to the disk, and rename it: ``path`` is old or new, never half.

    Raises:
        OSError: where the folder can't be written or the disk is full; the part that was written is removed, and what
            ``path`` held before stays.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name
        finally:
            os.close(folder)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise type(error)(
            error.errno,
            f"expected to write {len(data) / 1e6:.1f} MB, got {error.strerror!r}; what was there before is untouched: "
            "free some space or choose another folder",
            str(path),
        ) from error
