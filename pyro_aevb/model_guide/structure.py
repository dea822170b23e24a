"""The structure of a pair, as an examination shows it: closed forms of its KL, what keeps apart, its plates' depth."""

from __future__ import annotations

import logging
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyro_aevb.arguments import signature_of
from pyro_aevb.capture.graph import is_tracing
from pyro_aevb.capture.python_state import PythonState
from pyro_aevb.capture.state_numbers import MOST_STATES, StateNumbers
from pyro_aevb.distributions.kl import kl_divergence
from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.model_guide.dependence import check_outside, entangled_latents, is_same, latents_of
from pyro_aevb.model_guide.guide_values import enumerated
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.moved_parameters import moved
from pyro_aevb.model_guide.parameters import ParameterRecorder
from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.sites import density
from pyro_aevb.model_guide.traces import (
    NO_KWARGS,
    Kwargs,
    Outside,
    PyroCallable,
    is_messenger,
    lines_in_one_state,
    number_of_datapoints,
    on_a_side,
    trace_model,
    trace_pair,
)

logger = logging.getLogger("pyro_aevb")


@dataclass(frozen=True)
class Structure:
    """A pair as one run shows it.

    ``depth``: how many dimensions its plates take up.  ``closed_form``: the latents whose KL can be written down.
    ``unchecked``: the observations whose distributions were made without validation.  ``mixed``: a site whose log
    probability is another if several particles are run at once; ``None`` if there is none.  ``global_names``: the
    latents, and the guide's auxiliary ones, outside of the data plate.  ``enumerated``: the number of values of each
    latent that the guide marks for enumeration.  ``apart``: the guide's sites in plates within a datapoint
    whose entries are in no other entry's terms.
    """

    depth: int
    closed_form: frozenset[str]
    unchecked: frozenset[str]
    mixed: str | None
    global_names: frozenset[str] = frozenset()
    enumerated: Mapping[str, int] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()

    def require_particles(self) -> None:
        """Refuse a pair that treats several particles at once differently than one by one.

        Raises:
            ValueError: if there is a site that shows it.
        """
        if self.mixed is not None:
            raise ValueError(
                "expected a pair that treats each particle by itself, got another log probability of site "
                f"{self.mixed!r} with two at once than one by one; something takes their dimension for another one, as "
                "z.mean() does, or BatchNorm1d, which takes (K, M, C) for (N, C, L): name the dimensions, z.mean(-1), "
                "flatten the leading ones around a module, or pass vectorize=False"
            )


def structure(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Any, ...],
    kwargs: Kwargs = NO_KWARGS,
    *,
    analytic_kl: bool,
    several: bool = False,
    one_global_draw: bool = False,
    by_entry: bool = False,
) -> Structure:
    """Return the structure of a pair, which is run for it the first time; a line says what prevents closed forms.

    It is remembered for as long as model and guide exist, for each signature of the arguments (with a label,
    and with ``None``) and each Python state of theirs, in this module: nothing is left on anybody's objects.

    A KL in closed form, KL(q(z_i|...) || p(z_i|...)), is right if everything that p(z_i|...) depends on was drawn
    without looking at z_i.  A guide that draws it from z_i, directly or on the way, gets a sampled KL for that site.

    Args:
        model: p(x, z).
        guide: q(z|x).
        args: a minibatch.
        kwargs: further arguments of both.
        analytic_kl: whether KLs in closed form are wanted.
        several: whether several particles will be run at once: raises then as :meth:`Structure.require_particles`.
        one_global_draw: whether these will have one draw of the global latents in common.
        by_entry: whether it is asked which sites' entries are apart.

    Raises:
        ValueError: for a pair that breaks the contract, or mixes particles.
    """
    known, lines = _remembered(model, guide), lines_in_one_state(model)
    number = 0 if known is None or lines is not None else known.states.of(PythonState([model, guide]))
    asked = analytic_kl, several, one_global_draw, by_entry
    signature = *asked, signature_of(args, kwargs), number
    found = None if known is None else known.structures.get(signature)
    if found is None:
        found, reasons = _examined(model, guide, args, kwargs, *asked)
        _tell(reasons, lines if known is None or lines is not None else known.lines)
        if known is not None and not is_tracing():
            known.add(signature, found)
    if several:
        found.require_particles()
    return found


@dataclass(frozen=True)
class _Known:
    """A pair as far as it is known: its structures, and the lines that were logged of it."""

    guide: Callable[[], Any]
    states: StateNumbers = field(default_factory=StateNumbers)
    structures: dict[tuple[Any, ...], Structure] = field(default_factory=dict)
    lines: set[str] = field(default_factory=set)

    def add(self, signature: tuple[Any, ...], structure: Structure) -> None:
        """Remember a structure; the first one is forgotten for it where there are many."""
        if len(self.structures) > MOST_STATES:
            self.structures.pop(next(iter(self.structures)))
        self.structures[signature] = structure


_KNOWN: weakref.WeakKeyDictionary[Any, dict[Any, list[_Known]]] = weakref.WeakKeyDictionary()


