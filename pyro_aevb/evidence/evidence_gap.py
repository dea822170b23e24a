r"""The two parts of log p(x) - ELBO: the gap of q's family, and the gap of the network that amortizes it.

.. math:: \log p(x) - L(q_\phi(\cdot|x)) = [\log p(x) - L(q^*)] + [L(q^*) - L(q_\phi(\cdot|x))]

with q* the best of the guide's family for this one datapoint: the approximation gap and the amortization gap (Cremer,
Li and Duvenaud, *Inference suboptimality in variational autoencoders*, 2018, Eq. (6)).

Shapes: N data, M minibatch, K particles.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Independent
from torch import Tensor
from torch.distributions import transform_to
from tqdm import tqdm

from pyro_aevb.data_source import Data, minibatches
from pyro_aevb.evidence.elbo import elbo
from pyro_aevb.evidence.estimates import Estimate, Evidence
from pyro_aevb.evidence.estimator import check_sizes
from pyro_aevb.model_guide.contract import check_callables, read
from pyro_aevb.model_guide.log_density import log_density
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.sites import DataPlate, Site
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.random_state import seeded


class EvidenceGap(NamedTuple):
    """log p(x_n) - ELBO and its two parts, nats per datapoint: an :class:`~pyro_aevb.evidence.Estimate` (N,) each."""

    elbo: Estimate
    best_elbo: Estimate
    total: Estimate
    approximation: Estimate
    amortization: Estimate


@one_thread
def evidence_gap(
    model: PyroCallable,
    guide: PyroCallable,
    *args: Data,
    evidence: Evidence,
    num_steps: int = 500,
    learning_rate: float = 0.01,
    num_particles: int = 100,
    batch_size: int = 100,
    seed: int | None = None,
    progress: bool = True,
) -> EvidenceGap:
    r"""Return log p(x) - ELBO in two parts: what the guide's family can't reach, and what its network doesn't.

    The parameters of the guide's distributions (loc and scale of a Normal, ...) are taken from the guide and improved
    for each datapoint separately, by Adam on the ELBO.  Neither model nor guide is changed.

    The guide's sites must be reparameterized and must not depend on one another's values: mean-field guides, or one
    site with a full covariance.  Others are refused.

    Args:
        model: p(x, z).
        guide: q(z|x).
        args: the data, datapoints first, of any kind that :func:`~pyro_aevb.training.fit` takes.
        evidence: log p(x) of the same data, by :func:`~pyro_aevb.log_marginal_likelihood`.
        num_steps: steps of Adam, 10 draws each.
        learning_rate: Adam's, falling linearly to zero.
        num_particles: draws for each ELBO.
        batch_size: datapoints at a time.
        seed: a seed for the noise; the global generators are then left as they were.
        progress: whether to show a progress bar after a second.

    Raises:
        ValueError: for sizes below 1, evidence of other data, a pair that breaks the contract, and a guide whose
            parameters can't be optimized for each datapoint.

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
    batches = minibatches(args, batch_size)
    if len(evidence.value) != batches.num_data:
        raise ValueError(f"expected evidence of the same {batches.num_data} datapoints, got {len(evidence.value)}")
    bar = tqdm(
        total=len(batches) * num_steps, desc="evidence gap", unit=" steps", delay=1, disable=not progress, leave=False,
        dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 60,
    )  # fmt: skip
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
    reading = _independent_sites(model, guide, args)
    sites = {name: _Free(site, reading.plate) for name, site in reading.proposals.items()}

    def free(*args: Any) -> None:
        plate = reading.plate
        with pyro.plate("data", plate.full_size, subsample=torch.arange(plate.size), dim=plate.dim):
            for name, site in sites.items():
                with poutine.mask(mask=True if site.mask is None else site.mask):
                    pyro.sample(name, site.distribution())

    leaves = [leaf for site in sites.values() for leaf in site.leaves.values()]
    optimizer = torch.optim.Adam(leaves, lr=learning_rate)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / num_steps)
        bound = log_density(model, free, *args, num_particles=10).log_weight.mean(0)
        for leaf, gradient in zip(leaves, torch.autograd.grad(bound.sum(), leaves), strict=True):
            leaf.grad = -gradient
        optimizer.step()
        tick()
    return free


def _independent_sites(model: PyroCallable, guide: PyroCallable, args: tuple[Any, ...]) -> Reading:
    """Return the pair's reading; raise ``ValueError`` if one site's parameters change with the draws of another."""
    first = read(model, guide, args)
    with torch.random.fork_rng():
        torch.rand(())  # other draws
        second = read(model, guide, args)
    first.require_local()
    first.require_density()
    for name, site in first.proposals.items():
        free, again = _Free(site, first.plate), _Free(second.proposals[name], second.plate)
        if any(not torch.equal(free.leaves[n], again.leaves[n]) for n in free.leaves):
            raise ValueError(
                f"expected sites whose distributions don't depend on one another, got {name!r}, whose parameters "
                "change from draw to draw; write the guide as one site, or compare with a mean-field one"
            )
    return first


class _Free:
    """A site's distribution with parameters to optimize, one set for each datapoint."""

    def __init__(self, site: Site, plate: DataPlate) -> None:
        fn, self._events, self.mask = site.fn, 0, site.mask
        while isinstance(fn, Independent):
            self._events, fn = self._events + fn.reinterpreted_batch_ndims, fn.base_dist
        # Parameters are what the distribution keeps: of a MultivariateNormal's four names those it was made with.
        kept = {n: c for n, c in fn.arg_constraints.items() if isinstance(fn.__dict__.get(n), Tensor)}
        if not fn.has_rsample or not kept:
            raise ValueError(
                f"expected a reparameterized distribution with parameters of its own at site {site.name!r}, got "
                f"{type(fn).__name__}; the gap can be split for guides of Normal, MultivariateNormal, Gamma, ..."
            )
        self._type, self._constraints = type(fn), kept
        batch = list(site.batch_shape)
        batch[plate.dim] = plate.size
        self.leaves = {}
        for n, constraint in kept.items():
            value = getattr(fn, n).detach()
            value = value.expand((*batch, *value.shape[value.dim() - self._events - constraint.event_dim :])).clone()
            self.leaves[n] = transform_to(constraint).inv(value).clone().requires_grad_()

    def distribution(self) -> Any:
        values = {n: transform_to(self._constraints[n])(leaf) for n, leaf in self.leaves.items()}
        return self._type(**values).to_event(self._events)
