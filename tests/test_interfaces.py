"""Every class is abstract or final, and what one implements oneself is public, documented and exported."""

import inspect

import pytest

import pyro_aevb.evidence
import pyro_aevb.objectives
from pyro_aevb.evidence import Estimator
from pyro_aevb.learners import Learner
from pyro_aevb.objectives import Objective
from pyro_aevb.vae.columns import Columns
from pyro_aevb.vae.likelihoods import LIKELIHOODS, Likelihood
from pyro_aevb.vae.posteriors import POSTERIORS, Posterior
from pyro_aevb.vae.priors import PRIORS, Prior

INTERFACES = {
    Objective: {"bound"},
    Estimator: {"prepare"},
    Learner: {"update", "parameters_of"},
    Prior: {"setup", "forward"},
    Likelihood: {"__call__"},
    Posterior: {"setup", "forward"},
}


def below(interface):
    for cls in interface.__subclasses__():
        if cls.__module__.startswith("pyro_aevb."):
            yield cls
            yield from below(cls)


CLASSES = [cls for interface in INTERFACES for cls in below(interface)]


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda cls: cls.__name__)
def test_what_is_abstract_is_public_and_documented(interface):
    assert interface.__abstractmethods__ == INTERFACES[interface]
    for name in INTERFACES[interface]:
        assert "Args:" in inspect.getdoc(getattr(interface, name)), name
    assert len(list(below(interface))) >= 4


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_is_abstract_or_final(cls):
    assert inspect.isabstract(cls) or not list(below(cls))
    ancestors = [parent for parent in cls.__mro__[1:] if parent.__module__.startswith("pyro_aevb.")]
    for name, member in vars(cls).items():
        if inspect.isfunction(member) and name != "__init__" and not getattr(member, "__isabstractmethod__", False):
            for parent in ancestors:
                overridden = vars(parent).get(name)
                assert overridden is None or getattr(overridden, "__isabstractmethod__", False), (parent, name)


def test_names_stand_for_parts_of_these_kinds():
    for table, kind in ((PRIORS, Prior), (LIKELIHOODS, Likelihood), (POSTERIORS, Posterior)):
        for name, make in table.items():
            assert isinstance(make(), kind), name
    assert issubclass(Columns, Likelihood)


def test_the_kin_of_an_interface_is_exported():
    assert {"Objective", "Particles", "Terms"} <= set(pyro_aevb.objectives.__all__)
    assert {"Estimator", "Problem", "Evaluate", "Evidence", "Tick"} <= set(pyro_aevb.evidence.__all__)
