"""Parts passed to ``load`` that take the saved weights and compute something else are refused."""

import functools

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from vae_parts import D, J

from pyro_aevb import VAE, load, save
from pyro_aevb.vae import kept_densities
from pyro_aevb.vae.missingness import Missingness
from pyro_aevb.vae.posteriors import DiagonalGaussian


def network(sizes, activation):
    return nn.Sequential(nn.Linear(sizes[0], 6), activation, nn.Linear(6, sizes[1]))


def normal(scale, family=dist.Normal):
    return lambda outputs: family(outputs, scale).to_event(1)


def wide(scale):
    return dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.AffineTransform(0.0, scale)])


class Scaled(DiagonalGaussian):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, outputs):
        return super().forward(self.factor * outputs)


class BySign(Missingness):
    def __init__(self, sign):
        super().__init__()
        self.sign = sign

    def setup(self, x_dim):
        self.bias = nn.Parameter(torch.zeros(x_dim))

    def forward(self, x):
        return self.sign * x + self.bias


def encoder(activation):
    return network((D, 2 * J), activation)


def decoder(activation):
    return network((J, D), activation)


OTHERS = {
    "the encoder's activation": ("encoder", lambda: encoder(nn.Tanh()), lambda: encoder(nn.ReLU())),
    "the decoder's activation": ("decoder", lambda: decoder(nn.Tanh()), lambda: decoder(nn.Softplus())),
    "the likelihood's scale": ("likelihood", lambda: normal(0.1), lambda: normal(0.2)),
    "the likelihood's family": ("likelihood", lambda: normal(0.1), lambda: normal(0.1, dist.Laplace)),
    "the prior's scale": ("prior", lambda: wide(1.0), lambda: wide(1.5)),
    "the posterior's map": ("posterior", lambda: Scaled(1.0), lambda: Scaled(0.5)),
    "the missingness's sign": ("missingness", lambda: BySign(1.0), lambda: BySign(-1.0)),
}


@pytest.mark.parametrize(("name", "make", "other"), OTHERS.values(), ids=OTHERS)
def test_a_part_that_computes_something_else_is_refused_and_the_same_one_is_taken(name, make, other, tmp_path):
    options = {"likelihood": "gaussian"} if name == "missingness" else {}
    vae = VAE(D, J, hidden_dims=(6,), **options | {name: make()})
    save(vae, tmp_path)
    same = load(tmp_path, **{name: make()})
    assert torch.equal(same.decode(torch.ones(2, J)), vae.decode(torch.ones(2, J)))
    with pytest.raises(ValueError, match=rf"expected log [pq]\(\w+\) .* got .*{name}.* pass the same parts"):
        load(tmp_path, **{name: other()})


@pytest.mark.parametrize(
    "options",
    [
        {"covariates": 2},
        {"labels": 3},
        {"latent_dim": (J, 2)},
        {"x_dim": (2, 3)},
        {"posterior": "iaf"},
        {"prior": "vamp"},
        {"missingness": "linear"},
    ],
    ids=str,
)
def test_every_kind_of_vae_has_densities_that_do_not_move_anything(options):
    vae = VAE(**{"x_dim": D, "latent_dim": J, "hidden_dims": (6,), "likelihood": "gaussian"} | options).train()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}, torch.get_rng_state()
    kept = kept_densities.densities(vae)
    assert {"model.x", "model.z", "guide.z", "x", "latent.z"} <= kept.keys()
    kept_densities.check(vae, kept)
    assert vae.training
    assert torch.equal(torch.get_rng_state(), before[1])
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in vae.state_dict().items())


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.randn(())


def half_and_double(vae):
    vae.decoder.double()


def not_a_number(vae):
    vae.decoder[-1].bias.data.fill_(float("nan"))


@pytest.mark.parametrize("change", [half_and_double, not_a_number])
def test_what_cannot_be_run_is_saved_all_the_same(change, tmp_path):
    make = functools.partial(network, (D, 2 * J), nn.Tanh())
    vae = VAE(D, J, hidden_dims=(6,), encoder=make())
    change(vae)
    save(vae, tmp_path)
    expected, got = vae.decoder[-1].bias, load(tmp_path, encoder=make()).decoder[-1].bias
    assert torch.equal(expected.nan_to_num(7.0), got.nan_to_num(7.0))


def test_a_network_with_random_numbers_of_its_own_is_not_compared(tmp_path):
    vae = VAE(D, J, hidden_dims=(6,), encoder=Noisy(D, 2 * J))
    assert kept_densities.densities(vae) == {}
    save(vae, tmp_path)
    assert isinstance(load(tmp_path, encoder=Noisy(D, 2 * J)).encoder, Noisy)
