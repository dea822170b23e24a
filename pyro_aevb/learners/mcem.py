"""Monte Carlo EM with Hamiltonian Monte Carlo (Kingma & Welling 2013, Appendix E), and a guide beside it if wanted."""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.distributions import Distribution

from pyro_aevb.capture.capture import Compile
from pyro_aevb.learners.aevb import bound_gradients
from pyro_aevb.learners.chains import Chains
from pyro_aevb.learners.learner import Learner
from pyro_aevb.learners.optimizer import AnyOptimizer
from pyro_aevb.learners.presets import optimizers_or_preset
from pyro_aevb.learners.step import Minibatch, StepSettings
from pyro_aevb.model_guide.parameters import Parameter
from pyro_aevb.model_guide.reading import read_traces
from pyro_aevb.model_guide.supports import Inside
from pyro_aevb.model_guide.traces import PyroCallable, number_of_datapoints
from pyro_aevb.objectives.sgvb import SGVB
from pyro_aevb.samplers import hmc
from pyro_aevb.samplers.latent_space import LatentSpace


class MCEMInfo(NamedTuple):
    """One step of MCEM.

    ``loss``: -N/M sum log p(x, z) - log p(theta) at the last update, in nats for the whole data set.
    ``acceptance``: the mean acceptance probability of the minibatch's chains.  ``step_size``: the largest step used.
    ``elbo``: the guide's bound, in nats per datapoint.  ``guide_loss``: what phi minimizes, in nats for the whole data
    set.  Both are ``None`` without a guide.
    """

    loss: Tensor
    acceptance: Tensor
    step_size: Tensor
    elbo: Tensor | None = None
    guide_loss: Tensor | None = None


