"""Signals at every moment: nothing that was trained is lost, and no file, module or handler is left halfway."""

import functools
import os
import signal
import time

import pytest
import torch
from pairs import batch_norm_vae, bernoulli_vae

from pyro_aevb import AEVB
from pyro_aevb.model_guide.modes import evaluating
from pyro_aevb.training import fit
from pyro_aevb.training.checkpoint import Checkpoints
from pyro_aevb.training.signals import HeldSignals

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
BOTH = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers():
    """Listen to ctrl-C, and let no other signal end the tests."""
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, *BOTH)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for kind in BOTH:
        signal.signal(kind, unexpected)
    yield
    left = {kind: signal.getsignal(kind) for kind in BOTH}
    for kind, handler in before.items():
        signal.signal(kind, handler)
    assert set(left.values()) == {unexpected}, "fit left a handler"


def unexpected(kind, frame):
    raise AssertionError(f"signal {kind} came through")


def twice(kind):
    os.kill(os.getpid(), kind)
    time.sleep(1.05)  # the first one of a terminal and its parent are one
    os.kill(os.getpid(), kind)


def newest(folder):
    return Checkpoints(folder).newest()["parts"]["history"]


def train(folder, evaluate=lambda: {}, **options):
    vae, x = bernoulli_vae()
    options = {"samples": 80, "batch_size": 8, "evaluate_at": [10**9], "checkpoint_every": 1e9} | options
    learner = AEVB(vae.model, vae.guide, ADAM, compile=False)
    return fit(learner, x, evaluate=evaluate, checkpoint_dir=folder, progress=False, **options)


@pytest.mark.parametrize("kind", BOTH)
def test_a_signal_in_the_last_evaluation_ends_it_and_what_was_trained_is_there(kind, tmp_path):
    after = []

    def evaluate():
        os.kill(os.getpid(), kind)
        after.append(1)
        return {}

    with pytest.raises(SystemExit) as ended:
        train(tmp_path, evaluate)
    assert ended.value.code == 128 + kind
    assert not after, "it was waited for"
    assert (newest(tmp_path)["samples"], newest(tmp_path)["records"]) == (80, [])
    resumed = train(tmp_path, resume=True)
    assert [record.samples for record in resumed.records] == [80]


def test_ctrl_c_in_the_last_evaluation_waits_for_it_and_another_one_does_not(tmp_path):
    def once():
        os.kill(os.getpid(), signal.SIGINT)
        return {"a": 1.0}

    history = train(tmp_path / "once", once)
    assert history.interrupted
    assert (history.samples, history.records[-1].values) == (80, {"a": 1.0})
    assert len(newest(tmp_path / "once")["records"]) == 1
    calls = []
    history = train(tmp_path / "twice", lambda: calls.append(1) or twice(signal.SIGINT))
    assert history.interrupted
    assert (history.samples, history.records, calls) == (80, [], [1])
    assert newest(tmp_path / "twice")["samples"] == 80


@pytest.mark.parametrize("checkpoints", [True, False])
def test_ctrl_c_is_answered_at_once_and_says_how_to_go_on(checkpoints, tmp_path, capsys):
    said = []

    def evaluate():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # a terminal's and a parent's are one
        said.append(capsys.readouterr().err)
        return {}

    vae, x = bernoulli_vae()
    kept = {"checkpoint_dir": tmp_path} if checkpoints else {}
    learner = AEVB(vae.model, vae.guide, ADAM, compile=False)
    fit(learner, x, samples=80, batch_size=8, evaluate=evaluate, evaluate_at=[40], **kept)
    (text,) = said
    assert text.count("ctrl-C: the run ends after the step in hand") == 1
    assert ("resume=True, or pyro-aevb train --resume, goes on from it" in text) == checkpoints
    capsys.readouterr()
    fit(learner, x, samples=8, batch_size=8, evaluate=evaluate, evaluate_at=[8], progress=False)
    assert not said[1]


