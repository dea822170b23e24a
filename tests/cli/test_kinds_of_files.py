"""Each kind of file in each command: it works, and its numbers are those of the arrays, or it is one sentence.

docs/DATA.md has the table that is held here.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_calls import invoke
from PIL import Image
from scipy import sparse

from pyro_aevb import load
from pyro_aevb.cli import follow
from pyro_aevb.cli.config import TrainingConfig
from pyro_aevb.cli.data import training_data
from pyro_aevb.datasets import Table, array_files, read_array
from pyro_aevb.datasets.scaled_rows import ScaledRows
from pyro_aevb.datasets.table import write_cells
from pyro_aevb.vae.columns import likelihood_of

# Networks that were hardly trained have the wrong posterior.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{words}") for words in ("the draws of", "pareto_k is above")]

ROOT = Path(__file__).parents[2]
N = 24
TINY = ["--hidden-dims", "6", "--latent-dim", "2", "--batch-size", "12", "--epochs", "1", "--quiet"]
QUICK = ["--method", "importance", "--quiet"]
RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (N, 4, 4)).astype(np.uint8)
COLOURS = RNG.integers(0, 256, (N, 4, 4, 3)).astype(np.uint8)
REALS = 5 + 3 * RNG.standard_normal((N, 4))
COUNTS = RNG.poisson(2.0, (N, 5))
MIXED = {
    "name": [f"n{n}" for n in range(N)],
    "height": (170 + 8 * RNG.standard_normal(N)).round(1).tolist(),
    "visits": RNG.poisson(2.0, N).tolist(),
    "smokes": RNG.choice(["no", "yes"], N).tolist(),
}


def parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(MIXED), path)


def images(path, pixels, ending):
    path.mkdir()
    for n, image in enumerate(pixels):
        Image.fromarray(image).save(path / f"{n:02}{ending}")


def classes(path):
    path.mkdir()
    images(path / "cat", LEVELS[:10], ".png")
    images(path / "dog", LEVELS[10:], ".png")


def text(path):
    write_cells(path.with_suffix(".tsv"), MIXED)
    path.with_suffix(".tsv").rename(path)


# {kind in docs/DATA.md: (file, what writes it)}
FILES = {
    "table `.csv`": ("x.csv", lambda path: write_cells(path, MIXED)),
    "table `.tsv`": ("x.tsv", lambda path: write_cells(path, MIXED)),
    "table `.txt`": ("x.txt", text),
    "table `.parquet`": ("x.parquet", parquet),
    "`.npy` of real numbers": ("x.npy", lambda path: np.save(path, REALS)),
    "`.npz` of real numbers": ("x.npz", lambda path: np.savez(path, x=REALS)),
    "`.npy` of counts": ("x.npy", lambda path: np.save(path, COUNTS)),
    "SciPy's sparse `.npz`": ("x.npz", lambda path: sparse.save_npz(path, sparse.csr_array(COUNTS))),
    "`.npy` of 0 and 1": ("x.npy", lambda path: np.save(path, (LEVELS > 99).astype(np.float32))),
    "`.npy` between 0 and 1": ("x.npy", lambda path: np.save(path, LEVELS / 255.0)),
    "`.npy` of 8-bit pixels": ("x.npy", lambda path: np.save(path, LEVELS)),
    "folder of grey `.png`": ("x", lambda path: images(path, LEVELS, ".png")),
    "folder of grey `.tif`": ("x", lambda path: images(path, LEVELS, ".tif")),
    "folder of grey `.jpg`": ("x", lambda path: images(path, LEVELS, ".jpg")),
    "folder of colour `.png`": ("x", lambda path: images(path, COLOURS, ".png")),
    "folder of colour `.tif`": ("x", lambda path: images(path, COLOURS, ".tif")),
    "folder of colour `.jpg`": ("x", lambda path: images(path, COLOURS, ".jpg")),
    "folder of classes": ("x", classes),
}
TABLE = Table(MIXED)
REAL_TABLE = Table({f"x{d}": REALS[:, d] for d in range(4)}, dict.fromkeys(("x0", "x1", "x2", "x3"), "real"))
PIXELS = LEVELS.reshape(N, -1) / np.float32(255)
IN_COLOUR = COLOURS.transpose(0, 3, 1, 2).reshape(N, -1) / np.float32(255)


def numbers(kind):
    """Return what a model should see of a file of this kind; a .jpg isn't what was written."""
    if ".jpg" in kind:
        return None
    if kind.startswith("table"):
        return TABLE.x
    if "real" in kind:
        return REAL_TABLE.x
    if "counts" in kind or "sparse" in kind:
        return COUNTS.astype(np.float32)
    if "0 and 1" in kind and "between" not in kind:
        return (LEVELS > 99).reshape(N, -1).astype(np.float32)
    return IN_COLOUR if "colour" in kind else PIXELS


