"""The abstract learner: a model, a guide, optimizers, and a step that trains them on one minibatch.

A learner sees two Pyro callables, theta (the parameters that run in the model) and phi (those that run in the guide).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, final

from pyro.infer.elbo import ELBO
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_aevb.arguments import as_arguments
from pyro_aevb.capture.capture import Capture, Compile
from pyro_aevb.capture.precision import Precision
from pyro_aevb.data_source import taken_apart
from pyro_aevb.learners.checks import FirstUpdates, check_different, check_names, check_parameters, check_trained
from pyro_aevb.learners.fast_path import Computation, FastPath
from pyro_aevb.learners.finite_parameters import BACK, FiniteParameters
from pyro_aevb.learners.losses import Losses
from pyro_aevb.learners.optimizer import AnyOptimizer, Optimizer, as_optimizer
from pyro_aevb.learners.readings import Readings
from pyro_aevb.learners.schedules import Schedule
from pyro_aevb.learners.step import Minibatch, StepInfo, StepSettings
from pyro_aevb.learners.trained_pair import TrainedPair
from pyro_aevb.model_guide.contract import NonFiniteLossError, check_callables, check_supports, non_finite_terms
from pyro_aevb.model_guide.parameters import Parameter, distinct_leaves, log_prior, zero_grad
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.random_state import forked, set_torch_state, torch_state
from pyro_aevb.short_repr import settings_repr


class Stateful(Protocol):
    """An object whose state is part of a learner's, such as MCEM's chains."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers, lists and dicts."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        ...


