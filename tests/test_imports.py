"""What is imported when: nothing heavy before it is used, each in a process of its own."""

import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_aevb

COMMANDS = (
    "train", "evaluate", "encode", "sample", "reconstruct", "manifold", "impute", "denoise", "score", "compare", "info",
    "report",
)  # fmt: skip
HEAVY = {"torch", "pyro", "numpy", "torchvision", "matplotlib", "sklearn", "pooch", "tqdm", "safetensors", "PIL"}
ROOMS = {path.parent.name for path in Path(pyro_aevb.__file__).parent.glob("*/__init__.py")}


def imported(code):
    """Return what ``code`` leaves in sys.modules of a new process."""
    report = "import sys, json; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(result.stderr.splitlines()[-1]))


def packages(modules):
    """Return the packages that aren't Python's."""
    return {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names)


def test_the_package_alone_imports_nothing():
    assert packages(imported("import pyro_aevb") - imported("")) == {"pyro_aevb", "lazy_loader"}


def test_all_public_names_import_little_more_than_pyro():
    pyro = imported("import pyro")
    assert not pyro & {"torch._inductor", "torch._dynamo", "matplotlib", "sympy", "tqdm.notebook"}
    every = imported("from pyro_aevb import *")
    assert {f"pyro_aevb.{name}" for name in ("vae.vae", "training.fit", "plots")} <= every
    assert packages(every - pyro) == {"pyro_aevb", "lazy_loader", "safetensors"}


DRAWS = {
    "load_dataset": "from pyro_aevb.datasets import load_dataset as use; use('digits', pixels='grey')",
    "load_labels": "from pyro_aevb.datasets import load_labels as use; use('digits')",
    "perceptron": "from pyro_aevb.diagnostics.local_c2st import perceptron as use; use(2)(0)",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "perceptron" else pytest.mark.slow) for name in DRAWS]
)
def test_what_is_imported_late_moves_no_generator(name):
    """scikit-learn imports rich, which draws from Python's, if it is there."""
    state = "from pyro_aevb.random_state import random_state; state = lambda: repr(random_state())"
    first, late = DRAWS[name].split("; ")
    assert not imported(f"{state}; {first}; before = state()\n{late}\nassert state() == before") & {"nothing"}


HELPS = [["--help"], ["--version"], ["train", "--print-config"], *([command, "--help"] for command in COMMANDS)]
WRONG = [["train", "--prior", "uniform"], ["fly"]]
EACH_COMMAND = f"""
import json, os, sys
for args in {[*HELPS, *WRONG]}:
    if os.fork() == 0:
        from pyro_aevb.cli import app
        try: app(args)
        except SystemExit as end: code = end.code
        sys.stdout.flush()
        heavy = sorted({HEAVY} & {{name.split(".")[0] for name in sys.modules}})
        print("FOUND", json.dumps([args, code, heavy]), file=sys.stderr, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, args
"""


@pytest.mark.slow
def test_the_command_line_helps_without_torch():
    """Each command in a fork of its own of one process, which prints what of the heavy was imported."""
    result = subprocess.run([sys.executable, "-c", EACH_COMMAND], capture_output=True, text=True, check=True)
    found = [line.removeprefix("FOUND ") for line in result.stderr.splitlines() if line.startswith("FOUND ")]
    assert [json.loads(line) for line in found] == [[args, 0, []] for args in HELPS] + [[args, 2, []] for args in WRONG]


def test_public_names_are_what_they_say():
    assert dir(pyro_aevb) == sorted(pyro_aevb.__all__)
    for name in pyro_aevb.__all__:
        found = getattr(pyro_aevb, name)
        assert found is vars(pyro_aevb)[name]  # looked up once
        if inspect.isclass(found) or inspect.isfunction(found):
            assert found.__name__ == name
            assert pickle.loads(pickle.dumps(found)) is found
        elif inspect.ismodule(found):
            assert found.__name__ == f"pyro_aevb.{name}"
    with pytest.raises(AttributeError, match="pyro_aevb attribute nothing"):
        _ = pyro_aevb.nothing


def test_every_room_of_the_library_is_a_public_name():
    assert set(pyro_aevb.__all__) >= ROOMS - {"cli", "files"}


@pytest.mark.slow
def test_every_room_can_be_imported_first():
    imported(f"""
import os, pyro
for room in {sorted(ROOMS)}:
    if os.fork() == 0:
        __import__(f"pyro_aevb.{{room}}")
        os._exit(0)
    assert os.wait()[1] == 0, room
""")
