"""The tuned settings of each learner, and what it changes to move one of them: where the presets come from.

Trains with each learner's preset (pyro_aevb.learners.PRESETS), and with each of its numbers moved alone.  The bound is
that on held-out training data, nats per datapoint, so that the test set stays out of the choice.

    python benchmarks/presets.py             # 5 minutes on 2 cores
    best of aevb, above its preset: at most 0.4 nats
    best of wake-sleep, above its preset: at most 0.4 nats

    python benchmarks/presets.py --quick     # half a minute
    bound of aevb's preset: -27.7 ± 0.6 nats

Other data take `--dataset`, other learners `--learners`, a longer run `--samples`, finalists `--seeds 0 1 2`.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import harness
import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from compare_wake_sleep import SETTINGS, Setting
from harness import Benchmark, Plan, Task, aligned, positive

from pyro_aevb import AEVB, MCEM, SGVB, STL, VAE, ReweightedWakeSleep, WakeSleep, fit
from pyro_aevb.datasets import DATASETS, Binarized, load_dataset
from pyro_aevb.evidence import elbo
from pyro_aevb.learners import PRESETS, SCHEDULE_FREE, Learner, Preset, Schedule

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LEARNERS = tuple(PRESETS)
BATCH_SIZE, HELD_OUT = 100, 0.1  # fit's default, and the part of the training data that the bound is of
THETA_SCALES = (0.1, 0.3, 1.0)
OBJECTIVES = {"L^A": SGVB, "L^B": functools.partial(SGVB, kl="analytic"), "STL": STL}
PRESET = "the preset"


class Trial(NamedTuple):
    """The settings of a run; ``theta_scale`` is that of a Gaussian prior on theta, ``objective`` AEVB's by name."""

    preset: Preset
    batch_size: int = BATCH_SIZE
    theta_scale: float | None = None
    objective: str | None = None


def trials(learner: str) -> dict[str, Trial]:
    """Return the learner's preset, and it with one number moved, by what was moved."""
    preset = PRESETS[learner]
    schedule = preset.schedule
    found = {PRESET: Trial(preset)}
    for factor in (1 / 6, 1 / 3, 2 / 3, 1.5):
        rates = {n: getattr(preset, n) for n in ("learning_rate", "guide_learning_rate")}
        moved = {name: float(f"{factor * rate:.2g}") for name, rate in rates.items() if rate is not None}
        found[f"learning rate {moved['learning_rate']:g}"] = Trial(preset._replace(**moved))
    if learner != "aevb":
        for factor in (1 / 3, 2.0):
            rate = float(f"{factor * (preset.guide_learning_rate or preset.learning_rate):.2g}")
            found[f"the guide's {rate:g}"] = Trial(preset._replace(guide_learning_rate=rate))
    for beta1 in (0.9, 0.95, 0.99):
        found[f"beta1 {beta1:g}"] = Trial(preset._replace(beta1=beta1))
    for shape in ("constant", "cosine"):
        found[f"schedule {shape}"] = Trial(preset._replace(schedule=Schedule(shape, schedule.warm_up)))
    if learner in SCHEDULE_FREE:
        found["schedule-free"] = Trial(SCHEDULE_FREE[learner])
    for warm_up in (0.0, 0.02, 0.1):
        found[f"warm-up {warm_up:g}"] = Trial(preset._replace(schedule=Schedule(schedule.shape, warm_up)))
    for batch_size in (50, 200):
        found[f"batch {batch_size}"] = Trial(preset, batch_size)
    for scale in THETA_SCALES:
        found[f"theta from N(0, {scale:g}^2)"] = Trial(preset, theta_scale=scale)
    for objective in OBJECTIVES if learner == "aevb" else ():
        found[f"objective {objective}"] = Trial(preset, objective=objective)
    return {name: trial for name, trial in found.items() if name == PRESET or trial != found[PRESET]}


def make_learner(name: str, vae: VAE, trial: Trial) -> Learner:
    """Return a learner with the optimizers and the prior of these settings."""
    optim, guide_optim = trial.preset.factory(), trial.preset.factory(guide=True)
    prior = None if trial.theta_scale is None else dist.Normal(0.0, trial.theta_scale)
    objective = None if trial.objective is None else OBJECTIVES[trial.objective]()
    make: dict[str, Callable[[], Learner]] = {
        "aevb": lambda: AEVB(vae.model, vae.guide, optim, objective, theta_prior=prior),
        "wake-sleep": lambda: WakeSleep(vae.model, vae.guide, optim, guide_optim, theta_prior=prior),
        "reweighted-wake-sleep": lambda: ReweightedWakeSleep(
            vae.model, vae.guide, optim, guide_optim, theta_prior=prior
        ),
        "mcem": lambda: MCEM(vae.model, optim, vae.guide, guide_optim, theta_prior=prior),
    }
    return make[name]()


