"""Random numbers of a pair's own, beside what its sites draw, that several particles at once have in common.

Each weight is right by itself then, but the particles aren't independent, and no error of their mean can tell.

Shapes: K particles, M datapoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_aevb.capture.graph import is_tracing
from pyro_aevb.model_guide.dependence import latents_of
from pyro_aevb.model_guide.given_values import Given, log_densities
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.reading import Reading, read_traces
from pyro_aevb.model_guide.traces import PyroCallable, is_messenger, number_of_datapoints, on_a_side, trace_pair


def check_noise(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Any, ...],
    reading: Reading,
    modules: Sequence[nn.Module] | None = None,
) -> None:
    """Raise ``ValueError`` for a pair whose particles, run at once, have random numbers in common that no site draws.

    Args:
        model: p(x, z).
        guide: q(z|x).
        args: a minibatch.
        reading: of the pair, on this minibatch.
        modules: those that the pair can reach; found if not given.

    >>> from pyro_aevb.model_guide import read
    >>> from pyro_aevb.model_guide.shared_noise import check_noise
    >>> def pair(x, half):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         noise = torch.randn(len(x))  # and not torch.randn_like(z)
    ...         if half == "model":
    ...             pyro.sample("x", dist.Normal(z + noise, 1.0), obs=x)
    >>> model, guide = functools.partial(pair, half="model"), functools.partial(pair, half="guide")
    >>> check_noise(model, guide, (torch.zeros(3),), read(model, guide, (torch.zeros(3),)))
    Traceback (most recent call last):
        ...
    ValueError: expected particles that are drawn independently of each other, got random numbers at 'model.x' that...
    """
    if is_messenger(guide) or is_tracing():
        return
    dim, number = -1 - reading.depth, number_of_datapoints(args)

    def found() -> str | None:
        with pyro.plate("particles", 2, dim=dim):
            guide_trace, _ = trace_pair(its_model, its_guide, args)
        same = {name: _the_first(site, dim) for name, site in latents_of(guide_trace).items()}

        def run() -> dict[str, Tensor]:
            with Given(same), pyro.plate("particles", 2, dim=dim):
                guide_trace, model_trace = trace_pair(its_model, its_guide, args)
            return log_densities(read_traces(model_trace, guide_trace, number, (dim, 2)))

        one, other = run(), run()
        differ = [name for name in one if not _is_close(one[name], other[name])]
        return next((name for name in differ if _is_close(one[name][0], one[name][1])), None)

    try:
        with evaluated(model, guide, modules) as (its_model, its_guide, _), pyro.validation_enabled(False):
            name = on_a_side(found)
    except Exception:  # what can't be run like that is told when it is run like that
        return
    if name is not None:
        raise ValueError(
            f"expected particles that are drawn independently of each other, got random numbers at {name!r} that no "
            "site draws and that all particles have in common: each weight is right, the error of their mean isn't; "
            "draw them with pyro.sample, in sight, or in the shape of the latents (torch.randn_like(z)), or pass "
            "vectorize=False"
        )


def _the_first(site: Any, dim: int) -> Tensor:
    """Return the value of the first particle, for both."""
    value: Tensor = site["value"]
    place = dim - len(site["fn"].event_shape)
    return value if value.dim() < -place else value.select(place, 0).unsqueeze(place).expand_as(value).clone()


def _is_close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True)
