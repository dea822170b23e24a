"""log p(x) against answers that can be written down, its errors and directions, and what it refuses.

Shapes: N data, K particles, J latent dimensions.
"""

import math
import signal
import threading
import warnings
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats
from covering import in_turn
from exact_pairs import EXACT, posterior_pair
from linear_gaussian import LinearGaussian
from pairs import outside_the_support
from pyro.poutine.runtime import _DIM_ALLOCATOR
from statistics_tools import SIGMAS
from torch.overrides import TorchFunctionMode

from pyro_aevb import AIS, BDMC, SMC, Auto, Importance, PosteriorDensity, Quadrature, log_marginal_likelihood
from pyro_aevb.evidence import elbo
from pyro_aevb.evidence.importance_weights import WeightSums, log_mean, pareto_k, smoothed, tail_length
from pyro_aevb.posterior import anomaly_score

METHODS = {
    "importance": (Importance(), 2000),
    "importance, in passes": (Importance(rows_per_pass=7000), 2000),
    "auto": (Auto(annealing=AIS(200, num_leapfrog=3), quadrature=None), 2000),
    "posterior-density": (PosteriorDensity(num_chains=20, num_warmup=40), 100),
    "ais": (AIS(200, num_leapfrog=3), 16),
    "ais from the guide": (AIS(50, num_leapfrog=3, start="guide"), 16),
    "smc": (SMC(20, num_leapfrog=3), 8),
    "quadrature": (Quadrature(), None),
}
# Of the methods that run chains, the models that are met by default, those that take least; of the others half in CI.
CHAINS = {
    "auto": ("laplace_prior", "two_latents_in_turn"),
    "posterior-density": ("laplace_prior",),
    "ais": ("laplace_prior",),
    "ais from the guide": ("gamma_poisson",),
    "smc": ("laplace_prior",),
}


def marks(name, method):
    if name in CHAINS.get(method, EXACT):
        return ()
    return pytest.mark.exhaustive if (list(EXACT).index(name) + list(METHODS).index(method)) % 2 else pytest.mark.slow


PCA = [(1, "ais"), (1, "quadrature"), (3, "importance"), (3, "importance, in passes")]  # by default, likewise
# Tails of few posterior samples are often above 0.7 by chance; the estimates are held to the truth all the same.
posterior_tails = pytest.mark.filterwarnings("ignore:(pareto_k|the fitted density|posterior-density is meant)")


def estimate(pair, *args, method, num_particles=None, **options):
    options = {"seed": 0, "progress": False, "compile": False} | options
    return log_marginal_likelihood(pair.model, pair.guide, *args, method=method, num_particles=num_particles, **options)


def assert_near(evidence, truth, *, resolution):
    """Assert that the mean over datapoints is right within SIGMAS standard errors, and these below `resolution`."""
    if evidence.direction == "numerical":
        assert evidence.standard_error.max() < 1e-3
        assert (evidence.value - truth).abs().max() < 1e-3
        return
    error = SIGMAS * evidence.standard_error.square().mean().sqrt().item() / len(truth) ** 0.5
    assert error < resolution, f"too vague: {SIGMAS} standard errors of the mean are {error:.3g}"
    difference = (evidence.value - truth).mean().item()
    assert abs(difference) < error, f"off by {difference:.3g}, {SIGMAS} standard errors are {error:.3g}"


@posterior_tails
@pytest.mark.parametrize(
    ("dim", "method"),
    [
        pytest.param(dim, method, marks=pytest.mark.slow if (dim, method) not in PCA else ())
        for dim in (1, 3)
        for method in METHODS
    ],
)
def test_probabilistic_pca(dim, method):
    lg = LinearGaussian(100 if method != "quadrature" else 30, dim, 2 * dim + 2)
    pair, (options, num_particles) = posterior_pair(lg), METHODS[method]
    compile = "graph" if method == "ais" else False  # its many steps take longest
    evidence = estimate(pair, lg.x, method=options, num_particles=num_particles, compile=compile)
    assert evidence.value.shape == evidence.standard_error.shape == (len(lg.x),)
    assert_near(evidence, lg.log_evidence(lg.x), resolution=0.15)


LARGE = {
    "importance": (Importance(), 2000),
    "posterior-density": (PosteriorDensity(num_chains=50), 1000),
    "ais": (AIS(400, num_leapfrog=10), 16),
    "ais from the guide": (AIS(50, num_leapfrog=5, start="guide"), 16),
}


