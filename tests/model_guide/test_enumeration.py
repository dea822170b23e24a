"""Discrete latents summed out of a model: against brute force, in every objective and estimate."""

import functools
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from objectives import OBJECTIVES
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate

from pyro_aevb import AEVB, AIS, IWAE, MCEM, SGVB, SMC, STL, ReweightedWakeSleep, elbo, log_density
from pyro_aevb import log_marginal_likelihood as log_p

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
N = 5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


LOCS, WEIGHTS = normal(3) * 2, torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def log_normal(x, loc, scale=1.0):
    return dist.Normal(loc, scale).log_prob(x)


def no_latents(*args):
    pass


def mixture():
    """x ~ sum_y w_y N(m_y, 1)."""
    x = normal(N, seed=1)

    @config_enumerate
    def model(x):
        with pyro.plate("data", 20, subsample_size=len(x)):
            y = pyro.sample("y", dist.Categorical(WEIGHTS))
            pyro.sample("x", dist.Normal(LOCS[y], 1.0), obs=x)

    return model, (x,), (log_normal(x[:, None], LOCS) + WEIGHTS.log()).logsumexp(-1)


def words_of_a_topic():
    """A topic y for each datapoint, four words given it, two of them hidden in the first datapoint."""
    table = torch.softmax(normal(3, 6, seed=2), -1)
    words = torch.randint(0, 6, (4, N), generator=torch.Generator().manual_seed(0))
    seen = torch.ones(4, N, dtype=torch.bool)
    seen[2:, 0] = False

    @config_enumerate
    def model(x, seen):
        with pyro.plate("data", N, dim=-1):
            y = pyro.sample("y", dist.Categorical(WEIGHTS))
            with pyro.plate("words", 4, dim=-2), pyro.poutine.mask(mask=seen.T):
                pyro.sample("x", dist.Categorical(table[y]), obs=x.T)

    likelihood = torch.where(seen[..., None], table[:, words].permute(1, 2, 0).log(), 0.0).sum(0)
    return model, (words.T.contiguous(), seen.T.contiguous()), (likelihood + WEIGHTS.log()).logsumexp(-1)


def labels_of_words():
    """A label for each of four words by itself, in the inner plate."""
    table = torch.softmax(normal(3, 6, seed=2), -1)
    words = torch.randint(0, 6, (4, N), generator=torch.Generator().manual_seed(0))

    @config_enumerate
    def model(x):
        with pyro.plate("data", N, dim=-1), pyro.plate("words", 4, dim=-2):
            y = pyro.sample("y", dist.Categorical(WEIGHTS))
            pyro.sample("x", dist.Categorical(table[y]), obs=x.T)

    return model, (words.T.contiguous(),), (WEIGHTS @ table).log()[words].sum(0)


def hidden_markov():
    """Twenty steps of a chain of three states."""
    T, transition = 20, torch.softmax(normal(3, 3, seed=3), -1)
    x = normal(N, T, seed=4)

    @config_enumerate
    def model(x):
        with pyro.plate("data", N):
            y = 0
            for t in pyro.markov(range(T)):
                y = pyro.sample(f"y{t}", dist.Categorical(transition[y]))
                pyro.sample(f"x{t}", dist.Normal(LOCS[y], 1.0), obs=x[:, t])

    alpha = transition[0].log() + log_normal(x[:, 0, None], LOCS)
    for t in range(1, T):
        alpha = (alpha[:, :, None] + transition.log()).logsumexp(1) + log_normal(x[:, t, None], LOCS)
    return model, (x,), alpha.logsumexp(-1)


