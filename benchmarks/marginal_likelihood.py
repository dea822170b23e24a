"""log p(x) of AEVB, wake-sleep and Monte Carlo EM: Figure 3 of Kingma & Welling 2013.

Trains every learner on 100 and on 1000 of scikit-learn's digits, 100 hidden units and 3 latents, and prints log p(x)
(nats per datapoint, larger is better) on training and test points: by the paper's own estimator (Appendix D: 50
posterior samples to fit a density, 50 to weigh it, 4 leapfrog steps) and exactly, by quadrature.  On test points AEVB
ends above wake-sleep at both sizes; MCEM, on 100 digits, is 10 nats better on these than on others.

    python benchmarks/marginal_likelihood.py             # under 3 minutes on 2 cores
    test log p of aevb-b, N_train = 100: -26.2 ± 0.4 nats
    test log p of aevb-b, N_train = 1000: -25.7 ± 0.4 nats
    test log p of wake-sleep, N_train = 100: -26.9 ± 0.4 nats
    test log p of wake-sleep, N_train = 1000: -26.6 ± 0.4 nats
    largest mean excess of Appendix D over quadrature: at most 0.1 nats

    python benchmarks/marginal_likelihood.py --quick     # half a minute
    test log p of aevb-b, N_train = 100: -26.6 ± 0.4 nats
    test log p of wake-sleep, N_train = 100: -28.2 ± 0.4 nats
    largest mean excess of Appendix D over quadrature: at most 0.2 nats

The paper's figure is `--dataset mnist`; results and times are in benchmarks/README.md.

Quadrature costs more, so it is made for the first `--exact` of the evaluated points; "excess" is what Appendix D gives
too much on just these.  MCEM has no guide, so its posterior chains are annealed from the prior.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import curves
import harness
import numpy as np
import pyro
import torch
from compare_wake_sleep import BATCH_SIZE, COLORS, LABELS, make_learner, settings_of
from curves import Line
from harness import Benchmark, Plan, Task, aligned, positive, with_error

from pyro_aevb import VAE, PosteriorDensity, log_marginal_likelihood
from pyro_aevb.datasets import load_dataset
from pyro_aevb.learners import MCEM
from pyro_aevb.training import fit

LEARNERS = ("aevb-b", "wake-sleep", "mcem")
PAPER = {"aevb-b": "AEVB", "wake-sleep": "WS", "mcem": "MCEM"}
LATENT_DIM, HIDDEN = 3, 100
FIRST = 100  # a curve begins at this part of its samples
APPENDIX_D = PosteriorDensity(num_chains=10, num_leapfrog=4, num_warmup=20)


class Sizes(NamedTuple):
    """How much to train and to evaluate by default."""

    train: tuple[int, ...]
    samples: int
    exact: int


SIZES = {"digits": Sizes((100, 1000), 200_000, 30), "mnist": Sizes((1000, 50_000), 1_000_000, 100)}


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Train and evaluate one task; return its record, curve and all, unless ctrl-C came before its first evaluation."""
    name, num_train, seed = task.key.values()
    data = load_dataset(args.dataset, root=args.data)
    assert isinstance(data.train, torch.Tensor)  # static pixels
    train = data.train[:num_train]
    pyro.set_rng_seed(seed)
    vae = VAE(train.shape[1], LATENT_DIM, hidden_dims=(HIDDEN,), init=args.preset, dataset_size=len(train))
    learner = make_learner(name, vae, args.preset, guide_beside_mcem=False)
    guide = None if isinstance(learner, MCEM) else vae.guide
    samples = args.mcem_samples if name == "mcem" else args.samples
    first = min(samples, max(10 * BATCH_SIZE, samples // FIRST))
    points = np.geomspace(first, samples, args.evaluations) if args.evaluations > 1 else [samples]
    history = fit(
        learner,
        train,
        samples=samples,
        batch_size=min(BATCH_SIZE, len(train)),
        schedule=settings_of(name, args.preset).schedule,
        evaluate=evaluation(vae, guide, {"train": train, "test": data.test}, args),
        evaluate_at=sorted({int(p) for p in points}),
        seed=seed,
        progress=not args.quiet,
        label=task.label,
        bar_position=position,
        **harness.going_on(args, task),
    )
    return {"runs": [task.key | curves.record(history)]} if history.records else None


def evaluation(
    vae: VAE, guide: Callable[..., Any] | None, parts: dict[str, torch.Tensor], args: argparse.Namespace
) -> Callable[[], dict[str, float]]:
    """Return a function that gives mean log p(x) of the first points, always with the same noise.

    Keys, for each part: ``log_p`` by Appendix D and its ``log_p_error``, which covers the choice of points;
    ``log_p_exact`` by quadrature on the first ``exact`` points, ``excess`` of the one over the other on these, and the
    share of points with a ``high_pareto_k``, above 0.7.
    """

    def estimate(x: torch.Tensor, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="(pareto_k|the fitted density|quadrature did)"
            )  # all are recorded
            return log_marginal_likelihood(vae.model, guide, x, seed=0, progress=False, **options)

    def evaluate() -> dict[str, float]:
        values = {}
        for name, x in parts.items():
            upper = estimate(x[: args.evaluate], method=APPENDIX_D, num_particles=50)
            exact = estimate(x[: args.exact], method="quadrature")
            values[f"{name}_log_p"], values[f"{name}_log_p_error"] = upper.mean()
            values[f"{name}_log_p_exact"] = exact.mean().value
            values[f"{name}_excess"] = (upper.value[: args.exact] - exact.value).mean().item()
            values[f"{name}_high_pareto_k"] = (upper.pareto_k > 0.7).double().mean().item()
        return values

    return evaluate


# -- Results ----------------------------------------------------------------------------------------------------------


def published(dataset: str, num_train: int) -> dict[str, list[list[float]]]:
    """Return the paper's curves of a training size."""
    panel = curves.published(f"Fig3 Ntrain={num_train}") if dataset == "mnist" else {}
    return {name: [[1e6 * x, y] for x, y in curve] for name, curve in panel.items()}


def published_at(dataset: str, run: dict[str, Any], part: str) -> float | None:
    """Return the paper's value at the run's last sample count; ``None`` outside its curve."""
    curve = published(dataset, run["num_train"]).get(f"{PAPER[run['learner']]} {part}")
    samples = run["curve"][-1]["samples"]
    return None if curve is None or not curve[0][0] <= samples <= curve[-1][0] else curves.at(curve, samples)


def table(result: dict[str, Any]) -> str:
    """Return the results as a table, nats per datapoint."""
    header = ["N_train", "learner", "seed", "samples", "train", "test", "train exact", "test exact"]
    header += ["train excess", "test excess"]
    with_paper = any(published_at(result["dataset"], r, "test") is not None for r in result["runs"])
    rows = [[*header, *["paper's train", "paper's test"] * with_paper, "seconds"]]
    for r in sorted(result["runs"], key=lambda r: (r["num_train"], LEARNERS.index(r["learner"]), r["seed"])):
        last = r["curve"][-1]
        row = [str(r["num_train"]), r["learner"], str(r["seed"]), f"{last['samples']:.3g}"]
        row += [with_error(last, f"{part}_log_p") for part in ("train", "test")]
        row += [f"{last[f'{part}_log_p_exact']:.2f}" for part in ("train", "test")]
        row += [f"{last[f'{part}_excess']:+.2f}" for part in ("train", "test")]
        if with_paper:
            values = [published_at(result["dataset"], r, part) for part in ("train", "test")]
            row += ["" if v is None else f"{v:.1f}" for v in values]
        rows.append([*row, f"{r['seconds']:.0f}"])
    return aligned(rows)


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return Appendix D's log p(x) of test points, for the first seed, and by how much it is off at most."""
    last = [(r, r["curve"][-1]) for r in result["runs"] if r["seed"] == result["runs"][0]["seed"]]
    found = {f"test log p of {r['learner']}, N_train = {r['num_train']}": p["test_log_p"] for r, p in last}
    excess = max(abs(p[f"{part}_excess"]) for _, p in last for part in ("train", "test"))
    return found | {"largest mean excess of Appendix D over quadrature": excess}


def figure(result: dict[str, Any], path: Path) -> None:
    """Draw log p against training samples, a panel a training size: test solid, training dashed.

    Bars are standard errors, of the choice of test points too.  Crosses are Appendix D's values less their excess over
    quadrature, as far as that is known.
    """
    panels: dict[str, list[Line]] = {}
    for size in sorted({r["num_train"] for r in result["runs"]}):
        lines = panels[f"$N_{{train}}$ = {size}"] = []
        for r in (r for r in result["runs"] if r["num_train"] == size):
            x, color = [p["samples"] for p in r["curve"]], COLORS[r["learner"]]
            for part, style in (("test", "-"), ("train", "--")):
                y = [p[f"{part}_log_p"] for p in r["curve"]]
                error = [p[f"{part}_log_p_error"] for p in r["curve"]] if part == "test" else None
                lines.append(Line(f"{LABELS[r['learner']].split(' (')[0]}, {part}", x, y, color, style, error=error))
                y = [p[f"{part}_log_p"] - p[f"{part}_excess"] for p in r["curve"]]
                lines.append(Line(f"less its excess on {result['exact']} points", x, y, color, "x"))
        for name, learner in (("AEVB", "aevb-b"), ("WS", "wake-sleep"), ("MCEM", "mcem")):
            if curve := published(result["dataset"], size).get(f"{name} test"):
                label = f"{name.replace('WS', 'Wake-sleep')} test, paper"
                lines.append(Line(label, *zip(*curve, strict=True), COLORS[learner], published=True))
    title = f"Marginal likelihood by Appendix D, and exactly: {result['dataset']}, {result['preset']} preset"
    curves.draw(panels, title, "log p(x) (nats per datapoint)", path)


# -- The command ------------------------------------------------------------------------------------------------------


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=sorted(SIZES), default="digits")
    parser.add_argument("--train-sizes", type=positive, nargs="+", metavar="N", help="default: 100 1000 | 1000 50000")
    parser.add_argument("--samples", type=positive, help="training samples evaluated, each run (default: 2e5 | 1e6)")
    parser.add_argument(
        "--mcem-samples", type=positive, help="those of MCEM, whose steps take longer (default: as many)"
    )
    parser.add_argument("--evaluate", type=positive, default=1000, help="training and test points (default: 1000)")
    parser.add_argument("--exact", type=positive, help="of these, how many by quadrature too (default: 30 | 100)")
    parser.add_argument("--evaluations", type=positive, default=3, help="points of a curve (default: 3)")
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--preset", choices=("paper", "modern"), default="paper", help="as in compare_wake_sleep.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each learner, training size and seed, the longest first."""
    sizes = SIZES[args.dataset]
    args.train_sizes, args.samples = args.train_sizes or list(sizes.train), args.samples or sizes.samples
    args.mcem_samples = args.mcem_samples or args.samples
    args.exact = min(args.exact or sizes.exact, args.evaluate)
    available = len(load_dataset(args.dataset, root=args.data).train)  # fetches what is missing, once
    if max(args.train_sizes) > available:
        raise ValueError(f"expected --train-sizes up to {available} for {args.dataset}, got {max(args.train_sizes)}")
    tasks = [
        Task(f"{learner} N_train={size} seed {seed}", {"learner": learner, "num_train": size, "seed": seed})
        for learner in sorted(set(args.learners), key=LEARNERS.index, reverse=True)
        for size in dict.fromkeys(args.train_sizes)
        for seed in dict.fromkeys(args.seeds)
    ]
    names = ("dataset", "preset", "samples", "mcem_samples", "evaluate", "exact", "evaluations")
    return Plan({name: getattr(args, name) for name in names}, tasks)


def brief(parts: dict[str, Any]) -> str:
    """Return a run's last values in a line."""
    (run,) = parts["runs"]
    last = run["curve"][-1]
    return (
        f"train {last['train_log_p']:.2f}, test {last['test_log_p']:.2f} (exact, the first ones: "
        f"{last['train_log_p_exact']:.2f}, {last['test_log_p_exact']:.2f}) nats, {run['seconds']:.0f} s"
    )


QUICK = {
    "train_sizes": [100],
    "samples": 20_000,
    "mcem_samples": 5000,
    "evaluate": 25,
    "exact": 5,
    "evaluations": 1,
}
BENCHMARK = Benchmark(
    __file__, __doc__, options, plan, run, table, numbers, draw=figure, brief=brief, quick=QUICK, jobs=None
)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
