"""Discrete latents that the guide enumerates: against sums written out, in every objective, learner and estimate."""

import functools
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from objectives import OBJECTIVES
from pyro.infer import TraceEnum_ELBO, config_enumerate

from pyro_aevb import (
    AEVB,
    AIS,
    IWAE,
    MCEM,
    SGVB,
    STL,
    Objective,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    elbo,
    evidence_gap,
    log_density,
)  # fmt: skip
from pyro_aevb import log_marginal_likelihood as log_p
from pyro_aevb.evidence import Auto

N, C = 5, 3
SLOW = pytest.mark.slow
ADAM = functools.partial(torch.optim.Adam, lr=0.01)
SUMS = {name: OBJECTIVES[name] for name in ("L^A", "L^B", "STL", "IWAE", "Renyi", "score function")}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


X, LOCS, LOG_PRIOR = normal(N, seed=1), normal(C) * 2, torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()


def start():
    """Return parameters phi: of q(y|x), of the mean and of the scale of q(z|x, y)."""
    return {
        "a": (normal(2, C, seed=2) / 2).requires_grad_(),
        "b": (normal(C, seed=3) / 2).requires_grad_(),
        "s": torch.tensor(-0.3).double().requires_grad_(),
    }


def log_q_y(p, x):
    return torch.log_softmax(p["a"][0] + x[:, None] * p["a"][1], -1)


def m2(p, one_hot=True):
    """M2 as Pyro's tutorial writes it: z ~ N(m_y, 1) and x ~ N(z + y, 1), the label y in both halves or given."""

    def index(y):
        return y.argmax(-1) if one_hot else y

    def of(logits):
        return dist.OneHotCategorical(logits=logits) if one_hot else dist.Categorical(logits=logits)

    def model(x, y=None):
        with pyro.plate("data", 20, subsample_size=len(x)):
            y = pyro.sample("y", of(LOG_PRIOR), obs=y)
            z = pyro.sample("z", dist.Normal(LOCS[index(y)], 1.0))
            pyro.sample("x", dist.Normal(z + index(y), 1.0), obs=x)

    @config_enumerate
    def guide(x, y=None):
        with pyro.plate("data", 20, subsample_size=len(x)):
            if y is None:
                y = pyro.sample("y", of(log_q_y(p, x)))
            loc = p["b"][index(y)] * x
            pyro.sample("z", dist.Normal(loc, p["s"].exp().expand_as(loc)), infer={"enumerate": None})

    return model, guide


EXACT = torch.logsumexp(dist.Normal(LOCS + torch.arange(C), math.sqrt(2)).log_prob(X[:, None]) + LOG_PRIOR, -1)


def by_hand(p, eps):
    """Return log q(y|x), log p(x, y, z), log q(z|x, y), KL(q(z|x, y)||p(z|y)) and log p(x|z, y), each (C, K, M)."""
    y = torch.arange(C)[:, None, None].expand(eps.shape)
    loc, scale = p["b"][y] * X, p["s"].exp()
    z = loc + scale * eps
    prior, likelihood = dist.Normal(LOCS[y], 1.0), dist.Normal(z + y, 1.0).log_prob(X)
    q = dist.Normal(loc, scale)
    share = log_q_y(p, X).T[:, None].expand(eps.shape)
    joint = LOG_PRIOR[y] + prior.log_prob(z) + likelihood
    return share, joint, q.log_prob(z), torch.distributions.kl_divergence(q, prior), likelihood


def value_by_hand(name, p, eps):
    """Return an objective's bound of each datapoint, (M,), differentiable."""
    share, joint, log_q_z, kl_z, likelihood = by_hand(p, eps)
    log_w = joint - share - log_q_z
    q = share.exp()
    if name == "IWAE":
        return (joint - log_q_z).flatten(0, 1).logsumexp(0) - math.log(eps.shape[1])
    if name == "Renyi":
        return ((0.5 * log_w + share).flatten(0, 1).logsumexp(0) - math.log(eps.shape[1])) / 0.5
    if name in ("L^B", "Blend"):
        log_prior = LOG_PRIOR[:, None, None]
        return (q * (likelihood - kl_z - share + log_prior)).sum(0).mean(0)
    if name == "STL":  # through the particles alone
        fixed = {"b": p["b"].detach(), "s": p["s"].detach()}
        y = torch.arange(C)[:, None, None].expand(eps.shape)
        z = p["b"][y] * X + p["s"].exp() * eps
        log_w = joint - share - dist.Normal(fixed["b"][y] * X, fixed["s"].exp()).log_prob(z)
    return (q * log_w).sum(0).mean(0)


