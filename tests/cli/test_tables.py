"""Tables from the command line: raw files in, the numbers of the library out, in the units and names of the file."""

import csv
import json
import math
import re

import numpy as np
import pytest
import torch
from cli_calls import invoke, succeed
from torch import distributions as td

from pyro_aevb import load, log_marginal_likelihood
from pyro_aevb.cli.table_numbers import central_numbers
from pyro_aevb.cli.tables import with_labels, write_codes
from pyro_aevb.datasets import Table
from pyro_aevb.datasets.columns import Column
from pyro_aevb.datasets.table import read_columns, write_cells
from pyro_aevb.evidence import elbo
from pyro_aevb.vae.columns import likelihood_of

# Networks that were hardly trained have the wrong posterior.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{words}") for words in ("the draws of", "pareto_k is above")]

N = 60
TINY = ["--hidden-dims", "6", "--latent-dim", "2", "--batch-size", "20", "--quiet"]
QUICK = ["--method", "importance", "--quiet"]
KINDS = {
    "patient": "id",
    "height": "real",
    "income": "positive",
    "visits": "count",
    "smokes": "binary",
    "region": "categorical",
    "country": "constant",
}


def cells():
    """A table of every kind, with holes in several spellings."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, N))
    found = {
        "patient": [f"p{n:03d}" for n in range(N)],
        "height": (170 + 8 * a).round(1).tolist(),
        "income": np.exp(8 + 2 * b).round(2).tolist(),
        "visits": rng.poisson(np.exp(0.5 + 0.6 * a)).tolist(),
        "smokes": np.where(b > 0, "yes", "no").tolist(),
        "region": np.array(["north", "south", "west"])[rng.integers(0, 3, N)].tolist(),
        "country": ["here"] * N,
    }
    for name, place, spelling in (("height", 3, ""), ("income", 4, "NA"), ("visits", 5, "?"), ("smokes", 6, "")):
        found[name][place] = spelling
    found["region"][3] = "n/a"
    return found


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A folder with a table and a run on it; what ``train`` said."""
    folder = tmp_path_factory.mktemp("people")
    write_cells(folder / "people.csv", cells())
    args = [each for each in TINY if each != "--quiet"]
    trained = succeed("train", folder / "people.csv", "--out", folder / "run", *args, "--epochs", "2")
    assert "these are nats of standardised numbers: evaluate gives those of the cells" in trained.stdout
    said = trained.stderr
    return folder, said, load(folder / "run").eval(), Table(cells())


def tensors(table):
    return torch.from_numpy(table.x), torch.from_numpy(table.observed)


def test_a_table_is_trained_on_as_typed(people):
    folder, said, vae, table = people
    line = said.splitlines()[0]
    assert line.startswith(f"read {folder / 'people.csv'}: 60 rows, 5 columns to model (height: real, income: positive")
    assert ", 5 of 300 cells missing; left out: patient (id), country (constant); p(x|z) by the kinds: " in line
    assert "2 Gaussian, 1 NegativeBinomial, 1 Bernoulli, 1 Categorical; nats in training are those of stand" in line
    columns = read_columns(folder / "run" / "columns.json")
    assert {column.name: column.kind for column in columns} == KINDS
    assert columns == table.columns
    assert vae.likelihood.outputs_per_dim == likelihood_of(table.modelled).outputs_per_dim


