"""The training loop: minibatches in a seeded order, a schedule, evaluations on the way, progress, ctrl-C."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_aevb.capture import Compile
from pyro_aevb.contract import check_data
from pyro_aevb.kernels import Precision
from pyro_aevb.learner import StepInfo
from pyro_aevb.optimization import Optimizer


class Data(Protocol):
    """A data set that gives a minibatch for a tensor of indices; a tensor is one."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return the datapoints at ``index`` (M,), shape (M, ...)."""
        ...


class Trainable(Protocol):
    """What :func:`fit` asks of a learner."""

    optimizers: dict[str, Optimizer]

    def configure(self, *, compile: Compile | None, precision: Precision | None, expected_steps: int | None) -> None:
        """Choose how steps are computed."""
        ...

    @property
    def compile_seconds(self) -> float:
        """What tracing and compiling took so far."""
        ...

    def prepare(self, *args: Tensor) -> None:
        """Check a minibatch and the pair before anything is trained."""
        ...

    def step(self, *args: Tensor, index: Tensor) -> StepInfo:
        """Update from a minibatch."""
        ...


class Record(NamedTuple):
    """One evaluation: training ``samples`` seen, ``seconds`` since the start, and the ``values`` that came back."""

    samples: int
    seconds: float
    values: dict[str, float]


@dataclass
class History:
    """What :func:`fit` did: its evaluations, how long it took, and whether ctrl-C ended it early."""

    records: list[Record] = field(default_factory=list)
    samples: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    compile_seconds: float = 0.0
    interrupted: bool = False


