r"""Chains over z given the observed cells, proposed by the encoder at filled-in rows.

An encoder q(z|x) that was trained on whole rows knows z given x_o and x_m.  At a filled-in row each transition proposes

.. math:: z' \sim \tilde q(z') = (1 - \epsilon) \, q(z' | x_o, x_m) + \epsilon \, p(z').

In every other transition the chain fills in its own row, x_m ~ p(x_m|z), and z' is accepted with the probability
min(1, p(x_o, x_m, z') q~(z) / (p(x_o, x_m, z) q~(z'))): Metropolis-within-Gibbs, which moves by as much as the encoder
is wide.  In the others the filling is any of those that the chains of the datapoint ended their warm-up with, whatever
z is, and z' is accepted with the probability min(1, p(x_o, z') q~(z) / (p(x_o, z) q~(z'))), which brings chains from
one mode to another.  Both leave p(z|x_o) as it is.  No gradient is taken: discrete latents are as good as others.

Sources: Mattei and Frellsen, *Leveraging the exact likelihood of deep latent variable models*, 2018, Algorithm 1, and
the adaptive collapsed transitions of Simkus and Gutmann, *Conditional sampling of variational autoencoders via iterated
approximate ancestral sampling*, 2023, Section 4.1.

Shapes: C chains, M datapoints of a minibatch, T draws of each chain, L draws kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.guide_supports import narrower
from pyro_aevb.model_guide.reading import read_traces
from pyro_aevb.model_guide.supports import Inside
from pyro_aevb.model_guide.traces import PyroCallable, drawn, trace_pair
from pyro_aevb.posterior.cells import filled_in, predicted
from pyro_aevb.posterior.chains import effective_sample_size, r_hat, thinned
from pyro_aevb.posterior.gate import Draws, Request
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.posterior.predictions import likelihood_at
from pyro_aevb.posterior.proposals import At, Layout
from pyro_aevb.random_state import reseed
from pyro_aevb.samplers.ais import Tick

SHARE_OF_PRIOR = 0.05  # epsilon
Values = dict[str, Tensor]  # of the latents: {site: (rows, ...)}


class _Terms(NamedTuple):
    """log p(x_o, z), log p(z) and log q(z|x) of each row, (C M,)."""

    log_joint: Tensor
    log_prior: Tensor
    log_q: Tensor

    @property
    def log_proposal(self) -> Tensor:
        """log q~(z) = log((1 - epsilon) q(z|x) + epsilon p(z))."""
        of_prior, of_guide = math.log(SHARE_OF_PRIOR), math.log1p(-SHARE_OF_PRIOR)
        return torch.logaddexp(self.log_q + of_guide, self.log_prior + of_prior)


class Gibbs:
    """Draws from p(z|x_o) for one minibatch after another.

    Args:
        model: p(x_o, z), of the mask, the rows and what else belongs to them.
        guide: q(z|x), likewise.
        args: the first minibatch.
        site: which observes the rows.
        request: how many draws, of which chains.
        streams: the random numbers.
        expected: how many datapoints and minibatches to expect, which changes nothing.

    Attributes:
        layouts: of the latents, by name.
        alone: false, for minibatches are run as a whole, and their draws have noise in common.

    Raises:
        ValueError: for a pair whose chains these can't be.
    """

    alone = False

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable,
        *args: Tensor,
        site: str,
        request: Request,
        streams: Streams,
        **expected: int,
    ) -> None:
        self._model, self._guide = model, guide
        self._request, self._streams = request, streams
        reading = read(model, guide, args)
        self._site, self._layout = site, Layout.of(reading.observations[site], reading)
        if drawn_anew := list(reading.sites("guide", "by-product")):
            raise ValueError(
                f"expected a guide whose density at a latent is known for 'gibbs', got one that samples {drawn_anew} "
                "besides; use method='importance' or 'hmc'"
            )
        if (left_out := narrower(reading, model, args)) is not None:
            raise ValueError(left_out)
        self._unchecked = reading.unchecked
        self.layouts = {name: Layout.of(site, reading) for name, site in reading.latents.items()}
        self._discrete = {name for name, site in reading.latents.items() if site.fn.support.is_discrete}
        self._check_copies(args)

    def __call__(self, places: Sequence[int], tick: Tick, *args: Tensor) -> Draws:
        """Return the draws of a minibatch.

        Args:
            places: of its datapoints in the data set.
            tick: called with the fraction of the work done since its last call.
            args: the minibatch: the mask, the rows, and what else belongs to them.
        """
        reseed(self._streams.seed(places[0], "chains"))
        chains, num_draws, size = self._request.chains, self._request.num_draws, len(places)
        num_samples = max(chains.num_samples, -(-num_draws // chains.num_chains))
        datapoint = torch.arange(size, device=args[0].device).repeat(chains.num_chains)  # row c M + m is chain c of m
        rows = tuple(arg[datapoint] for arg in args)
        values = self._drawn(self._guide, rows)
        collection, kept = rows, []
        for step in range(chains.num_warmup + num_samples):
            own = self._filled(values, rows)
            values = self._transition(values, own, own)
            if step < chains.num_warmup:
                collection = self._filled(values, rows)
            chosen = self._of_any_chain(datapoint)
            values = self._transition(values, rows, tuple(each[chosen] for each in collection))
            if step >= chains.num_warmup:
                kept.append(values)
            tick(1 / (chains.num_warmup + num_samples))
        return self._kept(kept, size)

    def _transition(self, values: Values, rows: tuple[Tensor, ...], seen: tuple[Tensor, ...]) -> Values:
        """Return the latents after a transition that leaves p(z|rows) as it is; the guide sees ``seen``."""
        from_prior = torch.rand(len(rows[0]), device=rows[0].device) < SHARE_OF_PRIOR
        proposed = _chosen(from_prior, self._drawn(self._model, rows), self._drawn(self._guide, seen))
        new, old = self._terms(proposed, rows, seen), self._terms(values, rows, seen)
        log_ratio = new.log_joint - old.log_joint + old.log_proposal - new.log_proposal
        lost = ~old.log_joint.isfinite() & new.log_joint.isfinite()  # a start without any probability
        return _chosen(lost | (torch.rand_like(log_ratio).log() < log_ratio), proposed, values)

    def _of_any_chain(self, datapoint: Tensor) -> Tensor:
        size = len(datapoint) // self._request.chains.num_chains
        chain = torch.randint(self._request.chains.num_chains, datapoint.shape, device=datapoint.device)
        return chain * size + datapoint

    def _filled(self, values: Values, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return whole rows, what isn't there drawn from p(x|z)."""
        fn = likelihood_at(self._model, self._site, self._in_a_run(values), rows)
        cells = self._layout.datapoints_second(predicted(fn, 1, self._layout.width - 1).draws, 1, len(rows[0]))[0]
        return torch.ones_like(rows[0]), filled_in(rows[1], rows[0], cells, fn), *rows[2:]

    def _drawn(self, fn: PyroCallable, rows: tuple[Tensor, ...]) -> Values:
        """Return draws of the prior, or of the guide."""
        values, size = drawn(fn, rows, self.layouts), len(rows[0])
        return {name: self.layouts[name].datapoints_second(value, 1, size)[0] for name, value in values.items()}

    def _terms(self, values: Values, rows: tuple[Tensor, ...], seen: tuple[Tensor, ...]) -> _Terms:
        """Return the log densities at ``values``; the guide sees ``seen``."""
        with At(self._in_a_run(values)), Inside(self._unchecked) as inside:
            guide_trace, model_trace = trace_pair(self._model, lambda *_: self._guide(*seen), rows)
            reading = read_traces(model_trace, guide_trace, len(rows[0]))
            log_prior = reading.sum_log_prob(reading.latents.values())
            log_joint = inside.or_nan(reading.sum_log_prob((reading.latents | reading.observations).values()))
            log_q = reading.sum_log_prob(reading.proposals.values())
        return _Terms(log_joint[0], log_prior[0], log_q[0])

    def _in_a_run(self, values: Values) -> Values:
        return {name: self.layouts[name].in_a_run(value[None])[0] for name, value in values.items()}

    def _check_copies(self, args: tuple[Tensor, ...]) -> None:
        """Refuse a pair that knows more of a datapoint than its row, or wants a fixed number of rows."""
        values = self._drawn(self._guide, args)
        few = self._terms(values, args, args)
        twice = torch.arange(len(args[0]), device=args[0].device).repeat(2)
        copies = tuple(arg[twice] for arg in args)
        try:
            found = self._terms({name: value[twice] for name, value in values.items()}, copies, copies)
            same = all(
                torch.allclose(one[twice], two, rtol=1e-3, atol=1e-3, equal_nan=True)
                for one, two in zip(few, found, strict=True)
            )
        except (ValueError, RuntimeError, IndexError):  # each pair says in its own way that it has other rows
            same = False
        if not same:
            raise ValueError(
                "expected a model and a guide that take any number of rows and know a datapoint by its row alone for "
                "'gibbs', whose chains are rows, got other densities for copies of them; use method='importance' or "
                "'hmc'"
            )

    def _kept(self, kept: list[Values], size: int) -> Draws:
        """Return L of the chains' draws, with their diagnostics over all latents."""
        chains, num_draws = self._request.chains, self._request.num_draws
        values: Values = {}
        largest: Any = torch.ones(size, dtype=torch.double, device=next(iter(kept[0].values())).device)
        fewest = torch.full_like(largest, num_draws)
        for name in self.layouts:
            each = torch.stack([value[name] for value in kept])
            each = each.reshape(len(kept), chains.num_chains, size, *each.shape[2:])
            values[name] = thinned(each, num_draws)
            flat = each.reshape(*each.shape[:3], -1).double()
            certain = (flat == flat[:1, :1]).all(0).all(0) & (name in self._discrete)  # a category that no chain leaves
            largest = torch.maximum(largest, r_hat(flat).masked_fill(certain, 1.0).amax(-1))
            counting = effective_sample_size(flat).masked_fill(certain, torch.inf)
            fewest = torch.minimum(fewest, counting.amin(-1))
        mixed = largest <= chains.largest_r_hat
        return Draws(values, ["gibbs"] * size, mixed, fewest, torch.full_like(fewest, torch.nan), largest)


def _chosen(first: Tensor, one: Values, other: Values) -> Values:
    """Return the values of ``one`` in rows where ``first`` is true, and those of ``other`` elsewhere."""
    masks = {name: first.reshape(-1, *[1] * (value.dim() - 1)) for name, value in one.items()}
    return {name: torch.where(mask, one[name], other[name]) for name, mask in masks.items()}
