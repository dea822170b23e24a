"""What most Pyro users write: automatic guides, enumerated and one-hot latents, sequences.

Each case is ``make() -> (model, guide, objective, batches)``; a batch is what model and guide take.  Tensors have the
default dtype.
"""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, autoguide, config_enumerate
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from pyro.ops.indexing import Vindex
from pyro.poutine.guide import GuideMessenger
from torch import nn

N, T = 12, 3
USUAL = {}


def usual(make):
    USUAL[make.__name__.replace("_", " ")] = make
    return make


def rows(*shape):
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(0))


def data(*batches):
    return batches or [(rows(3),)]


def enumerated():
    return TraceEnum_ELBO(max_plate_nesting=1)


# -- Automatic guides --------------------------------------------------------------------------------------------------


def hierarchical(x):
    """A scale that all datapoints share, a latent for each of them."""
    w = pyro.param("w", torch.full((3,), 0.7))
    scale = pyro.sample("scale", dist.LogNormal(torch.tensor(0.0), 0.5))
    with pyro.plate("data", N, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., :1] * w, scale).to_event(1), obs=x)


AUTOGUIDES = {
    "AutoNormal": {},
    "AutoDiagonalNormal": {},
    "AutoMultivariateNormal": {},
    "AutoLowRankMultivariateNormal": {},
    "AutoDelta": {},
    "AutoIAFNormal": {"hidden_dim": [30]},
    "AutoLaplaceApproximation": {},
    "AutoStructured": {"conditionals": "normal", "dependencies": "linear"},
    "AutoNormalMessenger": {},
    "AutoHierarchicalNormalMessenger": {},
}


def automatic(name, options):
    def make():
        return hierarchical, getattr(autoguide, name)(hierarchical, **options), Trace_ELBO(), data()

    return make


USUAL |= {name: automatic(name, options) for name, options in AUTOGUIDES.items()}


def by_place(x, places):
    w = pyro.param("w", torch.full((3,), 0.7))
    with pyro.plate("data", N, subsample=places):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z[..., None] * w, 1.0).to_event(1), obs=x)


@usual
def AutoNormal_with_minibatches():
    guide = autoguide.AutoNormal(by_place, create_plates=lambda x, places: pyro.plate("data", N, subsample=places))
    places = [torch.tensor([i % N, (i + 3) % N, (i + 5) % N]) for i in range(5)]
    return by_place, guide, Trace_ELBO(), data(*((rows(3)[each], each) for each in places))


@usual
def a_GuideMessenger_of_ones_own():
    class Guide(GuideMessenger):
        def get_posterior(self, name, prior):
            loc = pyro.param(f"loc_{name}", lambda: torch.zeros(prior.shape()))
            if name == "scale":
                return dist.LogNormal(loc, 0.3)
            return dist.Normal(loc + self.upstream_value("scale"), 0.3).to_event(1)

    return hierarchical, Guide(hierarchical), Trace_ELBO(), data()


@usual
def AutoGuideList_with_an_enumerated_part():
    @config_enumerate
    def model(x):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2, 3), 3.0).to_event(2))
        with pyro.plate("data", N):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.4, 0.6])))
            pyro.sample("x", dist.Normal(loc[k], 1.0).to_event(1), obs=x)

    guide = autoguide.AutoGuideList(model)
    guide.append(autoguide.AutoDiagonalNormal(poutine.block(model, expose=["loc"])))
    guide.append(autoguide.AutoDiscreteParallel(poutine.block(model, expose=["k"])))
    return model, guide, enumerated(), data()


@usual
def AutoNormal_of_a_mixture():
    @config_enumerate
    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2, 3), 3.0).to_event(2))
        with pyro.plate("data", N):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[k], 1.0).to_event(1), obs=x)

    return model, autoguide.AutoNormal(poutine.block(model, hide=["k"])), enumerated(), data()


@usual
def AutoNormal_of_a_reparameterized_model():
    def centered(x):
        w = pyro.param("w", torch.full((3,), 0.7))
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(w[0], 1.0 + w[1] ** 2))
            pyro.sample("x", dist.Normal(z[..., None] * w, 1.0).to_event(1), obs=x)

    model = poutine.reparam(centered, config={"z": LocScaleReparam(0.0)})
    return model, autoguide.AutoNormal(model), TraceMeanField_ELBO(), data()


