"""A run that is stopped anywhere and resumed ends where the run ends that was never stopped, to the last bit."""

import functools
import hashlib
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import batch_norm_vae, bernoulli_vae
from pyro.infer import TraceMeanField_ELBO
from schedulefree import AdamWScheduleFree
from torch.utils._pytree import tree_leaves_with_path
from torch.utils.data import DataLoader, TensorDataset

from pyro_aevb import AEVB, IWAE, MCEM, SGVB, VAE, NonFiniteLossError, ReweightedWakeSleep, WakeSleep
from pyro_aevb.datasets import Binarized
from pyro_aevb.files.safetensors_state import pack, unpack
from pyro_aevb.learners.aevb import AEVBInfo
from pyro_aevb.training import fit
from pyro_aevb.training.checkpoint import Checkpoints

ADAM = functools.partial(torch.optim.Adam, lr=0.01)


class Crash(Exception):
    pass


LEARNERS = {
    "aevb": lambda p: AEVB(p.model, p.guide, ADAM, TraceMeanField_ELBO()),
    "graph": lambda p: AEVB(p.model, p.guide, functools.partial(torch.optim.Adagrad, lr=0.02), compile="graph"),
    "warm-up": lambda p: AEVB(p.model, p.guide, ADAM, SGVB(kl="analytic")),
    "warm-up, graph": lambda p: AEVB(p.model, p.guide, ADAM, SGVB(kl="analytic"), compile="graph"),
    "pyro": lambda p: AEVB(p.model, p.guide, pyro.optim.ClippedAdam({"lr": 0.01})),
    "schedule-free": lambda p: AEVB(p.model, p.guide, functools.partial(AdamWScheduleFree, lr=0.02, warmup_steps=4)),
    "wake-sleep": lambda p: WakeSleep(p.model, p.guide, ADAM, ADAM),
    "reweighted": lambda p: ReweightedWakeSleep(p.model, p.guide, ADAM, ADAM, num_particles=3),
    "mcem": lambda p: MCEM(p.model, ADAM, num_leapfrog=3),
    "mcem-guide": lambda p: MCEM(p.model, ADAM, p.guide, ADAM, num_leapfrog=3),
}
DATA = {
    "tensor": lambda x: x,
    "binarized": lambda x: Binarized(x * 0.9),
    "loader": lambda x: DataLoader(TensorDataset(x), batch_size=8, shuffle=True),
    "generator": lambda x: (x[[i, -i - 1]] for i in range(20)),
}
LONG = ("graph", "warm-up, graph", "mcem", "mcem-guide", "reweighted")
CASES = [(learner, "tensor") for learner in LEARNERS] + [("aevb", data) for data in DATA if data != "tensor"]


def run(learner, data, folder=None, *, crash_at=None, make=bernoulli_vae, **kwargs):
    """Train five passes with everything that has a state, and return history and parameters."""
    pyro.set_rng_seed(0)
    pair, x = make()
    built = LEARNERS.get(learner, learner)(pair)
    step, count = built.step_on, [0]

    def crashing(*args, **kwargs):
        count[0] += 1
        if count[0] == crash_at:
            raise Crash
        return step(*args, **kwargs)

    built.step_on = crashing
    options = {"epochs": 5, "batch_size": 8, "checkpoint_every": 0.0, "evaluate_every": 24, "progress": False}
    if data == "generator":
        options["epochs"] = 1
    elif learner != "pyro":
        options |= {"schedule": lambda done: 1 - done / 2, "dataset_size": 40}
    if learner in ("warm-up", "warm-up, graph"):
        options["kl_warm_up"] = 100
    if built.guide is not None:
        options |= {"keep_best": True, "patience": 100}
    validation = None if built.guide is None else x[:10]
    with pyro.get_param_store().scope():
        history = fit(built, DATA[data](x), validation, checkpoint_dir=folder, **(options | kwargs))
        return history, built.copy_parameters()


