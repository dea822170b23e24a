"""The fast path and state in Python: no step differs from the eager run without a word."""

import argparse
import collections
import copy
import datetime
import decimal
import enum
import fractions
import functools
import itertools
import logging
import math
import multiprocessing
import operator
import pathlib
import pickle
import queue
import re
import threading
import types
import uuid
import weakref
import zoneinfo
from json import dumps

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import tqdm
from packaging.version import parse
from pairs import bernoulli_vae
from stateful import READ, STEPS, SWITCH, WRITTEN, X, pair
from torch.nn.modules import module as nn_module

from pyro_aevb import AEVB, IWAE, SGVB, ReweightedWakeSleep
from pyro_aevb.capture import Capture, PythonState

SGD = functools.partial(torch.optim.SGD, lr=1e-3)


def losses_of(make, compile):
    with pyro.get_param_store().scope():
        model, guide, before = make()
        learner = AEVB(model, guide, SGD, SGVB(), compile=compile)
        losses = []
        for i in range(STEPS):
            before(i)
            torch.manual_seed(i)
            losses.append(learner.step(X[10 * (i % 4) : 10 * (i % 4) + 10]).loss.item())
        return torch.tensor(losses).double(), learner.captures[0].obstacle


BROKEN = ("method_replaced_on_its_class", "class_of_an_object", "prior_of_a_weight", "global_that_is_defined_later")
BROKEN += ("context_variable", "a_masked_array", "an_array_of_objects", "a_number_of_ctypes", "a_context_of_decimals")
BROKEN += ("a_module_by_a_computed_name", "a_settings_object_of_a_package", "a_shared_number")
BROKEN += ("a_method_of_a_list", "a_matrix", "an_array_of_numbers_as_objects", "ones_own_module_by_its_name")
BROKEN += ("numbers_off_a_tensor", "global_of_a_function_inside", "a_generator_function")
BY_DEFAULT = [*[*READ, *WRITTEN][::2], *BROKEN]  # of each kind, which stand together, one or more


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in BY_DEFAULT else pytest.mark.slow) for n in (*READ, *WRITTEN)]
)
def test_no_step_differs_silently(name, caplog):
    make = {**READ, **WRITTEN}[name]
    caplog.set_level(logging.WARNING, "pyro_aevb")
    expected, _ = losses_of(make, False)
    found, obstacle = losses_of(make, "graph")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    if name in WRITTEN and "tensor" not in name and "buffer" not in name:
        assert obstacle is not None
        assert f"running eagerly, without a graph: {obstacle}" in caplog.text


def test_there_are_sixty_of_them():
    assert len(READ) + len(WRITTEN) >= 60


def aevb(vae, compile):
    return AEVB(vae.model, vae.guide, SGD, SGVB(), compile=compile)


REPLACED = {
    "objective": (aevb, lambda learner, vae: setattr(learner, "objective", IWAE(3))),
    "theta_prior": (aevb, lambda learner, vae: setattr(learner, "theta_prior", pyro.distributions.Normal(0.0, 0.1))),
    "insomnia": (
        lambda vae, compile: ReweightedWakeSleep(
            vae.model, vae.guide, SGD, SGD, num_particles=2, insomnia=0.5, compile=compile
        ),
        lambda learner, vae: setattr(learner, "insomnia", 0.9),
    ),
    "requires_grad": (aevb, lambda learner, vae: vae.encoder.requires_grad_(False)),
}


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_replaced_on_the_learner_counts(name):
    make, replace = REPLACED[name]
    results = []
    for compile in (False, "graph"):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            vae, x = bernoulli_vae()
            learner, terms = make(vae, compile), []
            for i in range(20):
                if i == 11:
                    replace(learner, vae)
                    encoder = [p.detach().clone() for p in vae.encoder.parameters()]
                torch.manual_seed(i)
                terms.append(torch.stack([t.double() for t in learner.step(x[:10]) if isinstance(t, torch.Tensor)]))
            frozen = all(map(torch.equal, encoder, vae.encoder.parameters()))
            assert frozen == (name == "requires_grad")
            results.append((torch.stack(terms), torch.cat([p.detach().flatten() for p in vae.parameters()])))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:weight was not registered|bias was not registered")
