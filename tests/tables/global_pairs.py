"""Pairs with global latents whose posterior, log p(X) and predictive density are known: name -> a record of them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import MultivariateNormal

N = 6


class GlobalPair(NamedTuple):
    """A model, the guide that is its posterior given all of the data, the data, log p(X), and log p(x_new|X)."""

    model: Callable[..., None]
    guide: Callable[..., None]
    data: tuple[Tensor, ...]
    log_evidence: float
    predictive: Callable[..., Tensor]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def one(value=1.0):
    return torch.tensor(value).double()


def mean_of_local_latents():
    """w ~ N(0, 1), z_n ~ N(w, 1), x_n ~ N(z_n, 1): a hierarchical normal."""
    x = normal(N) + 1

    def model(x):
        w = pyro.sample("w", dist.Normal(one(0.0), 1.0))
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    precision, total = 1 + N / 2, x.sum() / 2

    def guide(x):
        w = pyro.sample("w", dist.Normal(total / precision, precision**-0.5))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal((x + w) / 2, 0.5**0.5))

    covariance = 2 * torch.eye(N).double() + 1
    log_evidence = MultivariateNormal(torch.zeros(N).double(), covariance).log_prob(x).item()
    marginal = dist.Normal(total / precision, (2 + 1 / precision) ** 0.5)
    return GlobalPair(model, guide, (x,), log_evidence, marginal.log_prob)


def linear_regression():
    """w ~ N(0, I), y_n ~ N(w . a_n, 0.7^2): global latents alone, and the inputs among the arguments."""
    a, noise = normal(N, 3), 0.7
    y = a @ torch.tensor([1.0, -1.0, 0.5]).double() + noise * normal(N, seed=1)

    def model(y, a):
        w = pyro.sample("w", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        with pyro.plate("data", N, subsample_size=len(y)):
            pyro.sample("y", dist.Normal((a * w).sum(-1), noise), obs=y)

    precision = torch.eye(3).double() + a.T @ a / noise**2
    mean = torch.linalg.solve(precision, a.T @ y / noise**2)

    def guide(y, a):
        pyro.sample("w", dist.MultivariateNormal(mean, precision_matrix=precision))

    def predictive(y, a):
        variance = noise**2 + (a * torch.linalg.solve(precision, a.T).T).sum(-1)
        return dist.Normal(a @ mean, variance.sqrt()).log_prob(y)

    covariance = a @ a.T + noise**2 * torch.eye(N).double()
    log_evidence = MultivariateNormal(torch.zeros(N).double(), covariance).log_prob(y).item()
    return GlobalPair(model, guide, (y, a), log_evidence, predictive)


def mean_and_precision():
    """tau ~ Gamma(2, 1), mu ~ N(0, 1/tau), x_n ~ N(mu, 1/tau): two global latents, one drawn from the other."""
    x = 1.5 * normal(N) + 0.5

    def model(x):
        tau = pyro.sample("tau", dist.Gamma(one(2.0), 1.0))
        mu = pyro.sample("mu", dist.Normal(0.0, tau**-0.5))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(mu, tau**-0.5), obs=x)

    kappa, a = 1 + N, 2 + N / 2
    m = x.sum() / kappa
    b = 1 + (x.square().sum() - kappa * m**2) / 2

    def guide(x):
        tau = pyro.sample("tau", dist.Gamma(one(a), b))
        pyro.sample("mu", dist.Normal(m, (kappa * tau) ** -0.5))

    log_evidence = math.lgamma(a) - a * math.log(b) - math.log(kappa) / 2 - N / 2 * math.log(2 * math.pi)
    marginal = dist.StudentT(2 * a, m, (b * (kappa + 1) / (a * kappa)).sqrt())
    return GlobalPair(model, guide, (x,), log_evidence, marginal.log_prob)


def rate_of_counts():
    """r ~ Gamma(2, 1), x_n ~ Poisson(r)."""
    x = torch.tensor([0.0, 2.0, 3.0, 1.0, 4.0, 2.0]).double()

    def model(x):
        r = pyro.sample("r", dist.Gamma(one(2.0), 1.0))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("x", dist.Poisson(r), obs=x)

    a, b = 2 + x.sum(), one(1.0 + N)

    def guide(x):
        pyro.sample("r", dist.Gamma(a, b))

    log_evidence = (torch.lgamma(a) - math.lgamma(2) - a * b.log() - torch.lgamma(x + 1).sum()).item()
    return GlobalPair(model, guide, (x,), log_evidence, dist.NegativeBinomial(a, probs=1 / (1 + b)).log_prob)


def observed_outside():
    """The hierarchical normal, y ~ N(w, 1) observed once, outside of the plate, and another one that is masked off."""
    x, y = normal(N) + 1, one(2.5)

    def model(x):
        w = pyro.sample("w", dist.Normal(one(0.0), 1.0))
        pyro.sample("y", dist.Normal(w, 1.0), obs=y)
        with poutine.mask(mask=torch.tensor(False)):
            pyro.sample("absent", dist.Normal(w, 1.0), obs=one(9.0))
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    precision, total = 2 + N / 2, x.sum() / 2 + y

    def guide(x):
        w = pyro.sample("w", dist.Normal(total / precision, precision**-0.5))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal((x + w) / 2, 0.5**0.5))

    covariance = torch.diag(torch.tensor([2.0] * N + [1.0])).double() + 1
    log_evidence = MultivariateNormal(torch.zeros(N + 1).double(), covariance).log_prob(torch.cat([x, y[None]])).item()
    marginal = dist.Normal(total / precision, (2 + 1 / precision) ** 0.5)
    return GlobalPair(model, guide, (x,), log_evidence, marginal.log_prob)


PAIRS = mean_of_local_latents, linear_regression, mean_and_precision, rate_of_counts, observed_outside
GLOBAL = {f.__name__: f for f in PAIRS}
