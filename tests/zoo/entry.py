"""A small variant of a model from Pyro's examples and tutorials, and what of the library it is for."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

N, M = 12, 6  # datapoints of a data set, and of a minibatch
_REPARAMETERIZED = "expected a guide that can be reparameterised"
CONTINUOUS_ONLY = {  # what discrete latents that are drawn can't have
    "sgvb": _REPARAMETERIZED,
    "closed form": _REPARAMETERIZED,
    "iwae": _REPARAMETERIZED,
    "mcem": "expected continuous latents for HMC",
    "ais": "expected continuous latents for HMC",
}
WITH_GLOBALS = {  # what global latents can't have, which are no datapoint's
    "wake-sleep": "there are no dreams of data sets with a global one",
    "mcem": "a global one is given a value first",
}
Fn = Callable[..., Any]


class Pair(NamedTuple):
    """A model, a guide and the data that they are called with."""

    model: Fn
    guide: Fn
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = {}


class Entry(NamedTuple):
    """A variant.

    ``make``: returns a new :class:`Pair`, under a seed and in a parameter store of its own.  ``enumerated``: discrete
    latents are summed out, by Pyro's TraceEnum_ELBO in its oracle.  ``senseless``: features that it can't have, for a
    reason of their own, and the sentence that says so.  ``lacks``: features that it should have and hasn't, and what
    comes of it: a sentence, or a number.  ``optim``: makes an optimizer, for the learners of one.  ``scaled``: whether
    terms have weights in training that evaluation leaves out.  ``mean_field``: whether Pyro's closed-form KLs are right
    for it.  ``dream``: the arguments of a dream, as WakeSleep takes it.  ``plates``: how deep they are nested.
    """

    name: str
    make: Callable[[], Pair]
    enumerated: bool = False
    senseless: Mapping[str, str] = {}
    lacks: Mapping[str, str] = {}
    optim: Callable[[], Any] | None = None
    scaled: bool = False
    mean_field: bool = True
    dream: Callable[..., Any] | None = None
    plates: int = 1


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def bits(*shape: int, seed: int = 0) -> Tensor:
    return (data(*shape, seed=seed) > 0).double()


def param(name: str, value: Any, **options: Any) -> Tensor:
    return pyro.param(name, lambda: torch.as_tensor(value).double(), **options)


def positive(name: str, value: Any) -> Tensor:
    return param(name, value, constraint=dist.constraints.positive)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape).double()


def normal(*shape: int, scale: float = 1.0) -> Any:
    base = dist.Normal(zeros(*shape), scale)
    return base.to_event(len(shape)) if shape else base


def plate(x: Any, size: int = N) -> Any:
    return pyro.plate("data", size, subsample_size=len(x))


class Network(nn.Module):
    """A network of one hidden layer, whose outputs come in parts of these sizes."""

    def __init__(self, inputs: int, *outputs: int) -> None:
        super().__init__()
        self.sizes = outputs
        self.layers = nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, sum(outputs))).double()

    def forward(self, *parts: Tensor) -> Any:
        shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        out = self.layers(torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1))
        found = out.split(self.sizes, -1)
        return found[0] if len(found) == 1 else found
