"""Models with a state in Python of every kind: read, written, drawn from, replaced midway.

Each case is ``make() -> (model, guide, before)``; ``before(i)`` is called before step i.  None is a pure function of
its arguments and parameters, so a graph of it is wrong somewhere within 24 steps.
"""

import argparse
import array
import collections
import contextvars
import ctypes
import dataclasses
import datetime
import decimal
import enum
import functools
import importlib
import itertools
import multiprocessing
import os
import random
import sys
import time
import types
import typing

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import nn

N = 40
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0)).double()
SWITCH, STEPS = 11, 24  # a value is replaced before a step that isn't compared; one in 16 and 17 is noticed
FACTOR = 1.0
own_settings = types.ModuleType("own_settings")
own_settings.__file__ = "own_settings.py"
own_settings.beta = 1.0
packages = types.ModuleType("packages")
packages.__path__, packages.settings = ["packages"], types.ModuleType("packages.settings")


def pair(scale, draw=None):
    """Return a model whose likelihood counts ``scale()`` times, and a guide."""

    def model(x):
        w = pyro.param("w", torch.ones(3).double())
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            with poutine.scale(scale=scale()):
                pyro.sample("x", dist.Normal(z[..., None] * w, 1.0).to_event(1), obs=x if draw is None else draw(x))

    def guide(x):
        loc = pyro.param("loc", torch.zeros(3).double())
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x @ loc, 1.0))

    return model, guide


def nothing(i):
    pass


class Holder:
    beta = 1.0
    table: typing.ClassVar = {"beta": 1.0}

    def __init__(self):
        self.value = self._private = 1.0
        self.items, self.names = [1.0, 2.0], {"a": 1.0}

    @property
    def computed(self):
        return 2 * self._private

    @classmethod
    def of_class(cls):
        return cls.beta

    @staticmethod
    def fixed():
        return Holder.beta


class Slotted:
    __slots__ = ("beta", "other")

    def __init__(self):
        self.beta, self.other = 1.0, [1.0]


@dataclasses.dataclass
class Settings:
    beta: float = 1.0


@dataclasses.dataclass(slots=True)
class SlottedSettings:
    beta: float = 1.0


class Level(enum.Enum):
    LOW = 1.0
    HIGH = 3.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self._step, self.public = 0, 1.0
        self.register_buffer("rate", torch.tensor(1.0).double())
        self.plain = torch.tensor(1.0).double()
        self.list_of = [torch.tensor(1.0).double()]


READ = {}


def read(change):
    """Register a case in which a value is replaced midway: ``fn() -> (scale, change)``."""

    @functools.wraps(change)
    def make():
        scale, replace = change()
        return (*pair(scale), lambda i: replace() if i == SWITCH else None)

    READ[change.__name__] = make
    return change


def holder_case(name, scale, replace):
    def change():
        holder = Holder()
        return lambda: scale(holder), lambda: replace(holder)

    change.__name__ = name
    read(change)


holder_case("attribute", lambda h: h.value, lambda h: setattr(h, "value", 3.0))
holder_case("private attribute", lambda h: h._private, lambda h: setattr(h, "_private", 3.0))
holder_case("property", lambda h: h.computed, lambda h: setattr(h, "_private", 3.0))
holder_case("element of a list", lambda h: h.items[0], lambda h: h.items.__setitem__(0, 3.0))
holder_case("length of a list", lambda h: float(len(h.items)), lambda h: h.items.append(1.0))
holder_case("entry of a dict", lambda h: h.names["a"], lambda h: h.names.update(a=3.0))
holder_case("a new attribute", lambda h: getattr(h, "late", 1.0), lambda h: setattr(h, "late", 3.0))
holder_case("instance over class", lambda h: h.beta, lambda h: setattr(h, "beta", 3.0))


def class_case(name, scale):
    def change():
        Holder.beta = 1.0
        holder = Holder()
        return lambda: scale(holder), lambda: setattr(Holder, "beta", 3.0)

    change.__name__ = name
    read(change)


class_case("class attribute", lambda h: h.beta)
class_case("class attribute by the class", lambda h: Holder.beta)
class_case("class attribute in a classmethod", lambda h: h.of_class())
class_case("class attribute in a staticmethod", lambda h: h.fixed())


@read
def entry_of_a_class_dict():
    Holder.table["beta"] = 1.0
    return lambda: Holder.table["beta"], lambda: Holder.table.update(beta=3.0)


