"""The data of a run: what is held out, what is drawn, in what order."""

import numpy as np
import pytest
import torch
from cli_calls import succeed
from PIL import Image

from pyro_aevb.cli.config import TrainingConfig
from pyro_aevb.cli.data import rows, training_data
from pyro_aevb.cli.parts import part_of_file, write_splits
from pyro_aevb.cli.trained_run import TrainedRun
from pyro_aevb.cli.units import read_divisor
from pyro_aevb.datasets import Binarized, read_array


def numbered(tmp_path, n=50):
    np.save(tmp_path / "x.npy", np.stack([np.arange(n), np.arange(n) / n], 1).astype(np.float32))
    return str(tmp_path / "x.npy")


def test_a_held_out_part_is_not_trained_on(tmp_path):
    """A fifth at random, the rest to train on; the seed says which."""
    path = numbered(tmp_path)
    parts = [
        training_data(TrainingConfig(data=path, likelihood="gaussian", validation="0.2", seed=seed))
        for seed in (0, 0, 1)
    ]
    for data in parts:
        held_out, train = set(data.validation[:, 0].tolist()), set(data.train[:, 0].tolist())
        assert (len(held_out), len(train)) == (10, 40)
        assert held_out | train == set(map(float, range(50)))
        assert data.x_dim == 2
    assert torch.equal(parts[0].validation, parts[1].validation)
    assert not torch.equal(parts[0].validation, parts[2].validation)
    assert sorted(parts[0].validation[:, 0].tolist()) != list(map(float, range(10)))


def test_without_validation_everything_is_trained_on_in_order(tmp_path):
    data = training_data(TrainingConfig(data=numbered(tmp_path), likelihood="gaussian"))
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


@pytest.mark.parametrize("pixels", ["static", "dynamic", "threshold", "grey"])
@pytest.mark.parametrize("kind", ["array", "images"])
def test_pixels_of_eight_bits_are_between_zero_and_one(pixels, kind, tmp_path):
    levels = np.tile(np.array([[0, 51], [204, 255]], dtype=np.uint8), (400, 1, 1))
    if kind == "array":
        path = str(tmp_path / "x.npy")
        np.save(path, levels)
    else:
        path = str(tmp_path)
        for i, image in enumerate(levels[:100]):
            Image.fromarray(image).save(tmp_path / f"{i}.png")
    train = training_data(TrainingConfig(data=path, pixels=pixels)).train
    expected = torch.tensor([0.0, 0.2, 0.8, 1.0])
    if pixels == "threshold":
        assert torch.equal(train, expected.round().expand_as(train))
    elif pixels == "static":
        assert (train.mean(0) - expected).abs().max() < 5 * 0.4 / len(train) ** 0.5
        assert set(train.unique().tolist()) == {0.0, 1.0}
    else:
        assert torch.allclose(train.images if pixels == "dynamic" else train, expected.expand(len(train), 4))


def test_ones_and_zeros_of_eight_bits_stay(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0, 1], [1, 1]], dtype=np.uint8))
    train = training_data(TrainingConfig(data=str(tmp_path / "x.npy"), pixels="static")).train
    assert train.tolist() == [[0.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("pixels", ["static", "dynamic", "threshold"])
def test_numbers_that_are_no_pixels_are_refused(pixels, tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0.0, 7.5]]))
    with pytest.raises(ValueError, match=f"between 0 and 1 to make {pixels} ones of, got values from 0 to"):
        training_data(TrainingConfig(data=str(tmp_path / "x.npy"), pixels=pixels))


@pytest.mark.parametrize(
    ("likelihood", "largest"),
    [("discretized-logistic", 255.0), ("categorical", 255.0), ("poisson", 255.0), ("continuous-bernoulli", 1.0)],
)
def test_images_have_levels_for_likelihoods_of_levels(likelihood, largest, tmp_path):
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    data = training_data(TrainingConfig(data=str(tmp_path), likelihood=likelihood))
    assert data.train.tolist() == [[0.0, largest]]
    assert data.image_shape == (1, 2)
    assert data.said == f"read {tmp_path}: 1 images of 2x1, grey"


def test_every_likelihood_of_whole_numbers_is_known():
    """Those whose distributions have whole numbers above 1 as their support."""
    from pyro_aevb.vae.likelihoods import LIKELIHOODS, count_outputs

    found = []
    for name, make in LIKELIHOODS.items():
        support = make()(torch.zeros(1, count_outputs(make(), 1))).support
        if support.is_discrete:
            found.append(name)
    assert set(found) - {"bernoulli"} == {name for name, make in LIKELIHOODS.items() if make().values != "any"}


