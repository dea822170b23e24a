"""The losses of steps, held to be finite: read at once, or together later where reading one waits for a device."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from pyro_aevb.model_guide.contract import NonFiniteLossError

MOST_UNREAD = 100


@final
class Losses:
    """The losses of a learner's last steps.

    >>> from pyro_aevb.learners.losses import Losses
    >>> losses = Losses()
    >>> losses.add(torch.tensor(1.0))
    True
    >>> losses.add(torch.tensor(float("nan")))
    False
    """

    def __init__(self) -> None:
        self._unread: list[Tensor] = []

    def add(self, loss: Tensor) -> bool:
        """Return whether a step's loss is finite; one on a device is taken for it until it is read."""
        if _is_on_a_device(loss):
            self._unread.append(loss)
            return True
        return math.isfinite(loss.item())

    def read_if_many(self) -> None:
        """Read what is unread once there are a hundred; errors as for :meth:`read`."""
        if len(self._unread) >= MOST_UNREAD:
            self.read()

    def read(self) -> None:
        """Read all that is unread.

        Raises:
            NonFiniteLossError: for one that is NaN or infinite.
        """
        losses, self._unread = self._unread, []
        wrong = [] if not losses else (~torch.stack(losses).isfinite()).nonzero().flatten().tolist()
        if wrong:
            raise NonFiniteLossError(
                f"expected finite losses, got NaN or infinity {len(losses) - wrong[0]} steps ago; the parameters were "
                "updated from it. Go back to an earlier checkpoint with a lower learning rate, or bound the scales in "
                "the model"
            )


def _is_on_a_device(loss: Tensor) -> bool:
    """Return whether reading the loss would wait for a device."""
    return loss.is_cuda
