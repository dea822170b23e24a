"""Missing cells filled in: column means, regressions and a VAE, missing completely at random and not at random.

"mcar": half of all cells are hidden.  "mnar": in the first half of the columns every value above the column's mean is.
Columns are standardised.  "mcar" counts squared error, "mnar" its root, on hidden cells.

    python benchmarks/imputation.py             # 2 minutes on 2 cores
    mcar, ridge: 0.333 ± 0.002
    mcar, vae, guide: 0.28 ± 0.01
    mcar, vae, importance: 0.258 ± 0.01
    mcar, vae, auto: 0.256 ± 0.01

    python benchmarks/imputation.py --quick     # 20 seconds
    mcar, mean: 1.03 ± 0.01
    mcar, vae, guide: 0.45 ± 0.05

`--tables` takes the six UCI tables, see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
import warnings
from typing import Any

import harness
import numpy as np
import pyro
import torch
from harness import Benchmark, Plan, Task, aligned, positive, rate
from torch import Tensor, nn

from pyro_aevb import AEVB, VAE, log_marginal_likelihood
from pyro_aevb.datasets import UCI_TABLES, load_uci_table
from pyro_aevb.objectives import IWAE
from pyro_aevb.posterior import impute
from pyro_aevb.training import fit
from pyro_aevb.vae.likelihoods import LIKELIHOODS, StudentT, count_outputs
from pyro_aevb.vae.missingness import KnownSelfMasking

BUNDLED = "breast-cancer"  # scikit-learn's copy of the UCI table
MISSING = ("mcar", "mnar")
REGRESSIONS = ("mean", "ridge", "forest")
MODELS = ("vae", "vae+mask")
METHODS = ("guide", "importance", "gibbs", "auto", "hmc")
# As the sources print them: Mattei & Frellsen's notebook for mcar, squared; Ipsen et al. 2021, Table 1, for mnar.
PUBLISHED = {
    ("mcar", "breast-cancer"): {"mean": 1.028, "ridge": 0.333, "MIWAE": 0.2867},
    ("mnar", "banknote"): {"MIWAE": 1.19, "not-MIWAE": 0.74, "not-MIWAE, linear": 0.57},
    ("mnar", "concrete"): {"MIWAE": 1.66, "not-MIWAE": 1.12, "not-MIWAE, linear": 1.31},
    ("mnar", "red-wine"): {"MIWAE": 1.62, "not-MIWAE": 1.07, "not-MIWAE, linear": 1.13},
    ("mnar", "white-wine"): {"MIWAE": 1.55, "not-MIWAE": 1.04, "not-MIWAE, linear": 0.99},
    ("mnar", "yeast"): {"MIWAE": 1.72, "not-MIWAE": 1.38, "not-MIWAE, linear": 0.77},
    ("mnar", "breast"): {"MIWAE": 1.20, "not-MIWAE": 0.76, "not-MIWAE, linear": 0.72},
}


def table_of(name: str, args: argparse.Namespace) -> Tensor:
    """Return a table's columns, standardised, (N, D) of float64."""
    if name == BUNDLED:
        from sklearn.datasets import load_breast_cancer

        x = torch.as_tensor(load_breast_cancer().data)
    else:
        x = load_uci_table(name, root=args.data)
    return (x - x.mean(0)) / x.std(0, correction=0)


def seen(x: Tensor, missing: str, seed: int) -> Tensor:
    """Return which cells are there, (N, D) of bool."""
    if missing == "mnar":
        observed = torch.ones_like(x, dtype=torch.bool)
        half = x.shape[1] // 2
        observed[:, :half] = x[:, :half] <= 0
        return observed
    generator = np.random.RandomState(1234 + seed)  # the first one's cells are those of the notebook
    hidden = generator.choice(x.numel(), x.numel() // 2, replace=False)
    observed = np.ones(x.numel(), dtype=bool)
    observed[hidden] = False
    return torch.as_tensor(observed.reshape(x.shape))


def error(filled: Tensor, x: Tensor, cells: Tensor, missing: str) -> float:
    """Return the mean squared error on some cells, or its root."""
    mean = (filled - x)[cells].square().mean().item()
    return mean if missing == "mcar" else math.sqrt(mean)


def run(task: Task, args: argparse.Namespace, position: int | None) -> dict[str, Any] | None:
    """Fill in one table by one model; what ctrl-C cuts short is dropped."""
    start = time.perf_counter()
    name, missing, model, seed = task.key.values()
    x = table_of(name, args)
    there = seen(x, missing, seed)
    given = there
    if args.validate:
        given = there & (torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) > 0.1)
    if model in REGRESSIONS:
        found = {"": _regression(model, x, given, seed)}
        trained: dict[str, Any] = {}
    else:
        vae = _trained(x, given, model, seed, args, task, position)
        if vae is None:
            return None
        trained, found = _bound(vae, x, given, seed, args), _filled(vae, x, given, seed, args)
    records = []
    for method, filled in found.items():
        record = task.key | {"method": method, "error": error(filled, x, ~there, missing)} | trained
        if args.validate:
            record["held_out"] = error(filled, x, there & ~given, missing)
        records.append(record | {"seconds": round(time.perf_counter() - start, 1)})
    return {"runs": records}


