"""The classes of images in several folders, as covariates of a conditional VAE: a column each.

Shapes: N images, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pyro_aevb.files.atomic import write_atomically

CLASSES = "classes.json"


def covariates_of(classes: Sequence[str], names: Sequence[str], data: str) -> Tensor:
    """Return a column for each class, (N, C), 1 for an image's own and 0 for the others.

    Args:
        classes: of the images, (N,); empty if they have none.
        names: those that there are, (C,).
        data: where they are from, for the error.

    Raises:
        ValueError: for images without a class, and of another one.
    """
    if not classes or set(classes) - set(names):
        others = sorted(map(str, set(classes) - set(names)))
        got = f"{others} in {data}" if classes else f"{data}, whose rows have no class"
        raise ValueError(
            f"expected folders of images named out of {list(names)}, as the model is conditional, got {got}; sort the "
            "images into such folders"
        )
    places = torch.tensor([names.index(each) for each in classes])
    return torch.nn.functional.one_hot(places, len(names)).float()


def write_classes(folder: Path, names: Sequence[str]) -> None:
    """Write the names of the classes in the order of their columns."""
    write_atomically(folder / CLASSES, (json.dumps(list(names)) + "\n").encode())


def read_classes(folder: Path) -> tuple[str, ...]:
    """Return what :func:`write_classes` wrote; nothing if there are no classes.

    Raises:
        ValueError: for another file.
    """
    path = folder / CLASSES
    if not path.exists():
        return ()
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise ValueError("no list of names")
        return tuple(found)
    except ValueError as error:
        raise ValueError(f"expected names of classes in {path}, got: {error}; train anew") from error
