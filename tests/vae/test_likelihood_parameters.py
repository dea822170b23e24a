"""Each likelihood's outputs are the parameters that its docstring names: means and variances in closed form.

D = 2 dimensions; the outputs of a dimension stand D apart.
"""

import math

import pytest
import torch

from pyro_aevb.vae.likelihoods import LIKELIHOODS

A, B, G = (torch.tensor(v).double() for v in ([0.3, -0.7], [0.9, 0.2], [-0.4, 1.1]))
SOFT_A, SOFT_B = ((1 + v.exp()).log() + 1e-4 for v in (A, B))
P, GATE = 1 / (1 + (-A).exp()), 1 / (1 + (-G).exp())
NB_VARIANCE = A.exp() + (2 * A - B).exp()


def inflated(mean, variance):
    """Return the moments of what is 0 with probability GATE."""
    return (1 - GATE) * mean, (1 - GATE) * (variance + GATE * mean**2)


MOMENTS = {  # name -> outputs, mean, variance
    "bernoulli": ([A], P, P * (1 - P)),
    "beta": ([A, B], SOFT_A / (SOFT_A + SOFT_B), SOFT_A * SOFT_B / ((SOFT_A + SOFT_B) ** 2 * (SOFT_A + SOFT_B + 1))),
    "continuous-bernoulli": ([A], P / (2 * P - 1) + 1 / torch.log((1 - P) / P), None),  # Loaiza-Ganem & Cunningham
    "gaussian": ([A, B], A, B.exp()),
    "sigmoid-gaussian": ([A, B], P, B.exp()),
    "fixed-gaussian": ([A], A, torch.ones(2).double()),
    "shared-gaussian": ([A], A, torch.ones(2).double()),
    "laplace": ([A, B], A, 2 * (2 * B).exp()),
    "student-t": ([A, B], A, 2 * (2 * B).exp()),  # df / (df - 2) = 2 with the default df = 4
    "poisson": ([A], A.exp(), A.exp()),
    "negative-binomial": ([A, B], A.exp(), NB_VARIANCE),
    "zero-inflated-poisson": ([G, A], *inflated(A.exp(), A.exp())),
    "zero-inflated-negative-binomial": ([G, A, B], *inflated(A.exp(), NB_VARIANCE)),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_parameters_mean_what_they_say(name):
    outputs, mean, variance = MOMENTS[name]
    likelihood = LIKELIHOODS[name]()
    assert likelihood.outputs_per_dim == len(outputs)
    p = likelihood(torch.cat(outputs)[None])
    assert (p.batch_shape, p.event_shape) == ((1,), (2,))
    torch.testing.assert_close(p.mean[0].double(), mean)
    if variance is not None:
        torch.testing.assert_close(p.variance[0].double(), variance)


def test_levels_mean_what_they_say():
    """A softmax over the levels; logistic components around the middle of the range, in halves of it."""
    categorical = LIKELIHOODS["categorical"]()
    logits = torch.randn(256, 2).double()
    log_prob = categorical(logits.flatten()[None]).base_dist.log_prob(torch.tensor([[3.0, 200.0]]))
    expected = logits.log_softmax(0)
    torch.testing.assert_close(log_prob[0], torch.stack([expected[3, 0], expected[200, 1]]))
    mixture = LIKELIHOODS["discretized-logistic"]()
    logits, centre = torch.zeros(5, 2).double(), torch.tensor([-0.5, 0.25]).double().expand(5, 2)
    outputs = torch.cat([logits, centre, torch.full((5, 2), math.log(0.02)).double()])
    p = mixture(outputs.flatten()[None])
    torch.testing.assert_close(p.mean[0], 127.5 * (1 + centre[0]), rtol=1e-6, atol=1e-6)
    # A logistic's variance, and that of rounding to whole levels.
    expected = torch.full((2,), (127.5 * 0.02 * math.pi) ** 2 / 3 + 1 / 12).double()
    torch.testing.assert_close(p.variance[0], expected, rtol=1e-3, atol=0)


def test_every_likelihood_has_its_moments_here():
    assert set(MOMENTS) | {"categorical", "discretized-logistic"} == set(LIKELIHOODS)
