"""Appendix D where its density can't be fitted, and what its message advises."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import log_marginal_likelihood
from pyro_aevb.evidence.posterior_density import gaussian

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def narrow(scale):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    return model


def steep(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., :1] * 1e20 + torch.zeros(3), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("model", [narrow(1e-8), steep], ids=["narrow", "steep"])
def test_samples_that_do_not_vary_are_said(model):
    with pytest.raises(ValueError, match=r"(?s)^expected posterior samples that vary.*of 6 datapoints.*use float64"):
        log_marginal_likelihood(model, None, X, method="posterior-density", num_particles=20, progress=False)


@pytest.mark.filterwarnings("ignore:(pareto_k|the fitted density)")
def test_float64_resolves_a_narrow_posterior():
    """The remedy of the message, on p(x) = N(x; 0, 1 + s^2)."""
    x, scale = X.double(), 1e-4
    evidence = log_marginal_likelihood(
        narrow(scale), None, x, method="posterior-density", num_particles=400, seed=0, progress=False
    )
    truth = dist.Normal(0.0, (1 + scale**2) ** 0.5).log_prob(x).sum(-1)
    assert ((evidence.value - truth).abs() < 5 * evidence.standard_error + 0.02).all()


def test_the_fitted_gaussian_is_somewhat_narrower_than_the_samples():
    samples = torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    fitted = gaussian(samples)
    for m in range(2):
        torch.testing.assert_close(fitted.loc[m], samples[:, m].mean(0))
        torch.testing.assert_close(fitted.covariance_matrix[m], 0.8 * torch.cov(samples[:, m].T))
