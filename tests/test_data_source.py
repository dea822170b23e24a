"""Whatever holds the data, the same minibatches come out of it."""

import functools
import os
import subprocess
import sys
import textwrap

import numpy as np
import pyro
import pytest
import scipy.sparse
import torch
from frames import Frame
from pairs import bernoulli_vae
from spy import DATA, Spy
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyro_aevb import AEVB, MCEM, VAE, ReweightedWakeSleep, WakeSleep
from pyro_aevb.data_source import DataSet
from pyro_aevb.datasets import Binarized
from pyro_aevb.learners import Minibatch, StepSettings
from pyro_aevb.training import fit

ADAM = functools.partial(torch.optim.Adam, lr=0.01)


class Rows(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        assert isinstance(i, int)
        return self.x[i]


class Points(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


class Watching(Spy):
    """Notes the datapoints themselves."""

    def note(self, x, *labels, places):
        self.seen.append(x[:, 0].clone())


def memory_mapped(tmp_path, mode):
    np.save(tmp_path / "x.npy", DATA.numpy())
    return np.load(tmp_path / "x.npy", mmap_mode=mode)


def seen(data, **kwargs):
    spy = Watching()
    history = fit(spy, data, progress=False, **kwargs)
    x = torch.cat(spy.seen)
    assert history.samples == len(x)
    return x, [len(part) for part in spy.seen]


@pytest.mark.parametrize("kind", ["array", "r", "r+", "c", "rows", "tensor data set"])
def test_data_sets_of_all_kinds_come_in_the_same_order(kind, tmp_path):
    data = {
        "array": lambda: DATA.numpy(),
        "rows": lambda: Rows(DATA),
        "tensor data set": lambda: TensorDataset(DATA),
    }.get(kind, lambda: memory_mapped(tmp_path, kind))()
    expected, sizes = seen(DATA, epochs=3, batch_size=10)
    x, got = seen(data, epochs=3, batch_size=10)
    assert torch.equal(x, expected)
    assert got == sizes == [10, 10, 5] * 3


WHOLE = torch.arange(100).reshape(25, 4) % 7


def narrow(kind, folder):
    """Whole numbers, as they lie in an array of 8 or 16 bits, in a file of it, or in a sparse matrix."""
    if kind.startswith("mapped "):
        np.save(folder / "x.npy", WHOLE.numpy().astype(kind.split()[1]))
        return np.load(folder / "x.npy", mmap_mode="r")
    if kind.startswith("torch sparse"):
        return WHOLE.double().to_sparse_csr() if kind.endswith("csr") else WHOLE.short().to_sparse()
    if kind.startswith("sparse "):
        return getattr(scipy.sparse, kind.split()[1])(WHOLE.numpy())
    if kind == "arrow":
        return Arrow(WHOLE.numpy())
    if kind == "loader":
        return DataLoader(WHOLE.to(torch.uint8), batch_size=10)
    return WHOLE.numpy().astype(kind[6:]) if kind.startswith("array ") else WHOLE.to(getattr(torch, kind))


class Arrow:
    """What an Arrow table has: a way to a frame."""

    def __init__(self, values):
        self.values = values

    def to_pandas(self):
        return Frame(self.values)


NARROW = ["uint8", "int16", "array uint16", "array int8", "mapped uint8", "mapped int16", "loader", "arrow"]
SPARSE = ["sparse csr_array", "sparse csc_matrix", "sparse coo_array", "torch sparse csr", "torch sparse coo"]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("kind", [*NARROW, *SPARSE])
def test_numbers_of_8_and_16_bits_come_as_floats_and_labels_as_they_are(kind, tmp_path):
    data = narrow(kind, tmp_path)
    floats, options = WHOLE.float(), {"batch_size": 10, "epochs": 2}
    if kind == "loader":
        floats, options = DataLoader(floats, batch_size=10), {}
    expected, sizes = seen(floats, **options)
    x, got = seen(data, **options)
    assert torch.equal(x, expected)
    assert (x.dtype, got) == (torch.float32, sizes)
    if kind != "loader":
        labels = DataSet((data, WHOLE[:, 0], WHOLE > 3)).at(torch.tensor([3, 1])).tensors
        assert [each.dtype for each in labels] == [torch.float32, torch.int64, torch.bool]
        assert torch.equal(labels[0], WHOLE[[3, 1]].float())


def test_an_array_of_an_hdf5_file_comes_as_one_in_memory(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["inside/x"] = DATA.numpy()
        array, expected = file["inside/x"], seen(DATA, epochs=3, batch_size=10)
        got = seen(array, epochs=3, batch_size=10)
        assert torch.equal(got[0], expected[0])
        assert got[1] == expected[1]
        assert torch.equal(DataSet(array).at(torch.tensor([3, 0, 3])).tensors[0], DATA[[3, 0, 3]])
        for group in (file, file["inside"]):
            with pytest.raises(TypeError, match=r"expected an array of an HDF5 file, got <HDF5 .*: file\[name\]"):
                DataSet(group)


def test_what_is_not_finite_in_a_sparse_matrix_is_named_by_its_row():
    x = WHOLE.double().numpy().copy()
    x[13, 2] = np.nan
    with pytest.raises(ValueError, match="got 1 NaN or infinite value in argument 0, the first in row 13 of the data"):
        fit(Spy(), scipy.sparse.csr_array(x), epochs=1, batch_size=10, progress=False)
    with pytest.raises(ValueError, match="got 1 NaN or infinite value in argument 0, the first in row 13 of the data"):
        DataSet(scipy.sparse.csr_array(x)).at(torch.tensor([1, 13]))  # without a run, as evaluation reads it
    with pytest.raises(ValueError, match=r"datapoints as rows, got one of shape \(4,\)"):
        fit(Spy(), scipy.sparse.coo_array(np.arange(4.0)), epochs=1, progress=False)


def test_a_vae_trains_on_bytes_as_on_their_floats(tmp_path):
    results = []
    for kind in ("float32", "mapped uint8", "sparse csr_array"):
        pyro.set_rng_seed(0)
        vae = VAE(4, 2, hidden_dims=(3,), likelihood="poisson")
        fit(AEVB(vae.model, vae.guide, ADAM), narrow(kind, tmp_path), epochs=2, batch_size=10, progress=False)
        results.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_streams_come_in_their_own_order():
    once = [torch.arange(25.0).split(10)] * 2
    expected = [torch.cat(once[0]), [10, 10, 5]]
    chunks = DATA.split(10)
    for stream, options in (
        (iter(chunks), {}),
        ((c.numpy() for c in chunks), {"epochs": 1}),
        (((c,) for c in chunks), {}),
        (DataLoader(TensorDataset(DATA), batch_size=10), {}),
        (DataLoader(Rows(DATA), batch_size=10), {}),
        (Points(DATA), {"batch_size": 10}),
    ):
        x, sizes = seen(stream, **options)
        assert torch.equal(x, expected[0])
        assert sizes == expected[1]
    x, sizes = seen(DataLoader(TensorDataset(DATA), batch_size=10), epochs=2)
    assert torch.equal(x, torch.cat([*once[0], *once[1]]))
    x, sizes = seen(DataLoader(TensorDataset(DATA), batch_size=10), samples=37)
    assert torch.equal(x, torch.cat([*once[0], *once[1]])[:37])
    assert sizes == [10, 10, 5, 10, 2]


def test_an_endless_stream_stops_when_it_is_told():
    def endless():
        while True:
            yield torch.ones(7, 1)

    assert seen(endless(), samples=30)[1] == [7, 7, 7, 7, 2]


def test_a_stream_that_ends_early_says_so():
    with pytest.warns(UserWarning, match="expected a stream of 100 samples, got 25: it ended"):
        assert seen(iter(DATA.split(10)), samples=100)[1] == [10, 10, 5]
    with pytest.raises(ValueError, match="got a stream that is empty"):
        seen(iter(()))


def test_a_million_datapoints_are_trained_on_once_and_in_order():
    class Counting(Spy):
        next = 0

        def note(self, x, *labels, places):
            assert torch.equal(x[:, 0], torch.arange(self.next, self.next + len(x)))
            self.next += len(x)

    spy = Counting()
    stream = (torch.arange(i, i + 500)[:, None] for i in range(0, 10**6, 500))
    assert fit(spy, stream, dataset_size=10**6, progress=False).samples == spy.next == 10**6


def test_labels_and_masks_come_along():
    class Comparing(Spy):
        def note(self, x, *labels, places):
            self.seen.append(torch.equal(x[:, 0].long(), *labels))

    spy, labels = Comparing(), torch.arange(25)
    for data in (
        (DATA, labels),
        (DATA.numpy(), labels),
        TensorDataset(DATA, labels),
        DataLoader(TensorDataset(DATA, labels), batch_size=10),
        iter([(DATA, labels)]),
    ):
        fit(spy, data, epochs=1, batch_size=10, progress=False)
    assert spy.seen == [True] * 13


def test_a_run_on_a_loader_is_the_run_on_its_tensor():
    results = []
    for wrap in (lambda x: x, Rows, lambda x: (np.asarray(x),)):
        pyro.set_rng_seed(0)
        vae, x = bernoulli_vae()
        fit(AEVB(vae.model, vae.guide, ADAM), wrap(x), wrap(x), epochs=3, batch_size=10, progress=False)
        results.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([DATA], TypeError, "got list"),
        (0.1, TypeError, r"got float; .*to hold a share of them out, cut them: fit\(learner, x\[n:\], x\[:n\]\)"),
        ("x.npy", TypeError, r"got str; read the file first, numpy.load\(path\)"),
        ("digits", TypeError, "got str"),
        (3, TypeError, "got int"),
        ((DATA, Rows(DATA[:5])), ValueError, "as many datapoints in each part of the data, got 5 in argument 1 and 25"),
        (iter(["digits"]), TypeError, "expected minibatches of tensors, got str"),
        (iter([DATA / 0]), ValueError, "expected finite data"),
        (torch.tensor(1.0), ValueError, "got a single number"),
    ],
)
def test_what_is_no_data_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        fit(Spy(), data, samples=10, progress=False)


def test_what_is_not_finite_on_disk_is_noticed_when_it_comes(tmp_path):
    x = memory_mapped(tmp_path, "r+")
    many = np.lib.format.open_memmap(tmp_path / "many.npy", "w+", np.float32, (3000, 1))
    many[:] = 1.0
    many[2500] = np.nan
    assert np.isfinite(x).all()
    with pytest.raises(ValueError, match="expected finite data, got 1 NaN"):
        fit(Watching(), many, epochs=1, progress=False)


def test_mcem_needs_places():
    vae, x = bernoulli_vae()
    with pytest.raises(ValueError, match="MCEM keeps a chain for each"):
        fit(MCEM(vae.model, ADAM), iter(x.split(10)), progress=False)


def test_float64_data_for_a_float32_model_is_told():
    vae = VAE(1, 1, hidden_dims=(3,), likelihood="gaussian")
    with pytest.raises(TypeError, match=r"expected x of dtype torch.float32, got torch.float64; convert"):
        fit(AEVB(vae.model, vae.guide, ADAM), DATA.double(), epochs=1, batch_size=5, progress=False)


MAPPED = """
import functools, sys, warnings
import numpy as np, pyro, torch
from harness import peak_memory
from pyro_aevb import AEVB, VAE
from pyro_aevb.training import fit
rows = 10 * 2**30 // (4 * 784)
x = np.memmap(sys.argv[1], np.float32, "w+", shape=(rows, 784))  # a sparse file: all zeros
x = np.memmap(sys.argv[1], np.float32, "r", shape=(rows, 784))
vae = VAE(784, 2, hidden_dims=(5,), dataset_size=rows)
learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-3), compile=False)
fit(learner, x, samples=250_000, batch_size=2000, progress=False)
print(peak_memory())
"""


@pytest.mark.slow
def test_ten_gigabytes_on_disk_take_little_memory(tmp_path):
    code = textwrap.dedent(MAPPED)
    command = [sys.executable, "-W", "error", "-c", code, tmp_path / "x.bin"]
    out = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert out.returncode == 0, out.stderr
    assert float(out.stdout) < 1.5


# -- Datapoints that are drawn anew at each visit ---------------------------------------------------------------------

DRAWING = {
    "aevb": lambda p, compile: AEVB(p.model, p.guide, ADAM, compile=compile),
    "reweighted": lambda p, compile: ReweightedWakeSleep(
        p.model, p.guide, ADAM, ADAM, num_particles=2, compile=compile
    ),
    "wake-sleep": lambda p, compile: WakeSleep(p.model, p.guide, ADAM, ADAM, compile=compile),
    "mcem": lambda p, compile: MCEM(p.model, ADAM, num_leapfrog=2, compile=compile),
}


def pixels(learner, data, compile, by_hand=False):
    pyro.set_rng_seed(0)
    vae, x = bernoulli_vae()
    built = DRAWING[learner](vae, compile)
    data = data(0.8 * x + 0.1)
    if by_hand:
        built.prepare(data[torch.arange(len(x))])
        pyro.set_rng_seed(1)
        order = torch.Generator().manual_seed(0)
        for _ in range(3):
            for index in torch.randperm(len(x), generator=order).split(10):
                built.step(data[index], index=index)
    else:
        built.prepare((x > 0.5).double())
        pyro.set_rng_seed(1)
        fit(built, data, epochs=3, batch_size=10, progress=False)
    return built, torch.cat([p.detach().flatten() for p in vae.parameters()])


@pytest.mark.parametrize("learner", DRAWING)
def test_pixels_are_drawn_inside_the_step_as_they_would_be_outside(learner):
    _, expected = pixels(learner, Binarized, False, by_hand=True)
    assert torch.equal(pixels(learner, Binarized, False)[1], expected)
    built, fast = pixels(learner, Binarized, "graph")
    assert torch.allclose(fast, expected, rtol=1e-9, atol=1e-12)
    assert all(capture.obstacle is None for capture in built.captures)


@pytest.mark.parametrize("compile", [False, "graph"])
def test_drawing_ends_with_the_run(compile):
    built, _ = pixels("aevb", Binarized, compile)
    x = (torch.rand(40, 6) < 0.5).double()
    torch.manual_seed(0)
    got = [built.step(x, index=torch.arange(40)).loss.item() for _ in range(3)]
    again, _ = pixels("aevb", Binarized, False)
    torch.manual_seed(0)
    expected = [again.step(x, index=torch.arange(40)).loss.item() for _ in range(3)]
    assert got == pytest.approx(expected, rel=1e-9)
    before = torch.get_rng_state()
    built.step(x, index=torch.arange(40))
    drawn = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.randn(40, 2, dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), drawn), "more than the latents was drawn"


