"""Data: values, splits, pixels, and files that are missing, broken or in a folder that can't be written."""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from pyro_aevb.datasets import Binarized, cache_folder, load_dataset, load_labels
from pyro_aevb.datasets import image_datasets as datasets

SHARED = Path(os.environ.get("PYRO_AEVB_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs = {
    "mnist": SHARED / "MNIST/raw/train-images-idx3-ubyte.gz",
    "fashion-mnist": SHARED / "FashionMNIST/raw/train-images-idx3-ubyte.gz",
    "frey-face": SHARED / "frey_face/freyfaces.pkl",
    "binarized-mnist": SHARED / "binarized_mnist/binarized_mnist_packed.npz",
}


def require(name):
    if not needs[name].exists():
        pytest.skip(f"needs {needs[name].name} of {name} in PYRO_AEVB_DATA")
    return SHARED


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Whatever these tests read is on the disk; a download is an error of the kind a machine offline gives."""

    def refuse(url, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(pooch, "retrieve", refuse)


def test_digits_come_with_scikit_learn(tmp_path):
    data = load_dataset("digits", pixels="grey", root=tmp_path)
    assert (len(data.train), len(data.test), data.validation, data.image_shape) == (1437, 360, None, (8, 8))
    assert data.train.dtype == torch.float32
    assert data.train.min() == 0
    assert data.train.max() == 1
    assert not list(tmp_path.iterdir())
    again, other = load_dataset("digits", pixels="grey"), load_dataset("digits", pixels="grey", seed=1)
    assert torch.equal(again.test, data.test)
    assert not torch.equal(other.test, data.test)
    together = torch.cat([data.train, data.test])
    assert torch.equal(together.sort(0).values, torch.cat([other.train, other.test]).sort(0).values)


def test_pixels():
    grey = load_dataset("digits", pixels="grey")
    threshold = load_dataset("digits", pixels="threshold")
    static = load_dataset("digits")  # the default
    dynamic = load_dataset("digits", pixels="dynamic")
    assert torch.equal(threshold.train, (grey.train > 0.5).float())
    assert torch.equal(static.train, load_dataset("digits", pixels="static").train)
    assert not torch.equal(static.train, load_dataset("digits", pixels="static", seed=1).train)
    assert ((static.train == 0) | (static.train == 1)).all()
    assert isinstance(dynamic.train, Binarized)
    index = torch.arange(5)
    assert not torch.equal(dynamic.train[index], dynamic.train[index])
    draws = torch.stack([dynamic.train[index] for _ in range(2000)])
    error = 5 * 0.5 / 2000**0.5
    assert (draws.mean(0) - grey.train[index]).abs().max() < error
    assert torch.equal(dynamic.test, load_dataset("digits", pixels="dynamic").test)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_are_drawn_with_the_probability_of_their_grey_level_apart_from_each_other(dtype):
    torch.manual_seed(0)
    levels, draws = torch.arange(256, dtype=dtype) / 255, 40_000
    pixels = Binarized.draw(levels.expand(draws, 256))
    assert pixels.dtype == dtype
    assert ((pixels == 0) | (pixels == 1)).all()
    assert (pixels[:, 0] == 0).all()
    assert (pixels[:, 255] == 1).all()
    z = (pixels.mean(0) - levels)[1:-1] / (levels * (1 - levels) / draws)[1:-1].sqrt()
    chi2, freedom = z.square().sum().item(), 254
    assert abs(chi2 - freedom) < 4 * (2 * freedom) ** 0.5
    correlation = torch.corrcoef(pixels[:, 1:255].T).fill_diagonal_(0) * draws**0.5
    assert correlation.abs().max() < 5.5  # of 32,131 pairs
    assert correlation.square().mean().item() == pytest.approx(1, abs=0.05)


def test_as_many_pixels_are_drawn_as_there_are():
    torch.manual_seed(0)
    assert Binarized.draw(torch.ones(3, 5)).tolist() == [[1.0] * 5] * 3  # an odd number, in half as many words
    assert Binarized.draw(torch.ones(0, 5)).shape == (0, 5)


def test_mnist():
    data = load_dataset("mnist", pixels="grey", root=require("mnist"))
    assert (data.train.shape, data.test.shape) == ((60000, 784), (10000, 784))
    assert data.train.mean().item() == pytest.approx(0.1306604762738429, abs=1e-6)  # the published mean of its pixels
    assert data.train.std().item() == pytest.approx(0.3081, abs=1e-4)


def test_fashion_mnist():
    data = load_dataset("fashion-mnist", pixels="grey", root=require("fashion-mnist"))
    assert (data.train.shape, data.test.shape) == ((60000, 784), (10000, 784))
    assert data.train.mean().item() == pytest.approx(0.2860, abs=1e-4)


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion-mnist"])
def test_labels_are_those_of_the_images_in_their_order(name):
    """The nearest mean of a class is the right one far more often than by chance, and by other labels it isn't."""
    root = None if name == "digits" else require(name)
    if name == "fashion-mnist" and not (root / "FashionMNIST/raw/train-labels-idx1-ubyte.gz").exists():
        pytest.skip("needs the labels of fashion-mnist in PYRO_AEVB_DATA")
    data = load_dataset(name, pixels="grey", root=root)
    train, test = load_labels(name, root=root)
    assert (train.dtype, train.shape, test.shape) == (torch.int64, data.train.shape[:1], data.test.shape[:1])
    means = torch.stack([data.train[train == c].mean(0) for c in range(10)])
    nearest = torch.cdist(data.test, means).argmin(1)
    assert (nearest == test).float().mean() > 0.6
    assert (nearest == test.roll(1)).float().mean() < 0.2


def test_a_data_set_without_labels_is_refused():
    with pytest.raises(ValueError, match=r"labels out of \['digits', 'fashion-mnist', 'mnist'\], got 'frey-face'"):
        load_labels("frey-face")


def test_frey_face():
    data = load_dataset("frey-face", root=require("frey-face"))
    assert (len(data.train), len(data.validation), len(data.test)) == (1500, 65, 400)
    together = torch.cat([data.train, data.validation, data.test]) * 255
    assert (together.min(), together.max()) == (8, 238)
    images = np.load(SHARED / "frey_face/freyfaces_1965x28x20_uint8.npz")["images"].reshape(1965, 560)
    assert torch.equal(together.sort(0).values.round(), torch.as_tensor(images).float().sort(0).values)


def test_binarized_mnist():
    data = load_dataset("binarized-mnist", root=require("binarized-mnist"))
    assert (len(data.train), len(data.validation), len(data.test)) == (50000, 10000, 10000)
    assert set(data.test.unique().tolist()) == {0.0, 1.0}


def test_binarized_mnist_is_packed_from_larochelles_text_files(tmp_path, monkeypatch):
    folder = tmp_path / "binarized_mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {split: rng.integers(0, 2, (5, 784), dtype=np.uint8) for split in ("train", "valid", "test")}
    for split, array in arrays.items():
        np.savetxt(folder / f"binarized_mnist_{split}.amat", array, fmt="%d")
        digest = hashlib.sha256(np.packbits(array, axis=1).tobytes()).hexdigest()
        monkeypatch.setitem(datasets.AMAT_BITS_SHA256, split, digest)
    data = load_dataset("binarized-mnist", root=tmp_path)
    assert torch.equal(data.validation, torch.as_tensor(arrays["valid"]).float())
    texts = {text: text.read_text() for text in folder.glob("*.amat")}
    for text in texts:
        text.unlink()
    assert torch.equal(load_dataset("binarized-mnist", root=tmp_path).train, torch.as_tensor(arrays["train"]).float())
    (folder / "binarized_mnist_packed.npz").unlink()
    for text, content in texts.items():
        text.write_text(content[:5000])
    with pytest.raises(ValueError, match=r"binarized_mnist_train\.amat, it can't be read"):
        load_dataset("binarized-mnist", root=tmp_path)
    assert (folder / "binarized_mnist_train.amat.corrupt").exists()


def test_binarized_mnist_with_other_bits_is_refused(monkeypatch):
    monkeypatch.setitem(datasets.AMAT_BITS_SHA256, "test", "0" * 64)
    monkeypatch.setattr(datasets.Path, "replace", refuse_to_rename)
    with pytest.raises(ValueError, match=r"its test images have another checksum.*can't be written"):
        load_dataset("binarized-mnist", root=require("binarized-mnist"))


def refuse_to_rename(*args):
    raise PermissionError("a folder that can only be read")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "frey-face", "binarized-mnist"])
