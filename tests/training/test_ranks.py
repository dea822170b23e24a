"""Several processes on one minibatch do what one does: the same gradients, the same data, one checkpoint."""

import datetime
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from pyro_aevb import AEVB, IWAE, MCEM, SGVB, VAE, WakeSleep
from pyro_aevb.evidence import elbo
from pyro_aevb.files.safetensors_state import pack, unpack
from pyro_aevb.training import fit
from pyro_aevb.training.checkpoint import Checkpoints
from pyro_aevb.training.ranks import Ranks

N = 100
SGD = functools.partial(torch.optim.SGD, lr=1e-4)
ADAM = functools.partial(torch.optim.Adam, lr=0.01)

# One process imports everything and forks the ranks.  Their exit codes are printed, as soon as all have ended.
LAUNCH = """
import os, sys, traceback
import torch, torch.distributed
import test_ranks

name, folder, size, *rest = sys.argv[1:]
torch.set_num_threads(1)

def rank_process(rank):
    code = 1
    try:
        store = f"file://{folder}/store-{os.getppid()}"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=int(size))
        getattr(test_ranks, name)(folder, rank, *rest)
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

pids = []
for rank in range(int(size)):
    pid = os.fork()
    if pid == 0:
        rank_process(rank)
    pids.append(pid)
print(*pids, flush=True)
print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))
"""


def start(function, folder, size, *args):
    here = os.pathsep.join(str(Path(__file__).parents[i] / name) for i, name in ((0, ""), (1, "tables")))
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", LAUNCH, function.__name__, str(folder), str(size), *map(str, args)]
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def launch(function, folder, size, *args):
    """Run ``function(folder, rank, *args)`` in ``size`` processes and return what each wrote."""
    process = start(function, folder, size, *args)
    out, errors = process.communicate(timeout=300)
    assert out.split()[size:] == ["0"] * size, errors
    return [unpack((Path(folder) / f"result-{rank}").read_bytes()) for rank in range(size)]


def give(folder, rank, value):
    (Path(folder) / f"result-{rank}").write_bytes(pack(value))


TOGETHER = ("gradients", "one_step", "noise", "crash_and_resume", "refusals")


def together(folder, rank):
    """Do these one after the other, each in a folder of its own."""
    for name in TOGETHER:
        (Path(folder) / name).mkdir(exist_ok=True)
        with pyro.get_param_store().scope():
            globals()[name](Path(folder) / name, rank)
    give(folder, rank, [])


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What each of two ranks wrote, by function, and the folder; one start of Python serves them all."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(together, folder, 2)
    written = {n: [unpack((folder / n / f"result-{rank}").read_bytes()) for rank in range(2)] for n in TOGETHER}
    return written | {"folder": folder}


# -- The same noise: the same gradients --------------------------------------------------------------------------------


class GivenNoise(dist.Normal):
    """A normal distribution whose standardised draws are given."""

    def __init__(self, loc, scale, noise):
        super().__init__(loc, scale)
        self.noise = noise

    def expand(self, batch_shape, _instance=None):
        assert tuple(batch_shape) == tuple(self.batch_shape)
        return self

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise


class Noiseless:
    """Factor analysis whose guide takes its noise as an argument."""

    def __init__(self, with_size):
        self.with_size = with_size
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(N, 3, generator=generator).double()
        self.noise = torch.randn(N, 2, generator=generator).double()

    def plate(self, x):
        return pyro.plate("data", N, subsample_size=len(x)) if self.with_size else pyro.plate("data", len(x))

    def model(self, x, noise):
        weight = pyro.param("weight", torch.ones(2, 3).double() / 2)
        scale = pyro.param("scale", torch.ones(3).double(), constraint=dist.constraints.positive)
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight, scale).to_event(1), obs=x)

    def guide(self, x, noise):
        slope = pyro.param("slope", torch.ones(3, 2).double() / 4)
        with self.plate(x):
            pyro.sample("z", GivenNoise(x @ slope, 0.5 + 0.1 * x[:, :1].abs(), noise).to_event(1))