def assert_same(a, b):
    (history, state), (expected, right) = a, b
    assert state["parameters"].keys() == right["parameters"].keys()
    for name, value in right["parameters"].items():
        assert torch.equal(state["parameters"][name], value), name
    assert all(map(torch.equal, state["buffers"], right["buffers"]))
    assert history.samples == expected.samples
    assert [(r.samples, r.values, r.training) for r in history.records] == [
        (r.samples, r.values, r.training) for r in expected.records
    ]


@pytest.mark.parametrize(
    ("learner", "data"),
    [pytest.param(*case, marks=pytest.mark.slow if case[0] in LONG else ()) for case in CASES],
)
def test_a_run_that_crashes_and_resumes_is_the_run_that_did_not(learner, data, tmp_path):
    expected = run(learner, data)
    for crash_at in (1, 4, 5, 7):  # before the first step; on its way; at the end of a pass; soon after the last resume
        with pytest.raises(Crash):
            run(learner, data, tmp_path, crash_at=crash_at, resume=True)
    assert_same(run(learner, data, tmp_path, resume=True), expected)
    assert_same(run(learner, data, tmp_path, resume=True), expected)  # there is nothing left to do


def test_buffers_and_dropout_resume_too(tmp_path):
    expected = run("aevb", "tensor", make=batch_norm_vae)
    with pytest.raises(Crash):
        run("aevb", "tensor", tmp_path, crash_at=9, make=batch_norm_vae)
    assert_same(run("aevb", "tensor", tmp_path, resume=True, make=batch_norm_vae), expected)


