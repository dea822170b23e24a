"""The data of a run: what is held out, what is drawn, in what order."""

import numpy as np
import torch

from pyro_aevb.cli.config import TrainingConfig
from pyro_aevb.cli.data import rows, training_data
from pyro_aevb.datasets import Binarized


def numbered(tmp_path, n=50):
    np.save(tmp_path / "x.npy", np.stack([np.arange(n), np.arange(n) / n], 1).astype(np.float32))
    return str(tmp_path / "x.npy")


def test_a_held_out_part_is_not_trained_on(tmp_path):
    """A fifth at random, the rest to train on; the seed says which."""
    path = numbered(tmp_path)
    parts = [training_data(TrainingConfig(data=path, validation="0.2", seed=seed)) for seed in (0, 0, 1)]
    for data in parts:
        held_out, train = set(data.validation[:, 0].tolist()), set(data.train[:, 0].tolist())
        assert (len(held_out), len(train)) == (10, 40)
        assert held_out | train == set(map(float, range(50)))
        assert data.x_dim == 2
    assert torch.equal(parts[0].validation, parts[1].validation)
    assert not torch.equal(parts[0].validation, parts[2].validation)
    assert sorted(parts[0].validation[:, 0].tolist()) != list(map(float, range(10)))


def test_without_validation_everything_is_trained_on_in_order(tmp_path):
    data = training_data(TrainingConfig(data=numbered(tmp_path)))
    assert data.train[:, 0].tolist() == list(map(float, range(50)))
    assert data.validation is None


def test_pixels_are_drawn_once_or_at_each_visit(tmp_path):
    """Threshold: above a half; static: ones as often as the pixel says, by seed; dynamic: left grey until a visit."""
    grey = np.tile(np.linspace(0, 1, 5, dtype=np.float32), (2000, 1))
    np.save(tmp_path / "g.npy", grey)
    path = str(tmp_path / "g.npy")
    threshold = training_data(TrainingConfig(data=path, pixels="threshold")).train
    assert torch.equal(threshold, torch.tensor([0.0, 0, 0, 1, 1]).expand(2000, 5))
    static = [training_data(TrainingConfig(data=path, pixels="static", seed=seed)).train for seed in (0, 0, 1)]
    assert torch.equal(static[0], static[1])
    assert not torch.equal(static[0], static[2])
    assert set(static[0].unique().tolist()) == {0.0, 1.0}
    # Five standard errors of a proportion.
    assert ((static[0].mean(0) - torch.linspace(0, 1, 5)).abs() <= 5 * 0.5 / 2000**0.5).all()
    dynamic = training_data(TrainingConfig(data=path, pixels="dynamic", validation="0.5"))
    assert isinstance(dynamic.train, Binarized)
    assert torch.equal(dynamic.train.images, torch.from_numpy(grey[:1000]))
    assert set(dynamic.validation.unique().tolist()) == {0.0, 1.0}
    assert set(rows(path, TrainingConfig(data=path, pixels="dynamic")).x.unique().tolist()) == {0.0, 1.0}