@pytest.mark.parametrize("named", [True, False], ids=["by pyro.module", "by pyro.param"])
def test_weights_that_thaw_are_trained_from_then_on(named):
    """The frozen layer isn't in the parameter store before; then it is, and moves as in the eager run."""
    found = []
    for compile in (False, "graph"):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            layer, (_, guide) = torch.nn.Linear(1, 3).double().requires_grad_(False), pair(lambda: 1.0)

            def model(x, layer=layer):
                if named:
                    pyro.module("layer", layer)
                elif layer.weight.requires_grad:
                    pyro.param("weight", layer.weight)
                with pyro.plate("data", 40, subsample_size=len(x)):
                    z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
                    pyro.sample("x", dist.Normal(layer(z[..., None]), 1.0).to_event(1), obs=x)

            learner, before = AEVB(model, guide, SGD, SGVB(), compile=compile), layer.weight.clone()
            for i in range(STEPS):
                if i == SWITCH:
                    assert torch.equal(layer.weight, before)
                    layer.requires_grad_(True)
                torch.manual_seed(i)
                learner.step(X[:10])
            assert learner.captures[0].obstacle is None
            found.append(layer.weight.detach() - before)
    assert (found[0].abs() > 1e-3).all()
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_a_frozen_weight_that_a_run_writes_is_written_once_a_step():
    layer = torch.nn.Linear(1, 1).requires_grad_(False)
    layer.weight.fill_(0.0)

    def fn(x):
        layer.weight += 1.0  # as an average of other weights is
        return (layer.weight * x,)

    fast = Capture(fn, watched=[fn], compile="graph")
    assert [fast(torch.ones(1))[0].item() for _ in range(9)] == list(range(1, 10))
    assert fast.obstacle is None


def results_of(fn, change):
    fast, results = Capture(fn, watched=[fn], compile="graph"), []
    for i in range(STEPS):
        if i == SWITCH:
            change()
        results.append(fast(torch.ones(2, 2))[0][0, 0].item())
    assert fast.obstacle is None
    return results


def test_the_closure_of_a_hook_of_every_module_is_watched():
    factor, identity = [1.0], torch.nn.Identity()
    hook = nn_module.register_module_forward_hook(
        lambda module, args, output: output * factor[0] if module is identity else output
    )
    try:
        found = results_of(lambda x: (identity(x) + 1.0,), lambda: factor.__setitem__(0, 3.0))
    finally:
        hook.remove()
    assert found == [2.0] * SWITCH + [4.0] * (STEPS - SWITCH)


def test_the_dtype_of_autocast_is_part_of_the_signature():
    def fn(x):
        with torch.autocast("cpu"):
            return ((x * 1.001 @ torch.eye(2)).float(),)

    before = torch.get_autocast_dtype("cpu")
    try:
        torch.set_autocast_dtype("cpu", torch.bfloat16)
        found = results_of(fn, lambda: torch.set_autocast_dtype("cpu", torch.float16))
    finally:
        torch.set_autocast_dtype("cpu", before)
    rounded = [torch.tensor(1.001, dtype=dtype).item() for dtype in (torch.bfloat16, torch.float16)]
    assert found == [rounded[0]] * SWITCH + [rounded[1]] * (STEPS - SWITCH)
    assert rounded[0] != rounded[1]


class Context(decimal.Context):
    __slots__ = ()


HELD = {
    "an object made in C": decimal.Context,
    "an object of a class made from one": Context,
    "a large object of a package": lambda: argparse.Namespace(a=[argparse.Namespace() for _ in range(300)]),
    "a package's object that holds one": lambda: argparse.Namespace(a=decimal.Context()),
}


