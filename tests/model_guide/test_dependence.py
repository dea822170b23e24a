"""What is computed from what, however it is written: in place, traced, in NumPy, in masks, behind gates."""

import functools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from tables.statistics_tools import SIGMAS, assert_mean
from torch.distributions import kl_divergence

from pyro_aevb import SGVB, Blend, DReG, elbo, log_marginal_likelihood
from pyro_aevb.model_guide.dependence import ancestors, parents
from pyro_aevb.model_guide.moved_parameters import moved
from pyro_aevb.model_guide.structure import structure

NUM_DATA = 5
X = torch.linspace(-1.0, 2.0, NUM_DATA).double()


def zeros(*shape):
    return torch.zeros(shape).double()


def sum_in_place(z):
    return zeros(*z.shape).add_(z)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch has newer ways
    traced = torch.jit.trace(lambda z: z * 1.0, X)


def set_items(z):
    both = zeros(*z.shape, 2)
    both[..., 0], both[..., 1] = z, z
    return both.mean(-1)


def whole_numbers_in_place(z):
    table = torch.zeros(z.shape, dtype=torch.long)
    table[...] = (z > 0).long()
    return table.double()


class Own(torch.autograd.Function):
    @staticmethod
    def forward(context, z):
        return z * 1.0

    @staticmethod
    def backward(context, gradient):
        return gradient


SAME = {  # functions of z that are z, or its sign
    "itself": lambda z: z,
    "set items": set_items,
    "add_": sum_in_place,
    "copy_": lambda z: zeros(*z.shape).copy_(z),
    "through a view": lambda z: [h := zeros(*z.shape), h.view(-1).add_(z.reshape(-1))][0],
    "out": lambda z: torch.add(z, 0.0, out=zeros(*z.shape)),
    "a list in place": lambda z: [h := [zeros(*z.shape)], torch._foreach_add_(h, [z])][0][0],
    "scatter_": lambda z: zeros(*z.shape).scatter_(-1, torch.arange(NUM_DATA).expand(z.shape), z),
    "traced": traced,
    "mapped": lambda z: torch.vmap(lambda each: each * 1.0)(z),
    "function of one's own": Own.apply,
    "whole numbers in place": whole_numbers_in_place,
    "comparison": lambda z: (z > 0).double(),
    "numpy": lambda z: torch.as_tensor(z.numpy() * 1.0),
    "floats": lambda z: torch.tensor([float(each) for each in z.flatten()]).double().reshape(z.shape),
    "list": lambda z: torch.tensor(z.tolist()).double(),
    "branch": lambda z: zeros(*z.shape) + (1.0 if z.sum() > 0 else 0.0),
}


def chain(link):
    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros_like(x), 1.0))
            z2 = pyro.sample("z2", dist.Normal(link(z1), 1.0))
            pyro.sample("x", dist.Normal(z2, 1.0), obs=x)

    return model


def backwards(x):
    """The posterior of a chain that links z itself, drawn from its end."""
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(2 * x / 3, (2 / 3) ** 0.5))
        pyro.sample("z1", dist.Normal(z2 / 2, 0.5**0.5))


@pytest.mark.parametrize("link", SAME)
def test_what_a_latent_is_computed_from_is_seen_however_it_is_written(link):
    for seed in range(5):
        pyro.set_rng_seed(seed)
        assert parents(chain(SAME[link]), (X,)) == {"z1": set(), "z2": {"z1"}}


def test_ancestors_are_on_the_way():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros_like(x), 1.0))
            b = pyro.sample("b", dist.Normal(set_items(a), 1.0))
            pyro.sample("c", dist.Normal(sum_in_place(b), 1.0))
            pyro.sample("d", dist.Normal(torch.zeros_like(x), 1.0))

    assert parents(model, (X,)) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": set()}
    assert ancestors(model, (X,))["c"] == {"a", "b"}


LOOKS = {"float": float, "numpy": lambda z: z.numpy(), "branch": lambda z: bool(z > 100)}


@pytest.mark.parametrize("look", LOOKS)
def test_a_number_that_is_only_looked_at_makes_no_child(look):
    seen = []

    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros_like(x), 1.0))
            seen.append(LOOKS[look](z1.sum()))
            pyro.sample("z2", dist.Normal(x + torch.randn(()), 1.0))

    assert parents(model, (X,)) == {"z1": set(), "z2": set()}
    assert len(seen) > 3  # runs with other values of z1


