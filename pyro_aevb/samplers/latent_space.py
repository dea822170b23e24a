"""The local latents of a Pyro model as one unconstrained vector a datapoint.

HMC and its relatives move in R^J.  A latent z with support S is written z = T(u), T the bijection that Pyro keeps for
S (``biject_to``), and the density of u is p(x, T(u)) |dT/du|.  An angle is u but for turns, so that chains go around
the circle, and the density repeats with each turn; for an integral over R^J the circle is cut open at pi.

Shapes: K particles, M datapoints, J unconstrained dimensions in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import MixtureSameFamilyConstraint

from pyro_aevb.distributions.angles import is_angle, wrapped
from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.sites import Site, density, masks_cells
from pyro_aevb.model_guide.traces import (
    PyroCallable,
    broadcasting,
    number_of_datapoints,
    on_a_side,
    trace_model,
    trace_pair,
)


class JointTerms(NamedTuple):
    """log p(T(u)) + log |dT/du| and log p(x|T(u)), each of shape (M,) or (K, M), in nats."""

    log_prior: Tensor
    log_likelihood: Tensor


class LatentSpace:
    """R^J for the latents of a model, and the log joint on it.

    The model is run once to find its latents.  Their names and shapes stay the same from then on; a support
    may depend on data, parameters and the latents before it.

    Args:
        model: p(x, z), a Pyro function.
        args: a minibatch.
        cut: whether the circles of angles are cut open.

    Attributes:
        dim: J.
        angles: which dimensions are angles that aren't cut open, (J,) of bool.

    Raises:
        ValueError: for a discrete latent, for one that isn't in the data plate alone, for a support without a bijection
            to R^n, if something that counts depends on a masked latent, and as :func:`check_repeats`.

    >>> from pyro_aevb.samplers import LatentSpace
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    ...         pyro.sample("x", dist.Poisson(rate), obs=x)
    >>> x = torch.tensor([1.0, 3.0, 0.0])
    >>> space = LatentSpace(model, x)
    >>> u = torch.zeros(3, 1)  # rate = exp(u) = 1, Jacobian 1
    >>> space.values(u, x)["rate"].tolist(), [round(v, 4) for v in space.log_joint(u, x).tolist()]
    ([1.0, 1.0, 1.0], [-2.0, -3.7918, -2.0])
    """

    def __init__(self, model: PyroCallable, *args: Any, cut: bool = False) -> None:
        self._model, self._cut = model, cut
        reading = read(model, None, args)
        reading.require_local()
        reading.require_density()
        latents = reading.latents
        for name, site in latents.items():
            if site.fn.support.is_discrete:
                raise ValueError(
                    f"expected continuous latents for HMC, got the discrete site {name!r}; "
                    "use WakeSleep to train and method='importance' to evaluate, or mark it in the model, "
                    "infer={'enumerate': 'parallel'}, to be summed out, with guide=None where draws are asked for"
                )
            plates = [frame.name for frame in site.frames if frame.vectorized]
            if len(plates) > 1:
                raise ValueError(
                    f"expected latents in the data plate alone, got site {name!r} in {plates}; "
                    "declare the other dimensions of the latent with .to_event(...)"
                )
        if not latents:
            raise ValueError("expected a model with local latents, got none; add pyro.sample('z', ...) in its plate")
        self._depth, self._right, self._summed = reading.depth, -reading.plate.dim - 1, reading.summed
        transforms = {name: self._transform(name, site.fn) for name, site in latents.items()}
        self._shapes = {
            name: transforms[name].inv(site.value).shape[len(site.batch_shape) :] for name, site in latents.items()
        }
        self.dim = sum(shape.numel() for shape in self._shapes.values())
        round_ones = [torch.full((shape.numel(),), transforms[name] is ROUND) for name, shape in self._shapes.items()]
        self.angles = torch.cat(round_ones)
        self._in_cells = [name for name, site in latents.items() if masks_cells(site.fn)]
        if any(isinstance(site.mask, Tensor) or site.mask is False for site in latents.values()):
            self._check_masked(args)
        u = on_a_side(lambda: self.prior_draw(*args))
        check_repeats(model, lambda: self.log_joint(u, *args))

    def has_mass(self) -> bool:
        """Return whether p(x, u) has an integral, of angles over a turn; along cells that are masked it is flat."""
        return not self._in_cells

    def require_mass(self) -> None:
        """Refuse latents of which cells are masked, whose p(x, u) has no integral over R^n.

        Raises:
            ValueError: for the first one.
        """
        for name in self._in_cells:
            raise ValueError(
                f"expected latents that are masked as a whole, for an integral over them, got {name!r}, whose cells "
                "are; give the cells that come and go a site of their own under poutine.mask, or use "
                "method='importance' or 'ais'"
            )

    def prior_draw(self, *args: Any) -> Tensor:
        """Return latents drawn from the prior, (M, J); what is masked is drawn from N(0, I)."""
        with torch.no_grad():
            return self.position(poutine.trace(self._model).get_trace(*args), number_of_datapoints(args))

    def guide_draw(self, guide: PyroCallable, *args: Any) -> Tensor:
        """Return latents drawn from the guide, (M, J)."""
        with torch.no_grad():
            guide_trace, trace = trace_pair(self._model, guide, args)
        return self.position(trace, number_of_datapoints(args), guide_trace)

    def position(self, trace: Trace, num_data: int, guide_trace: Trace | None = None) -> Tensor:
        """Return the latents of a trace of the model, (M, J)."""
        reading = read_traces(trace, guide_trace, num_data)
        reading.require_latents(self._shapes, self._summed)
        sites, drawn = reading.latents, []
        for name, shape in self._shapes.items():
            u = self._transform(name, sites[name].fn).inv(sites[name].value)
            if isinstance(mask := sites[name].mask, Tensor):
                mask = mask.reshape(mask.shape + (1,) * len(shape))
                u = torch.where(mask, u, torch.randn_like(u))
            elif mask is False:
                u = torch.randn_like(u)
            drawn.append(u.reshape(num_data, -1))
        return torch.cat(drawn, -1)

    def values(self, u: Tensor, *args: Any) -> dict[str, Tensor]:
        """Return the constrained latents {site: (..., M, *event)} at ``u`` (..., M, J)."""
        trace, _ = self.trace(u, *args)
        nodes: dict[str, Any] = trace.nodes
        return {name: nodes[name]["value"] for name in self._shapes}

    def log_joint(self, u: Tensor, *args: Any) -> Tensor:
        """Return log p(x, T(u)) + log |dT/du| in nats, shape (M,) for ``u`` (M, J), (K, M) for (K, M, J).

        If ``u`` overflows the result is NaN or infinite, for the sampler to reject: Pyro's validation, which would
        raise, is off inside.
        """
        terms = self.terms(u, *args)
        return terms.log_prior + terms.log_likelihood

    def terms(self, u: Tensor, *args: Any) -> JointTerms:
        """Return the two terms of :meth:`log_joint`, the Jacobian with the prior, from one run of the model."""
        with pyro.validation_enabled(False), broadcasting(self._particles(u)):
            trace, at = self.trace(u, *args)
            reading = self._read(trace, None, u)
            return JointTerms(self._latent_terms(reading.latents, reading, at, u), self._likelihood(reading, u))

    def log_joint_and_resolved(self, u: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        """Return :meth:`log_joint`, and whether T(u) leads back to u, each (M,) or (K, M).

        It doesn't near the end of a support, where T(u) is rounded: 1 - 1e-9 is 1 in float32.
        """
        with pyro.validation_enabled(False), broadcasting(self._particles(u)):
            trace, at = self.trace(u, *args)
            reading = self._read(trace, None, u)
            joint = self._latent_terms(reading.latents, reading, at, u) + self._likelihood(reading, u)
            resolved = torch.ones_like(joint, dtype=torch.bool)
            for place in at.values():
                close = (place.back - place.u).abs() <= 1e-2 * (1 + place.u.abs())
                resolved = resolved & close.reshape(*joint.shape, -1).all(-1)
            return joint, resolved

    def log_joint_and_guide(self, guide: PyroCallable, u: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        """Return :meth:`log_joint` and log q(T(u)|x) + log |dT/du|, each (M,) or (K, M), in nats."""
        with pyro.validation_enabled(False), broadcasting(self._particles(u)):
            trace, at = self.trace(u, *args)
            guide_trace = poutine.trace(poutine.replay(guide, trace=trace)).get_trace(*args)
            reading = self._read(trace, guide_trace, u)
            log_prior = self._latent_terms(reading.latents, reading, at, u)
            log_q = self._latent_terms(reading.proposals, reading, at, u)
            return log_prior + self._likelihood(reading, u), log_q

    def trace(self, u: Tensor, *args: Any) -> tuple[Trace, dict[str, Unconstrained]]:
        """Run the model with its latents at ``u`` (..., M, J); return its trace and where each latent is.

        The dimension of the K particles is left of all plates.
        """
        sizes = [shape.numel() for shape in self._shapes.values()]
        between = (1,) * (self._depth - 1 - self._right) if u.dim() == 3 else ()
        batch = (*u.shape[:-2], *between, u.shape[-2], *(1,) * self._right)
        parts = zip(self._shapes.items(), u.split(sizes, -1), strict=True)
        at = {name: part.reshape(batch + shape) for (name, shape), part in parts}
        handler = _AtUnconstrained(at, self._transform, batch_dims=len(batch))
        with handler:
            trace = trace_model(self._model, None, args)
        return trace, handler.found

    def _transform(self, name: str, fn: Any) -> Any:
        return ROUND if not self._cut and is_angle(fn) else bijection(name, fn)

    def _particles(self, u: Tensor) -> tuple[int, int] | None:
        return (-1 - self._depth, len(u)) if u.dim() == 3 else None

    def _read(self, trace: Trace, guide_trace: Trace | None, u: Tensor) -> Reading:
        reading = read_traces(trace, guide_trace, u.shape[-2], self._particles(u))
        reading.require_latents(self._shapes)
        return reading

    def _likelihood(self, reading: Reading, u: Tensor) -> Tensor:
        return reading.sum_log_prob(reading.observations.values()).reshape(u.shape[:-1])

    def _latent_terms(
        self, sites: Mapping[str, Site], reading: Reading, at: dict[str, Unconstrained], u: Tensor
    ) -> Tensor:
        """Return the sum of the latents' log densities at ``u``, each with its Jacobian.

        What is masked isn't there for that datapoint: it is given the density N(0, I) in its unconstrained coordinates,
        which integrates to 1 and so leaves log p(x) as it is.
        """
        total: Tensor | float = 0.0
        for name, site in sites.items():
            term = density(name, site.fn, site.value) + at[name].log_det
            if isinstance(site.mask, Tensor) or site.mask is False:
                shape = len(self._shapes[name])
                normal = -0.5 * (at[name].u.square() + math.log(2 * math.pi))
                normal = sum_rightmost(normal, shape) if shape else normal
                term = torch.where(torch.as_tensor(site.mask, device=u.device), term, normal)
            total = total + reading.per_datapoint(term)
        return torch.as_tensor(total).reshape(u.shape[:-1])

    def _check_masked(self, args: tuple[Any, ...]) -> None:
        """Raise ``ValueError`` if something that counts depends on a masked latent, which then can't be left out."""

        def likelihoods() -> list[Tensor]:
            trace = poutine.trace(self._model).get_trace(*args)
            m = number_of_datapoints(args)
            u = self.position(trace, m)
            sites = read_traces(trace, None, m).latents
            keep = [
                torch.as_tensor(True if sites[name].mask is None else sites[name].mask, device=u.device)
                .reshape(-1, 1)
                .expand(m, shape.numel())
                for name, shape in self._shapes.items()
            ]
            other = torch.where(torch.cat(keep, -1), u, u + 1.0)
            return [self.log_joint(v, *args) - _standard_normal(v, torch.cat(keep, -1)) for v in (u, other)]

        found = on_a_side(likelihoods)
        if not torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-4, equal_nan=True):
            raise ValueError(
                "expected sites that don't depend on a masked latent, got some that do: what is masked off isn't there "
                "for that datapoint; mask what depends on it too, or take the mask away"
            )


