"""The two parts of log p(x) - ELBO against pairs whose posterior, and so whose best q, can be written down."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_pairs import EXACT, beta_bernoulli, gamma_poisson, normal
from linear_gaussian import LinearGaussian
from pyro.distributions import transforms
from pyro.distributions.testing import fakes
from statistics_tools import SIGMAS
from torch.distributions import kl_divergence

from pyro_aevb import elbo, evidence_gap
from pyro_aevb.evidence import Evidence

N = 12
SLACK = 0.01  # nats that so few steps of Adam leave, on average


def split(model, guide, *args, log_p, **options):
    evidence = Evidence(log_p, torch.zeros_like(log_p), "numerical")
    options = {"num_particles": 1000, "num_steps": 100, "learning_rate": 0.1, "seed": 0, "progress": False} | options
    return evidence_gap(model, guide, *args, evidence=evidence, **options)


def assert_parts(gap, approximation, amortization, slack=SLACK):
    torch.testing.assert_close(gap.total.value, gap.approximation.value + gap.amortization.value)
    for found, truth in ((gap.approximation, approximation), (gap.amortization, amortization)):
        error = SIGMAS * (found.standard_error.square().mean() / len(truth)).sqrt().item()
        assert error < 0.05 + 0.05 * truth.mean(), f"too vague: {SIGMAS} standard errors of the mean are {error:.3g}"
        assert (found.value - truth).mean().abs() < error + slack


def in_plate(distribution):
    """Return a guide that draws z from ``distribution(x)``."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", distribution(x))

    return guide


# -- families that contain the posterior ------------------------------------------------------------------------------


def beta():
    pair, x, log_p = beta_bernoulli(N)
    ones = x.sum(-1)
    return pair.model, x, log_p, dist.Beta(2 + ones, 8 - ones), lambda x: dist.Beta(1 + x.sum(-1), 4.0)


def gamma():
    pair, x, log_p = gamma_poisson(N)
    return pair.model, x, log_p, dist.Gamma(2 + x, 2.0), lambda x: dist.Gamma(1 + x, torch.full_like(x, 2.0))


def dirichlet():
    x = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 4.0]]).double()
    prior = torch.tensor([1.0, 2.0, 1.5]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Dirichlet(prior.expand(len(x), 3)))
            pyro.sample("x", dist.Multinomial(4, z), obs=x)

    log_p = dist.DirichletMultinomial(prior.expand(3, 3), 4).log_prob(x)
    return model, x, log_p, dist.Dirichlet(prior + x), lambda x: dist.Dirichlet(prior + 0.6 * x)


def positive_pair():
    """log z ~ N(0, 1), log x ~ N(log z, 1)."""
    x = normal(N).mul(1.4).exp()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.LogNormal(z.log(), 1.0), obs=x)

    log_p = dist.LogNormal(torch.zeros_like(x), math.sqrt(2)).log_prob(x)
    return model, x, log_p, dist.LogNormal(x.log() / 2, math.sqrt(0.5))


def log_normal():
    return *positive_pair(), lambda x: dist.LogNormal(0.2 * x.log(), 1.0)


def flow():
    """The base is free, the map the datapoint's own."""
    base = lambda x: dist.Normal(0.1 * x.log(), 0.4)  # noqa: E731
    to_z = lambda x: [transforms.AffineTransform(0.1 * x.log(), 2.0), transforms.ExpTransform()]  # noqa: E731
    *pair, posterior = positive_pair()
    start = dist.LogNormal(0.3 * pair[1].log(), 0.8)
    return *pair, posterior, lambda x: dist.TransformedDistribution(base(x), to_z(x)), start


CONTAINED = {f.__name__: f for f in (beta, gamma, dirichlet, log_normal, flow)}


@pytest.mark.parametrize("family", CONTAINED)
def test_a_family_that_contains_the_posterior_leaves_amortization_alone(family):
    """KL(q || posterior), which is known."""
    model, x, log_p, posterior, guide, *start = CONTAINED[family]()
    q = start[0] if start else guide(x)
    truth = kl_divergence(q, posterior)
    gap = split(model, in_plate(guide), x, log_p=log_p)
    assert_parts(gap, torch.zeros_like(truth), truth)
    assert truth.mean() > 0.05


def test_the_gap_of_a_diagonal_guide_has_both_its_parts():
    """Probabilistic PCA: the best diagonal Gaussian is known, and so is the guide's own bound."""
    lg = LinearGaussian(N, 2, 4)
    lg.set(W=torch.tensor([[1.0, 0.8], [0.5, 1.0], [1.0, 0.7], [0.2, 0.5]]).double())
    gap = split(lg.model, lg.guide, lg.x, log_p=lg.log_evidence(lg.x), num_steps=150, num_particles=4000)
    best = lg.best_diagonal_elbo(lg.x)
    assert_parts(gap, lg.log_evidence(lg.x) - best, best - lg.elbo(lg.x))
    assert gap.approximation.value.mean() > 0.05
    assert gap.amortization.value.mean() > 0.9


