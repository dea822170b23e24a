"""Checks of what a learner is to train: optimizers of its own, parameters, gradients that get to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from pyro.optim import PyroOptim
from torch.optim.lr_scheduler import LRScheduler

from pyro_aevb.learners.optimizer import AnyOptimizer


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
            "These names belong to older modules, and model and guide compute with others; call "
            "pyro.clear_param_store() before the new ones are made, or give pyro.module other names"
        )
