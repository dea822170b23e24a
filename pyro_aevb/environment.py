"""The circumstances of a number besides the code: versions, devices, kernels of the fast path."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pyro
import torch

from pyro_aevb.version import __version__


def versions() -> dict[str, str]:
    """Return the versions of this library, of what it computes with, and of Python."""
    return {
        "pyro_aevb": __version__,
        "torch": str(torch.__version__),
        "pyro": pyro.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def information() -> dict[str, Any]:
    """Return versions, devices, the number of threads, and what the fast path can use here.

    >>> from pyro_aevb.environment import information
    >>> sorted(information())
    ['bf16', 'compiler', 'devices', 'inductor', 'onednn', 'threads', 'versions']
    """
    gpus = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    found = compiler()
    return {
        "versions": versions(),
        "devices": ["cpu", *gpus],
        "threads": torch.get_num_threads(),
        "compiler": found,
        "inductor": found is not None,
        "onednn": torch.backends.mkldnn.is_available(),
        "bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    }


def compiler() -> str | None:
    """Return the C++ compiler that Inductor uses; ``None`` where it finds none."""
    from torch._inductor import cpp_builder, exc  # here, since it takes a second to import

    try:
        return cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, RuntimeError):
        return None
