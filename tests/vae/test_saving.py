"""A folder gives back the VAE bit for bit, at any moment; what is damaged is refused, and nothing in it is ever run."""

import contextlib
import functools
import hashlib
import inspect
import json
import os
import pickle
import resource
import socket
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from covering import some_partners
from torch import nn
from vae_parts import FITTING, D, J, N, data, make

import pyro_aevb
from pyro_aevb import VAE, load, save
from pyro_aevb.distributions import families as reparameterization
from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.files.regular import check_regular
from pyro_aevb.model_guide import log_density
from pyro_aevb.vae import load_beside
from pyro_aevb.vae.columns import Columns
from pyro_aevb.vae.descriptions import KNOWN, NAMES, UnknownPartError, describe, restore
from pyro_aevb.vae.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    CustomLikelihood,
    FixedGaussian,
    Gaussian,
    Poisson,
    SharedGaussian,
)
from pyro_aevb.vae.posteriors import (
    POSTERIORS,
    DiagonalGaussian,
    InverseAutoregressiveFlow,
    LowRankGaussian,
    PerDatapoint,
    TwoPositive,
)
from pyro_aevb.vae.priors import PRIORS, Factorised, MixturePrior, VampPrior

TABLE = Columns({"b": Gaussian(), "a": Poisson(), "entries": Bernoulli(), "d": Categorical(3)})
OTHERS = [name for name in LIKELIHOODS if name != "beta"]  # all but one take zeros and ones


def assert_same(same, vae, x=None, *args):
    """The two have the same tensors, to the bit, the same notation and the same densities."""
    for tensors in (nn.Module.named_parameters, nn.Module.named_buffers):
        got, expected = dict(tensors(same)), dict(tensors(vae))
        assert list(got) == list(expected)
        for name, tensor in expected.items():
            assert got[name].dtype == tensor.dtype, name
            assert torch.equal(got[name], tensor), name
    assert repr(same) == repr(vae)
    if x is not None:
        results = []
        for each in (vae, same):
            pyro.set_rng_seed(1)
            results.append(log_density(each.model, each.guide, x, *args, num_particles=2))
        assert torch.equal(results[0].log_joint, results[1].log_joint)
        assert torch.equal(results[0].log_q, results[1].log_q)


def round_trip(vae, folder, x=None, *args, **custom):
    save(vae, folder)
    pyro.set_rng_seed(77)
    same = load(folder, **custom)
    assert_same(same, vae, x, *args)
    return same


def shaken(vae):
    """Every parameter away from where it began."""
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return vae


def small(**kwargs):
    return shaken(VAE(D, J, **{"hidden_dims": (6,)} | kwargs))


def edit(folder, **fields):
    """Change fields of vae.json, and its checksum; a name with a double underscore is one under "vae"."""
    record = json.loads((folder / "vae.json").read_text())
    for name, value in fields.items():
        *outer, inner = name.split("__")
        (record[outer[0]] if outer else record)[inner] = value
    write_description(folder, record)


def write_description(folder, record):
    """Write a description with the checksum that it should have."""
    record = {name: value for name, value in record.items() if name != "checksum"}
    checksum = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    (folder / "vae.json").write_text(json.dumps(record | {"checksum": checksum}))


def weights_of(folder):
    (path,) = folder.glob("weights-*")
    return path


def put_weights(folder, content):
    """Put other bytes in the weights' place, with a checksum that agrees."""
    weights_of(folder).unlink()
    digest = hashlib.sha256(content).hexdigest()
    (folder / f"weights-{digest[:16]}.safetensors").write_bytes(content)
    edit(folder, sha256=digest)


# -- Exact round trips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prior", "posterior"), some_partners(FITTING))
def test_every_prior_with_every_posterior(prior, posterior, tmp_path):
    pair = (prior, posterior)
    likelihood = OTHERS[FITTING.index(pair) % len(OTHERS)]  # each in turn
    round_trip(shaken(make(*pair, likelihood)), tmp_path, data())


def test_tensors_beside_a_vae_are_those_that_were_saved_with_it(tmp_path):
    """Under names like the VAE's, in dtypes of their own; saved without any, those of before are gone."""
    decoder = nn.Linear(J, D)
    vae = small(decoder=decoder)
    beside = {"loc.decoder|0|weight": torch.randn(2, 3).double(), "decoder.weight": torch.arange(3)}
    save(vae, tmp_path, beside=beside)
    assert_same(load(tmp_path, decoder=nn.Linear(J, D)), vae)
    same, found = load_beside(tmp_path, decoder=nn.Linear(J, D))
    assert_same(same, vae)
    assert found.keys() == beside.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in beside.items()
    )
    with pytest.raises(ValueError, match="expected tensors in the VAE's state, got beside/rate of float; keep it in"):
        save(vae, tmp_path, beside={"rate": 0.1})
    save(vae, tmp_path)
    assert load_beside(tmp_path, decoder=nn.Linear(J, D))[1] == {}


