"""Every prior with every posterior that fits, every learner that applies; what doesn't fit is refused when built."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import in_turn, some_partners, two_by_two
from statistics_tools import assert_mean
from torch import nn
from vae_parts import FITTING, D, J, N, data, make

from pyro_aevb import AEVB, IWAE, MCEM, SGVB, VAE, DReG, ReweightedWakeSleep, WakeSleep, log_marginal_likelihood
from pyro_aevb.evidence import elbo
from pyro_aevb.model_guide import log_density
from pyro_aevb.training import fit
from pyro_aevb.vae.likelihoods import LIKELIHOODS, FixedGaussian
from pyro_aevb.vae.networks import conv_decoder, conv_encoder
from pyro_aevb.vae.posteriors import POSTERIORS, LowRankGaussian, PerDatapoint
from pyro_aevb.vae.priors import PRIORS, MixturePrior, VampPrior

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
REFUSED = [(p, q) for p in PRIORS for q in POSTERIORS if (p, q) not in FITTING]
LEARNERS = {
    "aevb": lambda v: AEVB(v.model, v.guide, ADAM, SGVB(2, kl="analytic")),
    "iwae": lambda v: AEVB(v.model, v.guide, ADAM, IWAE(2)),
    "dreg": lambda v: AEVB(v.model, v.guide, ADAM, DReG(2)),
    "wake-sleep": lambda v: WakeSleep(v.model, v.guide, ADAM, ADAM),
    "reweighted": lambda v: ReweightedWakeSleep(v.model, v.guide, ADAM, ADAM, num_particles=2),
    "mcem": lambda v: MCEM(v.model, ADAM, num_leapfrog=2),
}
NEED_THE_INVERSE = ("dreg", "wake-sleep", "reweighted")
APPLYING = [(p, q, name) for p, q in FITTING for name in LEARNERS if q != "planar" or name not in NEED_THE_INVERSE]


def law(vae, x, name, steps=10):
    """Train, and hold what every combination has to keep to."""
    before = {n: p.clone() for n, p in vae.named_parameters()}
    learner = LEARNERS[name](vae)
    for i in range(steps):
        index = torch.arange(10) + 10 * (i % 4)
        assert learner.step(x[index], index=index).loss.isfinite()
    trained = {n.split("$$$")[0] for n in (learner.theta if name == "mcem" else learner.theta | learner.phi)}
    for n, p in vae.named_parameters():
        assert p.isfinite().all(), n
        assert torch.equal(before[n], p) == (n not in trained), n
    if name != "mcem":
        assert trained == set(before)


def outcomes(make_vae, x):
    """Shapes, supports, an exact copy."""
    vae, copy = make_vae(), make_vae()
    copy.load_state_dict(vae.state_dict())
    results = []
    for each in (vae, copy):
        pyro.set_rng_seed(1)
        results.append(log_density(each.model, each.guide, x, num_particles=3))
    assert results[0].log_joint.shape == results[0].log_q.shape == (3, N)
    assert results[0].log_weight.isfinite().all()
    torch.testing.assert_close(results[1].log_weight, results[0].log_weight, rtol=0, atol=0)
    evidence = log_marginal_likelihood(vae.model, vae.guide, x[:3], num_particles=4, progress=False)
    assert evidence.value.isfinite().all()
    with torch.no_grad():
        p, q = vae.prior(vae._q), vae.posterior(vae.encoder(x))
        for fn in (p, q):
            assert fn.support.check(fn.sample((5,))).all()
        assert vae.encode(x).shape == (N, J)
        assert vae.decode(p.sample((4,))).shape == (4, D)


@pytest.mark.parametrize(("prior", "posterior"), some_partners(FITTING))
def test_shapes_supports_and_copies(prior, posterior):
    outcomes(functools.partial(make, prior, posterior), data())


@pytest.mark.parametrize(("prior", "posterior", "name"), two_by_two(APPLYING))
def test_every_learner_that_applies_trains_it(prior, posterior, name):
    x = data()
    pyro.set_rng_seed(0)
    law(make(prior, posterior), x, name)


@pytest.mark.parametrize(
    ("prior", "posterior"),
    some_partners(FITTING, count=1),
)
def test_it_runs_on_the_fast_path(prior, posterior):
    learner = LEARNERS["aevb"](make(prior, posterior))
    learner.configure(compile="graph")
    for i in range(3):
        learner.step(data()[10 * i : 10 * i + 10])
    (capture,) = learner.captures
    assert capture.obstacle is None
    assert capture._traces >= 1


@pytest.mark.parametrize(
    ("prior", "posterior", "likelihood"),
    in_turn(FITTING, [name for name in LIKELIHOODS if name != "bernoulli"]),
)
def test_with_every_likelihood(prior, posterior, likelihood):
    x = data() if likelihood != "beta" else 0.1 + 0.8 * data()
    pyro.set_rng_seed(0)
    law(make(prior, posterior, likelihood), x, "aevb")


@pytest.mark.parametrize(("prior", "posterior"), REFUSED)
def test_what_does_not_fit_is_refused_when_built(prior, posterior):
    with pytest.raises(ValueError, match=r"expected prior and posterior with one support|the density of any z"):
        make(prior, posterior)


@pytest.mark.parametrize("learner", NEED_THE_INVERSE)
def test_a_planar_flow_says_what_it_cannot_do(learner):
    x = data()
    with pytest.raises(NotImplementedError, match=r"has no inverse; take posterior='iaf' or 'spline', or what is"):
        LEARNERS[learner](make("normal", "planar")).step(x[:10])


def test_objects_functions_and_distributions():
    x = data()
    vae = make(MixturePrior(7), LowRankGaussian(1), lambda h: dist.Bernoulli(logits=h).to_event(1))
    assert vae.prior.loc.shape == (7, J)
    law(vae, x, "aevb")
    for given in (dist.Laplace(torch.zeros(()).double(), 1.0), dist.Normal(torch.zeros(J).double(), 1.0).to_event(1)):
        law(make(given, "normal"), x, "aevb")
    with torch.no_grad():
        vae = make(VampPrior(2, pseudo_inputs=x[:2].float()), "normal")
        first = vae.posterior(vae.encoder(x[:2]))
        z = torch.randn(4, J).double()
        expected = torch.logsumexp(first.log_prob(z[:, None]), -1) - math.log(2)
        torch.testing.assert_close(vae.prior(vae._q).log_prob(z), expected)


@pytest.mark.parametrize("prior", ["flow", pytest.param("spline", marks=pytest.mark.slow), "mixture"])
def test_priors_are_densities(prior):
    """Two dimensions, on a grid: the integral of p(z) is 1, and draws have its mean."""
    pyro.set_rng_seed(0)
    vae = VAE(D, 2, prior=prior, hidden_dims=(6,)).double()
    line = torch.linspace(-12, 12, 601).double()
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        p = vae.prior(vae._q)
        density = p.log_prob(grid).exp() * (line[1] - line[0]) ** 2
        torch.testing.assert_close(density.sum(), torch.ones(()).double(), rtol=2e-3, atol=0)
        assert_mean(p.sample((50_000,)), (density[:, None] * grid).sum(0), resolution=0.1)


@pytest.mark.parametrize("posterior", [p for p in POSTERIORS if p not in ("planar", "mixture")])
def test_posteriors_are_densities(posterior):
    """One or two dimensions: the density of other values than one's own draws sums to 1."""
    torch.manual_seed(1)
    dim = 2 if posterior in ("full", "low-rank", "iaf", "spline", "dirichlet") else 1
    made = POSTERIORS[posterior]()
    made.setup(dim)
    q = made.double()(torch.randn(made.num_outputs).double() * 0.5)
    line = torch.linspace(-15, 15, 301 if posterior == "spline" else 601).double()  # splines take longest
    with torch.no_grad():
        if posterior == "dirichlet":
            t = torch.linspace(1e-7, 1 - 1e-7, 400_001).double()
            total = torch.trapezoid(q.log_prob(torch.stack([t, 1 - t], -1)).exp(), t)
        elif posterior in ("log-normal", "gamma", "weibull", "beta"):
            u = (
                torch.linspace(-40, 12, 20_001).double()
                if posterior != "beta"
                else torch.linspace(-60, 36, 20_001).double()
            )
            z, log_slope = (u.exp(), u) if posterior != "beta" else (u.sigmoid(), nn.functional.logsigmoid(u) * 2 - u)
            total = torch.trapezoid(
                (q.log_prob(z.clamp(max=1 - 1e-15 if posterior == "beta" else math.inf)[:, None]) + log_slope).exp(), u
            )
        else:
            grid = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
            total = q.log_prob(grid).exp().sum() * (line[1] - line[0]) ** dim
    torch.testing.assert_close(total, torch.ones(()).double(), rtol=3e-3, atol=0)


