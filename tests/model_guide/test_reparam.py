"""A latent under one of Pyro's reparams: its own site is a value that is written down, and the latent is a new one."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam, TransformReparam

from pyro_aevb import AEVB, SGVB, ReweightedWakeSleep, WakeSleep, log_marginal_likelihood
from pyro_aevb.model_guide import read
from pyro_aevb.posterior import denoise, impute, reconstruct, sample

STILL = functools.partial(torch.optim.SGD, lr=0.0)
X = torch.tensor([0.5, -1.0, 2.0]).double()
LOC, SCALE, ONE = torch.tensor(1.0).double(), torch.tensor(2.0).double(), torch.ones(()).double()
MEAN, DEVIATION = (4 * X + 1) / 5, 0.8**0.5  # of p(z|x)
LOG_P = dist.Normal(LOC, 5**0.5).log_prob(X)


def model(x, prior):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior)
        shift = pyro.param("shift", torch.zeros(()).double())
        pyro.sample("x", dist.Normal(z + shift, ONE), obs=x)


def guide(x, name, to_base):
    """The exact posterior, of the new latent."""
    with pyro.plate("data", len(x)):
        mean, deviation = to_base((4 * x + 1) / 5, 0.8**0.5)
        pyro.sample(name, dist.Normal(mean + pyro.param("zero", torch.zeros(()).double()), deviation))


STRETCHED = dist.TransformedDistribution(dist.Normal(0 * ONE, ONE), [dist.transforms.AffineTransform(LOC, SCALE)])
PAIRS = {
    "decentered": (LocScaleReparam(0.0), dist.Normal(LOC, SCALE), "z_decentered", lambda m, s: ((m - 1) / 2, s / 2)),
    "halfway": (
        LocScaleReparam(0.5), dist.Normal(LOC, SCALE), "z_decentered",
        lambda m, s: (0.5 + (m - 1) / 2**0.5, s / 2**0.5),
    ),
    "transform": (TransformReparam(), STRETCHED, "z_base", lambda m, s: ((m - 1) / 2, s / 2)),
}  # fmt: skip


@pytest.fixture(params=PAIRS)
def pair(request):
    reparam, prior, name, to_base = PAIRS[request.param]
    its_model = poutine.reparam(functools.partial(model, prior=prior), config={"z": reparam})
    return its_model, functools.partial(guide, name=name, to_base=to_base)


def test_its_site_is_no_observation(pair):
    roles = {name: site.role for name, site in read(*pair, (X,)).model.items()}
    assert sorted(roles.values()) == ["deterministic", "local", "observation", "subsample"]
    assert roles["z"] == "deterministic"


@pytest.mark.parametrize(
    "make",
    [
        lambda *pair: AEVB(*pair, STILL, SGVB()),
        lambda *pair: WakeSleep(*pair, STILL, STILL),
        lambda *pair: ReweightedWakeSleep(*pair, STILL, STILL, insomnia=0.5),
    ],
    ids=["AEVB", "wake-sleep", "reweighted wake-sleep"],
)
def test_every_learner_has_the_bound_of_the_exact_posterior(make, pair):
    torch.testing.assert_close(make(*pair).step(X).elbo, LOG_P.mean(), rtol=1e-9, atol=1e-9)


def test_the_verbs_take_x_for_the_observation(pair):
    many = {"num_draws": 2000, "seed": 0}
    assert (reconstruct(*pair, X, **many) - MEAN).abs().max() < 5 * DEVIATION / 2000**0.5
    drawn = sample(pair[0], None, 2000, X, seed=0)
    assert (drawn.mean() - LOC).abs() < 5 * (5 / 2000) ** 0.5
    clean = denoise(*pair, X, lambda x: dist.Normal(x, 2.0), **many, progress=False)  # E x given x + N(0, 4)
    assert (clean.mean - (LOC + 5 / 9 * (X - LOC))).abs().max() < 0.3
    assert impute(*pair, X, X < 1.5, **many, progress=False).draws.shape == (2000, 3)
    found = log_marginal_likelihood(*pair, X, num_particles=100, seed=0, progress=False)
    torch.testing.assert_close(found.value, LOG_P, rtol=1e-9, atol=1e-9)
