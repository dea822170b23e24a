"""Autoregressive maps by rational-quadratic splines: zuko's, as transforms of Pyro's distributions."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform


class AutoregressiveSpline(nn.Module):
    r"""y_i = s(x_i; x_{<i}, context), s a monotonic rational-quadratic spline on [-5, 5], and the identity elsewhere.

    Durkan et al. 2019, *Neural spline flows*.  y takes one pass of the network, and x of a y that it didn't make J.
    The maps are those of zuko, an optional package.  Called with a context it is a transform of (..., J).

    Args:
        dim: J.
        context_dim: numbers of the context; 0 for none.
        hidden_dim: units of the network's hidden layer.
        num_bins: pieces of a spline.

    Raises:
        ImportError: without zuko.

    >>> from pyro_aevb.distributions import AutoregressiveSpline
    >>> spline, x = AutoregressiveSpline(3, hidden_dim=16), torch.randn(5, 3)
    >>> bool((spline().inv(spline()(x).clone()) - x).abs().max() < 1e-3)
    True
    """

    def __init__(self, dim: int, context_dim: int = 0, hidden_dim: int = 64, num_bins: int = 8) -> None:
        super().__init__()
        zuko = _zuko()
        self._transform = functools.partial(zuko.transforms.AutoregressiveTransform, passes=dim, cache_size=1)
        self.network = zuko.flows.MaskedAutoregressiveTransform(
            dim,
            context_dim,
            univariate=zuko.transforms.MonotonicRQSTransform,
            shapes=[(num_bins,), (num_bins,), (num_bins - 1,)],
            hidden_features=(hidden_dim,),
        )
        self.dim = dim

    def forward(self, context: Tensor | None = None) -> Transform:
        """Return the map.

        Args:
            context: (..., context_dim).
        """
        if self.dim == 1:  # zuko has another module for it
            found: Transform = self.network(context)
            return found
        made: Transform = self._transform(functools.partial(self.network.meta, context))
        return made


def _zuko() -> Any:
    """Import zuko, which switches the validation of all distributions off, and switch it back to what it was."""
    before = Distribution._validate_args, Distribution.arg_constraints
    try:
        import zuko
    except ImportError as error:
        raise ImportError(
            "expected zuko for splines, got none; install it with: pip install 'pyro-aevb[zuko]', or take prior='flow' "
            "and posterior='iaf'"
        ) from error
    finally:
        Distribution._validate_args, Distribution.arg_constraints = before  # type: ignore[method-assign]  # a property
    return zuko
