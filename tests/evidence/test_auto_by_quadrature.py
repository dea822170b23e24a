"""``method="auto"`` for up to 3 latent dimensions: by quadrature, and by AIS where quadrature doubts itself.

Guides are bad on purpose: too narrow and far off, or at one of two modes, which no weight of theirs tells.
"""

import math
from unittest import mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_pairs import EXACT, normal
from linear_gaussian import LinearGaussian
from pairs import outside_the_support
from pyro import poutine
from statistics_tools import SIGMAS

from pyro_aevb import AIS, Auto, Quadrature, log_marginal_likelihood
from pyro_aevb.evidence import Evidence
from pyro_aevb.evidence.estimates import concatenate

ANNEALING = AIS(10, num_leapfrog=2)
QUICK = Auto(annealing=ANNEALING)
WITHOUT = Auto(annealing=ANNEALING, quadrature=None)


def estimate(model, guide, *args, method=QUICK, **options):
    return log_marginal_likelihood(
        model, guide, *args, method=method, **({"seed": 0, "progress": False, "compile": False} | options)
    )


def assert_by_quadrature(found, truth):
    assert found.method == ("quadrature",) * len(truth)
    assert found.direction == "numerical"
    assert found.settled.all()
    assert found.pareto_k is None
    assert (found.standard_error <= 1e-3).all()
    assert (found.value - truth).abs().max() < 1e-4


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_up_to_three_latents_are_integrated_over_whatever_the_guide_is(latent_dim):
    """Probabilistic PCA, and a guide that is nowhere near the posterior."""
    lg = LinearGaussian(8 if latent_dim == 3 else 30, latent_dim, 6)
    lg.set(**lg.true, A=torch.zeros(latent_dim, 6).double(), r=torch.full((latent_dim,), -3.0).double())
    found = estimate(lg.model, lg.guide, lg.x, batch_size=20)
    assert_by_quadrature(found, lg.log_evidence(lg.x))


def test_four_latents_are_weighed_or_annealed():
    lg = LinearGaussian(6, 4, 6)
    found = estimate(lg.model, lg.guide, lg.x)
    assert set(found.method) <= {"importance", "ais"}
    assert found.direction == "lower"
    assert found.settled is None


def test_without_quadrature_every_value_is_a_lower_bound():
    lg = LinearGaussian(6, 2, 6)
    found = estimate(lg.model, lg.guide, lg.x, method=WITHOUT)
    assert set(found.method) <= {"importance", "ais"}
    assert found.direction == "lower"


def test_a_guide_is_not_asked_for():
    lg = LinearGaussian(6, 2, 6)
    assert_by_quadrature(estimate(lg.model, None, lg.x), lg.log_evidence(lg.x))


def two_modes(x):
    """z ~ N(-6, 0.5^2) or N(6, 0.5^2), x|z ~ N(z, 20^2)."""
    with pyro.plate("data", len(x)):
        sides, scale = x.new_tensor([-6.0, 6.0]).expand(len(x), 2), x.new_tensor(0.5)
        either = dist.Categorical(x.new_ones(len(x), 2))
        z = pyro.sample("z", dist.MixtureSameFamily(either, dist.Normal(sides, scale)))
        pyro.sample("x", dist.Normal(z, 20.0), obs=x)


def at_one_mode(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.full_like(x, 6.0), 0.55))


def test_a_mode_that_the_guide_misses_is_found():
    """Its weights have a light tail, so that k-hat vouches for half of the mass."""
    x = 20 * normal(20)
    each = torch.stack([dist.Normal(side, 400.25**0.5).log_prob(x) for side in (-6.0, 6.0)])
    truth = each.logsumexp(0) - math.log(2)
    half = estimate(two_modes, at_one_mode, x, method=WITHOUT)
    assert set(half.method) == {"importance"}
    assert (half.value < truth - 0.2).all()
    assert_by_quadrature(estimate(two_modes, at_one_mode, x), truth)


def test_heavy_tails_are_integrated_over():
    """z ~ Cauchy(0, 1), x|z ~ Cauchy(z, 1): x ~ Cauchy(0, 2)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Cauchy(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Cauchy(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.3))

    x = 10 * normal(20)
    assert_by_quadrature(estimate(model, guide, x), dist.Cauchy(0.0, 2.0).log_prob(x))


# -- where quadrature doubts itself ------------------------------------------------------------------------------------


def throw(x, concentration):
    """z ~ Beta(a, a), x|z a throw of z: with a = 0.1 and x = 1 a tenth of the mass lies where float32 says 1."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Beta(concentration, concentration))
        pyro.sample("x", dist.Bernoulli(z), obs=x)


def test_what_did_not_settle_is_annealed_and_the_record_says_so():
    """Minibatches of which none, some and all did."""
    hugs = torch.tensor([0] * 4 + [0, 1, 1, 0] + [1] * 4).bool()
    concentration = torch.where(hugs, 0.1, 2.0)
    found = estimate(throw, None, torch.ones(12), concentration, batch_size=4)  # without a warning: none is in doubt
    assert found.method == tuple("ais" if each else "quadrature" for each in hugs)
    assert torch.equal(found.settled, ~hugs)
    assert torch.equal(found.effective_sample_size.isnan(), ~hugs)
    off = (found.value - math.log(0.5)).abs()
    assert (off[~hugs] < 1e-4).all()
    assert (off[hugs] < SIGMAS * found.standard_error[hugs]).all()
    assert found.standard_error[hugs].max() < 0.3
    assert found.direction == "lower (approximate)"
    assert found.directions() == tuple("lower" if each else "numerical" for each in hugs)
    assert "direction='lower (approximate)'" in repr(found)


