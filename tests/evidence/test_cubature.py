"""Integrals of densities that grids lose: against one-dimensional sums of a million points, and closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from statistics_tools import SIGMAS

from pyro_aevb import AIS, SMC, Quadrature, log_marginal_likelihood
from pyro_aevb.evidence.cubature import integrate
from pyro_aevb.evidence.estimator import Problem
from pyro_aevb.evidence.quadrature import SoFar

N01 = dist.Normal(0.0, 1.0)


def prior(u):
    return N01.log_prob(u).sum(-1)


def summed(log_f, low, high, num_points=1_000_000):
    """log of the integral of exp(log_f(z, x)) over z, for each x."""
    z = torch.linspace(low, high, num_points)
    return lambda x: torch.stack([log_f(z, each).logsumexp(0) + math.log((high - low) / num_points) for each in x])


def squared(z, x):
    return N01.log_prob(z) + dist.Normal(z**2, 0.01).log_prob(x)


def narrowly_squared(z, x):
    return N01.log_prob(z) + dist.Normal(z**2, 0.001).log_prob(x)


def wave(z, x):
    return N01.log_prob(z) + dist.Normal(torch.sin(5 * z), 0.02).log_prob(x)


def two_humps(z, x):
    humps = torch.logaddexp(
        math.log(0.9) + dist.Normal(-5.0, 1.0).log_prob(z), math.log(0.1) + dist.Normal(5.0, 0.3).log_prob(z)
    )
    return humps + dist.Normal(z.abs(), 0.05).log_prob(x)


def edges(z, x):
    return N01.log_prob(z) + torch.where((z - x).abs() < 0.1, math.log(5.0), -math.inf)


def ring(u, x):
    return prior(u) + dist.Normal(u.square().sum(-1), 0.1).log_prob(x)


def banana(u, x):
    return prior(u) + dist.Normal(u[:, 1] - 2 * u[:, 0] ** 2, 0.05).log_prob(x)


def funnel(u, x):
    return (
        dist.Normal(0.0, 3.0).log_prob(u[:, 0])
        + dist.Normal(0.0, (u[:, 0] / 2).exp()).log_prob(u[:, 1])
        + dist.Normal(u[:, 1], 0.1).log_prob(x)
    )


def product(u, x):
    return prior(u) + dist.Normal(u[:, 0] * u[:, 1], 0.05).log_prob(x)


def plane(u, x):
    return prior(u) + dist.Normal(u @ torch.tensor([1.0, 0.5, -0.7]), 0.3).log_prob(x)


def line(log_f):
    return lambda u, x: log_f(u[:, 0], x)


# name: (J, log f(u, x), x given standard normal noise, log of the integral)
NASTY = {
    "squared": (1, line(squared), lambda n: n**2, summed(squared, -9, 9)),
    "narrowly squared": (1, line(narrowly_squared), lambda n: n**2, summed(narrowly_squared, -5, 5)),
    "wave": (1, line(wave), lambda n: torch.sin(5 * n), summed(wave, -9, 9)),
    "two humps": (1, line(two_humps), lambda n: 5 + n, summed(two_humps, -20, 20)),
    "edges": (1, line(edges), lambda n: n, lambda x: ((N01.cdf(x + 0.1) - N01.cdf(x - 0.1)) * 5).log()),
    "far away": (
        1,
        line(lambda z, x: N01.log_prob(z) + dist.Normal(z, 0.1).log_prob(x)),
        lambda n: 10 + 5 * n,
        lambda x: dist.Normal(0.0, 1.01**0.5).log_prob(x),
    ),
    "heavy tails": (
        1,
        line(lambda z, x: dist.Cauchy(0.0, 1.0).log_prob(z) + dist.Cauchy(z, 1.0).log_prob(x)),
        lambda n: 10 * n,
        lambda x: dist.Cauchy(0.0, 2.0).log_prob(x),
    ),
    "ring": (
        2,
        ring,
        lambda n: 2 * n**2 + 0.1,
        summed(lambda s, x: math.log(0.5) - s / 2 + dist.Normal(s, 0.1).log_prob(x), 1e-9, 60),
    ),
    "banana": (
        2,
        banana,
        lambda n: n,
        summed(lambda z, x: N01.log_prob(z) + dist.Normal(-2 * z**2, (1 + 0.05**2) ** 0.5).log_prob(x), -9, 9),
    ),
    "funnel": (
        2,
        funnel,
        lambda n: n,
        summed(
            lambda z, x: dist.Normal(0.0, 3.0).log_prob(z) + dist.Normal(0.0, (z.exp() + 0.01).sqrt()).log_prob(x),
            -40,
            40,
        ),
    ),
    "product": (
        2,
        product,
        lambda n: n * n.flip(0),
        summed(lambda z, x: N01.log_prob(z) + dist.Normal(0.0, (z**2 + 0.05**2).sqrt()).log_prob(x), -9, 9),
    ),
}
NICE = {
    "a Gaussian": (
        1,
        line(lambda z, x: N01.log_prob(z) + N01.log_prob(x - z)),
        lambda n: n,
        lambda x: dist.Normal(0.0, 2**0.5).log_prob(x),
    ),
    "a Gaussian in a plane": (
        2,
        lambda u, x: prior(u) + dist.Normal(u.sum(-1), 0.3).log_prob(x),
        lambda n: n,
        lambda x: dist.Normal(0.0, 2.09**0.5).log_prob(x),
    ),
    "a Gaussian in space": (3, plane, lambda n: n, lambda x: dist.Normal(0.0, 1.83**0.5).log_prob(x)),
}


def checked(case, num_data):
    """The errors of all datapoints, and whether each is said to have settled."""
    dim, log_f, observed, exact = case
    with pyro.validation_enabled(False):
        x = observed(torch.randn(num_data))

        def log_density(u, index):
            value = log_f(u, x[index])
            return value, torch.ones_like(value, dtype=torch.bool)

        found = integrate(log_density, torch.randn(128, num_data, dim))
        return (found.value - exact(x)).abs(), found


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", [name for name, case in NASTY.items() if case[0] == 1])
def test_no_mode_is_lost_in_silence(name):
    error, found = checked(NASTY[name], 20)
    assert (~found.settled | (error < 0.01)).all()
    assert found.settled.float().mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", NASTY)
def test_no_error_of_many_is_silent(name):
    error, found = checked(NASTY[name], 100 if NASTY[name][0] == 1 else 25)
    assert (~found.settled | (error < 0.01)).all()


@pytest.mark.parametrize("name", NICE)
def test_there_are_no_false_alarms(name):
    error, found = checked(NICE[name], 50 if NICE[name][0] < 3 else 5)
    assert (error < 1e-4).all()
    assert found.settled.float().mean() >= 0.98


def test_an_integral_that_is_infinite_does_not_settle():
    found = integrate(
        lambda u, index: (-0.05 * torch.log1p(u.square()).sum(-1), torch.ones_like(index, dtype=torch.bool)),
        torch.randn(12, 3, 1),
    )
    assert not found.settled.any()


@pytest.mark.parametrize("concentration", [0.1, 0.5, 2.0])
def test_what_floats_cannot_resolve_at_the_end_of_a_support_is_said(concentration):
    """z ~ Beta(a, a): with a = 0.1 a tenth of the mass lies where float32 says 1."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Beta(torch.tensor(concentration), torch.tensor(concentration)))
            pyro.sample("x", dist.Bernoulli(z), obs=x)

    torch.set_default_dtype(torch.float32)
    x = torch.tensor([0.0, 1.0, 1.0])
    if concentration > 0.1:
        found = log_marginal_likelihood(model, None, x, method="quadrature", progress=False)
        assert found.settled.all()
    else:
        with pytest.warns(UserWarning, match="hug the end of their support"):
            found = log_marginal_likelihood(model, None, x, method="quadrature", progress=False)
    error = (found.value - math.log(0.5)).abs()
    assert (~found.settled | (error < 0.01)).all()


