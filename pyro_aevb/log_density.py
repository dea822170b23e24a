"""Per-datapoint log densities of any (model, guide) pair: log p(x, z), log q(z|x), log w.

Pyro sums log probabilities over the minibatch and weighs them with plate scales.  Evaluation wants neither: here
every datapoint and every particle keeps its own number, and a row's number never depends on its neighbours.

Shapes: K particles, M datapoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_aevb.capture.capture import Capture, Compile
from pyro_aevb.capture.precision import Precision
from pyro_aevb.optimization import ParameterRecorder

PyroCallable = Callable[..., Any]


class LogDensity(NamedTuple):
    """log p(x, z) and log q(z|x), each of shape (K, M), in nats."""

    log_joint: Tensor
    log_q: Tensor

    @property
    def log_weight(self) -> Tensor:
        """log w = log p(x, z) - log q(z|x), shape (K, M)."""
        return self.log_joint - self.log_q


def log_density(
    model: PyroCallable, guide: PyroCallable, *args: Tensor, num_particles: int = 1, vectorize: bool = True
) -> LogDensity:
    r"""Draw z_k ~ q(z|x) and return log p(x_m, z_km) and log q(z_km|x_m) for K particles and M datapoints.

    The mean of ``log_weight`` over particles is the estimator L^A of Kingma & Welling 2013, Eq. (6).  Plate scales
    (N/M) and ``poutine.scale`` are left out, masks are applied, and the result is differentiable.

    Args:
        model: p(x, z), called as ``model(*args)``.
        guide: q(z|x), called as ``guide(*args)``.
        args: the minibatch, datapoints first; ``args[0]`` is x, of shape (M, ...).
        num_particles: K.
        vectorize: draw the particles in one pass, with a plate left of the model's own.  With ``False`` they are
            drawn one by one, for a model that can't take z of shape (K, M, J).

    Raises:
        ValueError: for a latent that isn't in the data plate (dim=-1, one entry a datapoint), a guide that lacks a
            latent of the model or has one too many, or a model that can't broadcast over particles.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):  # the exact posterior: every weight is p(x)
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> density = log_density(model, guide, torch.tensor([0.0, 2.0]), num_particles=3)
    >>> [[round(w, 4) for w in row] for row in density.log_weight.tolist()]
    [[-1.2655, -2.2655], [-1.2655, -2.2655], [-1.2655, -2.2655]]
    """
    dim = -1 - pair_depth(model, guide, args) if vectorize and num_particles > 1 else None
    return _draw(model, guide, args, num_particles, dim)


def capture_log_density(
    model: PyroCallable,
    guide: PyroCallable,
    *,
    num_particles: int = 1,
    vectorize: bool = True,
    compile: Compile = True,
    precision: Precision = "float32",
) -> Capture:
    """Return :func:`log_density` of this pair on the fast path, a function of the minibatch that keeps no gradient.

    Worth it where it is called often: estimates with many particles, many minibatches, many evaluations.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> density = capture_log_density(model, guide, num_particles=3, compile="graph")
    >>> density(torch.tensor([0.0, 2.0])).log_weight.shape
    torch.Size([3, 2])
    """
    parameters = ParameterRecorder()
    recorded = parameters(model), parameters(guide)
    dim: int | None = None

    @torch.no_grad()
    def density(*args: Tensor) -> LogDensity:
        nonlocal dim
        if dim is None and vectorize and num_particles > 1:
            dim = -1 - pair_depth(*recorded, args)
        return _draw(*recorded, args, num_particles, dim)

    leaves = lambda: {name: p.unconstrained for name, p in parameters.parameters.items()}  # noqa: E731
    return Capture(density, leaves, [model, guide], compile=compile, precision=precision)


def _draw(
    model: PyroCallable, guide: PyroCallable, args: tuple[Tensor, ...], num_particles: int, dim: int | None
) -> LogDensity:
    """Draw the particles in dimension ``dim``, or one by one where that is ``None``."""
    if num_particles < 1:
        raise ValueError(f"expected num_particles of 1 or more, got {num_particles}")
    if num_particles == 1:
        return _one_pass(model, guide, args, len(args[0]), None)
    if dim is None:
        particles = [_one_pass(model, guide, args, len(args[0]), None) for _ in range(num_particles)]
        return LogDensity(*(torch.cat(field) for field in zip(*particles, strict=True)))
    with pyro.plate("particles", num_particles, dim=dim):
        return _one_pass(model, guide, args, len(args[0]), (dim, num_particles))


def _one_pass(
    model: PyroCallable, guide: PyroCallable, args: tuple[Tensor, ...], num_data: int, particles: tuple[int, int] | None
) -> LogDensity:
    with broadcasting(particles, "vectorize"):
        guide_trace, model_trace = trace_pair(model, guide, args)
        log_joint = sum_log_prob(model_trace, num_data, particles)
    return LogDensity(log_joint, sum_log_prob(guide_trace, num_data, particles))


@contextmanager
def broadcasting(particles: tuple[int, int] | None, argument: str) -> Iterator[None]:
    """Say what is expected where a pair can't be run on all its particles at once; ``argument`` is what to turn off."""
    try:
        yield
    except RuntimeError as error:
        if particles is None or isinstance(error, NotImplementedError):
            raise
        raise ValueError(
            f"expected a model and a guide that broadcast over {particles[1]} particles (latents of shape "
            f"(K, M, ...)), got the error below; index with z[..., j] and flatten with z.flatten(-2), "
            f"or pass {argument}=False"
        ) from error


