"""The progress bar of everything that takes long: in a terminal, in a notebook, or a line a minute in a log."""

from __future__ import annotations

import sys
import warnings
from typing import Any

A_LOG = 60.0  # seconds between two lines
DATAPOINTS = "{l_bar}{bar}| {n:.0f}/{total:.0f} datapoints [{elapsed}<{remaining}]"  # of a fraction of them


def progress_bar(*, show: bool, **options: Any) -> Any:
    """Return tqdm's bar: a widget in a notebook that has ipywidgets, text that moves in other notebooks and terminals.

    Args:
        show: ``False`` for a bar that shows nothing.
        options: tqdm's.

    >>> from pyro_aevb.progress_bar import progress_bar
    >>> with progress_bar(show=False, total=2) as bar:
    ...     bar.update(2)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets is missing: the bar is then text
        from tqdm.auto import tqdm
    moves = sys.stderr.isatty() or in_notebook()
    defaults = {"leave": False, "dynamic_ncols": True, "mininterval": 0.1 if moves else A_LOG}
    return tqdm(disable=not show, **defaults | options)


def in_notebook() -> bool:
    """Return whether what is printed goes to a notebook: a Jupyter kernel has put a stream of its own into ``sys``."""
    return type(sys.stderr).__module__.startswith("ipykernel")
