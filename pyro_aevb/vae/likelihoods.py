"""Likelihoods p(x|z) of a VAE, made from the decoder's outputs (Kingma & Welling 2013, Appendix C, and others).

A likelihood has a number of outputs for each data dimension, and returns a Pyro distribution of them.  A function from
outputs to a distribution of D dimensions is one, too: ``lambda h: dist.Poisson(h.exp()).to_event(1)``.

Shapes: D data dimensions; outputs (..., D * outputs_per_dim): the first outputs of all dimensions, then the second
ones, and so on; x (..., D).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, final

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_aevb.distributions.discretized_logistic import DiscretizedLogistic

SMALLEST = 1e-4  # added to a softplus that must not vanish


class Likelihood(ABC):
    """p(x|z) of a VAE, as a function of the decoder's outputs.

    A likelihood with parameters to learn is a module besides, ``class Mine(nn.Module, Likelihood)``, with ``forward``
    in place of ``__call__``; its parameters belong to theta.

    Attributes:
        outputs_per_dim: the number of outputs for each data dimension; or a tuple of D numbers, one for each, if the
            dimensions differ.
        values: ``"levels"`` for x in {0, ..., ``num_levels`` - 1}, ``"counts"`` for any whole number, ``"any"`` else;
            encoders made here see the first between -1 and 1, and the logarithm of the second.
        log_mean: which of a dimension's outputs is the logarithm of its mean, from 0, for ``offset``; ``None`` for
            none.
    """

    outputs_per_dim: int | tuple[int, ...] = 1
    values: Literal["any", "levels", "counts"] = "any"
    log_mean: int | None = None

    @abstractmethod
    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) with batch shape (...) and event shape (D,).

        Args:
            outputs: (..., D * outputs_per_dim).
        """


def count_outputs(likelihood: Callable[[Tensor], dist.TorchDistribution], x_dim: int) -> int:
    """Return how many outputs of the decoder the likelihood takes for D data dimensions.

    Args:
        likelihood: a :class:`Likelihood`, or a function, which takes one output for each dimension.
        x_dim: D.

    Raises:
        ValueError: for a likelihood of another number of dimensions.

    >>> from pyro_aevb.vae.likelihoods import Gaussian, count_outputs
    >>> count_outputs(Gaussian(), 784)
    1568
    """
    outputs = getattr(likelihood, "outputs_per_dim", 1)
    if isinstance(outputs, int):
        return outputs * x_dim
    if len(outputs) != x_dim:
        raise ValueError(f"expected a likelihood of {x_dim} dimensions, as x_dim says, got {len(outputs)}; change one")
    return sum(outputs)


def multiplied(likelihood: Any, outputs: Tensor, offset: Tensor) -> Tensor:
    """Return the outputs for means that are larger by a factor.

    Args:
        likelihood: one with a ``log_mean``.
        outputs: (..., D * outputs_per_dim).
        offset: the factor, above 0, (..., D) or (..., 1).

    >>> from pyro_aevb.vae.likelihoods import NegativeBinomial, multiplied
    >>> outputs = torch.zeros(1, 4)  # means of 1 in 2 dimensions
    >>> NegativeBinomial()(multiplied(NegativeBinomial(), outputs, torch.tensor([[10.0]]))).mean.round().tolist()
    [[10.0, 10.0]]
    """
    parts = list(outputs.chunk(likelihood.outputs_per_dim, -1))
    parts[likelihood.log_mean] = parts[likelihood.log_mean] + offset.log()
    return torch.cat(parts, -1)


