"""Files that were damaged or made to do harm, and what reading them does: one sentence, or what was written."""

import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from faulty_runs import child, ended
from PIL import Image

from pyro_aevb import VAE, load, save
from pyro_aevb.datasets import read_array, write_array
from pyro_aevb.training.checkpoint import Checkpoints
from pyro_aevb.vae import saving

ONE, SAME, OTHER = "one sentence", "read as it was written", "other numbers, in a format without a checksum"
MEGABYTES, SECONDS = 700, 30  # what reading a hostile file may take on top of what the process has
LONGEST = 2000  # characters of a sentence


def sentence(error):
    """Assert that this is an error for a reader: of the usual kinds, expected, got."""
    assert isinstance(error, ValueError | OSError), repr(error)
    assert "expected" in str(error), repr(error)
    assert len(str(error)) < LONGEST, str(error)[:LONGEST]
    return ONE


# -- Damage ------------------------------------------------------------------------------------------------------------


def damaged(content, rng):
    """Return other bytes: cut short, with bits turned over, with a part zeroed, doubled or left out."""
    while True:
        place, length = rng.randrange(len(content)), rng.randrange(1, 20)
        bit = bytes([content[place] ^ (1 << rng.randrange(8))])
        kinds = [content[:place], content[:place] + bit + content[place + 1 :]]
        kinds += [content[:place] + bytes(length) + content[place + length :]]
        kinds += [content[: place + length] + content[place:], content[:place] + content[place + length :]]
        other = rng.choice(kinds)
        if other != content:
            return other


def _vae():
    torch.manual_seed(0)
    return VAE(5, 2, hidden_dims=(4,), prior="mixture")


def _checkpoint(rng, folder):
    checkpoints = Checkpoints(folder)
    for age in ("old", "new"):
        checkpoints.write({"age": age, "parameters": torch.arange(50.0), "text": "x" * 100})
    path = max(folder.iterdir())
    path.write_bytes(damaged(path.read_bytes(), rng))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert checkpoints.newest()["age"] == "old"
    assert "expected whole checkpoints" in str(caught[0].message)
    return "the one before, and a warning"


def _model(rng, folder, pattern):
    save(_vae(), folder)
    (path,) = folder.glob(pattern)
    path.write_bytes(damaged(path.read_bytes(), rng))
    try:
        same = load(folder).state_dict()
    except (ValueError, OSError) as error:
        return sentence(error)
    assert all(torch.equal(same[name], value) for name, value in _vae().state_dict().items()), "another model"
    return SAME


def _array(rng, folder, name):
    folder.mkdir()
    array = np.random.default_rng(0).integers(0, 255, (6, 5)).astype(np.float32)
    path = folder / name
    if name == "x.png":
        Image.fromarray(array.astype(np.uint8)).save(path)
    else:
        write_array(path, array)
    source = folder if name == "x.png" else path
    expected = read_array(source)
    path.write_bytes(damaged(path.read_bytes(), rng))
    try:
        got = read_array(source)
    except (ValueError, OSError) as error:
        return sentence(error)
    if np.array_equal(got, expected):
        return SAME
    assert name != "x.npz", "other numbers out of a zip, which has a checksum"
    return OTHER


DAMAGED = {
    "a checkpoint": _checkpoint,
    "vae.json": lambda rng, folder: _model(rng, folder, "vae.json"),
    "weights": lambda rng, folder: _model(rng, folder, "weights-*"),
    "an .npy": lambda rng, folder: _array(rng, folder, "x.npy"),
    "an .npz": lambda rng, folder: _array(rng, folder, "x.npz"),
    "a .csv": lambda rng, folder: _array(rng, folder, "x.csv"),
    "a .png": lambda rng, folder: _array(rng, folder, "x.png"),
}


