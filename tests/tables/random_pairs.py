"""Random model and guide pairs: a description, the pair that Pyro runs, and its numbers from torch.distributions.

A pair has one to three latents.  In the model z0, z1, z2 are drawn in this order, each from some of those before it;
the guide draws them in an order of its own.  A site's parameters are functions of one number h, a sum over
its parents.

``numbers`` adds up the densities row by row, in loops over datapoints and the members of the inner plate, from the
description and the values alone: no trace, no plate, no mask or scale of Pyro's.

Shapes: K particles, M datapoints, I members of a datapoint.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from hypothesis import strategies as st
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import get_plates

MEMBERS, N = 2, 40
WIDTHS = {"model": 0.8, "guide": 0.6}
COEFFICIENTS = (0.9, -0.7, 0.5, -0.4)
THETA, PHI = (0.2, -0.3, 0.4, 0.1), (-0.1, 0.3, 0.2)
PARAMETERS = {
    "Normal": lambda h, width: {"loc": h, "scale": width * torch.ones_like(h)},
    "LogNormal": lambda h, width: {"loc": 0.5 * h, "scale": width * torch.ones_like(h)},
    "Gamma": lambda h, width: {"concentration": 1.5 + torch.sigmoid(h), "rate": torch.exp(-0.3 * h) / width},
    "Poisson": lambda h, width: {"rate": h.exp()},
    "Bernoulli": lambda h, width: {"logits": h},
}


@dataclass(frozen=True)
class Latent:
    """``parents`` in the model, ``drawn_from`` in the guide; masks by name, "" for none; the halves with its scale."""

    family: str
    vector: bool
    inner: bool
    parents: tuple[int, ...]
    drawn_from: tuple[int, ...]
    model_mask: str
    guide_mask: str
    scale: float
    scaled: tuple[str, ...]


@dataclass(frozen=True)
class Observation:
    """The observed site."""

    family: str
    vector: bool
    inner: bool
    parents: tuple[int, ...]
    mask: str
    scale: float


@dataclass(frozen=True)
class Description:
    """``order``: in which the guide draws; ``outer``: a scale around everything, 0 for one a datapoint."""

    latents: tuple[Latent, ...]
    order: tuple[int, ...]
    observation: Observation
    plate: str
    data_left: bool
    outer: float
    num_data: int
    seed: int

    @property
    def has_members(self):
        return any(site.inner for site in (*self.latents, self.observation))

    @property
    def depth(self):
        """How many dimensions the plates take up."""
        return 2 if self.data_left or self.has_members else 1

    @property
    def undecided(self):
        """Whether nothing tells the data plate from the members' plate if there are as many of both."""
        inner = all(site.inner for site in (*self.latents, self.observation))
        return self.data_left and inner and self.plate in ("len(x)", "no size")

    @property
    def chained(self):
        """Whether the guide draws latents from each other."""
        return any(latent.drawn_from for latent in self.latents)

    @property
    def scales(self):
        """Of the observation and the latents, those around everything left out."""
        return [self.observation.scale, *(latent.scale for latent in self.latents)]

    def entangled(self, i):
        """Whether p(z_i) depends on a latent that the guide draws from z_i, at once or on the way."""
        ancestors: dict[int, set[int]] = {}
        for j in self.order:
            direct = set(self.latents[j].drawn_from)
            ancestors[j] = direct.union(*(ancestors[k] for k in direct))
        return any(i in ancestors[j] for j in self.latents[i].parents)


PLATES = ("len(x)", "no size", "N", "subsample")


