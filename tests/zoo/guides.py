"""Pyro's own guides over one model with global and local latents, flows, and effect messengers."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.easyguide import easy_guide
from pyro.distributions import transforms
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoNormal,
)
from pyro.infer.autoguide.effect import AutoNormalMessenger
from pyro.infer.reparam import LocScaleReparam
from torch import nn

from zoo.entry import WITH_GLOBALS, Entry, Pair, data, normal, param, plate, positive, zeros

X = data(12)


def _schools(x):
    """Eight schools: mean and spread are global, an effect each."""
    mean = pyro.sample("mean", dist.Normal(zeros(), 2.0))
    spread = pyro.sample("spread", dist.LogNormal(zeros(), 0.5))
    with plate(x):
        effect = pyro.sample("effect", dist.Normal(mean[..., None], spread[..., None]))
        pyro.sample("x", dist.Normal(effect, 0.5), obs=x)


def _globals(x):
    mean = pyro.sample("mean", dist.Normal(zeros(2), 2.0).to_event(1))
    with plate(x):
        pyro.sample("x", dist.Normal(mean.sum(-1)[..., None], 1.0), obs=x)


def over_globals(guide):
    return lambda: Pair(_globals, guide(_globals), (X,))


def subsampled_plates():
    """AutoNormal over locals too: the minibatch comes with its places in the data."""

    def model(x, index):
        mean = pyro.sample("mean", dist.Normal(zeros(), 2.0))
        with pyro.plate("data", 12, subsample=index):
            effect = pyro.sample("effect", dist.Normal(mean[..., None], 1.0))
            pyro.sample("x", dist.Normal(effect, 0.5), obs=x)

    guide = AutoNormal(model, create_plates=lambda x, index: pyro.plate("data", 12, subsample=index))
    return Pair(model, guide, (X, torch.arange(12)))


def in_a_list():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(zeros(), 2.0))
        spread = pyro.sample("spread", dist.LogNormal(zeros(), 0.5))
        with plate(x):
            pyro.sample("x", dist.Normal(mean[..., None], spread[..., None]), obs=x)

    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["mean"])))
    guide.append(AutoDelta(poutine.block(model, expose=["spread"])))
    return Pair(model, guide, (X,))


def schools_by_hand():
    def guide(x):
        pyro.sample("mean", dist.Normal(param("m", 0.0), positive("v", 0.5)))
        pyro.sample("spread", dist.LogNormal(param("ms", 0.0), positive("vs", 0.3)))
        k = param("k", 0.5)
        with plate(x):
            pyro.sample("effect", dist.Normal(k * x, 0.5))

    return Pair(_schools, guide, (X,))


def schools_reparameterized():
    model = poutine.reparam(_schools, {"effect": LocScaleReparam(0.0)})

    def guide(x):
        pyro.sample("mean", dist.Normal(param("m", 0.0), positive("v", 0.5)))
        pyro.sample("spread", dist.LogNormal(param("ms", 0.0), positive("vs", 0.3)))
        k = param("k", 0.5)
        with plate(x):
            pyro.sample("effect_decentered", dist.Normal(k * x, 0.5))

    return Pair(model, guide, (X,))


def easy():
    @easy_guide(_schools)
    def guide(self, x):
        self.map_estimate("spread")
        group = self.group(match="mean")
        group.sample("mean_aux", dist.Normal(param("m", torch.zeros(1)), positive("v", torch.ones(1))).to_event(1))
        k = param("k", 0.5)
        with self.plate("data", 12, subsample_size=len(x)):
            pyro.sample("effect", dist.Normal(k * x, 0.5))

    return Pair(_schools, guide, (X,))


def messenger():
    return Pair(_globals, AutoNormalMessenger(_globals), (X,))


def _two(x):
    with plate(x):
        z = pyro.sample("z", normal(2))
        pyro.sample("x", dist.Normal((z * param("w", torch.ones(2))).sum(-1), 0.5), obs=x)


def coupling_posterior():
    flow = transforms.affine_coupling(2, hidden_dims=[4]).double()

    def guide(x):
        pyro.module("flow", flow)
        k = param("k", 0.3 * torch.ones(2))
        with plate(x):
            base = dist.Normal(x[..., None] * k, 0.7 + zeros(2)).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    return Pair(_two, guide, (X,))


def planar_posterior():
    flow = transforms.Planar(2).double()

    def guide(x):
        pyro.module("flow", flow)
        k = param("k", 0.3 * torch.ones(2))
        with plate(x):
            base = dist.Normal(x[..., None] * k, 0.7 + zeros(2)).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    return Pair(_two, guide, (X,))


def spline_prior():
    flow = transforms.Spline(2, count_bins=4).double()
    net = nn.Linear(1, 2).double()

    def model(x):
        pyro.module("flow", flow)
        with plate(x):
            z = pyro.sample("z", dist.TransformedDistribution(normal(2), [flow]))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.5), obs=x)

    def guide(x):
        pyro.module("net", net)
        with plate(x):
            pyro.sample("z", dist.Normal(net(x[..., None]), 0.7).to_event(1))

    return Pair(model, guide, (X,))


MESSENGER = dict.fromkeys(("score", "reweighted"), "expected a guide that can be run by itself")
OWN_DRAWS = dict.fromkeys(("score", "wake-sleep", "reweighted"), "expected a density at any z")
ENTRIES = [
    Entry("globals, AutoDiagonalNormal", over_globals(AutoDiagonalNormal), senseless=WITH_GLOBALS),
    Entry(
        "globals, AutoLowRankMultivariateNormal", over_globals(AutoLowRankMultivariateNormal), senseless=WITH_GLOBALS
    ),
    Entry("globals, AutoDelta", over_globals(AutoDelta), senseless=WITH_GLOBALS),
    Entry("globals, AutoIAFNormal", over_globals(lambda m: AutoIAFNormal(m, hidden_dim=[4])), senseless=WITH_GLOBALS),
    Entry("locals, AutoNormal with create_plates", subsampled_plates, senseless=WITH_GLOBALS),
    Entry("globals, AutoGuideList", in_a_list, senseless=WITH_GLOBALS),
    Entry("schools, a guide by hand", schools_by_hand, senseless=WITH_GLOBALS),
    Entry("schools, LocScaleReparam", schools_reparameterized, senseless=WITH_GLOBALS),
    Entry("schools, easyguide", easy, senseless=WITH_GLOBALS),
    Entry("globals, AutoNormalMessenger", messenger, senseless=WITH_GLOBALS | MESSENGER),
    Entry("coupling posterior", coupling_posterior),
    Entry("planar posterior", planar_posterior, senseless=OWN_DRAWS),
    Entry("spline prior", spline_prior),
]
