"""One model written in many ways, each with its exact posterior as guide: name -> (model, guide, args, log p(x)).

z ~ N(0, 1), the columns of x ~ N(z, 1): with D columns that count, the posterior is N(sum x / (1 + D), 1 / (1 + D)).
With that guide every weight is p(x), so that every estimate and every bound is exact, without noise.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch.distributions import MultivariateNormal

N, D = 7, 3


def data(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def standard():
    return dist.Normal(torch.zeros(()).double(), 1.0)


def log_p(x):
    """Of rows (N, D)."""
    d = x.shape[1]
    return MultivariateNormal(torch.zeros(d).double(), torch.eye(d).double() + 1).log_prob(x)


def posterior(x):
    return dist.Normal(x.sum(1) / (1 + x.shape[1]), 1 / math.sqrt(1 + x.shape[1]))


def likelihood(z, d=D):
    return dist.Normal(z[..., None].expand(*z.shape, d), 1.0).to_event(1)


def plain():
    x = data(N, D)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", likelihood(pyro.sample("z", standard())), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    return model, guide, (x,), log_p(x)


def plate_without_size():
    x = data(N, D)

    def model(x):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x):
        with pyro.plate("data"):
            pyro.sample("z", posterior(x))

    return model, guide, (x,), log_p(x)


def data_plate_on_the_left():
    x = data(N, D)

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", standard())
            with pyro.plate("members", D, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        q = posterior(x)
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(q.loc[:, None], q.scale[:, None]))

    return model, guide, (x,), log_p(x)


def as_many_members_as_datapoints():
    """Both plates have N entries: the latent is in the data plate alone."""
    x = data(N, N)

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", standard())
            with pyro.plate("members", N, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        q = posterior(x)
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(q.loc[:, None], q.scale[:, None]))

    return model, guide, (x,), log_p(x)


def inner_plate_on_the_left():
    x = data(N, D)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard())
            with pyro.plate("members", D):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.t())

    return model, plain()[1], (x,), log_p(x)


def deterministic_sites():
    x = data(N, D)

    def model(x):
        pyro.deterministic("precision", torch.tensor(1.0).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard())
            pyro.deterministic("twice", 2 * z)
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x):
        q = posterior(x)
        pyro.deterministic("mean", q.loc.mean())
        with pyro.plate("data", len(x)):
            pyro.deterministic("loc", q.loc)
            pyro.sample("z", q)

    return model, guide, (x,), log_p(x)


def factor_in_the_guide():
    x = data(N, D)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))
            pyro.factor("penalty", -5.0 * torch.ones(len(x)).double(), has_rsample=False)

    return plain()[0], guide, (x,), log_p(x)


def observed_in_the_guide():
    x = data(N, D)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("t", dist.Normal(torch.zeros(len(x)).double(), 2.0), obs=x[:, 0])
            pyro.sample("z", posterior(x))

    return plain()[0], guide, (x,), log_p(x)


def auxiliary_by_product():
    x = data(N, D)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(torch.zeros(len(x)).double(), 3.0), infer={"is_auxiliary": True})
            pyro.sample("z", posterior(x))

    return plain()[0], guide, (x,), log_p(x)


def auxiliary_that_becomes_the_latent():
    """As Pyro's autoguides write it: z = u / 2, a Delta with the density of that map."""
    x = data(N, D)

    def guide(x):
        q = posterior(x)
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(2 * q.loc, 2 * q.scale), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u / 2, log_density=math.log(2.0)))

    return plain()[0], guide, (x,), log_p(x)


