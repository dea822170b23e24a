"""Monte Carlo EM: a conjugate pair with a constrained latent, its chains, its step size."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import bernoulli_vae

from pyro_aevb import AEVB, MCEM, SGVB
from pyro_aevb.learners import Minibatch, StepSettings
from pyro_aevb.training import fit

ADAM = functools.partial(torch.optim.Adam, lr=0.02)


def gamma_poisson(n):
    def model(x):
        rate = pyro.param("rate", torch.tensor(3.0).double(), constraint=dist.constraints.positive)
        with pyro.plate("data", n, subsample_size=len(x)):
            z = pyro.sample("z", dist.Gamma(torch.tensor(2.0).double(), rate))
            pyro.sample("x", dist.Poisson(z), obs=x)

    return model


def test_a_latent_with_constrained_support_reaches_the_maximum_likelihood():
    """z ~ Gamma(2, b), x ~ Poisson(z): x is negative binomial and the likeliest b is 2 / mean(x).

    The error allowed is half of what leaving out the Jacobian of z = exp(u) would cause (b = 1 / mean(x)).
    """
    x = torch.poisson(dist.Gamma(torch.tensor(2.0).double(), 0.5).sample((500,)))
    learner = MCEM(gamma_poisson(500), ADAM, step_size=0.3)
    fit(learner, x, epochs=150, batch_size=250, schedule=lambda done: 1 - done, progress=False)
    best = 2 / x.mean()
    rate = pyro.param("rate").detach()

    def evidence(b):
        return dist.NegativeBinomial(2, logits=-b.log()).log_prob(x).mean()

    assert (rate / best - 1).abs() < 0.03, (rate, best)
    assert 0 <= evidence(best) - evidence(rate) < 1e-3


def test_every_datapoint_keeps_its_chain():
    n = 30
    x = torch.poisson(torch.full((n,), 3.0).double())
    learner = MCEM(gamma_poisson(n), functools.partial(torch.optim.SGD, lr=0.0), step_size=1e-4)
    index = torch.tensor([3, 17, 8])
    learner.step(x[index], index=index)
    chains = learner.state_dict()["chains"]["positions"].clone()
    assert chains.shape == (n, 1)
    assert (~chains.isnan()).nonzero()[:, 0].tolist() == [3, 8, 17]
    other = torch.tensor([17, 20])
    learner.step(x[other], index=other)
    after = learner.state_dict()["chains"]["positions"]
    assert torch.equal(after[[3, 8]], chains[[3, 8]])  # not visited
    assert 0 < (after[17] - chains[17]).abs() < 0.1  # goes on from where it was, in tiny steps
    assert not after[20].isnan()


def test_trajectories_do_not_come_back_to_where_they_began():
    """Ten equal steps of 2 pi / 10 on a standard Gaussian are one full turn, and a chain would hardly move."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(pyro.param("b", torch.tensor(0.0).double()), 1.0), obs=x)

    x, index = torch.randn(2000).double(), torch.arange(2000)
    learner = MCEM(model, ADAM, num_updates=1, step_size=2 * torch.pi / 10)
    learner.step(x, index=index)
    before = learner.state_dict()["chains"]["positions"]
    learner.step(x, index=index)
    after = learner.state_dict()["chains"]["positions"]
    correlation = torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1]
    assert correlation < 0.2, correlation


@pytest.mark.parametrize("start", [0.001, pytest.param(30.0, marks=pytest.mark.slow)])
def test_the_step_size_finds_ninety_percent_acceptance(start):
    x = torch.poisson(torch.full((200,), 3.0).double())
    learner = MCEM(gamma_poisson(200), ADAM, step_size=start, num_updates=1)
    infos = [learner.step(x, index=torch.arange(200)) for _ in range(400)]
    assert 0.87 < torch.stack([info.acceptance for info in infos[-50:]]).mean() < 0.93


