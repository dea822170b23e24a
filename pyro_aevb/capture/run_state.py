"""The state that a run may change besides its result: tensors, their places and values, and random generators."""

from __future__ import annotations

import ctypes  # NumPy's arrays of a tensor's memory would forbid to resize it
import operator
import random
import sys
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.random_state import set_torch_state, torch_state

SHAPE, DTYPE, DEVICE = map(operator.attrgetter, ("shape", "dtype", "device"))  # without Python's time


def layouts(tensors: Sequence[Tensor]) -> list[Any]:
    """Return what a graph takes for granted of tensors, which ``tensor.data = ...`` changes: all but their values.

    >>> from pyro_aevb.capture.run_state import layouts
    >>> weight = torch.zeros(2, 3)
    >>> before = layouts([weight])
    >>> weight.data = torch.zeros(3, 2).T
    >>> layouts([weight]) == before
    False
    """
    try:
        strides = [*map(Tensor.stride, tensors)]
        return [*map(SHAPE, tensors), *strides, *map(DTYPE, tensors), *map(DEVICE, tensors)]
    except RuntimeError:  # one that is sparse, or has no shape yet
        return [_layout(tensor) for tensor in tensors]


def _layout(tensor: Tensor) -> Any:
    if torch.nn.parameter.is_lazy(tensor):
        return type(tensor)
    strides = tensor.stride() if tensor.layout is torch.strided else None
    return tensor.shape, strides, tensor.dtype, tensor.device


def is_sparse(value: Any) -> bool:
    """Return whether this is a tensor that isn't laid out by strides."""
    return isinstance(value, Tensor) and value.layout is not torch.strided


class Saved:
    """Torch's generators and some tensors, as they were.

    Attributes:
        values: the tensors, and a copy of each.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._noise = torch_state()
        self.values = [(tensor, tensor.detach().clone()) for tensor in tensors]

    @torch.no_grad()
    def restore(self) -> None:
        """Put generators and tensors back."""
        set_torch_state(self._noise)
        for tensor, value in self.values:
            tensor.copy_(value)


@torch.no_grad()
def wrongly_left(before: Saved, after: Saved, tolerance: float) -> Tensor | None:
    """Return the first tensor that holds something else now than in ``after``, rounding aside; ``None`` if none does.

    Args:
        before: the tensors before the run that ``after`` is the end of, and before the one that has ended now.
        after: the same tensors.
        tolerance: the relative error of a change that counts as rounding.
    """
    for (tensor, start), (_, end) in zip(before.values, after.values, strict=True):
        if is_sparse(tensor) or torch.equal(tensor, end):
            continue
        if tensor.shape != end.shape or torch.equal(tensor, start):
            return tensor
        if not (end.is_floating_point() or end.is_complex()):
            return tensor
        size = (end - start).norm() + 1e-3 * end.norm()
        if end.isfinite().all() and not (tensor - end).norm() <= tolerance * size:
            return tensor
    return None


class Untouched:
    """The state that a run must leave alone: generators other than torch's global ones, tensors that aren't saved.

    Args:
        tensors: the tensors that the run can reach.
        saved: those among them whose values it may change.
        generators: the generators that it can reach.
    """

    def __init__(self, tensors: Sequence[Tensor], saved: Iterable[Tensor], generators: Iterable[Any]) -> None:
        ids = set(map(id, saved))
        self._places = [(tensor, _place(tensor)) for tensor in tensors]
        self._values = [(tensor, tensor._version, _checksum(tensor)) for tensor in tensors if id(tensor) not in ids]
        self._generators = [(generator, _state_of(generator)) for generator in (random, *generators)]
        self._numpy = _numpy_state()

    def drawn_from(self) -> tuple[str, Any] | None:
        """Return the name of a generator that has moved since, and it or its module; ``None`` if none has."""
        if self._numpy != _numpy_state():
            return "NumPy's random", sys.modules["numpy.random"]
        moved = (generator for generator, state in self._generators if state != _state_of(generator))
        return next((("Python's random" if each is random else type(each).__name__, each) for each in moved), None)

    def moved(self) -> list[Tensor]:
        """Return the tensors that lie elsewhere since, or are laid out in another way (``tensor.data = ...``)."""
        return [tensor for tensor, place in self._places if _place(tensor) != place]

    def written(self) -> list[Tensor]:
        """Return the tensors whose values have changed since; a write through ``tensor.data`` counts no version."""
        return [
            tensor
            for tensor, version, checksum in self._values
            if tensor._version != version or _checksum(tensor) != checksum
        ]


def _place(tensor: Tensor) -> Any:
    in_memory = not (is_sparse(tensor) or torch.nn.parameter.is_lazy(tensor))
    return _layout(tensor), tensor.data_ptr() if in_memory else None


def _checksum(tensor: Tensor) -> int:
    """Return a checksum of the bytes of a tensor, or 0 for one that has none."""
    if is_sparse(tensor) or tensor.is_meta or torch.nn.parameter.is_lazy(tensor) or tensor.is_quantized:
        return 0
    with torch._C.DisableTorchFunctionSubclass():
        values = tensor.detach()
        for dim, stride in enumerate(values.stride()):
            values = values.narrow(dim, 0, 1) if stride == 0 and values.shape[dim] else values  # an expanded one
        kept = values.resolve_conj().resolve_neg().cpu().contiguous()
        return zlib.crc32((ctypes.c_char * kept.nbytes).from_address(kept.data_ptr())) if kept.nbytes else 0


def _state_of(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state().tolist()
    if hasattr(generator, "bit_generator"):  # NumPy's
        return str(generator.bit_generator.state)
    return str(generator.get_state()) if hasattr(generator, "get_state") else generator.getstate()


def _numpy_state() -> Any:
    if "numpy.random" not in sys.modules:
        return None
    state: Any = sys.modules["numpy.random"].get_state()
    return state[1].tobytes(), state[2:]
