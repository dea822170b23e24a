"""The uses of a pair: laws that all of them keep, and what each says where it can be written down."""

import dataclasses
import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_pairs import normal, posterior_pair
from frames import Frame
from linear_gaussian import LinearGaussian
from pairs import Pair, batch_norm_vae
from pyro import poutine
from statistics_tools import SIGMAS, assert_mean
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_aevb import VAE, elbo, log_marginal_likelihood
from pyro_aevb.datasets.pixels import Binarized
from pyro_aevb.posterior import (
    Chains,
    anomaly_score,
    approximate_posterior,
    decode,
    denoise,
    encode,
    impute,
    interpolate,
    manifold,
    reconstruct,
    sample,
    traverse,
)
from pyro_aevb.posterior.data import in_memory
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.vae.columns import Columns
from pyro_aevb.vae.likelihoods import Bernoulli, Gaussian

# So few draws can't be trusted, and a law is about them whatever they are worth.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{words}") for words in ("the draws of", "pareto_k is above")]

N, D, J = 7, 6, 2
QUICK = {"compile": False, "progress": False}
FEW = {**QUICK, "num_draws": 20, "num_particles": 40}


def white(x):
    return dist.Normal(x, 0.5).to_event(1)


# From a pair, data of any kind, and options, to what comes out.
VERBS = {
    "encode": lambda m, g, x, **o: encode(m, g, x, **QUICK, **o),
    "encode, draws": lambda m, g, x, **o: encode(m, g, x, output="draws", **FEW, **o),
    "encode, importance": lambda m, g, x, **o: encode(m, g, x, method="importance", **FEW, **o),
    "approximate_posterior": lambda m, g, x, **o: approximate_posterior(m, g, x).mean,
    "reconstruct": lambda m, g, x, **o: reconstruct(m, g, x, **QUICK, **o),
    "reconstruct, importance": lambda m, g, x, **o: reconstruct(m, g, x, method="importance", **FEW, **o),
    "decode": lambda m, g, x, **o: decode(m, g, torch.ones(N, J).to(example(x)), x, **without_seed(o)),
    "sample": lambda m, g, x, **o: sample(m, g, 9, x, **QUICK, **o),
    "sample, aggregate": lambda m, g, x, **o: sample(m, g, 9, x, source="aggregate", **QUICK, **o),
    "sample, by weights": lambda m, g, x, **o: sample(
        m, g, 9, x, source="aggregate", method="importance", num_particles=40, **QUICK, **o
    ),
    "sample, given": lambda m, g, x, **o: sample(
        m, g, 5, x, cells(), source="given", method="importance", num_particles=40, **QUICK, **o
    ),
    "impute": lambda m, g, x, **o: impute(m, g, x, cells(), method="importance", **FEW, **o),
    "denoise": lambda m, g, x, **o: denoise(m, g, x, flips, method="importance", **FEW, **o),
    "interpolate": lambda m, g, x, **o: interpolate(m, g, x, ones(x), num_steps=3, **QUICK, **o),
    "traverse": lambda m, g, x, **o: traverse(m, g, x, num_steps=3, **QUICK, **o),
    "manifold": lambda m, g, x, **o: manifold(m, g, x, side=3, **without_seed(o)),
    "anomaly_score": lambda m, g, x, **o: anomaly_score(m, g, x, method="importance", num_particles=200, **QUICK, **o),
}  # fmt: skip


def without_seed(options):
    return {name: value for name, value in options.items() if name != "seed"}


def flips(clean):
    return dist.Bernoulli(0.1 + 0.8 * clean).to_event(1)


def cells():
    return normal(N, D, seed=4) > 0


def ones(x):
    return torch.ones(N, D).to(example(x))


def example(x):
    if isinstance(x, Tensor):
        return x
    return torch.zeros((), dtype=torch.float32 if isinstance(x, np.ndarray) and x.dtype == np.float32 else torch.double)


def tensors(result):
    """Return all tensors in what a verb gives, by their place."""
    if isinstance(result, Tensor | np.ndarray):
        return {"": result}
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    return {name: value for name, value in fields.items() if isinstance(value, Tensor | np.ndarray)}


def assert_same(first, second, **tolerances):
    assert set(tensors(first)) == set(tensors(second))
    for name, value in tensors(first).items():
        torch.testing.assert_close(torch.as_tensor(tensors(second)[name]), torch.as_tensor(value), **tolerances)


def bernoulli_pair(dtype=torch.double):
    torch.manual_seed(0)
    return VAE(D, J, hidden_dims=(5,)).to(dtype), (normal(N, D, seed=2) > 0).to(dtype)


# -- Laws --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {"approximate_posterior", "decode", "manifold"}))
def test_a_seed_that_is_no_integer_is_refused(verb):
    vae, x = bernoulli_pair()
    with pytest.raises(TypeError, match=r"expected an integer for seed, got 1.5; pass int\("):
        VERBS[verb](vae.model, vae.guide, x, seed=1.5)


