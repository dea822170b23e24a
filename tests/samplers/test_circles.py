"""Chains of angles go around the circle, past pi too, against the posterior and log p(x) in closed form."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from statistics_tools import SIGMAS

from pyro_aevb import AIS, MCEM, SMC, log_marginal_likelihood
from pyro_aevb.distributions.angles import wrapped
from pyro_aevb.evidence import PosteriorDensity
from pyro_aevb.posterior import Chains, posterior
from pyro_aevb.samplers import LatentSpace

ONE = torch.ones(()).double()
PRIOR, NOISE = 0.5, 6.0  # concentrations of z and of x
X = torch.tensor([0.3, 2.9, 3.1, -3.0]).double()
QUIET = {"seed": 0, "progress": False, "compile": False}
CHAINS = Chains(num_chains=60, num_temperatures=20, num_warmup=30, num_samples=100, num_leapfrog=4)


def model(x):
    """z ~ VonMises(0, k), x ~ VonMises(z, c): given x, z is VonMises of the resultant of k (1, 0) and c e^(i x)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.VonMises(0 * ONE, PRIOR * ONE))
        pyro.sample("x", dist.VonMises(z, NOISE * ONE), obs=x)


def resultant(x):
    towards = torch.stack([PRIOR + NOISE * x.cos(), NOISE * x.sin()], -1)
    return torch.atan2(towards[..., 1], towards[..., 0]), towards.norm(dim=-1)


def log_i0(k):
    return torch.special.i0e(k).log() + k


def log_p(x):
    return log_i0(resultant(x)[1]) - log_i0(PRIOR * ONE) - log_i0(NOISE * ONE) - math.log(2 * math.pi)


def exact(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.VonMises(*resultant(x)))


def normal(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(resultant(x)[0], 0.4 * ONE))


def test_chains_near_pi_mix_and_are_trusted():
    found = posterior(model, None, X, method="hmc", num_draws=1000, chains=CHAINS, **QUIET)
    loc, concentration = resultant(X)
    assert found.trusted.all()
    assert (found.effective_sample_size > 500).all()
    length = torch.special.i1e(concentration) / torch.special.i0e(concentration)
    around = wrapped(found.draws["z"] - loc)
    assert (around.mean(0).abs() < SIGMAS * (1 / concentration / 500).sqrt()).all()
    assert (around.cos().mean(0) - length).abs().max() < 0.03
    assert found.draws["z"].abs().max() <= math.pi


def test_mcem_takes_each_side_of_pi_as_often_as_the_posterior_has_it():
    x = torch.full((400,), 2.9).double()

    def with_parameter(x):
        theta = pyro.param("theta", ONE.clone())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(0 * ONE, PRIOR * ONE))
            pyro.sample("x", dist.VonMises(z, NOISE * theta), obs=x)

    learner = MCEM(with_parameter, functools.partial(torch.optim.SGD, lr=0.0))
    beyond = []
    for step in range(150):
        learner.step(x, index=torch.arange(400))
        if step >= 50:
            at = learner.state_dict()["chains"]["positions"]
            beyond.append((LatentSpace(model, x).values(at, x)["z"] < 0).double().mean())
    z = torch.linspace(-math.pi, 0, 10_001).double()
    expected = dist.VonMises(*resultant(x[0])).log_prob(z).exp().mean() * math.pi
    assert abs(torch.stack(beyond).mean() - expected) < 0.03  # 0.5 where the chains keep to the side that they began on


@pytest.mark.parametrize(
    "method", [PosteriorDensity(), AIS(40, num_leapfrog=3), SMC(10)], ids=["posterior-density", "AIS", "SMC"]
)
@pytest.mark.parametrize("guide", [None, exact])
def test_log_p_near_pi(method, guide):
    options = QUIET | {"num_particles": 200}
    found = log_marginal_likelihood(model, guide, X, method=method, **options)
    assert ((found.value - log_p(X)).abs() < SIGMAS * found.standard_error).all()
    assert (found.standard_error < 0.1).all()


def test_a_posterior_as_wide_as_the_circle_has_a_density_within_a_turn():
    def flat(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.zeros(len(x), 2).double(), 0.1 * ONE).to_event(1))
            pyro.sample("x", dist.Normal(0.1 * z.cos().sum(-1), ONE), obs=x)

    found = log_marginal_likelihood(flat, None, X, method="posterior-density", num_particles=2000, **QUIET)
    truth = log_marginal_likelihood(flat, None, X, method="quadrature", **QUIET)
    assert ((found.value - truth.value).abs() < SIGMAS * found.standard_error).all()
    assert (found.standard_error < 0.03).all()  # 0.1 of both Gaussians is outside


@pytest.mark.parametrize("method", ["posterior-density", AIS(5, start="guide"), SMC(5, start="guide")])
def test_numbers_are_no_start_for_angles(method):
    with pytest.raises(ValueError, match=r"expected a guide of angles to start from at site 'z', got Normal.*VonMises"):
        log_marginal_likelihood(model, normal, X, method=method, **QUIET)
    found = log_marginal_likelihood(model, exact, X, method=method, num_particles=60, **QUIET)  # the remedy
    assert ((found.value - log_p(X)).abs() < SIGMAS * found.standard_error + 1e-4).all()


def test_a_likelihood_that_tells_turns_apart_has_the_one_from_minus_pi_to_pi():
    """x ~ N(z, 1) of an angle z: the posterior ends at pi."""

    def linear(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(0 * ONE, PRIOR * ONE))
            pyro.sample("x", dist.Normal(z, ONE), obs=x)

    found = posterior(linear, None, X, method="hmc", num_draws=2000, chains=CHAINS, **QUIET)
    z = torch.linspace(-math.pi, math.pi, 4001).double()[:, None]
    weight = (PRIOR * z.cos() - (X - z).square() / 2).softmax(0)
    expected = torch.stack([(weight * z.cos()).sum(0), (weight * z.sin()).sum(0)])
    draws = found.draws["z"]
    assert found.trusted.all()
    assert (torch.stack([draws.cos().mean(0), draws.sin().mean(0)]) - expected).abs().max() < 0.08
