r"""The two parts of log p(x) - ELBO: the gap of q's family, and the gap of the network that amortizes it.

.. math:: \log p(x) - L(q_\phi(\cdot|x)) = [\log p(x) - L(q^*)] + [L(q^*) - L(q_\phi(\cdot|x))]

with q* the best of the guide's family for this one datapoint: the approximation gap and the amortization gap (Cremer,
Li and Duvenaud, *Inference suboptimality in variational autoencoders*, 2018, Eq. (6)).

Shapes: N data, M minibatch, K particles.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import distributions as dist
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import transform_to
from torch.distributions.constraints import Constraint

from pyro_aevb.evidence.elbo import elbo
from pyro_aevb.evidence.estimates import Estimate, Evidence
from pyro_aevb.evidence.estimator import check_sizes, over_minibatches
from pyro_aevb.model_guide.contract import check_callables, given, read
from pyro_aevb.model_guide.guide_values import enumerated
from pyro_aevb.model_guide.local_densities import require_local_densities
from pyro_aevb.model_guide.log_density import repeated_log_density
from pyro_aevb.model_guide.sites import DataPlate, Site
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.progress_bar import progress_bar
from pyro_aevb.random_state import forked, seeded
from pyro_aevb.short_repr import short_repr

# A distribution of either has properties for both; one of them is enough to make it again.
FIRST_OF = (("scale_tril", "covariance_matrix", "precision_matrix"), ("logits", "probs"))
Change = Callable[[str, Constraint, Tensor], Tensor]


class EvidenceGap(NamedTuple):
    """log p(x_n) - ELBO and its two parts, nats per datapoint: an :class:`~pyro_aevb.evidence.Estimate` (N,) each."""

    elbo: Estimate
    best_elbo: Estimate
    total: Estimate
    approximation: Estimate
    amortization: Estimate

    def __repr__(self) -> str:
        return short_repr(self)


@one_thread
def evidence_gap(
    model: PyroCallable,
    guide: PyroCallable,
    *args: Any,
    evidence: Evidence,
    num_steps: int = 500,
    learning_rate: float = 0.05,
    num_particles: int = 100,
    batch_size: int = 100,
    seed: int | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> EvidenceGap:
    r"""Return log p(x) - ELBO in two parts: what the guide's family can't reach, and what its network doesn't.

    q* has the guide's distributions with other parameters: each parameter (loc and scale of a Normal, both
    concentrations of a Beta, ...) is moved, in its unconstrained coordinates, by an offset of the datapoint's own.  The
    offsets are what Adam maximizes the ELBO over, from zero; what it misses of the best makes ``approximation`` too
    large and ``amortization`` as much too small.  Neither model nor guide is changed.

    - A site that depends on earlier ones goes on doing so: q* is the best of q(z2|z1, x) with parameters
      f(z1, x) + offset, f the guide's.  How strongly z2 follows z1 is the guide's, and not a datapoint's own.
    - Of a flow, the base's parameters are free and the map is the guide's for this datapoint.

    Args:
        model: p(x, z).
        guide: q(z|x).
        args: the data, datapoints first, of any kind that :func:`~pyro_aevb.training.fit` takes.
        evidence: log p(x) of the same data, by :func:`~pyro_aevb.log_marginal_likelihood`.
        num_steps: steps of Adam, 10 draws each.
        learning_rate: Adam's, falling linearly to zero; an unconstrained parameter moves by ``learning_rate *
            num_steps / 2`` at most, 12.5 by default.
        num_particles: draws for each ELBO.
        batch_size: datapoints at a time.
        seed: a seed for the noise; the global generators are then left as they were.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name.

    Raises:
        ValueError: for sizes below 1, evidence of other data, a pair that breaks the contract, and a guide with a site
            that isn't reparameterized, or whose distribution can't be made again from its parameters.

    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):  # the right family, half the mean it should have: KL = (x / 4)^2
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 4, 0.5**0.5))
    >>> x = torch.tensor([0.0, 2.0])
    >>> evidence = log_marginal_likelihood(model, guide, x, method="quadrature", seed=0)
    >>> gap = evidence_gap(model, guide, x, evidence=evidence, num_steps=200, num_particles=5_000, seed=0)
    >>> bool((gap.amortization.value - torch.tensor([0.0, 0.25])).abs().max() < 0.03)
    True
    >>> bool(gap.approximation.value.abs().max() < 0.01)
    True
    """
    check_sizes(num_particles=num_particles, num_steps=num_steps)
    check_callables(model, guide)
    given_options = given(
        evidence=(evidence, None), num_steps=(num_steps, 500), learning_rate=(learning_rate, 0.05),
        num_particles=(num_particles, 100), batch_size=(batch_size, 100), seed=(seed, None), progress=(progress, True),
    )  # fmt: skip
    batches, model, guide = over_minibatches(model, guide, args, kwargs, batch_size, given_options)
    if len(evidence.value) != batches.num_data:
        raise ValueError(f"expected evidence of the same {batches.num_data} datapoints, got {len(evidence.value)}")
    bar = progress_bar(show=progress, total=len(batches) * num_steps, desc="evidence gap", unit=" steps", delay=1)
    bounds: list[tuple[Estimate, Estimate]] = []
    with seeded(seed), bar:
        for batch in batches:
            best = _best_guide(model, guide, batch, num_steps, learning_rate, bar.update)
            options: dict[str, Any] = {"num_particles": num_particles, "batch_size": batch_size}
            both = [elbo(model, each, *batch, **options) for each in (guide, best)]
            bounds.append((Estimate(*both[0][:2]), Estimate(*both[1][:2])))
    at, best_at = (Estimate(*map(torch.cat, zip(*side, strict=True))) for side in zip(*bounds, strict=True))
    log_p = Estimate(evidence.value, evidence.standard_error)
    return EvidenceGap(at, best_at, _minus(log_p, at), _minus(log_p, best_at), _minus(best_at, at))


def _minus(a: Estimate, b: Estimate) -> Estimate:
    return Estimate(a.value - b.value, torch.hypot(a.standard_error, b.standard_error.to(a.standard_error)))


def _best_guide(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Tensor, ...],
    num_steps: int,
    learning_rate: float,
    tick: Callable[[], Any],
) -> PyroCallable:
    """Return a guide with parameters of its own for each datapoint of the minibatch, the best that Adam finds."""
    reading = read(model, guide, args)
    reading.require_local()
    reading.require_density()
    require_local_densities(reading, model, guide, args)
    if names := list(enumerated(reading, guide)):
        raise ValueError(
            f"expected a guide whose latents all have moments, got one that enumerates {names}; mark them in the model "
            "and leave them out of the guide, or take evidence.value - elbo(model, guide, ...).value for the whole gap"
        )
    offsets = {name: _zeros(site, reading.plate) for name, site in reading.proposals.items()}

    def moved(*args: Any) -> Any:
        with _Moved(offsets):
            return guide(*args)

    leaves = [leaf for site in offsets.values() for leaf in site.values()]
    if not leaves:
        raise ValueError("expected a guide whose distributions have parameters, got none; sample from one that has")
    optimizer = torch.optim.Adam(leaves, lr=learning_rate)
    density = repeated_log_density(model, moved, num_particles=10)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / num_steps)
        bound = density(*args).log_weight.mean(0)
        gradients = torch.autograd.grad(bound.sum(), leaves, materialize_grads=True)  # what is masked off has none
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = -gradient
        optimizer.step()
        tick()
    return moved


class _Moved(Messenger):
    """Give the sites of a guide their distributions with parameters moved by ``offsets``, by site and parameter."""

    def __init__(self, offsets: dict[str, dict[str, Tensor]]) -> None:
        super().__init__()
        self._offsets = offsets

    def _pyro_sample(self, msg: Any) -> None:
        offsets = self._offsets.get(msg["name"])
        if not offsets:
            return

        def move(name: str, constraint: Constraint, value: Tensor) -> Tensor:
            transform = transform_to(constraint)
            result: Tensor = transform(transform.inv(value) + offsets[name])
            return result

        msg["fn"] = _changed(msg["fn"], move)


def _zeros(site: Site, plate: DataPlate) -> dict[str, Tensor]:
    """Return an offset of zero for each datapoint and parameter of the site's distribution, by the parameter's name.

    Raises ``ValueError`` if the site isn't reparameterized, or its distribution is more than its parameters say.
    """
    leaf = _leaf(site.fn)
    if isinstance(leaf, dist.Delta):  # nothing is drawn: z is computed from other sites
        return {}
    batch = list(site.batch_shape)
    batch[plate.dim] = plate.size
    inner = leaf.batch_shape[len(site.fn.batch_shape) :]
    offsets: dict[str, Tensor] = {}

    def record(name: str, constraint: Constraint, value: Tensor) -> Tensor:
        events = max(constraint.event_dim, value.dim() - len(leaf.batch_shape))
        place = transform_to(constraint).inv(value.detach())
        own = place.shape[value.dim() - events :]
        offsets[name] = place.new_zeros((*batch, *inner, *own), requires_grad=True)
        return value

    if not site.fn.has_rsample or leaf.support.is_discrete or not _is_made_again(leaf, _changed(leaf, record)):
        why = "whose draws have no gradient" if not site.fn.has_rsample else "which is more than its parameters say"
        raise ValueError(
            f"expected reparameterized distributions that are made from their parameters, got {type(leaf).__name__} at "
            f"site {site.name!r}, {why}; the gap as a whole is evidence.value - elbo(model, guide, ...).value"
        )
    return offsets


def _changed(fn: Any, change: Change) -> Any:
    """Return the distribution with each of its parameters as ``change`` of its name, constraint and value makes it."""
    if isinstance(fn, torch.distributions.Independent):
        return dist.Independent(_changed(fn.base_dist, change), fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.MaskedDistribution):
        return _changed(fn.base_dist, change).mask(fn._mask)
    if _is_flow(fn):
        return dist.TransformedDistribution(_changed(fn.base_dist, change), fn.transforms)
    constraints = _constraints(fn)
    values = {name: change(name, constraint, getattr(fn, name)) for name, constraint in constraints.items()}
    needed = inspect.signature(type(fn)).parameters.values()  # a temperature, which no constraint is kept for
    kept = {p.name: getattr(fn, p.name) for p in needed if p.default is p.empty and p.name not in values}
    return type(fn)(**values, **kept)


def _leaf(fn: Any) -> Any:
    """Return the distribution whose parameters :func:`_changed` changes."""
    while isinstance(fn, torch.distributions.Independent | dist.MaskedDistribution) or _is_flow(fn):
        fn = fn.base_dist
    return fn


def _is_flow(fn: Any) -> bool:
    return isinstance(fn, torch.distributions.TransformedDistribution) and not _constraints(fn)


def _constraints(fn: Any) -> dict[str, Constraint]:
    """Return the constraints of the parameters by name, one way of writing them; none if they depend on values."""
    found = type(fn).arg_constraints
    if not isinstance(found, dict):
        return {}
    others = {name for ways in FIRST_OF if ways[0] in found for name in ways[1:]}
    return {name: constraint for name, constraint in found.items() if name not in others}


def _is_made_again(fn: Any, again: Any) -> bool:
    """Return whether two distributions, one made from the parameters of the other, have the same density."""
    with forked():
        z = fn.sample()
    return bool(_constraints(fn)) and torch.allclose(again.log_prob(z), fn.log_prob(z), rtol=1e-3, atol=1e-3)