def test_a_density_that_overflows_is_refused_and_float64_works():
    """z ~ InverseGamma(3, 2): in float32 its density is inf on the way to where 1 / z is infinite."""

    def evidence(x):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.InverseGamma(3 * x.new_ones(()), 2 * x.new_ones(())))
                pyro.sample("x", dist.Normal(z, 0.7), obs=x)

        return log_marginal_likelihood(model, None, x, method="quadrature", seed=0, compile=False, progress=False).value

    x = torch.tensor([0.5, 2.0])
    with pytest.raises(
        ValueError, match=r"expected a density that is finite .*, got log p\(x, z\) = inf in torch.float32"
    ):
        evidence(x.float())
    z = torch.linspace(0, 200, 200_001).double()[1:, None]
    log_f = dist.InverseGamma(3 * z.new_ones(()), 2.0).log_prob(z) + dist.Normal(z, 0.7).log_prob(x.double())
    torch.testing.assert_close(evidence(x.double()), log_f.logsumexp(0) + math.log(0.001), rtol=0, atol=1e-4)


def test_a_model_may_know_a_datapoint_by_its_place_in_the_minibatch():
    """Rows in another order are other datapoints to this model, and it takes any number of them."""
    table = torch.linspace(-3, 3, 6000)

    def model(x):
        with pyro.plate("data", len(x)) as place:
            z = pyro.sample("z", dist.Normal(table[place], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(50) - 3
    found = log_marginal_likelihood(model, None, x, method=Quadrature(max_points=4000), progress=False)
    torch.testing.assert_close(found.value, dist.Normal(table[:50], 2**0.5).log_prob(x), rtol=0, atol=1e-4)


def chain(x, lengths, steps=None):
    """z_t ~ N(z_(t-1), 1), x_t ~ N(z_t, 1), the steps after the longest row left out, or up to ``steps``."""
    with pyro.plate("data", len(x)):
        z = 0.0
        for t in range(int(lengths.max()) if steps is None else steps):
            with poutine.mask(mask=t < lengths):
                z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])


