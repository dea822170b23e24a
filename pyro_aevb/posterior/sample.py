r"""Draws of x: from the model, from z of random datapoints, or given some of the cells.

============== =================================================================================================
source         what is drawn
============== =================================================================================================
``"prior"``    z ~ p(z), x ~ p(x|z)
``"aggregate"`` z ~ 1/N sum_n p(z|x_n), the aggregate posterior of the data, x ~ p(x|z)
``"given"``    x_missing ~ p(x_missing | x_observed) of each datapoint, by :func:`.impute`
============== =================================================================================================

Shapes: N datapoints, S draws, M of a block.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from pyro import poutine
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.evaluation_data import Minibatches, minibatches
from pyro_aevb.evidence.estimator import check_sizes
from pyro_aevb.model_guide.contract import check_callables, read
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.posterior.cells import require_drawn
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.data import over_own_minibatches, rows_of
from pyro_aevb.posterior.encode import draws_of, latents_drawn
from pyro_aevb.posterior.impute import impute
from pyro_aevb.posterior.likelihood import Likelihood, Redrawn, likelihood_of, mean_of
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.posterior.posterior import Options
from pyro_aevb.posterior.proposals import At
from pyro_aevb.random_state import forked, reseed

Source = Literal["prior", "aggregate", "given"]
BLOCK = 1000  # draws that are made together


@one_thread
def sample(
    model: PyroCallable,
    guide: PyroCallable | None,
    number: int,
    *args: Any,
    source: Source = "prior",
    site: str | None = None,
    mean: bool = False,
    method: str | None = None,
    num_particles: int | None = None,
    chains: Chains = Chains(),  # noqa: B008  # it is frozen
    batch_size: int = 100,
    seed: int | None = None,
    vectorize: bool = True,
    compile: Compile = "auto",
    progress: bool = True,
    **kwargs: Any,
) -> Tensor:
    r"""Draw x from the model, from the aggregate posterior, or given some of its cells.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)``.
        guide: q(z|x), called likewise; not asked for ``source="prior"``.
        number: S, how many; of ``"given"`` for each datapoint, 2 or more.
        args: the data.  For ``"prior"`` what is observed of the datapoints doesn't count, only what the model reads
            besides: draw s has row s modulo N.  For ``"given"`` x and, unless what is missing is NaN, the mask
            ``observed``, as for :func:`.impute`.
        source: out of the table above.
        site: the name of the site of x; needed if there are several.
        mean: whether to give the mean of p(x|z) in place of a draw from it; not for ``"given"``.
        method: how z of a datapoint is drawn, as for :func:`.posterior`; by default ``"guide"`` for ``"aggregate"``,
            and ``"auto"`` for ``"given"``.
        num_particles: K, likewise the options that follow as for :func:`.posterior`.
        chains: options of the chains.
        batch_size: datapoints whose posteriors are drawn at a time.
        seed: of the draws.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        compile: the fast path.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name.

    Returns:
        (S, ...); (S, N, ...) for ``"given"``.

    Raises:
        ValueError, TypeError: for options that don't go together, a model that reads x to make x, and as for
            :func:`.posterior`.

    >>> from pyro_aevb.posterior import sample
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> x = sample(model, None, 2000, torch.zeros(1), seed=0)
    >>> x.shape, bool((x.var() - 2).abs() < 0.3)
    (torch.Size([2000]), True)
    """
    check_sizes(number=number, batch_size=batch_size)
    check_callables(model, guide)
    if source not in get_args(Source):
        raise ValueError(f"expected source out of {list(get_args(Source))}, got {source!r}; the default is 'prior'")
    if source == "given":
        if mean:
            raise ValueError("expected mean=False for source='given', got True; impute(...).mean has the means")
        return impute(
            model, guide, *args, method=method or "auto", num_draws=number, num_particles=num_particles, chains=chains,
            batch_size=batch_size, seed=seed, vectorize=vectorize, compile=compile, progress=progress, **kwargs,
        ).draws  # fmt: skip
    method = method or "guide"
    if guide is None and source == "aggregate" and method == "guide":
        raise ValueError("expected a guide to draw from, got None for 'guide'; use method='hmc'")
    options = Options(method, 2, num_particles, chains, batch_size, seed, vectorize, compile, progress)
    streams = Streams(seed)
    batches, model, guide = over_own_minibatches(model, guide, args, kwargs, batch_size, options.given(), streams)
    likelihood = likelihood_of(model, next(iter(batches)), site)
    if source == "prior":
        rows = rows_of(batches)
        index = torch.arange(number, device=rows[0].device) % len(rows[0])
        return _drawn(model, tuple(row[index] for row in rows), {}, likelihood, mean, streams)
    return _aggregate(model, guide, batches, number, likelihood, mean, options, streams)


def _aggregate(
    model: PyroCallable,
    guide: PyroCallable | None,
    batches: Minibatches,
    number: int,
    likelihood: Likelihood,
    mean: bool,
    options: Options,
    streams: Streams,
) -> Tensor:
    """Return draws of x with z of the posterior of a random datapoint each."""
    require_drawn(read(model, guide, next(iter(batches))))
    rows = rows_of(batches)
    generator = torch.Generator().manual_seed(streams.seed(0, "starts"))
    index = torch.randint(len(rows[0]), (number,), generator=generator)
    some, which = index.unique(return_inverse=True)
    chosen = tuple(row[index.to(row.device)] for row in rows)
    if options.method == "guide":
        values = _by_guide(model, guide, chosen, min(BLOCK, likelihood.most_rows), streams)
    else:
        # As many draws of each datapoint as it is asked for most; which of them is shuffled, for chains order theirs.
        turn = _turns(which)
        own = options._replace(num_draws=max(2, int(turn.max()) + 1))
        data = minibatches(tuple(row[some.to(row.device)] for row in rows), options.batch_size)
        draws = draws_of(model, guide, data, own, streams)
        order = torch.rand(own.num_draws, len(some), generator=generator).argsort(0)
        places = order[turn, which]
        values = {name: each[places.to(each.device), which.to(each.device)] for name, each in draws.items()}
    return _drawn(model, chosen, values, likelihood, mean, streams)


def _turns(which: Tensor) -> Tensor:
    """Return how often each entry has come before, (S,)."""
    order = which.argsort(stable=True)
    ordered = which[order]
    first = torch.searchsorted(ordered, ordered)
    return torch.empty_like(which).index_copy_(0, order, torch.arange(len(which)) - first)


@torch.no_grad()
def _by_guide(
    model: PyroCallable, guide: PyroCallable | None, rows: tuple[Tensor, ...], size: int, streams: Streams
) -> dict[str, Tensor]:
    """Return a draw of q(z|x) for each row, {site: (S, ...)}."""
    found = []
    with evaluated(model, guide) as (its_model, its_guide, _), forked():
        for place in range(0, len(rows[0]), size):
            reseed(streams.seed(place, "proposals"))
            found.append(latents_drawn(its_model, its_guide, tuple(row[place : place + size] for row in rows), 1))
    return {name: torch.cat([each[name][0] for each in found]) for name in found[0]}


@torch.no_grad()
def _drawn(
    model: PyroCallable,
    rows: tuple[Tensor, ...],
    values: dict[str, Tensor],
    likelihood: Likelihood,
    mean: bool,
    streams: Streams,
) -> Tensor:
    """Return a draw of x for each row, or its mean given z: z at ``values``, from the prior where there are none."""
    found, size = [], min(BLOCK, likelihood.most_rows)
    anew = (likelihood.site,) if values else likelihood.observed
    with evaluated(model, None) as (its_model, _, _), forked():
        for place in range(0, len(rows[0]), size):
            some = slice(place, place + size)
            block = tuple(row[some] for row in rows)
            at = likelihood.in_a_run({name: value[some] for name, value in values.items()})
            reseed(streams.seed(place, "predictions"))
            with poutine.block(), At(at), Redrawn(anew) as run:
                its_model(*block)
            each = mean_of(run.fns[likelihood.site]) if mean else run.values[likelihood.site]
            found.append(likelihood.layout.datapoints_second(each, 1, len(block[0]))[0])
    return torch.cat(found)
