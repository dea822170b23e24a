"""A training run as it stands between two steps: all that a checkpoint holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.random_state import random_state, set_random_state
from pyro_aevb.training.checkpoint import Checkpoints
from pyro_aevb.training.history import History, Record
from pyro_aevb.training.minibatches import Passes, Permutations
from pyro_aevb.training.ranks import Ranks
from pyro_aevb.training.validation import Best, ValidationBound


class Run:
    """The learner, its place in the data, its evaluations and the random states.

    Args:
        learner: what is trained.
        feed: where its minibatches come from.
        bound: the validation bound, where there is validation data.
        evaluate: further values to record.
        best: what tells the best evaluation.
        callbacks: what is called after each.
        ranks: the processes that train together.
        checkpoints: where to write, if anywhere.
        settings: what a run must have in common with the one that it resumes.
    """

    def __init__(
        self,
        learner: Any,
        feed: Permutations | Passes,
        *,
        bound: ValidationBound | None,
        evaluate: Callable[[], Mapping[str, float]] | None,
        best: Best,
        callbacks: Sequence[Callable[[History], bool | None]],
        ranks: Ranks,
        checkpoints: Checkpoints | None,
        settings: dict[str, Any],
    ) -> None:
        self.learner, self.feed, self.bound, self.evaluate = learner, feed, bound, evaluate
        self.best, self.callbacks, self.ranks, self.checkpoints = best, callbacks, ranks, checkpoints
        self.settings = settings
        self.history = History()
        self._sum, self._count = torch.zeros((), dtype=torch.float64), 0
        self._earlier, self._start = 0.0, time.perf_counter()
        self._written: tuple[int, int] | None = None

    def begin(self) -> None:
        """Start anew: the ranks with the same parameters and with noise of their own; the first checkpoint."""
        if self.ranks.size > 1:
            with torch.no_grad():
                state = self.learner.copy_parameters()
                self.ranks.copy_first([*state["parameters"].values(), *state["buffers"]])
                self.learner.put_parameters(state)
            torch.manual_seed(self.ranks.from_first(torch.initial_seed()) + self.ranks.rank)
        self.write()

    def resume(self) -> bool:
        """Go to where the newest checkpoint was written; ``False`` where there is none.

        Raises ``ValueError`` for a checkpoint of another run.
        """
        state = None if self.checkpoints is None else self.checkpoints.newest()
        if state is None:
            return False
        self._check_settings(state["settings"])
        self.learner.load_state_dict(state["learner"])
        self.feed.load_state_dict(state["feed"])
        self.history.load_state_dict(state["history"])
        total, self._count = state["training"]
        self._sum = torch.tensor(total, dtype=torch.float64)
        self.best.parameters = state["best"]
        if self.bound is not None:
            self.bound.density.calls = dict(state["validation_calls"])
        if len(state["random"]) == self.ranks.size:
            set_random_state(state["random"][self.ranks.rank])
        else:  # another number of processes: new noise, from where the first one's was
            set_random_state(state["random"][0])
            torch.manual_seed(int(torch.randint(2**62, ())) + self.ranks.rank)
        self._earlier, self._start = self.history.seconds, time.perf_counter()
        self._written = self._place()
        return True

    def write(self) -> None:
        """Write a checkpoint, unless nothing has changed since the last one."""
        if self.checkpoints is None or self._written == self._place():
            return
        random = self.ranks.of_all(random_state())
        if self.ranks.rank == 0:
            self.history.seconds = self.seconds()
            self.checkpoints.write(
                {
                    "settings": self.settings | self._parameters(),
                    "learner": self.learner.state_dict(),
                    "feed": self.feed.state_dict(),
                    "history": self.history.state_dict(),
                    "training": (self._sum.item(), self._count),
                    "best": self.best.parameters,
                    "validation_calls": [] if self.bound is None else list(self.bound.density.calls.items()),
                    "random": random,
                }
            )
        self._written = self._place()

    def stepped(self, bound: Tensor, samples: int) -> None:
        """Count a step, and its bound."""
        self.history.samples += samples
        self._sum, self._count = self._sum.to(bound.device).add_(bound), self._count + 1

    def record(self) -> bool:
        """Evaluate, and tell whether that ends the run."""
        began, values = time.perf_counter(), {}
        if self.ranks.rank == 0:
            values = {**(self.bound() if self.bound else {}), **(self.evaluate() if self.evaluate else {})}
        values = self.ranks.from_first(values)
        history = self.history
        history.evaluation_seconds += time.perf_counter() - began
        history.seconds = self.seconds()
        training = self.ranks.mean(self._sum.item() / self._count if self._count else math.nan)
        self._sum, self._count = torch.zeros((), dtype=torch.float64), 0
        history.records.append(Record(history.samples, history.seconds, values, training))
        self.best.update(history, self.learner)
        asked = [bool(callback(history)) for callback in self.callbacks] if self.ranks.rank == 0 else []
        return self.best.is_stale(history) or self.ranks.from_first(any(asked))

    def seconds(self) -> float:
        """Return what this run took, with those that it resumes."""
        return self._earlier + time.perf_counter() - self._start

    def _place(self) -> tuple[int, int]:
        return self.history.samples, len(self.history.records)

    def _parameters(self) -> dict[str, Any]:
        parameters = self.learner.theta | self.learner.phi
        return {
            "parameters": {n: [str(p.unconstrained.dtype), *p.unconstrained.shape] for n, p in parameters.items()},
        }

    def _check_settings(self, theirs: dict[str, Any]) -> None:
        mine = self.settings | self._parameters()
        if differences := [name for name in mine if mine[name] != theirs.get(name)]:
            expected = ", ".join(f"{name}={mine[name]}" for name in differences)
            got = ", ".join(f"{name}={theirs.get(name)}" for name in differences)
            raise ValueError(
                f"expected a checkpoint of this run, with {expected}, got one with {got}; resume with the same model, "
                "data and arguments, or begin anew in another checkpoint_dir"
            )
