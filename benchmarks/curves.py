"""Training curves: what `fit` recorded, the paper's own, and a figure of both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from pyro_aevb import History


def record(history: History, suffix: str = "") -> dict[str, Any]:
    """Return a run's curve and times as they are written to JSON."""
    curve = []
    for done in history.records:
        point = {"samples": done.samples, "seconds": round(done.seconds, 2)}
        curve.append(point | {f"{name}{suffix}": round(value, 4) for name, value in done.values.items()})
    return {
        "curve": curve,
        "seconds": round(history.seconds, 2),
        "evaluation_seconds": round(history.evaluation_seconds, 2),
        "compile_seconds": round(history.compile_seconds, 2),
        "interrupted": history.interrupted,
    }


def published(panel: str) -> dict[str, list[list[float]]]:
    """Return the paper's curves {"AEVB test": [[samples, nats], ...], ...} in a panel; empty where it has none."""
    return json.loads((Path(__file__).parent / "paper_curves.json").read_text()).get(panel, {})


def at(curve: list[list[float]], samples: float) -> float:
    """Return a curve's value, interpolated on a log scale of samples."""
    x, y = np.array(curve).T
    return float(np.interp(np.log(samples), np.log(x), y))


class Line(NamedTuple):
    """A line of a figure; the paper's are ``published``, broad and pale, and are seen where ours end.

    ``band`` is the lowest and the highest of several runs, whose mean the line is; ``error`` are standard errors.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    style: str = "-"
    published: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None
    error: Sequence[float] | None = None


def mean(label: str, runs: list[dict[str, Any]], quantity: str, color: str, style: str) -> Line:
    """Return the mean of several runs' curves, with their band, where all of them were evaluated."""
    found = [{p["samples"]: p[quantity] for p in run["curve"]} for run in runs]
    x = sorted(set.intersection(*map(set, found)))
    y = np.array([[curve[samples] for samples in x] for curve in found])
    return Line(label, x, y.mean(0), color, style, band=(y.min(0), y.max(0)) if len(runs) > 1 else None)


def _within(x: np.ndarray, y: np.ndarray, start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve between two sample counts, cut where it crosses them."""
    edges = [each for each in (start, end) if x[0] <= each <= x[-1]]
    inside = np.array(sorted({*x[(x >= start) & (x <= end)], *edges}))
    return inside, np.interp(np.log(inside), np.log(x), y)


def draw(panels: dict[str, list[Line]], title: str, quantity: str, path: Path) -> None:
    """Draw lines against training samples, a panel for each title of ``panels``, with one legend."""
    size = (1.5 + 4 * max(2, len(panels)), 4.6)  # one panel alone is as wide as two: title and legend need it
    fig, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    handles: dict[str, Any] = {}
    for ax, (name, lines) in zip(axes[0], panels.items(), strict=True):
        ours = [line for line in lines if not line.published]
        end = max(max(line.x) for line in ours)
        low = min(y for line in ours for x, y in zip(line.x, line.y, strict=True) if x >= end / 30)
        late = [
            at(list(zip(line.x, line.y, strict=True)), end) for line in lines if line.published and line.x[0] <= end
        ]
        low, high = min([low, *late]), max(max(line.y) for line in ours)
        start = min(x for line in ours for x, y in zip(line.x, line.y, strict=True) if y >= low)
        for line in lines:
            x, y = np.array(line.x), np.array(line.y)
            if line.published:
                x, y = _within(x, y, start, 1.3 * end)
                if (y >= low).any():
                    (handles[line.label],) = ax.plot(x, y, color=line.color, lw=3.5, alpha=0.3)
            else:
                style = line.style if len(x) > 5 or line.style == "x" else "." + line.style
                (handles[line.label],) = ax.plot(x, y, style, color=line.color, lw=1.6, ms=6)
                if line.error is not None:
                    ax.errorbar(x, y, line.error, fmt="none", ecolor=line.color, alpha=0.4, capsize=2)
                if line.band is not None:
                    ax.fill_between(x, *line.band, color=line.color, alpha=0.25, lw=0)
        margin = 0.05 * (high - low) + 1e-6
        ax.set(xscale="log", xlim=(start * 0.95, end * 1.05), ylim=(low - margin, high + margin))
        ax.set_title(name)
        ax.set_xlabel("training samples evaluated")
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel(quantity)
    fig.suptitle(title)
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    fig.savefig(path, dpi=110)
    plt.close(fig)
