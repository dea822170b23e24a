"""Codes with few labels: the error of a support vector machine on codes, on principal components and on pixels.

Trains a VAE with 20 latents without labels (Adam, 200 tanh units, pixels sampled once), and then a support vector
machine with a Gaussian kernel on the first n labelled images of a random order: on the means of q(z|x), on the means of
p(z|x) by importance, on as many principal components and on the pixels, each divided by one number.  The penalty and
the width of the kernel are chosen by 5-fold cross-validation among the labelled.  Errors are in per cent of the test
images, means of several draws of the labelled images.

    python benchmarks/representation.py --dataset mnist            # twenty minutes on 2 cores
    error at 3000, codes: at most 5
    error at 100, codes: at most 25

    python benchmarks/representation.py --quick                    # 20 seconds
    error at 100, codes: at most 45
"""

from __future__ import annotations

import argparse
import functools
import math
import warnings
from typing import Any

import harness
import numpy as np
import torch
from harness import Benchmark, Plan, Task, aligned, positive
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC
from trained_vae import trained

from pyro_aevb import VAE
from pyro_aevb.datasets import load_dataset, load_labels
from pyro_aevb.posterior import posterior

FEATURES = ("codes", "posterior codes", "principal components", "pixels")
LABELS = {"digits": [100, 600, 1000], "mnist": [100, 600, 1000, 3000]}
GRID = {"C": [1.0, 3.0, 10.0, 30.0], "gamma": [0.25, 0.5, 1.0, 2.0, 4.0]}  # gamma: times 1 / dimensions


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Train on the labelled images of each draw and each size, on one kind of features."""
    vae = trained(args, args.out / f"vae-{args.dataset}-{args.samples}", position)
    if vae is None:
        return None
    data = load_dataset(args.dataset, root=args.data)
    train_y, test_y = (labels.numpy() for labels in load_labels(args.dataset, root=args.data))
    test_y = test_y[: args.evaluate]
    rows = []
    orders = [np.random.default_rng(draw).permutation(len(train_y)) for draw in range(args.label_draws)]
    used = np.unique(np.concatenate([order[: max(args.labels)] for order in orders]))
    found = features(task.key["features"], vae, data.train, data.test[: args.evaluate], used, args)
    place = {n: i for i, n in enumerate(used)}
    for count in args.labels:
        errors = []
        for order in orders:
            chosen = [place[n] for n in order[:count]]
            errors.append(error_rate(found[0][chosen], train_y[order[:count]], found[1], test_y))
        rows.append(task.key | {"labels": count, "error": float(np.mean(errors)), "errors": errors})
    return {"runs": rows}


def features(
    kind: str, vae: VAE, train: torch.Tensor, test: torch.Tensor, used: np.ndarray, args: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray]:
    """Return features of the labelled images and of the test images, scaled by one number."""
    few = train[torch.from_numpy(used)]
    if kind == "pixels":
        both = few.numpy(), test.numpy()
    elif kind == "principal components":
        pca = PCA(vae.latent_dim, random_state=0).fit(train.numpy())
        both = pca.transform(few.numpy()), pca.transform(test.numpy())
    else:
        both = codes(vae, few, kind, args), codes(vae, test, kind, args)
    middle, width = both[0].mean(0), both[0].std()
    return (both[0] - middle) / width, (both[1] - middle) / width


def codes(vae: VAE, x: torch.Tensor, kind: str, args: argparse.Namespace) -> np.ndarray:
    """Return the means of q(z|x), or those of p(z|x) by importance."""
    if kind == "codes":
        with torch.no_grad():
            return vae.encode(x).numpy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the draws of")  # of some the weights have a heavy tail
        found = posterior(
            vae.model, vae.guide, x, method="importance", num_draws=100, num_particles=500, batch_size=500, seed=0,
            progress=not args.quiet,
        )  # fmt: skip
    return found.mean("z").numpy()


def error_rate(train: np.ndarray, train_y: np.ndarray, test: np.ndarray, test_y: np.ndarray) -> float:
    """Return the error on the test images of a support vector machine, in per cent."""
    grid = {"C": GRID["C"], "gamma": [gamma / train.shape[1] for gamma in GRID["gamma"]]}
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # 100 labels may have 4 of a digit
        machine = GridSearchCV(SVC(), grid, cv=folds).fit(train, train_y)
    return round(100 * float(np.mean(machine.predict(test) != test_y)), 3)


def table(result: dict[str, Any]) -> str:
    """Return a row for each kind of features, and a column for each number of labels."""
    rows = [["error on", *(f"{count} labels" for count in result["labels"])]]
    for kind in result["features"]:
        runs = {r["labels"]: r for r in result["runs"] if r["features"] == kind}
        cells = [runs.get(count) for count in result["labels"]]
        rows.append([kind, *("" if r is None else f"{r['error']:.2f} +- {error_of(r['errors']):.2f}" for r in cells)])
    return aligned(rows, left=True)


def error_of(values: list[float]) -> float:
    """Return the standard error of a mean."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return what the header promises."""
    return {f"error at {r['labels']}, {r['features']}": r["error"] for r in result["runs"]}


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=list(FEATURES))
    parser.add_argument("--samples", type=positive, default=3_000_000, help="training samples (default: 3e6)")
    parser.add_argument("--labels", nargs="+", type=positive, help="labelled images (default: by the data)")
    parser.add_argument("--label-draws", type=positive, default=5, help="orders of the labelled images (default: 5)")
    parser.add_argument("--evaluate", type=positive, default=10_000, help="test images (default: 1e4)")
    parser.add_argument("--device", default="cpu")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each kind of features."""
    args.evaluate = min(args.evaluate, len(load_dataset(args.dataset, root=args.data).test))
    args.labels = args.labels or LABELS[args.dataset]
    names = ("dataset", "features", "samples", "labels", "label_draws", "evaluate", "device")
    return Plan({name: getattr(args, name) for name in names}, [Task(f, {"features": f}) for f in args.features])


def brief(parts: dict[str, Any]) -> str:
    """Return the errors in a line."""
    return ", ".join(f"{r['error']:.2f} at {r['labels']}" for r in parts["runs"])


QUICK = {"samples": 20_000, "labels": [100], "label_draws": 2, "features": ["codes", "pixels"]}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, brief=brief, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
