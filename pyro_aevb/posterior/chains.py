r"""Many short chains of HMC for each datapoint, started where annealing from the prior ends, and whether they mixed.

A first run along p(z) p(x|z)^beta carries the chains from the prior to the posterior and weighs them; those that go on
are drawn by these weights, so that each mode has its share of them; unless so few of them count that a mode may be lost
with the others, and then each goes on from where it is.  Step sizes are tuned, then frozen; what is kept
after that is compared between chains.

Source: R-hat is that of Vehtari, Gelman, Simpson, Carpenter and Bürkner, *Rank-normalization, folding, and
localization*, 2021, Eqs. (4), (5) and (14).

Shapes: T draws of each of C chains, M datapoints, J unconstrained dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from pyro_aevb.distributions.angles import unrolled
from pyro_aevb.evidence.estimator import check_sizes
from pyro_aevb.evidence.importance_weights import log_mean
from pyro_aevb.posterior.angles import NOT_ONE
from pyro_aevb.samplers import ais, hmc
from pyro_aevb.samplers.ais import Path, Tick

FEWEST_ANCESTORS = 0.5  # effective number of annealed chains, of one, for the chains to be drawn among


class Sampled(NamedTuple):
    """The chains: their ``position`` (T, C, M, J), the largest ``r_hat``, the least ``effective_sample_size``."""

    position: Tensor
    r_hat: Tensor
    effective_sample_size: Tensor


@final
@dataclass(frozen=True)
class Chains:
    """Options of the chains that :func:`.posterior` runs.

    Args:
        num_chains: C, for each datapoint, 2 or more.
        num_temperatures: steps from the prior to the posterior.
        num_warmup: transitions that tune the step size; a third as many with the tuned one are left out.
        num_samples: T, transitions that are kept, 4 or more.
        num_leapfrog: leapfrog steps of each transition.
        target_acceptance: the acceptance rate that step sizes are tuned to.
        largest_r_hat: the largest R-hat of chains that count as mixed.  R-hat^2 - 1 is about 2 C over the effective
            sample size, so that 1.05 of 32 chains stands for 600 draws, of the latent and the moment that mix least.

    Raises:
        ValueError: for options outside their range.

    >>> from pyro_aevb.posterior import Chains, posterior
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> x = torch.tensor([0.0, 2.0])
    >>> few = Chains(num_temperatures=5, num_warmup=15, num_samples=30, num_leapfrog=3, largest_r_hat=1.2)
    >>> found = posterior(model, None, x, method="hmc", chains=few, seed=0, compile=False)
    >>> found.method, bool((found.mean("z") - x / 2).abs().max() < 0.3)
    (('hmc', 'hmc'), True)
    """

    num_chains: int = 32
    num_temperatures: int = 100
    num_warmup: int = 60
    num_samples: int = 150
    num_leapfrog: int = 5
    target_acceptance: float = 0.8
    largest_r_hat: float = 1.05

    def __post_init__(self) -> None:
        check_sizes(num_temperatures=self.num_temperatures, num_warmup=self.num_warmup, num_leapfrog=self.num_leapfrog)
        check_sizes(num_chains=self.num_chains, num_samples=self.num_samples)
        if self.num_chains < 2 or self.num_samples < 4:
            raise ValueError(
                f"expected num_chains of 2 or more and num_samples of 4 or more, got {self.num_chains} and "
                f"{self.num_samples}; R-hat compares the halves of several chains, so raise them"
            )
        if not 0 < self.target_acceptance < 1:
            raise ValueError(
                f"expected target_acceptance between 0 and 1, got {self.target_acceptance}; the default is 0.8"
            )
        if not self.largest_r_hat > 1:
            raise ValueError(f"expected largest_r_hat above 1, got {self.largest_r_hat}; the default is 1.05")

    @property
    def num_gradients(self) -> int:
        """The gradients that a minibatch takes."""
        transitions = self.num_temperatures + 19 + self.num_warmup + self.num_warmup // 3 + self.num_samples
        return transitions * (self.num_leapfrog + 1)

    def run(
        self, path: Path, start: Tensor, num_samples: int, noise: hmc.Noise, tick: Tick, angles: Tensor = NOT_ONE
    ) -> Sampled:
        """Return what chains find that begin at draws from the prior.

        Args:
            path: of the minibatch, from its prior to its posterior.
            start: (C, M, J).
            num_samples: T.
            noise: of the chains.
            tick: called with the fraction of the work done since its last call.
            angles: which dimensions are angles, (J,) of bool, the same place with each turn.
        """
        schedule = ais.sigmoid_schedule(self.num_temperatures)
        total = self.num_temperatures + self.num_warmup + self.num_warmup // 3 + num_samples
        tuned = ais.tune(
            path,
            schedule,
            start,
            self.num_leapfrog,
            target_acceptance=self.target_acceptance,
            noise=noise,
            tick=lambda part: tick(part * self.num_temperatures / total),
        )
        spread = unrolled(tuned.position, angles).std(0)  # (M, J); the chains move in units of it
        spread = torch.where(spread > 0, spread, 1.0)
        one = schedule[-1].to(start)

        def target(v: Tensor) -> tuple[Tensor, Tensor]:
            log_prob, grad = path(v * spread, one)
            return log_prob, grad * spread

        counting = log_mean(tuned.log_weight).estimate().effective_sample_size >= FEWEST_ANCESTORS * len(start)
        log_weight = torch.where(counting, tuned.log_weight, 0.0)
        chosen = resampled(log_weight, len(start), noise.uniform(start[:1, :, 0])[0])
        position = tuned.position.gather(0, chosen[..., None].expand_as(start)) / spread
        state, kept = hmc.init(target, position), []
        size = start.new_full(start.shape[1:-1], 0.2)
        frozen = self.num_warmup + self.num_warmup // 3
        for step in range(frozen + num_samples):
            state, info = hmc.transition(target, state, hmc.jittered(size, state, noise), self.num_leapfrog, noise)
            if step < self.num_warmup:
                size = hmc.adapt_step_size(size, info.acceptance.mean(0), self.target_acceptance)
            elif step >= frozen:
                kept.append(state.position * spread)
            tick(1 / total)
        found = unrolled(torch.stack(kept).flatten(0, 1), angles).reshape(num_samples, *start.shape)
        return Sampled(found, r_hat(found).amax(-1), effective_sample_size(found).amin(-1))


def thinned(position: Tensor, num_draws: int) -> Tensor:
    """Return draws of all chains alike, each chain's as far apart as they can be, (L, ...).

    Args:
        position: (T, C, ...).
        num_draws: L, T C at most.

    >>> from pyro_aevb.posterior.chains import thinned
    >>> thinned(torch.arange(8.0).reshape(4, 2), num_draws=4)  # two chains, in columns
    tensor([2., 3., 6., 7.])
    """
    length, num_chains = position.shape[:2]
    draw = torch.arange(num_draws, device=position.device)
    chain, number = draw % num_chains, draw // num_chains
    of_chain = (num_draws - chain + num_chains - 1) // num_chains  # how many draws it gives
    return position[(2 * number + 1) * length // (2 * of_chain), chain]


def resampled(log_weight: Tensor, num_draws: int, uniform: Tensor) -> Tensor:
    """Return indices (L, M) of particles, drawn systematically in proportion to their weights.

    Particle k is drawn floor(L w_k) or ceil(L w_k) times, w_k its share of the weights, and L w_k times in expectation.

    Args:
        log_weight: (K, M); a column without a finite largest weight counts as one of equal weights.
        num_draws: L.
        uniform: (M,), between 0 and 1, the random numbers.

    >>> from pyro_aevb.posterior.chains import resampled
    >>> resampled(torch.tensor([[0.5], [0.0], [0.25], [0.25]]).log(), 4, torch.tensor([0.5])).flatten().tolist()
    [0, 0, 2, 3]
    """
    usable = log_weight.amax(0).isfinite()  # NaN if one of them is
    share = torch.where(usable, log_weight, 0.0).double().softmax(0).T.contiguous()
    place = (torch.arange(num_draws).to(share) + uniform.double()[:, None]) / num_draws
    cumulative = share.cumsum(1)
    chosen = torch.searchsorted(cumulative, place * cumulative[:, -1:], right=True).clamp(max=len(log_weight) - 1)
    return chosen.T


def r_hat(draws: Tensor) -> Tensor:
    """Return the rank-normalized split R-hat: of the draws, or of their distances to the median if that is larger.

    Args:
        draws: (T, C, ...), T of 4 or more.

    Returns:
        (...); 1 for chains that can't be told apart, infinite for chains that don't move.

    >>> from pyro_aevb.posterior.chains import r_hat
    >>> mixed, apart = torch.randn(100, 4, 1), torch.randn(100, 4, 1) + 3 * torch.arange(4.0)[:, None]
    >>> bool(r_hat(mixed) < 1.05), bool(r_hat(apart) > 1.5)
    (True, True)
    """
    half = len(draws) // 2
    split = torch.cat([draws[:half], draws[-half:]], 1).double()  # (T/2, 2C, ...)
    median = split.flatten(0, 1).quantile(0.5, 0)
    return torch.maximum(_r_hat(_rank_normalized(split)), _r_hat(_rank_normalized((split - median).abs())))


def _r_hat(draws: Tensor) -> Tensor:
    between, within = draws.mean(0).var(0), draws.var(0).mean(0)
    ratio = torch.where(within > 0, between / within, torch.inf)
    return (ratio + (len(draws) - 1) / len(draws)).sqrt()


def _rank_normalized(draws: Tensor) -> Tensor:
    """Return the normal scores of the ranks among all T C draws; equal draws have their mean rank."""
    flat = draws.flatten(0, 1)
    columns = flat.reshape(len(flat), -1).T.contiguous()
    ordered = columns.sort(-1).values
    rank = (torch.searchsorted(ordered, columns) + torch.searchsorted(ordered, columns, right=True) + 1) / 2
    score = torch.special.ndtri((rank.double() - 0.375) / (len(flat) + 0.25))
    return score.T.reshape(draws.shape)


def effective_sample_size(draws: Tensor) -> Tensor:
    """Return C var / var_c, by which the means of C independent chains vary less than single draws; T C at most.

    Args:
        draws: (T, C, ...).

    Returns:
        (...), with a relative error of about sqrt(2 / C).

    >>> from pyro_aevb.posterior.chains import effective_sample_size
    >>> bool(effective_sample_size(torch.randn(50, 200)) > 7_000), effective_sample_size(torch.randn(1, 8).expand(9, 8))
    (True, tensor(8., dtype=torch.float64))
    """
    double, num_chains = draws.double(), draws.shape[1]
    of_means = double.mean(0).var(0)
    variance = double.var(0).mean(0) * (len(draws) - 1) / len(draws) + of_means
    return (num_chains * variance / of_means).nan_to_num(nan=0.0).clamp(max=len(draws) * num_chains)
