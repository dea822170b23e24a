"""The names read from the source are those of the tables."""

import importlib

import pytest

from pyro_aevb.cli import choices as module
from pyro_aevb.cli.choices import choices

TABLES = [
    ("datasets.pixels", "PIXELS"),
    ("cli.objectives", "OBJECTIVES"),
    ("vae.priors", "PRIORS"),
    ("vae.likelihoods", "LIKELIHOODS"),
    ("vae.posteriors", "POSTERIORS"),
    ("vae.networks", "INITIALIZATIONS"),
    ("capture.precision", "PRECISIONS"),
    ("learners.schedules", "SHAPES"),
    ("evidence.marginal_likelihood", "METHODS"),
]


@pytest.mark.parametrize(("where", "table"), TABLES)
def test_they_are_the_tables_keys_without_an_import(where, table, monkeypatch):
    right = tuple(getattr(importlib.import_module(f"pyro_aevb.{where}"), table))
    monkeypatch.setattr(module, "importlib", None)
    assert choices(where, table) == right


@pytest.mark.parametrize(
    "source", [None, "", "OTHER = ('paper',)", "INITIALIZATIONS = make()", "INITIALIZATIONS = {**other, 'x': 1}"]
)
def test_what_the_source_does_not_say_is_imported(source, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    if source is not None:
        (tmp_path / "vae").mkdir()
        (tmp_path / "vae" / "networks.py").write_text(source)
    assert choices("vae.networks", "INITIALIZATIONS") == ("paper", "modern")
