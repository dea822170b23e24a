"""Dreams are draws from the model, and everything that depends on x follows them."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_aevb import ReweightedWakeSleep, WakeSleep, fit
from pyro_aevb.learners.dreams import Dreams

ADAM = functools.partial(torch.optim.Adam, lr=0.02)
LEARNERS = {
    "wake-sleep": lambda m, g, **kw: WakeSleep(m, g, ADAM, ADAM, **kw),
    "reweighted": lambda m, g, **kw: ReweightedWakeSleep(m, g, ADAM, ADAM, num_particles=3, insomnia=0.5, **kw),
}


def zero():
    return torch.zeros(()).double()


def feature_pair(feature=lambda x: 2 * x):
    """x = c z + noise, and a guide that reads a feature of x which comes as an argument."""

    def model(x, f):
        c = pyro.param("c", torch.tensor(0.7).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            pyro.sample("x", dist.Normal(c * z, 1.0), obs=x)

    def guide(x, f):
        k = pyro.param("k", torch.tensor(0.0).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(k * f, 0.7))

    x = torch.randn(2000).double() * 2**0.5
    return model, guide, x, feature(x)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("feature", [lambda x: 2 * x, torch.log1p, lambda x: (x > 0).double(), lambda x: x > 0])
def test_a_feature_of_x_has_to_be_made_anew(learner, feature):
    model, guide, x, _ = feature_pair()
    f = feature(x.abs() if feature is torch.log1p else x)
    sentence = r"got argument 1 .* which the guide reads and which may be made from x; pass dream_arguments=lambda"
    with pytest.raises(ValueError, match=sentence):
        LEARNERS[learner](model, guide).step(x, f)


def test_a_feature_that_follows_the_dream_teaches_the_posterior():
    """k = 0.25, c = 1 in closed form: x = z + noise, var x = 2, f = 2 x."""
    model, guide, x, f = feature_pair()
    learner = WakeSleep(model, guide, ADAM, ADAM, dream_arguments=lambda sites, x, f: (sites["x"], 2 * sites["x"]))
    fit(learner, (x, f), epochs=40, batch_size=200, schedule=lambda done: 1 - done, progress=False)
    assert abs(pyro.param("k").item() - 0.25) < 0.02
    assert abs(pyro.param("c").item() - 1.0) < 0.1


def test_masks_labels_and_lengths_that_the_model_reads_are_kept():
    x, m = torch.randn(50, 3).double(), torch.rand(50, 3) < 0.8

    def model(x, m):
        s = pyro.param("s", torch.tensor(1.0).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            for t in range(3):
                with poutine.mask(mask=m[:, t]):
                    pyro.sample(f"x{t}", dist.Normal(z, s), obs=x[:, t])

    def guide(x, m):
        k = pyro.param("k", torch.tensor(1.0).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x * m).sum(-1) / (1 + m.sum(-1)) * k, 0.5))

    dreams = Dreams(model, guide, (x, m))
    _, imagined = dreams.draw((x, m))
    assert imagined[1] is m
    assert imagined[0].shape == x.shape
    assert not torch.isclose(imagined[0], x).any()


@pytest.mark.parametrize("view", ["transposed", "reshaped", "sliced"])
def test_a_view_of_x_is_dreamed_back_into_its_place(view):
    """Each row of the dream lies near its own z, whatever way the model looks at x."""
    x = torch.randn(40, 6).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            if view == "transposed":
                with pyro.plate("members", 6):
                    pyro.sample("x", dist.Normal(z, 1e-3), obs=x.t())
            elif view == "reshaped":
                far = z[..., None, None].expand(*z.shape, 2, 3)
                pyro.sample("x", dist.Normal(far, 1e-3).to_event(2), obs=x.view(-1, 2, 3))
            else:
                pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 1e-3).to_event(1), obs=x[:, ::2])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(1), 1.0))

    dream, (imagined,) = Dreams(model, guide, (x,)).draw((x,))
    z = dream.nodes["z"]["value"]
    dreamed = imagined[:, ::2] if view == "sliced" else imagined
    assert (dreamed - z[:, None]).abs().max() < 0.01
    if view == "sliced":
        assert torch.equal(imagined[:, 1::2], x[:, 1::2])


def sequence_pair(steps):
    def model(x):
        w = pyro.param("w", torch.tensor([0.5, 0.5]).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            for t in range(steps):
                before = x[:, t - 1] if t else torch.zeros(len(x)).double()
                pyro.sample(f"x{t}", dist.Normal(w[0] * z + w[1] * before, 0.1), obs=x[:, t])

    def guide(x):
        k = pyro.param("k", torch.zeros(steps).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ k, 0.5))

    return model, guide


def test_teacher_forcing_dreams_step_by_step():
    """x_t = w0 z + w1 x_(t-1) + noise holds along the dream, and not between the dream and the data."""
    model, guide = sequence_pair(4)
    x = 10 + torch.randn(500, 4).double()
    dream, (imagined,) = Dreams(model, guide, (x,)).draw((x,))
    z = dream.nodes["z"]["value"]
    before = torch.cat([torch.zeros(500, 1).double(), imagined[:, :-1]], 1)
    residual = imagined - 0.5 * z[:, None] - 0.5 * before
    assert 0.09 < residual.std() < 0.11
    assert residual.abs().max() < 0.6


def test_teacher_forcing_within_one_site_is_refused():
    x = torch.randn(20, 4).double()

    def model(x):
        before = torch.nn.functional.pad(x, (1, 0))[:, :-1]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] + before, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(1), 1.0))

    with pytest.raises(ValueError, match="reads x within site 'x' to make it"):
        Dreams(model, guide, (x,))


def test_a_factor_cannot_be_dreamed():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            pyro.factor("likelihood", dist.Normal(z, 1.0).log_prob(x))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(ValueError, match=r"observations that can be dreamed, got pyro\.factor"):
        Dreams(model, guide, (torch.randn(5).double(),))


def test_arguments_that_do_not_hold_the_dream_are_noticed():
    model, guide, x, f = feature_pair()
    with pytest.raises(ValueError, match="expected the arguments of a dream to hold what was dreamed"):
        Dreams(model, guide, (x, f), dream_arguments=lambda sites, x, f: (x, f))