def padded_chain():
    """Chains of one to five steps, padded: what is masked off is neither in the sum nor in the data."""
    T, transition = 5, torch.softmax(normal(3, 3, seed=3), -1)
    x, lengths = normal(N, T, seed=4), torch.arange(1, N + 1)

    @config_enumerate
    def model(x, lengths):
        with pyro.plate("data", N):
            y = 0
            for t in pyro.markov(range(T)):
                with pyro.poutine.mask(mask=t < lengths):
                    y = pyro.sample(f"y{t}", dist.Categorical(transition[y]))
                    pyro.sample(f"x{t}", dist.Normal(LOCS[y], 1.0), obs=x[:, t])

    exact = []
    for row, length in zip(x, lengths, strict=True):
        alpha = transition[0].log() + log_normal(row[0], LOCS)
        for t in range(1, length):
            alpha = (alpha[:, None] + transition.log()).logsumexp(0) + log_normal(row[t], LOCS)
        exact.append(alpha.logsumexp(-1))
    return model, (x, lengths), torch.stack(exact)


def two_causes():
    """Two causes in {0, 1} of one effect: a sum over four."""
    x = normal(N, seed=5)

    @config_enumerate
    def model(x):
        with pyro.plate("data", N):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
            b = pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))
            pyro.sample("x", dist.Normal(a + 2 * b, 1.0), obs=x)

    terms = []
    for a, b in itertools.product((0.0, 1.0), repeat=2):
        p_b = 0.2 + 0.5 * a
        terms.append(math.log((0.3 if a else 0.7) * (p_b if b else 1 - p_b)) + log_normal(x, torch.tensor(a + 2 * b)))
    return model, (x,), torch.stack(terms).logsumexp(0)


SUMS = {f.__name__: f for f in (mixture, words_of_a_topic, labels_of_words, hidden_markov, padded_chain, two_causes)}


@pytest.mark.parametrize("name", SUMS)
def test_log_p_of_x_is_the_sum_over_all_values(name):
    model, args, exact = SUMS[name]()
    values = [
        elbo(model, no_latents, *args).value,
        log_p(model, no_latents, *args, num_particles=2).value,
        log_density(model, no_latents, *args, num_particles=3).log_weight[1],
        SGVB().terms(model, no_latents, *args).bound,
        IWAE(2).terms(model, no_latents, *args).bound,
        IWAE(2, vectorize=False).terms(model, no_latents, *args).bound,
    ]
    for value in values:
        assert value.tolist() == pytest.approx(exact.tolist(), abs=1e-9)


def beside_a_continuous_latent():
    """y ~ Categorical, z ~ N(m_y, 1), x ~ N(z + y, 1): the prior of z is a mixture too."""
    x = normal(N, seed=6)

    @config_enumerate
    def model(x):
        with pyro.plate("data", 20, subsample_size=len(x)):
            y = pyro.sample("y", dist.Categorical(WEIGHTS))
            z = pyro.sample("z", dist.Normal(LOCS[y], 1.0), infer={"enumerate": None})
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    def guide(x):
        a = pyro.param("a", torch.tensor(0.5).double())
        with pyro.plate("data", 20, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(a * x, 3.0))

    states = torch.arange(3).double()
    return model, guide, x, (log_normal(x[:, None], LOCS + states, 2**0.5) + WEIGHTS.log()).logsumexp(-1)


def by_hand(x, z):
    """log sum_y p(y) p(z|y) p(x|z, y), and log sum_y p(y) p(z|y)."""
    prior = log_normal(z[..., None], LOCS) + WEIGHTS.log()
    return (prior + log_normal(x[:, None], z[..., None] + torch.arange(3))).logsumexp(-1), prior.logsumexp(-1)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_sums_given_the_continuous_latents(name):
    model, guide, x, _ = beside_a_continuous_latent()
    torch.manual_seed(0)
    terms = OBJECTIVES[name](num_particles=2).terms(model, guide, x)
    torch.manual_seed(0)
    with pyro.plate("particles", 2, dim=-2):
        z = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["value"].detach()
    joint, prior = by_hand(x, z)
    log_q = log_normal(z, 0.5 * x, 3.0)
    assert terms.log_weight.flatten().tolist() == pytest.approx((joint - log_q).flatten().tolist(), abs=1e-9)
    assert terms.kl["z"].tolist() == pytest.approx((log_q - prior).mean(0).tolist(), abs=1e-9)
    assert terms.reconstruction["x"].tolist() == pytest.approx((joint - prior).mean(0).tolist(), abs=1e-9)


