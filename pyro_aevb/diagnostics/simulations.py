"""Pairs (z, x) that the model itself makes, z ~ p(z), x ~ p(x|z): of each, z is one exact draw from p(z|x).

Whatever draws from p(z|x) is compared with them: a guide, its weighted draws, chains.

Shapes: N pairs, L draws, M of a minibatch, J entries of all latents together, two of an angle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_aevb.diagnostics.passes import guide_draws, layouts_of
from pyro_aevb.distributions.angles import wrapped
from pyro_aevb.evaluation_data import minibatches
from pyro_aevb.evidence.estimator import check_sizes, over_minibatches
from pyro_aevb.learners.dreams import DreamArguments, Dreams
from pyro_aevb.model_guide.contract import check_callables, given, read
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.sites import Site
from pyro_aevb.model_guide.structure import structure
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.posterior.angles import are_angles
from pyro_aevb.posterior.gate import Draws, Sampler
from pyro_aevb.posterior.noise import Streams, Use
from pyro_aevb.posterior.posterior import Options, visit_minibatches
from pyro_aevb.posterior.proposals import Layout
from pyro_aevb.progress_bar import progress_bar
from pyro_aevb.random_state import forked, reseed
from pyro_aevb.warning import warn

AT_ONCE = 100  # pairs that are made in one run, whatever batch_size is: the noise depends on it


class Posteriors(NamedTuple):
    """Draws from p(z|x) for a minibatch, ``draws`` {site: (L, M, ...)}.

    ``model``: in evaluation mode.  ``layouts``: of the latents.  ``rows``: where the minibatch is among the datapoints.
    ``args``: the minibatch.
    """

    model: PyroCallable
    layouts: Mapping[str, Layout]
    draws: Mapping[str, Tensor]
    rows: slice
    args: tuple[Tensor, ...]


Visit = Callable[[Posteriors], None]


class Simulated(NamedTuple):
    """N pairs: ``latents`` {site: (N, ...)}, and ``args``, a tensor (N, ...) each, with x in the place of the data."""

    latents: dict[str, Tensor]
    args: tuple[Tensor, ...]

    @property
    def x(self) -> Tensor:
        """The arguments side by side, (N, D), in float64."""
        return side_by_side(self.args, 1)


class Simulations:
    """A pair, data that say what its arguments are like, and how the posterior is drawn from.

    Args:
        model: p(x, z).
        guide: q(z|x), or ``None``.
        args: the data, by position.
        kwargs: likewise, by name.
        options: of the draws from p(z|x).
        dream_arguments: as for :class:`~pyro_aevb.WakeSleep`.
        given: the options that were given, by name.

    Attributes:
        data: the tensors of the data, (N, ...) each.
        names: of the latents.

    Raises:
        ValueError, TypeError: for data, options or a pair that can't be used.
    """

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        dream_arguments: DreamArguments | None,
        given: Mapping[str, Any],
    ) -> None:
        check_callables(model, guide)
        options.request(guide)
        batches, self._model, self._guide = over_minibatches(model, guide, args, kwargs, options.batch_size, given)
        parts = list(batches)
        self.data = tuple(torch.cat(each) for each in zip(*parts, strict=True))
        self._options, self._dream_arguments = options, dream_arguments
        self._at_once = self._rows_of_a_run()
        self._streams = Streams(options.seed)
        latents = self._reading(self._rows(0, self._at_once)).latents
        self.names = list(latents)
        angles = {name: are_angles(site.fn).to(self.data[0].device) for name, site in latents.items()}
        self._angles = {name: angle for name, angle in angles.items() if angle.any()}

    def _rows_of_a_run(self) -> int:
        """Return how many pairs are made in one run: 100, or as many as there are data if these must be no more."""
        number = len(self.data[0])
        if number < AT_ONCE:
            try:
                read(self._model, self._guide, self._rows(0, AT_ONCE))
            except (ValueError, RuntimeError, IndexError):  # a plate has no more than its N
                return number
        return AT_ONCE

    def _rows(self, begin: int, end: int) -> tuple[Tensor, ...]:
        """Return rows of the data, from the first again after the last."""
        rows = torch.arange(begin, end, device=self.data[0].device) % len(self.data[0])
        return tuple(arg[rows] for arg in self.data)

    def _reading(self, args: tuple[Tensor, ...]) -> Reading:
        """Return the reading of a minibatch; raise ``ValueError`` unless all latents are local and count."""
        reading = read(self._model, self._guide, args)
        reading.require_local()
        reading.require_density()
        if not reading.latents:
            raise ValueError("expected a model with latents, got none; add pyro.sample('z', ...) in its data plate")
        for name, site in reading.latents.items():
            if site.mask is False or (isinstance(site.mask, Tensor) and not site.mask.all()):
                raise ValueError(
                    f"expected latents that all count, got site {name!r} behind a mask; leave out the datapoints that "
                    "it is masked for, or pass datapoints of one length"
                )
        return reading

    @torch.no_grad()
    def draw(self, number: int) -> Simulated:
        """Return N pairs; what isn't observed (labels, masks, lengths) is that of the data, row after row.

        Args:
            number: N.

        Raises:
            ValueError: for a model whose draws can't be told from its arguments, see :class:`~pyro_aevb.WakeSleep`.
        """
        check_sizes(num_simulations=number)
        at_once = self._at_once
        parts: list[Simulated] = []
        with evaluated(self._model, self._guide) as (model, guide, _), forked(), poutine.block():
            first = self._rows(0, at_once)
            dreams = Dreams(model, _prior(model) if guide is None else guide, first, self._dream_arguments)
            for begin in range(0, number, at_once):
                reseed(self._streams.seed(begin, "simulations"))
                args = self._rows(begin, begin + at_once)
                trace, made = dreams.draw(args)
                reading = read_traces(trace, None, at_once)
                _check_masks(self._reading(args), read(model, guide, made))
                latents = {name: _rows(reading.latents[name], reading, at_once) for name in self.names}
                parts.append(Simulated(self._in_turns(latents), made))
        latents = {name: torch.cat([part.latents[name] for part in parts])[:number] for name in self.names}
        return Simulated(
            latents, tuple(torch.cat(each)[:number] for each in zip(*(p.args for p in parts), strict=True))
        )

    def _in_turns(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return values of the latents, angles from -pi to pi: a guide may write the same ones as other numbers."""
        turned = {name: torch.where(angle, wrapped(values[name]), values[name]) for name, angle in self._angles.items()}
        return {**values, **turned}

    def coordinates(self, values: Mapping[str, Tensor], dims: int) -> Tensor:
        """Return latents side by side, in float64, (..., J); angles as (cos z, sin z), near where these are.

        Args:
            values: {site: (..., entries)}.
            dims: how many dimensions on the left are none of the entries.
        """
        found: list[Tensor] = []
        for name in self.names:
            each, angle = values[name], self._angles.get(name)
            found += (
                [each] if angle is None else [torch.where(angle, each.cos(), each), torch.where(angle, each.sin(), 0)]
            )
        return side_by_side(found, dims)

    def visit(self, args: tuple[Tensor, ...], visit: Visit) -> None:
        """Draw from p(z|x) for each datapoint and hand the draws on, a minibatch after the other.

        Args:
            args: tensors (N, ...), of the pairs or the data.
            visit: called with the draws of each minibatch.
        """
        if self._options.method == "guide" and self._guide is not None:
            self._visit_guide(args, visit)
            return

        trusted: list[Tensor] = []

        def of_gate(
            model: PyroCallable, gate: Sampler, draws: Draws, places: list[int], args: tuple[Tensor, ...]
        ) -> None:
            trusted.append(draws.trusted)
            rows = slice(places[0], places[-1] + 1)
            visit(Posteriors(model, gate.layouts, self._in_turns(draws.values), rows, args))

        batches = minibatches(args, min(self._options.batch_size, self._at_once))
        for batch in batches:
            self._reading(batch)
        visit_minibatches(self._model, self._guide, batches, self._options, self._streams, of_gate)
        some = torch.cat(trusted)
        if not some.all():
            warn(
                f"the draws of {int((~some).sum())} of {len(some)} datapoints aren't to be trusted, as posterior() "
                "marks them, and count like the others here: if all latents are continuous, use method='auto', with "
                "chains=Chains(...) that are longer, else train a wider guide"
            )

    @torch.no_grad()
    def _visit_guide(self, args: tuple[Tensor, ...], visit: Visit) -> None:
        """Draw from the guide, as many datapoints in a run as are simulated at once."""
        options, batches, done = self._options, minibatches(args, self._at_once), 0
        bar = progress_bar(show=options.progress, total=batches.num_data, desc="q(z|x)", unit=" datapoints", delay=1)
        with evaluated(self._model, self._guide) as (model, guide, _), forked(), poutine.block(), bar:
            for batch in batches:
                reading = self._reading(batch)
                if options.vectorize and not done:
                    structure(model, guide, batch, analytic_kl=False, several=True)
                reseed(self._streams.seed(done, "proposals"))
                draws = guide_draws(model, guide, batch, reading, options.num_draws, options.vectorize)
                rows = slice(done, done + len(batch[0]))
                visit(Posteriors(model, layouts_of(reading), self._in_turns(draws), rows, batch))
                bar.update(len(batch[0]))
                done = rows.stop

    def seed(self, use: Use) -> int:
        """Return the seed of one use."""
        return self._streams.seed(0, use)

    def noise(self, use: Use, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers of a shape, in float64, of one use."""
        device = self.data[0].device
        generator = torch.Generator(device).manual_seed(self.seed(use))
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=device)


def given_of(options: Options, **own: tuple[Any, Any]) -> dict[str, Any]:
    """Return the options that aren't at their defaults, by name.

    Args:
        options: those that all have in common.
        own: options that aren't among these or have another default, each with its default.
    """
    return {name: value for name, value in options.given().items() if name not in own} | given(**own)


def side_by_side(values: Iterable[Tensor], dims: int) -> Tensor:
    """Return the entries of several tensors side by side, in float64, (..., J).

    Args:
        values: of the same ``dims`` dimensions on the left, which are none of the entries.
        dims: how many.
    """
    return torch.cat([value.reshape(*value.shape[:dims], -1).double() for value in values], -1)


def unit_scale(values: Tensor) -> Tensor:
    """Return the standard deviation of each column of (N, J), 1 for one that is constant, (J,)."""
    scale = values.std(0) if len(values) > 1 else torch.zeros_like(values[0])
    return torch.where(scale > 0, scale, 1.0)


def _prior(model: PyroCallable) -> PyroCallable:
    """Return the prior as a guide, for a pair without one."""

    def prior(*args: Any) -> None:
        with poutine.block(hide_fn=lambda site: site["type"] == "sample" and site["is_observed"]):
            model(*args)

    return prior


def _rows(site: Site, reading: Reading, size: int) -> Tensor:
    return Layout.of(site, reading).datapoints_second(site.value, 1, size)[0]


def _check_masks(data: Reading, made: Reading) -> None:
    """Raise ``ValueError`` if a mask is made from x: what is masked off then tells something of z."""
    for name, site in data.observations.items():
        mask, other = site.mask, made.observations[name].mask
        same = torch.equal(mask, other) if isinstance(mask, Tensor) and isinstance(other, Tensor) else mask is other
        if not same:
            raise ValueError(
                f"expected masks that are the same whatever x is, got another one at site {name!r} for simulated data; "
                "pass the mask as an argument of its own"
            )
