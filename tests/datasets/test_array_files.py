"""Arrays in files: what is written is read back, and what isn't an array of numbers is refused."""

import io
import os
import struct
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from pyro_aevb.datasets import array_files
from pyro_aevb.datasets.array_files import read_array, read_contents, write_array

ARRAY = np.array([[0.1, -2.0, 3e10], [1.0, 5e-8, 7.0]], dtype=np.float32)


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv"])
def test_round_trip(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    write_array(path, ARRAY)
    assert np.array_equal(read_array(path), ARRAY)
    assert read_array(path).dtype == np.float32
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float64])
def test_numbers_of_any_kind(dtype, tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0, 1]], dtype=dtype))
    assert read_array(tmp_path / "x.npy").tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n", [[1, 2]]),
        ("1,2\n3,4", [[1, 2], [3, 4]]),
        ("\ufeff a , b\r\n 1 , 2e1\r\n\r\n", [[1, 20]]),
        ("x\n5\n6\n", [[5], [6]]),
        ("a;b\n1;2\n3;4\n", [[1, 2], [3, 4]]),
        ("a\tb\n1\t2\n", [[1, 2]]),
        ("0,1,2\n0.5,7,1\n", [[0.5, 7, 1]]),  # pandas names columns by their number
        ("0,1\n1,0\n", [[0, 1], [1, 0]]),
        (",a,b\n0,5,6\n1,7,8\n", [[5, 6], [7, 8]]),  # pandas writes the number of a row first
        (",a\n3,5\n1,7\n", [[3, 5], [1, 7]]),
    ],
)
def test_tables(text, expected, tmp_path):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    assert read_array(tmp_path / "x.csv").tolist() == expected


def test_what_was_read_is_said(tmp_path):
    (tmp_path / "x.csv").write_bytes("größe;nr;art\n1.5;7;2\n2.5;8;2\n9;9;2\n".encode("latin-1"))
    contents = read_contents(tmp_path / "x.csv")
    assert contents.names == ("größe", "nr", "art")
    assert contents.values.tolist() == [[1.5, 7, 2], [2.5, 8, 2], [9, 9, 2]]
    assert contents.said == (
        f"read {tmp_path / 'x.csv'}: 3 rows, 3 columns (größe, nr, art); column 'nr' counts the rows: leave it out "
        "if it is their number; column 'art' is constant"
    )
    (tmp_path / "y.tsv").write_text("1,5\t2\n")
    with pytest.raises(ValueError, match=r"got '1,5' in line 1; .*write decimals with a point"):
        read_array(tmp_path / "y.tsv")
    (tmp_path / "y.tsv").write_text("1.5\t2\n")
    assert read_array(tmp_path / "y.tsv").tolist() == [[1.5, 2]]


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "coo_matrix", "csr_array"])
def test_a_sparse_array_is_read_with_its_zeros(kind, tmp_path):
    dense = np.zeros((4, 5), dtype=np.float32)
    dense[1, 2], dense[3, 0] = 7, 1
    sparse.save_npz(tmp_path / "x.npz", getattr(sparse, kind)(dense))
    assert np.array_equal(read_array(tmp_path / "x.npz"), dense)


def test_a_sparse_array_that_is_too_large_or_damaged(tmp_path):
    path = tmp_path / "x.npz"
    sparse.save_npz(path, sparse.csr_matrix((10**5, 10**5), dtype=np.float32))
    with pytest.raises(ValueError, match=r"up to 2147483648 bytes with its zeros, got \(100000, 1"):
        read_array(path)
    for indices, ends in (([9], [0, 1, 7]), ([9], [0, 1, 1]), ([-5], [0, 1, 1])):
        np.savez(path, format=b"csr", shape=[2, 2], data=[1.0], indices=indices, indptr=ends)
        with pytest.raises(ValueError, match=r"expected an \.npz as NumPy saves it"):
            read_array(path)


def colours(red, green, blue):
    return np.stack([np.full((2, 3), value, dtype=np.uint8) for value in (red, green, blue)], -1)


