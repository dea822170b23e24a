"""Adam's update without the bookkeeping around it.

At every step torch's Adam looks up in Python what it keeps for each parameter: a tenth of the time of a small model's
step.  :class:`FusedAdam` looks once, and from then on makes the one call that computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from pyro_aevb.capture.compared_values import same


class FusedAdam:
    """The steps of an ``Adam`` or ``AdamW`` with ``fused=True`` that has run before: its state, its numbers, its bits.

    >>> from pyro_aevb.learners.fused_adam import FusedAdam
    >>> weight = torch.ones(3, requires_grad=True)
    >>> adam = torch.optim.Adam([weight], lr=0.1, fused=True)
    >>> weight.grad = torch.tensor([1.0, -2.0, 0.0])
    >>> FusedAdam.over(adam) is None  # it has no state yet
    True
    >>> adam.step()
    >>> FusedAdam.over(adam).step(), weight.detach()
    (True, tensor([0.8000, 1.2000, 1.0000]))
    """

    def __init__(self, optimizer: torch.optim.Optimizer, groups: list[_Group]) -> None:
        self._optimizer, self._state, self._groups = optimizer, optimizer.state, groups
        self._held = _held(optimizer.state)

    @classmethod
    def over(cls, optimizer: torch.optim.Optimizer) -> FusedAdam | None:
        """Return the steps of ``optimizer``; ``None`` where they are torch's own business."""
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
            return None
        groups = []
        for options in optimizer.param_groups:
            parameters = options["params"]
            states = [optimizer.state.get(parameter, {}) for parameter in parameters]
            alike = len({(p.device, p.dtype) for p in parameters}) == 1
            if not (alike and options["fused"] and all("exp_avg" in state for state in states)):
                return None
            groups.append(_Group(options, parameters, *([s[n] for s in states] for n in _Group._fields[2:])))
        return cls(optimizer, groups)

    @torch.no_grad()
    def step(self) -> bool:
        """Update the parameters; ``False``, and nothing is done, where torch's step does more than this one."""
        optimizer = self._optimizer
        if optimizer.state is not self._state or len(optimizer.param_groups) != len(self._groups):
            return False  # another state was loaded, or there are new parameters
        if "step" in vars(optimizer) or optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            return False
        if torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks:
            return False
        if not same(_held(self._state), self._held):
            return False  # its owner has put in other moments, or begins anew
        gradients = [[parameter.grad for parameter in group.parameters] for group in self._groups]
        if not all(group.is_plain(grads) for group, grads in zip(self._groups, gradients, strict=True)):
            return False
        for group, grads in zip(self._groups, gradients, strict=True):
            options = group.options
            torch._foreach_add_(group.step, 1)
            update: Any = torch._fused_adamw_ if options["decoupled_weight_decay"] else torch._fused_adam_
            update(
                group.parameters,
                grads,
                group.exp_avg,
                group.exp_avg_sq,
                [],
                group.step,
                lr=options["lr"],
                beta1=options["betas"][0],
                beta2=options["betas"][1],
                weight_decay=options["weight_decay"],
                eps=options["eps"],
                amsgrad=False,
                maximize=options["maximize"],
            )
        return True


def _held(state: Mapping[Any, dict[str, Any]]) -> list[Any]:
    """Return all that an optimizer's state holds."""
    return [each for of_one in state.values() for each in (of_one, *of_one.values())]


class _Group(NamedTuple):
    """A parameter group, and what Adam keeps for its parameters."""

    options: dict[str, Any]
    parameters: list[Tensor]
    exp_avg: list[Tensor]
    exp_avg_sq: list[Tensor]
    step: list[Tensor]

    def is_plain(self, gradients: list[Tensor | None]) -> bool:
        """Return whether one call updates them all."""
        options = self.options
        special = options["amsgrad"] or options["capturable"] or options["differentiable"] or not options["fused"]
        numbers = options["lr"], *options["betas"]
        return (
            not special
            and all(isinstance(number, float) for number in numbers)
            and all(gradient is not None and not gradient.is_sparse for gradient in gradients)
        )
