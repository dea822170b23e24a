"""What the command line can name is what the library has, and completion is there for who asks for it."""

import inspect

from typer.testing import CliRunner

from pyro_aevb import evidence, objectives
from pyro_aevb.cli import app
from pyro_aevb.cli.config import OBJECTIVE_OPTIONS, TrainingConfig
from pyro_aevb.cli.evaluate import METHODS
from pyro_aevb.cli.objectives import OBJECTIVES
from pyro_aevb.cli.uses import EVIDENCE
from pyro_aevb.evidence import Estimator
from pyro_aevb.objectives import Objective

# What an objective's name says, or a field for all of them does.
NAMED = {"num_particles", "kl", "baseline", "vectorize"}


def concrete(room, base):
    found = [getattr(room, name) for name in room.__all__]
    return {each for each in found if inspect.isclass(each) and issubclass(each, base) and not inspect.isabstract(each)}


def test_every_objective_has_a_name():
    options = {"renyi": {"alpha": 0.5}}
    made = {type(make(3, **options.get(name, {}))) for name, (make, _) in OBJECTIVES.items()}
    assert made == concrete(objectives, Objective)


def test_every_option_of_an_objective_is_one_of_the_command_line():
    options = {each for cls in concrete(objectives, Objective) for each in inspect.signature(cls).parameters}
    assert options - NAMED == set(OBJECTIVE_OPTIONS)
    assert {name for names in OBJECTIVE_OPTIONS.values() for name in names} <= set(OBJECTIVES)
    assert set(OBJECTIVE_OPTIONS) <= {field for field in TrainingConfig.__dataclass_fields__}


def test_every_estimator_has_a_name():
    from pyro_aevb.evidence import marginal_likelihood

    assert tuple(METHODS) == tuple(EVIDENCE) == tuple(marginal_likelihood.METHODS)
    assert set(marginal_likelihood.METHODS.values()) == concrete(evidence, Estimator)


def test_completion_is_installed_for_who_asks_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = CliRunner().invoke(app, ["--help"])
    assert "--install-completion" in shown.stdout
    assert not list(tmp_path.iterdir())
