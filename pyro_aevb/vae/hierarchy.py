r"""Latents in several layers: z, which x is made from, and above it z2, z3, ... up to L of them.

.. math::
    p(z_{1:L}) = p(z_L) \prod_l p(z_l | z_{l+1}), \qquad
    q(z_{1:L} | x) = Q_L(h_L) \prod_l Q_l(h_l + d_l(z_{l+1})), \qquad h_1 = encoder(x), \quad h_{l+1} = u_l(h_l)

The guide draws from the top down, in the model's order, as in Sønderby et al., *Ladder variational autoencoders*,
2016: given the layers above, each KL is one of two distributions.  x comes up by u, and what was drawn comes down by d;
Q_1 is the VAE's posterior, and the other Q_l are diagonal Gaussians.  No network is of model and guide both, whereas a
ladder's guide has the model's p(z_l|z_{l+1}) in it.

Shapes: J_l dimensions of layer l, H_l numbers of h_l.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_aevb.vae.networks import INITIALIZATIONS, apply_network, mlp
from pyro_aevb.vae.posteriors import DiagonalGaussian
from pyro_aevb.vae.priors import ConditionalNormal


def site_of(layer: int) -> str:
    """Return the name of a layer's site, counted from 0 at the bottom: "z", "z2", "z3", ..."""
    return f"z{layer + 1}" if layer else "z"


class Hierarchy(nn.Module):
    """The layers of a VAE's latents: p(z_l|z_{l+1}), which is N(0, I) at the beginning, and their part of the guide.

    One layer has no parameters: the VAE's prior and posterior are all that there is.

    Args:
        latent_dims: (J_1, ..., J_L).
        num_outputs: H_1, the outputs of the encoder.
        hidden_dim: tanh units of each network; 0 for linear ones.
        init: of the guide's networks, a name out of ``networks.INITIALIZATIONS``.
    """

    def __init__(self, latent_dims: Sequence[int], num_outputs: int, hidden_dim: int, init: str = "modern") -> None:
        super().__init__()
        self.sites = tuple(map(site_of, range(len(latent_dims))))
        hidden = [hidden_dim] if hidden_dim else []
        sizes = [num_outputs, *(2 * size for size in latent_dims[1:])]
        self.priors, self.up, self.down = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for layer, (below, above) in enumerate(itertools.pairwise(latent_dims)):
            prior = ConditionalNormal(above, hidden_dim)
            prior.setup(below, 0)
            self.priors.append(prior)
            self.up.append(mlp(sizes[layer], hidden, sizes[layer + 1]))
            self.down.append(mlp(above, hidden, sizes[layer]))
        for network in (*self.up, *self.down):
            INITIALIZATIONS[init](network)

    def sample_prior(self, top: dist.TorchDistribution) -> Tensor:
        """Sample all layers from the top down in the model, and return z.

        Args:
            top: p(z_L).
        """
        value = torch.as_tensor(pyro.sample(self.sites[-1], top))
        for layer in reversed(range(len(self.priors))):
            p = apply_network(f"hierarchy.priors.{layer}", self.priors[layer], None, value)
            value = torch.as_tensor(pyro.sample(self.sites[layer], p))
        return value

    def top(self, posterior: Any, outputs: Tensor) -> dist.TorchDistribution:
        """Return q(z_L|x).

        Args:
            posterior: Q_1, a function of the encoder's outputs.
            outputs: h_1, (..., H_1).
        """
        return self._families(posterior)[-1](self._heights(outputs)[-1])

    def sample_posterior(self, posterior: Any, outputs: Tensor) -> Tensor:
        """Sample all layers from the top down in the guide, and return z.

        Args:
            posterior: Q_1, a function of the encoder's outputs.
            outputs: h_1, (..., H_1).
        """
        families, heights = self._families(posterior), self._heights(outputs)
        value = torch.as_tensor(pyro.sample(self.sites[-1], families[-1](heights[-1])))
        for layer in reversed(range(len(self.down))):
            height = heights[layer] + apply_network(f"hierarchy.down.{layer}", self.down[layer], value)
            value = torch.as_tensor(pyro.sample(self.sites[layer], families[layer](height)))
        return value

    def _heights(self, outputs: Tensor) -> list[Tensor]:
        """Return h_1, ..., h_L."""
        heights = [outputs]
        for layer, network in enumerate(self.up):
            heights.append(apply_network(f"hierarchy.up.{layer}", network, heights[-1]))
        return heights

    def _families(self, posterior: Any) -> list[Any]:
        """Return Q_1, ..., Q_L."""
        return [posterior, *(DiagonalGaussian() for _ in self.up)]