def test_kinds_that_are_said_win(people, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[columns]\nvisits = "ordered"\nregion = "id"\n')
    said = ["--column", "visits=real", "--column", "smokes=categorical", "--config", config]
    succeed("train", people[0] / "people.csv", "--out", tmp_path / "run", *TINY, "--epochs", "1", *said)
    found = {column.name: column.kind for column in read_columns(tmp_path / "run" / "columns.json")}
    assert found == KINDS | {"visits": "real", "smokes": "categorical", "region": "id"}
    result = invoke("train", people[0] / "people.csv", "--out", tmp_path / "no", "--column", "heigth=real")
    assert result.exit_code == 1
    assert "got ['heigth']; did you mean 'height'?" in result.stderr
    assert not (tmp_path / "no").exists()


# -- Numbers -----------------------------------------------------------------------------------------------------------


def test_log_p_is_that_of_the_observed_cells_in_their_units(people, tmp_path):
    folder, _, vae, table = people
    args = ["--particles", "20", "--per-row", tmp_path / "p.csv", "--json", *QUICK]
    found = succeed("evaluate", folder / "run", folder / "people.csv", *args)
    options = {"method": "importance", "num_particles": 20, "seed": 0, "progress": False}
    expected = (
        log_marginal_likelihood(vae.model, vae.guide, *tensors(table), **options).value.numpy() + table.log_scale()
    )
    assert [float(row["value"]) for row in rows_of(tmp_path / "p.csv")] == pytest.approx(expected.tolist(), rel=1e-5)
    assert [row["patient"] for row in rows_of(tmp_path / "p.csv")] == cells()["patient"]
    printed = json.loads(found.stdout)
    assert printed["value"] == pytest.approx(expected.mean().item(), rel=1e-5)
    bound = elbo(vae.model, vae.guide, *tensors(table), seed=0).value.numpy() + table.log_scale()
    assert printed["bound"]["value"] == pytest.approx(bound.mean().item(), rel=1e-5)
    assert "in the units of the file" in found.stderr


def test_another_unit_adds_its_logarithm(tmp_path):
    """The same heights in cm and in m: log p of a cell in m is larger by log(100)."""
    cm = {"height": cells()["height"], "income": cells()["income"]}
    metres = {name: [c if c in ("", "NA") else c / 100 for c in column] for name, column in cm.items()}
    values = []
    for name, columns in (("cm", cm), ("m", metres)):
        write_cells(tmp_path / f"{name}.csv", columns)
        succeed("train", tmp_path / f"{name}.csv", "--out", tmp_path / name, *TINY, "--epochs", "2")
        args = ["--particles", "10", "--per-row", tmp_path / f"{name}-p.csv", *QUICK]
        succeed("evaluate", tmp_path / name, tmp_path / f"{name}.csv", *args)
        values.append([float(row["value"]) for row in rows_of(tmp_path / f"{name}-p.csv")])
    cells_there = Table(cm).observed.sum(1)
    assert np.subtract(values[1], values[0]) == pytest.approx(math.log(100) * cells_there, abs=2e-3)


def test_scores_are_in_these_units_and_among_those_of_a_reference(people, tmp_path):
    folder, _, vae, table = people
    args = ["--particles", "20", "--reference", folder / "people.csv", *QUICK]
    succeed("score", folder / "run", folder / "people.csv", "--out", tmp_path / "s.csv", *args)
    options = {"method": "importance", "num_particles": 20, "progress": False}
    scores, usual = (
        -(log_marginal_likelihood(vae.model, vae.guide, *tensors(table), seed=seed, **options).value.numpy())
        - table.log_scale()
        for seed in (0, 1)
    )
    rows = rows_of(tmp_path / "s.csv")
    assert [float(row["score"]) for row in rows] == pytest.approx(scores, rel=1e-5)
    tail = [(1 + (usual >= score).sum()) / (1 + N) for score in scores]
    assert [float(row["tail"]) for row in rows] == pytest.approx(tail, abs=1.1 / (1 + N))
    assert rows[7]["patient"] == "p007"


def test_central_numbers_are_means_in_the_units_of_the_cells_and_most_probable_levels():
    columns = [
        Column("height", "real", 170.0, 8.0),
        Column("income", "positive", 8.0, 1.5),
        Column("visits", "count"),
        Column("smokes", "binary", levels=("no", "yes")),
        Column("region", "categorical", levels=("a", "b", "c")),
        Column("stage", "ordered", levels=("I", "II", "III", "IV")),
    ]
    torch.manual_seed(0)
    likelihood = likelihood_of(columns)
    outputs = torch.randn(7, sum(likelihood.outputs_per_dim))
    fn = likelihood(outputs)
    found = central_numbers(fn, columns).numpy()
    height, income, visits, smokes, region, stage = fn.columns
    assert columns[0].raw(found[:, 0]) == pytest.approx(170 + 8 * height.mean[:, 0].numpy())
    exact = td.LogNormal(8 + 1.5 * income.mean[:, 0], 1.5 * income.stddev[:, 0]).mean
    assert columns[1].raw(found[:, 1]) == pytest.approx(exact.numpy(), rel=1e-4)
    assert found[:, 2] == pytest.approx(visits.mean[:, 0].numpy())
    assert found[:, 3].tolist() == (outputs[:, 6] > 0).float().tolist()
    assert found[:, 4].tolist() == region.base_dist.probs[:, 0].argmax(-1).tolist()
    levels = torch.stack([stage.log_prob(torch.full((7, 1), float(level))) for level in range(4)])
    assert found[:, 5].tolist() == levels.argmax(0).tolist()
    assert smokes.event_shape == (1,)


def test_reconstructions_and_codes_have_the_names_of_the_rows(people, tmp_path):
    folder, _, vae, table = people
    for name in ("z.csv", "z.npz", "z.npy"):
        succeed("encode", folder / "run", folder / "people.csv", "--out", tmp_path / name)
    codes = vae.encode(*tensors(table)).detach()
    rows = rows_of(tmp_path / "z.csv")
    assert list(rows[0]) == ["patient", "z0", "z1"]
    assert [float(row["z1"]) for row in rows] == pytest.approx(codes[:, 1].tolist(), rel=1e-5)
    with np.load(tmp_path / "z.npz", allow_pickle=False) as file:
        assert file["patient"].tolist() == cells()["patient"]
        assert np.array_equal(file["z"], np.load(tmp_path / "z.npy"))
    succeed("reconstruct", folder / "run", folder / "people.csv", "--out", tmp_path / "r.csv")
    fn = vae.likelihood(vae.decoder(codes))
    expected = table.rows(central_numbers(fn, table.modelled).detach().numpy())
    rows = rows_of(tmp_path / "r.csv")
    assert list(rows[0]) == list(KINDS)
    for name, column in expected.items():
        exact = KINDS[name] not in ("real", "positive")
        assert [row[name] if exact else float(row[name]) for row in rows] == (
            list(map(str, column)) if exact else pytest.approx(column, rel=1e-4)
        )
    succeed("reconstruct", folder / "run", folder / "people.csv", "--out", tmp_path / "r.npy")
    assert np.load(tmp_path / "r.npy")[:, 0] == pytest.approx(expected["height"], rel=1e-4)


def test_samples_are_rows_of_the_table(people, tmp_path):
    folder = people[0]
    for more in ([], ["--mean"]):
        succeed("sample", folder / "run", "-n", "30", "--out", tmp_path / "s.csv", *more)
        rows = rows_of(tmp_path / "s.csv")
        assert list(rows[0]) == [name for name in KINDS if name != "patient"]
        assert len(rows) == 30
        assert {row["country"] for row in rows} == {"here"}
        assert {row["smokes"] for row in rows} <= {"no", "yes"}
        assert {row["region"] for row in rows} <= {"north", "south", "west"}
        assert all(int(row["visits"]) >= 0 and float(row["income"]) > 0 for row in rows)
        assert 120 < np.mean([float(row["height"]) for row in rows]) < 220


def test_holes_are_filled_in_and_the_rest_stays(people, tmp_path):
    folder, _, vae, table = people
    args = ["--interval", "0.8", *QUICK]
    succeed("impute", folder / "run", folder / "people.csv", "--out", tmp_path / "f.csv", *args)
    rows, before = rows_of(tmp_path / "f.csv"), cells()
    assert list(rows[0]) == [
        *KINDS, "height low", "income low", "visits low", "height high", "income high", "visits high"
    ]  # fmt: skip
    place = {column.name: d for d, column in enumerate(table.modelled)}
    for name, column in before.items():
        for n, row in enumerate(rows):
            if name not in place or table.observed[n, place[name]]:
                assert row[name] == str(column[n])
                assert row.get(f"{name} low", row[name]) == row.get(f"{name} high", row[name]) == row[name]
    found = vae.impute(*tensors(table), method="importance", num_draws=100, seed=0, progress=False)
    height, income = table.modelled[:2]
    assert float(rows[3]["height"]) == pytest.approx(float(height.raw(found.mean[3, 0].numpy())), rel=1e-5)
    draws = np.exp(found.draws[:, 4, 1].numpy().astype(float) * income.scale + income.loc)
    assert float(rows[4]["income"]) == pytest.approx(draws.mean(), rel=1e-5)
    assert float(rows[4]["income low"]) == pytest.approx(np.quantile(draws, 0.1, method="weibull"), rel=0.05)
    assert rows[5]["visits"] == str(round(found.mean[5, 2].item()))
    assert rows[6]["smokes"] == ["no", "yes"][int(found.mode[6, 3])]
    assert rows[3]["region"] == ["north", "south", "west"][int(found.mode[3, 4])]
    succeed("impute", folder / "run", folder / "people.csv", "--out", tmp_path / "f.npz", "--draws", "4", *args)
    with np.load(tmp_path / "f.npz") as file:
        assert file["draws"].shape == (4, N, 5)
        assert file["draws"][:, 4, 1] == pytest.approx(draws[:4], rel=1e-5)
        assert file["x"][4, 1] == pytest.approx(draws.mean(), rel=1e-5)
        assert file["x"][0, :2] == pytest.approx([before["height"][0], before["income"][0]], rel=1e-5)
        ess = found.posterior.effective_sample_size[4].item()
        assert file["standard_error"][4, 1] == pytest.approx(draws.std() / (ess - 1) ** 0.5, rel=1e-5)
        assert file["standard_error"][3, 0] == pytest.approx(found.standard_error[3, 0].item() * height.scale, rel=1e-5)
        assert np.isnan(file["low"][3, 4])
    # What was filled in is read again without a hole.
    succeed("encode", folder / "run", tmp_path / "f.csv", "--out", tmp_path / "z.csv")
    for fill in ("mode", "draw"):
        succeed("impute", folder / "run", folder / "people.csv", "--out", tmp_path / "m.csv", "--fill", fill, *QUICK)
        assert Table.read(tmp_path / "m.csv", columns=table.columns).observed.all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.csv", "x.npy"])
def test_observed_cells_lose_no_digit(name, tmp_path):
    """Float32 has 7: of 1.5 beside millions nearly none are left."""
    x = np.random.default_rng(0).standard_normal((N, 2)) * [1e6, 1]
    x[0, 0], x[1, 1] = 1.5, np.nan
    if name == "x.npy":
        np.save(tmp_path / name, x)
    else:
        write_cells(tmp_path / name, {f"x{d}": [None if np.isnan(c) else c for c in x[:, d].tolist()] for d in (0, 1)})
    succeed("train", tmp_path / name, "--out", tmp_path / "run", *TINY, "--epochs", "1")
    for out in ("f.npy", "f.npz", "f.csv"):
        args = ["--interval", "0.8", *QUICK] if out != "f.npy" else QUICK
        succeed("impute", tmp_path / "run", tmp_path / name, "--out", tmp_path / out, *args)
    there = ~np.isnan(x)
    assert np.array_equal(np.load(tmp_path / "f.npy")[there], x[there])
    with np.load(tmp_path / "f.npz") as file:
        for found in ("x", "low", "high"):
            assert np.array_equal(file[found][there], x[there])
    first = rows_of(tmp_path / "f.csv")[0]
    assert [float(first[each]) for each in ("x0", "x1")] == x[0].tolist()


def test_a_table_is_freed_of_noise_in_the_units_of_its_cells(tmp_path):
    whole = {name: [c for c in cells()[name] if isinstance(c, float)][:50] for name in ("height",)}
    whole["weight"] = [0.4 * c + n % 7 for n, c in enumerate(whole["height"])]
    write_cells(tmp_path / "x.csv", whole)
    succeed("train", tmp_path / "x.csv", "--out", tmp_path / "run", *TINY, "--epochs", "2")
    args = ["--noise", "gaussian:4", *QUICK]
    succeed("denoise", tmp_path / "run", tmp_path / "x.csv", "--out", tmp_path / "d.csv", *args)
    vae, table = load(tmp_path / "run").eval(), Table(whole)
    scale = torch.tensor([4 / column.scale for column in table.modelled])
    law = lambda clean: td.Independent(td.Normal(clean, scale), 1)  # noqa: E731
    found = vae.denoise(torch.from_numpy(table.x), law, method="importance", seed=0, progress=False)
    expected = table.modelled[1].raw(found.mean[:, 1].numpy())
    assert [float(row["weight"]) for row in rows_of(tmp_path / "d.csv")] == pytest.approx(expected, rel=1e-4)
    whole["weight"][3] = ""
    write_cells(tmp_path / "holes.csv", whole)
    refused = invoke("denoise", tmp_path / "run", tmp_path / "holes.csv", "--out", tmp_path / "no.csv", *args)
    assert refused.exit_code == 1
    assert "without missing cells to denoise, got some; fill them in first, by impute" in refused.stderr
    succeed("impute", tmp_path / "run", tmp_path / "holes.csv", "--out", tmp_path / "filled.csv", *QUICK)
    succeed("denoise", tmp_path / "run", tmp_path / "filled.csv", "--out", tmp_path / "d.csv", *args)


def test_an_array_of_real_numbers_is_a_table_without_names(tmp_path):
    rng = np.random.default_rng(0)
    x = np.stack([1000 + 50 * rng.standard_normal(N), rng.standard_normal(N) / 100, np.full(N, 7.0)], 1)
    x[4, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    args = ["--epochs", "2", "--validation", "0.2", *[each for each in TINY if each != "--quiet"]]
    said = succeed("train", tmp_path / "x.npy", "--out", tmp_path / "run", *args).stderr
    assert "; real numbers, 1 of 120 cells missing; p(x|z) by the kinds: gaussian; nats in training" in said
    table = Table({f"x{d}": x[:, d] for d in range(3)}, {"x0": "real", "x1": "real"})
    assert read_columns(tmp_path / "run" / "columns.json") == table.columns
    per_row = ["--part", "all", "--particles", "10", "--per-row", tmp_path / "p.csv", *QUICK]
    succeed("evaluate", tmp_path / "run", tmp_path / "x.npy", *per_row)
    vae = load(tmp_path / "run").eval()
    options = {"method": "importance", "num_particles": 10, "seed": 0, "progress": False}
    expected = (
        log_marginal_likelihood(vae.model, vae.guide, *tensors(table), **options).value.numpy() + table.log_scale()
    )
    assert [float(row["value"]) for row in rows_of(tmp_path / "p.csv")] == pytest.approx(expected.tolist(), rel=1e-4)
    succeed("impute", tmp_path / "run", tmp_path / "x.npy", "--out", tmp_path / "f.csv", *QUICK)
    rows = rows_of(tmp_path / "f.csv")
    assert list(rows[0]) == ["x0", "x1", "x2"]
    assert [float(row["x0"]) for row in rows] == x[:, 0].tolist()
    assert rows[0]["x2"] == "7.0"
    there = np.ones(x.shape)
    there[:5, 0] = 0
    np.save(tmp_path / "mask.npy", there)
    np.save(tmp_path / "holes.npy", np.where(there == 1, x, np.nan))
    for name, more in (("x", ["--observed", tmp_path / "mask.npy"]), ("holes", [])):
        succeed("impute", tmp_path / "run", tmp_path / f"{name}.npy", *more, "--out", tmp_path / f"{name}.csv", *QUICK)
    assert (tmp_path / "x.csv").read_text() == (tmp_path / "holes.csv").read_text()
    assert [float(row["x0"]) for row in rows_of(tmp_path / "x.csv")][5:] == x[5:, 0].tolist()
    masked = "impute", tmp_path / "run", tmp_path / "x.npy", "--observed", tmp_path / "mask.npy", *QUICK
    result = invoke(*masked, "--part", "validation", "--out", tmp_path / "x.csv")  # whose rows are others
    assert "expected all rows for --observed, got --part validation; leave it out" in result.stderr
    np.save(tmp_path / "y.npy", x[:, :2])
    result = invoke("encode", tmp_path / "run", tmp_path / "y.npy", "--out", tmp_path / "z.npy")
    assert "expected 3 columns, as the model has, got 2" in result.stderr
    np.savetxt(tmp_path / "x.csv", x, delimiter=",")  # without names
    codes = []
    for name in ("x.npy", "x.csv"):
        succeed("encode", tmp_path / "run", tmp_path / name, "--out", tmp_path / "z.npy")
        codes.append(np.load(tmp_path / "z.npy"))
    np.testing.assert_allclose(*codes, rtol=1e-5)


# -- Other files -------------------------------------------------------------------------------------------------------


def test_the_order_and_the_format_of_a_file_do_not_matter(people, tmp_path):
    folder, _, vae, table = people
    codes = vae.encode(*tensors(table)).detach().numpy()
    turned = dict(reversed(cells().items())) | {"new": list(range(N))}
    names = ["x.csv", "x.tsv"]
    for name in names:
        write_cells(tmp_path / name, turned)
    (tmp_path / "x.txt").write_text((tmp_path / "x.tsv").read_text())
    names.append("x.txt")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        pass
    else:
        plain = {name: [None if c in ("", "NA", "?", "n/a") else c for c in column] for name, column in turned.items()}
        parquet.write_table(pyarrow.table(plain), tmp_path / "x.parquet")
        names.append("x.parquet")
    for name in names:
        result = succeed("encode", folder / "run", tmp_path / name, "--out", tmp_path / "z.npy")
        np.testing.assert_allclose(np.load(tmp_path / "z.npy"), codes, rtol=1e-4, atol=1e-6)
        assert "60 rows; left out, since the model doesn't know it: new" in result.stderr
    some = {name: column[5:7] for name, column in turned.items() if name not in ("patient", "country")}
    write_cells(tmp_path / "few.csv", some)
    succeed("encode", folder / "run", tmp_path / "few.csv", "--out", tmp_path / "z.csv")
    assert list(rows_of(tmp_path / "z.csv")[0]) == ["z0", "z1"]


REFUSED = {
    "a column less": (lambda c: c.pop("visits"), "expected a table with the columns ['visits'], got one with"),
    "an unknown level": (
        lambda c: c.update(region=["moon"] * N),
        "expected a level out of ['north', 'south', 'west'] in column 'region', got 'moon'",
    ),
    "no number": (lambda c: c.update(height=["tall"] * N), "expected a number in column 'height', which is real"),
    "no count": (lambda c: c.update(visits=[1.5] * N), "expected a whole number from 0 to 2^24 in column 'visits'"),
    "below 0": (lambda c: c.update(income=[-1] * N), "expected a number above 0 in column 'income'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_does_not_fit_is_one_sentence(name, people, tmp_path):
    change, message = REFUSED[name]
    changed = cells()
    change(changed)
    write_cells(tmp_path / "x.csv", changed)
    for command, *args in (["encode", "--out"], ["evaluate", "--per-row"], ["impute", "--out"], ["score", "--out"]):
        result = invoke(command, people[0] / "run", tmp_path / "x.csv", *args, tmp_path / "z.csv")
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert {path.name for path in tmp_path.iterdir()} == {"x.csv"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["encode", "{f}/x.npy", "--out", "{t}/z.csv"], "expected a table (.csv, .tsv, .txt, .parquet) with the col"),
        (["encode", "digits", "--out", "{t}/z.csv"], "with the columns ['patient', 'height'"),
        (["impute", "{f}/people.csv", "--observed", "{f}/x.npy", "--out", "{t}/z.csv"], "whose missing cells are emp"),
        (
            ["impute", "{f}/people.csv", "--out", "{t}/z.png"],
            "expected images to make a picture of, got a table; write",
        ),
        (["denoise", "{f}/people.csv", "--noise", "flips:0.1", "--out", "{t}/z.csv"], "expected binary columns alone"),
        (["denoise", "{t}/w.csv", "--noise", "gaussian:1", "--out", "{t}/z.csv"], "expected real columns alone for"),
        (["encode", "{f}/people.csv", "--pixels", "static", "--out", "{t}/z.csv"], "expected no --pixels for a table"),
        (["reconstruct", "{f}/people.csv", "--out", "{t}/z.png"], "expected images to make a picture of, got a table"),
        (["encode", "{t}/none.csv", "--out", "{t}/z.csv"], "which isn't there"),
    ],
)
def test_what_a_table_can_not_be_used_for_is_one_sentence(args, message, people, tmp_path):
    folder = people[0]
    np.save(folder / "x.npy", np.ones((2, 5)))
    whole = cells()
    for name, column in whole.items():
        whole[name] = [column[0] if cell in ("", "NA", "?", "n/a") else cell for cell in column]
    write_cells(tmp_path / "w.csv", whole)
    command, *rest = (each.format(f=folder, t=tmp_path) for each in args)
    result = invoke(command, folder / "run", *rest)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: expected")
    assert message in result.stderr.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"w.csv"}


def test_simulated_rows_have_no_units(people):
    result = invoke("evaluate", people[0] / "run", people[0] / "people.csv", "--method", "bdmc")
    assert result.exit_code == 2
    assert "expected --chain beside --method bdmc for a table" in " ".join(result.stderr.split())


def test_columns_that_were_tampered_with_are_refused(people, tmp_path):
    import shutil

    shutil.copytree(people[0] / "run", tmp_path / "run")
    path = tmp_path / "run" / "columns.json"
    path.write_text(path.read_text().replace('"real"', '"unreal"'))
    result = invoke("encode", tmp_path / "run", people[0] / "people.csv", "--out", tmp_path / "z.csv")
    assert "error: expected columns as write_columns writes them" in result.stderr


# -- Other runs --------------------------------------------------------------------------------------------------------


def test_a_run_on_a_table_holds_rows_out_and_goes_on(people, tmp_path):
    data = people[0] / "people.csv"
    more = ["--validation", "0.25", "--keep-best", "--schedule", "constant", "--epochs"]
    succeed("train", data, "--out", tmp_path / "run", *TINY, *more, "2")
    succeed("train", "--out", tmp_path / "part", data, *TINY, *more, "1")
    succeed("train", "--out", tmp_path / "part", "--resume", "--epochs", "2", "--quiet")
    parts = [next((tmp_path / name).glob("weights-*")).name for name in ("run", "part")]
    assert parts[0] == parts[1]
    found = succeed("evaluate", tmp_path / "run", data, "--particles", "5", "--json", *QUICK)
    assert json.loads(found.stdout)["datapoints"] == 15
    assert "60 rows; of these the 15 that were held out" in found.stderr
    rows = rows_of(data)
    order = sorted(range(N), key=lambda n: rows[n]["income"])
    moved = tmp_path / "people.csv"
    write_cells(moved, {name: [cells()[name][n] for n in range(N)] for name in reversed(KINDS)})
    config = tmp_path / "run" / "config.toml"
    config.write_text(re.sub("(?m)^data = .*", 'data = "../people.csv"', config.read_text()))
    found = succeed("evaluate", tmp_path / "run", moved, "--particles", "5", *QUICK)  # in another order of columns
    assert "60 rows; of these the 15 that were held out" in found.stderr
    write_cells(moved, {name: [cells()[name][n] for n in order] for name in KINDS})
    found = invoke("evaluate", tmp_path / "run", moved, *QUICK)
    assert "got as many others; put the file back, or pass --part all for all of them" in found.stderr
    succeed("evaluate", tmp_path / "run", moved, "--particles", "5", "--part", "all", *QUICK)
    succeed("train", data, "--out", tmp_path / "file", *TINY, "--validation", data, "--epochs", "1")


@pytest.mark.parametrize("more", [["--learner", "wake-sleep"], ["--learner", "mcem"], ["--full-vb"]])
def test_other_learners_train_on_a_table_with_holes(more, people, tmp_path):
    data = people[0] / "people.csv"
    succeed("train", data, "--out", tmp_path / "run", *TINY, "--epochs", "1", *more)
    succeed("evaluate", tmp_path / "run", data, "--particles", "3", "--limit", "5", *QUICK)
    succeed("reconstruct", tmp_path / "run", data, "--out", tmp_path / "r.csv")


def test_compare_takes_a_table(people, tmp_path):
    args = ["--epochs", "1", "--learners", "aevb,wake-sleep", "--out", tmp_path / "c.png"]
    assert "wake-sleep" in succeed("compare", people[0] / "people.csv", *TINY, *args).stdout


def test_a_table_is_reconstructed_from_all_layers_of_latents(people, tmp_path):
    """Each layer at its code, so that nothing is drawn: p(x|z) at E[z|x], whatever the random state."""
    folder, _, _, table = people
    args = [each for each in TINY if each not in ("--latent-dim", "2")]
    succeed("train", folder / "people.csv", "--out", tmp_path / "run", *args, "--latent-dim", "2,1", "--epochs", "2")
    vae = load(tmp_path / "run").eval()
    assert vae.latent_dims == (2, 1)
    state = torch.get_rng_state()
    succeed("reconstruct", tmp_path / "run", folder / "people.csv", "--out", tmp_path / "r.npy")
    assert torch.equal(torch.get_rng_state(), state)
    codes = vae.encode(*tensors(table), seed=0)
    expected = central_numbers(vae.likelihood(vae.decoder(codes)), table.modelled)[:, 0].detach().numpy()
    assert np.load(tmp_path / "r.npy")[:, 0] == pytest.approx(table.modelled[0].raw(expected), rel=1e-5)


def test_a_manifold_of_a_table_is_refused_with_what_works_instead(people, tmp_path):
    result = invoke("manifold", people[0] / "run", "--out", tmp_path / "m.png")
    assert (
        "error: expected a model of images for a manifold, got one of a table; use encode, or sample" in result.stderr
    )
    succeed("encode", people[0] / "run", people[0] / "people.csv", "--out", tmp_path / "z.csv")


WRONG = [["--epochs", "0"], ["--batch-size", "0"], ["--clip-norm", "-1"], ["--evaluate-every", "0"]]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_run_that_never_began_leaves_its_folder_free(wrong, tmp_path):
    """The line that is mended may be run as it is."""
    write_cells(tmp_path / "people.csv", cells())
    line = ["train", tmp_path / "people.csv", "--validation", "0.2", *TINY]
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "run", tmp_path / "empty"):
        result = invoke(*line, *wrong, "--out", out)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("error: expected ")
    assert not (tmp_path / "run").exists()
    assert list((tmp_path / "empty").iterdir()) == []
    succeed(*line, "--out", tmp_path / "run", "--epochs", "1")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_numpy_has_not(seed, people, tmp_path):
    out = tmp_path / "z.csv"
    result = invoke("train", people[0] / "people.csv", "--out", tmp_path / "no", "--seed", seed)
    assert f"expected a seed from 0 to 2^32 - 1, got {seed}; pass another" in result.stderr
    for command in (["sample"], ["encode", people[0] / "people.csv"]):
        result = invoke(command[0], people[0] / "run", *command[1:], "--out", out, "--seed", seed)
        assert (result.exit_code, out.exists()) == (2, False)
        assert "Invalid value for '--seed'" in result.stderr


