"""Files that hold bytes, told from what only has a name in a folder: pipes, sockets and devices."""

from __future__ import annotations

import os
import stat


def check_regular(path: str | os.PathLike[str]) -> None:
    """Check that reading ``path`` can't wait for somebody who writes to it, and comes to an end.

    Args:
        path: something that exists.

    Raises:
        ValueError: for a pipe, a socket, a device or a folder.
        OSError: for a path that leads nowhere: a link to itself, a folder that can't be entered; ``FileNotFoundError``
            where there is nothing.

    >>> from pyro_aevb.files.regular import check_regular
    >>> check_regular("/dev/zero")
    Traceback (most recent call last):
    ...
    ValueError: expected a file, got /dev/zero, which is a device; copy what is to be read into a file
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"expected a file, got {os.fspath(path)}: {error.strerror}; check where the path leads",
        ) from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(mode), "device")
        raise ValueError(
            f"expected a file, got {os.fspath(path)}, which is a {kind}; copy what is to be read into a file"
        )
