"""The terms of a bound, each held to its formula on Probabilistic PCA at the latents that the pass drew."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian
from pyro.infer import SVI
from recorded import Recorded
from statistics_tools import assert_mean

from pyro_aevb import IWAE, SGVB, STL, VIMCO, DReG, Renyi, ScoreFunction

N, M, K = 40, 10, 3
MEAN, LOG_MEAN = (lambda w: w.mean(0)), (lambda w: w.logsumexp(0) - math.log(K))
BOUNDS = {
    "SGVB": (SGVB(K), MEAN),
    "STL": (STL(K), MEAN),
    "ScoreFunction": (ScoreFunction(K), MEAN),
    "IWAE": (IWAE(K), LOG_MEAN),
    "DReG": (DReG(K), LOG_MEAN),
    "VIMCO": (VIMCO(K), LOG_MEAN),
    "Renyi": (Renyi(0.5, K), lambda w: 2 * ((0.5 * w).logsumexp(0) - math.log(K))),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_all_of_them_on_the_draws_of_the_pass(name):
    """log_weight (K, M); bound and loss of these; reconstruction and sampled kl their means over the particles."""
    objective, bound = BOUNDS[name]
    lg = Recorded(N)
    x = lg.x[:M]
    terms = objective.terms(lg.model, lg.guide, x)
    z = lg.seen["guide"][-1][1]
    log_weight = lg.log_weight(x, z)
    assert terms.log_weight.shape == (K, M)
    torch.testing.assert_close(terms.log_weight, log_weight)
    torch.testing.assert_close(terms.bound, bound(log_weight))
    torch.testing.assert_close(terms.loss.detach(), -N / M * bound(log_weight).sum())
    torch.testing.assert_close(terms.reconstruction, {"x": lg.log_likelihood(x, z).mean(0)})
    torch.testing.assert_close(terms.kl, {"z": (lg.log_q(x, z) - lg.log_prior(z)).mean(0)})


def test_with_a_kl_in_closed_form():
    """L^B: its kl is Appendix B's, its bound the reconstruction less that."""
    lg = Recorded(N)
    x = lg.x[:M]
    terms = SGVB(K, kl="analytic").terms(lg.model, lg.guide, x)
    loc, r = (x - lg.value("c")) @ lg.value("A").T, lg.value("r")
    kl = -0.5 * (1 + 2 * r - loc.square() - (2 * r).exp()).sum(-1)
    reconstruction = lg.log_likelihood(x, lg.seen["guide"][-1][1]).mean(0)
    torch.testing.assert_close(terms.kl["z"], kl)
    torch.testing.assert_close(terms.bound, reconstruction - kl)
    torch.testing.assert_close(terms.loss.detach(), -N / M * (reconstruction - kl).sum())


def test_the_means_are_the_closed_forms():
    """Of the bound: the ELBO; of the reconstruction: the ELBO and the KL."""
    lg = LinearGaussian(N, 2, 4)
    x = lg.x[:M]
    terms = [SGVB(K).terms(lg.model, lg.guide, x) for _ in range(300)]
    loc, r = (x - lg.value("c")) @ lg.value("A").T, lg.value("r")
    kl = -0.5 * (1 + 2 * r - loc.square() - (2 * r).exp()).sum(-1)
    assert_mean(torch.stack([t.bound for t in terms]), lg.elbo(x), resolution=3.0)
    assert_mean(torch.stack([t.reconstruction["x"] for t in terms]), lg.elbo(x) + kl, resolution=3.0)
    assert_mean(torch.stack([t.kl["z"] for t in terms]), kl, resolution=1.0)


@pytest.mark.parametrize("name", BOUNDS)
def test_a_loss_that_is_not_a_number_is_warned_about(name):
    """As Pyro's own objectives do, in ``SVI``, whose step returns a number that nobody may look at."""
    objective, _ = BOUNDS[name]
    scale = torch.tensor(1.0, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x * scale, 1.0))

    step = SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), objective).step
    with pyro.validation_enabled(False), pytest.warns(UserWarning, match="Encountered NaN"):
        step(torch.tensor([1.0, math.nan]))