class Learner(ABC):
    """Trains theta and phi of a (model, guide) pair, one minibatch a :meth:`step`.

    A subclass says what one update is (:meth:`update`) and which parameters an optimizer updates
    (:meth:`parameters_of`); what costs time in an update it hands to :meth:`capture` once, in its constructor.  Public
    attributes with plain values (numbers, text, distributions) are the learner's settings: ``fit`` refuses to resume a
    run with other ones.  ``docs/extending.md`` shows one from beginning to end.

    Args:
        model: p(x, z).
        guide: q(z|x), or ``None``.
        optimizers: by name, each a factory such as ``partial(torch.optim.Adam, lr=1e-3)``, a torch optimizer, or a Pyro
            one.
        objective: the ELBO object that is maximized, if there is one; its KL counts ``StepSettings.kl_weight`` times.
        theta_prior: p(theta), each element's distribution.
        schedule: that of the learning rates, for ``fit`` to take where it isn't told another; by default they stay.
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`.
        inspect: called with the tensors that the pair was checked on, before the first update, with modules in
            evaluation mode and random numbers that are given back: to see what a learner must know of its pair.  It is
            called again for arguments of another form, another flag or ``None``, and for a pair in another Python
            state; :attr:`inspected` is what it returned.
        kept: what else has a state to be saved and restored with the learner's, by name.

    Attributes:
        model, guide, objective, theta_prior: as they were given.
        optimizers: by name.

    Raises:
        TypeError: for what isn't callable, an optimizer or a distribution.
        ValueError: for the same optimizer given twice.
    """

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable | None,
        optimizers: Mapping[str, AnyOptimizer],
        *,
        objective: ELBO | None = None,
        theta_prior: Distribution | None = None,
        schedule: Schedule | None = None,
        compile: Compile = "auto",
        inspect: Callable[..., Any] | None = None,
        kept: Mapping[str, Stateful] | None = None,
    ) -> None:
        check_callables(model, guide)
        if theta_prior is not None and not isinstance(theta_prior, Distribution):
            raise TypeError(f"expected theta_prior to be a distribution, got {theta_prior!r}; e.g. dist.Normal(0., 1.)")
        if objective is not None and not isinstance(objective, ELBO):
            raise TypeError(f"expected a Pyro ELBO object, got {objective!r}; for example pyro.infer.Trace_ELBO()")
        check_different(optimizers)
        self.model, self.guide, self.objective, self.theta_prior = model, guide, objective, theta_prior
        self.optimizers: dict[str, Optimizer] = {name: as_optimizer(each) for name, each in optimizers.items()}
        self._schedule = schedule
        self._kept = dict(kept or {})
        self._computation = Computation(compile)
        self._pair = TrainedPair(model, guide, [part for part in (model, guide, objective) if part is not None])
        self._readings = Readings(self._pair, inspect)
        self._fast_paths: list[FastPath] = []
        self._losses = Losses()
        self._prepared, self._first = False, FirstUpdates()
        self._finite = FiniteParameters(self._pair.leaves)
        self._pending: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return settings_repr(self)

    # -- What a subclass says ---------------------------------------------------------------------------------------

    @abstractmethod
    def update(self, batch: Minibatch, settings: StepSettings) -> StepInfo:
        """Compute losses and gradients on a minibatch and step the optimizers, by :meth:`descend`.

        Args:
            batch: the minibatch; ``batch.args()`` is what model and guide take.
            settings: for :meth:`descend`, and ``kl_weight`` for the objective.

        Returns:
            A NamedTuple of 0-dim tensors: ``loss`` first, in nats for the whole data set, and ``elbo`` among the
            others, in nats per datapoint or ``None``.
        """

    @abstractmethod
    def parameters_of(self, optimizer: str) -> dict[str, Parameter]:
        """Return the parameters that an optimizer updates.

        Args:
            optimizer: its name, one of those that the constructor was given.

        Returns:
            A part of :attr:`theta` and :attr:`phi`.
        """

    # -- What a subclass calls --------------------------------------------------------------------------------------

    @property
    def traced_model(self) -> PyroCallable:
        """The model, and its parameters are noted in :attr:`theta` as it runs: what an update runs."""
        return self._pair.model

    @property
    def traced_guide(self) -> PyroCallable:
        """The guide, and its parameters are noted in :attr:`phi` as it runs: what an update runs.

        Raises:
            ValueError: for a learner without a guide.
        """
        if self._pair.guide is None:
            raise ValueError(f"expected a guide, got none; pass guide= to {type(self).__name__}")
        return self._pair.guide

    @property
    def inspected(self) -> Any:
        """The result of ``inspect`` for the pair as it is now: with another flag it may have other latents."""
        return self._readings.inspected

    @final
    def capture(self, fn: Callable[..., Any], *, watched: Sequence[Any] = (), calls_a_step: int = 1) -> FastPath:
        """Return ``fn`` on the fast path.

        Args:
            fn: a function of tensors that returns a tuple of tensors, no ``None`` among them, and may leave gradients
                in theta and phi.  It is traced, so it must not store tensors, and its random numbers come from torch.
            watched: objects with settings that ``fn`` reads, besides model, guide and objective; when one of them
                changes, ``fn`` is traced anew.
            calls_a_step: how often a step calls it.
        """
        watched = [part for part in watched if part is not None]
        reads = self._public_attributes
        path = FastPath(fn, self._pair.leaves, watched, self._computation, calls_a_step, reads)
        self._fast_paths.append(path)
        return path

    def _public_attributes(self) -> list[Any]:
        """Return what an update reads of the learner itself: its public attributes, model and objective among them."""
        attributes = vars(self).items()
        public = [v for name, v in attributes if name[0] != "_" and name != "optimizers" and v is not None]
        form = self._pair.form
        return public + self._pair.named + ([] if form is None else [form, *form.numbers])

    @final
    def add_prior(self, loss: Tensor) -> Tensor:
        """Return loss - log p(theta): the MAP objective, whose prior is weighed against the whole data set."""
        return loss if self.theta_prior is None else loss - log_prior(self.theta, self.theta_prior)

    @final
    def descend(self, loss: Tensor, settings: StepSettings, *optimizers: str) -> None:
        """Step the optimizers of these names along the gradients that are there, and drop all gradients.

        Args:
            loss: the loss of these gradients, in nats for the whole data set; checked to be finite.
            settings: those of the step.
            optimizers: names.

        Raises:
            NonFiniteLossError: for a loss that is NaN or infinite, or a gradient in the first updates.
        """
        parameters = {name: self.parameters_of(name) for name in optimizers}
        if settings.share is not None:
            loss = settings.share.combine(loss, [p for each in parameters.values() for p in each.values()])
        if not self._losses.add(loss):
            raise NonFiniteLossError
        for each in parameters.values():
            self._finite.look_at_gradients(each)
        for name, each in parameters.items():
            leaves = distinct_leaves(each.values())
            self._first.note(name, each)
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(leaves, settings.clip_norm * self.dataset_size)
            self.optimizers[name].step(each, settings.learning_rate_factor)
        zero_grad((self.theta | self.phi).values())

    # -- What a user or a training loop calls -----------------------------------------------------------------------

    @property
    def theta(self) -> dict[str, Parameter]:
        """The model's parameters; empty before the first step."""
        return self._pair.theta

    @property
    def phi(self) -> dict[str, Parameter]:
        """The guide's parameters; empty before the first step."""
        return self._pair.phi

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that model, guide and objective can reach, each once."""
        return self._pair.modules

    @property
    def dataset_size(self) -> int:
        """N of Eq. (8), as the model's plate gave it the last time.

        Raises:
            RuntimeError: before the first step.
        """
        size = self._readings.dataset_size
        if size is None:
            raise RuntimeError("expected a learner that has run, got a new one; call step(x) or prepare(x) first")
        return size

    @property
    def families(self) -> dict[str, str]:
        """The families of the distributions by "model.SITE" and "guide.SITE"; empty before the first step."""
        return dict(self._readings.families)

    @property
    def unchecked(self) -> frozenset[str]:
        """The observed sites whose distributions were made with ``validate_args=False``."""
        return self._readings.unchecked

    @property
    def schedule(self) -> Schedule | None:
        """The schedule that belongs to the optimizers; ``None`` for those that were given without one."""
        return self._schedule

    @property
    def captures(self) -> list[Capture]:
        """The functions that were captured so far."""
        return [capture for path in self._fast_paths for capture in path.captures]

    @property
    def compile_seconds(self) -> float:
        """The seconds that tracing and compiling took so far."""
        return sum(path.compile_seconds for path in self._fast_paths)

    @property
    def precision(self) -> Precision:
        """The precision of matrix products in a step."""
        return self._computation.precision

    @final
    def configure(
        self, *, compile: Compile | None = None, precision: Precision | None = None, expected_steps: int | None = None
    ) -> None:
        """Choose how steps are computed; what is ``None`` stays as it is.

        Args:
            compile: as for :class:`~pyro_aevb.capture.Capture`: ``"auto"``, ``True``, ``"graph"`` or ``False``.
            precision: ``"float32"``, or ``"bf16"`` for matrix products of bfloat16 factors.
            expected_steps: how many steps will be made, for ``"auto"`` to weigh compilation against.

        Raises:
            ValueError: for another ``compile`` or ``precision``; nothing is changed then.
        """
        self._computation.change(compile, precision, expected_steps)
        for path in self._fast_paths:
            path.configure()

    @final
    @contextmanager
    def configured(
        self, *, compile: Compile | None = None, precision: Precision | None = None, expected_steps: int | None = None
    ) -> Iterator[None]:
        """Compute steps in this way inside the block, and as before after it; arguments as for :meth:`configure`."""
        before = self._computation.change(compile, precision, expected_steps)
        try:
            for path in self._fast_paths:
                path.configure()
            yield
        finally:
            self._computation.put(before)  # graphs are given up only when a step needs others

    @final
    def step(self, *args: Any, index: Tensor | None = None, **kwargs: Any) -> StepInfo:
        """Update the parameters from one minibatch.

        Args:
            args: what model and guide take by position: the first tensor is x, of shape (M, ...), or one
                :class:`~pyro_aevb.Arguments`.
            index: (M,), each datapoint's place in the data set, for learners that keep something for each of them; an
                argument of the model's that has this name is passed by position, or in ``Arguments(x, index=...)``.
            kwargs: what they take by name.

        Raises:
            ValueError, TypeError: on the first step, for data or a pair that breaks the contract.
            NonFiniteLossError: for a loss that is NaN or infinite, naming the sites; no parameter is updated from it.
                On a GPU losses are read, all together, at every hundredth step.  Parameters that aren't finite after a
                finite loss, from a gradient that isn't, are named in the first steps or at every hundredth.
        """
        try:
            return self.step_on(_minibatch(args, kwargs)._replace(places=index), StepSettings())
        finally:
            self.to_use()

    @final
    @one_thread
    def step_on(self, batch: Minibatch, settings: StepSettings) -> StepInfo:
        """Update the parameters from one minibatch with the settings of a training loop.

        An optimizer that keeps means of the weights for use has those that it trains in place then, see :meth:`to_use`.

        Args:
            batch: the minibatch.
            settings: those of this step.

        Raises:
            ValueError, TypeError, NonFiniteLossError: as :meth:`step`.
        """
        self._see(batch)
        for optimizer in self.optimizers.values():
            optimizer.to_train()
        zero_grad((self.theta | self.phi).values())  # somebody's own
        noise = torch_state()
        try:
            info = self.update(batch, settings)
        except (NonFiniteLossError, ValueError) as error:
            zero_grad((self.theta | self.phi).values())
            if isinstance(error, NonFiniteLossError) and error.args:
                raise
            set_torch_state(noise)
            args = batch.args()
            check_supports(self._pair.model, self._pair.guide, args, self.unchecked)  # what has an error of its own
            terms = non_finite_terms(self._pair.model, self._pair.guide, args, self.theta | self.phi)
            if isinstance(error, ValueError) and terms == "none when run again":
                raise
            remedy = (
                "No parameter was updated from it; lower the learning rate, bound the scales in the model, or let it "
                "give what the guide draws a density above zero"
            )
            if self._finite.names():
                remedy = (
                    "The parameters weren't before this step: an earlier step had a finite loss with a gradient that "
                    f"wasn't finite, or somebody wrote to them. {BACK}"
                )
            raise NonFiniteLossError(
                f"expected a finite loss, got NaN or infinity; not finite: {terms}. {remedy}"
            ) from error
        self._losses.read_if_many()
        self._finite.stepped()
        if not self._first.had:
            check_trained({name for each in self.optimizers for name in self.parameters_of(each)})
        self._first.tell()
        return info

    @final
    def to_use(self) -> None:
        """Put those weights in place that are for use, where an optimizer trains others: a schedule-free one.

        :meth:`step` and :func:`~pyro_aevb.training.fit` end with it, and so begins each evaluation of ``fit``.
        """
        for optimizer in self.optimizers.values():
            optimizer.to_use()

    @final
    def read_losses(self) -> None:
        """Read the losses of the last steps that are still on a device, and see whether parameters are finite.

        :func:`~pyro_aevb.training.fit` does so before each evaluation and checkpoint, and at the end.

        Raises:
            NonFiniteLossError: for what is NaN or infinite.
        """
        self._losses.read()
        self._finite.look()

    @final
    @one_thread
    def check(self, *args: Any, **kwargs: Any) -> None:
        """Check data and pair against the contract.  Nothing is trained and no random number is used up.

        Args:
            args: a minibatch, as for :meth:`step` or for :meth:`step_on`.
            kwargs: as for :meth:`step`.

        Raises:
            ValueError, TypeError: for data or a pair that breaks the contract.
        """
        batch = _minibatch(args, kwargs)
        self._pair.arrange(batch.form)
        self._check(batch.args())

    def _check(self, args: tuple[Tensor, ...]) -> None:
        self._readings.read(args, self.objective)
        check_names(self._pair.strangers, [name for each in self.optimizers for name in self.parameters_of(each)])

    def _see(self, batch: Minibatch) -> None:
        """Check a minibatch whose shapes or form, or a pair whose state, hasn't been seen yet; N is its plate's."""
        self._pair.arrange(batch.form)
        if not self._prepared or not self._readings.recall(batch.rows):
            with forked():
                self._prepare(batch.args())
            self._readings.note(batch.rows)

    @final
    @one_thread
    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Check data and pair, take note of the parameters, and put any loaded state in place.

        The first :meth:`step` does this by itself.  Nothing is trained and no random number is used up.

        Args:
            args: a minibatch, as for :meth:`step` or for :meth:`step_on`.
            kwargs: as for :meth:`step`.

        Raises:
            ValueError, TypeError: for data or a pair that breaks the contract, or has nothing to train.
        """
        batch = _minibatch(args, kwargs)
        self._pair.arrange(batch.form)
        self._prepare(batch.args())

    def _prepare(self, args: tuple[Tensor, ...]) -> None:
        self._check(args)
        self._readings.inspect(args)
        if self._prepared:
            return
        trained = not self.optimizers or any(self.parameters_of(name) for name in self.optimizers)
        check_parameters(type(self).__name__, trained, bool(self.theta), self.theta_prior is not None)
        for name, optimizer in self.optimizers.items():
            optimizer.prepare(self.parameters_of(name))
        self._finite.begin()
        if self._pending is not None:
            self._load(self._pending)
            self._pending = None
        self._prepared = True

    @final
    def state_dict(self) -> dict[str, Any]:
        """Return parameters, optimizers and whatever else the learner keeps: tensors, numbers, lists and dicts.

        Raises:
            RuntimeError: before the first step, when the parameters are not known yet.
        """
        if not self._prepared:
            raise RuntimeError("expected a learner that has run, got a new one; call step(x) or prepare(x) first")
        return {
            **self.copy_parameters(),
            "optimizers": {n: o.state_dict(self.parameters_of(n)) for n, o in self.optimizers.items()},
            "calls": [list(path.calls.items()) for path in self._fast_paths],
            **{name: kept.state_dict() for name, kept in self._kept.items()},
        }

    @final
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`; a learner that has not run yet takes it in on its first step.

        Raises ``ValueError`` for a state with other parameters than the model and guide have.
        """
        if self._prepared:
            self._load(state)
        else:
            self._pending = state

    @final
    def copy_parameters(self) -> dict[str, Any]:
        """Return a copy of theta and phi, unconstrained, and of the buffers of the modules."""
        return self._pair.copy()

    @final
    def put_parameters(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`copy_parameters` gave; raise ``ValueError`` where it comes from another pair."""
        self._pair.put(state)

    def _load(self, state: dict[str, Any]) -> None:
        self.put_parameters(state)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name], self.parameters_of(name))
        for path, calls in zip(self._fast_paths, state["calls"], strict=True):
            path.load_calls(calls)
        for name, kept in self._kept.items():
            kept.load_state_dict(state[name])


def _minibatch(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Minibatch:
    """Return what was passed as a minibatch; one that is passed as such is that."""
    if len(args) == 1 and isinstance(args[0], Minibatch):
        return args[0]
    rows, form = taken_apart(as_arguments(args, kwargs))
    return Minibatch(rows if form is None else (*rows, *form.wholes), form=form)
