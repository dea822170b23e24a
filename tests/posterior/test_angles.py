"""Means of angles near pi, where arithmetic ones are near 0, against the posterior in closed form, a von Mises too."""

import functools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from statistics_tools import SIGMAS

from pyro_aevb import impute, log_marginal_likelihood, report
from pyro_aevb.posterior import Chains, encode, interpolate, posterior, reconstruct, traverse

X = torch.tensor([[-2.0, 0.0], [-2.0, 0.4], [2.0, 0.0], [0.0, -2.0]]).double()
PRIOR, NOISE = 0.5, 0.7
QUICK = {"seed": 0, "progress": False, "compile": False, "num_draws": 1000}
CHAINS = Chains(num_chains=100, num_temperatures=10, num_warmup=20, num_samples=60, num_leapfrog=4)


def model(x):
    """a ~ VonMises(0, k), x ~ N((cos a, sin a), s^2): given x, a is VonMises of the resultant, k (1, 0) + x / s^2."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.VonMises(torch.zeros(len(x)).double(), PRIOR))
        pyro.sample("x", dist.Normal(torch.stack([a.cos(), a.sin()], -1), NOISE).to_event(1), obs=x)


def resultant(x):
    towards = x / NOISE**2 + torch.tensor([PRIOR, 0.0]).double()
    return torch.atan2(towards[:, 1], towards[:, 0]), towards.norm(dim=-1)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("a", dist.VonMises(*resultant(x)))


def with_auxiliary(x):
    loc, concentration = resultant(x)
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Normal(torch.zeros(len(x)).double(), 0.01), infer={"is_auxiliary": True})
        pyro.sample("a", dist.VonMises(loc + b, concentration))


def mixture(x):
    loc, concentration = resultant(x)
    parts = dist.VonMises(torch.stack([loc - 0.2, loc + 0.2 - 2 * math.pi], -1), 2 * concentration[:, None])
    with pyro.plate("data", len(x)):
        pyro.sample("a", dist.MixtureSameFamily(dist.Categorical(torch.ones(len(x), 2).double()), parts))


def assert_near(found, expected, error):
    assert (torch.remainder(found - expected + math.pi, 2 * math.pi) - math.pi).abs().max() < error


@pytest.mark.parametrize("method", ["guide", "importance", "hmc"])
def test_the_mean_and_the_deviation_of_an_angle_are_those_on_the_circle(method):
    loc, concentration = resultant(X)
    options = QUICK | ({"chains": CHAINS} if method == "hmc" else {})
    found = posterior(model, guide, X, method=method, **options)
    angle = torch.linspace(-math.pi, math.pi, 100_001).double()[:-1, None]
    weight = (concentration * angle.cos()).softmax(0)
    deviation = (weight * angle.square()).sum(0).sqrt()
    assert found.angles == {"a": torch.tensor(True)}
    assert_near(found.mean("a"), loc, 5 * float(deviation.max()) / 200**0.5)
    assert ((found.std("a") / deviation - 1).abs() < 0.3).all()
    low, high = found.quantile("a", 0.1), found.quantile("a", 0.9)
    assert ((high > low) & (high - low < 4 * deviation)).all()
    assert np.allclose(found.table()["a mean"], found.mean("a"))
    assert_near(encode(model, guide, X, method=method, **options), loc, 5 * float(deviation.max()) / 200**0.5)


@pytest.mark.parametrize("guide", [with_auxiliary, mixture])
def test_a_mean_over_draws_of_the_guide_is_on_the_circle(guide):
    loc, _ = resultant(X)
    assert_near(encode(model, guide, X, **QUICK), loc, 0.1)
    expected = torch.stack([loc.cos(), loc.sin()], -1)
    assert (reconstruct(model, guide, X, **QUICK) - expected).abs().max() < 0.1


def of_numbers(x):
    """Two peaks of numbers, within one turn: the mean of the numbers is ``loc``."""
    loc, concentration = resultant(x)
    parts = dist.Normal(torch.stack([loc - 0.2, loc + 0.6], -1), 0.5 / concentration[:, None].sqrt())
    with pyro.plate("data", len(x)):
        pyro.sample(
            "a", dist.MixtureSameFamily(dist.Categorical(torch.tensor([3.0, 1.0]).double().expand(len(x), 2)), parts)
        )


def test_the_mean_of_a_mixture_in_the_guide_is_on_the_circle_in_closed_form():
    loc, _ = resultant(X)
    assert_near(encode(model, mixture, X, **QUICK), loc, 1e-6)
    turned = math.atan2(0.25 * math.sin(0.6) - 0.75 * math.sin(0.2), 0.25 * math.cos(0.6) + 0.75 * math.cos(0.2))
    assert_near(encode(model, of_numbers, X, **QUICK), loc + turned, 1e-6)


def test_the_mean_of_a_skewed_guide_is_on_the_circle():
    """a ~ Exponential(1): E[e^(i a)] = 1 / (1 - i), of direction pi / 4, and not 1."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Exponential(torch.ones(len(x)).double()))

    found = encode(model, guide, X, **(QUICK | {"num_draws": 10_000}))
    assert_near(found, math.pi / 4, SIGMAS * (0.5 / 0.5 / 10_000) ** 0.5)


def test_an_angle_of_opposite_peaks_has_no_mean():
    def guide(x):
        peaks = dist.Categorical(torch.ones(len(x), 2).double())
        with pyro.plate("data", len(x)):
            locs = torch.tensor([1.0, 1.0 - math.pi], dtype=torch.double).expand(len(x), 2)
            pyro.sample("a", dist.MixtureSameFamily(peaks, dist.VonMises(locs, 3.0)))

    with pytest.raises(ValueError, match=r"expected latents with a mean, got site 'a' ~ MixtureSameFamily, which has"):
        encode(model, guide, X)


