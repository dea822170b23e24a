"""The likelihood p(x|z) of a model at given latents, and its observations drawn anew.

Shapes: M datapoints of a minibatch, R rows.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.distributions import angles
from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.model_guide.contract import check_call, read
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.reading import read_traces
from pyro_aevb.model_guide.sites import is_deterministic, masked_log_prob
from pyro_aevb.model_guide.traces import PyroCallable, number_of_datapoints, on_a_side, trace_model
from pyro_aevb.posterior.cells import cells_of
from pyro_aevb.posterior.proposals import At, Layout


class Redrawn(Messenger):
    """Draw observed sites, as the latents are drawn: one run of the model is then (z, x) ~ p(z) p(x|z).

    Latents that are marked for enumeration are drawn too.

    Args:
        names: of the sites; the others are as they were observed.

    Attributes:
        observed: by the names of these sites, what they observed.
        fns: their distributions.
        latent_fns: those of the latents.
        values: what was drawn, latents among it.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = names
        self.observed: dict[str, Any] = {}
        self.fns: dict[str, Any] = {}
        self.latent_fns: dict[str, Any] = {}
        self.values: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        infer = msg["infer"] or {}
        msg["infer"] = {key: value for key, value in infer.items() if key != "enumerate"}
        if (
            not msg["is_observed"]
            or msg["name"] not in self._names
            or is_deterministic(msg)
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


class _Terms(Messenger):
    """Keep the log densities of all sites, by name; of one of them, that of each of its cells, observed or not."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self._site = site
        self.found: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == self._site:
            cells = innermost(cells_of(msg["fn"])[0])
            self.found[msg["name"]] = torch.as_tensor(cells.log_prob(msg["value"]))
        elif not site_is_subsample(msg) and not isinstance(innermost(msg["fn"]), dist.Unit):
            self.found[msg["name"]] = masked_log_prob(msg, msg["value"])


class Likelihood(NamedTuple):
    """The site of x, its layout, the layouts of the latents by name, all observations, and the most rows of a run.

    A minibatch of the N datapoints of a plate has N of them at most.
    """

    site: str
    layout: Layout
    latents: dict[str, Layout]
    observed: tuple[str, ...]
    most_rows: int = sys.maxsize

    def mean(self, model: PyroCallable, values: Mapping[str, Tensor], *args: Tensor) -> Tensor:
        """Return the mean of p(x|z) for each of R rows, (R, ...).

        Args:
            model: in the mode that it is to be run in.
            values: of the latents, (R, ...) each.
            args: R rows.

        Raises:
            ValueError: for a latent without a value, and as :func:`mean_of`.
        """
        if missing := [name for name in self.latents if name not in values]:
            raise ValueError(
                f"expected a value of every latent that x is drawn from, got none of {missing}, which the guide "
                "doesn't draw; decode(model, guide, {site: value, ...}, x) takes the values of all"
            )
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
        ValueError: for a model without this site, or with several and no name given, one that reads x to make x, and
            one that breaks the contract.
    """
    check_call("model", model, args)
    observed = _observed(model, args)
    runs: list[Redrawn] = []

    def drawn(*args: Tensor) -> Any:
        with Redrawn(observed) as run:
            result = model(*args)
        runs[:] = [run]
        return result

    reading = read(drawn, None, args)
    reading.require_local()
    name = one_of_sites(list(runs[0].observed), site, "observation")
    check_drawn_from_latents(model, args, with_others_in_place(args, runs[0], name), runs[0], name)
    latents = {each: Layout.of(found, reading) for each, found in reading.latents.items()}
    most = reading.plate.full_size if reading.plate.full_size > reading.plate.size else sys.maxsize
    return Likelihood(name, Layout.of(reading.observations[name], reading), latents, observed, most)


def _observed(model: PyroCallable, args: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Return the names of the observations of the datapoints, whatever these are."""
    with evaluated(model, None) as (its_model, _, _), Redrawn(()):
        trace = on_a_side(lambda: trace_model(its_model, None, args))
    return read_traces(trace, None, number_of_datapoints(args)).observed


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
    """Return the mean of each cell of a likelihood; of a category that of its numbers, of an angle that on the circle.

    Args:
        fn: p(x|z).

    Raises:
        ValueError: for a distribution whose mean can't be written down, and angles in another unit than radians.

    >>> from pyro_aevb.posterior.likelihood import mean_of
    >>> mean_of(dist.Categorical(torch.tensor([0.5, 0.25, 0.25])))
    tensor(0.7500)
    """
    try:
        mean = angles.mean(fn)
    except (NotImplementedError, AttributeError) as error:
        raise ValueError(
            f"expected a likelihood with a mean, got {type(innermost(fn)).__name__}, which can't say its own; use "
            "sample, whose draws have one"
        ) from error
    base = innermost(fn)
    if mean.isnan().all() and isinstance(base, torch.distributions.Categorical):
        return (base.probs * torch.arange(base.probs.shape[-1], device=mean.device)).sum(-1).expand(mean.shape)
    return mean


def check_drawn_from_latents(
    model: PyroCallable, args: tuple[Tensor, ...], others: tuple[Tensor, ...], drawn: Redrawn, site: str
) -> None:
    """Check that what was drawn is a draw of x: p(z) and p(x|z) stay as they are with other numbers in the place of x.

    Args:
        model: p(x, z).
        args: of the run.
        others: the same with other numbers in the place of x.
        drawn: from that run.  What it left observed has to have the same density too.
        site: the name of the site of x.

    Raises:
        ValueError: for a model that reads x to make x (teacher forcing).
    """

    def terms(*args: Tensor) -> dict[str, Tensor]:
        with pyro.validation_enabled(False), _Terms(site) as run, At(drawn.values), Redrawn(drawn.observed):
            model(*args)
        return run.found

    with evaluated(model, None) as (model, _, _):
        one, other = (on_a_side(functools.partial(terms, *each)) for each in (args, others))
    others_stay = set(drawn.observed) == {site}
    relevant = {name: one[name] for name in one if others_stay or name == site or name in drawn.latent_fns}
    if not all(name in other and _same(value, other[name]) for name, value in relevant.items()):
        raise ValueError(
            f"expected a model whose x is drawn given its latents, got one that reads x to make x at site {site!r} "
            "(teacher forcing, totals of x); pass what it reads as an argument of its own, or write the sampling as a "
            "model of its own, one site a step"
        )


def check_drawn_in(
    model: PyroCallable, args: tuple[Tensor, ...], site: str, place: int, missing: Tensor | None
) -> None:
    """Check likewise that what is missing of x is drawn given the latents and the rest.

    Args:
        model: p(x, z).
        args: a minibatch.
        site: the name of the site that observes x itself.
        place: of x among the arguments.
        missing: where it isn't known, of x's shape and of bool; ``None`` for all of it.

    Raises:
        ValueError: for a model that reads there what x is.
    """
    with evaluated(model, None) as (its_model, _, _):
        drawn = on_a_side(functools.partial(_redrawn, its_model, site, *args))
    new = other_values(args[place], drawn.values[site])
    new = new if missing is None else torch.where(missing, new, args[place])
    check_drawn_from_latents(model, args, (*args[:place], new, *args[place + 1 :]), drawn, site)


def _redrawn(model: PyroCallable, site: str, *args: Tensor) -> Redrawn:
    with Redrawn((site,)) as run:
        model(*args)
    return run


def with_others_in_place(args: tuple[Tensor, ...], drawn: Redrawn, site: str) -> tuple[Tensor, ...]:
    """Return arguments with other numbers in the place of x: of what a site observes, and others in the same argument.

    Args:
        args: of a run.
        drawn: from that run.
        site: the name of the site of x.
    """
    place = drawn.observed[site].untyped_storage().data_ptr()
    seen = [name for name, value in drawn.observed.items() if value.untyped_storage().data_ptr() == place]
    pairs = [(drawn.observed[name], drawn.values[name]) for name in seen]
    return tuple(_changed(arg, pairs) if arg.untyped_storage().data_ptr() == place else arg for arg in args)


def other_values(x: Tensor, draw: Tensor) -> Tensor:
    """Return what x might be as well: a draw of the model, and where that is x itself, a neighbouring category.

    Args:
        x: the data, (M, ...).
        draw: of the same shape.
    """
    return torch.where(draw == x, (1 - x.to(draw.dtype)).abs(), draw).to(x.dtype)


def _changed(arg: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return an argument with other numbers where views of it are; ``pairs``: of these, and draws in their places."""
    new = arg.detach().clone()
    if new.stride() != arg.stride() or any(view.shape != draw.shape for view, draw in pairs):
        return new + 1 if new.is_floating_point() else new.roll(1, 0)
    for view, draw in pairs:
        part = new.as_strided(view.shape, view.stride(), view.storage_offset() - arg.storage_offset())
        part.copy_(other_values(part, draw))
    return new


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-4, equal_nan=True)
