"""What a run looks at on its way: the validation bound, when to stop, which parameters to keep, what it shows."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian
from pairs import batch_norm_vae, bernoulli_vae
from pyro.infer import Trace_ELBO
from torch.utils.data import DataLoader, TensorDataset

from pyro_aevb import AEVB, IWAE, MCEM, SGVB, VAE, History
from pyro_aevb.evidence import elbo
from pyro_aevb.training import fit
from pyro_aevb.training.history import Record
from pyro_aevb.training.validation import ValidationBound

ADAM = functools.partial(torch.optim.Adam, lr=0.01)


def learner_and_data():
    vae, x = bernoulli_vae()
    return AEVB(vae.model, vae.guide, ADAM), x


def everything(learner):
    """Return all that a validation must leave as it is."""
    state = learner.state_dict()
    modes = [module.training for module in learner.modules]
    return state["parameters"], state["buffers"], state["optimizers"], torch.get_rng_state(), modes


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_the_validation_bound_is_the_bound_on_the_whole_set():
    learner, x = learner_and_data()
    learner.step(x)
    expected = elbo(learner.model, learner.guide, x, num_particles=3, seed=0).mean()
    for data in (x, x.numpy(), TensorDataset(x), (x,)):
        values = ValidationBound(learner, data, num_particles=3)()
        assert values == {"validation": expected.value, "validation_standard_error": expected.standard_error}
    parts = ValidationBound(learner, DataLoader(TensorDataset(x), batch_size=7), num_particles=2000)()
    exact = ValidationBound(learner, x, num_particles=2000)()
    assert parts["validation"] == pytest.approx(exact["validation"], abs=0.02)


def test_the_standard_error_is_that_of_the_mean_over_datapoints():
    """x ~ N(m, C) under the model and q = p(z|x): the bound is log p(x), whose variance is D/2."""
    lg = LinearGaussian(4000, 2, 4)
    learner = AEVB(lg.model, lg.guide, ADAM)
    learner.step(lg.x)
    with torch.no_grad():
        value = ValidationBound(learner, lg.x)()
    direct = elbo(lg.model, lg.guide, lg.x, seed=0).value
    assert value["validation_standard_error"] == pytest.approx(direct.std().item() / 4000**0.5)


def test_evaluating_changes_nothing():
    pyro.set_rng_seed(0)
    vae, x = batch_norm_vae()
    learner = AEVB(vae.model, vae.guide, ADAM)
    learner.step(x)
    before = everything(learner)
    first = ValidationBound(learner, x)()
    assert ValidationBound(learner, x)() == first
    assert same(everything(learner), before)
    assert any(before[-1])
    vae.eval()
    assert ValidationBound(learner, x)() == first
    vae.train()
    assert elbo(vae.model, vae.guide, x, seed=0).mean().value == first["validation"]  # which has no dropout either


def test_a_run_with_validation_is_the_run_without():
    results = []
    for validation in (None, slice(0, 10)):
        pyro.set_rng_seed(0)
        vae, x = batch_norm_vae()
        learner = AEVB(vae.model, vae.guide, ADAM)
        fit(learner, x, None if validation is None else x[validation], epochs=3, batch_size=10, progress=False)
        results.append((learner.copy_parameters(), torch.get_rng_state()))
    assert same(*results)


def test_it_stops_early_and_keeps_the_best():
    values = iter([-5.0, -3.0, math.nan, -4.0, -3.0, -2.0, -1.0])
    learner, x = learner_and_data()
    kept = []
    history = fit(
        learner, x, epochs=50, batch_size=10, evaluate=lambda: kept.append(learner.copy_parameters()) or {
            "score": next(values)}, monitor="score", patience=3, keep_best=True, progress=False,
    )  # fmt: skip
    assert history.stopped_early
    assert len(history.records) == 5
    assert history.best.values == {"score": -3.0}
    assert history.best.samples == 2 * len(x)
    assert same(learner.copy_parameters(), kept[1])
    assert not same(kept[1], kept[4])


def test_it_goes_on_as_long_as_it_gets_better():
    learner, x = learner_and_data()
    count = [0.0]
    history = fit(
        learner, x, epochs=9, batch_size=10, evaluate=lambda: {"n": count.append(1.0) or len(count)}, monitor="n",
        patience=1, keep_best=True, progress=False,
    )  # fmt: skip
    assert not history.stopped_early
    assert history.best == history.records[-1]
    assert history.samples == 9 * len(x)


def test_overfitting_is_stopped_and_undone():
    """Five training points, a large network: the validation bound falls after a while, and the best is kept."""
    pyro.set_rng_seed(0)
    x = torch.bernoulli(torch.full((205, 20), 0.5))
    vae = VAE(20, 2, hidden_dims=(50,), dataset_size=5)
    learner = AEVB(vae.model, vae.guide, ADAM, SGVB(kl="analytic"))
    history = fit(learner, x[:5], x[5:], epochs=2000, batch_size=5, evaluate_every=50, patience=5, keep_best=True,
                  progress=False)  # fmt: skip
    assert history.stopped_early
    bounds = history.table()["validation"]
    assert max(bounds) == history.best.values["validation"] > bounds[-1] + 0.1
    assert ValidationBound(learner, x[5:])()["validation"] == pytest.approx(max(bounds), abs=1e-5)


def test_callbacks_see_the_history_and_may_end_the_run():
    learner, x = learner_and_data()
    seen = []
    history = fit(
        learner, x, epochs=9, batch_size=10, evaluate_every=20, callbacks=[lambda h: seen.append(h.samples),
        lambda h: len(h.records) == 3], progress=False,
    )  # fmt: skip
    assert seen == [20, 40, 60]
    assert history.samples == 60
    assert history.stopped_early


def test_the_training_bound_is_the_mean_over_the_steps_since():
    learner, x = learner_and_data()
    step, bounds = learner.step_on, []
    learner.step_on = lambda *args, **kwargs: bounds.append((info := step(*args, **kwargs)).elbo.item()) or info
    history = fit(learner, x, epochs=2, batch_size=10, progress=False)
    assert [r.training for r in history.records] == pytest.approx([sum(bounds[:4]) / 4, sum(bounds[4:]) / 4])


@pytest.mark.parametrize("compile", [False, "graph"])
def test_the_weight_of_the_kl_warms_up(compile):
    """Loss(beta) = reconstruction + beta KL: each step's own terms tell which beta it had."""
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, ADAM, SGVB(kl="analytic", beta=2.0), compile=compile)
    step, betas = learner.step_on, []

    def spy(*args, **kwargs):
        info = step(*args, **kwargs)
        likelihood, kl = info.terms.reconstruction["x"].mean(), info.terms.kl["z"].mean()
        betas.append(((likelihood - info.elbo) / kl).item())
        return info

    learner.step_on = spy
    fit(learner, x, samples=80, batch_size=10, kl_warm_up=50, progress=False)
    assert betas == pytest.approx([0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0], abs=1e-6)
    assert learner.objective.beta == 2.0