@pytest.mark.parametrize("more", [[], ["--likelihood", "gaussian"]])
def test_ends_of_intervals_take_no_columns_place(more, tmp_path):
    rng = np.random.default_rng(0)
    price = rng.normal(100, 10, 40)
    own = {"price": price, "price low": price - 5 - rng.random(40), "price high": price + 5 + rng.random(40)}
    write_cells(tmp_path / "whole.csv", {name: column.tolist() for name, column in own.items()})
    holes = [None if n % 10 == 0 else cell for n, cell in enumerate(price.tolist())]
    write_cells(tmp_path / "holes.csv", {name: column.tolist() for name, column in own.items()} | {"price": holes})
    succeed("train", tmp_path / "whole.csv", "--out", tmp_path / "run", *more, *TINY, "--epochs", "1")
    args = "impute", tmp_path / "run", tmp_path / "holes.csv", *QUICK
    refused = invoke(*args, "--out", tmp_path / "f.csv", "--interval", "0.9")
    assert refused.exit_code == 1
    assert not (tmp_path / "f.csv").exists()
    assert "got ['price high', 'price low'] in the table; write an .npz, or leave --interval out" in refused.stderr
    succeed(*args, "--out", tmp_path / "f.npz", "--interval", "0.9")
    with np.load(tmp_path / "f.npz") as file:
        assert file["x"][:, 1] == pytest.approx(own["price low"])
        assert (file["low"][::10, 0] < file["high"][::10, 0]).all()
    succeed(*args, "--out", tmp_path / "f.csv")
    rows = rows_of(tmp_path / "f.csv")
    assert [float(row["price low"]) for row in rows] == pytest.approx(own["price low"].tolist())


