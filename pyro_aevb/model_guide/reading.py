"""The reading of a pair: each site's role, plates, scale and mask, decided here and nowhere else.

Every entry point runs the pair and hands the two traces to :func:`read_traces`; training and evaluation then take their
terms from one record.  What can't be vouched for is refused, in the same sentence from everywhere.

Shapes: K particles, M datapoints, N of the data set.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pyro import distributions as dist
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.model_guide.plates import (
    check_data_frame,
    check_one_data_plate,
    check_shape,
    data_plate,
    frame_of,
    full_size_of,
    is_particles,
)
from pyro_aevb.model_guide.sites import (
    DataPlate,
    Particles,
    Role,
    Scale,
    Site,
    apart_from_mask,
    density,
    is_deterministic,
    joint_mask,
    masks_cells,
    replace_site,
)
from pyro_aevb.model_guide.supports import is_discrete, is_unchecked
from pyro_aevb.model_guide.weights import are_equal, is_one, one_weight, weight_of

NO_LATENTS = (
    "expected a model with local latents and a guide that samples them, got none; add pyro.sample('z', ...) in the "
    "plate of both, or train without latents by AEVB"
)


class LatentsError(ValueError):
    """Datapoints that have other latents than others."""


class Weights(NamedTuple):
    """The weights of a bound's terms in training; in evaluation each counts once.

    ``by_site``: the weight of each log likelihood, and of each latent's log p(z) - log q(z|x).  ``scale``: what the
    bound of a datapoint counts, N/M; a scale that stands around every local site alike is part of it, a number or
    (M,).  ``of_globals``: the weight of each global latent's log p(w) - log q(w).
    """

    by_site: dict[str, Scale]
    scale: Scale
    of_globals: dict[str, Scale]


@dataclass(frozen=True)
class Reading:
    """A pair of traces, read.

    Attributes:
        model: the model's sites, by name, in their order.
        guide: the guide's; empty without a guide.
        plate: the data plate.
        particles: the particles' dimension and their number, or ``None``.
        depth: how many dimensions the plates take up.
        named_modules: the modules that the run gave to ``pyro.module``, and those inside of them.
    """

    model: Mapping[str, Site]
    guide: Mapping[str, Site]
    plate: DataPlate
    particles: Particles | None
    depth: int
    named_modules: tuple[nn.Module, ...] = ()

    def sites(self, half: Literal["model", "guide"], *roles: Role) -> dict[str, Site]:
        """Return the sites of one half that have one of these roles."""
        return {name: site for name, site in getattr(self, half).items() if site.role in roles}

    @property
    def summed(self) -> tuple[str, ...]:
        """The discrete latents that were summed out, by name."""
        return tuple(dict.fromkeys(name for site in self.model.values() for name in site.infer.get("summed", ())))

    @property
    def unchecked(self) -> frozenset[str]:
        """The names of sites whose distributions were made without validation."""
        parts = {n: node["fn"] for site in self.model.values() for n, node in site.infer.get("parts", {}).items()}
        fns = {name: site.fn for name, site in self.model.items()} | parts
        return frozenset(name for name, fn in fns.items() if is_unchecked(fn))

    @property
    def observations(self) -> dict[str, Site]:
        """The sites of the likelihood, log p(x|z)."""
        return self.sites("model", "observation")

    @property
    def observed(self) -> tuple[str, ...]:
        """The names of these sites as the model wrote them, whatever was summed out around them."""
        return tuple(each for name, site in self.observations.items() for each in site.infer.get("parts", (name,)))

    @property
    def latents(self) -> dict[str, Site]:
        """The model's local latents, log p(z)."""
        return self.sites("model", "local")

    @property
    def proposals(self) -> dict[str, Site]:
        """The sites of the guide that make up log q(z|x)."""
        return self.sites("guide", "local", "auxiliary")

    @property
    def global_latents(self) -> dict[str, Site]:
        """The model's global latents, log p(w)."""
        return self.sites("model", "global")

    @property
    def global_proposals(self) -> dict[str, Site]:
        """The sites of the guide that make up log q(w)."""
        return self.sites("guide", "global", "global auxiliary")

    def weights(self) -> Weights:
        """Return the weights of the sites and of the bound in training.

        Raises:
            ValueError: if the two sides of a latent's KL have different ones, or model and guide different N.
        """
        self.require_one_n()
        by_site = {name: site.weight for name, site in (self.observations | self.proposals).items()}
        of_globals = {name: site.weight for name, site in self.global_proposals.items()}
        for latents, weights in ((self.latents, by_site), (self.global_latents, of_globals)):
            for name, site in latents.items():
                other = self.guide[name].weight if name in self.guide else site.weight
                weights[name] = one_weight(name, site.weight, other)
        common = next(iter(by_site.values()))
        if is_one(common) or not all(are_equal(common, weight) for weight in by_site.values()):
            return Weights(by_site, self.plate.scale, of_globals)
        return Weights(dict.fromkeys(by_site, 1.0), self.plate.scale * common, of_globals)

    def log_prob(self, site: Site, value: Tensor | None = None) -> Tensor:
        """Return a site's log probability, (K, M) in nats, masked and not weighed; or ``value`` put into that shape."""
        term = density(site.name, site.fn, site.value, drawn=site.is_drawn) if value is None else value
        return self.per_datapoint(scale_and_mask(term, mask=site.mask))

    def sum_log_prob(self, sites: Iterable[Site]) -> Tensor:
        """Return the sum of the sites' log probabilities, (K, M), in nats.

        Args:
            sites: in the order in which they are added up.

        Raises:
            ValueError: if there are none.
        """
        total = None
        for site in sites:
            term = self.log_prob(site)
            total = term if total is None else total + term
        if total is None:
            raise ValueError(NO_LATENTS)
        return total

    def total(self, half: Literal["model", "guide"], *roles: Role) -> Tensor:
        """Return the log density of one half's sites for the whole data set, N/M, scales and masks applied, in nats."""
        total: Tensor | float = 0.0
        weights = self.weights()
        for name, site in self.sites(half, *roles).items():
            if name in weights.by_site:
                total = total + (weights.scale * weights.by_site[name] * self.log_prob(site)).sum()
            else:
                total = total + (site.weight * self.global_log_prob(site)).sum()
        return torch.as_tensor(total)

    def per_datapoint(self, term: Tensor) -> Tensor:
        """Sum a term over the plates within a datapoint: shape (K, M), or (1, M) without particles."""
        dim, kept = self.plate.dim, [self.plate.dim]
        width = max(term.dim(), -dim)
        if self.particles is not None:
            width = max(width, -self.particles[0])
            kept.append(self.particles[0])
        term = term.reshape((1,) * (width - term.dim()) + term.shape)
        summed = [d for d in range(-width, 0) if d not in kept and term.shape[d] != 1]
        term = term.sum(summed, keepdim=True) if summed else term
        k = 1 if self.particles is None else self.particles[1]
        shape = [term.shape[d] for d in sorted(kept)]
        return term.reshape(shape).expand(k, self.plate.size)

    def per_entry(self, term: Tensor, site: Site, inner: Sequence[CondIndepStackFrame]) -> Tensor:
        """Sum a term over all plates but that of the datapoints and ``inner``.

        Args:
            term: of the shape of the log probabilities of ``site``.
            site: whose term it is.
            inner: plates within a datapoint.

        Returns:
            (K, M, I) with the I entries of these plates together, (1, M, I) without particles.
        """
        common = {frame.dim for frame in inner if (frame.name, frame.dim) in {(f.name, f.dim) for f in site.frames}}
        first = -1 - self.depth if self.particles is None else self.particles[0]  # the particles' dimension, or none
        width = max(term.dim(), -first)
        term = term.reshape((1,) * (width - term.dim()) + term.shape)
        others = [d for d in range(-width, 0) if d not in {first, self.plate.dim, *common} and term.shape[d] != 1]
        term = term.sum(others, keepdim=True) if others else term
        order = [first, self.plate.dim, *(frame.dim for frame in inner if frame.dim is not None)]
        rest = [d for d in range(-width, 0) if d not in order]
        term = term.permute(*order, *rest).flatten(len(order) - 1) if rest else term.permute(*order)
        k = 1 if self.particles is None else self.particles[1]
        return term.expand(k, self.plate.size, *(frame.size for frame in inner)).flatten(2)

    def global_log_prob(self, site: Site, value: Tensor | None = None) -> Tensor:
        """Return a global site's log probability, masked and not weighed, in nats; or ``value`` summed like it.

        Args:
            site: one of :attr:`global_latents` or :attr:`global_proposals`.
            value: of the shape of the site's log probabilities.

        Returns:
            (K,), or (1,) for a draw that all particles have in common.
        """
        term = density(site.name, site.fn, site.value, drawn=site.is_drawn) if value is None else value
        term = scale_and_mask(term, mask=site.mask)
        if self.particles is None or term.dim() < -self.particles[0]:
            return term.sum().reshape(1)
        return term.movedim(self.particles[0], 0).flatten(1).sum(1)

    def sum_global_log_prob(self, sites: Iterable[Site]) -> Tensor:
        """Return the sum of the global sites' log probabilities, (K,) or (1,), in nats; 0 for none.

        Args:
            sites: in the order in which they are added up.
        """
        total = None
        for site in sites:
            term = self.global_log_prob(site)
            total = term if total is None else total + term
        if total is None:
            like = next(iter(self.observations.values())).value
            return torch.zeros(1, dtype=like.dtype if like.is_floating_point() else None, device=like.device)
        return total

    def require_latents(self, names: Collection[str], summed: Collection[str] = ()) -> None:
        """Refuse other latents than those of an earlier run of other datapoints; what may be summed out may be there.

        Args:
            names: of its local latents.
            summed: the names of those that were summed out of it.

        Raises:
            LatentsError: for others.
        """
        marked = [name for name, site in self.latents.items() if site.infer.get("enumerate")]
        if not set(names) <= self.latents.keys() <= {*names, *summed, *marked}:
            raise LatentsError(
                f"expected datapoints with the latents {sorted(names)} each, got {sorted(self.latents)} in a run of "
                "others of them; pad them to one length, and mask what isn't there"
            )

    def require_local(self, remedy: str = "") -> None:
        """Refuse latents that stand outside the data plate or are to be summed out.

        Args:
            remedy: what to do about a global latent instead of giving it a value; "{name}" stands for its name.

        Raises:
            ValueError: for the first one, with what to do.
        """
        for name, site in self.global_latents.items():
            where = f"in the plate {site.frames[0].name!r}" if site.frames else "outside any"
            instead = remedy or "a global one is given a value first: pyro.condition(model, {{{name!r}: value}})"
            raise ValueError(
                f"expected site {name!r} in the data plate, got it {where}; a local latent goes inside `with "
                f"pyro.plate('data', len(x))`, {instead.format(name=name)}"
            )
        self.require_summed()

    def require_summed(self) -> None:
        """Refuse latents that are to be summed out.

        Raises:
            ValueError: for the first one, with what to do.
        """
        for name in self.sites("model", "enumerated"):
            raise ValueError(
                f"expected a guide that samples every latent of the model, got none for {name!r}, which is to be "
                "enumerated; train with AEVB(..., pyro.infer.TraceEnum_ELBO()), or sample it in the guide"
            )

    def require_whole_plates(self) -> None:
        """Refuse a subsampled plate beside that of the datapoints: each run is of other parts, and N/M doesn't count.

        Raises:
            ValueError: for the first one, with what to do.
        """
        counted = self.sites("model", "observation", "given", "local", "global", "enumerated")
        for name, site in [*counted.items(), *(self.proposals | self.global_proposals).items()]:
            for frame in (*site.frames, *site.infer.get("frames", ())):
                if frame.full_size not in (None, frame.size) and frame_of([frame], self.plate) is None:
                    raise ValueError(
                        f"expected whole plates in an evaluation, got {frame.size} of the {frame.full_size} entries of "
                        f"plate {frame.name!r} around site {name!r}; evaluate a model and a guide with "
                        f"pyro.plate({frame.name!r}, {frame.full_size}), without subsample_size"
                    )

    def require_one_n(self) -> None:
        """Refuse a guide whose data plate has another N than the model's, which would train another bound.

        Raises:
            ValueError: with what to do.
        """
        for name, site in (self.proposals | self.sites("guide", "note")).items():
            frame = frame_of(site.frames, self.plate)
            if frame is None:
                continue
            full_size = full_size_of(frame, self.plate.size)
            if full_size != self.plate.full_size:
                raise ValueError(
                    f"expected one N in model and guide, got {self.plate.full_size} in the model's plate "
                    f"{self.plate.name!r} and {full_size} around site {name!r} of the guide; write pyro.plate("
                    f"{self.plate.name!r}, {max(full_size, self.plate.full_size)}, subsample_size=len(x)) in both"
                )

    def require_density(self) -> None:
        """Refuse what has no log p(x) of a datapoint: a factor among the observations, or a part of its plates alone.

        Raises:
            ValueError: for the first one, with what to do.
        """
        self.require_whole_plates()
        for name, site in self.observations.items():
            if isinstance(innermost(site.fn), dist.Unit):
                raise ValueError(
                    f"expected observations with a distribution, for log p(x), got pyro.factor({name!r}, ...), whose "
                    "exponential needn't integrate to 1; write pyro.sample(..., obs=x), or take the factor out with "
                    f"pyro.poutine.block(model, hide=[{name!r}])"
                )


