"""The bound on data that a run doesn't train on, and the run's best parameters by it."""

from __future__ import annotations

import math
from typing import Any

import torch

from pyro_aevb.capture.capture import Compile
from pyro_aevb.checks import check_data, check_integers
from pyro_aevb.data_source import Data, DataSet, data_source
from pyro_aevb.evaluation_data import Minibatches
from pyro_aevb.evidence.elbo import estimate
from pyro_aevb.evidence.estimator import check_other_sizes
from pyro_aevb.learners.learner import Learner
from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.log_density import capture_log_density
from pyro_aevb.model_guide.modes import evaluating
from pyro_aevb.random_state import forked, seeded
from pyro_aevb.training.history import ERROR, History
from pyro_aevb.training.minibatches import others_of, rows_checksum


class ValidationBound:
    """E_q[log p(x, z) - log q(z|x)] on a whole data set, always with the same noise; in nats per datapoint.

    With global latents w it is given w, in the mean over q(w), and without KL(q(w) || p(w)): a bound on the posterior
    predictive density of data that aren't trained on.

    Modules are in evaluation mode for it.  It changes no parameter, no buffer and no random state.

    Args:
        learner: whose model and guide; one without a guide is a ``ValueError``.
        data: like the training data of :func:`~pyro_aevb.training.fit`; a stream must be one that can be gone through
            again.
        num_particles: draws from the guide for each datapoint.
        device: where minibatches go.
        compile: the fast path; ``None`` for ``"auto"``.
        seed: of the draws.
    """

    batch_size = 1000

    def __init__(
        self,
        learner: Learner,
        data: Data,
        *,
        num_particles: int = 1,
        device: torch.device | str | None = None,
        compile: Compile | None = None,
        seed: int = 0,
    ) -> None:
        check_integers(validation_particles=num_particles)
        model, guide = learner.model, learner.guide
        if guide is None:
            raise ValueError(
                f"expected a learner with a guide to validate with, got {type(learner).__name__}; pass evaluate=, a "
                "function that returns {name: value}, for example of log_marginal_likelihood(model, None, ...)"
            )
        self.data = data_source(data, self.batch_size, device)
        if getattr(self.data, "once", False):
            raise ValueError("expected validation data that can be gone through again, got a generator; pass a tensor")
        self.learner, self.seed = learner, seed
        with forked(), evaluating(learner.modules):
            first = next(self.data.in_order(self.batch_size), None)
            if first is None:
                raise ValueError("expected at least one validation datapoint, got none")
            check_data(*first.tensors)
            source = self.data
            number = len(source) if isinstance(source, DataSet) else 0
            last = number % self.batch_size if number > self.batch_size else 0
            each, others = (lambda: source.in_order(self.batch_size)), (lambda: source.last(last))
            self.minibatches = Minibatches(number, 0, first.form, each, others=others)
            model, guide = self.minibatches.arranged(model), self.minibatches.arranged(guide)
            reading = read(model, guide, first.tensors)
            check_other_sizes(model, guide, self.minibatches)
        self.density = capture_log_density(
            model,
            guide,
            num_particles=num_particles,
            vectorize=not reading.global_latents,  # weights of a network, say, which take no further dimension
            compile="auto" if compile is None else compile,
        )

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Return the mean over datapoints and its standard error."""
        with evaluating(self.learner.modules), seeded(self.seed):
            value, error = estimate(self.density, self.minibatches).mean()
        return {"validation": value, "validation" + ERROR: error}

    def settings(self) -> dict[str, str]:
        """Return a checksum of some of the data: a resumed run with validation data must have the same."""
        data = self.data
        if not isinstance(data, DataSet):
            return {"validation": type(data.data).__name__}
        return {"validation": " ".join([rows_checksum(data), *others_of(data).values()])}

    def state_dict(self) -> dict[str, Any]:
        """Return what the fast path goes by: how often it was called with which shapes."""
        return {"calls": list(self.density.calls.items())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        self.density.calls = dict(state["calls"])


class Best:
    """The parameters at the best record so far, by the value called ``monitor``; larger is better."""

    def __init__(self, monitor: str | None, patience: int | None, keep: bool) -> None:
        check_integers(patience=patience)
        if (patience is not None or keep) and monitor is None:
            raise ValueError(
                "expected a value to go by for patience and keep_best, got neither validation data nor monitor=; pass "
                "validation, or evaluate= and the name of one of its values as monitor="
            )
        if patience is not None and patience < 1:
            raise ValueError(f"expected patience of 1 evaluation or more, got {patience}")
        self.monitor, self.patience, self.keep = monitor, patience, keep
        self.parameters: dict[str, Any] | None = None

    def settings(self) -> dict[str, Any]:
        """Return what a resumed run must have in common."""
        return {"monitor": self.monitor, "keep_best": self.keep}

    def update(self, history: History, learner: Learner) -> None:
        """Look at the last record."""
        if self.monitor is None:
            return
        record = history.records[-1]
        if self.monitor not in record.values:
            raise ValueError(
                f"expected the value {self.monitor!r} to go by, got {sorted(record.values)}; name one of these with "
                "monitor="
            )
        value = record.values[self.monitor]
        if not math.isnan(value) and (history.best is None or value > history.best.values[self.monitor]):
            history.best = record
            if self.keep:
                self.parameters = learner.copy_parameters()

    def is_stale(self, history: History) -> bool:
        """Return whether the last ``patience`` evaluations of the value to go by were no better."""
        if self.patience is None:
            return False
        best = -1 if history.best is None else history.best.samples
        return (
            sum(record.samples > best and self.monitor in record.values for record in history.records) >= self.patience
        )

    def put(self, learner: Learner) -> None:
        """Give a learner the best parameters, if there are any."""
        if self.parameters is not None:
            learner.put_parameters(self.parameters)

    def state_dict(self) -> dict[str, Any]:
        """Return the best parameters."""
        return {"parameters": self.parameters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        self.parameters = state["parameters"]
