"""Tables as spreadsheets and instruments write them: marks, quotes, encodings, and what can't be told is refused."""

import re

import numpy as np
import pytest

from pyro_aevb.datasets import Table, read_array

LINES = ["dose,n", "10.5,3", "7.25,1", "8,4"]
TEXT = "\n".join(LINES) + "\n"


def table(folder, text, name="x.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return Table.read(folder / name)


def cells(folder, *args, **options):
    """Return the numbers of a file's columns."""
    found = table(folder, *args, **options).cells
    return {name: [float(cell) for cell in column] for name, column in found.items()}


EXPECTED = {"dose": [10.5, 7.25, 8.0], "n": [3.0, 1.0, 4.0]}


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("x.CSV", TEXT, "utf-8"),
        ("x.csv", TEXT.replace(",", "\t"), "utf-16"),
        ("x.txt", TEXT.replace(",", "\t"), "utf-16"),
        ("x.tsv", TEXT.replace(",", "\t").replace(".", ","), "utf-8"),
        ("x.csv", TEXT.replace(",", ";").replace(".", ","), "utf-8"),
        ("x.csv", 'dose,n\n"10,5",3\n"7,25",1\n8,4\n', "utf-8"),
        ("x.csv", TEXT + ",\n,\n", "utf-8"),
        ("x.csv", ",\n" + TEXT, "utf-8"),
    ],
)
def test_programs_write_one_table_in_many_ways(name, text, encoding, tmp_path):
    assert cells(tmp_path, text, name=name, encoding=encoding) == EXPECTED


def test_capitals_in_the_ending_of_a_file_are_the_same(tmp_path):
    (tmp_path / "x.CSV").write_text(TEXT)
    assert read_array(tmp_path / "x.CSV").tolist() == [[10.5, 3], [7.25, 1], [8, 4]]
    np.save(tmp_path / "x.npy", np.eye(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.NPY")
    assert np.array_equal(read_array(tmp_path / "x.NPY"), np.eye(3))


def test_separators_inside_of_quotes_separate_nothing(tmp_path):
    text = '"dose, mg";"n, all"\n10,5;3\n7,25;1\n8;4\n'
    assert cells(tmp_path, text) == {"dose, mg": EXPECTED["dose"], "n, all": EXPECTED["n"]}


def test_names_of_windows_are_read_as_they_were_written(tmp_path):
    assert list(table(tmp_path, "preis €,µg\n1.5,2\n2.5,4\n9,9\n", encoding="cp1252").cells) == ["preis €", "µg"]


def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path):
    with pytest.raises(ValueError, match=r"expected cells whose quotes are closed in .*, got one that isn't by line 4"):
        table(tmp_path, 'dose,kind\n10.5,a\n7.25,"b\n8,c\n')


def test_bytes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected text in .*; save it as CSV in UTF-8"):
        table(tmp_path, TEXT, encoding="utf-16-le")  # without its mark


def test_an_empty_row_stays_in_its_place(tmp_path):
    found = table(tmp_path, "dose,n\n10.5,3\n,\n8,4\n")
    assert found.observed.tolist() == [[True, True], [False, False], [True, True]]


def test_digits_with_underscores_are_names(tmp_path):
    """Wells of a plate: 1_1 isn't 11."""
    rows = [f"{n // 3 + 1}_{n % 3 + 1},{n / 7}" for n in range(9)]
    found = table(tmp_path, "\n".join(["well,dose", *rows]) + "\n")
    assert [column.kind for column in found.columns] == ["id", "real"]
    with pytest.raises(ValueError, match=r"expected numbers in .*, got '1_1'"):
        read_array(tmp_path / "x.csv")


def test_a_printed_minus_is_one(tmp_path):
    assert cells(tmp_path, "dose,n\n-1.5,3\n2.5,1\n") == {"dose": [-1.5, 2.5], "n": [3.0, 1.0]}
    assert table(tmp_path, "dose\n\u22121.5\n2.5\n7.5\n").columns[0].kind == "real"


# -- The mark of decimals ----------------------------------------------------------------------------------------------

THOUSANDS = [
    ("cells;dose\n1.006;45,2\n999;3,25\n", "1.006", "1006", "1.0060"),  # points where decimals have commas
    ("cells;dose\n1,006;45.2\n999;3.25\n", "1,006", "1006", "1.0060"),  # and the other way round
    ('cells,dose\n"1,006",45.2\n999,3.25\n', "1,006", "1006", "1.0060"),
    ("cells\tdose\n1,006\t45\n999\t3\n", "1,006", "1006", "1.0060"),  # it may be either
    ('cells,dose\n"1,006,000",45.2\n999,3.25\n', "1,006,000", "1006000", ""),
    ("cells;dose\n1.006,5;45\n999;3\n", "1.006,5", "1006.5", ""),
    ('cells,dose\n"1,006.5",45\n999,3\n', "1,006.5", "1006.5", ""),
]


@pytest.mark.parametrize(("text", "cell", "plain", "decimal"), THOUSANDS)
def test_a_mark_of_thousands_is_never_read_as_one_of_decimals(text, cell, plain, decimal, tmp_path):
    other = f", or {decimal} if" if decimal else "$"
    message = rf"without a mark of thousands in .*, got {re.escape(repr(cell))} in column 'cells'; write {plain}{other}"
    with pytest.raises(ValueError, match=message):
        table(tmp_path, text)
    for remedy in (plain, decimal) if decimal else (plain,):
        found = cells(tmp_path, text.replace(f'"{cell}"', cell).replace(cell, remedy))
        assert found["cells"] == [float(remedy), 999.0]


def test_three_decimals_are_decimals_where_the_file_says_so(tmp_path):
    assert cells(tmp_path, "a;b\n1,006;45,2\n9;3\n")["a"] == [1.006, 9.0]
    assert cells(tmp_path, "a;b\n1,006;2\n9,125;3\n")["a"] == [1.006, 9.125]
    assert cells(tmp_path, "a,b\n1.006,2\n9.125,3\n")["a"] == [1.006, 9.125]


# -- Numbers and words -------------------------------------------------------------------------------------------------


def test_a_few_words_among_numbers_do_not_leave_the_column_out(tmp_path):
    text = "\n".join(["dose", *(f"{n / 7:.3f}" for n in range(1, 30)), "<0.1"]) + "\n"
    with pytest.raises(ValueError, match=r"expected numbers in column 'dose', got '<0.1' among 29 of them; leave such"):
        table(tmp_path, text)
    assert table(tmp_path, text.replace("<0.1", "NA")).columns[0].kind == "real"
    (tmp_path / "x.csv").write_text(text)
    assert Table.read(tmp_path / "x.csv", {"dose": "categorical"}).columns[0].kind == "categorical"
    few = "\n".join(["children", *["0", "1", "2", "2"] * 9, "3+"]) + "\n"
    assert table(tmp_path, few).columns[0].levels == ("0", "1", "2", "3+")
