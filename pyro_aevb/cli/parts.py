"""The parts of a file that a run was trained on: which of its rows are held out, kept beside the run with a digest.

Shapes: N rows.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_aevb.cli.config import TrainingConfig
from pyro_aevb.datasets.array_files import read_contents
from pyro_aevb.datasets.image_datasets import DATASETS
from pyro_aevb.files.atomic import write_atomically

SPLITS = "splits.npz"
DIGEST = "digest"  # in it, of the rows in their order
AT_ONCE = 2**24  # bytes


def fraction_of(text: str | None) -> float | None:
    """Return the fraction that --validation says, ``None`` if it says none, or another thing.

    Args:
        text: what it says.

    Raises:
        ValueError: for a number outside of (0, 1).
    """
    try:
        fraction = math.nan if text is None else float(text)
    except ValueError:
        return None
    if math.isnan(fraction):
        return None
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction of the data to validate on, between 0 and 1, got {text}")
    return fraction


def split(fraction: float, size: int, generator: torch.Generator) -> dict[str, np.ndarray]:
    """Return the rows to train on and those to validate on, at random, by part.

    Args:
        fraction: of the rows, to validate on.
        size: how many rows there are.
        generator: of the order.

    Raises:
        ValueError: for a part without a row.
    """
    order = torch.randperm(size, generator=generator)
    count = round(fraction * size)
    if not 0 < count < size:
        raise ValueError(f"expected 1 datapoint or more on each side of the split, got {fraction} of {size}")
    return {"train": order[count:].numpy(), "validation": order[:count].numpy()}


def digest_of(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return a digest of numbers, 32 bytes: another one for rows that are in another order.

    Args:
        arrays: (N, ...) each, in memory or on disk.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}".encode())
        size = max(1, AT_ONCE // max(1, array[:1].nbytes))
        for begin in range(0, len(array), size):
            digest.update(np.asarray(array[begin : begin + size]).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def write_splits(splits: dict[str, np.ndarray] | None, folder: Path) -> None:
    """Write which rows of a file are trained on and which are held out, if it was split.

    Args:
        splits: rows by part, and the digest of all.
        folder: the run's.
    """
    if splits is not None:
        buffer = io.BytesIO()
        named: dict[str, Any] = splits
        np.savez_compressed(buffer, **named)
        write_atomically(folder / SPLITS, buffer.getvalue())


def part_of_file(
    name: str, part: str | None, config: TrainingConfig, folder: Path, arrays: Sequence[np.ndarray]
) -> tuple[Any, str]:
    """Return the indices of a file's part, and which rows these are, in words.

    Args:
        name: the file.
        part: "train" or "validation", as the run in ``folder`` split it; "all" rows; ``None`` for what was held out if
            this is the file that the run was trained on, and else for all rows.
        config: that of the run.
        folder: the run's.
        arrays: the rows that the file has now, as :func:`digest_of` takes them.

    Raises:
        ValueError: for a part that the run doesn't know, and rows that aren't those that it split.
    """
    trained_on = None if config.data in (None, *DATASETS) else Path(str(config.data)).resolve()
    own = trained_on == Path(name).resolve()
    known = folder / SPLITS
    if part == "all" or not own or not known.is_file():
        if part not in (None, "all"):
            raise ValueError(
                f"expected --part for a named data set, or for the file that the run split by --validation, got "
                f"{part!r} for {name}; leave it out for all rows"
            )
        some = "some of them were" if known.is_file() else "all of them were"
        return slice(None), f"; {some} trained on" if own else ""
    splits = {key: read_contents(known, key).values for key in ("train", "validation")}
    total = sum(map(len, splits.values()))
    count = len(arrays[0])
    if total != count:
        raise ValueError(
            f"expected the {total} rows of {name} that the run split, got {count}; pass --part all for all of them"
        )
    if _is_changed(known, arrays):
        raise ValueError(
            f"expected the rows of {name} that the run split, in their order, got as many others; put the file back, "
            "or pass --part all for all of them, of which some may have been trained on"
        )
    if part not in (None, *splits):
        raise ValueError(f"expected --part train, validation or all for the file of the run, got {part!r}")
    words = {"validation": "that were held out", "train": "that were trained on"}[part or "validation"]
    rows = np.sort(splits[part or "validation"])
    return torch.from_numpy(rows), f"; of these the {len(rows)} {words}"


def _is_changed(known: Path, arrays: Sequence[np.ndarray]) -> bool:
    """Return whether rows have another digest than those that were split; earlier versions kept none."""
    with zipfile.ZipFile(known) as file:
        kept = f"{DIGEST}.npy" in file.namelist()
    return kept and not np.array_equal(read_contents(known, DIGEST).values, digest_of(arrays))
