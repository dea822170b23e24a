r"""Simulation-based calibration: the rank of each z, drawn with its x from the model, among draws from q(z|x).

If q(z|x) is p(z|x), ranks are uniform.  The converse fails: the prior has uniform ranks too.  So that it doesn't pass,
log p(x, z) has a rank as well (Modrák et al. 2025).

Source: Talts, Betancourt, Simpson, Vehtari and Gelman, *Validating Bayesian inference algorithms with simulation-based
calibration*, 2018, Theorem 1; Modrák et al., *Simulation-based calibration checking for Bayesian computation: the
choice of test quantities shapes sensitivity*, 2025.

Shapes: N pairs, L draws for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.diagnostics import uniform_ranks
from pyro_aevb.diagnostics.densities import densities_at
from pyro_aevb.diagnostics.simulations import Posteriors, Simulations, given_of
from pyro_aevb.diagnostics.uniform_ranks import Band, Compared, compared
from pyro_aevb.learners.dreams import DreamArguments
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.posterior import Options
from pyro_aevb.short_repr import short_repr

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_JOINT = "log p(x, z)"


@dataclass(frozen=True)
class RankStatistics:
    """Ranks of simulated latents among draws from q(z|x), uniform on 0, ..., L if these are draws from p(z|x).

    Attributes:
        ranks: {site: (N, ...)}, of each entry of each latent; ``"log p(x, z)"``: those of the log joint density, (N,).
        num_draws: L.
        p_value: {site: (...)}, of each entry: how often exact draws have ranks as far from uniform somewhere.
    """

    ranks: Mapping[str, Tensor]
    num_draws: int
    p_value: Mapping[str, Tensor]

    def __repr__(self) -> str:
        return short_repr(self)

    def smallest(self) -> float:
        """Return the smallest p-value times the number of them (Bonferroni), 1 at most: one for all entries together.

        >>> RankStatistics({}, 9, {"z": torch.tensor([0.5, 0.25])}).smallest()
        0.5
        """
        every = torch.cat([each.flatten() for each in self.p_value.values()])
        return min(1.0, len(every) * every.min().item())

    def band(self, coverage: float = 0.95) -> Band:
        """Return what the distribution function of exact draws' ranks stays inside of, everywhere at once.

        Args:
            coverage: the probability with which it does.

        Raises:
            ValueError: for a probability that isn't between 0 and 1.
        """
        return uniform_ranks.band(len(next(iter(self.ranks.values()))), self.num_draws, coverage)

    def table(self) -> dict[str, list[Any]]:
        """Return a line for each entry of each latent, as columns: its name, p-value and mean rank over L.

        >>> RankStatistics({"z": torch.tensor([[0, 9], [1, 8]])}, 9, {"z": torch.tensor([0.5, 0.25])}).table()["entry"]
        ['z[0]', 'z[1]']
        """
        columns: dict[str, list[Any]] = {"entry": [], "p_value": [], "mean_rank": []}
        for site, rank in self.ranks.items():
            columns["entry"] += entries(site, rank[0])
            columns["p_value"] += self.p_value[site].flatten().tolist()
            columns["mean_rank"] += (rank.double().mean(0) / self.num_draws).flatten().tolist()
        return columns

    def plot(self, axes: Axes | None = None) -> Axes:
        """Return axes with the ranks' distribution functions less the uniform one, and the band.

        Args:
            axes: to draw in; by default those of a new figure.
        """
        from pyro_aevb.diagnostics.figures import rank_plot  # here, since matplotlib takes a second to import

        return rank_plot(self, axes)


def entries(site: str, value: Tensor) -> list[str]:
    """Return the names of the entries of a latent: ``z`` alone, or ``z[0]``, ``z[1]``, ... in their order.

    Args:
        site: the latent's.
        value: one datapoint's.
    """
    return [site] if value.dim() == 0 else [f"{site}[{place}]" for place in range(value.numel())]


def joined_ranks(parts: list[dict[str, Compared]], seed: int | None) -> dict[str, Tensor]:
    """Return the ranks of all minibatches, ties broken at random, {name: (N, ...)}."""
    ties = torch.Generator().manual_seed(0 if seed is None else seed % 2**63)
    every = {name: Compared(*map(torch.cat, zip(*(part[name] for part in parts), strict=True))) for name in parts[0]}
    return {name: each.ranks(ties) for name, each in every.items()}


@one_thread
@torch.no_grad()
def sbc(
    model: PyroCallable,
    guide: PyroCallable | None,
    *args: Any,
    num_simulations: int = 1000,
    num_draws: int = 99,
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
) -> RankStatistics:
    r"""Return the ranks of N latents, drawn from the model with an x each, among L draws from what is to be p(z|x).

    It is about the mean over data that the model makes, and not about one datapoint (:func:`.l_c2st`), nor about data
    that the model doesn't fit.

    Args:
        model: p(x, z), its latents local, called as ``model(*args, **kwargs)``; its x can be dreamed, as for
            :class:`~pyro_aevb.WakeSleep`.
        guide: q(z|x), called likewise; ``None`` for chains alone.
        args: data of any kind that :func:`~pyro_aevb.training.fit` takes.  They say what shapes x has; what the model
            reads and doesn't observe (labels, masks) is taken from them, row after row.
        num_simulations: N.
        num_draws: L.
        method: ``"guide"``: the guide's draws as they are; ``"importance"``, ``"auto"``, ``"hmc"``: as for
            :func:`.posterior`, likewise the other options.  Draws of chains that aren't independent have ranks that are
            somewhat off.
        num_particles: K.
        chains: options of the chains.
        dream_arguments: from {site: simulated value} and a minibatch's arguments to the arguments of simulated data; by
            default what a site observes is replaced in them.
        batch_size: datapoints at a time; changes nothing but memory and rounding.
        seed: of all noise.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        compile: the fast path.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name.

    Raises:
        ValueError, TypeError: for data, options or a pair that can't be used: global latents, masked ones, a model
            whose x can't be simulated.

    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x, width=1.0):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5 * width))
    >>> x = torch.zeros(100)
    >>> exact = sbc(model, guide, x, num_simulations=300, seed=0, compile=False)
    >>> narrow = sbc(model, functools.partial(guide, width=0.5), x, num_simulations=300, seed=0, compile=False)
    >>> exact.p_value["z"].item() > 0.05, narrow.p_value["z"].item() < 0.001
    (True, True)
    """
    options = Options(method, num_draws, num_particles, chains, batch_size, seed, vectorize, compile, progress)
    of_ours = given_of(
        options, method=(method, "guide"), num_draws=(num_draws, 99), num_simulations=(num_simulations, 1000),
        dream_arguments=(dream_arguments, None),
    )  # fmt: skip
    simulations = Simulations(model, guide, args, kwargs, options, dream_arguments, of_ours)
    simulated = simulations.draw(num_simulations)
    parts: list[dict[str, Compared]] = []

    def visit(found: Posteriors) -> None:
        true = {name: value[found.rows] for name, value in simulated.latents.items()}
        both = {name: torch.cat([value[None], found.draws[name].to(value)]) for name, value in true.items()}
        joint = densities_at(found.model, found.layouts, both, found.args, vectorize).log_joint
        every = both | {LOG_JOINT: joint}
        parts.append({name: compared(each[1:], each[0]) for name, each in every.items()})

    simulations.visit(simulated.args, visit)
    ranks = joined_ranks(parts, seed)
    return RankStatistics(
        ranks, num_draws, {name: uniform_ranks.p_value(rank, num_draws) for name, rank in ranks.items()}
    )
