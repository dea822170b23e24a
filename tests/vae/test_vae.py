"""The paper's VAE with stock Pyro: SVI, Predictive, handlers; and its closed-form KL."""

import inspect
import itertools
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import two_by_two
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from statistics_tools import assert_mean

from pyro_aevb import VAE, load, save
from pyro_aevb.vae.likelihoods import LIKELIHOODS
from pyro_aevb.vae.missingness import MISSINGNESS
from pyro_aevb.vae.posteriors import POSTERIORS
from pyro_aevb.vae.priors import PRIORS, VampPrior


def data(likelihood, n=30):
    x = torch.rand(n, 6).double()
    return (x < 0.4).double() if likelihood == "bernoulli" else x


def make(likelihood="bernoulli", **kwargs):
    return VAE(6, 2, **({"hidden_dims": (8, 5), "likelihood": likelihood, "dataset_size": 30} | kwargs)).double()


@pytest.mark.parametrize(
    ("num_particles", "objective", "likelihood"),
    two_by_two(
        list(
            itertools.product((1, 3), (Trace_ELBO, TraceMeanField_ELBO), ("bernoulli", "gaussian", "sigmoid-gaussian"))
        )
    ),
)
def test_stock_svi_trains_it(likelihood, objective, num_particles):
    vae, x = make(likelihood), data(likelihood)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.03}), objective(num_particles, vectorize_particles=True))
    before = {n: p.clone() for n, p in vae.named_parameters()}
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-20:]) < sum(losses[:20])
    for name, parameter in vae.named_parameters():
        assert not torch.equal(before[name], parameter), name


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "sigmoid-gaussian"])
def test_predictive_and_handlers(likelihood):
    vae, x = make(likelihood), data(likelihood)
    posterior = Predictive(vae.model, guide=vae.guide, num_samples=4)(x)
    assert posterior["x"].shape == (4, 30, 6)
    dreamed = Predictive(poutine.uncondition(vae.model), num_samples=4)(x)
    assert dreamed["x"].shape == (4, 30, 6)
    assert dreamed["z"].shape == (4, 30, 2)
    conditioned = poutine.trace(poutine.condition(vae.model, {"z": torch.zeros(30, 2).double()})).get_trace(x)
    assert conditioned.nodes["z"]["is_observed"]
    assert vae.decode(dreamed["z"]).shape == (4, 30, 6)


def test_the_two_estimators_agree_and_the_kl_is_appendix_b():
    """E L^A = E L^B, and L^B's KL is -1/2 sum(1 + log s^2 - mu^2 - s^2)."""
    vae, x = make(), data("bernoulli", 5)
    loc, log_variance = vae.encoder(x).detach().chunk(2, -1)
    kl = -0.5 * (1 + log_variance - loc**2 - log_variance.exp()).sum()
    with torch.no_grad(), poutine.scale(scale=5 / 30):
        a, b = (  # 3000 draws, ten in each loss
            torch.tensor([estimator.loss(vae.model, vae.guide, x) for _ in range(300)]).double()
            for estimator in (
                Trace_ELBO(10, vectorize_particles=True),
                TraceMeanField_ELBO(10, vectorize_particles=True),
            )
        )
        z = loc + (0.5 * log_variance).exp() * torch.randn(100_000, 5, 2).double()
        c = kl - dist.Bernoulli(logits=vae.decoder(z)).log_prob(x).sum((-1, -2))
    assert_mean(a, c.mean(), resolution=0.35)
    assert_mean(b, c.mean(), resolution=0.3)
    assert b.var() < a.var()


def test_the_plate_stands_for_the_data_set():
    vae, x = make(), data("bernoulli", 10)
    site = poutine.trace(vae.model).get_trace(x).nodes["x"]
    assert site["scale"] == 3.0  # N/M
    assert site["cond_indep_stack"][0].full_size == 30
    assert poutine.trace(make(dataset_size=None).model).get_trace(x).nodes["x"]["scale"] == 1.0


@pytest.mark.parametrize(("init", "spread"), [("paper", 0.01), ("modern", 784**-0.5)])
def test_initialisation(init, spread):
    vae = VAE(784, 20, init=init)
    weight = vae.encoder[0].weight
    assert weight.std().item() == pytest.approx(spread, rel=0.02)
    if init == "paper":
        assert vae.encoder[0].bias.std().item() == pytest.approx(0.01, rel=0.2)
    else:
        assert not vae.encoder[0].bias.any()