@posterior_tails
@pytest.mark.parametrize(("method", "dim"), in_turn([(method,) for method in LARGE], [10, 20]))
def test_probabilistic_pca_with_many_latents(dim, method):
    lg = LinearGaussian(50, dim, 2 * dim)
    pair, (options, num_particles) = posterior_pair(lg), LARGE[method]
    evidence = estimate(pair, lg.x, method=options, num_particles=num_particles, compile="graph")
    assert_near(evidence, lg.log_evidence(lg.x), resolution=0.6)


@posterior_tails
@pytest.mark.parametrize(
    ("name", "method"),
    [pytest.param(name, method, marks=marks(name, method)) for name in EXACT for method in METHODS],
)
def test_exact_cases(name, method):
    pair, x, truth = EXACT[name]()
    options, num_particles = METHODS[method]
    args = x if isinstance(x, tuple) else (x,)
    compile = "graph" if method == "ais" else False
    options = {"method": options, "num_particles": num_particles, "batch_size": 40, "compile": compile}
    evidence = estimate(pair, *args, **options)
    assert_near(evidence, truth, resolution=0.2)
    directions = {"posterior-density": "upper", "quadrature": "numerical"}
    assert evidence.direction == directions.get(method, "lower")


def test_a_posterior_as_guide_leaves_no_noise():
    lg = LinearGaussian(40, 3, 6)
    pair = posterior_pair(lg, width=1.0)
    one = estimate(pair, lg.x, method="importance", num_particles=1)
    torch.testing.assert_close(one.value, lg.log_evidence(lg.x), rtol=1e-10, atol=1e-10)
    assert one.standard_error.isnan().all()  # one draw can't tell
    many = estimate(pair, lg.x, method="importance", num_particles=50)
    torch.testing.assert_close(many.value, lg.log_evidence(lg.x), rtol=1e-10, atol=1e-10)
    assert many.standard_error.max() < 1e-6
    assert (many.effective_sample_size - 50).abs().max() < 1e-6


@pytest.mark.exhaustive
def test_intervals_of_annealing_from_the_prior_cover_the_truth():
    lg = LinearGaussian(400, 3, 6)
    method = AIS(1000, num_leapfrog=5)
    evidence = estimate(posterior_pair(lg), lg.x, method=method, num_particles=30, batch_size=400, compile="graph")
    covered = (evidence.value - lg.log_evidence(lg.x)).abs() < 1.96 * evidence.standard_error
    assert 0.92 <= covered.double().mean() <= 0.97, covered.double().mean()