def fit(
    learner: Trainable,
    data: Tensor | np.ndarray | Data | tuple[Tensor | np.ndarray | Data, ...],
    *,
    samples: int | None = None,
    epochs: int | None = None,
    batch_size: int = 100,
    schedule: Callable[[float], float] | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    evaluate_at: Sequence[int] = (),
    seed: int = 0,
    compile: Compile | None = None,
    precision: Precision | None = None,
    progress: bool = True,
    label: str = "",
    bar_position: int | None = None,
) -> History:
    """Train ``learner`` on minibatches until ``samples`` datapoints were visited (or ``epochs`` passes made).

    Every pass is a new permutation of the data, drawn from ``seed``; the noise of the learners comes from torch's
    global generator, which the caller seeds (``pyro.set_rng_seed``).  The last minibatch of a pass may be smaller.
    Ctrl-C ends the run after the step in hand and keeps what there is (``History.interrupted`` tells); another one, a
    second later or more, ends it at once.

    Args:
        learner: an :class:`~pyro_aevb.AEVB`, :class:`~pyro_aevb.WakeSleep`, :class:`~pyro_aevb.MCEM`.
        data: N datapoints: a tensor, an array, or anything indexed by a tensor of indices; a tuple of these where model
            and guide take more than x.
        samples: how many datapoints to visit in all; this or ``epochs``.
        epochs: how many passes to make.
        batch_size: M; one larger than N means all of the data at a time, with a warning.
        schedule: learning-rate factor as a function of the fraction of the run that is done, in [0, 1).
        evaluate: returns named values to record; run at the start of the next minibatch after each sample count in
            ``evaluate_at``, and at the end.
        evaluate_at: sample counts.
        seed: for the order of the data.
        compile: the fast path: ``"auto"`` (a learner's default) uses it where it pays, ``True`` from the first step,
            ``"graph"`` without a compiler, ``False`` never.
        precision: ``"bf16"`` rounds the factors of matrix products to bfloat16; densities and parameters stay as they
            are.
        progress: show a progress bar with the current bound and the time left.
        label: what stands before the bar.
        bar_position: the bar's line, where several run at once.

    Raises:
        ValueError, TypeError: before training, for sizes, data or a pair that can't be used.
        NonFiniteLossError: for a loss that is NaN or infinite.

    >>> import functools, pyro
    >>> from pyro_aevb import AEVB, VAE
    >>> pyro.set_rng_seed(0)
    >>> x = torch.bernoulli(torch.full((50, 6), 0.3))
    >>> vae = VAE(6, 2, hidden_dims=(8,), dataset_size=50)
    >>> learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-2))
    >>> fit(learner, x, epochs=2, batch_size=20, progress=False).samples
    100
    """
    parts = [
        torch.as_tensor(p) if isinstance(p, np.ndarray) else p for p in (data if isinstance(data, tuple) else (data,))
    ]
    n = len(parts[0])
    if any(len(part) != n for part in parts):
        raise ValueError(f"expected as many datapoints in each part of the data, got {[len(part) for part in parts]}")
    if n == 0:
        raise ValueError("expected at least one datapoint, got an empty data set")
    if (samples is None) == (epochs is None):
        raise ValueError(f"expected samples or epochs, one of them, got samples={samples} and epochs={epochs}")
    total = samples if samples is not None else epochs * n  # type: ignore[operator]
    if total < 1 or batch_size < 1:
        raise ValueError(
            f"expected 1 or more training samples and a batch_size of 1 or more, got {total}, {batch_size}"
        )
    if batch_size > n:
        warnings.warn(
            f"batch_size {batch_size} is larger than the data set: all {n} datapoints at a time", stacklevel=2
        )
        batch_size = n
    if all(isinstance(part, Tensor) for part in parts):
        check_data(*parts)
    with torch.random.fork_rng():
        for chunk in torch.arange(n).split(1000):
            learner.prepare(*(part[chunk] for part in parts))
    learner.configure(compile=compile, precision=precision, expected_steps=total // batch_size)

    history = History()
    pending = sorted(p for p in evaluate_at if p < total)
    bar = tqdm(
        total=total, desc=label, unit=" samples", unit_scale=True, disable=not progress, leave=False,
        position=bar_position, dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 60,
    )  # fmt: skip  # a log gets a line a minute
    show = _Display(bar)
    start = time.perf_counter()

    def record() -> None:
        began = time.perf_counter()
        values = dict(evaluate()) if evaluate is not None else {}
        history.evaluation_seconds += time.perf_counter() - began
        history.records.append(Record(history.samples, time.perf_counter() - start, values))
        show.evaluated(values)

    try:
        with _Interrupt() as interrupt:
            for index in _minibatches(n, batch_size, total, seed, getattr(parts[0], "device", None)):
                if pending and history.samples >= pending[0]:
                    pending = [p for p in pending if p > history.samples]
                    record()
                if schedule is not None:
                    _set_learning_rates(learner.optimizers, schedule(history.samples / total))
                info = learner.step(*(take(part, index) for part in parts), index=index)
                history.samples += len(index)
                if learner.compile_seconds > history.compile_seconds:
                    history.compile_seconds = learner.compile_seconds
                    show.compiled(history.compile_seconds)
                show.stepped(info, len(index))
                if interrupt.pending:
                    break
    finally:
        bar.close()
    history.interrupted = interrupt.pending
    if evaluate is not None and history.samples:
        record()
    history.seconds = time.perf_counter() - start
    return history


def take(data: Tensor | Data, index: Tensor) -> Tensor:
    """Return the datapoints at ``index``."""
    return data.index_select(0, index) if isinstance(data, Tensor) else data[index]


def _minibatches(
    n: int, batch_size: int, total: int, seed: int, device: torch.device | None = None
) -> Iterator[Tensor]:
    """Yield indices on ``device``, a permutation of the data at a time, ``total`` of them in all."""
    generator = torch.Generator().manual_seed(seed)
    left = total
    while left > 0:
        for index in torch.randperm(n, generator=generator).to(device).split(batch_size):
            yield index[:left]
            left -= len(index)
            if left <= 0:
                return


class _Interrupt:
    """Keeps ctrl-C back inside the block, until the step in hand is whole: ``pending`` tells of it."""

    def __init__(self) -> None:
        self.pending, self._since = False, math.inf
        self._previous: Any = None

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_: Any) -> None:
        if time.monotonic() > self._since + 1:  # a terminal and a parent process may both send the first
            raise KeyboardInterrupt
        self.pending, self._since = True, min(self._since, time.monotonic())

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> bool:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        if kind is not KeyboardInterrupt:
            return False
        self.pending = True
        return True


def _set_learning_rates(optimizers: Mapping[str, Optimizer], factor: float) -> None:
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


class _Display:
    """The progress bar's text: the mean bound since it was last written, and the latest evaluation."""

    interval = 0.5  # seconds

    def __init__(self, bar: Any) -> None:
        self.bar, self.evaluation = bar, ""
        self.sum: Tensor | float = 0.0
        self.count, self.written = 0, time.perf_counter()

    def stepped(self, info: StepInfo, samples: int) -> None:
        if self.bar.disable:
            return
        self.sum, self.count = self.sum + getattr(info, "elbo", info.loss), self.count + 1
        self.bar.update(samples)
        if time.perf_counter() - self.written > self.interval:
            name = "elbo" if hasattr(info, "elbo") else "loss"
            self.bar.set_postfix_str(f"{name} {float(self.sum) / self.count:.2f}{self.evaluation}", refresh=False)
            self.sum, self.count, self.written = 0.0, 0, time.perf_counter()

    def compiled(self, seconds: float) -> None:
        self.bar.set_postfix_str(f"compiled in {seconds:.1f} s")

    def evaluated(self, values: Mapping[str, float]) -> None:
        self.evaluation = "".join(f" {name} {value:.2f}" for name, value in values.items())
