"""Parts of a data set, each of which gives datapoints for their indices: arrays, frames, sparse matrices, files.

Numbers of 8 and 16 bits (pixels, counts, levels) stay as they lie, in memory or in their file, and a minibatch of them
comes in torch's default dtype.  Labels and indices are of int64, as in torch.
"""

from __future__ import annotations

import mmap
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

READ_AHEAD = 2**16  # bytes that the system may map around each row that is read
LARGEST_MAPPED = 2**28
NARROW = (torch.uint8, torch.int8, torch.uint16, torch.int16)


@runtime_checkable
class Indexed(Protocol):
    """A data set that gives a minibatch for a tensor of indices; a tensor is one."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return the datapoints at ``index`` (M,), shape (M, ...)."""
        ...


@runtime_checkable
class Drawn(Indexed, Protocol):
    """A data set whose minibatches are ``draw(rows(index))``, drawn anew each time: a learner may do the drawing."""

    def rows(self, index: Tensor) -> Tensor:
        """Return what to draw from, shape (M, ...)."""
        ...

    def draw(self, rows: Tensor) -> Tensor:
        """Draw a minibatch."""
        ...


@runtime_checkable
class Placed(Indexed, Protocol):
    """A data set that lies on a device, where its indices belong, and can be moved to another; a tensor is one."""

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        ...

    def to(self, device: torch.device | str) -> Indexed:
        """Return it on another device."""
        ...


@runtime_checkable
class Frame(Protocol):
    """A table of numbers: a pandas or polars frame or series."""

    def to_numpy(self) -> np.ndarray:
        """Return the numbers, (N, columns) or (N,)."""
        ...


class MemoryMapped:
    """A memory-mapped array that is copied row by row, and whose pages go back to the system now and then.

    Without that, every row that was ever read would count as memory of this process.
    """

    def __init__(self, array: np.memmap) -> None:
        self.array = array
        self._mapped, self._map = 0, getattr(array, "_mmap", None)
        if array.mode == "c" or not hasattr(mmap, "MADV_DONTNEED"):  # a private copy may hold changes
            self._map = None

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Tensor) -> Tensor:
        rows = np.array(self.array[index.numpy()])
        self._mapped += rows.nbytes + READ_AHEAD * len(rows)
        if self._map is not None and self._mapped > LARGEST_MAPPED:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._mapped = 0
        return as_tensor(rows)


class Ascending:
    """An array in an HDF5 file, which h5py reads at places that go up, each once."""

    def __init__(self, array: Any) -> None:
        if not hasattr(array, "shape"):
            raise TypeError(
                f"expected an array of an HDF5 file, got {array!r}; pass one of {sorted(array)}: file[name]"
            )
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Tensor) -> Tensor:
        places, back = np.unique(index.numpy(), return_inverse=True)
        return as_tensor(self.array[places][back])


class SparseRows:
    """A sparse matrix, of SciPy or of torch, whose rows are made dense a minibatch at a time."""

    def __init__(self, matrix: Any) -> None:
        from scipy import sparse  # here, since it takes a moment to import

        if isinstance(matrix, Tensor):
            coo = matrix.detach().cpu().to_sparse_coo().coalesce()
            matrix = sparse.coo_array((coo.values().numpy(), coo.indices().numpy()), shape=tuple(coo.shape))
        if matrix.ndim != 2:
            raise ValueError(f"expected a sparse matrix with datapoints as rows, got one of shape {matrix.shape}")
        self.matrix = sparse.csr_array(matrix)

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def __getitem__(self, index: Tensor) -> Tensor:
        return torch.as_tensor(self.matrix[index.numpy()].toarray(), dtype=torch.get_default_dtype())


