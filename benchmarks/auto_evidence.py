"""Importance where it can be relied on, AIS elsewhere: how many datapoints each has, what they cost, is it right?

Trains a VAE with 20 latents (Adam, 200 tanh units, pixels sampled once), evaluates log p(x) of the first test points by
``method="auto"``, and then by AIS in many more steps from other noise.  Reported are the share and the seconds of each
method, how many of the points agree within 3 joint standard errors, with the largest z-score, the smallest p-value of
Welch's test (an error of 4 chains has 3 degrees of freedom), and the same of those points that a bound on k-hat itself
would leave to importance.

    python benchmarks/auto_evidence.py --dataset mnist --device cuda --evaluate 1000 --block 500  # 2 minutes on an H100
    log p(x): -95.8 ± 0.8 nats
    share by AIS: 0.99 ± 0.02
    share within 3 joint errors: at least 0.98
    points told apart, all tests at once at 5%: at most 0

    python benchmarks/auto_evidence.py --quick          # half a minute
    log p(x): -27.9 ± 0.5 nats
    share within 3 joint errors: at least 0.9

The long run is the truth here as far as its own error goes: AIS is right in expectation of p(x), not of log p(x).
On 2 cores the first 200 points take half an hour, and their long run 45 minutes; --long-from takes an earlier one.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
import warnings
from pathlib import Path
from typing import Any

import harness
import scipy.stats
import torch
from harness import Benchmark, Plan, Task, aligned, positive
from trained_vae import trained

from pyro_aevb import AIS, VAE, Auto, Evidence, Importance, log_marginal_likelihood
from pyro_aevb.datasets import DATASETS, load_dataset

WITHIN = 3.0  # joint standard errors
CHAINS, LONG_CHAINS = 16, 4  # of auto's AIS, by default, and of the long run
BOUNDS = (0.7, 0.5)  # on k-hat itself, to compare with auto's rule


def timed(vae: VAE, x: torch.Tensor, **options: Any) -> tuple[Evidence, float]:
    """Return the evidence by a method, and the seconds that it took."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pareto_k")  # counted in the table
        evidence = log_marginal_likelihood(vae.model, vae.guide, x, batch_size=len(x), **options)
    return evidence, time.perf_counter() - start


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Evaluate some of the test points by importance, by auto, and by AIS in many steps."""
    vae = trained(args, args.out / f"vae-{args.dataset}-{args.samples}", position)
    if vae is None:
        return None
    first = task.key["first"]
    x = load_dataset(args.dataset, root=args.data).test[first : min(first + args.block, args.evaluate)].to(args.device)
    progress = not args.quiet
    options: dict[str, Any] = {"num_particles": args.particles, "seed": first, "progress": progress}
    weighed, weighing = timed(vae, x, method=Importance(), **options)
    annealing = AIS(args.temperatures, num_leapfrog=args.leapfrog, start=args.start)
    auto, seconds = timed(vae, x, method=Auto(annealing=annealing), **options)
    long, long_seconds = long_run(vae, x, first, args)
    assert auto.method is not None
    assert weighed.pareto_k is not None
    columns = {
        "method": auto.method,
        "value": auto.value.tolist(),
        "error": auto.standard_error.tolist(),
        "weighed": weighed.value.tolist(),
        "weighed_error": weighed.standard_error.tolist(),
        "pareto_k": weighed.pareto_k.tolist(),
        "long": [value for value, _ in long],
        "long_error": [error for _, error in long],
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {
        "blocks": [{"first": first, "importance_s": weighing, "auto_s": seconds, "long_s": long_seconds}],
        "points": [{"first": first, "point": first + i, **row} for i, row in enumerate(rows)],
    }


Long = list[tuple[float, float]]  # the value and the error of each point


def long_run(vae: VAE, x: torch.Tensor, first: int, args: argparse.Namespace) -> tuple[Long, float]:
    """Return AIS's value and error in many steps, from the prior, for each point; or those of an earlier result."""
    if args.long_from is not None:
        before = {p["point"]: (p["long"], p["long_error"]) for p in json.loads(args.long_from.read_text())["points"]}
        return [before[first + i] for i in range(len(x))], 0.0
    method = AIS(args.long_temperatures, num_leapfrog=2, start="prior")
    long, seconds = timed(vae, x, method=method, num_particles=LONG_CHAINS, seed=first + 1, progress=not args.quiet)
    return list(zip(long.value.tolist(), long.standard_error.tolist(), strict=True)), seconds


