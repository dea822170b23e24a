"""Half of an image hidden: what does the model say of it, by an encoder pass, by weights and by chains?

Trains a VAE (Adam, 200 tanh units, N_z = 20, or 10 for Frey Face) on whole images, hides the lower half of the first
test images and fills them in by each method of `impute`.  The encoder sees 0 in the place of a hidden pixel.  Reported:

- nats: log p(x_hidden | x_observed) by the mean of p(x_hidden | z) over the draws of z, for each image;
- squared error of the hidden pixels' mean, and how many of them lie in their 90% intervals (continuous ones only);
- how many images have the sum of their hidden pixels in its 90% interval: are the draws as varied as they should be?
- the draws that can be trusted.

    python benchmarks/inpainting.py --dataset mnist        # ten minutes on 2 cores
    nats, auto less guide: at least 5
    sum within 90%, auto: at least 0.8

    python benchmarks/inpainting.py --dataset frey-face --samples 2000000   # ten minutes
    nats, auto less guide: at least 5

    python benchmarks/inpainting.py --quick                # half a minute
    nats, auto: -14 ± 3 nats
    sum within 90%, auto: at least 0.5

The figure has an image a column: whole, half, and each method's mean and two draws.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import Benchmark, Plan, Task, aligned, positive
from trained_vae import trained

from pyro_aevb import VAE, impute
from pyro_aevb.datasets import DATASETS, load_dataset
from pyro_aevb.plots import image_rows, write_figure
from pyro_aevb.posterior.cells import are_discrete, cells_of
from pyro_aevb.posterior.impute import Imputed

METHODS = ("guide", "importance", "hmc", "auto")
LATENT_DIMS = {"frey-face": 10}
PARTS = {"frey-face": {"likelihood": "sigmoid-gaussian"}}
SHOWN = 12  # images in the figure
HIDDEN_GREY = 0.5


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Fill in the lower half of the test images by one method."""
    folder = args.out / f"vae-{args.dataset}-{args.samples}"
    latent_dim = LATENT_DIMS.get(args.dataset, 20)
    vae = trained(args, folder, position, latent_dim=latent_dim, **PARTS.get(args.dataset, {}))
    if vae is None:
        return None
    method = task.key["method"]
    x, observed = halves(args)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the draws of")  # counted in the table
        found = impute(
            vae.model, vae.guide, x, observed, method=method, num_draws=args.draws, batch_size=args.batch_size, seed=1,
            progress=not args.quiet,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    row = task.key | measures(vae, x, observed, found) | {"seconds_an_image": round(seconds / len(x), 4)}
    shown = torch.stack([found.mean, *found.draws[:2].to(found.mean)])[:, :SHOWN]
    pictures = args.out / "shown"
    pictures.mkdir(parents=True, exist_ok=True)
    whole = torch.stack([x, torch.where(observed, x, HIDDEN_GREY)])[:, :SHOWN]
    for name, images in (("x", whole), (method, shown)):
        np.save(pictures / f"{name}.npy", (images.clamp(0, 1) * 255).round().byte().numpy())
    return {"runs": [row]}


def halves(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Return test images (N, D), and which of their pixels are shown."""
    data = load_dataset(args.dataset, root=args.data)
    x = data.test[: args.evaluate]
    observed = torch.zeros_like(x, dtype=torch.bool)
    observed[:, : x.shape[1] // 2] = True
    return x, observed


@torch.no_grad()
def measures(vae: VAE, x: torch.Tensor, observed: torch.Tensor, found: Imputed) -> dict[str, Any]:
    """Return how the hidden pixels compare with what was found."""
    fn = cells_of(vae.likelihood(vae.decoder(found.posterior.draws["z"])))[0]
    log_p = torch.where(observed, 0.0, fn.log_prob(x)).sum(-1)  # (L, N)
    nats = log_p.logsumexp(0) - torch.tensor(len(log_p)).log()
    hidden = ~observed
    low, high = found.interval(0.9)
    sums = torch.where(hidden, found.draws, 0.0).sum(-1)
    true = torch.where(hidden, x, 0.0).sum(-1)
    ends = sums.quantile(torch.tensor([0.05, 0.95]), 0)
    cells = ((low <= x) & (x <= high))[hidden].float().mean().item()
    return {
        "nats": nats.mean().item(),
        "nats_error": (nats.std() / len(nats) ** 0.5).item(),
        "each_nats": [round(v, 3) for v in nats.tolist()],
        "squared_error": (found.mean - x)[hidden].square().mean().item(),
        "cells_within": None if are_discrete(fn).all() else cells,
        "sums_within": ((ends[0] <= true) & (true <= ends[1])).float().mean().item(),
        "trusted": found.posterior.trusted.float().mean().item(),
        "methods": {name: found.posterior.method.count(name) for name in sorted(set(found.posterior.method))},
    }


def table(result: dict[str, Any]) -> str:
    """Return a row for each method."""
    head = ["method", "nats of the hidden", "squared error", "pixels in 90%", "sums in 90%", "trusted", "s an image"]
    rows = [[*head, "served by"]]
    for r in result["runs"]:
        rows.append(
            [
                r["method"],
                f"{r['nats']:.2f} +- {r['nats_error']:.2f}",
                f"{r['squared_error']:.4f}",
                "" if r["cells_within"] is None else f"{100 * r['cells_within']:.1f}%",
                f"{100 * r['sums_within']:.1f}%",
                f"{100 * r['trusted']:.1f}%",
                f"{r['seconds_an_image']:.3f}",
                ", ".join(f"{count} {name}" for name, count in r["methods"].items()),
            ]
        )
    return aligned(rows, left=True)


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return what the header promises."""
    runs = {r["method"]: r for r in result["runs"]}
    found = {f"nats, {name}": r["nats"] for name, r in runs.items()}
    found |= {f"sum within 90%, {name}": r["sums_within"] for name, r in runs.items()}
    if {"auto", "guide"} <= runs.keys():
        found["nats, auto less guide"] = runs["auto"]["nats"] - runs["guide"]["nats"]
    return found


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw an image a column: whole, half, each method's mean and two draws."""
    shown, names = ["x", *(r["method"] for r in result["runs"])], ["whole", "half"]
    names += [f"{method}: {what}" for method in shown[1:] for what in ("mean", "a draw", "another")]
    images = np.concatenate([np.load(path.parent / "shown" / f"{name}.npy") for name in shown])  # (rows, SHOWN, D)
    rows = dict(zip(names, torch.from_numpy(images).float() / 255, strict=True))
    write_figure(image_rows(rows, result["image_shape"]).figure, path)


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="digits")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--samples", type=positive, default=3_000_000, help="training samples (default: 3e6)")
    parser.add_argument("--evaluate", type=positive, default=100, help="test images (default: 100)")
    parser.add_argument("--batch-size", type=positive, default=50, help="images at a time (default: 50)")
    parser.add_argument("--draws", type=positive, default=200, help="L (default: 200)")
    parser.add_argument("--device", default="cpu")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each method."""
    data = load_dataset(args.dataset, root=args.data)
    args.evaluate = min(args.evaluate, len(data.test))
    names = ("dataset", "samples", "evaluate", "batch_size", "draws", "device")
    settings = {name: getattr(args, name) for name in names} | {"image_shape": list(data.image_shape), "seed": 1}
    return Plan(settings, [Task(method, {"method": method}) for method in args.methods])


QUICK = {"samples": 20_000, "evaluate": 12, "methods": ["guide", "auto"]}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, draw=draw, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
