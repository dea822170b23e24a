"""Draws from p(z|x) against exact ones: by the guide, by weights, by chains, and which of them `auto` takes."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats
from exact_pairs import EXACT, normal, posterior_pair
from forms import FORMS
from forms import posterior as form_posterior
from linear_gaussian import LinearGaussian
from scipy import stats
from statistics_tools import assert_mean

from pyro_aevb import VAE, log_marginal_likelihood
from pyro_aevb.posterior import Chains, Posterior, posterior
from pyro_aevb.posterior.chains import effective_sample_size, r_hat, resampled, thinned

QUICK = Chains(num_chains=16, num_temperatures=5, num_warmup=15, num_samples=40, num_leapfrog=3, largest_r_hat=1.2)
SHORT = Chains(
    num_chains=8, num_temperatures=3, num_warmup=3, num_samples=5, num_leapfrog=2, largest_r_hat=float("inf")
)
N = 40


def draw(model, guide, *args, **options):
    options = {"seed": 0, "progress": False, "compile": False, "chains": QUICK, **options}
    return posterior(model, guide, *args, **options)


def p_values(draws, cdf):
    """Of Kolmogorov and Smirnov's test of the draws (L, N) of each datapoint against its own distribution function."""
    uniform = cdf(draws)
    return [stats.kstest(uniform[:, n].numpy(), "uniform").pvalue for n in range(uniform.shape[1])]


def assert_exact(draws, cdf):
    """At most 3 of 40 p-values below 0.01, 13 of 500: by chance it is more once in 1,000 times."""
    found = p_values(draws, cdf)
    assert len(found) % draws.shape[1] == 0
    assert sum(p < 0.01 for p in found) <= stats.binom.ppf(0.999, len(found), 0.01), sorted(found)[:5]


# -- Pairs whose posterior can be written down -------------------------------------------------------------------------


def rotated_gaussian(num_data=N):
    """Probabilistic PCA, and a diagonal Gaussian for it; tested along the narrowest direction, which no axis has."""
    lg = LinearGaussian(num_data, 2, 4)
    lg.set(**lg.true)
    precision = lg.precision()
    covariance = torch.linalg.inv(precision)

    def guide(x):
        with pyro.plate("data", num_data, subsample=torch.arange(len(x))):
            scale = 1.3 * precision.diagonal().rsqrt().expand(len(x), 2)
            pyro.sample("z", dist.Normal(lg.posterior_loc(x), scale).to_event(1))

    def cdf(draws):
        along = torch.linalg.eigh(covariance).eigenvectors[:, 0]
        q = dist.Normal(lg.posterior_loc(lg.x) @ along, (along @ covariance @ along).sqrt())
        return q.cdf(draws @ along)

    return lg.model, guide, lg.x, cdf


def gamma_poisson(num_data=N):
    pair, x, _ = EXACT["gamma_poisson"](num_data)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(0.5 * (2 + x), 1.0))

    return pair.model, guide, x, lambda z: torch.special.gammainc(2 + x, 2 * z)


def mixture_prior(num_data=N):
    pair, x, _ = EXACT["mixture_prior"](num_data)
    weights, means, scales = (torch.tensor(v).double() for v in ([0.3, 0.7], [-2.0, 1.0], [0.5, 1.0]))
    share = (dist.Normal(means, (scales**2 + 1.5**2).sqrt()).log_prob(x[:, None]) + weights.log()).softmax(-1)
    variance = 1 / (1 / scales**2 + 1 / 1.5**2)
    loc = variance * (means / scales**2 + x[:, None] / 1.5**2)
    return pair.model, pair.guide, x, lambda z: (share * dist.Normal(loc, variance.sqrt()).cdf(z[..., None])).sum(-1)


