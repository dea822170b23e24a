"""The scripts of examples/ and benchmarks/: as modules, as commands, and what their headers promise."""

import ast
import functools
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("examples", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if '\nif __name__ == "__main__":' in path.read_text()
)


@functools.cache
def load_script(path):
    """Import a script without running it."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


class Promise(NamedTuple):
    """A number that a script prints as "name: number", and its range."""

    name: str
    low: float
    high: float


class Command(NamedTuple):
    """A command in a script's header, how long it takes, in words, and the numbers it gives."""

    words: tuple[str, ...]
    duration: str
    promises: tuple[Promise, ...]


def header_commands(path):
    """Return the commands of a script's header: indented lines, each with its promises under it."""
    commands = []
    for line in ast.get_docstring(ast.parse((ROOT / path).read_text())).splitlines():
        if match := re.fullmatch(rf"    python {path}( [^#]*)?(?:# (.*))?", line):
            words, duration = match.groups()
            commands.append(Command(tuple((words or "").split()), duration or "", ()))
        elif line.startswith("    ") and line.strip():
            *others, last = commands
            commands = [*others, last._replace(promises=(*last.promises, promise(line)))]
    return commands


def promise(line):
    """Parse "    name: -26.1 ± 0.3 nats", "    name: at least 2 times", "    name: at most 2 GB"."""
    number = r"([-+]?\d[\d.]*)"
    if match := re.fullmatch(rf"    (.+): {number} ± {number}(?: \w+)?", line):
        name, value, tolerance = match.groups()
        return Promise(name, float(value) - float(tolerance), float(value) + float(tolerance))
    if match := re.fullmatch(rf"    (.+): at (least|most) {number}(?: \w+)?", line):
        name, side, value = match.groups()
        return Promise(name, *((float(value), float("inf")) if side == "least" else (float("-inf"), float(value))))
    raise ValueError(f"expected 'name: value ± tolerance' or 'name: at least value' in a header, got {line!r}")


def broken(promises, numbers):
    """Return the promises that ``numbers``, by name, don't keep, in words."""
    found = ((p, numbers.get(p.name)) for p in promises)
    return [f"{p.name}: expected {p.low:.5g} to {p.high:.5g}, got {value}" for p, value in found
            if value is None or not p.low <= value <= p.high]  # fmt: skip


def printed_numbers(text, promises):
    """Return the first number after "name:" in what a script printed, for each promise."""
    found = {p.name: re.search(rf"^ *{re.escape(p.name)}: *([-+]?\d[\d.e+-]*)", text, re.MULTILINE) for p in promises}
    return {name: float(match.group(1)) for name, match in found.items() if match}
