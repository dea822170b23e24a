"""The command line as a user has it: real processes where the process matters, real files, exit codes."""

import csv
import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_calls import invoke
from PIL import Image

from pyro_aevb import AIS, BDMC, SMC, Auto, __version__, load, log_marginal_likelihood
from pyro_aevb import evidence as evidence_room
from pyro_aevb.cli.build import make_learner, make_vae
from pyro_aevb.cli.config import KINDS, LEARNERS, TrainingConfig, kind_of
from pyro_aevb.cli.objectives import OBJECTIVES
from pyro_aevb.cli.options import tell
from pyro_aevb.cli.reports import print_evidence
from pyro_aevb.evidence import Evidence, elbo
from pyro_aevb.learners import PRESETS

COMMANDS = (
    "train", "evaluate", "encode", "sample", "reconstruct", "manifold", "impute", "denoise", "score", "compare", "info",
    "report",
)  # fmt: skip
SMALL = ["--hidden-dims", "8", "--latent-dim", "2", "--batch-size", "20"]


def start(*args, **kwargs):
    """Start ``python -m pyro_aevb``, listening to ctrl-C even where this process doesn't."""
    command = [sys.executable, "-m", *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, text=True, preexec_fn=listen, **pipes, **kwargs)


def run(*args, **kwargs):
    """Return exit code, stdout and stderr of a whole process."""
    process = start("pyro_aevb", *args, **kwargs)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def size_of(path):
    with Image.open(path) as image:
        return image.size


def grey(path):
    """Return an image's first channel, between 0 and 1."""
    with Image.open(path) as image:
        return np.asarray(image)[:, :, 0] / 255


def digest(folder):
    return next(folder.glob("weights-*")).name


@pytest.fixture(scope="module")
def x():
    """Binary images of 4x4 pixels: two patterns and some noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(2, 16, generator=generator).round() * 0.8 + 0.1
    return torch.bernoulli(patterns[torch.arange(200) % 2], generator=generator)


@pytest.fixture(scope="module")
def data(x, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, x.reshape(-1, 4, 4).numpy().astype(np.uint8))
    return path


TRAIN = [*SMALL, "--learning-rate", "1e-3", "--epochs", "5", "--validation", "0.2", "--keep-best", "--json"]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Return what the command printed, and its folder."""
    out = tmp_path_factory.mktemp("train") / "new" / "run"
    result = invoke("train", data, "--out", out, *TRAIN)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), out


@pytest.mark.slow
def test_a_process_does_what_the_command_does(trained, data, tmp_path):
    code, out, err = run("train", data, "--out", tmp_path, *TRAIN, "--quiet")
    assert code == 0
    assert not err
    same = ("samples", "validation", "training", "best_samples", "versions")
    assert {name: json.loads(out)[name] for name in same} == {name: trained[0][name] for name in same}
    assert digest(tmp_path) == digest(trained[1])


