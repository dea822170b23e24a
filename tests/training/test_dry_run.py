"""A run is tried before anything is trained: what counts once is weighed by the N of the data."""

import functools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import AEVB, fit

ADAM = functools.partial(torch.optim.Adam, lr=0.02)
PRIOR = dist.Normal(0.0, 0.1)


def pair(number, everywhere):
    """x ~ N(m, 2), and the posterior of z; m a parameter or, ``everywhere``, a global latent."""

    def plate(x):
        return pyro.plate("data", len(x) if number is None else number, subsample_size=len(x))

    def model(x):
        m = pyro.sample("m", PRIOR) if everywhere else pyro.param("loc", torch.tensor(0.0))
        with plate(x):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        m, shift = torch.tensor(0.0), pyro.param("shift", torch.tensor(0.0))
        if everywhere:
            loc, scale = pyro.param("loc", torch.tensor(0.0)), pyro.param("log_scale", torch.tensor(-2.0)).exp()
            m = pyro.sample("m", dist.Normal(loc, scale))
        with plate(x):
            pyro.sample("z", dist.Normal((x + m) / 2 + shift, 0.5**0.5))

    return model, guide


def run(number, everywhere, prior=True, **settings):
    x = torch.randn(200, generator=torch.Generator().manual_seed(0)) * 2**0.5 + 3
    theta_prior = None if everywhere or not prior else PRIOR
    learner = AEVB(*pair(number, everywhere), ADAM, theta_prior=theta_prior)
    fit(learner, x, **({"epochs": 60, "batch_size": 10, "schedule": "linear", "progress": False} | settings))
    return pyro.param("loc").item(), (x.sum() / 2 / (len(x) / 2 + 100)).item()


@pytest.mark.parametrize(("everywhere", "what"), [(False, "a prior on theta"), (True, r"global latents \['m'\]")])
def test_what_counts_once_takes_a_plate_that_knows_n_and_the_remedy_works(everywhere, what):
    with pytest.raises(ValueError, match=rf"of the 200 datapoints, for {what}, got one of 10.*'data', 200, subsample_"):
        run(None, everywhere)
    found, exact = run(200, everywhere)
    assert found == pytest.approx(exact, abs=0.15)


@pytest.mark.parametrize("batch_size", [10, 200])
@pytest.mark.parametrize("everywhere", [False, True])
def test_an_n_that_is_not_that_of_the_data_is_told(everywhere, batch_size):
    with pytest.warns(UserWarning, match=r"got one of 1000: .* counts 0\.2 times; write pyro\.plate"):
        run(1000, everywhere, epochs=1, batch_size=batch_size)


def test_nothing_is_said_where_n_is_but_a_factor_or_all_data_come_at_once():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(None, False, prior=False, epochs=1)
        run(None, True, epochs=1, batch_size=200)
