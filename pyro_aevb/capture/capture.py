"""The fast path: a function that runs Pyro, traced once per input signature into a flat tensor graph, then compiled.

A step of Pyro's spends most of its time in Python: handlers, messages, validation.  None of that depends on the data,
so :class:`Capture` runs it once, records its tensor operations, forward and backward, and from then on runs just those:
as a plain graph, or compiled by Inductor, on a GPU as a CUDA graph.

A graph must never run that isn't the function any more.  Five guards see to that:

* code that reads a traced value in Python (``if z.sum() > 0``, ``.tolist()``) can't be traced, and is named;
* shapes, dtypes, train or eval mode, and every Python value that the callables can reach
  (:mod:`pyro_aevb.capture.python_state`) make up the signature: another value, another trace;
* the first two calls of a graph, and from then on each whose number is a power of two, are made eagerly as well, with
  the same noise, and outputs and gradients compared;
* an eager run that writes any of these values, or draws from another generator than torch's own, is no function of them
  and stays eager;
* a function that fails a guard goes on eagerly, and one line in the log says why.
"""

from __future__ import annotations

import operator
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.nn.modules import module as nn_module
from torch.utils import _pytree as pytree

from pyro_aevb.capture.clock import lines_that_load
from pyro_aevb.capture.compared_values import by_value
from pyro_aevb.capture.graph import CaptureError, Graph, Parameters, line_of, logger, take_gradients, trace
from pyro_aevb.capture.graph_passes import keep_eager_noise, onednn_is_faster, send_to_onednn, without_log1p
from pyro_aevb.capture.precision import Precision, check_precision, in_precision
from pyro_aevb.capture.python_state import PythonState
from pyro_aevb.capture.run_state import Saved, Untouched, is_sparse, layouts, wrongly_left
from pyro_aevb.checks import left_as_they_are

Compile = bool | Literal["auto", "graph"]
EVERY_MODULES_HOOKS = (
    *(nn_module._global_forward_hooks, nn_module._global_forward_pre_hooks),
    *(nn_module._global_backward_hooks, nn_module._global_backward_pre_hooks),
)
REQUIRES_GRAD = operator.attrgetter("requires_grad")  # without Python's time
LARGEST_CACHE = 8
TRACES_ON_TRIAL, RUNS_A_TRACE = 32, 20  # after so many traces, each must have been run so many times on average
# How many calls it takes until a trace (about 1 s) or a compilation (4 to 30 s) has paid for itself.
CALLS_FOR_A_GRAPH, CALLS_FOR_INDUCTOR = 500, 5_000
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2}


