"""Priors p(z) of a VAE, fixed or learned: modules that return a Pyro distribution over J latent dimensions.

The VAE calls ``setup`` once with its sizes, and then the prior with a function from x to q(z|x), which only
:class:`VampPrior` uses.

Shapes: J latent dimensions, D data dimensions, C components.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

import pyro.distributions as dist
import torch
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn

from pyro_aevb.distributions import families as reparameterization
from pyro_aevb.distributions.affine_autoregressive import AffineAutoregressive
from pyro_aevb.distributions.autoregressive_spline import AutoregressiveSpline
from pyro_aevb.vae.networks import mlp

Encode = Callable[[Tensor], dist.TorchDistribution]  # x (C, D) to q(z|x), batch (C,) and event (J,)


class Prior(nn.Module, ABC):
    """p(z) of a VAE; its parameters and buffers belong to theta.

    Attributes:
        notation: the distribution in symbols, for ``print(vae)``.
        conditional: whether ``forward`` takes the covariates besides: it is then called as
            ``prior(posterior, covariates)``, and has their batch shape.
    """

    notation: str = "p(z)"
    conditional: bool = False

    @abstractmethod
    def setup(self, latent_dim: int, x_dim: int) -> None:
        """Make the parameters; the VAE calls this once, when it is built.

        Args:
            latent_dim: J.
            x_dim: D.
        """

    @abstractmethod
    def forward(self, posterior: Encode) -> dist.TorchDistribution:
        """Return p(z), with an empty batch shape and event shape (J,).

        Args:
            posterior: q(z|x) as a function of x (C, D); for priors that are made of posteriors.
        """


@final
class Factorised(Prior):
    """Independent latents with the same distribution; a multivariate family, such as Dirichlet, covers all of them.

    Args:
        family: a class of Pyro distributions, for example out of :data:`pyro_aevb.distributions.families.FAMILIES`.
        parameters: its parameters, numbers.

    >>> from pyro_aevb.vae.priors import Factorised
    >>> prior = Factorised(dist.Gamma, concentration=2.0, rate=1.0)
    >>> prior.setup(latent_dim=3, x_dim=10)
    >>> prior(None).event_shape, prior.notation
    (torch.Size([3]), 'Gamma(concentration=2, rate=1)')
    """

    def __init__(self, family: Callable[..., dist.TorchDistribution], **parameters: float) -> None:
        super().__init__()
        self.family, self.numbers = family, parameters
        name = getattr(family, "__name__", str(family))
        self.notation = f"{name}({', '.join(f'{key}={value:g}' for key, value in parameters.items())})"

    def setup(self, latent_dim: int, x_dim: int) -> None:
        """Keep the parameters as buffers, so that they follow the VAE's dtype and device."""
        for name, value in self.numbers.items():
            self.register_buffer(name, torch.full((latent_dim,), float(value)))

    def forward(self, posterior: Encode) -> dist.TorchDistribution:
        """Return the product of the families."""
        made = self.family(**{name: getattr(self, name) for name in self.numbers})
        return made.to_event(1) if not made.event_shape else made


@final
class ConditionalNormal(Prior):
    """p(z|c): independent Gaussians with means and scales by a network of the covariates, N(0, 1) at the beginning.

    Args:
        covariates: C, as of the VAE.
        hidden_dim: tanh units of the network; 0 for a linear one.

    >>> from pyro_aevb.vae.priors import ConditionalNormal
    >>> VAE(6, 2, covariates=3, prior=ConditionalNormal(3)).prior.notation
    'N(z; f(c), diag(g(c)^2))'
    """

    conditional = True
    notation = "N(z; f(c), diag(g(c)^2))"

    def __init__(self, covariates: int, hidden_dim: int = 0) -> None:
        super().__init__()
        self.covariates, self.hidden_dim = covariates, hidden_dim

    def setup(self, latent_dim: int, x_dim: int) -> None:
        """Make the network."""
        self.network = mlp(self.covariates, [self.hidden_dim] if self.hidden_dim else [], 2 * latent_dim)
        for parameter in self.network[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, posterior: Encode, covariates: Tensor | None = None) -> dist.TorchDistribution:
        """Return p(z|c), with the batch shape of c (..., C)."""
        if covariates is None or covariates.shape[-1] != self.covariates:
            got = 0 if covariates is None else covariates.shape[-1]
            raise ValueError(
                f"expected {self.covariates} columns of covariates for ConditionalNormal({self.covariates}), got "
                f"{got}; write VAE(..., covariates={self.covariates})"
            )
        loc, log_scale = self.network(covariates).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


