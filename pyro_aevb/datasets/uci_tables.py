"""Six tables of numbers from the UCI Machine Learning Repository (CC BY 4.0), on which imputation is compared.

Files live where those of :func:`.load_dataset` do, in the folder ``uci``; what is missing is downloaded and checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.datasets.download import cache_folder, fetched_file
from pyro_aevb.datasets.workbook import read_workbook

UCI_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/"


class _Source(NamedTuple):
    """A table's file below ``UCI_URL``, its checksum, and its features, read from the file's bytes."""

    path: str
    sha256: str
    read: Callable[[bytes], np.ndarray]


def _text(delimiter: str | None, columns: slice, header: int = 0) -> Callable[[bytes], np.ndarray]:
    def read(raw: bytes) -> np.ndarray:
        rows = [line.split(delimiter)[columns] for line in raw.decode().splitlines()[header:] if line.strip()]
        return np.array(rows, dtype=float)

    return read


_WINE = _text(";", slice(None, -1), header=1)
UCI_TABLES: dict[str, _Source] = {
    "banknote": _Source(
        "00267/data_banknote_authentication.txt",
        "d0539aaed2139ba7a587b3e34fb345ce503ff7d5d33dbf9912d8e195ce425cb9",
        _text(",", slice(None, -1)),
    ),
    "breast": _Source(
        "breast-cancer-wisconsin/wdbc.data",
        "d606af411f3e5be8a317a5a8b652b425aaf0ff38ca683d5327ffff94c3695f4a",
        _text(",", slice(2, None)),
    ),
    "concrete": _Source(
        "concrete/compressive/Concrete_Data.xls",
        "710076c66b9ca3f8050e7942f3dcbdbe04013534daeb0077ffd3079a52d8e0c4",
        lambda raw: read_workbook(raw)[:, :-1],
    ),
    "red-wine": _Source(
        "wine-quality/winequality-red.csv",
        "4a402cf041b025d4566d954c3b9ba8635a3a8a01e039005d97d6a710278cf05e",
        _WINE,
    ),
    "white-wine": _Source(
        "wine-quality/winequality-white.csv",
        "76c3f809815c17c07212622f776311faeb31e87610d52c26d87d6e361b169836",
        _WINE,
    ),
    "yeast": _Source(
        "yeast/yeast.data",
        "7cf61776fc04f527f93bf57a327b863893a1225d82df02d457e8950173218258",
        _text(None, slice(1, -1)),
    ),
}


def load_uci_table(name: str, *, root: str | Path | None = None) -> Tensor:
    """Return a table's features, (N, D) of float64, without what is to be predicted from them.

    Args:
        name: ``"banknote"`` (1372 x 4), ``"breast"`` (569 x 30), ``"concrete"`` (1030 x 8), ``"red-wine"``
            (1599 x 11), ``"white-wine"`` (4898 x 11), ``"yeast"`` (1484 x 8).
        root: the cache folder.

    Raises:
        ValueError: for an unknown name, and for a file with another checksum (it is renamed NAME.corrupt).
        ConnectionError: if a file is missing and can't be downloaded; the message says which file to put where.
    """
    if name not in UCI_TABLES:
        raise ValueError(f"expected a table out of {sorted(UCI_TABLES)}, got {name!r}; choose one")
    table = UCI_TABLES[name]
    path = cache_folder(root) / "uci" / table.path.rpartition("/")[2]
    raw = fetched_file(path, [UCI_URL + table.path], [f"sha256:{table.sha256}"]).read_bytes()
    return torch.as_tensor(table.read(raw))
