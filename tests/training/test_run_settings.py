"""What may change when a run is resumed, line by line: it takes effect, or it is refused, and nothing is ignored."""

import functools
import inspect

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyro_aevb import AEVB, SGVB
from pyro_aevb.training import fit
from pyro_aevb.training.checkpoint import Checkpoints
from pyro_aevb.training.run_settings import NEW, ON_RESUME, SAME, SAME_OR_NONE

N = 40
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))


class Pair:
    """A pair with two likelihoods to choose from."""

    def __init__(self, likelihood=dist.Normal):
        self.likelihood = likelihood

    def model(self, x):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", self.likelihood(loc + z[..., None], 1.0).to_event(1), obs=x)

    def guide(self, x):
        slope = pyro.param("slope", torch.zeros(3))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x @ slope, 1.0))


class Parts:
    """A stream of minibatches."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x.split(8))


def learner(likelihood=dist.Normal, lr=0.01, objective=SGVB):
    pair = Pair(likelihood)
    return AEVB(pair.model, pair.guide, functools.partial(torch.optim.Adam, lr=lr), objective(), compile=False)


def half(done):
    return 0.5


def another(schedule):
    """Return a schedule with the name of another one."""

    def other(done):
        return 1 - done

    other.__qualname__ = schedule.__qualname__
    return other


def run(folder, **options):
    pyro.set_rng_seed(0)
    options = {
        "learner": learner, "train": X, "validation": X[:10], "epochs": 2, "batch_size": 8, "evaluate_every": 16,
        "schedule": half, "checkpoint_every": 0.0, "progress": False,
    } | options  # fmt: skip
    built = options.pop("learner")()
    with pyro.get_param_store().scope():
        return fit(built, options.pop("train"), options.pop("validation"), checkpoint_dir=folder, **options)


def loader(**options):
    return DataLoader(TensorDataset(X), **{"batch_size": 8} | options)


# By argument: what the first run had, and what another one has, where the defaults of `run` aren't enough.
REFUSED = {
    "learner": [({}, {"learner": functools.partial(learner, **change)}) for change in (
        {"likelihood": dist.Laplace}, {"lr": 0.5}, {"objective": functools.partial(SGVB, beta=2.0)},
    )],
    "train": [
        ({}, {"train": X + 1e-6}),
        ({}, {"train": X.numpy()[::-1].copy()}),
        ({}, {"train": X[:39]}),
        ({}, {"train": loader(), "dataset_size": N}),
        *(({"train": loader(), "dataset_size": N}, {"train": loader(**change), "dataset_size": N}) for change in (
            {"batch_size": 4}, {"drop_last": True}, {"shuffle": True}, {"num_workers": 1},
        )),
        ({"train": Parts(X), "dataset_size": N}, {"train": Parts(X.flip(0)), "dataset_size": N}),
    ],
    "validation": [({}, {"validation": X[10:20]})],
    "batch_size": [({}, {"batch_size": 10})],
    "drop_last": [({}, {"drop_last": True})],
    "dataset_size": [({"train": loader(), "dataset_size": N}, {"train": loader(), "dataset_size": N + 1})],
    "schedule": [({}, {"schedule": None}), ({}, {"schedule": another(half)}), ({}, {"schedule": lambda done: 0.5})],
    "clip_norm": [({}, {"clip_norm": 1.0})],
    "kl_warm_up": [({}, {"kl_warm_up": 10})],
    "monitor": [({}, {"monitor": "a", "evaluate": lambda: {"a": 0.0}})],
    "keep_best": [({}, {"keep_best": True}), ({"keep_best": True}, {"keep_best": False})],
    "seed": [({}, {"seed": 1})],
    "precision": [({}, {"precision": "bf16"})],
}  # fmt: skip


ELSEWHERE = ("batch_size", "clip_norm", "kl_warm_up", "seed", "precision")  # by default in test_run.py


def drop(records):
    return [(r.samples, r.values, r.training) for r in records]


def takes_samples(folder):
    assert run(folder, epochs=None, samples=100).samples == 100
    assert run(folder, resume=True, epochs=4).samples == 160


def takes_evaluations(folder):
    often = {"evaluate": lambda: {"a": 2.0}, "evaluate_every": 1000}
    values = run(folder, resume=True, epochs=3, evaluate_at=[95], **often).records[-2:]
    assert [r.samples for r in values] == [96, 120]
    assert values[-1].values["a"] == 2.0


def takes_particles(folder):
    before = run(folder, resume=True).records[-1].values["validation_standard_error"]
    after = run(folder, resume=True, epochs=3, validation_particles=50).records[-1].values["validation_standard_error"]
    assert after < 0.8 * before


def takes_patience(folder):
    """The run stopped early; with more patience it goes on, with as much it doesn't.

    An evaluation at the end of a shorter run counts, and one without the value to go by doesn't.
    """
    options = {"evaluate": iter_down([0]), "validation": None, "monitor": "a", "epochs": 20, "resume": True}
    stopped = run(folder / "stopped", **options, patience=2)
    assert stopped.stopped_early
    assert stopped.samples == run(folder / "stopped", **options, patience=2).samples == 48
    assert run(folder / "stopped", **options, patience=4).samples == 80
    assert run(folder / "stopped", **options).samples == 20 * N
    options["evaluate"] = iter_down([0])
    assert not run(folder / "ended", **options | {"epochs": 1, "evaluate_every": 20}, patience=1).stopped_early
    assert run(folder / "ended", **options, patience=1).samples == N
    options["evaluate"] = lambda: {}
    run(folder / "added", **options | {"epochs": 2, "monitor": None})
    options["evaluate"] = iter_down([0])
    assert run(folder / "added", **options, patience=3).samples == 2 * N + 4 * 16


def iter_down(count):
    def evaluate():
        count[0] -= 1
        return {"a": float(count[0])}

    return evaluate


def takes_callbacks(folder):
    """The run that a callback ended goes on if those of now would not end it there, with the same it doesn't."""
    calls = []
    run(folder, resume=True, epochs=3, callbacks=[calls.append])
    assert calls
    for last in (144, 144, 176):
        ended = run(folder, resume=True, epochs=9, callbacks=[lambda history, last=last: history.samples >= last])
        assert (ended.samples, ended.stopped_early) == (last, True)
    whole = run(folder, resume=True, epochs=9)
    assert (whole.samples, whole.stopped_early) == (9 * N, False)


