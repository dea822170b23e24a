"""Warnings that point to the user's line, however deep in the package they are given."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import FrameType

import torch

OURS = str(Path(__file__).parent)
WRAPPERS = (OURS, str(Path(torch.__file__).parent / "utils" / "_contextlib.py"))  # torch.no_grad() around a function


def warn(message: str) -> None:
    """Give a ``UserWarning`` at the innermost line outside of this package.

    >>> import warnings
    >>> from pyro_aevb.warning import warn
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("expected a longer run")
    >>> str(caught[0].message)
    'expected a longer run'
    """
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_code.co_filename.startswith(WRAPPERS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
