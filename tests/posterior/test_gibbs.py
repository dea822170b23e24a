"""Chains proposed by an encoder of whole rows, against exact conditionals of continuous and of discrete latents."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_pairs import normal
from linear_gaussian import LinearGaussian
from statistics_tools import SIGMAS

from pyro_aevb import VAE, impute
from pyro_aevb.posterior import Chains
from pyro_aevb.posterior.gate import METHODS as POSTERIOR_METHODS
from pyro_aevb.posterior.impute import GIBBS, METHODS

N, D = 8, 4
fill = functools.partial(impute, seed=0, progress=False, compile=False, method="gibbs")


def pca():
    """Probabilistic PCA with the exact encoder of whole rows, which is wrong by far where half of a row is hidden."""
    lg = LinearGaussian(N, 2, D)
    lg.set(**(lg.true | {"log_s": torch.tensor(0.3).double()}))
    observed = normal(N, D, seed=3) > 0
    observed[0], observed[1] = False, True
    scale = torch.linalg.cholesky(torch.linalg.inv(lg.precision()))

    def guide(x):
        with pyro.plate("data", N, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.MultivariateNormal(lg.posterior_loc(x), scale_tril=scale))

    return lg, observed, guide


def conditional(lg, x, observed):
    """The mean and the standard deviation of each cell of a row given those that are observed."""
    W, m, s = lg.value("W"), lg.value("m"), lg.value("log_s").exp()
    some = W[observed]
    covariance = torch.linalg.inv(torch.eye(2).double() + some.T @ some / s**2)
    loc = covariance @ some.T @ (x - m)[observed] / s**2
    return W @ loc + m, (s**2 + (W @ covariance * W).sum(-1)).sqrt()


def test_missing_cells_have_the_exact_conditional():
    lg, observed, guide = pca()
    found = fill(
        lg.model, guide, lg.x, observed, num_draws=2000, chains=Chains(num_chains=80, num_warmup=30, num_samples=150)
    )
    assert found.posterior.trusted.all()
    assert set(found.posterior.method) == {"gibbs"}
    assert (found.posterior.effective_sample_size > 300).all()
    assert torch.equal(found.draws[:, 1], lg.x[1].expand(2000, -1))
    for n in (~observed.all(1)).nonzero()[:, 0].tolist():
        loc, scale = (each[~observed[n]] for each in conditional(lg, lg.x[n], observed[n]))
        ess = found.posterior.effective_sample_size[n]
        assert ((found.mean[n, ~observed[n]] - loc).abs() <= SIGMAS * found.standard_error[n, ~observed[n]]).all()
        variance = found.draws[:, n, ~observed[n]].var(0)
        assert ((variance / scale**2 - 1).abs() <= SIGMAS * (2 / ess).sqrt()).all()
        assert (found.standard_error[n, ~observed[n]] < 0.1).all()


PROBS = torch.tensor([0.5, 0.3, 0.2])
CENTRES = torch.tensor([[-1.5, -1.0], [0.0, 2.0], [1.5, 0.5]])


def mixture(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(PROBS))
        pyro.sample("x", dist.Normal(CENTRES[z], 1.0).to_event(1), obs=x)


def component(x, wrong=0.0):
    logits = PROBS.log() + dist.Normal(CENTRES, 1.0).log_prob(x[:, None]).sum(-1)
    logits = logits + wrong * CENTRES[:, 1] * (x[:, 1:] - 1)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Categorical(logits=logits))


@pytest.mark.parametrize("wrong", [0.0, -1.5, 1.5])
def test_discrete_latents(wrong):
    x = torch.tensor([[-1.0, 5.0], [1.0, 5.0], [30.0, 5.0]])
    observed = torch.tensor([True, False]).expand(3, 2)
    chains = Chains(num_chains=160, num_warmup=20, num_samples=150)
    guide = functools.partial(component, wrong=wrong)
    found = fill(mixture, guide, x, observed, num_draws=20_000, num_particles=20_000, chains=chains)
    share = (PROBS.log() + dist.Normal(CENTRES[:, 0], 1.0).log_prob(x[:, :1])).softmax(-1)
    exact = share @ CENTRES[:, 1]
    assert found.posterior.trusted.all()  # the last one's component is certain
    assert (found.posterior.draws["z"][:, 2] == 2).all()
    for k in range(3):
        frequency = (found.posterior.draws["z"] == k).double().mean(0)
        error = (share[:, k] * (1 - share[:, k]) / found.posterior.effective_sample_size).sqrt()
        assert ((frequency - share[:, k]).abs() <= SIGMAS * error + 1e-9).all()
    assert ((found.mean[:2, 1] - exact[:2]).abs() <= SIGMAS * found.standard_error[:2, 1]).all()


def test_a_vae_and_what_is_refused():
    pyro.set_rng_seed(0)
    vae, x = VAE(4, 2, hidden_dims=(8,)), torch.bernoulli(torch.full((3, 4), 0.5))
    observed = torch.tensor([True, False, True, True]).expand(3, 4)
    short = Chains(num_chains=8, num_warmup=4, num_samples=8, largest_r_hat=9.0)
    filled = vae.impute(x, observed, method="gibbs", num_draws=10, chains=short, seed=0, progress=False)
    assert filled.draws.shape == (10, 3, 4)
    again = vae.impute(x, observed, method="gibbs", num_draws=10, chains=short, seed=0, progress=False)
    assert torch.equal(filled.draws, again.draws)
    with pytest.raises(ValueError, match="expected a guide to draw from, got None for 'gibbs'"):
        fill(mixture, None, x[:, :2], observed[:, :2], chains=short, num_draws=10)

    def by_place(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.arange(3.0), 1.0))

    def line(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[..., None], torch.ones(4)).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"take any number of rows .* use method='importance' or 'hmc'"):
        fill(line, by_place, x, observed, chains=short, num_draws=10)
    assert impute(line, by_place, x, observed, method="importance", num_draws=10, seed=0).draws.shape == (10, 3, 4)
    masked = VAE(4, 2, hidden_dims=(8,), likelihood="gaussian", missingness="self-masking")
    with pytest.raises(ValueError, match=r"expected a method out of \['auto', 'guide', 'importance', 'hmc'\]"):
        masked.impute(x, observed, method="gibbs", num_draws=10, chains=short)


def test_the_methods_are_those_of_posterior_and_one_more():
    assert (*POSTERIOR_METHODS, GIBBS) == METHODS
