"""A model and its guide, read: sites, parameters, modules and log densities."""

from pyro_aevb.checks import check_data
from pyro_aevb.model_guide.contract import NonFiniteLossError, read
from pyro_aevb.model_guide.discrete_posterior import discrete_posterior
from pyro_aevb.model_guide.given_values import Given, log_densities
from pyro_aevb.model_guide.log_density import LogDensity, capture_log_density, log_density
from pyro_aevb.model_guide.modes import evaluating
from pyro_aevb.model_guide.parameters import Parameter, ParameterRecorder
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.sites import Site
from pyro_aevb.model_guide.traces import PyroCallable

__all__ = [
    "Given",
    "LogDensity",
    "NonFiniteLossError",
    "Parameter",
    "ParameterRecorder",
    "PyroCallable",
    "Reading",
    "Site",
    "capture_log_density",
    "check_data",
    "discrete_posterior",
    "evaluating",
    "log_densities",
    "log_density",
    "read",
]
