"""A table's columns, each with a likelihood of its own: real, counts, binary, categories; entries may be missing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pyro_aevb.distributions.table import ColumnsDistribution
from pyro_aevb.vae.likelihoods import Likelihood


class Columns:
    """x with one likelihood a column, in order.

    Args:
        likelihoods: {name: likelihood}, each without learned parameters of its own.

    >>> from pyro_aevb.vae.columns import Columns
    >>> from pyro_aevb.vae.likelihoods import Bernoulli, Gaussian, Poisson
    >>> table = Columns({"height": Gaussian(), "visits": Poisson(), "smokes": Bernoulli()})
    >>> table.num_outputs, table(torch.zeros(7, 4)).mean[0].tolist()
    (4, [0.0, 1.0, 0.5])
    """

    def __init__(self, likelihoods: Mapping[str, Likelihood]) -> None:
        if not likelihoods:
            raise ValueError("expected one column or more, got none")
        for name, likelihood in likelihoods.items():
            if isinstance(likelihood, type) or not hasattr(likelihood, "outputs_per_dim"):
                raise TypeError(
                    f"expected a likelihood object for column {name!r}, got {likelihood!r}; e.g. Gaussian()"
                )
        self.likelihoods = dict(likelihoods)
        self._sizes = [likelihood.outputs_per_dim for likelihood in likelihoods.values()]
        self.num_outputs = sum(self._sizes)

    def __call__(self, outputs: Tensor) -> ColumnsDistribution:
        """Return p(x|z) for outputs (..., num_outputs)."""
        parts = outputs.split(self._sizes, -1)
        return ColumnsDistribution([f(part) for f, part in zip(self.likelihoods.values(), parts, strict=True)])