def test_what_train_writes(trained, data):
    printed, out = trained
    assert {p.name for p in out.iterdir() if not p.name.startswith("weights-")} == {
        "vae.json", "config.toml", "history.csv", "history.png", "checkpoints", "splits.npz", "units.json"
    }  # fmt: skip
    assert printed["samples"] == 5 * 160
    assert printed["versions"]["pyro_aevb"] == __version__
    with (out / "history.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(row["samples"]) for row in table] == [160, 320, 480, 640, 800]
    assert float(table[-1]["validation"]) == printed["validation"]
    assert float(table[-1]["validation_standard_error"]) == printed["validation_standard_error"]
    assert printed["validation"] > float(table[0]["validation"])
    assert size_of(out / "history.png") == (900, 600)
    assert load(out).hidden_dims == (8,)
    config = TrainingConfig.read(out / "config.toml")
    preset = PRESETS["aevb"]
    assert config == TrainingConfig(
        data=str(data), hidden_dims=(8,), latent_dim=2, batch_size=20, epochs=5, validation="0.2", keep_best=True,
        image_shape=(4, 4), likelihood="bernoulli", learning_rate=1e-3, beta1=preset.beta1,
        schedule=preset.schedule.shape, warm_up=preset.schedule.warm_up,
    )  # fmt: skip


def test_tensorboard_has_the_history(data, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = invoke("train", data, "--out", tmp_path, *TRAIN, "--tensorboard")
    assert result.exit_code == 0, result.stderr
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert set(found) == {"bound/training", "bound/validation", "bound/validation_standard_error"}
    assert [step for step, _ in found["bound/validation"]] == [160, 320, 480, 640, 800]
    assert found["bound/validation"][-1][1] == pytest.approx(json.loads(result.stdout)["validation"])


def test_without_tensorboard_it_says_what_to_install(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = invoke("train", data, "--out", tmp_path, *SMALL, "--tensorboard")
    assert result.exit_code == 1
    assert 'pip install "pyro-aevb[tensorboard]"' in result.stderr


def test_evaluate_prints_what_the_library_computes(trained, data, x):
    options = ["--particles", "200", "--seed", "3", "--limit", "50", "--part", "all", "--json"]
    result = invoke("evaluate", trained[1], data, "--method", "importance", *options)
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    vae = load(trained[1])
    right = log_marginal_likelihood(vae.model, vae.guide, x[:50], num_particles=200, seed=3).mean()
    assert printed["value"] == pytest.approx(right.value)
    assert printed["standard_error"] == pytest.approx(right.standard_error)
    bound = elbo(vae.model, vae.guide, x[:50], seed=3).mean()
    assert printed["bound"] == {
        "value": pytest.approx(bound.value), "standard_error": pytest.approx(bound.standard_error), "direction": "lower"
    }  # fmt: skip
    assert (printed["direction"], printed["method"], printed["datapoints"], printed["seed"]) == (
        "lower", "importance", 50, 3,
    )  # fmt: skip
    assert printed["methods"] == {"importance": 50}
    assert printed["versions"]["torch"] == torch.__version__


def test_evaluate_integrates_over_few_latents(trained, data, x):
    printed = json.loads(invoke("evaluate", trained[1], data, "--limit", "10", "--part", "all", "--json").stdout)
    assert (printed["method"], printed["methods"], printed["direction"]) == ("auto", {"quadrature": 10}, "numerical")
    vae = load(trained[1])
    right = log_marginal_likelihood(vae.model, vae.guide, x[:10], method="quadrature", seed=0)
    assert printed["value"] == pytest.approx(right.mean().value)


def test_a_report_says_how_many_were_annealed(capsys):
    evidence = Evidence(torch.zeros(3), torch.ones(3), "lower", method=("ais", "importance", "ais"))
    print_evidence(evidence.mean(), evidence, "auto", seed=0, as_json=False)
    told = capsys.readouterr().out.splitlines()
    assert told[2].startswith("log p(x), auto")
    assert told[3] == "log p(x) of 2 by ais, of 1 by importance"


@pytest.mark.parametrize(("method", "direction"), [("quadrature", "numerical"), ("ais", "lower")])
def test_evaluate_by_other_methods(method, direction, trained, data):
    result = invoke("evaluate", trained[1], data, "--method", method, "--limit", "10", "--temperatures", "5")
    assert result.exit_code == 0, result.stderr
    header, bound, evidence, note = result.stdout.splitlines()
    assert header.split() == ["nats", "per", "datapoint", "direction"]
    assert re.fullmatch(r"bound +-\d+\.\d\d ± \d\.\d\d +lower", bound)
    assert re.fullmatch(rf"log p\(x\), {method} +-\d+\.\d\d ± \d\.\d\d +{direction}", evidence)
    assert note.startswith("10 datapoints, seed 0")


@pytest.mark.parametrize(
    ("options", "right"),
    [
        (["--method", "bdmc"], BDMC()),
        (["--method", "bdmc", "--temperatures", "7", "--chain", "9"], BDMC(AIS(7), chain=9)),
        (["--method", "smc"], SMC()),
        (["--method", "smc", "--temperatures", "7"], SMC(7)),
        (["--method", "posterior-density"], "posterior-density"),
        (["--method", "ais", "--leapfrog", "3"], AIS(num_leapfrog=3)),
        ([], Auto()),
        (["--temperatures", "7", "--leapfrog", "3"], Auto(annealing=AIS(7, num_leapfrog=3))),
    ],
    ids=[
        "bdmc",
        "bdmc with a chain",
        "smc",
        "smc with temperatures",
        "posterior-density",
        "leapfrog",
        "by default",
        "by default with temperatures",
    ],
)
def test_evaluate_asks_for_the_method_with_its_options(options, right, trained, data, monkeypatch):
    asked = []

    def estimate(*args, method, **more):
        asked.append(method)
        return Evidence(torch.zeros(3), torch.ones(3), "lower")

    monkeypatch.setattr(evidence_room, "log_marginal_likelihood", estimate)
    assert invoke("evaluate", trained[1], data, *options, "--limit", "3").exit_code == 0
    assert asked == [right]


def test_a_report_has_the_upper_side_and_says_whose_it_is(capsys):
    upper = Evidence(torch.full((3,), 2.0), torch.ones(3), "upper (approximate)")
    evidence = Evidence(torch.zeros(3), torch.ones(3), "lower", upper=upper)
    print_evidence(evidence.mean(), evidence, "bdmc", seed=0, as_json=False)
    told = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1].strip() for line in told[2:4]] == ["lower", "upper (approximate)"]
    assert told[3].split()[3] == "2.00"
    assert "simulated" not in "".join(told)
    simulated = dataclasses.replace(evidence, data={"x": torch.zeros(3)})
    print_evidence(evidence.mean(), simulated, "bdmc", seed=0, as_json=False)
    assert "log p(x) by bdmc is that of as many datapoints that the model simulated" in capsys.readouterr().out
    print_evidence(evidence.mean(), simulated, "bdmc", seed=0, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["upper"] == {"value": 2.0, "standard_error": 0.0, "direction": "upper (approximate)"}
    assert printed["simulated"]


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line_on_stderr(data, tmp_path):
    out = tmp_path / "run"
    result = invoke("train", data, "--out", out, *SMALL, "--batch-size", "300", "--epochs", "1", "--quiet", "--json")
    assert result.exit_code == 0
    assert result.stderr == "warning: batch_size 300 is larger than the data set: all 200 datapoints at a time\n"
    assert json.loads(result.stdout)["samples"] == 200


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv"])
def test_encode_writes_the_means(suffix, trained, data, x, tmp_path):
    out = tmp_path / "new" / f"codes.{suffix}"
    result = invoke("encode", trained[1], data, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["shape"] == [200, 2]
    codes = {
        "npy": np.load,
        "npz": lambda p: np.load(p)["z"],
        "csv": lambda p: np.loadtxt(p, delimiter=",", skiprows=1),
    }
    assert np.allclose(codes[suffix](out), load(trained[1]).encode(x).detach(), atol=1e-6)
    if suffix == "csv":
        assert out.read_text().startswith("z0,z1\n")


def test_sample_draws_and_means(trained, tmp_path):
    drawn = {}
    for name, options in {"a": [], "b": [], "other": ["--seed", "1"], "mean": ["--mean"]}.items():
        out = tmp_path / f"{name}.npy"
        assert invoke("sample", trained[1], "-n", "1500", "--out", out, *options).exit_code == 0
        drawn[name] = np.load(out)
        assert drawn[name].shape == (1500, 16)
    assert np.array_equal(drawn["a"], drawn["b"])
    assert not np.array_equal(drawn["a"], drawn["other"])
    assert set(np.unique(drawn["a"])) == {0.0, 1.0}
    assert 0 < drawn["mean"].min() < drawn["mean"].max() < 1
    error = 5 * 0.5 / 1500**0.5 * 2**0.5
    assert np.abs(drawn["mean"].mean(0) - drawn["a"].mean(0)).max() < error


def test_reconstruct_writes_numbers_and_a_picture(trained, data, x, tmp_path):
    assert invoke("reconstruct", trained[1], data, "--out", tmp_path / "x.csv").exit_code == 0
    vae = load(trained[1])
    right = vae.decode(vae.encode(x)).detach()
    assert np.allclose(np.loadtxt(tmp_path / "x.csv", delimiter=",", skiprows=1), right, atol=1e-6)
    assert invoke("reconstruct", trained[1], data, "--limit", "15", "--out", tmp_path / "x.png").exit_code == 0
    shown = grey(tmp_path / "x.png")
    assert shown.shape == (4 * 28, 10 * 28)  # ten datapoints, their reconstructions, five and five
    small = shown[3::7, 3::7].reshape(4, 4, 10, 4).transpose(0, 2, 1, 3).reshape(4, 10, 16)
    assert np.allclose(small[0], x[:10], atol=0.01)
    assert np.allclose(small[1], right[:10], atol=0.01)
    assert np.allclose(small[2, :5], x[10:15], atol=0.01)
    assert np.allclose(small[3, :5], right[10:15], atol=0.01)


def test_the_manifold_is_the_decoder_on_the_priors_quantiles(trained, tmp_path):
    result = invoke("manifold", trained[1], "--side", "3", "--out", tmp_path / "m.png")
    assert result.exit_code == 0, result.stderr
    shown = grey(tmp_path / "m.png")
    assert shown.shape == (84, 84)
    low = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 / 6))
    z = torch.stack([torch.stack([low, -low]), torch.zeros(2)])  # top left, and the middle
    right = load(trained[1]).decode(z).detach()
    small = shown[3::7, 3::7]
    assert np.allclose(small[:4, :4].ravel(), right[0], atol=0.01)
    assert np.allclose(small[4:8, 4:8].ravel(), right[1], atol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--latent-dim", "3"], "expected 2 latent dimensions for a manifold, got 3"),
        (["--prior", "mixture"], "expected a prior of independent latents with an inverse CDF"),
    ],
)
def test_a_manifold_that_can_not_be_drawn(options, message, data, tmp_path):
    assert invoke("train", data, "--out", tmp_path, *SMALL, "--epochs", "1", *options).exit_code == 0
    result = invoke("manifold", tmp_path, "--out", tmp_path / "m.png")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {message}")