@pytest.mark.parametrize(
    ("concentration", "direction", "each"),
    [
        ([2.0, 2.0], "numerical", ("numerical", "numerical")),
        ([0.1, 0.1], "lower", ("lower", "lower")),
        ([2.0, 0.1], "lower (approximate)", ("numerical", "lower")),
    ],
)
def test_the_direction_of_a_minibatch_is_that_of_all_its_methods(concentration, direction, each):
    found = estimate(throw, None, torch.ones(2), torch.tensor(concentration))
    assert found.direction == direction
    assert found.directions() == each


def test_what_takes_more_points_than_there_are_is_annealed():
    lg = LinearGaussian(4, 2, 6)
    found = estimate(lg.model, None, lg.x, method=Auto(annealing=ANNEALING, quadrature=Quadrature(max_points=100)))
    assert found.method == ("ais",) * 4
    assert found.direction == "lower"


def test_a_density_that_overflows_is_annealed():
    """z ~ InverseGamma(3, 2): in float32 its density is inf on the way to where 1 / z is infinite."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.InverseGamma(3 * x.new_ones(()), 2 * x.new_ones(())))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    x = torch.tensor([0.5, 2.0])
    with mock.patch("pyro_aevb.evidence.marginal_likelihood.progress_bar") as bar:
        found = estimate(model, None, x)
    updates = bar.return_value.__enter__.return_value.update.call_args_list
    assert sum(call.args[0] for call in updates) == pytest.approx(2)
    exact = estimate(model, None, x.double(), method="quadrature")
    assert found.method == ("ais", "ais")
    assert not found.settled.any()
    assert ((found.value - exact.value).abs() < SIGMAS * found.standard_error).all()


def test_latents_whose_cells_are_masked_are_not_integrated_over():
    """Along what is masked p(x, u) is flat: quadrature refuses them, and auto weighs or anneals."""

    def model(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).mask(seen).to_event(1))
            pyro.sample("x", dist.Normal(torch.where(seen, z, 0.0).sum(-1), 1.0), obs=x)

    def guide(x, seen):
        with pyro.plate("data", len(x)):
            loc = x[:, None] / 3 * x.new_ones(2)
            pyro.sample("z", dist.Normal(loc, 0.9).mask(seen).to_event(1))

    x, seen = normal(8), torch.tensor([[True, False], [True, True]] * 4)
    with pytest.raises(ValueError, match="masked as a whole, for an integral"):
        estimate(model, guide, x, seen, method="quadrature")
    found = estimate(model, guide, x, seen, method=Auto(annealing=AIS(30, num_leapfrog=2)))
    truth = dist.Normal(0.0, (1.0 + seen.sum(-1)).double().sqrt()).log_prob(x)
    assert set(found.method) <= {"importance", "ais"}
    assert ((found.value - truth).abs() < SIGMAS * found.standard_error).all()
    assert found.standard_error.max() < 0.5


def test_where_quadrature_settles_no_chain_is_run():
    """Nor is the guide weighed: the cost is that of the integral."""
    lg = LinearGaussian(6, 1, 4)
    with mock.patch.object(AIS, "forward", side_effect=AssertionError):
        assert_by_quadrature(estimate(lg.model, lg.guide, lg.x), lg.log_evidence(lg.x))


# -- guides of other kinds ---------------------------------------------------------------------------------------------


def test_auxiliary_sites_of_the_guide_show_where_to_begin():
    pair, x, exact = EXACT["two_latents_in_turn"]()

    def auxiliary(x, seen):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.4 * x[:, 0], 0.3), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(a, 0.1))
            pyro.sample("top", dist.Normal(a, 0.1))

    assert_by_quadrature(estimate(pair.model, auxiliary, *x), exact)


def test_what_the_guide_enumerates_is_summed_out_of_the_model():
    """y ~ Bernoulli(0.3), z ~ N(0, 1), x ~ N(z + 4 y, 1): two normals."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(x.new_tensor(0.3)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + 4 * y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(logits=x - 2), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal((x - 4 * y) / 2, 0.3))

    x = normal(10) * 2
    each = [dist.Normal(4.0 * y, 2**0.5).log_prob(x) + math.log(p) for y, p in ((0, 0.7), (1, 0.3))]
    assert_by_quadrature(estimate(model, guide, x), torch.logaddexp(*each))


def test_draws_of_a_guide_outside_the_support_do_no_harm():
    x = torch.tensor([0.0, 1.0, 9.0]).double()
    with pyro.validation_enabled(False):
        found = estimate(*outside_the_support(0.5), x)
    low, high = (torch.special.log_ndtr(each) for each in (-x, 1 - x))  # P(-x < e < 1 - x)
    assert_by_quadrature(found, high + torch.log(-torch.expm1(low - high)))


def test_global_draws_are_of_lower_bounds():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(0.5, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.1))

    x = torch.tensor([0.0, 3.0])
    found = estimate(model, guide, x, num_global_draws=12)
    exact = dist.Normal(0.5, 2.01**0.5).log_prob(x)
    assert ((found.value - exact).abs() < SIGMAS * found.standard_error).all()
    assert found.direction == "lower"
    assert found.method == ("quadrature", "quadrature")


def test_the_weight_of_a_scale_does_not_count():
    lg = LinearGaussian(6, 1, 4)
    found = estimate(poutine.scale(lg.model, scale=3.0), poutine.scale(lg.guide, scale=3.0), lg.x)
    assert_by_quadrature(found, lg.log_evidence(lg.x))


# -- directions put together -------------------------------------------------------------------------------------------


def test_minibatches_on_different_sides_are_refused():
    one = torch.zeros(1)
    with pytest.raises(ValueError, match=r"minibatches of one direction, got \['lower', 'upper'\]"):
        concatenate([Evidence(one, one, "lower"), Evidence(one, one, "upper")])
