"""The layout of the package, read from its source: rooms, arrows between them, contract tests, sizes of functions.

Known exceptions are listed beside each rule and expire: one that keeps the rule by now fails like a new one.
"""

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyro.infer import ELBO
from torch import nn
from vae_parts import FITTING

import pyro_aevb
from pyro_aevb.learners import Learner
from pyro_aevb.objectives import Objective
from pyro_aevb.vae import posteriors, priors

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pyro_aevb"
MODULES = [
    path for path in sorted(PACKAGE.rglob("*.py*")) if path.suffix in (".py", ".pyi") and path.stem != "conftest"
]
CODE = [path for folder in ("pyro_aevb", "tests", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")]

# Bottom to top. A room imports any room of a lower floor, and none of its own floor or a higher one.
FLOORS = (
    {
        "version": "a number",
        "random_state": "the generators of torch, NumPy and Python",
        "one_thread": "Pyro's stack",
        "warning": "a line",
        "param_site": "a parameter",
        "short_repr": "a line",
        "progress_bar": "a line",
        "arguments": "what a function is called with, as tensors",
        "data_parts": "what gives datapoints for their indices",
    },
    {"checks": "what is passed, by its type and its numbers (data_parts)"},
    {
        "data_source": "what holds datapoints, whatever they are",
        "files": "bytes on the disk, whatever they mean",
        "environment": "the versions of this library and of the machine's others",
        "capture": "a Pyro function and its tensors, whatever they stand for",
        "distributions": "densities, whatever they are the model of",
    },
    {
        "model_guide": "a pair is read once, on the fast path (capture)",
        "evaluation_data": "a data source in minibatches, in its order",
        "datasets": "tensors from files; what they are good for is the caller's to know",
    },
    {
        "objectives": "bounds of a pair (model_guide)",
        "samplers": "chains in the latents of a pair (model_guide), on the fast path (capture)",
    },
    {
        "learners": "a step of an algorithm: a bound (objectives) or chains (samplers)",
        "evidence": "log p(x): bounds (model_guide), chains (samplers)",
    },
    {"posterior": "p(z|x) for use: weights (evidence), chains (samplers), densities (model_guide)"},
    {
        "training": "the loop: a learner's steps, their bound on other data (evidence), checkpoints (files)",
        "vae": "one way to write a pair: densities (distributions) of columns (datasets), and its uses (posterior)",
        "diagnostics": "how far a pair can be trusted: draws (posterior), dreams (learners), bounds (evidence)",
    },
    {"plots": "pictures of a run (training), of a VAE (vae) and of diagnostics"},
    {"__init__": "the public names of all below"},
    {"cli": "a run from a configuration: any room"},
    {"__main__": "the command line (cli)"},
)
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
# They see a model and a guide, two Pyro callables, and never a VAE.
INFERENCE = (
    "capture", "model_guide", "objectives", "samplers", "learners", "posterior", "evidence", "training", "diagnostics",
)  # fmt: skip


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(module: str) -> str:
    """Return the room of a module ``pyro_aevb.room.file``; ``__init__`` of the package itself."""
    return [*module.split("."), "__init__"][1]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.is_dir() or any(path.with_suffix(suffix).exists() for suffix in (".py", ".pyi"))


def imports(path: Path) -> list[tuple[str, str]]:
    """Return the (module, name) pairs that a file imports out of the package, wherever in the file it does so."""
    found = []
    package = module_of(path) if path.stem == "__init__" else module_of(path).rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                found.append((inner, "") if module.startswith("pyro_aevb") and exists(inner) else (module, alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found += [(str(a.value), "") for a in node.args[:1] if isinstance(a, ast.Constant)]
    return [(module, name) for module, name in found if module.split(".")[0] == "pyro_aevb"]


@functools.cache
def arrows() -> list[tuple[Path, str, str]]:
    """Return the files that import another room, with both rooms."""
    return [
        (path, room_of(module_of(path)), room_of(module))
        for path in MODULES
        for module, _ in imports(path)
        if room_of(module_of(path)) != room_of(module)
    ]


def assert_known(found: Any, known: Any, what: str) -> None:
    """Assert that the exceptions to a rule are the known ones, no more and no fewer."""
    new, mended = sorted(set(found) - set(known)), sorted(set(known) - set(found))
    assert not new, f"{what}: {new}"
    assert not mended, f"no longer an exception, remove it from the list in {Path(__file__).name}: {mended}"


# -- Rooms and arrows --------------------------------------------------------------------------------------------------


def test_every_room_has_its_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].split(".")[0] for path in MODULES}
    assert rooms <= set(HEIGHT), f"give {rooms - set(HEIGHT)} a floor and a reason in FLOORS"


def test_arrows_point_down():
    up = {f"{name_of(path)} imports {to}" for path, room, to in arrows() if HEIGHT[to] >= HEIGHT[room]}
    assert not up, f"arrows up or sideways between rooms: {sorted(up)}; move the code down, or pass it as an argument"


@pytest.mark.parametrize("room", INFERENCE)
def test_inference_never_sees_a_vae(room):
    assert not {name_of(path) for path, importing, to in arrows() if importing == room and to == "vae"}


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_room_says_what_it_is_and_what_is_public(room):
    module = importlib.import_module(f"pyro_aevb.{room}")
    sentence = (module.__doc__ or "").strip()
    assert re.fullmatch(r"[A-Z][^\n]*[^.]\.", sentence), f"expected one sentence, got {sentence!r}"
    assert not re.search(r"[.?!]\s", sentence), f"expected one sentence, got {sentence!r}"
    assert module.__all__, "expected the room's public names in __all__"
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing, f"__all__ names what the room doesn't have: {missing}"
    assert not [name for name in module.__all__ if name.startswith("_")]


# -- Private names -----------------------------------------------------------------------------------------------------

# Of torch's distributions and modules, which classes of ours set; of NamedTuples, where they are public.
NOT_OURS = ("_validate_args", "_buffers", "_replace", "_fields", "_asdict", "_make")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(path: Path) -> set[str]:
    """Return the private names that a file defines: functions, classes, variables, attributes."""
    defined = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            defined.add(node.attr)
    return {name for name in defined if is_private(name)}


def test_private_names_stay_in_their_module():
    """A private attribute counts as another module's if this module doesn't define it and another one does."""
    owners = {path: private_names(path) for path in MODULES}
    everywhere = set().union(*owners.values()).difference(NOT_OURS)
    found = {f"{name_of(path)}: {name}" for path in MODULES for _, name in imports(path) if is_private(name)}
    for path in MODULES:
        used = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
        found |= {f"{name_of(path)}: {name}" for name in used & everywhere - owners[path]}
    assert not found, f"private names of another module: {sorted(found)}"


# -- Contract tests ----------------------------------------------------------------------------------------------------

# Of each kind: where its classes are, how one is recognized, its contract test's file and table, who isn't in it yet.
CONTRACTS: dict[str, tuple[str, Callable[[type], bool], str, str, set[str]]] = {
    "learners": (
        "pyro_aevb.learners",
        lambda c: issubclass(c, Learner) or (hasattr(c, "step") and hasattr(c, "theta")),
        "tests/learners/test_learner.py",
        "LEARNERS",
        set(),
    ),
    "objectives": (
        "pyro_aevb.objectives",
        lambda c: issubclass(c, ELBO),
        "tests/objectives/test_objective.py",
        "OBJECTIVES",
        set(),
    ),
    "estimators": (
        "pyro_aevb.evidence",
        lambda c: hasattr(c, "prepare"),
        "tests/evidence/test_marginal_likelihood.py",
        "METHODS",
        {"BDMC"},
    ),
    "priors": (
        "pyro_aevb.vae",
        lambda c: issubclass(c, priors.Prior),
        "tests/tables/vae_parts.py",
        "FITTING",
        {"ConditionalNormal", "GivenPrior"},  # the first takes covariates: tests/vae/test_covariates.py
    ),
    "likelihoods": (
        "pyro_aevb.vae",
        lambda c: not issubclass(c, posteriors.Posterior) and "outputs" in called_with(c),
        "tests/vae/test_likelihoods.py",
        "ALL",
        {"Columns"},
    ),
    "posteriors": (
        "pyro_aevb.vae",
        lambda c: issubclass(c, posteriors.Posterior),
        "tests/tables/vae_parts.py",
        "FITTING",
        {"PerDatapoint"},
    ),
}


BASES = (Learner, Objective, priors.Prior, posteriors.Posterior)


def called_with(cls: type) -> tuple[str, ...]:
    """Return the names of what an object of a class is called with."""
    method = getattr(cls, "forward" if issubclass(cls, nn.Module) else "__call__")
    return tuple(getattr(getattr(method, "__code__", None), "co_varnames", ()))


def implementations(room: str, is_one: Callable[[type], bool]) -> set[type]:
    """Return the classes of a kind that can be made: defined in the room, public, neither abstract nor a protocol."""
    found = set()
    for name in map(module_of, MODULES):
        if name.startswith(f"{room}."):
            members = vars(importlib.import_module(name)).values()
            found |= {c for c in members if inspect.isclass(c) and c.__module__ == name}
    made = {c for c in found if not (inspect.isabstract(c) or getattr(c, "_is_protocol", False))}
    return {c for c in made if is_one(c) and not is_private(c.__name__) and c not in BASES}


def classes_of(value: Any) -> set[type]:
    """Return the classes that a name in a table stands for: itself, those of a registry, or what it makes."""
    if inspect.isclass(value):
        return {value}
    if isinstance(value, dict):
        return set().union(*map(classes_of, value.values()))
    return {type(value())} if callable(value) else {type(value)}


def named_in(path: Path, table: str) -> set[type]:
    """Return the classes that a table's expression names, followed through the file's own variables."""
    assigned: dict[str, list[ast.expr]] = {}
    imported: dict[str, tuple[str, str]] = {}
    for node in tree(path).body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                assigned.setdefault(ast.unparse(target), []).append(node.value)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_aevb"):
            imported |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
    assert table in assigned, f"expected a table {table} in {name_of(path)}; say in CONTRACTS where it is"
    waiting, seen, classes = [table], set(), set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        if name in imported:
            module, attribute = imported[name]
            classes |= classes_of(getattr(importlib.import_module(module), attribute))
        names = {n.id for value in assigned.get(name, ()) for n in ast.walk(value) if isinstance(n, ast.Name)}
        waiting += names - seen
    return classes


def covered(kind: str) -> set[type]:
    """Return the classes that the contract test of a kind goes through."""
    if kind == "priors":
        return classes_of({prior: priors.PRIORS[prior] for prior, _ in FITTING})
    if kind == "posteriors":
        return classes_of({posterior: posteriors.POSTERIORS[posterior] for _, posterior in FITTING})
    *_, file, table, _ = CONTRACTS[kind]
    return named_in(ROOT / file, table)


@pytest.mark.parametrize("kind", CONTRACTS)
def test_every_implementation_is_in_its_contract_test(kind):
    room, is_one, file, table, known = CONTRACTS[kind]
    found = implementations(room, is_one)
    assert len(found) > 3
    missing = {c.__name__ for c in found - covered(kind)}
    assert_known(missing, known, f"{kind} without a contract test, add them to {table} in {file}")


def test_no_test_file_imports_another():
    found = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {f"{name_of(path)}: {name}" for name in names if name.split(".")[-1].startswith("test_")}
    assert not found, f"put what two tests need into tests/tables: {sorted(found)}"


# -- Sizes and ignored types -------------------------------------------------------------------------------------------

LONGEST = 60  # lines of code, docstring, comments and blank lines apart


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef, source: list[str]) -> int:
    lines = set(range(function.lineno, (function.end_lineno or 0) + 1))
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return sum(bool(line) and not line.startswith("#") for line in (source[i - 1].strip() for i in lines))


def test_functions_can_be_taken_in_at_once():
    found = {
        f"{name_of(path)}: {node.name}"
        for path in CODE
        for lines in [path.read_text().splitlines()]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of_code(node, lines) > LONGEST
    }
    assert not found, f"functions of more than {LONGEST} lines of code: {sorted(found)}"


SOURCES = [path for path in CODE if path.is_relative_to(PACKAGE)]
# What decides about a site is read off a trace in one place.  These take values from one, to replay them.
DECIDE = {"cond_indep_stack", "scale", "mask"}
NODES = ("nodes", "stochastic_nodes", "observation_nodes", "iter_stochastic_nodes")
DECIDED_IN = {f"pyro_aevb/model_guide/{name}.py" for name in ("enumeration", "reading", "sites", "supports")}
TAKE_VALUES = {
    "pyro_aevb/learners/dreams.py",
    "pyro_aevb/objectives/gradient_scale.py",
    "pyro_aevb/objectives/draws.py",
    "pyro_aevb/samplers/latent_space.py",
    "pyro_aevb/evidence/annealing.py",
    "pyro_aevb/cli/trained_run.py",
}


def keys_read(path: Path) -> set[str]:
    """Return the string keys that a file reads: ``site["mask"]``, ``site.get("mask")``."""
    found = set()
    for node in ast.walk(tree(path)):
        key: ast.expr | None = None
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            key = node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
            key = node.args[0] if node.args else None
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            found.add(key.value)
    return found


def test_one_record_decides_scales_masks_and_plates():
    """Roles, plates, scales, masks: a second reader of a trace's nodes would be a second rule."""
    found = {
        f"{name_of(path)} reads {key!r}" for path in SOURCES if name_of(path) not in DECIDED_IN
        for key in keys_read(path) & DECIDE
    }  # fmt: skip
    assert not found, f"read model_guide.reading's record instead: {sorted(found)}"
    for path in DECIDED_IN:
        assert keys_read(ROOT / path) & DECIDE, path


def test_traces_are_read_in_one_room():
    found = {
        name_of(path)
        for path in SOURCES
        if room_of(module_of(path)) not in ("model_guide", "capture")  # which has the nodes of torch's graphs
        and any(isinstance(node, ast.Attribute) and node.attr in NODES for node in ast.walk(tree(path)))
    }
    assert_known(found, TAKE_VALUES, "a trace's nodes read outside model_guide")


KNOWN_IGNORED: set[str] = set()


def test_an_ignored_type_says_which_and_why():
    """# type: ignore[code]  # reason."""
    found = {
        name_of(path)
        for path in CODE
        for line in path.read_text().splitlines()
        if re.search(r"#\s*type:\s*ignore(?!\[[\w,-]+\]\s+# \S)", line.split('"')[-1])
    }
    assert_known(found, KNOWN_IGNORED, "`# type: ignore` without its code and its reason")


def test_the_version_stands_in_one_place():
    config = (ROOT / "pyproject.toml").read_text()
    assert pyro_aevb.__version__ in (PACKAGE / "version.py").read_text()
    assert pyro_aevb.__version__ not in re.findall(r'^version = "(.*)"$', config, re.MULTILINE)


def test_an_editable_install_is_a_path_that_type_checkers_follow():
    """Without a package-dir setuptools installs an import hook, which neither mypy nor an editor looks into."""
    config = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^package-dir = \{ "" = "\." \}', config, re.MULTILINE)
    assert (PACKAGE / "py.typed").exists()
