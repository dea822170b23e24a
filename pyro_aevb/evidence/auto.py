"""log p(x) by quadrature or importance sampling where its numbers can be relied on, by annealing where they can't.

Quadrature has an estimate of its error.  The tail of a datapoint's weights says whether they can be relied on (Vehtari
et al. 2024; :func:`.importance_weights.pareto_k`).

Shapes: M datapoints, R of them annealed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from pyro_aevb.evidence.annealing import AIS
from pyro_aevb.evidence.cubature import InfiniteDensityError
from pyro_aevb.evidence.estimates import Evidence, together
from pyro_aevb.evidence.estimator import Estimator, Evaluate, Problem, check_sizes
from pyro_aevb.evidence.importance import Importance
from pyro_aevb.evidence.importance_weights import SAFE_PARETO_K, check_weights, relied_on, widened
from pyro_aevb.evidence.quadrature import Quadrature, takes
from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.guide_supports import TURNS_OF_WEIGHTS, narrower, wider
from pyro_aevb.samplers.ais import Tick
from pyro_aevb.samplers.latent_space import LatentSpace

SHARE_OF_QUADRATURE, SHARE_OF_IMPORTANCE = 0.5, 0.1  # of the progress bar


class First(NamedTuple):
    """The method before annealing: a function of a tick and a minibatch, and its share of the progress bar.

    The function returns the evidence (M,), and whether each of its numbers can be relied on, (M,).
    """

    evaluate: Callable[..., tuple[Evidence, Tensor]]
    share: float


@final
@dataclass(frozen=True)
class Auto(Estimator):
    """``method="auto"``: quadrature for up to 3 latent dimensions, importance for more, AIS where these are in doubt.

    Up to 3 dimensions a datapoint is annealed if quadrature's error doesn't come below its tolerance
    (``Evidence.settled``).  The guide then only shows where to begin, so that it may be bad, or none.

    With more, or with latents whose cells are masked, each datapoint has K draws from the guide (``num_particles``,
    1000 by default).  Unless the shape of its weights' tail is below ``largest_pareto_k`` by two standard errors
    (:func:`.importance_weights.relied_on`), or if all weights are zero, it is annealed.  So are all of them without a
    guide, and with one that has no density in a part of the prior's support, of which weights can't tell.

    ``Evidence.method`` says how each value came about.  ``direction`` is ``"numerical"`` if all are by quadrature,
    ``"lower"`` if none is, and else ``"lower (approximate)"``.  ``pareto_k`` is that of the weights behind a value, NaN
    for AIS, whose chains are too few for a tail, and ``None`` where quadrature takes part.

    The datapoints of a minibatch that are annealed are a minibatch of their own, if the model takes it.  Quadrature
    costs a few times what importance does for 1 or 2 dimensions and some 40 times for 3, in any case about what AIS
    does at the most.

    A model with random numbers of its own is refused (:func:`~pyro_aevb.samplers.latent_space.check_repeats`), though
    importance integrates them out if it draws them for each particle.  Evaluated at once, particles share those that
    aren't drawn in their shape: then each weight is unbiased, but neither the error nor ``pareto_k`` sees that noise.

    Args:
        importance: options of importance sampling.
        annealing: options of AIS.
        num_chains: AIS's chains for each datapoint.
        largest_pareto_k: the largest shape of the tail itself for which importance sampling is relied on.  Its
            estimate has an error of about 0.17 from 1000 draws, so that two of them are taken off: 0.35 is left.  With
            fewer draws less is left, below 0 for 100, and nearly every datapoint is annealed; with 5000 it is 0.47.
            Without, tails of 0.7 and more pass by chance, and their values are too low by many of their errors
            (``benchmarks/auto_evidence.py``).
        quadrature: options of quadrature; ``None`` for importance however few the dimensions are, as for values that
            are all lower bounds in expectation.

    Raises:
        ValueError: for ``num_chains`` below 1, or a ``largest_pareto_k`` that isn't between 0 and 1.
    """

    importance: Importance = field(default_factory=Importance)
    annealing: AIS = field(default_factory=AIS)
    num_chains: int = 16
    largest_pareto_k: float = SAFE_PARETO_K
    quadrature: Quadrature | None = field(default_factory=Quadrature)

    def __post_init__(self) -> None:
        check_sizes(num_chains=self.num_chains)
        if not 0 <= self.largest_pareto_k <= 1:
            raise ValueError(
                f"expected largest_pareto_k between 0 and 1, got {self.largest_pareto_k}; the default is "
                f"{SAFE_PARETO_K}, and to anneal every datapoint use method='ais'"
            )

    def prepare(self, problem: Problem) -> Evaluate:
        """Return the function that integrates or weighs, and anneals the datapoints where this is in doubt."""
        path = self.annealing.path(problem.model, problem)

        def anneal(tick: Tick, *args: Tensor) -> Evidence:
            found = self.annealing.forward(path, self.num_chains, args, lambda part: tick(part / 2))[0]
            no_tail = torch.full_like(found.value, torch.nan)
            return replace(found, pareto_k=no_tail, method=("ais",) * len(no_tail))

        first = self._first(problem, path.space)
        if first is None:
            return anneal

        def evaluate(tick: Tick, *args: Tensor) -> Evidence:
            found, relied = first.evaluate(lambda part: tick(first.share * part), *args)
            rows = (~relied).nonzero()[:, 0]
            left = 1 - first.share
            if not len(rows):
                tick(left)
                return found
            index = path.minibatch(rows, *args)
            annealed = anneal(lambda part: tick(left * part), *(arg[index] for arg in args))
            return _replaced(found, rows, annealed, rows if len(index) == len(relied) else torch.arange(len(rows)))

        return evaluate

    def _first(self, problem: Problem, space: LatentSpace) -> First | None:
        """Return what comes before annealing; ``None`` if nothing does."""
        if self.quadrature is not None and takes(space):
            return First(_integrated(self.quadrature, problem), SHARE_OF_QUADRATURE)
        if problem.guide is None:
            return None
        reading = read(problem.model, problem.guide, problem.args)
        found = narrower(reading, problem.model, problem.args)
        if found or wider(reading, problem.guide, problem.args, most=TURNS_OF_WEIGHTS):
            return None
        return First(self._weighed(problem), SHARE_OF_IMPORTANCE)

    def _weighed(self, problem: Problem) -> Callable[..., tuple[Evidence, Tensor]]:
        weigh = self.importance.weigher(problem)

        def weighed(tick: Tick, *args: Tensor) -> tuple[Evidence, Tensor]:
            sums = weigh(tick, *args)
            value, error, ess = sums.estimate()
            check_weights(value.masked_fill(value == -torch.inf, 0.0))  # all zero is for AIS, NaN is a fault
            tail = sums.pareto_k()
            error = widened(error, sums.num_particles)
            evidence = Evidence(value, error, "lower", ess, tail, method=("importance",) * len(value))
            return evidence, relied_on(tail, sums.num_particles, self.largest_pareto_k) & value.isfinite()

        return weighed


def _integrated(quadrature: Quadrature, problem: Problem) -> Callable[..., tuple[Evidence, Tensor]]:
    integral = quadrature.integrator(problem)

    def integrated(tick: Tick, *args: Tensor) -> tuple[Evidence, Tensor]:
        try:
            value, error, settled = integral(tick, *args)
        except InfiniteDensityError:
            value = error = torch.full((len(args[0]),), torch.nan, dtype=torch.double, device=args[0].device)
            settled = torch.zeros_like(value, dtype=torch.bool)
        without = torch.full_like(value, torch.nan)
        method = ("quadrature",) * len(value)
        return Evidence(value, error, "numerical", without, settled=settled, method=method), settled

    return integrated


def _replaced(first: Evidence, rows: Tensor, annealed: Evidence, places: Tensor) -> Evidence:
    """Return the evidence of a minibatch, at ``rows`` (R,) that of ``annealed`` at ``places`` (R,)."""

    def put(field: str) -> Tensor | None:
        whole: Tensor | None = getattr(first, field)
        return None if whole is None else whole.index_copy(0, rows, getattr(annealed, field)[places])

    fields: dict[str, Any] = {f: put(f) for f in ("value", "standard_error", "effective_sample_size", "pareto_k")}
    assert first.method is not None
    chosen = set(rows.tolist())
    method = tuple("ais" if m in chosen else name for m, name in enumerate(first.method))
    others = [first.direction] if len(rows) < len(method) else []
    return replace(first, direction=together([annealed.direction, *others]), method=method, **fields)
