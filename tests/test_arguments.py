"""Arguments of every kind through every entry point: the numbers of the same pair written with plain tensors.

A case is a way of passing x, y and w: what model and guide are called with, and how they read the three from it.
"""

import functools
import inspect
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_aevb import (
    AEVB,
    AIS,
    IWAE,
    MCEM,
    SGVB,
    SMC,
    Arguments,
    Auto,
    Evidence,
    ReweightedWakeSleep,
    Shared,
    WakeSleep,
    elbo,
    evidence_gap,
    fit,
    log_density,
    log_marginal_likelihood,
)
from pyro_aevb.arguments import arranged, as_arguments, first_size, signature_of, take_apart
from pyro_aevb.learners import Minibatch

N = 12
ADAM = functools.partial(torch.optim.Adam, lr=0.02)
SGD = functools.partial(torch.optim.SGD, lr=1e-3)
NOISE = torch.Generator().manual_seed(0)
X, Y = torch.randn(2, N, generator=NOISE).double()
W = torch.tensor([0.3, 0.7, 0.5]).double()
LONG_W = torch.full((N,), 0.125).double()
LENGTHS = torch.tensor([3, 1, 2, 3, 2, 2, 1, 3, 1, 2, 3, 2])
ROWS = torch.where(torch.arange(3) < LENGTHS[:, None], X[:, None] / LENGTHS[:, None], 0.0)


def model(x, y, w):
    s = pyro.param("s", torch.tensor(1.0).double(), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("x", dist.Normal(z * w.sum(), s), obs=x)
        pyro.sample("y", dist.Normal(z - 0.5, s), obs=y)


def guide(x, y, w):
    k, b = (pyro.param(name, torch.tensor(0.3).double()) for name in "kb")
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(k * x + b * y * w.sum(), 0.7))


def by_name(x, *, y, w):
    return x, y, w


def with_none(x, y, extra, w):
    return (x, y, w) if extra is None else (x, x, w)


def with_flag(x, y, w, double):
    return x, y, 2 * w if double else w


def with_text(x, y, w, kind):
    return x, y, {"plain": w, "negative": -w}[kind]


def in_a_list(both, w):
    return *both, w


def in_a_dict(batch):
    return batch["x"], batch["nested"]["y"], batch["w"]


def packed(sequence, y, w):
    return pad_packed_sequence(sequence, batch_first=True)[0].sum(1), y, w


SEQUENCE = pack_padded_sequence(ROWS, LENGTHS, batch_first=True, enforce_sorted=False)
CASES = {
    "keyword": (by_name, (X,), {"y": Y, "w": W}),
    "all by name": (by_name, (), {"x": X, "y": Y, "w": W}),
    "None": (with_none, (X, Y, None, W), {}),
    "flag": (with_flag, (X, Y, W / 2, True), {}),
    "float": (lambda x, y, w, factor: (x, y, factor * w), (X, Y, 2 * W, 0.5), {}),
    "int": (lambda x, y, w, factor: (x, y, factor * w), (X, Y, W / 2, 2), {}),
    "string": (with_text, (X, Y, -W, "negative"), {}),
    "list": (in_a_list, ([X, Y], W), {}),
    "dict": (in_a_dict, ({"x": X, "nested": {"y": Y}, "w": W},), {}),
    "packed": (packed, (SEQUENCE, Y, W), {}),
    "shared number": (lambda x, y, w: (x, y, w * torch.ones(3).double() / 3), (X, Y, W.sum()), {}),
    "shared of length N": (lambda w, x, y: (x, y, w), (Shared(LONG_W), X, Y), {}),
}
PLAIN = (X, Y)


def pair_of(name):
    """Return model, guide, args, kwargs of a case, and the same pair of two tensors."""
    unpack, args, kwargs = CASES[name]
    call, w = lambda fn: lambda *a, **k: fn(*unpack(*a, **k)), LONG_W if name == "shared of length N" else W

    def made(fn):
        return functools.wraps(unpack)(call(fn))

    def plain(fn):
        return lambda x, y: fn(x, y, w)

    return made(model), made(guide), args, kwargs, plain(model), plain(guide)


def as_data(args, kwargs):
    return Arguments(*args, **kwargs)