def test_drawn_pixels_lie_where_they_are_sent_and_so_do_their_indices():
    data = DataSet((Binarized(torch.rand(4, 3)), torch.rand(4)), "meta")
    assert data.index_device == torch.device("meta")
    rows = data.at(torch.arange(2, device="meta"), drawn=False).tensors
    assert [(tuple(each.shape), each.device.type) for each in rows] == [((2, 3), "meta"), ((2,), "meta")]


def test_a_step_alone_draws_before_it_checks():
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, ADAM)
    batch = Minibatch((0.8 * x + 0.1,), draw=lambda x: (Binarized.draw(x),))
    assert learner.step_on(batch, StepSettings()).elbo.isfinite()


class Masked(Dataset):
    def __init__(self, x):
        self.x = np.ma.masked_greater(x.numpy(), 20.0)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


MASKED = {
    "array": lambda x: np.ma.masked_greater(x.numpy(), 20.0),
    "tuple": lambda x: (x, np.ma.masked_greater(x.numpy(), 20.0)),
    "data set": Masked,
    "stream": lambda x: [np.ma.masked_greater(part.numpy(), 20.0) for part in x.split(5)].__iter__(),
}


@pytest.mark.parametrize("kind", MASKED)
def test_masked_arrays_are_refused(kind):
    """What is under the mask would be trained on; with an empty mask there is nothing under it."""
    with pytest.raises(ValueError, match=r"shows all of its numbers, got a masked one, \d+ of them.* array.filled\("):
        fit(Passing(), MASKED[kind](DATA), samples=25, batch_size=5, progress=False)
    assert fit(Spy(), np.ma.masked_greater(DATA.numpy(), 99.0), samples=25, batch_size=5, progress=False).samples == 25