@pytest.mark.parametrize("verb", VERBS)
def test_a_seed_decides_and_nothing_else_is_touched(verb):
    """Modules in training mode, a batch norm and a dropout among them, whose own draws would be seen."""
    vae, x = batch_norm_vae()
    vae.train()
    x = x[:N]
    VERBS[verb](vae.model, vae.guide, x, seed=3)
    before, state = {n: v.clone() for n, v in vae.state_dict().items()}, torch.get_rng_state()
    names = set(pyro.get_param_store().keys())
    first = VERBS[verb](vae.model, vae.guide, x, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in vae.modules())
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    assert set(pyro.get_param_store().keys()) == names
    torch.rand(3)
    assert_same(first, VERBS[verb](vae.model, vae.guide, x, seed=3), rtol=0, atol=0)
    assert not any(value.requires_grad for value in tensors(first).values())


@pytest.mark.parametrize("verb", VERBS)
def test_chunks_change_nothing(verb):
    vae, x = bernoulli_pair()
    whole, chunked = (VERBS[verb](vae.model, vae.guide, x, seed=0, batch_size=size) for size in (100, 3))
    if verb == "anomaly_score":  # which draw a datapoint of log p(x) gets may change, its value within the error
        error = torch.hypot(whole.standard_error, chunked.standard_error)
        assert ((whole.score - chunked.score).abs() <= SIGMAS * error).all()
    else:
        assert_same(whole, chunked, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("verb", VERBS)
def test_the_dtype_is_kept_and_one_datapoint_is_many(verb, dtype, monkeypatch):
    vae, x = bernoulli_pair(dtype)
    many = tensors(VERBS[verb](vae.model, vae.guide, x, seed=0))
    mask = cells()[:1]
    monkeypatch.setitem(globals(), "N", 1)
    monkeypatch.setitem(globals(), "cells", lambda: mask)
    one = tensors(VERBS[verb](vae.model, vae.guide, x[:1], seed=0))
    for name, value in many.items():
        if verb != "anomaly_score":  # log p(x) is added up in double precision
            assert value.dtype == (dtype if value.is_floating_point() else value.dtype)
        if verb.startswith("sample") and "given" not in verb:
            assert one[name].shape == value.shape
            continue
        dim = {"manifold": None}.get(verb, list(value.shape).index(7) if 7 in value.shape else None)
        first = value if dim is None else value.narrow(dim, 0, 1)
        assert one[name].shape == first.shape
        if verb not in ("anomaly_score", "encode, draws"):
            torch.testing.assert_close(one[name], first, rtol=1e-4, atol=1e-5)


class Rows(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


KINDS = {
    "array": lambda x: x.numpy(),
    "Dataset": Rows,
    "DataLoader": lambda x: DataLoader(x, batch_size=3),
    "generator": lambda x: (rows for rows in x.split(2)),
    "tuple": lambda x: (x,),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
def test_what_fit_takes_every_verb_takes(verb, kind):
    vae, x = bernoulli_pair()
    expected = VERBS[verb](vae.model, vae.guide, x, seed=0)
    found = VERBS[verb](vae.model, vae.guide, KINDS[kind](x), seed=0)
    if verb == "anomaly_score" and kind in ("DataLoader", "generator"):  # minibatches of their own sizes
        error = torch.hypot(found.standard_error, expected.standard_error)
        assert ((found.score - expected.score).abs() <= SIGMAS * error).all()
    else:
        assert_same(expected, found, rtol=1e-9, atol=1e-9)


DRAWN = ("encode", "encode, importance", "reconstruct", "sample, aggregate", "impute", "denoise", "interpolate")


@pytest.mark.parametrize("verb", DRAWN)
def test_pixels_that_are_drawn_at_each_visit_are_those_of_the_seed(verb):
    """They are the same at each visit of one verb, or its codes and its means would be of other images."""
    vae, x = bernoulli_pair()
    grey = Binarized(0.1 + 0.8 * x)
    state = torch.get_rng_state()
    first = VERBS[verb](vae.model, vae.guide, grey, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(2)
    assert_same(first, VERBS[verb](vae.model, vae.guide, grey, seed=1), rtol=0, atol=0)
    (drawn,) = in_memory(grey, Streams(1), finite=True)
    assert_same(first, VERBS[verb](vae.model, vae.guide, drawn, seed=1), rtol=1e-9, atol=1e-9)


def methods(vae):
    """The same verbs as methods of a VAE, of data x."""
    return {
        "encode": vae.encode,
        "encode, importance": lambda x: vae.encode(x, method="importance", **FEW, seed=0),
        "reconstruct": vae.reconstruct,
        "decode": lambda x: vae.decode(x[..., :J]),
        "sample": lambda x: vae.sample(4, x, source="aggregate", seed=0),
        "sample, given": lambda x: vae.sample(4, x, cells(), source="given", method="importance", seed=0, **QUICK),
        "impute": lambda x: vae.impute(x, cells(), method="importance", seed=0, **FEW),
        "denoise": lambda x: vae.denoise(x, flips, method="importance", seed=0, **FEW),
        "interpolate": lambda x: vae.interpolate(x, 1 - x, num_steps=2),
        "traverse": lambda x: vae.traverse(x, num_steps=2),
        "anomaly_score": lambda x: vae.anomaly_score(x, seed=0, reference=x, method="importance", **QUICK),
    }


@pytest.mark.parametrize("verb", methods(VAE(D, J)))
def test_arrays_in_arrays_out(verb):
    vae, x = bernoulli_pair()
    method = methods(vae)[verb]
    of_tensor, of_array = tensors(method(x)), tensors(method(x.numpy()))
    assert all(isinstance(value, Tensor) and not value.requires_grad for value in of_tensor.values())
    assert all(isinstance(value, np.ndarray) for value in of_array.values())
    assert of_tensor
    for name, value in of_tensor.items():
        np.testing.assert_allclose(of_array[name], value.numpy(), rtol=1e-9, atol=1e-9)


def test_masks_come_with_the_data_as_they_do_in_fit():
    vae, x = bernoulli_pair()
    observed, options = cells(), {"method": "importance", "seed": 0, **FEW}
    expected = vae.impute(x, observed, **options)
    holes = torch.where(observed, x, torch.nan)
    both = TensorDataset(x, observed)
    for data in ((x, observed), both, DataLoader(both, batch_size=3), holes, DataLoader(holes, batch_size=3)):
        assert_same(expected, vae.impute(data, **options), rtol=1e-9, atol=1e-9)
    codes = vae.encode(x, observed)
    for data in ((x, observed), both, DataLoader(both, batch_size=3)):
        torch.testing.assert_close(vae.encode(data), codes)
    torch.testing.assert_close(vae.encode(x, observed=observed), codes)


def test_frames_give_arrays_and_records_of_arrays_have_their_methods():
    vae, x = bernoulli_pair()
    vae = vae.float()
    codes = vae.encode(Frame(x.numpy()))
    assert isinstance(codes, np.ndarray)
    np.testing.assert_allclose(codes, vae.encode(x.float()).numpy())
    holes = np.where(cells().numpy(), x.numpy(), np.nan)
    found = vae.double().impute(holes, method="importance", seed=0, **FEW)
    low, high = found.interval(0.5)
    assert isinstance(low, np.ndarray)
    assert (low <= high).all()
    masked = vae.impute(np.ma.masked_array(x.numpy(), ~cells().numpy()), method="importance", seed=0, **FEW)
    np.testing.assert_array_equal(masked.draws, found.draws)


def test_a_gradient_is_there_if_it_is_asked_for():
    vae, x = bernoulli_pair()
    assert not vae.encode(x).requires_grad
    assert not vae.decode(vae.encode(x)).requires_grad
    images = vae.decode(vae.encode(x, gradient=True), gradient=True)
    assert torch.autograd.grad(images.sum(), vae.encoder[0].weight)[0].abs().sum() > 0
    with pytest.raises(ValueError, match=r"expected gradient=True for the mean of the guide, .*leave gradient out"):
        vae.encode(x, gradient=True, output="draws")
    flow = VAE(D, J, hidden_dims=(5,), posterior="iaf").double()
    with pytest.raises(ValueError, match=r"expected a guide whose mean can be written down.*leave gradient out"):
        flow.encode(x, gradient=True, **QUICK)


# -- What can be written down ------------------------------------------------------------------------------------------


def pca():
    lg = LinearGaussian(N, J, 4)
    return lg, posterior_pair(lg, 1.1)


def wrong_guide(x):
    with pyro.plate("data", N, subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), J).double(), 1.1).to_event(1))


@pytest.mark.parametrize("method", ["importance", pytest.param("auto", marks=pytest.mark.slow)])
def test_codes_are_the_posteriors_mean_whatever_the_guide_says(method):
    lg = LinearGaussian(N, J, 4)
    lg.set(**(lg.true | {"log_s": torch.tensor(0.5).double()}))
    chains = Chains(num_temperatures=20, num_warmup=40)
    options = {**QUICK, "num_draws": 400, "num_particles": 20_000, "chains": chains, "seed": 0}
    codes = encode(lg.model, wrong_guide, lg.x, method=method, **options)
    deviation = torch.linalg.inv(lg.precision()).diagonal().sqrt()
    error = (codes - lg.posterior_loc(lg.x)).abs()
    assert (error <= SIGMAS * deviation / 300**0.5).all()
    assert (lg.posterior_loc(lg.x).abs() > 3 * SIGMAS * deviation / 300**0.5).any()  # the guide's mean is 0
    assert torch.equal(encode(lg.model, wrong_guide, lg.x, **QUICK), torch.zeros(N, J).double())


def test_codes_of_the_guide_are_its_mean_and_its_draws_are_its_own():
    lg, both = pca()
    loc = lg.posterior_loc(lg.x)
    torch.testing.assert_close(encode(both.model, both.guide, lg.x), loc)
    draws = encode(both.model, both.guide, lg.x, output="draws", num_draws=2000, seed=0, **QUICK)
    assert_mean(draws, loc, resolution=0.2)
    covariance = 1.1**2 * torch.linalg.inv(lg.precision())
    centred = draws - loc
    assert_mean(centred[..., 0] * centred[..., 1], covariance[0, 1], resolution=0.1)
    q = approximate_posterior(both.model, both.guide, lg.x)
    torch.testing.assert_close(q.covariance_matrix[0], covariance)


def test_reconstructions_are_the_mean_of_a_new_x():
    lg, both = pca()
    expected = lg.posterior_loc(lg.x) @ lg.value("W").T + lg.value("m")
    torch.testing.assert_close(reconstruct(both.model, both.guide, lg.x), expected)
    found = reconstruct(both.model, both.guide, lg.x, method="importance", num_draws=1000, seed=0, **QUICK)
    error = (lg.value("W") @ torch.linalg.inv(lg.precision()) @ lg.value("W").T).diagonal().sqrt() / 700**0.5
    assert ((found - expected).abs() <= SIGMAS * error).all()
    assert error.max() < 0.05
    z = normal(3, N, J)
    torch.testing.assert_close(decode(both.model, None, z, lg.x), z @ lg.value("W").T + lg.value("m"))
    torch.testing.assert_close(decode(both.model, None, {"z": z[0]}, lg.x[:1]), z[0] @ lg.value("W").T + lg.value("m"))


@pytest.mark.slow
def test_draws_have_the_moments_of_the_model_and_of_the_aggregate_posterior():
    lg, both = pca()
    W, m, s = lg.value("W"), lg.value("m"), lg.value("log_s").exp()
    x = sample(both.model, None, 4000, lg.x[:1], seed=0)
    assert_mean(x, m, resolution=0.3)
    second = torch.einsum("nd,ne->nde", x - m, x - m)
    assert_mean(second, W @ W.T + s**2 * torch.eye(4).double(), resolution=0.9)
    loc, covariance = lg.posterior_loc(lg.x), torch.linalg.inv(lg.precision())
    for method, width in (("guide", 1.1), ("importance", 1.0)):
        x = sample(both.model, both.guide, 4000, lg.x, source="aggregate", method=method, seed=0, **QUICK)
        mean = loc.mean(0)
        assert_mean(x, mean @ W.T + m, resolution=0.3)
        among = (loc - mean).T @ (loc - mean) / N
        expected = W @ (width**2 * covariance + among) @ W.T + s**2 * torch.eye(4).double()
        centred = x - mean @ W.T - m
        assert_mean(torch.einsum("nd,ne->nde", centred, centred), expected, resolution=0.9)
    means = sample(both.model, both.guide, 4000, lg.x, source="aggregate", mean=True, seed=0, **QUICK)
    expected = W @ (1.1**2 * covariance + among) @ W.T
    assert_mean((means - mean @ W.T - m).square(), expected.diagonal(), resolution=0.9)


def test_draws_of_one_datapoint_are_as_many_different_ones():
    """The aggregate posterior of one datapoint by weights: draws of its own posterior, none of them twice."""
    lg, both = pca()
    means = sample(both.model, both.guide, 50, lg.x[:1], source="aggregate", method="importance", mean=True, **QUICK)
    assert len(means.unique(dim=0)) > 45


def test_paths_are_where_they_should_be():
    lg, both = pca()
    W, m = lg.value("W"), lg.value("m")
    a, b = lg.posterior_loc(lg.x[:2]), lg.posterior_loc(lg.x[2:4])

    def found(path):
        return interpolate(both.model, both.guide, lg.x[:2], lg.x[2:4], num_steps=3, path=path, **QUICK)

    straight = torch.stack([a, (a + b) / 2, b]) @ W.T + m
    torch.testing.assert_close(found("straight"), straight)
    middle = (a + b) / (2 * torch.nn.functional.cosine_similarity(a, b) + 2)[:, None].sqrt()  # of equal lengths
    a, b = (each / each.norm(dim=-1, keepdim=True) for each in (a, b))
    middle = (a + b) / (a + b).norm(dim=-1, keepdim=True)
    unit = Pair(lg.model, lambda x: unit_guide(both.guide, x))
    spherical = interpolate(unit.model, unit.guide, lg.x[:2], lg.x[2:4], num_steps=3, path="spherical", **QUICK)
    torch.testing.assert_close(spherical, torch.stack([a, middle, b]) @ W.T + m)
    assert not torch.allclose(found("spherical")[1], found("straight")[1])


def unit_guide(guide, x):
    loc = poutine.block(poutine.trace(guide).get_trace)(x).nodes["z"]["fn"].mean
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc / loc.norm(dim=-1, keepdim=True), 1.0).to_event(1))


