"""x of several dimensions: whatever a VAE does with images is what it does with their flat pixels, in another shape."""

import functools

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn

from pyro_aevb import AEVB, AIS, IWAE, MCEM, SGVB, VAE, ReweightedWakeSleep, WakeSleep, elbo, fit, load, save
from pyro_aevb.evidence import log_marginal_likelihood
from pyro_aevb.vae.likelihoods import LIKELIHOODS, CustomLikelihood
from pyro_aevb.vae.missingness import MISSINGNESS

SHAPE, D, J, N = (2, 3, 4), 24, 2, 12
ADAM = functools.partial(torch.optim.Adam, lr=0.01)


def alike(likelihood="bernoulli", **options):
    """Return a VAE of a shape and a flat one with the same weights."""
    made = []
    for x_dim in (SHAPE, D):
        pyro.set_rng_seed(0)
        made.append(VAE(x_dim, J, likelihood=likelihood, hidden_dims=(6,), **options).double())
    made[1].load_state_dict(made[0].state_dict())
    return made


def images(seed=0, number=N):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(number, *SHAPE, generator=generator) < 0.4).double()


def data_of(likelihood):
    return images() * 0.5 + 0.25 if likelihood in ("beta", "continuous-bernoulli", "sigmoid-gaussian") else images()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_densities_are_those_of_the_flat_x(likelihood):
    shaped, flat = alike(likelihood)
    x = data_of(likelihood)
    for vae, of in ((shaped, x), (flat, x.flatten(1))):
        pyro.set_rng_seed(1)
        vae.trace = pyro.poutine.trace(vae.guide).get_trace(of)
        vae.made = pyro.poutine.trace(pyro.poutine.replay(vae.model, vae.trace)).get_trace(of)
        vae.made.compute_log_prob()
    site = shaped.made.nodes["x"]
    assert site["fn"].event_shape == SHAPE
    assert site["fn"].batch_shape == (N,)
    for name in ("z", "x"):
        torch.testing.assert_close(shaped.made.nodes[name]["log_prob"], flat.made.nodes[name]["log_prob"])
    torch.testing.assert_close(site["fn"].mean, flat.made.nodes["x"]["fn"].mean.reshape(N, *SHAPE), equal_nan=True)
    dreams = Predictive(pyro.poutine.uncondition(shaped.model), num_samples=3)(x)["x"]
    assert dreams.shape == (3, N, *SHAPE)


@pytest.mark.filterwarnings("ignore:pareto_k", "ignore:the draws of")  # a guide that isn't trained
def test_every_verb_keeps_the_shape():
    shaped, flat = alike("gaussian")
    x, flat_x = images(), images().flatten(1)
    observed = images(1) < 0.5
    options = {"seed": 0, "progress": False}

    def same(found, of_flat, *leading):
        assert found.shape == (*leading, *SHAPE)
        torch.testing.assert_close(found, of_flat.reshape(found.shape), rtol=1e-4, atol=1e-6)

    torch.testing.assert_close(shaped.encode(x), flat.encode(flat_x))
    masks = observed, observed.flatten(1)
    torch.testing.assert_close(shaped.encode(x, masks[0]), flat.encode(flat_x, masks[1]))
    z = torch.randn(5, 3, J, dtype=torch.double)
    same(shaped.decode(z), flat.decode(z), 5, 3)
    same(shaped.reconstruct(x), flat.reconstruct(flat_x), N)
    same(shaped.sample(7, seed=0), flat.sample(7, seed=0), 7)
    same(shaped.sample(3, x, source="aggregate", seed=0), flat.sample(3, flat_x, source="aggregate", seed=0), 3)
    same(shaped.interpolate(x[:3], x[3:6]), flat.interpolate(flat_x[:3], flat_x[3:6]), 10, 3)
    same(shaped.traverse(x[:3]), flat.traverse(flat_x[:3]), J, 7, 3)
    same(shaped.manifold(3), flat.manifold(3), 9)
    few = {"method": "importance", "num_draws": 5, "num_particles": 20} | options
    made, expected = shaped.impute(x, masks[0], **few), flat.impute(flat_x, masks[1], **few)
    clean = [
        vae.denoise(of, lambda clean, dims=dims: pyro.distributions.Normal(clean, 0.5).to_event(dims), **few).mean
        for vae, of, dims in ((shaped, x, 3), (flat, flat_x, 1))
    ]
    same(made.draws, expected.draws, 5, N)
    assert torch.equal(made.mean[observed], x[observed])
    same(*clean, N)
    assert shaped.encode(x.numpy()).shape == (N, J)
    assert shaped.decode(z.numpy()).shape == (5, 3, *SHAPE)


@pytest.mark.parametrize("name", MISSINGNESS)
def test_missing_not_at_random(name):
    shaped, flat = alike("gaussian", missingness=name)
    observed = images(1) < 0.5
    bounds = []
    for vae, x, mask in ((shaped, images(), observed), (flat, images().flatten(1), observed.flatten(1))):
        pyro.set_rng_seed(1)
        bounds.append(elbo(vae.model, vae.guide, x, observed=mask, num_particles=3, seed=0).value)
    torch.testing.assert_close(*bounds)


LEARNERS = {
    "aevb": lambda v, **o: AEVB(v.model, v.guide, ADAM, SGVB(kl="analytic"), **o),
    "iwae": lambda v, **o: AEVB(v.model, v.guide, ADAM, IWAE(3), **o),
    "wake-sleep": lambda v, **o: WakeSleep(v.model, v.guide, ADAM, ADAM, **o),
    "reweighted": lambda v, **o: ReweightedWakeSleep(v.model, v.guide, ADAM, ADAM, num_particles=3, **o),
    "mcem": lambda v, **o: MCEM(v.model, ADAM, num_leapfrog=2, **o),
}


