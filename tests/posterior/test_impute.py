"""Missing cells against the exact conditional of probabilistic PCA, and likelihoods that have cells to leave out."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_pairs import normal
from linear_gaussian import LinearGaussian
from pyro import poutine
from statistics_tools import SIGMAS

from pyro_aevb import VAE, denoise, impute
from pyro_aevb.posterior import Chains, Imputed
from pyro_aevb.posterior.cells import ObservedCells
from pyro_aevb.vae.columns import Columns
from pyro_aevb.vae.likelihoods import Bernoulli, Beta, Gaussian, Poisson

N, D = 8, 4
SHORT = Chains(num_chains=8, num_temperatures=3, num_warmup=3, num_samples=5, num_leapfrog=2, largest_r_hat=math.inf)


def fill(*args, **options):
    return impute(*args, **{"seed": 0, "progress": False, "compile": False, "chains": SHORT, **options})


def pca(noise=0.5):
    """Probabilistic PCA, a mask without any cell, one with all, and others."""
    lg = LinearGaussian(N, 2, D)
    lg.set(**(lg.true | {"log_s": torch.tensor(noise).double()}))
    observed = normal(N, D, seed=3) > 0
    observed[0], observed[1] = False, True
    return lg, observed


def prior_guide(x):
    with pyro.plate("data", N, subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.1).to_event(1))


def conditional(lg, x, observed):
    """The mean and the standard deviation of each cell of a row given those that are observed."""
    W, m, s = lg.value("W"), lg.value("m"), lg.value("log_s").exp()
    some = W[observed]
    precision = torch.eye(2).double() + some.T @ some / s**2
    loc = torch.linalg.solve(precision, some.T @ (x - m)[observed] / s**2)
    variance = s**2 + (W @ torch.linalg.inv(precision) * W).sum(-1)
    return W @ loc + m, variance.sqrt()


def assert_exact(found, lg, observed):
    assert found.posterior.trusted.all()
    low, high = found.interval(0.8)
    for n in range(N):
        there, missing = observed[n], ~observed[n]
        if not missing.any():
            assert torch.equal(found.draws[:, n], lg.x[n].expand(len(found.draws), -1))
            continue
        for each in (found.mean[n], low[n], high[n], *found.draws[:3, n]):
            assert torch.equal(each[there], lg.x[n, there])
        assert (found.standard_error[n, there] == 0).all()
        loc, scale = (each[missing] for each in conditional(lg, lg.x[n], there))
        ess = found.posterior.effective_sample_size[n]
        assert ((found.mean[n, missing] - loc).abs() <= SIGMAS * found.standard_error[n, missing]).all()
        variance = found.draws[:, n, missing].var(0)
        assert ((variance / scale**2 - 1).abs() <= SIGMAS * (2 / ess).sqrt()).all()
        q = dist.Normal(0.0, 1.0).icdf(torch.tensor(0.9).double())
        error = scale * (0.1 * 0.9 / ess).sqrt() / dist.Normal(0.0, 1.0).log_prob(q).exp()
        assert ((low[n, missing] - (loc - q * scale)).abs() <= SIGMAS * error).all()
        assert ((high[n, missing] - (loc + q * scale)).abs() <= SIGMAS * error).all()
        assert (found.standard_error[n, missing] < 0.15).all()
        assert ess > 200


def test_missing_cells_have_the_exact_conditional():
    lg, observed = pca()
    x = lg.x.masked_fill(~observed, torch.nan)
    found = fill(lg.model, prior_guide, x, method="importance", num_draws=500, num_particles=10_000)
    assert_exact(found, lg, observed)
    assert found.mode is None
    assert found.posterior.draws["z"].shape == (500, N, 2)


@pytest.mark.slow
def test_missing_cells_have_the_exact_conditional_by_chains():
    lg, observed = pca(noise=-1.0)
    found = fill(
        lg.model,
        prior_guide,
        lg.x,
        observed,
        num_draws=500,
        chains=Chains(num_temperatures=20, num_warmup=40),
        compile="graph",
    )
    assert set(found.posterior.method) == {"hmc", "importance"}
    assert found.posterior.method[0] == "importance"  # nothing is observed
    assert_exact(found, lg, observed)


def test_what_stands_in_a_missing_cell_neighbours_and_chunks_change_nothing():
    lg, observed = pca()
    options = {"num_draws": 10, "method": "importance"}

    def guide(x):
        with pyro.plate("data", N, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(0.1 * x[:, :2], 1.1).to_event(1))

    first = fill(lg.model, guide, lg.x, observed, **options)
    others = torch.where(observed, lg.x, 1e6)
    others[2:5] = 1.0
    second = fill(lg.model, guide, others, observed, batch_size=3, **options)
    same = [0, 1, 5, 6, 7]
    torch.testing.assert_close(first.draws[:, same], second.draws[:, same], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(first.mean[same], second.mean[same], rtol=1e-9, atol=1e-9)
    assert (first.draws[:, 2:5] - second.draws[:, 2:5]).abs().max() > 0.1


def mixed(observed=None):
    torch.manual_seed(0)
    likelihood = Columns({"height": Gaussian(), "share": Beta(), "visits": Poisson(), "smokes": Bernoulli()})
    vae = VAE(4, 2, hidden_dims=(5,), likelihood=likelihood, init="paper").double()
    x = torch.tensor([[0.3, 0.6, 2.0, 1.0], [-0.5, 0.2, 0.0, 0.0], [1.0, 0.5, 3.0, 1.0]]).double()
    return vae, x, torch.tensor([[True, False, False, True], [False, False, True, True], [True, True, True, False]])


def test_a_table_of_mixed_columns():
    """0 is no share, but nobody asks for what stands in a missing cell; the network is nearly constant."""
    vae, x, observed = mixed()
    found = fill(vae.model, vae.guide, x, observed, num_draws=200, method="guide")
    missing = ~observed
    assert found.mode is not None
    assert found.mode[missing][:2].isnan().tolist() == [True, False]
    assert (found.mode[observed] == x[observed]).logical_or(found.mode[observed].isnan()).all()
    assert found.mode[0, 2] in (0.0, 1.0)
    draws = found.draws
    assert ((draws[:, 0, 1] > 0) & (draws[:, 0, 1] < 1)).all()
    assert (draws[:, 0, 2] == draws[:, 0, 2].round()).all()
    assert set(draws[:, 2, 3].tolist()) == {0.0, 1.0}
    expected = vae.decode(found.posterior.draws["z"]).mean(0)
    torch.testing.assert_close(found.mean[missing], expected[missing])


def test_the_likelihood_of_what_is_observed_is_that_of_the_vae():
    vae, x, observed = mixed()
    z = {"z": normal(3, 2)}
    expected = poutine.trace(poutine.condition(vae.model, data=z)).get_trace(x, observed)
    with ObservedCells(x, observed) as cells:
        found = poutine.trace(poutine.condition(vae.model, data=z)).get_trace(x)
    assert cells.names == ["x"]
    torch.testing.assert_close(found.log_prob_sum(), expected.log_prob_sum())
    whole = poutine.trace(poutine.condition(vae.model, data=z)).get_trace(x)
    assert not torch.allclose(found.log_prob_sum(), whole.log_prob_sum())


def test_the_mode_of_a_category_is_the_most_probable_one():
    """Two cells with three categories, whatever z is; a mean of categories is that of their numbers."""
    x = torch.tensor([[2, 0], [1, 2]])
    observed = torch.tensor([[True, False], [False, False]])
    probs = torch.tensor([0.2, 0.1, 0.7]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Categorical(probs).expand([len(x), 2]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))

    found = fill(model, guide, x, observed, num_draws=400, num_particles=400, method="guide")
    assert found.mode.tolist() == [[2, 2], [2, 2]]
    assert found.draws.dtype == torch.int64
    share = torch.stack([(found.draws[:, 1, 1] == k).double().mean() for k in range(3)])
    assert ((share - probs).abs() <= SIGMAS * (probs * (1 - probs) / 400).sqrt()).all()
    assert abs(found.mean[1, 0] - 1.5) <= SIGMAS * found.standard_error[1, 0]


def test_the_error_of_repeated_draws_counts_them_once_and_one_draw_has_none():
    """A guide that is off by so much that the largest weight is all of them, and one whose draws repeat each other."""
    x = torch.tensor([[1.0, 0.0]]).double()
    observed = torch.tensor([[True, False]])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Normal(z[..., None], torch.ones(2).double()).to_event(1), obs=x)

    def guide_at(loc, scale):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.full((len(x),), loc).double(), scale))

        return guide

    options = {"method": "importance", "num_draws": 20, "num_particles": 20}
    with pytest.warns(UserWarning, match="aren't to be trusted"):
        found = fill(model, guide_at(1e6, 1.0), x, observed, **options)
    assert found.mean[0, 1] > 9e5
    assert found.standard_error[0, 1].isnan()
    assert found.standard_error[0, 0] == 0
    with pytest.warns(UserWarning, match="aren't to be trusted"):
        found = fill(model, guide_at(0.5, 3.0), x, observed, **options)
    z, n = found.posterior.draws["z"][:, 0], found.posterior.effective_sample_size[0]
    assert 1 < n < 20
    assert found.standard_error[0, 1].item() == pytest.approx((z.var(correction=0) / (n - 1)).sqrt().item())


@pytest.mark.parametrize("vectorize", [True, False])
def test_cells_may_be_a_plate(vectorize):
    """z ~ N(0, 1), four cells x ~ N(z, 1)."""
    x = torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 3.0, 3.0, 0.0]]).double()
    observed = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            with pyro.plate("cells", 4, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.sum(1, keepdim=True) / torch.tensor([[3.0], [4.0]])[: len(x)], 0.65))

    if not vectorize:
        x, observed = x[:1], observed[:1]
    size = {"num_draws": 40, "num_particles": 800} if vectorize else {"num_draws": 20, "num_particles": 150}
    found = fill(model, guide, x, observed, method="importance", vectorize=vectorize, **size)
    error = SIGMAS * found.standard_error[0, 2]
    assert abs(found.mean[0, 2] - 1.0) < error < 1.3
    assert found.draws.shape == (size["num_draws"], len(x), 4)
    assert 0.6 < found.draws[:, 0, 2].std() < 2
    assert not torch.equal(found.draws[:, 0, 2], found.draws[:, 0, 3])


# -- What is refused ---------------------------------------------------------------------------------------------------


def test_masks_and_sites_are_refused_and_the_remedies_work():
    lg, observed = pca()
    x = lg.x
    quick = {"num_draws": 5, "method": "guide", "num_particles": 20}
    for mask in (observed[:, :1], observed.double(), observed[0]):
        with pytest.raises(
            ValueError, match=r"expected observed of bool and of x's shape \(8, 4\), got .*pass ~x.isnan"
        ):
            fill(lg.model, prior_guide, x, mask, **quick)

    def two_sites(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1))
            pyro.sample("a", dist.Normal(z[..., 0], 1.0), obs=x[:, 0])

    with pytest.raises(ValueError, match=r"expected one site that observes x itself, got none among .*\['a'\]; write"):
        fill(two_sites, prior_guide, x, observed, **quick)

    def correlated(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1))
            loc = z[..., :1].expand(*z.shape[:-1], D)
            pyro.sample("x", dist.MultivariateNormal(loc, torch.eye(D).double()), obs=x)

    with pytest.raises(ValueError, match=r"a likelihood of independent cells at site 'x'.* got MultivariateNormal"):
        fill(correlated, prior_guide, x, observed, **quick)
    with pytest.raises(TypeError, match=r"expected a tensor, an array, .* got list; for example torch.as_tensor"):
        fill(lg.model, prior_guide, x.tolist(), observed, **quick)
    with pytest.raises(ValueError, match="expected num_draws of 2 or more, got 1"):
        fill(lg.model, prior_guide, x, observed, num_draws=1)
    with pytest.raises(ValueError, match=r"expected coverage between 0 and 1, got 1.5; 0.9"):
        fill(lg.model, None, x[:1], observed[:1], num_draws=5, method="hmc").interval(1.5)


READS_X = r"expected a model whose x is drawn given its latents, got one that reads x to make x .*; pass what it reads"


def autoregressive(x):
    """x_1 ~ N(z, 1), x_2 ~ N(z + 2 x_1, 1), the second cell by what x has in the first."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("x", dist.Normal(torch.stack([z, z + 2 * x[:, 0]], -1), 1.0).to_event(1), obs=x)