def two_modes(num_data=N):
    """z ~ N(0, 1), x|z ~ N(z^2, 1/2): the modes of +z and -z, alike; the distribution function is summed on a grid."""
    x = 0.2 + 0.4 * torch.rand(num_data, generator=torch.Generator().manual_seed(0)).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z**2, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.2))

    grid = torch.linspace(-5, 5, 4001).double()[:, None]
    density = (dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid**2, 0.5).log_prob(x)).exp()
    below = density.cumsum(0) / density.sum(0)

    def cdf(z):
        return below.gather(0, ((z + 5) * 400).round().long().clamp(0, 4000))

    return model, guide, x, cdf


def two_moons(num_data=N):
    """z = (u, v) ~ N(0, I), x|z ~ N((|u|, v + u^2 - 1), s^2 I): a crescent on each side of u = 0.

    u has the distribution function that is summed on a grid, with v integrated out; v given u and x is normal.
    """
    s = 0.4
    u = 0.2 + 0.3 * torch.rand(num_data, generator=torch.Generator().manual_seed(0)).double()
    x = torch.stack([u, u**2 - 1], -1) + s * torch.stack([torch.zeros(num_data).double(), normal(num_data)], -1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1))
            u, v = z.unbind(-1)
            pyro.sample("x", dist.Normal(torch.stack([u.abs(), v + u**2 - 1], -1), s).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.5).to_event(1))

    grid = torch.linspace(-5, 5, 4001).double()[:, None]
    log_p = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid.abs(), s).log_prob(x[:, 0])
    density = (log_p + dist.Normal(grid**2 - 1, (1 + s**2) ** 0.5).log_prob(x[:, 1])).exp()
    below = density.cumsum(0) / density.sum(0)

    def cdf(z):
        u, v = z.unbind(-1)
        loc = (x[:, 1] - u**2 + 1) / (1 + s**2)
        of_u = below.gather(0, ((u + 5) * 400).round().long().clamp(0, 4000))
        return torch.cat([of_u, dist.Normal(loc, s / (1 + s**2) ** 0.5).cdf(v)], 1)

    return model, guide, x, cdf


PAIRS = {f.__name__: f for f in (rotated_gaussian, gamma_poisson, mixture_prior, two_modes, two_moons)}


@pytest.mark.parametrize("name", PAIRS)
def test_resampled_draws_are_exact_ones(name):
    model, guide, x, cdf = PAIRS[name]()
    found = draw(model, guide, x, method="importance", num_draws=200, num_particles=4000)
    assert found.trusted.all()
    assert set(found.method) == {"importance"}
    assert found.effective_sample_size.min() > 130
    assert found.r_hat.isnan().all()
    assert_exact(found.draws["z"], cdf)


def test_draws_of_a_guide_that_is_the_posterior_are_exact_ones():
    lg = LinearGaussian(N, 2, 4)
    pair = posterior_pair(lg, 1.0)
    covariance = torch.linalg.inv(lg.precision())
    found = draw(pair.model, pair.guide, lg.x, method="auto", num_draws=200)
    assert found.method == ("guide",) * N
    for along in torch.linalg.eigh(covariance).eigenvectors.T:
        q = dist.Normal(lg.posterior_loc(lg.x) @ along, (along @ covariance @ along).sqrt())
        assert_exact(found.draws["z"], lambda z, q=q, along=along: q.cdf(z @ along))


def test_latents_that_are_summed_out_leave_the_posterior_of_the_others():
    """y in {-1, 1}, z ~ N(2 y, 1), x ~ N(z, 1): z given x is a mixture."""
    x = normal(N)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.5).double()), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(4 * y - 2, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.8))

    share = torch.sigmoid(2 * x)

    def cdf(z):
        sides = [dist.Normal(x / 2 + side, 0.5**0.5).cdf(z) for side in (1.0, -1.0)]
        return share * sides[0] + (1 - share) * sides[1]

    found = draw(model, guide, x, method="importance", num_draws=200, num_particles=2000)
    assert list(found.draws) == ["z"]
    assert_exact(found.draws["z"], cdf)


