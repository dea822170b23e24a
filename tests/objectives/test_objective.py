"""Objectives against closed forms and quadrature, float64."""

import contextlib
import functools
import itertools
import logging
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian
from pairs import CONTINUOUS, DISCRETE
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.runtime import get_plates
from statistics_tools import SIGMAS, assert_mean
from torch import nn

from pyro_aevb import AEVB, IWAE, SGVB, STL, VIMCO, Blend, DReG, Renyi, ScoreFunction
from pyro_aevb.model_guide.structure import structure
from pyro_aevb.objectives import WeightedKL


def half_a_blend(num_particles):
    objective = Blend(num_particles)
    objective.running.means.copy_(torch.tensor([-0.5, 1.0]))
    return objective


OBJECTIVES = {
    "L^A": lambda K=3: SGVB(K),
    "L^B": lambda K=3: SGVB(K, kl="analytic"),
    "STL": lambda K=3: STL(K),
    "Blend": lambda K=3: Blend(K),
    "half a blend": lambda K=3: half_a_blend(K),
    "IWAE": lambda K=3: IWAE(K),
    "Renyi": lambda K=3: Renyi(0.5, K),
    "DReG": lambda K=3: DReG(K),
    "score function": lambda K=3: ScoreFunction(K),
    "leave-one-out": lambda K=3: ScoreFunction(K, baseline="leave-one-out"),
    "VIMCO": lambda K=3: VIMCO(K),
}


class ManyCopies:
    """z ~ N(m, 1), x|z ~ N(z, 1), q(z|x) = N(a, e^r) with m, a, r for each datapoint apart.

    All datapoints being 1, what one pass leaves in a gradient are as many draws of it, independent of each other.
    """

    x, loc, log_scale = 1.0, 0.2, -0.1  # of the posterior: 0.5 and -0.35

    def __init__(self, copies, *, loc=None, log_scale=None):
        def leaf(value):
            return torch.full((copies,), value, dtype=torch.float64, requires_grad=True)

        self.data = torch.full((copies,), self.x).double()
        self.m = leaf(0.0)
        self.a = leaf(self.loc if loc is None else loc)
        self.r = leaf(self.log_scale if log_scale is None else log_scale)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.a, self.r.exp()))

    def gradients(self, objective):
        """Draws of the bound's gradient, {parameter: (copies,)}."""
        loss = objective.differentiable_loss(self.model, self.guide, self.data)
        grads = torch.autograd.grad(-loss, [self.m, self.a, self.r], allow_unused=True)
        return dict(zip("mar", grads, strict=True))


# -- values ----------------------------------------------------------------------------------------------------------


def gradients_of(objective, pair, x):
    with poutine.trace(param_only=True) as params:
        pyro.set_rng_seed(3)
        objective.loss_and_grads(pair.model, pair.guide, x)  # the first run may draw what it needs to see the pair
    leaves = {name: site["value"].unconstrained() for name, site in params.trace.nodes.items()}
    for leaf in leaves.values():
        leaf.grad = None
    pyro.set_rng_seed(3)
    loss = objective.loss_and_grads(pair.model, pair.guide, x)
    return torch.tensor(float(loss)).double(), {name: leaf.grad.clone() for name, leaf in leaves.items()}


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("model", CONTINUOUS)
@pytest.mark.parametrize(("kl", "stock"), [("sampled", Trace_ELBO), ("analytic", TraceMeanField_ELBO)])
def test_sgvb_is_pyros_where_pyros_is_right(kl, stock, model, num_particles):
    pair, x = CONTINUOUS[model]()
    ours = gradients_of(SGVB(num_particles, kl=kl), pair, x[:10])
    theirs = gradients_of(stock(num_particles, vectorize_particles=num_particles > 1), pair, x[:10])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@functools.cache
