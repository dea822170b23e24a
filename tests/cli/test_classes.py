"""A conditional VAE of images in a folder a class, from the command line: its numbers are those of the library."""

import json
import re

import numpy as np
import pytest
import torch
from cli_calls import invoke, succeed
from PIL import Image
from torch.nn.functional import one_hot

from pyro_aevb import elbo, load

# Networks that were hardly trained have the wrong posterior.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{words}") for words in ("the draws of", "pareto_k is above")]

N, SIDE = 40, 4
NAMES = ("dark", "light")


def write(folder, names, number, seed):
    """Write dark and light images, in turn, and return them in the order of their folders."""
    rng, found = np.random.default_rng(seed), {name: [] for name in names}
    for n in range(number):
        name = names[n % len(names)]
        level = 40 if name == "dark" else 210
        image = (level + rng.integers(-30, 30, (SIDE, SIDE))).astype(np.uint8)
        path = folder / name / f"{n:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        found[name].append(image.ravel() / 255)
    return torch.tensor(np.concatenate([found[name] for name in sorted(names)])).float()


TINY = ["--hidden-dims", "8", "--latent-dim", "2", "--batch-size", "10", "--learning-rate", "1e-2", "--quiet"]


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """Return a folder with images and a run, the VAE, and the images with their covariates."""
    folder = tmp_path_factory.mktemp("classes")
    x = write(folder / "scans", NAMES, N, 0)
    succeed("train", folder / "scans", "--conditional", "--out", folder / "run", *TINY, "--epochs", "100")
    covariates = one_hot(torch.arange(2).repeat_interleave(N // 2), 2).float()
    return folder, load(folder / "run").eval(), x, covariates


@pytest.mark.slow
def test_the_folder_names_the_classes(conditional):
    folder, vae, *_ = conditional
    assert vae.covariates == 2
    assert json.loads((folder / "run" / "classes.json").read_text()) == list(NAMES)
    assert "conditional = true" in (folder / "run" / "config.toml").read_text()


def test_the_numbers_are_those_of_the_library(conditional, tmp_path):
    folder, vae, x, covariates = conditional
    run, scans = folder / "run", folder / "scans"
    succeed("encode", run, scans, "--out", tmp_path / "z.npy")
    codes = vae.encode(x, covariates=covariates)
    assert np.load(tmp_path / "z.npy") == pytest.approx(codes.numpy(), abs=1e-5)
    swapped = vae.encode(x, covariates=covariates.flip(1))
    assert not torch.allclose(codes, swapped, atol=1e-3)
    succeed("reconstruct", run, scans, "--out", tmp_path / "r.npy")
    assert np.load(tmp_path / "r.npy") == pytest.approx(vae.decode(codes, covariates).numpy(), abs=1e-5)
    args = ["--method", "importance", "--particles", "20", "--json", "--quiet"]
    said = json.loads(succeed("evaluate", run, scans, *args).stdout)
    bound = elbo(vae.model, vae.guide, x, covariates=covariates, num_particles=1, seed=0).mean()
    assert said["bound"]["value"] == pytest.approx(bound.value, rel=1e-4)


def test_other_commands_take_the_class_too(conditional, tmp_path):
    folder = conditional[0]
    run, scans = folder / "run", folder / "scans"
    few, noise = ["--limit", "4", "--quiet"], ["--noise", "gaussian:0.1", "--method", "importance"]
    succeed("score", run, scans, "--method", "importance", "--out", tmp_path / "s.csv", *few)
    succeed("denoise", run, scans, *noise, "--out", tmp_path / "d.npy", *few)
    succeed("report", run, scans, "--out", tmp_path / "r.png", *few)


def test_draws_are_of_a_class_or_of_each_in_turn(conditional, tmp_path):
    folder = conditional[0]
    succeed("sample", folder / "run", "-n", "20", "--mean", "--out", tmp_path / "x.npy")
    means = np.load(tmp_path / "x.npy").mean(1)
    assert means[0::2].mean() < 0.4
    assert means[1::2].mean() > 0.6
    for name, light in (("dark", False), ("light", True)):
        succeed("sample", folder / "run", "-n", "7", "--mean", "--class", name, "--out", tmp_path / "x.npy")
        assert (np.load(tmp_path / "x.npy").mean() > 0.5) == light
        succeed("manifold", folder / "run", "--side", "3", "--class", name, "--out", tmp_path / "m.png")
        assert (np.asarray(Image.open(tmp_path / "m.png")).mean() > 127) == light


@pytest.mark.slow
def test_validation_is_of_the_folder_or_of_another(conditional, tmp_path):
    folder = conditional[0]
    write(tmp_path / "held out", NAMES, 10, 1)
    args = [*TINY, "--epochs", "2"]
    for place, validation in enumerate(("0.25", tmp_path / "held out")):
        out = tmp_path / f"run {place}"
        succeed("train", folder / "scans", "--conditional", "--out", out, *args, "--validation", validation)
        assert "validation" in (out / "history.csv").read_text().splitlines()[0]
    quick = ["--method", "importance", "--particles", "10", "--json", "--quiet"]
    said = json.loads(succeed("evaluate", tmp_path / "run 0", folder / "scans", *quick).stdout)
    assert np.isfinite(said["value"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["encode", "run", "other", "--out", "z.npy"], r"named out of \['dark', 'light'\], .*got \['green'\] in other"),
        (["encode", "run", "scans/dark", "--out", "z.npy"], "got scans/dark, whose rows have no class"),
        (["train", "scans/dark", "--conditional", "--out", "new"], "got scans/dark, whose rows have no class"),
        (
            ["train", "digits", "--conditional", "--out", "new"],
            "expected a folder of folders of images for conditional",
        ),
        (["train", "scans", "--conditional", "--full-vb", "--out", "new"], "expected one of full_vb and conditional"),
        (
            ["sample", "run", "--class", "grey", "--out", "x.npy"],
            r"expected --class out of \['dark', 'light'\], got 'grey'; pass one",
        ),
        (
            ["manifold", "run", "--out", "m.png"],
            r"expected --class out of \['dark', 'light'\] for a manifold, got none",
        ),
        (["sample", "plain", "--class", "dark", "--out", "x.npy"], "expected no --class for a model without classes"),
    ],
)
def test_what_is_refused(args, message, conditional, monkeypatch):
    folder = conditional[0]
    monkeypatch.chdir(folder)
    if not (folder / "other").exists():
        write(folder / "other", ("dark", "green"), 4, 2)
        succeed("train", "scans", "--out", "plain", *TINY, "--epochs", "1")
    result = invoke(*args)
    assert result.exit_code in (1, 2)
    words = " ".join(result.stderr.replace("\u2502", " ").split())
    assert re.search(message, words), words


def test_a_run_goes_on_with_the_classes_that_it_began_with(tmp_path):
    write(tmp_path / "scans", NAMES, 10, 0)
    args = "train", tmp_path / "scans", "--conditional", "--schedule", "constant", *TINY
    succeed(*args, "--out", tmp_path / "run", "--epochs", "1")
    (tmp_path / "scans" / "light").rename(tmp_path / "scans" / "lit")
    resume = "train", "--out", tmp_path / "run", "--resume", "--epochs", "2", "--quiet"
    assert "got the classes ['dark', 'lit'] in place of ['dark', 'light']; put it back" in invoke(*resume).stderr
    (tmp_path / "scans" / "lit").rename(tmp_path / "scans" / "light")
    succeed(*resume)
