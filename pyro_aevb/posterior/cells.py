"""The cells of x that are observed: their part of the likelihood, and draws of the others given z.

Shapes: L draws, M datapoints.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_aevb.distributions.table import ColumnsDistribution
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.posterior.angles import are_angles, moments, on_the_circle
from pyro_aevb.posterior.predictions import Predicted
from pyro_aevb.samplers.latent_space import bijection


class ObservedCells(Messenger):
    """Leave out of the likelihood of x what isn't observed, at the site that observes x itself.

    Args:
        x: the observation, as it is passed to ``obs=``.
        observed: of its shape, true for cells that are there.

    Attributes:
        names: of the sites that were found.
    """

    def __init__(self, x: Tensor, observed: Tensor) -> None:
        super().__init__()
        self._x, self._observed = x, observed
        self.names: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or msg["value"] is not self._x:
            return
        self.names.append(msg["name"])
        msg["value"] = torch.where(self._observed, self._x, _inside(msg["name"], msg["fn"]).to(self._x))
        msg["fn"] = _of_observed_cells(msg["name"], msg["fn"], self._observed)


def predicted(fn: Any, num_draws: int, width: int) -> Predicted:
    """Return draws of the likelihood in a run on L draws of the latents.

    Args:
        fn: p(x|z), its batch dimensions those of the run, or fewer if it doesn't depend on z.
        num_draws: L.
        width: how many batch dimensions a run has, that of the draws the first.
    """
    shape = torch.broadcast_shapes(fn.batch_shape, (num_draws, *[1] * (width - 1)))
    fn = fn.expand(shape)
    draws = fn.sample()
    try:
        mean = moments(fn)
    except NotImplementedError:
        mean = draws
    drawn = on_the_circle(draws, are_angles(fn))
    return Predicted(draws, torch.where(mean.isfinite(), mean, drawn).to(drawn))


def the_site(names: list[str], reading: Reading) -> str:
    """Return the name of the one site that observes x, in a model whose x can be drawn anew.

    Args:
        names: of the sites that were found to observe it.
        reading: of the model.

    Raises:
        ValueError: unless there is one, and for latents that are summed out.
    """
    require_drawn(reading)
    observations = list(reading.observations)
    if len(names) != 1:
        raise ValueError(
            f"expected one site that observes x itself, got {names or 'none'} among the observations {observations}; "
            "write pyro.sample('x', ..., obs=x) with the x that is passed, and put its cells into one distribution"
        )
    return names[0]


def require_drawn(reading: Reading) -> None:
    """Refuse latents that are summed out, without which x can't be drawn.

    Args:
        reading: of the model.

    Raises:
        ValueError: for the first ones.
    """
    if reading.summed:
        raise ValueError(
            f"expected latents that are drawn, got {list(reading.summed)}, which are summed out, and which x is drawn "
            "from; sample them in the guide, with method='importance'"
        )


def are_discrete(fn: Any) -> Tensor:
    """Return whether the cells of a likelihood are categories or counts, of bool, of a shape that x's broadcasts to."""
    if isinstance(fn, ColumnsDistribution):
        supports: list[Any] = [column.support for column in fn.columns]
        return torch.tensor([bool(support.is_discrete) for support in supports])
    return torch.tensor(bool(fn.support.is_discrete))


def filled_in(x: Tensor, observed: Tensor, draws: Tensor, fn: Any) -> Tensor:
    """Return x with draws in its missing cells, of a dtype that has both: x's own, if all cells are discrete.

    Args:
        x: (..., M, ...).
        observed: of its shape, true for cells that are there.
        draws: of a shape that x's broadcasts to.
        fn: p(x|z).
    """
    kind = x.dtype if are_discrete(fn).all() else torch.promote_types(x.dtype, draws.dtype)
    return torch.where(observed, x.to(kind), draws.to(kind))


def _of_observed_cells(name: str, fn: Any, observed: Tensor) -> Any:
    """Return p(x_observed|z); raise ``ValueError`` for a likelihood whose cells depend on one another."""
    if isinstance(fn, ColumnsDistribution):
        return fn.where(observed)
    base, dims = cells_of(fn)
    if base.event_shape:
        raise ValueError(
            f"expected a likelihood of independent cells at site {name!r}, made by .to_event(1), got "
            f"{type(base).__name__}, of which single cells can't be left out; write a model that integrates them out, "
            "or a factorised likelihood"
        )
    return base.mask(observed).to_event(dims)


def cells_of(fn: Any) -> tuple[Any, int]:
    """Return the distribution of the cells, and how many of its batch dimensions are the datapoint's.

    Args:
        fn: a distribution, made by ``.to_event`` or not.
    """
    dims = 0
    while isinstance(fn, dist.Independent):
        dims += fn.reinterpreted_batch_ndims
        fn = fn.base_dist
    return fn, dims


def _inside(name: str, fn: Any) -> Tensor:
    """Return a value inside the support of each cell, of a shape that broadcasts to x's."""
    if isinstance(fn, ColumnsDistribution):
        return torch.cat([torch.as_tensor(_inside(name, column)).reshape(-1)[:1] for column in fn.columns])
    base = cells_of(fn)[0]
    if are_discrete(base):
        return torch.as_tensor(getattr(base.support, "lower_bound", 0))
    return torch.as_tensor(bijection(name, base)(torch.zeros(base.event_shape)))