LENGTHS = torch.tensor([2, 2, 2, 1, 1, 1])


def exact_chain(x, lengths):
    covariance = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    both = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(x)
    return torch.where(lengths == 1, dist.Normal(0.0, 2**0.5).log_prob(x[:, 0]), both)


@pytest.mark.parametrize("order", [slice(None), torch.arange(5, -1, -1)], ids=["longest first", "shortest first"])
def test_rows_that_have_fewer_latents_by_themselves_are_run_in_the_minibatch(order):
    x, lengths = torch.randn(6, 2)[order], LENGTHS[order]
    found = log_marginal_likelihood(chain, None, x, lengths, method="quadrature", seed=0, compile=False, progress=False)
    torch.testing.assert_close(found.value, exact_chain(x, lengths).to(found.value), rtol=0, atol=1e-3)


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_progress_of_an_integral_is_told_on_its_way(vectorize):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal((3 * z).sin(), 0.05), obs=x)

    x, ticks = torch.linspace(-1, 1, 4), []
    problem = Problem(model, None, (x,), None, 1, vectorize, False)
    with torch.no_grad():
        Quadrature().prepare(problem)(ticks.append, x)
    assert min(ticks) >= 0
    assert sum(ticks) == pytest.approx(1.0)
    so_far = torch.tensor(ticks).cumsum(0)
    assert ((so_far > 0.2) & (so_far < 0.9)).sum() >= 4


def test_progress_that_falls_back_is_told_once():
    ticks = []
    so_far = SoFar(ticks.append)
    for share in (0.2, 0.5, 0.3, 0.6):
        so_far(share)
    assert ticks == pytest.approx([0.2, 0.3, 0.0, 0.1])


@pytest.mark.parametrize("method", ["quadrature", "ais", pytest.param("smc", marks=pytest.mark.slow)])
@pytest.mark.parametrize("order", [slice(None), torch.arange(5, -1, -1)], ids=["longest first", "shortest first"])
def test_minibatches_of_other_latents_are_refused_and_the_remedy_works(method, order):
    x, lengths = torch.randn(6, 2)[order], LENGTHS[order]
    short = {"ais": AIS(20, num_leapfrog=2), "smc": SMC(10, num_leapfrog=2)}.get(method, method)
    options = {"method": short, "batch_size": 3, "seed": 0, "compile": False, "progress": False}
    with pytest.raises(ValueError, match=r"expected datapoints with the latents \['z0'.* each, got .*pad them to"):
        log_marginal_likelihood(chain, None, x, lengths, **options)
    found = log_marginal_likelihood(lambda x, n: chain(x, n, steps=2), None, x, lengths, **options)
    error = (found.value - exact_chain(x, lengths)).abs()
    assert (error <= SIGMAS * found.standard_error + 1e-3).all()
