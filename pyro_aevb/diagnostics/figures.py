"""Pictures of the diagnostics; each function draws in the axes that it is given, or in those of a new figure.

Colours are those of Okabe and Ito (2008), which all kinds of colour vision tell apart.

Shapes: N datapoints or pairs, L draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyro_aevb.diagnostics.report import Dimension, Report
    from pyro_aevb.diagnostics.sbc import RankStatistics
    from pyro_aevb.diagnostics.tarp import Coverage

BLUE, ORANGE, SKY, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#999999"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
STYLES = ("-", "--", ":", "-.")  # the next ones of the same colours
MOST_LABELS = 10  # those of the smallest p-values
LARGEST_K = 2.0  # shown; what is above is drawn at it


def new_axes(axes: Axes | None = None, size: tuple[float, float] = (5.0, 3.6)) -> Axes:
    """Return the axes, or those of a new figure.

    Args:
        axes: or ``None``.
        size: of the figure, in inches.
    """
    if axes is not None:
        return axes
    from matplotlib.figure import Figure  # here, since it takes a second to import

    return Figure(figsize=size, layout="constrained").add_subplot()


def rank_plot(ranks: RankStatistics, axes: Axes | None = None, coverage: float = 0.95) -> Axes:
    """Return axes with the distribution function of each entry's ranks less the uniform one, and exact draws' band.

    A curve that is above on the left and below on the right has ranks at both ends: q is too narrow.

    Args:
        ranks: of :func:`.sbc`.
        axes: to draw in; by default those of a new figure.
        coverage: the probability with which exact draws stay in the band everywhere, each entry by itself.

    Raises:
        ValueError: for a probability that isn't between 0 and 1.
    """
    from pyro_aevb.diagnostics.uniform_ranks import distribution_function

    axes, band = new_axes(axes), ranks.band(coverage)
    label = f"{coverage:.0%} band"
    axes.fill_between(
        band.level, band.low - band.level, band.high - band.level, color=GREY, alpha=0.3, linewidth=0, label=label
    )
    table = ranks.table()
    names = table["entry"]
    named = sorted(range(len(names)), key=table["p_value"].__getitem__)[:MOST_LABELS]
    columns = torch.cat([rank.reshape(len(rank), -1) for rank in ranks.ranks.values()], 1).cpu()
    for place, (name, function) in enumerate(
        zip(names, distribution_function(columns, ranks.num_draws).T, strict=True)
    ):
        style = STYLES[place // len(COLOURS) % len(STYLES)]
        last = name == names[-1]  # the log joint density
        axes.plot(
            band.level, function - band.level, color="black" if last else COLOURS[place % len(COLOURS)],
            linestyle="-" if last else style, linewidth=1.8 if last else 1.2,
            label=name if place in named or last else None,
        )  # fmt: skip
    axes.axhline(0.0, color="black", linewidth=0.6)
    axes.set_xlabel("rank among the draws, as a share")
    axes.set_ylabel("distribution function\nless the uniform one")
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return axes


def coverage_plot(found: Coverage, axes: Axes | None = None, coverage: float = 0.95) -> Axes:
    """Return axes with the coverage of balls against their credibility, and the band of exact draws.

    Args:
        found: of :func:`.tarp`.
        axes: to draw in; by default those of a new figure.
        coverage: the probability with which exact draws stay in the band everywhere.

    Raises:
        ValueError: for a probability that isn't between 0 and 1.
    """
    axes, band = new_axes(axes, (4.0, 3.8)), found.band(coverage)
    axes.fill_between(band.level, band.low, band.high, color=GREY, alpha=0.3, linewidth=0, label=f"{coverage:.0%} band")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.6)
    label = f"coverage, p = {found.p_value:.2g}"
    axes.plot(found.credibility, found.coverage, color=BLUE, linewidth=1.5, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel("credibility of the ball")
    axes.set_ylabel("coverage of the true z")
    axes.legend(frameon=False, loc="upper left")
    return axes


def pareto_k_plot(pareto_k: Tensor, axes: Axes | None = None) -> Axes:
    """Return axes with each datapoint's pareto_k, in order of size, and the limits 0.5, 0.7 and 1.

    Args:
        pareto_k: (N,), of an :class:`~pyro_aevb.Evidence` or a :class:`~pyro_aevb.Posterior`; NaN is left out.
        axes: to draw in; by default those of a new figure.

    >>> from pyro_aevb.diagnostics.figures import pareto_k_plot
    >>> pareto_k_plot(torch.tensor([0.1, 0.9, float("nan")])).get_title()
    '1 of 2 above 0.7'
    """
    from pyro_aevb.diagnostics.report import EDGES

    axes, k = new_axes(axes), pareto_k[~pareto_k.isnan()].cpu().sort().values
    shown, place = k.clamp(-0.5, LARGEST_K), torch.arange(len(k))
    bad = k > EDGES[1]
    axes.scatter(place[~bad], shown[~bad], s=8, color=BLUE, marker="o", label="reliable")
    axes.scatter(place[bad], shown[bad], s=14, color=ORANGE, marker="^", label="not reliable")
    for edge in EDGES:
        axes.axhline(edge, color="black", linewidth=0.6, linestyle="--" if edge == EDGES[1] else ":")
    axes.set_yticks([0.0, *EDGES, 1.5, LARGEST_K], labels=["0", *(f"{edge:g}" for edge in EDGES), "1.5", "2 +"])
    axes.set_ylim(-0.6, LARGEST_K + 0.1)
    axes.set_xlabel("datapoints, by pareto_k")
    axes.set_ylabel("pareto_k")
    axes.set_title(f"{int(bad.sum())} of {len(k)} above {EDGES[1]}" if len(k) else "no pareto_k", fontsize="medium")
    return axes


def dimension_plot(report: Report, axes: Axes | None = None) -> Axes:
    """Return axes with the KL of each latent dimension, largest first; the activity, if no latent factorises.

    Args:
        report: of :func:`.report`.
        axes: to draw in; by default those of a new figure.
    """
    axes = new_axes(axes)
    factorised = [each for each in report.dimensions if not math.isnan(each.kl)]
    height: Callable[[Dimension], float] = lambda each: each.kl if factorised else each.activity  # noqa: E731
    ordered = sorted(factorised or report.dimensions, key=height, reverse=True)
    colours = [BLUE if each.active else GREY for each in ordered]
    axes.bar(range(len(ordered)), [height(each) for each in ordered], color=colours)
    if len(ordered) <= 20:
        axes.set_xticks(range(len(ordered)), labels=[each.name for each in ordered], rotation=90, fontsize="small")
    axes.set_xlabel("latent dimensions")
    axes.set_ylabel("KL (nats)" if factorised else "variance of E[z|x]")
    active = sum(each.active for each in report.dimensions)
    axes.set_title(f"{active} of {len(report.dimensions)} active (blue)", fontsize="medium")
    return axes


def bound_plot(report: Report, axes: Axes | None = None) -> Axes:
    """Return axes with log p(x) of each datapoint against its bound.

    Args:
        report: of :func:`.report`.
        axes: to draw in; by default those of a new figure.
    """
    axes = new_axes(axes)
    bound, log_p = report.bound.value.cpu(), report.evidence.value.cpu()
    axes.scatter(bound, log_p, s=8, color=BLUE)
    low, high = min(bound.min(), log_p.min()).item(), max(bound.max(), log_p.max()).item()
    axes.plot([low, high], [low, high], color="black", linewidth=0.6)
    axes.set_xlabel("bound (nats)")
    axes.set_ylabel("log p(x) (nats)")
    axes.set_title(f"gap {(log_p - bound).mean():.2f} nats on average", fontsize="medium")
    return axes


def report_page(report: Report) -> Figure:
    """Return a page: log p(x) against the bound, pareto_k, the latent dimensions, and the report's text.

    Args:
        report: of :func:`.report`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 7.5), layout="constrained")
    places = figure.subplots(2, 2)
    bound_plot(report, places[0, 0])
    k = report.evidence.pareto_k
    pareto_k_plot(torch.full((1,), torch.nan) if k is None else k, places[0, 1])
    dimension_plot(report, places[1, 0])
    places[1, 1].axis("off")
    places[1, 1].text(0.0, 1.0, _lines(str(report)), va="top", family="monospace", fontsize=7, in_layout=False)
    return figure


def _lines(text: str, width: int = 72) -> str:
    """Return text with lines that are too long for half a page broken."""
    import textwrap

    return "\n".join(line if len(line) <= width else textwrap.fill(line, width) for line in text.splitlines())
