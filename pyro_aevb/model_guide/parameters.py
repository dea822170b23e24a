"""The parameters of a Pyro callable, and the prior on them.

Pyro's parameters come to light only when the model runs.  :class:`ParameterRecorder` notes them as they pass, and
:func:`log_prior` is log p(theta), which turns maximum likelihood into MAP (Kingma & Welling 2013, Section 5).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, constraints, transform_to

from pyro_aevb.model_guide.sites import frames_around


class Parameter(NamedTuple):
    """One global parameter: its ``unconstrained`` leaf tensor and the ``constraint`` it is declared with."""

    unconstrained: Tensor
    constraint: constraints.Constraint

    def value(self) -> Tensor:
        """Return the constrained value, differentiable in the unconstrained leaf."""
        if self.constraint is constraints.real:
            return self.unconstrained
        return transform_to(self.constraint)(self.unconstrained)


class ParameterRecorder(Messenger):
    """Wrap a Pyro callable so that each run notes its parameters: ``parameters`` maps names to :class:`Parameter`.

    The constraint is the one that the parameter was declared with, wherever that was.  ``replaced`` has the parameters
    of modules in whose place Pyro gave others, which its store has under their names.  ``plates`` has the plates around
    its sites as the last run had them, by name.

    >>> from pyro_aevb.model_guide import ParameterRecorder
    >>> recorder = ParameterRecorder()
    >>> @recorder
    ... def model():
    ...     return pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
    >>> value = model()
    >>> round(recorder.parameters["scale"].value().item(), 4)
    2.0
    """

    def __init__(self) -> None:
        super().__init__()
        self.parameters: dict[str, Parameter] = {}
        self.replaced: dict[str, Tensor] = {}
        self.plates: dict[str, CondIndepStackFrame] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        for frame in frames_around(msg):
            self.plates[frame.name] = frame

    def _pyro_post_param(self, msg: Any) -> None:
        unconstrained = msg["value"].unconstrained()
        constraint = msg["kwargs"].get("constraint", constraints.real)
        if constraint is constraints.real and unconstrained is not msg["value"]:  # fetched by its name alone
            constraint = pyro.get_param_store().get_state()["constraints"].get(msg["name"], constraint)
        self.parameters[msg["name"]] = Parameter(unconstrained, constraint)
        offered = msg["args"][1] if len(msg["args"]) > 1 else None
        if isinstance(offered, nn.Parameter) and offered is not unconstrained:
            self.replaced[msg["name"]] = offered
        else:
            self.replaced.pop(msg["name"], None)


def log_prior(parameters: Mapping[str, Parameter], prior: Distribution) -> Tensor:
    """Return log p(theta) in nats: ``prior.log_prob`` summed over every element of every (constrained) parameter.

    >>> from pyro_aevb.model_guide.parameters import Parameter, log_prior
    >>> theta = {"w": Parameter(torch.zeros(3), dist.constraints.real)}
    >>> round(float(log_prior(theta, dist.Normal(0.0, 1.0))), 4)
    -2.7568
    """
    distinct = {id(p.unconstrained): p for p in parameters.values()}
    return torch.stack([_sum_log_prob(p.value(), prior) for p in distinct.values()]).sum()


def _sum_log_prob(value: Tensor, prior: Distribution) -> Tensor:
    if not isinstance(prior, Normal) or prior.batch_shape:
        return prior.log_prob(value).sum()
    # A sum of squares needs one pass over the weights where log_prob and its gradient make ten.
    difference = (value - prior.loc).flatten()
    constant = value.numel() * (prior.scale.log() + 0.5 * math.log(2 * math.pi))
    return -0.5 * difference.dot(difference) / prior.scale**2 - constant


def distinct_leaves(parameters: Iterable[Parameter]) -> list[Tensor]:
    """Return the leaves of ``parameters``, each once: two names may stand for one, as they do for tied weights.

    >>> from pyro_aevb.model_guide.parameters import Parameter, distinct_leaves
    >>> tied = Parameter(torch.zeros(3), dist.constraints.real)
    >>> distinct_leaves([tied, tied])
    [tensor([0., 0., 0.])]
    """
    return list({id(p.unconstrained): p.unconstrained for p in parameters}.values())


def zero_grad(parameters: Iterable[Parameter]) -> None:
    """Drop the gradients of ``parameters``."""
    for parameter in parameters:
        parameter.unconstrained.grad = None
