"""Discrete latents summed out exactly: the trace of a model whose marked sites hold all of their values at once.

Pyro's ``EnumMessenger`` runs the model with every value of a site marked ``infer={"enumerate": "parallel"}``, and its
tensor contraction sums the product of the densities over them, plate by plate and along ``pyro.markov`` chains.  The
trace that is handed on has, in the place of all sites that depend on what was summed,

* latents with their marginal prior, log sum_y p(y) p(z|y), and
* observed sites with the rest, log sum_y p(y) p(z|y) p(x|z, y) - log sum_y p(y) p(z|y).
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import opt_einsum
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from pyro_aevb.model_guide.sites import apart_from_mask, density, is_deterministic, joint_mask

MAX_PLATES = 8  # dimensions that plates may take up, particles among them; values are enumerated left of these

Ordinal = frozenset[str]  # the symbols of plates


class Summed(dist.TorchDistribution):
    """A density in which discrete latents are summed out, as a number for each entry of the plates.

    Args:
        log_density: of the plates' shape, in nats; of the values that the model was run with, and no others.
        fn: the distribution given what was summed out, for its support and event shape; ``None`` for an observed site.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, log_density: Tensor, fn: Any = None) -> None:
        self.log_density, self._fn = log_density, fn
        super().__init__(log_density.shape, torch.Size() if fn is None else fn.event_shape)

    @property
    def support(self) -> Any:
        """That of the distribution given what was summed out."""
        return constraints.real if self._fn is None else self._fn.support

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the density, in nats, whatever the value."""
        return self.log_density


def trace_summed(model: Any, guide_trace: Trace | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    """Run a model and return its trace, latents marked for enumeration summed out but for those of the guide.

    Args:
        model: p(x, z).
        guide_trace: a run of the guide, whose latents the model takes; ``None``: it draws its own.
        args: its arguments.
        kwargs: likewise.

    Raises:
        ValueError: for sites that can't be summed out together.
    """
    fn = _EnumerateMarked(-1 - MAX_PLATES)(model)
    trace = poutine.trace(fn if guide_trace is None else poutine.replay(fn, trace=guide_trace)).get_trace(
        *args, **kwargs
    )
    enumerated = [name for name, node in trace.nodes.items() if _enumerate_dim(node) is not None]
    if not enumerated:
        return trace
    if guide_trace is None and any(map(_is_drawn_for_each, trace.nodes.values())):
        one = poutine.trace(model).get_trace(*args, **kwargs)  # of the prior, in which what is to be summed is drawn
        for name in enumerated:
            one.remove_node(name)
        trace = poutine.trace(poutine.replay(fn, trace=one)).get_trace(*args, **kwargs)
    return _sum_out(trace, enumerated, {} if guide_trace is None else guide_trace.nodes)


def _is_drawn_for_each(node: Any) -> bool:
    """Return whether a latent was drawn for each value of what is summed out, where one draw is wanted."""
    if node["type"] != "sample" or site_is_subsample(node) or node["is_observed"] or _enumerate_dim(node) is not None:
        return False
    return bool(node["value"].dim() - node["fn"].event_dim > MAX_PLATES)


class _EnumerateMarked(EnumMessenger):
    """Pyro's messenger, out of the way until there is a site for it."""

    def __enter__(self) -> Any:
        self._is_there = False
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        marked = not (msg["done"] or msg["is_observed"]) and (msg["infer"] or {}).get("enumerate") == "parallel"
        if marked:
            _check_finite(msg)
        self._is_there = self._is_there or marked
        if self._is_there or "_markov_scope" in (msg["infer"] or {}):
            super()._pyro_sample(msg)

    def _pyro_post_sample(self, msg: Any) -> None:
        if self._is_there or msg["name"] in self._param_dims:  # a replayed site has the scope of the guide's, or none
            super()._pyro_post_sample(msg)


