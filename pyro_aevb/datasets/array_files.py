"""Arrays in files (.npy, .npz, .csv, folders of images), read without running anything that is in them.

What a file says of its size is checked before memory is taken for it: a header against the bytes that there are, a
compressed array against :data:`MOST_INFLATED`, an image against :data:`MOST_PIXELS`.

Shapes: N datapoints, D data dimensions.
"""

from __future__ import annotations

import csv
import io
import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.files.regular import check_regular

READABLE = (".npy", ".npz", ".csv", ".tsv")
WRITABLE = READABLE[:3]
IMAGES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")  # those of Pillow's that are tried, whatever an image's name
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # 8 bits a channel or less, so that 255 is white
MOST_PIXELS = 2**25  # of an image
MOST_INFLATED = 2**28  # bytes of a compressed array that is a hundred times as large as its file, or more
MOST_DENSE = 2**31  # bytes of a sparse array with its zeros
SPARSE = {"format", "shape", "data"}  # what scipy.sparse.save_npz writes, beside indices
SHOWN = 60  # characters of what isn't a number


class Contents(NamedTuple):
    """The datapoints of a file.

    ``values``: (N, ...), as they lie there, images as uint8.  ``names``: of the columns, if it has any.  ``said``: what
    was read, in a line.  ``images``: whether it is a folder of images.
    """

    values: np.ndarray
    names: tuple[str, ...]
    said: str
    images: bool = False


def read_array(path: str | Path, key: str | None = None) -> np.ndarray:
    """Return the datapoints of a file as float32, shape (N, ...).

    Args:
        path: an array (.npy, .npz, SciPy's sparse ones too), a table of numbers (.csv, .tsv, with a header row or
            without), or a folder of images (.png, .jpg) of one size, in the order of their names and scaled to [0, 1]:
            (N, height, width), or (N, 3, height, width) if there are colours.
        key: the name of an array in an .npz; needed if there are several.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file isn't of the kind that its name says, holds anything but numbers, or says that it is
            larger than it can be: an image of more than 2^25 pixels; a compressed array of more than 256 MiB and a
            hundred times its file's size.

    >>> from pathlib import Path
    >>> from pyro_aevb.datasets import read_array, write_array
    >>> write_array("x.csv", torch.eye(2), names=["a", "b"])
    >>> print(Path("x.csv").read_text(), read_array("x.csv").tolist())
    a,b
    1.0,0.0
    0.0,1.0
     [[1.0, 0.0], [0.0, 1.0]]
    """
    contents = read_contents(path, key)
    values = contents.values.astype(np.float32, copy=False)
    return values / 255.0 if contents.images else values


