"""Random pairs, each compared with an independent sum of densities at the values that its guide drew."""

import functools
import math
import os
import warnings

import pyro
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from objectives import OBJECTIVES
from random_pairs import (
    Description,
    Latent,
    N,
    Observation,
    RandomPair,
    data_of,
    descriptions,
    numbers,
    outer_scales,
)
from statistics_tools import SIGMAS

from pyro_aevb import (
    AEVB,
    capture_log_density,
    elbo,
    log_density,
    log_marginal_likelihood,
)
from pyro_aevb.model_guide.log_density import LogDensity

SGD = functools.partial(torch.optim.SGD, lr=0.0)


def close(value, expected):
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


MORE = int(os.environ.get("PYRO_AEVB_EXAMPLES", "1"))  # times as many, by hand


def budget(examples):
    """A few examples, always the same."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate])


def each_alone(test):
    """Run every example from the seed of its description and in a parameter store of its own."""

    @functools.wraps(test)
    def run(description, *args, **kwargs):
        with pyro.get_param_store().scope():
            torch.manual_seed(description.seed)
            test(description, *args, **kwargs)

    return run


def check_log_density(description, num_particles, vectorize):
    pair, args = RandomPair(description), data_of(description)
    found = log_density(pair.model, pair.recorded, *args, num_particles=num_particles, vectorize=vectorize)
    expected = numbers(description, pair.last_draws(num_particles, vectorize), *args[:3])
    close(found.log_joint.detach(), expected.log_joint)
    close(found.log_q.detach(), sum(expected.log_q.values()))


def value_of(name, expected, description):
    """An objective's bound, (M,), from the numbers of its particles."""
    log_weight = expected.scaled_log_weight(description)
    k = len(log_weight)
    if name in ("IWAE", "DReG", "VIMCO"):
        return log_weight.logsumexp(0) - math.log(k)
    if name == "Renyi":
        return 2 * ((0.5 * log_weight).logsumexp(0) - math.log(k))
    if name in ("L^B", "Blend"):
        first, *others = description.scales
        inside = [1.0] * len(others) if set(others) == {first} else others
        likelihood = (1.0 if set(others) == {first} else first) * expected.log_likelihood
        return (likelihood - sum(b * kl_of(name, expected, description, i) for i, b in enumerate(inside))).mean(0)
    return log_weight.mean(0)


def kl_of(name, expected, description, i):
    closed_form = name in ("L^B", "Blend") and not description.entangled(i)
    return expected.kl[i] if closed_form else expected.log_q[i] - expected.log_prior[i]


def check_objective(description, name, vectorize):
    """Bound, its parts, weights and loss."""
    pair, args = RandomPair(description), data_of(description)
    objective = OBJECTIVES[name](num_particles=3, vectorize=vectorize)
    if name == "DReG" and description.chained and len(set(description.scales[1:])) > 1:
        with pytest.raises(ValueError, match="expected one scale for latents that the guide draws from each other"):
            objective.terms(pair.model, pair.recorded, *args)
        return
    terms = objective.terms(pair.model, pair.recorded, *args)
    if vectorize or name not in ("STL", "DReG"):  # those run the guide twice a particle
        values = pair.last_draws(3, vectorize)
    else:
        runs = 2 if len(description.latents) > 1 else 1
        pair.draws = pair.draws[::-1][::runs][::-1]
        values = pair.last_draws(3, False)
    expected = numbers(description, values, *args[:3])
    bound = value_of(name, expected, description)
    close(terms.bound, bound)
    close(terms.log_weight, expected.scaled_log_weight(description))
    close(terms.reconstruction["x"], expected.log_likelihood.mean(0))
    for i in range(len(description.latents)):
        close(terms.kl[f"z{i}"], kl_of(name, expected, description, i).mean(0))
    common = description.scales[0] if len(set(description.scales)) == 1 else 1.0
    size = N if description.plate in ("N", "subsample") else len(args[0])
    outer = common * outer_scales(description, args[-1])
    close(terms.loss.detach(), -size / len(args[0]) * (outer * bound).sum())


