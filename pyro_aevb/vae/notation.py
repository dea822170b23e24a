"""A VAE in the paper's notation, as text."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributions import constraints

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


def vae_in_words(vae: Any) -> str:
    """Return the parts of a :class:`~pyro_aevb.VAE`, line by line."""
    likelihood, sites, dims = vae.likelihood, vae.hierarchy.sites, vae.latent_dims
    columns = f",  c of {vae.covariates} covariates" if vae.covariates else ""
    given = (", y" if vae.labels is not None else "") + (", c" if vae.covariates else "")
    latent = f"p({sites[-1]}|c)" if vae.prior.conditional else f"p({sites[-1]})"
    top = vae.hierarchy.top(vae.posterior, torch.zeros(1, vae.posterior.num_outputs).to(_like(vae)))
    lines = [
        f"{latent:6} = {vae.prior.notation},  {sites[-1]} of {dims[-1]} dimensions, {support_in_words(top.support)}"
    ]
    lines[0] += columns
    for layer in reversed(range(len(sites) - 1)):
        below, above = sites[layer], sites[layer + 1]
        lines.append(
            f"p({below}|{above}) = N({below}; m({above}), diag(s({above})^2)),  {below} of {dims[layer]} dimensions"
        )
    if vae.labels is not None:
        lines.append(f"p(y)   = Categorical(pi),  y one of {vae.labels.number}")
    shape = vae.x_shape[0] if len(vae.x_shape) == 1 else " x ".join(map(str, vae.x_shape))
    name = getattr(likelihood, "__name__", type(likelihood).__name__)
    lines.append(f"p(x|z{given}) = {name}(f(z{given})),  x of {shape} dimensions")
    if vae.missingness is not None:
        lines.append(f"p(observed|x) = Bernoulli(sigmoid({vae.missingness.notation}))")
    if vae.labels is not None:
        lines.append(
            f"q(y|x{', c' if vae.covariates else ''}) = Categorical({network_in_words(vae.labels.classifier)})"
        )
    for layer in reversed(range(len(sites))):
        above = "" if layer + 1 == len(sites) else f"{sites[layer + 1]}, "
        family = vae.posterior.notation if layer == 0 else "N(m(x), diag(s(x)^2))"
        family = family.replace("(x)", f"({above}x)")
        lines.append(f"q({sites[layer]}|{above}x{given}) = {family}")
    lines.append(f"f: {network_in_words(vae.decoder)}; encoder: {network_in_words(vae.encoder)}")
    return "VAE(\n" + "".join(f"  {line}\n" for line in lines) + ")"


def _like(vae: Any) -> torch.Tensor:
    return next(iter(vae.parameters()), torch.zeros(()))
