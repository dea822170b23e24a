"""A run that is resumed draws on where it was, whatever its data and callbacks keep to themselves."""

import functools
import random

import numpy as np
import pyro
import pytest
import torch
from faulty_runs import Draws, Places
from pairs import bernoulli_vae
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from pyro_aevb import AEVB
from pyro_aevb.training import fit

N = 40
ADAM = functools.partial(torch.optim.Adam, lr=0.01)


class Crash(Exception):
    pass


class Rows(Dataset):
    """A data set that flips pixels by a generator of its own, or by a global one."""

    def __init__(self, x, flips):
        self.x, self.flips = x, flips

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return (self.x[i] - (self.flips(6) < 0.1).double()).abs()


class Passes:
    """An iterable that shuffles, each pass anew."""

    def __init__(self, x, permutation):
        self.x, self.permutation = x, permutation

    def __iter__(self):
        order = torch.as_tensor(np.array(self.permutation(N)))
        return iter(self.x[order].split(8))


class Buffer(IterableDataset):
    """Datapoints out of a shuffle buffer, which draws with each one that is taken."""

    def __init__(self, x, randrange):
        self.x, self.randrange = x, randrange

    def __iter__(self):
        buffer = list(self.x[:10])
        for row in self.x[10:]:
            i = self.randrange(len(buffer))
            yield buffer[i]
            buffer[i] = row
        yield from buffer


def seeded(x):
    return torch.Generator().manual_seed(3)


def stateful(x, **options):
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(TensorDataset(x), batch_size=8, **options)


def numpy_floats(rng):
    return lambda size: torch.as_tensor(rng.random(size))


def shuffled(rng):
    def permutation(n):
        order = list(range(n))
        rng.shuffle(order)
        return order

    return permutation


DATA = {
    "a loader's generator": lambda x: DataLoader(TensorDataset(x), 8, shuffle=True, generator=seeded(x)),
    "a sampler's generator": lambda x: DataLoader(
        TensorDataset(x), 8, sampler=RandomSampler(x, replacement=True, num_samples=N, generator=seeded(x))
    ),
    "workers": lambda x: DataLoader(TensorDataset(x), 8, shuffle=True, num_workers=1),
    "numpy's global generator": lambda x: Passes(x, np.random.permutation),
    "numpy's generator": lambda x: Passes(x, np.random.default_rng(0).permutation),
    "numpy's older one": lambda x: Passes(x, np.random.RandomState(0).permutation),
    "python's global generator": lambda x: Passes(x, shuffled(random)),
    "python's generator": lambda x: Passes(x, shuffled(random.Random(0))),
    "a buffer": lambda x: DataLoader(Buffer(x, random.Random(0).randrange), 8),
    "a buffer on torch's global": lambda x: DataLoader(Buffer(x, lambda n: int(torch.randint(n, ()))), 8),
    "flips": lambda x: Rows(x, numpy_floats(np.random.default_rng(0))),
    "flips by torch's global": lambda x: Rows(x, lambda size: torch.rand(size).double()),
    "flips in a loader": lambda x: DataLoader(Rows(x, lambda size: torch.rand(size).double()), 8, shuffle=True),
    "a generator over a generator": lambda x: (x[torch.randperm(N, generator=g)[:8]] for g in [seeded(x)] * 30),
    "a data set's own place": lambda x: DataLoader(Places(x), 8),
    "torchdata": lambda x: stateful(x),
    "torchdata, shuffled": lambda x: stateful(x, shuffle=True),
    "torchdata, shuffled by its own": lambda x: stateful(x, shuffle=True, generator=seeded(x)),
    "torchdata, workers": lambda x: stateful(x, shuffle=True, num_workers=1),
}
SLOW = (
    "a sampler's generator", "workers", "numpy's older one", "python's global generator", "python's generator",
    "a buffer", "flips by torch's global", "torchdata", "torchdata, shuffled", "torchdata, workers",
)  # fmt: skip