def iwae_bound(x, loc, log_scale, num_particles):
    """E log 1/K sum_k w_k for the pair of ManyCopies, by two quadratures.

    With v = w / p(x) and S = sum_k v_k: E log S = int_0^inf (e^-t - E[e^-tv]^K) dt/t.
    """
    z = torch.linspace(-14, 14, 20001).double()
    q = dist.Normal(torch.tensor(loc).double(), math.exp(log_scale))
    log_evidence = dist.Normal(torch.zeros(()).double(), 2**0.5).log_prob(torch.tensor(x).double())
    log_joint = dist.Normal(torch.zeros(()).double(), 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(torch.tensor(x))
    v = (log_joint - q.log_prob(z) - log_evidence).exp()
    density = q.log_prob(z).exp()
    u = torch.linspace(-40, 12, 4001).double()
    laplace = torch.stack([torch.trapezoid(density * torch.exp(-t * v), z) for t in u.exp()])
    log_sum = torch.trapezoid(torch.exp(-u.exp()) - laplace**num_particles, u)
    return (log_evidence + log_sum - math.log(num_particles)).item(), log_evidence.item()


@pytest.mark.slow
def test_the_quadrature_of_the_iwae_bound_is_right_where_it_is_known():
    """K=1: the evidence lower bound in closed form; and it rises with K towards the evidence, never past it."""
    loc, variance = 0.2, math.exp(-0.2)
    expected = -math.log(2 * math.pi) - 0.5 * (loc**2 + variance + (1 - loc) ** 2 + variance)
    expected += 0.5 * math.log(2 * math.pi * math.e * variance)
    values = [iwae_bound(1.0, 0.2, -0.1, K) for K in (1, 5, 50)]
    assert values[0][0] == pytest.approx(expected, abs=1e-6)
    assert values[0][0] < values[1][0] - 0.01 < values[2][0] - 0.02
    assert values[2][0] < values[2][1]


@pytest.mark.parametrize("subsampled", [False, True])
@pytest.mark.parametrize(
    ("objective", "num_particles"),
    [(objective, K) for objective in (IWAE, DReG, VIMCO, functools.partial(Renyi, 0.0)) for K in (5, 50)] + [(IWAE, 1)],
)
def test_mean_of_the_iwae_bound_is_its_quadrature(objective, num_particles, subsampled):
    copies = ManyCopies(20000)
    pyro.set_rng_seed(1)
    made = objective(num_particles)
    terms = made.terms(
        *(in_larger_data(f, 800) if subsampled else f for f in (copies.model, copies.guide)), copies.data
    )
    expected, evidence = iwae_bound(copies.x, copies.loc, copies.log_scale, num_particles)
    assert_mean(terms.bound, expected, resolution=0.03)
    assert terms.bound.mean() < evidence + SIGMAS * terms.bound.std() / len(terms.bound) ** 0.5
    factor = 800 if subsampled else 1
    torch.testing.assert_close(terms.loss.detach(), -factor * terms.bound.sum())


def in_larger_data(fn, factor):
    """The callable with its plate standing for ``factor`` times as many datapoints."""

    class Enlarge(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if msg["cond_indep_stack"]:
                frame = msg["cond_indep_stack"][-1]
                msg["scale"] = msg["scale"] * factor
                enlarged = frame._replace(full_size=factor * frame.size)
                msg["cond_indep_stack"] = (*msg["cond_indep_stack"][:-1], enlarged)

    return Enlarge()(fn)


def plated(*plate_args, **plate_kwargs):
    def model(x):
        with pyro.plate("data", *plate_args, **plate_kwargs) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(8).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index % 8])

    def guide(x):
        with pyro.plate("data", *plate_args, **plate_kwargs):
            pyro.sample("z", dist.Normal(torch.full((8,), 0.3).double(), 0.8))

    return model, guide


