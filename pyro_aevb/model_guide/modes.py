"""Modules in evaluation mode for as long as something is evaluated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pyro import primitives
from pyro.poutine.messenger import Messenger
from torch import nn

from pyro_aevb.capture.python_state import PythonState


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


class NamedModules(Messenger):
    """Put each module that the wrapped callable gives to ``pyro.module`` into evaluation mode, and note its mode.

    Such a module may be out of sight of :class:`~pyro_aevb.capture.PythonState`: another package's, a function's cache.

    Args:
        modes: the modules that were met and their modes, by identity; several wrapped callables may share it.
    """

    def __init__(self, modes: dict[int, tuple[nn.Module, bool]]) -> None:
        super().__init__()
        self._modes = modes

    def _pyro_param(self, msg: Any) -> None:
        if primitives._MODULE_NAMESPACE_DIVIDER not in msg["name"]:
            return
        for each in named_by_the_caller():
            if id(each) not in self._modes:
                self._modes[id(each)] = each, each.training
                each.training = False


def named_by_the_caller() -> list[nn.Module]:
    """Return the module that the call of ``pyro.module`` on the stack is about, and those inside of it."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code is not primitives.module.__code__:
        frame = frame.f_back
    return [] if frame is None else list(frame.f_locals["nn_module"].modules())


@contextmanager
def evaluated(
    model: Callable[..., Any], guide: Callable[..., Any] | None, modules: Sequence[nn.Module] | None = None
) -> Iterator[tuple[Any, Any, list[nn.Module]]]:
    """Put a pair's modules into evaluation mode inside the block, those too that only its run names.

    Args:
        model: p(x, z).
        guide: q(z|x), or ``None``.
        modules: those that can be seen; found if not given.

    Yields:
        model and guide, to be run in the block, and a list that holds the modules that they named once it has ended.
    """
    if modules is None:
        modules = PythonState([fn for fn in (model, guide) if fn is not None]).modules
    modes: dict[int, tuple[nn.Module, bool]] = {}
    named: list[nn.Module] = []
    with evaluating(modules):
        try:
            yield NamedModules(modes)(model), None if guide is None else NamedModules(modes)(guide), named
        finally:
            named += [module for module, _ in modes.values()]
            _put_back(list(modes.values()))
