"""The state of all random generators that a run may draw from, as plain numbers and tensors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

MARK = torch.tensor([0x2545F4914F6CDD1D])


def random_state() -> dict[str, Any]:
    """Return the state of torch's global generators, Python's and NumPy's.

    >>> from pyro_aevb.random_state import random_state, set_random_state
    >>> before = random_state()
    >>> x = torch.rand(1)
    >>> set_random_state(before)
    >>> x == torch.rand(1)
    tensor([True])
    """
    return {
        **torch_state(),
        "random": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back a :func:`random_state`."""
    set_torch_state(state)
    random.setstate(state["random"])
    np.random.set_state(state["numpy"])  # noqa: NPY002


def torch_state() -> dict[str, Any]:
    """Return the state of torch's generators, of the processor and of each device in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def set_torch_state(state: dict[str, Any]) -> None:
    """Put back a :func:`torch_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def reseed(seed: int) -> None:
    """Seed torch's global generators as ``torch.manual_seed`` does, in microseconds where there is no other device.

    Torch notes the call stack for each kind of device that isn't in use, which takes a millisecond.

    >>> from pyro_aevb.random_state import reseed
    >>> reseed(3)
    >>> x = torch.rand(2)
    >>> _ = torch.manual_seed(3)
    >>> torch.equal(x, torch.rand(2))
    True
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def mark_seed() -> None:
    """Let torch's generator have a seed that nobody chooses, its numbers as before; see :func:`has_marked_seed`.

    >>> from pyro_aevb.random_state import forked, has_marked_seed, mark_seed
    >>> with forked():
    ...     mark_seed()
    ...     x, untouched = torch.rand(2), has_marked_seed()
    ...     _ = torch.manual_seed(0)
    ...     untouched, has_marked_seed()
    (True, False)
    >>> torch.equal(x, torch.rand(2))
    True
    """
    state = torch.get_rng_state()
    state[: MARK.element_size()] = MARK.view(torch.uint8)  # the seed comes first; what follows are the numbers
    torch.set_rng_state(state)


def has_marked_seed() -> bool:
    """Return whether torch wasn't seeded since :func:`mark_seed`, unless that was undone."""
    return torch.initial_seed() == int(MARK)


@contextmanager
def unmoved() -> Iterator[None]:
    """Put all generators back after the block: packages draw from them while they are imported, rich among them.

    >>> import random
    >>> from pyro_aevb.random_state import unmoved
    >>> before = random.getstate()
    >>> with unmoved():
    ...     _ = random.random()
    >>> random.getstate() == before
    True
    """
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


@contextmanager
def forked() -> Iterator[None]:
    """Put torch's generators back after the block, as ``torch.random.fork_rng`` does, in microseconds without devices.

    Torch looks for devices each time, which takes a fifth of a millisecond where there are none.

    >>> from pyro_aevb.random_state import forked
    >>> with forked():
    ...     x = torch.rand(1)
    >>> x == torch.rand(1)
    tensor([True])
    """
    if torch.accelerator.is_available():
        with torch.random.fork_rng():
            yield
        return
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch inside the block and put its generators back afterwards; ``None`` changes nothing.

    Raises:
        TypeError: for a seed that is no integer.
    """
    if seed is None:
        yield
        return
    if not hasattr(seed, "__index__"):
        raise TypeError(f"expected an integer for seed, got {seed!r}; pass int(...)")
    with forked():
        reseed(seed)
        yield


class OwnRandomState:
    """States of one's own for the global generators of the processor: torch's, Python's and NumPy's.

    Whatever draws from these generators inside :meth:`in_use` draws from its own states, and nobody else does: it draws
    the same again, whatever was drawn outside.

    Args:
        seed: of all three.

    >>> from pyro_aevb.random_state import OwnRandomState
    >>> own = OwnRandomState(0)
    >>> with own.in_use():
    ...     x = torch.rand(1)
    >>> torch.manual_seed(0).initial_seed(), torch.equal(x, torch.rand(1))
    (0, True)
    """

    def __init__(self, seed: int) -> None:
        self._torch = torch.Generator().manual_seed(seed).get_state()
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.MT19937(seed)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Put these states in place inside the block; what was drawn there moves them on."""
        before = torch.get_rng_state(), random.getstate(), np.random.mtrand.get_bit_generator()
        try:
            torch.set_rng_state(self._torch)
            random.setstate(self._python)
            np.random.mtrand.set_bit_generator(self._numpy)
            yield
        finally:
            self._torch, self._python = torch.get_rng_state(), random.getstate()
            np.random.mtrand.set_bit_generator(before[2])
            random.setstate(before[1])
            torch.set_rng_state(before[0])

    def state_dict(self) -> dict[str, Any]:
        """Return the states."""
        return {"torch": self._torch, "random": self._python, "numpy": self._numpy.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        self._torch, self._python, self._numpy.state = state["torch"], state["random"], state["numpy"]