@pytest.mark.parametrize("name", OBJECTIVES)
def test_eight_out_of_800_have_a_hundred_times_the_minibatchs_bound(name):
    x = torch.full((8,), 0.5).double()
    values = []
    for pair in (plated(8), plated(800, subsample=torch.arange(8)), plated(800, subsample_size=8)):
        objective = OBJECTIVES[name]()
        pyro.set_rng_seed(1)
        values.append(objective.terms(*pair, x))
    small, large, drawn = values
    torch.testing.assert_close(large.loss, 100 * small.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(large.bound, small.bound, rtol=0, atol=0)
    torch.testing.assert_close(drawn.loss, -100 * drawn.bound.sum(), rtol=1e-12, atol=0)
    assert drawn.bound.shape == (8,)


def test_pyros_own_is_650_nats_too_high_there():
    """What this is for (Pyro issue 2220): the same model through RenyiELBO(alpha=0) passes the evidence."""
    from pyro.infer import RenyiELBO

    x = torch.full((8,), 0.5).double()
    pair = plated(800, subsample=torch.arange(8))
    evidence = 800 * dist.Normal(torch.zeros(()).double(), 2**0.5).log_prob(x[0])
    theirs = -torch.tensor([RenyiELBO(alpha=0, num_particles=50).loss(*pair, x) for _ in range(10)])
    ours = -torch.tensor([IWAE(50).loss(*pair, x) for _ in range(10)])
    assert theirs.mean() > evidence + 10
    assert ours.mean() < evidence + SIGMAS * ours.std() / 10**0.5


def test_renyi_between_the_elbo_and_iwae():
    copies = ManyCopies(1000)

    def bound(objective):
        pyro.set_rng_seed(2)
        return objective.terms(copies.model, copies.guide, copies.data).bound

    torch.testing.assert_close(bound(Renyi(0.0, 5)), bound(IWAE(5)), rtol=0, atol=0)
    torch.testing.assert_close(bound(Renyi(1.0, 5)), bound(SGVB(5)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bound(Renyi(1 - 1e-7, 5)), bound(SGVB(5)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bound(Renyi(1 + 1e-7, 5)), bound(SGVB(5)), rtol=1e-5, atol=1e-5)
    means = [bound(Renyi(alpha, 5)).mean() for alpha in (0.0, 0.3, 0.6, 1.0, 2.0)]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_datapoint_does_not_depend_on_its_neighbours(name):
    """Its noise goes with it: alone, in other company, in another place, the same bound and weights."""

    def model(x, noise):
        with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, noise):
        eps = noise.T if len(get_plates()) > 1 else noise.T[0]  # (K, M) in the particles' plate
        with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
            log_q = dist.Normal(0.0, 1.0).log_prob(eps) - math.log(0.7)
            pyro.sample("z", dist.Delta(x / 2 + 0.7 * eps, log_density=log_q))

    x, noise = torch.randn(6).double(), torch.randn(6, 3).double()
    objective = OBJECTIVES[name]()

    def of(index):
        terms = objective.terms(model, guide, x[index], noise[index])
        return terms.bound, terms.log_weight

    together = of(torch.arange(6))
    assert together[1].shape == (3, 6)
    for index in ([2], [5, 2], [0, 2, 3, 3]):
        place = index.index(2)
        bound, log_weight = of(torch.tensor(index))
        torch.testing.assert_close(bound[place], together[0][2], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(log_weight[:, place], together[1][:, 2], rtol=1e-12, atol=1e-12)


def test_terms_add_up():
    """Bound = reconstruction - KL, datapoint by datapoint, and log weights are their sum; from one pass."""
    lg = LinearGaussian(12, 2, 4)
    runs = itertools.count()  # no value that the model reaches changes

    def counted(x):
        next(runs)
        lg.model(x)

    terms = SGVB(4).terms(counted, lg.guide, lg.x)
    first = next(runs)
    terms = SGVB(4).terms(counted, lg.guide, lg.x)
    objective = SGVB(4)
    objective.terms(counted, lg.guide, lg.x)
    before = next(runs)
    terms = objective.terms(counted, lg.guide, lg.x)
    assert next(runs) == before + 2
    assert first == 8  # read once; two particles at once against one by one, twice: with other parameters too
    assert terms.bound.shape == terms.kl["z"].shape == terms.reconstruction["x"].shape == (12,)
    torch.testing.assert_close(terms.bound, terms.reconstruction["x"] - terms.kl["z"])
    torch.testing.assert_close(terms.bound, terms.log_weight.mean(0))
    torch.testing.assert_close(terms.loss.detach(), -terms.bound.sum())
    exact = SGVB(kl="analytic").terms(lg.model, lg.guide, lg.x).kl["z"]
    loc, r = (lg.x - lg.value("c")) @ lg.value("A").T, lg.value("r")
    torch.testing.assert_close(exact, -0.5 * (1 + 2 * r - loc.square() - (2 * r).exp()).sum(-1))
    learner = AEVB(lg.model, lg.guide, functools.partial(torch.optim.SGD, lr=0.0), IWAE(5))
    info = learner.step(lg.x)
    torch.testing.assert_close(info.elbo.double(), info.terms.bound.mean())
    assert not any(t.requires_grad for t in (info.terms.bound, info.terms.log_weight, *info.terms.kl.values()))


# -- gradients -------------------------------------------------------------------------------------------------------


def exact_gradients(copies):
    """Of the evidence lower bound, in m, a and r."""
    variance = math.exp(2 * copies.log_scale)
    return {"m": copies.loc, "a": copies.x - 2 * copies.loc, "r": 1 - 2 * variance}


@pytest.mark.parametrize(
    ("name", "num_particles"),
    [(name, K) for name in ("L^A", "L^B", "STL", "score function") for K in (1, 4)] + [("leave-one-out", 4)],
)
def test_gradients_of_the_elbo_are_unbiased(name, num_particles):
    copies = ManyCopies(200_000)
    pyro.set_rng_seed(1)
    for parameter, draws in copies.gradients(OBJECTIVES[name](num_particles)).items():
        assert_mean(draws, exact_gradients(copies)[parameter], resolution=0.06)


@pytest.mark.parametrize("num_particles", [2, 10])
def test_dreg_and_vimco_have_the_mean_of_iwaes_gradient_and_dreg_less_variance(num_particles):
    copies = ManyCopies(200_000)
    drawn = {}
    for seed, objective in enumerate((IWAE, DReG, VIMCO)):
        pyro.set_rng_seed(seed)
        drawn[objective] = copies.gradients(objective(num_particles))
    for parameter in "mar":
        for objective in (DReG, VIMCO):
            a, b = drawn[IWAE][parameter], drawn[objective][parameter]
            error = SIGMAS * ((a.var() + b.var()) / len(a)) ** 0.5
            assert error < 0.05
            assert (a.mean() - b.mean()).abs() < error, (objective, parameter)
    for parameter in "ar":
        assert drawn[DReG][parameter].var() < 0.7 * drawn[IWAE][parameter].var()


def test_the_signal_of_dreg_does_not_drown_as_k_grows():
    """|mean| / standard deviation of phi's gradient: falls with K for IWAE, rises for DReG."""
    copies = ManyCopies(40_000)
    ratio = {}
    for objective in (IWAE, DReG):
        for num_particles in (4, 64):
            pyro.set_rng_seed(0)
            draws = copies.gradients(objective(num_particles))["a"]
            ratio[objective, num_particles] = (draws.mean().abs() / draws.std()).item()
    assert ratio[DReG, 64] > 1.5 * ratio[DReG, 4]
    assert ratio[IWAE, 64] < 0.7 * ratio[IWAE, 4]


def hierarchy(copies):
    """z1 ~ N(0,1), z2 ~ N(z1,1), x ~ N(z2,1); the guide draws z2 from x, then z1 from z2: exactly the posterior."""
    parameters = {
        name: torch.full((copies,), value, dtype=torch.float64, requires_grad=True)
        for name, value in {"slope": 2 / 3, "scale": (2 / 3) ** 0.5, "back": 0.5, "width": 0.5**0.5, "m": 0.0}.items()
    }

    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(parameters["m"], 1.0))
            z2 = pyro.sample("z2", dist.Normal(z1, 1.0))
            pyro.sample("x", dist.Normal(z2, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(parameters["slope"] * x, parameters["scale"]))
            pyro.sample("z1", dist.Normal(parameters["back"] * z2, parameters["width"]))

    return model, guide, parameters


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("objective", [STL, functools.partial(STL, 4), functools.partial(DReG, 4)])
def test_no_gradient_at_the_posterior(objective, vectorize):
    """Roeder et al.'s point: at q = posterior the gradient of phi is zero, not only its mean; two sites or one."""
    model, guide, parameters = hierarchy(7)
    x = torch.randn(7).double()
    phi = [p for name, p in parameters.items() if name != "m"]
    loss = objective(vectorize=vectorize).differentiable_loss(model, guide, x)
    for gradient in torch.autograd.grad(loss, phi):
        assert gradient.abs().max() < 1e-12
    plain = torch.autograd.grad(SGVB(4).differentiable_loss(model, guide, x), phi)
    assert max(gradient.abs().max() for gradient in plain) > 0.1

    copies = ManyCopies(5, loc=0.5, log_scale=0.5 * math.log(0.5))
    for name in "ar":
        assert copies.gradients(objective(vectorize=vectorize))[name].abs().max() < 1e-12


def test_path_gradients_of_two_sites_are_unbiased_away_from_the_posterior():
    means = {}
    for objective in (SGVB(2), STL(2), IWAE(4), DReG(4), DReG(4, vectorize=False)):
        model, guide, parameters = hierarchy(100_000)
        with torch.no_grad():
            parameters["slope"].fill_(0.3), parameters["back"].fill_(0.8), parameters["width"].fill_(0.9)
        pyro.set_rng_seed(len(means))
        loss = -objective.differentiable_loss(model, guide, torch.ones(100_000).double())
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        means.setdefault(type(objective) in (SGVB, STL), []).append(gradients)
    for group in means.values():
        for other in group[1:]:
            for a, b in zip(group[0], other, strict=True):
                error = SIGMAS * ((a.var() + b.var()) / len(a)) ** 0.5
                assert error < 0.1
                assert (a.mean() - b.mean()).abs() < error


@pytest.mark.parametrize("loc", [0.0, 1.5])
def test_variance_of_the_score_function_is_the_closed_form(loc):
    """f(z) = z^2 under N(a, 1): the gradient z^2 (z - a) has mean 2a and variance a^4 + 14 a^2 + 15."""
    n = 400_000
    a = torch.full((n,), loc, dtype=torch.float64, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(a, 1.0))

    def model(x):  # log p - log q = z^2
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(a.detach(), 1.0))
            pyro.factor("f", z**2)

    pyro.set_rng_seed(0)
    (draws,) = torch.autograd.grad(-ScoreFunction().differentiable_loss(model, guide, torch.zeros(n)), [a])
    assert_mean(draws, 2 * loc, resolution=0.1)
    squares = (draws - 2 * loc).square()
    assert_mean(squares, loc**4 + 14 * loc**2 + 15, resolution=3.0)
    if loc:  # eight particles: as much work, less variance
        eight = []
        for baseline in (None, "leave-one-out"):
            objective = ScoreFunction(8, baseline=baseline)
            loss = objective.differentiable_loss(model, guide, torch.zeros(n))
            eight += torch.autograd.grad(-loss, [a])
        assert_mean(eight[1], 2 * loc, resolution=0.05)
        assert eight[1].var() < 0.7 * eight[0].var()


def test_the_leave_one_out_gradient_is_a_sample_covariance():
    """1/K sum_k (f_k - mean of the others) s_k = 1/(K-1) sum_k (f_k - mean f) s_k, on a replayed sample."""
    copies = ManyCopies(10)
    pyro.set_rng_seed(4)
    terms = ScoreFunction(3, baseline="leave-one-out").terms(copies.model, copies.guide, copies.data)
    (gradient,) = torch.autograd.grad(-terms.loss, [copies.a])
    pyro.set_rng_seed(4)
    with pyro.plate("k", 3, dim=-2):
        z = poutine.trace(copies.guide).get_trace(copies.data).nodes["z"]["value"].detach()
    score = (z - copies.a) / (2 * copies.r).exp()
    centred = terms.log_weight - terms.log_weight.mean(0)
    torch.testing.assert_close(gradient, (centred * score).sum(0) / 2)


def enumerated_bound(objective, log_weight, prob):
    """The bound's expectation over a discrete latent, from its values' weights and q: VIMCO's two particles, or one."""
    if not isinstance(objective, VIMCO):
        return (prob * log_weight).sum()
    bound = torch.logaddexp(log_weight[:, None], log_weight[None]) - math.log(2)
    return (prob[:, None] * prob[None] * bound).sum()


@pytest.mark.parametrize("objective", [ScoreFunction(2, baseline="leave-one-out"), ScoreFunction(2), VIMCO(2)])
def test_gradients_of_a_discrete_guide_are_those_of_the_enumerated_bound(objective):
    """One bit, two particles: the bound's expectation is a sum of four terms."""
    n = 400_000
    logit = torch.full((n,), 0.4, dtype=torch.float64, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((n,), 0.3).double()))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logit))

    one = torch.tensor(0.4).double().requires_grad_()
    q, z = dist.Bernoulli(logits=one), torch.tensor([0.0, 1.0]).double()
    joint = dist.Bernoulli(torch.tensor(0.3).double()).log_prob(z) + dist.Normal(2 * z, 1.0).log_prob(torch.tensor(1.2))
    expected = enumerated_bound(objective, joint - q.log_prob(z), q.log_prob(z).exp())
    (exact,) = torch.autograd.grad(expected, [one])
    (draws,) = torch.autograd.grad(
        -objective.differentiable_loss(model, guide, torch.full((n,), 1.2).double()), [logit]
    )
    assert_mean(draws, exact, resolution=0.01)


