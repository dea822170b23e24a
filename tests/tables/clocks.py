"""Functions in reach of a clock: those that read it, and those that don't, of every kind of reach.

Each case is ``make() -> fn``, a function of a tensor.
"""

import datetime
import os
import random
import secrets
import time
import timeit
import uuid
from datetime import datetime as of_day
from operator import methodcaller
from time import perf_counter
from timeit import default_timer

import numpy as np
import torch
from torch import nn

READS, DOES_NOT = {}, {}


def reads(make):
    READS[make.__name__.replace("_", " ")] = make
    return make


def does_not(make):
    DOES_NOT[make.__name__.replace("_", " ")] = make
    return make


class Log:
    """A helper with clocks that a model may call or not."""

    label = "a log"

    def __init__(self):
        self.begin = time.time()

    def __call__(self, x):
        return x

    def quiet(self, x):
        return x

    def stamp(self):
        return time.time()

    def report(self):
        return self.stamp()

    @property
    def age(self):
        return time.time() - self.begin

    @staticmethod
    def today():
        return datetime.date.today()


class Timed(Log):
    def __call__(self, x):
        return x * time.time()


class Net(nn.Module):
    def forward(self, x):
        return x + perf_counter()

    def seconds(self):
        return perf_counter()


class Quiet(nn.Module):
    def forward(self, x):
        return x

    def seconds(self):
        return perf_counter()


def helper():
    return time.monotonic()


def calls_helper(x):
    return x + helper()


@reads
def a_module():
    return lambda x: x + time.time()


@reads
def a_function():
    return lambda x: x + perf_counter()


@reads
def a_function_under_another_name():
    return lambda x: x + default_timer()


@reads
def a_timer_of_its_module():
    return lambda x: x + timeit.default_timer()


@reads
def a_helper():
    return calls_helper


@reads
def a_helper_of_a_helper():
    return lambda x: calls_helper(x)


@reads
def a_class_of_datetimes():
    return lambda x: x + of_day.now().year


@reads
def the_module_datetime():
    return lambda x: x + datetime.date.today().year


@reads
def a_class_kept_in_a_variable():
    def fn(x):
        kept = datetime.datetime
        return x + kept.now().year

    return fn


@reads
def an_import_in_the_function():
    def fn(x):
        import time as now

        return x + now.time()

    return fn


@reads
def a_function_imported_in_the_function():
    def fn(x):
        from time import monotonic as now

        return x + now()

    return fn


@reads
def a_module_in_a_closure():
    import time as now

    return lambda x: x + now.time()


@reads
def a_function_in_a_closure():
    now = time.time
    return lambda x: x + now()


@reads
def a_default():
    return lambda x, now=time.time: x + now()


@reads
def a_default_class():
    return lambda x, day=datetime.datetime: x + day.now().year


@reads
def a_module_that_is_handed_on():
    return lambda x: x + getattr(time, "time")()  # noqa: B009


@reads
def an_attribute():
    log = Log()
    log.now = time.time
    return lambda x: x + log.now()


@reads
def a_module_as_an_attribute():
    log = Log()
    log.clock = time
    return lambda x: x + log.clock.time()


@reads
def a_method():
    log = Log()
    return lambda x: x + log.stamp()


@reads
def a_method_of_a_method():
    log = Log()
    return lambda x: x + log.report()


@reads
def a_property():
    log = Log()
    return lambda x: x + log.age


@reads
def a_static_method():
    log = Log()
    return lambda x: x + log.today().year


@reads
def a_method_by_its_name():
    log = Log()
    return lambda x: x + getattr(log, "_stamp".strip("_"))()


@reads
def a_method_by_a_string():
    log = Log()
    call = methodcaller
    return lambda x: x + call("stamp")(log)


@reads
def a_bound_method():
    stamp = Log().stamp
    return lambda x: x + stamp()


@reads
def a_call_of_an_object():
    return Timed()


@reads
def an_object_that_is_called():
    timed = Timed()
    return lambda x: timed(x)


@reads
def a_constructor():
    return lambda x: x + Log().begin


@reads
def a_constructor_of_a_class_that_is_held():
    held = {"log": Log, "made": Log()}
    return lambda x: x + held["log"]().begin


@reads
def a_constructor_by_the_type():
    log = Log()
    return lambda x: x + type(log)().begin


@reads
def forward():
    return Net()


@reads
def a_hook():
    net, log = Quiet(), Log()
    net.register_forward_hook(lambda module, args, output: output + log.stamp())
    return net


@reads
def bytes_of_the_system():
    return lambda x: x + os.urandom(1)[0]


@reads
def secret_numbers():
    return lambda x: x + secrets.randbelow(3)


@reads
def a_generator_of_the_system():
    generator = random.SystemRandom()
    return lambda x: x + generator.random()


@reads
def a_new_generator_of_numpy():
    return lambda x: x + np.random.default_rng().random()


@reads
def a_new_random_state():
    make = np.random.RandomState
    return lambda x: x + make().rand()


@reads
def a_new_bit_generator():
    return lambda x: x + np.random.Generator(np.random.PCG64()).random()


@reads
def a_new_generator_of_python():
    return lambda x: x + random.Random().random()


@reads
def a_new_generator_of_the_system():
    return lambda x: x + random.SystemRandom().random()


@reads
def a_generator_imported_in_the_function():
    def fn(x):
        from numpy.random import default_rng

        return x + default_rng().random()

    return fn


@reads
def a_module_imported_in_the_function():
    def fn(x):
        import numpy.random as numbers

        return x + numbers.default_rng().random()

    return fn


@reads
def an_import_by_a_string():
    return lambda x: x + __import__("time").time()


@reads
def now_in_numpy():
    return lambda x: x + int(np.datetime64("now").astype(int))


@reads
def a_unique_name():
    return lambda x: x + uuid.uuid4().int % 3


@does_not
def a_new_generator_with_a_seed():
    return lambda x: x + np.random.default_rng(3).random() + random.Random(3).random() + np.random.RandomState(3).rand()


@does_not
def a_generator_that_is_only_named():
    return lambda x: x + (1.0 if isinstance(x, random.Random) else 2.0)


@does_not
def an_import_by_a_string_of_something_else():
    return lambda x: x + __import__("math").pi


@does_not
def a_date_in_numpy():
    return lambda x: x + int(np.datetime64("2020-01-01").astype(int))


@does_not
def a_method_that_is_not_called():
    log = Log()
    return lambda x: log.quiet(x)


@does_not
def an_object_with_other_methods():
    return Log()


@does_not
def an_attribute_of_its_class():
    log = Log()
    return lambda x: x + len(log.label)


@does_not
def a_class_attribute():
    return lambda x: x + len(Quiet.__name__)


@does_not
def a_module_with_other_methods():
    return Quiet()


@does_not
def sleeping():
    return lambda x: (time.sleep(0.0), x)[1]


@does_not
def a_given_day():
    return lambda x: x + datetime.datetime(2020, 1, 1).year


@does_not
def a_difference_of_days():
    return lambda x: x + datetime.timedelta(days=1).days


@does_not
def an_attribute_called_time():
    held = Log()
    held.time = 1.0
    return lambda x: x + held.time


@does_not
def a_variable_called_time():
    return lambda x, time=1.0: x + time


@does_not
def paths():
    return lambda x: x + len(os.path.join("a", "b"))


@does_not
def a_day_that_is_held():
    held = {"day": datetime.date(2020, 1, 1)}
    return lambda x: x + held["day"].year


X = torch.zeros(2)