def test_names_of_rows_take_no_columns_place():
    labels = {name: np.array([name]) for name in ("z0", "z0 (id)", "z1 (id)")}
    found = with_labels(labels, {"z0": np.zeros(1), "z1": np.ones(1)})
    assert {name: each[0] for name, each in found.items()} == {
        "z0 (id)": "z0", "z0 (id) (id)": "z0 (id)", "z1 (id)": "z1 (id)", "z0": 0, "z1": 1
    }  # fmt: skip


def test_the_order_of_levels_is_said_and_printed(tmp_path):
    sizes = ["low", "medium", "high", "very high"] * 10
    write_cells(tmp_path / "x.csv", {"a<=b": sizes, "w": np.linspace(0.5, 1, 40).tolist()})
    args = "train", tmp_path / "x.csv", *[each for each in TINY if each != "--quiet"], "--epochs", "1", "--column"
    refused = invoke(*args, "a<=b=ordered", "--out", tmp_path / "run")
    assert "say it, the lowest first, as its kind: 'ordered:high,low,medium,very high'" in refused.stderr
    said = succeed(*args, "a<=b=ordered:low,medium,high,very high", "--out", tmp_path / "run").stderr
    assert "a<=b: ordered, low < medium < high < very high" in said
    assert read_columns(tmp_path / "run" / "columns.json")[0].levels == tuple(sizes[:4])
    assert "ordered:low,medium,high,very high" in (tmp_path / "run" / "config.toml").read_text()
    succeed("train", "--out", tmp_path / "run", "--resume", "--epochs", "2", "--quiet")
    wrong = invoke(*args, "w=count:1,2", "--out", tmp_path / "other")
    assert "got 'count:1,2'" in wrong.stderr


