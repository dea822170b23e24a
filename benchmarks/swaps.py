"""Prior times posterior: bound, log p(x), active units and seconds of every pair.

Trains the VAE of scikit-learn's digits, pixels binarized once, with each of four priors and four posteriors.

    python benchmarks/swaps.py             # under 3 minutes on 2 cores
    log p(x) of normal x normal: -26.0 ± 0.5 nats
    log p(x) of flow x normal: -25.3 ± 0.5 nats
    log p(x) of vamp x iaf: -27.2 ± 0.8 nats

    python benchmarks/swaps.py --quick     # 20 seconds
    log p(x) of normal x normal: -30.8 ± 0.5 nats
    log p(x) of vamp x normal: -27.5 ± 0.5 nats

The table for static MNIST, `--dataset mnist --samples 1e6`, is in benchmarks/README.md.

"bound" is the ELBO with 10 draws a datapoint, "log p(x)" the importance estimate with 1,000 (a lower bound), both in
nats per test datapoint with their standard errors; "k > 0.7" the share of datapoints whose importance weights have too
heavy a tail to be relied on.  A unit is active where the variance over the data of its posterior mean exceeds 0.01
(Burda, Grosse & Salakhutdinov 2016).
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from typing import Any

import harness
import pyro
import torch
from harness import Benchmark, Plan, Task, aligned, positive

from pyro_aevb import AEVB, SGVB, VAE, log_marginal_likelihood
from pyro_aevb.datasets import DATASETS, load_dataset
from pyro_aevb.evidence import elbo
from pyro_aevb.training import fit
from pyro_aevb.vae.priors import VampPrior

PRIORS, POSTERIORS = ("normal", "mixture", "vamp", "flow"), ("normal", "full", "low-rank", "iaf")


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Train and evaluate one pair; what ctrl-C cuts short is dropped."""
    start = time.perf_counter()
    prior, posterior = task.key.values()
    data = load_dataset(args.dataset, pixels="static", root=args.data)
    pyro.set_rng_seed(args.seed)
    x_dim = data.test.shape[1]
    size = {"digits": 100}.get(args.dataset, 500)
    made = VampPrior(args.pseudo_inputs, data.train[torch.arange(args.pseudo_inputs)]) if prior == "vamp" else prior
    vae = VAE(
        x_dim, args.latent_dim, hidden_dims=(size,), prior=made, posterior=posterior, dataset_size=len(data.train)
    )
    learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-3, fused=True), SGVB())
    history = fit(
        learner,
        data.train,
        samples=args.samples,
        schedule=lambda done: 1 - done,
        seed=args.seed,
        progress=not args.quiet,
        label=task.label,
        bar_position=position,
    )
    if history.interrupted:
        return None
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
    found = {
        "test_elbo": bound.value,
        "test_elbo_error": bound.standard_error,
        "test_log_p": evidence.mean().value,
        "test_log_p_error": evidence.mean().standard_error,
        "heavy_tails": (evidence.pareto_k > 0.7).float().mean().item(),
        "active_units": active,
        "training_seconds": round(trained, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return {"runs": [task.key | found]}


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


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return log p(x) of each pair."""
    return {f"log p(x) of {r['prior']} x {r['posterior']}": r["test_log_p"] for r in result["runs"]}


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=sorted(set(DATASETS) - {"frey-face"}), default="digits")
    parser.add_argument("--priors", nargs="+", choices=PRIORS, default=list(PRIORS))
    parser.add_argument("--posteriors", nargs="+", choices=POSTERIORS, default=list(POSTERIORS))
    parser.add_argument("--latent-dim", type=positive, help="default: 5, and 20 for other data than digits")
    parser.add_argument("--pseudo-inputs", type=positive, help="of the VampPrior (default: 30, 100 for other data)")
    parser.add_argument("--samples", type=positive, default=50_000, help="training samples a run (default: 5e4)")
    parser.add_argument("--evaluate", type=positive, default=1000, help="test points (default: the first 1000)")
    parser.add_argument("--seed", type=int, default=0)


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each pair."""
    args.latent_dim = args.latent_dim or (5 if args.dataset == "digits" else 20)
    args.pseudo_inputs = args.pseudo_inputs or (30 if args.dataset == "digits" else 100)
    load_dataset(args.dataset, pixels="static", root=args.data)  # fetches what is missing, once
    names = ("dataset", "latent_dim", "samples", "evaluate", "pseudo_inputs", "seed")
    settings = {name: getattr(args, name) for name in names} | {"threads": torch.get_num_threads()}
    pairs = [(prior, posterior) for prior in args.priors for posterior in args.posteriors]
    return Plan(settings, [Task(f"{a} x {b}", {"prior": a, "posterior": b}) for a, b in pairs])


def brief(parts: dict[str, Any]) -> str:
    """Return a pair's log p(x) in a line."""
    (run,) = parts["runs"]
    return f"log p(x) {run['test_log_p']:.2f} nats, {run['seconds']:.0f} s"


QUICK = {"priors": ["normal", "vamp"], "posteriors": ["normal", "full"], "samples": 10_000, "evaluate": 100}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, brief=brief, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
