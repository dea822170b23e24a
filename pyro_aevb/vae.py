"""The variational auto-encoder of Kingma & Welling 2013, Section 3 and Appendix C, as a Pyro model and guide."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_aevb.likelihoods import LIKELIHOODS, Likelihood
from pyro_aevb.networks import INITIALIZATIONS, apply_network, mlp


class VAE(nn.Module):
    r"""p(z) = N(0, I), p(x|z) by a decoder network, q(z|x) = N(loc(x), diag(scale(x)^2)) by an encoder network.

    ``vae.model`` and ``vae.guide`` are ordinary Pyro functions of a minibatch x of shape (M, D); they work with
    ``pyro.infer.SVI``, ``Predictive`` and every handler.  Their sites are "z" and "x", in the plate "data".

    Args:
        x_dim: D, data dimensions.
        latent_dim: J, latent dimensions.
        hidden_dims: sizes of the tanh layers of the encoder; the decoder has them in reverse.
        likelihood: p(x|z): a name out of ``pyro_aevb.likelihoods.LIKELIHOODS``, an object like those of
            :mod:`pyro_aevb.likelihoods`, or a function from decoder outputs (..., D) to a Pyro distribution of D
            dimensions.
        init: ``"paper"`` (N(0, 0.01) for every weight) or ``"modern"`` (variance 1/fan-in).
        dataset_size: N of Eq. (8): a minibatch then counts N/M times.  Without it, once.

    Raises:
        ValueError: for sizes below 1, unknown names, and a likelihood whose distribution isn't one of D dimensions.

    >>> _ = torch.manual_seed(0)
    >>> vae = VAE(x_dim=784, latent_dim=20, dataset_size=60000)
    >>> vae.encode(torch.zeros(5, 784)).shape, vae.decode(torch.zeros(5, 20)).shape
    (torch.Size([5, 20]), torch.Size([5, 784]))
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int,
        *,
        hidden_dims: Sequence[int] = (500,),
        likelihood: str | Likelihood | Callable[[Tensor], dist.TorchDistribution] = "bernoulli",
        init: str = "modern",
        dataset_size: int | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("x_dim", x_dim), ("latent_dim", latent_dim), ("dataset_size", dataset_size)):
            if size is not None and size < 1:
                raise ValueError(f"expected {name} of 1 or more, got {size}")
        if not hidden_dims or min(hidden_dims) < 1:
            raise ValueError(f"expected one or more hidden layers of 1 or more units, got {tuple(hidden_dims)}")
        if isinstance(likelihood, str) and likelihood not in LIKELIHOODS:
            raise ValueError(f"expected a likelihood out of {sorted(LIKELIHOODS)} or an object, got {likelihood!r}")
        if isinstance(likelihood, type) or not isinstance(likelihood, str | Callable):
            raise TypeError(f"expected a likelihood's name, an object or a function, got {likelihood!r}")
        if init not in INITIALIZATIONS:
            raise ValueError(f"expected init out of {sorted(INITIALIZATIONS)}, got {init!r}")
        self.x_dim, self.latent_dim, self.dataset_size = x_dim, latent_dim, dataset_size
        self.likelihood = LIKELIHOODS[likelihood]() if isinstance(likelihood, str) else likelihood
        self.encoder = mlp(x_dim, list(hidden_dims), 2 * latent_dim)
        num_outputs = x_dim * getattr(self.likelihood, "outputs_per_dim", 1)
        self.decoder = mlp(latent_dim, list(hidden_dims)[::-1], num_outputs)
        self._check_likelihood(num_outputs)
        for network in (self.encoder, self.decoder):
            INITIALIZATIONS[init](network)

    def model(self, x: Tensor) -> Tensor:
        """Sample z ~ N(0, I) and observe x ~ p(x|z); x has shape (M, D)."""
        self._check(x)
        with self._plate(x):
            zeros = x.new_zeros(len(x), self.latent_dim)
            z = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            outputs = apply_network("decoder", self.decoder, z)
            if isinstance(self.likelihood, nn.Module):
                return pyro.sample("x", apply_network("likelihood", self.likelihood, outputs), obs=x)
            return pyro.sample("x", self.likelihood(outputs), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """Sample z ~ q(z|x), Eq. (9); x has shape (M, D)."""
        self._check(x)
        with self._plate(x):
            return pyro.sample("z", self._posterior(apply_network("encoder", self.encoder, x)))

    def encode(self, x: Tensor) -> Tensor:
        """Return the mean of q(z|x), shape (..., J)."""
        return self._posterior(self.encoder(x)).mean

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z), shape (..., D)."""
        return self.likelihood(self.decoder(z)).mean

    def _posterior(self, outputs: Tensor) -> dist.TorchDistribution:
        loc, log_variance = outputs.chunk(2, -1)
        return dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)

    def _plate(self, x: Tensor) -> pyro.plate:
        size = len(x) if self.dataset_size is None else self.dataset_size
        # Which M of the N is not the plate's business: any M indices give the scale N/M.
        return pyro.plate("data", size, subsample=torch.arange(len(x), device=x.device))

    def _check_likelihood(self, num_outputs: int) -> None:
        made = self.likelihood(torch.zeros(2, num_outputs))
        if made.event_shape != (self.x_dim,) or made.batch_shape != (2,):
            raise ValueError(
                f"expected a likelihood that makes a distribution with batch shape (2,) and event shape "
                f"({self.x_dim},) from outputs of shape (2, {num_outputs}), got {tuple(made.batch_shape)} and "
                f"{tuple(made.event_shape)}; end it with .to_event(1), or say how many outputs a dimension takes: "
                "CustomLikelihood(fn, outputs_per_dim=...)"
            )

    def _check(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[-1] != self.x_dim:
            raise ValueError(f"expected x of shape (M, {self.x_dim}), got {tuple(x.shape)}; flatten with x.flatten(1)")
        dtype = self.encoder[0].weight.dtype
        if x.dtype != dtype:
            raise TypeError(f"expected x of dtype {dtype}, got {x.dtype}; convert with x.to({dtype})")
