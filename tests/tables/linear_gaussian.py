"""Probabilistic PCA, where everything can be written down: the oracle of these tests.

    z ~ N(0, I_J),   x|z ~ N(W z + m, s^2 I_D),   p(x) = N(m, W W' + s^2 I)
    posterior N(P^-1 W'(x - m) / s^2, P^-1),  P = I + W'W / s^2
    guide q(z|x) = N(A (x - c), diag(exp(2 r)))

theta = (W, m, log s) and phi = (A, c, r) are `pyro.param`s. Float64.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal


class LinearGaussian:
    """The pair, its data, and its closed forms."""

    def __init__(self, num_data: int, latent_dim: int, data_dim: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.num_data, self.latent_dim, self.data_dim = num_data, latent_dim, data_dim
        self.true = {"W": normal(data_dim, latent_dim), "m": normal(data_dim), "log_s": torch.tensor(-0.5).double()}
        noise = self.true["log_s"].exp() * normal(num_data, data_dim)
        self.x = normal(num_data, latent_dim) @ self.true["W"].T + self.true["m"] + noise
        self.initial = {
            "W": normal(data_dim, latent_dim) * 0.5,
            "m": normal(data_dim) * 0.1,
            "log_s": torch.tensor(0.0).double(),
            "A": normal(latent_dim, data_dim) * 0.2,
            "c": normal(data_dim) * 0.1,
            "r": normal(latent_dim) * 0.1 - 0.3,
        }

    def param(self, name: str) -> Tensor:
        return pyro.param(name, lambda: self.initial[name].clone())

    def set(self, **values: Tensor) -> None:
        """Give parameters their values before a learner sees them."""
        self.initial.update({n: v.clone() for n, v in values.items()})

    def model(self, x: Tensor) -> None:
        W, m, s = self.param("W"), self.param("m"), self.param("log_s").exp()
        with pyro.plate("data", self.num_data, subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W.T + m, s).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        loc, scale = (x - self.param("c")) @ self.param("A").T, self.param("r").exp()
        with pyro.plate("data", self.num_data, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(loc, scale.expand_as(loc)).to_event(1))

    # -- closed forms, parameters as they are in the store or at their initial values ---------------------------------

    def value(self, name: str) -> Tensor:
        return self.param(name).detach()

    def precision(self) -> Tensor:
        W, s = self.value("W"), self.value("log_s").exp()
        return torch.eye(self.latent_dim).double() + W.T @ W / s**2

    def posterior_loc(self, x: Tensor) -> Tensor:
        W, s = self.value("W"), self.value("log_s").exp()
        return torch.linalg.solve(self.precision(), W.T @ (x - self.value("m")).T / s**2).T

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x_n), shape (N,)."""
        W, s = self.value("W"), self.value("log_s").exp()
        covariance = W @ W.T + s**2 * torch.eye(self.data_dim).double()
        return MultivariateNormal(self.value("m"), covariance).log_prob(x)

    def elbo(self, x: Tensor) -> Tensor:
        """E_q[log p(x_n, z) - log q(z|x_n)], shape (N,)."""
        W, m, s = self.value("W"), self.value("m"), self.value("log_s").exp()
        loc, r = (x - self.value("c")) @ self.value("A").T, self.value("r")
        variance = (2 * r).exp()
        residual = (x - m - loc @ W.T).square().sum(-1) + (variance * W.square().sum(0)).sum()
        expected = -self.data_dim * (0.5 * math.log(2 * math.pi) + s.log()) - 0.5 * residual / s**2
        return expected + 0.5 * (1 + 2 * r - loc.square() - variance).sum(-1)

    def best_diagonal_elbo(self, x: Tensor) -> Tensor:
        """The largest bound of any diagonal Gaussian: low by (sum_j log P_jj - log det P) / 2."""
        P = self.precision()
        return self.log_evidence(x) - 0.5 * (P.diagonal().log().sum() - torch.logdet(P))

    def maximum_likelihood(self) -> float:
        """The largest mean log evidence of the data over theta (Tipping & Bishop 1999, Eqs. (7)-(8))."""
        S = torch.cov(self.x.T, correction=0)
        eigenvalues, vectors = torch.linalg.eigh(S)
        eigenvalues, vectors = eigenvalues.flip(0), vectors.flip(1)
        variance = eigenvalues[self.latent_dim :].mean()
        W = vectors[:, : self.latent_dim] * (eigenvalues[: self.latent_dim] - variance).sqrt()
        covariance = W @ W.T + variance * torch.eye(self.data_dim).double()
        return MultivariateNormal(self.x.mean(0), covariance).log_prob(self.x).mean().item()