@pytest.mark.slow
def test_the_reciprocal_estimator_is_on_the_upper_side_and_importance_on_the_lower():
    """Twelve samples in 3 dimensions, ten draws: both biases are many times their standard errors."""
    lg = LinearGaussian(1000, 3, 6)
    pair, truth = posterior_pair(lg, 1.5), lg.log_evidence(lg.x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method = PosteriorDensity(num_chains=12, num_warmup=40)
        upper = estimate(pair, lg.x, method=method, num_particles=12, batch_size=1000).value - truth
        lower = estimate(pair, lg.x, method="importance", num_particles=10).value - truth
    assert upper.mean() > SIGMAS * upper.std() / 1000**0.5
    assert lower.mean() < -SIGMAS * lower.std() / 1000**0.5


def test_importance_is_the_iwae_bound():
    """The mean of log 1/K sum w over many runs, against K = 1 (the ELBO) and against the truth."""
    lg = LinearGaussian(200, 2, 4)
    pair, truth = posterior_pair(lg, 1.6), lg.log_evidence(lg.x)
    means = [estimate(pair, lg.x, method="importance", num_particles=k, seed=1).mean().value for k in (1, 5, 50, 500)]
    assert means == sorted(means)
    assert means[-1] < truth.mean() + 0.01
    bound = elbo(pair.model, pair.guide, lg.x, num_particles=500, seed=1).mean().value
    assert abs(means[0] - bound) < 0.2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the effective sample size")  # of one of 60, with 16 chains
def test_bdmc_brackets_the_truth():
    """500 temperatures at 10 dimensions: a gap below 0.1 nats, with the truth inside."""
    lg = LinearGaussian(60, 10, 20)
    pair = posterior_pair(lg)
    evidence = estimate(pair, lg.x, method=BDMC(AIS(500, num_leapfrog=10)), num_particles=16, compile="graph")
    truth = lg.log_evidence(evidence.data["x"])
    gap = evidence.gap()
    assert -0.02 < gap.value.mean() < 0.1
    for side, sign in ((evidence, 1), (evidence.upper, -1)):
        slack = SIGMAS * (side.value - truth).std() / 60**0.5
        assert slack < 0.3
        assert sign * (side.value - truth).mean() < slack


@pytest.mark.slow
def test_bdmc_is_about_data_that_the_model_makes():
    lg = LinearGaussian(100, 2, 5)
    pair = posterior_pair(lg)
    evidence = estimate(pair, lg.x, method=BDMC(AIS(40, num_leapfrog=3)), num_particles=16, batch_size=70)
    assert (evidence.direction, evidence.upper.direction) == ("lower", "upper")
    assert evidence.data["x"].shape == lg.x.shape
    assert (evidence.data["x"] - lg.x).abs().min() > 0
    truth = lg.log_evidence(evidence.data["x"])
    lower, upper = evidence.value - truth, evidence.upper.value - truth
    slack = SIGMAS * math.hypot(lower.std(), upper.std()) / 100**0.5
    assert lower.mean() - 0.02 < upper.mean() + slack
    assert abs(lower.mean()) < 0.2
    assert abs(upper.mean()) < 0.2
    torch.testing.assert_close(evidence.gap().value, upper - lower)
    with pytest.raises(ValueError, match="use method='bdmc'"):
        estimate(pair, lg.x, method="importance", num_particles=5).gap()


@pytest.mark.slow
def test_bdmc_of_two_sites_and_a_mask():
    pair, x, _ = EXACT["two_latents_in_turn"]()
    evidence = estimate(pair, *x, method=BDMC(AIS(50, num_leapfrog=3)), num_particles=16)
    x0, x1 = evidence.data["x0"], evidence.data["x1"]
    both = dist.MultivariateNormal(torch.zeros(2).double(), torch.tensor([[3.0, -2.0], [-2.0, 3.0]]).double())
    truth = torch.where(x[1], both.log_prob(torch.stack([x0, x1], -1)), dist.Normal(0.0, 3**0.5).log_prob(x0))
    assert_near(evidence, truth, resolution=0.1)
    assert (evidence.upper.value - truth).mean().abs() < 0.1


def test_bdmc_of_a_data_plate_on_the_left():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1).double(), 1.0))
            with pyro.plate("repeats", 3, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(30, 3).double()
    method = BDMC(AIS(40, num_leapfrog=2))
    evidence = log_marginal_likelihood(model, None, x, method=method, num_particles=8, seed=0, progress=False)
    assert evidence.data["x"].shape == x.shape
    truth = dist.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double() + 1).log_prob(evidence.data["x"])
    assert_near(evidence, truth, resolution=0.2)
    assert (evidence.upper.value - truth).mean().abs() < 0.2


# -- nothing but the noise and the datapoint ---------------------------------------------------------------------------


class CommonNoise(TorchFunctionMode):
    """`randn_like`, `rand_like` and a Normal's draws of (..., M, J) taken from one table, by particle and datapoint."""

    def __init__(self, order, num_data):
        super().__init__()
        self.order, self.num_data, self.calls = order, num_data, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.randn_like, torch.rand_like):
            like = args[0]
            data_dim = min(1, like.dim() - 1)  # (K, M, J), (K, M) and (M,)
            shape = (*like.shape[:data_dim], self.num_data, *like.shape[data_dim + 1 :])
            generator = torch.Generator().manual_seed(self.calls)
            self.calls += 1
            draw = (torch.randn if func is torch.randn_like else torch.rand)(
                *shape, generator=generator, dtype=like.dtype
            )
            return draw.index_select(data_dim, self.order)
        return func(*args, **(kwargs or {}))


def with_table(lg):
    """The posterior of `lg`, its K-th draw for datapoint n from a table: a guide whose noise can be played again."""
    P, W, s = lg.precision(), lg.value("W"), lg.value("log_s").exp()
    A, m = torch.linalg.solve(P, W.T / s**2), lg.value("m")
    table = torch.randn(5000, len(lg.x), lg.latent_dim, dtype=torch.float64)
    factor = 1.2 * torch.linalg.cholesky(torch.linalg.inv(P))
    place = {}

    class Table(dist.MultivariateNormal):
        def rsample(self, sample_shape=()):
            num_particles = self.batch_shape[0] if len(self.batch_shape) > 1 else 1
            first = place.get(self.key, 0)
            place[self.key] = first + num_particles
            noise = table[first : first + num_particles][:, self.rows]
            noise = noise if len(self.batch_shape) > 1 else noise[0]
            return self.loc + (self.scale_tril @ noise[..., None])[..., 0]

        def expand(self, batch_shape, _instance=None):
            new = Table(self.loc.expand((*batch_shape, -1)), scale_tril=self.scale_tril.expand((*batch_shape, -1, -1)))
            new.rows, new.key = self.rows, self.key
            return new

    def guide(x, index):
        with pyro.plate("data", lg.num_data, subsample=torch.arange(len(x))):
            q = Table((x - m) @ A.T, scale_tril=factor.expand(len(x), -1, -1))
            q.rows, q.key = index.long(), tuple(index.tolist())
            pyro.sample("z", q)

    return (lambda x, index: lg.model(x)), guide, place


