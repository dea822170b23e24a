"""A pair with other parameters for a moment: what is weighed with nought where training begins shows then."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SMALLEST, LARGEST = 0.2, 0.5  # step of a number by itself; of a matrix, what moves a sum over a row by as much
SEED, PERIOD = 0, 1009  # the noise is repeated, which is faster; a prime, so that no two rows have the same


@contextmanager
def moved(leaves: Iterable[Tensor]) -> Iterator[None]:
    """Give unconstrained parameters other values inside the block; nothing is written to their memory.

    Each has its own storage again afterwards, and gradients, optimizers and random numbers aren't touched.

    Args:
        leaves: the parameters, of which those that aren't floating-point stay.

    >>> from pyro_aevb.model_guide.moved_parameters import moved
    >>> gate = torch.zeros((), requires_grad=True)
    >>> with moved([gate]):
    ...     print(bool(gate != 0))
    True
    >>> gate
    tensor(0., requires_grad=True)
    """
    movable = {id(leaf): leaf for leaf in leaves if leaf.is_floating_point() and not leaf.is_inference()}
    before = [(leaf, leaf.data) for leaf in movable.values()]
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.empty(PERIOD).uniform_(SMALLEST - LARGEST, LARGEST - SMALLEST, generator=generator)
    noise = noise + SMALLEST * noise.sign()
    try:
        for leaf, value in before:
            columns = value[0].numel() if value.dim() > 1 and len(value) else 1
            steps = (noise / math.sqrt(max(columns, 1))).to(value)
            steps = steps.repeat(-(-value.numel() // PERIOD))[: value.numel()].reshape(value.shape)
            leaf.data = value + steps
        yield
    finally:
        try:
            _put_back(before)
        except BaseException:  # a signal, in the middle of it
            _put_back(before)
            raise


def _put_back(before: list[tuple[Tensor, Tensor]]) -> None:
    for leaf, value in before:
        leaf.data = value
