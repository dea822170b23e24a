"""What is known of a datapoint beside x: covariates in encoder, decoder and prior, and offsets of counts."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import one_hot

from pyro_aevb import (
    AEVB,
    AIS,
    IWAE,
    MCEM,
    SGVB,
    VAE,
    DReG,
    ReweightedWakeSleep,
    WakeSleep,
    elbo,
    load,
    log_marginal_likelihood,
    save,
)
from pyro_aevb.posterior import posterior
from pyro_aevb.training import fit
from pyro_aevb.vae.likelihoods import LIKELIHOODS
from pyro_aevb.vae.priors import ConditionalNormal

N, D, J, C = 30, 4, 2, 3
ADAM = functools.partial(torch.optim.Adam, lr=0.01)


def batches():
    """Counts (N, D) whose means depend on a batch of three, and on a factor of each datapoint's own."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % C
    offset = 0.5 + 4 * torch.rand(N, 1, generator=generator)
    rates = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [2.0, 2.0, 2.0, 9.0]])[labels]
    x = torch.poisson(offset * rates, generator=generator)
    return {"x": x, "covariates": one_hot(labels, C).float(), "offset": offset}


def conditional(likelihood="negative-binomial", **parts):
    pyro.set_rng_seed(0)
    return VAE(D, J, hidden_dims=(5,), likelihood=likelihood, covariates=C, **parts)


@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial", "zero-inflated-poisson"])
def test_the_densities_are_those_written_by_hand(likelihood):
    vae, data = conditional(likelihood, prior=ConditionalNormal(C, 4)), batches()
    for parameter in vae.prior.parameters():
        torch.nn.init.normal_(parameter)
    pyro.set_rng_seed(1)
    trace = pyro.poutine.trace(vae.guide).get_trace(**data)
    z = trace.nodes["z"]["value"]
    model = pyro.poutine.trace(pyro.poutine.replay(vae.model, trace)).get_trace(**data)
    model.compute_log_prob()
    c, offset, x = data["covariates"], data["offset"], data["x"]
    loc, log_scale = vae.prior.network(c).chunk(2, -1)
    torch.testing.assert_close(
        model.nodes["z"]["log_prob"], dist.Normal(loc, log_scale.exp()).log_prob(z).sum(-1), rtol=1e-5, atol=1e-5
    )
    parts = vae.decoder(torch.cat([z, c], 1)).chunk(vae.likelihood.outputs_per_dim, -1)
    if likelihood == "poisson":
        p = dist.Poisson(offset * parts[0].exp())
    elif likelihood == "negative-binomial":  # mean m, variance m + m^2 / r
        m, r = offset * parts[0].exp(), parts[1].exp()
        p = dist.NegativeBinomial(r, probs=m / (m + r))
    else:
        p = dist.ZeroInflatedPoisson(offset * parts[1].exp(), gate=parts[0].sigmoid())
    torch.testing.assert_close(model.nodes["x"]["log_prob"], p.log_prob(x).sum(-1), rtol=1e-4, atol=1e-4)
    loc, log_scale = vae.encoder(torch.cat([x.log1p(), c], 1)).chunk(2, -1)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["z"]["fn"].mean, loc)


def dreamed(sites, x, covariates, offset):
    """In a dream, too, they are what they were."""
    return {"x": sites["x"]}


