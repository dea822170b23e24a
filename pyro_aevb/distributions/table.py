"""The distribution of a row of a table with mixed columns, of which some entries may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

from pyro_aevb.distributions import angles

_ONE = torch.Size()


class ColumnsDistribution(TorchDistribution):
    """Independent columns, each a distribution with event shape (1,); entries that aren't observed don't count.

    Args:
        columns: D distributions of one batch shape.
        observed: (..., D), true for entries that are there; ``None`` for all.
        validate_args: as in every Pyro distribution.
    """

    arg_constraints = {}  # noqa: RUF012  # torch's own style

    def __init__(
        self, columns: Sequence[TorchDistribution], observed: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        self.columns, self.observed = list(columns), observed
        super().__init__(columns[0].batch_shape, torch.Size([len(columns)]), validate_args=validate_args)

    has_rsample = False

    @property
    def support(self) -> constraints.Constraint:
        """Each column's own, for the entries that are observed."""
        supports: list[Any] = [column.support for column in self.columns]
        return _ColumnsSupport(supports, self.observed)

    def expand(self, batch_shape: Any, _instance: object = None) -> ColumnsDistribution:
        """Return the distribution with a larger batch shape."""
        observed = self.observed if self.observed is None else self.observed.expand(*batch_shape, len(self.columns))
        return ColumnsDistribution([c.expand(batch_shape) for c in self.columns], observed, self._validate_args)

    def where(self, observed: Tensor) -> ColumnsDistribution:
        """Return the distribution of the entries that are observed, (..., D)."""
        return ColumnsDistribution(self.columns, observed, self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the sum over observed columns."""
        terms = torch.stack([c.log_prob(value[..., i : i + 1]) for i, c in enumerate(self.columns)], -1)
        return (terms if self.observed is None else torch.where(self.observed, terms, 0.0)).sum(-1)

    def sample(self, sample_shape: _size = _ONE) -> Tensor:
        """Draw all columns, observed or not."""
        draws = [column.sample(sample_shape) for column in self.columns]
        kind = next((d.dtype for d in draws if d.is_floating_point()), torch.get_default_dtype())
        return torch.cat([draw.to(kind) for draw in draws], -1)

    @property
    def mean(self) -> Tensor:
        """Each column's mean, of angles that on the circle."""
        return torch.cat([angles.mean(column) for column in self.columns], -1)


class _ColumnsSupport(constraints.Constraint):
    event_dim = 1

    def __init__(self, columns: Sequence[constraints.Constraint], observed: Tensor | None) -> None:
        self.columns, self.observed = list(columns), observed
        self.is_discrete = any(column.is_discrete for column in columns)

    def check(self, value: Tensor) -> Tensor:
        inside = torch.stack([c.check(value[..., i : i + 1]) for i, c in enumerate(self.columns)], -1)
        return (inside if self.observed is None else inside | ~self.observed).all(-1)

    def __repr__(self) -> str:
        return f"Columns({', '.join(map(repr, self.columns))})"