def run(data, folder=None, *, crash_at=None, resume=False):
    """Train four passes; return the minibatches, the records and the parameters."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    pyro.set_rng_seed(0)
    pair, x = bernoulli_vae()
    learner, seen = AEVB(pair.model, pair.guide, ADAM, compile=False), []
    step = learner.step_on

    def noted(batch, settings):
        if len(seen) == crash_at:
            raise Crash
        seen.append(batch.rows[0])
        return step(batch, settings)

    learner.step_on = noted
    stream = DATA[data](x)
    with pyro.get_param_store().scope():
        history = fit(
            learner, stream, samples=4 * N, batch_size=8, dataset_size=None if data.startswith("flips") else N,
            evaluate=lambda: {"a": 0.0}, callbacks=[Draws()], checkpoint_dir=folder, checkpoint_every=0.0,
            resume=resume, progress=False,
        )  # fmt: skip
        return seen, [r[:1] + r[2:] for r in history.records], learner.copy_parameters()["parameters"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("data", [pytest.param(d, marks=pytest.mark.slow if d in SLOW else ()) for d in DATA])
def test_a_run_goes_on_with_the_minibatches_that_it_would_have_had(data, tmp_path):
    if data.startswith("torchdata"):
        pytest.importorskip("torchdata")
    expected, records, right = run(data)
    taken = []
    for crash_at in (0, 1, 4, 5, 2):  # before the first; in, at the end of and after a pass
        begun = len(taken)
        with pytest.raises(Crash):
            run(data, tmp_path, crash_at=crash_at, resume=True)
        taken += expected[begun : begun + crash_at]
    resumed, found, parameters = run(data, tmp_path, resume=True)
    assert len(resumed) == len(expected) - 12
    for place, (a, b) in enumerate(zip(resumed, expected[12:], strict=True), 12):
        assert torch.equal(a, b), f"another minibatch in place {place}"
    assert all(torch.equal(parameters[name], value) for name, value in right.items())
    assert found == records


def unseeded(n):
    return np.random.default_rng().permutation(n)


def counted(n, passes=[0]):  # noqa: B006
    passes[0] += 1
    return np.random.default_rng(passes[0]).permutation(n)


class Flips(IterableDataset):
    """Datapoints with pixels flipped by a worker's generator, which goes on from pass to pass if the worker does."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        for row in self.x:
            yield (row - (torch.rand(6) < 0.1).double()).abs()


INEXACT = {
    "from the system's entropy": lambda x: Passes(x, unseeded),
    "by the number of passes": lambda x: Passes(x, counted),
    "rows from entropy": lambda x: Rows(x, lambda n: torch.as_tensor(np.random.default_rng().random(n))),
    "workers that stay": lambda x: DataLoader(Flips(x), 8, num_workers=1, persistent_workers=True),
}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("data", [pytest.param(d, marks=pytest.mark.slow if "stay" in d else ()) for d in INEXACT])
def test_what_can_not_come_again_is_said_before_the_run(data, tmp_path, monkeypatch):
    monkeypatch.setitem(DATA, data, INEXACT[data])
    run(data)  # without checkpoints there is nothing to say
    with pytest.warns(UserWarning, match="expected data that come again from the same random states") as warned:
        run(data, tmp_path)
    assert all(warning.filename == __file__ for warning in warned)


def test_other_data_in_a_stream_are_refused(tmp_path, monkeypatch):
    data = "numpy's generator"
    with pytest.raises(Crash):
        run(data, tmp_path, crash_at=7)
    for other, message in (
        (lambda x: Passes(1 - x, np.random.default_rng(0).permutation), "got another minibatch in place 2"),
        (lambda x: Passes(x, shuffled(random.Random(0))), r"with \['Random'\] for .* states of \['Generator'\]"),
    ):
        monkeypatch.setitem(DATA, data, other)
        with pytest.raises(ValueError, match=f"expected .*{message}.* or begin anew"):
            run(data, tmp_path, resume=True)


def test_a_scheduler_that_a_callback_steps_goes_on_where_it_was(tmp_path):
    rates = {}
    for folder, epochs in ((None, [6]), (tmp_path, [3, 6])):
        rates[folder] = []
        for number in epochs:
            pyro.set_rng_seed(0)
            vae, x = bernoulli_vae()
            adam = ADAM(vae.parameters())
            scheduler = torch.optim.lr_scheduler.StepLR(adam, 2, 0.5)

            def step(history, scheduler=scheduler, seen=rates[folder]):
                scheduler.step()
                seen.append(scheduler.get_last_lr()[0])

            fit(AEVB(vae.model, vae.guide, adam), x, epochs=number, batch_size=20, callbacks=[step],
                checkpoint_dir=folder, resume=folder is not None, progress=False)  # fmt: skip
    assert rates[tmp_path] == rates[None] == [0.01, 0.005, 0.005, 0.0025, 0.0025, 0.00125]