def read_traces(
    model_trace: Trace, guide_trace: Trace | None, num_data: int, particles: Particles | None = None
) -> Reading:
    """Return the reading of a model's trace, and of its guide's.

    Args:
        model_trace: a run of the model, on the guide's latents if there is a guide.
        guide_trace: a run of the guide.
        num_data: M, the length of x.
        particles: the dimension of K particles, left of all plates, and K.

    Raises:
        ValueError: for a pair that breaks the contract; the message says what to change.
    """
    model, guide = dict(_samples(model_trace)), {} if guide_trace is None else dict(_samples(guide_trace))
    _check_summed(model, num_data)
    inside = {n: [f for f in s["cond_indep_stack"] if not is_particles(f, particles)] for n, s in model.items()}
    kinds = {name: _kind(site) for name, site in model.items()}
    plate = data_plate({n: f for n, f in inside.items() if kinds[n] in ("latent", "observed")}, kinds, num_data)
    check_one_data_plate(inside, kinds, plate)
    roles = {name: _model_role(kinds[name], model[name], inside[name], plate, guide) for name in model}
    guide_roles = _guide_roles(guide, model, roles, plate)
    _check_names(roles, guide_roles, guide_trace is not None)
    readings: list[dict[str, Site]] = []
    for half, sites, of in (("model", model, roles), ("guide", guide, guide_roles)):
        made = {}
        for name, site in sites.items():
            frames = tuple(f for f in site["cond_indep_stack"] if not is_particles(f, particles))
            fn, mask = apart_from_mask(site["fn"], site["mask"])
            made[name] = Site(name, of[name], fn, site["value"], frames, 1.0, mask, site["infer"] or {})
            if of[name] in ("deterministic", "subsample"):
                continue
            check_shape(made[name], half, particles, num_data)
            if of[name] in ("local", "observation"):
                check_data_frame(made[name], half, plate)
            frame = frame_of(frames, plate)
            own = 1.0 if frame is None else full_size_of(frame, num_data) / num_data
            weight = weight_of(name, site["scale"], own, plate, local=frame is not None)
            made[name] = replace_site(made[name], weight=weight)
        readings.append(made)
    model_sites, guide_sites = readings
    for name, site in model_sites.items():
        if site.role in ("local", "global") and name in guide_sites:
            other = guide_sites[name]
            _check_masks_of_cells(site, other)
            mask = joint_mask(site.mask, other.mask)
            model_sites[name], guide_sites[name] = replace_site(site, mask=mask), replace_site(other, mask=mask)
    dims = [f.dim for s in (*model_sites.values(), *guide_sites.values()) for f in s.frames if f.dim is not None]
    summed = [s.infer["depth"] for s in model_sites.values() if "depth" in s.infer]  # plates that are summed over too
    depth = max([*(-dim for dim in dims), *summed], default=1)
    return Reading(model_sites, guide_sites, plate, particles, depth)


