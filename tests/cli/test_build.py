"""Every field of a configuration reaches what it configures, from the command line on; nothing is trained."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pyro_aevb import VAE, Bayesian, fit
from pyro_aevb.cli import app, build, train
from pyro_aevb.cli.config import COMPILE, EPOCHS, LEARNERS, TrainingConfig
from pyro_aevb.cli.objectives import SEVERAL
from pyro_aevb.datasets import Binarized
from pyro_aevb.learners import PAPER, PRESETS
from pyro_aevb.objectives import IWAE, Blend

BUILT = [name for name, value in vars(build).items() if isinstance(value, type) and hasattr(value, "prepare")]


class Reached(Exception):
    """The call of ``fit`` that a command ends in: what was built for it, and its arguments."""

    def __init__(self, vae, learners, arguments):
        self.vae, made = vae
        self.weights = None if made is None else next(made.parameters())
        self.learners, self.arguments = learners, arguments

    @property
    def learner(self):
        return self.learners[-1]

    @property
    def optimizers(self):
        """Return what makes the optimizers of all learners: a class and its options."""
        values = [value for learner in self.learners for value in learner.arguments.values()]
        return [value for value in values if isinstance(value, functools.partial)]


class Built:
    """What a learner was made of, in its place."""

    def __init__(self, cls, *args, **kwargs):
        self.name = cls.__name__
        self.arguments = inspect.signature(cls).bind(*args, **kwargs).arguments

    def prepare(self, x, *beside):
        self.device = x.device


@pytest.fixture
def reach(tmp_path, monkeypatch):
    """Return a function that runs a command until it calls ``fit``, and returns that call."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.uniform(size=(20, 4, 8)))
    np.save(tmp_path / "other.npy", rng.uniform(size=(30, 4, 8)))
    (tmp_path / "visits.csv").write_text("visits\n" + "\n".join(map(str, rng.poisson(2, 20))) + "\n")
    np.savez(tmp_path / "two.npz", a=np.zeros((20, 32)), b=np.ones((20, 32)))
    (tmp_path / "own.py").write_text("def model(x): ...\ndef guide(x): ...\ndef pair(): return model, guide\n")
    for n in range(20):
        path = tmp_path / "classes" / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4, 8), np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    vaes, learners = [], []

    def vae(*args, **kwargs):
        made = VAE(*args, **kwargs)
        vaes.append((inspect.signature(VAE).bind(*args, **kwargs).arguments, made))
        return made

    def built(cls, *args, **kwargs):
        learners.append(Built(cls, *args, **kwargs))
        return learners[-1]

    def spy(*args, **kwargs):
        raise Reached(
            vaes.pop() if vaes else ({}, None), learners.copy(), inspect.signature(fit).bind(*args, **kwargs).arguments
        )

    monkeypatch.setattr(build, "VAE", vae)
    for name in BUILT:
        monkeypatch.setattr(build, name, functools.partial(built, getattr(build, name)))
    monkeypatch.setattr(train, "fit", spy)

    def run(command, fields):
        learners.clear()
        fields = {"data": "x.npy"} | fields
        if command == "compare":
            fields["learners"] = fields.pop("learner", "aevb")
        args = [command, fields.pop("data"), "--out", str(tmp_path / f"{len(list(tmp_path.iterdir()))}.png")]
        for name, value in fields.items():
            option = "column" if name == "columns" else name.replace("_", "-")
            args += [f"--{option}"] + ([] if value == "true" else [value])
        result = CliRunner().invoke(app, args)
        assert isinstance(result.exception, Reached), result.stderr
        return result.exception

    return run


class Case(NamedTuple):
    """A field's other value, as text, where it is to be ``seen``, and what is there ``before`` and ``after``."""

    field: str
    value: str
    seen: Callable[[Reached], Any]
    before: Any
    after: Any
    needs: dict[str, str] = {}  # noqa: RUF012  # never changed


def option(name):
    """Look at an argument of ``fit``."""
    return lambda call: call.arguments[name]


def part(name):
    """Look at an argument of ``VAE``."""
    return lambda call: call.vae[name]


def objective(call):
    return call.learner.arguments["objective"]


def curve(call):
    schedule = call.arguments["schedule"]
    return schedule and [round(schedule(done), 3) for done in (0.0, 0.5, 0.75, 1.0)]


def theta_priors(call):
    found = [learner.arguments.get("theta_prior") for learner in call.learners]
    return [(type(prior), prior.loc.item(), prior.scale.item()) for prior in found if prior is not None]


def optimizers(call):
    return {made.func for made in call.optimizers}


def rates(call):
    return {made.keywords["lr"] for made in call.optimizers}


def tuned_rates(learner, presets=PRESETS):
    preset = presets[learner]
    return {preset.learning_rate} | ({preset.guide_learning_rate} - {None})