def _regression(model: str, x: Tensor, given: Tensor, seed: int) -> Tensor:
    """Return x filled in by one of scikit-learn's imputers."""
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, SimpleImputer

    forest = ExtraTreesRegressor(n_estimators=50, min_samples_leaf=2, random_state=seed)
    imputer: Any = {
        "mean": SimpleImputer,
        "ridge": functools.partial(IterativeImputer, random_state=seed),
        "forest": functools.partial(IterativeImputer, forest, max_iter=3, random_state=seed),
    }[model]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterations that haven't converged
        return torch.as_tensor(imputer.fit_transform(x.masked_fill(~given, torch.nan).numpy()))


def _trained(
    x: Tensor, given: Tensor, model: str, seed: int, args: argparse.Namespace, task: Task, position: int | None
) -> VAE | None:
    """Return the VAE, trained on what is given; ``None`` if it was interrupted."""
    pyro.set_rng_seed(seed)
    num_data, x_dim = x.shape
    latent_dim = args.latent_dim or min(x_dim - 1, 10 if task.key["missing"] == "mcar" else x_dim)
    likelihood = StudentT(4.0) if args.likelihood == "student-t" else LIKELIHOODS[args.likelihood]()
    linear = nn.Linear(latent_dim, count_outputs(likelihood, x_dim)) if args.decoder == "linear" else None
    vae = VAE(
        x_dim,
        latent_dim,
        hidden_dims=(128, 128),
        likelihood=likelihood,
        posterior=args.posterior,
        decoder=linear,
        dataset_size=num_data,
        missingness=None if model == "vae" else KnownSelfMasking(slope=args.slope),
    )
    learner = AEVB(
        vae.model,
        vae.guide,
        functools.partial(torch.optim.Adam, lr=args.learning_rate, fused=True),
        IWAE(args.particles),
    )
    history = fit(
        learner,
        (torch.where(given, x, 0.0).float(), given),
        samples=args.steps * args.batch_size,
        batch_size=args.batch_size,
        schedule=lambda done: 1 - done,
        seed=seed,
        progress=not args.quiet,
        label=task.label,
        bar_position=position,
    )
    return None if history.interrupted else vae


def _bound(vae: VAE, x: Tensor, given: Tensor, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Return log p of what is observed, the mask too if it is modelled, in nats per row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of heavy tails
        evidence = log_marginal_likelihood(
            vae.model,
            vae.guide,
            torch.where(given, x, 0.0).float(),
            given,
            num_particles=min(1000, args.evaluation_particles),
            seed=seed,
            progress=False,
        )
    return {"log_p": evidence.mean().value, "log_p_error": evidence.mean().standard_error}


def _filled(vae: VAE, x: Tensor, given: Tensor, seed: int, args: argparse.Namespace) -> dict[str, Tensor]:
    """Return x filled in by each method."""
    found = {}
    for method in args.methods:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rows that can't be trusted
            found[method] = impute(
                vae.model,
                vae.guide,
                torch.where(given, x, 0.0).float(),
                given,
                method=method,
                num_draws=args.draws,
                num_particles=args.evaluation_particles,
                seed=seed,
                progress=not args.quiet,
            ).mean.double()
    return found


def table(result: dict[str, Any]) -> str:
    """Return a row for each table and mechanism, model and method: mean and standard deviation over the seeds."""
    rows = [["table", "missing", "model", "method", "error", "sd", "held out", "log p", "seconds"]]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for r in result["runs"]:
        groups.setdefault((r["table"], r["missing"], r["model"], r["method"]), []).append(r)
    last: tuple[str, ...] = ()
    for key, records in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1])):
        if last and key[:2] != last[:2]:
            rows += _published(last)
        last = key
        mean = {n: np.mean([r[n] for r in records]) if n in records[0] else math.nan for n in NUMBERS}
        cells = [f"{mean[n]:.{digits}f}" if not math.isnan(mean[n]) else "" for n, digits in NUMBERS.items()]
        deviation = f"{np.std([r['error'] for r in records]):.3f}"
        rows.append([*key, cells[0], deviation, *cells[1:]])
    return aligned(rows + _published(last))


