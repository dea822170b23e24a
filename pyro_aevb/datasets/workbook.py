"""The numbers in the first sheet of an Excel 97 workbook (.xls), without the rest of what such a file can hold.

The file is a compound document: sectors of 512 bytes, chained by a table of next sectors.  Its stream "Workbook" is a
list of records, a number of two bytes, a length of two, and that many bytes ([MS-XLS], 2.1.4).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

_FREE = 0xFFFFFFFA  # sectors from here on end a chain
_NUMBER, _RK, _MULRK, _BOF, _EOF = 0x0203, 0x027E, 0x00BD, 0x0809, 0x000A
_SHEET = 0x0010  # the kind that a sheet's first record says


def read_workbook(raw: bytes) -> np.ndarray:
    """Return the numbers of the first sheet, (rows, columns) of float64, rows without a number left out; NaN for text.

    Args:
        raw: the file.

    Raises:
        ValueError: for a file that isn't such a workbook.
    """
    if raw[:8] != bytes.fromhex("d0cf11e0a1b11ae1"):
        raise ValueError(f"expected an Excel 97 workbook, got a file that begins with {raw[:8]!r}; save it as .xls")
    cells = {(row, column): value for row, column, value in _first_sheet(_workbook(raw))}
    rows, columns = sorted({row for row, _ in cells}), sorted({column for _, column in cells})
    return np.array([[cells.get((row, column), np.nan) for column in columns] for row in rows])


def _workbook(raw: bytes) -> bytes:
    """Return the stream of the workbook."""
    size = 1 << struct.unpack_from("<H", raw, 30)[0]
    tables = [sector for sector in struct.unpack_from("<109I", raw, 76) if sector < _FREE]
    following = np.concatenate([np.frombuffer(raw, "<u4", size // 4, size * (1 + sector)) for sector in tables])

    def chain(sector: int) -> bytes:
        parts: list[bytes] = []
        while sector < _FREE and len(parts) <= len(following):
            parts.append(raw[size * (1 + sector) : size * (2 + sector)])
            sector = int(following[sector])
        return b"".join(parts)

    folder = chain(struct.unpack_from("<I", raw, 48)[0])
    for start in range(0, len(folder), 128):
        length = struct.unpack_from("<H", folder, start + 64)[0]
        if folder[start : start + max(0, length - 2)].decode("utf-16-le") == "Workbook":
            first, stream = struct.unpack_from("<II", folder, start + 116)
            return chain(first)[:stream]
    raise ValueError("expected a stream 'Workbook' in the file, got none; save it as .xls of Excel 97 or later")


def _first_sheet(stream: bytes) -> Iterator[tuple[int, int, float]]:
    """Yield row, column and value of the numbers."""
    place, inside = 0, False
    while place + 4 <= len(stream):
        kind, length = struct.unpack_from("<HH", stream, place)
        record = stream[place + 4 : place + 4 + length]
        place += 4 + length
        if kind == _BOF and struct.unpack_from("<H", record, 2)[0] == _SHEET:
            inside = True
        elif kind == _EOF and inside:
            return
        elif inside and kind == _NUMBER:
            row, column, _, value = struct.unpack("<HHHd", record[:14])
            yield row, column, value
        elif inside and kind == _RK:
            row, column, _, code = struct.unpack("<HHHI", record[:10])
            yield row, column, _number(code)
        elif inside and kind == _MULRK:
            row, first = struct.unpack_from("<HH", record)
            for place_in_row, start in enumerate(range(4, length - 2, 6)):
                yield row, first + place_in_row, _number(struct.unpack_from("<I", record, start + 2)[0])


def _number(code: int) -> float:
    """Return the number that four bytes stand for: 30 bits of a whole number or of a double, maybe in hundredths."""
    if code & 2:
        value = float((code if code < 1 << 31 else code - (1 << 32)) >> 2)
    else:
        value = float(struct.unpack("<d", struct.pack("<Q", (code & 0xFFFFFFFC) << 32))[0])
    return value / 100 if code & 1 else value
