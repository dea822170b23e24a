"""Code that reads the clock, or random bytes of the operating system: values that no guard can watch.

It is found by the names in the code: a variable that holds the module, the class or the function, and the attributes
that are read off it.  ``time.sleep(1)`` and ``datetime(2020, 1, 1)`` read no clock.
"""

from __future__ import annotations

import builtins
import datetime
import dis
import functools
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_TIMES = ("time", "perf_counter", "monotonic", "process_time", "thread_time", "clock_gettime")
CLASSES = {"now", "utcnow", "today"}  # the classes' of datetime
# A module's functions that give another value at each call.
SOURCES = {
    "time": {*_TIMES, *(f"{name}_ns" for name in _TIMES), "localtime", "gmtime", "ctime", "asctime", "strftime"},
    "datetime": CLASSES,
    "os": {"urandom", "getrandom", "times"},
    "secrets": {"randbelow", "randbits", "choice", "token_bytes", "token_hex", "token_urlsafe"},
    "uuid": {"uuid1", "uuid4", "uuid6", "uuid7"},
    "timeit": {"default_timer", "timeit", "repeat"},
    "resource": {"getrusage"},
    "ssl": {"RAND_bytes"},
}
# What makes a generator of random numbers: from the operating system's, if it is called without a seed.
MAKERS = {
    "random": {"Random", "SystemRandom"},
    "numpy.random": {"default_rng", "RandomState", "SeedSequence", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"},
    "scipy.stats": {"Sobol", "Halton", "LatinHypercube", "PoissonDisk"},
}
IMPORTERS = {"import_module", "__import__", "modules"}  # which find a module by a string
BY_STRINGS = IMPORTERS | {"datetime64"}
ALL_MAKERS = set[str]().union(*MAKERS.values())
BEFORE_CALLS = ("PUSH_NULL", "CACHE", "COPY_FREE_VARS")
GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")
ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")
MOST_CODE = 5000  # code objects whose names and strings are kept


def is_source(value: Any) -> bool:
    """Return whether this function or generator reads the clock or random bytes.

    >>> import time
    >>> from pyro_aevb.capture.clock import is_source
    >>> is_source(time.perf_counter), is_source(time.sleep)
    (True, False)
    """
    if isinstance(value, random.SystemRandom):
        return True
    if not isinstance(value, types.BuiltinFunctionType | types.FunctionType | types.MethodType):
        return False
    owner = getattr(value, "__self__", None)
    if isinstance(owner, random.SystemRandom):
        return True
    module = owner.__module__ if isinstance(owner, type) else value.__module__
    return value.__name__ in SOURCES.get("os" if module == "posix" else str(module), ())


def leads_to_source(value: Any) -> bool:
    """Return whether an attribute of this is one: a module of these, or a class of datetime's."""
    if isinstance(value, types.ModuleType):
        return value.__name__ in SOURCES
    return isinstance(value, type) and issubclass(value, datetime.date)


def attributes_of(value: Any) -> set[str]:
    """Return the names of those attributes, of a module or a class that leads to one."""
    return SOURCES[value.__name__] if isinstance(value, types.ModuleType) else CLASSES


def source_in(fn: types.FunctionType) -> str:
    """Return the variable through which the code of ``fn`` reads one; empty if it doesn't.

    >>> import time
    >>> from pyro_aevb.capture.clock import source_in
    >>> source_in(lambda: time.time()), source_in(lambda: time.sleep(1))
    ('time', '')
    """
    every = dict(_values(fn))
    if (every.keys() & ALL_MAKERS or any(map(makes_generator, every.values()))) and (name := _unseeded(fn)):
        return name
    if every.keys() & BY_STRINGS and (name := _imported_source(fn)):
        return name
    values = {name: value for name, value in every.items() if is_source(value) or leads_to_source(value)}
    if not values:  # the usual case, without a look at each instruction
        return ""
    instructions = list(_instructions(fn.__code__))
    read = {each.argval for each in instructions if each.opname in (*ATTRIBUTE, "IMPORT_FROM")}
    for i, each in enumerate(instructions):
        name = each.argval if isinstance(each.argval, str) else ""
        if name not in values or each.opname in (*ATTRIBUTE, "LOAD_CONST"):
            continue
        if each.opname == "IMPORT_NAME" and SOURCES.get(name, set()) & read:
            return name
        if each.opname.startswith("LOAD_") and _gives_source(values[name], instructions[i + 1 :], read):
            return name
    return ""


def lines_that_load(fn: types.FunctionType, wanted: Callable[[Any], bool]) -> list[int]:
    """Return the numbers of the lines that load a value from a variable, or off a module in one, if it is wanted."""
    return [each.line for each in _loaded(fn) if wanted(each.value)]


class _Loaded(NamedTuple):
    """A value that the code loads, the variable that it is read off, its line and the instructions that follow."""

    value: Any
    name: str
    line: int
    following: list[dis.Instruction]


def _loaded(fn: types.FunctionType) -> Iterator[_Loaded]:
    """Yield what the code loads from variables, or off modules in them."""
    values, instructions = dict(_values(fn)), list(_instructions(fn.__code__))
    line = fn.__code__.co_firstlineno
    for i, each in enumerate(instructions):
        line = _line_number(each) or line
        if (
            not each.opname.startswith("LOAD_")
            or each.opname in (*ATTRIBUTE, "LOAD_CONST")
            or each.argval not in values
        ):
            continue
        value, place = values[each.argval], i + 1
        while instructions[place].opname in ATTRIBUTE and isinstance(value, types.ModuleType):
            value, place = getattr(value, instructions[place].argval, None), place + 1
        yield _Loaded(value, each.argval, line, instructions[place:])


def makes_generator(value: Any) -> bool:
    """Return whether this makes a generator of random numbers, from the operating system's unless it is given a seed.

    >>> import random
    >>> from pyro_aevb.capture.clock import makes_generator
    >>> makes_generator(random.Random), makes_generator(random.random)
    (True, False)
    """
    module, name = str(getattr(value, "__module__", "")), getattr(value, "__name__", "")
    return any(name in names and f"{module}.".startswith(f"{root}.") for root, names in MAKERS.items())


def _unseeded(fn: types.FunctionType) -> str:
    """Return the variable off which a maker of generators is read and called without arguments; empty for none."""
    for loaded in _loaded(fn):
        if makes_generator(loaded.value):
            always = loaded.value is random.SystemRandom or loaded.value.__name__ in MAKERS["scipy.stats"]
            if always or _is_called_with_nothing(loaded.following):
                return loaded.name
    instructions = list(_instructions(fn.__code__))
    if any(each.opname == "IMPORT_NAME" and each.argval.startswith(tuple(MAKERS)) for each in instructions):
        for i, each in enumerate(instructions):
            is_maker = each.opname.startswith("LOAD_") and each.argval in ALL_MAKERS
            if is_maker and _is_called_with_nothing(instructions[i + 1 :]):
                return str(each.argval)
    return ""


def _is_called_with_nothing(following: list[dis.Instruction]) -> bool:
    call = next((each for each in following if each.opname not in BEFORE_CALLS), None)
    return call is not None and call.opname.startswith(("CALL", "PRECALL")) and call.argval == 0


def _imported_source(fn: types.FunctionType) -> str:
    """Return the module, one of the sources, that the code finds by its name as a string and reads; empty for none."""
    read, strings = set(names_in(fn.__code__)), strings_in(fn.__code__)
    if "datetime64" in read and {"now", "today"} & set(strings):
        return "datetime64"
    return next((name for name in strings if SOURCES.get(name, set()) & read), "")


def _line_number(instruction: dis.Instruction) -> int | None:
    start = getattr(instruction, "line_number", instruction.starts_line)  # in Python 3.13 the latter is a flag
    return None if isinstance(start, bool) else start


def _gives_source(value: Any, following: list[dis.Instruction], read: set[Any]) -> bool:
    """Return whether what is read off ``value`` may be one; ``read`` are all attributes that the code reads."""
    for each in following:
        if each.opname not in ATTRIBUTE or not leads_to_source(value):
            break
        value = getattr(value, each.argval, None)
    if isinstance(value, type) and leads_to_source(value):  # made with numbers, unless it is kept in a variable
        return bool(CLASSES & read)
    return is_source(value) or (leads_to_source(value) and value.__name__ != "os")  # a module that is handed on


def _values(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what the variables of the code hold, and the modules that it imports itself."""
    for name in names_in(fn.__code__):
        yield name, fn.__globals__.get(name, sys.modules.get(name))
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # it has no value yet
            continue


def imported(fn: types.FunctionType, name: str) -> types.ModuleType | None:
    """Return the module that an import of this name in the code gives, also one of the package that the code is in."""
    packages = str(fn.__globals__.get("__package__") or "").split(".")
    places = (".".join([*packages[:i], name]) for i in range(len(packages), 0, -1))
    return sys.modules.get(name) or next((sys.modules[place] for place in places if place in sys.modules), None)


def undefined_globals(fn: types.FunctionType) -> set[str]:
    """Return the global variables that the code loads and that nobody has defined yet."""
    missing = {name for name in names_in(fn.__code__) if name not in fn.__globals__ and not hasattr(builtins, name)}
    return missing & _loaded_globals(fn.__code__) if missing else missing


@functools.lru_cache(MOST_CODE)
def names_in(code: types.CodeType) -> tuple[str, ...]:
    """Return the names that the code and the functions inside it use."""
    return tuple(name for each in _code_in(code) for name in each.co_names)


@functools.lru_cache(MOST_CODE)
def strings_in(code: types.CodeType) -> tuple[str, ...]:
    """Return the strings in the code and in the functions inside it: an attribute may be fetched by its name."""
    return tuple(text for each in _code_in(code) for text in each.co_consts if isinstance(text, str))


@functools.lru_cache(MOST_CODE)
def _loaded_globals(code: types.CodeType) -> frozenset[str]:
    """Return the names that are loaded as global variables, where others are attributes."""
    return frozenset(each.argval for each in _instructions(code) if each.opname in GLOBAL)


def _code_in(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_in(constant)


def _instructions(code: types.CodeType) -> Iterator[dis.Instruction]:
    for each in _code_in(code):
        yield from dis.get_instructions(each)
