"""The readings of a learner's pair, before the first update and for each kind of minibatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, final

from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from pyro_aevb.checks import check_data
from pyro_aevb.learners.trained_pair import Arrangement, TrainedPair
from pyro_aevb.model_guide.contract import families, read
from pyro_aevb.model_guide.modes import evaluating
from pyro_aevb.model_guide.plates import full_size_of
from pyro_aevb.model_guide.sites import DataPlate
from pyro_aevb.objectives.objective import Objective
from pyro_aevb.random_state import forked

Inspect = Callable[..., Any]
MOST_KEPT = 1000


class _Found(NamedTuple):
    """The findings in one arrangement of a pair."""

    unchecked: frozenset[str]
    inspected: Any


@final
class Readings:
    """The readings of a pair under training.

    Args:
        pair: the pair.
        inspect: as for :class:`~pyro_aevb.learners.Learner`.

    Attributes:
        families: the families of the distributions by "model.SITE" and "guide.SITE".
    """

    def __init__(self, pair: TrainedPair, inspect: Inspect | None) -> None:
        self._pair, self._inspect = pair, inspect
        self.families: dict[str, str] = {}
        self._plate: DataPlate | None = None
        self._unchecked: frozenset[str] = frozenset()
        self._plates: dict[tuple[Any, ...], DataPlate] = {}  # by the shapes of a minibatch and the pair's arrangement
        self._found: dict[Arrangement, _Found] = {}

    @property
    def inspected(self) -> Any:
        """The result of ``inspect`` for the pair as it is now: with another flag it may have other latents."""
        found = self._found.get(self._pair.arrangement)
        return None if found is None else found.inspected

    @property
    def unchecked(self) -> frozenset[str]:
        """The observed sites whose distributions were made with ``validate_args=False``."""
        found = self._found.get(self._pair.arrangement)
        return frozenset() if found is None else found.unchecked

    @property
    def dataset_size(self) -> int | None:
        """N, as the model's plate has it in its last run; ``None`` before the first."""
        if self._plate is None:
            return None
        frame = self._pair.plates.get(self._plate.name)
        return self._plate.full_size if frame is None else full_size_of(frame, self._plate.size)

    def recall(self, tensors: tuple[Any, ...]) -> bool:
        """Return whether minibatches of these shapes have been read in this arrangement; the N is theirs from here on.

        Args:
            tensors: those of the minibatch.
        """
        plate = self._plates.get(self._signature(tensors))
        if plate is None or self._pair.arrangement not in self._found:
            return False
        if plate is not self._plate:  # else the last run's N is newer than that which was read
            self._plate = plate
            self._pair.plates.pop(plate.name, None)
        return True

    def read(self, args: tuple[Tensor, ...], objective: Any) -> None:
        """Run the pair on a minibatch, check both against the contract, and take note of what they are.

        Args:
            args: what model and guide take.
            objective: what is maximized; most can't sum out latents that the guide doesn't sample.

        Raises:
            ValueError, TypeError: for data or a pair that breaks the contract.
        """
        form = self._pair.form
        check_data(*(args if form is None else args[: form.num_rows]))
        reading = read(self._pair.model, self._pair.guide, args, modules=self._pair.modules)
        self._pair.note(reading.named_modules)
        missing = [*reading.summed, *reading.sites("model", "enumerated")]
        if missing and not isinstance(objective, Objective | TraceEnum_ELBO | None):
            raise ValueError(
                f"expected an objective that sums out {missing}, which the guide doesn't sample, got "
                f"{type(objective).__name__}; pass SGVB(), IWAE(K) or pyro.infer.TraceEnum_ELBO(), or sample them in "
                "the guide"
            )
        reading.require_one_n()
        self._plate, self._unchecked = reading.plate, reading.unchecked
        self.families = families(reading)
        self.note(args)

    def note(self, tensors: tuple[Any, ...]) -> None:
        """Take minibatches of these shapes, and of this form, to have the N of that which was read last.

        Args:
            tensors: those of the minibatch.
        """
        assert self._plate is not None
        _keep(self._plates, self._signature(tensors), self._plate)

    def inspect(self, args: tuple[Tensor, ...]) -> None:
        """Call ``inspect``, once for each arrangement of the pair.

        Args:
            args: what model and guide take.
        """
        if self._pair.arrangement in self._found:
            return
        found = None
        if self._inspect is not None:
            with forked(), evaluating(self._pair.modules):
                found = self._inspect(*args)
        _keep(self._found, self._pair.arrangement, _Found(self._unchecked, found))

    def _signature(self, tensors: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._pair.arrangement, *(getattr(tensor, "shape", None) for tensor in tensors)


def _keep(found: dict[Any, Any], key: Any, value: Any) -> None:
    """Put in a value; where there are many, the oldest one goes."""
    if len(found) >= MOST_KEPT:
        found.pop(next(iter(found)))
    found[key] = value