def test_a_latent_whose_values_a_model_refuses_counts_as_one_of_which_the_rest_is_computed():
    def model(x):
        z = pyro.sample("z", dist.Delta(torch.zeros(())))
        if float(z) != 0:
            raise RuntimeError("expected 0")
        pyro.sample("y", dist.Normal(0.0, 1.0))

    assert parents(model, (X,)) == {"z": set(), "y": {"z"}}


@pytest.mark.parametrize("link", ["itself", "set items", "add_", "traced", "mapped", "numpy"])
@pytest.mark.parametrize("objective", [SGVB(kl="analytic"), Blend()], ids=lambda each: type(each).__name__)
def test_no_closed_form_stands_where_the_guides_order_makes_it_wrong(objective, link):
    with torch.no_grad():
        bound = objective.terms(chain(SAME[link]), backwards, torch.ones(20_000).double()).bound
    evidence = dist.Normal(zeros(), 3**0.5).log_prob(torch.ones(()).double())
    assert_mean(bound, evidence, resolution=0.06)


def test_a_site_outside_of_the_plate_that_is_computed_in_place_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        total = zeros(1)
        total[0] = z.sum()
        pyro.sample("y", dist.Normal(total[0], 0.1), obs=torch.tensor(3.0).double())

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    with pytest.raises(ValueError, match=r"outside of the data plate that don't depend.*got 'y', computed from 'z'"):
        log_marginal_likelihood(model, guide, X, num_particles=10, seed=0)


def test_a_chain_in_place_is_one_to_doubly_reparameterized_gradients():
    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros_like(x), 1.0))
            with poutine.scale(scale=0.3):
                z2 = pyro.sample("z2", dist.Normal(z1, 1.0))
            pyro.sample("x", dist.Normal(z1 + z2, 1.0), obs=x)

    def guide(x, link):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x / 3, 0.7))
            pyro.sample("z1", dist.Normal(link(z2), 0.7))

    for link in (SAME["itself"], sum_in_place):
        with pytest.raises(ValueError, match="one scale for latents that the guide draws from each other"):
            DReG(3).loss(model, functools.partial(guide, link=link), X)


# -- masks and scales that are computed from latents -------------------------------------------------------------------


def gated(x):
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(torch.zeros_like(x), 1.0))
        with poutine.mask(mask=z1 > 0):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Normal(z1 + z2, 1.0), obs=x)


def gated_guide(x):
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(x, 0.7))
        pyro.sample("z1", dist.Normal(2 * z2, 0.5))


def test_a_mask_and_a_scale_that_are_computed_from_a_latent_are_parts_of_what_depends_on_it():
    def scaled(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros_like(x), 1.0))
            with poutine.scale(scale=z1.exp()):
                pyro.sample("z2", dist.Normal(torch.zeros_like(x), 1.0))

    assert parents(gated, (X,))["z2"] == parents(scaled, (X,))["z2"] == {"z1"}
    assert structure(gated, gated_guide, (X,), analytic_kl=True).closed_form == {"z1"}


def test_the_bound_under_a_mask_that_is_computed_from_a_latent_is_the_one_by_hand():
    count = 400_000
    x = torch.ones(count).double()
    generator = torch.Generator().manual_seed(1)
    z2 = x + 0.7 * torch.randn(count, generator=generator).double()
    z1 = 2 * z2 + 0.5 * torch.randn(count, generator=generator).double()
    normal = torch.distributions.Normal(0.0, 1.0)
    rest = normal.log_prob(z1) - dist.Normal(2 * z2, 0.5).log_prob(z1) + dist.Normal(z1 + z2, 1.0).log_prob(x)
    difference = (z1 > 0) * (normal.log_prob(z2) - dist.Normal(x, 0.7).log_prob(z2))
    by_hand, error = (rest + difference).mean(), (rest + difference).std() / count**0.5
    wrong = (rest - (z1 > 0) * kl_divergence(dist.Normal(x, 0.7), normal)).mean()
    bound = SGVB(kl="analytic").terms(gated, gated_guide, x).bound
    assert SIGMAS * error * 2**0.5 < 0.11 < wrong - by_hand
    assert_mean(bound, by_hand, resolution=0.08)


