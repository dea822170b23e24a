"""The start of every docstring's example: the usual imports, a seed, a parameter store and a folder of its own.

An example is what somebody types after ::

    import functools, torch, pyro, pyro.distributions as dist
    from pyro_aevb import *

and so imports itself whatever else it names, from its own module too.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_aevb


@pytest.fixture(autouse=True)
def _prelude(
    request: pytest.FixtureRequest,
    doctest_namespace: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    request.node.dtest.globs.clear()  # of the names of the example's module
    doctest_namespace.update({name: getattr(pyro_aevb, name) for name in dir(pyro_aevb)})
    doctest_namespace.update(__name__="__main__", functools=functools, torch=torch, pyro=pyro, dist=dist)
    monkeypatch.chdir(tmp_path)
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope():
        yield