def wide_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, 0] / 2, 1.0))


@pytest.mark.parametrize("method", ["importance", "hmc", "gibbs"])
def test_a_missing_cell_that_the_model_reads_is_refused_wherever_it_stands(method):
    x = torch.tensor([[1.0, 2.0], [3.0, math.nan], [math.nan, 7.0]]).double()
    with pytest.raises(ValueError, match=READS_X):
        fill(autoregressive, wide_guide, x, method=method, batch_size=2, num_draws=5)
    found = fill(autoregressive, wide_guide, x[:2], method="importance", num_draws=1000, num_particles=5000)
    error = found.mean[1, 1] - (3.0 / 2 + 2 * 3.0)  # z given x_1 is N(x_1 / 2, 1 / 2)
    assert error.abs() <= SIGMAS * found.standard_error[1, 1]


def test_a_total_of_x_is_refused_and_an_argument_of_its_own_is_not():
    def by(total, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 0.01))
            rate = total[:, None] * torch.stack([z, -z, 0 * z], -1).softmax(-1)
            pyro.sample("x", dist.Poisson(rate + 1e-3).to_event(1), obs=x)

    def guide(x, total=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 0.01))

    x = torch.tensor([[30.0, 30.0, math.nan]]).double()
    with pytest.raises(ValueError, match=READS_X):
        fill(lambda x: by(x.sum(-1), x), guide, x)
    found = fill(lambda x, total: by(total, x), guide, x, None, torch.tensor([90.0]).double(), num_draws=500)
    assert (found.mean[0, 2] - 30.0).abs() < 0.5


