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
    IWAE,
    MCEM,
    SGVB,
    STL,
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
from pyro_aevb.model_guide.reading import read_traces

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


NOTES = {  # what a penalty of w^2 counts, of 5 datapoints in place of 50, and where it stands in the guide
    "inside": (50.0, "inside", 1.0),
    "inside, scaled": (5.0, "inside", 0.1),
    "inside, one scale a datapoint": (10 * 15.0, "inside", torch.arange(1.0, 6.0).double()),
    "outside": (1.0, "outside", 1.0),
    "outside, scaled": (10.0, "outside", 10.0),
}


def pair_with_a_penalty(where, scale, around=1.0, labels=False):
    """The posterior as the guide, of z, with 2 equal labels y if asked for; the loss is -log p(x) and the penalty."""

    def model(x):
        with poutine.scale(scale=around), pyro.plate("data", 50, subsample_size=len(x)):
            if labels:
                pyro.sample("y", dist.Bernoulli(torch.tensor(0.5).double()))
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def penalty():
        with poutine.scale(scale=scale):
            pyro.factor("penalty", pyro.param("w", torch.tensor(2.0).double()).square(), has_rsample=True)

    def guide(x):
        if where == "outside":
            penalty()
        with poutine.scale(scale=around), pyro.plate("data", 50, subsample_size=len(x)):
            if labels:
                pyro.sample("y", dist.Bernoulli(torch.tensor(0.5).double()), infer={"enumerate": "parallel"})
            if where == "inside":
                penalty()
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    return model, guide


@pytest.mark.parametrize("name", NOTES)
def test_a_note_weighs_by_its_scales_and_by_n_over_m_in_the_data_plate_alone(name):
    weight, *how = NOTES[name]
    x = torch.randn(5).double()
    log_p = 10 * dist.Normal(0.0, 2**0.5).log_prob(x).sum()
    expected = torch.stack([weight * 4 - log_p, torch.tensor(weight * 4.0).double()])  # and d/dw w^2 at w = 2
    pair = pair_with_a_penalty(*how)
    torch.testing.assert_close(loss_and_gradients(pyro.infer.Trace_ELBO(), pair, x), expected)
    for objective in (
        SGVB(),
        SGVB(3),
        SGVB(3, vectorize=False),
        SGVB(2, kl="analytic"),
        STL(2),
        IWAE(3),
        ScoreFunction(2),
    ):
        found = loss_and_gradients(objective, pair, x)
        assert found[1].item() == pytest.approx(4 * weight)
        if not objective.needs_closed_forms:  # the other terms are log p(x) for each draw
            torch.testing.assert_close(found, expected)
    torch.testing.assert_close(loss_and_gradients(SGVB(2), pair_with_a_penalty(*how, labels=True), x), expected)
    torch.testing.assert_close(elbo(*pair, x).value.sum(), log_p / 10)
    losses = []
    for compile in (False, "graph"):
        pyro.clear_param_store()
        learner = AEVB(*pair, SGD, SGVB(), compile=compile)
        losses += [learner.step(x).loss.item() for _ in range(4)]
    assert losses == pytest.approx([expected[0].item()] * 8)


def test_a_scale_around_model_and_guide_weighs_a_note_once():
    x, pair = torch.randn(5).double(), pair_with_a_penalty("inside", 3.0, around=0.1)
    expected = loss_and_gradients(pyro.infer.Trace_ELBO(), pair, x)
    torch.testing.assert_close(loss_and_gradients(SGVB(3), pair, x), expected)


def test_a_note_in_a_data_plate_of_another_n_is_refused():
    model, guide = pair_with_a_penalty("", 1.0)

    def other(x):
        with pyro.plate("data", 20, subsample_size=len(x)):
            pyro.factor("penalty", torch.tensor(1.0), has_rsample=True)

    def with_another_n(x):
        with poutine.block(hide=["data"]):
            other(x)
        guide(x)

    with pytest.raises(ValueError, match=r"expected one N in model and guide, got 50 .* 20 around site 'penalty'"):
        SGVB().loss(model, with_another_n, torch.randn(5).double())


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


# -- Scales stand where they meet the log probabilities ----------------------------------------------------------------


def crossed(scale, entries=3, *, around="x"):
    """A model in the plates of the datapoints, dim=-2, and of their entries, dim=-1, its latent or its data weighed."""

    def weighed(name):
        return poutine.scale(scale=scale if name == around else 1.0)

    def model(x):
        a = pyro.param("a", torch.tensor(0.5).double())
        with pyro.plate("data", 30, subsample_size=len(x), dim=-2), pyro.plate("entries", entries, dim=-1):
            with weighed("z"):
                z = pyro.sample("z", dist.Normal(torch.tensor(0.0).double(), 1.0))
            with weighed("x"):
                pyro.sample("x", dist.Normal(a * z, 1.0), obs=x)

    def guide(x):
        b = pyro.param("b", torch.tensor(0.2).double())
        plates = pyro.plate("data", 30, subsample_size=len(x), dim=-2), pyro.plate("entries", entries, dim=-1)
        with plates[0], plates[1], weighed("z"):
            pyro.sample("z", dist.Normal(b * x, 1.0))

    return model, guide


