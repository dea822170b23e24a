"""Modules in evaluation mode for as long as something is evaluated, and their buffers as they were afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from pyro import primitives
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_aevb.capture.graph import is_tracing
from pyro_aevb.capture.python_state import PythonState


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules into evaluation mode inside the block, and afterwards back: each one's mode, and its buffers.

    A forward may write into a buffer, or replace it, whatever the mode.

    Args:
        modules: each by itself; what is inside one of them is not looked for.
    """
    before = [AsItWas(module) for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        _put_all_back(before)


class AsItWas:
    """A module's mode and buffers, as they were.

    Args:
        module: the module; what is inside of it isn't looked at.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self._mode = module, module.training
        self._buffers = dict(module._buffers)
        held = [buffer for buffer in self._buffers.values() if buffer is not None and not is_lazy(buffer)]
        self._values = [(buffer, buffer._version, buffer.detach(), buffer.detach().clone()) for buffer in held]

    @torch.no_grad()
    def put_back(self) -> None:
        """Put both back; a buffer that nothing has written is left alone, since a gradient may need it."""
        self.module.training = self._mode
        for buffer, version, memory, value in self._values:
            if _lies_elsewhere(buffer, memory):
                buffer.data = memory
            # While a graph is traced there are no values to compare; versions miss writes through buffer.data alone.
            if buffer._version != version if is_tracing() else not _is_equal(buffer, value):
                buffer.copy_(value)
        if any(self.module._buffers.get(name) is not buffer for name, buffer in self._buffers.items()):
            self.module._buffers.update(self._buffers)
        for name in self.module._buffers.keys() - self._buffers.keys():
            del self.module._buffers[name]


def _lies_elsewhere(buffer: Tensor, memory: Tensor) -> bool:
    """Return whether a buffer isn't the same view of the same memory any more (``buffer.data = ...``, ``resize_``)."""
    if buffer.layout is not torch.strided:
        return False
    kept = buffer.shape == memory.shape and buffer.stride() == memory.stride() and buffer.dtype is memory.dtype
    return not kept or buffer.data_ptr() != memory.data_ptr()


def _is_equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same values, NaN among them; of sparse ones it isn't asked."""
    if a.layout is not torch.strided:
        return False
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def _put_all_back(before: Iterable[AsItWas]) -> None:
    try:
        for each in before:
            each.put_back()
    except BaseException:  # a signal, in the middle of it
        for each in before:
            each.put_back()
        raise


class NamedModules(Messenger):
    """Put each module that the wrapped callable gives to ``pyro.module`` into evaluation mode, and note how it was.

    Such a module may be out of sight of :class:`~pyro_aevb.capture.PythonState`: another package's, a function's cache.

    Args:
        met: the modules that were met, as they were, by identity; several wrapped callables may share it.
    """

    def __init__(self, met: dict[int, AsItWas]) -> None:
        super().__init__()
        self._met = met

    def _pyro_param(self, msg: Any) -> None:
        if primitives._MODULE_NAMESPACE_DIVIDER not in msg["name"]:
            return
        for each in named_by_the_caller():
            if id(each) not in self._met:
                self._met[id(each)] = AsItWas(each)
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
    """Be :func:`evaluating` a pair's modules inside the block, those too that only its run names.

    Args:
        model: p(x, z).
        guide: q(z|x), or ``None``.
        modules: those that can be seen; found if not given.

    Yields:
        model and guide, to be run in the block, and a list that holds the modules that they named once it has ended.
    """
    if modules is None:
        modules = PythonState([fn for fn in (model, guide) if fn is not None]).modules
    met: dict[int, AsItWas] = {}
    named: list[nn.Module] = []
    with evaluating(modules):
        try:
            yield NamedModules(met)(model), None if guide is None else NamedModules(met)(guide), named
        finally:
            named += [each.module for each in met.values()]
            _put_all_back(met.values())
