"""How long a training step takes: stock Pyro, hand-written PyTorch, NumPyro, pythae, and this library.

    python benchmarks/step_time.py              # every case, half an hour
    speed of ours, compiled, over stock Pyro, mnist M=100: at least 2 times
    speed of ours, compiled, over torch by hand, mnist M=100: at least 1.2 times
    largest difference of losses, mnist M=100: at most 3 nats

    python benchmarks/step_time.py --quick      # the paper's MNIST case, half a minute; busy cores narrow the ratios
    speed of ours, compiled, over stock Pyro, mnist M=100: at least 1.2 times
    largest difference of losses, mnist M=100: at most 8 nats

All variants of a case train the same networks on the same images with Adam.  They take turns, a block of steps each,
in one run; times are medians over the blocks, and ratios are made turn by turn before the median is taken, so that a
machine that slows down slows all of them.  Beside the time stands the loss each variant reached (nats per datapoint)
after the same number of steps: a fast step that learns something else would show there.  The floor is the time of a
step's matrix products alone, measured in the same turns.

NumPyro and pythae come with the extra `bench`; without them their rows are left out, and said.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import harness
import numpy as np
import pyro
import torch
from harness import Benchmark, Plan, Task, aligned, positive
from rivals import floor, missing, rivals_of
from step_cases import Block, Case, Feed, Networks
from step_pairs import PAIRS
from torch import Tensor
from tqdm import tqdm

from pyro_aevb.capture import Capture
from pyro_aevb.model_guide import capture_log_density, log_density
from pyro_aevb.samplers import LatentSpace, hmc

SCAN, HAND, COMPILED = "numpyro scan", "torch by hand", "torch by hand, compiled"
QUICK = Case("mnist M=100")
CASES = [
    Case("mnist M=20", batch=20),
    QUICK,
    Case("mnist M=1000", batch=1000),
    Case("frey M=100", x_dim=560, hidden=200, latent_dim=10, gaussian=True),
    Case("mnist M=20, IWAE K=50", batch=20, particles=50),
    Case("mnist M=100, convolutions", conv=True),
    Case("mnist M=100, flow", flow=True),
    Case("mnist M=100, pixels drawn", dynamic=True),
]


# -- Log densities: MCEM's leapfrog step, importance weights -----------------------------------------------------------


def leapfrog_variants(device: str) -> dict[str, Callable[[], Block]]:
    """The gradient of log p(x, z) in z, 100 chains: what a leapfrog step costs."""
    case = QUICK._replace(device=device)

    def of(make: Callable[[Networks, Tensor], Callable[[Tensor], tuple[Tensor, Tensor]]]) -> Block:
        networks, x = Networks(case), Feed(case)()
        target = make(networks, x)
        state = hmc.init(target, torch.randn(case.batch, case.latent_dim, device=device))

        def block(n: int) -> float:
            nonlocal state
            state, _ = hmc.leapfrog(target, state, torch.randn_like(state.position), 0.01, n)
            return -float(state.log_prob.mean())

        return block

    def hand(networks: Networks, x: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        constant = 0.5 * case.latent_dim * math.log(2 * math.pi)
        return hmc.differentiable(lambda z: networks.log_likelihood(x, z) - 0.5 * z.square().sum(-1) - constant)

    def ours(compile: Any) -> Callable[[Networks, Tensor], Callable[[Tensor], tuple[Tensor, Tensor]]]:
        def make(networks: Networks, x: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
            space = LatentSpace(networks.model, x)
            gradient = lambda u, x: hmc.differentiable(lambda v: space.log_joint(v, x))(u)  # noqa: E731
            parameters = lambda: dict(networks.decoder.named_parameters())  # noqa: E731
            capture = Capture(gradient, parameters, [networks.model], compile=compile)
            return lambda u: capture(u, x)

        return make

    return {
        "torch by hand": lambda: of(hand),
        "ours, eager": lambda: of(ours(False)),
        "ours, graph": lambda: of(ours("graph")),
        "ours, compiled": lambda: of(ours(True)),
    }


def importance_variants(device: str) -> dict[str, Callable[[], Block]]:
    """Log weights of 100 images with 50 particles, no gradient: what an importance estimate is made of."""
    case = QUICK._replace(particles=50, device=device)

    def of(make: Callable[[Networks], Callable[[Tensor], Tensor]]) -> Block:
        networks, feed = Networks(case), Feed(case)
        log_weight = make(networks)

        def block(n: int) -> float:
            with torch.no_grad():
                return float(sum(-(log_weight(feed()).logsumexp(0) - math.log(50)).mean() for _ in range(n)) / n)

        return block

    def hand(networks: Networks) -> Callable[[Tensor], Tensor]:
        def log_weight(x: Tensor) -> Tensor:
            loc, scale = networks.encoder(x)
            eps = torch.randn(50, *loc.shape, device=device)
            z = loc + scale * eps
            log_ratio = -0.5 * z.square().sum(-1) + 0.5 * eps.square().sum(-1) + scale.log().sum(-1)
            return networks.log_likelihood(x, z) + log_ratio

        return log_weight

    def ours(compile: Any) -> Callable[[Networks], Callable[[Tensor], Tensor]]:
        def make(networks: Networks) -> Callable[[Tensor], Tensor]:
            density = capture_log_density(networks.model, networks.guide, num_particles=50, compile=compile)
            return lambda x: density(x).log_weight

        return make

    def eager(networks: Networks) -> Callable[[Tensor], Tensor]:
        return lambda x: log_density(networks.model, networks.guide, x, num_particles=50).log_weight

    return {
        "torch by hand": lambda: of(hand),
        "ours, eager": lambda: of(eager),
        "ours, graph": lambda: of(ours("graph")),
        "ours, compiled": lambda: of(ours(True)),
    }


# -- Measuring ---------------------------------------------------------------------------------------------------------


class Variant(NamedTuple):
    """One way of training: ``block(n)`` makes n steps and returns their mean loss."""

    name: str
    block: Block
    compile_seconds: float = 0.0
    memory: float = 0.0


def resident() -> float:
    """Return the process's resident memory in MB; NaN where the system doesn't tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return math.nan