def _check_finite(msg: Any) -> None:
    """Raise ``ValueError`` for a site that is marked for enumeration, but not with each of finitely many values."""
    name, fn = msg["name"], msg["fn"]
    if not getattr(fn, "has_enumerate_support", False):
        raise ValueError(
            f"expected a finite support for site {name!r}, which is marked for enumeration, got {type(fn).__name__}; "
            "sample it in the guide, and leave infer={'enumerate': ...} out"
        )
    if msg["infer"].get("num_samples") is not None:
        raise ValueError(
            f"expected site {name!r} to be enumerated with all of its values, got num_samples="
            f"{msg['infer']['num_samples']}; leave num_samples out, or sample it in the guide"
        )


def _enumerate_dim(node: Any) -> int | None:
    if node["type"] != "sample" or node["is_observed"]:
        return None
    dim: int | None = (node["infer"] or {}).get("_enumerate_dim")
    return dim


def _sum_out(trace: Trace, enumerated: list[str], guide: Mapping[str, Any]) -> Trace:
    trace.symbolize_dims()
    nodes: Mapping[str, Any] = trace.nodes
    symbols = {nodes[name]["infer"]["_dim_to_symbol"][_enumerate_dim(nodes[name])] for name in enumerated}
    terms: dict[str, Tensor] = {}
    dims: dict[str, int] = {}
    for name, node in nodes.items():
        if node["type"] != "sample" or site_is_subsample(node) or is_deterministic(node):
            continue
        fn, *masks = _apart_from_masks(name, node, guide)
        log_prob = density(name, fn, node["value"], drawn=not node["is_observed"])
        if name not in enumerated:  # p(y) sums to 1 where y is masked off, as in the padding of a sequence
            log_prob = scale_and_mask(log_prob, mask=joint_mask(*masks))
        dim_to_symbol = _symbols_of(log_prob, node, len(trace.plate_to_symbol))
        term = packed.pack(log_prob, dim_to_symbol)
        if name in enumerated or not symbols.isdisjoint(term._pyro_dims):
            terms[name] = term
            dims |= {symbol: dim for dim, symbol in dim_to_symbol.items() if symbol not in symbols}
    terms = _of_one_dtype(terms)
    scale = _one_scale({name: nodes[name] for name in terms})
    observed = [name for name in terms if nodes[name]["is_observed"]]
    latents = [name for name in terms if not nodes[name]["is_observed"] and name not in enumerated]

    frames = {trace.plate_to_symbol[f.name]: f for name in terms for f in _frames(nodes[name])}
    ordinal_of = {name: frozenset(trace.plate_to_symbol[f.name] for f in _frames(nodes[name])) for name in terms}

    def contracted(names: Iterable[str]) -> dict[Ordinal, Tensor]:
        tree: OrderedDict[Ordinal, list[Tensor]] = OrderedDict()
        for name in names:
            tree.setdefault(ordinal_of[name], []).append(terms[name])
        sums = contract_tensor_tree(tree, set(symbols))
        return {ordinal: sum(packed.unpack(part, dims) for part in parts) for ordinal, parts in sums.items()}

    prior = contracted([*enumerated, *latents]) if latents else {}
    rest = contracted(terms)
    for ordinal, log_prior in prior.items():
        rest[ordinal] = rest[ordinal] - log_prior if ordinal in rest else -log_prior
    changed = _latent_nodes({name: nodes[name] for name in latents}, guide, ordinal_of, prior)
    # A site of its own for each set of plates that is left, named after those that there were.
    for name, (ordinal, log_density) in zip([*observed, *enumerated], rest.items(), strict=False):
        changed[name] = {
            **nodes[name],
            "fn": Summed(log_density),
            "value": log_density.detach(),
            "is_observed": True,
            "mask": None,
            "scale": scale,
            "cond_indep_stack": tuple(frames[symbol] for symbol in sorted(ordinal)),
            "infer": {
                "summed": enumerated,
                "frames": tuple(frame for each in terms for frame in nodes[each]["cond_indep_stack"]),
                "parts": {each: nodes[each] for each in observed},
                "depth": max(-frame.dim for frame in frames.values()) if frames else 0,
            },
        }
    result = Trace(graph_type="flat")
    for name, node in nodes.items():
        if name not in terms or name in changed:
            result.add_node(name, **changed.get(name, node))
    return result


