"""Bidirectional Monte Carlo of data that weren't simulated, its reverse chains begun at the ends of HMC chains."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian
from statistics_tools import SIGMAS, assert_mean

from pyro_aevb import AIS, BDMC, SMC, log_marginal_likelihood
from pyro_aevb.evidence import Problem
from pyro_aevb.posterior import Chains, posterior
from pyro_aevb.samplers import ais, hmc

# Annealing that is bad on purpose, of which a single chain is most of some estimates.
few_chains_count = pytest.mark.filterwarnings("ignore:the effective sample size is below")


def bdmc(lg, annealing, chain, guide=None, compile=False):
    method, options = BDMC(annealing, chain=chain), {"seed": 0, "progress": False, "batch_size": len(lg.x)}
    return log_marginal_likelihood(lg.model, guide, lg.x, method=method, num_particles=8, compile=compile, **options)


def linear_gaussian(num_data, latent_dim=1):
    """Probabilistic PCA at its true parameters."""
    lg = LinearGaussian(num_data, latent_dim, latent_dim + 2)
    lg.set(**lg.true)
    return lg


@few_chains_count
@pytest.mark.parametrize(
    ("num_temperatures", "within"), [(40, 0.25), pytest.param(200, 0.1, marks=pytest.mark.slow)], ids=["40", "200"]
)
def test_both_sides_are_about_x_and_close_on_its_log_p(num_temperatures, within):
    lg = linear_gaussian(100)
    found = bdmc(lg, AIS(num_temperatures, num_leapfrog=2), chain=20, compile="graph")
    truth = lg.log_evidence(lg.x)
    assert (found.direction, found.upper.direction) == ("lower", "upper (approximate)")
    assert found.data is None
    for side, sign in ((found, 1), (found.upper, -1)):
        off = sign * (side.value - truth)
        error = SIGMAS * off.std() / len(off) ** 0.5
        assert error < within
        assert -within / 2 < off.mean() < error
        ratio = (off.square().mean() / side.standard_error.square().mean()).sqrt()
        assert 0.7 < ratio < 2.0
        assert ((side.effective_sample_size > 1) & (side.effective_sample_size <= 8 + 1e-9)).all()
    gap = found.gap().value
    assert -SIGMAS * gap.std() / len(gap) ** 0.5 < gap.mean() < within


def begins(lg, chain, monkeypatch, **options):
    """Return where the reverse chains begin, (K, N, J), in standard deviations of the posterior from its mean."""
    begun = []
    anneal = ais.anneal

    def seen(path, schedule, position, *args, **more):
        begun.append(position)
        return anneal(path, schedule, position, *args, **more)

    monkeypatch.setattr(ais, "anneal", seen)
    bdmc(lg, AIS(3, num_leapfrog=3, **options), chain, guide=lg.guide)
    return (begun[-1] - lg.posterior_loc(lg.x)) * lg.precision().diagonal().sqrt()


@few_chains_count
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_reverse_chains_begin_at_the_posterior_however_bad_annealing_was(start, monkeypatch):
    off = begins(linear_gaussian(400), 20, monkeypatch, start=start)[0]  # one of the chains
    assert_mean(off, torch.zeros(1), resolution=0.3)
    assert_mean(off.square(), torch.ones(1), resolution=0.6)


@few_chains_count
def test_the_ends_of_annealed_chains_are_drawn_by_their_weights(monkeypatch):
    """With 8 draws at three temperatures they are nearer to the posterior than the prior's, whose variance is P."""
    lg = linear_gaussian(200)
    monkeypatch.setattr(hmc, "transition", lambda target, state, *more: (state, hmc.HMCInfo(*[torch.ones(())] * 2)))
    assert begins(lg, 1, monkeypatch).square().mean() < 0.5 * lg.precision().item()


def masked_in_python(x):
    kept = x[x > -10]  # as many as there are
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=kept)


def cholesky(x):
    with pyro.plate("data", len(x)):
        factor = pyro.sample("L", dist.LKJCholesky(2, 1.5))
        pyro.sample("x", dist.Normal(factor[..., 1, 0], 1.0), obs=x)


