"""The blend of L^B's and STL's gradients: unbiased at every share, and the share of least variance, in closed form."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from statistics_tools import assert_mean
from torch import nn

from pyro_aevb import AEVB, SGVB, STL, VAE, Blend, fit

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)


def at(share, **options):
    """A blend whose steps so far say that STL's part be ``share``."""
    objective = Blend(**options)
    objective.running.means.copy_(torch.tensor([-share, 1.0]))
    return objective


class Copies:
    """x ~ N(z, 1), z ~ N(m, 1), q(z|x) = N(a, s), x = 1, with parameters for each datapoint apart, float64.

    As every datapoint is the same, a gradient has as many draws of one, independent of each other.
    """

    def __init__(self, copies, a, s):
        self.data = torch.ones(copies).double()
        self.m, self.a, self.s = (torch.full_like(self.data, v).requires_grad_() for v in (0.0, a, s))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(1.0 * self.a, 1.0 * self.s))

    def gradients(self, objective):
        loss = objective.differentiable_loss(self.model, self.guide, self.data)
        loss.backward()
        found = {name: -getattr(self, name).grad for name in "mas"}
        for name in "mas":
            getattr(self, name).grad = None
        return found


def best_share(a, s):
    """-E[g_B . d] / E[|d|^2] of Copies, in a and s: with z = a + s e and w = 1/s - s

    g_B = (1 - 2a - s e, (1 - a - s e) e + w), d = (w e, w (e^2 - 1) - a e).
    """
    w = 1 / s - s
    return (s * w + 2 * s * w + a * (1 - a)) / (w**2 + 2 * w**2 + a**2)


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_gradient_is_unbiased_whatever_the_share(share, num_particles):
    a, s = 0.2, 0.9
    copies = Copies(200_000, a, s)
    pyro.set_rng_seed(1)
    gradients = copies.gradients(at(share, num_particles=num_particles))
    for name, exact in {"m": a, "a": 1 - 2 * a, "s": 1 / s - 2 * s}.items():
        assert_mean(gradients[name], exact, resolution=0.06)


@pytest.mark.parametrize(("share", "other"), [(0.0, SGVB(kl="analytic")), (1.0, STL())])
def test_its_ends_are_the_two_estimators(share, other):
    copies, drawn = Copies(50, 0.2, 0.5), []
    for objective in (at(share), other):
        objective.loss(copies.model, copies.guide, copies.data)  # the first run may draw what it needs to see the pair
        pyro.set_rng_seed(0)
        drawn.append(copies.gradients(objective))
    for name in "as":
        torch.testing.assert_close(drawn[0][name], drawn[1][name], rtol=1e-10, atol=1e-10)


def test_the_prior_keeps_the_gradient_of_the_closed_form():
    copies, drawn = Copies(50, 0.2, 0.5), []
    for objective in (at(0.7), SGVB(kl="analytic")):
        pyro.set_rng_seed(0)
        drawn.append(copies.gradients(objective)["m"])
    torch.testing.assert_close(*drawn, rtol=1e-12, atol=1e-12)
    assert drawn[0].std() < 1e-12


def test_a_guide_that_goes_on_to_another_latent():
    """By a state in Python: what was seen of the pair at first no longer holds, and it is L^B."""
    two = []

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x * pyro.param("a", torch.tensor(0.3)), 0.8))
            if two:
                pyro.sample("w", dist.Normal(z, 0.7))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            w = pyro.sample("w", dist.Normal(0.0, 1.0)) if two else 0.0
            pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)

    x, objective = torch.randn(20), at(1.0)
    objective.loss(model, guide, x)
    two.append(True)
    objective.loss_and_grads(model, guide, x)
    assert torch.isfinite(pyro.param("a").unconstrained().grad)


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize(("a", "s"), [(-0.5, 0.3), (0.5, 0.3), (1.5, 0.4)])
def test_the_share_becomes_that_of_least_variance(a, s, scale):
    """Also under a scale around the pair, which every gradient has alike."""
    copies, objective = Copies(100_000, a, s), Blend()
    model, guide = (pyro.poutine.scale(fn, scale) for fn in (copies.model, copies.guide))
    pyro.set_rng_seed(0)
    for _ in range(20):
        objective.loss_and_grads(model, guide, copies.data)
    assert 0 < best_share(a, s) < 1
    assert objective.share.item() == pytest.approx(best_share(a, s), abs=0.005)


