"""Codes: the mean of z given x, by the guide or by draws from p(z|x) that can be trusted.

Shapes: N datapoints, L draws, M of a minibatch.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any, Literal, get_args

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.distributions import angles
from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.evaluation_data import Minibatches
from pyro_aevb.model_guide.contract import check_callables, read
from pyro_aevb.model_guide.dependence import ancestors, parents
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.reading import read_traces
from pyro_aevb.model_guide.traces import (
    PyroCallable,
    broadcasting,
    is_messenger,
    number_of_datapoints,
    on_a_side,
    trace_pair,
)
from pyro_aevb.one_thread import one_thread
from pyro_aevb.posterior.angles import NOT_ONE, angles_of, average, place_of
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.data import over_own_minibatches, rows_of
from pyro_aevb.posterior.gate import Draws
from pyro_aevb.posterior.likelihood import one_of_sites
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.posterior.posterior import Options, joined, visit_minibatches
from pyro_aevb.posterior.proposals import Layout
from pyro_aevb.random_state import forked, reseed, seeded

Output = Literal["mean", "draws"]
BLOCK = 100  # datapoints that draw from the guide together, whatever batch_size is


@one_thread
def encode(
    model: PyroCallable,
    guide: PyroCallable | None,
    *args: Any,
    site: str | None = None,
    output: Output = "mean",
    method: str = "guide",
    gradient: bool = False,
    num_draws: int = 100,
    num_particles: int | None = None,
    chains: Chains = Chains(),  # noqa: B008  # it is frozen
    batch_size: int = 100,
    seed: int | None = None,
    vectorize: bool = True,
    compile: Compile = "auto",
    progress: bool = True,
    **kwargs: Any,
) -> Tensor:
    r"""Return the mean of z given x, or draws of it, for each datapoint.

    By the guide it is the mean of q(z|x): as it can be written down, or of L draws where it can't (a flow, a latent
    that depends on one before it, or on an auxiliary site).  ``method="auto"`` asks p(z|x) itself, by draws that can be
    trusted.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)``.
        guide: q(z|x), called likewise; ``None`` for chains alone.
        args: the data, datapoints first, of any kind that :func:`~pyro_aevb.training.fit` takes.
        site: the name of the latent; needed if there are several.
        output: ``"mean"``, (N, ...), or ``"draws"``, (L, N, ...).
        method: ``"guide"``; ``"importance"``, ``"hmc"`` or ``"auto"`` as for :func:`.posterior`.
        gradient: whether the mean of q(z|x) has its gradient, where it can be written down.
        num_draws: L.
        num_particles: K, likewise the options that follow as for :func:`.posterior`.
        chains: options of the chains.
        batch_size: datapoints at a time.
        seed: of the draws.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        compile: the fast path.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name.

    Raises:
        ValueError, TypeError: for a latent that there isn't or that has no mean, a gradient that there isn't, and as
            for :func:`.posterior`.

    >>> from pyro_aevb.posterior import encode
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):  # where it should be x / 2
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 3, 1.0))
    >>> x = torch.tensor([0.0, 3.0])
    >>> encode(model, guide, x)
    tensor([0., 1.])
    >>> codes = encode(model, guide, x, method="importance", num_draws=1000, seed=0)
    >>> bool((codes - x / 2).abs().max() < 0.15)
    True
    """
    options = Options(method, num_draws, num_particles, chains, batch_size, seed, vectorize, compile, progress)
    options.request(guide)
    check_callables(model, guide)
    if output not in get_args(Output):
        raise ValueError(f"expected output out of {list(get_args(Output))}, got {output!r}; the default is 'mean'")
    if gradient and (method != "guide" or output != "mean"):
        raise ValueError(
            f"expected gradient=True for the mean of the guide, got output={output!r} and method={method!r}; draws "
            "have none, leave gradient out"
        )
    streams = Streams(seed)
    batches, model, guide = over_own_minibatches(model, guide, args, kwargs, batch_size, options.given(), streams)
    name = latent_of(model, guide, batches, site)
    with evaluated(model, guide) as (its_model, its_guide, _), torch.set_grad_enabled(gradient):
        if method == "guide" and output == "mean" and (means := guide_means(its_model, its_guide, batches, name)):
            return means[name]
    if gradient:
        raise ValueError(
            "expected a guide whose mean can be written down, for its gradient, got one of which it is a mean of "
            "draws; leave gradient out, or draw from the guide yourself"
        )
    reading = read(model, guide, next(iter(batches)))
    fn = reading.latents[name].fn
    if output == "mean" and isinstance(innermost(fn), torch.distributions.Categorical):
        raise _without_mean(name, fn)
    draws = draws_of(model, guide, batches, options, streams)[name]
    if output == "draws":
        return draws
    return place_of(average(draws, angles_of(reading).get(name, NOT_ONE)), fn)


@one_thread
@torch.no_grad()
def approximate_posterior(
    model: PyroCallable, guide: PyroCallable, *args: Any, site: str | None = None, **kwargs: Any
) -> Any:
    """Return q(z|x) of all of the data as a Pyro distribution, its batch shape that of the guide's site.

    Args:
        model: p(x, z).
        guide: q(z|x).
        args: the data, as for :func:`encode`.
        site: the name of the latent; needed if there are several.
        kwargs: what model and guide take by name.

    Raises:
        ValueError, TypeError: for a latent that depends on others, whose distribution is none by itself, and as for
            :func:`encode`.

    >>> from pyro_aevb import VAE
    >>> from pyro_aevb.posterior import approximate_posterior
    >>> vae = VAE(8, 2)
    >>> q = approximate_posterior(vae.model, vae.guide, torch.zeros(5, 8))
    >>> q.batch_shape, q.event_shape
    (torch.Size([5]), torch.Size([2]))
    """
    check_callables(model, guide)
    batches, model, guide = over_own_minibatches(model, guide, args, kwargs, 1000, {}, Streams(0))
    name = latent_of(model, guide, batches, site)
    rows = rows_of(batches)
    with evaluated(model, guide) as (_, its_guide, _):
        fns = _distributions(its_guide, rows, 0)
        before = on_a_side(lambda: parents(its_guide, rows))[name] if len(fns) > 1 else set()
    if before:
        raise ValueError(
            f"expected a latent whose distribution is one by itself, got {name!r}, which depends on {sorted(before)}; "
            "use encode(..., output='draws')"
        )
    return fns[name]


def latent_of(model: PyroCallable, guide: PyroCallable | None, batches: Minibatches, site: str | None) -> str:
    """Return the name of a latent; ``ValueError`` unless it is clear which, and for a pair that can't be used.

    Args:
        model: p(x, z), a function of a minibatch's tensors.
        guide: q(z|x), likewise, or ``None``.
        batches: the data.
        site: the name that was asked for, or ``None``.
    """
    reading = read(model, guide, next(iter(batches)))
    reading.require_local()
    return one_of_sites(list(reading.latents), site, "latent")


def codes_of(
    model: PyroCallable, guide: PyroCallable | None, batches: Minibatches, options: Options, streams: Streams
) -> dict[str, Tensor]:
    """Return the mean of each latent given x, {site: (N, ...)}, as a place in its support.

    Args:
        model: p(x, z), a function of a minibatch's tensors.
        guide: q(z|x), likewise, or ``None``.
        batches: the data.
        options: as the caller got them.
        streams: the random numbers.

    Raises:
        ValueError: for a latent whose mean is no value of it, as of a discrete one.
    """
    options.request(guide)
    reading = read(model, guide, next(iter(batches)))
    reading.require_local()
    for name, each in reading.latents.items():
        if each.fn.support.is_discrete:
            raise ValueError(
                f"expected continuous latents, whose mean is one of their values, got the discrete site {name!r}; use "
                "reconstruct or sample with method='importance', which take draws"
            )
    with torch.no_grad():
        if options.method == "guide":
            with evaluated(model, guide) as (its_model, its_guide, _):
                if means := guide_means(its_model, its_guide, batches):
                    return means
        found, circular = draws_of(model, guide, batches, options, streams), angles_of(reading)
        means = {name: average(draws, circular.get(name, NOT_ONE)) for name, draws in found.items()}
        return {name: place_of(mean, reading.latents[name].fn) for name, mean in means.items()}


def guide_means(
    model: PyroCallable, guide: PyroCallable | None, batches: Minibatches, site: str | None = None
) -> dict[str, Tensor] | None:
    """Return the means of q(z|x), {site: (N, ...)}; ``None`` unless all of them can be written down.

    They can't if they depend on what was drawn: on another site, or on what two runs tell.

    Args:
        model: p(x, z), a function of a minibatch's tensors.
        guide: q(z|x), likewise.
        batches: the data.
        site: the one latent that is wanted; by default all.

    Raises:
        ValueError: for a latent without a mean.
    """
    if guide is None or is_messenger(guide):
        return None
    first = next(iter(batches))
    reading = read(model, guide, first)
    wanted = [name for name in reading.latents if site in (None, name)]
    layouts = {name: Layout.of(reading.latents[name], reading) for name in wanted}
    if _follow_draws(guide, first, layouts):
        return None
    found, circular = [], angles_of(reading)
    for batch in batches:
        fns = _distributions(guide, batch, 0)
        with torch.no_grad():
            again = _distributions(guide, batch, 1)
        size, own = number_of_datapoints(batch), dict[str, Tensor]()
        for name, layout in layouts.items():
            mean, other = (_mean(each[name], name in circular) for each in (fns, again))
            if mean is None or other is None or not _same(mean, other):
                return None
            own[name] = layout.datapoints_second(mean, 1, size)[0]
        found.append(own)
    means = {name: torch.cat([each[name] for each in found]) for name in layouts}
    for name, mean in means.items():
        if not mean.isfinite().all():
            raise _without_mean(name, fns[name])
    return means


def _without_mean(name: str, fn: Any) -> ValueError:
    return ValueError(
        f"expected latents with a mean, got site {name!r} ~ {type(innermost(fn)).__name__}, which has none; use "
        "encode(..., output='draws'), or posterior(...).quantile(site, 0.5)"
    )


@torch.no_grad()
def draws_of(
    model: PyroCallable, guide: PyroCallable | None, batches: Minibatches, options: Options, streams: Streams
) -> dict[str, Tensor]:
    """Return draws {site: (L, N, ...)} from q(z|x), by ``method="guide"``, or from p(z|x).

    Args:
        model: p(x, z), a function of a minibatch's tensors.
        guide: q(z|x), likewise, or ``None``.
        batches: the data.
        options: as the caller got them.
        streams: the random numbers.
    """
    if options.method != "guide" or guide is None:
        parts: list[Draws] = []
        circular = visit_minibatches(
            model, guide, batches, options, streams, lambda model, gate, draws, places, args: parts.append(draws)
        )
        return dict(joined(parts, circular).draws)
    rows = rows_of(batches)
    found: list[dict[str, Tensor]] = []
    with evaluated(model, guide) as (its_model, its_guide, _), forked():
        size = _block_size(its_model, its_guide, rows)
        for place in range(0, len(rows[0]), size):
            block = tuple(row[place : place + size] for row in rows)
            reseed(streams.seed(place, "proposals"))
            passes = [options.num_draws] if options.vectorize else [1] * options.num_draws
            each = [latents_drawn(its_model, its_guide, block, number) for number in passes]
            found.append({name: torch.cat([part[name] for part in each]) for name in each[0]})
    return {name: torch.cat([each[name] for each in found], 1) for name in found[0]}


@torch.no_grad()
def latents_drawn(
    model: PyroCallable, guide: PyroCallable, args: tuple[Tensor, ...], num_draws: int
) -> dict[str, Tensor]:
    """Return draws of each of the model's latents from q(z|x), {site: (L, M, ...)}; no density is asked for.

    Args:
        model: p(x, z), in evaluation mode.
        guide: q(z|x), likewise.
        args: a minibatch.
        num_draws: L; the pair is run on all of them at once.
    """
    reading = read(model, guide, args)
    layouts = {name: Layout.of(site, reading) for name, site in reading.latents.items()}
    particles = (-1 - reading.depth, num_draws) if num_draws > 1 else None
    plate = nullcontext() if particles is None else pyro.plate("particles", num_draws, dim=particles[0])
    size = number_of_datapoints(args)
    with poutine.block(), plate, broadcasting(particles):
        guide_trace, model_trace = trace_pair(model, guide, args)
        latents = read_traces(model_trace, guide_trace, size, particles).latents
    return {name: each.datapoints_second(latents[name].value, num_draws, size) for name, each in layouts.items()}


def _block_size(model: PyroCallable, guide: PyroCallable, rows: tuple[Tensor, ...]) -> int:
    """Return how many datapoints draw together: all of them if the pair wants a fixed number of rows."""
    if len(rows[0]) > BLOCK:
        try:
            read(model, guide, tuple(row[:BLOCK] for row in rows))
        except (ValueError, RuntimeError, IndexError):  # each pair says in its own way that it wants others
            return len(rows[0])
    return BLOCK


def _follow_draws(guide: PyroCallable, args: tuple[Tensor, ...], names: Collection[str]) -> bool:
    """Return whether the distribution of one of these latents follows what the guide draws at another site, or may.

    Two runs don't tell: a discrete site may be drawn alike in both.
    """
    fns = _distributions(guide, args, 0)
    drawn = {name for name, fn in fns.items() if not isinstance(innermost(fn), dist.Delta)}
    if not any(drawn - {name} for name in names):
        return False
    try:
        before = on_a_side(lambda: ancestors(guide, args))
    except (KeyError, NotImplementedError, RuntimeError, TypeError):  # as of a flow without an inverse
        return True
    return any(before[name] & drawn for name in names)


class _Distributions(Messenger):
    """Keep the distributions of the latents that a guide draws."""

    def __init__(self) -> None:
        super().__init__()
        self.fns: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            self.fns[msg["name"]] = msg["fn"]


def _distributions(guide: PyroCallable, args: tuple[Tensor, ...], seed: int) -> dict[str, Any]:
    with seeded(seed), poutine.block(), _Distributions() as found:
        guide(*args)
    return found.fns


def _mean(fn: Any, angle: bool) -> Tensor | None:
    """Return the mean of a distribution, on the circle for one of an angle; ``None`` if it can't be written down."""
    try:
        return angles.mean_angle(fn) if angle else angles.mean(fn)
    except (NotImplementedError, AttributeError):
        return None


def _same(mean: Tensor, other: Tensor) -> bool:
    """Return whether two runs gave a latent one distribution, by its mean."""
    means = mean.detach(), other.detach()
    return mean.shape == other.shape and torch.allclose(*means, rtol=1e-5, atol=1e-7, equal_nan=True)
