r"""Noisy cells of x whose clean values are finitely many, summed over.

.. math:: p(\tilde x | z) = \prod_d \sum_v p(x_d = v | z) \, p(\tilde x_d | v)

Shapes: V values, L draws, M datapoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_aevb.posterior.cells import cells_of
from pyro_aevb.posterior.predictions import Predicted

NoiseModel = Callable[[Tensor], Any]


class NoisyCells(dist.TorchDistribution):
    """The distribution of a noisy x, each cell of which is that of a clean cell, with noise of its own.

    Args:
        clean: p(x|z), of independent cells with finitely many values.
        noise: from a clean x to the distribution of a noisy one, whose cells don't depend on one another.
        x: the noisy one, which :meth:`predicted` is about.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, clean: Any, noise: NoiseModel, x: Tensor) -> None:
        self._clean, self._noise, self._x = clean, noise, x
        super().__init__(clean.batch_shape, clean.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """All numbers; the noise's own density has the say."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: object = None) -> NoisyCells:
        """Return the distribution with a larger batch shape."""
        return NoisyCells(self._clean.expand(batch_shape), self._noise, self._x)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x_noisy|z), the values of the clean cells summed over."""
        cells = self._log_joint(value).logsumexp(0)
        dims = len(self.event_shape)
        return cells.flatten(cells.dim() - dims).sum(-1) if dims else cells

    def predicted(self, num_draws: int, width: int) -> Predicted:
        """Return draws of the clean x given z and the noisy x, and its mean.

        Args:
            num_draws: L.
            width: how many batch dimensions a run has.
        """
        log_joint = self._log_joint(self._x).movedim(0, -1)  # (..., V)
        batch = torch.broadcast_shapes(self.batch_shape, (num_draws, *[1] * (width - 1)))
        share = dist.Categorical(logits=log_joint.expand(*batch, *self.event_shape, -1))
        values = self._values().flatten().to(log_joint)
        return Predicted(values[share.sample()], (share.probs * values).sum(-1))

    def _values(self) -> Tensor:
        return cells_of(self._clean)[0].enumerate_support(expand=False)

    def _log_joint(self, value: Tensor) -> Tensor:
        """Return log p(x_d = v|z) + log p(x_noisy_d|v) for each v and d, (V, ..., cells)."""
        values = self._values()
        log_p = cells_of(self._clean)[0].log_prob(values)
        each = [self._noise(v.reshape(()).to(value.dtype).expand(value.shape)) for v in values]
        noisy = torch.stack([cells_of(fn)[0].log_prob(value) for fn in each])
        between = [1] * (log_p.dim() - noisy.dim())
        return log_p + noisy.reshape(len(values), *between, *noisy.shape[1:])


def is_finite(fn: Any) -> bool:
    """Return whether each cell of a likelihood has finitely many values.

    Args:
        fn: p(x|z).
    """
    base = cells_of(fn)[0]
    return not base.event_shape and bool(getattr(base, "has_enumerate_support", False))


def check_cells(noise: NoiseModel, x: Tensor) -> None:
    """Check that noise acts on each cell by itself.

    Args:
        noise: from a clean x to the distribution of a noisy one.
        x: one or more noisy ones.

    Raises:
        ValueError: for noise whose cells depend on one another, or on other clean cells.
    """
    even = (torch.arange(x.numel(), device=x.device) % 2 == 0).reshape(x.shape)
    first, second = (cells_of(noise(clean.to(x.dtype)))[0] for clean in (torch.zeros_like(x), (~even)))
    same = not first.event_shape and torch.allclose(first.log_prob(x)[even], second.log_prob(x)[even], equal_nan=True)
    if not same:
        raise ValueError(
            "expected noise of each cell by itself, for a clean x whose values are summed over, got noise by which "
            f"cells depend on one another, {type(first).__name__}; use a model of x with continuous cells, or noise "
            "such as lambda clean: dist.Normal(clean, 0.3).to_event(1)"
        )
