"""What a step reports, each number held to its formula on Probabilistic PCA at the latents that the step drew."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from hmc_acceptance import jittered_acceptance
from linear_gaussian import LinearGaussian
from recorded import Recorded
from statistics_tools import assert_mean

from pyro_aevb import AEVB, IWAE, MCEM, SGVB, ReweightedWakeSleep, WakeSleep

STILL = functools.partial(torch.optim.SGD, lr=0.0)  # a step that moves nothing
N, M, K = 40, 10, 3


def close(found, expected):
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-9, atol=1e-9)


# -- AEVB ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta_prior", [None, dist.Normal(0.0, 1.0)])
def test_aevb(theta_prior):
    """loss = -N/M sum_m mean_k log w_km - log p(theta), elbo = its bound per datapoint without the prior."""
    lg = Recorded(N)
    x = lg.x[:M]
    info = AEVB(lg.model, lg.guide, STILL, SGVB(K), theta_prior=theta_prior, compile=False).step(x)
    bound = lg.log_weight(x, lg.seen["guide"][-1][1]).mean(0)
    close(info.elbo, bound.mean())
    close(info.loss, -N * bound.mean() - (lg.log_theta() if theta_prior else 0.0))
    close(info.terms.bound, bound)
    close(info.terms.loss, -N * bound.mean())


def test_the_mean_of_aevbs_elbo_is_the_closed_form():
    lg = LinearGaussian(N, 2, 4)
    learner = AEVB(lg.model, lg.guide, STILL, compile=False)
    steps = torch.stack([learner.step(lg.x[:M]).elbo for _ in range(300)])
    assert_mean(steps, lg.elbo(lg.x[:M]).mean(), resolution=1.0)


def test_aevbs_elbo_is_its_objectives_bound():
    lg = Recorded(N)
    x = lg.x[:M]
    info = AEVB(lg.model, lg.guide, STILL, IWAE(K), compile=False).step(x)
    close(info.elbo, (lg.log_weight(x, lg.seen["guide"][-1][1]).logsumexp(0) - math.log(K)).mean())


# -- wake-sleep -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta_prior", [None, dist.Normal(0.0, 1.0)])
def test_wake_sleep(theta_prior):
    """loss = -N/M sum log p(x, z) - log p(theta), elbo with - log q, sleep_loss = -N/M sum log q(z|x) on the dream."""
    lg = Recorded(N)
    x = lg.x[:M]
    info = WakeSleep(lg.model, lg.guide, STILL, STILL, theta_prior=theta_prior, compile=False).step(x)
    (_, awake), (dreamed, asleep) = lg.seen["guide"][-2:]
    close(info.loss, -N / M * lg.log_joint(x, awake).sum() - (lg.log_theta() if theta_prior else 0.0))
    close(info.elbo, (lg.log_joint(x, awake) - lg.log_q(x, awake)).mean())
    close(info.sleep_loss, -N / M * lg.log_q(dreamed, asleep).sum())
    assert not torch.equal(dreamed, x)


def test_the_means_of_wake_sleep_are_the_closed_forms():
    """With E log q of a dream from the moments of (z, x) ~ p: z - A (x - c) is Gaussian."""
    lg = LinearGaussian(N, 2, 4)
    learner = WakeSleep(lg.model, lg.guide, STILL, STILL, compile=False)
    steps = [learner.step(lg.x[:M]) for _ in range(400)]
    assert_mean(torch.stack([info.elbo for info in steps]), lg.elbo(lg.x[:M]).mean(), resolution=1.0)
    W, m, s, A, c, r = (lg.value(name) for name in ("W", "m", "log_s", "A", "c", "r"))
    error = torch.eye(2).double() - A @ W
    square = (error @ error.T + (2 * s).exp() * A @ A.T).diagonal() + (A @ (m - c)).square()
    expected = (0.5 * square / (2 * r).exp() + r + 0.5 * math.log(2 * math.pi)).sum()
    assert_mean(torch.stack([info.sleep_loss for info in steps]) / N, expected, resolution=0.3)


def weighed_model(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0), obs=torch.tensor(0.5))
    with pyro.plate("data", N, subsample_size=len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 2.0))
        with pyro.plate("entries", 12, subsample_size=3, dim=-1), pyro.poutine.scale(scale=0.7):
            pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)


def weighed_guide(x):
    with pyro.plate("data", N, subsample_size=len(x), dim=-2):
        pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True) + pyro.param("s", torch.tensor(0.0)), 1.0))


def test_the_elbo_counts_what_the_loss_counts():
    """N/M of a part of the entries, the weight of x, and what counts once for the data set: E in closed form."""
    x, pair = torch.randn(M, 3), (weighed_model, weighed_guide)
    learner = WakeSleep(*pair, STILL, STILL, compile=False)
    steps = torch.stack([learner.step(x).elbo for _ in range(400)])
    bound = AEVB(*pair, STILL, SGVB(), compile=False)
    mean = x.mean(-1, keepdim=True)
    at_x = -0.5 * ((x - mean - 0.5).square() + 1.0) - 0.5 * math.log(2 * math.pi)
    kl = math.log(2.0) + (1.0 + mean.square()) / 8.0 - 0.5
    once = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)) / N
    expected = (0.7 * 12 / 3 * at_x.sum(-1, keepdim=True) - kl).mean() + once
    assert_mean(steps, expected, resolution=1.0)
    assert_mean(torch.stack([bound.step(x).elbo for _ in range(400)]), expected, resolution=1.0)


# -- reweighted wake-sleep --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("insomnia", [1.0, 0.25])
@pytest.mark.parametrize("vectorize", [True, False])
def test_reweighted_wake_sleep(vectorize, insomnia):
    """Everything from the weights of the K particles that the step drew, normalised datapoint by datapoint."""
    lg = Recorded(N)
    x = lg.x[:M]
    learner = ReweightedWakeSleep(
        lg.model, lg.guide, STILL, STILL,
        num_particles=K, insomnia=insomnia, theta_prior=dist.Normal(0.0, 1.0),
        vectorize=vectorize, compile=False,
    )  # fmt: skip
    info = learner.step(x)
    awake = lg.seen["guide"] if insomnia == 1.0 else lg.seen["guide"][:-1]
    z = awake[-1][1] if vectorize else torch.stack([z for _, z in awake[-K:]])
    assert z.shape == (K, M, 2)
    log_weight = lg.log_weight(x, z)
    weight = log_weight.softmax(0)
    close(info.elbo, log_weight.mean())
    close(info.iwae_bound, (log_weight.logsumexp(0) - math.log(K)).mean())
    close(info.effective_sample_size, (1 / weight.square().sum(0)).mean())
    close(info.loss, -N / M * (weight * lg.log_joint(x, z)).sum() - lg.log_theta())
    guide_loss = -insomnia * N / M * (weight * lg.log_q(x, z)).sum()
    if insomnia < 1:
        guide_loss = guide_loss - (1 - insomnia) * N / M * lg.log_q(*lg.seen["guide"][-1]).sum()
    close(info.guide_loss, guide_loss)


def test_the_mean_of_reweighted_wake_sleeps_elbo_is_the_closed_form():
    lg = LinearGaussian(N, 2, 4)
    learner = ReweightedWakeSleep(lg.model, lg.guide, STILL, STILL, num_particles=K, compile=False)
    steps = torch.stack([learner.step(lg.x[:M]).elbo for _ in range(300)])
    assert_mean(steps, lg.elbo(lg.x[:M]).mean(), resolution=1.0)


def test_at_the_posterior_every_weight_counts_and_both_bounds_are_log_p():
    lg = Recorded(N, latent_dim=1)
    variance = 1 / lg.precision()
    lg.set(A=variance @ lg.value("W").T / (2 * lg.value("log_s")).exp(), c=lg.value("m"), r=0.5 * variance.log()[0])
    for name in ("A", "c", "r"):  # the closed forms have looked at some of them
        lg.param(name).data.copy_(lg.initial[name])
    x = lg.x[:M]
    info = ReweightedWakeSleep(lg.model, lg.guide, STILL, STILL, num_particles=K, compile=False).step(x)
    close(info.elbo, lg.log_evidence(x).mean())
    close(info.iwae_bound, lg.log_evidence(x).mean())
    close(info.effective_sample_size, torch.tensor(float(K)))


# -- MCEM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta_prior", [None, dist.Normal(0.0, 1.0)])
def test_the_loss_of_mcem(theta_prior):
    """-N/M sum log p(x, z) - log p(theta), at the latents that the chains came to."""
    lg = Recorded(N)
    x, index = lg.x[:M], torch.arange(M)
    learner = MCEM(lg.model, STILL, theta_prior=theta_prior, num_updates=2, compile=False)
    info = learner.step(x, index=index)
    log_joint = lg.log_joint(*lg.seen["model"][-1])
    close(info.loss, -N / M * log_joint.sum() - (lg.log_theta() if theta_prior else 0.0))


def test_the_bound_of_the_guide_beside_mcem():
    """elbo = mean log p(x|z) - KL(q || N(0, I)) at the guide's latents, guide_loss = -N elbo."""
    lg = Recorded(N)
    x = lg.x[:M]
    learner = MCEM(lg.model, STILL, lg.guide, STILL, theta_prior=dist.Normal(0.0, 1.0), compile=False)
    info = learner.step(x, index=torch.arange(M))
    z, (loc, r) = lg.seen["guide"][-1][1], ((x - lg.value("c")) @ lg.value("A").T, lg.value("r"))
    kl = 0.5 * ((2 * r).exp() + loc.square() - 1 - 2 * r).sum(-1)
    log_prior = dist.Normal(torch.zeros(2).double(), 1.0).log_prob(z).sum(-1)
    bound = (lg.log_joint(x, z) - log_prior - kl).mean()
    close(info.elbo, bound)
    close(info.guide_loss, -N * bound)
    losses = torch.stack([-N / M * lg.log_joint(*seen).sum() for seen in lg.seen["model"]]) - lg.log_theta()
    assert losses.isclose(info.loss, rtol=1e-9).any()  # MCEM's own, at where the chains are
    assert not losses[-1].isclose(info.loss, rtol=1e-3)  # and not at the guide's latents
    without = MCEM(lg.model, STILL, compile=False).step(x, index=torch.arange(M))
    assert (without.elbo, without.guide_loss) == (None, None)


def test_the_acceptance_and_the_step_size_of_mcem():
    """Where x says nothing about z, chains start in the posterior: the acceptance of one leapfrog step is known."""
    lg = Recorded(4000, latent_dim=1, data_dim=2)
    lg.set(W=torch.zeros(2, 1).double())
    size = 2.0
    learner = MCEM(lg.model, STILL, num_leapfrog=1, num_updates=1, step_size=size, compile=False)
    for _ in range(3):
        info = learner.step(lg.x, index=torch.arange(4000))
        close(info.step_size.double(), torch.tensor(size).float().double())
        expected = jittered_acceptance(size)
        assert 0.5 < expected < 0.9
        # A probability's standard deviation is at most a half.
        assert abs(info.acceptance.item() - expected) < 5 * 0.5 / 4000**0.5
        size *= math.exp(0.5 * (info.acceptance.item() - 0.9))
