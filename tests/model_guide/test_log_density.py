"""Per-datapoint densities: shapes, neighbours, scales, masks, and pairs that break the contract."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian
from pyro import poutine
from pyro.poutine.runtime import get_plates
from statistics_tools import assert_mean

from pyro_aevb import VAE
from pyro_aevb.evidence import elbo
from pyro_aevb.model_guide import log_density


@pytest.fixture
def lg():
    return LinearGaussian(12, 2, 4)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_log_joint_and_log_q_are_the_closed_form(lg, num_particles):
    pyro.set_rng_seed(1)
    density = log_density(lg.model, lg.guide, lg.x, num_particles=num_particles)
    pyro.set_rng_seed(1)
    if num_particles > 1:
        with pyro.plate("k", num_particles, dim=-2):
            z = poutine.trace(lg.guide).get_trace(lg.x).nodes["z"]["value"]
    else:
        z = poutine.trace(lg.guide).get_trace(lg.x).nodes["z"]["value"][None]
    W, m, s = lg.value("W"), lg.value("m"), lg.value("log_s").exp()
    loc, scale = (lg.x - lg.value("c")) @ lg.value("A").T, lg.value("r").exp()
    log_joint = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + dist.Normal(z @ W.T + m, s).log_prob(lg.x).sum(-1)
    assert density.log_joint.shape == (num_particles, 12)
    torch.testing.assert_close(density.log_joint, log_joint)
    torch.testing.assert_close(density.log_q, dist.Normal(loc, scale).log_prob(z).sum(-1))
    torch.testing.assert_close(density.log_weight, density.log_joint - density.log_q)


def test_a_row_does_not_depend_on_its_neighbours(lg):
    """The same noise for row 0, other rows and other numbers of rows: the same value to the last bit or nearly."""

    def first_row(x):
        pyro.set_rng_seed(5)
        noise = torch.randn(7, 1, 2, dtype=torch.float64)
        rest = torch.randn(7, len(x) - 1, 2, dtype=torch.float64)
        z = torch.cat([noise, rest], 1)

        def sampled(x):
            with pyro.plate("data", lg.num_data, subsample=torch.arange(len(x))):
                pyro.sample("z", dist.Delta(z if len(get_plates()) > 1 else z[0], event_dim=1))

        return log_density(lg.model, sampled, x, num_particles=7).log_joint[:, 0]

    alone = first_row(lg.x[:1])
    torch.testing.assert_close(first_row(lg.x), alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(first_row(torch.cat([lg.x[:1], 100 + lg.x[3:9]])), alone, rtol=1e-12, atol=1e-12)


def test_scales_do_not_count(lg):
    pyro.set_rng_seed(2)
    plain = log_density(lg.model, lg.guide, lg.x[:3])  # N/M = 4
    pyro.set_rng_seed(2)
    scaled = log_density(poutine.scale(lg.model, scale=0.1), poutine.scale(lg.guide, scale=7.0), lg.x[:3])
    torch.testing.assert_close(scaled, plain, rtol=0, atol=0)


def test_masks_do(lg):
    observed = torch.tensor([True, False, True])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=observed):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.5))

    x = torch.tensor([0.3, -1.0, 2.0])
    density = log_density(model, guide, x)
    pyro.set_rng_seed(0)
    z = poutine.trace(guide).get_trace(x).nodes["z"]["value"]
    expected = dist.Normal(0.0, 1.0).log_prob(z) + observed * dist.Normal(z, 1.0).log_prob(x)
    torch.testing.assert_close(density.log_joint[0], expected)


def test_nested_plates_are_summed_within_their_datapoint():
    """Three repeated measurements of each datapoint in a plate of their own, left of the data."""
    x = torch.randn(3, 5).double()  # (repeat, datapoint)

    def model(ids):
        with pyro.plate("data", len(ids)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(ids)).double(), 1.0))
            with pyro.plate("repeats", 3):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(ids):
        with pyro.plate("data", len(ids)):
            pyro.sample("z", dist.Normal(x.sum(0) / 4, 0.5))

    exact = torch.stack(
        [dist.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double() + 1).log_prob(column) for column in x.T]
    )
    for num_particles in (1, 4):
        weights = log_density(model, guide, torch.arange(5), num_particles=num_particles).log_weight
        torch.testing.assert_close(weights, exact.expand(num_particles, 5))


@pytest.mark.slow
def test_particles_one_by_one_have_the_same_mean(lg):
    together = log_density(lg.model, lg.guide, lg.x, num_particles=2000).log_weight.detach()
    one_by_one = log_density(lg.model, lg.guide, lg.x, num_particles=2000, vectorize=False).log_weight.detach()
    assert together.shape == one_by_one.shape == (2000, 12)
    assert_mean(together, lg.elbo(lg.x), resolution=1.5)
    assert_mean(one_by_one, lg.elbo(lg.x), resolution=1.5)


def test_gradients_reach_both_sets_of_parameters(lg):
    log_density(lg.model, lg.guide, lg.x, num_particles=2).log_weight.sum().backward()
    for name in lg.initial:
        assert lg.param(name).unconstrained().grad.abs().sum() > 0, name


def test_elbo_of_the_posterior_is_the_evidence(lg):
    """With J=1 and the posterior as guide every weight is p(x): no noise at all."""
    lg = LinearGaussian(12, 1, 3)
    P, W, s = lg.precision(), lg.value("W"), lg.value("log_s").exp()
    lg.set(A=torch.linalg.solve(P, W.T / s**2), c=lg.value("m"), r=-0.5 * P.log()[0])
    bound = elbo(lg.model, lg.guide, lg.x, num_particles=3, batch_size=5)
    torch.testing.assert_close(bound.value, lg.log_evidence(lg.x))
    assert bound.standard_error.max() < 1e-12


@pytest.mark.slow
def test_elbo_reports_its_error_and_leaves_the_generator_alone(lg):
    state = torch.get_rng_state()
    first = elbo(lg.model, lg.guide, lg.x, num_particles=4, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    again = elbo(lg.model, lg.guide, lg.x, num_particles=4, seed=3)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    bounds = [elbo(lg.model, lg.guide, lg.x, num_particles=4, seed=i) for i in range(400)]
    many, claimed = (torch.stack([getattr(b, name) for b in bounds]) for name in ("value", "standard_error"))
    ratio = claimed.square().mean(0) / many.var(0)
    assert ((ratio > 0.7) & (ratio < 1.4)).all(), ratio
    mean = first.mean()
    assert math.isclose(mean.value, first.value.mean().item())
    assert math.isclose(mean.standard_error, first.value.std().item() / 12**0.5)
    assert elbo(lg.model, lg.guide, lg.x).standard_error.isnan().all()


# -- what breaks the contract ----------------------------------------------------------------------------------------


def pair(inside=True, sites=("z",), size=None):
    def model(x):
        z0 = pyro.sample("global", dist.Normal(0.0, 1.0)) if not inside else 0.0
        with pyro.plate("data", size or len(x)):
            z = pyro.sample("z", dist.Normal(z0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        if not inside:
            pyro.sample("global", dist.Normal(0.0, 1.0))
        with pyro.plate("data", size or len(x)):
            for site in sites:
                pyro.sample(site, dist.Normal(0.0, 1.0))

    return model, guide


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (pair(sites=()), r"got none for \['z'\]"),
        (pair(sites=("z", "y")), r"got \['y'\] besides"),
    ],
)
def test_a_broken_pair_is_refused(broken, message):
    with pytest.raises(ValueError, match=message):
        log_density(*broken, torch.zeros(3))


def test_a_model_that_cannot_broadcast_is_told_how():
    vae = VAE(6, 2, hidden_dims=(3,))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            both = torch.cat([z, x], -1)  # (K, M, 2) and (M, 6)
            pyro.sample("x", dist.Normal(both[..., 2:], 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match="vectorize=False"):
        log_density(model, vae.guide, torch.zeros(4, 6), num_particles=3)
    assert log_density(model, vae.guide, torch.zeros(4, 6), num_particles=3, vectorize=False).log_q.shape == (3, 4)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"num_particles": 0}, "num_particles of 1 or more"), ({"batch_size": 0}, "batch_size of 1 or more")],
)
def test_sizes_are_checked(lg, kwargs, message):
    with pytest.raises(ValueError, match=message):
        elbo(lg.model, lg.guide, lg.x, **kwargs)
    with pytest.raises(ValueError, match="at least one datapoint"):
        elbo(lg.model, lg.guide, lg.x[:0])