def corrupt(name, rng, folder):
    """Damage a file at random, read it, and return what came of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return [DAMAGED[name](rng, folder)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- Harm --------------------------------------------------------------------------------------------------------------


def _large(rng):
    return int(10 ** rng.uniform(6, 18))


def _npy(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _npz(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        for part in content:
            file.write(part)
    return buffer.getvalue()


def _zeros(rng):
    megabytes = rng.randrange(280, 500)
    return _npz([_npy((megabytes * 2**18,)), *[bytes(2**20)] * megabytes])


def _png(rng):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = int(10 ** rng.uniform(3.8, 9)), int(10 ** rng.uniform(3.8, 9))
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


ARRAYS = {
    "x.npy": lambda rng: rng.choice([_npy((_large(rng), _large(rng))), _npy((-_large(rng),))]),
    "x.npz": lambda rng: rng.choice([_npz([_npy((_large(rng),))]), _zeros(rng)]),
    "x.csv": lambda rng: rng.choice(
        [b'1,2\n"' + b"3," * rng.randrange(10**6), b"1,2\n" + b"\0" * 10, b"1" * 10**6 + b"x"]
    ),
    "x.png": lambda rng: rng.choice([_png(rng), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" + b"x" * 99]),
}
SIZES = ("x_dim", "latent_dim", "hidden_dims", "num_components", "num_flows", "rank", "num_levels", "num_data")
PARTS = {
    "num_components": ("prior", "priors.VampPrior"),
    "num_flows": ("posterior", "posteriors.PlanarFlow"),
    "rank": ("posterior", "posteriors.LowRankGaussian"),
    "num_levels": ("likelihood", "likelihoods.Categorical"),
}


def _hostile_description(rng, folder):
    save(_vae(), folder)
    record = json.loads((folder / "vae.json").read_text())
    size, number = rng.choice(SIZES), _large(rng)
    if size == "hidden_dims":
        record["vae"][size] = rng.choice([[number, number], [1] * rng.randrange(10**4, 10**5)])
    elif size == "num_data":
        family = {"class": "posteriors.DiagonalGaussian", "arguments": {}}
        record["vae"]["posterior"] = {"class": "posteriors.FreeForm", "arguments": {"posterior": family, size: number}}
    elif size in PARTS:
        part, name = PARTS[size]
        record["vae"][part] = {"class": name, "arguments": {size: number}}
    else:
        record["vae"][size] = number
    record["checksum"] = saving.checksum({name: value for name, value in record.items() if name != "checksum"})
    (folder / "vae.json").write_text(json.dumps(record))
    return lambda: load(folder)


def _odd_folder(rng, folder):
    save(_vae(), folder)
    path = rng.choice([folder / "vae.json", *folder.glob("weights-*")])
    path.unlink()
    odd = rng.choice(["pipe", "folder", "loop", "zero", "deep", "long"])
    if odd == "pipe":
        os.mkfifo(path)
    elif odd == "folder":
        path.mkdir()
    elif odd in ("loop", "zero"):
        path.symlink_to(path if odd == "loop" else "/dev/zero")
    else:
        path = folder / "vae.json"
        path.write_bytes(b"[" * 10**6 if odd == "deep" else b'{"format": ' + b"9" * 10**6 + b"}")
    return lambda: load(folder)


def _hostile_array(rng, folder):
    folder.mkdir()
    name = rng.choice(sorted(ARRAYS))
    if rng.random() < 0.1:
        os.mkfifo(folder / name)
    else:
        (folder / name).write_bytes(ARRAYS[name](rng))
    return lambda: read_array(folder if name == "x.png" else folder / name)


HOSTILE = {"vae.json": _hostile_description, "a model's folder": _odd_folder, "data": _hostile_array}


def harm(name, rng, folder):
    """Read what is made to do harm, in a process with little memory and time; return what came of it."""
    read, log = HOSTILE[name](rng, folder), folder.with_suffix(".log")

    def work():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEGABYTES * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.alarm(SECONDS)
        try:
            read()
        except (ValueError, OSError) as error:
            sentence(error)
            return
        raise AssertionError("it was read")

    try:
        code = ended(child(work, log), log)
        assert code == 0, f"exit code {code}"
        return [ONE]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seeded(name, number):
    """Return the random numbers of a trial."""
    return random.Random(f"{name} {number}")
