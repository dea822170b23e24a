"""p(y|x) of a discrete latent that is summed out, in the model or over the guide's values."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.guide_values import enumerated
from pyro_aevb.model_guide.log_density import log_density
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.traces import PyroCallable, number_of_datapoints, on_a_side
from pyro_aevb.one_thread import one_thread
from pyro_aevb.random_state import seeded


@one_thread
@torch.no_grad()
def discrete_posterior(
    model: PyroCallable,
    guide: PyroCallable,
    *args: Tensor,
    site: str,
    num_particles: int = 100,
    vectorize: bool = True,
) -> Tensor:
    r"""Return log p(y|x) for each value of a discrete latent that is marked for enumeration, in model or guide.

    With the other latents z from the guide, by importance sampling, the same draws for all values where only the model
    has y:

    .. math:: p(y|x) \simeq \frac{\sum_k w_k(y)}{\sum_{y'} \sum_k w_k(y')}, \quad
        w_k(y) = \frac{p(x, y, z_{yk})}{q(z_{yk}|x, y)}

    It is exact, whatever K, if nothing is drawn; as K grows it is p(y|x) whatever the guide.  With K=1, and y in the
    model alone, it is p(y|x, z) at a draw of z.  Other marked latents are summed out.  Pyro's ``infer_discrete`` draws
    y, or gives the most probable one, in a model that is conditioned on a draw of z.

    Args:
        model: p(x, y, z), called as ``model(*args)``.
        guide: q(z|x), or q(y|x) q(z|x, y), called likewise.
        args: the minibatch, datapoints first.
        site: the name of y, a latent in the data plate alone.
        num_particles: K.
        vectorize: whether all particles are drawn in one pass.

    Returns:
        (M, C), in nats, for the C values in the order of ``enumerate_support``: ``.argmax(-1)`` is the most probable
        one, ``dist.Categorical(logits=...)`` draws.

    Raises:
        ValueError: for a site that isn't enumerated, or not in the data plate alone.

    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         y = pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
    ...         pyro.sample("x", dist.Normal(2 * y, 1.0), obs=x)
    >>> discrete_posterior(model, lambda x: None, torch.tensor([1.0, 3.0]), site="y").exp()
    tensor([[0.5000, 0.5000],
            [0.0180, 0.9820]])
    """
    reading = read(model, guide, args)
    sizes = enumerated(reading, guide)
    options: dict[str, Any] = {"num_particles": num_particles, "vectorize": vectorize}
    if site in sizes:
        density = log_density(model, guide, *args, **options)
        weights = density.log_weight.reshape(density.log_share.shape) + density.log_share  # (V, K, M)
        weights = weights.reshape(*sizes.values(), *weights.shape[1:]).movedim(list(sizes).index(site), 0)
        log_joint = weights.flatten(1, -2).logsumexp(1)
    elif site in reading.summed:
        values = _values(model, site, args)
        seed = int(torch.randint(2**31, ()))
        log_joint = torch.stack([_given(model, guide, site, value, args, seed, options) for value in values])
    else:
        known = sorted({*sizes, *reading.summed})
        raise ValueError(
            f"expected a site out of {known}, which are summed out, got {site!r}; mark it in the model, infer="
            "{'enumerate': 'parallel'}, and leave it out of the guide, or mark it there"
        )
    return torch.log_softmax(log_joint, 0).T


def _values(model: PyroCallable, site: str, args: tuple[Any, ...]) -> Tensor:
    """Return the values of a latent of the model for each datapoint, (C, M, *event)."""
    with evaluated(model, None) as (its_model, _, _):
        node: Any = on_a_side(lambda: poutine.trace(its_model).get_trace(*args)).nodes[site]
    num_data, shape = number_of_datapoints(args), node["fn"].batch_shape
    if math.prod(shape) != num_data or num_data not in shape:
        raise ValueError(
            f"expected site {site!r} in the data plate alone, got it of shape {tuple(shape)} for {num_data} datapoints;"
            " use pyro.infer.infer_discrete, which draws all of its entries"
        )
    values: Tensor = node["fn"].enumerate_support(expand=True)
    return values


def _given(
    model: PyroCallable,
    guide: PyroCallable,
    site: str,
    value: Tensor,
    args: tuple[Any, ...],
    seed: int,
    options: dict[str, Any],
) -> Tensor:
    """Return log sum_k p(x, y, z_k) / q(z_k|x) at a value y of each datapoint, (M,), by the draws of a seed."""
    with seeded(seed):
        density = log_density(pyro.condition(model, data={site: value}), guide, *args, **options)
    return density.summed_log_weight.logsumexp(0)
