"""The draw of an objective's particles: the guide run K times, the model on its draws, gradients let through.

Shapes: K particles, M datapoints; V K rows instead of K where the guide enumerates.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_aevb.capture.graph import is_tracing
from pyro_aevb.distributions.kl import kl_divergence
from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.model_guide.dependence import ancestors, parents
from pyro_aevb.model_guide.guide_values import REMEDY, GuideValues, log_share
from pyro_aevb.model_guide.plates import frame_of
from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.sites import Scale, Site, density, replace_site
from pyro_aevb.model_guide.structure import kind
from pyro_aevb.model_guide.supports import Inside
from pyro_aevb.model_guide.traces import (
    Outside,
    PyroCallable,
    broadcasting,
    number_of_datapoints,
    on_a_side,
    require_own_run,
    trace_model,
    trace_pair,
)
from pyro_aevb.objectives.gradient_scale import GradientScale
from pyro_aevb.objectives.particles import Particles, sum_terms, times

Flow = Literal["total", "path", "doubly", "score", "wake"]
NOTHING: Mapping[str, int] = {}
WITH_OWN_DRAWS = "use an objective that follows its draws: SGVB(), IWAE(K), Renyi(alpha, K) or Pyro's own"


def draw(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    num_particles: int,
    depth: int | None,
    flow: Flow = "total",
    closed_form: frozenset[str] = frozenset(),
    unchecked: frozenset[str] = frozenset(),
    global_names: frozenset[str] = frozenset(),
    one_global_draw: bool = True,
    enumerated: Mapping[str, int] = NOTHING,
    apart: frozenset[str] = frozenset(),
) -> Particles:
    """Draw the particles and evaluate model and guide on them.

    Args:
        model: p(x, z).
        guide: q(z|x).
        args: what both are called with.
        kwargs: likewise.
        num_particles: K.
        depth: how many dimensions the plates of the pair take up, to draw all particles in one pass in a dimension left
            of them; ``None`` draws them one by one.
        flow: how gradients get to the guide's parameters.  ``"total"``: through the particles and through log q;
            ``"path"``: through the particles only; ``"doubly"``: likewise, and what comes from the model is multiplied
            by ``gradient_scale`` on its way; ``"score"``: through log q only; ``"wake"``: likewise, and a global latent
            is a parameter of the model's alone, to log q(z|x) a number.
        closed_form: the latents whose KL is to be written down rather than sampled.
        unchecked: the observed sites whose support isn't looked at.
        global_names: the latents, and the guide's auxiliary ones, outside of the data plate.
        one_global_draw: whether all particles have one draw of these in common; else each has its own.
        enumerated: the number of values of each latent that the guide enumerates; each value has K particles.
        apart: the guide's sites whose entries in plates within a datapoint get log weights of their own.

    Raises:
        ValueError: for a pair that breaks the contract, a guide that can't be reparameterised where ``flow`` needs it,
            and scales that say different things in model and guide.
    """
    if flow != "total":
        require_own_run(guide, WITH_OWN_DRAWS)
    how = _How(flow, closed_form, unchecked, global_names, GradientScale(), frozenset(enumerated), apart)
    one_global_draw = one_global_draw and bool(global_names)
    num_rows = num_particles * math.prod(enumerated.values())
    together = depth is not None and num_rows > 1
    dim = -1 - depth if depth is not None and together else None
    values = GuideValues(enumerated, num_particles, dim) if enumerated else nullcontext()
    if dim is not None:
        particles = (dim, num_rows)
        outside = global_names if one_global_draw else frozenset[str]()
        with values, broadcasting(particles), pyro.plate("particles", num_rows, dim=dim), Outside(outside):
            drawn = _one_pass(model, guide, args, kwargs, particles, how, 0)
    else:
        rows: list[Particles] = []
        with _Once(global_names) if one_global_draw else nullcontext():
            for row in range(num_rows):
                if isinstance(values, GuideValues):
                    values.row = row
                with values:
                    rows.append(_one_pass(model, guide, args, kwargs, None, how, row))
        drawn = rows[0] if len(rows) == 1 else _joined(rows, one_global_draw)
    if drawn.log_share is not None:
        drawn.log_share = drawn.log_share.reshape(-1, num_particles, drawn.log_share.shape[-1])
    return drawn


class _How(NamedTuple):
    """The options of :func:`draw`."""

    flow: Flow
    closed_form: frozenset[str]
    unchecked: frozenset[str]
    global_names: frozenset[str]
    gradient_scale: GradientScale
    enumerated: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()


class _Once(Messenger):
    """Give each site of these names the value that it was given the first time, in each half."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self._names = names
        self._values: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._values and msg["value"] is None:
            msg["value"], msg["done"] = self._values[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self._names:
            self._values.setdefault(msg["name"], msg["value"])


def _joined(rows: list[Particles], one_global_draw: bool) -> Particles:
    """Return particles that were drawn one by one as they would be if drawn together."""
    if any(set(row.log_q) != set(rows[0].log_q) for row in rows):
        raise ValueError(
            "expected the same sites for every particle, got others from run to run; draw a single particle, or write "
            "the model so that it always has the same sites"
        )

    def joined(field: str) -> dict[str, Tensor]:
        return {name: torch.cat([getattr(row, field)[name] for row in rows]) for name in getattr(rows[0], field)}

    first = rows[0]
    scores = [row.global_score for row in rows if row.global_score is not None]
    return Particles(
        log_likelihood=joined("log_likelihood"),
        log_prior=joined("log_prior"),
        log_q=joined("log_q"),
        kl=joined("kl"),
        score=joined("score"),
        entries={name: _cat([row.entries[name] for row in rows]) for name in first.entries},
        global_kl=first.global_kl if one_global_draw else joined("global_kl"),
        global_score=(scores[0] if one_global_draw else torch.cat(scores)) if scores else None,
        sampled_kl=first.sampled_kl,
        weight=first.weight,
        scale=first.scale,
        note=_cat_if_any([row.note for row in rows]),
        global_note=_cat_if_any([row.global_note for row in rows]),
        given=_cat_if_any([row.given for row in rows]),
        gradient_scale=first.gradient_scale,
        log_share=_cat_if_any([row.log_share for row in rows]),
        reparameterized=tuple(each for row in rows for each in row.reparameterized),
    )


def _cat_if_any(terms: Sequence[Tensor | None]) -> Tensor | None:
    there = [term for term in terms if term is not None]
    return torch.cat(there) if there else None


def _one_pass(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    particles: tuple[int, int] | None,
    how: _How,
    row: int,
) -> Particles:
    flow, closed_form, gradient_scale = how.flow, how.closed_form, how.gradient_scale
    with Inside(how.unchecked) as inside:
        guide_trace, model_trace = _traces(model, guide, args, kwargs, particles, how, row)
    reading = read_traces(model_trace, guide_trace, number_of_datapoints(args, kwargs), particles)
    reading.require_summed()
    latents, proposals, weights = reading.latents, reading.proposals, reading.weights()
    if flow not in ("score", "wake"):
        _check_reparameterized(reading, how.enumerated)
    if flow == "doubly":
        gradient_scale.note(reading, weights.by_site)
        gradient_scale.drawn_from = lambda: on_a_side(lambda: ancestors(guide, args, kwargs))
        _check_one_weight(weights.by_site, list(proposals), guide, args, kwargs)
    if flow == "wake" and reading.global_proposals:
        proposals = _apart_from_globals(reading, guide, guide_trace, args, kwargs)
    log_prior = {name: reading.log_prob(site) for name, site in latents.items()}
    log_q = {name: reading.log_prob(site) for name, site in proposals.items()}
    global_log_q = {name: reading.global_log_prob(site) for name, site in reading.global_proposals.items()}
    if flow in ("path", "doubly"):
        # DReG's bound is of the local latents: to it, a global one is a parameter of the guide, and stays attached.
        fixed = list(proposals) if flow == "doubly" else [*proposals, *global_log_q]
        for name, fn, value in _at_fixed_values(guide, guide_trace, fixed, args, kwargs):
            terms, log_prob = (log_q, reading.log_prob) if name in log_q else (global_log_q, reading.global_log_prob)
            score = log_prob(reading.guide[name], density(name, fn, value))
            terms[name] = terms[name] - (score - score.detach())
    kl = _kl(reading, proposals, log_q, log_prior, closed_form)
    global_kl = _global_kl(reading, global_log_q, weights.of_globals, closed_form)
    log_likelihood = {name: reading.log_prob(site) for name, site in reading.observations.items()}
    first = next(iter(log_likelihood))
    log_likelihood[first] = inside.or_nan(log_likelihood[first])
    note, global_note = _notes(reading)
    return Particles(
        log_likelihood=log_likelihood,
        log_prior=log_prior,
        log_q=log_q,
        kl=kl,
        score=_unmasked(reading, log_q, how.enumerated) if flow in ("score", "wake") else {},
        entries=_entries(reading, weights.by_site, how.apart),
        sampled_kl=frozenset(name for name in kl if name not in closed_form),
        weight=weights.by_site,
        scale=weights.scale,
        note=note,
        global_note=global_note,
        given=_given(reading),
        global_kl=global_kl,
        global_score=_global_score(reading, global_log_q, how) if flow in ("score", "wake") else None,
        gradient_scale=gradient_scale,
        log_share=log_share(reading, [name for name in reading.guide if name in how.enumerated]),
        reparameterized=_reparameterized(proposals) if flow == "total" else (),
    )


def _reparameterized(proposals: Mapping[str, Site]) -> tuple[tuple[Tensor, tuple[Tensor, ...]], ...]:
    """Return the draw of a guide's one local latent, and the tensors that its distribution was made from."""
    if len(proposals) != 1:
        return ()
    (site,) = proposals.values()
    fn = innermost(site.fn)
    found = (vars(fn).get(name) for name in fn.arg_constraints)
    return ((site.value, tuple(each for each in found if isinstance(each, Tensor))),)


def _apart_from_globals(
    reading: Reading, guide: PyroCallable, guide_trace: Trace, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Site]:
    """Return the proposals, the guide run once more with global latents that carry no gradient."""
    proposals = reading.proposals
    every = [*proposals, *reading.global_proposals]
    for name, fn, value in _at_fixed_values(guide, guide_trace, every, args, kwargs):
        if name in proposals:
            proposals[name] = replace_site(proposals[name], fn=fn, value=value)
    return proposals


def _kl(
    reading: Reading,
    proposals: Mapping[str, Site],
    log_q: Mapping[str, Tensor],
    log_prior: Mapping[str, Tensor],
    closed_form: frozenset[str],
) -> dict[str, Tensor]:
    """Return each local latent's KL, in closed form or log q - log p, (K, M)."""
    kl = {name: log_q[name] for name in proposals if name not in reading.latents}  # auxiliary: in the guide alone
    for name, site in reading.latents.items():
        if name in closed_form:
            kl[name] = reading.log_prob(site, kl_divergence(proposals[name].fn, site.fn))
        else:
            kl[name] = log_q[name] - log_prior[name]
    return kl


def _global_kl(
    reading: Reading, log_q: dict[str, Tensor], weight: Mapping[str, Scale], closed_form: frozenset[str]
) -> dict[str, Tensor]:
    """Return each global latent's KL, in closed form or log q - log p, times its weight, (K,) or (1,)."""
    kl = {name: log_q[name] for name in log_q if name not in reading.global_latents}  # auxiliary: in the guide alone
    for name, site in reading.global_latents.items():
        if name in closed_form:
            kl[name] = reading.global_log_prob(site, kl_divergence(reading.guide[name].fn, site.fn))
        else:
            kl[name] = log_q[name] - reading.global_log_prob(site)
    return {name: times(weight[name], term) for name, term in kl.items()}


def _global_score(reading: Reading, log_q: Mapping[str, Tensor], how: _How) -> Tensor | None:
    """Return log q(w) of the global latents that can't be reparameterised, summed; ``None`` if there are none."""
    detached = {name: term for name, term in log_q.items() if not is_reparameterized(reading.guide[name].fn)}
    if detached and how.enumerated:
        raise ValueError(
            f"expected global latents that can be reparameterised beside {sorted(how.enumerated)}, which the guide "
            f"enumerates, got {sorted(detached)}; {REMEDY}"
        )
    return sum_terms(detached) if detached else None


def not_reparameterized(reading: Reading, enumerated: Collection[str]) -> list[Site]:
    """Return the guide's latents, local and global, that can't be reparameterised, but for those it enumerates."""
    sites = (reading.proposals | reading.global_proposals).items()
    return [site for name, site in sites if name not in enumerated and not is_reparameterized(site.fn)]


def is_reparameterized(fn: Any) -> bool:
    """Return whether draws from a distribution carry the whole gradient of its parameters."""
    return bool(fn.has_rsample) and not isinstance(innermost(fn), dist.Rejector)


def _traces(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    particles: tuple[int, int] | None,
    how: _How,
    row: int,
) -> tuple[Trace, Trace]:
    """Run the pair, with the gradients' way through the particles that the flow asks for."""
    if how.flow == "total":
        return trace_pair(model, guide, args, kwargs)
    if how.flow in ("score", "wake"):
        with _Detached(how.global_names):
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    else:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    seen = guide_trace
    if how.flow == "doubly":
        seen = how.gradient_scale.apply(guide_trace, row, particles, how.global_names)
    return guide_trace, trace_model(model, seen, args, kwargs)


def _unmasked(reading: Reading, log_q: dict[str, Tensor], enumerated: frozenset[str]) -> dict[str, Tensor]:
    """Return each drawn latent's log q without its mask; with it where Pyro's ScoreParts leave no score either."""
    return {
        name: log_q[name]
        if site.mask is None or site.mask is True
        else reading.per_datapoint(density(name, site.fn, site.value))
        for name, site in reading.proposals.items()
        if name not in enumerated
    }


def _entries(reading: Reading, weights: Mapping[str, Scale], apart: frozenset[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the log weight around each entry of a proposal in plates within a datapoint, and its log q.

    Entries of a plate are independent given what is outside of it: a term in the plate belongs to its own entry alone.
    """
    found = {}
    for name in apart:
        inner = reading.proposals[name].inner(reading.plate)
        log_weight: Tensor | float = 0.0
        halves = [(1, s) for s in (*reading.observations.values(), *reading.latents.values())]
        for sign, site in [*halves, *((-1, s) for s in reading.proposals.values())]:
            term = scale_and_mask(density(site.name, site.fn, site.value).detach(), mask=site.mask)
            weight = weights[site.name]
            weight = weight[:, None] if isinstance(weight, Tensor) and weight.dim() else weight
            log_weight = log_weight + sign * times(weight, reading.per_entry(term, site, inner))
        assert isinstance(log_weight, Tensor)
        own = reading.proposals[name]
        found[name] = log_weight, reading.per_entry(density(name, own.fn, own.value), own, inner)
    return found


def _cat(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])


def _given(reading: Reading) -> Tensor | None:
    """Return the log density of the sites that the model observes outside of the data plate, (K,) or (1,)."""
    terms = {n: times(s.weight, reading.global_log_prob(s)) for n, s in reading.sites("model", "given").items()}
    return sum_terms(terms) if terms else None


def _notes(reading: Reading) -> tuple[Tensor | None, Tensor | None]:
    """Return the log densities of what the guide observes, times their scales and N/M in the data plate.

    Returns:
        those in the data plate, (K, M), and outside of it, (K,) or (1,); ``None`` for none.
    """
    local, outside = {}, {}
    for name, site in reading.sites("guide", "note").items():
        if frame_of(site.frames, reading.plate) is None:
            outside[name] = times(site.weight, reading.global_log_prob(site))
        else:
            local[name] = reading.plate.scale * times(site.weight, reading.log_prob(site))
    return sum_terms(local) if local else None, sum_terms(outside) if outside else None


class _Detached(Messenger):
    """Cut what is drawn off from the parameters it was drawn with, but for global latents that keep their gradient."""

    def __init__(self, global_names: frozenset[str]) -> None:
        super().__init__()
        self._global_names = global_names

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not (msg["name"] in self._global_names and is_reparameterized(msg["fn"])):
            msg["value"] = msg["value"].detach()


def _at_fixed_values(
    guide: PyroCallable, trace: Trace, names: list[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[str, Any, Tensor]]:
    """Return name, distribution and value of the guide's sites, each given the values that the others have."""
    fixed = trace.copy()
    nodes: dict[str, Any] = fixed.nodes
    for name in names:
        nodes[name] = {**nodes[name], "value": nodes[name]["value"].detach()}
    if len(names) > 1:
        nodes = poutine.trace(poutine.replay(guide, trace=fixed)).get_trace(*args, **kwargs).nodes
    return [(name, nodes[name]["fn"], nodes[name]["value"]) for name in names]


def _check_reparameterized(reading: Reading, enumerated: frozenset[str]) -> None:
    for site in not_reparameterized(reading, enumerated):
        how = "drawn by rejection, in part" if site.fn.has_rsample else kind(site.fn)
        raise ValueError(
            f"expected a guide that can be reparameterised, got site {site.name!r} ~ {how}; "
            "use the objective ScoreFunction() or VIMCO(), or the learner ReweightedWakeSleep or WakeSleep"
        )


def _check_one_weight(
    by_site: Mapping[str, Scale],
    names: list[str],
    guide: PyroCallable,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Raise ``ValueError`` if latents that the guide draws from each other have different weights."""
    weights = [by_site[name] for name in names]
    if is_tracing() or all(w is weights[0] or (isinstance(w, float) and w == weights[0]) for w in weights):
        return
    dependent = [name for name, others in on_a_side(lambda: parents(guide, args, kwargs)).items() if others]
    if dependent:
        raise ValueError(
            f"expected one scale for latents that the guide draws from each other, got several, {dependent[0]!r} among "
            "them; use IWAE(K), which takes any"
        )
