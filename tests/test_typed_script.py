"""The typed script does what it says; its types are mypy's to check, with those of the package."""

import torch
from scripts import load_script

script = load_script("tests/typed_script.py")


def test_it_trains_a_model_of_its_own():
    assert script.train_own_model(torch.randn(20)) < 0


def test_it_trains_a_vae(tmp_path):
    assert script.train_a_vae(tmp_path / "vae").shape == (3, 64)
