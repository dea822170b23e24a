"""Latents in several layers: p(z2) p(z|z2) p(x|z) with q(z2|x) q(z|z2, x), against closed forms and models by hand."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_aevb import AEVB, AIS, IWAE, SGVB, SMC, VAE, elbo, fit, load, log_marginal_likelihood, save
from pyro_aevb.vae.hierarchy import Hierarchy
from pyro_aevb.vae.likelihoods import FixedGaussian
from pyro_aevb.vae.posteriors import POSTERIORS
from pyro_aevb.vae.priors import ConditionalNormal

D, N, NOISE = 3, 8, 0.5
QUIET = {"seed": 0, "progress": False, "compile": False}


def data(number=N):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, D, generator=generator).double()


def linear(*latent_dims):
    """Return a VAE of linear maps in which everything is Gaussian."""
    pyro.set_rng_seed(0)
    size = latent_dims[0]
    parts = {"encoder": nn.Linear(D, 2 * size), "decoder": nn.Linear(size, D), "likelihood": FixedGaussian(NOISE)}
    vae = VAE(D, latent_dims, hidden_dims=(4,), **parts)
    vae.hierarchy = Hierarchy(latent_dims, 2 * size, hidden_dim=0)
    for part in (vae.encoder, *vae.hierarchy.up, *vae.hierarchy.down):  # a guide that is as wide as the prior
        for parameter in part.parameters():
            parameter.data *= 0.1
    for prior in vae.hierarchy.priors:
        nn.init.normal_(prior.network[0].weight, std=0.6)
        nn.init.normal_(prior.network[0].bias, std=0.3)
        prior.network[0].weight.data[prior.network[0].out_features // 2 :] = 0.0  # a scale that doesn't depend on z2
    return vae.double()


def exact(vae, x):
    """Return log p(x) of a linear VAE: one Gaussian."""
    mean, covariance = torch.zeros(vae.latent_dims[-1]).double(), torch.eye(vae.latent_dims[-1]).double()
    for prior in reversed(vae.hierarchy.priors):
        layer = prior.network[0]
        weight, (loc, log_scale) = layer.weight.chunk(2)[0], layer.bias.chunk(2)
        mean, covariance = loc + weight @ mean, weight @ covariance @ weight.T + torch.diag((2 * log_scale).exp())
    weight = vae.decoder.weight
    covariance = weight @ covariance @ weight.T + NOISE**2 * torch.eye(D)
    return dist.MultivariateNormal(vae.decoder.bias + weight @ mean, covariance).log_prob(x).detach()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pareto_k")  # a guide that isn't trained
@pytest.mark.parametrize("dims", [(1, 1), (2, 1), (1, 1, 1), (3, 2)], ids=str)
def test_estimates_agree_with_the_closed_form(dims):
    vae, x = linear(*dims), data()
    expected = exact(vae, x)
    if sum(dims) < 4:
        found = log_marginal_likelihood(vae.model, vae.guide, x[:1], method="quadrature", **QUIET)
        torch.testing.assert_close(found.value, expected[:1], atol=1e-3, rtol=0)
        found = log_marginal_likelihood(vae.model, vae.guide, x, method="importance", num_particles=4000, **QUIET)
        assert ((found.value - expected).abs() < 5 * found.standard_error + 0.05).all()
    for method in (AIS(30, num_leapfrog=3), SMC(20)):
        found = log_marginal_likelihood(vae.model, vae.guide, x, method=method, num_particles=100, **QUIET)
        error = (found.value - expected).abs()
        assert (error < 5 * found.standard_error + 0.05).all(), (method, error, found.standard_error)
    bound = elbo(vae.model, vae.guide, x, num_particles=1000, seed=0)
    assert (bound.value < expected + 5 * bound.standard_error).all()


@pytest.mark.slow
def test_the_guide_learns_the_posterior():
    """Where p(z, z2|x) is of its family, the bound becomes log p(x): within 0.01 nats of -4.4."""
    vae, x = linear(1, 1), data(100)
    for part in (vae.decoder, *vae.hierarchy.priors):
        part.requires_grad_(False)
    rate = functools.partial(torch.optim.Adam, lr=0.02)
    before = elbo(vae.model, vae.guide, x, num_particles=100, seed=0).value.mean()
    fit(AEVB(vae.model, vae.guide, rate, SGVB(kl="analytic", num_particles=10)), x, epochs=500, seed=0, progress=False)
    after = elbo(vae.model, vae.guide, x, num_particles=100, seed=0)
    expected = exact(vae, x).mean()
    assert before < expected - 0.2
    assert after.value.mean() == pytest.approx(expected.item(), abs=0.01)


def by_hand(vae):
    """Return the model and the guide of two layers, written out."""
    below, up, down = (part[0] for part in (vae.hierarchy.priors, vae.hierarchy.up, vae.hierarchy.down))

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            loc, log_scale = below.network(z2).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=vae.decoder(z)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            h = vae.encoder(x)
            loc, log_variance = up(h).chunk(2, -1)
            z2 = pyro.sample("z2", dist.Normal(loc, (log_variance / 2).exp()).to_event(1))
            loc, log_variance = (h + down(z2)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, (log_variance / 2).exp()).to_event(1))

    return model, guide


def bernoulli(dims=(3, 2), **options):
    pyro.set_rng_seed(0)
    vae = VAE(6, dims, **({"hidden_dims": (5,)} | options)).double()
    for prior in vae.hierarchy.priors:
        nn.init.normal_(prior.network[-1].weight, std=0.5)
    return vae


BITS = (torch.rand(N, 6, generator=torch.Generator().manual_seed(2)) < 0.5).double()


@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO, lambda: SGVB(kl="analytic"), lambda: IWAE(3)])
def test_it_is_the_model_written_by_hand(loss):
    vae = bernoulli()
    losses = []
    for model, guide in ((vae.model, vae.guide), by_hand(vae)):
        pyro.set_rng_seed(3)
        losses.append(SVI(model, guide, pyro.optim.Adam({"lr": 0.0}), loss()).evaluate_loss(BITS))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_the_analytic_kl_is_that_of_many_draws():
    vae = bernoulli()
    terms = SGVB(kl="analytic", num_particles=4000).terms(vae.model, vae.guide, BITS)
    sampled = SGVB(num_particles=4000).terms(vae.model, vae.guide, BITS)
    torch.testing.assert_close(terms.bound, sampled.bound, atol=0.3, rtol=0)
    assert {"z", "z2"} == set(terms.kl)
    loc, log_variance = vae.hierarchy.up[0](vae.encoder(BITS)).chunk(2, -1)
    closed = 0.5 * (loc**2 + log_variance.exp() - log_variance - 1).sum(-1)
    torch.testing.assert_close(terms.kl["z2"], closed)


def test_verbs():
    vae = bernoulli((3, 2, 1), dataset_size=N)
    codes = vae.encode(BITS, num_draws=2000, seed=0)
    assert (codes.shape, vae.encode(BITS, site="z2", seed=0).shape) == ((N, 3), (N, 2))
    h = vae.encoder(BITS)
    upper = vae.hierarchy.up[1](vae.hierarchy.up[0](h)).chunk(2, -1)[0]
    top = vae.encode(BITS, site="z3", num_draws=4000, seed=0)
    torch.testing.assert_close(top, upper, atol=0.1, rtol=0)
    torch.testing.assert_close(vae.approximate_posterior(BITS, site="z3").mean, upper)
    with pytest.raises(ValueError, match=r"got 'z', which depends on \['z2'\]"):
        vae.approximate_posterior(BITS)
    z = torch.randn(4, N, 3).double()
    torch.testing.assert_close(vae.decode(z), vae.decoder(z).sigmoid().detach())
    assert vae.reconstruct(BITS, seed=0).shape == (N, 6)
    assert vae.sample(5, seed=0).shape == (5, 6)
    assert vae.traverse(BITS[:2], seed=0).shape == (3, 7, 2, 6)
    assert vae.traverse(BITS[:2], latent="z2", seed=0).shape == (2, 7, 2, 6)
    assert vae.interpolate(BITS[:2], BITS[2:4], seed=0).shape == (10, 2, 6)


def test_saved_and_loaded(tmp_path):
    vae = bernoulli((3, 2, 1))
    save(vae, tmp_path / "vae")
    same = load(tmp_path / "vae")
    assert (same.latent_dims, same.latent_dim, str(same)) == ((3, 2, 1), 3, str(vae))
    bounds = [elbo(v.model, v.guide, BITS, seed=0).value for v in (vae, same)]
    assert torch.equal(*bounds)


def test_it_says_what_it_is():
    assert "p(z2)  = Normal(loc=0, scale=1),  z2 of 2 dimensions, real" in str(bernoulli())
    assert "p(z|z2) = N(z; m(z2), diag(s(z2)^2)),  z of 3 dimensions" in str(bernoulli())
    assert "q(z|z2, x) = N(m(z2, x), diag(s(z2, x)^2))" in str(bernoulli())


NOT_REAL = ("log-normal", "gamma", "weibull", "beta", "dirichlet")


@pytest.mark.filterwarnings("ignore:pareto_k")  # a guide that isn't trained
@pytest.mark.parametrize("name", [name for name in POSTERIORS if name not in NOT_REAL])
def test_every_real_posterior_may_stand_below(name):
    vae = bernoulli(posterior=name)
    bound = elbo(vae.model, vae.guide, BITS, num_particles=200, seed=0)
    if name != "planar":  # whose density is known for its own draws alone
        found = log_marginal_likelihood(vae.model, vae.guide, BITS, method="importance", num_particles=2000, **QUIET)
        assert (bound.value < found.value + 5 * (bound.standard_error + found.standard_error)).all()
    assert bound.value.isfinite().all()


@pytest.mark.parametrize("prior", ["mixture", "vamp", "flow", "gamma"])
def test_every_prior_may_stand_above(prior):
    """p(z2) may have any support that q(z2|x), a Gaussian, has."""
    if prior == "gamma":
        with pytest.raises(ValueError, match="expected prior and posterior with one support, got positive"):
            bernoulli(prior=prior)
        return
    vae = bernoulli(prior=prior)
    value = elbo(vae.model, vae.guide, BITS, num_particles=3, seed=0).value
    assert value.isfinite().all()
    assert vae.sample(3, seed=0).shape == (3, 6)


def test_covariates_may_shift_the_topmost_layer():
    vae = bernoulli(covariates=2, prior=ConditionalNormal(2))
    c = torch.eye(2).double()[torch.arange(N) % 2]
    assert elbo(vae.model, vae.guide, BITS, covariates=c, seed=0).value.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": (3, 0)}, r"expected latent_dim of 1 or more, got \(3, 0\)"),
        ({"posterior": "gamma", "prior": "gamma"}, r"expected a posterior of real latents for layers of \(3, 2\)"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bernoulli(**options)