@read
def slots():
    held = Slotted()
    return lambda: held.beta, lambda: setattr(held, "beta", 3.0)


@read
def list_in_a_slot():
    held = Slotted()
    return lambda: held.other[0], lambda: held.other.__setitem__(0, 3.0)


@read
def dataclass():
    held = Settings()
    return lambda: held.beta, lambda: setattr(held, "beta", 3.0)


@read
def slotted_dataclass():
    held = SlottedSettings()
    return lambda: held.beta, lambda: setattr(held, "beta", 3.0)


@read
def enumeration():
    held = [Level.LOW]
    return lambda: held[0].value, lambda: held.__setitem__(0, Level.HIGH)


@read
def named_tuple():
    Point = collections.namedtuple("Point", "beta")
    held = Holder()
    held.value = Point(1.0)
    return lambda: held.value.beta, lambda: setattr(held, "value", Point(3.0))


@read
def nested_tuple_of_a_list():
    held = ([1.0],)
    return lambda: held[0][0], lambda: held[0].__setitem__(0, 3.0)


@read
def a_set():
    held = {"low"}
    return lambda: 3.0 if "high" in held else 1.0, lambda: held.add("high")


@read
def a_deque():
    held = collections.deque([1.0], maxlen=3)
    return lambda: held[-1], lambda: held.append(3.0)


@read
def a_counter():
    held = collections.Counter(a=1)
    return lambda: float(held["a"]), lambda: held.update(a=2)


@read
def a_default_dict():
    held = collections.defaultdict(float, a=1.0)
    return lambda: held["a"], lambda: held.update(a=3.0)


@read
def numpy_array_in_place():
    held = np.ones(3)
    return lambda: float(held[1]), lambda: held.__setitem__(1, 3.0)


@read
def numpy_array_as_an_attribute():
    held = Holder()
    held.value = np.ones(2)
    return lambda: float(held.value[0]), lambda: held.value.fill(3.0)


@read
def numpy_scalar():
    held = {"a": np.float64(1.0)}
    return lambda: float(held["a"]), lambda: held.update(a=np.float64(3.0))


@read
def module_global():
    globals()["FACTOR"] = 1.0
    return lambda: FACTOR, lambda: globals().update(FACTOR=3.0)


@read
def attribute_of_ones_own_module():
    own_settings.beta = 1.0
    return lambda: own_settings.beta, lambda: setattr(own_settings, "beta", 3.0)


@read
def environment():
    os.environ.pop("PYRO_AEVB_BETA", None)
    return lambda: float(os.environ.get("PYRO_AEVB_BETA", 1)), lambda: os.environ.update(PYRO_AEVB_BETA="3")


@read
def environment_by_getenv():
    os.environ.pop("PYRO_AEVB_BETA", None)
    return lambda: float(os.getenv("PYRO_AEVB_BETA", "1")), lambda: os.environ.update(PYRO_AEVB_BETA="3")


@read
def default_argument():
    held = [1.0]

    def scale(values=held):
        return values[0]

    return scale, lambda: held.__setitem__(0, 3.0)


@read
def keyword_of_a_partial():
    held = [1.0]
    return functools.partial(lambda values: values[0], values=held), lambda: held.__setitem__(0, 3.0)


@read
def closure_cell():
    value = 1.0

    def scale():
        return value

    def replace():
        nonlocal value
        value = 3.0

    return scale, replace


@read
def function_in_a_table():
    table = {"f": lambda: 1.0}
    return lambda: table["f"](), lambda: table.update(f=lambda: 3.0)


@read
def attribute_of_a_function():
    def scale():
        return scale.beta

    scale.beta = 1.0
    return scale, lambda: setattr(scale, "beta", 3.0)


@read
def float_of_a_buffer():
    net = Net()
    return lambda: float(net.rate), lambda: net.rate.fill_(3.0)


@read
def float_of_a_view_of_a_buffer():
    net = Net()
    net.register_buffer("rates", torch.ones(3).double())
    return lambda: float(net.rates[1:][0]), lambda: net.rates.fill_(3.0)


@read
def branch_on_a_buffer():
    net = Net()
    return lambda: 1.0 if net.rate < 2 else 3.0, lambda: net.rate.fill_(3.0)


@read
def buffer_in_place():
    net = Net()
    return lambda: net.rate, lambda: net.rate.fill_(3.0)


@read
def buffer_replaced():
    net = Net()
    return lambda: net.rate, lambda: setattr(net, "rate", torch.tensor(3.0).double())


