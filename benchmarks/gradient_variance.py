"""How noisy is the gradient?  Bias, variance and signal-to-noise ratio of every estimator here.

    python benchmarks/gradient_variance.py

draws the gradient of each estimator many times, on one minibatch of 100 datapoints and at fixed parameters: on a
linear-Gaussian model, whose gradient can be written down, and on a VAE of scikit-learn's digits at its initialisation,
after a tenth of its training and at the end; under 2 minutes on 2 cores.  What to expect, as the paper says: the score
function is noisiest by orders of magnitude, and L^B less noisy than L^A; sticking the landing wins where the guide is
close to the posterior; IWAE's signal for phi doesn't rise with K, and DReG's is several times larger.

With g_1, ..., g_n the draws for a group of parameters and r the reference (the closed form, or the mean over several
times as many draws of the quietest estimator with the same mean, more particles each where that is allowed):

* variance: the trace of the covariance of g, for the mean bound of the minibatch, in nats^2;
* signal-to-noise: |r| / sqrt(variance);
* bias: <mean g, r> / <r, r> - 1, with its standard error.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from compare_wake_sleep import check_writable, positive, replace
from matplotlib.ticker import NullLocator
from torch import Tensor
from tqdm import tqdm

import pyro_aevb
from pyro_aevb import AEVB, IWAE, SGVB, STL, VAE, VIMCO, DReG, Objective, ScoreFunction
from pyro_aevb.capture import Capture
from pyro_aevb.datasets import DATASETS, load_dataset
from pyro_aevb.training import fit

BATCH_SIZE = 100
REFERENCE_DRAWS, BATCHES = 4, 8  # times as many draws as an estimator's, in so many batches


class Estimator(NamedTuple):
    """An objective, by what it bounds, and how it is drawn."""

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
    "VIMCO": Estimator(VIMCO, "iwae", "tab:olive", 2),
    "IWAE": Estimator(IWAE, "iwae", "tab:blue", 2),
    "DReG": Estimator(DReG, "iwae", "tab:green", 2),
}
REFERENCES = {"elbo": ESTIMATORS["L^B"], "iwae": ESTIMATORS["DReG"]}


class Problem(NamedTuple):
    """A pair at fixed parameters, its minibatch, and the gradient of its evidence lower bound where that is known."""

    name: str
    model: Callable[..., Any]
    guide: Callable[..., Any]
    x: Tensor
    theta: dict[str, Tensor]
    phi: dict[str, Tensor]
    exact: dict[str, Tensor] | None = None


# -- Problems ---------------------------------------------------------------------------------------------------------


def linear_gaussian(seed: int, latent_dim: int = 5, data_dim: int = 20) -> Problem:
    """Return probabilistic PCA with a diagonal Gaussian guide near its optimum, and its gradients in closed form."""
    pyro.set_rng_seed(seed)
    x = torch.randn(BATCH_SIZE, latent_dim) @ torch.randn(latent_dim, data_dim) + 0.6 * torch.randn(
        BATCH_SIZE, data_dim
    )
    weight, bias, log_noise = torch.randn(data_dim, latent_dim), torch.zeros(data_dim), torch.tensor(-0.2)
    precision = torch.eye(latent_dim) + weight.T @ weight / (2 * log_noise).exp()
    slope = torch.linalg.solve(precision, weight.T) / (2 * log_noise).exp()
    theta = {"weight": weight, "bias": bias, "log_noise": log_noise}
    phi = {"slope": slope + 0.02 * torch.randn_like(slope), "log_scale": -0.5 * precision.diagonal().log() + 0.1}
    for leaf in (theta | phi).values():
        leaf.requires_grad_()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), latent_dim), 1.0).to_event(1))
            mean = z @ theta["weight"].T + theta["bias"]
            pyro.sample("x", dist.Normal(mean, theta["log_noise"].exp()).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = x @ phi["slope"].T
            pyro.sample("z", dist.Normal(loc, phi["log_scale"].exp().expand_as(loc)).to_event(1))

    weight, bias, log_noise = theta.values()
    loc, variance = x @ phi["slope"].T, (2 * phi["log_scale"]).exp()
    residual = (x - bias - loc @ weight.T).square().sum(-1) + (variance * weight.square().sum(0)).sum()
    bound = -data_dim * (0.5 * math.log(2 * math.pi) + log_noise) - 0.5 * residual / (2 * log_noise).exp()
    bound = bound + 0.5 * (1 + 2 * phi["log_scale"] - loc.square() - variance).sum(-1)
    leaves = theta | phi
    exact = dict(zip(leaves, torch.autograd.grad(bound.mean(), list(leaves.values())), strict=True))
    return Problem("linear-Gaussian", model, guide, x, theta, phi, exact)


def vae_problems(args: argparse.Namespace) -> list[Problem]:
    """Train a VAE and return it at its initialisation, at a tenth of the way, and at the end."""
    data = load_dataset(args.dataset, pixels="static", root=args.data)
    pyro.set_rng_seed(args.seed)
    vae = VAE(data.test.shape[1], args.latent_dim, hidden_dims=(100 if args.dataset == "digits" else 500,))
    learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-3, fused=True), SGVB(kl="analytic"))
    x = data.train[torch.arange(BATCH_SIZE)]
    problems = []
    for name, samples in (("initialisation", 0), ("mid-training", args.samples // 10), ("end", args.samples)):
        done = 0 if not problems else args.samples // 10 * (name == "end")
        if samples:
            fit(learner, data.train, samples=samples - done, seed=args.seed + len(problems), progress=not args.quiet)
        copy = VAE(vae.x_dim, vae.latent_dim, hidden_dims=(100 if args.dataset == "digits" else 500,))
        copy.load_state_dict(vae.state_dict())
        theta = {n: p for n, p in copy.named_parameters() if n.startswith("decoder")}
        phi = {n: p for n, p in copy.named_parameters() if n.startswith("encoder")}
        problems.append(Problem(f"VAE, {name}", copy.model, copy.guide, x, theta, phi))
    return problems


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


def measure(problem: Problem, args: argparse.Namespace, done: Callable[[], Any]) -> list[dict[str, Any]]:
    """Return a row for each estimator, number of particles and group of parameters."""
    rows = []
    known: dict[tuple[str, int], Reference] = {}
    for num_particles in args.particles:
        for name, estimator in ESTIMATORS.items():
            if num_particles < estimator.least_particles:
                continue
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
            done()
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
        widths = [max(len(c[i]) for c in cells) for i in range(len(header))]
        lines += ["", f"{problem}, K={particles}"]
        for row in cells:
            lines.append(
                "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            )
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
                ax.plot(
                    [r["particles"] for r in rows], [r[quantity] for r in rows], "o-", ms=4, lw=1.4, label=label(name),
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


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it writes as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(set(DATASETS) - {"frey-face"}), default="digits")
    parser.add_argument("--latent-dim", type=positive, help="default: 5, and 20 for other data than digits")
    parser.add_argument("--samples", type=positive, default=200_000, help="training samples of the VAE (default: 2e5)")
    parser.add_argument("--particles", type=positive, nargs="+", default=[1, 5, 20], metavar="K")
    parser.add_argument("--draws", type=positive, default=100, help="gradients an estimator (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder of the data files (default: $PYRO_AEVB_DATA, else a cache)")
    parser.add_argument("--out", type=Path, default=Path("out/gradient_variance"), help="folder for figure and numbers")
    parser.add_argument("--json", type=Path, help="where the JSON goes (default: results.json in --out)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    if args.draws < 2:
        parser.error(f"expected --draws of 2 or more, got {args.draws}")
    args.particles = sorted(set(args.particles))
    args.latent_dim = args.latent_dim or (5 if args.dataset == "digits" else 20)
    json_path = args.json or args.out / "results.json"
    check_writable(args.out)
    check_writable(json_path.parent)
    try:
        problems = [linear_gaussian(args.seed), *vae_problems(args)]
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/gradient_variance.py", *(sys.argv[1:] if argv is None else argv)]),
        "dataset": args.dataset,
        "latent_dim": args.latent_dim,
        "samples": args.samples,
        "particles": args.particles,
        "draws": args.draws,
        "seed": args.seed,
        "versions": {"pyro_aevb": pyro_aevb.__version__, "pyro": pyro.__version__, "torch": torch.__version__}
        | {"python": platform.python_version()},
        "rows": [],
    }
    total = len(problems) * sum(k >= e.least_particles for k in args.particles for e in ESTIMATORS.values())
    with tqdm(total=total, desc="estimators", disable=args.quiet) as bar:
        for problem in problems:
            result["rows"] += measure(problem, args, bar.update)
            replace(json_path, json.dumps(result, indent=1) + "\n")
    figure(result, args.out / "figure.png")
    print(f"Gradients of the mean bound (nats per datapoint) of {BATCH_SIZE} datapoints, {args.dataset}")
    print(table(result))
    print(f"\nwritten: {json_path}, {args.out / 'figure.png'}")
    return result


if __name__ == "__main__":
    main()