# -- weights of the KL -----------------------------------------------------------------------------------------------


def on(side, handler):
    """A pair whose latent is under ``handler`` in the model, in the guide, in both."""
    lg = LinearGaussian(40, 2, 4)
    W, m, s, c, A, r = (lg.initial[n] for n in ("W", "m", "log_s", "c", "A", "r"))

    def model(x):
        with pyro.plate("data", len(x)):
            with handler() if side != "guide" else poutine.scale(scale=1.0):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W.T + m, s.exp()).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), handler() if side != "model" else poutine.scale(scale=1.0):
            pyro.sample("z", dist.Normal((x - c) @ A.T, r.exp().expand(len(x), 2)).to_event(1))

    return lg, model, guide


@pytest.mark.parametrize("weight", ["0.1", "tensor", "beta", "mask"])
def test_a_weight_on_the_kl_means_the_same_under_both_estimators_wherever_it_stands(weight):
    keep = torch.arange(40) % 3 > 0
    handler, factor = {
        "0.1": (lambda: poutine.scale(scale=0.1), torch.tensor(0.1)),
        "tensor": (lambda: poutine.scale(scale=torch.tensor(0.1).double()), torch.tensor(0.1)),
        "beta": (lambda: poutine.scale(scale=1.0), torch.tensor(0.1)),
        "mask": (lambda: poutine.mask(mask=keep), keep.double()),
    }[weight]
    beta = 0.1 if weight == "beta" else 1.0
    sides = ["model", "guide"] if weight in ("tensor", "beta") else ["model", "guide", "both"]
    values = {}
    for side in sides:
        lg, model, guide = on(side, handler)
        plain = SGVB(kl="analytic").terms(lg.model, lg.guide, lg.x)
        expected = lg.elbo(lg.x) + (1 - factor) * plain.kl["z"]
        for kl in ("sampled", "analytic"):
            pyro.set_rng_seed(3)
            values[side, kl] = SGVB(8_000, kl=kl, beta=beta).terms(model, guide, lg.x)
        a, b = values[side, "sampled"], values[side, "analytic"]
        for terms in (a, b):
            torch.testing.assert_close(terms.bound, values["model", "analytic"].bound, rtol=0, atol=0.2)
            error = SIGMAS * terms.log_weight.std(0) / 8_000**0.5
            assert (error < 0.5).all()
            assert ((terms.bound - expected).abs() < error).all()
    for kl in ("sampled", "analytic"):
        for side in sides:
            torch.testing.assert_close(values[side, kl].bound, values["model", kl].bound, rtol=1e-12, atol=1e-12)