@pytest.mark.parametrize("compile", [False, "graph"])
@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_learns_what_it_learns_of_the_flat_x(name, compile):
    shaped, flat = alike(dataset_size=N)
    for vae, x in ((shaped, images()), (flat, images().flatten(1))):
        pyro.set_rng_seed(2)
        fit(LEARNERS[name](vae, compile=compile), x, epochs=3, batch_size=4, seed=0, progress=False)
    for (key, found), expected in zip(shaped.named_parameters(), flat.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9, msg=key)


@pytest.mark.filterwarnings("ignore:pareto_k")  # a guide that isn't trained
@pytest.mark.parametrize("method", ["quadrature", "importance", AIS(20, num_leapfrog=3)], ids=str)
def test_every_estimate_is_that_of_the_flat_x(method):
    shaped, flat = alike()
    found, expected = (
        log_marginal_likelihood(vae.model, vae.guide, x, method=method, seed=0, progress=False, compile=False)
        for vae, x in ((shaped, images()), (flat, images().flatten(1)))
    )
    torch.testing.assert_close(found.value, expected.value, rtol=1e-6, atol=1e-6)


def test_stock_svi_gives_the_loss_of_the_flat_x():
    losses = []
    for vae, x in zip(alike(), (images(), images().flatten(1)), strict=True):
        pyro.set_rng_seed(3)
        losses.append(SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.0}), Trace_ELBO()).evaluate_loss(x))
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize("convolutions", [False, True])
def test_saved_and_loaded(tmp_path, convolutions):
    shape = (1, 8, 8)
    vae = VAE(shape, J, likelihood="gaussian", hidden_dims=(6,), convolutions=convolutions)
    x = torch.rand(5, *shape)
    save(vae, tmp_path / "vae")
    same = load(tmp_path / "vae")
    assert (same.x_shape, same.x_dim, str(same)) == (shape, 64, str(vae))
    assert torch.equal(same.reconstruct(x), vae.reconstruct(x))
    assert "x of 1 x 8 x 8 dimensions" in str(vae)


class Images(nn.Module):
    """A decoder to images of two outputs an entry: (M, 2 * channels, height, width)."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(J, 2 * D)

    def forward(self, z):
        return self.layer(z).unflatten(-1, (4, 3, 4))


@pytest.mark.parametrize("decoder", [Images, lambda: nn.Sequential(nn.Linear(J, 2 * D))])
def test_networks_of_ones_own_see_images(decoder):
    """An encoder takes (M, channels, height, width); a decoder's outputs are its channels', means before variances."""
    pyro.set_rng_seed(0)
    encoder = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2 * J))
    vae = VAE(SHAPE, J, likelihood="gaussian", encoder=encoder, decoder=decoder()).double()
    x, z = images(), torch.randn(5, N, J, dtype=torch.double)
    torch.testing.assert_close(vae.encode(x), encoder(x)[:, :J].detach())
    means = vae.decoder(z.flatten(0, 1)).flatten(1)[:, :D].reshape(5, N, *SHAPE)
    torch.testing.assert_close(vae.decode(z), means.detach())
    bound = elbo(vae.model, vae.guide, x, num_particles=3, seed=0)
    assert bound.value.isfinite().all()
    fit(AEVB(vae.model, vae.guide, ADAM, compile="graph"), x, epochs=1, batch_size=6, progress=False)


def test_a_sequence_with_a_network_along_time():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRU(3, 5, batch_first=True)
            self.last = nn.Linear(5, 2 * J)

        def forward(self, x):
            return self.last(self.cell(x)[1][0])

    vae = VAE((7, 3), J, likelihood="gaussian", encoder=Steps())
    x = torch.randn(6, 7, 3)
    assert vae.reconstruct(x).shape == (6, 7, 3)
    with pytest.raises(ValueError, match=r"x of shape \(M, 7, 3\), got \(6, 21\); reshape with x.reshape\(-1, 7, 3\)"):
        vae.model(x.flatten(1))
    assert vae.reconstruct(x.flatten(1).reshape(-1, 7, 3)).shape == (6, 7, 3)  # the remedy works


def dependent(h):
    return pyro.distributions.MultivariateNormal(h, torch.eye(h.shape[-1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": CustomLikelihood(dependent)}, r"independent entries for x of shape \(2, 3, 4\).* x_dim=24"),
        ({"x_dim": (2, 0)}, r"expected x_dim of 1 or more, got \(2, 0\)"),
        ({"x_dim": (4, 6), "convolutions": True}, r"expected x_dim=\(channels, height, width\) for convolutions"),
        ({"x_dim": 24, "convolutions": True}, r"got \(24,\) and convolutions=True; pass such an x_dim"),
        ({"convolutions": (1, 6, 4)}, r"got \(2, 3, 4\) and convolutions=\(1, 6, 4\)"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VAE(**({"x_dim": SHAPE, "latent_dim": J} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x_dim": 24.0}, r"expected an integer for x_dim, got 24\.0; pass int\(\.\.\.\)"),
        ({"x_dim": "24"}, "expected an integer for x_dim, got '24'"),
        ({"latent_dim": 2.0}, r"expected an integer for latent_dim, got 2\.0"),
        ({"hidden_dims": 20}, r"expected integers for hidden_dims, a layer each, got 20; write a tuple: \(500,\)"),
        ({"hidden_dims": (20.0,)}, r"expected an integer for hidden_dims, got 20\.0"),
        ({"dataset_size": 10.5}, r"expected an integer for dataset_size, got 10\.5"),
    ],
)
def test_sizes_that_are_no_integers(options, message):
    with pytest.raises(TypeError, match=message):
        VAE(**({"x_dim": SHAPE, "latent_dim": J} | options))
