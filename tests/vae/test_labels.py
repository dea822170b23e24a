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
from pyro_aevb.posterior import Chains
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
    with pytest.raises(
        ValueError, match=r"expected the labels that x has beside z, got none; pass label=, from 0 to 2"
    ):
        vae.decode(torch.zeros(1, J).double())
    with pytest.raises(ValueError, match="expected one latent of 2 dimensions for a manifold, got a label beside it"):
        vae.manifold()
    with pytest.raises(ValueError, match="expected labels to tell, got a VAE without"):
        VAE(D, J).classify(X)
    with pytest.raises(ValueError, match="expected continuous latents"):
        vae.traverse(X)
    with pytest.raises(ValueError, match=r"latents that chains can move, got \['y'\], .*method='importance'"):
        vae.impute(X[:1], X[:1] > 0, method="hmc", chains=FEW, num_draws=5, progress=False)


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
