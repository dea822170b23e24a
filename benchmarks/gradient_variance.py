"""How noisy is the gradient?  Bias, variance and signal-to-noise ratio of every estimator here.

Draws the gradient of each estimator many times, on one minibatch of 100 datapoints and at fixed parameters: on a
linear-Gaussian model, whose gradient can be written down, and on a VAE of scikit-learn's digits at its initialisation,
after a tenth of its training and at the end.  As the paper says, the score function is noisiest by orders of magnitude,
and L^B less noisy than L^A; sticking the landing wins where the guide is close to the posterior; IWAE's signal for phi
doesn't rise with K, and DReG's is several times larger.  The numbers are ratios of variances for phi at the middle K.

    python benchmarks/gradient_variance.py             # under 2 minutes on 2 cores
    score function / L^A, linear-Gaussian: at least 1000 times
    L^A / L^B, linear-Gaussian: 1.06 ± 0.1 times
    L^A / L^B, VAE, initialisation: 3.8 ± 1 times
    IWAE / DReG, VAE, end: at least 10 times
    largest bias in standard errors: at most 4

    python benchmarks/gradient_variance.py --quick     # 40 seconds
    score function / L^A, linear-Gaussian: at least 1000 times
    L^A / L^B, VAE, initialisation: 3.8 ± 1.5 times
    IWAE / DReG, VAE, end: at least 4 times
    largest bias in standard errors: at most 5

With g_1, ..., g_n the draws for a group of parameters and r the reference (the closed form, or the mean over several
times as many draws of the quietest estimator with the same mean, more particles each where that is allowed):

* variance: the trace of the covariance of g, for the mean bound of the minibatch, in nats^2;
* signal-to-noise: |r| / sqrt(variance);
* bias: <mean g, r> / <r, r> - 1, with its standard error.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import harness
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from gradient_problems import BATCH_SIZE, STAGES, Problem, linear_gaussian, vae_problem
from harness import Benchmark, Plan, Task, aligned, positive
from matplotlib.ticker import NullLocator
from torch import Tensor
from tqdm import tqdm

from pyro_aevb import IWAE, SGVB, STL, VIMCO, Blend, DReG, Objective, ScoreFunction
from pyro_aevb.capture import Capture
from pyro_aevb.datasets import DATASETS, load_dataset

REFERENCE_DRAWS, BATCHES = 4, 8  # times as many draws as an estimator's, in so many batches


class Estimator(NamedTuple):
    """An objective, by what it bounds, and its color; those of K particles' bound are dashed."""

    make: Callable[[int], Objective]
    bound: str
    color: str
    least_particles: int = 1


ESTIMATORS = {
    "score function": Estimator(ScoreFunction, "elbo", "tab:gray"),
    "score, leave-one-out": Estimator(
        functools.partial(ScoreFunction, baseline="leave-one-out"), "elbo", "tab:brown", 2
    ),
    "L^A": Estimator(SGVB, "elbo", "tab:orange"),
    "L^B": Estimator(functools.partial(SGVB, kl="analytic"), "elbo", "tab:red"),
    "STL": Estimator(STL, "elbo", "tab:purple"),
    "Blend": Estimator(Blend, "elbo", "black"),  # its share is that of the draws before
    "VIMCO": Estimator(VIMCO, "iwae", "goldenrod", 2),
    "IWAE": Estimator(IWAE, "iwae", "tab:blue", 2),
    "DReG": Estimator(DReG, "iwae", "tab:cyan", 2),
}
REFERENCES = {"elbo": ESTIMATORS["L^B"], "iwae": ESTIMATORS["DReG"]}


# -- Measuring --------------------------------------------------------------------------------------------------------


class Moments:
    """Mean and summed variance of the draws of a gradient, by parameter, and their projections on a reference."""

    def __init__(self, problem: Problem, reference: dict[str, Tensor] | None = None) -> None:
        self.count = 0
        names = problem.theta | problem.phi
        self.mean = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in names.items()}
        self.squares = dict.fromkeys(names, 0.0)
        self.reference = reference
        self.projections: list[dict[str, float]] = []

    def add(self, gradient: dict[str, Tensor]) -> None:
        """Take in one draw (Welford)."""
        self.count += 1
        for name, value in gradient.items():
            value = value.double()
            difference = value - self.mean[name]
            self.mean[name] += difference / self.count
            self.squares[name] += (difference * (value - self.mean[name])).sum().item()
        if self.reference is not None:
            self.projections.append({n: (g * self.reference[n]).sum().item() for n, g in gradient.items()})

    def variance(self, names: list[str]) -> float:
        """Return the trace of the covariance over these parameters."""
        return sum(self.squares[n] for n in names) / (self.count - 1)


