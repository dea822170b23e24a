"""One thread at a time in Pyro: its stack of handlers and its parameter store are the whole process's.

Two threads that run Pyro functions at once find each other's handlers on the stack, and each other's sites in their
traces.  What runs somebody's pair is marked, and a second thread is told.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_running: dict[int, list[int]] = {}  # process: [thread]; a forked child is another process, in which nobody runs


def one_thread(fn: Callable[P, R]) -> Callable[P, R]:
    """Return ``fn`` as it is, for one thread at a time; all functions that are marked so count as one.

    A thread that is in one of them may call others.

    Args:
        fn: runs a model or a guide.

    Raises:
        RuntimeError: in ``fn``, while another thread is in a marked function.

    >>> from pyro_aevb.one_thread import one_thread
    >>> @one_thread
    ... def run(model):
    ...     return model()
    >>> run(lambda: run(lambda: 3))
    3
    """

    @functools.wraps(fn)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        process, mine = os.getpid(), [threading.get_ident()]
        try:  # whatever interrupts, from here on
            running = _running.setdefault(process, mine)  # one operation: of two threads, one is first
            if running != mine:
                raise RuntimeError(
                    f"expected one thread at a time in models and guides, got a call of {fn.__name__} while another "
                    "thread is in one: Pyro's handlers and parameters are those of the whole process. Use processes, "
                    "or hold a lock of your own around what each thread calls"
                )
            return fn(*args, **kwargs)
        finally:
            if _running.get(process) is mine:
                del _running[process]

    return alone
