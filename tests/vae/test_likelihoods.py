"""Every likelihood: a density, its moments, its data, ten steps of every learner; and discretized logistics."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import some_partners
from pyro import poutine
from statistics_tools import assert_mean

from pyro_aevb import AEVB, MCEM, VAE, DReG, ReweightedWakeSleep, WakeSleep
from pyro_aevb.distributions.discretized_logistic import DiscretizedLogistic
from pyro_aevb.model_guide import log_density
from pyro_aevb.vae.columns import Columns, unit_scale
from pyro_aevb.vae.likelihoods import (
    LIKELIHOODS,
    Categorical,
    CustomLikelihood,
    DiscretizedLogisticMixture,
    Gaussian,
    Poisson,
)

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
OTHERS = {
    "categorical, 5 levels": functools.partial(Categorical, 5),
    "discretized-logistic, 5 levels": functools.partial(DiscretizedLogisticMixture, 2, 5),
    "function": lambda: lambda outputs: dist.Poisson(outputs.exp()).to_event(1),
    "custom": lambda: CustomLikelihood(lambda h: dist.Cauchy(*h.exp().chunk(2, -1)).to_event(1), outputs_per_dim=2),
}
ALL = LIKELIHOODS | OTHERS
LEARNERS = {
    "aevb": lambda v: AEVB(v.model, v.guide, ADAM),
    "dreg": lambda v: AEVB(v.model, v.guide, ADAM, DReG(2)),
    "wake-sleep": lambda v: WakeSleep(v.model, v.guide, ADAM, ADAM),
    "reweighted": lambda v: ReweightedWakeSleep(v.model, v.guide, ADAM, ADAM, num_particles=2, insomnia=0.5),
    "mcem": lambda v: MCEM(v.model, ADAM, num_leapfrog=2),
}


def make(name, x_dim=3):
    vae = VAE(x_dim, 2, hidden_dims=(6,), likelihood=name if name in LIKELIHOODS else OTHERS[name](), dataset_size=40)
    return vae.double()


def data(vae, n=40):
    """Data of the likelihood's own kind, from other weights than the model starts with."""
    pyro.set_rng_seed(5)
    with torch.no_grad(), poutine.block():
        outputs = torch.randn(n, vae.decoder[-1].out_features).double() / 2
        return vae.likelihood(outputs).sample().double()


