"""Arrays in files (.npy, .npz, .csv, folders of images), read without running anything that is in them.

Shapes: N datapoints, D data dimensions.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_aevb.files.atomic import write_atomically

READABLE = (".npy", ".npz", ".csv")
IMAGES = (".png", ".jpg", ".jpeg")
GREY_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # 8 bits a channel or less, so that 255 is white


def read_array(path: str | Path, key: str | None = None) -> np.ndarray:
    """Return the datapoints of a file as float32, shape (N, ...).

    Args:
        path: an array (.npy, .npz), a table of numbers (.csv, with a header row or without), or a folder of grey images
            (.png, .jpg) of one size, which come as (N, height, width), in the order of their names, scaled to [0, 1].
        key: the name of an array in an .npz; needed if there are several.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file isn't of the kind that its name says, or holds anything but numbers.

    >>> from pathlib import Path
    >>> from pyro_aevb.datasets import read_array, write_array
    >>> write_array("x.csv", torch.eye(2), names=["a", "b"])
    >>> print(Path("x.csv").read_text(), read_array("x.csv").tolist())
    a,b
    1.0,0.0
    0.0,1.0
     [[1.0, 0.0], [0.0, 1.0]]
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a data set's name, a file or a folder, got {path}, which isn't there")
    if key is not None and path.suffix != ".npz":
        raise ValueError(f"expected key for an .npz file, got it for {path}; leave it out")
    if path.is_dir():
        return _read_images(path)
    if path.suffix not in READABLE:
        raise ValueError(f"expected {', '.join(READABLE)} or a folder of images, got {path}; convert it first")
    try:
        array = {".npy": _read_npy, ".npz": lambda p: _read_npz(p, key), ".csv": _read_csv}[path.suffix](path)
    except (EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"expected a whole {path.suffix} file, got {path}: {error}; make it anew") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"expected numbers, got an array of {array.dtype} in {path}; save it as float32")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"expected datapoints, got an array of shape {array.shape} in {path}; make it (N, D)")
    return array.astype(np.float32, copy=False)


def write_array(path: str | Path, array: np.ndarray, *, key: str = "x", names: Sequence[str] = ()) -> None:
    """Write an array; the file is there whole or not at all.

    Args:
        path: ends in .npy, .npz or .csv.
        array: any for .npy and .npz, (N, D) for .csv.
        key: its name in an .npz.
        names: the header row of a .csv.

    Raises:
        ValueError: for another ending.
        OSError: if the file can't be written.
    """
    path = Path(path)
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, array, allow_pickle=False)
    elif path.suffix == ".npz":
        named: dict[str, Any] = {key: array}
        np.savez_compressed(buffer, **named)
    elif path.suffix == ".csv":
        text = io.TextIOWrapper(buffer, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        if names:
            writer.writerow(names)
        writer.writerows(array.tolist())
        text.detach()
    else:
        raise ValueError(f"expected a file that ends in {', '.join(READABLE)}, got {path}; name another")
    write_atomically(path, buffer.getvalue())


def check_output(path: str | Path, suffixes: Sequence[str]) -> None:
    """Check that a file of this name can be written, before anything is computed; make its folder.

    Args:
        path: the file.
        suffixes: the endings that its name may have.

    Raises:
        ValueError: for another ending.
        OSError: if its folder can't be made or written to.
    """
    path = Path(path)
    if path.suffix not in suffixes or path.is_dir():
        raise ValueError(f"expected an output file that ends in {' or '.join(suffixes)}, got {path}; name another")
    check_folder(path.parent)


def check_folder(folder: str | Path) -> None:
    """Check that files can be made in a folder; make it if it is missing.

    Args:
        folder: the folder.

    Raises:
        OSError: if it can't be made or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            error.errno, f"expected a folder that can be written, got {folder}: {error.strerror}; name another"
        ) from error


def _read_npy(path: Path) -> np.ndarray:
    return _without_pickles(path, path)


def _read_npz(path: Path, key: str | None) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist()]
        if (key is None and len(keys) != 1) or (key is not None and key not in keys):
            got = f"{key!r}" if key is not None else "no key"
            raise ValueError(f"expected the key of an array in {path}, one of {keys}, got {got}; pass key")
        return _without_pickles(io.BytesIO(archive.read(f"{key or keys[0]}.npy")), path)


def _without_pickles(source: Path | io.BytesIO, path: Path) -> np.ndarray:
    try:
        return np.load(source, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"expected an array of numbers in {path}, got: {error}; save it as float32") from error


def _read_csv(path: Path) -> np.ndarray:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [(reader.line_num, row) for reader in [csv.reader(file)] for row in reader if any(map(str.strip, row))]
    if rows and not any(_is_number(cell) for cell in rows[0][1]):
        del rows[0]
    if not rows:
        raise ValueError(f"expected rows of numbers, got an empty table in {path}")
    width = len(rows[0][1])
    for line, row in rows:
        if len(row) != width:
            raise ValueError(f"expected {width} numbers in each line of {path}, got {len(row)} in line {line}")
        for cell in row:
            if not _is_number(cell):
                raise ValueError(
                    f"expected numbers in {path}, got {cell!r} in line {line}; fill in what is missing, and drop "
                    "columns of text"
                )
    return np.array([row for _, row in rows], dtype=np.float64)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_images(folder: Path) -> np.ndarray:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
    if not paths:
        raise ValueError(f"expected images ({', '.join(IMAGES)}) in {folder}, got none; name another folder")
    images = [_read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"expected images of one size in {folder}, got {_size(images[0])} for {paths[0].name} and "
                f"{_size(image)} for {path.name}; resize or crop them first"
            )
    return np.stack(images)


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError  # here, since few read images

    try:
        with Image.open(path) as image:
            if image.mode not in GREY_MODES:
                raise ValueError(f"expected an image of 8 bits a channel, got {path} of mode {image.mode}; convert it")
            return np.asarray(image.convert("L"), dtype=np.float32) / 255.0
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"expected an image, got {path}: {error}; remove it, or make it anew") from error
    except OSError as error:
        raise OSError(error.errno, f"expected a whole image, got {os.fspath(path)}: {error}; make it anew") from error


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
