"""Topics and other counts."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from zoo.entry import Entry, Network, Pair, data, normal, param, plate, positive, zeros

VOCABULARY, TOPICS, WORDS = 5, 3, 6
DOCUMENTS = torch.randint(VOCABULARY, (12, WORDS), generator=torch.Generator().manual_seed(0))
COUNTS = torch.nn.functional.one_hot(DOCUMENTS, VOCABULARY).sum(1).double()


def latent_dirichlet():
    """The topic of each word is summed out; the guide is amortized."""
    encoder = Network(VOCABULARY, TOPICS)

    def model(words, counts):
        topics = param("topics", torch.softmax(data(TOPICS, VOCABULARY), -1), constraint=dist.constraints.simplex)
        with pyro.plate("data", 12, subsample_size=len(words), dim=-2):
            theta = pyro.sample("theta", dist.Dirichlet(1 + zeros(TOPICS)))
            with pyro.plate("words", WORDS, dim=-1):
                topic = pyro.sample("topic", dist.Categorical(theta), infer={"enumerate": "parallel"})
                pyro.sample("word", dist.Categorical(topics[topic]), obs=words)

    def guide(words, counts):
        pyro.module("encoder", encoder)
        with pyro.plate("data", 12, subsample_size=len(words), dim=-2):
            pyro.sample("theta", dist.Dirichlet(encoder(counts).exp().unsqueeze(-2)))

    return Pair(model, guide, (DOCUMENTS, COUNTS))


def _counted(sites, words, counts):
    return sites["word"], torch.nn.functional.one_hot(sites["word"], VOCABULARY).sum(1).double()


def prod_lda():
    """Logistic-normal topics with batch normalization in the decoder."""
    decoder = nn.Linear(TOPICS, VOCABULARY, bias=False).double()
    norm = nn.BatchNorm1d(VOCABULARY, affine=False).double()
    encoder = Network(VOCABULARY, TOPICS, TOPICS)

    def model(counts):
        pyro.module("decoder", decoder)
        with plate(counts):
            z = pyro.sample("z", normal(TOPICS))
            out = decoder(z.softmax(-1))
            logits = norm(out.reshape(-1, VOCABULARY)).reshape(out.shape)
            pyro.sample("x", dist.Multinomial(WORDS, logits=logits), obs=counts)

    def guide(counts):
        pyro.module("encoder", encoder)
        with plate(counts):
            loc, log_scale = encoder(counts)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Pair(model, guide, (COUNTS,))


def gamma_poisson():
    def model(counts):
        with plate(counts):
            rate = pyro.sample("rate", dist.Gamma(positive("a", 2.0), positive("b", 1.0)))
            pyro.sample("x", dist.Poisson(rate[..., None].expand(*rate.shape, VOCABULARY)).to_event(1), obs=counts)

    def guide(counts):
        a, b = positive("qa", 2.0), positive("qb", 3.0)
        with plate(counts):
            pyro.sample("rate", dist.Gamma(a + counts.sum(-1), b + 0 * counts.sum(-1)))

    return Pair(model, guide, (COUNTS,))


def beta_binomial():
    """Batting averages, partly pooled."""
    at_bats = 10.0 * torch.ones(12).double()
    hits = torch.binomial(at_bats, 0.3 + zeros(12), generator=torch.Generator().manual_seed(0))

    def model(hits, at_bats):
        a, b = positive("a", 2.0), positive("b", 3.0)
        with plate(hits):
            p = pyro.sample("p", dist.Beta(a, b))
            pyro.sample("x", dist.Binomial(at_bats, p), obs=hits)

    def guide(hits, at_bats):
        c = positive("c", 2.0)
        with plate(hits):
            pyro.sample("p", dist.Beta(c + hits, c + at_bats - hits))

    return Pair(model, guide, (hits, at_bats))


ENTRIES = [
    Entry("lda, amortized", latent_dirichlet, True, plates=2, dream=_counted),
    Entry("prod-lda, batch normalization", prod_lda),
    Entry("gamma-poisson", gamma_poisson),
    Entry("beta-binomial, pooled", beta_binomial, dream=lambda sites, hits, at_bats: (sites["x"], at_bats)),
]