def test_a_second_ctrl_c_in_an_evaluation_does_not_begin_it_again(tmp_path):
    calls = []
    history = train(tmp_path, lambda: calls.append(1) or twice(signal.SIGINT), evaluate_at=[40])
    assert (history.interrupted, history.samples, calls) == (True, 40, [1])


@pytest.mark.parametrize("kind", [signal.SIGINT, *BOTH])
def test_no_signal_ends_the_writing(kind, tmp_path, monkeypatch):
    """Three of them come while the last checkpoint is written; it is whole, and then the process ends."""
    write = Checkpoints.write
    written = []

    def slow(self, state):
        if state["parts"]["history"]["samples"] == 80:
            os.kill(os.getpid(), kind)
            twice(kind)
        write(self, state)
        written.append(state["parts"]["history"]["samples"])

    monkeypatch.setattr(Checkpoints, "write", slow)
    try:
        assert train(tmp_path).interrupted
        code = 0
    except SystemExit as ended:
        code = ended.code
    assert code == (0 if kind == signal.SIGINT else 128 + kind)
    assert written[-1] == newest(tmp_path)["samples"] == 80


@pytest.mark.parametrize("kind", BOTH)
def test_a_signal_between_steps_is_a_checkpoint_and_an_exit_code(kind, tmp_path):
    def step(history):
        os.kill(os.getpid(), kind)

    with pytest.raises(SystemExit) as ended:
        train(tmp_path, callbacks=[step], evaluate_at=[40])
    assert ended.value.code == 128 + kind
    assert newest(tmp_path)["samples"] == 40


def test_a_hangup_that_is_ignored_stays_ignored(tmp_path):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        history = train(tmp_path, callbacks=[lambda h: os.kill(os.getpid(), signal.SIGHUP)], evaluate_at=[40])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (history.samples, history.interrupted) == (80, False)


@pytest.mark.parametrize("moment", range(8))
def test_a_second_ctrl_c_at_any_moment_of_a_call(moment):
    """It ends the call or comes too late for it; nothing is raised out of it."""

    def work():
        for i in range(8):
            if i == moment:
                signals._since = -10.0
                os.kill(os.getpid(), signal.SIGINT)
            done.append(i)

    done = []
    with HeldSignals(terminate=True) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        signals.call(work)
        os.kill(os.getpid(), signal.SIGINT)
    assert done == list(range(moment))
    assert signals.at_once
    assert signals.again


def test_modules_are_back_in_their_mode_whatever_interrupts():
    """An interruption while they are put back doesn't leave half of them in evaluation mode."""

    class Interrupted(torch.nn.Linear):
        def __setattr__(self, name, value):
            if name == "training" and value and armed and armed.pop():
                raise KeyboardInterrupt
            super().__setattr__(name, value)

    armed = []
    modules = [torch.nn.Linear(1, 1), Interrupted(1, 1), torch.nn.Linear(1, 1)]
    armed.append(1)
    with pytest.raises(KeyboardInterrupt), evaluating(modules):
        pass
    assert all(module.training for module in modules)


def test_a_run_that_is_broken_off_leaves_modes_and_the_fast_path(tmp_path):
    vae, x = batch_norm_vae()
    learner = AEVB(vae.model, vae.guide, ADAM, compile="graph")
    options = {"samples": 80, "batch_size": 8, "progress": False}
    fit(learner, x, x[:8], evaluate=lambda: twice(signal.SIGINT), evaluate_at=[40], precision="bf16", **options)
    assert all(module.training for module in vae.modules())
    assert learner.precision == "float32"
    fit(learner, x, **options)
    assert learner.captures[0].obstacle is None


def test_a_gradient_that_somebody_left_is_not_added():
    moved = []
    for left in (False, True):
        torch.manual_seed(0)
        vae, x = bernoulli_vae()
        learner = AEVB(vae.model, vae.guide, ADAM, compile=False)
        learner.prepare(x)
        for parameter in vae.parameters():
            parameter.grad = torch.full_like(parameter, 100.0) if left else None
        torch.manual_seed(1)
        learner.step(x)
        moved.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(*moved)