@pytest.mark.exhaustive
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(("prior", "posterior"), FITTING)
def test_with_every_likelihood(prior, posterior, likelihood, tmp_path):
    x = 0.1 + 0.8 * data() if likelihood == "beta" else data()
    round_trip(shaken(make(prior, posterior, likelihood)), tmp_path, x)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"likelihood": "beta"},
        {"init": "paper", "hidden_dims": (4, 7), "dataset_size": None},
        {"x_dim": np.int64(D), "hidden_dims": [np.int64(6)], "prior": MixturePrior(np.int64(4))},
        {"x_dim": 64, "convolutions": (1, 8, 8), "likelihood": "gaussian", "posterior": "iaf"},
        {"prior": Factorised(reparameterization.LogNormal, loc=0, scale=2.5), "posterior": "weibull"},
        {"prior": "log-normal", "posterior": TwoPositive(reparameterization.Weibull, "scale", "concentration")},
        {"prior": VampPrior(3, pseudo_inputs=torch.rand(3, D)), "posterior": InverseAutoregressiveFlow(1, 9, 2)},
        {"likelihood": FixedGaussian(0.1)},
        {"likelihood": SharedGaussian(0.3)},
        {"x_dim": 4, "likelihood": TABLE},
    ],
    ids=lambda kwargs: "-".join(kwargs),
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_settings(kwargs, dtype, tmp_path):
    sizes = {"x_dim": D, "latent_dim": J, "hidden_dims": (6,), "dataset_size": N}
    vae = shaken(VAE(**sizes | kwargs).to(dtype))
    x = 0.2 + 0.6 * (torch.rand(5, vae.x_dim) < 0.4) if kwargs.get("likelihood") == "beta" else torch.ones(5, vae.x_dim)
    same = round_trip(vae, tmp_path, x.to(dtype))
    for name in ("x_dim", "latent_dim", "hidden_dims", "image_shape", "init", "dataset_size"):
        assert getattr(same, name) == getattr(vae, name)


@pytest.mark.parametrize("family", ["full", "gamma"])
def test_a_free_form_posterior(family, tmp_path):
    vae = shaken(make("normal" if family == "full" else "gamma", PerDatapoint(family, dataset_size=N)))
    round_trip(vae, tmp_path, data(), None, torch.arange(N))


def test_a_prior_in_a_precision_that_is_not_the_default(tmp_path):
    """0.5^(1/2) in float64, where load begins in float32; and rounded to bfloat16 first."""
    try:
        torch.set_default_dtype(torch.float64)
        exact = VAE(D, J, hidden_dims=(6,), prior="laplace")
    finally:
        torch.set_default_dtype(torch.float32)
    for vae in (exact, VAE(D, J, hidden_dims=(6,), prior="laplace").bfloat16().double()):
        same = round_trip(vae, tmp_path, data())
        assert torch.equal(same.prior(None).log_prob(torch.ones(J)), vae.prior(None).log_prob(torch.ones(J)))


def test_each_tensor_keeps_its_own_dtype(tmp_path):
    vae = small(encoder=nn.Sequential(nn.Linear(D, 6), nn.BatchNorm1d(6)))
    vae.decoder.bfloat16()
    vae.encoder(torch.rand(9, D))
    same = round_trip(vae, tmp_path, encoder=nn.Sequential(nn.Linear(D, 6), nn.BatchNorm1d(6)).double())
    assert same.decoder[0].weight.dtype == torch.bfloat16
    assert same.encoder[1].num_batches_tracked == vae.encoder[1].num_batches_tracked > 0


