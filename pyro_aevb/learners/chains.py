"""The HMC chains of a data set, one a datapoint, kept from visit to visit, and the step size they have in common.

Shapes: N datapoints, M minibatch, J latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor


@final
class Chains:
    """Where each datapoint's chain is.

    Attributes:
        positions: (N, J), NaN for a datapoint that has not been visited; ``None`` before the first visit.
        step_size: the largest leapfrog step, as it is adapted.
    """

    def __init__(self, step_size: float) -> None:
        self.positions: Tensor | None = None
        self.step_size = step_size

    def at(self, index: Tensor, size: int, prior_draw: Callable[[], Tensor]) -> Tensor:
        """Return where the chains at ``index`` (M,) are, (M, J): as the last visit left them, or a draw from the prior.

        Args:
            index: places in the data set.
            size: how many chains there are to be at least.
            prior_draw: draws from the prior, (M, J).
        """
        draw = None
        if self.positions is None or len(self.positions) < size:
            draw = prior_draw()
            positions = draw.new_full((size, draw.shape[-1]), torch.nan)
            if self.positions is not None:
                positions[: len(self.positions)] = self.positions
            self.positions = positions
        self.positions = self.positions.to(index.device)  # a state that was loaded is on the CPU
        kept = self.positions[index]
        if not kept.isnan().any():
            return kept
        draw = prior_draw() if draw is None else draw
        return torch.where(kept.isnan(), draw, kept)

    def put(self, index: Tensor, positions: Tensor) -> None:
        """Leave the chains at ``index`` (M,) at ``positions`` (M, J)."""
        assert self.positions is not None
        self.positions[index] = positions

    def state_dict(self) -> dict[str, Any]:
        """Return positions and step size."""
        positions = None if self.positions is None else self.positions.clone()
        return {"positions": positions, "step_size": self.step_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        self.positions = None if state["positions"] is None else state["positions"].clone()
        self.step_size = state["step_size"]