@st.composite
def descriptions(draw, *, num_latents=(1, 3), plain=False):
    """Pairs of every kind; ``plain``: latents of one number, no inner plate, masks or scales."""
    count = draw(st.integers(*num_latents))
    order = tuple(draw(st.permutations(range(count))))
    some = lambda of: tuple(i for i in of if draw(st.booleans()))  # noqa: E731
    flag = lambda: not plain and draw(st.booleans())  # noqa: E731
    has_members = flag()
    data_left = flag() and draw(st.booleans())
    outer = 1.0 if plain else draw(st.sampled_from((1.0, 1.0, 0.01, 30.0) if data_left else (1.0, 1.0, 0.01, 0.0)))
    scales = (1.0,) if plain or outer != 1.0 else (1.0, 1.0, 0.5, 3.0)

    def mask(inner):
        return "" if plain else draw(st.sampled_from(("", "", "first", "second", *(("ragged",) if inner else ()))))

    latents = []
    for i in range(count):
        inner = has_members and draw(st.booleans())
        latents.append(
            Latent(
                family=draw(st.sampled_from(("Normal", "LogNormal", "Gamma"))),
                vector=flag(),
                inner=inner,
                parents=some(range(i)),
                drawn_from=some(order[: order.index(i)]),
                model_mask=mask(inner),
                guide_mask=mask(inner),
                scale=draw(st.sampled_from(scales)),
                scaled=draw(st.sampled_from((("model",), ("guide",), ("model", "guide")))),
            )
        )
    inner = has_members and (draw(st.booleans()) or not any(latent.inner for latent in latents))
    observation = Observation(
        family=draw(st.sampled_from(("Normal", "Poisson", "Bernoulli"))),
        vector=flag(),
        inner=inner,
        parents=some(range(count)),
        mask=mask(inner),
        scale=draw(st.sampled_from(scales)),
    )
    return Description(
        tuple(latents),
        order,
        observation,
        plate=draw(st.sampled_from(PLATES)),
        data_left=data_left,
        outer=outer,
        num_data=draw(st.sampled_from((1, 3, 4))),
        seed=draw(st.integers(0, 2**16)),
    )


def data_of(description, num_data=None):
    """x, two masks of datapoints (M, 2), one of members (M, I), the datapoints' numbers (M,)."""
    generator = torch.Generator().manual_seed(description.seed)
    m, site = num_data or description.num_data, description.observation
    shape = (m, *(MEMBERS,) * site.inner, *(2,) * site.vector)
    x = 1.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    x = {"Normal": x, "Poisson": (2 * x).abs().floor(), "Bernoulli": (x > 0).double()}[site.family]
    keep, ragged = (torch.rand(m, 2, generator=generator) < 0.7 for _ in range(2))
    return x, keep, ragged, torch.arange(m)


def outer_scales(description, index):
    """What everything is weighed with, (M,)."""
    return (
        0.5 + 0.25 * index.double() if description.outer == 0.0 else torch.full_like(index.double(), description.outer)
    )


# -- the pair that Pyro runs ------------------------------------------------------------------------------------------


class Fixed(Messenger):
    """Give the guide's latents these values, {name: (K, ...)}: as many particles as it is run with."""

    def __init__(self, values, description):
        super().__init__()
        self._values, self._description = values, description

    def _pyro_sample(self, msg):
        if msg["name"] in self._values:
            together = next((f.size for f in get_plates() if f.dim == -1 - self._description.depth), None)
            value = self._values[msg["name"]]
            msg["value"], msg["done"] = value[0] if together is None else value[:together], True


