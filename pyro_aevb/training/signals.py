"""Ctrl-C and SIGTERM, kept back until the step in hand is whole."""

from __future__ import annotations

import math
import signal
import threading
import time
from typing import Any


class HeldSignals:
    """Inside the block ctrl-C (and SIGTERM, with ``terminate``) is noted and nothing else.

    A second ctrl-C, a second later or more, ends the block at once.

    Attributes:
        interrupted: ctrl-C came.
        terminated: SIGTERM came.
        at_once: a second ctrl-C ended the block, in the middle of something.
    """

    def __init__(self, terminate: bool) -> None:
        self.interrupted = self.terminated = self.at_once = False
        self._since = math.inf
        self._kinds = [signal.SIGINT, signal.SIGTERM] if terminate else [signal.SIGINT]
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> HeldSignals:
        if threading.current_thread() is threading.main_thread():
            self._previous = {kind: signal.signal(kind, self._note) for kind in self._kinds}
        return self

    def _note(self, kind: int, *_: Any) -> None:
        if kind == signal.SIGTERM:
            self.terminated = True
            return
        if time.monotonic() > self._since + 1:  # a terminal and a parent process may both send the first
            raise KeyboardInterrupt
        self.interrupted, self._since = True, min(self._since, time.monotonic())

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> bool:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        if kind is not KeyboardInterrupt:
            return False
        self.interrupted = self.at_once = True
        return True
