"""SBC and TARP: an exact q(z|x) passes, wrong ones don't, whatever the method, the batches and the kind of latent."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_pairs import posterior_pair
from linear_gaussian import LinearGaussian
from pairs import DISCRETE, Pair, two_level
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from torch import nn
from torch.distributions.transforms import AffineTransform

from pyro_aevb import VAE
from pyro_aevb.diagnostics import l_c2st, report, sbc, tarp
from pyro_aevb.diagnostics.sbc import LOG_JOINT
from pyro_aevb.diagnostics.simulations import Simulations
from pyro_aevb.diagnostics.tarp import from_x
from pyro_aevb.posterior import Chains
from pyro_aevb.posterior.posterior import Options

N = 100
QUICK = Chains(num_chains=16, num_temperatures=5, num_warmup=15, num_samples=10, num_leapfrog=3, largest_r_hat=9.0)


def linear_gaussian(kind):
    """Probabilistic PCA in 5 dimensions with q(z|x) of a kind."""
    lg = LinearGaussian(N, 5, 8)
    exact = posterior_pair(lg)
    precision = lg.precision()
    covariance = torch.linalg.inv(precision)
    factor = torch.linalg.cholesky(covariance)

    def guide(x):
        loc = lg.posterior_loc(x)
        fn = {
            "exact": lambda: dist.MultivariateNormal(loc, scale_tril=factor),
            "narrow": lambda: dist.MultivariateNormal(loc, scale_tril=0.8 * factor),
            "wide": lambda: dist.MultivariateNormal(loc, scale_tril=1.25 * factor),
            "shifted": lambda: dist.MultivariateNormal(loc + 0.3 * covariance.diagonal().sqrt(), scale_tril=factor),
            "uncorrelated": lambda: dist.Normal(loc, covariance.diagonal().sqrt().expand_as(loc)).to_event(1),
            "prior": lambda: dist.Normal(torch.zeros_like(loc), 1.0).to_event(1),
        }[kind]()
        with pyro.plate("data", N, subsample=torch.arange(len(x))):
            pyro.sample("z", fn)

    return exact.model, guide, lg.x


def beta_bernoulli(a=2.0):
    """z ~ Beta(2, 3), x|z ~ Bernoulli(z), five throws; the guide is exact at a = 2."""
    x = torch.zeros(N, 5).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Beta(torch.tensor(2.0).double(), 3.0).expand([len(x)]))
            pyro.sample("x", dist.Bernoulli(z[..., None].expand(*z.shape, 5)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(a + x.sum(-1), 3 + (1 - x).sum(-1)))

    return model, guide, x


def coin(share=0.5):
    """z a coin, x ~ N(2 z, 1), and a class y that moves it; the guide is exact at 0.5.  A discrete latent."""
    x, y = torch.zeros(N).double(), torch.arange(N) % 3

    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((len(x),), 0.5).double()))
            pyro.sample("x", dist.Normal(2 * z + 5 * y, 1.0), obs=x)

    def guide(x, y):
        logits = 2 * (x - 5 * y) - 2 + torch.logit(torch.tensor(share).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    return model, guide, x, y


def run(test, model, guide, *args, **options):
    return test(model, guide, *args, **{"seed": 0, "compile": False, "progress": False, **options})


# -- What passes and what doesn't --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [lambda: linear_gaussian("exact"), beta_bernoulli, coin])
def test_an_exact_guide_passes(pair):
    found = run(sbc, *pair())
    assert found.smallest() > 0.005, found.p_value
    assert run(tarp, *pair()).p_value > 0.005
    assert found.ranks["z"].min() == 0
    assert found.ranks["z"].max() == found.num_draws


@pytest.mark.parametrize("kind", ["narrow", "wide", "shifted"])
def test_a_wrong_guide_is_caught_in_each_dimension(kind):
    found = run(sbc, *linear_gaussian(kind))
    assert (found.p_value["z"] < 0.01).all(), found.p_value
    assert found.p_value["z"].shape == (5,)


@pytest.mark.parametrize("pair", [lambda: beta_bernoulli(3.0), lambda: coin(0.8)])
def test_other_wrong_guides_are_caught(pair):
    assert run(sbc, *pair()).p_value["z"] < 0.001


@pytest.mark.parametrize("kind", ["prior", "uncorrelated"])
def test_what_each_dimension_by_itself_hides_is_seen_in_the_density(kind):
    found = run(sbc, *linear_gaussian(kind))
    assert found.p_value["z"].min() > 0.01, found.p_value
    assert found.p_value[LOG_JOINT] < 0.001


@pytest.mark.parametrize("kind", ["narrow", "wide", "prior"])
def test_balls_around_reference_points_see_a_wrong_width_and_the_prior(kind):
    assert run(tarp, *linear_gaussian(kind)).p_value < 0.001


def test_balls_around_points_that_know_nothing_of_x_take_the_prior_for_the_posterior():
    model, guide, x = linear_gaussian("prior")
    assert run(tarp, model, guide, x, references="random").p_value > 0.05
    assert run(tarp, *linear_gaussian("narrow"), references="random").p_value < 0.001


def test_a_reference_point_is_no_function_of_its_own_z():
    z, x, noise = (torch.randn(20, 3).double() for _ in range(3))
    moved = z.clone()
    moved[4] += 10
    before, after = (from_x(x, each, noise) for each in (z, moved))
    changed = (before != after).any(1)
    assert not changed[::2].any()  # the half that 4 is in
    assert changed[1::2].all()


def angles(width=1.0):
    """a ~ VonMises(pi, 2), x ~ VonMises(a, 3), the exact q(a|x) a turn higher than a's own numbers."""
    x = torch.zeros(N).double()

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.VonMises(torch.full((len(x),), math.pi).double(), 2.0))
            pyro.sample("x", dist.VonMises(a, 3.0), obs=x)

    def guide(x):
        towards = 3 * torch.polar(torch.ones_like(x), x) - 2
        fn = dist.VonMises(towards.angle(), towards.abs() / width**2)
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.TransformedDistribution(fn, [AffineTransform(2 * math.pi, 1.0)]))

    return model, guide, x


