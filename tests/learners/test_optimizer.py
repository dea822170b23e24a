"""Optimizers behind one interface: the learning rate for a step, the whole state, the numbers that make a run."""

import functools

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pairs import bernoulli_vae
from pyro.infer import Trace_ELBO
from pyro.optim import ExponentialLR, MultiStepLR, ReduceLROnPlateau

from pyro_aevb import AEVB, VAE
from pyro_aevb.files.safetensors_state import pack, unpack
from pyro_aevb.learners import StepSettings
from pyro_aevb.learners.optimizer import as_optimizer
from pyro_aevb.learners.step import Minibatch
from pyro_aevb.model_guide.parameters import Parameter

ADAM = functools.partial(torch.optim.Adam, lr=0.1)
SCHEDULERS = {
    "exponential": lambda: ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.5}),
    "steps": lambda: MultiStepLR(
        {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1, "momentum": 0.9}, "milestones": [2, 4], "gamma": 0.1}
    ),
    "plateau": lambda: ReduceLROnPlateau(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "factor": 0.1, "patience": 0}
    ),
}


def steps(learner, scheduler, x, numbers):
    for i in numbers:
        learner.step(x)
        if "Plateau" in scheduler.pt_scheduler_constructor.__name__:
            scheduler.step(float(i))  # what gets worse and worse
        else:
            scheduler.step()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_pyro_scheduler_goes_on_where_it_was(name):
    """Six steps at a falling rate are three, a state, and three more in a new learner."""
    results = []
    for stops in (False, True):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            vae, x = bernoulli_vae()
            scheduler = SCHEDULERS[name]()
            learner = AEVB(vae.model, vae.guide, scheduler)
            steps(learner, scheduler, x, range(3))
            if stops:
                state = unpack(pack(learner.state_dict()))
                noise = torch.get_rng_state()
                vae, scheduler = bernoulli_vae()[0], SCHEDULERS[name]()
                learner = AEVB(vae.model, vae.guide, scheduler)
                learner.load_state_dict(state)
                learner.prepare(x)
                torch.set_rng_state(noise)  # a new VAE drew its weights
            steps(learner, scheduler, x, range(3, 6))
            rates = [each.optimizer.param_groups[0]["lr"] for each in scheduler.optim_objs.values()]
            results.append((torch.cat([p.detach().flatten() for p in vae.parameters()]), rates))
    assert max(results[0][1]) < 0.1, "the rate did not fall"
    assert results[0][1] == results[1][1]
    assert torch.equal(results[0][0], results[1][0])


TORCHS = {
    "steps": lambda adam: torch.optim.lr_scheduler.StepLR(adam, 2, 0.5),
    "milestones": lambda adam: torch.optim.lr_scheduler.MultiStepLR(adam, [1, 4], 0.1),
    "a function": lambda adam: torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 / (1 + step)),
    "one cycle": lambda adam: torch.optim.lr_scheduler.OneCycleLR(adam, 0.2, total_steps=6),
    "one after the other": lambda adam: torch.optim.lr_scheduler.SequentialLR(
        adam,
        [torch.optim.lr_scheduler.LinearLR(adam), torch.optim.lr_scheduler.CosineAnnealingLR(adam, 5)],
        milestones=[2],
    ),
}


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("name", TORCHS)
def test_a_torch_scheduler_is_stepped_and_goes_on_where_it_was(name, made):
    """The rates are those of torch's own loop, through a state and a new learner after the third step."""
    ours, theirs, parameters = [], [], []
    other = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = TORCHS[name](other)
    for _ in range(6):
        theirs.append(other.param_groups[0]["lr"])
        other.step()
        schedule.step()
    for stops in (False, True):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            vae, x = bernoulli_vae()

            def new(vae):
                adam = lambda parameters: TORCHS[name](ADAM(parameters))  # noqa: E731
                return AEVB(vae.model, vae.guide, adam(vae.parameters()) if made else adam, compile=False)

            learner = new(vae)
            for i in range(6):
                if stops and i == 3:
                    state, noise = unpack(pack(learner.state_dict())), torch.get_rng_state()
                    vae = bernoulli_vae()[0]
                    learner = new(vae)
                    learner.load_state_dict(state)
                    learner.prepare(x)
                    torch.set_rng_state(noise)
                learner.prepare(x)
                ours.append(learner.optimizers["optim"].param_groups[0]["lr"])
                learner.step(x)
            parameters.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert ours == pytest.approx(2 * theirs)
    assert len(set(theirs)) > 1
    assert torch.equal(*parameters)


