"""Estimates for each datapoint: values, standard errors, the direction of their bias.

Shapes: N datapoints.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class MeanEstimate(NamedTuple):
    """A mean over datapoints and its standard error, both in nats per datapoint."""

    value: float
    standard_error: float


class Estimate(NamedTuple):
    """An estimate for each datapoint: ``value`` and ``standard_error``, both of shape (N,), in nats.

    ``standard_error`` is that of the Monte Carlo noise in ``value``; it is NaN with a single particle.
    """

    value: Tensor
    standard_error: Tensor

    def __repr__(self) -> str:
        return f"Estimate({_in_words(self)})"

    def mean(self) -> MeanEstimate:
        """Return the mean over datapoints; its standard error covers the noise and the choice of datapoints alike."""
        n = len(self.value)
        error = self.value.std().item() / n**0.5 if n > 1 else self.standard_error[0].item()
        return MeanEstimate(self.value.mean().item(), error)


class BoundEstimate(NamedTuple):
    """The evidence lower bound of each of N datapoints, and what global latents cost once for all of the data.

    In a model with global latents w, ``value`` is E_q(w)[E_q(z|x_n, w)[log p(x_n, z|w) - log q(z|x_n, w)]]: a bound on
    E_q(w)[log p(x_n|w)], and not on log p(x_n).  :meth:`total` is a bound on log p(X, y), with y what the model
    observes outside of the data plate: a global latent that it is conditioned on, for example.

    Attributes:
        value: (N,), in nats.
        standard_error: of the Monte Carlo noise in ``value``, (N,); NaN with a single particle.
        global_kl: KL(q(w) || p(w)), the mean of log q - log p over the draws of w, (), in nats; 0 without any.
        total_error: the standard error of the Monte Carlo noise in sum_n value_n - global_kl + log_given, which all
            datapoints share through w, (); NaN with a single particle.
        log_given: E_q(w)[log p(y|w)], (), in nats; 0 without y.
    """

    value: Tensor
    standard_error: Tensor
    global_kl: Tensor
    total_error: Tensor
    log_given: Tensor = torch.zeros(())

    def __repr__(self) -> str:
        cost = f", global KL {self.global_kl.item():.4g}" if self.global_kl != 0 else ""
        return f"BoundEstimate({_in_words(self)}{cost})"

    def mean(self) -> MeanEstimate:
        """Return the mean of ``value``, as :meth:`Estimate.mean`; its error covers the draws of global latents too."""
        value, error = Estimate(self.value, self.standard_error).mean()
        shared = self.total_error.square() - self.standard_error.square().sum()  # beyond each datapoint's own
        if len(self.value) > 1 and shared > 1e-6 * self.total_error.square():
            error = (error**2 + shared.item() / len(self.value) ** 2) ** 0.5
        return MeanEstimate(value, error)

    def total(self, dataset_size: int | None = None) -> MeanEstimate:
        """Return the bound on log p(X, y) of all of the data: N times the mean of ``value``, and what counts once.

        That is ``log_given`` less ``global_kl``, in nats.

        Args:
            dataset_size: N; by default the number of datapoints that there are values of.  With another one, the error
                covers the choice of these datapoints too.

        >>> one = torch.tensor(1.0)
        >>> BoundEstimate(torch.tensor([-2.0, -3.0]), 0.1 * torch.ones(2), global_kl=one, total_error=0.5 * one).total()
        MeanEstimate(value=-6.0, standard_error=0.5)
        """
        n = len(self.value)
        size = n if dataset_size is None else dataset_size
        total = size * self.value.mean().item() - self.global_kl.item() + self.log_given.item()
        return MeanEstimate(total, self.total_error.item() if size == n else size * self.mean().standard_error)


Direction = Literal["lower", "lower (approximate)", "upper", "upper (approximate)", "numerical"]


@dataclass(frozen=True)
class Evidence:
    """Estimates of log p(x_n), in nats, larger is better, each field of shape (N,).

    Attributes:
        value: the estimates.
        standard_error: of the Monte Carlo noise in ``value``, by the delta method and wider with few draws or chains,
            by Student's t: ``value`` ± 1.96 of them is a 95% interval.  NaN with a single draw.  For quadrature, an
            estimate of the numerical error.
        direction: on which side of log p(x) ``value`` is in expectation: ``"lower"``, ``"upper"``;
            ``"upper (approximate)"``: above, if the chains that it began at had reached the posterior; ``"numerical"``:
            on neither, but for modes that weren't found; ``"lower (approximate)"``: some ``"lower"`` and the others
            ``"numerical"``, and :meth:`directions` says which.
        effective_sample_size: (sum w)^2 / sum w^2 of the weights behind ``value``; ``None`` for a method without
            weights.  Below 1.5 a single weight is most of the value, and the error can't be relied on.
        pareto_k: the shape of the weights' tail (Vehtari et al. 2024): above 0.7 neither value nor error can be relied
            on.  NaN with too few weights for a tail (AIS's too), -inf if the largest are equal, inf if one or a few
            outweigh the rest; ``None`` for a method without it.
        settled: whether quadrature's error is below its tolerance, or was, where :class:`~pyro_aevb.evidence.Auto` then
            annealed; ``None`` for other methods.
        upper: bidirectional Monte Carlo's upper side; else ``None``.
        data: the observations {site: value} that bidirectional Monte Carlo simulated; else ``None``.
        method: ``"quadrature"``, ``"importance"`` or ``"ais"`` for each datapoint, N of them, of
            :class:`~pyro_aevb.evidence.Auto`; else ``None``.
    """

    value: Tensor
    standard_error: Tensor
    direction: Direction
    effective_sample_size: Tensor | None = None
    pareto_k: Tensor | None = None
    settled: Tensor | None = None
    upper: Evidence | None = None
    data: Mapping[str, Tensor] | None = None
    method: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        tail = "" if self.pareto_k is None else _tail_in_words(self.pareto_k)
        upper = "" if self.upper is None else f", upper={self.upper!r}"
        return f"Evidence({_in_words(self)}, direction={self.direction!r}{tail}{upper})"

    def mean(self) -> MeanEstimate:
        """Return the mean over datapoints; its standard error covers the noise and the choice of datapoints alike.

        >>> Evidence(torch.tensor([-1.0, -4.0]), torch.tensor([0.1, 0.1]), "lower").mean().value
        -2.5
        """
        return Estimate(self.value, self.standard_error).mean()

    def directions(self) -> tuple[Direction, ...]:
        """Return the direction of each value by itself, N of them.

        >>> each = Evidence(torch.zeros(2), torch.ones(2), "lower (approximate)", method=("quadrature", "ais"))
        >>> each.directions()
        ('numerical', 'lower')
        """
        if self.direction != "lower (approximate)" or self.method is None:
            return (self.direction,) * len(self.value)
        return tuple("numerical" if each == "quadrature" else "lower" for each in self.method)

    def gap(self) -> Estimate:
        """Return ``upper`` minus this, (N,): in expectation no less than the errors of both sides together.

        Raises:
            ValueError: for evidence without an upper side.
        """
        if self.upper is None:
            raise ValueError("expected evidence with an upper side, got none; use method='bdmc'")
        error = torch.hypot(self.standard_error, self.upper.standard_error)
        return Estimate(self.upper.value - self.value, error)


def _in_words(estimate: Estimate | BoundEstimate | Evidence) -> str:
    """Return how many datapoints there are, and their mean with its error."""
    if estimate.value.dim() != 1 or not len(estimate.value):
        return f"shape {tuple(estimate.value.shape)}"
    value, error = estimate.mean()
    return f"N={len(estimate.value)}, mean {value:.4f} ± {error:.2g} nats"


def _tail_in_words(pareto_k: Tensor) -> str:
    """Return the largest of the shapes that are known, nothing if none is."""
    known = pareto_k[~pareto_k.isnan()]
    if not len(known):
        return ""
    return ", weights without a tail" if (known == -torch.inf).all() else f", pareto_k up to {known.max().item():.2f}"


def together(directions: Iterable[Direction]) -> Direction:
    """Return the direction of values that have these.

    Args:
        directions: at least one.

    Raises:
        ValueError: for different ones that have no name together.

    >>> from pyro_aevb.evidence.estimates import together
    >>> together(["lower", "lower"]), together(["lower", "numerical"])
    ('lower', 'lower (approximate)')
    """
    found = set(directions)
    if len(found) == 1:
        return found.pop()
    if found <= {"lower", "lower (approximate)", "numerical"}:
        return "lower (approximate)"
    raise ValueError(
        f"expected minibatches of one direction, got {sorted(found)}; give the Evidence of all minibatches the same"
    )


def concatenate(parts: Sequence[Evidence]) -> Evidence:
    """Return the evidence of the datapoints of all parts, in their order."""

    def joined(field: str) -> Tensor | None:
        values: list[Tensor | None] = [getattr(part, field) for part in parts]
        tensors = [value for value in values if value is not None]
        return torch.cat(tensors, -1) if tensors else None

    uppers = [part.upper for part in parts if part.upper is not None]
    data = [part.data for part in parts if part.data is not None]
    methods = [part.method for part in parts if part.method is not None]
    return Evidence(
        torch.cat([part.value for part in parts], -1),
        torch.cat([part.standard_error for part in parts], -1),
        together(part.direction for part in parts),
        joined("effective_sample_size"),
        joined("pareto_k"),
        joined("settled"),
        concatenate(uppers) if uppers else None,
        {name: torch.cat([each[name] for each in data]) for name in data[0]} if data else None,
        tuple(itertools.chain(*methods)) if methods else None,
    )