@pytest.mark.slow
def test_compare_is_a_table_and_a_picture(data, tmp_path):
    out = tmp_path / "c.png"
    args = ["compare", data, "--out", out, *SMALL, "--samples", "200"]
    result = invoke(*args)
    assert result.exit_code == 0, result.stderr
    header, *rows, note = result.stdout.splitlines()
    assert header.split() == ["validation", "bound", "samples", "seconds"]
    assert [row.split()[0] for row in rows] == ["aevb", "wake-sleep", "mcem"]
    assert all(re.search(r"-\d+\.\d\d ± \d\.\d\d +200 ", row) for row in rows)
    assert "nats per datapoint" in note
    assert size_of(out) == (900, 600)
    printed = json.loads(invoke(*args, "--learners", " mcem, aevb", "--json").stdout)["learners"]
    assert list(printed) == ["mcem", "aevb"]
    assert all(f"{printed[row.split()[0]]['validation']:.2f}" in row for row in (rows[0], rows[2]))


@pytest.mark.parametrize(
    ("learners", "words"),
    [
        ("aevb,wake_sleep", "expected --learners out of aevb, .*got 'wake_sleep'; did you mean 'wake-sleep'?"),
        ("aevb;mcem", "got 'aevb;mcem'"),
        ("mcem aevb mcem", "expected each of --learners once, got mcem twice"),
        (" , ", "expected --learners out of aevb"),
    ],
)
def test_learners_are_a_list_each_of_which_is_checked(learners, words, data, tmp_path):
    result = invoke("compare", data, "--out", tmp_path / "c.png", *SMALL, "--learners", learners)
    assert result.exit_code == 2
    assert re.search(words, " ".join(result.stderr.split()))