@usual
def AutoDiagonalNormal_of_a_Bayesian_network():
    """Its priors are made once, and validate samples from then on."""

    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](3, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))
            self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

        def forward(self, x, y):
            mean = self.linear(x).squeeze(-1)
            scale = pyro.sample("scale", dist.Uniform(0.0, 10.0))
            with pyro.plate("data", N, subsample_size=len(x)):
                pyro.sample("y", dist.Normal(mean, scale), obs=y)

    model = Regression()
    return model, autoguide.AutoDiagonalNormal(model), Trace_ELBO(), data((rows(3), rows(3)[:, 0]))


# -- Discrete latents --------------------------------------------------------------------------------------------------


def mixture(family, objective, infer=None, logits=lambda h: h, one_hot=lambda k: k, classes=2):
    """Return a mixture of normals, whose guide is of the same family."""

    def model(x):
        loc = pyro.param("loc", torch.arange(classes * 3.0).reshape(classes, 3) / 5)
        with pyro.plate("data", N, subsample_size=len(x)):
            k = one_hot(pyro.sample("k", family(torch.full((classes,), 1 / classes))))
            pyro.sample("x", dist.Normal(k.to(loc.dtype) @ loc, 1.0).to_event(1), obs=x)

    def guide(x):
        v = pyro.param("v", torch.full((3, classes), 0.1))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("k", family(logits=logits(x @ v)), infer={"enumerate": infer} if infer else {})

    return model, guide, objective, data()


def number(classes):
    return lambda k: F.one_hot(k, classes)


def but_the_last(h):
    """No datapoint has the last class: its probability is zero, and the logarithm of that is not finite."""
    return torch.cat([h[..., :-1], torch.full_like(h[..., -1:], -torch.inf)], -1)


USUAL |= {
    "OneHotCategorical": lambda: mixture(dist.OneHotCategorical, Trace_ELBO()),
    "OneHotCategorical, TraceGraph_ELBO": lambda: mixture(dist.OneHotCategorical, TraceGraph_ELBO()),
    "OneHotCategorical, enumerated": lambda: mixture(dist.OneHotCategorical, enumerated(), "parallel"),
    "OneHotCategorical, one after another": lambda: mixture(dist.OneHotCategorical, enumerated(), "sequential"),
    "OneHotCategorical, drawn": lambda: mixture(dist.OneHotCategorical, enumerated()),
    "Categorical, F.one_hot": lambda: mixture(dist.Categorical, Trace_ELBO(), one_hot=number(2)),
    "Categorical, F.one_hot, enumerated": lambda: mixture(
        dist.Categorical, enumerated(), "parallel", one_hot=number(2)
    ),
    "Categorical, a class without probability": lambda: mixture(
        dist.Categorical, enumerated(), "parallel", but_the_last, number(3), classes=3
    ),
    "straight through": lambda: mixture(dist.OneHotCategoricalStraightThrough, Trace_ELBO()),
}


@usual
def labels_as_F_one_hot():
    def model(x, y):
        w = pyro.param("w", torch.full((1, 4), 0.1))
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("y", dist.OneHotCategorical(logits=z @ w), obs=F.one_hot(y, num_classes=4).to(x.dtype))

    def guide(x, y):
        v = pyro.param("v", torch.full((3, 1), 0.1))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x @ v, 1.0).to_event(1))

    return model, guide, Trace_ELBO(), data((rows(3), torch.arange(N) % 4))


