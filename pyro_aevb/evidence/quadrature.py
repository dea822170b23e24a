r"""log p(x) by integrating p(x, u) numerically, for up to 3 latent dimensions and any decoder.

.. math:: \log p(x) = \log \int p(x, u) \, du

The integral is :mod:`pyro_aevb.evidence.cubature`'s; each datapoint has a tree of cells of its own.  Draws from the
prior and the guide show where to begin, and modes that the cells don't see.  A mode that no draw and no cell comes near
is lost, as with any numerical integral: hence the direction ``"numerical"``, not "exact".

Shapes: R rows (a place and a datapoint), M datapoints, J unconstrained dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pyro_aevb.evidence.cubature import Integral, integrate
from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.evidence.estimator import Estimator, Evaluate, Problem
from pyro_aevb.evidence.importance_weights import check_weights
from pyro_aevb.model_guide.reading import LatentsError
from pyro_aevb.samplers.ais import Tick
from pyro_aevb.samplers.annealed_path import AnnealedPath
from pyro_aevb.samplers.latent_space import LatentSpace
from pyro_aevb.warning import warn

MOST_DIMENSIONS = 3
PRIOR_DRAWS, GUIDE_DRAWS = 96, 32
LogDensityAtRows = Callable[[AnnealedPath, tuple[Tensor, ...], Tensor, Tensor], tuple[Tensor, Tensor]]
FEW_ROWS = 500  # a second size of pass, so that a few datapoints aren't padded to a whole one


@final
@dataclass(frozen=True)
class Quadrature(Estimator):
    """``method="quadrature"``: numerical, for up to 3 latent dimensions.

    ``standard_error`` is an estimate of the numerical error, and ``settled`` whether it is below the tolerance.  Places
    are evaluated as datapoints of their own if the model takes any minibatch, else as particles.

    Args:
        tolerance: in nats.
        max_points: the most evaluations for a datapoint; a warning counts the datapoints that need more.
        rows_per_pass: places evaluated at a time; bounds memory.
    """

    tolerance: float = 1e-3
    max_points: int = 300_000
    rows_per_pass: int = 5000

    def prepare(self, problem: Problem) -> Evaluate:
        """Return the function that integrates for a minibatch.

        Raises:
            ValueError: for more latent dimensions than a grid can cover, and for latents whose cells are masked.
        """
        integral = self.integrator(problem)

        def evaluate(tick: Tick, *args: Tensor) -> Evidence:
            value, error, settled = integral(tick, *args)
            check_weights(value)
            _warn_of_unsettled(error, settled)
            return Evidence(value, error, "numerical", settled=settled)

        return evaluate

    def integrator(self, problem: Problem) -> Callable[..., Integral]:
        """Return the function of a tick and a minibatch that integrates, and leaves it to the caller to check.

        Raises:
            ValueError: as :meth:`prepare`.
        """
        path = AnnealedPath(
            problem.model,
            None,
            *problem.args,
            vectorize=problem.vectorize,
            compile=problem.compile,
            expected_joints=problem.num_batches * 5_000 * len(problem.args[0]) // self.rows_per_pass,
            cut=True,
        )
        path.space.require_mass()
        if path.space.dim > MOST_DIMENSIONS:
            raise ValueError(
                f"expected up to {MOST_DIMENSIONS} latent dimensions for quadrature, got {path.space.dim}; "
                "use method='importance' or 'ais'"
            )

        def integrate_minibatch(tick: Tick, *args: Tensor) -> Integral:
            points = path.draw(PRIOR_DRAWS, *args)
            if problem.guide is not None:
                draws = [path.space.guide_draw(problem.guide, *args) for _ in range(GUIDE_DRAWS)]
                points = torch.cat([points, torch.stack(draws)])
            so_far = SoFar(tick)
            so_far(0.05)

            index = torch.randperm(len(args[0]), device=points.device)
            index = index.repeat(-(-self.rows_per_pass // len(index)))[: self.rows_per_pass]

            def by(at: LogDensityAtRows) -> Integral:
                log_f = lambda u, index: at(path, args, u.to(points), index)  # noqa: E731
                return integrate(
                    log_f, points, self.tolerance, self.max_points, lambda share: so_far(0.05 + 0.9 * share)
                )

            try:
                found = by(self._by_rows if path.takes(index, points[:1], *args) else self._by_particles)
            except LatentsError:  # of some rows by themselves
                found = by(self._by_particles)
            finally:  # for a density that is infinite too, which is annealed then
                so_far(1.0)
            return found

        return integrate_minibatch

    def _by_rows(self, path: AnnealedPath, args: tuple[Tensor, ...], u: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x, u) (R,) and whether u is resolved there, each place with a row of its own of the data."""
        found = []
        for place, rows in zip(u.split(self.rows_per_pass), index.split(self.rows_per_pass), strict=True):
            size = min(FEW_ROWS if len(rows) <= FEW_ROWS else self.rows_per_pass, self.rows_per_pass)
            fill = size - len(rows)
            rows = torch.cat([rows, rows[:1].expand(fill)])
            whole = torch.cat([place, place[:1].expand(fill, -1)])
            log_f, resolved = path.log_joint_and_resolved(whole[None], *(a[rows] for a in args))
            found.append((log_f[0, : len(place)], resolved[0, : len(place)]))
        return torch.cat([each for each, _ in found]), torch.cat([each for _, each in found])

    def _by_particles(
        self, path: AnnealedPath, args: tuple[Tensor, ...], u: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the same, each place a particle of its datapoint, and the minibatch as it is."""
        num_data = len(args[0])
        chunk = max(1, self.rows_per_pass // num_data)
        order = index.argsort(stable=True)
        count = torch.bincount(index, minlength=num_data)
        rank = torch.empty_like(index)
        rank[order] = torch.arange(len(index), device=index.device) - (count.cumsum(0) - count)[index[order]]
        whole = u.new_zeros(-(-int(count.max()) // chunk) * chunk, num_data, u.shape[-1])
        whole[rank, index] = u
        found = [path.log_joint_and_resolved(part, *args) for part in whole.split(chunk)]
        return torch.cat([f for f, _ in found])[rank, index], torch.cat([r for _, r in found])[rank, index]


def takes(space: LatentSpace) -> bool:
    """Return whether quadrature takes latents of this kind, and so few of them."""
    return space.dim <= MOST_DIMENSIONS and space.has_mass()


class SoFar:
    """The share of a minibatch's work that is done, told to ``tick`` as it grows; what falls back isn't told."""

    def __init__(self, tick: Tick) -> None:
        self._tick, self._share = tick, 0.0

    def __call__(self, share: float) -> None:
        """Pass on what this share, from 0 to 1, is above the largest before."""
        self._tick(max(0.0, share - self._share))
        self._share = max(self._share, share)


def _warn_of_unsettled(error: Tensor, settled: Tensor) -> None:
    if not settled.all():
        warn(
            f"quadrature did not settle for {int((~settled).sum())} of {len(settled)} datapoints: their values may be "
            f"off by up to {error[~settled].max():.1e} nats (standard_error says by how much, settled for which); "
            "raise max_points, use float64 for latents that hug the end of their support, or use method='importance' "
            "or 'ais'"
        )
