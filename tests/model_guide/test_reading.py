"""One model written in many ways: every estimate and every bound is log p(x), to rounding."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from forms import FORMS, OUTER_SCALE
from objectives import OBJECTIVES
from pyro import poutine

from pyro_aevb import (
    AEVB,
    MCEM,
    SGVB,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    capture_log_density,
    elbo,
    log_density,
    log_marginal_likelihood,
)
from pyro_aevb.evidence import Quadrature
from pyro_aevb.model_guide import read

SGD = functools.partial(torch.optim.SGD, lr=0.0)
OBJECTIVES = OBJECTIVES | {"score function": functools.partial(ScoreFunction, baseline="leave-one-out")}
ONE_BY_ONE = ("obs_mask",)  # Pyro's own torch.where over its two sites doesn't broadcast over particles
NO_CLOSED_FORM = ("auxiliary_that_becomes_the_latent",)


def close(value, expected):
    torch.testing.assert_close(value.double(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_bound_and_importance_are_exact(form):
    model, guide, args, exact = FORMS[form]()
    vectorize = form not in ONE_BY_ONE
    close(elbo(model, guide, *args, num_particles=3, seed=0, vectorize=vectorize).value, exact)
    weights = log_density(model, guide, *args, num_particles=2, vectorize=vectorize).log_weight
    close(weights, exact.expand(2, -1))
    density = capture_log_density(model, guide, num_particles=2, vectorize=vectorize, compile="graph")
    for _ in range(3):
        close(density(*args).log_weight, exact.expand(2, -1))
    assert density.obstacle is None
    evidence = log_marginal_likelihood(
        model, guide, *args, num_particles=30, seed=0, vectorize=vectorize, progress=False
    )
    close(evidence.value, exact)


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=pytest.mark.slow if form in ONE_BY_ONE else ()) for form in FORMS]
)
def test_quadrature_is_exact_without_a_guide(form):
    model, _, args, exact = FORMS[form]()
    vectorize = form not in ONE_BY_ONE
    found = log_marginal_likelihood(
        model, None, *args, method=Quadrature(tolerance=1e-6), seed=0, vectorize=vectorize, progress=False
    )
    torch.testing.assert_close(found.value.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("form", FORMS)
def test_every_objectives_bound_is_exact(form, name):
    model, guide, args, exact = FORMS[form]()
    objective = OBJECTIVES[name](3)
    if form in ONE_BY_ONE:
        objective.vectorize_particles = False
    bound = objective.terms(model, guide, *args).bound
    if name in ("L^B", "Blend"):  # exact in expectation only: log p(x|z) is sampled
        assert bound.isfinite().all()
    else:
        close(bound, exact)


@pytest.mark.parametrize("form", OUTER_SCALE)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_scale_around_everything_stands_outside_of_the_bound(form, name):
    model, guide, args, exact = FORMS[form]()
    if name in ("L^B", "Blend"):
        return
    close(-OBJECTIVES[name](3).terms(model, guide, *args).loss.detach(), OUTER_SCALE[form] * exact.sum())


@pytest.mark.parametrize("form", [f for f in FORMS if f not in ONE_BY_ONE])
def test_the_learners_report_the_exact_bound(form):
    model, guide, args, exact = FORMS[form]()

    def trained(fn):  # something to train that changes nothing
        return lambda x, *rest: fn(x + 0 * pyro.param("free", torch.zeros(()).double()), *rest)

    info = ReweightedWakeSleep(trained(model), trained(guide), SGD, SGD, num_particles=3).step(*args)
    close(info.elbo, exact.mean())
    close(info.iwae_bound, exact.mean())


def test_the_data_plate_is_found_by_its_size():
    for form, (dim, depth) in {"data_plate_on_the_left": (-2, 2), "as_many_members_as_datapoints": (-2, 2),
                               "inner_plate_on_the_left": (-1, 2), "plain": (-1, 1)}.items():  # fmt: skip
        model, guide, args, _ = FORMS[form]()
        reading = read(model, guide, args)
        assert (reading.plate.name, reading.plate.dim, reading.depth) == ("data", dim, depth)


def test_n_is_the_minibatch_if_the_plate_has_no_size():
    model, guide, args, _ = FORMS["plate_without_size"]()
    learner = AEVB(model, guide, SGD, SGVB())
    with pytest.raises(ValueError, match="parameter"):
        learner.step(*args)
    reading = read(model, guide, args)
    assert reading.plate.size == reading.plate.full_size == len(args[0])
    assert reading.weights().scale == 1.0


def test_roles():
    model, guide, args, _ = FORMS["deterministic_sites"]()
    reading = read(model, guide, args)
    assert {name: site.role for name, site in reading.model.items()} == {
        "precision": "deterministic", "data": "subsample", "z": "local", "twice": "deterministic", "x": "observation",
    } or {name: site.role for name, site in reading.model.items() if site.role != "subsample"} == {
        "precision": "deterministic", "z": "local", "twice": "deterministic", "x": "observation",
    }  # fmt: skip
    assert set(reading.proposals) == {"z"}
    note = read(*FORMS["observed_in_the_guide"]()[:2], FORMS["observed_in_the_guide"]()[2]).guide["t"]
    assert note.role == "note"


def test_a_note_is_part_of_the_loss_and_not_of_the_bound():
    model, guide, args, exact = FORMS["factor_in_the_guide"]()
    terms = SGVB().terms(model, guide, *args)
    stock = pyro.infer.Trace_ELBO().loss(model, guide, *args)
    close(terms.bound, exact)
    assert abs(terms.loss.item() - stock) < 1e-9
    assert abs(stock - (-exact.sum().item() - 5.0 * len(exact))) < 1e-9


def test_a_model_with_a_factor_has_a_bound_and_no_log_p():
    x = torch.randn(5).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.factor("likelihood", dist.Normal(z, 1.0).log_prob(x))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, torch.tensor(0.5).double().sqrt()))

    close(elbo(model, guide, x).value, dist.Normal(0.0, torch.tensor(2.0).double().sqrt()).log_prob(x))
    for method in ("importance", "quadrature"):
        with pytest.raises(ValueError, match=r"got pyro.factor\('likelihood', ...\).*block"):
            log_marginal_likelihood(model, guide, x, method=method, progress=False)


def test_an_angle_is_integrated_over_the_circle():
    x = torch.tensor([0.3, -2.0, 3.0]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.tensor(0.5).double(), torch.tensor(2.0).double()))
            pyro.sample("x", dist.Normal(torch.cos(z), 0.5), obs=x)

    grid = torch.linspace(-torch.pi, torch.pi, 20_001).double()[:, None]
    joint = dist.VonMises(0.5, 2.0).log_prob(grid) + dist.Normal(torch.cos(grid), 0.5).log_prob(x)
    exact = torch.logsumexp(joint, 0) + torch.log(grid[1, 0] - grid[0, 0])
    found = log_marginal_likelihood(model, None, x, method="quadrature", seed=0, progress=False)
    torch.testing.assert_close(found.value.double(), exact, rtol=0, atol=1e-3)
    learner = MCEM(lambda x: model(x + 0 * pyro.param("w", torch.tensor(1.0).double())), SGD)
    assert learner.step(x, index=torch.arange(3)).loss.isfinite()


@pytest.mark.parametrize("method", ["quadrature", "ais", "bdmc", "posterior-density"])
def test_a_sphere_is_refused_in_words(method):
    x = torch.randn(4, 5).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.ProjectedNormal(torch.zeros(2).double()))
            pyro.sample("x", dist.Normal(z @ torch.ones(2, 5).double(), 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"got site 'z' with the support Sphere.*method='importance'"):
        log_marginal_likelihood(model, None, x, method=method, progress=False)


def test_what_depends_on_a_masked_latent_is_noticed():
    x, seen = torch.randn(4).double(), torch.tensor([True, False, True, True])

    def model(x, seen):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=seen):
                z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match="depend on a masked latent"):
        log_marginal_likelihood(model, None, x, seen, method="quadrature", progress=False)


def together(sites):
    return torch.stack([sites["x1"], sites["x2"]], 1)


def test_wake_sleep_reports_the_bound_where_a_latent_is_padded():
    model, guide, args, exact = FORMS["padding_masked_in_the_model"]()

    def trained(x, m):  # the model is a known one: the sleep phase alone trains
        return guide(x + 0 * pyro.param("free", torch.zeros(()).double()), m)

    info = WakeSleep(model, trained, SGD, SGD, dream_arguments=lambda sites, x, m: (together(sites), m)).step(*args)
    close(info.elbo, exact.mean())