def test_angles_are_compared_as_such():
    for diagnostic in (sbc, tarp):
        exact, narrow = (run(diagnostic, *angles(width)) for width in (1.0, 0.6))
        values = [each.smallest() if diagnostic is sbc else each.p_value for each in (exact, narrow)]
        assert values[0] > 0.05
        assert values[1] < 0.001


def test_angles_on_either_side_of_pi_are_near():
    model, guide, x = angles()
    simulations = Simulations(model, guide, (x,), {}, Options(method="guide", progress=False), None, {})
    both = simulations.coordinates({"a": torch.tensor([math.pi - 0.01, 0.01 - math.pi])}, 1)
    assert both.shape == (2, 2)
    assert (both[0] - both[1]).norm().item() == pytest.approx(0.02, rel=1e-3)


def test_the_band_and_the_coverage():
    found = run(tarp, *linear_gaussian("exact"))
    band = found.band()
    assert ((found.coverage >= band.low) & (found.coverage <= band.high)).all()
    assert torch.equal(found.credibility, band.level)
    narrow = run(tarp, *linear_gaussian("narrow"))
    assert (narrow.coverage < band.low).any()
    assert run(sbc, *linear_gaussian("narrow"), num_simulations=200).table()["entry"][-1] == LOG_JOINT


# -- Methods -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the draws of")  # which are too few to vouch for their tails
def test_weighted_draws_of_a_wrong_guide_pass():
    model, guide, x = beta_bernoulli(3.0)
    options = {"method": "importance", "num_simulations": 150, "num_draws": 19, "num_particles": 500}
    assert run(sbc, model, guide, x, **options).smallest() > 0.005


def test_chains_pass_without_a_guide():
    model, _, x = beta_bernoulli()
    options = {"method": "hmc", "num_simulations": 80, "num_draws": 19, "chains": QUICK}
    found = run(sbc, model, None, x, **options)
    assert found.smallest() > 0.005
    assert run(tarp, model, None, x, **options).p_value > 0.005


# -- Rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the draws of")  # which are few
@pytest.mark.parametrize("method", ["guide", "importance"])
@pytest.mark.parametrize("test", [sbc, tarp])
def test_batches_change_nothing_and_a_seed_decides(test, method):
    model, guide, *args = coin()
    options = {"method": method, "num_draws": 9, "num_particles": 20}
    options["num_simulations"] = 150 if method == "guide" else 30
    ranks = [
        torch.cat([each.flatten() for each in found.ranks.values()]) if test is sbc else found.ranks
        for found in (
            run(test, model, guide, *args, **options),
            run(test, model, guide, *args, **options, batch_size=7),
            run(test, model, guide, *args, **options, seed=1),
        )
    ]
    assert torch.equal(ranks[0], ranks[1])
    assert not torch.equal(ranks[0], ranks[2])


