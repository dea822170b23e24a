"""Every test starts from a seed, in a parameter store of its own, and may leave nothing behind."""

import pyro
import pytest
import torch
from pyro.infer.util import is_validation_enabled


@pytest.fixture(autouse=True)
def _isolated():
    before = (torch.get_default_dtype(), is_validation_enabled(), torch.distributions.Distribution._validate_args)
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope():
        yield
    after = (torch.get_default_dtype(), is_validation_enabled(), torch.distributions.Distribution._validate_args)
    assert after == before, "a test changed the default dtype or Pyro's validation"
