r"""Means of x: at given latents, and of a new x for which z is drawn from p(z|x) of a datapoint.

.. math:: E[x_{new} | x] = \int E[x_{new} | z] \, p(z | x) \, dz

Shapes: N datapoints, L draws, M of a minibatch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.distributions.angles import is_directional
from pyro_aevb.model_guide.contract import check_callables, read
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.posterior.angles import are_angles, average, moments, place_of
from pyro_aevb.posterior.cells import require_drawn
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.data import over_own_minibatches, rows_of
from pyro_aevb.posterior.encode import codes_of
from pyro_aevb.posterior.likelihood import Likelihood, likelihood_of, mean_of
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.posterior.posterior import Options, joined, visit_minibatches
from pyro_aevb.posterior.predictions import Predicted, Predictions
from pyro_aevb.random_state import forked

Latents = Tensor | Mapping[str, Tensor]


@one_thread
def decode(
    model: PyroCallable,
    guide: PyroCallable | None,
    z: Latents,
    *args: Any,
    site: str | None = None,
    gradient: bool = False,
    batch_size: int = 1000,
    **kwargs: Any,
) -> Tensor:
    """Return the mean of p(x|z) at given latents.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)``.
        guide: as for the other verbs; it isn't run.
        z: the latent, (M, ...) or (K, M, ...); with several of them a dict of all, {site: z}.
        args: the data of these M datapoints, or one row for all of them; what the sites observe doesn't count, only
            what the model reads besides.
        site: the name of the site of x; needed if there are several.
        gradient: whether the mean has its gradient.
        batch_size: datapoints at a time.
        kwargs: what the model takes by name.

    Returns:
        (M, ...) or (K, M, ...).

    Raises:
        ValueError, TypeError: for latents of other names or shapes, a likelihood without a mean, a pair and data that
            can't be used.

    >>> from pyro_aevb.posterior import decode
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
    ...         pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)
    >>> decode(model, None, torch.tensor([0.5, 1.0]), torch.zeros(1))
    tensor([1., 2.])
    """
    check_callables(model, guide)
    batches, model, _ = over_own_minibatches(model, None, args, kwargs, batch_size, {}, Streams(0))
    rows = rows_of(batches)
    likelihood = likelihood_of(model, rows, site)
    values, leading = _values(z, likelihood, len(rows[0]))
    count = len(next(iter(values.values()))[0])
    if len(rows[0]) == 1:
        rows = tuple(row.expand(count, *row.shape[1:]) for row in rows)
    with evaluated(model, None) as (its_model, _, _), forked(), torch.set_grad_enabled(gradient):
        found = [
            means_at(its_model, likelihood, {name: each[k] for name, each in values.items()}, rows, batch_size)
            for k in range(len(next(iter(values.values()))))
        ]
    return torch.stack(found).reshape(*leading, *found[0].shape)


def means_at(
    model: PyroCallable, likelihood: Likelihood, values: Mapping[str, Tensor], rows: tuple[Tensor, ...], batch_size: int
) -> Tensor:
    """Return the means of p(x|z), (R, ...), a minibatch at a time, with a gradient if these are enabled.

    Args:
        model: in evaluation mode.
        likelihood: where x is in it.
        values: of the latents, (R, ...).
        rows: the model's arguments.
        batch_size: rows at a time.
    """
    found, size = [], min(batch_size, likelihood.most_rows)
    for begin in range(0, len(rows[0]), size):
        some = slice(begin, begin + size)
        at = {name: value[some] for name, value in values.items()}
        found.append(likelihood.mean(model, at, *(row[some] for row in rows)))
    return torch.cat(found)


@one_thread
def reconstruct(
    model: PyroCallable,
    guide: PyroCallable | None,
    *args: Any,
    site: str | None = None,
    method: str = "guide",
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
    r"""Return the mean of x given z, for the z of each datapoint: at the guide's mean, or over draws from p(z|x).

    The first, ``method="guide"``, is one pass of encoder and decoder.  Any other method gives E[x_new | x], the mean of
    a new observation with the same z.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)``.
        guide: q(z|x), called likewise; ``None`` for chains alone.
        args: the data, datapoints first, of any kind that :func:`~pyro_aevb.training.fit` takes.
        site: the name of the site of x; needed if there are several.
        method: ``"guide"``; ``"importance"``, ``"hmc"`` or ``"auto"`` as for :func:`.posterior`.
        num_draws: L, likewise the options that follow.
        num_particles: K.
        chains: options of the chains.
        batch_size: datapoints at a time.
        seed: of the draws.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        compile: the fast path.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name.

    Returns:
        (N, ...), of the shape of x.

    Raises:
        ValueError, TypeError: for a likelihood without a mean, latents without one or that are summed out, and as for
            :func:`.posterior`.

    >>> from pyro_aevb.posterior import reconstruct
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> reconstruct(model, guide, torch.tensor([0.0, 3.0]))
    tensor([0.0000, 1.5000])
    """
    options = Options(method, num_draws, num_particles, chains, batch_size, seed, vectorize, compile, progress)
    options.request(guide)
    check_callables(model, guide)
    streams = Streams(seed)
    batches, model, guide = over_own_minibatches(model, guide, args, kwargs, batch_size, options.given(), streams)
    first = next(iter(batches))
    reading = read(model, guide, first)
    require_drawn(reading)
    likelihood = likelihood_of(model, first, site)
    if method == "guide":
        codes, rows = codes_of(model, guide, batches, options, streams), rows_of(batches)
        with evaluated(model, None) as (its_model, _, _), forked(), torch.no_grad():
            return means_at(its_model, likelihood, codes, rows, batch_size)
    predictions = Predictions(likelihood.site, likelihood.layout, streams, vectorize, _expected)
    angles = visit_minibatches(model, guide, batches, options, streams, predictions.visit)
    joined(predictions.drawn, angles)
    fn = reading.observations[likelihood.site].fn
    return place_of(average(predictions.all().mean, are_angles(fn)), fn)


def _expected(fn: Any, num_draws: int, width: int) -> Predicted:
    """Return the mean of the likelihood in a run on L draws of the latents, in the place of draws of x too."""
    fn = fn.expand(torch.broadcast_shapes(fn.batch_shape, (num_draws, *[1] * (width - 1))))
    mean = mean_of(fn)
    if are_angles(fn).any() or is_directional(fn):
        mean = moments(fn)
    return Predicted(mean, mean)


def _values(z: Latents, likelihood: Likelihood, num_data: int) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Return latents as {site: (K, M, ...)}, and their leading dimensions: (K,) or (); raise for others than these."""
    names = list(likelihood.latents)
    if isinstance(z, Tensor) and len(names) == 1:
        z = {names[0]: z}
    if isinstance(z, Tensor) or set(z) != set(names):
        got = "one tensor" if isinstance(z, Tensor) else f"those of {sorted(z)}"
        raise ValueError(f"expected the values of all latents, {names}, got {got}; pass a dict {{site: z}} of them")
    found: dict[str, Tensor] = {}
    leads = set()
    for name, value in z.items():
        layout = likelihood.latents[name]
        own = 1 + len(layout.others) + layout.event
        lead = tuple(value.shape[: value.dim() - own])
        if value.dim() < own or len(lead) > 1 or num_data not in (1, value.shape[len(lead)]):
            raise ValueError(
                f"expected latent {name!r} of {own} or {own + 1} dimensions for {num_data} datapoints, these first or "
                f"second, got shape {tuple(value.shape)}; reshape it, or pass one row of data for all"
            )
        if (event := tuple(value.shape[value.dim() - layout.event :])) != layout.event_shape:
            raise ValueError(
                f"expected latent {name!r} of event shape {layout.event_shape}, as the model draws it, got {event} at "
                f"the end of {tuple(value.shape)}; pass all numbers of a datapoint's latent"
            )
        leads.add((lead, value.shape[len(lead)]))
        found[name] = value if lead else value[None]
    if any(0 in (*lead, size) for lead, size in leads):
        shapes = {name: tuple(value.shape) for name, value in z.items()}
        raise ValueError(f"expected latents of one datapoint or more, got the shapes {shapes}; leave the call out")
    if len(leads) > 1:
        raise ValueError(f"expected latents of as many draws and datapoints each, got {sorted(leads)}; expand them")
    return found, next(iter(leads))[0]
