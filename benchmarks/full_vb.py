"""Full variational Bayes over theta (the paper's Appendix F) beside MAP and maximum likelihood, where a VAE overfits.

The same VAE, trained on few images with q(theta) a Gaussian for each weight of the decoder, with N(0, 1) priors on the
weights (MAP), and without (ML).  The guide's weights are parameters in all three.

    python benchmarks/full_vb.py             # 90 seconds on 2 cores
    peak, ml: -25.6 ± 0.3 nats
    peak, map: -25.1 ± 0.3 nats
    peak, full-vb: -25.4 ± 0.3 nats
    log p(x), ml: -26.9 ± 0.7 nats
    log p(x), map: -25.4 ± 0.5 nats
    log p(x), full-vb: -26.4 ± 0.6 nats

    python benchmarks/full_vb.py --quick     # 20 seconds
    peak, full-vb: -27.3 ± 0.3 nats

"peak" is the best test bound at any evaluation, "end" the last one, "log p(x)" that at the end by 200 importance draws
a test datapoint: of the point estimate, or of the posterior predictive over 20 draws of theta; of 200 test datapoints.
All in nats per datapoint.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from typing import Any

import harness
import pyro
import pyro.distributions as dist
import torch
from harness import Benchmark, Plan, Task, aligned, positive

from pyro_aevb import AEVB, SGVB, VAE, Bayesian, log_marginal_likelihood
from pyro_aevb.datasets import load_dataset
from pyro_aevb.training import fit
from pyro_aevb.training.history import ERROR

METHODS = ("ml", "map", "full-vb")
HIDDEN = {"digits": 100, "frey-face": 200}
IMPORTANCE_DRAWS, GLOBAL_DRAWS = 200, 20


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Train and evaluate by one method; what ctrl-C cuts short is dropped."""
    start = time.perf_counter()
    method = task.key["method"]
    data = load_dataset(args.dataset, pixels="static" if args.dataset != "frey-face" else None, root=args.data)
    train, test = (part[torch.arange(min(n, len(part)))] for part, n in ((data.train, args.train), (data.test, 1000)))
    pyro.set_rng_seed(args.seed)
    likelihood = "sigmoid-gaussian" if args.dataset == "frey-face" else "bernoulli"
    hidden = (args.hidden_dim,)
    vae = VAE(train.shape[1], args.latent_dim, hidden_dims=hidden, likelihood=likelihood, dataset_size=len(train))
    vae, train, test = vae.to(args.device), train.to(args.device), test.to(args.device)
    model, guide = vae.model, vae.guide
    if method == "full-vb":
        full = Bayesian(model, guide, train[:2])
        model, guide = full.model, full.guide
    prior = dist.Normal(0.0, 1.0) if method == "map" else None
    adam = functools.partial(torch.optim.Adam, lr=args.learning_rate, fused=True)
    history = fit(
        AEVB(model, guide, adam, SGVB(kl="analytic"), theta_prior=prior),
        train,
        test,
        samples=args.samples,
        evaluate_every=args.samples // 20,
        batch_size=min(args.batch_size, len(train)),
        seed=args.seed,
        progress=not args.quiet,
        label=task.label,
        bar_position=position,
    )
    if history.interrupted:
        return None
    bounds = [record.values["validation"] for record in history.records]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # heavy tails at the end of an overfitted run are what this is about
        evidence = log_marginal_likelihood(
            model,
            guide,
            test[:200],
            num_particles=IMPORTANCE_DRAWS,
            num_global_draws=GLOBAL_DRAWS,
            seed=0,
            progress=not args.quiet,
        )
    found = {
        "bounds": [round(bound, 3) for bound in bounds],
        "peak": max(bounds),
        "end": bounds[-1],
        "end_error": history.records[-1].values["validation" + ERROR],
        "log_p": evidence.mean().value,
        "log_p_error": evidence.mean().standard_error,
        "seconds": round(time.perf_counter() - start, 1),
    }
    return {"runs": [task.key | found]}


def table(result: dict[str, Any]) -> str:
    """Return a row for each method."""
    rows = [["method", "peak", "end", "log p(x) at the end", "seconds"]]
    for r in result["runs"]:
        rows.append(
            [
                r["method"],
                f"{r['peak']:.2f}",
                f"{r['end']:.2f} +- {r['end_error']:.2f}",
                f"{r['log_p']:.2f} +- {r['log_p_error']:.2f}",
                f"{r['seconds']:.0f}",
            ]
        )
    return aligned(rows)


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return each method's test bounds and log p(x)."""
    return {
        f"{shown}, {r['method']}": r[key]
        for r in result["runs"]
        for shown, key in (("peak", "peak"), ("end", "end"), ("log p(x)", "log_p"))
    }


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=("digits", "frey-face", "mnist"), default="digits")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--latent-dim", type=positive, default=5)
    parser.add_argument("--hidden-dim", type=positive, help="units of each hidden layer (default: by the data)")
    parser.add_argument("--train", type=positive, default=200, help="training images (default: the first 200)")
    parser.add_argument("--samples", type=positive, default=400_000, help="training samples a run (default: 4e5)")
    parser.add_argument("--batch-size", type=positive, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each method."""
    load_dataset(args.dataset, pixels="static" if args.dataset != "frey-face" else None, root=args.data)  # fetched once
    args.hidden_dim = args.hidden_dim or HIDDEN.get(args.dataset, 500)
    names = ("dataset", "latent_dim", "hidden_dim", "train", "samples", "batch_size", "learning_rate", "device", "seed")
    settings = {name: getattr(args, name) for name in names} | {"threads": torch.get_num_threads()}
    return Plan(settings, [Task(method, {"method": method}) for method in args.methods])


def brief(parts: dict[str, Any]) -> str:
    """Return a method's test bounds in a line."""
    (found,) = parts["runs"]
    return f"peak {found['peak']:.2f}, end {found['end']:.2f} nats, {found['seconds']:.0f} s"


QUICK = {"samples": 20_000, "methods": ["full-vb"]}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, brief=brief, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
