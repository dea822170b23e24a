"""What AEVB, wake-sleep and Monte Carlo EM have in common: a model, a step, a state.

A learner sees two Pyro callables, theta (the parameters that run in the model) and phi (those that run in the guide).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_aevb.capture.capture import Capture, Compile
from pyro_aevb.capture.guards import PythonState
from pyro_aevb.capture.precision import Precision
from pyro_aevb.learners.minibatch_share import Share
from pyro_aevb.learners.optimizer import Optimizer
from pyro_aevb.model_guide.contract import NonFiniteLossError, check_data, non_finite_terms, read
from pyro_aevb.model_guide.modes import evaluating
from pyro_aevb.model_guide.parameters import Parameter, ParameterRecorder, log_prior, zero_grad
from pyro_aevb.model_guide.traces import PyroCallable

LOSSES_UNREAD = 100  # on a GPU


class StepInfo(Protocol):
    """What every step returns: a NamedTuple of named terms, the first of them ``loss``, 0-dim tensors."""

    @property
    def loss(self) -> Tensor:
        """The objective that was minimized, in nats for the whole data set."""
        ...


class Draw:
    """What makes a minibatch of the arguments of a step: ``fn``, or nothing."""

    def __init__(self) -> None:
        self.fn: Callable[..., tuple[Tensor, ...]] | None = None

    def __call__(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Return ``fn(*rows)``."""
        return rows if self.fn is None else self.fn(*rows)


