"""The paper's data sets, with grey, binarized or freshly drawn pixels.

Files live in one cache folder: the argument ``root``, else the environment variable ``PYRO_AEVB_DATA``, else the
user's cache folder.  A file that isn't there is downloaded with a progress bar, checked, and only then given its name;
one that is there is checked and used, and nothing is fetched.

Pixels, N images of D pixels in [0, 1]:

* ``"grey"``: as they are;
* ``"threshold"``: 1 if above 1/2, else 0;
* ``"static"``: drawn from Bernoulli(pixel) once, from a seed;
* ``"dynamic"``: drawn anew at each visit (training data; validation and test data are drawn once, as for "static").
"""

from __future__ import annotations

import ast
import functools
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.datasets.download import cache_folder, fetched_file, set_aside
from pyro_aevb.datasets.pixels import PIXELS, Binarized, draw_pixels
from pyro_aevb.random_state import unmoved

FREY_URL = "https://github.com/jmtomczak/vae_vampprior/raw/master/datasets/Freyfaces/freyfaces.pkl"
FREY_SHA256 = "3b69410c6a5fd6e03f09012905168be3712373a094a776f7e58fcd0670d2138a"
AMAT_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
# Larochelle's text files come with and without a blank at a line's end, so it is the bits that are checked: SHA-256 of
# the (N, 784) array packed by numpy.packbits(axis=1).
AMAT_BITS_SHA256 = {
    "train": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    "valid": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    "test": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
}
# Addresses and checksums as in torchvision, whose import takes a second.
MNIST_URLS = ["https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"]
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
FASHION_URLS = ["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"]
FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
# Debian's dataset-fashion-mnist holds the same images, compressed anew.
DEBIAN_FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "cf8536b0aa1a6ac5fa3f23001093305c",
    "t10k-images-idx3-ubyte.gz": "f78720b4224f21cce2f2ccf2d7a94c9a",
    "train-labels-idx1-ubyte.gz": "10bea18fdb374794d4bb42e356e600c9",
    "t10k-labels-idx1-ubyte.gz": "0d30e22e447f3c33dab9ed536400ac01",
}
IDX_PARTS = ("train", "t10k")


class ImageData(NamedTuple):
    """Images as rows of D pixels in [0, 1]; ``image_shape`` is (rows, columns).

    ``train`` is a tensor (N, D), or a :class:`Binarized` for dynamic pixels; ``validation`` may be ``None``.
    """

    name: str
    train: Tensor | Binarized
    test: Tensor
    validation: Tensor | None
    image_shape: tuple[int, int]


class _Images(NamedTuple):
    train: Tensor
    test: Tensor
    validation: Tensor | None
    image_shape: tuple[int, int]


def load_dataset(name: str, *, pixels: str | None = None, root: str | Path | None = None, seed: int = 0) -> ImageData:
    """Return a data set by name.

    Args:
        name: ``"digits"`` (8x8, comes with scikit-learn), ``"mnist"``, ``"fashion-mnist"``, ``"frey-face"``,
            ``"binarized-mnist"`` (Larochelle's fixed binarization).
        pixels: ``"grey"``, ``"threshold"``, ``"static"`` or ``"dynamic"``; by default ``"static"``, and ``"grey"``
            (as they are) for Frey Face and for binarized MNIST.
        root: the cache folder.
        seed: for static pixels, and for the random splits of digits and Frey Face.

    Raises:
        ValueError: for an unknown name, and for a file with another checksum (it is renamed NAME.corrupt).
        ConnectionError: if a file is missing and can't be downloaded; the message says which file to put where.

    >>> from pyro_aevb.datasets import load_dataset
    >>> digits = load_dataset("digits")
    >>> digits.train.shape, digits.test.shape, digits.image_shape
    (torch.Size([1437, 64]), torch.Size([360, 64]), (8, 8))
    """
    if name not in DATASETS:
        raise ValueError(f"expected a data set out of {sorted(DATASETS)}, got {name!r}")
    if pixels is None:
        pixels = "grey" if name in ("frey-face", "binarized-mnist") else "static"
    if pixels not in PIXELS:
        raise ValueError(f"expected pixels out of {PIXELS}, got {pixels!r}")
    images = DATASETS[name](cache_folder(root), seed)
    draw = functools.partial(draw_pixels, pixels=pixels, generator=torch.Generator().manual_seed(seed))
    return ImageData(
        name=name,
        test=draw(images.test),
        validation=None if images.validation is None else draw(images.validation),
        train=Binarized(images.train) if pixels == "dynamic" else draw(images.train),
        image_shape=images.image_shape,
    )


