"""Auto-Encoding Variational Bayes (Kingma & Welling 2013, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, NamedTuple, final

import torch
from pyro.infer import ReweightedWakeSleep as PyrosReweightedWakeSleep
from pyro.infer import Trace_ELBO, TraceTailAdaptive_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.distributions import Distribution

from pyro_aevb.capture.capture import Compile
from pyro_aevb.learners.learner import Learner
from pyro_aevb.learners.optimizer import AnyOptimizer
from pyro_aevb.learners.presets import optimizers_or_preset
from pyro_aevb.learners.step import Minibatch, StepSettings
from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.guide_values import enumerated
from pyro_aevb.model_guide.parameters import Parameter, log_prior
from pyro_aevb.model_guide.supports import Inside
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.objectives.blend import Blend
from pyro_aevb.objectives.draws import not_reparameterized
from pyro_aevb.objectives.objective import Objective, Terms
from pyro_aevb.objectives.sgvb import WeightedKL
from pyro_aevb.short_repr import short_repr


class AEVBInfo(NamedTuple):
    """One step of AEVB.

    ``loss``: -L^M - log p(theta), Eq. (8), in nats for the whole data set.  ``elbo``: L^M / N, in nats per datapoint,
    the mean of the objective's bound.  ``terms``: what that is made of for each datapoint, where the objective is an
    :class:`~pyro_aevb.objectives.Objective`; empty for Pyro's own.
    """

    loss: Tensor
    elbo: Tensor
    terms: Terms | tuple[()] = ()

    def __repr__(self) -> str:
        return short_repr(self)


@final
class AEVB(Learner):
    r"""Maximize a stochastic lower bound over theta and phi together.

    Each step draws the minibatch's latents from the guide and follows the gradient of

    .. math:: \mathcal{L}^M = \frac{N}{M} \sum_{m=1}^M \tilde{\mathcal{L}}(\theta, \phi; x_m) \quad (8)

    with N from ``pyro.plate("data", N, subsample_size=M)``.  ``Trace_ELBO()`` makes it L^A, Eq. (6),
    ``TraceMeanField_ELBO()`` L^B, Eq. (7), and ``num_particles`` is their L.  With no prior on theta a step is that of
    ``pyro.infer.SVI`` with the same objective and optimizer.

    Args:
        model: p(x, z).
        guide: q(z|x).
        optim: a factory such as ``partial(torch.optim.Adagrad, lr=0.01)``, a torch optimizer, or a Pyro one; by default
            that of ``PRESETS["aevb"]``, with whose schedule ``fit`` then trains.
        objective: a Pyro ELBO object: Pyro's, or one of ours, such as :class:`~pyro_aevb.objectives.IWAE`; by default
            :class:`~pyro_aevb.objectives.Blend`, and in its place Pyro's ``Trace_ELBO``, with its score function, for
            latents that the guide draws and that can't be reparameterised.
        theta_prior: p(theta), each element's distribution: ``dist.Normal(0., 1.)`` makes MAP of it, as in the paper:
            the steps of ``Bayesian(..., guide_for="delta")``, where :class:`~pyro_aevb.Bayesian` says how the two
            differ for constrained parameters.
        update: ``"both"``, or ``"guide"`` to fit q to a model that stays as it is, or ``"model"``.
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`.

    Raises:
        ValueError: for another ``update``.
        TypeError: for an objective that is no Pyro ELBO object.

    >>> def model(x):
    ...     mean = pyro.param("mean", torch.tensor(0.0))
    ...     with pyro.plate("data", 100, subsample_size=len(x)):
    ...         z = pyro.sample("z", dist.Normal(mean, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     shift = pyro.param("shift", torch.tensor(0.0))
    ...     with pyro.plate("data", 100, subsample_size=len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5))
    >>> x = torch.randn(100) + 3.0
    >>> learner = AEVB(model, guide, functools.partial(torch.optim.Adam, lr=0.1))
    >>> for _ in range(200):
    ...     info = learner.step(x[torch.randint(100, (20,))])
    >>> bool((pyro.param("mean") - x.mean()).abs() < 0.3)
    True
    """

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable,
        optim: AnyOptimizer | None = None,
        objective: ELBO | None = None,
        *,
        theta_prior: Distribution | None = None,
        update: Literal["both", "model", "guide"] = "both",
        compile: Compile = "auto",
    ) -> None:
        if update not in ("both", "model", "guide"):
            raise ValueError(f"expected update to be 'both', 'model' or 'guide', got {update!r}")
        _check_objective(objective)
        optimizers, schedule = optimizers_or_preset("aevb", optim=optim)
        super().__init__(
            model,
            guide,
            optimizers,
            schedule=schedule,
            objective=Blend() if objective is None else objective,
            theta_prior=theta_prior,
            compile=compile,
            inspect=self._in_place_of_blend if objective is None else None,
        )
        self.trains = update
        self._gradients = self.capture(self._loss_and_gradients)
        self._weighted_gradients = self.capture(self._weighted_loss_and_gradients)

    def parameters_of(self, optimizer: str) -> dict[str, Parameter]:
        """Return theta and phi, or what ``update`` says."""
        if self.trains == "guide":
            return {n: p for n, p in self.phi.items() if n not in self.theta}
        if self.trains == "model":
            return {n: p for n, p in self.theta.items() if n not in self.phi}
        return self.theta | self.phi

    def update(self, batch: Minibatch, settings: StepSettings) -> AEVBInfo:
        """Follow the gradient of the bound on a minibatch."""
        weight = settings.kl_weight
        info = self._gradients.of(batch) if weight is None else self._weighted_gradients.of(batch, weight)
        if settings.share is not None and isinstance(self.objective, Blend):
            self.objective.running.average(settings.share.mean)
        self.descend(info.loss, settings, "optim")
        return info

    def _in_place_of_blend(self, *args: Tensor) -> ELBO | None:
        """Return Pyro's ``Trace_ELBO`` for a guide with a latent that can't be reparameterised; ``None`` for others."""
        reading = read(self.traced_model, self.traced_guide, args)
        return Trace_ELBO() if not_reparameterized(reading, enumerated(reading, self.traced_guide)) else None

    def _loss_and_gradients(self, *args: Tensor) -> AEVBInfo:
        objective = self.inspected or self.objective
        assert objective is not None
        return self._follow(objective, args)

    def _weighted_loss_and_gradients(self, kl_weight: Tensor, *args: Tensor) -> AEVBInfo:
        objective = self.inspected or self.objective
        if not isinstance(objective, WeightedKL):
            raise ValueError(f"expected an objective that weighs its KL, got {type(objective).__name__}; pass SGVB()")
        return self._follow(objective.with_kl_weight(kl_weight), args)

    def _follow(self, objective: ELBO, args: tuple[Tensor, ...]) -> AEVBInfo:
        """Leave the gradients of the loss in theta and phi."""
        negative_bound, terms = bound_gradients(objective, self.traced_model, self.traced_guide, args, self.unchecked)
        loss = negative_bound
        if self.theta_prior is not None:
            penalty = -log_prior(self.theta, self.theta_prior)
            penalty.backward()
            loss = loss + penalty.detach()
        return AEVBInfo(loss, -negative_bound / self.dataset_size, terms)


def bound_gradients(
    objective: ELBO,
    model: PyroCallable,
    guide: PyroCallable,
    args: tuple[Tensor, ...],
    unchecked: Collection[str] = (),
) -> tuple[Tensor, Terms | tuple[()]]:
    """Leave the gradients of -L^M in the parameters of model and guide; return -L^M in nats, and what L^M is made of.

    The second is empty for Pyro's own objectives.  Data outside of the likelihood's support make the loss NaN, but at
    the ``unchecked`` sites.
    """
    if isinstance(objective, Objective):
        terms = objective.terms(model, guide, *args)
        if terms.loss.requires_grad:
            terms.loss.backward()
        loss = terms.loss.detach()
        return torch.as_tensor(loss, dtype=torch.float64), terms._replace(loss=loss)
    pyros: Any = objective  # Pyro's base class does not declare loss_and_grads
    with Inside(unchecked) as inside:
        loss = pyros.loss_and_grads(model, guide, *args)
    return inside.or_nan(torch.as_tensor(loss, dtype=torch.float64, device=args[0].device)), ()  # Pyro's is a float


def _check_objective(objective: object) -> None:
    """Raise ``ValueError`` for objectives of Pyro's that give no loss to one optimizer."""
    if isinstance(objective, TraceTailAdaptive_ELBO):
        raise ValueError(
            "expected an objective with a value, got TraceTailAdaptive_ELBO, whose loss Pyro doesn't compute; use "
            "Renyi(alpha, K), or SVI with it"
        )
    if isinstance(objective, PyrosReweightedWakeSleep):
        raise ValueError(
            "expected an objective with one loss, got Pyro's ReweightedWakeSleep, which has one for each half; use the "
            "learner ReweightedWakeSleep(model, guide, model_optim, guide_optim)"
        )
