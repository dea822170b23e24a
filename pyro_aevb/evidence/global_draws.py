"""The posterior predictive density of a datapoint in a model with global latents, from draws of them.

Shapes: N datapoints, S draws of the global latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.evidence.importance_weights import SAFE_PARETO_K, log_mean, widened
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.traces import PyroCallable, drawn


def condition(
    model: PyroCallable, guide: PyroCallable | None, values: Mapping[str, Tensor], hidden: Sequence[str] = ()
) -> tuple[PyroCallable, PyroCallable | None]:
    """Return model and guide with global latents at these values.

    Args:
        model: p(w) p(z|w) p(x|z, w).
        guide: q(w) q(z|x, w), or ``None``.
        values: of the global latents, by name.
        hidden: sites of the guide that its global latents are computed from.
    """
    if guide is not None and hidden:
        guide = poutine.block(guide, hide=list(hidden))
    data = dict(values)
    return pyro.condition(model, data), None if guide is None else pyro.condition(guide, data)


def check_given(reading: Reading, given: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` unless the values are of sites that a model with these conditioned on has outside its plate.

    Args:
        reading: of the model, its sites at the given values.
        given: these values, by name.
    """
    sites = {name: site for name, site in reading.model.items() if site.role == "given"}
    if strangers := sorted(set(given) - set(sites)):
        raise ValueError(
            f"expected given values of the model's global latents, got {strangers}, which aren't among "
            f"{sorted(sites) or 'its sites outside of the data plate, of which there are none'}; give each by the name "
            "of its site: given={'w': tensor}"
        )


class GlobalDraws:
    """Model and guide at one draw w ~ q(w) after another: each new draw takes the place of the last, in its tensors.

    Args:
        model: p(w) p(z|w) p(x|z, w).
        guide: q(w) q(z|x, w).
        reading: of the pair.
        args: a minibatch.

    Attributes:
        model, guide: given the last draw; one is made at the start.
    """

    def __init__(self, model: PyroCallable, guide: PyroCallable, reading: Reading, args: tuple[Any, ...]) -> None:
        self._draw_from, self._args, self._names = guide, args, list(reading.global_latents)
        self._values = self._drawn()
        hidden = [name for name, site in reading.guide.items() if site.role == "global auxiliary"]
        self.model, self.guide = condition(model, guide, self._values, hidden)

    @torch.no_grad()
    def renew(self) -> None:
        """Draw anew."""
        for name, value in self._drawn().items():
            self._values[name].copy_(value)

    @torch.no_grad()
    def _drawn(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in drawn(self._draw_from, self._args, self._names).items()}


def predictive(parts: Sequence[Evidence]) -> Evidence:
    """Return log 1/S sum_s p(x_n|w_s) from the evidence given each draw; its error covers draws and estimates alike.

    The effective sample size is that of the draws, whose weights are p(x_n|w_s); pareto_k is the worst there is, of
    these, too few for a tail below S = 25, or of the weights given a draw.

    Args:
        parts: the evidence given w_s, S of them.
    """
    sums = log_mean(torch.stack([part.value for part in parts]))
    value, error, ess = sums.result()
    methods = [part.method for part in parts if part.method is not None]
    return Evidence(
        value,
        widened(error, len(parts)),
        "lower",
        ess,
        _heaviest([sums.pareto_k(), *(part.pareto_k for part in parts if part.pareto_k is not None)]),
        None if parts[0].settled is None else torch.stack([p.settled for p in parts if p.settled is not None]).all(0),
        method=tuple("+".join(sorted(set(each))) for each in zip(*methods, strict=True)) if methods else None,
    )


def _heaviest(tails: Sequence[Tensor]) -> Tensor:
    """Return the shape of the heaviest tail; one that isn't known leaves open whether all are light."""
    stacked = torch.stack(list(tails))
    known = stacked.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).amax(0)
    return torch.where(known > SAFE_PARETO_K, known, stacked.amax(0))