class Learner(ABC):
    """Trains theta and phi of a (model, guide) pair, one minibatch a :meth:`step`.

    Subclasses say what one update is (:meth:`_update`) and which optimizers there are (``optimizers``); what costs time
    in it they hand to :meth:`_capture`.

    Attributes:
        model, guide: as they were given; ``guide`` is ``None`` for a learner that needs none.
        optimizers: by name.
        clip_norm: the largest norm that the gradient of ``loss`` / N may have over one optimizer's parameters; longer
            ones are scaled down to it.
        share: which part of the minibatch this process has, where several work on one.
        draw: makes a minibatch of what :meth:`step` is given; as it is, unless ``draw.fn`` says how (pixels drawn from
            grey levels at each visit).
    """

    # Whether `draw` belongs to what is captured: so it can be where a step runs model and guide once.
    _draws_inside = False

    def __init__(
        self, model: PyroCallable, guide: PyroCallable | None, theta_prior: Distribution | None, compile: Compile
    ) -> None:
        for name, fn in (("model", model), ("guide", guide)):
            if fn is not None and not callable(fn):
                raise TypeError(f"expected a callable {name}, got {fn!r}; pass a Pyro function such as vae.{name}")
        if theta_prior is not None and not isinstance(theta_prior, Distribution):
            raise TypeError(f"expected theta_prior to be a distribution, got {theta_prior!r}; e.g. dist.Normal(0., 1.)")
        self.model, self.guide, self.theta_prior = model, guide, theta_prior
        self.optimizers: dict[str, Optimizer] = {}
        self._theta, self._phi = ParameterRecorder(), ParameterRecorder()
        self._model = self._theta(model)
        self._guide = self._phi(guide) if guide is not None else None
        self.clip_norm: float | None = None
        self.share: Share | None = None
        self.draw = Draw()
        self._compile, self._watched = compile, [fn for fn in (model, guide, self.draw) if fn is not None]
        self._captures: dict[Capture, int] = {}  # and how often a step calls each
        self._unread: list[Tensor] = []
        self._prepared = False
        self._pending: dict[str, Any] | None = None

    @property
    def theta(self) -> dict[str, Parameter]:
        """The model's parameters; empty before the first step."""
        return self._theta.parameters

    @property
    def phi(self) -> dict[str, Parameter]:
        """The guide's parameters; empty before the first step."""
        return self._phi.parameters

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that model and guide can reach, each once."""
        return PythonState(self._watched).modules

    def configure(
        self, *, compile: Compile | None = None, precision: Precision | None = None, expected_steps: int | None = None
    ) -> None:
        """Choose how steps are computed; what is ``None`` stays as it is.

        Args:
            compile: as for :class:`~pyro_aevb.capture.Capture`: ``"auto"``, ``True``, ``"graph"`` or ``False``.
            precision: ``"float32"``, or ``"bf16"`` for matrix products of bfloat16 factors.
            expected_steps: how many steps will be made, for ``"auto"`` to weigh compilation against.
        """
        for capture, calls_a_step in self._captures.items():
            calls = None if expected_steps is None else expected_steps * calls_a_step
            capture.configure(compile=compile, precision=precision, expected_calls=calls)

    @property
    def compile_seconds(self) -> float:
        """What tracing and compiling took so far."""
        return sum(capture.compile_seconds for capture in self._captures)

    def _capture(self, fn: Callable[..., Any], calls_a_step: int = 1) -> Capture:
        """Return ``fn`` on the fast path: a function of tensors that may leave gradients in theta and phi."""
        capture = Capture(fn, self._leaves, self._watched, compile=self._compile)
        self._captures[capture] = calls_a_step
        return capture

    def _leaves(self) -> dict[str, Tensor]:
        return {name: parameter.unconstrained for name, parameter in (self.theta | self.phi).items()}

    @property
    def dataset_size(self) -> int:
        """N of Eq. (8), as the model's plate gives it."""
        assert self._theta.dataset_size is not None
        return self._theta.dataset_size

    def step(self, *args: Tensor, index: Tensor | None = None) -> StepInfo:
        """Update the parameters from one minibatch.

        Args:
            args: what model and guide take; ``args[0]`` is x, of shape (M, ...).
            index: (M,), each datapoint's place in the data set, for learners that keep something for each of them.

        Raises:
            ValueError, TypeError: on the first step, for data or a pair that breaks the contract.
            NonFiniteLossError: for a loss that is NaN or infinite, naming the sites; no parameter is updated from it.
                On a GPU losses are read, all together, at every hundredth step.
        """
        if not self._prepared:
            with torch.random.fork_rng():
                drawn = self.draw(*args)
            self.prepare(*drawn)
        random_state = torch.get_rng_state()
        try:
            return self._update(args if self._draws_inside else self.draw(*args), index)
        except (NonFiniteLossError, ValueError) as error:
            torch.set_rng_state(random_state)
            args = self.draw(*args)
            terms = non_finite_terms(self._model, self._guide, args, self.theta | self.phi)
            if isinstance(error, ValueError) and terms == "none when run again":
                raise
            raise NonFiniteLossError(
                f"expected a finite loss, got NaN or infinity; not finite: {terms}. No parameter was updated from it; "
                "lower the learning rate, or bound the scales in the model"
            ) from error

    def prepare(self, *args: Tensor) -> None:
        """Check data and pair, take note of the parameters, and put any loaded state in place.

        The first :meth:`step` does this by itself.  Nothing is trained and no random number is used up.
        """
        check_data(*args)
        with evaluating(self.modules):  # running averages are not for the check
            read(self._model, self._guide, args, modules=self.modules)
        for name, optimizer in self.optimizers.items():
            optimizer.prepare(self._parameters_of(name))
        if self._pending is not None:
            self._load(self._pending)
            self._pending = None
        self._prepared = True

    @abstractmethod
    def _update(self, args: tuple[Tensor, ...], index: Tensor | None) -> StepInfo:
        """Compute the loss and step the optimizers."""

    def _add_prior(self, loss: Tensor) -> Tensor:
        """Return loss - log p(theta): the MAP objective, whose prior is weighed against the whole data set."""
        return loss if self.theta_prior is None else loss - log_prior(self.theta, self.theta_prior)

    def _check(self, loss: Tensor) -> None:
        if loss.is_cuda:  # to look at each loss would make the processor wait for the device
            self._unread.append(loss)
            if len(self._unread) < LOSSES_UNREAD:
                return
            loss = torch.stack(self._unread).sum()
            self._unread.clear()
        if not math.isfinite(loss.item()):
            zero_grad((self.theta | self.phi).values())
            raise NonFiniteLossError

    def _descend(self, loss: Tensor, *optimizers: str) -> None:
        """Step the optimizers of these names along the gradients of ``loss``, and drop them."""
        if self.share is not None:
            loss = self.share.combine(loss, [p for name in optimizers for p in self._parameters_of(name).values()])
        self._check(loss)
        for name in optimizers:
            parameters = self._parameters_of(name)
            if self.clip_norm is not None:
                leaves = [p.unconstrained for p in parameters.values()]
                nn.utils.clip_grad_norm_(leaves, self.clip_norm * self.dataset_size)
            self.optimizers[name].step(parameters)
        zero_grad((self.theta | self.phi).values())

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, optimizers and whatever else the learner keeps: tensors, numbers, lists and dicts.

        Raises ``RuntimeError`` before the first step, when the parameters are not known yet.
        """
        if not self._prepared:
            raise RuntimeError("expected a learner that has run, got a new one; call step(x) or prepare(x) first")
        return {
            **self.copy_parameters(),
            "optimizers": {n: o.state_dict(self._parameters_of(n)) for n, o in self.optimizers.items()},
            "calls": [list(capture.calls.items()) for capture in self._captures],
        }

    def copy_parameters(self) -> dict[str, Any]:
        """Return a copy of theta and phi, unconstrained, and of the buffers of the modules."""
        return {
            "parameters": {n: p.unconstrained.detach().clone() for n, p in (self.theta | self.phi).items()},
            "buffers": [buffer.clone() for buffer in self._buffers()],
        }

    @torch.no_grad()
    def put_parameters(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`copy_parameters` gave; raise ``ValueError`` where it comes from another pair."""
        parameters, buffers = self.theta | self.phi, self._buffers()
        mine = {n: tuple(p.unconstrained.shape) for n, p in parameters.items()}
        theirs = {n: tuple(v.shape) for n, v in state["parameters"].items()}
        if mine != theirs:
            raise ValueError(
                f"expected a state with parameters {mine}, got {theirs}; load it over the same model and guide"
            )
        shapes = [tuple(b.shape) for b in buffers], [tuple(b.shape) for b in state["buffers"]]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"expected a state with buffers of shapes {shapes[0]}, got {shapes[1]}; load it over the same modules"
            )
        for name, value in state["parameters"].items():
            parameters[name].unconstrained.copy_(value)
        for buffer, value in zip(buffers, state["buffers"], strict=True):
            buffer.copy_(value)

    def _buffers(self) -> list[Tensor]:
        return PythonState(self._watched).buffers()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`; a learner that has not run yet takes it in on its first step.

        Raises ``ValueError`` for a state with other parameters than the model and guide have.
        """
        if self._prepared:
            self._load(state)
        else:
            self._pending = state

    @abstractmethod
    def _parameters_of(self, optimizer: str) -> dict[str, Parameter]:
        """Return the parameters that the optimizer of this name updates."""

    def _load(self, state: dict[str, Any]) -> None:
        self.put_parameters(state)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name], self._parameters_of(name))
        for capture, calls in zip(self._captures, state["calls"], strict=True):
            capture.calls = dict(calls)
