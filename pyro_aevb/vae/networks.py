"""Networks of the VAE: multi-layer perceptrons, convolutions, and the initialisation of their weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_aevb.param_site import announce


def mlp(in_dim: int, hidden_dims: Sequence[int], out_dim: int) -> nn.Sequential:
    """Return a perceptron with tanh hidden layers and a linear output (Kingma & Welling 2013, Appendix C).

    >>> from pyro_aevb.vae.networks import mlp
    >>> mlp(784, [500], 40)(torch.zeros(7, 784)).shape
    torch.Size([7, 40])
    """
    sizes = [in_dim, *hidden_dims]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out_dim))


def conv_encoder(image_shape: Sequence[int], num_outputs: int, channels: Sequence[int] = (32, 64)) -> nn.Module:
    """Return a network from flat images (..., D) to (..., num_outputs): convolutions of stride 2, then a linear layer.

    ``image_shape`` is (channels, height, width) with D their product; ``channels`` are those of the hidden layers.

    >>> from pyro_aevb.vae.networks import conv_encoder
    >>> conv_encoder((1, 28, 28), 40)(torch.zeros(7, 784)).shape
    torch.Size([7, 40])
    """
    sizes, small = _pyramid(image_shape, channels)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.ELU()]
    height, width = ((2 ** len(channels)) * size for size in small)
    if (height, width) != tuple(image_shape[1:]):
        layers.insert(0, nn.ZeroPad2d((0, width - image_shape[2], 0, height - image_shape[1])))
    return _OverBatch(
        nn.Unflatten(-1, tuple(image_shape)),
        *layers,
        nn.Flatten(),
        nn.Linear(sizes[-1] * math.prod(small), num_outputs),
    )


def conv_decoder(
    latent_dim: int, image_shape: Sequence[int], outputs_per_dim: int = 1, channels: Sequence[int] = (32, 64)
) -> nn.Module:
    """Return the reverse of :func:`conv_encoder`, from z (..., J) to (..., D * outputs_per_dim).

    >>> from pyro_aevb.vae.networks import conv_decoder
    >>> conv_decoder(20, (1, 28, 28))(torch.zeros(5, 7, 20)).shape
    torch.Size([5, 7, 784])
    """
    sizes, small = _pyramid((image_shape[0] * outputs_per_dim, *image_shape[1:]), channels)
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, sizes[-1] * math.prod(small)),
        nn.Unflatten(-1, (sizes[-1], *small)),
    ]
    for a, b in itertools.pairwise(sizes[::-1]):
        layers += [nn.ELU(), nn.ConvTranspose2d(a, b, 4, stride=2, padding=1)]
    factor = 2 ** len(channels)
    excess = factor * small[0] - image_shape[1], factor * small[1] - image_shape[2]
    if any(excess):
        layers.append(nn.ZeroPad2d((0, -excess[1], 0, -excess[0])))  # which cuts off
    return _OverBatch(*layers, nn.Flatten())


def _pyramid(image_shape: Sequence[int], channels: Sequence[int]) -> tuple[list[int], tuple[int, int]]:
    """Return the channels of each layer, and the size of the last one's images where the first one's are padded."""
    factor = 2 ** len(channels)
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"expected image_shape (channels, height, width) of 1 or more, got {tuple(image_shape)}")
    return [image_shape[0], *channels], (-(-image_shape[1] // factor), -(-image_shape[2] // factor))


class _OverBatch(nn.Sequential):
    """Layers that take one batch dimension, over any number of them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).unflatten(0, x.shape[:-1])


class _Beside(nn.Module):
    """A network of x with a linear layer of covariates added to its outputs: rows (..., D + C) to (..., outputs)."""

    def __init__(self, network: nn.Module, x_dim: int, covariates: int, num_outputs: int) -> None:
        super().__init__()
        self.network, self.covariates, self._x_dim = network, nn.Linear(covariates, num_outputs), x_dim

    def forward(self, rows: Tensor) -> Tensor:
        x, covariates = rows.split((self._x_dim, rows.shape[-1] - self._x_dim), -1)
        return self.network(x) + self.covariates(covariates)


