"""The data of a verb: of any kind that training takes, drawn from their own stream where they are drawn.

Shapes: N datapoints, M of a minibatch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.data_source import Data, Rows, data_source
from pyro_aevb.evaluation_data import Minibatches, tell_of_order
from pyro_aevb.evidence.estimator import over_minibatches
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.random_state import OwnRandomState, forked

ROWS_AT_ONCE = 1000


def over_own_minibatches(
    model: PyroCallable,
    guide: PyroCallable | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    batch_size: int,
    options: Mapping[str, Any],
    streams: Streams,
) -> tuple[Minibatches, PyroCallable, Any]:
    """Return what :func:`.over_minibatches` does, data that are drawn anew at each visit being the same at each.

    Args:
        model: p(x, z).
        guide: q(z|x), or ``None``.
        args: the data, by position.
        kwargs: likewise, by name.
        batch_size: datapoints at a time.
        options: those that were given, by name.
        streams: the random numbers.
    """
    with forked():
        batches, its_model, its_guide = over_minibatches(model, guide, args, kwargs, batch_size, options)
    seed = streams.seed(0, "data")

    def each() -> Iterator[Rows]:
        own, source = OwnRandomState(seed), iter(batches)
        while True:
            with own.in_use():
                tensors = next(source, None)
            if tensors is None:
                return
            yield Rows(tensors, batches.form)

    return Minibatches(batches.num_data, len(batches), batches.form, each), its_model, its_guide


def rows_of(batches: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return the tensors of all minibatches in one piece each."""
    return tuple(torch.cat(each) for each in zip(*batches, strict=True))


def in_memory(data: Data, streams: Streams, *, finite: bool) -> tuple[Tensor, ...]:
    """Return the tensors of data of any kind, in one piece each.

    Args:
        data: a tensor, an array, a frame, a tuple of these, a ``Dataset``, a ``DataLoader`` or an iterable of
            minibatches.
        streams: the random numbers of data that are drawn.
        finite: whether to refuse NaN and infinite numbers.

    Raises:
        ValueError, TypeError: for what is no data.

    >>> from pyro_aevb.posterior.data import in_memory
    >>> from pyro_aevb.posterior.noise import Streams
    >>> loader = torch.utils.data.DataLoader(torch.arange(5.0), batch_size=2)
    >>> in_memory(loader, Streams(0), finite=True)
    (tensor([0., 1., 2., 3., 4.]),)
    """
    source = data_source(data, ROWS_AT_ONCE, finite=finite)
    tell_of_order(source)
    with OwnRandomState(streams.seed(0, "data")).in_use():
        found = [rows.tensors for rows in source.in_order(ROWS_AT_ONCE)]
    if not found:
        raise ValueError("expected at least one datapoint, got a stream without minibatches")
    return rows_of(found)
