"""The arguments of a learner's step, a minibatch and the settings of this step, and the protocol of its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from pyro_aevb.arguments import Arguments, Form
from pyro_aevb.learners.minibatch_share import Share

Draw = Callable[..., tuple[Tensor, ...]]


class Minibatch(NamedTuple):
    """M datapoints, or this process's part of them.

    Attributes:
        rows: what model and guide take, or what ``draw`` makes that from; datapoints first.
        places: (M,), each datapoint's place in the data set; ``None`` if it has none.
        all_places: the places of the datapoints of all processes; ``None`` if this one has them all.
        draw: makes the arguments of model and guide from ``rows``, anew at each visit (pixels drawn from grey levels);
            ``None`` if ``rows`` are the arguments.
        form: how model and guide are called with these tensors, which hold those in common last; ``None``: with just
            these.
    """

    rows: tuple[Tensor, ...]
    places: Tensor | None = None
    all_places: Tensor | None = None
    draw: Draw | None = None
    form: Form | None = None

    def args(self) -> tuple[Tensor, ...]:
        """Return the tensors that a learner's model and guide take, drawn anew if they are drawn.

        >>> from pyro_aevb.learners import Minibatch
        >>> Minibatch((torch.tensor([1.0]),), draw=lambda x: (2 * x,)).args()
        (tensor([2.]),)
        """
        return self.rows if self.draw is None else self.draw(*self.rows)

    def call(self) -> Arguments:
        """Return what model and guide are called with, as they were written: drawn anew if they are drawn."""
        return Arguments(*self.args()) if self.form is None else self.form.call(self.args())

    def take(self, which: slice) -> Minibatch:
        """Return some of the datapoints, with no places."""
        number = len(self.rows) if self.form is None else self.form.num_rows
        rows = (*(row[which] for row in self.rows[:number]), *self.rows[number:])
        return Minibatch(rows, draw=self.draw, form=self.form)


class StepSettings(NamedTuple):
    """The decisions of a training loop for one step; the defaults are those of a step alone.

    Attributes:
        learning_rate_factor: multiplies the learning rates of all optimizers, for this step.
        clip_norm: the largest norm that the gradient of ``loss`` / N may have over one optimizer's parameters; longer
            gradients are scaled down to it.  ``None``: no limit.
        kl_weight: a 0-dim tensor that multiplies the KL terms of the learner's objective; ``None``: they count as they
            are.
        share: this process's share of the minibatch, where several work on one.
    """

    learning_rate_factor: float = 1.0
    clip_norm: float | None = None
    kl_weight: Tensor | None = None
    share: Share | None = None


class StepInfo(Protocol):
    """The result of every step: a NamedTuple of named terms, ``loss`` first; 0-dim tensors."""

    @property
    def loss(self) -> Tensor:
        """The objective that was minimized, in nats for the whole data set."""
        ...

    @property
    def elbo(self) -> Tensor | None:
        """The bound on log p(x), in nats per datapoint; ``None`` for a learner that has no bound."""
        ...
