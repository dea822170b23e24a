"""K draws from the guide for each datapoint, with their densities site by site: what objectives are made of.

What Pyro's objectives sum up, over datapoints, sites and scales, stays apart here, so that a bound can weigh particles
within a datapoint, and datapoints against each other afterwards.  A scale splits in two: the plate's N/M, which stands
outside of every bound, and what else a model writes with ``poutine.scale``, which weighs a site's log likelihood, or
both sides of a latent's log p(z) - log q(z|x).

Shapes: K particles, M datapoints.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_aevb.model_guide.sites import (
    PyroCallable,
    broadcasting,
    check_plate,
    check_sites,
    data_frame,
    latent_sites,
    masked_term,
    observed_sites,
    per_particle,
    plate_depth,
    trace_pair,
)

logger = logging.getLogger("pyro_aevb")

Flow = Literal["total", "path", "doubly", "score"]
Scale = float | Tensor


@dataclass
class Particles:
    """Draws z_k ~ q(z|x_m) and their log densities in nats, by site, each of shape (K, M); masks are applied.

    Attributes:
        log_likelihood: log p(x|z) of each observed site.
        log_prior: log p(z) of each latent.
        log_q: log q(z|x) of each site of the guide.
        kl: of each latent: KL(q(z|x) || p(z)) in closed form where it was asked for, log q - log p elsewhere.
        weight: what scales there are besides N/M, by site: numbers, or tensors of shape () or (M,).
        scale: N/M.
        gradient_scale: what the gradient from the model into the particles is multiplied by, to be set.
    """

    log_likelihood: dict[str, Tensor]
    log_prior: dict[str, Tensor]
    log_q: dict[str, Tensor]
    kl: dict[str, Tensor]
    weight: dict[str, Scale]
    scale: float
    gradient_scale: GradientScale

    @property
    def weighted_log_p(self) -> Tensor:
        """log p(x, z), each site times its weight, (K, M)."""
        return self._sum(self.log_likelihood | self.log_prior)

    @property
    def weighted_log_q(self) -> Tensor:
        """log q(z|x), each site times its weight, (K, M)."""
        return self._sum(self.log_q)

    @property
    def log_weight(self) -> Tensor:
        """log w = log p(x, z) - log q(z|x), each site times its weight, (K, M)."""
        return self.weighted_log_p - self.weighted_log_q

    def _sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        return sum_terms({name: times(self.weight[name], term) for name, term in terms.items()})


def sum_terms(terms: Mapping[str, Tensor]) -> Tensor:
    """Add up the terms of the sites."""
    first, *rest = terms.values()
    for term in rest:
        first = first + term
    return first


def times(weight: Scale, term: Tensor) -> Tensor:
    """Return weight * term, and the term itself for a weight of 1."""
    return term if isinstance(weight, float) and weight == 1.0 else weight * term


class GradientScale:
    """Multiplies the gradient that flows from the model into the particles by weights (K, M) which are known later."""

    def __init__(self) -> None:
        self.weight: Tensor | None = None

    def apply(self, trace: Trace, row: int, particles: tuple[int, int] | None) -> Trace:
        """Return the guide's trace as the model is to see it."""
        trace = trace.copy()
        for name, site in latent_sites(trace).items():
            if site["value"].requires_grad:
                value = site["value"].view_as(site["value"])
                value.register_hook(self._hook(value.shape, len(site["fn"].event_shape), row, particles))
                trace.nodes[name] = {**site, "value": value}  # type: ignore[assignment]
        return trace

    def _hook(self, shape: torch.Size, event_dim: int, row: int, particles: tuple[int, int] | None) -> Any:
        def scaled(gradient: Tensor) -> Tensor:
            assert self.weight is not None
            if particles is None:
                return gradient * self.weight[row].reshape(-1, *[1] * event_dim)
            dim, num_particles = particles
            between = [1] * (-dim - 2)
            return gradient * self.weight.reshape(num_particles, *between, -1, *[1] * event_dim)

        return scaled


@dataclass(frozen=True, slots=True)
class Structure:
    """What one run of a pair tells about it: how deep its plates are, which KLs can be written down."""

    depth: int
    closed_form: frozenset[str]