class Items:
    """A ``Dataset`` of single datapoints, put together as a ``DataLoader`` does."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Tensor) -> Any:
        numbers = index.tolist()
        many = getattr(self.dataset, "__getitems__", None)
        items = many(numbers) if many is not None else [self.dataset[i] for i in numbers]
        for item in items:
            for part in item if isinstance(item, tuple | list) else (item,):
                check_unmasked(part)
        return default_collate(items)


def is_matrix(value: Any) -> bool:
    """Return whether this is a sparse matrix or an Arrow table, which are indexed in ways of their own."""
    return is_sparse(value) or hasattr(value, "to_pandas")


def is_sparse(value: Any) -> bool:
    """Return whether this is a sparse matrix, of SciPy or of torch."""
    if isinstance(value, Tensor):
        return value.layout != torch.strided
    return type(value).__module__.startswith("scipy.sparse")


def as_numbers(rows: Tensor) -> Tensor:
    """Return rows of 8 or 16 bits in torch's default dtype, and any others as they are.

    >>> from pyro_aevb.data_parts import as_numbers
    >>> as_numbers(torch.tensor([255], dtype=torch.uint8)), as_numbers(torch.tensor([255])).dtype
    (tensor([255.]), torch.int64)
    """
    return rows.to(torch.get_default_dtype()) if rows.dtype in NARROW else rows


def part_of(part: Any, place: int, device: torch.device | str | None) -> Any:
    """Return what holds datapoints as what it is read by: a tensor, or an object that gives rows for their indices.

    Args:
        part: an array, a frame, a sparse matrix, a ``Dataset``, or anything :class:`Indexed`.
        place: its place among the arguments, for the error.
        device: where it belongs if it is :class:`Placed`.

    Raises:
        TypeError, ValueError: for anything else.
    """
    check_unmasked(part)
    if is_sparse(part):
        return SparseRows(part)
    if isinstance(part, np.memmap):
        return MemoryMapped(part)
    if type(part).__module__.partition(".")[0] == "h5py":
        return Ascending(part)
    if hasattr(part, "to_pandas"):  # an Arrow table
        part = part.to_pandas()
    if isinstance(part, Frame):
        part = _numbers(part)
    if isinstance(part, np.ndarray):
        part = as_tensor(part)
    if isinstance(part, Dataset):
        return Items(part)
    if isinstance(part, Placed):
        return part if device is None else part.to(device)
    if not isinstance(part, Indexed):
        raise not_a_tensor(part, place)
    return part


def as_tensor(array: np.ndarray) -> Tensor:
    """Return an array as a tensor, which shares its memory unless it, or the order of its bytes, is turned around.

    Raises:
        TypeError: for an array of anything but numbers.
    """
    if array.dtype.kind not in "biufc":
        raise TypeError(f"expected an array of numbers, got one of {array.dtype}; convert with array.astype('float32')")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.as_tensor(np.ascontiguousarray(array) if min(array.strides, default=0) < 0 else array)


def _numbers(frame: Frame) -> Tensor:
    """Return a frame's numbers in torch's default dtype, whole numbers too."""
    array = frame.to_numpy()
    if not np.issubdtype(array.dtype, np.number) and array.dtype != bool:
        try:
            array = array.astype(float)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"expected a frame of numbers, got one with other columns ({error}); drop these, or write them as "
                "numbers: pandas.get_dummies(frame) for categories"
            ) from error
    return torch.as_tensor(array, dtype=torch.get_default_dtype())


def check_unmasked(array: Any) -> None:
    """Check that an array hides none of its numbers: a tensor would show them.

    Args:
        array: anything.

    Raises:
        ValueError: for a masked array of NumPy's with something masked.
    """
    if np.ma.is_masked(array):
        raise ValueError(
            f"expected an array that shows all of its numbers, got a masked one, {np.ma.count_masked(array)} of them "
            "masked; fill them, array.filled(0.0), and pass which are observed beside it for the model to mask: "
            "(array.filled(0.0), ~numpy.ma.getmaskarray(array))"
        )


def not_a_tensor(value: Any, position: int) -> TypeError:
    """Return the error for an argument that holds no datapoints."""
    return TypeError(
        f"expected tensors, got {type(value).__name__} as argument {position}; use torch.as_tensor(...) for data; wrap "
        "what isn't data and all datapoints have in common: Shared(value)"
    )
