"""Dreams: (z, x) ~ p(z) p(x|z), and the arguments of model and guide with the dream in x's place.

The sleep phase follows the gradient of log q(z|x) on dreams, so everything that depends on x has to follow the dream.
An argument, or a view of one, that a site observes is replaced by what was dreamed.  What else model and guide read is
either a condition (labels, masks, lengths) or made from x, and that only its owner knows: ``dream_arguments`` says it.

Shapes: M datapoints.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.arguments import Arguments, inside_of
from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.model_guide.dreaming import Dreaming
from pyro_aevb.model_guide.reading import NO_LATENTS, read_traces
from pyro_aevb.model_guide.sites import holds, masked_log_prob
from pyro_aevb.model_guide.traces import PyroCallable, number_of_datapoints, on_a_side, trace_model, trace_pair

DreamArguments = Callable[..., Any]
"""``dream_arguments(sites, *args)``: from {observed site: dreamed value} and a minibatch's arguments to a dream's."""

REMEDY = (
    "pass dream_arguments=lambda sites, *args: (...), which makes the arguments of model and guide from {site: dreamed "
    "value} and those of the minibatch"
)


class Dreams:
    """Draws from a model, and what a pair makes of them.

    The model is run once to see what there is to dream; a latent that is summed out awake is drawn in a dream.  A model
    that reads x to make x (teacher forcing) dreams site by site, each given the sites before it.

    Args:
        model: p(x, z).
        guide: q(z|x).
        args: a minibatch.
        dream_arguments: makes the arguments of a dream; without it, what a site observes is replaced in them.

    Raises:
        ValueError: if a dream wouldn't be a draw from the model, or the guide would see something else than the dream.
    """

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable,
        args: tuple[Any, ...],
        dream_arguments: DreamArguments | None = None,
    ) -> None:
        self._model, self._guide, self._dream_arguments = model, guide, dream_arguments
        self._sites: list[str] = []
        self._passes = 1
        on_a_side(lambda: self._prepare(args))

    def loss(self, *args: Any) -> Tensor:
        """Dream, and return -N/M sum log q(z|x), in nats for the whole data set."""
        with torch.no_grad():
            dream, imagined = self.draw(args)
        guide_trace = poutine.trace(poutine.replay(self._guide, trace=dream)).get_trace(*imagined)
        return -read_traces(dream, guide_trace, number_of_datapoints(args)).total("guide", "local", "auxiliary")

    def draw(self, args: tuple[Any, ...]) -> tuple[Trace, tuple[Any, ...]]:
        """Return a trace of the model with its observations dreamed, and the arguments of the dream."""
        trace = self._run(args, None, ())
        views = {} if self._dream_arguments is not None else self._views(trace, args)
        for number in range(1, self._passes):
            trace = self._run(self._imagine(trace, views, args), trace, set(self._sites[:number]))
        return trace, self._imagine(trace, views, args)

    def _run(self, args: tuple[Any, ...], earlier: Trace | None, known: Collection[str]) -> Trace:
        """Run the model with the sites dreamed, its latents and the ``known`` sites as they were in the earlier run."""
        dreaming: PyroCallable = Dreaming(self._sites)(self._model)
        if earlier is not None:
            kept = earlier.copy()
            for name in self._sites:
                if name not in known:
                    kept.remove_node(name)
            dreaming = poutine.replay(dreaming, trace=kept)
        return poutine.trace(dreaming).get_trace(*args)

    def _views(self, dream: Trace, args: tuple[Any, ...]) -> dict[str, _View]:
        """Return which argument each site observes a view of; raise ``ValueError`` if there is none."""
        views, nodes = {}, _nodes(dream)
        for name in self._sites:
            view = _view(nodes[name]["infer"]["obs"], args)
            if view is None:
                raise ValueError(
                    f"expected each observed site to observe one of the arguments or a view of one, got {name!r}, "
                    f"which observes something made from them; {REMEDY}"
                )
            views[name] = view
        return views

    def _imagine(self, dream: Trace, views: Mapping[str, _View], args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments of a dream."""
        dreamed = {name: _nodes(dream)[name]["value"] for name in self._sites}
        if self._dream_arguments is not None:
            return self._made(dreamed, args)
        result = list(args)
        for name, view in views.items():
            result[view.argument] = view.put(result[view.argument], dreamed[name])
        return tuple(result)

    def _made(self, dreamed: Mapping[str, Tensor], args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the tensors of the arguments that ``dream_arguments`` makes from those of the minibatch."""
        assert self._dream_arguments is not None
        form = inside_of(self._model)[1]
        if form is None:
            return self._dream_arguments(dreamed, *args)
        call = form.call(args)
        made: Any = self._dream_arguments(dreamed, *call.args, **call.kwargs)
        if isinstance(made, Mapping):
            made = Arguments(*call.args, **(call.kwargs | dict(made)))
        found = form.tensors_of(made if isinstance(made, Arguments) else Arguments(*made, **call.kwargs))
        if found is None:
            raise ValueError(
                "expected dream_arguments to return arguments of the kinds of the minibatch's, got others; return "
                "Arguments(*args, **kwargs) with the same names, flags and lengths, a tuple of those by position, or a "
                "dict of those by name that the dream changes"
            )
        return found

    def _prepare(self, args: tuple[Any, ...]) -> None:
        guide_trace, model_trace = trace_pair(self._model, self._guide, args)
        reading = read_traces(model_trace, guide_trace, number_of_datapoints(args))
        reading.require_local(
            "and there are no dreams of data sets with a global one: train with AEVB(model, guide, optim, SGVB()) or "
            "ReweightedWakeSleep(..., insomnia=1), or give {name!r} a value: pyro.condition(model, {{{name!r}: value}})"
        )
        if not reading.proposals:
            raise ValueError(NO_LATENTS)
        nodes, observed = _nodes(model_trace), dict[str, Any]()
        for name, site in reading.observations.items():  # as the model wrote them, whatever was summed out around them
            observed |= site.infer.get("parts", {name: nodes[name]})
        self._sites = list(observed)
        for name, node in observed.items():
            if reason := (node["infer"] or {}).get("no_dream"):  # which the model's author gives
                raise ValueError(f"expected observations that can be dreamed, got {name!r}: {reason}")
            if isinstance(innermost(node["fn"]), dist.Unit):
                raise ValueError(
                    f"expected observations that can be dreamed, got pyro.factor({name!r}, ...); write "
                    "pyro.sample(..., obs=x), or train with AEVB or ReweightedWakeSleep(insomnia=1)"
                )
        if self._dream_arguments is None:
            self._check_other_arguments(args, [node["value"] for node in observed.values()], guide_trace)
        if not self._is_drawn_from_the_model(args):
            self._passes = len(self._sites)
            if self._passes == 1 or not self._is_drawn_from_the_model(args):
                raise ValueError(
                    f"expected a model whose draws can be dreamed, got one that reads x within site {self._sites[0]!r} "
                    "to make it (teacher forcing); write a site for each step, or train with AEVB or "
                    "ReweightedWakeSleep(insomnia=1)"
                )

    def _is_drawn_from_the_model(self, args: tuple[Any, ...]) -> bool:
        """Return whether the model, run on the arguments of a dream, gives it the density that it was drawn with."""
        dream, imagined = self.draw(args)
        nodes: Mapping[str, Any] = dream.nodes
        again: Mapping[str, Any] = trace_model(self._model, dream, imagined).nodes
        for name in self._sites:
            drawn, seen = nodes[name], again[name]
            if not holds(seen, drawn["value"]):
                raise ValueError(
                    f"expected the arguments of a dream to hold what was dreamed, got other values at site {name!r}; "
                    "dream_arguments has to put each dreamed value where its site observes it"
                )
            if not _close({**drawn, "mask": None}, {**seen, "mask": None}):  # whatever counts in the end
                return False
        return True

    def _check_other_arguments(self, args: tuple[Any, ...], seen: Sequence[Any], guide_trace: Trace) -> None:
        """Raise ``ValueError`` if the pair reads an argument that may be made from x, which a dream would leave."""
        views = [_view(value, args) for value in seen]
        observed = {view.argument for view in views if view is not None}
        form = inside_of(self._model)[1]
        number = len(args) if form is None else form.num_rows  # what all datapoints have in common stays as it is
        for index, arg in enumerate(args[:number]):
            if index in observed or not isinstance(arg, Tensor):
                continue
            changed = (*args[:index], _changed(arg), *args[index + 1 :])
            in_model, in_guide = (
                _reads(fn, guide_trace, args, index) or _depends(fn, guide_trace, args, changed)
                for fn in (self._model, self._guide)
            )
            whole = not arg.dtype.is_floating_point
            like_x = any(args[i].shape == arg.shape and args[i].dtype == arg.dtype for i in observed)
            if (in_model and not (whole and not like_x)) or (in_guide and not in_model):
                raise ValueError(
                    f"expected arguments that stay as they are in a dream, got argument {index} ({arg.dtype}, shape "
                    f"{tuple(arg.shape)}), which the {'model' if in_model else 'guide'} reads and which may be made "
                    f"from x; {REMEDY} (return it unchanged if it doesn't depend on x)"
                )


def _nodes(trace: Trace) -> Mapping[str, Any]:
    return trace.nodes


class _View(NamedTuple):
    """The place of an observation in one of the arguments: the whole of it, or a view with strides and an offset."""

    argument: int
    whole: bool
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int

    def put(self, arg: Tensor, value: Tensor) -> Tensor:
        """Return the argument with ``value`` in this place."""
        value = value.to(arg.dtype)
        if self.whole:
            return value
        return torch.as_strided_scatter(
            arg.contiguous().clone(), value.expand(self.shape), self.shape, self.stride, self.offset
        )


def _region(x: Tensor) -> tuple[int, int, int]:
    """Return where a tensor's numbers are: its storage, and the first and last place in it."""
    span = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True) if size)
    first = int(x.storage_offset())
    return x.untyped_storage().data_ptr(), first, first + int(span)


