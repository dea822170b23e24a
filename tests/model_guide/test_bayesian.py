"""The parameters of a model as global latents, Appendix F: against conjugate posteriors and by eager runs."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian
from torch import nn

from pyro_aevb import AEVB, IWAE, SGVB, VAE, Bayesian, elbo
from pyro_aevb.model_guide.parameters import ParameterRecorder

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


def positive_scales(prefix=""):
    """y = z + noise, z ~ N(0, s^2), the noise's scale t: both parameters positive, and the guide has one of its own."""
    y = torch.randn(12, generator=torch.Generator().manual_seed(0)).double()

    def scale(name, start):
        return pyro.param(prefix + name, torch.tensor(start, **DOUBLE), constraint=dist.constraints.positive)

    def model(y):
        with pyro.plate("data", 12, subsample_size=len(y)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0, **DOUBLE), scale("s", 1.5)))
            pyro.sample("y", dist.Normal(z, scale("t", 0.7)), obs=y)

    def guide(y):
        with pyro.plate("data", 12, subsample_size=len(y)):
            pyro.sample("z", dist.Normal(0.6 * y, scale("u", 0.5)))

    return model, guide, y


def linear_gaussian():
    """Probabilistic PCA: all parameters real."""
    pca = LinearGaussian(12, 2, 3)
    return pca.model, pca.guide, pca.x


LOG_NORMAL = dist.LogNormal(torch.tensor(0.3, **DOUBLE), 0.8)
POINTS = {  # a pair, p(theta) of the values, and that of their places in R^n
    "real": (linear_gaussian, dist.Normal(torch.tensor(0.2, **DOUBLE), 0.5), None),
    "positive": (positive_scales, LOG_NORMAL, LOG_NORMAL.base_dist),
}


@pytest.mark.parametrize("name", POINTS)
def test_a_prior_on_theta_is_a_point_for_each_parameter_step_for_step(name):
    make, theta_prior, prior = POINTS[name]
    model, guide, x = make()
    with pyro.get_param_store().scope():
        full = Bayesian(model, guide, x[:4], prior=theta_prior if prior is None else prior, guide_for="delta")
        point = AEVB(full.model, full.guide, SGD, SGVB(kl="analytic"))
        values, losses = stepped(point, x, lambda: {n: q.mean.detach().clone() for n, q in full.posterior().items()})
    with pyro.get_param_store().scope():
        penalized = AEVB(model, guide, SGD, SGVB(kl="analytic"), theta_prior=theta_prior)
        same, its = stepped(penalized, x, lambda: {n: p.value().detach().clone() for n, p in penalized.theta.items()})
    assert losses == pytest.approx(its, rel=1e-13)
    for step in range(5):
        assert values[step].keys() == same[step].keys()
        assert all(torch.allclose(values[step][n], same[step][n], rtol=1e-12, atol=0) for n in same[step])
    assert all((same[4][n] != same[0][n]).all() for n in same[0])


SGD = functools.partial(torch.optim.SGD, lr=0.002)


def stepped(learner, x, theta):
    """Return theta before and after each of four steps on a minibatch, and their losses."""
    learner.prepare(x[:4])
    torch.manual_seed(0)
    values, losses = [theta()], []
    for start in (0, 4, 8, 2):
        losses.append(learner.step(x[start : start + 4]).loss.item())
        values.append(theta())
    return values, losses


def test_a_prior_on_theta_is_on_the_values_and_that_of_a_point_on_their_places_in_r_n():
    """The same N(0, 1) on a positive parameter is two priors: N(v; 0, 1), and N(log v; 0, 1) / v, a LogNormal."""
    model, guide, y = positive_scales()
    full = Bayesian(model, guide, y, guide_for="delta")
    point = SGVB(kl="analytic").terms(full.model, full.guide, y).global_kl
    for name, value in {"s": 1.5, "t": 0.7}.items():
        expected = dist.LogNormal(0.0, 1.0).log_prob(torch.tensor(value, **DOUBLE))
        assert -point[name].item() == pytest.approx(expected.item(), rel=1e-7)
    torch.manual_seed(0)
    plain = AEVB(model, guide, SGD, SGVB(kl="analytic")).step(y).loss
    pyro.clear_param_store()
    torch.manual_seed(0)
    penalty = AEVB(model, guide, SGD, SGVB(kl="analytic"), theta_prior=dist.Normal(0.0, 1.0)).step(y).loss - plain
    expected = -dist.Normal(0.0, 1.0).log_prob(torch.tensor([1.5, 0.7], **DOUBLE)).sum()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-7)


def test_a_parameter_with_two_names_is_one_latent():
    """Its prior weighs once, every name stands for one draw, and the module is afterwards what it was."""
    net = nn.Linear(2, 3).double()
    before = list(net.parameters())

    def model(x):
        pyro.module("a", net)
        pyro.module("b", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, **DOUBLE), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2, **DOUBLE), 1.0).to_event(1))

    x = torch.ones(4, 3, **DOUBLE)
    full = Bayesian(model, guide, x)
    assert list(full.posterior()) == ["a$$$weight", "a$$$bias"]
    torch.manual_seed(0)
    trace = pyro.poutine.trace(full.guide).get_trace(x)
    nodes = pyro.poutine.trace(pyro.poutine.replay(full.model, trace)).get_trace(x).nodes
    z, (weight, bias) = nodes["z"]["value"], (nodes[f"a$$${name}"]["value"] for name in ("weight", "bias"))
    assert torch.allclose(nodes["x"]["fn"].mean, z @ weight.T + bias)
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True))

    def registered(x):
        pyro.module("c", net)
        guide(x)

    with pytest.raises(ValueError, match="expected a model with parameters of its own, got none"):
        Bayesian(model, registered, x)


def test_the_middle_of_q_is_put_into_the_models_parameters():
    model, guide, y = positive_scales()
    full = Bayesian(model, guide, y)
    with torch.no_grad():
        for loc in full.loc.values():
            loc += 0.25
    full.put_middle()
    recorder = ParameterRecorder()
    recorder(model)(y)
    assert recorder.parameters["s"].value().item() == pytest.approx(1.5 * torch.tensor(0.25).exp().item(), rel=1e-7)
    assert recorder.parameters["t"].value().item() == pytest.approx(0.7 * torch.tensor(0.25).exp().item(), rel=1e-7)
    (vae, x), changed = bernoulli_vae(), 0

    def one_up(name, value):
        return dist.Normal(value + 1, 1.0).to_event(value.dim())

    full = Bayesian(vae.model, vae.guide, x, guide_for=one_up)
    means = {name: q.mean for name, q in full.posterior().items()}
    full.put_middle()
    for name, parameter in vae.named_parameters():
        if name in means:
            changed += 1
            assert torch.equal(parameter, means[name])
    assert changed == 4


def test_draws_from_the_prior_have_the_precision_of_the_parameters():
    vae, x = bernoulli_vae()
    full = Bayesian(vae.double().model, vae.guide, x.double())
    nodes = pyro.poutine.trace(full.model).get_trace(x.double()).nodes
    assert all(nodes[name]["value"].dtype is torch.float64 for name in full.posterior())
    halves = Bayesian(vae.float().model, vae.guide, x, prior=dist.Normal(torch.tensor(0.0, **DOUBLE), 1.0))
    nodes = pyro.poutine.trace(halves.model).get_trace(x).nodes
    assert all(nodes[name]["value"].dtype is torch.float32 for name in halves.posterior())


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