def test_pyros_own_gives_another_value_for_each_place():
    """The trap: beta in the model alone reaches Trace_ELBO's prior and nothing of TraceMeanField_ELBO's KL."""
    values = {}
    for side in ("model", "guide"):
        lg, model, guide = on(side, lambda: poutine.scale(scale=0.1))
        for objective in (Trace_ELBO, TraceMeanField_ELBO):
            values[side, objective] = objective(num_particles=500, vectorize_particles=True).loss(model, guide, lg.x)
    assert values["model", TraceMeanField_ELBO] > values["guide", TraceMeanField_ELBO] + 1


def test_beta_can_be_warmed_up_in_place_on_the_fast_path():
    lg = LinearGaussian(40, 2, 4)
    beta = torch.tensor(0.0).double()
    learner = AEVB(
        lg.model, lg.guide, functools.partial(torch.optim.SGD, lr=0.0), SGVB(kl="analytic", beta=beta), compile="graph"
    )
    for value in (0.0, 0.3, 1.0, 0.5, 0.7):
        beta.fill_(value)
        info = learner.step(lg.x)
        kl = info.terms.kl["z"].mean()
        torch.testing.assert_close(info.elbo, info.terms.reconstruction["x"].mean() - value * kl)
    (capture,) = learner.captures
    assert capture._traces <= 2
    assert capture.obstacle is None


def test_free_bits():
    lg = LinearGaussian(12, 2, 4)
    plain = SGVB(kl="analytic").terms(lg.model, lg.guide, lg.x).kl["z"]
    level = plain.median().item()
    pyro.set_rng_seed(1)
    terms = SGVB(kl="analytic", free_bits=level).terms(lg.model, lg.guide, lg.x)
    torch.testing.assert_close(terms.bound, terms.reconstruction["x"] - plain.clamp(min=level))
    torch.testing.assert_close(terms.kl["z"], plain)  # reported as it is


SEVERAL = {name: make for name, make in OBJECTIVES.items() if name != "score function"}


class Wiggly:
    """x|z ~ N(w z + sin 2z, 0.7), q = N(a, e^r) with a, r, w for each of many equal datapoints apart."""

    x, values = 1.3, (0.4, -0.3, 0.8)

    def __init__(self, copies, handler, side):
        self.leaves = [torch.full((copies,), v).double().requires_grad_() for v in self.values]
        self.data = torch.full((copies,), self.x).double()
        self._handlers = [handler if side in (half, "both") else contextlib.nullcontext for half in ("model", "guide")]

    def model(self, x):
        with pyro.plate("data", len(x)):
            with self._handlers[0]():
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(self.leaves[2] * z + torch.sin(2 * z), 0.7), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)), self._handlers[1]():
            pyro.sample("z", dist.Normal(self.leaves[0], self.leaves[1].exp()))

    @classmethod
    def exact(cls, objective, beta):
        """The bound and its gradient in a, r, w, with the KL weighed by beta: sums over one z, or two."""
        a, r, w = leaves = [torch.tensor(v).double().requires_grad_() for v in cls.values]
        e = torch.linspace(-9, 9, 1201).double()
        mass = dist.Normal(torch.zeros(()).double(), 1.0).log_prob(e).exp() * (e[1] - e[0])
        z = a + r.exp() * e
        ratio = dist.Normal(torch.zeros(()).double(), 1.0).log_prob(z) - dist.Normal(a, r.exp()).log_prob(z)
        log_w = dist.Normal(w * z + torch.sin(2 * z), 0.7).log_prob(torch.tensor(cls.x).double()) + beta * ratio
        if isinstance(objective, (WeightedKL, ScoreFunction)):
            bound = (mass * log_w).sum()
        else:
            rest = 1 - getattr(objective, "alpha", 0.0)
            two = torch.logaddexp(rest * log_w[:, None], rest * log_w[None]) - math.log(2)
            bound = (mass[:, None] * mass[None] * two).sum() / rest
        return bound.detach(), torch.autograd.grad(bound, leaves)


