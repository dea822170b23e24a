"""Checks of what is passed from outside: whole numbers, and tensors of datapoints, which stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_aevb.data_parts import not_a_tensor


def check_integers(**numbers: Any) -> None:
    """Check that every number that is given is a whole one, of an integer type.

    Args:
        numbers: by name; ``None`` is none.

    Raises:
        TypeError: for another type, 1e3 among them.

    >>> from pyro_aevb.checks import check_integers
    >>> check_integers(epochs=2.0)
    Traceback (most recent call last):
    ...
    TypeError: expected an integer for epochs, got 2.0; pass int(...)
    """
    for name, number in numbers.items():
        if number is not None and not hasattr(number, "__index__"):
            raise TypeError(f"expected an integer for {name}, got {number!r}; pass int(...)")


def check_data(*args: Any, name: Callable[[int], str] = "datapoint {}".format) -> None:
    """Check that every argument is a non-empty tensor of finite numbers, all with the same number of datapoints.

    Args:
        args: a minibatch.
        name: names a datapoint by its place in it, for the error.

    Raises:
        TypeError: for what isn't a tensor.
        ValueError: for the rest.

    >>> from pyro_aevb.model_guide import check_data
    >>> check_data(torch.tensor([[1.0], [float("nan")]]))
    Traceback (most recent call last):
    ...
    ValueError: expected finite data, got 1 NaN or infinite value in argument 0, the first in datapoint 1; ...
    """
    for i, x in enumerate(args):
        if not isinstance(x, Tensor):
            raise not_a_tensor(x, i)
        if x.dim() == 0 or not len(x):
            raise ValueError(
                f"expected at least one datapoint, got shape {tuple(x.shape)} as argument {i}; a number is bound "
                "beforehand: functools.partial(model, name=value), and the guide likewise"
            )
        if len(x) != len(args[0]):
            raise ValueError(f"expected {len(args[0])} datapoints in argument {i} as in argument 0, got {len(x)}")
        if torch.isfinite(x.sum()):  # a thirtieth of the time of looking at each; finite numbers too large to add go on
            continue
        bad = ~torch.isfinite(x)
        if bad.any():
            count, first = int(bad.sum()), int(bad.reshape(len(x), -1).any(1).nonzero()[0])
            raise ValueError(
                f"expected finite data, got {count} NaN or infinite value{'s' * (count > 1)} in argument {i}, "
                f"the first in {name(first)}; "
                "drop or fill them, or mask them in the model (poutine.mask) with finite values in their place"
            )


@contextmanager
def left_as_they_are(*args: Any) -> Iterator[None]:
    """Check that the tensors among the arguments of a model and a guide aren't written to inside the block.

    Args:
        args: tensors, lists and dicts of them, and anything else.

    Raises:
        ValueError: for a tensor that is.

    >>> from pyro_aevb.checks import left_as_they_are
    >>> x = torch.zeros(3)
    >>> with left_as_they_are(x):
    ...     x.add_(1.0)
    Traceback (most recent call last):
    ...
    ValueError: expected a model and a guide that leave their arguments as they are, got one of shape (3,) written to...
    """
    tensors = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor) and not leaf.is_inference()]
    before = [tensor._version for tensor in tensors]
    yield
    for tensor, version in zip(tensors, before, strict=True):
        if tensor._version != version:
            raise ValueError(
                "expected a model and a guide that leave their arguments as they are, got one of shape "
                f"{tuple(tensor.shape)} written to in place: the likelihood would see the changed numbers; compute "
                "with a copy, x = x.clone(), or without inplace=True"
            )