def test_traverses_and_manifolds_go_through_the_priors_quantiles():
    lg, both = pca()
    W, m = lg.value("W"), lg.value("m")
    found = traverse(both.model, both.guide, lg.x, num_steps=3, coverage=0.8, **QUICK)
    loc, q = lg.posterior_loc(lg.x), dist.Normal(0.0, 1.0).icdf(torch.tensor([0.1, 0.5, 0.9], dtype=torch.double))
    for j in range(J):
        for t in range(3):
            z = loc.clone()
            z[:, j] = q[t]
            torch.testing.assert_close(found[j, t], z @ W.T + m)
    grid = manifold(both.model, None, lg.x, side=2)
    q = dist.Normal(0.0, 1.0).icdf(torch.tensor([0.25, 0.75]).double())
    z = torch.tensor([[q[0], q[1]], [q[1], q[1]], [q[0], q[0]], [q[1], q[0]]])
    torch.testing.assert_close(grid, z @ W.T + m)


def test_a_prior_without_an_inverse_cdf_has_the_quantiles_of_its_draws():
    _, x = bernoulli_pair()
    two = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2).double()),
        dist.Normal(torch.tensor([[-3.0, -3.0], [3.0, 3.0]]).double(), 0.01).to_event(1),
    )
    torch.manual_seed(0)
    mixture = VAE(D, J, hidden_dims=(5,), prior=two, likelihood="gaussian").double()
    found = mixture.traverse(x, num_steps=2, coverage=0.5, **QUICK)
    z = mixture.encode(x)
    z[:, 0] = -3.0
    torch.testing.assert_close(found[0, 0], mixture.decode(z), rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match="expected a prior of independent latents with an inverse CDF"):
        mixture.manifold(2)
    assert mixture.interpolate(x, 1 - x, path="spherical").shape == (10, N, D)


