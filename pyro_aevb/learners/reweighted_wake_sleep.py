"""Reweighted wake-sleep (Bornschein & Bengio 2015; Le et al. 2019), each datapoint with weights of its own."""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_aevb.capture.capture import Compile
from pyro_aevb.learners.dreams import DreamArguments, Dreams
from pyro_aevb.learners.learner import Learner
from pyro_aevb.learners.optimizer import AnyOptimizer
from pyro_aevb.learners.presets import optimizers_or_preset
from pyro_aevb.learners.step import Minibatch, StepSettings
from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.parameters import Parameter
from pyro_aevb.model_guide.structure import Structure, structure
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.objectives.draws import draw
from pyro_aevb.objectives.particles import log_mean_exp, sum_terms, times, with_gradient

FROM_MODEL = "from_model"  # infer={"from_model": True} in a guide


class ReweightedWakeSleepInfo(NamedTuple):
    """One step of reweighted wake-sleep.

    ``loss``: -N/M sum_m sum_k w_km log p(x_m, z_km) - log p(theta), w normalised over a datapoint's particles, and
    KL(q || p) of global latents; ``guide_loss``, what phi minimizes: both in nats for the whole data set.  ``elbo`` and
    ``iwae_bound``: mean log w and log mean w, less that KL / N, in nats per datapoint.
    ``effective_sample_size``: 1 / sum_k w_km^2, the mean over the minibatch.
    """

    loss: Tensor
    guide_loss: Tensor
    elbo: Tensor
    iwae_bound: Tensor
    effective_sample_size: Tensor


