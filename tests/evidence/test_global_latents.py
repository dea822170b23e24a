"""The bound on log p(X) and the posterior predictive density of models with global latents, against closed forms."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from global_pairs import GLOBAL, mean_of_local_latents, observed_outside, one
from statistics_tools import SIGMAS

from pyro_aevb import AIS, Importance, elbo, log_density, log_marginal_likelihood


@pytest.mark.parametrize("name", GLOBAL)
def test_with_the_posterior_the_total_is_log_p_of_the_data(name):
    pair = GLOBAL[name]()
    bound = elbo(pair.model, pair.guide, *pair.data, num_particles=3, seed=0)
    value, error = bound.total()
    assert value == pytest.approx(pair.log_evidence, abs=1e-9)
    assert error < 1e-9  # though each datapoint's value is noisy
    assert (bound.standard_error > 1e-3).all()


def test_a_bound_in_closed_form():
    """With q(w) = N(a, s^2) and q(z|x, w) the posterior given w: E log p(x|w) = log N(x; a, 2) - s^2 / 4."""
    pair, a, s, K = mean_of_local_latents(), one(0.3), one(0.7), 20_000

    def guide(x):
        w = pyro.sample("w", dist.Normal(a, s))
        with pyro.plate("data", 6, subsample_size=len(x)):
            pyro.sample("z", dist.Normal((x + w) / 2, 0.5**0.5))

    x = pair.data[0]
    bound = elbo(pair.model, guide, x, num_particles=K, seed=0)
    # log N(x; w, 2) is quadratic in w: its variance under q(w), and that of its sum less the global KL, are known.
    d = x - a
    error = (((d * s) ** 2 / 4 + s**4 / 8) / K).sqrt()
    torch.testing.assert_close(bound.standard_error, error, rtol=0.05, atol=0)
    assert ((bound.value - dist.Normal(a, 2**0.5).log_prob(x) + s**2 / 4).abs() < 5 * error).all()
    kl = torch.distributions.kl_divergence(dist.Normal(a, s), dist.Normal(0.0, 1.0))
    linear, quadratic = d.sum() * s / 2 - a * s, (1 - s**2) / 2 - 6 * s**2 / 4
    total_error = ((linear**2 + 2 * quadratic**2) / K).sqrt()
    assert bound.total_error.item() == pytest.approx(total_error.item(), rel=0.05)
    assert abs(bound.global_kl - kl) < 5 * (((a * s) ** 2 + (1 - s**2) ** 2 / 2) / K) ** 0.5


def test_minibatches_count_the_global_kl_once():
    pair = mean_of_local_latents()
    whole, parts = (
        elbo(pair.model, pair.guide, *pair.data, num_particles=4000, batch_size=size, seed=0) for size in (6, 2)
    )
    # The KL of the posterior N(m, 1/p) with p = 1 + 6/2; the error of 4000 draws is below 0.02.
    m, p = pair.data[0].sum() / 2 / 4, 4.0
    kl = torch.distributions.kl_divergence(dist.Normal(m, p**-0.5), dist.Normal(one(0.0), 1.0)).item()
    assert whole.global_kl.item() == pytest.approx(kl, abs=0.1)
    assert parts.global_kl.item() == pytest.approx(kl, abs=0.1)


@pytest.mark.slow
def test_the_error_of_the_total_and_of_the_mean_cover_what_datapoints_share():
    pair = mean_of_local_latents()

    def guide(x):
        w = pyro.sample("w", dist.Normal(one(0.3), 0.7))
        with pyro.plate("data", 6, subsample_size=len(x)):
            pyro.sample("z", dist.Normal((x + w) / 2, 0.7))

    bounds = [elbo(pair.model, guide, *pair.data, num_particles=10, batch_size=4, seed=seed) for seed in range(100)]
    exact = elbo(pair.model, guide, *pair.data, num_particles=20_000, seed=0)
    totals = torch.tensor([bound.total() for bound in bounds])
    z = (totals[:, 0] - exact.total().value) / totals[:, 1]
    assert 0.85 < z.std() < 1.35  # Student's t with 9 degrees of freedom has 1.13
    assert abs(totals[:, 0].mean() - exact.total().value) < 5 * totals[:, 0].std() / 100**0.5
    assert (torch.tensor([b.mean().standard_error for b in bounds]) >= exact.value.std() / 6**0.5 * 0.5).all()


@pytest.mark.parametrize("method", ["importance", "auto", "quadrature", AIS(3, num_leapfrog=2)], ids=str)
def test_the_predictive_density_is_that_of_the_posterior(method):
    pair = mean_of_local_latents()
    options = {"num_particles": 50} if method in ("importance", "auto") else {}
    if isinstance(method, AIS):
        options["num_particles"] = 50
    x = pair.data[0][:3]
    evidence = log_marginal_likelihood(
        pair.model, pair.guide, x, method=method, num_global_draws=12, seed=0, progress=False, **options
    )
    z = (evidence.value - pair.predictive(x)) / evidence.standard_error
    assert (z.abs() < 4).all(), (evidence, pair.predictive(x))
    assert (evidence.standard_error < 0.5).all()
    assert evidence.direction == "lower"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pareto_k")  # of tails of 6 weights
@pytest.mark.parametrize("name", ["linear_regression", "mean_and_precision", "rate_of_counts"])
def test_its_error_covers_the_draws_of_the_globals(name):
    pair, x = GLOBAL[name](), None
    x = [arg[:4] for arg in pair.data]
    z = []
    for seed in range(25):
        evidence = log_marginal_likelihood(
            pair.model, pair.guide, *x, method=Importance(), num_particles=2, num_global_draws=30, seed=seed,
            compile=False,
        )  # fmt: skip
        z.append((evidence.value - pair.predictive(*x)) / evidence.standard_error)
    covered = (torch.stack(z).abs() < 1.96).double().mean()
    assert covered > 0.8  # of 100, four in each draw of the globals and not independent; the weights are skewed


def test_weights_of_few_global_draws_are_warned_about_and_more_of_them_are_enough():
    """w ~ N(0, I) in J dimensions, q(w) = N(0, I / 4), x ~ N(w, I / 2): of 20 draws one or two count where J = 10."""

    def estimate(num_dims, number):
        prior = dist.Normal(torch.zeros(num_dims).double(), 1.0)

        def model(x):
            w = pyro.sample("w", prior.to_event(1))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 0.01))
                pyro.sample("x", dist.Normal(w + z[..., None], 0.5).to_event(1), obs=x)

        def guide(x):
            pyro.sample("w", dist.Normal(0.0 * prior.loc, 0.5).to_event(1))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 0.01))

        x = torch.randn(20, num_dims, generator=torch.Generator().manual_seed(0)).double() * 0.4
        options = {"num_global_draws": number, "num_particles": 20, "seed": 0, "compile": False, "progress": False}
        covariance = 0.5 * torch.eye(num_dims).double() + 1e-4
        exact = dist.MultivariateNormal(torch.zeros(num_dims).double(), covariance).log_prob(x)
        return log_marginal_likelihood(model, guide, x, **options), exact

    with pytest.warns(UserWarning, match=r"the effective sample size is below 1.5 for .* of 20 .*num_global_draws"):
        few, _ = estimate(10, 20)
    assert few.pareto_k.isnan().all()
    assert (few.effective_sample_size < 20).all()
    with pytest.warns(UserWarning, match=r"pareto_k is above 0.7 for .* of 20 .*raise num_global_draws"):
        estimate(10, 100)
    found, exact = estimate(1, 400)
    assert ((found.value - exact).abs() <= SIGMAS * found.standard_error).all()


def test_given_values_of_the_globals():
    pair = mean_of_local_latents()
    x = pair.data[0]
    for guide, method in ((pair.guide, "importance"), (None, "quadrature"), (pair.guide, "posterior-density")):
        evidence = log_marginal_likelihood(
            pair.model, guide, x, method=method, given={"w": one(0.5)}, num_particles=None, seed=0, progress=False
        )
        error = evidence.standard_error if method == "posterior-density" else torch.tensor(1e-6)
        assert ((evidence.value - dist.Normal(one(0.5), 2**0.5).log_prob(x)).abs() < 5 * error + 1e-6).all()


def test_what_is_observed_outside_of_the_plate_counts_once():
    """log p(y|w) has the mean log N(y; m, 1) - 1 / (2 p) under the posterior N(m, 1 / p) of w, p = 2 + 6 / 2."""
    pair = observed_outside()
    m, p = (pair.data[0].sum() / 2 + 2.5) / 5, 5.0
    exact = (dist.Normal(m, 1.0).log_prob(one(2.5)) - 1 / (2 * p)).item()
    bound = elbo(pair.model, pair.guide, *pair.data, num_particles=4000, batch_size=2, seed=0)
    assert bound.log_given.item() == pytest.approx(exact, abs=0.03)
    assert bound.total().value == pytest.approx(pair.log_evidence, abs=5 * bound.total_error.item())
    density = log_density(pair.model, pair.guide, *pair.data, num_particles=4)
    total = density.log_weight.sum(1) + density.global_log_weight + density.log_given
    assert total.tolist() == pytest.approx([pair.log_evidence] * 4, abs=1e-9)


def test_log_density_has_the_globals_apart():
    pair = mean_of_local_latents()
    torch.manual_seed(0)
    density = log_density(pair.model, pair.guide, *pair.data, num_particles=4)
    total = density.log_weight.sum(1) + density.global_log_weight
    assert density.global_log_weight.shape == (4,)
    assert total.tolist() == pytest.approx([pair.log_evidence] * 4, abs=1e-9)


def test_what_can_t_be_answered_is_said():
    pair = mean_of_local_latents()
    with pytest.raises(ValueError, match=r"expected a guide that samples the global latent 'w', got none; .*given="):
        log_marginal_likelihood(pair.model, None, *pair.data, method="ais")
    for method in ("posterior-density", "bdmc"):
        with pytest.raises(ValueError, match=r"expected a method with a lower bound .*or pass a value: given=\{'w'"):
            log_marginal_likelihood(pair.model, pair.guide, *pair.data, method=method)
    with pytest.raises(ValueError, match=r"expected given values of the model's global latents, got \['v'\]"):
        log_marginal_likelihood(pair.model, pair.guide, *pair.data, given={"v": one()})
