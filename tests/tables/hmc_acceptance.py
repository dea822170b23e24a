"""How often HMC accepts on a Gaussian, in closed form: one leapfrog step, one dimension.

With q ~ N(0, 1) and p ~ N(0, 1) a leapfrog step of size e is linear in (q, p), and the change of the energy is a
quadratic form u'Q u in u = (q, p).  As the step keeps volume and is reversible, E min(1, exp(-change)) is twice the
probability that the change is negative; with Q's eigenvalues a > 0 > b that is the part of the circle on which it is.
"""

import math

import torch


def acceptance(step_size):
    """Return E min(1, exp(H(start) - H(end))) after one leapfrog step of this size on N(0, 1), started from it."""
    e = step_size
    step = torch.tensor([[1 - e**2 / 2, e], [-e * (1 - e**2 / 4), 1 - e**2 / 2]]).double()
    low, high = torch.linalg.eigvalsh(step.T @ step - torch.eye(2).double()).tolist()
    return 4 / math.pi * math.atan(math.sqrt(max(-low, 0.0) / high)) if high > 1e-12 else 1.0


def jittered_acceptance(step_size):
    """Return the same with a step drawn uniformly between a fifth of `step_size` and the whole."""
    nodes = [0.2 + 0.8 * (i + 0.5) / 200 for i in range(200)]
    return sum(acceptance(step_size * node) for node in nodes) / len(nodes)
