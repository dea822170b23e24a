"""A value of a configuration, as text or as TOML has it, becomes its field's type or is refused."""

import pytest

from pyro_aevb.cli.config import TrainingConfig


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("samples", "1e6", 1_000_000),
        ("samples", 1e6, 1_000_000),
        ("latent_dim", "3", 3),
        ("latent_dim", "20,10", (20, 10)),
        ("latent_dim", [20, 10], (20, 10)),
        ("hidden_dims", "28,7", (28, 7)),
        ("hidden_dims", 5, (5,)),
        ("learning_rate", "1e-3", 1e-3),
        ("clip_norm", 2, 2.0),
        ("keep_best", False, False),
        ("data", "digits", "digits"),
        ("columns", ["a=b=count", "b=ordered:<=5,>=6"], {"a=b": "count", "b": "ordered:<=5,>=6"}),
    ],
)
def test_a_value_has_its_fields_type(name, given, value):
    found = getattr(TrainingConfig().but({name: given}), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("latent_dim", "2.5", "a whole number"),
        ("latent_dim", 2.5, "a whole number"),
        ("latent_dim", True, "a whole number"),
        ("hidden_dims", "8,2.5", "whole numbers"),
        ("learning_rate", True, "a number"),
        ("keep_best", "yes", "true or false"),
        ("data", [1], "text"),
    ],
)
def test_a_value_of_another_type_is_refused(name, given, kind):
    with pytest.raises(ValueError, match=f"expected {name} as {kind}"):
        TrainingConfig().but({name: given})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 0.5}, "expected no alpha for objective blend, got 0.5; it is for renyi, leave it out"),
        (
            {"objective": "iwae", "beta": 2.0},
            "expected no beta for objective iwae, got 2.0; it is for blend, sgvb-a, sgvb-b and stl",
        ),
        ({"learner": "mcem", "free_bits": 2.0}, "expected no free_bits for learner mcem"),
        ({"objective": "renyi"}, "expected alpha for objective renyi, got none"),
        ({"model": "m.py:pair", "prior": "laplace"}, "expected no prior beside model, got laplace; m.py:pair says how"),
        ({"model": "m.py:pair", "full_vb": True}, "expected no full_vb beside model"),
    ],
)
def test_options_that_do_not_go_together(values, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        TrainingConfig(**values)


def test_samples_and_epochs_take_each_others_place():
    assert TrainingConfig(samples=100).but({"epochs": "2"}) == TrainingConfig(epochs=2)
    assert TrainingConfig(epochs=2).but({"samples": "100"}) == TrainingConfig(samples=100)