def noise(K, vectorize):
    """Return the standard normal draws of z, (C, K, M), in the order that the guide draws them."""
    torch.manual_seed(0)
    rows = []
    for size in [C * K] if vectorize else [1] * (C * K):
        torch.randperm(20)  # by the plate
        rows.append(torch.normal(torch.zeros(size, N).double(), torch.ones(size, N).double()))
    return torch.cat(rows).reshape(C, K, N)


@pytest.mark.parametrize("vectorize", [True, False], ids=["at once", "one by one"])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("name", [name for name in SUMS if name != "score function"])
def test_values_and_gradients_are_the_sum_written_out(name, K, vectorize):
    p = start()
    model, guide = m2(p)
    eps = noise(K, vectorize)
    exact = value_by_hand(name, p, eps)
    wanted = torch.autograd.grad(-4 * exact.sum(), list(p.values()), materialize_grads=True)
    torch.manual_seed(0)
    terms = SUMS[name](num_particles=K, vectorize=vectorize).terms(model, guide, X)
    got = torch.autograd.grad(terms.loss, list(p.values()))
    assert terms.bound.tolist() == pytest.approx(exact.tolist(), abs=1e-9)
    assert terms.loss.item() == pytest.approx(-4 * exact.sum().item(), abs=1e-9)
    for ours, other in zip(got, wanted, strict=True):
        assert ours.flatten().tolist() == pytest.approx(other.flatten().tolist(), abs=1e-9)


def score_by_hand(p, eps, baseline):
    """Return the gradient of the score function's estimate, y summed over and z drawn."""
    K = eps.shape[1]
    with torch.no_grad():
        y = torch.arange(C)[:, None, None].expand(eps.shape)
        z = p["b"][y] * X + p["s"].exp() * eps
    share = log_q_y(p, X).T[:, None].expand(eps.shape)
    score = dist.Normal(p["b"][y] * X, p["s"].exp()).log_prob(z)
    joint = LOG_PRIOR[y] + dist.Normal(LOCS[y], 1.0).log_prob(z) + dist.Normal(z + y, 1.0).log_prob(X)
    f = (joint - share - score).detach()
    each = (share.exp() * f).sum(0).detach()
    b = (each.sum(0) - each) / (K - 1) if baseline else 0.0
    surrogate = share.exp().detach() * (f - b) * score + share.exp() * f
    return torch.autograd.grad(-4 * surrogate.sum(0).mean(0).sum(), list(p.values()))


@pytest.mark.parametrize("vectorize", [True, False], ids=["at once", "one by one"])
@pytest.mark.parametrize("baseline", [None, "leave-one-out"])
def test_the_score_function_is_that_of_what_is_drawn(baseline, vectorize):
    p = start()
    model, guide = m2(p)
    eps = noise(3, vectorize)
    torch.manual_seed(0)
    terms = ScoreFunction(3, baseline=baseline, vectorize=vectorize).terms(model, guide, X)
    assert terms.bound.tolist() == pytest.approx(value_by_hand("L^A", p, eps).tolist(), abs=1e-9)
    got = torch.autograd.grad(terms.loss, list(p.values()))
    for ours, other in zip(got, score_by_hand(p, eps, baseline), strict=True):
        assert ours.flatten().tolist() == pytest.approx(other.flatten().tolist(), abs=1e-9)


