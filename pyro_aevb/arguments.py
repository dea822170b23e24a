"""The arguments of a model and a guide, taken apart into tensors with datapoints first, and put together again.

A learner, a sampler and a fast path see a tuple of tensors; a Pyro function may take lists, dicts, packed sequences,
flags, numbers, ``None`` and tensors that all datapoints have in common, by position and by name.  :func:`take_apart`
goes from the second to the first, :func:`arranged` makes of a Pyro function one that takes the first.

Shapes: M datapoints of a minibatch, N of a data set, T time steps.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils import _pytree as pytree

CONSTANTS = (bool, int, complex, str, bytes, type(None), enum.Enum, torch.dtype, torch.device, torch.Size)
Part = Callable[[Any, int], Any]  # from an argument and its place to what has datapoints; raises for what has none


@final
class Shared:
    """An argument that all datapoints have in common, whatever its length; it goes to every minibatch as it is.

    A tensor of another length than x is taken for one anyway.

    Args:
        value: a tensor, or any object.

    >>> x, weights = torch.randn(3, 2), torch.ones(3)
    >>> minibatch = (x, Shared(weights))  # three weights of the model's, not one for each of three datapoints
    """

    def __init__(self, value: Any) -> None:
        self.value = value


@final
class Arguments:
    """The arguments of model and guide, by position and by name: ``model(*args, **kwargs)``.

    It stands for a data set, a minibatch, or the arguments of an estimate, where names could be taken for options.

    Args:
        args: by position.
        kwargs: by name.

    >>> data = Arguments(torch.randn(3, 2), y=torch.ones(3), seed=7)  # a model that has an argument called seed
    >>> len(data.args), sorted(data.kwargs)
    (1, ['seed', 'y'])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


@final
class Form:
    """How arguments are put together from tensors; equal to another that has the same kinds and constants.

    Floating-point numbers and tensors in common are no part of that, since they may be others at each step.

    Args:
        spec: the nesting.
        kinds: of each leaf: "rows", "packed", "sorted", "whole", "number" or "constant".
        constants: the values of those, in their order.
        numbers: likewise.
        wholes: tensors that all datapoints have in common, in their order.
        guessed: the places and lengths of those that nobody said to be so.
    """

    def __init__(
        self,
        spec: pytree.TreeSpec,
        kinds: tuple[str, ...],
        constants: tuple[Any, ...],
        numbers: tuple[float, ...],
        wholes: tuple[Tensor, ...],
        guessed: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.spec, self.kinds, self.constants, self.numbers = spec, kinds, constants, numbers
        self.wholes, self.guessed = wholes, guessed
        self.key = repr(spec), kinds, tuple(map(_key, constants))
        self.num_rows = sum({"rows": 1, "packed": 2, "sorted": 2}.get(kind, 0) for kind in kinds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def without_wholes(self) -> Form:
        """Return the form of minibatches that bring the tensors in common with them."""
        return Form(self.spec, self.kinds, self.constants, self.numbers, (), self.guessed)

    def call(self, tensors: Sequence[Tensor]) -> Arguments:
        """Return the arguments that are made from the rows, and from ``wholes`` unless the tensors have these too."""
        rows, wholes = iter(tensors[: self.num_rows]), iter(tensors[self.num_rows :] or self.wholes)
        constants, numbers = iter(self.constants), iter(self.numbers)
        leaves: list[Any] = []
        for kind in self.kinds:
            if kind == "rows":
                leaves.append(next(rows))
            elif kind in ("packed", "sorted"):
                leaves.append(_packed(next(rows), next(rows), kind == "sorted"))
            else:
                leaves.append(next({"whole": wholes, "number": numbers, "constant": constants}[kind]))
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return Arguments(*args, **kwargs)

    def tensors_of(self, call: Arguments) -> tuple[Tensor, ...] | None:
        """Return the tensors that :meth:`call` makes such arguments from; ``None`` for others than it makes."""
        leaves, spec = pytree.tree_flatten((call.args, call.kwargs), is_leaf=_is_leaf)
        if repr(spec) != self.key[0]:
            return None
        rows: list[Tensor] = []
        wholes: list[Tensor] = []
        for leaf, kind in zip(leaves, self.kinds, strict=True):
            if kind in ("packed", "sorted") and isinstance(leaf, PackedSequence):
                rows += pad_packed_sequence(leaf, batch_first=True)
            elif kind in ("rows", "whole") and isinstance(leaf, Tensor):
                (rows if kind == "rows" else wholes).append(leaf)
            elif kind not in ("number", "constant"):
                return None
        return (*rows, *wholes)


class Parts(NamedTuple):
    """Arguments, taken apart: ``rows`` with datapoints first, and the form that the rest has; ``None`` for only rows.

    ``form`` is ``None`` where the arguments are ``rows``, one by one.
    """

    rows: tuple[Any, ...]
    form: Form | None

    def call(self) -> Arguments:
        """Return the arguments."""
        return Arguments(*self.rows) if self.form is None else self.form.call(self.rows)


def as_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """Return the arguments that were passed, those inside of a single :class:`Arguments` if that is all."""
    if len(args) == 1 and isinstance(args[0], Arguments):
        inside = args[0]
        return Arguments(*inside.args, **(inside.kwargs | dict(kwargs)))
    return Arguments(*args, **kwargs)


def take_apart(call: Arguments, part: Part) -> Parts:
    """Return what of the arguments has datapoints, and the form of the rest.

    The first tensor that isn't :class:`Shared` has datapoints; so has each one of its length.  A tensor of another
    length, or of no dimension, is one that all datapoints have in common.

    Args:
        call: the arguments.
        part: makes a leaf into what has datapoints (a tensor, an array on the disk), or raises.

    Raises:
        TypeError: for a leaf that is neither data nor a constant.
        ValueError: for parts that can't be taken as a whole and have another length.
    """
    leaves, spec = pytree.tree_flatten((call.args, call.kwargs), is_leaf=_is_leaf)
    kinds: list[str] = []
    rows: list[Any] = []
    wholes: list[Tensor] = []
    constants: list[Any] = []
    numbers: list[float] = []
    guessed: list[tuple[int, int]] = []
    size = -1
    for place, leaf in enumerate(leaves):
        kind, made = _kind(leaf, place, part, size)
        kinds.append(kind)
        if kind in ("packed", "sorted", "rows"):
            rows += made
            size = len(made[0]) if size < 0 else size
        elif kind == "whole":
            wholes.append(made)
            if made.dim() and not isinstance(leaf, Shared):
                guessed.append((place, len(made)))
        else:
            (numbers if kind == "number" else constants).append(made)
    plain = set(kinds) <= {"rows"} and not call.kwargs and len(kinds) == len(call.args)
    if plain and not any(isinstance(arg, list | tuple | dict) for arg in call.args):
        return Parts(tuple(rows), None)
    form = Form(spec, tuple(kinds), tuple(constants), tuple(numbers), tuple(wholes), tuple(guessed))
    return Parts(tuple(rows), form)


def arranged(fn: Any, form: Form | None) -> Any:
    """Return ``fn`` as a function of a form's tensors; ``fn`` itself where the tensors are its arguments."""
    return fn if fn is None or form is None else functools.partial(_call, form, fn)


def inside_of(fn: Any) -> tuple[Any, Form | None]:
    """Return what :func:`arranged` was given; ``fn`` and ``None`` for another function."""
    if isinstance(fn, functools.partial) and fn.func is _call:
        return fn.args[1], fn.args[0]
    return fn, None


def first_size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """Return M, the length of the first tensor with datapoints among nested arguments; ``None`` if there is none."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim():  # the usual case
            return len(value)
        if isinstance(value, (Tensor, Shared, np.ndarray, *CONSTANTS)):
            continue
        for leaf in pytree.tree_leaves(value, is_leaf=_is_leaf):
            if isinstance(leaf, PackedSequence):
                return int(leaf.batch_sizes[0])
            if isinstance(leaf, Tensor) and leaf.dim():
                return len(leaf)
    return None


def signature_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what of arguments isn't a tensor, and how it is nested: two calls that differ in it may be two models."""
    if not kwargs and all(isinstance(arg, Tensor) for arg in args):  # the usual case
        return (len(args),)
    leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)), is_leaf=_is_leaf)
    kinds = (type(leaf) if isinstance(leaf, Tensor | PackedSequence | float) else _key(leaf) for leaf in leaves)
    return repr(spec), *kinds