@read
def tensor_attribute_replaced():
    net = Net()
    return lambda: net.plain, lambda: setattr(net, "plain", torch.tensor(3.0).double())


@read
def tensor_in_a_list_replaced():
    net = Net()
    return lambda: net.list_of[0], lambda: net.list_of.__setitem__(0, torch.tensor(3.0).double())


@read
def training_mode():
    net = Net()
    return lambda: 1.0 if net.training else 3.0, lambda: net.eval()


@read
def private_attribute_of_a_module():
    net = Net()
    return lambda: 1.0 + net._step, lambda: setattr(net, "_step", 2)


@read
def method_replaced():
    held = Holder()
    held.scale = lambda: 1.0
    return lambda: held.scale(), lambda: setattr(held, "scale", lambda: 3.0)


@read
def context_variable():
    beta = contextvars.ContextVar("beta", default=1.0)
    return lambda: beta.get(), lambda: beta.set(3.0)


@read
def a_container_in_c():
    held = array.array("d", [1.0])
    return lambda: held[0], lambda: held.__setitem__(0, 3.0)


@read
def method_of_a_container_in_c():
    held = array.array("d", [1.0])
    get = held.__getitem__
    return lambda: get(0), lambda: held.__setitem__(0, 3.0)


@read
def a_method_of_a_list():
    held = [1.0]
    get = held.__getitem__
    return lambda: get(0), lambda: held.__setitem__(0, 3.0)


@read
def a_number_of_ctypes():
    held = ctypes.c_double(1.0)
    return lambda: held.value, lambda: setattr(held, "value", 3.0)


@read
def a_memory_view():
    held = memoryview(bytearray(8)).cast("d")
    held[0] = 1.0
    return lambda: held[0], lambda: held.__setitem__(0, 3.0)


@read
def a_shared_number():
    held = multiprocessing.Value("d", 1.0)
    return lambda: held.value, lambda: setattr(held, "value", 3.0)


@read
def a_context_of_decimals():
    """It is made in C, and can't be watched."""
    held = decimal.Context(prec=1)
    return lambda: float(held.create_decimal("2.7")), lambda: setattr(held, "prec", 2)


@read
def a_masked_array():
    held = np.ma.masked_array([1.0, 2.0], mask=[0, 0])
    return lambda: float(held.sum()) / 3, lambda: held.mask.__setitem__(1, True)


@read
def a_matrix():
    held = np.ones((1, 1)).view(np.matrix)
    return lambda: float(held[0, 0]), lambda: held.__setitem__((0, 0), 3.0)


@read
def a_record_array():
    held = np.ones(1, dtype=[("beta", float)]).view(np.recarray)
    return lambda: float(held.beta[0]), lambda: held.beta.__setitem__(0, 3.0)


@read
def an_array_of_objects():
    held = np.array([[1.0], None], dtype=object)
    return lambda: held[0][0], lambda: held[0].__setitem__(0, 3.0)


@read
def an_array_of_numbers_as_objects():
    held = np.array([1.0, None], dtype=object)
    return lambda: held[0], lambda: held.__setitem__(0, 3.0)


@read
def a_settings_object_of_a_package():
    held = argparse.Namespace(beta=[1.0], steps={"a": argparse.Namespace(n=2.0)})
    return lambda: held.beta[0] * held.steps["a"].n, lambda: setattr(held.steps["a"], "n", 3.0)


@read
def a_large_object_of_a_package():
    """It is more than is watched."""
    held = argparse.Namespace(parts=[argparse.Namespace(beta=1.0) for _ in range(300)])
    return lambda: held.parts[250].beta, lambda: setattr(held.parts[250], "beta", 3.0)


@read
def a_module_by_a_computed_name():
    globals()["FACTOR"] = 1.0
    name = list(__name__)
    return lambda: getattr(sys.modules["".join(name)], "FAC" + "TOR"), lambda: globals().update(FACTOR=3.0)


@read
def ones_own_module_by_its_name():
    globals()["FACTOR"] = 1.0
    return lambda: getattr(sys.modules[__name__], "FAC" + "TOR"), lambda: globals().update(FACTOR=3.0)


@read
def numbers_off_a_tensor():
    held = torch.ones(1).double()
    return lambda: held.new([held[0]])[0], lambda: held.fill_(3.0)


@read
def module_of_a_package():
    packages.settings.beta = 1.0
    return lambda: packages.settings.beta, lambda: setattr(packages.settings, "beta", 3.0)


