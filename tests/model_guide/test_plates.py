"""Sites outside of the data plate, plates that could be taken for it, and parts of plates within it."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.utils.data import DataLoader, TensorDataset

from pyro_aevb import AEVB, SGVB, STL, elbo, evidence_gap, fit, log_density, log_marginal_likelihood, report
from pyro_aevb.evidence import Evidence
from pyro_aevb.posterior import posterior

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
QUIET = {"seed": 0, "progress": False}
KNOWN = Evidence(torch.zeros(3), torch.zeros(3), "numerical")
EVALUATIONS = {
    "elbo": lambda model, guide, *x: elbo(model, guide, *x, seed=0),
    "importance": lambda model, guide, *x: log_marginal_likelihood(model, guide, *x, num_particles=20, **QUIET),
    "auto": lambda model, guide, *x: log_marginal_likelihood(model, guide, *x, method="auto", **QUIET),
    "ais": lambda model, guide, *x: log_marginal_likelihood(model, guide, *x, method="ais", **QUIET),
    "quadrature": lambda model, guide, *x: log_marginal_likelihood(model, None, *x, method="quadrature", **QUIET),
    "evidence_gap": lambda model, guide, *x: evidence_gap(model, guide, *x, evidence=KNOWN, progress=False),
    "posterior": lambda model, guide, *x: posterior(model, guide, *x, num_draws=5, method="guide", **QUIET),
    "report": lambda model, guide, *x: report(model, guide, *x, **QUIET),
}
TRAINING = {
    "loss": lambda model, guide, *x: SGVB().loss(model, guide, *x),
    "fit": lambda model, guide, *x: fit(AEVB(model, guide, ADAM), *x, epochs=1, batch_size=3, progress=False),
}


def double(*values):
    return torch.tensor(values).double()


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()


# -- Outside of the data plate ----------------------------------------------------------------------------------------


def with_a_sum(x):
    """z_n ~ N(0, 1), x_n ~ N(z_n, 1), and the sum of all z_n is observed, outside of the plate."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    pyro.sample("total", dist.Normal(z.sum(-1, keepdim=True), 0.1), obs=double(6.0))


