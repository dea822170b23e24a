"""What is passed by mistake is said in one sentence, and the sentence's remedy works."""

import functools
import math

import numpy as np
import pytest
import torch
from frames import Frame
from pairs import bernoulli_vae
from torch.utils.data import DataLoader, TensorDataset

from pyro_aevb import AEVB, elbo, log_marginal_likelihood
from pyro_aevb.model_guide import log_density, read
from pyro_aevb.training import fit

ADAM = functools.partial(torch.optim.Adam, lr=0.01)


def train(data=None, **options):
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, ADAM, compile=False)
    options = {"validation": x} | options if "validation_particles" in options else options
    return fit(learner, x if data is None else data(x), **({"progress": False, "batch_size": 8} | options))


NUMBERS = {
    "epochs": {"epochs": 2.0}, "samples": {"samples": 1e3}, "batch_size": {"batch_size": 8.0, "samples": 8},
    "dataset_size": {"dataset_size": 40.0, "samples": 8}, "evaluate_every": {"evaluate_every": 8.0, "samples": 8},
    "patience": {"patience": 1.5, "samples": 8}, "seed": {"seed": "0", "samples": 8},
    "checkpoints_kept": {"checkpoints_kept": 2.5, "checkpoint_dir": "never", "samples": 8},
    "kl_warm_up": {"kl_warm_up": 10.0, "samples": 8},
    "validation_particles": {"validation_particles": 2.0, "samples": 8},
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_no_integers(name):
    with pytest.raises(TypeError, match=rf"expected an integer for {name}, got .*; pass int\("):
        train(**NUMBERS[name])


def test_integers_of_numpys_are_integers():
    assert train(samples=np.int64(16), batch_size=np.int32(8)).samples == 16


@pytest.mark.parametrize("evaluate", [elbo, log_marginal_likelihood])
def test_numbers_of_an_evaluation_that_are_no_integers(evaluate):
    vae, x = bernoulli_vae()
    for name in ("num_particles", "batch_size"):
        with pytest.raises(TypeError, match=f"expected an integer for {name}, got 3.0"):
            evaluate(vae.model, vae.guide, x, **{name: 3.0})


def test_a_generator_has_one_pass():
    def once(x):
        return (part for part in x.split(8))

    with pytest.raises(ValueError, match=r"gone through 3 times, got generator, .*; pass a DataLoader, a Dataset or"):
        train(once, epochs=3)
    assert train(once, epochs=1).samples == train(once).samples == 40
    assert train(once, samples=16).samples == 16
    assert train(lambda x: DataLoader(TensorDataset(x), 8), epochs=3).samples == 120
    assert train(lambda x: DataLoader(TensorDataset(x), 8), epochs=3, dataset_size=40).samples == 120


@pytest.mark.parametrize("kind", [Frame, lambda x: x.numpy()])
def test_a_frame_where_a_tensor_is_expected(kind):
    vae, x = bernoulli_vae()
    table = kind(x)
    learner = AEVB(vae.model, vae.guide, ADAM, compile=False)
    for use in (
        learner.step, learner.prepare, learner.check, lambda x: read(vae.model, vae.guide, (x,)),
        lambda x: log_density(vae.model, vae.guide, x),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=r"expected tensors, got (Frame|ndarray) as argument 0; use torch.as_t"):
            use(table)
    vae.float()  # the numbers of a frame come in torch's default dtype
    assert fit(learner, kind(x.float()), samples=8, batch_size=8, progress=False).samples == 8


WRONG = {
    "evaluate_every": ({"evaluate_every": 0}, ValueError, "expected evaluate_every of 1 sample or more, got 0"),
    "going back": ({"evaluate_every": -5}, ValueError, "expected evaluate_every of 1 sample or more, got -5"),
    "evaluate_at": ({"evaluate_at": 20}, TypeError, "expected whole numbers of samples for evaluate_at, got 20"),
    "a callback": ({"callbacks": print}, TypeError, "expected a list of functions of the history for callbacks, got"),
    "no callback": ({"callbacks": [None]}, TypeError, r"expected a list of functions .* got \[None\]"),
    "a bare number": ({"evaluate": lambda: 3.0}, TypeError, "expected numbers by name from evaluate, got 3.0"),
    "a vector": ({"evaluate": lambda: {"a": torch.ones(3)}}, TypeError, "expected numbers by name from evaluate"),
    "a rate below 0": (
        {"schedule": lambda done: -done},
        ValueError,
        "0 or more, from schedule at 0.25 of the run, got",
    ),
    "no rate": ({"schedule": lambda done: None}, ValueError, "from schedule at 0 of the run, got None"),
    "no folder": ({"resume": True}, ValueError, "expected a checkpoint_dir to resume from, got none; pass the folder"),
    "no seconds": ({"checkpoint_every": math.nan}, ValueError, "expected seconds for checkpoint_every, 0 or more, got"),
    "seconds below 0": ({"checkpoint_every": -1.0}, ValueError, "0 or more, got -1.0; math.inf is never"),
    "NaN": ({"schedule": lambda done: float("nan")}, ValueError, "from schedule at 0 of the run, got nan"),
}


@pytest.mark.parametrize("name", WRONG)
def test_options_that_are_something_else(name):
    options, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        train(epochs=1, **options)


def test_a_value_of_an_evaluation_may_be_a_tensor():
    history = train(epochs=1, evaluate=lambda: {"a": torch.tensor(0.5)})
    assert history.records[-1].values == {"a": 0.5}
    assert type(history.records[-1].values["a"]) is float


def test_x_by_another_name():
    with pytest.raises(TypeError, match=r"expected a tensor for x, got dict of \['y'\]; a VAE takes x, observed"):
        train(lambda x: {"y": x}, epochs=1)
    assert train(lambda x: {"x": x}, epochs=1).samples == 40


def test_arrays_that_are_turned_around_and_arrays_of_objects():
    def turned(x):
        return x.numpy()[::-1, ::-1]

    def straight(x):
        return turned(x).copy()

    bounds = []
    for data in (turned, straight):
        torch.manual_seed(0)
        bounds.append(train(data, epochs=1).records[-1].training)
    assert bounds[0] == bounds[1]
    with pytest.raises(TypeError, match=r"expected an array of numbers, got one of object; convert with array\.astype"):
        train(lambda x: x.numpy().astype(object), epochs=1)