def load_labels(name: str, *, root: str | Path | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the labels of a data set's training and test images, of int64, in the order of :func:`load_dataset`.

    Args:
        name: ``"digits"``, ``"mnist"`` or ``"fashion-mnist"``; the others have none.
        root: the cache folder.
        seed: that of :func:`load_dataset`, by which digits are split.

    Raises:
        ValueError, ConnectionError: as :func:`load_dataset`, and for a data set without labels.

    >>> from pyro_aevb.datasets import load_labels
    >>> [labels.shape for labels in load_labels("digits")]
    [torch.Size([1437]), torch.Size([360])]
    """
    if name not in LABELS:
        raise ValueError(f"expected a data set with labels out of {sorted(LABELS)}, got {name!r}")
    return LABELS[name](cache_folder(root), seed)


def _digits(folder: Path, seed: int) -> _Images:
    with unmoved():
        from sklearn.datasets import load_digits  # here, since it takes a second to import

    images = torch.as_tensor(load_digits().data / 16.0, dtype=torch.float32)
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
    return _Images(images[:1437], images[1437:], None, (8, 8))


def _mnist(folder: Path, seed: int) -> _Images:
    return _idx_images(*_mnist_files(folder))


def _mnist_files(folder: Path) -> tuple[Path, list[str], list[dict[str, str]]]:
    return folder / "MNIST" / "raw", MNIST_URLS, [MNIST_MD5]


def _fashion_mnist(folder: Path, seed: int) -> _Images:
    return _idx_images(*_fashion_mnist_files(folder))


def _fashion_mnist_files(folder: Path) -> tuple[Path, list[str], list[dict[str, str]]]:
    return folder / "FashionMNIST" / "raw", FASHION_URLS, [FASHION_MD5, DEBIAN_FASHION_MD5]


def _digits_labels(folder: Path, seed: int) -> tuple[Tensor, Tensor]:
    with unmoved():
        from sklearn.datasets import load_digits

    labels = torch.as_tensor(load_digits().target)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    return labels[:1437], labels[1437:]


def _idx_images(folder: Path, mirrors: list[str], md5: list[dict[str, str]]) -> _Images:
    files = [_idx_bytes(folder, f"{part}-images-idx3-ubyte.gz", mirrors, md5) for part in IDX_PARTS]
    sizes = [np.frombuffer(raw, ">u4", count=4)[1:] for raw in files]  # magic number, images, rows, columns
    pixels = [
        np.frombuffer(raw, np.uint8, offset=16).reshape(size[0], -1) for raw, size in zip(files, sizes, strict=True)
    ]
    return _Images(_to_unit(pixels[0]), _to_unit(pixels[1]), None, (28, 28))


def _idx_labels(folder: Path, mirrors: list[str], md5: list[dict[str, str]]) -> tuple[Tensor, Tensor]:
    files = [_idx_bytes(folder, f"{part}-labels-idx1-ubyte.gz", mirrors, md5) for part in IDX_PARTS]
    train, test = (torch.from_numpy(np.frombuffer(raw, np.uint8, offset=8).astype(np.int64)) for raw in files)
    return train, test


def _idx_bytes(folder: Path, file: str, mirrors: list[str], md5: list[dict[str, str]]) -> bytes:
    known = [f"md5:{known[file]}" for known in md5]
    return gzip.decompress(fetched_file(folder / file, [m + file for m in mirrors], known).read_bytes())


def _frey_face(folder: Path, seed: int) -> _Images:
    raw = fetched_file(folder / "frey_face" / "freyfaces.pkl", [FREY_URL], [f"sha256:{FREY_SHA256}"]).read_bytes()
    # The file is a numpy pickle in the text protocol: its longest line is S'...', the pixels as an escaped string.
    # It is read as that and not unpickled, so nothing in it is executed.
    pixels = ast.literal_eval("b" + max(raw.split(b"\n"), key=len)[1:].decode("latin1").rstrip())
    images = _to_unit(np.frombuffer(pixels, np.uint8).reshape(1965, 560))
    images = images[torch.randperm(1965, generator=torch.Generator().manual_seed(seed))]
    # 1565 to learn from, of which 65 are held out to choose when to stop, and 400 to test on.
    return _Images(images[:1500], images[1565:], images[1500:1565], (28, 20))


def _binarized_mnist(folder: Path, seed: int) -> _Images:
    path = folder / "binarized_mnist" / "binarized_mnist_packed.npz"
    if not path.exists():
        texts = {
            split: fetched_file(
                path.parent / f"binarized_mnist_{split}.amat", [f"{AMAT_URL}binarized_mnist_{split}.amat"], []
            )
            for split in AMAT_BITS_SHA256
        }
        packed: dict[str, Any] = {split: _packed(split, text) for split, text in texts.items()}
        part = path.with_suffix(".part.npz")
        np.savez(part, **packed)
        part.replace(path)
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            packed = {split: arrays[split] for split in AMAT_BITS_SHA256}
    except Exception as error:
        raise set_aside(path, f"it can't be read ({error})") from error
    parts = {}
    for split, bits in packed.items():
        _check_bits(split, bits, path)
        parts[split] = torch.as_tensor(np.unpackbits(bits, axis=1, count=784)).float()
    return _Images(parts["train"], parts["test"], parts["valid"], (28, 28))


def _packed(split: str, text: Path) -> np.ndarray:
    """Return the pixels of one of Larochelle's text files, eight to a byte."""
    try:
        bits = np.packbits(np.loadtxt(text, dtype=np.uint8), axis=1)
    except ValueError as error:
        raise set_aside(text, f"it can't be read ({error})") from error
    _check_bits(split, bits, text)
    return bits


def _check_bits(split: str, bits: np.ndarray, path: Path) -> None:
    if hashlib.sha256(bits.tobytes()).hexdigest() != AMAT_BITS_SHA256[split]:
        raise set_aside(path, f"its {split} images have another checksum than Larochelle's")


def _to_unit(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.divide(pixels, np.float32(255.0), dtype=np.float32))  # in one pass


LABELS: dict[str, Callable[[Path, int], tuple[Tensor, Tensor]]] = {
    "digits": _digits_labels,
    "mnist": lambda folder, seed: _idx_labels(*_mnist_files(folder)),
    "fashion-mnist": lambda folder, seed: _idx_labels(*_fashion_mnist_files(folder)),
}
DATASETS: dict[str, Callable[[Path, int], _Images]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
    "frey-face": _frey_face,
    "binarized-mnist": _binarized_mnist,
}
