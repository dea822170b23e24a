"""A model and its guide, read: sites, parameters, modules and log densities."""

from pyro_aevb.model_guide.contract import NonFiniteLossError, check_data, check_pair
from pyro_aevb.model_guide.log_density import LogDensity, capture_log_density, log_density
from pyro_aevb.model_guide.modes import evaluating
from pyro_aevb.model_guide.parameters import Parameter, ParameterRecorder
from pyro_aevb.model_guide.sites import PyroCallable

__all__ = [
    "LogDensity",
    "NonFiniteLossError",
    "Parameter",
    "ParameterRecorder",
    "PyroCallable",
    "capture_log_density",
    "check_data",
    "check_pair",
    "evaluating",
    "log_density",
]
