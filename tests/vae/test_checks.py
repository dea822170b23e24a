"""Building a VAE leaves its networks as they are; networks that misread particles; arguments of model and guide."""

import functools
import re

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.nn.functional import one_hot
from vae_parts import D, J, N, data

from pyro_aevb import AEVB, IWAE, VAE, elbo, load, save
from pyro_aevb.training import fit
from pyro_aevb.vae.posteriors import PerDatapoint

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
OUTPUTS = 2 * J


class Counter(nn.Module):
    """Counts its runs in a buffer and draws a random number in each, in evaluation mode too; notes its modes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))
        self.modes = []

    def forward(self, x):
        self.runs = self.runs + 1
        self.modes.append(self.training)
        torch.randn(())
        return x


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def encoder():
    network = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Dropout(), Counter(), nn.Linear(8, OUTPUTS))
    network(torch.randn(20, D))
    network[2].eval()
    network[3].modes.clear()
    return network


@pytest.mark.parametrize("prior", ["normal", "vamp"])
def test_building_leaves_a_pretrained_encoder_as_it_is(prior):
    network = encoder()
    before, modes = state(network), [module.training for module in network.modules()]
    runs = network[3].runs
    states = []
    for given in (network, nn.Linear(D, OUTPUTS)):
        pyro.set_rng_seed(1)
        VAE(D, J, prior=prior, encoder=given)
        states.append(torch.get_rng_state())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert network[3].runs is runs
    assert network[3].modes
    assert not any(network[3].modes)
    assert [module.training for module in network.modules()] == modes
    if prior == "normal":  # a VampPrior runs the encoder outside of the check's own random numbers
        assert torch.equal(*states)


def misreading(name):
    """Decoders that take (K, M, J) for something else, and notice or not: other numbers, shapes, errors."""
    hidden = 3
    if name == "batch norm":
        norm = nn.BatchNorm1d(hidden)
        norm.running_mean += torch.tensor([0.0, 1.0, 2.0])
        return nn.Sequential(nn.Linear(J, hidden), norm, nn.Linear(hidden, D))
    if name == "flatten":
        return nn.Sequential(nn.Linear(J, D), nn.Flatten())
    return nn.Sequential(
        nn.Linear(J, 16), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 1, 2, 2), nn.Flatten(), nn.Linear(16, D)
    )


@pytest.mark.parametrize("name", ["batch norm", "flatten", "convolution"])
def test_a_decoder_that_misreads_particles_sees_rows(name):
    decoder = misreading(name).eval()
    vae = VAE(D, J, decoder=decoder, hidden_dims=(6,)).eval()
    z = torch.randn(4, 3, J)  # M is the width of the batch norm
    with torch.no_grad():
        expected = torch.stack([vae.decode(each) for each in z])
        torch.testing.assert_close(vae.decode(z), expected)
        assert vae.decode(z[0, 0]).shape == (D,)
        x = data()[:3].float()
        conditioned = poutine.condition(vae.model, {"z": z})
        torch.testing.assert_close(poutine.trace(conditioned).get_trace(x).nodes["x"]["fn"].mean, expected)
    vae.train()
    learner = AEVB(vae.model, vae.guide, ADAM, IWAE(4))
    assert learner.step(x).loss.isfinite()


def test_rows_are_seen_one_by_one_by_a_batch_norm_as_wide_as_the_check():
    """(K, M, C) with M = C raises nothing: the check has to look at batches of two sizes."""
    for hidden in (2, 3):
        decoder = nn.Sequential(nn.Linear(J, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, D)).eval()
        vae = VAE(D, J, decoder=decoder).eval()
        decoder[1].running_mean += torch.arange(1.0, 1.0 + hidden)  # as if it had been trained since
        z = torch.randn(4, hidden, J)
        with torch.no_grad():
            torch.testing.assert_close(vae.decode(z), torch.stack([vae.decode(each) for each in z]))


def test_networks_that_read_particles_see_them_stacked():
    seen = []
    decoder = nn.Sequential(nn.Linear(J, 6), nn.LayerNorm(6), nn.Linear(6, D))
    vae = VAE(D, J, decoder=decoder)
    decoder.register_forward_hook(lambda module, inputs, outputs: seen.append(inputs[0].shape))
    poutine.trace(poutine.condition(vae.model, {"z": torch.zeros(4, 3, J)})).get_trace(torch.zeros(3, D))
    assert seen == [(4, 3, J)]


# -- arguments of the pair --------------------------------------------------------------------------------------------


def test_observed_and_index_by_name_and_by_position():
    x, index = data(), torch.arange(N)
    observed = torch.rand(N, D) < 0.7
    vae = VAE(D, J, hidden_dims=(6,), posterior=PerDatapoint(dataset_size=N)).double()
    values = []
    for args, kwargs in (
        ((x, observed, index), {}),
        ((x, observed), {"index": index}),
        ((x,), {"observed": observed, "index": index}),
    ):
        pyro.set_rng_seed(0)
        values.append(IWAE(2).terms(vae.model, vae.guide, *args, **kwargs).bound)
        assert torch.equal(vae.encode(*args, **kwargs), vae.encode(x, index=index))
    for value in values[1:]:
        assert torch.equal(value, values[0])
    assert not torch.equal(IWAE(2).terms(vae.model, vae.guide, x, index=index).bound, values[0])
    plain = VAE(D, J, hidden_dims=(6,)).double()
    assert torch.equal(plain.encode(x, observed), plain.encode(x, observed=observed))


@pytest.mark.parametrize(
    "labels", [torch.eye(3)[torch.arange(N) % 3], torch.arange(N) % 3, (torch.rand(N, D) < 0.5).float()]
)
def test_labels_and_masks_of_numbers_are_told_what_to_do(labels):
    vae = VAE(D, J, hidden_dims=(6,))
    learner = AEVB(vae.model, vae.guide, ADAM)
    with pytest.raises(ValueError, match=r"as bool .* \.bool\(\), .* as index=, .* and labels as covariates= of a VAE"):
        fit(learner, (data().float(), labels), epochs=1, batch_size=20, progress=False)
    columns = one_hot(torch.arange(N) % 3, 3).float()
    known = VAE(D, J, hidden_dims=(6,), covariates=3)
    together = {"x": data().float(), "covariates": columns}
    fit(AEVB(known.model, known.guide, ADAM), together, epochs=1, batch_size=20, progress=False)
    fit(learner, (data().float(), (torch.rand(N, D) < 0.5).float().bool()), epochs=1, batch_size=20, progress=False)


def test_arguments_that_are_refused():
    x, index = data(), torch.arange(N)
    vae, free = (VAE(D, J, **kw).double() for kw in ({}, {"posterior": PerDatapoint(dataset_size=N)}))
    mask = x > 0
    with pytest.raises(ValueError, match="one beside an encoder; leave index out"):
        vae.guide(x, index=index)
    with pytest.raises(ValueError, match="as bool of shape"):
        vae.model(x, mask[:, 0])
    with pytest.raises(ValueError, match=r"got \(\(40,\), torch.float64\); pass vae.guide\(x, index=index\)"):
        free.guide(x, index=index.double())
    assert elbo(free.model, free.guide, x, index=index, seed=0).value.shape == (N,)


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_keep_the_first_name_of_a_posterior_per_datapoint(tmp_path):
    vae = VAE(D, J, posterior=PerDatapoint("full", dataset_size=N))
    save(vae, tmp_path)
    text = (tmp_path / "vae.json").read_text()
    assert '"posteriors.FreeForm"' in text
    assert f'"num_data": {N}' in text
    assert load(tmp_path).posterior.dataset_size == N


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical", "poisson"])
def test_whole_numbers_are_taken_by_likelihoods_of_these(likelihood):
    vae = VAE(D, J, hidden_dims=(6,), likelihood=likelihood)
    x = vae.sample(5, seed=0).clamp(max=1)
    codes = vae.encode(x.float())
    for whole in (x.long(), x.int(), x.bool(), x.byte()):
        assert torch.equal(vae.encode(whole), codes)
        assert torch.equal(torch.as_tensor(vae.encode(whole.numpy())), codes)
    assert torch.equal(vae.interpolate(x.int(), x.int())[0], vae.reconstruct(x.float()))
    with pytest.raises(TypeError, match=r"expected x of dtype torch.float32, got torch.int64; convert with"):
        vae.encode(torch.full((2, D), 2**24 + 1))  # which float32 would round


def test_whole_numbers_for_real_x_are_told_what_to_do():
    vae, x = VAE(D, J, likelihood="gaussian"), torch.ones(3, D, dtype=torch.int32)
    with pytest.raises(TypeError, match=r"convert with x.to\(torch.float32\)") as error:
        vae.encode(x)
    assert "vae.to" not in str(error.value)
    assert vae.encode(x.to(torch.float32)).shape == (3, J)
    with pytest.raises(TypeError, match=r"or the VAE with vae.to\(torch.float64\)"):
        vae.encode(x.double())
    assert vae.to(torch.float64).encode(x.double()).shape == (3, J)


@pytest.mark.parametrize(
    ("x_dim", "shape", "remedy", "mended"),
    [
        (4, (4,), "pass x[None] for one datapoint", lambda x: x[None]),
        (4, (3, 2, 2), "flatten with x.flatten(1), or write VAE(x_dim=(2, 2), ...)", lambda x: x.flatten(1)),
        ((1, 2, 2), (1, 2, 2), "pass x[None] for one datapoint", lambda x: x[None]),
        ((1, 2, 2), (3, 4), "reshape with x.reshape(-1, 1, 2, 2)", lambda x: x.reshape(-1, 1, 2, 2)),
        (4, (3, 5), "got (3, 5); write VAE(x_dim=5, ...)", None),
        ((1, 2, 2), (3, 1, 3, 3), "got (3, 1, 3, 3); write VAE(x_dim=(1, 3, 3), ...)", None),
    ],
)
def test_a_remedy_for_x_of_another_shape_works(x_dim, shape, remedy, mended):
    vae, x = VAE(x_dim, J), torch.ones(shape)
    with pytest.raises(ValueError, match=re.escape(remedy)):
        vae.encode(x)
    if mended is None:
        assert VAE(shape[1] if len(shape) == 2 else shape[1:], J).encode(x).shape == (3, J)
    else:
        assert vae.encode(mended(x)).shape[1] == J


def test_what_a_posterior_without_an_encoder_can_not_have_is_refused():
    own = PerDatapoint(dataset_size=10)
    with pytest.raises(ValueError, match=r"expected a prior that isn't made of .* take prior='mixture'"):
        VAE(D, J, posterior=own, prior="vamp")
    VAE(D, J, posterior=own, prior="mixture")
    with pytest.raises(
        ValueError, match=r"got dataset_size=20 of the VAE and 10 .*; pass PerDatapoint\(..., dataset_size=20"
    ):
        VAE(D, J, posterior=own, dataset_size=20)
    vae = VAE(D, J, posterior=PerDatapoint(dataset_size=20), dataset_size=20)
    x = torch.ones(20, D)
    for place in (-1, 20):
        index = torch.arange(20).index_fill(0, torch.tensor([3]), place)
        with pytest.raises(ValueError, match=r"expected places in the data set from 0 to 19, .* pass index="):
            vae.encode(x, index=index)
    assert vae.encode(x, index=torch.arange(20)).shape == (20, J)


def test_codes_of_another_shape_or_dtype_are_refused_and_the_remedies_work():
    vae, z = VAE(D, J, hidden_dims=(6,)), torch.randn(4, J)
    for wrong in (z[:, :1], z[0, :1], torch.randn(2, J + 1)):
        with pytest.raises(ValueError, match=rf"expected z of shape \(\.\.\., {J}\), got .*; pass {J} numbers"):
            vae.decode(wrong)
    with pytest.raises(TypeError, match=r"expected z of dtype torch.float32, got torch.float64; convert with z.to\("):
        vae.decode(z.double())
    assert vae.decode(z.double().to(torch.float32)).shape == (4, D)
    assert vae.to(torch.float64).decode(z.double()).shape == (4, D)
