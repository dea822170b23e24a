"""Which distributions are of angles, and their means on the circle, in closed form: the direction of E[e^(i x)]."""

import math

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints, transforms

from pyro_aevb.distributions import ColumnsDistribution
from pyro_aevb.distributions.angles import is_angle, is_directional, is_periodic, mean, moment

LOCS = torch.tensor([3.0, -2.9, 1.0]).double()
CONCENTRATIONS = torch.tensor([20.0, 5.0, 0.8]).double()
WEIGHTS = torch.tensor([0.5, 0.3, 0.2]).double()
PART = dist.VonMises(LOCS, CONCENTRATIONS)
SHIFT = transforms.AffineTransform(math.pi, 1.0)


def mixture():
    return dist.MixtureSameFamily(dist.Categorical(WEIGHTS), PART)


def pairs():
    """Components of two angles each, the second turned by 1."""
    both = dist.VonMises(torch.stack([LOCS, LOCS + 1], -1), CONCENTRATIONS[:, None]).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(WEIGHTS), both)


def by_quadrature(fn):
    """E[e^(i x)] of a distribution of one angle."""
    x = torch.arange(20_000).double() * (2 * math.pi / 20_000) - math.pi
    return (fn.log_prob(x).exp() * torch.polar(torch.ones_like(x), x)).sum() * (2 * math.pi / 20_000)


ANGLES = {
    "von Mises": dist.VonMises(LOCS[0], 2.0),
    "independent": PART.to_event(1),
    "masked": PART.mask(torch.tensor([True, False, True])),
    "expanded": dist.ExpandedDistribution(dist.VonMises(LOCS[0], 2.0), [4, 3]),
    "mixture": mixture(),
    "mixture, expanded, masked": mixture().expand([3]).mask(False).to_event(1),
    "mixture of pairs": pairs(),
    "masked mixture": dist.MaskedMixture(torch.tensor([True, False, True]), PART, dist.VonMises(-LOCS, 2.0)),
    "shifted": dist.TransformedDistribution(PART, [SHIFT]),
    "reflected": dist.TransformedDistribution(PART, [transforms.AffineTransform(0.5, -1.0), SHIFT]),
    "sine skewed": dist.SineSkewed(dist.VonMises(LOCS, 2.0).to_event(1), torch.tensor([0.1, 0.2, 0.1]).double()),
    "two that depend on each other": dist.SineBivariateVonMises(3.0, 3.0, 2.0, 3.0, 1.0),
    "zero inflated": dist.ZeroInflatedDistribution(PART, gate=torch.tensor(0.1).double()),
}


@pytest.mark.parametrize("fn", ANGLES.values(), ids=ANGLES)
def test_angles_are_told_through_whatever_is_around_them(fn):
    assert is_angle(fn)
    assert is_periodic(fn)


@pytest.mark.parametrize("fn", [dist.Normal(LOCS, 1.0), dist.Uniform(-LOCS.abs(), 1.0), dist.LogNormal(LOCS, 1.0)])
def test_other_numbers_are_none(fn):
    assert not is_periodic(fn)
    assert mean(fn).equal(fn.mean)


@pytest.mark.parametrize(
    "transform",
    [transforms.AffineTransform(0.0, 180 / math.pi), transforms.ExpTransform(), transforms.SigmoidTransform()],
    ids=["degrees", "exp", "sigmoid"],
)
def test_angles_in_other_units_are_refused(transform):
    fn = dist.TransformedDistribution(PART, [transform]).to_event(1)
    assert is_periodic(fn)
    with pytest.raises(ValueError, match=r"expected angles in radians.*got VonMises under .*; give the site the"):
        is_angle(fn)


CLOSED = ["von Mises", "mixture", "shifted", "reflected", "masked mixture"]


@pytest.mark.parametrize("fn", [ANGLES[name] for name in CLOSED], ids=CLOSED)
def test_the_moment_is_that_by_quadrature(fn):
    for place in range(math.prod(fn.batch_shape)):
        one = _entry(fn, place) if fn.batch_shape else fn
        found = moment(one)
        assert torch.allclose(found, by_quadrature(one), atol=1e-9)
        assert torch.polar(torch.ones(1).double(), mean(one)).sub(found / found.abs()).abs() < 1e-9


def _entry(fn, place):
    """One entry of a distribution of a vector, batch shape ()."""
    if isinstance(fn, dist.MaskedMixture):
        return dist.MaskedMixture(fn.mask[place], _entry(fn.component0, place), _entry(fn.component1, place))
    if isinstance(fn, dist.TransformedDistribution):
        return dist.TransformedDistribution(_entry(fn.base_dist, place), fn.transforms)
    return dist.VonMises(fn.loc[place], fn.concentration[place])


def test_means_of_mixtures_are_on_the_circle_in_every_entry():
    resultant = (WEIGHTS * _ratio(CONCENTRATIONS) * torch.polar(torch.ones(3).double(), LOCS)).sum()
    assert torch.allclose(mean(mixture()), resultant.angle())
    assert abs(mean(mixture()) - mixture().mean) > 1  # of the numbers
    expected = torch.stack([resultant.angle(), resultant.angle() + 1 - 2 * math.pi])
    assert torch.allclose(mean(pairs()), expected)
    assert torch.allclose(mean(pairs().expand([4])), expected.expand(4, 2))
    assert torch.allclose(mean(mixture().expand([4, 2]).mask(False).to_event(1)), resultant.angle().expand(4, 2))


def _ratio(concentration):
    return torch.special.i1e(concentration) / torch.special.i0e(concentration)


def test_a_table_has_the_mean_of_each_column():
    columns = [dist.Normal(LOCS[:1], 1.0).to_event(1), mixture().expand([1]).to_event(1)]
    assert torch.allclose(ColumnsDistribution(columns).mean, torch.stack([LOCS[0], mean(mixture())]))


def test_directions_that_cancel_have_no_mean():
    opposite = dist.VonMises(torch.tensor([1.0, 1.0 - math.pi]), 3.0)
    assert mean(dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), opposite)).isnan()


@pytest.mark.parametrize("name", ["sine skewed", "zero inflated"])
def test_a_mean_that_is_not_known_is_not_made_up(name):
    with pytest.raises(NotImplementedError):
        mean(ANGLES[name])


def test_a_mixture_of_directions_has_no_mean_of_length_one_to_tell():
    parts = dist.ProjectedNormal(torch.eye(2)).to_event(0)
    assert is_directional(dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts))
    assert mean(parts).equal(torch.eye(2))
    with pytest.raises(NotImplementedError):
        mean(dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts))
    assert parts.support is constraints.sphere
