"""Checkpoints: a folder of files that are whole, checked when read, and the last few of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pyro_aevb.checks import check_integers
from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.files.regular import check_regular
from pyro_aevb.files.safetensors_state import pack, unpack
from pyro_aevb.warning import warn

FORMAT = 2
SUFFIX = ".safetensors"


class Checkpoints:
    """The checkpoints of one run in ``folder``: ``checkpoint-NUMBER-DIGEST.safetensors``.

    DIGEST is the beginning of the content's SHA-256, so that a file that was cut short, overwritten or altered is
    noticed.  Each is written under another name, forced to the disk and renamed; then all but the last ``keep`` go.

    Args:
        folder: made where it is missing.
        keep: how many to keep, 2 or more: the one before the last is what is left when the last can't be read.

    Raises:
        ValueError: for fewer.

    >>> from pyro_aevb.training import Checkpoints
    >>> checkpoints = Checkpoints("run")
    >>> for samples in (100, 200, 300):
    ...     checkpoints.write({"samples": samples})
    >>> checkpoints.newest(), len(checkpoints)
    ({'samples': 300}, 2)
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        check_integers(checkpoints_kept=keep)
        if keep < 2:
            raise ValueError(f"expected to keep 2 checkpoints or more, got {keep}; the last one may be cut short")
        self.folder, self.keep = Path(folder), keep

    def __len__(self) -> int:
        return len(self._paths())

    def check_empty(self) -> None:
        """Check that there are no checkpoints yet.

        Raises:
            ValueError: if there are some.
        """
        if len(self):
            raise ValueError(
                f"expected no checkpoints in {self.folder}, got {len(self)}; pass resume=True to go on from them, or "
                "another checkpoint_dir"
            )

    def write(self, state: dict[str, Any]) -> None:
        """Add a checkpoint and remove the oldest; ``OSError`` where that fails, with the others as they were."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = pack({"format": FORMAT, "state": state})
        paths = self._paths()
        number = _number(paths[-1]) + 1 if paths else 1
        write_atomically(self.folder / f"checkpoint-{number:08d}-{_digest(data)}{SUFFIX}", data)
        for path in [*self._paths()[: -self.keep], *self.folder.glob("checkpoint-*.part")]:
            path.unlink(missing_ok=True)

    def newest(self) -> Any:
        """Return the state of the newest checkpoint that is whole, with a warning about newer ones that aren't.

        ``None`` if there is no checkpoint at all.

        Raises:
            ValueError: if there are some and none can be read.
        """
        problems: list[str] = []
        for path in reversed(self._paths()):
            try:
                state = _read(path)
            except (OSError, ValueError) as error:
                problems.append(f"{path.name}: {error}")
                continue
            if problems:
                warn(f"expected whole checkpoints, got {'; '.join(problems)}; going on from {path.name}")
            return state
        if problems:
            raise ValueError(
                f"expected a checkpoint in {self.folder}, got none that can be read: {'; '.join(problems)}; put one "
                "back, or begin anew in another folder"
            )
        return None

    def _paths(self) -> list[Path]:
        """Return the files, oldest first."""
        return sorted(self.folder.glob(f"checkpoint-*-*{SUFFIX}"))


def _read(path: Path) -> Any:
    check_regular(path)
    data = path.read_bytes()
    if _digest(data) != path.name.removesuffix(SUFFIX).rpartition("-")[2]:
        raise ValueError("its content has another checksum than its name: it was cut short or altered")
    content = unpack(data)
    if content["format"] < FORMAT:
        raise ValueError(
            f"it has format {content['format']} of an older pyro_aevb, and this version reads {FORMAT}: end the run "
            "with that version"
        )
    if content["format"] > FORMAT:
        raise ValueError(f"it has format {content['format']}, and this version reads up to {FORMAT}: upgrade pyro_aevb")
    return content["state"]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])