def beside(rows: Tensor, covariates: Tensor | None) -> Tensor:
    """Return rows (..., J) with covariates (..., C) beside them, (..., J + C); the rows if there are none."""
    if covariates is None:
        return rows
    shape = torch.broadcast_shapes(rows.shape[:-1], covariates.shape[:-1])
    return torch.cat([each.expand(*shape, each.shape[-1]) for each in (rows, covariates)], -1)


@torch.no_grad()
def paper_init(network: nn.Module) -> None:
    """Draw every weight and bias from a Gaussian with standard deviation 0.01 (Kingma & Welling 2013, Section 5)."""
    for parameter in network.parameters():
        parameter.normal_(0.0, 0.01)


@torch.no_grad()
def fan_in_init(network: nn.Module) -> None:
    """Draw weights with variance 1/fan-in, so that tanh layers keep their scale (LeCun et al. 1998); biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(0.0, module.in_features**-0.5)
            module.bias.zero_()


INITIALIZATIONS: dict[str, Callable[[nn.Module], None]] = {"paper": paper_init, "modern": fan_in_init}


def make_networks(
    encoder: tuple[int, int],
    decoder: tuple[int, int],
    hidden_dims: Sequence[int],
    image_shape: Sequence[int] | None,
    init: str,
    covariates: int = 0,
) -> tuple[nn.Module, nn.Module]:
    """Return an encoder and a decoder, initialised.

    Args:
        encoder: sizes of inputs and outputs, (D, outputs).
        decoder: (J, outputs).
        hidden_dims: sizes of the encoder's tanh layers, the decoder's in reverse; for perceptrons.
        image_shape: (channels, height, width), for convolutions.
        init: a name out of ``INITIALIZATIONS``.
        covariates: C, further inputs of both.

    Raises:
        ValueError: for images of other than D pixels, and outputs that are not as many for each pixel.
    """
    of_x = make_encoder(encoder, hidden_dims, image_shape, covariates)
    of_z: nn.Module
    if image_shape is None:
        of_z = mlp(decoder[0] + covariates, list(hidden_dims)[::-1], decoder[1])
    else:
        outputs_per_dim, left = divmod(decoder[1], encoder[0])
        if left:
            raise ValueError(
                f"expected a likelihood with as many outputs for each pixel, got {decoder[1]} for {encoder[0]} pixels; "
                "leave convolutions out, or pass decoder="
            )
        of_z = conv_decoder(decoder[0] + covariates, image_shape, outputs_per_dim)
    for network in (of_x, of_z):
        INITIALIZATIONS[init](network)
    return of_x, of_z


def make_encoder(
    sizes: tuple[int, int],
    hidden_dims: Sequence[int],
    image_shape: Sequence[int] | None,
    covariates: int = 0,
) -> nn.Module:
    """Return a network of flat x (..., D + C).

    Args:
        sizes: (D, outputs).
        hidden_dims: as for :func:`make_networks`, likewise the others.
        image_shape: (channels, height, width).
        covariates: C.
    """
    made: nn.Module
    if image_shape is None:
        made = mlp(sizes[0] + covariates, hidden_dims, sizes[1])
    else:
        made = conv_encoder(image_shape, sizes[1])
        made = _Beside(made, sizes[0], covariates, sizes[1]) if covariates else made
    return made


def layers_of(network: nn.Module) -> str:
    """Return the network's layers and the names of its tensors in words: another network has others."""
    return f"{network} {sorted(network.state_dict())}"


def apply_network(name: str, network: nn.Module, *inputs: Any) -> Any:
    """Return the network's output, with each of its parameters announced to Pyro as a ``param`` site.

    Unlike with ``pyro.module``, nothing goes into Pyro's parameter store: two models with the same names don't share
    weights, and nothing outlives the module.  Handlers see the sites, and may replace a parameter's value
    (``poutine.lift``, for full variational Bayes).

    Args:
        name: the sites are called ``name.<parameter>``.
        network: any module.
        inputs: its arguments.
    """
    substituted = {}
    for key, parameter in network.named_parameters():
        value = announce(f"{name}.{key}", parameter)
        if value is not parameter:
            substituted[key] = value
    return torch.func.functional_call(network, substituted, inputs) if substituted else network(*inputs)
