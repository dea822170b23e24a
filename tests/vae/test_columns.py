"""A table of mixed columns with missing entries."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_aevb import AEVB, MCEM, SGVB, VAE, ReweightedWakeSleep, WakeSleep, impute
from pyro_aevb.datasets import Table
from pyro_aevb.model_guide import log_density
from pyro_aevb.training import fit
from pyro_aevb.vae.columns import Columns, likelihood_of
from pyro_aevb.vae.likelihoods import Bernoulli, Categorical, FixedGaussian, Gaussian, Poisson

ADAM = functools.partial(torch.optim.Adam, lr=0.02)
TABLE = {"height": Gaussian(), "visits": Poisson(), "smokes": Bernoulli(), "kind": Categorical(3)}
N = 200


def table(n=N):
    """One factor behind all four columns; a fifth of the entries missing."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, generator=generator)
    noise = torch.randn(n, generator=generator)
    x = torch.stack(
        [
            z + 0.3 * noise,
            torch.poisson((0.5 + 0.8 * z).exp(), generator=generator),
            (torch.rand(n, generator=generator) < torch.sigmoid(2 * z)).float(),
            ((z > -0.5).float() + (z > 0.5).float()),
        ],
        -1,
    ).double()
    observed = torch.rand(n, 4, generator=generator) < 0.8
    return torch.where(observed, x, 0.0), observed, x


def make(likelihood=None):
    return VAE(4, 2, hidden_dims=(10,), likelihood=likelihood or Columns(TABLE), dataset_size=N).double()


