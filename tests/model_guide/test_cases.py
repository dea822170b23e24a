"""Situations that went wrong once, each with its whole kind: remedies, padding, global latents, planar flows."""

import functools
import math
import warnings

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from forms import FORMS, standard
from pyro import poutine
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_aevb import (
    AEVB,
    IWAE,
    MCEM,
    SGVB,
    STL,
    DReG,
    Renyi,
    ReweightedWakeSleep,
    WakeSleep,
    elbo,
    fit,
    log_density,
    log_marginal_likelihood,
)
from pyro_aevb.evidence import AIS, BDMC

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
SGD = functools.partial(torch.optim.SGD, lr=0.0)


def number(value):
    return torch.tensor(value).double()


# -- A global latent is given a value ---------------------------------------------------------------------------------


def one_shift():
    def draw():
        return pyro.sample("w", dist.Normal(number(0.0), 2.0))

    return draw, {"w": number(1.5)}


def two_globals():
    def draw():
        return pyro.sample("a", dist.Normal(number(0.0), 2.0)) * pyro.sample("b", dist.Gamma(number(2.0), 1.0))

    return draw, {"a": number(0.5), "b": number(3.0)}


def weights_in_an_event():
    def draw():
        return pyro.sample("weights", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)).sum(-1)

    return draw, {"weights": number([0.5, 0.25, 0.75])}


def components_in_a_plate():
    def draw():
        with pyro.plate("components", 2):
            means = pyro.sample("means", dist.Normal(number(0.0), 1.0))
        return means.sum(-1)

    return draw, {"means": number([1.0, 0.5])}


@pytest.mark.parametrize("case", [one_shift, two_globals, weights_in_an_event, components_in_a_plate])
def test_the_remedy_for_a_global_latent_works_as_written(case):
    """x ~ N(shift + z, 1): given the shift of 1.5, log p(x) = log N(x; 1.5, 2)."""
    draw, values = case()
    x = torch.randn(6).double()

    def model(x):
        shift = draw()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard())
            pyro.sample("x", dist.Normal(shift + z, 1.0), obs=x)

    def local(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - 1.5) / 2, math.sqrt(0.5)))

    def full(x):
        draw()
        local(x)

    name = next(iter(values))
    where = "it in the plate 'components'" if name == "means" else "it outside any"
    sentence = (
        rf"expected site '{name}' in the data plate, got {where};.*pyro\.condition\(model, \{{'{name}': value\}}\)"
    )
    with pytest.raises(ValueError, match=sentence):
        WakeSleep(model, full, ADAM, ADAM).step(x)
    exact = dist.Normal(number(1.5), math.sqrt(2)).log_prob(x)
    given = pyro.condition(model, values)
    for guide in (local, full, pyro.condition(full, values)):
        torch.testing.assert_close(elbo(given, guide, x, num_particles=3).value.double(), exact)
    found = log_marginal_likelihood(given, None, x, method="quadrature", progress=False)
    torch.testing.assert_close(found.value.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["w", "z"])
def test_an_intervention_leaves_a_latent_and_is_told(name):
    """pyro.do keeps the site as a latent: only conditioning gives it a value."""

    def model(x):
        w = pyro.sample("w", dist.Normal(number(0.0), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard())
            pyro.sample("x", dist.Normal(w + z, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(number(0.0), 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = torch.randn(6).double()
    value = number(0.0) if name == "w" else torch.zeros(6).double()
    with pytest.raises(ValueError, match=rf"got none for \['{name}'\]; add pyro\.sample\('{name}', \.\.\.\)"):
        elbo(pyro.do(model, {name: value}), poutine.block(guide, hide=[name]), x)


# -- What isn't data --------------------------------------------------------------------------------------------------


def tempered(x, temperature=1.0):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(number(0.0), pyro.param("s", number(1.0))))
        with poutine.scale(scale=temperature):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def tempered_guide(x, temperature=1.0):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.7))


@pytest.mark.parametrize("compile", [False, "graph"])
@pytest.mark.parametrize("value", [0.3, 3, number(0.3)])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_number_among_the_arguments_is_the_number_that_is_bound(value, by_name, compile):
    x, losses = torch.randn(20).double(), []
    bound = [functools.partial(fn, temperature=value) for fn in (tempered, tempered_guide)]
    for pair, args, kwargs in (
        ((tempered, tempered_guide), () if by_name else (value,), {"temperature": value} if by_name else {}),
        (bound, (), {}),
    ):
        pyro.set_rng_seed(0)
        with pyro.get_param_store().scope():
            learner = AEVB(*pair, SGD, SGVB(), compile=compile)
            losses.append([learner.step(x, *args, **kwargs).loss for _ in range(4)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("objective", [lambda: None, SGVB, lambda: IWAE(2)])
def test_arguments_that_are_bound_reach_model_and_guide(objective):
    x = torch.randn(20).double()
    losses = []
    for temperature in (0.25, 0.5, 0.75):
        pyro.set_rng_seed(0)
        bound = [functools.partial(fn, temperature=temperature) for fn in (tempered, tempered_guide)]
        with pyro.get_param_store().scope():
            losses.append(AEVB(*bound, SGD, objective() or SGVB()).step(x).loss)
    if objective is SGVB:  # linear in the weight of the likelihood
        torch.testing.assert_close(losses[1], (losses[0] + losses[2]) / 2)
    assert losses[0] < losses[1] < losses[2]


# -- Models that take their particles one by one ---------------------------------------------------------------------


def transposed_convolution():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 12), nn.Unflatten(-1, (1, 4, 3)), nn.ConvTranspose2d(1, 1, 3, padding=1))
    return net.double(), (1, 4, 3)


def convolution_over_time():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Unflatten(-1, (2, 4)), nn.Conv1d(2, 1, 3, padding=1)).double(), (1, 4)


