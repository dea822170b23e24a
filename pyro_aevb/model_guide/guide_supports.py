"""Guides whose supports aren't the prior's: a part of it, beside which no draw finds what p(z|x) has, or several turns.

Shapes: M datapoints, R places.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_aevb.distributions.angles import base_support, is_periodic
from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.sites import Site
from pyro_aevb.model_guide.traces import NO_KWARGS, Kwargs, PyroCallable, is_messenger, on_a_side, trace_model
from pyro_aevb.random_state import reseed

NUM_DRAWS = 16
STRETCH = 3.0  # of a normal prior's 16 draws the outermost are then about 5 standard deviations from its mean
TURN_DRAWS = 256
TURNS = tuple(2 * math.pi * number for number in range(-3, 4))  # an angle is one number in each
MOST_TURNS, TURNS_OF_WEIGHTS = 1.0, 0.55  # 0.3% of a Normal is beyond half a turn then; a ten-millionth
COMPOSED = (torch.distributions.TransformedDistribution, dist.TransformedDistribution)  # not a family made with them


def narrower(reading: Reading, model: PyroCallable, args: tuple[Any, ...]) -> str | None:
    """Return what to say of a guide without a density in a part of the posterior's support; ``None`` for any other.

    Whether two constraints are equal isn't asked, for they can be written in many ways: the guide's support is asked
    whether it holds draws from the prior and, for a continuous latent, places farther out.  What it doesn't hold counts
    if p(x, z) > 0 there.

    Args:
        reading: of the pair.
        model: p(x, z).
        args: the minibatch that was read.
    """
    for name, site in reading.sites("guide", "local").items():
        prior = reading.model[name].fn
        try:
            left_out = on_a_side(functools.partial(_left_out, prior, site))
            missed = left_out is not None and _is_possible(reading, model, args, name, *left_out)
        except (NotImplementedError, AttributeError, ValueError, RuntimeError, KeyError):
            continue  # what has no draws, no support or no inverse can't be asked
        if missed:
            q, p = (type(innermost(fn)).__name__ for fn in (site.fn, prior))
            return (
                f"expected a guide with a density wherever the prior has one, got {q} at site {name!r} for {p}, whose "
                "support is larger: what p(z|x) has in the rest is missed, and neither pareto_k nor a standard error "
                "can tell; give the guide the prior's support, or leave it out, as method='auto' then does"
            )
    return None


def wider(
    reading: Reading, guide: PyroCallable, args: tuple[Any, ...], kwargs: Kwargs = NO_KWARGS, *, most: float
) -> str | None:
    """Return what to say of a guide that goes around an angle of the model several times; ``None`` for any other.

    The density of an angle repeats with every turn: a guide that isn't one of angles meets it once for each, and the
    bound and log p(x) come out too high.

    Args:
        reading: of the pair.
        guide: q(z|x).
        args: the minibatch that was read.
        kwargs: likewise.
        most: over how many turns its draws may range: ``MOST_TURNS`` or, where weights will be taken of many draws,
            ``TURNS_OF_WEIGHTS``; one of bounded support may go around once in any case.
    """
    for name, site in reading.sites("guide", "local", "global").items():
        if not is_periodic(reading.model[name].fn) or is_periodic(site.fn):
            continue
        turns = on_a_side(functools.partial(_turns_of, site, guide, args, kwargs))
        if turns > (most if base_support(site.fn) is constraints.real else MOST_TURNS):
            q, p = (type(innermost(fn)).__name__ for fn in (site.fn, reading.model[name].fn))
            remedy = "" if most == MOST_TURNS else ", or use method='quadrature' or 'ais', which move within one turn"
            return (
                f"expected a guide within one turn for the angles of site {name!r}, {p}, got {q}, whose draws range "
                f"over {turns:.2f} turns, and meet the same p(z) again in each; write pyro.sample({name!r}, "
                f"dist.VonMises(loc, concentration)) in the guide, which no autoguide does{remedy}"
            )
    return None


def _turns_of(site: Site, guide: PyroCallable, args: tuple[Any, ...], kwargs: Kwargs) -> float:
    """Return the range of draws in turns, the mean over the entries; it is 0.9 of the scale of a Normal."""
    reseed(0)
    if isinstance(innermost(site.fn), dist.Delta) and not is_messenger(guide):  # of what an autoguide draws elsewhere
        with evaluated(guide, None) as (its_guide, _, _):
            runs = (poutine.trace(its_guide).get_trace(*args, **kwargs) for _ in range(TURN_DRAWS))
            draws = torch.stack([run.nodes[site.name]["value"] for run in runs])
    else:
        draws = site.fn.sample((TURN_DRAWS,))
    return float((draws.amax(0) - draws.amin(0)).double().mean()) / (2 * math.pi)


def _left_out(prior: Any, site: Site) -> tuple[Tensor, Tensor] | None:
    """Return R places in the prior's support, (R, M, ...), and which aren't in the guide's, (R, M, ...), if any."""
    reseed(0)
    batch = 1 + len(prior.batch_shape)
    place = prior.sample((NUM_DRAWS,))
    resolved = torch.ones((), dtype=torch.bool, device=place.device)
    if (transform := _bijection(prior)) is not None:
        u = transform.inv(place)
        u = torch.cat([u, u.mean(0) + STRETCH * (u - u.mean(0))])
        place = transform(u)
        close = (transform.inv(place + 0.0) - u).abs() <= 1e-2 * (1 + u.abs())  # not where it is rounded to an end
        resolved = _of_batch(close, batch)
    turns = TURNS if is_periodic(prior) else (0.0,)
    inside = torch.stack([_of_batch(_holds(site.fn, place + turn), batch) for turn in turns]).any(0)
    left_out = _of_batch(prior.support.check(place), batch) & resolved & ~inside
    if site.mask is not None:
        left_out = left_out & torch.as_tensor(site.mask, device=place.device)
    return (place, left_out) if left_out.any() else None