def test_two_vaes_do_not_share_weights_and_the_store_stays_empty():
    """Pyro's own `pyro.module` would give the second the first's weights."""
    first, second = make(), make()
    x = data("bernoulli")
    svi = SVI(first.model, first.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    before = second.decoder[0].weight.clone()
    for _ in range(3):
        svi.step(x)
        poutine.trace(second.model).get_trace(x)
    assert torch.equal(second.decoder[0].weight, before)
    assert not torch.equal(first.decoder[0].weight, before)
    assert not list(pyro.get_param_store())


def test_lifted_parameters_are_used():
    """`poutine.lift` puts a prior on the weights (full variational Bayes, the paper's Appendix F)."""
    vae, x = make(), data("bernoulli")
    prior = {n: dist.Delta(torch.zeros_like(p)) for n, p in vae.decoder.named_parameters(prefix="decoder")}
    lifted = poutine.lift(vae.model, prior=prior)
    trace = poutine.trace(lifted).get_trace(x)
    assert trace.nodes["decoder.0.weight"]["type"] == "sample"
    assert torch.equal(trace.nodes["x"]["fn"].mean, torch.full((30, 6), 0.5).double())


def test_state_dict_round_trip():
    first, second = make(), make()
    second.load_state_dict(first.state_dict())
    z = torch.randn(4, 2).double()
    assert torch.equal(first.decode(z), second.decode(z))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"hidden_dims": ()}, "one or more hidden layers"),
        ({"hidden_dims": (3, 0)}, "one or more hidden layers"),
        ({"likelihood": "bernouli"}, r"a likelihood out of \['bernoulli', 'beta', .* got 'bernouli'"),
        ({"init": "good"}, r"\['modern', 'paper'\]"),
        ({"dataset_size": 0}, "dataset_size of 1 or more"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)
    with pytest.raises(ValueError, match="latent_dim of 1 or more, got 0"):
        VAE(6, 0)


@pytest.mark.parametrize(
    ("argument", "names"),
    [("prior", PRIORS), ("likelihood", LIKELIHOODS), ("posterior", POSTERIORS), ("missingness", MISSINGNESS)],
)
def test_help_lists_the_names_of_parts(argument, names):
    """Those of the registries, in their order, and no others."""
    said = re.search(rf"^ {{4}}{argument}: (.*?;)", inspect.getdoc(VAE), re.MULTILINE | re.DOTALL)[1]
    assert re.findall('"([^"]*)"', said) == list(names)


def rows_of(likelihood):
    rows = torch.rand(6, 4)
    values = getattr(LIKELIHOODS[likelihood](), "values", "any")
    return {"any": rows, "counts": (9 * rows).round(), "levels": (255 * rows).round()}[values]


def components(vae, *args, **known):
    """The means of the components of a VAE's prior."""
    return poutine.trace(vae.model).get_trace(*args, **known).nodes["z"]["fn"].component_distribution.mean


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize(
    "likelihood", ["poisson", "negative-binomial", "discretized-logistic", "categorical", "gaussian"]
)
def test_the_components_of_a_vamp_prior_are_the_codes_of_the_data_it_began_with(likelihood, integers, tmp_path):
    rows = rows_of(likelihood)
    given = rows.int() if integers and likelihood != "gaussian" else rows
    vae = VAE(4, 2, hidden_dims=(7,), likelihood=likelihood, prior=VampPrior(6, pseudo_inputs=given))
    save(vae, tmp_path)
    for each in (vae, load(tmp_path)):
        assert torch.allclose(components(each, rows), each.encode(rows), atol=1e-6)
        assert torch.equal(each.prior.pseudo_inputs, vae.prior.pseudo_inputs)


def test_pseudo_inputs_have_the_columns_that_are_beside_x_and_may_have_its_shape():
    rows, columns = rows_of("poisson"), torch.eye(3)[[0, 1, 2, 2, 1, 0]]
    prior = VampPrior(6, pseudo_inputs=torch.cat([rows, columns], 1))
    vae = VAE(4, 2, hidden_dims=(7,), likelihood="poisson", covariates=3, prior=prior)
    assert torch.allclose(components(vae, rows, covariates=columns), vae.encode(rows, covariates=columns), atol=1e-6)
    images = rows.reshape(6, 1, 2, 2)
    vae = VAE((1, 2, 2), 2, hidden_dims=(7,), likelihood="poisson", prior=VampPrior(6, pseudo_inputs=images))
    assert torch.allclose(components(vae, images), vae.encode(images), atol=1e-6)


def test_an_encoder_of_ones_own_sees_pseudo_inputs_as_they_are():
    rows = rows_of("poisson")
    prior = VampPrior(6, pseudo_inputs=rows)
    vae = VAE(4, 2, likelihood="poisson", encoder=torch.nn.Linear(4, 4), prior=prior)
    assert torch.equal(vae.prior.pseudo_inputs, rows)
    assert torch.allclose(components(vae, rows), vae.encode(rows), atol=1e-6)
