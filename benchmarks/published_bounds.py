"""Tables that the field knows: IWAE with K = 1, 5, 50, DReG, and the VampPrior, each with log p(x) by three estimates.

Trains each row's model and evaluates the test images: the evidence lower bound; importance with K = 5000, which the
published numbers are, and the share of images whose k-hat is above 0.7; AIS from the guide on some of them, evenly
spaced; and on data simulated from the model BDMC's two sides, AIS from the prior in as many temperatures.  "AIS, all"
is importance's mean over all images plus the mean difference of the two on those that AIS had.  Errors are those of
Monte Carlo, and for a mean difference that of the choice of images too.

    python benchmarks/published_bounds.py               # 2 minutes on 2 cores
    log p(x) of iwae-1: -24.0 ± 0.3 nats
    log p(x) of iwae-50: -23.3 ± 0.3 nats
    log p(x) of dreg-50: -23.2 ± 0.3 nats
    log p(x) of vamp-dynamic: -23.4 ± 0.4 nats
    BDMC's bracket of iwae-50: 0.02 ± 0.3 nats

    python benchmarks/published_bounds.py --quick       # half a minute
    log p(x) of iwae-5: -24.7 ± 0.4 nats
    log p(x) of vamp-static: -27.2 ± 0.6 nats

The published numbers are of `--dataset mnist`: networks, latents, pixels and pseudo-inputs as there, two tanh layers of
200 units for IWAE and DReG (Burda et al. 2016; Tucker et al. 2019), two gated layers of 300 for the VampPrior (Tomczak
& Welling 2018).  Those who published trained longer, in minibatches of 20 (IWAE) and 100: `--samples` is the budget.
Here all rows have Adam with a linear decay of the learning rate, after a warm-up; those of the VampPrior a warm-up of
the KL over 40 passes besides, and the parameters at the best bound on held-out images.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import harness
import pyro
import torch
from harness import Benchmark, Plan, Task, aligned, positive, rate, with_error
from presets import held_out
from torch import Tensor, nn

from pyro_aevb import AEVB, AIS, BDMC, IWAE, SGVB, VAE, DReG, Evidence, Importance, fit, log_marginal_likelihood
from pyro_aevb.datasets import Binarized, ImageData, load_dataset
from pyro_aevb.evidence import elbo
from pyro_aevb.learners import Schedule
from pyro_aevb.objectives import Objective
from pyro_aevb.training import History
from pyro_aevb.vae.networks import fan_in_init
from pyro_aevb.vae.priors import VampPrior

SAFE = 0.7  # above it k-hat says that neither value nor error can be relied on
SCHEDULE = Schedule("linear", warm_up=0.02)
WARM_UP_PASSES = 40  # of the VampPrior's KL, but at most a quarter of a run
HELD_OUT = 1 / 6  # of the training data, where there are no validation data and a row wants some
SPARE = 0.001  # of a pixel's mean, for the decoder's biases
ROWS_PER_PASS = {"cpu": 5000, "cuda": 20_000}  # draws of importance


class Row(NamedTuple):
    """What a line of a published table says of its model and its training, and the number there (nats)."""

    objective: Callable[[], Objective]
    published: float
    static: bool = False
    vamp: bool = False

    @property
    def learning_rate(self) -> float:
        """Adam's, at the end of the warm-up."""
        return 1e-3 if self.vamp else 2e-3


class Sizes(NamedTuple):
    """Sizes of the networks on a data set: (IWAE's, the VampPrior's) units of both layers and latents."""

    hidden: tuple[int, int]
    latents: tuple[int, int]
    pseudo_inputs: int


ROWS = {
    "iwae-1": Row(lambda: IWAE(1), -86.76),
    "iwae-5": Row(lambda: IWAE(5), -85.54),
    "iwae-50": Row(lambda: IWAE(50), -84.78),
    "dreg-50": Row(lambda: DReG(50), -84.32),
    "vamp-static": Row(SGVB, -85.57, static=True, vamp=True),
    "vamp-dynamic": Row(SGVB, -82.43, vamp=True),
}
SIZES = {"mnist": Sizes((200, 300), (50, 40), 500), "digits": Sizes((50, 50), (10, 10), 50)}


