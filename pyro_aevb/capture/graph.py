"""A function that runs Pyro, traced into a flat tensor graph, and the ways to run one: plain, Inductor, CUDA graph."""

from __future__ import annotations

import contextlib
import linecache
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyro
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_aevb.capture.graph_passes import fill_by_mask, put_constants_on

logger = logging.getLogger("pyro_aevb")

Parameters = Mapping[str, Tensor]
TORCH = str(Path(torch.__file__).parent)
NOT_THE_USERS = (TORCH, str(Path(pyro.__file__).parent), str(Path(__file__).parents[1]))
# Functions that take lists of numbers, which may be tensors.
FROM_LISTS, ITEMS = (
    (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor, Tensor.new),
    (Tensor.__getitem__, Tensor.__setitem__),
)
SPLITS = (torch.tensor_split, Tensor.tensor_split)
IS_TRACED = "get value out of a tracing tensor"  # in torch's error
# The eager run's random numbers; no assertions about shapes, which are part of the signature.
INDUCTOR: dict[str, Any] = {"fallback_random": True, "size_asserts": False, "alignment_asserts": False}
# On a GPU torch 2.11's Inductor reorders random operations too, and each then draws another one's numbers.
IN_ORDER: dict[str, Any] = {"reorder_for_peak_memory": False, "reorder_for_locality": False}


class CaptureError(RuntimeError):
    """A function that can't be traced, or whose graph gives something else; the message names the obstacle."""


class Graph:
    """A traced function: called with its arguments it returns what the function did, and leaves its gradients.

    The inputs are read at each call, so that it sees what optimizers and running averages did to them.

    Args:
        module: the traced operations, a function of inputs and arguments.
        inputs: the tensors before the arguments: parameters, and the model's own tensors that the graph refers to.
        trained: the parameters that get gradients.
        spec: the structure of the function's result.
    """

    def __init__(self, module: GraphModule, inputs: list[Tensor], trained: list[Tensor], spec: Any) -> None:
        self.module = module
        self._inputs, self._trained, self._spec = inputs, trained, spec
        self._run: Callable[..., Any] = module

    def __call__(self, args: tuple[Tensor, ...]) -> Any:
        """Return what the function returns for ``args``."""
        with torch.no_grad():
            flat = self._run(*self._inputs, *args)
        count = len(flat) - len(self._trained)
        for parameter, gradient in zip(self._trained, flat[count:], strict=True):
            parameter.grad = gradient
        return pytree.tree_unflatten(flat[:count], self._spec)

    def compile(self, args: tuple[Tensor, ...]) -> None:
        """Compile with Inductor; the random numbers stay those of the eager run.  On a GPU, make a CUDA graph of it."""
        inputs: list[Any] = [*self._inputs, *args]
        if all(tensor.is_cuda for tensor in inputs):
            put_constants_on(self.module, torch.device("cuda"))
        try:
            with torch.no_grad(), warnings.catch_warnings(), _no_word_of_cuda():
                warnings.simplefilter("ignore")  # what Inductor says of itself
                options = INDUCTOR | IN_ORDER if len(random_operations(self.module)) > 1 else INDUCTOR
                self._run = inductor(self.module, inputs, options)
        except Exception as error:
            logger.warning(
                "the traced graph runs without Inductor, which can't compile it here: %s", _first_line(error)
            )
        self.record(args)

    def record(self, args: tuple[Tensor, ...]) -> None:
        """Launch the function as one CUDA graph from now on, if all of its tensors are on a GPU."""
        inputs = [*self._inputs, *args]
        if args and all(tensor.is_cuda for tensor in inputs):  # what lies elsewhere would stay as it is now
            try:
                self._run = _CudaGraph(self._run, inputs, len(args))
            except Exception as error:
                reason = _first_line(error)
                logger.warning("the traced graph runs without a CUDA graph, which can't be made here: %s", reason)