@final
class GivenPrior(Prior):
    """A Pyro distribution of J dimensions, or of one, which is then the distribution of each latent.

    Its tensors keep their dtype and device: a VAE in float64 needs a distribution of float64 tensors.

    Args:
        distribution: with event shape (J,) and an empty batch shape, or both shapes empty.
    """

    def __init__(self, distribution: dist.TorchDistribution) -> None:
        super().__init__()
        self.given = self.distribution = distribution
        self.notation = repr(distribution)

    def setup(self, latent_dim: int, x_dim: int) -> None:
        """Expand the distribution to J dimensions if it is one of a single number.

        Raises ``ValueError`` for other shapes.
        """
        if not self.distribution.event_shape and not self.distribution.batch_shape:
            self.distribution = self.distribution.expand((latent_dim,)).to_event(1)
        if self.distribution.event_shape != (latent_dim,) or self.distribution.batch_shape:
            raise ValueError(
                f"expected a prior with event shape ({latent_dim},) and no batch shape, got "
                f"{tuple(self.distribution.event_shape)} and {tuple(self.distribution.batch_shape)}; "
                "end it with .to_event(1), or pass the distribution of a single latent"
            )

    def forward(self, posterior: Encode) -> dist.TorchDistribution:
        """Return the distribution."""
        return self.distribution


@final
class MixturePrior(Prior):
    """A learned mixture of diagonal Gaussians.

    Args:
        num_components: C.

    Raises:
        ValueError: for a num_components below 1.
    """

    def __init__(self, num_components: int = 10) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"expected num_components of 1 or more, got {num_components}")
        self.num_components = num_components
        self.notation = f"sum over {num_components} of pi_c N(m_c, diag(s_c^2))"

    def setup(self, latent_dim: int, x_dim: int) -> None:
        """Begin with unit Gaussians around draws from a unit Gaussian."""
        self.logits = nn.Parameter(torch.zeros(self.num_components))
        self.loc = nn.Parameter(torch.randn(self.num_components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(self.num_components, latent_dim))

    def forward(self, posterior: Encode) -> dist.TorchDistribution:
        """Return the mixture."""
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


@final
class VampPrior(Prior):
    r"""The mixture of the posteriors of learned pseudo-inputs, p(z) = 1/C sum_c q(z|u_c) (Tomczak & Welling 2018).

    Its parameters are the u_c.  It makes the encoder part of the model, so that model and guide both train it.

    Args:
        num_components: C.
        pseudo_inputs: (C, D), or (C, ...) of x's shape, the u_c to begin with, for example training data, of the values
            that x has, followed by columns for labels and covariates if there are any; by default uniform in (0, 1).
            The parameters are what the encoder sees of them: levels between -1 and 1, the logarithm of counts.

    Raises:
        ValueError: for a num_components below 1.
    """

    def __init__(self, num_components: int = 100, pseudo_inputs: Tensor | None = None) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"expected num_components of 1 or more, got {num_components}")
        self.num_components, self._start = num_components, pseudo_inputs
        self.notation = f"1/{num_components} sum_c q(z|u_c)"

    def setup(self, latent_dim: int, x_dim: int) -> None:
        """Make the pseudo-inputs; raise ``ValueError`` if those to begin with have another shape."""
        shape = (self.num_components, x_dim)
        start = torch.rand(shape) if self._start is None else self._start
        start = start if start.is_floating_point() else start.to(torch.get_default_dtype())
        start = start.flatten(1) if start.dim() > 2 else start
        if start.shape != shape:
            raise ValueError(f"expected pseudo_inputs of shape {shape}, got {tuple(start.shape)}")
        self.pseudo_inputs = nn.Parameter(start.detach().clone())

    @torch.no_grad()
    def begin(self, seen: Callable[[Tensor], Tensor]) -> None:
        """Turn pseudo-inputs that were given as data into what the encoder sees of data; the VAE calls this once.

        Args:
            seen: from data (C, D) to it, (C, D).
        """
        if self._start is not None:
            self.pseudo_inputs.copy_(seen(self.pseudo_inputs))

    def forward(self, posterior: Encode) -> dist.TorchDistribution:
        """Return the mixture of the posteriors."""
        equal = dist.Categorical(logits=self.pseudo_inputs.new_zeros(self.num_components))
        components = posterior(self.pseudo_inputs)
        if isinstance(components, dist.MixtureOfDiagNormals):
            raise NotImplementedError("expected a posterior of one family for a VampPrior, got a mixture")
        return _Mixture(equal, components)


