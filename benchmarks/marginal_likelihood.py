"""log p(x) of AEVB, wake-sleep and Monte Carlo EM: Figure 3 of Kingma & Welling 2013.

    python benchmarks/marginal_likelihood.py

trains every learner on 100 and on 1000 of scikit-learn's digits in under 3 minutes on 2 cores, 100 hidden units and 3
latents, and prints log p(x) (nats per datapoint, larger is better) on training and test points: by the paper's own
estimator (Appendix D: 50 posterior samples to fit a density, 50 to weigh it, 4 leapfrog steps) and exactly, by
quadrature.  On test points AEVB ends above wake-sleep at both sizes; MCEM, on 100 digits, is 10 nats better on these
than on others.  The paper's figure is `--dataset mnist`; results and times are in benchmarks/README.md.

Quadrature costs more, so it is made for the first `--exact` of the evaluated points; "excess" is what Appendix D gives
too much on just these.  MCEM has no guide, so its posterior chains are annealed from the prior.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from compare_wake_sleep import (
    BATCH_SIZE,
    COLORS,
    LABELS,
    aligned,
    check_writable,
    finished_runs,
    make_learner,
    positive,
    record,
    run_all,
    versions,
    write,
)
from compare_wake_sleep import Task as Training
from tqdm import tqdm

from pyro_aevb import VAE, PosteriorDensity, log_marginal_likelihood
from pyro_aevb.datasets import load_dataset
from pyro_aevb.learners.mcem_with_guide import MCEMWithGuide
from pyro_aevb.training import fit

LEARNERS = ("aevb-b", "wake-sleep", "mcem")
PAPER = {"aevb-b": "AEVB", "wake-sleep": "WS", "mcem": "MCEM"}
NAMES = ("learner", "num_train", "seed")
LATENT_DIM, HIDDEN = 3, 100
APPENDIX_D = PosteriorDensity(num_chains=10, num_leapfrog=4, num_warmup=20)


class Sizes(NamedTuple):
    """How much to train and to evaluate by default."""

    train: tuple[int, ...]
    samples: int
    exact: int


SIZES = {"digits": Sizes((100, 1000), 200_000, 30), "mnist": Sizes((1000, 50_000), 1_000_000, 100)}


class Task(NamedTuple):
    """One run: which learner on how many datapoints, from which seed, for how long, and what is evaluated how often."""

    dataset: str
    learner: str
    num_train: int
    seed: int
    samples: int
    evaluate: int
    exact: int
    evaluations: int
    preset: str

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.learner} N_train={self.num_train} seed {self.seed}"


def run(task: Task, root: Path | None, progress: bool, position: int | None = None) -> dict[str, Any]:
    """Train and evaluate one task; return its record, curve and all."""
    data = load_dataset(task.dataset, root=root)
    assert isinstance(data.train, torch.Tensor)  # static pixels
    train = data.train[: task.num_train]
    pyro.set_rng_seed(task.seed)
    vae = VAE(train.shape[1], LATENT_DIM, hidden_dims=(HIDDEN,), init=task.preset, dataset_size=len(train))
    training = Training(
        task.dataset, None, task.preset, task.learner, LATENT_DIM, task.seed, task.samples, None, "auto", "float32"
    )
    learner = make_learner(training, vae)
    guide = None if isinstance(learner, MCEMWithGuide) else vae.guide
    first = min(task.samples, max(10 * BATCH_SIZE, task.samples // 30))
    history = fit(
        learner.mcem if isinstance(learner, MCEMWithGuide) else learner,
        train,
        samples=task.samples,
        batch_size=min(BATCH_SIZE, len(train)),
        evaluate=evaluation(vae, guide, {"train": train, "test": data.test}, task),
        evaluate_at=sorted({int(p) for p in np.geomspace(first, task.samples, task.evaluations)}),
        seed=task.seed,
        progress=progress,
        label=task.label,
        bar_position=position,
    )
    return {"learner": task.learner, "num_train": task.num_train, "seed": task.seed} | record(history)


def evaluation(
    vae: VAE, guide: Callable[..., Any] | None, parts: dict[str, torch.Tensor], task: Task
) -> Callable[[], dict[str, float]]:
    """Return a function that gives mean log p(x) of the first points, always with the same noise.

    Keys, for each part: ``log_p`` by Appendix D, ``log_p_exact`` by quadrature on the first ``exact`` points,
    ``excess`` of the one over the other on these, and the share of points with a ``high_pareto_k``, above 0.7.
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
            upper = estimate(x[: task.evaluate], method=APPENDIX_D, num_particles=50)
            exact = estimate(x[: task.exact], method="quadrature")
            values[f"{name}_log_p"] = upper.mean().value
            values[f"{name}_log_p_exact"] = exact.mean().value
            values[f"{name}_excess"] = (upper.value[: task.exact] - exact.value).mean().item()
            values[f"{name}_high_pareto_k"] = (upper.pareto_k > 0.7).double().mean().item()
        return values

    return evaluate