def structure(
    model: PyroCallable, guide: PyroCallable, args: tuple[Any, ...], kwargs: Mapping[str, Any], analytic_kl: bool
) -> Structure:
    """Run the pair once, see what it is like, and say in a line what stands in the way of closed forms.

    A KL in closed form, KL(q(z_i|...) || p(z_i|...)), is right where everything that p(z_i|...) depends on was drawn
    without looking at z_i.  A guide that draws it from z_i, directly or on the way, gets a sampled KL for that site.
    """
    with torch.no_grad(), torch.random.fork_rng(), poutine.block():
        guide_trace, model_trace = trace_pair(model, guide, args, kwargs)
        latents = latent_sites(model_trace) if analytic_kl else {}
        entangled = _entangled(model, guide, args, kwargs) if len(latents) > 1 else {}
        closed_form = set()
        for name, site in latents.items():
            q: Any = guide_trace.nodes[name]["fn"]
            p = site["fn"]
            if _kind(q) == "Delta":  # nothing is random, and Pyro's closed form leaves the log_density of a Delta out
                continue
            try:
                kl_divergence(q, p)
            except NotImplementedError:
                logger.warning("KL of site %r is sampled: no closed form for %s and %s", name, _kind(q), _kind(p))
                continue
            if name in entangled:
                logger.warning(
                    "KL of site %r is sampled: p(%s) depends on %r, which the guide draws from %s",
                    name, name, entangled[name], name,
                )  # fmt: skip
                continue
            closed_form.add(name)
    return Structure(plate_depth(guide_trace, model_trace), frozenset(closed_form))


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
            by ``gradient_scale`` on its way; ``"score"``: through log q only.
        closed_form: the latents whose KL is to be written down rather than sampled.

    Raises:
        ValueError: for a pair that breaks the contract, a guide that can't be reparameterised where ``flow`` needs it,
            and scales that say different things in model and guide.
    """
    scale = GradientScale()
    if depth is not None and num_particles > 1:
        particles = (-1 - depth, num_particles)
        with broadcasting(particles, "vectorize"), pyro.plate("particles", num_particles, dim=particles[0]):
            return _one_pass(model, guide, args, kwargs, particles, flow, closed_form, 0, scale)
    rows = [_one_pass(model, guide, args, kwargs, None, flow, closed_form, i, scale) for i in range(num_particles)]
    if len(rows) == 1:
        return rows[0]

    def joined(field: str) -> dict[str, Tensor]:
        return {name: torch.cat([getattr(row, field)[name] for row in rows]) for name in getattr(rows[0], field)}

    return Particles(
        log_likelihood=joined("log_likelihood"),
        log_prior=joined("log_prior"),
        log_q=joined("log_q"),
        kl=joined("kl"),
        weight=rows[0].weight,
        scale=rows[0].scale,
        gradient_scale=scale,
    )


def _one_pass(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    particles: tuple[int, int] | None,
    flow: Flow,
    closed_form: frozenset[str],
    row: int,
    gradient_scale: GradientScale,
) -> Particles:
    if flow == "score":
        with _Detached():
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    else:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        _check_reparameterized(guide_trace)
    seen = gradient_scale.apply(guide_trace, row, particles) if flow == "doubly" else guide_trace
    model_trace = poutine.trace(poutine.replay(model, trace=seen)).get_trace(*args, **kwargs)
    check_sites(model_trace, guide_trace)
    observed, latents = observed_sites(model_trace), latent_sites(model_trace)
    if not observed | latents:
        raise ValueError("expected a model with pyro.sample statements, got none")
    frames = {name: data_frame(name, site) for name, site in (observed | latents).items()}
    sizes = {(frame.full_size or frame.size) / frame.size for frame in frames.values()}
    if len(sizes) > 1:
        raise ValueError(f"expected one N/M for all sites of the model, got {sorted(sizes)}; use one data plate")
    num_data = next(iter(frames.values())).size

    proposed = latent_sites(guide_trace) | observed_sites(guide_trace)
    weight = {name: _weight(name, site) for name, site in (observed | proposed).items()}
    for name, site in latents.items():
        weight[name] = _one_weight(name, _weight(name, site), weight[name])

    def term(name: str, site: Any, value: Tensor, mask: Any) -> Tensor:
        check_plate(name, site, num_data)
        return per_particle(masked_term(name, value, num_data, mask), num_data, particles)

    def log_prob(name: str, site: Any) -> Tensor:
        mask = _both(latents[name]["mask"], proposed[name]["mask"]) if name in latents else site["mask"]
        return term(name, site, site["fn"].log_prob(site["value"]), mask)

    log_prior = {name: log_prob(name, site) for name, site in latents.items()}
    log_q = {name: log_prob(name, site) for name, site in proposed.items()}
    if flow in ("path", "doubly"):
        for name, site in _at_fixed_values(guide, guide_trace, args, kwargs).items():
            score = log_prob(name, site)
            log_q[name] = log_q[name] - (score - score.detach())
    kl = {name: log_q[name] for name in proposed if name not in latents}  # auxiliary: in the guide alone
    for name, site in latents.items():
        if name in closed_form:
            mask = _both(site["mask"], proposed[name]["mask"])
            kl[name] = term(name, site, kl_divergence(proposed[name]["fn"], site["fn"]), mask)
        else:
            kl[name] = log_q[name] - log_prior[name]
    log_likelihood = {name: log_prob(name, site) for name, site in observed.items()}
    return Particles(log_likelihood, log_prior, log_q, kl, weight, sizes.pop(), gradient_scale)


class _Detached(Messenger):
    """Cut what is drawn off from the parameters it was drawn with."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["value"] = msg["value"].detach()