def test_the_gradient_is_that_of_trace_enum_elbo():
    model, guide, x, _ = beside_a_continuous_latent()
    gradients = []
    for objective in (SGVB(), TraceEnum_ELBO(max_plate_nesting=1)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        loss = objective.differentiable_loss(model, guide, x)
        gradients.append((loss.item(), torch.autograd.grad(loss, pyro.param("a").unconstrained())[0].item()))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-9)


@pytest.mark.parametrize(
    "method", ["importance", "quadrature", AIS(20, num_leapfrog=2), SMC(6, num_leapfrog=2)], ids=str
)
def test_estimates_of_log_p_are_over_the_continuous_rest(method):
    model, guide, x, exact = beside_a_continuous_latent()
    num_particles = 4000 if method == "importance" else None
    evidence = log_p(model, guide, x[:3], method=method, num_particles=num_particles, seed=0, progress=False)
    assert ((evidence.value - exact[:3]).abs() < 5 * evidence.standard_error + 1e-6).all(), (evidence.value, exact)
    assert (evidence.standard_error < 0.5).all()


LEARNERS = {
    "AEVB": lambda model, guide, **options: AEVB(model, guide, ADAM, SGVB(), **options),
    "TraceEnum": lambda model, guide, **options: AEVB(
        model, guide, ADAM, TraceEnum_ELBO(max_plate_nesting=1), **options
    ),
    "reweighted": lambda model, guide, **options: ReweightedWakeSleep(
        model, guide, ADAM, ADAM, num_particles=3, **options
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_graph_is_the_eager_run(name):
    losses = []
    for compile in (False, "graph"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model, guide, x, _ = beside_a_continuous_latent()
        learner = LEARNERS[name](model, guide, compile=compile)
        losses.append([learner.step(x).loss.item() for _ in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_mcem_moves_the_continuous_latents_alone():
    model, _, x, _ = beside_a_continuous_latent()

    def with_parameter(x):
        return model(x + 0 * pyro.param("theta", torch.zeros(()).double()))

    learner = MCEM(with_parameter, ADAM)
    for _ in range(3):
        info = learner.step(x, index=torch.arange(N))
    assert math.isfinite(info.loss.item())
    assert 0 < info.acceptance <= 1


def test_data_outside_the_support_are_still_told():
    @config_enumerate
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Bernoulli(0.2 + 0.5 * y), obs=x)

    with pytest.raises(ValueError, match="expected data inside the support of site 'x'"):
        elbo(model, no_latents, torch.tensor([0.0, 0.5]))
    assert elbo(model, no_latents, torch.tensor([0.0, 1.0])).value.exp().sum() == pytest.approx(1.0)


@pytest.mark.parametrize("half", ["model", "guide", "both"])
def test_a_mask_on_a_latent_counts_on_both_sides(half):
    _, _, x, _ = beside_a_continuous_latent()
    seen = torch.tensor([True, False, True, True, False])
    masked = pyro.poutine.mask(mask=seen)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
            with masked if half != "guide" else pyro.poutine.mask(mask=True):
                z = pyro.sample("z", dist.Normal(LOCS[y], 1.0))
            with masked:
                pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), masked if half != "model" else pyro.poutine.mask(mask=True):
            pyro.sample("z", dist.Normal(0.5 * x, 3.0))

    torch.manual_seed(0)
    z = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["value"]
    torch.manual_seed(0)
    terms = SGVB().terms(model, guide, x)
    joint, prior = by_hand(x, z)
    log_q = log_normal(z, 0.5 * x, 3.0)
    assert terms.kl["z"].tolist() == pytest.approx((torch.where(seen, log_q - prior, 0.0)).tolist(), abs=1e-9)
    assert terms.bound.tolist() == pytest.approx((torch.where(seen, joint - log_q, 0.0)).tolist(), abs=1e-9)


def where_z_is_masked(half, seen):
    """z, which depends on y, isn't there for some datapoints, x is for all; the mask is written in one half or both."""
    masks = {each: pyro.poutine.mask(mask=seen if half in (each, "both") else True) for each in ("model", "guide")}

    def model(x):
        a = pyro.param("a", torch.tensor(0.4).double())
        with pyro.plate("data", 20, subsample_size=len(x)):
            y = pyro.sample("y", dist.Categorical(WEIGHTS), infer={"enumerate": "parallel"})
            with masks["model"]:
                z = pyro.sample("z", dist.Normal(LOCS[y], 1.0))
            pyro.sample("x", dist.Normal(seen * z + a * y, 1.0), obs=x)

    def guide(x):
        b = pyro.param("b", torch.tensor(0.5).double())
        with pyro.plate("data", 20, subsample_size=len(x)), masks["guide"]:
            pyro.sample("z", dist.Normal(b * x, 3.0))

    return model, guide


@pytest.mark.parametrize("half", ["model", "guide", "both"])
def test_a_mask_in_either_half_is_known_before_the_sum(half):
    x, seen = normal(N, seed=6), torch.tensor([True, False, True, True, False])
    pair = where_z_is_masked(half, seen)
    pyro.set_rng_seed(0)
    found = log_density(*pair, x, num_particles=2)
    pyro.set_rng_seed(0)
    with pyro.plate("particles", 2, dim=-2):
        z = pyro.poutine.trace(pair[1]).get_trace(x).nodes["z"]["value"].detach()
    of_y, of_z = WEIGHTS.log(), torch.where(seen[:, None], log_normal(z[..., None], LOCS), 0.0)
    of_x = log_normal(x[:, None], (seen * z)[..., None] + 0.4 * torch.arange(3))
    joint = (of_y + of_z + of_x).logsumexp(-1)
    log_q = torch.where(seen, log_normal(z, 0.5 * x, 3.0), 0.0)
    torch.testing.assert_close(found.log_joint, joint)
    torch.testing.assert_close(found.log_q, log_q)
    for objective in (SGVB(2), STL(2), IWAE(2)):
        pyro.set_rng_seed(0)
        torch.testing.assert_close(objective.terms(*pair, x).log_weight, joint - log_q)


def test_a_mask_in_the_guide_alone_trains_as_one_in_both():
    x, seen, found = normal(N, seed=6), torch.tensor([True, False, True, True, False]), []
    for half, objective, compile in (
        ("both", TraceEnum_ELBO(max_plate_nesting=1), False),
        ("guide", SGVB(), False),
        ("guide", SGVB(), "graph"),
    ):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        learner = AEVB(*where_z_is_masked(half, seen), ADAM, objective, compile=compile)
        found.append([learner.step(x).loss.item() for _ in range(5)])
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert found[2] == pytest.approx(found[0], rel=1e-9)


@pytest.mark.parametrize("half", ["model", "guide", "both"])
def test_log_p_is_that_of_what_is_there_whichever_half_says_so(half):
    x, seen = normal(N, seed=6), torch.tensor([True, False, True, True, False])
    there = log_normal(x[:, None], LOCS + 0.4 * torch.arange(3), 2**0.5)
    of_x = torch.where(seen[:, None], there, log_normal(x[:, None], 0.4 * torch.arange(3)))
    exact = (of_x + WEIGHTS.log()).logsumexp(-1)
    evidence = log_p(*where_z_is_masked(half, seen), x, num_particles=4000, seed=0, progress=False)
    error = (evidence.value - exact).abs()
    assert (error <= 5 * evidence.standard_error + 1e-9).all()
    assert evidence.standard_error.max() < 0.1
    torch.testing.assert_close(evidence.value[~seen], exact[~seen])


def test_what_can_t_be_summed_is_said():
    model, guide, x, _ = beside_a_continuous_latent()

    @config_enumerate
    def outside(x):
        y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.3)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def scaled(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.3)), infer={"enumerate": "parallel"})
            with pyro.poutine.scale(scale=0.5):
                pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"expected what is to be summed out in the data plate, got \['y'\] outside"):
        SGVB().loss(outside, no_latents, x)
    given = pyro.condition(outside, {"y": torch.tensor(1.0)})
    assert torch.equal(elbo(given, no_latents, x).value, log_normal(x, torch.tensor(1.0)))

    def one_by_one(x):
        with pyro.plate("data", 20, subsample_size=len(x)):
            y = pyro.sample("y", dist.Categorical(WEIGHTS), infer={"enumerate": "sequential"})
            z = pyro.sample("z", dist.Normal(LOCS[y], 1.0))
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    def marked(fn, **infer):
        def model(x):
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", fn, infer={"enumerate": "parallel", **infer})
                pyro.sample("x", dist.Normal(y, 1.0), obs=x)

        return model

    for fn in (dist.Normal(0.0, 1.0), dist.Poisson(1.0)):
        with pytest.raises(
            ValueError, match=f"a finite support for site 'y', .* got {type(fn).__name__}; sample it in"
        ):
            elbo(marked(fn), no_latents, x)
    with pytest.raises(ValueError, match="with all of its values, got num_samples=5; leave num_samples out"):
        elbo(marked(dist.Bernoulli(0.5), num_samples=5), no_latents, x)
    assert elbo(marked(dist.Bernoulli(0.5)), no_latents, x).value.shape == (N,)
    with pytest.raises(ValueError, match="expected one scale for sites that are summed out together"):
        SGVB().loss(scaled, no_latents, x)
    with pytest.raises(ValueError, match=r"an objective that sums out \['y'\], .* got Trace_ELBO; pass SGVB\(\)"):
        AEVB(one_by_one, guide, ADAM, Trace_ELBO()).step(x)
    with pytest.raises(ValueError, match=r"an objective that sums out \['y'\], .* got Trace_ELBO; pass SGVB\(\)"):
        AEVB(model, guide, ADAM, Trace_ELBO()).step(x)


