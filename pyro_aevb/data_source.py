"""Data sets and streams: tensors, arrays, frames, memory-mapped files, Datasets, and loaders.

Training and evaluation take the same kinds of data, and both take them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset
from torch.utils.data import default_collate as torchs_collate

from pyro_aevb.arguments import Arguments, Form, Parts, as_arguments, take_apart
from pyro_aevb.checks import check_data
from pyro_aevb.data_parts import (
    Ascending,
    Drawn,
    Frame,
    Indexed,
    Items,
    MemoryMapped,
    Placed,
    SparseRows,
    as_numbers,
    as_tensor,
    check_unmasked,
    is_matrix,
    not_a_tensor,
    part_of,
)

Part = Tensor | np.ndarray | Frame | Indexed
Data = Part | tuple[Any, ...] | dict[str, Any] | Arguments | Dataset[Any] | Iterable[Any]


class Rows(NamedTuple):
    """Datapoints: the tensors that have them first, and the form of the arguments that are made from these."""

    tensors: tuple[Tensor, ...]
    form: Form | None


class DataSet:
    """N datapoints that can be had by index, in a new order at each pass.

    Arguments in RAM are moved to ``device`` at once; a memory-mapped array is read row by row and never whole; a
    ``torch.utils.data.Dataset`` is asked for its items, which are put together as a ``DataLoader`` does.

    Args:
        data: all of it.
        device: where to put it; as it is by default.
        finite: whether to refuse NaN and infinite numbers.

    Attributes:
        index_device: where indices belong; ``None`` for anywhere.
        draw: draws a minibatch from ``at(index, drawn=False)``; ``None`` where nothing is drawn.
    """

    def __init__(self, data: Data, device: torch.device | str | None = None, *, finite: bool = True) -> None:
        if isinstance(data, TensorDataset):
            data = data.tensors
        self.device, self._finite = device, finite
        parts, self._form = take_apart(_arguments(data), lambda part, place: part_of(part, place, device))
        if not parts:
            if self._form is not None and self._form.wholes:
                raise ValueError("expected datapoints, got a single number; pass x of shape (N, ...)")
            raise _no_data(data)
        self.parts = list(parts)
        if len(self.parts[0]) == 0:
            raise ValueError("expected at least one datapoint, got an empty data set")
        self.index_device: torch.device | None = parts[0].device if isinstance(parts[0], Placed) else None
        self._draws = tuple(part.draw if isinstance(part, Drawn) else None for part in parts)
        self.draw: DrawParts | None = DrawParts(self._draws) if any(self._draws) else None
        self.on_disk = any(isinstance(part, MemoryMapped | Ascending | Items) for part in self.parts)
        self._checked_late = self.on_disk or any(isinstance(part, SparseRows) for part in self.parts)
        self._whole_items = any(isinstance(part, Items) for part in self.parts)
        if finite and all(isinstance(part, Tensor) for part in self.parts):
            check_data(*self.parts, name="row {} of the data".format)

    def __len__(self) -> int:
        return len(self.parts[0])

    def at(self, index: Tensor, *, drawn: bool = True) -> Rows:
        """Return the datapoints at ``index`` (M,), or what :meth:`draw` makes them from."""
        found: list[Any] = []
        for part, draw in zip(self.parts, self._draws, strict=True):
            if isinstance(part, Tensor):
                found.append(as_numbers(part.index_select(0, index)))
            else:
                found.append(part[index] if draw is None or drawn else part.rows(index))
        if self._whole_items:  # which bring their own nesting
            rows = _taken_apart(self._spread(found), self.device)
        else:
            rows = Rows(tuple(t for each in found for t in _tensors(each, self.device)), self._form)
        if self._checked_late and self._finite:
            check_data(*rows.tensors, name=lambda place: f"row {int(index[place])} of the data")
        return rows

    def _spread(self, found: list[Any]) -> Arguments:
        """Return the arguments of a minibatch: the items of a ``Dataset`` are several of them, or named ones."""
        call = Arguments(*found) if self._form is None else self._form.call(found)
        args: list[Any] = []
        kwargs = dict(call.kwargs)
        for arg in call.args:
            inner = _arguments(arg, is_item=True) if any(arg is each for each in found) else Arguments(arg)
            args += inner.args
            kwargs |= inner.kwargs
        return Arguments(*args, **kwargs)

    def in_order(self, batch_size: int) -> Iterator[Rows]:
        """Yield all of it once, from the first to the last."""
        for begin in range(0, len(self), batch_size):
            yield self.at(torch.arange(begin, min(begin + batch_size, len(self)), device=self.index_device))

    def last(self, number: int) -> Iterator[Rows]:
        """Yield the last datapoints in one piece; nothing for none."""
        return iter([self.at(torch.arange(len(self) - number, len(self), device=self.index_device))] if number else [])

    @property
    def form(self) -> Form | None:
        """The form of the arguments that are made from the parts; ``None`` where these are the arguments."""
        return self._form


@dataclass(frozen=True)
class DrawParts:
    """Draws those parts of a minibatch that are drawn; equal to another that draws by the same functions."""

    draws: tuple[Callable[[Tensor], Tensor] | None, ...]

    def __call__(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Return the rows of each part, drawn where they are drawn."""
        parts = (row if draw is None else draw(row) for row, draw in zip(rows, self.draws, strict=False))
        return (*parts, *rows[len(self.draws) :])  # what all datapoints have in common comes last


