"""AEVB against wake-sleep and Monte Carlo EM: Figure 2 of Kingma & Welling 2013.

    python benchmarks/compare_wake_sleep.py

trains every learner at every latent size on scikit-learn's digits in under 2 minutes on 2 cores and prints the bounds
(nats per datapoint, larger is better); AEVB ends above wake-sleep at both sizes.  The paper's own figure is
`--dataset mnist --samples 1e7 --latent-dims 3 5 10 20 200`; results and times are in benchmarks/README.md.

The curves are bounds with one posterior draw a datapoint, on the whole test set and on as many training images; at most
`EVALUATION_SHARE` of the work goes into them.  MCEM has no guide: its bound is that of a guide fitted beside it to its
model (AEVB's gradient for phi, theta untouched), which MCEM itself never sees.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import math
import multiprocessing
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from tqdm import tqdm

import pyro_aevb
from pyro_aevb import AEVB, MCEM, VAE, History, NonFiniteLossError, WakeSleep
from pyro_aevb.capture.precision import PRECISIONS
from pyro_aevb.datasets import DATASETS, PIXELS, Binarized, ImageData, load_dataset
from pyro_aevb.evidence import elbo
from pyro_aevb.learners.mcem_with_guide import MCEMWithGuide
from pyro_aevb.training import fit

COMPILE = {"auto": "auto", "always": True, "graph": "graph", "never": False}
LEARNERS = ("aevb-a", "aevb-b", "wake-sleep", "mcem")
LABELS = {"aevb-a": "AEVB ($L^A$)", "aevb-b": "AEVB ($L^B$)", "wake-sleep": "Wake-sleep", "mcem": "MCEM"}
COLORS = {"aevb-a": "tab:orange", "aevb-b": "tab:red", "wake-sleep": "tab:green", "mcem": "tab:blue"}
PUBLISHED = {"mnist": "MNIST", "frey-face": "Frey"}  # names of the paper's panels
NAMES = ("learner", "latent_dim", "seed")
BATCH_SIZE = 100
EVALUATION_SHARE = 0.03


class Setting(NamedTuple):
    """What the paper sets for a data set: hidden units and likelihood."""

    hidden: int = 500
    likelihood: str = "bernoulli"


SETTINGS = {"digits": Setting(hidden=100), "frey-face": Setting(hidden=200, likelihood="sigmoid-gaussian")}
# Adagrad's step, out of the paper's {0.01, 0.02, 0.1}, by the first 1.5e6 samples of MNIST at N_z=20: 0.1 diverges, and
# the sleep phase wants the smaller one (test bound of wake-sleep -119.8; -127.8 with 0.01, -140 with 0.02 for both).
ADAGRAD, ADAGRAD_SLEEP = 0.02, 0.01


class Task(NamedTuple):
    """One run: what to train on what, from which seed, and for how long."""

    dataset: str
    pixels: str | None
    preset: str
    learner: str
    latent_dim: int
    seed: int
    samples: int
    learning_rate: float | None
    compile: bool | str
    precision: str

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.learner} N_z={self.latent_dim} seed {self.seed}"


def make_learner(task: Task, vae: VAE) -> AEVB | WakeSleep | MCEMWithGuide:
    """Return the task's learner over ``vae`` in the task's preset."""
    if task.preset == "paper":
        step, prior = functools.partial(torch.optim.Adagrad, fused=True), dist.Normal(0.0, 1.0)
        optim = functools.partial(step, lr=task.learning_rate or ADAGRAD)
        sleep_optim = functools.partial(step, lr=task.learning_rate or ADAGRAD_SLEEP)
    else:
        optim, prior = functools.partial(torch.optim.Adam, lr=task.learning_rate or 1e-3, fused=True), None
        sleep_optim = optim
    if task.learner == "wake-sleep":
        return WakeSleep(vae.model, vae.guide, optim, sleep_optim, theta_prior=prior)
    if task.learner == "mcem":
        guide_fit = AEVB(vae.model, vae.guide, optim, TraceMeanField_ELBO(), update="guide")
        return MCEMWithGuide(MCEM(vae.model, optim, theta_prior=prior), guide_fit)
    objective = Trace_ELBO() if task.learner == "aevb-a" else TraceMeanField_ELBO()
    return AEVB(vae.model, vae.guide, optim, objective, theta_prior=prior)


def run(task: Task, root: Path | None, progress: bool, position: int | None = None) -> dict[str, Any]:
    """Train and evaluate one task; return its record, curve and all."""
    data = load_dataset(task.dataset, pixels=task.pixels, root=root)
    setting = SETTINGS.get(task.dataset, Setting())
    pyro.set_rng_seed(task.seed)
    vae = VAE(
        data.test.shape[1],
        task.latent_dim,
        hidden_dims=(setting.hidden,),
        likelihood=setting.likelihood,
        init=task.preset,
        dataset_size=len(data.train),
    )
    history = fit(
        make_learner(task, vae),
        data.train,
        samples=task.samples,
        batch_size=min(BATCH_SIZE, len(data.train)),
        schedule=(lambda done: 0.5 * (1 + math.cos(math.pi * done))) if task.preset == "modern" else None,
        evaluate=evaluation(vae, data),
        evaluate_at=evaluation_points(task.samples, data),
        seed=task.seed,
        compile=task.compile,
        precision=task.precision,
        progress=progress,
        label=task.label,
        bar_position=position,
    )
    names = {"learner": task.learner, "latent_dim": task.latent_dim, "seed": task.seed}
    return names | record(history, "_elbo")


def evaluation(vae: VAE, data: ImageData) -> Callable[[], dict[str, float]]:
    """Return a function that gives the bounds on training, test and validation images, always with the same noise."""
    if isinstance(data.train, Binarized):
        generator = torch.Generator().manual_seed(0)
        train = torch.bernoulli(data.train.images[: len(data.test)], generator=generator)
    else:
        train = data.train[: len(data.test)]
    parts = {"train": train, "test": data.test}
    if data.validation is not None:
        parts["validation"] = data.validation
    return lambda: {name: elbo(vae.model, vae.guide, x, seed=0).mean().value for name, x in parts.items()}


def evaluation_points(samples: int, data: ImageData) -> list[int]:
    """Return sample counts for evaluations, evenly spaced on a log scale, few enough to keep to their share of work."""
    evaluated = 2 * len(data.test) + (0 if data.validation is None else len(data.validation))
    affordable = EVALUATION_SHARE * samples / (evaluated / 3)  # forward only: a third of a step's work
    count = int(min(40, max(4, affordable)))
    points = np.geomspace(min(samples, max(10 * BATCH_SIZE, samples / 300)), samples, count)
    return sorted({int(p) for p in points})


def record(history: History, suffix: str = "") -> dict[str, Any]:
    """Return a run's curve and times as they are written to JSON."""
    curve = []
    for done in history.records:
        point = {"samples": done.samples, "seconds": round(done.seconds, 2)}
        curve.append(point | {f"{name}{suffix}": round(value, 4) for name, value in done.values.items()})
    return {
        "curve": curve,
        "seconds": round(history.seconds, 2),
        "evaluation_seconds": round(history.evaluation_seconds, 2),
        "compile_seconds": round(history.compile_seconds, 2),
        "interrupted": history.interrupted,
    }


