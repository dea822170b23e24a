"""log p(x) by importance sampling where its weights can be relied on, by annealing where they can't.

The tail of a datapoint's weights says which it is (Vehtari et al. 2024; :func:`.importance_weights.pareto_k`).

Shapes: M datapoints, R of them annealed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from pyro_aevb.evidence.annealing import AIS
from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.evidence.estimator import Estimator, Evaluate, Problem, check_sizes
from pyro_aevb.evidence.importance import Importance
from pyro_aevb.evidence.importance_weights import SAFE_PARETO_K, check_weights, relied_on, widened
from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.guide_supports import narrower
from pyro_aevb.samplers.ais import Tick

SHARE_OF_IMPORTANCE = 0.1  # of the progress bar


@final
@dataclass(frozen=True)
class Auto(Estimator):
    """``method="auto"``: importance sampling where pareto_k vouches for it, AIS for the other datapoints.

    Each datapoint has K draws from the guide (``num_particles``, 1000 by default).  Unless the shape of its weights'
    tail is below ``largest_pareto_k`` by two standard errors (:func:`.importance_weights.relied_on`), or if all weights
    are zero, it is annealed.  So are all of them without a guide, and with one that has no density in a part of the
    prior's support, of which weights can't tell.  ``Evidence.method`` says how each value came about;
    ``pareto_k`` is that of the weights behind it, NaN for AIS, whose chains are too few for a tail.

    For up to 3 latent dimensions ``method="quadrature"`` is faster where many datapoints would be annealed, often many
    times, and more precise.  It doesn't take part here, where each value is a lower bound in expectation: its values
    are on neither side of log p(x).

    The datapoints of a minibatch that are annealed are a minibatch of their own, if the model takes it.

    Args:
        importance: options of importance sampling.
        annealing: options of AIS.
        num_chains: AIS's chains for each datapoint.
        largest_pareto_k: the largest shape of the tail itself for which importance sampling is relied on.  Its
            estimate has an error of about 0.17 from 1000 draws, so that two of them are taken off: 0.35 is left.  With
            fewer draws less is left, below 0 for 100, and nearly every datapoint is annealed; with 5000 it is 0.47.
            Without, tails of 0.7 and more pass by chance, and their values are too low by many of their errors
            (``benchmarks/auto_evidence.py``).

    Raises:
        ValueError: for ``num_chains`` below 1, or a ``largest_pareto_k`` that isn't between 0 and 1.
    """

    importance: Importance = field(default_factory=Importance)
    annealing: AIS = field(default_factory=AIS)
    num_chains: int = 16
    largest_pareto_k: float = SAFE_PARETO_K

    def __post_init__(self) -> None:
        check_sizes(num_chains=self.num_chains)
        if not 0 <= self.largest_pareto_k <= 1:
            raise ValueError(
                f"expected largest_pareto_k between 0 and 1, got {self.largest_pareto_k}; the default is "
                f"{SAFE_PARETO_K}, and to anneal every datapoint use method='ais'"
            )

    def prepare(self, problem: Problem) -> Evaluate:
        """Return the function that weighs, and anneals the datapoints whose weights can't be relied on."""
        path = self.annealing.path(problem.model, problem)

        def anneal(tick: Tick, *args: Tensor) -> Evidence:
            found = self.annealing.forward(path, self.num_chains, args, lambda part: tick(part / 2))[0]
            no_tail = torch.full_like(found.value, torch.nan)
            return replace(found, pareto_k=no_tail, method=("ais",) * len(no_tail))

        if problem.guide is None:
            return anneal
        reading = read(problem.model, problem.guide, problem.args)
        if narrower(reading, problem.model, problem.args) is not None:
            return anneal
        weigh = self.importance.weigher(problem)

        def evaluate(tick: Tick, *args: Tensor) -> Evidence:
            sums = weigh(lambda part: tick(SHARE_OF_IMPORTANCE * part), *args)
            value, error, ess = sums.estimate()
            check_weights(value.masked_fill(value == -torch.inf, 0.0))  # all zero is for AIS, NaN is a fault
            tail = sums.pareto_k()
            error = widened(error, sums.num_particles)
            weighed = Evidence(value, error, "lower", ess, tail, method=("importance",) * len(value))
            relied = relied_on(tail, sums.num_particles, self.largest_pareto_k)
            rows = (~(relied & value.isfinite())).nonzero()[:, 0]
            left = 1 - SHARE_OF_IMPORTANCE
            if not len(rows):
                tick(left)
                return weighed
            index = path.minibatch(rows, *args)
            annealed = anneal(lambda part: tick(left * part), *(arg[index] for arg in args))
            return _replaced(weighed, rows, annealed, rows if len(index) == len(value) else torch.arange(len(rows)))

        return evaluate


def _replaced(weighed: Evidence, rows: Tensor, annealed: Evidence, places: Tensor) -> Evidence:
    """Return the evidence of a minibatch, at ``rows`` (R,) that of ``annealed`` at ``places`` (R,)."""

    def put(field: str) -> Tensor:
        whole: Tensor = getattr(weighed, field)
        return whole.index_copy(0, rows, getattr(annealed, field)[places])

    chosen = set(rows.tolist())
    method = tuple("ais" if m in chosen else "importance" for m in range(len(weighed.value)))
    error, ess = put("standard_error"), put("effective_sample_size")
    return Evidence(put("value"), error, "lower", ess, put("pareto_k"), method=method)
