"""The files of data sets: the folder that keeps them, the download, the check."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_folder(root: str | Path | None = None) -> Path:
    """Return the folder of data files: ``root``, else ``$PYRO_AEVB_DATA``, else the user's cache folder.

    Args:
        root: a folder; ``None`` for one of the others.
    """
    if chosen := root or os.environ.get("PYRO_AEVB_DATA"):
        return Path(chosen)
    import pooch  # here and below, since it brings in requests

    return Path(pooch.os_cache("pyro_aevb"))


def fetched_file(path: Path, urls: list[str], known_hashes: list[str]) -> Path:
    """Return ``path``, downloaded if it is missing, and checked.

    Args:
        path: where the file is, or is to be.
        urls: where to fetch it from, tried in turn.
        known_hashes: checksums that it may have, ``algorithm:hex``; any if there are none.

    Raises:
        ValueError: if its checksum is none of these; the file is renamed NAME.corrupt.
        ConnectionError: if it is missing and can't be downloaded.
    """
    if not path.exists():
        errors = []
        for url in urls:
            try:
                _download(url, path, known_hashes)
                break
            except Exception as error:
                errors.append(f"{url}: {error}")
        else:
            raise ConnectionError(
                f"expected {path}, which isn't there and can't be downloaded; put the file there by hand, or name "
                "another folder with PYRO_AEVB_DATA. Tried " + "; ".join(errors)
            )
    if known_hashes and not any(_matches(path, known) for known in known_hashes):
        raise set_aside(path, f"its checksum is none of {known_hashes}")
    return path


def _download(url: str, path: Path, known_hashes: list[str]) -> None:
    """Fetch ``url`` with a progress bar; the file gets its name once it is whole and checked."""
    import pooch

    known = known_hashes[0] if known_hashes else None
    pooch.retrieve(url, known_hash=known, fname=path.name, path=path.parent, progressbar=True)


def _matches(path: Path, known: str) -> bool:
    algorithm, digest = known.split(":")
    return hashlib.new(algorithm, path.read_bytes(), usedforsecurity=False).hexdigest() == digest


def set_aside(path: Path, reason: str) -> ValueError:
    """Rename a bad file to NAME.corrupt if possible, and return the error to raise.

    Args:
        path: the file.
        reason: the fault, for the message.
    """
    aside = path.with_name(path.name + ".corrupt")
    try:
        path.replace(aside)
        done = f"it was renamed to {aside.name}; run again to download it anew"
    except OSError:
        done = "it is in a folder that can't be written: remove it, or name another folder with PYRO_AEVB_DATA"
    return ValueError(f"expected a whole data file, got a corrupt or half-downloaded one: {path}, {reason}; {done}")
