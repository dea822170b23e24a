"""Every prior with every posterior that fits, and a VAE made of them."""

import pyro
import torch

from pyro_aevb import VAE
from pyro_aevb.vae.priors import PRIORS

J, D, N = 3, 5, 40
POSITIVE = ("log-normal", "gamma", "exponential"), ("log-normal", "gamma", "weibull")
OTHER = (("beta",), ("beta",)), (("dirichlet",), ("dirichlet",))
REAL = tuple(p for p in PRIORS if p not in (*POSITIVE[0], "beta", "dirichlet")), (
    "normal", "full", "low-rank", "mixture", "planar", "iaf", "spline",
)  # fmt: skip
FITTING = [(p, q) for priors, posteriors in (REAL, POSITIVE, *OTHER) for p in priors for q in posteriors]
FITTING = [pair for pair in FITTING if pair[0] != "vamp" or pair[1] not in ("mixture", "planar")]
FITTING += [("vamp", q) for q in (*POSITIVE[1], "beta", "dirichlet")]  # its support is the posterior's


def make(prior, posterior, likelihood="bernoulli", **kwargs):
    options = {"hidden_dims": (6,), "dataset_size": N} | kwargs
    return VAE(D, J, prior=prior, posterior=posterior, likelihood=likelihood, **options).double()


def data():
    pyro.set_rng_seed(5)
    return (torch.rand(N, D) < 0.4).double()