class Columns(nn.Module):
    def forward(self, z):
        return torch.stack([z[:, 0], z[:, 1], z[:, 0] * z[:, 1]], 1)  # the columns of rows


class Rows(nn.Module):
    def forward(self, z):
        return torch.cat([z, z.new_ones(len(z), 1)], 1)


CANT_BROADCAST = {
    "transposed convolution": transposed_convolution,
    "convolution over time": convolution_over_time,
    "columns": lambda: (Columns(), (3,)),
    "ones": lambda: (Rows(), (3,)),
}


def decoded(decoder, shape):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(len(shape)), obs=x)

    return model


METHODS = {
    "quadrature": lambda: "quadrature",
    "ais": lambda: AIS(4, num_leapfrog=1),
    "bdmc": lambda: BDMC(AIS(4, num_leapfrog=1)),
    "posterior-density": lambda: "posterior-density",
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("net", CANT_BROADCAST)
def test_every_estimator_says_that_particles_can_come_one_by_one(net, method):
    decoder, shape = CANT_BROADCAST[net]()
    x, model = torch.randn(3, *shape).double(), decoded(decoder, shape)
    options = {"seed": 0, "num_particles": 4 if method in ("ais", "bdmc") else None, "progress": False}
    with pytest.raises(ValueError, match=r"(vectorize=False|as BatchNorm1d takes)"):
        log_marginal_likelihood(model, None, x, method=METHODS[method](), **options)


@pytest.mark.slow  # a grid's points one by one
@pytest.mark.parametrize("net", ["columns", "transposed convolution", "ones"])
def test_one_by_one_such_models_have_their_evidence(net):
    decoder, shape = CANT_BROADCAST[net]()
    x = torch.randn(2, *shape).double()
    grid = torch.linspace(-7, 7, 301).double()
    z = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        likelihood = dist.Normal(decoder(z)[:, None], 1.0).to_event(len(shape)).log_prob(x)
    joint = likelihood + dist.Normal(number(0.0), 1.0).log_prob(z).sum(1, keepdim=True)
    exact = joint.logsumexp(0) + 2 * math.log(14 / 300)
    model = decoded(decoder, shape)
    found = log_marginal_likelihood(model, None, x, method="quadrature", vectorize=False, seed=0, progress=False)
    torch.testing.assert_close(found.value.double(), exact, rtol=0, atol=1e-3)


# -- Flows without an inverse -----------------------------------------------------------------------------------------

FLOWS = {
    "planar": lambda: [T.Planar(2)],
    "radial": lambda: [T.Radial(2)],
    "sylvester": lambda: [T.Sylvester(2, count_transforms=2)],
    "planar, then affine": lambda: [T.Planar(2), T.AffineTransform(torch.ones(2), 2.0, event_dim=1, cache_size=1)],
}
WANT_A_DENSITY = {
    "STL": lambda m, g: AEVB(m, g, ADAM, STL()),
    "DReG": lambda m, g: AEVB(m, g, ADAM, DReG(3)),
    "wake-sleep": lambda m, g: WakeSleep(m, g, ADAM, ADAM),
    "reweighted": lambda m, g: ReweightedWakeSleep(m, g, ADAM, ADAM),
}


def flow_pair(flows):
    base = nn.Linear(4, 4)

    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ torch.ones(2, 4), scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("base", base)
        for i, flow in enumerate(flows):
            if isinstance(flow, nn.Module):
                pyro.module(f"flow{i}", flow)
        loc, log_scale = base(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(loc, log_scale.exp()).to_event(1), flows))

    return model, guide


