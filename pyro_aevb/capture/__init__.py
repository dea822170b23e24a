"""A Pyro function as a checked tensor graph: the same outputs, gradients and random numbers, without Python's time."""

from pyro_aevb.capture.capture import Capture, Compile
from pyro_aevb.capture.graph import CaptureError, Graph, trace
from pyro_aevb.capture.precision import PRECISIONS, Precision
from pyro_aevb.capture.python_state import PythonState
from pyro_aevb.capture.state_numbers import StateNumbers

__all__ = [
    "PRECISIONS",
    "Capture",
    "CaptureError",
    "Compile",
    "Graph",
    "Precision",
    "PythonState",
    "StateNumbers",
    "trace",
]