def measure(name: str, makers: dict[str, Callable[[], Block]], bare: Block | None, rounds: int) -> list[dict[str, Any]]:
    """Let the variants take turns; return a row for each."""
    made: dict[str, Variant] = {}
    for variant, make in tqdm(makers.items(), desc=f"{name}: compiling", leave=False):
        with pyro.get_param_store().scope():
            before, start = resident(), time.perf_counter()
            block = make()
            block(2)
            made[variant] = Variant(variant, in_store(block), time.perf_counter() - start, resident() - before)
    if bare is not None:
        made["floor"] = Variant("floor", bare)
    start = time.perf_counter()
    next(iter(made.values())).block(2)
    steps = max(3, min(60, int(0.1 / ((time.perf_counter() - start) / 2))))
    for i, v in enumerate(made.values()):
        v.block(steps if i else steps - 2)  # as many steps as all of them; NumPyro compiles for this length
    times: dict[str, list[float]] = {variant: [] for variant in made}
    losses: dict[str, float] = {}
    for turn in tqdm(range(rounds), desc=f"{name}: {steps} steps a turn", leave=False):
        order = list(made.values())
        for v in order[turn % len(order) :] + order[: turn % len(order)]:
            start = time.perf_counter()
            losses[v.name] = v.block(steps)
            times[v.name].append(1e3 * (time.perf_counter() - start) / steps)
    stock = next((spent for variant, spent in times.items() if variant.startswith("pyro ")), None)
    rows = []
    for variant, spent in times.items():
        if variant == "floor":
            continue
        low, high = np.quantile(spent, [0.25, 0.75])
        rows.append(
            {
                "case": name,
                "variant": variant,
                "median_ms": round(float(np.median(spent)), 4),
                "quartiles_ms": [round(float(low), 4), round(float(high), 4)],
                "ratio_to_stock_pyro": ratio(stock, spent),
                "ratio_to_numpyro_scan": ratio(times.get(SCAN), spent),
                "ratio_to_torch_by_hand": ratio(times.get(HAND), spent),
                "ratio_to_torch_compiled": ratio(times.get(COMPILED), spent),
                "floor_ms": round(float(np.median(times["floor"])), 4) if bare is not None else None,
                "loss": round(losses[variant], 3),
                "first_steps_seconds": round(made[variant].compile_seconds, 2),
                "memory_mb": round(made[variant].memory, 1),
            }
        )
    return rows


