"""Statistical comparisons with one named failure rate.

`SIGMAS` standard errors: with a fixed seed a test passes or fails for good; were the seeds new, a right estimator would
fail about once in 1.7 million comparisons.
"""

import torch

SIGMAS = 5.0
ROUNDING = 1e-12


def assert_mean(samples: torch.Tensor, expected: torch.Tensor | float, *, resolution: float) -> None:
    """Assert that samples (n, ...) have this mean within SIGMAS standard errors, and that these are below `resolution`.

    The second half keeps a vague test from passing: errors smaller than `resolution` must be told from none.
    """
    error = SIGMAS * samples.std(0) / len(samples) ** 0.5
    assert (error < resolution).all(), f"too few samples: {SIGMAS} standard errors are {error.max():.3g}"
    difference = (samples.mean(0) - expected).abs()
    assert (difference <= error + ROUNDING).all(), (
        f"off by {difference.max():.3g}, {SIGMAS} standard errors are {error.max():.3g}"
    )
