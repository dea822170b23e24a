"""Means, errors and intervals of x that is an angle, of some columns of it, or a direction, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from statistics_tools import SIGMAS

from pyro_aevb import VAE, denoise, impute
from pyro_aevb.datasets import Table
from pyro_aevb.datasets.columns import Column
from pyro_aevb.distributions import ColumnsDistribution
from pyro_aevb.posterior import decode, interpolate, posterior, reconstruct, sample, traverse
from pyro_aevb.vae.columns import Columns
from pyro_aevb.vae.likelihoods import Gaussian, Likelihood

NAN = math.nan
QUICK = {"seed": 0, "progress": False, "compile": False, "num_draws": 1000, "method": "importance"}
LOCS, CONCENTRATIONS = torch.tensor([3.0, -2.5]).double(), torch.tensor([20.0, 2.0]).double()


def ratio(concentration):
    """E[cos(x - loc)] of a von Mises distribution."""
    return torch.special.i1e(concentration) / torch.special.i0e(concentration)


def unit(angle):
    return torch.polar(torch.ones_like(angle), angle)


def assert_near(found, expected, error):
    assert (torch.remainder(found - expected + math.pi, 2 * math.pi) - math.pi).abs().max() < error


def prior(x, *rest):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))


def of_mixtures(x):
    """x two angles, each z and one of two peaks on either side of pi."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        locs = (z[..., None, None] + LOCS).expand(*z.shape, 2, 2)
        parts = dist.VonMises(locs, CONCENTRATIONS)
        peaks = dist.Categorical(torch.ones(*z.shape, 2, 2).double())
        pyro.sample("x", dist.MixtureSameFamily(peaks, parts).to_event(1), obs=x)


def of_width(x):
    """x ~ VonMises(2 z, exp(2 z)): the larger z, the surer x."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        both = [each[..., None].expand(*z.shape, 2) for each in (2 * z, (2 * z).exp())]
        pyro.sample("x", dist.VonMises(*both).to_event(1), obs=x)


def over_z(x0):
    """Places of z, and their weights given the first of two angles; without, a priori."""
    z = torch.linspace(-7, 7, 20_001).double()
    log_p = dist.Normal(0.0, 1.0).log_prob(z)
    log_p = log_p if x0 is None else log_p + dist.VonMises(2 * z, (2 * z).exp()).log_prob(torch.tensor(x0).double())
    return z, log_p.softmax(0)


def test_the_mean_of_a_mixture_is_on_the_circle():
    z = torch.tensor([0.0, 0.7, -1.0]).double()
    x = torch.zeros(1, 2).double()
    expected = ((ratio(CONCENTRATIONS) * unit(LOCS)).sum() * unit(z)).angle()[:, None].expand(3, 2)
    assert_near(decode(of_mixtures, None, z, x), expected, 1e-9)
    drawn = sample(of_mixtures, None, 5, x, mean=True, seed=0)
    shift = torch.remainder(drawn[:, 0] - expected[0, 0], 2 * math.pi)
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert len(shift.unique()) == 5


def test_the_mean_of_a_new_angle_counts_sure_ones_more():
    """E[e^(i x_new) | x] = E[ratio e^(2 i z) | x]; the mean of the directions by themselves is elsewhere."""
    x = torch.tensor([[2.0, 0.0], [2.5, 0.5]]).double()
    found = reconstruct(of_width, prior, x, **(QUICK | {"num_particles": 100_000, "num_draws": 10_000}))
    z = torch.linspace(-7, 7, 20_001).double()
    fn = dist.VonMises(2 * z, (2 * z).exp())
    for row in range(2):
        weight = (dist.Normal(0.0, 1.0).log_prob(z) + sum(map(fn.log_prob, x[row]))).softmax(0)
        moment = (weight * ratio((2 * z).exp()) * unit(2 * z)).sum()
        assert_near(found[row], moment.angle(), 0.1)
        assert abs((weight * unit(2 * z)).sum().angle() - moment.angle()) > 0.5


@pytest.mark.parametrize("x0", [1.5, None])
def test_the_mean_and_the_error_of_a_missing_angle_are_those_of_its_direction(x0):
    x = torch.tensor([[NAN if x0 is None else x0, NAN]]).double()
    found = impute(of_width, prior, x, num_particles=100_000, **QUICK)
    z, weight = over_z(x0)
    r = ratio((2 * z).exp()) * unit(2 * z)
    moment = (weight * r).sum()
    spread = (weight * (r * moment.conj()).imag.square()).sum().sqrt() / moment.abs() ** 2
    count = found.posterior.effective_sample_size[0]
    assert found.standard_error[0, 1].item() == pytest.approx(float(spread / count**0.5), rel=0.15)
    assert_near(found.mean[0, 1], moment.angle(), SIGMAS * float(found.standard_error[0, 1]))


CLEAN, NOISE = 0.5, 0.4


def of_clean(x):
    """x ~ VonMises(pi, 1/2), z apart; x given x_noisy ~ VonMises(x, 0.4) is von Mises of the resultant."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        loc = torch.full((len(x), 1), math.pi).double()
        pyro.sample("x", dist.VonMises(loc, CLEAN).to_event(1), obs=x)


