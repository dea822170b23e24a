"""Several processes on one minibatch: each takes its part, and the gradients are put together.

What makes the sum right is Eq. (8): with M datapoints a minibatch counts N/M times, so the part of m of them counts
(N/m) m/M.  The prior on theta, which every process adds whole, then counts once, as the weights m/M sum to one.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from pyro_aevb.learners.minibatch_share import Share

HEARTBEAT = 2.0  # seconds between two signs of life of the first rank, while the others wait for it
# In what gloo and NCCL say where a process that they talk to isn't there any more.
GONE = ("closed by peer", "reset by peer", "Broken pipe", "Timed out", "timed out", "remote process exited")


class Ranks:
    """The processes that train together: those of torch.distributed's group, or this one alone.

    >>> from pyro_aevb.training.ranks import Ranks
    >>> Ranks().rank, Ranks().size, Ranks().part_of(10)
    (0, 1, slice(0, 10, None))
    """

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def bounds(self, size: int) -> tuple[int, int]:
        """Return where this rank's part of ``size`` datapoints begins and ends."""
        return self.rank * size // self.size, (self.rank + 1) * size // self.size

    def part_of(self, size: int) -> slice:
        """Return the part of a minibatch that this rank runs: its own, or one datapoint where it has none."""
        begin, end = self.bounds(size)
        return slice(begin, end) if begin < end else slice(0, 1)

    def share(self, size: int, sums: bool) -> Share | None:
        """Return this rank's share of a minibatch of ``size`` datapoints; ``None`` if there is one rank."""
        return None if self.size == 1 else Share(*self.bounds(size), size, sums)

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is up on any rank."""
        if self.size == 1:
            return list(flags)
        numbers = torch.tensor([float(flag) for flag in flags], device=self._device)
        torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
        return [number > 0 for number in numbers.tolist()]

    def from_first(self, value: Any) -> Any:
        """Return what the first rank has."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, device=self._device)
        return values[0]

    def run_on_first(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns on the first rank, which alone calls it.

        The others wait for as long as it takes, whatever the group's timeout: they hear from the first rank every
        ``HEARTBEAT`` seconds, and fail as soon as it is gone.
        """
        if self.size == 1:
            return function()
        hearts, value = _heartbeats(torch.distributed.group.WORLD), None
        if self.rank == 0:
            ended = threading.Event()
            beating = threading.Thread(target=_beat, args=(hearts, ended), daemon=True)
            beating.start()
            try:
                value = function()
            finally:
                ended.set()
                beating.join()
        else:
            while not _heard_the_end(hearts):
                pass
        return self.from_first(value)

    def of_all(self, value: Any) -> list[Any]:
        """Return every rank's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise on every rank if the block raises on one: ``RuntimeError`` on those where it doesn't."""
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        told = self.of_all(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, text in enumerate(told):
            if text is not None:
                raise RuntimeError(f"expected every process to get here, got in process {rank} {text}")

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Raise ``ConnectionError`` with a sentence if the block fails because another process is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not any(words in str(error) for words in GONE):
                raise
            raise ConnectionError(
                f"expected all {self.size} processes to train to the end, got one that is gone "
                f"({str(error).splitlines()[0]}); its own output says why, and resume=True, or pyro-aevb train "
                "--resume, goes on from the last checkpoint"
            ) from error

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Check that every rank has the same settings.

        Raises:
            ValueError: on every rank, naming what differs, if one has others.
        """
        every = self.of_all(dict(settings))
        for rank, theirs in enumerate(every):
            for name in dict.fromkeys([*every[0], *theirs]):
                if every[0].get(name) != theirs.get(name):
                    raise ValueError(
                        f"expected the same run in every process, got {name}={every[0].get(name)} in process 0 and "
                        f"{name}={theirs.get(name)} in process {rank}; pass the same arguments and data everywhere"
                    )

    def mean(self, value: float) -> float:
        """Return the mean over the ranks."""
        return sum(self.of_all(value)) / self.size

    @torch.no_grad()
    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the first one's tensors, in place."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)

    @property
    def _device(self) -> torch.device:
        nccl = torch.distributed.get_backend() == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


@functools.lru_cache(maxsize=1)
def _heartbeats(world: Any) -> Any:
    """Return a group of the same processes, in which a sign of life is no part of what they say to each other."""
    return torch.distributed.new_group(backend="gloo")


def _beat(hearts: Any, ended: threading.Event) -> None:
    """Broadcast every few seconds that there is more to wait for, and at the end that there isn't."""
    while not ended.wait(HEARTBEAT):
        torch.distributed.broadcast(torch.zeros(()), src=0, group=hearts)
    torch.distributed.broadcast(torch.ones(()), src=0, group=hearts)


def _heard_the_end(hearts: Any) -> bool:
    sign = torch.zeros(())
    torch.distributed.broadcast(sign, src=0, group=hearts)
    return bool(sign)


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, inside the block; give the device that this one works on.

    Without torchrun there is nothing to join, and the device is the one that was given.

    Args:
        device: "cpu", or "cuda" for the GPU of this process's local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        torch.distributed.destroy_process_group()
