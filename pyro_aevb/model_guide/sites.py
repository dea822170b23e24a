"""A sample statement as it was read, the data plate, and densities at a site's value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from pyro import distributions as dist
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pyro_aevb.distributions.wrappers import WRAPPERS, innermost
from pyro_aevb.model_guide.supports import outside_error

Scale = float | Tensor
Particles = tuple[int, int]  # their dimension, counted from the right, and K

Role = Literal[
    "observation",  # observed in the data plate, a factor there among them
    "given",  # observed outside of it: a global latent that was conditioned on
    "local",  # a latent in the data plate; in the guide, its proposal
    "global",  # a latent outside of it; in the guide, its proposal
    "enumerated",  # a discrete latent of the model's that Pyro sums out
    "auxiliary",  # sampled in the guide alone, and turned into latents there: part of q's density
    "global auxiliary",  # likewise, outside of the data plate
    "by-product",  # sampled in the guide alone, and integrated out by sampling it: q(z|a) is a proposal as good as q(z)
    "note",  # observed in the guide, or a factor there: part of Pyro's loss, not of q
    "deterministic",  # a value that was written down, no density
    "subsample",  # a plate's choice of indices
]


def is_deterministic(node: Any) -> bool:
    """Return whether a sample statement writes a value down: ``pyro.deterministic``, or what a reparam leaves of one.

    Args:
        node: the statement as Pyro has it, in a trace or in a message.
    """
    if (node["infer"] or {}).get("_deterministic"):
        return True
    fn = node["fn"]
    if not node["is_observed"] or not isinstance(innermost(fn), dist.Delta):
        return False
    while isinstance(fn, WRAPPERS):
        if isinstance(fn, dist.MaskedDistribution) and fn._mask is False:
            return True
        fn = fn.base_dist
    return False


@dataclass(frozen=True)
class Site:
    """A sample statement of one run.

    ``weight`` is its scale beside N/M in this half; ``mask`` are the entries that count, for a latent those that
    count in both halves.
    """

    name: str
    role: Role
    fn: Any
    value: Tensor
    frames: tuple[CondIndepStackFrame, ...]
    weight: Scale = 1.0
    mask: Any = None
    infer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_drawn(self) -> bool:
        """True if its value is a latent's, and no datum."""
        return self.role not in ("observation", "given", "note")

    def inner(self, plate: DataPlate) -> tuple[CondIndepStackFrame, ...]:
        """Return the vectorized plates within a datapoint that the site is in."""
        return tuple(frame for frame in self.frames if frame.dim not in (None, plate.dim))

    @property
    def batch_shape(self) -> torch.Size:
        """The shape of the site's log probabilities."""
        if isinstance(innermost(self.fn), dist.Unit):
            return self.fn.batch_shape
        of_value = self.value.shape[: self.value.dim() - len(self.fn.event_shape)]
        of_fn: torch.Size = self.fn.batch_shape
        return of_fn if of_fn == of_value else torch.broadcast_shapes(of_fn, of_value)  # which takes 20 times as long


def frames_around(statement: Mapping[str, Any]) -> tuple[CondIndepStackFrame, ...]:
    """Return the plates around a sample statement that is being run."""
    return tuple(statement["cond_indep_stack"])


class DataPlate(NamedTuple):
    """The plate of the datapoints: ``dim`` counted from the right, ``size`` M and ``full_size`` N of Eq. (8).

    N is M where the plate has no size or no other.
    """

    name: str
    dim: int
    size: int
    full_size: int

    @property
    def scale(self) -> float:
        """N/M."""
        return self.full_size / self.size


def density(name: str, fn: Any, value: Tensor, *, drawn: bool = False) -> Tensor:
    """Return fn's log density of ``value``; raise ``ValueError`` if it has none there, or for its own draws alone.

    Args:
        name: the site's.
        fn: its distribution.
        value: data, or ``drawn`` by the other half.
        drawn: whether it is a latent's.
    """
    try:
        return fn.log_prob(value)
    except ValueError as error:
        if "within the support" not in str(error) or not isinstance(value, Tensor):
            raise
        raise outside_error(name, fn, value, drawn=drawn) from error
    except (KeyError, RuntimeError) as error:
        if (words := _in_words(name, fn, value, error)) is None:
            raise
        raise words from error


