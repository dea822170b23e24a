r"""Integrals over R^J, J up to 3, of many densities at once, on trees of cells that are split where it matters.

With :math:`u = c + A v` and :math:`v_j = t_j / (1 - t_j^2)` all of R^J is the cube :math:`(-1, 1)^J`: there is no edge
to look for.  A cell of the cube is a product of Gauss-Legendre rules.  It is split in two while its error may matter.
The error of a cell is the largest of three numbers:

- what the highest Legendre coefficients of its integrand say of the next ones;
- half of what its parent's value and its own and its sibling's differ by, a shifted and finer grid;
- if parabolas through neighbouring nodes of log f, or a known point, rise by a nat above all of its nodes: the
  height of this peak times the cell's volume.  So a mode that lies between two nodes is found.

The integral is taken twice: first coarsely, with c and A from the known points, then with those of the mass found.

Shapes: C cells, R rows (nodes of all cells), K known points, M datapoints, J dimensions, n nodes along a dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LogDensityAt = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
NODES, ROOT = {1: 12, 2: 7, 3: 7}, {1: 32, 2: 4, 3: 2}  # n; cells along a dimension to begin with
COARSE = {1: 0.1, 2: 0.1, 3: 0.5}  # nats, of the first integral
WIDTH = 3.0  # standard deviations for a unit of v
BLIND = 1.0  # nats by which a peak may rise above the nodes of a cell that sees it
MARGIN = 1.6  # parabolas through steeper than Gaussian sides fall short of the peak
MOST_ROUNDS = 200
FIRST_LOOK, COARSE_LOOK = 0.1, 0.3  # shares of the work, at the first integral's roots and at its end


class Integral(NamedTuple):
    """log int f(u) du, an estimate of its error in nats, and whether it is below the tolerance, each (M,)."""

    value: Tensor
    error: Tensor
    settled: Tensor


class InfiniteDensityError(ValueError):
    """A density that is infinite somewhere, whose integral isn't known."""


class Cells(NamedTuple):
    """Cells of the cube: ``centre`` and ``half`` a width (C, J); the rest is (C,).

    ``owner``: its datapoint; ``value``, ``error``: logarithms; ``split``: the dimension to split it in;
    ``final``: whether its error can't be made smaller.
    """

    centre: Tensor
    half: Tensor
    owner: Tensor
    value: Tensor
    error: Tensor
    split: Tensor
    final: Tensor

    def where(self, chosen: Tensor) -> Cells:
        """Return the cells that are chosen, (C,)."""
        return Cells(*(field[chosen] for field in self))

    def total(self, logarithms: Tensor, num_data: int) -> Tensor:
        """Return the logarithm of each datapoint's sum, (M,), of ``logarithms`` (C,)."""
        top = logarithms.new_full((num_data,), -torch.inf).scatter_reduce(0, self.owner, logarithms, "amax")
        top = torch.where(top.isfinite(), top, 0.0)
        return torch.zeros_like(top).index_add(0, self.owner, (logarithms - top[self.owner]).exp()).log() + top


