"""A training run from its configuration to its folder: the model, the configuration as used, the history."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch

from pyro_aevb.cli.build import fit_options, make_learner, make_vae, with_preset
from pyro_aevb.cli.classes import CLASSES, read_classes, write_classes
from pyro_aevb.cli.config import CONFIG, OBJECTIVE_OPTIONS, TrainingConfig
from pyro_aevb.cli.data import TrainingData, training_data
from pyro_aevb.cli.options import tell
from pyro_aevb.cli.own_pair import own_pair
from pyro_aevb.cli.parts import SPLITS, write_splits
from pyro_aevb.cli.table_files import COLUMNS
from pyro_aevb.cli.units import UNITS, write_divisor
from pyro_aevb.datasets.array_files import check_folder
from pyro_aevb.datasets.columns import Column, as_text, modelled_columns
from pyro_aevb.datasets.table import read_columns, write_columns
from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.files.comma_separated import comma_separated
from pyro_aevb.learners.learner import Learner
from pyro_aevb.model_guide.bayesian import Bayesian
from pyro_aevb.plots import write_figure
from pyro_aevb.random_state import forked
from pyro_aevb.training.checkpoint import Checkpoints
from pyro_aevb.training.fit import fit
from pyro_aevb.training.history import History
from pyro_aevb.training.ranks import Ranks
from pyro_aevb.training.saved_pair import save_pair
from pyro_aevb.training.signals import HeldSignals
from pyro_aevb.training.tensorboard import TensorBoard
from pyro_aevb.vae.saving import save

CHECKPOINTS, EVENTS = "checkpoints", "tensorboard"
FIRST = 1000  # datapoints that a pair is tried on


def train(
    config: TrainingConfig,
    out: str | Path,
    *,
    resume: bool = False,
    tensorboard: bool = False,
    progress: bool = True,
) -> History:
    """Train a VAE and write it into ``out``, with config.toml, history.csv, history.png and checkpoints/.

    history.csv grows with each evaluation.  What can be wrong is found before training.  Ctrl-C saves what there is;
    SIGTERM and SIGHUP do so too and end the process.

    Args:
        config: what to train on what.
        out: a folder, made where it's missing.
        resume: go on from the newest checkpoint in ``out``, which has a config.toml.
        tensorboard: write events into ``out``/tensorboard.
        progress: show a progress bar.

    Raises:
        ValueError, OSError, NonFiniteLossError: as :func:`~pyro_aevb.training.fit`.
        SystemExit: with code 143 on SIGTERM, 129 on SIGHUP.
    """
    out, ranks = Path(out), Ranks()
    if ranks.any(resume and ranks.rank == 0 and not (out / CONFIG).exists())[0]:
        raise ValueError(
            f"expected a run in {out} to go on from, got no {CONFIG} there; check --out, or begin one without --resume"
        )
    check_device(config.device)
    data = training_data(config)
    config = with_preset(data.config)
    if progress and data.said and ranks.rank == 0:
        tell(data.said)
    built = build(config, data)
    first = ranks.rank == 0
    callbacks: list[Any] = [functools.partial(_write_table, folder=out)]
    with ExitStack() as stack:
        if first:
            stack.enter_context(_begun(out, config, data, resume))
        if first and tensorboard:
            callbacks.append(stack.enter_context(closing(TensorBoard(out / EVENTS))))
        try:
            history = fit(
                built.learner,
                *data.to_fit,
                **fit_options(config),
                callbacks=callbacks,
                checkpoint_dir=out / CHECKPOINTS,
                checkpoint_every=config.checkpoint_every,
                resume=resume,
                progress=progress,
            )
        except SystemExit:
            if first:
                with HeldSignals(terminate=True):
                    built.save(out)
            raise
    with HeldSignals(terminate=True) as signals:
        if first:
            built.save(out)
            write_config(config, out)
            write_history(history, out)
    history.interrupted = history.interrupted or signals.interrupted
    if signals.terminated:
        raise SystemExit(128 + signals.terminated)
    return history


class Built(NamedTuple):
    """The learner of a run, and what writes the model that it trains into a folder."""

    learner: Learner
    save: Callable[[Path], None]


def build(config: TrainingConfig, data: TrainingData) -> Built:
    """Return the learner of a VAE or of a pair of one's own, from the seed, tried on the first datapoints."""
    pyro.set_rng_seed(config.seed)
    built = _with_vae(config, data) if config.model is None else _with_own(config, config.model, data)
    with forked():
        built.learner.prepare(*data.first(FIRST, config.device))
    return built


def _with_vae(config: TrainingConfig, data: TrainingData) -> Built:
    """Return the learner of a VAE; ``full_vb`` saves q(theta) beside it, whose middle is then theta."""
    vae = make_vae(config, data.x_dim, len(data.train), data.image_shape, data.likelihood, len(data.classes))
    if not config.full_vb:
        return Built(make_learner(config, vae), lambda folder: save(vae, folder))
    with forked():
        full = Bayesian(vae.model, vae.guide, *data.first(2, config.device))

    def save_both(folder: Path) -> None:
        full.put_middle()
        save(vae, folder, beside=full.state_dict())

    return Built(make_learner(config, full), save_both)


def _with_own(config: TrainingConfig, name: str, data: TrainingData) -> Built:
    pyro.clear_param_store()  # of another learner's, in compare
    pair = own_pair(name)
    with forked():
        args = data.first(FIRST, config.device)
    return Built(make_learner(config, pair), lambda folder: save_pair(*pair, folder, *args))


