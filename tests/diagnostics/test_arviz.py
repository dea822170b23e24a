"""Draws in ArviZ's format: what its functions say of them against what can be written down."""

import builtins

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_aevb.diagnostics import to_arviz
from pyro_aevb.posterior import posterior

N = 20
X = 10**0.5 * torch.randn(N, generator=torch.Generator().manual_seed(0)).double()


def model(x, mask=True):
    """x ~ N(z_0, 9), of two latents."""
    with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0], 3.0), obs=x)


def guide(x):
    scale = torch.tensor([0.9**0.5, 1.0]).double()
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.stack([x / 10, 0 * x], -1), scale).to_event(1))


def draws(**options):
    return posterior(model, guide, X, **{"num_draws": 1000, "seed": 0, "compile": False, "progress": False, **options})


def test_leave_one_out_is_the_density_of_each_datapoint():
    """Given theta, datapoints are independent: p(x_n|x_others) = N(x_n; 0, 10)."""
    pytest.importorskip("arviz_base")
    import arviz_stats

    tree = to_arviz(draws(), model, X)
    found = arviz_stats.loo(tree, pointwise=True)
    exact = dist.Normal(0.0, 10**0.5).log_prob(X)
    # log of a mean of 1000 weights 1 / p(x|z) of exact draws, whose relative variance is that of a Gaussian's ratio
    at = tree.log_likelihood["x"].values[0]
    weight = (-torch.from_numpy(at)).exp()
    error = weight.std(0) / weight.mean(0) / 1000**0.5
    off = (torch.from_numpy(found.elpd_i.values) - exact).abs()
    assert (off < 5 * error + 0.02).all()  # what smoothing the tail moves
    assert error.max() < 0.05


def test_the_summary_has_each_latent_of_each_datapoint():
    pytest.importorskip("arviz_base")
    import arviz_stats

    found = draws()
    tree = to_arviz(found)
    assert sorted(tree.children) == ["posterior", "sample_stats"]
    table = arviz_stats.summary(tree, kind="stats", round_to=None)
    assert list(table.index[:2]) == ["z[0, 0]", "z[0, 1]"]
    torch.testing.assert_close(torch.tensor(table["mean"].to_numpy()), found.mean("z").flatten())
    assert tree.sample_stats["trusted"].values.tolist() == found.trusted.tolist()
    assert tree.sample_stats["method"].values.tolist() == list(found.method)


@pytest.mark.parametrize("vectorize", [True, False])
def test_densities_are_those_of_the_draws_in_any_batches(vectorize):
    pytest.importorskip("arviz_base")
    found = draws(num_draws=20)
    tree = to_arviz(found, model, X, batch_size=7, vectorize=vectorize)
    z = found.draws["z"]
    likelihood = dist.Normal(z[..., 0], 3.0).log_prob(X)
    torch.testing.assert_close(torch.from_numpy(tree.log_likelihood["x"].values[0]), likelihood)
    joint = likelihood + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(torch.from_numpy(tree.sample_stats["lp"].values[0]), joint)
    assert tree.observed_data["x"].values.tolist() == X.tolist()
    assert tree.posterior["z"].dims == ("chain", "draw", "datapoint", "z_dim_0")


def test_draws_are_dealt_out_to_chains_and_arviz_compares_these():
    pytest.importorskip("arviz_base")
    import arviz_stats

    found = draws()
    tree = to_arviz(found, model, X, num_chains=4)
    assert dict(tree.posterior.sizes) == {"chain": 4, "draw": 250, "datapoint": N, "z_dim_0": 2}
    assert (tree.posterior["z"].values[1, 2] == found.draws["z"][9].numpy()).all()
    assert tree.log_likelihood["x"].sizes["chain"] == tree.sample_stats["lp"].sizes["chain"] == 4
    r_hat = arviz_stats.summary(tree, kind="diagnostics", round_to=None)["r_hat"].to_numpy().astype(float)
    assert (abs(r_hat - 1) < 0.05).all()
    with pytest.raises(
        ValueError, match="expected num_chains that divides the 1000 draws, got 3; use num_chains=1, or"
    ):
        to_arviz(found, num_chains=3)


def test_other_data_and_another_model_are_refused():
    pytest.importorskip("arviz_base")
    found = draws(num_draws=20)
    with pytest.raises(ValueError, match=r"expected the 20 datapoints of the draws, got 3; pass the data that"):
        to_arviz(found, model, X[:3])

    def other(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Normal(u, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"expected a model with the latents \['z'\], got \['u'\]"):
        to_arviz(found, other, X)


def test_without_arviz_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("arviz"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    found = draws(num_draws=20)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"expected arviz-base .* pip install 'pyro-aevb\[arviz\]'"):
        to_arviz(found)
