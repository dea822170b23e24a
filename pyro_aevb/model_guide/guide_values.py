r"""Discrete latents of the guide that are summed out: each of their values has particles of its own.

A guide that samples y ~ q(y|x), marked ``infer={"enumerate": "parallel"}``, isn't asked for a draw of y: of V values
(combinations of them, if several sites are marked) each gets K particles, and what comes after y is drawn for each.
Means over q(y|x) are then sums, exact and with a gradient through q(y|x),

.. math:: E_q[f] \simeq \frac{1}{K} \sum_k \sum_y q(y|x) f(y, z_{yk}), \quad
    p(x) \simeq \frac{1}{K} \sum_k \sum_y q(y|x) \frac{p(x, y, z_{yk})}{q(y|x) q(z_{yk}|x, y)}

so that there are K independent weights, whatever V is.  What the guide draws before y is drawn once for all values.

Shapes: V values, K particles for each, M datapoints; rows of a density are V K, the values first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.sites import Site, density
from pyro_aevb.model_guide.traces import PyroCallable, is_messenger

REMEDY = "leave the mark out to sample it, or mark it in the model and leave it out of the guide"


def enumerated(reading: Reading, guide: PyroCallable | None) -> dict[str, int]:
    """Return how many values each latent has that the guide marks for enumeration, in the order they are sampled.

    Args:
        reading: of the pair.
        guide: q(z|x).

    Raises:
        ValueError: for a mark that can't be followed, with what to do.
    """
    found = {}
    for name, site in reading.guide.items():
        if site.infer.get("enumerate") is None or site.role in ("note", "deterministic", "subsample"):
            continue
        if guide is not None and is_messenger(guide):
            raise _refused(name, "of a guide that can be run by itself", "it in a guide messenger")
        _check_mark(name, site)
        found[name] = len(site.fn.enumerate_support(expand=False))
    return found


def _check_mark(name: str, site: Site) -> None:
    """Raise ``ValueError`` unless each value of a marked site of the guide can have particles of its own."""
    if not getattr(site.fn, "has_enumerate_support", False):
        raise _refused(name, "with a finite support", type(site.fn).__name__)
    if site.infer["enumerate"] != "parallel" or site.infer.get("num_samples") is not None:
        got = f"enumerate={site.infer['enumerate']!r}, num_samples={site.infer.get('num_samples')}"
        raise _refused(name, "marked infer={'enumerate': 'parallel'} for all of its values", got)
    if site.role != "local":
        raise _refused(name, "in the data plate and in the model too", f"a {site.role} one")
    if len(site.frames) > 1:
        raise _refused(name, "in the data plate alone", f"it in the plates {[frame.name for frame in site.frames]}")
    if "_markov_scope" in site.infer:
        raise _refused(name, "outside of pyro.markov", "it inside")


def _refused(name: str, expected: str, got: str) -> ValueError:
    return ValueError(f"expected site {name!r}, which the guide enumerates, {expected}, got {got}; {REMEDY}")


class GuideValues(Messenger):
    """Give the guide's enumerated sites their values, V K particles at once or one after another.

    It stands around the plate of the particles, and what is not yet drawn goes through it in the guide alone: the
    model's latents have their values.

    Args:
        sizes: the number of values of each enumerated site.
        num_particles: K.
        dim: the particles' dimension; ``None`` for a single one, the ``row``-th.
    """

    def __init__(self, sizes: Mapping[str, int], num_particles: int, dim: int | None) -> None:
        super().__init__()
        self._grid = (*sizes.values(), num_particles)
        self._places = {name: place for place, name in enumerate(sizes)}
        self._sizes, self._dim, self.row = sizes, dim, 0
        self._drawn: dict[tuple[Any, ...], Tensor] = {}

    def __enter__(self) -> GuideValues:
        self._left = set(self._places)
        self._pending: set[str] = set()
        result: GuideValues = super().__enter__()
        return result

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg):
            return
        name, fn = msg["name"], msg["fn"]
        if name not in self._places:
            self._pending.add(name)
            if self._key(name) in self._drawn:
                msg["value"], msg["done"] = self._drawn[self._key(name)], True
            return
        values = fn.enumerate_support(expand=False)
        if len(values) != self._sizes[name]:
            raise _refused(name, f"to have {self._sizes[name]} values, as in the first minibatch", str(len(values)))
        values = values.reshape(len(values), *fn.event_shape)
        place = self._places[name]
        if self._dim is None:
            value = values[self._index()[place]]
        else:
            rows = torch.arange(math.prod(self._grid), device=values.device)
            index = rows // math.prod(self._grid[place + 1 :]) % self._grid[place]
            value = values[index].reshape(len(rows), *(1,) * (-self._dim - 1), *fn.event_shape)
        msg["value"], msg["done"] = value.expand(fn.batch_shape + fn.event_shape), True
        self._left.discard(name)

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self._pending:
            return
        self._pending.discard(name)
        if self._dim is None:
            self._drawn[self._key(name)] = msg["value"]
            return
        dim = self._dim - msg["fn"].event_dim
        if not self._left or msg["value"].dim() < -dim:
            return
        dim += msg["value"].dim()
        value = msg["value"].unflatten(dim, self._grid)  # what is drawn before y is one draw for all of its values
        for left in self._left:
            value = value.narrow(dim + self._places[left], 0, 1)
        shape = [*value.shape[:dim], *self._grid, *value.shape[dim + len(self._grid) :]]
        msg["value"] = value.expand(shape).flatten(dim, dim + len(self._grid) - 1)

    def _index(self) -> list[int]:
        """Return the values' and the particle's numbers in the row at hand."""
        return [self.row // math.prod(self._grid[place + 1 :]) % size for place, size in enumerate(self._grid)]

    def _key(self, name: str) -> tuple[Any, ...]:
        """Return a site's name and those numbers, 0 for values that it is drawn before."""
        if self._dim is not None:
            return (name,)
        index = self._index()
        for left in self._left:
            index[self._places[left]] = 0
        return name, *index


