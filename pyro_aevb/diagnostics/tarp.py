r"""Tests of accuracy with random points: how often the true z is among the draws that lie nearest to a reference point.

Around a reference point r_n, which is anything but a function of z_n, the ball through z_n holds a share of p(z|x_n)
that is uniform on (0, 1); the share of the draws from q(z|x_n) in it is compared with that.  All latents are tested
together, where :func:`.sbc` goes entry by entry.  A wrong width is seen well, a shift less: it makes some balls larger
and some smaller.

With reference points that know nothing of x, the prior passes for the posterior.  By default they are made from x,
along the directions in it that vary with z, found in the other half of the pairs, with noise as large as they vary.

Source: Lemos, Coogan, Hezaveh and Perreault-Levasseur, *Sampling-based accuracy testing of posterior estimators for
general inference*, 2023.

Shapes: N pairs, L draws for each, J entries of all latents, D of x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.diagnostics import uniform_ranks
from pyro_aevb.diagnostics.sbc import joined_ranks
from pyro_aevb.diagnostics.simulations import Posteriors, Simulations, given_of, unit_scale
from pyro_aevb.diagnostics.uniform_ranks import Band, Compared, compared
from pyro_aevb.learners.dreams import DreamArguments
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.posterior import Options
from pyro_aevb.short_repr import short_repr

if TYPE_CHECKING:
    from matplotlib.axes import Axes

References = Literal["x", "random"]


@dataclass(frozen=True)
class Coverage:
    """Coverage of balls around reference points, which is their credibility if the draws are from p(z|x).

    Attributes:
        ranks: how many of L draws are nearer to the reference point than the true z, (N,), uniform on 0, ..., L.
        num_draws: L.
        p_value: how often exact draws have a coverage as far from the credibility somewhere.
    """

    ranks: Tensor
    num_draws: int
    p_value: float

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def credibility(self) -> Tensor:
        """The shares of q(z|x) that balls hold, (L,), rising, in float64."""
        return torch.arange(1, self.num_draws + 1).double() / (self.num_draws + 1)

    @property
    def coverage(self) -> Tensor:
        """How often the true z is in the ball that holds this share, (L,), in float64."""
        return uniform_ranks.distribution_function(self.ranks.cpu(), self.num_draws)

    def band(self, coverage: float = 0.95) -> Band:
        """Return what the coverage of exact draws stays inside of, at all credibilities at once.

        Args:
            coverage: the probability with which it does.

        Raises:
            ValueError: for a probability that isn't between 0 and 1.
        """
        return uniform_ranks.band(len(self.ranks), self.num_draws, coverage)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Return axes with the coverage against the credibility, and the band.

        Args:
            axes: to draw in; by default those of a new figure.
        """
        from pyro_aevb.diagnostics.figures import coverage_plot  # here, since matplotlib takes a second to import

        return coverage_plot(self, axes)


@one_thread
@torch.no_grad()
def tarp(
    model: PyroCallable,
    guide: PyroCallable | None,
    *args: Any,
    num_simulations: int = 1000,
    num_draws: int = 99,
    references: References = "x",
    method: str = "guide",
    num_particles: int | None = None,
    chains: Chains = Chains(),  # noqa: B008  # it is frozen
    dream_arguments: DreamArguments | None = None,
    batch_size: int = 100,
    seed: int | None = None,
    vectorize: bool = True,
    compile: Compile = "auto",
    progress: bool = True,
    **kwargs: Any,
) -> Coverage:
    r"""Return the coverage of balls around reference points, for N latents drawn from the model with an x each.

    Distances are Euclidean, between latents that are divided by their standard deviations over the pairs; an angle is
    its cosine and its sine.

    Args:
        model: p(x, z), as for :func:`.sbc`.
        guide: q(z|x), likewise; ``None`` for chains alone.
        args: the data, likewise.
        num_simulations: N, 4 or more.
        num_draws: L.
        references: ``"x"``: reference points that depend on x; ``"random"``: uniform ones, in the box of all z.
        method: of the draws from p(z|x), as for :func:`.sbc`, likewise the other options.
        num_particles: K.
        chains: options of the chains.
        dream_arguments: of simulated data.
        batch_size: datapoints at a time.
        seed: of all noise.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        compile: the fast path.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name.

    Raises:
        ValueError, TypeError: as for :func:`.sbc`, and for other ``references``.

    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x, slope=0.5):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(slope * x, (1 - slope) ** 0.5))
    >>> x = torch.zeros(100)
    >>> exact = tarp(model, guide, x, num_simulations=300, seed=0, compile=False)
    >>> prior = tarp(model, functools.partial(guide, slope=0.0), x, num_simulations=300, seed=0, compile=False)
    >>> exact.p_value > 0.05, prior.p_value < 0.001
    (True, True)
    """
    if references not in ("x", "random"):
        raise ValueError(f"expected references to be 'x' or 'random', got {references!r}; the default is 'x'")
    options = Options(method, num_draws, num_particles, chains, batch_size, seed, vectorize, compile, progress)
    of_ours = given_of(
        options, method=(method, "guide"), num_draws=(num_draws, 99), num_simulations=(num_simulations, 1000),
        references=(references, "x"), dream_arguments=(dream_arguments, None),
    )  # fmt: skip
    simulations = Simulations(model, guide, args, kwargs, options, dream_arguments, of_ours)
    if num_simulations < 4:
        raise ValueError(f"expected num_simulations of 4 or more, got {num_simulations}; a band takes some hundreds")
    simulated = simulations.draw(num_simulations)
    z = simulations.coordinates(simulated.latents, 1)
    noise = simulations.noise("references", (num_simulations, z.shape[1]))
    points = from_x(simulated.x, z, noise) if references == "x" else in_the_box(z, noise)
    scale = unit_scale(z)
    parts: list[dict[str, Compared]] = []

    def visit(found: Posteriors) -> None:
        both = simulations.coordinates(found.draws, 2), z[found.rows]  # (L, M, J), (M, J)
        distance, true = (((each - points[found.rows]) / scale).norm(dim=-1) for each in both)
        parts.append({"z": compared(distance, true)})

    simulations.visit(simulated.args, visit)
    rank = joined_ranks(parts, seed)["z"]
    return Coverage(rank, num_draws, uniform_ranks.p_value(rank, num_draws).item())


def from_x(x: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
    """Return points C (x_n - mean) and as much noise, at the scale of z, (N, J), C from the half that n isn't in.

    Args:
        x: of the pairs, (N, D).
        latents: of the pairs, (N, J).
        noise: standard normal, (N, J).
    """
    x = (x - x.mean(0)) / unit_scale(x)
    points = torch.empty_like(noise)
    for half in (0, 1):
        own, other = slice(half, None, 2), slice(1 - half, None, 2)
        z = latents[other]
        middle, scale = z.mean(0), unit_scale(z)
        along = x @ (x[other].T @ ((z - middle) / scale))  # to the covariances of x and z
        points[own] = middle + scale * ((along / unit_scale(along))[own] + noise[own])
    return points


def in_the_box(z: Tensor, noise: Tensor) -> Tensor:
    """Return points that are uniform between the smallest and the largest of each entry of z, (N, J).

    Args:
        z: (N, J).
        noise: standard normal, (N, J).
    """
    low, high = z.min(0).values, z.max(0).values
    return low + (high - low) * torch.special.ndtr(noise)
