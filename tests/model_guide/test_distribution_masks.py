"""``dist.mask`` around a site's distribution is ``poutine.mask`` around the site: on a latent it counts on both sides.

z_n ~ N(0, 1), x_n ~ N(z_n, 1), and where z_n is masked off x_n ~ N(0, 1).
"""

import contextlib
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_aevb import (
    AEVB,
    IWAE,
    SGVB,
    STL,
    VIMCO,
    DReG,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    log_marginal_likelihood,
)

X = torch.randn(8, generator=torch.Generator().manual_seed(0)).double()
OBSERVED = torch.tensor([True, True, False, True, False, True, True, False])
SGD = functools.partial(torch.optim.SGD, lr=1e-3)


def site(name, fn, by, masked, **options):
    """Sample a site, masked by a handler, by its distribution, or not at all."""
    fn = fn.mask(OBSERVED) if masked and by == "distribution" else fn
    with poutine.mask(mask=OBSERVED) if masked and by == "handler" else contextlib.nullcontext():
        return pyro.sample(name, fn, **options)


def pair(by, where, family=dist.Normal):
    """Return a pair whose latent is masked ``by`` one of these, in the half or the halves in ``where``."""
    discrete = family is dist.Bernoulli

    def model(x):
        w = pyro.param("w", torch.tensor(1.3).double())
        with pyro.plate("data", 20, subsample_size=8):
            prior = family(0.4 * torch.ones(8).double()) if discrete else family(torch.zeros(8).double(), 1.0)
            z = site("z", prior, by, "model" in where)
            pyro.sample("x", dist.Normal(torch.where(OBSERVED, w * z, 0.0), 1.0), obs=x)

    def guide(x):
        a = pyro.param("a", torch.tensor(0.4).double())
        with pyro.plate("data", 20, subsample_size=8):
            site("z", family(logits=a * x) if discrete else family(a * x, 0.8), by, "guide" in where)

    return model, guide


def trained(make, by, where, family):
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(0)
        learner = make(*pair(by, where, family))
        losses = [learner.step(X).loss for _ in range(5)]
        return torch.stack([*losses, pyro.param("w").detach(), pyro.param("a").detach()])


def aevb(objective):
    return lambda model, guide: AEVB(model, guide, SGD, objective)


@pytest.mark.parametrize("where", ["model", "guide", "model and guide"])
@pytest.mark.parametrize(
    ("make", "family"),
    [
        *((aevb(each), dist.Normal) for each in (SGVB(), SGVB(kl="analytic"), STL(), IWAE(3), DReG(3))),
        *((aevb(each), dist.Bernoulli) for each in (ScoreFunction(3, baseline="leave-one-out"), VIMCO(3))),
        (lambda model, guide: ReweightedWakeSleep(model, guide, SGD, SGD, num_particles=3), dist.Normal),
        (lambda model, guide: WakeSleep(model, guide, SGD, SGD), dist.Normal),
    ],
)
def test_training_is_that_under_a_handler(make, family, where):
    torch.testing.assert_close(*(trained(make, by, where, family) for by in ("distribution", "handler")))


@pytest.mark.parametrize(
    ("method", "where"),
    [
        *(("importance", where) for where in ("model", "guide", "model and guide")),
        *(("quadrature", where) for where in ("model", "model and guide")),
    ],
)
def test_log_p_is_that_of_what_is_there(method, where):
    found = log_marginal_likelihood(*pair("distribution", where), X, method=method, num_particles=2000, seed=0)
    truth = dist.Normal(0.0, torch.where(OBSERVED, (1.3**2 + 1) ** 0.5, 1.0).double()).log_prob(X)
    assert ((found.value - truth).abs() < 5 * found.standard_error + 1e-6).all()


def test_cells_of_a_latent_are_masked_in_both_halves_or_refused():
    cells = torch.tensor([[True, True], [True, False], [False, True]])

    def model(x):
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, 2).double(), 1.0).mask(cells).to_event(1))
            pyro.sample("x", dist.Normal(torch.where(cells, z, 0.0).sum(-1), 1.0), obs=x)

    def guide(x, masked):
        fn = dist.Normal(torch.zeros(3, 2).double(), 1.2)
        with pyro.plate("data", 3):
            pyro.sample("z", (fn.mask(cells) if masked else fn).to_event(1))

    with pytest.raises(ValueError, match=r"a mask of the cells of 'z' in both halves, got one in the model alone"):
        log_marginal_likelihood(model, functools.partial(guide, masked=False), X[:3])
    both = functools.partial(guide, masked=True)
    found = log_marginal_likelihood(model, both, X[:3], num_particles=5000, seed=0)
    truth = dist.Normal(0.0, (cells.sum(1) + 1.0).sqrt()).log_prob(X[:3])
    assert ((found.value - truth).abs() < 5 * found.standard_error).all()
    for method in ("quadrature", "posterior-density"):  # flat along what is masked off
        with pytest.raises(ValueError, match=r"masked as a whole, for an integral over them, got 'z'"):
            log_marginal_likelihood(model, both, X[:3], method=method)


@pytest.mark.parametrize("of_z", [False, True])
def test_a_value_that_is_summed_out_is_one_thing_where_it_is_masked_off(of_z):
    weights, means = torch.tensor([0.3, 0.7]).double(), torch.tensor([-1.0, 2.0]).double()

    def model(x):
        with pyro.plate("data", 8):
            y = pyro.sample("y", dist.Categorical(weights.expand(8, 2)).mask(OBSERVED), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(means[y], 1.0).mask(OBSERVED)) if of_z else means[y]
            pyro.sample("x", dist.Normal(z, 1.0).mask(OBSERVED), obs=x)

    def guide(x):
        if of_z:
            with pyro.plate("data", 8):
                pyro.sample("z", dist.Normal(0.5 * x, 1.2))

    found = log_marginal_likelihood(model, guide, X, num_particles=2000 if of_z else 1, seed=0)
    each = dist.Normal(means, 2**0.5 if of_z else 1.0).log_prob(X[:, None]) + weights.log()
    truth = torch.where(OBSERVED, each.logsumexp(-1), 0.0)
    assert ((found.value - truth).abs() < 5 * found.standard_error.nan_to_num(0.0) + 1e-6).all()
    if of_z:
        exact = log_marginal_likelihood(model, None, X, method="quadrature")
        torch.testing.assert_close(exact.value, truth, rtol=1e-6, atol=1e-6)
