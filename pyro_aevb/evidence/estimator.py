"""The protocol of an estimator of log p(x)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.model_guide.traces import PyroCallable


class Problem(NamedTuple):
    """What an estimator is asked for.

    ``args`` is the first of ``num_batches`` minibatches; ``num_particles`` is ``None`` where the estimator chooses.
    """

    model: PyroCallable
    guide: PyroCallable | None
    args: tuple[Tensor, ...]
    num_particles: int | None
    num_batches: int
    vectorize: bool
    compile: Compile


Evaluate = Callable[..., Evidence]


class Estimator(Protocol):
    """A way to estimate log p(x), and its options."""

    def prepare(self, problem: Problem) -> Evaluate:
        """Return a function of a minibatch that gives its evidence."""
        ...
