"""The loop over minibatches: steps, evaluations, checkpoints, and how it ends."""

from __future__ import annotations

import signal
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
        """Train, evaluate and write to the end; raise ``SystemExit`` after SIGTERM or SIGHUP, when all is written."""
        try:
            with signals:
                with show:
                    signals.call(lambda: self._steps(show, signals))
                self._finish(signals)
        finally:
            self.run.learner.to_use()

    def _steps(self, show: Progress, signals: HeldSignals) -> None:
        """Make steps until the data, the plan, an evaluation or a signal ends it."""
        history, total = self.run.history, self.plan.total
        due = self.evaluations.next_after(history)
        history.stopped_early = (total is None or history.samples < total) and self.run.has_ended()
        while (total is None or history.samples < total) and not history.stopped_early:
            stop, late = self.run.ranks.any(signals.interrupted or signals.terminated > 0, self._is_late())
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
        """Write, evaluate the end and write again; after a signal only what it leaves time for."""
        run, history = self.run, self.run.history
        self._check_others(signals)
        run.learner.read_losses()
        stopped, terminated = run.ranks.any(signals.interrupted, signals.terminated > 0)
        unseen = history.samples > (history.records[-1].samples if history.records else 0)
        if not signals.at_once and (stopped or terminated or (unseen and run.evaluates)):
            run.write()
        if terminated:
            raise SystemExit(128 + (signals.terminated or signal.SIGTERM))
        cut = signals.again
        if unseen and not cut:
            signals.at_once = False
            signals.call(run.record, by_termination=True)
            self._check_others(signals)
            cut = signals.at_once
        history.seconds, history.interrupted = run.seconds(), stopped or signals.interrupted
        if not (stopped or cut):
            run.write()
        if signals.terminated:
            raise SystemExit(128 + signals.terminated)

    def _check_others(self, signals: HeldSignals) -> None:
        if signals.at_once and self.run.ranks.size > 1:
            raise KeyboardInterrupt  # the others are in the middle of something too

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
