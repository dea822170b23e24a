"""Rows of a large array of whole numbers, made float32 a minibatch at a time; what an array seems to hold.

Shapes: N datapoints, D data dimensions, M of a minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 2**22  # numbers that are looked at in one piece
COUNTED = 100.0  # the mean from which whole numbers are measurements and not counts


class ScaledRows:
    """Datapoints (N, D) out of an array in memory or on disk: float32, divided by a number, a minibatch at a time.

    Args:
        array: (N, ...), of any numbers.
        divisor: 255 for pixels between 0 and 1.
        places: which rows, in which order; by default all.

    >>> import numpy as np
    >>> from pyro_aevb.datasets.scaled_rows import ScaledRows
    >>> rows = ScaledRows(np.array([[0, 51], [102, 255]], dtype=np.uint8), 255.0)
    >>> rows.shape, rows[torch.tensor([1])].tolist()
    ((2, 2), [[0.4000000059604645, 1.0]])
    """

    def __init__(self, array: np.ndarray, divisor: float = 1.0, places: np.ndarray | None = None) -> None:
        self.array, self.divisor, self._places = array, divisor, places
        self.shape = (len(array) if places is None else len(places), math.prod(array.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        places = np.asarray(index.cpu())
        rows = self.array[places if self._places is None else self._places[places]]
        values = np.asarray(rows, dtype=np.float32) / np.float32(self.divisor)
        return torch.from_numpy(values.reshape(len(places), self.shape[1]))

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Return the rows at ``index`` (M,), (M, D), as a tensor does along its dimension 0."""
        return self[index]

    def at(self, places: Tensor | slice) -> ScaledRows:
        """Return some of the rows, which are read as late."""
        some = np.arange(len(self)) if self._places is None else self._places
        return ScaledRows(self.array, self.divisor, some[places if isinstance(places, slice) else places.numpy()])


class Contained(NamedTuple):
    """The range of numbers, their mean, whether all are whole, or one of two, and how many are NaN or infinite."""

    low: float
    high: float
    mean: float
    whole: bool
    two: bool
    missing: int
    infinite: int


def contained(array: np.ndarray) -> Contained:
    """Return what is in an array, read a piece at a time.

    Args:
        array: (N, ...), in memory or on disk.

    >>> import numpy as np
    >>> from pyro_aevb.datasets.scaled_rows import contained
    >>> contained(np.array([[0.0, 3.0], [np.nan, 6.0]]))
    Contained(low=0.0, high=6.0, mean=3.0, whole=True, two=False, missing=1, infinite=0)
    """
    low, high, total, count, whole, missing, infinite = math.inf, -math.inf, 0.0, 0, True, 0, 0
    ends: set[float] | None = set()  # of the pieces, as long as these have nothing else
    for piece in _pieces(array):
        values = piece[np.isfinite(piece)]
        missing += int(np.isnan(piece).sum())
        infinite += int(np.isinf(piece).sum())
        if len(values):
            least, most = float(values.min()), float(values.max())
            low, high = min(low, least), max(high, most)
            if ends is not None:
                ends = ends | {least, most} if ((values == least) | (values == most)).all() else None
            total, count = total + float(values.sum(dtype=np.float64)), count + len(values)
            whole = whole and bool((values % 1 == 0).all())
    two = ends is not None and len(ends) <= 2
    return Contained(low, high, total / max(count, 1), whole, two, missing, infinite)


def kind_of_array(array: np.ndarray, found: Contained, *, images: bool = False) -> str:
    """Return what an array seems to hold.

    "binary" numbers, "pixels" of 8 bits, "black and white" ones, "grey" in [0, 1], "counts" or "real" numbers.

    Args:
        array: (N, ...).
        found: what is in it.
        images: whether it comes from files of images.

    >>> import numpy as np
    >>> from pyro_aevb.datasets.scaled_rows import contained, kind_of_array
    >>> [kind_of_array(x, contained(x)) for x in (np.eye(2), np.eye(2) / 2, 3 * np.eye(2), -np.eye(2))]
    ['binary', 'grey', 'counts', 'real']
    """
    between = found.low >= 0 and found.high <= 1
    if images or (array.dtype == np.uint8 and found.high > 1 and (array.ndim > 2 or found.high > 127)):
        return "black and white" if found.two and found.low in (0, 255) and found.high in (0, 255) else "pixels"
    if found.whole and between:
        return "binary"
    if found.whole and found.low >= 0 and found.mean < COUNTED:
        return "counts"
    return "grey" if between else "real"


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    size = max(1, AT_ONCE // max(1, math.prod(array.shape[1:])))
    for begin in range(0, len(array), size):
        yield np.asarray(array[begin : begin + size])
