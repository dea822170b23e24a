"""A label that is known of some datapoints: M2 of Kingma et al. 2014, against the two halves written by hand."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from torch.nn.functional import one_hot

from pyro_aevb import (
    AEVB,
    AIS,
    IWAE,
    MCEM,
    SGVB,
    VAE,
    ReweightedWakeSleep,
    WakeSleep,
    elbo,
    fit,
    load,
    log_marginal_likelihood,
    save,
)
from pyro_aevb.posterior import Chains, posterior
from pyro_aevb.vae.likelihoods import FixedGaussian
from pyro_aevb.vae.posteriors import Posterior

N, D, J, C = 9, 5, 2, 3
ADAM = functools.partial(torch.optim.Adam, lr=0.01)
KNOWN = torch.tensor([-1, 0, 1, 2, -1, -1, 0, 1, -1])
X = (torch.rand(N, D, generator=torch.Generator().manual_seed(0)) < 0.5).double()
FEW = Chains(num_chains=2, num_temperatures=3, num_warmup=5, num_samples=5, num_leapfrog=1)
QUIET = {"seed": 0, "progress": False, "compile": False}


class Still(Posterior):
    """q(z|x) that is a point, of density 1: no noise, so that bounds can be told to the last digits."""

    notation = "delta(m(x))"

    def setup(self, latent_dim):
        self.num_outputs = latent_dim

    def forward(self, outputs):
        return dist.Delta(outputs, event_dim=1)


def labelled(**options):
    pyro.set_rng_seed(0)
    vae = VAE(D, J, **({"hidden_dims": (6,), "labels": C, "label_weight": 0.0} | options)).double()
    with torch.no_grad():
        vae.labels.prior.logits.copy_(torch.tensor([0.3, -0.5, 0.1]))
    return vae


def half(vae, label=None):
    """Return the model and the guide of datapoints that all have a label, or none of which has, written by hand."""

    def row(x, y):
        columns = one_hot(y, C).double()
        shape = torch.broadcast_shapes(x.shape[:-1], columns.shape[:-1])
        return torch.cat([x.expand(*shape, -1), columns.expand(*shape, -1)], -1)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=vae.labels.prior.logits), obs=label)
            z = pyro.sample("z", dist.Normal(torch.zeros(J).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=vae.decoder(row(z, y))).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            y = label
            if y is None:
                y = pyro.sample("y", dist.Categorical(logits=vae.labels.classifier(x)), infer={"enumerate": "parallel"})
            pyro.sample("z", vae.posterior(vae.encoder(row(x, y))))

    return model, guide


def halves():
    """Return which datapoints have a label, and which have none."""
    return (KNOWN >= 0).nonzero()[:, 0], (KNOWN < 0).nonzero()[:, 0]


def test_one_minibatch_has_the_bounds_of_both_halves():
    """To 1e-6, where every draw is the mean: L(x, y) with log p(y) in it, and sum_y q(y|x) [L(x, y) - log q(y|x)]."""
    vae = labelled(posterior=Still())
    mixed = SGVB().terms(vae.model, vae.guide, X, label=KNOWN).bound
    some, none = halves()
    for rows, label in ((some, KNOWN[some]), (none, None)):
        by_hand = SGVB().terms(*half(vae, label), X[rows]).bound
        torch.testing.assert_close(mixed[rows], by_hand, rtol=0, atol=1e-6)
    assert mixed.isfinite().all()


def closed_form(vae, x, y):
    """Return L(x, y) at the means of q(z|x, y), in nats: no sites, plates or masks."""
    row = torch.cat([x, one_hot(y, C).double()], -1)
    z = vae.encoder(row)
    logits = vae.decoder(torch.cat([z, one_hot(y, C).double()], -1))
    log_p = dist.Bernoulli(logits=logits).log_prob(x).sum(-1) + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    return log_p + vae.labels.prior.logits.log_softmax(-1)[y]


def test_the_bound_is_the_papers():
    """Eqs. (6) and (7), written out."""
    vae = labelled(posterior=Still())
    bound = SGVB().terms(vae.model, vae.guide, X, label=KNOWN).bound
    each = torch.stack([closed_form(vae, X, torch.full((N,), y)) for y in range(C)], -1)
    log_q = vae.labels.classifier(X).log_softmax(-1)
    expected = torch.where(KNOWN < 0, (log_q.exp() * (each - log_q)).sum(-1), each[torch.arange(N), KNOWN.clamp(min=0)])
    torch.testing.assert_close(bound, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", [lambda: SGVB(kl="analytic"), lambda: IWAE(2), SGVB])
def test_without_labels_it_is_the_model_by_hand_with_the_same_noise(objective):
    vae = labelled()
    bounds = []
    for model, guide in ((vae.model, vae.guide), half(vae)):
        pyro.set_rng_seed(1)
        bounds.append(objective().terms(model, guide, X).bound)
    torch.testing.assert_close(*bounds, rtol=0, atol=1e-6)


def test_a_label_that_is_known_nowhere_is_no_label():
    vae = labelled()
    nowhere = torch.full((N,), -1)
    found = [elbo(vae.model, vae.guide, X, num_particles=500, seed=0, **more) for more in ({}, {"label": nowhere})]
    torch.testing.assert_close(found[0].value, found[1].value, rtol=0, atol=0.3)
    exact = [
        log_marginal_likelihood(vae.model, vae.guide, X, method="quadrature", **QUIET, **more).value
        for more in ({}, {"label": nowhere})
    ]
    torch.testing.assert_close(*exact)


def test_stock_pyro_gives_the_same_loss():
    vae = labelled(posterior=Still())
    losses = []
    for model, guide in ((vae.model, vae.guide), half(vae)):
        pyro.set_rng_seed(1)
        loss = TraceEnum_ELBO(max_plate_nesting=1)
        losses.append(SVI(model, config_enumerate(guide), pyro.optim.Adam({"lr": 0.0}), loss).evaluate_loss(X))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pareto_k")  # a guide that isn't trained
def test_log_p_of_x_and_of_x_with_its_label():
    """log p(x, y) of a label that is known, log p(x) elsewhere: sums of each other, and all estimates agree."""
    vae = labelled()
    exact = functools.partial(log_marginal_likelihood, vae.model, vae.guide, X, method="quadrature", **QUIET)
    joint = torch.stack([exact(label=torch.full((N,), y)).value for y in range(C)], -1)
    torch.testing.assert_close(joint.logsumexp(-1), exact().value, rtol=0, atol=1e-4)
    expected = torch.where(KNOWN < 0, joint.logsumexp(-1), joint[torch.arange(N), KNOWN.clamp(min=0)])
    torch.testing.assert_close(exact(label=KNOWN).value, expected, rtol=0, atol=1e-4)
    for method in ("importance", AIS(20, num_leapfrog=2), "posterior-density"):
        found = log_marginal_likelihood(
            vae.model, vae.guide, X, label=KNOWN, method=method, num_particles=1000, **QUIET
        )
        error = (found.value - expected).abs()
        assert (error < 5 * found.standard_error + 0.05).all(), (method, error, found.standard_error)
    bound = elbo(vae.model, vae.guide, X, label=KNOWN, num_particles=500, seed=0)
    assert (bound.value < expected + 5 * bound.standard_error).all()


def test_the_label_teaches_the_classifier_and_no_estimate():
    taught, plain = labelled(label_weight=20.0), labelled()
    log_q = taught.labels.classifier(X).log_softmax(-1)[torch.arange(N), KNOWN.clamp(min=0)]
    terms = []
    for vae in (taught, plain):
        pyro.set_rng_seed(2)
        terms.append(SGVB().terms(vae.model, vae.guide, X, label=KNOWN).bound)
    torch.testing.assert_close(terms[0] - terms[1], torch.where(KNOWN < 0, 0.0, 20 * log_q))
    values = [
        log_marginal_likelihood(vae.model, vae.guide, X, label=KNOWN, method="quadrature", **QUIET).value
        for vae in (taught, plain)
    ]
    torch.testing.assert_close(*values)


def test_a_label_that_is_surely_wrong_costs_nothing_where_it_is_not_known():
    """A q(y|x) of 0 in float64 isn't multiplied by log 0; gradients are numbers."""
    vae = labelled()
    with torch.no_grad():
        vae.labels.classifier[-1].bias.copy_(torch.tensor([0.0, -2000.0, -3000.0]))
    terms = SGVB(kl="analytic").terms(vae.model, vae.guide, X, label=KNOWN)
    terms.loss.backward()
    assert terms.bound.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in vae.parameters() if parameter.grad is not None)


