"""A table's columns: what they are taken for, their numbers, and the way back."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from frames import Frame

from pyro_aevb.datasets import Table, read_array
from pyro_aevb.datasets.columns import Column, make_column
from pyro_aevb.datasets.table import read_columns, write_cells, write_columns

N = 60
GENERATOR = np.random.default_rng(0)
MIXED = {
    "patient": [f"p{n:03d}" for n in range(N)],
    "row": list(range(5, 5 + N)),
    "height": (170 + 10 * GENERATOR.standard_normal(N)).round(1).tolist(),
    "income": np.exp(8 + 2 * GENERATOR.standard_normal(N)).tolist(),
    "visits": GENERATOR.poisson(3, N).tolist(),
    "year": (1950 + GENERATOR.integers(0, 60, N)).tolist(),
    "smokes": GENERATOR.choice(["no", "yes"], N).tolist(),
    "coded": GENERATOR.choice([1, 2], N).tolist(),
    "region": GENERATOR.choice(["north", "south", "west"], N).tolist(),
    "country": ["here"] * N,
}
FOUND = {
    "patient": "id",
    "row": "id",
    "height": "real",
    "income": "positive",
    "visits": "count",
    "year": "real",
    "smokes": "binary",
    "coded": "binary",
    "region": "categorical",
    "country": "constant",
}
SPELLINGS = ["", " ", "NA", "n/a", "NaN", "null", "None", "?", "-", ".", "missing", None, math.nan]


def kinds(table):
    return {column.name: column.kind for column in table.columns}


def test_kinds_are_found_by_the_cells():
    table = Table(MIXED)
    assert kinds(table) == FOUND
    assert [column.name for column in table.modelled] == [n for n, k in FOUND.items() if k not in ("id", "constant")]
    assert (table.x.dtype, table.x.shape, table.observed.all()) == (np.float32, (N, 7), True)


def test_kinds_that_are_said_win():
    said = {"visits": "ordered", "coded": "count", "patient": "categorical", "year": "id", "region": "categorical"}
    assert kinds(Table(MIXED, said)) == FOUND | said


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ["height", "visits", "smokes", "region", "income"])
def test_a_cell_may_be_missing_in_any_spelling(name, spelling):
    cells = {name: [*MIXED[name][:20], spelling, *MIXED[name][21:]]}
    table = Table(cells)
    assert kinds(table) == {name: FOUND[name]}
    assert table.observed[:, 0].tolist() == [n != 20 for n in range(N)]
    assert table.x[20, 0] == 0
    assert table.rows(np.where(table.observed, table.x, np.nan))[name][20] is None


def test_numbers_are_standardised_and_come_back():
    table = Table(MIXED)
    back = table.rows(table.x.astype(float))
    assert list(back) == list(MIXED)
    for name, cells in MIXED.items():
        if name in ("height", "income", "year"):
            assert back[name] == pytest.approx(cells, rel=1e-5)
        else:
            assert back[name] == [str(c) for c in cells] if FOUND[name] == "binary" else back[name] == cells
    d = [column.name for column in table.modelled].index("income")
    log = np.log(MIXED["income"])
    assert table.x[:, d] == pytest.approx((log - log.mean()) / log.std(), rel=1e-4)
    assert (np.abs(table.x.mean(0)[:2]) < 1e-6).all()


def test_cells_that_were_there_are_given_back_as_they_came():
    cells = MIXED | {"visits": [None, *MIXED["visits"][1:]], "height": [*MIXED["height"][:-1], "?"]}
    table = Table(cells)
    made = table.rows(np.zeros_like(table.x), table.observed)
    assert made["visits"] == [0, *MIXED["visits"][1:]]
    assert made["height"][:-1] == MIXED["height"][:-1]
    assert made["height"][-1] == pytest.approx(np.mean(MIXED["height"][:-1]))
    assert made["coded"] == MIXED["coded"]


def test_a_density_of_numbers_becomes_that_of_cells():
    """A real column's cells are N(loc, scale^2), a positive one's log-normal, where the numbers are N(0, 1)."""
    table = Table({name: MIXED[name] for name in ("height", "income", "visits")})
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(torch.from_numpy(table.x[:, :2])).sum(1)
    height, income, _ = table.modelled
    exact = torch.distributions.Normal(height.loc, height.scale).log_prob(torch.tensor(MIXED["height"]))
    exact = exact + torch.distributions.LogNormal(income.loc, income.scale).log_prob(torch.tensor(MIXED["income"]))
    found = standard.double() + torch.from_numpy(table.log_scale())
    torch.testing.assert_close(found, exact.double(), atol=2e-4, rtol=0)


def test_a_later_table_is_read_by_the_columns_of_the_first(tmp_path):
    table = Table(MIXED)
    write_columns(tmp_path / "columns.json", table.columns)
    columns = read_columns(tmp_path / "columns.json")
    assert columns == table.columns
    few = {name: cells[:7] for name, cells in MIXED.items() if name not in ("patient", "country")} | {"new": [0] * 7}
    later = Table(few, columns=columns)
    assert np.array_equal(later.x, table.x[:7])
    assert later.rows(later.x)["patient"] == [None] * 7
    with pytest.raises(ValueError, match=r"expected a table with the columns \['smokes'\], got one with .*'new'"):
        Table({name: cells for name, cells in few.items() if name != "smokes"}, columns=columns)
    with pytest.raises(ValueError, match=r"a level out of \['north', 'south', 'west'\] in column 'region', got 'moon'"):
        Table(few | {"region": ["moon"] * 7}, columns=columns)
    assert not Table(few | {"region": [None] * 7}, columns=columns).observed[:, -1].any()  # the remedy
    good = (tmp_path / "columns.json").read_text()
    for text in ("[1]", "{}", good.replace('"count"', '"float"'), good.replace('"scale": 1.0', '"scale": 0.0')):
        (tmp_path / "columns.json").write_text(text)
        with pytest.raises(ValueError, match="expected columns as write_columns writes them"):
            read_columns(tmp_path / "columns.json")


@pytest.mark.parametrize(
    ("suffix", "separator", "point"), [(".csv", ",", "."), (".csv", ";", ","), (".tsv", "\t", "."), (".txt", "\t", ".")]
)
def test_files_of_all_separators_give_one_table(suffix, separator, point, tmp_path):
    path = tmp_path / f"people{suffix}"
    rows = [[str(cell).replace(".", point) for cell in row] for row in zip(*MIXED.values(), strict=True)]
    rows[3][2] = ""
    path.write_text("\n".join(separator.join(row) for row in [list(MIXED), *rows]) + "\n")
    table, direct = Table.read(path), Table(MIXED | {"height": [*MIXED["height"][:3], None, *MIXED["height"][4:]]})
    assert kinds(table) == FOUND
    assert table.x == pytest.approx(direct.x, abs=1e-6)
    assert np.array_equal(table.observed, direct.observed)


def test_a_table_that_was_written_is_read_again(tmp_path):
    table = Table(MIXED)
    for name in ("x.csv", "x.tsv"):
        write_cells(tmp_path / name, table.rows(np.where(table.x > 1.5, np.nan, table.x)))
        again = Table.read(tmp_path / name, columns=table.columns)
        assert np.array_equal(again.observed, table.x <= 1.5)
        assert again.x[again.observed] == pytest.approx(table.x[again.observed], abs=1e-5)


def test_frames_and_arrow_tables_are_tables():
    class Columns(Frame):
        def __init__(self):
            super().__init__(None)
            self.columns = list(MIXED)

        def __getitem__(self, name):
            return MIXED[name]

    class ArrowTable:
        def to_pydict(self):
            return MIXED

    for frame in (Columns(), ArrowTable()):
        assert np.array_equal(Table(frame).x, Table(MIXED).x)
    with pytest.raises(TypeError, match="expected columns by name or a frame, got int"):
        Table(3)


def test_frames_of_pandas_and_polars_and_arrow_are_tables():
    pandas, polars, pyarrow = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    cells = MIXED | {"height": [None, *MIXED["height"][1:]], "smokes": [*MIXED["smokes"][:-1], None]}
    plain = Table(cells)
    for frame in (pandas.DataFrame(cells), polars.DataFrame(cells), pyarrow.table(cells)):
        table = Table(frame)
        assert np.array_equal(table.x, plain.x)
        assert np.array_equal(table.observed, plain.observed)
        assert table.columns == plain.columns


def test_what_pandas_has_for_a_missing_cell_is_one():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": pandas.array([1, None, 7, 4], dtype="Int64"), "h": [1.5, 2.5, None, 3.0]})
    table = Table(frame)
    assert table.observed.tolist() == [[True, True], [False, True], [True, False], [True, True]]
    with pytest.raises(ValueError, match=r"expected different names of columns, got \['a', 'a'\]; rename them"):
        Table(pandas.DataFrame(np.eye(2), columns=["a", "a"]))


def test_masked_cells_are_missing():
    table = Table({"a": np.ma.array([1.5, 2.0, 9.0, 4.0], mask=[0, 1, 0, 0])})
    assert table.observed[:, 0].tolist() == [True, False, True, True]
    assert table.columns[0].loc == pytest.approx(np.mean([1.5, 9.0, 4.0]))


def test_columns_that_are_no_cells_are_refused():
    for column in (np.eye(3), "abc", 5):
        with pytest.raises(TypeError, match=r"expected cells in column 'a', one a row, got .*; write a list of them"):
            Table({"a": column})


def test_a_later_table_without_a_cell_in_a_column_is_printed():
    columns = Table({"a": [1.5, 2.5, 4.0], "b": [1, 2, 5]}).columns
    assert "a  real   no cell, 2 missing" in str(Table({"a": [None, None], "b": [1, None]}, columns=columns))


def test_imputed_cells_are_means_in_raw_units_and_most_frequent_levels():
    """Draws 0, 0, 2 of a level: no mean, 2/3, which would be "b"; e^0 and e^2 of a positive cell, no geometric mean."""
    cells = {
        "c": ["a", "b", "c", None],
        "w": [0.5, 1.0, 2.0, None],
        "n": [0, 7, 12, None],
        "b": ["no", "yes", "no", None],
    }
    table = Table(cells, kinds={"c": "categorical", "w": "positive", "n": "count"})
    draws = torch.tensor(table.x).double().expand(3, 4, 4).clone()
    w = table.modelled[1]
    draws[:, 3, 0] = torch.tensor([0.0, 0.0, 2.0])
    draws[:, 3, 1] = (torch.tensor([0.0, 0.0, 2.0]) - w.loc) / w.scale
    draws[:, 3, 2] = torch.tensor([1.0, 1.0, 5.0])
    draws[:, 3, 3] = torch.tensor([0.0, 1.0, 1.0])
    made = SimpleNamespace(draws=draws, mean=draws.mean(0), mode=draws.mode(0).values)
    filled = table.filled(made)
    assert [filled[name][:3] for name in cells] == [column[:3] for column in cells.values()]
    assert (filled["c"][3], filled["n"][3], filled["b"][3]) == ("a", 2, "yes")
    assert filled["w"][3] == pytest.approx((2 + math.e**2) / 3)
    assert table.filled(made, "mode")["n"][3] == 1
    assert table.filled(made, "draw")["b"][3] == "no"
    arrays = SimpleNamespace(draws=draws.numpy(), mean=draws.mean(0).numpy(), mode=draws.mode(0).values.numpy())
    assert table.filled(arrays) == filled
    with pytest.raises(ValueError, match=r"expected fill out of \['mean', 'mode', 'draw'\], got 'median'; .*'mean'"):
        table.filled(made, "median")
    with pytest.raises(ValueError, match=r"the places of levels, in column 'c', .* got 0\.6667; Table\.filled\(impute"):
        table.rows(made.mean.numpy(), table.observed)


def test_arrays_of_numbers_are_columns():
    x = np.array([[1.5, 2], [np.nan, 2], [2.5, 2]], dtype=np.float32)
    table = Table({"a": x[:, 0], "b": x[:, 1]}, {"a": "real"})
    same = Table({"a": [1.5, None, 2.5], "b": [2.0, 2.0, 2.0]}, {"a": "real"})
    assert (table.columns, table.x.tolist()) == (same.columns, same.x.tolist())
    assert table.observed[:, 0].tolist() == [True, False, True]
    assert table.rows(table.x, table.observed) == {"a": [1.5, 2.0, 2.5], "b": [2.0, 2.0, 2.0]}
    with pytest.raises(ValueError, match=r"expected a number in column 'a', which is real, got .*inf"):
        Table({"a": np.array([1.0, np.inf, 2.0])}, {"a": "real"})


def test_some_rows_are_a_table_of_their_own():
    table = Table(MIXED)
    some = table.take(np.array([7, 3]))
    assert np.array_equal(some.x, table.x[[7, 3]])
    assert some.cells["patient"] == ["p007", "p003"]
    assert some.columns == table.columns


def test_blanks_between_the_cells_of_a_txt(tmp_path):
    x = np.random.default_rng(0).standard_normal((9, 3))
    np.savetxt(tmp_path / "x.txt", x)
    assert pytest.approx(x) == np.array(list(Table.read(tmp_path / "x.txt").cells.values()), float).T
    assert read_array(tmp_path / "x.txt") == pytest.approx(x, rel=1e-6)
    np.savetxt(tmp_path / "x.txt", x, header="a b c", fmt="%12.8f")
    assert Table.read(tmp_path / "x.txt").columns[2].name == "c"
    assert read_array(tmp_path / "x.txt") == pytest.approx(x, abs=1e-6)


def test_a_file_without_names_is_read_whole(tmp_path):
    (tmp_path / "x.csv").write_text("1.5,2\n2.5,\n3.7,9\n4.5,4\n")
    table = Table.read(tmp_path / "x.csv")
    assert [column.name for column in table.columns] == ["x0", "x1"]
    assert table.observed[:, 1].tolist() == [True, False, True, True]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(MIXED), tmp_path / "x.parquet")
    assert np.array_equal(Table.read(tmp_path / "x.parquet").x, Table(MIXED).x)
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"expected a whole \.parquet file"):
        Table.read(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("cells", "said", "message"),
    [
        ({"a": []}, {}, "one row or more, got an empty one"),
        ({}, {}, "one row or more, got an empty one"),
        ({"a": [1.5, 2], "b": [1]}, {}, r"columns of one length, got \{'a': 2, 'b': 1\}"),
        ({"a": [1.5, 2]}, {"b": "real"}, r"columns out of \['a'\], got \['b'\]"),
        ({"a": [1.5, 2]}, {"a": "float"}, "a kind out of .* for column 'a', got 'float'; choose one"),
        ({"a": [1.5, 2]}, {"a": "catgory"}, "for column 'a', got 'catgory'; did you mean 'categorical'"),
        ({"age": [1.5, 2]}, {"aeg": "real"}, r"columns out of \['age'\], got \['aeg'\]; did you mean 'age'"),
        ({"a": ["x", "y"]}, {"a": "real"}, "a number in column 'a', which is real, got 'x'; leave the cell empty"),
        ({"a": [1.5, -2]}, {"a": "positive"}, "a number above 0 in column 'a', which is positive, got -2"),
        ({"a": [1.5, 2]}, {"a": "count"}, r"a whole number from 0 to 2\^24 in column 'a', which is count, got 1\.5"),
        ({"a": [1.5, math.inf, 3]}, {}, "a number in column 'a'"),
        ({"a": [1, 2, 3, 5]}, {"a": "binary"}, "two levels in column 'a', which is binary, got"),
        ({"a": ["x", "x"]}, {"a": "categorical"}, "two levels or more in column 'a'"),
        ({"a": [2.0, 2.0]}, {"a": "real"}, "different numbers in column 'a', which is real, got one"),
        ({"a": ["x", "x"], "b": [1, 2]}, {"b": "id"}, r"expected columns to model, got \['a: constant', 'b: id'\]"),
    ],
)
def test_what_is_no_table_is_refused(cells, said, message):
    with pytest.raises(ValueError, match=message):
        Table(cells, said)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "a,b\n", "expected names and rows in"),
        ("x.csv", "ann,31\nbob,43\n", "expected names in the first line of .*, got the number '31' beside text"),
        ("x.csv", "a,a\n1,2\n", "expected different names of columns"),
        ("x.csv", "a,b\n1,2\n3\n", "expected 2 cells in each line of .*, got 1 in line 3"),
        ("x.xls", "a,b\n1,2\n", "expected a table in a file that ends in"),
    ],
)
def test_files_that_are_no_tables_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        Table.read(tmp_path / name)


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"expected values of shape \(60, 7\), got \(1, 7\)"):
        Table(MIXED).rows(np.zeros((1, 7)))


def test_levels_of_numbers_are_ordered_by_size():
    assert make_column("a", [10, 9, "2.5", 9], "ordered") == Column("a", "ordered", levels=("2.5", "9", "10"))


def test_a_number_is_one_level_however_it_is_written():
    """pandas writes 0.0 and 1.0 where another cell is missing."""
    written = ["0", "1", "1.0", "0.00", 1, 1.0, "1e0", "\u22120.0"]
    column = make_column("a", written)
    assert column == Column("a", "binary", levels=("0", "1"))
    assert column.numbers(written)[0].tolist() == [0, 1, 1, 0, 1, 1, 1, 0]
    assert column.numbers(np.array([1.0, 0.0]))[0].tolist() == [1, 0]
    assert make_column("a", ["2.50", 2.5, "-1.0", "1e20", 1e20], "categorical").levels == ("-1", "2.5", f"{10**20}")
    names = make_column("a", ["007", "7", "+7", "1_0", "12345678901234567890", "12345678901234567891"], "categorical")
    assert set(names.levels) == {"007", "7", "+7", "1_0", "12345678901234567890", "12345678901234567891"}


def test_levels_that_were_told_apart_once_still_are():
    column = Column("a", "categorical", levels=("0", "1", "1.0", "1e-07"))
    assert column.numbers(["1", "1.0", "0.0", 1e-07])[0].tolist() == [1, 2, 0, 3]
    assert Column("a", "binary", levels=("0", "1")).numbers([True, np.False_])[0].tolist() == [1, 0]


@pytest.mark.parametrize(
    "cells",
    [
        [True, False, True],
        [np.True_, np.False_, np.True_],
        np.array([True, False, True]),
        np.array(["True", "False", "True"]),
    ],
)
def test_booleans_are_one_pair_of_levels(cells):
    columns = [make_column("a", column) for column in Table({"a": cells, "b": [1.5, 2, 3]}).cells.values()]
    assert columns[0].levels == ("False", "True")
    mixed = np.array([True, False]), list(np.array([True, False])), torch.tensor([True, False])
    for later in mixed:
        assert Table({"a": later, "b": [1.5, 2]}, columns=columns).x[:, 0].tolist() == [1, 0]


SIZES = ["low", "very high", "medium", None, "high", "low"]
ORDER = "ordered:low,medium,high,very high"


def test_levels_of_text_have_the_order_that_is_said():
    table = Table({"size": SIZES}, {"size": ORDER})
    assert table.columns == (Column("size", "ordered", levels=("low", "medium", "high", "very high")),)
    assert table.x[:, 0].tolist() == [0, 3, 1, 0, 2, 0]
    assert "low < medium < high < very high, 1 missing" in str(table)
    assert make_column("a", ["<=5", "5,1", "9"], 'ordered: <=5, "5,1", 9.0, more').levels == ("<=5", "5,1", "9", "more")


def test_ordered_text_needs_an_order_and_the_remedy_works():
    with pytest.raises(ValueError, match="the order of the levels of column 'size', which are text, got none") as error:
        Table({"size": SIZES}, {"size": "ordered"})
    remedy = str(error.value).split("kind: '")[1].split("', put into")[0]
    assert remedy == "ordered:high,low,medium,very high"
    assert Table({"size": SIZES}, {"size": remedy}).columns[0].levels == ("high", "low", "medium", "very high")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ordered:low,medium,high", r"without \['very high'\]; say 'ordered:low,medium,high,very high', put into"),
        ("ordered:low,low,medium,high,very high", "two levels or more for column 'size', each once"),
        ("ordered:low,medium,high,very high,none", "none of them a way to write a missing cell"),
        ("ordered:", "two levels or more"),
        ("categorical:low,high", "expected a kind out of .*, got 'categorical:low,high'"),
    ],
)
def test_an_order_that_can_not_be_that_of_the_levels(kind, message):
    with pytest.raises(ValueError, match=message):
        Table({"size": SIZES}, {"size": kind})


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e307])
@pytest.mark.parametrize("as_array", [False, True])
def test_numbers_whose_squares_no_float_has_are_told_why_and_the_remedy_works(size, as_array):
    cells = size * np.array([1.5, -2.5, 0.5, 17.0])
    for each in (cells, -cells):
        with pytest.raises(
            ValueError, match=r"expected numbers in column 'a' whose mean .*; write them in another unit"
        ):
            Table({"a": each if as_array else each.tolist(), "b": [1.5, 2, 3, 7]})
    assert Table({"a": cells / size, "b": [1.5, 2, 3, 7]}).x[:, 0].std() == pytest.approx(1)
    for fine in (1e140, 1e-140):
        table = Table({"a": fine * np.array([1.5, -2.5, 0.5, 17.0])})
        assert table.x.std() == pytest.approx(1)


def test_counts_that_float32_would_round_are_refused():
    assert make_column("a", [3, 2**24, 1], "count").numbers([2**24])[0].tolist() == [2.0**24]
    for cells in ([2**24 + 1, 3, 5, 1], ["16777217", "3"], np.array([2.0**24 + 2, 1.0])):
        with pytest.raises(
            ValueError, match=r"a whole number from 0 to 2\^24 in column 'a', which is count, got .*another kind"
        ):
            Table({"a": cells}, {"a": "count"})
        assert Table({"a": cells}, {"a": "real"}).columns[0].kind == "real"