@budget(12)
@given(descriptions(), st.sampled_from((1, 3)), st.booleans())
@each_alone
def test_log_density_is_the_sum_of_the_densities(description, num_particles, vectorize):
    check_log_density(description, num_particles, vectorize)


@pytest.mark.parametrize("name", OBJECTIVES)
@budget(5)
@given(description=descriptions(), vectorize=st.booleans())
def test_an_objectives_value_is_that_of_its_particles(name, description, vectorize):
    each_alone(check_objective)(description, name, vectorize)


# -- the fast path ----------------------------------------------------------------------------------------------------


def check_captured_density(description):
    """A graph's densities are those of the eager run from the same seed."""
    pair, args = RandomPair(description), data_of(description)
    density = capture_log_density(pair.model, pair.guide, num_particles=2, compile="graph")
    for seed in range(4):
        torch.manual_seed(seed)
        found = density(*args)
        torch.manual_seed(seed)
        close(found, LogDensity(*(t.detach() for t in log_density(pair.model, pair.guide, *args, num_particles=2))))
    assert density.obstacle is None


def check_captured_step(description, name):
    """A graph's losses, bounds and gradients are those of the eager run from the same seed."""
    assume(name != "DReG" or not description.chained)  # or it may be refused
    pair, args = RandomPair(description), data_of(description)
    learners = [
        AEVB(pair.model, pair.guide, SGD, OBJECTIVES[name](num_particles=2), compile=compile)
        for compile in ("graph", False)
    ]
    for seed in range(4):
        steps = []
        for learner in learners:
            torch.manual_seed(seed)
            info = learner.step(*args)
            leaves = {n: p.unconstrained for n, p in (learner.theta | learner.phi).items()}
            gradients = [leaf.grad.clone() for leaf in leaves.values() if leaf.grad is not None]
            steps.append((info.loss, info.elbo, info.terms.bound, *gradients))
        close(*steps)
    assert all(capture.obstacle is None for capture in learners[0].captures)


@budget(2)
@given(descriptions())
@each_alone
def test_a_graphs_densities_are_the_eager_runs(description):
    check_captured_density(description)


@pytest.mark.slow
@budget(3)
@given(descriptions(), st.sampled_from(list(OBJECTIVES)))
@each_alone
def test_a_graphs_gradients_are_the_eager_runs(description, name):
    check_captured_step(description, name)


# -- neighbours and minibatches ---------------------------------------------------------------------------------------


def drawn_values(description, num_particles, num_data):
    """Values that the guide drew for a data set of ``num_data``, and the data set."""
    pair, args = RandomPair(description), data_of(description, num_data)
    log_density(pair.model, pair.recorded, *args, num_particles=num_particles)
    return pair.last_draws(num_particles, True), args


def check_neighbours(description):
    """Of six datapoints, with draws that are theirs: any of them alone, in any company, in any place."""
    values, args = drawn_values(description, 3, 6)
    pair = RandomPair(description, values)
    whole = numbers(description, values, *args[:3])
    log_q = sum(whole.log_q.values())
    for index in ([0, 1, 2, 3, 4, 5], [4], [5, 1], [1, 2], [3, 3, 0, 2]):
        found = log_density(pair.model, pair.guide, *(a[index] for a in args), num_particles=3)
        close(found.log_joint.detach(), whole.log_joint[:, index])
        close(found.log_q.detach(), log_q[:, index])


