"""Importance-weighted bounds: a log-sum-exp over the particles of each datapoint.

Burda, Grosse & Salakhutdinov 2016 (IWAE); Li & Turner 2016 (Renyi); Tucker et al. 2019 (DReG).
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from pyro_aevb.objectives.objective import Objective
from pyro_aevb.objectives.particles import Particles, log_mean_exp, sum_terms, times


@final
class IWAE(Objective):
    r"""The importance-weighted bound, tighter with every particle.

    .. math:: \mathcal{L}_K = E\left[\log \frac{1}{K} \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}\right] \le \log p(x)

    with reparameterised z_k; K=1 is L^A.  A larger K improves the gradient of theta and drowns that of phi in noise
    (Rainforth et al. 2018); :class:`DReG` has the same mean and keeps the signal.

    Global latents w are drawn once for all particles, here and in the other objectives of this file:

    .. math:: E_{q(w)}\left[\frac{N}{M} \sum_m \log \frac{1}{K} \sum_k
        \frac{p(x_m, z_{mk}|w)}{q(z_{mk}|x_m, w)}\right] - KL(q(w) \| p(w)) \le \log p(X)

    A latent y that the guide enumerates is summed out, with K draws of the others for each value:
    log 1/K sum_k sum_y p(x, y, z_yk) / q(z_yk|x, y).  q(y|x) is no part of that and gets no gradient: train it with
    :class:`~pyro_aevb.objectives.SGVB`.

    Args:
        num_particles: K.
        vectorize: whether all particles are drawn in one pass, see :class:`~pyro_aevb.objectives.Objective`.

    >>> def model(x):
    ...     with pyro.plate("data", 800, subsample_size=len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", 800, subsample_size=len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 1.0))
    >>> terms = IWAE(num_particles=1000).terms(model, guide, torch.tensor([0.0, 2.0]))
    >>> bool((terms.bound - torch.tensor([-1.2655, -2.2655])).abs().max() < 0.05)  # close to log p(x)
    True
    """

    sums_values = True

    def __init__(self, num_particles: int, *, vectorize: bool = True) -> None:
        super().__init__(num_particles, vectorize=vectorize)

    def bound(self, particles: Particles) -> tuple[Tensor, Tensor]:
        """Return log 1/K sum_k w_k, twice."""
        bound = log_mean_exp(particles.summed(particles.log_weight))
        return bound, bound


@final
class Renyi(Objective):
    r"""The variational Renyi bound of Li & Turner 2016, between the evidence lower bound and IWAE's.

    .. math:: \mathcal{L}_\alpha = \frac{1}{1 - \alpha} \log \frac{1}{K} \sum_k w_k^{1 - \alpha}

    alpha = 0 is :class:`IWAE`, alpha = 1 the limit, :class:`~pyro_aevb.objectives.SGVB`.  It falls as alpha rises,
    beyond 1 too.

    Args:
        alpha: 0 or more.
        num_particles: K; with K = 1 every alpha gives L^A.
        vectorize: whether all particles are drawn in one pass, see :class:`~pyro_aevb.objectives.Objective`.

    Raises:
        ValueError: for an alpha below 0, for which the value is no lower bound.

    >>> Renyi(-0.5, num_particles=5)
    Traceback (most recent call last):
    ...
    ValueError: expected alpha of 0 or more, got -0.5; ...
    """

    sums_values = True

    def __init__(self, alpha: float, num_particles: int, *, vectorize: bool = True) -> None:
        super().__init__(num_particles, vectorize=vectorize)
        if not 0 <= alpha < math.inf:
            raise ValueError(
                f"expected alpha of 0 or more, got {alpha}; below 0 the value is no lower bound on log p(x): "
                "IWAE(num_particles) is the tightest of these that is"
            )
        self.alpha = float(alpha)

    def bound(self, particles: Particles) -> tuple[Tensor, Tensor]:
        """Return the bound of this alpha, twice."""
        log_weight = particles.log_weight
        if self.alpha == 1.0:
            bound = particles.expected(log_weight).mean(0)
        else:
            bound = log_mean_exp(particles.summed((1 - self.alpha) * log_weight)) / (1 - self.alpha)
        return bound, bound


@final
class DReG(Objective):
    r"""IWAE's bound with the doubly reparameterised gradient of Tucker et al. 2019.

    .. math::
        \nabla_\phi = E \sum_k \tilde{w}_k^2 \frac{\partial \log w_k}{\partial z_k} \frac{d z_k}{d \phi}, \quad
        \nabla_\theta = E \sum_k \tilde{w}_k \frac{\partial \log w_k}{\partial \theta}

    with normalised weights.  The gradient has the same mean as :class:`IWAE`'s and less variance, and its signal
    doesn't drown in noise as K grows.  Guides must be reparameterised; guides of several sites and flows are treated as
    by :class:`~pyro_aevb.objectives.STL`.  Latents that the guide draws from each other have one scale, and one mask
    where they have a gradient: padding is fine, and anything else an error, in the backward pass for a mask.

    Args:
        num_particles: K, two or more.
        vectorize: whether all particles are drawn in one pass, see :class:`~pyro_aevb.objectives.Objective`.

    Raises:
        ValueError: for a single particle.

    >>> DReG(1)
    Traceback (most recent call last):
    ...
    ValueError: expected num_particles of 2 or more for DReG, got 1; with fewer use STL()
    """

    flow = "doubly"
    least_particles = 2
    with_fewer = "STL()"

    def __init__(self, num_particles: int, *, vectorize: bool = True) -> None:
        super().__init__(num_particles, vectorize=vectorize)

    def bound(self, particles: Particles) -> tuple[Tensor, Tensor]:
        """Return IWAE's bound, and the surrogate with Tucker et al.'s gradient."""
        log_weight = particles.log_weight
        normalized = torch.softmax(log_weight.detach(), 0)
        # The gradient from the model into the particles is multiplied by the weight's second factor on its way.
        particles.gradient_scale.weight = normalized
        log_q = {
            name: normalized * (weight * normalized + (1 - weight)) * times(weight, term)
            for name, term in particles.log_q.items()
            for weight in [particles.weight[name]]
        }
        surrogate = normalized * particles.weighted_log_p - sum_terms(log_q)
        return log_mean_exp(log_weight), surrogate.sum(0)
