"""VIMCO's baseline against its definition, weights of zero included, and stochastic control flow one by one."""

import functools
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import AEVB, VIMCO, ScoreFunction
from pyro_aevb.objectives.score_function import _without_each

ADAM = functools.partial(torch.optim.Adam, lr=0.05)
ZERO = -math.inf


@pytest.mark.parametrize("log_weight", [[0.3, -1.0, 2.0, 0.1], [0.0, ZERO, 0.7], [ZERO, 0.2, ZERO, 1.0], [5.0, 5.0]])
def test_the_baseline_is_the_bound_with_the_mean_of_the_others(log_weight):
    weights = [math.exp(v) for v in log_weight]
    expected = []
    for k in range(len(weights)):
        others = weights[:k] + weights[k + 1 :]
        geometric = math.prod(others) ** (1 / len(others))
        expected.append(math.log((sum(others) + geometric) / len(weights)))
    found = _without_each(torch.tensor(log_weight).double()[:, None])[:, 0]
    torch.testing.assert_close(found, torch.tensor(expected).double())


def test_nothing_is_subtracted_where_all_others_are_zero():
    found = _without_each(torch.tensor([[0.5], [ZERO], [ZERO]]))[:, 0]
    assert found[0] == 0.0
    torch.testing.assert_close(found[1:], torch.full((2,), 0.5 - math.log(3)))


def test_a_particle_of_weight_zero_is_no_error():
    """z = 1 is impossible given y: the guide learns it, by steps some of whose particles have no weight."""
    y = torch.full((20,), 0.25)

    def model(y):
        w = pyro.param("w", torch.tensor(0.2))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Uniform(0.5 * z, 1.0, validate_args=False), obs=y)
            pyro.sample("t", dist.Normal(w, 1.0), obs=y)

    def guide(y):
        a = pyro.param("a", torch.tensor(0.0))
        with pyro.plate("data", len(y)):
            pyro.sample("z", dist.Bernoulli(logits=a.expand(len(y))))

    learner = AEVB(model, guide, ADAM, VIMCO(20))
    infos = [learner.step(y) for _ in range(100)]
    assert infos[0].terms.log_weight.isinf().any()
    assert all(info.loss.isfinite() for info in infos)
    assert pyro.param("a") < -1


def test_stochastic_control_flow_is_refused_with_a_remedy_that_works():
    x = torch.randn(10)

    def model(x):
        w = pyro.param("w", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(0.5))
            z = pyro.sample("one" if b.sum() > 5 else "other", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z * w + b, 1.0), obs=x)

    def guide(x):
        a = pyro.param("a", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=a.expand(len(x))))
            pyro.sample("one" if b.sum() > 5 else "other", dist.Bernoulli(0.5))

    several = AEVB(model, guide, ADAM, ScoreFunction(4, vectorize=False))
    with pytest.raises(ValueError, match=r"expected the same sites for every particle.*draw a single particle"):
        [several.step(x) for _ in range(20)]
    single = AEVB(model, guide, ADAM, ScoreFunction(1), compile=False)
    assert all(single.step(x).loss.isfinite() for _ in range(20))


class Plated:
    """Datapoints with a binary latent each and a plate of cells with others; ``mixes``: a cell sees those before it."""

    def __init__(self, cells, mixes=False):
        self.cells, self.mixes = cells, mixes
        self.logits = torch.linspace(-1, 1, 2 * cells).double().reshape(2, cells).requires_grad_()
        self.x = torch.linspace(-1, 2, 2 * cells).double().reshape(2, cells)

    def model(self, x):
        with pyro.plate("data", 10, subsample_size=2, dim=-2):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3).double()))
            with pyro.plate("cells", self.cells, dim=-1):
                z = pyro.sample("z", dist.Bernoulli(0.2 + 0.4 * a))
                loc = 2 * z.cumsum(-1) if self.mixes else 2 * z
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", 10, subsample_size=2, dim=-2):
            pyro.sample("a", dist.Bernoulli(torch.tensor(0.6).double()))
            with pyro.plate("cells", self.cells, dim=-1):
                pyro.sample("z", dist.Bernoulli(logits=self.logits))

    def gradient(self, x, seed, objective):
        pyro.set_rng_seed(seed)
        self.logits.grad = None
        objective.differentiable_loss(self.model, self.guide, x).backward()
        return self.logits.grad.clone()

    def exact(self):
        """The gradient, all values of the latents written out."""
        loss = torch.zeros(()).double()
        values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=self.cells))).double()
        for a, q_a in ((0.0, 0.4), (1.0, 0.6)):
            p_a = 0.3 if a else 0.7
            for row in range(2):
                log_q = dist.Bernoulli(logits=self.logits[row]).log_prob(values).sum(-1) + math.log(q_a)
                loc = 2 * (values.cumsum(-1) if self.mixes else values)
                log_p = dist.Normal(loc, 1.0).log_prob(self.x[row]).sum(-1) + math.log(p_a)
                log_p = log_p + dist.Bernoulli(torch.tensor(0.2 + 0.4 * a).double()).log_prob(values).sum(-1)
                loss = loss - 5 * (log_q.exp() * (log_p - log_q)).sum()
        return torch.autograd.grad(loss, self.logits)[0]


SCORES = {
    "one": ScoreFunction(),
    "leave-one-out": ScoreFunction(4, baseline="leave-one-out"),
    "one by one": ScoreFunction(4, vectorize=False),
}


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("objective", ["one", "leave-one-out", pytest.param("one by one", marks=pytest.mark.slow)])
def test_the_gradient_in_a_plate_within_a_datapoint_is_exact_on_average(objective, mixes):
    pair = Plated(3, mixes)
    found = torch.stack([pair.gradient(pair.x, seed, SCORES[objective]) for seed in range(150)])
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - pair.exact()).abs() < 5 * error).all()


@pytest.mark.parametrize("objective", SCORES)
def test_other_entries_of_a_plate_are_no_signal(objective):
    pair = Plated(6)
    other = pair.x.clone()
    other[:, 2] += 3
    changed = pair.gradient(pair.x, 0, SCORES[objective]) - pair.gradient(other, 0, SCORES[objective])
    assert changed[:, 2].abs().max() > 0
    assert changed[:, [0, 1, 3, 4, 5]].abs().max() < 1e-12


@pytest.mark.parametrize("objective", SCORES)
def test_entries_that_a_model_mixes_have_the_whole_signal(objective):
    pair = Plated(6, mixes=True)
    other = pair.x.clone()
    other[:, 5] += 3
    changed = pair.gradient(pair.x, 0, SCORES[objective]) - pair.gradient(other, 0, SCORES[objective])
    assert changed[:, 0].abs().min() > 0
