"""The values that a Python callable reads besides its arguments: closures, globals, attributes, modules' parameters.

A graph traced from a Pyro model holds the numbers, the branches and the modules that the model's Python had at that
moment.  :class:`PythonState` sees within microseconds whether they are still the same.
"""

from __future__ import annotations

import functools
import logging
import operator
import os
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

# Code and data of these packages don't change between two calls, and are large.
LIBRARIES = ("torch", "pyro", "numpy", "builtins", "collections", "functools", "typing", "abc", "logging", "re")
SCALARS = (int, float, bool, str, bytes, complex, type(None))
CLOSED = (Tensor, types.ModuleType, type, logging.Logger)  # a logger leads to every other logger of the process
PACKAGE = str(Path(__file__).parents[1]) + os.sep  # and of this one
MODULE_SLOTS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
LARGEST_CONTAINER, MOST_SLOTS = 1000, 20_000


class PythonState:
    """The Python values that ``callables`` can reach, as they are each time :meth:`key` is called.

    Reached are closure cells, globals that the code names, default arguments, attributes of objects (``training`` of a
    module among them), elements of small containers, and through these the same again; not the inside of libraries.

    Args:
        callables: functions, methods, modules and other objects that can be called.

    >>> from pyro_aevb.capture import PythonState
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
        self._entries: list[tuple[dict[Any, Any], Any]] = []
        self._cells: list[types.CellType] = []
        self._sizes: list[dict[Any, Any]] = []
        self._mappings: list[dict[Any, Any]] = []
        self._sequences: list[Sequence[Any]] = []
        self._names: dict[str, list[str]] = {"entry": [], "cell": [], "size": [], "mapping": [], "sequence": []}
        self._seen: dict[int, Any] = {}
        self._values: list[Any] = []
        self._key: tuple[Any, ...] = ()
        for fn in callables:
            self._visit(fn, getattr(fn, "__name__", type(fn).__name__))

    def key(self) -> tuple[Any, ...]:
        """Return the values now: scalars as they are, anything else by identity.

        Whoever keeps a key keeps its :meth:`values` too: an identity says nothing once its object is gone.
        """
        values = self.values()
        if not (len(values) == len(self._values) and all(map(operator.is_, values, self._values))):
            self._values = values
            self._key = tuple(v if isinstance(v, SCALARS) else id(v) for v in values)
        return self._key

    def values(self) -> list[Any]:
        """Return the values themselves."""
        # Between two steps this runs with cold caches: a container is read as a whole, since each key costs a miss.
        values = [mapping.get(key) for mapping, key in self._entries]
        values += [_contents(cell) for cell in self._cells]
        values += map(len, self._sizes)
        for mapping in self._mappings:
            values.append(len(mapping))
            values.extend(mapping)
            values.extend(mapping.values())
        for sequence in self._sequences:
            values.append(len(sequence))
            values.extend(sequence)
        return values

    def difference(self, key: tuple[Any, ...]) -> str:
        """Return the name of the first value that differs from that in ``key``; empty if none does."""
        names = [name for kind in self._names.values() for name in kind]
        now = self.key()
        changed = [name for name, a, b in zip(names, now, key, strict=False) if a != b]
        return changed[0] if changed else "what it reaches" if len(now) != len(key) else ""

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
        if _in_library(fn.__module__) or fn.__code__.co_filename.startswith(PACKAGE):
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
                self._visit_entry(fn.__globals__, variable, variable)

    def _visit_entry(self, mapping: dict[Any, Any], key: Any, name: str) -> None:
        self._entries.append((mapping, key))
        self._names["entry"].append(name)
        self._visit(mapping[key], name)

    def _visit_dict(self, mapping: dict[Any, Any], template: str) -> None:
        if len(mapping) > LARGEST_CONTAINER:
            return
        names, size = [template.format(key) for key in mapping], f"the number of {template.format('*')}"
        self._mappings.append(mapping)
        self._names["mapping"] += [size, *names, *names]
        for name, value in zip(names, list(mapping.values()), strict=True):
            self._visit(value, name)

    def _visit_sequence(self, sequence: Sequence[Any], name: str) -> None:
        if len(sequence) > LARGEST_CONTAINER:
            return
        names = [f"{name}[{i}]" for i in range(len(sequence))]
        if not isinstance(sequence, tuple):
            self._sequences.append(sequence)
            self._names["sequence"] += [f"len({name})", *names]
        for element_name, value in zip(names, sequence, strict=True):
            self._visit(value, element_name)

    def _visit_object(self, value: Any, name: str) -> None:
        for cls in type(value).__mro__:
            if not _in_library(cls.__module__) and not cls.__module__.startswith("pyro_aevb."):
                for attribute in list(vars(cls).values()):
                    function = getattr(attribute, "__func__", getattr(attribute, "fget", attribute))
                    if isinstance(function, types.FunctionType):
                        self._visit(function, f"{cls.__name__}.{function.__name__}")
        if not isinstance(value, nn.Module):
            return self._visit_dict(value.__dict__, name + ".{}")
        self.modules.append(value)
        self._sizes.append(value.__dict__)
        self._names["size"].append(f"the number of {name}.*")
        for key in list(value.__dict__):
            if key in MODULE_SLOTS:  # each stays the same dict
                self._visit(value.__dict__[key], f"{name}.{key}")
            elif key[0] != "_":
                self._visit_entry(value.__dict__, key, f"{name}.{key}")


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
