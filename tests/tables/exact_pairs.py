"""Model and guide pairs with one or two latents and a log p(x) that can be written down: name -> pair, x, log p(x)."""

import math

import pyro
import pyro.distributions as dist
import torch
from linear_gaussian import LinearGaussian
from pairs import Pair
from torch.distributions import MultivariateNormal

N = 50


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def posterior_pair(lg, width=1.05):
    """Probabilistic PCA at its true parameters, and a guide that is its posterior, `width` times as wide."""
    lg.set(**lg.true)
    P, W, s = lg.precision(), lg.value("W"), lg.value("log_s").exp()
    A, m = torch.linalg.solve(P, W.T / s**2), lg.value("m")
    factor = width * torch.linalg.cholesky(torch.linalg.inv(P))

    def guide(x):
        with pyro.plate("data", lg.num_data, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.MultivariateNormal((x - m) @ A.T, scale_tril=factor))

    return Pair(lg.model, guide)


def beta_bernoulli(num_data=N):
    """z ~ Beta(2, 3), x|z: five throws of z."""
    x = (torch.rand(num_data, 5, generator=torch.Generator().manual_seed(0)) < 0.4).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Beta(torch.tensor(2.0).double(), 3.0))
            pyro.sample("x", dist.Bernoulli(z[..., None].expand(*z.shape, 5)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(1.8 + 0.9 * x.sum(-1), 2.8 + 0.9 * (1 - x).sum(-1)))

    def log_beta(a, b):
        return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

    ones = x.sum(-1)
    return Pair(model, guide), x, log_beta(2 + ones, 8 - ones) - log_beta(torch.tensor(2.0), torch.tensor(3.0))


def gamma_poisson(num_data=N):
    """z ~ Gamma(2, 1), x|z ~ Poisson(z): x is negative binomial."""
    x = torch.poisson(3 * torch.rand(num_data, generator=torch.Generator().manual_seed(0)).double() + 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.tensor(2.0).double(), 1.0))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(0.9 * (2 + x), 1.8))

    return Pair(model, guide), x, dist.NegativeBinomial(torch.tensor(2.0).double(), 0.5).log_prob(x)


def mixture_prior(num_data=N):
    """z ~ 0.3 N(-2, 0.5^2) + 0.7 N(1, 1), x|z ~ N(z, 1.5^2): the posterior has two modes."""
    weights, means, scales = (torch.tensor(v).double() for v in ([0.3, 0.7], [-2.0, 1.0], [0.5, 1.0]))
    x = normal(num_data) * 2

    def model(x):
        with pyro.plate("data", len(x)):
            prior = dist.MixtureSameFamily(
                dist.Categorical(weights.expand(len(x), 2)), dist.Normal(means.expand(len(x), 2), scales)
            )
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(6.0, 0.4 * x - 0.3, 1.8))

    components = dist.Normal(means, (scales**2 + 1.5**2).sqrt()).log_prob(x[:, None]) + weights.log()
    return Pair(model, guide), x, components.logsumexp(-1)


def laplace_prior(num_data=N):
    """z ~ Laplace(0, 1), x|z ~ N(z, 1): a density with an edge in it."""
    x = normal(num_data) * 2

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Laplace(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.7 * x, 1.1))

    sides = [0.5 + sign * x + torch.special.log_ndtr(-sign * x - 1) for sign in (1, -1)]
    return Pair(model, guide), x, torch.logaddexp(*sides) - math.log(2)


def two_latents_in_turn(num_data=N):
    """top ~ N(0, 1), z ~ N(top, 1), x|z ~ N((z, -z), 1) with the second column hidden here and there; two sites."""
    x = normal(num_data, 2)
    seen = normal(num_data, seed=1) > 0

    def model(x, seen):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            z = pyro.sample("z", dist.Normal(top, 1.0))
            pyro.sample("x0", dist.Normal(z, 1.0), obs=x[:, 0])
            with pyro.poutine.mask(mask=seen):
                pyro.sample("x1", dist.Normal(-z, 1.0), obs=x[:, 1])

    def guide(x, seen):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(0.3 * x[:, 0], 1.0))
            pyro.sample("z", dist.Normal(0.5 * top + 0.3 * x[:, 0], 0.8))

    both = MultivariateNormal(torch.zeros(2).double(), torch.tensor([[3.0, -2.0], [-2.0, 3.0]]).double()).log_prob(x)
    one = dist.Normal(0.0, math.sqrt(3.0)).log_prob(x[:, 0])
    return Pair(model, guide), (x, seen), torch.where(seen, both, one)


def two_correlated_latents(num_data=N):
    """Probabilistic PCA with two latents, and a guide somewhat wider than the posterior."""
    lg = LinearGaussian(num_data, 2, 4)
    return posterior_pair(lg, 1.2), lg.x, lg.log_evidence(lg.x)


EXACT = {
    f.__name__: f
    for f in (beta_bernoulli, gamma_poisson, mixture_prior, laplace_prior, two_latents_in_turn, two_correlated_latents)
}