def compare(config: TrainingConfig, learners: Sequence[str], *, progress: bool = True) -> dict[str, History]:
    """Train with each learner from the same seed on the same data and return their histories, with "validation".

    MCEM, which has no guide, gets one that is fitted beside it.  Ctrl-C ends it with those that were
    trained so far.
    """
    check_device(config.device)
    if config.validation is None:
        config = dataclasses.replace(config, validation="0.1")
    data = training_data(config)
    config = data.config
    configs = {name: _for_learner(config, name) for name in learners}
    histories: dict[str, History] = {}
    for name, one in configs.items():
        learner = build(one, data).learner
        history = fit(learner, *data.to_fit, **fit_options(one), progress=progress, label=name)
        if history.records:
            histories[name] = history
        if history.interrupted:
            break
    return histories


def write_config(config: TrainingConfig, folder: Path) -> None:
    """Write config.toml."""
    write_atomically(folder / CONFIG, config.relative_to(folder).to_toml().encode())


def _write_kinds(data: TrainingData, folder: Path) -> None:
    """Write which rows are held out, and what a table's columns, the classes of images and their units are."""
    write_splits(data.splits, folder)
    if data.columns:
        write_columns(folder / COLUMNS, data.columns)
    if data.classes:
        write_classes(folder, data.classes)
    if data.divisor is not None:
        write_divisor(folder, data.divisor)


def _check_kinds(data: TrainingData, folder: Path) -> None:
    """Raise ``ValueError`` for a table whose units or levels, or classes whose names, aren't those of the run."""
    there, now = (
        {column.name: column for column in modelled_columns(columns)}
        for columns in (read_columns(folder / COLUMNS) if data.columns else (), data.columns)
    )
    if changed := [name for name in {**there, **now} if not _alike(there.get(name), now.get(name))]:
        name = changed[0]
        got = f"column {name!r} as {now.get(name, 'none')} in place of {there.get(name, 'none')}"
    elif data.classes != (classes := read_classes(folder)):
        got = f"the classes {list(data.classes)} in place of {list(classes)}"
    else:
        return
    raise ValueError(
        f"expected {data.config.data} as it was when the run in {folder} began, got {got}; put it back as it was, or "
        "train anew in another --out"
    )


def _alike(one: Column | None, other: Column | None) -> bool:
    """Return whether two columns have the same numbers for the same cells."""
    if one is None or other is None:
        return False
    levels = [tuple(map(as_text, each.levels)) for each in (one, other)]
    return dataclasses.replace(one, levels=levels[0]) == dataclasses.replace(other, levels=levels[1])


@contextmanager
def _begun(folder: Path, config: TrainingConfig, data: TrainingData, resume: bool) -> Iterator[None]:
    """Write into a run's folder what is known before it; take it back if it never begins."""
    there = folder.exists()
    if not resume:
        _check_new(folder, config)
    check_folder(folder)
    if resume:
        _check_kinds(data, folder)
    else:
        write_config(config, folder)
        _write_kinds(data, folder)
    try:
        yield
    except Exception:
        if not resume:
            _take_back(folder, there)
        raise


def _take_back(folder: Path, there: bool) -> None:
    """Remove what was written for a run that never began, and the folder unless it was there: both are free again."""
    if len(Checkpoints(folder / CHECKPOINTS)):
        return
    for name in (CHECKPOINTS, EVENTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (CONFIG, COLUMNS, CLASSES, UNITS, SPLITS):
        (folder / name).unlink(missing_ok=True)
    if not there and not any(folder.iterdir()):
        folder.rmdir()


def write_history(history: History, folder: Path) -> None:
    """Write history.csv and history.png."""
    _write_table(history, folder)
    write_figure(history.plot(), folder / "history.png")


def _write_table(history: History, folder: Path) -> None:
    table = history.table()
    write_atomically(folder / "history.csv", comma_separated(table, zip(*table.values(), strict=True)))


def summary(history: History) -> dict[str, Any]:
    """Return the end of a run in numbers: bounds in nats per datapoint."""
    last = history.records[-1] if history.records else None
    return {
        "samples": history.samples,
        "seconds": round(history.seconds, 2),
        "interrupted": history.interrupted,
        "stopped_early": history.stopped_early,
        "training": None if last is None else last.training,
        **({} if last is None else last.values),
        "best_samples": None if history.best is None else history.best.samples,
    }


def check_device(device: str) -> None:
    """Raise ``ValueError`` unless torch can work there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"expected a device that is there, such as cpu, got {device!r}: {reason}") from error


def _check_new(folder: Path, config: TrainingConfig) -> None:
    """Raise ``ValueError`` for a folder with anything in it, but for this run's before its first checkpoint."""
    if len(Checkpoints(folder / CHECKPOINTS)):
        raise ValueError(
            f"expected a folder without an earlier run, got {folder}, which has checkpoints; pass --resume to go on "
            "from them, or another --out"
        )
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    before = folder / CONFIG
    if (
        not before.is_file()
        or before.read_text(encoding="utf-8", errors="replace") != config.relative_to(folder).to_toml()
    ):
        raise ValueError(
            f"expected a new folder or an empty one to write a run to, got {folder}, which has files of something else "
            "in it; pass another --out"
        )


def _for_learner(config: TrainingConfig, learner: str) -> TrainingConfig:
    particles = config.num_particles if learner in ("aevb", "reweighted-wake-sleep") else None
    if learner == "aevb":
        return dataclasses.replace(config, learner=learner, num_particles=particles, guide_learning_rate=None)
    without: dict[str, Any] = dict.fromkeys(("objective", *OBJECTIVE_OPTIONS))
    return dataclasses.replace(config, learner=learner, num_particles=particles, **without)
