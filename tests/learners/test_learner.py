"""What every learner keeps to, over every model: it trains, resumes, refuses bad input, touches nothing global."""

import functools
import warnings
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from covering import some_partners
from pairs import CONTINUOUS, DISCRETE, N, bernoulli_vae, linear_gaussian
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.util import is_validation_enabled

from pyro_aevb import AEVB, MCEM, VIMCO, DReG, NonFiniteLossError, ReweightedWakeSleep, WakeSleep
from pyro_aevb.checks import check_data
from pyro_aevb.learners import Learner
from pyro_aevb.training import fit

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
LEARNERS = {
    "aevb": lambda p, optim: AEVB(p.model, p.guide, optim()),
    "aevb-map": lambda p, optim: AEVB(
        p.model, p.guide, optim(), TraceMeanField_ELBO(), theta_prior=dist.Normal(0.0, 1.0)
    ),
    "wake-sleep": lambda p, optim: WakeSleep(p.model, p.guide, optim(), optim(), theta_prior=dist.Normal(0.0, 1.0)),
    "mcem": lambda p, optim: MCEM(p.model, optim(), num_leapfrog=3, theta_prior=dist.Normal(0.0, 1.0)),
    "mcem-guide": lambda p, optim: MCEM(p.model, optim(), p.guide, optim(), num_leapfrog=3),
    "dreg": lambda p, optim: AEVB(p.model, p.guide, optim(), DReG(3)),
    "vimco": lambda p, optim: AEVB(p.model, p.guide, optim(), VIMCO(3)),
    "reweighted": lambda p, optim: ReweightedWakeSleep(p.model, p.guide, optim(), optim(), num_particles=3),
}
DISCRETE_TOO = ("wake-sleep", "vimco", "reweighted")
PAIRS = [(learner, model) for learner in LEARNERS for model in CONTINUOUS] + [
    (learner, model) for learner in DISCRETE_TOO for model in DISCRETE
]
ALL = CONTINUOUS | DISCRETE
OPTIMIZERS = {
    "adam": lambda: ADAM,
    "adagrad": lambda: functools.partial(torch.optim.Adagrad, lr=0.01),
    "sgd": lambda: functools.partial(torch.optim.SGD, lr=1e-4, momentum=0.9),
    "pyro-adam": lambda: pyro.optim.Adam({"lr": 0.01}),
    "pyro-clipped": lambda: pyro.optim.ClippedAdam({"lr": 0.01}),
}
BATCHES = [torch.arange(10) + 10 * (i % 4) for i in range(12)]


def train(learner, x, batches):
    return [learner.step(x[index], index=index) for index in batches]


def parameters(learner):
    return {n: p.unconstrained.detach().clone() for n, p in (learner.theta | learner.phi).items()}


@pytest.mark.parametrize(("learner", "model"), some_partners(PAIRS))
def test_ten_steps_and_an_exact_resume(learner, model):
    """Six steps, a state, six more; and the state in a new learner over a new model: the same to the last bit."""
    pair, x = ALL[model]()
    first = LEARNERS[learner](pair, lambda: ADAM)
    start = train(first, x, BATCHES[:1]) and parameters(first)
    train(first, x, BATCHES[1:6])
    state = first.state_dict()
    pyro.set_rng_seed(1)
    infos = train(first, x, BATCHES[6:])
    for info in infos:
        assert info._fields[0] == "loss"
        numbers = [term for term in info if isinstance(term, torch.Tensor)]
        assert all(term.shape == () and term.isfinite() and not term.requires_grad for term in numbers)
    for name, value in parameters(first).items():
        assert value.isfinite().all()
        assert not torch.equal(value, start[name]), f"{name} was not trained"
    expected = parameters(first)

    with pyro.get_param_store().scope():
        pair, x = ALL[model]()
        second = LEARNERS[learner](pair, lambda: ADAM)
        second.load_state_dict(state)
        pyro.set_rng_seed(1)
        train(second, x, BATCHES[6:])
        for name, value in parameters(second).items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(("learner", "optim"), some_partners([(a, b) for a in LEARNERS for b in OPTIMIZERS]))