def test_a_relative_path_is_found_again_from_another_folder(x, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "a" / "x.npy", x.numpy())
    monkeypatch.chdir(tmp_path / "a")
    args = [*SMALL, "--epochs", "1", "--validation", "x.npy"]
    assert invoke("train", "x.npy", "--out", "../runs/one", *args).exit_code == 0
    written = (tmp_path / "runs" / "one" / "config.toml").read_text()
    assert 'data = "../../a/x.npy"' in written
    assert str(tmp_path) not in written
    monkeypatch.chdir(tmp_path / "b")
    result = invoke("train", "--out", "../runs/one", "--resume", "--epochs", "2")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "runs" / "one" / "config.toml").read_text() == written.replace("epochs = 1", "epochs = 2")
    result = invoke("evaluate", "../runs/one", "../a/x.npy", "--method", "importance", "--limit", "5", "--quiet")
    assert "all of them were trained on" in result.stderr


# -- Configurations ----------------------------------------------------------------------------------------------------

OTHER = {
    "latent_dim": "20,10",
    "data": "y.npz", "key": "y", "pixels": "static", "learner": "mcem", "prior": "laplace", "likelihood": "beta",
    "posterior": "full", "init": "paper", "samples": "1e3", "optimizer": "adagrad", "validation": "0.5",
    "precision": "bf16", "compile": "never", "device": "cuda", "image_shape": "1,4,4", "hidden_dims": "7,6",
    "columns": "age=count", "model": "own.py:pair", "weighs": "local", "schedule": "cosine",
}  # fmt: skip
NEEDED = {
    "patience": {"validation": "0.2"},
    "keep_best": {"validation": "0.2"},
    "alpha": {"objective": "renyi"},
}


def other_value(name):
    """Return another value than the default's, as text."""
    kind = kind_of(name)
    if name == "objective":
        return "iwae"
    return OTHER.get(name, {bool: "true", int: "17", float: "0.25"}.get(kind))