# -- what is weighed with nought where training begins -----------------------------------------------------------------


class Gated(torch.nn.Module):
    """z + gate * f(z), as in ReZero (Bachlechner et al. 2020), with the gate closed and an f that mixes particles."""

    def __init__(self, f=lambda z: torch.softmax(3 * z, dim=1)):
        super().__init__()
        self.gate = torch.nn.Parameter(torch.tensor(0.0))
        self.register_buffer("count", torch.zeros(()))
        self.f = f

    def forward(self, z):
        return z + self.gate * self.f(z)

    def model(self, x):
        pyro.module("gated", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self(z), 1.0).to_event(1), obs=x)

    @staticmethod
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))


ROWS = torch.linspace(-1.0, 1.0, 15).reshape(5, 3)


def test_a_gate_that_begins_at_nought_hides_no_mixing_of_particles_and_the_remedy_works():
    net = Gated()
    with pytest.raises(ValueError, match=r"a pair that treats each particle by itself.*'x'.*vectorize=False"):
        elbo(net.model, net.guide, ROWS, num_particles=2, seed=0)
    options = {"num_particles": 200, "seed": 0, "vectorize": False}
    assert elbo(net.model, net.guide, ROWS, **options).mean().value < 0
    right = Gated(lambda z: torch.softmax(3 * z, dim=-1))
    with torch.no_grad():
        right.gate.fill_(1.0)
    both = [elbo(right.model, right.guide, ROWS, num_particles=500, seed=0, vectorize=v).mean() for v in (True, False)]
    assert abs(both[0].value - both[1].value) < 5 * (both[0].standard_error ** 2 + both[1].standard_error ** 2) ** 0.5


def test_a_pair_is_as_it_was_after_a_look_at_it_with_other_parameters():
    net = Gated(torch.tanh)
    scale = pyro.param("scale", torch.tensor(0.7), constraint=dist.constraints.positive).unconstrained()

    def model(x):
        pyro.param("scale")
        net.model(x)

    leaves = [net.gate, net.count, scale]
    before = [(leaf.data_ptr(), leaf._version, leaf.detach().clone()) for leaf in leaves]
    random_state = torch.get_rng_state()
    structure(model, net.guide, (ROWS,), analytic_kl=False, several=True)
    for leaf, (place, version, value) in zip(leaves, before, strict=True):
        assert (leaf.data_ptr(), leaf._version, leaf.grad) == (place, version, None)
        assert torch.equal(leaf, value)
    assert torch.equal(torch.get_rng_state(), random_state)


def raises(z):
    raise ArithmeticError("the gate is open")


def is_no_number(z):
    return z * (float("nan") if z.dim() > 2 else 1.0)


@pytest.mark.parametrize("f", [raises, is_no_number])
def test_other_parameters_that_a_pair_does_not_take_are_no_witness(f):
    net = Gated()
    net.forward = lambda z: z if net.gate == 0 else z + f(z)
    found = structure(net.model, net.guide, (ROWS,), analytic_kl=False, several=True)
    assert found.mixed is None


def test_parameters_are_put_back_where_the_look_is_broken_off():
    gate = torch.zeros((), requires_grad=True)
    place = gate.data_ptr()
    with pytest.raises(KeyboardInterrupt), moved([gate]):
        raise KeyboardInterrupt
    assert (gate.data_ptr(), gate.item()) == (place, 0.0)


def test_a_gate_that_begins_at_nought_hides_no_mixing_of_a_plates_entries():
    gate = torch.nn.Parameter(torch.tensor(0.0))

    def model(x, mixes):
        pyro.param("gate", gate)
        with pyro.plate("data", len(x), dim=-2), pyro.plate("parts", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            others = z.mean(-1, keepdim=True) if mixes else z
            pyro.sample("x", dist.Normal(z + gate * others, 1.0), obs=x)

    def guide(x, mixes):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("parts", 3, dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    for mixes, apart in ((False, {"z"}), (True, set())):
        pair = functools.partial(model, mixes=mixes), functools.partial(guide, mixes=mixes)
        assert structure(*pair, (ROWS,), analytic_kl=False, by_entry=True).apart == apart