def read_contents(path: str | Path, key: str | None = None, *, holes: bool = False) -> Contents:
    """Return what a file holds, as it lies there; arguments and errors are those of :func:`read_array`.

    With ``holes`` a table may have empty cells, which are NaN then, and rows of nothing else.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a data set's name, a file or a folder, got {path}, which isn't there")
    if key is not None and path.suffix != ".npz":
        raise ValueError(f"expected key for an .npz file, got it for {path}; leave it out")
    if path.is_dir():
        values = _read_images(path)
        size, colours = f"{values.shape[-1]}x{values.shape[-2]}", "in colour" if values.ndim == 4 else "grey"
        return Contents(values, (), f"read {path}: {len(values)} images of {size}, {colours}", images=True)
    check_regular(path)
    if path.suffix not in READABLE:
        raise ValueError(f"expected {', '.join(READABLE)} or a folder of images, got {path}; convert it first")
    names: tuple[str, ...] = ()
    try:
        if path.suffix in (".csv", ".tsv"):
            array, names = _read_table(path, holes)
        else:
            array = _read_npy(path) if path.suffix == ".npy" else _read_npz(path, key)
    except (EOFError, zipfile.BadZipFile, zlib.error, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"expected a whole {path.suffix} file, got {path}: {error}; make it anew") from error
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"expected datapoints, got an array of shape {array.shape} in {path}; make it (N, D)")
    return Contents(array, names, _said(path, array, names))


def _said(path: Path, array: np.ndarray, names: tuple[str, ...]) -> str:
    """Return what was read in a line, with columns that are no measurements, by their look."""
    if array.ndim != 2:
        return f"read {path}: {len(array)} datapoints of shape {array.shape[1:]}, {array.dtype}"
    named = f" ({', '.join(names[:10])}{', ...' * (len(names) > 10)})" if names else ""
    text = f"read {path}: {len(array)} rows, {array.shape[1]} columns{named}"
    if len(array) < 3:
        return text
    steps = np.diff(array.astype(np.float64), axis=0)
    for kind, found in (
        ("counts the rows: leave it out if it is their number", (steps == 1).all(0)),
        ("is constant", (steps == 0).all(0)),
    ):
        columns = [repr(names[i]) if names else str(i) for i in np.flatnonzero(found)]
        if columns and path.suffix in (".csv", ".tsv"):
            text += f"; column {', '.join(columns[:5])}{', ...' * (len(columns) > 5)} {kind}"
    return text


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
        raise ValueError(f"expected a file that ends in {', '.join(WRITABLE)}, got {path}; name another")
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
    with path.open("rb") as file:
        _check_header(file, path.stat().st_size, path)
        file.seek(0)
        return np.asarray(np.load(file, allow_pickle=False))


def _read_npz(path: Path, key: str | None) -> np.ndarray:
    with path.open("rb") as content, _archive(content, path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if key is None and set(members) >= SPARSE:
            return _read_sparse(path, members)
        if (key is None and len(members) != 1) or (key is not None and key not in members):
            got = f"{key!r}" if key is not None else "no key"
            some = f"{list(members)[:10]}{' and others' * (len(members) > 10)}"
            raise ValueError(f"expected the key of an array in {path}, one of {some}, got {got}; pass key")
        member = members[key] if key is not None else next(iter(members.values()))
        if _is_inflated(member, path):
            raise ValueError(
                f"expected an array that isn't much larger than its file, got {member.file_size} bytes out of "
                f"{path.stat().st_size} in {path}; if it is meant, save it as .npy, which can be memory-mapped"
            )
        try:
            with archive.open(member) as file:
                _check_header(file, member.file_size, path)
            return np.asarray(np.load(io.BytesIO(archive.read(member)), allow_pickle=False))
        except (RuntimeError, NotImplementedError, OSError, struct.error) as error:  # encrypted, compressed otherwise
            raise _odd(path, error) from error


def _read_sparse(path: Path, members: dict[str, zipfile.ZipInfo]) -> np.ndarray:
    """Return a sparse array of SciPy's with its zeros."""
    from scipy import sparse  # here, since few arrays are sparse

    if any(_is_inflated(member, path) for member in members.values()):
        raise ValueError(f"expected an array that isn't much larger than its file, got {path}; save it as .npy")
    try:
        found: Any = sparse.load_npz(path)
        if hasattr(found, "check_format"):
            found.check_format(full_check=True)  # indices outside of the array would be written to
    except Exception as error:  # whatever SciPy raises for what is damaged
        raise _odd(path, error) from error
    dense = math.prod(found.shape) * found.dtype.itemsize
    if found.dtype.kind not in "biuf" or dense > MOST_DENSE:
        raise ValueError(
            f"expected a sparse array of numbers of up to {MOST_DENSE} bytes with its zeros, got {found.shape} of "
            f"{found.dtype} in {path}; keep fewer columns, or train on minibatches made dense in a loader of your own"
        )
    return np.asarray(found.toarray())


def _is_inflated(member: zipfile.ZipInfo, path: Path) -> bool:
    return member.file_size > max(MOST_INFLATED, 100 * path.stat().st_size)


