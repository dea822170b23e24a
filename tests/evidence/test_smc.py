"""Annealed sequential Monte Carlo: unbiased against closed forms, and a state-space model against the Kalman filter."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact_pairs import normal
from statistics_tools import SIGMAS, assert_mean

from pyro_aevb import SMC, log_marginal_likelihood


def estimate(model, guide, *args, method, **options):
    return log_marginal_likelihood(
        model, guide, *args, method=method, **({"seed": 0, "progress": False, "compile": False} | options)
    )


DRIFT, STEP, NOISE = 0.9, 0.5, 0.5  # z_t ~ N(0.9 z_{t-1}, 0.5^2), x_t ~ N(z_t, 0.5^2)


def state_space(x):
    with pyro.plate("data", len(x)):
        z = torch.zeros(len(x)).double()
        for t in range(x.shape[1]):
            z = pyro.sample(f"z_{t}", dist.Normal(DRIFT * z, STEP))
            pyro.sample(f"x_{t}", dist.Normal(z, NOISE), obs=x[:, t])


def pointwise(x):
    """A guide that sees one measurement at a time."""
    with pyro.plate("data", len(x)):
        for t in range(x.shape[1]):
            pyro.sample(f"z_{t}", dist.Normal(0.5 * x[:, t], 0.3))


def kalman(x):
    """log p(x) (M,) of sequences (M, T)."""
    mean, variance, total = torch.zeros(len(x)).double(), torch.zeros(()).double(), torch.zeros(len(x)).double()
    for t in range(x.shape[1]):
        mean, variance = DRIFT * mean, DRIFT**2 * variance + STEP**2
        predicted = variance + NOISE**2
        total = total + dist.Normal(mean, predicted.sqrt()).log_prob(x[:, t])
        gain = variance / predicted
        mean, variance = mean + gain * (x[:, t] - mean), (1 - gain) * variance
    return total


def sequences(num_data, length):
    """Draws from the state-space model, (M, T)."""
    noise, z, columns = normal(2, length, num_data), torch.zeros(num_data).double(), []
    for t in range(length):
        z = DRIFT * z + STEP * noise[0, t]
        columns.append(z + NOISE * noise[1, t])
    return torch.stack(columns, -1)


def test_the_kalman_filter_is_the_gaussian():
    x = sequences(3, 4)
    powers = DRIFT ** torch.arange(4).double()
    to_z = STEP * torch.stack([torch.cat([powers[: t + 1].flip(0), torch.zeros(3 - t).double()]) for t in range(4)])
    covariance = to_z @ to_z.T + NOISE**2 * torch.eye(4).double()
    exact = dist.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(x)
    torch.testing.assert_close(kalman(x), exact)


def test_a_short_state_space_model_against_the_kalman_filter():
    x = sequences(8, 3)
    found = estimate(state_space, pointwise, x, method=SMC(5, num_leapfrog=2, num_replicates=8), num_particles=8)
    assert found.direction == "lower"
    assert ((found.value - kalman(x)).abs() < SIGMAS * found.standard_error).all()
    assert found.standard_error.max() < 0.5


@pytest.mark.slow
def test_a_long_state_space_model_against_the_kalman_filter():
    """Fifty steps, where importance with the guide is off by many nats, and says so."""
    x = sequences(8, 50)
    truth = kalman(x)
    found = estimate(state_space, pointwise, x, method=SMC(15, num_leapfrog=5, start="guide"), compile="graph")
    assert ((found.value - truth).abs() < SIGMAS * found.standard_error).all()
    assert found.standard_error.max() < 0.8
    with pytest.warns(UserWarning, match="pareto_k is above 0.7 for 8 of 8 datapoints"):
        weighed = estimate(state_space, pointwise, x, method="importance")
    assert (weighed.value - truth).max() < -3.0


def measured(noise):
    """z ~ N(0, 1), x ~ N(z, noise^2)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, noise), obs=x)

    return model


@pytest.mark.filterwarnings("ignore:the effective sample size is below")
def test_unbiased_where_the_temperatures_are_few():
    """Of 2 and of 4 temperatures, with resampling in most replicates: the mean of the estimates of p(x) is p(x)."""
    x = torch.full((400,), 2.0).double()
    model, truth = measured(0.3), dist.Normal(0.0, math.sqrt(1.09)).log_prob(torch.tensor(2.0)).item()
    for temperatures in (2, 4):
        method = SMC(temperatures, num_leapfrog=2, num_replicates=4)
        found = estimate(model, None, x, method=method, num_particles=8, batch_size=400)
        assert_mean((found.value - truth).exp(), 1.0, resolution=0.3)


def test_the_error_is_that_of_replicates():
    """The spread of values over datapoints that are all alike, but for noise; with four replicates, Student's."""
    x = torch.full((500,), 1.0).double()
    model, truth = measured(1.0), dist.Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(1.0)).item()
    found = estimate(model, None, x, method=SMC(4, num_leapfrog=2, num_replicates=4), num_particles=8, batch_size=500)
    covered = ((found.value - truth).abs() < 1.96 * found.standard_error).double().mean().item()
    assert abs(covered - 0.95) < SIGMAS * math.sqrt(0.95 * 0.05 / 500)
    assert (found.effective_sample_size <= 4 + 1e-9).all()


def test_options_outside_their_range():
    with pytest.raises(ValueError, match="num_replicates of 1 or more, got 0"):
        SMC(num_replicates=0)
    with pytest.raises(ValueError, match="num_temperatures of 1 or more, got 0"):
        SMC(0)
    with pytest.raises(ValueError, match="start to be 'prior' or 'guide'"):
        SMC(start="posterior")
    with pytest.raises(ValueError, match="a guide to start from, got None; start from the prior"):
        estimate(state_space, None, sequences(2, 3), method=SMC(start="guide"))
