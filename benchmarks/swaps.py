"""Prior times posterior: bound, log p(x), active units and seconds of every pair.

    python benchmarks/swaps.py

trains the VAE of scikit-learn's digits, pixels binarized once, with each of four priors and four posteriors, in under
3 minutes on 2 cores.  The table for static MNIST is in benchmarks/README.md:

    python benchmarks/swaps.py --dataset mnist --samples 1e6

"bound" is the ELBO with 10 draws a datapoint, "log p(x)" the importance estimate with 1,000 (a lower bound), both in
nats per test datapoint with their standard errors; "k > 0.7" the share of datapoints whose importance weights have too
heavy a tail to be relied on.  A unit is active where the variance over the data of its posterior mean exceeds 0.01
(Burda, Grosse & Salakhutdinov 2016).
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pyro
import torch
from compare_wake_sleep import aligned, check_writable, positive, replace, versions
from tqdm import tqdm

from pyro_aevb import AEVB, SGVB, VAE, log_marginal_likelihood
from pyro_aevb.datasets import DATASETS, load_dataset
from pyro_aevb.evidence import elbo
from pyro_aevb.training import fit
from pyro_aevb.vae.priors import VampPrior

PRIORS, POSTERIORS = ("normal", "mixture", "vamp", "flow"), ("normal", "full", "low-rank", "iaf")


def run(prior: str, posterior: str, args: argparse.Namespace, data: Any) -> dict[str, Any]:
    """Train and evaluate one pair."""
    start = time.perf_counter()
    pyro.set_rng_seed(args.seed)
    x_dim = data.test.shape[1]
    size = {"digits": 100}.get(args.dataset, 500)
    made = VampPrior(args.pseudo_inputs, data.train[torch.arange(args.pseudo_inputs)]) if prior == "vamp" else prior
    vae = VAE(
        x_dim, args.latent_dim, hidden_dims=(size,), prior=made, posterior=posterior, dataset_size=len(data.train)
    )
    learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-3, fused=True), SGVB())
    fit(
        learner,
        data.train,
        samples=args.samples,
        schedule=lambda done: 1 - done,
        seed=args.seed,
        progress=not args.quiet,
        label=f"{prior} x {posterior}",
    )
    trained = time.perf_counter() - start
    test = data.test[torch.arange(min(args.evaluate, len(data.test)))]
    bound = elbo(vae.model, vae.guide, test, num_particles=10, seed=0, batch_size=100).mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the heavy tails that the table counts
        evidence = log_marginal_likelihood(
            vae.model, vae.guide, test, num_particles=1000, seed=0, batch_size=20, progress=not args.quiet
        )
    with torch.no_grad():
        active = int((vae.encode(test).var(0) > 0.01).sum())
    return {
        "prior": prior,
        "posterior": posterior,
        "test_elbo": bound.value,
        "test_elbo_error": bound.standard_error,
        "test_log_p": evidence.mean().value,
        "test_log_p_error": evidence.mean().standard_error,
        "heavy_tails": (evidence.pareto_k > 0.7).float().mean().item(),
        "active_units": active,
        "training_seconds": round(trained, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def table(result: dict[str, Any]) -> str:
    """Return a row for each pair."""
    rows = [["prior", "posterior", "bound", "log p(x)", "k > 0.7", "active units", "seconds"]]
    for r in result["runs"]:
        rows.append(
            [
                r["prior"],
                r["posterior"],
                f"{r['test_elbo']:.2f} +- {r['test_elbo_error']:.2f}",
                f"{r['test_log_p']:.2f} +- {r['test_log_p_error']:.2f}",
                f"{r['heavy_tails']:.0%}",
                f"{r['active_units']}",
                f"{r['seconds']:.0f}",
            ]
        )
    return aligned(rows)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it writes as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(set(DATASETS) - {"frey-face"}), default="digits")
    parser.add_argument("--priors", nargs="+", choices=PRIORS, default=list(PRIORS))
    parser.add_argument("--posteriors", nargs="+", choices=POSTERIORS, default=list(POSTERIORS))
    parser.add_argument("--latent-dim", type=positive, help="default: 5, and 20 for other data than digits")
    parser.add_argument("--pseudo-inputs", type=positive, help="of the VampPrior (default: 30, 100 for other data)")
    parser.add_argument("--samples", type=positive, default=50_000, help="training samples a run (default: 5e4)")
    parser.add_argument("--evaluate", type=positive, default=1000, help="test points (default: the first 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder of the data files (default: $PYRO_AEVB_DATA, else a cache)")
    parser.add_argument("--out", type=Path, default=Path("out/swaps"), help="folder for the numbers")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    args.latent_dim = args.latent_dim or (5 if args.dataset == "digits" else 20)
    args.pseudo_inputs = args.pseudo_inputs or (30 if args.dataset == "digits" else 100)
    check_writable(args.out)
    try:
        data = load_dataset(args.dataset, pixels="static", root=args.data)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/swaps.py", *(sys.argv[1:] if argv is None else argv)]),
        "dataset": args.dataset,
        "latent_dim": args.latent_dim,
        "samples": args.samples,
        "evaluate": args.evaluate,
        "pseudo_inputs": args.pseudo_inputs,
        "seed": args.seed,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "runs": [],
    }
    pairs = [(prior, posterior) for prior in args.priors for posterior in args.posteriors]
    for prior, posterior in tqdm(pairs, desc="pairs", disable=args.quiet):
        result["runs"].append(run(prior, posterior, args, data))
        replace(args.out / "results.json", json.dumps(result, indent=1) + "\n")
    print(f"nats per test datapoint, {args.dataset}, static pixels, {args.samples:.0e} training samples")
    print(table(result))
    print(f"\nwritten: {args.out / 'results.json'}")
    return result


if __name__ == "__main__":
    main()
