"""Dreams are draws from the model, and everything that depends on x follows them."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_aevb import ReweightedWakeSleep, WakeSleep, elbo, fit
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


@pytest.mark.slow
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
    with pytest.raises(ValueError, match=r"expected the arguments of a dream to hold what was dreamed"):
        Dreams(model, guide, (x, f), dream_arguments=lambda sites, x, f: (x, f))


def test_a_latent_that_is_summed_out_is_drawn_in_a_dream():
    """The dream is the one of the model that draws it without a site; awake, it is summed out."""

    def model(x, site=True):
        with pyro.plate("data", len(x)):
            prior = dist.Categorical(torch.tensor([0.3, 0.7]).double())
            y = pyro.sample("y", prior, infer={"enumerate": "parallel"}) if site else prior.expand([len(x)]).sample()
            loc = torch.tensor([-1.0, 2.0]).double()[y] * pyro.param("a", torch.tensor(1.0).double())
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x, site=True):
        k = pyro.param("k", torch.tensor(0.5).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(k * x, 0.5))

    x = torch.randn(20).double()
    dreams = Dreams(model, guide, (x,))
    pyro.set_rng_seed(3)
    loss = dreams.loss(x)
    pyro.set_rng_seed(3)
    dream = poutine.trace(poutine.uncondition(functools.partial(model, site=False))).get_trace(x)
    log_q = poutine.trace(poutine.replay(guide, trace=dream)).get_trace(dream.nodes["x"]["value"]).log_prob_sum()
    torch.testing.assert_close(loss, -log_q, rtol=1e-12, atol=1e-12)
    expected = elbo(model, guide, x, seed=3).mean().value
    learner = WakeSleep(model, guide, ADAM, ADAM)
    learner.prepare(x)
    pyro.set_rng_seed(3)
    assert float(learner.step(x).elbo) == pytest.approx(expected, rel=1e-12)


def test_what_is_masked_off_needn_t_be_in_the_arguments_of_a_dream():
    """Sequences that end early: a dream has values after the end too, which its packed arguments leave out."""

    def model(x, lengths):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            for t in range(2):
                with poutine.mask(mask=t < lengths):
                    pyro.sample(f"x_{t}", dist.Normal(z, pyro.param("s", torch.tensor(1.0).double())), obs=x[:, t])

    def guide(x, lengths):
        k = pyro.param("k", torch.tensor(0.5).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(k * x.sum(1), 0.5))

    def imagine(sites, x, lengths):
        return torch.where(
            torch.arange(2) < lengths[:, None], torch.stack([sites["x_0"], sites["x_1"]], 1), 0.0
        ), lengths

    def too_short(sites, x, lengths):
        return imagine(sites, x, lengths.clamp(max=1))[0], lengths

    x, lengths = torch.randn(6, 2).double(), torch.tensor([1, 2, 2, 1, 2, 1])
    WakeSleep(model, guide, ADAM, ADAM, dream_arguments=imagine).step(x, lengths)
    with pytest.raises(ValueError, match=r"expected the arguments of a dream to hold what was dreamed, .* site 'x_1'"):
        WakeSleep(model, guide, ADAM, ADAM, dream_arguments=too_short).step(x, lengths)