def scaled(factor):
    """a, the angle of ``model`` times a factor, the guide's too."""
    by = [transforms.AffineTransform(0.0, factor)]

    def its_model(x):
        with pyro.plate("data", len(x)):
            angle = dist.VonMises(torch.zeros(len(x)).double(), PRIOR)
            a = pyro.sample("a", dist.TransformedDistribution(angle, by)) / factor
            pyro.sample("x", dist.Normal(torch.stack([a.cos(), a.sin()], -1), NOISE).to_event(1), obs=x)

    def its_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.TransformedDistribution(dist.VonMises(*resultant(x)), by))

    return its_model, its_guide


def test_a_reflected_angle_is_one_and_a_scaled_one_is_refused_but_for_its_density():
    reflected, half = scaled(-1.0), scaled(0.5)
    loc, _ = resultant(X)
    assert_near(posterior(*reflected, X, **QUICK).mean("a"), -loc, 0.2)
    assert_near(encode(*reflected, X), -loc, 1e-6)
    for verb in (posterior, encode, reconstruct, functools.partial(posterior, method="hmc")):
        with pytest.raises(ValueError, match=r"expected angles in radians, .* got VonMises under .*AffineTransform"):
            verb(*half, X, **QUICK)
    options = {"num_particles": 10, "seed": 0, "progress": False, "compile": False}
    with pytest.raises(ValueError, match="expected angles in radians"):
        log_marginal_likelihood(*half, X, method="ais", **options)
    pairs = half, (model, guide)
    found, expected = (log_marginal_likelihood(*pair, X, method="importance", **options) for pair in pairs)
    assert torch.allclose(found.value, expected.value, atol=1e-6)


def test_a_missing_angle_is_filled_in_on_the_circle():
    """x = (a, c), c ~ N(z, 0.1) and a ~ VonMises(pi + z, 20), a's mean pi + c; the mean of its draws is no 0."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 0.3))
            locs = torch.stack([math.pi + z, math.pi + z], -1)
            pyro.sample("x", dist.VonMises(locs, 20.0).to_event(1), obs=x)

    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 0.3))

    x = torch.tensor([[math.nan, math.pi], [math.nan, -math.pi]]).double()
    found = impute(model, prior, x, method="importance", **QUICK)
    assert_near(found.mean[:, 0], math.pi, 0.1)
    assert (found.standard_error[:, 0] < 0.03).all()


def near_pi(x):
    """a ~ VonMises(pi, 50), x two of VonMises(a, 50)."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.VonMises(torch.full((len(x),), math.pi).double(), 50.0))
        pyro.sample("x", dist.VonMises(a[..., None].expand(*a.shape, 2), 50.0).to_event(1), obs=x)


def guide_near_pi(x):
    with pyro.plate("data", len(x)):
        towards = torch.stack([50 * x[..., 0].cos() - 50, 50 * x[..., 0].sin()], -1)
        pyro.sample("a", dist.VonMises(torch.atan2(towards[..., 1], towards[..., 0]), 90.0))


def test_an_interval_of_a_missing_angle_is_around_its_mean():
    """x_1 given x_0 = 3.1: a has the concentration 100, nearly, and x_1 - a 50: a variance of 1/100 + 1/50, nearly."""
    x = torch.tensor([[3.1, math.nan], [3.1, -3.1]]).double()
    found = impute(near_pi, guide_near_pi, x, method="importance", **QUICK)
    low, high = found.interval(0.9)
    exact = 1.645 * 0.03**0.5
    assert found.angle
    assert_near(found.mean[0, 1], (3.1 + math.pi) / 2, 0.05)
    for end in (low, high):
        assert (end - found.mean)[0, 1].abs().item() == pytest.approx(exact, rel=0.15)
        assert (end[1] == x[1]).all()
    assert (low[0, 1] < found.mean[0, 1]) & (found.mean[0, 1] < high[0, 1])


def test_a_path_of_angles_goes_the_shorter_way_round_and_through_quantiles_about_their_mean():
    start, end = torch.full((1, 2), 3.1).double(), torch.full((1, 2), -3.0).double()
    way = interpolate(near_pi, guide_near_pi, start, end, num_steps=3)[:, 0, 0]
    codes = torch.stack([encode(near_pi, guide_near_pi, each)[0] for each in (start, end)])
    assert_near(way[[0, 2]], codes, 1e-9)
    assert_near(way[1], (codes[0] + codes[1] + 2 * math.pi) / 2, 1e-9)
    steps = traverse(near_pi, guide_near_pi, start, num_steps=3, seed=0)[0, :, 0, 0]
    assert_near(steps, math.pi + 1.645 / 50**0.5 * torch.tensor([-1.0, 0.0, 1.0]), 0.02)
    assert steps.abs().max() <= math.pi
    with pytest.raises(ValueError, match=r"any real numbers for a spherical path, got angles; use path='straight'"):
        interpolate(near_pi, guide_near_pi, start, end, path="spherical")


def test_the_activity_of_an_angle_is_about_its_mean_on_the_circle(caplog):
    """x = pi + 0.2 e, e ~ N(0, 1), and the guide's mean half as far from pi: its variance is 0.01."""
    e = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).double()
    x = torch.remainder(0.2 * e.expand(200, 2), 2 * math.pi) - math.pi
    found = report(near_pi, guide_near_pi, x, seed=0, progress=False, compile=False).dimensions[0].activity
    assert found == pytest.approx(0.01, rel=SIGMAS * (2 / 200) ** 0.5)
