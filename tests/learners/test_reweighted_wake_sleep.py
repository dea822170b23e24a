"""Reweighted wake-sleep: weights of each datapoint's own, gradients, what is refused."""

import functools

import pyro
import pytest
import torch
from linear_gaussian import LinearGaussian
from pairs import N, bernoulli_vae, sigmoid_belief_net
from pyro import poutine
from statistics_tools import SIGMAS

from pyro_aevb import IWAE, ReweightedWakeSleep
from pyro_aevb.learners.dreams import Dreams

STILL = functools.partial(torch.optim.SGD, lr=0.0)


@pytest.mark.parametrize("model", [sigmoid_belief_net, pytest.param(bernoulli_vae, marks=pytest.mark.slow)])
def test_the_effective_sample_size_does_not_fall_with_the_batch(model):
    """The same 40 datapoints in batches of 2, 10 and 40 have the same effective sample size; Pyro's falls to 1."""
    pair, x = model()
    learner = ReweightedWakeSleep(pair.model, pair.guide, STILL, STILL, num_particles=50)
    passes = {}
    for size in (2, 10, 40):
        sizes = [
            torch.stack([learner.step(x[i : i + size]).effective_sample_size for i in range(0, N, size)]).mean()
            for _ in range(30)
        ]
        passes[size] = torch.stack(sizes)
    for size in (2, 10):
        error = SIGMAS * ((passes[size].var() + passes[40].var()) / 30) ** 0.5
        assert error < 1.5
        assert (passes[size].mean() - passes[40].mean()).abs() < error
    assert passes[40].mean() > 5


def gradients(learner, x, seed):
    """The gradients of one call, by name."""
    pyro.set_rng_seed(seed)
    learner._phases(x)
    leaves = {n: p.unconstrained for n, p in (learner.theta | learner.phi).items()}
    result = {n: leaf.grad.clone() for n, leaf in leaves.items()}
    for leaf in leaves.values():
        leaf.grad = None
    return result


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_gradient_of_theta_is_that_of_the_iwae_bound_and_of_phi_the_weighted_score(vectorize):
    lg = LinearGaussian(50, 2, 4)
    x = lg.x[:10]
    learner = ReweightedWakeSleep(lg.model, lg.guide, STILL, STILL, num_particles=5, vectorize=vectorize, compile=False)
    learner.prepare(x)
    ours = gradients(learner, x, 3)

    objective = IWAE(5, vectorize=vectorize)
    objective.loss(lg.model, lg.guide, x)
    pyro.set_rng_seed(3)
    terms = objective.terms(lg.model, lg.guide, x)
    terms.loss.backward()
    for name in ("W", "m", "log_s"):
        torch.testing.assert_close(ours[name], lg.param(name).grad)

    weight = torch.softmax(terms.log_weight, 0)
    pyro.set_rng_seed(3)
    if vectorize:
        with pyro.plate("k", 5, dim=-2):
            z = poutine.trace(lg.guide).get_trace(x).nodes["z"]["value"].detach()
    else:
        z = torch.stack([poutine.trace(lg.guide).get_trace(x).nodes["z"]["value"].detach() for _ in range(5)])
    loc, scale = (x - lg.value("c")) @ lg.value("A").T, lg.value("r").exp()
    standard = (z - loc) / scale
    score = {
        "A": torch.einsum("km,kmj,md->jd", weight, standard / scale, x - lg.value("c")),
        "r": torch.einsum("km,kmj->j", weight, standard.square() - 1),
    }
    for name, expected in score.items():
        torch.testing.assert_close(ours[name], -5 * expected)  # N/M = 5


def test_insomnia_mixes_the_two_gradients_of_phi():
    lg = LinearGaussian(50, 2, 4)
    x = lg.x[:10]
    found = {}
    for insomnia in (0.0, 0.25, 1.0):
        learner = ReweightedWakeSleep(
            lg.model, lg.guide, STILL, STILL, num_particles=4, insomnia=insomnia, compile=False
        )
        learner.prepare(x)
        found[insomnia] = gradients(learner, x, 3)
    for name in ("W", "m", "log_s"):
        torch.testing.assert_close(found[0.0][name], found[1.0][name])
    for name in ("A", "r"):
        mixed = 0.25 * found[1.0][name] + 0.75 * found[0.0][name]
        torch.testing.assert_close(found[0.25][name], mixed)
    dreams = Dreams(lg.model, lg.guide, (x,))
    pyro.set_rng_seed(3)
    with torch.no_grad(), pyro.plate("k", 4, dim=-2):
        lg.guide(x)  # the wake phase's draw comes first
    dreams.loss(x).backward()
    for name in ("A", "r"):
        torch.testing.assert_close(found[0.0][name], lg.param(name).grad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_particles": 1}, "num_particles of 2 or more, got 1; .* use WakeSleep"),
        ({"insomnia": 1.5}, "insomnia between 0"),
        ({"insomnia": -0.1}, "insomnia between 0"),
    ],
)
def test_what_is_refused(arguments, message):
    lg = LinearGaussian(50, 2, 4)
    with pytest.raises(ValueError, match=message):
        ReweightedWakeSleep(lg.model, lg.guide, STILL, STILL, **arguments)