def test_the_closed_form_kl_of_a_bernoulli_whose_prior_has_another_shape_is_the_sampled_one():
    """torch's KL of two Bernoullis wants one shape; the prior of y is a single number."""
    x = torch.randn(4, generator=torch.Generator().manual_seed(0)).double()

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.tensor(0.3).double()))
            pyro.sample("x", dist.Normal(2 * y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x), infer={"enumerate": "parallel"})

    q, p = torch.sigmoid(x), torch.tensor(0.3).double()
    values = torch.tensor([0.0, 1.0]).double()[:, None]
    log_q, log_p = (dist.Bernoulli(probs).log_prob(values.expand(2, 4)) for probs in (q, p))
    exact = (log_q.exp() * (dist.Normal(2 * values, 1.0).log_prob(x) + log_p - log_q)).sum(0)
    for kl in ("sampled", "analytic"):
        objective = SGVB(kl="analytic") if kl == "analytic" else SGVB()
        torch.testing.assert_close(objective.terms(model, guide, x).bound, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("of_guide", [list, pyro.markov])
def test_a_chain_that_the_guide_samples_is_the_one_without_markov(of_guide):
    y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()

    def pair(steps):
        def model(y):
            with pyro.plate("data", len(y)):
                z = torch.zeros(len(y)).double()
                for t in steps(3):
                    z = pyro.sample(f"z{t}", dist.Normal(0.8 * z, 1.0))
                    pyro.sample(f"y{t}", dist.Normal(z, 1.0), obs=y[:, t])

        return model

    def guide(y):
        with pyro.plate("data", len(y)):
            for t in of_guide(range(3)):
                pyro.sample(f"z{t}", dist.Normal(0.4 * y[:, t], 0.9))

    found = [
        elbo(pair(steps), guide, y, num_particles=3, seed=0).value for steps in (range, lambda n: pyro.markov(range(n)))
    ]
    torch.testing.assert_close(*found)
