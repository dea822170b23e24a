"""The factor that DReG puts on the gradient between the model and the particles.

Shapes: K particles, M datapoints.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_aevb.capture.graph import is_tracing
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.sites import Scale


class GradientScale:
    """Multiplies the gradient that flows from the model into the particles by what is known only later.

    With w the normalised weights (K, M), ``weight``, and b the weight of a latent's log p - log q, ``counted``, zero
    where it is masked, the factor is b w + 1 - b: the score term that DReG reparameterises counts b times.  A latent
    and those that the guide draws it from have one factor, or it has no gradient, as in the padding of a sequence.
    """

    def __init__(self) -> None:
        self.weight: Tensor | None = None
        self.counted: dict[str, Scale] = {}
        self.drawn_from: Callable[[], Mapping[str, set[str]]] = dict

    def apply(
        self, trace: Trace, row: int, particles: tuple[int, int] | None, but_for: frozenset[str] = frozenset()
    ) -> Trace:
        """Return the guide's trace as the model is to see it; the latents of the names ``but_for`` stay as they are."""
        trace = trace.copy()
        nodes: dict[str, Any] = trace.nodes
        for name, site in list(nodes.items()):
            if site["type"] != "sample" or site["is_observed"] or name in but_for:
                continue
            if site["value"].requires_grad:
                value = site["value"].view_as(site["value"])
                value.register_hook(self._hook(name, value.shape, len(site["fn"].event_shape), row, particles))
                nodes[name] = {**site, "value": value}
        return trace

    def note(self, reading: Reading, weights: Mapping[str, Scale]) -> None:
        """Take each latent's b from its weight and mask, in the order that the guide draws them."""
        self.dim = reading.plate.dim
        for name, site in ((name, reading.latents[name]) for name in reading.proposals if name in reading.latents):
            mask = site.mask if isinstance(site.mask, Tensor) else site.mask is not False
            weight = weights[name]
            if isinstance(weight, Tensor) and weight.dim():
                weight = weight.reshape(-1, *[1] * (-self.dim - 1))
            self.counted[name] = weight if mask is True else weight * mask

    def _hook(self, name: str, shape: torch.Size, event_dim: int, row: int, particles: tuple[int, int] | None) -> Any:
        def scaled(gradient: Tensor) -> Tensor:
            assert self.weight is not None
            right = [1] * (-self.dim - 1)
            if particles is None:
                weight = self.weight[row].reshape(-1, *right)
            else:
                dim, num_particles = particles
                weight = self.weight.reshape(num_particles, *[1] * (self.dim - dim - 1), -1, *right)
            b = self.counted[name]
            if not (isinstance(b, float) and b == 1.0):
                weight = b * weight + (1 - b)
            if not is_tracing():  # values can't be read; the eager runs beside a graph read them
                self._check_one_mask(name, gradient, event_dim)
            return gradient * weight.reshape(*weight.shape, *[1] * event_dim)

        return scaled

    def _check_one_mask(self, name: str, gradient: Tensor, event_dim: int) -> None:
        """Raise ``ValueError`` if a latent has a gradient where one that the guide draws it from has another b."""
        b = self.counted[name]
        matters = (gradient != 0).reshape(*gradient.shape[: gradient.dim() - event_dim], -1).any(-1)
        for other in itertools.takewhile(name.__ne__, self.counted):
            its = self.counted[other]
            if its is b or (isinstance(its, float) and isinstance(b, float) and its == b):
                continue
            if (matters & torch.as_tensor(its != b)).any() and other in self.drawn_from().get(name, ()):
                raise ValueError(
                    f"expected one mask for latents that the guide draws from each other, got others for {other!r} and "
                    f"{name!r}, which is drawn from it and matters there; use IWAE(K), which takes any"
                )
