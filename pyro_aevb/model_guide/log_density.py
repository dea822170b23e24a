"""Per-datapoint log densities of any (model, guide) pair: log p(x, z), log q(z|x), log w.

Pyro sums log probabilities over the minibatch and weighs them with plate scales.  Evaluation wants neither: here
every datapoint and every particle keeps its own number, and a row's number never depends on its neighbours.

Shapes: K particles, M datapoints, V values of what the guide enumerates (1 if that is nothing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from pyro_aevb.arguments import arranged, as_arguments
from pyro_aevb.capture.capture import Capture, Compile
from pyro_aevb.capture.precision import Precision
from pyro_aevb.capture.python_state import PythonState
from pyro_aevb.data_source import taken_apart
from pyro_aevb.model_guide.contract import check_options, given, read
from pyro_aevb.model_guide.guide_values import GuideValues, enumerated, expected, log_share, summed
from pyro_aevb.model_guide.local_densities import require_local_densities
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.parameters import ParameterRecorder
from pyro_aevb.model_guide.reading import read_traces
from pyro_aevb.model_guide.shared_noise import check_noise
from pyro_aevb.model_guide.sites import Particles
from pyro_aevb.model_guide.structure import structure
from pyro_aevb.model_guide.supports import Inside
from pyro_aevb.model_guide.traces import PyroCallable, broadcasting, number_of_datapoints, trace_pair
from pyro_aevb.one_thread import one_thread
from pyro_aevb.short_repr import short_repr


class LogDensity(NamedTuple):
    """log p(x, z) and log q(z|x), each of shape (K, M), in nats; given w, in a model with global latents w.

    Where the guide enumerates latents y, each of their V values has K particles: (V K, M), the values first.

    ``global_log_weight``: log p(w) - log q(w) of the global latents, once for the whole data set, (K,): each particle
    has its own draw of w, and all datapoints have it in common.  Without global latents it is empty, (0,).
    ``log_share``: log q(y|x) of the enumerated values, (V, K, M); zeros of shape (1, K, M) without any.
    ``log_given``: the log density of what the model observes outside of the data plate, once too, (K,); or (0,).
    """

    log_joint: Tensor
    log_q: Tensor
    global_log_weight: Tensor
    log_share: Tensor
    log_given: Tensor

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def log_weight(self) -> Tensor:
        """log w = log p(x, z) - log q(z|x), shape (K, M), or (V K, M)."""
        return self.log_joint - self.log_q

    @property
    def expected_log_weight(self) -> Tensor:
        """sum_y q(y|x) log w, (K, M): its mean over particles is the bound."""
        return self.log_weight if len(self.log_share) == 1 else expected(self.log_weight, self.log_share)

    @property
    def summed_log_weight(self) -> Tensor:
        """log sum_y q(y|x) w, (K, M): its exponential's mean over particles is p(x)."""
        return self.log_weight if len(self.log_share) == 1 else summed(self.log_weight, self.log_share)