class Images(NamedTuple):
    """What a row learns from, by what it chooses its parameters (if it does), and what it is evaluated on."""

    train: Tensor | Binarized
    validation: Tensor | None
    test: Tensor


def dataset(row: Row, args: argparse.Namespace) -> ImageData:
    """Return the row's data set: of MNIST with fixed pixels Larochelle's."""
    if row.static and args.dataset == "mnist":
        return load_dataset("binarized-mnist", root=args.data)
    return load_dataset(args.dataset, pixels="static" if row.static else "dynamic", root=args.data)


def images(row: Row, args: argparse.Namespace) -> Images:
    """Return the row's data, on their device."""
    data = dataset(row, args)
    train, validation = data.train, data.validation if row.vamp else None
    if row.vamp and validation is None:
        train, validation = held_out(train, HELD_OUT)
    if validation is not None:
        validation = validation.to(args.device)
    return Images(train.to(args.device), validation, data.test.to(args.device))


def gated(sizes: Sequence[int]) -> nn.Sequential:
    """Return a perceptron with hidden layers A h * sigmoid(B h) and a linear output (Tomczak & Welling 2018, Eq. 16).

    Args:
        sizes: of inputs, hidden layers and outputs.
    """
    *hidden, last = itertools.pairwise(sizes)
    layers = [layer for a, b in hidden for layer in (nn.Linear(a, 2 * b), nn.GLU())]
    network = nn.Sequential(*layers, nn.Linear(*last))
    fan_in_init(network)
    return network


def make_vae(row: Row, sizes: Sizes, data: Images) -> VAE:
    """Return the row's model and guide, the pixels' frequencies as the decoder's biases."""
    grey = data.train.images if isinstance(data.train, Binarized) else data.train
    x_dim, hidden, latents = grey.shape[1], (sizes.hidden[row.vamp],) * 2, sizes.latents[row.vamp]
    parts: dict[str, Any] = {"hidden_dims": hidden}
    if row.vamp:
        some = grey[torch.randperm(len(grey))[: sizes.pseudo_inputs].to(grey.device)]
        parts = {
            "encoder": gated([x_dim, *hidden, 2 * latents]),
            "decoder": gated([latents, *hidden, x_dim]),
            "prior": VampPrior(sizes.pseudo_inputs, some.cpu()),
        }
    vae = VAE(x_dim, latents, dataset_size=len(grey), **parts)
    *_, output = vae.decoder.children()
    assert isinstance(output, nn.Linear)
    with torch.no_grad():
        output.bias.copy_(grey.mean(0).clamp(SPARE, 1 - SPARE).logit())
    return vae.to(grey.device)


