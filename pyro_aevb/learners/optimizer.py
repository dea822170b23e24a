"""One optimizer, torch's or Pyro's, over parameters that come to light only when the model runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_aevb.learners.fused_adam import FusedAdam
from pyro_aevb.model_guide.parameters import Parameter

OptimizerFactory = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
AnyOptimizer = PyroOptim | torch.optim.Optimizer | OptimizerFactory


class Optimizer:
    """One optimizer over parameters that may appear late, behind a single ``step``.

    ``optimizer`` is one of:

    * a factory that makes a torch optimizer from parameters: ``partial(torch.optim.Adam, lr=1e-3)``;
    * a ``torch.optim.Optimizer`` over parameters that exist already; what it doesn't hold is left as it is;
    * a ``pyro.optim.PyroOptim``.

    Raises ``TypeError`` for anything else.
    """

    def __init__(self, optimizer: AnyOptimizer) -> None:
        if not isinstance(optimizer, PyroOptim | torch.optim.Optimizer) and not callable(optimizer):
            raise TypeError(
                "expected a torch optimizer, a function from parameters to one, or a Pyro optimizer, "
                f"got {optimizer!r}; for example functools.partial(torch.optim.Adam, lr=1e-3)"
            )
        self._pyro: Any = optimizer if isinstance(optimizer, PyroOptim) else None
        self._torch: Any = optimizer if isinstance(optimizer, torch.optim.Optimizer) else None
        self._factory: Any = None if self._pyro or self._torch else optimizer
        self._adam: FusedAdam | None = None
        self._names: list[str] = []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The torch optimizer's parameter groups, the place to change a learning rate; empty before the first step."""
        if self._pyro is not None:
            raise TypeError(
                "expected a torch optimizer to set a learning rate on, got a Pyro one; pass a factory such as "
                "functools.partial(torch.optim.Adam, lr=1e-3), or use pyro.optim's own schedulers"
            )
        return self._torch.param_groups if self._torch is not None else []

    def prepare(self, parameters: Mapping[str, Parameter]) -> None:
        """Take in those of ``parameters`` that are new."""
        new = [name for name in parameters if name not in self._names]
        if not new:
            return
        self._names += new
        tensors = [parameters[name].unconstrained for name in new]
        if self._factory is not None and self._torch is None:
            self._torch = self._factory(tensors)
        elif self._factory is not None:
            self._torch.add_param_group({"params": tensors})
        elif self._pyro is not None:
            for tensor in tensors:  # PyroOptim makes these on its first step; loading a state needs them earlier
                if tensor not in self._pyro.optim_objs:
                    self._pyro.optim_objs[tensor] = self._pyro._get_optim(tensor)
                    self._pyro.grad_clip[tensor] = self._pyro._get_grad_clip(tensor)

    def step(self, parameters: Mapping[str, Parameter]) -> None:
        """Update ``parameters`` from their gradients."""
        self.prepare(parameters)
        if self._pyro is not None:
            self._pyro([p.unconstrained for p in parameters.values()])
        elif self._adam is not None and self._adam.step():
            return
        elif self._torch is not None:  # there may be nothing to update: a guide whose parameters are all the model's
            self._torch.step()
            self._adam = FusedAdam.over(self._torch)

    def state_dict(self, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        """Return a copy of the optimizer's state, plain tensors and numbers."""
        self.prepare(parameters)
        if self._pyro is not None:
            optimizers = self._pyro.optim_objs
            return copy.deepcopy({n: optimizers[p.unconstrained].state_dict() for n, p in parameters.items()})
        return {"names": list(self._names), "state": copy.deepcopy(self._torch.state_dict()) if self._torch else None}

    def load_state_dict(self, state: dict[str, Any], parameters: Mapping[str, Parameter]) -> None:
        """Restore what :meth:`state_dict` gave for the same parameters; raise ``ValueError`` for others."""
        self.prepare(parameters)
        state = copy.deepcopy(state)  # torch takes over the tensors it is given
        names = list(state) if self._pyro is not None else state["names"]
        if names != self._names:
            raise ValueError(
                f"expected optimizer state for the parameters {self._names}, got {names}; "
                "load it into a learner over the same model and guide"
            )
        if self._pyro is not None:
            for name, parameter in parameters.items():
                self._pyro.optim_objs[parameter.unconstrained].load_state_dict(state[name])
        elif self._torch is not None:
            self._torch.load_state_dict(state["state"])