@one_thread
def log_density(
    model: PyroCallable,
    guide: PyroCallable,
    *args: Any,
    num_particles: int = 1,
    vectorize: bool = True,
    **kwargs: Any,
) -> LogDensity:
    r"""Draw z_k ~ q(z|x) and return log p(x_m, z_km) and log q(z_km|x_m) for K particles and M datapoints.

    The mean of ``log_weight`` over particles is the estimator L^A of Kingma & Welling 2013, Eq. (6).  Plate scales
    (N/M) and ``poutine.scale`` are left out, masks are applied (one on a latent in either half counts for both),
    modules are in evaluation mode, and the result is differentiable.  What the guide observes doesn't count.  Global
    latents, outside of the data plate, are drawn with each particle, and have their log densities apart.  Each value
    of a latent that the guide enumerates has K particles: ``expected_log_weight`` and ``summed_log_weight`` sum over
    them.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)``.
        guide: q(z|x), called likewise.
        args: the minibatch, datapoints first; the first tensor is x, of shape (M, ...).
        num_particles: K.
        vectorize: draw the particles in one pass, with a plate left of the model's own.  With ``False`` they are
            drawn one by one, for a model that can't take z of shape (K, M, J).
        kwargs: what model and guide take by name.

    Raises:
        ValueError: for a guide that lacks a latent of the model or has one too many, a model that can't broadcast over
            particles or has random numbers of its own that they share, and any other pair that breaks the contract.

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
    call = as_arguments(args, kwargs)
    check_options((model, guide), call, **given(num_particles=(num_particles, 1), vectorize=(vectorize, True)))
    args, form = taken_apart(call)
    model, guide = arranged(model, form), arranged(guide, form)
    return repeated_log_density(model, guide, num_particles=num_particles, vectorize=vectorize)(*args)


def repeated_log_density(
    model: PyroCallable,
    guide: PyroCallable,
    *,
    num_particles: int = 1,
    vectorize: bool = True,
    points: bool = True,
    parameters: ParameterRecorder | None = None,
) -> Callable[..., LogDensity]:
    """Return :func:`log_density` of this pair as a function of minibatches, of which the first is read for all.

    Args:
        model: p(x, z).
        guide: q(z|x).
        num_particles: K.
        vectorize: as for :func:`log_density`.
        points: whether point masses of continuous latents may stand, as in the objective of MAP.
        parameters: gets the parameters that the pair names.

    >>> from pyro_aevb.model_guide.log_density import repeated_log_density
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> density = repeated_log_density(model, guide, num_particles=3)
    >>> density(torch.zeros(2)).log_weight.shape, density(torch.zeros(4)).log_weight.shape
    (torch.Size([3, 2]), torch.Size([3, 4]))
    """
    recorded = (model, guide) if parameters is None else (parameters(model), parameters(guide))
    modules: list[nn.Module] = []
    first: _Passes | None = None

    @one_thread
    def density(*args: Tensor) -> LogDensity:
        nonlocal first, modules
        if first is None:
            reading = read(*recorded, args, modules=PythonState([model, guide]).modules)
            modules = PythonState([model, guide]).modules  # those too that the first call made
            reading.require_whole_plates()
            require_local_densities(reading, model, guide, args, points=points)
            values = enumerated(reading, guide)
            dim = -1 - reading.depth if vectorize and num_particles * math.prod(values.values()) > 1 else None
            if dim is not None:
                structure(model, guide, args, analytic_kl=False, several=True)
                check_noise(model, guide, args, reading, modules)
            first = _Passes(num_particles, dim, reading.unchecked, values)
        with evaluated(*recorded, modules) as (its_model, its_guide, _):
            return _draw(its_model, its_guide, args, first)

    return density


def capture_log_density(
    model: PyroCallable,
    guide: PyroCallable,
    *,
    num_particles: int = 1,
    vectorize: bool = True,
    compile: Compile = True,
    precision: Precision = "float32",
    points: bool = True,
) -> Capture:
    """Return :func:`log_density` of this pair on the fast path, a function of the minibatch that keeps no gradient.

    Worth it if it is called often: estimates with many particles, many minibatches, many evaluations.

    Args:
        model: p(x, z).
        guide: q(z|x).
        num_particles: K.
        vectorize: as for :func:`log_density`.
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`.
        precision: of matrix products.
        points: whether point masses of continuous latents may stand, as in the objective of MAP.

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
    density = torch.no_grad()(
        repeated_log_density(
            model, guide, num_particles=num_particles, vectorize=vectorize, points=points, parameters=parameters
        )
    )
    leaves = lambda: {name: p.unconstrained for name, p in parameters.parameters.items()}  # noqa: E731
    return Capture(density, leaves, [model, guide], compile=compile, precision=precision)


class _Passes(NamedTuple):
    """How particles are drawn: all at once in dimension ``dim``, or one by one if that is ``None``.

    ``unchecked`` are the sites whose support isn't checked; ``values``, how many each enumerated latent has.
    """

    num_particles: int
    dim: int | None
    unchecked: frozenset[str]
    values: Mapping[str, int]


def _draw(model: PyroCallable, guide: PyroCallable, args: tuple[Any, ...], passes: _Passes) -> LogDensity:
    """Draw the particles, for each of the guide's values."""
    num_particles, dim, unchecked, values = passes
    if num_particles < 1:
        raise ValueError(f"expected num_particles of 1 or more, got {num_particles}")
    rows = num_particles * math.prod(values.values())
    handler = GuideValues(values, num_particles, dim) if values else nullcontext()
    if rows == 1:
        with handler:
            drawn = _one_pass(model, guide, args, None, unchecked, values)
    elif dim is None:
        particles = []
        for row in range(rows):
            if isinstance(handler, GuideValues):
                handler.row = row
            with handler:
                particles.append(_one_pass(model, guide, args, None, unchecked, values))
        drawn = LogDensity(*(torch.cat(field) for field in zip(*particles, strict=True)))
    else:
        with handler, pyro.plate("particles", rows, dim=dim):
            drawn = _one_pass(model, guide, args, (dim, rows), unchecked, values)
    of_globals, given = (each[:num_particles] for each in (drawn.global_log_weight, drawn.log_given))  # of each value
    shares = drawn.log_share.reshape(-1, num_particles, drawn.log_share.shape[-1])
    return drawn._replace(global_log_weight=of_globals, log_share=shares, log_given=given)


def _one_pass(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Any, ...],
    particles: Particles | None,
    unchecked: frozenset[str],
    values: Mapping[str, int],
) -> LogDensity:
    with broadcasting(particles), Inside(unchecked) as inside:
        guide_trace, model_trace = trace_pair(model, guide, args)
        reading = read_traces(model_trace, guide_trace, number_of_datapoints(args), particles)
        reading.require_summed()
        log_joint = inside.or_nan(reading.sum_log_prob((reading.latents | reading.observations).values()))
        proposals = reading.proposals.values()  # none, for a model without latents: then the weight is p(x)
        log_q = reading.sum_log_prob(proposals) if proposals else torch.zeros_like(log_joint)
        of_globals = log_joint.new_zeros(0)
        if reading.global_proposals:
            log_p = reading.sum_global_log_prob(reading.global_latents.values())
            log_weight = log_p - reading.sum_global_log_prob(reading.global_proposals.values())
            of_globals = log_weight.expand(len(log_joint))
        given = reading.sites("model", "given").values()
        log_given = reading.sum_global_log_prob(given).expand(len(log_joint)) if given else log_joint.new_zeros(0)
        share = log_share(reading, values)
    shares = torch.zeros_like(log_joint) if share is None else share
    return LogDensity(log_joint, log_q, of_globals, shares, log_given)
