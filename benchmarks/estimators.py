"""Five estimates of the same log p(x): a VAE with 2 latents, where quadrature is exact.

    python benchmarks/estimators.py --dataset mnist

trains the VAE (Adam, 200 tanh units, pixels sampled once), evaluates log p(x) of the first test points by every
method, and prints means with their difference to quadrature, nats per datapoint, in about 5 minutes on one core.
AIS is within 0.1 nats.  Importance is where the encoder is right; where it puts an image in the wrong place, K = 5000
draws don't reach the right one, and pareto_k says so: a guide mixed with the prior is within 0.1 nats too.  The last
line splits log p(x) - ELBO into what a diagonal Gaussian can't reach and what the encoder doesn't.  The default,
digits, takes half a minute.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from compare_wake_sleep import aligned, check_writable, positive, replace, versions
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
        exact = r["direction"] == "exact"
        difference = "" if exact else f"{r['difference']:+.3f} ± {r['difference_error']:.3f}"
        largest = "" if exact else f"{r['largest_difference']:.2f}"
        line = [r["method"], r["direction"], f"{r['mean']:.3f}", difference, largest, f"{r['standard_error']:.4f}"]
        rows.append([*line, share, f"{r['seconds']:.0f}"])
    gap = result["gap"]
    text = ", ".join(f"{name} {value:.3f} ± {error:.3f}" for name, (value, error) in gap.items())
    return f"{aligned(rows)}\n\nlog p(x) - ELBO: {text}"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it writes as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(set(DATASETS) - {"frey-face"}), default="digits")
    parser.add_argument("--samples", type=positive, default=1_000_000, help="training samples (default: 1e6)")
    parser.add_argument("--evaluate", type=positive, default=100, help="test points (default: 100)")
    parser.add_argument("--temperatures", type=positive, default=500, help="of AIS from the prior (default: 500)")
    parser.add_argument("--data", type=Path, help="folder of the data files (default: $PYRO_AEVB_DATA, else a cache)")
    parser.add_argument("--out", type=Path, default=Path("out/estimators"), help="folder for the results")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    check_writable(args.out)
    try:
        data = load_dataset(args.dataset, root=args.data)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    pyro.set_rng_seed(0)
    vae = VAE(data.test.shape[1], 2, hidden_dims=(200,), dataset_size=len(data.train))
    learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-3), TraceMeanField_ELBO())
    history = fit(learner, data.train, samples=args.samples, schedule=lambda done: 1 - done, progress=not args.quiet)
    if history.interrupted:
        sys.exit("interrupted while training: nothing to report")
    x = data.test[: args.evaluate]
    rows: list[dict[str, Any]] = []
    exact: Evidence | None = None
    for name, (method, num_particles) in methods(args.temperatures).items():
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(pareto_k|the fitted density)")  # in the table
            guide = mixed(vae) if "mixed" in name else vae.guide
            evidence = log_marginal_likelihood(
                vae.model, guide, x, method=method, num_particles=num_particles, seed=0, progress=not args.quiet
            )
        exact = exact or evidence
        rows.append(row(name, evidence, exact, time.perf_counter() - start))
    assert exact is not None
    gap = evidence_gap(vae.model, vae.guide, x, evidence=exact, num_particles=1000, seed=0, progress=not args.quiet)
    parts = {name: getattr(gap, name).mean() for name in ("total", "approximation", "amortization")}
    words = sys.argv[1:] if argv is None else argv
    result = {
        "dataset": args.dataset,
        "command": shlex.join(["python", "benchmarks/estimators.py", *words]),
        "samples": args.samples,
        "evaluate": len(x),
        "versions": versions(),
        "gap": {name: [mean.value, mean.standard_error] for name, mean in parts.items()},
        "rows": rows,
    }
    replace(args.out / "results.json", json.dumps(result, indent=1) + "\n")
    print(f"\nlog p(x) of {len(x)} {args.dataset} test points, nats per datapoint")
    print(table(result))
    print(f"\nwritten: {args.out / 'results.json'}")
    return result


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing is written")
