"""A finite loss may have a gradient that isn't: it is refused, or told before anything is kept of it."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import AEVB, fit
from pyro_aevb.model_guide import NonFiniteLossError
from pyro_aevb.training.checkpoint import Checkpoints

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)


class Rooted:
    """x ~ N(sqrt(a) or 1, 1), a = z + b: where a <= 0 the gradient is NaN, unless it is ``mended``."""

    def __init__(self, shift=0.0, mended=False, rest=None):
        self.shift, self.mended, self.rest = shift, mended, rest

    def model(self, x):
        bias = pyro.param("bias", torch.tensor(self.shift))
        with pyro.plate("data", 100, subsample_size=len(x)):
            a = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0)) + bias
            root = torch.where(a > 0, a, 1).sqrt() if self.mended else torch.where(a > 0, a.sqrt(), 1)
            if self.rest is not None:
                logits = pyro.param("logits", torch.tensor([0.0, self.rest]))
                pyro.sample("y", dist.Categorical(logits=logits).expand([len(x)]), obs=torch.zeros(len(x)))
            pyro.sample("x", dist.Normal(root, 1.0), obs=x)

    def guide(self, x):
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", 100, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(slope * x, 0.7))


def is_finite():
    return all(value.isfinite().all() for value in pyro.get_param_store().values())


@pytest.mark.parametrize("compile", [False, "graph"])
def test_a_gradient_of_the_first_steps_is_refused_and_the_remedy_works(compile):
    x = torch.rand(100)
    pair = Rooted()
    learner = AEVB(pair.model, pair.guide, ADAM, compile=compile)
    with pytest.raises(NonFiniteLossError, match=r"got NaN or infinity for \['bias', 'slope'\].*write torch.where"):
        learner.step(x)
    assert is_finite()
    pair = Rooted(mended=True)
    learner = AEVB(pair.model, pair.guide, ADAM, compile=compile)
    for _ in range(3):
        learner.step(x)
    assert is_finite()


def later(number):
    """Make a callback that lets the gradients be NaN from that evaluation on."""

    def callback(history):
        if len(history.records) == number:
            with torch.no_grad():
                pyro.param("bias").sub_(100.0)

    return callback


def test_no_checkpoint_holds_parameters_that_are_not_finite(tmp_path):
    x, pair = torch.rand(100), Rooted(shift=100.0)
    learner = AEVB(pair.model, pair.guide, ADAM, compile=False)
    with pytest.raises(NonFiniteLossError, match=r"expected finite parameters, got NaN or infinity in \['bias', 'sl"):
        fit(
            learner, x, samples=2100, batch_size=100, evaluate_every=2000, evaluate=dict, progress=False,
            callbacks=[later(1)], checkpoint_dir=tmp_path,
        )  # fmt: skip
    assert not is_finite()
    kept = Checkpoints(tmp_path).newest()["parts"]["learner"]["parameters"]
    assert all(value.isfinite().all() for value in kept.values())


def test_the_error_of_the_next_loss_says_that_the_parameters_were_not_finite_before():
    x, pair = torch.rand(100), Rooted(shift=100.0)
    learner = AEVB(pair.model, pair.guide, ADAM, compile=False)
    for _ in range(12):
        learner.step(x)
    with torch.no_grad():
        pyro.param("bias").sub_(100.0)
    learner.step(x)
    with pytest.raises(NonFiniteLossError, match=r"parameter 'bias'.*weren't before this step"):
        learner.step(x)


def test_a_parameter_that_is_meant_to_be_infinite_is_left_alone():
    x, pair = torch.rand(100), Rooted(mended=True, rest=-torch.inf)
    learner = AEVB(pair.model, pair.guide, ADAM, compile=False)
    for _ in range(101):
        learner.step(x)
    learner.read_losses()
