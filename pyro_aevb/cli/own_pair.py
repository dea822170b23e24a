"""A model and a guide of one's own on the command line: ``FILE.py:FACTORY``, a function that returns both.

The file is one that the user names, never one that stands in a run's folder, and importing it runs it.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pyro_aevb.model_guide.traces import PyroCallable

FORM = "FILE.py:FACTORY, such as model.py:pair"


class Pair(NamedTuple):
    """p(x, z) and q(z|x), or ``None``."""

    model: PyroCallable
    guide: Any


def own_pair(name: str) -> Pair:
    """Return the model and the guide that a function in a file returns.

    Args:
        name: ``FILE.py:FACTORY``.

    Raises:
        FileNotFoundError: for a file that isn't there.
        ValueError: for a name of another form, a file that can't be run, and a function that isn't there, fails, or
            returns anything else.
    """
    path, _, factory = name.rpartition(":")
    if not path.endswith(".py") or not factory.isidentifier():
        raise ValueError(f"expected {FORM}, got {name!r}; name the function in the file that returns (model, guide)")
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected {FORM}, got {path}, which isn't there; check the path")
    with _importing(Path(path)):
        module = _imported(Path(path))
        found = _called(module, path, factory)
    if not isinstance(found, tuple) or len(found) != 2 or not callable(found[0]) or not callable(found[1] or id):
        raise ValueError(
            f"expected {name} to return (model, guide), two functions, got {type(found).__name__}; end it with "
            "return model, guide"
        )
    return Pair(*found)


@contextlib.contextmanager
def _importing(path: Path) -> Iterator[None]:
    """Let a file import its neighbours, as python FILE does."""
    before = list(sys.path)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before


def _imported(path: Path) -> ModuleType:
    name = f"own_{path.stem}"  # no other module's
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anything: it is somebody's code
        del sys.modules[name]
        raise ValueError(f"expected {path} to run, got {_first_line(error)}; try python {path}") from error
    return module


def _called(module: ModuleType, path: str, factory: str) -> Any:
    functions = [
        n for n, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    fn = getattr(module, factory, None)
    if fn is None:
        close = difflib.get_close_matches(factory, functions, 1)
        remedy = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(functions) or 'none'}"
        raise ValueError(f"expected a function {factory} in {path}, got none; {remedy}")
    if not callable(fn):
        raise ValueError(
            f"expected a function {factory} in {path}, got {type(fn).__name__}; name one that returns both"
        )
    try:
        return fn()
    except Exception as error:  # likewise
        raise ValueError(
            f"expected {factory}() in {path} to return (model, guide), got {_first_line(error)}; it takes no "
            "arguments, and --debug shows where it failed"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
