"""Guides whose supports are a part of the prior's: what is said of them, and which numbers stay right.

Shapes: N datapoints.
"""

import functools
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.transforms import AffineTransform, ExpTransform, SigmoidTransform
from pyro.infer import autoguide
from torch.distributions import biject_to

from pyro_aevb import AIS, BDMC, SGVB, SMC, Auto, WakeSleep, elbo, log_marginal_likelihood
from pyro_aevb.model_guide import read
from pyro_aevb.model_guide.guide_supports import narrower
from pyro_aevb.posterior import Chains, impute, posterior

QUIET = {"seed": 0, "progress": False}
X = torch.tensor([4.0, 4.0])
LOG_P = dist.GammaPoisson(2.0, 1.0).log_prob(X)
SENTENCE = "expected a guide with a density wherever the prior has one, got Uniform at site 'z' for Gamma"


def model_of(prior):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", dist.Normal(0.0 * z.flatten(len(x.shape)).sum(-1) if z.dim() > 1 else 0.0 * z, 1.0), obs=x)

    return model


def guide_of(q):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q(x))

    return guide


def rates(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(torch.full_like(x, 2.0), 1.0))
        pyro.sample("x", dist.Poisson(z), obs=x)


below_three = guide_of(lambda x: dist.Uniform(torch.zeros_like(x), 3.0))


def at(fn, event_dim=0):
    return lambda x: fn.expand([len(x)]) if event_dim == 0 else fn.expand([len(x), 2]).to_event(1)


def mapped(base, *transforms):
    return dist.TransformedDistribution(base, list(transforms))


simplex = dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0]))
PARTS = {
    "Uniform for Gamma": (at(dist.Gamma(2.0, 1.0)), at(dist.Uniform(0.0, 3.0))),
    "a wide Uniform for Gamma": (at(dist.Gamma(2.0, 1.0)), at(dist.Uniform(0.0, 10.0))),
    "HalfNormal for Normal": (at(dist.Normal(0.0, 1.0)), at(dist.HalfNormal(1.0))),
    "LogNormal for Normal": (at(dist.Normal(0.0, 1.0)), at(dist.LogNormal(0.0, 1.0))),
    "in one entry": (at(dist.Normal(0.0, 1.0), 1), at(dist.LogNormal(0.0, 1.0), 1)),
    "Uniform for Beta": (at(dist.Beta(2.0, 2.0)), at(dist.Uniform(0.0, 0.5))),
    "an affine map of Uniform": (
        at(dist.Gamma(2.0, 1.0)),
        lambda x: mapped(dist.Uniform(torch.zeros_like(x), 1.0), AffineTransform(0.0, 3.0)),
    ),
    "for one datapoint": (
        at(dist.Normal(0.0, 1.0)),
        lambda x: dist.Uniform(torch.tensor([-100.0, 0.0]), 100.0),
    ),
    "Bernoulli for Categorical": (at(dist.Categorical(torch.ones(3))), at(dist.Bernoulli(0.5))),
    "Binomial for Poisson": (at(dist.Poisson(2.0)), at(dist.Binomial(2, 0.5))),
}
WHOLE = {
    "LogNormal for Gamma": (at(dist.Gamma(2.0, 1.0)), at(dist.LogNormal(0.0, 1.0))),
    "LogNormal for Exponential": (at(dist.Exponential(1.0)), at(dist.LogNormal(0.0, 1.0))),
    "Gamma near zero": (at(dist.Gamma(0.01, 1.0)), at(dist.LogNormal(0.0, 1.0))),
    "Pareto for Pareto": (at(dist.Pareto(2.0, 3.0)), lambda x: dist.Pareto(torch.full_like(x, 2.0), 1.0)),
    "a map for Pareto": (
        at(dist.Pareto(2.0, 3.0)),
        lambda x: mapped(dist.LogNormal(torch.zeros_like(x), 1.0), AffineTransform(2.0, 1.0)),
    ),
    "a simplex": (lambda x: simplex.expand([len(x)]), lambda x: dist.Dirichlet(torch.ones(len(x), 3))),
    "a simplex by its map": (
        lambda x: simplex.expand([len(x)]),
        lambda x: mapped(dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1), biject_to(constraints.simplex)),
    ),
    "a vector": (
        at(dist.Normal(0.0, 1.0), 1),
        lambda x: dist.MultivariateNormal(torch.zeros(len(x), 2), torch.eye(2)),
    ),
    "a flow": (
        at(dist.Normal(0.0, 1.0), 1),
        lambda x: mapped(dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1), dist.transforms.AffineCoupling(1, abs)),
    ),
    "a logistic distribution by hand": (
        at(dist.Normal(0.0, 1.0)),
        lambda x: mapped(dist.Uniform(torch.zeros_like(x), 1.0), SigmoidTransform().inv, AffineTransform(1.0, 0.1)),
    ),
    "Gumbel": (at(dist.Normal(0.0, 9.0)), at(dist.Gumbel(0.0, 0.1))),
    "Uniform and Beta": (at(dist.Uniform(0.0, 1.0)), at(dist.Beta(2.0, 2.0))),
    "a map onto an interval": (
        at(dist.Uniform(-3.0, 5.0)),
        lambda x: mapped(dist.Normal(torch.zeros_like(x), 1.0), SigmoidTransform(), AffineTransform(-3.0, 8.0)),
    ),
    "an exponential map": (
        at(dist.HalfCauchy(1.0)),
        lambda x: mapped(dist.Normal(torch.zeros_like(x), 1.0), ExpTransform()),
    ),
    "a wider one": (at(dist.Gamma(2.0, 1.0)), at(dist.Normal(3.0, 1.0))),
    "an interval without an end in sight": (at(dist.Normal(0.0, 1.0)), at(dist.Uniform(-50.0, 50.0))),
    "angles": (at(dist.VonMises(0.0, 1.0)), lambda x: dist.Uniform(torch.full_like(x, -math.pi), math.pi)),
    "a correlation": (
        lambda x: dist.LKJCholesky(2, 1.0).expand([len(x)]),
        lambda x: dist.LKJCholesky(2, 2.0).expand([len(x)]),
    ),
    "counts": (at(dist.Poisson(2.0)), at(dist.GammaPoisson(2.0, 1.0))),
    "counts without an end in sight": (at(dist.Poisson(1.0)), at(dist.Categorical(torch.ones(50)))),
    "a point of a discrete latent": (at(dist.Bernoulli(0.5)), lambda x: dist.Delta(torch.ones_like(x))),
}