@pytest.mark.slow
def test_the_regret_is_what_the_amortized_guide_loses():
    """A guide whose mean is off by one standard deviation of the posterior: KL = 1/2; N(z, 1) and N(0, 1)."""
    x = normal(6)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + 0.5**0.5 * (x > 0), 0.5**0.5))

    found = anomaly_score(
        model, guide, iter([x[:3], x[3:]]), regret=True, method="importance", seed=0, reference=x, **QUICK
    )
    expected = torch.where(x > 0, 0.5, 0.0).double()
    assert ((found.regret - expected).abs() <= SIGMAS * found.regret_error + 0.01).all()
    assert found.regret_error.max() < 0.15
    assert found.tail is not None
    with pytest.raises(ValueError, match="expected a guide, whose regret it is, got None; leave regret out"):
        anomaly_score(model, None, x, regret=True, **QUICK)


def with_a_global(x, w=None):
    """w ~ N(0, 1), z ~ N(0, 1), x ~ N(w + z, 1); given w, x is N(w, 2) and z given x is N((x - w) / 2, 1/2)."""
    w = pyro.sample("w", dist.Normal(torch.zeros(()).double(), 1.0), obs=w)
    with pyro.plate("data", 100, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("x", dist.Normal(w + z, 1.0), obs=x)


def exact_given_five(x):
    with pyro.plate("data", 100, subsample_size=len(x)):
        pyro.sample("z", dist.Normal((x - 5) / 2, 0.5**0.5))


FIVE = torch.tensor(5.0).double()


@pytest.mark.parametrize(
    "model", [pyro.condition(with_a_global, {"w": FIVE}), lambda x: with_a_global(x, FIVE)], ids=["condition", "obs"]
)
def test_a_global_latent_that_was_given_keeps_its_value_and_is_no_observation(model):
    x = 5 + normal(N)
    assert_mean(sample(model, None, 4000, x, seed=0), 5.0, resolution=0.2)
    assert_mean((sample(model, None, 4000, x, seed=0) - 5).square(), 2.0, resolution=0.3)
    assert_mean((sample(model, None, 4000, x, mean=True, seed=0) - 5).square(), 1.0, resolution=0.2)
    torch.testing.assert_close(reconstruct(model, exact_given_five, x), (x + 5) / 2)
    with pytest.raises(ValueError, match=r"one observation out of \['x'\], got 'w'; pass site='x'"):
        sample(model, None, 3, x, site="w")


@pytest.mark.parametrize("as_latent", [False, True], ids=["auxiliary", "latent"])
def test_a_mean_that_follows_another_draw_is_one_over_draws(as_latent):
    """The guide draws c ~ Bernoulli(p) and z ~ N(x if c, else -1000, 1): two runs that give c = 1 give the mean x."""

    prob = 0.99

    def model(x):
        with pyro.plate("data", 50, subsample_size=len(x)):
            if as_latent:
                pyro.sample("c", dist.Normal(torch.zeros_like(x), 1.0))
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1000.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 50, subsample_size=len(x)):
            if as_latent:
                c = pyro.sample("c", dist.Normal(torch.zeros_like(x), 1.0)) < dist.Normal(0.0, 1.0).icdf(x * 0 + prob)
            else:
                c = pyro.sample("c", dist.Bernoulli(torch.full_like(x, prob)), infer={"is_auxiliary": True}) > 0
            pyro.sample("z", dist.Normal(torch.where(c, x, torch.full_like(x, -1000.0)), 1.0))

    x = torch.full((5,), 4.0).double()
    exact, error = 4 * prob - 1000 * (1 - prob), 1004 * (prob * (1 - prob) / (5 * 10_000)) ** 0.5
    codes = encode(model, guide, x, site="z", num_draws=10_000, seed=0)
    means = reconstruct(model, guide, x, num_draws=10_000, seed=0)
    assert SIGMAS * error < 3 < abs(exact - 4)
    for found in (codes, means):
        assert abs(found.mean() - exact) <= SIGMAS * error