# -- Results ----------------------------------------------------------------------------------------------------------


def published(dataset: str, num_train: int) -> dict[str, list[list[float]]]:
    """Return the paper's curves {"AEVB test": [[samples, log p], ...], ...} for a panel; empty where it has none."""
    curves = json.loads((Path(__file__).parent / "paper_curves.json").read_text())
    panel = curves.get(f"Fig3 Ntrain={num_train}", {}) if dataset == "mnist" else {}
    return {name: [[1e6 * x, y] for x, y in curve] for name, curve in panel.items()}


def published_at(dataset: str, run: dict[str, Any], part: str) -> float | None:
    """Return the paper's value at the run's last sample count, interpolated; ``None`` outside its curve."""
    curve = published(dataset, run["num_train"]).get(f"{PAPER[run['learner']]} {part}")
    samples = run["curve"][-1]["samples"]
    if curve is None or not curve[0][0] <= samples <= curve[-1][0]:
        return None
    x, y = np.array(curve).T
    return float(np.interp(np.log(samples), np.log(x), y))


def table(result: dict[str, Any]) -> str:
    """Return the results as a table, nats per datapoint."""
    header = ["N_train", "learner", "seed", "samples", "train", "test", "train exact", "test exact"]
    header += ["train excess", "test excess"]
    with_paper = any(published_at(result["dataset"], r, "test") is not None for r in result["runs"])
    rows = [[*header, *["paper's train", "paper's test"] * with_paper, "seconds"]]
    for r in sorted(result["runs"], key=lambda r: (r["num_train"], LEARNERS.index(r["learner"]), r["seed"])):
        last = r["curve"][-1]
        row = [str(r["num_train"]), r["learner"], str(r["seed"]), f"{last['samples']:.3g}"]
        row += [f"{last[f'{part}_{key}']:.2f}" for key in ("log_p", "log_p_exact") for part in ("train", "test")]
        row += [f"{last[f'{part}_excess']:+.2f}" for part in ("train", "test")]
        if with_paper:
            values = [published_at(result["dataset"], r, part) for part in ("train", "test")]
            row += ["" if v is None else f"{v:.1f}" for v in values]
        rows.append([*row, f"{r['seconds']:.0f}"])
    return aligned(rows)


def figure(result: dict[str, Any], path: Path) -> None:
    """Draw log p against training samples, a panel a training size: test solid, training dashed.

    Crosses are Appendix D's values less their excess over quadrature, as far as that is known.
    """
    sizes = sorted({r["num_train"] for r in result["runs"]})
    width = 1.5 + 4.2 * max(2, len(sizes))
    fig, axes = plt.subplots(1, len(sizes), figsize=(width, 4.8), squeeze=False, layout="constrained")
    handles: dict[str, Any] = {}
    for ax, size in zip(axes[0], sizes, strict=True):
        runs = [r for r in result["runs"] if r["num_train"] == size]
        points = [p for r in runs for p in r["curve"]]
        for r in runs:
            x = [p["samples"] for p in r["curve"]]
            for part, style in (("test", "-"), ("train", "--")):
                y = [p[f"{part}_log_p"] for p in r["curve"]]
                label = f"{LABELS[r['learner']].split(' (')[0]}, {part}"
                (handles[label],) = ax.plot(x, y, style, color=COLORS[r["learner"]], lw=1.6, marker=".")
                y = [p[f"{part}_log_p"] - p[f"{part}_excess"] for p in r["curve"]]
                (cross,) = ax.plot(x, y, "x", color=COLORS[r["learner"]], ms=6)
            handles[f"less its excess on {result['exact']} points"] = cross
        span = [p["samples"] for p in points]
        values = [p[f"{part}_log_p"] for p in points for part in ("train", "test")]
        late = [p[f"{part}_log_p"] for p in points for part in ("train", "test") if p["samples"] >= max(span) / 30]
        low, high = min(late), max(values)
        for name, color in (("AEVB", "tab:red"), ("WS", "tab:green"), ("MCEM", "tab:blue")):
            if curve := published(result["dataset"], size).get(f"{name} test"):
                x, y = np.array(curve).T
                near = (x >= min(span)) & (x <= 1.3 * max(span)) & (y > low)
                if near.sum() > 1:
                    label = f"{name.replace('WS', 'Wake-sleep')} test, paper"
                    (handles[label],) = ax.plot(x[near], y[near], color=color, lw=3.5, alpha=0.3)
        margin = 0.05 * (high - low) + 1e-6
        ax.set(xscale="log", xlim=(min(span) * 0.9, max(span) * 1.1), ylim=(low - margin, high + margin))
        ax.set_title(f"$N_{{train}}$ = {size}")
        ax.set_xlabel("training samples evaluated")
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("log p(x) (nats per datapoint)")
    fig.suptitle(f"Marginal likelihood by Appendix D, and exactly: {result['dataset']}, {result['preset']} preset")
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    fig.savefig(path, dpi=110)
    plt.close(fig)