class Cube(NamedTuple):
    """Each datapoint's map from the cube to R^J: ``centre`` (M, J) and ``axes`` (M, J, J)."""

    centre: Tensor
    axes: Tensor

    def position(self, t: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return u (R, J) at ``t`` (R, J), and log |du/dt| (R,)."""
        u = self.centre[index] + (self.axes[index] @ stretched(t).unsqueeze(-1)).squeeze(-1)
        stretch = ((1 + t.square()).log() - 2 * (1 - t.square()).log()).sum(-1)
        return u, torch.linalg.slogdet(self.axes).logabsdet[index] + stretch

    def inverse(self, u: Tensor) -> Tensor:
        """Return t (K, M, J) of ``u`` (K, M, J)."""
        v = torch.linalg.solve(self.axes, (u - self.centre).unsqueeze(-1)).squeeze(-1)
        return 2 * v / (1 + (1 + 4 * v.square()).sqrt())


def stretched(t: Tensor) -> Tensor:
    """Return v = t / (1 - t^2)."""
    return t / (1 - t.square())


def integrate(
    log_density: LogDensityAt,
    points: Tensor,
    tolerance: float = 1e-3,
    max_points: int = 300_000,
    done: Callable[[float], None] = lambda share: None,
) -> Integral:
    """Return log int f(u) du for each datapoint.

    Args:
        log_density: a function from u (R, J) and the datapoints' index (R,) to log f (R,), and to whether u could be
            told from its neighbours there (R,): the mass where it couldn't counts as an error.
        points: (K, M, J), known points, not all the same; they show where to begin, and modes that grids don't see.
        tolerance: the error that is small enough, in nats.
        max_points: the most evaluations for a datapoint.
        done: called now and then with the share of the work that is done, as far as the errors tell.

    Raises:
        InfiniteDensityError: for a density that is infinite somewhere; a ``ValueError``.

    >>> from pyro_aevb.evidence.cubature import integrate
    >>> def log_density(u, index):  # two Gaussians, far apart for their width
    ...     log_f = torch.logaddexp(-50 * (u - 1).square().sum(-1), -50 * (u + 1).square().sum(-1))
    ...     return log_f, torch.ones_like(log_f, dtype=torch.bool)
    >>> integral = integrate(log_density, torch.randn(12, 1, 2))
    >>> round(integral.value.exp().item(), 4), round(2 * 3.14159265 / 100 * 2, 4), integral.settled.item()
    (0.1257, 0.1257, True)
    """
    num_known, num_data, dim = points.shape
    known = points.double()
    everyone = torch.arange(num_data, device=points.device).repeat(num_known)
    log_f = _in_doubles(log_density(points.reshape(-1, dim), everyone)[0]).reshape(num_known, num_data)
    low, centre, high = known.quantile(known.new_tensor([0.16, 0.5, 0.84]), 0)
    cube = Cube(centre, torch.diag_embed((high - low).clamp(min=1e-6)))
    narrowest = 10 * torch.finfo(points.dtype).eps  # of the cube, half a cell: places that still differ
    first = _Tree(log_density, cube, known, log_f, narrowest)
    done(FIRST_LOOK)
    first.grow(COARSE[dim], max_points, lambda share: done(FIRST_LOOK + (COARSE_LOOK - FIRST_LOOK) * share))
    tree = _Tree(log_density, _around(first), known, log_f, narrowest)
    return tree.grow(tolerance, max_points, lambda share: done(COARSE_LOOK + (1 - COARSE_LOOK) * share))


def _in_doubles(log_f: Tensor) -> Tensor:
    """Return log f in float64, and no density where it is no number; raise an error where it is infinite."""
    if (log_f == torch.inf).any():
        raise InfiniteDensityError(
            f"expected a density that is finite everywhere, got log p(x, z) = inf in {log_f.dtype}, as where a latent "
            "overflows; use float64, x.double() and a model of float64, or method='importance' or 'ais'"
        )
    return log_f.double().nan_to_num(nan=-torch.inf)


class _Tree:
    """The cells of all datapoints."""

    def __init__(self, log_density: LogDensityAt, cube: Cube, known: Tensor, log_f: Tensor, narrowest: float) -> None:
        self._log_density, self.cube, self._narrowest = log_density, cube, narrowest
        self.num_data, dim = cube.centre.shape
        self._rule = _Rule(dim, known.device)
        self._spent = known.new_zeros(self.num_data)
        self._t = cube.inverse(known)
        everyone = torch.arange(self.num_data, device=known.device)
        stretch = cube.position(self._t.reshape(-1, dim), everyone.repeat(len(known)))[1]
        self._log_g = log_f + stretch.reshape(log_f.shape)
        line = torch.linspace(-1 + 1 / ROOT[dim], 1 - 1 / ROOT[dim], ROOT[dim], dtype=torch.double, device=known.device)
        roots = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
        centre = roots.repeat(self.num_data, 1)
        cells = self._evaluate(centre, torch.full_like(centre, 1 / ROOT[dim]), everyone.repeat_interleave(len(roots)))
        self.cells = cells._replace(error=torch.maximum(cells.error, cells.value))  # split once, so that two agree

    def grow(self, tolerance: float, max_points: int, done: Callable[[float], None]) -> Integral:
        """Split cells until the error is below the tolerance, or ``max_points`` are spent."""
        for _ in range(MOST_ROUNDS):
            cells = self.cells
            value, error = (cells.total(logarithms, self.num_data) for logarithms in (cells.value, cells.error))
            number = torch.bincount(cells.owner, minlength=self.num_data)
            going = (error > value + math.log(tolerance)) & (self._spent < max_points)
            falling = ((error - value) / math.log(tolerance)).nan_to_num(nan=1.0).clamp(0.0, 1.0)
            done(torch.where(going, falling, 1.0).mean().item())
            bound = value + math.log(tolerance / 2) - number.log()
            chosen = going[cells.owner] & ~cells.final & (cells.error > bound[cells.owner])
            if not chosen.any():
                break
            self.cells = Cells(
                *map(torch.cat, zip(cells.where(~chosen), self._halves(cells.where(chosen)), strict=True))
            )
        error = (error - value).exp()
        return Integral(value, error, error <= tolerance)

    def _halves(self, parents: Cells) -> Cells:
        """Return both halves of each cell."""
        split = parents.split[:, None]
        shift = torch.zeros_like(parents.half).scatter(1, split, parents.half.gather(1, split) / 2)
        centre = torch.cat([parents.centre - shift, parents.centre + shift])
        cells = self._evaluate(centre, (parents.half - shift).repeat(2, 1), parents.owner.repeat(2))
        together = torch.logaddexp(*cells.value.chunk(2))
        larger, smaller = torch.maximum(together, parents.value), torch.minimum(together, parents.value)
        change = larger + torch.log(-torch.expm1(smaller - larger)) - math.log(2)
        change = change.nan_to_num(nan=-torch.inf).repeat(2)
        return cells._replace(error=torch.maximum(cells.error, change))

    def _evaluate(self, centre: Tensor, half: Tensor, index: Tensor) -> Cells:
        rule, num_cells, dim = self._rule, len(centre), centre.shape[-1]
        t = (centre[:, None] + half[:, None] * rule.places).reshape(-1, dim)
        rows = index.repeat_interleave(len(rule.places))
        u, stretch = self.cube.position(t, rows)
        log_f, resolved = self._log_density(u, rows)
        log_f = _in_doubles(log_f)
        self._spent.index_add_(0, index, torch.full_like(index, len(rule.places), dtype=torch.double))
        log_g, log_f = (log_f + stretch).reshape(num_cells, -1), log_f.reshape(num_cells, -1)
        volume, top = half.log().sum(-1), log_g.amax(-1)
        value, rough = rule.sums(log_g)
        value = value + volume
        error = value + rough.sum(-1).clamp(max=1.0).log()
        bump = rule.bumps(log_f, centre, half)
        peak = torch.maximum(top + MARGIN * bump.sum(-1), self._highest_known(centre, half, index))
        blind = peak > top + BLIND
        error = torch.where(blind, torch.maximum(error, peak + volume + dim * math.log(2)), error)
        resolved = resolved.reshape(num_cells, -1)
        error = torch.where(resolved.all(-1), error, torch.maximum(error, value))
        longest = torch.where(bump.sum(-1) > BLIND, bump.argmax(-1), half.argmax(-1))
        split = torch.where(blind | ~(rough.sum(-1) > 0), longest, rough.argmax(-1))
        final = ~resolved.any(-1) | (half.amin(-1) < self._narrowest)
        return Cells(centre, half, index, value, error, split, final)

    def _highest_known(self, centre: Tensor, half: Tensor, index: Tensor) -> Tensor:
        """Return the highest known log density in each cell, (C,)."""
        highest = [centre.new_zeros(0)]
        for c, h, i in zip(centre.split(10_000), half.split(10_000), index.split(10_000), strict=True):
            inside = ((self._t[:, i] - c).abs() <= h).all(-1)
            highest.append(torch.where(inside, self._log_g[:, i], -torch.inf).amax(0))
        return torch.cat(highest)


class _Rule:
    """The product of Gauss-Legendre rules with n nodes on [-1, 1]^J."""

    def __init__(self, dim: int, device: torch.device) -> None:
        self.n, self.dim = NODES[dim], dim
        x, w = np.polynomial.legendre.leggauss(self.n)
        degrees = np.arange(self.n - 4, self.n)
        coefficients = np.polynomial.legendre.legvander(x, self.n - 1)[:, degrees] * w[:, None] * (degrees + 0.5)
        self._x, self._w, self._coefficients = (torch.tensor(a, device=device) for a in (x, w, coefficients))
        self.places = torch.cartesian_prod(*[self._x] * dim).reshape(-1, dim)
        self._weights = torch.cartesian_prod(*[self._w] * dim).reshape(-1, dim).prod(-1)

    def sums(self, log_g: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithm of the sum over a cell's nodes (C,), and its relative error along each dimension (C, J).

        Legendre coefficients of a smooth function fall geometrically; the rule's error is that of degree 2n.  Its
        estimate here takes them to fall two thirds as fast as the last four do.
        """
        top = log_g.amax(-1)
        top = torch.where(top.isfinite(), top, 0.0)
        g = (log_g - top[:, None]).exp()
        value = g @ self._weights
        g, rough = g.reshape(-1, *[self.n] * self.dim), []
        for d in range(self.dim):
            size = torch.tensordot(g, self._coefficients, dims=([d + 1], [0])).abs()
            for _ in range(self.dim - 1):
                size = torch.tensordot(size, self._w, dims=([1], [0]))
            before, last = size[:, :2].amax(-1).clamp(min=1e-300), size[:, 2:].amax(-1)
            rate = (last / before).sqrt().clamp(max=1.0)
            rough.append(2 * last * rate ** (2 * self.n / 3))
        return value.log() + top, torch.stack(rough, -1) / value.clamp(min=1e-300)[:, None]

    def bumps(self, log_f: Tensor, centre: Tensor, half: Tensor) -> Tensor:
        """Return by how much parabolas along each dimension rise above the nodes' largest log f, (C, J), 0 or more.

        They are parabolas in v, in which the tails of a Gaussian are ones.
        """
        top = log_f.amax(-1)
        lines = (log_f - torch.where(top.isfinite(), top, 0.0)[:, None]).reshape(-1, *[self.n] * self.dim)
        found = []
        for d in range(self.dim):
            x = stretched(centre[:, d, None] + half[:, d, None] * self._x)
            ends = stretched(torch.stack([centre[:, d] - half[:, d], centre[:, d] + half[:, d]], -1))
            shape = (len(x), *[1] * (self.dim - 1), -1)
            y = lines.movedim(d + 1, -1)
            rise = _highest(y, x.reshape(shape), ends.clamp(-1e6, 1e6).reshape(shape)).flatten(1).amax(-1)
            found.append(rise.clamp(min=0.0))
        return torch.stack(found, -1)


def _highest(y: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    """Return the heights between neighbours of parabolas through three of (x, y), (..., n-1), and to both ends.

    Between two nodes there are two parabolas.  The higher one counts, but where the four nodes rise or fall in one
    direction, and a peak between them is the work of a side steeper than a parabola.
    """
    finite = y.isfinite()
    finite = finite[..., 2:] & finite[..., 1:-1] & finite[..., :-2]
    y = y.nan_to_num(neginf=-1e30)
    slope = y.diff(dim=-1) / x.diff(dim=-1)
    x0, x1, x2, y0, s = x[..., :-2], x[..., 1:-1], x[..., 2:], y[..., :-2], slope[..., :-1]
    a = slope.diff(dim=-1) / (x2 - x0)
    vertex = torch.where(a < 0, (x0 + x1) / 2 - s / (2 * a), x1)

    def highest(low: Tensor, high: Tensor) -> Tensor:
        v = torch.minimum(torch.maximum(vertex, low), high)
        return torch.where(finite, y0 + s * (v - x0) + a * (v - x0) * (v - x1), -torch.inf)

    left = highest(torch.cat([ends[..., :1], x0[..., 1:]], -1), x1)
    right = highest(x1, torch.cat([x2[..., :-1], ends[..., 1:]], -1))
    one_way = (slope[..., :-2] > 0) == (slope[..., 2:] > 0)
    pair = right[..., :-1], left[..., 1:]
    return torch.cat(
        [left[..., :1], torch.where(one_way, torch.minimum(*pair), torch.maximum(*pair)), right[..., -1:]], -1
    )


def _around(tree: _Tree) -> Cube:
    """Return the map whose centre and axes are those of the mass in a tree."""
    cells, num_data = tree.cells, tree.num_data
    total = cells.total(cells.value, num_data)
    share = (cells.value - total[cells.owner]).exp().nan_to_num(nan=0.0)[:, None]
    place = tree.cube.position(cells.centre, cells.owner)[0]
    within = tree.cube.position(cells.centre + 0.3 * cells.half, cells.owner)[0] - place
    centre = torch.zeros_like(tree.cube.centre).index_add(0, cells.owner, share * place)
    away = place - centre[cells.owner]
    squares = away[:, :, None] * away[:, None, :] + torch.diag_embed(within.square())
    covariance = torch.zeros_like(tree.cube.axes).index_add(0, cells.owner, share[..., None] * squares)
    axes, info = torch.linalg.cholesky_ex(covariance)
    deviation = covariance.diagonal(dim1=-2, dim2=-1).sqrt().clamp(min=1e-12)
    usable = (info == 0) & axes.isfinite().all(-1).all(-1)
    axes = WIDTH * torch.where(usable[:, None, None], axes, torch.diag_embed(deviation))
    found = (total.isfinite() & axes.isfinite().all(-1).all(-1) & centre.isfinite().all(-1))[:, None]
    return Cube(torch.where(found, centre, tree.cube.centre), torch.where(found[..., None], axes, tree.cube.axes))