@final
class MCEM(Learner):
    r"""Alternate posterior samples by HMC (the E step) with updates of theta on them (the M step).

    Every datapoint has its own chain, which goes on from visit to visit, and its own accept.  Latents with constrained
    supports move in unconstrained coordinates (:mod:`pyro_aevb.samplers.latent_space`).  A chain starts from the prior,
    and its steps are drawn anew at each transition, uniformly between a fifth of the step size and the whole.

    The algorithm needs no guide.  One that is given is fitted to the model beside it, by AEVB's gradient with theta
    untouched, on the same minibatches: there is then a bound to report, and a q(z|x) to use.

    Args:
        model: p(x, z), its latents continuous and local.
        optim: for theta: a factory such as ``partial(torch.optim.Adagrad, lr=0.01)``, a torch or a Pyro optimizer.
        guide: q(z|x), if one is wanted.
        guide_optim: for phi, with a guide; by default both are of ``PRESETS["mcem"]``, with whose schedule ``fit`` then
            trains.
        guide_objective: the bound that phi maximizes; by default ``SGVB(kl="analytic")``.
        theta_prior: p(theta), as for :class:`~pyro_aevb.learners.AEVB`.
        num_leapfrog: leapfrog steps a transition; the paper's 10.
        num_transitions: transitions a visit.
        num_updates: updates of theta a visit; the paper's 5.
        target_acceptance: what the step size is adapted to; the paper's 90%.
        step_size: the largest leapfrog step to begin with.
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`.

    >>> def model(x):
    ...     mean = pyro.param("mean", torch.tensor(0.0))
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(mean, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> x = torch.randn(100) + 3.0
    >>> learner = MCEM(model, functools.partial(torch.optim.Adam, lr=0.05))
    >>> for _ in range(100):
    ...     info = learner.step(x, index=torch.arange(100))
    >>> bool((pyro.param("mean") - x.mean()).abs() < 0.3)
    True
    """

    def __init__(
        self,
        model: PyroCallable,
        optim: AnyOptimizer | None = None,
        guide: PyroCallable | None = None,
        guide_optim: AnyOptimizer | None = None,
        *,
        guide_objective: ELBO | None = None,
        theta_prior: Distribution | None = None,
        num_leapfrog: int = 10,
        num_transitions: int = 1,
        num_updates: int = 5,
        target_acceptance: float = 0.9,
        step_size: float = 0.1,
        compile: Compile = "auto",
    ) -> None:
        _check_numbers(num_leapfrog, num_transitions, num_updates, target_acceptance, step_size)
        given = {"optim": optim} if guide is None else {"optim": optim, "guide_optim": guide_optim}
        _check_guide(guide, guide_optim, guide_objective)
        optimizers, schedule = optimizers_or_preset("mcem", **given)
        self.num_leapfrog, self.num_transitions, self.num_updates = num_leapfrog, num_transitions, num_updates
        self.target_acceptance, self.step_size = target_acceptance, step_size
        self.guide_objective = None if guide is None else guide_objective or SGVB(kl="analytic")
        self._chains = Chains(step_size)
        super().__init__(
            model,
            guide,
            optimizers,
            schedule=schedule,
            theta_prior=theta_prior,
            compile=compile,
            inspect=self._see_latents,
            kept={"chains": self._chains},
        )
        self._target = self.capture(self._log_joint, calls_a_step=num_transitions * num_leapfrog + 1)
        self._m_step = self.capture(self._gradients, calls_a_step=num_updates)
        self._guide_step = self.capture(self._guide_gradients, watched=[self.guide_objective])

    def parameters_of(self, optimizer: str) -> dict[str, Parameter]:
        """Return theta, or what of phi isn't theta's."""
        return self.theta if optimizer == "optim" else {n: p for n, p in self.phi.items() if n not in self.theta}

    def update(self, batch: Minibatch, settings: StepSettings) -> MCEMInfo:
        """Move the minibatch's chains, update theta on where they are, and phi by the bound.

        Raises:
            ValueError: for a minibatch without places.
        """
        number = len(batch.rows[0])
        if batch.places is None or batch.places.shape != (number,):
            raise ValueError(
                f"expected index= with the place of each of the {number} datapoints in the data set, got "
                f"{None if batch.places is None else tuple(batch.places.shape)}; MCEM keeps a chain for each: "
                "learner.step(x[index], index=index)"
            )
        args = batch.args()
        step_size = self._chains.step_size
        position, acceptance = self._e_step(args, batch, settings)
        for _ in range(self.num_updates):
            (loss,) = self._m_step(position, *args)
            self.descend(loss, settings, "optim")
        info = MCEMInfo(loss, acceptance, torch.tensor(step_size))
        if self.guide is None:
            return info
        guide_loss, elbo = self._guide_step(*args)
        self.descend(guide_loss, settings, "guide_optim")
        return info._replace(elbo=elbo, guide_loss=guide_loss)

    @property
    def _space(self) -> LatentSpace:
        space: LatentSpace = self.inspected
        return space

    def _see_latents(self, *args: Tensor) -> LatentSpace:
        """See what latents the model has; raise for discrete ones, and for a model without parameters."""
        space = LatentSpace(self.traced_model, *args)
        if not self.theta:
            raise ValueError(
                "expected a model with parameters for MCEM, got none: there is nothing to train; register them with "
                "pyro.module or pyro.param, or fit a guide to the model as it is with AEVB(model, guide, optim)"
            )
        return space

    def _e_step(self, args: tuple[Tensor, ...], batch: Minibatch, settings: StepSettings) -> tuple[Tensor, Tensor]:
        """Move the minibatch's chains; return where they are (M, J), and the mean acceptance probability."""

        def target(u: Tensor) -> tuple[Tensor, Tensor]:
            return self._target(u, *args)

        chains, space, share = self._chains, self._space, settings.share
        assert batch.places is not None
        everyone = batch.places if batch.all_places is None else batch.all_places
        size = max(self.dataset_size, int(everyone.max()) + 1)
        if chains.positions is not None and chains.positions.shape[-1] != space.dim:
            raise ValueError(
                f"expected a model of {chains.positions.shape[-1]} latent dimensions, as the chains have, got "
                f"{space.dim}; arguments that change the latents need an MCEM of their own"
            )
        state = hmc.init(target, chains.at(batch.places, size, lambda: space.prior_draw(*args)))
        step_size = chains.step_size
        for _ in range(self.num_transitions):
            state, info = hmc.transition(target, state, hmc.jittered(step_size, state), self.num_leapfrog)
            acceptance = info.acceptance.mean()
            acceptance = acceptance if share is None else share.mean(acceptance)
            chains.step_size = hmc.adapt_step_size(chains.step_size, acceptance.item(), self.target_acceptance)
        if share is None:
            chains.put(batch.places, state.position)
        else:  # each rank keeps all of the chains: the next pass deals the datapoints out anew
            chains.put(everyone, share.gather(state.position))
        return state.position, acceptance

    def _log_joint(self, u: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x, z) (M,) at ``u`` (M, J), and its gradient (M, J)."""
        space = self._space
        return hmc.differentiable(lambda u: space.log_joint(u, *args))(u)

    def _gradients(self, u: Tensor, *args: Tensor) -> tuple[Tensor]:
        """Leave the gradient of the loss at the latents ``u`` in theta, and return the loss."""
        with Inside(self.unchecked) as inside:
            trace, _ = self._space.trace(u, *args)
        reading = read_traces(trace, None, number_of_datapoints(args))
        loss = inside.or_nan(self.add_prior(-reading.total("model", "observation", "local", "given")))
        if loss.requires_grad:
            loss.backward()
        return (loss.detach(),)

    def _guide_gradients(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        """Leave the gradient of minus the guide's bound in phi; return its value, and the bound per datapoint."""
        assert self.guide_objective is not None
        loss, _ = bound_gradients(self.guide_objective, self.traced_model, self.traced_guide, args, self.unchecked)
        return loss, -loss / self.dataset_size


def _check_numbers(
    num_leapfrog: int, num_transitions: int, num_updates: int, target_acceptance: float, step_size: float
) -> None:
    numbers = {"num_leapfrog": num_leapfrog, "num_transitions": num_transitions, "num_updates": num_updates}
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"expected {name} of 1 or more, got {value}")
    if not 0 < target_acceptance < 1 or step_size <= 0:
        raise ValueError(
            "expected target_acceptance between 0 and 1 and a positive step_size, "
            f"got {target_acceptance} and {step_size}"
        )


def _check_guide(guide: object, guide_optim: object, guide_objective: object) -> None:
    if guide is None and guide_optim is not None:
        raise ValueError("expected a guide for guide_optim, got none; pass MCEM(model, optim, guide, guide_optim)")
    if guide_objective is not None and not isinstance(guide_objective, ELBO):
        raise TypeError(f"expected a Pyro ELBO object, got {guide_objective!r}; for example SGVB(kl='analytic')")
    if guide_objective is not None and guide is None:
        raise ValueError("expected a guide for guide_objective, got none; pass guide= and guide_optim=")
