r"""The importance-weighted estimate of log p(x), with the guide as proposal.

.. math:: \log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^{K} w_k, \qquad w_k = p(x, z_k) / q(z_k|x), \quad z_k \sim q(z|x)

In expectation it is the bound L_K of Burda, Grosse and Salakhutdinov, *Importance weighted autoencoders*, 2016,
Eq. (8): below log p(x), and rising towards it with K.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.evidence.estimator import Estimator, Evaluate, Problem
from pyro_aevb.evidence.importance_weights import WeightSums, widened
from pyro_aevb.model_guide.log_density import capture_log_density
from pyro_aevb.samplers.ais import Tick


@final
@dataclass(frozen=True)
class Importance(Estimator):
    """``method="importance"``: K draws from the guide for each datapoint (``num_particles``, 1000 by default).

    Args:
        rows_per_pass: particles times datapoints evaluated at a time; bounds memory.
    """

    rows_per_pass: int = 5000

    def prepare(self, problem: Problem) -> Evaluate:
        """Return the function that draws from the guide of a minibatch.

        Raises:
            ValueError: for a problem without a guide.
        """
        weigh = self.weigher(problem)

        def evaluate(tick: Tick, *args: Tensor) -> Evidence:
            sums = weigh(tick, *args)
            value, error, ess = sums.result()
            return Evidence(value, widened(error, sums.num_particles), "lower", ess, sums.pareto_k())

        return evaluate

    def weigher(self, problem: Problem) -> Callable[..., WeightSums]:
        """Return the function of a tick and a minibatch that draws from the guide and sums the weights.

        Raises:
            ValueError: for a problem without a guide.
        """
        if problem.guide is None:
            raise ValueError("expected a guide to draw from, got None; use method='ais', which starts from the prior")
        num_particles = problem.num_particles or 1000
        passes = max(1, -(-num_particles * len(problem.args[0]) // self.rows_per_pass))
        chunk = -(-num_particles // passes)
        passes = -(-num_particles // chunk)
        density = capture_log_density(
            problem.model, problem.guide, num_particles=chunk, vectorize=problem.vectorize, compile=problem.compile
        )
        density.expected_calls = passes * problem.num_batches

        def weigh(tick: Tick, *args: Tensor) -> WeightSums:
            sums = WeightSums(num_particles)
            for done in range(0, num_particles, chunk):
                sums.add(density(*args).summed_log_weight[: num_particles - done])  # the last pass may draw too many
                tick(1 / passes)
            return sums

        return weigh