def clusters(number=300):
    """Three clusters of ten binary pixels, and the label of one datapoint in ten."""
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(number) % C
    rates = torch.tensor([[0.9] * 5 + [0.1] * 5, [0.1] * 5 + [0.9] * 5, [0.9, 0.1] * 5])[y]
    x = (torch.rand(number, 10, generator=generator) < rates).float()
    return x, y, torch.where(torch.arange(number) < 30, y, -1)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1.0, 20.0])
def test_it_learns_the_labels_of_the_others(weight):
    """More than 93 of 100 rows get the right label; 30 of 300 were told."""
    x, y, label = clusters()
    pyro.set_rng_seed(0)
    vae = VAE(10, 1, hidden_dims=(20,), labels=C, label_weight=weight, dataset_size=len(x))
    rate = functools.partial(torch.optim.Adam, lr=0.01)
    data = {"x": x, "label": label}
    fit(AEVB(vae.model, vae.guide, rate, SGVB(kl="analytic")), data, epochs=30, batch_size=30, seed=0, progress=False)
    probabilities = vae.classify(x)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(len(x)))
    assert (probabilities.argmax(-1) == y).float().mean() > 0.93


def test_verbs(tmp_path):
    vae = labelled()
    torch.testing.assert_close(vae.classify(X), vae.labels.classifier(X).softmax(-1).detach())
    assert vae.classify(X.numpy()).shape == (N, C)
    z = torch.randn(4, J).double()
    for y in (2, torch.tensor([0, 1, 2, 0])):
        rows = torch.cat([z, one_hot(torch.as_tensor(y).expand(4), C).double()], -1)
        torch.testing.assert_close(vae.decode(z, label=y), vae.decoder(rows).sigmoid().detach())
    assert vae.encode(X, label=KNOWN, seed=0).shape == (N, J)
    save(vae, tmp_path / "vae")
    same = load(tmp_path / "vae")
    assert torch.equal(same.classify(X), vae.classify(X))
    assert (str(same), same.labels.weight) == (str(vae), 0.0)
    assert "p(y)   = Categorical(pi),  y one of 3" in str(vae)