@pytest.mark.parametrize("one_hot", [True, False])
def test_the_bound_is_that_of_trace_enum_elbo(one_hot):
    found = []
    for objective in (SGVB(), TraceEnum_ELBO(max_plate_nesting=1)):
        p = start()
        torch.manual_seed(0)
        loss = objective.differentiable_loss(*m2(p, one_hot), X)
        found.append([loss.item(), *(g.flatten().tolist() for g in torch.autograd.grad(loss, list(p.values())))])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    for ours, other in zip(found[0][1:], found[1][1:], strict=True):
        assert ours == pytest.approx(other, rel=1e-9)


def labels_alone(p):
    """A mixture, its labels in model and guide: nothing is left to be drawn."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=LOG_PRIOR))
            pyro.sample("x", dist.Normal(LOCS[y], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=log_q_y(p, x)), infer={"enumerate": "parallel"})

    log_joint = dist.Normal(LOCS, 1.0).log_prob(X[:, None]) + LOG_PRIOR
    return model, guide, log_joint, log_q_y(p, X)


def two_in_a_row(p):
    """Two labels, the second drawn from the first: six pairs of values."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=LOG_PRIOR))
            v = pyro.sample("v", dist.Bernoulli(0.2 + 0.3 * y.double()))
            pyro.sample("x", dist.Normal(LOCS[y] + v, 1.0), obs=x)

    @config_enumerate
    def guide(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=log_q_y(p, x)))
            pyro.sample("v", dist.Bernoulli(logits=p["b"][y] * x))

    log_joint, log_q = [], []
    for y, v in itertools.product(range(C), (0.0, 1.0)):
        p_v = dist.Bernoulli(0.2 + 0.3 * torch.tensor(y).double())
        value = torch.tensor(v).double()
        log_joint.append(LOG_PRIOR[y] + p_v.log_prob(value) + dist.Normal(LOCS[y] + v, 1.0).log_prob(X))
        log_q.append(log_q_y(p, X)[:, y] + dist.Bernoulli(logits=p["b"][y] * X).log_prob(value.expand(N)))
    return model, guide, torch.stack(log_joint, -1), torch.stack(log_q, -1)


@pytest.mark.parametrize("vectorize", [True, False], ids=["at once", "one by one"])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("pair", [labels_alone, two_in_a_row])
def test_discrete_latents_alone_have_no_noise(pair, K, vectorize):
    p = start()
    model, guide, log_joint, log_q = pair(p)
    bound, exact = (log_q.exp() * (log_joint - log_q)).sum(-1), log_joint.logsumexp(-1)
    options = {"num_particles": K, "vectorize": vectorize}
    terms = SGVB(**options).terms(model, guide, X)
    wanted = torch.autograd.grad(-bound.sum(), p["a"], retain_graph=True)[0]
    got = torch.autograd.grad(terms.loss, p["a"])[0]
    assert got.flatten().tolist() == pytest.approx(wanted.flatten().tolist(), abs=1e-9)
    assert terms.bound.tolist() == pytest.approx(bound.tolist(), abs=1e-9)
    for value in (IWAE(**options).terms(model, guide, X).bound, *SGVB(**options).terms(model, guide, X).log_weight):
        assert value.tolist() == pytest.approx(exact.tolist(), abs=1e-9)
    assert elbo(model, guide, X, **options).value.tolist() == pytest.approx(bound.tolist(), abs=1e-9)
    density = log_density(model, guide, X, **options)
    assert density.log_weight.shape == (log_q.shape[-1] * K, N)
    assert density.summed_log_weight.shape == (K, N)
    for k in range(K):
        assert density.log_share[:, k].T.flatten().tolist() == pytest.approx(log_q.flatten().tolist(), abs=1e-9)
    for row in density.summed_log_weight:
        assert row.tolist() == pytest.approx(exact.tolist(), abs=1e-9)
    evidence = log_p(model, guide, X, num_particles=2 * K, vectorize=vectorize, progress=False)
    assert evidence.value.tolist() == pytest.approx(exact.tolist(), abs=1e-9)
    assert evidence.effective_sample_size.tolist() == pytest.approx([2.0 * K] * N)