@pytest.mark.slow
def test_a_posterior_per_datapoint_reaches_its_datapoints():
    """q(z_n) with parameters of its own: on probabilistic PCA's shape the bound beats a starved encoder's."""
    x = data()
    index = torch.arange(N)
    vae = make("normal", PerDatapoint("full", dataset_size=N))
    assert vae.posterior.notation == "N(m_n, L_n L_n')"
    learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=0.05), SGVB(5, kl="analytic"))
    before = elbo(vae.model, vae.guide, x, index=index, num_particles=50, seed=0).mean().value
    fit(learner, {"x": x, "index": index}, epochs=200, batch_size=20, progress=False)
    after = elbo(vae.model, vae.guide, x, index=index, num_particles=50, seed=0).mean().value
    assert after > before + 0.2
    assert vae.encode(x, index=index).std(0).min() > 0.1
    with pytest.raises(ValueError, match="each datapoint's place in the data set"):
        vae.guide(x)


def test_rounding_in_the_inverse_of_a_flow_is_not_taken_for_particles_that_are_mixed():
    torch.manual_seed(0)
    vae = VAE(4, 2, likelihood="gaussian", posterior="iaf", hidden_dims=(5,))
    x = torch.randn(5, 4)
    with torch.no_grad():
        for parameter in vae.parameters():  # log q of a draw is then off by nats in float32, where z is inverted
            parameter.add_(0.6 * torch.randn_like(parameter))
    assert elbo(vae.model, vae.guide, x, num_particles=5, seed=0).value.isfinite().all()


