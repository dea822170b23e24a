"""AEVB's objectives by the names they have in a configuration."""

from __future__ import annotations

from collections.abc import Callable

from pyro.infer.elbo import ELBO

from pyro_aevb.objectives.iwae import IWAE, DReG
from pyro_aevb.objectives.score_function import VIMCO, ScoreFunction
from pyro_aevb.objectives.sgvb import SGVB, STL

SEVERAL = 5  # particles, where an objective needs more than one and nobody says how many
# Each makes an objective of so many particles; and how many it takes by default.
OBJECTIVES: dict[str, tuple[Callable[[int], ELBO], int]] = {
    "sgvb-a": (SGVB, 1),
    "sgvb-b": (lambda k: SGVB(k, kl="analytic"), 1),
    "stl": (STL, 1),
    "iwae": (IWAE, SEVERAL),
    "dreg": (DReG, SEVERAL),
    "score-function": (lambda k: ScoreFunction(k, baseline="leave-one-out" if k > 1 else None), SEVERAL),
    "vimco": (VIMCO, SEVERAL),
}
