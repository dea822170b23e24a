"""Latent Dirichlet allocation with an amortized guide: topics recovered from a simulated corpus.

t_d ~ Dirichlet(0.2) for each document d, and its words are counted: x_d ~ Multinomial(n, t_d B), the topic of
each word summed out.  The topics B are parameters (ML), or global latents with Dirichlet priors and a Dirichlet for
each in the guide (full VB).  q(t|x) is a Dirichlet, too, whose concentrations come from a network, as in ProdLDA.

    python examples/topic_model.py              # 25 seconds
    log p(x), frequencies: -92.3 ± 0.2 nats
    bound, truth: -54.5 ± 0.3 nats
    bound, ml: -54.5 ± 0.3 nats
    bound, full vb: -54.9 ± 0.3 nats
    topics, ml: at least 0.99
    topics, full vb: at least 0.99

    python examples/topic_model.py --epochs 10  # 15 seconds
    bound, truth: -56.6 ± 0.5 nats
    bound, ml: -57.8 ± 1 nats
    bound, full vb: -58.6 ± 1 nats
    topics, ml: at least 0.98
    topics, full vb: at least 0.98

"topics" is the mean cosine similarity of the true topics and those found, matched one to one; "bound" is that on log
p(x) of 500 new documents of 80 words, also with the true topics and a guide of their own; "frequencies" is log p(x) if
all documents had one mixture.  Topics begin at documents that are far from one another.
"""

from __future__ import annotations

import argparse
import functools

import pyro
import pyro.distributions as dist
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from pyro_aevb import AEVB, SGVB
from pyro_aevb.evidence import elbo
from pyro_aevb.training import fit

N, WORDS, LENGTH, T = 2000, 60, 80, 6  # documents, words of the vocabulary and of a document, topics
OF_DOCUMENT, OF_TOPIC = 0.2, 0.1  # concentrations of the Dirichlet distributions


def documents(x: Tensor, topics: Tensor) -> None:
    """p(t) p(x|t, topics)."""
    with pyro.plate("data", N, subsample_size=len(x)):
        t = pyro.sample("t", dist.Dirichlet(torch.full((T,), OF_DOCUMENT)))
        words = (t[..., None, :] @ topics)[..., 0, :]  # topics may come as (K, 1, T, WORDS), a draw for each particle
        pyro.sample("x", dist.Multinomial(LENGTH, words), obs=x)


class Mixtures(nn.Module):
    """q(t|x), a Dirichlet with concentrations by a perceptron of the words' shares."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(WORDS, 100), nn.Softplus(), nn.Linear(100, T), nn.Softplus())

    def forward(self, x: Tensor) -> None:
        """Sample t ~ q(t|x)."""
        pyro.module("mixtures", self)
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("t", dist.Dirichlet(0.01 + LENGTH / 5 * self.network(x * (10 / LENGTH))))


def spread(x: Tensor) -> Tensor:
    """Return topics to begin with: the words' shares in T documents, each far from those before, made more even."""
    chosen = [x[0]]
    for _ in range(T - 1):
        chosen.append(x[torch.cdist(x, torch.stack(chosen)).amin(1).argmax()])
    shares = torch.stack(chosen) / LENGTH
    return 0.5 * shares + 0.5 / WORDS


def with_parameters(x: Tensor, start: Tensor) -> None:
    """The topics as parameters."""
    documents(x, pyro.param("topics", start, constraint=dist.constraints.simplex))


def with_globals(x: Tensor) -> None:
    """The topics as global latents."""
    documents(x, pyro.sample("topics", dist.Dirichlet(torch.full((T, WORDS), OF_TOPIC)).to_event(1)))


def full_guide(x: Tensor, start: Tensor, mixtures: Mixtures) -> None:
    """q(topics) q(t|x)."""
    concentration = pyro.param("concentration", 1000 * start, constraint=dist.constraints.positive)
    pyro.sample("topics", dist.Dirichlet(concentration).to_event(1))
    mixtures(x)


def found_topics(name: str) -> Tensor:
    """Return the topics of the parameters that were learned: their mean by q(topics) in full VB."""
    if name == "full vb":
        concentration = pyro.param("concentration").detach()
        return concentration / concentration.sum(-1, keepdim=True)
    return pyro.param("topics").detach()


def similarity(found: Tensor, true: Tensor) -> float:
    """Return the mean cosine similarity of two sets of topics, matched so that it is largest."""
    cosine = torch.nn.functional.cosine_similarity(true[:, None], found, dim=-1)
    return cosine[linear_sum_assignment(-cosine)].mean().item()


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train on a simulated corpus, print how well its topics are found, and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    pyro.set_rng_seed(args.seed)
    true = dist.Dirichlet(torch.full((WORDS,), OF_TOPIC)).sample((T,))
    mixtures = dist.Dirichlet(torch.full((T,), OF_DOCUMENT)).sample((N + 500,))
    x = dist.Multinomial(LENGTH, mixtures @ true).sample()
    train, test = x[:N], x[N:]
    frequencies = dist.Multinomial(LENGTH, train.sum(0))
    results = {"log p(x), frequencies": frequencies.log_prob(test).mean().item()}
    start = spread(train)
    models = {
        "truth": functools.partial(documents, topics=true),
        "ml": functools.partial(with_parameters, start=start),
        "full vb": with_globals,
    }
    adam = functools.partial(torch.optim.Adam, lr=0.02)
    for name, model in models.items():
        with pyro.get_param_store().scope():  # parameters of their own for each
            mixtures = Mixtures()
            guide = functools.partial(full_guide, start=start, mixtures=mixtures) if name == "full vb" else mixtures
            learner = AEVB(model, guide, adam, SGVB(kl="analytic"))
            fit(learner, train, epochs=args.epochs, batch_size=100, schedule=lambda done: 1 - done, label=name)
            if name != "truth":
                results[f"topics, {name}"] = similarity(found_topics(name), true)
            results[f"bound, {name}"] = elbo(model, guide, test, num_particles=20, seed=0).mean().value
    for name, value in results.items():
        print(f"{name}: {value:.3f}")
    return results


if __name__ == "__main__":
    main()