def _remembered(model: PyroCallable, guide: PyroCallable) -> _Known | None:
    """Return what is known of a pair; ``None`` for callables that can't be referred to weakly."""
    owner, function = getattr(model, "__self__", model), getattr(model, "__func__", None)
    reference = _reference(guide)
    try:
        pairs = _KNOWN.setdefault(owner, {}).setdefault(function, [])
    except TypeError:
        return None
    if reference is None:
        return None
    found = next((known for known in pairs if known.guide() == guide), None)
    if found is None:
        found = _Known(reference)
        pairs.append(found)
    return found


def _reference(fn: PyroCallable) -> Callable[[], Any] | None:
    try:
        return weakref.WeakMethod(fn) if isinstance(fn, types.MethodType) else weakref.ref(fn)
    except TypeError:
        return None


def _tell(reasons: Sequence[str], lines: set[str] | None) -> None:
    """Log what prevents closed forms, each line once."""
    for reason in reasons:
        if lines is None or reason not in lines:
            logger.warning("%s", reason)
    if lines is not None:
        lines.update(reasons)


def _examined(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Any, ...],
    kwargs: Kwargs,
    analytic_kl: bool,
    several: bool,
    one_global_draw: bool,
    by_entry: bool,
) -> tuple[Structure, list[str]]:
    """Return the structure of a pair, and what prevents closed forms."""
    parameters = ParameterRecorder()

    def read(model: PyroCallable, guide: PyroCallable) -> tuple[Reading, dict[str, str]]:
        guide_trace, model_trace = trace_pair(parameters(model), parameters(guide), args, kwargs)
        reading = read_traces(model_trace, guide_trace, number_of_datapoints(args, kwargs))
        reading.require_summed()
        check_outside(reading, model, args, kwargs)
        needed = analytic_kl and len(reading.latents | reading.global_latents) > 1 and not is_messenger(guide)
        return reading, entangled_latents(model, guide, args, kwargs) if needed else {}

    with evaluated(model, guide) as (its_model, its_guide, _):  # running averages are not for this
        reading, entangled = on_a_side(lambda: read(its_model, its_guide))
    modules = PythonState([model, guide]).modules  # those too that the first call made
    closed_form, reasons = _closed_forms(reading, entangled) if analytic_kl else (frozenset[str](), [])
    global_names = frozenset(reading.global_latents) | frozenset(reading.global_proposals)
    outside = global_names if one_global_draw else frozenset[str]()
    mixed = _mixed(model, guide, args, kwargs, reading.depth, outside, modules) if several else None
    values = enumerated(reading, guide)
    apart = _apart(model, guide, args, kwargs, reading, modules) if by_entry else frozenset[str]()
    if (several or apart) and not is_tracing():  # else a gate that begins at 0 would hide what is behind it
        with moved(parameter.unconstrained for parameter in parameters.parameters.values()):
            mixed = mixed or (_mixed(model, guide, args, kwargs, reading.depth, outside, modules) if several else None)
            apart &= _apart(model, guide, args, kwargs, reading, modules, apart)
    return Structure(reading.depth, closed_form, reading.unchecked, mixed, global_names, values, apart), reasons


def _closed_forms(reading: Reading, entangled: Mapping[str, str]) -> tuple[frozenset[str], list[str]]:
    """Return the latents whose KL can be written down, and what prevents it for the others."""
    closed_form: set[str] = set()
    reasons = []
    for name, site in (reading.latents | reading.global_latents).items():
        q, p = reading.guide[name].fn, site.fn
        if isinstance(innermost(q), dist.Delta):
            continue  # nothing is random, and Pyro's closed form leaves the log_density of a Delta out
        try:
            kl_divergence(q, p)
        except NotImplementedError:
            reasons.append(f"KL of site {name!r} is sampled: no closed form for {kind(q)} and {kind(p)}")
            continue
        if name in entangled:
            reasons.append(
                f"KL of site {name!r} is sampled: p({name}) depends on {entangled[name]!r}, which the guide draws from "
                f"{name}"
            )
            continue
        closed_form.add(name)
    return frozenset(closed_form), reasons