def test_a_scheduler_is_part_of_the_numbers_and_one_that_goes_by_a_value_is_refused():
    parameters = {"w": Parameter(torch.ones(3, requires_grad=True), torch.distributions.constraints.real)}
    optimizer = as_optimizer(lambda p: torch.optim.lr_scheduler.StepLR(ADAM(p), 1, 0.5))
    optimizer.prepare(parameters)
    before = optimizer.settings()
    assert before.items() >= {"lr": 0.1, "scheduler": "StepLR"}.items()
    assert before["scheduler_args"].items() >= {"step_size": 1, "gamma": 0.5}.items()
    parameters["w"].unconstrained.grad = torch.ones(3)
    optimizer.step(parameters)
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert optimizer.settings() == before
    late = {"v": Parameter(torch.ones(3, requires_grad=True), torch.distributions.constraints.real)}
    with pytest.raises(ValueError, match=r"all there in the first step, for a torch scheduler, got \['v'\] later"):
        optimizer.step(parameters | late)
    with pytest.raises(TypeError, match="goes by the steps, got ReduceLROnPlateau"):
        as_optimizer(torch.optim.lr_scheduler.ReduceLROnPlateau(ADAM([torch.ones(1, requires_grad=True)])))


@pytest.mark.parametrize("fused", [True, False])
def test_a_factor_holds_for_one_step(fused):
    weight = torch.ones(3, requires_grad=True)
    optimizer = as_optimizer(functools.partial(torch.optim.Adam, lr=0.1, fused=fused))
    parameters = {"w": Parameter(weight, torch.distributions.constraints.real)}
    moves = []
    for factor in (1.0, 0.5, 1.0):
        before, weight.grad = weight.detach().clone(), torch.ones(3)
        optimizer.step(parameters, factor)
        moves.append((before - weight.detach())[0].item())
    assert moves == pytest.approx([0.1, 0.05, 0.1], rel=1e-5)  # Adam's step under a constant gradient is its rate
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_pyro_optimizer_has_no_factor():
    vae, x = bernoulli_vae()
    learner = AEVB(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}))
    with pytest.raises(TypeError, match="expected a torch optimizer to set a learning rate on, got a Pyro one"):
        learner.step_on(Minibatch((x,)), StepSettings(learning_rate_factor=0.5))


def test_the_numbers_are_those_of_the_update():
    parameters = {"w": Parameter(torch.ones(3, requires_grad=True), torch.distributions.constraints.real)}
    settings = []
    for fused in (True, False):
        optimizer = as_optimizer(functools.partial(torch.optim.AdamW, lr=0.1, weight_decay=0.3, fused=fused))
        optimizer.prepare(parameters)
        settings.append(optimizer.settings())
    assert settings[0] == settings[1], "an implementation is no other run"
    assert settings[0].items() >= {"optimizer": "AdamW", "lr": 0.1, "weight_decay": 0.3, "betas": (0.9, 0.999)}.items()
    pyros = as_optimizer(SCHEDULERS["exponential"]()).settings()
    assert pyros.items() >= {"optimizer": "Adam", "optim_args": {"lr": 0.1}, "scheduler": "ExponentialLR"}.items()
    assert pyros["scheduler_args"] == {"gamma": 0.5}


