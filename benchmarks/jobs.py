"""Tasks one after the other, or several at a time in processes of their own, until they are done or ctrl-C comes."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from interrupts import Interrupts, blocked, ignore_in_this_process
from tqdm import tqdm

from pyro_aevb import NonFiniteLossError
from pyro_aevb.training.signals import HeldSignals

Parts = dict[str, Any]  # of a benchmark's result: lists of records, which add up, and other values
Run = Callable[..., Parts | None]  # run(task, position=...): what it found; None if ctrl-C left nothing of it
PATIENCE = 60.0  # seconds that a run has for its last evaluation, after ctrl-C


def cut_short(parts: Parts) -> bool:
    """Return whether ctrl-C ended the training of a record in ``parts``."""
    lists = (value for value in parts.values() if isinstance(value, list))
    return any(isinstance(record, dict) and record.get("interrupted") for records in lists for record in records)


def run_all(
    tasks: list[Any], jobs: int, run: Run, done: Callable[[Any, Parts], None], interrupts: Interrupts
) -> list[str]:
    """Run every task, ``jobs`` at a time, calling ``done(task, parts)`` after each; return what failed, in words.

    Ctrl-C ends what runs, after an evaluation where it trains, and drops what has not begun.  SIGTERM ends it at once.
    """
    failures: list[str] = []

    def finish(task: Any, get: Callable[[], Parts | None]) -> None:
        try:
            parts = get()
        except (NonFiniteLossError, BrokenProcessPool, CancelledError) as error:
            if interrupts.came is None:  # later, what breaks was broken off
                failures.append(f"{task.label}: {error}")
                tqdm.write(failures[-1])
            return
        if parts is None:
            if interrupts.came is None:  # ctrl-C came to the loop that trained, twice
                interrupts.note(signal.SIGINT)
            return
        done(task, parts)
        if cut_short(parts):  # ctrl-C came to the loop that trained
            interrupts.note(signal.SIGINT)

    if jobs > 1:
        _in_processes(tasks, jobs, run, finish, interrupts)
        return failures
    for task in tasks:
        if interrupts.came is None:
            finish(task, functools.partial(interrupts.call, functools.partial(run, task, position=None)))
    return failures


def _in_processes(
    tasks: list[Any],
    jobs: int,
    run: Run,
    finish: Callable[[Any, Callable[[], Parts | None]], None],
    interrupts: Interrupts,
) -> None:
    context = multiprocessing.get_context("spawn")
    stop, slots, begun = context.Event(), context.Queue(), context.RawArray("b", len(tasks))
    for slot in range(jobs):
        slots.put(slot)
    set_up = (slots, context.RLock(), max(1, torch.get_num_threads() // jobs), stop, begun)
    executor = ProcessPoolExecutor(jobs, context, _start, set_up)
    with blocked():  # a worker that is still importing has no answer to ctrl-C
        waiting = {executor.submit(_work, run, task, i): (i, task) for i, task in enumerate(tasks)}
    while waiting and interrupts.came is None:
        _collect(waiting, finish)
    if waiting and interrupts.came == signal.SIGINT:
        tqdm.write("interrupted: keeping what there is")
        stop.set()  # from here on nothing begins
        waiting = {future: (i, task) for future, (i, task) in waiting.items() if begun[i]}
        deadline = time.monotonic() + PATIENCE
        while waiting and time.monotonic() < deadline and not interrupts.again and interrupts.came == signal.SIGINT:
            _collect(waiting, finish)
    if interrupts.came is not None:
        for process in multiprocessing.active_children():
            process.kill()  # it has nothing to keep, and while it imports it would put off SIGTERM
    executor.shutdown(cancel_futures=True)


def _collect(
    waiting: dict[Future[Any], tuple[int, Any]], finish: Callable[[Any, Callable[[], Parts | None]], None]
) -> None:
    """Finish the tasks that are done, half a second from now at the latest."""
    for future in wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED).done:
        finish(waiting.pop(future)[1], future.result)


# -- In a worker process ----------------------------------------------------------------------------------------------


def _start(slots: Any, lock: Any, threads: int, stop: Any, begun: Any) -> None:
    """Set up a worker: its line for the progress bar, its share of the cores, ctrl-C for training alone."""
    global position, stopped, begun_tasks
    position, stopped, begun_tasks = slots.get(), stop, begun
    tqdm.set_lock(lock)
    torch.set_num_threads(threads)
    ignore_in_this_process()  # `fit` listens while it trains, and what it returns is kept
    threading.Thread(target=_pass_on, args=(stop,), daemon=True).start()


def _pass_on(stop: Any) -> None:
    """Give each loop that trains here one ctrl-C, once the main process has had one; end if that process ends."""
    parent = multiprocessing.parent_process()
    while not multiprocessing.connection.wait([parent.sentinel], timeout=0.1):
        listening = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
        if stop.is_set() and isinstance(listening, HeldSignals) and not listening.interrupted:
            os.kill(os.getpid(), signal.SIGINT)
    os._exit(1)


def _work(run: Run, task: Any, number: int) -> Parts | None:
    """Run a task; ``None`` if ctrl-C came before it began, or the last moment of its training."""
    begun_tasks[number] = True  # before it looks: what the main process has seen begin, it waits for
    if stopped.is_set():
        return None
    try:
        parts = run(task, position=position)
    except KeyboardInterrupt:
        return None
    if parts is not None and cut_short(parts):
        stopped.set()  # before this worker's next task, which may begin sooner than the main process looks
    return parts
