"""What most Pyro users write is captured, and trains as it does eagerly: by a learner, and by Pyro's own parts."""

import functools
from types import SimpleNamespace

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro.infer import autoguide
from pyro.poutine.indep_messenger import CondIndepStackFrame
from usual_models import USUAL

from pyro_aevb import AEVB
from pyro_aevb.capture import Capture
from pyro_aevb.capture.python_state import PythonState

STEPS = 14  # the fast path itself compares at 1, 2, 4 and 8
ADAM = functools.partial(torch.optim.Adam, lr=0.01)


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def by_a_learner(make, compile):
    model, guide, objective, batches = make()
    learner = AEVB(model, guide, ADAM, objective, compile=compile)
    pyro.set_rng_seed(1)
    losses = [learner.step(*batches[i % len(batches)]).loss for i in range(STEPS)]
    weights = {name: p.unconstrained.detach() for name, p in (learner.theta | learner.phi).items()}
    return torch.stack(losses), weights, learner.captures[0]


def by_pyros_parts(make, compile):
    """Pyro's loss and gradients in a ``Capture``, Pyro's optimizer: what ``SVI.step`` does."""
    model, guide, objective, batches = make()
    optimizer, store = pyro.optim.Adam({"lr": 0.01}), pyro.get_param_store()

    def loss_and_gradients(*args):
        return (torch.as_tensor(objective.loss_and_grads(model, guide, *args)),)

    def parameters():
        return dict(store.named_parameters())

    fast = Capture(loss_and_gradients, parameters, [model, guide, objective], compile=compile)
    pyro.set_rng_seed(1)
    losses = []
    for i in range(STEPS):
        losses.append(fast(*batches[i % len(batches)])[0].detach().clone())
        optimizer(list(parameters().values()))
        pyro.infer.util.zero_grads(parameters().values())
    return torch.stack(losses), {name: p.detach() for name, p in parameters().items()}, fast


def eager_and_fast(train, make):
    results = []
    for compile in (False, "graph"):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            results.append(train(make, compile))
    return results


BY_PYROS_PARTS = ("AutoDelta", "AutoNormal with minibatches", "OneHotCategorical", "enumerated in model and guide")
ONLY_SLOW = (  # long, and of a kind with another
    "AutoMultivariateNormal",
    "AutoLowRankMultivariateNormal",
    "AutoHierarchicalNormalMessenger",
    "AutoLaplaceApproximation",
    "AutoNormal of a mixture",
    "OneHotCategorical, TraceGraph_ELBO",
    "OneHotCategorical, one after another",
    "OneHotCategorical, drawn",
    "straight through",
    "a hidden Markov model",
    "a deep Markov model",
)


def by_default(name):
    return None if name in ONLY_SLOW else by_pyros_parts if name in BY_PYROS_PARTS else by_a_learner


CASES = [
    pytest.param(name, train, marks=() if train is by_default(name) else pytest.mark.slow)
    for name in USUAL
    for train in (by_a_learner, by_pyros_parts)
]


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
@pytest.mark.parametrize(("name", "train"), CASES)
def test_it_is_captured_and_trains_as_it_does_eagerly(name, train):
    (expected, weights, _), (found, trained, capture) = eager_and_fast(train, USUAL[name])
    assert capture.obstacle is None
    assert sum(entry.runs for entry in capture._entries.values()) >= STEPS - 3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert trained.keys() == weights.keys()
    for key, value in weights.items():
        assert (trained[key] - value).norm() <= 1e-9 * (1 + value.norm()), key


# -- What counts all the same ------------------------------------------------------------------------------------------


def attribute(make):
    """Return a function that reads an attribute, and a function that sets it anew, to ``make(i)``."""
    holder, number = SimpleNamespace(), iter(range(1, 100))

    def fn(x):
        return x, holder.value

    def anew():
        holder.value = make(next(number))

    anew()
    return fn, anew