def test_every_part_of_the_last_checkpoint_is_that_of_a_run_without_a_stop(tmp_path):
    run("aevb", "tensor", tmp_path / "whole")
    with pytest.raises(Crash):
        run("aevb", "tensor", tmp_path / "parts", crash_at=12)
    run("aevb", "tensor", tmp_path / "parts", resume=True)
    whole, parts = (Checkpoints(tmp_path / folder).newest() for folder in ("whole", "parts"))
    del whole["parts"]["history"], parts["parts"]["history"]  # compared above, but for the clock
    assert sum(calls for _, calls in whole["parts"]["validation"]["calls"]) > 1
    expected, found = tree_leaves_with_path(whole), tree_leaves_with_path(parts)
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (path, a), (_, b) in zip(expected, found, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else np.array_equal(a, b), path


def test_a_run_can_be_made_longer(tmp_path):
    short = {"schedule": None, "keep_best": False}
    expected = run("aevb", "tensor", epochs=7, **short)
    run("aevb", "tensor", tmp_path, epochs=3, **short)
    assert_same(run("aevb", "tensor", tmp_path, epochs=7, resume=True, **short), expected)


class Countdown:
    """A callback that ends a run when it has been called so often, draws noise and tells its state."""

    def __init__(self, last):
        self.last, self.count = last, 0

    def __call__(self, history):
        self.count += 1
        return self.count >= self.last + 0 * torch.rand(()).item()

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


@pytest.mark.parametrize("data", ["tensor", "generator", pytest.param("workers", marks=pytest.mark.slow)])
def test_a_run_that_a_callback_ended_goes_on_to_where_those_of_now_end_it(data, tmp_path, monkeypatch):
    """Ended, asked again by the same, by a later one, at the end of the data, and by one that never ends it."""
    workers = lambda x: DataLoader(TensorDataset(x), batch_size=8, shuffle=True, num_workers=1)  # noqa: E731
    monkeypatch.setitem(DATA, "workers", workers)
    longest = 40 if data == "generator" else 120
    for last, samples in ((1, longest), (1, longest), (2, longest), (3, min(72, longest)), (9, longest)):
        found, expected = Countdown(last), Countdown(last)
        options = {"make": batch_norm_vae, "epochs": None, "samples": samples, "schedule": None}
        parts = run("aevb", data, tmp_path, callbacks=[found], resume=True, **options)
        whole = run("aevb", data, callbacks=[expected], **options)
        assert_same(parts, whole)
        assert parts[0].stopped_early == whole[0].stopped_early
        assert found.count == expected.count


def test_old_checkpoints_go(tmp_path):
    run("aevb", "tensor", tmp_path, checkpoints_kept=3)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_in_use_is_not_written_over(tmp_path):
    run("aevb", "tensor", tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"expected no checkpoints in .*, got 2; pass resume=True"):
        run("aevb", "tensor", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_two_runs_on_one_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_aevb.files.lock.SECONDS", 0.1)
    messages = []

    def another(history):
        try:
            run("aevb", "tensor", tmp_path, resume=True, epochs=1)
        except BlockingIOError as error:
            messages.append(str(error))

    run("aevb", "tensor", tmp_path, epochs=1, callbacks=[another])
    assert all("expected a folder that nobody else writes to" in message for message in messages)
    assert messages
    run("aevb", "tensor", tmp_path, epochs=2, resume=True)


def cosine(done):
    return 0.5 * (1 + math.cos(math.pi * done))


def aevb(objective=SGVB, optim=ADAM, **options):
    return lambda p: AEVB(p.model, p.guide, optim, objective(), **options)


# What is changed, and how the error names it: mine, then the checkpoint's.
OTHER_RUNS = {
    "parameters": ({"make": lambda: (VAE(6, 3, hidden_dims=(5,), dataset_size=40).double(), bernoulli_vae()[1])},
                   "parameters="),
    "batch size": ({"batch_size": 4}, "batch_size=4, got one with batch_size=8"),
    "seed": ({"seed": 5}, "seed=5, got one with seed=0"),
    "learner": ({"learner": lambda p: WakeSleep(p.model, p.guide, ADAM, ADAM)},
                "learner=WakeSleep.* got one with learner=AEVB"),
    "learner's setting": ({"learner": aevb(update="model")}, "learner.trains=model, got one with learner.trains=both"),
    "prior": ({"learner": aevb(theta_prior=dist.Normal(0.0, 1.0))},
              "learner.theta_prior=Normal, got one with learner.theta_prior=None"),
    "objective": ({"learner": aevb(functools.partial(IWAE, 3))},
                  "learner.objective=IWAE, got one with learner.objective=SGVB"),
    "kl": ({"learner": aevb(functools.partial(SGVB, kl="analytic"))}, "objective.kl=analytic, .*objective.kl=sampled"),
    "beta": ({"learner": aevb(functools.partial(SGVB, beta=2.0))}, "learner.objective.beta=2.0, got .*beta=1.0"),
    "free bits": ({"learner": aevb(functools.partial(SGVB, free_bits=0.1))}, "learner.objective.free_bits=0.1, got"),
    "particles": ({"learner": aevb(functools.partial(SGVB, 3))}, "learner.objective.num_particles=3, got .*=1"),
    "rate": ({"learner": aevb(optim=functools.partial(torch.optim.Adam, lr=0.02))},
             "optim.lr=0.02, got one with optim.lr=0.01"),
    "betas": ({"learner": aevb(optim=functools.partial(torch.optim.Adam, lr=0.01, betas=(0.5, 0.9)))}, "optim.betas="),
    "decay": ({"learner": aevb(optim=functools.partial(torch.optim.Adam, lr=0.01, weight_decay=0.1))},
              "optim.weight_decay=0.1, got one with optim.weight_decay=0"),
    "optimizer": ({"learner": aevb(optim=functools.partial(torch.optim.Adagrad, lr=0.01))},
                  "optim=Adagrad, got one with optim=Adam"),
    "pyro's optimizer": ({"learner": aevb(optim=pyro.optim.Adam({"lr": 0.01})), "schedule": None}, "optim"),
    "schedule": ({"schedule": cosine}, "schedule=cosine, got one with schedule=.*lambda"),
    "no schedule": ({"schedule": None}, "schedule=None, got one with schedule=.*lambda"),
    "clip norm": ({"clip_norm": 3.0}, "clip_norm=3.0, got one with clip_norm=None"),
    "warm-up": ({"kl_warm_up": 30}, "kl_warm_up=30, got one with kl_warm_up=None"),
    "precision": ({"precision": "bf16"}, "precision=bf16, got one with precision=float32"),
    "dropped": ({"drop_last": True, "batch_size": 9}, "datapoints=36, batch_size=9, drop_last=True, got one"),
}  # fmt: skip


@pytest.mark.parametrize("other", OTHER_RUNS)
def test_a_checkpoint_of_another_run_is_refused(other, tmp_path):
    change, message = OTHER_RUNS[other]
    options = {"epochs": 1, "keep_best": False}
    run(aevb(), "tensor", tmp_path, **options)
    with pytest.raises(ValueError, match=f"expected a checkpoint of this run, with .*{message}"):
        run(**({"learner": aevb(), "data": "tensor", "folder": tmp_path, "resume": True} | options | change))


def test_an_implementation_of_the_same_update_is_no_other_run(tmp_path):
    options = {"epochs": 1, "keep_best": False}
    run(aevb(), "tensor", tmp_path, **options)
    fused = functools.partial(torch.optim.Adam, lr=0.01, fused=True)
    run(aevb(optim=fused), "tensor", tmp_path, resume=True, compile="graph", **options)


@pytest.mark.parametrize("setting", ["num_leapfrog", "step_size", "target_acceptance"])
def test_mcems_settings_are_its_own_and_not_what_it_adapted(setting, tmp_path):
    options = {"epochs": 1, "folder": tmp_path, "data": "tensor"}
    run(lambda p: MCEM(p.model, ADAM, num_leapfrog=2), **options)
    run(lambda p: MCEM(p.model, ADAM, num_leapfrog=2), resume=True, **options)
    other = {"num_leapfrog": 2} | {setting: {"num_leapfrog": 3, "step_size": 0.2, "target_acceptance": 0.8}[setting]}
    with pytest.raises(ValueError, match=f"learner.{setting}=.*, got one with learner.{setting}="):
        run(lambda p: MCEM(p.model, ADAM, **other), resume=True, **options)


def damaged(path, kind, generator):
    """Write the file anew under its own name, cut short or with a bit turned over."""
    content = bytearray(path.read_bytes())
    if kind == "cut":
        content = content[: int(torch.randint(len(content), (), generator=generator))]
    else:
        bit = int(torch.randint(8 * len(content), (), generator=generator))
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_damage_is_noticed_and_the_checkpoint_before_is_used(tmp_path):
    checkpoints, generator = Checkpoints(tmp_path), torch.Generator().manual_seed(0)
    state = {"parameters": torch.randn(100), "text": "x" * 500, "number": 0.5}
    for kind in ["bit"] * 100 + ["cut"] * 20:
        for path in tmp_path.iterdir():
            path.unlink()
        checkpoints.write(state | {"age": "old"})
        checkpoints.write(state | {"age": "new"})
        old, new = sorted(tmp_path.iterdir())
        damaged(new, kind, generator)
        with pytest.warns(UserWarning, match="expected whole checkpoints, got .* another checksum"):
            found = checkpoints.newest()
        assert found["age"] == "old"
        assert torch.equal(found["parameters"], state["parameters"])
        damaged(old, kind, generator)
        with pytest.raises(ValueError, match=r"got none that can be read: .* another checksum"):
            checkpoints.newest()


def test_a_damaged_newest_checkpoint_still_gives_the_same_run(tmp_path):
    expected = run("aevb", "tensor")
    with pytest.raises(Crash):
        run("aevb", "tensor", tmp_path, crash_at=9)
    damaged(max(tmp_path.iterdir()), "bit", torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="going on from"):
        assert_same(run("aevb", "tensor", tmp_path, resume=True), expected)


def test_a_newer_format_is_left_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write({"a": 1})
    data = pack({"format": 99, "state": {"b": 2}})
    (tmp_path / f"checkpoint-00000002-{hashlib.sha256(data).hexdigest()[:32]}.safetensors").write_bytes(data)
    with pytest.warns(UserWarning, match="format 99, and this version reads up to 2: upgrade"):
        assert checkpoints.newest() == {"a": 1}


def test_an_older_format_is_said(tmp_path):
    data = pack({"format": 1, "state": {"b": 2}})
    (tmp_path / f"checkpoint-00000002-{hashlib.sha256(data).hexdigest()[:32]}.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"none that can be read: .*format 1 of an older .* reads 2: end the run with"):
        Checkpoints(tmp_path).newest()


def test_a_pipe_among_the_checkpoints_is_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write({"a": 1})
    os.mkfifo(tmp_path / f"checkpoint-00000002-{'0' * 32}.safetensors")
    with pytest.warns(UserWarning, match="expected a file, got .*, which is a pipe"):
        assert checkpoints.newest() == {"a": 1}


def test_what_is_no_number_leaves_the_last_good_checkpoint(tmp_path):
    pair, x = bernoulli_vae()
    learner, calls = AEVB(pair.model, pair.guide, ADAM), [0]

    def spoil(history):
        calls[0] += 1
        if calls[0] == 3:
            next(pair.parameters()).data.fill_(math.nan)

    with pytest.raises(NonFiniteLossError):
        fit(learner, x, epochs=9, batch_size=8, callbacks=[spoil], checkpoint_dir=tmp_path, checkpoint_every=1e9,
            progress=False)  # fmt: skip
    state = Checkpoints(tmp_path).newest()
    assert all(value.isfinite().all() for value in state["parts"]["learner"]["parameters"].values())


def test_a_full_disk_is_an_error_and_leaves_what_was_there(tmp_path):
    with pytest.raises(Crash):
        run("aevb", "tensor", tmp_path, crash_at=9)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        with pytest.raises(OSError, match="got: File too large; what was there before stays"):
            run("aevb", "tensor", tmp_path, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert_same(run("aevb", "tensor", tmp_path, resume=True), run("aevb", "tensor"))


def test_a_folder_that_can_not_be_written_is_told_before_training(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        run("aevb", "tensor", file / "checkpoints", crash_at=1)
    if os.geteuid() == 0:
        return  # the superuser writes everywhere
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o500)
    with pytest.raises(PermissionError, match="expected to write"):
        run("aevb", "tensor", folder, crash_at=1)


# What follows is done to whole processes.  One process imports everything and then forks a child for each run.
CHILDREN = """
import os, random, signal, sys, time
import test_run
from pathlib import Path

signal.signal(signal.SIGINT, signal.default_int_handler)
folder, kills = Path(sys.argv[1]), int(sys.argv[2])
random.seed(0)

def train():
    import torch
    torch.set_num_threads(1)
    history, state = test_run.run("aevb", "tensor", folder, resume=True, epochs=20, checkpoint_every=0.005)
    (folder / "result").write_bytes(test_run.pack([state, history.samples, [tuple(r) for r in history.records]]))

def child():
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train()
            code = 0
        finally:
            os._exit(code)
    return pid

longest, done = 1.0, 0
while done < kills:
    began = time.time()
    pid = child()
    time.sleep(random.random() * longest)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        done += 1
        assert not (folder / "result").exists()
    else:  # it had finished: begin anew, and kill sooner
        assert os.WEXITSTATUS(status) == 0
        longest *= 0.7
        for path in folder.iterdir():
            path.unlink()
    if list(folder.glob("checkpoint-*.safetensors")):
        test_run.Checkpoints(folder).newest()
_, status = os.waitpid(child(), 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def python(code, *args, **kwargs):
    here = os.pathsep.join(str(Path(__file__).parents[i] / name) for i, name in ((0, ""), (1, "tables")))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=environment, **kwargs)


@pytest.mark.parametrize(
    "kills", [pytest.param(2, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.exhaustive)]
)
def test_kill_9_at_any_moment(kills, tmp_path):
    assert python(CHILDREN, tmp_path, kills).wait() == 0
    history, right = run("aevb", "tensor", epochs=20)
    state, samples, records = unpack((tmp_path / "result").read_bytes())
    assert samples == history.samples == 800
    for name, value in right["parameters"].items():
        assert torch.equal(state["parameters"][name], value), name
    assert [(r[0], r[2], r[3]) for r in records] == [(r.samples, r.values, r.training) for r in history.records]


PLAIN = {"schedule": None, "keep_best": False, "compile": False}
SIGNALLED = """
import signal, sys, test_run
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
options = test_run.PLAIN | {"epochs": 10**6, "checkpoint_every": 1e9}
history, _ = test_run.run("aevb", "tensor", Path(sys.argv[1]), **options)
print("interrupted", history.interrupted, history.samples)
"""


@pytest.mark.slow  # by default the command line is stopped and resumed (tests/cli/test_cli.py)
@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_a_signal_ends_the_run_with_a_checkpoint(kind, code, tmp_path):
    process = python(SIGNALLED, tmp_path, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("*.safetensors")):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(kind)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    samples = Checkpoints(tmp_path).newest()["parts"]["history"]["samples"]
    assert samples > 0
    assert out.split() == ([] if code else ["interrupted", "True", str(samples)])
    longer = PLAIN | {"samples": samples + 100, "epochs": None}
    assert_same(run("aevb", "tensor", tmp_path, resume=True, **longer), run("aevb", "tensor", **longer))


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("late", [False, True])
def test_a_loss_that_is_read_late_is_read_before_anything_is_kept(tmp_path, monkeypatch, late):
    """On a GPU losses are read a hundred at a time: a NaN between two readings reaches no checkpoint and no end."""
    monkeypatch.setattr("pyro_aevb.learners.losses._is_on_a_device", lambda loss: late)
    factor, reached = torch.tensor(1.0), []

    def model(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", 40, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(loc + z[:, None] * factor, 1.0, validate_args=False).to_event(1), obs=x)

    def guide(x):
        shift = pyro.param("shift", torch.zeros(2))
        with pyro.plate("data", 40, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x @ shift, 1.0))

    def evaluate():
        reached.append(1)
        factor.fill_(math.nan if len(reached) == 3 else 1.0)
        return {}

    learner = AEVB(model, guide, ADAM, compile=False)
    with pytest.raises(NonFiniteLossError, match="1 steps ago" if late else "not finite"):
        fit(
            learner, torch.randn(40, 2), samples=400, batch_size=10, evaluate=evaluate, evaluate_every=40,
            checkpoint_dir=tmp_path, checkpoint_every=0.0, progress=False,
        )  # fmt: skip
    kept = Checkpoints(tmp_path).newest()
    assert kept["parts"]["history"]["samples"] == 120
    assert all(value.isfinite().all() for value in kept["parts"]["learner"]["parameters"].values())
    learner._losses.read()  # they have been read


@pytest.mark.parametrize("ending", ["the end", "an evaluation", "a hundred steps"])
def test_losses_are_read_at(monkeypatch, ending):
    monkeypatch.setattr("pyro_aevb.learners.losses._is_on_a_device", lambda loss: True)
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, ADAM, compile=False)
    learner.prepare(x)
    monkeypatch.setattr(learner._gradients, "of", lambda batch: AEVBInfo(torch.tensor(math.nan), torch.tensor(0.0), ()))
    learner._first.had.update(learner.parameters_of("optim"))
    steps = {"the end": 3, "an evaluation": 2, "a hundred steps": 100}[ending]
    with pytest.raises(NonFiniteLossError, match=f"{steps} steps ago"):
        fit(
            learner, x, samples={"the end": 30}.get(ending, 5000), batch_size=10, progress=False,
            evaluate_at=[20] if ending == "an evaluation" else [5000],
        )  # fmt: skip


class Halves:
    """A stream of two minibatches whose length nobody knows."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x.split(20))


@pytest.mark.parametrize("make", [lambda x: DataLoader(x, batch_size=20, shuffle=True), Halves], ids=["loader", "any"])
@pytest.mark.parametrize(("first", "more"), [(1, 3), (2, 3), (3, 3)])
def test_a_stream_that_has_ended_goes_on_for_as_many_passes_as_there_are_now(make, first, more, tmp_path):
    found = []
    for folder, passes in (("parts", (first, more)), ("whole", (more,))):
        for epochs in passes:
            pyro.clear_param_store()
            torch.manual_seed(0)
            vae = VAE(4, 2, hidden_dims=(3,), dataset_size=40)
            x = torch.ones(40, 4).bernoulli()
            learner = AEVB(vae.model, vae.guide, ADAM, compile=False)
            settings = {"checkpoint_dir": tmp_path / folder, "resume": True, "progress": False}
            history = fit(learner, make(x), epochs=epochs, **settings)
        assert history.samples == 40 * more
        found.append([p.detach().clone() for p in vae.parameters()])
    assert all(map(torch.equal, *found))