def test_any_optimizer(learner, optim):
    for _ in range(2):  # with a Pyro optimizer too, the state goes over to a new learner
        with pyro.get_param_store().scope():
            pair, x = bernoulli_vae()
            first = LEARNERS[learner](pair, OPTIMIZERS[optim])
            train(first, x, BATCHES[:5])
            second = LEARNERS[learner](bernoulli_vae()[0], OPTIMIZERS[optim])
            second.load_state_dict(first.state_dict())
            results = []
            for each in (first, second):
                pyro.set_rng_seed(2)
                train(each, x, BATCHES[5:8])
                results.append(parameters(each))
            for name, value in results[0].items():
                assert torch.equal(value, results[1][name]), name


def test_a_torch_optimizer_over_some_parameters_leaves_the_others_alone():
    vae, x = bernoulli_vae()
    before = {n: p.clone() for n, p in vae.named_parameters()}
    learner = AEVB(vae.model, vae.guide, torch.optim.Adam(vae.decoder.parameters(), lr=0.01))
    train(learner, x, BATCHES)
    for name, value in vae.named_parameters():
        assert torch.equal(before[name], value) == name.startswith("encoder"), name


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO, functools.partial(RenyiELBO, num_particles=3)])
def test_aevb_without_a_prior_is_stock_svi(objective):
    results = []
    for stock in (True, False):
        pyro.set_rng_seed(4)
        vae, x = bernoulli_vae()
        optim = pyro.optim.Adam({"lr": 0.01})
        if stock:
            svi = SVI(vae.model, vae.guide, optim, objective())
            losses = [svi.step(x[index]) for index in BATCHES]
        else:
            losses = [info.loss.item() for info in train(AEVB(vae.model, vae.guide, optim, objective()), x, BATCHES)]
        results.append((losses, dict(vae.named_parameters())))
    assert results[0][0] == pytest.approx(results[1][0])
    for name, value in results[0][1].items():
        torch.testing.assert_close(value, results[1][1][name])


def test_update_model_leaves_the_guide_alone():
    vae, x = bernoulli_vae()
    before = {n: p.clone() for n, p in vae.named_parameters()}
    train(AEVB(vae.model, vae.guide, ADAM, update="model"), x, BATCHES)
    for name, value in vae.named_parameters():
        assert torch.equal(before[name], value) == name.startswith("encoder"), name


def test_the_elbo_of_a_step_is_per_datapoint_whatever_the_minibatch():
    """Early on, minibatches of 5 and of 40 give bounds of the same size."""
    lg, x = linear_gaussian()
    sgd = functools.partial(torch.optim.SGD, lr=0.0)
    for learner in (AEVB(lg.model, lg.guide, sgd), WakeSleep(lg.model, lg.guide, sgd, sgd)):
        small = torch.stack([learner.step(x[i : i + 5]).elbo for i in range(0, N, 5) for _ in range(20)]).mean()
        whole = torch.stack([learner.step(x).elbo for _ in range(20)]).mean()
        assert small.item() == pytest.approx(whole.item(), rel=0.1)
        assert learner.dataset_size == N