@pytest.mark.filterwarnings("ignore:the draws of")
@pytest.mark.parametrize("name", PAIRS)
def test_draws_of_a_guide_that_is_off_are_told_from_exact_ones_and_are_not_trusted(name):
    model, guide, x, cdf = PAIRS[name]()
    found = draw(model, guide, x, method="guide", num_draws=300, num_particles=300)
    assert set(found.method) == {"guide"}
    assert not found.trusted.any()
    assert sum(p < 0.01 for p in p_values(found.draws["z"], cdf)) > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_draws_of_chains_are_exact_ones(name):
    model, _, x, cdf = PAIRS[name]()
    chains = Chains(num_temperatures=20, num_warmup=40, num_leapfrog=4)
    found = draw(model, None, x, method="hmc", num_draws=200, chains=chains, compile="graph")
    assert found.pareto_k.isnan().all()
    assert found.trusted.all()
    assert found.effective_sample_size.median() == 200
    assert_exact(found.draws["z"], cdf)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the draws of")  # of two moons that are far apart, chains cross between them seldom
@pytest.mark.parametrize("method", ["importance", "hmc"])
@pytest.mark.parametrize("name", PAIRS)
def test_draws_of_500_datapoints_are_exact_ones(name, method):
    model, guide, x, cdf = PAIRS[name](500)
    chains = Chains(num_temperatures=20, num_warmup=40, num_leapfrog=4)
    options = {"num_draws": 100, "num_particles": 4000, "batch_size": 250, "chains": chains, "compile": "graph"}
    found = draw(model, guide, x, method=method, **options)
    assert found.trusted.double().mean() > 0.99
    assert_exact(found.draws["z"], cdf)


def test_r_hat_is_that_of_vehtari_and_others():
    draws = normal(30, 4, 6).cumsum(0) * torch.linspace(0.02, 1, 6) + normal(30, 4, 6, seed=1)
    draws[10:14] = draws[9]  # draws that stay where they are, which share a rank
    draws[..., 5] = normal(30, 4, seed=2) * torch.tensor([0.2, 0.5, 1.0, 2.0])  # chains that differ in scale alone
    found = r_hat(draws)
    for place in range(6):
        assert found[place].item() == pytest.approx(float(array_stats.rhat(draws[..., place].T.numpy())), abs=1e-9)
    assert found.max() > 1.3
    assert found.min() < 1.1
    assert r_hat(torch.zeros(8, 3)) == torch.inf


def test_the_effective_sample_size_of_an_autoregressive_chain_is_the_closed_form():
    """z_t = a z_{t-1} + noise: (1 - a) / (1 + a) independent draws to one, within 5 errors of sqrt(2 / C)."""
    num_chains, length, a = 1000, 400, 0.6
    noise = normal(length, num_chains) * (1 - a**2) ** 0.5
    draws = [normal(num_chains, seed=1)]
    for t in range(1, length):
        draws.append(a * draws[-1] + noise[t])
    expected = length * num_chains * (1 - a) / (1 + a)
    found = effective_sample_size(torch.stack(draws))
    assert found / expected == pytest.approx(1.0, abs=5 * (2 / num_chains) ** 0.5)


@pytest.mark.parametrize("num_draws", [7, 32, 100, 300, 4800])
def test_draws_are_taken_from_all_chains_alike(num_draws):
    length, num_chains = 150, 32
    time, chain = torch.meshgrid(torch.arange(length), torch.arange(num_chains), indexing="ij")
    found = thinned(torch.stack([time, chain], -1), num_draws)
    assert len(found.unique(dim=0)) == num_draws
    of_chain = torch.bincount(found[:, 1], minlength=num_chains)
    assert of_chain.max() - of_chain.min() <= 1
    for c in range(min(num_draws, num_chains)):
        times = found[found[:, 1] == c, 0]
        assert (times.diff() >= length // of_chain[c]).all()
        assert times[0] >= length // (2 * of_chain[c])


def test_particles_are_drawn_as_often_as_their_weights_say():
    share = torch.tensor([0.5, 0.0, 0.13, 0.37]).double()
    uniform = (torch.arange(1000) + 0.5).double() / 1000
    index = resampled(share.log()[:, None].expand(4, 1000), 10, uniform)
    counts = torch.stack([(index == k).sum(0) for k in range(4)]).double()
    torch.testing.assert_close(counts.mean(1), 10 * share, atol=2e-3, rtol=0)
    assert (counts - 10 * share[:, None]).abs().max() < 1
    assert resampled(torch.full((3, 1), -torch.inf), 3, torch.tensor([0.5])).flatten().tolist() == [0, 1, 2]


# -- Auto --------------------------------------------------------------------------------------------------------------


def conjugate(x, shift, width):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def conjugate_guide(x, shift, width):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2 + shift, width / 2**0.5))


