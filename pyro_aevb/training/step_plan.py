"""How long a run is, and what it decides for each of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from pyro_aevb.checks import check_integers
from pyro_aevb.data_source import DataSet, Stream
from pyro_aevb.learners.step import StepSettings
from pyro_aevb.training.history import History
from pyro_aevb.training.ranks import Ranks


@dataclass(frozen=True)
class Length:
    """The length of a run, in datapoints.

    Attributes:
        total: datapoints of the whole run; ``None`` for a stream of unknown length.
        one_pass: datapoints of a pass over the data; ``None`` likewise.
        passes: how often to go through a stream; ``None``: until ``total`` is reached.
        batch_size: datapoints of a minibatch, as far as a stream tells.
    """

    total: int | None
    one_pass: int | None
    passes: int | None
    batch_size: int

    @property
    def steps(self) -> int | None:
        """The number of steps, if it is known."""
        return None if self.total is None else self.total // self.batch_size


def length_of(
    source: DataSet | Stream,
    samples: int | None,
    epochs: int | None,
    batch_size: int,
    dataset_size: int | None,
    drop_last: bool,
) -> Length:
    """Return the length of a run; arguments as for :func:`~pyro_aevb.training.fit`.

    Raises:
        TypeError: for numbers that aren't integers.
        ValueError: for sizes below 1, ``samples`` and ``epochs`` together, ``drop_last`` with a stream, several epochs
            of what can be gone through once.
    """
    check_integers(samples=samples, epochs=epochs, batch_size=batch_size, dataset_size=dataset_size)
    indexed = isinstance(source, DataSet)
    if (samples is not None and epochs is not None) or (indexed and samples is epochs):
        raise ValueError(f"expected samples or epochs, one of them, got samples={samples} and epochs={epochs}")
    for name, number in (("samples", samples), ("epochs", epochs), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise ValueError(f"expected {name} of 1 or more, got {number}")
    if isinstance(source, Stream) and source.once and (epochs or 1) > 1:
        raise ValueError(
            f"expected data that can be gone through {epochs} times, got {type(source.data).__name__}, which is gone "
            "through once; pass a DataLoader, a Dataset or an object whose __iter__ begins anew, or samples="
        )
    if drop_last and not indexed:
        raise ValueError(
            "expected a data set for drop_last, got a stream, which makes its own minibatches; pass "
            "DataLoader(..., drop_last=True)"
        )
    one_pass = len(source) if isinstance(source, DataSet) else dataset_size or source.num_data
    if drop_last and one_pass is not None:
        size = min(batch_size, one_pass)
        one_pass -= one_pass % size
        samples = None if samples is None else max(samples - samples % size, size)
    passes = (epochs or 1) if samples is None else None
    total = samples if passes is None else None if one_pass is None else passes * one_pass
    own = None if isinstance(source, DataSet) else source.batch_size
    return Length(total, one_pass, passes, own or batch_size)


class Evaluations:
    """When a run is evaluated: every so many datapoints, or at given counts of them."""

    def __init__(self, every: int | None, at: Sequence[int], one_pass: int | None) -> None:
        check_integers(evaluate_every=every)
        if every is not None and every < 1:
            raise ValueError(f"expected evaluate_every of 1 sample or more, got {every}; leave it out for each pass")
        if not isinstance(at, Iterable) or not all(hasattr(point, "__index__") for point in at):
            raise TypeError(f"expected whole numbers of samples for evaluate_at, got {at!r}; write [1000, 2000]")
        self.every, self.at = one_pass if every is None and not at else every, at

    def settings(self) -> dict[str, Any]:
        """Return what all processes must have in common."""
        return {"evaluate_every": self.every, "evaluate_at": list(self.at)}

    def next_after(self, history: History) -> float:
        """Return the count of datapoints from which the next evaluation is due."""
        last = history.records[-1].samples if history.records else 0
        due = min((point for point in self.at if point > last), default=math.inf)
        return due if self.every is None else min(due, (last // self.every + 1) * self.every)


def factor_at(schedule: Callable[[float], float], done: float) -> float:
    """Return a schedule's factor of the learning rate; ``ValueError`` for what would turn steps around, or spoil them.

    Args:
        schedule: a function of ``done``.
        done: the fraction of the run that is done.
    """
    factor = schedule(done)
    if not (isinstance(factor, SupportsFloat) and 0 <= float(factor) < math.inf):
        raise ValueError(
            f"expected a factor of the learning rate, 0 or more, from schedule at {done:.3g} of the run, got "
            f"{factor!r}; return a number, such as max(0.0, 1 - done)"
        )
    return factor


class StepPlan:
    """The settings of each step of a run.

    Args:
        total: datapoints of the whole run, if that is known.
        schedule: the learning-rate factor as a function of the fraction of the run that is done.
        clip_norm: for every step.
        kl_warm_up: datapoints over which the KL's weight grows from 0 to 1.
        device: where the KL's weight belongs.
        ranks: the processes that train together.
        sums: whether the model's loss is a sum over the minibatch, without an N.
    """

    def __init__(
        self,
        total: int | None,
        schedule: Callable[[float], float] | None,
        clip_norm: float | None,
        kl_warm_up: int | None,
        *,
        device: torch.device | str | None,
        ranks: Ranks,
        sums: bool,
    ) -> None:
        self.total, self.schedule, self.clip_norm, self.kl_warm_up = total, schedule, clip_norm, kl_warm_up
        self.ranks, self.sums = ranks, sums
        self._kl_weight: Tensor | None = None if kl_warm_up is None else torch.tensor(0.0, device=device)

    def settings(self, done: int, size: int) -> StepSettings:
        """Return the settings of the step on ``size`` datapoints that comes after ``done`` of them."""
        factor = 1.0
        if self.schedule is not None and self.total is not None:
            factor = factor_at(self.schedule, done / self.total)
        if self._kl_weight is not None and self.kl_warm_up is not None:
            self._kl_weight.fill_(min(1.0, done / self.kl_warm_up))
        return StepSettings(factor, self.clip_norm, self._kl_weight, self.ranks.share(size, self.sums))

    def options(self) -> dict[str, Any]:
        """Return what a resumed run must have in common."""
        return {"schedule": self.schedule, "clip_norm": self.clip_norm, "kl_warm_up": self.kl_warm_up}
