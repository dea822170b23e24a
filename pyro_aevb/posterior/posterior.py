"""Draws from p(z|x) that say how far each datapoint's can be trusted.

Shapes: N datapoints, L draws, M of a minibatch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.distributions.angles import unrolled
from pyro_aevb.evaluation_data import Minibatches
from pyro_aevb.evidence.estimator import check_sizes
from pyro_aevb.model_guide.contract import check_callables, read
from pyro_aevb.model_guide.local_densities import require_local_densities
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.posterior.angles import NOT_ONE, angles_of, average
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.data import over_own_minibatches
from pyro_aevb.posterior.gate import METHODS, Draws, Gate, Request, Sampler
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.progress_bar import DATAPOINTS, progress_bar
from pyro_aevb.random_state import forked
from pyro_aevb.short_repr import short_repr
from pyro_aevb.warning import warn

FEWEST_PARTICLES = 1000
PARTICLES_A_DRAW = 10
NO_OTHERS: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Posterior:
    """L draws from p(z|x_n) for each of N datapoints, and how they came about.

    Attributes:
        draws: {site: (L, N, ...)}, a latent's other plates and its event last.
        method: ``"guide"``, ``"importance"``, ``"hmc"`` or, of :func:`.impute`, ``"gibbs"``, N of them.
        trusted: whether the draws are vouched for, (N,) of bool: by nearly equal weights, by a light tail of them, or
            by chains that mixed.
        effective_sample_size: how many independent draws they count as for a mean, (N,), L at most.  Of chains it is
            that of the latent that counts least, with an error of some tenths.
        pareto_k: the shape of the tail of the guide's weights, (N,); NaN where they weren't looked at.
        r_hat: the largest R-hat over unconstrained latent dimensions, (N,); NaN where no chains were run.
        angles: the latents that are angles, {site: which entries are, of bool, of a shape that z's broadcasts to}.
            Their mean is that on the circle, and their deviation and quantiles are those of the draws as numbers within
            half a turn of it.
    """

    draws: Mapping[str, Tensor]
    method: tuple[str, ...]
    trusted: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    r_hat: Tensor
    angles: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        return short_repr(self)

    def mean(self, site: str) -> Tensor:
        """Return the mean over the draws of a latent, (N, ...)."""
        return average(self._of(site), self.angles.get(site, NOT_ONE))

    def std(self, site: str) -> Tensor:
        """Return the standard deviation over the draws of a latent, (N, ...)."""
        return self._of(site).std(0)

    def quantile(self, site: str, q: float) -> Tensor:
        """Return a quantile of the draws of a latent, (N, ...)."""
        return self._of(site).quantile(q, 0)

    def table(self) -> dict[str, list[Any]]:
        """Return a line a datapoint, as columns: method, trusted, the diagnostics, mean and deviation of each latent.

        ``pandas.DataFrame(found.table())`` makes a data frame of it.

        >>> one = torch.ones(1)
        >>> found = Posterior({"z": torch.tensor([[0.0], [2.0]])}, ("guide",), one.bool(), 2 * one, 0.1 * one, one)
        >>> found.table()["method"], found.table()["z mean"]
        (['guide'], [1.0])
        """
        columns: dict[str, list[Any]] = {"method": list(self.method), "trusted": self.trusted.tolist()}
        for name in ("effective_sample_size", "pareto_k", "r_hat"):
            columns[name] = getattr(self, name).tolist()
        for site, draws in self.draws.items():
            for place in range(draws[0, 0].numel()):
                entry = f"{site}[{place}]" if draws.dim() > 2 else site
                for name, each in (("mean", self.mean(site)), ("std", self.std(site))):
                    columns[f"{entry} {name}"] = each.flatten(1).T[place].tolist() if each.dim() > 1 else each.tolist()
        return columns

    def standard_error(self, values: Tensor) -> Tensor:
        """Return the standard error of the mean of a function's values at the draws, (N, ...).

        It is sd / sqrt(n), n the effective sample size, and sd^2 the values' variance over the L draws, n / (n - 1)
        times: that is unbiased for draws that repeat each other.  It is NaN where n is one or less, as where a single
        weight counts: one draw doesn't tell how far off it is.

        Args:
            values: (L, N, ...).

        >>> found = Posterior({}, ("guide",) * 2, torch.ones(2).bool(), torch.tensor([5.0, 1.0]), *torch.zeros(2, 2))
        >>> found.standard_error(torch.tensor([[-1.0, 3.0], [1.0, 3.0]]))  # sqrt(1 / (5 - 1))
        tensor([0.5000,    nan])
        """
        count = self.effective_sample_size.reshape(-1, *[1] * (values.dim() - 2)).to(values)
        return (values.var(0, correction=0) / (count - 1).clamp(min=0)).sqrt().masked_fill(count <= 1, torch.nan)

    def _of(self, site: str) -> Tensor:
        if site not in self.draws:
            raise ValueError(
                f"expected a site out of {sorted(self.draws)}, got {site!r}; these are the model's latents"
            )
        draws = self.draws[site]
        if site in self.angles:
            return unrolled(draws, self.angles[site])
        return draws if draws.is_floating_point() else draws.to(torch.get_default_dtype())


class Options(NamedTuple):
    """The options that all verbs of this room have in common, see :func:`posterior`."""

    method: str = "auto"
    num_draws: int = 100
    num_particles: int | None = None
    chains: Chains = Chains()
    batch_size: int = 100
    seed: int | None = None
    vectorize: bool = True
    compile: Compile = "auto"
    progress: bool = True

    def given(self) -> dict[str, Any]:
        """Return the options that aren't at their defaults."""
        return {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}

    def request(self, guide: PyroCallable | None, methods: Sequence[str] = METHODS) -> Request:
        """Return these options, checked.

        Args:
            guide: q(z|x), or ``None``.
            methods: those that there are.

        Raises:
            ValueError, TypeError: for options that can't be used.
        """
        check_sizes(num_draws=self.num_draws, num_particles=self.num_particles)
        if self.method not in methods:
            raise ValueError(f"expected a method out of {list(methods)}, got {self.method!r}; the default is 'auto'")
        if self.num_draws < 2:
            raise ValueError(f"expected num_draws of 2 or more, got {self.num_draws}; one has no spread, ask for 2")
        if not isinstance(self.chains, Chains):
            raise TypeError(
                f"expected chains=Chains(...), got {self.chains!r}; for example Chains(num_chains=64), of "
                "pyro_aevb.posterior"
            )
        if guide is None and self.method in ("guide", "importance", "gibbs"):
            raise ValueError(f"expected a guide to draw from, got None for {self.method!r}; use method='hmc'")
        num_particles = self.num_particles
        if num_particles is None:
            num_particles = max(FEWEST_PARTICLES, PARTICLES_A_DRAW * self.num_draws)
        if num_particles < self.num_draws:
            raise ValueError(
                f"expected num_particles no fewer than num_draws, got {num_particles} and {self.num_draws}; leave "
                "num_particles out for ten to a draw"
            )
        method = "hmc" if guide is None else self.method
        return Request(method, self.num_draws, num_particles, self.chains, self.vectorize, self.compile)


@torch.no_grad()
def visit_minibatches(
    model: PyroCallable,
    guide: PyroCallable | None,
    batches: Minibatches,
    options: Options,
    streams: Streams,
    visit: Callable[[PyroCallable, Sampler, Draws, list[int], tuple[Tensor, ...]], None],
    others: Mapping[str, Callable[..., Sampler]] = NO_OTHERS,
) -> dict[str, Tensor]:
    """Draw from p(z|x) for each minibatch in turn and hand the draws on; modes and random state stay as they are.

    Return the latents that are angles, as :func:`.angles_of`.

    Args:
        model: p(x, z), a function of a minibatch's tensors.
        guide: q(z|x), likewise, or ``None``.
        batches: the data.
        options: as the caller got them.
        streams: the random numbers.
        visit: called with the model in evaluation mode, the gate, the draws, their places, and the minibatch.
        others: methods beside those of :func:`posterior`, made as a :class:`~pyro_aevb.posterior.gate.Gate` is.

    Raises:
        ValueError, TypeError: for options and a pair that can't be used.
    """
    request = options.request(guide, (*METHODS, *others))
    angles: dict[str, Tensor] = {}
    for batch in batches:
        angles |= angles_of(_checked(model, guide, batch, request.method))
    bar = progress_bar(
        show=options.progress, total=float(batches.num_data), desc="p(z|x)", delay=1, bar_format=DATAPOINTS
    )
    with evaluated(model, guide) as (its_model, its_guide, _), forked(), bar:
        gate: Sampler | None = None
        done = 0
        for batch in batches:
            if gate is None:
                gate = others.get(request.method, Gate)(
                    its_model, its_guide, *batch, request=request, num_data=batches.num_data, num_batches=len(batches),
                    streams=streams,
                )  # fmt: skip
            size = len(batch[0])
            places = list(range(done, done + size))
            draws = gate(places, functools.partial(_advance, bar, size), *batch)
            visit(its_model, gate, draws, places, batch)
            done += size
    return angles


def _advance(bar: Any, size: int, part: float) -> None:
    bar.update(part * size)


def _checked(model: PyroCallable, guide: PyroCallable | None, batch: tuple[Tensor, ...], method: str) -> Reading:
    reading = read(model, guide, batch)
    reading.require_local()
    reading.require_density()
    if not reading.latents:
        raise ValueError("expected a model with latents, got none; add pyro.sample('z', ...) in its data plate")
    if method != "hmc":
        require_local_densities(reading, model, guide, batch)
    return reading


def joined(parts: list[Draws], angles: Mapping[str, Tensor]) -> Posterior:
    """Return the posterior of all minibatches, and warn of the datapoints that nothing vouches for.

    Args:
        parts: the draws of each.
        angles: the latents that are angles, as :func:`.angles_of`.
    """
    values = {name: torch.cat([part.values[name] for part in parts], 1) for name in parts[0].values}
    trusted, ess, tail, r_hat = (torch.cat(each) for each in zip(*(part[2:] for part in parts), strict=True))
    found = Posterior(values, tuple(m for part in parts for m in part.method), trusted, ess, tail, r_hat, angles)
    if not trusted.all():
        first = int((~trusted).nonzero()[0])
        warn(
            f"the draws of {int((~trusted).sum())} of {len(trusted)} datapoints aren't to be trusted, the first at "
            f"{first}, by {found.method[first]}: trusted says which; raise num_particles, train a wider guide, or, if "
            "all latents are continuous, use method='auto', with chains=Chains(...) that are longer"
        )
    return found


@one_thread
def posterior(
    model: PyroCallable,
    guide: PyroCallable | None,
    *args: Any,
    method: str = "auto",
    num_draws: int = 100,
    num_particles: int | None = None,
    chains: Chains = Chains(),  # noqa: B008  # it is frozen
    batch_size: int = 100,
    seed: int | None = None,
    vectorize: bool = True,
    compile: Compile = "auto",
    progress: bool = True,
    **kwargs: Any,
) -> Posterior:
    r"""Draw from p(z|x_n) for each datapoint, and say of each whether the draws can be trusted.

    ================ ================================================================ ===========================
    method           what it does                                                     trusted where
    ================ ================================================================ ===========================
    ``"guide"``      draws from q(z|x) as they are                                    weights are nearly equal
    ``"importance"`` K draws from q(z|x), L of them by their Pareto smoothed weights  the tail is light, L count
    ``"hmc"``        many short chains, from where annealing from the prior ends      R-hat is near 1
    ``"auto"``       the first of these that can be trusted, for each datapoint       it could, or chains mixed
    ================ ================================================================ ===========================

    No mean over nearly equal weights' draws is off by more than the standard error of L exact ones.  A datapoint's
    draws are those of its place in the data and the seed: neighbours and ``batch_size`` change nothing but rounding.  A
    pair that knows more of a datapoint than its row, or wants a fixed number of rows, is run on whole minibatches, and
    then they change which noise it gets.  A mode that neither guide nor annealing found is missed, and no diagnostic of
    these knows.  Latents that are summed out aren't drawn; see :func:`~pyro_aevb.discrete_posterior`.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)`` with minibatches of the data; its latents are local, and
            continuous for ``"auto"`` and ``"hmc"``.
        guide: q(z|x), called likewise; ``None`` for chains alone.
        args: the data, datapoints first, of any kind that :func:`~pyro_aevb.training.fit` takes.
        method: out of the table.
        num_draws: L, 2 or more.
        num_particles: K, by default ten for each draw and 1000 at least.
        chains: options of the chains.
        batch_size: datapoints whose chains move together; bounds memory.
        seed: a seed for the draws; the global generators are then left as they were.  Without, one number is taken
            from torch's.
        vectorize: whether all draws of a datapoint are evaluated in one pass; ``False`` for a model that can't take z
            of shape (K, M, J).
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name.

    Raises:
        ValueError, TypeError: for data, options or a pair that can't be used.

    >>> from pyro_aevb.posterior.posterior import posterior
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):  # the posterior N(x / 2, 1/2) for x < 1, a wider one for others
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, torch.where(x < 1, 0.5**0.5, 0.9)))
    >>> found = posterior(model, guide, torch.tensor([0.0, 2.0]), num_draws=500, seed=0, compile=False)
    >>> found.method, found.trusted.tolist(), found.draws["z"].shape
    (('guide', 'importance'), [True, True], torch.Size([500, 2]))
    >>> bool((found.std("z") - 0.5**0.5).abs().max() < 0.1)
    True
    """
    options = Options(method, num_draws, num_particles, chains, batch_size, seed, vectorize, compile, progress)
    check_callables(model, guide)
    streams = Streams(seed)
    batches, model, guide = over_own_minibatches(model, guide, args, kwargs, batch_size, options.given(), streams)
    parts: list[Draws] = []
    angles = visit_minibatches(
        model, guide, batches, options, streams, lambda model, gate, draws, places, args: parts.append(draws)
    )
    return joined(parts, angles)