def trace_pair(
    model: PyroCallable, guide: PyroCallable, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> tuple[Trace, Trace]:
    """Run the guide, then the model on its latents; return both traces, (guide, model)."""
    kwargs = kwargs or {}
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    check_sites(model_trace, guide_trace)
    return guide_trace, model_trace


def check_sites(model_trace: Trace, guide_trace: Trace) -> None:
    """Raise ``ValueError`` unless the guide samples exactly the model's latents (and auxiliary ones marked so)."""
    latents, proposed = set(latent_sites(model_trace)), latent_sites(guide_trace)
    if missing := sorted(latents - set(proposed)):
        raise ValueError(
            f"expected a guide that samples every latent of the model, got none for {missing}; "
            f"add pyro.sample({missing[0]!r}, ...) to the guide, or obs= to the model"
        )
    extra = [n for n in sorted(set(proposed) - latents) if not proposed[n]["infer"].get("is_auxiliary")]
    if extra:
        raise ValueError(
            f"expected a guide whose sites are latents of the model, got {extra} besides; "
            "rename them, or mark them infer={'is_auxiliary': True}"
        )


def latent_sites(trace: Trace) -> dict[str, Any]:
    """Return the sites of ``trace`` that are sampled: neither observed nor a plate's choice of a subsample."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }


def observed_sites(trace: Trace) -> dict[str, Any]:
    """Return the observed sample sites of ``trace``."""
    return {
        n: s for n, s in trace.nodes.items() if s["type"] == "sample" and s["is_observed"] and not site_is_subsample(s)
    }


def sum_log_prob(trace: Trace, num_data: int, particles: tuple[int, int] | None = None) -> Tensor:
    """Sum a trace's log probabilities over everything but particles and datapoints: shape (K, M), in nats.

    ``particles`` is the (negative) dimension of the particles and their number K; ``None`` stands for K=1 without
    a dimension.  Masks count, scales don't.
    """
    total = None
    for name, site in (latent_sites(trace) | observed_sites(trace)).items():
        term = per_particle(site_log_prob(name, site, num_data), num_data, particles)
        total = term if total is None else total + term
    if total is None:
        raise ValueError("expected a model and a guide with pyro.sample statements, got none")
    return total


def per_particle(term: Tensor, num_data: int, particles: tuple[int, int] | None) -> Tensor:
    """Sum a site's term (..., M) over the plates between particles and datapoints: shape (K, M)."""
    if particles is None:
        term = term.reshape(-1, num_data).sum(0) if term.dim() > 1 else term
        return term.expand(1, num_data)
    dim, num_particles = particles
    term = term.reshape((1,) * (-dim - term.dim()) + term.shape) if term.dim() < -dim else term
    term = term.sum(tuple(range(dim + 1, -1))) if dim < -2 else term
    return term.expand(num_particles, num_data)


def site_log_prob(name: str, site: Any, num_data: int) -> Tensor:
    """Return one site's log probability, masked but not scaled, shape (..., M); raise where it isn't in the plate."""
    check_plate(name, site, num_data)
    return masked_term(name, site["fn"].log_prob(site["value"]), num_data, site["mask"])


def check_plate(name: str, site: Any, num_data: int) -> None:
    """Raise ``ValueError`` unless the site is in a plate of ``num_data`` entries at dim=-1."""
    frame = data_frame(name, site)
    if frame.size != num_data:
        raise ValueError(
            f"expected site {name!r} in a plate of {num_data} datapoints at dim=-1, got plate {frame.name!r} of "
            f"{frame.size}; use pyro.plate('data', N, subsample_size=len(x)) or pyro.plate('data', len(x))"
        )


def data_frame(name: str, site: Any) -> CondIndepStackFrame:
    """Return the entry of the site's data plate, the one at dim=-1; raise ``ValueError`` where there is none."""
    frame = next((frame for frame in site["cond_indep_stack"] if frame.dim == -1), None)
    if frame is None:
        raise ValueError(
            f"expected site {name!r} in the data plate (dim=-1), got it outside any; a local variable goes inside "
            "`with pyro.plate('data', len(x))`, a global latent is given a value first: pyro.condition(model, {...})"
        )
    return frame


def masked_term(name: str, term: Tensor, num_data: int, mask: Any) -> Tensor:
    """Return a site's term (..., M), zero where the mask is; raise where it has no entry for each datapoint."""
    if term.shape[-1:] != (num_data,):
        raise ValueError(
            f"expected log probabilities of site {name!r} that end in one entry for each of {num_data} datapoints, got "
            f"shape {tuple(term.shape)}; declare the dimensions of one datapoint with .to_event(...)"
        )
    return scale_and_mask(term, mask=mask)


def pair_depth(model: PyroCallable, guide: PyroCallable, args: tuple[Tensor, ...]) -> int:
    """Run the pair once and return its :func:`plate_depth`; leave random state as it was."""
    with torch.no_grad(), torch.random.fork_rng(), poutine.block():
        return plate_depth(*trace_pair(model, guide, args))


def plate_depth(*traces: Trace) -> int:
    """Return how many batch dimensions the plates of these traces take up."""
    sites = [site for trace in traces for site in (latent_sites(trace) | observed_sites(trace)).values()]
    return max((-f.dim for site in sites for f in site["cond_indep_stack"] if f.vectorized), default=1)
