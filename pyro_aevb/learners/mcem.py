"""Monte Carlo EM with Hamiltonian Monte Carlo (Kingma & Welling 2013, Appendix E): no guide at all."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_aevb.capture.capture import Compile
from pyro_aevb.learners.learner import Learner
from pyro_aevb.learners.optimizer import AnyOptimizer, Optimizer
from pyro_aevb.model_guide.modes import evaluating
from pyro_aevb.model_guide.parameters import Parameter
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.samplers import hmc
from pyro_aevb.samplers.latent_space import LatentSpace


class MCEMInfo(NamedTuple):
    """One step of MCEM.

    ``loss``: -N/M sum log p(x, z) - log p(theta) at the last update, in nats for the whole data set.
    ``acceptance``: the mean acceptance probability of the minibatch's chains.  ``step_size``: the largest step used.
    """

    loss: Tensor
    acceptance: Tensor
    step_size: Tensor


class MCEM(Learner):
    r"""Alternate posterior samples by HMC (the E step) with updates of theta on them (the M step).

    Every datapoint has its own chain, which goes on from visit to visit, and its own accept.  Latents with constrained
    supports move in unconstrained coordinates (:mod:`pyro_aevb.samplers.latent_space`).  A chain starts from the prior,
    and its steps are drawn anew at each transition, uniformly between a fifth of the step size and the whole.

    Args:
        model: p(x, z), its latents continuous and local.
        optim: for theta: a factory such as ``partial(torch.optim.Adagrad, lr=0.01)``, a torch or a Pyro optimizer.
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
        optim: AnyOptimizer,
        *,
        theta_prior: Distribution | None = None,
        num_leapfrog: int = 10,
        num_transitions: int = 1,
        num_updates: int = 5,
        target_acceptance: float = 0.9,
        step_size: float = 0.1,
        compile: Compile = "auto",
    ) -> None:
        super().__init__(model, None, theta_prior, compile)
        for name, value in (
            ("num_leapfrog", num_leapfrog),
            ("num_transitions", num_transitions),
            ("num_updates", num_updates),
        ):
            if value < 1:
                raise ValueError(f"expected {name} of 1 or more, got {value}")
        if not 0 < target_acceptance < 1 or step_size <= 0:
            raise ValueError(
                "expected target_acceptance between 0 and 1 and a positive step_size, "
                f"got {target_acceptance} and {step_size}"
            )
        self.optimizers = {"optim": Optimizer(optim)}
        self.num_leapfrog, self.num_transitions, self.num_updates = num_leapfrog, num_transitions, num_updates
        self.target_acceptance, self.step_size = target_acceptance, step_size
        self._space: LatentSpace | None = None
        self._target = self._capture(self._log_joint, num_transitions * num_leapfrog + 1)
        self._m_step = self._capture(self._gradients, num_updates)
        self._chains: Tensor | None = None  # (N, J); NaN where a datapoint has not been visited

    def prepare(self, *args: Tensor) -> None:
        """Check data and model, see what latents it has, and put any loaded state in place."""
        super().prepare(*args)
        with torch.random.fork_rng(), evaluating(self.modules):
            self._space = LatentSpace(self._model, *args)

    def _parameters_of(self, optimizer: str) -> dict[str, Parameter]:
        return self.theta

    def _update(self, args: tuple[Tensor, ...], index: Tensor | None) -> MCEMInfo:
        if index is None or index.shape != (len(args[0]),):
            raise ValueError(
                f"expected index= with the place of each of the {len(args[0])} datapoints in the data set, got "
                f"{None if index is None else tuple(index.shape)}; MCEM keeps a chain for each: "
                "learner.step(x[index], index=index)"
            )

        def target(u: Tensor) -> tuple[Tensor, Tensor]:
            return self._target(u, *args)

        state = hmc.init(target, self._positions(index, args))
        step_size = self.step_size
        for _ in range(self.num_transitions):
            state, info = hmc.transition(target, state, hmc.jittered(step_size, state), self.num_leapfrog)
            acceptance = info.acceptance.mean()
            acceptance = acceptance if self.share is None else self.share.mean(acceptance)
            self.step_size = hmc.adapt_step_size(self.step_size, acceptance.item(), self.target_acceptance)
        assert self._chains is not None
        if self.share is None:
            self._chains[index] = state.position
        else:  # each rank keeps all of the chains: the next pass deals the datapoints out anew
            self._chains[self.share.whole] = self.share.gather(state.position)
        for _ in range(self.num_updates):
            (loss,) = self._m_step(state.position, *args)
            self._descend(loss, "optim")
        return MCEMInfo(loss, acceptance, torch.tensor(step_size))

    def _log_joint(self, u: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x, z) (M,) at ``u`` (M, J), and its gradient (M, J)."""
        space = self._space
        assert space is not None
        return hmc.differentiable(lambda u: space.log_joint(u, *args))(u)

    def _gradients(self, u: Tensor, *args: Tensor) -> tuple[Tensor]:
        """Leave the gradient of the loss at the latents ``u`` in theta, and return the loss."""
        assert self._space is not None
        trace, _ = self._space.trace(u, *args)
        loss = self._add_prior(-torch.as_tensor(trace.log_prob_sum()))
        loss.backward()
        return (loss.detach(),)

    def _positions(self, index: Tensor, args: tuple[Tensor, ...]) -> Tensor:
        """Return where the minibatch's chains are, (M, J): where the last visit left them, or a draw from the prior."""
        assert self._space is not None
        whole = index if self.share is None or self.share.whole is None else self.share.whole
        size = max(self.dataset_size, int(whole.max()) + 1)
        draw = None
        if self._chains is None or len(self._chains) < size:
            draw = self._space.prior_draw(*args)
            chains = draw.new_full((size, draw.shape[-1]), torch.nan)
            if self._chains is not None:
                chains[: len(self._chains)] = self._chains
            self._chains = chains
        self._chains = self._chains.to(index.device)  # a state that was loaded is on the CPU
        kept = self._chains[index]
        if not kept.isnan().any():
            return kept
        draw = self._space.prior_draw(*args) if draw is None else draw
        return torch.where(kept.isnan(), draw, kept)

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, optimizer, chains and step size."""
        return {
            **super().state_dict(),
            "chains": None if self._chains is None else self._chains.clone(),
            "step_size": self.step_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        super().load_state_dict(state)
        self._chains = None if state["chains"] is None else state["chains"].clone()
        self.step_size = state["step_size"]