@pytest.mark.parametrize(
    ("weight", "side"), [(0.3, "model"), (4.0, "guide"), (0.3, "both"), (0.0, "model"), (0.0, "guide")]
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_and_gradients_under_a_weight_are_those_of_the_weighed_bound(name, weight, side):
    """A weight of 0 is a mask; what has no noise at all, as a gradient that is zero, is compared as it is."""
    copies = 50_000
    masked = functools.partial(poutine.mask, mask=torch.zeros(copies, dtype=torch.bool))
    pair = Wiggly(copies, functools.partial(poutine.scale, scale=weight) if weight else masked, side)
    objective = OBJECTIVES[name](2)
    bound, gradients = Wiggly.exact(objective, weight)
    terms = objective.terms(pair.model, pair.guide, pair.data)
    assert_mean(terms.bound, bound, resolution=0.3)
    for found, exact in zip(torch.autograd.grad(-terms.loss, pair.leaves), gradients, strict=True):
        assert_mean(found, exact, resolution=0.6)


@pytest.mark.parametrize("objective", [ScoreFunction(2), ScoreFunction(3, baseline="leave-one-out"), VIMCO(2)])
@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 1.0, 2.0], [1.0, -1.0, 0.5, 2.0]])
def test_a_masked_discrete_latent_is_taught_by_the_likelihood_that_is_not_masked(objective, values):
    """Its own log p and log q are gone: the gradient is that of E_q[log p(x|z)], or of VIMCO's bound on two."""
    copies, values = 200_000, torch.tensor(values).double()
    logits = torch.linspace(-0.4, 0.5, len(values)).double()
    leaf = logits.expand(copies, -1).clone().requires_grad_()
    gone = poutine.mask(mask=torch.zeros(copies, dtype=torch.bool))

    def model(x):
        with pyro.plate("data", len(x)):
            with gone:
                z = pyro.sample("z", dist.Categorical(logits=torch.zeros_like(leaf)))
            pyro.sample("x", dist.Normal(values[z], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), gone:
            pyro.sample("z", dist.Categorical(logits=leaf))

    one = logits.clone().requires_grad_()
    log_w, prob = dist.Normal(values, 1.0).log_prob(torch.tensor(1.2).double()), one.softmax(0)
    (exact,) = torch.autograd.grad(enumerated_bound(objective, log_w, prob), [one])
    loss = objective.differentiable_loss(model, guide, torch.full((copies,), 1.2).double())
    (draws,) = torch.autograd.grad(-loss, [leaf])
    assert_mean(draws, exact, resolution=0.02)


@pytest.mark.parametrize("factor", [1e-3, 0.5, 100.0])
@pytest.mark.parametrize("name", SEVERAL)
def test_a_scale_around_everything_multiplies_loss_and_gradients(name, factor):
    """Not the log weights within a bound, which it would sharpen or flatten."""
    results = []
    for scale in (1.0, factor):
        pair = ManyCopies(50)
        objective = OBJECTIVES[name](4)
        around = poutine.scale(scale=scale)
        pyro.set_rng_seed(0)
        terms = objective.terms(around(pair.model), around(pair.guide), pair.data)
        gradients = torch.autograd.grad(terms.loss, [pair.m, pair.a, pair.r])
        results.append((terms.loss.detach() / scale, terms.bound, [g / scale for g in gradients]))
    torch.testing.assert_close(*results)
    assert results[0][1].mean() < dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0)) + 0.2


# -- closed forms that can't be had ----------------------------------------------------------------------------------


def test_a_kl_that_the_guides_order_makes_wrong_is_sampled_and_said(caplog):
    """p(z2|z1) with z1 drawn from z2: Pyro's analytic KL is off, ours is the bound, -log p(x) here."""
    model, guide, _ = hierarchy(20_000)
    x = torch.ones(20_000).double()
    with caplog.at_level(logging.WARNING):
        objective = SGVB(kl="analytic")
        for _ in range(2):
            terms = objective.terms(model, guide, x)
    assert caplog.text.count("KL of site 'z2' is sampled: p(z2) depends on 'z1', which the guide draws from z2") == 1
    evidence = dist.Normal(torch.zeros(()).double(), 3**0.5).log_prob(torch.ones(()).double())
    assert_mean(terms.bound, evidence, resolution=0.05)
    with pytest.warns(UserWarning, match="Failed to verify mean field restriction"):
        theirs = -TraceMeanField_ELBO().loss(model, guide, x) / 20_000
    assert abs(theirs - evidence) > 0.1


