"""The variational auto-encoder of Kingma & Welling 2013, Section 3 and Appendix C, as a Pyro model and guide."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_aevb.vae import checks
from pyro_aevb.vae.columns import unit_scale
from pyro_aevb.vae.likelihoods import LIKELIHOODS, Likelihood, count_outputs, multiplied
from pyro_aevb.vae.missingness import MISSINGNESS, Missingness, check_missingness, draw_missing, observe_with_mask
from pyro_aevb.vae.networks import apply_network, beside, layers_of, make_networks
from pyro_aevb.vae.notation import vae_in_words
from pyro_aevb.vae.posteriors import POSTERIORS, PerDatapoint, Posterior
from pyro_aevb.vae.priors import PRIORS, GivenPrior, Prior
from pyro_aevb.vae.verbs import Verbs


class VAE(Verbs):
    r"""p(z), p(x|z) by a decoder network, q(z|x) by an encoder network; by default the paper's.

    ``vae.model`` and ``vae.guide`` are ordinary Pyro functions of a minibatch x of shape (M, D); they work with
    ``pyro.infer.SVI``, ``Predictive`` and every handler.  Their sites are "z" and "x", in the plate "data".  What a
    trained VAE is for are its methods: ``encode``, ``reconstruct``, ``decode``, ``sample``, ``impute``, ``denoise``,
    ``interpolate``, ``traverse``, ``manifold``, ``anomaly_score`` (:class:`~pyro_aevb.vae.verbs.Verbs`).

    Args:
        x_dim: D, data dimensions.
        latent_dim: J, latent dimensions.
        hidden_dims: sizes of the tanh layers of the encoder; the decoder has them in reverse.
        prior: p(z): a name out of ``pyro_aevb.vae.priors.PRIORS``, a :class:`~pyro_aevb.vae.priors.Prior`, or any Pyro
            distribution, of J dimensions or of one.
        likelihood: p(x|z): a name out of ``pyro_aevb.vae.likelihoods.LIKELIHOODS``, a
            :class:`~pyro_aevb.vae.likelihoods.Likelihood`, or a function from decoder outputs (..., D) to a Pyro
            distribution of D dimensions.
        posterior: q(z|x): a name out of ``pyro_aevb.vae.posteriors.POSTERIORS``, or a
            :class:`~pyro_aevb.vae.posteriors.Posterior`.
        encoder: a module from x (M, D) to the posterior's outputs (M, num_outputs), instead of the perceptron, which
            sees levels between -1 and 1 and the logarithm of counts, by the likelihood's ``values``.
        decoder: a module from z (M, J) to the likelihood's outputs, instead of the perceptron.
        image_shape: (channels, height, width): both networks are then convolutions over such images.
        covariates: C, how many columns of covariates are known of each datapoint beside x (one column a label or batch,
            ``torch.nn.functional.one_hot``; numbers on a scale of about one).  Encoder and decoder see them, and so
            does a :class:`~pyro_aevb.vae.priors.ConditionalNormal` prior: p(z|c) p(x|z, c), q(z|x, c).
        init: ``"paper"`` (N(0, 0.01) for every weight) or ``"modern"`` (variance 1/fan-in), for networks made here.
        dataset_size: N of Eq. (8): a minibatch then counts N/M times; by default once.
        missingness: p(observed|x), for data missing not at random: a name out of
            ``pyro_aevb.vae.missingness.MISSINGNESS``, or a :class:`~pyro_aevb.vae.missingness.Missingness`.  Where
            ``observed`` is given, it is data then, observed at the site "observed", and the missing entries are drawn
            at the site "x_missing".  By default ``observed`` has no probability of its own.

    An encoder or decoder of your own is run in evaluation mode to check it, and stays as it is.  If it takes a leading
    particle dimension for something else, as ``nn.BatchNorm1d`` does, it is applied to (K * M, ...) rows.

    Raises:
        ValueError: for sizes below 1, unknown names, and parts that don't fit together: shapes of networks and
            distributions, supports of prior and posterior.
        TypeError: for a part that is neither a name nor an object of the right kind.

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
        covariates: int = 0,
        init: str = "modern",
        dataset_size: int | None = None,
        missingness: str | Missingness | None = None,
    ) -> None:
        super().__init__()
        checks.check_sizes(x_dim, latent_dim, dataset_size, hidden_dims, init, covariates)
        self.x_dim, self.latent_dim, self.dataset_size = x_dim, latent_dim, dataset_size
        self.covariates = covariates
        self.hidden_dims, self.init = tuple(hidden_dims), init
        self.image_shape = None if image_shape is None else tuple(image_shape)
        prior = GivenPrior(prior) if isinstance(prior, dist.Distribution) else prior
        self.prior: Prior = _part("prior", prior, PRIORS, Prior)
        self.likelihood: Callable[[Tensor], Any] = _part("likelihood", likelihood, LIKELIHOODS, Callable)
        self.posterior: Posterior = _part("posterior", posterior, POSTERIORS, Posterior)
        self.missingness: Missingness | None = (
            None if missingness is None else _part("missingness", missingness, MISSINGNESS, Missingness)
        )
        self.prior.setup(latent_dim, x_dim + covariates)
        self.posterior.setup(latent_dim)
        if self.missingness is not None:
            self.missingness.setup(x_dim)
        made = make_networks(
            (x_dim, self.posterior.num_outputs),
            (latent_dim, count_outputs(self.likelihood, x_dim)),
            hidden_dims,
            image_shape,
            init,
            covariates,
        )
        self.encoder = made[0] if encoder is None else encoder
        self._own_encoder = encoder is None
        self.decoder = made[1] if decoder is None else decoder
        if isinstance(self.posterior, PerDatapoint):
            if encoder is not None:
                raise ValueError("expected no encoder beside a PerDatapoint posterior, got one; leave encoder out")
            self.encoder = nn.Embedding(self.posterior.dataset_size, self.posterior.num_outputs)
            nn.init.normal_(self.encoder.weight, std=0.01)
        # The networks made here as they were made: `save` can describe them unless somebody has changed them since.
        self.own_layers = {
            name: layers_of(network)
            for name, network, own in (("encoder", self.encoder, encoder), ("decoder", self.decoder, decoder))
            if own is None
        }
        self._rows_only: frozenset[str] = frozenset()
        self._check_parts()

    @torch.no_grad()
    def _check_parts(self) -> None:
        covariates = checks.different_rows(self.covariates)
        z = torch.full((2, self.latent_dim), 1 / self.latent_dim)
        samples = {}
        if not self._per_datapoint:
            samples["encoder"] = torch.cat([checks.different_rows(self.x_dim), covariates], -1)
        samples["decoder"] = torch.cat([checks.different_latents(self.latent_dim), covariates], -1)
        sizes = {
            "encoder": self.posterior.num_outputs,
            "decoder": count_outputs(self.likelihood, self.x_dim),
        }
        with checks.unchanged(self):
            self._rows_only = frozenset(
                name
                for name, rows in samples.items()
                if checks.takes_rows_only(name, getattr(self, name), rows, sizes[name])
            )
            outputs = self.decoder(torch.cat([z, covariates[:2]], -1))
            checks.check_likelihood(self.likelihood(outputs), outputs, self.x_dim)
            checks.check_prior(self.prior, self.posterior, self._q, self._prior_inputs(covariates[:2]))
            if self.missingness is not None:
                check_missingness(self.missingness, checks.different_rows(self.x_dim))

    def model(
        self,
        x: Tensor,
        observed: Tensor | None = None,
        index: Tensor | None = None,
        covariates: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> Tensor:
        """Sample z ~ p(z) and observe x ~ p(x|z); with ``missingness``, observe which entries of it are there, too.

        Args:
            x: (M, D).
            observed: which entries of x are observed, (M, D) of bool; the others may hold any value that the
                likelihood allows.
            index: each datapoint's place in the data set, (M,) of int64, for a
                :class:`~pyro_aevb.vae.posteriors.PerDatapoint` posterior.
            covariates: what else is known of each datapoint, (M, C), of x's dtype.
            offset: by how much the counts of each datapoint are expected to be larger (size factors, exposures), above
                0, (M, 1) or (M, D): it multiplies the mean of a likelihood of counts.

        Raises:
            ValueError, TypeError: for other shapes and dtypes.
        """
        self._check(x, observed, index, covariates, offset)
        with self._plate(x):
            z = pyro.sample("z", apply_network("prior", self.prior, *self._prior_inputs(covariates)))
            p = self._p(z, covariates, offset)
            if observed is None:
                return pyro.sample("x", p, obs=x)
            of_observed = checks.observed_entries(p, observed)
            if self.missingness is None:
                return pyro.sample("x", of_observed, obs=x)
            return observe_with_mask(p, of_observed, self.missingness, x, observed)

    def guide(
        self,
        x: Tensor,
        observed: Tensor | None = None,
        index: Tensor | None = None,
        covariates: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> Tensor:
        """Sample z ~ q(z|x), Eq. (9); the encoder sees 0 for an entry that isn't observed.

        With ``missingness`` the missing entries are drawn from p(x|z).  Arguments and errors as for :meth:`model`.
        """
        self._check(x, observed, index, covariates, offset)
        with self._plate(x):
            z = pyro.sample("z", self._q(self._encoder_input(x, observed, index, covariates)))
            if observed is not None and self.missingness is not None:
                draw_missing(self._p(z, covariates, offset))
            return z

    def __repr__(self) -> str:
        """Return the model in the paper's notation."""
        parts = self.prior, self.likelihood, self.posterior, self.encoder, self.decoder
        return vae_in_words(*parts, self.latent_dim, self.x_dim, self.missingness, self.covariates)

    @property
    def _per_datapoint(self) -> bool:
        return isinstance(self.posterior, PerDatapoint)

    def _q(self, x: Tensor) -> dist.TorchDistribution:
        encoder = functools.partial(apply_network, "encoder", self.encoder)
        return apply_network("posterior", self.posterior, self._by_rows("encoder", encoder, x))

    def _p(self, z: Tensor, covariates: Tensor | None, offset: Tensor | None) -> Any:
        decoder = functools.partial(apply_network, "decoder", self.decoder)
        outputs = self._by_rows("decoder", decoder, beside(z, covariates))
        likelihood = self.likelihood
        if offset is not None:
            outputs = multiplied(likelihood, outputs, offset)
        if isinstance(likelihood, nn.Module):
            return apply_network("likelihood", likelihood, outputs)
        return likelihood(outputs)

    def _prior_inputs(self, covariates: Tensor | None) -> tuple[Any, ...]:
        return (self._q, covariates) if self.prior.conditional else (self._q,)

    def _encoder_input(
        self, x: Tensor, observed: Tensor | None, index: Tensor | None, covariates: Tensor | None
    ) -> Tensor:
        if index is not None:
            return index
        if self._own_encoder:
            x = unit_scale(self.likelihood, x)
        return beside(x if observed is None else torch.where(observed, x, 0.0), covariates)

    def _by_rows(self, name: str, network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Return the network's outputs for inputs (..., inputs), in one batch dimension if it needs that."""
        if name not in self._rows_only:
            return network(inputs)
        return network(inputs.reshape(-1, inputs.shape[-1])).reshape(*inputs.shape[:-1], -1)

    def _check(
        self,
        x: Tensor,
        observed: Tensor | None,
        index: Tensor | None,
        covariates: Tensor | None,
        offset: Tensor | None,
    ) -> None:
        checks.check_x(x, self.x_dim, next((parameter.dtype for parameter in self.parameters()), x.dtype))
        checks.check_observed(x, observed)
        checks.check_index(x, index, self._per_datapoint)
        checks.check_covariates(x, covariates, self.covariates)
        checks.check_offset(x, offset, self.likelihood)

    def _plate(self, x: Tensor) -> pyro.plate:
        size = len(x) if self.dataset_size is None else self.dataset_size
        # Which M of the N is not the plate's business: any M indices give the scale N/M.
        return pyro.plate("data", size, subsample=torch.arange(len(x), device=x.device))


def _part(name: str, part: Any, known: Mapping[str, Callable[[], Any]], kind: Any) -> Any:
    """Return the part with this name, or the object itself."""
    if isinstance(part, str):
        if part not in known:
            raise ValueError(f"expected a {name} out of {sorted(known)} or an object, got {part!r}")
        return known[part]()
    if isinstance(part, type) or not isinstance(part, kind):
        raise TypeError(f"expected a {name}'s name or an object, got {part!r}; for example {next(iter(known))!r}")
    return part
