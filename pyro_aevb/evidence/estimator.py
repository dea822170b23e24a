"""The interface of an estimator of log p(x): prepared once for a problem, then called with each minibatch.

Shapes: N datapoints, M of them in a minibatch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from pyro_aevb.arguments import as_arguments
from pyro_aevb.capture.capture import Compile
from pyro_aevb.checks import check_integers
from pyro_aevb.evaluation_data import Minibatches, minibatches
from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.model_guide.contract import check_options, named, read
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.places import place_error, site_of_places
from pyro_aevb.model_guide.plate_sizes import plate_sizes
from pyro_aevb.model_guide.traces import PyroCallable, on_a_side
from pyro_aevb.random_state import forked
from pyro_aevb.samplers.ais import Tick


class Problem(NamedTuple):
    """A request for log p(x) of N datapoints, which come in minibatches.

    ``model``, ``guide``: p(x, z) and q(z|x); ``guide`` is ``None`` for a model without one.  ``args``: the first
    minibatch, ``args[0]`` being x of shape (M, ...).  ``num_particles``: K draws, chains or samples a datapoint;
    ``None`` if the estimator is to choose.  ``num_batches``: how many minibatches will follow, ``args`` among them.
    ``vectorize``: whether all particles of a datapoint may be evaluated in one pass.  ``compile``: the fast path, see
    :class:`~pyro_aevb.capture.Capture`.
    """

    model: PyroCallable
    guide: PyroCallable | None
    args: tuple[Tensor, ...]
    num_particles: int | None
    num_batches: int
    vectorize: bool
    compile: Compile


class Evaluate(Protocol):
    """The prepared estimator: a function of a minibatch."""

    def __call__(self, tick: Tick, *args: Tensor) -> Evidence:
        """Return the evidence of a minibatch, each field of shape (M,), in nats.

        Args:
            tick: called with the fraction of the minibatch's work that was done since the last call; they add up to 1.
            args: the minibatch, ``args[0]`` being x of shape (M, ...).
        """
        ...


class Estimator(ABC):
    """A way to estimate log p(x), and its options; :func:`~pyro_aevb.log_marginal_likelihood` takes it as ``method``.

    The minibatches are called without gradients, under the seed of ``log_marginal_likelihood``.
    """

    @abstractmethod
    def prepare(self, problem: Problem) -> Evaluate:
        """Return the function that estimates the evidence of a minibatch of this problem.

        Args:
            problem: the model, the guide and the first minibatch, which the contract has been checked on.

        Raises:
            ValueError: for a problem that the estimator is not for.
        """


def check_sizes(**sizes: int | None) -> None:
    """Raise ``TypeError`` unless every size that is given is an integer, ``ValueError`` unless it is 1 or more."""
    check_integers(**sizes)
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"expected {name} of 1 or more, got {size}")


def over_minibatches(
    model: PyroCallable,
    guide: PyroCallable | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    batch_size: int,
    options: Mapping[str, Any],
) -> tuple[Minibatches, PyroCallable, Any]:
    """Return the minibatches of an estimate, and model and guide as functions of their tensors.

    For a pair that knows places in a minibatch it is one of all data.

    Args:
        model: p(x, z).
        guide: q(z|x), or ``None``.
        args: the data, by position.
        kwargs: likewise, by name.
        batch_size: datapoints at a time.
        options: the options of the estimate that were given, by name.

    Raises:
        ValueError, TypeError: for data that can't be used, an option that is an argument of the model's too, and a
            loader of several minibatches, or a shuffled one, for a pair that knows places.
    """
    check_options((model, guide), as_arguments(args, kwargs), **options)
    data = (named(model, args[0]),) if len(args) == 1 else args
    batches = minibatches(data, batch_size, kwargs)
    its_model, its_guide = batches.arranged(model), batches.arranged(guide)
    if len(batches) > 1 or batches.shuffled:
        with forked():
            name = site_of_places(its_model, its_guide, next(iter(batches)))
        if name is not None:
            batches = minibatches(data, batches.num_data, kwargs)
            if len(batches) > 1 or batches.shuffled:  # a loader, which has minibatches of its own
                raise place_error(name, batches.num_data)
        check_other_sizes(its_model, its_guide, batches)
    return batches, its_model, its_guide


def check_other_sizes(model: PyroCallable, guide: PyroCallable | None, batches: Minibatches) -> None:
    """Read the pair on minibatches of other sizes than the first, if a plate of the model has as many entries.

    Args:
        model: p(x, z), a function of a minibatch's tensors.
        guide: q(z|x), likewise, or ``None``.
        batches: the data.

    Raises:
        ValueError, TypeError: for a pair that breaks the contract on one of them.
    """
    others = list(batches.of_other_sizes())
    if not others:
        return
    try:
        with evaluated(model, guide) as (its_model, _, _):
            sizes = on_a_side(lambda: plate_sizes(its_model, next(iter(batches))))
    except Exception:  # each model fails in its own way, and whoever reads it says how
        return
    for batch in others:
        if len(batch[0]) in sizes.values():
            read(model, guide, batch)