def test_top_down_guides_keep_their_closed_form(caplog):
    """The other order, z1 and then z2 from it, is right as it is."""

    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            z2 = pyro.sample("z2", dist.Normal(z1, 1.0))
            pyro.sample("x", dist.Normal(z2, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x / 3, (2 / 3) ** 0.5))
            pyro.sample("z2", dist.Normal((z1 + x) / 2, 0.5**0.5))

    objective = SGVB(kl="analytic")
    terms = objective.terms(model, guide, torch.ones(20_000).double())
    assert structure(model, guide, (torch.ones(2).double(),), analytic_kl=True).closed_form == {"z1", "z2"}
    assert not caplog.text
    evidence = dist.Normal(torch.zeros(()).double(), 3**0.5).log_prob(torch.ones(()).double())
    assert_mean(terms.bound, evidence, resolution=0.05)


def test_a_prior_without_a_closed_form_is_sampled_and_said(caplog):
    def model(x):
        with pyro.plate("data", len(x)):
            mixture = dist.MixtureSameFamily(
                dist.Categorical(torch.ones(2).double()), dist.Normal(torch.tensor([-2.0, 2.0]).double(), 1.0)
            )
            z = pyro.sample("z", mixture)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = torch.randn(5).double()
    pyro.set_rng_seed(1)
    b = SGVB(3, kl="analytic").terms(model, guide, x)
    pyro.set_rng_seed(1)
    a = SGVB(3).terms(model, guide, x)
    torch.testing.assert_close(a.bound, b.bound)
    assert caplog.text.count("KL of site 'z' is sampled: no closed form for Normal and MixtureSameFamily") == 1


