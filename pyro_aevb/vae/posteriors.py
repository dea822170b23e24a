"""Posteriors q(z|x) of a VAE: modules from the encoder's outputs to a Pyro distribution over J latent dimensions.

The VAE calls ``setup`` once with J, which sets the number of outputs; then the posterior with the encoder's outputs.
Flows have parameters of their own, which belong to phi.

Shapes: J latent dimensions; outputs (..., num_outputs).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.transforms.planar import ConditionedPlanar
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from pyro_aevb.distributions import families as reparameterization
from pyro_aevb.distributions.affine_autoregressive import AffineAutoregressive
from pyro_aevb.distributions.autoregressive_spline import AutoregressiveSpline

SMALLEST = 1e-4  # added to a softplus that must not vanish


class Posterior(nn.Module, ABC):
    """q(z|x) of a VAE, as a function of the encoder's outputs; its parameters belong to phi.

    Attributes:
        notation: the distribution in symbols, for ``print(vae)``.
        num_outputs: how many outputs of the encoder it takes; :meth:`setup` sets it.
    """

    notation: str = "q(z|x)"
    num_outputs: int

    @abstractmethod
    def setup(self, latent_dim: int) -> None:
        """Set ``num_outputs`` and make the parameters; the VAE calls this once, when it is built.

        Args:
            latent_dim: J.
        """

    @abstractmethod
    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) with batch shape (...) and event shape (J,).

        Args:
            outputs: (..., num_outputs).
        """


# -- Gaussians --------------------------------------------------------------------------------------------------------


