"""Text files of cells with something between them, .csv, .tsv and .txt: rows of text, and whose decimal mark it is.

Shapes: N rows, D columns.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pyro_aevb.datasets.columns import as_number, is_missing

DELIMITED = (".csv", ".tsv", ".txt")
_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}([.,])\d{3}(\1\d{3})*")  # digits in threes: 1,234 or 1.234.567
_BOTH_MARKS = re.compile(r"[-+]?[1-9]\d{0,2}((\.\d{3})+,|(,\d{3})+\.)\d+")  # 1.234,5 or 1,234.5


def read_rows(path: Path) -> tuple[str, list[tuple[int, list[str]]]]:
    """Return what stands between the cells of a file, and its rows: the line that each ends in, and its cells.

    Lines of nothing are left out.

    Args:
        path: UTF-8, UTF-16, or of Windows in western Europe; ends in one of ``DELIMITED``.

    Raises:
        ValueError: for what isn't text, and quotes that aren't closed.
        OSError: if it can't be read.
    """
    text = _with_tabs(path, _decoded(path))
    separator = _separator_of(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        return separator, [(reader.line_num, row) for row in reader if len(row) > 1 or "".join(row).strip()]
    except csv.Error as error:
        raise ValueError(
            f"expected cells whose quotes are closed in {path}, got one that isn't by line {reader.line_num}: {error}; "
            "close them there or above, and write a quote inside of quotes twice"
        ) from error


def with_points(columns: Mapping[str, list[str]], separator: str, path: Path) -> dict[str, list[str]]:
    """Return columns with decimal points for decimal commas; which of the two it is follows from the whole file.

    Args:
        columns: their cells (N,), by name.
        separator: of the file.
        path: the file.

    Raises:
        ValueError: for numbers with a mark of thousands, and for those whose mark may be one.
    """
    if separator == "," and not any("," in cell for column in columns.values() for cell in column):
        return dict(columns)
    found = {name: _marked(column) for name, column in columns.items()}
    decimal = {mark for each in found.values() for mark in each.decimal}
    for name, each in found.items():
        for mark, other in (",.", ".,"):
            unknown = each.grouped.get(mark) if mark not in decimal else None
            if each.thousands or (unknown and (other in decimal or (mark == "," and separator != ";"))):
                raise ValueError(_of_thousands(name, each.thousands or str(unknown), path, bool(each.thousands)))
    if separator == "," and "." in decimal:  # then a comma is another thing
        return dict(columns)
    return {
        name: [cell.replace(",", ".") for cell in column] if found[name].numbers else column
        for name, column in columns.items()
    }


class _Marked(NamedTuple):
    """Marks in a column's numbers: cells by their decimal mark, by a mark that may be of thousands as
    well, and one with marks that are of thousands; ``numbers`` is whether it has numbers alone.
    """

    numbers: bool = False
    decimal: Mapping[str, str] = {}
    grouped: Mapping[str, str] = {}
    thousands: str = ""


def _marked(column: list[str]) -> _Marked:
    decimal: dict[str, str] = {}
    grouped: dict[str, str] = {}
    thousands, numbers = "", True
    for cell in column:
        if is_missing(cell) or not ("," in cell or "." in cell):
            numbers = numbers and (is_missing(cell) or as_number(cell) is not None)
        elif match := _GROUPED.fullmatch(cell):
            thousands = cell if match[2] else thousands
            grouped[match[1]] = cell
        elif _BOTH_MARKS.fullmatch(cell):
            thousands = cell
        elif as_number(cell.replace(",", ".")) is not None:
            decimal["," if "," in cell else "."] = cell
        else:
            numbers = False
        if not numbers:
            return _Marked()
    return _Marked(True, decimal, grouped, thousands)


def _of_thousands(name: str, cell: str, path: Path, sure: bool) -> str:
    whole, _, rest = cell.rpartition(max(",.", key=cell.rfind))
    plain = re.sub("[.,]", "", whole) + ("." if _BOTH_MARKS.fullmatch(cell) else "") + rest
    other = "" if sure else f", or {whole}.{rest}0 if the mark is that of decimals"
    got = f"{cell!r} in column {name!r}"
    return f"expected numbers without a mark of thousands in {path}, got {got}; write {plain}{other}"


def _decoded(path: Path) -> str:
    """Return the text of a file."""
    content = path.read_bytes()
    codes = ("utf-16",) if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252", "latin-1")
    for code in codes:
        try:
            text = content.decode(code)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
        break
    raise ValueError(f"expected text in {path}, got other bytes; save it as CSV in UTF-8")


def _separator_of(path: Path, text: str) -> str:
    """Return what stands between the cells: a tab in a .tsv, else what the first line has most of outside of quotes."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=re.sub('"[^"]*"', "", first).count)


def _with_tabs(path: Path, text: str) -> str:
    """Return a .txt whose cells have blanks between them, as NumPy writes them, with tabs; another text as it is."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    if path.suffix.lower() != ".txt" or len(first.split()) < 2 or any(each in first for each in ",;\t"):
        return text
    return "\n".join("\t".join(line.removeprefix("# ").split()) for line in text.splitlines())