def test_nothing_global_changes():
    vae, x = bernoulli_vae()
    settings = (torch.get_default_dtype(), is_validation_enabled(), torch.is_grad_enabled(), torch.get_num_threads())
    filters = list(warnings.filters)
    for make in LEARNERS.values():
        fit(make(vae, lambda: ADAM), x, epochs=1, batch_size=10, progress=False)
    assert not list(pyro.get_param_store())
    assert settings == (
        torch.get_default_dtype(),
        is_validation_enabled(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )
    assert filters == list(warnings.filters)
    assert all(p.grad is None for p in vae.parameters())


def test_preparing_uses_no_random_number():
    vae, x = bernoulli_vae()
    state = torch.get_rng_state()
    for make in LEARNERS.values():
        make(vae, lambda: ADAM).prepare(x)
    assert torch.equal(state, torch.get_rng_state())


# -- what is refused, before anything is trained ---------------------------------------------------------------------

NAN = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0, float("nan")]]).double()


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.full((4, 6), 0.5).double(), ValueError, r"site 'x'.* got values from 0.5 to 0.5; grey pixels"),
        (NAN.expand(4, 6), ValueError, "got 4 NaN or infinite values in argument 0, the first in datapoint 0"),
        (torch.full((4, 6), torch.inf).double(), ValueError, "NaN or infinite"),
        (torch.zeros(4, 7).double(), ValueError, r"shape \(M, 6\), got \(4, 7\)"),
        (torch.zeros(4, 2, 3).double(), ValueError, r"shape \(M, 6\), got \(4, 2, 3\)"),
        (torch.zeros(4, 6), TypeError, "dtype torch.float64, got torch.float32"),
        (torch.zeros(4, 6).long(), TypeError, "dtype torch.float64, got torch.int64"),
        (torch.zeros(0, 6).double(), ValueError, "at least one datapoint"),
        ([[0.0] * 6], TypeError, "expected tensors, got list"),
    ],
)
def test_bad_data_is_refused_before_training(learner, bad, error, message):
    vae, _ = bernoulli_vae()
    before = {n: p.clone() for n, p in vae.named_parameters()}
    with pytest.raises(error, match=message):
        LEARNERS[learner](vae, lambda: ADAM).step(bad, index=torch.arange(len(bad)))
    for name, value in vae.named_parameters():
        assert torch.equal(before[name], value)


def test_finite_numbers_too_large_to_add_are_data():
    check_data(torch.full((10, 3), 3e38), torch.ones(10, dtype=torch.bool), torch.full((10,), 2**62))
    with pytest.raises(ValueError, match="got 2 NaN or infinite values in argument 0, the first in datapoint 1"):
        check_data(torch.tensor([1.0, torch.inf, -torch.inf]))  # whose sum is NaN


def test_one_grey_image_in_ten_thousand_is_found_before_the_first_step():
    vae, _ = bernoulli_vae()
    x = torch.zeros(10000, 6).double()
    x[-1, 3] = 0.5  # which is not in the first minibatch of this order
    learner = AEVB(vae.model, vae.guide, ADAM)
    before = [parameter.clone() for parameter in vae.parameters()]
    with pytest.raises(ValueError, match="site 'x'"):
        fit(learner, x, epochs=1, progress=False)
    assert all(map(torch.equal, before, vae.parameters()))


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_site(learner):
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Normal(z, scale.exp()), obs=x)

    def guide(x):
        shift = pyro.param("shift", torch.tensor(0.0).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, 0.7))

    class Model:
        pass

    pair, x, index = Model(), torch.randn(10).double(), torch.arange(10)
    pair.model, pair.guide = model, guide
    trained = LEARNERS[learner](pair, lambda: ADAM)
    trained.step(x, index=index)
    with torch.no_grad():
        pyro.param("scale").unconstrained().fill_(-1000.0)  # exp(scale) = 0
    shift = pyro.param("shift").clone() if learner != "mcem" else None
    with pytest.raises(NonFiniteLossError, match="site 'x' in the model"):
        trained.step(x, index=index)
    assert pyro.param("scale").item() == -1000.0
    assert shift is None or torch.equal(shift, pyro.param("shift"))
    with torch.no_grad():
        pyro.param("scale").unconstrained().fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match="parameter 'scale'"):
        trained.step(x, index=index)


