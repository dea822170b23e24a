"""Global latents weigh once and local ones N/M, in every objective: against conjugate models."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from global_pairs import GLOBAL, N, mean_of_local_latents, one
from objectives import OBJECTIVES

from pyro_aevb import IWAE, SGVB, STL, VIMCO, DReG, ScoreFunction


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("pair", GLOBAL)
def test_with_the_posterior_as_guide_the_bound_is_log_p_of_the_data(pair, name, vectorize):
    pair = GLOBAL[pair]()
    if name in ("L^B", "Blend"):
        return  # its KLs in closed form are right in the mean alone: below
    loss = OBJECTIVES[name](num_particles=3, vectorize=vectorize).loss(pair.model, pair.guide, *pair.data)
    assert loss == pytest.approx(-pair.log_evidence, abs=1e-9)


def parameters():
    """An unfitted q(w) = N(a, s^2) and q(z|x, w) = N(c x + d w, t^2)."""
    values = {"a": 0.3, "log_s": -0.5, "c": 0.6, "d": 0.2, "log_t": -0.2}
    return {name: one(value).requires_grad_() for name, value in values.items()}


def guide_of(p):
    def guide(x):
        w = pyro.sample("w", dist.Normal(p["a"], p["log_s"].exp()))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(p["c"] * x + p["d"] * w, p["log_t"].exp()))

    return guide


def exact_bound(x, p, local=1.0):
    """E_q[log p(X, z, w) - log q(z, w)] of the hierarchical normal, the local terms `local` times."""
    a, s2, c, d, t2 = p["a"], (2 * p["log_s"]).exp(), p["c"], p["d"], (2 * p["log_t"]).exp()
    of_globals = 0.5 * (1 + s2.log() - a**2 - s2)
    prior = (c * x + (d - 1) * a) ** 2 + (d - 1) ** 2 * s2 + t2
    likelihood = ((1 - c) * x - d * a) ** 2 + d**2 * s2 + t2
    each = 0.5 * (1 + t2.log()) - 0.5 * prior - 0.5 * likelihood - 0.5 * math.log(2 * math.pi)
    return local * each.sum() + of_globals


def mean_gradient(objective, pair, p, x, repeats):
    rows = []
    for _ in range(repeats):
        loss = objective.differentiable_loss(pair.model, guide_of(p), x)
        rows.append(torch.stack([loss.detach(), *torch.autograd.grad(loss, list(p.values()))]))
    rows = torch.stack(rows)
    return rows.mean(0), rows.std(0) / repeats**0.5


@pytest.mark.parametrize(
    "objective",
    [SGVB(300), SGVB(300, kl="analytic"), STL(300), ScoreFunction(300, baseline="leave-one-out")],
    ids=["L^A", "L^B", "STL", "score function"],
)
def test_bound_and_gradient_are_the_closed_form_s_on_a_minibatch(objective):
    pair, p = mean_of_local_latents(), parameters()
    x = pair.data[0][:2]
    exact = -exact_bound(x, p, local=N / 2)
    expected = torch.stack([exact.detach(), *torch.autograd.grad(exact, list(p.values()))])
    mean, error = mean_gradient(objective, pair, p, x, 30)
    assert ((mean - expected).abs() < 5 * error).all(), (mean, expected, error)
    assert (error < 0.2 * expected.abs().clamp(min=1)).all()


@functools.cache
def gradients_of(name, repeats=400):
    """The mean gradient of an importance-weighted objective, and its error; IWAE's is what the others are held to."""
    objective = {"IWAE": IWAE(3), "DReG": DReG(3), "VIMCO": VIMCO(3), "one by one": IWAE(3, vectorize=False)}[name]
    pair, p = mean_of_local_latents(), parameters()
    return mean_gradient(objective, pair, p, pair.data[0][:2], repeats)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DReG", "VIMCO", "one by one"])
def test_importance_weighted_gradients_have_one_mean(name):
    (mean, error), (its, its_error) = gradients_of("IWAE"), gradients_of(name)
    both = torch.hypot(error, its_error)
    assert ((mean - its).abs() < 5 * both).all(), (mean, its)
    assert (both < 0.1 * mean.abs().clamp(min=6)).all()