def test_the_learning_rate_by_default_brings_home_a_guide_that_is_far_off():
    x = normal(N)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    evidence = Evidence(dist.Normal(0.0, math.sqrt(2)).log_prob(x), torch.zeros(N), "numerical")
    guide = in_plate(lambda x: dist.Normal(x / 2 + 2, 0.5))
    gap = evidence_gap(model, guide, x, evidence=evidence, num_steps=150, seed=0, progress=False)
    assert gap.total.value.mean() > 3
    assert gap.approximation.value.mean() < 0.05


def test_a_full_covariance_contains_the_posterior():
    pair, x, log_p = EXACT["two_correlated_latents"](N)
    gap = split(pair.model, pair.guide, x, log_p=log_p)
    assert_parts(gap, torch.zeros(N), 2 * (1.2**2 / 2 - 0.5 - math.log(1.2)) * torch.ones(N))


# -- sites and plates -------------------------------------------------------------------------------------------------


def test_a_site_goes_on_depending_on_another_as_the_guide_says():
    """q(z|top) has half of top in its mean.  Where one column is seen so has the posterior; where two are, a third.

    There, with s^2 = 1/3 the variance of p(z|top, x) and t^2 that of q(top), the best q(z|top) has a KL of t^2/72s^2.
    Together with KL(q(top) || p(top|x)), v = 0.6 the variance of p(top|x), the least is log(1 + v / 12) / 2.
    """
    pair, x, log_p = EXACT["two_latents_in_turn"](2 * N)
    x, seen = x
    gap = split(pair.model, pair.guide, x, seen, log_p=log_p, num_particles=2000)
    precision = torch.tensor([[2.0, -1.0], [-1.0, 2.0]]).double() + seen[:, None, None] * torch.diag_embed(
        torch.tensor([0.0, 1.0]).double()
    )
    evidence_of_z = torch.stack([torch.zeros(2 * N).double(), x[:, 0] - x[:, 1] * seen], -1)
    loc = torch.linalg.solve(precision, evidence_of_z)
    top, to_z = 0.3 * x[:, 0], torch.tensor([[1.0, 0.0], [0.5, 0.8]]).double()
    q = dist.MultivariateNormal(torch.stack([top, 0.5 * top + top], -1), scale_tril=to_z)
    total = kl_divergence(q, dist.MultivariateNormal(loc, precision_matrix=precision))
    approximation = torch.where(seen, 0.5 * math.log(1 + 0.6 / 12), 0.0)
    assert_parts(gap, approximation, total - approximation)


@pytest.mark.parametrize("dim", [-1, -2], ids=["right", "left"])
def test_offsets_are_a_datapoint_s_own_whichever_side_its_plate_is_on(dim):
    """Two latents a datapoint in an inner plate; the guide's parameters are the same for all of them."""
    inner = -3 - dim
    x = normal(N, 2)
    at = lambda x: x.T if dim == -1 else x  # noqa: E731

    def model(x):
        with pyro.plate("data", len(x), dim=dim), pyro.plate("inner", 2, dim=inner):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=at(x))

    def guide(x):
        with pyro.plate("data", len(x), dim=dim), pyro.plate("inner", 2, dim=inner):
            pyro.sample("z", dist.Normal(torch.tensor(0.0).double(), 0.9))

    gap = split(model, guide, x, log_p=dist.Normal(0.0, math.sqrt(2)).log_prob(x).sum(-1))
    q = dist.Normal(torch.tensor(0.0).double(), 0.9)
    assert_parts(gap, torch.zeros(N), kl_divergence(q, dist.Normal(x / 2, math.sqrt(0.5))).sum(-1))


def test_a_latent_that_is_masked_off_has_nothing_to_gain():
    x = normal(N)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            with pyro.poutine.mask(mask=False):
                pyro.sample("off", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))
            pyro.sample("off", dist.Normal(x, 3.0))

    gap = split(model, guide, x, log_p=dist.Normal(0.0, math.sqrt(2)).log_prob(x), num_steps=3, learning_rate=0.01)
    assert_parts(gap, torch.zeros(N), torch.zeros(N))


def test_a_latent_computed_from_an_auxiliary_site_follows_its_offsets():
    x = normal(N)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x / 4, 0.6), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(2 * u, log_density=-math.log(2)))

    gap = split(model, guide, x, log_p=dist.Normal(0.0, math.sqrt(2)).log_prob(x))
    q = dist.Normal(x / 2, 1.2)
    assert_parts(gap, torch.zeros(N), kl_divergence(q, dist.Normal(x / 2, math.sqrt(0.5))))


def test_the_guide_stays_as_it_was():
    lg = LinearGaussian(N, 2, 4)
    lg.guide(lg.x)
    before = {name: value.clone() for name, value in pyro.get_param_store().items()}
    split(lg.model, lg.guide, lg.x, log_p=lg.log_evidence(lg.x), num_steps=2)
    for name, value in before.items():
        assert torch.equal(pyro.param(name), value)
        assert pyro.get_param_store()._params[name].grad is None