def with_a_factor(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    pyro.factor("total", -z.square().sum(-1, keepdim=True))


def with_a_global_latent(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    pyro.sample("total", dist.Normal(z.mean(), 1.0))


def amortized(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(pyro.param("slope", double(0.5)) * x, 0.7))


def with_a_global_guide(x):
    amortized(x)
    pyro.sample("total", dist.Normal(double(0.0).squeeze(), 1.0))


@pytest.mark.parametrize("entry", EVALUATIONS | TRAINING)
@pytest.mark.parametrize("model", [with_a_sum, with_a_factor, with_a_global_latent])
def test_what_depends_on_latents_in_the_plate_is_refused_outside_of_it(model, entry):
    guide = with_a_global_guide if model is with_a_global_latent else amortized
    with pytest.raises(
        ValueError, match=r"outside of the data plate that don't depend.*got 'total', computed from 'z'"
    ):
        (EVALUATIONS | TRAINING)[entry](model, guide, double(0.5, -1.0, 2.0))


def test_one_datapoint_of_all_is_the_remedy():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("total", dist.Normal(z.sum(-1), 0.1), obs=double(6.0))

    x = double(0.5, -1.0, 2.0)
    covariance = torch.diag(double(1.0, 1.0, 1.0, 0.01))
    covariance[:3, :3] += torch.eye(3).double()
    covariance[3, :] += double(1.0, 1.0, 1.0, 3.0)
    covariance[:3, 3] += 1.0
    exact = torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(double(*x, 6.0))
    found = log_marginal_likelihood(model, None, x[None], method="quadrature", **QUIET)
    assert found.value.item() == pytest.approx(exact.item(), abs=1e-3)


def test_what_comes_after_the_plate_and_depends_on_nothing_in_it_is_left_alone():
    def model(x):
        w = pyro.sample("w", dist.Normal(double(0.0).squeeze(), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.sample("y", dist.Normal(w, 1.0), obs=torch.tensor(2.0).double())

    def guide(x):
        pyro.sample("w", dist.Normal(double(0.3).squeeze(), 0.5))
        amortized(x)

    x = double(0.5, -1.0, 2.0)
    with pyro.validation_enabled(False):
        expected = Trace_ELBO(4000, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, x)
    bound = elbo(model, guide, x, num_particles=4000, seed=0).total()
    assert abs(bound.value + expected) < 10 * bound.standard_error < 1


# -- Plates beside that of the datapoints ------------------------------------------------------------------------------

GROUP = torch.arange(12) % 4
SEVERAL = {
    "elbo": lambda *pair, **how: elbo(*pair, num_particles=200, seed=0, **how).total(),
    "log density": lambda *pair, **how: log_density(*pair, num_particles=3, **how),
    "L^A": lambda *pair, **how: SGVB(3, **how).loss(*pair),
    "L^B": lambda *pair, **how: SGVB(3, kl="analytic", **how).loss(*pair),
    "STL": lambda *pair, **how: STL(3, **how).loss(*pair),
}


def groups(x):
    """mu ~ N(0, 1), four effects a_g ~ N(mu, 0.7^2), x_n ~ N(a_g(n), 1)."""
    mu = pyro.sample("mu", dist.Normal(double(0.0).squeeze(), 1.0))
    with pyro.plate("groups", 4):
        a = pyro.sample("a", dist.Normal(mu, 0.7))
    with pyro.plate("data", 12, subsample_size=len(x)):
        pyro.sample("x", dist.Normal(a[..., GROUP], 1.0), obs=x)


def guide_of_groups(x, *, slipped):
    """a_g ~ N(g, 0.3^2) whatever mu ~ N(1, 0.3^2) is, which ``slipped`` gives a dimension of its own."""
    mu = pyro.sample("mu", dist.Normal(double(1.0).squeeze(), 0.3))
    loc = torch.arange(4.0).double() + 0.0 * (mu[..., None] if slipped else mu)
    with pyro.plate("groups", 4):
        pyro.sample("a", dist.Normal(loc, 0.3))


def bound_of_groups(x):
    """E_q[log p(x|a)] - KL(q || p) of these two."""
    log_p = dist.Normal(GROUP.double(), 1.0).log_prob(x).sum() - 12 * 0.3**2 / 2
    kl_of_mu = torch.distributions.kl_divergence(dist.Normal(double(1.0), 0.3), dist.Normal(double(0.0), 1.0)).sum()
    q, p = dist.Normal(torch.arange(4.0).double(), 0.3), dist.Normal(torch.ones(4).double(), 0.7)
    return log_p - kl_of_mu - torch.distributions.kl_divergence(q, p).sum() - 4 * 0.3**2 / (2 * 0.7**2)


@pytest.mark.parametrize("entry", SEVERAL)
def test_particles_whose_dimension_meets_itself_are_refused(entry):
    x = normal(12) + GROUP
    with pytest.raises(ValueError, match=r"the shape of its plates, \(4,\), with \d+ particles at dim=-2.*vectorize=F"):
        SEVERAL[entry](groups, functools.partial(guide_of_groups, slipped=True), x)


@pytest.mark.parametrize("slipped", [False, True])
def test_in_their_place_or_one_by_one_they_have_the_bound(slipped):
    x, guide = normal(12) + GROUP, functools.partial(guide_of_groups, slipped=slipped)
    for entry in SEVERAL:
        SEVERAL[entry](groups, guide, x, vectorize=not slipped)
    bound = SEVERAL["elbo"](groups, guide, x, vectorize=not slipped)
    assert abs(bound.value - bound_of_groups(x)) < 5 * bound.standard_error < 1.5


def test_a_sum_of_two_latents_with_other_shapes_is_told_by_its_shape():
    def model(x):
        shift = pyro.sample("shift", dist.Normal(double(0.0).squeeze(), 1.0))
        effects = pyro.sample("effects", dist.Normal(torch.zeros(4).double(), 0.7).to_event(1))
        with pyro.plate("data", 12, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(shift + effects[..., GROUP], 1.0), obs=x)

    def guide(x):
        pyro.sample("shift", dist.Normal(double(0.0).squeeze(), 1.0))
        pyro.sample("effects", dist.Normal(torch.zeros(4).double(), 0.7).to_event(1))

    for compute in SEVERAL.values():
        with pytest.raises(
            ValueError, match=r"site 'x' of the model that have .* got \(\d+, \d+, 12\).*vectorize=False"
        ):
            compute(model, guide, normal(12))
        compute(model, guide, normal(12), vectorize=False)


# -- Plates of as many entries as there are datapoints -----------------------------------------------------------------


def crossed(x, number=None, parts=3):
    """z and x in the plates of the datapoints, dim=-2, and of three parts, dim=-1."""
    data = pyro.plate("data", len(x) if number is None else number, subsample_size=len(x), dim=-2)
    with data, pyro.plate("parts", parts, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def crossed_guide(x, number=None, parts=3):
    data = pyro.plate("data", len(x) if number is None else number, subsample_size=len(x), dim=-2)
    with data, pyro.plate("parts", parts, dim=-1):
        pyro.sample("z", dist.Normal(pyro.param("slope", double(0.8)) * x, 0.2**0.5))


@pytest.mark.parametrize("entry", EVALUATIONS)
def test_a_last_minibatch_of_as_many_rows_as_an_inner_plate_is_refused(entry):
    x = normal(103, 3)
    for data in (DataLoader(TensorDataset(x), 100), x[:3]):
        with pytest.raises(ValueError, match=r"got 3 datapoints, as many as plate 'parts' has .*another batch_size"):
            EVALUATIONS[entry](crossed, crossed_guide, data)


def test_it_is_refused_in_training_and_the_remedies_work():
    x = normal(53, 3)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(x).sum(-1)
    learner = AEVB(crossed, crossed_guide, ADAM)
    with pytest.raises(ValueError, match="the error below for one of 3 datapoints") as caught:
        fit(learner, x, epochs=1, batch_size=10, progress=False)
    assert "got 3 datapoints, as many as plate 'parts' has entries" in str(caught.value.__cause__)
    with pytest.raises(ValueError, match="got 3 datapoints, as many as plate 'parts' has entries"):
        fit(learner, x[:50], x[:3], epochs=1, batch_size=10, progress=False)
    assert fit(learner, x, epochs=1, batch_size=11, progress=False).samples == 53
    pyro.clear_param_store()
    for pair, size in (
        ((crossed, crossed_guide), 11),
        ([functools.partial(f, number=53) for f in (crossed, crossed_guide)], 10),
    ):
        found = log_marginal_likelihood(*pair, x, num_particles=5, batch_size=size, **QUIET)
        torch.testing.assert_close(found.value, exact)


def test_a_plate_that_is_told_apart_by_what_is_in_it_is_left_alone():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            with pyro.plate("parts", 3, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.sum(-1, keepdim=True) / 4, 0.5))

    x = normal(3, 3)
    covariance = torch.eye(3).double() + 1
    exact = torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(x)
    torch.testing.assert_close(log_marginal_likelihood(model, guide, x, num_particles=2, **QUIET).value, exact)


# -- Parts of a datapoint ----------------------------------------------------------------------------------------------


def parts_of(x, subsample_size=None):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        with pyro.plate("parts", 4, subsample_size=subsample_size, dim=-2) as index:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T[index])


def exact_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x.sum(-1) / 5, 0.2**0.5))


@pytest.mark.parametrize("entry", EVALUATIONS)
def test_a_part_of_each_datapoint_is_refused_in_an_evaluation(entry):
    with pytest.raises(
        ValueError, match=r"whole plates in an evaluation, got 2 of the 4 entries of plate 'parts'.*without subs"
    ):
        EVALUATIONS[entry](functools.partial(parts_of, subsample_size=2), exact_guide, normal(3, 4) + 1)


def test_it_may_be_trained_on_and_evaluated_with_all_of_it():
    x = normal(5, 4) + 1
    covariance = torch.eye(4).double() + 1
    exact = torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(x)
    torch.testing.assert_close(log_marginal_likelihood(parts_of, exact_guide, x, num_particles=2, **QUIET).value, exact)
    model = functools.partial(parts_of, subsample_size=2)
    losses = torch.tensor([SGVB().loss(model, exact_guide, x) for _ in range(400)])
    assert abs(losses.mean() + exact.sum()) < 5 * losses.std() / 20


def one_after_the_other(x, subsample_size):
    """The four numbers of a datapoint in a sequential plate."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        for place, i in enumerate(pyro.plate("parts", 4, subsample_size=subsample_size)):
            pyro.sample(f"x{place}", dist.Normal(z, 1.0), obs=x[:, i])


def summed_one_after_the_other(x, subsample_size):
    """Likewise, and each has a label of its own, which is summed out."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        for place, i in enumerate(pyro.plate("parts", 4, subsample_size=subsample_size)):
            y = pyro.sample(f"y{place}", dist.Bernoulli(double(0.3).squeeze()), infer={"enumerate": "parallel"})
            pyro.sample(f"x{place}", dist.Normal(z + y, 1.0), obs=x[:, i])


def in_one_event(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0).expand([*z.shape, 4]).to_event(1), obs=x)


