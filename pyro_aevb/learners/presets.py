"""Settings of the optimizers that were tuned, for each learner: what is taken where no optimizer is given.

``benchmarks/presets.py`` has the sweep that they come from.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch

from pyro_aevb.learners.optimizer import AnyOptimizer, OptimizerFactory
from pyro_aevb.learners.schedules import Schedule


class Preset(NamedTuple):
    """The numbers of a learner's optimizers, and how their learning rates go over a run.

    Attributes:
        optimizer: its class, of ``torch.optim`` or ``schedulefree``.
        learning_rate: that of theta, and of phi where one optimizer has both.
        guide_learning_rate: that of phi where it has an optimizer of its own; ``None``: the same.
        beta1: Adam's momentum; ``None`` for Adagrad, which has none.
        schedule: of both rates.

    >>> from pyro_aevb.learners import PRESETS
    >>> make = PRESETS["aevb"].factory()
    >>> make([torch.zeros(2, requires_grad=True)]).param_groups[0]["lr"] == PRESETS["aevb"].learning_rate
    True
    """

    optimizer: str
    learning_rate: float
    guide_learning_rate: float | None = None
    beta1: float | None = None
    schedule: Schedule = Schedule()

    def factory(self, *, guide: bool = False, fused: bool = True) -> OptimizerFactory:
        """Return what makes the torch optimizer from parameters.

        Args:
            guide: that of phi alone.
            fused: one kernel for all parameters; torch has none for Adagrad on a GPU.

        Raises:
            ImportError: for a schedule-free optimizer without the package ``schedulefree``.
        """
        rate = self.guide_learning_rate if guide and self.guide_learning_rate is not None else self.learning_rate
        options: dict[str, Any] = {} if self.beta1 is None else {"betas": (self.beta1, 0.999)}
        if hasattr(torch.optim, self.optimizer):
            return functools.partial(getattr(torch.optim, self.optimizer), lr=rate, fused=fused, **options)
        make = _schedule_free(self.optimizer)
        return functools.partial(make, lr=rate, warmup_steps=WARM_UP_STEPS, **options)


def _schedule_free(name: str) -> Any:
    """Return a class of the package ``schedulefree``."""
    try:
        import schedulefree
    except ImportError as error:
        raise ImportError(
            f"expected the package schedulefree for {name}, got none; pip install 'pyro-aevb[streams]', or give the "
            "run a length: pass samples"
        ) from error
    return getattr(schedulefree, name)


_DECAY = Schedule("linear", warm_up=0.1)
PRESETS = {
    "aevb": Preset("Adam", 6e-3, beta1=0.98, schedule=_DECAY),
    "wake-sleep": Preset("Adam", 6e-3, 3e-3, beta1=0.9, schedule=_DECAY),
    "reweighted-wake-sleep": Preset("Adam", 6e-3, beta1=0.9, schedule=_DECAY),
    "mcem": Preset("Adam", 2e-3, 6e-3, beta1=0.9, schedule=_DECAY),  # five updates of theta a visit
}
# For streams whose end isn't known: no rate falls, and the weights for use are a mean over the run.
SCHEDULE_FREE = {
    name: Preset("AdamWScheduleFree", 9e-3, beta1=0.98) for name in ("aevb", "wake-sleep", "reweighted-wake-sleep")
}
WARM_UP_STEPS = 1000  # of a schedule-free optimizer
# The paper's Adagrad, with a rate out of its {0.01, 0.02, 0.1}, by the first 1.5e6 samples of MNIST at N_z=20: 0.1
# diverges, and the sleep phase wants the smaller one (wake-sleep's test bound is -119.8; -127.8 with 0.01 for both
# phases, -140 with 0.02).
PAPER = {name: Preset("Adagrad", 0.02) for name in PRESETS} | {"wake-sleep": Preset("Adagrad", 0.02, 0.01)}


def optimizers_or_preset(learner: str, **given: AnyOptimizer | None) -> tuple[dict[str, AnyOptimizer], Schedule | None]:
    """Return a learner's optimizers by name, and the schedule that belongs to them: those given, or its preset's.

    Raises:
        ValueError: for one optimizer without the others: a rate that was tuned beside another isn't tuned alone.
    """
    chosen = {name: optimizer for name, optimizer in given.items() if optimizer is not None}
    if len(chosen) == len(given):
        return chosen, None
    if chosen:
        raise ValueError(
            f"expected {' and '.join(given)}, or neither, got {', '.join(chosen)} alone; pass both, or leave both out "
            f"for PRESETS[{learner!r}]"
        )
    preset = PRESETS[learner]
    return {name: preset.factory(guide="guide" in name) for name in given}, preset.schedule
