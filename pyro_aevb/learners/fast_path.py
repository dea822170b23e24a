"""A part of a learner's step on the fast path: captured once for each way of drawing a minibatch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

from torch import Tensor

from pyro_aevb.capture.capture import Capture, Compile, check_compile
from pyro_aevb.capture.precision import Precision, check_precision
from pyro_aevb.learners.step import Draw, Minibatch

MOST_DRAWS = 4  # ways of drawing that graphs are kept for


class Computation:
    """How a learner's steps are computed.

    Attributes:
        compile: the fast path, as for :class:`~pyro_aevb.capture.Capture`.
        precision: of matrix products.
        expected_steps: how many steps will be made; 0 if that isn't known.
    """

    def __init__(self, compile: Compile = "auto", precision: Precision = "float32", expected_steps: int = 0) -> None:
        check_compile(compile)
        check_precision(precision)
        self.compile, self.precision, self.expected_steps = compile, precision, expected_steps

    def change(self, compile: Compile | None, precision: Precision | None, expected_steps: int | None) -> Computation:
        """Take over what isn't ``None`` and return how it was; ``ValueError``, and no change, for what can't be."""
        before = Computation(self.compile, self.precision, self.expected_steps)
        wanted = Computation(
            self.compile if compile is None else compile,
            self.precision if precision is None else precision,
            self.expected_steps if expected_steps is None else expected_steps,
        )
        self.put(wanted)
        return before

    def put(self, other: Computation) -> None:
        """Be as ``other`` is."""
        self.compile, self.precision, self.expected_steps = other.compile, other.precision, other.expected_steps


@final
class FastPath:
    """A function of tensors that may leave gradients in parameters, run as :class:`Computation` says.

    Args:
        fn: takes tensors and returns tensors (a tuple, a NamedTuple).
        parameters: returns the parameters that ``fn`` differentiates, by name.
        watched: the callables and objects whose Python state ``fn`` depends on; another state is another trace.
        computation: how to compute; what is changed in it holds from the next call on.
        calls_a_step: how often a step calls it.
        reads: as for :class:`~pyro_aevb.capture.Capture`.

    Attributes:
        calls: how many calls there were, by the shapes of the tensors: part of a state to resume.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        parameters: Callable[[], Mapping[str, Tensor]],
        watched: Sequence[Any],
        computation: Computation,
        calls_a_step: int = 1,
        reads: Callable[[], Iterable[Any]] = tuple,
    ) -> None:
        self._reads = reads
        self._fn, self._parameters, self._watched = fn, parameters, watched
        self._computation, self._calls_a_step = computation, calls_a_step
        self.calls: dict[tuple[tuple[int, ...], ...], int] = {}
        self._captures: dict[tuple[Draw | None, int], Capture] = {}
        self._seconds_dropped = 0.0

    @property
    def captures(self) -> list[Capture]:
        """The functions captured so far, one for each way of drawing."""
        return list(self._captures.values())

    @property
    def compile_seconds(self) -> float:
        """The seconds that tracing and compiling took so far."""
        return self._seconds_dropped + sum(capture.compile_seconds for capture in self.captures)

    def __call__(self, *tensors: Tensor) -> Any:
        """Return ``fn(*tensors)``."""
        return self._capture(None, 0)(*tensors)

    def of(self, batch: Minibatch, *first: Tensor) -> Any:
        """Return ``fn(*first, *batch.args())``, with the drawing inside of what is captured."""
        return self._capture(batch.draw, 0 if batch.draw is None else len(first))(*first, *batch.rows)

    def configure(self) -> None:
        """Take over the computation now; graphs that are still good are compared anew on their next calls."""
        for capture in self.captures:
            self._configure(capture)

    def load_calls(self, calls: Iterable[tuple[tuple[tuple[int, ...], ...], int]]) -> None:
        """Put back the items of an earlier ``calls``."""
        self.calls.clear()
        self.calls.update(calls)

    def _capture(self, draw: Draw | None, number: int) -> Capture:
        """Return the captured function that draws all but the first ``number`` of its arguments, configured."""
        if (draw, number) not in self._captures:
            if len(self._captures) > MOST_DRAWS:
                oldest = next(key for key in self._captures if key[0] is not None)
                self._seconds_dropped += self._captures.pop(oldest).compile_seconds
            self._captures[draw, number] = self._new(draw, number)
        capture, wanted = self._captures[draw, number], self._computation
        expected = wanted.expected_steps * self._calls_a_step
        if (capture.compile, capture.precision, capture.expected_calls) != (wanted.compile, wanted.precision, expected):
            self._configure(capture)
        return capture

    def _new(self, draw: Draw | None, number: int) -> Capture:
        def drawn(*tensors: Tensor) -> Any:
            return fn(*tensors[:number], *draw(*tensors[number:]))  # type: ignore[misc]  # only with a draw

        fn, watched = self._fn, self._watched if draw is None else [*self._watched, draw]
        capture = Capture(fn if draw is None else drawn, self._parameters, watched, reads=self._reads)
        capture.calls = self.calls  # they are counted together
        return capture

    def _configure(self, capture: Capture) -> None:
        wanted = self._computation
        capture.configure(
            compile=wanted.compile,
            precision=wanted.precision,
            expected_calls=wanted.expected_steps * self._calls_a_step,
        )
