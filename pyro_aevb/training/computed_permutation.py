r"""A permutation of very many places that is computed where it is asked for, and not stored.

A Feistel network is a permutation of the numbers of 2w bits, whatever function F scrambles the halves:
(l, r) -> (r, l xor F(r)), a few times (Luby and Rackoff, *How to construct pseudorandom permutations*, 1988).  Numbers
beyond N are permuted again until they are below ("cycle walking", Black and Rogaway 2002), which keeps it one to one.

Shapes: N places, M of them asked for.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

ROUNDS = 8
BLOCK = 2**14  # places computed at a time; few enough for torch to use one thread
MULTIPLIER = 0x5851F42D4C957F2D  # of Knuth's generator; its products wrap around


@final
class ComputedPermutation:
    """A permutation of 0, ..., N - 1, by slices.

    Args:
        size: N.
        generator: draws the keys; nothing else is drawn.

    >>> from pyro_aevb.training.computed_permutation import ComputedPermutation
    >>> order = ComputedPermutation(10**12, torch.Generator().manual_seed(0))
    >>> len(order), len(order[5:8].unique())
    (1000000000000, 3)
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self._size = size
        self._half = max(1, -(-(size - 1).bit_length() // 2))  # bits
        self._keys = torch.randint(2**62, (ROUNDS,), generator=generator)
        self._begin, self._block = 0, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, places: slice) -> Tensor:
        """Return what is at the places of a slice, (M,)."""
        begin, end, step = places.indices(self._size)
        if step != 1:
            raise ValueError(f"expected places one after another, got a step of {step}")
        parts = [self._within(first, min(first + BLOCK, end)) for first in range(begin, end, BLOCK)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)

    def _within(self, begin: int, end: int) -> Tensor:
        """Return what is at up to ``BLOCK`` places; those of the last call are kept, and some that follow."""
        kept = self._begin, self._begin + len(self._block)
        if not kept[0] <= begin <= end <= kept[1]:
            self._begin = begin
            self._block = self._permuted(torch.arange(begin, min(begin + BLOCK, self._size)))
        return self._block[begin - self._begin : end - self._begin]

    def _permuted(self, places: Tensor) -> Tensor:
        result = self._network(places)
        while (beyond := result >= self._size).any():
            result[beyond] = self._network(result[beyond])
        return result

    def _network(self, numbers: Tensor) -> Tensor:
        mask = (1 << self._half) - 1
        left, right = numbers >> self._half, numbers & mask
        for key in self._keys:
            scrambled = (right ^ key) * MULTIPLIER
            scrambled = (scrambled ^ (scrambled >> 29)) * MULTIPLIER
            left, right = right, left ^ ((scrambled >> 32) & mask)
        return (left << self._half) | right
