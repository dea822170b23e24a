"""Every field of an estimate held to a closed form: values, standard errors, effective sample sizes, tails, sides.

Probabilistic PCA, whose weights have known moments.  With q = N(mu, S^2) and e ~ N(0, I), log w = const + b'e - e'Ce/2
with b = S P (loc - mu) and C = S P S - I.  With q the posterior, c times as wide, the weights over p(x) are p/q: of
mean 1 and mean square (c^2 / sqrt(2 c^2 - 1))^J; in two dimensions, for c < 1, exactly Pareto, of shape 1 - c^2.
"""

import math
import warnings

import pytest
import torch
from exact_pairs import gamma_poisson, laplace_prior, posterior_pair
from linear_gaussian import LinearGaussian
from statistics_tools import SIGMAS, assert_mean

from pyro_aevb import elbo, evidence_gap, log_marginal_likelihood
from pyro_aevb.evidence import (
    AIS,
    BDMC,
    BoundEstimate,
    Estimate,
    Evidence,
    Importance,
    MeanEstimate,
    PosteriorDensity,
    Quadrature,
)
from pyro_aevb.evidence.importance_weights import log_mean


def estimate(pair, x, **options):
    return log_marginal_likelihood(pair.model, pair.guide, x, **({"seed": 0, "progress": False} | options))


def log_weight_variance(P, shift, scale):
    """Var log w (N,) of q with diagonal standard deviations `scale` (J,), `shift` (N, J) off the posterior's mean."""
    b = shift @ P * scale
    C = scale[:, None] * P * scale - torch.eye(len(scale)).double()
    return b.square().sum(-1) + 0.5 * C.square().sum()


def mean_square(width, dim):
    """E_q (p/q)^2 with q the posterior, `width` times as wide."""
    return (width**2 / math.sqrt(2 * width**2 - 1)) ** dim


# -- Evidence in a line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tails", "words"),
    [
        ([-math.inf, -math.inf, math.nan], ", weights without a tail"),
        ([-math.inf, 0.25, math.nan], ", pareto_k up to 0.25"),
        ([0.25, math.inf, -math.inf], ", pareto_k up to inf"),
        ([math.nan] * 3, ""),
    ],
)
def test_a_line_says_how_heavy_the_tails_are(tails, words):
    numbers = torch.tensor([-1.0, -2.0, -3.0]), torch.zeros(3)
    line = "Evidence(N=3, mean -2.0000 ± 0.58 nats, direction='lower'"
    assert repr(Evidence(*numbers, "lower", pareto_k=torch.tensor(tails).double())) == f"{line}{words})"


def test_equal_weights_have_no_tail_to_print():
    lg = LinearGaussian(8, 2, 4)
    assert "weights without a tail" in repr(estimate(posterior_pair(lg, 1.0), lg.x, num_particles=100))


# -- Estimate, MeanEstimate -------------------------------------------------------------------------------------------


def test_the_elbo_and_its_standard_error():
    lg, K = LinearGaussian(30, 2, 4), 4000
    bound = elbo(lg.model, lg.guide, lg.x, num_particles=K, seed=0)
    assert isinstance(bound, BoundEstimate)
    assert bound.global_kl == 0
    scale = lg.value("r").exp()
    shift = lg.posterior_loc(lg.x) - (lg.x - lg.value("c")) @ lg.value("A").T
    error = (log_weight_variance(lg.precision(), shift, scale) / K).sqrt()
    assert ((bound.value - lg.elbo(lg.x)).abs() < SIGMAS * error).all()
    torch.testing.assert_close(bound.standard_error, error, rtol=0.15, atol=0)
    torch.testing.assert_close(bound.standard_error.square().mean(), error.square().mean(), rtol=0.05, atol=0)


def test_a_mean_over_datapoints_has_the_error_of_a_mean():
    value = torch.tensor([-1.0, -4.0, -10.0]).double()
    for of in (Estimate(value, torch.ones(3)), Evidence(value, torch.ones(3), "lower")):
        mean = of.mean()
        assert isinstance(mean, MeanEstimate)
        assert mean.value == -5.0
        assert math.isclose(mean.standard_error, math.sqrt((16 + 1 + 25) / 2 / 3))
    assert Estimate(value[:1], torch.tensor([0.25])).mean() == (-1.0, 0.25)
    lg = LinearGaussian(4000, 2, 4)
    lg.set(**lg.true)
    found = Estimate(lg.log_evidence(lg.x), torch.zeros(4000)).mean()
    # -E log p(x) = entropy of the Gaussian that the data are from, and Var log p(x) = D/2.
    W, s = lg.value("W"), lg.value("log_s").exp()
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * (W @ W.T + s**2 * torch.eye(4).double())).item()
    assert abs(found.value + entropy) < SIGMAS * math.sqrt(2 / 4000)
    assert math.isclose(found.standard_error, math.sqrt(2 / 4000), rel_tol=0.1)


