"""The evidence lower bound and its reparameterised gradients.

Kingma & Welling 2013, Section 2.3; sticking the landing: Roeder, Wu & Duvenaud 2017.
"""

from __future__ import annotations

import copy
from abc import ABC
from typing import Literal, Self, final

from torch import Tensor

from pyro_aevb.objectives.objective import Objective
from pyro_aevb.objectives.particles import Particles, times


class WeightedKL(Objective, ABC):
    """The evidence lower bound with a weight of its KL, whose gradient a subclass says.

    Args:
        num_particles: K, the paper's L.
        beta: the weight of every KL (Higgins et al. 2017): a number, or a 0-dim tensor that may be changed in place
            while a run goes on (KL warm-up).  With a beta below 1 the value is no bound on log p(x).
        weighs: which KLs beta, and a warm-up of the KL, are for: those of ``"local"`` latents, of ``"global"`` ones, or
            of ``"both"``.
        vectorize: whether all particles are drawn in one pass, see :class:`~pyro_aevb.objectives.Objective`.

    Raises:
        ValueError: for a beta below 0.
    """

    one_global_draw = False
    sums_values = True

    def __init__(
        self,
        num_particles: int = 1,
        *,
        beta: float | Tensor = 1.0,
        weighs: Literal["both", "local", "global"] = "both",
        vectorize: bool = True,
    ) -> None:
        super().__init__(num_particles, vectorize=vectorize)
        if weighs not in ("both", "local", "global"):
            raise ValueError(f"expected weighs to be 'both', 'local' or 'global', got {weighs!r}")
        if isinstance(beta, Tensor) and beta.dim():
            raise ValueError(f"expected beta to be a number or a 0-dim tensor, got shape {tuple(beta.shape)}")
        if not float(beta) >= 0:
            raise ValueError(f"expected a beta of 0 or more, got {float(beta)}")
        self.beta, self.weighs = beta if isinstance(beta, Tensor) else float(beta), weighs

    def with_kl_weight(self, weight: Tensor) -> Self:
        """Return this objective with every KL multiplied by ``weight`` besides: a 0-dim tensor, for KL warm-up.

        Args:
            weight: of shape ().
        """
        weighted = copy.copy(self)
        weighted.beta = self.beta * weight
        return weighted

    def weighted_elbo(self, particles: Particles, free_bits: float = 0.0) -> Tensor:
        """Return -beta KL(q || p) + E log p(x|z) of each datapoint, (M,).

        Args:
            particles: K draws for each of M datapoints.
            free_bits: nats of KL that cost nothing.
        """
        particles.global_weight = 1.0 if self.weighs == "local" else self.beta
        bound = None
        for name, term in particles.log_likelihood.items():
            term = times(particles.weight[name], particles.expected(term).mean(0))
            bound = term if bound is None else bound + term
        for name, term in particles.kl.items():
            kl = particles.expected(term).mean(0)
            if free_bits:
                kl = kl.clamp(min=free_bits)
            kl = self.weigh(times(particles.weight[name], kl))
            bound = -kl if bound is None else bound - kl
        assert bound is not None
        return bound

    def weigh(self, kl: Tensor) -> Tensor:
        """Return a local latent's KL times beta, where beta is for these.

        Args:
            kl: of each datapoint, (M,).
        """
        return times(1.0 if self.weighs == "global" else self.beta, kl)


