"""Arrays in files (.npy, .npz, tables of numbers, folders of images), read without running anything in them.

What a file says of its size is checked before memory is taken for it: a header against the bytes that there are, a
compressed array against :data:`MOST_INFLATED`, an image against :data:`~.image_folders.MOST_PIXELS`.

Shapes: N datapoints, D data dimensions.
"""

from __future__ import annotations

import io
import math
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from pyro_aevb.datasets.image_folders import read_images
from pyro_aevb.datasets.number_tables import TABLES, read_numbers
from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.files.comma_separated import comma_separated
from pyro_aevb.files.regular import check_regular

READABLE = (".npy", ".npz", ".csv", ".tsv", ".txt", ".parquet")
WRITABLE = READABLE[:3]
IN_MEMORY = 2**28  # bytes of an array of float32; a larger .npy is read from the disk row by row
MOST_INFLATED = 2**28  # bytes of a compressed array that is a hundred times as large as its file, or more
MOST_DENSE = 2**31  # bytes of a sparse array with its zeros
SPARSE = {"format", "shape", "data"}  # what scipy.sparse.save_npz writes, beside indices


class Contents(NamedTuple):
    """The datapoints of a file.

    ``values``: (N, ...), as they lie there, images as uint8; a large .npy is a memory map.  ``names``: of the columns,
    if it has any.  ``said``: what was read, in a line.  ``images``: whether it is a folder of images.  ``classes``: of
    each image, by the folder that it is in, (N,), if the images are in several.
    """

    values: np.ndarray
    names: tuple[str, ...]
    said: str
    images: bool = False
    classes: tuple[str, ...] = ()


def read_array(path: str | Path, key: str | None = None) -> np.ndarray:
    """Return the datapoints of a file as float32, shape (N, ...).

    Args:
        path: an array (.npy, .npz, SciPy's sparse ones too), a table of numbers (.csv, .tsv, .txt with a header row or
            without, .parquet), or a folder of images (.png, .jpg, .tif) of one size, or of folders of these, in the
            order of their names and scaled to [0, 1]: (N, height, width), or (N, 3, height, width) if there are
            colours; transparent pixels lie on white.
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
    values = np.array(contents.values, dtype=np.float32)
    return values / 255.0 if contents.images else values


def read_contents(path: str | Path, key: str | None = None, *, holes: bool = False) -> Contents:
    """Return what a file holds, as it lies there; arguments and errors are those of :func:`read_array`.

    With ``holes`` a table may have empty cells, which are NaN then, and rows of nothing else.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a data set's name, a file or a folder, got {path}, which isn't there")
    if key is not None and path.suffix.lower() != ".npz":
        raise ValueError(f"expected key for an .npz file, got it for {path}; leave it out")
    if path.is_dir():
        values, classes, left_out, transparent = read_images(path)
        size, colours = f"{values.shape[-1]}x{values.shape[-2]}", "in colour" if values.ndim == 4 else "grey"
        of_classes = f", of {len(set(classes))} classes by their folders" if classes else ""
        said = f"read {path}: {len(values)} images of {size}, {colours}{of_classes}"
        said += f"; {transparent} of them have transparent pixels, and lie on white" if transparent else ""
        said += f"; left out: images in {', '.join(left_out[:5])}{', ...' * (len(left_out) > 5)}" if left_out else ""
        return Contents(values, (), said, images=True, classes=classes)
    check_regular(path)
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise ValueError(f"expected {', '.join(READABLE)} or a folder of images, got {path}; convert it first")
    names: tuple[str, ...] = ()
    try:
        if suffix in TABLES:
            array, names = read_numbers(path, holes)
        else:
            array = _read_npy(path) if suffix == ".npy" else _read_npz(path, key)
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"expected a whole {suffix} file, got {path}: {error}; make it anew") from error
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
        if columns and path.suffix.lower() in TABLES:
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
        buffer.write(comma_separated(names, array.tolist()))
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
        shape = _check_header(file, path.stat().st_size, path)
        if 4 * math.prod(shape) > IN_MEMORY:
            return np.load(path, mmap_mode="r", allow_pickle=False)
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


def _check_header(file: IO[bytes], size: int, path: Path) -> tuple[int, ...]:
    """Return the shape that the beginning of an .npy says, checked against its size; it takes no memory."""
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
    return tuple(shape)
