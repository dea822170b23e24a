"""The variational auto-encoder of Kingma & Welling 2013, Section 3 and Appendix C, as a Pyro model and guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_aevb.distributions.table import ColumnsDistribution
from pyro_aevb.vae.likelihoods import LIKELIHOODS, Likelihood
from pyro_aevb.vae.networks import INITIALIZATIONS, apply_network, conv_decoder, conv_encoder, layers_of, mlp
from pyro_aevb.vae.posteriors import POSTERIORS, FreeForm, Posterior
from pyro_aevb.vae.priors import PRIORS, GivenPrior, Prior

Part = TypeVar("Part")


class VAE(nn.Module):
    r"""p(z), p(x|z) by a decoder network, q(z|x) by an encoder network; by default the paper's.

    ``vae.model`` and ``vae.guide`` are ordinary Pyro functions of a minibatch x of shape (M, D); they work with
    ``pyro.infer.SVI``, ``Predictive`` and every handler.  Their sites are "z" and "x", in the plate "data".

    Args:
        x_dim: D, data dimensions.
        latent_dim: J, latent dimensions.
        hidden_dims: sizes of the tanh layers of the encoder; the decoder has them in reverse.
        prior: p(z): a name out of ``pyro_aevb.vae.priors.PRIORS``, an object like those of
            :mod:`pyro_aevb.vae.priors`, or any Pyro distribution, of J dimensions or of one.
        likelihood: p(x|z): a name out of ``pyro_aevb.vae.likelihoods.LIKELIHOODS``, an object like those of
            :mod:`pyro_aevb.vae.likelihoods`, or a function from decoder outputs (..., D) to a Pyro distribution of D
            dimensions.
        posterior: q(z|x): a name out of ``pyro_aevb.vae.posteriors.POSTERIORS``, or an object like those of
            :mod:`pyro_aevb.vae.posteriors`.
        encoder: a module from x (M, D) to the posterior's outputs, in place of the perceptron.
        decoder: a module from z (..., J) to the likelihood's outputs, likewise.
        image_shape: (channels, height, width): both networks are then convolutions over such images.
        init: ``"paper"`` (N(0, 0.01) for every weight) or ``"modern"`` (variance 1/fan-in), for networks made here.
        dataset_size: N of Eq. (8): a minibatch then counts N/M times.  Without it, once.

    Raises:
        ValueError: for sizes below 1, unknown names, and parts that don't fit together: shapes of networks and
            distributions, supports of prior and posterior.

    >>> vae = VAE(x_dim=784, latent_dim=20, dataset_size=60000)
    >>> vae.encode(torch.zeros(5, 784)).shape, vae.decode(torch.zeros(5, 20)).shape
    (torch.Size([5, 20]), torch.Size([5, 784]))
    >>> VAE(784, 20, prior="vamp", likelihood="bernoulli", posterior="iaf")
    VAE(
      p(z)   = 1/100 sum_c q(z|u_c),  z of 20 dimensions, real
      p(x|z) = Bernoulli(f(z)),  x of 784 dimensions
      q(z|x) = 2 inverse autoregressive maps(x) of N(m(x), diag(s(x)^2))
      f: 20-500-784; encoder: 784-500-56
    )
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int,
        *,
        hidden_dims: Sequence[int] = (500,),
        prior: str | Prior | dist.TorchDistribution = "normal",
        likelihood: str | Likelihood | Callable[[Tensor], dist.TorchDistribution] = "bernoulli",
        posterior: str | Posterior = "normal",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        image_shape: Sequence[int] | None = None,
        init: str = "modern",
        dataset_size: int | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("x_dim", x_dim), ("latent_dim", latent_dim), ("dataset_size", dataset_size)):
            if size is not None and size < 1:
                raise ValueError(f"expected {name} of 1 or more, got {size}")
        if not hidden_dims or min(hidden_dims) < 1:
            raise ValueError(f"expected one or more hidden layers of 1 or more units, got {tuple(hidden_dims)}")
        if init not in INITIALIZATIONS:
            raise ValueError(f"expected init out of {sorted(INITIALIZATIONS)}, got {init!r}")
        self.x_dim, self.latent_dim, self.dataset_size = x_dim, latent_dim, dataset_size
        self.hidden_dims, self.init = tuple(hidden_dims), init
        self.image_shape = None if image_shape is None else tuple(image_shape)
        self.prior = (
            _part("prior", prior, PRIORS, Prior) if not isinstance(prior, dist.Distribution) else GivenPrior(prior)
        )
        self.likelihood = _part("likelihood", likelihood, LIKELIHOODS, Callable)
        self.posterior = _part("posterior", posterior, POSTERIORS, Posterior)
        self.prior.setup(latent_dim, x_dim)
        self.posterior.setup(latent_dim)
        outputs_per_dim = getattr(self.likelihood, "outputs_per_dim", 1)
        num_outputs = getattr(self.likelihood, "num_outputs", outputs_per_dim * x_dim)
        hidden = list(hidden_dims)
        made: tuple[nn.Module, nn.Module]
        if image_shape is None:
            made = (
                mlp(x_dim, hidden, self.posterior.num_outputs),
                mlp(latent_dim, hidden[::-1], num_outputs),
            )
        else:
            made = (
                conv_encoder(image_shape, self.posterior.num_outputs),
                conv_decoder(latent_dim, image_shape, outputs_per_dim),
            )
        for network in made:
            INITIALIZATIONS[init](network)
        self.encoder = made[0] if encoder is None else encoder
        self.decoder = made[1] if decoder is None else decoder
        if isinstance(self.posterior, FreeForm):
            if encoder is not None:
                raise ValueError("expected no encoder beside a FreeForm posterior, got one; leave encoder out")
            self.encoder = nn.Embedding(self.posterior.num_data, self.posterior.num_outputs)
            nn.init.normal_(self.encoder.weight, std=0.01)
        # The networks made here as they were made: what `save` can describe, as long as nobody changes them.
        self.own_layers = {
            name: layers_of(network)
            for name, network, given in (("encoder", self.encoder, encoder), ("decoder", self.decoder, decoder))
            if given is None
        }
        self._check_parts(num_outputs)

    def model(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        """Sample z ~ p(z) and observe x ~ p(x|z).

        Args:
            x: (M, D).
            given: which entries of x are there, (M, D) of bool, the others holding any value the likelihood allows; or,
                with a free-form posterior, each datapoint's place in the data set, (M,).
        """
        self._check(x, given)
        with self._plate(x):
            z = pyro.sample("z", apply_network("prior", self.prior, self._q))
            outputs = apply_network("decoder", self.decoder, z)
            likelihood = self.likelihood
            p: Any = (
                apply_network("likelihood", likelihood, outputs)
                if isinstance(likelihood, nn.Module)
                else likelihood(outputs)
            )
            if given is not None and given.dtype == torch.bool:
                p = p.where(given) if isinstance(p, ColumnsDistribution) else p.base_dist.mask(given).to_event(1)
            return pyro.sample("x", p, obs=x)

    def guide(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        """Sample z ~ q(z|x), Eq. (9), arguments as for :meth:`model`; the encoder sees 0 for a missing entry."""
        self._check(x, given)
        with self._plate(x):
            return pyro.sample("z", self._q(self._encoder_input(x, given)))

    def encode(self, x: Tensor, given: Tensor | None = None, *, num_samples: int = 100) -> Tensor:
        """Return the mean of q(z|x), (M, J); of ``num_samples`` draws where it can't be written down, as for a flow."""
        q = self.posterior(self.encoder(self._encoder_input(x, given)))
        try:
            return q.mean
        except NotImplementedError:
            return q.sample((num_samples,)).mean(0)

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z), shape (..., D)."""
        return self.likelihood(self.decoder(z)).mean

    def _q(self, x: Tensor) -> dist.TorchDistribution:
        return apply_network("posterior", self.posterior, apply_network("encoder", self.encoder, x))

    def _encoder_input(self, x: Tensor, given: Tensor | None) -> Tensor:
        if isinstance(self.posterior, FreeForm):
            assert given is not None
            return given
        return x if given is None else torch.where(given, x, 0.0)

    def _plate(self, x: Tensor) -> pyro.plate:
        size = len(x) if self.dataset_size is None else self.dataset_size
        # Which M of the N is not the plate's business: any M indices give the scale N/M.
        return pyro.plate("data", size, subsample=torch.arange(len(x), device=x.device))

    @torch.no_grad()
    def _check_parts(self, num_outputs: int) -> None:
        """Raise ``ValueError`` unless networks and distributions fit together."""
        x, z = torch.zeros(2, self.x_dim), torch.full((2, self.latent_dim), 1 / self.latent_dim)
        if not isinstance(self.posterior, FreeForm):
            _check_network("encoder", self.encoder, x, self.posterior.num_outputs)
        for given in (z, z.expand(3, 2, self.latent_dim)):
            _check_network("decoder", self.decoder, given, num_outputs)
        made = self.likelihood(self.decoder(z))
        if made.event_shape != (self.x_dim,) or made.batch_shape != (2,):
            raise ValueError(
                f"expected a likelihood that makes a distribution with batch shape (2,) and event shape "
                f"({self.x_dim},) from outputs of shape (2, {num_outputs}), got {tuple(made.batch_shape)} and "
                f"{tuple(made.event_shape)}; end it with .to_event(1), or say how many outputs a dimension takes: "
                "CustomLikelihood(fn, outputs_per_dim=...)"
            )
        q = self.posterior(torch.zeros(2, self.posterior.num_outputs))
        try:
            p = self.prior(self._q)
            if _support(p.support) != _support(q.support):
                raise ValueError(
                    f"expected prior and posterior with one support, got {_support(p.support)} for p(z) = "
                    f"{self.prior.notation} and {_support(q.support)} for q(z|x) = {self.posterior.notation}; "
                    "change one of them"
                )
            p.log_prob(torch.as_tensor(q.sample()).clone())
        except NotImplementedError as error:
            raise ValueError(
                f"expected a prior that gives the density of any z, got {self.prior.notation} with q(z|x) = "
                f"{self.posterior.notation}; change one of them"
            ) from error

    def __repr__(self) -> str:
        """Return the model in the paper's notation."""
        space = _support(self.posterior(torch.zeros(1, self.posterior.num_outputs)).support)
        likelihood = getattr(self.likelihood, "__name__", type(self.likelihood).__name__)
        return (
            f"VAE(\n  p(z)   = {self.prior.notation},  z of {self.latent_dim} dimensions, {space}\n"
            f"  p(x|z) = {likelihood}(f(z)),  x of {self.x_dim} dimensions\n"
            f"  q(z|x) = {self.posterior.notation}\n"
            f"  f: {_sizes(self.decoder)}; encoder: {_sizes(self.encoder)}\n)"
        )

    def _check(self, x: Tensor, given: Tensor | None) -> None:
        if x.dim() != 2 or x.shape[-1] != self.x_dim:
            raise ValueError(f"expected x of shape (M, {self.x_dim}), got {tuple(x.shape)}; flatten with x.flatten(1)")
        dtype = next((parameter.dtype for parameter in self.parameters()), x.dtype)
        if x.dtype != dtype:
            raise TypeError(f"expected x of dtype {dtype}, got {x.dtype}; convert with x.to({dtype})")
        free = isinstance(self.posterior, FreeForm)
        if free and (given is None or given.dtype != torch.long or given.shape != (len(x),)):
            raise ValueError(
                "expected each datapoint's place in the data set for a free-form posterior, (M,) of int64, got "
                f"{None if given is None else (tuple(given.shape), given.dtype)}; pass vae.guide(x, index), and "
                "(x, torch.arange(N)) to fit"
            )
        if not free and given is not None and (given.dtype != torch.bool or given.shape != x.shape):
            raise ValueError(
                f"expected which entries are there as bool of shape {tuple(x.shape)}, got {tuple(given.shape)} of "
                f"{given.dtype}"
            )


def _part(name: str, given: Any, known: Mapping[str, Callable[[], Part]], kind: Any) -> Part:
    """Return the part with this name, or the object itself."""
    if isinstance(given, str):
        if given not in known:
            raise ValueError(f"expected a {name} out of {sorted(known)} or an object, got {given!r}")
        return known[given]()
    if isinstance(given, type) or not isinstance(given, kind):
        raise TypeError(f"expected a {name}'s name or an object, got {given!r}; for example {next(iter(known))!r}")
    return given


def _check_network(name: str, network: nn.Module, given: Tensor, size: int) -> None:
    """Raise ``ValueError`` unless the network makes outputs (..., size)."""
    try:
        got = tuple(network(given).shape)
    except RuntimeError as error:
        raise ValueError(
            f"expected the {name} to take inputs of shape {tuple(given.shape)}, got: {error}; change its first layer, "
            "or flatten the leading dimensions inside of it"
        ) from error
    if got != (*given.shape[:-1], size):
        raise ValueError(
            f"expected the {name} to make outputs of shape {(*given.shape[:-1], size)} from {tuple(given.shape)}, got "
            f"{got}; change its last layer, or flatten what comes out of it"
        )


def _support(support: Any) -> str:
    """Say in words what kind of numbers a support holds."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    for words, kinds in SUPPORTS.items():
        if support in kinds or repr(support) in map(repr, kinds):
            return words
    return repr(support)


SUPPORTS = {
    "real": (constraints.real, constraints.real_vector),
    "positive": (constraints.positive, constraints.nonnegative),
    "between 0 and 1": (constraints.unit_interval,),
    "on the simplex": (constraints.simplex,),
}


def _sizes(network: nn.Module) -> str:
    """Return the sizes of a perceptron's layers, or the network's name."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if isinstance(network, nn.Sequential) and len(network) == 2 * len(layers) - 1:
        return "-".join(str(size) for size in [layers[0].in_features, *(layer.out_features for layer in layers)])
    return type(network).__name__.strip("_")
