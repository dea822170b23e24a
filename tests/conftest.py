"""Every test starts from a seed, in a parameter store of its own, and may leave nothing behind."""

import os
import random

import numpy as np
import pyro
import pytest
import torch
from pyro.infer.util import is_validation_enabled

from pyro_aevb.random_state import reseed

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread each, in the scripts that a test starts too
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_kernels(tmp_path_factory):
    """A folder of Inductor's for each worker: two that compile one kernel at a time read each other's half files."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("inductor"))


@pytest.fixture(autouse=True)
def _isolated():
    before = (torch.get_default_dtype(), is_validation_enabled(), torch.distributions.Distribution._validate_args)
    reseed(0)  # and the other two, as pyro.set_rng_seed does, which takes a millisecond for each test
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    with pyro.get_param_store().scope():
        yield
    after = (torch.get_default_dtype(), is_validation_enabled(), torch.distributions.Distribution._validate_args)
    assert after == before, "a test changed the default dtype or Pyro's validation"
