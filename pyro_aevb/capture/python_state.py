"""The values that a Python callable reads besides its arguments: closures, globals, attributes, modules' parameters.

A graph traced from a Pyro model holds the numbers, the branches and the modules that the model's Python had at that
moment.  :class:`PythonState` sees within microseconds whether they are still the same.

What it can't see it names: code that reads the clock, has an iterator to go on with, or names an object whose data are
many or can't be read (:mod:`pyro_aevb.capture.installed`), and that may be called has :attr:`PythonState.unwatchable`
(a line in the log, and eager runs).  Not covered are files, the code and the globals of installed packages, names that
``eval`` makes up, arrays and other buffers of more than ``LARGEST_ARRAY`` bytes (:mod:`pyro_aevb.capture.reach`), and
containers of more than ``LARGEST_CONTAINER`` elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from pyro_aevb.capture.compared_values import CONTAINERS, by_value, is_container, same
from pyro_aevb.capture.reach import Reach


class PythonState:
    """The Python values that ``callables`` can reach, as they are each time :meth:`key` is called.

    Reached are closure cells, globals that the code names, default arguments, attributes of objects, private ones and
    slots too, and of their classes (``training`` of a module among them), attributes that the code names of the user's
    own modules, context variables, elements of small containers and arrays, ``os.environ``, and through these the same
    again; of installed packages the data of objects, not the code, unless one of ``callables`` was written in it.  A
    container or a plate that is made anew, with the same in it, is the same.

    Args:
        callables: functions, methods, modules and other objects that can be called.
        only_called: take in only those methods of classes that the code names, or that Python or a library calls.

    Attributes:
        modules: the torch modules that are reached.
        tensors: the tensors that are reached, parameters and buffers among them.
        generators: the random generators that are reached.
        functions: the user's functions that are reached.
        unwatchable: what can't be watched, in words; empty if there is nothing of the kind.

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

    def __init__(self, callables: Iterable[Callable[..., Any]], *, only_called: bool = False) -> None:
        self._callables, self._only_called = list(callables), only_called
        self.look()

    def look(self) -> None:
        """Find what there is to watch now."""
        self._reach = Reach(self._callables, only_called=self._only_called)
        self.modules, self.generators = self._reach.modules, self._reach.generators
        self.tensors, self.functions = self._reach.watched.tensors, self._reach.watched.functions
        self.unwatchable = self._reach.unwatchable
        self._values: list[Any] = []
        self._key: tuple[Any, ...] = ()

    def key(self) -> tuple[Any, ...]:
        """Return the values now: scalars as they are, containers by what they hold, anything else by identity.

        Whoever keeps a key keeps its :meth:`values` too: an identity says nothing once its object is gone.
        """
        values = self.values()
        if not same(values, self._values):
            if any(a is not b and isinstance(b, CONTAINERS) for a, b in zip(self._values, values, strict=False)):
                self.look()  # what is watched lies in the container that was there before
                values = self.values()
            self._values = values
            self._key = tuple(map(self._as_it_counts, values))
        return self._key

    def values(self) -> list[Any]:
        """Return the values themselves."""
        return self._reach.watched.read()

    def difference(self, key: tuple[Any, ...]) -> str:
        """Return the name of the first value that differs from that in ``key``; empty if none does."""
        return self._first_change(key, self.values()) or self._first_change(key, None)

    def _first_change(self, key: tuple[Any, ...], values: list[Any] | None) -> str:
        """Return the first name, among what is watched now; with ``values``, a new container is what it replaces."""
        now = self.key() if values is None else tuple(map(self._as_it_counts, values))
        names = self.names()
        changed = [i for i, (_, a, b) in enumerate(zip(names, now, key, strict=False)) if a != b]
        if values is not None:
            changed = [i for i in changed if self._as_it_counts(values[i], anew=True) != key[i]]
        return names[changed[0]] if changed else "what it reaches" if values is None and len(now) != len(key) else ""

    def names(self) -> list[str]:
        """Return the names of the values, in their order."""
        return self._reach.watched.names()

    def name_of(self, tensor: Tensor) -> str:
        """Return the name under which a tensor was found; a tensor that isn't reached is a parameter of the store."""
        found = self._reach.watched.tensor_names()
        return next((name for each, name in zip(self.tensors, found, strict=True) if each is tensor), "a parameter")

    @property
    def reached(self) -> list[Any]:
        """Everything that is reached but scalars, in the order in which it was found."""
        return list(self._reach.seen.values())

    def buffers(self) -> list[Tensor]:
        """Return the buffers of all modules reached: the tensors that a run usually changes in place."""
        return [buffer for module in self.modules for buffer in module._buffers.values() if buffer is not None]

    def _as_it_counts(self, value: Any, anew: bool = False) -> Any:
        """Return a value as it is compared: a container by its type, since its elements are compared themselves.

        One that isn't watched is told apart from others, unless it is to be taken for one made ``anew``.
        """
        if id(value) not in self._reach.containers and not (anew and is_container(value)):
            return by_value(value)
        if isinstance(value, tuple):  # whose elements aren't, but may be containers
            return type(value), *(self._as_it_counts(element, anew) for element in value)
        return type(value)
