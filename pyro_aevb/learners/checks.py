"""Checks of what a learner is to train: optimizers of its own, parameters, gradients that get to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from pyro.optim import PyroOptim
from torch.optim.lr_scheduler import LRScheduler

from pyro_aevb.learners.optimizer import AnyOptimizer
from pyro_aevb.model_guide.parameters import Parameter
from pyro_aevb.warning import warn

FIRST_UPDATES = 10


def check_different(optimizers: Mapping[str, AnyOptimizer]) -> None:
    """Raise ``ValueError`` if one optimizer is given twice."""
    seen: dict[int, str] = {}
    for name, optimizer in optimizers.items():
        if not isinstance(optimizer, PyroOptim | torch.optim.Optimizer | LRScheduler):
            continue
        if id(optimizer) in seen:
            raise ValueError(
                f"expected one optimizer for {seen[id(optimizer)]} and another for {name}, got the same object twice"
            )
        seen[id(optimizer)] = name


def check_parameters(learner: str, trained: bool, theta: bool, has_prior: bool) -> None:
    """Raise ``ValueError`` if there is nothing to train, or nothing that the prior on theta is about.

    Args:
        learner: its name.
        trained: whether there are parameters for its optimizers, or it has none.
        theta: whether the model has any.
        has_prior: whether there is a prior on theta.
    """
    remedy = "register them with pyro.module(name, module), pyro.param or a PyroModule"
    if has_prior and not theta:
        raise ValueError(
            f"expected a model with parameters for theta_prior, got none: there is nothing to train; {remedy}, or "
            "leave theta_prior out"
        )
    if not trained:
        raise ValueError(f"expected parameters for {learner} to train, got none: there is nothing to train; {remedy}")


def check_trained(names: Collection[str]) -> None:
    """Raise ``ValueError`` if there are parameters to train, none of which has had a gradient."""
    if names:
        raise ValueError(
            f"expected a gradient for some of the parameters {sorted(names)}, got one for none: nothing was trained. "
            "Model and guide compute with other tensors, or with .detach() on the way; pass to pyro.module and "
            "pyro.param what they compute with, and call pyro.clear_param_store() before new modules are made"
        )


def check_names(strangers: Collection[str], trained: Iterable[str]) -> None:
    """Raise ``ValueError`` if parameters to train have names under which Pyro keeps those of another module.

    Args:
        strangers: the names that two modules have.
        trained: the names of the parameters to train.
    """
    if names := sorted(set(strangers) & set(trained)):
        raise ValueError(
            f"expected a module of its own for each name given to pyro.module, got two for {names}: the first is in "
            "Pyro's parameter store, and the second, which the pair computes with, would never be trained; give them "
            "different names, or call pyro.clear_param_store() before the new one is made"
        )


class FirstUpdates:
    """Which parameters had a gradient in the first updates that their optimizers made.

    Attributes:
        had: the names of those that had one.
    """

    def __init__(self) -> None:
        self.had: set[str] = set()
        self._counts: dict[str, int] = {}
        self._never: list[str] = []

    def note(self, optimizer: str, parameters: Mapping[str, Parameter]) -> None:
        """Take note of the gradients that an optimizer is about to follow; those of its first updates only.

        Args:
            optimizer: its name.
            parameters: what it updates.
        """
        count = self._counts.get(optimizer, 0) + 1
        if count > FIRST_UPDATES:
            return
        self._counts[optimizer] = count
        leaves = {name: parameter.unconstrained for name, parameter in parameters.items()}
        self.had |= {name for name, leaf in leaves.items() if leaf.grad is not None}
        if count == FIRST_UPDATES:
            self._never += [name for name, leaf in leaves.items() if leaf.requires_grad and name not in self.had]

    def tell(self) -> None:
        """Warn, once, of parameters that had none."""
        if not self._never:  # as after nearly every step
            return
        names, self._never = sorted(set(self._never) - self.had), []
        if names:
            warn(
                f"expected a gradient for every parameter, got none for {names} in the first {FIRST_UPDATES} updates: "
                "they stay as they are. Use them in what model or guide computes, without .detach() on the way; or "
                "leave them out on purpose with .requires_grad_(False)"
            )
