"""Who answers for p(z|x): the share of test points that each method of `posterior` serves, and what each costs.

Trains a VAE with 20 latents (Adam, 200 tanh units, pixels sampled once) and draws from p(z|x) for the first test
points, twice: by ``method="auto"``, and by chains for all of them (``method="hmc"``, from other noise).  Reported are
the share, the seconds a datapoint and the trusted ones of each method, and how the means over the draws of z compare
between the two runs: z-scores over all latents, with the error that each run's effective sample size stands for.

    python benchmarks/posterior_methods.py --dataset mnist --evaluate 1000 --block 100   # an hour on 2 cores
    answered and marked: 1.0 ± 0.0
    trusted: at least 0.95
    root mean square of z-scores: at most 1.5

    python benchmarks/posterior_methods.py --quick         # half a minute
    answered and marked: 1.0 ± 0.0
    root mean square of z-scores: at most 2

Two runs that agree may have missed the same mode: neither knows of one that neither guide nor annealing found.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from typing import Any

import harness
import torch
from harness import Benchmark, Plan, Task, aligned, positive
from trained_vae import trained

from pyro_aevb import VAE
from pyro_aevb.datasets import DATASETS, load_dataset
from pyro_aevb.posterior import Chains, Posterior, posterior

SERVED_BY = ("guide", "importance", "hmc")


def timed(vae: VAE, x: torch.Tensor, args: argparse.Namespace, **options: Any) -> tuple[Posterior, float]:
    """Return draws from p(z|x), and the seconds that they took."""
    chains = Chains(num_chains=args.chains, num_temperatures=args.temperatures, num_samples=args.kept)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the draws of")  # counted in the table
        found = posterior(
            vae.model, vae.guide, x, chains=chains, num_draws=args.draws, batch_size=len(x), progress=not args.quiet,
            **options,
        )  # fmt: skip
    return found, time.perf_counter() - start


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Draw from p(z|x) of some test points by auto, and by chains for each."""
    vae = trained(args, args.out / f"vae-{args.dataset}-{args.samples}", position)
    if vae is None:
        return None
    first = task.key["first"]
    x = load_dataset(args.dataset, root=args.data).test[first : min(first + args.block, args.evaluate)].to(args.device)
    weighed, weighing_s = timed(vae, x, args, method="importance", seed=first)
    auto, auto_s = timed(vae, x, args, method="auto", seed=first)
    chains, chains_s = timed(vae, x, args, method="hmc", seed=first + 1)
    scores = z_scores(auto, chains)
    rows = [
        {
            "first": first,
            "point": first + i,
            "method": auto.method[i],
            "trusted": bool(auto.trusted[i]),
            "effective_sample_size": round(auto.effective_sample_size[i].item(), 1),
            "pareto_k": round(weighed.pareto_k[i].item(), 3),
            "r_hat": round(auto.r_hat[i].item(), 4),
            "chains_trusted": bool(chains.trusted[i]),
            "chains_r_hat": round(chains.r_hat[i].item(), 4),
            "square_of_z": round(scores[i].square().mean().item(), 4),
        }
        for i in range(len(x))
    ]
    seconds = {"importance_s": weighing_s, "auto_s": auto_s, "hmc_s": chains_s}
    return {"blocks": [{"first": first, "points": len(x)} | seconds], "points": rows}


def z_scores(one: Posterior, other: Posterior) -> torch.Tensor:
    """Return the difference of two runs' means of z over its error, (N, J)."""
    squares = [(p.std("z").T ** 2 / p.effective_sample_size).T for p in (one, other)]
    return (one.mean("z") - other.mean("z")) / (squares[0] + squares[1]).sqrt()


def table(result: dict[str, Any]) -> str:
    """Return a row for each method, and the seconds a datapoint."""
    points, count = result["points"], len(result["points"])
    rows = [["method", "points", "share", "trusted", "k-hat > 0.7", "draws count as", "largest R-hat", "rms of z"]]
    for method in (*SERVED_BY, "all"):
        its = [p for p in points if method in (p["method"], "all")]
        if not its:
            rows.append([method, "0", "0%", *[""] * 5])
            continue
        sizes = sorted(p["effective_sample_size"] for p in its)
        hats = [p["r_hat"] for p in its if p["method"] == "hmc"]
        rows.append(
            [
                method,
                str(len(its)),
                f"{100 * len(its) / count:.1f}%",
                f"{100 * sum(p['trusted'] for p in its) / len(its):.1f}%",
                f"{100 * sum(p['pareto_k'] > 0.7 for p in its) / len(its):.0f}%",
                f"{sizes[len(sizes) // 2]:.0f}",
                f"{max(hats):.3f}" if hats else "",
                f"{(sum(p['square_of_z'] for p in its) / len(its)) ** 0.5:.2f}",
            ]
        )
    runs = ("importance", "auto", "hmc")
    seconds = ", ".join(f"{name} {sum(b[f'{name}_s'] for b in result['blocks']) / count:.3f}" for name in runs)
    mixed = sum(p["chains_trusted"] for p in points)
    return f"{aligned(rows, left=True)}\n\nseconds a datapoint: {seconds}; by chains for all, {mixed} of {count} mixed"


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return what the header promises."""
    points = result["points"]
    served = [p for p in points if p["method"] in SERVED_BY and p["trusted"] in (True, False)]
    return {
        "answered and marked": len(served) / result["evaluate"],
        "trusted": sum(p["trusted"] for p in points) / len(points),
        "root mean square of z-scores": (sum(p["square_of_z"] for p in points) / len(points)) ** 0.5,
    }


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=sorted(set(DATASETS) - {"frey-face"}), default="digits")
    parser.add_argument("--samples", type=positive, default=3_000_000, help="training samples (default: 3e6)")
    parser.add_argument("--evaluate", type=positive, default=200, help="test points (default: 200)")
    parser.add_argument("--block", type=positive, default=50, help="test points at a time (default: 50)")
    parser.add_argument("--draws", type=positive, default=100, help="L (default: 100)")
    parser.add_argument("--chains", type=positive, default=32, help="a datapoint (default: 32)")
    parser.add_argument("--temperatures", type=positive, default=100, help="from the prior (default: 100)")
    parser.add_argument("--kept", type=positive, default=150, help="draws of each chain that are kept (default: 150)")
    parser.add_argument("--device", default="cpu")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and the tasks, a block of test points each."""
    args.evaluate = min(args.evaluate, len(load_dataset(args.dataset, root=args.data).test))
    names = ("dataset", "samples", "evaluate", "block", "draws", "chains", "temperatures", "kept", "device")
    blocks = range(0, args.evaluate, args.block)
    settings = {name: getattr(args, name) for name in names} | {"seed": 0}
    return Plan(settings, [Task(f"points from {first}", {"first": first}) for first in blocks])


QUICK = {"samples": 20_000, "evaluate": 10, "block": 10, "temperatures": 20}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
