"""Optimizers, torch's and Pyro's, over parameters that come to light only when the model runs."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_aevb.learners.fused_adam import FusedAdam
from pyro_aevb.model_guide.parameters import Parameter, distinct_leaves

OptimizerFactory = Callable[[Iterable[Tensor]], torch.optim.Optimizer | LRScheduler]
AnyOptimizer = PyroOptim | torch.optim.Optimizer | LRScheduler | OptimizerFactory
# Options of a torch optimizer that choose an implementation of the same update.
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")
# What a schedule-free optimizer keeps count of among a group's numbers.
COUNTED = ("k", "weight_sum", "lr_max", "scheduled_lr", "train_mode")


class Optimizer(ABC):
    """An optimizer over named parameters that may appear late."""

    @property
    @abstractmethod
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups, the place to change a learning rate; empty before the first step."""

    @abstractmethod
    def prepare(self, parameters: Mapping[str, Parameter]) -> None:
        """Take in those of ``parameters`` that are new."""

    @abstractmethod
    def step(self, parameters: Mapping[str, Parameter], learning_rate_factor: float = 1.0) -> None:
        """Update ``parameters`` from their gradients, with the learning rates times the factor."""

    def to_train(self) -> None:  # noqa: B027  # most optimizers have one set of weights
        """Put the weights in place that gradients are taken at."""

    def to_use(self) -> None:  # noqa: B027
        """Put the weights in place that are for use: the means that a schedule-free optimizer keeps."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the optimizer's class and its numbers, as plain values: what a resumed run must have in common."""

    @abstractmethod
    def state_dict(self, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        """Return a copy of the optimizer's state, plain tensors and numbers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any], parameters: Mapping[str, Parameter]) -> None:
        """Restore what :meth:`state_dict` gave for the same parameters; raise ``ValueError`` for others."""


def as_optimizer(optimizer: AnyOptimizer) -> Optimizer:
    """Return ``optimizer`` as an :class:`Optimizer`.

    Args:
        optimizer: a factory that makes a torch optimizer from parameters (``partial(torch.optim.Adam, lr=1e-3)``), a
            ``torch.optim.Optimizer`` over parameters that exist already, or a ``pyro.optim.PyroOptim``.  Instead of a
            torch optimizer, a torch scheduler around one; it is stepped after each step of the optimizer.  One that
            has ``train`` and ``eval``, as those of the package ``schedulefree``, is in training mode for steps alone.

    Raises:
        TypeError: for anything else, and for ``ReduceLROnPlateau``, which goes by a value.
    """
    if isinstance(optimizer, PyroOptim):
        return PyroOptimizer(optimizer)
    if isinstance(optimizer, torch.optim.Optimizer | LRScheduler):
        return TorchOptimizer(None, optimizer)
    if not callable(optimizer):
        raise TypeError(
            "expected a torch optimizer or scheduler, a function from parameters to one, or a Pyro optimizer, "
            f"got {optimizer!r}; for example functools.partial(torch.optim.Adam, lr=1e-3)"
        )
    return TorchOptimizer(optimizer, None)


@final
class TorchOptimizer(Optimizer):
    """A torch optimizer, or a scheduler around one, made when the first parameters are known, or made already.

    Args:
        factory: makes it from parameters; ``None`` for one that is made already.
        made: the one that is made already; parameters that it doesn't hold are left as they are.
    """

    def __init__(self, factory: OptimizerFactory | None, made: torch.optim.Optimizer | LRScheduler | None) -> None:
        self._factory = factory
        self._optimizer: torch.optim.Optimizer | None = None
        self._scheduler: LRScheduler | None = None
        self._scheduler_settings: dict[str, Any] = {}
        self._adam: FusedAdam | None = None
        self._names: list[str] = []
        self._leaves: dict[str, Tensor] = {}
        if made is not None:
            self._take(made)

    def _take(self, made: Any) -> None:
        if not isinstance(made, torch.optim.Optimizer | LRScheduler):
            raise TypeError(
                f"expected a torch optimizer or scheduler from the function that makes one, got {made!r}; return it: "
                "lambda parameters: torch.optim.Adam(parameters, lr=1e-3)"
            )
        if isinstance(getattr(made, "optimizer", made), torch.optim.LBFGS):
            raise TypeError(
                "expected an optimizer that follows one gradient a step, got LBFGS, which computes the loss again and "
                "again; pass functools.partial(torch.optim.Adam, lr=1e-3), say"
            )
        if not isinstance(made, LRScheduler):
            self._optimizer = made
            return
        if isinstance(made, ReduceLROnPlateau):
            raise TypeError(
                "expected a scheduler that goes by the steps, got ReduceLROnPlateau, which goes by a value; pass its "
                "optimizer, and step it in a callback of fit: lambda history: scheduler.step(...)"
            )
        self._scheduler, self._optimizer = made, made.optimizer
        numbers = {k: v for k, v in vars(made).items() if k[0] != "_" and k not in ("optimizer", "last_epoch")}
        self._scheduler_settings = {"scheduler": type(made).__name__, "scheduler_args": copy.copy(numbers)}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The torch optimizer's parameter groups."""
        return [] if self._optimizer is None else self._optimizer.param_groups

    def prepare(self, parameters: Mapping[str, Parameter]) -> None:
        """Make the optimizer, or add a parameter group to it.

        Tensors that Pyro's store has now under the names of others, as after it was cleared or loaded, take the places
        of these, and have no state yet.

        Raises:
            ValueError: for parameters that come later than a scheduler, and an optimizer over none of them.
        """
        self._exchange(parameters)
        new = [name for name in parameters if name not in self._names]
        if not new:
            return
        names = [*self._names, *new]
        held = {id(tensor) for group in self.param_groups for tensor in group["params"]}
        tensors = [t for t in distinct_leaves(parameters[name] for name in new) if id(t) not in held]
        if self._factory is not None and self._optimizer is None:
            self._take(self._factory(tensors))
        elif self._factory is not None and self._optimizer is not None and tensors:
            if self._scheduler is not None:
                raise ValueError(
                    f"expected parameters that are all there in the first step, for a torch scheduler, got {new} "
                    "later; use schedule= of fit"
                )
            self._optimizer.add_param_group({"params": tensors})
        held = {id(tensor) for group in self.param_groups for tensor in group["params"]}
        if not any(id(parameters[name].unconstrained) in held for name in names):
            if self._factory is not None:
                self._optimizer = self._scheduler = None
            raise ValueError(
                f"expected an optimizer over some of the parameters {sorted(new)}, got one over others alone: nothing "
                "would be trained; pass functools.partial(torch.optim.Adam, lr=1e-3), say, or one over these"
            )
        self._names = names

    def _exchange(self, parameters: Mapping[str, Parameter]) -> None:
        leaves = {n: p.unconstrained for n, p in parameters.items() if self._leaves.get(n) is not p.unconstrained}
        replaced = [name for name in leaves if name in self._leaves]
        if replaced and self._optimizer is not None:
            others: dict[int, list[Tensor]] = {}
            for name in replaced:
                others.setdefault(id(self._leaves[name]), []).append(leaves[name])
                self._optimizer.state.pop(self._leaves[name], None)
            for group in self.param_groups:
                tensors = [tensor for held in group["params"] for tensor in others.get(id(held), [held])]
                group["params"] = list({id(tensor): tensor for tensor in tensors}.values())
            self._adam = None
        self._leaves |= leaves

    def to_train(self) -> None:
        """Call ``train`` of an optimizer that has it."""
        if (train := getattr(self._optimizer, "train", None)) is not None:
            train()

    def to_use(self) -> None:
        """Call ``eval`` of an optimizer that has it."""
        if (evaluate := getattr(self._optimizer, "eval", None)) is not None:
            evaluate()

    def step(self, parameters: Mapping[str, Parameter], learning_rate_factor: float = 1.0) -> None:
        """Make one step; the learning rates are afterwards what they were."""
        self.prepare(parameters)
        if self._optimizer is None:  # there is nothing to update: a guide whose parameters are all the model's
            return
        with self._scaled(learning_rate_factor):
            if self._adam is None or not self._adam.step():
                self._optimizer.step()
                self._adam = FusedAdam.over(self._optimizer)
        if self._scheduler is not None:
            self._scheduler.step()

    @contextmanager
    def _scaled(self, factor: float) -> Iterator[None]:
        """Multiply the learning rates inside the block."""
        groups = self.param_groups
        rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate if factor == 1.0 else rate * factor
        try:
            yield
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def settings(self) -> dict[str, Any]:
        """Return the class and each parameter group's numbers, but how it is made and how far it is."""
        if self._optimizer is None:
            return {}
        left_out = {"params", "initial_lr", *IMPLEMENTATION, *COUNTED}
        groups = [
            {k: group.get("initial_lr", v) if k == "lr" else v for k, v in group.items() if k not in left_out}
            for group in self.param_groups
        ]
        numbers = groups[0] if all(group == groups[0] for group in groups) else {"param_groups": groups}
        return {"optimizer": type(self._optimizer).__name__, **numbers, **self._scheduler_settings}

    def state_dict(self, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        """Return the parameters' names, the torch optimizer's state and the scheduler's."""
        self.prepare(parameters)
        state, scheduler = (
            None if each is None else copy.deepcopy(each.state_dict()) for each in (self._optimizer, self._scheduler)
        )
        return {"names": list(self._names), "state": state, "scheduler": scheduler}

    def load_state_dict(self, state: dict[str, Any], parameters: Mapping[str, Parameter]) -> None:
        """Restore a :meth:`state_dict`."""
        self.prepare(parameters)
        _check_names(self._names, state["names"])
        if self._optimizer is not None:
            _load(self._optimizer, state["state"])
        if self._scheduler is not None:
            _load(self._scheduler, state["scheduler"])


@final
class PyroOptimizer(Optimizer):
    """A Pyro optimizer, which has a torch optimizer, or a scheduler around one, for each parameter.

    Args:
        optimizer: the Pyro optimizer.
    """

    def __init__(self, optimizer: PyroOptim) -> None:
        self._optimizer: Any = optimizer
        self._names: list[str] = []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """None: a learning rate is pyro.optim's own business.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "expected a torch optimizer to set a learning rate on, got a Pyro one; pass a factory such as "
            "functools.partial(torch.optim.Adam, lr=1e-3), or use pyro.optim's own schedulers"
        )

    def prepare(self, parameters: Mapping[str, Parameter]) -> None:
        """Make the parameters' torch optimizers: loading a state needs them before Pyro's first step."""
        made = self._optimizer.optim_objs
        for name, parameter in parameters.items():
            if name not in self._names:
                self._names.append(name)
            if parameter.unconstrained not in made:
                made[parameter.unconstrained] = self._optimizer._get_optim(parameter.unconstrained)
                clip = self._optimizer._get_grad_clip(parameter.unconstrained)
                self._optimizer.grad_clip[parameter.unconstrained] = clip

    def step(self, parameters: Mapping[str, Parameter], learning_rate_factor: float = 1.0) -> None:
        """Make one step; raise ``TypeError`` for a factor other than 1."""
        if learning_rate_factor != 1.0:
            _ = self.param_groups
        self.prepare(parameters)
        self._optimizer(distinct_leaves(parameters.values()))

    def settings(self) -> dict[str, Any]:
        """Return the classes of optimizer and scheduler, and what they are made with."""
        optimizer = self._optimizer
        settings = {
            "optimizer": optimizer.pt_optim_constructor.__name__,
            "optim_args": optimizer.pt_optim_args,
            "clip_args": optimizer.pt_clip_args,
        }
        if isinstance(optimizer, PyroLRScheduler):
            settings |= {"scheduler": optimizer.pt_scheduler_constructor.__name__, "scheduler_args": optimizer.kwargs}
        return settings

    def state_dict(self, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        """Return for each parameter the state of its torch optimizer, and of a scheduler around that."""
        self.prepare(parameters)
        made = self._optimizer.optim_objs
        return {
            name: {part: copy.deepcopy(each.state_dict()) for part, each in _parts(made[p.unconstrained]).items()}
            for name, p in parameters.items()
        }

    def load_state_dict(self, state: dict[str, Any], parameters: Mapping[str, Parameter]) -> None:
        """Restore a :meth:`state_dict`."""
        self.prepare(parameters)
        _check_names(self._names, list(state))
        for name, parameter in parameters.items():
            for part, each in _parts(self._optimizer.optim_objs[parameter.unconstrained]).items():
                _load(each, state[name][part])


def _load(made: Any, state: dict[str, Any]) -> None:
    """Load the state of a torch optimizer or scheduler.

    Numbers that an optimizer keeps in tensors stay as precise as they were: torch rounds them to their parameter's.
    """
    made.load_state_dict(copy.deepcopy(state))  # torch takes over the tensors it is given
    if not isinstance(made, torch.optim.Optimizer):
        return
    tensors = [tensor for group in made.param_groups for tensor in group["params"]]
    for place, saved in state["state"].items():
        for key, value in saved.items():
            if isinstance(value, Tensor) and value.dim() == 0:
                its = made.state[tensors[place]]
                its[key] = value.clone().to(its[key].device)


def _parts(made: Any) -> dict[str, Any]:
    """Return what has a state of what Pyro makes for a parameter: an optimizer, or a scheduler around one."""
    if isinstance(made, torch.optim.Optimizer):
        return {"optimizer": made}
    return {"optimizer": made.optimizer, "scheduler": made}


def _check_names(mine: list[str], theirs: list[str]) -> None:
    if mine != theirs:
        raise ValueError(
            f"expected optimizer state for the parameters {mine}, got {theirs}; "
            "load it into a learner over the same model and guide"
        )