# -- families ---------------------------------------------------------------------------------------------------------


def flat_pair(q):
    """A model whose z has the shape and support of q's, and a guide that is q: nothing in it can be wrong but q."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q())
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)

    return model, in_plate(lambda x: q())


def one(value):
    return torch.full((3,), value).double()


FREE = {
    "StudentT": lambda: dist.StudentT(one(5.0), one(0.0), one(1.0)),
    "Laplace": lambda: dist.Laplace(one(0.0), one(1.0)),
    "HalfNormal": lambda: dist.HalfNormal(one(2.0)),
    "InverseGamma": lambda: dist.InverseGamma(one(3.0), one(2.0)),
    "Weibull": lambda: dist.Weibull(one(3.0), one(2.0)),
    "Kumaraswamy": lambda: dist.Kumaraswamy(one(3.0), one(2.0)),
    "Logistic": lambda: dist.Logistic(one(3.0), one(2.0)),
    "LowRankMultivariateNormal": lambda: dist.LowRankMultivariateNormal(
        torch.zeros(3, 2).double(), torch.ones(3, 2, 1).double(), torch.ones(3, 2).double()
    ),
    "RelaxedBernoulli": lambda: dist.RelaxedBernoulli(torch.tensor(0.7).double(), probs=one(0.3)),
    "RelaxedOneHotCategorical": lambda: dist.RelaxedOneHotCategorical(
        torch.tensor(0.7).double(), torch.ones(3, 4).double()
    ),
    "MixtureOfDiagNormals": lambda: dist.MixtureOfDiagNormals(
        torch.tensor([-1.0, 1.0]).double()[:, None].expand(3, 2, 2),
        torch.ones(3, 2, 2).double(),
        torch.zeros(3, 2).double(),
    ),
    "a Normal with .to_event and .mask": lambda: (
        dist.Normal(torch.zeros(3, 2).double(), 1.0).to_event(1).mask(torch.tensor([True, False, True]))
    ),
}


@pytest.mark.parametrize("family", FREE)
def test_a_family_with_parameters_of_its_own_is_free(family):
    """At the posterior there is no gap, and two steps leave next to none."""
    x = torch.zeros(3).double()
    model, guide = flat_pair(FREE[family])
    log_p = dist.Normal(0.0, 1.0).log_prob(x)
    gap = split(model, guide, x, log_p=log_p, num_steps=2, num_particles=200, learning_rate=0.01)
    assert gap.elbo.value.sub(log_p).abs().max() < 1e-6
    assert gap.approximation.value.abs().max() < SLACK
    assert (gap.best_elbo.value != log_p).any()  # the parameters did move


REFUSED = {
    "NonreparameterizedNormal": (
        lambda: fakes.NonreparameterizedNormal(one(0.0), one(1.0)),
        "whose draws have no gradient",
    ),
    "Bernoulli": (lambda: dist.Bernoulli(one(0.5)), "whose draws have no gradient"),
    "OneHotCategoricalStraightThrough": (
        lambda: dist.OneHotCategoricalStraightThrough(torch.ones(3, 2).double()),
        "which is more than its parameters say",
    ),
    "Uniform": (lambda: dist.Uniform(one(0.0), one(1.0)), "which is more than its parameters say"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_a_site_whose_parameters_cannot_be_set_free_is_refused(family):
    x = torch.zeros(3).double()
    q, why = REFUSED[family]
    model, guide = flat_pair(q)
    log_p = dist.Normal(0.0, 1.0).log_prob(x)
    with pytest.raises(
        ValueError, match=f"got {family} at site 'z', {why}; the gap as a whole is evidence.value - elbo"
    ):
        split(model, guide, x, log_p=log_p)
    assert (log_p - elbo(model, guide, x).value).abs().max() < 1e-6  # the remedy


class Twice(dist.Normal):
    """A class whose parameters don't say all of it."""

    def log_prob(self, value):
        return super().log_prob(value) + getattr(self, "more", 0.0)

    def expand(self, batch_shape, _instance=None):
        result = super().expand(batch_shape, _instance)
        result.more = 1.0
        return result


def test_a_distribution_that_its_parameters_do_not_make_again_is_refused():
    model, guide = flat_pair(lambda: Twice(torch.tensor(0.0).double(), 1.0))
    with pytest.raises(ValueError, match="got Twice at site 'z', which is more than its parameters say"):
        split(model, guide, torch.zeros(3).double(), log_p=torch.zeros(3))


def test_point_masses_are_refused():
    model, _ = flat_pair(lambda: dist.Normal(one(0.0), 1.0))
    with pytest.raises(ValueError, match="got point masses, Delta, which have none"):
        split(model, in_plate(lambda x: dist.Delta(x)), torch.zeros(3).double(), log_p=torch.zeros(3))


def test_evidence_of_other_data_is_refused():
    pair, x, log_p = gamma_poisson(N)
    with pytest.raises(ValueError, match=f"evidence of the same 5 datapoints, got {N}"):
        split(pair.model, pair.guide, x[:5], log_p=log_p)