COMMANDS = {
    "evaluate": ["{x}", "--particles", "5", "--per-row", "{out}.csv", *QUICK],
    "encode": ["{x}", "--out", "{out}.npy", "--quiet"],
    "reconstruct": ["{x}", "--out", "{out}.npy"],
    "sample": ["-n", "7", "--out", "{out}.npy"],
    "impute": ["{x}", "--out", "{out}.npy", *QUICK],
    "denoise": ["{x}", "--noise", "gaussian:0.3", "--out", "{out}.npy", *QUICK],
    "score": ["{x}", "--particles", "5", "--out", "{out}.csv", *QUICK],
    "manifold": ["--side", "3", "--out", "{out}.png"],
}


def documented():
    """Return the table of docs/DATA.md: {kind: (p(x|z), {command: whether it works})}."""
    lines = [line for line in (ROOT / "docs" / "DATA.md").read_text().splitlines() if line.startswith("| ")]
    header, *rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if "evaluate" in line or " yes " in line
    ]
    names = header[3:]
    return {
        row[0]: (row[2].strip("`"), dict(zip(names, (cell == "yes" for cell in row[3:]), strict=True))) for row in rows
    }


def trained(kind, folder):
    name, write = FILES[kind]
    write(folder / name)
    result = invoke("train", folder / name, "--out", folder / "run", *TINY)
    assert result.exit_code == 0, result.stderr
    return folder / name


def test_the_table_has_every_kind_and_command():
    found = documented()
    assert list(found) == list(FILES)
    assert all(list(works) == list(COMMANDS) for _, works in found.values())