# -- weights: LogMeanWeight, and Evidence from importance and annealing -----------------------------------------------


def test_a_log_mean_weight_by_hand():
    """Of the weights 1, 2 and 6: mean 3, sd sqrt(7), error of the mean over the mean, (sum w)^2 / sum w^2."""
    found = log_mean(torch.tensor([[1.0], [2.0], [6.0]]).double().log()).result()
    assert math.isclose(found.value.item(), math.log(3))
    assert math.isclose(found.standard_error.item(), math.sqrt(7 / 3) / 3)
    assert math.isclose(found.effective_sample_size.item(), 81 / 41)
    shifted = log_mean(torch.tensor([[1.0], [2.0], [6.0]]).double().log() - 2000).result()
    assert math.isclose(shifted.value.item(), math.log(3) - 2000)
    assert math.isclose(shifted.effective_sample_size.item(), 81 / 41)


@pytest.mark.parametrize(
    "method",
    [Importance(), pytest.param(AIS(num_temperatures=1, num_leapfrog=1, start="guide"), marks=pytest.mark.slow)],
    ids=["importance", "ais"],
)
def test_weights_of_known_moments(method):
    """AIS in one step from the guide is importance sampling."""
    N, K, width = 200, 2000, 1.2
    lg = LinearGaussian(N, 2, 4)
    pair = posterior_pair(lg, width)
    found = estimate(pair, lg.x, method=method, num_particles=K, batch_size=N)
    square = mean_square(width, 2)
    error = math.sqrt((square - 1) / K)
    assert found.direction == "lower"
    assert found.upper is None
    assert found.data is None
    difference = found.value - lg.log_evidence(lg.x)
    assert (difference.abs() < SIGMAS * error).all()
    assert_mean(difference, 0.0, resolution=0.01)
    assert_mean(found.effective_sample_size / K, 1 / square, resolution=0.01)
    assert_mean(found.standard_error, error, resolution=0.01 * error)
    assert (found.pareto_k is not None) == isinstance(method, Importance)


