"""Which draws a tensor was computed from: storages are marked with the names of the latents behind what is in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

TO_PYTHON = (Tensor.numpy, Tensor.tolist)  # which read a tensor's memory, without an operation
NOTHING: frozenset[str] = frozenset()


class Marks:
    """The names that tensors were marked with, handed on inside the block to whatever is computed from these tensors.

    Each operation that torch runs marks what it returns and what it writes to, in functions that were traced or mapped
    over too.  ``left`` has the names on tensors that were made into Python's numbers or NumPy's arrays, from where on
    they can't be followed.

    >>> from pyro_aevb.model_guide.marks import Marks
    >>> with Marks() as marks:
    ...     z = marks.copy(torch.ones(3), "z")
    ...     loc = torch.zeros(3, 2)
    ...     loc[:, 1] = z.exp()
    ...     print(marks.of([loc.sum()]), marks.of([torch.zeros(3)]), marks.left)
    frozenset({'z'}) frozenset() set()
    """

    def __init__(self) -> None:
        self.left: set[str] = set()
        self._names: dict[int, frozenset[str]] = {}
        self._kept: list[Tensor] = []  # else another storage could have the place of a marked one that is gone
        self._modes = ExitStack()

    def copy(self, tensor: Tensor, name: str) -> Tensor:
        """Return a copy of a tensor, marked with this name alone."""
        copy = tensor.clone()
        self._kept.append(copy)
        self._names[_place(copy)] = frozenset({name})
        return copy

    def add(self, tensor: Tensor, names: frozenset[str]) -> None:
        """Mark a tensor with these names, beside those that it has."""
        place = _place(tensor)
        if place not in self._names:
            self._kept.append(tensor)
        self._names[place] = names | self._names.get(place, NOTHING)

    def of(self, values: Any) -> frozenset[str]:
        """Return the names on the tensors in lists, tuples and dicts, one inside of another."""
        return NOTHING.union(*(self._names.get(_place(tensor), NOTHING) for tensor in _tensors(values)))

    def __enter__(self) -> Marks:
        operations = _NotCompiled if "torch._dynamo" in sys.modules else _Operations
        self._modes.enter_context(operations(self))
        self._modes.enter_context(_Conversions(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._modes.close()


class _Operations(TorchDispatchMode):
    """Mark what operations return and write to."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self._marks = marks

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, which takes seconds, to keep this from being compiled

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if names := self._marks.of((args, kwargs)):
            for place, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    written = args[place] if place < len(args) else kwargs.get(argument.name)
                    for tensor in _tensors(written):
                        self._marks.add(tensor, names)
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._marks.add(leaf, names)
                elif leaf is not None:
                    self._marks.left |= names
        return result


class _NotCompiled(_Operations):
    """The same where there is a compiler, for functions that it compiles."""

    __torch_dispatch__ = _Operations.__torch_dispatch__

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True


class _Conversions(TorchFunctionMode):
    """Note what leaves for Python without an operation."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self._marks = marks

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in TO_PYTHON:
            self._marks.left |= self._marks.of(args)
        return func(*args, **(kwargs or {}))


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor))


def _place(tensor: Tensor) -> int:
    """Return what two tensors have in common that share memory; a tensor without a storage shares with none."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return id(tensor)
