"""95% intervals: value ± 1.96 standard errors hold log p(x) for 92 to 97% of datapoints, with few draws too.

Of 1600 datapoints a right interval holds 95 ± 0.5%.
"""

import math
import warnings

import pytest
import torch
from exact_pairs import EXACT

from pyro_aevb import AIS, SMC, Importance, PosteriorDensity, log_marginal_likelihood
from pyro_aevb.evidence.importance_weights import log_mean, student_quantile, widened

METHODS = {
    "importance": (Importance(), 300),
    "ais": (AIS(50, num_leapfrog=3, start="guide"), 16),
    "smc": (SMC(10, num_leapfrog=3), 8),
    "posterior-density": (PosteriorDensity(), 50),
}


def covered(name, method, num_data):
    """The share of intervals that hold log p(x)."""
    pair, x, truth = EXACT[name](num_data)
    options, num_particles = METHODS[method]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(pareto_k|the fitted density)")  # by chance, of few samples
        evidence = log_marginal_likelihood(
            pair.model, pair.guide, *(x if isinstance(x, tuple) else (x,)), method=options, num_particles=num_particles,
            batch_size=num_data, seed=0, progress=False, compile="graph",
        )  # fmt: skip
    return ((evidence.value - truth).abs() < 1.96 * evidence.standard_error).double().mean().item()


def marks(method, name):
    """One model by default, and a third of the others in CI."""
    if name == "laplace_prior" and method != "posterior-density":
        return ()
    turn = (list(METHODS).index(method) + list(EXACT).index(name)) % 3
    return pytest.mark.exhaustive if turn else pytest.mark.slow


@pytest.mark.parametrize(
    ("method", "name"),
    [pytest.param(method, name, marks=marks(method, name)) for method in METHODS for name in EXACT],
)
def test_intervals_cover_the_truth(method, name):
    assert 0.92 <= covered(name, method, 1600) <= 0.97


def test_intervals_from_few_weights_cover_the_mean():
    """Of 4 weights near 1: with the delta method's error alone it would be 85%."""
    weight = 1 + 0.01 * torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0)).double()
    value, error, _ = log_mean(weight.log()).result()
    share = (value.abs() < 1.96 * widened(error, 4)).double().mean().item()
    assert abs(share - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 20_000)


def test_the_quantiles_of_student():
    """Against a table, and on both sides of where the expansion begins."""
    table = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 15: 2.1314, 30: 2.0423, 120: 1.9799}
    for df, quantile in table.items():
        assert abs(student_quantile(df) - quantile) < 5e-5
    assert 0 < student_quantile(200) - student_quantile(201) < 1e-4
    assert abs(student_quantile(10**6) - 1.959964) < 1e-5
    assert widened(torch.tensor([1.0]), 1).isnan().all()  # one draw can't tell
