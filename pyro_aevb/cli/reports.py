"""The output of the commands of :mod:`pyro_aevb.cli`: a short table, or one JSON object."""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_aevb.cli.table_files import COLUMNS, is_standardised
from pyro_aevb.cli.train import summary
from pyro_aevb.datasets.table import read_columns
from pyro_aevb.environment import information, versions
from pyro_aevb.evidence.estimates import Evidence, MeanEstimate
from pyro_aevb.training.history import ERROR, History


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object; what is not a finite number is null."""
    print(json.dumps(_finite(values), allow_nan=False))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with their columns aligned, the first to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())


def with_errors(value: float, standard_error: float) -> str:
    """Return "value ± error"."""
    return f"{value:.2f}" if math.isnan(standard_error) else f"{value:.2f} ± {standard_error:.2f}"


def print_training(history: History, out: Path, as_json: bool) -> None:
    """Print how a run ended, and where it is."""
    numbers = summary(history)
    if as_json:
        print_json({"out": str(out), **numbers, "versions": versions()})
        return
    ending = "interrupted" if history.interrupted else "stopped early" if history.stopped_early else "done"
    print(f"{ending} after {history.samples} samples, {history.seconds:.1f} s")
    if "validation" in numbers:
        best = "" if history.best is None else f", best {history.best.values['validation']:.2f}"
        best += "" if history.best is None else f" at {history.best.samples} samples"
        bound = with_errors(numbers["validation"], numbers["validation" + ERROR])
        print(f"validation bound {bound} nats per datapoint{best}")
    elif numbers["training"] is not None and math.isfinite(numbers["training"]):
        print(f"training bound {numbers['training']:.2f} nats per datapoint, the mean since the evaluation before")
    if (out / COLUMNS).exists() and is_standardised(read_columns(out / COLUMNS)):
        print("these are nats of standardised numbers: evaluate gives those of the cells in the units of the file")
    print(f"written: {out}" + ("; --resume goes on" if history.interrupted else ""))


def print_evidence(
    bound: MeanEstimate, evidence: Evidence, method: str, seed: int, as_json: bool, theta_draws: int | None = None
) -> None:
    """Print the bound and log p(x); ``theta_draws`` is how many theta they are means over, after full VB."""
    value, error = evidence.mean()
    methods = collections.Counter(evidence.method or [method] * len(evidence.value))
    upper = None
    if evidence.upper is not None:
        upper = {**evidence.upper.mean()._asdict(), "direction": evidence.upper.direction}
    if as_json:
        print_json(
            {
                "value": value,
                "standard_error": error,
                "direction": evidence.direction,
                "upper": upper,
                "simulated": evidence.data is not None,
                "method": method,
                "methods": methods,
                "theta_draws": theta_draws,
                "bound": {"value": bound.value, "standard_error": bound.standard_error, "direction": "lower"},
                "datapoints": len(evidence.value),
                "seed": seed,
                "versions": versions(),
            }
        )
        return
    rows = [
        ("", "nats per datapoint", "direction"),
        ("bound", with_errors(*bound), "lower"),
        (f"log p(x), {method}", with_errors(value, error), evidence.direction),
    ]
    if evidence.upper is not None:
        rows.append((f"log p(x), {method}", with_errors(*evidence.upper.mean()), evidence.upper.direction))
    print_table(rows)
    if evidence.data is not None:
        print(f"log p(x) by {method} is that of as many datapoints that the model simulated")
    if evidence.method is not None:
        print("log p(x) of " + ", of ".join(f"{number} by {name}" for name, number in sorted(methods.items())))
    if theta_draws is not None:
        print(f"log p(x) is that of the mean of p(x) over {theta_draws} draws of theta, and the bound a mean over them")
    print(f"{len(evidence.value)} datapoints, seed {seed}; errors cover the noise and the choice of datapoints")


def print_file(out: Path, content: Tensor, as_json: bool) -> None:
    """Print what was written."""
    if as_json:
        print_json({"out": str(out), "shape": list(content.shape), "versions": versions()})
    else:
        print(f"written: {out}, {' x '.join(map(str, content.shape))}")


def print_comparison(histories: Mapping[str, History], out: Path, as_json: bool) -> None:
    """Print the last validation bounds."""
    found = {name: summary(history) for name, history in histories.items()}
    if as_json:
        print_json({"out": str(out), "learners": found, "versions": versions()})
        return
    rows = [("", "validation bound", "samples", "seconds")]
    for name, numbers in found.items():
        bound = with_errors(numbers["validation"], numbers["validation" + ERROR])
        rows.append((name, bound, str(numbers["samples"]), f"{numbers['seconds']:.1f}"))
    print_table(rows)
    if found:
        print(f"nats per datapoint; written: {out}")


def print_information(as_json: bool) -> None:
    """Print versions, devices, and what the fast path can use."""
    found = information()
    if as_json:
        print_json(found)
        return
    rows = found.pop("versions") | found
    for name, value in rows.items():
        text = ", ".join(value) if isinstance(value, list) else {"True": "yes", "False": "no"}.get(str(value), value)
        print(f"{name:<10} {'none found' if text is None else text}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