@pytest.fixture
def replayable():
    lg = LinearGaussian(12, 2, 4)
    lg.set(**lg.true)
    model, guide, place = with_table(lg)

    def run(x, index, method, num_particles, **options):
        place.clear()
        unread = mock.Mock(depth=1, model={}, unchecked=frozenset(), global_latents={}, latents={"z": None}, guide={})
        with (
            mock.patch("pyro_aevb.evidence.marginal_likelihood._check_pair", return_value=unread),
            mock.patch("pyro_aevb.model_guide.log_density.read", return_value=unread),
            mock.patch("pyro_aevb.model_guide.log_density.structure"),
            mock.patch("pyro_aevb.model_guide.log_density.check_noise"),
            mock.patch("pyro_aevb.model_guide.log_density.require_local_densities"),
            mock.patch("pyro_aevb.evidence.estimator.site_of_places", return_value=None),
        ):
            options = {"progress": False, "compile": False} | options
            return log_marginal_likelihood(
                model, guide, x, index.double(), method=method, num_particles=num_particles, **options
            )

    return lg, run


def test_importance_depends_on_no_neighbour_order_or_pass(replayable):
    lg, run = replayable
    everyone = torch.arange(12)
    whole = run(lg.x, everyone, Importance(), 400, batch_size=12)
    shuffled = torch.randperm(12)
    others = {
        "in batches": run(lg.x, everyone, Importance(), 400, batch_size=5),
        "in passes": run(lg.x, everyone, Importance(rows_per_pass=12 * 50), 400, batch_size=12),
        "uneven passes": run(lg.x, everyone, Importance(rows_per_pass=12 * 70), 400, batch_size=12),
        "alone": run(lg.x[:1], everyone[:1], Importance(), 400),
        "shuffled": run(lg.x[shuffled], shuffled, Importance(), 400, batch_size=7),
    }
    rows = {"alone": everyone[:1], "shuffled": shuffled}
    for name, evidence in others.items():
        for field in ("value", "standard_error", "effective_sample_size", "pareto_k"):
            expected = getattr(whole, field)[rows.get(name, everyone)]
            torch.testing.assert_close(getattr(evidence, field), expected, rtol=1e-5, atol=1e-5, msg=f"{name}: {field}")


@posterior_tails
@pytest.mark.parametrize(
    "method", ["ais", *(pytest.param(m, marks=pytest.mark.slow) for m in ("smc", "posterior-density"))]
)
def test_chains_depend_on_no_neighbour_or_order(replayable, method):
    """Step sizes are tuned for each datapoint by its own chains: neighbours far from the prior change nothing."""
    lg, run = replayable
    options, num_particles = {
        "ais": (AIS(30, num_leapfrog=3, start="guide"), 8),
        "smc": (SMC(10, num_leapfrog=3, start="guide", num_replicates=2), 8),
        "posterior-density": (PosteriorDensity(num_warmup=10), 20),
    }[method]
    x = torch.cat([lg.x[:6], 30 * lg.x[6:]])

    def rows(order):
        with CommonNoise(order, 12):
            return run(x[order], order, options, num_particles, batch_size=12, vectorize=True).value

    everyone, shuffled = torch.arange(12), torch.randperm(12)
    whole = rows(everyone)
    torch.testing.assert_close(rows(everyone[:1]), whole[:1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows(shuffled), whole[shuffled], rtol=1e-5, atol=1e-5)


def test_quadrature_depends_on_no_neighbour_and_no_guide():
    lg = LinearGaussian(12, 2, 4)
    pair = posterior_pair(lg)
    whole = estimate(pair, lg.x, method="quadrature").value
    pair.guide = None
    for rows in (torch.arange(1), torch.randperm(12)):
        torch.testing.assert_close(
            estimate(pair, lg.x[rows], method="quadrature").value, whole[rows], rtol=0, atol=1e-5
        )
    torch.testing.assert_close(estimate(pair, lg.x, method="quadrature", batch_size=5).value, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "method", ["importance", "ais", pytest.param("posterior-density", marks=pytest.mark.slow), "quadrature"]
)
def test_particles_one_by_one_and_graphs_give_the_same(method):
    lg = LinearGaussian(6, 1 if method == "quadrature" else 2, 4)  # a plane has many points to take one by one
    pair = posterior_pair(lg)
    method = {"ais": AIS(20, num_leapfrog=3), "posterior-density": PosteriorDensity(num_warmup=10, num_chains=4)}.get(
        method, method
    )
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for options in ({}, {"compile": "graph"}, {"vectorize": False}):
            results.append(estimate(pair, lg.x, method=method, num_particles=6, **options).value)
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=1e-6 if not isinstance(method, str) else 1.0)


