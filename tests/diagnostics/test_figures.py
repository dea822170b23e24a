"""Pictures of the diagnostics: what is drawn, where, and in which colours."""

import matplotlib.colors
import pytest
import torch
from matplotlib.figure import Figure

from pyro_aevb.diagnostics import Coverage, Dimension, RankStatistics, Report, figures, uniform_ranks
from pyro_aevb.evidence import Estimate, Evidence

RANKS = RankStatistics(
    {"z": torch.arange(600).reshape(200, 3) % 20, "log p(x, z)": torch.arange(200) % 7},
    19,
    {"z": torch.tensor([0.5, 0.6, 0.7]), "log p(x, z)": torch.tensor(0.001)},
)
COVERAGE = Coverage(torch.arange(200) % 20, 19, 0.9)
K = torch.tensor([0.1, 0.2, 0.6, 0.9, 3.0, float("nan")])


def a_report(kl=(2.0, 0.001), pareto_k=K):
    bound = Estimate(torch.linspace(-5, -3, 6), torch.full((6,), 0.1))
    evidence = Evidence(bound.value + 0.5, bound.standard_error, "lower", pareto_k=pareto_k)
    dimensions = tuple(Dimension(f"z[{j}]", each, activity=1 / (j + 1)) for j, each in enumerate(kl))
    parts = {"x": bound.value + 1}, {"z": torch.ones(6)}
    return Report(bound, *parts, {}, dimensions, evidence, "importance", None)


DRAWN = {
    "rank_plot": lambda axes: figures.rank_plot(RANKS, axes),
    "coverage_plot": lambda axes: figures.coverage_plot(COVERAGE, axes),
    "pareto_k_plot": lambda axes: figures.pareto_k_plot(K, axes),
    "dimension_plot": lambda axes: figures.dimension_plot(a_report(), axes),
    "bound_plot": lambda axes: figures.bound_plot(a_report(), axes),
}
CALM = {matplotlib.colors.to_hex(c) for c in (*figures.COLOURS, figures.GREY, "black")}


@pytest.mark.parametrize("name", DRAWN)
def test_each_draws_in_the_axes_that_it_is_given_or_in_new_ones(name):
    axes = Figure().add_subplot()
    assert DRAWN[name](axes) is axes
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    new = DRAWN[name](None)
    assert new is not axes
    new.figure.draw_without_rendering()
    colours = [line.get_color() for line in new.lines]
    colours += [patch.get_facecolor() for patch in new.patches]
    colours += [colour for collection in new.collections for colour in collection.get_facecolor()]
    assert {matplotlib.colors.to_hex(colour) for colour in colours} <= CALM


def test_every_entry_is_a_line_with_its_name_and_the_density_is_black():
    axes = RANKS.plot()
    labels = {line.get_label(): line.get_color() for line in axes.lines if not line.get_label().startswith("_")}
    assert list(labels) == ["z[0]", "z[1]", "z[2]", "log p(x, z)"]
    assert labels["log p(x, z)"] == "black"
    uniform = torch.arange(1, 20).double() / 20
    height = uniform_ranks.distribution_function(RANKS.ranks["z"][:, 1], 19) - uniform
    assert axes.lines[1].get_ydata().tolist() == height.tolist()


def test_the_coverage_is_drawn_over_its_credibility():
    line = COVERAGE.plot().lines[1]
    assert line.get_xdata().tolist() == COVERAGE.credibility.tolist()
    assert line.get_ydata().tolist() == COVERAGE.coverage.tolist()
    assert "p = 0.9" in line.get_label()


def test_what_is_above_the_limit_has_another_mark_and_none_is_left_out():
    axes = figures.pareto_k_plot(K)
    good, bad = (collection.get_offsets() for collection in axes.collections)
    assert good[:, 1].tolist() == pytest.approx([0.1, 0.2, 0.6])
    assert bad[:, 1].tolist() == pytest.approx([0.9, 2.0])  # the largest at the edge
    assert axes.get_title() == "2 of 5 above 0.7"


def test_dimensions_are_in_order_of_their_kl_or_else_of_their_activity():
    axes = figures.dimension_plot(a_report(kl=(0.001, 2.0)))
    assert [patch.get_height() for patch in axes.patches] == [2.0, 0.001]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["z[1]", "z[0]"]
    axes = figures.dimension_plot(a_report(kl=(float("nan"), float("nan"))))
    assert [patch.get_height() for patch in axes.patches] == [1.0, 0.5]
    assert axes.get_ylabel() == "variance of E[z|x]"


@pytest.mark.parametrize("pareto_k", [K, None])
def test_the_page_has_the_report_in_words_beside_its_pictures(pareto_k):
    page = a_report(pareto_k=pareto_k).plot()
    assert isinstance(page, Figure)
    assert len(page.axes) == 4
    words = page.axes[3].texts[0].get_text()
    assert "log p(x), importance" in words
    assert "collapsed: 1 carry less than 0.01 nats: z[1]" in words
    assert ("> 1: 1" in words) == (pareto_k is not None)