def test_convolutions_and_networks_of_ones_own():
    x = (torch.rand(12, 64) < 0.3).float()
    vae = VAE(64, 2, convolutions=(1, 8, 8), likelihood="gaussian", posterior="iaf", dataset_size=12)
    learner = AEVB(vae.model, vae.guide, ADAM, IWAE(3))
    for _ in range(3):
        learner.step(x)
    assert vae.decode(torch.zeros(3, 5, 2)).shape == (3, 5, 64)
    own = VAE(64, 2, encoder=nn.Linear(64, 4), decoder=nn.Sequential(nn.Linear(2, 64)))
    AEVB(own.model, own.guide, ADAM).step(x)
    assert isinstance(own.encoder, nn.Linear)
    # The second half of the outputs is the second output of each pixel, in place.
    decoder = conv_decoder(2, (1, 8, 8), outputs_per_dim=2)
    outputs = decoder(torch.zeros(1, 2))
    maps = nn.Sequential(*list(decoder)[:-1])(torch.zeros(1, 2))
    assert torch.equal(outputs.chunk(2, -1)[1].reshape(8, 8), maps[0, 1])
    assert conv_encoder((3, 8, 8), 5)(torch.zeros(2, 7, 192)).shape == (2, 7, 5)


def test_the_model_in_the_papers_notation():
    assert str(VAE(784, 20)).splitlines() == [
        "VAE(",
        "  p(z)   = Normal(loc=0, scale=1),  z of 20 dimensions, real",
        "  p(x|z) = Bernoulli(f(z)),  x of 784 dimensions",
        "  q(z|x) = N(m(x), diag(s(x)^2))",
        "  f: 20-500-784; encoder: 784-500-40",
        ")",
    ]