def momenta(call):
    return {made.keywords["betas"][0] for made in call.optimizers}


def curve_of(learner):
    schedule = PRESETS[learner].schedule
    return [round(schedule(done), 3) for done in (0.0, 0.5, 0.75, 1.0)]


def trained(call):
    """Return the kind of what a learner has model and guide of."""
    return {type(call.learner.arguments[half].__self__) for half in ("model", "guide")}


def functions(call):
    return [getattr(call.learner.arguments[half], "__module__", None) for half in ("model", "guide")]


VALIDATED = {"validation": "0.5"}
CASES = [
    Case("data", "other.npy", lambda call: len(call.arguments["train"]), 20, 30, {"validation": "other.npy"}),
    Case("key", "b", lambda call: call.arguments["train"].mean(), 0.0, 1.0, {"data": "two.npz", "key": "a"}),
    Case("pixels", "threshold", lambda call: len(call.arguments["train"].unique()) == 2, False, True),
    Case("pixels", "static", lambda call: len(call.arguments["train"].unique()) == 2, False, True),
    Case("pixels", "dynamic", lambda call: type(call.arguments["train"]), torch.Tensor, Binarized),
    Case("pixels", "threshold", lambda call: len(call.arguments["validation"].unique()) == 2, False, True, VALIDATED),
    Case(
        "pixels", "threshold", lambda call: len(call.arguments["validation"].unique()) == 2, False, True,
        {"validation": "other.npy"},
    ),
    Case("model", "own.py:pair", functions, ["pyro_aevb.vae.vae"] * 2, ["own_own"] * 2),
    Case("alpha", "0.25", lambda call: objective(call).alpha, 0.5, 0.25, {"objective": "renyi", "alpha": "0.5"}),
    Case("beta", "4", lambda call: objective(call).beta, 1.0, 4.0),
    Case("free_bits", "0.25", lambda call: objective(call).free_bits, 0.0, 0.25, {"objective": "sgvb-a"}),
    Case("weighs", "local", lambda call: objective(call).weighs, "both", "local"),
    Case("objective", "iwae", lambda call: type(objective(call)), Blend, IWAE),
    Case("num_particles", "3", lambda call: objective(call).num_particles, SEVERAL, 3, {"objective": "iwae"}),
    Case(
        "num_particles", "3", lambda call: call.learner.arguments["num_particles"], SEVERAL, 3,
        {"learner": "reweighted-wake-sleep"},
    ),
    Case("latent_dim", "3", part("latent_dim"), 10, 3),
    Case("hidden_dims", "7,6", part("hidden_dims"), (500,), (7, 6)),
    Case("prior", "laplace", part("prior"), "normal", "laplace"),
    Case("likelihood", "beta", part("likelihood"), "continuous-bernoulli", "beta"),
    Case("columns", "visits=real", part("likelihood"), "negative-binomial", "gaussian", {"data": "visits.csv"}),
    Case("posterior", "full", part("posterior"), "normal", "full"),
    Case("convolutions", "true", part("convolutions"), False, (1, 4, 8)),
    Case("image_shape", "8,4", part("convolutions"), (1, 4, 8), (1, 8, 4), {"convolutions": "true"}),
    Case("conditional", "true", part("covariates"), 0, 2, {"data": "classes"}),
    Case("init", "paper", part("init"), "modern", "paper"),
    Case("samples", "1e3", option("samples"), None, 1000),
    Case("samples", "1e3", option("epochs"), EPOCHS, None),
    Case("epochs", "3", option("epochs"), EPOCHS, 3),
    Case("batch_size", "7", option("batch_size"), 100, 7),
    Case("schedule", "constant", curve, curve_of("aevb"), [1.0] * 4),
    Case("schedule", "cosine", curve, [1.0] * 4, [1.0, 0.5, 0.146, 0.0], {"optimizer": "adagrad"}),
    Case("warm_up", "0", curve, curve_of("aevb"), [1.0, 0.5, 0.25, 0.0]),
    Case("beta1", "0.5", momenta, {PRESETS["aevb"].beta1}, {0.5}),
    Case("clip_norm", "2.5", option("clip_norm"), None, 2.5),
    Case("kl_warm_up", "60", option("kl_warm_up"), None, 60),
    Case("validation", "0.2", lambda call: len(call.arguments["validation"]), 30, 4, {"validation": "other.npy"}),
    Case("evaluate_every", "70", option("evaluate_every"), None, 70),
    Case("patience", "4", option("patience"), None, 4, VALIDATED),
    Case("keep_best", "true", option("keep_best"), False, True, VALIDATED),
    Case("checkpoint_every", "2.5", option("checkpoint_every"), 60.0, 2.5),
    Case("full_vb", "true", trained, {VAE}, {Bayesian}, {"pixels": "threshold"}),
    Case("seed", "5", option("seed"), 0, 5),
    Case("precision", "bf16", option("precision"), "float32", "bf16"),
    *(Case("compile", name, option("compile"), "auto", value) for name, value in COMPILE.items() if name != "auto"),
    Case("device", "meta", option("device"), "cpu", "meta"),
    Case("device", "meta", lambda call: call.weights.device.type, "cpu", "meta"),
    Case("device", "meta", lambda call: call.learner.device.type, "cpu", "meta"),
]  # fmt: skip
for name in LEARNERS:
    learner = {"learner": name}
    CASES += [
        Case("optimizer", "adagrad", optimizers, {torch.optim.Adam}, {torch.optim.Adagrad}, learner),
        Case("learning_rate", "0.25", rates, tuned_rates(name), {0.25}, learner),
        Case("learning_rate", "0.25", rates, tuned_rates(name, PAPER), {0.25}, learner | {"optimizer": "adagrad"}),
        Case("theta_prior", "0.25", theta_priors, [], [(dist.Normal, 0.0, 0.25)], learner),
    ]
