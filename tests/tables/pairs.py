"""Model and guide pairs that the contract tests run over: name -> (make, data), nothing in common but the contract."""

import pyro
import pyro.distributions as dist
import torch
from linear_gaussian import LinearGaussian
from pyro import poutine
from torch import nn

from pyro_aevb import VAE

N = 40


class Pair:
    """A model and its guide."""

    def __init__(self, model, guide):
        self.model, self.guide = model, guide


def outside_the_support(scale):
    """z ~ Uniform(0, 1), unchecked, x ~ N(z, 1), and a guide whose draws are at -50 for x above 5: weights of zero."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros_like(x), 1.0, validate_args=False))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.where(x > 5, -50.0, 0.5), scale))

    return model, guide


def linear_gaussian():
    lg = LinearGaussian(N, 2, 4)
    return lg, lg.x


def bernoulli_vae():
    x = (torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    return VAE(6, 2, hidden_dims=(5,), dataset_size=N).double(), x


def batch_norm_vae():
    x = (torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    encoder = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 4))
    return VAE(6, 2, hidden_dims=(5,), encoder=encoder, dataset_size=40).double(), x


def gaussian_vae():
    x = torch.rand(N, 6, generator=torch.Generator().manual_seed(0)).double()
    return VAE(6, 2, hidden_dims=(5,), likelihood="sigmoid-gaussian", dataset_size=N).double(), x


def gamma_poisson():
    """z ~ Gamma(2, b), x|z ~ Poisson(z): a latent with constrained support, a parameter with a constraint."""

    def model(x):
        rate = pyro.param("prior_rate", torch.tensor(1.0).double(), constraint=dist.constraints.positive)
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Gamma(torch.tensor(2.0).double(), rate))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        a = pyro.param("a", torch.tensor(1.0).double(), constraint=dist.constraints.positive)
        b = pyro.param("b", torch.tensor(1.0).double(), constraint=dist.constraints.positive)
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Gamma(x + a, 1 + b))

    generator = torch.Generator().manual_seed(0)
    return Pair(model, guide), torch.poisson(torch.rand(N, generator=generator).double() * 6, generator=generator)


def two_level():
    """Two latents one above the other, one of them masked out of the likelihood here and there; an nn.Module."""
    net = nn.Linear(2, 3).double()

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", N, subsample_size=len(x)):
            top = pyro.sample("top", dist.Normal(torch.zeros(len(x), 1).double(), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(top.expand((*top.shape[:-1], 2)), 1.0).to_event(1))
            with poutine.mask(mask=x[:, 0] > -1):
                pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    def guide(x):
        w = pyro.param("w", torch.eye(3).double() * 0.3)
        h = x @ w
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("top", dist.Normal(h[:, :1], 0.7).to_event(1))
            pyro.sample("z", dist.Normal(h[:, 1:], 0.7).to_event(1))

    return Pair(model, guide), torch.randn(N, 3, generator=torch.Generator().manual_seed(0)).double()


CONTINUOUS = {f.__name__: f for f in (linear_gaussian, bernoulli_vae, gaussian_vae, gamma_poisson, two_level)}


def sigmoid_belief_net():
    """z ~ Bernoulli(sigmoid(a)) in {0,1}^3, x|z ~ Bernoulli(sigmoid(W z + b)) in {0,1}^6."""

    def model(x):
        a = pyro.param("prior", torch.zeros(3).double())
        W = pyro.param("W", lambda: torch.randn(6, 3).double())
        b = pyro.param("bias", torch.zeros(6).double())
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=a.expand(len(x), 3)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ W.T + b).to_event(1), obs=x)

    def guide(x):
        V = pyro.param("V", torch.zeros(3, 6).double())
        c = pyro.param("c", torch.zeros(3).double())
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Bernoulli(logits=x @ V.T + c).to_event(1))

    return Pair(model, guide), (torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()


DISCRETE = {"sigmoid_belief_net": sigmoid_belief_net}