LEARNERS = {
    "aevb-a": lambda v, **o: AEVB(v.model, v.guide, ADAM, **o),
    "aevb-b": lambda v, **o: AEVB(v.model, v.guide, ADAM, SGVB(kl="analytic"), **o),
    "iwae": lambda v, **o: AEVB(v.model, v.guide, ADAM, IWAE(3), **o),
    "dreg": lambda v, **o: AEVB(v.model, v.guide, ADAM, DReG(3), **o),
    "wake-sleep": lambda v, **o: WakeSleep(v.model, v.guide, ADAM, ADAM, dream_arguments=dreamed, **o),
    "reweighted": lambda v, **o: ReweightedWakeSleep(v.model, v.guide, ADAM, ADAM, num_particles=3, **o),
    "mcem": lambda v, **o: MCEM(v.model, ADAM, num_leapfrog=2, **o),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_trains_it_by_covariates_and_offsets_alike_on_the_fast_path(name):
    results = []
    for compile in (False, "graph"):
        vae = conditional(prior=ConditionalNormal(C))
        start = {name: p.detach().clone() for name, p in vae.named_parameters()}
        fit(LEARNERS[name](vae, compile=compile), batches(), epochs=2, batch_size=10, progress=False)
        moved = {key: p.detach() - start[key] for key, p in vae.named_parameters()}
        assert moved["prior.network.0.bias"].abs().min() > 0
        assert moved["decoder.0.weight"][:, J:].abs().min() > 0  # what the decoder makes of the covariates
        results.append(torch.cat([p.flatten() for p in moved.values()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pareto_k", "ignore:the draws of")  # a guide that isn't trained
def test_every_estimate_takes_them():
    """The bounds of the datapoints are below log p(x|c), on which quadrature, importance and AIS agree."""
    vae, data = conditional(prior=ConditionalNormal(C)), batches()
    exact = log_marginal_likelihood(vae.model, None, **data, method="quadrature", progress=False)
    bound = elbo(vae.model, vae.guide, **data, num_particles=200, seed=0)
    assert (bound.value < exact.value + 5 * bound.standard_error).all()
    for method in ("importance", AIS(20, num_leapfrog=3)):
        found = log_marginal_likelihood(
            vae.model, vae.guide, **data, method=method, num_particles=500, seed=0, progress=False, compile=False
        )
        assert ((found.value - exact.value).abs() < 5 * found.standard_error + 0.02).all()
    other = data | {"covariates": data["covariates"].roll(1, 0)}
    moved = log_marginal_likelihood(vae.model, None, **other, method="quadrature", progress=False)
    assert (moved.value - exact.value).abs().max() > 0.1
    draws = posterior(
        vae.model, vae.guide, **data, method="importance", num_draws=10, seed=0, progress=False, compile=False
    )
    assert draws.draws["z"].shape == (10, N, J)


@pytest.mark.filterwarnings("ignore:the draws of")
def test_codes_and_images_see_them():
    vae, data = conditional(), batches()
    codes = vae.encode(data["x"], covariates=data["covariates"])
    z, rows = torch.ones(2, J), torch.eye(C)
    assert torch.equal(vae.decode(z, rows[:1]), vae.decode(z, rows[[0, 0]]))
    assert vae.sample(9, covariates=rows[:1], seed=0).shape == (9, D)
    holes = data["x"].where(data["x"] > 1, torch.nan)
    found = vae.impute(holes, covariates=data["covariates"], method="guide", num_draws=5)
    assert found.mean.shape == (N, D)
    assert not torch.equal(codes, vae.encode(data["x"], covariates=data["covariates"].roll(1, 0)))
    assert vae.decode(torch.zeros(7, C, J), torch.eye(C)).shape == (7, C, D)


def test_images_of_any_size_may_have_covariates(tmp_path):
    for shape in ((1, 7, 10), (3, 5, 5), (1, 1, 2), (1, 8, 8)):
        size = shape[0] * shape[1] * shape[2]
        vae = VAE(size, 2, convolutions=shape, covariates=C)
        x, c = torch.rand(6, size).round(), torch.rand(6, C)
        assert vae.decode(vae.encode(x, covariates=c), c).shape == (6, size)
        AEVB(vae.model, vae.guide, ADAM, compile=False).step(x, covariates=c)
        save(vae, tmp_path / str(size))
        assert torch.equal(
            load(tmp_path / str(size)).decode(torch.ones(1, 2), c[:1]), vae.decode(torch.ones(1, 2), c[:1])
        )


def test_a_saved_one_has_its_covariates_and_its_prior(tmp_path):
    vae = conditional(prior=ConditionalNormal(C, 4))
    save(vae, tmp_path)
    same = load(tmp_path)
    values = [elbo(v.model, v.guide, **batches(), seed=0).value for v in (vae, same)]
    assert torch.equal(*values)
    assert str(same) == str(vae)


def test_what_does_not_fit_is_refused_and_the_remedy_works():
    vae, data = conditional(), batches()
    with pytest.raises(ValueError, match=r"expected covariates of shape \(30, 3\) .* got None; labels become columns"):
        vae.model(data["x"])
    with pytest.raises(ValueError, match=r"got \(\(30,\), torch.int64\); labels become columns by"):
        vae.guide(data["x"], covariates=torch.arange(N) % C)
    vae.guide(data["x"], covariates=one_hot(torch.arange(N) % C, C).float())
    with pytest.raises(ValueError, match=r"covariates of shape \(30, 0\)"):
        VAE(D, J).model(data["x"], covariates=data["covariates"])
    with pytest.raises(ValueError, match=r"expected an offset of shape \(30, 1\) or \(30, 4\) .* got \(30,\)"):
        vae.model(**data | {"offset": data["offset"][:, 0]})
    with pytest.raises(
        ValueError, match=r"expected a likelihood of counts for offset=, .* got Gaussian; take 'poisson'"
    ):
        conditional("gaussian").model(**data)
    with pytest.raises(ValueError, match="expected covariates of 0 or more"):
        VAE(D, J, covariates=-1)
    with pytest.raises(ValueError, match=r"expected 3 columns of covariates for ConditionalNormal\(3\), got 0"):
        VAE(D, J, prior=ConditionalNormal(C))
    assert {name for name, made in LIKELIHOODS.items() if made().log_mean is not None} == {
        "poisson",
        "negative-binomial",
        "zero-inflated-poisson",
        "zero-inflated-negative-binomial",
    }


def by_hand(vae):
    """The same model and guide, written in Pyro around networks of its own with the same weights."""
    encoder, decoder = copy.deepcopy(vae.encoder), copy.deepcopy(vae.decoder)

    def model(x, covariates, offset):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), J), 1.0).to_event(1))
            log_mean, log_count = decoder(torch.cat([z, covariates.expand(*z.shape[:-1], C)], -1)).chunk(2, -1)
            logits = log_mean + offset.log() - log_count
            pyro.sample("x", dist.NegativeBinomial(log_count.exp(), logits=logits).to_event(1), obs=x)

    def guide(x, covariates, offset):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_variance = encoder(torch.cat([x.log1p(), covariates], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, (log_variance / 2).exp()).to_event(1))

    return model, guide