def _in_words(name: str, fn: Any, value: Any, error: Exception) -> ValueError | None:
    """Return the error for a distribution that has no density of a value, ``None`` if ``error`` is of another kind."""
    if isinstance(value, Tensor) and not value.is_floating_point() and _takes_floats(fn, value):
        return ValueError(
            f"expected data of a dtype that site {name!r} ~ {type(innermost(fn)).__name__} has a density of, got "
            f"{value.dtype}; pass x.float()"
        )
    of_others = str(error).startswith("expected ")  # by a distribution of this library, which says it better
    if of_others or not isinstance(error, KeyError | NotImplementedError):
        return None
    return ValueError(
        f"expected a density at any z, got site {name!r} ~ {type(innermost(fn)).__name__}, a flow without an "
        "inverse (as planar ones are), whose density is known for its own draws alone; use an objective that "
        "follows the draws, SGVB() or IWAE(K), or an invertible flow; transforms after it take cache_size=1"
    )


def _takes_floats(fn: Any, value: Tensor) -> bool:
    try:
        fn.log_prob(value.to(torch.get_default_dtype()))
    except (KeyError, RuntimeError, ValueError):
        return False
    return True


def masked_log_prob(node: Any, value: Tensor) -> Tensor:
    """Return the log probability that a traced sample statement gives ``value``, masked and not weighed, in nats.

    Args:
        node: the statement's node in a trace.
        value: of the shape of its draws.
    """
    return scale_and_mask(torch.as_tensor(node["fn"].log_prob(value)), mask=node["mask"])


def weighed_log_prob(node: Any, value: Tensor) -> Tensor:
    """Return the log probability that a traced sample statement gives ``value``, masked and times its scale, in nats.

    Args:
        node: the statement's node in a trace.
        value: of the shape of its draws.
    """
    return scale_and_mask(torch.as_tensor(node["fn"].log_prob(value)), node["scale"], node["mask"])


def joint_mask(model: Any, guide: Any) -> Any:
    """Return the mask that holds where both do."""
    if model is None or model is True:
        return guide
    if guide is None or guide is True or guide is model:
        return model
    return model & guide if isinstance(model, Tensor) or isinstance(guide, Tensor) else bool(model and guide)


def apart_from_mask(fn: Any, mask: Any) -> tuple[Any, Any]:
    """Return the distribution inside of ``fn.mask(...)``, and the mask that holds where this one and ``mask`` do."""
    while isinstance(fn, dist.MaskedDistribution):
        fn, mask = fn.base_dist, joint_mask(mask, _as_written(fn._mask))
    return fn, mask


def _as_written(mask: Any) -> Any:
    """Return a mask before Pyro expanded it to a distribution's shape, which may have a dimension for summed values."""
    if not isinstance(mask, Tensor):
        return mask
    for dim in range(mask.dim()):
        mask = mask.narrow(dim, 0, 1) if mask.stride(dim) == 0 else mask
    while mask.dim() and mask.shape[0] == 1:
        mask = mask[0]
    return mask


def masks_cells(fn: Any) -> bool:
    """Return whether a mask is inside of the event of a distribution: ``fn.mask(...).to_event(1)``."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    return isinstance(fn, dist.MaskedDistribution)


def replace_site(site: Site, **changes: Any) -> Site:
    """Return a copy of the site with other values; ``dataclasses.replace`` takes longer."""
    return Site(**{**site.__dict__, **changes})


def holds(site: Any, value: Tensor) -> bool:
    """Return whether a node of a trace has this value, wherever it isn't masked off.

    Args:
        site: the node.
        value: of the shape of the node's value, or of another one, which is no such value.
    """
    seen, mask = site["value"], site["mask"]
    if value.shape != seen.shape:
        return False
    equal = value.to(seen.dtype) == seen
    if isinstance(mask, Tensor):
        equal = equal | ~mask.reshape(mask.shape + (1,) * len(site["fn"].event_shape))
    return mask is False or bool(equal.all())
