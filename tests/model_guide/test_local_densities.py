"""Guides without a density of each datapoint's latents: refused where log q(z|x) is a term, in one sentence.

Shapes: N datapoints.
"""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide

from pyro_aevb import (
    AEVB,
    AIS,
    BDMC,
    SMC,
    capture_log_density,
    elbo,
    evidence_gap,
    fit,
    log_density,
    log_marginal_likelihood,
    report,
)
from pyro_aevb.evidence import Evidence
from pyro_aevb.posterior import anomaly_score, denoise, encode, impute, posterior

X = torch.tensor([0.5, -2.0, 1.0, 3.0], dtype=torch.float64)
ADAM = functools.partial(torch.optim.Adam, lr=0.02)
QUIET = {"seed": 0, "progress": False}


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def with_a_global(x):
    w = pyro.sample("w", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(w, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def positive(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(torch.full_like(x, 2.0), 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


LOG_P = dist.Normal(0.0, math.sqrt(1.25)).log_prob(X)


def auto(kind, of=model, **options):
    return lambda: (of, kind(of, **options))


def latent(distribution, of=model):
    """Return a pair whose guide draws z in the plate from this function's distribution."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", distribution(x))

    return lambda: (of, guide)


def joint_by_hand():
    def guide(x):
        u = pyro.sample("u", dist.Normal(0.8 * x, 0.4).to_event(1), infer={"is_auxiliary": True})
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(u))

    return model, guide


def point_beside_a_normal():
    def pair(x, q):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            v = pyro.sample("v", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z + v, 0.5), obs=x)

    of = functools.partial(pair, q=None)
    guide = autoguide.AutoGuideList(of)
    guide.append(autoguide.AutoNormal(pyro.poutine.block(of, expose=["v"])))
    guide.append(autoguide.AutoDelta(pyro.poutine.block(of, expose=["z"])))
    return of, guide


def computed_from_another_latent():
    def two(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", dist.Normal(torch.zeros_like(x), 1.0))
            z = pyro.sample("z", dist.Normal(v, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", dist.Normal(x, 0.5))
            pyro.sample("z", dist.Delta(0.9 * v))

    return two, guide


def point_of_a_point():
    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Delta(x), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u))

    return model, guide


JOINT = {
    "AutoDiagonalNormal": auto(autoguide.AutoDiagonalNormal),
    "AutoMultivariateNormal": auto(autoguide.AutoMultivariateNormal),
    "AutoLowRankMultivariateNormal": auto(autoguide.AutoLowRankMultivariateNormal, rank=1),
    "AutoIAFNormal": auto(autoguide.AutoIAFNormal, hidden_dim=[8]),
    "AutoLaplaceApproximation": auto(autoguide.AutoLaplaceApproximation),
    "AutoStructured": auto(autoguide.AutoStructured, conditionals="normal", dependencies="linear"),
    "AutoDiagonalNormal with a Jacobian": auto(autoguide.AutoDiagonalNormal, positive),
    "AutoDiagonalNormal with a global latent": auto(autoguide.AutoDiagonalNormal, with_a_global),
    "by hand": joint_by_hand,
}
POINTS = {
    "Delta": latent(lambda x: dist.Delta(0.8 * x)),
    "Delta expanded and masked": latent(lambda x: dist.Delta(0.8 * x[:1]).expand([len(x)]).mask(True)),
    "mapped Delta": latent(
        lambda x: dist.TransformedDistribution(dist.Delta(0.8 * x), dist.transforms.AffineTransform(0.0, 1.0))
    ),
    "AutoDelta": auto(autoguide.AutoDelta),
    "AutoDelta, positive": auto(autoguide.AutoDelta, positive),
    "a Delta beside AutoNormal": point_beside_a_normal,
    "a Delta of another latent": computed_from_another_latent,
    "a Delta of a Delta": point_of_a_point,
    "Bernoulli": latent(lambda x: dist.Bernoulli(torch.full_like(x, 0.5))),
}


def evidence_of(x):
    return Evidence(torch.zeros(len(x)), torch.zeros(len(x)), "lower")


def by(method, **options):
    return lambda m, g: log_marginal_likelihood(m, g, X, method=method, **QUIET, **options)


OBSERVED = torch.ones_like(X).bool()
DENSITIES = {  # where log q(z|x) is a term
    "elbo": lambda m, g: elbo(m, g, X, num_particles=2),
    "importance": by("importance", num_particles=4),
    "auto": by("auto", num_particles=4),
    "ais from the guide": by(AIS(5, num_leapfrog=1, start="guide")),
    "smc from the guide": by(SMC(5, num_leapfrog=1, start="guide")),
    "bdmc from the guide": by(BDMC(AIS(5, num_leapfrog=1, start="guide"), chain=2)),
    "posterior": lambda m, g: posterior(m, g, X, **QUIET),
    "posterior, guide": lambda m, g: posterior(m, g, X, method="guide", **QUIET),
    "posterior, importance": lambda m, g: posterior(m, g, X, method="importance", **QUIET),
    "encode by weights": lambda m, g: encode(m, g, X, site="z", method="importance", **QUIET),
    "evidence_gap": lambda m, g: evidence_gap(m, g, X, evidence=evidence_of(X), num_steps=1, progress=False),
    "report": lambda m, g: report(m, g, X, method="quadrature", **QUIET),
    "impute": lambda m, g: impute(m, g, X, observed=OBSERVED, **QUIET),
    "denoise": lambda m, g: denoise(m, g, X, noise=lambda x: dist.Normal(x, 1.0), **QUIET),
    "anomaly_score": lambda m, g: anomaly_score(m, g, X, **QUIET),
}
OF_EACH_DATAPOINT = DENSITIES | {  # where it is a number of each datapoint
    "log_density": lambda m, g: log_density(m, g, X),
    "capture_log_density": lambda m, g: capture_log_density(m, g)(X),
    "validation": lambda m, g: fit(AEVB(m, g, ADAM), X, X, epochs=1, batch_size=len(X), progress=False),
}


@pytest.mark.parametrize("entry", OF_EACH_DATAPOINT)
def test_one_density_of_all_datapoints_is_refused_everywhere(entry):
    with pytest.raises(ValueError, match=r"^expected a guide with a density of 'z' for each datapoint, got one of all"):
        OF_EACH_DATAPOINT[entry](*JOINT["AutoDiagonalNormal"]())


@pytest.mark.parametrize("kind", JOINT)
def test_every_guide_of_that_kind_is(kind):
    of, guide = JOINT[kind]()
    guide(X)
    for entry in ("elbo", "importance", "log_density"):
        with pytest.raises(ValueError, match=r"density of 'z' for each datapoint, got one of all datapoints together"):
            OF_EACH_DATAPOINT[entry](of, guide)


@pytest.mark.parametrize("entry", DENSITIES)
def test_point_masses_are_refused_where_their_density_is_a_term(entry):
    with pytest.raises(ValueError, match=r"^expected a guide with a density of 'z', which is continuous in the model"):
        DENSITIES[entry](*POINTS["Delta"]())


def hierarchical(x, *, y=None, w=None):
    """z ~ N(x / 2 + a, 0.8) with a ~ N(0, 0.5) integrated out, beside a discrete y and a continuous w."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros(len(x)).double(), 0.5), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(x / 2 + a, 0.8))
        if y is not None:
            pyro.sample("y", y(len(x)))
        if w is not None:
            u = pyro.sample("u", dist.Normal(torch.zeros(len(x)).double(), 1.0), infer={"is_auxiliary": True})
            pyro.sample("w", dist.Delta(u) if w == "made" else dist.Normal(0.0 * u, 1.0))


def with_more(x, *, y=False, w=False):
    with pyro.plate("data", len(x)):
        shift = 0.0
        if y:
            shift = pyro.sample("y", dist.Bernoulli(torch.ones(()).double())) - 1
        if w:
            pyro.sample("w", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)


def test_a_point_of_a_discrete_latent_makes_no_density_of_what_is_integrated_out():
    x = torch.tensor([0.3, -1.0]).double()
    guide = functools.partial(hierarchical, y=lambda number: dist.Delta(torch.ones(number).double()))
    model = functools.partial(with_more, y=True)
    found = log_marginal_likelihood(model, guide, x, num_particles=20_000, seed=0, progress=False)
    assert ((found.value - dist.Normal(0.0, 2**0.5).log_prob(x)).abs() < 5 * found.standard_error).all()
    assert (found.standard_error < 0.05).all()


def test_auxiliary_sites_of_both_kinds_are_refused_and_the_remedy_works():
    x = torch.tensor([0.3, -1.0]).double()
    model = functools.partial(with_more, w=True)
    both = functools.partial(hierarchical, w="made")
    runs = {
        "elbo": lambda: elbo(model, both, x),
        "importance": lambda: log_marginal_likelihood(model, both, x, progress=False),
        "step": lambda: AEVB(model, both, functools.partial(torch.optim.Adam, lr=0.01)).step(x),
    }
    for run in runs.values():
        with pytest.raises(
            ValueError, match=r"auxiliary sites that are made into latents, as \['w'\].* got 'a' besides"
        ):
            run()
    guide = functools.partial(hierarchical, w="drawn")
    found = log_marginal_likelihood(model, guide, x, num_particles=20_000, seed=0, progress=False)
    assert ((found.value - dist.Normal(0.0, 2**0.5).log_prob(x)).abs() < 5 * found.standard_error).all()


@pytest.mark.parametrize("kind", POINTS)
def test_every_guide_of_point_masses_is(kind):
    of, guide = POINTS[kind]()
    for entry in ("elbo", "importance", "posterior"):
        with pytest.raises(ValueError, match=r"density of 'z', which is continuous in the model, got point masses"):
            DENSITIES[entry](of, guide)


@pytest.mark.slow
def test_the_remedies_work():
    """AutoNormal in place of a joint guide; no guide, or a method that doesn't ask for its density."""
    guide = autoguide.AutoNormal(model)
    guide(X)
    with torch.no_grad():
        guide.locs.z.copy_(0.8 * X)
        guide.scales.z = torch.full_like(X, math.sqrt(0.2))  # the posterior itself
    torch.testing.assert_close(elbo(model, guide, X, num_particles=3).value, LOG_P)
    torch.testing.assert_close(log_marginal_likelihood(model, guide, X, **QUIET).value, LOG_P)
    for of, other in (JOINT["AutoDiagonalNormal"](), POINTS["Delta"]()):
        for g in (None, other):
            exact = log_marginal_likelihood(of, g, X, method="quadrature", **QUIET)
            torch.testing.assert_close(exact.value, LOG_P, atol=1e-3, rtol=0)
            annealed = log_marginal_likelihood(of, g, X, method=AIS(100, num_leapfrog=3), **QUIET)
            assert bool(((annealed.value - LOG_P).abs() < 5 * annealed.standard_error + 0.01).all())
            drawn = posterior(of, g, X, method="hmc", num_draws=400, **QUIET)
            assert drawn.trusted.all()
            assert bool(((drawn.std("z") / math.sqrt(0.2) - 1).abs() < 0.2).all())


def test_what_needs_no_density_takes_them():
    for of, guide in (JOINT["AutoDiagonalNormal"](), POINTS["AutoDelta"]()):
        guide(X)
        assert encode(of, guide, X, output="draws", num_draws=3, seed=0).shape == (3, len(X))
        fit(AEVB(of, guide, ADAM), X, epochs=1, batch_size=len(X), progress=False)
    torch.testing.assert_close(encode(*POINTS["Delta"](), X), 0.8 * X)


def test_training_by_a_joint_guide_is_right():
    """Its loss is -log p(X) where q is the posterior, whatever is drawn."""
    of, guide = JOINT["AutoDiagonalNormal"]()
    guide(X)
    with torch.no_grad():
        guide.loc.copy_(0.8 * X)
        guide.scale = torch.full_like(X, math.sqrt(0.2))
    assert AEVB(of, guide, ADAM).step(X).loss == pytest.approx(-LOG_P.sum().item(), rel=1e-6)


def test_maps_bound_on_validation_data_is_its_objective():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(pyro.param("slope", torch.tensor(0.7, dtype=x.dtype)) * x))

    history = fit(AEVB(model, guide, ADAM), X, X, epochs=1, batch_size=len(X), progress=False)
    z = pyro.param("slope").detach() * X
    joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 0.5).log_prob(X)
    assert history.records[-1].values["validation"] == pytest.approx(joint.mean().item(), rel=1e-6)


def given_noise(x):
    eps = torch.randn_like(x)
    return dist.Delta(0.8 * x + 0.2**0.5 * eps, log_density=dist.Normal(0.0, 1.0).log_prob(eps) - 0.5 * math.log(0.2))


def of_an_auxiliary_site():
    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(0.8 * x, math.sqrt(0.2)), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u))

    return model, guide


