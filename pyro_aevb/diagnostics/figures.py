"""Pictures of the diagnostics; each function draws in the axes that it is given, or in those of a new figure.

Colours are those of Okabe and Ito (2008), which all kinds of colour vision tell apart.

Shapes: N datapoints or pairs, L draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyro_aevb.diagnostics.sbc import Ranks
    from pyro_aevb.diagnostics.tarp import Coverage

BLUE, ORANGE, SKY, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#999999"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
STYLES = ("-", "--", ":", "-.")  # the next ones of the same colours
MOST_LABELS = 10  # those of the smallest p-values


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


def rank_plot(ranks: Ranks, axes: Axes | None = None, coverage: float = 0.95) -> Axes:
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
