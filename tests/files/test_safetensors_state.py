"""A state packed and unpacked is the same, type by type."""

import math

import numpy as np
import pytest
import torch

from pyro_aevb.files import pack, unpack


def test_a_state_comes_back_with_its_types():
    state = {
        "step": 3,
        "flag": True,
        "none": None,
        "rates": (0.1, [1, (2,)], math.inf),
        0: {"weights": [torch.arange(6.0).view(2, 3).T, torch.tensor(1.5, dtype=torch.bfloat16)]},
        (1, "a"): "text",
    }
    found = unpack(pack(state))
    (weights,) = [found.pop(0)["weights"]]
    expected = state.pop(0)["weights"]
    assert found == state
    assert isinstance(found["rates"], tuple)
    assert isinstance(found["rates"][1], list)
    assert isinstance(found["rates"][1][1], tuple)
    assert found["flag"] is True
    for a, b in zip(weights, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "value",
    [np.arange(6, dtype=np.uint32).reshape(2, 3).T, np.float32(1.5), np.zeros((0, 2))],
)
def test_arrays_and_bytes_come_back(value):
    found, text, nothing = unpack(pack([value, b"a\0b", b""]))
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    assert np.array_equal(found, value)
    assert (text, nothing) == (b"a\0b", b"")


def test_what_is_no_state_is_refused():
    with pytest.raises(TypeError, match=r"got object at state\['a'\]\[1\]"):
        pack({"a": [1, object()]})
    with pytest.raises(TypeError, match=r"got ndarray at state\[0\]"):
        pack([np.array([object()])])
    with pytest.raises(ValueError, match="expected a state as safetensors"):
        unpack(b"nothing")