GIVEN = {
    "number": lambda: dist.Normal(0.0, 2.0),
    "float64": lambda: dist.Laplace(torch.zeros(J).double(), 0.1).to_event(1),
    "expanded": lambda: dist.StudentT(5.0, 0.0, 1.0).expand([J]).to_event(1),
    "ours": lambda: reparameterization.StudentT(torch.tensor(5.0), torch.tensor(0.0), torch.tensor(1.0)),
    "covariance": lambda: dist.MultivariateNormal(torch.zeros(J), 0.3 * torch.eye(J) + 0.1),
    "factor": lambda: dist.MultivariateNormal(torch.zeros(J), scale_tril=0.3 * torch.eye(J)),
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_distribution_as_prior(name, tmp_path):
    vae = small(prior=GIVEN[name]())
    _ = getattr(vae.prior.given, "precision_matrix", None)  # torch keeps it beside the argument
    same = round_trip(vae, tmp_path)
    z = torch.randn(4, J).to(vae.prior(None).sample().dtype)
    assert torch.equal(same.prior(None).log_prob(z), vae.prior(None).log_prob(z))


ARGUMENTS = {"df1": 3.0, "df2": 5.0, "low": 0.5, "high": 3.0, "a": 1.0, "b": 4.0, "peak": 2.0, "df": 5.0,
             "reinterpreted_batch_ndims": 1, "concentration": 2.0}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in KNOWN if n.startswith(("pyro.", "repar"))])
def test_every_known_distribution(name):
    family = KNOWN[name][0]
    names = [n for n in inspect.signature(family).parameters if n not in ("validate_args", "covariance_matrix",
             "precision_matrix", "base_distribution", "reinterpreted_batch_ndims")]  # fmt: skip
    arguments = {n: torch.tensor(ARGUMENTS.get(n, 1.5)) for n in names}
    if "MultivariateNormal" in name or "MultivariateStudentT" in name:
        arguments |= {"loc": torch.zeros(2), "scale_tril": torch.eye(2)}
    if "Dirichlet" in name:
        arguments["concentration"] = torch.tensor([1.0, 2.0])
    made = dist.Normal(torch.zeros(2), 1.0).to_event(1) if "Independent" in name else family(**arguments)
    notation = repr(made)
    again = restore(json.loads(json.dumps(describe(made))))
    assert type(again) is family
    assert repr(again) == notation
    z = made.sample((5,))
    assert torch.equal(again.log_prob(z), made.log_prob(z))


@pytest.mark.parametrize("make_part", [*PRIORS.values(), *LIKELIHOODS.values(), *POSTERIORS.values()])
def test_every_part_is_described_whole(make_part):
    """Each argument of the constructor is there, unless the weights hold it; a new part can't be forgotten."""
    part = make_part()
    described = describe(part)["arguments"]
    kinds = inspect.signature(type(part)).parameters
    expected = {n for n, p in kinds.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"pseudo_inputs"}
    expected |= set(getattr(part, "numbers", ()))
    assert set(described) == (set() if isinstance(part, SharedGaussian) else expected)


YESTERDAY = {
    "format": 3,
    "versions": {"pyro_aevb": "0.1.0", "torch": "2.11.0", "pyro": "1.9.1"},
    "dtype": "float32",
    "tied": [],
    "vae": {
        "x_dim": D,
        "latent_dim": J,
        "hidden_dims": [6],
        "image_shape": None,
        "init": "modern",
        "dataset_size": 40,
        "prior": {"class": "priors.Factorised",
                  "arguments": {"family": {"class": "pyro.Normal"}, "loc": 0.0, "scale": 1.0}},
        "likelihood": {"class": "columns.Columns", "arguments": {"likelihoods": {"entries": {
            name: {"class": "likelihoods.FixedGaussian", "arguments": {"scale": 0.5}} for name in "abcde"}}}},
        "posterior": {"class": "posteriors.LowRankGaussian", "arguments": {"rank": 1}},
        "encoder": None,
        "decoder": None,
    },
}  # fmt: skip


def test_the_format_stays(tmp_path):
    """What this format's first version wrote is still written, and can be read."""
    vae = small(likelihood=Columns({n: FixedGaussian(0.5) for n in "abcde"}), posterior=LowRankGaussian(1))
    vae.dataset_size = 40
    save(vae, tmp_path)
    written = json.loads((tmp_path / "vae.json").read_text())
    changed = {"sha256": written["sha256"], "checksum": written["checksum"]}
    assert {**written, "versions": YESTERDAY["versions"]} == YESTERDAY | changed
    assert written["versions"]["pyro_aevb"] == pyro_aevb.__version__
    write_description(tmp_path, YESTERDAY | {"sha256": written["sha256"]})
    assert_same(load(tmp_path), vae)