@read
def module_in_an_attribute():
    own_settings.beta, held = 1.0, Holder()
    held.value = own_settings
    return lambda: held.value.beta, lambda: setattr(own_settings, "beta", 3.0)


@read
def module_in_a_closure():
    own_settings.beta, settings = 1.0, own_settings
    return lambda: settings.beta, lambda: setattr(settings, "beta", 3.0)


@read
def module_by_its_name():
    sys.modules["own_settings"], own_settings.beta = own_settings, 1.0
    return lambda: importlib.import_module("own_settings").beta, lambda: setattr(own_settings, "beta", 3.0)


@read
def attribute_that_a_module_gets():
    vars(own_settings).pop("late", None)
    return lambda: getattr(own_settings, "late", 1.0), lambda: setattr(own_settings, "late", 3.0)


@read
def global_that_is_defined_later():
    globals().pop("LATER", None)

    def scale():
        try:
            return LATER
        except NameError:
            return 1.0

    return scale, lambda: globals().update(LATER=3.0)


@read
def global_by_its_name():
    globals()["FACTOR"] = 1.0
    return lambda: globals()["FACTOR"], lambda: globals().update(FACTOR=3.0)


@read
def class_in_a_global():
    globals()["Kind"] = type("Kind", (), {"beta": 1.0, "__module__": __name__})
    other = type("Kind", (), {"beta": 3.0, "__module__": __name__})
    return lambda: Kind.beta, lambda: globals().update(Kind=other)  # noqa: F821


@read
def attribute_over_that_of_a_base():
    class Derived(Holder):
        pass

    Holder.beta, held = 1.0, Derived()
    return lambda: held.beta, lambda: setattr(Derived, "beta", 3.0)


@read
def method_replaced_on_its_class():
    class Derived(Holder):
        def scale(self):
            return 1.0

    held = Derived()
    return lambda: held.scale(), lambda: setattr(Derived, "scale", lambda self: 3.0)


@read
def attribute_of_a_metaclass():
    class Meta(type):
        beta = 1.0

    class Made(metaclass=Meta):
        pass

    return lambda: Made.beta, lambda: setattr(Meta, "beta", 3.0)


@read
def class_of_an_object():
    class Other(Holder):
        beta = 3.0

    Holder.beta, held = 1.0, Holder()
    return lambda: held.beta, lambda: setattr(held, "__class__", Other)


@read
def defaults_replaced():
    def scale(beta=1.0):
        return beta

    return lambda: scale(), lambda: setattr(scale, "__defaults__", (3.0,))


@read
def keyword_defaults_replaced():
    def scale(*, beta=1.0):
        return beta

    return lambda: scale(), lambda: setattr(scale, "__kwdefaults__", {"beta": 3.0})


@read
def code_replaced():
    def scale():
        return 1.0

    return lambda: scale(), lambda: setattr(scale, "__code__", (lambda: 3.0).__code__)


@read
def keywords_of_a_partial_replaced():
    scale = functools.partial(lambda beta: beta, beta=1.0)
    return scale, lambda: scale.keywords.update(beta=3.0)


@read
def view_of_a_dict():
    table = {"beta": 1.0}
    view = types.MappingProxyType(table)
    return lambda: view["beta"], lambda: table.update(beta=3.0)


@read
def values_of_a_dict():
    table = {"beta": 1.0}
    values = table.values()
    return lambda: max(values), lambda: table.update(beta=3.0)


@read
def attribute_of_a_dict():
    class Table(dict):
        beta = 1.0

    table = Table(a=1)
    return lambda: table.beta, lambda: setattr(table, "beta", 3.0)


@read
def a_cache_that_is_cleared():
    table = {"beta": 1.0}

    @functools.lru_cache
    def scale():
        return table["beta"]

    def replace():
        table["beta"] = 3.0
        scale.cache_clear()

    return lambda: scale(), replace


@read
def prior_of_a_weight():
    module = PyroModule()
    module.weight = PyroSample(dist.Normal(0.0, 1.0))
    return lambda: module._pyro_samples["weight"].scale, lambda: setattr(
        module, "weight", PyroSample(dist.Normal(0.0, 3.0))
    )


@read
def global_of_a_function_inside():
    """The code that names it is a constant of the code that is called."""
    globals()["FACTOR"] = 1.0
    return lambda: (lambda: FACTOR)(), lambda: globals().update(FACTOR=3.0)