for name in LEARNERS[1:]:
    needs = {"learner": name, "learning_rate": "0.125"}
    CASES.append(Case("guide_learning_rate", "0.25", rates, {0.125}, {0.125, 0.25}, needs))
NAMES = {"wake-sleep": "WakeSleep", "reweighted-wake-sleep": "ReweightedWakeSleep", "mcem": "MCEM"}
CASES += [Case("learner", name, lambda call: call.learner.name[:4], "AEVB", NAMES[name][:4]) for name in NAMES]


BEFORE: dict[tuple, Reached] = {}  # by command and what the case needs: nearly all of them need nothing


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join((case.field, case.value, *case.needs.values())))
def test_a_fields_value_reaches_what_it_configures(case, command, reach):
    if command == "compare" and case.field == "checkpoint_every":
        pytest.skip("compare writes no checkpoints")
    key = (command, *case.needs.items())
    if key not in BEFORE:
        BEFORE[key] = reach(command, case.needs)
    assert case.seen(BEFORE[key]) == case.before
    assert case.seen(reach(command, case.needs | {case.field: case.value})) == case.after


def test_every_field_is_among_them():
    assert {case.field for case in CASES} == {field.name for field in dataclasses.fields(TrainingConfig)}


@pytest.mark.parametrize("command", ["train", "compare"])
def test_the_seed_is_that_of_the_weights_and_of_what_is_held_out(command, reach):
    first, again, other = (reach(command, VALIDATED | {"seed": seed}) for seed in ("3", "3", "4"))
    for seen in (lambda call: call.weights, lambda call: call.arguments["validation"]):
        assert torch.equal(seen(first), seen(again))
        assert not torch.equal(seen(first), seen(other))


def test_the_prior_on_theta_is_on_the_device(reach):
    with pyro.validation_enabled(False):  # which has no values to look at there
        prior = reach("train", {"device": "meta", "theta_prior": "0.5"}).learner.arguments["theta_prior"]
    assert (prior.loc.device.type, prior.scale.device.type) == ("meta", "meta")


@pytest.mark.parametrize(
    ("optimizer", "device", "fused"), [("adam", "meta", True), ("adagrad", "meta", False), ("adagrad", "cpu", True)]
)
def test_a_step_is_fused_where_torch_has_a_kernel(optimizer, device, fused, reach):
    (made,) = reach("train", {"optimizer": optimizer, "device": device}).optimizers
    assert made.keywords["fused"] == fused


def test_what_is_not_given_is_in_the_runs_configuration_as_numbers():
    """So that a run goes on as it began, whatever the presets of a later version are."""
    for name in LEARNERS:
        filled = build.with_preset(TrainingConfig(learner=name))
        preset = PRESETS[name]
        assert (filled.learning_rate, filled.beta1) == (preset.learning_rate, preset.beta1)
        assert (filled.schedule, filled.warm_up) == (preset.schedule.shape, preset.schedule.warm_up)
        assert build.with_preset(TrainingConfig.from_toml(filled.to_toml())) == filled
        assert build.preset_of(filled) == preset


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide_learning_rate": 0.1}, "expected no guide_learning_rate for aevb, got 0.1; pass learning_rate"),
        ({"learner": "wake-sleep", "guide_learning_rate": -1.0}, "expected a guide_learning_rate above 0, got -1.0"),
        ({"beta1": 1.0}, r"expected beta1 in \[0, 1\), got 1.0"),
        ({"warm_up": 1.0}, r"expected warm_up, a fraction of the run, in \[0, 1\), got 1.0"),
    ],
)
def test_what_no_optimizer_takes_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build.preset_of(TrainingConfig(**options))
    with pytest.raises(ValueError, match="expected no beta1 for adagrad"):
        TrainingConfig(optimizer="adagrad", beta1=0.9)
