"""Runs that are killed, signalled or can't write at a random moment, and the run that nothing happened to.

Each runs in a forked child of a process that has imported everything.
"""

import contextlib
import functools
import os
import random
import resource
import signal
import time
import traceback
from datetime import timedelta

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pairs import bernoulli_vae
from pyro.optim import ExponentialLR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from pyro_aevb import AEVB, IWAE, MCEM, SGVB, Arguments, Bayesian, ReweightedWakeSleep, WakeSleep
from pyro_aevb.datasets import Binarized
from pyro_aevb.files import pack, unpack
from pyro_aevb.training import fit
from pyro_aevb.training.checkpoint import Checkpoints

N, SAMPLES, FULL = 40, 320, 7  # datapoints, those of a run, and the exit code for a full disk
ADAM = functools.partial(torch.optim.Adam, lr=0.01)
LATE = "too late"
NOBODY = 65534  # the user who may write nothing
SECONDS = 120  # in which a process ends by itself


class Shuffled:
    """A stream whose passes are drawn from a generator of NumPy's."""

    def __init__(self, x):
        self.x, self.generator = x, np.random.default_rng(0)

    def __iter__(self):
        return iter(self.x[torch.as_tensor(self.generator.permutation(N))].split(8))


class Places(IterableDataset):
    """Datapoints in an order that depends on the pass, which it keeps and tells."""

    def __init__(self, x):
        self.x, self.passes = x, 0

    def __iter__(self):
        self.passes += 1
        yield from self.x[torch.randperm(N, generator=torch.Generator().manual_seed(self.passes))]

    def state_dict(self):
        return {"passes": self.passes}

    def load_state_dict(self, state):
        self.passes = state["passes"]


class Draws:
    """A callback that draws, and tells its state."""

    def __init__(self):
        self.generator, self.count = np.random.default_rng(5), 0

    def __call__(self, history):
        self.count += 1
        history.records[-1].values["drawn"] = self.generator.random() + self.count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def aevb(pair, optimizer=ADAM, compile=False):
    return AEVB(pair.model, pair.guide, optimizer, compile=compile)


def halving(parameters):
    return torch.optim.lr_scheduler.StepLR(ADAM(parameters), step_size=10, gamma=0.5)


def loader(x, **options):
    return DataLoader(TensorDataset(x), 8, shuffle=True, generator=torch.Generator().manual_seed(3), **options)


def weighted(x):
    sampler = WeightedRandomSampler([1.0, 3.0] * (N // 2), N, generator=torch.Generator().manual_seed(4))
    return DataLoader(TensorDataset(x), 8, sampler=sampler)


def exponential(parameters):
    return ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.99})


def bayesian(pair):
    bayes = Bayesian(pair.model, pair.guide, torch.zeros(8, 6).double())
    return AEVB(bayes.model, bayes.guide, ADAM, compile=False)


def reweighted(pair):
    return ReweightedWakeSleep(pair.model, pair.guide, ADAM, ADAM, num_particles=3, compile=False)


def mcem_with_guide(pair):
    return MCEM(
        pair.model, ADAM, guide=pair.guide, guide_optim=ADAM, num_leapfrog=2, num_updates=1, compile=False
    )  # fmt: skip


def wake_sleep(pair):
    return WakeSleep(pair.model, pair.guide, ADAM, ADAM, compile=False)


def mcem(pair):
    return MCEM(pair.model, ADAM, num_leapfrog=2, num_updates=1, compile=False)


