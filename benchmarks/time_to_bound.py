"""Seconds from the command to a test bound: stock Pyro, PyTorch by hand, NumPyro, pythae, and this library.

Start-up and compilation count, evaluations don't.  Each run is a process of its own, one after the other, in turns.
All have the same networks and data, with this library's tuned settings ("tuned") and with each one's own ("own").

    python benchmarks/time_to_bound.py --problem digits     # five minutes
    samples of ours, tuned: at most 30000

    python benchmarks/time_to_bound.py --quick              # two minutes on busy cores
    samples of ours, tuned: at most 30000
    seconds of ours, tuned: at most 120 seconds

The measurements that count, `--problem mnist` and `--problem frey-face`, want a quiet machine and take about 20 minutes
a round, and `--settings tuned` half of that.  `--rounds 3 --resume` adds rounds, for medians, to what is there.

The bounds are -99.4 nats (MNIST, pixels drawn at each visit, N_z = 20), the paper's last one, and 900 (Frey Face,
N_z = 2).  A schedule is stretched over a budget of samples and passes the bound near its end: `--budgets` has several
tried, for each rival's own best.  A run that doesn't get there in its samples or in `--limit` seconds says so.  pythae
has no Gaussian with variances of its own, so it is left out for Frey Face; NumPyro and pythae come with the extra
`bench`.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import harness
import numpy as np
from bound_rivals import NEEDS, OTHERS_RATE, OWN_RATE, RIVALS, Job
from harness import Benchmark, Plan, Task, aligned, positive
from tqdm import tqdm

from pyro_aevb.datasets import Binarized, load_dataset
from pyro_aevb.learners import PRESETS

SETTINGS = ("tuned", "own")
HERE = Path(__file__).parent


class Problem(NamedTuple):
    """Data, a VAE's sizes, the bound to reach, and the samples that a run without a schedule has.

    ``samples`` is the budget of one with a schedule, where ``--budgets`` has none.
    """

    pixels: str | None
    hidden: int
    latent_dim: int
    gaussian: bool
    target: float
    samples: int
    longest: int
    every: int


PROBLEMS = {
    "mnist": Problem("dynamic", 500, 20, False, -99.4, 720_000, 4_000_000, 60_000),
    "frey-face": Problem(None, 200, 2, True, 900.0, 1_000_000, 4_000_000, 30_000),
    "digits": Problem("dynamic", 100, 5, False, -26.5, 60_000, 400_000, 6_000),
}


def job_of(task: Task, args: argparse.Namespace, folder: str) -> Job:
    """Return what a rival's process is told."""
    problem, preset = PROBLEMS[args.problem], PRESETS["aevb"]
    rival, settings, budget, turn = task.key.values()
    tuned = settings == "tuned"
    schedule = preset.schedule
    assert schedule.shape == "linear"  # which is what the rivals' arithmetic is of
    assert preset.beta1 is not None
    return Job(
        rival,
        folder,
        problem.gaussian,
        problem.hidden,
        problem.latent_dim,
        problem.target,
        budget,
        problem.every,
        seed=turn,
        learning_rate=preset.learning_rate if tuned else OWN_RATE.get(rival, OTHERS_RATE),
        beta1=preset.beta1 if tuned else 0.9,
        shape=schedule.shape if tuned else "constant",
        warm_up=schedule.warm_up if tuned else 0.0,
        tuned=tuned,
    )


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Start one rival's process and watch it; what ctrl-C cuts short is dropped with it."""
    with tempfile.TemporaryDirectory() as folder:
        data = load_dataset(args.problem, pixels=PROBLEMS[args.problem].pixels, root=args.data)
        train = data.train.images if isinstance(data.train, Binarized) else data.train
        for name, part in (("train", train), ("test", data.test)):
            np.save(Path(folder) / f"{name}.npy", part.numpy())
        reports, error = watch(job_of(task, args, folder), args.limit)
    last = reports[-1] if reports else {"samples": 0, "bound": None, "seconds": None}
    reached = last["bound"] is not None and last["bound"] >= PROBLEMS[args.problem].target
    found = {"reached": reached, **last, "curve_of_seconds": [[r["seconds"], r["bound"]] for r in reports]}
    return {"runs": [task.key | found | ({"error": error} if error else {})]}


