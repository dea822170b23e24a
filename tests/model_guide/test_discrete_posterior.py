"""p(y|x) of what is summed out, against Bayes' rule written out."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate, infer_discrete

from pyro_aevb import discrete_posterior

X = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
LOCS = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
LOG_PRIOR = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
BOTH = pytest.mark.parametrize("vectorize", [True, False], ids=["at once", "one by one"])


def log_normal(x, loc, scale=1.0):
    return dist.Normal(loc, scale).log_prob(x)


def close(found, log_joint, tolerance=1e-9):
    """Compare with log_joint (M, C), normalized."""
    exact = torch.log_softmax(log_joint, -1)
    assert found.shape == exact.shape
    assert found.flatten().tolist() == pytest.approx(exact.flatten().tolist(), abs=tolerance)


def of_the_data(fn, infer):
    def half(x, y=None):
        with pyro.plate("data", 20, subsample=torch.arange(len(x))):
            return fn(x, infer)

    return half


def mixture(marked, one_hot=False):
    def model(x, infer):
        q = dist.OneHotCategorical(logits=LOG_PRIOR) if one_hot else dist.Categorical(logits=LOG_PRIOR)
        y = pyro.sample("y", q, infer=infer)
        pyro.sample("x", dist.Normal(LOCS[y.argmax(-1) if one_hot else y], 1.0), obs=x)

    def guide(x, infer):
        if infer:
            q = dist.OneHotCategorical if one_hot else dist.Categorical
            pyro.sample("y", q(logits=x[:, None] * LOCS), infer=infer)

    mark = {"enumerate": "parallel"}
    return of_the_data(model, mark if marked == "model" else {}), of_the_data(guide, mark if marked == "guide" else {})


@BOTH
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("marked", ["model", "guide"])
def test_without_draws_it_is_bayes_rule(marked, one_hot, vectorize):
    found = discrete_posterior(*mixture(marked, one_hot), X, site="y", num_particles=2, vectorize=vectorize)
    close(found, LOG_PRIOR + log_normal(X[:, None], LOCS))


def two_causes(marked):
    """y of three values, v of two given y."""

    def model(x, infer):
        y = pyro.sample("y", dist.Categorical(logits=LOG_PRIOR), infer=infer)
        v = pyro.sample("v", dist.Bernoulli(0.2 + 0.3 * y.double()), infer=infer)
        pyro.sample("x", dist.Normal(LOCS[y] + v, 1.0), obs=x)

    def guide(x, infer):
        if infer:
            y = pyro.sample("y", dist.Categorical(logits=LOG_PRIOR.expand(len(x), 3)), infer=infer)
            pyro.sample("v", dist.Bernoulli(0.1 + 0.2 * y.double()), infer=infer)

    mark = {"enumerate": "parallel"}
    v = torch.tensor([0.0, 1.0], dtype=torch.float64)
    p_v = 0.2 + 0.3 * torch.arange(3).double()
    log_v = torch.stack([1 - p_v, p_v], -1).log()
    log_joint = LOG_PRIOR[:, None] + log_v + log_normal(X[:, None, None], LOCS[:, None] + v)
    pair = of_the_data(model, mark if marked == "model" else {}), of_the_data(guide, mark if marked == "guide" else {})
    return *pair, log_joint


@BOTH
@pytest.mark.parametrize("marked", ["model", "guide"])
def test_others_are_summed_out(marked, vectorize):
    model, guide, log_joint = two_causes(marked)
    for site, other in (("y", -1), ("v", -2)):
        found = discrete_posterior(model, guide, X, site=site, num_particles=2, vectorize=vectorize)
        close(found, log_joint.logsumexp(other))


def beside_z():
    @config_enumerate
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=LOG_PRIOR))
            z = pyro.sample("z", dist.Normal(LOCS[y], 1.0), infer={"enumerate": None})
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 2.0))

    exact = LOG_PRIOR + log_normal(X[:, None], LOCS + torch.arange(3), 2**0.5)
    return model, guide, exact


def test_with_one_draw_of_z_it_is_given_z_and_pyros_infer_discrete_agrees():
    model, _, _ = beside_z()
    fixed = torch.tensor([0.1, -2.0, 3.0], dtype=torch.float64)

    def at(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(fixed))

    found = discrete_posterior(model, at, X, site="y", num_particles=1)
    given_z = LOG_PRIOR + log_normal(fixed[:, None], LOCS) + log_normal(X[:, None], fixed[:, None] + torch.arange(3))
    close(found, given_z)
    conditioned = pyro.condition(model, {"z": fixed})
    best = poutine.trace(infer_discrete(conditioned, first_available_dim=-2, temperature=0)).get_trace(X)
    assert best.nodes["y"]["value"].tolist() == found.argmax(-1).tolist() == given_z.argmax(-1).tolist()


def test_all_values_have_the_same_draw_of_z():
    model, _, _ = beside_z()
    drawn = []

    def recorded(x):
        with pyro.plate("data", len(x)):
            drawn.append(pyro.sample("z", dist.Normal(0.5 * x, 2.0)))

    found = discrete_posterior(model, recorded, X, site="y", num_particles=1)
    z = drawn[-1]
    close(found, LOG_PRIOR + log_normal(z[:, None], LOCS) + log_normal(X[:, None], z[:, None] + torch.arange(3)))


def test_with_many_draws_of_z_it_is_the_posterior():
    model, guide, exact = beside_z()
    torch.manual_seed(0)
    found = torch.stack([discrete_posterior(model, guide, X, site="y", num_particles=500).exp() for _ in range(8)])
    error = found.std(0) / 8**0.5
    assert ((found.mean(0) - torch.softmax(exact, -1)).abs() < 5 * error + 1e-3).all()
    assert (error < 0.01).all()


def test_what_has_no_posterior_here_is_said():
    model, guide, _ = beside_z()
    with pytest.raises(ValueError, match=r"expected a site out of \['y'\], which are summed out, got 'z'; mark it"):
        discrete_posterior(model, guide, X, site="z")

    @config_enumerate
    def words(x):
        with pyro.plate("data", len(x)), pyro.plate("words", 2, dim=-2):
            y = pyro.sample("y", dist.Categorical(logits=LOG_PRIOR))
            pyro.sample("x", dist.Normal(LOCS[y], 1.0), obs=torch.stack([x, x]))

    with pytest.raises(
        ValueError, match=r"in the data plate alone, got it of shape .*; use pyro\.infer\.infer_discrete"
    ):
        discrete_posterior(words, lambda x: None, X, site="y")
