"""The evidence lower bound per datapoint, with its standard error (Kingma & Welling 2013, Eqs. (2) and (6))."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.evidence.estimates import BoundEstimate
from pyro_aevb.evidence.estimator import check_sizes, over_minibatches
from pyro_aevb.model_guide.contract import check_callables, given, read
from pyro_aevb.model_guide.log_density import LogDensity, capture_log_density
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.random_state import seeded


@one_thread
@torch.no_grad()
def elbo(
    model: PyroCallable,
    guide: PyroCallable,
    *args: Any,
    num_particles: int = 1,
    batch_size: int = 1000,
    seed: int | None = None,
    vectorize: bool = True,
    compile: Compile = "auto",
    **kwargs: Any,
) -> BoundEstimate:
    r"""Return E_q[log p(x_n, z) - log q(z|x_n)] for each datapoint: a lower bound on log p(x_n).

    The expectation is a mean over ``num_particles`` draws from the guide.  Nothing is trained.  Scales in the model
    (N/M, ``poutine.scale``) don't count.  With global latents w the bound of a datapoint is given w, in the mean over
    q(w); what w costs stands beside it, likewise what the model observes outside of the data plate, and ``.total(N)``
    is the bound on the log density of all that is observed.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)`` with minibatches of the data.
        guide: q(z|x), called likewise.
        args: the data, datapoints first, of any kind that :func:`~pyro_aevb.training.fit` takes; the first tensor is x,
            of shape (N, ...).  Or all of the data, a ``Dataset``, a ``DataLoader`` or :class:`~pyro_aevb.Arguments`.
        num_particles: K, draws for each datapoint.
        batch_size: datapoints evaluated at a time; bounds memory, and changes which draw a datapoint gets.
        seed: a seed for the draws; the global generators are then left as they were.
        vectorize: whether all particles are evaluated in one pass; ``False`` for a model that can't take z of shape
            (K, M, J).
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`; ``"auto"`` takes it from 500 passes on.
        kwargs: what model and guide take by name.

    Raises:
        ValueError: for empty data, sizes below 1, a guide without a density for each datapoint, and a pair that breaks
            the contract.

    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> bound = elbo(model, guide, torch.tensor([0.0, 2.0]), num_particles=10, seed=0)
    >>> [round(v, 4) for v in bound.value.tolist()], round(bound.mean().value, 4)
    ([-1.2655, -2.2655], -1.7655)
    """
    check_sizes(num_particles=num_particles)
    check_callables(model, guide)
    options = given(
        num_particles=(num_particles, 1), batch_size=(batch_size, 1000), seed=(seed, None),
        vectorize=(vectorize, True), compile=(compile, "auto"),
    )  # fmt: skip
    batches, model, guide = over_minibatches(model, guide, args, kwargs, batch_size, options)
    density = capture_log_density(
        model, guide, num_particles=num_particles, vectorize=vectorize, compile=compile, points=False
    )
    density.expected_calls = len(batches)
    with seeded(seed):
        result = estimate(density, batches)
    if result.value.isnan().any():  # data outside the likelihood's support make it so, on the fast path too
        for batch in batches:
            read(model, guide, batch)
    return result


def estimate(density: Callable[..., LogDensity], batches: Iterable[tuple[Tensor, ...]]) -> BoundEstimate:
    """Return the mean of ``density``'s log weights over particles, for each datapoint of the minibatches."""
    densities = [density(*batch) for batch in batches]
    weights = [each.expected_log_weight for each in densities]
    value, error = torch.cat([w.mean(0) for w in weights]), torch.cat([_standard_error(w) for w in weights])
    # Each minibatch has draws of the global latents of its own, which its datapoints have in common.
    of_globals = [each.global_log_weight / len(densities) for each in densities if len(each.global_log_weight)]
    given = [each.log_given / len(densities) for each in densities if len(each.log_given)]
    log_given = sum((g.mean() for g in given), start=value.new_zeros(()))
    if not of_globals:
        return BoundEstimate(value, error, value.new_zeros(()), error.square().sum().sqrt(), log_given)
    once = [g + o for g, o in zip(given, of_globals, strict=True)] if given else of_globals
    totals = [_standard_error(w.sum(1) + g) for w, g in zip(weights, once, strict=True)]
    kl = -torch.stack([g.mean() for g in of_globals]).sum()
    return BoundEstimate(value, error, kl, torch.stack(totals).square().sum().sqrt(), log_given)


def _standard_error(draws: Tensor) -> Tensor:
    """Return that of the mean over the first dimension; NaN for a single draw."""
    return draws.std(0) / len(draws) ** 0.5 if len(draws) > 1 else draws[0] * torch.nan