class Stream:
    """An iterable of minibatches: a ``DataLoader``, a generator, anything endless."""

    def __init__(self, data: Iterable[Any], device: torch.device | str | None = None, *, finite: bool = True) -> None:
        self.data, self.device, self._finite = data, device, finite

    @property
    def once(self) -> bool:
        """True for what can be gone through once only, as a generator."""
        return isinstance(self.data, Iterator)

    @property
    def num_data(self) -> int | None:
        """The number of datapoints of a pass, if it is a loader that makes minibatches of its items in torch's way."""
        loader, batches = self.data, getattr(self.data, "batch_sampler", None)
        usual = isinstance(loader, DataLoader) and loader.collate_fn is torchs_collate
        if not usual or type(batches) is not BatchSampler or not isinstance(batches.sampler, Sized):
            return None
        number = len(batches.sampler)
        return number - (number % batches.batch_size if batches.drop_last else 0)

    @property
    def batch_size(self) -> int | None:
        """The number of datapoints of a minibatch, if a loader tells it."""
        return self.data.batch_size if isinstance(self.data, DataLoader) else None

    @property
    def shuffles(self) -> bool:
        """True for a loader that doesn't take its datapoints from the first to the last."""
        if not isinstance(self.data, DataLoader) or isinstance(self.data.dataset, IterableDataset):
            return False
        batches = self.data.batch_sampler
        sampler = self.data.sampler if batches is None else getattr(batches, "sampler", None)
        return not isinstance(sampler, SequentialSampler)

    def last(self, number: int) -> Iterator[Rows]:
        """Yield nothing: a stream has its own sizes."""
        return iter(())

    def in_order(self, batch_size: int = 0) -> Iterator[Rows]:
        """Yield all of it once, in minibatches of its own sizes."""
        for number, item in enumerate(self.data):
            rows = _taken_apart(_arguments(item, is_item=True), self.device)
            if self._finite:
                check_data(*rows.tensors, name=f"datapoint {{}} of minibatch {number}".format)
            yield rows


def data_source(
    data: Data, batch_size: int, device: torch.device | str | None = None, *, finite: bool = True
) -> DataSet | Stream:
    """Return ``data`` as what it is: a data set with indices, or a stream of minibatches.

    An ``IterableDataset`` gives datapoints and is put into minibatches; any other iterable gives minibatches.  Numbers
    that aren't ``finite`` are refused, or not.
    """
    if isinstance(data, DataSet | Stream):
        return data
    if isinstance(data, IterableDataset):
        return Stream(DataLoader(data, batch_size=batch_size), device, finite=finite)
    if (
        isinstance(data, tuple | Tensor | np.ndarray | Dataset | dict | Arguments)
        or is_matrix(data)
        or (not isinstance(data, DataLoader | str | dict | list) and isinstance(data, Indexed))
    ):
        return DataSet(data, device, finite=finite)
    if isinstance(data, Iterable) and not isinstance(data, str | dict | list):
        return Stream(data, device, finite=finite)
    raise _no_data(data)