def summary(points: list[dict[str, Any]], value: str = "value", its_error: str = "error") -> dict[str, float]:
    """Return how auto's values of these points, or those of another column, compare with the long run's."""
    off = torch.tensor([p[value] - p["long"] for p in points]).double()
    squares = torch.tensor([(p[its_error] ** 2, p["long_error"] ** 2) for p in points]).double().reshape(-1, 2)
    error = squares.sum(1).sqrt()
    z = off / error
    freedom = squares.sum(1) ** 2 / (squares**2 / torch.tensor([CHAINS - 1.0, LONG_CHAINS - 1.0])).sum(1)
    p_values = 2 * scipy.stats.t.sf(z.abs().numpy(), freedom.numpy())
    return {
        "points": len(points),
        "difference": off.mean().item(),
        "difference_error": off.std().item() / len(points) ** 0.5 if len(points) > 1 else float("nan"),
        "within": int((z.abs() <= WITHIN).sum()),
        "largest_z": max(z.abs().tolist(), default=0.0),
        "smallest_p": min(p_values.tolist(), default=1.0),
        "told_apart": int((p_values < 0.05 / max(len(points), 1)).sum()),
        "error": error.square().mean().sqrt().item(),
    }


def by(result: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """Return the points that auto evaluated by this method."""
    return [p for p in result["points"] if p["method"] == method]


def table(result: dict[str, Any]) -> str:
    """Return the results as a table, nats per datapoint."""
    weighing, auto, long = (sum(b[f"{name}_s"] for b in result["blocks"]) for name in ("importance", "auto", "long"))
    head = ["method", "points", "share", "seconds", "less the long run", f"within {WITHIN:.0f} errors", "largest z"]
    rows = [[*head, "smallest p", "joint error, each"]]
    found = [
        ("auto: importance", f"{weighing:.0f}", summary(by(result, "importance"))),
        ("auto: ais", f"{auto - weighing:.0f}", summary(by(result, "ais"))),
        ("auto", f"{auto:.0f}", summary(result["points"])),
    ]
    for bound in BOUNDS:
        kept = [p for p in result["points"] if p["pareto_k"] <= bound]
        found.append((f"importance, k-hat <= {bound}", "", summary(kept, "weighed", "weighed_error")))
    for name, seconds, r in found:
        if not r["points"]:
            rows.append([name, "0", "0%", seconds, "", "", "", "", ""])
            continue
        difference = f"{r['difference']:+.3f} ± {r['difference_error']:.3f}"
        line = [name, str(r["points"]), f"{100 * r['points'] / len(result['points']):.0f}%", seconds, difference]
        rows.append(
            [
                *line,
                f"{r['within']} of {r['points']}",
                f"{r['largest_z']:.2f}",
                f"{r['smallest_p']:.1g}",
                f"{r['error']:.3f}",
            ]
        )
    return f"{aligned(rows, left=True)}\n\nthe long run: {long:.0f} s"


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return what the header promises."""
    r = summary(result["points"])
    values = [p["value"] for p in result["points"]]
    return {
        "log p(x)": sum(values) / len(values),
        "share by AIS": len(by(result, "ais")) / len(values),
        "share within 3 joint errors": r["within"] / len(values),
        "largest z-score": r["largest_z"],
        "points told apart, all tests at once at 5%": r["told_apart"],
        "less the long run": r["difference"],
    }


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=sorted(set(DATASETS) - {"frey-face"}), default="digits")
    parser.add_argument("--samples", type=positive, default=3_000_000, help="training samples (default: 3e6)")
    parser.add_argument("--evaluate", type=positive, default=200, help="test points (default: 200)")
    parser.add_argument("--block", type=positive, default=50, help="test points at a time (default: 50)")
    parser.add_argument("--particles", type=positive, default=1000, help="K of importance (default: 1000)")
    parser.add_argument("--temperatures", type=positive, default=300, help="of auto's AIS (default: 300)")
    parser.add_argument("--leapfrog", type=positive, default=5, help="of auto's AIS (default: 5)")
    parser.add_argument("--start", choices=("prior", "guide"), default="guide", help="of auto's AIS (default: guide)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--long-from", type=Path, help="results.json of the same points, to take the long run from")
    parser.add_argument("--long-temperatures", type=positive, default=10_000, help="of the long run (default: 1e4)")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and the tasks, a block of test points each."""
    args.evaluate = min(args.evaluate, len(load_dataset(args.dataset, root=args.data).test))
    names = ("dataset", "samples", "evaluate", "block", "particles", "temperatures", "leapfrog", "start")
    settings = {name: getattr(args, name) for name in (*names, "long_temperatures", "device")}
    blocks = range(0, args.evaluate, args.block)
    return Plan(settings | {"seed": 0}, [Task(f"points from {first}", {"first": first}) for first in blocks])


QUICK = {"samples": 20_000, "evaluate": 20, "block": 10, "temperatures": 30, "leapfrog": 2, "long_temperatures": 100}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
