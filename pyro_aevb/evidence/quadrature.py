r"""log p(x) by summing p(x, u) over a grid, for up to 3 latent dimensions and any decoder.

.. math:: \log p(x) = \log \sum_i p(x, u_i) + \log |h|

A sum over an even grid that covers all of the mass is the trapezoid rule with nothing at the ends, and for a smooth
density its error falls faster than any power of the spacing: for a Gaussian it is 2 exp(-2 pi^2 / h^2), with h in
standard deviations; 3e-9 at h = 1.

Each datapoint has a grid of its own, turned and scaled to where its mass is.  The search for the mass begins at
draws from the guide and at the ends of a short annealing from the prior, to find modes that the guide doesn't know.

Shapes: K grid points, M datapoints, J unconstrained dimensions, n points along a dimension.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.evidence.estimator import Estimator, Evaluate, Problem
from pyro_aevb.evidence.importance_weights import check_weights
from pyro_aevb.samplers import ais
from pyro_aevb.samplers.ais import Tick
from pyro_aevb.samplers.annealed_path import AnnealedPath

LogDensityAt = Callable[[Tensor, Tensor], Tensor]  # log f (K, M') of u (K, M', J) and the datapoints' index (M',)
MOST_DIMENSIONS = 3
SEARCH_POINTS, FIRST_POINTS = {1: 65, 2: 25, 3: 13}, {1: 129, 2: 33, 3: 17}
CUT = 14.0  # nats below the peak that are left out
ROUNDS = 20
SEARCH_GRADIENTS = 180
LARGEST_GROUP = 20_000_000  # numbers held at a time


@final
@dataclass(frozen=True)
class Quadrature(Estimator):
    """``method="quadrature"``: exact, for up to 3 latent dimensions.

    The grid is refined until leaving out every other point changes the value by less than the tolerance;
    ``standard_error`` is that change, and the value's own error is far smaller for a smooth density.

    Args:
        tolerance: in nats.
        max_points: the largest grid for a datapoint; a warning counts the datapoints that need more.
        rows_per_pass: grid points times datapoints evaluated at a time; bounds memory.
    """

    tolerance: float = 1e-3
    max_points: int = 1_000_000
    rows_per_pass: int = 5000

    def prepare(self, problem: Problem) -> Evaluate:
        """Return the function that sums over the grids of a minibatch.

        Raises:
            ValueError: for more latent dimensions than a grid can cover.
        """
        path = AnnealedPath(
            problem.model,
            None,
            *problem.args,
            vectorize=problem.vectorize,
            compile=problem.compile,
            expected_calls=problem.num_batches * SEARCH_GRADIENTS,
            expected_joints=problem.num_batches * 30_000 * len(problem.args[0]) // self.rows_per_pass,
        )
        if path.space.dim > MOST_DIMENSIONS:
            raise ValueError(
                f"expected up to {MOST_DIMENSIONS} latent dimensions for quadrature, got {path.space.dim}; "
                "use method='importance' or 'ais'"
            )

        def evaluate(tick: Tick, *args: Tensor) -> Evidence:
            def log_density(u: Tensor, index: Tensor) -> Tensor:
                size = len(args[0])
                while (size + 1) // 2 >= len(index) and size > 1:
                    size = (size + 1) // 2
                # A few sizes and one number of points, so that a few graphs serve all calls.
                fill = index[:1].expand(size - len(index))
                rows = args if size == len(args[0]) == len(index) else tuple(a[torch.cat([index, fill])] for a in args)
                chunk = max(1, self.rows_per_pass // size)
                whole = u.new_zeros(-(-len(u) // chunk) * chunk, size, u.shape[-1])
                whole[: len(u), : len(index)] = u
                log_f = torch.cat([path.log_joint(part, *rows) for part in whole.split(chunk)])
                return log_f[: len(u), : len(index)].nan_to_num(nan=-torch.inf)

            points = _candidates(path, problem, args)
            tick(0.3)
            value, change = integrate(log_density, points, self.tolerance, self.max_points)
            tick(0.7)
            return Evidence(value, change, "exact")

        return evaluate


def _candidates(path: AnnealedPath, problem: Problem, args: tuple[Tensor, ...]) -> Tensor:
    """Return points near the mass, (K, M, J)."""
    schedule = ais.sigmoid_schedule(25)
    points = ais.tune(path.at(*args), schedule, path.draw(12, *args), num_leapfrog=3).position
    if problem.guide is None:
        return points
    return torch.cat([points, *(path.space.guide_draw(problem.guide, *args)[None] for _ in range(12))])


class Grid(NamedTuple):
    """Each datapoint's grid: u = centre + axes v, ``low`` <= v <= ``high``; (M, J), (M, J, J), (M, J) and (M, J)."""

    centre: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor

    def at(self, index: Tensor) -> Grid:
        """Return the grids of some datapoints."""
        return Grid(*(field[index] for field in self))

    def coordinates(self, num_points: int) -> Tensor:
        """Return v at the grid points, (K, M, J), K = n^J; the last dimension runs fastest."""
        line = torch.linspace(0, 1, num_points).to(self.low)
        unit = torch.cartesian_prod(*[line] * self.low.shape[-1]).reshape(-1, 1, self.low.shape[-1])
        return self.low + unit * (self.high - self.low)

    def positions(self, v: Tensor) -> Tensor:
        """Return u (K, M, J) at v."""
        return self.centre + torch.einsum("mij,kmj->kmi", self.axes, v)

    def log_cell(self, num_points: int) -> Tensor:
        """Return the logarithm of the volume that one grid point stands for, (M,)."""
        spacing = (self.high - self.low) / (num_points - 1)
        return spacing.log().sum(-1) + torch.linalg.slogdet(self.axes).logabsdet


