"""AEVB against wake-sleep and Monte Carlo EM: Figure 2 of Kingma & Welling 2013.

Trains every learner at every latent size on scikit-learn's digits and prints the bounds (nats per datapoint, larger is
better): AEVB ends above wake-sleep at every size.

    python benchmarks/compare_wake_sleep.py             # under 2 minutes on 2 cores
    test bound of aevb-b, N_z = 3: -24.9 ± 0.3 nats
    test bound of aevb-b, N_z = 10: -24.8 ± 0.3 nats
    test bound of wake-sleep, N_z = 3: -26.9 ± 0.3 nats
    test bound of wake-sleep, N_z = 10: -25.9 ± 0.3 nats

    python benchmarks/compare_wake_sleep.py --quick     # half a minute
    test bound of aevb-b, N_z = 3: -27.05 ± 0.15 nats
    test bound of wake-sleep, N_z = 3: -27.40 ± 0.15 nats
    test bound of mcem, N_z = 3: -25.1 ± 0.3 nats

The paper's own figure is `--dataset mnist --samples 1e7 --latent-dims 3 5 10 20 200`; results and times are in
benchmarks/README.md.

The curves are bounds with one posterior draw a datapoint, on the whole test set and on as many training images; at most
`EVALUATION_SHARE` of the work goes into them.  MCEM has no guide: its bound is that of a guide fitted beside it to its
model (AEVB's gradient for phi, theta untouched), which MCEM itself never sees.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import curves
import harness
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from curves import Line
from harness import Benchmark, Plan, Task, aligned, positive, rate
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from tqdm import tqdm

from pyro_aevb import AEVB, MCEM, STL, VAE, Blend, WakeSleep
from pyro_aevb.capture import PRECISIONS
from pyro_aevb.datasets import DATASETS, PIXELS, Binarized, ImageData, load_dataset
from pyro_aevb.evidence import elbo
from pyro_aevb.learners import PAPER, PRESETS, Preset
from pyro_aevb.training import fit

COMPILE = {"auto": "auto", "always": True, "graph": "graph", "never": False}
LONGEST_FIRST = ("mcem", "wake-sleep", "aevb-a", "aevb", "aevb-stl", "aevb-b")
PAPERS = ("aevb-a", "aevb-b", "wake-sleep", "mcem")
LEARNERS = ("aevb", "aevb-a", "aevb-b", "aevb-stl", "wake-sleep", "mcem")
LABELS = {"aevb": "AEVB", "aevb-a": "AEVB ($L^A$)", "aevb-b": "AEVB ($L^B$)", "aevb-stl": "AEVB (STL)"}
LABELS |= {"wake-sleep": "Wake-sleep", "mcem": "MCEM"}
COLORS = {"aevb": "black", "aevb-a": "tab:orange", "aevb-b": "#b24502", "aevb-stl": "tab:purple"}
COLORS |= {"wake-sleep": "tab:blue", "mcem": "tab:gray"}
PUBLISHED = {"mnist": "MNIST", "frey-face": "Frey"}  # names of the paper's panels
BATCH_SIZE = 100
EVALUATION_SHARE = 0.03


class Setting(NamedTuple):
    """What the paper sets for a data set: hidden units and likelihood.

    ``theta_scale`` is that of the Gaussian prior on theta in the modern preset, where there is one: presets.py has it.
    """

    hidden: int = 500
    likelihood: str = "bernoulli"
    theta_scale: float | None = None


SETTINGS = {
    "digits": Setting(hidden=100),
    "frey-face": Setting(hidden=200, likelihood="sigmoid-gaussian", theta_scale=0.1),
}
OBJECTIVES = {"aevb": Blend, "aevb-a": Trace_ELBO, "aevb-b": TraceMeanField_ELBO, "aevb-stl": STL}  # "aevb": by default
NAMES = dict.fromkeys(OBJECTIVES, "aevb")  # of learners in the library's presets


def make_learner(
    name: str,
    vae: VAE,
    preset: str,
    learning_rate: float | None = None,
    *,
    theta_scale: float | None = None,
    fused: bool = True,
    guide_beside_mcem: bool = True,
) -> AEVB | WakeSleep | MCEM:
    """Return the learner over ``vae`` with the optimizers and the prior on theta of a preset.

    ``theta_scale`` is that of the prior in the modern preset; the paper's is N(0, 1).
    """
    settings = settings_of(name, preset, learning_rate)
    optim, guide_optim = settings.factory(fused=fused), settings.factory(guide=True, fused=fused)
    scale = 1.0 if preset == "paper" else theta_scale
    prior = None if scale is None else dist.Normal(0.0, scale)
    if name == "wake-sleep":
        return WakeSleep(vae.model, vae.guide, optim, guide_optim, theta_prior=prior)
    if name == "mcem":
        if not guide_beside_mcem:
            return MCEM(vae.model, optim, theta_prior=prior)
        return MCEM(vae.model, optim, vae.guide, guide_optim, guide_objective=TraceMeanField_ELBO(), theta_prior=prior)
    return AEVB(vae.model, vae.guide, optim, OBJECTIVES[name](), theta_prior=prior)


def settings_of(name: str, preset: str, learning_rate: float | None = None) -> Preset:
    """Return the library's settings of a learner, with another learning rate for both halves if there is one."""
    settings = (PAPER if preset == "paper" else PRESETS)[NAMES.get(name, name)]
    if learning_rate is None:
        return settings
    return settings._replace(learning_rate=learning_rate, guide_learning_rate=None)