def in_other_units(found):
    return found | {"height": [100 * cell + 50 if isinstance(cell, float) else cell for cell in found["height"]]}


def with_a_level_renamed(found):
    return found | {"region": [cell.replace("north", "nadir") for cell in found["region"]]}


def with_a_column_renamed(found):
    return {{"height": "size"}.get(name, name): column for name, column in found.items()}


@pytest.mark.parametrize("change", [in_other_units, with_a_level_renamed, with_a_column_renamed])
def test_a_run_goes_on_with_the_units_and_the_levels_that_it_began_with(change, tmp_path):
    """The numbers of a table in other units are the same, and its columns.json would have the old ones."""
    data = tmp_path / "people.csv"
    write_cells(data, cells())
    more = ["--schedule", "constant", "--validation", "0.2"]
    succeed("train", data, "--out", tmp_path / "run", *TINY, *more, "--epochs", "1")
    write_cells(data, change(cells()))
    resume = "train", "--out", tmp_path / "run", "--resume", "--epochs", "2", "--quiet"
    result = invoke(*resume)
    assert result.exit_code == 1
    assert re.search("got column '(height|region|size)' as .* in place of .*Column", result.stderr)
    assert "put it back as it was, or train anew in another --out" in result.stderr
    succeed("train", data, "--out", tmp_path / "anew", *TINY, *more, "--epochs", "1")
    write_cells(data, cells())
    succeed(*resume)


def test_an_npz_has_names_of_rows_that_numpy_has_arguments_of(tmp_path):
    write_codes(tmp_path / "z.npz", np.zeros((1, 2)), {"file": np.array(["a"])})
    with np.load(tmp_path / "z.npz") as file:
        assert (sorted(file), file["file (id)"].tolist()) == (["file (id)", "z"], ["a"])
