"""The training loop: minibatches, evaluations, early stopping, checkpoints, several processes."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from pyro_aevb.capture.capture import Compile
from pyro_aevb.capture.precision import Precision
from pyro_aevb.learners.learner import StepInfo
from pyro_aevb.learners.optimizer import Optimizer
from pyro_aevb.training.checkpoint import Checkpoints
from pyro_aevb.training.data_source import Data, DataSet, Stream, data_source
from pyro_aevb.training.history import History
from pyro_aevb.training.minibatches import Passes, Permutations, minibatches
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.ranks import Ranks
from pyro_aevb.training.run import Run
from pyro_aevb.training.signals import HeldSignals
from pyro_aevb.training.validation import Best, ValidationBound


class Trainable(Protocol):
    """What :func:`fit` asks of a learner; checkpoints, validation and several ranks ask for a whole ``Learner``."""

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

    def step(self, *args: Tensor, index: Tensor | None) -> StepInfo:
        """Update from a minibatch."""
        ...


def fit(
    learner: Trainable,
    train: Data,
    validation: Data | None = None,
    *,
    samples: int | None = None,
    epochs: int | None = None,
    batch_size: int = 100,
    dataset_size: int | None = None,
    device: torch.device | str | None = None,
    schedule: Callable[[float], float] | None = None,
    clip_norm: float | None = None,
    kl_warm_up: int | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    evaluate_at: Sequence[int] = (),
    validation_particles: int = 1,
    monitor: str | None = None,
    patience: int | None = None,
    keep_best: bool = False,
    callbacks: Sequence[Callable[[History], bool | None]] = (),
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: float = 60.0,
    checkpoints_kept: int = 2,
    resume: bool = False,
    seed: int = 0,
    compile: Compile | None = None,
    precision: Precision | None = None,
    progress: bool = True,
    label: str = "",
    bar_position: int | None = None,
) -> History:
    """Train ``learner`` on minibatches until ``samples`` datapoints were visited (or ``epochs`` passes made).

    Every pass over a data set is a new permutation, drawn from ``seed``; the last minibatch of a pass may be smaller.
    A stream is taken in its own order.  The noise of the learners comes from torch's global generator, which the caller
    seeds (``pyro.set_rng_seed``).

    Ctrl-C ends the run after the step in hand and keeps what there is (``History.interrupted`` tells); another one, a
    second later or more, ends it at once.  With a ``checkpoint_dir``, SIGTERM ends it likewise, and then the process,
    with exit code 143.

    Where ``torch.distributed`` has been initialized, each process takes its part of every minibatch, in the same order
    whatever their number, with noise of its own; the first one evaluates, shows progress and writes.

    Args:
        learner: an :class:`~pyro_aevb.AEVB`, :class:`~pyro_aevb.WakeSleep`, :class:`~pyro_aevb.MCEM`.
        train: N datapoints: a tensor, an array, a memory-mapped one (read row by row), a ``Dataset``, or anything
            indexed by a tensor of indices; a tuple of these where model and guide take more than x.  Or a stream: a
            ``DataLoader`` or any iterable of minibatches, endless ones too, an ``IterableDataset`` of datapoints.
        validation: data likewise: its bound is evaluated as "validation", with "validation_standard_error".
        samples: how many datapoints to visit in all; this or ``epochs``; for a stream neither means one pass.
        epochs: how many passes to make.
        batch_size: M; one larger than N means all of the data at a time, with a warning.  A ``DataLoader`` has its own.
        dataset_size: N of a stream, if that is known: for the progress bar, ``schedule`` and ``evaluate_every``.  What
            Eq. (8) weighs with is the N of the model's plate.
        device: where minibatches go; model and guide are there already.
        schedule: learning-rate factor as a function of the fraction of the run that is done, in [0, 1).
        clip_norm: the largest norm of the gradient of ``loss`` / N, a datapoint's share, over one optimizer's
            parameters; longer ones are scaled down.
        kl_warm_up: samples over which the weight of the KL grows from 0 to what it is; the learner's objective is an
            ``SGVB``.
        evaluate: returns named values to record.
        evaluate_every: samples between two evaluations, made at the start of the next minibatch; by default a pass.
        evaluate_at: sample counts to evaluate at instead.  The end is always one.
        validation_particles: draws from the guide for each validation datapoint.
        monitor: the value to go by, larger is better; by default "validation".
        patience: stop after so many evaluations that were no better than the best.
        keep_best: put the best evaluation's parameters back at the end.
        callbacks: called with the history after each evaluation; one that returns ``True`` ends the run.
        checkpoint_dir: a folder for checkpoints: one at the beginning, one every ``checkpoint_every`` seconds, one at
            the end, one on ctrl-C and SIGTERM.
        checkpoint_every: seconds.
        checkpoints_kept: how many of them stay; 2 or more.
        resume: go on from the newest checkpoint that is whole, bit for bit as if there had been no stop (on the same
            machine, with the same arguments); begin where there is none.  ``samples``, ``epochs`` may be larger now.
        seed: for the order of the data.
        compile: the fast path: ``"auto"`` (a learner's default) uses it where it pays, ``True`` from the first step,
            ``"graph"`` without a compiler, ``False`` never.
        precision: ``"bf16"`` rounds the factors of matrix products to bfloat16; densities and parameters stay as they
            are.
        progress: show a progress bar with the current bound and the time left.
        label: what stands before the bar.
        bar_position: the bar's line, where several run at once.

    Raises:
        ValueError, TypeError: before training, for sizes, data or a pair that can't be used, a checkpoint of another
            run, a folder with checkpoints and no ``resume``.
        NonFiniteLossError: for a loss that is NaN or infinite; the last checkpoint stays.
        OSError: where a checkpoint can't be written; those before stay, and the learner has what was trained.

    >>> x = torch.bernoulli(torch.full((50, 6), 0.3))
    >>> vae = VAE(6, 2, hidden_dims=(8,), dataset_size=40)
    >>> learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-2))
    >>> history = fit(learner, x[:40], x[40:], epochs=2, batch_size=20, progress=False)
    >>> history.samples, [sorted(record.values) for record in history.records]
    (80, [['validation', 'validation_standard_error'], ['validation', 'validation_standard_error']])
    """
    ranks = Ranks()
    source = data_source(train, batch_size, device)
    n = len(source) if isinstance(source, DataSet) else dataset_size
    passes = (epochs or 1) if samples is None else None
    _check_length(source, samples, epochs, batch_size)
    total = samples if passes is None else None if n is None else passes * n
    _check_options(learner, source, ranks, total, schedule, clip_norm, kl_warm_up)
    learner_ = cast(Any, learner)  # what more than Trainable is asked of it is checked above, or has its own error
    feed = minibatches(source, batch_size, seed, passes)
    if evaluate_every is None and not evaluate_at:
        evaluate_every = n
    bound = None
    if validation is not None:
        bound = ValidationBound(learner_, validation, num_particles=validation_particles, device=device)
        bound.density.configure(compile=compile)
    checkpoints = None
    if checkpoint_dir is not None:
        checkpoints = Checkpoints(checkpoint_dir, checkpoints_kept)
        if not resume:
            checkpoints.check_empty()
        ranks.any(False)  # the first one writes only when all have looked
    run = Run(
        learner,
        feed,
        bound=bound,
        evaluate=evaluate,
        best=Best(monitor or ("validation" if bound else None), patience, keep_best),
        callbacks=callbacks,
        ranks=ranks,
        checkpoints=checkpoints,
        settings={
            "learner": type(learner).__name__,
            "batch_size": batch_size,
            "seed": seed,
            "datapoints": n,
            "precision": precision or "float32",
        },
    )
    sums = _prepare(learner, feed, ranks)
    learner.configure(
        compile=compile, precision=precision, expected_steps=None if total is None else total // batch_size
    )
    if not (resume and run.resume()):
        run.begin()
    history = run.history
    due = _next_evaluation(history, evaluate_every, evaluate_at)
    written = time.monotonic()
    with ExitStack() as stack:
        if clip_norm is not None:
            stack.enter_context(_attribute(learner_, "clip_norm", clip_norm))
        if ranks.size > 1:
            stack.enter_context(_attribute(learner_, "share", None))
        if isinstance(source, DataSet) and source.draw is not None:
            stack.enter_context(_attribute(learner_.draw, "fn", source.draw))
        warm_up = None
        if kl_warm_up is not None:
            warm_up = torch.tensor(0.0, device=device)
            beta = float(learner_.objective.beta)
            stack.enter_context(_attribute(learner_.objective, "beta", warm_up))
        show = stack.enter_context(Progress(total, history.samples, progress and ranks.rank == 0, label, bar_position))
        signals = stack.enter_context(HeldSignals(terminate=checkpoints is not None))
        while (total is None or history.samples < total) and not history.stopped_early:
            late = checkpoints is not None and time.monotonic() > written + checkpoint_every
            stop, late = ranks.any(signals.interrupted or signals.terminated, late and ranks.rank == 0)
            if stop:
                break
            if history.samples >= due:
                history.stopped_early = run.record()
                show.evaluated(history.records[-1].values)
                due = _next_evaluation(history, evaluate_every, evaluate_at)
                continue
            if late:
                run.write()
                written = time.monotonic()
            minibatch = feed.next(None if total is None else total - history.samples, ranks.part_of)
            if minibatch is None:
                break
            if schedule is not None and total is not None:
                _set_learning_rates(learner.optimizers, schedule(history.samples / total))
            if kl_warm_up is not None and warm_up is not None:
                warm_up.fill_(beta * min(1.0, history.samples / kl_warm_up))
            if ranks.size > 1:
                learner_.share = ranks.share(minibatch.size, minibatch.whole, sums)
            info = learner.step(*minibatch.args, index=minibatch.places)
            bound_of_step = getattr(info, "elbo", None)
            name, value = ("-loss", -info.loss) if bound_of_step is None else ("elbo", bound_of_step)
            run.stepped(value, minibatch.size)
            show.stepped(name, value, minibatch.size)
            if learner.compile_seconds > history.compile_seconds:
                history.compile_seconds = learner.compile_seconds
                show.compiled(history.compile_seconds)
    if signals.at_once and ranks.size > 1:
        raise KeyboardInterrupt  # the others are in the middle of something too
    history.interrupted, terminated = ranks.any(signals.interrupted, signals.terminated)
    if (history.interrupted or terminated) and not signals.at_once:
        run.write()
    if terminated:
        raise SystemExit(143)
    if history.samples > (history.records[-1].samples if history.records else 0):
        run.record()
    history.seconds = run.seconds()
    if not history.interrupted:
        run.write()
        if samples is not None and history.samples < samples and not history.stopped_early:
            warnings.warn(f"expected a stream of {samples} samples, got {history.samples}: it ended", stacklevel=2)
    if run.best.parameters is not None:
        learner_.put_parameters(run.best.parameters)
    return history


def _check_length(source: DataSet | Stream, samples: int | None, epochs: int | None, batch_size: int) -> None:
    if (samples is not None and epochs is not None) or (isinstance(source, DataSet) and samples is epochs):
        raise ValueError(f"expected samples or epochs, one of them, got samples={samples} and epochs={epochs}")
    if min(n for n in (samples, epochs, 1) if n is not None) < 1 or batch_size < 1:
        got = epochs if samples is None else samples
        raise ValueError(f"expected 1 or more training samples and a batch_size of 1 or more, got {got}, {batch_size}")


def _check_options(
    learner: Trainable,
    source: DataSet | Stream,
    ranks: Ranks,
    total: int | None,
    schedule: object,
    clip_norm: float | None,
    kl_warm_up: int | None,
) -> None:
    if schedule is not None and total is None:
        raise ValueError("expected a run of known length for schedule=, got a stream; pass samples or dataset_size")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"expected a positive clip_norm, got {clip_norm}")
    if kl_warm_up is not None:
        if kl_warm_up < 1:
            raise ValueError(f"expected kl_warm_up of 1 sample or more, got {kl_warm_up}")
        if not hasattr(getattr(learner, "objective", None), "beta"):
            raise ValueError(
                "expected a learner whose objective weighs its KL for kl_warm_up, got "
                f"{type(getattr(learner, 'objective', learner)).__name__}; pass AEVB(..., SGVB(kl='analytic'))"
            )
    loader = getattr(source, "data", None)
    if ranks.size > 1 and isinstance(loader, DataLoader):
        sampler = loader.sampler
        if isinstance(sampler, RandomSampler) and sampler.generator is None:
            raise ValueError(
                "expected a DataLoader with the same order in every process, got one that shuffles by the global "
                "generator; pass DataLoader(..., generator=torch.Generator().manual_seed(0))"
            )


def _prepare(learner: Trainable, feed: Permutations | Passes, ranks: Ranks) -> bool:
    """Check model, guide and data, and tell whether the model's loss is a sum over the minibatch, without an N."""
    with torch.random.fork_rng():
        for args in feed.to_check():
            learner.prepare(*args)
        if ranks.size == 1:
            return False
        whole = cast(Any, learner)
        sizes = []
        for some in (args, tuple(a[: (len(a) + 1) // 2] for a in args)):
            whole.prepare(*some)
            sizes.append(whole.dataset_size)
    if sizes[0] != sizes[1] and whole.theta_prior is not None:
        raise ValueError(
            "expected a plate that knows N, for several processes and a prior on theta, got one of the minibatch's "
            "size; write pyro.plate('data', N, subsample_size=len(x))"
        )
    return sizes[0] != sizes[1]


def _next_evaluation(history: History, every: int | None, at: Sequence[int]) -> float:
    """Return the sample count from which the next evaluation is due."""
    last = history.records[-1].samples if history.records else 0
    due = min((point for point in at if point > last), default=math.inf)
    return due if every is None else min(due, (last // every + 1) * every)


def _set_learning_rates(optimizers: Mapping[str, Optimizer], factor: float) -> None:
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


@contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute inside the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