def _check_masks_of_cells(model: Site, guide: Site) -> None:
    """Raise ``ValueError`` for a latent with masked cells in one half alone: they would weigh in the other."""
    halves = [half for half, site in (("model", model), ("guide", guide)) if masks_cells(site.fn)]
    if len(halves) == 1:
        raise ValueError(
            f"expected a mask of the cells of {model.name!r} in both halves, got one in the {halves[0]} alone; write "
            ".mask(...) before .to_event(...) in both"
        )


def _samples(trace: Trace) -> Iterator[tuple[str, Any]]:
    return ((name, site) for name, site in trace.nodes.items() if site["type"] == "sample")


def _kind(site: Any) -> str:
    if site_is_subsample(site):
        return "subsample"
    if is_deterministic(site):
        return "deterministic"
    if site["infer"] and site["infer"].get("dreamed"):
        return "observed"  # though it was sampled, in a dream
    return "observed" if site["is_observed"] else "latent"


def _model_role(
    kind: str, site: Any, frames: list[CondIndepStackFrame], plate: DataPlate, guide: Mapping[str, Any]
) -> Role:
    if kind in ("deterministic", "subsample"):
        return "deterministic" if kind == "deterministic" else "subsample"
    local = frame_of(frames, plate) is not None
    if kind == "observed":
        return "observation" if local else "given"
    if guide and site["name"] not in guide and (site["infer"] or {}).get("enumerate"):
        return "enumerated"
    return "local" if local else "global"


