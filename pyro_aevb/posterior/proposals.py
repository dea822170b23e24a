"""Draws from the guide with their importance weights, and the latents' values put back into a run of the model.

Shapes: K draws, M datapoints; a latent's draws are (K, M, ...), its other plates and its event after that.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_aevb.capture.capture import Capture, Compile
from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.parameters import ParameterRecorder
from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.sites import Site
from pyro_aevb.model_guide.structure import structure
from pyro_aevb.model_guide.supports import Inside
from pyro_aevb.model_guide.traces import PyroCallable, broadcasting, number_of_datapoints, on_a_side, trace_pair

ROWS_PER_PASS = 5000  # draws times datapoints evaluated at a time; bounds memory


class Layout(NamedTuple):
    """The dimensions of a latent in a run with particles.

    ``width``: batch dimensions, that of the particles the first; ``plate``: the data plate's, counted from the right of
    them; ``others``: those of the other plates around it.
    """

    width: int
    plate: int
    others: tuple[int, ...]
    event_shape: tuple[int, ...]

    @property
    def event(self) -> int:
        """How many dimensions its event has."""
        return len(self.event_shape)

    @classmethod
    def of(cls, site: Site, reading: Reading) -> Layout:
        """Return the layout of a latent."""
        dims = [f.dim for f in site.frames if f.vectorized and f.dim is not None and f.dim != reading.plate.dim]
        return cls(reading.depth + 1, reading.plate.dim, tuple(sorted(dims)), tuple(site.fn.event_shape))

    def datapoints_second(self, value: Tensor, num_draws: int, num_data: int) -> Tensor:
        """Return a value of a run as draws, (K, M, ...)."""
        batch, event = value.shape[: value.dim() - self.event], value.shape[value.dim() - self.event :]
        shape = [1] * (self.width - len(batch)) + list(batch)
        value = value.reshape(*shape, *event)
        shape[0], shape[self.plate] = num_draws, num_data
        order = [0, *(self.width + dim for dim in (self.plate, *self.others))]
        left = [d for d in range(self.width) if d not in order]
        value = value.expand(*shape, *event).permute(*order, *left, *range(self.width, value.dim()))
        return value.flatten(len(order) - 1, self.width - 1) if left else value

    def in_a_run(self, draws: Tensor) -> Tensor:
        """Return draws (K, M, ...) as the value that a run with K particles has."""
        dims = sorted([(self.plate, 1), *((dim, 2 + place) for place, dim in enumerate(self.others))])
        shape = [len(draws), *[1] * (self.width - 1)]
        for dim, source in dims:
            shape[self.width + dim] = draws.shape[source]
        ordered = draws.permute(0, *(source for _, source in dims), *range(2 + len(self.others), draws.dim()))
        return ordered.reshape(*shape, *draws.shape[draws.dim() - self.event :])


class At(Messenger):
    """Give the latents of these names their values."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._values and not msg["is_observed"]:
            msg["value"], msg["done"] = self._values[msg["name"]], True


