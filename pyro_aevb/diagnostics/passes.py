"""Runs of a pair with several draws for each datapoint, read.

Shapes: K draws, M datapoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.traces import PyroCallable, broadcasting, number_of_datapoints, trace_pair
from pyro_aevb.posterior.proposals import Layout


def passes(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Tensor, ...],
    reading: Reading,
    num_particles: int,
    vectorize: bool,
) -> Iterator[tuple[Reading, int]]:
    """Yield a reading of the pair with all K draws, and K; or K readings with one draw each, and 1.

    Args:
        model: p(x, z).
        guide: q(z|x).
        args: a minibatch.
        reading: of the pair without draws, which the layouts of these are from too.
        num_particles: K.
        vectorize: whether the draws are made in one pass.
    """
    at_once = num_particles if vectorize else 1
    for _ in range(num_particles // at_once):
        particles = (-1 - reading.depth, at_once) if at_once > 1 else None
        plate: Any = nullcontext() if particles is None else pyro.plate("particles", at_once, dim=particles[0])
        with plate, broadcasting(particles):
            guide_trace, model_trace = trace_pair(model, guide, args)
            yield read_traces(model_trace, guide_trace, number_of_datapoints(args), particles), at_once


def layouts_of(reading: Reading) -> dict[str, Layout]:
    """Return the layouts of the latents, by name."""
    return {name: Layout.of(site, reading) for name, site in reading.latents.items()}


def guide_draws(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Tensor, ...],
    reading: Reading,
    num_particles: int,
    vectorize: bool,
) -> dict[str, Tensor]:
    """Return draws from q(z|x), {site: (K, M, ...)}; the arguments are those of :func:`passes`."""
    drawn: dict[str, list[Tensor]] = {}
    layouts = layouts_of(reading)
    for found, at_once in passes(model, guide, args, reading, num_particles, vectorize):
        for name, layout in layouts.items():
            value = layout.datapoints_second(found.latents[name].value, at_once, number_of_datapoints(args))
            drawn.setdefault(name, []).append(value)
    return {name: torch.cat(each) for name, each in drawn.items()}