@pytest.mark.parametrize("factor", [0.01, -1.0])
def test_the_share_is_the_same_for_a_multiple_of_the_loss(factor):
    """A loss that is divided by the number of datapoints, a bound that is maximized."""
    copies, objective = Copies(100_000, 0.5, 0.3), Blend()
    for _ in range(20):
        (factor * objective.differentiable_loss(copies.model, copies.guide, copies.data)).backward()
    assert objective.share.item() == pytest.approx(best_share(0.5, 0.3), abs=0.005)


@pytest.mark.parametrize(("a", "s"), [(-0.5, 0.3), (0.5, 0.3), (0.45, 0.65)])
def test_its_variance_is_at_most_that_of_either(a, s):
    variances = {}
    for name, objective in {"L^B": SGVB(kl="analytic"), "STL": STL(), "blend": at(min(1, best_share(a, s)))}.items():
        pyro.set_rng_seed(0)
        gradients = Copies(200_000, a, s).gradients(objective)
        variances[name] = (gradients["a"].var() + gradients["s"].var()).item()
    assert variances["blend"] < 1.01 * min(variances["L^B"], variances["STL"])
    assert max(variances["L^B"], variances["STL"]) > 1.2 * variances["blend"]


@pytest.mark.parametrize(("a", "s", "share"), [(0.5, 0.5**0.5, 1.0), (1.5, 0.999, 0.0)])
def test_the_share_stays_from_0_to_1(a, s, share):
    """All of STL at the posterior; at s = 1 and a = 1.5 the best share is below 0."""
    copies, objective = Copies(1000, a, s), Blend()
    for _ in range(20):
        objective.loss_and_grads(copies.model, copies.guide, copies.data)
    assert objective.share.item() == pytest.approx(share, abs=1e-6)
    assert 0 <= objective.share <= 1


def test_no_gradient_at_the_posterior():
    copies = Copies(5, 0.5, 0.5**0.5)
    gradients = copies.gradients(at(1.0))
    assert max(gradients[name].abs().max() for name in "as") < 1e-12


def test_a_new_run_begins_with_the_closed_form():
    """There is nothing to say of the first draw."""
    assert Blend().share == 0


@pytest.mark.parametrize("products", [[-math.inf, 1.0], [math.nan, math.nan], [1.0, math.inf]])
def test_after_a_gradient_without_end_it_is_the_closed_form(products):
    """The step is refused, and the run may go on with a lower rate."""
    objective = at(0.4)
    objective.running.take(torch.tensor(products))
    assert objective.share == 0


def test_nothing_is_left_on_a_parameter():
    x = torch.randn(20)
    Blend().loss_and_grads(of_one, of_leaves, x)
    assert not pyro.param("a")._backward_hooks


def test_what_is_only_evaluated_says_nothing():
    copies, objective = Copies(10, 0.2, 0.5), Blend()
    objective.loss(copies.model, copies.guide, copies.data)
    assert objective.running.means.tolist() == [0.0, 0.0]


def two_latents(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(pyro.param("a", torch.tensor(0.3)) * x, 0.8))
        pyro.sample("w", dist.Normal(z, 0.7))


def flow(x):
    shift = dist.transforms.AffineTransform(pyro.param("a", torch.tensor(0.3)), 0.8)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.TransformedDistribution(dist.Normal(x, 1.0), [shift]))


