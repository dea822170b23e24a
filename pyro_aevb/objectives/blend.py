"""The two reparameterised gradients of the ELBO's KL, blended by how they covary: what AEVB follows by default.

A control variate from two estimators: Geffner & Domke 2018, *Using Large Ensembles of Control Variates for Variational
Inference*; sticking the landing: Roeder, Wu & Duvenaud 2017.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
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

    This is for guides that compute the distribution of one latent, in the data plate, and no flow.  With any other it
    is L^B.

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
        """Return L^B, twice; what differentiates it gets the blended gradient.

        Args:
            particles: K draws for each of M datapoints.
        """
        bound = self.weighted_elbo(particles)
        differences = self._differences(particles) if torch.is_grad_enabled() else []
        if differences:
            unit = particles.of_the_data(torch.ones_like(bound))
            _Blending(self.running, differences, unit, len(bound)).follow(bound)
        return bound, bound

    def _differences(self, particles: Particles) -> list[tuple[Tensor, Tensor]]:
        """Return each parameter of the latent's distribution with g_STL - g_B, gradients of the loss."""
        if not particles.reparameterized:
            return []
        (name,) = particles.log_q
        terms = particles.kl[name], particles.log_q[name] - particles.log_prior[name]
        weight = particles.weight[name]
        exact, sampled = (particles.of_the_data(self.weigh(times(weight, term.mean(0)))) for term in terms)
        found = []
        for drawn, parameters in particles.reparameterized:
            # A leaf outlives the step, and so would what is left on it.
            inputs = [each for each in parameters if each.requires_grad and not each.is_leaf]
            if not inputs or not exact.requires_grad or not sampled.requires_grad:
                continue  # nothing of the KL is to be learned
            of_exact = torch.autograd.grad(exact, inputs, retain_graph=True, allow_unused=True)
            (of_drawn,) = torch.autograd.grad(sampled, drawn, retain_graph=True)
            of_path = torch.autograd.grad(drawn, inputs, of_drawn, retain_graph=True, allow_unused=True)
            for each, g_b, g_stl in zip(inputs, of_exact, of_path, strict=True):
                if g_b is not None and g_stl is not None:
                    found.append((each, g_stl - g_b))
        return found


class _Blending:
    """Adds c (g_STL - g_B) to the gradients g_B of one backward pass, and takes both into the running means.

    Args:
        running: the means.
        differences: each parameter of the latent's distribution, and g_STL - g_B.
        unit: the derivative of the loss in the bounds, summed over datapoints, but for its sign.
        num_data: M.
    """

    def __init__(
        self, running: _Running, differences: list[tuple[Tensor, Tensor]], unit: Tensor, num_data: int
    ) -> None:
        self._running, self._differences, self._unit, self._num_data = running, differences, unit, num_data
        self._share = running.share(unit.device)
        self._products: list[Tensor] = []
        self._factor = unit  # what is differentiated, as a multiple of the loss: somebody may divide that by M

    def follow(self, bound: Tensor) -> None:
        """Wait for the gradients behind the bounds, (M,)."""
        bound.register_hook(self._see_bound)
        for each, difference in self._differences:
            each.register_hook(functools.partial(self._blend, difference))

    def _see_bound(self, gradient: Tensor) -> None:
        self._factor = -gradient.sum() / self._unit

    def _blend(self, difference: Tensor, gradient: Tensor) -> Tensor:
        self._products.append((gradient * difference).sum())
        if len(self._products) == len(self._differences):
            covariance = torch.stack(self._products).sum() / self._factor
            variance = torch.stack([(each * each).sum() for _, each in self._differences]).sum()
            self._running.take(torch.stack([covariance, variance]) * (self._num_data / self._unit**2))
        return gradient + self._share * self._factor * difference


class _Running(nn.Module):
    """Running means of g_B . d and of |d|^2, with d = g_STL - g_B; a buffer, so that a run that goes on has them."""

    def __init__(self) -> None:
        super().__init__()
        self.means: Tensor
        self.register_buffer("means", torch.zeros(2, dtype=torch.float64))

    def share(self, device: torch.device | None = None) -> Tensor:
        """Return c, on a device; 0 before the first step, and after a gradient that isn't finite."""
        if device is not None and self.means.device != device:
            self.to(device)
        covariance, variance = self.means.clone()
        return (-covariance / variance).nan_to_num(0.0, posinf=0.0, neginf=0.0).clamp(0, 1)

    @torch.no_grad()
    def take(self, products: Tensor) -> None:
        """Take the products of one minibatch into the means.

        Args:
            products: g_B . d and |d|^2, per datapoint, (2,).
        """
        self.means.lerp_(products.to(self.means.dtype), RATE)

    def average(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Take the mean over the processes that share a minibatch, which so have one c.

        Args:
            mean: returns it.
        """
        self.means.copy_(mean(self.means))