@pytest.mark.parametrize("optimizer", [functools.partial(torch.optim.SGD, lr=0.1), pyro.optim.SGD({"lr": 0.1})])
def test_a_leaf_with_two_names_is_updated_once(optimizer):
    """A layer of decoder and encoder, each a ``pyro.module``: theta and phi both name its weight."""
    tied, prior, objective = torch.nn.Linear(1, 1, bias=False), dist.Normal(0.0, 1.0), Trace_ELBO()

    def model(x):
        pyro.module("decoder", torch.nn.Sequential(tied))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + tied(x)[:, 0], 1.0), obs=x[:, 0])

    def guide(x):
        pyro.module("encoder", torch.nn.Sequential(tied))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(tied(x)[:, 0], 1.0))

    x = torch.ones(4, 1)
    learner = AEVB(model, guide, optimizer, objective, theta_prior=prior)
    learner.prepare(x)
    pyro.set_rng_seed(0)
    loss = objective.differentiable_loss(model, guide, x) - prior.log_prob(tied.weight).sum()
    (gradient,) = torch.autograd.grad(loss, [tied.weight])
    expected = tied.weight.detach() - 0.1 * gradient
    pyro.set_rng_seed(0)
    learner.step(x)
    assert len(learner.theta | learner.phi) == 2
    torch.testing.assert_close(tied.weight.detach(), expected)


@pytest.mark.parametrize("wrap", [functools.partial, lambda cls, lr: getattr(pyro.optim, cls.__name__)({"lr": lr})])
@pytest.mark.parametrize("cls", [torch.optim.NAdam, torch.optim.Adam, torch.optim.ASGD, torch.optim.Rprop])
def test_a_state_keeps_the_precision_of_its_numbers(cls, wrap):
    """NAdam keeps a product in float32 beside a parameter in float64, to which torch casts it when it is loaded."""

    def begun():
        tensor = torch.ones(3, dtype=torch.float64, requires_grad=True)
        return {"a": Parameter(tensor, torch.distributions.constraints.real)}, as_optimizer(wrap(cls, lr=0.01))

    def steps(parameters, optimizer, numbers):
        for i in numbers:
            parameters["a"].unconstrained.grad = torch.tensor([1.0, -2.0, 0.1]).double() / (1 + i)
            optimizer.step(parameters)

    whole, again = begun(), begun()
    steps(*whole, range(6))
    again[0]["a"].unconstrained.data.copy_(whole[0]["a"].unconstrained)
    again[1].load_state_dict(whole[1].state_dict(whole[0]), again[0])
    for parameters, optimizer in (whole, again):
        steps(parameters, optimizer, range(6, 12))
    assert torch.equal(whole[0]["a"].unconstrained, again[0]["a"].unconstrained)


def slow_adam(parameters):
    torch.optim.Adam(parameters, lr=1e-3)  # and doesn't return it


@pytest.mark.parametrize(
    ("optim", "error", "match"),
    [
        (slow_adam, TypeError, "from the function that makes one, got None; return it"),
        (lambda parameters: torch.nn.Linear(2, 2), TypeError, "from the function that makes one, got Linear"),
        (lambda parameters: torch.optim.LBFGS(parameters), TypeError, "one gradient a step, got LBFGS"),
        (torch.optim.Adam(torch.nn.Linear(2, 2).parameters()), ValueError, "got one over others alone: nothing would"),
        (lambda _: torch.optim.Adam(torch.nn.Linear(2, 2).parameters()), ValueError, "got one over others alone"),
    ],
    ids=["no return", "a module", "lbfgs", "others'", "a factory of others'"],
)
def test_an_optimizer_that_would_train_nothing_is_refused_and_the_remedy_works(optim, error, match):
    vae = VAE(4, 2, hidden_dims=(3,))
    learner = AEVB(vae.model, vae.guide, optim)
    x = torch.ones(5, 4)
    for _ in range(2):
        with pytest.raises(error, match=match):
            learner.step(x)
    before = [value.clone() for value in vae.parameters()]
    AEVB(vae.model, vae.guide, functools.partial(torch.optim.Adam, lr=1e-3)).step(x)
    assert not any(map(torch.equal, before, vae.parameters()))


def test_lbfgs_is_refused_where_it_is_given():
    with pytest.raises(TypeError, match="one gradient a step, got LBFGS"):
        as_optimizer(torch.optim.LBFGS(torch.nn.Linear(2, 2).parameters()))
