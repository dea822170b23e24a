"""Random numbers of a pair's own that all particles have in common are refused where an error is made of particles."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_aevb import AEVB
from pyro_aevb.evidence import elbo, log_marginal_likelihood
from pyro_aevb.model_guide import log_density
from pyro_aevb.objectives import SGVB

X = torch.tensor([0.5, -2.0, 1.0, 3.0]).double()
ZERO = torch.zeros(()).double()
EXACT = dist.Normal(torch.zeros(4).double(), 3**0.5).log_prob(X)  # x = z + noise + N(0, 1)


def pair(x, half, noise, where):
    with pyro.plate("data", len(x)):
        given = noise(x, x) if (half, where) == ("guide", "guide") else 0.0
        if half == "guide":
            pyro.sample("z", dist.Normal(x / 3 + given + pyro.param("shift", ZERO), 0.9))
            return
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Normal(z + (noise(x, z) if where == "model" else 0.0), 1.0), obs=x)


def hidden(x, z):
    with poutine.block():
        return pyro.sample("hidden", dist.Normal(torch.zeros(len(x)).double(), 1.0))


SHARED = {
    "for each datapoint": lambda x, z: torch.randn(len(x)).double(),
    "one": lambda x, z: torch.randn(()).double(),
    "at a hidden site": hidden,
    "dropout": lambda x, z: torch.nn.functional.dropout(torch.ones_like(x), training=True),
}
OWN = {
    "in z's shape": lambda x, z: torch.randn_like(z),
    "none": lambda x, z: 0.0,
}


def in_sight(x, z):
    return pyro.sample("y", dist.Normal(torch.zeros_like(x), 1.0))


def with_y(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 3, 0.9))
        pyro.sample("y", dist.Normal(x / 3, 0.9))


def halves(noise, where):
    return [functools.partial(pair, half=half, noise=noise, where=where) for half in ("model", "guide")]


@pytest.mark.parametrize("where", ["model", "guide"])
@pytest.mark.parametrize("noise", SHARED.values(), ids=SHARED)
def test_what_particles_share_is_refused(noise, where):
    model, guide = halves(noise, where)
    sentence = rf"got random numbers at '{where}.\w' that no site draws.*vectorize=False"
    for run in (
        lambda: elbo(model, guide, X, num_particles=3),
        lambda: log_density(model, guide, X, num_particles=3),
        lambda: log_marginal_likelihood(model, guide, X, num_particles=30, progress=False),
    ):
        with pytest.raises(ValueError, match=sentence):
            run()
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=sentence):
        log_density(model, guide, X, num_particles=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert AEVB(model, guide, functools.partial(torch.optim.SGD, lr=0.0), SGVB(3)).step(X).loss.isfinite()


@pytest.mark.parametrize(
    ("noise", "options"),
    [
        (SHARED["for each datapoint"], {"vectorize": False}),
        (OWN["in z's shape"], {}),
        (in_sight, {}),
    ],
    ids=["one by one", "in z's shape", "in sight"],
)
def test_the_remedies_have_the_right_errors(noise, options):
    """log p(x) = log N(x; 0, 3), within five errors that are no larger than needed."""
    model, guide = halves(noise, "model")
    guide = with_y if noise is in_sight else guide
    found = log_marginal_likelihood(model, guide, X, num_particles=2000, seed=0, progress=False, **options)
    assert (found.standard_error < 0.1).all()
    assert ((found.value - EXACT).abs() < 5 * found.standard_error).all()


def test_what_each_particle_has_of_its_own_is_taken():
    for noise in OWN.values():
        assert elbo(*halves(noise, "model"), X, num_particles=3).value.isfinite().all()
