"""One line changes p(z), p(x|z) or q(z|x); learner, bound and log p(x) stay as they are.

Trains the VAE of scikit-learn's digits eight times, each time with another part swapped, and prints log p(x) by
importance sampling with 1,000 draws and the bound, nats per test image.

    python examples/swap_priors_likelihoods.py                 # under a minute on 2 cores
    the paper's: -24.8 ± 0.5 nats
    prior='vamp': -23.9 ± 0.5 nats
    posterior='iaf': -24.9 ± 0.5 nats
    levels: discretized logistics: -92 ± 3 nats

    python examples/swap_priors_likelihoods.py --epochs 1      # 20 seconds
    the paper's: -33.5 ± 0.5 nats
    prior='vamp': -29.9 ± 0.5 nats
    levels: discretized logistics: -118 ± 3 nats

Binary pixels and grey levels have different densities: compare within a block.  A richer posterior brings the bound
closer to log p(x), a richer prior brings both up or, with as few images as these, overfits.  The last column is the
share of images on whose importance weights one can't rely.
"""

from __future__ import annotations

import argparse
import functools
import warnings

import pyro
import pyro.distributions as dist
import torch

from pyro_aevb import AEVB, SGVB, VAE, log_marginal_likelihood
from pyro_aevb.datasets import load_dataset
from pyro_aevb.distributions.stable import Logistic
from pyro_aevb.evidence import elbo
from pyro_aevb.training import fit
from pyro_aevb.vae.likelihoods import DiscretizedLogisticMixture
from pyro_aevb.vae.priors import Factorised, MixturePrior

BINARY = {
    "the paper's": {},
    "prior='vamp'": {"prior": "vamp"},
    "prior=MixturePrior(20)": {"prior": MixturePrior(20)},
    "posterior='iaf'": {"posterior": "iaf"},
    "Gamma latents": {"prior": "gamma", "posterior": "gamma"},
    "logistic latents": {"prior": Factorised(Logistic, loc=0.0, scale=0.5)},
}
LEVELS = {  # 0 to 16
    "a count of pixels' ink: Poisson": {"likelihood": lambda h: dist.Poisson(h.exp()).to_event(1)},
    "levels: discretized logistics": {"likelihood": DiscretizedLogisticMixture(num_components=3, num_levels=17)},
}


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train every variant; return log p(x) per test image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args(argv)
    adam, results = functools.partial(torch.optim.Adam, lr=2e-3), {}
    binary, grey = load_dataset("digits", pixels="static"), load_dataset("digits", pixels="grey")
    levels = [(16 * part).round() for part in (grey.train, grey.test)]
    for title, variants, (train, test) in (
        ("binary pixels", BINARY, (binary.train, binary.test)),
        ("grey levels", LEVELS, levels),
    ):
        print(f"{title:36}{'log p(x)':>18}{'bound':>9}{'k-hat > 0.7':>14}  (nats per image)")
        for name, parts in variants.items():
            pyro.set_rng_seed(0)
            vae = VAE(64, 5, hidden_dims=(100,), dataset_size=len(train), **parts)
            fit(AEVB(vae.model, vae.guide, adam, SGVB()), train, epochs=args.epochs, batch_size=100, label=name)
            bound = elbo(vae.model, vae.guide, test, num_particles=10, seed=0).mean()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the heavy tails that the last column counts
                evidence = log_marginal_likelihood(vae.model, vae.guide, test, num_particles=1000, seed=0)
            mean, heavy = evidence.mean(), (evidence.pareto_k > 0.7).float().mean()
            results[name] = mean.value
            print(f"  {name + ':':34}{mean.value:10.2f} +- {mean.standard_error:.2f}{bound.value:9.2f}{heavy:12.0%}")
    return results


if __name__ == "__main__":
    main()
