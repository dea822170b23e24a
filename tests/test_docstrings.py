"""The docstrings of the package: how they begin, and what a public function's says of its arguments and errors.

Files with exceptions are listed, and the lists expire: a file that keeps the rule by now fails like a new exception.
"""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for path in sorted((ROOT / "pyro_aevb").rglob("*.py")) if path.stem != "conftest"]
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(path):
    """Return {qualified name: (node, its docstring)} of what others may use: no underscore in its name or above it.

    Methods are in it, without those of a private class; functions inside functions are not.
    """
    found = {}

    def visit(node, prefix):
        for child in node.body:
            if isinstance(child, DEFINITIONS) and not child.name.startswith("_"):
                found[prefix + child.name] = (child, ast.get_docstring(child) or "")
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")

    visit(ast.parse(path.read_text()), "")
    return found


def made_by(node):
    """Return the function that a call runs: a function itself, a class's ``__init__``; ``None`` without."""
    if not isinstance(node, ast.ClassDef):
        return node
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def arguments(function):
    named = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return [a.arg for a in named if a.arg not in ("self", "cls") and not a.arg.startswith("_")]


def raises(function):
    """Return whether its own code raises an error, an abstract method's apart."""
    raised = [node for node in ast.walk(function) if isinstance(node, ast.Raise) and node.exc is not None]
    return any("NotImplementedError" not in ast.unparse(node) for node in raised)


def is_exported(path, name):
    """Return whether the room of a file, or the package, has the name in its ``__all__``."""
    room = ".".join(path.relative_to(ROOT).parts[:-1])
    return any(name in importlib.import_module(module).__all__ for module in (room, "pyro_aevb"))


def without_args(path):
    """Return the exported functions and classes that take arguments and have no ``Args``."""
    found = set()
    for name, (node, docstring) in public(path).items():
        function = made_by(node)
        if function is not None and "." not in name and is_exported(path, name) and arguments(function):
            found |= {name} if "Args:" not in docstring else set()
    return found


def without_raises(path):
    """Return the exported functions and classes, and the latters' methods, that raise and have no ``Raises``."""
    found = set()
    for name, (node, docstring) in public(path).items():
        function = made_by(node)
        if function is not None and is_exported(path, name.split(".")[0]) and raises(function):
            found |= {name} if "Raises:" not in docstring else set()
    return found


def wrong_beginnings(path):
    """Return the docstrings that begin with a riddle's word in place of the noun or the verb."""
    tree = ast.parse(path.read_text())
    nodes = [tree, *(node for node in ast.walk(tree) if isinstance(node, DEFINITIONS))]
    first = {getattr(node, "name", "the module"): (ast.get_docstring(node) or "").split(" ")[0] for node in nodes}
    return {name for name, word in first.items() if word in ("What", "Tell", "Tells", "Whether")}


@pytest.mark.parametrize(
    ("find", "remedy"),
    [
        (wrong_beginnings, "begin with the noun, or with `Return whether`"),
        (without_args, "document the arguments under Args:"),
        (without_raises, "document the errors under Raises:"),
    ],
    ids=["beginnings", "args", "raises"],
)
def test_docstrings_say_what_a_reader_looks_for(find, remedy):
    found = {str(path.relative_to(ROOT / "pyro_aevb")): sorted(names) for path in FILES if (names := find(path))}
    assert not found, f"{remedy}: {found}"