@pytest.mark.parametrize("model", [masked_in_python, cholesky])
@pytest.mark.parametrize("method", ["ais", "hmc"])
def test_what_can_t_be_a_graph_runs_eagerly_and_one_line_says_why(model, method, caplog):
    options = {"seed": 0, "progress": False}
    x = torch.tensor([0.5, -1.0])

    def found(compile):
        if method == "ais":
            annealing = AIS(4, num_leapfrog=2)
            return log_marginal_likelihood(model, None, x, method=annealing, compile=compile, **options).value
        short = Chains(2, num_temperatures=3, num_warmup=3, num_samples=4, num_leapfrog=2, largest_r_hat=math.inf)
        drawn = posterior(model, None, x, num_draws=10, chains=short, compile=compile, **options).draws
        return next(iter(drawn.values()))

    torch.testing.assert_close(found("graph"), found(False))
    lines = [record.getMessage() for record in caplog.records if "running eagerly" in record.getMessage()]
    assert lines
    assert all("gives a result whose size depends on values" in line for line in lines)


@few_chains_count
@pytest.mark.parametrize("by", ["given", "condition"])
def test_data_are_simulated_at_the_value_that_a_global_latent_was_given(by):
    """w = 5, x ~ N(w + z, 1): log p(x|w) is that of N(5, 2) at the data that the model makes of it."""

    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(w + z, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    w, options = {"w": torch.tensor(5.0).double()}, {"method": BDMC(AIS(20, num_leapfrog=3)), "seed": 0}
    pair = (model, guide) if by == "given" else (pyro.condition(model, w), None)
    given = {"given": w} if by == "given" else {}
    found = log_marginal_likelihood(*pair, torch.zeros(50).double(), **options, **given, progress=False)
    assert set(found.data) == {"x"}
    assert_mean(found.data["x"], 5.0, resolution=1.1)
    off = found.value - dist.Normal(5.0, 2**0.5).log_prob(found.data["x"])
    assert_mean(off, 0.0, resolution=0.2)


def test_progress_adds_up_to_one():
    done = []
    lg = linear_gaussian(5)
    method = BDMC(AIS(4, num_leapfrog=1), chain=7)
    evaluate = method.prepare(Problem(lg.model, None, (lg.x,), 2, 1, True, False))
    with torch.no_grad():
        evaluate(done.append, lg.x)
    assert sum(done) == pytest.approx(1.0)


def test_options_outside_their_range():
    with pytest.raises(ValueError, match=r"got start='guide'.*pass AIS\(start='prior'\), or chain=100"):
        BDMC(AIS(start="guide"))
    BDMC(AIS(start="guide"), chain=100)
    with pytest.raises(ValueError, match="chain of 1 or more, got 0"):
        BDMC(chain=0)
    with pytest.raises(ValueError, match=r"got 1; pass AIS\(num_temperatures=2\) or more"):
        BDMC(AIS(1), chain=5)
    BDMC(AIS(num_temperatures=2), chain=5)


def narrow(x):
    """z ~ N(0, 1), x ~ N(z, 0.001): log p(x) is that of N(0, 1 + 1e-6), far from the prior for HMC to follow."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("x", dist.Normal(z, 1e-3), obs=x)


def narrow_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 2e-3))


@pytest.mark.parametrize("method", [AIS, SMC])
def test_a_single_chain_that_is_most_of_an_estimate_is_warned_about_and_the_remedy_works(method):
    x, options = torch.ones(10).double(), {"seed": 0, "compile": False, "progress": False}
    short = method(20, num_leapfrog=3)
    with pytest.warns(UserWarning, match=r"the effective sample size is below 1.5 for .* of 10 .*start='guide'"):
        log_marginal_likelihood(narrow, narrow_guide, x, method=short, **options)
    found = log_marginal_likelihood(
        narrow, narrow_guide, x, method=method(20, num_leapfrog=3, start="guide"), **options
    )
    exact = dist.Normal(0.0, (1 + 1e-6) ** 0.5).log_prob(x)
    assert ((found.value - exact).abs() <= SIGMAS * found.standard_error).all()