def test_a_delta_guide_keeps_its_log_density():
    """Pyro's closed form for a Delta leaves the Jacobian out that autoguides put there."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            half = pyro.sample("half", dist.Normal(x / 4, 0.5**1.5), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(2 * half, log_density=torch.full((len(x),), -math.log(2)).double()))

    x = torch.randn(5).double()
    exact = dist.Normal(torch.zeros(5).double(), 2**0.5).log_prob(x)
    for kl in ("sampled", "analytic"):
        torch.testing.assert_close(SGVB(kl=kl).terms(model, guide, x).bound, exact, rtol=1e-6, atol=1e-6)


# -- the places an objective works in --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_in_svi_as_a_module_and_in_a_learner(name):
    """The same loss from all three, and training moves every parameter."""
    losses = []
    for how in ("svi", "module", "learner"):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            pair, x = CONTINUOUS["bernoulli_vae"]()
            before = [p.clone() for p in pair.parameters()]
            objective = OBJECTIVES[name]()
            objective.loss(pair.model, pair.guide, x)
            pyro.set_rng_seed(1)
            if how == "svi":
                svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), objective)
                losses.append(svi.step(x))
            elif how == "module":
                module = objective(pair.model, pair.guide)
                loss = module(x)
                loss.backward()
                losses.append(loss.item())
                continue
            else:
                learner = AEVB(pair.model, pair.guide, functools.partial(torch.optim.Adam, lr=0.01), objective)
                losses.append(learner.step(x).loss.item())
            assert all(not torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-12)


def test_a_model_that_cannot_broadcast_is_told_and_runs_one_by_one():
    net = nn.Linear(2, 3).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z.reshape(len(x), 2)), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[..., :2], 1.0).to_event(1))

    x = torch.randn(4, 3).double()
    with pytest.raises(ValueError, match=r"broadcast over 5 particles.* vectorize=False"):
        IWAE(5).loss(model, guide, x)
    assert IWAE(5, vectorize=False).terms(model, guide, x).log_weight.shape == (5, 4)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["L^A", "L^B", "STL", "IWAE", "Renyi", "DReG"])
def test_a_guide_that_cannot_be_reparameterised(name):
    pair, x = DISCRETE["sigmoid_belief_net"]()
    learner = AEVB(pair.model, pair.guide, functools.partial(torch.optim.Adam, lr=0.01), OBJECTIVES[name]())
    with pytest.raises(ValueError, match=r"got site 'z' ~ Bernoulli; use the objective ScoreFunction\(\) or VIMCO\(\)"):
        learner.step(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGVB(0), "num_particles of 1 or more for SGVB, got 0"),
        (lambda: DReG(1), r"num_particles of 2 or more for DReG, got 1; with fewer use STL\(\)"),
        (lambda: VIMCO(1), r"num_particles of 2 or more for VIMCO, got 1; with fewer use ScoreFunction\(\)"),
        (lambda: ScoreFunction(baseline="leave-one-out"), "2 or more for a leave-one-out baseline, got 1"),
        (lambda: ScoreFunction(2, baseline="ewma"), "baseline to be None or 'leave-one-out', got 'ewma'"),
        (lambda: Renyi(-0.1, 5), r"alpha of 0 or more, got -0.1.* IWAE"),
        (lambda: Renyi(math.nan, 5), "alpha of 0 or more, got nan"),
        (lambda: Renyi(math.inf, 5), "alpha of 0 or more, got inf"),
        (lambda: SGVB(kl="exact"), "kl to be 'sampled'"),
        (lambda: SGVB(beta=-1.0), "a beta of 0 or more, got -1.0"),
        (lambda: SGVB(beta=torch.ones(3)), r"beta to be a number or a 0-dim tensor, got shape \(3,\)"),
        (lambda: SGVB(free_bits=math.nan), "free_bits of 0 or more, got nan"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_half_a_particle():
    with pytest.raises(TypeError, match=r"expected an integer for num_particles, got 2\.5; pass int\(\.\.\.\)"):
        IWAE(2.5)


def test_masks_on_both_sides_are_joined():
    """A latent that one side masks out counts for neither, and where both keep it for both."""
    keep = [torch.arange(40) % 3 > 0, torch.arange(40) % 2 > 0]
    masks = iter([*keep, *keep])
    lg, model, guide = on("both", lambda: poutine.mask(mask=next(masks)))
    swapped = poutine.trace(guide).get_trace(lg.x).nodes["z"]["mask"]  # the guide runs first and takes the first
    assert torch.equal(swapped, keep[0])
    masks = iter([*keep, *keep])
    terms = SGVB(kl="analytic").terms(model, guide, lg.x)
    whole = SGVB(kl="analytic").terms(lg.model, lg.guide, lg.x).kl["z"]
    torch.testing.assert_close(terms.kl["z"], whole * (keep[0] & keep[1]))


def test_two_scales_on_one_kl():
    lg, model, _ = on("model", lambda: poutine.scale(scale=0.1))
    _, _, guide = on("guide", lambda: poutine.scale(scale=0.2))
    with pytest.raises(ValueError, match=r"one scale for both sides of the KL of site 'z', got 0.1.* and 0.2"):
        SGVB().loss(model, guide, lg.x)


# -- one objective, several learners ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    "make", [lambda: SGVB(kl="analytic"), lambda: SGVB(2, kl="analytic"), lambda: IWAE(2), lambda: DReG(2)]
)
def test_an_objective_that_learners_share_knows_each_pair(make, number, caplog):
    """Each pair is looked at once, and what there is to say of it is said once."""
    objective, learners = make(), []
    runs = [itertools.count() for _ in range(number)]  # no value that a model reaches changes
    for i in range(number):

        def model(x, i=i):
            next(runs[i])
            loc = pyro.param(f"loc{i}", torch.tensor(0.0))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Laplace(loc, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.StudentT(5.0, x / 2, 1.0))

        adam = functools.partial(torch.optim.Adam, lr=0.01)
        learners.append(AEVB(model, guide, adam, objective, compile=False))
    x = torch.randn(10)
    after = []
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            for learner in learners:
                learner.step(x)
            after.append([next(count) for count in runs])
    for earlier, later in itertools.pairwise(after):
        assert later == [n + 2 for n in earlier]  # one run a step after the first, and the look at the count
    assert caplog.text.count("KL of site 'z' is sampled") == (number if objective.needs_closed_forms else 0)


class OtherOrder:
    """p(z1) p(z2|z1) with a guide that draws z2 first and, where ``turned`` says so, z1 from it."""

    turned = False

    def model(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(()), 1.0))
            z2 = pyro.sample("z2", dist.Normal(2 * z1, 1.0))
            pyro.sample("x", dist.Normal(z2, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.5 * x, 1.0))
            pyro.sample("z1", dist.Normal(0.25 * (z2 if self.turned else x), 0.5))


@pytest.mark.parametrize("objective", [SGVB(kl="analytic"), Blend()], ids=lambda each: type(each).__name__)
def test_closed_forms_are_those_of_the_pair_as_it_is_now(objective):
    x, pair = torch.randn(1000), OtherOrder()
    objective.loss(pair.model, pair.guide, x)
    pair.turned = True
    found, new = [], OtherOrder()
    new.turned = True
    for each in (pair, new):
        torch.manual_seed(0)
        found.append(objective.loss(each.model, each.guide, x))
    assert found[0] == found[1]


class Appearing:
    """z ~ N(w, 1), with w a number or a global latent; in one plate or in two; with a prior of either family."""

    everywhere = mixed = deep = False

    def model(self, x):
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0)) if self.everywhere else torch.tensor(0.5)
        prior = dist.Normal(w, 1.0)
        if self.mixed:
            prior = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.tensor([-1.0, 1.0]), 1.0))
            prior = prior.expand([len(x)])
        with pyro.plate("data", 10 * len(x), subsample_size=len(x), dim=-2 if self.deep else -1):
            if self.deep:
                with pyro.plate("inner", 3, dim=-1):
                    z = pyro.sample("z", prior)
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, None].expand(-1, 3))
            else:
                pyro.sample("x", dist.Normal(pyro.sample("z", prior), 1.0), obs=x)

    def guide(self, x):
        if self.everywhere:
            pyro.sample("w", dist.Normal(torch.tensor(0.5), 0.3))
        with pyro.plate("data", 10 * len(x), subsample_size=len(x), dim=-2 if self.deep else -1):
            if self.deep:
                with pyro.plate("inner", 3, dim=-1):
                    pyro.sample("z", dist.Normal(x[:, None].expand(-1, 3) / 2, 0.7))
            else:
                pyro.sample("z", dist.Normal(x / 2, 0.7))


@pytest.mark.parametrize("what", ["everywhere", "mixed", "deep"])
@pytest.mark.parametrize("objective", [SGVB(2, kl="analytic"), IWAE(3), VIMCO(3)], ids=lambda each: type(each).__name__)
def test_what_appears_in_a_pair_that_was_seen_without_it_is_seen(what, objective):
    x, pair, new = torch.randn(50), Appearing(), Appearing()
    objective.loss(pair.model, pair.guide, x)
    setattr(pair, what, True)
    setattr(new, what, True)
    found = []
    for each in (pair, new):
        torch.manual_seed(0)
        found.append(objective.loss(each.model, each.guide, x))
    assert found[0] == found[1]