NUMBERS = {"error": 3, "held_out": 3, "log_p": 2, "seconds": 0}


def _published(key: tuple[str, ...]) -> list[list[str]]:
    found = PUBLISHED.get((key[1], key[0]), {})
    return [[*key[:2], name, "published", f"{value:.3f}", "", "", "", ""] for name, value in found.items()]


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return each error, the mean over tables and seeds."""
    found: dict[str, list[float]] = {}
    for r in result["runs"]:
        names = [r["missing"], r["model"], r["method"]]
        found.setdefault(", ".join(filter(None, names)), []).append(r["error"])
    return {name: float(np.mean(errors)) for name, errors in found.items()}


def options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    tables = [BUNDLED, *UCI_TABLES]
    parser.add_argument("--tables", nargs="*", choices=tables, help="default: scikit-learn's; without names the six")
    parser.add_argument("--missing", nargs="+", choices=MISSING, default=["mcar"])
    parser.add_argument("--models", nargs="+", choices=REGRESSIONS + MODELS, default=list(REGRESSIONS + MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["guide", "importance", "auto", "hmc"])
    parser.add_argument("--decoder", choices=("linear", "mlp"), default="linear")
    parser.add_argument("--likelihood", choices=("shared-gaussian", "gaussian", "student-t"), default="shared-gaussian")
    parser.add_argument("--posterior", choices=("normal", "full"), default="normal")
    parser.add_argument("--latent-dim", type=positive, help="default: one fewer than columns, 10 at most for mcar")
    parser.add_argument("--steps", type=positive, default=5000, help="updates (default: 5000)")
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--learning-rate", type=rate, default=3e-3, help="of Adam at first; it falls to 0")
    parser.add_argument("--slope", type=rate, default=10.0, help="of the mask's logits at first (default: 10)")
    parser.add_argument("--particles", type=positive, default=20, help="K in training")
    parser.add_argument("--evaluation-particles", type=positive, default=10_000)
    parser.add_argument("--draws", type=positive, default=500, help="that the filled-in mean is made of")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--validate", action="store_true", help="hide a tenth of what is given, and say its error")


def plan(args: argparse.Namespace) -> Plan:
    """Return the settings and a task for each table, mechanism, model and seed."""
    args.tables = [BUNDLED] if args.tables is None else args.tables or list(UCI_TABLES)
    for name in args.tables:
        table_of(name, args)  # fetches what is missing, once
    names: tuple[str, ...] = ("methods", "decoder", "likelihood", "posterior", "latent_dim", "steps")
    names += ("batch_size", "learning_rate", "slope", "particles", "evaluation_particles", "draws", "validate")
    settings = {name: getattr(args, name) for name in names} | {"threads": torch.get_num_threads()}
    tasks = [
        Task(f"{name}, {missing}, {model}, seed {seed}", dict(zip(KEYS, (name, missing, model, seed), strict=True)))
        for seed in args.seeds
        for name in args.tables
        for missing in args.missing
        for model in args.models
        if missing == "mnar" or model != MODELS[1]
    ]
    return Plan(settings, tasks)


KEYS = ("table", "missing", "model", "seed")


def brief(parts: dict[str, Any]) -> str:
    """Return a model's errors in a line."""
    errors = ", ".join(f"{r['method'] or 'error'} {r['error']:.3f}" for r in parts["runs"])
    return f"{errors}; {parts['runs'][-1]['seconds']:.0f} s"


QUICK = {"models": ["mean", "vae"], "methods": ["guide"], "steps": 300}
BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers, brief=brief, quick=QUICK)
main = functools.partial(harness.main, BENCHMARK)

if __name__ == "__main__":
    harness.command(BENCHMARK)