def test_a_clean_angle_and_its_error_are_those_of_its_direction():
    x = torch.tensor([[2.0], [-2.0]]).double()
    found = denoise(of_clean, prior, x, lambda clean: dist.VonMises(clean, NOISE).to_event(1), **QUICK)
    resultant = NOISE * unit(x) - CLEAN
    spread = 1 / (resultant.abs() * ratio(resultant.abs())).sqrt()
    count = found.posterior.effective_sample_size[:, None]
    assert torch.allclose(found.standard_error, spread / count.sqrt(), rtol=0.2)
    assert ((found.mean - resultant.angle()).sin().abs() < SIGMAS * found.standard_error).all()


def test_noise_of_numbers_is_refused_for_angles():
    x = torch.tensor([[2.0]]).double()
    with pytest.raises(ValueError, match=r"expected noise of angles where clean cells are, got Normal; write"):
        denoise(of_clean, prior, x, lambda clean: dist.Normal(clean, 0.3).to_event(1), **QUICK)
    found = denoise(of_clean, prior, x, lambda clean: dist.VonMises(clean, 10.0).to_event(1), **QUICK)
    assert_near(found.mean, 2.0, 0.2)


def test_a_missing_angle_of_opposite_peaks_has_no_mean():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            locs = z[..., None, None] + torch.tensor([1.0, 1.0 - math.pi], dtype=torch.double)
            peaks = dist.Categorical(torch.ones(*z.shape, 1, 2).double())
            pyro.sample("x", dist.MixtureSameFamily(peaks, dist.VonMises(locs, 3.0)).to_event(1), obs=x)

    found = impute(model, prior, torch.tensor([[NAN]]).double(), **QUICK)
    assert found.mean.isnan().all()
    assert found.standard_error.isnan().all()
    assert found.draws.isfinite().all()