def with_global(x):
    s = pyro.sample("s", dist.Normal(torch.zeros(()).double(), 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", standard())
        pyro.sample("x", likelihood(s + z), obs=x)


def guide_with_global(x):
    pyro.sample("s", dist.Normal(torch.tensor(0.4).double(), 0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", posterior(x - 0.5))


HALF = {"s": torch.tensor(0.5).double()}


def global_latent_conditioned_in_the_model():
    x = data(N, D)
    return pyro.condition(with_global, HALF), guide_with_global, (x,), log_p(x - 0.5)


def global_latent_conditioned_in_both():
    x = data(N, D)
    return pyro.condition(with_global, HALF), pyro.condition(guide_with_global, HALF), (x,), log_p(x - 0.5)


def global_latent_conditioned_and_not_in_the_guide():
    x = data(N, D)
    return pyro.condition(with_global, HALF), poutine.block(guide_with_global, hide=["s"]), (x,), log_p(x - 0.5)


def padded(in_model, in_guide):
    """z2 and its observation exist where m holds."""
    x, m = data(N, 2), torch.tensor([True, False, True, True, False, True, True])

    def masked(here, m):
        return poutine.mask(mask=m) if here else poutine.mask(mask=True)

    def model(x, m):
        with pyro.plate("data", len(x)):
            pyro.sample("x1", dist.Normal(pyro.sample("z1", standard()), 1.0), obs=x[:, 0])
            with masked(in_model, m):
                z2 = pyro.sample("z2", standard())
            with poutine.mask(mask=m):
                pyro.sample("x2", dist.Normal(z2, 1.0), obs=x[:, 1])

    def guide(x, m):
        with pyro.plate("data", len(x)):
            pyro.sample("z1", posterior(x[:, :1]))
            with masked(in_guide, m):
                pyro.sample("z2", posterior(x[:, 1:]))

    return model, guide, (x, m), log_p(x[:, :1]) + torch.where(m, log_p(x[:, 1:]), 0.0)


def padding_masked_in_both():
    return padded(True, True)


def padding_masked_in_the_model():
    return padded(True, False)


def padding_masked_in_the_guide():
    return padded(False, True)


def obs_mask():
    """Pyro's own: what is not observed becomes a latent."""
    x, m = data(N, 1)[:, 0], torch.tensor([True, False, True, True, False, True, True])

    def model(x, m):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=m)

    def guide(x, m):
        with pyro.plate("data", len(x)):
            q = posterior(x[:, None])
            z = pyro.sample("z", dist.Normal(torch.where(m, q.loc, 0.0), torch.where(m, q.scale, 1.0)))
            with poutine.mask(mask=~m):
                pyro.sample("x_unobserved", dist.Normal(z, 1.0))

    return model, guide, (x, m), torch.where(m, log_p(x[:, None]), 0.0)


def constant(value):
    return lambda x: value


def scaled(model_scale, guide_scale):
    x = data(N, D)

    def model(x):
        with pyro.plate("data", 70, subsample_size=len(x)), poutine.scale(scale=model_scale(x)):
            pyro.sample("x", likelihood(pyro.sample("z", standard())), obs=x)

    def guide(x):
        with pyro.plate("data", 70, subsample_size=len(x)), poutine.scale(scale=guide_scale(x)):
            pyro.sample("z", posterior(x))

    return model, guide, (x,), log_p(x)


def one_scale_around_everything():
    return scaled(constant(0.01), constant(0.01))


def one_scale_as_a_tensor():
    return scaled(lambda x: torch.tensor(0.5).double(), lambda x: torch.tensor(0.5).double())


def a_weight_for_each_datapoint():
    return scaled(lambda x: 0.5 + (x[:, 0] > 0), lambda x: 0.5 + (x[:, 0] > 0))


FORMS = {
    f.__name__: f
    for f in (
        plain, plate_without_size, data_plate_on_the_left, as_many_members_as_datapoints, inner_plate_on_the_left,
        deterministic_sites, factor_in_the_guide, observed_in_the_guide, auxiliary_by_product,
        auxiliary_that_becomes_the_latent, global_latent_conditioned_in_the_model, global_latent_conditioned_in_both,
        global_latent_conditioned_and_not_in_the_guide, padding_masked_in_both, padding_masked_in_the_model,
        padding_masked_in_the_guide, obs_mask, one_scale_around_everything, one_scale_as_a_tensor,
        a_weight_for_each_datapoint,
    )
}  # fmt: skip
OUTER_SCALE = {"one_scale_around_everything": 0.01 * 10, "one_scale_as_a_tensor": 0.5 * 10}