class RandomPair:
    """The model and the guide of a description.

    ``recorded`` is the guide that leaves its latents in ``draws``, a dictionary for each run.  ``values``: what the
    guide draws for each datapoint of the data set, {i: (K, M, I or 1, ...)}; else it draws itself.
    """

    def __init__(self, description, values=None):
        self.description, self.values, self.draws = description, values, []

    def model(self, x, keep, ragged, index):
        of = self.description
        theta = pyro.param("theta", torch.tensor(THETA, dtype=torch.float64))
        drawn = {}
        with self._around(index) as members:
            for i, latent in enumerate(of.latents):
                h = theta[i] + self._sum_over(latent.parents, drawn, i, latent.inner)
                scale = latent.scale if "model" in latent.scaled else 1.0
                mask = self._mask(latent.model_mask, keep, ragged)
                drawn[i] = self._sample(f"z{i}", latent, h, "model", mask, scale, len(x), members)
            site = of.observation
            h = theta[-1] + self._sum_over(site.parents, drawn, 3, site.inner)
            obs = x.transpose(0, 1) if site.inner and not of.data_left else x
            obs = obs.unsqueeze(1) if of.data_left and not site.inner else obs
            self._sample("x", site, h, "model", self._mask(site.mask, keep, ragged), site.scale, len(x), members, obs)

    def guide(self, x, keep, ragged, index):
        self._drawn(x, keep, ragged, index)

    def recorded(self, x, keep, ragged, index):
        self.draws.append({i: z.detach() for i, z in self._drawn(x, keep, ragged, index).items()})

    def _drawn(self, x, keep, ragged, index):
        of = self.description
        phi = pyro.param("phi", torch.tensor(PHI, dtype=torch.float64))
        feature = x.flatten(1).mean(1) if x.dim() > 1 else x
        feature = feature.tanh().unsqueeze(1) if of.data_left else feature.tanh()
        drawn = {}
        with ExitStack() as stack:
            if self.values is not None:
                given = {f"z{i}": from_rows(v[:, index], of, of.latents[i]) for i, v in self.values.items()}
                stack.enter_context(Fixed(given, of))
            members = stack.enter_context(self._around(index))
            for i in of.order:
                latent = of.latents[i]
                h = phi[i] + 0.5 * feature + self._sum_over(latent.drawn_from, drawn, i + 1, latent.inner)
                scale = latent.scale if "guide" in latent.scaled else 1.0
                mask = self._mask(latent.guide_mask, keep, ragged)
                drawn[i] = self._sample(f"z{i}", latent, h, "guide", mask, scale, len(x), members)
        return drawn

    @contextmanager
    def _around(self, index):
        """Enter the data plate and the scale around everything; give the members' plate."""
        of, m = self.description, len(index)
        dim = -2 if of.data_left else -1
        size = {
            "len(x)": {"size": m},
            "no size": {},
            "N": {"size": N, "subsample_size": m},
            "subsample": {"size": N, "subsample": index},
        }[of.plate]
        members = pyro.plate("members", MEMBERS, dim=-3 - dim) if of.has_members else None
        outer = 1.0 if of.outer == 1.0 else of.outer or outer_scales(of, index)
        with pyro.plate("data", dim=dim, **size), poutine.scale(scale=outer):
            yield members

    def _sum_over(self, parents, drawn, offset, inner):
        """What the parents add to h, in the shape of the plates."""
        total = torch.zeros((), dtype=torch.float64)
        for j in parents:
            latent = self.description.latents[j]
            summary = drawn[j].tanh().mean(-1) if latent.vector else drawn[j].tanh()
            if latent.inner and not inner:
                summary = summary.mean(-1 if self.description.data_left else -2, keepdim=True)
            total = total + COEFFICIENTS[(offset + j) % 4] * summary
        return total

    def _mask(self, name, keep, ragged):
        if name == "ragged":
            return ragged if self.description.data_left else ragged.t()
        mask = keep[:, {"first": 0, "second": 1}[name]] if name else None
        return mask.unsqueeze(1) if mask is not None and self.description.data_left else mask

    def _sample(self, name, site, h, half, mask, scale, num_data, members, obs=None):
        of = self.description
        with ExitStack() as stack:
            if site.inner:
                stack.enter_context(members)
            if mask is not None:
                stack.enter_context(poutine.mask(mask=mask))
            if scale != 1.0:
                stack.enter_context(poutine.scale(scale=scale))
            if of.plate == "no size":  # then nothing else says how many datapoints there are
                inner = (MEMBERS,) if site.inner else ()
                size = (num_data, *(inner or (1,))) if of.data_left else (*inner, num_data)
                h = h.expand(torch.broadcast_shapes(h.shape, size))
            if site.vector:
                h = h.unsqueeze(-1) * torch.tensor([1.0, -0.5], dtype=h.dtype) + 0.1
            fn = getattr(dist, site.family)(**PARAMETERS[site.family](h, WIDTHS[half]))
            return pyro.sample(name, fn.to_event(int(site.vector)), obs=obs)

    def last_draws(self, num_particles, together):
        """What the last K particles were, {i: (K, M, I or 1, ...)}."""
        runs = self.draws[-1:] if together and num_particles > 1 else self.draws[-num_particles:]
        of = self.description
        return {
            i: torch.cat([to_rows(run[i], of, of.latents[i], together and num_particles > 1) for run in runs])
            for i in range(len(of.latents))
        }


