"""The part that all benchmarks share: their options, tasks, results, and how they end.

A benchmark is a :class:`Benchmark`: its own options, a plan (settings and tasks), ``run(task, args, position)``, which
returns parts of the result, and how the result is shown.  A script ends with

    BENCHMARK = Benchmark(__file__, __doc__, options, plan, run, table, numbers)
    main = functools.partial(harness.main, BENCHMARK)

    if __name__ == "__main__":
        harness.command(BENCHMARK)

A result is a dict: the command, the plan's settings, versions, and the lists of records that the tasks found; it is
written whole after each task, so that ctrl-C (exit code 130) and `--resume` keep what there is.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import math
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from interrupts import Interrupts
from jobs import Parts, cut_short, run_all
from tqdm import tqdm

from pyro_aevb.environment import versions
from pyro_aevb.files import write_atomically

Result = dict[str, Any]


class Task(NamedTuple):
    """A part of a benchmark that can be done alone, in a process of its own.

    Its records have the fields of ``key``, by which `--resume` finds them.
    """

    label: str
    key: dict[str, Any]


class Plan(NamedTuple):
    """The settings that a result depends on, and the tasks that make it."""

    settings: dict[str, Any]
    tasks: list[Task]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's own part.

    Attributes:
        file, doc: of its script; the header is what ``--help`` shows.
        options: adds its options to a parser.
        plan: completes a command's options and returns its plan; ``ValueError`` and ``OSError`` end it with a message.
        run: ``run(task, args, position)`` returns parts of the result; ``position`` is the progress bar's line.
        table: the result as text.
        numbers: what the header promises, by name.
        draw: draws the result's figure into a file.
        brief: a task's parts in a line.
        quick: defaults of its options under ``--quick``.
        jobs: tasks at a time, unless ``--jobs`` says; ``None`` is one a core.
    """

    file: str
    doc: str | None
    options: Callable[[argparse.ArgumentParser], None]
    plan: Callable[[argparse.Namespace], Plan]
    run: Callable[[Task, argparse.Namespace, int | None], Parts | None]
    table: Callable[[Result], str]
    numbers: Callable[[Result], dict[str, float]]
    draw: Callable[[Result, Path], None] | None = None
    brief: Callable[[Parts], str] = lambda _: "done"
    quick: dict[str, Any] = field(default_factory=dict)
    jobs: int | None = 1


def command(benchmark: Benchmark) -> None:
    """Run the benchmark as this process's only work: signals that come after it are too late to matter."""
    with Interrupts() as interrupts:
        interrupts.after = dict.fromkeys(interrupts.after, signal.SIG_IGN)
        run_command(benchmark, sys.argv[1:], interrupts)


def main(benchmark: Benchmark, argv: list[str] | None = None) -> Result:
    """Run the benchmark; return what it writes as JSON."""
    with Interrupts() as interrupts:
        return run_command(benchmark, sys.argv[1:] if argv is None else argv, interrupts)


