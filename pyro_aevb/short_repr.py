"""Records in a line: what a notebook shows of an object with thousands of numbers.

A record's ``__repr__`` returns ``short_repr(self)``.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST = 56  # characters of a field


def short_repr(record: Any) -> str:
    """Return a dataclass or a NamedTuple in a line: numbers by their shape and mean, fields that are ``None`` left out.

    >>> from typing import NamedTuple
    >>> from pyro_aevb.short_repr import short_repr
    >>> class Codes(NamedTuple):
    ...     mean: torch.Tensor
    ...     error: torch.Tensor | None
    ...     def __repr__(self):
    ...         return short_repr(self)
    >>> Codes(torch.ones(100, 5), None)
    Codes(mean=<100 x 5, mean 1>)
    """
    names = [f.name for f in dataclasses.fields(record)] if dataclasses.is_dataclass(record) else record._fields
    fields = {name: getattr(record, name) for name in names}
    return f"{type(record).__name__}({_joined({name: value for name, value in fields.items() if value is not None})})"


def settings_repr(thing: Any) -> str:
    """Return an object in a line, by those arguments of its class that it has as attributes, other than by default.

    Args:
        thing: what ``Class(argument, option=...)`` made.
    """
    parameters = inspect.signature(type(thing)).parameters.values()
    found = {p.name: (getattr(thing, p.name), p.default) for p in parameters if hasattr(thing, p.name)}
    methods = {name for name, (value, _) in found.items() if getattr(value, "__self__", None) is thing}
    own = {
        name: value
        for name, (value, default) in found.items()
        if value is not None and name not in methods and not _same(value, default)
    }
    return f"{type(thing).__name__}({_joined(own)})"


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and not isinstance(value, Tensor) and value == default)


def _joined(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={described(value)}" for name, value in fields.items())


@functools.singledispatch
def described(value: Any) -> str:
    """Return a value in a few words.

    >>> from pyro_aevb.short_repr import described
    >>> described(torch.tensor([True, False, True])), described(("ais", "importance", "ais"))
    ('<3, 2 true>', '2 ais, 1 importance')
    """
    if inspect.isroutine(value):
        return value.__qualname__
    text = " ".join(repr(value).split())
    return text if len(text) <= MOST or hasattr(value, "_fields") else f"{text[: MOST - 4]} ..."


@described.register(float)
def _of_number(value: float) -> str:
    return f"{value:.6g}"


@described.register(Tensor)
def _of_tensor(value: Tensor) -> str:
    if value.is_meta or value.is_complex() or not value.numel():
        return f"<{_shape(value)}>"
    if value.numel() == 1:
        return f"{value.item():.6g}"
    if value.dtype == torch.bool:
        return f"<{_shape(value)}, {int(value.sum())} true>"
    return f"<{_shape(value)}, mean {value.detach().double().mean().item():.4g}>"


def _shape(value: Any) -> str:
    return " x ".join(map(str, value.shape))


@described.register(np.ndarray)
def _of_array(value: np.ndarray) -> str:
    return _of_tensor(torch.from_numpy(value)) if value.dtype.kind in "bif" else f"<{_shape(value)}>"


@described.register(dict)
def _of_dict(value: dict[Any, Any]) -> str:
    return "{" + _joined_items(list(value.items())) + "}"


def _joined_items(items: list[tuple[Any, Any]]) -> str:
    shown = ", ".join(f"{name!r}: {described(each)}" for name, each in items[:3])
    return shown + (f", and {len(items) - 3} more" if len(items) > 3 else "")


@described.register(list)
def _of_list(value: list[Any]) -> str:
    return f"<{len(value)} of {type(value[0]).__name__}>" if value else "[]"


@described.register(tuple)
def _of_tuple(value: tuple[Any, ...]) -> str:
    if hasattr(value, "_fields"):
        return repr(value)
    if value and all(isinstance(each, str) for each in value):
        return ", ".join(f"{count} {name}" for name, count in collections.Counter(value).most_common(3))
    return repr(value) if len(repr(value)) <= MOST else f"<{len(value)} of {type(value[0]).__name__}>"