@final
class ReweightedWakeSleep(Learner):
    r"""Wake-sleep with importance weights, for latents of any kind, discrete ones too.

    With z_k ~ q(z|x) and weights w_k = p(x, z_k) / q(z_k|x) normalised over the particles of each datapoint:

    * wake-theta: theta follows the gradient of sum_k w_k log p(x, z_k), an estimate of log p(x)'s;
    * wake-phi: phi follows the gradient of sum_k w_k log q(z_k|x), which lowers KL(p(z|x) || q(z|x)) on the data;
    * sleep-phi: phi follows the gradient of log q(z|x) on dreams (z, x) ~ p(z) p(x|z).

    What the guide draws from the model's own p, with its parameters, is theta's to learn, and left out of wake-phi if
    it is marked ``infer={"from_model": True}``.

    Global latents w ~ q(w), drawn once a step, are to this what theta is, and q(w) follows the bound
    E_q(w)[N/M sum_m log 1/K sum_k p(x_m, z_mk|w) / q(z_mk|x_m, w)] - KL(q(w) || p(w)) <= log p(X).

    Pyro's ``ReweightedWakeSleep`` weighs whole minibatches: the more datapoints, the fewer particles that count.

    Args:
        model: p(x, z).
        guide: q(z|x).
        model_optim: for theta: a factory such as ``partial(torch.optim.Adam, lr=1e-3)``, a torch or Pyro optimizer.
        guide_optim: for phi, another one; by default both are those of ``PRESETS["reweighted-wake-sleep"]``, with whose
            schedule ``fit`` then trains.
        num_particles: K, two or more.
        insomnia: the part of wake-phi in phi's objective; the rest is sleep-phi.
        theta_prior: p(theta), as for :class:`~pyro_aevb.learners.AEVB`.
        dream_arguments: as for :class:`~pyro_aevb.learners.WakeSleep`.
        vectorize: see :class:`~pyro_aevb.objectives.Objective`.
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`.

    Raises:
        ValueError: for fewer than two particles, an ``insomnia`` outside [0, 1], the same optimizer twice.

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
    >>> learner = ReweightedWakeSleep(model, guide, adam, adam, num_particles=5)
    >>> for _ in range(150):
    ...     info = learner.step(x)
    >>> bool(0.7 < pyro.param("logit").sigmoid() < 0.9), bool(info.effective_sample_size > 4)
    (True, True)
    """

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable,
        model_optim: AnyOptimizer | None = None,
        guide_optim: AnyOptimizer | None = None,
        *,
        num_particles: int = 10,
        insomnia: float = 1.0,
        theta_prior: Distribution | None = None,
        dream_arguments: DreamArguments | None = None,
        vectorize: bool = True,
        compile: Compile = "auto",
    ) -> None:
        if num_particles < 2:
            raise ValueError(
                f"expected num_particles of 2 or more, got {num_particles}; the weights of a single particle are 1: "
                "use WakeSleep"
            )
        if not 0 <= insomnia <= 1:
            raise ValueError(f"expected insomnia between 0 (sleep-phi) and 1 (wake-phi), got {insomnia}")
        given = {"model_optim": model_optim, "guide_optim": guide_optim}
        optimizers, schedule = optimizers_or_preset("reweighted-wake-sleep", **given)
        super().__init__(
            model,
            guide,
            optimizers,
            schedule=schedule,
            theta_prior=theta_prior,
            compile=compile,
            inspect=self._see_pair,
        )
        self.num_particles, self.insomnia, self.vectorize = num_particles, insomnia, vectorize
        self.dream_arguments = dream_arguments
        self._gradients = self.capture(self._phases, watched=[dream_arguments])

    def parameters_of(self, optimizer: str) -> dict[str, Parameter]:
        """Return theta, or what of phi isn't theta's."""
        return self.theta if optimizer == "model_optim" else {n: p for n, p in self.phi.items() if n not in self.theta}

    def update(self, batch: Minibatch, settings: StepSettings) -> ReweightedWakeSleepInfo:
        """Make all phases at once."""
        info = self._gradients.of(batch)
        self.descend(info.loss + info.guide_loss, settings, "model_optim", "guide_optim")
        return info

    def _see_pair(self, *args: Tensor) -> tuple[Structure, frozenset[str], Dreams | None]:
        """See the plates and the global latents, what the guide draws from p, and what there is to dream."""
        model, guide = self.traced_model, self.traced_guide
        dreams = Dreams(model, guide, args, self.dream_arguments) if self.insomnia < 1 else None
        of_model = {name for name, site in read(model, guide, args).guide.items() if site.infer.get(FROM_MODEL)}
        return structure(model, guide, args, analytic_kl=False), frozenset(of_model), dreams

    def _phases(self, *args: Tensor) -> ReweightedWakeSleepInfo:
        """Leave the gradients of all phases in theta and phi."""
        model, guide = self.traced_model, self.traced_guide
        pair, of_model, dreams = self.inspected
        particles = draw(
            model, guide, args, {},
            num_particles=self.num_particles, depth=pair.depth if self.vectorize else None, flow="wake",
            unchecked=self.unchecked, global_names=pair.global_names, enumerated=pair.enumerated,
        )  # fmt: skip
        log_weight = particles.log_weight.detach()
        each = particles.summed(log_weight).detach()  # of each draw, summed over what the guide enumerates
        weight, bound = torch.softmax(each, 0), log_mean_exp(each)
        ess = (1 / weight.square().sum(0)).mean()
        if particles.log_share is not None:
            weight = torch.softmax(log_weight + particles.log_share.detach().flatten(0, 1), 0)
        loss = self.add_prior(-(particles.scale * (weight * particles.weighted_log_p)).sum() - particles.log_given)
        global_part, each = torch.zeros(()), particles.of_the_data(torch.ones_like(bound))  # N
        if particles.global_kl:
            global_part, surrogate = particles.global_bound(bound)
            loss = loss - with_gradient(global_part, surrogate)
            global_part = global_part.detach() / each
        guide_loss = torch.zeros_like(loss)
        if self.insomnia > 0:
            log_q = {n: times(particles.weight[n], term) for n, term in particles.log_q.items() if n not in of_model}
            awake = -(particles.scale * (weight * sum_terms(log_q))).sum()
            guide_loss = guide_loss + self.insomnia * awake
        if self.insomnia < 1:
            guide_loss = guide_loss + (1 - self.insomnia) * dreams.loss(*args)
        if (both := loss + guide_loss).requires_grad:
            both.backward()
        return ReweightedWakeSleepInfo(
            loss.detach(),
            guide_loss.detach(),
            particles.expected(log_weight).detach().mean() + global_part,
            bound.mean() + global_part,
            ess,
        )