def observed_outside(x, subsample_size):
    """Four numbers that are observed once for all of the data."""
    with pyro.plate("parts", 4, subsample_size=subsample_size):
        pyro.sample("given", dist.Normal(double(0.0).squeeze(), 1.0), obs=double(2.0).expand(subsample_size or 4))
    in_one_event(x)


def drawn_outside(x, subsample_size):
    """Four numbers that are drawn once for all of the data."""
    with pyro.plate("parts", 4, subsample_size=subsample_size):
        pyro.sample("w", dist.Normal(double(0.0).squeeze(), 1.0))
    in_one_event(x)


def guide_of_drawn_outside(x, subsample_size):
    with pyro.plate("parts", 4, subsample_size=subsample_size):
        pyro.sample("w", dist.Normal(double(1.0).squeeze(), 1.0))
    exact_guide(x)


def drawn_one_by_one_outside(x, subsample_size):
    for place, _ in enumerate(pyro.plate("parts", 4, subsample_size=subsample_size)):
        pyro.sample(f"w{place}", dist.Normal(double(0.0).squeeze(), 1.0))
    in_one_event(x)


def guide_of_drawn_one_by_one_outside(x, subsample_size):
    for place, _ in enumerate(pyro.plate("parts", 4, subsample_size=subsample_size)):
        pyro.sample(f"w{place}", dist.Normal(double(1.0).squeeze(), 1.0))
    exact_guide(x)