def test_a_seed_is_kept_to_and_the_generator_left_alone():
    lg = LinearGaussian(12, 2, 4)
    pair, state = posterior_pair(lg, 1.3), torch.get_rng_state()
    first = estimate(pair, lg.x, method="importance", num_particles=50, seed=3)
    again = estimate(pair, lg.x, method="importance", num_particles=50, seed=3)
    other = estimate(pair, lg.x, method="importance", num_particles=50, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.value, again.value)
    assert not torch.equal(first.value, other.value)


def test_scales_do_not_count():
    lg = LinearGaussian(12, 2, 4)
    pair = posterior_pair(lg)
    for method in (Importance(), AIS(20, num_leapfrog=3), Quadrature()):
        plain = estimate(pair, lg.x[:5], method=method, num_particles=50)
        scaled = log_marginal_likelihood(
            pyro.poutine.scale(pair.model, scale=0.1), pyro.poutine.scale(pair.guide, scale=3.0), lg.x[:5],
            method=method, num_particles=50, seed=0, progress=False, compile=False,
        )  # fmt: skip
        torch.testing.assert_close(scaled.value, plain.value, rtol=0, atol=0)


@posterior_tails
@pytest.mark.parametrize("method", ["importance", "ais", "posterior-density", "quadrature"])
def test_plates_beside_the_data(method):
    """Three measurements of each datapoint in a plate left of the data: particles stand left of both."""
    x = torch.randn(3, 20).double()

    def model(ids):
        with pyro.plate("data", len(ids)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(ids)).double(), 1.0))
            with pyro.plate("repeats", 3):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, ids])

    def guide(ids):
        with pyro.plate("data", len(ids)):
            pyro.sample("z", dist.Normal(x[:, ids].sum(0) / 4, 0.55))

    truth = dist.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double() + 1).log_prob(x.T)
    options = {"ais": AIS(200, num_leapfrog=3)}.get(method, method)
    evidence = log_marginal_likelihood(
        model, guide, torch.arange(20), method=options, num_particles=64, seed=0, progress=False
    )
    assert_near(evidence, truth, resolution=0.3)


# -- weights -----------------------------------------------------------------------------------------------------------


def test_sums_of_weights_arrive_in_any_pieces():
    log_weight = 3 * torch.randn(1000, 5).double() - 2000
    whole = log_mean(log_weight)
    pieces = WeightSums(1000)
    for piece in log_weight.split(37):
        pieces.add(piece)
    for a, b in zip(pieces.result(), whole.result(), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(pieces.pareto_k(), whole.pareto_k())
    weight = (log_weight + 2000).exp()
    torch.testing.assert_close(whole.result().value, weight.mean(0).log() - 2000)
    error = weight.std(0) / 1000**0.5 / weight.mean(0)
    torch.testing.assert_close(whole.result().standard_error, error)
    torch.testing.assert_close(whole.result().effective_sample_size, weight.sum(0) ** 2 / (weight**2).sum(0))


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0, 4.0])
def test_pareto_k_is_that_of_psis(spread):
    log_weight = spread * np.random.default_rng(0).normal(size=2500)
    expected = float(array_stats.psislw(-log_weight)[1])  # takes log likelihoods, whose reciprocals are the weights
    largest = torch.tensor(log_weight)[:, None].topk(tail_length(2500) + 1, 0).values
    assert abs(pareto_k(largest, 2500).item() - expected) < 1e-6


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
def test_smoothed_weights_are_those_of_psis(spread):
    log_weight = spread * np.random.default_rng(0).normal(size=2500)
    expected = array_stats.psislw(-log_weight)[0]
    found = smoothed(torch.tensor(log_weight)[:, None])[:, 0]
    assert (found - torch.tensor(log_weight)).abs().max() > 1e-3
    np.testing.assert_allclose(found - found.logsumexp(0), expected, atol=1e-8)


def test_weights_without_a_tail_stay_as_they_are():
    for log_weight in (torch.zeros(100, 1), torch.randn(20, 1), torch.tensor([[0.0], *[[-9.0]] * 99])):
        assert torch.equal(smoothed(log_weight), log_weight)


