"""Data missing not at random against a linear-Gaussian model, whose missing cell is one integral, and its learners.

x ~ N(b, W W' + s^2 I) with a missing cell x_d in some rows: p(x_o, m) = p(x_o) int N(x_d; given x_o) prod_j p(m_j|x_j).
"""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_pairs import normal
from pyro import poutine
from statistics_tools import SIGMAS, assert_mean
from torch import nn

from pyro_aevb import (
    AEVB,
    AIS,
    MCEM,
    VAE,
    ReweightedWakeSleep,
    WakeSleep,
    elbo,
    impute,
    load,
    log_marginal_likelihood,
    save,
)
from pyro_aevb.objectives import IWAE, SGVB, STL, VIMCO, DReG, Renyi, ScoreFunction
from pyro_aevb.posterior import Chains, posterior
from pyro_aevb.vae.missingness import MISSINGNESS, KnownSelfMasking, LinearMissingness, Missingness, SelfMasking

N, D, J = 6, 3, 2
MECHANISMS = (SelfMasking, KnownSelfMasking, LinearMissingness)
ADAM = functools.partial(torch.optim.Adam, lr=0.01)


class Wide(nn.Module):
    """N(0, 1.1^2), the guide of all datapoints."""

    def forward(self, x):
        return torch.cat([torch.zeros(*x.shape[:-1], J), torch.full((*x.shape[:-1], J), 2 * math.log(1.1))], -1).to(x)


def pca(missingness="self-masking-known", encoder=None):
    """A linear VAE whose mechanism has some parameters, x with 0 in its holes, and which cells are there."""
    vae = VAE(
        D, J, likelihood="shared-gaussian", decoder=nn.Linear(J, D), encoder=encoder or Wide(), missingness=missingness
    ).double()
    with torch.no_grad():
        for place, parameter in enumerate(vae.parameters()):
            parameter.copy_(0.7 * normal(1, *parameter.shape, seed=place)[0])
        vae.likelihood.log_scale.fill_(-0.4)
    x = normal(N, D, seed=50)
    observed = torch.ones(N, D).bool()
    for row, cell in enumerate((0, 1, 2, 2, 0)):  # the last row is whole
        observed[row, cell] = False
    return vae, torch.where(observed, x, 0.0), observed


def grid(loc, scale, num=2001):
    """Return (num,) places around a Gaussian and the weights of the trapezoidal rule."""
    steps = torch.linspace(-9.0, 9.0, num).double()
    return loc + scale * steps, scale * 18.0 / (num - 1)


def exact(vae, x, observed):
    """Return log p(x_o, m), mean and deviation of the missing cell given both, its mean given x_o alone; (N,) each."""
    W, b, s = vae.decoder.weight, vae.decoder.bias, vae.likelihood.log_scale.exp()
    covariance = W @ W.T + s**2 * torch.eye(D).double()
    found = []
    for row, there in zip(x, observed, strict=True):
        mask = dist.Bernoulli(logits=vae.missingness(row)).log_prob(there.double()).sum()
        of_observed = dist.MultivariateNormal(b[there], covariance[there][:, there]).log_prob(row[there])
        if there.all():
            found.append((of_observed + mask, 0.0, 0.0, 0.0))
            continue
        gain = covariance[~there][:, there] @ torch.linalg.inv(covariance[there][:, there])
        loc = (b[~there] + gain @ (row - b)[there])[0]
        scale = (covariance[~there][:, ~there] - gain @ covariance[there][:, ~there]).sqrt()[0, 0]
        at, width = grid(loc.detach(), scale.detach())
        whole = row.expand(len(at), D).clone()
        whole[:, ~there] = at[:, None]
        logits = vae.missingness(whole)
        joint = dist.Normal(loc, scale).log_prob(at) + dist.Bernoulli(logits=logits).log_prob(there.double()).sum(-1)
        total = joint.logsumexp(0) + math.log(width)
        share = (joint - joint.logsumexp(0)).exp()
        mean = (share * at).sum()
        found.append((of_observed + total, mean, (share * (at - mean).square()).sum().sqrt(), loc))
    columns = zip(*found, strict=True)
    return tuple(torch.stack([torch.as_tensor(each).double() for each in column]) for column in columns)


def fill(vae, x, observed, **options):
    return impute(vae.model, vae.guide, x, observed, **{"seed": 0, "compile": False, "progress": False, **options})


