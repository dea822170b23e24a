"""Draws of x given the draws of z, a datapoint at a time, each from its own stream.

Shapes: N datapoints, L draws, M of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_aevb.model_guide.traces import PyroCallable, number_of_datapoints
from pyro_aevb.posterior.gate import Draws, Sampler
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.posterior.proposals import At, Layout
from pyro_aevb.random_state import reseed


class Predicted(NamedTuple):
    """Draws of x given draws of z, and the mean of x at each of these, the draw where it has none; (L, ...).

    Of angles the mean is E[e^(i x)], see :func:`~pyro_aevb.posterior.angles.moments`.
    """

    draws: Tensor
    mean: Tensor


Predict = Callable[[Any, int, int], Predicted]  # of the site's distribution, L, and the batch dimensions of a run


class _Likelihood(Messenger):
    """Keep the distribution of a site, ``None`` before it was met."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.fn: Any = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self._name:
            self.fn = msg["fn"]


def likelihood_at(model: PyroCallable, name: str, at: Mapping[str, Tensor], args: tuple[Tensor, ...]) -> Any:
    """Return the distribution of a site at values of the latents.

    Args:
        model: p(x, z).
        name: of the site.
        at: the values that the latents have in a run.
        args: a minibatch.
    """
    with poutine.block(), At(at), _Likelihood(name) as likelihood:
        model(*args)
    return likelihood.fn


class Predictions:
    """Draws of x of one minibatch after another.

    Args:
        name: of the site of x.
        layout: its dimensions.
        streams: the random numbers.
        vectorize: whether the model is run on all draws at once.
        predict: makes draws of the site's distribution at the draws of z.

    Attributes:
        drawn: the draws of z so far.
    """

    def __init__(self, name: str, layout: Layout, streams: Streams, vectorize: bool, predict: Predict) -> None:
        self._name, self._layout, self._streams, self._vectorize = name, layout, streams, vectorize
        self._predict = predict
        self._found: list[Predicted] = []
        self.drawn: list[Draws] = []

    def visit(
        self, model: PyroCallable, gate: Sampler, draws: Draws, places: Sequence[int], args: tuple[Tensor, ...]
    ) -> None:
        """Predict from the draws of a minibatch.

        Args:
            model: p(x, z).
            gate: the draws' origin.
            draws: of z.
            places: of the datapoints in the data set.
            args: the minibatch.
        """
        self.drawn.append(draws)
        for group in [slice(m, m + 1) for m in range(len(places))] if gate.alone else [slice(len(places))]:
            reseed(self._streams.seed(places[group][0], "predictions"))
            values = {site: value[:, group] for site, value in draws.values.items()}
            self._found.append(self._predicted(model, gate, values, tuple(arg[group] for arg in args)))

    def all(self) -> Predicted:
        """Return the draws and the means of all minibatches, (L, N, ...)."""
        return Predicted(*(torch.cat(each, 1) for each in zip(*self._found, strict=True)))

    def _predicted(
        self, model: PyroCallable, gate: Sampler, values: dict[str, Tensor], args: tuple[Tensor, ...]
    ) -> Predicted:
        size, num_draws = number_of_datapoints(args), len(next(iter(values.values())))
        if not self._vectorize and num_draws > 1:
            single = ({site: value[[k]] for site, value in values.items()} for k in range(num_draws))
            parts = [self._predicted(model, gate, each, args) for each in single]
            return Predicted(*(torch.cat(each) for each in zip(*parts, strict=True)))
        at = {site: gate.layouts[site].in_a_run(value) for site, value in values.items()}
        width = self._layout.width
        if not self._vectorize:
            at, width = {site: value[0] for site, value in at.items()}, width - 1
        found = self._predict(likelihood_at(model, self._name, at, args), num_draws, width)
        return Predicted(*(self._layout.datapoints_second(each, num_draws, size) for each in found))