def test_nothing_global_changes_and_the_mode_is_that_of_a_new_vae(tmp_path):
    vae = small(prior="vamp", posterior="iaf").eval()
    vae.encoder.requires_grad_(False)
    before = torch.get_rng_state()
    save(vae, tmp_path / "deep" / "er")
    same = load(tmp_path / "deep" / "er")
    assert torch.equal(torch.get_rng_state(), before)
    assert same.training
    assert not vae.training
    assert all(p.requires_grad for p in same.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("prior", ["normal", "flow", dist.Laplace(0.0, 1.0)])
def test_from_one_device_to_another(prior, tmp_path):
    vae = small(prior=prior)
    save(vae, tmp_path)
    state = torch.cuda.get_rng_state()
    moved = load(tmp_path, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert {p.device.type for p in moved.parameters()} == {"cuda"}
    x = torch.ones(3, D, device="cuda")
    assert log_density(moved.model, moved.guide, x, num_particles=2).log_weight.isfinite().all()
    save(moved, tmp_path)
    assert_same(load(tmp_path), vae)


# -- Parts of one's own -----------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.layer, self.norm = nn.Linear(a, b), nn.Dropout(0.5)

    def forward(self, x):
        return self.norm(self.layer(x)).sin()


class OwnPrior(MixturePrior):
    pass


def bernoulli(h):
    return dist.Bernoulli(logits=h).to_event(1)


LEARNED = torch.zeros((), requires_grad=True)
OWN = {
    "encoder": (lambda: Net(D, 2 * J), "Net"),
    "decoder": (lambda: nn.Sequential(nn.Linear(J, D)), "Sequential"),
    "prior": (lambda: OwnPrior(3), "OwnPrior"),
    "likelihood": (lambda: bernoulli, "bernoulli"),
    "posterior": (lambda: type("OwnPosterior", (DiagonalGaussian,), {})(), "OwnPosterior"),
}


@pytest.mark.parametrize("name", OWN)
def test_a_part_of_ones_own(name, tmp_path):
    make_part, kind = OWN[name]
    vae = small(**{name: make_part()}).double()
    save(vae, tmp_path)
    assert json.loads((tmp_path / "vae.json").read_text())["vae"][name] == {"custom": kind}
    pyro.set_rng_seed(3)
    assert_same(load(tmp_path, **{name: make_part()}).eval(), vae.eval(), data())
    with pytest.raises(
        ValueError, match=rf"expected {name}=, got none: the VAE's {name} was {kind}.*load\(folder, {name}"
    ):
        load(tmp_path)
    other = "decoder" if name != "decoder" else "encoder"
    with pytest.raises(ValueError, match=rf"expected no {other}=, got .*leave it out"):
        load(tmp_path, **{name: make_part(), other: Net(J, D)})


@pytest.mark.parametrize(
    "kwargs",
    [
        {"likelihood": CustomLikelihood(bernoulli)},
        {"likelihood": Columns({str(i): CustomLikelihood(bernoulli) for i in range(D)})},
        {"likelihood": Columns({str(i): SharedGaussian(0.5) for i in range(D)})},  # whose scales aren't the VAE's
        {"likelihood": Columns({i: Bernoulli() for i in range(D)})},
        {"posterior": PerDatapoint(OWN["posterior"][0](), dataset_size=N)},
        {"prior": Factorised(functools.partial(dist.StudentT, 5.0), loc=0.0, scale=1.0)},
        {"prior": dist.Normal(LEARNED, 1.0)},
        {"prior": dist.Normal(0.0, 1.0, validate_args=False)},
        {"prior": dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.AffineTransform(0.0, 2.0)])},
    ],
    ids=lambda kwargs: "-".join(f"{k}-{type(v).__name__}" for k, v in kwargs.items()),
)  # fmt: skip
def test_what_a_description_would_get_wrong_is_the_callers_too(kwargs, tmp_path):
    save(small(**kwargs), tmp_path)
    ((name, part),) = kwargs.items()
    with pytest.raises(ValueError, match=rf"expected {name}=, got none: the VAE's {name} was {type(part).__name__}, "):
        load(tmp_path)
    assert repr(load(tmp_path, **{name: part}))


def test_networks_changed_after_they_were_made_are_ones_own(tmp_path):
    vae = small()
    vae.encoder[1] = nn.ReLU()
    vae.decoder = nn.Linear(J, D)
    save(vae, tmp_path)
    with pytest.raises(ValueError, match=r"the VAE's encoder was Sequential"):
        load(tmp_path, decoder=nn.Linear(J, D))
    encoder = nn.Sequential(nn.Linear(D, 6), nn.ReLU(), nn.Linear(6, 2 * J))
    assert_same(load(tmp_path, encoder=encoder, decoder=nn.Linear(J, D)), vae)


