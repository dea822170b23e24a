"""Installed packages, whose code isn't watched, and the data of their objects, as far as Python can read it."""

from __future__ import annotations

import collections
import functools
import logging
import os
import random
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_aevb.capture.compared_values import SCALARS, VALUES, Slots, elements, held, in_library, is_array, is_buffer

PACKAGE = str(Path(__file__).parents[1]) + os.sep  # this one
INSTALLED = tuple(sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
SITES = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))  # a user's own among them
# Modules whose classes, made in C, hold nothing that a result could depend on, or nothing that changes.
CONSTANT = {
    *("_thread", "_multiprocessing", "operator", "_operator", "_abc", "_struct", "_weakref", "weakref", "types"),
    *("datetime", "zoneinfo", "uuid", "pathlib", "fractions", "enum", "ipaddress", "inspect", "contextlib"),
}
CONSTANT_CLASSES = {("decimal", "Decimal")}
WALKED = ("torch", "pyro")  # whose kinds of objects are looked into, whoever made them
VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
CODE = (type, types.FunctionType, types.ModuleType, types.CodeType)
MOST_BENEATH, LARGEST_CONTAINER = 200, 1000


def is_the_users(module: types.ModuleType | None) -> bool:
    """Return whether a module is neither installed nor of the standard library nor of this package."""
    if module is None or in_library(module.__name__):
        return False
    path = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if path is None:  # made by hand, or a notebook
        return getattr(module, "__spec__", None) is None
    return not is_installed_file(str(path))


def is_installed_file(path: str) -> bool:
    """Return whether a file is of an installed package, of the standard library or of this package."""
    return path.startswith((*INSTALLED, PACKAGE)) or any(site in path for site in SITES)


def packages_of(callables: Iterable[Any]) -> set[str]:
    """Return the packages that callables were written in, through partials, methods and handlers around them.

    One that is installed counts as the user's own all the same.
    """
    waiting, seen, found = list(callables), set(), set[str]()
    while waiting:
        fn = waiting.pop()
        if id(fn) in seen:
            continue
        seen.add(id(fn))
        found |= {str(getattr(each, "__module__", "")).split(".")[0] for each in (fn, type(fn))}
        if isinstance(fn, functools.partial):
            waiting.append(fn.func)
        elif isinstance(fn, types.MethodType):
            waiting += [fn.__self__, fn.__func__]
        elif isinstance(fn, types.FunctionType):
            waiting += [value for value in map(held, fn.__closure__ or ()) if callable(value)]
    return found - sys.stdlib_module_names


def is_foreign(value: Any, own: set[str]) -> bool:
    """Return whether an object is of an installed package's class, and of no kind of torch's or Pyro's.

    Args:
        value: the object.
        own: the installed packages that count as the user's.
    """
    module = type(value).__module__
    if in_library(module) or module.split(".")[0] in own or is_the_users(sys.modules.get(module)):
        return False
    if module not in sys.modules or module.split(".")[0] in ("pyro_aevb", "types"):  # a SimpleNamespace
        return False
    return not _is_walked(value)


def _is_walked(value: Any) -> bool:
    return any(base.__module__.split(".")[0] in WALKED for base in type(value).__mro__)


def is_opaque(value: Any) -> bool:
    """Return whether a value may hold what Python can't read: without attributes and slots, of a class made in C.

    >>> import decimal, re
    >>> from pyro_aevb.capture.installed import is_opaque
    >>> is_opaque(decimal.Context()), is_opaque(decimal.Decimal(1)), is_opaque(re.compile("a"))
    (True, False, False)
    """
    return not hasattr(value, "__dict__") and any(map(_hides, type(value).__mro__[:-1]))


@functools.lru_cache(maxsize=1000)
def _hides(cls: type) -> bool:
    if in_library(cls.__module__) or cls.__module__ in CONSTANT or (cls.__module__, cls.__name__) in CONSTANT_CLASSES:
        return False
    return "__slots__" not in vars(cls)


def is_out_of_reach(value: Any, within: set[int]) -> bool:
    """Return whether the data of an object is too much to be watched, or part of it can't be.

    Args:
        value: the object.
        within: gets the identities of all that is beneath it, if it is within reach.
    """
    waiting, found = [value], dict[int, Any]()
    while waiting:
        each = waiting.pop()
        if id(each) in found or isinstance(each, (*SCALARS, *VALUES, *CODE, Tensor, nn.Module, logging.Logger)):
            continue
        if isinstance(each, random.Random | torch.Generator) or _is_walked(each):
            continue
        found[id(each)] = each
        hidden = type(each) in weakref.ProxyTypes or isinstance(each, Iterator)
        if hidden or len(found) > MOST_BENEATH or (not _is_plain(each) and is_opaque(each)):
            return True
        waiting += _parts(each)
    within |= found.keys()
    return False


def _is_plain(value: Any) -> bool:
    return type(value).__module__.startswith("numpy.random") or is_array(value) or is_buffer(value)


def _parts(value: Any) -> list[Any]:
    """Return what a value is made of."""
    parts: list[Any] = [*vars(value).values()] if hasattr(value, "__dict__") else []
    slots = Slots(value)
    parts += [slots[name] for name in slots.names()]
    if isinstance(value, VIEWS):
        parts.append(value.mapping)  # type: ignore[attr-defined]  # from Python 3.10 on
    elif isinstance(value, dict | types.MappingProxyType):
        parts += value.values() if len(value) <= LARGEST_CONTAINER else ()
    elif isinstance(value, list | tuple | set | collections.deque):
        parts += value if len(value) <= LARGEST_CONTAINER else ()
    elif isinstance(value, functools.partial):
        parts += [value.func, value.args, value.keywords]
    elif isinstance(value, weakref.ref):
        parts.append(value())
    elif (owner := owner_of(value)) is not None:
        parts.append(owner)
    elif is_array(value) and value.dtype.hasobject and value.size <= LARGEST_CONTAINER:
        parts += elements(value)
    return parts


def owner_of(value: Any) -> Any:
    """Return the object that a bound method is of; ``None`` for anything else, and for a class or a module."""
    if not isinstance(value, types.MethodType | types.BuiltinMethodType | types.MethodWrapperType):
        return None
    owner = value.__self__
    return None if isinstance(owner, type | types.ModuleType) else owner


def reads_modules_by_unknown_names(names: Iterable[str], strings: Iterable[str]) -> bool:
    """Return whether code looks up a module by a name that isn't among its strings, nor its own module's."""
    names = set(names)
    looks = "import_module" in names or "__import__" in names or {"sys", "modules"} <= names
    return looks and "__name__" not in names and not any(text in sys.modules for text in strings)