def of_one(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Plain(dist.Normal):
    """A normal distribution that draws with the very tensor that it was given, as Pyro's don't."""

    def __init__(self, loc, scale):
        super().__init__(loc, scale, validate_args=False)
        self.loc = loc

    def expand(self, batch_shape, _instance=None):
        return self


def of_leaves(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", Plain(pyro.param("a", torch.full((20,), 0.3)), torch.full((20,), 0.8)))


def posterior(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2 + pyro.param("shift", torch.tensor(0.0)), 0.5**0.5))


def of_two(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)


@pytest.mark.parametrize(("model", "guide"), [(of_two, two_latents), (of_one, flow), (of_one, of_leaves)])
def test_other_guides_get_the_closed_form_alone(model, guide):
    x, gradients = torch.randn(20), []
    for objective in (at(1.0), SGVB(kl="analytic")):
        objective.loss(model, guide, x)
        pyro.set_rng_seed(0)
        objective.loss_and_grads(model, guide, x)
        parameter = pyro.param("a").unconstrained()
        gradients.append(parameter.grad.clone())
        parameter.grad = None
    assert torch.equal(*gradients)


def test_a_local_latent_beside_a_global_one():
    """The expected gradient of both is that of L^B, in the means of many datapoints."""

    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(pyro.param("b", torch.tensor(0.1).double()), 1e-3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("a", torch.tensor(0.2).double()) + 0.0 * x, 0.4))

    x, found = torch.ones(200_000).double(), []
    for objective in (at(1.0), SGVB(kl="analytic")):
        objective.loss_and_grads(model, guide, x)
        found.append({name: pyro.param(name).unconstrained().grad.item() / len(x) for name in "ab"})
        for name in "ab":
            pyro.param(name).unconstrained().grad = None
    assert found[0]["a"] == pytest.approx(found[1]["a"], abs=0.02)
    assert found[0]["a"] != found[1]["a"]
    assert found[0]["b"] == pytest.approx(found[1]["b"], abs=0.02)


def test_it_is_what_aevb_follows_by_default():
    vae = VAE(6, 2, hidden_dims=(5,))
    assert isinstance(AEVB(vae.model, vae.guide).objective, Blend)


def test_a_guide_that_cannot_be_reparameterised_gets_the_score_function():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(pyro.param("m", torch.tensor(1.0)) * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=pyro.param("l", torch.tensor(0.1)) * x))

    x, after = torch.randn(30), []
    for objective in (None, Trace_ELBO()):
        pyro.clear_param_store()
        learner = AEVB(model, guide, ADAM, objective)
        learner.prepare(x)
        pyro.set_rng_seed(0)
        for _ in range(5):
            learner.step(x)
        after.append([pyro.param(name).item() for name in "ml"])
    assert after[0] == after[1]


@pytest.mark.parametrize("compile", [False, "graph"])
def test_the_share_is_learned_on_the_fast_path_as_well(compile):
    """At the posterior, from a run whose steps are compared with eager ones now and then."""
    learner = AEVB(of_one, posterior, functools.partial(torch.optim.SGD, lr=0.0), compile=compile)
    for _ in range(40):
        learner.step(torch.randn(50))
    assert [capture.obstacle for capture in learner.captures] == [None]
    assert learner.objective.share.item() == pytest.approx(1.0, abs=1e-3)


def test_the_kl_warms_up():
    """At a weight of 0 only the likelihood counts: there is no gradient of the KL to blend."""
    learner, x = AEVB(of_one, posterior, ADAM), torch.randn(20)
    fit(learner, x, samples=20, batch_size=20, kl_warm_up=60, progress=False)
    assert learner.objective.running.means.tolist() == [0.0, 0.0]
    fit(learner, x, samples=20, batch_size=20, progress=False)
    assert learner.objective.running.means[1] > 0


def test_a_run_that_goes_on_has_its_share(tmp_path):
    def trained(samples, **options):
        pyro.set_rng_seed(0)
        vae = VAE(6, 2, hidden_dims=(5,), dataset_size=40)
        learner = AEVB(vae.model, vae.guide, ADAM)
        x = torch.bernoulli(torch.full((40, 6), 0.3))
        fit(learner, x, samples=samples, batch_size=10, seed=1, progress=False, **options)
        return learner.objective.running.means, nn.utils.parameters_to_vector(vae.parameters())

    whole = trained(400)
    trained(200, checkpoint_dir=tmp_path, schedule=lambda done: 1.0)
    means, parameters = trained(400, checkpoint_dir=tmp_path, resume=True, schedule=lambda done: 1.0)
    assert means.abs().min() > 0
    assert torch.equal(means, whole[0])
    assert torch.equal(parameters, whole[1])


def test_particles_one_by_one_are_those_at_once():
    copies, shares = Copies(4000, -0.5, 0.3), []
    for vectorize in (True, False):
        objective = Blend(3, vectorize=vectorize)
        pyro.set_rng_seed(0)
        for _ in range(20):
            objective.loss_and_grads(copies.model, copies.guide, copies.data)
        shares.append(objective.share.item())
    assert shares[0] == pytest.approx(shares[1], rel=0.1)
    assert math.isfinite(shares[0])
