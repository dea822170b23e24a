"""A VAE in the paper's notation, as text."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributions import constraints

from pyro_aevb.vae.missingness import Missingness
from pyro_aevb.vae.posteriors import Posterior
from pyro_aevb.vae.priors import Prior

SUPPORTS = {
    "real": (constraints.real, constraints.real_vector),
    "positive": (constraints.positive, constraints.nonnegative),
    "between 0 and 1": (constraints.unit_interval,),
    "on the simplex": (constraints.simplex,),
}


def support_in_words(support: Any) -> str:
    """Return the name of the kind of numbers in a support, whatever its shape.

    >>> from torch.distributions import constraints
    >>> from pyro_aevb.vae.notation import support_in_words
    >>> support_in_words(constraints.independent(constraints.positive, 1))
    'positive'
    """
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    for words, kinds in SUPPORTS.items():
        if support in kinds or repr(support) in map(repr, kinds):
            return words
    return repr(support)


def network_in_words(network: nn.Module) -> str:
    """Return the sizes of a perceptron's layers, or another network's name.

    >>> from torch import nn
    >>> from pyro_aevb.vae.notation import network_in_words
    >>> network_in_words(nn.Sequential(nn.Linear(784, 500), nn.Tanh(), nn.Linear(500, 40)))
    '784-500-40'
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if isinstance(network, nn.Sequential) and len(network) == 2 * len(layers) - 1:
        return "-".join(str(size) for size in [layers[0].in_features, *(layer.out_features for layer in layers)])
    return type(network).__name__.strip("_")


def vae_in_words(
    prior: Prior,
    likelihood: Any,
    posterior: Posterior,
    encoder: nn.Module,
    decoder: nn.Module,
    latent_dim: int,
    x_dim: int,
    missingness: Missingness | None = None,
    covariates: int = 0,
) -> str:
    """Return the parts of a VAE of J latent and D data dimensions and C covariates, line by line."""
    given = (", c", f",  c of {covariates} covariates") if covariates else ("", "")
    latent = "p(z|c)" if prior.conditional else "p(z)"
    support = support_in_words(posterior(torch.zeros(1, posterior.num_outputs)).support)
    name = getattr(likelihood, "__name__", type(likelihood).__name__)
    mask = "" if missingness is None else f"  p(observed|x) = Bernoulli(sigmoid({missingness.notation}))\n"
    return (
        f"VAE(\n  {latent:6} = {prior.notation},  z of {latent_dim} dimensions, {support}{given[1]}\n"
        f"  p(x|z{given[0]}) = {name}(f(z{given[0]})),  x of {x_dim} dimensions\n{mask}"
        f"  q(z|x{given[0]}) = {posterior.notation}\n"
        f"  f: {network_in_words(decoder)}; encoder: {network_in_words(encoder)}\n)"
    )