def test_what_isnt_an_optimizer_or_an_objective_is_refused():
    vae, _x = bernoulli_vae()
    with pytest.raises(TypeError, match=r"functools\.partial"):
        AEVB(vae.model, vae.guide, 0.01)
    with pytest.raises(TypeError, match="Trace_ELBO"):
        AEVB(vae.model, vae.guide, ADAM, "elbo")
    with pytest.raises(ValueError, match="'both', 'model' or 'guide'"):
        AEVB(vae.model, vae.guide, ADAM, update="theta")
    with pytest.raises(TypeError, match="callable guide"):
        AEVB(vae.model, 3, ADAM)
    with pytest.raises(TypeError, match="theta_prior"):
        AEVB(vae.model, vae.guide, ADAM, theta_prior=1.0)
    optim = pyro.optim.Adam({"lr": 0.01})
    with pytest.raises(ValueError, match="another for guide_optim"):
        WakeSleep(vae.model, vae.guide, optim, optim)
    with pytest.raises(RuntimeError, match="has run"):
        AEVB(vae.model, vae.guide, ADAM).state_dict()


def test_a_state_of_another_model_is_refused():
    vae, x = bernoulli_vae()
    lg, y = linear_gaussian()
    learner, other = AEVB(vae.model, vae.guide, ADAM), AEVB(lg.model, lg.guide, ADAM)
    learner.prepare(x)
    other.prepare(y)
    with pytest.raises(ValueError, match="same model and guide"):
        other.load_state_dict(learner.state_dict())


def test_a_model_without_observations_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="no observed site"):
        AEVB(model, model, ADAM).step(torch.zeros(3))


# -- What trains nothing ---------------------------------------------------------------------------------------------


def networks_in_a_cell():
    """A notebook cell: new networks under the names of the last time it was run."""
    encoder, decoder = torch.nn.Linear(5, 4), torch.nn.Linear(2, 5)

    def model(x):
        pyro.module("cell_decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.3).to_event(1), obs=x)

    def guide(x):
        pyro.module("cell_encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide, decoder


@pytest.mark.parametrize("compile", [False, "graph"])
@pytest.mark.parametrize(
    "make",
    [
        lambda model, guide, compile: AEVB(model, guide, ADAM, compile=compile),
        lambda model, guide, compile: WakeSleep(model, guide, ADAM, ADAM, compile=compile),
        lambda model, guide, compile: MCEM(model, ADAM, num_leapfrog=2, compile=compile),
    ],
)
def test_new_networks_under_old_names_are_told(make, compile):
    x, index = torch.randn(20, 5), torch.arange(20)
    model, guide, _ = networks_in_a_cell()
    make(model, guide, compile).step(x, index=index)
    model, guide, decoder = networks_in_a_cell()
    first = decoder.weight.clone()
    with pytest.raises(ValueError, match=r"would never be trained.* call pyro.clear_param_store\(\)"):
        make(model, guide, compile).step(x, index=index)
    assert torch.equal(decoder.weight, first)
    pyro.clear_param_store()  # the remedy
    model, guide, decoder = networks_in_a_cell()
    first = decoder.weight.clone()
    make(model, guide, compile).step(x, index=index)
    assert not torch.equal(decoder.weight, first)


def simulator(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def line_guide(x):
    a, b = pyro.param("half_a", torch.tensor(0.0)), pyro.param("half_b", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(a * x, b.exp()).to_event(1))


def still_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.2**0.5).to_event(1))


def shifted(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + pyro.param("half_shift", torch.tensor(0.0)), 0.5).to_event(1), obs=x)


@pytest.mark.parametrize("compile", [False, "graph"])
@pytest.mark.parametrize("learner", ["wake-sleep", "aevb"])
def test_a_model_without_parameters_has_its_guide_trained(learner, compile):
    """x|z ~ N(z, 1/4): the posterior is N(0.8 x, 0.2), and q finds it from dreams alone."""
    adam = functools.partial(torch.optim.Adam, lr=0.03)
    if learner == "wake-sleep":
        trained = WakeSleep(simulator, line_guide, adam, adam, compile=compile)
    else:
        trained = AEVB(simulator, line_guide, adam, compile=compile)
    x = torch.randn(300, 1) * 1.25**0.5
    for _ in range(300):
        trained.step(x)
    assert pyro.param("half_a").item() == pytest.approx(0.8, abs=0.05)
    assert pyro.param("half_b").exp().item() == pytest.approx(0.2**0.5, rel=0.1)