def integrate(
    log_density: LogDensityAt, points: Tensor, tolerance: float = 1e-3, max_points: int = 1_000_000
) -> tuple[Tensor, Tensor]:
    """Return log int f(u) du and how much the last doubling of the grid changed it, each (M,).

    Args:
        log_density: log f.
        points: (K, M, J), where the search for the mass begins; not all the same.
        tolerance: the change by a doubling that is small enough, in nats.
        max_points: the largest grid for a datapoint.

    >>> from pyro_aevb.evidence.quadrature import integrate
    >>> def log_density(u, index):  # two Gaussians, far apart for their width
    ...     return torch.logaddexp(-50 * (u - 1).square().sum(-1), -50 * (u + 1).square().sum(-1))
    >>> value, _ = integrate(log_density, torch.randn(12, 1, 2))
    >>> round(value.item(), 4), round(2 * 3.14159265 / 100 * 2, 4), round(value.exp().item(), 4)
    (-2.0741, 0.1257, 0.1257)
    """
    grid = locate(log_density, points)
    num_data, dim = grid.low.shape
    everyone = torch.arange(num_data, device=points.device)
    num_points = FIRST_POINTS[dim]
    log_f = log_density(grid.positions(grid.coordinates(num_points)), everyone)
    value, change = _sum(log_f, grid, num_points)
    pending = [(everyone, log_f, num_points)]
    while pending:
        index, log_f, num_points = pending.pop()
        unsettled = ~(change[index] <= tolerance)
        index, log_f = index[unsettled], log_f[:, unsettled]
        finer = 2 * num_points - 1
        if not len(index) or finer**dim > max_points:
            continue
        size = max(1, LARGEST_GROUP // finer**dim)
        for rows, part in zip(index.split(size), log_f.split(size, 1), strict=True):
            fine = _refine(log_density, grid.at(rows), rows, part, num_points)
            value[rows], change[rows] = _sum(fine, grid.at(rows), finer)
            pending.append((rows, fine, finer))
    check_weights(value)
    left = change[~(change <= tolerance)]
    if len(left):
        warnings.warn(
            f"quadrature did not settle for {len(left)} of {num_data} datapoints: the last doubling of the grid "
            f"changed them by up to {left.max():.1e} nats (standard_error says by how much); raise max_points, "
            "or use method='importance' or 'ais'",
            stacklevel=2,
        )
    return value, change


def _sum(log_f: Tensor, grid: Grid, num_points: int) -> tuple[Tensor, Tensor]:
    """Return the integral over the grid, and its difference from that over every other point."""
    dim = grid.low.shape[-1]
    log_f = log_f.double()
    every_other = log_f.reshape(*[num_points] * dim, -1)[(slice(None, None, 2),) * dim].flatten(0, dim - 1)
    fine = log_f.logsumexp(0) + grid.log_cell(num_points)
    coarse = every_other.logsumexp(0) + grid.log_cell((num_points + 1) // 2)
    return fine, (fine - coarse).abs()


def _refine(log_density: LogDensityAt, grid: Grid, index: Tensor, log_f: Tensor, num_points: int) -> Tensor:
    """Return log f on the grid with twice the points, evaluated only next to points of this one that count."""
    dim = grid.low.shape[-1]
    counts = (log_f > log_f.max(0).values - CUT).reshape(*[num_points] * dim, -1)
    for d in range(dim):
        between = counts.narrow(d, 0, num_points - 1) | counts.narrow(d, 1, num_points - 1)
        first, rest = counts.narrow(d, 0, 1), counts.narrow(d, 1, num_points - 1)
        counts = torch.cat([first, torch.stack([between, rest], d + 1).flatten(d, d + 1)], d)
    finer = 2 * num_points - 1
    counts = counts.reshape(finer**dim, -1)
    most = int(counts.sum(0).max())
    chosen = (
        counts.to(torch.uint8).topk(most, 0).indices
    )  # the others' choice is filled up with points that don't count
    unit = grid._replace(low=torch.zeros_like(grid.low[:1]), high=torch.ones_like(grid.high[:1])).coordinates(finer)
    v = grid.low + unit[chosen, 0] * (grid.high - grid.low)
    fine = torch.full((finer**dim, len(index)), -torch.inf, dtype=log_f.dtype, device=log_f.device)
    return fine.scatter(0, chosen, log_density(grid.positions(v), index))


def locate(log_density: LogDensityAt, points: Tensor) -> Grid:
    """Return grids that cover all that is within ``CUT`` nats of the peak.

    In turns, log f is looked at on a coarse grid; where the points that count end, the next grid ends, and their mean
    and covariance are its centre and axes.  A grid whose edge still counts grows.
    """
    num_data, dim = points.shape[1:]
    everyone = torch.arange(num_data, device=points.device)
    log_f = log_density(points, everyone)
    check_weights(log_f.max(0).values)
    deviation = points.std(0)
    # Where points are that count says more than how much each counts.
    equal = torch.where(log_f > log_f.max(0).values - CUT, 0.0, -torch.inf)
    grid = _covering(points, equal, 1e-2 * deviation + 1e-6, 500.0)
    num_points = SEARCH_POINTS[dim]
    left = everyone
    for _ in range(ROUNDS):
        old = grid.at(left)
        v = old.coordinates(num_points)
        log_f = log_density(old.positions(v), left)
        peak = log_f.max(0).values
        edge = ((v == old.low) | (v == old.high)).any(-1)
        touched = ((log_f > peak - CUT) & edge).any(0)
        spacing = (old.high - old.low) / (num_points - 1)
        new = _covering(v, log_f, spacing, torch.where(touched, num_points / 2, 1.0)[:, None])
        new = Grid(
            old.centre + torch.einsum("mij,mj->mi", old.axes, new.centre), old.axes @ new.axes, new.low, new.high
        )
        shrunk = new.log_cell(2) - old.log_cell(2)
        grid = Grid(*(a.index_copy(0, left, b) for a, b in zip(grid, new, strict=True)))
        left = left[touched | (shrunk < -0.7)]
        if not len(left):
            break
    else:
        warnings.warn(
            f"quadrature found no end of the mass of {len(left)} of {num_data} datapoints; the tails may be too heavy "
            "for a grid: use method='importance' or 'ais'",
            stacklevel=3,
        )
    return grid


def _covering(points: Tensor, log_f: Tensor, spacing: Tensor, margin: Tensor | float) -> Grid:
    """Return grids over the points (K, M, J) that count, with ``margin`` times their spacing (M, J) on every side."""
    weight = log_f.softmax(0).to(points)
    centre = torch.einsum("km,kmi->mi", weight, points)
    centred = points - centre
    covariance = torch.einsum("km,kmi,kmj->mij", weight, centred, centred)
    axes = torch.linalg.cholesky(covariance + torch.diag_embed((0.3 * spacing).square()))
    inverse = torch.linalg.inv(axes)
    turned = torch.einsum("mij,kmj->kmi", inverse, centred)
    counts = (log_f > log_f.max(0).values - CUT).unsqueeze(-1)
    around = torch.einsum("mij,mj->mi", inverse.abs(), spacing) * margin
    low = torch.where(counts, turned, torch.inf).min(0).values - around
    high = torch.where(counts, turned, -torch.inf).max(0).values + around
    return Grid(centre, axes, low, high)