def test_the_mean_beside_an_auxiliary_site_that_it_doesn_t_follow_is_written_down():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(torch.full_like(x, 0.5)), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = normal(N)
    assert torch.equal(encode(model, guide, x), x / 2)


def on_a_sphere(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.ProjectedNormal(torch.zeros(len(x), 2).double()))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def towards_x(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.ProjectedNormal(3 * x))


def test_directions_stay_of_length_one():
    """Codes are x / |x|, the mean of x their direction itself, and the way between them is along the circle."""
    angles = torch.tensor([[3.0, 1.0], [0.5, -0.5]]).double()
    a, b = (torch.stack([angle.cos(), angle.sin()], -1) for angle in angles)
    with pytest.raises(ValueError, match=r"expected latents with a straight path .*, got values of length 1, .*spheri"):
        interpolate(on_a_sphere, towards_x, a, b, num_steps=3)
    found = interpolate(on_a_sphere, towards_x, a, b, num_steps=3, path="spherical")
    middle = torch.stack([angles.mean(0).cos(), angles.mean(0).sin()], -1)
    torch.testing.assert_close(found, torch.stack([a, middle, b]))
    options = {"method": "importance", "num_draws": 1000, "seed": 0, **QUICK}
    codes = encode(on_a_sphere, towards_x, a, **options)
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(2).double())
    assert (codes - a).norm(dim=-1).max() < SIGMAS * 0.6 / 700**0.5  # p(z|x) is von Mises, of concentration 4
    way = interpolate(on_a_sphere, towards_x, a, b, num_steps=3, path="spherical", **options)
    torch.testing.assert_close(way.norm(dim=-1), torch.ones(3, 2).double())


