"""log p(x) of a Pyro model by annealed sequential Monte Carlo: AIS with resampling, its error from replicates.

The sampling itself is in :mod:`pyro_aevb.samplers.smc`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from pyro_aevb.evidence.annealing import AIS
from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.evidence.estimator import Estimator, Evaluate, Problem, check_sizes
from pyro_aevb.evidence.importance_weights import log_mean, widened
from pyro_aevb.samplers import smc
from pyro_aevb.samplers.ais import Tick
from pyro_aevb.samplers.annealed_path import Start

PILOT = 2  # temperatures of the pilot for one of the ladder
SHARE_OF_PILOT = 0.2  # of the progress bar


@final
@dataclass(frozen=True)
class SMC(Estimator):
    """``method="smc"``: R replicates of N particles (``num_particles``, 16 by default), annealed with resampling.

    A pilot run lays each datapoint's own temperatures where its weights change, and tunes its step sizes; then both are
    frozen, so that each replicate's estimate of p(x) is unbiased.  The value is the logarithm of their mean; its error
    comes from their differences.  Fewer temperatures do than AIS needs, where a posterior is far from the start.

    Args:
        num_temperatures: T, steps from beta = 0 to 1; the pilot has twice as many.
        num_leapfrog: leapfrog steps at each temperature.
        num_replicates: R.
        start: ``"prior"``, along p(z) p(x|z)^beta, or ``"guide"``, along q(z|x)^(1-beta) p(x, z)^beta.
        target_acceptance: the acceptance rate that step sizes are tuned to.

    Raises:
        ValueError: for options outside their range.
    """

    num_temperatures: int = 100
    num_leapfrog: int = 5
    num_replicates: int = 16
    start: Start = "prior"
    target_acceptance: float = 0.65

    def __post_init__(self) -> None:
        check_sizes(num_replicates=self.num_replicates, num_temperatures=self.num_temperatures)
        self._pilot()

    def _pilot(self) -> AIS:
        return AIS(
            PILOT * self.num_temperatures,
            num_leapfrog=self.num_leapfrog,
            start=self.start,
            target_acceptance=self.target_acceptance,
        )

    def prepare(self, problem: Problem) -> Evaluate:
        """Return the function that lays the ladders of a minibatch and runs its replicates.

        Raises:
            ValueError: for a start from the guide in a problem without one.
        """
        pilot, num_particles = self._pilot(), problem.num_particles or 16
        path = pilot.path(problem.model, problem)

        def evaluate(tick: Tick, *args: Tensor) -> Evidence:
            density = path.at(*args)
            ladder = smc.pilot(
                density,
                pilot.betas(),
                path.draw(num_particles, *args),
                self.num_temperatures,
                self.num_leapfrog,
                target_acceptance=self.target_acceptance,
                tick=lambda part: tick(SHARE_OF_PILOT * part),
            )
            log_z = smc.run(
                density,
                ladder,
                path.draw(self.num_replicates * num_particles, *args),
                self.num_replicates,
                self.num_leapfrog,
                tick=lambda part: tick((1 - SHARE_OF_PILOT) * part),
            )
            value, error, ess = log_mean(log_z).result()
            return Evidence(value, widened(error, self.num_replicates), "lower", ess)

        return evaluate
