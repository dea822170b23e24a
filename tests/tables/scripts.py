"""The scripts of examples/ and benchmarks/ as modules."""

import functools
import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


@functools.cache
def load_script(path):
    """Import a script without running it."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script
