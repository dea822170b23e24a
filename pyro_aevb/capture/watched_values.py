"""Places in Python's memory whose values are read again and again, in one pass, and what each is called."""

from __future__ import annotations

import itertools
import operator
import types
from collections.abc import Mapping, Sequence, ValuesView
from typing import Any

from torch import Tensor

from pyro_aevb.capture.compared_values import Contents, held

REQUIRES_GRAD = operator.attrgetter("requires_grad")
FUNCTION_PARTS = operator.attrgetter("__code__", "__defaults__")
KINDS = (
    *("entry", "cell", "size", "mapping", "sequence", "contents"),
    *("gradient", "type", "class size", "class", "function"),
)


class WatchedValues:
    """Values by where they lie: entries of dicts, closure cells, sizes and elements of containers, classes of objects.

    Attributes:
        tensors: the tensors; watched is whether each wants a gradient.
        functions: the functions; watched are their code and their default arguments.

    >>> from pyro_aevb.capture.watched_values import WatchedValues
    >>> settings, watched = {"beta": 0.5}, WatchedValues()
    >>> watched.add_entry(settings, "beta", "settings['beta']")
    >>> settings["beta"] = 1.0
    >>> watched.names(), watched.read()
    (["settings['beta']"], [1.0])
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.functions: list[types.FunctionType] = []
        self._entries: list[tuple[Any, Any]] = []
        self._cells: list[types.CellType] = []
        self._sizes: list[Mapping[Any, Any]] = []
        self._mappings: list[Mapping[Any, Any]] = []
        self._sequences: list[Sequence[Any]] = []
        self._contents: list[Contents] = []
        self._objects: list[Any] = []
        self._classes: list[ValuesView[Any]] = []
        self._names: dict[str, list[str]] = {kind: [] for kind in KINDS}  # in the order of `read`

    def read(self) -> list[Any]:
        """Return the values now."""
        # Between two steps this runs with cold caches: a container is read as a whole, since each key costs a miss.
        values = [mapping.get(key) for mapping, key in self._entries]
        values += [held(cell) for cell in self._cells]
        values += map(len, self._sizes)
        for mapping in self._mappings:
            values.append(len(mapping))
            values.extend(mapping)
            values.extend(mapping.values())
        for sequence in self._sequences:
            values.append(len(sequence))
            values.extend(sequence)
        values += [contents.read() for contents in self._contents]
        values += map(REQUIRES_GRAD, self.tensors)
        values += map(type, self._objects)
        values += map(len, self._classes)
        values += itertools.chain.from_iterable(self._classes)
        values += itertools.chain.from_iterable(map(FUNCTION_PARTS, self.functions))
        return values

    def names(self) -> list[str]:
        """Return the names of the values, in their order."""
        return [name for kind in self._names.values() for name in kind]

    def tensor_names(self) -> list[str]:
        """Return the names of the tensors, in their order."""
        return [name.removesuffix(".requires_grad") for name in self._names["gradient"]]

    def add_entry(self, mapping: Any, key: Any, name: str) -> None:
        """Watch what a mapping has under a key, ``None`` where it has nothing."""
        self._entries.append((mapping, key))
        self._names["entry"].append(name)

    def add_cell(self, cell: types.CellType, name: str) -> None:
        """Watch a variable of a closure."""
        self._cells.append(cell)
        self._names["cell"].append(name)

    def add_size(self, mapping: Mapping[Any, Any], name: str) -> None:
        """Watch how many entries a mapping has."""
        self._sizes.append(mapping)
        self._names["size"].append(name)

    def add_mapping(self, mapping: Mapping[Any, Any], size: str, names: Sequence[str]) -> None:
        """Watch a mapping's ``size``, keys and values, which have the same ``names``."""
        self._mappings.append(mapping)
        self._names["mapping"] += [size, *names, *names]

    def add_sequence(self, sequence: Sequence[Any], size: str, names: Sequence[str]) -> None:
        """Watch a sequence's ``size`` and its elements."""
        self._sequences.append(sequence)
        self._names["sequence"] += [size, *names]

    def add_contents(self, value: Any, name: str) -> None:
        """Watch the contents of a set, a deque or an array as one."""
        self._contents.append(Contents(value))
        self._names["contents"].append(f"the contents of {name}")

    def add_tensor(self, tensor: Tensor, name: str) -> None:
        """Watch whether a tensor wants a gradient."""
        self.tensors.append(tensor)
        self._names["gradient"].append(f"{name}.requires_grad")

    def add_object(self, value: Any, name: str) -> None:
        """Watch the class of an object."""
        self._objects.append(value)
        self._names["type"].append(f"the class of {name}")

    def add_class(self, cls: type) -> None:
        """Watch what a class consists of."""
        self._classes.append(vars(cls).values())
        self._names["class size"].append(f"the number of {cls.__name__}.*")
        self._names["class"] += [f"{cls.__name__}.{key}" for key in vars(cls)]

    def add_function(self, fn: types.FunctionType) -> None:
        """Watch a function's code and its default arguments."""
        self.functions.append(fn)
        self._names["function"] += [f"{fn.__qualname__}.{part}" for part in ("__code__", "__defaults__")]