def draws(problem: Problem, objective: Objective, count: int, moments: Moments) -> Moments:
    """Add ``count`` gradients of the minibatch's mean bound to ``moments``."""
    leaves = problem.theta | problem.phi

    def gradients(x: Tensor) -> tuple[Tensor]:
        loss = objective.differentiable_loss(problem.model, problem.guide, x) / len(x)
        loss.backward()
        return (loss.detach(),)

    capture = Capture(gradients, lambda: leaves, [problem.model, problem.guide, objective], compile="auto")
    capture.expected_calls = count
    for _ in range(count):
        for leaf in leaves.values():
            leaf.grad = None
        capture(problem.x)
        moments.add({n: -leaf.grad for n, leaf in leaves.items() if leaf.grad is not None})
    return moments


class Reference(NamedTuple):
    """The true gradient, or an estimate of it with the means of the batches that it is the mean of."""

    gradient: dict[str, Tensor]
    batches: list[dict[str, Tensor]]


def reference(problem: Problem, bound: str, num_particles: int, count: int) -> Reference:
    """Return the gradient of a bound: in closed form where there is one, else from ``count`` draws."""
    if bound == "elbo" and problem.exact is not None:
        return Reference({n: g.double() for n, g in problem.exact.items()}, [])
    objective = REFERENCES[bound].make(num_particles)
    batches = [draws(problem, objective, -(-count // BATCHES), Moments(problem)).mean for _ in range(BATCHES)]
    return Reference({n: sum(batch[n] for batch in batches) / BATCHES for n in batches[0]}, batches)


def measure(problem: Problem, args: argparse.Namespace, position: int | None) -> list[dict[str, Any]]:
    """Return a row for each estimator, number of particles and group of parameters."""
    rows = []
    known: dict[tuple[str, int], Reference] = {}
    cases = [(k, name) for k in args.particles for name, e in ESTIMATORS.items() if k >= e.least_particles]
    with tqdm(cases, desc=problem.name, disable=args.quiet, position=position, leave=False) as bar:
        for num_particles, name in bar:
            estimator = ESTIMATORS[name]
            # The gradient of the evidence lower bound has the same mean for every K.
            key = (estimator.bound, max(args.particles) if estimator.bound == "elbo" else num_particles)
            if key not in known:
                pyro.set_rng_seed(args.seed + 1)
                known[key] = reference(problem, *key, REFERENCE_DRAWS * args.draws)
            pyro.set_rng_seed(args.seed + 2)
            objective = estimator.make(num_particles)
            moments = draws(problem, objective, args.draws, Moments(problem, known[key].gradient))
            for group, members in groups(problem).items():
                rows.append(
                    {"problem": problem.name, "estimator": name, "particles": num_particles, "group": group}
                    | statistics(moments, known[key], members)
                )
    return rows


def groups(problem: Problem) -> dict[str, list[str]]:
    """Return the parameters by group: theta, phi, and each tensor of them."""
    return {"theta": list(problem.theta), "phi": list(problem.phi)} | {n: [n] for n in problem.theta | problem.phi}


def statistics(moments: Moments, known: Reference, names: list[str]) -> dict[str, float | None]:
    """Return what the docstring of this file defines, for one group."""

    def product(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
        return sum((a[n] * b[n]).sum().item() for n in names)

    variance, size = moments.variance(names), product(known.gradient, known.gradient)
    along = np.array([sum(p.get(n, 0.0) for n in names) for p in moments.projections]) / size
    doubt = along.var(ddof=1) / len(along)
    if known.batches:
        # <r, r> is too large by the noise in r; what that is in all, and along r, the batches tell.
        apart = sum(product(batch, batch) for batch in known.batches) / BATCHES - size
        along = along / (1 - apart / (BATCHES - 1) / size)
        doubt += np.var([product(batch, known.gradient) / size for batch in known.batches], ddof=1) / BATCHES
    return {
        "variance": variance,
        "signal_to_noise": math.sqrt(size / variance) if variance > 0 else None,
        "bias": float(along.mean() - 1),
        "bias_standard_error": float(math.sqrt(doubt)),
    }


# -- Showing ----------------------------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    """Return bias, variance and signal-to-noise of theta and phi at the middle number of particles."""
    particles = result["particles"][len(result["particles"]) // 2]
    header = ["", "variance phi", "SNR phi", "bias phi %", "variance theta", "SNR theta", "bias theta %"]
    lines = []
    for problem in dict.fromkeys(row["problem"] for row in result["rows"]):
        cells = [header]
        for name in ESTIMATORS:
            row = {
                r["group"]: r
                for r in result["rows"]
                if (r["problem"], r["estimator"], r["particles"]) == (problem, name, particles)
            }
            if row:
                cells.append([name, *(cell for group in ("phi", "theta") for cell in _cells(row[group]))])
        lines += ["", f"{problem}, K={particles}", aligned(cells, left=True, rule=False)]
    return "\n".join(lines).strip("\n")


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['variance']:.3g}",
        f"{row['signal_to_noise']:.3g}" if row["signal_to_noise"] is not None else "no noise",
        f"{100 * row['bias']:.1f} +- {100 * row['bias_standard_error']:.1f}",
    ]


def figure(result: dict[str, Any], path: Path) -> None:
    """Draw variance and signal-to-noise ratio of the gradients against K, a column a problem."""
    problems = list(dict.fromkeys(row["problem"] for row in result["rows"]))
    lines = [("variance", "phi"), ("variance", "theta"), ("signal_to_noise", "phi")]
    labels = {
        ("variance", "phi"): r"variance, $\phi$ (nats$^2$)",
        ("variance", "theta"): r"variance, $\theta$ (nats$^2$)",
        ("signal_to_noise", "phi"): r"signal-to-noise, $\phi$",
    }
    size = (3.2 * len(problems) + 0.6, 8.2)
    fig, axes = plt.subplots(3, len(problems), figsize=size, squeeze=False, sharex=True, layout="constrained")
    for column, problem in enumerate(problems):
        axes[0, column].set_title(problem)
        for ax, (quantity, group) in zip(axes[:, column], lines, strict=True):
            for name, estimator in ESTIMATORS.items():
                rows = [
                    r for r in result["rows"] if (r["problem"], r["estimator"], r["group"]) == (problem, name, group)
                ]
                style = "o-" if estimator.bound == "elbo" else "s--"
                ax.plot(
                    [r["particles"] for r in rows], [r[quantity] for r in rows], style, ms=4, lw=1.4, label=label(name),
                    color=estimator.color,
                )  # fmt: skip
            ax.set(xscale="log", yscale="log")
            ax.set_xticks(result["particles"], [str(k) for k in result["particles"]])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.grid(alpha=0.3)
        axes[-1, column].set_xlabel("particles K")
    for ax, line in zip(axes[:, 0], lines, strict=True):
        ax.set_ylabel(labels[line])
    handles, names = axes[0, 0].get_legend_handles_labels()
    fig.suptitle(
        f"Gradients of the mean bound of {BATCH_SIZE} datapoints, {result['dataset']} "
        r"(for $\theta$ all estimators of one bound are the same)"
    )
    fig.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def label(name: str) -> str:
    """Return an estimator's name as the figure shows it."""
    return {"L^A": "$L^A$", "L^B": "$L^B$", "STL": "sticking the landing"}.get(name, name)


# -- The command ------------------------------------------------------------------------------------------------------


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return ratios of variances for phi at the middle number of particles, and the largest bias."""
    middle = result["particles"][len(result["particles"]) // 2]
    variance = {(r["problem"], r["estimator"], r["particles"], r["group"]): r["variance"] for r in result["rows"]}
    found = {}
    for problem in dict.fromkeys(r["problem"] for r in result["rows"]):
        for noisy, quiet in (("score function", "L^A"), ("L^A", "L^B"), ("L^A", "STL"), ("IWAE", "DReG")):
            key = (problem, noisy, middle, "phi")
            if key in variance:
                found[f"{noisy} / {quiet}, {problem}"] = variance[key] / variance[problem, quiet, middle, "phi"]
    biases = [abs(r["bias"]) / r["bias_standard_error"] for r in result["rows"] if r["bias_standard_error"]]
    return found | {"largest bias in standard errors": max(biases)}


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Make the problem and measure; what ctrl-C cuts short is dropped."""
    linear = task.label == "linear-Gaussian"
    problem = linear_gaussian(args.seed) if linear else vae_problem(task.label, args, position)
    return None if problem is None else {"rows": measure(problem, args, position)}


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=sorted(set(DATASETS) - {"frey-face"}), default="digits")
    parser.add_argument("--latent-dim", type=positive, help="default: 5, and 20 for other data than digits")
    parser.add_argument("--samples", type=positive, default=200_000, help="training samples of the VAE (default: 2e5)")
    parser.add_argument("--particles", type=positive, nargs="+", default=[1, 5, 20], metavar="K")
    parser.add_argument("--draws", type=positive, default=100, help="gradients an estimator (default: 100)")
    parser.add_argument("--seed", type=int, default=0)


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each problem."""
    if args.draws < 2:
        raise ValueError(f"expected --draws of 2 or more, got {args.draws}")
    args.particles = sorted(set(args.particles))
    args.latent_dim = args.latent_dim or (5 if args.dataset == "digits" else 20)
    load_dataset(args.dataset, pixels="static", root=args.data)  # fetches what is missing, once
    names = ("dataset", "latent_dim", "samples", "particles", "draws", "seed")
    tasks = [Task(problem, {"problem": problem}) for problem in ("linear-Gaussian", *STAGES)]
    return Plan({name: getattr(args, name) for name in names}, tasks)


QUICK = {"samples": 20_000, "particles": [5], "draws": 10}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, draw=figure, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