LEARNERS = {
    "a": lambda p: AEVB(p.model, p.guide, SGD, Trace_ELBO()),
    "b": lambda p: AEVB(p.model, p.guide, SGD, TraceMeanField_ELBO()),
    "map": lambda p: AEVB(p.model, p.guide, SGD, SGVB(), theta_prior=dist.Normal(0.0, 1.0)),
    "iwae": lambda p: AEVB(p.model, p.guide, SGD, IWAE(1), compile="graph"),
    "wake-sleep": lambda p: WakeSleep(p.model, p.guide, SGD, functools.partial(torch.optim.SGD, lr=0.0)),
    "blend": lambda p: AEVB(p.model, p.guide, SGD),
    "no size": lambda p: AEVB(p.model, p.guide, SGD, SGVB(kl="analytic")),
}


def gradients(folder, rank):
    """Two passes over 100 datapoints, 33 at a time: parts of 16 and 17, and of none and one at the end of a pass."""
    results = {}
    for name, make in LEARNERS.items():
        with pyro.get_param_store().scope():
            pair = Noiseless(name != "no size")
            learner = make(pair)
            fit(learner, (pair.x, pair.noise), epochs=2, batch_size=33, clip_norm=5.0, progress=False)
            results[name] = learner.copy_parameters()["parameters"]
    give(folder, rank, results)


def test_two_ranks_follow_the_gradients_of_one(two_ranks, tmp_path):
    two = two_ranks["gradients"]
    gradients(tmp_path, 0)
    one = unpack((tmp_path / "result-0").read_bytes())
    for name, expected in one.items():
        for parameter, value in expected.items():
            for got in two:
                assert torch.allclose(got[name][parameter], value, rtol=1e-10, atol=1e-10), (name, parameter)


def one_step(folder, rank):
    pair, moved = Noiseless(True), {}
    for size in (100, 50):
        with pyro.get_param_store().scope():
            learner = AEVB(pair.model, pair.guide, SGD, Trace_ELBO())
            learner.prepare(pair.x, pair.noise)
            before = learner.copy_parameters()["parameters"]
            fit(learner, (pair.x, pair.noise), samples=size, batch_size=size, progress=False)
            after = learner.copy_parameters()["parameters"]
            moved[size] = {n: (before[n] - after[n]) / 1e-4 for n in before}
    give(folder, rank, moved)


def test_two_parts_of_fifty_have_the_gradient_of_a_hundred(two_ranks):
    """The gradient itself, by autograd."""
    two = two_ranks["one_step"]
    pair = Noiseless(True)
    loss = Trace_ELBO().differentiable_loss(pair.model, pair.guide, pair.x, pair.noise)
    loss.backward()
    for name, parameter in pyro.get_param_store().named_parameters():
        for got in two:
            assert torch.allclose(got[100][name], parameter.grad, rtol=1e-6, atol=1e-6)


# -- Whole runs --------------------------------------------------------------------------------------------------------


def make_vae():
    pyro.set_rng_seed(0)
    x = torch.bernoulli(torch.full((N, 8), 0.3)).double()
    return VAE(8, 2, hidden_dims=(10,), dataset_size=N).double(), x


def noise(folder, rank):
    """Every rank begins with parameters of its own; afterwards they share them, and nothing else that is random."""
    vae, x = make_vae()
    torch.manual_seed(rank)
    torch.nn.init.normal_(vae.decoder[0].weight)
    pyro.set_rng_seed(0)
    learner, seen = AEVB(vae.model, vae.guide, ADAM), []
    step = learner.step_on
    learner.step_on = lambda batch, settings: seen.append(batch.places) or step(batch, settings)
    history = fit(learner, x, x[:20], epochs=2, batch_size=25, checkpoint_dir=Path(folder) / "c", progress=False)
    chains = MCEM(vae.model, ADAM, num_leapfrog=2)
    fit(chains, x, epochs=2, batch_size=25, progress=False)
    give(
        folder,
        rank,
        {
            "parameters": learner.copy_parameters()["parameters"],
            "seen": seen,
            "random": torch.get_rng_state(),
            "records": [(r.samples, r.values) for r in history.records],
            "training": [r.training for r in history.records],
            "chains": chains.state_dict()["chains"]["positions"],
            "step_size": chains.state_dict()["chains"]["step_size"],
            "theta": chains.copy_parameters()["parameters"],
        },
    )


