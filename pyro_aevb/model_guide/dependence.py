"""Which latents a pair computes from which others, and which KLs can therefore be written down."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro import distributions as dist
from pyro import poutine
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from pyro.poutine.messenger import Messenger
from torch.distributions import kl_divergence

from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.supports import innermost
from pyro_aevb.model_guide.traces import (
    NO_KWARGS,
    Kwargs,
    PyroCallable,
    is_messenger,
    number_of_datapoints,
    on_a_side,
    trace_pair,
)

logger = logging.getLogger("pyro_aevb")


@dataclass(frozen=True)
class Structure:
    """What one run of a pair tells about it: how many dimensions its plates take up, which KLs can be written down."""

    depth: int
    closed_form: frozenset[str]


def structure(
    model: PyroCallable, guide: PyroCallable, args: tuple[Any, ...], kwargs: Kwargs = NO_KWARGS, *, analytic_kl: bool
) -> Structure:
    """Run the pair once, see what it is like, and say in a line what stands in the way of closed forms.

    A KL in closed form, KL(q(z_i|...) || p(z_i|...)), is right if everything that p(z_i|...) depends on was drawn
    without looking at z_i.  A guide that draws it from z_i, directly or on the way, gets a sampled KL for that site.
    """

    def read() -> tuple[Reading, dict[str, str]]:
        guide_trace, model_trace = trace_pair(model, guide, args, kwargs)
        reading = read_traces(model_trace, guide_trace, number_of_datapoints(args, kwargs))
        needed = analytic_kl and len(reading.latents) > 1 and not is_messenger(guide)
        return reading, _entangled(model, guide, args, kwargs) if needed else {}

    reading, entangled = on_a_side(read)
    closed_form = set()
    for name, site in reading.latents.items() if analytic_kl else ():
        q, p = reading.guide[name].fn, site.fn
        if isinstance(innermost(q), dist.Delta):
            continue  # nothing is random, and Pyro's closed form leaves the log_density of a Delta out
        try:
            kl_divergence(q, p)
        except NotImplementedError:
            logger.warning("KL of site %r is sampled: no closed form for %s and %s", name, kind(q), kind(p))
            continue
        if name in entangled:
            logger.warning(
                "KL of site %r is sampled: p(%s) depends on %r, which the guide draws from %s",
                name, name, entangled[name], name,
            )  # fmt: skip
            continue
        closed_form.add(name)
    return Structure(reading.depth, frozenset(closed_form))


def kind(fn: Any) -> str:
    """Return the name of a distribution's family."""
    while hasattr(fn, "base_dist"):
        if type(fn).__name__ == "TransformedDistribution":
            return f"{type(fn).__name__} of {kind(fn.base_dist)}"
        fn = fn.base_dist
    return type(fn).__name__


class _Tracked(Messenger):
    """Note in every latent's value which latent it is, so that what is computed from it tells."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["value"] = ProvenanceTensor(detach_provenance(msg["value"]), frozenset({msg["name"]}))


def parents(fn: PyroCallable, args: tuple[Any, ...], kwargs: Mapping[str, Any] = NO_KWARGS) -> dict[str, set[str]]:
    """Return for each latent the latents that its distribution was computed from."""
    with _Tracked():
        trace = poutine.trace(fn).get_trace(*args, **kwargs)
    nodes: dict[str, Any] = trace.nodes
    latents = {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not poutine.util.site_is_subsample(site)
    }
    return {
        name: set(get_provenance(site["fn"].log_prob(detach_provenance(site["value"]))))
        for name, site in latents.items()
    }


def _entangled(model: PyroCallable, guide: PyroCallable, args: tuple[Any, ...], kwargs: Kwargs) -> dict[str, str]:
    """Return {latent: another that the model computes it from, and the guide the other way round}."""
    prior, proposal = parents(model, args, kwargs), parents(guide, args, kwargs)
    ancestors: dict[str, set[str]] = {}
    for name, direct in proposal.items():  # in the order they are drawn
        ancestors[name] = direct.union(*(ancestors.get(parent, set()) for parent in direct))
    found = {}
    for name, direct in prior.items():
        if backwards := sorted(parent for parent in direct if name in ancestors.get(parent, set())):
            found[name] = backwards[0]
    return found