def test_draws_one_by_one_are_as_good():
    assert run(sbc, *coin(), vectorize=False, num_simulations=200, num_draws=9).smallest() > 0.005
    assert run(sbc, *coin(0.9), vectorize=False, num_simulations=200, num_draws=9).p_value["z"] < 0.01


def quadratic(seed):
    return QuadraticDiscriminantAnalysis()


EVERY = {
    "sbc": lambda *pair: run(sbc, *pair, num_simulations=50, num_draws=9).ranks["z"],
    "tarp": lambda *pair: run(tarp, *pair, num_simulations=50, num_draws=9).ranks,
    "l_c2st": lambda *pair: run(l_c2st, *pair, num_simulations=50, num_null=2, classifier=quadratic).statistic,
    "report": lambda *pair: run(report, *pair, num_particles=3, num_weights=5).bound.value,
}


@pytest.mark.parametrize("name", EVERY)
def test_modes_parameters_and_random_state_stay(name):
    vae = VAE(6, 2, hidden_dims=(5,), encoder=nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.3)))
    vae.train()
    x = (torch.rand(20, 6) < 0.4).float()
    before, state = {name: value.clone() for name, value in vae.state_dict().items()}, torch.get_rng_state()
    of_numpy = np.random.get_state()[1].copy()  # noqa: NPY002
    found = EVERY[name](vae.model, vae.guide, x)
    assert torch.equal(found, EVERY[name](vae.model, vae.guide, x))
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all(module.training for module in vae.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == of_numpy).all()  # noqa: NPY002


def test_draws_that_are_not_to_be_trusted_are_counted():
    model, guide, x = linear_gaussian("narrow")
    with pytest.warns(UserWarning, match="the draws of [0-9]+ of 20 datapoints aren't to be trusted, as posterior"):
        run(sbc, model, guide, x, method="importance", num_simulations=20, num_draws=19, num_particles=20)
    run(sbc, model, guide, x, num_simulations=20, num_draws=19)  # the guide's own are what is asked about


def test_several_sites_and_data_by_name():
    def model(counts):
        with pyro.plate("data", len(counts)):
            rate = pyro.sample("rate", dist.Gamma(torch.full((len(counts),), 2.0), 1.0))
            pyro.sample("level", dist.Normal(torch.zeros(len(counts), 2), 1.0).to_event(1))
            pyro.sample("counts", dist.Poisson(rate), obs=counts)

    def guide(counts):
        with pyro.plate("data", len(counts)):
            pyro.sample("level", dist.Normal(torch.zeros(len(counts), 2), 1.0).to_event(1))
            pyro.sample("rate", dist.Gamma(2 + counts, 2.0))

    found = run(sbc, model, guide, counts=torch.zeros(30), num_simulations=400)
    assert found.table()["entry"] == ["rate", "level[0]", "level[1]", LOG_JOINT]
    assert found.smallest() > 0.005


# -- What is refused ---------------------------------------------------------------------------------------------------


def masked(x, mask):
    def half(x, mask, obs=None):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            if obs is not None:
                pyro.sample("x", dist.Normal(z, 1.0), obs=obs)

    return (lambda x, mask: half(x, mask, x)), half


def test_masked_latents_are_refused_and_a_part_without_them_passes():
    x, mask = torch.zeros(40), torch.arange(40) < 30
    model, guide = masked(x, mask)
    with pytest.raises(ValueError, match="expected latents that all count, got site 'z' behind a mask; leave out"):
        run(sbc, model, guide, x, mask)
    assert run(sbc, model, guide, x[:30], mask[:30]).p_value["z"] > 0.005  # the prior


@pytest.mark.parametrize("method", ["guide", "importance"])
def test_a_masked_latent_is_seen_in_whichever_datapoint_it_is(method):
    x, mask = torch.zeros(150), torch.arange(150) < 149
    with pytest.raises(ValueError, match="expected latents that all count, got site 'z' behind a mask"):
        run(sbc, *masked(x, mask), x, mask, method=method, num_simulations=150, num_draws=9)