def check_minibatches(description):
    """However a data set is split, a last minibatch as small as the plate of members among them."""
    values, args = drawn_values(description, 3, 5)
    pair = RandomPair(description, values)
    log_weight = numbers(description, values, *args[:3]).log_weight
    for batch_size in (1, 2, 3, 5):
        bound = elbo(pair.model, pair.guide, *args, num_particles=3, batch_size=batch_size)
        close(bound.value, log_weight.mean(0))
        close(bound.standard_error, log_weight.std(0) / 3**0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # three weights have no tail
            evidence = log_marginal_likelihood(
                pair.model, pair.guide, *args, num_particles=3, batch_size=batch_size, progress=False
            )
        close(evidence.value, log_weight.logsumexp(0) - math.log(3))


@pytest.mark.parametrize("plate", ["N", "subsample"])
def test_a_minibatch_as_small_as_the_plate_of_members(plate):
    """Every site in both plates, the data on the left: N tells which is which."""
    latent = Latent("Normal", False, True, (), (), "first", "", 1.0, ("model",))
    observation = Observation("Normal", False, True, (0,), "", 1.0)
    check_neighbours(Description((latent,), (0,), observation, plate, True, 1.0, 4, 0))


@pytest.mark.slow
@budget(8)
@given(descriptions())
@each_alone
def test_a_row_has_its_numbers_whatever_its_neighbours(description):
    assume(not description.undecided)
    check_neighbours(description)


@pytest.mark.slow
@budget(4)
@given(descriptions())
@each_alone
def test_a_row_has_its_numbers_in_minibatches_of_any_size(description):
    assume(not description.undecided)
    check_minibatches(description)


# -- log p(x) ---------------------------------------------------------------------------------------------------------


def grid_evidence(description, args, points=161):
    """log p(x) of one or two real latents z = t(u), a sum over a grid in u, (M,)."""
    count = len(description.latents)
    points = points if count == 2 else 20 * points
    line = torch.linspace(-12, 12, points, dtype=torch.float64)
    u = torch.cartesian_prod(*[line] * count).reshape(-1, count)
    values, log_jacobian = {}, torch.zeros(len(u), dtype=torch.float64)
    for i, latent in enumerate(description.latents):
        positive = latent.family != "Normal"
        z = u[:, i].exp() if positive else u[:, i]
        log_jacobian = log_jacobian + (u[:, i] if positive else 0.0)
        values[i] = z[:, None, None].expand(-1, len(args[0]), 1)
    log_joint = numbers(description, values, *args[:3]).log_joint
    return (log_joint + log_jacobian[:, None]).logsumexp(0) + count * (line[1] - line[0]).log()


def check_evidence(description):
    """Quadrature, whole and in minibatches, is the sum over a grid; importance agrees within its errors."""
    pair, args = RandomPair(description), data_of(description)
    exact = grid_evidence(description, args)
    for batch_size in (1, 100):
        found = log_marginal_likelihood(
            pair.model, None, *args, method="quadrature", batch_size=batch_size, progress=False
        )
        torch.testing.assert_close(found.value, exact, rtol=0, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = log_marginal_likelihood(pair.model, pair.guide, *args, num_particles=20_000, progress=False)
    reliable = found.pareto_k < 0.5
    error = SIGMAS * found.standard_error
    assert (error < 1.0)[reliable].all()
    assert ((found.value - exact).abs() < error + 1e-4)[reliable].all()


@budget(2)
@given(descriptions(num_latents=(1, 2), plain=True))
@each_alone
def test_estimates_of_log_p_are_a_sum_over_a_grid(description):
    check_evidence(description)


# -- the same with more examples --------------------------------------------------------------------------------------


@pytest.mark.slow
@budget(100 * MORE)
@given(descriptions(), st.sampled_from((1, 3)), st.booleans())
@each_alone
def test_many_log_densities(description, num_particles, vectorize):
    check_log_density(description, num_particles, vectorize)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
@budget(50 * MORE)
@given(description=descriptions(), vectorize=st.booleans())
def test_many_values_of_an_objective(name, description, vectorize):
    each_alone(check_objective)(description, name, vectorize)


@pytest.mark.slow
@budget(6 * MORE)
@given(descriptions(), st.sampled_from(list(OBJECTIVES)))
@each_alone
def test_many_graphs(description, name):
    check_captured_density(description)
    check_captured_step(description, name)


@pytest.mark.slow
@budget(15 * MORE)
@given(descriptions())
@each_alone
def test_many_neighbours(description):
    assume(not description.undecided)
    check_neighbours(description)
    check_minibatches(description)


@pytest.mark.slow
@budget(8 * MORE)
@given(descriptions(num_latents=(1, 2), plain=True))
@each_alone
def test_many_estimates_of_log_p(description):
    check_evidence(description)
