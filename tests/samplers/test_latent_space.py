"""A log joint that isn't a function of z: models with random numbers of their own."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_aevb import AIS, BDMC, MCEM, SMC, log_marginal_likelihood
from pyro_aevb.posterior import posterior
from pyro_aevb.samplers import LatentSpace

X = torch.tensor([0.5, -2.0, 1.0, 3.0]).double()
EXACT = dist.Normal(torch.zeros(4).double(), 6**0.5).log_prob(X)
QUIET = {"seed": 0, "progress": False}


def with_noise(x, noise):
    """x ~ N(z + y, 1) with y ~ N(z, 1) and z ~ N(0, 1): N(0, 6) in all."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Normal(z + noise(z), 1.0), obs=x)


def hidden(z):
    with poutine.block():
        return pyro.sample("y", dist.Normal(z, 1.0))


OF_ITS_OWN = {"randn": lambda z: z + torch.randn(z.shape).double(), "block": hidden}
in_sight = functools.partial(with_noise, noise=lambda z: pyro.sample("y", dist.Normal(z, 1.0)))


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 3, 0.8))


def evidence(method, **options):
    return lambda model: log_marginal_likelihood(model, guide, X, method=method, **QUIET, **options)


ENTRIES = {
    "ais": evidence(AIS(20, num_leapfrog=2)),
    "smc": evidence(SMC(20)),
    "bdmc": evidence(BDMC(AIS(20, num_leapfrog=2))),
    "auto": evidence("auto"),
    "quadrature": evidence("quadrature"),
    "posterior-density": evidence("posterior-density"),
    "posterior": lambda model: posterior(model, None, X, method="hmc", num_draws=5, **QUIET),
    "MCEM": lambda model: MCEM(model, functools.partial(torch.optim.SGD, lr=0.1)).step(X, index=torch.arange(4)),
}


@pytest.mark.parametrize("noise", OF_ITS_OWN)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_model_with_random_numbers_of_its_own_is_refused_where_its_log_joint_is_a_function(entry, noise):
    with pytest.raises(
        ValueError,
        match=r"p\(x, z\) is one number at each z, got others in two runs at the same z.*"
        r"method='importance' with vectorize=False",
    ):
        ENTRIES[entry](functools.partial(with_noise, noise=OF_ITS_OWN[noise]))


def test_where_all_latents_are_summed_out_too():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.randn(len(x)).double(), 1.0), obs=x)

    with pytest.raises(ValueError, match="one number at each z"):
        log_marginal_likelihood(model, None, X, method="ais", **QUIET)


ONE_BY_ONE = {"method": "importance", "vectorize": False, "num_particles": 3000}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (functools.partial(with_noise, noise=OF_ITS_OWN["randn"]), ONE_BY_ONE),
        (functools.partial(with_noise, noise=lambda z: z + torch.randn(len(X)).double()), ONE_BY_ONE),
        (in_sight, {"method": AIS(100, num_leapfrog=3), "num_particles": 100}),
    ],
    ids=["importance", "importance, a number for each datapoint", "in sight"],
)
def test_the_remedies_work(model, options):
    """Evaluated at once, particles share a number that isn't drawn in their shape, and their error misses it."""
    found = log_marginal_likelihood(model, guide if options["method"] == "importance" else None, X, **options, **QUIET)
    assert (found.standard_error < 0.1).all()
    assert ((found.value - EXACT).abs() < 5 * found.standard_error).all()


def test_what_is_random_in_training_alone_is_left_alone():
    dropout = torch.nn.Dropout(0.5)

    def model(x):
        pyro.module("dropout", dropout)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(dropout(z), 1.0), obs=x)

    assert LatentSpace(model, X).dim == 1
    assert dropout.training
