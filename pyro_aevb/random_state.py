"""The state of all random generators that a run may draw from, as plain numbers and tensors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of torch's global generators, Python's and NumPy's.

    >>> from pyro_aevb.random_state import random_state, set_random_state
    >>> before = random_state()
    >>> x = torch.rand(1)
    >>> set_random_state(before)
    >>> x == torch.rand(1)
    tensor([True])
    """
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state())  # noqa: NPY002
    return {
        **torch_state(),
        "random": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
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


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch inside the block and put its generators back afterwards; ``None`` changes nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
