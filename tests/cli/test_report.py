"""``pyro-aevb report``: what it prints, and the page that it writes."""

import json

import numpy as np
import pytest
import torch
from cli_calls import invoke

from pyro_aevb import VAE, Bayesian, save


@pytest.fixture
def run(tmp_path):
    """A folder with a VAE that nothing has trained, and a file of its data."""
    vae = VAE(6, 2, hidden_dims=(5,))
    save(vae, tmp_path / "run")
    np.save(tmp_path / "x.npy", (np.random.default_rng(0).random((20, 6)) < 0.4).astype(np.float32))
    return tmp_path / "run", tmp_path / "x.npy"


def test_a_report_in_words_and_a_page(run, tmp_path):
    result = invoke("report", *run, "--particles", 50, "--gap", 2, "--limit", 10, "--out", tmp_path / "page.pdf")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "10 datapoints, nats per datapoint"
    assert [line.split("  ")[0] for line in lines[1:4]] == ["bound", "", ""]
    assert any(line.startswith("  gap, amortization") and line.endswith("of 2 datapoints") for line in lines)
    assert lines[-1] == f"written: {tmp_path / 'page.pdf'}"
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_json_has_all_numbers_and_no_others(run):
    result = invoke("report", *run, "--particles", 50, "--json", "--seed", 3)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["datapoints"] == 20
    assert found["seed"] == 3
    assert found["log_marginal_likelihood"]["direction"] == "lower"
    assert len(found["dimensions"]) == 2
    assert sum(found["pareto_k"].values()) == 20
    assert found["out"] is None
    again = json.loads(invoke("report", *run, "--particles", 50, "--json", "--seed", 3).stdout)
    assert again["bound"] == found["bound"]


def test_a_posterior_without_entries_of_its_own_has_null_for_their_kl(run, tmp_path):
    save(VAE(6, 2, hidden_dims=(5,), posterior="full"), tmp_path / "full")
    found = json.loads(invoke("report", tmp_path / "full", run[1], "--particles", 20, "--json").stdout)
    assert [each["kl"] for each in found["dimensions"]] == [None, None]


@pytest.mark.slow
def test_after_full_vb_it_says_what_the_weights_cost(run, tmp_path):
    vae = VAE(6, 2, hidden_dims=(5,))
    full = Bayesian(vae.model, vae.guide, torch.zeros(2, 6))
    save(vae, tmp_path / "full-vb", beside=full.state_dict())
    result = invoke("report", tmp_path / "full-vb", run[1], "--particles", 20, "--limit", 5)
    assert result.exit_code == 0, result.output
    assert "(global), once:" in result.stdout


def test_wrong_usage_is_one_line(run, tmp_path):
    result = invoke("report", *run, "--method", "guess")
    assert result.exit_code == 2
    assert "expected --method out of" in result.stderr
    result = invoke("report", *run, "--out", tmp_path / "page.bmp")
    assert result.exit_code == 1
    assert "expected an output file that ends in .png or .pdf or .svg or .jpg" in result.stderr
    result = invoke("report", *run, "--gap", 30)
    assert result.exit_code == 1
    assert "expected num_gap between 0 and the 20 datapoints, got 30" in result.stderr
