"""The minibatches of a run: in what order they come, and how a later run takes it up at the same place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb.data_source import DataSet, Stream
from pyro_aevb.learners.step import Minibatch

PartOf = Callable[[int], slice]  # from the size of a minibatch to the part of it that this process takes


class Taken(NamedTuple):
    """A minibatch, this process's part of it, and ``size``, the datapoints that all processes have of it."""

    batch: Minibatch
    size: int


class Permutations:
    """A :class:`DataSet` pass after pass, each a permutation, all drawn from one seed.

    With ``drop_last``, datapoints that are left of a pass and don't make a whole minibatch are left out.
    """

    def __init__(self, data: DataSet, batch_size: int, seed: int, drop_last: bool) -> None:
        if batch_size > len(data):
            warnings.warn(
                f"batch_size {batch_size} is larger than the data set: all {len(data)} datapoints at a time",
                stacklevel=3,
            )
        self.data, self.batch_size = data, min(batch_size, len(data))
        self._one_pass = len(data) - (len(data) % self.batch_size if drop_last else 0)
        self._generator = torch.Generator().manual_seed(seed)
        self._begin()

    def _begin(self) -> None:
        self._before = self._generator.get_state()
        order = torch.randperm(len(self.data), generator=self._generator)
        self._order, self._place = order.to(self.data.index_device), 0

    def to_try(self, total: int | None, part_of: PartOf) -> list[tuple[Tensor, ...]]:
        """Return a minibatch of each size that a run over ``total`` datapoints has, the usual size first."""
        usual, rest = min(self.batch_size, total or self.batch_size), (total or 0) % self._one_pass
        last = [self._one_pass % self.batch_size] if total is None or total >= self._one_pass else []
        sizes = dict.fromkeys([usual, *(size for size in (*last, rest % self.batch_size) if size)])
        return [self.data.at(self._order[: self.batch_size][:size][part_of(size)]) for size in sizes]

    def everything(self, chunk: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield all of the data in chunks; none of what is on disk."""
        return iter(()) if self.data.on_disk else self.data.in_order(chunk)

    def next(self, most: int | None, part_of: PartOf) -> Taken | None:
        """Return the next minibatch, of ``most`` datapoints at most; the last one of a pass may be smaller."""
        if self._place >= self._one_pass:
            self._begin()
        places = self._order[self._place : min(self._place + self.batch_size, self._one_pass)][:most]
        self._place += len(places)
        part = places[part_of(len(places))]
        return Taken(Minibatch(self.data.at(part, drawn=False), part, places, self.data.draw), len(places))

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

    def to_try(self, total: int | None, part_of: PartOf) -> list[tuple[Tensor, ...]]:
        """Return the first minibatch, which :meth:`next` will return again."""
        self._look_ahead()
        return [tuple(a[part_of(len(a))] for a in self._ahead[0])]

    def everything(self, chunk: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield nothing: a stream is checked as it comes."""
        return iter(())

    def next(self, most: int | None, part_of: PartOf) -> Taken | None:
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
        return Taken(Minibatch(tuple(a[part_of(size)] for a in args)), size)

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


def minibatches(
    data: DataSet | Stream, batch_size: int, seed: int, passes: int | None, drop_last: bool
) -> Permutations | Passes:
    """Return the minibatches of ``data``; ``passes`` is how often to go through a stream."""
    if isinstance(data, DataSet):
        return Permutations(data, batch_size, seed, drop_last)
    return Passes(data, passes)