# -- What is refused ---------------------------------------------------------------------------------------------------


def two_sites(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        w = pyro.sample("w", dist.Normal(z, 1.0))
        pyro.sample("a", dist.Normal(z, 1.0), obs=x[:, 0])
        pyro.sample("b", dist.Normal(w, 1.0), obs=x[:, 1])


def guide_of_two(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.8))
        pyro.sample("w", dist.Normal(0.5 * z, 0.8))


def test_several_sites_have_names():
    x = normal(N, 2)
    with pytest.raises(ValueError, match=r"expected the name of one latent out of \['z', 'w'\], got several.*site='z'"):
        encode(two_sites, guide_of_two, x, **QUICK)
    with pytest.raises(ValueError, match=r"one latent out of \['z', 'w'\], got several .* pass latent='z'"):
        traverse(two_sites, guide_of_two, x, site="a", **QUICK)
    assert traverse(two_sites, guide_of_two, x, site="a", latent="w", **QUICK).shape == (1, 7, N)
    with pytest.raises(
        ValueError, match=r"one observation out of \['a', 'b'\], got several and no name; pass site='a'"
    ):
        reconstruct(two_sites, guide_of_two, x, **QUICK)
    with pytest.raises(ValueError, match=r"one observation out of \['a', 'b'\], got 'c'; pass site='a'"):
        sample(two_sites, None, 3, x, site="c")
    with pytest.raises(
        ValueError, match=r"expected the values of all latents, \['z', 'w'\], got one tensor; pass a dict"
    ):
        decode(two_sites, None, x[:, 0], x, site="a")
    codes = encode(two_sites, guide_of_two, x, site="w", num_draws=2000, seed=0, **QUICK)  # w follows z: by draws
    assert ((codes - x[:, 0] / 4).abs() <= SIGMAS * (0.8**2 + 0.4**2) ** 0.5 / 2000**0.5).all()
    torch.testing.assert_close(decode(two_sites, None, {"z": x[:, 0], "w": x[:, 1]}, x, site="b"), x[:, 1])
    assert reconstruct(two_sites, guide_of_two, x, site="b", **QUICK).shape == (N,)
    with pytest.raises(ValueError, match=r"is one by itself, got 'w', which depends on \['z'\].*output='draws'"):
        approximate_posterior(two_sites, guide_of_two, x, site="w")
    assert torch.equal(approximate_posterior(two_sites, guide_of_two, x, site="z").mean, x[:, 0] / 2)
    flow = VAE(2, 2, hidden_dims=(5,), posterior="iaf").double()
    assert flow.approximate_posterior((x > 0).double()).sample((3,)).shape == (3, N, 2)