def few_wrong(num_data=20):
    """A guide that is the posterior, or 1.3 times as wide, and far off for a tenth of the datapoints."""
    x = normal(num_data)
    shift = torch.zeros(num_data).double()
    shift[::10] = 6.0
    width = torch.tensor([1.0, 1.3]).double().repeat(num_data // 2)
    return x, shift, width


def test_a_guide_that_is_wrong_for_some_is_caught_for_those_alone():
    x, shift, width = few_wrong()
    found = draw(conjugate, conjugate_guide, x, shift, width, num_draws=60)
    assert found.method == tuple(
        "hmc" if s else "guide" if w == 1 else "importance" for s, w in zip(shift, width, strict=True)
    )
    assert found.trusted.all()
    wrong = shift > 0
    assert (found.r_hat[wrong] <= 1.2).all()
    assert found.r_hat[~wrong].isnan().all()
    assert (found.pareto_k[wrong] > 0.7).all()
    assert (found.pareto_k[~wrong] < 0.35).all()
    off = (found.mean("z") - x / 2) * 2**0.5 * found.effective_sample_size.sqrt()
    assert off.abs().max() < 5.0
    assert found.effective_sample_size.min() > 30
    torch.testing.assert_close(found.effective_sample_size[2], torch.tensor(60.0).double())


@pytest.mark.slow
def test_a_guide_that_is_wrong_for_50_of_500_is_caught_for_those_alone():
    x, shift, width = few_wrong(500)
    chains = Chains(num_temperatures=20, num_warmup=40, num_leapfrog=4)
    found = draw(conjugate, conjugate_guide, x, shift, width, num_draws=100, batch_size=250, chains=chains)
    assert [method == "hmc" for method in found.method] == (shift > 0).tolist()
    assert found.trusted.all()
    assert_exact(found.draws["z"], lambda z: dist.Normal(x / 2, 0.5**0.5).cdf(z))


def test_draws_that_nothing_vouches_for_are_marked():
    """z ~ N(0, 1), x|z ~ N(z^2, 1/20): two modes that no chain crosses between, and a guide that sees neither."""
    x = torch.tensor([1.0, 2.0]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z**2, 0.05), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 0.1))

    with pytest.warns(UserWarning, match="the draws of 2 of 2 datapoints aren't to be trusted, the first at 0, by hmc"):
        found = draw(model, guide, x, num_draws=64)
    assert found.method == ("hmc", "hmc")
    assert not found.trusted.any()
    assert (found.r_hat > 1.4).all()
    torch.testing.assert_close(found.draws["z"].abs().mean(0), x.sqrt(), atol=0.1, rtol=0)  # but both modes are there
    assert (found.draws["z"] > 0).any(0).all()
    assert (found.draws["z"] < 0).any(0).all()


# -- What changes nothing ----------------------------------------------------------------------------------------------