# -- The command ------------------------------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(SIZES), default="digits")
    parser.add_argument("--train-sizes", type=positive, nargs="+", metavar="N", help="default: 100 1000 | 1000 50000")
    parser.add_argument("--samples", type=positive, help="training samples evaluated, each run (default: 2e5 | 1e6)")
    parser.add_argument("--evaluate", type=positive, default=1000, help="training and test points (default: 1000)")
    parser.add_argument("--exact", type=positive, help="of these, how many by quadrature too (default: 30 | 100)")
    parser.add_argument("--evaluations", type=positive, default=3, help="points of a curve (default: 3)")
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--preset", choices=("paper", "modern"), default="paper", help="as in compare_wake_sleep.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--jobs", type=positive, help="runs at a time, sharing the cores (default: one a core)")
    parser.add_argument("--data", type=Path, help="folder of the data files (default: $PYRO_AEVB_DATA, else a cache)")
    parser.add_argument("--out", type=Path, default=Path("out/marginal_likelihood"), help="folder for the results")
    parser.add_argument("--resume", action="store_true", help="keep the whole runs of an earlier, interrupted command")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    sizes = SIZES[args.dataset]
    args.train_sizes = args.train_sizes or list(sizes.train)
    args.samples, args.exact = args.samples or sizes.samples, args.exact or sizes.exact
    return args


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it writes as JSON."""
    args = parse(argv)
    json_path = args.out / "results.json"
    check_writable(args.out)
    try:
        data = load_dataset(args.dataset, root=args.data)  # fetches what is missing, once
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    if max(args.train_sizes) > len(data.train):
        sys.exit(f"expected --train-sizes up to {len(data.train)} for {args.dataset}, got {max(args.train_sizes)}")
    exact = min(args.exact, args.evaluate)
    tasks = [
        Task(
            args.dataset,
            learner,
            num_train,
            seed,
            samples=args.samples,
            evaluate=args.evaluate,
            exact=exact,
            evaluations=args.evaluations,
            preset=args.preset,
        )
        for learner in sorted(set(args.learners), key=LEARNERS.index, reverse=True)  # the longest first
        for num_train in dict.fromkeys(args.train_sizes)
        for seed in dict.fromkeys(args.seeds)
    ]
    jobs = min(len(tasks), args.jobs or torch.get_num_threads())
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--resume"]
    result: dict[str, Any] = {
        "dataset": args.dataset,
        "preset": args.preset,
        "command": shlex.join(["python", "benchmarks/marginal_likelihood.py", *words]),
        "samples": args.samples,
        "evaluate": args.evaluate,
        "exact": exact,
        "evaluations": args.evaluations,
        "runs_at_a_time": jobs,
        "threads_a_run": max(1, torch.get_num_threads() // jobs),
        "versions": versions(),
        "runs": [],
    }
    total = len(tasks)
    if args.resume:
        wanted = {(task.learner, task.num_train, task.seed): task for task in tasks}
        for earlier in finished_runs(json_path, result):
            if wanted.pop(tuple(earlier[name] for name in NAMES), None):
                result["runs"].append(earlier)
        tasks = list(wanted.values())
        tqdm.write(f"{total - len(tasks)} of {total} runs are there; {len(tasks)} to make")

    def done(task: Task, run: dict[str, Any]) -> None:
        result["runs"].append(run)
        write(result, args.out, json_path, NAMES)
        last = run["curve"][-1]
        tqdm.write(
            f"[{len(result['runs'])}/{total}] {task.label}: train {last['train_log_p']:.2f}, "
            f"test {last['test_log_p']:.2f} (exact, first {exact}: {last['train_log_p_exact']:.2f}, "
            f"{last['test_log_p_exact']:.2f}), {run['seconds']:.0f} s"
        )

    ending = run_all(tasks, jobs, functools.partial(run, root=args.data, progress=not args.quiet), done)
    if result["runs"]:
        figure(result, args.out / "figure.png")
        print(f"\nlog p(x) in nats per datapoint, {args.dataset}, {args.preset} preset")
        print(table(result))
        print(f"\nwritten: {json_path}, {args.out / 'curves.csv'}, {args.out / 'figure.png'}")
    if ending.interrupted:
        print("interrupted: the runs above are what there is", file=sys.stderr)
        sys.exit(130)
    if ending.failures:
        sys.exit("\n".join(["these runs ended with a loss that is not finite:", *ending.failures]))
    return result


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a clean exit, which takes the workers along
    main()
