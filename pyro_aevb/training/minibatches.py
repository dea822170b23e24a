"""The minibatches of a run: in what order they come, and how a later run takes it up at the same place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_aevb.arguments import CONSTANTS
from pyro_aevb.checks import check_integers
from pyro_aevb.data_source import DataSet, Rows, Stream
from pyro_aevb.learners.step import Minibatch
from pyro_aevb.random_state import OwnRandomState, forked
from pyro_aevb.training.computed_permutation import ComputedPermutation
from pyro_aevb.training.kept_states import KeptStates, tells_its_state
from pyro_aevb.warning import warn

MOST_STORED = 2**24  # datapoints whose order is drawn as a whole; that of more is computed where it is needed
PartOf = Callable[[int], slice]  # from the size of a minibatch to the part of it that this process takes


class Taken(NamedTuple):
    """A minibatch, this process's part of it, and ``size``, the datapoints that all processes have of it."""

    batch: Minibatch
    size: int


class Permutations:
    """A :class:`DataSet` pass after pass, each a permutation, all drawn from one seed.

    A minibatch of all data has these in their order, in which a pair may know each by its place.
    With ``drop_last``, datapoints that are left of a pass and don't make a whole minibatch are left out.
    """

    def __init__(self, data: DataSet, batch_size: int, seed: int, drop_last: bool) -> None:
        if batch_size > len(data):
            warn(f"batch_size {batch_size} is larger than the data set: all {len(data)} datapoints at a time")
        self._numbers = {"batch_size": batch_size, "drop_last": drop_last, "seed": seed}
        self.data, self.batch_size = data, min(batch_size, len(data))
        self._one_pass = len(data) - (len(data) % self.batch_size if drop_last else 0)
        self._generator = torch.Generator().manual_seed(seed)
        self._kept = KeptStates(data.parts)
        self._begin()

    def _begin(self) -> None:
        self._before = self._generator.get_state()
        size, device = len(self.data), self.data.index_device
        self._order: Tensor | ComputedPermutation
        if self.batch_size == size:
            self._order = torch.arange(size, device=device)
        elif size <= MOST_STORED:
            self._order = torch.randperm(size, generator=self._generator).to(device)
        else:
            self._order = ComputedPermutation(size, self._generator)
        self._place = 0

    def _places(self, begin: int, end: int) -> Tensor:
        """Return which datapoints come in these places of the pass."""
        return self._order[begin:end].to(self.data.index_device)

    def settings(self) -> dict[str, Any]:
        """Return what a resumed run must have in common: its numbers, and a checksum of rows from all over the data."""
        return self._numbers | {"train": {"rows": rows_checksum(self.data), **others_of(self.data)}}

    def num_data(self) -> int | None:
        """Return N."""
        return len(self.data)

    def keeps_places(self) -> bool:
        """Return whether a datapoint has the same place in a minibatch in each pass: in one of all data."""
        return self.batch_size == len(self.data)

    def first(self) -> dict[str, str]:
        """Return a checksum of the first minibatch where :meth:`settings` has none."""
        return {}

    def repeats(self) -> bool:
        """Return whether the first minibatch comes again from the same states: what a later run relies on."""
        if not self.data.on_disk:
            return True
        state, found = self._kept.state_dict(), []
        for _ in range(2):
            with OwnRandomState(0).in_use():
                found.append(checksum(self.data.at(self._places(0, self.batch_size), drawn=False).tensors))
            self._kept.load_state_dict(state)
        return found[0] == found[1]

    def to_try(self, total: int | None, part_of: PartOf) -> list[Minibatch]:
        """Return a minibatch of each size that a run over ``total`` datapoints has, the usual size first."""
        usual, rest = min(self.batch_size, total or self.batch_size), (total or 0) % self._one_pass
        last = [self._one_pass % self.batch_size] if total is None or total >= self._one_pass else []
        sizes = dict.fromkeys([usual, *(size for size in (*last, rest % self.batch_size) if size)])
        first = self._places(0, self.batch_size)
        return [_minibatch(self.data.at(first[:size][part_of(size)])) for size in sizes]

    def everything(self, chunk: int) -> Iterator[Minibatch]:
        """Yield all of the data in chunks; none of what is on disk."""
        return iter(()) if self.data.on_disk else map(_minibatch, self.data.in_order(chunk))

    def next(self, most: int | None, part_of: PartOf) -> Taken | None:
        """Return the next minibatch, of ``most`` datapoints at most; the last one of a pass may be smaller."""
        if self._place >= self._one_pass:
            self._begin()
        places = self._places(self._place, min(self._place + self.batch_size, self._one_pass))[:most]
        self._place += len(places)
        part = places[part_of(len(places))]
        batch = _minibatch(self.data.at(part, drawn=False))
        return Taken(batch._replace(places=part, all_places=places, draw=self.data.draw), len(places))

    def state_dict(self) -> dict[str, Any]:
        """Return where in which pass this is."""
        return {"before": self._before, "place": self._place, "kept": self._kept.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to that place."""
        self._generator.set_state(state["before"])
        self._begin()
        self._place = state["place"]
        self._kept.load_state_dict(state["kept"])


class Passes:
    """A :class:`Stream` from beginning to end, ``passes`` times (``None``: again and again).

    It draws from states of its own of the global generators, so that a pass can be gone through again to the same
    minibatch: from the states that its generators and those of the stream had at its beginning.  A stream that has
    ``state_dict`` and ``load_state_dict`` finds its place by itself.
    """

    def __init__(self, data: Stream, passes: int | None) -> None:
        self.data, self.passes = data, passes
        self._items: Iterator[Rows] | None = None
        self._ahead: list[Rows] = []
        self._last: Rows | None = None
        self._done, self._taken = 0, 0  # passes before this one, and minibatches of this one
        self._finds_its_place = tells_its_state(data.data)
        with forked():
            self._random = OwnRandomState(int(torch.randint(2**32, ())))
        self._kept = KeptStates(_parts_of(data.data), also=[data.data] if isinstance(data.data, DataLoader) else [])

    def settings(self) -> dict[str, Any]:
        """Return what a resumed run must have in common: the kind of stream, a loader's own numbers."""
        stream, settings = self.data.data, dict[str, Any](stream=type(self.data.data).__name__)
        if isinstance(stream, DataLoader):
            settings |= {name: getattr(stream, name) for name in ("batch_size", "drop_last", "num_workers")}
            settings["sampler"] = type(stream.sampler).__name__
            if isinstance(stream.dataset, Sized):
                settings["datapoints"] = len(stream.dataset)
        return {"train": settings}

    def to_try(self, total: int | None, part_of: PartOf) -> list[Minibatch]:
        """Return the first minibatch, which :meth:`next` will return again."""
        self._look_ahead()
        first = _minibatch(self._ahead[0])
        return [first.take(part_of(len(first.rows[0])))]

    def everything(self, chunk: int) -> Iterator[Minibatch]:
        """Yield nothing: a stream is checked as it comes."""
        return iter(())

    def num_data(self) -> int | None:
        """Return N of a loader over a data set; ``None`` for another stream, whose minibatches may all be the same."""
        loader = self.data.data
        if not isinstance(loader, DataLoader) or not isinstance(loader.dataset, Sized):
            return None
        return len(loader.dataset)

    def keeps_places(self) -> bool:
        """Return whether a datapoint has the same place in a minibatch in each pass; true if a stream doesn't tell."""
        several = isinstance(self.data.data, Sized) and self.num_data() is not None and len(self.data.data) > 1
        return not several and not self.data.shuffles

    def first(self) -> dict[str, str]:
        """Return a checksum of the first minibatch: all processes must have the same."""
        return {"first minibatch": checksum(self._ahead[0].tensors)}

    def repeats(self) -> bool:
        """Return whether the first minibatch comes again from the same states: what a later run relies on."""
        if self.data.once or self._finds_its_place:
            return True
        first = self._ahead.pop()
        self._put(self._before)
        self._items = None
        self._look_ahead()
        return checksum(first.tensors) == checksum(self._ahead[0].tensors)

    def next(self, most: int | None, part_of: PartOf) -> Taken | None:
        """Return the next minibatch, cut off after ``most`` datapoints; ``None`` when there are no more."""
        rows = self._item()
        if rows is None:
            if self.data.once or (self.passes is not None and self._done + 1 >= self.passes):
                return None  # the pass isn't counted: a run that goes on may have more of them
            self._done += 1
            self._items, self._taken = None, 0
            if (rows := self._item()) is None:
                return None
        self._taken += 1
        self._last = rows
        batch = _minibatch(rows).take(slice(most))
        size = len(batch.rows[0])
        return Taken(batch.take(part_of(size)), size)

    def state_dict(self) -> dict[str, Any]:
        """Return where in which pass this is."""
        last = None if self._last is None or self._taken == 0 else checksum(self._last.tensors)
        states = self._states() if self._finds_its_place and not self._ahead else self._before
        return {"done": self._done, "taken": self._taken, "last": last, **states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to that place.

        Raises:
            ValueError: for another stream: one that ends before, gives other minibatches, or has other generators.
        """
        self._done, self._taken = state["done"], state["taken"]
        if not self.data.once or self._finds_its_place:
            self._items, self._ahead = None, []
        self._put(state)
        if self._finds_its_place:
            return
        for i in range(self._taken):
            self._last = self._item()
            if self._last is None:
                raise ValueError(
                    f"expected the stream of the run that is resumed, of {self._taken} minibatches or more, got one "
                    f"that ends after {i}"
                )
        if self._last is not None and state["last"] is not None and checksum(self._last.tensors) != state["last"]:
            raise ValueError(
                f"expected the stream of the run that is resumed, got another minibatch in place {self._taken}; pass "
                "the same data, or begin anew in another checkpoint_dir"
            )
        self._look_ahead()

    def _states(self) -> dict[str, Any]:
        """Return the states that minibatches are drawn from."""
        with self._random.in_use():
            kept = self._kept.state_dict()
        return {"random": self._random.state_dict(), "kept": kept}

    def _put(self, states: dict[str, Any]) -> None:
        with self._random.in_use():
            fits = self._kept.load_state_dict(states["kept"])
        self._random.load_state_dict(states["random"])
        if not fits:
            raise ValueError(
                f"expected a stream with {self._kept.kinds()} for the states of a checkpoint, got states of "
                f"{states['kept']['kinds']}; pass the same data, or begin anew in another checkpoint_dir"
            )

    def _look_ahead(self) -> None:
        """Take the first minibatch of the first pass before the run draws any noise; no other one is taken early."""
        if self._taken == 0 and not self._ahead:
            first = self._item()
            if first is None:
                raise ValueError("expected at least one minibatch, got a stream that is empty")
            self._ahead.append(first)

    def _item(self) -> Rows | None:
        if self._ahead:
            return self._ahead.pop()
        if self._items is None:
            self._before = self._states()
            self._items = self.data.in_order()
        with self._random.in_use():
            return next(self._items, None)


def _minibatch(rows: Rows) -> Minibatch:
    """Return datapoints as a learner takes them, the tensors that they have in common last."""
    wholes = () if rows.form is None else rows.form.wholes
    return Minibatch((*rows.tensors, *wholes), form=rows.form)


def _parts_of(stream: Any) -> list[Any]:
    """Return what of a stream may hold states: itself, or the parts of a loader, whose iterator is not looked into."""
    if isinstance(stream, Iterator) and not tells_its_state(stream):
        return []  # it comes anew from the caller, and has begun
    if not isinstance(stream, DataLoader):
        return [stream]
    sampling = [stream.generator, stream.sampler, stream.batch_sampler]
    return [stream.dataset, *sampling, stream.collate_fn, stream.worker_init_fn]


def rows_checksum(data: DataSet) -> str:
    """Return a checksum of rows from all over a data set; "drawn" for rows that are drawn anew when they are read."""
    number = min(len(data), 20 if data.on_disk else 1000)
    places = (torch.arange(number) * len(data) // number).to(data.index_device)
    kept, found = KeptStates(data.parts), []
    state = kept.state_dict()
    for seed in range(2):
        with OwnRandomState(seed).in_use():
            found.append(checksum(data.at(places, drawn=False).tensors))
    kept.load_state_dict(state)
    return found[0] if found[0] == found[1] else "drawn"


def others_of(data: DataSet) -> dict[str, str]:
    """Return a line of what of the arguments isn't datapoints: flags, numbers, tensors in common; empty for none."""
    form = data.form
    if form is None:
        return {}
    constants = [repr(value) if isinstance(value, CONSTANTS) else type(value).__name__ for value in form.constants]
    return {"others": f"{form.key[0]} {constants} {form.numbers} {checksum(form.wholes)}"}


def checksum(rows: Iterable[Tensor]) -> str:
    """Return a checksum of tensors: the first 16 hexadecimal digits of a SHA-256."""
    digest = hashlib.sha256()
    for each in rows:
        digest.update(f"{each.dtype} {tuple(each.shape)}".encode())
        digest.update(each.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def minibatches(
    data: DataSet | Stream, batch_size: int, seed: int, passes: int | None, drop_last: bool
) -> Permutations | Passes:
    """Return the minibatches of ``data``; ``passes`` is how often to go through a stream."""
    check_integers(seed=seed)
    if isinstance(data, DataSet):
        return Permutations(data, batch_size, seed, drop_last)
    return Passes(data, passes)