def test_five_updates_a_visit_and_ten_leapfrog_steps_are_the_default():
    model, calls = gamma_poisson(10), []

    def counted(x):
        calls.append(torch.is_grad_enabled())
        return model(x)

    learner = MCEM(counted, ADAM)
    x = torch.ones(10).double()
    learner.prepare(x)
    calls.clear()
    learner.step(x, index=torch.arange(10))
    assert len(calls) == 1 + (1 + 10) + 5  # the latents' shapes, the gradient at the start and after each step, updates


def test_a_guide_beside_it_is_aevb_on_phi_and_changes_nothing_for_theta():
    """The parameters after three steps are those of MCEM and AEVB(update="guide") in turn, to the last bit."""
    results, sgd = [], functools.partial(torch.optim.SGD, lr=1e-3)
    for together in (True, False):
        pyro.set_rng_seed(0)
        vae, x = bernoulli_vae()
        if together:
            learners = [MCEM(vae.model, sgd, vae.guide, ADAM)]
        else:
            learners = [MCEM(vae.model, sgd), AEVB(vae.model, vae.guide, ADAM, SGVB(kl="analytic"), update="guide")]
        for _ in range(3):
            infos = [learner.step(x, index=torch.arange(len(x))) for learner in learners]
        results.append((list(vae.parameters()), infos[0].loss, infos[-1].elbo))
    (ours, loss, bound), (expected, expected_loss, expected_bound) = results
    assert all(map(torch.equal, ours, expected))
    assert loss == expected_loss
    assert bound == expected_bound


def test_phi_moves_and_theta_does_not_when_only_the_guide_is_trained():
    vae, x = bernoulli_vae()
    before = {name: p.clone() for name, p in vae.named_parameters()}
    learner = MCEM(vae.model, functools.partial(torch.optim.SGD, lr=0.0), vae.guide, ADAM)
    learner.step(x, index=torch.arange(len(x)))
    for name, value in vae.named_parameters():
        assert torch.equal(before[name], value) == name.startswith("decoder"), name


def test_one_draw_of_pixels_serves_both():
    vae, x = bernoulli_vae()
    drawn = []
    batch = Minibatch((x,), torch.arange(len(x)), draw=lambda x: drawn.append(1) or (x,))
    MCEM(vae.model, ADAM, vae.guide, ADAM, compile=False).step_on(batch, StepSettings())
    assert len(drawn) == 2  # one for the check before the first step


def test_its_history_is_in_nats_per_datapoint():
    """x is two bits and log p(x, z) of the order of one: minus N times that was there before."""
    vae, x = bernoulli_vae()
    step, losses = (learner := MCEM(vae.model, ADAM)).step_on, []
    learner.step_on = lambda *given: losses.append((info := step(*given)).loss.item()) or info
    history = fit(learner, x, epochs=1, batch_size=10, progress=False)
    assert history.records[-1].training == pytest.approx(-sum(losses) / len(losses) / len(x))


def test_what_it_refuses():
    vae, _ = bernoulli_vae()
    with pytest.raises(ValueError, match="expected optim and guide_optim, or neither, got optim alone; pass both"):
        MCEM(vae.model, ADAM, vae.guide)
    with pytest.raises(ValueError, match="expected a guide for guide_optim, got none"):
        MCEM(vae.model, ADAM, guide_optim=ADAM)
    with pytest.raises(ValueError, match="expected a guide for guide_objective"):
        MCEM(vae.model, ADAM, guide_objective=SGVB())
    with pytest.raises(TypeError, match="Pyro ELBO object"):
        MCEM(vae.model, ADAM, vae.guide, ADAM, guide_objective="elbo")
    x = torch.ones(10).double()
    with pytest.raises(ValueError, match="index="):
        MCEM(gamma_poisson(10), ADAM).step(x)
    with pytest.raises(ValueError, match="num_updates of 1 or more"):
        MCEM(gamma_poisson(10), ADAM, num_updates=0)
    with pytest.raises(ValueError, match="target_acceptance"):
        MCEM(gamma_poisson(10), ADAM, target_acceptance=1.0)

    def discrete(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5).double()))
            pyro.sample("x", dist.Poisson(1 + z), obs=x)

    with pytest.raises(ValueError, match="discrete site 'z'"):
        MCEM(discrete, ADAM).step(x, index=torch.arange(10))
