"""Tables of numbers: their sizes and known means, and a workbook that is read without a spreadsheet's library."""

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_aevb.datasets import UCI_TABLES, load_uci_table
from pyro_aevb.datasets.workbook import read_workbook

SHAPES = {
    "banknote": (1372, 4),
    "breast": (569, 30),
    "concrete": (1030, 8),
    "red-wine": (1599, 11),
    "white-wine": (4898, 11),
    "yeast": (1484, 8),
}
FOLDER = Path(os.environ.get("PYRO_AEVB_DATA", "nowhere")) / "uci"
THERE = pytest.mark.skipif(not FOLDER.is_dir(), reason="no PYRO_AEVB_DATA with the folder uci")


@THERE
@pytest.mark.parametrize("name", UCI_TABLES)
def test_a_table_has_its_size_and_no_holes(name):
    x = load_uci_table(name)
    assert x.shape == SHAPES[name]
    assert x.dtype == torch.float64
    assert x.isfinite().all()
    assert (x.std(0) > 0).all()


@THERE
def test_the_columns_are_the_right_ones():
    """Means that the repository's own descriptions of the tables print, and that of scikit-learn's copy."""
    from sklearn.datasets import load_breast_cancer

    assert torch.equal(load_uci_table("breast"), torch.as_tensor(load_breast_cancer().data))
    cement, *_, age = load_uci_table("concrete").mean(0).tolist()
    assert (round(cement, 2), round(age, 2)) == (281.17, 45.66)
    alcohol = load_uci_table("red-wine")[:, -1].mean().item()
    assert round(alcohol, 2) == 10.42


@THERE
def test_a_file_that_was_changed_is_set_aside(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "uci", copy_function=shutil.copyfile)
    path = tmp_path / "uci" / "yeast.data"
    path.write_bytes(path.read_bytes().replace(b"0.58", b"0.59", 1))
    with pytest.raises(ValueError, match="expected a whole data file, got a corrupt"):
        load_uci_table("yeast", root=tmp_path)
    assert path.with_name("yeast.data.corrupt").exists()


def test_a_table_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"expected a table out of \['banknote', .*, got 'iris'; choose one"):
        load_uci_table("iris")


def workbook(records):
    """Return an Excel 97 file: a header, a table of sectors, a folder, and the stream of these records."""
    stream = b"".join(struct.pack("<HH", kind, len(body)) + body for kind, body in records)
    sectors = -(-len(stream) // 512)
    header = bytearray(512)
    header[:8] = bytes.fromhex("d0cf11e0a1b11ae1")
    struct.pack_into("<H", header, 30, 9)
    struct.pack_into("<I", header, 48, 1)
    struct.pack_into("<109I", header, 76, 0, *[0xFFFFFFFF] * 108)
    chain = [0xFFFFFFFD, 0xFFFFFFFE, *range(3, 2 + sectors), 0xFFFFFFFE]
    table = struct.pack("<128I", *chain, *[0xFFFFFFFF] * (128 - len(chain)))
    entry = bytearray(512)
    for start, name in ((0, "Root Entry"), (128, "Workbook")):
        text = name.encode("utf-16-le")
        entry[start : start + len(text)] = text
        struct.pack_into("<H", entry, start + 64, len(text) + 2)
    struct.pack_into("<II", entry, 128 + 116, 2, len(stream))
    return bytes(header) + table + bytes(entry) + stream.ljust(512 * sectors, b"\0")


def test_a_workbook_of_every_kind_of_number():
    """A double, a whole number, hundredths, a negative one, and a row of two; a second sheet isn't read."""
    bof = lambda kind: (0x0809, struct.pack("<HH12x", 0x0600, kind))  # noqa: E731
    rk = lambda value: (value << 2) & 0xFFFFFFFF | 2  # noqa: E731
    raw = workbook([
        bof(0x0005), (0x000A, b""),
        bof(0x0010),
        (0x0204, struct.pack("<HHHHB4s", 0, 0, 0, 4, 0, b"text")),
        (0x0203, struct.pack("<HHHd", 1, 0, 0, 0.1)),
        (0x027E, struct.pack("<HHHI", 1, 1, 0, rk(7))),
        (0x027E, struct.pack("<HHHI", 1, 2, 0, rk(-250) | 1)),
        (0x00BD, struct.pack("<HHHIHIH", 2, 0, 0, rk(-3), 0, 0x3FF80000, 1)),
        (0x000A, b""),
        bof(0x0010), (0x0203, struct.pack("<HHHd", 9, 9, 0, 1.0)), (0x000A, b""),
    ])  # fmt: skip
    np.testing.assert_equal(read_workbook(raw), [[0.1, 7.0, -2.5], [-3.0, 1.5, np.nan]])
    with pytest.raises(ValueError, match=r"expected an Excel 97 workbook, got a file that begins with b'PK"):
        read_workbook(b"PK\x03\x04" + bytes(600))
    with pytest.raises(ValueError, match="expected a stream 'Workbook' in the file, got none"):
        read_workbook(raw.replace("Workbook".encode("utf-16-le"), "Wirkbook".encode("utf-16-le")))