WRITTEN = {}


def written(scale):
    """Register a case whose every run writes, or draws from elsewhere: ``fn() -> scale``."""
    WRITTEN[scale.__name__] = lambda: (*pair(scale()), nothing)
    return scale


@written
def counter_in_an_attribute():
    held = Holder()

    def scale():
        held.value += 1
        return 1.0 if held.value < SWITCH else 3.0

    return scale


@written
def counter_in_a_private_attribute_of_a_module():
    net = Net()

    def scale():
        net._step += 1
        return 1.0 if net._step < SWITCH else 3.0

    return scale


@written
def counter_in_a_module_of_a_package():
    packages.settings.beta = 0

    def scale():
        packages.settings.beta += 1
        return 1.0 if packages.settings.beta < SWITCH else 3.0

    return scale


@written
def counter_in_a_class():
    class Counting:
        count = 0

    def scale():
        Counting.count += 1
        return 1.0 if Counting.count < SWITCH else 3.0

    return scale


@written
def counter_in_a_closure():
    count = 0

    def scale():
        nonlocal count
        count += 1
        return 1.0 if count < SWITCH else 3.0

    return scale


@written
def counter_in_a_global():
    globals()["FACTOR"] = 0

    def scale():
        global FACTOR
        FACTOR += 1
        return 1.0 if FACTOR < SWITCH else 3.0

    return scale


@written
def counter_in_a_list():
    held = []

    def scale():
        held.append(1)
        return 1.0 if len(held) < SWITCH else 3.0

    return scale


@written
def counter_in_a_slot():
    held = Slotted()

    def scale():
        held.beta += 1
        return 1.0 if held.beta < SWITCH else 3.0

    return scale


@written
def counter_in_a_set():
    held = set()

    def scale():
        held.add(len(held))
        return 1.0 if len(held) < SWITCH else 3.0

    return scale


@written
def counter_in_a_numpy_array():
    held = np.zeros(1)

    def scale():
        held[0] += 1
        return 1.0 if held[0] < SWITCH else 3.0

    return scale


@written
def counter_in_ones_own_module():
    own_settings.beta = 0

    def scale():
        own_settings.beta += 1
        return 1.0 if own_settings.beta < SWITCH else 3.0

    return scale


@written
def counter_in_a_plain_tensor():
    net = Net()

    def scale():
        net.plain += 0.1
        return net.plain.clone()

    return scale


@written
def counter_in_a_tensor_of_a_list():
    net = Net()

    def scale():
        net.list_of[0].add_(0.1)
        return net.list_of[0] * 1.0

    return scale


@written
def counter_in_a_buffer():
    net = Net()

    def scale():
        net.rate.mul_(1.01)
        return net.rate.clone()

    return scale


@written
def a_growing_cache():
    cache = {}

    def scale():
        cache[len(cache)] = 1.0
        return 1 + len(cache) / 1000

    return scale


@written
def pythons_random():
    random.seed(0)
    return lambda: 1.0 + random.random()


@written
def pythons_random_rarely():
    random.seed(0)
    return lambda: 3.0 if random.random() < 0.02 else 1.0


@written
def numpys_random():
    np.random.seed(0)  # noqa: NPY002
    return lambda: 3.0 if np.random.rand() < 0.05 else 1.0  # noqa: NPY002


@written
def a_numpy_generator():
    generator = np.random.default_rng(0)
    return lambda: 3.0 if generator.random() < 0.05 else 1.0


@written
def a_generator_of_pythons():
    generator = random.Random(0)
    return lambda: 3.0 if generator.random() < 0.05 else 1.0


@written
def the_first_of_two_generators():
    generator, other = random.Random(0), random.Random(1)
    return lambda: 3.0 if generator.random() < 0.05 else 1.0 + 0 * len(type(other).__name__)


@written
def a_torch_generator():
    generator = torch.Generator().manual_seed(0)
    return lambda: 1.0 + torch.rand((), generator=generator).double()


@written
def the_clock():
    start = time.perf_counter()
    return lambda: 1.0 + 0 * (time.perf_counter() - start)


@written
def the_date():
    return lambda: 1.0 if datetime.datetime.now().year > 1 else 3.0


@written
def an_iterator():
    numbers = itertools.count()
    return lambda: 1.0 + next(numbers) / 10


@written
def a_generator_function():
    held = Holder()
    held.value = (1.0 + i / 10 for i in itertools.count())
    return lambda: next(held.value)