# By name: the learner, the data, and what else fit is given.
CONFIGURATIONS = {
    "tensor": (aevb, lambda x: x, lambda x: {"validation": x[:10], "keep_best": True, "patience": 100}),
    "drawn pixels": (aevb, lambda x: Binarized(x * 0.9), lambda x: {}),
    "loader": (aevb, loader, lambda x: {"dataset_size": N}),
    "stream": (aevb, Shuffled, lambda x: {"dataset_size": N}),
    "scheduler": (lambda pair: aevb(pair, halving), lambda x: x, lambda x: {}),
    "callbacks": (aevb, lambda x: x, lambda x: {"callbacks": [Draws()]}),
    "wake-sleep": (wake_sleep, lambda x: x, lambda x: {}),
    "mcem": (mcem, lambda x: x, lambda x: {}),
    "mcem with a guide": (mcem_with_guide, lambda x: x, lambda x: {}),
    "reweighted wake-sleep": (reweighted, lambda x: x, lambda x: {}),
    "several particles": (
        lambda pair: AEVB(pair.model, pair.guide, ADAM, IWAE(3), compile=False),
        lambda x: x,
        lambda x: {},
    ),
    "full VB": (bayesian, lambda x: x, lambda x: {"validation": x[:10], "keep_best": True}),
    "a prior on theta": (
        lambda pair: AEVB(pair.model, pair.guide, ADAM, theta_prior=dist.Normal(0.0, 1.0), compile=False),
        lambda x: Arguments(x=x),
        lambda x: {},
    ),
    "a graph": (lambda pair: aevb(pair, compile="graph"), lambda x: x, lambda x: {}),
    "Inductor": (lambda pair: aevb(pair, compile=True), lambda x: x, lambda x: {}),
    "Pyro's scheduler": (lambda pair: aevb(pair, exponential(None)), lambda x: x, lambda x: {}),
    "settings": (
        lambda pair: AEVB(pair.model, pair.guide, ADAM, SGVB(), compile=False),
        lambda x: x,
        lambda x: {"clip_norm": 0.5, "kl_warm_up": 200, "schedule": lambda done: 1 - done / 2},
    ),
    "a loader with a worker": (
        aevb,
        lambda x: loader(x, num_workers=1, multiprocessing_context="fork"),
        lambda x: {"dataset_size": N},
    ),
    "weighted rows": (aevb, weighted, lambda x: {"dataset_size": N}),
    "an iterable data set": (aevb, lambda x: DataLoader(Places(x), 8), lambda x: {"dataset_size": N}),
}


