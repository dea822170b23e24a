"""Parameters that others take the place of between two steps: those that the pair computes with are trained."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_aevb import AEVB, MCEM, SGVB, ReweightedWakeSleep, WakeSleep

ADAM = functools.partial(torch.optim.Adam, lr=0.05)
X = torch.linspace(0.0, 3.0, 20)
INDEX = torch.arange(20)
LEARNERS = {
    "AEVB": lambda model, guide: AEVB(model, guide, ADAM, SGVB()),
    "WakeSleep": lambda model, guide: WakeSleep(model, guide, ADAM, ADAM),
    "ReweightedWakeSleep": lambda model, guide: ReweightedWakeSleep(model, guide, ADAM, ADAM),
    "MCEM": lambda model, guide: MCEM(model, ADAM, guide, ADAM),
}


class Pair:
    def __init__(self):
        self.net = nn.Linear(1, 1)

    def model(self, x):
        pyro.module("net", self.net)
        w = pyro.param("w", torch.tensor(0.0))
        with pyro.plate("data", 20, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(self.net(z[..., None])[..., 0] + w, 1.0), obs=x)

    def guide(self, x):
        slope = pyro.param("slope", torch.tensor(0.3))
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", 20, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(slope * x, scale))


def store():
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def cleared(pair, folder):
    pyro.clear_param_store()


def another_module(pair, folder):
    pair.net = nn.Linear(1, 1)
    pyro.clear_param_store()


def put(pair, folder):
    pyro.get_param_store()["w"] = torch.tensor(5.0)


def loaded(pair, folder):
    pyro.get_param_store().save(folder / "store")
    pyro.get_param_store().load(folder / "store")
    pair.net = nn.Linear(1, 1)
    pyro.module("net", pair.net, update_module_params=True)


ACTIONS = [cleared, another_module, put, loaded]


@pytest.mark.parametrize("compile", [False, "graph"])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("learner", LEARNERS)
def test_they_are_trained(learner, action, compile, tmp_path):
    pair = Pair()
    made = LEARNERS[learner](pair.model, pair.guide)
    with made.configured(compile=compile):
        for _ in range(4):
            made.step(X, index=INDEX)
        action(pair, tmp_path)
        made.step(X, index=INDEX)
        before = store()
        for _ in range(3):
            made.step(X, index=INDEX)
    assert before.keys() == {"w", "slope", "scale", "net$$$weight", "net$$$bias"}
    assert [name for name, value in store().items() if torch.equal(value, before[name])] == []
    assert pair.net.weight is pyro.param("net$$$weight")


@pytest.mark.parametrize("learner", ["AEVB", "WakeSleep", "ReweightedWakeSleep"])
def test_the_optimizer_begins_anew_with_them(learner, tmp_path):
    pair = Pair()
    made = LEARNERS[learner](pair.model, pair.guide)
    made.step(X)
    loaded(pair, tmp_path)
    pyro.set_rng_seed(1)
    for _ in range(3):
        made.step(X)
    found = store()
    loaded_again = Pair()
    pyro.get_param_store().load(tmp_path / "store")
    pyro.module("net", loaded_again.net, update_module_params=True)
    fresh = LEARNERS[learner](loaded_again.model, loaded_again.guide)
    pyro.set_rng_seed(1)
    for _ in range(3):
        fresh.step(X)
    for name, value in store().items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_pyros_optimizers_take_them_too():
    pair = Pair()
    made = AEVB(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), SGVB())
    made.step(X)
    pyro.clear_param_store()
    made.prepare(X)
    assert len(made.state_dict()["optimizers"]["optim"]) == 5
    before = store()
    made.step(X)
    assert [name for name, value in store().items() if torch.equal(value, before[name])] == []


def test_an_optimizer_of_the_users_own_takes_them_too():
    pair = Pair()
    model, guide = pair.model, pair.guide
    model(X), guide(X)
    tensors = [value.unconstrained() for value in pyro.get_param_store().values()]
    optimizer = torch.optim.Adam([{"params": tensors[:2], "lr": 0.1}, {"params": tensors[2:]}], lr=0.01)
    made = AEVB(model, guide, optimizer, SGVB())
    made.step(X)
    pyro.clear_param_store()
    made.step(X)
    before = store()
    made.step(X)
    assert [name for name, value in store().items() if torch.equal(value, before[name])] == []
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 3]
    assert len(optimizer.state) == 5
