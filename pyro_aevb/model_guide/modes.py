"""Modules in evaluation mode for as long as something is evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules into evaluation mode inside the block, and each back into the mode it was in.

    Args:
        modules: each by itself; what is inside one of them is not looked for.
    """
    modes = [(module, module.training) for module in modules]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        try:
            _put_back(modes)
        except BaseException:  # a signal, in the middle of it
            _put_back(modes)
            raise


def _put_back(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        module.training = mode