@pytest.mark.filterwarnings("ignore:the draws of", "ignore:pareto_k")  # a guide that isn't trained
@pytest.mark.parametrize("label", [None, KNOWN])
def test_verbs_that_draw(label):
    vae = labelled()
    more = {"seed": 0} if label is None else {"label": label, "seed": 0}
    assert vae.encode(X, **more).shape == (N, J)
    assert vae.reconstruct(X, num_draws=5, progress=False, **more).shape == (N, D)
    assert vae.sample(4, X, source="aggregate", **more).shape == (4, D)
    observed = torch.rand(N, D) < 0.5
    assert vae.impute(X, observed, num_draws=5, progress=False, **more).mean.shape == (N, D)


def certain():
    """Return a VAE whose x says its label: the mean of x is 10 y."""
    pyro.set_rng_seed(0)
    vae = VAE(1, 1, hidden_dims=(3,), labels=C, likelihood=FixedGaussian(0.1), decoder=torch.nn.Linear(1 + C, 1))
    with torch.no_grad():
        vae.decoder.weight.copy_(torch.tensor([[0.0, 0.0, 10.0, 20.0]]))
        vae.decoder.bias.zero_()
    return vae


def test_x_is_drawn_of_the_label_that_is_asked_for():
    """Also where the label is data: the draws of an aggregate posterior are of the labels of their datapoints."""
    vae = certain()
    assert (vae.sample(50, label=[2], seed=0) - 20).abs().max() < 1
    assert set((vae.sample(200, seed=0) / 10).round().flatten().tolist()) == {0.0, 1.0, 2.0}
    x, label = torch.tensor([[0.0], [20.0]]), torch.tensor([0, 2])
    drawn = vae.sample(200, x, label=label, source="aggregate", seed=0)
    assert set((drawn / 10).round().flatten().tolist()) == {0.0, 2.0}
    each = torch.arange(200) % 3
    assert torch.equal((vae.sample(200, label=each, seed=0)[:, 0] / 10).round(), each.float())


def dreamed(sites, x, label):
    """A dream has its own label where one is known."""
    return {"x": sites["x"], "label": torch.where(label < 0, label, sites["y_observed"])}


