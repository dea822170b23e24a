"""Random numbers of each datapoint's own: they depend on the seed and its place in the data, not on its neighbours.

Shapes: C chains, M datapoints, J dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.checks import check_integers
from pyro_aevb.samplers.hmc import Noise

Use = Literal["proposals", "starts", "chains", "predictions", "data", "simulations", "references", "classifiers"]
USES: tuple[Use, ...] = (
    "proposals", "starts", "chains", "predictions", "data", "simulations", "references", "classifiers",
)  # fmt: skip


class Streams:
    """A stream of random numbers for each datapoint and use.

    Args:
        seed: of all of them; ``None`` takes one number from torch's global generator for it.
    """

    def __init__(self, seed: int | None) -> None:
        check_integers(seed=seed)
        self._seed = int(torch.randint(2**62, ())) if seed is None else seed % 2**63

    def seed(self, place: int, use: Use) -> int:
        """Return the seed of the datapoint at a place of the data set, for one use.

        >>> from pyro_aevb.posterior.noise import Streams
        >>> len({Streams(0).seed(place, use) for place in range(3) for use in ("starts", "chains")})
        6
        """
        words = np.random.SeedSequence((self._seed, place, USES.index(use))).generate_state(1, np.uint64)
        return int(words[0] >> np.uint64(1))

    def chains(self, places: Sequence[int], device: torch.device) -> Noise:
        """Return the noise of chains (C, M, ...), each datapoint's its own.

        Args:
            places: of the M datapoints.
            device: where the chains are.
        """
        generators = [torch.Generator(device).manual_seed(self.seed(place, "chains")) for place in places]

        def by_datapoint(draw: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
            def drawn(like: Tensor) -> Tensor:
                shape = (like.shape[0], *like.shape[2:])
                each = [draw(shape, generator=g, dtype=like.dtype, device=device) for g in generators]
                return torch.stack(each, 1)

            return drawn

        return Noise(by_datapoint(torch.randn), by_datapoint(torch.rand))