def _view(observed: Any, args: tuple[Any, ...]) -> _View | None:
    """Return the place of ``observed`` in the argument that it is, or is a view of; ``None`` if there is none."""
    if not isinstance(observed, Tensor):
        return None
    storage, first, last = _region(observed)
    for index, arg in enumerate(args):
        if not isinstance(arg, Tensor) or arg.dtype != observed.dtype or not arg.numel():
            continue
        its_storage, its_first, its_last = _region(arg)
        if storage == its_storage and its_first <= first and last <= its_last:
            whole = arg.shape == observed.shape and arg.stride() == observed.stride()
            if whole or arg.is_contiguous():
                return _View(index, whole, observed.shape, observed.stride(), first - its_first)
    return None


def _changed(arg: Tensor) -> Tensor:
    if arg.dtype == torch.bool:
        return ~arg
    return arg + 1 if arg.dtype.is_floating_point or len(arg.unique()) < 2 else arg.roll(1, 0)


def _reads(fn: PyroCallable, latents: Trace, args: tuple[Any, ...], index: int) -> bool:
    """Return whether densities or masks of ``fn`` are computed from an argument, whatever its weight is now."""
    noted = ProvenanceTensor(args[index], frozenset({"argument"}))
    try:
        nodes: dict[str, Any] = trace_model(fn, latents, (*args[:index], noted, *args[index + 1 :])).nodes
        terms = [
            masked_log_prob(site, detach_provenance(site["value"]))
            for site in nodes.values()
            if site["type"] == "sample" and not site_is_subsample(site)
        ]
    except (TypeError, NotImplementedError, RuntimeError):  # what can't be followed is tried with other values
        return False
    return any("argument" in get_provenance(term) for term in terms)


def _depends(fn: PyroCallable, latents: Trace, args: tuple[Any, ...], changed: tuple[Any, ...]) -> bool:
    """Return whether the densities of ``fn``, at the same latents, change with its arguments."""
    before = trace_model(fn, latents, args).nodes
    try:
        after = trace_model(fn, latents, changed).nodes
    except (ValueError, IndexError, RuntimeError):  # an argument that can't have any other value is read
        return True
    sites = [name for name, site in before.items() if site["type"] == "sample"]
    return set(sites) != {n for n, s in after.items() if s["type"] == "sample"} or not all(
        _close(before[name], after[name]) for name in sites
    )


def _close(a: Any, b: Any) -> bool:
    """Return whether two runs of a site give its value the same density."""
    one, other = (masked_log_prob(site, a["value"]) for site in (a, b))
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)