@pytest.mark.parametrize("by", ["the prior", "another site", "a mask"])
def test_a_missing_cell_that_counts_elsewhere_is_refused(by):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x[:, 0] if by == "the prior" else torch.zeros(len(x)).double(), 1.0))
            if by != "the prior":
                with poutine.mask(mask=x[:, 0] > 0 if by == "a mask" else torch.ones(len(x)).bool()):
                    pyro.sample("y", dist.Normal(z + (0 if by == "a mask" else x[:, 0]), 1.0), obs=x[:, 1])
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 2), 1.0).to_event(1), obs=x)

    x = torch.tensor([[math.nan, 2.0]] * 20).double()
    with pytest.raises(ValueError, match=READS_X):
        fill(model, wide_guide, x, num_draws=5)
    assert fill(model, wide_guide, x.nan_to_num(1.0), num_draws=5, method="hmc").draws.shape == (5, 20, 2)


def test_latents_that_are_summed_out_are_refused_and_drawn_by_the_guide_if_they_are_there():
    """y in {0, 1}, x ~ N(10 y - 5, 1) in two cells: the one that is seen says which."""
    x = torch.tensor([[5.0, math.nan], [-5.0, math.nan]]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.5).double()), infer={"enumerate": "parallel"})
            loc = (0.1 * z + 10 * y - 5)[..., None]
            pyro.sample("x", dist.Normal(loc.expand(*loc.shape[:-1], 2), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))

    def guide_of_both(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("y", dist.Bernoulli(torch.where(x[:, 0] > 0, 0.99, 0.01)))

    for verb in (impute, functools.partial(denoise, noise=lambda x: dist.Normal(x, 1.0).to_event(1))):
        with pytest.raises(
            ValueError, match=r"expected latents that are drawn, got \['y'\], which .* sample them in the"
        ):
            verb(model, guide, x.nan_to_num(), progress=False)
    found = fill(model, guide_of_both, x, method="importance")
    assert (found.mean[:, 1] - torch.tensor([5.0, -5.0])).abs().max() < 0.3


def test_observed_values_outside_the_support_are_refused():
    vae, x, observed = mixed()
    x[0, 3], x[0, 1] = 0.4, 7.0  # the second is missing
    with pytest.raises(ValueError, match="expected data inside the support of site 'x'"):
        fill(vae.model, vae.guide, x, observed, method="guide", num_draws=5)
    x[0, 3] = 1.0
    assert fill(vae.model, vae.guide, x, observed, method="guide", num_draws=5).mean.isfinite().all()


@pytest.mark.parametrize("number", [19, 100])
def test_an_interval_of_few_draws_has_its_probability(number):
    """That of a new draw, in the mean over sets of draws."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(number, 20_000, 1, generator=generator, dtype=torch.float64)
    found = Imputed(draws, draws.mean(0), draws.std(0), None, None)
    low, high = found.interval(0.9)
    inside = dist.Normal(0.0, 1.0).cdf(high) - dist.Normal(0.0, 1.0).cdf(low)
    assert abs(inside.mean() - 0.9) < SIGMAS * inside.std() / len(inside) ** 0.5
    assert torch.equal(found.interval(0.999)[1], draws.max(0).values)


@pytest.mark.parametrize(
    ("method", "kind"),
    [("importance", kind) for kind in (torch.int64, torch.int32, torch.float16)] + [("gibbs", torch.int64)],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:the draws of")  # by so few chains
def test_draws_of_a_continuous_cell_are_no_whole_numbers_whatever_x_is(method, kind):
    """z ~ N(0, 1), x two of N(z, 0.3^2): z given x_0 = 1 is N(m, v) with m = 1 / 1.09, v = 0.09 m, x_1 N(m, v + 0.09).

    A chain that saw whole numbers in the place of x_1 would have another z.
    """
    mean, variance = 1 / 1.09, 0.09 / 1.09

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 2), 0.3).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.float().sum(-1) / 2, 0.5))

    x, observed = torch.tensor([[1, 0]]).to(kind), torch.tensor([[True, False]])
    options = {
        "chains": Chains(num_chains=50, num_warmup=20, num_samples=20),
        "seed": 0,
        "progress": False,
        "compile": False,
    }
    found = impute(model, guide, x, observed, method=method, num_draws=1000, **options)
    assert found.draws.dtype == torch.float32
    assert (found.draws[:, 0, 0] == 1).all()
    size = float(found.posterior.effective_sample_size)
    assert size > 200
    for draws, spread in ((found.posterior.draws["z"][:, 0], variance), (found.draws[:, 0, 1], variance + 0.09)):
        assert abs(draws.mean() - mean) < SIGMAS * (spread / size) ** 0.5
        assert abs(draws.var() / spread - 1) < SIGMAS * (2 / size) ** 0.5


def test_draws_of_a_count_are_of_the_kind_that_x_is():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0 * torch.ones(len(x)), 1.0))
            pyro.sample("x", dist.Poisson(z[..., None].expand(*z.shape, 2)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(2.0 + x.sum(-1), 2.0))

    x, observed = torch.tensor([[2, 0]]), torch.tensor([[True, False]])
    options = {"method": "importance", "num_draws": 20, "seed": 0, "compile": False}
    assert impute(model, guide, x, observed, **options).draws.dtype == torch.int64
