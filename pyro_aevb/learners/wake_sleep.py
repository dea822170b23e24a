"""The wake-sleep algorithm (Hinton, Dayan, Frey & Neal 1995), the paper's online baseline."""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution

from pyro_aevb.capture.capture import Compile
from pyro_aevb.learners.dreams import DreamArguments, Dreams
from pyro_aevb.learners.learner import Learner
from pyro_aevb.learners.optimizer import AnyOptimizer
from pyro_aevb.learners.presets import optimizers_or_preset
from pyro_aevb.learners.step import Minibatch, StepSettings
from pyro_aevb.model_guide.parameters import Parameter
from pyro_aevb.model_guide.reading import read_traces
from pyro_aevb.model_guide.supports import Inside
from pyro_aevb.model_guide.traces import PyroCallable, number_of_datapoints, require_own_run, trace_model


class WakeSleepInfo(NamedTuple):
    """One step of wake-sleep, in nats for the whole data set.

    ``loss``: -N/M sum log p(x, z) - log p(theta), the wake phase's.  ``sleep_loss``: -N/M sum log q(z|x) on dreams.
    ``elbo``: the bound on the minibatch in nats per datapoint, all scales in it, from the wake phase's sample.
    """

    loss: Tensor
    sleep_loss: Tensor
    elbo: Tensor


@final
class WakeSleep(Learner):
    r"""Alternate between the two halves of a pair, for latents of any kind, discrete ones too.

    * wake: z ~ q(z|x) for the minibatch, theta follows the gradient of log p(x, z);
    * sleep: (z, x) ~ p(z) p(x|z) dreamed by the model, phi follows the gradient of log q(z|x).

    The two phases follow different objectives, and their combination isn't a bound on the likelihood
    (Kingma & Welling 2013, Section 4).

    Args:
        model: p(x, z).
        guide: q(z|x).
        model_optim: for theta: a factory such as ``partial(torch.optim.Adagrad, lr=0.01)``, a torch or Pyro optimizer.
        guide_optim: for phi, another one; by default both are those of ``PRESETS["wake-sleep"]``, with whose
            schedule ``fit`` then trains.
        theta_prior: p(theta), as for :class:`~pyro_aevb.learners.AEVB`.
        dream_arguments: ``dream_arguments(sites, *args)`` makes the arguments of model and guide for a dream, from
            {observed site: dreamed value} and the minibatch's arguments.  Without it an argument, or the view of one,
            that a site observes is replaced; labels, masks and lengths that the model reads are kept.
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`.

    >>> def model(x):
    ...     logit = pyro.param("logit", torch.tensor(0.0))
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Bernoulli(logits=logit))
    ...         pyro.sample("x", dist.Normal(4 * z, 1.0), obs=x)
    >>> def guide(x):
    ...     a, b = pyro.param("a", torch.tensor(0.0)), pyro.param("b", torch.tensor(0.0))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Bernoulli(logits=a + b * x))
    >>> x = torch.where(torch.rand(400) < 0.8, 4.0, 0.0) + torch.randn(400)
    >>> adam = functools.partial(torch.optim.Adam, lr=0.05)
    >>> learner = WakeSleep(model, guide, adam, adam)
    >>> for _ in range(300):
    ...     info = learner.step(x)
    >>> bool(0.7 < pyro.param("logit").sigmoid() < 0.9)
    True
    """

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable,
        model_optim: AnyOptimizer | None = None,
        guide_optim: AnyOptimizer | None = None,
        *,
        theta_prior: Distribution | None = None,
        dream_arguments: DreamArguments | None = None,
        compile: Compile = "auto",
    ) -> None:
        optimizers, schedule = optimizers_or_preset("wake-sleep", model_optim=model_optim, guide_optim=guide_optim)
        super().__init__(
            model,
            guide,
            optimizers,
            schedule=schedule,
            theta_prior=theta_prior,
            compile=compile,
            inspect=self._see_dreams,
        )
        self.dream_arguments = dream_arguments
        self._wake = self.capture(self._wake_gradients)
        self._sleep = self.capture(self._sleep_gradients, watched=[dream_arguments])

    def parameters_of(self, optimizer: str) -> dict[str, Parameter]:
        """Return theta or phi."""
        return self.theta if optimizer == "model_optim" else self.phi

    def update(self, batch: Minibatch, settings: StepSettings) -> WakeSleepInfo:
        """Make a wake phase and a sleep phase."""
        args = batch.args()
        loss, elbo = self._wake(*args)
        self.descend(loss, settings, "model_optim")
        (sleep_loss,) = self._sleep(*args)
        self.descend(sleep_loss, settings, "guide_optim")
        return WakeSleepInfo(loss, sleep_loss, elbo)

    def _see_dreams(self, *args: Tensor) -> Dreams:
        """See what there is to dream."""
        require_own_run(self.traced_guide, "train with AEVB(model, guide, optim, SGVB()), which follows its draws")
        return Dreams(self.traced_model, self.traced_guide, args, self.dream_arguments)

    def _wake_gradients(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            guide_trace = poutine.trace(self.traced_guide).get_trace(*args)
        with Inside(self.unchecked) as inside:
            model_trace = trace_model(self.traced_model, guide_trace, args)
        reading = read_traces(model_trace, guide_trace, number_of_datapoints(args))
        log_joint = reading.total("model", "observation", "local", "given")
        loss = inside.or_nan(self.add_prior(-log_joint))
        if loss.requires_grad:  # a model without parameters: the sleep phase alone trains
            loss.backward()
        with torch.no_grad():
            elbo = (log_joint - reading.total("guide", "local", "auxiliary")) / self.dataset_size
        return loss.detach(), elbo

    def _sleep_gradients(self, *args: Tensor) -> tuple[Tensor]:
        dreams: Dreams = self.inspected
        loss = dreams.loss(*args)
        if loss.requires_grad:
            loss.backward()
        return (loss.detach(),)
