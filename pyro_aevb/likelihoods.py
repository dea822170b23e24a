"""p(x|z) from a decoder's outputs (Kingma & Welling 2013, Appendix C).

A likelihood says how many outputs it takes for each data dimension, and makes a Pyro distribution of them.
D data dimensions; outputs have shape (..., D * outputs_per_dim), x has shape (..., D).
"""

from __future__ import annotations

from typing import Protocol

import pyro.distributions as dist
from torch import Tensor


class Likelihood(Protocol):
    """Turns decoder outputs into p(x|z), an event of D dimensions."""

    outputs_per_dim: int

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for outputs (..., D * outputs_per_dim)."""
        ...


class Bernoulli:
    """Binary x: p(x=1|z) = sigmoid(outputs), Eq. (11) of the paper's Appendix C.1."""

    outputs_per_dim = 1

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised Bernoulli with these logits."""
        return dist.Bernoulli(logits=outputs).to_event(1)


class Gaussian:
    """Real x: a diagonal Gaussian, mean and log sigma^2 both linear in the last hidden layer, Eq. (12), C.2."""

    outputs_per_dim = 2

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return N(loc, exp(log sigma^2)), outputs = [loc, log sigma^2]."""
        loc, log_variance = outputs.chunk(2, -1)
        return dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)


class SigmoidGaussian:
    """x in (0, 1): a diagonal Gaussian whose means pass a sigmoid: the paper's Frey Face decoder (Section 5)."""

    outputs_per_dim = 2

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return N(sigmoid(a), exp(log sigma^2)), outputs = [a, log sigma^2]."""
        logits, log_variance = outputs.chunk(2, -1)
        return dist.Normal(logits.sigmoid(), (0.5 * log_variance).exp()).to_event(1)


LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Bernoulli(),
    "gaussian": Gaussian(),
    "sigmoid-gaussian": SigmoidGaussian(),
}