def to_rows(value, description, site, particles):
    """Return a site's value as (K, M, I or 1, ...)."""
    event = value.shape[value.dim() - site.vector :]
    batch = list(value.shape[: value.dim() - site.vector])
    if description.depth == 1:
        batch.insert(len(batch) - 1, 1)  # the dimension that no site has an inner plate in
    batch = [1] * (3 - len(batch)) + batch
    assert particles or batch[0] == 1
    value = value.reshape(*batch, *event)
    return value if description.data_left else value.transpose(1, 2)


def from_rows(rows, description, site):
    """Return (K, M, I or 1, ...) in the shape that the site has in the plates."""
    value = rows if description.data_left else rows.transpose(1, 2)
    return value.squeeze(1) if description.depth == 1 else value


# -- its numbers, from torch.distributions ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """log p(x|z), and for each latent log p(z), log q(z|x) and KL(q || p), masks applied, each (K, M)."""

    log_likelihood: torch.Tensor
    log_prior: dict[int, torch.Tensor]
    log_q: dict[int, torch.Tensor]
    kl: dict[int, torch.Tensor]

    @property
    def log_joint(self):
        return self.log_likelihood + sum(self.log_prior.values())

    @property
    def log_weight(self):
        """Without scales."""
        return self.log_joint - sum(self.log_q.values())

    def scaled_log_weight(self, description):
        """With the scales of the sites, unless they all are the same."""
        first, *others = description.scales
        if all(scale == first for scale in others):
            return self.log_weight
        latents = (others[i] * (self.log_prior[i] - self.log_q[i]) for i in self.log_prior)
        return first * self.log_likelihood + sum(latents)


def numbers(description, values, x, keep, ragged):
    """Return the pair's numbers at latents {i: (K, M, I or 1, ...)}, datapoint by datapoint, member by member."""
    latents, site = description.latents, description.observation
    k, m = next(iter(values.values())).shape[:2]
    found = {what: torch.zeros(k, m, dtype=torch.float64) for what in ("x", *(
        (what, i) for what in ("p", "q", "kl") for i in values))}  # fmt: skip

    def summary(j, row, member, inner):
        mean = values[j][:, row].tanh().reshape(k, values[j].shape[2], -1).mean(-1)
        if not latents[j].inner:
            return mean[:, 0]
        return mean[:, member] if inner else mean.mean(1)

    def distribution(of, h, half):
        h = torch.stack([h + 0.1, 0.1 - 0.5 * h], -1) if of.vector else h
        made = getattr(torch.distributions, of.family)(**PARAMETERS[of.family](h, WIDTHS[half]))
        return torch.distributions.Independent(made, int(of.vector))

    def sum_over(parents, offset, row, member, inner, start):
        h = torch.full((k,), start, dtype=torch.float64)
        for j in parents:
            h = h + COEFFICIENTS[(offset + j) % 4] * summary(j, row, member, inner)
        return h

    def counts(mask, row, member):
        return {"": True, "first": keep[row, 0], "second": keep[row, 1], "ragged": ragged[row, member]}[mask]

    for row in range(m):
        feature = 0.5 * math.tanh(x[row].mean())
        for i, latent in enumerate(latents):
            for member in range(MEMBERS if latent.inner else 1):
                if not (counts(latent.model_mask, row, member) and counts(latent.guide_mask, row, member)):
                    continue
                h = sum_over(latent.parents, i, row, member, latent.inner, THETA[i])
                p = distribution(latent, h, "model")
                h = sum_over(latent.drawn_from, i + 1, row, member, latent.inner, PHI[i] + feature)
                q = distribution(latent, h, "guide")
                value = values[i][:, row, member]
                found["p", i][:, row] += p.log_prob(value)
                found["q", i][:, row] += q.log_prob(value)
                found["kl", i][:, row] += torch.distributions.kl_divergence(q, p)
        for member in range(MEMBERS if site.inner else 1):
            if counts(site.mask, row, member):
                h = sum_over(site.parents, 3, row, member, site.inner, THETA[-1])
                found["x"][:, row] += distribution(site, h, "model").log_prob(x[row, member] if site.inner else x[row])
    by = {what: {i: found[what, i] for i in values} for what in ("p", "q", "kl")}
    return Numbers(found["x"], by["p"], by["q"], by["kl"])