@pytest.mark.parametrize(
    ("name", "learner_name"), some_partners([(name, learner) for name in ALL for learner in LEARNERS])
)
def test_every_learner_trains_it(name, learner_name):
    pyro.set_rng_seed(0)
    vae = make(name)
    x = data(vae)
    before = {n: p.clone() for n, p in vae.named_parameters()}
    learner = LEARNERS[learner_name](vae)
    for i in range(10):
        index = torch.arange(10) + 10 * (i % 4)
        assert learner.step(x[index], index=index).loss.isfinite()
    for n, p in vae.named_parameters():
        assert p.isfinite().all()
        moved = not torch.equal(before[n], p)
        assert moved == (learner_name != "mcem" or not n.startswith("encoder")), (learner_name, n)
    restored = make(name)
    restored.load_state_dict(vae.state_dict())
    pyro.set_rng_seed(1)
    density = log_density(vae.model, vae.guide, x, num_particles=3)
    assert density.log_joint.shape == density.log_q.shape == (3, 40)
    assert density.log_weight.isfinite().all()
    pyro.set_rng_seed(1)
    torch.testing.assert_close(
        log_density(restored.model, restored.guide, x, num_particles=3).log_weight,
        density.log_weight,
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("name", ALL)
def test_densities_sum_to_one_and_means_are_means(name):
    vae = make(name, x_dim=2)
    pyro.set_rng_seed(3)
    outputs = torch.randn(4, vae.decoder[-1].out_features).double() * 0.7
    with torch.no_grad():
        fn = vae.likelihood(outputs)
    one = fn.base_dist  # independent dimensions: each must be a density by itself
    support = fn.support.base_constraint
    if fn.support.is_discrete:
        levels = torch.arange(4000.0 if name not in ("bernoulli",) else 2).double()
        levels = levels[support.check(levels)]
        total = one.log_prob(levels[:, None, None].expand(-1, 4, 2)).exp().sum(0)
        torch.testing.assert_close(total, torch.ones(4, 2).double(), rtol=1e-6, atol=1e-6)
    elif name != "custom":  # a Cauchy's tails are beyond a grid
        x = torch.linspace(-400, 400, 400_001).double()
        log_slope = torch.zeros_like(x)
        if name in ("beta", "continuous-bernoulli"):  # x = sigmoid(t), t far enough out on both sides
            t = x = torch.linspace(-30, 30, 20_001).double()
            x, log_slope = t.sigmoid(), -t.abs() - 2 * torch.log1p(torch.exp(-t.abs()))
            x = x.clamp(1e-300, 1 - 1e-16)
        density = (one.log_prob(x[:, None, None].expand(-1, 4, 2)) + log_slope[:, None, None]).exp()
        total = torch.trapezoid(density, x if not log_slope.any() else t, dim=0)
        torch.testing.assert_close(total, torch.ones(4, 2).double(), rtol=1e-3, atol=0)
    draws = fn.sample((20_000,))
    assert fn.support.check(draws).all()
    if name not in ("custom", "student-t"):
        assert_mean(draws.double(), fn.mean, resolution=0.05 * draws.double().std(0).max().item())


@pytest.mark.parametrize("name", ["categorical", "discretized-logistic", "poisson", "beta"])
def test_data_outside_the_support_are_refused(name):
    vae = make(name)
    bad = torch.full((4, 3), {"beta": 1.5, "poisson": -1.0}.get(name, 256.0)).double()
    with pytest.raises(ValueError, match=r"inside the support of site 'x'"):
        AEVB(vae.model, vae.guide, ADAM).step(bad)


def test_decoded_means_of_levels():
    vae = make("categorical, 5 levels")
    z = torch.randn(7, 2).double()
    probabilities = vae.decoder(z).unflatten(-1, (5, 3)).mT.softmax(-1)
    torch.testing.assert_close(vae.decode(z), (probabilities * torch.arange(5.0)).sum(-1))


@pytest.mark.parametrize(("loc", "scale"), [(100.0, 5.0), (0.2, 0.05), (254.9, 3.0), (-8.0, 2.0), (128.0, 1e3)])
def test_discretized_logistic(loc, scale):
    """Masses are differences of the logistic CDF, sum to one, and give the moments; samples follow them."""
    loc, scale = torch.tensor([loc, scale], dtype=torch.float64)
    fn = DiscretizedLogistic(loc, scale, num_levels=256)
    x = torch.arange(256.0).double()
    cdf = torch.sigmoid((torch.arange(257.0).double() - 0.5 - loc) / scale)
    cdf[0], cdf[-1] = 0, 1
    mass = fn.log_prob(x).exp()
    torch.testing.assert_close(mass, cdf.diff(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(mass.sum(), torch.ones(()).double())
    torch.testing.assert_close(fn.mean, (mass * x).sum())
    torch.testing.assert_close(fn.variance, (mass * x**2).sum() - (mass * x).sum() ** 2, rtol=1e-6, atol=1e-6)
    assert fn.log_prob(x).isfinite().all()
    assert_mean(fn.sample((50_000,)), fn.mean, resolution=4.0)
    single = DiscretizedLogistic(loc.float(), scale.float(), num_levels=256)
    torch.testing.assert_close(single.log_prob(x.float()).double(), fn.log_prob(x), rtol=1e-3, atol=1e-3)


def test_discretized_logistic_gradients_and_shapes():
    loc = torch.tensor([3.0, 250.0]).double().requires_grad_()
    log_scale = torch.tensor([0.3, 2.0]).double().requires_grad_()
    value = torch.tensor([[0.0, 255.0], [4.0, 200.0]]).double()

    def log_prob(loc, log_scale):
        return DiscretizedLogistic(loc, log_scale.exp()).log_prob(value)

    assert torch.autograd.gradcheck(log_prob, (loc, log_scale))
    wide = DiscretizedLogistic(loc, log_scale.exp()).expand([5, 2])
    assert wide.batch_shape == wide.sample().shape == (5, 2)
    assert wide.to_event(1).log_prob(wide.sample()).shape == (5,)
    with pytest.raises(ValueError, match="num_levels of 2 or more"):
        DiscretizedLogistic(loc, log_scale.exp(), num_levels=1)
    with pytest.raises(ValueError, match="support"):
        DiscretizedLogistic(loc, log_scale.exp(), validate_args=True).log_prob(torch.tensor(256.0))


@pytest.mark.parametrize(
    ("likelihood", "error", "message"),
    [
        (
            lambda h: dist.Poisson(h.exp()),
            ValueError,
            r"event shape \(3,\) .* got \(2, 3\) and \(\); end it with .to_event",
        ),
        (lambda h: dist.Normal(*h.exp().chunk(2, -1)).to_event(1), ValueError, "CustomLikelihood"),
        (dist.Bernoulli, TypeError, "a likelihood's name or an object"),
        (3.0, TypeError, "a likelihood's name or an object"),
    ],
)
def test_a_likelihood_that_does_not_fit_is_refused_when_built(likelihood, error, message):
    with pytest.raises(error, match=message):
        VAE(3, 2, likelihood=likelihood)


@pytest.mark.parametrize(
    "name", ["categorical", "discretized-logistic", "fixed-gaussian", "shared-gaussian", "student-t"]
)
def test_bad_settings(name):
    with pytest.raises(ValueError, match=r"expected .* got"):
        LIKELIHOODS[name](0)


EIGHT_BITS = ("categorical", "discretized-logistic", "poisson", "negative-binomial", "zero-inflated-poisson")


@pytest.mark.parametrize("networks", ["perceptron", "convolutions"])
@pytest.mark.parametrize("likelihood", EIGHT_BITS)
def test_networks_made_here_train_on_eight_bits(likelihood, networks):
    """The bound of 20 steps is finite, and the encoder's outputs are of the size that they have for x near 0."""
    pyro.set_rng_seed(0)
    shape = {"convolutions": (1, 8, 8)} if networks == "convolutions" else {"hidden_dims": (20,), "init": "modern"}
    vae = VAE(64, 2, likelihood=likelihood, **shape)
    x = torch.randint(0, 256, (30, 64)).float()
    with torch.no_grad():
        scale = vae._q(vae._flat(x, None, None)).base_dist.scale
        assert 0.05 < scale.min() < scale.max() < 20
    learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-3), compile=False)
    assert all(learner.step(x).loss.isfinite() for _ in range(20))


def test_a_column_has_the_scale_of_its_likelihood():
    table = Columns({"height": Gaussian(), "visits": Poisson(), "level": Categorical(5)})
    found = unit_scale(table, torch.tensor([[2.5, 3.0, 4.0], [-1.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[2.5, math.log(4), 1.0], [-1.0, 0.0, -1.0]]))


def test_an_encoder_of_ones_own_sees_what_there_is():
    seen = []

    class Encoder(torch.nn.Linear):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    vae = VAE(4, 1, likelihood="poisson", encoder=Encoder(4, 2))
    vae.encode(torch.full((2, 4), 7.0))
    assert torch.equal(seen[-1], torch.full((2, 4), 7.0))
