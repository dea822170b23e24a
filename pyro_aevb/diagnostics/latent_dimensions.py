r"""Each entry of a latent by itself: its part of the KL, and whether it moves with x.

.. math:: KL_j = E_x E_q [KL(q(z_j|x) || p(z_j))], \qquad A_j = Var_x (E_{q(z|x)}[z_j])

The first is there for latents whose entries are independent in q and p alike.  The second is the activity of Burda,
Grosse and Salakhutdinov, *Importance weighted autoencoders*, 2016, Section 5.2; the noise of E_q from K draws,
Var_q / K, is taken off.  Of an angle both are those of numbers within half a turn of its mean on the circle.

Shapes: K draws, N datapoints, M of a minibatch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_aevb.diagnostics.passes import layouts_of, passes
from pyro_aevb.distributions.angles import unrolled
from pyro_aevb.distributions.kl import kl_divergence
from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.guide_values import enumerated
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.sites import Site
from pyro_aevb.model_guide.structure import structure
from pyro_aevb.model_guide.traces import PyroCallable, number_of_datapoints
from pyro_aevb.posterior.angles import angles_of
from pyro_aevb.posterior.cells import cells_of


class LatentDimensions(NamedTuple):
    """``kl``: {site: (...)}, in nats, the mean over data, of latents that factorise; ``activity``: {site: (...)}."""

    kl: dict[str, Tensor]
    activity: dict[str, Tensor]


class _Pass(NamedTuple):
    """Of a minibatch, by site: KL (M, ...), and z's mean and variance over draws (M, ...)."""

    kl: dict[str, Tensor]
    mean: dict[str, Tensor]
    variance: dict[str, Tensor]


@torch.no_grad()
def latent_dimensions(
    model: PyroCallable,
    guide: PyroCallable,
    batches: Iterable[tuple[Tensor, ...]],
    num_particles: int,
    vectorize: bool = True,
) -> LatentDimensions:
    """Return the KL and the activity of each entry of each latent; nothing for a guide that enumerates latents.

    Args:
        model: p(x, z), in evaluation mode.
        guide: q(z|x), likewise.
        batches: minibatches of the data.
        num_particles: K, 2 or more.
        vectorize: whether all draws are made in one pass.
    """
    parts: list[_Pass] = []
    angles: dict[str, Tensor] = {}
    for batch in batches:
        reading = read(model, guide, batch)
        angles |= angles_of(reading)
        if enumerated(reading, guide):
            return LatentDimensions({}, {})
        parts.append(_minibatch(model, guide, batch, reading, num_particles, vectorize))
    kl = {name: torch.cat([part.kl[name] for part in parts]).mean(0) for name in parts[0].kl}
    activity = {}
    for name in parts[0].mean:
        mean, noise = (torch.cat([getattr(part, of)[name] for part in parts]) for of in ("mean", "variance"))
        mean = unrolled(mean, angles[name]) if name in angles else mean
        between = mean.var(0) if len(mean) > 1 else torch.zeros_like(mean[0])
        activity[name] = (between - noise.mean(0) / num_particles).clamp(min=0.0)
    return LatentDimensions(kl, activity)


def _minibatch(
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Tensor, ...],
    reading: Reading,
    num_particles: int,
    vectorize: bool,
) -> _Pass:
    kl, drawn, size = dict[str, list[Tensor]](), dict[str, list[Tensor]](), number_of_datapoints(args)
    layouts = layouts_of(reading)
    closed_form = structure(model, guide, args, analytic_kl=True, several=vectorize).closed_form
    for found, at_once in passes(model, guide, args, reading, num_particles, vectorize):
        for name, site in found.latents.items():
            layout = layouts[name]
            drawn.setdefault(name, []).append(layout.datapoints_second(site.value, at_once, size))
            if (term := _kl(site, found, name in closed_form)) is not None:
                kl.setdefault(name, []).append(layout.datapoints_second(term, at_once, size))
    z = {name: torch.cat(each) for name, each in drawn.items()}
    z = {name: each if each.is_floating_point() else each.to(torch.get_default_dtype()) for name, each in z.items()}
    angles = angles_of(reading)
    z = {name: unrolled(each, angles[name]) if name in angles else each for name, each in z.items()}
    return _Pass(
        {name: torch.cat(each).mean(0) for name, each in kl.items()},
        {name: each.mean(0) for name, each in z.items()},
        {name: each.var(0) for name, each in z.items()},
    )


def _kl(site: Site, reading: Reading, closed_form: bool) -> Tensor | None:
    """Return KL(q(z_j|x) || p(z_j)) of each entry, in closed form or at the draw; ``None`` of dependent ones."""
    proposal = reading.guide[site.name]
    (q, q_dims), (p, p_dims) = cells_of(proposal.fn), cells_of(site.fn)
    if q.event_shape or p.event_shape or q_dims != p_dims:
        return None
    term = kl_divergence(q, p) if closed_form else q.log_prob(site.value) - p.log_prob(site.value)
    mask = site.mask
    if isinstance(mask, Tensor):
        mask = mask.reshape(mask.shape + (1,) * q_dims)
    return scale_and_mask(term.expand(site.value.shape) if term.dim() < site.value.dim() else term, mask=mask)