def inductor(module: GraphModule, inputs: list[Any], options: dict[str, Any]) -> Callable[..., Any]:
    """Compile a graph for its inputs' shapes; what an earlier process compiled comes from torch's cache."""
    from torch._guards import TracingContext, tracing  # here, since these take a second to import
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    with tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv()))):  # torch._inductor.compile has none, nor a cache
        compiled: Any = compile_fx(module, inputs, config_patches=options, ignore_shape_env=True)
    return compiled


@contextlib.contextmanager
def _no_word_of_cuda() -> Iterator[None]:
    """Leave out the line that torch logs when it first compiles beside a CUDA toolkit without a GPU."""
    of_torch = logging.getLogger("torch.utils.cpp_extension")

    def others(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("No CUDA runtime is found")

    of_torch.addFilter(others)
    try:
        yield
    finally:
        of_torch.removeFilter(others)


class _CudaGraph:
    """A function of tensors on a GPU, launched as one CUDA graph; the last ``num_args`` inputs change between calls.

    The graph reads the other inputs where they lay when it was made; if one has moved, it is made again.
    """

    def __init__(self, fn: Callable[..., Any], inputs: list[Tensor], num_args: int) -> None:
        self._fn, self._num_args = fn, num_args
        self._static = [tensor.clone() for tensor in inputs[-num_args:]]
        self._record(inputs[:-num_args])

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        kept, args = inputs[: -self._num_args], inputs[-self._num_args :]
        if [tensor.data_ptr() for tensor in kept] != self._places:
            self._record(list(kept))
        for static, tensor in zip(self._static, args, strict=True):
            static.copy_(tensor, non_blocking=True)
        self._graph.replay()
        copies = [torch.empty_like(output) for output in self._outputs]  # the next call writes to the same places
        torch._foreach_copy_(copies, self._outputs)  # one launch, where clones take one each
        return copies

    @torch.no_grad()
    def _record(self, kept: list[Tensor]) -> None:
        """Make the graph; what it runs to warm up changes neither a generator nor a running average."""
        inputs, noise, values = [*kept, *self._static], torch.cuda.get_rng_state(), [tensor.clone() for tensor in kept]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._fn(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.set_rng_state(noise)
        for tensor, value in zip(kept, values, strict=True):
            tensor.copy_(value)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = self._fn(*inputs)
        self._places = [tensor.data_ptr() for tensor in kept]


def trace(
    fn: Callable[..., Any], parameters: Parameters, args: tuple[Tensor, ...], own: Iterable[Tensor] = ()
) -> Graph:
    """Run ``fn(*args)`` once on real tensors and return its graph, backward passes included.

    Args:
        fn: a function of tensors that may leave gradients in the parameters.
        parameters: its parameters, by name.
        args: the tensors to run it on.
        own: the tensors that the function has of its own, whose values may change: buffers, frozen parameters.

    Raises:
        CaptureError: if a value is read in Python, an operation can't be traced, or a size depends on values.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # here, since it brings in sympy

    tensors = list(parameters.values())
    inputs = {id(tensor) for tensor in (*tensors, *args)}
    kept = [tensor for tensor in own if id(tensor) not in inputs]
    spec: Any = None
    trained: list[Tensor] = []

    def flat(*inputs: Tensor) -> list[Tensor]:
        nonlocal spec, trained
        with _tracing(kept):
            leaves, spec = pytree.tree_flatten(fn(*inputs[len(tensors) :]))
        trained = [p for p in tensors if p.grad is not None]
        return leaves + [p.grad for p in trained]

    try:
        with torch.enable_grad(), torch.autograd.set_multithreading_enabled(False), _one_fake_mode():
            module = make_fx(flat)(*tensors, *args)
    except Exception as error:
        raise CaptureError(_obstacle(error)) from error
    finally:
        take_gradients(parameters)
    if any(_size_depends_on_values(node.target, _indices(node)) for node in module.graph.nodes):
        raise CaptureError(_where_a_size_depends_on_values(fn, args))
    module.graph.eliminate_dead_code()
    fill_by_mask(module)
    lifted = _lift_tensors(module, len(tensors))
    return Graph(module, [*tensors, *lifted], trained, spec)


def is_tracing() -> bool:
    """Return whether tensors are being traced here, so that their values can't be read."""
    module = sys.modules.get("torch.fx.experimental.proxy_tensor")  # not imported as long as nothing is traced
    return module is not None and module.get_proxy_mode() is not None


def random_operations(module: GraphModule) -> list[Node]:
    """Return the nodes that draw random numbers, in the order of the eager run."""
    operations = (node for node in module.graph.nodes if isinstance(node.target, OpOverload))
    return [node for node in operations if torch.Tag.nondeterministic_seeded in node.target.tags]


def _size_depends_on_values(target: Any, indices: Iterable[Tensor]) -> bool:
    """Return whether the size of an operation's result may differ in another run: with a mask among the ``indices``."""
    if not isinstance(target, OpOverload) or torch.Tag.dynamic_output_shape not in target.tags:
        return False
    if target is not torch.ops.aten.index.Tensor:
        return True
    return any(index.dtype in (torch.bool, torch.uint8) for index in indices)


def _indices(node: Node) -> list[Tensor]:
    if node.target is not torch.ops.aten.index.Tensor:
        return []
    indices: Any = node.args[1]
    return [index.meta["val"] for index in indices if index is not None]


class _FixedSizes(TorchDispatchMode):
    """Operations whose result has a size that depends on values are errors, raised where the function calls them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = [i for i in args[1] if i is not None] if func is torch.ops.aten.index.Tensor else []
        if _size_depends_on_values(func, indices):
            raise CaptureError(f"{func} gives a result whose size depends on values")
        return func(*args, **(kwargs or {}))


def _where_a_size_depends_on_values(fn: Callable[..., Any], args: tuple[Tensor, ...]) -> str:
    """Run ``fn`` once more to find the line; a graph doesn't keep the lines."""
    try:
        with torch.enable_grad(), torch.autograd.set_multithreading_enabled(False), _FixedSizes():
            fn(*args)
    except CaptureError as error:
        return _obstacle(error)
    return "the size of a result depends on values"


def _one_fake_mode() -> contextlib.AbstractContextManager[Any]:
    """Describe all results of a trace in one mode; ``make_fx`` would make one for each, which takes half its time."""
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode

    return tracing(TracingContext(FakeTensorMode()))


@contextlib.contextmanager
def _tracing(own: Iterable[Tensor]) -> Iterator[None]:
    """Make Pyro traceable inside the block: it doesn't validate, nor turn tensors into numbers."""
    kept = {id(tensor): tensor for tensor in own}  # not only the ids, so that no other tensor gets one
    with pyro.validation_enabled(False), _NoReading(kept), _NoNumbers(kept):
        yield


class _NoNumbers(TorchDispatchMode):
    """A number that torch itself reads off a tensor of the model's own (``h[:t]``, ``torch.zeros(t)``) is an error."""

    def __init__(self, own: dict[int, Tensor]) -> None:
        super().__init__()
        self._own = own

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags and any(id(arg) in self._own for arg in args):
            raise CaptureError("torch reads the value of a tensor that the model keeps")
        return func(*args, **(kwargs or {}))


class _NoReading(TorchFunctionMode):
    """Copies of tensors' values into Python, which a trace can't see, are errors.

    ``Tensor.item`` gives the tensor itself, for Pyro's losses.  Pyro's warnings about NaN don't look; a loss that isn't
    finite is noticed by the learner.  A number read off one of the model's ``own`` tensors, or off what was computed
    from one, would stay in the graph.

    Two functions are put in another way, with the same result, since they look at values: ``one_hot``, and the choice
    of enumerated values with a positive probability in Pyro's ``Dice``, where the others count zero.
    """

    # There is no NaN; not all probabilities are positive; what a distribution validates that was made before is valid.
    answers: ClassVar = {"pyro.util": False, "pyro.infer.util": False, "torch.distributions.distribution": True}
    copies = (
        *(Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__),
        *(Tensor.__repr__, Tensor.__format__, Tensor.__deepcopy__),
    )
    numbers = (Tensor.__float__, Tensor.__int__, Tensor.__bool__, Tensor.__index__, Tensor.__complex__)

    def __init__(self, own: dict[int, Tensor]) -> None:
        super().__init__()
        self._own = own

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.item:
            return args[0].detach()
        caller = sys._getframe(1).f_globals.get("__name__")
        if func is Tensor.__bool__ and caller in self.answers:
            return self.answers[caller]
        if func is Tensor.masked_select and caller == "pyro.infer.util":
            return torch.where(args[1], args[0], 0.0)
        if func is torch.nn.functional.one_hot:
            return _one_hot(*args, **(kwargs or {}))
        if func in self.copies:
            raise CaptureError(f"Tensor.{func.__name__} reads a tensor's values in Python")
        if _reads_unseen(func, args, kwargs or {}):
            raise CaptureError(f"{func.__name__} reads values off tensors that it takes for numbers")
        if func in self.numbers and id(args[0]) in self._own:
            raise CaptureError(f"Tensor.{func.__name__} reads in Python the value of a tensor that the model keeps")
        try:
            result = func(*args, **(kwargs or {}))
        except RuntimeError as error:
            if func in self.numbers and func is not Tensor.__bool__ and IS_TRACED in str(error):
                raise CaptureError(f"Tensor.{func.__name__} reads a tensor's value in Python") from None
            raise
        if any(id(arg) in self._own for arg in args):
            self._own |= {id(leaf): leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)}
        return result


def _reads_unseen(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether torch reads tensors' values where no mode sees it: in lists of numbers, as places to split at."""
    given = [*args, *kwargs.values()]
    if func in SPLITS:
        return any(isinstance(value, Tensor) for value in given[1:])
    if func in ITEMS:
        given = [*(args[1] if isinstance(args[1], tuple) else args[1:2]), *args[2:]]
    elif func not in FROM_LISTS:
        return False
    lists = (value for value in given if isinstance(value, list | tuple))
    return any(isinstance(leaf, Tensor) for value in lists for leaf in pytree.tree_leaves(value))


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Return ``one_hot``'s result; a class that isn't there is an error when the graph is run, as in the function."""
    if num_classes < 0:
        raise CaptureError("one_hot without num_classes gives a result whose size depends on values")
    zeros = torch.zeros((*tensor.shape, num_classes), dtype=torch.long, device=tensor.device)
    return zeros.scatter(-1, tensor.unsqueeze(-1), 1)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _obstacle(error: Exception) -> str:
    """Return one line that names the operation that can't be traced, and its place in the model."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((TORCH, "<", __file__))]
    users = [f for f in frames if not f.filename.startswith(NOT_THE_USERS)]
    places = [*users[-1:], *(frames[-1:] if frames[-1:] != users[-1:] else [])]  # the last one may be Pyro's
    text = _first_line(error)
    if IS_TRACED in text:
        text = "Python control flow on a tensor's value"
    return text + ", in Pyro".join(f" at {line_of(f.filename, f.lineno or 0)}" for f in places)


def line_of(file: str, number: int) -> str:
    """Return a line of a file: ``model.py:12, `if z > 0:` ``."""
    return f"{Path(file).name}:{number}, `{linecache.getline(file, number).strip()}`"


def _lift_tensors(module: GraphModule, position: int) -> list[Tensor]:
    """Make the model's own tensors inputs of the graph, at ``position``; constants of the trace stay inside."""
    lifted: list[Tensor] = []
    nodes = list(module.graph.nodes)
    for node in nodes:
        if node.op != "get_attr" or all("lift_fresh" in str(user.target) for user in node.users):
            continue
        value = getattr(module, node.target)
        if not isinstance(value, Tensor):
            continue
        with module.graph.inserting_before(nodes[position]):
            placeholder = module.graph.placeholder(f"tensor_{len(lifted)}")
        placeholder.meta = dict(node.meta) | {"val": value}
        node.replace_all_uses_with(placeholder)
        module.graph.erase_node(node)
        lifted.append(value)
    module.recompile()
    return lifted


def take_gradients(parameters: Parameters) -> dict[str, Tensor | None]:
    """Return the parameters' gradients, and set these to ``None``."""
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    return gradients
