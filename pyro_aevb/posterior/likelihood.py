"""The likelihood p(x|z) of a model at given latents, and its observations drawn anew.

Shapes: M datapoints of a minibatch, R rows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_aevb.model_guide.contract import check_call, read
from pyro_aevb.model_guide.supports import innermost
from pyro_aevb.model_guide.traces import PyroCallable, number_of_datapoints
from pyro_aevb.posterior.proposals import At, Layout


class Redrawn(Messenger):
    """Draw the sites that observe x, as the latents are drawn: one run of the model is then (z, x) ~ p(z) p(x|z).

    Latents that are marked for enumeration are drawn too.

    Args:
        only: the name of the one site that is drawn, where z is that of a datapoint and the others are as they were
            observed; ``None`` for all.

    Attributes:
        observed: by the names of these sites, what they observed.
        fns: their distributions.
        latent_fns: those of the latents.
        values: what was drawn, latents among it.
    """

    def __init__(self, only: str | None = None) -> None:
        super().__init__()
        self._only = only
        self.observed: dict[str, Any] = {}
        self.fns: dict[str, Any] = {}
        self.latent_fns: dict[str, Any] = {}
        self.values: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        infer = msg["infer"] or {}
        msg["infer"] = {key: value for key, value in infer.items() if key != "enumerate"}
        if (
            not msg["is_observed"]
            or self._only not in (None, msg["name"])
            or infer.get("_deterministic")
            or isinstance(innermost(msg["fn"]), dist.Unit)
        ):
            return
        self.observed[msg["name"]] = msg["value"]
        msg["infer"] = {**msg["infer"], "dreamed": True}  # which is read as an observation
        msg["is_observed"], msg["value"], msg["done"] = False, None, False

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            self.values[msg["name"]] = msg["value"]
            fns = self.fns if msg["name"] in self.observed else self.latent_fns
            fns[msg["name"]] = msg["fn"]


class Observed(Messenger):
    """Keep the distributions of all observed sites, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.fns: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            self.fns[msg["name"]] = msg["fn"]


class Likelihood(NamedTuple):
    """The site of x, its layout, the layouts of the latents by name, and how many rows a run may have.

    A minibatch of the N datapoints of a plate has N of them at most.
    """

    site: str
    layout: Layout
    latents: dict[str, Layout]
    most_rows: int = sys.maxsize

    def mean(self, model: PyroCallable, values: Mapping[str, Tensor], *args: Tensor) -> Tensor:
        """Return the mean of p(x|z) for each of R rows, (R, ...); see :func:`mean_of` for the errors.

        Args:
            model: in the mode that it is to be run in.
            values: of the latents, (R, ...) each.
            args: R rows.
        """
        size = number_of_datapoints(args)
        with poutine.block(), At(self.in_a_run(values)), Observed() as found:
            model(*args)
        return self.layout.datapoints_second(mean_of(found.fns[self.site]), 1, size)[0]

    def in_a_run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return latents (R, ...) as a run without particles has them."""
        return {name: self.latents[name].in_a_run(value[None])[0] for name, value in values.items()}


def likelihood_of(model: PyroCallable, args: tuple[Tensor, ...], site: str | None) -> Likelihood:
    """Return where x is in a model whose latents are local.

    Args:
        model: p(x, z).
        args: a minibatch; the values that its sites observe don't count.
        site: the name of the site of x; ``None`` if there is one.

    Raises:
        ValueError: for a model without this site, or with several and no name given, and one that breaks the contract.
    """
    check_call("model", model, args)
    names: list[str] = []

    def drawn(*args: Tensor) -> Any:
        with Redrawn() as run:
            result = model(*args)
        names[:] = run.observed
        return result

    reading = read(drawn, None, args)
    reading.require_local()
    name = one_of_sites(names, site, "observation")
    latents = {each: Layout.of(found, reading) for each, found in reading.latents.items()}
    most = reading.plate.full_size if reading.plate.full_size > reading.plate.size else sys.maxsize
    return Likelihood(name, Layout.of(reading.observations[name], reading), latents, most)


def one_of_sites(names: list[str], site: str | None, kind: str, option: str = "site") -> str:
    """Return the name of a site that was asked for, or of the only one.

    Args:
        names: of the sites that there are.
        site: the one that was asked for, or ``None``.
        kind: "observation" or "latent", for the error.
        option: what it was asked for by, likewise.

    Raises:
        ValueError: for another name, or without a name if there isn't one site.
    """
    if site in names:
        return str(site)
    if site is None and len(names) == 1:
        return names[0]
    remedy = f"pass {option}={names[0]!r}" if names else f"write a model with one, pyro.sample({kind[0]!r}, ...)"
    remedy = f"{remedy}, or another of these" if len(names) > 1 else remedy
    got = "several and no name" if site is None and names else "none" if site is None else repr(site)
    raise ValueError(f"expected the name of one {kind} out of {names}, got {got}; {remedy}")


def mean_of(fn: Any) -> Tensor:
    """Return the mean of each cell of a likelihood; of a category, that of its numbers.

    Args:
        fn: p(x|z).

    Raises:
        ValueError: for a distribution whose mean can't be written down.

    >>> from pyro_aevb.posterior.likelihood import mean_of
    >>> mean_of(dist.Categorical(torch.tensor([0.5, 0.25, 0.25])))
    tensor(0.7500)
    """
    try:
        mean: Tensor = fn.mean
    except (NotImplementedError, AttributeError) as error:
        raise ValueError(
            f"expected a likelihood with a mean, got {type(innermost(fn)).__name__}, which can't say its own; use "
            "sample, whose draws have one"
        ) from error
    base = innermost(fn)
    if mean.isnan().all() and isinstance(base, torch.distributions.Categorical):
        return (base.probs * torch.arange(base.probs.shape[-1], device=mean.device)).sum(-1).expand(mean.shape)
    return mean


def check_drawn_from_latents(model: PyroCallable, args: tuple[Tensor, ...], drawn: Redrawn, site: str) -> None:
    """Check that what was drawn is a draw of x: p(x|z) stays as it is with other numbers in the place of x.

    Args:
        model: p(x, z).
        args: of the run; x is what a site observes, or observes a view of.
        drawn: from that run.
        site: the name of the site of x.

    Raises:
        ValueError: for a model that reads x to make x (teacher forcing).
    """
    place = drawn.observed[site].untyped_storage().data_ptr()
    new = [_changed(arg) if arg.untyped_storage().data_ptr() == place else arg for arg in args]
    given = {name: value for name, value in drawn.values.items() if name != site}
    kept = None if set(drawn.observed) != {site} else site
    with poutine.block(), At(given), Redrawn(kept) as again:
        model(*new)
    one, other = (each.fns[site].log_prob(drawn.values[site]) for each in (drawn, again))
    if one.shape != other.shape or not torch.allclose(one, other, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError(
            f"expected a model whose x is drawn given its latents, got one that reads x to make x at site {site!r} "
            "(teacher forcing); write the sampling as a model of its own, one site a step"
        )


def _changed(arg: Tensor) -> Tensor:
    return arg + 1 if arg.is_floating_point() else arg.roll(1, 0)
