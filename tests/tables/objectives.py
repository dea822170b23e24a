"""The objectives that the contract tests run over: name -> a factory of K."""

import functools

from pyro_aevb import IWAE, SGVB, STL, VIMCO, Blend, DReG, Renyi, ScoreFunction

OBJECTIVES = {
    "L^A": SGVB,
    "L^B": functools.partial(SGVB, kl="analytic"),
    "STL": STL,
    "Blend": Blend,
    "IWAE": IWAE,
    "DReG": DReG,
    "Renyi": functools.partial(Renyi, 0.5),
    "score function": ScoreFunction,
    "VIMCO": VIMCO,
}