def check_repeats(model: PyroCallable, log_density: Callable[[], Tensor]) -> None:
    """Check that a log density at one place is one number, as whoever moves along it, or adds it up, takes it to be.

    Args:
        model: p(x, z); its modules are in evaluation mode for it.
        log_density: runs it.

    Raises:
        ValueError: for a model with random numbers of its own.

    >>> from pyro_aevb.samplers.latent_space import check_repeats
    >>> check_repeats(lambda x: None, lambda: torch.randn(3))
    Traceback (most recent call last):
        ...
    ValueError: expected a model whose p(x, z) is one number at each z, got others in two runs at the same z...
    """

    def twice() -> tuple[Tensor, Tensor]:
        with _SameSubsamples():
            return log_density(), log_density()

    with evaluated(model, None):
        first, again = on_a_side(twice)
    if not torch.allclose(first, again, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError(
            "expected a model whose p(x, z) is one number at each z, got others in two runs at the same z: it draws "
            "random numbers of its own, by torch.randn or at a latent inside poutine.block; draw them with "
            "pyro.sample, in sight, or use a guide and method='importance' with vectorize=False, which draws them anew "
            "for each particle"
        )


class _SameSubsamples(Messenger):
    """Let plates draw their indices once: which part of the data they are of is no number of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self._indices: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["value"] is None and msg["name"] in self._indices:
            msg["value"], msg["done"] = self._indices[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self._indices[msg["name"]] = msg["value"]


class Unconstrained(NamedTuple):
    """A latent's place: ``u`` (..., M, *shape), log |dT/du| there, (..., M), and ``back``, T's inverse at T(u)."""

    u: Tensor
    log_det: Tensor
    back: Tensor


class _AtUnconstrained(Messenger):
    """Give each latent the value T(u), T as the distribution it turns out to have wants it; keep u and log |dT/du|."""

    def __init__(self, u: dict[str, Tensor], transform: Callable[[str, Any], Any], batch_dims: int) -> None:
        super().__init__()
        self._u, self._transform, self._batch_dims = u, transform, batch_dims
        self.found: dict[str, Unconstrained] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self._u or msg["is_observed"]:
            return
        u = self._u[msg["name"]]
        transform = self._transform(msg["name"], msg["fn"])
        msg["value"], msg["done"] = transform(u), True
        log_det = transform.log_abs_det_jacobian(u, msg["value"])
        back = transform.inv(msg["value"] + 0.0)  # else a transform's cache gives u
        self.found[msg["name"]] = Unconstrained(u, sum_rightmost(log_det, log_det.dim() - self._batch_dims), back)


def bijection(name: str, fn: Any) -> Any:
    """Return T from R^n to the support of a site's distribution.

    Of a mixture, for which Pyro keeps none, it is that of the components; a circle is cut open at pi.  Raises
    ``ValueError`` if there is none, as for a sphere.
    """
    support = fn.support
    if isinstance(support, MixtureSameFamilyConstraint):
        support = support.base_constraint
    if is_angle(fn):
        support = constraints.independent(CIRCLE, len(fn.event_shape)) if fn.event_shape else CIRCLE
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"expected a latent that can be moved in R^n, got site {name!r} with the support {support}, which has no "
            "bijection to it; train with AEVB or WakeSleep and evaluate with method='importance' and a guide"
        ) from error


CIRCLE = constraints.interval(-math.pi, math.pi)


class _Round:
    """The map from the line to the circle, which goes around it with each turn."""

    def __call__(self, u: Tensor) -> Tensor:
        return wrapped(u)

    def inv(self, angle: Tensor) -> Tensor:
        return angle

    def log_abs_det_jacobian(self, u: Tensor, angle: Tensor) -> Tensor:
        return torch.zeros_like(u)


ROUND = _Round()


def _standard_normal(u: Tensor, keep: Tensor) -> Tensor:
    """Return the log density under N(0, I) of the coordinates that are not kept, (M,)."""
    return torch.where(keep, 0.0, -0.5 * (u.square() + math.log(2 * math.pi))).sum(-1)