def test_pareto_k_of_weights_that_are_pareto():
    lg = LinearGaussian(100, 2, 4)
    pair = posterior_pair(lg, math.sqrt(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of a hundred are above 0.7
        found = estimate(pair, lg.x, num_particles=4000)
    assert_mean(found.pareto_k, 0.5, resolution=0.1)


def test_the_effective_sample_size_of_annealing_is_not_more_than_its_chains():
    """At the posterior itself, all of them; each direction of BDMC has its own."""
    lg = LinearGaussian(20, 1, 2)
    pair = posterior_pair(lg, 1.0)
    found = estimate(pair, lg.x, method=AIS(num_temperatures=3, start="guide"), num_particles=7)
    torch.testing.assert_close(found.effective_sample_size, torch.full((20,), 7.0).double())
    torch.testing.assert_close(found.value, lg.log_evidence(lg.x))
    assert found.standard_error.abs().max() < 1e-6


# -- bidirectional Monte Carlo ----------------------------------------------------------------------------------------


def test_both_sides_of_bidirectional_monte_carlo():
    """About data of the model's own, whose log p(x) is known; in many steps both sides come to it."""
    lg = LinearGaussian(200, 1, 3)
    lg.set(**lg.true)
    found = estimate(lg, lg.x, method=BDMC(AIS(num_temperatures=100, num_leapfrog=3)), num_particles=16, batch_size=200)
    assert (found.direction, found.upper.direction) == ("lower", "upper")
    assert set(found.data) == {"x"}
    x = found.data["x"]
    assert x.shape == lg.x.shape
    assert not torch.equal(x, lg.x)
    W, s = lg.value("W"), lg.value("log_s").exp()
    assert_mean(x, lg.value("m"), resolution=2.0)
    variance = (W @ W.T + s**2 * torch.eye(3).double()).diagonal()
    assert_mean((x - lg.value("m")).square(), variance, resolution=2 * variance.max().item())
    truth = lg.log_evidence(x)
    for side in (found, found.upper):
        assert_mean(side.value - truth, 0.0, resolution=0.1)
        # The errors are those that are made, datapoint by datapoint; chains that began at one z make somewhat more.
        ratio = ((side.value - truth).square().mean() / side.standard_error.square().mean()).sqrt()
        assert 0.7 < ratio < 2.0
        assert ((side.effective_sample_size > 1) & (side.effective_sample_size <= 16 + 1e-9)).all()
    gap = found.gap()
    torch.testing.assert_close(gap.value, found.upper.value - found.value)
    torch.testing.assert_close(
        gap.standard_error, (found.standard_error.square() + found.upper.standard_error.square()).sqrt()
    )


# -- the posterior's density ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:pareto_k", "ignore:the fitted density")
def test_the_error_of_the_posterior_density_is_that_over_chains():
    """Chains that move little from draw to draw: their samples are alike, an error over samples would be too small."""
    N = 200
    lg = LinearGaussian(N, 1, 2)
    pair = posterior_pair(lg, 1.0)
    method = PosteriorDensity(num_chains=20, num_leapfrog=1, target_acceptance=0.99)
    found = estimate(pair, lg.x, method=method, num_particles=300, batch_size=N)
    assert found.direction == "upper"
    off = found.value - lg.log_evidence(lg.x)
    ratio = (off.var() / found.standard_error.square().mean()).sqrt()
    assert 0.8 < ratio < 1.25
    assert off.mean().abs() < 0.05
    # Weights all but equal: nearly every sample counts, and there is no tail.
    assert found.effective_sample_size.max() <= 300 + 1e-9
    assert found.effective_sample_size.median() > 250
    assert found.pareto_k.median() < 0.5


# -- quadrature -------------------------------------------------------------------------------------------------------


def test_quadrature_is_right_and_says_how_far_off_it_may_be():
    pair, x, log_evidence = gamma_poisson()
    found = estimate(pair, x, method="quadrature")
    assert found.direction == "numerical"
    assert (found.effective_sample_size, found.pareto_k, found.upper, found.data) == (None,) * 4
    assert (found.value - log_evidence).abs().max() < 1e-4
    assert (found.standard_error <= 1e-3).all()
    assert found.standard_error.max() > 0
    assert found.settled.all()


def test_the_error_of_quadrature_is_below_its_tolerance():
    pair, x, log_evidence = laplace_prior()
    for tolerance in (1e-2, 1e-4, 1e-6):
        found = estimate(pair, x, method=Quadrature(tolerance=tolerance))
        assert ((found.value - log_evidence).abs() <= tolerance + 1e-9).all()
        assert (found.standard_error <= tolerance).all()


def test_values_that_do_not_settle_are_warned_about():
    pair, x, log_evidence = laplace_prior()
    with pytest.warns(UserWarning, match=r"did not settle for \d+ of 50 datapoints.*raise max_points"):
        found = estimate(pair, x, method=Quadrature(tolerance=1e-9, max_points=300))
    assert torch.equal(~found.settled, found.standard_error > 1e-9)
    assert (~found.settled).any()
    assert (found.value - log_evidence).abs().max() < 1e-2


# -- the gap ----------------------------------------------------------------------------------------------------------


def test_every_error_of_the_gap_is_the_closed_form():
    """Of the guide's ELBO, of the best diagonal Gaussian's, and of their differences from each other and log p(x)."""
    lg, K = LinearGaussian(40, 2, 4), 4000
    P, at = lg.precision(), 0.3
    evidence = Evidence(lg.log_evidence(lg.x), torch.full((40,), at).double(), "numerical")
    gap = evidence_gap(
        lg.model, lg.guide, lg.x, evidence=evidence, num_particles=K, seed=0, learning_rate=0.05, num_steps=300,
        progress=False,
    )  # fmt: skip
    shift = lg.posterior_loc(lg.x) - (lg.x - lg.value("c")) @ lg.value("A").T
    variance = log_weight_variance(P, shift, lg.value("r").exp()) / K
    best_variance = log_weight_variance(P, torch.zeros(40, 2).double(), P.diagonal().rsqrt()) / K
    own, best, log_p = lg.elbo(lg.x), lg.best_diagonal_elbo(lg.x), lg.log_evidence(lg.x)
    for found, value, noise, of_log_p in (
        (gap.elbo, own, variance, 0.0),
        (gap.best_elbo, best, best_variance, 0.0),
        (gap.total, log_p - own, variance, at),
        (gap.approximation, log_p - best, best_variance, at),
        (gap.amortization, best - own, variance + best_variance, 0.0),
    ):
        torch.testing.assert_close(found.standard_error, (noise + of_log_p**2).sqrt().expand(40), rtol=0.2, atol=0)
        assert ((found.value - value).abs() < SIGMAS * noise.sqrt() + 0.01).all()