def in_store(block: Block) -> Block:
    """Give a block a Pyro parameter store of its own, kept from call to call."""
    store = dict(pyro.get_param_store().get_state())

    def inside(n: int) -> float:
        with pyro.get_param_store().scope(store):
            return block(n)

    return inside


def ratio(reference: list[float] | None, spent: list[float]) -> float | None:
    """Return the median over turns of reference time over time: larger is faster."""
    return None if reference is None else round(float(np.median(np.divide(reference, spent))), 3)


def table(result: dict[str, Any]) -> str:
    """Return the rows as a table, a block a case."""
    names = {"x Pyro": "stock_pyro", "x hand": "torch_by_hand", "x compiled": "torch_compiled"}
    names["x NumPyro"] = "numpyro_scan"
    lines = []
    for case in dict.fromkeys(row["case"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["case"] == case]
        bare = rows[0]["floor_ms"]
        cells = [["variant", "ms a step", "quartiles", *names, "loss", "start s", "MB"]]
        for row in rows:
            ratios = [row[f"ratio_to_{name}"] for name in names.values()]
            cells.append(
                [row["variant"], f"{row['median_ms']:.3f}", "{:.3f}-{:.3f}".format(*row["quartiles_ms"])]
                + ["" if r is None else f"{r:.2f}" for r in ratios]
                + [f"{row['loss']:.2f}", f"{row['first_steps_seconds']:.1f}", f"{row['memory_mb']:.0f}"]
            )
        title = f"{case}" + (f" (matrix products alone: {bare:.3f} ms)" if bare else "")
        lines += ["", title, aligned(cells, left=True, rule=False)]
    return "\n".join(lines).strip("\n")


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return how much faster we are, compiled, and how far apart the losses end, in each case that has stock Pyro."""
    found = {}
    for case in dict.fromkeys(row["case"] for row in result["rows"]):
        rows = {row["variant"]: row for row in result["rows"] if row["case"] == case}
        compiled = rows["ours, compiled"]
        for rival, key in (("stock Pyro", "stock_pyro"), (HAND, "torch_by_hand")):
            if (speed := compiled[f"ratio_to_{key}"]) is not None:
                found[f"speed of ours, compiled, over {rival}, {case}"] = speed
        losses = [row["loss"] for name, row in rows.items() if name != "pythae"]  # its epochs repeat a few minibatches
        found[f"largest difference of losses, {case}"] = max(losses) - min(losses)
    return found


# -- The command ------------------------------------------------------------------------------------------------------

OTHERS: dict[str, Callable[[str], dict[str, Callable[[], Block]]]] = {
    **{f"{name}, M=100": variants for name, variants in PAIRS.items()},
    "leapfrog step, 100 chains": leapfrog_variants,
    "log weights, M=100, K=50": importance_variants,
}


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for PyTorch and JAX alike")
    parser.add_argument("--rounds", type=positive, default=25, help="turns of each variant")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each case."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if absent := missing():
        print(f"without {' and '.join(absent)}, which the extra `bench` brings: pip install -e '.[bench]'")
    names = [QUICK.name] if args.quick else [*(case.name for case in CASES), *OTHERS]
    chosen = [name for name in names if not args.only or args.only in name]
    if not chosen:
        raise ValueError(f"expected --only to be part of one of {names}, got {args.only!r}")
    settings = {
        "ratios": "median over turns of the reference's time over the variant's: larger is faster",
        "threads": torch.get_num_threads(),
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(args.device),
    }
    return Plan(settings, [Task(name, {"case": name}) for name in chosen])


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any]:
    """Let the rivals of a case take turns."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the rivals warn of
        if task.label in OTHERS:
            return {"rows": measure(task.label, OTHERS[task.label](args.device), None, args.rounds)}
        (case,) = (case._replace(device=args.device) for case in CASES if case.name == task.label)
        bare = None if case.conv or case.flow else floor(case)
        return {"rows": measure(case.name, rivals_of(case), bare, args.rounds)}


BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, quick={"rounds": 10})
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