def cross_entropy(logits: torch.Tensor) -> dist.TorchDistribution:
    """Return Bernoulli "densities" of grey pixels, x log p + (1 - x) log(1 - p), which don't integrate to 1."""
    return dist.Bernoulli(logits=logits, validate_args=False).to_event(1)


load = functools.lru_cache(maxsize=1)(load_dataset)  # for the plan and for each run of this process


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Train and evaluate one task; return its record, curve and all, unless ctrl-C came before its first evaluation."""
    learner, latent_dim, seed = task.key.values()
    data = load(args.dataset, pixels=args.pixels, root=args.data)
    setting = SETTINGS.get(args.dataset, Setting())
    grey = args.pixels == "grey" and setting.likelihood == "bernoulli"
    pyro.set_rng_seed(seed)
    vae = VAE(
        data.test.shape[1],
        latent_dim,
        hidden_dims=(setting.hidden,),
        likelihood=cross_entropy if grey else setting.likelihood,
        init=args.preset,
        dataset_size=len(data.train),
    ).to(args.device)
    history = fit(
        make_learner(
            learner,
            vae,
            args.preset,
            args.learning_rate,
            theta_scale=setting.theta_scale,
            fused=args.device == "cpu" or args.preset != "paper",
        ),
        data.train,
        samples=args.samples,
        batch_size=min(BATCH_SIZE, len(data.train)),
        schedule=settings_of(learner, args.preset).schedule,
        evaluate=evaluation(vae, data, args.device),
        evaluate_at=evaluation_points(args.samples, data),
        seed=seed,
        device=args.device,
        compile=COMPILE[args.compile],
        precision=args.precision,
        progress=not args.quiet,
        label=task.label,
        bar_position=position,
        **harness.going_on(args, task),
    )
    return {"runs": [task.key | curves.record(history, "_elbo")]} if history.records else None


def evaluation(vae: VAE, data: ImageData, device: str) -> Callable[[], dict[str, float]]:
    """Return a function that gives the bounds on training, test and validation images, always with the same noise."""
    if isinstance(data.train, Binarized):
        generator = torch.Generator().manual_seed(0)
        train = torch.bernoulli(data.train.images[: len(data.test)], generator=generator)
    else:
        train = data.train[: len(data.test)]
    parts = {"train": train, "test": data.test}
    if data.validation is not None:
        parts["validation"] = data.validation
    parts = {name: x.to(device) for name, x in parts.items()}
    return lambda: {name: elbo(vae.model, vae.guide, x, seed=0).mean().value for name, x in parts.items()}


def evaluation_points(samples: int, data: ImageData) -> list[int]:
    """Return sample counts for evaluations, evenly spaced on a log scale, few enough to keep to their share of work."""
    evaluated = 2 * len(data.test) + (0 if data.validation is None else len(data.validation))
    affordable = EVALUATION_SHARE * samples / (evaluated / 3)  # forward only: a third of a step's work
    count = int(min(40, max(4, affordable)))
    points = np.geomspace(min(samples, max(10 * BATCH_SIZE, samples / 300)), samples, count)
    return sorted({int(p) for p in points})


# -- Results ----------------------------------------------------------------------------------------------------------


def summary(run: dict[str, Any]) -> dict[str, float]:
    """Return a run's last bounds, and those at its best validation bound where there is one."""
    last = run["curve"][-1]
    result = {"train": last["train_elbo"], "test": last["test_elbo"]}
    if "validation_elbo" in last:
        best = max(run["curve"], key=lambda point: point["validation_elbo"])
        result |= {"best_test": best["test_elbo"], "best_samples": best["samples"]}
    return result