# -- Against quadrature -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MISSINGNESS)
def test_log_p_of_what_is_observed_and_of_the_mask(name):
    vae, x, observed = pca(name)
    truth = exact(vae, x, observed)[0].detach()
    found = log_marginal_likelihood(
        vae.model, vae.guide, x, observed, num_particles=20_000, seed=0, compile=False, progress=False
    )
    assert found.value.dtype == torch.float64
    assert ((found.value - truth).abs() <= SIGMAS * found.standard_error).all()
    assert found.standard_error.max() < 0.02
    pyro.set_rng_seed(0)
    bounds = torch.stack([IWAE(2000).terms(vae.model, vae.guide, x, observed).bound.detach() for _ in range(20)])
    assert_mean(bounds, truth, resolution=0.1)
    ignored = VAE(D, J, likelihood="shared-gaussian", decoder=nn.Linear(J, D), encoder=Wide()).double()
    ignored.load_state_dict(vae.state_dict(), strict=False)
    other = log_marginal_likelihood(ignored.model, ignored.guide, x, observed, seed=0, compile=False, progress=False)
    assert (other.value - truth).abs().min() > 0.2  # the mask isn't observed there


def test_annealing_finds_it_too():
    vae, x, observed = pca()
    truth = exact(vae, x, observed)[0].detach()
    found = log_marginal_likelihood(
        vae.model, vae.guide, x, observed, method=AIS(20, num_leapfrog=3), num_particles=200, seed=0, compile=False,
        progress=False,
    )  # fmt: skip
    assert ((found.value - truth).abs() <= SIGMAS * found.standard_error).all()
    assert found.standard_error.max() < 0.1


@pytest.mark.parametrize("objective", [IWAE(500), DReG(500)], ids=["IWAE", "DReG"])
def test_its_gradient(objective):
    """Of the mechanism's parameters, the decoder's and the noise's, by differentiating the quadrature."""
    vae, x, observed = pca()
    theta = [*vae.missingness.parameters(), *vae.decoder.parameters(), *vae.likelihood.parameters()]
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact(vae, x, observed)[0].sum(), theta)])
    pyro.set_rng_seed(0)
    found = []
    for _ in range(60):
        loss = objective.terms(vae.model, vae.guide, x, observed).loss
        found.append(torch.cat([-g.flatten() for g in torch.autograd.grad(loss, theta)]))
    assert_mean(torch.stack(found), expected, resolution=0.35)


def test_reweighted_wake_sleep_follows_it_too():
    """Though the guide draws missing cells with the decoder's parameters: its loss for them would count them twice."""
    vae, x, observed = pca()
    theta = [*vae.missingness.parameters(), *vae.decoder.parameters(), *vae.likelihood.parameters()]
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact(vae, x, observed)[0].sum(), theta)])
    sgd = functools.partial(torch.optim.SGD, lr=1.0)
    learner = ReweightedWakeSleep(vae.model, vae.guide, sgd, ADAM, num_particles=500, compile=False)
    pyro.set_rng_seed(0)
    before, found = [parameter.detach().clone() for parameter in theta], []
    for _ in range(60):
        learner.step(x, observed)
        with torch.no_grad():
            found.append(torch.cat([(p - b).flatten() for p, b in zip(theta, before, strict=True)]))
            for parameter, value in zip(theta, before, strict=True):
                parameter.copy_(value)
    assert_mean(torch.stack(found), expected, resolution=0.35)


def test_the_bound_is_that_of_the_paper():
    """Replayed: log 1/K sum_k p(z) p(x_o|z) p(m|x_o, x_m) / q(z|x_o), the missing cells drawn from p(x_m|z)."""
    vae, x, observed = pca("linear")
    pyro.set_rng_seed(0)
    terms = IWAE(7).terms(vae.model, vae.guide, x, observed)
    pyro.set_rng_seed(0)
    with pyro.plate("particles", 7, dim=-2):
        sites = poutine.trace(vae.guide).get_trace(x, observed).nodes
    z, drawn = sites["z"]["value"], sites["x_missing"]["value"]
    p = dist.Normal(vae.decoder(z), vae.likelihood.log_scale.exp())
    logits = vae.missingness(torch.where(observed, x, drawn))
    log_weight = (
        dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        + (observed * p.log_prob(x)).sum(-1)
        + dist.Bernoulli(logits=logits).log_prob(observed.double()).sum(-1)
        - dist.Normal(0.0, 1.1).log_prob(z).sum(-1)
    )
    torch.testing.assert_close(terms.bound, log_weight.logsumexp(0) - math.log(7))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("importance", {"num_particles": 20_000}),
        ("hmc", {"chains": Chains(num_chains=32, num_temperatures=10, num_warmup=30)}),
    ],
)
def test_missing_cells_given_the_mask(method, options):
    vae, x, observed = pca()
    _, mean, std, ignoring = (each.detach() for each in exact(vae, x, observed))
    found = fill(vae, x, observed, method=method, num_draws=1000, **options)
    assert found.posterior.trusted.all()
    assert (found.mean[observed] == x[observed]).all()
    ess = found.posterior.effective_sample_size[:-1]
    assert ess.min() > 200
    assert ((found.mean[~observed] - mean[:-1]).abs() <= SIGMAS * found.standard_error[~observed]).all()
    assert ((found.draws[:, ~observed].std(0) / std[:-1] - 1).abs() <= SIGMAS / (2 * ess).sqrt()).all()
    shift = (mean - ignoring)[:-1].abs() / found.standard_error[~observed]
    assert shift.max() > 3 * SIGMAS  # so that the mask can't have been left out


