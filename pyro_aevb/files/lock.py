"""A folder that one process at a time writes to."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 10.0  # that children of a process that was killed may need to end
UNSUPPORTED = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP)


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock of a folder inside the block, made if it isn't there; the system drops it if the process ends.

    The lock is on the folder itself, and no file is left in it.  Some network file systems have no such locks; there
    the block runs without.

    Args:
        folder: what is written to.

    Raises:
        BlockingIOError: if another block holds it, in this process or another one, for ten seconds.
        OSError: if the folder can't be made or opened.

    >>> from pyro_aevb.files.lock import locked
    >>> with locked("run"):
    ...     pass
    """
    try:
        import fcntl  # here, since not every system has it
    except ImportError:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise BlockingIOError(
                        error.errno,
                        f"expected a folder that nobody else writes to, got {os.fspath(folder)}, which another run or "
                        "process has locked; wait until it has ended, or choose another folder",
                    ) from error
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                break
        yield
    finally:
        os.close(descriptor)
