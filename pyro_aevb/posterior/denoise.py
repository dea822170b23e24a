r"""The clean x behind a noisy one, from p(x | x_noisy).

.. math:: p(z, x | \tilde x) \propto p(z) \, p(x | z) \, p(\tilde x | x)

A clean x whose cells have finitely many values is summed over, cell by cell: z is drawn from p(z | x_noisy), and the
estimate is the mean of E[x | z, x_noisy] over its draws.

Any other clean x is one more latent.  By weights its proposal is the model's own likelihood at z ~ q(z|x_noisy), so
that they are p(z) / q(z|x_noisy) times the noise's density; their tail is light where the noise is no narrower than the
likelihood.  Chains move z and x together.  The estimate is the mean of the draws of x.

Shapes: N datapoints, L draws, M of a minibatch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_aevb.arguments import Arguments
from pyro_aevb.capture.capture import Compile
from pyro_aevb.data_source import Data
from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.evidence.estimator import over_minibatches
from pyro_aevb.model_guide.contract import check_call, check_callables, check_options, read
from pyro_aevb.model_guide.traces import PyroCallable, on_a_side
from pyro_aevb.one_thread import one_thread
from pyro_aevb.posterior.angles import NOT_ONE, are_angles, average, place_deviations, place_of
from pyro_aevb.posterior.cells import the_site
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.data import in_memory
from pyro_aevb.posterior.likelihood import check_drawn_in
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.posterior.noisy_cells import NoiseModel, NoisyCells, check_cells, is_finite
from pyro_aevb.posterior.posterior import Options, Posterior, joined, visit_minibatches
from pyro_aevb.posterior.predictions import Predicted, Predictions
from pyro_aevb.posterior.proposals import Layout
from pyro_aevb.random_state import forked
from pyro_aevb.short_repr import short_repr

EXAMPLE = "lambda clean: dist.Normal(clean, 0.3).to_event(1)"


@dataclass(frozen=True)
class Denoised:
    """The clean x that a noisy one may come from.

    Attributes:
        mean: the posterior mean of x, (N, ...): of angles that on the circle, of directions that of length 1.
        standard_error: of ``mean``, by :meth:`.Posterior.standard_error`, (N, ...).
        draws: L draws of x, (L, N, ...).
        posterior: the draws of z, and of x where it isn't summed over, and how far each datapoint's can be trusted.
    """

    mean: Tensor
    standard_error: Tensor
    draws: Tensor
    posterior: Posterior

    def __repr__(self) -> str:
        return short_repr(self)


class _Clean(Messenger):
    """Make the site that observes x one of the clean x, and observe x with noise.

    It becomes a latent, and x is observed at another site, not at all without noise; or, if clean cells have finitely
    many values, x is observed there with these summed over.
    """

    def __init__(self, x: Tensor, noise: NoiseModel | None) -> None:
        super().__init__()
        self._x, self._noise = x, noise
        self.names: list[str] = []
        self.latents: list[str] = []  # of them, those that aren't summed over

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["value"] is self._x and msg["name"] not in map(_noisy, self.names):
            self.names.append(msg["name"])
            if is_finite(msg["fn"]) and self._noise is not None:
                msg["fn"] = NoisyCells(msg["fn"], self._noise, self._x)
                return
            self.latents.append(msg["name"])
            msg["is_observed"], msg["value"], msg["done"] = False, None, False

    def _pyro_post_sample(self, msg: Any) -> None:
        if self._noise is not None and msg["name"] in self.latents:
            pyro.sample(_noisy(msg["name"]), self._noise(msg["value"]), obs=self._x)


def _noisy(name: str) -> str:
    return f"{name}_noisy"


@one_thread
def denoise(
    model: PyroCallable,
    guide: PyroCallable | None,
    x: Data,
    noise: NoiseModel,
    *args: Any,
    method: str = "auto",
    num_draws: int = 100,
    num_particles: int | None = None,
    chains: Chains = Chains(),  # noqa: B008  # it is frozen
    batch_size: int = 100,
    seed: int | None = None,
    vectorize: bool = True,
    compile: Compile = "auto",
    progress: bool = True,
    **kwargs: Any,
) -> Denoised:
    r"""Return the posterior mean of the clean x, given a noisy one and the law of the noise.

    Args:
        model: p(x, z) of clean x, called as ``model(x, *args, **kwargs)``; one site observes x itself, ``obs=x``, of
            cells that have finitely many values, or are continuous for ``"auto"`` and ``"hmc"``.
        guide: q(z|x), called likewise with the noisy x; ``None`` for chains alone.
        x: noisy, (N, ...), of any kind that :func:`~pyro_aevb.training.fit` takes; parts after the first are arguments
            that model and guide take besides.
        noise: from a clean x (..., M, ...) to the distribution of a noisy one, with a density and with the event
            dimensions of the model's site; noise of each cell by itself, if clean cells have finitely many values.  For
            super-resolution it is around the block means of the clean x, in the place of each of their cells.
        args: what model and guide take besides, datapoints first.
        method: as for :func:`.posterior`, likewise the other options.
        num_draws: L.
        num_particles: K.
        chains: options of the chains.
        batch_size: datapoints at a time.
        seed: of the draws.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        compile: the fast path.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name.

    Raises:
        ValueError, TypeError: for noise that isn't a function to a distribution of x with a density, or isn't one of
            angles where x is an angle, a model without a site for x or that reads x to make x, and as for
            :func:`.posterior`.

    >>> def model(x):  # x ~ N(0, 2), so that E[x | x_noisy] is 2 / 3 of it under noise of variance 1
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 3, 0.9))
    >>> found = denoise(model, guide, torch.tensor([0.0, 3.0]), lambda x: dist.Normal(x, 1.0), num_draws=1000, seed=0)
    >>> bool((found.mean - torch.tensor([0.0, 2.0])).abs().max() < 0.2)
    True
    """
    options = Options(method, num_draws, num_particles, chains, batch_size, seed, vectorize, compile, progress)
    check_callables(model, guide)
    streams = Streams(seed)
    x, *others = in_memory(x, streams, finite=True)
    args = (*others, *args)
    _check_noise(noise, x)
    check_options((model, guide), Arguments(x, *args, **kwargs), **options.given())
    for half, fn in (("model", model), ("guide", guide)):
        check_call(half, fn, (x[:1], *args), kwargs)
    names: list[str] = []
    latents: list[str] = []
    of_clean, proposal = _clean_pair(model, guide, noise, names, latents)
    batches, its_model, its_guide = over_minibatches(
        of_clean, None if guide is None else proposal, (x, *args), kwargs, batch_size, {}
    )
    first = next(iter(batches))
    read(its_model, None, first)  # whose run notes the sites
    reading = read(its_model, its_guide, first)
    name = the_site(names, reading)
    check_drawn_in(batches.arranged(model), first, name, 0, None)
    if not latents:
        check_cells(noise, x[:1])
    site = (reading.latents | reading.observations)[name]
    _check_turns(noise, x, site.fn)
    predictions = Predictions(name, Layout.of(site, reading), streams, vectorize, _clean_cells)
    keep: Any = predictions.drawn
    visit = (lambda model, gate, draws, places, args: keep.append(draws)) if latents else predictions.visit
    angles = visit_minibatches(its_model, its_guide, batches, options, streams, visit)
    found = joined(predictions.drawn, angles)
    draws, means = (found.draws[name],) * 2 if latents else predictions.all()
    mean = place_of(average(means, angles.get(name, NOT_ONE)), site.fn)
    return Denoised(mean, found.standard_error(place_deviations(means, site.fn)), draws, found)


def _clean_pair(
    model: PyroCallable, guide: PyroCallable | None, noise: NoiseModel, names: list[str], latents: list[str]
) -> tuple[PyroCallable, PyroCallable]:
    """Return the pair of a clean x and a noisy one, whose runs note the sites that observe x, and those of latents."""

    def of_clean(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        with _Clean(x, noise) as clean:
            result = model(x, *args, **kwargs)
        names[:], latents[:] = clean.names, clean.latents
        return result

    def proposal(x: Tensor, *args: Any, **kwargs: Any) -> None:
        assert guide is not None
        with poutine.trace() as drawn:
            guide(x, *args, **kwargs)
        if not latents:
            return
        clean = _Clean(x, None)
        with poutine.block(expose=latents), poutine.replay(trace=drawn.trace), clean:
            model(x, *args, **kwargs)

    return of_clean, proposal


def _clean_cells(fn: NoisyCells, num_draws: int, width: int) -> Predicted:
    return fn.predicted(num_draws, width)


def _check_noise(noise: Any, x: Tensor) -> None:
    """Raise unless the noise gives a distribution with a density, of the shape of x."""
    if not callable(noise):
        raise TypeError(f"expected noise as a function of the clean x, got {type(noise).__name__}; write {EXAMPLE}")
    with torch.no_grad(), forked(), poutine.block():
        fn = noise(x[:1])
        if not isinstance(fn, torch.distributions.Distribution) or fn.batch_shape + fn.event_shape != x[:1].shape:
            got = type(fn).__name__
            if isinstance(fn, torch.distributions.Distribution):
                got += f" of shape {tuple(fn.batch_shape + fn.event_shape)}"
            raise ValueError(
                f"expected noise that makes a distribution of x's shape {tuple(x[:1].shape)} from a clean x, "
                f"got {got}; write {EXAMPLE}"
            )
        try:
            fn.log_prob(x[:1])
        except NotImplementedError as error:
            raise ValueError(
                f"expected noise with a density, got {type(fn).__name__}, which has none; write {EXAMPLE}"
            ) from error


def _check_turns(noise: NoiseModel, x: Tensor, fn: Any) -> None:
    """Raise ``ValueError`` for noise of numbers where the clean cells are angles: across pi it is far too unlikely."""
    noisy = on_a_side(lambda: noise(x[:1]))
    if (are_angles(fn) & ~are_angles(noisy)).any():
        raise ValueError(
            f"expected noise of angles where clean cells are, got {type(innermost(noisy)).__name__}; write "
            "lambda clean: dist.VonMises(clean, 10.0).to_event(1), of the variance 1 / 10, nearly"
        )