def said_of(model, guide, x=X):
    return narrower(read(model, guide, (x,)), model, (x,))


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_of_the_priors_support_is_noticed(kind):
    prior, q = PARTS[kind]
    assert "whose support is larger" in (said_of(model_of(prior), guide_of(q)) or "")


@pytest.mark.parametrize("kind", WHOLE)
def test_the_whole_of_it_is_none_however_it_is_written(kind):
    prior, q = WHOLE[kind]
    assert said_of(model_of(prior), guide_of(q)) is None


def test_autoguides_have_the_whole_of_it():
    for kind in (autoguide.AutoNormal, autoguide.AutoNormalMessenger):
        guide = kind(rates)
        guide(X)
        assert said_of(rates, guide) is None


def test_a_part_that_data_leave_none_of_is_not_missed():
    """x is uniform below z, so that p(z|x) is a Pareto distribution above x: the guide has its support."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Pareto(torch.full_like(x, 0.5), 1.0))
            pyro.sample("x", dist.Uniform(torch.zeros_like(x), z, validate_args=False), obs=x)

    guide = guide_of(lambda x: dist.Pareto(x, 2.0))
    x = torch.tensor([1.0, 2.0])
    assert said_of(model, guide, x) is None
    found = log_marginal_likelihood(model, guide, x, **QUIET)
    torch.testing.assert_close(found.value.float(), torch.log(0.5 / (2 * x**2)))
    assert said_of(model, guide_of(lambda x: dist.Pareto(x + 1, 2.0)), x) is not None


def test_what_is_masked_does_not_count():
    some = torch.tensor([True, False])
    prior, q = PARTS["for one datapoint"]
    masked = [poutine.mask(of(each), mask=some) for of, each in ((model_of, prior), (guide_of, q))]
    assert said_of(*masked) is None


FROM_THE_GUIDE = [AIS(5, num_leapfrog=1, start="guide"), SMC(5, start="guide")]


@pytest.mark.parametrize("method", ["importance", *FROM_THE_GUIDE], ids=["importance", "ais", "smc"])
def test_a_bound_from_below_is_given_with_a_warning(method):
    with pytest.warns(UserWarning, match=SENTENCE):
        found = log_marginal_likelihood(rates, below_three, X, method=method, **QUIET)
    assert found.direction == "lower"


@pytest.mark.parametrize("method", ["posterior-density", BDMC(FROM_THE_GUIDE[0], chain=5)], ids=["appendix d", "bdmc"])
def test_a_bound_from_above_is_refused(method):
    with pytest.raises(ValueError, match=SENTENCE):
        log_marginal_likelihood(rates, below_three, X, method=method, **QUIET)
    if method == "posterior-density":
        found = log_marginal_likelihood(rates, None, X, method=method, num_particles=400, **QUIET)
        torch.testing.assert_close(found.value.float(), LOG_P, atol=0.1, rtol=0)


def test_auto_leaves_such_a_guide_out():
    method = Auto(annealing=AIS(50, num_leapfrog=3), quadrature=None)
    found = log_marginal_likelihood(rates, below_three, X, method=method, **QUIET)
    assert set(found.method) == {"ais"}
    assert bool(((found.value - LOG_P).abs() < 4 * found.standard_error).all())


def test_draws_by_weights_are_not_trusted():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = posterior(rates, below_three, X, method="importance", **QUIET)
    assert not found.trusted.any()
    assert sum(SENTENCE in str(each.message) for each in told) == 1


def test_auto_draws_by_chains_where_weights_can_not_tell():
    found = posterior(rates, below_three, X, num_draws=400, chains=Chains(num_chains=32), **QUIET)
    assert set(found.method) == {"hmc"}
    torch.testing.assert_close(found.mean("z"), torch.full_like(X, 3.0), atol=0.3, rtol=0)


def test_gibbs_refuses_it():
    with pytest.raises(ValueError, match=SENTENCE):
        impute(rates, below_three, X, observed=torch.tensor([True, False]), method="gibbs", **QUIET)


def test_the_bound_of_such_a_guide_is_right():
    found = elbo(rates, below_three, X, num_particles=4000, seed=0)
    z = torch.linspace(0.0, 3.0, 3001)[1:-1]
    exact = (dist.Gamma(2.0, 1.0).log_prob(z) + dist.Poisson(z).log_prob(X[0]) + math.log(3.0)).mean()
    assert bool(((found.value - exact).abs() < 5 * found.standard_error).all())


def reals(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x - 4.0, 1.0))


def lognormals(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.LogNormal(torch.zeros_like(x), 1.0))


def bijected(x):
    with pyro.plate("data", len(x)):
        to_support = biject_to(dist.Gamma(2.0, 1.0).support)
        pyro.sample("z", dist.TransformedDistribution(dist.Normal(torch.zeros_like(x), 1.0), [to_support]))


def waits(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(torch.full_like(x, 2.0), 1.0))
        pyro.sample("x", dist.Normal(z, 3.0), obs=x)


OUTSIDE = {
    "elbo": lambda g: elbo(waits, g, X, num_particles=50, seed=0),
    "importance": lambda g: log_marginal_likelihood(waits, g, X, num_particles=1000, **QUIET),
    "posterior": lambda g: posterior(waits, g, X, method="importance", **QUIET),
    "SGVB": lambda g: SGVB(50).loss(waits, g, X),
}


@pytest.mark.parametrize("entry", OUTSIDE)
def test_draws_outside_of_the_priors_support_are_told_as_such(entry):
    with pytest.raises(ValueError, match=r"^expected draws of the latent 'z' inside the support .* with one support"):
        OUTSIDE[entry](reals)
    for guide in (lognormals, bijected):  # what it says to do
        OUTSIDE[entry](guide)


def test_where_the_model_draws_outside_of_the_guides():

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(torch.zeros_like(x), pyro.param("end", torch.tensor(3.0))))

    adam = functools.partial(torch.optim.Adam, lr=0.1)
    learner = WakeSleep(rates, guide, adam, adam)
    with pytest.raises(ValueError, match=r"^expected draws of the latent 'z' inside the support that it has in both"):
        learner.step(torch.full((100,), 4.0))
