"""The training loop: which datapoints, in what order, when it evaluates, how it stops."""

import functools
import math
import os
import signal
import sys

import numpy as np
import pyro
import pytest
import torch
from pairs import bernoulli_vae
from spy import DATA, Spy

from pyro_aevb import AEVB
from pyro_aevb.datasets import Binarized
from pyro_aevb.training import fit
from pyro_aevb.training.ranks import Ranks

ADAM = functools.partial(torch.optim.Adam, lr=0.01)


def test_every_pass_is_a_permutation():
    spy = Spy()
    history = fit(spy, DATA, epochs=3, batch_size=10, progress=False)
    assert [len(i) for i in spy.seen] == [10, 10, 5] * 3
    passes = torch.cat(spy.seen).reshape(3, 25)
    assert torch.equal(passes.sort(1).values, torch.arange(25).expand(3, 25))
    assert not torch.equal(passes[0], passes[1])
    assert history.samples == 75
    again, other = Spy(), Spy()
    fit(again, DATA.numpy(), epochs=3, batch_size=10, progress=False)
    fit(other, DATA, epochs=3, batch_size=10, seed=1, progress=False)
    assert torch.equal(torch.cat(again.seen), torch.cat(spy.seen))
    assert not torch.equal(torch.cat(other.seen), torch.cat(spy.seen))


def test_samples_are_counted_to_the_last():
    spy = Spy()
    assert fit(spy, DATA, samples=33, batch_size=10, progress=False).samples == 33
    assert [len(i) for i in spy.seen] == [10, 10, 5, 8]


def test_evaluations_come_where_they_were_asked_and_at_the_end():
    spy, calls = Spy(), []
    history = fit(
        spy, DATA, epochs=4, batch_size=10, evaluate=lambda: {"n": float(len(calls.append(1) or calls))},
        evaluate_at=[1, 22, 100, 60], progress=False,
    )  # fmt: skip
    assert [(r.samples, r.values["n"]) for r in history.records] == [(10, 1), (25, 2), (60, 3), (100, 4)]
    assert all(0 <= r.seconds <= history.seconds for r in history.records)
    assert history.evaluation_seconds <= history.seconds


def test_ctrl_c_keeps_what_there_is():
    history = fit(Spy(fail_at=4), DATA, epochs=10, batch_size=5, evaluate=lambda: {"a": 1.0}, progress=False)
    assert history.interrupted
    assert history.samples == 20
    assert history.records[-1].samples == 20


def test_the_schedule_multiplies_every_learning_rate():
    vae, x = bernoulli_vae()
    learner, rates = AEVB(vae.model, vae.guide, ADAM), []
    step = learner.step

    def spy(*args, **kwargs):
        rates.append(learner.optimizers["optim"].param_groups[0]["lr"])
        return step(*args, **kwargs)

    learner.step = spy
    fit(learner, x, epochs=1, batch_size=10, schedule=lambda done: 0.5 * (1 + math.cos(math.pi * done)), progress=False)
    assert rates == pytest.approx([0.01 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])
    stock = AEVB(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}))
    with pytest.raises(TypeError, match="expected a torch optimizer"):
        fit(stock, x, epochs=1, schedule=lambda done: 1.0, batch_size=10, progress=False)


def test_the_same_seed_is_the_same_run():
    results = []
    for _ in range(2):
        pyro.set_rng_seed(0)
        vae, x = bernoulli_vae()
        fit(AEVB(vae.model, vae.guide, ADAM), Binarized(x * 0.9), epochs=5, batch_size=10, progress=False)
        results.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(*results)


def test_progress_shows_bound_and_time_left(capfd, monkeypatch):
    monkeypatch.setattr(sys.modules["pyro_aevb.training.progress"].Progress, "interval", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, ADAM)
    fit(learner, x, epochs=50, batch_size=4, label="demo", evaluate=lambda: {"test": -1.25}, evaluate_at=[40])
    shown = capfd.readouterr().err
    assert "demo" in shown
    assert "elbo -" in shown
    assert "test -1.25" in shown
    assert "samples/s" in shown


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"epochs": 0}, "1 or more training samples"),
        ({"samples": -5}, "1 or more training samples"),
        ({"epochs": 1, "batch_size": 0}, "batch_size of 1 or more"),
        ({}, "samples or epochs, one of them"),
        ({"epochs": 1, "samples": 1}, "samples or epochs, one of them"),
    ],
)
def test_bad_sizes_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        fit(Spy(), DATA, progress=False, **kwargs)


def test_an_empty_data_set_is_refused_and_a_large_batch_is_said():
    with pytest.raises(ValueError, match="empty data set"):
        fit(Spy(), np.zeros((0, 3)), epochs=1)
    spy = Spy()
    with pytest.warns(UserWarning, match="batch_size 100 is larger than the data set: all 25 datapoints"):
        fit(spy, DATA, epochs=2, progress=False)
    assert [len(i) for i in spy.seen] == [25, 25]


def test_a_signal_that_comes_while_the_ranks_agree_is_not_lost(monkeypatch):
    """It came after the flags were read: the next step sees it."""
    any_of, calls = Ranks.any, []

    def interrupted(self, *flags):
        result = any_of(self, *flags)
        calls.append(flags)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(Ranks, "any", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        history = fit(Spy(), DATA, epochs=100, batch_size=5, progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert history.interrupted
    assert history.samples == 15