@pytest.mark.parametrize(
    ("num_particles", "largest", "rest", "finite"),
    [
        (1200, 1.0, 1.0, False),
        (1200, 1.0 + 2**-50, 1.0 + 2**-50, False),  # equal but for rounding
        (1200, 2.0, 2.0, True),  # excesses all equal: b = 0 is on the grid of Zhang and Stephens
        (560, 4.0, 2.0, True),  # their quartile a third of the largest: likewise
    ],
)
def test_weights_in_steps_have_a_tail_too(num_particles, largest, rest, finite):
    """As discrete latents make them, or a guide that is the posterior: the largest, the others of the tail, and 1."""
    weight = torch.tensor([largest] + [rest] * (tail_length(num_particles) - 1) + [1.0]).double()
    shape = pareto_k(weight.log()[:, None], num_particles)
    assert (shape.isfinite() if finite else shape == -torch.inf).all()
    assert not (shape > 0.7).any()


@pytest.mark.parametrize(
    "log_weight",
    [
        3e6 * torch.linspace(-1, 1, 1000).double(),  # next to the largest, the others are zero in floating point
        torch.tensor([20.0] + [0.0] * 999).double(),  # one weight that counts, of a thousand
    ],
    ids=["underflow", "one"],
)
def test_a_few_weights_that_outweigh_the_rest_are_a_heavy_tail(log_weight):
    assert (log_mean(log_weight[:, None]).pareto_k() == torch.inf).all()


def test_a_tail_without_a_shape_is_warned_about_in_a_short_line():
    """A guide a thousand of its widths off."""
    pair = posterior_pair(LinearGaussian(2, 2, 4))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_full((len(x), 2), 1e5), 100.0).to_event(1))

    pair.guide = guide
    with pytest.warns(UserWarning, match=r"pareto_k is above 0.7 for 2 of 2 datapoints, up to inf: their values"):
        estimate(pair, torch.zeros(2, 4).double(), method="importance", num_particles=500)


def test_a_few_weights_somewhat_above_the_rest_are_no_tail():
    log_weight = torch.tensor([2.0] * 3 + [1.0] * 997).double().log()
    assert (log_mean(log_weight[:, None]).pareto_k() == -torch.inf).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_guide_that_is_the_posterior_has_no_tail(dtype, seed):
    x = torch.randn(100, generator=torch.Generator().manual_seed(seed)).to(dtype) * 2**0.5

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    evidence = log_marginal_likelihood(model, guide, x, seed=seed, progress=False, compile=False)
    assert (evidence.pareto_k == -torch.inf).all()
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    torch.testing.assert_close(evidence.value, exact.double(), rtol=1e-6, atol=1e-6)


def test_a_heavy_tail_is_reported_for_its_datapoint_and_warned_about():
    """The guide of two datapoints is far too narrow, of the rest too wide."""
    lg = LinearGaussian(10, 2, 4)
    pair = posterior_pair(lg)
    P, W, s = lg.precision(), lg.value("W"), lg.value("log_s").exp()
    A, m, factor = torch.linalg.solve(P, W.T / s**2), lg.value("m"), torch.linalg.cholesky(torch.linalg.inv(P))

    def guide(x):
        width = torch.tensor([0.2, 0.2] + [1.1] * 8).double()
        with pyro.plate("data", lg.num_data, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.MultivariateNormal((x - m) @ A.T, scale_tril=width[:, None, None] * factor))

    pair.guide = guide
    with pytest.warns(UserWarning, match=r"pareto_k is above 0.7 for 2 of 10 datapoints, up to \d"):
        evidence = estimate(pair, lg.x, method="importance", num_particles=20_000)
    assert (evidence.pareto_k > 0.7).tolist() == [True, True] + [False] * 8


def test_few_weights_have_no_tail():
    lg = LinearGaussian(10, 2, 4)
    assert estimate(posterior_pair(lg), lg.x, method="importance", num_particles=10).pareto_k.isnan().all()
    assert estimate(posterior_pair(lg), lg.x, method=AIS(5), num_particles=2).pareto_k is None


def test_a_fit_wider_than_is_safe_is_warned_about():
    lg = LinearGaussian(20, 2, 4)
    pair = posterior_pair(lg)

    def wide(samples):
        centred = samples - samples.mean(0)
        covariance = torch.einsum("lmi,lmj->mij", centred, centred) / len(samples)
        return dist.MultivariateNormal(samples.mean(0), 6 * covariance)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimate(pair, lg.x, method=PosteriorDensity(wide, num_chains=20, num_warmup=20), num_particles=200)
    assert any("too wide for" in str(w.message) for w in caught)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimate(pair, lg.x, method=PosteriorDensity(num_chains=20, num_warmup=20), num_particles=200)
    assert not any("too wide for" in str(w.message) for w in caught)


# -- what is refused ---------------------------------------------------------------------------------------------------


