"""The parameters of a learner, held to be finite: a finite loss may have a gradient that isn't."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor

from pyro_aevb.model_guide.contract import NonFiniteLossError
from pyro_aevb.model_guide.parameters import Parameter

FIRST_UPDATES = 10  # whose gradients are looked at before they are followed
MOST_STEPS = 100  # between two looks at the parameters
REMEDY = (
    "A branch that torch.where doesn't take has a gradient too, NaN times 0: write torch.where(a > 0, a, 1).sqrt() for "
    "torch.where(a > 0, a.sqrt(), 1), say; or bound the scales in the model, or lower the learning rate"
)

BACK = f"Go back to an earlier checkpoint. {REMEDY}"


@final
class FiniteParameters:
    """Looks at gradients in the first updates, and at parameters from time to time: each look costs a pass over them.

    Args:
        leaves: returns the parameters by name.
    """

    def __init__(self, leaves: Callable[[], Mapping[str, Tensor]]) -> None:
        self._leaves = leaves
        self._exempt: frozenset[str] = frozenset()  # the log of an impossible class's probability, say
        self._updates = self._steps = 0

    def begin(self) -> None:
        """Take parameters that aren't finite now to be meant so."""
        self._exempt = frozenset(_not_finite(self._leaves()))

    def look_at_gradients(self, parameters: Mapping[str, Parameter]) -> None:
        """Look at the gradients that are about to be followed, those of the first updates.

        Args:
            parameters: what is to be updated, by name.

        Raises:
            NonFiniteLossError: for one that is NaN or infinite.
        """
        self._updates += 1
        if self._updates > FIRST_UPDATES:
            return
        gradients = {name: parameter.unconstrained.grad for name, parameter in parameters.items()}
        if names := _not_finite({name: each for name, each in gradients.items() if each is not None}):
            raise NonFiniteLossError(
                f"expected finite gradients of a finite loss, got NaN or infinity for {names}; these parameters were "
                f"not updated. {REMEDY}"
            )

    def stepped(self) -> None:
        """Count a step, and look at the parameters at every hundredth; errors as for :meth:`look`."""
        self._steps += 1
        if self._steps >= MOST_STEPS:
            self.look()

    def look(self) -> None:
        """Look at the parameters, unless there was no step since the last time.

        Raises:
            NonFiniteLossError: for one that is NaN or infinite.
        """
        if self._steps and (names := self.names()):
            raise NonFiniteLossError(
                f"expected finite parameters, got NaN or infinity in {names} after {self._steps} steps whose losses "
                f"were finite: a gradient wasn't, or somebody wrote to them. {BACK}"
            )
        self._steps = 0

    def names(self) -> list[str]:
        """Return the names of the parameters that aren't finite, and aren't meant so."""
        return sorted(set(_not_finite(self._leaves())) - self._exempt)


@torch.no_grad()
def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that hold NaN or infinity."""
    names = [name for name, each in tensors.items() if each.is_floating_point()]
    if not names:
        return []
    values = [tensors[name] for name in names]
    finite = torch.stack([(each.coalesce().values() if each.is_sparse else each).isfinite().all() for each in values])
    return [name for name, each in zip(names, finite.tolist(), strict=True) if not each]