@final
class CustomLikelihood(Likelihood):
    """A function from outputs to a distribution, with more than one output for each dimension.

    Args:
        fn: from outputs (..., D * outputs_per_dim) to a distribution with event shape (D,).
        outputs_per_dim: outputs for each data dimension.

    >>> from pyro_aevb.vae.likelihoods import CustomLikelihood
    >>> likelihood = CustomLikelihood(lambda h: dist.Cauchy(*h.chunk(2, -1)).to_event(1), outputs_per_dim=2)
    >>> likelihood(torch.ones(3, 8)).event_shape
    torch.Size([4])
    """

    def __init__(self, fn: Callable[[Tensor], dist.TorchDistribution], outputs_per_dim: int = 1) -> None:
        self.fn, self.outputs_per_dim = fn, outputs_per_dim

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return p(x|z)."""
        return self.fn(outputs)


# -- Binary and in (0, 1) ---------------------------------------------------------------------------------------------


@final
class Bernoulli(Likelihood):
    """Binary x: p(x=1|z) = sigmoid(outputs), Eq. (11) of the paper's Appendix C.1."""

    outputs_per_dim = 1

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised Bernoulli with these logits."""
        return dist.Bernoulli(logits=outputs).to_event(1)


@final
class ContinuousBernoulli(Likelihood):
    """x in [0, 1], grey pixels: density proportional to p^x (1-p)^(1-x) (Loaiza-Ganem & Cunningham 2019)."""

    outputs_per_dim = 1

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised continuous Bernoulli with these logits."""
        return dist.ContinuousBernoulli(logits=outputs).to_event(1)


@final
class Beta(Likelihood):
    """x in (0, 1): Beta(softplus(a), softplus(b)), outputs = [a, b]."""

    outputs_per_dim = 2

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised Beta distribution."""
        concentration1, concentration0 = (F.softplus(outputs) + SMALLEST).chunk(2, -1)
        return dist.Beta(concentration1, concentration0).to_event(1)


# -- Real -------------------------------------------------------------------------------------------------------------


@final
class Gaussian(Likelihood):
    """Real x: a diagonal Gaussian, mean and log sigma^2 both linear in the last hidden layer, Eq. (12), C.2."""

    outputs_per_dim = 2

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return N(loc, exp(log sigma^2)), outputs = [loc, log sigma^2]."""
        loc, log_variance = outputs.chunk(2, -1)
        return dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)


@final
class SigmoidGaussian(Likelihood):
    """x in (0, 1): a diagonal Gaussian whose means pass a sigmoid: the paper's Frey Face decoder (Section 5)."""

    outputs_per_dim = 2

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return N(sigmoid(a), exp(log sigma^2)), outputs = [a, log sigma^2]."""
        logits, log_variance = outputs.chunk(2, -1)
        return dist.Normal(logits.sigmoid(), (0.5 * log_variance).exp()).to_event(1)


@final
class FixedGaussian(Likelihood):
    """Real x: N(outputs, scale^2) with a fixed scale.

    Args:
        scale: the standard deviation.

    Raises:
        ValueError: for a scale that isn't positive.
    """

    outputs_per_dim = 1

    def __init__(self, scale: float = 1.0) -> None:
        if not scale > 0:
            raise ValueError(f"expected a positive scale, got {scale}")
        self.scale = scale

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return N(outputs, scale^2)."""
        return dist.Normal(outputs, torch.full_like(outputs, self.scale)).to_event(1)


@final
class SharedGaussian(nn.Module, Likelihood):
    """Real x: N(outputs, scale^2) with one scale for all dimensions, learned with theta.

    Args:
        scale: the initial standard deviation.

    Raises:
        ValueError: for a scale that isn't positive.
    """

    outputs_per_dim = 1

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"expected a positive scale, got {scale}")
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return N(outputs, scale^2)."""
        return dist.Normal(outputs, self.log_scale.exp().expand_as(outputs)).to_event(1)


@final
class Laplace(Likelihood):
    """Real x, heavier tails than a Gaussian's: Laplace(loc, exp(log scale)), outputs = [loc, log scale]."""

    outputs_per_dim = 2

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised Laplace distribution."""
        loc, log_scale = outputs.chunk(2, -1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


@final
class StudentT(Likelihood):
    """Real x with outliers: Student's t, outputs = [loc, log scale].

    Args:
        df: degrees of freedom.

    Raises:
        ValueError: for a df that isn't positive.
    """

    outputs_per_dim = 2

    def __init__(self, df: float = 4.0) -> None:
        if not df > 0:
            raise ValueError(f"expected df above 0, got {df}")
        self.df = df

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised Student's t distribution."""
        loc, log_scale = outputs.chunk(2, -1)
        return dist.StudentT(torch.full_like(loc, self.df), loc, log_scale.exp()).to_event(1)


# -- Levels and counts ------------------------------------------------------------------------------------------------