class Capture:
    """A function that runs Pyro, made faster: the same outputs, the same gradients, the same random numbers.

    ``fn`` takes tensors and returns a tuple of tensors (a NamedTuple, a list, a dict).  It may call ``backward``: the
    gradients it leaves in ``parameters``, which have none before, are part of the result.  Random numbers come from
    torch's global generator.

    Args:
        fn: the function.
        parameters: a function that returns the tensors, by name, that ``fn`` differentiates or that change between
            calls; it is called after ``fn`` has run.
        watched: the callables whose Python state ``fn`` depends on: model, guide, objective.
        compile: ``True`` compiles with Inductor from the first call on, ``"graph"`` runs the traced graph without a
            compiler, ``False`` leaves ``fn`` eager.  ``"auto"`` goes from one to the next when the number of calls,
            made or expected, is worth its price.
        precision: ``"bf16"`` rounds the factors of matrix products and convolutions to bfloat16.
        reads: returns the values that ``fn`` depends on, told by whoever knows them: scalars are compared by value,
            anything else by identity, and what these reach is watched too.  With this and no ``watched`` a signature
            costs next to nothing.

    Attributes:
        expected_calls: the number of calls to expect with arguments shaped like the first ones, if it is known.
        calls: the number of calls so far, by shapes of the arguments; ``"auto"`` decides by it, also after a resume.
        obstacle: the reason why it runs eagerly, if it does for good.
        compile_seconds: the time that tracing and compiling took so far.

    >>> from pyro_aevb.capture import Capture
    >>> weight = torch.tensor(2.0, requires_grad=True)
    >>> def fn(x):
    ...     z = pyro.sample("z", dist.Normal(weight * x, 1.0))
    ...     z.sum().backward()
    ...     return (z.detach(),)
    >>> fast = Capture(fn, lambda: {"weight": weight}, [fn], compile="graph")
    >>> for _ in range(3):
    ...     weight.grad = None
    ...     _ = torch.manual_seed(0)
    ...     (z,) = fast(torch.arange(3.0))
    >>> [round(v, 4) for v in z.tolist()], weight.grad
    ([1.541, 1.7066, 1.8212], tensor(3.))
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        parameters: Callable[[], Parameters] = dict,
        watched: Sequence[Callable[..., Any]] = (),
        *,
        compile: Compile = "auto",
        precision: Precision = "float32",
        reads: Callable[[], Iterable[Any]] = tuple,
    ) -> None:
        check_compile(compile)
        check_precision(precision)
        self.compile, self.precision, self.expected_calls = compile, precision, 0
        self.compile_seconds = 0.0
        self.calls: dict[tuple[tuple[int, ...], ...], int] = {}
        self.obstacle: str | None = None
        self._fn, self._parameters, self._watched, self._reads = fn, parameters, list(watched), reads
        self._state = self._look()
        self._written: list[Tensor] = []  # tensors of the model's own that a run changes in place
        self._entries: OrderedDict[Any, _Entry] = OrderedDict()
        self._last: tuple[Any, _Entry] | None = None
        self._traces, self._without_inductor = 0, False
        self._begun: set[tuple[torch.Size, ...]] = set()  # shapes whose first call has been made

    def configure(
        self,
        *,
        compile: Compile | None = None,
        precision: Precision | None = None,
        expected_calls: int | None = None,
    ) -> None:
        """Change the settings that aren't ``None``; graphs that stay valid are compared anew on their next calls.

        Args:
            compile: as for the class.
            precision: as for the class.
            expected_calls: the number of calls to expect.
        """
        before = self.compile, self.precision
        if compile is not None:
            check_compile(compile)
        if precision is not None:
            check_precision(precision)
        self.compile = self.compile if compile is None else compile
        self.precision = self.precision if precision is None else precision
        self.expected_calls = self.expected_calls if expected_calls is None else expected_calls
        if (self.compile, self.precision) != before:
            self._drop()
            self._traces, self.obstacle, self._without_inductor = 0, None, False
            self._begun.clear()
        for entry in self._entries.values():
            entry.runs = 0

    def __call__(self, *args: Tensor) -> Any:
        """Return ``fn(*args)``, and leave its gradients in the parameters."""
        if self.compile is False or self.obstacle is not None or _PYRO_STACK:  # a handler around the call has its say
            return self._eager(*args)
        shapes = tuple(tuple(a.shape) for a in args)
        self.calls[shapes] = self.calls.get(shapes, 0) + 1
        level = self._level(shapes)
        if level == "eager":
            return self._eager(*args)
        entry = self._entry(args)
        if entry.graph is None or entry.level != level or entry.due():
            return self._checked(entry, level, args)
        entry.runs += 1
        return entry.graph(args)

    def _look(self) -> PythonState:
        hooks = [hook for hooks in EVERY_MODULES_HOOKS for hook in hooks.values()]
        return PythonState([*self._watched, *self._reads(), *hooks])

    def _drop(self) -> None:
        self._entries.clear()
        self._last = None

    def _eager(self, *args: Tensor) -> Any:
        with in_precision(self.precision), left_as_they_are(args):
            return self._fn(*args)

    def _entry(self, args: tuple[Tensor, ...]) -> _Entry:
        """Return the signature's entry; a new one pushes out the least recently used."""
        parameters, stored = self._parameters().values(), dict(pyro.get_param_store().named_parameters()).values()
        signature = (
            *map(id, stored),
            *map(id, parameters),
            *map(REQUIRES_GRAD, parameters),
            *((a.shape, a.stride(), a.dtype, a.device, a.requires_grad) for a in args),
            *map(by_value, self._reads()),
            *map(_has_hook, parameters),
            *map(tuple, EVERY_MODULES_HOOKS),
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
            torch.is_autocast_enabled("cuda"),
            torch.get_autocast_dtype("cpu"),
            torch.get_autocast_dtype("cuda"),
        )
        state = self._state.key()
        if self._last is not None and state is self._last[0][1] and signature == self._last[0][0]:
            entry = self._last[1]  # the usual case, without hashing some hundred values
            if layouts(entry.tensors) == entry.layouts:
                return entry
        key = signature, state, tuple(layouts(self._tensors()))
        if key not in self._entries:
            self._state = self._look()  # with the values, what there is to watch may have changed
            key = signature, self._state.key(), tuple(layouts(self._tensors()))
        if key not in self._entries:
            self._entries[key] = _Entry([*stored, *parameters, *self._state.values()], self._tensors())
            if len(self._entries) > LARGEST_CACHE:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        self._last = key, self._entries[key]
        return self._entries[key]

    def _tensors(self) -> list[Tensor]:
        """Return the tensors that a run can reach besides its arguments, each once."""
        stored = dict(pyro.get_param_store().named_parameters()).values()
        return list({id(t): t for t in (*stored, *self._parameters().values(), *self._state.tensors)}.values())

    def _level(self, shapes: tuple[tuple[int, ...], ...]) -> str:
        best = "graph" if self._without_inductor else "inductor"
        if self.compile != "auto":
            return "graph" if self.compile == "graph" else best
        expected = 2 * self.calls[shapes]  # as many again as there were: that pays for what it costs
        if shapes == next(iter(self.calls)):
            expected = max(expected, self.expected_calls)
        if expected < CALLS_FOR_A_GRAPH:
            return "eager"
        return "graph" if expected < CALLS_FOR_INDUCTOR else best

    def _checked(self, entry: _Entry, level: str, args: tuple[Tensor, ...]) -> Any:
        """Run ``fn``, then the graph (made if there is none) on the same noise; return the graph's result if equal."""
        changing = [*self._state.buffers(), *self._written]
        before, untouched = Saved(changing), Untouched(self._tensors(), changing, self._state.generators)
        key = self._state.key()
        expected = self._eager(*args)
        parameters = self._parameters()
        gradients = take_gradients(parameters)
        after = Saved(changing)
        try:
            if self._state.unwatchable:
                raise CaptureError(self._state.unwatchable)
            if hooked := [name for name, parameter in parameters.items() if _has_hook(parameter)]:
                raise CaptureError(f"the gradient of {hooked[0]!r} has a hook, whose Python a graph doesn't run")
            if sparse := [name for name, gradient in gradients.items() if is_sparse(gradient)]:
                raise CaptureError(f"the gradient of {sparse[0]!r} is a sparse tensor, which a graph doesn't give")
            if any(map(is_sparse, pytree.tree_leaves(expected))):
                raise CaptureError("a result is a sparse tensor, which a graph doesn't give")
            if drawn := untouched.drawn_from():
                where = _lines_that_draw(drawn[1], PythonState([*self._watched, self._fn], only_called=True))
                raise CaptureError(f"each call draws from {drawn[0]}{where}; draw from torch's global generator")
            moved = [self._state.name_of(tensor) for tensor in untouched.moved()]
            if changed := self._state.difference(key) or (moved and moved[0]):
                shapes = tuple(a.shape for a in args)
                if shapes in self._begun:
                    place = f"where {changed} lies; write into it, with {changed}.copy_(...)"
                    raise CaptureError(f"each call changes {place if changed in moved else changed}")
                self._begun.add(shapes)  # the first call may: a size that was guessed, a parameter that came to be
                return self._give(expected, gradients)
            if written := untouched.written():  # they are saved from now on
                self._written += written
                return self._give(expected, gradients)
            before.restore()
            if entry.graph is None or entry.level != level:
                self._build(entry, level, parameters, args)
                before.restore()
            result = entry.graph(args)  # type: ignore[misc]  # built just above
            entry.runs += 1
            tolerance = self._tolerance(args)
            difference = _difference(expected, result, gradients, parameters, tolerance)
            if not difference and (differing := wrongly_left(before, after, tolerance)) is not None:
                difference = f"{self._state.name_of(differing)} is left with other values"
            if not difference:
                entry.doubts = 0
                return result
            entry.doubts += 1  # rounding that tips a discrete draw happens once; what is wrong happens again
            if entry.doubts > 1 and level == "inductor":  # the trace itself may be right
                self._without_inductor, entry.doubts, entry.graph = True, 0, None
                logger.warning("running without Inductor, whose results differ from the eager run: %s", difference)
            elif entry.doubts > 1:
                raise CaptureError(f"its graph differs from the eager run: {difference}")
        except CaptureError as error:
            self.obstacle = str(error)
            self._drop()
            logger.warning("running eagerly, without a graph: %s", error)
        after.restore()
        return self._give(expected, gradients)

    def _give(self, result: Any, gradients: Mapping[str, Tensor | None]) -> Any:
        for name, parameter in self._parameters().items():
            parameter.grad = gradients[name]
        return result

    def _tolerance(self, args: tuple[Tensor, ...]) -> float:
        """Return the relative difference that rounding can make, from the coarsest dtype among the numbers."""
        if self.precision == "bf16":
            return TOLERANCE[torch.bfloat16]
        found = [t.dtype for t in (*args, *self._parameters().values()) if t.dtype in TOLERANCE]
        return max((TOLERANCE[dtype] for dtype in found), default=TOLERANCE[torch.float32])

    def _build(self, entry: _Entry, level: str, parameters: Parameters, args: tuple[Tensor, ...]) -> None:
        """Trace ``fn``, and compile the trace if the level asks for it."""
        self._traces += 1
        calls = sum(self.calls.values())
        if self._traces > max(TRACES_ON_TRIAL, calls / RUNS_A_TRACE):
            raise CaptureError(f"{self._traces} traces in {calls} calls: {self._unsteady()} changes between calls")
        start = time.perf_counter()
        graph = trace(self._eager, parameters, args, self._state.tensors)
        if self.precision == "float32" and onednn_is_faster():
            send_to_onednn(graph.module)
        if level == "inductor":
            without_log1p(graph.module)
            keep_eager_noise(graph.module)
            graph.compile(args)
        elif self._without_inductor:
            graph.record(args)
        entry.graph, entry.level, entry.runs = graph, level, 0
        seconds = time.perf_counter() - start
        self.compile_seconds += seconds
        logger.info("%s in %.1f s for shapes %s", level, seconds, [tuple(a.shape) for a in args])

    def _unsteady(self) -> str:
        keys = [key for _, key, _ in self._entries]
        names = (self._state.difference(key) for key in keys if len(key) == len(self._state.key()))
        shapes = "the shape of its arguments or of its own tensors"
        return next((f"the value of {name}" for name in names if name), shapes)