@pytest.mark.parametrize("learner", WANT_A_DENSITY)
@pytest.mark.parametrize("flow", FLOWS)
def test_a_flow_of_ones_own_without_an_inverse_is_told(flow, learner):
    model, guide = flow_pair(FLOWS[flow]())
    x = torch.randn(20, 4)
    sentence = r"expected a density at any z, got site 'z' ~ TransformedDistribution, a flow without an inverse"
    with pytest.raises(ValueError, match=sentence):
        WANT_A_DENSITY[learner](model, guide).step(x)


@pytest.mark.parametrize("objective", [lambda: None, SGVB, lambda: IWAE(3), lambda: Renyi(0.5, 3)])
@pytest.mark.parametrize("flow", FLOWS)
def test_what_follows_the_draws_takes_such_a_flow(flow, objective):
    model, guide = flow_pair(FLOWS[flow]())
    learner = AEVB(model, guide, ADAM, objective())
    x = torch.randn(20, 4)
    bounds = [learner.step(x).elbo for _ in range(60)]
    assert sum(bounds[-20:]) > sum(bounds[:20])


@pytest.mark.parametrize("flow", ["planar", "radial", "sylvester"])
def test_transforms_after_such_a_flow_are_to_keep_what_they_mapped(flow):
    after = T.AffineTransform(torch.ones(2), 2.0, event_dim=1)
    model, guide = flow_pair([*FLOWS[flow](), after])
    for objective in (SGVB(), IWAE(2)):
        with pytest.raises(ValueError, match=r"a flow without an inverse .*; transforms after it take cache_size=1"):
            AEVB(model, guide, ADAM, objective).step(torch.randn(20, 4))


# -- Spheres ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prior",
    [
        lambda: dist.ProjectedNormal(torch.zeros(2).double()),
        lambda: dist.ProjectedNormal(number([1.0, 0.0])),
        lambda: dist.ProjectedNormal(torch.zeros(3).double()),
        lambda: dist.ProjectedNormal(number([0.0, 1.0, 0.0, -1.0])),
    ],
)
def test_hmc_has_no_way_on_a_sphere(prior):
    x = torch.randn(5, 4).double()

    def model(x):
        scale = pyro.param("scale", number(1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4), scale).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"got site 'z' with the support Sphere"):
        MCEM(model, ADAM).step(x, index=torch.arange(5))
    with pytest.raises(ValueError, match=r"got site 'z' with the support Sphere.*method='importance'"):
        log_marginal_likelihood(model, None, x, method="quadrature", progress=False)


@pytest.mark.parametrize("far", [0.5, 1.0, 2.0])
def test_importance_integrates_a_circle(far):
    """z uniform on the circle: log p(x) is a mean over its angle."""
    x = far * torch.randn(5, 2).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.ProjectedNormal(torch.zeros(2).double()))
            pyro.sample("x", dist.Normal(z, 0.7).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.ProjectedNormal(x))

    angle = torch.linspace(0, 2 * math.pi, 2001).double()[:-1, None]
    points = torch.cat([angle.cos(), angle.sin()], 1)
    exact = dist.Normal(points[:, None], 0.7).to_event(1).log_prob(x).logsumexp(0) - math.log(2000)
    found = log_marginal_likelihood(model, guide, x, num_particles=20_000, seed=0, progress=False)
    assert (found.standard_error < 0.02).all()
    assert ((found.value - exact).abs() < 5 * found.standard_error + 1e-4).all()


# -- Sequences that end early -----------------------------------------------------------------------------------------


def chain(steps, lengths):
    """z_t ~ N(z_(t-1), 1), x_t ~ N(z_t, 1) for t < length; log p(x) of each sequence."""
    torch.manual_seed(2)
    lengths = torch.tensor(lengths)
    x = 1.4 * torch.randn(len(lengths), steps).double()

    def model(x, lengths):
        with pyro.plate("data", len(x)):
            z = number(0.0)
            for t in range(steps):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
                    pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])

    def guide(x, lengths):
        with pyro.plate("data", len(x)):
            for t in range(steps):
                with poutine.mask(mask=t < lengths):
                    pyro.sample(f"z{t}", dist.Normal(0.5 * x[:, t], 0.8))

    time = torch.arange(1.0, steps + 1).double()
    covariance = torch.minimum(time[:, None], time) + torch.eye(steps).double()
    exact = [
        MultivariateNormal(torch.zeros(n).double(), covariance[:n, :n]).log_prob(row[:n])
        for n, row in zip(lengths.tolist(), x, strict=True)
    ]
    return model, guide, (x, lengths), torch.stack(exact)