@pytest.mark.parametrize("name", HELD)
def test_what_cannot_be_watched_is_named(name):
    held = HELD[name]()
    net = torch.nn.Linear(1, 1)
    net.of_another = held
    assert PythonState([lambda x: held or x]).unwatchable == "what is in held can't be watched"
    assert PythonState([lambda x: net(x) if net.of_another else x]).unwatchable == (
        "what is in net.of_another can't be watched"
    )
    assert not PythonState([lambda x: net(x)]).unwatchable


@pytest.mark.parametrize(
    "held",
    [
        *(threading.Lock(), threading.RLock(), threading.Condition(), re.compile("a"), torch.float32, torch.strided),
        *(decimal.Decimal(1), fractions.Fraction(1, 2), pathlib.Path(), datetime.date(2020, 1, 1), uuid.UUID(int=1)),
        *(datetime.timedelta(1), operator.itemgetter(0), math.exp, torch.relu, np.exp, np.float32(1), np.dtype("f4")),
        *(slice(1), Ellipsis, object(), logging.getLogger("a"), logging.StreamHandler(), dist.constraints.positive),
        *(types.SimpleNamespace(), argparse.Namespace(a=1), collections.OrderedDict(), enum.Enum("E", "A").A),
        *(zoneinfo.ZoneInfo("UTC"), queue.Queue(), multiprocessing.Value("d", 1.0), dict[str, int], list.append),
    ],
    ids=lambda held: f"{type(held).__module__}.{type(held).__name__}",
)
def test_usual_things_are_no_obstacle(held):
    holder = types.SimpleNamespace(held=held, other=[held])
    assert PythonState([lambda x: held if holder.held else holder.other]).unwatchable == ""


def test_the_code_of_installed_packages_is_not_walked():
    """Unless the pair itself is written in one."""
    bar = tqdm.tqdm(disable=True)
    state = PythonState([lambda x: bar.update() or x])
    assert len(state.reached) < 100
    assert [fn.__module__ for fn in state.functions] == [__name__]
    assert len(PythonState([lambda x: parse(x) if bar else dumps(x)]).functions) == 1
    assert parse in PythonState([functools.partial(parse)]).functions


def test_a_sparse_gradient_is_trained_on_eagerly(caplog):
    found = []
    for compile in (False, "graph"):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            means, (_, guide) = torch.nn.Embedding(4, 3, sparse=True).double(), pair(lambda: 1.0)

            def model(x, means=means):
                pyro.module("means", means)
                with pyro.plate("data", 40, subsample_size=len(x)):
                    z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
                    kinds = (x[:, 0] > 0).long()
                    pyro.sample("x", dist.Normal(z[..., None] + means(kinds), 1.0).to_event(1), obs=x)

            learner, before = AEVB(model, guide, SGD, SGVB(), compile=compile), means.weight.detach().clone()
            for i in range(6):
                torch.manual_seed(i)
                learner.step(X[:10])
            found.append(means.weight.detach() - before)
    assert found[0].abs().max() > 1e-3
    assert torch.equal(*found)
    assert "the gradient of 'means$$$weight' is a sparse tensor, which a graph doesn't give" in caplog.text


def test_a_sparse_result_is_given_eagerly():
    fast = Capture(lambda x: (x.to_sparse(),), compile="graph")
    for _ in range(3):
        assert fast(torch.eye(2))[0].is_sparse
    assert fast.obstacle == "a result is a sparse tensor, which a graph doesn't give"


def test_a_weak_reference_is_followed_and_one_that_cannot_be_is_named():
    class Holder:
        beta = 1.0

    held = Holder()
    held.beta = 2.0
    reference, proxy = weakref.ref(held), weakref.proxy(held)
    state = PythonState([lambda x: reference().beta * x])
    before = state.key()
    held.beta = 3.0
    assert state.difference(before) == "reference.beta"
    assert PythonState([lambda x: proxy.beta * x]).unwatchable == (
        "what the weak reference proxy leads to can't be watched"
    )


