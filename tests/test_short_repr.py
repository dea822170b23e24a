"""A notebook's last line is short: each record says its shapes, means and errors, and no thousands of numbers."""

import functools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb import (
    AEVB,
    IWAE,
    MCEM,
    SGVB,
    VAE,
    DReG,
    Estimate,
    Evidence,
    History,
    Renyi,
    WakeSleep,
    anomaly_score,
    elbo,
    evidence_gap,
    fit,
    impute,
    log_density,
    log_marginal_likelihood,
    report,
    sbc,
)
from pyro_aevb.posterior import Chains, posterior
from pyro_aevb.short_repr import described, settings_repr

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
MOST = 300


@pytest.fixture(scope="module")
def made():
    """Return a record of each kind, over hundreds of numbers, however far these can be trusted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return records()


def records():
    pyro.set_rng_seed(0)
    vae, x = VAE(30, 3, hidden_dims=(8,)), torch.rand(200, 30).round()
    learner = AEVB(vae.model, vae.guide, ADAM, SGVB())
    history = fit(learner, x, x[:50], epochs=2, progress=False)
    few, quiet = x[:40], {"progress": False, "seed": 0}
    evidence = log_marginal_likelihood(vae.model, vae.guide, few, method="importance", num_particles=2000, **quiet)
    draws = posterior(vae.model, vae.guide, few, num_draws=20, method="importance", **quiet)
    holes = few.masked_fill(torch.rand_like(few) < 0.2, torch.nan)
    info = learner.step(x[:50])
    return [
        history, history.records[0], learner, info, info.terms, evidence, draws,
        elbo(vae.model, vae.guide, few, seed=0),
        impute(vae.model, vae.guide, holes, num_draws=20, method="importance", **quiet),
        anomaly_score(vae.model, vae.guide, few, method="importance", num_particles=2000, **quiet),
        evidence_gap(vae.model, vae.guide, few, evidence=evidence, num_steps=2, **quiet),
        report(vae.model, vae.guide, few, num_weights=2000, **quiet), log_density(vae.model, vae.guide, few), vae,
        sbc(vae.model, vae.guide, few, num_simulations=10, num_draws=9, chains=Chains(), method="importance", **quiet),
        WakeSleep(vae.model, vae.guide, ADAM, ADAM), MCEM(vae.model, ADAM),
    ]  # fmt: skip


def test_every_record_is_a_line_or_two(made):
    for each in made:
        assert len(repr(each)) <= MOST, repr(each)
        assert type(each).__name__ in repr(each) or type(each) is VAE
        assert " at 0x" not in repr(each)


def test_an_estimate_says_how_many_its_mean_its_error_and_its_side():
    value = torch.tensor([-1.0, -3.0])
    assert repr(Estimate(value, value)) == "Estimate(N=2, mean -2.0000 ± 1 nats)"
    tail = torch.tensor([0.25, torch.nan])
    evidence = Evidence(value, value, "lower", pareto_k=tail)
    assert repr(evidence) == "Evidence(N=2, mean -2.0000 ± 1 nats, direction='lower', pareto_k up to 0.25)"
    upper = Evidence(value, value, "upper")
    both = Evidence(value, value, "lower", upper=upper)
    assert repr(both) == f"Evidence(N=2, mean -2.0000 ± 1 nats, direction='lower', upper={upper!r})"
    assert repr(Evidence(torch.zeros(3, 2), torch.zeros(3, 2), "lower")) == "Evidence(shape (3, 2), direction='lower')"


def test_settings_are_those_that_were_given():
    assert repr(SGVB(kl="analytic", beta=4.0)) == "SGVB(kl='analytic', beta=4)"
    assert repr(DReG(5)) == "DReG(num_particles=5)"
    assert repr(Renyi(0.5, 3)) == "Renyi(alpha=0.5, num_particles=3)"

    def model(x): ...
    def guide(x): ...

    text = repr(AEVB(model, guide, ADAM, IWAE(5), theta_prior=dist.Normal(0.0, 1.0)))
    assert text.startswith("AEVB(model=test_settings_are_those_that_were_given.<locals>.model, guide=")
    assert "objective=IWAE(num_particles=5), theta_prior=Normal(" in text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(2, 3), "<2 x 3, mean 1>"),
        (torch.tensor([1, 2]), "<2, mean 1.5>"),
        (torch.tensor(0.5), "0.5"),
        (torch.ones(0, 3), "<0 x 3>"),
        (torch.ones(2, device="meta"), "<2>"),
        (torch.ones(2, 3).numpy(), "<2 x 3, mean 1>"),
        ({"z": torch.ones(2)}, "{'z': <2, mean 1>}"),
        ({name: 1 for name in "abcde"}, "{'a': 1, 'b': 1, 'c': 1, and 2 more}"),
        ([History(), History()], "<2 of History>"),
        ([], "[]"),
        (tuple(range(100)), "<100 of int>"),
        ("x" * 100, "'" + "x" * 51 + " ..."),
        (-1.23456789, "-1.23457"),
    ],
)
def test_a_value_in_a_few_words(value, words):
    assert described(value) == words


def test_what_has_no_settings_is_its_name():
    class Plain:
        pass

    assert settings_repr(Plain()) == "Plain()"
