"""Auto-Encoding Variational Bayes (Kingma & Welling 2013, Algorithm 1)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.distributions import Distribution

from pyro_aevb.capture.capture import Compile
from pyro_aevb.learners.learner import Learner
from pyro_aevb.learners.optimizer import AnyOptimizer, Optimizer
from pyro_aevb.model_guide.parameters import Parameter, log_prior
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.objectives.objective import Objective, Terms


class AEVBInfo(NamedTuple):
    """One step of AEVB.

    ``loss``: -L^M - log p(theta), Eq. (8), in nats for the whole data set.  ``elbo``: L^M / N, in nats per datapoint,
    the mean of the objective's bound.  ``terms``: what that is made of for each datapoint, where the objective is an
    :class:`~pyro_aevb.objectives.Objective`; empty for Pyro's own.
    """

    loss: Tensor
    elbo: Tensor
    terms: Terms | tuple[()] = ()


class AEVB(Learner):
    r"""Maximize a stochastic lower bound over theta and phi together.

    Each step draws the minibatch's latents from the guide and follows the gradient of

    .. math:: \mathcal{L}^M = \frac{N}{M} \sum_{m=1}^M \tilde{\mathcal{L}}(\theta, \phi; x_m) \quad (8)

    with N from ``pyro.plate("data", N, subsample_size=M)``.  ``Trace_ELBO()`` makes it L^A, Eq. (6),
    ``TraceMeanField_ELBO()`` L^B, Eq. (7), and ``num_particles`` is their L.  With no prior on theta a step is that of
    ``pyro.infer.SVI`` with the same optimizer.

    Args:
        model: p(x, z).
        guide: q(z|x).
        optim: a factory such as ``partial(torch.optim.Adagrad, lr=0.01)``, a torch optimizer, or a Pyro one.
        objective: a Pyro ELBO object: Pyro's, or one of ours, such as :class:`~pyro_aevb.objectives.IWAE`.
        theta_prior: p(theta), each element's distribution: ``dist.Normal(0., 1.)`` makes MAP of it, as in the paper.
        update: ``"both"``, or ``"guide"`` to fit q to a model that stays as it is, or ``"model"``.
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`.

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

    _draws_inside = True

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable,
        optim: AnyOptimizer,
        objective: ELBO | None = None,
        *,
        theta_prior: Distribution | None = None,
        update: Literal["both", "model", "guide"] = "both",
        compile: Compile = "auto",
    ) -> None:
        super().__init__(model, guide, theta_prior, compile)
        if objective is not None and not isinstance(objective, ELBO):
            raise TypeError(f"expected a Pyro ELBO object, got {objective!r}; for example pyro.infer.Trace_ELBO()")
        if update not in ("both", "model", "guide"):
            raise ValueError(f"expected update to be 'both', 'model' or 'guide', got {update!r}")
        self.objective = objective if objective is not None else Trace_ELBO()
        self.update = update
        self.optimizers = {"optim": Optimizer(optim)}
        self._watched.append(self.objective)  # type: ignore[arg-type]  # its settings are part of the signature
        self._gradients = self._capture(self._loss_and_gradients)

    def _parameters_of(self, optimizer: str) -> dict[str, Parameter]:
        if self.update == "guide":
            return {n: p for n, p in self.phi.items() if n not in self.theta}
        if self.update == "model":
            return {n: p for n, p in self.theta.items() if n not in self.phi}
        return self.theta | self.phi

    def _loss_and_gradients(self, *args: Tensor) -> AEVBInfo:
        objective: Any = self.objective  # Pyro's base class does not declare loss_and_grads
        terms: Terms | tuple[()] = ()
        args = self.draw(*args)
        if isinstance(objective, Objective):
            assert self._guide is not None
            terms = objective.terms(self._model, self._guide, *args)
            terms.loss.backward()
            result = terms.loss.detach()
            terms = terms._replace(loss=result)
        else:
            result = objective.loss_and_grads(self._model, self._guide, *args)
        negative_bound = loss = torch.as_tensor(result, dtype=torch.float64)
        if self.theta_prior is not None:
            penalty = -log_prior(self.theta, self.theta_prior)
            penalty.backward()
            loss = loss + penalty.detach()
        return AEVBInfo(loss, -negative_bound / self.dataset_size, terms)

    def _update(self, args: tuple[Tensor, ...], index: Tensor | None) -> AEVBInfo:
        info = self._gradients(*args)
        self._descend(info.loss, "optim")
        return info
