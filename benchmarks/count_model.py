"""A model of counts in cells, three times: this library's `VAE`, the same by hand in Pyro, and scvi-tools' SCVI.

Simulated cells of three types and two batches, with size factors: negative binomial counts.  Each model has 10 latents
and a hidden layer of 128 units, sees the batch and the size factor, and trains by Adam, 1e-3, on minibatches of 128.
SCVI differs by a softmax over genes and batch normalisation.  By its defaults, the KL's weight growing over 400 epochs,
dropout, and one dispersion a gene, it is 3 nats worse after 100 epochs, so that these are set otherwise here.  log p(x)
of held-out cells is an importance estimate, SCVI's by its own `get_marginal_ll`; it is run where scvi-tools is
installed.  The last columns are the mean difference to the first model, cell by cell, and its error.

    python benchmarks/count_model.py             # 2 minutes on 2 cores
    held-out log p(x), VAE: -142.1 ± 0.5
    held-out log p(x), by hand in Pyro: -142.0 ± 0.5

    python benchmarks/count_model.py --quick     # half a minute
    held-out log p(x), VAE: at least -150
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import math
import time
import warnings
from typing import Any, NamedTuple

import harness
import pyro
import pyro.distributions as dist
import torch
from harness import Benchmark, Plan, Task, aligned, positive
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pyro_aevb import AEVB, SGVB, VAE, fit, log_marginal_likelihood

MODELS = ("VAE", "by hand in Pyro", "SCVI")
TYPES, BATCHES, LATENTS, UNITS, BATCH_SIZE = 3, 2, 10, 128, 128


class Cells(NamedTuple):
    """Counts (N, G), the batch of each cell (N,), and its size factor (N, 1)."""

    counts: Tensor
    batch: Tensor
    size: Tensor

    def part(self, rows: slice) -> Cells:
        """Return some of the cells."""
        return Cells(*(each[rows] for each in self))

    @property
    def arguments(self) -> dict[str, Tensor]:
        """The data as the models take them."""
        return {"x": self.counts, "covariates": one_hot(self.batch, BATCHES).float(), "offset": self.size}


def simulated(num_cells: int, num_genes: int) -> Cells:
    """Return cells: a tenth of the genes is larger in each type, every other gene in the second batch."""
    generator = torch.Generator().manual_seed(0)
    types = torch.randint(TYPES, (num_cells,), generator=generator)
    batch = torch.randint(BATCHES, (num_cells,), generator=generator)
    gene = torch.arange(num_genes)
    rates = torch.rand(num_genes, generator=generator).expand(num_cells, -1)
    rates = rates * (1 + 4.0 * (gene * 10 // num_genes == types[:, None]))
    rates = rates * torch.where((batch[:, None] == 1) & (gene % 2 == 0), 3.0, 1.0)
    sizes = 0.5 + 2 * torch.rand(num_cells, 1, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        counts = torch.poisson(torch.distributions.Gamma(5.0, 5.0 / (sizes * rates)).sample())
    total = counts.sum(1, keepdim=True)
    return Cells(counts, batch, total / total.mean())


class ByHand(nn.Module):
    """The VAE's model and guide in Pyro alone."""

    def __init__(self, num_genes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(num_genes + BATCHES, UNITS), nn.Tanh(), nn.Linear(UNITS, 2 * LATENTS))
        self.decoder = nn.Sequential(nn.Linear(LATENTS + BATCHES, UNITS), nn.Tanh(), nn.Linear(UNITS, 2 * num_genes))

    def model(self, x: Tensor, covariates: Tensor, offset: Tensor) -> None:
        """p(z) p(x|z, batch)."""
        pyro.module("by_hand", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENTS), 1.0).to_event(1))
            log_mean, log_count = self.decoder(torch.cat([z, covariates.expand(*z.shape[:-1], -1)], -1)).chunk(2, -1)
            logits = log_mean + offset.log() - log_count
            pyro.sample("x", dist.NegativeBinomial(log_count.exp(), logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, covariates: Tensor, offset: Tensor) -> None:
        """q(z|x, batch)."""
        pyro.module("by_hand", self)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(torch.cat([x.log1p(), covariates], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Train one model and evaluate it on the cells held out; what ctrl-C cuts short is dropped."""
    start = time.perf_counter()
    cells = simulated(args.cells + args.held_out, args.genes)
    train, test = cells.part(slice(args.cells)), cells.part(slice(args.cells, None))
    pyro.set_rng_seed(args.seed)
    fn = {"VAE": by_vae, "by hand in Pyro": by_hand, "SCVI": by_scvi}[task.key["model"]]
    log_p = fn(train, test, args, position)
    if log_p is None:
        return None
    seconds = round(time.perf_counter() - start, 1)
    return {"runs": [task.key | {"log_p": [round(v, 4) for v in log_p.tolist()], "seconds": seconds}]}


def by_vae(train: Cells, test: Cells, args: argparse.Namespace, position: int | None) -> Tensor | None:
    """Return log p(x) of the cells held out by this library's VAE."""
    likelihood = "negative-binomial"
    vae = VAE(args.genes, LATENTS, hidden_dims=(UNITS,), likelihood=likelihood, covariates=BATCHES)
    learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-3), SGVB(kl="analytic"))
    history = fit(
        learner, train.arguments, epochs=args.epochs, batch_size=BATCH_SIZE, seed=args.seed, progress=not args.quiet,
        bar_position=position,
    )  # fmt: skip
    return None if history.interrupted else _log_p(vae, test, args)


def by_hand(train: Cells, test: Cells, args: argparse.Namespace, position: int | None) -> Tensor:
    """Return log p(x) of the cells held out by the model in Pyro, trained by stock SVI."""
    hand = ByHand(args.genes)
    svi = SVI(hand.model, hand.guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    for _ in range(args.epochs):
        for rows in torch.randperm(len(train.counts)).split(BATCH_SIZE):
            svi.step(**{name: each[rows] for name, each in train.arguments.items()})
    return _log_p(hand, test, args)


def _log_p(pair: Any, test: Cells, args: argparse.Namespace) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of heavy tails
        return log_marginal_likelihood(
            pair.model, pair.guide, **test.arguments, num_particles=args.particles, seed=0, progress=not args.quiet
        ).value


def by_scvi(train: Cells, test: Cells, args: argparse.Namespace, position: int | None) -> Tensor:
    """Return log p(x) of the cells held out by scvi-tools."""
    import anndata
    import scvi

    scvi.settings.seed = args.seed
    data = [
        anndata.AnnData(part.counts.numpy(), obs={"batch": part.batch.numpy().astype(str)}) for part in (train, test)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi.model.SCVI.setup_anndata(data[0], batch_key="batch")
        model = scvi.model.SCVI(
            data[0], n_hidden=UNITS, n_latent=LATENTS, gene_likelihood="nb", dropout_rate=0.0, dispersion="gene-cell"
        )
        model.train(
            args.epochs, accelerator="cpu", batch_size=BATCH_SIZE, train_size=1.0, enable_progress_bar=False,
            plan_kwargs={"n_epochs_kl_warmup": 1},
        )  # fmt: skip
        found = model.get_marginal_ll(data[1], n_mc_samples=args.particles, return_mean=False)
    return torch.as_tensor(found)


def table(result: dict[str, Any]) -> str:
    """Return a row for each model."""
    rows = [["model", "log p(x)", "error", "less the VAE's", "error", "seconds"]]
    runs = {r["model"]: torch.tensor(r["log_p"]) for r in result["runs"]}
    for r in result["runs"]:
        cells = [f"{number:.2f}" for number in _mean(runs[r["model"]])]
        less = _mean(runs[r["model"]] - runs["VAE"]) if "VAE" in runs and r["model"] != "VAE" else ()
        rows.append([r["model"], *cells, *([f"{n:.2f}" for n in less] or ["", ""]), f"{r['seconds']:.0f}"])
    return aligned(rows, left=True)


def _mean(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return what the header promises."""
    return {f"held-out log p(x), {r['model']}": _mean(torch.tensor(r["log_p"]))[0] for r in result["runs"]}


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--models", nargs="+", choices=MODELS, help="default: those that are installed")
    parser.add_argument("--cells", type=positive, default=4000, help="trained on (default: 4000)")
    parser.add_argument("--held-out", type=positive, default=500)
    parser.add_argument("--genes", type=positive, default=100)
    parser.add_argument("--epochs", type=positive, default=100)
    parser.add_argument("--particles", type=positive, default=2000, help="draws of the estimate (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each model."""
    found = importlib.util.find_spec("scvi") is not None
    args.models = args.models or [name for name in MODELS if name != "SCVI" or found]
    if "SCVI" in args.models and not found:
        raise ValueError("expected scvi-tools for SCVI, got none installed; leave it out, or pip install scvi-tools")
    names = ("cells", "held_out", "genes", "epochs", "particles", "seed")
    settings = {name: getattr(args, name) for name in names}
    settings["scvi_tools"] = importlib.metadata.version("scvi-tools") if found else None
    return Plan(settings, [Task(name, {"model": name}) for name in args.models])


def brief(parts: dict[str, Any]) -> str:
    """Return the mean in a line."""
    (record,) = parts["runs"]
    mean, error = _mean(torch.tensor(record["log_p"]))
    return f"log p(x) {mean:.2f} +- {error:.2f} nats; {record['seconds']:.0f} s"


QUICK = {"models": ["VAE"], "cells": 500, "held_out": 100, "epochs": 20, "particles": 500}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, brief=brief, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
