"""Training on minibatches: evaluations, early stopping, checkpoints, several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from pyro_aevb.capture.capture import Compile
from pyro_aevb.capture.precision import Precision
from pyro_aevb.checks import check_integers
from pyro_aevb.data_source import Data, DataSet, Stream, data_source
from pyro_aevb.files.lock import locked
from pyro_aevb.learners.learner import Learner
from pyro_aevb.learners.schedules import CONSTANT, Schedule
from pyro_aevb.model_guide.contract import named
from pyro_aevb.objectives.sgvb import WeightedKL
from pyro_aevb.one_thread import one_thread
from pyro_aevb.training.checkpoint import Checkpoints
from pyro_aevb.training.dry_run import dry_run
from pyro_aevb.training.history import History
from pyro_aevb.training.loop import Loop
from pyro_aevb.training.minibatches import Passes, Permutations, minibatches
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.ranks import Ranks
from pyro_aevb.training.run import Run
from pyro_aevb.training.run_settings import run_settings
from pyro_aevb.training.signals import HeldSignals
from pyro_aevb.training.step_plan import Evaluations, StepPlan, length_of
from pyro_aevb.training.validation import Best, ValidationBound
from pyro_aevb.warning import warn


@one_thread
def fit(
    learner: Learner,
    train: Data,
    validation: Data | None = None,
    *,
    samples: int | None = None,
    epochs: int | None = None,
    batch_size: int = 100,
    drop_last: bool = False,
    dataset_size: int | None = None,
    device: torch.device | str | None = None,
    schedule: str | Callable[[float], float] | None = None,
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

    Every pass over a data set is a new permutation, drawn from ``seed``, unless a minibatch is all of the data, which
    then stay in their order; the last minibatch of a pass may be smaller.
    A stream is taken in its own order, and draws from states of its own of the global generators.  The noise of the
    learners comes from torch's global generator, which the caller seeds (``pyro.set_rng_seed``).

    Ctrl-C ends the run after the step in hand and keeps what there is (``History.interrupted`` tells); another one, a
    second later or more, ends it at once, without a last evaluation.  With a ``checkpoint_dir``, SIGTERM and SIGHUP end
    it likewise, and then the process, with exit code 143 or 129.  The end is written before it is evaluated, and no
    signal ends the writing.

    When it returns, learner, objective and optimizers have learned, and are otherwise as they were: learning rates,
    precision and fast path are again those from before.

    Where ``torch.distributed`` has been initialized, each process takes its part of every minibatch, in the same order
    whatever their number, with noise of its own; the first one evaluates, shows progress and writes.  The others wait
    for an evaluation as long as it takes, whatever the group's timeout.  Only the first one needs to see
    ``checkpoint_dir``.

    Args:
        learner: a :class:`~pyro_aevb.learners.Learner`: ``AEVB``, ``WakeSleep``, ``ReweightedWakeSleep``, ``MCEM`` or
            one of your own.
        train: N datapoints: a tensor, an array, a memory-mapped one (read row by row), a ``Dataset``, or anything
            indexed by a tensor of indices; a tuple of these where model and guide take more than x, a dict where they
            take it by name, :class:`~pyro_aevb.Arguments` for both.  Flags, numbers, ``None``, lists, dicts and packed
            sequences may be among them; a tensor of another length than N, or a :class:`~pyro_aevb.Shared` one, goes to
            every minibatch as it is.  Or a stream: a ``DataLoader`` or any iterable of minibatches, endless ones too,
            an ``IterableDataset`` of datapoints.
        validation: data likewise: its bound is evaluated as "validation", with "validation_standard_error".
        samples: how many datapoints to visit in all; this or ``epochs``; for a stream neither means one pass.
        epochs: how many passes to make.
        batch_size: M; one larger than N means all of the data at a time, with a warning.  A ``DataLoader`` has its own.
        drop_last: leave out what is left of a pass and doesn't make a whole minibatch.
        dataset_size: N of a stream, if that is known: for the progress bar, ``schedule`` and ``evaluate_every``.  A
            ``DataLoader`` tells its own, if it has torch's ``collate_fn``.  What Eq. (8) weighs with is the N of the
            model's plate.
        device: where minibatches go; model and guide are there already.
        schedule: learning-rate factor: ``"constant"``, ``"linear"`` or ``"cosine"``, a
            :class:`~pyro_aevb.learners.Schedule` with a warm-up too, or any function of the fraction of the run that is
            done, in [0, 1).  By default the learner's own: that of its preset, and constant for an optimizer of yours.
            A stream without an end has none, and wants the optimizers of ``pyro_aevb.learners.SCHEDULE_FREE``.
        clip_norm: the largest norm of the gradient of ``loss`` / N, a datapoint's share, over one optimizer's
            parameters; longer ones are scaled down.
        kl_warm_up: samples over which the weight of the KL grows from 0 to what it is; the learner's objective is an
            ``SGVB``, ``STL`` or ``Blend``.
        evaluate: returns named values to record.
        evaluate_every: samples between two evaluations, made at the start of the next minibatch; by default a pass.
        evaluate_at: sample counts to evaluate at instead.  The end is always one.
        validation_particles: draws from the guide for each validation datapoint.
        monitor: the value to go by, larger is better; by default "validation".
        patience: stop after so many evaluations that were no better than the best.
        keep_best: put the best evaluation's parameters back at the end.
        callbacks: called with the history after each evaluation; one that returns ``True`` ends the run.
        checkpoint_dir: a folder for checkpoints: one at the beginning, one every ``checkpoint_every`` seconds, one at
            the end, one on ctrl-C, SIGTERM and SIGHUP.
        checkpoint_every: seconds.
        checkpoints_kept: how many of them stay; 2 or more.
        resume: go on from the newest checkpoint that is whole, bit for bit as if there had been no stop (on the same
            machine, with the same arguments); begin where there is none.  What may be another argument now, and what is
            refused, stands in :data:`~pyro_aevb.training.run_settings.ON_RESUME`.  Restored are also the random
            generators and torch's schedulers that can be reached from data, pair, ``evaluate`` and ``callbacks``, and
            these themselves where they have ``state_dict`` and ``load_state_dict``.
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
            Model and guide are tried on the first minibatch, then on the others' sizes and data.
        NonFiniteLossError: for a loss that is NaN or infinite; the last checkpoint stays.
        OSError: where a checkpoint can't be written; those before stay, and the learner has what was trained.
            ``BlockingIOError`` where another run writes to the folder.

    >>> x = torch.bernoulli(torch.full((50, 6), 0.3))
    >>> vae = VAE(6, 2, hidden_dims=(8,), dataset_size=40)
    >>> learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-2))
    >>> history = fit(learner, x[:40], x[40:], epochs=2, batch_size=20, progress=False)
    >>> history.samples, [sorted(record.values) for record in history.records]
    (80, [['validation', 'validation_standard_error'], ['validation', 'validation_standard_error']])
    """
    ranks, checkpoints = Ranks(), _checkpoints(checkpoint_dir, checkpoints_kept, checkpoint_every, resume)
    ranks.check_same({"checkpoint_dir": checkpoints is not None, "resume": resume})
    with ranks.together():
        source = data_source(named(learner.model, train), batch_size, device)
        length = length_of(source, samples, epochs, batch_size, dataset_size, drop_last)
        factor = _checked(learner, source, ranks, length.total, schedule, clip_norm, kl_warm_up)
        feed = minibatches(source, batch_size, seed, length.passes, drop_last)
        bound = _bound(learner, validation, num_particles=validation_particles, device=device, compile=compile)
        best = Best(monitor or ("validation" if bound else None), patience, keep_best)
        sums = dry_run(learner, feed, ranks, length.total)
        _warn_of_other_minibatches(feed, checkpoints)
        evaluations = Evaluations(evaluate_every, evaluate_at, length.one_pass)
    plan = StepPlan(length.total, factor, clip_norm, kl_warm_up, device=device, ranks=ranks, sums=sums)
    with learner.configured(compile=compile, precision=precision, expected_steps=length.steps):
        same = feed.settings() | best.settings() | plan.options() | ({} if bound is None else bound.settings())
        settings = run_settings(learner, datapoints=length.one_pass, **same)
        others = evaluations.settings() | feed.first() | {"samples": length.total, "patience": patience}
        ranks.check_same(settings | others)
        run = Run(learner, feed, bound, evaluate, best, callbacks, ranks, checkpoints, settings)
        with _held(checkpoints, resume, ranks), ranks.noticing():
            run.start(resume)
            show = Progress(length.total, run.history.samples, progress and ranks.rank == 0, label, bar_position)
            loop = Loop(run, feed, plan, evaluations, checkpoint_every)
            loop.train(show, HeldSignals(checkpoints is not None, "" if show.bar.disable else _on_ctrl_c(checkpoints)))
    best.put(learner)
    _warn_of_an_end(run.history, samples, source)
    return run.history