@usual
def a_semisupervised_VAE():
    classifier, encoder, decoder = nn.Linear(3, 2), nn.Linear(3, 4), nn.Linear(4, 3)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(torch.tensor([0.5, 0.5])))
            shape = torch.broadcast_shapes(z.shape, y.shape)
            both = torch.cat([z.expand(shape), y.expand(shape)], -1)
            pyro.sample("x", dist.Normal(decoder(both), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("classifier", classifier)
        pyro.module("encoder", encoder)
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("y", dist.OneHotCategorical(logits=classifier(x)))
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, config_enumerate(guide, "parallel"), enumerated(), data()


@usual
def enumerated_in_model_and_guide():
    def model(x):
        loc = pyro.param("loc", torch.arange(6.0).reshape(2, 3) / 5)
        with pyro.plate("data", N, subsample_size=len(x)):
            j = pyro.sample("j", dist.Bernoulli(torch.tensor(0.3)))
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(Vindex(loc)[k] + j[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        v = pyro.param("v", torch.full((3,), 0.1))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("j", dist.Bernoulli(logits=x @ v), infer={"enumerate": "parallel"})

    return model, guide, enumerated(), data()


# -- Sequences ---------------------------------------------------------------------------------------------------------


def lengths():
    return torch.tensor([3, 2, 1] * (N // 3))


def reversed_in_time(x, lengths):
    """Return each sequence backwards, with its padding at the end still."""
    t = torch.arange(T)
    index = (lengths[:, None] - 1 - t).clamp(min=0)
    return x.gather(1, index[..., None].expand_as(x)) * (t < lengths[:, None])[..., None]


@usual
def a_deep_Markov_model():
    """Pyro's ``dmm.py``: a recurrent network over the reversed sequence, masks by length."""
    network, combiner = nn.GRU(2, 4, batch_first=True), nn.Linear(5, 2)
    transition, emission = nn.Linear(1, 2), nn.Linear(1, 2)

    def model(x, lengths):
        pyro.module("transition", transition)
        pyro.module("emission", emission)
        z = pyro.param("z_0", torch.zeros(1)).expand(len(x), 1)
        with pyro.plate("data", N, subsample_size=len(x)):
            for t in pyro.markov(range(T)):
                loc, scale = transition(z).chunk(2, -1)
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t + 1}", dist.Normal(loc, F.softplus(scale)).to_event(1))
                    pyro.sample(f"x_{t + 1}", dist.Normal(emission(z), 1.0).to_event(1), obs=x[:, t])

    def guide(x, lengths):
        pyro.module("network", network)
        pyro.module("combiner", combiner)
        z = pyro.param("q_0", torch.zeros(1)).expand(len(x), 1)
        h = reversed_in_time(network(reversed_in_time(x, lengths))[0], lengths)
        with pyro.plate("data", N, subsample_size=len(x)):
            for t in pyro.markov(range(T)):
                loc, scale = combiner(torch.cat([z, h[:, t]], -1)).chunk(2, -1)
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t + 1}", dist.Normal(loc, F.softplus(scale)).to_event(1))

    return model, guide, Trace_ELBO(), data((rows(T, 2), lengths()))


@usual
def a_hidden_Markov_model():
    @config_enumerate
    def model(x, lengths):
        matrix = pyro.param("matrix", torch.tensor([[0.7, 0.3], [0.4, 0.6]]), constraint=dist.constraints.simplex)
        loc = pyro.param("loc", torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            k = 0
            for t in pyro.markov(range(T)):
                with poutine.mask(mask=t < lengths):
                    k = pyro.sample(f"k_{t}", dist.Categorical(matrix[k]))
                    pyro.sample(f"x_{t}", dist.Normal(Vindex(loc)[k] + z[..., None], 1.0).to_event(1), obs=x[:, t])

    def guide(x, lengths):
        v = pyro.param("v", torch.full((2,), 0.1))
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] @ v, 1.0))

    return model, guide, enumerated(), data((rows(T, 2), lengths()))


# -- State that is set anew and is the same ----------------------------------------------------------------------------


class SetsAnew(nn.Module):
    """At each call its attributes are set to what they were: containers, a plate, a shape, a device."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.full((3,), 0.7))
        self.sizes = self.plate = self.shape = self.device = self.steps = self.names = None

    def plates(self, x):
        self.sizes = {"data": [N, {"rows": len(x)}], "fields": (1, [2.0])}
        self.plate = pyro.plate("data", N, subsample_size=len(x), dim=-1)
        self.shape, self.device, self.steps, self.names = x.shape, x.device, range(len(x)), {"x", "z"}
        return self.plate

    def model(self, x):
        pyro.module("net", self)
        with self.plates(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), self.sizes["fields"][0]))
            pyro.sample("x", dist.Normal(z[..., None] * self.w, 1.0).to_event(1), obs=x)

    def guide(self, x):
        v = pyro.param("v", torch.full((3,), 0.1))
        with self.plates(x):
            pyro.sample("z", dist.Normal(x @ v, 1.0))


@usual
def attributes_set_anew():
    net = SetsAnew()
    return net.model, net.guide, Trace_ELBO(), data()