def test_a_latent_that_would_be_stretched_to_the_models_is_refused_and_the_remedy_works():
    """The model takes one number for both, since it only multiplies."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((z * torch.tensor([1.0, 2.0])).sum(-1), 1.0), obs=x)

    z, x = torch.tensor([[0.5], [1.0]]), torch.zeros(1)
    with pytest.raises(
        ValueError, match=r"latent 'z' of event shape \(2,\), .* got \(1,\) at the end of \(2, 1\); pass"
    ):
        decode(model, None, z, x)
    torch.testing.assert_close(decode(model, None, torch.cat([z, 2 * z], -1), x), 5 * z[:, 0])


def test_latents_without_a_mean_are_refused_and_the_remedies_work():
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(len(x), 3).double()))
            pyro.sample("x", dist.Normal(y.double(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.3, 0.5]).double().expand(len(x), 3)))

    x = normal(N)
    with pytest.raises(ValueError, match=r"expected latents with a mean, got site 'y' ~ Categorical.*output='draws'"):
        encode(model, guide, x, **QUICK)
    with pytest.raises(ValueError, match=r"expected latents with a mean, got site 'y' ~ Categorical.*output='draws'"):
        encode(model, guide, x, method="importance", **QUICK)
    assert encode(model, guide, x, output="draws", **QUICK).shape == (100, N)
    with pytest.raises(ValueError, match=r"expected continuous latents, .* got the discrete site 'y'.*'importance'"):
        reconstruct(model, guide, x, **QUICK)
    found = reconstruct(model, guide, x, method="importance", num_draws=500, seed=0, **QUICK)
    weights = torch.exp(dist.Normal(torch.arange(3.0), 1.0).log_prob(x[:, None]))
    exact = (weights * torch.arange(3.0)).sum(-1) / weights.sum(-1)
    assert ((found - exact).abs() <= SIGMAS * 1.0 / 400**0.5).all()


def test_a_latent_that_is_summed_out_has_no_place_on_a_path_and_is_given_one_in_decode():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            y = pyro.sample("y", dist.Bernoulli(torch.full_like(x, 0.5)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z + 10 * y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = normal(N)
    for verb, args in ((interpolate, (x, x)), (traverse, (x,))):
        with pytest.raises(ValueError, match=r"expected a value of every latent .*, got none of \['y'\].*decode\("):
            verb(model, guide, *args, num_steps=3)
    z = encode(model, guide, x)
    found = decode(model, guide, {"z": z, "y": torch.ones(N).double()}, x)
    torch.testing.assert_close(found, x / 2 + 10)


def tosses(x):
    with pyro.plate("data", len(x)):
        p = pyro.sample("p", dist.Beta(2 * torch.ones(len(x)), 3.0))
        pyro.sample("x", dist.Bernoulli(p[..., None].expand(*p.shape, 5)).to_event(1), obs=x)


def guide_of_tosses(x):
    heads = x.sum(-1).float()
    with pyro.plate("data", len(x)):
        pyro.sample("p", dist.Beta(2 + heads, 8 - heads))


@pytest.mark.parametrize("kind", [torch.bool, torch.int64], ids=str)
def test_data_of_a_dtype_without_a_density_are_said_and_floats_are_taken(kind):
    x, cells = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 1, 0, 0]]), torch.ones(2, 5).bool()
    cells[:, 4] = False
    uses = {
        "elbo": lambda x: elbo(tosses, guide_of_tosses, x, seed=0).value,
        "log p(x)": lambda x: log_marginal_likelihood(tosses, guide_of_tosses, x, seed=0, **QUICK).value,
        "impute": lambda x: impute(tosses, guide_of_tosses, x, cells, method="importance", seed=0, **FEW).mean,
        "anomaly_score": lambda x: (
            anomaly_score(tosses, guide_of_tosses, x, method="importance", seed=0, **QUICK).score
        ),
    }
    for use in uses.values():
        with pytest.raises(
            ValueError, match=rf"a dtype that site 'x' ~ Bernoulli has .*, got {kind}; pass x.float\(\)"
        ):
            use(x.to(kind))
        assert use(x.to(kind).float()).isfinite().all()


def test_no_latents_at_all_are_said():
    with pytest.raises(ValueError, match=r"expected latents of one datapoint or more, got the shapes \{'p': \(0,\)\}"):
        decode(tosses, None, torch.zeros(0), torch.zeros(1, 5))


@pytest.mark.parametrize("verb", ["impute", "denoise", "reconstruct", "encode, importance", "sample, aggregate"])
def test_data_with_a_gradient_are_data(verb):
    vae, x = bernoulli_pair()
    found = VERBS[verb](vae.model, vae.guide, x.requires_grad_(), seed=0)
    assert not any(value.requires_grad for value in tensors(found).values())


def test_a_model_that_reads_x_to_make_x_is_not_sampled():
    def whole(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            past = torch.nn.functional.pad(x[:, :-1], (1, 0))
            pyro.sample("x", dist.Normal(z[..., None] + past, 1.0).to_event(1), obs=x)

    def by_steps(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("first", dist.Normal(z, 1.0), obs=x[:, 0])
            pyro.sample("second", dist.Normal(z + x[:, 0], 1.0), obs=x[:, 1])

    for model, site in ((whole, None), (by_steps, "second")):
        with pytest.raises(ValueError, match=r"expected a model whose x is drawn given its latents, .*teacher forcing"):
            sample(model, None, 3, normal(2, 4), site=site)
    assert sample(by_steps, None, 3, normal(2, 4), site="first").shape == (3,)
    for verb, args in ((decode, (torch.zeros(2).double(),)), (reconstruct, ())):
        with pytest.raises(ValueError, match=r"expected a model whose x is drawn given its latents, .*pass what it"):
            verb(whole, guide_of_first, *args, normal(2, 4))


def guide_of_first(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, 0], 1.0))


def test_a_prior_may_read_what_stands_beside_x_in_one_tensor_and_not_x():
    def model(x, given):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x[:, :2].mean(-1) if given else x[:, 2], 0.01))
            pyro.sample("x", dist.Normal(z, 0.01), obs=x[:, 2])

    x = torch.tensor([[1.0, 1.0, 5.0], [2.0, 2.0, 5.0]]).double()
    assert ((sample(model, None, 2, x, True, seed=0) - torch.tensor([1.0, 2.0])).abs() < 0.1).all()
    with pytest.raises(ValueError, match=r"expected a model whose x is drawn given its latents, .*pass what it reads"):
        sample(model, None, 2, x, False)


def test_a_label_that_x_is_made_from_is_given_or_drawn():
    """y ~ Bernoulli(1/2), x ~ N(10 y, 1): by the value that the site has, which is drawn, or by the argument."""
    y, x = torch.tensor([0.0, 1.0]).double(), torch.zeros(2).double()

    def model(x, y, given):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            drawn = pyro.sample("y", dist.Bernoulli(torch.full((len(x),), 0.5).double()), obs=y)
            pyro.sample("x", dist.Normal(10 * (y if given else drawn), 1.0), obs=x)

    given = sample(model, None, 100, x, y, True, site="x", seed=0)
    assert ((given > 5) == (torch.arange(100) % 2 == 1)).all()
    drawn = sample(model, None, 100, x, y, False, site="x", seed=0)
    assert 0.2 < ((drawn > 5) == (torch.arange(100) % 2 == 1)).double().mean() < 0.8


REFUSED = {
    "output": (lambda m, g, x: encode(m, g, x, output="mode"), r"output out of \['mean', 'draws'\], got 'mode'"),
    "method": (lambda m, g, x: encode(m, g, x, method="magic"), "expected a method out of"),
    "source": (lambda m, g, x: sample(m, g, 3, x, source="x"), r"source out of \['prior', 'aggregate', 'given'\]"),
    "means of given": (lambda m, g, x: sample(m, g, 3, x, source="given", mean=True), r"impute\(...\).mean has"),
    "path": (lambda m, g, x: interpolate(m, g, x, x, path="wild"), r"expected path out of \['straight', 'spherical'\]"),
    "steps": (lambda m, g, x: interpolate(m, g, x, x, num_steps=1), "expected num_steps of 2 or more, got 1"),
    "ends": (lambda m, g, x: interpolate(m, g, x, x[:3]), "expected as many datapoints at both ends, got 7 and 3"),
    "coverage": (lambda m, g, x: traverse(m, g, x, coverage=1.0), "expected coverage between 0 and 1, got 1.0"),
    "codes": (lambda m, g, x: decode(m, g, x[:3, :J], x), r"expected latent 'z' of 2 or 3 dimensions for 7 datapoints"),
    "no guide": (lambda m, g, x: encode(m, None, x), "expected a guide to draw from, got None"),
    "manifold": (lambda m, g, x: VAE(D, 3).manifold(), "expected 2 latent dimensions for a manifold, got 3"),
    "infinite": (lambda m, g, x: impute(m, g, x / 0, x > -9), "expected finite values in the observed cells"),
    "NaN": (lambda m, g, x: denoise(m, g, x * math.nan, flips), "expected finite data, got 42 NaN"),
    "a list": (lambda m, g, x: reconstruct(m, g, [1.0]), "a tensor, an array, .*torch.as_tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_said_in_one_sentence(name):
    vae, x = bernoulli_pair()
    run, sentence = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        run(vae.model, vae.guide, x)
    assert re.match(r"expected [^\n]*, got [^\n]*$", str(caught.value))


def test_more_draws_than_datapoints_are_made_in_minibatches():
    """N = 5 in the plate, which Pyro gives no larger minibatch."""

    def model(x):
        with pyro.plate("data", 5, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 5, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x[..., None].expand(*x.shape, 2) / 3, 0.8).to_event(1))

    x = normal(4)
    assert sample(model, None, 400, x, seed=0).var().item() == pytest.approx(3, abs=SIGMAS * 3 * (2 / 400) ** 0.5)
    assert sample(model, guide, 12, x, source="aggregate", seed=0, **QUICK).unique().shape == (12,)
    z = normal(12, 2)
    torch.testing.assert_close(decode(model, None, z, x[:1]), z.sum(-1))
    assert manifold(model, None, x, side=4).shape == (16,)


def test_a_pair_that_wants_all_rows_at_once_gets_them():
    x = normal(150)
    per_row = normal(150, seed=1)

    def model(x):
        with pyro.plate("data", 150):
            z = pyro.sample("z", dist.Normal(per_row, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 150):
            pyro.sample("z", dist.Normal(per_row, 0.1))

    draws = encode(model, guide, x, output="draws", batch_size=150, seed=0, **QUICK)
    assert_mean(draws, per_row, resolution=0.1)


def test_simplices_are_not_traversed_nor_circled_and_interpolated_they_are():
    vae = VAE(D, 3, hidden_dims=(5,), prior="dirichlet", posterior="dirichlet").double()
    x = bernoulli_pair()[1]
    with pytest.raises(ValueError, match=r"expected a latent whose dimensions can be moved one by one, .*interpolate"):
        vae.traverse(x)
    with pytest.raises(
        ValueError, match=r"expected latents that may be any real numbers for a spherical path, .*straight"
    ):
        vae.interpolate(x, 1 - x, path="spherical")
    assert vae.interpolate(x, 1 - x).shape == (10, N, D)


def test_a_table_of_mixed_columns_is_used_in_every_way():
    torch.manual_seed(0)
    vae = VAE(2, 2, hidden_dims=(5,), likelihood=Columns({"height": Gaussian(), "smokes": Bernoulli()}))
    x = torch.tensor([[0.3, 1.0], [-0.5, 0.0]])
    assert vae.reconstruct(x).shape == (2, 2)
    assert set(vae.sample(20)[:, 1].tolist()) <= {0.0, 1.0}
    assert vae.manifold(3).shape == (9, 2)
    assert vae.impute(torch.tensor([[0.3, torch.nan]]), method="importance", **FEW).draws.shape == (20, 1, 2)


def test_the_mean_of_one_latent_is_written_down_whatever_depends_on_it():
    """x ~ N(b, 1), b ~ N(a, 1), a ~ N(0, 1), and the guide exact: b given x, then a given b."""

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros_like(x), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(2 / 3 * x, (2 / 3) ** 0.5))
            pyro.sample("a", dist.Normal(b / 2, 0.5**0.5))

    x = torch.randn(6, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(encode(model, guide, x, site="b"), 2 / 3 * x)
    draws = encode(model, guide, x, site="a", num_draws=10_000, seed=0)
    assert (draws - x / 3).abs().max() < 5 * (2 / 3) ** 0.5 / 100