def loss_and_gradients(objective, pair, *args):
    pyro.clear_param_store()
    poutine.trace(pair[0]).get_trace(*args), poutine.trace(pair[1]).get_trace(*args)
    parameters = dict(pyro.get_param_store().named_parameters())
    pyro.set_rng_seed(1)
    loss = objective.differentiable_loss(*pair, *args)
    gradients = torch.autograd.grad(loss, parameters.values())
    return torch.cat([each.detach().reshape(-1) for each in (loss, *gradients)])


@pytest.mark.parametrize("around", ["x", "z"])
@pytest.mark.parametrize("entries", [2, 3])
def test_a_number_for_each_datapoint_stands_in_the_data_plates_dimension(entries, around):
    x = torch.randn(3, entries, generator=torch.Generator().manual_seed(0)).double()
    numbers = torch.tensor([1.0, 5.0, 0.2]).double()
    pair = crossed(numbers[:, None], entries, around=around)
    expected = loss_and_gradients(pyro.infer.Trace_ELBO(), pair, x)
    torch.testing.assert_close(loss_and_gradients(SGVB(), pair, x), expected)
    torch.testing.assert_close(loss_and_gradients(IWAE(1), pair, x), expected)
    torch.testing.assert_close(loss_and_gradients(STL(), pair, x)[0], expected[0])
    torch.testing.assert_close(
        loss_and_gradients(SGVB(kl="analytic"), pair, x), loss_and_gradients(pyro.infer.TraceMeanField_ELBO(), pair, x)
    )
    losses = []
    for compile in (False, "graph"):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        learner = AEVB(*pair, SGD, SGVB(), compile=compile)
        losses.append([learner.step(x).loss.item() for _ in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    plain = elbo(*crossed(1.0, entries), x, num_particles=2, seed=0).value
    torch.testing.assert_close(elbo(*pair, x, num_particles=2, seed=0).value, plain)


def test_a_reading_weighs_each_datapoint_s_entries_alike():
    x = torch.randn(3, 3).double()
    model, guide = crossed(torch.tensor([[1.0], [5.0], [0.2]]).double())
    guide_trace = poutine.trace(guide).get_trace(x)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
    found = read_traces(model_trace, guide_trace, 3).total("model", "observation", "local")
    torch.testing.assert_close(found, model_trace.log_prob_sum())


@pytest.mark.parametrize("entry", ["loss", "elbo"])
@pytest.mark.parametrize("shape", [(3,), (3, 3), (1, 3)])
@pytest.mark.parametrize("around", ["x", "z"])
def test_a_number_for_each_entry_is_refused(around, shape, entry):
    pair, x = crossed(torch.arange(1.0, 4.0).double().expand(shape), around=around), torch.randn(3, 3).double()
    with pytest.raises(
        ValueError, match=rf"of one number, or one a datapoint, of shape \(3, 1\).*'{around}', got \({shape[0]}"
    ):
        SGVB().loss(*pair, x) if entry == "loss" else elbo(*pair, x)


def numbers(scale, loc, obs=None):
    """Three numbers outside of the data plate: one site, or three with a scale each."""
    if isinstance(scale, list):
        for i, each in enumerate(scale):
            with poutine.scale(scale=each):
                pyro.sample(f"w_{i}", dist.Normal(loc[i], 1.0), obs=None if obs is None else obs[i])
    else:
        with pyro.plate("numbers", 3), poutine.scale(scale=scale):
            pyro.sample("w", dist.Normal(loc, 1.0), obs=obs)


def outside(scale, *, given):
    obs = torch.tensor([1.0, 2.0, 3.0]).double() if given else None

    def model(x):
        numbers(scale, pyro.param("a", torch.tensor([0.5, 0.0, -0.5]).double()), obs)
        with pyro.plate("data", 50, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        if not given:
            numbers(scale, pyro.param("b", torch.tensor([0.1, 1.0, 2.0]).double()))
        with pyro.plate("data", 50, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    return model, guide


@pytest.mark.parametrize("given", [False, True])
def test_outside_of_the_data_plate_a_scale_is_one_number_and_the_remedy_works(given):
    x = torch.randn(5).double()
    for each in (torch.tensor([1.0, 10.0, 100.0]).double(), torch.ones(3, 1).double()):
        with pytest.raises(ValueError, match=r"a scale of one number for site 'w', got \(3.*pyro.sample\(f'w_\{i\}', "):
            SGVB(2).loss(*outside(each, given=given), x)
    for scale in ([1.0, 10.0, 100.0], torch.tensor([5.0]).double()):
        pair = outside(scale, given=given)
        expected = loss_and_gradients(pyro.infer.Trace_ELBO(), pair, x)
        torch.testing.assert_close(loss_and_gradients(SGVB(), pair, x), expected)
        assert torch.isfinite(elbo(*pair, x).value).all()
