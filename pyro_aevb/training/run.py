"""A training run as it stands between two steps: named parts with a state, all that a checkpoint holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_aevb.learners.learner import Learner
from pyro_aevb.random_state import random_state, set_random_state
from pyro_aevb.training.checkpoint import Checkpoints
from pyro_aevb.training.history import History, Record
from pyro_aevb.training.kept_states import KeptStates
from pyro_aevb.training.ranks import Ranks
from pyro_aevb.training.run_settings import differences
from pyro_aevb.training.validation import Best, ValidationBound


class Part(Protocol):
    """A part of a run that has a state."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers, lists and dicts."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        ...


class RunningMean:
    """The mean of the steps' bounds since the last record, over all ranks."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self._sum, self._count = ranks, torch.zeros((), dtype=torch.float64), 0

    def add(self, bound: Tensor) -> None:
        """Take in a step's bound."""
        self._sum, self._count = self._sum.to(bound.device).add_(bound), self._count + 1

    def take(self) -> float:
        """Return the mean, NaN of nothing, and begin anew."""
        mean = self._sum.item() / self._count if self._count else math.nan
        self._sum, self._count = torch.zeros((), dtype=torch.float64), 0
        return self._ranks.mean(mean)

    def state_dict(self) -> dict[str, Any]:
        """Return the ranks' sums, and the count."""
        return {"sums": self._ranks.of_all(self._sum.item()), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`; with another number of ranks, each gets the mean of the sums."""
        sums, ranks = state["sums"], self._ranks
        mine = sums[ranks.rank] if len(sums) == ranks.size else sum(sums) / len(sums)
        self._sum, self._count = torch.tensor(mine, dtype=torch.float64), state["count"]


class Noise:
    """The random states of all ranks."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def begin(self) -> None:
        """Give each rank noise of its own."""
        if self.ranks.size > 1:
            torch.manual_seed(self.ranks.from_first(torch.initial_seed()) + self.ranks.rank)

    def state_dict(self) -> dict[str, Any]:
        """Return the states in the order of ranks."""
        return {"ranks": self.ranks.of_all(random_state())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`; with another number of ranks, go on from the first one's."""
        states = state["ranks"]
        if len(states) == self.ranks.size:
            set_random_state(states[self.ranks.rank])
            return
        set_random_state(states[0])
        torch.manual_seed(int(torch.randint(2**62, ())) + self.ranks.rank)


class GivenStates:
    """The states of what a run is given besides its data: generators, schedulers, callbacks that tell their state.

    Args:
        given: by name.  What has other holders of states than those in a checkpoint keeps its own.
    """

    def __init__(self, given: Mapping[str, Iterable[Any]]) -> None:
        self._kept = {name: KeptStates(each) for name, each in given.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the states by name."""
        return {name: kept.state_dict() for name, kept in self._kept.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        for name, kept in self._kept.items():
            kept.load_state_dict(state[name])


def _pair(learner: Learner) -> list[Any]:
    return [learner.model, learner.guide, learner.objective]


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return what ``evaluate`` returned as numbers; ``TypeError`` for anything else."""
    try:
        return {name: float(value) for name, value in values.items()}
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"expected numbers by name from evaluate, got {values!r}; return {{'score': 0.5}}, say"
        ) from error


class Run:
    """The learner, its place in the data, its evaluations and the random states.

    Args:
        learner: what is trained.
        feed: where its minibatches come from.
        bound: the validation bound, if there is validation data.
        evaluate: further values to record.
        best: tells the best evaluation.
        callbacks: called after each.
        ranks: the processes that train together.
        checkpoints: where to write, if anywhere.
        settings: what a run must have in common with the one that it resumes.

    Attributes:
        parts: what has a state, by name; a checkpoint holds them all, and they are restored in this order.
    """

    def __init__(
        self,
        learner: Learner,
        feed: Part,
        bound: ValidationBound | None,
        evaluate: Callable[[], Mapping[str, float]] | None,
        best: Best,
        callbacks: Sequence[Callable[[History], bool | None]],
        ranks: Ranks,
        checkpoints: Checkpoints | None,
        settings: Mapping[str, Any],
    ) -> None:
        if not isinstance(callbacks, Iterable) or not all(map(callable, callbacks)):
            raise TypeError(
                f"expected a list of functions of the history for callbacks, got {callbacks!r}; write [...]"
            )
        self.learner, self.best, self.ranks, self.checkpoints = learner, best, ranks, checkpoints
        self.bound, self.evaluate, self.callbacks, self.settings = bound, evaluate, callbacks, dict(settings)
        self.history, self._training, self._noise = History(), RunningMean(ranks), Noise(ranks)
        self.parts: dict[str, Part] = {
            "learner": learner,
            "feed": feed,
            "history": self.history,
            "training": self._training,
            "best": best,
            **({} if bound is None else {"validation": bound}),
            "given": GivenStates({"pair": _pair(learner), "evaluate": [evaluate], "callbacks": callbacks}),
            "random": self._noise,  # last: a stream that is gone through again draws from it
        }
        self._earlier, self._start = 0.0, time.perf_counter()
        self._written: tuple[int, int] | None = None
        self._before_asking: dict[str, Any] | None = None  # the states before a callback ended the run

    def start(self, resume: bool) -> None:
        """Go on from the newest checkpoint if ``resume`` says so and there is one; begin anew otherwise."""
        if not (resume and self.resume()):
            self.begin()

    def begin(self) -> None:
        """Start anew: the ranks with the same parameters and with noise of their own; the first checkpoint."""
        if self.ranks.size > 1:
            with torch.no_grad():
                state = self.learner.copy_parameters()
                self.ranks.copy_first([*state["parameters"].values(), *state["buffers"]])
                self.learner.put_parameters(state)
        self._noise.begin()
        self.write()

    def resume(self) -> bool:
        """Go to where the newest checkpoint was written; return whether there is one.

        Raises:
            ValueError: for a checkpoint of another run; the message names what differs.
        """
        state = None
        with self.ranks.together():
            if self.checkpoints is not None and self.ranks.rank == 0:
                state = self.checkpoints.newest()
        state = self.ranks.from_first(state)  # other machines may not see the folder
        if state is None:
            return False
        self._check_settings(state["settings"])
        for name, part in self.parts.items():
            if name in state["parts"]:  # validation may be new
                part.load_state_dict(state["parts"][name])
        self._before_asking = state.get("before_asking")
        self._earlier, self._start = self.history.seconds, time.perf_counter()
        self._written = self._place()
        return True

    def write(self) -> None:
        """Write a checkpoint, unless nothing has changed since the last one."""
        if self.checkpoints is None or self._written == self._place():
            return
        self.learner.read_losses()
        self.history.seconds = self.seconds()
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        if self.ranks.rank == 0:
            self.checkpoints.write({"settings": self.settings, "parts": parts, "before_asking": self._before_asking})
        self._written = self._place()

    @property
    def evaluates(self) -> bool:
        """True if a record takes an evaluation."""
        return self.bound is not None or self.evaluate is not None

    def stepped(self, bound: Tensor, samples: int) -> None:
        """Count a step, and its bound."""
        self.history.samples += samples
        self._training.add(bound)

    def record(self) -> bool:
        """Evaluate, and return whether that ends the run."""
        self.learner.read_losses()
        self.learner.to_use()
        began, history = time.perf_counter(), self.history
        values = self.ranks.run_on_first(self._values)
        history.evaluation_seconds += time.perf_counter() - began
        history.seconds = self.seconds()
        training = self._training.take()
        history.records.append(Record(history.samples, history.seconds, values, training))
        self.best.update(history, self.learner)
        return self._ask() or self.best.is_stale(history)

    def has_ended(self) -> bool:
        """Return whether the last record ends the run by the patience and the callbacks that it has now.

        Callbacks of which one ended the run are asked again, from the states that they were asked from.
        """
        if self._before_asking is None:
            return self.best.is_stale(self.history)
        for name, state in self._before_asking.items():
            self.parts[name].load_state_dict(state)
        return self._ask() or self.best.is_stale(self.history)

    def _ask(self) -> bool:
        """Return whether a callback ends the run."""
        before = {name: self.parts[name].state_dict() for name in ("given", "random")}
        asked: bool = self.ranks.run_on_first(lambda: any([callback(self.history) for callback in self.callbacks]))
        self._before_asking = before if asked else None
        return asked

    def _values(self) -> dict[str, float]:
        return {**(self.bound() if self.bound else {}), **(_numbers(self.evaluate()) if self.evaluate else {})}

    def seconds(self) -> float:
        """Return what this run took, with those that it resumes."""
        return self._earlier + time.perf_counter() - self._start

    def _place(self) -> tuple[int, int]:
        return self.history.samples, len(self.history.records)

    def _check_settings(self, theirs: Mapping[str, Any]) -> None:
        if names := differences(self.settings, theirs):
            expected = ", ".join(f"{name}={self.settings.get(name)}" for name in names)
            got = ", ".join(f"{name}={theirs.get(name)}" for name in names)
            raise ValueError(
                f"expected a checkpoint of this run, with {expected}, got one with {got}; resume with the same model, "
                "data and arguments, or begin anew in another checkpoint_dir"
            )