class Proposals:
    """K draws z ~ q(z|x) for each datapoint of a minibatch, and log w = log p(x, z) - log q(z|x), on the fast path.

    Args:
        model: p(x, z), its latents local.
        guide: q(z|x).
        args: a minibatch.
        num_particles: K.
        vectorize: whether all draws of a datapoint may be evaluated in one pass.
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`.
        num_data: how many datapoints to expect.

    Attributes:
        layouts: of the latents, by name.
        alone: whether the pair gives a datapoint by itself the densities that it has in its minibatch; if it knows more
            of a datapoint than its row, or wants a fixed number of rows, it doesn't.
    """

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable,
        *args: Tensor,
        num_particles: int,
        vectorize: bool,
        compile: Compile,
        num_data: int,
    ) -> None:
        parameters = ParameterRecorder()
        self._model, self._guide = parameters(model), parameters(guide)
        reading = read(self._model, self._guide, args)
        if vectorize and num_particles > 1:
            structure(model, guide, args, analytic_kl=False, several=True)
        self.layouts = {name: Layout.of(site, reading) for name, site in reading.latents.items()}
        self._unchecked, self._depth, self._vectorize = reading.unchecked, reading.depth, vectorize
        self.alone = self._takes_one(reading, args)
        self._num_particles = num_particles
        rows = 1 if self.alone else len(args[0])
        self._chunk = min(num_particles, max(1, ROWS_PER_PASS // rows))
        leaves = lambda: {name: p.unconstrained for name, p in parameters.parameters.items()}  # noqa: E731
        self._draw = Capture(self._weighted, leaves, [model, guide], compile=compile)
        self._draw.expected_calls = -(-num_particles // self._chunk) * -(-num_data // rows)

    def __call__(self, *args: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return log w (K, M) of a minibatch and the draws {site: (K, M, ...)}."""
        passes = [self._draw(*args) for _ in range(0, self._num_particles, self._chunk)]
        log_weight, *values = (torch.cat(each)[: self._num_particles] for each in zip(*passes, strict=True))
        return log_weight, dict(zip(self.layouts, values, strict=True))

    @torch.no_grad()
    def _weighted(self, *args: Tensor) -> tuple[Tensor, ...]:
        if self._vectorize:
            return self._one_pass(args, self._chunk)
        particles = [self._one_pass(args, None) for _ in range(self._chunk)]
        return tuple(torch.cat(each) for each in zip(*particles, strict=True))

    def _one_pass(self, args: tuple[Tensor, ...], num_particles: int | None) -> tuple[Tensor, ...]:
        particles = None if num_particles is None else (-1 - self._depth, num_particles)
        plate = nullcontext() if particles is None else pyro.plate("particles", particles[1], dim=particles[0])
        size, k = number_of_datapoints(args), num_particles or 1
        with plate, broadcasting(particles), Inside(self._unchecked) as inside:
            guide_trace, model_trace = trace_pair(self._model, self._guide, args)
            reading = read_traces(model_trace, guide_trace, size, particles)
            log_joint = inside.or_nan(reading.sum_log_prob((reading.latents | reading.observations).values()))
            log_weight = log_joint - reading.sum_log_prob(reading.proposals.values())
        reading.require_latents(self.layouts)
        values = [layout.datapoints_second(reading.latents[n].value, k, size) for n, layout in self.layouts.items()]
        return log_weight, *values

    def _takes_one(self, reading: Reading, args: tuple[Tensor, ...]) -> bool:
        """Return whether the first and the last datapoint have the same densities by themselves."""
        size = number_of_datapoints(args)
        if size == 1:
            return True
        integrated = bool(reading.sites("guide", "by-product"))  # and drawn anew in each run
        drawn = {name: (Layout.of(site, reading), site.value) for name, site in reading.proposals.items()}
        draws = {name: (layout, layout.datapoints_second(value, 1, size)) for name, (layout, value) in drawn.items()}

        def terms(rows: Tensor) -> Tensor:
            values = {name: layout.in_a_run(each[:, rows])[0] for name, (layout, each) in draws.items()}
            with At(values):
                traces = trace_pair(self._model, self._guide, tuple(arg[rows] for arg in args))
            found = read_traces(traces[1], traces[0], len(rows))
            found.require_latents(self.layouts)
            log_joint = found.sum_log_prob((found.latents | found.observations).values())
            return log_joint if integrated else torch.cat([log_joint, found.sum_log_prob(found.proposals.values())])

        try:
            expected = on_a_side(lambda: terms(torch.arange(size, device=args[0].device)))
        except (ValueError, NotImplementedError):  # log q is known for the guide's own draws alone
            return False
        for row in (0, size - 1):
            try:
                found = on_a_side(functools.partial(terms, torch.tensor([row], device=args[0].device)))
            except (ValueError, RuntimeError, IndexError):  # each pair says in its own way that it has other rows
                return False
            if not torch.allclose(found, expected[:, [row]], rtol=1e-3, atol=1e-3, equal_nan=True):
                return False
        return True