COUNTS = {
    "an element": ("holder.value[1]", lambda i: [0, i]),
    "an element of an element": ("holder.value['a']['b']", lambda i: {"a": {"b": i}}),
    "an element of a tuple": ("holder.value", lambda i: (1, (2, i))),
    "a key": ("holder.value['2']", lambda i: {str(i): 1}),
    "the number of elements": ("len(holder.value)", lambda i: [0] * i),
    "the type of a number": ("holder.value['a']", lambda i: {"a": 1 if i % 2 else 1.0}),
    "the type": ("holder.value", lambda i: [1] if i % 2 else {1}),
    "a tensor": ("holder.value['a']", lambda i: {"a": torch.zeros(())}),
    "a function": ("holder.value['a']", lambda i: {"a": lambda: 1.0}),
    "a plate's size": ("holder.value['a'].subsample_size", lambda i: {"a": pyro.plate("data", 9, subsample_size=i)}),
    "a subsample": ("holder.value._indices", lambda i: pyro.plate("data", 9, subsample=torch.tensor([1, 2]))),
    "a plate's name": ("holder.value.name", lambda i: pyro.plate(f"data {i}", 9)),
}


@pytest.mark.parametrize("what", COUNTS)
def test_what_is_made_anew_with_something_else_in_it_counts(what):
    name, make = COUNTS[what]
    fn, anew = attribute(make)
    state = PythonState([fn])
    before, kept = state.key(), state.values()
    anew()
    assert len(kept) == len(before)
    assert state.difference(before) == name
    assert state.key() != before


SAME = {
    "containers": lambda i: {"a": [1, {2.0}, ("b", None)], "c": {}},
    "a named tuple": lambda i: CondIndepStackFrame("data", -1, 3, 0),
    "a plate": lambda i: {"data": pyro.plate("data", 9, dim=-1)},
    "a shape, a range, a device": lambda i: [torch.zeros(2, 3).shape, range(3), torch.zeros(()).device],
}


@pytest.mark.parametrize("what", SAME)
def test_what_is_made_anew_is_the_same_and_is_watched_from_then_on(what):
    fn, anew = attribute(SAME[what])
    state = PythonState([fn])
    before = state.key()
    first = fn(0)[1]
    anew()
    assert first is not fn(0)[1]
    assert state.difference(before) == ""
    assert state.key() == before
    value = fn(0)[1]
    if what == "containers":
        value["a"][1].add(3.0)
        assert state.difference(before) == "the contents of holder.value['a'][1]"
    if what == "a plate":
        value["data"].size = 10
        assert state.difference(before) == "holder.value['data'].size"


def test_an_automatic_guides_plates_count_where_the_users_code_names_them():
    guide = autoguide.AutoDelta(lambda x: None)
    guide.plates = {"data": pyro.plate("data", 9, subsample_size=3)}
    for fn, counts in ((lambda x: guide(x), False), (lambda x: guide.plates["data"].size, True)):
        state = PythonState([fn])
        before = state.key()
        guide.plates = {"data": pyro.plate("data", 9, subsample_size=3)}
        assert (state.key() != before) == counts


def test_a_class_that_is_not_there_is_an_error_as_it_is_eagerly():
    fast = Capture(lambda y: (F.one_hot(y, 3),), compile="graph")
    for _ in range(5):
        assert fast(torch.tensor([0, 2]))[0].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert fast.obstacle is None
    for wrong in (3, -1):
        with pytest.raises(RuntimeError):
            fast(torch.tensor([0, wrong]))


def test_a_number_of_classes_that_depends_on_the_labels_is_named():
    fast = Capture(lambda y: (F.one_hot(y),), compile="graph")
    for top in (2, 1, 3, 1, 2):
        assert fast(torch.tensor([0, top]))[0].shape == (2, top + 1)
    assert fast.obstacle.startswith(
        "one_hot without num_classes gives a result whose size depends on values at test_usual"
    )
