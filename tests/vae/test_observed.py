"""p(x_observed|z): the entries that are observed count, of a likelihood that has entries to leave out."""

import functools

import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import AEVB, VAE, elbo, log_marginal_likelihood

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
OBSERVED = X > -0.5
ADAM = functools.partial(torch.optim.Adam, lr=0.01)


def correlated(outputs):
    return dist.MultivariateNormal(outputs, torch.eye(3))


def independent(outputs):
    return dist.Normal(outputs, 1.0).to_event(1)


def test_a_likelihood_without_entries_is_refused_in_one_sentence():
    vae = VAE(3, 1, hidden_dims=(4,), likelihood=correlated, decoder=torch.nn.Linear(1, 3))
    for run in (
        lambda: AEVB(vae.model, vae.guide, ADAM).step(X, OBSERVED),
        lambda: elbo(vae.model, vae.guide, X, OBSERVED),
        lambda: log_marginal_likelihood(vae.model, vae.guide, X, OBSERVED, progress=False),
    ):
        with pytest.raises(ValueError, match=r"a likelihood of independent entries for observed=.*Multivariate"):
            run()
    assert AEVB(vae.model, vae.guide, ADAM).step(X).loss.isfinite()  # whole rows it takes


def test_what_is_left_out_does_not_count():
    vae = VAE(3, 1, hidden_dims=(4,), likelihood=independent, decoder=torch.nn.Linear(1, 3))
    value = log_marginal_likelihood(vae.model, None, X, OBSERVED, method="quadrature", progress=False).value
    weight, bias = vae.decoder.weight[:, 0].detach(), vae.decoder.bias.detach()
    for row, seen, found in zip(X, OBSERVED, value, strict=True):
        if not seen.any():
            assert found.abs() < 1e-5
            continue
        w = weight[seen]
        truth = dist.MultivariateNormal(bias[seen], w[:, None] * w + torch.eye(len(w))).log_prob(row[seen])
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4, check_dtype=False)