def parameters():
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def same(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def unshared(value):
    return value.value if isinstance(value, Shared) else value


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_svis(name):
    model, guide, args, kwargs, *_ = pair_of(name)
    found = []
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(1)
        learner = AEVB(model, guide, SGD, Trace_ELBO())
        found.append([float(learner.step(*args, **kwargs).loss) for _ in range(3)])
        ours = parameters()
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(1)
        svi = SVI(model, guide, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO())
        found.append([svi.step(*map(unshared, args), **kwargs) for _ in range(3)])
        same(ours, parameters())
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def in_turns(cases, features, every=4):
    """Return all pairs; by default some of each case and of each feature are run, and all of them on demand."""
    return [
        pytest.param(case, feature, marks=[pytest.mark.exhaustive] if (i + j) % every else [])
        for i, case in enumerate(cases)
        for j, feature in enumerate(features)
    ]


LEARNERS = {
    "SGVB": lambda m, g, c: AEVB(m, g, SGD, SGVB(kl="analytic"), compile=c),
    "IWAE": lambda m, g, c: AEVB(m, g, SGD, IWAE(3), compile=c),
    "WakeSleep": lambda m, g, c: WakeSleep(m, g, SGD, SGD, compile=c),
    "ReweightedWakeSleep": lambda m, g, c: ReweightedWakeSleep(m, g, SGD, SGD, num_particles=3, compile=c),
    "MCEM": lambda m, g, c: MCEM(m, SGD, g, SGD, num_leapfrog=2, num_updates=1, compile=c),
}


@pytest.mark.parametrize(("name", "learner"), in_turns(CASES, LEARNERS, every=3))
def test_learners_take_the_steps_of_plain_tensors(name, learner):
    if learner == "WakeSleep" and name == "packed":
        pytest.skip("what the model observes is made from the sequence: a dream needs dream_arguments")
    model, guide, args, kwargs, plain_model, plain_guide = pair_of(name)
    found = []
    for pair, call in (((model, guide), as_data(args, kwargs)), ((plain_model, plain_guide), Arguments(*PLAIN))):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(1)
            made = LEARNERS[learner](*pair, False)
            for _ in range(2):
                made.step(*call.args, index=torch.arange(N), **call.kwargs)
            found.append(parameters())
    same(*found)


@pytest.mark.parametrize("name", [n for n in CASES if n != "packed"])
def test_a_graph_takes_the_steps_of_plain_tensors(name):
    model, guide, args, kwargs, plain_model, plain_guide = pair_of(name)
    found = []
    for pair, call, compile in (
        ((model, guide), as_data(args, kwargs), "graph"),
        ((plain_model, plain_guide), Arguments(*PLAIN), False),
    ):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(1)
            made = LEARNERS["SGVB"](*pair, compile)
            for _ in range(4):
                made.step(*call.args, **call.kwargs)
            assert made.captures[0].obstacle is None
            found.append(parameters())
    same(*found)


@pytest.mark.parametrize("name", CASES)
def test_fit_validates_and_resumes_as_with_plain_tensors(name, tmp_path):
    model, guide, args, kwargs, plain_model, plain_guide = pair_of(name)
    data, found, values = as_data(args, kwargs), [], []

    def run(pair, data, epochs, folder=None, resume=False):
        pyro.set_rng_seed(1)
        learner = LEARNERS["SGVB"](*pair, False)
        return fit(
            learner, data, data, epochs=epochs, batch_size=5, progress=False, checkpoint_dir=folder, resume=resume
        )

    for pair, each, folder in (
        ((plain_model, plain_guide), PLAIN, None),
        ((model, guide), data, None),
        ((model, guide), data, tmp_path),
    ):
        with pyro.get_param_store().scope():
            if folder is not None:
                run(pair, each, 1, folder)
                pyro.clear_param_store()
            history = run(pair, each, 2, folder, folder is not None)
            values.append([record.values["validation"] for record in history.records])
            found.append(parameters())
    same(found[1], found[0])
    assert values[1] == pytest.approx(values[0], rel=1e-9)
    assert values[2] == values[1]
    assert all(torch.equal(found[2][key], found[1][key]) for key in found[1])


def test_a_run_with_another_flag_is_not_resumed(tmp_path):
    def run(double, w, resume=False):
        learner = LEARNERS["SGVB"](*pair_of("flag")[:2], False)
        options = {"epochs": 1, "batch_size": 6, "progress": False, "checkpoint_dir": tmp_path, "resume": resume}
        return fit(learner, (X, Y, w, double), **options)

    run(True, W)
    for changed in ((False, W), (True, 2 * W), (1, W)):
        with pytest.raises(ValueError, match="expected a checkpoint of this run"):
            run(*changed, resume=True)
    assert run(True, W, resume=True).samples == N


def gap(model, guide, *args, **kwargs):
    evidence = Evidence(torch.zeros(N).double(), torch.zeros(N).double(), "lower")
    return evidence_gap(model, guide, *args, evidence=evidence, num_steps=2, progress=False, **kwargs).best_elbo.value


def evidence(**options):
    def estimate(model, guide, *args, **kwargs):
        return log_marginal_likelihood(model, guide, *args, progress=False, **options, **kwargs).value

    return estimate


ESTIMATES = {
    "elbo": lambda *a, **k: elbo(*a, num_particles=3, batch_size=5, **k).value,
    "log_density": lambda *a, **k: log_density(*a, num_particles=3, **k).log_weight,
    "importance": evidence(num_particles=20, batch_size=5),
    "ais": evidence(method=AIS(2, num_leapfrog=1), num_particles=2, batch_size=5),
    "smc": evidence(method=SMC(2, num_leapfrog=1, num_replicates=2), num_particles=2, batch_size=7),
    "quadrature": evidence(method="quadrature", batch_size=5),
    "auto": evidence(
        method=Auto(annealing=AIS(2, num_leapfrog=1), num_chains=2, quadrature=None), num_particles=30, batch_size=12
    ),
    "gap": lambda *a, **k: gap(*a, num_particles=3, batch_size=5, **k),
}


@pytest.mark.parametrize(("name", "estimate"), in_turns(CASES, ESTIMATES))
def test_estimates_are_those_of_plain_tensors(name, estimate):
    model, guide, args, kwargs, plain_model, plain_guide = pair_of(name)
    found = []
    for pair, call in (((model, guide), as_data(args, kwargs)), ((plain_model, plain_guide), Arguments(*PLAIN))):
        pyro.set_rng_seed(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tails, with so few draws
            found.append(ESTIMATES[estimate](*pair, *call.args, **call.kwargs))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def exact_guide(x, y, w):
    """The posterior: with it the bound of a datapoint is log p(x, y), whatever is drawn."""
    a, precision = w.sum(), 2 + w.sum() ** 2
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((a * x + y + 0.5) / precision, precision**-0.5))


@pytest.mark.parametrize("name", CASES)
def test_whatever_the_minibatches_the_evidence_is_the_one_in_closed_form(name):
    unpack, args, kwargs = CASES[name]
    model = pair_of(name)[0]
    guide = functools.wraps(unpack)(lambda *a, **k: exact_guide(*unpack(*a, **k)))
    a = 1.5
    covariance = torch.tensor([[1 + a**2, a], [a, 2.0]]).double()
    joint = dist.MultivariateNormal(torch.tensor([0.0, -0.5]).double(), covariance)
    for batch_size in (1, 5, 12):
        found = elbo(model, guide, *args, **kwargs, batch_size=batch_size).value
        torch.testing.assert_close(found, joint.log_prob(torch.stack([X, Y], 1)), rtol=1e-9, atol=1e-9)


class Named(Dataset):
    """Items that are dicts."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"x": X[i], "y": Y[i]}


def of_two(x, y):
    model(x, y, W)


def guide_of_two(x, y):
    guide(x, y, W)


@pytest.mark.parametrize(
    "data",
    [
        {"x": X, "y": Y},
        {"y": Y.numpy(), "x": X},
        Arguments(X, y=Y),
        Named(),
        DataLoader(Named(), batch_size=5),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=5),
    ],
    ids=["dict", "dict of arrays", "Arguments", "Dataset of dicts", "loader of dicts", "Dataset", "loader"],
)
def test_data_by_name_come_as_data_in_their_order(data):
    found = [elbo(of_two, guide_of_two, each, batch_size=5, seed=3).value for each in (data, (X, Y))]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    losses = []
    for each in (data, (X, Y)):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(1)
            learner = AEVB(of_two, guide_of_two, SGD)
            fit(learner, each, each, epochs=2, batch_size=N, progress=False)
            losses.append(set(parameters()))
    assert losses[0] == losses[1] == {"s", "k", "b"}


def test_a_dict_with_other_names_is_one_argument():
    model, guide, (batch,), _, *plain = pair_of("dict")
    expected = elbo(*plain, *PLAIN, seed=0).value
    for data in (batch, (batch,)):
        torch.testing.assert_close(elbo(model, guide, data, seed=0).value, expected, rtol=1e-9, atol=1e-9)
    pyro.clear_param_store()
    fit(AEVB(model, guide, ADAM), batch, epochs=1, batch_size=6, progress=False)


def test_the_number_of_datapoints_is_found_whatever_is_nested():
    x = torch.zeros(3, 2)
    assert first_size(("a", None, 2.0, Shared(torch.zeros(5)), {"x": [x]}), {}) == 3
    assert first_size((), {"flag": True, "x": x}) == 3
    assert first_size(("a", None), {}) is None


def test_arguments_come_out_as_they_went_in():
    went = as_arguments((X, [Y, (None, W)], {"b": True, "a": 0.5}), {"t": SEQUENCE, "w": Shared(LONG_W)})
    rows, form = take_apart(went, lambda value, place: value)
    came = form.call(rows)
    assert len(rows) == form.num_rows == 4  # x, y, and the sequence, padded, with its lengths
    assert came.args[0] is X
    assert came.args[1] == [Y, (None, W)]
    assert came.args[2] == {"b": True, "a": 0.5}
    assert came.kwargs["w"] is LONG_W
    for field, was in zip(came.kwargs["t"], SEQUENCE, strict=True):
        assert torch.equal(field, was)


@pytest.mark.parametrize("in_order", [True, False])
def test_a_packed_sequence_is_packed_again(in_order):
    lengths, order = LENGTHS.sort(descending=True) if in_order else (LENGTHS, torch.arange(N))
    was = pack_padded_sequence(ROWS[order], lengths, batch_first=True, enforce_sorted=in_order)
    rows, form = take_apart(Arguments(was), lambda value, place: value)
    (came,) = form.call(rows).args
    for field, before in zip(came, was, strict=True):
        assert (field is None and before is None) or torch.equal(field, before)
    some = Minibatch(rows, form=form).take(slice(1, 4)).call().args[0]
    padded, found = pad_packed_sequence(some, batch_first=True)
    assert torch.equal(found, lengths[1:4])
    assert torch.equal(padded, ROWS[order][1:4, : int(found.max())])


def test_another_flag_is_another_function():
    """A flag that takes a latent's prior away from standard: graphs, structures and dreams are each flag's own."""

    def model(x, wide):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 3.0 if wide else 1.0))
            if wide:
                z = z + pyro.sample("u", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, wide):
        k = pyro.param("k", torch.tensor(0.3).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(k * x, 0.7))
            if wide:
                pyro.sample("u", dist.Normal(k * (x - z), 0.7))

    steps = {
        "SGVB": lambda: AEVB(model, guide, SGD, SGVB(kl="analytic"), compile="graph"),
        "WakeSleep": lambda: WakeSleep(model, guide, SGD, SGD),
        "ReweightedWakeSleep": lambda: ReweightedWakeSleep(model, guide, SGD, SGD, num_particles=2, insomnia=0.5),
    }
    for make in steps.values():
        losses = []
        for together in (True, False):
            with pyro.get_param_store().scope():
                pyro.param("k", torch.tensor(0.3).double())
                learners = [make()] * 2 if together else [make(), make()]
                found = []
                for step in range(6):
                    pyro.set_rng_seed(step)
                    found.append(float(learners[step % 2].step(X, step % 2 == 1).loss))
                losses.append(found)
        assert losses[0][:2] == losses[1][:2]  # the parameter goes its way; the first loss of each flag is alone
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_n_is_each_forms_own():
    def sized(fn):
        def call(x, size):
            with pyro.plate("data", size, subsample_size=len(x)):
                fn(x)

        return call

    def inner_guide(x):
        pyro.sample("z", dist.Normal(pyro.param("k", torch.tensor(0.3).double()) * x, 0.7))

    def inner_model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    learner, found = AEVB(sized(inner_model), sized(inner_guide), SGD), []
    for size in (100, 200, 100):
        learner.step(X, size)
        found.append(learner.dataset_size)
    assert found == [100, 200, 100]


def test_chains_of_other_latents_are_told_and_the_remedy_works():
    def model(x, wide):
        s = pyro.param("s", torch.tensor(1.0).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            if wide:
                z = z + pyro.sample("u", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, s), obs=x)

    def learner():
        return MCEM(model, SGD, num_leapfrog=2, num_updates=1)

    index, mixed = torch.arange(N), learner()
    mixed.step(X, False, index=index)
    with pytest.raises(ValueError, match=r"expected a model of 1 latent dimensions, as the chains have, got 2; .*MCEM"):
        mixed.step(X, True, index=index)
    learner().step(X, True, index=index)


def test_the_structure_of_a_pair_is_each_flags_own():
    """A flag takes away the closed form of a KL: an objective in Pyro's SVI is told which model it has."""

    def model(x, heavy):
        with pyro.plate("data", len(x)):
            prior = dist.StudentT(3.0, torch.zeros(()).double(), 1.0) if heavy else dist.Normal(0.0 * X[0], 1.0)
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, heavy):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    losses = []
    for flags in ([False, True], [True]):
        for heavy in flags:
            pyro.set_rng_seed(0)
            losses.append(SGVB(kl="analytic").loss(model, guide, X, heavy))
    assert losses[1] == losses[2] != losses[0]