@pytest.mark.parametrize("objective", [ScoreFunction(), VIMCO(2)], ids=["score function", "VIMCO"])
def test_a_discrete_global_latent_follows_the_score_function(objective):
    """w ~ Bernoulli(0.3), x_n ~ N(2 w, 1), 2 of 10 datapoints: the mean over the two draws that there are is exact."""
    x, logit = torch.tensor([0.2, 1.5]).double(), one(0.4).requires_grad_()

    def model(x):
        w = pyro.sample("w", dist.Bernoulli(one(0.3)))
        with pyro.plate("data", 10, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(2 * w, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Bernoulli(logits=logit))

    q = torch.stack([1 - logit.sigmoid(), logit.sigmoid()])
    f = [
        5 * dist.Normal(2 * w, 1.0).log_prob(x).sum() + dist.Bernoulli(one(0.3)).log_prob(w) for w in (one(0.0), one())
    ]
    exact = -(q * (torch.stack(f) - q.log())).sum()
    rows = {}
    while len(rows) < 2:
        loss = objective.differentiable_loss(model, guide, x)
        value = -(f[1] - q[1].log()).item()
        rows[loss.item() == pytest.approx(value, abs=1e-9)] = loss.detach(), *torch.autograd.grad(loss, [logit])
    mean = [(q[0] * a + q[1] * b).item() for a, b in zip(rows[False], rows[True], strict=True)]
    (gradient,) = torch.autograd.grad(exact, [logit])
    assert mean == pytest.approx([exact.item(), gradient.item()], rel=1e-9)


@pytest.mark.parametrize("objective", [ScoreFunction(), VIMCO(3)], ids=["score function", "VIMCO"])
def test_what_is_observed_outside_of_the_plate_is_part_of_the_signal(objective):
    """w ~ Bernoulli(0.3), y ~ N(3 w, 1) once, outside, and one datapoint that says nothing of w."""
    x, y, logit = torch.tensor([0.2]).double(), one(1.0), one(0.4).requires_grad_()

    def model(x):
        w = pyro.sample("w", dist.Bernoulli(one(0.3)))
        pyro.sample("y", dist.Normal(3 * w, 1.0), obs=y)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(one(0.0), 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Bernoulli(logits=logit))

    q = torch.stack([1 - logit.sigmoid(), logit.sigmoid()])
    f = [dist.Normal(3 * w, 1.0).log_prob(y) + dist.Bernoulli(one(0.3)).log_prob(w) for w in (one(0.0), one())]
    exact = -(q * (torch.stack(f) - q.log())).sum() - dist.Normal(0.0, 1.0).log_prob(x).sum()
    rows = {}
    while len(rows) < 2:
        loss = objective.differentiable_loss(model, guide, x)
        rows[loss.item() > exact.item()] = loss.detach(), *torch.autograd.grad(loss, [logit])
    losses = [-(f[w] - q[w].log() + dist.Normal(0.0, 1.0).log_prob(x).sum()) for w in (0, 1)]
    mean = 0.0
    for w, loss in enumerate(losses):
        found, gradient = rows[loss.item() > exact.item()]
        assert found.item() == pytest.approx(loss.item(), rel=1e-9)
        mean += q[w].item() * gradient.item()
    assert mean == pytest.approx(torch.autograd.grad(exact, [logit])[0].item(), rel=1e-9)


def test_a_baseline_leaves_the_mean_of_the_gradient():
    """Two particles of a discrete w: of the four pairs of draws that there are, weighed by q, the mean is exact."""
    x, logit = torch.tensor([0.2, 1.5]).double(), one(0.4).requires_grad_()
    drawn, prior = [], dist.Bernoulli(one(0.3))

    def model(x):
        w = pyro.sample("w", dist.Bernoulli(one(0.3)))
        drawn[:] = w.flatten().tolist()
        pyro.sample("y", dist.Normal(3 * w, 1.0), obs=one())
        with pyro.plate("data", 2):
            pyro.sample("x", dist.Normal(2 * w, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Bernoulli(logits=logit))

    q = torch.stack([1 - logit.sigmoid(), logit.sigmoid()])
    f = [
        dist.Normal(2 * w, 1.0).log_prob(x).sum() + dist.Normal(3 * w, 1.0).log_prob(one()) + prior.log_prob(w)
        for w in (one(0.0), one())
    ]
    (exact,) = torch.autograd.grad(-(q * (torch.stack(f) - q.log())).sum(), [logit])
    gradients = {}
    while len(gradients) < 4:
        loss = ScoreFunction(2, baseline="leave-one-out").differentiable_loss(model, guide, x)
        gradients[tuple(drawn)] = torch.autograd.grad(loss, [logit])[0]
    mean = sum(q[int(a)] * q[int(b)] * gradient for (a, b), gradient in gradients.items())
    assert mean.item() == pytest.approx(exact.item(), rel=1e-9)


def test_terms_hold_the_global_kl_apart_and_once():
    pair, p = mean_of_local_latents(), parameters()
    x = pair.data[0][:2]
    terms = SGVB(kl="analytic").terms(pair.model, guide_of(p), x)
    kl = torch.distributions.kl_divergence(dist.Normal(p["a"], p["log_s"].exp()), dist.Normal(0.0, 1.0)).item()
    assert terms.global_kl["w"].item() == pytest.approx(kl, rel=1e-9)
    assert terms.loss.item() == pytest.approx(kl - N / 2 * terms.bound.sum().item(), rel=1e-9)
    assert set(terms.kl) == {"z"}


@pytest.mark.parametrize(
    ("weighs", "local", "of_globals"), [("both", 0.5, 0.5), ("local", 0.5, 1.0), ("global", 1.0, 0.5)]
)
def test_beta_weighs_the_kls_that_it_is_for(weighs, local, of_globals):
    pair, p = mean_of_local_latents(), parameters()
    x = pair.data[0]
    with torch.random.fork_rng():
        plain = SGVB(kl="analytic").terms(pair.model, guide_of(p), x)
    weighed = SGVB(kl="analytic", beta=0.5, weighs=weighs).terms(pair.model, guide_of(p), x)
    reconstruction, kl = plain.reconstruction["x"].sum(), plain.kl["z"].sum()
    expected = -reconstruction + local * kl + of_globals * plain.global_kl["w"]
    assert weighed.loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_a_scale_around_everything_weighs_the_globals_too_and_one_around_the_data_does_not():
    pair, p = mean_of_local_latents(), parameters()
    x, guide, objective = pair.data[0], guide_of(p), SGVB(kl="analytic")

    def loss(model, guide):
        torch.manual_seed(0)
        return objective.loss(model, guide, x)

    plain, scaled = loss(pair.model, guide), pyro.poutine.scale(scale=0.25)
    assert loss(scaled(pair.model), scaled(guide)) == pytest.approx(0.25 * plain, rel=1e-9)