# -- Several runs at a time -------------------------------------------------------------------------------------------


def start_worker(slots: Any, lock: Any, threads: int, stop: Any) -> None:
    """Set up a worker process: its line for the progress bar, its share of the cores, ctrl-C for training alone."""
    global position, stopped
    position, stopped = slots.get(), stop
    tqdm.set_lock(lock)
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # `fit` listens while it trains, and what it returns is kept
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_in_worker(run: Callable[..., dict[str, Any]], task: Any) -> dict[str, Any] | None:
    """Run a task in a worker process; ``None`` where ctrl-C came before it began."""
    if stopped.is_set():
        return None
    result = run(task, position=position)
    if result["interrupted"]:
        stopped.set()  # before this worker gets its next task, which may be sooner than the main process looks
    return result


class Ending(NamedTuple):
    """How the runs ended: whether ctrl-C cut them short, and what became of those whose loss was no longer finite."""

    interrupted: bool
    failures: list[str]


def run_all(
    tasks: list[Any], jobs: int, run: Callable[..., dict[str, Any]], done: Callable[[Any, Any], None]
) -> Ending:
    """Run every task, ``jobs`` at a time, calling ``done`` after each.

    ``run(task, position=...)`` returns the task's record; a task has a ``label``.
    """
    failures: list[str] = []
    interrupted = False

    def finish(task: Any, get: Callable[[], dict[str, Any] | None]) -> bool:
        try:
            result = get()
        except NonFiniteLossError as error:
            failures.append(f"{task.label}: {error}")
            tqdm.write(failures[-1])
            return False
        if result is not None and result["curve"]:
            done(task, result)
        return result is None or result["interrupted"]

    if jobs == 1:
        for task in tasks:
            if finish(task, functools.partial(run, task)):
                return Ending(True, failures)
        return Ending(False, failures)

    context = multiprocessing.get_context("spawn")
    slots = context.Queue()
    for slot in range(jobs):
        slots.put(slot)
    threads = max(1, torch.get_num_threads() // jobs)
    stop = context.Event()
    with context.Pool(jobs, start_worker, (slots, context.RLock(), threads, stop)) as pool:
        waiting = {task: pool.apply_async(run_in_worker, (run, task)) for task in tasks}
        while waiting and not interrupted:
            try:
                time.sleep(0.2)
                for task in [t for t, result in waiting.items() if result.ready()]:
                    interrupted = finish(task, waiting.pop(task).get) or interrupted
            except KeyboardInterrupt:
                interrupted = True
        if interrupted:  # what runs ends with an evaluation; what has not begun is dropped
            tqdm.write("interrupted: keeping what there is")
            stop.set()
            deadline = time.monotonic() + 60
            while waiting and time.monotonic() < deadline:
                for process in multiprocessing.active_children():
                    os.kill(process.pid, signal.SIGINT)
                time.sleep(0.5)
                for task in [t for t, result in waiting.items() if result.ready()]:
                    finish(task, waiting.pop(task).get)
    return Ending(interrupted, failures)


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
    """Return the paper's curves {"AEVB test": [[samples, bound], ...], ...} for a panel; empty where it has none."""
    curves = json.loads((Path(__file__).parent / "paper_curves.json").read_text())
    return curves.get(f"{PUBLISHED.get(dataset, '')} Nz={latent_dim}", {})


def published_at(dataset: str, run: dict[str, Any]) -> float | None:
    """Return the paper's test bound at the run's last sample count, interpolated on a log scale."""
    name = {"wake-sleep": "WS test", "aevb-a": "AEVB test", "aevb-b": "AEVB test"}.get(run["learner"])
    curve = published(dataset, run["latent_dim"]).get(name)
    if curve is None:
        return None
    x, y = np.array(curve).T
    return float(np.interp(np.log(run["curve"][-1]["samples"]), np.log(x), y))


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


def aligned(rows: list[list[str]]) -> str:
    """Return rows as text, their columns aligned, the first row a header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def figure(result: dict[str, Any], path: Path) -> None:
    """Draw bound against training samples, a panel a latent size: test solid, training dashed, the paper's broad."""
    dims = sorted({r["latent_dim"] for r in result["runs"]})
    size = (1.5 + 3.6 * max(2, len(dims)), 4.4)  # one panel alone is as wide as two: title and legend need it
    fig, axes = plt.subplots(1, len(dims), figsize=size, squeeze=False, layout="constrained")
    handles: dict[str, Any] = {}
    for ax, dim in zip(axes[0], dims, strict=True):
        runs = [r for r in result["runs"] if r["latent_dim"] == dim]
        for r in runs:
            x = [p["samples"] for p in r["curve"]]
            for part, style in (("test", "-"), ("train", "--")):
                y = [p[f"{part}_elbo"] for p in r["curve"]]
                label = f"{LABELS[r['learner']]}, {part}"
                (handles[label],) = ax.plot(
                    x, y, style, color=COLORS[r["learner"]], lw=1.6, ms=3, marker="." * (len(x) < 3)
                )
        span = [p["samples"] for r in runs for p in r["curve"]]
        shown = [p["test_elbo"] for r in runs for p in r["curve"] if p["samples"] >= max(span) / 30]
        low, high = min(shown), max(p[f"{part}_elbo"] for r in runs for p in r["curve"] for part in ("train", "test"))
        margin = 0.05 * (high - low) + 1e-6
        for name, color in (("AEVB test", "tab:red"), ("WS test", "tab:green")):
            if curve := published(result["dataset"], dim).get(name):
                x, y = np.array(curve).T
                near = (x >= min(span)) & (x <= 1.3 * max(span))
                if (near & (y > low)).sum() > 1:
                    label = f"{name.replace('WS', 'Wake-sleep')}, paper"
                    (handles[label],) = ax.plot(x[near], y[near], color=color, lw=3.5, alpha=0.3)
        ax.set(xscale="log", xlim=(min(span), max(span) * 1.05), ylim=(low - margin, high + margin))
        ax.set_title(f"$N_z$ = {dim}")
        ax.set_xlabel("training samples evaluated")
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("lower bound (nats per datapoint)")
    preset = f"{result['dataset']}, {result['pixels']} pixels, {result['preset']} preset"
    fig.suptitle(f"Lower bound against training samples: {preset}")
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def write(result: dict[str, Any], out: Path, json_path: Path, names: tuple[str, ...] = NAMES) -> None:
    """Write the numbers as JSON and CSV, a run known by ``names``; each file is replaced whole."""
    rows = [{name: r[name] for name in names} | p for r in result["runs"] for p in r["curve"]]
    lines = ["{"] + [f"{json.dumps(k)}: {json.dumps(v)}," for k, v in result.items() if k != "runs"]
    lines += ['"runs": [', ",\n".join(json.dumps(r) for r in result["runs"]), "]", "}"]
    replace(json_path, "\n".join(lines) + "\n")
    part = out / "curves.csv.part"
    with part.open("w", newline="") as file:
        fields = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    part.replace(out / "curves.csv")


def replace(path: Path, text: str) -> None:
    """Write a file under another name, then give it its own."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


# -- The command ------------------------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """Parse a positive whole number, also in the form 1e7."""
    try:
        value = int(float(text))
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return value


def rate(text: str) -> float:
    """Parse a learning rate."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="digits")
    parser.add_argument("--latent-dims", type=positive, nargs="+", default=[3, 10], metavar="N_Z")
    parser.add_argument(
        "--samples", type=positive, help="training samples evaluated, each run (default: 2e5)", default=200_000
    )
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument(
        "--preset",
        choices=("paper", "modern"),
        default="paper",
        help="Adagrad, N(0, 0.01) initialisation, MAP of theta | Adam with cosine decay, fan-in initialisation, ML",
    )
    parser.add_argument("--pixels", choices=PIXELS, help="default: static, and grey for frey-face and binarized-mnist")
    parser.add_argument("--learning-rate", type=rate, help="instead of the preset's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--jobs", type=positive, help="runs at a time, sharing the cores (default: one a core)")
    parser.add_argument("--data", type=Path, help="folder of the data files (default: $PYRO_AEVB_DATA, else a cache)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/compare_wake_sleep"), help="folder for figure and numbers"
    )
    parser.add_argument("--json", type=Path, help="where the JSON goes (default: results.json in --out)")
    parser.add_argument(
        "--compile",
        choices=COMPILE,
        default="auto",
        help="the fast path: where it pays | from the first step | without a compiler | never",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the matrix products' factors")
    parser.add_argument("--resume", action="store_true", help="keep the whole runs of an earlier, interrupted command")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(argv)


def check_writable(folder: Path) -> None:
    """Exit with a message unless files can be made in ``folder``; make it where it's missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        sys.exit(f"expected a folder that can be written, got {folder}: {error}; name another with --out or --json")


def versions() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    return {
        "pyro_aevb": pyro_aevb.__version__,
        "pyro": pyro.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def finished_runs(path: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the whole runs in the JSON at ``path``; exit where its settings or versions are not ``result``'s."""
    if not path.exists():
        return []
    try:
        before = json.loads(path.read_text())
        runs = [run for run in before["runs"] if not run["interrupted"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"--resume expected this benchmark's JSON in {path}, got {error!r}; name another with --out or --json")
    for name in set(result) - {"command", "runs", "runs_at_a_time"}:
        if before.get(name) != result[name]:
            sys.exit(
                f"--resume expected {name} {result[name]} in {path}, got {before.get(name)}; "
                "run without --resume, or name another --out"
            )
    return runs


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it writes as JSON."""
    args = parse(argv)
    json_path = args.json or args.out / "results.json"
    check_writable(args.out)
    check_writable(json_path.parent)
    try:
        data = load_dataset(args.dataset, pixels=args.pixels, root=args.data)  # fetches what is missing, once
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    if len(data.train) < BATCH_SIZE:
        tqdm.write(f"{args.dataset} has {len(data.train)} images: minibatches are all of them")
    tasks = [
        Task(
            args.dataset,
            args.pixels,
            args.preset,
            learner,
            dim,
            seed,
            samples=args.samples,
            learning_rate=args.learning_rate,
            compile=COMPILE[args.compile],
            precision=args.precision,
        )
        for dim in dict.fromkeys(args.latent_dims)
        for learner in dict.fromkeys(args.learners)
        for seed in dict.fromkeys(args.seeds)
    ]
    # The longest first, so that no core idles at the end.
    tasks.sort(key=lambda t: (t.learner != "mcem", t.learner != "wake-sleep", -t.latent_dim))
    jobs = min(len(tasks), args.jobs or torch.get_num_threads())
    threads = max(1, torch.get_num_threads() // jobs)
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--resume"]
    result: dict[str, Any] = {
        "dataset": args.dataset,
        "preset": args.preset,
        "pixels": args.pixels or ("grey" if args.dataset in ("frey-face", "binarized-mnist") else "static"),
        "command": shlex.join(["python", "benchmarks/compare_wake_sleep.py", *words]),
        "samples": args.samples,
        "learning_rate": args.learning_rate,
        "compile": args.compile,
        "precision": args.precision,
        "runs_at_a_time": jobs,
        "threads_a_run": threads,
        "versions": versions(),
        "runs": [],
    }
    total = len(tasks)
    if args.resume:
        wanted = {(task.learner, task.latent_dim, task.seed): task for task in tasks}
        for earlier in finished_runs(json_path, result):
            if wanted.pop(tuple(earlier[name] for name in NAMES), None):
                result["runs"].append(earlier)
        tasks = list(wanted.values())
        tqdm.write(f"{total - len(tasks)} of {total} runs are there; {len(tasks)} to make")

    def done(task: Task, run: dict[str, Any]) -> None:
        result["runs"].append(run)
        write(result, args.out, json_path)
        s = summary(run)
        tqdm.write(
            f"[{len(result['runs'])}/{total}] {task.label}: "
            f"train {s['train']:.2f}, test {s['test']:.2f}, {run['seconds']:.0f} s"
        )

    ending = run_all(tasks, jobs, functools.partial(run, root=args.data, progress=not args.quiet), done)
    if result["runs"]:
        figure(result, args.out / "figure.png")
        print(f"\nBounds in nats per datapoint, {args.dataset}, {result['pixels']} pixels, {args.preset} preset")
        print(table(result))
        print(f"\nwritten: {json_path}, {args.out / 'curves.csv'}, {args.out / 'figure.png'}")
    if ending.interrupted:
        print("interrupted: the runs above are what there is", file=sys.stderr)
        sys.exit(130)
    if ending.failures:
        sys.exit("\n".join(["these runs ended with a loss that is not finite:", *ending.failures]))
    return result


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a clean exit, which takes the workers along
    main()