def test_no_network_says_which_file_to_put_where(name, tmp_path):
    with pytest.raises(ConnectionError, match=rf"expected {tmp_path}.*put the file there by hand.*PYRO_AEVB_DATA"):
        load_dataset(name, root=tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_corrupt_file_is_set_aside_and_never_used(damage, tmp_path):
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    file = folder / "train-images-idx3-ubyte.gz"
    header = np.array([2051, 10, 28, 28], ">u4").tobytes()
    content = gzip.compress(header + bytes(7840))
    file.write_bytes(content[: len(content) // 2] if damage == "truncated" else content[:-1] + b"x")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz, its checksum .* renamed to .*corrupt"):
        load_dataset("mnist", root=tmp_path)
    assert not file.exists()
    assert (folder / "train-images-idx3-ubyte.gz.corrupt").exists()
    with pytest.raises(ConnectionError):  # it would be fetched anew, and isn't read
        load_dataset("mnist", root=tmp_path)


def test_a_half_written_archive_of_binarized_mnist_is_set_aside(tmp_path):
    path = tmp_path / "binarized_mnist/binarized_mnist_packed.npz"
    path.parent.mkdir()
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ValueError, match="can't be read"):
        load_dataset("binarized-mnist", root=tmp_path)
    assert not path.exists()


def test_an_image_file_of_another_data_set_is_refused(tmp_path):
    """Fashion-MNIST's file under MNIST's name has the same format and other contents."""
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    shutil.copy(require("frey-face") / "frey_face/freyfaces.pkl", folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(ValueError, match="checksum"):
        load_dataset("mnist", root=tmp_path)


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PYRO_AEVB_DATA", str(tmp_path / "env"))
    assert cache_folder() == tmp_path / "env"
    assert cache_folder(tmp_path / "arg") == tmp_path / "arg"
    monkeypatch.delenv("PYRO_AEVB_DATA")
    assert "pyro_aevb" in str(cache_folder())


def test_unknown_names_are_listed():
    with pytest.raises(
        ValueError, match=r"'binarized-mnist', 'digits', 'fashion-mnist', 'frey-face', 'mnist'.*'minst'"
    ):
        load_dataset("minst")
    with pytest.raises(ValueError, match=r"'grey', 'threshold', 'static', 'dynamic'.*'gray'"):
        load_dataset("digits", pixels="gray")


def test_addresses_and_checksums_are_torchvisions():
    from torchvision.datasets import MNIST, FashionMNIST

    mine = (MNIST, datasets.MNIST_URLS, datasets.MNIST_MD5)
    for theirs, urls, md5 in (mine, (FashionMNIST, datasets.FASHION_URLS, datasets.FASHION_MD5)):
        assert (urls, md5) == (theirs.mirrors, dict(theirs.resources))


@pytest.mark.slow
def test_data_that_are_there_are_read_without_the_packages_of_downloads():
    code = (
        "import sys; from pyro_aevb.datasets import load_dataset; load_dataset('mnist'); "
        "assert not {'torchvision', 'pooch', 'requests'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYRO_AEVB_DATA": str(require("mnist"))}
    )
