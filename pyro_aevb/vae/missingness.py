r"""Which entries of x are observed, as a part of the model: data that are missing not at random.

.. math:: p(x_o, m) = \int p(z) \, p(x_o | z) \, p(x_m | z) \, p(m | x_o, x_m) \, dz \, dx_m

The missing entries x_m are one more latent, which the guide draws from p(x_m|z), and the mask m one more observation.
The importance-weighted bound of that is the one of Ipsen, Mattei & Frellsen, *not-MIWAE: deep generative modelling with
missing not at random data*, ICLR 2021, Section 2.

AEVB with any objective trains it, and so do reweighted wake-sleep and MCEM; where cells are discrete, those that need
no reparameterisation.  Wake-sleep doesn't: a dream has a mask of its own, which is no part of the minibatch.

Shapes: M datapoints, D data dimensions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, final

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_aevb.vae.networks import apply_network

X, MASK = "x", "observed"  # sites
MISSING = f"{X}_missing"
NO_DREAM = (
    "a dream has holes of its own, and x of the minibatch has others; train with AEVB, ReweightedWakeSleep or MCEM, or "
    "leave missingness out"
)


class Missingness(nn.Module, ABC):
    """p(m|x): the logit of being observed for each entry, as a function of the whole x.

    Its parameters belong to theta and are called ``missingness.<name>`` among Pyro's sites.

    Attributes:
        notation: the logits in a line, for ``print(vae)``.
    """

    notation: ClassVar[str] = "h(x)"

    @abstractmethod
    def setup(self, x_dim: int) -> None:
        """Make the parameters.

        Args:
            x_dim: D.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of being observed, (..., D).

        Args:
            x: (..., D), without holes.
        """


@final
class SelfMasking(Missingness):
    """An entry is observed with probability sigmoid(w x + a), by its own value: (w, a) for each column.

    Which values go missing is learned; the sign of w is hard to tell from data alone, so that
    :class:`KnownSelfMasking` is better where it is known.
    """

    notation = "w x + a"

    def setup(self, x_dim: int) -> None:
        """Make w and a, 0 at first."""
        self.weight, self.bias = nn.Parameter(torch.zeros(x_dim)), nn.Parameter(torch.zeros(x_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return w x + a."""
        return self.weight * x + self.bias


@final
class KnownSelfMasking(Missingness):
    """An entry is observed with probability sigmoid(-W (x - b)), W > 0: large values go missing, or small ones.

    Args:
        missing: ``"above"`` if the probability of going missing rises with x, ``"below"`` if it falls.
        slope: W at first, in logits per unit of x; a steep one suits a mechanism that is nearly a threshold.

    Raises:
        ValueError: for another word, or a slope that isn't positive.

    >>> from pyro_aevb.vae.missingness import KnownSelfMasking
    >>> mechanism = KnownSelfMasking()
    >>> mechanism.setup(2)
    >>> mechanism(torch.tensor([[-1.0, 2.0]])).sign().tolist()
    [[1.0, -1.0]]
    """

    notation = "-W (x - b), W > 0"

    def __init__(self, missing: Literal["above", "below"] = "above", slope: float = 1.0) -> None:
        super().__init__()
        if missing not in ("above", "below"):
            raise ValueError(f"expected missing='above' or 'below', got {missing!r}; say which values go missing")
        if not 0 < slope < math.inf:
            raise ValueError(f"expected a positive slope, got {slope}; for small values pass missing='below'")
        self.missing, self.slope = missing, slope

    def setup(self, x_dim: int) -> None:
        """Make W, ``slope`` at first, and b, 0 at first."""
        unconstrained = self.slope + math.log(-math.expm1(-self.slope))  # whose softplus is the slope
        self.unconstrained = nn.Parameter(torch.full((x_dim,), unconstrained))
        self.threshold = nn.Parameter(torch.zeros(x_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return -W (x - b), or W (x - b) for small values."""
        slope = F.softplus(self.unconstrained)
        return (slope if self.missing == "below" else -slope) * (x - self.threshold)


@final
class LinearMissingness(Missingness):
    """An entry is observed with probability sigmoid((A x + a)_d), by all entries."""

    notation = "A x + a"

    def setup(self, x_dim: int) -> None:
        """Make A and a, 0 at first."""
        self.weight, self.bias = nn.Parameter(torch.zeros(x_dim, x_dim)), nn.Parameter(torch.zeros(x_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return A x + a."""
        return F.linear(x, self.weight, self.bias)


MISSINGNESS: dict[str, Callable[[], Missingness]] = {
    "self-masking": SelfMasking,
    "self-masking-known": KnownSelfMasking,
    "linear": LinearMissingness,
}


def observe_with_mask(
    likelihood: Any, of_observed: Any, missingness: Missingness, x: Tensor, observed: Tensor
) -> Tensor:
    """Sample a whole x, observe those entries of x that are there, and which these are; return x without holes.

    The sample is of p(x|z), all D of it; only what stands in a hole of x counts, and the rest integrates to 1.  So it
    is a latent of one size for all datapoints, with a density in each of its dimensions.

    Args:
        likelihood: p(x|z), (M,) of x's shape.
        of_observed: that of the observed entries alone.
        missingness: p(m|x), of the flat x.
        x: (M, D), or of several dimensions.
        observed: of x's shape and of bool.
    """
    drawn = pyro.sample(MISSING, likelihood)
    whole = torch.where(observed, pyro.sample(X, of_observed, obs=x), drawn)
    dims = likelihood.event_dim
    logits = apply_network("missingness", missingness, whole.flatten(-dims)).reshape(whole.shape)
    infer: Any = {"no_dream": NO_DREAM}
    pyro.sample(MASK, dist.Bernoulli(logits=logits).to_event(dims), obs=observed.to(logits.dtype), infer=infer)
    return whole


def draw_missing(likelihood: Any) -> Tensor:
    """Sample a whole x from p(x|z) in the guide, the proposal for :func:`observe_with_mask`.

    Bounds are differentiated through it; reweighted wake-sleep, whose two losses are no one bound, leaves it to theta.

    Args:
        likelihood: p(x|z), (M,) of D dimensions.
    """
    infer: Any = {"from_model": True}
    return torch.as_tensor(pyro.sample(MISSING, likelihood, infer=infer))


def check_missingness(missingness: Missingness, x: Tensor) -> None:
    """Raise ``ValueError`` unless it makes a logit for each entry.

    Args:
        missingness: p(m|x).
        x: two rows or more, (M, D).
    """
    logits = missingness(x)
    if logits.shape != x.shape:
        raise ValueError(
            f"expected missingness that makes logits of x's shape {tuple(x.shape)}, got {tuple(logits.shape)}; return "
            "one for each entry, the logit of its being observed"
        )
