"""The likelihood of a table with one likelihood for each column: real, counts, binary, categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from pyro_aevb.distributions.table import ColumnsDistribution
from pyro_aevb.vae.likelihoods import Likelihood, count_outputs


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