def test_a_network_unlike_the_saved_one_is_refused(tmp_path):
    save(small(encoder=Net(D, 2 * J)), tmp_path)
    with pytest.raises(
        ValueError, match=r"expected for encoder.bias floating point of shape \(6,\), got nothing in the folder"
    ):
        load(tmp_path, encoder=nn.Linear(D, 2 * J))
    with pytest.raises(ValueError, match=r"check encoder=.*|the encoder to make outputs of shape \(2, 6\)"):
        load(tmp_path, encoder=Net(D, 7))
    with pytest.raises(ValueError, match=r"shape \(6,\), got nothing in the folder"):
        load(tmp_path, encoder=nn.Sequential(Net(D, 2 * J)))


def networks(shared):
    encoder, decoder = nn.Sequential(nn.Linear(D, 6), nn.Linear(6, 6)), nn.Sequential(nn.Linear(J, 6), nn.Linear(6, 6))
    if shared:
        decoder[1].weight = encoder[1].weight
    return {"encoder": encoder, "decoder": nn.Sequential(*decoder, nn.Linear(6, D))}


def test_shared_parameters_are_saved_once_and_stay_shared(tmp_path):
    vae = small(**networks(shared=True))
    for given in (True, False):
        same = round_trip(vae, tmp_path, **networks(shared=given))
        assert same.encoder[1].weight is same.decoder[1].weight
    assert "decoder.1.weight" not in safetensors.torch.load(weights_of(tmp_path).read_bytes())
    edit(tmp_path, tied=[["encoder.0.weight", "nobody"]])
    with pytest.raises(ValueError, match=r"expected shared parameters among .* got \['encoder.0.weight', 'nobody'\]"):
        load(tmp_path, **networks(shared=False))
    edit(tmp_path, tied=[["encoder.1.weight", "decoder.1.weight"]] * 2)
    with pytest.raises(ValueError, match=r"expected the shared parameters \[\["):
        load(tmp_path, **networks(shared=False))
    save(small(**networks(shared=False)), tmp_path)
    with pytest.raises(ValueError, match=r"expected the shared parameters \[\], got \[\['encoder.1.weight', "):
        load(tmp_path, **networks(shared=True))


def test_views_of_one_storage(tmp_path):
    """Parts of one tensor, transposed: each is written whole, in order."""
    vae = small()
    whole = torch.randn(12, 6)
    vae.encoder[2].weight.data, vae.decoder[0].weight.data = whole[::2], whole[6:, :J]
    round_trip(vae, tmp_path, data().float())


# -- At any moment ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def killed_after(monkeypatch, steps):
    """Let ``steps`` operations on files happen, then none any more: what a kill leaves."""
    done = []

    def dying(original):
        def call(*args, **kwargs):
            if len(done) >= steps:
                raise Killed
            done.append(original.__name__)
            return original(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "open"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))
    monkeypatch.setattr(Path, "unlink", dying(Path.unlink))
    return done


def test_a_kill_at_any_moment_leaves_a_folder_that_can_be_read(tmp_path, monkeypatch):
    old, new = small(), small(posterior="full")
    outcomes = []
    for steps in range(40):
        save(old, tmp_path)
        with monkeypatch.context() as patch:
            done = killed_after(patch, steps)
            try:
                save(new, tmp_path)
            except Killed:
                outcomes.append(None)
            else:
                outcomes.append("done")
        same = load(tmp_path)
        saved = new if repr(same) == repr(new) else old
        assert_same(same, saved)
        outcomes[-1] = outcomes[-1] or ("old" if saved is old else "new")
        if outcomes[-1] == "done":
            break
    assert {"fsync", "replace", "unlink"} <= set(done)
    assert outcomes == sorted(outcomes, key=["old", "new", "done"].index)
    assert min(map(outcomes.count, ("old", "new", "done"))) >= 1
    save(new, tmp_path)
    assert len(os.listdir(tmp_path)) == 2  # what the kills left is gone


def test_a_reader_overtaken_by_a_writer_reads_the_new_vae(tmp_path, monkeypatch):
    old, new = small(), small()
    save(old, tmp_path)
    read = Path.read_bytes

    def overtaken(path):
        content = read(path)
        monkeypatch.setattr(Path, "read_bytes", read)
        save(new, tmp_path)
        return content

    monkeypatch.setattr(Path, "read_bytes", overtaken)
    assert_same(load(tmp_path), new)


