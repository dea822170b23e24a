"""The benchmark of published bounds: its networks, its clock, its estimate for all images, and what it keeps."""

import json
import math

import pytest
import torch
from scripts import load_script

SCRIPT = load_script("benchmarks/published_bounds.py")


def test_gated_layers():
    """Tomczak & Welling 2018: h = (A x + a) * sigmoid(B x + b)."""
    network = SCRIPT.gated([3, 4, 2])
    first, _, last = network
    x = torch.randn(5, 3)
    linear, gate = x @ first.weight.T[:, :4] + first.bias[:4], x @ first.weight.T[:, 4:] + first.bias[4:]
    expected = (linear / (1 + (-gate).exp())) @ last.weight.T + last.bias
    torch.testing.assert_close(network(x), expected)


def test_the_clock_ends_a_run_and_its_learning_rate(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(SCRIPT.time, "monotonic", lambda: now[0])
    clock, by_samples = SCRIPT.Clock(50.0), SCRIPT.Clock(math.inf)
    assert [clock(quarter / 4) for quarter in range(4)] == [SCRIPT.SCHEDULE(quarter / 4) for quarter in range(4)]
    assert clock.start == math.inf
    now[0] = 200.0  # what the first step compiles
    clock(1e-6), by_samples(1e-6)
    now[0] = 225.0
    assert clock(0.1) == SCRIPT.SCHEDULE(0.5)
    assert clock(0.75) == SCRIPT.SCHEDULE(0.75)
    assert by_samples(0.1) == SCRIPT.SCHEDULE(0.1)
    assert not clock.is_over(None)
    now[0] = 250.0
    assert clock.is_over(None)
    assert not by_samples.is_over(None)
    assert 0 < clock(0.1) < 1e-6


def test_places_are_spread_over_all():
    assert SCRIPT.evenly(3, 10) == [0, 3, 6]
    assert SCRIPT.evenly(12, 4) == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # so few draws are warned about
def test_what_it_writes_and_how_it_goes_on(tmp_path):
    args = [
        "--rows",
        "vamp-static",
        "--samples",
        "500",
        "--weigh",
        "20",
        "--evaluate",
        "20",
        "--simulate",
        "2",
        "--temperatures",
        "3",
    ]
    args += ["--particles", "20", "--chains", "3", "--jobs", "1", "--quiet", "--out", str(tmp_path)]
    result = SCRIPT.main(args)
    (row,) = result["rows"]
    assert (row["samples"], row["passes"], row["ais_images"]) == (500, 0.4, 20)
    assert row["ais_all"] == pytest.approx(row["ais"])  # of all images: the difference has nothing to add
    assert -40 < row["elbo"] < -20
    assert row["simulated_upper_error"] > 0
    before = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").unlink()
    (again,) = SCRIPT.main(args)["rows"]  # of the model that is there
    assert again["train_s"] == row["train_s"]
    assert [again[name] for name in ("elbo", "ais")] == pytest.approx([row[name] for name in ("elbo", "ais")])
    kept = {**row, "elbo": 1.0}
    (tmp_path / "results.json").write_text(json.dumps(before | {"rows": [kept]}))
    assert SCRIPT.main([*args, "--resume"])["rows"] == [kept]
    assert "published" not in SCRIPT.table(result)
    assert f"{row['weighed'] + 85.57:+.2f}" in SCRIPT.table(result | {"dataset": "mnist"})