def log_share(reading: Reading, names: Iterable[str]) -> Tensor | None:
    """Return log q(y|x) of each row's values, (V K, M) in nats; ``None`` if nothing is enumerated.

    Values that are masked off have equal shares: nothing that counts depends on them.

    Args:
        reading: of V K particles, or of one of them.
        names: the enumerated sites.
    """
    total = None
    for name in names:
        site = reading.guide[name]
        term = density(name, site.fn, site.value)
        if site.mask is not None and site.mask is not True:
            num_values = len(site.fn.enumerate_support(expand=False))
            mask = torch.as_tensor(site.mask, device=term.device)
            term = torch.where(mask, term, torch.full_like(term, -math.log(num_values)))
        term = reading.per_datapoint(term)
        total = term if total is None else total + term
    return total


def expected(term: Tensor, log_share: Tensor) -> Tensor:
    """Return sum_y q(y|x) term, (K, M), for each of K particles.

    Args:
        term: (V K, M).
        log_share: log q(y|x), (V, K, M).
    """
    share = log_share.exp()
    return (share * term.reshape(log_share.shape).masked_fill(share == 0, 0.0)).sum(0)


def summed(log_term: Tensor, log_share: Tensor) -> Tensor:
    """Return log sum_y q(y|x) exp(log_term), (K, M), for each of K particles.

    Args:
        log_term: (V K, M).
        log_share: log q(y|x), (V, K, M).
    """
    return (log_term.reshape(log_share.shape) + log_share).logsumexp(0)


class _Marked(Messenger):
    """Mark the sites of these names for enumeration."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self._names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._names and not msg["is_observed"]:
            msg["infer"] = {**(msg["infer"] or {}), "enumerate": "parallel"}


def summed_in_model(model: PyroCallable, names: Iterable[str]) -> PyroCallable:
    """Return the model with these latents marked for enumeration: they are summed out where no guide samples them.

    Args:
        model: p(x, y, z).
        names: the sites of y.
    """
    marked: PyroCallable = _Marked(frozenset(names))(model)
    return marked