def _checkpoints(folder: str | Path | None, kept: int, every: float, resume: bool) -> Checkpoints | None:
    """Return the checkpoints in a folder; ``None`` without one."""
    if not every >= 0:
        raise ValueError(f"expected seconds for checkpoint_every, 0 or more, got {every}; math.inf is never")
    if folder is None and resume:
        raise ValueError("expected a checkpoint_dir to resume from, got none; pass the folder of the run to go on with")
    return None if folder is None else Checkpoints(folder, kept)


def _factor(
    learner: Learner, schedule: str | Callable[[float], float] | None, total: int | None
) -> Callable[[float], float] | None:
    """Return the schedule as a function, ``None`` for learning rates that stay; refuse one that can't be kept."""
    chosen: Callable[[float], float] | None = Schedule(schedule) if isinstance(schedule, str) else schedule
    chosen = learner.schedule if chosen is None else chosen
    if chosen is None or chosen == CONSTANT:
        return None
    if total is None:
        raise ValueError(
            "expected a run of known length for a schedule, got a stream; pass samples, dataset_size or "
            "schedule='constant', best with optimizers that need none: pyro_aevb.learners.SCHEDULE_FREE"
        )
    for optimizer in learner.optimizers.values():
        _ = optimizer.param_groups  # which a Pyro optimizer hasn't, and says so
    return chosen


