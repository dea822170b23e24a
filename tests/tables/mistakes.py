"""Pairs that break the contract, one mistake each: name -> (model, guide, args, what the sentence says)."""

import pyro
import pyro.distributions as dist
import torch

N = 12


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def zero():
    return torch.zeros(()).double()


def plain_guide(x, *rest):
    k = pyro.param("k", torch.tensor(0.5).double())
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(k * x.reshape(len(x), -1)[:, 0], 0.7))


def column_labels():
    f, y = data(N, 3), (data(N, 1) > 0).double()

    def model(f, y):
        w = pyro.param("w", torch.ones(3).double())
        with pyro.plate("data", len(f)):
            b = pyro.sample("b", dist.Normal(zero(), 1.0))
            pyro.sample("y", dist.Bernoulli(logits=f @ w + b), obs=y)

    def guide(f, y):
        v = pyro.param("v", torch.zeros(3).double())
        with pyro.plate("data", len(f)):
            pyro.sample("b", dist.Normal(f @ v, 1.0))

    return model, guide, (f, y), r"site 'y' of the model .* shape of its plates, \(12,\), got \(12, 12\)"


def forgotten_to_event():
    """As many columns as datapoints: Pyro's plate takes the columns for datapoints."""
    x = data(N, N)

    def model(x):
        s = pyro.param("s", torch.tensor(1.0).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            pyro.sample("x", dist.Normal(z, s), obs=x)

    return model, plain_guide, (x,), r"site 'x' of the model .* got \(12, 12\).*to_event"


def a_batch_of_images_without_to_event():
    x = data(N, 1, 4, 3)

    def model(x):
        s = pyro.param("s", torch.tensor(1.0).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            pyro.sample(
                "x", dist.Normal(z[..., None, None, None] + torch.zeros(1, 4, 3).double(), s).to_event(1), obs=x
            )

    return model, plain_guide, (x,), r"to_event"


def no_plate():
    x = data(N, 3)

    def model(x):
        s = pyro.param("s", torch.tensor(1.0).double())
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[:, None], s).expand([len(x), 3]).to_event(2), obs=x)

    def guide(x):
        k = pyro.param("k", torch.tensor(0.5).double())
        pyro.sample("z", dist.Normal(k * x[:, 0], 0.7).to_event(1))

    return model, guide, (x,), r"site 'x' in the data plate, got it outside any; write `with pyro.plate"


def a_loop_over_the_plate():
    x = data(N)

    def model(x):
        s = pyro.param("s", torch.tensor(1.0).double())
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z{i}", dist.Normal(zero(), 1.0))
            pyro.sample(f"x{i}", dist.Normal(z, s), obs=x[i])

    def guide(x):
        k = pyro.param("k", torch.tensor(0.5).double())
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z{i}", dist.Normal(k * x[i], 0.7))

    return model, guide, (x,), r"one vectorized data plate, got site 'x0' in a loop over the plate 'data'"


def time_first():
    x = data(5, N)  # time, datapoints

    def model(x):
        s = pyro.param("s", torch.tensor(1.0).double())
        with pyro.plate("data", x.shape[1]):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            pyro.sample("x", dist.Normal(z[..., None], s).expand([x.shape[1], 5]).to_event(1), obs=x.t())

    def guide(x):
        k = pyro.param("k", torch.tensor(0.5).double())
        with pyro.plate("data", x.shape[1]):
            pyro.sample("z", dist.Normal(k * x[0], 0.7))

    return model, guide, (x,), r"site 'x' in a plate of 5 datapoints, as x has, got 'data' of 12 at dim=-1"


def n_in_the_model_alone():
    x = data(N)

    def model(x):
        s = pyro.param("s", torch.tensor(1.0).double())
        with pyro.plate("data", 100, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            pyro.sample("x", dist.Normal(z, s), obs=x)

    return model, plain_guide, (x,), r"one N in model and guide, got 100 in the model's plate 'data' and 12"


def a_latent_that_the_guide_lacks():
    x = data(N)

    def model(x):
        s = pyro.param("s", torch.tensor(1.0).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            y = pyro.sample("y", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(y, s), obs=x)

    return model, plain_guide, (x,), r"a guide that samples every latent of the model, got none for \['y'\]"


def a_site_that_the_model_lacks():
    x = data(N)

    def model(x):
        s = pyro.param("s", torch.tensor(1.0).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            pyro.sample("x", dist.Normal(z, s), obs=x)

    def guide(x):
        plain_guide(x)
        with pyro.plate("more", len(x)):
            pyro.sample("u", dist.Normal(x, 1.0))

    return model, guide, (x,), r"a guide whose sites are latents of the model, got \['u'\] besides"


def grey_pixels():
    x = torch.full((N, 3), 0.5).double()

    def model(x):
        s = pyro.param("s", torch.tensor(1.0).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero(), 1.0))
            pyro.sample("x", dist.Bernoulli(logits=(s * z)[..., None].expand(*z.shape, 3)).to_event(1), obs=x)

    return model, plain_guide, (x,), r"data inside the support of site 'x'.*grey pixels are made binary"


def nothing_observed():
    x = data(N)

    def model(x):
        s = pyro.param("s", torch.tensor(1.0).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(zero(), s))

    return model, plain_guide, (x,), r"a model that observes data, got no observed site"


MISTAKES = {
    f.__name__: f
    for f in (
        column_labels, forgotten_to_event, a_batch_of_images_without_to_event, no_plate, a_loop_over_the_plate,
        time_first, n_in_the_model_alone, a_latent_that_the_guide_lacks, a_site_that_the_model_lacks, grey_pixels,
        nothing_observed,
    )
}  # fmt: skip
