"""Any pair in a folder: the same tensors after loading, and a sentence for what doesn't fit."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_aevb import AEVB, SGVB, elbo, fit, load_pair, log_marginal_likelihood, save_pair
from pyro_aevb.training import saved_pair
from pyro_aevb.training.saved_pair import PAIR, read_pair

X = torch.tensor([[1.0], [2.0], [4.0]])


def gaussian(scale=1.0, shape=(), constraint=dist.constraints.positive, dtype=torch.float32):
    """Return z ~ N(loc, 1), x ~ N(z, noise), and a guide with a network."""
    net = nn.Linear(1, 2).to(dtype)

    def model(x):
        loc = pyro.param("loc", torch.zeros(shape, dtype=dtype))
        noise = pyro.param("noise", torch.tensor(scale, dtype=dtype), constraint=constraint)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc.expand(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, noise).to_event(1), obs=x)

    def guide(x):
        pyro.module("net", net)
        loc, log_scale = net(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


def with_more(model, guide):
    def more(x):
        pyro.param("more", torch.ones(1))
        guide(x)

    return model, more


def trained():
    pair = gaussian()
    fit(AEVB(*pair, functools.partial(torch.optim.Adam, lr=0.05), SGVB()), X, epochs=5, batch_size=3, progress=False)
    return pair


def test_a_loaded_pair_has_the_evidence_of_the_trained_one(tmp_path):
    pair = trained()
    loc, noise = (pyro.param(name).item() for name in ("loc", "noise"))
    save_pair(*pair, tmp_path / "run", X)
    before = elbo(*pair, X, num_particles=50, seed=0).value
    pyro.clear_param_store()
    again = gaussian()
    assert load_pair(*again, tmp_path / "run", X[:1]) is None
    assert (loc, noise) == tuple(pyro.param(name).item() for name in ("loc", "noise"))
    assert loc != 0
    assert noise != 1
    assert torch.equal(elbo(*again, X, num_particles=50, seed=0).value, before)
    exact = dist.Normal(loc, math.sqrt(1 + noise**2)).log_prob(X[:, 0])
    found = log_marginal_likelihood(*again, X, method="quadrature", seed=0, progress=False).value
    torch.testing.assert_close(found, exact.double(), atol=1e-4, rtol=0)


class Module(PyroModule):
    """A model with a constrained parameter, a buffer, and a network that isn't trained."""

    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.rand(()), constraint=dist.constraints.positive)
        self.register_buffer("shift", torch.rand(1))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] + self.shift, self.scale).to_event(1), obs=x)


def module_and_frozen():
    model, frozen = Module(), nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))

    def guide(x):
        slope = pyro.param("slope", torch.rand(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * frozen(x)[:, 0], 1.0))

    return model, guide, [*model.parameters(), *model.buffers(), *frozen.parameters(), *frozen.buffers()]


def test_modules_come_back_with_buffers_and_what_is_not_trained(tmp_path):
    model, guide, tensors = module_and_frozen()
    save_pair(model, guide, tmp_path, X)
    slope = pyro.param("slope").item()
    pyro.clear_param_store()
    torch.manual_seed(1)
    model, guide, others = module_and_frozen()
    assert not all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))
    load_pair(model, guide, tmp_path, X)
    assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))
    assert pyro.param("slope").item() == slope


def test_an_automatic_guide_comes_back(tmp_path):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = X[:, 0]
    guide = AutoNormal(model)
    fit(AEVB(model, guide, functools.partial(torch.optim.Adam, lr=0.1)), x, epochs=3, batch_size=3, progress=False)
    save_pair(model, guide, tmp_path, x)
    median = guide.median(x)["z"]
    pyro.clear_param_store()
    guide = AutoNormal(model)
    load_pair(model, guide, tmp_path, x)
    torch.testing.assert_close(guide.median(x)["z"], median, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: gaussian(shape=(1,)), "for 'loc' float32 .*has float32 of shape \\(1,\\)"),
        (lambda: gaussian(constraint=dist.constraints.real), "for 'noise' .*GreaterThan.*has .*Real"),
        (lambda: gaussian(dtype=torch.float64), "float32 .*float64"),
        (lambda: with_more(*gaussian()), "for 'more' nothing"),
    ],
)  # fmt: skip
def test_another_pair_is_refused_and_nothing_is_changed(other, words, tmp_path):
    save_pair(*trained(), tmp_path, X)
    pyro.clear_param_store()
    pair = other()
    x = X.double() if "float64" in words else X
    with pytest.raises(ValueError, match=f"expected a pair like the one in .*{words}.*; make model and guide by"):
        load_pair(*pair, tmp_path, x)
    assert (pyro.param("loc") == 0).all()


def test_a_second_network_under_the_name_of_the_first_is_refused(tmp_path):
    save_pair(*gaussian(), tmp_path, X)
    with pytest.raises(ValueError, match=r"call pyro\.clear_param_store\(\) before"):
        load_pair(*gaussian(), tmp_path, X)


def test_a_damaged_file_is_refused(tmp_path):
    save_pair(*gaussian(), tmp_path, X)
    path = tmp_path / PAIR
    whole = path.read_bytes()
    assert read_pair(tmp_path).rows == [((1,), "float32")]
    for damaged in (
        whole[:-1],
        whole[:-1] + bytes([whole[-1] ^ 1]),
        b"",
        whole.replace(b"GreaterThan", b"GreaterThat"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            read_pair(tmp_path)
    path.write_bytes(safetensors.torch.save({"a": torch.ones(1)}, {"format": "2", "pyro_aevb": "9.0"}))
    with pytest.raises(ValueError, match=r"format 1, got 2, written by pyro_aevb 9\.0.*: upgrade"):
        read_pair(tmp_path)
    with pytest.raises(FileNotFoundError, match="a folder that save_pair made"):
        read_pair(tmp_path / "none")


def test_what_cannot_be_saved_is_refused(tmp_path):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="with parameters to save, got none"):
        save_pair(model, None, tmp_path / "run", X[:, 0])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected a folder, got the file"):
        save_pair(*gaussian(), tmp_path / "file", X)


def test_nothing_is_drawn_or_left_behind(tmp_path):
    pair = trained()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    save_pair(*pair, tmp_path, X)
    save_pair(*pair, tmp_path, X)
    load_pair(*pair, tmp_path, X)
    assert torch.equal(torch.get_rng_state(), before)
    assert [path.name for path in tmp_path.iterdir()] == [saved_pair.PAIR]