@pytest.mark.parametrize("name", KINDS)
def test_every_option_is_a_key_and_back(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a path in the file is relative to
    text = other_value(name)
    option = "--column" if name == "columns" else f"--{name.replace('_', '-')}"
    args = {"data": [text]}.get(name, [option] if text == "true" else [option, text])
    needed = NEEDED.get(name, {})
    args += [each for other, value in needed.items() for each in (f"--{other}", value)]
    shown = invoke("train", *args, "--print-config")
    assert shown.exit_code == 0, shown.stderr
    config = TrainingConfig.from_toml(shown.stdout)
    assert getattr(config, name) != getattr(TrainingConfig(), name)
    assert config == TrainingConfig().but({name: True if text == "true" else text, **needed})
    path = tmp_path / "c.toml"
    path.write_text(shown.stdout)
    named = ["--model", text] if name == "model" else []  # as code is, each time
    assert invoke("train", "--config", path, *named, "--print-config").stdout == shown.stdout


def test_options_win_over_the_file(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('data = "digits"\nsamples = 1e4\nlatent_dim = 3\nkeep_best = true\nvalidation = "0.1"\n')
    shown = invoke("train", "--config", path, "--latent-dim", "4", "--epochs", "2", "--no-keep-best", "--print-config")
    expected = TrainingConfig(data="digits", latent_dim=4, epochs=2, validation="0.1", keep_best=False)
    assert TrainingConfig.from_toml(shown.stdout) == expected


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "digits"], "expected a folder to write to, got none"),
        (["train", "--out", "{out}"], "expected data to train on, got none"),
        (["train", "digits", "--latent-dim", "ten", "--out", "{out}"], "--latent-dim as a whole number, or several"),
        (["train", "digits", "--latent-dim", "2.5", "--out", "{out}"], "or several: 20,10, got '2.5'"),
        (["train", "digits", "--hidden-dims", "a,b", "--out", "{out}"], "expected --hidden-dims as whole numbers"),
        (["train", "digits", "--learner", "em", "--out", "{out}"], "--learner out of aevb, wake-sleep, reweighted-"),
        (
            ["train", "digits", "--samples", "5", "--epochs", "5", "--out", "{out}"],
            "one of samples and epochs, got 5",
        ),
        (["train", "digits", "--learner", "mcem", "--objective", "iwae", "--out", "{out}"], "no objective for mcem"),
        (["train", "digits", "--patience", "2", "--out", "{out}"], "data for patience and keep_best, got none"),
        (["train", "digits", "--colour", "red", "--out", "{out}"], "No such option: --colour"),
        (["train", "t.csv", "--column", "age", "--out", "{out}"], "expected --column as NAME=KIND, got ['age']"),
        (["train", "t.csv", "--column", "age=cuont", "--out", "{out}"], "got 'cuont'; did you mean 'count'?"),
        (
            ["train", "t.csv", "--column", "age=count", "--likelihood", "beta", "--out", "{out}"],
            "kinds of columns or a likelihood of all of them",
        ),
        (["train", "--config", "{out}.toml", "--out", "{out}"], "No such file"),
        (
            ["evaluate", "{out}", "digits", "--method", "magic"],
            "--method out of importance, auto",
        ),
        (["evaluate", "{out}", "digits", "--chain", "9"], "--chain with --method bdmc alone, got auto; leave it out"),
        (["evaluate", "{out}"], "Missing argument 'DATA'"),
        (["sample", "{out}", "-n", "0", "--out", "x.npy"], "greater than or equal to 1"),
        (["compare", "digits", "--learners", "aevb,em"], "--learners out of aevb, wake-sleep"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_wrong_usage_is_exit_code_2(args, message, tmp_path):
    result = invoke(*(a.format(out=tmp_path / "out") for a in args))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latent_dims = 3", "got 'latent_dims'; did you mean 'latent_dim'?"),
        ("latent_dim = 'x", "expected a configuration as TOML, got: "),
        ("keep_best = 1", "expected keep_best as true or false, got 1"),
        ("epochs = true", "expected epochs as a whole number, got True"),
    ],
)
def test_a_file_that_is_no_configuration(text, message, tmp_path):
    (tmp_path / "c.toml").write_text(text)
    result = invoke("train", "digits", "--config", tmp_path / "c.toml", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


# -- Failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "missing.npy"], "got missing.npy, which isn't there"),
        (["train", "MINST"], "a file or a folder, got MINST, which isn't there; did you mean mnist?"),
        (["train", "{bad}/pickle.npy"], "expected an array of numbers"),
        (["train", "{bad}/words.csv", "--likelihood", "gaussian"], "got 'red' in line 3; fill in what is missing"),
        (["train", "{bad}/x.doc"], "expected .npy, .npz, .csv, .tsv, .txt, .parquet or a folder of images"),
        (["train", "{bad}/x.txt"], "expected names and rows in"),
        (["train", "{bad}/nan.csv", "--likelihood", "gaussian"], "expected finite data, got 1 NaN or infinite value"),
        (["train", "{bad}/nan.npy"], "expected finite data in {bad}/nan.npy, got 1 NaN or infinite values; fill them"),
        (["train", "{bad}/scans.npy"], "expected images between 0 and 1, of 8 bits or of counts, got values from -1"),
        (
            ["train", "{bad}/negative.csv", "--likelihood", "bernoulli"],
            "the options for it are --pixels and --likelihood",
        ),
        (["train", "digits", "--pixels", "grey", "--likelihood", "bernoulli"], "grey pixels are made binary"),
        (["train", "{data}", "--column", "age=real"], "expected --column for a table (.csv, .tsv, .txt, .parquet)"),
        (["train", "{bad}/words.csv", "--column", "aa=real"], "got ['aa']"),
        (["train", "{data}", "--prior", "gamma"], "expected prior and posterior with one support"),
        (["train", "{data}", "--validation", "2"], "expected a fraction of the data to validate on"),
        (["train", "{data}", "--validation", "digits"], "expected validation data of 16 columns, got 64"),
        (["train", "{data}", "--image-shape", "3,3"], "expected an image_shape of 16 pixels"),
        (["train", "{data}", "--device", "abacus"], "expected a device that is there, such as cpu, got 'abacus'"),
        (["train", "{data}", "--learning-rate", "-1"], "expected a learning_rate above 0, got -1.0"),
    ],
)  # fmt: skip
def test_what_can_not_be_trained_is_told_before(args, message, data, tmp_path):
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "words.csv").write_text("a,b\n1,2\nred,3\n")
    for name in ("x.txt", "x.doc"):
        (tmp_path / name).write_text("")
    np.save(tmp_path / "nan.npy", np.array([[0.0, 1.0], [np.nan, 1.0]]))
    np.save(tmp_path / "scans.npy", np.full((3, 2, 2), -1.0))
    (tmp_path / "nan.csv").write_text("1,2\nnan,3\n")
    (tmp_path / "negative.csv").write_text("1,2\n-1,3\n")
    out = tmp_path / "out"
    result = invoke(*(a.format(bad=tmp_path, data=data) for a in args), "--out", out)
    assert result.exit_code == 1
    *read, line = result.stderr.splitlines()
    assert all(each.startswith("read ") for each in read)
    assert line.startswith("error: expected")
    assert message.format(bad=tmp_path) in line
    assert not result.stdout
    assert not out.exists()


