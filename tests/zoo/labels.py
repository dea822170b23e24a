"""Labels beside x: as a condition, as a latent where they are missing, summed out or drawn."""

import pyro
import pyro.distributions as dist
import torch
from torch.nn.functional import one_hot

from zoo.entry import CONTINUOUS_ONLY, Entry, Network, Pair, bits, data, normal, param, plate

Y = torch.arange(12) % 3


def _code(y):
    return one_hot(y, 3).double()


def _networks():
    return {"decoder": Network(5, 4)}, {"encoder": Network(7, 2, 2), "labels": Network(4, 3)}


def _register(parts):
    for name, part in parts.items():
        pyro.module(name, part)


def _draw_z(encoder, x, y):
    loc, log_scale = encoder(x, _code(y))
    pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def conditional():
    theta, phi = _networks()
    del phi["labels"]

    def model(x, y):
        _register(theta)
        with plate(x):
            z = pyro.sample("z", normal(2))
            pyro.sample("x", dist.Bernoulli(logits=theta["decoder"](z, _code(y))).to_event(1), obs=x)

    def guide(x, y):
        _register(phi)
        with plate(x):
            _draw_z(phi["encoder"], x, y)

    return Pair(model, guide, (bits(12, 4), Y))


def conditional_by_name():
    pair = conditional()
    return Pair(lambda x, *, y: pair.model(x, y), lambda x, *, y: pair.guide(x, y), (bits(12, 4),), {"y": Y})


def _m2():
    theta, phi = _networks()

    def model(x, y=None):
        _register(theta)
        with plate(x):
            prior = dist.Categorical(logits=param("prior", torch.zeros(3)))
            y = pyro.sample("y", prior, obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", normal(2))
            pyro.sample("x", dist.Bernoulli(logits=theta["decoder"](z, _code(y))).to_event(1), obs=x)

    return model, phi


def supervised():
    model, phi = _m2()
    del phi["labels"]

    def guide(x, y=None):
        _register(phi)
        with plate(x):
            _draw_z(phi["encoder"], x, y)

    return Pair(model, guide, (bits(12, 4), Y))


def unlabeled_summed_out():
    """z doesn't see y in the guide, so that y can be summed out in the model."""
    model, _ = _m2()
    encoder = Network(4, 2, 2)

    def guide(x, y=None):
        pyro.module("encoder", encoder)
        with plate(x):
            loc, log_scale = encoder(x)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Pair(model, guide, (bits(12, 4), None))


def unlabeled_drawn():
    """y drawn in the guide, not summed out."""
    model, phi = _m2()

    def plain_model(x):
        with pyro.poutine.infer_config(config_fn=lambda site: {"enumerate": None}):
            model(x)

    def guide(x):
        _register(phi)
        with plate(x):
            y = pyro.sample("y", dist.Categorical(logits=phi["labels"](x)))
            _draw_z(phi["encoder"], x, y)

    return Pair(plain_model, guide, (bits(12, 4),))


def unlabeled_summed_in_the_guide():
    """Pyro's own semi-supervised VAE: q(z|x, y) for each y, weighed by q(y|x)."""
    model, phi = _m2()

    def guide(x, y=None):
        _register(phi)
        with plate(x):
            y = pyro.sample("y", dist.Categorical(logits=phi["labels"](x)), infer={"enumerate": "parallel"})
            _draw_z(phi["encoder"], x, y)

    return Pair(model, guide, (bits(12, 4), None))


def with_a_classifier():
    """The labelled half of M2, and a classifier of the guide's in the model, weighed."""
    pair = supervised()
    classifier = Network(4, 3)

    def model(x, y=None):
        pair.model(x, y)
        pyro.module("classifier", classifier)
        with pyro.plate("labels", 12, subsample_size=len(x)), pyro.poutine.scale(scale=5.0):
            pyro.sample("y_aux", dist.Categorical(logits=classifier(x)), obs=y)

    return Pair(model, pair.guide, (bits(12, 4), Y))


def regression_with_a_latent():
    def model(x, y):
        w = param("w", torch.zeros(3))
        with plate(x):
            z = pyro.sample("z", normal())
            pyro.sample("y", dist.Normal(x @ w + z, 0.5), obs=y)

    def guide(x, y):
        a = param("a", 0.1)
        with plate(x):
            pyro.sample("z", dist.Normal(a * y, 0.7))

    return Pair(model, guide, (data(12, 3), data(12, seed=1)))


CLASSIFIED = {"wake-sleep": "expected the arguments of a dream to hold what was dreamed, got other values at site 'y'"}
ENTRIES = [
    Entry("cvae, y by position", conditional),
    Entry("cvae, y by name", conditional_by_name),
    Entry("ss-vae, labelled", supervised),
    Entry("ss-vae, y=None summed out in the model", unlabeled_summed_out, True),
    Entry("ss-vae, y drawn in the guide", unlabeled_drawn, senseless=CONTINUOUS_ONLY),
    Entry("ss-vae, y summed out in the guide", unlabeled_summed_in_the_guide, True),
    Entry("ss-vae, a classifier's loss", with_a_classifier, senseless=CLASSIFIED, scaled=True),
    Entry("regression with a latent each", regression_with_a_latent, dream=lambda sites, x, y: (x, sites["y"])),
]