def test_colours_stay_and_hidden_files_are_left_out(tmp_path):
    Image.fromarray(colours(51, 51, 51)).save(tmp_path / "a.png")  # grey, in three channels
    (tmp_path / "._a.png").write_bytes(b"a system's notes")
    (tmp_path / ".DS_Store").write_bytes(b"likewise")
    assert np.allclose(read_array(tmp_path), np.full((1, 2, 3), 0.2))
    assert read_contents(tmp_path).said == f"read {tmp_path}: 1 images of 3x2, grey"
    Image.fromarray(colours(255, 0, 102)).save(tmp_path / "b.png")
    found = read_array(tmp_path)
    assert found.shape == (2, 3, 2, 3)
    assert np.allclose(found[:, :, 0, 0], [[0.2, 0.2, 0.2], [1.0, 0.0, 0.4]])
    assert read_contents(tmp_path).said == f"read {tmp_path}: 2 images of 3x2, in colour"
    assert read_contents(tmp_path).values.dtype == np.uint8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got an empty table"),
        ("a,b\n", "got an empty table"),
        ("1,2\n3\n", "expected 2 numbers in each line of .*, got 1 in line 2"),
        ("a,b\n1,\n", "got '' in line 2"),
        ("1,b\n1,2\n", "got 'b' in line 1"),
    ],
)
def test_tables_that_are_none(text, message, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_array(tmp_path / "x.csv")


def test_several_arrays_need_a_key(tmp_path):
    np.savez(tmp_path / "x.npz", a=ARRAY, b=ARRAY[:1])
    assert np.array_equal(read_array(tmp_path / "x.npz", "b"), ARRAY[:1])
    for key in (None, "c"):
        with pytest.raises(ValueError, match=r"one of \['a', 'b'\]"):
            read_array(tmp_path / "x.npz", key)


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return print, ("boom",)

    np.save(tmp_path / "x.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=np.array([Bomb()], dtype=object))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(ValueError, match="expected an array of numbers"):
            read_array(tmp_path / name)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.png"])
@pytest.mark.parametrize("size", [0, 5, -30])
def test_files_cut_short_or_something_else(name, size, tmp_path):
    path = tmp_path / name
    if name == "x.png":
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    else:
        write_array(path, ARRAY)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises((ValueError, OSError), match="expected"):
        read_array(tmp_path if name == "x.png" else path)


def test_images(tmp_path):
    for name, value in (("b.png", 255), ("a.jpg", 0)):
        Image.fromarray(np.full((3, 4), value, np.uint8)).save(tmp_path / name)
    array = read_array(tmp_path)
    assert array.shape == (2, 3, 4)
    assert (array[0].max(), array[1].min()) == (0.0, 1.0)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"got 4x3 for a.jpg and 4x4 for c.png"):
        read_array(tmp_path)
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="8 bits a channel"):
        read_array(tmp_path)


