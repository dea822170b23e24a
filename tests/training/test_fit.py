"""The training loop: which datapoints, in what order, when it evaluates, how it stops."""

import functools
import math
import os
import signal
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import batch_norm_vae, bernoulli_vae
from pyro.infer.autoguide import AutoDelta, AutoNormal
from spy import DATA, Spy

from pyro_aevb import AEVB, SGVB
from pyro_aevb.datasets import Binarized
from pyro_aevb.training import fit
from pyro_aevb.training.checkpoint import Checkpoints
from pyro_aevb.training.ranks import Ranks
from pyro_aevb.training.run_settings import run_settings

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
    rates = []

    def adam(parameters):
        optimizer = ADAM(parameters)
        optimizer.register_step_pre_hook(lambda self, args, kwargs: rates.append(self.param_groups[0]["lr"]))
        return optimizer

    learner = AEVB(vae.model, vae.guide, adam)
    fit(learner, x, epochs=1, batch_size=10, schedule=lambda done: 0.5 * (1 + math.cos(math.pi * done)), progress=False)
    assert rates == pytest.approx([0.01 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])
    assert learner.optimizers["optim"].param_groups[0]["lr"] == 0.01, "the last rate was left behind"
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
        ({"epochs": 0}, "expected epochs of 1 or more, got 0"),
        ({"samples": -5}, "expected samples of 1 or more, got -5"),
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


# -- Nothing of a run stays --------------------------------------------------------------------------------------------


def parameters_of(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def test_a_run_with_every_option_leaves_only_what_was_learned(tmp_path):
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, ADAM, SGVB(kl="analytic", beta=2.0))
    learner.prepare(x)

    def plain_settings():
        settings = run_settings(learner)
        computation = vars(learner._computation)
        return settings, dict(computation), vars(learner.objective).keys(), vars(learner).keys()

    before = plain_settings()
    fit(
        learner, Binarized(0.8 * x + 0.1), epochs=2, batch_size=16, schedule=lambda done: 1 - done, clip_norm=1.0,
        kl_warm_up=30, precision="bf16", compile="graph", checkpoint_dir=tmp_path, drop_last=True, progress=False,
    )  # fmt: skip
    assert plain_settings() == before
    assert learner.optimizers["optim"].param_groups[0]["lr"] == 0.01


def test_what_a_run_set_ends_when_it_fails():
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, ADAM)
    with pytest.raises(ZeroDivisionError):
        fit(learner, x, epochs=1, batch_size=10, precision="bf16", callbacks=[lambda h: 1 / 0], progress=False)
    assert learner.precision == "float32"


def test_the_second_run_has_the_precision_that_its_checkpoint_says(tmp_path):
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, ADAM)
    for precision, written in (("bf16", "bf16"), (None, "float32")):
        folder = tmp_path / written
        fit(learner, x, epochs=1, batch_size=10, precision=precision, compile="graph", checkpoint_dir=folder,
            progress=False)  # fmt: skip
        assert Checkpoints(folder).newest()["settings"]["precision"] == written
        assert [capture.precision for capture in learner.captures] == [written]
    learner.configure(precision="bf16")  # the learner's own choice is written too
    fit(learner, x, epochs=1, batch_size=10, checkpoint_dir=tmp_path / "own", progress=False)
    assert Checkpoints(tmp_path / "own").newest()["settings"]["precision"] == "bf16"


def test_a_second_run_trains_at_the_full_rate():
    moved = []
    for schedule in (None, lambda done: 1e-9):
        pyro.set_rng_seed(0)
        vae, x = bernoulli_vae()
        learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.SGD, lr=1e-3), SGVB())
        learner.prepare(x)
        if schedule is not None:
            fit(learner, x, epochs=1, batch_size=10, schedule=schedule, progress=False)
            pyro.set_rng_seed(0)
            bernoulli_vae()
        fit(learner, x, epochs=1, batch_size=10, progress=False)
        moved.append(parameters_of(vae))
    torch.testing.assert_close(*moved)


@pytest.mark.parametrize("wrap", [lambda x: x, Binarized, lambda x: (Binarized(x), x)])
def test_several_runs_trace_a_step_once(wrap):
    def model(x, *rest):
        return vae.model(x)

    def guide(x, *rest):
        return vae.guide(x)

    vae, x = bernoulli_vae()
    learner = AEVB(model, guide, ADAM, compile="graph")
    for _ in range(4):  # each with a data source of its own
        fit(learner, wrap(x), epochs=1, batch_size=10, progress=False)
    (capture,) = learner.captures
    assert (capture._traces, capture.obstacle) == (1, None)


