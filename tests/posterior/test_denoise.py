"""The mean of a clean x given a noisy one, against the closed form of a linear-Gaussian model."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_pairs import normal
from linear_gaussian import LinearGaussian
from statistics_tools import SIGMAS

from pyro_aevb import denoise
from pyro_aevb.posterior import Chains

N, D = 8, 3
SHORT = Chains(num_chains=8, num_temperatures=3, num_warmup=3, num_samples=5, num_leapfrog=2, largest_r_hat=math.inf)


def clean(*args, **options):
    return denoise(*args, **{"seed": 0, "progress": False, "compile": False, "chains": SHORT, **options})


def pca():
    lg = LinearGaussian(N, 2, D)
    lg.set(**(lg.true | {"log_s": torch.tensor(0.0).double()}))
    return lg


def guide(x):
    with pyro.plate("data", N, subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.1).to_event(1))


def white(scale):
    return lambda x: dist.Normal(x, scale).to_event(1)


def exact(lg, scale):
    """E[x|x_noisy] and the covariance, x ~ N(m, W W' + s^2 I) and noise of variance scale^2."""
    W, m, s = lg.value("W"), lg.value("m"), lg.value("log_s").exp()
    prior = W @ W.T + s**2 * torch.eye(D).double()
    gain = prior @ torch.linalg.inv(prior + scale**2 * torch.eye(D).double())
    return m + (lg.x - m) @ gain.T, prior - gain @ prior


def assert_exact(found, lg, scale, resolution):
    mean, covariance = exact(lg, scale)
    assert found.posterior.trusted.all()
    assert ((found.mean - mean).abs() <= SIGMAS * found.standard_error).all()
    assert (SIGMAS * found.standard_error < resolution).all()
    variance = found.draws.var(0)
    ess = found.posterior.effective_sample_size[:, None]
    assert ((variance / covariance.diagonal() - 1).abs() <= SIGMAS * (2 / ess).sqrt()).all()


def test_the_mean_is_the_closed_form():
    lg = pca()
    found = clean(lg.model, guide, lg.x, white(1.5), method="importance", num_draws=300, num_particles=5000)
    assert_exact(found, lg, 1.5, resolution=0.5)
    assert found.draws.shape == (300, N, D)
    assert found.posterior.draws["z"].shape == (300, N, 2)
    assert torch.equal(found.mean, found.posterior.mean("x"))


def test_block_means_are_a_noise_model_for_super_resolution():
    """Two cells are seen by their mean alone, in the place of both, with noise of 1: a Gaussian given P x."""
    lg = pca()
    blocks = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]).double()
    y = lg.x @ blocks.T
    noise = lambda x: dist.Normal(x @ blocks.T, 1.0).to_event(1)  # noqa: E731  # as a user writes it
    found = clean(lg.model, guide, y, noise, method="importance", num_draws=900, num_particles=10_000)
    W, m, s = lg.value("W"), lg.value("m"), lg.value("log_s").exp()
    prior = W @ W.T + s**2 * torch.eye(D).double()
    gain = prior @ blocks.T @ torch.linalg.inv(blocks @ prior @ blocks.T + torch.eye(D).double())
    assert found.posterior.trusted.all()
    assert ((found.mean - m - (y - blocks @ m) @ gain.T).abs() <= SIGMAS * found.standard_error).all()
    assert (SIGMAS * found.standard_error < 0.6).all()
    assert (found.mean[:, 0] - found.mean[:, 1]).abs().max() > 0.1  # which the block's mean doesn't say


@pytest.mark.slow
def test_the_mean_is_the_closed_form_where_noise_is_narrow():
    """Weights of draws from the likelihood are useless for noise that is a fifth as wide, and chains are run."""
    lg = pca()
    chains = Chains(num_temperatures=20, num_warmup=40)
    found = clean(lg.model, guide, lg.x, white(0.2), num_draws=300, chains=chains, compile="graph")
    assert set(found.posterior.method) == {"hmc"}
    assert_exact(found, lg, 0.2, resolution=0.1)


def test_what_model_and_guide_take_besides_may_be_named():
    """z ~ N(0, 1), x ~ N(z + shift, 1), noise of variance 2: E[x|x_noisy] is half of it and of the shift."""
    x, shift = normal(4), torch.tensor([0.0, 1.0, 2.0, 3.0]).double()

    def model(x, shift):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)

    def guide(x, shift):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - shift) / 4, 0.9))

    found = clean(model, guide, x, lambda x: dist.Normal(x, 2**0.5), shift=shift, method="importance")
    assert ((found.mean - (x + shift) / 2).abs() <= SIGMAS * found.standard_error).all()
    by_place = clean(model, guide, x, lambda x: dist.Normal(x, 2**0.5), shift, method="importance", batch_size=3)
    torch.testing.assert_close(by_place.draws, found.draws, rtol=1e-9, atol=1e-9)


