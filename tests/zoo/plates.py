"""Plates of all sorts, missing data, and what an optimizer may be."""

import functools

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from zoo.entry import Entry, Pair, bits, data, normal, param, plate, positive, zeros

X = data(12)


def _pair(place, x=X):
    def model(x):
        with place(x):
            z = pyro.sample("z", normal())
            pyro.sample("x", dist.Normal(z, positive("s", 0.5)), obs=x)

    def guide(x):
        k = param("k", 0.5)
        with place(x):
            pyro.sample("z", dist.Normal(k * x, 0.5))

    return Pair(model, guide, (x,))


def without_a_size():
    return _pair(lambda x: pyro.plate("data", len(x)))


def on_the_left():
    """Measurements are a plate within a datapoint, right of the data's."""

    def model(x):
        with pyro.plate("data", 12, subsample_size=len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(zeros(1), 1.0))
            with pyro.plate("measurements", 3, dim=-1):
                pyro.sample("x", dist.Normal(z, positive("s", 0.5)), obs=x)

    def guide(x):
        k = param("k", 0.5)
        with pyro.plate("data", 12, subsample_size=len(x), dim=-2):
            pyro.sample("z", dist.Normal(k * x.mean(-1, keepdim=True), 0.5))

    return Pair(model, guide, (data(12, 3),))


def nested():
    """A latent for each measurement, and one for the datapoint."""

    def model(x):
        with plate(x):
            z = pyro.sample("z", normal())
            with pyro.plate("measurements", 3, dim=-2):
                u = pyro.sample("u", dist.Normal(z, 1.0))
                pyro.sample("x", dist.Normal(u, positive("s", 0.5)), obs=x.t())

    def guide(x):
        k = param("k", 0.5)
        with plate(x):
            pyro.sample("z", dist.Normal(k * x.mean(-1), 0.5))
            with pyro.plate("measurements", 3, dim=-2):
                pyro.sample("u", dist.Normal(k * x.t(), 0.5))

    return Pair(model, guide, (data(12, 3),))


def missing():
    def model(x, seen):
        with plate(x):
            z = pyro.sample("z", normal())
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z, positive("s", 0.5)), obs=x)

    def guide(x, seen):
        k = param("k", 0.5)
        with plate(x):
            pyro.sample("z", dist.Normal(k * x * seen, 0.7))

    return Pair(model, guide, (X, bits(12, seed=1).bool()))


def imputed():
    """A list of views of x, some of which may be None."""

    def model(views, flag=True):
        with plate(views[0]):
            z = pyro.sample("z", normal())
            for i, view in enumerate(views):
                if view is not None and flag:
                    pyro.sample(f"x{i}", dist.Normal(z, positive("s", 0.5)), obs=view)

    def guide(views, flag=True):
        k = param("k", 0.5)
        with plate(views[0]):
            pyro.sample("z", dist.Normal(k * views[0], 0.7))

    return Pair(model, guide, ([X, None, data(12, seed=2)],), {"flag": True})


def weights_in_common():
    """A tensor that all datapoints have in common."""

    def model(x, basis):
        with plate(x):
            z = pyro.sample("z", normal(2))
            pyro.sample("x", dist.Normal(z @ (basis * positive("s", 0.5)), 0.5).to_event(1), obs=x)

    def guide(x, basis):
        k = param("k", 0.3)
        with plate(x):
            pyro.sample("z", dist.Normal(k * x @ basis.t(), 0.7).to_event(1))

    return Pair(model, guide, (data(12, 4), data(2, 4, seed=1)))


def scheduled():
    return pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.99})


ONE_PLATE = dict.fromkeys(("mcem", "ais"), "expected latents in the data plate alone")
ENTRIES = [
    Entry("a plate without a size", without_a_size),
    Entry("a plate on the left", on_the_left),
    Entry("a latent for each measurement", nested, lacks=ONE_PLATE),
    Entry("missing data", missing),
    Entry("a list of views, and a flag", imputed),
    Entry("a tensor in common", weights_in_common),
    Entry("ClippedAdam", functools.partial(_pair, plate), optim=lambda: pyro.optim.ClippedAdam({"lr": 0.01})),
    Entry("a scheduler of the learning rate", functools.partial(_pair, plate), optim=scheduled),
]
