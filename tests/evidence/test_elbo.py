"""The bound of a model without latents is log p(x), from every entry point that takes one."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import AEVB, IWAE, MCEM, SGVB, ScoreFunction, WakeSleep, elbo, log_density, log_marginal_likelihood

X = torch.randn(10, generator=torch.Generator().manual_seed(0))


def model(x):
    w = pyro.param("w", torch.tensor(0.5))
    with pyro.plate("data", 30, subsample_size=len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def guide(x):
    pass


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


TRUTH = dist.Normal(0.5, 1.0).log_prob(X)
ENTRY_POINTS = {
    "elbo": lambda: elbo(model, guide, X).value,
    "elbo, several": lambda: elbo(model, guide, X, num_particles=3).value,
    "log_density": lambda: log_density(model, guide, X).log_weight[0].detach(),
    "importance": lambda: log_marginal_likelihood(model, guide, X, num_particles=2, progress=False).value,
    "AEVB": lambda: AEVB(model, guide, adam).step(X).elbo.expand(10),
    "SGVB": lambda: AEVB(model, guide, adam, SGVB()).step(X).terms.bound,
    "ScoreFunction": lambda: AEVB(model, guide, adam, ScoreFunction(2)).step(X).terms.bound,
    "IWAE": lambda: AEVB(model, guide, adam, IWAE(3)).step(X).terms.bound,
}


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_without_latents_the_bound_is_log_p(entry):
    value = ENTRY_POINTS[entry]()
    truth = TRUTH.mean().expand(10) if entry == "AEVB" else TRUTH
    torch.testing.assert_close(value, truth, check_dtype=False)


@pytest.mark.parametrize("method", ["quadrature", "ais", "smc", "auto"])
def test_without_latents_log_p_is_the_models_own_number(method):
    found = log_marginal_likelihood(model, guide, X, method=method, seed=0, progress=False)
    torch.testing.assert_close(found.value, TRUTH, check_dtype=False)
    assert (found.standard_error == 0).all()
    assert found.direction == "numerical"


REFUSED = {
    "MCEM": lambda: MCEM(model, adam).step(X, index=torch.arange(10)),
    "WakeSleep": lambda: WakeSleep(model, guide, adam, adam).step(X),
}


@pytest.mark.parametrize("entry", REFUSED)
def test_methods_over_latents_say_that_there_are_none(entry):
    with pytest.raises(ValueError, match=r"expected a model with local latents.*got none.*pyro\.sample\('z'"):
        REFUSED[entry]()
