"""The same mistake gives the same sentence from every entry point: mistake x entry point."""

import functools
import warnings

import pyro
import pytest
import torch
from mistakes import MISTAKES
from pyro.infer import SVI

from pyro_aevb import (
    AEVB,
    AIS,
    IWAE,
    MCEM,
    SGVB,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    elbo,
    evidence_gap,
    fit,
    log_density,
    log_marginal_likelihood,
)
from pyro_aevb.evidence import Evidence

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
NEEDS_A_GUIDE = ("a_latent_that_the_guide_lacks", "a_site_that_the_model_lacks", "n_in_the_model_alone")


def evidence_of(x):
    return Evidence(torch.zeros(len(x)), torch.zeros(len(x)), "lower")


ENTRY_POINTS = {
    "AEVB, Pyro's ELBO": lambda m, g, a: AEVB(m, g, ADAM).step(*a),
    "AEVB": lambda m, g, a: AEVB(m, g, ADAM, SGVB()).step(*a),
    "AEVB on the fast path": lambda m, g, a: AEVB(m, g, ADAM, IWAE(2), compile="graph").step(*a),
    "WakeSleep": lambda m, g, a: WakeSleep(m, g, ADAM, ADAM).step(*a),
    "ReweightedWakeSleep": lambda m, g, a: ReweightedWakeSleep(m, g, ADAM, ADAM, num_particles=2).step(*a),
    "MCEM": lambda m, g, a: MCEM(m, ADAM).step(*a, index=torch.arange(len(a[0]))),
    "fit": lambda m, g, a: fit(AEVB(m, g, ADAM, SGVB()), a, epochs=1, batch_size=len(a[0]), progress=False),
    "fit's validation": lambda m, g, a: fit(AEVB(m, g, ADAM), a, a, epochs=1, batch_size=len(a[0]), progress=False),
    "an objective in SVI": lambda m, g, a: SVI(m, g, pyro.optim.Adam({"lr": 0.01}), SGVB()).step(*a),
    "ScoreFunction": lambda m, g, a: ScoreFunction(2).loss(m, g, *a),
    "log_density": lambda m, g, a: log_density(m, g, *a, num_particles=2),
    "elbo": lambda m, g, a: elbo(m, g, *a, num_particles=2),
    "importance": lambda m, g, a: log_marginal_likelihood(m, g, *a, num_particles=4, progress=False),
    "quadrature": lambda m, g, a: log_marginal_likelihood(m, g, *a, method="quadrature", progress=False),
    "ais": lambda m, g, a: log_marginal_likelihood(m, g, *a, method=AIS(5), num_particles=2, progress=False),
    "evidence_gap": lambda m, g, a: evidence_gap(m, g, *a, evidence=evidence_of(a[0]), num_steps=1, progress=False),
}


EVALUATION = ("log_density", "elbo", "importance", "quadrature", "ais", "evidence_gap")


@pytest.mark.parametrize("entry", ENTRY_POINTS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_sentence(mistake, entry):
    if entry == "MCEM" and mistake in NEEDS_A_GUIDE:
        pytest.skip("MCEM has no guide")
    model, guide, args, sentence = MISTAKES[mistake]()
    if mistake == "n_in_the_model_alone" and entry in EVALUATION:  # where N doesn't count
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about k-hat and the width of posteriors, with so few draws
            assert ENTRY_POINTS[entry](model, guide, args) is not None
        return
    with pytest.raises(ValueError, match=rf"(?s)^expected .*{sentence}"):
        ENTRY_POINTS[entry](model, guide, args)
