"""A pair that writes into its arguments, or into what it draws, whose densities would be those of other numbers."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_aevb import AEVB, AIS, MCEM, SGVB, ReweightedWakeSleep, WakeSleep, elbo, fit, log_marginal_likelihood, report
from pyro_aevb.model_guide import read
from pyro_aevb.posterior import encode, impute, posterior, sample

X = torch.linspace(-2.0, 2.0, 60).reshape(20, 3)
ADAM = functools.partial(torch.optim.Adam, lr=0.01)
SENTENCE = (
    r"^expected a model and a guide that leave their arguments as they are, got .* \(\d+, 3\) written to in place"
)


def pair(in_model=None, in_guide=None):
    torch.manual_seed(0)
    decoder, encoder = nn.Linear(1, 3), nn.Linear(3, 2)

    def model(x):
        pyro.module("decoder", decoder)
        if in_model is not None:
            in_model(x)
        with pyro.plate("data", 20, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        if in_guide is not None:
            in_guide(x)
        h = encoder(x)
        with pyro.plate("data", 20, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(h[..., :1], h[..., 1:].exp()).to_event(1))

    return model, guide


WRITES = {
    "clamp_": lambda x: x.clamp_(-0.5, 0.5),
    "inplace=True": nn.ReLU(inplace=True),
    "an item": lambda x: x.__setitem__(x < 0, 0.0),
    "-=": lambda x: x.__isub__(x.mean(0)),
    "a view": lambda x: x[:, 0].zero_(),
}
LEARNERS = {
    "AEVB": lambda model, guide: AEVB(model, guide, ADAM),
    "WakeSleep": lambda model, guide: WakeSleep(model, guide, ADAM, ADAM),
    "ReweightedWakeSleep": lambda model, guide: ReweightedWakeSleep(model, guide, ADAM, ADAM),
    "MCEM": lambda model, guide: MCEM(model, ADAM, guide, ADAM),
}
ENTRIES = {
    "read": lambda model, guide, x: read(model, guide, (x,)),
    "elbo": elbo,
    "importance": log_marginal_likelihood,
    "ais": functools.partial(log_marginal_likelihood, method=AIS(5)),
    "encode": encode,
    "posterior": posterior,
    "sample": lambda model, guide, x: sample(model, guide, 5, x, source="aggregate"),
    "impute": lambda model, guide, x: impute(model, guide, x, x > -1),
    "report": report,
    "fit": lambda model, guide, x: fit(AEVB(model, guide, ADAM), x, epochs=1, batch_size=10, progress=False),
    **{name: lambda model, guide, x, new=new: new(model, guide).step(x, index=torch.arange(20))
       for name, new in LEARNERS.items()},
}  # fmt: skip


@pytest.mark.parametrize("half", ["model", "guide"])
@pytest.mark.parametrize("write", WRITES)
def test_however_it_is_written_it_is_refused(write, half):
    with pytest.raises(ValueError, match=SENTENCE + r".*x = x\.clone\(\)"):
        elbo(*pair(**{f"in_{half}": WRITES[write]}), X.clone())


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_point_refuses_it(entry):
    with pytest.raises(ValueError, match=SENTENCE):
        ENTRIES[entry](*pair(in_model=WRITES["clamp_"], in_guide=WRITES["clamp_"]), X.clone())


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("learner", ["AEVB", "WakeSleep", "ReweightedWakeSleep"])
def test_what_is_written_in_training_alone_is_refused_before_a_step_is_made(learner, compile):
    made = LEARNERS[learner](*pair(in_guide=nn.Dropout(0.5, inplace=True)))
    with made.configured(compile=compile), pytest.raises(ValueError, match=SENTENCE):
        made.step(X.clone(), index=torch.arange(20))
    torch.manual_seed(0)
    _, encoder = nn.Linear(1, 3), nn.Linear(3, 2)
    assert torch.equal(pyro.param("encoder$$$weight"), encoder.weight)


def test_the_remedy():
    copies = pair(in_guide=lambda x: x.clone().clamp_(-0.5, 0.5))
    x = X.clone()
    found = elbo(*copies, x, seed=0)
    assert torch.equal(found.value, elbo(*pair(), x, seed=0).value)
    assert torch.equal(x, X)
    AEVB(*copies, ADAM, SGVB()).step(x)


DRAWN = (
    r"^expected a model and a guide that leave what they draw as it is, got the value of site '{}' written to.*z\.clone"
)


def of_latents(write):
    """z ~ N(0, 1), x ~ N(w z, 1), with what a decoder does to z first; x is (N, 1)."""

    def model(x):
        w = pyro.param("w", torch.tensor(0.5))
        with pyro.plate("data", 20, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(write(z) * w, 1.0), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.1))
        with pyro.plate("data", 20, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(slope * x, 1.0))

    return model, guide


LATENTS = {
    "inplace=True": nn.ReLU(inplace=True),
    "mul_": lambda z: z.mul_(2.0),
    "an item": lambda z: z.__setitem__(0, 0.0) or z,
}
OF_LATENTS = {name: run for name, run in ENTRIES.items() if name not in ("sample", "impute")}


@pytest.mark.parametrize("write", LATENTS)
@pytest.mark.parametrize("entry", OF_LATENTS)
def test_a_latent_stays_what_was_drawn(entry, write):
    with pytest.raises(ValueError, match=DRAWN.format("z")):
        OF_LATENTS[entry](*of_latents(LATENTS[write]), X[:, 0].clone())


def test_a_latent_of_the_guide_and_data_that_are_computed_stay_too():
    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.1))
        with pyro.plate("data", 20):
            pyro.sample("z", dist.Normal(slope * x, 1.0)).clamp_(min=0.0)

    model, _ = of_latents(lambda z: z)
    with pytest.raises(ValueError, match=DRAWN.format("z")):
        elbo(model, guide, X[:, 0])

    def of_logarithms(x):
        with pyro.plate("data", 20):
            z = pyro.sample("z", dist.Normal(torch.zeros(20), 1.0))
            y = pyro.sample("y", dist.Normal(z, 1.0), obs=x.exp())
            y.log_()

    with pytest.raises(ValueError, match=DRAWN.format("y")):
        elbo(of_logarithms, of_latents(None)[1], X[:, 0])


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("learner", ["AEVB", "WakeSleep", "ReweightedWakeSleep"])  # of MCEM's, a view, torch says it
def test_a_latent_that_is_written_to_in_training_alone_is_refused(learner, compile):
    made = LEARNERS[learner](*of_latents(nn.Dropout(0.5, inplace=True)))
    with made.configured(compile=compile), pytest.raises(ValueError, match=DRAWN.format("z")):
        made.step(X[:, 0].clone(), index=torch.arange(20))
    assert pyro.param("w") == 0.5


def test_the_remedy_for_a_latent():
    found = elbo(*of_latents(lambda z: z.clone().mul_(2.0)), X[:, 0], seed=0)
    assert torch.equal(found.value, elbo(*of_latents(lambda z: z * 2.0), X[:, 0], seed=0).value)