def test_outputs_are_checked_first(trained, data, tmp_path):
    (tmp_path / "file").write_text("")
    for args, message in (
        (["train", data, *SMALL, "--out", tmp_path / "file" / "out"], "expected a folder that can be written"),
        (
            ["encode", trained[1], data, "--out", tmp_path / "z.txt"],
            "expected an output file that ends in .npy",
        ),
        (["manifold", trained[1], "--out", tmp_path / "z.npy"], "expected an output file that ends in .png"),
        (["compare", data, "--out", tmp_path / "file" / "c.png"], "expected a folder that can be written"),
        (["train", data, *SMALL, "--out", trained[1]], "which has checkpoints; pass --resume"),
        (["evaluate", tmp_path, data], "expected vae.json in"),
        (["evaluate", trained[1], "digits", "--pixels", "static"], "expected 16 columns, as the model has, got 64"),
    ):
        result = invoke(*args)
        assert result.exit_code == 1, args
        assert message in result.stderr


def test_a_loss_that_is_not_finite(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(0.0, 1e4, (50, 3)))
    options = ["--likelihood", "gaussian", "--optimizer", "adagrad", "--learning-rate", "1e20"]
    result = invoke("train", tmp_path / "x.npy", "--out", tmp_path / "out", *SMALL, *options)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: expected a finite loss")


