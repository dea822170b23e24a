"""Where q(z|x) is wrong: by a classifier and by the tails of the weights, for those datapoints and only those."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from pyro_aevb.diagnostics import LocalTest, l_c2st
from pyro_aevb.posterior import Chains, posterior

N = 50
X = 2**0.5 * torch.randn(N, generator=torch.Generator().manual_seed(3)).double()
GROUP = (torch.arange(N) % 10 == 0).double()  # a tenth of the datapoints


def model(x, group):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("group", dist.Bernoulli(torch.full((len(x),), 0.1).double()), obs=group)
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide_with(shift=0.0, width=1.0):
    """The posterior, in the second group moved and narrower."""

    def guide(x, group):
        scale = 0.5**0.5 * torch.where(group > 0, torch.tensor(width).double(), 1.0)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift * group, scale))

    return guide


def quadratic(seed):
    """A classifier that can tell Gaussians apart, and takes a hundredth of the time."""
    return QuadraticDiscriminantAnalysis()


def run(guide, *args, **options):
    options = {"seed": 0, "num_null": 19, "num_simulations": 800, "progress": False, **options}
    return l_c2st(model, guide, *(args or (X, GROUP)), **options)


def test_a_guide_that_is_wrong_for_a_tenth_is_caught_for_those_and_only_those():
    found = run(guide_with(shift=1.4))
    assert found.wrong(0.05).tolist() == (GROUP > 0).tolist()
    assert found.statistic[GROUP > 0].min() > 10 * found.statistic[GROUP == 0].median()


def test_posterior_tells_them_too():
    guide = guide_with(shift=1.4, width=0.5)
    with pytest.warns(UserWarning, match="the draws of 5 of 50 datapoints aren't to be trusted, the first at 0"):
        found = posterior(model, guide, X, GROUP, method="importance", seed=0, compile=False, progress=False)
    assert found.trusted.tolist() == (GROUP == 0).tolist()
    assert (found.pareto_k > 0.7).tolist() == (GROUP > 0).tolist()
    quick = Chains(num_chains=8, num_temperatures=5, num_warmup=15, num_samples=20, num_leapfrog=3, largest_r_hat=2.0)
    mended = posterior(model, guide, X, GROUP, chains=quick, seed=0, compile=False, progress=False)
    assert mended.trusted.all()
    assert [each == "hmc" for each in mended.method] == (GROUP > 0).tolist()


def test_an_exact_guide_has_no_wrong_datapoints_and_uniform_p_values():
    """Each of 30 tests of one datapoint is independent of the others."""
    found = [run(guide_with(), X[:1], GROUP[:1], classifier=quadratic, num_simulations=100, seed=s) for s in range(30)]
    p_value = torch.cat([each.p_value for each in found])
    assert abs(p_value.mean() - 0.5) < 5 * (1 / 12 / 30) ** 0.5
    assert p_value.min() >= 1 / 20
    assert run(guide_with(), classifier=quadratic).adjusted().min() > 0.05


def test_batches_change_nothing_and_a_seed_decides():
    one, other, another = (
        run(guide_with(0.5), classifier=quadratic, num_null=3, num_simulations=100, **options)
        for options in ({}, {"batch_size": 7}, {"seed": 1})
    )
    assert torch.equal(one.statistic, other.statistic)
    assert torch.equal(one.null, other.null)
    assert not torch.equal(one.statistic, another.statistic)
    assert one.null.shape == (3, N)


@pytest.mark.filterwarnings("ignore:the draws of")  # which are too few to vouch for their tails
def test_weighted_draws_of_the_same_guide_pass():
    options = {"classifier": quadratic, "num_simulations": 150, "num_draws": 20, "num_particles": 300}
    found = run(guide_with(1.0), X[:10], GROUP[:10], method="importance", **options)
    assert found.adjusted().min() > 0.05


def test_what_so_few_classifiers_cannot_tell_is_refused():
    found = LocalTest(torch.zeros(2), torch.zeros(9, 2), torch.ones(2))
    with pytest.raises(ValueError, match="expected 19 classifiers or more"):
        found.wrong(0.05)
    assert not found.wrong(0.1).any()
    with pytest.raises(ValueError, match="expected level between 0 and 1, got 5"):
        found.wrong(5)
    with pytest.raises(ValueError, match="expected num_simulations of 20 or more, got 10"):
        run(guide_with(), num_simulations=10)
    with pytest.raises(ValueError, match="expected num_null of 1 or more, got 0"):
        run(guide_with(), num_null=0)