LEARNERS = {
    "aevb": lambda v, **o: AEVB(v.model, v.guide, ADAM, SGVB(), **o),
    "analytic": lambda v, **o: AEVB(v.model, v.guide, ADAM, SGVB(kl="analytic"), **o),
    "iwae": lambda v, **o: AEVB(v.model, v.guide, ADAM, IWAE(3), **o),
    "wake-sleep": lambda v, **o: WakeSleep(v.model, v.guide, ADAM, ADAM, dream_arguments=dreamed, **o),
    "reweighted": lambda v, **o: ReweightedWakeSleep(v.model, v.guide, ADAM, ADAM, num_particles=3, **o),
    "mcem": lambda v, **o: MCEM(v.model, ADAM, num_leapfrog=2, **o),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_trains_it_on_the_fast_path_as_eagerly(name):
    results = []
    for compile in (False, "graph"):
        vae = labelled(dataset_size=N)
        data = {"x": X, "label": KNOWN}
        fit(LEARNERS[name](vae, compile=compile), data, epochs=3, batch_size=3, seed=0, progress=False)
        results.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-9)
    start = torch.cat([p.detach().flatten() for p in labelled().parameters()])
    assert (results[0] - start).abs().max() > 1e-3


@pytest.mark.parametrize("name", LEARNERS)
def test_labels_teach_the_classifier_under_every_learner(name):
    """Where all are known, nothing else teaches it: by 30 steps with 2 nats a label it has them right."""
    x, label, _ = clusters(60)
    pyro.set_rng_seed(0)
    vae = VAE(10, 1, hidden_dims=(20,), labels=C, label_weight=2.0, dataset_size=len(x))
    before = vae.classify(x)[torch.arange(60), label].log().mean()
    fit(LEARNERS[name](vae), {"x": x, "label": label}, epochs=30, batch_size=60, seed=0, progress=False)
    assert vae.classify(x)[torch.arange(60), label].log().mean() > before + 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": 1}, "expected labels of 2 or more, how many there are, or 0 for none, got 1"),
        ({"labels": -3}, "expected labels of 2 or more"),
        ({"label_weight": -1.0}, "expected label_weight of 0 or more, got -1.0"),
        ({"missingness": "linear"}, "expected labels or missingness, got both"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        labelled(**options)


@pytest.mark.parametrize("label", [KNOWN[:-1], KNOWN.double(), one_hot(KNOWN.clamp(min=0))])
def test_a_label_of_another_kind_is_refused(label):
    with pytest.raises(ValueError, match=r"expected label of shape \(9,\) and of int64, from 0 to 2, and -1 where"):
        labelled().model(X, label=label)
    with pytest.raises(ValueError, match="expected no label, got one: the VAE has none"):
        VAE(D, J).double().model(X, label=KNOWN)


def test_a_label_above_the_last_is_refused():
    with pytest.raises(ValueError, match="y_observed"):
        elbo(labelled().model, labelled().guide, X, label=torch.full((N,), C), seed=0)


def test_uses_that_need_one_continuous_latent_say_so():
    vae = labelled()
    for use in (vae.manifold, functools.partial(vae.decode, torch.zeros(1, J).double())):
        with pytest.raises(
            ValueError, match="expected the labels that x has beside z, got none; pass label=, from 0 to 2"
        ):
            use()
    with pytest.raises(ValueError, match="expected labels to tell, got a VAE without"):
        VAE(D, J).classify(X)
    with pytest.raises(ValueError, match="expected a VAE with labels, got one without"):
        VAE(D, J).given_label()
    hmc = {"method": "hmc", "chains": FEW, "num_draws": 5, "progress": False}
    for use in (vae.reconstruct, functools.partial(vae.impute, observed=X[:1] > 0)):
        for label in ({}, {"label": KNOWN[:1]}):
            with pytest.raises(ValueError, match=r"latents that are drawn, got \['y.*'\], .*method='importance'"):
                use(X[:1], **label, **hmc)
    with pytest.raises(ValueError, match=r"latents that chains can move, got \['y'\], .*or guide=None"):
        posterior(vae.model, vae.guide, X[:1], **hmc)
    with pytest.raises(ValueError, match="expected data inside the support"):
        elbo(*vae.given_label(), X, label=KNOWN)


def code(vae, x, label):
    return vae.encoder(torch.cat([x, one_hot(label, C).double()], -1))[:, :J].detach()


def probable(vae, label=None):
    """Return the label that is given, or else the most probable one."""
    found = vae.labels.classifier(X).argmax(-1)
    return found if label is None else torch.where(label < 0, found, label)


EACH = torch.arange(N) % C


@pytest.mark.parametrize("label", [None, KNOWN, EACH])
def test_x_is_traversed_and_interpolated_with_its_label(label):
    """The label that is given, and else the most probable one."""
    vae, more = labelled(), {} if label is None else {"label": label}
    y, end = probable(vae, label), X.flip(0)
    z = code(vae, X, y).repeat(2, 3, 1, 1)
    quantiles = dist.Normal(0.0, 1.0).icdf(torch.tensor([0.05, 0.5, 0.95])).double()
    for dim in range(J):
        z[dim, ..., dim] = quantiles[:, None]
    torch.testing.assert_close(vae.traverse(X, num_steps=3, **more), vae.decode(z, label=y))
    y_end = vae.labels.classifier(end).argmax(-1)
    y_end = y_end if label is None else torch.where(label < 0, y_end, label)
    ends = torch.stack([code(vae, X, y), code(vae, end, y_end)])
    torch.testing.assert_close(vae.interpolate(X, end, num_steps=2, **more), vae.decode(ends, label=y))
    torch.testing.assert_close(vae.traverse({"x": X, **more}, num_steps=3), vae.decode(z, label=y))


def test_a_manifold_of_one_label():
    vae = labelled(covariates=1)
    u = dist.Normal(0.0, 1.0).icdf(torch.tensor([0.25, 0.75])).double()
    z = torch.stack([u.repeat(2), u.flip(0).repeat_interleave(2)], -1)
    for y in range(C):
        expected = vae.decode(z, torch.tensor([0.5]), label=y)
        torch.testing.assert_close(vae.manifold(2, torch.tensor([0.5]), label=y), expected)
    assert not torch.allclose(vae.manifold(2, [0.5], label=0), vae.manifold(2, [0.5], label=1))


def exact_means(vae, x):
    """Return E[z|x, y] (M, C, J) and p(y|x) (M, C), by a sum over a grid of z."""
    line = torch.linspace(-6, 6, 121).double()
    z = torch.cartesian_prod(line, line)
    means, log_p = [], []
    for y in range(C):
        row = torch.cat([z, one_hot(torch.tensor(y), C).double().expand(len(z), -1)], -1)
        joint = dist.Bernoulli(logits=vae.decoder(row)).log_prob(x[:, None]).sum(-1) - z.square().sum(-1) / 2
        means.append(joint.softmax(-1) @ z)
        log_p.append(joint.logsumexp(-1) + vae.labels.prior.logits.log_softmax(-1)[y])
    return torch.stack(means, 1).detach(), torch.stack(log_p, 1).softmax(-1).detach()


@pytest.mark.filterwarnings("ignore:the draws of")  # of a guide that isn't trained
@pytest.mark.parametrize("label", [None, KNOWN, EACH])
def test_a_clean_x_is_that_of_all_labels_or_of_its_own(label):
    """E[x|noisy x], summed over y and a grid of z."""
    vae, flip, line = labelled(), 0.2, torch.linspace(-6, 6, 61).double()
    z = torch.cartesian_prod(line, line)
    with torch.no_grad():
        vae.decoder[-1].weight.mul_(3)
    found = vae.denoise(
        X, lambda clean: dist.Bernoulli(flip + (1 - 2 * flip) * clean).to_event(1), seed=0, progress=False,
        num_draws=1000, **({} if label is None else {"label": label}),
    )  # fmt: skip
    p = torch.stack([vae.decode(z, label=y) for y in range(C)])[:, :, None]  # (C, grid, 1, D)
    seen = torch.where(X > 0, 1 - flip, flip)  # p(noisy|clean of 1)
    noisy = p * seen + (1 - p) * (1 - seen)
    log_p = (
        noisy.log().sum(-1) - z.square().sum(-1)[:, None] / 2 + vae.labels.prior.logits.log_softmax(-1)[:, None, None]
    )
    if label is not None:
        log_p = log_p.masked_fill(((label >= 0) & (label != torch.arange(C)[:, None]))[:, None], -torch.inf)
    weights = log_p.flatten(0, 1).softmax(0).reshape(log_p.shape)
    exact = (weights[..., None] * p * seen / noisy).sum((0, 1)).detach()
    assert ((found.mean - exact).abs() < 5 * found.standard_error + 0.01).all()


@pytest.mark.slow
def test_chains_move_z_where_labels_are_known_and_sum_out_the_others():
    vae = labelled()
    with torch.no_grad():
        vae.decoder[0].weight.mul_(2)
        vae.decoder[-1].weight.mul_(3)
    given, weights = exact_means(vae, X)
    assert (given[torch.arange(N), EACH] - (weights[..., None] * given).sum(1)).abs().max() > 0.2
    hmc = {
        "method": "hmc", "num_draws": 2000, "seed": 0, "progress": False, "compile": False,
        "chains": Chains(
            num_chains=50, num_temperatures=10, num_warmup=30, num_samples=40, num_leapfrog=5, largest_r_hat=1.5
        ),
    }  # fmt: skip
    found = posterior(*vae.given_label(), X, label=EACH, **hmc)
    torch.testing.assert_close(found.mean("z"), given[torch.arange(N), EACH], rtol=0, atol=0.1)
    torch.testing.assert_close(vae.encode(X, label=EACH, **hmc), given[torch.arange(N), EACH], rtol=0, atol=0.1)
    torch.testing.assert_close(vae.encode(X, **hmc), (weights[..., None] * given).sum(1), rtol=0, atol=0.1)
    of_known = given[torch.arange(N), KNOWN.clamp(min=0)]
    some = torch.where(KNOWN[:, None] < 0, (weights[..., None] * given).sum(1), of_known)
    torch.testing.assert_close(vae.encode(X, label=KNOWN, **hmc), some, rtol=0, atol=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the draws of")  # by few chains
def test_a_known_label_is_data_of_its_own_pair():
    """With log p(x, y), each number by itself, and of a guide whose gap can be taken apart."""
    vae = labelled()
    expected = log_marginal_likelihood(vae.model, vae.guide, X, label=EACH, method="quadrature", **QUIET)
    found = log_marginal_likelihood(*vae.given_label(), X, label=EACH, method="quadrature", **QUIET)
    torch.testing.assert_close(found.value, expected.value, rtol=0, atol=1e-4)
    ais = {"method": AIS(10, num_leapfrog=2), "num_particles": 200}
    score = vae.anomaly_score(X[:2], label=EACH[:2], regret=True, **ais, **QUIET)
    assert ((score.score + expected.value[:2]).abs() < 5 * score.standard_error + 0.02).all()
    assert score.regret.isfinite().all()
    again = vae.reconstruct(X, label=EACH, method="guide")
    torch.testing.assert_close(again, vae.decode(code(vae, X, EACH), label=EACH))
    filled = vae.impute(X, X > 0, label=EACH, method="hmc", chains=FEW, num_draws=5, progress=False)
    assert filled.mean.shape == X.shape


@pytest.mark.parametrize("label", [torch.tensor([-1]), torch.tensor([C]), torch.tensor([0.5])])
def test_what_is_drawn_or_decoded_of_a_label_needs_a_label_that_there_is(label):
    """-1 would be a column of zeros: x of no label at all."""
    vae = labelled()
    with pytest.raises(ValueError, match="expected labels from 0 to 2, of whole numbers, got"):
        vae.sample(4, label=label)
    with pytest.raises(ValueError, match="expected labels from 0 to 2, of whole numbers, got"):
        vae.decode(torch.zeros(1, J).double(), label=label)
    with pytest.raises(ValueError, match="expected no label, got one: the VAE has none"):
        VAE(D, J).sample(4, label=[0])
    with pytest.raises(ValueError, match="expected no label, got one: the VAE has none"):
        VAE(D, J).decode(torch.zeros(1, J), label=0)


def test_x_is_drawn_for_as_many_labels_as_are_given_or_one():
    vae = VAE(6, 2, labels=3, hidden_dims=(5,))
    for one in (2, [2], torch.tensor(2)):
        assert torch.equal(vae.sample(4, label=one, seed=0), vae.sample(4, label=[2] * 4, seed=0))
    for number, label in ((2, [0, 1, 2]), (4, [0, 1])):
        with pytest.raises(
            ValueError, match=rf"expected label of shape \({number},\), a row for each x, or of \(\), one"
        ):
            vae.sample(number, label=label)
    with pytest.raises(ValueError, match=r"expected label of shape \(4,\), .* got \(3,\)"):
        vae.decode(torch.zeros(4, 2), label=[0, 1, 2])
