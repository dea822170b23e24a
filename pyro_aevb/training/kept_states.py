"""States that live in what a run is given, and not in the run: random generators, and objects that tell their state."""

from __future__ import annotations

import copy
import random
import types
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from pyro_aevb.capture.python_state import PythonState


class KeptStates:
    """The states of everything that can be reached from some objects.

    Kept are random generators (torch's, NumPy's, Python's) wherever they are reached, torch's learning-rate schedulers
    likewise, and the objects themselves if they have ``state_dict`` and ``load_state_dict``; modules apart, whose
    tensors are a learner's.

    Args:
        given: the objects; functions and methods too, whose closures and owners are looked into.
        also: further objects that may tell their state, and are not looked into.

    >>> from pyro_aevb.training.kept_states import KeptStates
    >>> generator = torch.Generator().manual_seed(0)
    >>> kept = KeptStates([lambda: torch.rand(1, generator=generator)])
    >>> state = kept.state_dict()
    >>> x = torch.rand(1, generator=generator)
    >>> kept.load_state_dict(state)
    True
    >>> torch.equal(torch.rand(1, generator=generator), x)
    True
    """

    def __init__(self, given: Iterable[Any], also: Iterable[Any] = ()) -> None:
        self._given, self._also = list(given), list(also)

    def kinds(self) -> list[str]:
        """Return the names of the classes of what has a state."""
        return _kinds(self._holders())

    def state_dict(self) -> dict[str, Any]:
        """Return the states, and the kinds of what has them."""
        holders = self._holders()
        return {"kinds": _kinds(holders), "states": [_state(each) for each in holders]}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restore a :meth:`state_dict` and return whether it is one of the same kinds; if not, nothing is done."""
        holders = self._holders()
        if _kinds(holders) != state["kinds"]:
            return False
        for each, one in zip(holders, state["states"], strict=True):
            _restore(each, one)
        return True

    def _holders(self) -> list[Any]:
        """Return what has a state, generators last: what tells its state may draw from them for it, or to restore it.

        It is looked for anew each time, since some come into being when they are first used.
        """
        owners: list[Any] = [given.__self__ if isinstance(given, types.MethodType) else given for given in self._given]
        reached = PythonState(owners)
        generators = list(filter(_is_generator, reached.generators))
        telling = list(filter(tells_its_state, self._also))  # whose state has that of its parts
        if not telling:
            telling = [each for each in reached.reached if isinstance(each, LRScheduler)]
            telling += [each for each in owners if tells_its_state(each) and not isinstance(each, LRScheduler)]
        return [*telling, *generators]


def _kinds(holders: list[Any]) -> list[str]:
    return [type(each).__name__ for each in holders]


def tells_its_state(value: Any) -> bool:
    """Return whether an object has ``state_dict`` and ``load_state_dict``, a module or a class apart."""
    both = hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    return both and not isinstance(value, nn.Module | type)


def _is_generator(value: Any) -> bool:
    """Return whether this is a random generator with a state that can be put back."""
    numpys = (np.random.Generator, np.random.RandomState, np.random.BitGenerator)
    return isinstance(value, (torch.Generator, random.Random, *numpys)) and not isinstance(value, random.SystemRandom)


def _state(holder: Any) -> Any:
    if isinstance(holder, torch.Generator):
        return holder.get_state()
    if isinstance(holder, random.Random):
        return holder.getstate()
    if isinstance(holder, np.random.Generator):
        return holder.bit_generator.state
    if isinstance(holder, np.random.RandomState):
        return holder.get_state(legacy=False)
    return holder.state if isinstance(holder, np.random.BitGenerator) else copy.deepcopy(holder.state_dict())


def _restore(holder: Any, state: Any) -> None:
    if isinstance(holder, torch.Generator | np.random.RandomState):
        holder.set_state(state)
    elif isinstance(holder, random.Random):
        holder.setstate(state)
    elif isinstance(holder, np.random.Generator):
        holder.bit_generator.state = state
    elif isinstance(holder, np.random.BitGenerator):
        holder.state = state
    else:
        holder.load_state_dict(state)
        holder.state_dict()  # torchdata's loaders go to their place when they are asked
