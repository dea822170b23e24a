"""Variational autoencoders: one continuous latent for each datapoint, and a network each way."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from zoo.entry import CONTINUOUS_ONLY, Entry, Network, Pair, bits, data, normal, param, plate, positive, zeros


def _vae(likelihood, x, inputs=4, **more):
    decoder, encoder = Network(2, inputs), Network(inputs, 2, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with plate(x):
            z = pyro.sample("z", normal(2))
            pyro.sample("x", likelihood(decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with plate(x):
            loc, log_scale = encoder(x)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Pair(model, guide, (x,))


def bernoulli():
    return _vae(lambda out: dist.Bernoulli(logits=out), bits(12, 4))


def gaussian():
    return _vae(lambda out: dist.Normal(out, positive("s", 0.5)), data(12, 4))


def as_modules():
    class VAE(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder, self.encoder = Network(2, 4), Network(4, 2, 2)

        def model(self, x):
            pyro.module("vae", self)
            with plate(x):
                z = pyro.sample("z", normal(2))
                pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("vae", self)
            with plate(x):
                loc, log_scale = self.encoder(x)
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    vae = VAE()
    return Pair(vae.model, vae.guide, (bits(12, 4),))


def annealed():
    pair = bernoulli()

    def model(x, beta):
        with pyro.poutine.scale(scale=beta):
            pair.model(x)

    def guide(x, beta):
        with pyro.poutine.scale(scale=beta):
            pair.guide(x)

    return Pair(model, guide, (bits(12, 4),), {"beta": 0.5})


def batch_of_a_dict():
    pair = bernoulli()
    batch = {"image": bits(12, 4), "index": torch.arange(12)}
    return Pair(lambda batch: pair.model(batch["image"]), lambda batch: pair.guide(batch["image"]), (batch,))


def convolutional():
    decoder = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(-1, (1, 2, 2)), nn.Upsample(scale_factor=2)).double()
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4)).double()

    def model(x):
        pyro.module("decoder", decoder)
        with plate(x):
            z = pyro.sample("z", normal(2))
            logits = decoder(z.reshape(-1, 2)).reshape(*z.shape[:-1], 1, 4, 4)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with plate(x):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Pair(model, guide, (bits(12, 1, 4, 4),))


def two_layers():
    top, bottom, up, down = Network(2, 3, 3), Network(3, 4), Network(4, 3, 3), Network(3, 2, 2)
    parts = {"top": top, "bottom": bottom}, {"up": up, "down": down}

    def draw(name, out):
        return pyro.sample(name, dist.Normal(out[0], out[1].exp()).to_event(1))

    def model(x):
        for name, part in parts[0].items():
            pyro.module(name, part)
        with plate(x):
            z1 = draw("z1", top(pyro.sample("z2", normal(2))))
            pyro.sample("x", dist.Normal(bottom(z1), 0.5).to_event(1), obs=x)

    def guide(x):
        for name, part in parts[1].items():
            pyro.module(name, part)
        with plate(x):
            draw("z2", down(draw("z1", up(x))))

    return Pair(model, guide, (data(12, 4),))


def gamma_latents():
    """A sparse gamma deep exponential family, of one layer."""
    x = torch.poisson(data(12, 4).exp(), generator=torch.Generator().manual_seed(0))

    def model(x):
        w = positive("w", torch.full((2, 4), 0.5))
        with plate(x):
            z = pyro.sample("z", dist.Gamma(0.8 + zeros(2), 0.5 + zeros(2)).to_event(1))
            pyro.sample("x", dist.Poisson(z @ w + 0.01).to_event(1), obs=x)

    def guide(x):
        shape, mean = positive("shape", torch.ones(2)), positive("mean", torch.ones(2))
        with plate(x):
            each = 1 + 0.0 * x[..., :2]
            pyro.sample("z", dist.Gamma(shape * each, shape / mean * each).to_event(1))

    return Pair(model, guide, (x,))


def discrete():
    def model(x):
        w = param("w", 0.3 * data(3, 4))
        with plate(x):
            z = pyro.sample("z", dist.Bernoulli(0.5 + zeros(3)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ w).to_event(1), obs=x)

    def guide(x):
        v = param("v", 0.3 * data(4, 3))
        with plate(x):
            pyro.sample("z", dist.Bernoulli(logits=x @ v).to_event(1))

    return Pair(model, guide, (bits(12, 4),))


ENTRIES = [
    Entry("vae, Bernoulli", bernoulli),
    Entry("vae, Gaussian", gaussian),
    Entry("vae, PyroModule", as_modules),
    Entry("vae, annealed by a number", annealed, scaled=True),
    Entry("vae, a dict as the batch", batch_of_a_dict),
    Entry("vae, convolutions", convolutional),
    Entry("vae, two layers", two_layers, mean_field=False),
    Entry("vae, Gamma latents", gamma_latents),
    Entry("vae, Bernoulli latents", discrete, senseless=CONTINUOUS_ONLY),
]