def _check_summed(model: Mapping[str, Any], num_data: int) -> None:
    """Raise ``ValueError`` if what was summed out is outside of the data plate, and no datapoint has its own p(x)."""
    for node in model.values():
        summed = (node["infer"] or {}).get("summed")
        if summed and not any(frame.size in (num_data, -1) for frame in node["cond_indep_stack"]):
            raise ValueError(
                f"expected what is to be summed out in the data plate, got {summed} outside of it; sample it in the "
                f"guide, or give it a value: pyro.condition(model, {{{summed[0]!r}: value}})"
            )


def _guide_roles(
    guide: Mapping[str, Any], sites: Mapping[str, Any], model: Mapping[str, Role], plate: DataPlate
) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    points = [n for n, s in guide.items() if _kind(s) == "latent" and isinstance(innermost(s["fn"]), dist.Delta)]
    transformed = any(name not in sites or not is_discrete(sites[name]["fn"]) for name in points)
    for name, site in guide.items():
        kind = _kind(site)
        if kind in ("deterministic", "subsample"):
            roles[name] = "deterministic" if kind == "deterministic" else "subsample"
        elif kind == "observed":
            roles[name] = "note"
        elif model.get(name) in ("local", "global"):
            roles[name] = model[name]
        elif model.get(name) in ("given", "observation"):
            roles[name] = "by-product"  # the model was conditioned on a value of it
        elif site["infer"].get("is_auxiliary"):
            local = frame_of(site["cond_indep_stack"], plate) is not None
            roles[name] = ("auxiliary" if local else "global auxiliary") if transformed else "by-product"
        else:
            roles[name] = "local"  # not in the model: refused by name below
    return roles


def _check_names(model: Mapping[str, Role], guide: Mapping[str, Role], has_guide: bool) -> None:
    """Raise ``ValueError`` unless the guide samples exactly the model's latents (and auxiliary ones marked so)."""
    if not has_guide:
        return
    latents = [name for name, role in model.items() if role in ("local", "global")]
    if missing := sorted(name for name in latents if guide.get(name) not in ("local", "global")):
        raise ValueError(
            f"expected a guide that samples every latent of the model, got none for {missing}; "
            f"add pyro.sample({missing[0]!r}, ...) to the guide, or obs= to the model"
        )
    if extra := sorted(name for name, role in guide.items() if role == "local" and name not in latents):
        raise ValueError(
            f"expected a guide whose sites are latents of the model, got {extra} besides; "
            "rename them, or mark them infer={'is_auxiliary': True}"
        )
