"""How fast are the estimators of log p(x)?  Importance against its matrix products alone, AIS against a loop by hand.

Evaluates MNIST-sized images (784-500-20, untrained: time doesn't depend on weights) by importance with K = 5000, in
turns with nothing but the matrix products this takes, by the fastest kernel there is; and anneals 16 chains for each of
100 images, in turns with a hand-written PyTorch loop over the same log joint.  Reported are medians over turns of our
time over the reference's, and the peak of memory; lower bounds (nats) are printed so that one sees that something was
computed.

    python benchmarks/evidence_time.py --images 1000    # a minute on 2 quiet cores; 10000 images take ten times as long
    importance over its products: at most 2 times
    AIS over the loop by hand: at most 1.5 times
    peak of memory: at most 2 GB
    lower bound by importance: -558.7 ± 10 nats

    python benchmarks/evidence_time.py --quick          # half a minute
    importance over its products: at most 4 times
    AIS over the loop by hand: at most 2 times
    peak of memory: at most 2 GB
    lower bound by importance: -561 ± 10 nats
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import harness
import pyro
import torch
from harness import Benchmark, Plan, Task, aligned, peak_memory, positive
from rivals import fastest_product
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from pyro_aevb import VAE, Importance
from pyro_aevb.evidence import Problem
from pyro_aevb.samplers import ais
from pyro_aevb.samplers.annealed_path import AnnealedPath

LATENT_DIM, HIDDEN, X_DIM, BATCH_SIZE = 20, 500, 784, 100
CHAINS, LEAPFROG = 16, 10
OVER = {"importance": "its products", "AIS": "the loop by hand"}


def seconds(fn: Callable[[], Any]) -> float:
    """Return how long ``fn`` takes."""
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


@torch.no_grad()
def importance(vae: VAE, images: Tensor, num_particles: int, progress: bool) -> dict[str, Any]:
    """Time K draws a datapoint, a minibatch a turn, and the decoder's and encoder's products of as many."""
    batches = images.split(BATCH_SIZE)
    estimator = Importance()
    evaluate = estimator.prepare(
        Problem(vae.model, vae.guide, (batches[0],), num_particles, len(batches), vectorize=True, compile=True)
    )
    rows, product = estimator.rows_per_pass, fastest_product("cpu")
    sizes = [(BATCH_SIZE, X_DIM, HIDDEN), (BATCH_SIZE, HIDDEN, 2 * LATENT_DIM)]
    sizes += [(rows, LATENT_DIM, HIDDEN), (rows, HIDDEN, X_DIM)]
    factors = [(torch.randn(n, k), torch.randn(m, k)) for n, k, m in sizes]
    passes = max(1, BATCH_SIZE * num_particles // rows)

    def products() -> None:
        for _ in range(passes):
            for a, b in factors:
                product(a, b)

    ours: list[float] = []
    floor: list[float] = []
    values: list[Tensor] = []

    def estimate(batch: Tensor) -> None:
        values.append(evaluate(lambda part: None, batch).value)

    start = seconds(functools.partial(estimate, batches[0]))  # traces and compiles
    products()
    values.clear()
    for batch in tqdm(batches, desc="importance", disable=not progress, leave=False):
        ours.append(seconds(functools.partial(estimate, batch)))
        floor.append(seconds(products))
    return {
        "case": f"importance, K = {num_particles}, {len(images)} images",
        "ours_s": sum(ours),
        "reference": "matrix products alone",
        "reference_s": sum(floor),
        "ratio": statistics.median(a / b for a, b in zip(ours, floor, strict=True)),
        "first_call_s": start,
        "peak_GB": peak_memory(),
        "mean_nats": torch.cat(values).mean().item(),
    }


def by_hand(vae: VAE, x: Tensor, schedule: Tensor, step: float) -> Tensor:
    """Anneal from the prior as one would write it in PyTorch."""
    target = x.expand(CHAINS, -1, -1)

    def log_density(z: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        log_prior = -0.5 * (z.square() + 1.8378770664093453).sum(-1)
        log_likelihood = -binary_cross_entropy_with_logits(vae.decoder(z), target, reduction="none").sum(-1)
        value = log_prior + beta * log_likelihood
        (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), gradient

    z = torch.randn(CHAINS, len(x), LATENT_DIM)
    log_weight = torch.zeros(CHAINS, len(x))
    value, gradient = log_density(z, schedule[0])
    for t in range(1, len(schedule)):
        after, gradient = log_density(z, schedule[t])
        log_weight, value = log_weight + after - value, after
        if t == len(schedule) - 1:
            break
        momentum = torch.randn_like(z)
        start = value - 0.5 * momentum.square().sum(-1)
        new, new_value, new_gradient = z, value, gradient
        for _ in range(LEAPFROG):
            momentum = momentum + 0.5 * step * new_gradient
            new = new + step * momentum
            new_value, new_gradient = log_density(new, schedule[t])
            momentum = momentum + 0.5 * step * new_gradient
        accept = torch.rand_like(value).log() < new_value - 0.5 * momentum.square().sum(-1) - start
        z, gradient = torch.where(accept[..., None], new, z), torch.where(accept[..., None], new_gradient, gradient)
        value = torch.where(accept, new_value, value)
    return log_weight


def annealing(vae: VAE, images: Tensor, temperatures: int, rounds: int, progress: bool) -> dict[str, Any]:
    """Time annealing runs of ours and by hand, turn by turn."""
    x = images[:BATCH_SIZE]
    schedule = ais.sigmoid_schedule(temperatures).to(x)
    calls = 10 * rounds * temperatures * LEAPFROG  # enough for the compiler to pay
    path = AnnealedPath(vae.model, None, x, compile=True, expected_calls=calls)
    steps = torch.full((temperatures - 1, len(x)), 0.05)
    results: dict[str, Tensor] = {}

    def ours() -> None:
        results["ours"] = ais.anneal(path.at(x), schedule, path.draw(CHAINS, x), steps, LEAPFROG)

    def hand() -> None:
        results["hand"] = by_hand(vae, x, schedule, 0.05)

    start = seconds(ours)
    hand()
    spent = [(seconds(ours), seconds(hand)) for _ in tqdm(range(rounds), desc="AIS", disable=not progress, leave=False)]
    leapfrogs = (temperatures - 1) * LEAPFROG
    mine, theirs = (statistics.median(side) for side in zip(*spent, strict=True))
    return {
        "case": f"AIS, {CHAINS} chains, {len(x)} images, leapfrog steps a second",
        "ours_s": mine,
        "reference": "by hand",
        "reference_s": theirs,
        "ratio": statistics.median(a / b for a, b in spent),
        "ours_per_s": leapfrogs / mine,
        "reference_per_s": leapfrogs / theirs,
        "first_call_s": start,
        "peak_GB": peak_memory(),
        "mean_nats": (results["ours"].logsumexp(0) - torch.tensor(float(CHAINS)).log()).mean().item(),
    }


def table(result: dict[str, Any]) -> str:
    """Return the results as a table; "ratio" is our time over the reference's."""
    rows = [["case", "ours", "reference", "", "ratio", "first call s", "peak GB"]]
    for r in result["rows"]:
        speeds = "ours_per_s" in r
        pair = [f"{r[f'{who}_per_s']:.0f} /s" if speeds else f"{r[f'{who}_s']:.1f} s" for who in ("ours", "reference")]
        rows.append(
            [r["case"], *pair, r["reference"], f"{r['ratio']:.2f}", f"{r['first_call_s']:.0f}", f"{r['peak_GB']:.2f}"]
        )
    return aligned(rows)


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return ratios, memory, and the lower bounds."""
    names = ("importance", "AIS")
    rows = {name: r for name in names for r in result["rows"] if r["case"].startswith(name)}
    found = {f"{n} over {OVER[n]}": r["ratio"] for n, r in rows.items()}
    found["peak of memory"] = max(r["peak_GB"] for r in rows.values())
    return found | {f"lower bound by {n}": r["mean_nats"] for n, r in rows.items()}


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any]:
    """Time the estimators and their references."""
    pyro.set_rng_seed(0)
    vae = VAE(X_DIM, LATENT_DIM, hidden_dims=(HIDDEN,))
    images = torch.bernoulli(torch.full((args.images, X_DIM), 0.2))
    rows = [
        importance(vae, images, args.particles, not args.quiet),
        annealing(vae, images, args.temperatures, args.rounds, not args.quiet),
    ]
    return {"rows": rows}


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--images", type=positive, default=500, help="for importance (default: 500)")
    parser.add_argument("--particles", type=positive, default=5000, help="K (default: 5000)")
    parser.add_argument("--temperatures", type=positive, default=20, help="of each annealing run (default: 20)")
    parser.add_argument("--rounds", type=positive, default=5, help="annealing runs each (default: 5)")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and the only task."""
    task = Task("importance and AIS", {"reference": "by hand"})  # a row that is there when both are
    return Plan({"threads": torch.get_num_threads()}, [task])


QUICK = {"images": 100, "particles": 500, "temperatures": 3, "rounds": 3}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