@pytest.mark.parametrize("prior", [None, dist.Normal(0.0, 1.0)])
def test_gradients_are_clipped_to_a_norm_per_datapoint(prior):
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, functools.partial(torch.optim.SGD, lr=1.0), theta_prior=prior)
    learner.prepare(x)
    before = learner.copy_parameters()["parameters"]
    fit(learner, x, samples=len(x), batch_size=len(x), clip_norm=1e-3, progress=False)
    after = learner.copy_parameters()["parameters"]
    moved = torch.cat([(after[n] - before[n]).flatten() for n in before]).norm()
    assert moved.item() == pytest.approx(1e-3 * len(x), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 3}, "got neither validation data nor monitor="),
        ({"keep_best": True}, "got neither validation data nor monitor="),
        ({"patience": 0, "monitor": "a"}, "patience of 1 evaluation or more, got 0"),
        ({"clip_norm": 0.0}, "positive clip_norm, got 0.0"),
        ({"kl_warm_up": 0}, "kl_warm_up of 1 sample or more"),
        ({"validation": iter([torch.zeros(1, 6)])}, "got a generator; pass a tensor"),
        ({"validation": torch.zeros(3, 7).double()}, r"expected x of shape \(M, 6\), got \(3, 7\)"),
        ({"validation": torch.full((3, 6), 0.5).double()}, "expected data inside the support of site 'x'"),
        ({"checkpoint_dir": "x", "checkpoints_kept": 1}, "expected to keep 2 checkpoints or more, got 1"),
    ],
)
def test_bad_options_are_told_before_training(options, message):
    learner, x = learner_and_data()
    before = learner.step_on
    learner.step_on = lambda *args, **kwargs: pytest.fail("it trained")
    with pytest.raises(ValueError, match=message):
        fit(learner, x, epochs=1, batch_size=10, progress=False, **options)
    learner.step_on = before


