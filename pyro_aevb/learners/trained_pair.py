"""A model and a guide under training: their parameters, noted as they run, and the buffers of their modules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor, nn

from pyro_aevb.arguments import Form, arranged
from pyro_aevb.capture.python_state import PythonState
from pyro_aevb.capture.state_numbers import StateNumbers
from pyro_aevb.model_guide.parameters import Parameter, ParameterRecorder
from pyro_aevb.model_guide.traces import PyroCallable, in_one_state

MOST_ARRANGED = 100
Arrangement = tuple[Form | None, int]  # the arguments' form, and the number of the Python state
_Arranged = tuple[Form | None, PyroCallable, PyroCallable | None]


@final
class TrainedPair:
    """A model and a guide whose parameters are noted as they run.

    Args:
        model: p(x, z).
        guide: q(z|x), or ``None``.
        watched: model, guide and what else has modules that belong to them.

    Attributes:
        model, guide: those given, as functions of a minibatch's tensors, and what they run is noted.
        form: of the arguments that these tensors stand for.
        arrangement: which of its arrangements this is; what was read of the pair in one holds in that one.
    """

    def __init__(self, model: PyroCallable, guide: PyroCallable | None, watched: Sequence[Any]) -> None:
        self._theta, self._phi, self._watched = ParameterRecorder(), ParameterRecorder(), list(watched)
        self._named: dict[int, nn.Module] = {}
        self._given = model, guide
        self._state, self._numbers = PythonState([fn for fn in self._given if fn is not None]), StateNumbers()
        self._lines: set[str] = set()
        self.model: PyroCallable = self._theta(model)
        self.guide: PyroCallable | None = None if guide is None else self._phi(guide)
        self.form: Form | None = None
        self.arrangement: Arrangement = None, 0
        self._arranged: dict[Arrangement, _Arranged] = {}

    def arrange(self, form: Form | None) -> None:
        """Let ``model`` and ``guide`` take the tensors of minibatches of this form, in the Python state that is now.

        Each form and each state has its own functions: with another flag, the pair's or an argument, it is another.
        """
        arrangement = form, self._numbers.of(self._state)
        if arrangement not in self._arranged:
            if len(self._arranged) > MOST_ARRANGED:
                self._arranged.pop(next(iter(self._arranged)))
            kept, (model, guide) = None if form is None else form.without_wholes(), self._given
            its_model, its_guide = self._theta(model), None if guide is None else self._phi(guide)
            its_model = in_one_state(arranged(its_model, kept), self._lines)
            if its_guide is not None:
                its_guide = in_one_state(arranged(its_guide, kept), self._lines)
            self._arranged[arrangement] = kept, its_model, its_guide
        self.arrangement = arrangement
        self.form, self.model, self.guide = self._arranged[arrangement]
        if self.form is not None and form is not None:
            self.form.numbers = form.numbers

    @property
    def plates(self) -> dict[str, CondIndepStackFrame]:
        """The plates of the model's last run, by name."""
        return self._theta.plates

    @property
    def theta(self) -> dict[str, Parameter]:
        """The parameters that ran in the model."""
        return self._theta.parameters

    @property
    def phi(self) -> dict[str, Parameter]:
        """The parameters that ran in the guide."""
        return self._phi.parameters

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that can be reached, or were named, each once."""
        found = PythonState(self._watched).modules
        seen = set(map(id, found))
        return found + [module for module in self._named.values() if id(module) not in seen]

    @property
    def named(self) -> list[nn.Module]:
        """The modules that the pair gave to ``pyro.module``, each once."""
        return list(self._named.values())

    @property
    def strangers(self) -> list[str]:
        """The names of parameters that ``pyro.module`` was given, where Pyro's store has others under these names."""
        own = {id(parameter) for module in self._named.values() for parameter in module.parameters(recurse=False)}
        offered = self._theta.replaced | self._phi.replaced
        return [name for name, parameter in offered.items() if id(parameter) in own]

    def note(self, modules: Iterable[nn.Module]) -> None:
        """Take note of modules that the pair gave to ``pyro.module``."""
        self._named |= {id(module): module for module in modules}

    def leaves(self) -> dict[str, Tensor]:
        """Return the unconstrained tensors of theta and phi."""
        return {name: parameter.unconstrained for name, parameter in (self.theta | self.phi).items()}

    def copy(self) -> dict[str, Any]:
        """Return a copy of theta and phi, unconstrained, and of the buffers."""
        return {
            "parameters": {name: leaf.detach().clone() for name, leaf in self.leaves().items()},
            "buffers": [buffer.clone() for buffer in self._buffers()],
        }

    @torch.no_grad()
    def put(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`copy` gave; raise ``ValueError`` if it comes from another pair."""
        leaves, buffers = self.leaves(), self._buffers()
        mine = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
        theirs = {name: tuple(value.shape) for name, value in state["parameters"].items()}
        if mine != theirs:
            raise ValueError(
                f"expected a state with parameters {mine}, got {theirs}; load it over the same model and guide"
            )
        shapes = [tuple(b.shape) for b in buffers], [tuple(b.shape) for b in state["buffers"]]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"expected a state with buffers of shapes {shapes[0]}, got {shapes[1]}; load it over the same modules"
            )
        for name, value in state["parameters"].items():
            leaves[name].copy_(value)
        for buffer, value in zip(buffers, state["buffers"], strict=True):
            buffer.copy_(value)

    def _buffers(self) -> list[Tensor]:
        return [buffer for module in self.modules for buffer in module._buffers.values() if buffer is not None]
