"""A clock that the code can read is noticed; one that it can't, is no obstacle."""

import pytest
from clocks import DOES_NOT, READS, X

from pyro_aevb.capture import Capture
from pyro_aevb.capture.python_state import PythonState


@pytest.mark.parametrize("name", READS)
def test_code_that_reads_it_is_noticed(name):
    assert "reads the clock" in PythonState([READS[name]()]).unwatchable


@pytest.mark.parametrize("name", DOES_NOT)
def test_code_that_does_not_is_captured(name):
    fn = DOES_NOT[name]()
    assert PythonState([fn]).unwatchable == ""
    fast = Capture(lambda x: (fn(x),), watched=[fn], compile="graph")
    for _ in range(5):
        assert fast(X)[0].tolist() == fn(X).tolist()
    assert fast.obstacle is None


def test_an_obstacle_says_which_function_and_how():
    fast = Capture(READS["a helper"](), watched=[READS["a helper"]()], compile="graph")
    fast(X)
    assert fast.obstacle == "helper reads the clock or random bytes of the system (time)"
