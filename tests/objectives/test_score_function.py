"""VIMCO's baseline against its definition, weights of zero included, and stochastic control flow one by one."""

import functools
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