def test_a_trained_vae_is_copied_and_pickled():
    vae, x = bernoulli_vae()
    AEVB(vae.model, vae.guide, SGD, SGVB(), compile="graph").step(x[:10])
    for other in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        for mine, theirs in zip(vae.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, theirs)
            assert mine is not theirs
        AEVB(other.model, other.guide, SGD, SGVB(), compile="graph").step(x[:10])


def test_what_a_function_reads_can_be_told():
    table = {"beta": 1.0}
    fast = Capture(lambda x: (x * table["beta"],), compile="graph", reads=lambda: (table["beta"],))
    for _ in range(3):
        assert fast(torch.ones(2))[0].tolist() == [1.0, 1.0]
    table["beta"] = 2.0
    assert fast(torch.ones(2))[0].tolist() == [2.0, 2.0]
    assert fast.obstacle is None


def test_tracing_changes_nothing_of_pyros():
    import pyro.util

    before = dict(vars(pyro.util))
    seen = []

    def fn(x):
        seen.append(pyro.util.torch_isnan)
        pyro.util.warn_if_nan(x, "x")
        return (x + 1,)

    fast = Capture(fn, compile="graph")
    for _ in range(3):
        fast(torch.ones(2))
    assert fast.obstacle is None
    assert set(seen) == {before["torch_isnan"]}


def test_keys_with_braces_are_named_and_a_closure_over_a_learner_does_not_watch_its_graphs():
    vae, x = bernoulli_vae()
    held = {"{0}": {frozenset({1, 2}): 1.0}}
    state = PythonState([lambda x: held["{0}"]])
    before = state.key()
    held["{0}"][frozenset({1, 2})] = 2.0
    assert state.difference(before) == "held['{0}'][frozenset({1, 2})]"
    learner = aevb(vae, "graph")
    for _ in range(12):
        learner.step(x[:10])
    reached = PythonState([lambda x: learner]).reached
    assert any(each is vae for each in reached)
    assert not any(type(each).__module__.startswith("pyro_aevb.capture") for each in reached)


class Two(torch.nn.Sequential):
    """z = net(x) of two layers."""

    def __init__(self):
        super().__init__(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
        self.double()


def halved(parameter):
    parameter.grad = 0.5 * parameter.grad


def times_zero(module, *grads):
    return tuple(None if grad is None else 0 * grad for grad in grads[0])


def from_the_sixth_call(net):
    calls = itertools.count()
    return net[0].weight.register_hook(lambda grad: grad if next(calls) < 5 else 0 * grad)


HOOKS = {
    "parameter, later": from_the_sixth_call,
    "parameter": lambda net: net[0].weight.register_hook(lambda grad: 0 * grad),
    "parameter, after": lambda net: net[0].weight.register_post_accumulate_grad_hook(halved),
    "backward": lambda net: net[1].register_full_backward_hook(times_zero),
    "before backward": lambda net: net[0].register_full_backward_pre_hook(times_zero),
    "forward": lambda net: net[0].register_forward_hook(lambda module, args, out: 0 * out),
    "every module's": lambda net: nn_module.register_module_forward_hook(
        lambda module, args, out: 0 * out if module is net[0] else None
    ),
}


@pytest.mark.parametrize("at", [0, SWITCH])
@pytest.mark.parametrize("name", HOOKS)
def test_hooks_of_gradients_and_modules_are_called(name, at):
    def make():
        torch.manual_seed(0)
        net, (model, _) = Two(), pair(lambda: 1.0)

        def guide(x):
            pyro.module("net", net)
            with pyro.plate("data", 40, subsample_size=len(x)):
                pyro.sample("z", dist.Normal(net(x)[:, 0], 1.0))

        return model, guide, lambda i: hooks.append(HOOKS[name](net)) if i == at else None

    hooks = []
    found = []
    for compile in (False, "graph"):
        try:
            found.append(losses_of(make, compile)[0])
        finally:
            hooks.pop().remove()
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