def test_a_number_of_each_step_counts_and_a_tensor_needs_no_new_graph():
    def model(x, beta):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            with pyro.poutine.scale(scale=beta):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, beta):
        k = pyro.param("k", torch.tensor(0.3).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(k * x, 0.7))

    found = []
    for compile, kind in (
        (False, float),
        ("graph", float),
        ("graph", functools.partial(torch.tensor, dtype=torch.float64)),
    ):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            learner = AEVB(model, guide, SGD, SGVB(), compile=compile)
            found.append([float(learner.step(X, kind(0.1 + 0.1 * (i // 2))).loss) for i in range(8)])
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert found[2] == pytest.approx(found[0], rel=1e-9)
    assert learner.captures[0].obstacle is None


def test_labels_of_another_length_are_told_and_the_remedy_works():
    for call in (
        lambda y: elbo(of_two, guide_of_two, X, y),
        lambda y: AEVB(of_two, guide_of_two, ADAM).step(X, y),
        lambda y: fit(AEVB(of_two, guide_of_two, ADAM), (X, y), epochs=1, batch_size=4, progress=False),
        lambda y: log_marginal_likelihood(of_two, guide_of_two, X, y, method="quadrature", progress=False),
    ):
        with pytest.raises(ValueError, match=r"expected as many datapoints in argument 1 as in the first.*got 11 rows"):
            call(Y[:11])
        call(Y[:12])


@pytest.mark.parametrize("labels", [Y.tolist(), 0.5], ids=["list", "number"])
def test_what_is_observed_is_a_tensor_and_the_remedy_works(labels):
    def two(x, d):
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0), obs=d["y"])

    def guide(x, d):
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(pyro.param("b", torch.tensor(0.1).double()) * x, 1.0))

    x = X.flatten()[:N]
    with pytest.raises(TypeError, match=r"expected a tensor observed at site 'y' of the model, got.*torch.as_tensor"):
        elbo(two, guide, x, {"y": labels})
    assert elbo(two, guide, x, {"y": torch.as_tensor(labels).double()}).value.isfinite().all()


def test_an_option_that_is_an_argument_of_the_models_too_is_told_and_the_remedy_works():
    def seeded(x, seed=0.0):
        model(x + seed, x, W)

    def seeded_guide(x, seed=0.0):
        guide(x + seed, x, W)

    plain = elbo(lambda x: seeded(x, 2.0), lambda x: seeded_guide(x, 2.0), X, num_particles=4)
    assert plain.value.shape == (N,)
    for estimate in (
        lambda *a, **k: elbo(seeded, seeded_guide, *a, **k).value,
        lambda *a, **k: evidence(method="quadrature")(seeded, seeded_guide, *a, **k),
    ):
        with pytest.raises(TypeError, match=r"got seed=, which is an argument of the model .*Arguments\(x, seed=...\)"):
            estimate(X, seed=2)
        assert not torch.allclose(estimate(Arguments(X, seed=2.0)), estimate(X))
        assert torch.isfinite(estimate(Arguments(X, seed=2.0), seed=1)).all()


ZERO = Evidence(torch.zeros(N).double(), torch.zeros(N).double(), "lower")
OPTIONS_OF_THE_GAP = {
    "evidence": ZERO, "num_steps": 3, "learning_rate": 0.1, "num_particles": 2, "batch_size": 4, "seed": 1,
    "progress": False,
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS_OF_THE_GAP)
def test_an_option_of_the_gap_that_could_be_an_argument_of_the_model_is_told(option):
    def with_option(fn):
        def taking(x, **named):
            fn(x + named.get(option, 0.0), x, W)

        taking.__signature__ = inspect.Signature(
            [
                inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD),
                inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=0.0),
            ]
        )
        return taking

    pair = with_option(model), with_option(guide)
    options = {"evidence": ZERO, "num_steps": 2} | {option: OPTIONS_OF_THE_GAP[option]}
    with pytest.raises(TypeError, match=rf"got {option}=, which is an argument of the model .*Arguments\(x, {option}="):
        evidence_gap(*pair, X, **options)
    assert torch.isfinite(evidence_gap(*pair, Arguments(X, **{option: 2.0}), **options).elbo.value).all()


def test_other_objects_are_passed_on_if_they_are_shared():
    class Settings:
        factor = 2.0

    def model_of(x, settings):
        model(x, x, settings.factor * W)

    def guide_of(x, settings):
        guide(x, x, settings.factor * W)

    with pytest.raises(TypeError, match=r"expected tensors, got Settings as argument 1; .*Shared\(value\)"):
        AEVB(model_of, guide_of, ADAM).step(X, Settings())
    AEVB(model_of, guide_of, ADAM).step(X, Shared(Settings()))
    found = elbo(model_of, guide_of, X, Shared(Settings()), seed=0).value
    expected = elbo(lambda x: model(x, x, 2 * W), lambda x: guide(x, x, 2 * W), X, seed=0).value
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_minibatches_of_an_estimate_have_one_form():
    stream = [Arguments(X[:6], Y[:6], W, 0.5), Arguments(X[6:], Y[6:], W, 0.25)]
    _, args, _ = CASES["float"]
    model, guide, *_ = pair_of("float")
    with pytest.raises(ValueError, match="expected minibatches that differ in their datapoints alone"):
        elbo(model, guide, iter(stream))
    assert len(elbo(model, guide, iter([Arguments(X[:6], Y[:6], W, 0.5), Arguments(X[6:], Y[6:], W, 0.5)])).value) == N
    assert len(args) == 4


def test_signatures_tell_what_is_no_tensor():
    assert signature_of((X, Y), {}) == signature_of((Y, X), {}) != signature_of((X,), {"y": Y})
    assert signature_of((X, True), {}) != signature_of((X, 1), {}) != signature_of((X, None), {})
    assert signature_of((X, 0.1), {}) == signature_of((X, 0.2), {})


def test_a_function_of_plain_tensors_is_left_alone():
    assert arranged(model, None) is model
    assert arranged(None, None) is None


def test_dreams_of_arguments_by_name():
    def imagine(sites, x, *, y, w):
        return Arguments(sites["x"], y=sites["y"], w=w)

    found = []
    for pair, args, kwargs, dream in (
        (pair_of("keyword")[:2], (X,), {"y": Y, "w": W}, imagine),
        (pair_of("keyword")[4:], PLAIN, {}, lambda sites, x, y: (sites["x"], sites["y"])),
    ):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(1)
            learner = WakeSleep(*pair, SGD, SGD, dream_arguments=dream)
            learner.step(*args, **kwargs)
            found.append(parameters())
    same(*found)
