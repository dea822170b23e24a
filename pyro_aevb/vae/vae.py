"""The variational auto-encoder of Kingma & Welling 2013, Section 3 and Appendix C, as a Pyro model and guide."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_aevb.vae import checks
from pyro_aevb.vae.columns import unit_scale
from pyro_aevb.vae.hierarchy import Hierarchy
from pyro_aevb.vae.labels import Labels, given_label
from pyro_aevb.vae.likelihoods import LIKELIHOODS, Likelihood, count_outputs, multiplied
from pyro_aevb.vae.missingness import MISSINGNESS, Missingness, check_missingness, draw_missing, observe_with_mask
from pyro_aevb.vae.networks import INITIALIZATIONS, apply_network, beside, layers_of, make_encoder, make_networks
from pyro_aevb.vae.notation import vae_in_words
from pyro_aevb.vae.posteriors import POSTERIORS, PerDatapoint, Posterior
from pyro_aevb.vae.priors import PRIORS, GivenPrior, Prior, VampPrior
from pyro_aevb.vae.shapes import of_whole, outputs_in_shape
from pyro_aevb.vae.verbs import Verbs


class VAE(Verbs):
    r"""p(z), p(x|z) by a decoder network, q(z|x) by an encoder network; by default the paper's.

    ``vae.model`` and ``vae.guide`` are ordinary Pyro functions of a minibatch x of shape (M, D); they work with
    ``pyro.infer.SVI``, ``Predictive`` and every handler.  Their sites are "z" and "x", in the plate "data".  What a
    trained VAE is for are its methods: ``encode``, ``reconstruct``, ``decode``, ``sample``, ``impute``, ``denoise``,
    ``interpolate``, ``traverse``, ``manifold``, ``classify``, ``anomaly_score``
    (:class:`~pyro_aevb.vae.verbs.Verbs`).

    Args:
        x_dim: D, data dimensions; or the shape of a datapoint, such as (1, 28, 28), which x then has in model, guide
            and all methods.  D is its product, ``vae.x_dim``, and the shape ``vae.x_shape``.
        latent_dim: J, latent dimensions; or (J, J2, ...), from the bottom to the top, for latents in several layers:
            p(z2) p(z|z2) p(x|z), with q(z2|x) q(z|z2, x) (:mod:`pyro_aevb.vae.hierarchy`).  ``prior`` is that of the
            topmost layer, and ``posterior`` that of z, which is real.
        hidden_dims: sizes of the tanh layers of the encoder; the decoder has them in reverse.
        prior: p(z): "normal", "laplace", "student-t", "mixture", "vamp", "flow", "spline", "log-normal", "gamma",
            "exponential", "beta" or "dirichlet"; a :class:`~pyro_aevb.vae.priors.Prior`; or any Pyro distribution, of J
            dimensions or of one.
        likelihood: p(x|z): "bernoulli", "continuous-bernoulli", "beta", "gaussian", "sigmoid-gaussian",
            "fixed-gaussian", "shared-gaussian", "laplace", "student-t", "categorical", "discretized-logistic",
            "poisson", "negative-binomial", "zero-inflated-poisson" or "zero-inflated-negative-binomial"; a
            :class:`~pyro_aevb.vae.likelihoods.Likelihood`; or a function from decoder outputs (..., D) to a Pyro
            distribution of D dimensions.
        posterior: q(z|x): "normal", "full", "low-rank", "mixture", "planar", "iaf", "spline", "log-normal", "gamma",
            "weibull", "beta" or "dirichlet"; or a :class:`~pyro_aevb.vae.posteriors.Posterior`.
        encoder: a module from x (M, D) to the posterior's outputs (M, num_outputs), instead of the perceptron, which
            sees levels between -1 and 1 and the logarithm of counts, by the likelihood's ``values``.  x is of its
            shape (M, ...), or flat with columns for labels and covariates beside it, if there are any.
        decoder: a module from z (M, J) to the likelihood's outputs, instead of the perceptron; of an x with several
            dimensions they may be (M, channels, height, width), with the first outputs of all its entries first.
        convolutions: true for convolutions in the place of both perceptrons, over x of shape (channels, height, width);
            or this shape, if x is flat.
        covariates: C, how many columns of covariates are known of each datapoint beside x (one column a label or batch,
            ``torch.nn.functional.one_hot``; numbers on a scale of about one).  Encoder and decoder see them, and so
            does a :class:`~pyro_aevb.vae.priors.ConditionalNormal` prior: p(z|c) p(x|z, c), q(z|x, c).
        init: ``"paper"`` (N(0, 0.01) for every weight) or ``"modern"`` (variance 1/fan-in), for networks made here.
        labels: how many labels y there are, for a label that is known of some datapoints: p(y) p(z) p(x|z, y), with
            q(y|x) q(z|x, y) (:mod:`pyro_aevb.vae.labels`).  Model and guide take ``label``, below 0 where it isn't
            known: ``fit(learner, {"x": x, "label": label})``.
        label_weight: nats that log q(y|x) of a known label counts in the bound, in training.
        dataset_size: N of Eq. (8): a minibatch then counts N/M times; by default once.
        missingness: p(observed|x), for data missing not at random: "self-masking", "self-masking-known" or "linear";
            or a :class:`~pyro_aevb.vae.missingness.Missingness`.  Where ``observed`` is given, it is data then,
            observed at the site "observed", and the missing entries are drawn at the site "x_missing".  By default
            ``observed`` has no probability of its own.

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
        x_dim: int | Sequence[int],
        latent_dim: int | Sequence[int],
        *,
        hidden_dims: Sequence[int] = (500,),
        prior: str | Prior | dist.TorchDistribution = "normal",
        likelihood: str | Likelihood | Callable[[Tensor], dist.TorchDistribution] = "bernoulli",
        posterior: str | Posterior = "normal",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        convolutions: bool | Sequence[int] = False,
        covariates: int = 0,
        labels: int = 0,
        label_weight: float = 1.0,
        init: str = "modern",
        dataset_size: int | None = None,
        missingness: str | Missingness | None = None,
    ) -> None:
        super().__init__()
        self.x_shape, self.latent_dims = _sizes(x_dim), _sizes(latent_dim)
        checks.check_sizes(self.x_shape, self.latent_dims, dataset_size, hidden_dims, init, covariates)
        checks.check_labels(labels, label_weight, missingness)
        self.x_dim, self.latent_dim, self.dataset_size = math.prod(self.x_shape), self.latent_dims[0], dataset_size
        self.covariates, self.beside = covariates, covariates + labels
        self.hidden_dims, self.init = tuple(hidden_dims), init
        self.image_shape = checks.image_shape(convolutions, self.x_shape)
        prior = GivenPrior(prior) if isinstance(prior, dist.Distribution) else prior
        self.prior: Prior = _part("prior", prior, PRIORS, Prior)
        self.likelihood: Callable[[Tensor], Any] = _part("likelihood", likelihood, LIKELIHOODS, Callable)
        self.posterior: Posterior = _part("posterior", posterior, POSTERIORS, Posterior)
        self.missingness: Missingness | None = (
            None if missingness is None else _part("missingness", missingness, MISSINGNESS, Missingness)
        )
        self.prior.setup(self.latent_dims[-1], self.x_dim + self.beside)
        self.posterior.setup(self.latent_dim)
        self.hierarchy = Hierarchy(self.latent_dims, self.posterior.num_outputs, self.hidden_dims[-1], init)
        if self.missingness is not None:
            self.missingness.setup(self.x_dim)
        self._make_networks(encoder, decoder, labels, label_weight)
        if isinstance(self.prior, VampPrior):
            self.prior.begin(self._seen)
        # The networks made here as they were made: `save` can describe them unless somebody has changed them since.
        self.own_layers = {
            name: layers_of(network)
            for name, network, own in (("encoder", self.encoder, encoder), ("decoder", self.decoder, decoder))
            if own is None
        }
        self._rows_only: frozenset[str] = frozenset()
        self._check_parts()

    def _make_networks(
        self, encoder: nn.Module | None, decoder: nn.Module | None, labels: int, label_weight: float
    ) -> None:
        """Make the encoder, the decoder and the classifier that aren't given."""
        self.num_outputs = count_outputs(self.likelihood, self.x_dim)
        sizes = (self.x_dim, self.posterior.num_outputs), (self.latent_dim, self.num_outputs)
        made = make_networks(*sizes, self.hidden_dims, self.image_shape, self.init, self.beside)
        self.labels: Labels | None = None
        if labels:
            ends = self.x_dim, labels
            classifier = make_encoder(ends, self.hidden_dims, self.image_shape, self.covariates)
            INITIALIZATIONS[self.init](classifier)
            self.labels = Labels(labels, classifier, label_weight)
        self.encoder = made[0] if encoder is None else encoder
        self._given_encoder = encoder is not None
        self.decoder = made[1] if decoder is None else decoder
        if isinstance(self.posterior, PerDatapoint):
            checks.check_per_datapoint(self.posterior.dataset_size, encoder, self.prior, self.dataset_size)
            self.encoder = nn.Embedding(self.posterior.dataset_size, self.posterior.num_outputs)
            nn.init.normal_(self.encoder.weight, std=0.01)

    @torch.no_grad()
    def _check_parts(self) -> None:
        columns = checks.different_rows(self.beside)
        z = torch.full((2, self.latent_dim), 1 / self.latent_dim)
        samples = {}
        if not self._per_datapoint:
            rows = torch.cat([checks.different_rows(self.x_dim), columns], -1)
            samples["encoder"] = rows.unflatten(-1, self._seen_shape)
        samples["decoder"] = torch.cat([checks.different_latents(self.latent_dim), columns], -1)
        sizes = {"encoder": self.posterior.num_outputs, "decoder": self.num_outputs}
        any_shape = {"encoder": False, "decoder": len(self.x_shape) > 1}
        with checks.unchanged(self):
            self._rows_only = frozenset(
                name
                for name, rows in samples.items()
                if checks.takes_rows_only(name, getattr(self, name), rows, sizes[name], any_shape=any_shape[name])
            )
            outputs = self.decoder(torch.cat([z, columns[:2]], -1)).flatten(1)
            made = self.likelihood(outputs_in_shape(outputs, self.x_shape))
            checks.check_likelihood(of_whole(made, self.x_shape), outputs, self.x_shape)
            q = self.posterior(torch.zeros(2, self.posterior.num_outputs))
            checks.check_layers(self.latent_dims, q, self.posterior)
            top = self.hierarchy.top(self.posterior, torch.zeros(2, self.posterior.num_outputs))
            checks.check_prior(self.prior, self.posterior, top, self._prior_inputs(columns[:2, : self.covariates]))
            if self.missingness is not None:
                check_missingness(self.missingness, checks.different_rows(self.x_dim))

    def model(
        self,
        x: Tensor,
        observed: Tensor | None = None,
        index: Tensor | None = None,
        covariates: Tensor | None = None,
        offset: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """Sample z ~ p(z) and observe x ~ p(x|z); with ``missingness``, observe which entries of it are there, too.

        Args:
            x: (M, D), or (M, ...) of the shape that ``x_dim`` says.
            observed: which entries of x are observed, of x's shape and of bool; the others may hold any value that the
                likelihood allows.
            index: each datapoint's place in the data set, (M,) of int64, for a
                :class:`~pyro_aevb.vae.posteriors.PerDatapoint` posterior.
            covariates: what else is known of each datapoint, (M, C), of x's dtype.
            offset: by how much the counts of each datapoint are expected to be larger (size factors, exposures), above
                0, (M, 1) or of x's shape: it multiplies the mean of a likelihood of counts.
            label: (M,) of int64, below 0 where it isn't known, of a VAE that has ``labels``; ``None`` if none is known.

        Raises:
            ValueError, TypeError: for other shapes and dtypes.
        """
        self._check(x, observed, index, covariates, offset, label)
        with self._plate(x):
            columns = covariates
            if self.labels is not None:
                self.labels.teach(self._flat(x, observed, covariates), label)
                columns = self._with_label(covariates, self.labels.sample_prior(label))
            z = self.hierarchy.sample_prior(apply_network("prior", self.prior, *self._prior_inputs(covariates)))
            p = self._p(z, columns, offset)
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
        label: Tensor | None = None,
    ) -> Tensor:
        """Sample z ~ q(z|x), Eq. (9); the encoder sees 0 for an entry that isn't observed.

        With ``missingness`` the missing entries are drawn from p(x|z), with ``labels`` y from q(y|x) where it isn't
        known.  Arguments and errors as for :meth:`model`.
        """
        self._check(x, observed, index, covariates, offset, label)
        with self._plate(x):
            columns = covariates
            if self.labels is not None:
                y = self.labels.sample_posterior(self._flat(x, observed, covariates), label)
                columns = self._with_label(covariates, y)
            outputs = self._outputs(self._flat(x, observed, columns) if index is None else index)
            z = self.hierarchy.sample_posterior(functools.partial(apply_network, "posterior", self.posterior), outputs)
            if observed is not None and self.missingness is not None:
                draw_missing(self._p(z, columns, offset))
            return z

    def given_label(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """Return model and guide for datapoints whose labels are all known: p(y) p(z) p(x|z, y) and q(z|x, y).

        Both take ``label`` (M,), from 0.  z is their one latent, so that chains can move it, and ``evidence_gap`` can
        take the gap apart: ``posterior(*vae.given_label(), x, label=label, method="hmc")``.

        Raises:
            ValueError: for a VAE without labels.
        """
        if self.labels is None:
            raise ValueError("expected a VAE with labels, got one without; write VAE(..., labels=C)")
        return given_label(self.model, self.guide)

    def __repr__(self) -> str:
        """Return the model in the paper's notation."""
        return vae_in_words(self)

    @property
    def _per_datapoint(self) -> bool:
        return isinstance(self.posterior, PerDatapoint)

    @property
    def _seen_shape(self) -> tuple[int, ...]:
        """The shape of what the encoder sees of a datapoint."""
        return self.x_shape if self._given_encoder and not self.beside else (self.x_dim + self.beside,)

    def _q(self, rows: Tensor) -> dist.TorchDistribution:
        """Return the posterior of the topmost layer, for rows (..., inputs)."""
        posterior = functools.partial(apply_network, "posterior", self.posterior)
        return self.hierarchy.top(posterior, self._outputs(rows))

    def _outputs(self, rows: Tensor) -> Tensor:
        """Return the encoder's outputs (..., outputs) for rows (..., inputs), or for indices (M,)."""
        if self._per_datapoint:
            try:
                return torch.as_tensor(apply_network("encoder", self.encoder, rows))
            except IndexError as error:
                raise checks.index_error(rows, self.encoder.get_parameter("weight").shape[0]) from error
        return self._by_rows("encoder", rows, self._seen_shape)

    def _p(self, z: Tensor, columns: Tensor | None, offset: Tensor | None) -> Any:
        """Return p(x|z), for columns of covariates and labels."""
        outputs = self._by_rows("decoder", beside(z, columns), (self.latent_dim + self.beside,))
        likelihood = self.likelihood
        if offset is not None:
            outputs = multiplied(likelihood, outputs, offset.flatten(1))
        outputs = outputs_in_shape(outputs, self.x_shape)
        if isinstance(likelihood, nn.Module):
            return of_whole(apply_network("likelihood", likelihood, outputs), self.x_shape)
        return of_whole(likelihood(outputs), self.x_shape)

    def _prior_inputs(self, covariates: Tensor | None) -> tuple[Any, ...]:
        return (self._q, covariates) if self.prior.conditional else (self._q,)

    def _with_label(self, covariates: Tensor | None, y: Tensor) -> Tensor:
        """Return covariates with a column for each label beside them, (..., M, C)."""
        assert self.labels is not None
        return beside(self.labels.columns(y), covariates)

    def _flat(self, x: Tensor, observed: Tensor | None, columns: Tensor | None) -> Tensor:
        """Return what encoder and classifier see, (..., M, inputs)."""
        seen = x.flatten(1)
        if not self._given_encoder:
            seen = unit_scale(self.likelihood, seen)
        return beside(seen if observed is None else torch.where(observed.flatten(1), seen, 0.0), columns)

    def _seen(self, rows: Tensor) -> Tensor:
        """Return what the encoder sees of rows of data with the columns that are beside them, (C, inputs)."""
        x, columns = rows.split([self.x_dim, self.beside], -1)
        return self._flat(x, None, columns if self.beside else None)

    def _by_rows(self, name: str, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return a network's outputs (..., outputs) for rows (..., inputs) of a shape, in one batch if need be."""
        network = functools.partial(apply_network, name, getattr(self, name))
        if name not in self._rows_only and len(shape) == 1:
            return torch.as_tensor(network(rows)).flatten(rows.dim() - 1)
        outputs = network(rows.reshape(-1, *shape))
        return torch.as_tensor(outputs.reshape(*rows.shape[:-1], -1))

    def _check(
        self,
        x: Tensor,
        observed: Tensor | None,
        index: Tensor | None,
        covariates: Tensor | None,
        offset: Tensor | None,
        label: Tensor | None,
    ) -> None:
        checks.check_x(x, self.x_shape, next((parameter.dtype for parameter in self.parameters()), None))
        checks.check_observed(x, observed)
        checks.check_index(x, index, self._per_datapoint)
        checks.check_covariates(x, covariates, self.covariates)
        checks.check_offset(x, offset, self.likelihood)
        checks.check_label(x, label, 0 if self.labels is None else self.labels.number)

    def _plate(self, x: Tensor) -> pyro.plate:
        size = len(x) if self.dataset_size is None else self.dataset_size
        # Which M of the N is not the plate's business: any M indices give the scale N/M.
        return pyro.plate("data", size, subsample=torch.arange(len(x), device=x.device))


def _sizes(dims: int | Sequence[int]) -> tuple[int, ...]:
    """Return one size, or several, as a tuple."""
    return tuple(dims) if isinstance(dims, Iterable) and not isinstance(dims, str) else (dims,)


def _part(name: str, part: Any, known: Mapping[str, Callable[[], Any]], kind: Any) -> Any:
    """Return the part with this name, or the object itself."""
    if isinstance(part, str):
        if part not in known:
            raise ValueError(f"expected a {name} out of {sorted(known)} or an object, got {part!r}")
        return known[part]()
    if isinstance(part, type) or not isinstance(part, kind):
        raise TypeError(f"expected a {name}'s name or an object, got {part!r}; for example {next(iter(known))!r}")
    return part