@pytest.mark.slow
def test_a_process_that_fails_has_no_traceback_without_debug(tmp_path):
    code, out, err = run("train", "missing.npy", "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"error: expected a data set's name, a file or a folder, got missing.npy, .*\n", err)
    result = invoke("train", "missing.npy", "--out", tmp_path / "out", "--debug")
    assert "Traceback" in result.stderr
    assert "error: expected a data set's name" in result.stderr


def test_another_process_than_the_first_says_which_it_is(monkeypatch, capsys):
    tell("one")
    for rank in ("0", "1"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        tell("of two")
    assert capsys.readouterr().err == "one\nof two\n[process 1] of two\n"


# -- Stopping and going on ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_model_and_resume_goes_on(kind, code, data, tmp_path):
    out = tmp_path / "run"
    options = [*SMALL, "--compile", "never", "--quiet", "--schedule", "constant", "--learning-rate", "1e-3"]
    process = start("pyro_aevb", "train", data, "--out", out, *options, "--samples", "1e9")
    while not ((out / "history.csv").exists() and list(out.glob("checkpoints/checkpoint-*.safetensors"))):
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.3)
    process.send_signal(kind)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    load(out)  # the model is there
    assert len((out / "history.csv").read_text().splitlines()) > 1
    assert (out / "history.png").exists() == (kind == signal.SIGINT)
    assert "--resume" in invoke("train", data, "--out", out, *options).stderr
    state = TrainingConfig.read(out / "config.toml")
    assert state.samples == 10**9
    last = json.loads(invoke("train", "--out", out, "--resume", "--samples", "1", "--json").stdout)["samples"]
    assert last > 20
    more = ["--samples", str(last + 100), "--json"]
    whole = tmp_path / "whole"
    for folder, args in ((out, ["--resume"]), (whole, [data, *options])):
        result = invoke("train", *args, "--out", folder, *more)
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["samples"] == last + 100
    assert digest(out) == digest(whole)


def test_another_model_can_not_resume(data, tmp_path):
    out = tmp_path / "run"
    assert invoke("train", data, "--out", out, *SMALL, "--epochs", "1").exit_code == 0
    before = (out / "config.toml").read_text()
    for option, value, was in (
        ("--latent-dim", "3", "2"),
        ("--hidden-dims", "8,8", "8"),
        ("--init", "paper", "modern"),
    ):
        result = invoke("train", "--out", out, "--resume", "--epochs", "2", option, value)
        assert result.exit_code == 2
        told = " ".join(result.stderr.replace("│", " ").split())
        assert f"expected {option} {was}, as the run in {out} has, got {value}; leave it out to go on" in told
    assert (out / "config.toml").read_text() == before


def test_a_resume_changes_what_it_says_or_nothing(data, tmp_path):
    """Another learning rate is refused and not written; a mistyped folder isn't begun anew."""
    out = tmp_path / "out"
    assert invoke("train", data, "--out", out, *SMALL, "--epochs", "1").exit_code == 0
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    result = invoke("train", "--out", out, "--resume", "--learning-rate", "0.5", "--epochs", "2")
    assert result.exit_code == 1
    assert "optim.lr=0.5, got one with optim.lr=" in result.stderr
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    result = invoke("train", data, "--out", tmp_path / "uot", *SMALL, "--resume", "--epochs", "1")
    assert result.exit_code == 1
    assert "got no config.toml there; check --out, or begin one without --resume" in result.stderr
    assert not (tmp_path / "uot").exists()


@pytest.mark.slow
def test_two_processes_train_one_model(data, tmp_path):
    options = [*SMALL, "--epochs", "3", "--validation", "0.2", "--json"]
    process = start(
        "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pyro_aevb", "train", data,
        "--out", tmp_path / "two", *options, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    printed = json.loads(out)  # one object, from one process
    assert printed["samples"] == 3 * 160
    assert load(tmp_path / "two").latent_dim == 2
    alone = json.loads(invoke("train", data, "--out", tmp_path / "one", *options).stdout)
    assert printed["validation"] == pytest.approx(alone["validation"], abs=0.5)


# -- The rest ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "learner", [pytest.param(name, marks=() if name == "aevb" else pytest.mark.slow) for name in LEARNERS]
)
def test_every_learner_trains_and_resumes(learner, data, tmp_path):
    options = [*SMALL, "--learner", learner, "--validation", "0.2", "--clip-norm", "10", "--theta-prior", "1"]
    options += ["--pixels", "dynamic", "--schedule", "constant"]  # by another the end decides about each step
    args = ["train", data, *options, "--quiet", "--json"]
    assert invoke(*args, "--epochs", "1", "--out", tmp_path / "a").exit_code == 0
    results = [invoke("train", "--out", tmp_path / "a", "--resume", "--epochs", "2", "--json")]
    results += [invoke(*args, "--epochs", "2", "--out", tmp_path / "b")]
    first, second = (json.loads(result.stdout) for result in results)
    assert first["validation"] == second["validation"]
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_can_be_named(objective, x):
    needed = {"alpha": 0.5} if objective == "renyi" else {}
    config = TrainingConfig(objective=objective, latent_dim=2, hidden_dims=(4,), **needed)
    vae = make_vae(config, 16, 200, None)
    assert torch.isfinite(make_learner(config, vae).step(x[:10]).elbo)
    several = make_learner(TrainingConfig(objective=objective, num_particles=3, **needed), vae)
    assert several.objective.num_particles == 3


def test_mcem_has_a_guide_beside_it(x):
    config = TrainingConfig(learner="mcem", latent_dim=2, hidden_dims=(4,))
    vae = make_vae(config, 16, 200, None)
    info = make_learner(config, vae).step(x[:20], index=torch.arange(20))
    assert torch.isfinite(info.elbo)


def test_named_data_with_convolutions_and_parts(tmp_path):
    options = [
        "--pixels",
        "dynamic",
        "--convolutions",
        "--latent-dim",
        "2",
        "--validation",
        "test",
        "--kl-warm-up",
        "400",
    ]
    result = invoke("train", "digits", "--out", tmp_path / "run", *options, "--samples", "500")
    assert result.exit_code == 0, result.stderr
    assert load(tmp_path / "run").image_shape == (1, 8, 8)
    for part, size in (("test", 360), ("train", 1437)):
        out = tmp_path / f"{part}.npy"
        assert invoke("encode", tmp_path / "run", "digits", "--part", part, "--out", out).exit_code == 0
        assert np.load(out).shape == (size, 2)
    result = invoke("encode", tmp_path / "run", "digits", "--part", "validation", "--out", out)
    assert "expected a data set with a part for validation, got digits, which has none" in result.stderr


def test_a_table_of_numbers(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["height,weight", *(f"{a:.4f},{b:.4f}" for a, b in rng.normal(size=(60, 2)))]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    np.savez(tmp_path / "more.npz", a=rng.normal(size=(30, 2)), b=np.zeros(3))
    options = ["--likelihood", "gaussian", "--validation", tmp_path / "more.npz", "--key", "a"]
    result = invoke("train", tmp_path / "t.csv", "--out", tmp_path / "run", *SMALL, "--epochs", "2", *options)
    assert result.exit_code == 0, result.stderr
    result = invoke("sample", tmp_path / "run", "--out", tmp_path / "s.png")
    assert result.exit_code == 1
    assert "pass --image-shape, such as 28,28" in result.stderr
    assert invoke("sample", tmp_path / "run", "--out", tmp_path / "s.png", "--image-shape", "1,2").exit_code == 0


def test_a_folder_of_images(tmp_path, x):
    for i, image in enumerate(x[:40].reshape(-1, 4, 4).numpy()):
        Image.fromarray((image * 255).astype(np.uint8)).save(tmp_path / f"{i:03d}.png")
    result = invoke("train", tmp_path, "--pixels", "dynamic", "--out", tmp_path / "run", *SMALL, "--epochs", "1")
    assert result.exit_code == 0, result.stderr
    assert invoke("sample", tmp_path / "run", "--out", tmp_path / "run" / "s.png").exit_code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    pyro-aevb {command}" in result.stdout
    for example in re.findall(r"^    pyro-aevb (.*)$", result.stdout, re.MULTILINE):
        for option in re.findall(r"--[\w-]+", example):
            assert option in invoke(example.split()[0], "--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_what_reads_data_may_be_quiet(command):
    shown = invoke(command, "--help").stdout
    reads = "DATA" in shown.splitlines()[0]
    assert ("--quiet" in shown) == reads


def test_the_list_of_commands_and_the_version():
    shown = invoke("--help").stdout
    assert re.findall(r"^  (\w+)  +\w", shown.split("Commands:")[1], re.MULTILINE) == list(COMMANDS)
    assert invoke("--version").stdout == f"{__version__}\n"
    assert invoke("--frobnicate").exit_code == 2


def test_info():
    shown = json.loads(invoke("info", "--json").stdout)
    assert shown["versions"]["torch"] == torch.__version__
    assert shown["threads"] == torch.get_num_threads()
    assert shown["devices"][0] == "cpu"
    assert f"torch      {torch.__version__}\n" in invoke("info").stdout


def test_levels_are_shown_from_black_to_white(tmp_path):
    """A folder of images under a likelihood of their levels, from the command line to a picture."""
    (tmp_path / "scans").mkdir()
    for i in range(20):
        Image.fromarray(np.full((8, 8), 12 * i, dtype=np.uint8)).save(tmp_path / "scans" / f"{i:02}.png")
    out = tmp_path / "run"
    result = invoke(
        "train", tmp_path / "scans", "--likelihood", "discretized-logistic", "--hidden-dims", "4", "--latent-dim", "2",
        "--batch-size", "10", "--samples", "20", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"read {tmp_path / 'scans'}: 20 images of 8x8, grey" in result.stderr
    assert invoke("reconstruct", out, tmp_path / "scans", "--out", tmp_path / "x.png").exit_code == 0
    shown = grey(tmp_path / "x.png")
    assert [round(255 * float(shown[4, 24 * i + 4])) for i in range(10)] == [12 * i for i in range(10)]


def test_what_was_held_out_is_what_is_evaluated(data, x, tmp_path):
    out = tmp_path / "run"
    options = ("--samples", "200", "--hidden-dims", "4", "--latent-dim", "2", "--batch-size", "10")
    assert invoke("train", data, *options, "--validation", "0.25", "--out", out).exit_code == 0
    count = round(0.25 * len(x))
    found = invoke("evaluate", out, data, "--particles", "10", "--method", "importance", "--json")
    assert json.loads(found.stdout)["datapoints"] == count
    assert f"; of these the {count} that were held out" in found.stderr
    for part, rows in ((None, len(x)), ("train", len(x) - count), ("validation", count), ("all", len(x))):
        named = () if part is None else ("--part", part)
        assert invoke("encode", out, data, *named, "--out", tmp_path / "codes.npy").exit_code == 0
        assert len(np.load(tmp_path / "codes.npy")) == rows
    assert invoke("encode", out, data, "--part", "test", "--out", tmp_path / "test.npy").exit_code == 1


@pytest.mark.parametrize("name", ["config.toml", "notes.txt", "scan.png"])
def test_files_of_something_else_are_not_written_over(name, data, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / name).write_text("mine")
    result = invoke("train", data, "--samples", "20", "--batch-size", "10", "--out", out)
    assert result.exit_code == 1
    assert "expected a new folder or an empty one to write a run to" in result.stderr
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "mine")]
    assert invoke("train", data, "--samples", "20", "--batch-size", "10", "--out", tmp_path / "new").exit_code == 0
