"""Global latents under learners, the loop and Pyro's own guides."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from global_pairs import N, mean_of_local_latents, normal, one
from pyro import poutine
from pyro.infer import Trace_ELBO, autoguide

from pyro_aevb import (
    AEVB,
    IWAE,
    MCEM,
    SGVB,
    VAE,
    Bayesian,
    DReG,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    elbo,
    fit,
)

ADAM = functools.partial(torch.optim.Adam, lr=0.01)


def amortized(x):
    """q(w) = N(a, s^2), q(z|x, w) = N((x + w)/2, 1/2), the posterior given w."""
    a = pyro.param("a", one(0.1))
    s = pyro.param("s", one(0.4), constraint=dist.constraints.positive)
    w = pyro.sample("w", dist.Normal(a, s))
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("z", dist.Normal((x + w) / 2, 0.5**0.5))


LEARNERS = {
    "Pyro's": lambda *pair, **options: AEVB(*pair, ADAM, Trace_ELBO(), **options),
    "L^B": lambda *pair, **options: AEVB(*pair, ADAM, SGVB(kl="analytic"), **options),
    "DReG": lambda *pair, **options: AEVB(*pair, ADAM, DReG(3), **options),
    "score function": lambda *pair, **options: AEVB(*pair, ADAM, ScoreFunction(2), **options),
    "reweighted wake-sleep": lambda *pair, **options: ReweightedWakeSleep(
        *pair, ADAM, ADAM, num_particles=3, **options
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_graph_is_the_eager_run(name):
    values = []
    for compile in (False, "graph"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        pair = mean_of_local_latents()
        learner = LEARNERS[name](pair.model, amortized, compile=compile)
        values.append([learner.step(*pair.data).elbo.item() for _ in range(5)])
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_reweighted_wake_sleep_moves_q_of_w_by_the_bound():
    """With the posterior as q(z|x, w) every weight is p(x|w): the gradient's mean is that of E_q(w) log p(X|w) - KL."""
    pair = mean_of_local_latents()
    x, sgd = pair.data[0], functools.partial(torch.optim.SGD, lr=1e-6)
    a, log_s = one(0.1).requires_grad_(), one(0.4).log().requires_grad_()
    expected_log_p = (dist.Normal(a, 2**0.5).log_prob(x) - (2 * log_s).exp() / 4).sum()
    exact = expected_log_p - torch.distributions.kl_divergence(dist.Normal(a, log_s.exp()), dist.Normal(0.0, 1.0))
    gradient = torch.autograd.grad(exact, [a, log_s])
    learner, moves = ReweightedWakeSleep(pair.model, amortized, sgd, sgd, num_particles=2), []
    learner.prepare(x)
    start = learner.copy_parameters()
    for _ in range(150):
        learner.put_parameters(start)
        info = learner.step(x)
        moves.append([(learner.phi[n].unconstrained - start["parameters"][n]).item() / 1e-6 for n in ("a", "s")])
    moves = torch.tensor(moves).double()
    error = moves.std(0) / len(moves) ** 0.5
    assert ((moves.mean(0) - torch.stack(gradient)).abs() < 5 * error + 1e-6).all(), (moves.mean(0), gradient)
    assert (error < 0.5).all()
    assert info.elbo.item() == pytest.approx(info.iwae_bound.item(), rel=1e-9)


def test_a_run_is_validated_and_resumed_bit_for_bit(tmp_path):
    def run(samples, folder, resume=False):
        pyro.clear_param_store()
        torch.manual_seed(0)
        pair = mean_of_local_latents()
        learner = AEVB(pair.model, amortized, ADAM, SGVB(kl="analytic"))
        history = fit(
            learner, pair.data[0], samples=samples, batch_size=3, evaluate_every=12, validation=pair.data[0] + 0.1,
            validation_particles=4, kl_warm_up=30, keep_best=True, seed=0, checkpoint_dir=folder, resume=resume,
            progress=False,
        )  # fmt: skip
        return [r.values["validation"] for r in history.records], {n: p.unconstrained for n, p in learner.phi.items()}

    whole, parameters = run(48, tmp_path / "whole")
    run(24, tmp_path / "parts")
    again, its = run(48, tmp_path / "parts", resume=True)
    assert whole == again
    assert len(set(whole)) == 4
    assert all(torch.equal(parameters[name], its[name]) for name in parameters)


