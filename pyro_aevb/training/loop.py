"""The loop over minibatches: steps, evaluations, checkpoints, and how it ends."""

from __future__ import annotations

import time

from torch import Tensor

from pyro_aevb.learners.learner import Learner
from pyro_aevb.learners.step import StepInfo
from pyro_aevb.training.minibatches import Passes, Permutations
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.run import Run
from pyro_aevb.training.signals import HeldSignals
from pyro_aevb.training.step_plan import Evaluations, StepPlan


class Loop:
    """Steps of a learner on one minibatch after another, with evaluations and checkpoints between them.

    Args:
        run: what is trained, and its state.
        feed: the minibatches.
        plan: the settings of each step.
        evaluations: when to evaluate.
        checkpoint_every: seconds between checkpoints.
    """

    def __init__(
        self,
        run: Run,
        feed: Permutations | Passes,
        plan: StepPlan,
        evaluations: Evaluations,
        checkpoint_every: float,
    ) -> None:
        self.run, self.feed, self.plan, self.evaluations = run, feed, plan, evaluations
        self.checkpoint_every = checkpoint_every
        self._written = time.monotonic()  # the beginning writes one

    def train(self, show: Progress, signals: HeldSignals) -> None:
        """Train, evaluate and write to the end; raise ``SystemExit`` after SIGTERM, when all is written."""
        with show, signals:
            self._steps(show, signals)
        self._finish(signals)

    def _steps(self, show: Progress, signals: HeldSignals) -> None:
        """Make steps until the data, the plan, an evaluation or a signal ends it."""
        history, total = self.run.history, self.plan.total
        due = self.evaluations.next_after(history)
        while (total is None or history.samples < total) and not history.stopped_early:
            stop, late = self.run.ranks.any(signals.interrupted or signals.terminated, self._is_late())
            if stop:
                return
            if history.samples >= due:
                history.stopped_early = self.run.record()
                show.evaluated(history.records[-1].values)
                due = self.evaluations.next_after(history)
                continue
            if late:
                self.run.write()
                self._written = time.monotonic()
            if not self._step(show):
                return

    def _finish(self, signals: HeldSignals) -> None:
        """Evaluate and write at the end, or only write if a signal came."""
        run, history = self.run, self.run.history
        if signals.at_once and run.ranks.size > 1:
            raise KeyboardInterrupt  # the others are in the middle of something too
        run.learner.read_losses()
        history.interrupted, terminated = run.ranks.any(signals.interrupted, signals.terminated)
        if (history.interrupted or terminated) and not signals.at_once:
            run.write()
        if terminated:
            raise SystemExit(143)
        if history.samples > (history.records[-1].samples if history.records else 0):
            run.record()
        history.seconds = run.seconds()
        if not history.interrupted:
            run.write()

    def _is_late(self) -> bool:
        run = self.run
        late = run.checkpoints is not None and time.monotonic() > self._written + self.checkpoint_every
        return late and run.ranks.rank == 0

    def _step(self, show: Progress) -> bool:
        """Make a step; return whether there was a minibatch for it."""
        run, history, total = self.run, self.run.history, self.plan.total
        taken = self.feed.next(None if total is None else total - history.samples, run.ranks.part_of)
        if taken is None:
            return False
        info = run.learner.step_on(taken.batch, self.plan.settings(history.samples, taken.size))
        name, value = bound_of(info, run.learner)
        run.stepped(value, taken.size)
        show.stepped(name, value, taken.size)
        if run.learner.compile_seconds > history.compile_seconds:
            history.compile_seconds = run.learner.compile_seconds
            show.compiled(history.compile_seconds)
        return True


def bound_of(info: StepInfo, learner: Learner) -> tuple[str, Tensor]:
    """Return a step's bound and its name; for a learner that has none, -loss / N.  Both in nats per datapoint."""
    if info.elbo is None:
        return "-loss/N", -info.loss / learner.dataset_size
    return "elbo", info.elbo