def _call(form: Form, fn: Callable[..., Any], *tensors: Tensor) -> Any:
    call = form.call(tensors)
    return fn(*call.args, **call.kwargs)


def _is_leaf(value: Any) -> bool:
    return value is None or isinstance(value, PackedSequence | Shared)


def _kind(leaf: Any, place: int, part: Part, size: int) -> tuple[str, Any]:
    """Return the kind of a leaf, and what is kept of it; ``size`` is M, -1 if that isn't known yet."""
    if isinstance(leaf, Shared):
        return ("whole" if isinstance(leaf.value, Tensor) else "constant"), leaf.value
    if isinstance(leaf, np.generic):
        leaf = leaf.item()
    if isinstance(leaf, float):
        return "number", leaf
    if isinstance(leaf, CONSTANTS):
        return "constant", leaf
    if isinstance(leaf, PackedSequence):
        padded, lengths = pad_packed_sequence(leaf, batch_first=True)
        _check_size(len(lengths), place, size)
        made = [part(padded, place), part(lengths, place)]
        return ("sorted" if leaf.sorted_indices is None else "packed"), made
    made = part(leaf, place)
    if isinstance(made, Tensor) and (made.dim() == 0 or len(made) != size >= 0):
        return "whole", made
    _check_size(len(made), place, size)
    return "rows", [made]


def _check_size(found: int, place: int, size: int) -> None:
    if size >= 0 and found != size:
        raise ValueError(
            f"expected as many datapoints in each part of the data, got {found} in argument {place} and {size} in the "
            "first; cut them to one length"
        )


def _packed(padded: Tensor, lengths: Tensor, was_sorted: bool) -> PackedSequence:
    """Return (M, T, ...) packed; as it was, without indices, where it came in order and still is."""
    lengths = lengths.cpu()
    in_order = was_sorted and bool((lengths[:-1] >= lengths[1:]).all())
    padded = padded[:, : int(lengths.max())]
    return pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=in_order)


def _key(value: Any) -> tuple[Any, ...]:
    """Return what tells a constant from another: type and value, or identity for any other object."""
    return (type(value), value) if isinstance(value, CONSTANTS) else (type(value), id(value))
