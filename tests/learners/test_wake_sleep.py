"""Wake-sleep: discrete latents against the exact evidence, and where dreams go."""

import functools
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import WakeSleep
from pyro_aevb.training import fit

ADAM = functools.partial(torch.optim.Adam, lr=0.02)
STATES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)


def log_evidence(x, a, W, b):
    """log p(x) of a sigmoid belief net, summed over its 8 states."""
    prior = dist.Bernoulli(logits=a).log_prob(STATES).sum(-1)
    likelihood = dist.Bernoulli(logits=STATES @ W.T + b).log_prob(x[:, None]).sum(-1)
    return torch.logsumexp(prior + likelihood, -1)


@pytest.mark.slow
def test_a_sigmoid_belief_net_learns_its_data():
    """1,000 patterns of a net with strong weights: the exact evidence comes within 0.15 nats of the true parameters'.

    A guide that can't hold the posterior keeps wake-sleep off the optimum; independent pixels are 2 nats below it.
    """
    truth = (torch.zeros(3).double(), 6 * torch.eye(3).repeat(3, 1).double(), torch.full((9,), -3.0).double())
    z = torch.bernoulli(torch.full((1000, 3), 0.5).double())
    x = torch.bernoulli(torch.sigmoid(z @ truth[1].T + truth[2]))

    def model(x):
        a = pyro.param("a", torch.zeros(3).double())
        W = pyro.param("W", lambda: torch.randn(9, 3).double())
        b = pyro.param("b", torch.zeros(9).double())
        with pyro.plate("data", 1000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=a.expand(len(x), 3)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ W.T + b).to_event(1), obs=x)

    def guide(x):
        V, c = pyro.param("V", torch.zeros(3, 9).double()), pyro.param("c", torch.zeros(3).double())
        with pyro.plate("data", 1000, subsample_size=len(x)):
            pyro.sample("z", dist.Bernoulli(logits=x @ V.T + c).to_event(1))

    learner = WakeSleep(model, guide, ADAM, ADAM)
    fit(learner, x, epochs=250, batch_size=100, schedule=lambda done: 1 - done, progress=False)
    target = log_evidence(x, *truth).mean()
    independent = dist.Bernoulli(x.mean(0)).log_prob(x).sum(-1).mean()
    assert independent < target - 2
    reached = log_evidence(x, *(pyro.param(n).detach() for n in ("a", "W", "b"))).mean()
    assert reached > target - 0.15, f"{target - reached:.3f} nats below the true parameters"


def pair(view=lambda x: x):
    def model(x, labels):
        w = pyro.param("w", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(labels.float(), 1.0))
            pyro.sample("x", dist.Normal(w * z, 1.0).expand([len(x)]), obs=view(x).reshape(len(x)))

    def guide(x, labels):
        assert x.shape == (len(labels), 1)
        v = pyro.param("v", torch.tensor(0.1))
        seen.append((x.detach().clone(), labels))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(v * x[:, 0], 1.0))

    seen = []
    return model, guide, seen


def test_a_dream_takes_the_place_of_the_argument_that_is_observed():
    """x comes back in the argument's shape, another argument stays."""
    model, guide, seen = pair()
    x, labels = torch.full((6, 1), 100.0), torch.arange(6)
    WakeSleep(model, guide, ADAM, ADAM).step(x, labels)
    dreamed, kept = seen[-1]
    assert (dreamed < 50).all()
    assert torch.equal(kept, labels)
    assert torch.equal(seen[-2][0], x)


def test_an_observation_that_is_no_argument_needs_to_be_told():
    model, guide, seen = pair(view=lambda x: x / 2)
    x, labels = torch.full((6, 1), 100.0), torch.arange(6)
    with pytest.raises(ValueError, match="pass dream_arguments"):
        WakeSleep(model, guide, ADAM, ADAM).step(x, labels)
    learner = WakeSleep(
        model, guide, ADAM, ADAM, dream_arguments=lambda sites, x, labels: (2 * sites["x"][:, None], labels)
    )
    learner.step(x, labels)
    assert (seen[-1][0] < 50).all()


def test_each_phase_moves_its_own_parameters():
    model, guide, _ = pair()
    x, labels = torch.randn(6, 1), torch.arange(6)
    still = functools.partial(torch.optim.SGD, lr=0.0)
    for optims, moved in (((ADAM, still), "w"), ((still, ADAM), "v")):
        with pyro.get_param_store().scope():
            learner = WakeSleep(model, guide, *optims)
            learner.prepare(x, labels)
            before = {n: pyro.param(n).clone() for n in "wv"}
            learner.step(x, labels)
            assert [n for n in "wv" if not torch.equal(before[n], pyro.param(n))] == [moved]
