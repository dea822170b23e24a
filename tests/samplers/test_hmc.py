"""HMC and the unconstrained coordinates: reversible, invariant, one chain a row."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from statistics_tools import assert_mean

from pyro_aevb.samplers import hmc
from pyro_aevb.samplers.latent_space import LatentSpace


def log_gamma(u):
    """The logarithm of a Gamma(2, 1) variable, skewed to the left: log p(u) = 2u - exp(u)."""
    return (2 * u - u.exp()).sum(-1)


LOG_GAMMA = hmc.differentiable(log_gamma)


def draw_log_gamma(n):
    return dist.Gamma(torch.tensor(2.0).double(), 1.0).sample((n, 1)).log()


def test_leapfrog_is_reversible():
    start = hmc.init(LOG_GAMMA, draw_log_gamma(100))
    momentum = torch.randn(100, 1).double()
    end, end_momentum = hmc.leapfrog(LOG_GAMMA, start, momentum, 0.3, 10)
    assert (end.position - start.position).abs().max() > 0.5
    back, back_momentum = hmc.leapfrog(LOG_GAMMA, end, -end_momentum, 0.3, 10)
    torch.testing.assert_close(back.position, start.position, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(-back_momentum, momentum, rtol=1e-9, atol=1e-9)


def test_leapfrog_keeps_volume():
    def flow(y):
        state, momentum = hmc.leapfrog(LOG_GAMMA, hmc.init(LOG_GAMMA, y[:1]), y[1:], 0.3, 1)
        return state.position, momentum

    y, h = torch.tensor([0.3, -0.8]).double(), 1e-6
    columns = [
        torch.cat([a - b for a, b in zip(flow(y + h * e), flow(y - h * e), strict=True)]) / (2 * h)
        for e in torch.eye(2).double()
    ]
    assert torch.linalg.det(torch.stack(columns)).item() == pytest.approx(1.0, abs=1e-6)


def test_a_skewed_target_keeps_its_moments():
    """Chains that start in the target stay in it, at a step so large that a quarter of the proposals is rejected."""
    exact = draw_log_gamma(40000)
    mean = 1 - 0.5772156649015329  # digamma(2)
    variance = torch.pi**2 / 6 - 1  # trigamma(2)
    third = -2 * 1.2020569031595942 + 2  # polygamma(2, 2)
    state, acceptance = hmc.init(LOG_GAMMA, exact), []
    for _ in range(20):
        state, info = hmc.transition(LOG_GAMMA, state, 1.1, 3)
        acceptance.append(info.acceptance.mean())
    assert 0.5 < torch.stack(acceptance).mean() < 0.9
    u = state.position - mean
    assert (state.position != exact).double().mean() > 0.99
    assert_mean(u, 0.0, resolution=0.05)
    assert_mean(u**2, variance, resolution=0.05)
    assert_mean(u**3, third, resolution=0.2)


def test_each_chain_has_its_own_accept_and_step():
    start = hmc.init(LOG_GAMMA, draw_log_gamma(1000))
    step = torch.where(torch.arange(1000) < 500, 0.1, 50.0).double()
    state, info = hmc.transition(LOG_GAMMA, start, step, 5)
    assert info.accepted[:500].double().mean() > 0.95
    assert info.accepted[500:].double().mean() < 0.05  # off into nowhere, and back
    rejected = ~info.accepted
    for new, old in zip(state, start, strict=True):
        assert torch.equal(new[rejected], old[rejected])
        assert torch.isfinite(new).all()
    torch.testing.assert_close(hmc.init(LOG_GAMMA, state.position), state)


def test_the_target_may_be_minus_infinity():
    """Positive half of a Gaussian, written without a transform: proposals beyond the edge are rejected."""

    def half_normal(u):
        return torch.where(u > 0, -0.5 * u**2, -torch.inf).sum(-1)

    state = hmc.init(hmc.differentiable(half_normal), torch.randn(20000, 1).double().abs())
    for _ in range(10):
        state, _ = hmc.transition(hmc.differentiable(half_normal), state, 0.4, 3)
    assert (state.position > 0).all()
    assert_mean(state.position, (2 / torch.pi) ** 0.5, resolution=0.03)


def every_support(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("real", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1))
        b = pyro.sample("positive", dist.Gamma(torch.full((len(x),), 2.0).double(), 1.0))
        c = pyro.sample("simplex", dist.Dirichlet(torch.tensor([2.0, 1.0, 3.0]).double()))
        d = pyro.sample("unit", dist.Beta(torch.tensor(2.0).double(), 3.0))
        pyro.sample("x", dist.Normal(a.sum(-1) + b + c[..., 0] + d, 1.0), obs=x)


def test_where_the_target_overflows_no_trajectory_ends():
    """exp(-z^2 / 2) below 1, infinite above, as a density is that overflows: what is left is a truncated normal."""

    def log_prob(z):
        value = -0.5 * z.square().sum(-1)
        return torch.where(z[..., 0] > 1, value + torch.inf, value)

    target = hmc.differentiable(log_prob)
    state = hmc.init(target, torch.zeros(4000, 1).double())
    for _ in range(30):
        state, info = hmc.transition(target, state, step_size=0.5, num_leapfrog=3)
        assert state.log_prob.isfinite().all()
    assert (~info.accepted).any()
    standard = dist.Normal(torch.tensor(0.0).double(), 1.0)
    one = torch.tensor(1.0).double()
    mean = -standard.log_prob(one).exp() / standard.cdf(one)
    assert abs(state.position.mean() - mean) < 0.06


def test_unconstrained_coordinates_carry_the_jacobian():
    x = torch.randn(4).double()
    space = LatentSpace(every_support, x)
    assert space.prior_draw(x).shape == (4, 2 + 1 + 2 + 1)
    u = torch.randn(4, 6).double()
    values = space.values(u, x)
    assert (values["simplex"].sum(-1) - 1).abs().max() < 1e-12
    expected = (
        dist.Normal(0.0, 1.0).log_prob(values["real"]).sum(-1)
        + dist.Gamma(2.0, 1.0).log_prob(values["positive"])
        + dist.Dirichlet(torch.tensor([2.0, 1.0, 3.0]).double()).log_prob(values["simplex"])
        + dist.Beta(2.0, 3.0).log_prob(values["unit"])
        + dist.Normal(values["real"].sum(-1) + values["positive"] + values["simplex"][..., 0] + values["unit"], 1.0)
        .log_prob(x)
    )  # fmt: skip
    for m in range(4):

        def free(v, m=m):  # the free coordinates of the values: a simplex of three has two
            z = space.values(torch.cat([u[:m], v[None], u[m + 1 :]]), x)
            return torch.cat([z["real"][m], z["positive"][m, None], z["simplex"][m, :2], z["unit"][m, None]])

        expected[m] += torch.linalg.slogdet(torch.autograd.functional.jacobian(free, u[m])).logabsdet
    torch.testing.assert_close(space.log_joint(u, x), expected)
    torch.testing.assert_close(space.log_joint(torch.stack([u, u + 1]), x)[0], expected)
    assert space.log_joint(torch.stack([u, u + 1]), x).shape == (2, 4)


def test_hmc_in_unconstrained_coordinates_keeps_the_prior():
    """A Gamma and a Dirichlet latent with nothing observed about them but a constant."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(torch.tensor(3.0).double(), 2.0))
            pyro.sample("weights", dist.Dirichlet(torch.tensor([2.0, 1.0, 3.0]).double()))
            pyro.sample("x", dist.Normal(torch.zeros(len(x)).double(), 1.0), obs=x)

    x = torch.zeros(20000).double()
    space = LatentSpace(model, x)
    target = hmc.differentiable(lambda u: space.log_joint(u, x))
    state = hmc.init(target, space.prior_draw(x))
    for _ in range(10):
        state, info = hmc.transition(target, state, 0.5, 4)
    assert 0.5 < info.acceptance.mean() < 0.99
    values = space.values(state.position, x)
    assert_mean(values["rate"], 1.5, resolution=0.05)
    assert_mean((values["rate"] - 1.5) ** 2, 0.75, resolution=0.08)
    assert_mean(values["weights"], torch.tensor([2.0, 1.0, 3.0]).double() / 6, resolution=0.02)


