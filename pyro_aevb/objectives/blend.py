"""The two reparameterised gradients of the ELBO's KL, blended by how they covary: what AEVB follows by default.

A control variate from two estimators: Geffner & Domke 2018, *Using Large Ensembles of Control Variates for Variational
Inference*; sticking the landing: Roeder, Wu & Duvenaud 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from pyro_aevb.objectives.particles import Particles, times
from pyro_aevb.objectives.sgvb import WeightedKL

RATE = 0.01  # of the running means: those of the last hundred steps or so


@final
class Blend(WeightedKL):
    r"""L^B with the quieter of two gradients of its KL, or the best mean of both.

    The gradient of KL(q(z|x) || p(z)) can be taken from its closed form, as L^B does, or from the draws alone, as
    :class:`~pyro_aevb.objectives.STL` does.  Both have one mean, so that

    .. math:: g_c = g_B + c \, (g_{STL} - g_B)

    has it too for every c that is chosen before the draw.  Its variance is least at

    .. math:: c = -E[g_B \cdot (g_{STL} - g_B)] / E[|g_{STL} - g_B|^2],

    in [0, 1] here, where both are running means over the steps so far, of the gradients in the parameters of
    q(z|x)'s distribution; a run begins with c = 0, which is L^B.  L^B is the quieter one while the guide is far from
    the posterior, above all with many latents; STL is later, and has no variance at all where q is the posterior.
    The model's parameters get the gradient of L^B.  The value is that of ``SGVB(kl="analytic")``, and without a closed
    form that of ``SGVB()``.

    This is for guides that compute the distribution of one latent, in the data plate, whose density is known at any
    value: no flow.  With any other it is L^B.

    Args:
        num_particles: K, draws a datapoint.
        beta, weighs: as for :class:`~pyro_aevb.objectives.WeightedKL`.
        vectorize: whether all particles are drawn in one pass, see :class:`~pyro_aevb.objectives.Objective`.

    >>> shift = torch.tensor(0.0, requires_grad=True)
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):  # the posterior
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5))
    >>> objective = Blend()
    >>> for _ in range(100):
    ...     _ = objective.loss_and_grads(model, guide, torch.tensor([1.0, 2.0]))
    >>> round(objective.share.item(), 3)  # all of it STL's
    1.0
    """

    flow = "both"
    needs_closed_forms = True

    def __init__(
        self,
        num_particles: int = 1,
        *,
        beta: float | Tensor = 1.0,
        weighs: Literal["both", "local", "global"] = "both",
        vectorize: bool = True,
    ) -> None:
        super().__init__(num_particles, beta=beta, weighs=weighs, vectorize=vectorize)
        self.running = _Running()

    @property
    def share(self) -> Tensor:
        """The part c of STL's gradient, as the steps so far make it, ()."""
        return self.running.share()

    def bound(self, particles: Particles) -> tuple[Tensor, Tensor]:
        """Return L^B, and a surrogate with the blended gradient.

        Args:
            particles: K draws for each of M datapoints.
        """
        bound = self.weighted_elbo(particles)
        # A leaf outlives the step, and so would what is left on it.
        inputs = [each for each in particles.parameters if each.requires_grad and not each.is_leaf]
        if len(particles.log_q) != 1 or not inputs or not torch.is_grad_enabled():
            return bound, bound
        (name,) = particles.log_q
        drawn = particles.log_q[name] - particles.log_prior[name]
        difference = self.weigh(times(particles.weight[name], (particles.kl[name] - drawn).mean(0)))
        if not difference.requires_grad:  # nothing of the KL is to be learned
            return bound, bound
        loss = -particles.of_the_data(difference)
        gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        share, unit = self.running.share(inputs[0].device), particles.of_the_data(torch.ones_like(bound))
        blended, factors = bound, list[Tensor]()
        for each, gradient in zip(inputs, gradients, strict=True):
            if gradient is not None:
                each.register_hook(self.running.note(gradient, share, factors, unit**2 / len(bound)))
                blended = blended - share * (gradient * each).sum() / unit  # the loss gets share * gradient . each
        if blended.requires_grad:
            blended.register_hook(lambda gradient: factors.append(-gradient.sum() / unit))
        return bound, blended


class _Running(nn.Module):
    """Running means of g_B . d and of |d|^2, with d = g_STL - g_B; a buffer, so that a run that goes on has them."""

    def __init__(self) -> None:
        super().__init__()
        self.means: Tensor
        self.register_buffer("means", torch.zeros(2, dtype=torch.float64))

    def share(self, device: torch.device | None = None) -> Tensor:
        """Return c, on a device."""
        if device is not None and self.means.device != device:
            self.to(device)
        covariance, variance = self.means.clone()
        return (-covariance / variance.clamp(min=torch.finfo(variance.dtype).tiny)).clamp(0, 1)

    def average(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Take the mean over the processes that share a minibatch, which so have one c.

        Args:
            mean: returns it.
        """
        self.means.copy_(mean(self.means))

    def note(
        self, difference: Tensor, share: Tensor, factors: Sequence[Tensor], unit: float | Tensor = 1.0
    ) -> Callable[[Tensor], None]:
        """Return a hook that takes a gradient, a multiple of g_B + c d, into the means and leaves it as it is.

        Args:
            difference: d.
            share: c.
            factors: the last one is that multiple, once there is a gradient: of a loss that somebody divided by M.
            unit: what the products of two gradients are divided by.
        """

        def noted(gradient: Tensor) -> None:
            with torch.no_grad():
                quieter = gradient / factors[-1] - share * difference
                both = torch.stack([(quieter * difference).sum(), (difference * difference).sum()]) / unit
                means = self.means.lerp(both.to(self.means.dtype), RATE)
                self.means.copy_(torch.where(means.isfinite().all(), means, self.means))

        return noted
