"""Training to a bound: what the rivals share is what this library does, and runs that fail or are late say so."""

import functools
import math

import numpy as np
import pytest
import torch
from bound_rivals import RIVALS, Job, bound, by_hand, chunks, ours, stock_pyro
from scripts import load_script

from pyro_aevb import VAE
from pyro_aevb.evidence import elbo
from pyro_aevb.learners import Schedule

SCRIPT = load_script("benchmarks/time_to_bound.py")
N, D, J = 300, 12, 2


@pytest.fixture
def job(tmp_path):
    """A run of a few steps on images whose pixels are drawn from one of two patterns."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(size=(2, D)) < 0.5
    grey = (0.1 + 0.8 * patterns[rng.integers(2, size=N)]).astype(np.float32)
    np.save(tmp_path / "train.npy", grey)
    np.save(tmp_path / "test.npy", (rng.uniform(size=(100, D)) < grey[:100]).astype(np.float32))
    sizes = {"gaussian": False, "hidden": 8, "latent_dim": J, "target": math.inf}
    lengths = {"length": 2000, "every": 1000, "seed": 0}
    adam = {"learning_rate": 0.01, "beta1": 0.9, "shape": "linear", "warm_up": 0.1, "tuned": True}
    return Job("ours", str(tmp_path), **sizes, **lengths, **adam)


def trained(job, rival):
    found = []
    rival(job, lambda samples, weights: found.append((samples, [w.copy() for w in weights])) or False)
    return found


@pytest.mark.parametrize("gaussian", [False, True])
def test_the_bound_of_eight_arrays_is_elbos(gaussian):
    """With one draw each, within five of their standard errors."""
    torch.manual_seed(0)
    vae = VAE(D, J, hidden_dims=(8,), likelihood="sigmoid-gaussian" if gaussian else "bernoulli", dataset_size=N)
    x = torch.bernoulli(torch.full((4000, D), 0.5))
    estimate = elbo(vae.model, vae.guide, x, seed=0).mean()
    mine = bound([p.detach().numpy() for p in vae.parameters()], x.numpy(), gaussian=gaussian)
    assert mine == pytest.approx(estimate.value, abs=5 * math.sqrt(2) * estimate.standard_error)
    assert estimate.standard_error < 0.2


def test_the_schedule_and_the_first_weights_are_the_librarys(job):
    schedule = Schedule(job.shape, job.warm_up)
    for done in np.linspace(0, 1, 20):
        assert job.factor(done) == pytest.approx(schedule(done))
    weights = job._replace(hidden=400).initial()
    assert weights[0].std() == pytest.approx(D**-0.5, rel=0.1)
    assert all((bias == 0).all() for bias in weights[1::2])
    assert [chunk for chunk in chunks(job)] == [(0, 10), (10, 20)]


@pytest.mark.parametrize(
    "rival", [ours, stock_pyro, functools.partial(by_hand, compiled=False)], ids=["ours", "pyro", "by hand"]
)
@pytest.mark.parametrize("gaussian", [False, True])
def test_each_learns_and_hands_over_its_weights(rival, gaussian, job):
    found = trained(job._replace(gaussian=gaussian), rival)
    assert [samples for samples, _ in found] == [1000, 2000]
    assert [w.shape for w in found[-1][1]] == [w.shape for w in job._replace(gaussian=gaussian).initial()]
    x = np.load(f"{job.folder}/train.npy") if gaussian else np.load(f"{job.folder}/test.npy")
    values = [
        bound(weights, x, gaussian=gaussian) for weights in (job._replace(gaussian=gaussian).initial(), found[-1][1])
    ]
    assert values[1] > values[0] + 0.4


def test_a_run_ends_where_it_is_told_to(job):
    for rival in (ours, stock_pyro):
        seen = []
        rival(job, lambda samples, weights: seen.append(samples) or True)  # noqa: B023
        assert seen == [1000]


def test_a_run_that_fails_or_is_late_says_so(job):
    reports, error = SCRIPT.watch(job._replace(folder="/nowhere"), limit=60)
    assert reports == []
    assert "FileNotFoundError" in error
    reports, error = SCRIPT.watch(job, limit=0.01)
    assert (reports, error) == ([], "")


def test_a_table_counts_those_that_did_not_get_there():
    key = {"rival": "ours", "settings": "tuned", "budget": 10_000}
    runs = [
        key | {"round": 0, "reached": True, "samples": 1000, "bound": -1.0, "seconds": 2.0},
        key | {"round": 1, "reached": False, "samples": 9000, "bound": -3.0, "seconds": 9.0},
        key | {"rival": "pythae", "round": 0, "reached": False, "samples": 0, "bound": None, "seconds": None},
    ]
    result = {"target": -2.0, "runs": runs}
    first, second = SCRIPT.table(result).splitlines()[2:]
    assert first.split() == ["ours", "tuned", "1e+04", "2.0", "1e+03", "1", "of", "2", "-2.00"]
    assert second.split() == ["pythae", "tuned", "1e+04", "not", "reached", "0", "of", "1", "failed"]
    assert SCRIPT.numbers(result) == {}


def test_the_numbers_are_those_of_each_rivals_best_budget():
    def run(rival, budget, seconds, reached=True):
        return {
            "rival": rival, "settings": "tuned", "budget": budget, "round": 0, "reached": reached,
            "samples": budget, "bound": -1.0, "seconds": seconds,
        }  # fmt: skip

    runs = [run("ours", 5, 1.0, reached=False), run("ours", 6, 2.0), run("ours", 7, 3.0), run("pyro SVI", 7, 9.0)]
    assert SCRIPT.numbers({"target": -2.0, "runs": runs}) == {
        "seconds of ours, tuned": 2.0,
        "samples of ours, tuned": 6,
        "seconds of pyro SVI, tuned": 9.0,
        "samples of pyro SVI, tuned": 7,
    }


def test_every_rival_has_a_job():
    assert {"ours", "pyro SVI", "numpyro scan", "pythae"} <= set(RIVALS)