def test_images_in_folders_of_a_class_each(tmp_path):
    for n, name in enumerate(["cat/a.png", "cat/b.tif", "dog/a.jpeg", ".hidden/a.png", "empty"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name == "empty":
            (tmp_path / name).mkdir()
            continue
        Image.fromarray(np.full((3, 4), 50 * n, np.uint8)).save(tmp_path / name)
    found = read_contents(tmp_path)
    assert found.values[:, 0, 0].tolist() == [0, 50, 100]
    assert found.classes == ("cat", "cat", "dog")
    assert found.said == f"read {tmp_path}: 3 images of 4x3, grey, of 2 classes by their folders"
    Image.fromarray(np.full((3, 4), 9, np.uint8)).save(tmp_path / "a.png")
    found = read_contents(tmp_path)
    assert (found.values[:, 0, 0].tolist(), found.classes) == ([9], ())
    assert found.said == f"read {tmp_path}: 1 images of 4x3, grey; left out: images in cat, dog"


def test_a_photograph_is_upright(tmp_path):
    """Cameras write how they were held, and leave the pixels as they were."""
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(levels)
    noted = image.getexif()
    noted[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "a.png", exif=noted)
    assert np.array_equal(read_contents(tmp_path).values[0], np.rot90(levels, -1))


def test_a_tiff_of_several_pages_or_of_16_bits_is_refused(tmp_path):
    pages = [Image.fromarray(np.full((3, 4), value, np.uint8)) for value in (1, 2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"expected one image a file, got 2 pages in .*a\.tif; save each by itself"):
        read_array(tmp_path)
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="8 bits a channel"):
        read_array(tmp_path)


def test_a_large_array_stays_on_the_disk(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.arange(100, dtype=np.uint8).reshape(25, 4))
    assert not isinstance(read_contents(tmp_path / "x.npy").values, np.memmap)
    monkeypatch.setattr(array_files, "IN_MEMORY", 399)
    found = read_contents(tmp_path / "x.npy").values
    assert isinstance(found, np.memmap)
    assert found.dtype == np.uint8
    assert not isinstance(read_array(tmp_path / "x.npy"), np.memmap)
    assert np.array_equal(read_array(tmp_path / "x.npy"), np.arange(100.0).reshape(25, 4))


def test_parquet_and_text_of_numbers(tmp_path):
    (tmp_path / "x.txt").write_text("a\tb\n1\t2.5\n")
    assert read_array(tmp_path / "x.txt").tolist() == [[1, 2.5]]
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"a": [1, 2], "b": [0.5, None]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"expected numbers in .*, got 'None' in column 'b', row 1; fill in what is"):
        read_array(tmp_path / "x.parquet")
    found = read_contents(tmp_path / "x.parquet", holes=True)
    np.testing.assert_array_equal(found.values, [[1, 0.5], [2, np.nan]])
    assert found.names == ("a", "b")


def test_folders_and_arrays_that_hold_nothing(tmp_path):
    with pytest.raises(ValueError, match="expected images"):
        read_array(tmp_path)
    with pytest.raises(FileNotFoundError, match="isn't there"):
        read_array(tmp_path / "x.npy")
    for array in (np.array(3.0), np.zeros((0, 4)), np.zeros((2, 2), complex)):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(ValueError, match="expected"):
            read_array(tmp_path / "x.npy")


# -- Files that somebody means ill with --------------------------------------------------------------------------------


def png(width, height, rows=b""):
    """A PNG of grey pixels with this header, and whatever rows."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def npy(shape, dtype="<f4", content=b""):
    """An .npy whose header says this."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


def npz(content, name="x.npy", compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, archive.open(name, "w") as file:
        for part in content:
            file.write(part)
    return buffer.getvalue()


def zeros(megabytes):
    """The pieces of an array of zeros."""
    yield npy((megabytes * 2**18,))
    for _ in range(megabytes):
        yield bytes(2**20)


def patched(content, **at):
    """A zip with other numbers in its two headers: bit flags, or how it is compressed."""
    local, central = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
    content = bytearray(content)
    for name, number in at.items():
        offset = {"flags": 6, "compression": 8}[name]
        for start, more in ((local, 0), (central, 2)):
            content[start + offset + more : start + offset + more + 2] = struct.pack("<H", number)
    return bytes(content)


def moved(content):
    """A zip whose list of contents is said to be larger than it is."""
    end = content.rindex(b"PK\x05\x06")
    return content[: end + 12] + struct.pack("<I", end + 7) + content[end + 16 :]


BOMBS = {
    "a header of 4 TB": ("x.npy", npy((2**40,)), "got 128 bytes where shape"),
    "a header of less than there is": ("x.npy", npy((2,), content=bytes(12)), "got 140 bytes where .* needs 136"),
    "a negative shape": ("x.npy", npy((-1, -2), content=bytes(8)), "expected a whole array"),
    "a header in a zip": ("x.npz", npz([npy((2**40,))]), "got 128 bytes where shape"),
    "zeros": ("x.npz", lambda: npz(zeros(260)), "isn't much larger than its file, got 272629888 bytes out of"),
    "encrypted": ("x.npz", patched(npz([npy((2,), content=bytes(8))]), flags=1), "encrypted, password required"),
    "compressed in another way": ("x.npz", patched(npz([npy((2,))]), compression=99), "compression"),
    "a place before the beginning": (
        "x.npz",
        moved(npz([npy((2,), content=bytes(8))])),
        "whole .npz file, got|an .npz as NumPy saves it, got",
    ),
    "a header that isn't closed": (
        "x.npy",
        npy((2,), content=bytes(8)).replace(b"}", b" "),
        "expected an array of num",
    ),
    "no .npy": ("x.npz", npz([b"hello"], "x"), "expected an array of numbers"),
    "text": ("x.npy", npy((2,), "<U8", bytes(64)), "expected an array of numbers in .*, got one of <U8"),
    "a quote that isn't closed": ("x.csv", b'1,2\n"3,4\n5,6\n', "unexpected end of data"),
    "a long quote that isn't closed": ("x.csv", b'1,2\n"' + b"3," * 10**5, r"field limit|unexpected end"),
    "a long cell": ("x.csv", b"1,2\n1," + b"a" * 10**5, "got 'a{60}' in line 2"),
    "bytes that aren't text": ("x.csv", b"1,2\n\0\xff\xfe", "expected text in .*, got other bytes; save it as"),
    "zero bytes": ("x.csv", b"1,2\n1,\x00\n", "expected text in .*, got other bytes; save it as"),
    "PostScript": ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "an image, PNG, JPEG or TIFF, got"),
    "a header of 10^10 pixels": ("x.png", png(10**5, 10**5), "an image of up to 33554432 pixels"),
    "a header of 90 million pixels": ("x.png", png(10**4, 9 * 10**3), "an image of up to 33554432 pixels"),
    "a header of 40 million pixels": ("x.png", png(8000, 5000), "33554432 pixels, got 8000x5000 in"),
    "a header alone": ("x.png", png(8, 8), "expected a whole image"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_that_says_what_it_is_not(bomb, tmp_path):
    """One sentence, in a few megabytes."""
    name, content, message = BOMBS[bomb]
    (tmp_path / name).write_bytes(content() if callable(content) else content)
    read_array_of_its_kind(tmp_path)  # imports, whose memory is not counted
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, OSError), match=message) as caught:
            read_array(tmp_path if name == "x.png" else tmp_path / name)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "expected" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert peak < 8e6


def read_array_of_its_kind(folder):
    other = folder / "other"
    other.mkdir()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(other / "a.png")
    read_array(other)


def test_a_compressed_array_that_is_large_or_repeats_itself_but_not_both(tmp_path, monkeypatch):
    module = sys.modules[read_array.__module__]
    monkeypatch.setattr(module, "MOST_INFLATED", 100_000)
    path = tmp_path / "x.npz"
    np.savez_compressed(path, np.zeros(20_000, np.float32))
    assert read_array(path).shape == (20_000,)
    np.savez_compressed(path, np.random.default_rng(0).normal(size=(25_000,)))
    assert read_array(path).shape == (25_000,)
    np.savez_compressed(path, np.zeros(100_000))
    with pytest.raises(ValueError, match=r"save it as .npy"):
        read_array(path)
    np.save(tmp_path / "x.npy", np.zeros(100_000))  # the remedy
    assert read_array(tmp_path / "x.npy").shape == (100_000,)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv", "x.png"])
def test_a_pipe_is_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=r"expected a file, got .*, which is a pipe; copy"):
        read_array(tmp_path if name == "x.png" else tmp_path / name)


