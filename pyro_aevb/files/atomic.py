"""Files that are there whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Give ``path`` the content ``data``; a reader finds the old content or the new one, also after a power cut.

    The bytes are written to a part file beside it, ``<name>.<8 hex digits>.part``, which is renamed once they are on
    the disk.  A failure removes the part file; a killed process may leave it.

    Args:
        path: the file, in a folder that exists.
        data: all of its content.

    Raises:
        OSError: if the file can't be written; of the subclass that the cause has (``PermissionError``, ...).

    >>> from pathlib import Path
    >>> from pyro_aevb.files import write_atomically
    >>> write_atomically("state", b"old")
    >>> write_atomically("state", b"new")
    >>> Path("state").read_bytes()
    b'new'
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"expected to write {len(data)} bytes to {path}, got: {error.strerror}; what was there before stays; "
            f"{_remedy(error, path.parent)}",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Write the folder's list of names to the disk, on systems that can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # what file systems say that can't
            raise
    finally:
        os.close(descriptor)


def _remedy(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or write to another disk"
    if error.errno == errno.ENOENT:
        return f"make the folder {folder} first"
    return "choose a folder that can be written to"
