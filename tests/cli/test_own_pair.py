"""A model of one's own on the command line: trained, measured against the closed form, used, or refused."""

import json
import math
import re
import shutil
import sys
import textwrap

import numpy as np
import pyro
import pytest
import torch
from cli_calls import invoke

from pyro_aevb import save_pair
from pyro_aevb.cli.own_pair import own_pair
from pyro_aevb.training.saved_pair import read_pair

CODE = """
import pyro
import pyro.distributions as dist
import torch


def pair():
    def model(x):  # x_d ~ N(loc, 1 + noise^2), and columns share z
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(loc + z.expand(*z.shape[:-1], x.shape[-1]), 0.5).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x.sum(-1, keepdim=True), 0.5).to_event(1))

    return model, guide


def alone():
    return pair()[0]


def broken():
    raise RuntimeError("no such thing")


def plane():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            scale = pyro.param("scale", torch.ones(4), constraint=dist.constraints.positive)
            pyro.sample("x", dist.Gamma(scale * z.exp().sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.param("unused", torch.ones(1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    return model, guide
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the code, data, and a run that was trained on them."""
    root = tmp_path_factory.mktemp("own")
    (root / "own.py").write_text(textwrap.dedent(CODE))
    generator = torch.Generator().manual_seed(0)
    x = 1 + torch.randn(100, 1, generator=generator) + 0.5 * torch.randn(100, 2, generator=generator)
    np.save(root / "x.npy", x.numpy())
    options = ["--learning-rate", "0.05", "--epochs", "3", "--validation", "0.2", "--objective", "sgvb-a"]
    options += ["--batch-size", "20"]
    result = invoke(
        "train", root / "x.npy", "--model", f"{root}/own.py:pair", "--out", root / "run", *options, "--json"
    )
    assert result.exit_code == 0, result.output
    return root


def exact(x, loc):
    """Return log N(x; loc, 1 + 0.5^2 I), whose columns share z."""
    covariance = torch.ones(2, 2) + 0.25 * torch.eye(2)
    return torch.distributions.MultivariateNormal(torch.full((2,), loc), covariance).log_prob(x)


def test_log_p_of_a_trained_pair_is_that_of_the_closed_form(folder):
    loc = read_pair(folder / "run").tensors["loc"].item()
    assert loc != 0.5
    args = ["--method", "quadrature", "--part", "all", "--json", "--quiet", "--per-row", folder / "log_p.npz"]
    result = invoke("evaluate", f"{folder}/own.py:pair@{folder}/run", folder / "x.npy", *args)
    assert result.exit_code == 0, result.output
    x = torch.from_numpy(np.load(folder / "x.npy"))
    found = json.loads(result.stdout)
    assert found["value"] == pytest.approx(exact(x, loc).mean().item(), abs=1e-3)
    with np.load(folder / "log_p.npz") as rows:
        np.testing.assert_allclose(rows["value"], exact(x, loc).numpy(), atol=2e-3)
    held_out = invoke("evaluate", f"{folder}/own.py:pair@{folder}/run", folder / "x.npy", "--json", "--quiet")
    assert json.loads(held_out.stdout)["datapoints"] == 20


def test_without_a_folder_the_pair_has_its_own_weights(folder):
    args = ["--method", "quadrature", "--json", "--quiet"]
    result = invoke("evaluate", f"{folder}/own.py:pair", folder / "x.npy", *args)
    x = torch.from_numpy(np.load(folder / "x.npy"))
    pyro.clear_param_store()
    assert json.loads(result.stdout)["value"] == pytest.approx(exact(x, 0.5).mean().item(), abs=1e-3)


def test_codes_reconstructions_and_missing_cells(folder):
    own, state = f"{folder}/own.py:pair@{folder}/run", read_pair(folder / "run").tensors
    x = np.load(folder / "x.npy")
    assert invoke("encode", own, folder / "x.npy", "--out", folder / "z.npy").exit_code == 0
    z = state["slope"].item() * x.sum(1, keepdims=True)
    np.testing.assert_allclose(np.load(folder / "z.npy"), z, rtol=1e-5)
    assert invoke("reconstruct", own, folder / "x.npy", "--out", folder / "again.npy").exit_code == 0
    np.testing.assert_allclose(np.load(folder / "again.npy"), state["loc"].item() + z.repeat(2, 1), rtol=1e-5)
    holes = x[:5].copy()
    holes[:, 1] = np.nan
    np.save(folder / "holes.npy", holes)
    args = ["--draws", "2000", "--out", folder / "filled.npz", "--quiet"]
    assert invoke("impute", own, folder / "holes.npy", *args).exit_code == 0
    loc = state["loc"].item()
    expected = loc + (x[:5, 0] - loc) / 1.25  # E[x_1 | x_0]
    with np.load(folder / "filled.npz") as found:
        filled = found["x"]
    np.testing.assert_allclose(filled[:, 1], expected, atol=0.15)
    np.testing.assert_array_equal(filled[:, 0], holes[:, 0])


def test_samples_have_the_models_moments_and_come_from_the_seed(folder):
    own, loc = f"{folder}/own.py:pair@{folder}/run", read_pair(folder / "run").tensors["loc"].item()
    drawn = []
    for seed in (0, 0, 1):
        assert invoke("sample", own, "-n", 4000, "--out", folder / "s.npy", "--seed", seed).exit_code == 0
        drawn.append(np.load(folder / "s.npy"))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert drawn[0].mean(0) == pytest.approx(loc, abs=5 * math.sqrt(1.25 / 4000))
    assert np.cov(drawn[0].T) == pytest.approx(np.ones((2, 2)) + 0.25 * np.eye(2), abs=0.15)