def test_versions_and_orders_of_npy(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    for version in ((1, 0), (2, 0), (3, 0)):
        for given in (array, np.asfortranarray(array), array.astype(">f8")):
            with (tmp_path / "x.npy").open("wb") as file:
                np.lib.format.write_array(file, given, version=version)
            assert np.array_equal(read_array(tmp_path / "x.npy"), array)


def glyph(shade, mode="RGBA"):
    """A shape that is in the transparency alone: a bar of one shade on nothing."""
    alpha = np.zeros((3, 4), np.uint8)
    alpha[:, 1], alpha[:, 2] = 255, 51
    channels = [np.full((3, 4), shade, np.uint8)] * (3 if mode == "RGBA" else 1)
    return Image.fromarray(np.stack([*channels, alpha], -1), mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_images_lie_on_white(mode, tmp_path):
    glyph(0, mode).save(tmp_path / "a.png")
    Image.fromarray(np.full((3, 4), 9, np.uint8)).convert(mode).save(tmp_path / "b.png")  # opaque
    found = read_contents(tmp_path)
    assert found.values[0].tolist() == [[255, 0, 204, 255]] * 3
    assert found.values[1].tolist() == [[9] * 4] * 3
    assert "2 images of 4x3, grey; 1 of them have transparent pixels, and lie on white" in found.said


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_colour_that_stands_for_nothing_is_white(mode, tmp_path):
    """PNG may say of one colour, or of one place in a palette, that it is transparent."""
    image = Image.fromarray(np.array([[0, 9], [200, 9]], np.uint8))
    image = image.convert("RGB").quantize() if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.png", transparency=image.getpixel((1, 0)))
    assert read_contents(tmp_path).values[0].tolist() == [[0, 255], [200, 255]]


def test_a_white_shape_on_nothing_is_refused_and_the_remedy_works(tmp_path):
    glyph(255).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"expected an image that shows on white, .*; save it on another background"):
        read_array(tmp_path)
    black = Image.new("RGBA", (4, 3), "black")
    Image.alpha_composite(black, glyph(255)).save(tmp_path / "a.png")
    assert read_contents(tmp_path).values[0].tolist() == [[0, 255, 51, 0]] * 3
