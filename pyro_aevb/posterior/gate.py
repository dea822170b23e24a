r"""Each datapoint's draws from p(z|x): the guide's own, resampled by their weights, or from chains, as it needs them.

With K weights w_k = p(x, z_k) / q(z_k|x), the guide's draws serve as they are where no mean of theirs can be off by
more than the standard error of L exact draws: |E_q[f] - E_p[f]| <= sd_q(f) chi(p||q), and chi^2 is the squared
coefficient of variation of the weights.  Resampling serves where the tail of the weights is light (Vehtari et al. 2024)
and no fewer than L of them count.  What is left is for the chains, and what they don't mix is marked.

Shapes: K proposals, L draws, C chains, T draws of each, M datapoints of a minibatch, J unconstrained dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.evidence.importance_weights import log_mean, relied_on, smoothed
from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.guide_supports import narrower
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.posterior.chains import Chains, resampled, thinned
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.posterior.proposals import Layout, Proposals
from pyro_aevb.random_state import reseed
from pyro_aevb.samplers.ais import Tick
from pyro_aevb.samplers.annealed_path import AnnealedPath
from pyro_aevb.warning import warn

METHODS: tuple[str, ...] = ("auto", "guide", "importance", "hmc")
SHARE_OF_PROPOSALS = 0.1  # of the progress bar, where there are chains


class Request(NamedTuple):
    """How draws are asked for: the arguments of :func:`.posterior` of these names; ``num_particles`` is K."""

    method: str
    num_draws: int
    num_particles: int
    chains: Chains
    vectorize: bool
    compile: Compile


class Draws(NamedTuple):
    """Draws of a minibatch: ``values`` {site: (L, M, ...)}, and the fields of :class:`.Posterior` for M datapoints."""

    values: dict[str, Tensor]
    method: list[str]
    trusted: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    r_hat: Tensor


class Sampler(Protocol):
    """Draws from p(z|x) for one minibatch after another, as :class:`Gate`.

    Attributes:
        layouts: of the latents, by name.
        alone: whether a datapoint can be run by itself; else each run has a whole minibatch.
    """

    layouts: dict[str, Layout]

    @property
    def alone(self) -> bool: ...  # noqa: D102

    def __call__(self, places: Sequence[int], tick: Tick, *args: Tensor) -> Draws: ...  # noqa: D102


class Gate:
    """Draws from p(z|x) for one minibatch after another.

    Args:
        model: p(x, z).
        guide: q(z|x), or ``None`` for chains alone.
        args: the first minibatch.
        request: how many draws, and by which method.
        num_data: N.
        num_batches: how many minibatches will follow, this one among them.
        streams: the random numbers.
    """

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable | None,
        *args: Tensor,
        request: Request,
        num_data: int,
        num_batches: int,
        streams: Streams,
    ) -> None:
        self._request, self._streams = request, streams
        self._proposals: Proposals | None = None
        if guide is not None:
            self._proposals = Proposals(
                model,
                guide,
                *args,
                num_particles=request.num_particles,
                vectorize=request.vectorize,
                compile=request.compile,
                num_data=num_data,
            )
        self._path: AnnealedPath | None = None
        self._takes_copies: bool | None = None
        if request.method in ("auto", "hmc"):
            gradients = num_batches * request.chains.num_gradients
            self._path = AnnealedPath(
                model, None, *args, vectorize=request.vectorize, compile=request.compile, expected_calls=gradients
            )
        reading = read(model, guide, args)
        if self._path is not None and (summed := list(reading.latents.keys() - read(model, None, args).latents.keys())):
            raise ValueError(
                f"expected latents that chains can move, got {summed}, which the guide draws and chains sum out; use "
                "method='importance', or guide=None for the other latents"
            )
        self.layouts = {name: Layout.of(site, reading) for name, site in reading.latents.items()}
        left_out = None if guide is None else narrower(reading, model, args)
        self._weights_tell = left_out is None
        if left_out is not None and self._path is None:
            warn(left_out)

    def __call__(self, places: Sequence[int], tick: Tick, *args: Tensor) -> Draws:
        """Return the draws of a minibatch.

        Args:
            places: of its datapoints in the data set.
            tick: called with the fraction of the work done since its last call.
            args: the minibatch.
        """
        size, device = len(args[0]), args[0].device
        if self._proposals is None or self._request.method == "hmc":
            return self._by_chains(places, torch.arange(size, device=device), tick, args)
        share = 1.0 if self._path is None else SHARE_OF_PROPOSALS
        rows = [slice(m, m + 1) for m in range(size)] if self._proposals.alone else [slice(size)]
        parts = []
        for group in rows:
            parts.append(self._proposed(places[group], tuple(arg[group] for arg in args)))
            tick(share / len(rows))
        draws = _side_by_side(parts)
        left = (~draws.trusted).nonzero()[:, 0]
        if self._request.method != "auto" or not len(left):
            tick(1 - share)
            return draws
        return _put(draws, left, self._by_chains(places, left, lambda part: tick((1 - share) * part), args))

    def _proposed(self, places: Sequence[int], args: tuple[Tensor, ...]) -> Draws:
        """Return draws of the guide, as they are or resampled, for datapoints that are run together."""
        assert self._proposals is not None
        reseed(self._streams.seed(places[0], "proposals"))
        log_weight, values = self._proposals(*args)
        num_draws, k = self._request.num_draws, len(log_weight)
        sums = log_mean(log_weight)
        value, _, ess = sums.estimate()
        _check_numbers(value, places)
        tail, some = sums.pareto_k(), value.isfinite()
        ess = torch.where(some, ess, 0.0)
        relied = relied_on(tail, k) & some & self._weights_tell
        equal = relied & (k / ess - 1 <= 1 / num_draws)
        resample = ~equal if self._request.method == "auto" else torch.full_like(equal, self._by_weight)
        index = torch.arange(num_draws, device=value.device)[:, None].expand(-1, len(value))
        if resample.any():
            uniform = torch.rand(len(value), device=value.device)
            index = torch.where(resample, resampled(smoothed(log_weight), num_draws, uniform), index)
        found = {name: _gathered(value, index) for name, value in values.items()}
        counting = torch.where(resample, 1 / (1 / num_draws + 1 / ess), num_draws * ess / k)
        trusted = torch.where(resample, relied & (ess >= num_draws), equal)
        method = ["importance" if each else "guide" for each in resample.tolist()]
        return Draws(found, method, trusted, counting, tail, torch.full_like(counting, torch.nan))

    @property
    def alone(self) -> bool:
        """True if a datapoint can be run by itself; else each run has a whole minibatch."""
        return self._proposals.alone if self._proposals is not None else self._takes_copies is True

    @property
    def _by_weight(self) -> bool:
        return self._request.method == "importance"

    def _by_chains(self, places: Sequence[int], rows: Tensor, tick: Tick, args: tuple[Tensor, ...]) -> Draws:
        """Return the draws of chains for ``rows`` (R,) of a minibatch."""
        assert self._path is not None
        path, chains, num_draws = self._path, self._request.chains, self._request.num_draws
        index = path.minibatch(rows, *args)
        start = self._starts(places, index, args)
        batch = tuple(arg[index] for arg in args)
        noise = self._streams.chains([places[m] for m in index.tolist()], start.device)
        num_samples = max(chains.num_samples, -(-num_draws // chains.num_chains))
        found = chains.run(path.at(*batch), start, num_samples, noise, tick, path.space.angles)
        at = path.space.values(thinned(found.position, num_draws), *batch)
        kept = rows if len(index) == len(args[0]) else torch.arange(len(rows), device=rows.device)
        values = {
            name: self.layouts[name].datapoints_second(value, num_draws, len(index))[:, kept]
            for name, value in at.items()
        }
        r_hat, ess = found.r_hat[kept], found.effective_sample_size[kept].clamp(max=num_draws)
        mixed = r_hat <= chains.largest_r_hat
        return Draws(values, ["hmc"] * len(rows), mixed, ess, torch.full_like(ess, torch.nan), r_hat)

    def _starts(self, places: Sequence[int], index: Tensor, args: tuple[Tensor, ...]) -> Tensor:
        """Return draws from the prior, (C, R, J), for rows ``index`` (R,) of a minibatch.

        They are from each datapoint's own stream, if the model takes copies of a row for a minibatch.
        """
        assert self._path is not None
        space, num_chains = self._path.space, self._request.chains.num_chains
        copies = torch.zeros(num_chains, dtype=torch.long, device=index.device)
        if self._takes_copies is None:
            self._takes_copies = self._path.takes(copies, self._path.draw(1, *args), *args)
        if self._takes_copies:
            each = []
            for m in index.tolist():
                reseed(self._streams.seed(places[m], "starts"))
                each.append(space.prior_draw(*(arg[copies + m] for arg in args)))
            return torch.stack(each, 1)
        reseed(self._streams.seed(places[0], "starts"))
        return torch.stack([space.prior_draw(*args)[index] for _ in range(num_chains)])


def _check_numbers(value: Tensor, places: Sequence[int]) -> None:
    """Raise ``ValueError`` if a weight is NaN or infinite; weights that are all zero are a matter for the chains."""
    bad = (value.isnan() | (value == torch.inf)).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(
            f"expected finite log weights, got NaN or infinite ones, the first for datapoint {places[bad[0]]}; see "
            "that the densities are numbers where the guide draws, or use method='hmc', which starts at the prior"
        )


def _gathered(value: Tensor, index: Tensor) -> Tensor:
    """Return value[index[l, m], m] for ``value`` (K, M, ...) and ``index`` (L, M)."""
    return value[index, torch.arange(index.shape[1], device=index.device)]


def _side_by_side(parts: Sequence[Draws]) -> Draws:
    """Return the draws of several groups of datapoints as those of one."""
    values = {name: torch.cat([part.values[name] for part in parts], 1) for name in parts[0].values}
    method = [each for part in parts for each in part.method]
    rest = (torch.cat(each) for each in zip(*(part[2:] for part in parts), strict=True))
    return Draws(values, method, *rest)


def _put(draws: Draws, rows: Tensor, others: Draws) -> Draws:
    """Return the draws of a minibatch, at ``rows`` (R,) those of ``others``, which keep the tail of the weights."""
    values = {name: value.index_copy(1, rows, others.values[name].to(value)) for name, value in draws.values.items()}
    method = list(draws.method)
    for row in rows.tolist():
        method[row] = "hmc"
    trusted = draws.trusted.index_copy(0, rows, others.trusted)
    ess = draws.effective_sample_size.index_copy(0, rows, others.effective_sample_size)
    return Draws(values, method, trusted, ess, draws.pareto_k, draws.r_hat.index_copy(0, rows, others.r_hat))
