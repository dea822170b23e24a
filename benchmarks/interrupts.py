"""Ctrl-C and SIGTERM, kept away from any state that isn't whole."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal came inside :meth:`Interrupts.call`."""


class Interrupts:
    """Within the block a signal ends what :meth:`call` runs; anywhere else it is noted, and nothing more.

    So there is no line between the first and the last of the block where a signal becomes a traceback.

    Attributes:
        came: the first signal; ``None`` while there was none.
        again: whether another one came, a second later or more (a terminal and a parent may both send the first).
        after: the handlers that the block's end puts in place; those from before it, unless they are replaced.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self.again = False
        self.after: dict[signal.Signals, Any] = {}
        self._since = math.inf
        self._raises = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self.after = {number: signal.signal(number, self.note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.after.items():
            signal.signal(number, handler)

    def note(self, number: int, _frame: FrameType | None = None) -> None:
        """Take a signal in: the handler; also called for one that came to somebody else's."""
        self.again = self.again or time.monotonic() > self._since + 1
        if self.came is None:
            self.came, self._since = number, time.monotonic()
        if self._raises:
            self._raises = False  # a second one must not meet the first on its way up
            raise Interrupted

    def call(self, fn: Callable[[], T]) -> T | None:
        """Return what ``fn`` returns; ``None`` if a signal came during it or earlier.

        A signal that comes as ``fn`` returns may still cost its result, never more than that.
        """
        try:
            try:
                self._raises = True
                return None if self.came is not None else fn()
            finally:
                self._raises = False
        except Interrupted:
            return None


@contextmanager
def blocked() -> Iterator[None]:
    """Let signals wait until the block ends, in threads and processes that start inside it until they allow them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_in_this_process() -> None:
    """Drop ctrl-C, except where some block listens to it, and die of SIGTERM: for a process started in `blocked`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