def test_neighbours_and_chunks_change_nothing_but_rounding():
    x, shift, width = few_wrong(12)
    whole = draw(conjugate, conjugate_guide, x, shift, width, num_draws=20, chains=SHORT)
    others, other_shift = x.flip(0).clone(), shift.clone()
    others[10], other_shift[1] = x[10], 6.0
    other_shift[0] = 0.0
    beside = draw(conjugate, conjugate_guide, others, other_shift, width, num_draws=20, batch_size=11, chains=SHORT)
    assert (whole.method[10], beside.method[10]) == ("hmc", "hmc")
    assert (whole.method[1], beside.method[1]) == ("importance", "hmc")
    torch.testing.assert_close(whole.draws["z"][:, 10], beside.draws["z"][:, 10], rtol=1e-8, atol=1e-8)
    assert not torch.allclose(whole.draws["z"][:, 11], beside.draws["z"][:, 11])
    chunked = draw(conjugate, conjugate_guide, x, shift, width, num_draws=20, batch_size=11, chains=SHORT)
    assert chunked.method == whole.method
    torch.testing.assert_close(whole.draws["z"], chunked.draws["z"], rtol=1e-8, atol=1e-8)
    for name in ("effective_sample_size", "pareto_k", "r_hat"):
        torch.testing.assert_close(getattr(whole, name), getattr(chunked, name), equal_nan=True)


def test_the_seed_fixes_all_and_the_generators_are_left_alone():
    x, shift, width = few_wrong()
    args = (conjugate, conjugate_guide, x[1:4], shift[1:4], width[1:4])
    before = torch.get_rng_state()
    first, second, third = draw(*args), draw(*args), draw(*args, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.draws["z"], second.draws["z"])
    assert not (first.draws["z"] == third.draws["z"]).any()
    torch.manual_seed(5)
    unseeded = draw(*args, seed=None)
    assert not torch.equal(unseeded.draws["z"], draw(*args, seed=None).draws["z"])
    torch.manual_seed(5)
    assert torch.equal(unseeded.draws["z"], draw(*args, seed=None).draws["z"])
    chains = [draw(conjugate, None, *args[2:], chains=SHORT, seed=seed).draws["z"] for seed in (0, 0, 1)]
    assert torch.equal(chains[0], chains[1])
    assert not (chains[0] == chains[2]).any()


def test_parameters_and_modes_are_left_as_they_were():
    vae = VAE(6, 2, hidden_dims=(5,), encoder=torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Dropout(0.5)))
    x = (normal(3, 6) > 0).float()
    vae.train()
    vae.encoder[1].eval()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    found = draw(vae.model, vae.guide, x, method="importance", num_draws=10)
    assert found.draws["z"].shape == (10, 3, 2)
    assert found.draws["z"].dtype == torch.float32
    assert (vae.training, vae.encoder[0].training, vae.encoder[1].training) == (True, True, False)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert not list(pyro.get_param_store().keys())
    assert all(p.grad is None for p in vae.parameters())