def test_a_guide_without_parameters_has_its_model_trained():
    for make in (
        lambda: WakeSleep(shifted, still_guide, ADAM, ADAM),
        lambda: ReweightedWakeSleep(shifted, still_guide, ADAM, ADAM),
    ):
        pyro.clear_param_store()
        learner = make()
        for _ in range(3):
            learner.step(torch.randn(50, 1) + 1.0)
        assert pyro.param("half_shift") > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MCEM(simulator, ADAM), "expected a model with parameters for MCEM, got none: there is nothing to"),
        (
            lambda: AEVB(simulator, line_guide, ADAM, theta_prior=dist.Normal(0.0, 1.0)),
            "expected a model with parameters for theta_prior, got none: there is nothing to train",
        ),
        (
            lambda: WakeSleep(simulator, line_guide, ADAM, ADAM, theta_prior=dist.Normal(0.0, 1.0)),
            "expected a model with parameters for theta_prior, got none: there is nothing to train",
        ),
        (lambda: AEVB(simulator, still_guide, ADAM), "expected parameters for AEVB to train, got none"),
        (lambda: AEVB(simulator, line_guide, ADAM, update="model"), "expected parameters for AEVB to train, got none"),
    ],
)
def test_nothing_to_train_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make().step(torch.randn(10, 1), index=torch.arange(10))


# -- A learner of one's own ------------------------------------------------------------------------------------------


class Settings:
    def __init__(self):
        self.factor = 1.0


class Scaled(Learner):
    """Minus log p(x, z) times a number that may change, at latents from the guide."""

    def __init__(self, model, guide, optim, settings, compile):
        super().__init__(model, guide, {"optim": optim}, compile=compile)
        self._settings = settings
        self._gradients = self.capture(self._loss, watched=[settings])

    def parameters_of(self, optimizer):
        return self.theta

    def update(self, batch, settings):
        (loss,) = self._gradients.of(batch)
        self.descend(loss, settings, "optim")
        return Scaling(loss, None)

    def _loss(self, *args):
        guide_trace = pyro.poutine.trace(self.traced_guide).get_trace(*args)
        model_trace = pyro.poutine.trace(pyro.poutine.replay(self.traced_model, trace=guide_trace)).get_trace(*args)
        loss = -self._settings.factor * model_trace.log_prob_sum()
        loss.backward()
        return (loss.detach(),)


class Scaling(NamedTuple):
    loss: torch.Tensor
    elbo: torch.Tensor | None


def test_what_a_function_watches_is_an_argument():
    vae, x = bernoulli_vae()
    settings = Settings()
    learner = Scaled(vae.model, vae.guide, functools.partial(torch.optim.SGD, lr=0.0), settings, "graph")
    for _ in range(4):
        torch.manual_seed(1)
        before = learner.step(x).loss
    settings.factor = 10.0
    torch.manual_seed(1)
    assert learner.step(x).loss == pytest.approx(10 * before)
    assert [capture.obstacle for capture in learner.captures] == [None]


def test_a_learner_of_ones_own_trains_in_fit(tmp_path):
    vae, x = bernoulli_vae()
    learner = Scaled(vae.model, vae.guide, ADAM, Settings(), "auto")
    history = fit(learner, x, epochs=3, batch_size=10, checkpoint_dir=tmp_path, progress=False)
    again = Scaled(vae.model, vae.guide, ADAM, Settings(), "auto")
    longer = fit(again, x, epochs=4, batch_size=10, checkpoint_dir=tmp_path, resume=True, progress=False)
    assert longer.records[:3] == history.records
    assert longer.records[-1].training > history.records[0].training


def test_every_learner_is_final_and_the_door_has_two_methods():
    assert Learner.__abstractmethods__ == {"update", "parameters_of"}
    for learner in (AEVB, WakeSleep, ReweightedWakeSleep, MCEM):
        assert learner.__final__