def published(dataset: str, latent_dim: int) -> dict[str, list[list[float]]]:
    """Return the paper's curves of a data set and a latent size."""
    return curves.published(f"{PUBLISHED.get(dataset, '')} Nz={latent_dim}")


def published_at(dataset: str, run: dict[str, Any]) -> float | None:
    """Return the paper's test bound at the run's last sample count."""
    name = ({"wake-sleep": "WS test"} | dict.fromkeys(OBJECTIVES, "AEVB test")).get(run["learner"])
    curve = published(dataset, run["latent_dim"]).get(name)
    return None if curve is None else curves.at(curve, run["curve"][-1]["samples"])


def table(result: dict[str, Any]) -> str:
    """Return the results as a table, nats per datapoint."""
    with_validation = any("best_test" in summary(r) for r in result["runs"])
    with_paper = any(published_at(result["dataset"], r) is not None for r in result["runs"])
    header = ["N_z", "learner", "seed", "samples", "train", "test"]
    header += ["test at best validation"] * with_validation + ["paper's test"] * with_paper + ["seconds"]
    rows = [header]
    for r in sorted(result["runs"], key=lambda r: (r["latent_dim"], LEARNERS.index(r["learner"]), r["seed"])):
        s = summary(r)
        row = [str(r["latent_dim"]), r["learner"], str(r["seed"]), f"{r['curve'][-1]['samples']:.3g}"]
        row += [f"{s['train']:.2f}", f"{s['test']:.2f}"]
        if with_validation:
            row.append(f"{s['best_test']:.2f} ({s['best_samples']:.2g})")
        if with_paper:
            paper = published_at(result["dataset"], r)
            row.append("" if paper is None else f"{paper:.1f}")
        rows.append([*row, f"{r['seconds']:.0f}"])
    return aligned(rows)


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return the last test bounds of the first seed."""
    seed = result["runs"][0]["seed"]
    return {
        f"test bound of {r['learner']}, N_z = {r['latent_dim']}": summary(r)["test"]
        for r in result["runs"]
        if r["seed"] == seed
    }


def figure(result: dict[str, Any], path: Path) -> None:
    """Draw bound against training samples, a panel a latent size: test solid, training dashed, the paper's broad.

    Several seeds are a mean and its band, from the lowest to the highest.
    """
    panels: dict[str, list[Line]] = {}
    for dim in sorted({r["latent_dim"] for r in result["runs"]}):
        lines = panels[f"$N_z$ = {dim}"] = []
        for learner in LEARNERS:
            runs = [r for r in result["runs"] if (r["latent_dim"], r["learner"]) == (dim, learner)]
            for part, style in (("test", "-"), ("train", "--")) if runs else ():
                label = f"{LABELS[learner]}, {part}"
                lines.append(curves.mean(label, runs, f"{part}_elbo", COLORS[learner], style))
        for name, color in (("AEVB test", COLORS["aevb-b"]), ("WS test", COLORS["wake-sleep"])):
            if curve := published(result["dataset"], dim).get(name):
                label = f"{name.replace('WS', 'Wake-sleep')}, paper"
                lines.append(Line(label, *zip(*curve, strict=True), color, published=True))
    preset = f"{result['dataset']}, {result['pixels']} pixels, {result['preset']} preset"
    curves.draw(panels, f"Lower bound against training samples: {preset}", "lower bound (nats per datapoint)", path)


# -- The command ------------------------------------------------------------------------------------------------------


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="digits")
    parser.add_argument("--latent-dims", type=positive, nargs="+", default=[3, 10], metavar="N_Z")
    parser.add_argument(
        "--samples", type=positive, help="training samples evaluated, each run (default: 2e5)", default=200_000
    )
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(PAPERS), help="default: the paper's")
    parser.add_argument(
        "--preset",
        choices=("paper", "modern"),
        default="paper",
        help="Adagrad, N(0, 0.01) initialisation, MAP of theta | the default settings, ML, and MAP for frey-face",
    )
    parser.add_argument(
        "--pixels",
        choices=PIXELS,
        help="default: static, and grey for frey-face and binarized-mnist; a Bernoulli of grey ones is a cross-entropy",
    )
    parser.add_argument("--learning-rate", type=rate, help="instead of the preset's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument(
        "--compile",
        choices=COMPILE,
        default="auto",
        help="the fast path: where it pays | from the first step | without a compiler | never",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the matrix products' factors")
    parser.add_argument("--device", default="cpu")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each learner, latent size and seed, the longest first."""
    data = load(args.dataset, pixels=args.pixels, root=args.data)  # fetches what is missing, once
    if len(data.train) < BATCH_SIZE:
        tqdm.write(f"{args.dataset} has {len(data.train)} images: minibatches are all of them")
    tasks = [
        Task(f"{learner} N_z={dim} seed {seed}", {"learner": learner, "latent_dim": dim, "seed": seed})
        for learner in sorted(set(args.learners), key=LONGEST_FIRST.index)
        for dim in sorted(set(args.latent_dims), reverse=True)
        for seed in dict.fromkeys(args.seeds)
    ]
    settings = {
        "dataset": args.dataset,
        "preset": args.preset,
        "pixels": args.pixels or ("grey" if args.dataset in ("frey-face", "binarized-mnist") else "static"),
        "samples": args.samples,
        "learning_rate": args.learning_rate,
        "theta_scale": 1.0 if args.preset == "paper" else SETTINGS.get(args.dataset, Setting()).theta_scale,
        "optimizers": {
            name: dataclasses.asdict(settings.schedule)
            | {k: v for k, v in settings._asdict().items() if k != "schedule"}
            for name in args.learners
            for settings in [settings_of(name, args.preset, args.learning_rate)]
        },
        "compile": args.compile,
        "precision": args.precision,
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(args.device),
    }
    return Plan(settings, tasks)


def brief(parts: dict[str, Any]) -> str:
    """Return a run's last bounds in a line."""
    (run,) = parts["runs"]
    last = summary(run)
    return f"train {last['train']:.2f}, test {last['test']:.2f} nats, {run['seconds']:.0f} s"


QUICK = {"latent_dims": [3], "samples": 20_000}
BENCHMARK = Benchmark(
    __file__, __doc__, options, plan, run, table, numbers, draw=figure, brief=brief, quick=QUICK, jobs=None
)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