def missing_not_at_random(x, observed):
    """x ~ VonMises(pi, 20), the likelier to be missing the larger sin x is; missing cells are a latent."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        fn = dist.VonMises(torch.full((*z.shape, 1), math.pi).double(), 20.0).to_event(1)
        missing = pyro.sample("x_missing", fn)
        whole = torch.where(observed, x, missing)
        pyro.sample("x", fn, obs=x)
        pyro.sample("seen", dist.Bernoulli(logits=-5 * whole.sin()).to_event(1), obs=observed.double())


def before_missing(x, observed):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("x_missing", dist.VonMises(torch.full((len(x), 1), 3.0).double(), 10.0).to_event(1))


def test_a_missing_angle_that_is_a_latent_is_filled_in_on_the_circle():
    found = impute(missing_not_at_random, before_missing, torch.tensor([[NAN], [3.0]]).double(), **QUICK)
    angle = torch.linspace(0, 2 * math.pi, 20_001).double()[:-1]
    weight = (20 * (angle - math.pi).cos() + torch.nn.functional.logsigmoid(5 * angle.sin())).softmax(0)
    moment = (weight * unit(angle)).sum()
    assert_near(found.mean[0, 0], moment.angle(), SIGMAS * float(found.standard_error[0, 0]))
    assert found.standard_error[0, 0] < 0.02
    assert found.angle


def table_of(z, observed=None):
    """A height ~ N(z, 0.1), a direction ~ VonMises(pi + z, 20), and another one, z and one of two peaks."""
    height, loc = z[..., None], z[..., None] + math.pi
    peaks = dist.Categorical(torch.ones(*z.shape, 1, 2).double())
    mixture = dist.MixtureSameFamily(peaks, dist.VonMises(z[..., None, None] + LOCS, CONCENTRATIONS))
    columns = [dist.Normal(height, 0.1).to_event(1), dist.VonMises(loc, 20.0).to_event(1), mixture.to_event(1)]
    return ColumnsDistribution(columns, observed)


def of_table(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 0.1))
        pyro.sample("x", table_of(z), obs=x)


def of_its_height(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[..., 0] / 2, 0.1 / 2**0.5))


MIDDLE = (ratio(CONCENTRATIONS) * unit(LOCS)).sum().angle()


def test_directions_of_a_table_are_filled_in_on_the_circle_and_numbers_on_the_line():
    x = torch.tensor([[0.1, NAN, NAN], [-0.1, NAN, NAN], [NAN, math.pi, NAN]]).double()
    found = impute(of_table, of_its_height, x, **QUICK)
    expected = torch.tensor([[0.05], [-0.05]]) + torch.tensor([math.pi, float(MIDDLE)])
    assert found.angle.tolist() == [False, True, True]
    assert_near(found.mean[:2, 1:], expected.double(), 0.02)
    assert abs(found.mean[2, 0]) < 0.03
    assert (found.standard_error[:2, 1:] < 0.01).all()
    low, high = found.interval(0.9)
    exact = 1.645 * (0.05 + 0.005) ** 0.5
    assert ((high - low)[:2, 1] / 2).tolist() == pytest.approx([exact] * 2, rel=0.15)
    assert ((high - low)[2, 0] / 2).item() == pytest.approx(1.645 * (0.01 + 0.01 * 0.05 / 0.06) ** 0.5, rel=0.2)


def test_directions_of_a_table_are_reconstructed_on_the_circle():
    x = torch.tensor([[0.1, 3.1, -3.0], [-0.1, -3.1, 3.0]]).double()
    by_weights = reconstruct(of_table, of_its_height, x, **QUICK)
    z = posterior(of_table, of_its_height, x, **QUICK).mean("z")
    expected = torch.stack([z, z + math.pi, z + MIDDLE], -1)
    assert_near(by_weights, expected, 0.02)
    assert_near(decode(of_table, None, z, x), expected, 1e-9)


def test_the_clean_directions_of_a_table_are_means_on_the_circle():
    def noise(clean):
        return ColumnsDistribution(
            [
                dist.Normal(clean[..., :1], 0.1).to_event(1),
                dist.VonMises(clean[..., 1:2], 20.0).to_event(1),
                dist.VonMises(clean[..., 2:], 0.5).to_event(1),
            ]
        )

    def of_two(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1e-6))
            pyro.sample("x", table_of(z), obs=x)

    def at_zero(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1e-6))

    x = torch.tensor([[0.1, -3.1, 3.0], [0.0, 3.1, 3.0]]).double()
    found = denoise(of_two, at_zero, x, noise, num_particles=100_000, **QUICK)
    assert_near(found.mean[:, 1], torch.tensor([(math.pi - 3.1) / 2, (3.1 - math.pi) / 2]) + math.pi, 0.03)
    assert ((found.mean[:, 0] - torch.tensor([0.05, 0.0])).abs() < 0.02).all()
    assert (found.standard_error[:, :2] < 0.02).all()
    assert_near(found.posterior.mean("x"), found.mean, 1e-9)
    assert (found.posterior.std("x")[:, 1] < 0.3).all()
    assert list(found.posterior.angles) == ["x"]


class Angles(Likelihood):
    outputs_per_dim = 2

    def __call__(self, outputs):
        loc, concentration = outputs.chunk(2, -1)
        return dist.VonMises(loc, 1 + concentration.exp()).to_event(1)


@pytest.mark.filterwarnings("ignore:the draws of")
def test_a_vae_fills_in_a_tables_directions():
    """Means of arrays, and cells of a table whose column isn't scaled; one in other units is refused."""
    torch.manual_seed(0)
    vae = VAE(x_dim=2, latent_dim=1, hidden_dims=(4,), likelihood=Columns({"height": Gaussian(), "way": Angles()}))
    cells = {"height": [1.0, 2.0, 4.0], "way": [3.1, -3.0, None]}
    as_they_are = [Column("height", "real", 2.0, 1.2), Column("way", "real")]
    for columns in (as_they_are, [as_they_are[0], Column("way", "real", 0.0, 2.0)]):
        table = Table(cells, columns=columns)
        made = vae.impute(table.x, table.observed, method="importance", seed=0, progress=False)
        assert made.angle.tolist() == [False, True]
        assert made.interval()[0].shape == (3, 2)
        if columns is as_they_are:
            assert table.filled(made)["way"][2] == pytest.approx(float(made.mean[2, 1]))
        else:
            for fill in ("mean", "mode", "draw"):
                with pytest.raises(ValueError, match=r"'way' in radians.*Column\('way', 'real'\)"):
                    table.filled(made, fill)
    positive = Table(cells | {"way": [3.1, 3.0, None]}, columns=[as_they_are[0], Column("way", "positive")])
    with pytest.raises(ValueError, match=r"'way' in radians, .* of a positive column"):
        positive.filled(made)