def test_log_prob_is_the_sum_of_the_observed_columns():
    vae = make()
    x, observed, _ = table(5)
    outputs = torch.randn(5, sum(vae.likelihood.outputs_per_dim)).double()
    terms = torch.stack(
        [
            dist.Normal(outputs[:, 0], (0.5 * outputs[:, 1]).exp()).log_prob(x[:, 0]),
            dist.Poisson(outputs[:, 2].exp()).log_prob(x[:, 1]),
            dist.Bernoulli(logits=outputs[:, 3]).log_prob(x[:, 2]),
            dist.Categorical(logits=outputs[:, 4:]).log_prob(x[:, 3]),
        ],
        -1,
    )
    p = vae.likelihood(outputs)
    torch.testing.assert_close(p.log_prob(x), terms.sum(-1))
    torch.testing.assert_close(p.where(observed).log_prob(x), (terms * observed).sum(-1))
    wide = p.where(observed).expand([3, 5])
    torch.testing.assert_close(wide.log_prob(x), (terms * observed).sum(-1).expand(3, 5))
    draws = p.sample((7,))
    assert draws.shape == (7, 5, 4)
    assert p.support.check(draws).all()
    assert p.mean.shape == (5, 4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("learner", [AEVB, WakeSleep, ReweightedWakeSleep, MCEM])
def test_learners_train_it(learner, masked):
    vae = make()
    x, observed, whole = table()
    args = (x, observed) if masked else (whole,)
    made = {
        AEVB: lambda: AEVB(vae.model, vae.guide, ADAM, SGVB(kl="analytic")),
        WakeSleep: lambda: WakeSleep(vae.model, vae.guide, ADAM, ADAM),
        ReweightedWakeSleep: lambda: ReweightedWakeSleep(vae.model, vae.guide, ADAM, ADAM, num_particles=3),
        MCEM: lambda: MCEM(vae.model, ADAM, num_leapfrog=3),
    }[learner]()
    fit(made, args, epochs=2, batch_size=50, progress=False)
    assert log_density(vae.model, vae.guide, *args, num_particles=3).log_weight.isfinite().all()


def test_a_missing_value_changes_nothing():
    """Whatever stands in a missing entry's place, density, gradient and code are the same."""
    vae = make()
    x, observed, _ = table()
    results = []
    for fill in (0.0, 1.0):
        filled = torch.where(observed, x, fill)
        pyro.set_rng_seed(0)
        loss = SGVB().differentiable_loss(vae.model, vae.guide, filled, observed)
        results.append((loss, *torch.autograd.grad(loss, list(vae.parameters())), vae.encode(filled, observed)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_missing_entries_are_imputed_better_than_by_their_means():
    pyro.set_rng_seed(0)
    x, observed, whole = table()
    vae = make()
    fit(
        AEVB(vae.model, vae.guide, ADAM, SGVB(2, kl="analytic")),
        (x, observed),
        epochs=150,
        batch_size=50,
        progress=False,
    )
    with torch.no_grad():
        imputed = vae.decode(vae.encode(x, observed))[:, :3]
    missing = ~observed[:, :3]
    mean = (x[:, :3] * observed[:, :3]).sum(0) / observed[:, :3].sum(0)
    error = ((imputed - whole[:, :3]).square() * missing).sum(0)
    baseline = ((mean - whole[:, :3]).square() * missing).sum(0)
    assert (error < torch.tensor([0.6, 0.7, 1.0]) * baseline).all(), error / baseline


def test_other_likelihoods_take_missing_entries_too():
    x, observed, _ = table()
    vae = make(FixedGaussian(0.5))
    trace = poutine.trace(vae.model).get_trace(x, observed)
    z = trace.nodes["z"]["value"]
    terms = dist.Normal(vae.decoder(z), 0.5).log_prob(x)
    torch.testing.assert_close(trace.nodes["x"]["fn"].log_prob(x), (terms * observed).sum(-1))


def test_what_is_refused():
    with pytest.raises(ValueError, match="one column or more"):
        Columns({})
    with pytest.raises(TypeError, match="a likelihood object for column 'a'"):
        Columns({"a": Gaussian})
    vae = make()
    x, observed, whole = table()
    with pytest.raises(ValueError, match=r"as bool of shape \(200, 4\), got \(200,\) of torch.int64"):
        vae.guide(x, torch.arange(N))
    whole[0, 1] = -1.0
    with pytest.raises(ValueError, match="inside the support of site 'x'"):
        AEVB(vae.model, vae.guide, ADAM).step(whole)
    observed[0, 1] = False
    AEVB(vae.model, vae.guide, ADAM).step(torch.where(observed, whole, 0.0), observed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the draws of")  # 1,000 weights serve here, whatever their tail
def test_a_table_with_holes_is_trained_on_and_filled_in_its_own_cells():
    """The category follows the number: what is filled in is right more often than by the commonest level."""
    generator = torch.Generator().manual_seed(0)
    number = torch.randn(400, generator=generator)
    level = [("low", "middle", "high")[int(n > -0.5) + int(n > 0.5)] for n in number]
    holes = torch.rand(400, generator=generator) < 0.25
    cells = [None if hole else text for hole, text in zip(holes, level, strict=True)]
    table = Table({"score": (50 + 10 * number).tolist(), "size": cells, "who": [f"n{n}" for n in range(400)]})
    pyro.set_rng_seed(0)
    vae = VAE(2, 2, hidden_dims=(20,), likelihood=likelihood_of(table.modelled), dataset_size=400)
    data = {"x": torch.from_numpy(table.x), "observed": torch.from_numpy(table.observed)}
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    fit(AEVB(vae.model, vae.guide, adam, SGVB(kl="analytic"), compile=False), data, epochs=40, progress=False)
    found = impute(
        vae.model, vae.guide, *data.values(), method="importance", num_draws=20, seed=0, progress=False, compile=False
    )
    filled = table.rows(torch.where(found.mode.isnan(), found.mean, found.mode).numpy(), table.observed)
    right = [filled["size"][n] == level[n] for n in holes.nonzero()[:, 0]]
    assert sum(right) / len(right) > 0.7  # the commonest level is right in 0.4
    assert filled["who"][3] == "n3"
    assert filled["score"] == (50 + 10 * number).tolist()
    with pytest.raises(ValueError, match=r"expected columns to model, .* got \['who: id'\]; pass table.modelled"):
        likelihood_of(table.columns)
