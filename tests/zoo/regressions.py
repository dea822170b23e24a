"""Regressions: weights are global latents, outside of the data plate.

Pyro's closed-form KL of an autoguide leaves out the density of a latent that was transformed, as the scale's is.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn

from zoo.entry import WITH_GLOBALS, Entry, Pair, bits, data, normal, param, plate, positive, zeros

X, Y = data(12, 3), data(12, seed=1)


def _linear(x, y=None):
    w = pyro.sample("w", normal(3))
    b = pyro.sample("b", normal())
    s = pyro.sample("s", dist.LogNormal(zeros(), 0.5))
    with plate(x):
        pyro.sample("y", dist.Normal((x * w[..., None, :]).sum(-1) + b[..., None], s[..., None]), obs=y)


def linear(guide):
    return lambda: Pair(_linear, guide(_linear), (X, Y))


def linear_by_hand():
    def guide(x, y=None):
        pyro.sample("w", dist.Normal(param("m", torch.zeros(3)), positive("v", torch.ones(3))).to_event(1))
        pyro.sample("b", dist.Normal(param("mb", 0.0), positive("vb", 1.0)))
        pyro.sample("s", dist.LogNormal(param("ms", 0.0), positive("vs", 0.3)))

    return Pair(_linear, guide, (X,), {"y": Y})


def logistic():
    def model(x, y):
        w = pyro.sample("w", normal(3))
        with plate(x):
            pyro.sample("y", dist.Bernoulli(logits=(x * w[..., None, :]).sum(-1)), obs=y)

    return Pair(model, AutoNormal(model), (X, bits(12, seed=1)))


class Regression(PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](3, 1).double()
        self.linear.weight = PyroSample(normal(1, 3))
        self.linear.bias = PyroSample(normal(1))

    def forward(self, x, y=None):
        mean = self.linear(x).squeeze(-1)
        with plate(x):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def pyro_module():
    model = Regression()
    return Pair(model, AutoDiagonalNormal(model), (X, Y))


def random_effects():
    """Global weights, and an effect of each datapoint's own."""

    def model(x, y):
        w = pyro.sample("w", normal(3))
        with plate(x):
            u = pyro.sample("u", normal())
            pyro.sample("y", dist.Normal((x * w[..., None, :]).sum(-1) + u, 0.5), obs=y)

    def guide(x, y):
        pyro.sample("w", dist.Normal(param("m", torch.zeros(3)), positive("v", torch.ones(3))).to_event(1))
        k = param("k", 0.3)
        with plate(x):
            pyro.sample("u", dist.Normal(k * y, 0.5))

    return Pair(model, guide, (X, Y))


ENTRIES = [
    Entry("linear regression, AutoNormal", linear(AutoNormal), senseless=WITH_GLOBALS, mean_field=False),
    Entry(
        "linear regression, AutoMultivariateNormal",
        linear(AutoMultivariateNormal),
        senseless=WITH_GLOBALS,
        mean_field=False,
    ),
    Entry("linear regression, a guide by hand", linear_by_hand, senseless=WITH_GLOBALS),
    Entry("logistic regression", logistic, senseless=WITH_GLOBALS),
    Entry("regression, PyroModule and PyroSample", pyro_module, senseless=WITH_GLOBALS),
    Entry("random effects", random_effects, senseless=WITH_GLOBALS),
]