def test_a_masked_array_is_passed_filled_with_what_is_observed():
    """The remedy."""

    def model(x, observed):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=observed[:, 0]):
            pyro.sample("x", pyro.distributions.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0), obs=x[:, 0])

    array = np.ma.masked_greater(DATA.numpy(), 20.0)
    data = (array.filled(0.0), ~np.ma.getmaskarray(array))
    learner = AEVB(model, lambda x, observed: None, functools.partial(torch.optim.SGD, lr=1.0 / 21))
    fit(learner, data, epochs=1, batch_size=25, progress=False)
    assert pyro.param("loc").item() == pytest.approx(10.0, abs=1e-5)  # the mean of 0, ..., 20


class Holey:
    """Indexed rows, one of them not finite."""

    def __len__(self):
        return 4000

    def __getitem__(self, index):
        x = index.double()[:, None]
        return x / (x - 2500).sign().abs()


class HoleyItems(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.tensor([float(i) if i != 25 else torch.nan])


HOLEY = {
    "tensor": (lambda: Holey()[torch.arange(4000)], "row 2500 of the data"),
    "indexed": (Holey, "row 2500 of the data"),
    "data set": (HoleyItems, "row 25 of the data"),
    "stream": (lambda: iter(Holey()[torch.arange(4000)].split(100)), "datapoint 0 of minibatch 25"),
}


@pytest.mark.parametrize("kind", HOLEY)
def test_what_is_not_finite_is_named_by_its_row(kind):
    make, row = HOLEY[kind]
    data = make()
    size = 10 if kind == "data set" else 100
    with pytest.raises(ValueError, match=f"got 1 NaN or infinite value in argument 0, the first in {row};"):
        fit(Passing(), data, samples=4000, batch_size=size, progress=False)


class Passing(Spy):
    def note(self, x, *labels, places):
        pass


@pytest.mark.parametrize("mode", [None, "r"], ids=["in RAM", "on disk"])
@pytest.mark.parametrize("kind", ["f4", "f8", "i2"])
def test_bytes_in_the_other_order_are_the_same_numbers(kind, mode, tmp_path):
    values = np.arange(12, dtype=f"<{kind}").reshape(6, 2)
    np.save(tmp_path / "x.npy", values.astype(f">{kind}"))
    data = DataSet(np.load(tmp_path / "x.npy", mmap_mode=mode))
    (found,) = data.at(torch.tensor([4, 1])).tensors
    assert torch.equal(found, torch.from_numpy(values[[4, 1]]))


@pytest.mark.parametrize(
    ("dtype", "remedies"),
    [(torch.bool, 1), (torch.int64, 1), (torch.uint8, 1), (torch.float64, 2)],
    ids=lambda each: str(each).removeprefix("torch."),
)
def test_data_of_another_dtype_are_refused_with_remedies_that_work(dtype, remedies):
    vae, x = VAE(4, 2, hidden_dims=(3,)).float(), torch.ones(10, 4)
    learner, other = AEVB(vae.model, vae.guide, ADAM), x.to(dtype)
    with pytest.raises(TypeError, match=rf"got {dtype}; convert with x.to\(torch.float32\)") as refused:
        learner.step(other)
    assert ("vae.to(" in str(refused.value)) == (remedies == 2)
    learner.step(other.to(torch.float32))
    if remedies == 2:
        pyro.clear_param_store()
        vae.to(dtype)
        AEVB(vae.model, vae.guide, ADAM).step(other)
