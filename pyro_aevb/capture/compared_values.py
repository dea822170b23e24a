"""How values are read and compared: scalars by value, containers by what they hold, anything else by identity."""

from __future__ import annotations

import collections
import contextvars
import functools
import operator
import sys
import types
from typing import Any

import pyro
import torch

# Code and data of these packages don't change between two calls, and are large.
LIBRARIES = ("torch", "pyro", "numpy", "builtins", "collections", "functools", "typing", "abc", "logging", "re")
SCALARS = (int, float, bool, str, bytes, complex, type(None))
VALUES = (frozenset, range, torch.Size, torch.device)  # which are compared by value too
# One of these in another's place is the same if what it holds is.
CONTAINERS = (dict, collections.OrderedDict, list, set, tuple, pyro.plate)


def in_library(module: str | None) -> bool:
    """Return whether a module of this name belongs to a library, whose inside isn't watched."""
    return (module or "").split(".")[0] in LIBRARIES


class Slots:
    """The slots of an object, read like a dict."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def names(self) -> list[str]:
        """Return the slots that a class of the user's declares."""
        classes = [cls for cls in type(self._value).__mro__ if not in_library(cls.__module__)]
        slots = [vars(cls).get("__slots__", ()) for cls in classes]
        found = [name for names in slots for name in ((names,) if isinstance(names, str) else names)]
        return [name for name in found if name not in ("__dict__", "__weakref__") and hasattr(self._value, name)]

    def get(self, name: str) -> Any:
        """Return the slot's value, or ``None`` if it has none."""
        return getattr(self._value, name, None)

    def __getitem__(self, name: str) -> Any:
        return getattr(self._value, name)


class Variable:
    """The value of a context variable, read like a dict."""

    def __init__(self, variable: contextvars.ContextVar[Any]) -> None:
        self._variable = variable

    def get(self, key: Any) -> Any:
        """Return the variable's value, or ``None`` if it has none."""
        return self._variable.get(None)

    __getitem__ = get


class Contents:
    """The contents of a set, a deque, a small array or a buffer; the same object as before if they are equal."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._last = Snapshot()

    def read(self) -> Snapshot:
        """Return the contents, as something that compares by value."""
        if is_array(self._value):
            data = tuple(map(by_value, elements(self._value))) if self._value.dtype.hasobject else self._value.tobytes()
            now = Snapshot((self._value.shape, self._value.dtype.str, data))
        elif is_buffer(self._value):
            now = Snapshot((bytes(memoryview(self._value)),))
        elif isinstance(self._value, set):
            now = Snapshot((frozenset(map(by_value, self._value)),))
        else:
            now = Snapshot(map(by_value, self._value))
        if now != self._last:
            self._last = now
        return self._last


class Snapshot(tuple[Any, ...]):
    """Values that compare by value, where other tuples are told apart by identity."""


def same(values: list[Any], others: list[Any]) -> bool:
    """Return whether both lists hold the same objects in the same order."""
    return len(values) == len(others) and all(map(operator.is_, values, others))


def held(cell: types.CellType) -> Any:
    """Return what a closure's cell holds; ``None`` if its variable has no value yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def is_container(value: Any) -> bool:
    """Return whether this counts by what it holds: a container, a plate, a named tuple."""
    return type(value) in CONTAINERS or (isinstance(value, tuple) and hasattr(value, "_fields"))


def is_array(value: Any) -> bool:
    """Return whether this is an array of NumPy's, or of a class made from it; NumPy needn't have been imported."""
    return "numpy" in sys.modules and isinstance(value, sys.modules["numpy"].ndarray)


def elements(array: Any) -> list[Any]:
    """Return the Python objects in an array of NumPy's."""
    return list(array.ravel().tolist())


def is_buffer(value: Any) -> bool:
    """Return whether this gives its memory as bytes: an ``array.array``, a ``memoryview``, a number of ``ctypes``."""
    try:
        memoryview(value)
    except (TypeError, ValueError):
        return False
    return True


def is_cache(value: Any) -> bool:
    """Return whether this is a function with a cache of its results (``functools.lru_cache``)."""
    return type(value) is functools._lru_cache_wrapper


def by_value(value: Any) -> Any:
    """Return a scalar or another constant as it is, and anything else's identity."""
    if isinstance(value, (int, float, complex)):
        return type(value), value  # 1, 1.0 and True are equal
    return value if isinstance(value, (*SCALARS, *VALUES, Snapshot)) else id(value)