class Clock:
    """The learning rate's schedule by the part of the samples or of the seconds that is done, whichever is larger.

    The clock starts with the second step, after what the first one compiles.

    Args:
        seconds: of the run; infinity for one that goes by its samples alone.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.start = seconds, math.inf

    def __call__(self, done: float) -> float:
        """Return the factor where the fraction ``done`` of the samples lies behind."""
        if self.start == math.inf and 0 < done < 0.25:  # at the quarters `fit` asks before a run, to tell it by
            self.start = time.monotonic()
        return SCHEDULE(min(max(done, self._share()), 1 - 1e-9))

    def is_over(self, history: History) -> bool:
        """Return whether the seconds are over; after an evaluation."""
        return self._share() >= 1

    def _share(self) -> float:
        return max(0.0, time.monotonic() - self.start) / self.seconds


def train(row: Row, vae: VAE, data: Images, task: Task, args: argparse.Namespace, position: int | None) -> History:
    """Train, or go on from where a run with these settings was left, which may be its end."""
    learning_rate = args.learning_rate or row.learning_rate
    settings = (*task.key.values(), args.samples, args.seconds, args.batch_size, learning_rate)
    clock = Clock(args.seconds or math.inf)
    warm_up = min(WARM_UP_PASSES * len(data.train), max(1, args.samples // 4))
    return fit(
        AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=learning_rate, fused=True), row.objective()),
        data.train,
        data.validation,
        samples=args.samples,
        batch_size=args.batch_size,
        device=args.device,
        schedule=clock,
        kl_warm_up=warm_up if row.vamp else None,
        evaluate_every=len(data.train) if args.seconds else max(len(data.train), args.samples // 20),
        keep_best=row.vamp,
        callbacks=[clock.is_over],
        checkpoint_dir=args.out / "checkpoints" / "-".join(map(str, settings)),
        resume=True,
        seed=task.key["seed"],
        progress=not args.quiet,
        label=task.label,
        bar_position=position,
    )


def evenly(number: int, of: int) -> list[int]:
    """Return ``number`` places out of so many, evenly spaced: the first images of MNIST's test set are clearer."""
    number = min(number, of)
    return [i * of // number for i in range(number)]


def estimated(vae: VAE, x: Tensor, method: Any, num_particles: int, block: int, args: argparse.Namespace) -> Evidence:
    """Return the evidence of x by a method."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pareto_k")  # in the table
        return log_marginal_likelihood(
            vae.model,
            vae.guide,
            x,
            method=method,
            num_particles=num_particles,
            batch_size=min(block, len(x)),
            seed=0,
            compile=True if x.is_cuda else "auto",
            progress=not args.quiet,
        )


def noise(evidence: Evidence) -> float:
    """Return the Monte Carlo error of the mean over these datapoints."""
    return evidence.standard_error.double().square().sum().sqrt().item() / len(evidence.value)


def evaluate(vae: VAE, test: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """Return the bound and the three estimates of log p(x), nats per datapoint."""
    x = test[evenly(args.weigh or len(test), len(test))]
    importance = Importance(ROWS_PER_PASS["cuda" if test.is_cuda else "cpu"])
    weighed = estimated(vae, x, importance, args.particles, 100, args)
    chosen, leapfrog = evenly(args.evaluate, len(x)), {"num_leapfrog": args.leapfrog}
    annealing = AIS(args.temperatures, start="guide", **leapfrog)
    annealed = estimated(vae, x[chosen], annealing, args.chains, args.block, args)
    simulated = test[: args.simulate]  # no more than their shape is looked at
    both = estimated(vae, simulated, BDMC(AIS(args.temperatures, **leapfrog)), args.chains, args.block, args)
    assert both.upper is not None
    assert weighed.pareto_k is not None
    difference = (annealed.value - weighed.value[chosen]).double()
    off = difference.std().item() / len(difference) ** 0.5
    return {
        "elbo": elbo(vae.model, vae.guide, test, batch_size=100, seed=0).mean().value,
        "weighed": weighed.value.mean().item(),
        "weighed_error": noise(weighed),
        "weighed_images": len(x),
        "high_pareto_k": (weighed.pareto_k > SAFE).double().mean().item(),
        "ais": annealed.value.mean().item(),
        "ais_error": noise(annealed),
        "ais_images": len(chosen),
        "ais_all": weighed.value.mean().item() + difference.mean().item(),
        "ais_all_error": math.hypot(noise(weighed), off),
        "simulated_images": len(simulated),
        "simulated_lower": both.value.mean().item(),
        "simulated_lower_error": noise(both),
        "simulated_upper": both.upper.value.mean().item(),
        "simulated_upper_error": noise(both.upper),
    }


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Train a row's model and evaluate it; what ctrl-C cuts short is dropped, and gone on with by the next command."""
    row = ROWS[task.key["row"]]
    pyro.set_rng_seed(task.key["seed"])
    data = images(row, args)
    vae = make_vae(row, SIZES[args.dataset], data)
    history = train(row, vae, data, task, args, position)
    if history.interrupted:
        return None
    start = time.perf_counter()
    found = evaluate(vae, data.test, args)
    training = {
        "learning_rate": args.learning_rate or row.learning_rate,
        "samples": history.samples,
        "passes": round(history.samples / len(data.train), 1),
        "kept_at": None if history.best is None else history.best.samples,
        "train_s": round(history.seconds, 1),
        "evaluate_s": round(time.perf_counter() - start, 1),
    }
    return {"rows": [task.key | training | found]}


# -- Results ----------------------------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    """Return the results as a table, nats per datapoint; and the published numbers beside them where they belong."""
    particles, published = result["particles"], result["dataset"] == "mnist"
    head = ["row", "seed", "samples", "ELBO", f"importance, K={particles}", f"k > {SAFE}", "AIS, some", "AIS, all"]
    head += ["BDMC, simulated", *["published", "importance less it", "AIS less it"] * published]
    rows = [[*head, "train s", "evaluate s"]]
    for r in sorted(result["rows"], key=lambda r: (list(ROWS).index(r["row"]), r["seed"])):
        cells = [r["row"], str(r["seed"]), f"{r['samples']:.3g}", f"{r['elbo']:.2f}", with_error(r, "weighed")]
        cells += [f"{100 * r['high_pareto_k']:.0f}%", with_error(r, "ais"), with_error(r, "ais_all")]
        cells.append(f"{with_error(r, 'simulated_lower')} to {with_error(r, 'simulated_upper')}")
        if published:
            number = ROWS[r["row"]].published
            cells += [f"{number:.2f}", f"{r['weighed'] - number:+.2f}", f"{r['ais_all'] - number:+.2f}"]
        rows.append([*cells, f"{r['train_s']:.0f}", f"{r['evaluate_s']:.0f}"])
    first = result["rows"][0]
    counts = [first[f"{name}_images"] for name in ("weighed", "ais", "simulated")]
    return f"{aligned(rows, left=True)}\n\nimages: importance {counts[0]}, AIS {counts[1]}, BDMC {counts[2]} simulated"


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return what the header promises, of the first seed."""
    found = {}
    for r in result["rows"]:
        if r["seed"] == result["rows"][0]["seed"]:
            found[f"log p(x) of {r['row']}"] = r["ais_all"]
            found[f"BDMC's bracket of {r['row']}"] = r["simulated_upper"] - r["simulated_lower"]
    return found


# -- The command ------------------------------------------------------------------------------------------------------


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--dataset", choices=sorted(SIZES), default="digits")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--samples", type=positive, default=100_000, help="training samples a row (default: 1e5)")
    parser.add_argument(
        "--seconds", type=positive, help="end sooner than --samples say, the learning rate falling by the clock"
    )
    parser.add_argument("--batch-size", type=positive, default=100, help="of the training (default: 100)")
    parser.add_argument("--learning-rate", type=rate, help="at its highest (default: 2e-3, and 1e-3 for the VampPrior)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--particles", type=positive, default=5000, help="K of importance (default: 5000)")
    parser.add_argument("--weigh", type=positive, help="test images for importance (default: all)")
    parser.add_argument("--evaluate", type=positive, default=50, help="test images for AIS (default: 50)")
    parser.add_argument("--simulate", type=positive, default=20, help="simulated images for BDMC (default: 20)")
    parser.add_argument("--temperatures", type=positive, default=100, help="of AIS, both kinds (default: 100)")
    parser.add_argument("--leapfrog", type=positive, default=5, help="steps at each temperature (default: 5)")
    parser.add_argument("--chains", type=positive, default=16, help="of AIS, for each image (default: 16)")
    parser.add_argument("--block", type=positive, default=500, help="images that AIS has at a time (default: 500)")
    parser.add_argument("--device", default="cpu")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each row and seed, the longest first."""
    names = (
        "dataset",
        "samples",
        "seconds",
        "batch_size",
        "learning_rate",
        "particles",
        "weigh",
        "evaluate",
        "simulate",
    )
    settings = {name: getattr(args, name) for name in (*names, "temperatures", "leapfrog", "chains", "block", "device")}
    tasks = [
        Task(f"{row} seed {seed}", {"row": row, "seed": seed})
        for row in list(ROWS)[::-1]
        if row in args.rows
        for seed in dict.fromkeys(args.seeds)
    ]
    for row in {ROWS[task.key["row"]].static: ROWS[task.key["row"]] for task in tasks}.values():
        dataset(row, args)  # fetches what is missing, once
    return Plan(settings, tasks)


def brief(parts: dict[str, Any]) -> str:
    """Return a row's estimates in a line."""
    (r,) = parts["rows"]
    return f"importance {r['weighed']:.2f}, AIS {r['ais_all']:.2f} nats, {r['train_s']:.0f} + {r['evaluate_s']:.0f} s"


QUICK = {"rows": ["iwae-5", "vamp-static"], "samples": 20_000, "evaluate": 20, "simulate": 10, "temperatures": 30}
QUICK |= {"particles": 500}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, brief=brief, quick=QUICK, jobs=None)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