SUBSAMPLED = [
    (one_after_the_other, exact_guide),
    (summed_one_after_the_other, exact_guide),
    (observed_outside, exact_guide),
    (drawn_outside, guide_of_drawn_outside),
    (drawn_one_by_one_outside, guide_of_drawn_one_by_one_outside),
]


def of_size(size, pair):
    return [f if f is exact_guide else functools.partial(f, subsample_size=size) for f in pair]


@pytest.mark.parametrize("entry", ["elbo", "importance", "report"])
@pytest.mark.parametrize("pair", SUBSAMPLED, ids=lambda pair: pair[0].__name__)
def test_a_part_of_any_plate_is_refused_in_an_evaluation(pair, entry):
    with pytest.raises(ValueError, match=r"got 2 of the 4 entries of plate 'parts'.*pyro.plate\('parts', 4\), without"):
        EVALUATIONS[entry](*of_size(2, pair), normal(5, 4) + 1)


@pytest.mark.parametrize("pair", SUBSAMPLED, ids=lambda pair: pair[0].__name__)
def test_the_whole_of_any_plate_is_evaluated(pair):
    x = normal(5, 4) + 1
    bound = elbo(*of_size(None, pair), x, num_particles=400, seed=0)
    plain = torch.distributions.MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double() + 1).log_prob(x)
    if pair[0] in (one_after_the_other, observed_outside, drawn_outside, drawn_one_by_one_outside):
        torch.testing.assert_close(bound.value, plain)
    given = 4 * dist.Normal(0.0, 1.0).log_prob(double(2.0)).item() if pair[0] is observed_outside else 0.0
    assert bound.log_given.item() == pytest.approx(given)
    cost = 4 * 0.5 if "drawn" in pair[0].__name__ else 0.0
    assert bound.global_kl.item() == pytest.approx(cost, abs=5 * (4 / 400) ** 0.5)