class _Entry:
    """The graph of one input signature, and its record so far."""

    def __init__(self, alive: list[Any], tensors: list[Tensor]) -> None:
        self.alive = alive  # the objects whose identity is part of the signature
        self.tensors, self.layouts = tensors, layouts(tensors)
        self.runs = self.doubts = 0
        self.graph: Graph | None = None
        self.level = "eager"

    def due(self) -> bool:
        """Return whether to compare the next run: its number is a power of two, or the last one was in doubt."""
        number = self.runs + 1
        return number & (number - 1) == 0 or self.doubts > 0


def _has_hook(parameter: Tensor) -> bool:
    return bool(parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None))


def _lines_that_draw(generator: Any, state: PythonState) -> str:
    """Return the lines, one or two, that load a generator or a function of it; empty if none of the code does."""
    of_module = getattr(generator, "_inst", None) or getattr(getattr(generator, "mtrand", None), "_rand", None)

    def is_it(value: Any) -> bool:
        owner = getattr(value, "__self__", None)
        return value is generator or (owner is not None and (owner is generator or owner is of_module))

    found = [(fn.__code__.co_filename, line) for fn in state.functions for line in lines_that_load(fn, is_it)]
    return " or".join(f" at {line_of(*each)}" for each in list(dict.fromkeys(found))[:2])