def in_degrees(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        angle = dist.VonMises(z[..., None].expand(*z.shape, 2), 2.0)
        fn = dist.TransformedDistribution(angle, [transforms.AffineTransform(0.0, 180 / math.pi)])
        pyro.sample("x", fn.to_event(1), obs=x)


def test_angles_in_degrees_are_refused():
    x = torch.tensor([[170.0, NAN]]).double()
    with pytest.raises(ValueError, match="expected angles in radians"):
        impute(in_degrees, prior, x, **QUICK)
    for verb in (reconstruct, lambda *args, **options: decode(in_degrees, None, torch.zeros(1).double(), args[2])):
        with pytest.raises(ValueError, match="expected angles in radians"):
            verb(in_degrees, prior, torch.zeros(1, 2).double(), **QUICK)


def shifted(x):
    """x ~ VonMises(z, 20) + pi, a transformed distribution."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 0.1))
        angle = dist.VonMises(z[..., None].expand(*z.shape, 2), 20.0)
        pyro.sample("x", dist.TransformedDistribution(angle, [transforms.AffineTransform(math.pi, 1.0)]).to_event(1),
                    obs=x)  # fmt: skip


def test_shifted_angles_are_filled_in_on_the_circle():
    x = torch.tensor([[math.pi, NAN]]).double()
    found = impute(shifted, prior, x, num_particles=100_000, **QUICK)
    assert_near(found.mean[0, 1], math.pi, 0.02)
    assert_near(decode(shifted, None, torch.tensor([0.3]).double(), x.nan_to_num()), 0.3 + math.pi, 1e-6)


def test_the_mean_direction_counts_sure_ones_more():
    """Half of z is sure: E[x_new] is near (1/2, 0.19 / 2), and of length 1 it is at atan(0.37 / 2)."""
    x = torch.tensor([[0.0, 1.0]]).double()
    found = reconstruct(of_directions, prior, x, site="x", num_particles=100_000, **QUICK)
    t = torch.tensor(0.3).double() ** 2 / 4
    length = (math.pi / 8) ** 0.5 * 0.3 * (torch.special.i0e(t) + torch.special.i1e(t))
    assert found.norm(dim=-1).tolist() == pytest.approx([1.0])
    assert float(torch.atan2(found[0, 1], found[0, 0])) == pytest.approx(math.atan(float(length)), abs=0.1)


def of_directions(x):
    """x of length 1, towards (1, 0) and sure of it where z > 0, else towards (0, 1), barely; y is what is observed."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        sure = (z > 0).double()[..., None]
        towards = sure * torch.tensor([9.0, 0.0]).double() + (1 - sure) * torch.tensor([0.0, 0.3]).double()
        pyro.sample("x", dist.ProjectedNormal(towards).mask(False), obs=x)
        pyro.sample("y", dist.Normal(torch.zeros(len(x)).double(), 1.0), obs=torch.zeros(len(x)).double())


def of_a_direction(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("x", dist.ProjectedNormal(torch.tensor([0.0, 1.0]).double().expand(len(x), 2)), obs=x)


def test_a_clean_direction_is_of_length_one():
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    found = denoise(of_a_direction, prior, x, lambda clean: dist.ProjectedNormal(clean), **QUICK)
    assert found.mean.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0])
    assert found.standard_error[0, 1] < 0.3 * found.standard_error[0, 0]  # along the circle alone


def uniform_prior(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Uniform(torch.full((len(x),), -math.pi).double(), math.pi))
        pyro.sample("x", dist.VonMises(a[..., None].expand(*a.shape, 1), 50.0).to_event(1), obs=x)


def von_mises_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("a", dist.VonMises(x[..., 0], 50.0))


def test_a_path_of_angles_that_the_guide_tells_goes_the_shorter_way_round():
    start, end = torch.tensor([[3.1]]).double(), torch.tensor([[-3.1]]).double()
    way = interpolate(uniform_prior, von_mises_guide, start, end, num_steps=3)
    assert_near(way[:, 0, 0], torch.tensor([3.1, math.pi, -3.1]), 1e-6)
    with pytest.raises(ValueError, match=r"any real numbers for a spherical path, got angles"):
        interpolate(uniform_prior, von_mises_guide, start, end, path="spherical")
    assert traverse(uniform_prior, von_mises_guide, start, num_steps=3, seed=0).shape == (1, 3, 1, 1)