def _bijection(prior: Any) -> Any:
    """Return the map from R^n to the prior's support; ``None`` for one that has none, or is of angles."""
    if prior.support.is_discrete or is_periodic(prior):
        return None
    try:
        return biject_to(prior.support)
    except NotImplementedError:  # as for a sphere
        return None


def _is_possible(
    reading: Reading, model: PyroCallable, args: tuple[Any, ...], name: str, place: Tensor, left_out: Tensor
) -> bool:
    """Return whether p(x, z) > 0 for some datapoint at a place of a latent that is left out, the others as drawn."""
    site = reading.guide[name]
    values = {each: drawn.value for each, drawn in reading.sites("guide", "local", "global").items()}

    def joint(value: Tensor) -> Tensor:
        trace = trace_model(pyro.condition(its_model, {**values, name: value}), None, args)
        found = read_traces(trace, None, reading.plate.size)
        return found.sum_log_prob((found.latents | found.observations).values())

    with evaluated(model, None) as (its_model, _, _), pyro.validation_enabled(False):
        for at, left in zip(place, left_out, strict=True):
            if left.any():
                inside = left.reshape(left.shape + (1,) * len(site.fn.event_shape))
                log_joint = on_a_side(functools.partial(joint, torch.where(inside, at, site.value)))
                if (log_joint.isfinite() & (reading.per_datapoint(left.to(log_joint)) > 0)).any():
                    return True
    return False


def _holds(fn: Any, value: Tensor) -> Tensor:
    """Return whether values are in the support, by event or by its entries."""
    fn = innermost(fn)
    inside: Tensor = fn.support.check(value)
    if type(fn) not in COMPOSED or base_support(fn.base_dist) is constraints.real:
        return inside
    for transform in reversed(fn.transforms):  # of which the last one's codomain is all that the support says
        value = transform.inv(value)
    return inside.reshape(inside.shape + (1,) * (value.dim() - inside.dim())) & _holds(fn.base_dist, value)


def _of_batch(inside: Tensor, batch: int) -> Tensor:
    """Return whether all entries of an event are inside."""
    return inside.flatten(batch).all(-1) if inside.dim() > batch else inside
