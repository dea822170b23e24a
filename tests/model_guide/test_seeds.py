"""A model or a guide that seeds torch has the same noise in each step and each particle, and is refused."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import AEVB, AIS, MCEM, WakeSleep, elbo, log_marginal_likelihood
from pyro_aevb.model_guide import read
from pyro_aevb.posterior import posterior

X = torch.linspace(-2.0, 2.0, 12)
ADAM = functools.partial(torch.optim.Adam, lr=0.01)
SEEDS = {
    "torch": lambda: torch.manual_seed(0),
    "Pyro": lambda: pyro.set_rng_seed(3),
    "generator": lambda: torch.default_generator.manual_seed(0),
    "another each time": torch.seed,
}


def pair(in_model=lambda: None, in_guide=lambda: None):
    def model(x):
        loc = pyro.param("loc", lambda: torch.randn(()))
        in_model()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z + loc, 1.0), obs=x)

    def guide(x):
        slope = pyro.param("slope", lambda: torch.randn(()))
        in_guide()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, 1.0))

    return model, guide


ENTRIES = {
    "read": lambda model, guide: read(model, guide, (X,)),
    "elbo": lambda model, guide: elbo(model, guide, X),
    "importance": lambda model, guide: log_marginal_likelihood(model, guide, X, vectorize=False),
    "ais": lambda model, guide: log_marginal_likelihood(model, None, X, method=AIS(5)),
    "posterior": lambda model, guide: posterior(model, guide, X),
    "AEVB": lambda model, guide: AEVB(model, guide, ADAM).step(X),
    "WakeSleep": lambda model, guide: WakeSleep(model, guide, ADAM, ADAM).step(X),
    "MCEM": lambda model, guide: MCEM(model, ADAM).step(X, index=torch.arange(12)),
}
SENTENCE = "^expected a model and a guide that leave torch's seed alone, got one that sets it.*before training"


@pytest.mark.parametrize("half", ["model", "guide"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_seed_is_set_outside(seed, half):
    pyro.set_rng_seed(0)  # the same as inside, too
    with pytest.raises(ValueError, match=SENTENCE):
        elbo(*pair(**{f"in_{half}": SEEDS[seed]}), X)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_point_refuses_it(entry):
    with pytest.raises(ValueError, match=SENTENCE):
        ENTRIES[entry](*pair(SEEDS["torch"], SEEDS["torch"]))


def test_numbers_that_stay_the_same_have_a_generator_of_their_own():
    """The remedy; what is put back afterwards is none either."""
    own = pair(in_guide=lambda: torch.rand(3, generator=torch.Generator().manual_seed(0)))
    assert elbo(*own, X, seed=0).value.isfinite().all()

    def aside():
        with torch.random.fork_rng():
            torch.manual_seed(0)

    assert elbo(*pair(in_guide=aside), X, seed=0).value.isfinite().all()


def test_a_module_that_the_first_run_makes_may_be_seeded():
    made = []

    def once():
        if not made:
            torch.manual_seed(0)
            made.append(torch.randn(3))

    assert elbo(*pair(in_guide=once), X, seed=0).value.isfinite().all()
    assert torch.equal(made[0], torch.randn(3, generator=torch.Generator().manual_seed(0)))


def test_a_first_run_draws_what_it_would_have_drawn():
    pyro.set_rng_seed(7)
    expected = torch.randn(())
    pyro.set_rng_seed(7)
    read(*pair(), (X,))
    assert torch.equal(pyro.param("slope"), expected)
    assert torch.initial_seed() == 7
