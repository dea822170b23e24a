"""log p(x) of a model whose latents are all summed out, or that has none: a number, without draws.

Shapes: M datapoints.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.evidence.estimator import Evaluate, Problem
from pyro_aevb.model_guide.log_density import capture_log_density, log_density
from pyro_aevb.samplers.ais import Tick
from pyro_aevb.samplers.latent_space import check_repeats


def summed(problem: Problem) -> Evaluate:
    """Return the function that runs the model on a minibatch: ``prepare`` of the methods that would move latents.

    Args:
        problem: of a model without latents that are left.

    Raises:
        ValueError: for a model with random numbers of its own.
    """
    check_repeats(problem.model, lambda: log_density(problem.model, _nothing, *problem.args).log_joint)
    density = capture_log_density(problem.model, _nothing, compile=problem.compile)
    density.expected_calls = problem.num_batches

    def evaluate(tick: Tick, *args: Tensor) -> Evidence:
        value = density(*args).log_joint[0].double()
        tick(1)
        settled = torch.ones_like(value, dtype=torch.bool)
        return Evidence(value, torch.zeros_like(value), "numerical", settled=settled, method=("sum",) * len(value))

    return evaluate


def _nothing(*args: Any) -> None:
    """Sample nothing: the guide of a model without latents."""
