"""A pair that knows a datapoint by its place: right where places stay, one minibatch or none where they don't.

x_n ~ N(z_n, 1), z_n ~ N(m_n, 1): p(z_n|x_n) = N((x_n + m_n) / 2, 1/2), p(x_n) = N(m_n, 2).
"""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import batch_norm_vae
from pyro.infer.autoguide import AutoNormal
from torch.utils.data import DataLoader, TensorDataset

from pyro_aevb import AEVB, MCEM, SGVB, elbo, fit, log_marginal_likelihood
from pyro_aevb.model_guide.places import site_of_places
from pyro_aevb.posterior import encode

N = 40
X = 1.5 * torch.randn(N, generator=torch.Generator().manual_seed(1)).double()
ADAM = functools.partial(torch.optim.Adam, lr=0.05)
ERROR = r"know a datapoint by its row of the arguments, .* got site '.*', .*batch_size=40"


def whole(x):
    return pyro.plate("data", len(x))


def part(x):
    return pyro.plate("data", N, subsample_size=len(x))


def model(x, plate=part, *, means=None):
    with plate(x) as index:
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double() if means is None else means[index], 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def entries(x, plate=part):
    with plate(x) as index:
        size = N if plate is part else len(index)
        loc = pyro.param("loc", lambda: torch.zeros(size).double(), event_dim=0)
        pyro.sample("z", dist.Normal(loc, 0.5**0.5))


def amortized(x, plate=part):
    with plate(x):
        pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.3).double()) * x, 0.8))


def with_plate(fn, plate):
    return functools.partial(fn, plate=plate)


def auto(plate):
    return AutoNormal(with_plate(model, plate))


@pytest.mark.parametrize("plate", [whole, part])
@pytest.mark.parametrize("make", [functools.partial(with_plate, entries), auto])
def test_an_entry_for_each_datapoint_is_trained_on_all_of_them_at_once(make, plate):
    guide = make(plate)
    learner = AEVB(with_plate(model, plate), guide, ADAM, SGVB(num_particles=20))
    fit(learner, X, epochs=200, batch_size=N, progress=False, schedule="linear")
    loc = guide.median(X)["z"] if isinstance(guide, AutoNormal) else pyro.param("loc")
    assert (loc - X / 2).abs().max() < 0.15


@pytest.mark.parametrize("plate", [whole, part])
@pytest.mark.parametrize("make", [functools.partial(with_plate, entries), auto])
def test_it_is_refused_in_minibatches_before_anything_is_trained(make, plate):
    learner = AEVB(with_plate(model, plate), make(plate), ADAM)
    loader = DataLoader(TensorDataset(X), 10, shuffle=True)
    for data in (X, loader):
        with pytest.raises(ValueError, match=ERROR):
            fit(learner, data, epochs=1, batch_size=10, progress=False)
    assert make is auto or (pyro.param("loc") == 0).all()


def test_the_remedy_is_the_place_in_the_data():
    def plate(index):
        return pyro.plate("data", N, subsample=index)

    def guide(x, index):
        with plate(index):
            loc = pyro.param("loc", lambda: torch.zeros(N).double(), event_dim=0)
            pyro.sample("z", dist.Normal(loc, 0.5**0.5))

    learner = AEVB(lambda x, index: model(x, lambda _: plate(index)), guide, ADAM, SGVB(num_particles=20))
    fit(learner, (X, torch.arange(N)), epochs=100, batch_size=10, progress=False, schedule="linear")
    assert (pyro.param("loc") - X / 2).abs().max() < 0.15


def test_indices_that_a_plate_draws_are_nobodys():
    def reads_its_own(x):
        m = pyro.param("m", torch.tensor(0.0).double())
        with part(x) as index:
            z = pyro.sample("z", dist.Normal(m.expand(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=X[index])

    for learner in (AEVB(reads_its_own, amortized, ADAM), MCEM(reads_its_own, ADAM)):
        with pytest.raises(ValueError, match=ERROR):
            fit(learner, X, epochs=1, batch_size=10, progress=False)


@pytest.mark.parametrize("plate", [whole, part])
def test_an_evaluation_takes_all_of_the_data_at_once(plate):
    means = torch.linspace(-1, 1, N).double()
    its_model = functools.partial(model, plate=plate, means=means)
    guide = with_plate(amortized, plate)
    truth = dist.Normal(means, 2**0.5).log_prob(X)
    found = log_marginal_likelihood(its_model, guide, X, method="quadrature", batch_size=7, progress=False)
    torch.testing.assert_close(found.value, truth, rtol=1e-6, atol=1e-6)
    bound = elbo(its_model, guide, X, num_particles=200, batch_size=7, seed=0)
    exact = torch.distributions.kl_divergence(dist.Normal(0.3 * X, 0.8), dist.Normal((X + means) / 2, 0.5**0.5))
    assert ((bound.value - truth + exact).abs() < 5 * bound.standard_error).all()
    codes = encode(its_model, guide, X, method="importance", num_draws=1000, batch_size=7, seed=0, progress=False)
    assert (codes - (X + means) / 2).abs().max() < 0.2
    with pytest.raises(ValueError, match=ERROR):
        elbo(its_model, guide, DataLoader(TensorDataset(X), 10))
    with pytest.raises(ValueError, match=ERROR), pytest.warns(UserWarning, match="a DataLoader that shuffles"):
        elbo(its_model, guide, DataLoader(TensorDataset(X), N, shuffle=True))
    again = elbo(its_model, guide, DataLoader(TensorDataset(X), N), num_particles=200, seed=0)
    assert (again.value == bound.value).all()


def test_one_minibatch_of_a_shuffled_loader_is_refused_and_the_remedy_works():
    learner = AEVB(model, entries, ADAM, SGVB(num_particles=20))
    with pytest.raises(ValueError, match=f"{ERROR}, and shuffle=False for a DataLoader"):
        fit(learner, DataLoader(TensorDataset(X), N, shuffle=True), epochs=1, progress=False)
    fit(learner, DataLoader(TensorDataset(X), N), epochs=200, progress=False, schedule="linear")
    assert (pyro.param("loc") - X / 2).abs().max() < 0.15


def test_who_knows_no_places_is_left_alone():
    vae, x = batch_norm_vae()
    assert site_of_places(vae.model, vae.guide, (x,)) is None

    def noisy(x):
        amortized(x + torch.randn_like(x))

    for guide in (noisy, amortized, None):
        assert site_of_places(model, guide, (X,)) is None
    assert site_of_places(functools.partial(model, means=X), amortized, (X,)) == "z"
    assert site_of_places(functools.partial(model, means=X), amortized, (X[:1],)) is None