class _Mixture(dist.MixtureSameFamily):
    """A mixture that copies the value for every component, because a flow's context doesn't broadcast."""

    def log_prob(self, value: Tensor) -> Tensor:
        shown = value.unsqueeze(-2)
        shown = shown.expand(*shown.shape[:-2], self.mixture_distribution.logits.shape[-1], shown.shape[-1])
        log_prob = self.component_distribution.log_prob(shown)
        return torch.logsumexp(log_prob + self.mixture_distribution.logits.log_softmax(-1), -1)


class AutoregressivePrior(Prior):
    """A unit Gaussian through inverses of autoregressive maps: p(z) in one pass of each, a draw in J.

    Args:
        num_flows: maps; between them the dimensions are reversed.
        hidden_dim: units of each map's hidden layer.

    Raises:
        ValueError: for sizes below 1.
    """

    kind: str
    loc: Tensor

    def __init__(self, num_flows: int = 4, hidden_dim: int = 64) -> None:
        super().__init__()
        if num_flows < 1 or hidden_dim < 1:
            raise ValueError(f"expected num_flows and hidden_dim of 1 or more, got {num_flows} and {hidden_dim}")
        self.num_flows, self.hidden_dim = num_flows, hidden_dim
        self.notation = f"{num_flows} {self.kind} of N(0, I)"

    @abstractmethod
    def make_map(self, latent_dim: int, hidden_dim: int) -> nn.Module:
        """Return a network with parameters for one map of J dimensions."""

    @abstractmethod
    def inverse(self, network: Any) -> Any:
        """Return the inverse of the map of this network, a transform of (..., J)."""

    def setup(self, latent_dim: int, x_dim: int) -> None:
        """Make the maps."""
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        hidden = max(self.hidden_dim, latent_dim)
        self.layers = nn.ModuleList(self.make_map(latent_dim, hidden) for _ in range(self.num_flows))
        self.register_buffer("swap", torch.arange(latent_dim).flip(0), persistent=False)

    def forward(self, posterior: Encode) -> dist.TorchDistribution:
        """Return the transformed distribution."""
        base = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        between = dist.transforms.Permute(self.swap)
        transforms: list[Any] = []
        for layer in self.layers:
            transforms += [self.inverse(layer), between]
        return dist.TransformedDistribution(base, transforms[:-1])


@final
class FlowPrior(AutoregressivePrior):
    """A unit Gaussian through masked autoregressive maps, affine ones (Papamakarios et al. 2017).

    Arguments as for :class:`AutoregressivePrior`.
    """

    kind = "masked autoregressive maps"

    def make_map(self, latent_dim: int, hidden_dim: int) -> nn.Module:
        """Return the inverse autoregressive map."""
        return AffineAutoregressive(AutoRegressiveNN(latent_dim, [hidden_dim]))

    def inverse(self, network: Any) -> Any:
        """Return the masked autoregressive map."""
        return network.inv


@final
class SplinePrior(AutoregressivePrior):
    """A unit Gaussian through masked autoregressive rational-quadratic splines (Durkan et al. 2019), which takes zuko.

    (Pyro's splines index by masks, which the fast path can't take, and its coupling splines are no densities: with
    pyro-ppl 1.9.2 the integral of one layer in two dimensions is between 0.96 and 1.12.)

    Arguments as for :class:`AutoregressivePrior`.
    """

    kind = "masked autoregressive splines"

    def make_map(self, latent_dim: int, hidden_dim: int) -> nn.Module:
        """Return a spline."""
        return AutoregressiveSpline(latent_dim, hidden_dim=hidden_dim)

    def inverse(self, network: Any) -> Any:
        """Return its inverse."""
        return network().inv


PRIORS: dict[str, Callable[[], Prior]] = {
    "normal": lambda: Factorised(dist.Normal, loc=0.0, scale=1.0),
    "laplace": lambda: Factorised(dist.Laplace, loc=0.0, scale=0.5**0.5),
    "student-t": lambda: Factorised(reparameterization.StudentT, df=5.0, loc=0.0, scale=1.0),
    "mixture": MixturePrior,
    "vamp": VampPrior,
    "flow": FlowPrior,
    "spline": lambda: SplinePrior(2),
    "log-normal": lambda: Factorised(reparameterization.LogNormal, loc=0.0, scale=1.0),
    "gamma": lambda: Factorised(dist.Gamma, concentration=2.0, rate=2.0),
    "exponential": lambda: Factorised(dist.Exponential, rate=1.0),
    "beta": lambda: Factorised(dist.Beta, concentration1=1.0, concentration0=1.0),
    "dirichlet": lambda: Factorised(dist.Dirichlet, concentration=1.0),
}
