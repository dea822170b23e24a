"""Sequences: hidden Markov models, deep ones, state spaces; a datapoint is one of them, of T steps."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pyro_aevb import Arguments
from zoo.entry import WITH_GLOBALS, Entry, Network, Pair, data, normal, param, plate, positive, zeros

T = 4
LENGTHS = torch.tensor([4, 3, 2, 4, 4, 1, 2, 3, 4, 2, 3, 4])


def _chain(x, lengths, transition, emission):
    with plate(x):
        state = 0
        level = pyro.sample("level", normal())
        for t in pyro.markov(range(T)):
            mask = torch.ones(()).bool() if lengths is None else t < lengths
            with poutine.mask(mask=mask):
                state = pyro.sample(f"y_{t}", dist.Categorical(transition[state]), infer={"enumerate": "parallel"})
                pyro.sample(f"x_{t}", dist.Normal(emission[state] + level, 0.5), obs=x[:, t])


def _level(x, *_):
    k = param("k", 0.2)
    with plate(x):
        pyro.sample("level", dist.Normal(k * x.mean(1), 0.7))


def _tables():
    probs = param("probs", torch.tensor([[0.7, 0.3], [0.4, 0.6]]), constraint=dist.constraints.simplex)
    return probs, param("emission", torch.tensor([-1.0, 1.0]))


def hidden_markov():
    return Pair(lambda x: _chain(x, None, *_tables()), _level, (data(12, T),))


def hidden_markov_with_lengths():
    return Pair(lambda x, lengths: _chain(x, lengths, *_tables()), _level, (data(12, T), LENGTHS))


def hidden_markov_at_a_point():
    def model(x):
        with pyro.plate("rows", 2):
            probs = pyro.sample("probs", dist.Dirichlet(1 + zeros(2)))
        with pyro.plate("states", 2):
            emission = pyro.sample("emission", dist.Normal(zeros(), 1.0))
        with plate(x):
            state = 0
            for t in pyro.markov(range(T)):
                state = pyro.sample(f"y_{t}", dist.Categorical(probs[state]), infer={"enumerate": "parallel"})
                pyro.sample(f"x_{t}", dist.Normal(emission[state], 0.5), obs=x[:, t])

    return Pair(model, AutoDelta(poutine.block(model, expose=["probs", "emission"])), (data(12, T),))


def deep_markov():
    """Packed sequences, a recurrent guide, an annealing factor by name: Pyro's polyphonic music."""
    step, emit, rnn, combine = (
        Network(2, 2, 2),
        Network(2, 3),
        nn.RNN(3, 4, batch_first=True).double(),
        Network(6, 2, 2),
    )
    rows = torch.where(torch.arange(T)[:, None] < LENGTHS[:, None, None], data(12, T, 3), 0.0)
    packed = pack_padded_sequence(rows, LENGTHS, batch_first=True, enforce_sorted=False)

    def move(name, out, mask, factor):
        with poutine.mask(mask=mask), poutine.scale(scale=factor):
            return pyro.sample(name, dist.Normal(out[0], out[1].exp()).to_event(1))

    def model(packed, annealing_factor=1.0):
        pyro.module("step", step)
        pyro.module("emit", emit)
        x, lengths = pad_packed_sequence(packed, batch_first=True)
        with plate(lengths):
            z = zeros(2)
            for t in pyro.markov(range(x.shape[1])):
                z = move(f"z_{t}", step(z + zeros(len(lengths), 2)), t < lengths, annealing_factor)
                with poutine.mask(mask=t < lengths):
                    pyro.sample(f"x_{t}", dist.Normal(emit(z), 0.5).to_event(1), obs=x[:, t])

    def guide(packed, annealing_factor=1.0):
        pyro.module("rnn", rnn)
        pyro.module("combine", combine)
        hidden, lengths = pad_packed_sequence(rnn(packed)[0], batch_first=True)
        with plate(lengths):
            z = zeros(len(lengths), 2)
            for t in pyro.markov(range(hidden.shape[1])):
                z = move(f"z_{t}", combine(z, hidden[:, t]), t < lengths, annealing_factor)

    return Pair(model, guide, (packed,), {"annealing_factor": 0.5})


def _imagined(sites, packed, annealing_factor):
    _, lengths = pad_packed_sequence(packed, batch_first=True)
    rows = torch.stack([sites[f"x_{t}"] for t in range(int(lengths.max()))], 1)
    repacked = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
    return Arguments(repacked, annealing_factor=annealing_factor)


def state_space():
    def model(x):
        a, s = param("a", 0.8), positive("s", 0.5)
        with plate(x):
            z = zeros()
            for t in range(T):
                z = pyro.sample(f"z_{t}", dist.Normal(a * z, s))
                pyro.sample(f"x_{t}", dist.Normal(z, 0.5), obs=x[..., t])

    def guide(x):
        k = param("k", 0.5 * torch.ones(T))
        with plate(x):
            for t in range(T):
                pyro.sample(f"z_{t}", dist.Normal(k[t] * x[..., t], 0.5))

    return Pair(model, guide, (data(12, T),))


def gaussian_hmm():
    """The chain in one distribution, given a level of the datapoint's own."""

    def model(x):
        f = param("f", 0.7 * torch.eye(2))
        unit = dist.MultivariateNormal(zeros(2), torch.eye(2).double())
        noise = dist.MultivariateNormal(zeros(1), 0.25 * torch.eye(1).double())
        hmm = dist.GaussianHMM(unit, f, unit, torch.ones(2, 1).double(), noise, duration=T)
        with plate(x):
            level = pyro.sample("level", normal())
            moved = dist.TransformedDistribution(hmm, dist.transforms.AffineTransform(level[..., None, None], 1.0, 2))
            pyro.sample("x", moved, obs=x)

    def guide(x):
        k = param("k", 0.2)
        with plate(x):
            pyro.sample("level", dist.Normal(k * x.mean((1, 2)), 0.7))

    return Pair(model, guide, (data(12, T, 1),))


ENTRIES = [
    Entry("hmm", hidden_markov, True),
    Entry("hmm, lengths", hidden_markov_with_lengths, True),
    Entry("hmm, AutoDelta", hidden_markov_at_a_point, True, WITH_GLOBALS),
    Entry("deep markov model, packed", deep_markov, scaled=True, dream=_imagined),
    Entry("state space", state_space),
    Entry("gaussian hmm", gaussian_hmm),
]
