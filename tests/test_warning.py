"""Warnings point to the line of whoever called, through the doors of the package and torch's wrappers."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import AEVB, Quadrature, log_marginal_likelihood
from pyro_aevb.training import fit
from pyro_aevb.warning import warn


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    scale = pyro.param("scale", torch.tensor(0.05), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, scale))


CALLS = {
    "warn": lambda x: warn("expected more"),
    "fit": lambda x: fit(AEVB(model, guide, torch.optim.Adam), x, epochs=1, batch_size=200, seed=0, progress=False),
    "log_marginal_likelihood": lambda x: log_marginal_likelihood(model, guide, x, seed=0, progress=False),
    "quadrature": lambda x: log_marginal_likelihood(model, None, x, method=Quadrature(max_points=9), progress=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_warning_names_the_callers_line(name):
    with pytest.warns(UserWarning, match="expected|larger|above|settle") as warned:
        CALLS[name](torch.randn(20))
    assert {(each.filename, each.category) for each in warned} == {(__file__, UserWarning)}