def test_a_run_remembers_which_rows_it_held_out(tmp_path):
    path = numbered(tmp_path)
    config = TrainingConfig(data=path, likelihood="gaussian", validation="0.2")
    data, there = training_data(config), np.load(path)
    more = there[[*range(50), 0]]
    write_splits(data.splits, tmp_path)
    for part in ("train", "validation"):
        some, words = part_of_file(path, part, config, tmp_path, [there])
        assert some.tolist() == sorted(getattr(data, part)[:, 0].tolist())
        assert words == f"; of these the {len(some)} that were {'trained on' if part == 'train' else 'held out'}"
    assert part_of_file(path, None, config, tmp_path, [there])[0].tolist() == sorted(data.validation[:, 0].tolist())
    with pytest.raises(ValueError, match="expected --part train, validation or all for the file of the run"):
        part_of_file(path, "test", config, tmp_path, [there])
    with pytest.raises(ValueError, match=r"expected the 50 rows of .* that the run split, got 51; pass"):
        part_of_file(path, None, config, tmp_path, [more])
    assert part_of_file(path, "all", config, tmp_path, [more]) == (slice(None), "; some of them were trained on")
    other = str(tmp_path / "other.npy")
    assert part_of_file(other, None, config, tmp_path, [more]) == (slice(None), "")
    with pytest.raises(ValueError, match=r"expected --part for a named data set, .*; leave it out for all rows"):
        part_of_file(other, "validation", config, tmp_path, [more])
    whole = TrainingConfig(data=path, likelihood="gaussian")
    assert training_data(whole).splits is None
    assert part_of_file(path, None, whole, tmp_path / "none", [there]) == (slice(None), "; all of them were trained on")


def test_rows_that_moved_or_changed_are_not_those_that_were_held_out(tmp_path):
    path = numbered(tmp_path)
    config = TrainingConfig(data=path, likelihood="gaussian", validation="0.2")
    write_splits(training_data(config).splits, tmp_path)
    there = np.load(path)
    changed = there.copy()
    changed[7, 1] += 1e-6
    for rows_now in (there[::-1], changed):
        for part in (None, "validation", "train"):
            with pytest.raises(
                ValueError, match="in their order, got as many others; put the file back, or pass --part"
            ):
                part_of_file(path, part, config, tmp_path, [rows_now])
        assert part_of_file(path, "all", config, tmp_path, [rows_now])[0] == slice(None)
    splits = {name: rows for name, rows in training_data(config).splits.items() if name != "digest"}
    write_splits(splits, tmp_path)  # as an earlier version did
    assert len(part_of_file(path, None, config, tmp_path, [there[::-1]])[0]) == 10


def test_a_later_file_of_bytes_has_the_units_of_the_run(tmp_path):
    """A dark image has no level above 1; in a run of ones and zeros they are what they seem."""
    levels = np.random.default_rng(0).integers(0, 256, (40, 16)).astype(np.uint8)
    np.save(tmp_path / "pixels.npy", levels)
    np.save(tmp_path / "dark.npy", (levels > 127).astype(np.uint8))
    for name, divisor in (("pixels", 255.0), ("dark", 1.0)):
        run = tmp_path / name
        args = ["--hidden-dims", "4", "--latent-dim", "2", "--batch-size", "6", "--epochs", "1", "--quiet"]
        succeed("train", tmp_path / f"{name}.npy", "--out", run, *args)
        assert read_divisor(run) == divisor
        found = TrainedRun(run, "cpu").rows(str(tmp_path / "dark.npy"), None, None, {}).x
        assert torch.allclose(found, torch.from_numpy(levels > 127).float() / divisor)
    (tmp_path / "pixels" / "units.json").unlink()  # as an earlier version left it
    assert TrainedRun(tmp_path / "pixels", "cpu").rows(str(tmp_path / "dark.npy"), None, None, {}).x.max() == 1
    (tmp_path / "pixels" / "units.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected a divisor of 1 or 255 in .*; train anew"):
        TrainedRun(tmp_path / "pixels", "cpu").rows(str(tmp_path / "dark.npy"), None, None, {})


def test_a_model_of_colours_takes_grey_images(tmp_path):
    rng = np.random.default_rng(0)
    for folder, grey in (("colours", False), ("grey", True)):
        (tmp_path / folder).mkdir()
        for n in range(6):
            image = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
            Image.fromarray(image[..., [0, 0, 0]] if grey else image).save(tmp_path / folder / f"{n}.png")
    args = ["--hidden-dims", "4", "--latent-dim", "2", "--batch-size", "6", "--epochs", "1", "--quiet"]
    data = tmp_path / "colours"
    succeed("train", data, "--validation", tmp_path / "grey", "--out", tmp_path / "run", *args)
    found = TrainedRun(tmp_path / "run", "cpu").rows(str(tmp_path / "grey"), None, None, {})
    assert found.image_shape == (3, 4, 5)
    assert torch.equal(found.x.reshape(6, 3, 20)[:, 0], found.x.reshape(6, 3, 20)[:, 2])
    assert torch.allclose(found.x.reshape(6, 3, 4, 5)[:, 1], torch.from_numpy(read_array(tmp_path / "grey")))