def test_only_what_save_wrote_is_removed(tmp_path):
    for name in ("weights-mine.safetensors", "weights-0123456789abcdef.safetensors.txt", "notes.txt"):
        (tmp_path / name).write_text("mine")
    save(small(), tmp_path)
    save(small(), tmp_path)
    assert len(os.listdir(tmp_path)) == 5
    same = small()
    save(same, tmp_path)
    save(same, tmp_path)  # the same weights again, under the same name
    assert_same(load(tmp_path), same)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "state"
    write_atomically(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            OSError, match=r"expected to write 3 bytes to .*state, got: No space left.*; free some space"
        ):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]
    with pytest.raises(FileNotFoundError, match=r"make the folder .*nowhere first"):
        write_atomically(tmp_path / "nowhere" / "state", b"")
    with pytest.raises(NotADirectoryError, match=r"choose a folder that can be written to"):
        write_atomically(path / "state", b"")


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, f=original, n=name: (order.append(n), f(*a))[1])
    write_atomically(tmp_path / "state", b"new")
    assert order == ["fsync", "replace", "fsync"]


# -- What is refused --------------------------------------------------------------------------------------------------


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"which isn't there"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"expected vae.json in"):
        load(tmp_path)
    (tmp_path / "file").write_text("")
    for fn in (load, functools.partial(save, small())):
        with pytest.raises(ValueError, match=r"expected a folder"):
            fn(tmp_path / "file")
    save(small(), tmp_path)
    weights_of(tmp_path).unlink()
    with pytest.raises(FileNotFoundError, match=r"expected the weights weights-.*, got none; copy the whole folder"):
        load(tmp_path)


def test_weights_that_were_cut_or_changed(tmp_path):
    save(small(), tmp_path)
    path = weights_of(tmp_path)
    content = path.read_bytes()
    for other in (content[:-1], content[: len(content) // 2], b"", content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(other)
        with pytest.raises(ValueError, match=r"with SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}; the file is damaged"):
            load(tmp_path)
    put_weights(tmp_path, content[:-1])
    with pytest.raises(ValueError, match=r"expected safetensors in"):
        load(tmp_path)


def test_weights_of_another_vae(tmp_path):
    save(small(), tmp_path)
    tensors = safetensors.torch.load(weights_of(tmp_path).read_bytes())
    name = "encoder.0.weight"
    for changed, message in (
        (
            {name: torch.zeros(6, D + 1)},
            r"expected for encoder.0.weight floating point of shape \(6, 5\), got .*\(6, 6\)",
        ),
        ({name: torch.zeros(6, D, dtype=torch.int64)}, r"got torch.int64 of shape \(6, 5\)"),
        ({"more": torch.zeros(2)}, "expected for more nothing"),
    ):
        put_weights(tmp_path, safetensors.torch.save(tensors | changed))
        with pytest.raises(ValueError, match=message):
            load(tmp_path)
    del tensors[name]
    put_weights(tmp_path, safetensors.torch.save(tensors))
    with pytest.raises(ValueError, match=r"floating point of shape \(6, 5\), got nothing in the folder"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 4, "versions": {"pyro_aevb": "9.9"}, "vae": None},
         rf"written by a newer pyro_aevb \(9.9\); this is {pyro_aevb.__version__}: upgrade"),
        ({"format": 1, "versions": {"pyro_aevb": "0.1.0"}, "vae": None},
         r"expected a folder of format 3, got 1, written by an older pyro_aevb \(0.1.0\); .*: load and save it"),
        ({"format": 4, "versions": 3}, r"written by a newer pyro_aevb \(unknown\)"),
        ({"format": 0}, "expected format as save writes it in .*, got 0"),
        ({"format": "1"}, "expected format as int"),
        ({"format": True}, "expected format as int"),
        ({"sha256": "../../etc/passwd"}, "expected sha256 as save writes it"),
        ({"dtype": "load"}, "expected dtype as save writes it in .*, got 'load'"),
        ({"tied": [["a"]]}, "expected tied as save writes it"),
        ({"tied": [3]}, "expected tied as save writes it"),
        ({"vae": []}, "expected vae as dict"),
        ({"vae__x_dim": "5"}, "expected x_dim as int"),
        ({"vae__x_dim": 0}, "x_dim of 1 or more, got 0; the file is damaged"),
        ({"vae__hidden_dims": [6.5]}, "can be built from vae.json"),
        ({"vae__hidden_dims": [7]}, r"expected for decoder.0.bias floating point of shape \(7,\), got .* \(6,\)"),
        ({"vae__image_shape": [1]}, r"expected image_shape \(channels"),
        ({"vae__init": "evil"}, "expected init out of"),
        ({"vae__dataset_size": 1.5}, "expected dataset_size as int or null"),
        ({"vae__prior": "mixture"}, "expected prior as dict"),
        ({"vae__prior": {"class": "os.system", "arguments": {}}}, "expected a class out of .*got 'os.system'"),
        ({"vae__prior": {"class": ["os.system"]}}, "can be built from vae.json"),
        ({"vae__prior": {}}, "expected a class out of .*got None"),
        ({"vae__prior": {"class": "priors.MixturePrior"}}, "a prior's name or an object"),
        ({"vae__prior": {"class": "priors.MixturePrior", "arguments": {"pickle": 1}}}, "unexpected .* 'pickle'"),
        ({"vae__prior": {"class": "priors.MixturePrior", "arguments": [1]}}, "can be built from vae.json"),
        ({"vae__prior": {"class": "priors.MixturePrior", "arguments": {"num_components": 10**30}}}, "can be built"),
        ({"vae__prior": {"tensor": [[1], 2], "dtype": "float32"}}, "can be built from vae.json"),
        ({"vae__likelihood": {"class": "priors.MixturePrior", "arguments": {}}}, "can be built from vae.json"),
        ({"vae__encoder": {"class": "Net"}}, "can be built from vae.json"),
        ({"vae__code": "import os"}, "unexpected keyword argument 'code'"),
    ],
)  # fmt: skip
def test_a_description_that_was_changed(fields, message, tmp_path):
    save(small(), tmp_path)
    edit(tmp_path, **fields)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("field", ["format", "sha256", "dtype", "tied", "vae", "vae__posterior", "vae__encoder"])