# -- What a pair may be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FORMS if not name.startswith("padding")])
def test_each_form_of_one_model(name):
    """Its guide is the posterior, so that its draws serve as they are."""
    model, guide, args, _ = FORMS[name]()
    found = draw(model, guide, *args, method="guide", num_draws=200, num_particles=200)
    assert found.trusted.all()
    assert found.draws["z"].shape == (200, len(args[0]))
    if name.startswith(("plain", "data_plate", "inner", "auxiliary", "deterministic")):
        q = form_posterior(args[0])
        assert_mean((found.draws["z"] - q.loc) / q.scale, 0.0, resolution=0.5)


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_latent_in_a_plate_within_the_datapoint_has_its_draws_there(vectorize):
    x = normal(3, 4) + torch.tensor([[0.0], [100.0], [200.0]])
    x = x if vectorize else x[:1]

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            top = pyro.sample("top", dist.Normal(torch.zeros(()).double(), 1000.0))
            with pyro.plate("members", 4, dim=-1):
                z = pyro.sample("z", dist.Normal(top, 1.0))
                pyro.sample("x", dist.Normal(z, 0.01), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("top", dist.Normal(x.mean(1, keepdim=True), 0.6))
            with pyro.plate("members", 4, dim=-1):
                pyro.sample("z", dist.Normal(x, 0.01))

    found = draw(model, guide, x, method="importance", num_draws=20, num_particles=200, vectorize=vectorize)
    assert found.draws["z"].shape == (20, len(x), 4)
    assert found.draws["top"].shape == (20, len(x))
    torch.testing.assert_close(found.mean("z"), x, atol=0.05, rtol=0)
    assert found.table()["z[1] mean"] == found.mean("z")[:, 1].tolist()
    torch.testing.assert_close(found.quantile("z", 0.5), x, atol=0.05, rtol=0)


def test_a_model_that_wants_all_of_its_rows_gets_them():
    x = normal(6)

    def model(x):
        with pyro.plate("data", 6):
            z = pyro.sample("z", dist.Normal(torch.zeros(6).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 6):
            pyro.sample("z", dist.Normal(x / 2 + torch.tensor([6.0, 0, 0, 0, 0, 0]), 0.8))

    found = draw(model, guide, x)
    assert found.method == ("hmc", *["importance"] * 5)
    off = (found.mean("z") - x / 2) * 2**0.5 * found.effective_sample_size.sqrt()
    assert off.abs().max() < 5.0


@pytest.mark.parametrize("half", ["model", "guide"])
def test_a_pair_may_know_a_datapoint_by_its_place(half):
    """Each datapoint by itself would be the first one."""
    x = 3 * normal(6)

    everyone = x

    def data(x, which):
        return everyone[: len(x)] if half == which else x

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data(x, "model"))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(data(x, "guide") / 2, 0.8))

    found = draw(model, guide, x)
    assert found.method == ("importance",) * 6
    off = (found.mean("z") - x / 2) * 2**0.5 * found.effective_sample_size.sqrt()
    assert off.abs().max() < 5.0


def test_a_discrete_latent_of_the_guide_is_drawn():
    x = torch.tensor([-3.0, 0.0, 3.0]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.5).double()))
            pyro.sample("x", dist.Normal(2 * y - 1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(0.3 + 0.4 * (x > -1)), infer={"enumerate": "parallel"})

    found = draw(model, guide, x, method="importance", num_draws=500, num_particles=5000)
    expected = torch.sigmoid(2 * x)
    error = (expected * (1 - expected) / found.effective_sample_size).sqrt()
    assert ((found.mean("y") - expected).abs() <= 5 * error + 2 / 500).all()
    with pytest.raises(
        ValueError, match=r"expected continuous latents for HMC, got the discrete site 'y'.*'importance'"
    ):
        draw(model, guide, x)


# -- What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "remedy"),
    [
        ({"num_draws": 1}, "expected num_draws of 2 or more, got 1; .*ask for 2", {"num_draws": 2}),
        ({"method": "mcmc"}, "expected a method out of .*'auto'.*got 'mcmc'", {"method": "auto"}),
        (
            {"num_draws": 50, "num_particles": 20},
            "expected num_particles no fewer than num_draws.*leave",
            {"num_draws": 50},
        ),
        ({"chains": 5}, r"expected chains=Chains\(...\), got 5; for example", {"chains": Chains(num_chains=64)}),
    ],
)
def test_options_are_refused_and_the_remedy_works(options, error, remedy):
    x, shift, width = few_wrong()
    args = (conjugate, conjugate_guide, x[1:3], shift[1:3], width[1:3])
    with pytest.raises((ValueError, TypeError), match=error):
        draw(*args, **options)
    assert draw(*args, **remedy).trusted.all()


def test_chains_outside_their_range_are_refused():
    for options, error in (
        ({"num_chains": 1}, "num_chains of 2 or more and num_samples of 4 or more, got 1 and 150; .*raise them"),
        ({"num_samples": 3}, "got 32 and 3"),
        ({"target_acceptance": 1.0}, "target_acceptance between 0 and 1, got 1.0; the default is 0.8"),
        ({"largest_r_hat": 1.0}, "largest_r_hat above 1, got 1.0; the default is 1.05"),
    ):
        with pytest.raises(ValueError, match=error):
            Chains(**options)


