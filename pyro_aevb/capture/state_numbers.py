"""Numbers for the Python states that callables are seen in: what was read of them in one holds in that one."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, final

from pyro_aevb.capture.python_state import PythonState

MOST_STATES = 100  # that are told apart
MOST_VALUES, RUNS_A_VALUE = 8, 100  # after so many values of one, each must have had so many runs on average
SIZE = "the number of values"


@final
class StateNumbers:
    """Numbers for the Python states that callables are seen in, the same one for the same values.

    A value that goes on changing (a weight, a count, what each run leaves behind) is no longer told apart while it has
    had more than ``MOST_VALUES``, and one in ``RUNS_A_VALUE`` runs.  Values are referred to weakly where they can be.

    >>> from pyro_aevb.capture import PythonState, StateNumbers
    >>> deep = [False]
    >>> state, numbers = PythonState([lambda x: x if deep[0] else -x]), StateNumbers()
    >>> before = numbers.of(state)
    >>> deep[0] = True
    >>> numbers.of(state) == before
    False
    >>> deep[0] = False
    >>> numbers.of(state) == before
    True
    """

    def __init__(self) -> None:
        self._kept: list[_Seen] = []  # the last one first
        self._last: tuple[Any, ...] | None = None
        self._changes: Counter[str] = Counter()
        self._runs = self._number = 0

    def of(self, state: PythonState) -> int:
        """Return the number of the state that the callables are in now.

        Args:
            state: what is watched of them.
        """
        self._runs += 1
        key = state.key()
        if key is self._last:  # the usual case
            return self._kept[0].number
        self._last = key
        changed = self._changed(state, key)
        if changed or not self._kept:
            state.look()  # with the values, what there is to watch may have changed
            key = self._last = state.key()
            changed = self._changed(state, key)
        if changed or not self._kept:
            self._changes.update(set(changed))
            self._number += 1
            values = [
                _reference(value) if isinstance(its, int) else _always
                for its, value in zip(key, state.values(), strict=True)
            ]
            self._kept.insert(0, _Seen(self._number, key, values, state.names()))
            del self._kept[MOST_STATES:]
        return self._kept[0].number

    def _changed(self, state: PythonState, key: tuple[Any, ...]) -> list[str]:
        """Return what differs from the last state; a state that is the same comes first then, and nothing differs."""
        changed: list[str] = []
        for place, seen in enumerate(self._kept):
            names = seen.differing(state, key)
            if all(self._goes_on_changing(name) for name in names):
                self._kept.insert(0, self._kept.pop(place))
                return []
            changed = changed or names
        return changed

    def _goes_on_changing(self, name: str) -> bool:
        return self._changes[name] > MOST_VALUES + self._runs / RUNS_A_VALUE


class _Seen(NamedTuple):
    """A state as it was: its values and their names; functions to what is told by its identity."""

    number: int
    key: tuple[Any, ...]
    values: list[Callable[[], Any]]
    names: list[str]

    def differing(self, state: PythonState, key: tuple[Any, ...]) -> list[str]:
        """Return the names of what isn't as it was; an identity says nothing once its object is gone."""
        gone = (value() is None for value in self.values)
        if len(key) == len(self.key):
            changed = [a != b or dead for a, b, dead in zip(key, self.key, gone, strict=True)]
            return [name for name, differs in zip(self.names, changed, strict=True) if differs] if any(changed) else []
        now = dict(zip(state.names(), key, strict=False))
        then = dict(zip(self.names, zip(self.key, gone, strict=True), strict=True))
        return [SIZE, *(name for name, (value, dead) in then.items() if name in now and (dead or now[name] != value))]


def _reference(value: Any) -> Callable[[], Any]:
    """Return a function to the value, or to ``None`` once it is gone."""
    try:
        return weakref.ref(value)
    except TypeError:
        return lambda: value


def _always() -> bool:
    """Stand for a value that counts by what it is, not by its identity."""
    return True