def _bound(learner: Learner, validation: Data | None, **options: Any) -> ValidationBound | None:
    return None if validation is None else ValidationBound(learner, named(learner.model, validation), **options)


def _on_ctrl_c(checkpoints: Checkpoints | None) -> str:
    """Return what is answered to ctrl-C."""
    kept = "keeps what there is"
    if checkpoints is not None:
        kept = f"writes a checkpoint to {checkpoints.folder}: resume=True, or pyro-aevb train --resume, goes on from it"
    return f"ctrl-C: the run ends after the step in hand, which may be compiling, and {kept}; once more ends it at once"


@contextmanager
def _held(checkpoints: Checkpoints | None, resume: bool, ranks: Ranks) -> Iterator[None]:
    """Keep other runs from the checkpoints' folder inside the block; the first rank holds it."""
    with ExitStack() as stack:
        with ranks.together():
            if checkpoints is not None and ranks.rank == 0:
                stack.enter_context(locked(checkpoints.folder))
                if not resume:
                    checkpoints.check_empty()
        yield


def _warn_of_other_minibatches(feed: Permutations | Passes, checkpoints: Checkpoints | None) -> None:
    if checkpoints is not None and not feed.repeats():
        warn(
            "expected data that come again from the same random states, got another first minibatch when it was read "
            "twice: a run that is resumed from these checkpoints will see other minibatches than this one would have; "
            "keep random generators in attributes of the data set, or give it state_dict and load_state_dict"
        )


def _warn_of_an_end(history: History, samples: int | None, source: DataSet | Stream) -> None:
    ended = samples is not None and history.samples < samples and isinstance(source, Stream)
    if ended and not (history.interrupted or history.stopped_early):
        warn(f"expected a stream of {samples} samples, got {history.samples}: it ended")


def _checked(
    learner: Learner,
    source: DataSet | Stream,
    ranks: Ranks,
    total: int | None,
    schedule: str | Callable[[float], float] | None,
    clip_norm: float | None,
    kl_warm_up: int | None,
) -> Callable[[float], float] | None:
    """Return the learning-rate factor of :func:`_factor`; refuse options that learner or data can't follow."""
    factor = _factor(learner, schedule, total)
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"expected a positive clip_norm, got {clip_norm}")
    check_integers(kl_warm_up=kl_warm_up)
    if kl_warm_up is not None:
        if kl_warm_up < 1:
            raise ValueError(f"expected kl_warm_up of 1 sample or more, got {kl_warm_up}")
        if not isinstance(learner.objective, WeightedKL):
            raise ValueError(
                "expected a learner whose objective weighs its KL for kl_warm_up, got "
                f"{type(learner.objective or learner).__name__}; pass AEVB(..., SGVB(kl='analytic'))"
            )
    loader = source.data if isinstance(source, Stream) else None
    if isinstance(loader, DataLoader):
        samplers = [loader.sampler, getattr(loader.batch_sampler, "sampler", None)]
        if any(getattr(sampler, "num_replicas", 1) > 1 for sampler in samplers):
            raise ValueError(
                "expected a DataLoader that gives all of the data, which fit shares out among the processes, got one "
                f"with a {type(loader.sampler).__name__}; pass DataLoader(..., shuffle=True, "
                "generator=torch.Generator().manual_seed(0))"
            )
    if ranks.size > 1 and isinstance(loader, DataLoader):
        sampler = loader.sampler
        if isinstance(sampler, RandomSampler) and sampler.generator is None:
            raise ValueError(
                "expected a DataLoader with the same order in every process, got one that shuffles by the global "
                "generator; pass DataLoader(..., generator=torch.Generator().manual_seed(0))"
            )
    return factor