def held_out(train: torch.Tensor | Binarized, part: float) -> tuple[torch.Tensor | Binarized, torch.Tensor]:
    """Return training data without their last part, and that, drawn once where pixels are drawn at each visit."""
    images = train.images if isinstance(train, Binarized) else train
    cut = len(images) - int(part * len(images))
    if not isinstance(train, Binarized):
        return images[:cut], images[cut:]
    last = torch.bernoulli(images[cut:], generator=torch.Generator().manual_seed(0))
    return Binarized(images[:cut]), last


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Train with one trial's settings; what ctrl-C cuts short is dropped."""
    learner, name, seed = task.key.values()
    trial = trials(learner)[name]
    train, validation = held_out(load_dataset(args.dataset, pixels=args.pixels, root=args.data).train, HELD_OUT)
    setting = SETTINGS.get(args.dataset, Setting())
    pyro.set_rng_seed(seed)
    x_dim, hidden = validation.shape[1], (setting.hidden,)
    vae = VAE(x_dim, args.latent_dim, hidden_dims=hidden, likelihood=setting.likelihood, dataset_size=len(train))
    vae, validation = vae.to(args.device), validation.to(args.device)
    history = fit(
        make_learner(learner, vae, trial),
        train,
        samples=args.samples,
        batch_size=trial.batch_size,
        schedule=trial.preset.schedule,
        evaluate=lambda: {"bound": elbo(vae.model, vae.guide, validation, seed=0).mean().value},
        evaluate_at=[args.samples],
        seed=seed,
        device=args.device,
        progress=not args.quiet,
        label=task.label,
        bar_position=position,
    )
    if history.interrupted:
        return None
    found = {"bound": round(history.records[-1].values["bound"], 3), "seconds": round(history.seconds, 1)}
    return {"runs": [task.key | found]}


# -- Results ----------------------------------------------------------------------------------------------------------


def bounds(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the mean bound over the seeds, by learner and trial."""
    found: dict[str, dict[str, list[float]]] = {}
    for r in result["runs"]:
        found.setdefault(r["learner"], {}).setdefault(r["settings"], []).append(r["bound"])
    return {learner: {name: float(np.mean(each)) for name, each in of.items()} for learner, of in found.items()}


def table(result: dict[str, Any]) -> str:
    """Return a row for each learner and trial: the bound, and what it is above the preset's."""
    rows = [["learner", "settings", "bound", "above the preset"]]
    for learner, of in bounds(result).items():
        for name, bound in of.items():
            above = f"{bound - of[PRESET]:+.2f}" if PRESET in of else ""
            rows.append([learner, name, f"{bound:.2f}", "" if name == PRESET else above])
    return aligned(rows)


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return each preset's bound, and by how much the best of the others is above it."""
    found = {}
    for learner, of in bounds(result).items():
        if PRESET in of:
            found[f"bound of {learner}'s preset"] = of[PRESET]
            found[f"best of {learner}, above its preset"] = max(of.values()) - of[PRESET]
    return found


def figure(result: dict[str, Any], path: Path) -> None:
    """Draw each trial's bound above the preset's, a panel a learner, cut where a trial is far below."""
    found = {learner: of for learner, of in bounds(result).items() if PRESET in of}
    fig, axes = plt.subplots(
        1, len(found), figsize=(1 + 4.4 * max(2, len(found)), 4.8), squeeze=False, layout="constrained"
    )
    for ax, (learner, of) in zip(axes[0], found.items(), strict=True):
        above = {name: bound - of[PRESET] for name, bound in of.items() if name != PRESET}
        low = max(min(above.values(), default=0), -3.0)
        places = range(len(above))[::-1]
        for place, value in zip(places, above.values(), strict=True):
            ax.plot(
                max(value, low), place, "o" if value >= low else "<", color="tab:blue" if value <= 0 else "tab:orange"
            )
        ax.axvline(0, color="black", lw=0.8)
        ax.set_yticks(places, list(above))
        ax.set(title=learner, xlabel="nats above the preset")
        ax.grid(alpha=0.3)
    fig.suptitle(
        f"One setting moved: {result['dataset']}, $N_z$ = {result['latent_dim']}, {result['samples']:.3g} samples"
    )
    fig.savefig(path, dpi=110)
    plt.close(fig)


# -- The command ------------------------------------------------------------------------------------------------------


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="digits")
    parser.add_argument("--pixels", help="as load_dataset has them (default: dynamic, and grey for frey-face)")
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=["aevb", "wake-sleep"])
    parser.add_argument("--latent-dim", type=positive, default=10)
    parser.add_argument("--samples", type=positive, default=100_000, help="training samples a run (default: 1e5)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="the preset, and what begins with one of these words")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--device", default="cpu")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each learner, trial and seed."""
    if args.dataset != "frey-face":
        args.pixels = args.pixels or "dynamic"
    load_dataset(args.dataset, pixels=args.pixels, root=args.data)  # fetched once
    tasks = [
        Task(f"{learner}, {name}, seed {seed}", {"learner": learner, "settings": name, "seed": seed})
        for learner in dict.fromkeys(args.learners)
        for name in trials(learner)
        if args.only is None or name == PRESET or name.startswith(tuple(args.only))
        for seed in dict.fromkeys(args.seeds)
    ]
    settings = {name: getattr(args, name) for name in ("dataset", "pixels", "latent_dim", "samples", "device")}
    return Plan(settings | {"held_out": HELD_OUT, "presets": {n: str(PRESETS[n]) for n in args.learners}}, tasks)


def brief(parts: dict[str, Any]) -> str:
    """Return a run's bound in a line."""
    (found,) = parts["runs"]
    return f"{found['bound']:.2f} nats, {found['seconds']:.0f} s"


QUICK = {"samples": 10_000, "learners": ["aevb"], "only": ["beta1"]}
BENCHMARK = Benchmark(
    __file__, __doc__, options, plan, run, table, numbers, draw=figure, brief=brief, quick=QUICK, jobs=None
)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