SOME = ("table `.csv`", "`.npy` of counts", "folder of colour `.png`")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in SOME else pytest.mark.slow) for k in FILES])
def test_a_kind_of_file_in_every_command(kind, tmp_path):
    path = trained(kind, tmp_path)
    x, vae = numbers(kind), load(tmp_path / "run").eval()
    likelihood, works = documented()[kind]
    if x is None:
        x = read_array(path).reshape(N, -1)
    before = {p.relative_to(tmp_path): p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert likelihood in (type(vae.likelihood).__name__, "by column")
    outputs = {}
    for command, args in COMMANDS.items():
        out = tmp_path / "made" / command
        result = invoke(command, tmp_path / "run", *(each.format(x=path, out=out) for each in args))
        made = list(out.parent.glob(f"{command}.*")) if out.parent.exists() else []
        if works[command]:
            assert result.exit_code == 0, (command, result.stderr)
            outputs[command] = made[0]
        else:
            assert result.exit_code == 1, command
            assert re.fullmatch(r"error: expected .+, got .+; .+", result.stderr.splitlines()[-1]), result.stderr
            assert not made
    left = {p.relative_to(tmp_path): p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert {name: left[name] for name in before} == before
    assert {name.parts[0] for name in left.keys() - before.keys()} == {"made"}
    check_numbers(
        kind, torch.from_numpy(x), vae, {name: np.load(p) for name, p in outputs.items() if p.suffix == ".npy"}
    )


def check_numbers(kind, x, vae, found):
    np.testing.assert_allclose(found["encode"], vae.encode(x).detach(), rtol=1e-4, atol=1e-5)
    table = TABLE if kind.startswith("table") else REAL_TABLE if "real" in kind else None
    raw = x.numpy() if table is None else np.stack([c.raw(x[:, d].numpy()) for d, c in enumerate(table.modelled)], 1)
    np.testing.assert_allclose(found["impute"], raw, rtol=1e-5)  # nothing is missing
    assert found["sample"].shape == (7, x.shape[1])
    assert np.isfinite(found["sample"]).all()
    if table is None:
        np.testing.assert_allclose(found["reconstruct"], vae.reconstruct(x).detach(), rtol=1e-4, atol=1e-5)
    elif table is REAL_TABLE:
        means = vae.reconstruct(x).detach().numpy()
        raw = np.stack([c.raw(means[:, d]) for d, c in enumerate(table.modelled)], 1)
        np.testing.assert_allclose(found["reconstruct"], raw, rtol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "table `.parquet`"])
def test_the_numbers_to_train_on_are_those_of_the_array(kind, tmp_path):
    name, write = FILES[kind]
    write(tmp_path / name)
    data = training_data(TrainingConfig(data=str(tmp_path / name)))
    expected = numbers(kind)
    if expected is None:
        expected = read_array(tmp_path / name).reshape(N, -1)
    np.testing.assert_allclose(data.train, expected, rtol=1e-6)
    likelihood = documented()[kind][0]
    if likelihood == "by column":
        assert data.likelihood.outputs_per_dim == likelihood_of(TABLE.modelled).outputs_per_dim
    else:
        assert data.likelihood.replace("-", "") == re.sub("^scipy", "", likelihood.lower())
    if "folder" in kind or "8-bit" in kind:
        assert data.config.pixels == "grey"
        assert data.image_shape == ((3, 4, 4) if "colour" in kind else (4, 4))


def test_flat_arrays_of_8_bits_are_pixels_if_they_are_bright(tmp_path):
    for array, likelihood in ((LEVELS, "continuous-bernoulli"), (LEVELS % 8, "negative-binomial")):
        np.save(tmp_path / "x.npy", array.reshape(N, -1))
        data = training_data(TrainingConfig(data=str(tmp_path / "x.npy")))
        assert data.likelihood == likelihood
        assert data.train.max() == (array / np.float32(255)).max() if likelihood.startswith("c") else array.max()
        assert f"so that p(x|z) is {likelihood}: --likelihood says otherwise" in data.said


def test_what_follows_the_data_stays_with_the_run(tmp_path):
    """Darker images are divided by 255 as those were that were trained on; and the run goes on."""
    path = trained("`.npy` of 8-bit pixels", tmp_path)
    config = TrainingConfig.read(tmp_path / "run" / "config.toml")
    assert (config.likelihood, config.pixels, config.image_shape) == ("continuous-bernoulli", "grey", (4, 4))
    dark = LEVELS.reshape(N, -1) % 100
    np.save(tmp_path / "dark.npy", dark)
    assert invoke("encode", tmp_path / "run", tmp_path / "dark.npy", "--out", tmp_path / "z.npy").exit_code == 0
    codes = load(tmp_path / "run").eval().encode(torch.from_numpy(dark / np.float32(255)))
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), codes.detach(), rtol=1e-4, atol=1e-6)
    result = invoke("train", path, "--out", tmp_path / "run", "--resume", "--epochs", "2", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert f"done after {2 * N} samples" in result.stdout
    assert TrainingConfig.read(tmp_path / "run" / "config.toml").pixels == "grey"


def test_black_and_white_images_are_binary(tmp_path):
    images(tmp_path / "x", np.where(LEVELS > 99, 255, 0).astype(np.uint8), ".png")
    Image.fromarray(LEVELS[0] > 99).save(tmp_path / "x" / "00.png")  # of one bit
    data = training_data(TrainingConfig(data=str(tmp_path / "x")))
    assert (data.likelihood, data.config.pixels) == ("bernoulli", "grey")
    assert torch.equal(data.train, torch.from_numpy((LEVELS > 99).reshape(N, -1)).float())
    Image.fromarray(LEVELS[0]).save(tmp_path / "x" / "00.png")
    assert training_data(TrainingConfig(data=str(tmp_path / "x"))).likelihood == "continuous-bernoulli"


def test_an_array_too_large_to_standardise_is_one_sentence(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", REALS)
    monkeypatch.setattr(follow, "MOST_STANDARDISED", 100)
    with pytest.raises(ValueError, match=r"expected real numbers of up to 100 bytes .*; pass --likelihood gau"):
        training_data(TrainingConfig(data=str(tmp_path / "x.npy")))
    assert training_data(TrainingConfig(data=str(tmp_path / "x.npy"), likelihood="gaussian")).train.shape == (N, 4)


def test_classes_of_images_stand_beside_the_codes(tmp_path):
    path = trained("folder of classes", tmp_path)
    result = invoke("encode", tmp_path / "run", path, "--limit", "12", "--out", tmp_path / "z.csv")
    assert "24 images of 4x4, grey, of 2 classes by their folders" in result.stderr
    lines = (tmp_path / "z.csv").read_text().splitlines()
    assert lines[0] == "class,z0,z1"
    assert [line.split(",")[0] for line in lines[1:]] == ["cat"] * 10 + ["dog"] * 2


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_a_large_array_is_read_a_minibatch_at_a_time(dtype, tmp_path, monkeypatch):
    """With the numbers of one that is read whole; on the disk, in its own type."""
    whole = LEVELS.astype(dtype)
    np.save(tmp_path / "x.npy", whole if dtype == np.uint8 else whole.reshape(N, -1) % 9)
    options = {"data": str(tmp_path / "x.npy"), "validation": "0.25"}
    small = training_data(TrainingConfig(**options))
    runs = []
    for name in ("small", "large"):
        assert (
            invoke("train", tmp_path / "x.npy", "--out", tmp_path / name, *TINY, "--validation", "0.25").exit_code == 0
        )
        runs.append(next((tmp_path / name).glob("weights-*")).name)
        args = ["--out", tmp_path / f"{name}.npy", "--part", "validation", "--limit", "4"]
        assert invoke("encode", tmp_path / name, tmp_path / "x.npy", *args).exit_code == 0
        monkeypatch.setattr(array_files, "IN_MEMORY", 100)
    assert runs[0] == runs[1]
    assert np.array_equal(np.load(tmp_path / "small.npy"), np.load(tmp_path / "large.npy"))
    large = training_data(TrainingConfig(**options))
    for part in ("train", "validation"):
        rows = getattr(large, part)
        assert isinstance(rows, ScaledRows)
        assert isinstance(rows.array, np.memmap)
        assert rows.array.dtype == dtype
        assert torch.equal(rows[torch.arange(len(rows))], getattr(small, part))
    dynamic = training_data(TrainingConfig(**options | {"pixels": "dynamic"})) if dtype == np.uint8 else None
    if dynamic is not None:
        assert isinstance(dynamic.train.images, ScaledRows)
        assert set(dynamic.train[torch.arange(3)].unique().tolist()) <= {0.0, 1.0}