def _no_data(data: Any) -> TypeError:
    if isinstance(data, Arguments) and len(data.args) == 1:
        data = data.args[0]
    return TypeError(
        f"expected a tensor, an array, a tuple of these, a Dataset, a DataLoader or an iterable of minibatches, got "
        f"{type(data).__name__}; {_remedy(data)}"
    )


def _remedy(data: Any) -> str:
    if isinstance(data, int | float):
        return "pass rows of data, (N, ...); to hold a share of them out, cut them: fit(learner, x[n:], x[:n])"
    if isinstance(data, str | PathLike):
        return "read the file first, numpy.load(path), or name a data set to load_dataset(name)"
    return "for example torch.as_tensor(data), or a tuple of arguments: (data,)"


def _arguments(data: Any, is_item: bool = False) -> Arguments:
    """Return data as arguments: a tuple in its order, a dict by its names; a loader's item may be a list of them."""
    if isinstance(data, Arguments):
        return data
    if isinstance(data, dict):
        return Arguments(**data)
    if isinstance(data, tuple) and not isinstance(data, PackedSequence):
        return as_arguments(data, {})
    return Arguments(*data) if is_item and isinstance(data, list) else Arguments(data)


def taken_apart(call: Arguments) -> Rows:
    """Return a minibatch that is passed as arguments, by its tensors of datapoints and the form of the rest.

    Args:
        call: what model and guide are called with.

    Raises:
        TypeError: for an argument that is neither a tensor nor a constant.
        ValueError: without a tensor of datapoints.

    >>> from pyro_aevb.arguments import Arguments
    >>> from pyro_aevb.data_source import taken_apart
    >>> rows = taken_apart(Arguments(torch.zeros(2, 3), flag=True))
    >>> len(rows.tensors), rows.form.call(rows.tensors).kwargs
    (1, {'flag': True})
    """
    if not call.kwargs and all(isinstance(arg, Tensor) and arg.dim() for arg in call.args):
        sizes = {len(arg) for arg in call.args}
        if len(sizes) == 1:  # the usual case
            return Rows(call.args, None)
    parts: Parts = take_apart(call, _same_tensor)
    if not parts.rows:
        if parts.form is not None and parts.form.wholes:
            raise ValueError("expected datapoints, got a single number; pass x of shape (M, ...)")
        raise not_a_tensor(next(iter((*call.args, *call.kwargs.values())), None), 0)
    return Rows(*parts)


def _same_tensor(value: Any, place: int) -> Tensor:
    if not isinstance(value, Tensor):
        raise not_a_tensor(value, place)
    return value


def _taken_apart(call: Arguments, device: torch.device | str | None) -> Rows:
    parts: Parts = take_apart(call, lambda item, _: _tensor(item, device))
    if not parts.rows:
        raise _no_minibatch(next(iter((*call.args, *call.kwargs.values())), None))
    return Rows(*parts)


def _tensors(item: Any, device: torch.device | str | None) -> list[Tensor]:
    """Return the tensors of a part's rows: one, or those of a tuple or list."""
    if isinstance(item, list | tuple):
        return [tensor for part in item for tensor in _tensors(part, device)]
    return [_tensor(item, device)]


def _tensor(item: Any, device: torch.device | str | None) -> Tensor:
    check_unmasked(item)
    if isinstance(item, np.ndarray):
        item = as_tensor(item)
    if not isinstance(item, Tensor):
        raise _no_minibatch(item)
    return as_numbers(item if device is None else item.to(device))


def _no_minibatch(item: Any) -> TypeError:
    return TypeError(
        f"expected minibatches of tensors, got {type(item).__name__}; give a DataLoader a collate_fn that makes "
        "what model and guide take"
    )
