"""Each Gaussian posterior's outputs are the parameters that its docstring names: means and covariances."""

import torch

from pyro_aevb.vae.posteriors import POSTERIORS

A, B = (torch.tensor(v).double() for v in ([0.3, -0.7], [0.9, 0.2]))


def made(name, *outputs):
    posterior = POSTERIORS[name]()
    posterior.setup(2)
    outputs = torch.cat(outputs)[None]
    assert posterior.num_outputs == outputs.shape[1]
    return posterior(outputs)


def test_a_diagonal_gaussian_is_a_mean_and_the_logarithm_of_a_variance():
    q = made("normal", A, B)
    torch.testing.assert_close(q.mean[0], A)
    torch.testing.assert_close(q.variance[0], B.exp())


def test_a_full_gaussian_is_a_mean_and_a_triangular_factor():
    q = made("full", A, B, torch.tensor([0.5]).double())
    factor = torch.tensor([[0.0, 0.0], [0.5, 0.0]]).double() + torch.diag(B.exp())
    torch.testing.assert_close(q.mean[0], A)
    torch.testing.assert_close(q.covariance_matrix[0], factor @ factor.T)


def test_a_low_rank_gaussian_is_a_mean_a_diagonal_and_columns():
    W = torch.tensor([[0.5, -0.2], [1.0, 0.4]]).double()
    q = made("low-rank", A, B, W.flatten())
    torch.testing.assert_close(q.mean[0], A)
    torch.testing.assert_close(q.covariance_matrix[0], W @ W.T + torch.diag(B.exp()))
