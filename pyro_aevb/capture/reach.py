"""A walk over the values that a callable can reach besides its arguments: closures, globals, attributes, modules."""

from __future__ import annotations

import collections
import contextvars
import functools
import logging
import os
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyro_aevb.capture.clock import (
    IMPORTERS,
    attributes_of,
    imported,
    is_source,
    leads_to_source,
    names_in,
    source_in,
    strings_in,
    undefined_globals,
)
from pyro_aevb.capture.compared_values import (
    CONTAINERS,
    SCALARS,
    VALUES,
    Slots,
    Variable,
    elements,
    held,
    in_library,
    is_array,
    is_buffer,
    is_cache,
    is_container,
)
from pyro_aevb.capture.installed import (
    LARGEST_CONTAINER,
    PACKAGE,
    VIEWS,
    is_foreign,
    is_installed_file,
    is_opaque,
    is_out_of_reach,
    is_the_users,
    owner_of,
    packages_of,
    reads_modules_by_unknown_names,
)
from pyro_aevb.capture.watched_values import WatchedValues

# Attributes that Pyro sets anew in each run, before it reads them.
SET_BY_EACH_RUN = {AutoGuide: ("plates",), TraceMessenger: ("trace",), GuideMessenger: ("args_kwargs",)}
# Values that lead nowhere, and a logger, which leads to every other one of the process.
PASSED_BY = (*SCALARS, *VALUES, logging.Logger)
MODULE_SLOTS = (
    *("_parameters", "_buffers", "_modules"),
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
)
PYROS_SLOTS = ("_pyro_params", "_pyro_samples")  # constraints and priors
TORCHS_OWN = frozenset(vars(nn.Module())) - {"training"}  # attributes that every module has
GENERATORS = (random.Random, torch.Generator)  # and NumPy's
LARGEST_ARRAY, MOST_SLOTS = 100_000, 20_000
# A function that names one of these may fetch any attribute.
BY_NAME = {"getattr", "attrgetter", "methodcaller", "vars", "dir", "__dict__", "__getattribute__", "eval", "exec"}
CONSTRUCTORS = ("__init__", "__new__", "__post_init__")
MAKERS = {"type", "__class__", "copy", "deepcopy", "replace"}  # or make another of an object


