"""Pyro's module_local_params: parameters that live in their modules and not in the store, trained like any others."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch.distributions import constraints

from pyro_aevb import AEVB, IWAE, ReweightedWakeSleep, elbo, fit, log_marginal_likelihood

ADAM = functools.partial(torch.optim.Adam, lr=0.02)
X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()


class Model(PyroModule):
    def __init__(self):
        super().__init__()
        self.w = PyroParam(torch.ones(3).double())
        self.s = PyroParam(torch.tensor(1.0).double(), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", 40, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * self.w, self.s).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.a = PyroParam(torch.zeros(3).double())

    def forward(self, x):
        with pyro.plate("data", 40, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x @ self.a, 0.7))


@pytest.fixture(autouse=True)
def _local():
    with pyro.settings.context(module_local_params=True):
        yield


@pytest.mark.parametrize("compile", [False, "graph"])
def test_steps_are_those_of_svi(compile):
    model, guide, other_model, other_guide = Model(), Guide(), Model(), Guide()
    learner = AEVB(model, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO(), compile=compile)
    svi = SVI(other_model, other_guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    for step in (learner.step, svi.step):
        pyro.set_rng_seed(0)
        for _ in range(15):
            step(X)
    assert not list(pyro.get_param_store().keys())
    assert (model.w - 1).abs().max() > 0.1
    for mine, theirs in ((model.w, other_model.w), (model.s, other_model.s), (guide.a, other_guide.a)):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("objective", ["IWAE", "reweighted"])
def test_runs_resume_and_are_evaluated(objective, tmp_path):
    ends = []
    for folder, stops in (("whole", (200,)), ("twice", (80, 200))):
        for stop in stops:
            pyro.set_rng_seed(0)
            model, guide = Model(), Guide()
            learner = (
                AEVB(model, guide, ADAM, IWAE(3))
                if objective == "IWAE"
                else ReweightedWakeSleep(model, guide, ADAM, ADAM, num_particles=3)
            )
            options = {"batch_size": 10, "checkpoint_dir": tmp_path / folder, "resume": True, "progress": False}
            fit(learner, X, X[:10], samples=stop, keep_best=True, **options)
        ends.append(torch.cat([model.w.detach(), model.s.detach()[None], guide.a.detach()]))
    assert torch.equal(*ends)
    bound = elbo(model, guide, X, num_particles=50, seed=0)
    exact = log_marginal_likelihood(model, None, X, method="quadrature", progress=False)
    covariance = model.w[:, None] * model.w + model.s**2 * torch.eye(3).double()
    truth = dist.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(X)
    torch.testing.assert_close(exact.value, truth.detach(), rtol=1e-6, atol=1e-6)
    assert (bound.value < truth + 5 * bound.standard_error).all()


def test_a_prior_on_them_counts():
    model, guide = Model(), Guide()
    plain, map_ = (AEVB(model, guide, ADAM, theta_prior=p) for p in (None, dist.Normal(0.0, 1.0)))
    losses = []
    for learner in (plain, map_):
        pyro.set_rng_seed(0)
        learner.prepare(X)
        with torch.random.fork_rng():
            losses.append(learner._follow(learner.objective, (X,)).loss)
    penalty = -(dist.Normal(0.0, 1.0).log_prob(model.w).sum() + dist.Normal(0.0, 1.0).log_prob(model.s))
    torch.testing.assert_close(losses[1] - losses[0], penalty.detach())


class Global(PyroModule):
    def __init__(self):
        super().__init__()
        self.w = PyroSample(dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))

    def forward(self, x):
        w = self.w
        with pyro.plate("data", 40, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * w, 1.0).to_event(1), obs=x)


def test_a_conditioned_global_is_the_remedy_here_too():
    with pytest.raises(ValueError, match=r"a guide that samples the global latent 'w', got none; .*given=\{'w': value"):
        log_marginal_likelihood(Global(), None, X, method="quadrature", progress=False)
    w = torch.ones(3).double()
    value = log_marginal_likelihood(
        pyro.condition(Global(), {"w": w}), None, X, method="quadrature", progress=False
    ).value
    truth = dist.MultivariateNormal(torch.zeros(3).double(), torch.ones(3, 3).double() + torch.eye(3)).log_prob(X)
    torch.testing.assert_close(value, truth, rtol=1e-6, atol=1e-6)
