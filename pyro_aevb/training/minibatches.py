"""The minibatches of a run: in what order they come, and how a later run takes it up at the same place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb.training.data_source import DataSet, Stream

PartOf = Callable[[int], slice]  # from the size of a minibatch to the part of it that this process takes


class Minibatch(NamedTuple):
    """What model and guide take (this process's part of it), and the places of datapoints that have one.

    A data set that draws its datapoints anew at each visit leaves that to the learner: ``args`` are what to draw from.
    ``size`` counts the datapoints of all processes; ``places`` and ``whole`` are the places of this one's and of all,
    ``None`` for a stream.
    """

    args: tuple[Tensor, ...]
    places: Tensor | None
    size: int
    whole: Tensor | None


class Permutations:
    """A :class:`DataSet` pass after pass, each a permutation, all drawn from one seed."""

    def __init__(self, data: DataSet, batch_size: int, seed: int) -> None:
        if batch_size > len(data):
            warnings.warn(
                f"batch_size {batch_size} is larger than the data set: all {len(data)} datapoints at a time",
                stacklevel=3,
            )
        self.data, self.batch_size = data, min(batch_size, len(data))
        self._generator = torch.Generator().manual_seed(seed)
        self._begin()

    def _begin(self) -> None:
        self._before = self._generator.get_state()
        order = torch.randperm(len(self.data), generator=self._generator)
        self._order, self._place = order.to(self.data.index_device), 0

    def to_check(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield what to try model and guide on before training: everything, or the beginning of what is on disk."""
        chunks = self.data.in_order(1000)
        return iter([next(chunks)]) if self.data.on_disk else chunks

    def next(self, most: int | None, part_of: PartOf) -> Minibatch | None:
        """Return the next minibatch, of ``most`` datapoints at most; the last one of a pass may be smaller."""
        if self._place >= len(self.data):
            self._begin()
        whole = self._order[self._place : self._place + self.batch_size][:most]
        self._place += len(whole)
        index = whole[part_of(len(whole))]
        return Minibatch(self.data.at(index, drawn=False), index, len(whole), whole)

    def state_dict(self) -> dict[str, Any]:
        """Return where in which pass this is."""
        return {"before": self._before, "place": self._place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to that place."""
        self._generator.set_state(state["before"])
        self._begin()
        self._place = state["place"]


class Passes:
    """A :class:`Stream` from beginning to end, ``passes`` times (``None``: again and again).

    Its place is found again by going through it once more from the beginning of the pass, with torch's random state of
    then; or by the stream itself, if it has ``state_dict`` and ``load_state_dict``.
    """

    def __init__(self, data: Stream, passes: int | None) -> None:
        self.data, self.passes = data, passes
        self._items: Iterator[tuple[Tensor, ...]] | None = None
        self._ahead: list[tuple[Tensor, ...]] = []
        self._done, self._taken = 0, 0  # passes, and minibatches of this one
        self._stateful = hasattr(data.data, "load_state_dict") and hasattr(data.data, "state_dict")

    def to_check(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield the first minibatch, which :meth:`next` will return again."""
        self._look_ahead()
        yield self._ahead[0]

    def next(self, most: int | None, part_of: PartOf) -> Minibatch | None:
        """Return the next minibatch, cut off after ``most`` datapoints; ``None`` when there are no more."""
        args = self._item()
        if args is None:
            self._done += 1
            if self._done == self.passes or self.data.once:
                return None
            self._items, self._taken = None, 0
            if (args := self._item()) is None:
                return None
        self._taken += 1
        args = tuple(a[:most] for a in args)
        size = len(args[0])
        return Minibatch(tuple(a[part_of(size)] for a in args), None, size, None)

    def state_dict(self) -> dict[str, Any]:
        """Return where in which pass this is."""
        place = {"before": self._before, "done": self._done, "taken": self._taken}
        return place | ({"stream": self.data.data.state_dict()} if self._stateful else {})  # type: ignore[attr-defined]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to that place; raise ``ValueError`` for a stream that ends before."""
        self._done, self._taken = state["done"], state["taken"]
        if self._stateful:
            self.data.data.load_state_dict(state["stream"])  # type: ignore[attr-defined]
            self._items, self._ahead = None, []
            return
        if not self.data.once:
            self._items, self._ahead = None, []
        torch.set_rng_state(state["before"])
        for i in range(self._taken):
            if self._item() is None:
                raise ValueError(
                    f"expected the stream of the run that is resumed, of {self._taken} minibatches or more, got one "
                    f"that ends after {i}"
                )
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Take the first minibatch of the first pass before the run draws any noise; no other one is taken early."""
        if self._taken == 0 and not self._ahead:
            first = self._item()
            if first is None:
                raise ValueError("expected at least one minibatch, got a stream that is empty")
            self._ahead.append(first)

    def _item(self) -> tuple[Tensor, ...] | None:
        if self._ahead:
            return self._ahead.pop()
        if self._items is None:
            self._before = torch.get_rng_state()
            self._items = self.data.in_order()
        return next(self._items, None)


def minibatches(data: DataSet | Stream, batch_size: int, seed: int, passes: int | None) -> Permutations | Passes:
    """Return the minibatches of ``data``; ``passes`` is how often to go through a stream."""
    return Permutations(data, batch_size, seed) if isinstance(data, DataSet) else Passes(data, passes)
