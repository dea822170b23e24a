"""A guide that goes around the circle several times meets the density of an angle once a turn, and is refused."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_aevb import AEVB, fit
from pyro_aevb.evidence import Auto, elbo, log_marginal_likelihood

X = torch.tensor([0.3, -2.0, 3.1]).double()
ZERO, ONE = torch.zeros(()).double(), torch.ones(()).double()


PEAK = 8.0  # the concentration of x: p(z|x) is within the reach of narrow guides then


def model(x, concentration=2.0):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.VonMises(ZERO, 0.5 * ONE))
        pyro.sample("x", dist.VonMises(z, concentration * ONE), obs=x)


PEAKED = functools.partial(model, concentration=PEAK)


def guide_of(fn):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn(x))

    return guide


def log_p(concentration=2.0):
    """log p(x) by the trapezoidal rule over one turn, exact for a smooth periodic integrand."""
    z = torch.arange(-500, 500).double()[:, None] * (math.pi / 500)
    joint = dist.VonMises(ZERO, 0.5 * ONE).log_prob(z) + dist.VonMises(z, concentration * ONE).log_prob(X)
    return joint.logsumexp(0) + math.log(math.pi / 500)


WIDE = {
    "Normal": lambda x: dist.Normal(x, 3.0 * ONE),
    "Laplace": lambda x: dist.Laplace(x, 2.0 * ONE),
    "Uniform of two turns": lambda x: dist.Uniform(x - 2 * math.pi, x + 2 * math.pi),
    "mixture": lambda x: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(len(x), 2)), dist.Normal(torch.tensor([-6.0, 6.0]).double().expand(len(x), 2), ONE)
    ),
}


@pytest.mark.parametrize("fn", WIDE.values(), ids=WIDE)
def test_several_turns_are_refused_by_every_entry_point(fn):
    guide = guide_of(fn)
    sentence = r"expected a guide within one turn for the angles of site 'z', VonMises, got .*dist.VonMises\(loc"
    for run in (
        lambda: elbo(model, guide, X),
        lambda: log_marginal_likelihood(model, guide, X, num_particles=10, progress=False),
        lambda: AEVB(model, guide).step(X),
    ):
        with pytest.raises(ValueError, match=sentence):
            run()


NARROW = {
    "von Mises": lambda x: dist.VonMises(x, 0.3 * ONE),
    "Normal": lambda x: dist.Normal(x, 0.5 * ONE),
    "a turn away": lambda x: dist.Normal(x + 2 * math.pi, 0.5 * ONE),
    "Uniform of one turn": lambda x: dist.Uniform(0 * x - math.pi, math.pi),
    "Uniform of a turn from 0": lambda x: dist.Uniform(0 * x, 2 * math.pi),
}


@pytest.mark.parametrize("fn", NARROW.values(), ids=NARROW)
def test_within_one_turn_log_p_is_the_integral(fn):
    found = log_marginal_likelihood(PEAKED, guide_of(fn), X, num_particles=20000, seed=0, progress=False)
    assert (found.standard_error < 0.03).all()
    assert ((found.value - log_p(PEAK)).abs() < 5 * found.standard_error).all()
    assert (elbo(PEAKED, guide_of(fn), X, num_particles=500, seed=0).value < log_p(PEAK) + 0.05).all()


def test_weights_take_less_than_the_bound_and_other_methods_are_the_remedy():
    """A Normal of scale 1 is fine for the bound, but a large K would find the next turns."""
    guide = guide_of(lambda x: dist.Normal(x, ONE))
    assert (elbo(model, guide, X, num_particles=500, seed=0).value < log_p() + 0.05).all()
    with pytest.raises(ValueError, match=r"within one turn.*or use method='quadrature' or 'ais'"):
        log_marginal_likelihood(model, guide, X, num_particles=10, progress=False)
    for method in ("quadrature", "ais", "auto"):
        found = log_marginal_likelihood(model, guide, X, method=method, seed=0, progress=False)
        torch.testing.assert_close(found.value, log_p(), atol=0.1, rtol=0)


def test_weights_take_as_little_from_a_mixture_of_numbers():
    peaks = dist.Categorical(torch.ones(3, 2))
    guide = guide_of(lambda x: dist.MixtureSameFamily(peaks, dist.Normal(torch.stack([x, x], -1), ONE)))
    assert elbo(model, guide, X, seed=0).value.isfinite().all()
    with pytest.raises(ValueError, match=r"got MixtureSameFamily, whose draws range over 0\.9"):
        log_marginal_likelihood(model, guide, X, num_particles=10, progress=False)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_auto_anneals_where_weights_would_find_other_turns(scale):
    guide = guide_of(lambda x: dist.Normal(x, scale * ONE))
    found = log_marginal_likelihood(PEAKED, guide, X, method=Auto(quadrature=None), seed=0, progress=False)
    assert found.method == ("importance" if scale < 1 else "ais",) * 3
    torch.testing.assert_close(found.value, log_p(PEAK), atol=0.1, rtol=0)


def test_the_remedy_for_an_autoguide():
    sentence = r"write pyro.sample\('z', dist.VonMises\(loc, concentration\)\) in the guide"
    with pytest.raises(ValueError, match=sentence):
        elbo(model, AutoNormal(model, init_scale=3.0), X)

    def guide(x):
        loc = pyro.param("loc", lambda: torch.zeros(len(x)).double())
        concentration = pyro.param("k", ONE, constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.VonMises(loc, concentration))

    fit(AEVB(model, guide), X, epochs=3, batch_size=3, progress=False)
    assert (elbo(model, guide, X, num_particles=500, seed=0).value < log_p() + 0.05).all()