@final
class Categorical(Likelihood):
    """x in {0, ..., L-1} without an order: a softmax over the levels.

    Args:
        num_levels: L.

    Raises:
        ValueError: for a num_levels below 2.
    """

    values = "levels"

    def __init__(self, num_levels: int = 256) -> None:
        if num_levels < 2:
            raise ValueError(f"expected num_levels of 2 or more, got {num_levels}")
        self.num_levels = self.outputs_per_dim = num_levels

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised categorical."""
        return _Levels(logits=outputs.unflatten(-1, (self.num_levels, -1)).mT).to_event(1)


class _Levels(dist.Categorical):  # type: ignore[name-defined,misc]  # made by Pyro at run time
    """A categorical distribution whose categories are numbers, so that it has a mean."""

    @property
    def mean(self) -> Tensor:
        return (self.probs * torch.arange(self.probs.shape[-1]).to(self.probs)).sum(-1)


@final
class DiscretizedLogisticMixture(Likelihood):
    """x in {0, ..., L-1} in order, as pixels are: a mixture of discretized logistic distributions.

    Outputs are K logits, K centres in units of half the range around its middle, and K logarithms of scales likewise,
    for each dimension (Salimans et al. 2017).

    Args:
        num_components: K.
        num_levels: L.

    Raises:
        ValueError: for a num_components below 1 or a num_levels below 2.
    """

    values = "levels"

    def __init__(self, num_components: int = 5, num_levels: int = 256) -> None:
        if num_components < 1 or num_levels < 2:
            raise ValueError(
                "expected num_components of 1 or more and num_levels of 2 or more, "
                f"got {num_components} and {num_levels}"
            )
        self.num_components, self.num_levels, self.outputs_per_dim = num_components, num_levels, 3 * num_components

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised mixture."""
        logits, centre, log_scale = outputs.unflatten(-1, (self.outputs_per_dim, -1)).mT.chunk(3, -1)
        half = (self.num_levels - 1) / 2
        components = DiscretizedLogistic(half * (1 + centre), half * log_scale.exp(), self.num_levels)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), components).to_event(1)


@final
class Poisson(Likelihood):
    """Counts with rate exp(outputs)."""

    outputs_per_dim = 1
    values = "counts"
    log_mean = 0

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised Poisson distribution."""
        return dist.Poisson(outputs.exp()).to_event(1)


@final
class NegativeBinomial(Likelihood):
    """Counts more spread than a Poisson's: mean exp(a), variance mean + mean^2 / exp(b), outputs = [a, b]."""

    outputs_per_dim = 2
    values = "counts"
    log_mean = 0

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised negative binomial."""
        log_mean, log_count = outputs.chunk(2, -1)
        return dist.NegativeBinomial(log_count.exp(), logits=log_mean - log_count).to_event(1)


@final
class ZeroInflatedPoisson(Likelihood):
    """Counts that are 0 with probability sigmoid(g), else Poisson with rate exp(a): outputs = [g, a]."""

    outputs_per_dim = 2
    values = "counts"
    log_mean = 1

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised zero-inflated Poisson distribution."""
        gate_logits, log_rate = outputs.chunk(2, -1)
        return dist.ZeroInflatedPoisson(log_rate.exp(), gate_logits=gate_logits).to_event(1)


@final
class ZeroInflatedNegativeBinomial(Likelihood):
    """Counts that are 0 with probability sigmoid(g), else as :class:`NegativeBinomial`: outputs = [g, a, b]."""

    outputs_per_dim = 3
    values = "counts"
    log_mean = 1

    def __call__(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised zero-inflated negative binomial."""
        gate_logits, log_mean, log_count = outputs.chunk(3, -1)
        return dist.ZeroInflatedNegativeBinomial(
            log_count.exp(), logits=log_mean - log_count, gate_logits=gate_logits
        ).to_event(1)


LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous-bernoulli": ContinuousBernoulli,
    "beta": Beta,
    "gaussian": Gaussian,
    "sigmoid-gaussian": SigmoidGaussian,
    "fixed-gaussian": FixedGaussian,
    "shared-gaussian": SharedGaussian,
    "laplace": Laplace,
    "student-t": StudentT,
    "categorical": Categorical,
    "discretized-logistic": DiscretizedLogisticMixture,
    "poisson": Poisson,
    "negative-binomial": NegativeBinomial,
    "zero-inflated-poisson": ZeroInflatedPoisson,
    "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomial,
}