def test_a_global_latent_is_refused_and_the_remedy_works():
    def model(x):
        s = pyro.sample("s", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(s + z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - 0.5) / 2, 0.5**0.5))

    def with_s(x):
        pyro.sample("s", dist.Normal(torch.zeros(()).double(), 1.0))
        guide(x)

    with pytest.raises(ValueError, match=r"expected site 's' in the .* pyro.condition\(model, {'s': value}\)"):
        draw(model, with_s, normal(3))
    assert draw(pyro.condition(model, {"s": torch.tensor(0.5).double()}), guide, normal(3)).method == ("guide",) * 3


def test_pairs_are_refused():
    x, shift, width = few_wrong()
    for guide, method in ((None, "guide"), (None, "importance")):
        with pytest.raises(
            ValueError, match=f"expected a guide to draw from, got None for '{method}'; use method='hmc'"
        ):
            draw(conjugate, guide, x, shift, width, method=method)
    with pytest.raises(ValueError, match="expected a model with latents, got none"):
        draw(no_latent, None, x)
    found = Posterior({"z": torch.zeros(2, 1)}, ("guide",), *(torch.ones(1) for _ in range(4)))
    with pytest.raises(ValueError, match=r"expected a site out of \['z'\], got 'w'; these are"):
        found.mean("w")


def no_latent(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)


def test_weights_that_are_no_numbers_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, torch.where(x > 5, torch.nan, 1.0)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.8))

    x = torch.tensor([0.0, 1.0, 9.0]).double()
    with pyro.validation_enabled(False), pytest.raises(ValueError, match=r"got NaN .* the first for datapoint 2; see"):
        draw(model, guide, x)


def with_a_discrete_latent(marked):
    def model(x):
        with pyro.plate("data", len(x)):
            infer = {"enumerate": "parallel"} if marked else {}
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])), infer=infer)
            z = pyro.sample("z", dist.Normal(y - 1.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    return model


def that_draws_it(x, scale=0.5):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(logits=torch.stack([-x, 0 * x, x], -1)))
        pyro.sample("z", dist.Normal(0.8 * x + 0.2 * (y - 1), scale))


def test_what_is_said_of_a_discrete_latent_helps():
    x = torch.tensor([0.5, -1.0, 2.0])
    options = {"seed": 0, "progress": False}
    with pytest.raises(ValueError, match=r"mark it in the model, .* with guide=None where draws are asked for"):
        posterior(with_a_discrete_latent(False), that_draws_it, x, **options)
    y = torch.arange(3.0)[:, None]
    log_p = torch.tensor([[0.2], [0.3], [0.5]]).log() + dist.Normal(y - 1, 1.25**0.5).log_prob(x)  # of y and x
    exact = (log_p.softmax(0) * (0.8 * x + 0.2 * (y - 1))).sum(0)
    chains = Chains(num_chains=32)
    by_chains = posterior(with_a_discrete_latent(True), None, x, num_draws=1000, chains=chains, **options)
    torch.testing.assert_close(by_chains.mean("z"), exact, atol=0.1, rtol=0)
    found = log_marginal_likelihood(with_a_discrete_latent(True), that_draws_it, x, method="quadrature", **options)
    torch.testing.assert_close(found.value.float(), log_p.logsumexp(0), atol=1e-3, rtol=0)


def test_what_is_said_of_untrusted_draws_helps_where_latents_are_discrete():
    x = torch.tensor([0.5, -1.0, 2.0])
    narrow = functools.partial(that_draws_it, scale=0.3)
    wide = functools.partial(that_draws_it, scale=0.6)
    options = {"method": "importance", "seed": 0, "progress": False}
    with pytest.warns(UserWarning, match="train a wider guide, or, if all latents are continuous, use method='auto'"):
        assert not posterior(with_a_discrete_latent(False), narrow, x, **options).trusted.all()
    assert posterior(with_a_discrete_latent(False), wide, x, num_particles=20_000, **options).trusted.all()