def check_compile(compile: Any) -> None:
    """Raise ``ValueError`` for an unknown way to compile."""
    if not (isinstance(compile, bool) or compile in ("auto", "graph")):
        raise ValueError(f"expected compile to be 'auto', True, False or 'graph', got {compile!r}")


@torch.no_grad()
def _difference(
    expected: Any, result: Any, gradients: Mapping[str, Tensor | None], parameters: Parameters, tolerance: float
) -> str:
    """Return the name of the first output or gradient that differs, and by how much; empty if all agree."""
    pairs = [
        (pytree.keystr(path).removeprefix("."), a, b, a.norm() if a.is_floating_point() else None)
        for (path, a), b in zip(pytree.tree_leaves_with_path(expected), pytree.tree_leaves(result), strict=True)
    ]
    given = [g.norm() for g in gradients.values() if g is not None]
    total = torch.stack(given).norm() if given else torch.tensor(0.0)
    for name, gradient in gradients.items():
        found = parameters[name].grad
        if (gradient is None) != (found is None):
            return f"the gradient of {name!r} is {'missing' if found is None else 'there, and should not be'}"
        if gradient is not None:
            pairs.append((f"the gradient of {name!r}", gradient, found, gradient.norm() + 1e-3 * total))
    for name, a, b, size in pairs:
        if a.shape != b.shape:
            return f"{name} has shape {tuple(b.shape)}, not {tuple(a.shape)}"
        if torch.equal(a, b) or not (a.isfinite().all() or b.isfinite().all()):
            continue
        if size is None:
            return f"{name} differs"
        error = ((a - b).norm() / size).item()
        if not error <= tolerance:
            return f"{name} is off by {error:.1e} of its size"
    return ""
