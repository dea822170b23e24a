"""The data of an evaluation: all of it in minibatches, in its order, as often as it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from pyro_aevb.arguments import Form, arranged, as_arguments
from pyro_aevb.checks import check_integers
from pyro_aevb.data_source import DataSet, Rows, Stream, data_source
from pyro_aevb.warning import warn


class Minibatches:
    """All of the data of an evaluation, from the first datapoint to the last, as often as it is asked for.

    Attributes:
        num_data: N.
        form: of the arguments that a minibatch's tensors stand for.
        shuffled: whether they come from a loader that doesn't take its datapoints in their order.
    """

    def __init__(
        self,
        num_data: int,
        number: int,
        form: Form | None,
        each: Callable[[], Iterator[Rows]],
        *,
        others: Callable[[], Iterable[Rows]] = tuple,
        shuffled: bool = False,
    ) -> None:
        self.num_data, self.form, self._number, self._each, self._others = num_data, form, number, each, others
        self.shuffled = shuffled

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for rows in self._each():
            if rows.form != self.form or _brought(rows.form) != _brought(self.form):
                raise ValueError(
                    "expected minibatches that differ in their datapoints alone, got other flags, numbers or tensors "
                    "in common with one of them than with the first; evaluate each by itself"
                )
            yield rows.tensors

    def of_other_sizes(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield a minibatch of each size that the first one hasn't."""
        return (rows.tensors for rows in self._others())

    def arranged(self, fn: Any) -> Any:
        """Return a model or a guide as a function of a minibatch's tensors."""
        return arranged(fn, self.form)


def _brought(form: Form | None) -> tuple[Any, ...] | None:
    """Return the numbers, and the tensors in common by their values."""
    return None if form is None else (form.numbers, tuple((w.dtype, w.shape, w.tolist()) for w in form.wholes))


def minibatches(args: tuple[Any, ...], batch_size: int, kwargs: Mapping[str, Any] | None = None) -> Minibatches:
    """Return the data of an evaluation in minibatches.

    Args:
        args: what model and guide take, each a :data:`Part` or anything else, as :func:`.arguments.take_apart` says; or
            one tuple, ``Dataset``, ``DataLoader`` or iterable that gives all of it.  A stream has minibatches of its
            own sizes, and is read into memory.
        batch_size: M.
        kwargs: what they take by name.

    Raises:
        ValueError, TypeError: for data that can't be used: none at all, or not finite.

    >>> import numpy as np
    >>> from pyro_aevb.evaluation_data import minibatches
    >>> [len(x) for (x,) in minibatches((np.zeros((5, 2)),), 2)]
    [2, 2, 1]
    """
    call = as_arguments(args, kwargs or {})
    if not call.args and not call.kwargs:
        raise ValueError("expected at least one datapoint, got none; pass x of shape (N, ...)")
    check_integers(batch_size=batch_size)
    if batch_size < 1:
        raise ValueError(f"expected batch_size of 1 or more, got {batch_size}")
    alone = len(call.args) == 1 and not call.kwargs and not isinstance(call.args[0], (dict, list, PackedSequence, str))
    source = data_source(call.args[0] if alone else call, batch_size)
    if isinstance(source, DataSet):
        first = next(source.in_order(batch_size))
        number = -(-len(source) // batch_size)
        last = len(source) % batch_size if number > 1 else 0
        each, others = (lambda: source.in_order(batch_size)), (lambda: source.last(last))
        return Minibatches(len(source), number, first.form, each, others=others)
    tell_of_order(source)
    found = list(source.in_order())
    if not found:
        raise ValueError("expected at least one datapoint, got a stream without minibatches")
    number = sum(len(rows.tensors[0]) for rows in found)
    sizes = {len(rows.tensors[0]): rows for rows in reversed(found)}
    rest = [rows for size, rows in sizes.items() if size != len(found[0].tensors[0])]
    form, shuffled = found[0].form, source.shuffles
    return Minibatches(number, len(found), form, lambda: iter(found), others=lambda: rest, shuffled=shuffled)


def tell_of_order(source: DataSet | Stream) -> None:
    """Warn of a loader that shuffles: what is computed of each datapoint comes in an order that nobody knows.

    Args:
        source: the data of an evaluation.
    """
    if isinstance(source, Stream) and source.shuffles:
        warn(
            "expected data in their order, got a DataLoader that shuffles: the results are in the order in which it "
            "gave the datapoints, and result n isn't that of row n; pass shuffle=False, or the data set itself"
        )
