"""Images of another kind: which score tells them from those that a model was trained on?

Trains a VAE with 20 latents (Adam, 400 tanh units, a continuous Bernoulli of grey pixels) and scores test images of its
data set and of another one: by minus the ELBO, by -log p(x) by importance, by how far that is from the usual
(typicality: Nalisnick et al. 2019), by the likelihood regret (Xiao et al. 2020: what a q of the datapoint's own gains
on the guide's, `evidence_gap`'s amortization) and by the tail of the importance weights (k-hat).  Reported is the area
under the ROC curve: the share of pairs of images in which the other one has the larger score.

    python benchmarks/anomaly.py --dataset fashion-mnist --other mnist    # five minutes on 2 cores
    AUROC, regret: at least 0.98
    AUROC, -log p(x): at most 0.4

    python benchmarks/anomaly.py --quick                                  # 30 seconds
    AUROC, regret: at least 0.6

By default the other images are digits upside down.  MNIST is easier than Fashion-MNIST for a model of the latter: its
images have a larger p(x), and a score by p(x) alone takes them for the usual ones.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from typing import Any

import harness
import torch
from harness import Benchmark, Plan, Task, aligned, positive
from sklearn.metrics import roc_auc_score
from trained_vae import trained

from pyro_aevb import VAE, log_marginal_likelihood
from pyro_aevb.datasets import DATASETS, load_dataset
from pyro_aevb.evidence import evidence_gap

UPSIDE_DOWN = "upside-down"
SCORES = ("-ELBO", "-log p(x)", "typicality", "regret", "k-hat")


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Score the test images of one of the two data sets."""
    parts = {"hidden_dim": 400, "pixels": "grey", "learning_rate": 2e-3, "likelihood": "continuous-bernoulli"}
    vae = trained(args, args.out / f"vae-{args.dataset}-{args.samples}", position, **parts)
    if vae is None:
        return None
    start = time.perf_counter()
    found = scores(vae, images(task.key["images"], args), args)
    seconds = time.perf_counter() - start
    columns = {name: [round(v, 4) for v in values.tolist()] for name, values in found.items()}
    rows = [task.key | dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {"images": rows, "seconds": [task.key | {"seconds": round(seconds, 1)}]}


def images(name: str, args: argparse.Namespace) -> torch.Tensor:
    """Return test images (N, D) of a data set, or those of the model's own upside down."""
    data = load_dataset(args.dataset if name == UPSIDE_DOWN else name, pixels="grey", root=args.data)
    x = data.test[: args.evaluate]
    return x.reshape(-1, *data.image_shape).flip(1).flatten(1) if name == UPSIDE_DOWN else x


def scores(vae: VAE, x: torch.Tensor, args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Return what can be said of each image, larger where it is less usual."""
    options: dict[str, Any] = {"seed": 0, "batch_size": 100, "progress": not args.quiet}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pareto_k")  # it is one of the scores
        evidence = log_marginal_likelihood(
            vae.model, vae.guide, x, method="importance", num_particles=args.particles, **options
        )
    gap = evidence_gap(vae.model, vae.guide, x, evidence=evidence, num_steps=args.steps, num_particles=50, **options)
    assert evidence.pareto_k is not None
    return {
        "-ELBO": -gap.elbo.value,
        "-log p(x)": -evidence.value,
        "regret": gap.amortization.value,
        "k-hat": evidence.pareto_k,
    }


def areas(result: dict[str, Any]) -> dict[str, float]:
    """Return the area under the ROC curve of each score."""
    of = {
        which: {name: torch.tensor([r[name] for r in rows]) for name in SCORES if name != "typicality"}
        for which in (result["dataset"], result["other"])
        if (rows := [r for r in result["images"] if r["images"] == which])
    }
    if len(of) < 2:
        return {}
    usual, other = of[result["dataset"]], of[result["other"]]
    middle = usual["-log p(x)"].median()
    for its in (usual, other):
        its["typicality"] = (its["-log p(x)"] - middle).abs()
    truth = [0] * len(usual["regret"]) + [1] * len(other["regret"])
    return {name: float(roc_auc_score(truth, torch.cat([usual[name], other[name]]).numpy())) for name in SCORES}


def table(result: dict[str, Any]) -> str:
    """Return a row for each score."""
    found = areas(result)
    seconds = ", ".join(f"{r['images']} {r['seconds']:.0f} s" for r in result["seconds"])
    rows = [["score", "AUROC"], *([name, f"{area:.4f}"] for name, area in found.items())]
    return f"{aligned(rows, left=True)}\n\nscoring {result['evaluate']} images each: {seconds}"


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return what the header promises."""
    return {f"AUROC, {name}": area for name, area in areas(result).items()}


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    names = sorted(set(DATASETS) - {"frey-face", "binarized-mnist"})
    parser.add_argument("--dataset", choices=names, default="digits")
    parser.add_argument("--other", choices=[UPSIDE_DOWN, *names], default=UPSIDE_DOWN)
    parser.add_argument("--samples", type=positive, default=2_000_000, help="training samples (default: 2e6)")
    parser.add_argument("--evaluate", type=positive, default=500, help="test images of each (default: 500)")
    parser.add_argument("--particles", type=positive, default=500, help="K of importance (default: 500)")
    parser.add_argument("--steps", type=positive, default=200, help="of Adam for the regret (default: 200)")
    parser.add_argument("--device", default="cpu")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each data set."""
    args.evaluate = min(args.evaluate, len(load_dataset(args.dataset, pixels="grey", root=args.data).test))
    names = ("dataset", "other", "samples", "evaluate", "particles", "steps", "device")
    settings = {name: getattr(args, name) for name in names} | {"seed": 0}
    return Plan(settings, [Task(name, {"images": name}) for name in (args.dataset, args.other)])


QUICK = {"samples": 100_000, "evaluate": 60, "particles": 100, "steps": 100}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