# -- The dry run -------------------------------------------------------------------------------------------------------


def one_entry_a_datapoint(x):
    loc = pyro.param("loc", lambda: torch.zeros(len(x)))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0))


def line(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("guide", [lambda: one_entry_a_datapoint, lambda: AutoNormal(line), lambda: AutoDelta(line)])
@pytest.mark.parametrize("n", [1500, 30])
def test_guides_that_remember_all_datapoints(guide, n):
    history = fit(AEVB(line, guide(), ADAM), torch.randn(n), epochs=2, batch_size=n, progress=False)
    assert history.samples == 2 * n
    assert any(value.shape == (n,) for value in pyro.get_param_store().values())


def test_guides_that_look_up_their_datapoints():
    n = 1500

    def model(x, index):
        with pyro.plate("data", n, subsample=index):
            z = pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = AutoNormal(model, create_plates=lambda x, index: pyro.plate("data", n, subsample=index))
    data = (torch.randn(n), torch.arange(n))
    fit(AEVB(model, guide, ADAM, compile=False), data, epochs=2, batch_size=400, progress=False)
    assert guide.locs.z.shape == (n,)


def of_twenty(x):
    loc = pyro.param("loc", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc.expand(20), 1.0))


def test_a_last_minibatch_that_model_and_guide_cant_take_is_told_before_training():
    learner = AEVB(line, of_twenty, ADAM)
    with pytest.raises(ValueError, match=r"for one of 10 datapoints, where the others have 20; pass drop_last=True"):
        fit(learner, torch.randn(50), epochs=1, batch_size=20, progress=False)
    assert pyro.param("loc") == 0
    assert fit(learner, torch.randn(50), epochs=3, batch_size=20, drop_last=True, progress=False).samples == 120
    assert fit(learner, torch.randn(50), samples=40, batch_size=20, progress=False).samples == 40


def test_data_of_the_whole_set_are_checked_for_such_guides_too():
    x = torch.randn(3000)
    x[2345] = math.nan
    with pytest.raises(ValueError, match="got 1 NaN"):
        fit(AEVB(line, one_entry_a_datapoint, ADAM), x, epochs=1, batch_size=300, progress=False)


def test_a_last_minibatch_of_one_and_batch_normalization():
    vae, x = batch_norm_vae()
    learner = AEVB(vae.model, vae.guide, ADAM)
    for data, options in ((x, {"batch_size": 13}), (x, {"samples": 41, "epochs": None}), (x[:1], {})):
        before = learner.copy_parameters() if learner.theta else None
        with pytest.raises(ValueError, match=r"two datapoints or more .*BatchNorm1d, got one of a single datapoint"):
            fit(learner, data, **({"epochs": 2, "batch_size": len(data)} | options), progress=False)
        assert before is None or all(map(torch.equal, before["buffers"], learner.copy_parameters()["buffers"]))
    assert fit(learner, x, epochs=2, batch_size=13, drop_last=True, progress=False).samples == 2 * 39
    fit(learner, x, samples=26, batch_size=13, progress=False)  # the last one of the pass does not come
    vae.eval()
    fit(learner, x, epochs=1, batch_size=13, progress=False)  # and in evaluation mode one is enough


def test_what_is_left_of_a_pass_can_be_dropped():
    spy = Spy()
    history = fit(spy, DATA, epochs=3, batch_size=10, drop_last=True, evaluate=lambda: {"a": 1.0}, progress=False)
    assert [len(i) for i in spy.seen] == [10] * 6
    assert history.samples == 60
    assert [r.samples for r in history.records] == [20, 40, 60]
    assert not torch.equal(*(torch.cat(spy.seen[i : i + 2]).sort().values for i in (0, 2)))
    spy = Spy()
    assert fit(spy, DATA, samples=37, batch_size=10, drop_last=True, progress=False).samples == 30
    with pytest.raises(ValueError, match=r"got a stream.*pass DataLoader\(..., drop_last=True\)"):
        fit(Spy(), iter(DATA.split(10)), drop_last=True, progress=False)
