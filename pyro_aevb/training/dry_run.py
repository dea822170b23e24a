"""Model, guide and data, tried before anything is trained."""

from __future__ import annotations

import functools

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_aevb.arguments import arranged
from pyro_aevb.checks import check_data
from pyro_aevb.learners.learner import Learner
from pyro_aevb.learners.step import Minibatch
from pyro_aevb.model_guide.contract import read, run_pair
from pyro_aevb.model_guide.moved_parameters import moved
from pyro_aevb.model_guide.places import place_error, site_of_places
from pyro_aevb.random_state import forked
from pyro_aevb.training.minibatches import Passes, Permutations
from pyro_aevb.training.ranks import Ranks
from pyro_aevb.warning import warn

CHUNK = 1000  # datapoints at a time, for a pair that takes any number of them


@torch.no_grad()
def dry_run(learner: Learner, feed: Permutations | Passes, ranks: Ranks, total: int | None) -> bool:
    """Prepare the learner on the first minibatch, and check pair and data on the others.

    The first minibatch comes first and has its real size: parameters of one entry a datapoint, and Pyro's AutoGuides,
    take their shapes from it.  Then come the smaller minibatches that the run will have, then all of the data.
    Everything is as it was afterwards but for parameters that came into being.

    Returns:
        Whether the model's loss is a sum over the minibatch, without an N; told only where several processes share it.

    Raises:
        ValueError, TypeError: for data or a pair that breaks the contract.
    """
    with forked():
        first, *smaller = feed.to_try(total, ranks.part_of)
        learner.prepare(first)
        for batch in smaller:
            _check_smaller(learner, batch, len(first.rows[0]))
        _check_batch_norm(learner, [first, *smaller])
        _check_places(learner, feed, first, ranks)
        _check_all(learner, feed, len(first.rows[0]))
        sums = ranks.size > 1 and _sums(learner, first)
        _check_n(learner, feed.num_data(), first)
        return sums


def _check_n(learner: Learner, num_data: int | None, batch: Minibatch) -> None:
    """Raise ``ValueError``, or warn, where the plate's N isn't that of the data and what counts once is weighed by it.

    Without a prior on theta and without global latents the N is a factor of the whole loss.
    """
    if num_data is None:
        return
    reading = read(arranged(learner.model, batch.form), arranged(learner.guide, batch.form), batch.args())
    size = reading.plate.full_size
    once = ["a prior on theta"] if learner.theta_prior is not None else []
    once += [f"global latents {sorted(reading.global_latents)}"] if reading.global_latents else []
    if size == num_data or not once:
        return
    expected = f"expected a plate of the {num_data} datapoints, for {' and '.join(once)}, got one of {size}"
    weight = f"it would count {num_data / size:.4g} times; write pyro.plate({reading.plate.name!r}, {num_data}, "
    remedy = f"{weight}subsample_size=len(x)) in model and guide (dataset_size={num_data} of a VAE)"
    if size == len(batch.rows[0]):
        raise ValueError(f"{expected}, the minibatch's size: {remedy}")
    warn(f"{expected}: {remedy.replace('would count', 'counts')}, if the {size} aren't the whole that these are of")


def _check_smaller(learner: Learner, batch: Minibatch, usual: int) -> None:
    try:
        learner.check(batch)
    except Exception as error:  # it is the size: the same datapoints passed in the first minibatch
        raise ValueError(
            f"expected model and guide to take every minibatch of this run, got the error below for one of "
            f"{len(batch.rows[0])} datapoints, where the others have {usual}; pass drop_last=True, or a batch_size "
            "that divides the data"
        ) from error


def _check_places(learner: Learner, feed: Permutations | Passes, batch: Minibatch, ranks: Ranks) -> None:
    """Raise ``ValueError`` for a pair that knows a datapoint's place in a minibatch, where that isn't always the same.

    Parameters are moved apart for it: those of places are alike before they are trained.
    """
    num_data = feed.num_data()
    if num_data is None or (feed.keeps_places() and ranks.size == 1):
        return
    model, guide = arranged(learner.model, batch.form), arranged(learner.guide, batch.form)
    number = None if batch.form is None else batch.form.num_rows
    with moved(parameter.unconstrained for parameter in (learner.theta | learner.phi).values()):
        name = site_of_places(model, guide, batch.args(), number)
    if name is not None:
        raise place_error(name, num_data)


def _row(done: int, place: int) -> str:
    return f"row {done + place} of the data"


def _check_all(learner: Learner, feed: Permutations | Passes, batch_size: int) -> None:
    """Check the pair on all data in RAM: in chunks, or in minibatches of the real size where it takes only those."""
    any_size, done = True, 0
    for batch in feed.everything(max(CHUNK, batch_size)):
        rows = batch.rows if batch.form is None else batch.rows[: batch.form.num_rows]
        check_data(*rows, name=functools.partial(_row, done))
        number = len(rows[0])
        done += number
        if any_size:
            try:
                learner.check(batch)
            except Exception:  # whether it is the size or the data, the real size tells
                any_size = False
        if not any_size:
            for begin in range(0, number - batch_size + 1, batch_size):
                learner.check(batch.take(slice(begin, begin + batch_size)))


def _check_batch_norm(learner: Learner, minibatches: list[Minibatch]) -> None:
    """Raise ``ValueError`` for a minibatch of one datapoint that a batch normalization can't be trained on."""
    norms = [module for module in learner.modules if isinstance(module, _BatchNorm) and module.training]
    alone = [batch.call() for batch in minibatches if len(batch.rows[0]) == 1]
    if not norms or not alone:
        return
    buffers = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        run_pair(learner.model, learner.guide, alone[0].args, alone[0].kwargs)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"expected two datapoints or more in each minibatch, for {type(norms[0]).__name__}, got one of a single "
            "datapoint; pass drop_last=True, or another batch_size"
        ) from error
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)


def _sums(learner: Learner, batch: Minibatch) -> bool:
    """Return whether N is only the minibatch's size; raise where a prior on theta would then count several times."""
    sizes = []
    for some in (batch, batch.take(slice((len(batch.rows[0]) + 1) // 2))):
        learner.check(some)
        sizes.append(learner.dataset_size)
    if sizes[0] != sizes[1] and learner.theta_prior is not None:
        raise ValueError(
            "expected a plate that knows N, for several processes and a prior on theta, got one of the minibatch's "
            "size; write pyro.plate('data', N, subsample_size=len(x))"
        )
    return sizes[0] != sizes[1]
