"""Bounds on what is computed, known before memory is taken for it: for what a file's description has built."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

SMALL, SMALL_SIZE = 2**12, 16  # numbers, and the largest size: operations on less are not looked at
READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class TooLargeError(Exception):
    """Raised before an operation that would make too many numbers, or be one too many."""


class Bounded(TorchDispatchMode):
    """Inside the block torch's operations may make so many numbers, all together.

    Each operation on or to large tensors is run on the meta device first, which has shapes and no numbers.

    Args:
        most_numbers: all operations together may make this many.
        most_operations: so many operations may there be.

    >>> from pyro_aevb.vae.bounded import Bounded
    >>> with Bounded(most_numbers=1000, most_operations=10):
    ...     x = torch.ones(30, 30)
    >>> with Bounded(most_numbers=1000, most_operations=10):
    ...     x = torch.ones(10**9, 10**9)
    Traceback (most recent call last):
    ...
    pyro_aevb.vae.bounded.TooLargeError: more than 1000 numbers
    """

    def __init__(self, most_numbers: int, most_operations: int) -> None:
        super().__init__()
        self._most_numbers, self._most_operations = most_numbers, most_operations
        self._numbers = self._operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, unless it is one too many."""
        kwargs = kwargs or {}
        self._operations += 1
        if self._operations > self._most_operations:
            raise TooLargeError(f"more than {self._most_operations} operations")
        self._count(func, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, func: Any, args: Any, kwargs: Any) -> None:
        leaves = tree_leaves((args, kwargs))
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        sizes = [leaf for leaf in leaves if isinstance(leaf, int)]
        read = sum(tensor.numel() for tensor in inputs)
        if func.is_view or (read < SMALL and max(sizes, default=0) < SMALL_SIZE):
            return
        if READS & set(func.tags):  # what it makes depends on numbers: no more than it was given
            self._numbers += read
        else:
            made = func(*tree_map(_on_meta, args), **(tree_map(_on_meta, kwargs) | _device(func)))
            self._numbers += sum(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor))
        if self._numbers > self._most_numbers:
            raise TooLargeError(f"more than {self._most_numbers} numbers")


def _on_meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _device(func: Any) -> dict[str, Any]:
    """Return the meta device for an operation that makes a tensor on a device."""
    takes = any(argument.name == "device" for argument in func._schema.arguments)
    return {"device": torch.device("meta")} if takes else {}
