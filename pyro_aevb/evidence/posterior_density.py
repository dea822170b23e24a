r"""The paper's estimator of log p(x): a density fitted to posterior samples (Kingma & Welling 2013, Appendix D).

.. math:: \frac{1}{\hat p(x)} = \frac{1}{L} \sum_{l=1}^{L} \frac{q(u_l)}{p(x, u_l)}, \qquad u_l \sim p(u|x)

with q fitted to L other samples.  1/p(x) is estimated without bias, so log p(x) is too large in expectation.  The
weights q/p have finite variance only if q is less than twice as wide as the posterior (covariances), and the error
grows fast with the dimension: with exact samples and L = 50 its standard deviation is 0.07 nats in 3 dimensions and
0.85 in 20, and there it is 0.4 too high.  Of angles q is cut off half a turn from the samples' mean.

Shapes: L samples, M datapoints, J unconstrained dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from pyro_aevb.distributions.angles import centre_of, near
from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.evidence.estimator import Estimator, Evaluate, Problem
from pyro_aevb.evidence.importance_weights import log_mean, widened
from pyro_aevb.samplers import ais, hmc, smc
from pyro_aevb.samplers.ais import Tick
from pyro_aevb.samplers.annealed_path import AnnealedPath
from pyro_aevb.warning import warn

HIGH_DIMENSION = 5
NARROWED = 0.8  # covariance of the Gaussian over that of its samples
DRAWS_OF_A_TURN = 10_000  # whose share within a turn has an error of 0.003 at most, where an eighth is outside
WIDEST = 2.0  # covariance of q over that of the posterior, beyond which the weights' variance is infinite


def gaussian(samples: Tensor) -> MultivariateNormal:
    """Return a Gaussian fitted to samples (L, M, J): batch (M,), event (J,).

    It has their mean, and ``NARROWED`` times their full covariance: weights q/p have a lighter tail where q is narrower
    than p, so that errors can be told from few samples, and for a Gaussian p they vary little more.

    >>> from pyro_aevb.evidence.posterior_density import gaussian
    >>> fitted = gaussian(torch.randn(1000, 2, 3))
    >>> fitted.batch_shape, fitted.event_shape, bool((fitted.covariance_matrix - 0.8 * torch.eye(3)).abs().max() < 0.2)
    (torch.Size([2]), torch.Size([3]), True)
    """
    return MultivariateNormal(samples.mean(0), scale_tril=NARROWED**0.5 * _factor(samples))


@final
@dataclass(frozen=True)
class PosteriorDensity(Estimator):
    """``method="posterior-density"``: L samples to fit a density, L others to weigh (``num_particles``, 50 by default).

    Chains start at draws from the guide, or from the prior if there is no guide, and are annealed to the posterior.
    There they are resampled by their weights, their step sizes are tuned and frozen, and each transition gives a
    sample.  The density is fitted to one half of the chains and weighed on the other; the standard error is over
    chains, whose samples are correlated.  With fewer or shorter chains its intervals cover less than they should; if no
    chain has found the mass, the estimate is far too low and the standard error doesn't show it: compare with another
    method.

    Args:
        density: fits a distribution over u with batch (M,) and event (J,) to samples (L, M, J).
        num_chains: chains for each datapoint, an even number; L is divided among half of them.
        num_leapfrog: leapfrog steps of a transition; the paper's 4.
        num_warmup: transitions to the posterior; half as many follow there before samples are taken.
        target_acceptance: the acceptance rate that step sizes are tuned to.

    Raises:
        ValueError: for options outside their range.
    """

    density: Callable[[Tensor], Distribution] = gaussian
    num_chains: int = 40
    num_leapfrog: int = 4
    num_warmup: int = 80
    target_acceptance: float = 0.8

    def __post_init__(self) -> None:
        if self.num_chains < 2 or self.num_chains % 2:
            raise ValueError(f"expected an even num_chains, 2 or more, got {self.num_chains}; half of them fit")
        if self.num_leapfrog < 1 or self.num_warmup < 2:
            raise ValueError(
                "expected num_leapfrog of 1 or more and num_warmup of 2 or more, "
                f"got {self.num_leapfrog} and {self.num_warmup}"
            )

    def prepare(self, problem: Problem) -> Evaluate:
        """Return the function that samples the posterior of a minibatch, fits and weighs.

        Raises:
            ValueError: for fewer samples than a density of this dimension needs.
        """
        half = self.num_chains // 2
        draws = -(-(problem.num_particles or 50) // half)  # of each chain
        transitions = self.num_warmup + self.num_warmup // 2 + draws
        path = AnnealedPath(
            problem.model,
            problem.guide,
            *problem.args,
            start="prior" if problem.guide is None else "guide",
            vectorize=problem.vectorize,
            compile=problem.compile,
            expected_calls=problem.num_batches * transitions * (self.num_leapfrog + 1),
        )
        path.space.require_mass()
        dim = path.space.dim
        if draws * half < dim + 2:
            raise ValueError(
                f"expected more samples than latent dimensions to fit a density, got {draws * half} for {dim}; "
                "raise num_particles"
            )
        if dim > HIGH_DIMENSION:
            warn(
                f"posterior-density is meant for up to {HIGH_DIMENSION} latent dimensions, got {dim}: its error grows "
                "fast; use method='ais' or 'importance'"
            )

        def evaluate(tick: Tick, *args: Tensor) -> Evidence:
            samples = self._sample(path, args, draws, lambda part: tick(part / transitions))
            fit, rest = samples[:, ::2], samples[:, 1::2]  # (draws, chains, M, J); resampling has put like by like
            log_joint = torch.stack([path.log_joint(u, *args) for u in rest])
            fit, rest = fit.flatten(0, 1), rest.flatten(0, 1)
            centre = centre_of(fit)
            rest = near(centre, rest, path.space.angles)
            fitted = self.density(near(centre, fit, path.space.angles))
            log_q = fitted.log_prob(rest) - _log_within_a_turn(fitted, centre, path.space.angles)
            log_weight = log_q.reshape(log_joint.shape) - log_joint
            by_chain = log_weight.logsumexp(0) - math.log(draws)
            value, error, _ = log_mean(by_chain).result()
            weights = log_mean(log_weight.flatten(0, 1))
            if isinstance(fitted, MultivariateNormal):
                _warn_if_wide(fitted.covariance_matrix, rest)
            error = widened(error, len(by_chain))
            return Evidence(-value, error, "upper", weights.result().effective_sample_size, weights.pareto_k())

        return evaluate

    def _sample(self, path: AnnealedPath, args: tuple[Tensor, ...], draws: int, tick: Tick) -> Tensor:
        """Return posterior samples (draws, chains, M, J)."""
        density = path.at(*args)
        schedule = ais.sigmoid_schedule(self.num_warmup + 1)
        tuned = ais.tune(
            density,
            schedule,
            path.draw(self.num_chains, *args),
            self.num_leapfrog,
            target_acceptance=self.target_acceptance,
            tick=lambda part: tick(part * self.num_warmup),
        )
        chosen = smc.systematic(tuned.log_weight)[..., None]  # chains that ended in lesser modes start from others
        position = tuned.position.gather(0, chosen.expand_as(tuned.position))
        one, size = schedule[-1].to(position), tuned.step_sizes[-1]

        def posterior(u: Tensor) -> tuple[Tensor, Tensor]:
            return density(u, one)

        state, kept = hmc.init(posterior, position), []
        tuning = self.num_warmup // 2
        for t in range(tuning + draws):
            state, info = hmc.transition(posterior, state, hmc.jittered(size, state), self.num_leapfrog)
            if t < tuning:
                size = hmc.adapt_step_size(size, info.acceptance.mean(0), self.target_acceptance)
            else:
                kept.append(state.position)
            tick(1)
        return torch.stack(kept)


def _log_within_a_turn(fitted: Distribution, centre: Tensor, angles: Tensor) -> Tensor | float:
    """Return the logarithm of how much of a density (M, J) is within half a turn of the centre (M, J), (M,)."""
    if not angles.any():
        return 0.0
    draws = fitted.sample(torch.Size([DRAWS_OF_A_TURN]))
    return ((near(centre, draws, angles) - draws).abs() < 1.0).all(-1).double().mean(0).log()


def _factor(samples: Tensor) -> Tensor:
    """Return the Cholesky factor (M, J, J) of the covariance of samples (L, M, J).

    Raises:
        ValueError: for samples that don't vary in every direction.
    """
    centred = samples - samples.mean(0)
    covariance = torch.einsum("lmi,lmj->mij", centred, centred) / (len(samples) - 1)
    factor, info = torch.linalg.cholesky_ex(covariance)
    flat = (info != 0) | ~factor.isfinite().all(-1).all(-1)
    if flat.any():
        raise ValueError(
            f"expected posterior samples that vary in every latent dimension, got {int(flat.sum())} of {len(flat)} "
            f"datapoints where they don't, the first at {int(flat.nonzero()[0])}: chains that don't move, or a "
            f"posterior narrower than {samples.dtype} resolves; raise num_warmup, use float64, or method='ais'"
        )
    return factor


def _warn_if_wide(covariance: Tensor, samples: Tensor) -> None:
    """Warn where a fitted covariance (M, J, J) is over twice the samples' (L, M, J) by more than their number explains.

    In a direction of its choice the ratio of two sample covariances is up to ((1 + h) / (1 - y))^2 where they are
    equal, with y = J / L and h^2 = 2 y - y^2 (Wachter 1980).
    """
    factor = _factor(samples)
    inner = torch.linalg.solve_triangular(factor, covariance, upper=False)
    ratio = torch.linalg.eigvalsh(torch.linalg.solve_triangular(factor, inner.mT, upper=False))[:, -1]
    y = samples.shape[-1] / len(samples)
    chance = ((1 + (2 * y - y**2) ** 0.5) / (1 - y)) ** 2
    wide = ratio > WIDEST * chance
    if wide.any():
        warn(
            f"the fitted density is too wide for {int(wide.sum())} of {len(wide)} datapoints, up to "
            f"{ratio.max():.1f} times the posterior's covariance: the estimate has infinite variance beyond "
            f"{WIDEST:.0f}; raise num_particles, or fit a narrower density"
        )