def test_the_weight_of_the_kl_needs_an_objective_that_has_one():
    vae, x = bernoulli_vae()
    for objective in (Trace_ELBO(), IWAE(2)):
        learner = AEVB(vae.model, vae.guide, ADAM, objective)
        name = type(objective).__name__
        with pytest.raises(ValueError, match=rf"weighs its KL for kl_warm_up, got {name}; pass AEVB\(..., SGVB"):
            fit(learner, x, epochs=1, batch_size=10, kl_warm_up=10, progress=False)


def test_a_stream_has_no_length_to_schedule_by():
    learner, x = learner_and_data()
    with pytest.raises(ValueError, match="known length for a schedule, got a stream; pass samples, dataset_size or"):
        fit(learner, iter(x.split(10)), schedule=lambda done: 1.0, progress=False)


@pytest.mark.parametrize(
    ("options", "seen"),
    [({"batch_size": 16}, 40), ({"batch_size": 16, "drop_last": True}, 32), ({"sampler": [3] * 20}, 20)],
)
def test_a_loader_tells_its_length(options, seen):
    learner, x = learner_and_data()
    done = []
    loader = DataLoader(TensorDataset(x), **options)
    history = fit(learner, loader, epochs=3, schedule=lambda t: done.append(t) or 1.0, progress=False)
    assert [record.samples for record in history.records] == [seen, 2 * seen, 3 * seen]
    assert (done[0], max(done)) == (0.0, done[-1])
    assert done[-1] == pytest.approx(1 - (seen % 16 if seen == 40 else options.get("batch_size", 1)) / (3 * seen))


def test_a_loader_with_a_collate_function_of_ones_own_does_not():
    learner, x = learner_and_data()
    loader = DataLoader(TensorDataset(x), 8, collate_fn=lambda items: torch.stack([row for (row,) in items] * 2))
    with pytest.raises(ValueError, match="known length for a schedule, got a stream; pass samples, dataset_size or"):
        fit(learner, loader, schedule="linear", progress=False)
    assert fit(learner, loader, schedule="linear", dataset_size=80, progress=False).samples == 80


def test_a_value_to_go_by_that_does_not_come_is_told():
    learner, x = learner_and_data()
    with pytest.raises(ValueError, match=r"expected the value 'b' to go by, got \['a'\]"):
        fit(learner, x, epochs=1, batch_size=10, evaluate=lambda: {"a": 1.0}, monitor="b", progress=False)


def test_a_learner_without_a_guide_has_no_bound():
    vae, x = bernoulli_vae()
    with pytest.raises(ValueError, match="expected a learner with a guide to validate with, got MCEM"):
        fit(MCEM(vae.model, ADAM), x, x, epochs=1, batch_size=10, progress=False)


def test_the_history_is_a_table_and_a_picture(tmp_path):
    history = History([Record(10, 0.1, {}, -3.0), Record(20, 0.2, {"validation": -2.0, "other": 1.0}, -2.5)])
    table = history.table()
    assert list(table) == ["samples", "seconds", "training", "validation", "other"]
    assert table["samples"] == [10, 20]
    assert table["validation"][1] == -2.0
    assert math.isnan(table["validation"][0])
    figure = history.plot()
    figure.savefig(tmp_path / "history.png")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training samples", "nats per datapoint")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation", "other"]
    assert not History().plot().axes[0].lines