def _archive(content: IO[bytes], path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(content)
    except (NotImplementedError, OSError, OverflowError, struct.error) as error:  # places outside of the file
        raise _odd(path, error) from error


def _odd(path: Path, error: Exception) -> ValueError:
    return ValueError(f"expected an .npz as NumPy saves it, got {path}: {error}; save it with numpy.savez_compressed")


def _check_header(file: IO[bytes], size: int, path: Path) -> None:
    """Check what the beginning of an .npy says against its size; no memory is taken for the array."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # whatever NumPy raises for a header that is damaged
        raise ValueError(f"expected an array of numbers in {path}, got: {error}; save it as float32") from error
    if dtype.kind not in "biuf":
        raise ValueError(f"expected an array of numbers in {path}, got one of {dtype}; save it as float32")
    needed = file.tell() + math.prod(shape) * dtype.itemsize
    if size != needed or min(shape, default=0) < 0:
        raise ValueError(
            f"expected a whole array in {path}, got {size} bytes where shape {shape} of {dtype} needs {needed}; make "
            "it anew"
        )


def separator_of(path: Path, text: str) -> str:
    """Return what stands between the cells of a table: a tab in a .tsv, else what the first line has most of."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return "\t" if path.suffix == ".tsv" else max(",;\t", key=first.count)


def _read_table(path: Path, holes: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a table's numbers and the names of its columns, if its first line has them; empty cells are NaN."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if not content.partition(b"\n")[2].isascii():
            raise
        text = content.decode("latin-1")  # the names of the columns, by another program
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator_of(path, text))
    rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row)) or (holes and len(row) > 1)]
    names: tuple[str, ...] = ()
    if rows and _is_header(rows[0][1]) and any(map(str.strip, rows[0][1])):
        names = tuple(map(str.strip, rows[0][1]))
        del rows[0]
    if not rows:
        raise ValueError(f"expected rows of numbers, got an empty table in {path}")
    width = len(rows[0][1])
    if names and len(names) != width:
        raise ValueError(f"expected {width} names in the first line of {path}, got {len(names)}")
    for line, row in rows:
        if len(row) != width:
            raise ValueError(f"expected {width} numbers in each line of {path}, got {len(row)} in line {line}")
        for cell in row:
            if not (_is_number(cell) or (holes and not cell.strip())):
                raise ValueError(
                    f"expected numbers in {path}, got {cell[:SHOWN]!r} in line {line}; fill in what is missing, "
                    "write decimals with a point, and drop columns of text"
                )
    array = np.array([[cell if cell.strip() else "nan" for cell in row] for _, row in rows], dtype=np.float64)
    if names and names[0] == "" and width > 1 and np.array_equal(array[:, 0], np.arange(len(array))):
        return array[:, 1:], names[1:]  # the number of the row, which pandas writes under no name
    return array, names


def _is_header(cells: list[str]) -> bool:
    """Return whether a first line names the columns: by text, or 0, 1, 2, ... as pandas does of its own accord."""
    numbered = [str(i) for i in range(len(cells))]
    stripped = list(map(str.strip, cells))
    return not any(_is_number(cell) for cell in cells) or (
        len(cells) > 2 and (stripped == numbered or stripped == ["", *numbered[:-1]])
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_images(folder: Path) -> np.ndarray:
    """Return images (N, height, width), or (N, 3, height, width) if there are colours, of 0 to 255."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))
    if not paths:
        raise ValueError(f"expected images ({', '.join(IMAGES)}) in {folder}, got none; name another folder")
    images = [_read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            raise ValueError(
                f"expected images of one size in {folder}, got {_size(images[0])} for {paths[0].name} and "
                f"{_size(image)} for {path.name}; resize or crop them first"
            )
    if all(image.ndim == 2 for image in images):
        return np.stack(images)
    channels = [np.stack([image] * 3) if image.ndim == 2 else image.transpose(2, 0, 1) for image in images]
    return np.stack(channels)


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError  # here, since few read images

    check_regular(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_image(image, path)
            if image.mode in ("1", "L", "LA"):
                return np.asarray(image.convert("L"))
            colours = np.asarray(image.convert("RGB"))
            return colours if (colours != colours[..., :1]).any() else colours[..., 0]
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"expected an image of up to {MOST_PIXELS} pixels, got {path}: {error}; crop it") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"expected an image, {' or '.join(FORMATS)}, got {path}: {error}; remove it, or make it anew"
        ) from error
    except OSError as error:
        raise OSError(error.errno, f"expected a whole image, got {os.fspath(path)}: {error}; make it anew") from error
    except _WrongImageError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # whatever Pillow's readers raise for what is damaged
        raise ValueError(f"expected a whole image, got {path}: {error}; make it anew") from error


class _WrongImageError(Exception):
    """Raised for an image that is whole, and can't be used."""


def _check_image(image: Any, path: Path) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise _WrongImageError(
            f"expected an image of up to {MOST_PIXELS} pixels, got {width}x{height} in {path}; crop or resize it"
        )
    if image.mode not in MODES:
        raise _WrongImageError(f"expected an image of 8 bits a channel, got {path} of mode {image.mode}; convert it")


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
