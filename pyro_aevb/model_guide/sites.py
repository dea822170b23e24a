"""The sites of a pair of traces: which are latents, which observations, their plates, masks and log probabilities.

Shapes: K particles, M datapoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

PyroCallable = Callable[..., Any]


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
