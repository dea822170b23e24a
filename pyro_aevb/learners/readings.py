"""The readings of a learner's pair, before the first update and for each kind of minibatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from pyro_aevb.arguments import Form
from pyro_aevb.data_source import check_data
from pyro_aevb.learners.trained_pair import TrainedPair
from pyro_aevb.model_guide.contract import families, read
from pyro_aevb.model_guide.modes import evaluating
from pyro_aevb.objectives.objective import Objective

Inspect = Callable[..., Any]


@final
class Readings:
    """The readings of a pair under training.

    Args:
        pair: the pair.
        inspect: as for :class:`~pyro_aevb.learners.Learner`.

    Attributes:
        dataset_size: N, as the model's plate gave it for the last minibatch; ``None`` before the first.
        families: the families of the distributions by "model.SITE" and "guide.SITE".
        unchecked: the observed sites whose distributions were made with ``validate_args=False``.
    """

    def __init__(self, pair: TrainedPair, inspect: Inspect | None) -> None:
        self._pair, self._inspect = pair, inspect
        self.dataset_size: int | None = None
        self.families: dict[str, str] = {}
        self.unchecked: frozenset[str] = frozenset()
        self._sizes: dict[tuple[Any, ...], int | None] = {}  # N by the shapes of a minibatch and its form
        self._inspected: dict[Form | None, Any] = {}

    @property
    def inspected(self) -> Any:
        """The result of ``inspect`` for arguments of this form; a pair with another flag may have other latents."""
        return self._inspected.get(self._pair.form)

    def recall(self, tensors: tuple[Any, ...]) -> bool:
        """Return whether minibatches of these shapes and of this form have been read; :attr:`dataset_size` is theirs.

        Args:
            tensors: those of the minibatch.
        """
        signature = self._signature(tensors)
        if signature not in self._sizes or self._pair.form not in self._inspected:
            return False
        self.dataset_size = self._sizes[signature]
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
        self.dataset_size, self.unchecked = reading.plate.full_size, reading.unchecked
        self.families = families(reading)
        self.note(args)

    def note(self, tensors: tuple[Any, ...]) -> None:
        """Take minibatches of these shapes, and of this form, to have the N of that which was read last.

        Args:
            tensors: those of the minibatch.
        """
        self._sizes[self._signature(tensors)] = self.dataset_size

    def inspect(self, args: tuple[Tensor, ...]) -> None:
        """Call ``inspect``, once for each form of the arguments.

        Args:
            args: what model and guide take.
        """
        form = self._pair.form
        if form in self._inspected:
            return
        found = None
        if self._inspect is not None:
            with torch.random.fork_rng(), evaluating(self._pair.modules):
                found = self._inspect(*args)
        self._inspected[form] = found

    def _signature(self, tensors: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._pair.form, *(getattr(tensor, "shape", None) for tensor in tensors)
