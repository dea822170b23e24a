"""A report on a trained pair: the bound and its parts, log p(x), the tails of the weights, what the latents carry.

Shapes: N datapoints, K draws.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.diagnostics.latent_dimensions import LatentDimensions, latent_dimensions
from pyro_aevb.diagnostics.sbc import entries
from pyro_aevb.evaluation_data import Minibatches
from pyro_aevb.evidence.estimates import Estimate, Evidence, MeanEstimate
from pyro_aevb.evidence.estimator import Estimator, check_sizes, over_minibatches
from pyro_aevb.evidence.evidence_gap import EvidenceGap, evidence_gap
from pyro_aevb.evidence.marginal_likelihood import log_marginal_likelihood
from pyro_aevb.model_guide.contract import check_callables, given, read
from pyro_aevb.model_guide.guide_values import enumerated
from pyro_aevb.model_guide.local_densities import require_local_densities
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.objectives.objective import Objective, Terms
from pyro_aevb.objectives.score_function import ScoreFunction
from pyro_aevb.objectives.sgvb import SGVB
from pyro_aevb.one_thread import one_thread
from pyro_aevb.random_state import seeded
from pyro_aevb.short_repr import short_repr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVE = 0.01  # the activity from which on a latent dimension counts as active, Burda et al. 2016
COLLAPSED = 0.01  # nats; a latent dimension that carries less has collapsed
EDGES = (0.5, 0.7, 1.0)  # of pareto_k: good, usable, unreliable, without a mean (Vehtari et al. 2024)


class Dimension(NamedTuple):
    """One entry of a latent: its ``name``, ``kl`` in nats (NaN if the latent doesn't factorise) and ``activity``."""

    name: str
    kl: float
    activity: float

    @property
    def active(self) -> bool:
        """True if E_q[z_j|x] moves with x: its variance over the data is above 0.01."""
        return self.activity > ACTIVE

    @property
    def collapsed(self) -> bool:
        """True if less than 0.01 nats are in it."""
        return self.kl < COLLAPSED


@dataclass(frozen=True)
class Report:
    """How good a pair is on N datapoints, in nats.

    Attributes:
        bound: E_q[log p(x, z) - log q(z|x)], (N,), the KL in closed form if it has one and the guide is
            reparameterised; its error is that of a mean of the log weights of the same draws.
        reconstruction: {observed site: E_q[log p(x|z)], (N,)}.
        kl: {latent: KL(q(z|x) || p(z)), (N,)}; the bound is the sum of the first less that of the second.
        global_kl: {global latent: KL(q(w) || p(w))}, once for all of the data, and no part of ``bound``.
        dimensions: the entries of the latents, one by one; a KL without a closed form is a mean over draws, and noisy.
        evidence: log p(x), with its direction and pareto_k.
        method: of log p(x).
        gap: the parts of log p(x) - ELBO for the first datapoints, if it was asked for.
    """

    bound: Estimate
    reconstruction: Mapping[str, Tensor]
    kl: Mapping[str, Tensor]
    global_kl: Mapping[str, float]
    dimensions: tuple[Dimension, ...]
    evidence: Evidence
    method: str
    gap: EvidenceGap | None

    def __repr__(self) -> str:
        return short_repr(self)

    def pareto_k_counts(self) -> dict[str, int]:
        """Return how many datapoints have a pareto_k below 0.5, up to 0.7, up to 1, and above, and how many have none.

        >>> from pyro_aevb.diagnostics.report import counts
        >>> counts(torch.tensor([0.1, 0.6, 0.6, 2.0, float("nan")]))
        {'< 0.5': 1, '0.5 to 0.7': 2, '0.7 to 1': 0, '> 1': 1, 'none': 1}
        """
        return counts(self.evidence.pareto_k, len(self.evidence.value))

    def collapsed(self) -> tuple[str, ...]:
        """Return the names of the latent dimensions that carry less than 0.01 nats."""
        return tuple(each.name for each in self.dimensions if each.collapsed)

    def table(self) -> dict[str, list[Any]]:
        """Return a line a datapoint, as columns: the bound, its parts, log p(x), its error and pareto_k.

        ``pandas.DataFrame(found.table())`` makes a data frame of it.
        """
        columns: dict[str, list[Any]] = {"bound": self.bound.value.tolist()}
        columns |= {f"reconstruction {name}": each.tolist() for name, each in self.reconstruction.items()}
        columns |= {f"KL {name}": each.tolist() for name, each in self.kl.items()}
        columns["log p(x)"] = self.evidence.value.tolist()
        columns["standard_error"] = self.evidence.standard_error.tolist()
        if self.evidence.pareto_k is not None:
            columns["pareto_k"] = self.evidence.pareto_k.tolist()
        return columns

    def summary(self) -> dict[str, Any]:
        """Return the means and counts as plain numbers, lists and dicts."""
        evidence = self.evidence.mean()._asdict() | {"direction": self.evidence.direction, "method": self.method}
        parts = {"reconstruction": self.reconstruction, "kl": self.kl}
        found: dict[str, Any] = {"datapoints": len(self.bound.value), "bound": self.bound.mean()._asdict()}
        found |= {part: {name: mean(each)._asdict() for name, each in of.items()} for part, of in parts.items()}
        found |= {"global_kl": dict(self.global_kl), "log_marginal_likelihood": evidence, "gap": None}
        if self.gap is not None:
            found["gap"] = {name: each.mean()._asdict() for name, each in self.gap._asdict().items()}
            found["gap"]["datapoints"] = len(self.gap.total.value)
        found["pareto_k"] = self.pareto_k_counts()
        found["dimensions"] = [each._asdict() | {"active": each.active} for each in self.dimensions]
        return found | {"collapsed": list(self.collapsed())}

    def plot(self) -> Figure:
        """Return a page: the parts of the bound, log p(x) against the bound, pareto_k, and the latent dimensions."""
        from pyro_aevb.diagnostics.figures import report_page  # here, since matplotlib takes a second to import

        return report_page(self)

    def __str__(self) -> str:
        rows: list[tuple[str, MeanEstimate, str]] = [("bound", self.bound.mean(), "lower")]
        rows += [(f"  reconstruction {name}", mean(each), "") for name, each in self.reconstruction.items()]
        rows += [(f"  less KL {name}", mean(each), "") for name, each in self.kl.items()]
        rows.append((f"log p(x), {self.method}", self.evidence.mean(), self.evidence.direction))
        rows.append(("  above the bound", mean(self.evidence.value - self.bound.value), ""))
        if self.gap is not None:
            some = f"of {len(self.gap.total.value)} datapoints"
            for name in ("total", "approximation", "amortization"):
                rows.append((f"  gap, {name}", getattr(self.gap, name).mean(), some))
        width = max(len(name) for name, _, _ in rows)
        lines = [f"{len(self.bound.value)} datapoints, nats per datapoint"]
        lines += [f"{name:<{width}}  {_text(value):>18}  {side}".rstrip() for name, value, side in rows]
        lines += [f"KL {name} (global), once: {value:.2f} nats" for name, value in self.global_kl.items()]
        return "\n".join([*lines, *self._of_weights(), *self._of_latents()])

    def _of_weights(self) -> list[str]:
        if self.evidence.pareto_k is None:
            return []
        found = {name: number for name, number in self.pareto_k_counts().items() if number or name != "none"}
        return ["pareto_k  " + "   ".join(f"{name}: {number}" for name, number in found.items())]

    def _of_latents(self) -> list[str]:
        if not self.dimensions:
            return []
        active = sum(each.active for each in self.dimensions)
        lines = [
            f"{active} of {len(self.dimensions)} latent dimensions are active: E[z|x] varies by more than {ACTIVE}"
        ]
        if names := self.collapsed():
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            lines.append(f"collapsed: {len(names)} carry less than {COLLAPSED} nats: {shown}")
        return lines


def counts(pareto_k: Tensor | None, number: int | None = None) -> dict[str, int]:
    """Return how many pareto_k lie in each range.

    Args:
        pareto_k: (N,), or ``None``: then all N have none.
        number: N.
    """
    k = torch.full((number or 0,), torch.nan) if pareto_k is None else pareto_k
    low, middle, high = EDGES
    return {
        f"< {low}": int((k < low).sum()),
        f"{low} to {middle}": int(((k >= low) & (k < middle)).sum()),
        f"{middle} to {high:g}": int(((k >= middle) & (k <= high)).sum()),
        f"> {high:g}": int((k > high).sum()),
        "none": int(k.isnan().sum()),
    }


def mean(value: Tensor) -> MeanEstimate:
    """Return the mean of a number for each datapoint, and its standard error over these."""
    return Estimate(value, torch.full_like(value, torch.nan)).mean()


def _text(value: MeanEstimate) -> str:
    error = "" if math.isnan(value.standard_error) else f" ± {value.standard_error:.2f}"
    return f"{value.value:.2f}{error}"


@one_thread
@torch.no_grad()
def report(
    model: PyroCallable,
    guide: PyroCallable,
    *args: Any,
    num_particles: int = 50,
    method: str | Estimator = "importance",
    num_weights: int | None = None,
    num_gap: int = 0,
    batch_size: int = 100,
    seed: int | None = None,
    vectorize: bool = True,
    vectorize_weights: bool | None = None,
    compile: Compile = "auto",
    progress: bool = True,
    **kwargs: Any,
) -> Report:
    r"""Return how good a pair is on data: the bound in parts, log p(x), pareto_k, and what each latent carries.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)`` with minibatches of the data.
        guide: q(z|x), called likewise.
        args: the data, datapoints first, of any kind that :func:`~pyro_aevb.training.fit` takes.
        num_particles: K, draws of each datapoint for the bound and the latents, 2 or more.
        method: of log p(x), as for :func:`~pyro_aevb.log_marginal_likelihood`: ``"importance"``, ``"auto"``, ...
        num_weights: draws or chains of each datapoint for log p(x); by default the method's choice.
        num_gap: of how many datapoints, the first ones, log p(x) - ELBO is taken apart: it takes an optimisation each.
        batch_size: datapoints at a time; bounds memory, and changes which draw a datapoint gets.
        seed: a seed for the noise; the global generators are then left as they were.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        vectorize_weights: the same for log p(x) alone, by default as ``vectorize``.  It is given one draw of the
            global latents at a time, so that networks with random weights take many z.
        compile: the fast path.
        progress: whether to show progress bars after a second.
        kwargs: what model and guide take by name.

    Raises:
        ValueError, TypeError: for data, options or a pair that can't be used, as for
            :func:`~pyro_aevb.log_marginal_likelihood` and, with ``num_gap``, :func:`~pyro_aevb.evidence_gap`.

    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
    ...         pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)
    >>> def guide(x):  # exact: z_0 ~ N(x / 2, 1 / 2), and z_1 knows nothing of x
    ...     loc, scale = torch.stack([x / 2, 0 * x], -1), torch.tensor([0.5**0.5, 1.0])
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(loc, scale).to_event(1))
    >>> x = torch.tensor([2.0, -2.0])
    >>> found = report(model, guide, x, num_particles=1000, seed=0, compile=False)
    >>> [round(each.kl, 2) for each in found.dimensions], found.collapsed()  # (1/2 + 1 - 1 - log(1/2)) / 2 = 0.60
    ([0.6, 0.0], ('z[1]',))
    >>> round(found.evidence.mean().value, 2), abs(found.bound.mean().value + 2.27) < 0.1  # log N(2; 0, 2) = -2.27
    (-2.27, True)
    """
    check_sizes(num_particles=num_particles, num_weights=num_weights)
    check_callables(model, guide)
    options = given(
        num_particles=(num_particles, 50), method=(method, "importance"), num_weights=(num_weights, None),
        num_gap=(num_gap, 0), batch_size=(batch_size, 100), seed=(seed, None), vectorize=(vectorize, True),
        vectorize_weights=(vectorize_weights, None), compile=(compile, "auto"), progress=(progress, True),
    )  # fmt: skip
    batches, model, guide = over_minibatches(model, guide, args, kwargs, batch_size, options)
    _check_numbers(guide, num_particles, num_gap, batches.num_data)
    data = tuple(torch.cat(each) for each in zip(*batches, strict=True))
    with warnings.catch_warnings():  # the report has a table of pareto_k
        warnings.filterwarnings("ignore", message="pareto_k is above")
        evidence = log_marginal_likelihood(
            model, guide, *data, method=method, num_particles=num_weights, batch_size=batch_size, seed=seed,
            vectorize=vectorize if vectorize_weights is None else vectorize_weights, compile=compile, progress=progress,
        )  # fmt: skip
    with seeded(seed), evaluated(model, guide) as (its_model, its_guide, _):
        terms = _terms(its_model, its_guide, batches, num_particles, vectorize)
        of_latents = latent_dimensions(its_model, its_guide, batches, num_particles, vectorize)
    gap = _gap(model, guide, data, evidence, num_gap, batch_size, seed, progress) if num_gap else None
    name = method if isinstance(method, str) else type(method).__name__
    return Report(*_parts(terms), _dimensions(of_latents), evidence, name, gap)


def _check_numbers(guide: Any, num_particles: int, num_gap: int, num_data: int) -> None:
    if guide is None:
        raise ValueError("expected a guide to report on, got None; posterior(model, None, x, method='hmc') needs none")
    if num_particles < 2:
        raise ValueError(f"expected num_particles of 2 or more, got {num_particles}; one draw has no error, ask for 50")
    if not 0 <= num_gap <= num_data:
        raise ValueError(f"expected num_gap between 0 and the {num_data} datapoints, got {num_gap}; 20 takes seconds")


def _terms(
    model: PyroCallable, guide: PyroCallable, batches: Minibatches, num_particles: int, vectorize: bool
) -> list[Terms]:
    """Return the parts of the bound of each minibatch, the KL sampled if the guide can't be reparameterised."""
    objective: Objective | None = None
    found = []
    for batch in batches:
        if objective is None:
            reading = read(model, guide, batch)
            reading.require_whole_plates()
            require_local_densities(reading, model, guide, batch)
            proposals = (reading.proposals | reading.global_proposals).values()
            smooth = not enumerated(reading, guide) and all(site.fn.has_rsample for site in proposals)
            objective = ScoreFunction(num_particles, vectorize=vectorize)
            if smooth:
                objective = SGVB(num_particles, kl="analytic", vectorize=vectorize)
        found.append(objective.terms(model, guide, *batch))
    return found


def _parts(terms: list[Terms]) -> tuple[Estimate, dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Return the bound of all minibatches, log p(x|z) and KL by site, and the KL of global latents."""
    reconstruction, kl = _joined([term.reconstruction for term in terms]), _joined([term.kl for term in terms])
    bound = torch.stack([*reconstruction.values(), *(-each for each in kl.values())]).sum(0)
    error = torch.cat([term.log_weight.std(0) / len(term.log_weight) ** 0.5 for term in terms])
    of_globals = {name: sum(term.global_kl[name].item() for term in terms) / len(terms) for name in terms[0].global_kl}
    return Estimate(bound, error), reconstruction, kl, of_globals


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _dimensions(of_latents: LatentDimensions) -> tuple[Dimension, ...]:
    found: list[Dimension] = []
    for site, activity in of_latents.activity.items():
        kl = of_latents.kl.get(site, torch.full_like(activity, torch.nan)).flatten().tolist()
        found += map(Dimension, entries(site, activity), kl, activity.flatten().tolist())
    return tuple(found)


def _gap(
    model: PyroCallable,
    guide: PyroCallable,
    data: tuple[Tensor, ...],
    evidence: Evidence,
    number: int,
    batch_size: int,
    seed: int | None,
    progress: bool,
) -> EvidenceGap:
    """Return the parts of log p(x) - ELBO of the first datapoints."""
    value, error = evidence.value[:number], evidence.standard_error[:number]
    options: dict[str, Any] = {"batch_size": min(number, batch_size), "seed": seed, "progress": progress}
    few = dataclasses.replace(evidence, value=value, standard_error=error)
    with torch.enable_grad():
        return evidence_gap(model, guide, *(arg[:number] for arg in data), evidence=few, **options)