@final
class SGVB(WeightedKL):
    r"""The stochastic gradient variational Bayes estimators, L^A and L^B.

    .. math::
        \tilde{\mathcal{L}}^A &= \frac{1}{K} \sum_k \log p(x, z_k) - \log q(z_k|x), \quad (6) \\
        \tilde{\mathcal{L}}^B &= -KL(q(z|x) \| p(z)) + \frac{1}{K} \sum_k \log p(x|z_k), \quad (7)

    with z_k ~ q(z|x) reparameterised.  Pyro's ``Trace_ELBO`` and ``TraceMeanField_ELBO`` compute the same, with two
    differences.  A scale or a mask on a latent counts for log p(z) and log q(z|x) alike, whether it is written in the
    model or in the guide.  The KL of a site is sampled if it has no closed form, or if the closed form would be wrong
    because the guide draws from z_i what p(z_i|...) depends on; a line in the log names the site.

    Args:
        num_particles: K, the paper's L.
        kl: ``"sampled"`` for L^A, ``"analytic"`` for L^B.
        beta, weighs: as for :class:`WeightedKL`.
        free_bits: nats of KL that cost nothing: the KL of each site and datapoint counts as max(KL, free_bits) (after
            Kingma et al. 2016, who take the mean over a minibatch first).  For KLs in closed form of local latents.
        vectorize: whether all particles are drawn in one pass, see :class:`~pyro_aevb.objectives.Objective`.

    Raises:
        ValueError: for another ``kl``, a beta or free bits below 0, and free bits of a sampled KL.

    >>> def model(x):
    ...     with pyro.plate("data", 800, subsample_size=len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", 800, subsample_size=len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> x = torch.tensor([0.0, 2.0])
    >>> round(SGVB().loss(model, guide, x), 2)  # the guide is the posterior: -log p(x), times 400
    1412.41
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        kl: Literal["sampled", "analytic"] = "sampled",
        beta: float | Tensor = 1.0,
        weighs: Literal["both", "local", "global"] = "both",
        free_bits: float = 0.0,
        vectorize: bool = True,
    ) -> None:
        super().__init__(num_particles, beta=beta, weighs=weighs, vectorize=vectorize)
        if kl not in ("sampled", "analytic"):
            raise ValueError(f"expected kl to be 'sampled' (L^A) or 'analytic' (L^B), got {kl!r}")
        if not free_bits >= 0:
            raise ValueError(f"expected free_bits of 0 or more, got {free_bits}")
        self.kl, self.free_bits = kl, free_bits
        self.needs_closed_forms = kl == "analytic"

    def bound(self, particles: Particles) -> tuple[Tensor, Tensor]:
        """Return -beta KL(q || p) + E log p(x|z), twice.

        Args:
            particles: K draws for each of M datapoints.

        Raises:
            ValueError: for free bits of a KL that is sampled.
        """
        if self.free_bits and particles.sampled_kl:
            raise ValueError(
                f"expected KLs in closed form for free_bits, got a sampled one at site {min(particles.sampled_kl)!r}, "
                "and the larger of a noisy number and a bound is too large on average; pass kl='analytic' and a guide "
                "whose KL can be written down, or weigh the KL with beta"
            )
        bound = self.weighted_elbo(particles, self.free_bits)
        return bound, bound


@final
class STL(WeightedKL):
    r"""L^A with the gradient of Roeder, Wu & Duvenaud 2017, *Sticking the Landing*: through the particles alone.

    The gradient of log q(z|x) in the guide's parameters at a fixed z has mean zero and is left out.  The estimate keeps
    its mean, and has no variance at all if q is the posterior.

    A guide of several sites is run a second time at the values it drew, so dropout in it must be off.  A flow is
    inverted, which is slow for an autoregressive one and impossible for a planar one: use :class:`SGVB` for those.

    Args:
        num_particles: K, draws a datapoint.
        beta, weighs: as for :class:`WeightedKL`.
        vectorize: whether all particles are drawn in one pass, see :class:`~pyro_aevb.objectives.Objective`.

    >>> shift = torch.tensor(0.0, requires_grad=True)
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):  # the posterior
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5))
    >>> STL().differentiable_loss(model, guide, torch.tensor([1.0, 2.0])).backward()
    >>> bool(shift.grad.abs() < 1e-6)
    True
    """

    flow = "path"

    def bound(self, particles: Particles) -> tuple[Tensor, Tensor]:
        """Return -beta KL(q || p) + E log p(x|z), all of it sampled, twice.

        Args:
            particles: K draws for each of M datapoints.
        """
        bound = self.weighted_elbo(particles)
        return bound, bound
