"""Pairs beside the VAE for step_time.py: weights as global latents, labels summed out, a guide that Pyro makes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from step_cases import Block, Case, Decoder, Encoder, Feed, Networks, blocks, linear
from torch import Tensor, nn

from pyro_aevb import AEVB, SGVB, Bayesian

RATE, CLASSES, INPUTS = 1e-3, 10, 50
Pair = tuple[Callable[..., Any], Callable[..., Any]]


def full_vb(case: Case) -> Pair:
    """The paper's VAE on MNIST with N(0, 1) priors on the decoder's weights (Appendix F)."""
    networks = Networks(case)
    pair = Bayesian(networks.model, networks.guide, Feed(case)())
    return pair.model, pair.guide


def beside(a: Tensor, b: Tensor) -> Tensor:
    """Concatenate along the last dimension, the others broadcast."""
    shape = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*shape, -1), b.expand(*shape, -1)], -1)


class SemiSupervised(nn.Module):
    """M2 of Kingma et al. 2014 on images without labels: q(y|x) q(z|x, y), y enumerated in the guide."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.case = case
        self.encoder = Encoder(case._replace(x_dim=case.x_dim + CLASSES))
        self.decoder = Decoder(case._replace(latent_dim=case.latent_dim + CLASSES))
        self.classifier = nn.Sequential(linear(case.x_dim, case.hidden), nn.Tanh(), linear(case.hidden, CLASSES))
        self.to(case.device)

    def model(self, x: Tensor) -> None:
        """p(y) p(z) p(x|y, z)."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(len(x), CLASSES)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.case.latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(beside(y, z))).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(y|x) q(z|x, y)."""
        pyro.module("encoder", self.encoder)
        pyro.module("classifier", self.classifier)
        with pyro.plate("data", len(x)):
            q = dist.OneHotCategorical(logits=self.classifier(x))
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(*self.encoder(beside(x, y))).to_event(1))


def m2(case: Case) -> Pair:
    """Return the semi-supervised model, on images without labels."""
    networks = SemiSupervised(case)
    return networks.model, networks.guide


def auto_normal(case: Case) -> Pair:
    """Bayesian linear regression of a pixel on 50 others, with Pyro's AutoNormal for the coefficients."""

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(INPUTS), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            loc = (x[:, 1 : 1 + INPUTS] * w.unsqueeze(-2)).sum(-1)
            pyro.sample("x", dist.Normal(loc, 0.5), obs=x[:, 0])

    guide = AutoNormal(model, init_scale=0.1)
    guide(Feed(case)())
    return model, guide


def variants(make: Callable[[Case], Pair], stock: Any, device: str) -> dict[str, Callable[[], Block]]:
    """Return stock Pyro and this library for a pair, by name."""
    case = Case("", device=device)

    def pyro_block() -> Block:
        svi = SVI(*make(case), pyro.optim.Adam({"lr": RATE}), stock())
        return blocks(svi.step, case)

    def our_block(compile: Any) -> Block:
        adam = functools.partial(torch.optim.Adam, lr=RATE, fused=True)
        learner = AEVB(*make(case), adam, SGVB(), compile=compile)
        return blocks(lambda x: learner.step(x).loss, case)

    return {
        f"pyro {stock().__class__.__name__.removesuffix('_ELBO')}": pyro_block,
        "ours, eager": lambda: our_block(False),
        "ours, graph": lambda: our_block("graph"),
        "ours, compiled": lambda: our_block(True),
    }


PAIRS = {
    "full VB": functools.partial(variants, full_vb, Trace_ELBO),
    "M2 enumerated": functools.partial(variants, m2, functools.partial(TraceEnum_ELBO, max_plate_nesting=1)),
    "AutoNormal": functools.partial(variants, auto_normal, Trace_ELBO),
}
