"""The parameters of a model as global latents, Appendix F: against conjugate posteriors and by eager runs."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_aevb import AEVB, IWAE, SGVB, VAE, Bayesian, elbo

DOUBLE = {"dtype": torch.float64}


def no_guide(*args):
    pass


def regression(shape):
    """y ~ N(theta . a, 0.5^2) with theta as one parameter of pyro.param."""
    a = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    y = a @ torch.tensor([1.0, -1.0, 0.5], **DOUBLE) + 0.5 * torch.randn(50, generator=torch.Generator().manual_seed(1))

    def model(y, a):
        theta = pyro.param("theta", torch.zeros(shape, **DOUBLE))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(a @ theta.flatten(), 0.5), obs=y)

    precision = torch.eye(3).double() + a.T @ a / 0.25
    return model, (y, a), torch.linalg.solve(precision, a.T @ y / 0.25), precision


def test_it_finds_the_best_diagonal_gaussian():
    model, data, mean, precision = regression((3, 1))
    pair = Bayesian(model, no_guide, *data)
    torch.manual_seed(0)
    for rate, steps in ((0.05, 150), (0.005, 150)):
        learner = AEVB(pair.model, pair.guide, functools.partial(torch.optim.Adam, lr=rate), SGVB(kl="analytic"))
        for _ in range(steps):
            learner.step(*data)
    q = pair.posterior()["theta"]
    assert torch.allclose(q.mean.flatten(), mean, atol=0.05)
    assert torch.allclose(q.base_dist.scale.flatten(), precision.diagonal() ** -0.5, rtol=0.3)


def test_a_point_for_each_parameter_is_map():
    model, data, mean, _ = regression((3,))
    pair = Bayesian(model, no_guide, *data, guide_for="delta")
    learner = AEVB(pair.model, pair.guide, functools.partial(torch.optim.Adam, lr=0.1), SGVB())
    for _ in range(150):
        learner.step(*data)
    assert torch.allclose(pair.posterior()["theta"].mean, mean, atol=0.01)


def test_a_prior_and_a_guide_of_one_s_own():
    model, data, mean, precision = regression((3,))

    def exact(name, value):
        assert name == "theta"
        assert value.shape == (3,)
        return dist.MultivariateNormal(best, precision_matrix=with_prior)

    with_prior = precision - torch.eye(3).double() + torch.eye(3).double() / 4  # N(0, 2^2)
    best = torch.linalg.solve(with_prior, precision @ mean)
    pair = Bayesian(model, no_guide, *data, prior=dist.Normal(torch.tensor(0.0, **DOUBLE), 2.0), guide_for=exact)
    a, y = data[1], data[0]
    covariance = 4 * a @ a.T + 0.25 * torch.eye(50).double()
    expected = torch.distributions.MultivariateNormal(torch.zeros(50).double(), covariance).log_prob(y)
    assert SGVB().loss(pair.model, pair.guide, *data) == pytest.approx(-expected.item(), abs=1e-8)


def test_a_constrained_parameter_has_its_prior_in_unconstrained_space():
    x = torch.tensor([0.5, -1.0], **DOUBLE)

    def model(x):
        scale = pyro.param("scale", torch.tensor(2.0, **DOUBLE), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    pair = Bayesian(model, no_guide, x)
    torch.manual_seed(0)
    trace = pyro.poutine.trace(pair.guide).get_trace(x)
    value = trace.nodes["scale"]["value"]
    assert value.item() == pytest.approx(2.0, rel=0.1)
    p, q = (pyro.poutine.trace(f).get_trace(x).nodes["scale"]["fn"] for f in (pair.model, pair.guide))
    assert p.log_prob(value).item() == pytest.approx(dist.LogNormal(0.0, 1.0).log_prob(value).item(), rel=1e-6)
    kl = torch.distributions.kl_divergence(dist.Normal(torch.tensor(2.0).log(), 0.01), dist.Normal(0.0, 1.0))
    assert SGVB(kl="analytic").terms(pair.model, pair.guide, x).global_kl["scale"].item() == pytest.approx(kl.item())
    assert torch.distributions.kl_divergence(q, p).item() == pytest.approx(kl.item(), rel=1e-5)


def bernoulli_vae():
    x = (torch.rand(20, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    return VAE(6, 2, hidden_dims=(5,), dataset_size=20), x


def own_module():
    vae, x = bernoulli_vae()
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 6))

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", 20, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=net(z)).to_event(1), obs=x)

    model.net, model.guide, model.model = net, vae.guide, model
    return model, x


PAIRS = {"VAE": bernoulli_vae, "pyro.module": own_module}


@pytest.mark.parametrize("objective", [SGVB(kl="analytic"), IWAE(3)], ids=["L^B", "IWAE"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_graph_is_the_eager_run_and_leaves_modules_as_they_were(name, objective):
    bounds = {}
    for compile in (False, "graph"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        pair, x = PAIRS[name]()
        before = [p for m in ([pair] if name == "VAE" else [pair.net]) for p in m.parameters()]
        full = Bayesian(pair.model, pair.guide, x)
        optimizer = functools.partial(torch.optim.Adam, lr=0.01)
        learner = AEVB(full.model, full.guide, optimizer, objective, compile=compile)
        bounds[compile] = [learner.step(x).elbo.item() for _ in range(5)]
        assert not learner.theta
        after = [p for m in ([pair] if name == "VAE" else [pair.net]) for p in m.parameters()]
        assert all(a is b for a, b in zip(before, after, strict=True))
    assert bounds[False] == pytest.approx(bounds["graph"], rel=1e-5)
    assert len(set(bounds[False])) == 5


def test_a_draw_of_the_weights_is_what_the_module_computes_with():
    """With q(theta) at a point the bound is that of the weights themselves, less -log p(theta)."""
    pair, x = own_module()
    full = Bayesian(pair, pair.guide, x, guide_for="delta")
    bounds = [
        elbo(f, g, x, num_particles=2, seed=0, vectorize=False)
        for f, g in ((pair, pair.guide), (full.model, full.guide))
    ]
    assert torch.allclose(bounds[0].value, bounds[1].value, atol=1e-5)
    log_prior = sum(dist.Normal(0.0, 1.0).log_prob(p).sum() for p in pair.net.parameters())
    assert bounds[1].global_kl.item() == pytest.approx(-log_prior.item(), rel=1e-5)


def test_what_the_guide_shares_stays_a_parameter():
    vae, x = VAE(6, 2, hidden_dims=(5,), prior="vamp", dataset_size=20), bernoulli_vae()[1]
    full = Bayesian(vae.model, vae.guide, x)
    names = set(full.posterior())
    assert any(name.startswith("decoder.") for name in names)
    assert not any(name.startswith("encoder.") for name in names)


def test_mistakes_are_said():
    vae, x = bernoulli_vae()

    def bare(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([6]).to_event(1), obs=x)

    with pytest.raises(ValueError, match="expected a model with parameters of its own, got none; register them"):
        Bayesian(bare, no_guide, x)
    with pytest.raises(ValueError, match="expected guide_for to be 'normal', 'delta' or a function"):
        Bayesian(vae.model, vae.guide, x, guide_for="gauss")
    full = Bayesian(vae.model, vae.guide, x)
    with pytest.raises(ValueError, match="or pass vectorize=False"):
        SGVB(3).loss(full.model, full.guide, x)
    assert SGVB(3, vectorize=False).loss(full.model, full.guide, x) > 0