def test_ranks_share_parameters_and_data_but_no_noise(two_ranks):
    first, *others = two_ranks["noise"]
    for other in others:
        for part in ("parameters", "theta"):
            for name, value in first[part].items():
                assert torch.equal(other[part][name], value)
        assert other["records"] == first["records"]
        assert other["training"] == first["training"]
        assert torch.equal(other["chains"], first["chains"])
        assert other["step_size"] == first["step_size"]
        assert not torch.equal(other["random"], first["random"])
    assert first["chains"].isfinite().all()
    assert first["chains"].shape == (N, 2)
    assert len(first["chains"][:, 0].unique()) == N
    seen = [each["seen"] for each in two_ranks["noise"]]
    together = torch.cat([torch.cat(parts) for parts in zip(*seen, strict=True)])
    order = torch.cat([torch.randperm(N, generator=g) for g in [torch.Generator().manual_seed(0)] for _ in range(2)])
    assert torch.equal(together, order), "another order than one process has"


def long_run(folder, rank, epochs, crash_at=0):
    vae, x = make_vae()
    learner, count = AEVB(vae.model, vae.guide, ADAM), [0]
    step = learner.step_on

    def crashing(*args, **kwargs):
        count[0] += 1
        if count[0] == crash_at:
            raise RuntimeError("a crash")
        return step(*args, **kwargs)

    learner.step_on = crashing
    fit(
        learner, x, x[:20], epochs=int(epochs), batch_size=25, checkpoint_dir=Path(folder) / "c", checkpoint_every=0.0,
        resume=True, compile=False, progress=False,
    )  # fmt: skip
    return learner.copy_parameters()["parameters"]


def training_of(folder):
    records = Checkpoints(Path(folder) / "c").newest()["parts"]["history"]["records"]
    return [record[3] for record in records]


def crash_and_resume(folder, rank):
    expected = long_run(Path(folder) / "whole", rank, 4)
    with pytest.raises(RuntimeError, match="a crash"):
        long_run(folder, rank, 4, crash_at=7)
    torch.distributed.barrier()
    samples = Checkpoints(Path(folder) / "c").newest()["parts"]["history"]["samples"]
    torch.distributed.barrier()
    resumed = long_run(folder, rank, 4)
    torch.distributed.barrier()
    give(folder, rank, [expected, samples, resumed, training_of(Path(folder) / "whole"), training_of(folder)])


def test_ranks_resume_exactly_and_in_another_number(two_ranks, tmp_path):
    for expected, samples, resumed, whole, parts in two_ranks["crash_and_resume"]:
        assert parts == whole, "the training bound in the history"
        assert samples == 150
        for name, value in expected.items():
            assert torch.equal(resumed[name], value)
    shutil.copytree(two_ranks["folder"] / "crash_and_resume" / "c", tmp_path / "c")
    longer = long_run(tmp_path, 0, 6)
    assert Checkpoints(tmp_path / "c").newest()["parts"]["history"]["samples"] == 600
    assert not any(torch.equal(longer[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("kind", "victim"), [(signal.SIGKILL, 1), pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow)]
)
def test_a_rank_that_is_killed_leaves_a_checkpoint(kind, victim, tmp_path):
    process = start(long_run, tmp_path, 2, 10**6)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    while not (tmp_path / "c").exists() or max(map(number, (tmp_path / "c").glob("*.safetensors")), default=0) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(pids[victim], kind)
    out, errors = process.communicate(timeout=120)
    codes = [int(code) for code in out.split()]
    assert codes == ([143, 143] if kind == signal.SIGTERM else [1, -9]), errors
    said = "ConnectionError: expected all 2 processes to train to the end, got one that is gone"
    assert (said in errors) == (kind == signal.SIGKILL)
    samples = Checkpoints(tmp_path / "c").newest()["parts"]["history"]["samples"]
    assert samples > 0
    long_run(tmp_path, 0, samples // N + 2)
    assert Checkpoints(tmp_path / "c").newest()["parts"]["history"]["samples"] == (samples // N + 2) * N


def number(path):
    return int(path.name.split("-")[1])


def long_evaluation(folder, rank):
    """Evaluate for longer than the group waits for anyone, in a group of a few seconds."""
    torch.distributed.destroy_process_group()
    store = f"file://{folder}/short-{os.getppid()}"
    timeout = datetime.timedelta(seconds=4)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timeout)
    vae, x = make_vae()
    learner = AEVB(vae.model, vae.guide, ADAM, TraceMeanField_ELBO())

    def evaluate():
        time.sleep(6)
        return {"slow": 1.0}

    history = fit(learner, x, samples=2 * N, batch_size=N, evaluate=evaluate, progress=False)
    give(folder, rank, [record.values for record in history.records])


@pytest.mark.slow
def test_the_others_wait_for_an_evaluation_longer_than_the_groups_timeout(tmp_path):
    assert launch(long_evaluation, tmp_path, 2) == [[{"slow": 1.0}] * 2] * 2


def refusals(folder, rank):
    pair, messages = Noiseless(False), []
    vae, x = make_vae()
    for learner, data in (
        (AEVB(pair.model, pair.guide, SGD, theta_prior=dist.Normal(0.0, 1.0)), (pair.x, pair.noise)),
        (AEVB(vae.model, vae.guide, ADAM), DataLoader(TensorDataset(x), batch_size=10, shuffle=True)),
    ):
        try:
            fit(learner, data, samples=10, batch_size=10, progress=False)
        except ValueError as error:
            messages.append(str(error))
    fit(AEVB(vae.model, vae.guide, ADAM), DataLoader(TensorDataset(x), batch_size=10), epochs=1, progress=False)
    sampler = DistributedSampler(TensorDataset(x), num_replicas=2, rank=rank)
    for data, options in (
        (DataLoader(TensorDataset(x), batch_size=10, sampler=sampler), {}),
        *((x, options) for options in different(folder, rank)),
        (x.roll(rank, 0), {}),
        (DataLoader(TensorDataset(x.roll(rank, 0)), batch_size=10), {}),
        (x / (1 - rank), {}),  # infinite on the second
    ):
        rate = options.pop("rate", 0.01)
        learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=rate))
        try:
            fit(learner, data, **{"samples": 10, "batch_size": 10, "progress": False} | options)
        except (ValueError, RuntimeError) as error:
            messages.append(str(error))
    give(folder, rank, messages)