def test_neighbours_and_chunks_change_nothing():
    vae, x, observed = pca()
    options = {"method": "importance", "num_draws": 10}
    first = fill(vae, x, observed, **options)
    second = fill(vae, torch.where(observed, x, 100.0), observed, batch_size=4, **options)
    torch.testing.assert_close(first.draws, second.draws, rtol=1e-9, atol=1e-9)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state = torch.get_rng_state()
    elbo(vae.model, vae.guide, x, observed, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_binary_cells_are_summed_over_by_their_draws():
    """log p(x_o, m) = log int p(z) p(x_o|z) sum_x_m p(x_m|z) p(m|x_o, x_m) dz; reparameterised objectives refuse it."""
    parts = {"likelihood": "bernoulli", "decoder": nn.Linear(1, 2), "encoder": nn.Linear(2, 2)}
    vae = VAE(2, 1, missingness="linear", **parts).double()
    with torch.no_grad():
        for place, parameter in enumerate(vae.parameters()):
            parameter.copy_(normal(1, *parameter.shape, seed=place)[0])
        vae.encoder.weight.zero_()
        vae.encoder.bias.copy_(torch.tensor([0.0, 0.2]))
    x, observed = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[True, False]])
    z, width = grid(torch.tensor(0.0), torch.tensor(1.0))
    p = dist.Bernoulli(logits=vae.decoder(z[:, None]))
    values = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).double()
    mask = dist.Bernoulli(logits=vae.missingness(values)).log_prob(observed.double()).sum(-1)
    joint = torch.stack([p.log_prob(value).sum(-1) + m for value, m in zip(values, mask, strict=True)]).logsumexp(0)
    truth = (joint + dist.Normal(0.0, 1.0).log_prob(z)).logsumexp(0) + math.log(width)
    found = log_marginal_likelihood(
        vae.model, vae.guide, x, observed, num_particles=20_000, seed=0, compile=False, progress=False
    )
    assert abs(found.value - truth) <= SIGMAS * found.standard_error < 0.2
    with pytest.raises(ValueError, match=r"'x_missing'"):
        AEVB(vae.model, vae.guide, ADAM, IWAE(3)).step(x, observed)
    assert AEVB(vae.model, vae.guide, ADAM, VIMCO(3)).step(x, observed).loss.isfinite()
    filled = fill(vae, x, observed, method="importance", num_draws=50)
    assert filled.mode[0, 1] in (0.0, 1.0)


# -- A pair of one's own ----------------------------------------------------------------------------------------------