@final
class DiagonalGaussian(Posterior):
    """N(loc, diag(scale^2)), Eq. (9) of the paper; outputs = [loc, log scale^2]."""

    notation = "N(m(x), diag(s(x)^2))"

    def setup(self, latent_dim: int) -> None:
        """Set the number of outputs."""
        self.num_outputs = 2 * latent_dim

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the Gaussian."""
        loc, log_variance = outputs.chunk(2, -1)
        return dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)


@final
class FullGaussian(Posterior):
    """N(loc, L L'), L lower triangular with a diagonal exp(d); outputs = [loc, d, entries below the diagonal]."""

    notation = "N(m(x), L(x) L(x)')"

    def setup(self, latent_dim: int) -> None:
        """Set the number of outputs."""
        self.latent_dim = latent_dim
        self.num_outputs = 2 * latent_dim + latent_dim * (latent_dim - 1) // 2

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the Gaussian."""
        j = self.latent_dim
        loc, log_diagonal, below = outputs.split([j, j, outputs.shape[-1] - 2 * j], -1)
        rows, columns = torch.tril_indices(j, j, -1, device=outputs.device)
        factor = torch.diag_embed(log_diagonal.exp())
        factor[..., rows, columns] = below
        return dist.MultivariateNormal(loc, scale_tril=factor)


@final
class LowRankGaussian(Posterior):
    """N(loc, W W' + diag(d)), W with ``rank`` columns; outputs = [loc, log d, W].

    Args:
        rank: columns of W.

    Raises:
        ValueError: for a rank below 1.
    """

    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"expected rank of 1 or more, got {rank}")
        self.rank = rank
        self.notation = f"N(m(x), W(x) W(x)' + diag(d(x))), rank {rank}"

    def setup(self, latent_dim: int) -> None:
        """Set the number of outputs."""
        self.latent_dim, self.num_outputs = latent_dim, (2 + self.rank) * latent_dim

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the Gaussian."""
        j = self.latent_dim
        loc, log_diagonal, factor = outputs.split([j, j, j * self.rank], -1)
        return dist.LowRankMultivariateNormal(loc, factor.unflatten(-1, (j, self.rank)), log_diagonal.exp())


@final
class MixturePosterior(Posterior):
    """A mixture of diagonal Gaussians, reparameterised (Jankowiak & Karaletsos 2019), of two dimensions or more.

    Args:
        num_components: C.

    Raises:
        ValueError: for a num_components below 2.
    """

    def __init__(self, num_components: int = 3) -> None:
        super().__init__()
        if num_components < 2:
            raise ValueError(f"expected num_components of 2 or more, got {num_components}; use DiagonalGaussian")
        self.num_components = num_components
        self.notation = f"sum over {num_components} of pi_c(x) N(m_c(x), diag(s_c(x)^2))"

    def setup(self, latent_dim: int) -> None:
        """Make offsets of the components, so that they differ from the beginning.

        Raises ``ValueError`` for a single latent dimension.
        """
        if latent_dim < 2:
            raise ValueError(
                f"expected latent_dim of 2 or more for a mixture, got {latent_dim}; use posterior='spline'"
            )
        self.latent_dim, self.num_outputs = latent_dim, self.num_components * (2 * latent_dim + 1)
        self.offset = nn.Parameter(torch.randn(self.num_components, latent_dim))

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the mixture."""
        c, j = self.num_components, self.latent_dim
        logits, loc, log_variance = outputs.split([c, c * j, c * j], -1)
        scale = (0.5 * log_variance.unflatten(-1, (c, j))).exp()
        return _MixtureOfDiagNormals(loc.unflatten(-1, (c, j)) + self.offset, scale, logits)


class _MixtureOfDiagNormals(dist.MixtureOfDiagNormals):
    """Pyro's mixture, with a mean, and with any sample shape also for a batch."""

    @property
    def mean(self) -> Tensor:
        return (self.probs.unsqueeze(-1) * self.locs).sum(-2)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        if len(sample_shape):
            return self.expand((*sample_shape, *self.batch_shape)).rsample()
        return super().rsample()


# -- Flows ------------------------------------------------------------------------------------------------------------


@final
class PlanarFlow(Posterior):
    """A diagonal Gaussian through planar maps z + u tanh(w'z + b) with u, w, b of x (Rezende & Mohamed 2015).

    There is no inverse, so log q(z|x) is known only for its own draws.  That suffices for the objectives SGVB and IWAE,
    but not for STL, DReG, wake-sleep and score functions.

    Args:
        num_flows: maps.

    Raises:
        ValueError: for a num_flows below 1.
    """

    def __init__(self, num_flows: int = 4) -> None:
        super().__init__()
        if num_flows < 1:
            raise ValueError(f"expected num_flows of 1 or more, got {num_flows}")
        self.num_flows = num_flows
        self.notation = f"{num_flows} planar maps(x) of N(m(x), diag(s(x)^2))"

    def setup(self, latent_dim: int) -> None:
        """Set the number of outputs."""
        self.latent_dim = latent_dim
        self.num_outputs = 2 * latent_dim + self.num_flows * (2 * latent_dim + 1)

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the transformed Gaussian."""
        j, each = self.latent_dim, 2 * self.latent_dim + 1
        gaussian, *maps = outputs.split([2 * j, *[each] * self.num_flows], -1)
        loc, log_variance = gaussian.chunk(2, -1)
        base = dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)
        # w begins near a unit vector: a map of w = 0 has no direction, and Pyro divides by |w|^2.
        start = torch.eye(j).to(outputs).repeat(-(-self.num_flows // j), 1)
        transforms = [
            _Planar((bias, u, w + start[i]))
            for i, (bias, u, w) in enumerate(part.split([1, j, j], -1) for part in maps)
        ]
        return dist.TransformedDistribution(base, transforms)


class NoInverseError(NotImplementedError, ValueError):
    """Raised for a density that a flow without an inverse doesn't have."""


class _Planar(ConditionedPlanar):
    def _inverse(self, y: Tensor) -> Tensor:
        raise NoInverseError(
            "expected draws of the planar flow's own, got other values, for which log q(z|x) is not known: it has no "
            "inverse; take posterior='iaf' or 'spline', or what is content with its own draws, as the objectives "
            "SGVB() and IWAE() and the methods 'importance' and 'ais'"
        )


class AutoregressiveFlow(Posterior):
    """A diagonal Gaussian through autoregressive maps with a context from the encoder.

    Args:
        num_flows: maps; between them the dimensions are reversed.
        hidden_dim: units of the hidden layer of each map.
        context_dim: outputs of the encoder that every map sees.

    Raises:
        ValueError: for sizes below 1.
    """

    kind: str

    def __init__(self, num_flows: int = 2, hidden_dim: int = 64, context_dim: int = 16) -> None:
        super().__init__()
        if min(num_flows, hidden_dim, context_dim) < 1:
            raise ValueError(
                f"expected num_flows, hidden_dim and context_dim of 1 or more, got {num_flows}, {hidden_dim} and "
                f"{context_dim}"
            )
        self.num_flows, self.hidden_dim, self.context_dim = num_flows, hidden_dim, context_dim
        self.notation = f"{num_flows} {self.kind} maps(x) of N(m(x), diag(s(x)^2))"

    @abstractmethod
    def make_map(self, latent_dim: int, hidden_dim: int) -> nn.Module:
        """Return a network with parameters for one map of J dimensions."""

    @abstractmethod
    def condition(self, network: Any, context: Tensor) -> Any:
        """Return the map of this network, a transform of (..., J), with the context (..., context_dim)."""

    def setup(self, latent_dim: int) -> None:
        """Make the maps and set the number of outputs."""
        self.latent_dim, self.num_outputs = latent_dim, 2 * latent_dim + self.context_dim
        hidden = max(self.hidden_dim, latent_dim + self.context_dim)
        self.layers = nn.ModuleList(self.make_map(latent_dim, hidden) for _ in range(self.num_flows))
        self.register_buffer("swap", torch.arange(latent_dim).flip(0), persistent=False)

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the transformed Gaussian."""
        loc, log_variance, context = outputs.split([self.latent_dim, self.latent_dim, self.context_dim], -1)
        base = dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)
        transforms: list[Any] = []
        for layer in self.layers:
            transforms += [self.condition(layer, context), dist.transforms.Permute(self.swap)]
        return dist.TransformedDistribution(base, transforms[:-1])


@final
class InverseAutoregressiveFlow(AutoregressiveFlow):
    """A diagonal Gaussian through affine autoregressive maps (Kingma et al. 2016).

    A draw takes one pass; the density of values that it didn't draw takes J.  Arguments as for
    :class:`AutoregressiveFlow`.
    """

    kind = "inverse autoregressive"

    def make_map(self, latent_dim: int, hidden_dim: int) -> nn.Module:
        """Return a masked network."""
        return ConditionalAutoRegressiveNN(latent_dim, self.context_dim, [hidden_dim])

    def condition(self, network: Any, context: Tensor) -> Any:
        """Return the affine map."""
        return AffineAutoregressive(functools.partial(network, context=context))  # type: ignore[arg-type]  # a network


@final
class SplineFlow(AutoregressiveFlow):
    """A diagonal Gaussian through autoregressive rational-quadratic splines (Durkan et al. 2019), which takes zuko.

    Arguments as for :class:`AutoregressiveFlow`.
    """

    kind = "autoregressive spline"

    def make_map(self, latent_dim: int, hidden_dim: int) -> nn.Module:
        """Return a conditional spline."""
        return AutoregressiveSpline(latent_dim, self.context_dim, hidden_dim)

    def condition(self, network: Any, context: Tensor) -> Any:
        """Return the spline with this context."""
        return network(context)


# -- Constrained latents ----------------------------------------------------------------------------------------------


@final
class LogNormal(Posterior):
    """Positive latents: exp of N(loc, diag(scale^2)); outputs = [loc, log scale^2]."""

    notation = "LogNormal(m(x), s(x))"

    def setup(self, latent_dim: int) -> None:
        """Set the number of outputs."""
        self.num_outputs = 2 * latent_dim

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised log-normal distribution."""
        loc, log_variance = outputs.chunk(2, -1)
        return reparameterization.LogNormal(loc, (0.5 * log_variance).exp()).to_event(1)


@final
class TwoPositive(Posterior):
    """A factorised family with two positive parameters, each a softplus of an output.

    Args:
        family: a class of Pyro distributions.
        first: the name of its first parameter.
        second: of its second.
    """

    def __init__(self, family: Callable[..., dist.TorchDistribution], first: str, second: str) -> None:
        super().__init__()
        self.family, self.first, self.second = family, first, second
        self.notation = f"{family.__name__}({first}(x), {second}(x))"

    def setup(self, latent_dim: int) -> None:
        """Set the number of outputs."""
        self.num_outputs = 2 * latent_dim

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the factorised distribution."""
        first, second = (F.softplus(outputs) + SMALLEST).chunk(2, -1)
        return self.family(**{self.first: first, self.second: second}).to_event(1)


@final
class Dirichlet(Posterior):
    """Latents on the simplex: concentrations are a softplus of the outputs."""

    notation = "Dirichlet(concentration(x))"

    def setup(self, latent_dim: int) -> None:
        """Set the number of outputs."""
        self.num_outputs = latent_dim

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return the Dirichlet distribution."""
        return dist.Dirichlet(F.softplus(outputs) + SMALLEST)


@final
class PerDatapoint(Posterior):
    """q(z_n) with parameters for each datapoint instead of an encoder: the paper's q_phi(z).

    Model and guide need each datapoint's place in the data set: ``vae.guide(x, index=index)``.

    Args:
        posterior: the family, a name or an object.
        dataset_size: N.

    Raises:
        ValueError: for a dataset_size below 1.
    """

    def __init__(self, posterior: str | Posterior = "normal", *, dataset_size: int) -> None:
        super().__init__()
        if dataset_size < 1:
            raise ValueError(f"expected dataset_size of 1 or more, got {dataset_size}")
        self.family = POSTERIORS[posterior]() if isinstance(posterior, str) else posterior
        self.dataset_size = dataset_size
        self.notation = self.family.notation.replace("(x)", "_n")

    def setup(self, latent_dim: int) -> None:
        """Set up the family."""
        self.family.setup(latent_dim)
        self.num_outputs = self.family.num_outputs

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        """Return q(z_n)."""
        return self.family(outputs)


POSTERIORS: dict[str, Callable[[], Posterior]] = {
    "normal": DiagonalGaussian,
    "full": FullGaussian,
    "low-rank": LowRankGaussian,
    "mixture": MixturePosterior,
    "planar": PlanarFlow,
    "iaf": InverseAutoregressiveFlow,
    "spline": SplineFlow,
    "log-normal": LogNormal,
    "gamma": lambda: TwoPositive(dist.Gamma, "concentration", "rate"),
    "weibull": lambda: TwoPositive(reparameterization.Weibull, "scale", "concentration"),
    "beta": lambda: TwoPositive(dist.Beta, "concentration1", "concentration0"),
    "dirichlet": Dirichlet,
}