def drawn_before(p):
    """z before y in the guide: one draw of z for all values of y."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            y = pyro.sample("y", dist.Categorical(logits=LOG_PRIOR))
            pyro.sample("x", dist.Normal(z + LOCS[y], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(p["s"] * x, 1.0))
            logits = p["a"][0] + z[..., None] * p["a"][1]
            pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    return model, guide


@pytest.mark.parametrize("vectorize", [True, False], ids=["at once", "one by one"])
@pytest.mark.parametrize("objective", [SGVB, STL, IWAE, ScoreFunction], ids=lambda o: o.__name__)
def test_what_is_drawn_before_is_one_draw_for_all_values(objective, vectorize):
    p = start()
    model, guide = drawn_before(p)
    density = log_density(model, guide, X, num_particles=2, vectorize=vectorize)
    assert density.log_share.logsumexp(0).abs().max() < 1e-12  # else the shares of a draw needn't sum to 1
    torch.manual_seed(0)
    terms = objective(2, vectorize=vectorize).terms(model, guide, X)
    torch.manual_seed(0)
    density = log_density(model, guide, X, num_particles=2, vectorize=vectorize)
    weights = density.summed_log_weight
    value = weights.logsumexp(0) - math.log(2) if objective is IWAE else density.expected_log_weight.mean(0)
    assert terms.bound.tolist() == pytest.approx(value.tolist(), abs=1e-9)
    assert terms.log_weight.flatten().tolist() == pytest.approx(weights.flatten().tolist(), abs=1e-9)


@pytest.mark.parametrize("name", ["SGVB", *(pytest.param(n, marks=SLOW) for n in ("IWAE", "TraceEnum", "reweighted"))])
def test_labelled_and_unlabelled_minibatches_alternate_and_the_graph_is_the_eager_run(name):
    y = torch.eye(C).double()[torch.tensor([0, 2, 1, 1, 0])]
    losses, steps = [], [(X,), (X, y)] * 3 if name != "TraceEnum" else [(X,)] * 3  # which warns of nothing to enumerate
    for how in (False, "graph"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model, _ = m2({})
        p = start()

        def registered(x, y=None, p=p):
            for key, value in p.items():
                pyro.param(key, value)
            return m2({key: pyro.param(key) for key in p})[1](x, y)

        if name == "reweighted":
            learner = ReweightedWakeSleep(model, registered, ADAM, ADAM, num_particles=3, compile=how)
        else:
            objective = {"SGVB": SGVB(), "IWAE": IWAE(2), "TraceEnum": TraceEnum_ELBO(max_plate_nesting=1)}[name]
            learner = AEVB(model, registered, ADAM, objective, compile=how)
        losses.append([learner.step(*args).loss.item() for args in steps])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert len(set(losses[0])) > 2


def test_a_label_that_is_given_is_not_enumerated():
    p = start()
    model, guide = m2(p)
    y = torch.eye(C).double()[torch.tensor([0, 2, 1, 1, 0])]
    assert SGVB().terms(model, guide, X).kl.keys() == {"y", "z"}
    assert SGVB().terms(model, guide, X, y).kl.keys() == {"z"}
    assert log_density(model, guide, X, y).log_weight.shape == (1, N)


def test_reweighted_wake_sleep_weighs_all_values():
    p = start()

    def guide(x):
        return m2({key: pyro.param(key, value) for key, value in p.items()})[1](x)

    model, _ = m2(p)
    eps = noise(3, True)
    share, joint, log_q_z, _, _ = by_hand(p, eps)
    weight = torch.softmax((joint - log_q_z).detach().flatten(0, 1), 0).reshape(eps.shape)
    bounds = [value_by_hand(name, p, eps).mean().item() for name in ("IWAE", "L^A")]
    guide_loss = -4 * (weight * (share + log_q_z)).sum().item()
    torch.manual_seed(0)
    info = ReweightedWakeSleep(model, guide, ADAM, ADAM, num_particles=3, compile=False).step(X)
    assert info.guide_loss.item() == pytest.approx(guide_loss, abs=1e-9)
    assert [info.iwae_bound.item(), info.elbo.item()] == pytest.approx(bounds, abs=1e-9)
    each = weight.sum(0)
    assert info.effective_sample_size.item() == pytest.approx((1 / each.square().sum(0)).mean().item(), abs=1e-9)


def test_wake_sleep_evaluates_q_of_y():
    p = start()

    def guide(x):
        return m2({key: pyro.param(key, value) for key, value in p.items()})[1](x)

    info = WakeSleep(m2(p)[0], guide, ADAM, ADAM).step(X)
    assert math.isfinite(info.sleep_loss.item())


def test_mcem_takes_the_mark_in_both_halves():
    p = start()
    model, _ = m2(p)

    def with_parameter(x):
        return model(x + 0 * pyro.param("theta", torch.zeros(()).double()))

    def guide(x):
        return m2({key: pyro.param(key, value) for key, value in p.items()})[1](x)

    rows = torch.arange(N)
    with pytest.raises(ValueError, match=r"the discrete site 'y'; .* mark it in the model, infer=\{'enumerate'"):
        MCEM(with_parameter, ADAM, guide=guide, guide_optim=ADAM).step(X, index=rows)
    pyro.clear_param_store()
    info = MCEM(config_enumerate(with_parameter), ADAM, guide=guide, guide_optim=ADAM).step(X, index=rows)
    assert 0 < info.acceptance <= 1
    assert math.isfinite(info.elbo.item())


METHODS = {
    "importance": {"num_particles": 4000},
    "quadrature": {"num_particles": None},
    "auto": {"num_particles": 100},
    "ais": {"num_particles": 50},
}


@pytest.mark.parametrize(
    "method", ["importance", "quadrature", *(pytest.param(n, marks=SLOW) for n in ("auto", "ais"))]
)
def test_estimates_of_log_p_are_the_closed_form(method):
    p = start()
    p["s"] = torch.tensor(0.4).double()  # a wide guide
    model, guide = m2(p)
    each = {
        "ais": AIS(20, num_leapfrog=2),
        "auto": Auto(num_chains=32, annealing=AIS(20, num_leapfrog=2), quadrature=None),
    }.get(method, method)
    evidence = log_p(model, guide, X[:2], method=each, seed=0, progress=False, **METHODS[method])
    tolerance = 5 * evidence.standard_error.clamp(min=1e-6)
    assert ((evidence.value - EXACT[:2]).abs() < tolerance).all(), (evidence.value, EXACT)
    assert (evidence.standard_error < 0.2).all()


@pytest.mark.parametrize("vectorize", [True, False], ids=["at once", "one by one"])
def test_labels_of_some_datapoints(vectorize):
    """Pyro's obs_mask: q(y|x) is summed over where there is no label, and doesn't count where there is."""
    p, y = start(), torch.tensor([0, 2, 1, 1, 0])
    seen = torch.tensor([True, False, True, False, False])

    def model(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("y", dist.Categorical(logits=LOG_PRIOR), obs=y, obs_mask=seen)
            pyro.sample("x", dist.Normal(LOCS[v], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=~seen):
            q = dist.Categorical(logits=log_q_y(p, x))
            pyro.sample("y_unobserved", q, infer={"enumerate": "parallel"})

    _, _, log_joint, log_q = labels_alone(p)
    labelled = log_joint[torch.arange(N), y]
    bound = torch.where(seen, labelled, (log_q.exp() * (log_joint - log_q)).sum(-1))
    exact = torch.where(seen, labelled, log_joint.logsumexp(-1))
    for K in (1, 2):
        options = {"num_particles": K, "vectorize": vectorize}
        terms = SGVB(**options).terms(model, guide, X)
        assert terms.bound.tolist() == pytest.approx(bound.tolist(), abs=1e-9)
        got, wanted = (torch.autograd.grad(v, p["a"], retain_graph=True)[0] for v in (terms.loss, -bound.sum()))
        assert got.flatten().tolist() == pytest.approx(wanted.flatten().tolist(), abs=1e-9)
        assert IWAE(**options).terms(model, guide, X).bound.tolist() == pytest.approx(exact.tolist(), abs=1e-9)


@pytest.mark.parametrize("vectorize", [True, False], ids=["at once", "one by one"])
def test_a_label_that_is_there_says_nothing_to_q_of_y(vectorize):
    p, y, seen = start(), torch.tensor([0, 2, 1, 1, 0]), torch.ones(N, dtype=torch.bool)

    def model(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("y", dist.Categorical(logits=LOG_PRIOR), obs=y, obs_mask=seen)
            z = pyro.sample("z", dist.Normal(LOCS[v], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            with pyro.poutine.mask(mask=~seen):
                pyro.sample("y_unobserved", dist.Categorical(logits=log_q_y(p, x)), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(p["b"][y] * x, 1.0))

    loss = SGVB(2, vectorize=vectorize).terms(model, guide, X).loss
    of_q, of_z = torch.autograd.grad(loss, [p["a"], p["b"]])
    assert of_q.abs().max() == 0
    assert of_z.abs().max() > 0.1


def test_a_mark_that_can_t_be_followed_is_said():
    def pair(fn=None, infer=None, where="data", chain=False):
        fn = dist.Categorical(logits=LOG_PRIOR) if fn is None else fn
        infer = infer or {"enumerate": "parallel"}

        def half(x, marks, observe):
            steps = pyro.markov(range(1)) if chain and marks else range(1)
            if where == "global":
                y = pyro.sample("y", fn, infer=marks)
            with pyro.plate("data", len(x), dim=-1):
                for _ in steps if where == "data" else ():
                    y = pyro.sample("y", fn, infer=marks)
                if where == "words":
                    with pyro.plate("words", 4, dim=-2):
                        y = pyro.sample("y", fn, infer=marks).sum(-2)
                if observe:
                    pyro.sample("x", dist.Normal(0.0 * y, 1.0), obs=x)

        return lambda x: half(x, {}, True), lambda x: half(x, infer, False)

    remedy = "; leave the mark out to sample it, or mark it in the model"
    refused = [
        (pair(dist.Poisson(1.0)), "with a finite support, got Poisson"),
        (pair(infer={"enumerate": "sequential"}), "got enumerate='sequential', num_samples=None"),
        (pair(infer={"enumerate": "parallel", "num_samples": 5}), "got enumerate='parallel', num_samples=5"),
        (pair(where="words"), r"in the data plate alone, got it in the plates \['words', 'data'\]|\['data', 'words'\]"),
        (pair(where="global"), "in the data plate and in the model too, got a global one"),
        (pair(chain=True), "outside of pyro.markov, got it inside"),
    ]
    for (model, guide), message in refused:
        for call in (ScoreFunction().loss, log_density, elbo):
            with pytest.raises(ValueError, match=message) as error:
                call(model, guide, X)
            assert remedy in str(error.value)
        unmarked = pyro.poutine.infer_config(guide, config_fn=lambda site: {"enumerate": None})
        assert elbo(model, unmarked, X).value.shape == (N,)


class Median(Objective):
    def bound(self, particles):
        value = particles.log_weight.median(0).values
        return value, value


@pytest.mark.parametrize("objective", [OBJECTIVES["DReG"], OBJECTIVES["VIMCO"], Median])
def test_objectives_that_don_t_sum_say_so(objective):
    model, guide, _, _ = labels_alone(start())
    with pytest.raises(ValueError, match=r"an objective that sums over \['y'\], which the guide enumerates, got"):
        objective(num_particles=2).loss(model, guide, X)
    assert math.isfinite(Renyi(0.5, 2).loss(model, guide, X))


def test_gaps_and_starts_from_the_guide_are_refused():
    model, guide = m2(start())
    with pytest.raises(ValueError, match=r"expected a start from the prior, got start='guide' .* \['y'\]"):
        log_p(model, guide, X, method=AIS(10, start="guide"), progress=False)
    evidence = log_p(model, guide, X, num_particles=10, progress=False)
    with pytest.raises(ValueError, match=r"whose latents all have moments, got one that enumerates \['y'\]"):
        evidence_gap(model, guide, X, evidence=evidence, num_steps=1, progress=False)