def train(name, folder, result):
    """Train from the last checkpoint in ``folder`` to the end, and write what came of it to ``result``."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    make, data, options = CONFIGURATIONS[name]
    pair, x = bernoulli_vae()
    learner = make(pair)
    history = fit(
        learner, data(x), samples=SAMPLES, batch_size=8, evaluate=lambda: {}, evaluate_every=80,
        checkpoint_dir=folder, checkpoint_every=0.02, resume=True, progress=False, **options(x),
    )  # fmt: skip
    if not history.interrupted:
        records = [(record.samples, record.values, record.training) for record in history.records]
        with contextlib.suppress(OSError):  # of a disk that was full too late: the run had ended
            result.write_bytes(pack([learner.copy_parameters()["parameters"], records]))


def train_ranks(folder, result, rank, size, store):
    """Train as one of several processes."""
    options = {"init_method": f"file://{store}", "rank": rank, "world_size": size, "timeout": timedelta(seconds=30)}
    torch.distributed.init_process_group("gloo", **options)
    train("tensor", folder, result.with_name(f"{result.name}-{rank}"))
    torch.distributed.barrier()


def child(work, log, unprivileged=False):
    """Fork a process that does ``work`` and ends; return its id.  What it fails with is written to ``log``."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        if unprivileged and os.geteuid() == 0:  # who may write to any folder
            os.setuid(NOBODY)
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(kind, signal.default_int_handler if kind == signal.SIGINT else signal.SIG_DFL)
        work()
        code = 0
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        code = FULL if "expected to write" in str(error) else 1
        log.write_text(traceback.format_exc())
    except BaseException:
        log.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def ended(pid, log):
    """Return the exit code of a process, minus a signal's number; raise if it doesn't end by itself."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            assert code != 1, log.read_text() if log.exists() else "exit code 1"
            return code
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"it didn't end in {SECONDS} s")


@functools.cache
def undisturbed(name, parent, size=1):
    """Return what comes of a run that nothing happens to, and the seconds that it takes."""
    parent.mkdir(parents=True, exist_ok=True)
    warm(name, parent)
    folder = parent / f"undisturbed {name} {size}"
    result = folder.with_suffix(".result")
    began = time.monotonic()
    finish(name, folder, result, size)
    return outcome(result, size), time.monotonic() - began


def warm(name, parent):
    """Run once in this process, for all that is imported late to be there in the children."""
    before = torch.random.get_rng_state()
    train(name, parent / f"warm {name}", parent / "warm.result")
    torch.random.set_rng_state(before)


def start(name, folder, result, size=1, unprivileged=False):
    """Start a run in ``size`` processes; return their ids."""
    log = result.with_suffix(".log")
    if size == 1:
        return [child(lambda: train(name, folder, result), log, unprivileged)]
    store = f"{result}-store-{random.randrange(10**9)}"
    return [child(lambda rank=rank: train_ranks(folder, result, rank, size, store), log) for rank in range(size)]


def finish(name, folder, result, size=1):
    """Run to the end."""
    codes = [ended(pid, result.with_suffix(".log")) for pid in start(name, folder, result, size)]
    assert codes == [0] * size, f"exit codes {codes}"


def outcome(result, size=1):
    """Return the content of a result, and remove it; ``None`` if there is none."""
    paths = [result] if size == 1 else [result.with_name(f"{result.name}-{rank}") for rank in range(size)]
    found = [unpack(path.read_bytes()) for path in paths if path.exists()]
    for path in paths:
        path.unlink(missing_ok=True)
    return found[0] if found else None


def assert_same(got, expected):
    """Assert that two runs have the same parameters and records, to the bit."""
    assert got[0].keys() == expected[0].keys()
    for key, value in expected[0].items():
        assert torch.equal(got[0][key], value), f"another {key}"
    assert got[1] == expected[1], "other records"


def moment(rng, seconds):
    """Return a random moment of a run: anywhere, or, half of them, in its last fifth."""
    return seconds * (rng.random() if rng.random() < 0.5 else rng.uniform(0.8, 1.02))


def disturb(name, rng, folder, parent, faults, disturbance, size=1):
    """Disturb a run again and again, resume it to the end, and compare it with the one that nothing happened to.

    Returns:
        What each disturbance did, in words.
    """
    expected, seconds = undisturbed(name, parent, size)
    result, found = folder.with_suffix(".result"), []
    for _ in range(faults):
        if disturbance is read_only:
            os.chmod(parent, 0o777)
        pids = start(name, folder, result, size, unprivileged=disturbance is read_only)
        found.append(disturbance(rng, pids, seconds, folder))
        if folder.exists() and len(Checkpoints(folder)):
            Checkpoints(folder).newest()
        if found[-1] == LATE:
            break
    outcome(result, size)
    finish(name, folder, result, size)
    if (got := outcome(result, size)) is not None:
        assert_same(got, expected)
    return found


def kill(rng, pids, seconds, folder):
    """Send SIGKILL to one of the processes; the others end by themselves."""
    log = folder.with_suffix(".log")
    time.sleep(rng.uniform(0.0, seconds))
    os.kill(rng.choice(pids), signal.SIGKILL)
    codes = []
    for pid in pids:
        try:
            codes.append(ended(pid, log))
        except AssertionError as error:
            if len(pids) == 1 or "didn't end" in str(error):
                raise
            codes.append(1)  # as it should, with the error of the connection
    return "killed" if any(code == -signal.SIGKILL for code in codes) else LATE


def signalled(rng, pids, seconds, folder):
    """Send SIGINT, SIGTERM or SIGHUP, once or twice."""
    kind = rng.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    time.sleep(moment(rng, seconds))
    os.kill(pids[0], kind)
    if rng.random() < 0.3:
        time.sleep(rng.random() * 0.05)
        os.kill(pids[0], kind)
    code = ended(pids[0], folder.with_suffix(".log"))
    if code in (-kind, 130):
        return "before the run had begun, or after its end"
    assert code in (0, 128 + kind), f"exit code {code} after {kind.name}"
    return "ended, and all is written" if code or kind == signal.SIGINT else LATE


def short_of_disk(rng, pids, seconds, folder):
    """Let no file of the process become larger than so many bytes, from some moment on."""
    time.sleep(rng.uniform(0.0, seconds))
    try:
        hard = resource.prlimit(pids[0], resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pids[0], resource.RLIMIT_FSIZE, (rng.randrange(1, 3000), hard))
    except ProcessLookupError:
        return LATE
    return _failed_to_write(pids[0], folder)


def read_only(rng, pids, seconds, folder):
    """Let nobody write to the run's folder, from some moment on."""
    time.sleep(rng.uniform(0.0, seconds))
    if not folder.exists():
        folder.mkdir()
        os.chown(folder, NOBODY, -1) if os.geteuid() == 0 else None
    os.chmod(folder, 0o555)
    try:
        return _failed_to_write(pids[0], folder)
    finally:
        os.chmod(folder, 0o777)


def _failed_to_write(pid, folder):
    code = ended(pid, folder.with_suffix(".log"))
    assert code in (0, FULL), f"exit code {code}"
    return "an error, and what was there stays" if code else LATE
