"""Runs of ``train --full-vb``: the library's full VB, kept with the VAE, and what the other commands make of it."""

import json

import numpy as np
import pyro
import pytest
import torch
from typer.testing import CliRunner

from pyro_aevb import AEVB, SGVB, VAE, Bayesian, fit, load, log_marginal_likelihood, save
from pyro_aevb.cli import app, train
from pyro_aevb.cli.build import make_learner, make_vae
from pyro_aevb.cli.config import FULL_VB, LEARNERS, TrainingConfig
from pyro_aevb.cli.objectives import OBJECTIVES
from pyro_aevb.evidence import elbo
from pyro_aevb.vae import load_beside

SMALL = ["--hidden-dims", "4", "--latent-dim", "2", "--batch-size", "20", "--full-vb"]
TRAIN = [*SMALL, "--epochs", "2", "--quiet", "--json"]


def invoke(*args, code=0):
    """Run a command in this process, which ends with this code; return what it printed."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, result.stderr
    return result.stdout if code == 0 else result.stderr


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """Leave history.png out, which takes most of such a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "write_figure", lambda figure, path: None)
        yield


@pytest.fixture(scope="module")
def x():
    return torch.bernoulli(torch.full((40, 6), 0.4), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def data(x, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, x.numpy())
    return path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Return the folder of a run, and what its command printed."""
    out = tmp_path_factory.mktemp("train") / "run"
    return out, json.loads(invoke("train", data, "--out", out, *TRAIN, "--validation", data))


def opened(folder, x):
    """Return the VAE and the pair of full VB in a folder."""
    vae, beside = load_beside(folder)
    full = Bayesian(vae.eval().model, vae.guide, x[:2])
    full.load_state_dict(beside)
    return vae, full


def test_a_run_is_that_of_the_library(trained, x):
    """Its bounds too: the training one has KL(q(theta) || p(theta)) / N in it, the validation's hasn't."""
    out, printed = trained
    pyro.set_rng_seed(0)
    vae = VAE(6, 2, hidden_dims=(4,), dataset_size=40)
    full = Bayesian(vae.model, vae.guide, x[:2])
    learner = AEVB(full.model, full.guide, objective=SGVB(kl="analytic"))
    history = fit(learner, x, x, epochs=2, batch_size=20, seed=0, progress=False)
    assert printed["validation"] == history.records[-1].values["validation"]
    assert printed["training"] == history.records[-1].training
    kl = SGVB(kl="analytic").terms(full.model, full.guide, x).global_kl
    assert printed["training"] < printed["validation"] - 0.9 * sum(kl.values()).item() / 40
    found, q = opened(out, x)
    assert all(torch.equal(q.state_dict()[name], value) for name, value in full.state_dict().items())
    assert torch.equal(found.encoder[0].weight, vae.encoder[0].weight)
    assert torch.equal(found.decoder[0].weight, q.loc["decoder|0|weight"])


def test_evaluate_is_the_posterior_predictive(trained, data, x):
    vae, full = opened(trained[0], x)
    options = ["--limit", "5", "--seed", "3", "--method", "importance", "--particles", "10", "--quiet"]
    printed = json.loads(invoke("evaluate", trained[0], data, *options, "--theta-draws", "7", "--json"))
    right = log_marginal_likelihood(full.model, full.guide, x[:5], num_particles=10, num_global_draws=7, seed=3).mean()
    bound = elbo(full.model, full.guide, x[:5], num_particles=7, vectorize=False, seed=3).mean()
    assert (printed["value"], printed["standard_error"]) == pytest.approx(right)
    assert (printed["bound"]["value"], printed["bound"]["standard_error"]) == pytest.approx(bound)
    assert printed["theta_draws"] == 7
    plain = log_marginal_likelihood(vae.model, vae.guide, x[:5], num_particles=10, seed=3).mean()
    assert abs(plain.value - right.value) > 1e-4
    assert "log p(x) is that of the mean of p(x) over 20 draws of theta" in invoke(
        "evaluate", trained[0], data, *options
    )


def test_the_methods_that_evaluate_refuses(trained, data):
    for method in ("bdmc", "posterior-density"):
        told = invoke("evaluate", trained[0], data, "--limit", "5", "--method", method, code=1)
        assert told.splitlines()[-1].startswith("error: expected a method with a lower bound for log E_q(w)[p(x|w)]")
        assert told.endswith("; the option for it is --method\n")


def test_a_run_without_q_theta_takes_no_draws_of_theta(data, tmp_path):
    invoke("train", data, "--out", tmp_path, *TRAIN, "--no-full-vb")
    told = invoke("evaluate", tmp_path, data, "--theta-draws", "7", code=1)
    assert "expected no --theta-draws for a run without q(theta), got 7; leave it out, or train --full-vb" in told
    options = ["--method", "importance", "--particles", "10", "--limit", "2", "--json"]
    assert json.loads(invoke("evaluate", tmp_path, data, *options))["theta_draws"] is None


def test_codes_and_reconstructions_are_those_at_the_middle_of_q(trained, data, x, tmp_path):
    vae = load(trained[0])
    for command in ("encode", "reconstruct"):
        invoke(command, trained[0], data, "--out", tmp_path / f"{command}.npy")
    codes = vae.encode(x).detach()
    assert np.array_equal(np.load(tmp_path / "encode.npy"), codes)
    assert np.array_equal(np.load(tmp_path / "reconstruct.npy"), vae.decode(codes).detach())


def test_each_sample_has_a_theta_of_its_own(x, tmp_path):
    """With nothing but the last bias b ~ N(1, 0.5^2), p(x_d = 1) is the logistic function of b_d, x by x."""
    vae = VAE(6, 2, hidden_dims=(4,))
    full = Bayesian(vae.model, vae.guide, x[:2])
    with torch.no_grad():
        for name, loc in full.loc.items():
            loc.fill_(float(name == "decoder|2|bias"))
            full.log_scale[name].fill_(np.log(0.5) if name == "decoder|2|bias" else -20.0)
    save(vae, tmp_path, beside=full.state_dict())
    found = {}
    for name, options in {"mean": ["--mean"], "x": []}.items():
        invoke("sample", tmp_path, "-n", "80", "--out", tmp_path / f"{name}.npy", *options)
        found[name] = np.load(tmp_path / f"{name}.npy")
        assert found[name].shape == (80, 6)
    bias = np.log(found["mean"] / (1 - found["mean"]))
    error = 0.5 / 480**0.5
    assert abs(bias.mean() - 1) < 5 * error
    assert abs(bias.std() - 0.5) < 5 * error / 2**0.5
    assert set(np.unique(found["x"])) == {0.0, 1.0}
    assert abs(found["x"].mean() - found["mean"].mean()) < 5 * (0.25 / 480) ** 0.5


@pytest.mark.parametrize("learner", ["aevb", pytest.param("reweighted-wake-sleep", marks=pytest.mark.slow)])
def test_a_run_is_resumed_bit_for_bit(learner, data, x, tmp_path):
    args = ["train", data, *TRAIN, "--learner", learner, "--num-particles", "2", "--schedule", "constant"]
    invoke(*args, "--epochs", "1", "--out", tmp_path / "parts")
    first = opened(tmp_path / "parts", x)[1].state_dict()
    invoke("train", "--out", tmp_path / "parts", "--resume", "--epochs", "2", "--json")
    invoke(*args, "--out", tmp_path / "whole")
    weights = [next((tmp_path / name).glob("weights-*")).read_bytes() for name in ("parts", "whole")]
    assert weights[0] == weights[1]
    last = opened(tmp_path / "parts", x)[1].state_dict()
    assert all((first[name] != last[name]).any() for name in first)
    assert TrainingConfig.read(tmp_path / "parts" / "config.toml").full_vb


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_q_theta(objective, x):
    needed = {"alpha": 0.5} if objective == "renyi" else {}
    config = TrainingConfig(
        objective=objective, num_particles=2, latent_dim=2, hidden_dims=(4,), full_vb=True, **needed
    )
    vae = make_vae(config, 6, 40, None)
    full = Bayesian(vae.model, vae.guide, x[:2])
    before = {name: value.clone() for name, value in full.state_dict().items()}
    assert torch.isfinite(make_learner(config, full).step(x[:10]).elbo)
    assert all((value != before[name]).all() for name, value in full.state_dict().items() if "2|bias" in name)


@pytest.mark.parametrize("learner", [name for name in LEARNERS if name not in FULL_VB])
def test_learners_without_global_latents_are_refused(learner, data, tmp_path):
    told = " ".join(invoke("train", data, *TRAIN, "--learner", learner, "--out", tmp_path / "run", code=2).split())
    assert (
        f"expected a learner with global latents for full_vb, got {learner}, which is for one theta; use aevb" in told
    )
    assert not (tmp_path / "run").exists()
    told = invoke("compare", data, *TRAIN, "--learners", f"aevb,{learner}", "--out", tmp_path / "c.png", code=1)
    assert f"error: expected a learner with global latents for full_vb, got {learner}, " in told


def test_a_prior_on_a_point_beside_q_theta_is_refused(data, tmp_path):
    told = " ".join(invoke("train", data, *TRAIN, "--theta-prior", "1", "--out", tmp_path / "run", code=2).split())
    assert (
        "expected one of full_vb and theta_prior, got theta_prior 1.0 beside full_vb, whose p(theta) is N(0, 1)" in told
    )


def test_a_folder_whose_q_theta_is_gone_or_another_vaes(trained, data, x, tmp_path):
    out = tmp_path / "run"
    invoke("train", data, "--out", out, *TRAIN)
    _, full = opened(out, x)
    save(load(out), out)
    told = invoke("sample", out, "-n", "2", "--out", out / "x.npy", code=1)
    assert "got the VAE alone; save it with beside=full.state_dict(), or set full_vb = false for theta as it is" in told
    save(load(out), out, beside=full.state_dict())
    invoke("sample", out, "-n", "2", "--out", out / "x.npy")
    save(load(out), out)
    (out / "config.toml").write_text((out / "config.toml").read_text().replace("full_vb = true", "full_vb = false"))
    invoke("sample", out, "-n", "2", "--out", out / "x.npy")
    save(VAE(6, 2, hidden_dims=(5,)), out, beside=full.state_dict())
    assert "error: expected q(theta) of this VAE beside it, got: " in invoke(
        "sample", out, "--out", out / "x.npy", code=1
    )
