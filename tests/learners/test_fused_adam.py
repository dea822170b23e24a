"""Adam without its bookkeeping gives the bits of torch's Adam, and leaves to torch what is torch's."""

import copy

import pytest
import torch

from pyro_aevb.learners.fused_adam import FusedAdam
from pyro_aevb.learners.optimizer import as_optimizer
from pyro_aevb.model_guide.parameters import Parameter

ROUNDS = 6


def make(factory, **options):
    """Return parameters and an optimizer of ours over them, from one seed."""
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape, requires_grad=True) for name, shape in (("w", (4, 3)), ("b", (3,)))}
    parameters = {name: Parameter(t, torch.distributions.constraints.real) for name, t in tensors.items()}
    return parameters, as_optimizer(lambda p: factory(p, lr=0.1, fused=True, **options))


def steps_of(monkeypatch, parameters, optimizer, between=lambda i, parameters, optimizer: None, plain=False):
    """Make steps on seeded gradients; return what came of it and how many of them torch made."""
    count = [0]
    with monkeypatch.context() as patched:
        if plain:
            patched.setattr(FusedAdam, "over", classmethod(lambda cls, optimizer: None))
        fused = FusedAdam.step

        def counted(self):
            count[0] += (made := fused(self))
            return made

        patched.setattr(FusedAdam, "step", counted)
        generator = torch.Generator().manual_seed(1)
        for i in range(ROUNDS):
            for p in parameters.values():
                p.unconstrained.grad = torch.randn(p.unconstrained.shape, generator=generator)
            between(i, parameters, optimizer)
            optimizer.step(parameters)
    return [p.unconstrained for p in parameters.values()], optimizer.state_dict(parameters), ROUNDS - count[0]


def change_rate(i, parameters, optimizer):
    if optimizer.param_groups:
        optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)


def drop_a_gradient(i, parameters, optimizer):
    if i == 3:
        parameters["b"].unconstrained.grad = None


def load_an_older_state(i, parameters, optimizer):
    if i == 2:
        optimizer.older = optimizer.state_dict(parameters)
    if i == 4:
        optimizer.load_state_dict(optimizer.older, parameters)


def add_a_hook(i, parameters, optimizer):
    if i == 2:
        optimizer._optimizer.register_step_pre_hook(lambda o, args, kwargs: o.param_groups[0].update(lr=0.5))


def add_a_parameter(i, parameters, optimizer):
    if i == 2:
        extra = torch.ones(2, requires_grad=True)
        extra.grad = torch.ones(2)
        parameters["extra"] = Parameter(extra, torch.distributions.constraints.real)


def clear_the_state(i, parameters, optimizer):
    if i == 3:
        optimizer._optimizer.state.clear()


def put_in_another_moment(i, parameters, optimizer):
    if i == 3:
        leaf = list(parameters.values())[-1].unconstrained
        optimizer._optimizer.state[leaf]["exp_avg_sq"] = torch.zeros_like(leaf)


def make_the_rate_a_tensor(i, parameters, optimizer):
    if i == 4:
        optimizer.param_groups[0]["lr"] = torch.tensor(0.2)


@pytest.mark.parametrize(
    ("factory", "options", "between", "by_torch"),
    [
        (torch.optim.Adam, {}, change_rate, 1),
        (torch.optim.Adam, {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}, change_rate, 1),
        (torch.optim.AdamW, {"weight_decay": 0.1}, change_rate, 1),
        (torch.optim.Adam, {"amsgrad": True}, change_rate, ROUNDS),
        (torch.optim.Adam, {}, drop_a_gradient, 2),
        (torch.optim.Adam, {}, load_an_older_state, 2),
        (torch.optim.Adam, {}, clear_the_state, 2),
        (torch.optim.Adam, {}, put_in_another_moment, 2),
        (torch.optim.Adam, {}, add_a_hook, 1 + ROUNDS - 2),
        (torch.optim.Adam, {}, add_a_parameter, 2),
        (torch.optim.Adam, {}, make_the_rate_a_tensor, 1 + 2),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_the_bits_are_those_of_torch(factory, options, between, by_torch, monkeypatch):
    found, state, torchs = steps_of(monkeypatch, *make(factory, **options), between)
    expected, right, _ = steps_of(monkeypatch, *make(factory, **options), between, plain=True)
    assert torchs == by_torch
    assert all(map(torch.equal, found, expected))
    for number, values in right["state"]["state"].items():
        for name, value in values.items():
            assert torch.equal(state["state"]["state"][number][name], value), name


@pytest.mark.parametrize("factory", [torch.optim.SGD, torch.optim.Adagrad])
def test_other_optimizers_are_torchs(factory, monkeypatch):
    assert steps_of(monkeypatch, *make(factory))[2] == ROUNDS


def test_a_step_that_was_wrapped_is_called(monkeypatch):
    parameters, optimizer = make(torch.optim.Adam)
    calls = []

    def wrap(i, parameters, optimizer):
        if i == 2:
            step = optimizer._optimizer.step
            optimizer._optimizer.step = lambda: (calls.append(i), step())

    assert steps_of(monkeypatch, parameters, optimizer, wrap)[2] == 1 + ROUNDS - 2
    assert len(calls) == ROUNDS - 2


def test_a_copy_of_the_state_is_a_state_of_its_own(monkeypatch):
    parameters, optimizer = make(torch.optim.Adam)
    _, state, _ = steps_of(monkeypatch, parameters, optimizer)
    before = copy.deepcopy(state)
    steps_of(monkeypatch, parameters, optimizer)
    assert torch.equal(state["state"]["state"][0]["exp_avg"], before["state"]["state"][0]["exp_avg"])
    assert not torch.equal(
        optimizer.state_dict(parameters)["state"]["state"][0]["exp_avg"], before["state"]["state"][0]["exp_avg"]
    )
