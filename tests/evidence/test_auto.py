"""Importance sampling and annealing in one: which datapoint goes where, and that nothing else depends on it.

Quadrature, which comes before them in so few dimensions, is left out here.

z ~ N(0, 1), x|z ~ N(z, 1) and a guide that is its posterior, ``width`` times as wide: weights have a light tail where
it is 1.1.  Where it is 0.2 the guide is also far off, and the largest weights differ by many powers of e.
"""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_pairs import EXACT, normal
from pairs import outside_the_support
from statistics_tools import SIGMAS, assert_mean

from pyro_aevb import AIS, Auto, Importance, Quadrature, log_marginal_likelihood
from pyro_aevb.evidence.importance_weights import log_mean, relied_on

NARROW, WIDE, FAR = 0.2, 1.1, 20.0
QUICK = Auto(annealing=AIS(10, num_leapfrog=2), quadrature=None)


def exact(x):
    return dist.Normal(0.0, 2**0.5).log_prob(x)


def model(x, width):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x, width):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2 + torch.where(width < 1, FAR, 0.0), width / 2**0.5))


def guide_in_place(x, width):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, width / 2**0.5))


def estimate(model, guide, *args, method=QUICK, **options):
    return log_marginal_likelihood(
        model, guide, *args, method=method, **({"seed": 0, "progress": False, "compile": False} | options)
    )


def test_half_of_the_datapoints_are_annealed():
    x = normal(60)
    width = torch.tensor([NARROW, WIDE] * 30).double()
    found = estimate(model, guide, x, width, batch_size=25)  # no warning of tails, which would be an error
    narrow = width < 1
    assert found.method == ("ais", "importance") * 30
    assert found.direction == "lower"
    assert (found.pareto_k.isnan() == narrow).all()
    assert (found.pareto_k[~narrow] <= 0.7).all()
    assert (found.effective_sample_size[narrow] <= 16 + 1e-9).all()
    assert (found.effective_sample_size[~narrow] > 500).all()
    off = found.value - exact(x)
    for part, error in ((narrow, 0.15), (~narrow, 0.02)):
        assert found.standard_error[part].max() < error
        assert_mean(off[part], 0.0, resolution=error)


def test_what_importance_is_relied_on_for_is_what_importance_says():
    x = normal(20)
    width = torch.tensor([NARROW] * 3 + [WIDE] * 17).double()
    found = estimate(model, guide, x, width)
    with pytest.warns(UserWarning, match="pareto_k is above 0.7 for 3 of 20"):
        weighed = estimate(model, guide, x, width, method=Importance())
    for field in ("value", "standard_error", "effective_sample_size", "pareto_k"):
        assert torch.equal(getattr(found, field)[3:], getattr(weighed, field)[3:])


@pytest.mark.filterwarnings("ignore:pareto_k")
@pytest.mark.parametrize(
    ("bound", "largest"), [(0.7, 0.7 - 2 * 1.7 / 94**0.5), (0.9, 0.9 - 2 * 1.9 / 94**0.5)], ids=["0.7", "0.9"]
)
def test_the_shape_of_a_tail_is_two_errors_below_the_bound(bound, largest):
    """Of 1000 weights the tail is 94."""
    x, width = torch.full((60,), 1.0).double(), torch.full((60,), 0.7).double()
    method = Auto(annealing=AIS(2, num_leapfrog=1), largest_pareto_k=bound, quadrature=None)
    found = estimate(model, guide_in_place, x, width, method=method)
    tail = estimate(model, guide_in_place, x, width, method=Importance()).pareto_k
    assert ((tail > largest) & (tail <= bound)).sum() > 5
    assert (tail <= largest).sum() > 2
    assert found.method == tuple("ais" if k > largest else "importance" for k in tail.tolist())


def share_relied_on(shape, num_sets=1000, num_particles=1000):
    """Of sets of weights that are draws from a generalized Pareto distribution."""
    rows = torch.rand(num_particles, num_sets, generator=torch.Generator().manual_seed(0)).double()
    log_weight = torch.expm1(-shape * rows.log()).log() if shape else (-rows.log()).log()
    tail = log_mean(log_weight).pareto_k()
    return relied_on(tail, num_particles).double().mean().item()


def test_a_heavy_tail_passes_by_chance_as_rarely_as_two_errors_say():
    once = dist.Normal(0.0, 1.0).cdf(torch.tensor(-2.0)).item()
    assert share_relied_on(0.7) <= once + SIGMAS * (once / 1000) ** 0.5


