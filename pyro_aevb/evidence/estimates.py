"""Estimates for each datapoint: values, standard errors, the direction of their bias.

Shapes: N datapoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class MeanEstimate(NamedTuple):
    """A mean over datapoints and its standard error, both in nats per datapoint."""

    value: float
    standard_error: float


class Estimate(NamedTuple):
    """An estimate for each datapoint: ``value`` and ``standard_error``, both of shape (N,), in nats.

    ``standard_error`` is that of the Monte Carlo noise in ``value``; it is NaN with a single particle.
    """

    value: Tensor
    standard_error: Tensor

    def mean(self) -> MeanEstimate:
        """Return the mean over datapoints; its standard error covers the noise and the choice of datapoints alike."""
        n = len(self.value)
        error = self.value.std().item() / n**0.5 if n > 1 else self.standard_error[0].item()
        return MeanEstimate(self.value.mean().item(), error)


Direction = Literal["lower", "upper", "exact"]


@dataclass(frozen=True)
class Evidence:
    """Estimates of log p(x_n), in nats, larger is better, each field of shape (N,).

    Attributes:
        value: the estimates.
        standard_error: of the Monte Carlo noise in ``value``, by the delta method; NaN with a single draw.  For
            quadrature, the change of ``value`` by the last doubling of the grid.
        direction: on which side of log p(x) ``value`` is in expectation: ``"lower"``, ``"upper"``, or ``"exact"``.
        effective_sample_size: (sum w)^2 / sum w^2 of the weights behind ``value``; ``None`` for a method without
            weights.
        pareto_k: the shape of the weights' tail (Vehtari et al. 2024): above 0.7 neither value nor error can be relied
            on.  NaN with too few weights for a tail, -inf if the largest are equal, ``None`` for a method without it.
        upper: bidirectional Monte Carlo's upper side; else ``None``.
        data: the observations {site: value} that bidirectional Monte Carlo simulated; else ``None``.
    """

    value: Tensor
    standard_error: Tensor
    direction: Direction
    effective_sample_size: Tensor | None = None
    pareto_k: Tensor | None = None
    upper: Evidence | None = None
    data: Mapping[str, Tensor] | None = None

    def mean(self) -> MeanEstimate:
        """Return the mean over datapoints; its standard error covers the noise and the choice of datapoints alike.

        >>> Evidence(torch.tensor([-1.0, -4.0]), torch.tensor([0.1, 0.1]), "lower").mean().value
        -2.5
        """
        return Estimate(self.value, self.standard_error).mean()

    def gap(self) -> Estimate:
        """Return ``upper`` minus this, (N,): in expectation no less than the errors of both sides together.

        Raises ``ValueError`` for evidence without an upper side.
        """
        if self.upper is None:
            raise ValueError("expected evidence with an upper side, got none; use method='bdmc'")
        error = torch.hypot(self.standard_error, self.upper.standard_error)
        return Estimate(self.upper.value - self.value, error)


def concatenate(parts: Sequence[Evidence]) -> Evidence:
    """Return the evidence of the datapoints of all parts, in their order."""

    def joined(values: list[object]) -> object:
        first = values[0]
        if isinstance(first, Tensor):
            return torch.cat(values, -1)  # type: ignore[arg-type]
        if isinstance(first, Evidence):
            return concatenate(values)  # type: ignore[arg-type]
        if isinstance(first, dict):
            return {name: torch.cat([value[name] for value in values]) for name in first}  # type: ignore[index]
        return first

    changes = {f.name: joined([getattr(part, f.name) for part in parts]) for f in fields(Evidence)}
    return replace(parts[0], **changes)  # type: ignore[arg-type]
