"""Parts of a VAE as plain JSON and back: an object is the name of its class and the arguments of its constructor.

``KNOWN`` lists every class that a file may name; no other is imported or called.  The names in it are those of saved
files, so they stay as they are if a class is moved or renamed.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_aevb.distributions import families as reparameterization
from pyro_aevb.vae import columns, likelihoods, missingness, posteriors, priors

DTYPES = {str(t).removeprefix("torch."): t for t in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}


class UnknownPartError(Exception):
    """Raised for an object whose class is not in ``KNOWN``."""


def _own(*names: str) -> Callable[[Any], dict[str, Any]]:
    return lambda made: {name: getattr(made, name) for name in names}


def _parameters(made: dist.TorchDistribution) -> dict[str, Any]:
    return {name: getattr(made, name) for name in made.arg_constraints}


def _independent(made: Any) -> dict[str, Any]:
    return {"base_distribution": made.base_dist, "reinterpreted_batch_ndims": made.reinterpreted_batch_ndims}


def _multivariate_normal(made: Any) -> dict[str, Any]:
    matrices = ("covariance_matrix", "precision_matrix", "scale_tril")
    argument = next(name for name in vars(made) if name in matrices)  # torch adds the others when they are asked for
    return {"loc": made.loc, argument: getattr(made, argument)}


# {name in files: (class, function from an object to the arguments of its constructor)}
KNOWN: dict[str, tuple[Any, Callable[[Any], dict[str, Any]]]] = {
    "priors.Factorised": (priors.Factorised, lambda made: {"family": made.family, **made.numbers}),
    "priors.GivenPrior": (priors.GivenPrior, lambda made: {"distribution": made.given}),
    "priors.ConditionalNormal": (priors.ConditionalNormal, _own("covariates", "hidden_dim")),
    "priors.MixturePrior": (priors.MixturePrior, _own("num_components")),
    "priors.VampPrior": (priors.VampPrior, _own("num_components")),  # the pseudo-inputs are among the weights
    "priors.FlowPrior": (priors.FlowPrior, _own("num_flows", "hidden_dim")),
    "priors.SplinePrior": (priors.SplinePrior, _own("num_flows", "hidden_dim")),
    "likelihoods.FixedGaussian": (likelihoods.FixedGaussian, _own("scale")),
    "likelihoods.StudentT": (likelihoods.StudentT, _own("df")),
    "likelihoods.Categorical": (likelihoods.Categorical, _own("num_levels")),
    "likelihoods.DiscretizedLogisticMixture": (
        likelihoods.DiscretizedLogisticMixture, _own("num_components", "num_levels"),
    ),
    "columns.Columns": (columns.Columns, _own("likelihoods")),
    "posteriors.LowRankGaussian": (posteriors.LowRankGaussian, _own("rank")),
    "posteriors.MixturePosterior": (posteriors.MixturePosterior, _own("num_components")),
    "posteriors.PlanarFlow": (posteriors.PlanarFlow, _own("num_flows")),
    "posteriors.InverseAutoregressiveFlow": (
        posteriors.InverseAutoregressiveFlow, _own("num_flows", "hidden_dim", "context_dim"),
    ),
    "posteriors.SplineFlow": (posteriors.SplineFlow, _own("num_flows", "hidden_dim", "context_dim")),
    "posteriors.TwoPositive": (posteriors.TwoPositive, _own("family", "first", "second")),
    "posteriors.FreeForm": (
        posteriors.PerDatapoint, lambda made: {"posterior": made.family, "num_data": made.dataset_size},
    ),
    "missingness.KnownSelfMasking": (missingness.KnownSelfMasking, _own("missing", "slope")),
    "pyro.Independent": (dist.Independent, _independent),
    "pyro.MultivariateNormal": (dist.MultivariateNormal, _multivariate_normal),
}  # fmt: skip
_WITHOUT_ARGUMENTS = {
    "likelihoods": (likelihoods, (
        "Bernoulli", "ContinuousBernoulli", "Beta", "Gaussian", "SigmoidGaussian", "Laplace", "Poisson",
        "NegativeBinomial", "ZeroInflatedPoisson", "ZeroInflatedNegativeBinomial",
        "SharedGaussian",  # its scale is among the weights
    )),
    "posteriors": (posteriors, ("DiagonalGaussian", "FullGaussian", "LogNormal", "Dirichlet")),
    "missingness": (missingness, ("SelfMasking", "LinearMissingness")),  # with their parameters among the weights
}  # fmt: skip
_DISTRIBUTIONS = {
    "pyro": (dist, (
        "Beta", "Cauchy", "Chi2", "Dirichlet", "Exponential", "Gamma", "Gumbel", "HalfCauchy", "HalfNormal",
        "InverseGamma", "Laplace", "LogNormal", "Normal", "Pareto", "StudentT", "Uniform", "Weibull",
    )),
    "reparameterization": (reparameterization, (
        "Cauchy", "Erlang", "FisherSnedecor", "Gompertz", "Gumbel", "Logistic", "LogNormal", "MultivariateStudentT",
        "Pareto", "Rayleigh", "Reciprocal", "StudentT", "Triangular", "Uniform", "Weibull",
    )),
}  # fmt: skip
for _table, _arguments in ((_WITHOUT_ARGUMENTS, _own()), (_DISTRIBUTIONS, _parameters)):
    for _prefix, (_module, _names) in _table.items():
        KNOWN |= {f"{_prefix}.{_name}": (getattr(_module, _name), _arguments) for _name in _names}
NAMES = {known: name for name, (known, _) in KNOWN.items()}
ARGUMENTS = {"num_data": "dataset_size"}  # those that files call otherwise than constructors do


def describe(value: Any) -> Any:
    """Return plain JSON for numbers, names, tensors, mappings of these, and objects of the classes in ``KNOWN``.

    Args:
        value: the object.

    Raises:
        UnknownPartError: for anything else, and for objects that JSON can't hold whole: tensors that are learned, and
            modules within a mapping, whose weights are not saved.

    >>> from pyro_aevb.vae import priors
    >>> from pyro_aevb.vae.descriptions import describe
    >>> describe(priors.MixturePrior(7))
    {'class': 'priors.MixturePrior', 'arguments': {'num_components': 7}}
    >>> describe(dist.Exponential(0.5))["arguments"]
    {'rate': {'tensor': 0.5, 'dtype': 'float32'}}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    if isinstance(value, Tensor) and value.dtype in DTYPES.values():
        if not value.requires_grad and value.isfinite().all():
            return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    elif isinstance(value, Mapping):
        if all(isinstance(key, str) and not isinstance(entry, nn.Module) for key, entry in value.items()):
            return {"entries": {key: describe(entry) for key, entry in value.items()}}
    elif isinstance(value, type) and value in NAMES:
        return {"class": NAMES[value]}
    elif type(value) in NAMES:
        checks = torch.distributions.Distribution._validate_args
        if getattr(value, "_validate_args", checks) == checks:  # else a distribution would be restored with checks
            name = NAMES[type(value)]
            return {"class": name, "arguments": {key: describe(each) for key, each in KNOWN[name][1](value).items()}}
    raise UnknownPartError(f"expected something out of {sorted(KNOWN)}, got {value!r}")


def restore(value: Any) -> Any:
    """Return the object that :func:`describe` described.

    Args:
        value: plain JSON.

    Raises:
        ValueError: for a class that isn't in ``KNOWN``.

    >>> from pyro_aevb.vae.descriptions import restore
    >>> restore({"class": "priors.MixturePrior", "arguments": {"num_components": 7}}).num_components
    7
    """
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return torch.tensor(value["tensor"], dtype=DTYPES[value["dtype"]])
    if "entries" in value:
        return {key: restore(entry) for key, entry in value["entries"].items()}
    if value.get("class") not in KNOWN:
        raise ValueError(f"expected a class out of {sorted(KNOWN)}, got {value.get('class')!r}")
    known = KNOWN[value["class"]][0]
    if "arguments" not in value:
        return known
    return known(**{ARGUMENTS.get(key, key): restore(argument) for key, argument in value["arguments"].items()})