def _mixed(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Any, ...],
    kwargs: Kwargs,
    depth: int,
    outside: frozenset[str],
    modules: Sequence[nn.Module],
) -> str | None:
    """Return a site whose log probability depends on how many particles are run at once, in evaluation mode."""
    if is_messenger(guide) or is_tracing():
        return None
    particles, num_data = (-1 - depth, 2), number_of_datapoints(args, kwargs)

    def terms(reading: Reading) -> dict[str, Tensor]:
        sites = {f"{name} of the guide": site for name, site in reading.proposals.items()}
        sites |= reading.latents | reading.observations
        once = {f"{name} of the guide": site for name, site in reading.global_proposals.items()}
        once |= reading.global_latents
        number = 1 if reading.particles is None else reading.particles[1]
        found = {name: reading.global_log_prob(site).expand(number).unsqueeze(-1) for name, site in once.items()}
        return found | {name: reading.log_prob(site) for name, site in sites.items()}

    def row(drawn: Trace, k: int) -> dict[str, Tensor]:
        one = drawn.copy()
        for name, site in latents_of(drawn).items():
            dim = particles[0] - len(site["fn"].event_shape)
            if site["value"].dim() >= -dim:
                one.nodes[name] = {**site, "value": site["value"].select(dim, min(k, site["value"].shape[dim] - 1))}
        guide_trace = trace_model(guide, one, args, kwargs)
        return terms(read_traces(trace_model(model, one, args, kwargs), guide_trace, num_data))

    def found() -> str | None:
        with pyro.plate("particles", 2, dim=particles[0]), Outside(outside):
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            given = guide_trace.copy()  # values that no transform remembers the inverse of, which would be rounded less
            for name, site in latents_of(guide_trace).items():
                given.nodes[name] = {**site, "value": site["value"].clone()}
            again_trace = trace_model(guide, given, args, kwargs)
            model_trace = trace_model(model, given, args, kwargs)
        together = terms(read_traces(model_trace, again_trace, num_data, particles))
        for k in range(2):
            alone = row(guide_trace, k)
            for name, term in alone.items():
                numbers = ~(term[0].isnan() | together[name][k].isnan())
                if not torch.allclose(term[0][numbers], together[name][k][numbers], rtol=1e-3, atol=1e-3):
                    again = row(guide_trace, k)  # else something is random in it, so that no two runs can be compared
                    return name if all(is_same(alone[each], again[each]) for each in alone) else None
        return None

    try:
        with evaluated(model, guide, modules) as (model, guide, _), pyro.validation_enabled(False):
            return on_a_side(found)
    except Exception:  # what can't be run like that is told when it is run like that
        return None


SPLITS = 16  # of a plate's entries in two, at random: one of four parts an entry from another that depends on it


def _apart(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Any, ...],
    kwargs: Kwargs,
    reading: Reading,
    modules: Sequence[nn.Module],
    otherwise: frozenset[str] = frozenset(),
) -> frozenset[str]:
    """Return the guide's sites in plates within a datapoint whose entries change no other entry's log probabilities.

    That is what a plate says; a model that mixes entries nevertheless is noticed by giving some of them other values.
    ``otherwise`` is returned if the pair can't be run with them.
    """
    inside = {name: site.inner(reading.plate) for name, site in reading.proposals.items()}
    if is_messenger(guide) or is_tracing() or not any(inside.values()):
        return frozenset()
    num_data = number_of_datapoints(args, kwargs)

    def terms(drawn: Trace, frame: CondIndepStackFrame) -> dict[str, Tensor]:
        guide_trace = trace_model(guide, drawn, args, kwargs)
        found = read_traces(trace_model(model, drawn, args, kwargs), guide_trace, num_data)
        sites = {f"q {name}": site for name, site in found.proposals.items()} | found.latents | found.observations
        within = {n: s for n, s in sites.items() if (frame.name, frame.dim) in {(f.name, f.dim) for f in s.frames}}
        return {n: found.per_entry(density(s.name, s.fn, s.value), s, (frame,)) for n, s in within.items()}

    def mixes(name: str, frame: CondIndepStackFrame, drawn: Trace) -> bool:
        node: Any = drawn.nodes[name]
        assert frame.dim is not None
        dim = frame.dim - len(node["fn"].event_shape)
        if node["value"].dim() < -dim or node["value"].shape[dim] != frame.size:
            return True  # one value for all entries
        before, differs = terms(drawn, frame), False
        for _ in range(SPLITS):
            some = torch.rand(frame.size, device=node["value"].device) < 0.5
            others: Any = poutine.trace(guide).get_trace(*args, **kwargs).nodes[name]["value"]
            mixed = torch.where(some.reshape(-1, *(1,) * (-dim - 1)), others, node["value"])
            differs = differs or not torch.equal(mixed, node["value"])
            one: Any = drawn.copy()
            one.nodes[name] = {**node, "value": mixed}
            for key, term in terms(one, frame).items():
                kept = ~some.expand(term.shape)
                if not torch.allclose(term[kept], before[key][kept], rtol=1e-5, atol=1e-5, equal_nan=True):
                    return True
        return not differs

    def found() -> frozenset[str]:
        drawn = poutine.trace(guide).get_trace(*args, **kwargs)
        pairs = {name: [mixes(name, frame, drawn) for frame in frames] for name, frames in inside.items()}
        return frozenset(name for name, mixed in pairs.items() if mixed and not any(mixed))

    try:
        with torch.no_grad(), evaluated(model, guide, modules) as (model, guide, _), pyro.validation_enabled(False):
            return on_a_side(found)
    except Exception:  # the user's code, run with values that it may not know
        return otherwise


def kind(fn: Any) -> str:
    """Return the name of a distribution's family."""
    while hasattr(fn, "base_dist"):
        if type(fn).__name__ == "TransformedDistribution":
            return f"{type(fn).__name__} of {kind(fn.base_dist)}"
        fn = fn.base_dist
    return type(fn).__name__
