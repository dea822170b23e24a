"""KLs in closed form: those that torch has wrong count as none, and are drawn."""

import logging

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import SGVB, elbo
from pyro_aevb.distributions.kl import kl_divergence

UNIFORM = dist.Uniform(torch.zeros(3), 1.0)
CONTINUOUS = dist.ContinuousBernoulli(torch.full((3,), 0.3))
PAIRS = {"uniform to continuous": (UNIFORM, CONTINUOUS), "continuous to uniform": (CONTINUOUS, UNIFORM)}


def by_quadrature(q, p):
    z = (torch.arange(10_000) + 0.5)[:, None] / 10_000
    return (q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z))).mean(0)


@pytest.mark.parametrize("wrapped", [lambda fn: fn, lambda fn: fn.to_event(1), lambda fn: fn.mask(True)])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_uniform_and_a_continuous_bernoulli_have_no_closed_form(pair, wrapped):
    with pytest.raises(NotImplementedError):
        kl_divergence(*map(wrapped, PAIRS[pair]))


@pytest.mark.parametrize("pair", PAIRS)
def test_their_kl_is_drawn(pair, caplog):
    q, p = PAIRS[pair]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", p)
            pyro.sample("x", dist.Normal(0.0 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q)

    x = torch.zeros(3)
    with caplog.at_level(logging.WARNING, logger="pyro_aevb"):
        terms = SGVB(20_000, kl="analytic").terms(model, guide, x)
    assert "KL of site 'z' is sampled: no closed form" in caplog.text
    torch.testing.assert_close(terms.kl["z"], by_quadrature(q, p), atol=0.01, rtol=0)
    torch.testing.assert_close(terms.bound, elbo(model, guide, x, num_particles=20_000).value, atol=0.02, rtol=0)


@pytest.mark.parametrize("fn", [UNIFORM, CONTINUOUS])
def test_each_has_its_own(fn):
    torch.testing.assert_close(kl_divergence(fn, fn), torch.zeros(3), atol=1e-6, rtol=0)