def test_validation_of_a_network_with_several_particles():
    x = (torch.rand(20, 6) < 0.4).float()
    vae = VAE(6, 2, hidden_dims=(5,), dataset_size=20)
    full = Bayesian(vae.model, vae.guide, x)
    learner = AEVB(full.model, full.guide, ADAM, SGVB(kl="analytic"))
    history = fit(learner, x, x, samples=20, batch_size=10, validation_particles=3, progress=False)
    assert history.records[-1].values["validation_standard_error"] > 0


@pytest.mark.parametrize("make", [WakeSleep, MCEM])
def test_learners_without_a_meaning_for_it_refuse_it(make):
    pair = mean_of_local_latents()
    learner = make(pair.model, amortized, ADAM, ADAM) if make is WakeSleep else make(pair.model, ADAM)
    rows = pair.data[0]
    with pytest.raises(ValueError, match=r"expected site 'w' in the data plate, got it outside any; .*pyro.condition"):
        learner.step(rows, index=torch.arange(N))


def with_globals(x):
    """Global latents of three kinds, one of them in a plate of its own at the data plate's place, and a local one."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    s = pyro.sample("s", dist.Gamma(one(2.0), 2.0))
    with pyro.plate("parts", 3):
        m = pyro.sample("m", dist.Normal(one(0.0), 1.0))
    with pyro.plate("data", N, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(w[..., 0] + m.sum(-1, keepdim=True), s))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


GUIDES = [
    autoguide.AutoNormal,
    autoguide.AutoDiagonalNormal,
    autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal,
    autoguide.AutoDelta,
    autoguide.AutoLaplaceApproximation,
]


@pytest.mark.parametrize("beside", [True, False], ids=["beside an amortized guide", "whole"])
@pytest.mark.parametrize("kind", GUIDES)
def test_pyro_s_guides_have_pyro_s_bound(kind, beside):
    x = normal(N)[:3]

    def local(x):
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    auto = kind(poutine.block(with_globals, expose=["w", "s", "m", "parts"]) if beside else with_globals)

    def guide(x):
        auto(x)
        if beside:
            local(x)

    rows = x if beside else normal(N)
    guide(rows)
    losses = []
    for objective in (Trace_ELBO(), SGVB(), IWAE(1), AEVB):
        torch.manual_seed(0)
        if objective is AEVB:
            losses.append(-N * AEVB(with_globals, guide, ADAM, SGVB()).step(rows).elbo.item())
        else:
            losses.append(objective.loss(with_globals, guide, rows))
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-9)
    if not beside and kind is not autoguide.AutoNormal:  # its density of z is that of all datapoints together, or none
        with pytest.raises(ValueError, match="expected a guide with a density of 'z'"):
            elbo(with_globals, guide, normal(N), num_particles=2, vectorize=False)
        return
    torch.manual_seed(0)
    total = elbo(with_globals, guide, normal(N), num_particles=2, vectorize=False).total()
    torch.manual_seed(0)
    pyros = Trace_ELBO(num_particles=2).loss(with_globals, guide, normal(N))
    assert total.value == pytest.approx(-pyros, rel=1e-9)


def test_a_plate_of_m_entries_by_chance_is_not_the_data_plate():
    x = normal(N)[:3]
    terms = SGVB(kl="analytic").terms(with_globals, pyro_guide, x)
    assert set(terms.global_kl) == {"w", "s", "m"}
    assert set(terms.kl) == {"z"}


def pyro_guide(x):
    pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    pyro.sample("s", dist.Gamma(one(2.0), 2.0))
    with pyro.plate("parts", 3):
        pyro.sample("m", dist.Normal(one(0.0), 1.0))
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.7))


def test_a_plate_of_m_entries_beside_a_data_plate_without_an_n_is_refused_by_name():
    x = normal(3)

    def model(x):
        with pyro.plate("parts", 3):
            m = pyro.sample("m", dist.Normal(one(0.0), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m.sum(-1, keepdim=True), 1.0), obs=x)

    def guide(x):
        with pyro.plate("parts", 3):
            pyro.sample("m", dist.Normal(one(0.0), 1.0))

    with pytest.raises(ValueError, match=r"expected one name for the plate of the datapoints.* 'm', 'parts', of 3"):
        SGVB().loss(model, guide, x)
    assert set(SGVB().terms(model, guide, normal(4)).global_kl) == {"m"}  # another number of datapoints
