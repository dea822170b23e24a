"""Probabilistic PCA that notes each latent it sees, and its densities written out: to check a step on its own draws."""

import math

from linear_gaussian import LinearGaussian
from pyro import poutine


class Recorded(LinearGaussian):
    """The oracle; `seen` keeps a list of (x, z) for each run of the model and of the guide."""

    def __init__(self, num_data=40, latent_dim=2, data_dim=4):
        super().__init__(num_data, latent_dim, data_dim)
        self.seen = {"model": [], "guide": []}

    def model(self, x):
        nodes = poutine.trace(super().model).get_trace(x).nodes
        self.seen["model"].append((nodes["x"]["value"].detach(), nodes["z"]["value"].detach()))

    def guide(self, x):
        nodes = poutine.trace(super().guide).get_trace(x).nodes
        self.seen["guide"].append((x, nodes["z"]["value"].detach()))

    # -- log densities in nats, (..., M) for z (..., M, J) ------------------------------------------------------------

    def log_likelihood(self, x, z):
        W, m, log_s = self.value("W"), self.value("m"), self.value("log_s")
        residual = (x - m - z @ W.T) / log_s.exp()
        return -0.5 * residual.square().sum(-1) - self.data_dim * (log_s + 0.5 * math.log(2 * math.pi))

    def log_prior(self, z):
        return -0.5 * z.square().sum(-1) - 0.5 * self.latent_dim * math.log(2 * math.pi)

    def log_joint(self, x, z):
        return self.log_likelihood(x, z) + self.log_prior(z)

    def log_q(self, x, z):
        loc, r = (x - self.value("c")) @ self.value("A").T, self.value("r")
        return -0.5 * ((z - loc) / r.exp()).square().sum(-1) - r.sum() - 0.5 * self.latent_dim * math.log(2 * math.pi)

    def log_weight(self, x, z):
        return self.log_joint(x, z) - self.log_q(x, z)

    def log_theta(self):
        """log p(theta) under a unit Gaussian for each of its elements."""
        values = [self.value(name) for name in ("W", "m", "log_s")]
        return -0.5 * sum((v.square() + math.log(2 * math.pi)).sum() for v in values)