def _symbols_of(log_prob: Tensor, node: Any, num_plates: int) -> dict[int, str]:
    """Return the symbols of a term's dimensions: of plates, values, and particles that have no plate."""
    known: dict[int, str] = dict(node["infer"]["_dim_to_symbol"])
    for dim in range(-min(log_prob.dim(), MAX_PLATES), 0):
        if dim not in known and log_prob.shape[dim] > 1:
            known[dim] = opt_einsum.get_symbol(2 * (num_plates - dim))
    return known


def _of_one_dtype(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return packed terms in the widest of their dtypes, which the contraction asks for."""
    dtype = functools.reduce(torch.promote_types, (term.dtype for term in terms.values()))
    result = {}
    for name, term in terms.items():
        result[name] = term.to(dtype)
        result[name]._pyro_dims = term._pyro_dims  # type: ignore[attr-defined]  # packed tensors have it
    return result


def _frames(node: Any) -> list[Any]:
    return [frame for frame in node["cond_indep_stack"] if frame.vectorized]


def _apart_from_masks(name: str, node: Any, guide: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Return a site's distribution, its mask, and that of a latent in the guide: what either masks off isn't there."""
    other = None if node["is_observed"] else guide.get(name)
    return *apart_from_mask(node["fn"], node["mask"]), other and apart_from_mask(other["fn"], other["mask"])[1]


def _latent_nodes(
    latents: Mapping[str, Any],
    guide: Mapping[str, Any],
    ordinal_of: Mapping[str, Ordinal],
    prior: Mapping[Ordinal, Tensor],
) -> dict[str, Any]:
    """Return the nodes of latents that depend on what was summed: the first in its plates has the prior of all."""
    parts = [_apart_from_masks(name, node, guide) for name, node in latents.items()]
    if any(mask is not first for _, *masks in parts for mask, first in zip(masks, parts[0][1:], strict=True)):
        raise ValueError(
            f"expected one mask for latents that depend on what is summed out, got several for {list(latents)}; write "
            "poutine.mask around all of them, or sample what is to be summed in the guide"
        )
    left, changed = dict(prior), {}
    for (name, node), (fn, *masks) in zip(latents.items(), parts, strict=True):
        sizes = {frame.dim: frame.size for frame in _frames(node)}
        shape = [sizes.get(dim, 1) for dim in range(min(sizes, default=0), 0)]
        log_density = left.pop(ordinal_of[name], None)
        if log_density is None:
            log_density = node["value"].new_zeros(shape)
        changed[name] = {**node, "fn": Summed(log_density, fn), "mask": joint_mask(*masks)}
    if left:
        raise ValueError(
            f"expected latents that depend on what is summed out in the same plates with it, got {sorted(latents)} in "
            "others; sample what is to be summed in the guide, or write it into the plates of these"
        )
    return changed


def _one_scale(dependent: Mapping[str, Any]) -> Any:
    """Return the scale of the sites that are summed out together; raise ``ValueError`` if they have several."""
    (first, node), *others = dependent.items()
    for name, other in others:
        if other["scale"] is not node["scale"] and not _are_equal(other["scale"], node["scale"]):
            raise ValueError(
                f"expected one scale for sites that are summed out together, got others for {first!r} and {name!r}; "
                "write poutine.scale around all of them, or sample what is to be summed in the guide"
            )
    return node["scale"]


def _are_equal(a: Any, b: Any) -> bool:
    return isinstance(a, float | int) and isinstance(b, float | int) and abs(a - b) <= 1e-9 * abs(a)