def test_a_description_that_lacks_a_field(field, tmp_path):
    save(small(), tmp_path)
    record = json.loads((tmp_path / "vae.json").read_text())
    *outer, inner = field.split("__")
    del (record[outer[0]] if outer else record)[inner]
    write_description(tmp_path, record)
    with pytest.raises(ValueError, match=rf"expected {inner} as"):
        load(tmp_path)


FLOWS = {"num_flows": 10**5, "hidden_dim": 4}
HOSTILE = {
    "a wide layer": {"hidden_dims": [10**5, 10**5]},
    "a wide first layer": {"x_dim": 10**9},
    "many layers": {"hidden_dims": [1] * 10**5},
    "many small flows": {"posterior": {"class": "posteriors.PlanarFlow", "arguments": {"num_flows": 10**6}}},
    "many flows": {"prior": {"class": "priors.FlowPrior", "arguments": FLOWS}},
    "many masks": {"posterior": {"class": "posteriors.InverseAutoregressiveFlow",
                                 "arguments": {"num_flows": 2, "hidden_dim": 10**6, "context_dim": 10**4}}},
    "many components": {"prior": {"class": "priors.VampPrior", "arguments": {"num_components": 10**9}}},
    "many mixed posteriors": {"posterior": {"class": "posteriors.MixturePosterior",
                                            "arguments": {"num_components": 10**8}}},
    "a full covariance": {"latent_dim": 10**5, "posterior": {"class": "posteriors.FullGaussian", "arguments": {}}},
    "a rank": {"posterior": {"class": "posteriors.LowRankGaussian", "arguments": {"rank": 10**9}}},
    "many levels": {"likelihood": {"class": "likelihoods.Categorical", "arguments": {"num_levels": 10**10}}},
    "many datapoints": {"posterior": {"class": "posteriors.FreeForm", "arguments": {
        "posterior": {"class": "posteriors.DiagonalGaussian", "arguments": {}}, "num_data": 10**9}}},
    "a large image": {"image_shape": [1, 10**5, 10**5], "x_dim": 10**10},
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_description_of_what_is_too_large_is_refused_before_it_is_built(kind, tmp_path, limited, monkeypatch):
    """In 600 MB of addresses, and of its modules few are made."""
    save(small(), tmp_path)
    edit(tmp_path, **{f"vae__{name}": value for name, value in HOSTILE[kind].items()})
    made, init = [], torch.nn.Module.__init__
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda self: made.append(1) or init(self))
    with limited(600), pytest.raises(ValueError, match=r"got TooLargeError: more than \d+ [no]") as caught:
        load(tmp_path)
    assert len(made) < 3000
    assert len(str(caught.value)) < 2000


