"""The commands that use a model: what they write is what the library gives, and files may have holes."""

import csv
import math

import numpy as np
import pytest
import torch
from cli_calls import invoke, succeed
from PIL import Image

from pyro_aevb import VAE, Evidence, elbo, log_marginal_likelihood, save
from pyro_aevb.cli.tables import evidence_columns
from pyro_aevb.datasets.array_files import read_contents
from pyro_aevb.vae.likelihoods import FixedGaussian

# Networks nobody trained have the wrong posterior.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{words}") for words in ("the draws of", "pareto_k is above")]

N, D = 12, 4
QUICK = ["--method", "importance", "--quiet"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A VAE of 4 real columns in a folder, and a table with holes, its last row of nothing else."""
    folder = tmp_path_factory.mktemp("table")
    torch.manual_seed(0)
    vae = VAE(D, 2, hidden_dims=(8,), likelihood=FixedGaussian(0.7))
    save(vae, folder / "run")
    x = np.random.default_rng(0).normal(0.1, 1.0, (N, D)).round(1)
    holes = x.copy()
    holes[::2, 1] = np.nan
    holes[-1] = np.nan
    cells = [["" if math.isnan(value) else str(value) for value in row] for row in holes]
    (folder / "x.csv").write_text("a,b,c,d\n" + "\n".join(map(",".join, cells)) + "\n")
    np.save(folder / "whole.npy", x)
    np.save(folder / "holes.npy", holes)
    return vae, folder, x, holes


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A VAE of binary images of 4x4 pixels."""
    folder = tmp_path_factory.mktemp("images")
    torch.manual_seed(0)
    vae = VAE(16, 2, hidden_dims=(8,))
    save(vae, folder / "run")
    x = (torch.rand(N, 16) < 0.4).float()
    np.save(folder / "x.npy", x.reshape(N, 4, 4).numpy())
    return vae, folder, x


def columns(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def arrays(path):
    with np.load(path) as file:
        return dict(file)


# -- impute ------------------------------------------------------------------------------------------------------------


def test_a_table_with_empty_cells_is_filled_in(table, tmp_path):
    vae, folder, _, holes = table
    out = tmp_path / "new" / "filled.csv"
    result = invoke("impute", folder / "run", folder / "x.csv", "--out", out, "--interval", "0.8", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert f"1 of {N} rows have no observed cell: these are answered from the prior" in result.stderr
    assert result.stdout == f"written: {out}, {N} x {D}\n"
    rows = columns(out)
    assert list(rows[0])[:4] == ["a", "b", "c", "d"]
    assert list(rows[0])[4:6] == ["a low", "b low"]
    found = vae.impute(torch.from_numpy(holes).float(), method="importance", seed=0, progress=False)
    low, high = found.interval(0.8)
    for n, row in enumerate(rows):
        for d, name in enumerate("abcd"):
            if math.isnan(holes[n, d]):
                assert float(row[name]) == pytest.approx(found.mean[n, d].item(), rel=1e-5)
                assert float(row[f"{name} low"]) == pytest.approx(low[n, d].item(), rel=1e-5)
                assert float(row[f"{name} high"]) == pytest.approx(high[n, d].item(), rel=1e-5)
            else:
                assert row[name] == row[f"{name} low"] == row[f"{name} high"] == str(holes[n, d])


def test_an_array_with_nan_and_a_mask_say_the_same(table, tmp_path):
    _, folder, x, holes = table
    np.save(tmp_path / "mask.npy", (~np.isnan(holes)).astype(np.uint8))
    options = ["--draws", "5", *QUICK]
    for name, args in {"a": ["holes.npy"], "b": ["whole.npy", "--observed", tmp_path / "mask.npy"]}.items():
        data, *more = args
        out = tmp_path / f"{name}.npz"
        assert invoke("impute", folder / "run", folder / data, *more, "--out", out, *options).exit_code == 0
    first, second = (arrays(tmp_path / f"{name}.npz") for name in "ab")
    assert sorted(first) == ["draws", "standard_error", "x"]
    assert first["draws"].shape == (5, N, D)
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])
    there = ~np.isnan(holes)
    np.testing.assert_array_equal(first["x"][there], x[there])
    np.testing.assert_array_equal(first["draws"][:, there], np.broadcast_to(x[there], (5, there.sum())))
    assert (first["standard_error"][there] == 0).all()
    assert np.isfinite(first["x"]).all()


def test_categories_have_a_mode_and_a_draw(images, tmp_path):
    _, folder, x = images
    mask = np.ones((N, 16), dtype=int)
    mask[:, 8:] = 0
    np.save(tmp_path / "mask.npy", mask)
    for fill in ("mean", "mode", "draw"):
        out = tmp_path / f"{fill}.npy"
        args = ["--observed", tmp_path / "mask.npy", "--fill", fill, "--out", out, *QUICK]
        assert invoke("impute", folder / "run", folder / "x.npy", *args).exit_code == 0
        found = np.load(out)
        np.testing.assert_array_equal(found[:, :8], x[:, :8].numpy())
        assert (set(np.unique(found[:, 8:])) <= {0.0, 1.0}) == (fill != "mean")
    picture = ["--observed", tmp_path / "mask.npy", "--image-shape", "4,4", "--out", tmp_path / "x.png", *QUICK]
    assert invoke("impute", folder / "run", folder / "x.npy", *picture).exit_code == 0
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (10 * 28, 4 * 28)


def test_empty_cells_are_read_if_they_are_asked_for(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(",,\n1,,3\n\n4,5,6\n")
    read = read_contents(path, holes=True).values
    np.testing.assert_array_equal(read, [[np.nan] * 3, [1, np.nan, 3], [4, 5, 6]])
    with pytest.raises(ValueError, match=r"expected numbers in .*, got '' in line 2; fill in what is missing"):
        read_contents(path)
    path.write_text("a,b\n1,x\n")
    with pytest.raises(ValueError, match="got 'x' in line 2"):
        read_contents(path, holes=True)


# -- denoise -----------------------------------------------------------------------------------------------------------


def test_clean_data_are_those_of_the_library(table, images, tmp_path):
    vae, folder, x, _ = table
    out = tmp_path / "clean.npz"
    args = ["--noise", "gaussian:1.5", "--draws", "3", "--out", out, *QUICK]
    result = invoke("denoise", folder / "run", folder / "whole.npy", *args)
    assert result.exit_code == 0, result.stderr
    noisy = torch.from_numpy(x).float()
    law = lambda clean: torch.distributions.Independent(torch.distributions.Normal(clean, 1.5), 1)  # noqa: E731
    found = vae.denoise(noisy, law, method="importance", seed=0, progress=False)
    np.testing.assert_allclose(arrays(out)["x"], found.mean, rtol=1e-5)
    np.testing.assert_allclose(arrays(out)["standard_error"], found.standard_error, rtol=1e-5)
    assert arrays(out)["draws"].shape == (3, N, D)
    _, folder, x = images
    for noise in ("flips:0.1", "gaussian:0.4"):
        args = ["--noise", noise, "--out", tmp_path / "clean.npy", *QUICK]
        assert invoke("denoise", folder / "run", folder / "x.npy", *args).exit_code == 0
        found = np.load(tmp_path / "clean.npy")
        assert ((found > 0.5) == (x.numpy() > 0.5)).mean() > 0.9


# -- score, evaluate, encode -------------------------------------------------------------------------------------------


def test_scores_are_a_line_a_row(table, tmp_path):
    vae, folder, x, _ = table
    np.save(tmp_path / "far.npy", np.concatenate([x[:2], x[:1] + 9]))
    args = ["--reference", folder / "whole.npy", "--out", tmp_path / "s.csv", *QUICK]
    result = invoke("score", folder / "run", tmp_path / "far.npy", *args)
    assert result.exit_code == 0, result.stderr
    rows = columns(tmp_path / "s.csv")
    assert list(rows[0]) == ["score", "standard_error", "tail", "typicality"]
    data = torch.from_numpy(np.load(tmp_path / "far.npy")).float()
    exact = -log_marginal_likelihood(vae.model, vae.guide, data, method="quadrature", progress=False).value
    for row, value in zip(rows, exact.tolist(), strict=True):
        assert abs(float(row["score"]) - value) <= 5 * float(row["standard_error"]) + 0.02 * abs(value)
    assert float(rows[2]["tail"]) == pytest.approx(1 / (N + 1))


@pytest.mark.slow
def test_the_regret_is_written_too(table, tmp_path):
    folder = table[1]
    out = tmp_path / "s.npz"
    args = ["--limit", "2", "--regret", "--method", "importance", "--out", out, "--quiet"]
    assert invoke("score", folder / "run", folder / "whole.npy", *args).exit_code == 0
    found = arrays(out)
    assert sorted(found) == ["regret", "regret_error", "score", "standard_error"]
    assert (found["regret"] > 0).all()  # nobody trained the guide


def test_log_p_is_written_a_line_a_row(table, tmp_path):
    vae, folder, x, _ = table
    out = tmp_path / "p.csv"
    args = ["--method", "importance", "--particles", "50", "--per-row", out, "--quiet"]
    result = invoke("evaluate", folder / "run", folder / "whole.npy", *args)
    assert result.exit_code == 0, result.stderr
    rows = columns(out)
    assert list(rows[0]) == ["value", "standard_error", "direction", "method", "pareto_k"]
    data = torch.from_numpy(x).float()
    options = {"num_particles": 50, "seed": 0, "progress": False}
    expected = log_marginal_likelihood(vae.model, vae.guide, data, **options)
    assert [float(row["value"]) for row in rows] == pytest.approx(expected.value.tolist())
    assert [float(row["pareto_k"]) for row in rows] == pytest.approx(expected.pareto_k.tolist())
    assert {row["direction"] for row in rows} == {"lower"}
    assert {row["method"] for row in rows} == {"importance"}
    assert expected.value.mean() > elbo(vae.model, vae.guide, data, num_particles=50, seed=0).value.mean()


def test_each_row_has_the_direction_of_its_own_method():
    methods = ("quadrature", "ais", "quadrature")
    found = evidence_columns(Evidence(torch.zeros(3), torch.ones(3), "lower (approximate)", method=methods), "auto")
    assert found["method"].tolist() == list(methods)
    assert found["direction"].tolist() == ["numerical", "lower", "numerical"]


def test_codes_may_be_those_of_the_posterior(table, tmp_path):
    vae, folder, x, _ = table
    for method in ("guide", "importance"):
        out = tmp_path / f"{method}.npy"
        result = invoke("encode", folder / "run", folder / "whole.npy", "--method", method, "--out", out)
        assert result.exit_code == 0, result.stderr
        codes = vae.encode(torch.from_numpy(x).float(), method=method, seed=0, progress=False)
        np.testing.assert_allclose(np.load(out), codes, rtol=1e-4, atol=1e-5)
    assert not np.allclose(np.load(tmp_path / "guide.npy"), np.load(tmp_path / "importance.npy"), atol=0.01)


# -- What is refused ---------------------------------------------------------------------------------------------------

USAGE = {
    "rows of others": (["evaluate", "{t}/whole.npy", "--method", "bdmc", "--per-row", "x.csv"], "expected --chain"),
    "noise": (
        ["denoise", "{t}/whole.npy", "--noise", "rain:2", "--out", "x.npy"],
        "expected --noise gaussian:S with",
    ),
    "its size": (["denoise", "{t}/whole.npy", "--noise", "flips:1", "--out", "x.npy"], "P between 0 and 1, got"),
    "fill": (["impute", "{t}/x.csv", "--fill", "zeros", "--out", "x.npy"], "expected --fill out of mean, mode, draw"),
    "interval": (["impute", "{t}/x.csv", "--interval", "2", "--out", "x.csv"], "expected --interval between 0 and 1"),
    "a place for draws": (["impute", "{t}/x.csv", "--draws", "9", "--out", "x.csv"], "expected --out ending in .npz"),
    "a place for ends": (["impute", "{t}/x.csv", "--interval", "0.5", "--out", "x.npy"], "in .npz or .csv for --inter"),
    "method": (
        ["encode", "{t}/whole.npy", "--method", "magic", "--out", "x.npy"],
        "expected --method out of auto,",
    ),
}
FAILURES = {
    "mask": (["impute", "{t}/whole.npy", "--observed", "{t}/mask.npy"], "expected 0 and 1 of the shape (12, 4) of the"),
    "modes": (["impute", "{t}/x.csv", "--fill", "mode", *QUICK], "expected cells that are categories or counts"),
    "flips": (
        ["denoise", "{t}/whole.npy", "--noise", "flips:0.1"],
        "expected binary cells, modelled as such",
    ),
    "columns": (["impute", "{t}/mask.npy"], "expected 4 columns, as the model has, got 3"),
    "holes elsewhere": (["encode", "{t}/holes.npy"], "expected finite data, got 10 NaN"),
    "empty cells elsewhere": (["reconstruct", "{t}/x.csv"], "fill in what is missing"),
    "a file of scores": (["score", "{t}/whole.npy"], "expected an output file that ends in .csv or .npz"),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage_is_one_sentence(name, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command, *args), message = USAGE[name]
    result = invoke(command, table[1] / "run", *(a.format(t=table[1]) for a in args))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FAILURES)
def test_what_can_not_be_used_is_one_sentence(name, table, tmp_path):
    folder = table[1]
    np.save(folder / "mask.npy", np.full((N, 3), 0.5))
    (command, *args), message = FAILURES[name]
    out = tmp_path / "x.npy"
    result = invoke(command, folder / "run", *(a.format(t=folder) for a in args), "--out", out)
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: expected")
    assert message in line
    assert not out.exists()


def test_observed_values_outside_of_the_support_are_refused(images, tmp_path):
    _, folder, x = images
    wrong = x.numpy().copy()
    wrong[0, 0], wrong[1, 1] = 0.4, np.nan
    np.save(tmp_path / "wrong.npy", wrong)
    out = tmp_path / "x.npy"
    result = invoke("impute", folder / "run", tmp_path / "wrong.npy", "--out", out, *QUICK)
    assert result.exit_code == 1
    assert "inside the support of site 'x'" in result.stderr.splitlines()[-1]
    wrong[0, 0] = np.nan
    np.save(tmp_path / "wrong.npy", wrong)
    assert invoke("impute", folder / "run", tmp_path / "wrong.npy", "--out", out, *QUICK).exit_code == 0


def test_a_flow_without_an_inverse_answers_or_says_what_does(tmp_path):
    rng = np.random.default_rng(0)
    np.savetxt(tmp_path / "x.csv", rng.standard_normal((20, 3)), delimiter=",", header="a,b,c", comments="")
    args = "train", tmp_path / "x.csv", "--latent-dim", "2", "--hidden-dims", "4", "--epochs", "1", "--batch-size", "10"
    args = *args, "--quiet", "--posterior"
    said = "; the options for it are --posterior, --objective and --method"
    for n, more in enumerate((["--objective", "stl"], ["--objective", "vimco"], ["--learner", "wake-sleep"])):
        refused = invoke(*args, "planar", *more, "--out", tmp_path / f"{n}")
        assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1), refused.stderr
        assert refused.stderr.endswith(f"{said}\n")
        succeed(*args, "iaf", *more, "--out", tmp_path / f"{n} iaf")
    succeed(*args, "planar", "--objective", "iwae", "--out", tmp_path / "run")
    for method in ("hmc", "importance", "auto"):
        succeed(
            "encode", tmp_path / "run", tmp_path / "x.csv", "--method", method, "--out", tmp_path / "z.csv", "--quiet"
        )
    refused = invoke("evaluate", tmp_path / "run", tmp_path / "x.csv", "--method", "posterior-density", "--quiet")
    assert (refused.exit_code, said in refused.stderr) == (1, True)
    succeed("evaluate", tmp_path / "run", tmp_path / "x.csv", "--method", "importance", "--particles", "5", "--quiet")