def different(folder, rank):
    """Return options that differ between two ranks."""
    return [
        {"rate": (0.01, 0.02)[rank]},
        {"clip_norm": (1.0, None)[rank]},
        {"seed": rank},
        {"samples": 10 + rank},
        {"evaluate_every": 10 + rank},
        {"checkpoint_dir": (folder / "c", None)[rank]},
    ]


DIFFERENCES = [
    "expected a DataLoader that gives all of the data, .* got one with a DistributedSampler; pass DataLoader",
    "optim.lr=0.01 in process 0 and optim.lr=0.02 in process 1; pass the same",
    "clip_norm=1.0 in process 0 and clip_norm=None in",
    "seed=0 in process 0 and seed=1 in",
    "samples=10 in process 0 and samples=11 in",
    "evaluate_every=10 in process 0 and evaluate_every=11 in",
    "checkpoint_dir=True in process 0 and checkpoint_dir=False in",
    "train.rows=.* in process 0 and train.rows=",
    "first minibatch=.* in process 0 and first minibatch=",
    "expected (finite data|every process to get here, got in process 1 ValueError: expected finite data)",
]


def test_what_can_not_be_shared_is_refused(two_ranks):
    for messages in two_ranks["refusals"]:
        assert "expected a plate that knows N, for several processes and a prior on theta" in messages[0]
        assert "expected a DataLoader with the same order in every process" in messages[1]
        assert len(messages) == 2 + len(DIFFERENCES)
        for message, expected in zip(messages[2:], DIFFERENCES, strict=True):
            assert re.search(expected, message), message


def digits_run(folder, rank):
    from pyro_aevb.datasets import load_dataset

    pyro.set_rng_seed(0)
    digits = load_dataset("digits")
    vae = VAE(64, 3, hidden_dims=(50,), dataset_size=len(digits.train))
    learner = AEVB(vae.model, vae.guide, ADAM, TraceMeanField_ELBO())
    fit(learner, digits.train, samples=60_000, batch_size=100, compile=False, progress=False)
    give(folder, rank, list(elbo(vae.model, vae.guide, digits.test, num_particles=10, seed=0).mean()))


@pytest.mark.slow
def test_two_ranks_reach_the_bound_of_one(tmp_path):
    two = launch(digits_run, tmp_path, 2)
    digits_run(tmp_path, 0)
    one = unpack((tmp_path / "result-0").read_bytes())
    assert two[0] == two[1]
    assert two[0][0] == pytest.approx(one[0], abs=0.25)  # five seeds: -24.24 to -24.46
    assert one[0] > -28


def test_one_process_is_one_rank():
    ranks = Ranks()
    assert (ranks.rank, ranks.size) == (0, 1)
    assert ranks.part_of(7) == slice(0, 7)
    assert ranks.share(7, False) is None
    assert ranks.any(True, False) == [True, False]
    assert ranks.from_first("a") == "a"
    assert ranks.of_all(3) == [3]
