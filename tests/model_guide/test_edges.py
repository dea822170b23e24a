"""The edges of the contract: modules, supports, guides and objectives of kinds that need a word or a refusal."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from forms import FORMS

from pyro_aevb import (
    AEVB,
    AIS,
    BDMC,
    IWAE,
    SGVB,
    SMC,
    STL,
    VAE,
    WakeSleep,
    elbo,
    fit,
    log_density,
    log_marginal_likelihood,
)

SGD = functools.partial(torch.optim.SGD, lr=0.0)


def close(value, expected):
    torch.testing.assert_close(value.double(), expected.double(), rtol=1e-9, atol=1e-9)


def test_a_module_that_takes_particles_for_something_else_is_noticed():
    """BatchNorm1d(M) takes (K, M, M) for K rows of M channels."""
    m = 6
    norm = torch.nn.BatchNorm1d(m).double()
    norm.running_mean.copy_(torch.arange(m).double())
    net = torch.nn.Sequential(torch.nn.Linear(2, m).double(), norm)
    x = torch.randn(m, m).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    norm.eval()
    sentence = "another log probability of site 'x' with two at once than one by one.*vectorize=False"
    for run in (
        lambda: elbo(model, guide, x, num_particles=3),
        lambda: log_density(model, guide, x, num_particles=3),
        lambda: log_marginal_likelihood(model, guide, x, num_particles=30, progress=False),
        lambda: IWAE(3).loss(model, guide, x),
    ):
        with pytest.raises(ValueError, match=sentence):
            run()
    assert elbo(model, guide, x, num_particles=3, vectorize=False).value.isfinite().all()
    assert IWAE(3, vectorize=False).loss(model, guide, x) < 1e6
    assert SGVB().loss(model, guide, x) < 1e6


@pytest.mark.parametrize("half", ["model", "guide"])
def test_a_global_latent_that_takes_all_particles_at_once_is_noticed(half):
    """p(v|w), or q(v|w), around the mean of w over the particles, which is another density than with one of them."""

    def globals_(mixes):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("v", dist.Normal(w.mean() if mixes else w, 0.1))

    def model(x):
        globals_(half == "model")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        globals_(half == "guide")
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    x, site = torch.randn(4), "v" if half == "model" else "v of the guide"
    for run in (lambda: SGVB(3).loss(model, guide, x), lambda: log_density(model, guide, x, num_particles=3)):
        with pytest.raises(ValueError, match=rf"another log probability of site '{site}' with two at once"):
            run()
    assert SGVB(3, vectorize=False).loss(model, guide, x) < 1e6


def test_evaluation_leaves_modules_as_they_were():
    """Other data were merely evaluated: averages, modes and the numbers of the first data stay."""
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1), torch.nn.Dropout(0.5)).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x)[:, 0], 1.0))

    x = torch.randn(20, 3).double()
    before = elbo(model, guide, x, seed=0).value
    kept = [b.clone() for b in net.buffers()]
    elbo(model, guide, x + 50)
    log_density(model, guide, x + 50, num_particles=2)
    log_marginal_likelihood(model, guide, x[:2] + 1, num_particles=20, progress=False)
    close(elbo(model, guide, x, seed=0).value, before)
    assert net.training
    assert all(torch.equal(a, b) for a, b in zip(kept, net.buffers(), strict=True))


def test_free_bits_of_a_sampled_kl_are_refused():
    model, guide, args, _ = FORMS["plain"]()
    with pytest.raises(ValueError, match="expected KLs in closed form for free_bits, got a sampled one at site 'z'"):
        SGVB(free_bits=0.5).loss(model, guide, *args)
    assert SGVB(kl="analytic", free_bits=0.5).terms(model, guide, *args).bound.isfinite().all()


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (lambda: pyro.infer.TraceTailAdaptive_ELBO(num_particles=2, vectorize_particles=True), "loss Pyro doesn't"),
        (lambda: pyro.infer.ReweightedWakeSleep(num_particles=2), "one for each half; use the learner"),
    ],
)
def test_objectives_without_one_loss_are_refused(objective, sentence):
    model, guide, _, _ = FORMS["plain"]()
    with pytest.raises(ValueError, match=sentence):
        AEVB(model, guide, SGD, objective())


def test_a_guide_messenger_trains_like_any_guide():
    """AutoNormalMessenger runs the model itself, and its likelihood must not cancel."""
    x = torch.randn(40) + 1

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = pyro.infer.autoguide.AutoNormalMessenger(model, amortized_plates=("data",))
    guide(x)
    ours = torch.stack([SGVB().terms(model, guide, x).bound.mean() for _ in range(200)]).mean()
    stock = -sum(pyro.infer.Trace_ELBO().loss(model, guide, x) for _ in range(200)) / 200 / len(x)
    assert abs(ours.item() - stock) < 0.1
    with pytest.raises(ValueError, match="got a guide messenger"):
        STL().loss(model, guide, x)


BY_ITSELF = r"^expected a guide that can be run by itself, got a guide messenger .*"
FROM_THE_GUIDE = {
    "posterior-density": ("posterior-density", "posterior-density", None),
    "ais": (AIS(100, num_leapfrog=3, start="guide"), AIS(100, num_leapfrog=3, start="prior"), "guide"),
    "smc": (SMC(20, start="guide"), SMC(20, start="prior"), "guide"),
    "bdmc": (BDMC(AIS(100, num_leapfrog=3, start="guide"), chain=5), BDMC(AIS(100, num_leapfrog=3), chain=5), "guide"),
}


@pytest.mark.filterwarnings("ignore:pareto_k", "ignore:the fitted density")
@pytest.mark.parametrize("kind", FROM_THE_GUIDE)
def test_no_chain_starts_from_a_guide_messenger(kind):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = torch.tensor([0.5, -2.0])
    guide = pyro.infer.autoguide.AutoNormalMessenger(model)
    guide(x)
    method, instead, needs = FROM_THE_GUIDE[kind]
    with pytest.raises(ValueError, match=BY_ITSELF + r"start from the prior: AIS\(start='prior'\)"):
        log_marginal_likelihood(model, guide, x, method=method, progress=False)
    found = log_marginal_likelihood(model, needs and guide, x, method=instead, seed=0, progress=False)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(x).double()
    torch.testing.assert_close(found.value, exact, atol=0.2, rtol=0)


def test_wake_sleep_has_no_dreams_for_a_guide_messenger():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(5)
    guide = pyro.infer.autoguide.AutoNormalMessenger(model, amortized_plates=("data",))
    guide(x)
    with pytest.raises(ValueError, match=BY_ITSELF + r"train with AEVB\(model, guide, optim, SGVB\(\)\)"):
        WakeSleep(model, guide, SGD, SGD).step(x)
    assert AEVB(model, guide, SGD, SGVB()).step(x).loss > 0


def test_the_prior_on_theta_takes_the_constrained_value_wherever_it_was_declared():
    pyro.param("scale", torch.tensor(2.0).double(), constraint=dist.constraints.positive)

    def model(x):
        scale = pyro.param("scale")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 5, 0.8**0.5))

    x = torch.randn(10).double()
    losses = {}
    for prior in (None, dist.Exponential(torch.tensor(3.0).double())):
        pyro.set_rng_seed(0)
        losses[prior is None] = AEVB(model, guide, SGD, theta_prior=prior).step(x).loss
    close(losses[False] - losses[True], 6.0 - torch.tensor(3.0).double().log())


@pytest.mark.parametrize("compile", [False, "graph"])
def test_grey_pixels_in_a_later_minibatch_are_refused(compile):
    torch.manual_seed(0)
    vae = VAE(6, 2, hidden_dims=(8,), dataset_size=100)
    x = (torch.rand(100, 6) < 0.5).float()
    x[65] = 0.5
    sentence = "data inside the support of site 'x'.*grey pixels are made binary"
    with pytest.raises(ValueError, match=sentence):
        elbo(vae.model, vae.guide, x, batch_size=10, seed=0, compile=compile)
    with pytest.raises(ValueError, match=sentence):
        log_marginal_likelihood(
            vae.model, vae.guide, x, num_particles=50, batch_size=10, compile=compile, progress=False
        )
    for objective in (None, SGVB(), IWAE(2)):
        learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-3), objective, compile=compile)
        with pytest.raises(ValueError, match=sentence):
            fit(learner, iter(x.split(10)), progress=False)


def test_a_distribution_made_without_validation_is_not_asked():
    """The first VAE of most Pyro users: grey pixels under Bernoulli(validate_args=False)."""
    x = torch.full((8, 4), 0.5)
    weight = torch.zeros(4, requires_grad=True)

    def model(x):
        w = pyro.param("w", weight)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z * w, validate_args=False).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :1], 1.0).to_event(1))

    for compile in (False, "graph"):
        assert elbo(model, guide, x, compile=compile).value.isfinite().all()
        for objective in (None, SGVB()):
            learner = AEVB(model, guide, SGD, objective, compile=compile)
            for _ in range(3):
                assert learner.step(x).loss.isfinite()