class _Tracked(Messenger):
    """Note in every latent's value which latent it is, so that what is computed from it tells."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["value"] = ProvenanceTensor(detach_provenance(msg["value"]), frozenset({msg["name"]}))


def _parents(fn: PyroCallable, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return for each latent the latents that its distribution was computed from."""
    with _Tracked():
        trace = poutine.trace(fn).get_trace(*args, **kwargs)
    return {
        name: set(get_provenance(site["fn"].log_prob(detach_provenance(site["value"]))))
        for name, site in latent_sites(trace).items()
    }


def _entangled(
    model: PyroCallable, guide: PyroCallable, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, str]:
    """Return {latent: another that the model computes it from, and the guide the other way round}."""
    prior, proposal = _parents(model, args, kwargs), _parents(guide, args, kwargs)
    ancestors: dict[str, set[str]] = {}
    for name, parents in proposal.items():  # in the order they are drawn
        ancestors[name] = parents.union(*(ancestors.get(parent, set()) for parent in parents))
    found = {}
    for name, parents in prior.items():
        if backwards := sorted(parent for parent in parents if name in ancestors.get(parent, set())):
            found[name] = backwards[0]
    return found


def _at_fixed_values(
    guide: PyroCallable, trace: Trace, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the guide's sites with their values held fixed; of more than one, later ones depend on earlier ones."""
    fixed = trace.copy()
    for name, site in latent_sites(trace).items():
        fixed.nodes[name] = {**site, "value": site["value"].detach()}  # type: ignore[assignment]
    if len(latent_sites(trace)) > 1:
        fixed = poutine.trace(poutine.replay(guide, trace=fixed)).get_trace(*args, **kwargs)
    return latent_sites(fixed)


def _check_reparameterized(trace: Trace) -> None:
    for name, site in latent_sites(trace).items():
        if not site["fn"].has_rsample:
            raise ValueError(
                f"expected a guide that can be reparameterised, got site {name!r} ~ {_kind(site['fn'])}; "
                "use the objective ScoreFunction() or VIMCO(), or the learner ReweightedWakeSleep or WakeSleep"
            )


def _kind(fn: Any) -> str:
    while hasattr(fn, "base_dist"):
        if type(fn).__name__ == "TransformedDistribution":
            return f"{type(fn).__name__} of {_kind(fn.base_dist)}"
        fn = fn.base_dist
    return type(fn).__name__


def _weight(name: str, site: Any) -> Scale:
    """Return the site's scale without the plate's N/M."""
    frame = data_frame(name, site)
    weight: Scale = site["scale"] / ((frame.full_size or frame.size) / frame.size)
    if isinstance(weight, Tensor):
        if weight.dim() > 1:
            raise ValueError(
                f"expected a scale of one number, or one a datapoint, for site {name!r}, got {tuple(weight.shape)}"
            )
        return weight
    return 1.0 if math.isclose(weight, 1.0, rel_tol=1e-12) else float(weight)


def _one_weight(name: str, model: Scale, guide: Scale) -> Scale:
    """Return the one weight of a latent's log p and log q, from whichever side has it."""
    for given, other in ((model, guide), (guide, model)):
        if isinstance(other, float) and other == 1.0:
            return given
    if isinstance(model, float) and isinstance(guide, float) and math.isclose(model, guide, rel_tol=1e-6):
        return model
    raise ValueError(
        f"expected one scale for both sides of the KL of site {name!r}, got {model} in the model and {guide} in the "
        "guide; write poutine.scale around the site in one of them, it counts for both"
    )


def _both(model: Any, guide: Any) -> Any:
    """Return the mask that holds where both do."""
    if model is None or model is True:
        return guide
    if guide is None or guide is True or guide is model:
        return model
    return model & guide if isinstance(model, Tensor) or isinstance(guide, Tensor) else bool(model and guide)


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """Return log 1/K sum_k exp(log_weight_k), (M,) of (K, M)."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))
