"""The report against closed forms: the bound and its parts, log p(x), each dimension, the tails of the weights."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_pairs import EXACT, posterior_pair
from linear_gaussian import LinearGaussian
from pairs import DISCRETE
from statistics_tools import SIGMAS
from torch.utils.data import DataLoader, TensorDataset

from pyro_aevb import VAE, Bayesian
from pyro_aevb.diagnostics import report, sbc

N = 40


def run(model, guide, *args, **options):
    return report(model, guide, *args, **{"seed": 0, "compile": False, "progress": False, **options})


def kl_of_entries(lg):
    """KL(q(z_j|x_n) || p(z_j)) of a linear-Gaussian pair, (N, J)."""
    loc, r = (lg.x - lg.value("c")) @ lg.value("A").T, lg.value("r")
    return 0.5 * (loc.square() + (2 * r).exp() - 1 - 2 * r), loc


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_parts_of_the_bound_are_those_in_closed_form(vectorize):
    lg = LinearGaussian(N, 3, 4)
    draws = {"num_particles": 200 if vectorize else 40, "num_weights": 5, "batch_size": 25}
    found = run(lg.model, lg.guide, lg.x, vectorize=vectorize, **draws)
    kl, loc = kl_of_entries(lg)
    torch.testing.assert_close(found.kl["z"], kl.sum(1))
    torch.testing.assert_close(torch.tensor([each.kl for each in found.dimensions]).double(), kl.mean(0))
    assert [each.name for each in found.dimensions] == ["z[0]", "z[1]", "z[2]"]
    assert ((found.bound.value - lg.elbo(lg.x)).abs() < SIGMAS * found.bound.standard_error).all()
    torch.testing.assert_close(found.bound.value, found.reconstruction["x"] - found.kl["z"])
    if vectorize:
        assert found.bound.standard_error.max() < 1
        activity, noise = torch.tensor([each.activity for each in found.dimensions]), (2 * lg.value("r")).exp() / 200
        assert ((activity - loc.var(0)).abs() < SIGMAS * 2 * (noise * loc.var(0) / N).sqrt() + SIGMAS * noise / N).all()


def test_log_p_and_its_tails_are_those_of_the_weights():
    lg = LinearGaussian(N, 2, 4)
    pair = posterior_pair(lg, 1.1)
    found = run(pair.model, pair.guide, lg.x, num_weights=2000)
    off = (found.evidence.value - lg.log_evidence(lg.x)).abs()
    assert (off < SIGMAS * found.evidence.standard_error).all()
    assert found.evidence.direction == "lower"
    assert sum(found.pareto_k_counts().values()) == N
    assert found.pareto_k_counts()["< 0.5"] == int((found.evidence.pareto_k < 0.5).sum()) > N // 2
    assert all(each.kl != each.kl and each.active for each in found.dimensions)  # of a full covariance there are none
    assert not found.collapsed()


def test_a_heavy_tail_is_in_the_table_and_no_warning_besides():
    lg = LinearGaussian(N, 2, 4)
    pair = posterior_pair(lg, 0.4)
    found = run(pair.model, pair.guide, lg.x)
    counts = found.pareto_k_counts()
    assert counts["0.7 to 1"] + counts["> 1"] > N // 2
    assert f"> 1: {counts['> 1']}" in str(found)


def collapsing(x):
    """z_0 is exact, z_1 and z_2 know nothing of x; only z_0 is in the likelihood."""
    scale = torch.tensor([0.5**0.5, 1.0, 1.2], dtype=torch.float64)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.stack([x / 2, 0 * x, 0 * x], -1), scale).to_event(1))


def first_latent(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 3).double(), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)


def test_collapsed_dimensions_are_named_with_their_numbers():
    x = 2**0.5 * torch.randn(100, generator=torch.Generator().manual_seed(0)).double()
    found = run(first_latent, collapsing, x)
    assert found.collapsed() == ("z[1]",)
    assert [each.active for each in found.dimensions] == [True, False, False]
    assert found.dimensions[1].kl == 0
    assert found.dimensions[2].kl == pytest.approx((1.2**2 - 1) / 2 - math.log(1.2))
    assert "1 of 3 latent dimensions are active" in str(found)
    assert "collapsed: 1 carry less than 0.01 nats: z[1]" in str(found)
    exact = (x.square() / 4 + 0.5 - 1 - math.log(0.5)).mean() / 2
    assert found.dimensions[0].kl == pytest.approx(exact.item())


def test_the_noise_of_few_draws_makes_no_dimension_active():
    """With two draws the variance of a mean is 1/2 by itself, fifty times what counts as active."""
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0)).double()
    found = run(first_latent, collapsing, x, num_particles=2, num_weights=2, batch_size=1000)
    assert found.dimensions[1].activity < SIGMAS * (2 / 2000) ** 0.5 * 0.5 < 0.5
    assert not found.dimensions[1].activity > 0.1


@pytest.mark.slow
def test_the_gap_is_that_of_the_first_datapoints():
    lg = LinearGaussian(N, 2, 4)
    lg.set(**lg.true)
    found = run(lg.model, lg.guide, lg.x[:8], num_gap=5, method="quadrature")
    total = lg.log_evidence(lg.x)[:5] - lg.elbo(lg.x)[:5]
    assert found.gap.total.value.shape == (5,)
    assert ((found.gap.total.value - total).abs() < SIGMAS * found.gap.total.standard_error + 1e-6).all()
    assert found.evidence.direction == "numerical"
    assert found.pareto_k_counts()["none"] == 8
    assert "amortization" in str(found)
    assert found.summary()["gap"]["datapoints"] == 5


@pytest.mark.parametrize("name", ["two_latents_in_turn", "beta_bernoulli", "laplace_prior"])
def test_dimensions_add_up_to_the_kl_of_their_sites(name):
    pair, x, log_p = EXACT[name](N)
    found = run(pair.model, pair.guide, *(x if isinstance(x, tuple) else (x,)), num_particles=500)
    for site, kl in found.kl.items():
        of_site = sum(each.kl for each in found.dimensions if each.name.split("[")[0] == site)
        assert abs(of_site - kl.mean().item()) < 0.05
    assert abs(found.evidence.mean().value - log_p.mean()) < 0.05
    assert found.bound.mean().value < log_p.mean()


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_what_has_no_noise_is_the_same_in_any_batches(batch_size):
    pair, x = EXACT["beta_bernoulli"](N)[:2]
    one, other = (run(pair.model, pair.guide, x, **options) for options in ({}, {"batch_size": batch_size}))
    torch.testing.assert_close(one.kl["z"], other.kl["z"])
    assert one.dimensions[0].kl == pytest.approx(other.dimensions[0].kl)
    again = run(pair.model, pair.guide, x)
    assert torch.equal(one.bound.value, again.bound.value)
    assert str(one) == str(again)


def test_pairs_of_other_kinds():
    belief = DISCRETE["sigmoid_belief_net"]()
    found = run(belief[0].model, belief[0].guide, belief[1])
    assert len(found.dimensions) == 3
    off = sum(each.kl for each in found.dimensions) - found.kl["z"].mean()  # the second is sampled
    assert abs(off) < SIGMAS * (found.bound.standard_error.square().sum() ** 0.5 / len(found.bound.value))
    vae = VAE(6, 2, hidden_dims=(5,), posterior="iaf").train()
    x = (torch.rand(20, 6) < 0.4).float()
    state = torch.get_rng_state()
    of_flow = run(vae.model, vae.guide, x, num_weights=20)
    assert vae.training
    assert torch.equal(torch.get_rng_state(), state)
    assert of_flow.bound.value.dtype == torch.float32
    assert all(each.kl != each.kl for each in of_flow.dimensions)


def test_global_latents_cost_once_what_their_kl_is():
    vae = VAE(6, 2, hidden_dims=(5,))
    x = (torch.rand(20, 6) < 0.4).float()
    full = Bayesian(vae.model, vae.guide, x[:2])
    options = {"vectorize": False, "vectorize_weights": True, "num_particles": 3, "num_weights": 20}
    found = run(full.model, full.guide, x, **options)
    prior = dist.Normal(0.0, 1.0)
    for name, q in full.posterior().items():
        exact = torch.distributions.kl_divergence(q.base_dist, prior.expand(q.base_dist.batch_shape)).sum().item()
        assert found.global_kl[name] == pytest.approx(exact, rel=1e-4)
    assert "(global), once:" in str(found)


def test_latents_that_the_guide_enumerates_have_no_dimensions():
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.full((len(x),), 0.5)))
            pyro.sample("x", dist.Normal(2 * y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=2 * x - 2), infer={"enumerate": "parallel"})

    x = torch.tensor([0.0, 1.0, 3.0])
    found = run(model, guide, x)
    both = torch.stack([dist.Normal(0.0, 1.0).log_prob(x), dist.Normal(2.0, 1.0).log_prob(x)])
    torch.testing.assert_close(found.bound.value, both.logsumexp(0) - torch.tensor(2.0).log())
    assert found.dimensions == ()


def test_the_table_is_a_line_a_datapoint_and_the_summary_plain_numbers():
    pair, x = EXACT["gamma_poisson"](N)[:2]
    found = run(pair.model, pair.guide, x)
    table = found.table()
    assert list(table) == ["bound", "reconstruction x", "KL z", "log p(x)", "standard_error", "pareto_k"]
    assert all(len(column) == N for column in table.values())
    summary = found.summary()
    assert summary["datapoints"] == N
    assert summary["bound"]["value"] == found.bound.mean().value
    assert summary["dimensions"] == [
        {"name": "z", "kl": found.dimensions[0].kl, "activity": found.dimensions[0].activity, "active": True}
    ]


def test_a_kl_that_has_no_closed_form_is_sampled():
    """p(z1|z2) depends on z2, which the guide draws from z1: KL(q(z1) || p(z1|z2)) is E[log q(z1) - log p(z1|z2)]."""

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x / 2, 0.8))
            pyro.sample("z2", dist.Normal(z1 / 2, 0.5))

    x = torch.linspace(-2, 2, 20).double()
    found = run(model, guide, x, num_particles=2000)
    distance = (x.square() / 4 + 0.8**2) / 4 + 0.5**2  # E[(z1 - z2)^2]
    exact = ((distance - 1) / 2 - math.log(0.8)).mean().item()
    kl = {each.name: each.kl for each in found.dimensions}
    assert kl["z1"] == pytest.approx(exact, abs=SIGMAS * 1.0 / (20 * 2000) ** 0.5)  # log q - log p varies by less
    assert found.kl["z1"].mean().item() == pytest.approx(exact, abs=SIGMAS * 1.0 / (20 * 2000) ** 0.5)


def test_every_kind_of_data_has_the_same_report():
    pair, x = EXACT["gamma_poisson"](N)[:2]
    first = run(pair.model, pair.guide, x, num_weights=20)
    for data in (x.numpy(), TensorDataset(x), DataLoader(TensorDataset(x), batch_size=N)):
        found = run(pair.model, pair.guide, data, num_weights=20)
        assert torch.equal(found.bound.value, first.bound.value)
        assert found.dimensions == first.dimensions
    ranks = [run_sbc(pair, data) for data in (x, x.numpy(), DataLoader(TensorDataset(x), batch_size=7))]
    assert torch.equal(ranks[0], ranks[1])
    assert torch.equal(ranks[0], ranks[2])


def run_sbc(pair, data):
    return sbc(pair.model, pair.guide, data, num_simulations=30, num_draws=9, seed=0).ranks["z"]


def test_what_cannot_be_is_refused():
    pair, x = EXACT["gamma_poisson"](N)[:2]
    with pytest.raises(ValueError, match="expected num_particles of 2 or more, got 1"):
        run(pair.model, pair.guide, x, num_particles=1)
    with pytest.raises(ValueError, match="expected num_gap between 0 and the 40 datapoints, got 41"):
        run(pair.model, pair.guide, x, num_gap=41)
    with pytest.raises(ValueError, match="expected a guide to report on, got None"):
        run(pair.model, None, x)