def run_command(benchmark: Benchmark, words: list[str], interrupts: Interrupts) -> Result:
    """Run the benchmark inside the block of ``interrupts``: its options, its tasks, its results, its exit code."""
    args = parse(benchmark, words)
    check_writable(args.out)
    check_writable(args.json.parent)
    try:
        plan = interrupts.call(functools.partial(benchmark.plan, args))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    if plan is None:
        _exit(interrupts, "interrupted: nothing is written")
    jobs = min(len(plan.tasks), args.jobs or benchmark.jobs or torch.get_num_threads())
    result = {
        "command": shlex.join(["python", f"benchmarks/{Path(benchmark.file).name}", *_without_resume(words)]),
        **plan.settings,
        "runs_at_a_time": jobs,
        "threads_a_run": max(1, torch.get_num_threads() // jobs),
        "versions": versions(),
    }
    tasks = plan.tasks
    if args.resume:
        tasks = resume(args.json, result, tasks)
        tqdm.write(f"{len(plan.tasks) - len(tasks)} of {len(plan.tasks)} runs are there; {len(tasks)} to make")
    made = len(plan.tasks) - len(tasks)

    def done(task: Task, parts: Parts) -> None:
        nonlocal made
        made += 1
        for name, value in parts.items():
            result[name] = result.get(name, []) + value if isinstance(value, list) else value
        write(result, args, list(task.key))
        if not cut_short(parts):
            shutil.rmtree(_checkpoints(args, task), ignore_errors=True)
        tqdm.write(f"[{made}/{len(plan.tasks)}] {task.label}: {benchmark.brief(parts)}")

    run = functools.partial(_run, benchmark.run, args)
    failures = run_all(tasks, jobs, run, done, interrupts)
    if interrupts.came == signal.SIGTERM:
        _exit(interrupts)
    if made:
        show(benchmark, result, args)
    if interrupts.came is not None:
        _exit(
            interrupts, "interrupted: the runs above are what there is" if made else "interrupted: nothing is written"
        )
    if failures:
        sys.exit("\n".join(["these runs failed:", *failures]))
    return result


def _run(run: Callable[..., Parts | None], args: argparse.Namespace, task: Task, position: int | None) -> Parts | None:
    return run(task, args, position)


def going_on(args: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Return the options of ``fit`` with which `--resume` goes on with a run where it was cut short.

    Its checkpoints lie in --out until it is whole.
    """
    folder = _checkpoints(args, task)
    if not args.resume:
        shutil.rmtree(folder, ignore_errors=True)
    return {"checkpoint_dir": folder, "resume": args.resume}


def _checkpoints(args: argparse.Namespace, task: Task) -> Path:
    return args.out / "checkpoints" / re.sub(r"[^\w.+-]+", "-", task.label)


def _exit(interrupts: Interrupts, message: str = "terminated") -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(143 if interrupts.came == signal.SIGTERM else 130)


# -- Options ----------------------------------------------------------------------------------------------------------


def parse(benchmark: Benchmark, words: list[str]) -> argparse.Namespace:
    """Read the command line: the benchmark's options and those of all of them."""
    name = Path(benchmark.file).stem
    parser = argparse.ArgumentParser(description=benchmark.doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    benchmark.options(parser)
    parser.add_argument("--quick", action="store_true", help="a small run; its numbers are in the header too")
    parser.add_argument("--jobs", type=positive, help=f"runs at a time (default: {benchmark.jobs or 'one a core'})")
    parser.add_argument("--data", type=Path, help="folder of the data files (default: $PYRO_AEVB_DATA, else a cache)")
    parser.add_argument("--out", type=Path, default=Path("out") / name, help="folder for the results")
    parser.add_argument("--json", type=Path, help="where the JSON goes (default: results.json in --out)")
    parser.add_argument("--resume", action="store_true", help="go on with an earlier, interrupted command")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(words)
    if args.quick:
        parser.set_defaults(**benchmark.quick)
        args = parser.parse_args(words)
    args.json = args.json or args.out / "results.json"
    return args


def peak_memory() -> float:
    """Return the most memory that this process has held, in GB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the process that started this one held, too
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def positive(text: str) -> int:
    """Parse a positive whole number, also in the form 1e7."""
    try:
        value = int(float(text))
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return value


def rate(text: str) -> float:
    """Parse a learning rate."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def check_writable(folder: Path) -> None:
    """Exit with a message unless files can be made in ``folder``; make it where it's missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        sys.exit(f"expected a folder that can be written, got {folder}: {error}; name another with --out or --json")


# -- Results ----------------------------------------------------------------------------------------------------------


def _without_resume(words: list[str]) -> list[str]:
    return [word for word in words if word != "--resume"]


def _records(result: Result) -> dict[str, list[dict[str, Any]]]:
    return {k: v for k, v in result.items() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)}


def resume(path: Path, result: Result, tasks: list[Task]) -> list[Task]:
    """Put the whole runs in the JSON at ``path`` into ``result`` and return the tasks that are missing.

    Ends the process where its settings or versions are not ``result``'s.
    """
    if not path.exists():
        return tasks
    try:
        before = json.loads(path.read_text())
        lists = {name: [r for r in rs if not r.get("interrupted")] for name, rs in _records(before).items()}
        if not lists:
            raise ValueError("no records")
    except (OSError, ValueError, AttributeError) as error:
        sys.exit(f"--resume expected this benchmark's JSON in {path}, got {error!r}; name another with --out or --json")
    for name in set(result) - {"command", "runs_at_a_time"}:
        if before.get(name) != result[name]:
            sys.exit(
                f"--resume expected {name} {result[name]} in {path}, got {before.get(name)}; "
                "run without --resume, or name another --out"
            )

    def of(task: Task, record: dict[str, Any]) -> bool:
        return task.key.items() <= record.items()

    result |= {name: value for name, value in before.items() if name not in result and name not in _records(before)}
    for name, records in lists.items():
        result[name] = [record for record in records if any(of(task, record) for task in tasks)]
    return [task for task in tasks if not any(of(task, r) for records in lists.values() for r in records)]


def write(result: Result, args: argparse.Namespace, names: list[str]) -> None:
    """Write the result as JSON, a record a line, and its curves as CSV, a run known by ``names``."""
    lists = _records(result)
    items = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in result.items() if name not in lists]
    for name, records in lists.items():
        items.append(f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, records)) + "\n]")
    write_atomically(args.json, ("{\n" + ",\n".join(items) + "\n}\n").encode())
    runs = [record for records in lists.values() for record in records if "curve" in record]
    if runs:
        rows = [{name: run[name] for name in names} | point for run in runs for point in run["curve"]]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(args.out / "curves.csv", text.getvalue().encode())


def show(benchmark: Benchmark, result: Result, args: argparse.Namespace) -> None:
    """Print the table and the numbers that the header promises, draw the figure, and say where all of it is."""
    written = [args.json]
    if any("curve" in record for records in _records(result).values() for record in records):
        written.append(args.out / "curves.csv")
    if benchmark.draw is not None:
        written.append(args.out / "figure.png")
        benchmark.draw(result, written[-1])
    print(f"\n{benchmark.table(result)}\n")
    for name, value in benchmark.numbers(result).items():
        print(f"{name}: {value:.5g}")
    print("\nwritten: " + ", ".join(map(str, written)))


def with_error(record: dict[str, Any], name: str) -> str:
    """Return a record's number and the error beside it, where it has one."""
    error = record.get(f"{name}_error")
    return f"{record[name]:.2f}" + ("" if error is None else f" ± {error:.2f}")


def aligned(rows: list[list[str]], *, left: bool = False, rule: bool = True) -> str:
    """Return rows as text, their columns aligned, the first row a header with a ``rule`` under it.

    Cells stand to the right, those of the first column to the ``left`` if asked.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]] if left else cells))
    return "\n".join([lines[0], *["-" * len(lines[0])] * rule, *lines[1:]])
