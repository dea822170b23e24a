"""Factors: principal components, matrices, item responses, time series with a Gaussian process."""

import pyro
import pyro.distributions as dist
import torch
from pyro.contrib.gp.kernels import RBF

from zoo.entry import WITH_GLOBALS, Entry, Pair, bits, data, normal, param, plate, positive, zeros


def _amortized(k, j):
    def guide(x, *_):
        v = param("v", 0.1 * data(k, j, seed=2))
        with plate(x):
            pyro.sample("z", dist.Normal(x @ v, positive("r", 0.7)).to_event(1))

    return guide


def principal_components():
    def model(x):
        w, s = param("w", data(2, 4, seed=1)), positive("s", 0.5)
        with plate(x):
            z = pyro.sample("z", normal(2))
            pyro.sample("x", dist.Normal(z @ w, s).to_event(1), obs=x)

    return Pair(model, _amortized(4, 2), (data(12, 4),))


def full_covariance():
    def model(x):
        w = param("w", data(2, 4, seed=1))
        with plate(x):
            z = pyro.sample("z", normal(2))
            pyro.sample("x", dist.LowRankMultivariateNormal(z @ w, w.t(), 0.3 + zeros(4)), obs=x)

    def guide(x):
        v, tril = param("v", 0.1 * data(4, 2)), param("tril", torch.eye(2), constraint=dist.constraints.lower_cholesky)
        with plate(x):
            pyro.sample("z", dist.MultivariateNormal(x @ v, scale_tril=tril))

    return Pair(model, guide, (data(12, 4),))


def matrix():
    """Users are datapoints, items a plate within one, and what isn't rated is masked."""

    def model(x, rated):
        w = param("w", data(4, 2, seed=1))
        with pyro.plate("data", 12, subsample_size=len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(zeros(1, 2), 1.0).to_event(1))
            with pyro.plate("items", 4, dim=-1), pyro.poutine.mask(mask=rated):
                pyro.sample("x", dist.Normal((z * w).sum(-1), 0.5), obs=x)

    def guide(x, rated):
        v = param("v", 0.1 * data(4, 2, seed=2))
        with pyro.plate("data", 12, subsample_size=len(x), dim=-2):
            pyro.sample("z", dist.Normal(((x * rated) @ v).unsqueeze(-2), 0.7).to_event(1))

    return Pair(model, guide, (data(12, 4), bits(12, 4, seed=3).bool()))


def item_response():
    """Ability is a datapoint's own; the items' difficulties are global latents."""

    def model(x):
        with pyro.plate("items", 4):
            difficulty = pyro.sample("difficulty", normal())
        with plate(x):
            ability = pyro.sample("ability", normal())
            logits = ability[..., None] - difficulty[..., None, :]
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("items", 4):
            pyro.sample("difficulty", dist.Normal(param("d", torch.zeros(4)), positive("dv", torch.ones(4))))
        k = param("k", 0.5)
        with plate(x):
            pyro.sample("ability", dist.Normal(k * (x.mean(-1) - 0.5), 0.7))

    return Pair(model, guide, (bits(12, 4),))


def gaussian_process():
    """A smooth function for each datapoint, seen through a link."""
    times = torch.linspace(0, 1, 3).double()[:, None]
    kernel = RBF(1, variance=torch.tensor(1.0).double(), lengthscale=torch.tensor(0.4).double())

    def model(x):
        pyro.module("kernel", kernel)
        cov = kernel(times) + 1e-3 * torch.eye(3).double()
        with plate(x):
            f = pyro.sample("f", dist.MultivariateNormal(zeros(3), cov))
            pyro.sample("x", dist.Bernoulli(logits=f).to_event(1), obs=x)

    def guide(x):
        k = param("k", 0.5)
        with plate(x):
            pyro.sample("f", dist.Normal(k * (x - 0.5), 0.7).to_event(1))

    return Pair(model, guide, (bits(12, 3),))


def basis_functions():
    """A Gaussian process by its basis functions: global weights."""
    centers = torch.linspace(-1, 1, 4).double()

    def model(x, y):
        w = pyro.sample("w", normal(4))
        features = torch.exp(-((x[:, None] - centers) ** 2))
        with plate(x):
            pyro.sample("y", dist.Normal((features * w[..., None, :]).sum(-1), positive("s", 0.5)), obs=y)

    def guide(x, y):
        loc, tril = (
            param("loc", torch.zeros(4)),
            param("tril", torch.eye(4), constraint=dist.constraints.lower_cholesky),
        )
        pyro.sample("w", dist.MultivariateNormal(loc, scale_tril=tril))

    return Pair(model, guide, (data(12), data(12, seed=1)))


ENTRIES = [
    Entry("principal components", principal_components),
    Entry("factors, full covariance", full_covariance),
    Entry("matrix with missing entries", matrix),
    Entry("item response", item_response, senseless=WITH_GLOBALS),
    Entry("gaussian process, latent", gaussian_process),
    Entry("gaussian process, basis functions", basis_functions, senseless=WITH_GLOBALS),
]