def takes_validation(folder):
    """Validation may be added, and left out."""
    without = folder / "without"
    run(without, validation=None)
    assert "validation" in run(without, resume=True, epochs=3).records[-1].values
    assert "validation" not in run(without, resume=True, epochs=4, validation=None).records[-1].values


def takes_another_place(folder):
    moved = folder.with_name("moved")
    folder.rename(moved)
    assert run(moved, resume=True, epochs=3).samples == 3 * N


def takes_fewer_checkpoints(folder):
    run(folder, resume=True, epochs=3, checkpoints_kept=4)
    assert len(Checkpoints(folder)) == 4
    run(folder, resume=True, epochs=4, checkpoints_kept=2)
    assert len(Checkpoints(folder)) == 2


def takes_seconds(folder):
    run(folder, resume=True, epochs=4, checkpoints_kept=100, checkpoint_every=1e9)
    assert len(Checkpoints(folder)) < 6


def takes_compilation(folder):
    built = learner()
    run(folder, learner=lambda: built, resume=True, epochs=3, compile="graph")
    assert built.captures[0].calls


def changes_nothing(folder):
    run(folder.with_name("whole"), epochs=4)
    whole = run(folder.with_name("whole"), resume=True, epochs=4)
    other = run(folder, resume=True, epochs=4, progress=True, label="a run", bar_position=1, device="cpu")
    assert drop(other.records) == drop(whole.records)


TAKES_EFFECT = {
    "validation": takes_validation, "samples": takes_samples, "epochs": takes_samples, "device": changes_nothing,
    "evaluate": takes_evaluations, "evaluate_every": takes_evaluations, "evaluate_at": takes_evaluations,
    "validation_particles": takes_particles, "monitor": takes_validation, "patience": takes_patience,
    "callbacks": takes_callbacks, "checkpoint_dir": takes_another_place, "checkpoint_every": takes_seconds,
    "checkpoints_kept": takes_fewer_checkpoints, "resume": takes_samples, "compile": takes_compilation,
    "progress": changes_nothing, "label": changes_nothing, "bar_position": changes_nothing,
}  # fmt: skip


def test_the_table_is_about_every_argument_and_every_line_is_tested():
    assert list(ON_RESUME) == list(inspect.signature(fit).parameters)
    assert set(REFUSED) == {name for name, rule in ON_RESUME.items() if rule in (SAME, SAME_OR_NONE)}
    assert set(TAKES_EFFECT) == {name for name, rule in ON_RESUME.items() if rule in (NEW, SAME_OR_NONE)}


@pytest.mark.parametrize(
    ("argument", "i"),
    [
        pytest.param(name, i, marks=pytest.mark.slow if name in ELSEWHERE or 3 < i < len(cases) - 1 else ())
        for name, cases in REFUSED.items()
        for i in range(len(cases))
    ],
)
def test_what_must_stay_is_refused_and_named(argument, i, tmp_path):
    had, has = REFUSED[argument][i]
    run(tmp_path, **{"checkpoint_every": 1e9} | had)
    before = {path.name for path in tmp_path.glob("*.safetensors")}
    with pytest.raises(ValueError, match=r"expected (a checkpoint|the stream) of .* got .*; .* begin anew"):
        run(tmp_path, **{"epochs": 3} | had | has | {"resume": True})
    assert {path.name for path in tmp_path.glob("*.safetensors")} == before


@pytest.mark.filterwarnings("ignore:.*a run.*")
@pytest.mark.parametrize("check", dict.fromkeys(TAKES_EFFECT.values()), ids=lambda check: check.__name__)
def test_what_may_change_takes_effect(check, tmp_path):
    folder = tmp_path / "run"
    if check is not takes_samples:
        run(folder)
    check(folder)