@pytest.mark.slow
def test_every_other_command_answers(folder):
    own, x = f"{folder}/own.py:pair@{folder}/run", folder / "x.npy"
    for args in (
        ["score", own, x, "--out", folder / "s.csv", "--method", "importance", "--quiet", "--limit", "5"],
        ["denoise", own, x, "--noise", "gaussian:0.3", "--out", folder / "d.npy", "--quiet", "--limit", "5"],
        ["report", own, x, "--quiet", "--limit", "20"],
        [
            "compare",
            x,
            "--model",
            f"{folder}/own.py:pair",
            "--epochs",
            "1",
            "--batch-size",
            "20",
            "--out",
            folder / "c.png",
            "--quiet",
        ],
    ):
        result = invoke(*args)
        assert result.exit_code == 0, (args, result.output)
    for args, words in (
        (["manifold", own, "--image-shape", "1,2", "--out", folder / "m.png"], "expected 2 latent dimensions"),
        (["denoise", own, x, "--noise", "flips:0.1", "--out", folder / "d.npy"], "expected binary cells"),
        (["sample", f"{folder}/own.py:pair", "--out", folder / "s.npy"], "expected .*own.py:pair@FOLDER"),
        (["encode", folder / "run", x, "--out", folder / "z.npy"], "weights of a pair of one's own"),
    ):  # fmt: skip
        refused(args, words)


def refused(args, words):
    result = invoke(*args)
    assert result.exit_code in (1, 2), result.output
    assert re.search(words, " ".join(result.stderr.split())), result.stderr
    assert "Traceback" not in result.stderr


def test_weights_go_into_a_model_whose_x_is_positive(folder):
    pyro.clear_param_store()
    model, guide = own_pair(f"{folder}/own.py:plane")
    with torch.no_grad():
        pyro.param("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]), constraint=torch.distributions.constraints.positive)
    save_pair(model, guide, folder / "plane", torch.ones(3, 4))
    pyro.clear_param_store()
    own = f"{folder}/own.py:plane@{folder}/plane"
    assert invoke("sample", own, "-n", 4, "--mean", "--out", folder / "g.npy").exit_code == 0
    means = np.load(folder / "g.npy")
    np.testing.assert_allclose(means / means[:, :1], np.tile([1.0, 2, 3, 4], (4, 1)), rtol=1e-5)
    result = invoke("manifold", own, "--image-shape", "2,2", "--side", 3, "--out", folder / "m.png")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{}/own.py", "name the function in the file that returns"),
        ("{}/none.py:pair", "isn't there; check the path"),
        ("{}/own.py:pear", "did you mean 'pair'"),
        ("{}/own.py:torch", "expected a function torch in .*got module"),
        ("{}/own.py:alone", "end it with return model, guide"),
        ("{}/own.py:broken", "got RuntimeError: no such thing"),
        ("{}/wrong.py:pair", "got ZeroDivisionError: division by zero; try python"),
        ("{}/own.py:pair@{}/nowhere", "a folder that save_pair made"),
        ("{}/own.py:plane@{}/run", "inside the support of site 'x'"),
    ],
)
def test_code_or_weights_that_cannot_be_used_are_said_in_a_sentence(name, words, folder):
    (folder / "wrong.py").write_text("1 / 0\n")
    pyro.clear_param_store()
    refused(["evaluate", name.format(*[folder] * 2), folder / "x.npy"], words)


def test_code_runs_only_where_it_is_named(folder):
    refused(["train", "--out", folder / "run", "--resume"], "expected --model on the command line")
    refused(["train", folder / "x.npy", "--config", folder / "run" / "config.toml", "--out", folder / "b"], "--model")
    own = f"{folder}/own.py:pair"
    result = invoke("train", "--out", folder / "run", "--resume", "--model", own, "--epochs", "4", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["samples"] == 4 * 80
    args = ["train", folder / "x.npy", "--model", own, "--latent-dim", "3", "--out", folder / "c"]
    refused(args, "expected --latent-dim|expected no latent_dim beside model, got 3")


def test_an_at_sign_in_a_path_is_part_of_it(folder):
    there = folder / "me@home.py"  # a folder
    there.mkdir()
    shutil.copy(folder / "own.py", there)
    shutil.copytree(folder / "run", there / "run@1")
    result = invoke("encode", f"{there}/own.py:pair@{there}/run@1", folder / "x.npy", "--out", folder / "at.npy")
    assert result.exit_code == 0, result.output
    slope = read_pair(there / "run@1").tensors["slope"].item()
    expected = slope * np.load(folder / "x.npy").sum(1, keepdims=True)
    np.testing.assert_allclose(np.load(folder / "at.npy"), expected, rtol=1e-5)
    refused(["encode", there, folder / "x.npy", "--out", folder / "at.npy"], "expected vae.json in .*me@home.py")


def test_the_files_folder_is_where_it_finds_its_neighbours(tmp_path):
    (tmp_path / "neighbour.py").write_text("def model(x): ...\ndef guide(x): ...\n")
    (tmp_path / "main.py").write_text("import neighbour\ndef pair(): return neighbour.model, neighbour.guide\n")
    before = list(sys.path)
    assert own_pair(f"{tmp_path}/main.py:pair").model.__name__ == "model"
    assert sys.path == before
    del sys.modules["neighbour"]
