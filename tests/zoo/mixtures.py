"""Mixtures: assignments summed out, components as parameters, at a point or with a posterior."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal

from zoo.entry import WITH_GLOBALS, Entry, Pair, data, normal, param, plate, positive, zeros


def _weights(k):
    return dist.Categorical(logits=param("logits", torch.zeros(k)))


def with_a_continuous_latent():
    """Factor analyzers, mixed: y is summed out, z has an amortized guide."""

    @config_enumerate
    def model(x):
        loc, w = param("loc", data(3, 4)), param("w", data(2, 4, seed=1))
        with plate(x):
            y = pyro.sample("y", _weights(3))
            z = pyro.sample("z", normal(2))
            pyro.sample("x", dist.Normal(loc[y] + z @ w, 0.7).to_event(1), obs=x)

    def guide(x):
        v = param("v", 0.1 * data(4, 2, seed=2))
        with plate(x):
            pyro.sample("z", dist.Normal(x @ v, 0.7).to_event(1))

    return Pair(model, guide, (data(12, 4, seed=3),))


def _gmm(infer_locs):
    @config_enumerate
    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(0.5 + zeros(2)))
        scale = pyro.sample("scale", dist.LogNormal(zeros(), 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(zeros(), 10.0))
        with plate(x):
            y = pyro.sample("y", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[y], scale), obs=x)

    kept = poutine.block(model, expose=["weights", "locs", "scale"])
    return Pair(model, infer_locs(kept), (torch.cat([data(6) - 3, data(6, seed=1) + 3]),))


def at_a_point():
    return _gmm(AutoDelta)


def with_a_posterior():
    return _gmm(AutoNormal)


def by_hand():
    """Parameters only: nothing is left to draw in the guide."""

    @config_enumerate
    def model(x):
        loc = param("loc", data(2, seed=4))
        with plate(x):
            y = pyro.sample("y", _weights(2))
            z = pyro.sample("z", dist.Normal(loc[y], 1.0))
            pyro.sample("x", dist.Normal(z, positive("s", 0.5)), obs=x)

    def guide(x):
        k = param("k", 0.8)
        with plate(x):
            pyro.sample("z", dist.Normal(k * x, 0.4))

    return Pair(model, guide, (data(12),))


def stick_breaking():
    """A Dirichlet process, cut off after four sticks."""

    @config_enumerate
    def model(x):
        with pyro.plate("sticks", 3):
            beta = pyro.sample("beta", dist.Beta(1 + zeros(), 1.5))
        with pyro.plate("components", 4):
            locs = pyro.sample("locs", dist.Normal(zeros(), 3.0))
        rest = torch.cat([1 + 0 * beta[..., :1], (1 - beta).cumprod(-1)], -1)
        weights = torch.cat([beta, 1 + 0 * beta[..., :1]], -1) * rest
        with plate(x):
            y = pyro.sample("y", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[y], 1.0), obs=x)

    def guide(x):
        kappa = positive("kappa", torch.full((3,), 2.0))
        tau = param("tau", data(4, seed=5))
        with pyro.plate("sticks", 3):
            pyro.sample("beta", dist.Beta(1 + zeros(3), kappa))
        with pyro.plate("components", 4):
            pyro.sample("locs", dist.Normal(tau, 0.5))

    return Pair(model, guide, (data(12),))


def zero_inflated():
    x = torch.poisson(data(12, 3).exp(), generator=torch.Generator().manual_seed(0))

    def model(x):
        gate = param("gate", 0.3, constraint=dist.constraints.unit_interval)
        with plate(x):
            z = pyro.sample("z", normal())
            rate = (z[..., None] + param("b", torch.zeros(3))).exp()
            pyro.sample("x", dist.ZeroInflatedPoisson(rate, gate=gate).to_event(1), obs=x)

    def guide(x):
        k = param("k", 0.1)
        with plate(x):
            pyro.sample("z", dist.Normal(k * x.mean(-1), 0.7))

    return Pair(model, guide, (x,))


ENTRIES = [
    Entry("mixture of factor analyzers", with_a_continuous_latent, True),
    Entry("gmm, AutoDelta", at_a_point, True, WITH_GLOBALS),
    Entry("gmm, AutoNormal", with_a_posterior, True, WITH_GLOBALS),
    Entry("gmm as a prior", by_hand, True),
    Entry("dirichlet process", stick_breaking, True, WITH_GLOBALS),
    Entry("zero-inflated counts", zero_inflated),
]
