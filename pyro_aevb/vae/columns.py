"""The likelihood of a table with one likelihood for each column: real, counts, binary, categories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from pyro_aevb.datasets.columns import Column
from pyro_aevb.distributions.table import ColumnsDistribution
from pyro_aevb.vae.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    count_outputs,
)


@final
class Columns(Likelihood):
    """p(x|z) of a table: one likelihood for each column, in order; the outputs of a column are next to each other.

    Args:
        likelihoods: {name of the column: likelihood}, none of them with parameters to learn.

    Raises:
        ValueError: for no columns.
        TypeError: for a column that isn't a :class:`~pyro_aevb.vae.likelihoods.Likelihood` with a fixed number of
            outputs.

    >>> from pyro_aevb.vae.columns import Columns
    >>> from pyro_aevb.vae.likelihoods import Bernoulli, Gaussian, Poisson
    >>> table = Columns({"height": Gaussian(), "visits": Poisson(), "smokes": Bernoulli()})
    >>> table.outputs_per_dim, table(torch.zeros(7, 4)).mean[0].tolist()
    ((2, 1, 1), [0.0, 1.0, 0.5])
    """

    def __init__(self, likelihoods: Mapping[str, Likelihood]) -> None:
        if not likelihoods:
            raise ValueError("expected one column or more, got none")
        for name, likelihood in likelihoods.items():
            if not isinstance(getattr(likelihood, "outputs_per_dim", None), int) or isinstance(likelihood, type):
                raise TypeError(
                    f"expected a likelihood object for column {name!r}, got {likelihood!r}; e.g. Gaussian()"
                )
        self.likelihoods = dict(likelihoods)
        self.outputs_per_dim = sizes = tuple(count_outputs(likelihood, 1) for likelihood in likelihoods.values())
        self._sizes = list(sizes)

    def __call__(self, outputs: Tensor) -> ColumnsDistribution:
        """Return p(x|z) for outputs (..., sum of outputs_per_dim)."""
        parts = outputs.split(self._sizes, -1)
        return ColumnsDistribution([f(part) for f, part in zip(self.likelihoods.values(), parts, strict=True)])


KINDS: dict[str, Callable[[Sequence[str]], Likelihood]] = {
    "real": lambda levels: Gaussian(),
    "positive": lambda levels: Gaussian(),
    "count": lambda levels: NegativeBinomial(),
    "binary": lambda levels: Bernoulli(),
    "categorical": lambda levels: Categorical(len(levels)),
    "ordered": lambda levels: DiscretizedLogisticMixture(num_components=1, num_levels=len(levels)),
}


def likelihood_of(columns: Iterable[Column]) -> Columns:
    """Return p(x|z) of the columns of a :class:`~pyro_aevb.datasets.Table`, by their kinds.

    Real and positive columns are Gaussian on their standardised scale, so that a positive one is log-normal; counts are
    negative binomial, ordered levels a discretized logistic.

    Args:
        columns: ``table.modelled``.

    Raises:
        ValueError: for a column that isn't modelled.

    >>> from pyro_aevb.datasets import Table
    >>> from pyro_aevb.vae.columns import likelihood_of
    >>> table = Table({"age": [31, 43, 28], "weight": [71.5, 80.2, 65.0], "smokes": ["no", "yes", "no"]})
    >>> likelihood_of(table.modelled).outputs_per_dim
    (2, 2, 1)
    """
    columns = list(columns)
    if left_out := [f"{c.name}: {c.kind}" for c in columns if c.kind not in KINDS]:
        raise ValueError(f"expected columns to model, of kinds {list(KINDS)}, got {left_out}; pass table.modelled")
    return Columns({c.name: KINDS[c.kind](c.levels) for c in columns})


def unit_scale(likelihood: Any, x: Tensor) -> Tensor:
    """Return x on a scale of about one, by the values that a likelihood is for; as it is if these can be any.

    Args:
        likelihood: p(x|z); of a table, column by column.
        x: (..., D).

    >>> from pyro_aevb.vae.columns import unit_scale
    >>> from pyro_aevb.vae.likelihoods import Categorical
    >>> unit_scale(Categorical(3), torch.tensor([0.0, 1.0, 2.0])).tolist()
    [-1.0, 0.0, 1.0]
    """
    if isinstance(likelihood, Columns):
        columns = zip(likelihood.likelihoods.values(), x.split(1, -1), strict=True)
        return torch.cat([unit_scale(each, column) for each, column in columns], -1)
    values = getattr(likelihood, "values", "any")
    if values == "levels":
        return 2 * x / (likelihood.num_levels - 1) - 1
    return x.clamp(min=0).log1p() if values == "counts" else x