def noncentred():
    """z = w + u, u an auxiliary site in the plate, w a global latent under a joint guide of its own."""

    def guide(x):
        w = pyro.sample("w", dist.Normal(torch.zeros((), dtype=x.dtype), 0.3))
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(0.5 * x, 0.5), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(w + u))

    return with_a_global, guide


DENSE = {
    "an auxiliary site": of_an_auxiliary_site,
    "a log_density": latent(given_noise),
    "AutoNormal": auto(autoguide.AutoNormal),
    "AutoNormal with a global latent": auto(autoguide.AutoNormal, with_a_global),
    "AutoNormalMessenger": auto(autoguide.AutoNormalMessenger),
    "beside a global latent": noncentred,
}


@pytest.mark.filterwarnings("ignore:pareto_k")
@pytest.mark.parametrize("kind", DENSE)
def test_deltas_that_carry_a_density_are_taken(kind):
    of, guide = DENSE[kind]()
    assert elbo(of, guide, X, num_particles=2, vectorize=False).value.isfinite().all()
    found = log_marginal_likelihood(of, guide, X, num_particles=200, num_global_draws=2, vectorize=False, **QUIET)
    if kind in ("an auxiliary site", "a log_density"):
        torch.testing.assert_close(found.value, LOG_P)


def test_a_point_of_a_discrete_latent_is_a_density():
    def mixture(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.full_like(x, 0.5)))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Delta((x > 0.5).to(x)))

    joint = dist.Normal((X > 0.5).to(X), 1.0).log_prob(X) - math.log(2)
    torch.testing.assert_close(elbo(mixture, guide, X).value, joint)
