"""Log densities of a model at draws of its latents that somebody else made.

Shapes: L draws, M datapoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_aevb.model_guide.reading import read_traces
from pyro_aevb.model_guide.traces import PyroCallable, number_of_datapoints, trace_model
from pyro_aevb.posterior.proposals import At, Layout


class DensitiesAt(NamedTuple):
    """log p(x, z), (L, M), and log p(x|z) of each observed site, {site: (L, M)}, in nats."""

    log_joint: Tensor
    log_likelihood: dict[str, Tensor]


@torch.no_grad()
def densities_at(
    model: PyroCallable,
    layouts: Mapping[str, Layout],
    values: Mapping[str, Tensor],
    args: tuple[Tensor, ...],
    vectorize: bool = True,
) -> DensitiesAt:
    """Return the log densities of a model at L draws for each datapoint of a minibatch; masks count, scales don't.

    Args:
        model: p(x, z), in evaluation mode.
        layouts: of the latents, by name.
        values: the draws, {site: (L, M, ...)}.
        args: the minibatch.
        vectorize: whether the model is run on all draws at once.
    """
    num_draws, width = len(next(iter(values.values()))), next(iter(layouts.values())).width
    if not vectorize and num_draws > 1:
        each = [densities_at(model, layouts, {n: v[[k]] for n, v in values.items()}, args) for k in range(num_draws)]
        sites = each[0].log_likelihood
        likelihood = {name: torch.cat([one.log_likelihood[name] for one in each]) for name in sites}
        return DensitiesAt(torch.cat([one.log_joint for one in each]), likelihood)
    particles = (-width, num_draws) if num_draws > 1 else None
    at = {name: layouts[name].in_a_run(value) for name, value in values.items()}
    if particles is None:
        at = {name: value[0] for name, value in at.items()}
        with poutine.block(), At(at):
            trace = trace_model(model, None, args)
    else:
        with poutine.block(), At(at), pyro.plate("particles", num_draws, dim=-width):
            trace = trace_model(model, None, args)
    reading = read_traces(trace, None, number_of_datapoints(args), particles)
    joint = reading.sum_log_prob((reading.latents | reading.observations).values())
    return DensitiesAt(joint, {name: reading.log_prob(site) for name, site in reading.observations.items()})