def test_a_model_of_counts_is_the_one_written_in_pyro():
    data, values = batches(), []
    few = {name: each[:20] for name, each in data.items()}
    vae = conditional()
    for model, guide in (by_hand(vae), (vae.model, vae.guide)):
        pyro.set_rng_seed(0)
        fit(AEVB(model, guide, ADAM, compile=False), few, epochs=5, batch_size=10, progress=False)
        held_out = {name: each[20:] for name, each in data.items()}
        values.append(elbo(model, guide, **held_out, num_particles=5, seed=0).value)
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-4)
    for line in ("c of 3 covariates", "p(x|z, c) = NegativeBinomial(f(z, c))", "q(z|x, c) ="):
        assert line in str(vae)


def test_x_is_made_of_as_many_covariates_as_are_given_or_of_one_row():
    vae, z = VAE(6, 2, covariates=3, hidden_dims=(5,)), torch.zeros(4, 2)
    row = torch.eye(3)[1]
    for one in (row, row[None]):
        assert torch.equal(vae.sample(4, covariates=one, seed=0), vae.sample(4, covariates=row.expand(4, 3), seed=0))
        assert torch.equal(vae.decode(z, one), vae.decode(z, row.expand(4, 3)))
    for wrong in (torch.eye(3), torch.ones(4, 2), torch.ones(4, 1), torch.ones(4)):
        for made in (lambda wrong=wrong: vae.sample(4, covariates=wrong), lambda wrong=wrong: vae.decode(z, wrong)):
            with pytest.raises(
                ValueError, match=r"expected covariates of shape \([14], 3\), a row for each x, or of \(3,\)"
            ):
                made()