def probit(x, observed):
    """z ~ N(0, 1), two cells x ~ N(z, 1), the second one seen with probability Phi(1 - 2 x)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        cells = dist.Normal(z[..., None].expand(*z.shape, 2), 1.0)
        drawn = pyro.sample("x_missing", cells.to_event(1))
        pyro.sample("x", cells.mask(observed).to_event(1), obs=x)
        second = torch.where(observed, x, drawn)[..., 1]
        seen = dist.Normal(0.0, 1.0).cdf(1 - 2 * second).clamp(1e-12, 1 - 1e-12)
        pyro.sample("seen", dist.Bernoulli(seen), obs=observed[:, 1].double())


def probit_guide(x, observed):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.where(observed, x, 0.0).sum(-1) / 2, 1.0))
        pyro.sample("x_missing", dist.Normal(z[..., None].expand(*z.shape, 2), 1.0).to_event(1))


def test_a_pair_of_ones_own_with_a_probit_mask():
    """x_2 | x_1 is N(x_1/2, 3/2), so that p(missing|x_1) = Phi(-(1 - x_1) / 7^(1/2)): a skew normal, with its mean."""
    x = torch.tensor([[0.5, 0.0], [-1.0, 0.0], [2.0, 0.0]]).double()
    observed = torch.tensor([[True, False]] * 3)
    unit = dist.Normal(torch.tensor(0.0).double(), 1.0)
    loc, variance = x[:, 0] / 2, 1.5
    at = (2 * loc - 1) / math.sqrt(1 + 4 * variance)
    truth = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x[:, 0]) + unit.cdf(at).log()
    mean = loc + 2 * variance / math.sqrt(1 + 4 * variance) * (unit.log_prob(at).exp() / unit.cdf(at))
    options = {"seed": 0, "compile": False, "progress": False, "num_particles": 20_000}
    evidence = log_marginal_likelihood(probit, probit_guide, x, observed, **options)
    assert ((evidence.value - truth).abs() <= SIGMAS * evidence.standard_error).all()
    found = impute(probit, probit_guide, x, observed, method="importance", num_draws=1000, **options)
    assert ((found.mean[:, 1] - mean).abs() <= SIGMAS * found.standard_error[:, 1]).all()
    assert (mean - loc).min() > 10 * found.standard_error.max()
    draws = posterior(probit, probit_guide, x, observed, method="importance", num_draws=100, **options)
    assert draws.draws["x_missing"].shape == (100, 3, 2)


def test_missing_cells_of_another_shape_are_refused():
    def model(x, observed):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x_missing", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 2), 1.0).to_event(1), obs=x)

    x, observed = torch.zeros(3, 2).double(), torch.ones(3, 2).bool()
    with pytest.raises(ValueError, match=r"cells at site 'x_missing' of the shape \(3, 2\) of site 'x', got \(3,\);"):
        impute(model, None, x, observed, progress=False)


# -- Learners ---------------------------------------------------------------------------------------------------------

LEARNERS = {
    "SGVB": lambda m, g: AEVB(m, g, ADAM, SGVB(num_particles=2)),
    "analytic": lambda m, g: AEVB(m, g, ADAM, SGVB(kl="analytic")),
    "STL": lambda m, g: AEVB(m, g, ADAM, STL()),
    "IWAE": lambda m, g: AEVB(m, g, ADAM, IWAE(3)),
    "DReG": lambda m, g: AEVB(m, g, ADAM, DReG(3)),
    "Renyi": lambda m, g: AEVB(m, g, ADAM, Renyi(0.5, 3)),
    "VIMCO": lambda m, g: AEVB(m, g, ADAM, VIMCO(3)),
    "ScoreFunction": lambda m, g: AEVB(m, g, ADAM, ScoreFunction(3)),
    "Trace_ELBO": lambda m, g: AEVB(m, g, ADAM, pyro.infer.Trace_ELBO()),
    "ReweightedWakeSleep": lambda m, g: ReweightedWakeSleep(m, g, ADAM, ADAM),
    "MCEM": lambda m, g: MCEM(m, ADAM),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_move_every_parameter(name):
    pyro.set_rng_seed(0)
    vae, x, observed = pca(encoder=nn.Linear(D, 2 * J))
    learner = LEARNERS[name](vae.model, vae.guide)
    before = {name: parameter.detach().clone() for name, parameter in vae.named_parameters()}
    index = {"index": torch.arange(N)} if name == "MCEM" else {}
    for _ in range(2):
        assert learner.step(x, observed, **index).loss.isfinite()
    for key, parameter in vae.named_parameters():
        moved = not torch.equal(parameter, before[key])
        assert moved == (name != "MCEM" or not key.startswith("encoder")), key


@pytest.mark.parametrize("dream", [None, lambda sites, x, observed: (sites["x"], sites["observed"].bool())])
def test_wake_sleep_is_refused_for_a_dream_has_a_mask_of_its_own(dream):
    vae, x, observed = pca()
    with pytest.raises(ValueError, match=r"got 'observed': a dream has holes of its own.* train with AEVB, Reweighted"):
        WakeSleep(vae.model, vae.guide, ADAM, ADAM, dream_arguments=dream).step(x, observed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the draws of")
def test_training_learns_which_values_are_hidden():
    """x ~ N(0, 1), values above 0.5 hidden nine times in ten: the threshold and the mean of what is hidden."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(400, 1, generator=generator)
    x = z @ torch.tensor([[1.0, 1.0, -1.0]]) + 0.3 * torch.randn(400, 3, generator=generator)
    observed = torch.ones(400, 3).bool()
    observed[:, 0] = (x[:, 0] < 0.5) | (torch.rand(400, generator=generator) < 0.1)
    filled = torch.where(observed, x, 0.0)
    errors = {}
    for missingness in (None, "self-masking-known"):
        pyro.set_rng_seed(0)
        parts = {"likelihood": "shared-gaussian", "decoder": nn.Linear(1, 3), "missingness": missingness}
        vae = VAE(3, 1, hidden_dims=(8,), **parts)
        learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=0.02), IWAE(5), compile="graph")
        for _ in range(150):
            learner.step(filled, observed)
        found = fill(vae, filled, observed, method="importance", num_draws=50, num_particles=500)
        errors[missingness] = (found.mean - x)[~observed].square().mean().sqrt()
    assert errors["self-masking-known"] < 0.9 * errors[None]
    slope = nn.functional.softplus(vae.missingness.unconstrained)[0]
    assert slope > 1.2
    assert abs(vae.missingness.threshold[0] - 0.5) < 0.5


