"""Arrays in files: what is written is read back, and what isn't an array of numbers is refused."""

import numpy as np
import pytest
from PIL import Image

from pyro_aevb.datasets.array_files import read_array, write_array

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
    ],
)
def test_tables(text, expected, tmp_path):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    assert read_array(tmp_path / "x.csv").tolist() == expected


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


def test_folders_and_arrays_that_hold_nothing(tmp_path):
    with pytest.raises(ValueError, match="expected images"):
        read_array(tmp_path)
    with pytest.raises(FileNotFoundError, match="isn't there"):
        read_array(tmp_path / "x.npy")
    for array in (np.array(3.0), np.zeros((0, 4)), np.zeros((2, 2), complex)):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(ValueError, match="expected"):
            read_array(tmp_path / "x.npy")
