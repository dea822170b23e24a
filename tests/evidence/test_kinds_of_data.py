"""What fit takes, everything takes: each kind of data gives the numbers of its tensor, from every entry point."""

import functools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from frames import Frame
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyro_aevb import AEVB, VAE, denoise, elbo, evidence_gap, fit, log_marginal_likelihood
from pyro_aevb.evidence import Evidence

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
X = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))


class Rows(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i]


class Points(IterableDataset):
    def __iter__(self):
        return iter(X)


def mapped(folder):
    np.save(folder / "x.npy", X.numpy())
    return np.load(folder / "x.npy", mmap_mode="r")


KINDS = {
    "array": lambda folder: X.numpy(),
    "memory-mapped": mapped,
    "frame": lambda folder: Frame(X.double().numpy()),
    "frame of objects": lambda folder: Frame(X.double().numpy().astype(object)),
    "Dataset": lambda folder: Rows(),
    "TensorDataset": lambda folder: TensorDataset(X),
    "IterableDataset": lambda folder: Points(),
    "DataLoader": lambda folder: DataLoader(X, batch_size=10),
    "generator": lambda folder: (rows for rows in X.split(10)),
}


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0).expand([*z.shape, 3]).to_event(1), obs=x)


def guide(x):  # the posterior: every weight is p(x)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.sum(-1) / 4, 0.5))


def log_p():
    covariance = torch.eye(3).double() + 1
    return dist.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(X.double())


ENTRY_POINTS = {
    "elbo": lambda data: elbo(model, guide, data, batch_size=10).value,
    "importance": lambda data: (
        log_marginal_likelihood(model, guide, data, num_particles=2, batch_size=10, progress=False).value
    ),
    "quadrature": lambda data: log_marginal_likelihood(model, None, data, method="quadrature", progress=False).value,
    "evidence_gap": lambda data: (
        evidence_gap(
            model, guide, data, evidence=Evidence(log_p(), torch.zeros(23), "numerical"), num_steps=1, progress=False
        ).elbo.value
    ),
}


@pytest.mark.parametrize("entry", ENTRY_POINTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_log_p(kind, entry, tmp_path):
    value = ENTRY_POINTS[entry](KINDS[kind](tmp_path))
    torch.testing.assert_close(value.double(), log_p(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_encoded_and_trained_on(kind, tmp_path):
    vae = VAE(3, 2, hidden_dims=(4,), likelihood="gaussian")
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(vae.encode(KINDS[kind](tmp_path))), vae.encode(X))
    history = fit(AEVB(vae.model, vae.guide, ADAM), KINDS[kind](tmp_path), batch_size=10, samples=23, progress=False)
    assert history.samples == 23


def test_several_arguments_of_several_kinds():
    def scaled(x, s):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(s * z, 1.0), obs=x)

    x, s = X[:, 0], X[:, 1].abs() + 0.5
    truth = dist.Normal(0.0, (s**2 + 1).sqrt()).log_prob(x)
    kinds = [(x.numpy(), s), (x, Frame(s.numpy())), (DataLoader(TensorDataset(x, s), batch_size=7),)]
    for args in kinds:
        value = log_marginal_likelihood(scaled, None, *args, method="quadrature", batch_size=7, progress=False).value
        torch.testing.assert_close(value, truth, rtol=1e-4, atol=1e-4, check_dtype=False)


def test_masks_go_along():
    vae = VAE(3, 2, hidden_dims=(4,), likelihood="gaussian")
    observed = X > -0.5
    with torch.no_grad():
        codes = vae.encode(X, observed)
        for data in ((X.numpy(), observed.numpy()), (TensorDataset(X, observed),)):
            torch.testing.assert_close(torch.as_tensor(vae.encode(*data)), codes)
        torch.testing.assert_close(torch.as_tensor(vae.encode(X.numpy(), observed=observed)), codes)


def denoised(data):
    options = {"method": "importance", "num_draws": 2, "num_particles": 500, "progress": False}
    return denoise(model, guide, data, lambda x: dist.Normal(x, 1.0).to_event(1), **options)


@pytest.mark.parametrize("entry", [*ENTRY_POINTS, "denoise"])
@pytest.mark.filterwarnings("ignore:the draws of")
def test_a_loader_that_shuffles_is_told_of(entry):
    run = ENTRY_POINTS.get(entry, denoised)
    with pytest.warns(UserWarning, match="result n isn't that of row n; pass shuffle=False, or the data set itself"):
        run(DataLoader(TensorDataset(X), batch_size=10, shuffle=True))


REFUSED = {
    "text": (Frame(np.array([["a", "b"]], dtype=object)), TypeError, "frame of numbers.*get_dummies"),
    "a list": ([1.0, 2.0], TypeError, "a tensor, an array, .*torch.as_tensor"),
    "a string": ("x.npy", TypeError, "a tensor, an array"),
    "a dict of no data": ({"x": [1.0, 2.0]}, TypeError, "a tensor, an array"),
    "a number": (torch.tensor(1.0), ValueError, "datapoints, got a single number"),
    "nothing": (X[:0], ValueError, "at least one datapoint"),
    "an empty stream": (iter(()), ValueError, "at least one datapoint, got a stream without minibatches"),
    "NaN": (torch.where(X > 0, X, torch.nan), ValueError, "finite data.*(datapoint|row) 0"),
    "pairs for model(x)": (
        DataLoader(TensorDataset(X, X[:, 0]), batch_size=10), TypeError,
        r"(model|guide)\(x\) takes, got 2 .*leaves the label out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("entry", [*ENTRY_POINTS, "fit"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_data_is_refused_in_one_sentence(name, entry):
    data, error, sentence = REFUSED[name]
    run = ENTRY_POINTS.get(entry, lambda d: fit(AEVB(model, guide, ADAM), d, progress=False))
    if entry == "fit" and name == "an empty stream":
        sentence = "at least one"
    with pytest.raises(error, match=rf"(?s)^expected .*{sentence}"):
        run(data)


def test_a_vae_in_the_place_of_two_functions():
    vae = VAE(3, 2, hidden_dims=(4,), likelihood="gaussian")
    for estimate in (elbo, log_marginal_likelihood):
        with pytest.raises(TypeError, match=r"expected a callable .*\(vae.model, vae.guide, x\)"):
            estimate(vae, X)


def test_a_loader_of_labels_follows_the_remedy():
    loader = DataLoader(
        TensorDataset(X, X[:, 0]), batch_size=10, collate_fn=lambda rows: torch.stack([x for x, _ in rows])
    )
    torch.testing.assert_close(elbo(model, guide, loader).value.double(), log_p(), rtol=1e-4, atol=1e-4)


def test_whole_numbers_of_a_frame_are_numbers():
    counts = Frame(np.arange(6).reshape(6, 1))

    def poisson(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(z), obs=x[:, 0])

    value = log_marginal_likelihood(poisson, None, counts, method="quadrature", progress=False).value
    k = torch.arange(6.0)  # negative binomial: (k + 1) / 2^(k + 2)
    torch.testing.assert_close(
        value, (k + 1).log() - (k + 2) * torch.tensor(2.0).log(), rtol=1e-4, atol=1e-4, check_dtype=False
    )
