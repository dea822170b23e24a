"""A mixture of Gaussians by two ways to treat its discrete latent: summed out exactly, or guessed by a network.

y ~ Categorical(w) for each datapoint, and x ~ N(m_y, s_y^2) in the plane, five components.  Marked for enumeration, y
needs no guide: every objective sums over it.  Not marked, a network q(y|x) samples it, trained by reweighted
wake-sleep.  Both end at the log p(x) of the parameters that the data came from.

    python examples/gaussian_mixture.py             # 15 seconds
    log p(x), truth: -3.30 ± 0.04 nats
    log p(x), summed out: -3.31 ± 0.04 nats
    log p(x), amortized: -3.31 ± 0.05 nats
    right labels, amortized: at least 0.95

    python examples/gaussian_mixture.py --epochs 5  # 8 seconds
    log p(x), truth: -3.30 ± 0.04 nats
    log p(x), summed out: -3.9 ± 0.2 nats
    log p(x), amortized: -3.9 ± 0.2 nats

log p(x) is that of 2,000 new datapoints, summed over y.  A label is right if it is the one that most datapoints of the
same most probable component have.
"""

from __future__ import annotations

import argparse
import functools

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_aevb import AEVB, SGVB, ReweightedWakeSleep
from pyro_aevb.evidence import elbo
from pyro_aevb.training import fit

LOCS = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 3.0], [0.0, -3.0], [0.0, 0.0]])
SCALES = torch.tensor([0.5, 0.5, 0.8, 0.8, 0.3])
WEIGHTS = torch.tensor([0.3, 0.2, 0.2, 0.2, 0.1])
N, C = 2000, 5


def mixture(x: Tensor, weights: Tensor, locs: Tensor, scales: Tensor, enumerate: bool) -> None:
    """p(y) p(x|y), y marked for enumeration or not."""
    infer = {"enumerate": "parallel"} if enumerate else {}
    with pyro.plate("data", N, subsample_size=len(x)):
        y = pyro.sample("y", dist.Categorical(weights), infer=infer)
        pyro.sample("x", dist.Normal(locs[y], scales[y, None]).to_event(1), obs=x)


def model(x: Tensor, *, start: Tensor, enumerate: bool) -> None:
    """The mixture with parameters theta; the components begin at datapoints."""
    weights = pyro.param("weights", torch.full((C,), 1 / C), constraint=dist.constraints.simplex)
    locs = pyro.param("locs", start)
    scales = pyro.param("scales", torch.ones(C), constraint=dist.constraints.positive)
    mixture(x, weights, locs, scales, enumerate)


def no_guide(x: Tensor) -> None:
    """Nothing is left to be guessed."""


class Labels(nn.Module):
    """q(y|x), a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, C))

    def forward(self, x: Tensor) -> None:
        """Sample y ~ q(y|x)."""
        pyro.module("labels", self)
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("y", dist.Categorical(logits=self.network(x)))


def log_p(fn: functools.partial[None], x: Tensor) -> float:
    """Return the mean log p(x) of a mixture, summed over y, in nats."""
    return elbo(fn, no_guide, x).mean().value


def spread(x: Tensor) -> Tensor:
    """Return C datapoints, each far from those before it."""
    chosen = [x[0]]
    for _ in range(C - 1):
        chosen.append(x[torch.cdist(x, torch.stack(chosen)).amin(1).argmax()])
    return torch.stack(chosen)


def right_labels(labels: Labels, x: Tensor) -> float:
    """Return the share of datapoints whose label by q is that of most datapoints of the same true component."""
    log_joint = WEIGHTS.log() + dist.Normal(LOCS, SCALES[:, None]).to_event(1).log_prob(x[:, None])
    true, guessed = log_joint.argmax(-1), labels.network(x).argmax(-1)
    return sum((guessed[true == c]).bincount(minlength=C).max().item() for c in range(C)) / len(x)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train both ways, print how good they are, and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args(argv)

    pyro.set_rng_seed(0)
    y = dist.Categorical(WEIGHTS).sample((2 * N,))
    x = dist.Normal(LOCS[y], SCALES[y, None]).sample()
    train, test = x[:N], x[N:]
    adam = functools.partial(torch.optim.Adam, lr=0.05)
    truth = functools.partial(mixture, weights=WEIGHTS, locs=LOCS, scales=SCALES, enumerate=True)
    summed = functools.partial(model, start=spread(train), enumerate=True)
    sampled = functools.partial(model, start=spread(train), enumerate=False)
    labels = Labels()
    learners = {
        "summed out": lambda: AEVB(summed, no_guide, adam, SGVB()),
        "amortized": lambda: ReweightedWakeSleep(sampled, labels, adam, adam, num_particles=20),
    }
    results = {"log p(x), truth": log_p(truth, test)}
    for name, make in learners.items():
        with pyro.get_param_store().scope():  # parameters of their own for each
            fit(make(), train, epochs=args.epochs, batch_size=200, schedule=lambda done: 1 - done, label=name)
            results[f"log p(x), {name}"] = log_p(summed, test)
    results["right labels, amortized"] = right_labels(labels, test)
    for name, value in results.items():
        print(f"{name}: {value:.3f}")
    return results


if __name__ == "__main__":
    main()
