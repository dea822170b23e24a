"""Faults, made at random and many times over: what stops a run, what it is fed, and what comes of it.

    python tests/faults.py                          every fault with its full count, a line a configuration
    python tests/faults.py kill                     one of them
    python tests/faults.py signal --trials 20       so many trials of it, over all of its configurations together
    python tests/faults.py kill --only "full VB"    of one configuration, or several, as many as it has of all of them

A run that was stopped is resumed to its end and compared, to the bit, with one that nothing happened to; a file that is
read gives what was written, or one sentence.  Anything else is WRONG, and the exit code is 1.  docs/FAULTS.md has the
figures of such runs.
"""

from __future__ import annotations

import argparse
import collections
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "tables")]

import torch
from faulty_files import DAMAGED, HOSTILE, corrupt, harm, seeded
from faulty_runs import CONFIGURATIONS, LATE, disturb, kill, read_only, short_of_disk, signalled

AT_ONCE = 4  # disturbances of one run
SIGNALLED = tuple(CONFIGURATIONS)[:8]  # a kind of learner, data and options each
MEMORY = "/dev/shm"  # a file system that doesn't wait for a disk


class Fault(NamedTuple):
    """``trial(configuration, rng, folder, parent, most)`` makes up to ``most`` trials and returns what came of each."""

    name: str
    trials: int
    configurations: tuple[str, ...]
    trial: Callable[..., list[str]]


def _disturbed(disturbance: Any, size: int = 1) -> Callable[..., list[str]]:
    def trial(configuration: str, rng: Any, folder: Path, parent: Path, most: int) -> list[str]:
        return disturb(configuration, rng, folder, parent, min(most, rng.randint(1, AT_ONCE)), disturbance, size)

    return trial


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill", 300, tuple(CONFIGURATIONS), _disturbed(kill)),
        Fault("signal", 200, SIGNALLED, _disturbed(signalled)),
        Fault("kill a rank", 60, ("tensor",), _disturbed(kill, size=2)),
        Fault("full disk", 40, ("tensor", "loader", "mcem"), _disturbed(short_of_disk)),
        Fault("read-only disk", 20, ("tensor", "stream"), _disturbed(read_only)),
        Fault("corrupted", 2000, tuple(DAMAGED), lambda name, rng, folder, *_: corrupt(name, rng, folder)),
        Fault("hostile", 150, tuple(HOSTILE), lambda name, rng, folder, *_: harm(name, rng, folder)),
    )
}


def made(fault: Fault, configuration: str, trials: int, parent: Path) -> collections.Counter[str]:
    """Make a fault so many times and return how often what came of it; what came too late doesn't count as made."""
    found: collections.Counter[str] = collections.Counter()
    number = 0
    while (left := trials - found.total() + found[LATE]) > 0:
        number += 1
        folder = parent / f"{fault.name} {configuration} {number}".replace(" ", "-")
        rng = seeded(f"{fault.name} {configuration}", number)
        try:
            found.update(fault.trial(configuration, rng, folder, parent, left))
        except AssertionError as error:
            found[f"WRONG: {(str(error).strip().splitlines() or [repr(error)])[-1]}"] += 1
        shutil.rmtree(folder, ignore_errors=True)
    return found


def shared_out(trials: int, configurations: tuple[str, ...]) -> dict[str, int]:
    """Return the trials of each configuration."""
    each, more = divmod(trials, len(configurations))
    return {name: each + (place < more) for place, name in enumerate(configurations) if each + (place < more)}


def report(name: str, trials: int | None, parent: Path, only: Sequence[str] = ()) -> bool:
    """Make a fault in all of its configurations, print a line of each, and return whether all went well."""
    fault, well = FAULTS[name], True
    for configuration, count in shared_out(trials or fault.trials, fault.configurations).items():
        if only and configuration not in only:
            continue
        began = time.monotonic()
        found = made(fault, configuration, count, parent)
        words = "; ".join(f"{number} {outcome}" for outcome, number in found.most_common())
        print(f"| {name} | {configuration} | {count} | {words} |  # {time.monotonic() - began:.0f} s", flush=True)
        well = well and not any(outcome.startswith("WRONG") for outcome in found)
    return well


def main() -> int:
    """Make the faults that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", help=f"of {', '.join(FAULTS)}; by default all")
    parser.add_argument("--trials", type=int, help="of each fault, over all configurations")
    parser.add_argument("--only", nargs="+", default=(), metavar="CONFIGURATION", help="these configurations")
    arguments = parser.parse_args()
    if unknown := set(arguments.faults) - set(FAULTS):
        parser.error(f"expected faults out of {list(FAULTS)}, got {sorted(unknown)}")
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    print("| fault | configuration | trials | what came of it |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None) as name:
        results = [report(fault, arguments.trials, Path(name), arguments.only) for fault in arguments.faults or FAULTS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
