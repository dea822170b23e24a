"""Five estimates of the same log p(x): a VAE with 2 latents, where quadrature is possible.

Trains the VAE (Adam, 200 tanh units, pixels sampled once), evaluates log p(x) of the first test points by every
method, and prints means with their difference to quadrature, nats per datapoint.

    python benchmarks/estimators.py --dataset mnist     # 5 minutes on one core
    log p(x): -150 ± 2 nats
    importance, K=5000, less quadrature: -0.6 ± 0.5 nats
    importance, K=5000, guide and prior mixed, less quadrature: 0.0 ± 0.1 nats
    AIS from the prior, 16 chains, 500 temperatures, less quadrature: 0.0 ± 0.1 nats
    amortization gap: 2.2 ± 1.0 nats

    python benchmarks/estimators.py --quick             # half a minute
    log p(x): -28.5 ± 0.5 nats
    importance, K=5000, less quadrature: 0.0 ± 0.05 nats
    AIS from the prior, 16 chains, 50 temperatures, less quadrature: 0.0 ± 0.2 nats

Importance is where the encoder is right; where it puts an image in the wrong place, K = 5000 draws don't reach the
right one, and pareto_k says so: a guide mixed with the prior is within 0.1 nats too.  The last line of the table splits
log p(x) - ELBO into what a diagonal Gaussian can't reach and what the encoder doesn't.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import harness
import pyro
import pyro.distributions as dist
import torch
from harness import Benchmark, Plan, Task, aligned, positive
from pyro.infer import TraceMeanField_ELBO

from pyro_aevb import AEVB, AIS, VAE, Evidence, Importance, PosteriorDensity, Quadrature, log_marginal_likelihood
from pyro_aevb.datasets import DATASETS, load_dataset
from pyro_aevb.evidence import evidence_gap
from pyro_aevb.training import fit


def methods(temperatures: int) -> dict[str, tuple[Any, int | None]]:
    """Return the estimators by name, with their numbers of particles."""
    fewer = max(1, temperatures // 5)
    return {
        "quadrature": (Quadrature(), None),
        "importance, K=5000": (Importance(), 5000),
        "importance, K=5000, guide and prior mixed": (Importance(), 5000),
        f"AIS from the prior, 16 chains, {temperatures} temperatures": (AIS(temperatures, num_leapfrog=5), 16),
        f"AIS from the guide, 16 chains, {fewer} temperatures": (AIS(fewer, num_leapfrog=5, start="guide"), 16),
        "Appendix D, 50 + 50 samples, 4 leapfrog steps": (PosteriorDensity(num_leapfrog=4), 50),
    }


def mixed(vae: VAE, share: float = 0.5) -> Callable[[torch.Tensor], None]:
    """Return a guide that draws from the prior with probability ``share``, else from q(z|x) (Hesterberg 1995).

    No weight is then above p(x|z) / share, whatever the encoder misses.
    """

    def guide(x: torch.Tensor) -> None:
        loc, log_variance = vae.encoder(x).chunk(2, -1)
        locs = torch.stack([loc, torch.zeros_like(loc)], -2)
        scales = torch.stack([(0.5 * log_variance).exp(), torch.ones_like(loc)], -2)
        weights = torch.tensor([1 - share, share]).expand(len(x), 2)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(locs, scales).to_event(1)))

    return guide


def row(name: str, evidence: Evidence, exact: Evidence, seconds: float) -> dict[str, Any]:
    """Return a method's line: its mean, and its difference to the exact values, over datapoints."""
    difference = evidence.value - exact.value
    k = evidence.pareto_k
    return {
        "method": name,
        "direction": evidence.direction,
        "mean": evidence.mean().value,
        "difference": difference.mean().item(),
        "difference_error": difference.std().item() / len(difference) ** 0.5,
        "largest_difference": difference.abs().max().item(),
        "standard_error": evidence.standard_error.square().mean().sqrt().item(),
        "high_pareto_k": None if k is None else (k > 0.7).double().mean().item(),
        "seconds": round(seconds, 2),
    }


def table(result: dict[str, Any]) -> str:
    """Return the results as a table, nats per datapoint."""
    rows = [["method", "bias", "log p(x)", "less quadrature", "largest", "error, each", "k > 0.7", "seconds"]]
    for r in result["rows"]:
        share = "" if r["high_pareto_k"] is None else f"{100 * r['high_pareto_k']:.0f}%"
        exact = r["direction"] == "numerical"
        difference = "" if exact else f"{r['difference']:+.3f} ± {r['difference_error']:.3f}"
        largest = "" if exact else f"{r['largest_difference']:.2f}"
        line = [r["method"], r["direction"], f"{r['mean']:.3f}", difference, largest, f"{r['standard_error']:.4f}"]
        rows.append([*line, share, f"{r['seconds']:.0f}"])
    gap = result["gap"]
    text = ", ".join(f"{name} {value:.3f} ± {error:.3f}" for name, (value, error) in gap.items())
    return f"{aligned(rows)}\n\nlog p(x) - ELBO: {text}"


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return log p(x), each method's difference to it, and the gap's parts."""
    exact, *others = result["rows"]
    found = {"log p(x)": exact["mean"]} | {f"{r['method']}, less quadrature": r["difference"] for r in others}
    return found | {f"{name} gap": value for name, (value, _) in result["gap"].items()}


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Train the VAE, evaluate by every method; what ctrl-C cuts short is dropped."""
    data = load_dataset(args.dataset, root=args.data)
    pyro.set_rng_seed(0)
    vae = VAE(data.test.shape[1], 2, hidden_dims=(200,), dataset_size=len(data.train))
    learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-3), TraceMeanField_ELBO())
    progress = not args.quiet
    history = fit(
        learner,
        data.train,
        samples=args.samples,
        schedule=lambda done: 1 - done,
        progress=progress,
        bar_position=position,
    )
    if history.interrupted:
        return None
    x = data.test[: args.evaluate]
    rows: list[dict[str, Any]] = []
    exact: Evidence | None = None
    for name, (method, num_particles) in methods(args.temperatures).items():
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(pareto_k|the fitted density)")  # in the table
            guide = mixed(vae) if "mixed" in name else vae.guide
            evidence = log_marginal_likelihood(
                vae.model, guide, x, method=method, num_particles=num_particles, seed=0, progress=progress
            )
        exact = exact or evidence
        rows.append(row(name, evidence, exact, time.perf_counter() - start))
    assert exact is not None
    gap = evidence_gap(vae.model, vae.guide, x, evidence=exact, num_particles=1000, seed=0, progress=progress)
    parts = {name: getattr(gap, name).mean() for name in ("total", "approximation", "amortization")}
    return {"gap": {name: [mean.value, mean.standard_error] for name, mean in parts.items()}, "rows": rows}


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=sorted(set(DATASETS) - {"frey-face"}), default="digits")
    parser.add_argument("--samples", type=positive, default=1_000_000, help="training samples (default: 1e6)")
    parser.add_argument("--evaluate", type=positive, default=100, help="test points (default: 100)")
    parser.add_argument("--temperatures", type=positive, default=500, help="of AIS from the prior (default: 500)")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and the only task."""
    evaluated = min(args.evaluate, len(load_dataset(args.dataset, root=args.data).test))
    task = Task("every method", {"method": "quadrature"})  # a row that is there when all of them are
    return Plan({"dataset": args.dataset, "samples": args.samples, "evaluate": evaluated}, [task])


QUICK = {"samples": 20_000, "evaluate": 20, "temperatures": 50}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