class Reach:
    """The Python values that ``callables`` can reach now, found by a walk from one to the next.

    Args:
        callables: functions, methods, modules and other objects that can be called.
        only_called: take in only those methods of classes that the code names, or that Python or a library calls.

    Attributes:
        watched: where the values lie that the callables may read.
        seen: everything that is reached but scalars, by identity, in the order in which it was found.
        containers: the identities of the containers of which each element is watched.
        modules: the torch modules.
        generators: the random generators.
        unwatchable: what can't be watched, in words; empty if there is nothing of the kind.

    >>> from pyro_aevb.capture.reach import Reach
    >>> layer = torch.nn.Linear(2, 1)
    >>> reach = Reach([lambda x: layer(x)])
    >>> reach.modules == [layer], len(reach.watched.tensors)
    (True, 2)
    """

    def __init__(self, callables: Iterable[Callable[..., Any]], *, only_called: bool = False) -> None:
        callables = list(callables)
        self.watched = WatchedValues()
        self.seen: dict[int, Any] = {}
        self.containers: set[int] = set()
        self.modules: list[nn.Module] = []
        self.generators: list[Any] = []
        self.unwatchable = ""
        self._classes_seen: set[int] = set()
        self._named: set[str] = set()  # in the code
        self._waiting: dict[str, list[type]] = {}  # attributes of classes that nothing has named yet
        self._sparing = only_called
        self._python_modules: dict[int, tuple[types.ModuleType, str]] = {}  # the user's own, and os
        self._sources: list[tuple[str, set[str]]] = []  # values with clocks among their attributes
        self._hidden: list[tuple[str, str]] = []  # what can't be watched, and its name, which no code may have
        self._own = packages_of(callables)
        self._within: set[int] = set()  # what is beneath objects of installed packages, by identity
        self._set_by_each_run: list[tuple[dict[str, Any], str, str]] = []
        for fn in callables:
            self._visit(fn, getattr(fn, "__name__", type(fn).__name__))
        self._read_python_modules()
        for attributes, key, name in self._set_by_each_run:
            if key in self._named:  # the user's code may read it before Pyro sets it
                self._visit_entry(attributes, key, name)
        for name, clocks in self._sources:
            if clocks & self._named:
                self._note_source(name, name)
        for words, name in self._hidden:
            if "." not in name or name.rpartition(".")[2].partition("[")[0] in self._named:
                self.unwatchable = self.unwatchable or f"{words} {name} can't be watched"
        if self.unwatchable and not only_called:
            self.unwatchable = Reach(callables, only_called=True).unwatchable

    def _visit(self, value: Any, name: str) -> None:
        if isinstance(value, PASSED_BY):
            return
        if type(value).__module__.startswith(__package__):  # a fast path, which a closure over a learner reaches
            return
        if isinstance(value, type):
            self._release_constructors(value)
        if id(value) in self.seen:
            return
        if len(self.seen) > MOST_SLOTS:
            return
        self.seen[id(value)] = value
        if type(value) in CONTAINERS:  # as most are, the dicts of modules
            self._visit_contents_or_object(value, name)
        elif isinstance(value, Tensor):
            self.watched.add_tensor(value, name)
        elif type(value) in weakref.ProxyTypes:
            self.unwatchable = self.unwatchable or f"what the weak reference {name} leads to can't be watched"
        elif isinstance(value, weakref.ref):
            self._visit(value(), name)
        elif is_source(value):
            self._note_source(name, name)
        elif leads_to_source(value):
            self._sources.append((name, attributes_of(value)))
        elif isinstance(value, types.MethodType):
            self._visit(value.__self__, _owner(name))
            self._visit(value.__func__, name)
        elif isinstance(value, types.FunctionType):
            self._visit_function(value, name)
        elif isinstance(value, functools.partial):
            for part in (value.func, *value.args):
                self._visit(part, name)
            self._visit_dict(value.keywords, name)
        elif isinstance(value, type):
            self._visit_class(value, name)
            self._release_constructors(value)
        elif isinstance(value, contextvars.ContextVar):
            self._visit_entry(Variable(value), None, f"{name}.get()")
        elif owner_of(value) is not None:  # a method made in C
            self._visit(owner_of(value), name)
        elif isinstance(value, GENERATORS) or type(value).__module__.startswith("numpy.random"):
            self.generators.append(value)
        else:
            self._visit_contents_or_object(value, name)

    def _visit_contents_or_object(self, value: Any, name: str) -> None:
        if isinstance(value, dict | types.MappingProxyType):
            self._visit_dict(value, name)
        elif isinstance(value, VIEWS):
            self._visit_dict(value.mapping, name)  # type: ignore[attr-defined]  # from Python 3.10 on
        elif isinstance(value, list | tuple):
            self._visit_sequence(value, name)
        elif isinstance(value, Iterator) and not isinstance(value, nn.Module):
            self._hidden.append(("the place of the iterator", name))
        elif isinstance(value, set | collections.deque) or is_array(value) or is_buffer(value):
            self._visit_contents(value, name)
        elif type(value) is pyro.plate:
            self._visit_plate(value, name)
        elif is_cache(value):
            self._visit_cache(value, name)
        elif not isinstance(value, types.ModuleType):
            self._visit_object(value, name)
        elif is_the_users(value):
            self._python_modules[id(value)] = value, name
        if (
            isinstance(value, dict | list | tuple)
            and hasattr(value, "__dict__")
            and not in_library(type(value).__module__)
        ):
            self._visit_object(value, name)  # attributes and methods besides the elements

    def _visit_function(self, fn: types.FunctionType, name: str) -> None:
        if in_library(fn.__module__) or self._is_installed(fn):
            for cell in fn.__closure__ or ():  # a handler around somebody's model
                self._visit(held(cell), name)
            return
        self.watched.add_function(fn)
        for variable, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            self.watched.add_cell(cell, variable)
            self._visit(held(cell), variable)
        self._visit(fn.__defaults__, name)
        if fn.__code__.co_kwonlyargcount:
            self._visit_entry(Slots(fn), "__kwdefaults__", f"{name}.__kwdefaults__")
        self._visit_dict(fn.__dict__, name, attributes=True)
        if source := source_in(fn):
            self._note_source(fn.__qualname__, source)
        self._visit_globals(fn)
        self._release({*names_in(fn.__code__), *strings_in(fn.__code__)})

    def _visit_globals(self, fn: types.FunctionType) -> None:
        """Take in what a function's code names besides its own variables: globals, and modules that it imports."""
        names, strings = dict.fromkeys(names_in(fn.__code__)), set(strings_in(fn.__code__))
        if reads_modules_by_unknown_names(names, strings):
            self.unwatchable = self.unwatchable or f"{fn.__qualname__} looks up modules by a name that isn't in it"
        if "__name__" in names:
            strings.add(str(fn.__globals__.get("__name__")))
        if "globals" in names:
            found = {text: None for text in strings if text in fn.__globals__}
            names |= found
            if not found:
                self.unwatchable = self.unwatchable or f"{fn.__qualname__} looks up globals by a name that isn't in it"
        for variable in names:
            defined = variable in fn.__globals__
            value = fn.__globals__[variable] if defined else imported(fn, variable)
            if isinstance(value, types.ModuleType) and not is_the_users(value):
                if value is os:
                    self._python_modules[id(os)] = os, variable
            elif defined and not is_source(value) and not _is_a_librarys(value):
                self._visit_entry(fn.__globals__, variable, variable)
            elif value is not None:
                self._visit(value, variable)
        for text in strings if IMPORTERS & names.keys() else ():
            if is_the_users(sys.modules.get(text)):
                self._visit(sys.modules[text], text)
        for variable in undefined_globals(fn):
            self.watched.add_entry(fn.__globals__, variable, variable)

    def _read_python_modules(self) -> None:
        """Take in what the code may read of the user's own modules: the attributes that some of it names."""
        taken = set()
        while waiting := [
            (id(module), key)
            for module, _ in self._python_modules.values()
            for key in self._attributes_read(module)
            if (id(module), key) not in taken
        ]:
            for place, key in waiting:
                module, name = self._python_modules[place]
                taken.add((place, key))
                if module is os:
                    self._visit_dict(os.environ._data, "os.environ")  # type: ignore[attr-defined]  # the dict itself
                else:
                    self._visit_entry(vars(module), key, f"{name}.{key}")
        for module, name in self._python_modules.values():
            if module is not os and module.__name__ != "__main__":  # whose variables come and go with the script
                self.watched.add_size(vars(module), f"the number of {name}.*")

    def _attributes_read(self, module: types.ModuleType) -> set[str]:
        if module is os:
            return {"environ"} if {"environ", "getenv"} & self._named else set()
        found = self._named & vars(module).keys()
        if BY_NAME & self._named:
            code = (types.ModuleType, types.FunctionType, type)
            found |= {key for key, value in vars(module).items() if key[:2] != "__" and not isinstance(value, code)}
        return found

    def _note_source(self, reader: str, name: str) -> None:
        self.unwatchable = self.unwatchable or f"{reader} reads the clock or random bytes of the system ({name})"

    def _visit_contents(self, value: Any, name: str) -> None:
        of_bytes = is_array(value) or is_buffer(value)
        if of_bytes:
            too_large = (value if is_array(value) else memoryview(value)).nbytes > LARGEST_ARRAY
        else:
            too_large = len(value) > LARGEST_CONTAINER
        if too_large:
            return
        self._note_container(value)
        self.watched.add_contents(value, name)
        if not of_bytes or (is_array(value) and value.dtype.hasobject):
            for element in elements(value) if of_bytes else list(value):
                self._visit(element, name)

    def _visit_cache(self, cache: Any, name: str) -> None:
        """Take in a function with a cache, whose results stay what they were while what the function reads changes."""
        self._visit(cache.__wrapped__, name)
        if is_the_users(sys.modules.get(cache.__module__)) and not _reads_arguments_only(cache.__wrapped__):
            self.unwatchable = self.unwatchable or f"the results in the cache of {name} can't be watched"

    def _visit_class(self, cls: type, name: str) -> None:
        """Take in the values that a class of the user's keeps, and its functions."""
        if type(cls) is not type and is_the_users(sys.modules.get(type(cls).__module__)):
            self._visit(type(cls), type(cls).__name__)
        for each in cls.__mro__:
            package = each.__module__.split(".")[0]
            if in_library(package) or package == "pyro_aevb":
                continue
            module = sys.modules.get(each.__module__)
            if not (module is None or package in self._own or is_the_users(module)):
                self._watch_settings(each)
                continue
            self._note_class(each)
            for key in list(vars(each)):
                named = key in self._named or (key not in CONSTRUCTORS and _is_called_by_others(cls, key))
                if named or not self._sparing:
                    self._visit_class_attribute(each, key)
                else:
                    self._waiting.setdefault(key, []).append(each)

    def _note_class(self, cls: type) -> None:
        """Watch what a class of the user's consists of: a method or an attribute may be set later, or on a subclass."""
        if id(cls) not in self._classes_seen and is_the_users(sys.modules.get(cls.__module__)):
            self._classes_seen.add(id(cls))
            self.watched.add_class(cls)

    def _watch_settings(self, cls: type) -> None:
        """Watch the numbers and strings that an installed package's class keeps, and nothing else of it."""
        for key, value in vars(cls).items():
            if isinstance(value, SCALARS) and not key.startswith("__"):
                self.watched.add_entry(vars(cls), key, f"{cls.__name__}.{key}")

    def _visit_class_attribute(self, cls: type, key: str) -> None:
        attribute = vars(cls)[key]
        function = getattr(attribute, "__func__", getattr(attribute, "fget", attribute))
        if isinstance(function, types.FunctionType):
            self._visit(function, f"{cls.__name__}.{function.__name__}")
        elif not key.startswith("__") and not isinstance(attribute, types.MemberDescriptorType):
            if id(cls) in self._classes_seen:  # where it is watched already
                self._visit(attribute, f"{cls.__name__}.{key}")
            else:
                self._visit_entry(vars(cls), key, f"{cls.__name__}.{key}")

    def _release(self, names: Iterable[str]) -> None:
        """Take in the attributes of classes that waited for one of these names, from now on too."""
        self._named.update(names)
        if self._named & MAKERS:
            self._named.update(CONSTRUCTORS)
        self._sparing = self._sparing and not BY_NAME & self._named
        for key in list(self._named & self._waiting.keys() if self._sparing else self._waiting):
            for cls in self._waiting.pop(key, []):
                self._visit_class_attribute(cls, key)

    def _release_constructors(self, cls: type) -> None:
        """Take in what makes an object of a class that the code can reach itself, not only objects of it."""
        for key in CONSTRUCTORS:
            waiting = self._waiting.get(key, [])
            for each in [each for each in cls.__mro__ if each in waiting]:
                waiting.remove(each)
                self._visit_class_attribute(each, key)

    def _visit_entry(self, mapping: Any, key: Any, name: str) -> None:
        self.watched.add_entry(mapping, key, name)
        self._visit(mapping[key], name)

    def _visit_dict(self, mapping: Mapping[Any, Any], name: str, attributes: bool = False) -> None:
        if len(mapping) > LARGEST_CONTAINER:
            return
        self._note_container(mapping)
        names = [f"{name}.{key}" if attributes else f"{name}[{key!r}]" for key in mapping]
        size = f"the number of {name}.*" if attributes else f"the number of {name}['*']"
        if not mapping:  # as most are, the hooks of modules: whether it is still empty is all there is to see
            self.watched.add_size(mapping, size)
            return
        self.watched.add_mapping(mapping, size, names)
        for name, value in zip(names, list(mapping.values()), strict=True):
            self._visit(value, name)

    def _visit_sequence(self, sequence: Sequence[Any], name: str) -> None:
        if len(sequence) > LARGEST_CONTAINER:
            return
        self._note_container(sequence)
        names = [f"{name}[{i}]" for i in range(len(sequence))]
        if not isinstance(sequence, tuple):
            self.watched.add_sequence(sequence, f"len({name})", names)
        for element_name, value in zip(names, sequence, strict=True):
            self._visit(value, element_name)

    def _note_container(self, value: Any) -> None:
        if is_container(value):
            self.containers.add(id(value))

    def _visit_plate(self, plate: pyro.plate, name: str) -> None:
        """Take in what makes a plate, and which datapoints are in it, unless all are."""
        self._note_container(plate)
        for key in list(plate.__dict__):
            if key != "_indices" or plate.subsample_size != plate.size:
                self._visit_entry(plate.__dict__, key, f"{name}.{key}")

    def _is_installed(self, fn: types.FunctionType) -> bool:
        """Return whether a function's code is an installed package's that isn't the user's own, or this one's."""
        file = fn.__code__.co_filename
        of = str(fn.__globals__.get("__name__")).split(".")[0]
        return file.startswith(PACKAGE) or (is_installed_file(file) and of not in self._own)

    def _visit_object(self, value: Any, name: str) -> None:
        foreign = id(value) not in self._within and is_foreign(value, self._own)
        if is_opaque(value) or (foreign and is_out_of_reach(value, self._within)):
            self._hidden.append(("what is in", name))
            return
        if id(type(value)) not in self.seen:  # whose objects needn't be made by the code
            self.seen[id(type(value))] = type(value)
            self._visit_class(type(value), type(value).__name__)
        slots = Slots(value)
        for key in slots.names():
            self._visit_entry(slots, key, f"{name}.{key}")
        if not hasattr(value, "__dict__"):
            return
        self.watched.add_object(value, name)
        anew = [key for cls, keys in SET_BY_EACH_RUN.items() if isinstance(value, cls) for key in keys]
        if isinstance(value, nn.Module):
            self.modules.append(value)
        elif not anew:
            self._visit_dict(value.__dict__, name, attributes=True)
            return
        self.watched.add_size(value.__dict__, f"the number of {name}.*")
        caches = isinstance(value, torch.distributions.Transform)  # in its private attributes, rewritten by each run
        for key in list(value.__dict__):
            if key in MODULE_SLOTS or key in PYROS_SLOTS:  # each stays the same dict
                self._visit(value.__dict__[key], f"{name}.{key}")
            elif key in anew:
                self._set_by_each_run.append((value.__dict__, key, f"{name}.{key}"))
            elif key not in TORCHS_OWN and not key.startswith("_" if caches else "_pyro_"):
                self._visit_entry(value.__dict__, key, f"{name}.{key}")


def _is_a_librarys(value: Any) -> bool:
    """Return whether this is a class that isn't the user's, whose variable is taken to stay what it is."""
    return isinstance(value, type) and not is_the_users(sys.modules.get(value.__module__))


def _reads_arguments_only(fn: Any) -> bool:
    """Return whether a function's result follows from its arguments: no closure, no data among its globals, no self."""
    if not isinstance(fn, types.FunctionType) or fn.__closure__ or fn.__qualname__ != fn.__name__:
        return False
    found = (fn.__globals__[name] for name in names_in(fn.__code__) if name in fn.__globals__)
    return all(isinstance(value, types.ModuleType) or callable(value) for value in found)


def _is_called_by_others(cls: type, key: str) -> bool:
    """Return whether Python or a library may call this attribute of a class: ``__call__``, ``forward`` of a module."""
    if key.startswith("__"):
        return True
    bases = (
        base
        for base in cls.__mro__
        if in_library(base.__module__) or not is_the_users(sys.modules.get(base.__module__))
    )
    return any(key in vars(base) for base in bases)


def _owner(name: str) -> str:
    return name.rpartition(".")[0] or "self"