def watch(job: Job, limit: float) -> tuple[list[dict[str, Any]], str]:
    """Run a job; return its reports, with seconds from the command that started it, and its last words if it failed."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", "import bound_rivals; bound_rivals.main()", json.dumps(job._asdict())]
    environment = {**os.environ, "PYTHONPATH": path}
    reports = []
    with tempfile.TemporaryFile("w+") as words:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, text=True, env=environment) as process:
            timer = threading.Timer(limit, process.kill)
            timer.start()
            try:
                for line in process.stdout or ():
                    if line.startswith("{"):
                        report = json.loads(line)
                        seconds = time.perf_counter() - start - report.pop("evaluating")
                        reports.append(report | {"seconds": round(seconds, 2)})
            except BaseException:
                process.kill()
                raise
            finally:
                timer.cancel()
        words.seek(0)
        return reports, words.read()[-300:] if process.returncode > 0 else ""


# -- Results ----------------------------------------------------------------------------------------------------------


def groups(result: dict[str, Any]) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """Return the runs of each rival with each settings and budget."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for r in result["runs"]:
        budget = r["budget"] if "budget" in r else result["samples" if r["settings"] == "tuned" else "longest"]
        found.setdefault((r["rival"], r["settings"], budget), []).append(r)
    return found


def table(result: dict[str, Any]) -> str:
    """Return a row for each rival and settings: medians over the rounds, and how many of them reached the bound."""
    rows = [["rival", "settings", "budget", f"seconds to {result['target']:g}", "samples", "reached", "last bound"]]
    for (rival, settings, budget), runs in sorted(
        groups(result).items(), key=lambda each: list(RIVALS).index(each[0][0])
    ):
        there = [r for r in runs if r["reached"]]
        last = [r["bound"] for r in runs if r["bound"] is not None]
        row = [rival, settings, f"{budget:.3g}"]
        row += (
            [f"{median(r['seconds'] for r in there):.1f}", f"{median(r['samples'] for r in there):.3g}"]
            if there
            else ["not reached", ""]
        )
        rows.append([*row, f"{len(there)} of {len(runs)}", f"{median(last):.2f}" if last else "failed"])
    return aligned(rows)


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return the median seconds, with the best budget, and its samples, of what reached the bound in every round."""
    found: dict[str, float] = {}
    for (rival, settings, _), runs in groups(result).items():
        names = [f"{what} of {rival}, {settings}" for what in ("seconds", "samples")]
        medians = [median(r[what] for r in runs) for what in ("seconds", "samples")]
        if all(r["reached"] for r in runs) and medians[0] < found.get(names[0], math.inf):
            found |= dict(zip(names, medians, strict=True))
    return found


# -- The command ------------------------------------------------------------------------------------------------------


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--problem", choices=PROBLEMS, default="mnist")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument(
        "--budgets", nargs="+", type=positive, metavar="SAMPLES", help="of a run with a schedule (default: one of them)"
    )
    parser.add_argument("--rounds", type=positive, default=1)
    parser.add_argument("--limit", type=positive, default=150, help="seconds a run may take (default: 150)")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each round, rival and settings, in turns."""
    problem = PROBLEMS[args.problem]
    load_dataset(args.problem, pixels=problem.pixels, root=args.data)  # fetched once
    missing = [name for name, package in NEEDS.items() if importlib.util.find_spec(package) is None]
    for name in missing:
        tqdm.write(f"{name} is left out: {NEEDS[name]} isn't installed; pip install -e '.[bench]'")
    rivals = [r for r in RIVALS if r in args.rivals and r not in missing and not (problem.gaussian and r == "pythae")]
    tasks = [
        Task(
            f"{rival}, {settings}, {budget:.3g}, round {turn}",
            {"rival": rival, "settings": settings, "budget": budget, "round": turn},
        )
        for turn in range(args.rounds)
        for rival in rivals
        for settings in args.settings
        if settings == "tuned" or not rival.startswith("ours")  # whose defaults are the tuned ones
        for budget in (args.budgets or [problem.samples] if settings == "tuned" else [problem.longest])
    ]
    settings = {"problem": args.problem, **problem._asdict(), "preset": str(PRESETS["aevb"]), "limit": args.limit}
    return Plan(settings, tasks)


def brief(parts: dict[str, Any]) -> str:
    """Return a run's end in a line."""
    (found,) = parts["runs"]
    how = f"in {found['seconds']} s" if found["reached"] else f"not reached {found.get('error', '')}"
    return f"{how}: {found['bound']} nats after {found['samples']:.2g} samples"


QUICK = {"problem": "digits", "rivals": ["ours", "torch by hand", "pyro SVI"], "settings": ["tuned"]}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, brief=brief, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
