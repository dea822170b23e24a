"""Schedules of the learning rate over a run of known length."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda left: 1.0,
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 * (1 - math.cos(math.pi * left)),
}
FIRST = 0.01  # the factor that a warm-up begins with: a step of none would be no step


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor by the fraction of a run that is done: it rises to 1 and then falls as ``shape`` says.

    Args:
        shape: ``"constant"``, ``"linear"`` or ``"cosine"``, the last two down to 0 at the end.
        warm_up: the fraction of the run over which the factor rises in a straight line.

    Raises:
        ValueError: for another shape, or a warm-up outside of [0, 1).

    >>> from pyro_aevb.learners import Schedule
    >>> [Schedule("linear")(done) for done in (0.0, 0.25, 0.75)]
    [1.0, 0.75, 0.25]
    >>> [round(Schedule("cosine", warm_up=0.2)(done), 3) for done in (0.0, 0.1, 0.2, 0.6)]
    [0.01, 0.505, 1.0, 0.5]
    >>> Schedule("liner")
    Traceback (most recent call last):
    ...
    ValueError: expected a schedule out of constant, linear, cosine, got 'liner'; pass one of them, or a function
    """

    shape: str = "constant"
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(
                f"expected a schedule out of {', '.join(SHAPES)}, got {self.shape!r}; pass one of them, or a function"
            )
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"expected warm_up, a fraction of the run, in [0, 1), got {self.warm_up}; 0 is none")

    def __call__(self, done: float) -> float:
        """Return the factor where the fraction ``done`` of the run, in [0, 1), lies behind."""
        if done < self.warm_up:
            return FIRST + (1 - FIRST) * done / self.warm_up
        return SHAPES[self.shape]((1 - done) / (1 - self.warm_up))


CONSTANT = Schedule()