# -- The part ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MISSINGNESS)
def test_names_make_mechanisms_that_start_undecided_and_are_saved(name, tmp_path):
    assert type(MISSINGNESS[name]()) in MECHANISMS
    vae, x, observed = pca(name, encoder=nn.Linear(D, 2 * J))
    save(vae, tmp_path)
    same = load(tmp_path, encoder=nn.Linear(D, 2 * J), decoder=nn.Linear(J, D))
    assert torch.equal(same.missingness(x), vae.missingness(x))
    assert str(same) == str(vae)
    assert f"p(observed|x) = Bernoulli(sigmoid({vae.missingness.notation}))" in str(vae)
    made = VAE(D, J, likelihood="gaussian", missingness=KnownSelfMasking("below", slope=3.0))
    save(made, tmp_path)
    assert (load(tmp_path).missingness.missing, load(tmp_path).missingness.slope) == ("below", 3.0)
    values = [elbo(each.model, each.guide, x, observed, seed=0).value for each in (vae, same)]
    assert torch.equal(*values)


def test_whole_rows_have_no_mask():
    vae, x, observed = pca()
    sites = poutine.trace(vae.model).get_trace(x).nodes
    assert "observed" not in sites
    assert "x_missing" not in sites
    assert "x_missing" not in poutine.trace(vae.guide).get_trace(x).nodes
    whole = torch.ones_like(observed)
    given = elbo(vae.model, vae.guide, x, whole, seed=0, num_particles=2000).value
    mask = dist.Bernoulli(logits=vae.missingness(x)).log_prob(whole.double()).sum(-1).detach()
    plain = elbo(vae.model, vae.guide, x, seed=0, num_particles=2000)
    assert ((given - mask - plain.value).abs() <= 2 * SIGMAS * plain.standard_error).all()


def test_small_values_may_be_what_is_missing():
    above, below = KnownSelfMasking(), KnownSelfMasking("below")
    x = normal(4, D)
    for mechanism in (above, below):
        mechanism.setup(D)
    torch.testing.assert_close(below(x), -above(x))
    assert (above(x)[x > 0] < 0).all()
    with pytest.raises(ValueError, match="expected missing='above' or 'below', got 'up'; say which"):
        KnownSelfMasking("up")
    steep = KnownSelfMasking(slope=10.0)
    steep.setup(D)
    torch.testing.assert_close(steep(x.float()), -10 * x.float())
    with pytest.raises(ValueError, match=r"expected a positive slope, got -1.0; for small values pass missing='below'"):
        KnownSelfMasking(slope=-1.0)


class OfExtremes(Missingness):
    def setup(self, x_dim):
        self.weight = nn.Parameter(torch.zeros(x_dim))

    def forward(self, x):
        return self.weight * x.square()


class Short(Missingness):
    def setup(self, x_dim):
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.bias.expand(len(x), 1)


def test_one_of_ones_own_and_what_is_refused(tmp_path):
    vae, x, observed = pca(OfExtremes())
    assert AEVB(vae.model, vae.guide, ADAM, IWAE(3)).step(x, observed).loss.isfinite()
    save(vae, tmp_path)
    parts = {"encoder": Wide(), "decoder": nn.Linear(J, D)}
    with pytest.raises(ValueError, match=r"expected missingness=, got none: the VAE's missingness was OfExtremes"):
        load(tmp_path, **parts)
    same = load(tmp_path, **parts, missingness=OfExtremes())
    assert torch.equal(same.missingness.weight, vae.missingness.weight)
    for wrong, error, message in (
        (Short(), ValueError, r"makes logits of x's shape \(6, 3\), got \(6, 1\); return one for each entry"),
        ("self", ValueError, r"expected a missingness out of \['linear', 'self-masking', .*got 'self'"),
        (SelfMasking, TypeError, "expected a missingness's name or an object"),
    ):
        with pytest.raises(error, match=message):
            VAE(D, J, likelihood="gaussian", missingness=wrong)