def test_a_support_may_depend_on_data_and_on_other_latents():
    """top ~ U(0, 1 + |x|), z ~ U(0, top): density 1 / ((1 + |x|) top), Jacobians of two scaled sigmoids."""

    def model(x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Uniform(torch.zeros_like(x), 1 + x.abs()))
            z = pyro.sample("z", dist.Uniform(torch.zeros_like(top), top))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x, u = torch.tensor([0.5, -3.0]).double(), torch.randn(2, 2).double()
    space = LatentSpace(model, -x)  # what it was made on does not matter
    x = 2 * x
    sigmoid = u.sigmoid()
    top = (1 + x.abs()) * sigmoid[:, 0]
    z = top * sigmoid[:, 1]
    expected = dist.Normal(z, 1.0).log_prob(x) + (sigmoid * (1 - sigmoid)).log().sum(-1)
    torch.testing.assert_close(space.values(u, x), {"top": top, "z": z})
    torch.testing.assert_close(space.log_joint(u, x), expected)


def test_discrete_and_global_latents_are_refused():
    def discrete(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def outside(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def none(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    for model, message in ((discrete, "discrete site 'z'; use WakeSleep"), (outside, "data plate"), (none, "got none")):
        with pytest.raises(ValueError, match=message):
            LatentSpace(model, torch.zeros(3))
