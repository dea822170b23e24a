"""The names an option may take: the keys of the tables in which the library looks them up.

Each name stands in its table alone.  ``--help`` shows them all, and importing the tables would import torch, which
takes seconds; so their keys are read from the source.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def choices(module: str, table: str) -> tuple[str, ...]:
    """Return the keys of a dictionary, or the entries of a tuple, that a module of this package assigns to a name.

    The module is imported only if its source isn't there, or has them other than as literals.

    Args:
        module: its name within the package.
        table: the name that is assigned, at the top level of the module.

    >>> from pyro_aevb.cli.choices import choices
    >>> choices("vae.networks", "INITIALIZATIONS")
    ('paper', 'modern')
    """
    path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    found = _literals(path.read_text(encoding="utf-8"), table) if path.exists() else None
    return tuple(getattr(importlib.import_module(f"pyro_aevb.{module}"), table)) if found is None else found


def _literals(source: str, table: str) -> tuple[str, ...] | None:
    for node in ast.parse(source).body:
        match node:
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, value) if name == table:
                entries = value.keys if isinstance(value, ast.Dict) else getattr(value, "elts", [None])
                names = [entry.value if isinstance(entry, ast.Constant) else None for entry in entries]
                return None if None in names else tuple(map(str, names))
    return None
