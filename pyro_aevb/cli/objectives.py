"""AEVB's objectives by the names they have in a configuration."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

from pyro_aevb.objectives.blend import Blend
from pyro_aevb.objectives.iwae import IWAE, DReG, Renyi
from pyro_aevb.objectives.objective import Objective
from pyro_aevb.objectives.score_function import VIMCO, ScoreFunction
from pyro_aevb.objectives.sgvb import SGVB, STL

SEVERAL = 5  # particles, where an objective needs more than one and nobody says how many


def _renyi(num_particles: int, *, alpha: float, vectorize: bool = True) -> Renyi:
    return Renyi(alpha, num_particles, vectorize=vectorize)


def _score_function(num_particles: int, vectorize: bool = True) -> ScoreFunction:
    baseline: Literal["leave-one-out"] | None = "leave-one-out" if num_particles > 1 else None
    return ScoreFunction(num_particles, baseline=baseline, vectorize=vectorize)


# Each makes an objective of so many particles, and how many it takes by default; ``vectorize=`` says how they are run,
# and what else it takes by name is in ``config.OBJECTIVE_OPTIONS``.
OBJECTIVES: dict[str, tuple[Callable[..., Objective], int]] = {
    "blend": (Blend, 1),
    "sgvb-a": (SGVB, 1),
    "sgvb-b": (functools.partial(SGVB, kl="analytic"), 1),
    "stl": (STL, 1),
    "iwae": (IWAE, SEVERAL),
    "dreg": (DReG, SEVERAL),
    "renyi": (_renyi, SEVERAL),
    "score-function": (_score_function, SEVERAL),
    "vimco": (VIMCO, SEVERAL),
}
