"""Grids of images, and the files that pictures are written to."""

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from pyro_aevb.diagnostics.figures import COLOURS
from pyro_aevb.plots import PICTURE, compare_histories, image_grid, image_rows, write_figure, write_image
from pyro_aevb.training.history import History, Record

BEGINS = {".png": b"\x89PNG", ".jpg": b"\xff\xd8\xff", ".pdf": b"%PDF", ".svg": b"<?xml"}


def test_a_gap_is_white_and_between_images_alone():
    images = torch.zeros(4, 784)
    grid = image_grid(images, (28, 28), columns=2, gap=3)
    assert grid.shape == (3, 59, 59)
    assert (grid[:, 28:31] == 1).all()
    assert (grid[:, :, 28:31] == 1).all()
    assert grid[:, :28, :28].max() == grid[:, 31:, 31:].max() == 0
    assert torch.equal(image_grid(images, (28, 28), columns=2), torch.zeros(3, 56, 56))


def test_curves_of_several_runs_have_colours_that_all_can_tell_apart():
    history = History([Record(100, 0.5, {"validation": -3.0}), Record(200, 1.0, {"validation": -2.5})])
    lines = compare_histories(dict.fromkeys("abcd", history)).axes[0].lines
    assert [line.get_color() for line in lines] == list(COLOURS[:4])


def test_rows_have_their_names_at_their_middles():
    axes = image_rows({"x": torch.rand(5, 784), "mean": torch.rand(5, 784)}, (28, 28), gap=2)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "mean"]
    assert axes.get_yticks().tolist() == [14.5, 43.5]  # of 58 pixels
    own = Figure().add_subplot()
    assert image_rows({"x": torch.rand(5, 784)}, (28, 28), axes=own) is own
    with pytest.raises(ValueError, match=r"expected rows of one length, got \[2, 3\]; cut them to the shortest"):
        image_rows({"x": torch.rand(2, 784), "y": torch.rand(3, 784)}, (28, 28))


@pytest.mark.parametrize("suffix", PICTURE)
def test_a_picture_is_of_the_kind_that_its_name_ends_in_and_the_same_each_time(suffix, tmp_path):
    image = torch.linspace(0, 1, 3 * 20 * 30).reshape(3, 20, 30)
    for name in ("a", "b"):
        write_image(image, tmp_path / f"{name}{suffix}")
        figure = Figure(figsize=(2, 1))
        figure.add_subplot().plot([0, 1])
        write_figure(figure, tmp_path / f"figure-{name}{suffix}")
    for kind in ("", "figure-"):
        one, other = ((tmp_path / f"{kind}{name}{suffix}").read_bytes() for name in "ab")
        assert one.startswith(BEGINS[suffix])
        assert one == other
    if suffix in (".png", ".jpg"):
        with Image.open(tmp_path / f"a{suffix}") as shown:
            assert shown.size == (30, 20)


@pytest.mark.parametrize("write", [write_image, write_figure])
def test_another_kind_is_refused(write, tmp_path):
    content = torch.zeros(3, 2, 2) if write is write_image else Figure()
    with pytest.raises(ValueError, match=r"expected a picture that ends in .png, .pdf, .svg, .jpg, got .*x\.bmp"):
        write(content, tmp_path / "x.bmp")
    assert not list(tmp_path.iterdir())