CHAINS = {
    "one step or two": lambda: chain(2, [1, 2, 1, 2, 2]),
    "up to three": lambda: chain(3, [3, 1, 2, 3]),
    "all of one": lambda: chain(2, [1, 1]),
}


def marks(case, method):
    """By default the methods that take least, and the others on the shortest."""
    return () if case == "all of one" or method in ("importance", "quadrature") else pytest.mark.exhaustive


@pytest.mark.filterwarnings("ignore:the effective sample size is below")  # of short annealing
@pytest.mark.parametrize(
    ("case", "method"),
    [
        pytest.param(case, method, marks=marks(case, method))
        for case in CHAINS
        for method in ("importance", "quadrature", "ais", "bdmc", "posterior-density")
    ],
)
def test_sequences_that_end_early_have_the_evidence_of_what_there_is(case, method):
    model, guide, args, exact = CHAINS[case]()
    how = {"ais": AIS(60, num_leapfrog=3), "bdmc": BDMC(AIS(60, num_leapfrog=3))}.get(method, method)
    particles = {"importance": 20_000, "posterior-density": 200}
    options = {"num_particles": particles[method]} if method in particles else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-hat of a guide that is not the posterior
        found = log_marginal_likelihood(model, guide, *args, method=how, seed=0, progress=False, **options)
    if method == "bdmc":  # on data of its own
        gap = found.upper.value - found.value
        assert (gap.mean().abs() < 0.2).all()
        return
    error = 1e-3 + 5 * found.standard_error
    assert (error < (1e-2 if method == "quadrature" else 0.8)).all()
    assert ((found.value - exact).abs() < error).all()


# -- MCEM on every form of a model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        "plate_without_size", "data_plate_on_the_left", "deterministic_sites",
        "global_latent_conditioned_in_the_model",
    ],
)  # fmt: skip
def test_mcem_samples_the_posterior_whatever_the_form(form):
    """E[-log p(x, z)] over the posterior N(., 1 / 4) is its entropy less log p(x)."""
    model, _, (x,), exact = FORMS[form]()

    def trained(x):
        return model(x + 0 * pyro.param("free", number(0.0)))

    learner = MCEM(trained, SGD, num_updates=1, num_leapfrog=4, step_size=0.4, compile="graph")
    index = torch.arange(len(x))
    losses = torch.stack([learner.step(x, index=index).loss for _ in range(220)])[20:]
    given = dist.Normal(number(0.0), 1.0).log_prob(number(0.5)) if "global" in form else 0.0
    entropy = 0.5 * math.log(2 * math.pi * math.e / 4)
    means = losses.reshape(10, 20).mean(1)
    error = 5 * means.std() / 10**0.5
    assert error < 1.5
    assert (means.mean() - (len(x) * entropy - exact.sum() - given)).abs() < error


# -- A plate without a size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda m, g, o: AEVB(m, g, o),
        lambda m, g, o: AEVB(m, g, o, SGVB(kl="analytic")),
        lambda m, g, o: WakeSleep(m, g, o, o),
        lambda m, g, o: ReweightedWakeSleep(m, g, o, o, num_particles=10),
        lambda m, g, o: MCEM(m, o),
    ],
)
def test_a_plate_without_a_size_finds_the_mean_of_the_data(make):
    """x = m + z + noise: the likelihood is largest at the mean of the data."""
    x = torch.randn(50).double() + 3

    def model(x):
        m = pyro.param("m", number(0.0))
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(m.expand(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        a = pyro.param("a", number(0.0))
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(x / 2 + a, math.sqrt(0.5)))

    adam = functools.partial(torch.optim.Adam, lr=0.1)
    learner = make(model, guide, adam)
    fit(learner, x, epochs=150, batch_size=50, schedule=lambda done: 1 - done, progress=False)
    assert learner.dataset_size == 50
    assert abs(pyro.param("m").item() - x.mean().item()) < 0.2
    assert log_density(model, guide, x).log_q.shape == (1, 50)