@pytest.fixture
def limited():
    """A context in which the process gets no more than so many MB."""

    @contextlib.contextmanager
    def more(megabytes):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    return more


def test_another_number_in_a_description_is_no_other_model(tmp_path):
    """A scale is no tensor: nothing but the checksum knows it."""
    save(small(likelihood=FixedGaussian(0.5)), tmp_path)
    path = tmp_path / "vae.json"
    text = path.read_text()
    assert text.count('"scale": 0.5') == 1
    path.write_text(text.replace('"scale": 0.5', '"scale": 0.7'))
    with pytest.raises(ValueError, match=r"expected the checksum of what .*vae.json says, [0-9a-f]{64}, got another"):
        load(tmp_path)
    path.write_text(json.dumps(json.loads(text)))  # the same, set out in one line
    assert load(tmp_path).likelihood.scale == 0.5


def test_no_changed_byte_of_a_description_makes_another_model(tmp_path):
    """It is refused, or it says the same."""
    vae = small(prior="mixture")
    save(vae, tmp_path)
    path = tmp_path / "vae.json"
    text = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.choice(len(text), 60, replace=False):
        for other in (bytes([text[place] ^ 1]), b"", b"0", b'"', text[place : place + 1] * 2):
            path.write_bytes(text[:place] + other + text[place + 1 :])
            try:
                same = load(tmp_path)
            except (ValueError, FileNotFoundError):
                refused += 1
            else:
                assert_same(same, vae)
    assert refused > 150


def test_no_file_but_a_regular_one(tmp_path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket"))
    os.mkfifo(tmp_path / "pipe")
    kinds = {"/dev/null": "device", tmp_path: "folder", tmp_path / "pipe": "pipe", tmp_path / "socket": "socket"}
    for path, kind in kinds.items():
        with pytest.raises(ValueError, match=f"expected a file, got .* which is a {kind}; copy"):
            check_regular(path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match=r"expected a file, got .*loop: .*; check where the path leads"):
        check_regular(tmp_path / "loop")
    (tmp_path / "link").symlink_to(__file__)
    check_regular(tmp_path / "link")


def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path):
    save(small(), tmp_path)
    for path in (weights_of(tmp_path), tmp_path / "vae.json"):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(ValueError, match=r"expected a file, got .*, which is a pipe"):
            load(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"format": 1'])
def test_a_description_that_is_no_json(text, tmp_path):
    save(small(), tmp_path)
    (tmp_path / "vae.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"expected (JSON|format as int) in .*vae.json, got"):
        load(tmp_path)


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["weights", "vae.json", "beside"])
def test_a_pickle_in_the_folder_is_never_run(place, tmp_path):
    folder, marker = tmp_path / "model", tmp_path / "exploded"
    vae = small()
    save(vae, folder)
    bomb = pickle.dumps(Bomb(marker))
    if place == "beside":
        for name in (
            "weights.safetensors",
            "weights.pt",
            "vae.pkl",
            "data.pkl",
            "model.pt",
            "pyro_aevb.py",
            "torch.py",
        ):
            (folder / name).write_bytes(bomb)
        assert_same(load(folder), vae)
    else:
        if place == "weights":
            put_weights(folder, bomb)
        else:
            (folder / "vae.json").write_bytes(bomb)
        with pytest.raises(ValueError, match=r"expected (safetensors|JSON) in .*; the file is damaged"):
            load(folder)
    assert not marker.exists()
    pickle.loads(bomb)
    assert marker.exists(), "the bomb is a dud"


def test_what_cannot_be_saved(tmp_path):
    class Own(VAE):
        pass

    with pytest.raises(TypeError, match=r"expected a VAE, got a Own"):
        save(Own(D, J, hidden_dims=(6,)), tmp_path)

    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ValueError, match=r"got encoder._extra_state of dict; keep it in a buffer"):
        save(small(encoder=Extra(D, 2 * J)), tmp_path)
    vae = small()
    vae.register_buffer("wide", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(ValueError, match=r"expected tensors of dtypes that safetensors knows, got torch.complex128"):
        save(vae, tmp_path)
    assert not os.listdir(tmp_path)


def test_descriptions_know_nothing_else():
    assert len(NAMES) == len(KNOWN)
    for value in (object(), os.system, torch.nan, [1], 1j, torch.zeros(2, dtype=torch.int64), torch.tensor(torch.inf)):
        with pytest.raises(UnknownPartError):
            describe(value)