def test_a_light_tail_is_relied_on():
    assert share_relied_on(0.0, num_sets=300) > 0.99


@pytest.mark.parametrize("others", [WIDE, NARROW], ids=["weighed", "annealed"])
def test_an_annealed_datapoint_has_the_same_law_whatever_its_neighbours_are(others):
    """One datapoint, a tenth of the minibatch: the mean of its estimates of p(x), and their spread, are known."""
    x = normal(200)
    width = torch.full((200,), others).double()
    width[::10] = NARROW
    x[::10] = 1.5
    method = Auto(annealing=AIS(10, num_leapfrog=2), num_chains=8, quadrature=None)
    found = estimate(model, guide, x, width, method=method)
    ratio = (found.value - exact(x))[::10].exp()
    assert {found.method[n] for n in range(0, 200, 10)} == {"ais"}
    assert_mean(ratio, 1.0, resolution=0.4)


def test_annealed_datapoints_have_the_law_of_ais():
    """Gathered or not, they are what AIS alone gives from the same noise."""
    x = normal(8)
    alone = estimate(model, None, x, torch.ones(8), method=QUICK.annealing, num_particles=16)
    found = estimate(model, None, x, torch.ones(8))
    assert found.method == ("ais",) * 8
    assert found.pareto_k.isnan().all()
    for field in ("value", "standard_error", "effective_sample_size"):
        assert torch.equal(getattr(found, field), getattr(alone, field))


def test_draws_too_few_to_tell_are_annealed():
    x = normal(5)
    width = torch.full((5,), WIDE).double()
    assert estimate(model, guide, x, width, num_particles=24).method == ("ais",) * 5
    assert estimate(model, guide, x, torch.ones(5).double()).method == ("importance",) * 5  # all weights are equal


def test_weights_that_are_all_zero_are_annealed():
    x = torch.tensor([0.0, 1.0, 9.0]).double()
    with pyro.validation_enabled(False):
        found = estimate(*outside_the_support(0.5), x)
    assert found.method == ("importance", "importance", "ais")
    truth = dist.Normal(0.0, 1.0).cdf(x) - dist.Normal(0.0, 1.0).cdf(x - 1)
    assert ((found.value - truth.log()).abs() <= SIGMAS * found.standard_error).all()
    assert found.standard_error.max() < 0.2


@pytest.mark.parametrize("method", [QUICK, replace(QUICK, quadrature=Quadrature())], ids=["weights", "quadrature"])
def test_densities_that_are_no_numbers_are_a_fault(method):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, torch.where(x > 5, torch.nan, 1.0)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.8))

    with pyro.validation_enabled(False), pytest.raises(ValueError, match="got NaN or infinite for 1 datapoints"):
        estimate(model, guide, torch.tensor([0.0, 1.0, 9.0]).double(), method=method)


@pytest.mark.parametrize("rows", [lambda x: slice(len(x)), lambda x: slice(30)], ids=["of any number", "all"])
def test_a_model_may_know_a_datapoint_by_its_place_in_the_minibatch(rows):
    """The first rows of its own data, or all of them, whatever it is given."""
    x = normal(30)
    data, width = x, torch.tensor([WIDE] * 26 + [NARROW] * 4).double()

    def by_place(x, width):
        model(data[rows(x)], width)

    found = estimate(by_place, guide, x, width)
    assert found.method == ("importance",) * 26 + ("ais",) * 4
    assert_mean(found.value - exact(x), 0.0, resolution=0.3)


def test_auxiliary_sites_of_the_guide_are_integrated_out_unless_annealing_starts_there():
    pair, x, exact = EXACT["two_latents_in_turn"]()

    def auxiliary(x, seen):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.4 * x[:, 0], 0.3), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(a - 0.3 * x[:, 1] * seen, 1.2))
            pyro.sample("top", dist.Normal(0.5 * a, 1.3))

    found = estimate(pair.model, auxiliary, *x, method=QUICK)
    assert_mean(found.value - exact, 0.0, resolution=0.2)
    with pytest.raises(ValueError, match=r"auxiliary sites \['a'\]"):
        estimate(pair.model, auxiliary, *x, method=Auto(annealing=AIS(30, start="guide")))


def test_options_outside_their_range():
    with pytest.raises(ValueError, match="num_chains of 1 or more, got 0"):
        Auto(num_chains=0)
    for bound in (math.nan, -0.1, math.inf):
        with pytest.raises(ValueError, match=f"largest_pareto_k between 0 and 1, got {bound}.*use method='ais'"):
            Auto(largest_pareto_k=bound)