def binary_pair(x):
    """z in {-1, 1} by its sign, three binary cells that are 1 with probability 0.8 or 0.3; 0.1 of them are flipped."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            probs = torch.where(z > 0, 0.8, 0.3).double()
            pyro.sample("x", dist.Bernoulli(probs[..., None].expand(*probs.shape, 3)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.1))

    return model, guide


def flipped(clean):
    return dist.Bernoulli(0.1 + 0.8 * clean).to_event(1)


def test_binary_cells_are_summed_over():
    """Each of 2 x 8 states of (z, x) by hand."""
    x = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]).double()
    model, guide = binary_pair(x)
    states = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]).double()
    joint = torch.stack(
        [
            dist.Bernoulli(torch.tensor(p).double()).log_prob(states).sum(-1) + flipped(states).log_prob(x[:, None])
            for p in (0.8, 0.3)
        ]
    )  # (z, N, states)
    share = joint.movedim(1, 0).flatten(1).softmax(-1).reshape(2, 2, 8)
    expected = torch.einsum("nzs,sd->nd", share, states)
    found = clean(model, guide, x, flipped, method="importance", num_draws=500, num_particles=5000)
    assert found.posterior.trusted.all()
    assert list(found.posterior.draws) == ["z"]
    assert ((found.mean - expected).abs() <= SIGMAS * found.standard_error).all()
    assert 0 < SIGMAS * found.standard_error.max() < 0.06
    error = (expected * (1 - expected) / found.posterior.effective_sample_size[:, None]).sqrt()
    assert ((found.draws.mean(0) - expected).abs() <= SIGMAS * error).all()
    assert set(found.draws.flatten().tolist()) == {0.0, 1.0}
    chunked = clean(model, guide, x, flipped, method="importance", num_draws=500, num_particles=5000, batch_size=1)
    torch.testing.assert_close(chunked.draws, found.draws)


def test_the_mean_of_binary_cells_has_no_noise_given_z():
    """A likelihood that is the same for every z: the mean is exact, and the draws are not."""
    x = torch.tensor([[1.0, 0.0]]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Bernoulli(torch.tensor(0.3).double().expand(len(x), 2)).to_event(1), obs=x)

    found = clean(model, None, x, flipped, method="hmc", num_draws=20)
    expected = [0.3 * 0.9 / (0.3 * 0.9 + 0.7 * 0.1), 0.3 * 0.1 / (0.3 * 0.1 + 0.7 * 0.9)]
    torch.testing.assert_close(found.mean, torch.tensor([expected]).double())
    assert found.draws[:, 0, 0].std() > 0


def test_noise_across_cells_is_refused_where_clean_ones_are_summed_over():
    x = torch.tensor([[1.0, 1.0, 0.0]]).double()
    for noise in (
        lambda clean: dist.Normal(clean.mean(-1, keepdim=True).expand(clean.shape), 1.0).to_event(1),
        lambda clean: dist.MultivariateNormal(clean, torch.eye(3).double()),
    ):
        with pytest.raises(ValueError, match=r"expected noise of each cell by itself.*dist.Normal\(clean, 0.3\)"):
            clean(*binary_pair(x), x, noise)
    clean(*binary_pair(x), x, lambda clean: dist.Normal(clean, 0.3).to_event(1), method="importance")


class _Nowhere(dist.Normal):
    def log_prob(self, value):
        raise NotImplementedError


def test_noise_is_refused_and_the_remedy_works():
    lg = pca()
    example = r"write lambda clean: dist.Normal\(clean, 0.3\).to_event\(1\)"
    for noise, error, kind in (
        (0.3, f"expected noise as a function of the clean x, got float; {example}", TypeError),
        (lambda x: x, rf"a distribution of x's shape \(1, 3\) .* got Tensor; {example}", ValueError),
        (lambda x: dist.Normal(x[:, 0], 1.0), rf"got Normal of shape \(1,\); {example}", ValueError),
        (lambda x: _Nowhere(x, 1.0), f"with a density, got _Nowhere, which has none; {example}", ValueError),
        (lambda x: dist.Normal(x, 1.0), r"x_noisy.*declare .* with .to_event\(...\)", ValueError),
    ):
        with pytest.raises(kind, match=error):
            clean(lg.model, guide, lg.x, noise, num_draws=5, method="guide")
    with pytest.raises(TypeError, match=r"expected a tensor, an array, .* got list; for example torch.as_tensor"):
        clean(lg.model, guide, lg.x.tolist(), white(1.0))
    with pytest.warns(UserWarning, match="aren't to be trusted"):
        clean(lg.model, guide, lg.x, lambda clean: dist.Normal(clean, 0.3).to_event(1), num_draws=5, method="guide")


def test_a_model_without_a_site_for_x_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1))
            pyro.sample("a", dist.Normal(z[..., 0], 1.0), obs=x[:, 0])

    with pytest.raises(ValueError, match=r"expected one site that observes x itself, got none among .*\['a'\]; write"):
        clean(model, guide, pca().x, white(1.0))


@pytest.mark.parametrize("binary", [False, True])
def test_a_model_that_reads_x_to_make_x_is_refused(binary):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            second = torch.stack([z, z + 2 * x[:, 0]], -1)
            p = dist.Bernoulli(logits=second) if binary else dist.Normal(second, 1.0)
            pyro.sample("x", p.to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))

    noise = flipped if binary else white(1.0)
    with pytest.raises(ValueError, match=r"expected a model whose x is drawn given its latents, .* pass what it reads"):
        clean(model, guide, torch.ones(1, 2).double(), noise)