def discrete(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5).double()))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def in_two_plates(x):
    with pyro.plate("data", len(x)), pyro.plate("repeats", 3):
        z = pyro.sample("z", dist.Normal(torch.zeros(3, len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("method", ["ais", "posterior-density", "quadrature", "bdmc"])
def test_latents_that_hmc_cannot_move(method):
    x = torch.zeros(4).double()
    with pytest.raises(ValueError, match=r"discrete site 'z'.*method='importance' to evaluate"):
        log_marginal_likelihood(discrete, None, x, method=method)
    with pytest.raises(ValueError, match="data plate alone, got site 'z'"):
        log_marginal_likelihood(in_two_plates, None, torch.zeros(4), method=method)


def test_discrete_latents_by_importance():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=x - 0.5))

    x = torch.tensor([0.3, -1.0]).double()
    truth = torch.logsumexp(dist.Normal(torch.tensor([[0.0], [1.0]]).double(), 1.0).log_prob(x), 0) - math.log(2)
    evidence = log_marginal_likelihood(discrete, guide, x, num_particles=50, progress=False)
    torch.testing.assert_close(evidence.value, truth)  # the posterior: no noise


def test_bad_options_and_sizes():
    lg = LinearGaussian(10, 4, 8)
    pair = posterior_pair(lg)
    for method in ("importance", "ais", "posterior-density", "bdmc"):
        with pytest.raises(ValueError, match="num_particles of 1 or more, got 0"):
            estimate(pair, lg.x, method=method, num_particles=0)
    with pytest.raises(ValueError, match="up to 3 latent dimensions for quadrature, got 4; use method='importance'"):
        estimate(pair, lg.x, method="quadrature")
    with pytest.raises(ValueError, match="batch_size of 1 or more"):
        estimate(pair, lg.x, method="ais", batch_size=0)
    with pytest.raises(ValueError, match="a method out of"):
        estimate(pair, lg.x, method="iwae")
    with pytest.raises(TypeError, match=r"an integer for seed, got 1.5; pass int\("):
        log_marginal_likelihood(pair.model, pair.guide, lg.x, seed=1.5, progress=False)
    with pytest.raises(TypeError, match="an object such as AIS"):
        estimate(pair, lg.x, method=AIS)
    with pytest.raises(ValueError, match="at least one datapoint"):
        estimate(pair, lg.x[:0], method="importance")
    with pytest.raises(ValueError, match="at least one datapoint"):
        estimate(pair, method="importance")
    with pytest.raises(ValueError, match="more samples than latent dimensions"):
        estimate(pair, lg.x, method=PosteriorDensity(num_chains=4), num_particles=4)
    with pytest.raises(ValueError, match="even num_chains"):
        PosteriorDensity(num_chains=5)
    with pytest.raises(ValueError, match="num_leapfrog of 1 or more and num_warmup"):
        PosteriorDensity(num_warmup=1)
    with pytest.raises(ValueError, match="rises from 0 to 1"):
        AIS(schedule=torch.tensor([0.0, 0.7, 0.3, 1.0]))
    with pytest.raises(ValueError, match="num_temperatures and num_leapfrog"):
        AIS(0)
    with pytest.raises(ValueError, match="start to be 'prior' or 'guide'"):
        AIS(start="posterior")
    with pytest.raises(ValueError, match="target_acceptance"):
        AIS(target_acceptance=1.0)
    with pytest.raises(ValueError, match="AIS from the prior"):
        BDMC(AIS(start="guide"))
    pair.guide = None
    with pytest.raises(ValueError, match="a guide to draw from, got None; use method='ais'"):
        estimate(pair, lg.x, method="importance")
    with pytest.raises(ValueError, match="a guide to start from, got None"):
        estimate(pair, lg.x, method=AIS(start="guide"))


@pytest.mark.filterwarnings("ignore:pareto_k")
@pytest.mark.parametrize("method", ["importance", "ais", "posterior-density"])
def test_guides_that_lack_a_site_or_have_one_too_many(method):
    pair, x, exact = EXACT["two_latents_in_turn"]()

    def lacking(x, seen):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    def auxiliary(x, seen):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.4 * x[:, 0], 0.3), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(a - 0.3 * x[:, 1] * seen, 1.2))
            pyro.sample("top", dist.Normal(0.5 * a, 1.3))

    with pytest.raises(ValueError, match=r"got none for \['top'\]; add pyro.sample\('top'"):
        log_marginal_likelihood(pair.model, lacking, *x, method=method)
    if method == "importance":  # which integrates it out, since q(z|a) is a proposal like any other
        evidence = log_marginal_likelihood(pair.model, auxiliary, *x, num_particles=20_000, seed=0, progress=False)
        good = evidence.pareto_k < 0.7
        assert good.sum() > 20
        assert ((evidence.value - exact).abs() < SIGMAS * evidence.standard_error)[good].all()
        return
    if method in ("ais", "smc"):  # which start from the prior, and ask no guide
        short = AIS(5, num_leapfrog=1) if method == "ais" else SMC(2, num_leapfrog=1, num_replicates=2)
        options = {"method": short, "num_particles": 2, "seed": 0, "progress": False}
        found = [log_marginal_likelihood(pair.model, guide, *x, **options).value for guide in (auxiliary, None)]
        assert torch.equal(*found)
        return
    with pytest.raises(ValueError, match=r"auxiliary sites \['a'\]"):
        log_marginal_likelihood(pair.model, auxiliary, *x, method=method)


