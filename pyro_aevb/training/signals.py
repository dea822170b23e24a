"""Ctrl-C, SIGTERM and SIGHUP, kept back until what is in hand is whole."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class HeldSignals:
    """Inside the block ctrl-C (and SIGTERM and SIGHUP, with ``terminate``) is noted and nothing else.

    Only what :meth:`call` runs is ended at once, by a second ctrl-C, a second later or more.

    Args:
        terminate: whether SIGTERM and SIGHUP are kept back too.
        answer: a line to print at the first ctrl-C, for a step that is being compiled may take a minute.

    Attributes:
        interrupted: ctrl-C came.
        terminated: the number of the signal that is to end the process; 0 if none came.
        at_once: a call was ended in the middle of something.
        again: a second ctrl-C came.
    """

    def __init__(self, terminate: bool, answer: str = "") -> None:
        self.interrupted = self.at_once = self.again = False
        self.terminated = 0
        self._answer = answer
        self._since = math.inf
        self._kinds = [signal.SIGINT, *(ENDING if terminate else [])]
        self._previous: dict[signal.Signals, Any] = {}
        self._breakable = self._by_termination = False

    def __enter__(self) -> HeldSignals:
        if threading.current_thread() is threading.main_thread():
            for kind in self._kinds:
                if kind == signal.SIGINT or signal.getsignal(kind) is not signal.SIG_IGN:  # nohup's
                    self._previous[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def call(self, fn: Callable[[], object], *, by_termination: bool = False) -> None:
        """Call ``fn``, and let a second ctrl-C end it at once.

        Args:
            fn: what to call; a ``KeyboardInterrupt`` of its own ends it too.
            by_termination: let SIGTERM and SIGHUP end it at once too.
        """
        try:
            try:
                self._breakable, self._by_termination = True, by_termination
                fn()
            finally:
                self._breakable = self._by_termination = False
        except KeyboardInterrupt:
            self.at_once = True
            self.interrupted = self.interrupted or not self.terminated

    def _note(self, kind: int, *_: Any) -> None:
        if kind != signal.SIGINT:
            self.terminated = self.terminated or kind
            self._end(self._by_termination)
            return
        if self._answer and not self.interrupted:
            _say(self._answer)
        # A terminal and a parent process may both send the first one.
        self.again = self.again or time.monotonic() > self._since + 1
        self.interrupted, self._since = True, min(self._since, time.monotonic())
        self._end(self._breakable and self.again)

    def _end(self, now: bool) -> None:
        if now:
            self._breakable = self._by_termination = False  # another one must not meet this one on its way up
            raise KeyboardInterrupt


def _say(text: str) -> None:
    """Print a line to stderr, from a signal's handler."""
    try:
        print(f"\n{text}", file=sys.stderr, flush=True)
    except RuntimeError:  # it came in the middle of the bar's own writing, which can't be entered twice
        os.write(2, f"\n{text}\n".encode())