def conjugate(family):
    """A VAE whose posterior family holds the exact posterior, and log p(x)."""
    if family == "gamma":
        x = torch.poisson(torch.full((N, 1), 3.0)).double()
        prior = dist.Gamma(torch.tensor(2.0).double(), torch.tensor(1.0).double())
        exact = dist.GammaPoisson(torch.tensor(2.0).double(), torch.tensor(1.0).double()).log_prob(x).sum(-1)
        likelihood = lambda z: dist.Poisson(z).to_event(1)  # noqa: E731
    else:
        x = torch.cat([torch.zeros(N // 2, 1), torch.ones(N // 2, 1)]).double()
        prior = dist.Beta(torch.tensor(2.0).double(), torch.tensor(3.0).double())
        exact = dist.Bernoulli(torch.tensor(2 / 5).double()).log_prob(x).sum(-1)
        likelihood = lambda z: dist.Bernoulli(z).to_event(1)  # noqa: E731
    return x, prior, likelihood, exact


@pytest.mark.parametrize("family", ["gamma", pytest.param("beta", marks=pytest.mark.slow)])
def test_conjugate_families_reach_the_evidence(family):
    """Gamma-Poisson and Beta-Bernoulli, the guide of the posterior's family: within 0.01 nats a datapoint."""
    pyro.set_rng_seed(0)
    x, prior, likelihood, exact = conjugate(family)
    vae = VAE(
        1, 1, prior=prior, likelihood=likelihood, posterior=family, decoder=nn.Identity(), hidden_dims=(30,)
    ).double()
    learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=0.02), SGVB(10, kl="analytic"))
    fit(learner, x, epochs=600, batch_size=N, schedule=lambda done: 1 - done, progress=False)
    bound = elbo(vae.model, vae.guide, x, num_particles=4000, seed=0)
    gap = (exact - bound.value).mean()
    assert bound.standard_error.max() < 0.01
    assert -0.002 < gap < 0.01, gap


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"prior": "vampire"}, ValueError, "a prior out of .* got 'vampire'"),
        ({"posterior": "exact"}, ValueError, "a posterior out of .* got 'exact'"),
        ({"prior": 3.0}, TypeError, "a prior's name or an object"),
        ({"posterior": dist.Normal(0.0, 1.0)}, TypeError, "a posterior's name or an object"),
        ({"prior": dist.Normal(torch.zeros(7), 1.0).to_event(1)}, ValueError, r"event shape \(3,\) .* got \(7,\)"),
        ({"prior": dist.Normal(torch.zeros(7), 1.0)}, ValueError, r"event shape \(3,\) .* got \(\) and \(7,\)"),
        ({"encoder": nn.Linear(D, 7)}, ValueError, r"encoder to make outputs of shape \(6, 6\) .* got \(6, 7\)"),
        ({"encoder": nn.Linear(D + 1, 6)}, ValueError, r"encoder to take inputs of shape \(6, 5\)"),
        ({"decoder": nn.Linear(J, D + 1)}, ValueError, r"decoder to make outputs of shape \(6, 5\) .* got \(6, 6\)"),
        ({"convolutions": (1, 4, 4)}, ValueError, r"encoder to take inputs of shape \(6, 5\)"),
        ({"convolutions": (1, 5)}, ValueError, r"expected image_shape \(channels, height, width\) of 1 or more"),
        ({"prior": VampPrior(4, torch.zeros(4, 2))}, ValueError, r"pseudo_inputs of shape \(4, 5\), got \(4, 2\)"),
        ({"posterior": PerDatapoint(dataset_size=4), "encoder": nn.Linear(D, 6)}, ValueError, "no encoder beside"),
    ],
)  # fmt: skip
def test_what_is_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        VAE(D, J, **kwargs)


@pytest.mark.filterwarnings("ignore:the draws of")
@pytest.mark.parametrize("method", ["hmc", "importance", "auto"])
def test_draws_from_the_posterior_need_no_inverse_of_the_guide(method):
    """A linear decoder: p(z|x) is Gaussian, N(P W'(x - b) / s^2, P) with P = (I + W'W / s^2)^-1."""
    torch.manual_seed(0)
    decoder = nn.Linear(2, 4)
    vae = VAE(4, 2, likelihood=FixedGaussian(0.7), posterior="planar", hidden_dims=(5,), decoder=decoder).double()
    x = 0.3 * torch.randn(3, 4).double()
    w, b = decoder.weight.detach(), decoder.bias.detach()
    p = torch.linalg.inv(torch.eye(2) + w.T @ w / 0.49)
    exact = (x - b) @ w @ p / 0.49
    found = vae.encode(x, method=method, num_draws=2000, seed=0, progress=False)
    assert (found - exact).abs().max() < 0.15
