"""Networks of the VAE: multi-layer perceptrons, and how their weights begin."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import constraints


def mlp(in_dim: int, hidden_dims: Sequence[int], out_dim: int) -> nn.Sequential:
    """Return a perceptron with tanh hidden layers and a linear output (Kingma & Welling 2013, Appendix C).

    >>> mlp(784, [500], 40)(torch.zeros(7, 784)).shape
    torch.Size([7, 40])
    """
    sizes = [in_dim, *hidden_dims]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out_dim))


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


def apply_network(name: str, network: nn.Module, *inputs: Tensor) -> Any:
    """Run ``network`` with each of its parameters announced to Pyro as a ``param`` site.

    What ``pyro.module`` does, less its store: the parameters stay the module's own, so two models with the same names
    don't share weights behind one's back and nothing outlives the module.  Handlers see the sites, and a handler that
    puts something else in a parameter's place (``poutine.lift``, for full variational Bayes) is heeded.
    """
    substituted = {}
    for key, parameter in network.named_parameters():
        value = _announce(f"{name}.{key}", parameter)
        if value is not parameter:
            substituted[key] = value
    return torch.func.functional_call(network, substituted, inputs) if substituted else network(*inputs)


def _announce(site: str, parameter: nn.Parameter) -> Tensor:
    parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]  # what SVI asks of a param site
    statement = pyro.poutine.runtime.effectful(type="param")(lambda *_, **__: parameter)
    return statement(site, parameter, constraint=constraints.real, event_dim=None, name=site)
