"""The models that step_time.py trains: shapes, networks, Pyro functions, the loss by hand, images and minibatches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn

IMAGES = 5000
Block = Callable[[int], float]  # makes n steps and returns their mean loss, nats per datapoint


class Case(NamedTuple):
    """One set of shapes: D pixels, H hidden units, J latents, M images a batch, K particles."""

    name: str
    x_dim: int = 784
    hidden: int = 500
    latent_dim: int = 20
    batch: int = 100
    particles: int = 1
    gaussian: bool = False
    conv: bool = False
    flow: bool = False
    dynamic: bool = False  # pixels drawn anew in each step
    device: str = "cpu"

    @property
    def outputs(self) -> int:
        """How many numbers the decoder gives."""
        return self.x_dim * (1 + self.gaussian)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a layer with fan-in initialisation."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """q(z|x)'s mean and log variance."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        if case.conv:
            self.net = nn.Sequential(
                nn.Unflatten(-1, (1, 28, 28)), nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1),
                nn.ReLU(), nn.Flatten(), linear(64 * 49, 2 * case.latent_dim),
            )  # fmt: skip
        else:
            self.net = nn.Sequential(
                linear(case.x_dim, case.hidden), nn.Tanh(), linear(case.hidden, 2 * case.latent_dim)
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and scale."""
        loc, log_variance = self.net(x).chunk(2, -1)
        return loc, (0.5 * log_variance).exp()


class Decoder(nn.Module):
    """p(x|z)'s logits, or mean and log variance."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        if case.conv:
            self.net = nn.Sequential(
                linear(case.latent_dim, 64 * 49), nn.ReLU(), nn.Unflatten(-1, (64, 7, 7)),
                nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Flatten(),
            )  # fmt: skip
        else:
            self.net = nn.Sequential(linear(case.latent_dim, case.hidden), nn.Tanh(), linear(case.hidden, case.outputs))

    def forward(self, z: Tensor) -> Tensor:
        """Return the outputs."""
        return self.net(z)


class Networks(nn.Module):
    """The networks of a case, the same ones for every variant in PyTorch, and the model and guide over them."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.case, self.encoder, self.decoder = case, Encoder(case), Decoder(case)
        self.flow = AutoRegressiveNN(case.latent_dim, [100]) if case.flow else None
        self.to(case.device)

    def model(self, x: Tensor) -> None:
        """p(z) p(x|z)."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.case.latent_dim), 1.0).to_event(1))
            h = self.decoder(z)
            if self.case.gaussian:
                loc, log_variance = h.chunk(2, -1)
                pyro.sample("x", dist.Normal(loc.sigmoid(), (0.5 * log_variance).exp()).to_event(1), obs=x)
            else:
                pyro.sample("x", dist.Bernoulli(logits=h).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z|x)."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            q = dist.Normal(*self.encoder(x)).to_event(1)
            if self.flow is not None:
                pyro.module("flow", self.flow)
                q = dist.TransformedDistribution(q, [AffineAutoregressive(self.flow)])
            pyro.sample("z", q)

    def loss(self, x: Tensor) -> Tensor:
        """Return the same loss written by hand: -L^B, -L^A with a flow, the IWAE bound for K > 1."""
        k = self.case.particles
        if self.case.dynamic:
            x = torch.bernoulli(x)
        loc, scale = self.encoder(x)
        if k > 1:
            loc, scale = loc.expand(k, *loc.shape), scale.expand(k, *scale.shape)
        eps = torch.randn_like(loc)
        z, log_det = loc + scale * eps, 0.0
        if self.flow is not None:
            shift, log_scale = self.flow(z)
            log_scale = log_scale.clamp(-5.0, 3.0)
            z, log_det = log_scale.exp() * z + shift, log_scale.sum(-1)
        log_likelihood = self.log_likelihood(x, z)
        if k == 1 and self.flow is None:
            kl = 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum(-1)
            return (kl - log_likelihood).sum()
        log_weight = (
            log_likelihood - 0.5 * z.square().sum(-1) + 0.5 * eps.square().sum(-1) + scale.log().sum(-1) + log_det
        )
        return -(log_weight.logsumexp(0) - math.log(k)).sum() if k > 1 else -log_weight.sum()

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z) by hand."""
        h = self.decoder(z)
        if self.case.gaussian:
            loc, log_variance = h.chunk(2, -1)
            error = (x - loc.sigmoid()).square() * (-log_variance).exp()
            return -0.5 * (error + log_variance + math.log(2 * math.pi)).sum(-1)
        return -F.binary_cross_entropy_with_logits(h, x.expand_as(h), reduction="none").sum(-1)


def images(case: Case) -> Tensor:
    """Return 5000 images: ten random prototypes, each pixel flipped or blurred at random."""
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(10, case.x_dim, generator=generator) < 0.3
    chosen = prototypes[torch.randint(10, (IMAGES,), generator=generator)].float()
    if case.gaussian:
        return (0.5 + 0.4 * (chosen - 0.5) + 0.1 * torch.randn(chosen.shape, generator=generator)).clamp(0, 1)
    if case.dynamic:
        return 0.1 + 0.8 * chosen
    return torch.where(torch.rand(chosen.shape, generator=generator) < 0.1, 1 - chosen, chosen)


class Feed:
    """Minibatches of the same images in the same order for every variant."""

    def __init__(self, case: Case) -> None:
        self.x = images(case).to(case.device)
        generator = torch.Generator().manual_seed(1)
        self.index = torch.randint(IMAGES, (200, case.batch), generator=generator).to(case.device)
        self._next = 0

    def __call__(self) -> Tensor:
        """Return the next minibatch."""
        self._next += 1
        return self.x.index_select(0, self.index[self._next % len(self.index)])


def blocks(step: Callable[[Tensor], Any], case: Case) -> Block:
    """Make a variant's block of a step that returns a loss for the minibatch."""
    feed = Feed(case)

    def block(n: int) -> float:
        total: Any = 0.0
        for _ in range(n):
            total = total + step(feed())
        return float(total) / n / case.batch

    return block
