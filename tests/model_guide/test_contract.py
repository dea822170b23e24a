"""Data outside a likelihood's support are refused, one value among thousands too; what a mask hides isn't looked at."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_aevb.model_guide.contract import read


def model(x, seen):
    with pyro.plate("data", len(x)), poutine.mask(mask=seen):
        pyro.sample("x", dist.Bernoulli(torch.full((len(x), 6), 0.5)).to_event(1), obs=x)


def test_one_value_outside_the_support_is_enough():
    x, seen = torch.zeros(2000, 6), torch.ones(2000, dtype=torch.bool)
    read(model, None, (x, seen))
    x[1777, 3] = 0.5
    with pytest.raises(ValueError, match=r"inside the support of site 'x', .*got values from 0 to 0.5; grey pixels"):
        read(model, None, (x, seen))


def test_what_is_masked_may_be_anything():
    x, seen = torch.zeros(2000, 6), torch.ones(2000, dtype=torch.bool)
    x[1777], seen[1777] = 7.0, False
    read(model, None, (x, seen))
    seen[1777], seen[1776] = True, False
    with pytest.raises(ValueError, match="got values from 0 to 7"):
        read(model, None, (x, seen))
