r"""A label that is known of some datapoints: M2 of Kingma et al. 2014, Eqs. (6)-(9).

.. math:: p(y) \, p(z) \, p(x | z, y), \qquad q(y | x) \, q(z | x, y)

*Semi-supervised learning with deep generative models*.  Where the label is known it is data, and the bound is one of
log p(x, y); elsewhere it is summed over, and the bound is one of log p(x).  A minibatch may have both.  q(y|x) is a
classifier, which labels teach besides: in training ``weight`` times log q(y|x) is added to the bound (the paper's
alpha), and in evaluation nothing is.

Shapes: M datapoints, C labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_aevb.vae.networks import apply_network

Y = "y"  # the site; of a label that is known of some, the sites are "y_observed" and "y_unobserved"
ENUMERATED: Any = {"enumerate": "parallel"}


class _NoSite(Messenger):
    """Give y a value in the place of a draw, without a site."""

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self._y = y

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == Y:
            msg["value"], msg["done"], msg["stop"] = self._y, True, True


def given_label(
    model: Callable[..., Tensor], guide: Callable[..., Tensor]
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Return a VAE's model and guide for datapoints whose labels are all known: z is then their one latent.

    Args:
        model: p(y) p(z) p(x|z, y), in which y will be observed.
        guide: q(y|x) q(z|x, y), of which q(z|x, y) will be left.
    """

    def its_model(x: Tensor, *args: Any, label: Tensor, **known: Any) -> Tensor:
        with poutine.condition(data={Y: label}):
            return model(x, *args, **known)

    def its_guide(x: Tensor, *args: Any, label: Tensor, **known: Any) -> Tensor:
        with _NoSite(label):
            return guide(x, *args, **known)

    return its_model, its_guide


class _LabelPrior(nn.Module):
    """p(y), uniform at the beginning."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(number))

    def forward(self) -> dist.TorchDistribution:
        return dist.Categorical(logits=self.logits)


class Labels(nn.Module):
    """p(y) and q(y|x).

    Args:
        number: C.
        classifier: from the encoder's inputs (M, inputs) to logits (M, C).
        weight: nats that log q(y|x) of a known label counts in the bound.
    """

    def __init__(self, number: int, classifier: nn.Module, weight: float) -> None:
        super().__init__()
        self.number, self.weight = number, weight
        self.prior, self.classifier = _LabelPrior(number), classifier

    def sample_prior(self, label: Tensor | None) -> Tensor:
        """Sample y in the model, or observe it where it is known, and return it, (..., M).

        Args:
            label: (M,) of int64, below 0 where it isn't known; ``None`` if none is.
        """
        p = apply_network("labels.prior", self.prior)
        if label is None:
            return torch.as_tensor(pyro.sample(Y, p, infer=ENUMERATED))
        known: Any = label >= 0
        with poutine.mask(mask=known):
            observed = pyro.sample(f"{Y}_observed", p, obs=label.clamp(min=0))
        with poutine.mask(mask=~known):
            drawn = pyro.sample(f"{Y}_unobserved", p, infer=ENUMERATED)
        return torch.where(known, observed, drawn)

    def sample_posterior(self, rows: Tensor, label: Tensor | None) -> Tensor:
        """Sample y in the guide where it isn't known, and return it, (..., M).

        Args:
            rows: of the classifier, (M, inputs).
            label: as for :meth:`sample_prior`.
        """
        q = self._q(rows)
        if label is None:
            return torch.as_tensor(pyro.sample(Y, q, infer=ENUMERATED))
        unknown: Any = label < 0
        with poutine.mask(mask=unknown):
            y = pyro.sample(f"{Y}_unobserved", q, infer=ENUMERATED)
        return torch.where(unknown, y, label)

    def teach(self, rows: Tensor, label: Tensor | None) -> None:
        """Add ``weight`` log q(y|x) of known labels to the bound, in the model, in training mode.

        Args:
            rows: of the classifier, (M, inputs).
            label: as for :meth:`sample_prior`.
        """
        if label is None or not self.weight:
            return
        log_q = self._q(rows).log_prob(label.clamp(min=0))  # in evaluation too: the classifier is one of theta's parts
        if self.training:
            pyro.factor("taught", self.weight * torch.where(label < 0, 0.0, log_q))

    def columns(self, y: Tensor) -> Tensor:
        """Return a column for each label, (..., M, C), 1 for y (..., M) and 0 for the others."""
        return (y[..., None] == torch.arange(self.number, device=y.device)).to(self.prior.logits.dtype)

    def _q(self, rows: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=apply_network("labels.classifier", self.classifier, rows))
