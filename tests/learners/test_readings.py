"""What a pair was read to be holds in the Python state that it was read in: another flag, another pair."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import AEVB, ReweightedWakeSleep, WakeSleep
from pyro_aevb.model_guide import structure

ADAM = functools.partial(torch.optim.Adam, lr=0.02)
STILL = functools.partial(torch.optim.SGD, lr=0.0)


class Growing:
    """x ~ N(0, 2), whose plate stands for ``number`` datapoints."""

    number = 200
    scale = 1.0

    def model(self, x):
        mean = pyro.param("mean", torch.tensor(0.0))
        with pyro.plate("data", self.number, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(mean, self.scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", self.number, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(slope * x, 0.7))


@pytest.mark.parametrize("compile", [False, "graph"])
@pytest.mark.parametrize("numbers", [[200, 2000, 200], range(200, 800, 20)], ids=["there and back", "at every step"])
def test_n_is_what_the_plate_says_now(compile, numbers):
    pair = Growing()
    learner = AEVB(pair.model, pair.guide, STILL, compile=compile)
    for number in numbers:
        pair.number = number
        for _ in range(4):
            info = learner.step(torch.randn(50))
            assert learner.dataset_size == number
            assert info.elbo.item() == pytest.approx(-info.loss.item() / number, rel=1e-5)


def test_values_that_go_on_changing_cost_no_readings(monkeypatch):
    examined = []
    real = structure._examined
    monkeypatch.setattr(structure, "_examined", lambda *args: examined.append(1) or real(*args))
    pair = Growing()
    learner = AEVB(pair.model, pair.guide, STILL, compile=False)
    for i in range(60):
        pair.scale = 1.0 + i / 100
        learner.step(torch.randn(50))
    assert len(examined) < 20


class TwoViews:
    """a and, once ``second`` says so, b of z ~ N(0, 1), each with noise N(0, 1): p(z|a, b) is N((a + b) / 3, 1/3)."""

    second = False

    def model(self, a, b):
        with pyro.plate("data", len(a)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=a)
            if self.second:
                pyro.sample("b", dist.Normal(z, 1.0), obs=b)

    def guide(self, a, b):
        of_a, of_b, log_scale = (pyro.param(name, torch.tensor(0.0)) for name in ("of_a", "of_b", "log_scale"))
        with pyro.plate("data", len(a)):
            pyro.sample("z", dist.Normal(of_a * a + (of_b * b if self.second else 0.0), log_scale.exp()))


LEARNERS = {
    "wake-sleep": WakeSleep,
    "reweighted wake-sleep": functools.partial(ReweightedWakeSleep, insomnia=0.0),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_dreams_are_of_what_the_model_observes_now(name):
    z = torch.randn(2000)
    a, b = z + torch.randn(2000), z + torch.randn(2000)
    pair = TwoViews()
    learner = LEARNERS[name](pair.model, pair.guide, ADAM, ADAM)
    learner.step(a, b)
    pair.second = True
    for _ in range(400):
        learner.step(a, b)
    third = torch.tensor(1 / 3)
    assert torch.allclose(pyro.param("of_a"), third, atol=0.04)
    assert torch.allclose(pyro.param("of_b"), third, atol=0.04)
    assert torch.allclose(pyro.param("log_scale"), third.log() / 2, atol=0.05)