def test_weights_that_are_all_zero():
    """A guide on the half line where the posterior has nothing."""
    x = torch.tensor([0.0, 1.0, 9.0])
    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match=r"got all -inf for 1 datapoints .* first at 2"),
    ):
        log_marginal_likelihood(*outside_the_support(0.1), x, num_particles=50, progress=False)


def test_ctrl_c_returns_nothing(monkeypatch):
    # An interrupt inside a plate's __enter__ leaves its name taken in Pyro, for whatever the process runs next.
    monkeypatch.setattr(pyro.poutine.indep_messenger, "_DIM_ALLOCATOR", type(_DIM_ALLOCATOR)())
    lg = LinearGaussian(100, 3, 6)
    pair = posterior_pair(lg)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
    timer = threading.Timer(1.0, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            estimate(pair, lg.x, method=AIS(100_000), batch_size=10)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "method",
    [
        Importance(rows_per_pass=70),
        Auto(),
        Auto(annealing=AIS(7, num_leapfrog=1), quadrature=None),
        PosteriorDensity(num_warmup=4),
        AIS(7),
        BDMC(AIS(7)),
        SMC(7, num_leapfrog=1, num_replicates=2),
        Quadrature(),
    ],
    ids=[
        "importance",
        "auto",
        "auto without quadrature",
        "posterior-density",
        "ais",
        "bdmc",
        "smc",
        "quadrature",
    ],
)
def test_progress_comes_to_its_end(method):
    lg = LinearGaussian(50, 2, 4)
    with mock.patch("pyro_aevb.evidence.marginal_likelihood.progress_bar") as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimate(posterior_pair(lg), lg.x, method=method, num_particles=20, batch_size=20, progress=True)
    updates = bar.return_value.__enter__.return_value.update.call_args_list
    assert len(updates) >= 6
    assert sum(call.args[0] for call in updates) == pytest.approx(50)


def mixture(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.8])), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(2.0 * y, 1.0), obs=x)


def with_values_of_y(x):
    with pyro.plate("data", len(x)):
        logits = torch.stack([-x, x], -1)
        pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


NO_LATENTS = ["auto", "quadrature", "ais", "smc", "posterior-density"]


@pytest.mark.parametrize("guide", [None, lambda x: None, with_values_of_y], ids=["no guide", "empty", "enumerated"])
@pytest.mark.parametrize("method", NO_LATENTS)
def test_where_all_latents_are_summed_out_log_p_is_exact(method, guide):
    x = torch.tensor([0.0, 3.0, -1.0])
    exact = torch.logaddexp(
        math.log(0.2) + dist.Normal(0.0, 1.0).log_prob(x), math.log(0.8) + dist.Normal(2.0, 1.0).log_prob(x)
    )
    found = log_marginal_likelihood(mixture, guide, x, method=method, batch_size=2, progress=False)
    torch.testing.assert_close(found.value, exact.double(), atol=1e-5, rtol=0)
    assert (found.standard_error == 0).all()
    assert found.direction == "numerical"
    if guide is not None and method == "auto":
        score = anomaly_score(mixture, guide, x, progress=False).score
        torch.testing.assert_close(score.double(), -exact.double(), atol=1e-5, rtol=0)


def test_where_only_global_latents_are_left_their_draws_are_the_error():

    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(w + 2.0 * y, 1.0), obs=x)

    x = torch.tensor([0.0, 3.0])
    found = log_marginal_likelihood(
        model,
        lambda x: pyro.sample("w", dist.Normal(0.5, 0.1)),
        x,
        method="ais",
        num_global_draws=400,
        seed=0,
        progress=False,
    )
    scale = 1.01**0.5
    exact = torch.logaddexp(dist.Normal(0.5, scale).log_prob(x), dist.Normal(2.5, scale).log_prob(x)) - math.log(2)
    assert ((found.value - exact).abs() < SIGMAS * found.standard_error).all()
    assert found.direction == "lower"