def test_an_argument_with_the_name_of_an_option_is_the_models_unless_both_are_meant():
    def model(x, method=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, method=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    assert run(sbc, model, guide, torch.zeros(20), num_simulations=20).ranks["z"].shape == (20,)
    with pytest.raises(TypeError, match="expected an option with a name of its own, got method="):
        run(sbc, model, guide, torch.zeros(20), method="hmc")


def test_a_mask_that_is_made_from_x_is_refused_and_one_that_is_passed_passes():
    pair, x = two_level()
    with pytest.raises(ValueError, match="expected masks that are the same whatever x is, got another one at site 'x'"):
        run(sbc, pair.model, pair.guide, x)

    def model(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            with pyro.poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, seen):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.where(seen, x / 2, 0.0), torch.where(seen, 0.5**0.5, 1.0)))

    assert run(sbc, model, guide, x[:, 0], x[:, 1] > 0).smallest() > 0.005


def test_an_argument_made_from_x_is_refused_and_dream_arguments_make_it():
    model, exact, x = beta_bernoulli()
    pair = Pair(lambda x, ones: model(x), lambda x, ones: exact(torch.cat([ones[:, None], x[:, 1:] * 0], 1)))

    def guide(x, ones):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(2 + ones, 8 - ones))

    with pytest.raises(ValueError, match="pass dream_arguments=lambda"):
        run(sbc, pair.model, guide, x, x.sum(-1))
    again = lambda sites, x, ones: (sites["x"], sites["x"].sum(-1))  # noqa: E731
    assert run(sbc, pair.model, guide, x, x.sum(-1), dream_arguments=again).smallest() > 0.005


def without_latents(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)


def test_options_that_cannot_be_are_refused():
    model, guide, x = beta_bernoulli()
    for test, options, message in (
        (sbc, {"num_simulations": 0}, "expected num_simulations of 1 or more, got 0"),
        (sbc, {"num_draws": 1}, "expected num_draws of 2 or more, got 1"),
        (sbc, {"method": "mcmc"}, "expected a method out of"),
        (tarp, {"num_simulations": 3}, "expected num_simulations of 4 or more, got 3"),
        (tarp, {"references": "z"}, "expected references to be 'x' or 'random', got 'z'; the default is 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(test, model, guide, x, **options)
    with pytest.raises(ValueError, match="expected a guide to draw from, got None for 'guide'; use method='hmc'"):
        run(sbc, model, None, x)
    with pytest.raises(ValueError, match="expected a model with latents, got none"):
        run(sbc, without_latents, None, x[:, 0], method="hmc")


def test_a_global_latent_is_refused():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(w + z, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = torch.zeros(20)
    with pytest.raises(ValueError, match="expected site 'w' in the data plate"):
        run(sbc, model, guide, x)
    given = pyro.condition(model, {"w": torch.tensor(0.0)})
    local = pyro.poutine.block(guide, hide=["w"])
    assert run(sbc, given, local, x, num_simulations=50).ranks["z"].shape == (50,)


def test_a_discrete_network_has_ranks_of_each_unit():
    pair, x = DISCRETE["sigmoid_belief_net"]()
    found = run(sbc, pair.model, pair.guide, x, num_simulations=80, num_draws=9)
    assert found.ranks["z"].shape == (80, 3)
    assert found.ranks["z"].dtype == torch.int64


def test_latents_that_are_summed_out_are_dreamed_and_have_no_ranks():
    """y in {-1, 1} is summed out, z ~ N(2 y, 1), x ~ N(z, 1): q(z|x) is exact, a mixture."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.5).double()), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(4 * y - 2, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, sign=1):
        locs = torch.stack([x / 2 - 1, x / 2 + 1], -1)
        with pyro.plate("data", len(x)):
            share = dist.Categorical(logits=sign * torch.stack([-x, x], -1))
            pyro.sample("z", dist.MixtureSameFamily(share, dist.Normal(locs, 0.5**0.5)))

    found = run(sbc, model, guide, torch.zeros(40).double())
    assert list(found.ranks) == ["z", LOG_JOINT]
    assert found.smallest() > 0.005
    wrong = run(sbc, model, lambda x: guide(x, sign=0), torch.zeros(40).double())
    assert wrong.p_value[LOG_JOINT] < 0.001
