"""What a Python callable reads besides its arguments: closures, globals, attributes, the parameters of its modules.

A graph traced from a Pyro model holds the numbers, the branches and the modules that the model's Python had at that
moment.  :class:`PythonState` tells whether they are still the same, at a price of microseconds.
"""

from __future__ import annotations

import functools
import logging
import operator
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

# Code and data of these packages don't change between two calls, and are large.
LIBRARIES = ("torch", "pyro", "numpy", "builtins", "collections", "functools", "typing", "abc", "logging", "re")
SCALARS = (int, float, bool, str, bytes, complex, type(None))
CLOSED = (Tensor, types.ModuleType, type, logging.Logger)  # a logger leads to every other logger of the process
MODULE_SLOTS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
LARGEST_CONTAINER, MOST_SLOTS = 1000, 20_000


class PythonState:
    """The Python values that ``callables`` can reach, as they are each time :meth:`key` is called.

    Reached are closure cells, globals that the code names, default arguments, attributes of objects (``training`` of a
    module among them), elements of small containers, and through these the same again; not the inside of libraries.

    >>> beta = [0.5]
    >>> state = PythonState([lambda x: x * beta[0]])
    >>> before = state.key()
    >>> state.key() == before
    True
    >>> beta[0] = 1.0
    >>> state.key() == before, state.difference(before)
    (False, 'beta[0]')
    """

    def __init__(self, callables: Iterable[Callable[..., Any]]) -> None:
        self.modules: list[nn.Module] = []
        self._dicts: list[tuple[dict[Any, Any], Any]] = []
        self._lists: list[tuple[Any, int]] = []
        self._cells: list[types.CellType] = []
        self._sizes: list[Any] = []
        self._names: dict[str, list[str]] = {"dict": [], "list": [], "cell": [], "size": []}
        self._seen: dict[int, Any] = {}
        self._values: list[Any] = []
        self._key: tuple[Any, ...] = ()
        for fn in callables:
            self._visit(fn, getattr(fn, "__name__", type(fn).__name__))

    def key(self) -> tuple[Any, ...]:
        """Return the values now: scalars as they are, anything else by identity.

        What an identity stands for must be kept alive by whoever keeps the key: :meth:`values`.
        """
        values = self.values()
        if not (len(values) == len(self._values) and all(map(operator.is_, values, self._values))):
            self._values = values
            self._key = tuple(v if isinstance(v, SCALARS) else id(v) for v in values)
        return self._key

    def values(self) -> list[Any]:
        """Return the values themselves."""
        return (
            [mapping.get(key) for mapping, key in self._dicts]
            + [sequence[i] if i < len(sequence) else None for sequence, i in self._lists]
            + [_contents(cell) for cell in self._cells]
            + [len(container) for container in self._sizes]
        )

    def difference(self, key: tuple[Any, ...]) -> str:
        """Name the first value that isn't what it was in ``key``."""
        names = [name for kind in ("dict", "list", "cell", "size") for name in self._names[kind]]
        changed = [name for name, a, b in zip(names, self.key(), key, strict=True) if a != b]
        return changed[0] if changed else ""

    def buffers(self) -> list[Tensor]:
        """Return the buffers of all modules reached: the tensors a run may change in place."""
        return [buffer for module in self.modules for buffer in module._buffers.values() if buffer is not None]

    def _visit(self, value: Any, name: str) -> None:
        if isinstance(value, (*SCALARS, *CLOSED)) or id(value) in self._seen:
            return
        if len(self._seen) > MOST_SLOTS:
            return
        self._seen[id(value)] = value
        if isinstance(value, types.MethodType):
            self._visit(value.__self__, _owner(name))
            self._visit(value.__func__, name)
        elif isinstance(value, types.FunctionType):
            self._visit_function(value, name)
        elif isinstance(value, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self._visit(part, name)
        elif isinstance(value, dict):
            self._visit_dict(value, name + "[{!r}]")
        elif isinstance(value, list | tuple):
            self._visit_sequence(value, name)
        elif hasattr(value, "__dict__"):
            self._visit_object(value, name)

    def _visit_function(self, fn: types.FunctionType, name: str) -> None:
        if _in_library(fn.__module__):
            for cell in fn.__closure__ or ():  # a handler around somebody's model
                self._visit(_contents(cell), name)
            return
        for variable, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            self._cells.append(cell)
            self._names["cell"].append(variable)
            self._visit(_contents(cell), variable)
        for default in (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()):
            self._visit(default, name)
        for variable in _names_in(fn.__code__):
            if variable in fn.__globals__ and not isinstance(fn.__globals__[variable], types.ModuleType | type):
                self._dicts.append((fn.__globals__, variable))
                self._names["dict"].append(variable)
                self._visit(fn.__globals__[variable], variable)

    def _visit_dict(self, mapping: dict[Any, Any], template: str, keys: Iterable[Any] | None = None) -> None:
        if len(mapping) > LARGEST_CONTAINER:
            return
        self._sizes.append(mapping)
        self._names["size"].append(f"the number of {template.format('*')}")
        for key, value in list(mapping.items()) if keys is None else [(key, mapping[key]) for key in keys]:
            self._dicts.append((mapping, key))
            self._names["dict"].append(template.format(key))
            self._visit(value, template.format(key))

    def _visit_sequence(self, sequence: Any, name: str) -> None:
        if len(sequence) > LARGEST_CONTAINER:
            return
        self._sizes.append(sequence)
        self._names["size"].append(f"len({name})")
        for i, value in enumerate(sequence):
            self._lists.append((sequence, i))
            self._names["list"].append(f"{name}[{i}]")
            self._visit(value, f"{name}[{i}]")

    def _visit_object(self, value: Any, name: str) -> None:
        keys = None
        if isinstance(value, nn.Module):
            self.modules.append(value)
            keys = [k for k in value.__dict__ if k[0] != "_" or k in MODULE_SLOTS]
        for cls in type(value).__mro__:
            if not _in_library(cls.__module__):
                for attribute in list(vars(cls).values()):
                    function = getattr(attribute, "__func__", getattr(attribute, "fget", attribute))
                    if isinstance(function, types.FunctionType):
                        self._visit(function, f"{cls.__name__}.{function.__name__}")
        self._visit_dict(value.__dict__, name + ".{}", keys)


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules into evaluation mode inside the block, and each back into the mode it was in."""
    modes = [(module, module.training) for module in modules]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _names_in(code: types.CodeType) -> Iterator[str]:
    """Yield the names that the code and the functions inside it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _in_library(module: str | None) -> bool:
    return (module or "").split(".")[0] in LIBRARIES


def _owner(name: str) -> str:
    return name.rpartition(".")[0] or "self"
