r"""Missing cells of x, from p(x_missing | x_observed).

.. math:: p(x_m | x_o) = \int p(x_m | z) \, p(z | x_o) \, dz, \qquad p(z | x_o) \propto p(z) \, p(x_o | z)

z is drawn as :func:`.posterior` draws it, the likelihood being that of the observed cells; by weights it is the
importance sampling of Mattei and Frellsen, *MIWAE: deep generative modelling and imputation of incomplete data sets*,
2019, Section 3.

Data that are missing not at random have a model of (x_observed, mask): it takes ``observed``, and the missing cells are
a latent of its own, "x_missing" beside "x".  Their draws are from p(x_missing | x_observed, mask).

Shapes: N datapoints, L draws, M of a minibatch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.arguments import Arguments
from pyro_aevb.capture.capture import Compile
from pyro_aevb.data_source import Data
from pyro_aevb.distributions.angles import unrolled
from pyro_aevb.evidence.estimator import over_minibatches
from pyro_aevb.model_guide.contract import check_call, check_callables, check_options, read, takes
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.posterior.angles import NOT_ONE, are_angles, average, deviations, on_the_circle
from pyro_aevb.posterior.cells import ObservedCells, are_discrete, filled_in, predicted, the_site
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.data import in_memory
from pyro_aevb.posterior.gibbs import Gibbs
from pyro_aevb.posterior.likelihood import check_drawn_in
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.posterior.posterior import Options, Posterior, joined, visit_minibatches
from pyro_aevb.posterior.predictions import Predicted, Predictions
from pyro_aevb.posterior.proposals import Layout
from pyro_aevb.short_repr import short_repr

GIBBS = "gibbs"
METHODS: tuple[str, ...] = ("auto", "guide", "importance", "hmc", "gibbs")


@dataclass(frozen=True)
class Imputed:
    """x with its missing cells filled in; where a cell is observed, every field has its value.

    Attributes:
        draws: L draws from p(x_missing | x_observed), (L, N, ...).
        mean: the mean of each cell, (N, ...): that of p(x|z) over the draws of z, if it has one.
        standard_error: of ``mean``, by :meth:`.Posterior.standard_error`, (N, ...); 0 for an observed cell.
        mode: the most frequent draw of each cell that is a category or a count, (N, ...), NaN for other cells; ``None``
            if no cell is.
        posterior: the draws of z, and how far each datapoint's can be trusted.
        angle: which cells are angles, of bool, of a shape that x's broadcasts to: () or (D,).  Their mean is that on
            the circle, and its error in radians along it; the ends of an interval are then numbers within half a turn
            of it, and may be beyond -pi and pi.
    """

    draws: Tensor
    mean: Tensor
    standard_error: Tensor
    mode: Tensor | None
    posterior: Posterior
    angle: Tensor = NOT_ONE

    def __repr__(self) -> str:
        return short_repr(self)

    def interval(self, coverage: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return the ends of the central interval of each cell, (N, ...) each.

        Of L independent draws the k-th smallest has k / (L + 1) of the distribution below it, in expectation, so that
        the ends are at ranks (L + 1) q; L draws reach (L - 1) / (L + 1) at most.

        Args:
            coverage: its probability.

        Raises:
            ValueError: for a probability that isn't between 0 and 1.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"expected coverage between 0 and 1, got {coverage}; 0.9 leaves a twentieth on each side")
        draws = torch.as_tensor(self.draws)  # an array, as a method of a VAE gives it
        draws = draws if draws.is_floating_point() else draws.to(torch.get_default_dtype())
        draws = unrolled(draws, torch.as_tensor(self.angle))
        size = len(draws)
        places = [((size + 1) * (1 + side * coverage) / 2 - 1) / max(size - 1, 1) for side in (-1, 1)]
        ends: Any = [draws.quantile(min(max(place, 0.0), 1.0), 0) for place in places]
        return tuple(ends) if isinstance(self.draws, Tensor) else tuple(end.numpy() for end in ends)


@one_thread
def impute(
    model: PyroCallable,
    guide: PyroCallable | None,
    x: Data,
    observed: Any = None,
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
) -> Imputed:
    r"""Fill in the missing cells of x from p(x_missing | x_observed), by draws of z that can be trusted.

    The guide sees 0 in the place of a missing cell; what it makes of that is only a proposal, which is weighed and
    refined as in :func:`.posterior`, unless ``method="guide"`` asks for one pass of the encoder.  A datapoint without
    any observed cell is drawn from the prior.  Model and guide are passed ``observed``, by name, if they take an
    argument of this name.  If the model then samples the missing cells, at a site that is called like that of x with
    ``_missing`` behind it, and of x's shape, they are drawn with z, given all that it observes: the mask, if data are
    missing not at random.

    Args:
        model: p(x, z), called as ``model(x, *args, **kwargs)``; one site observes x itself, ``obs=x``, whose cells are
            independent given z: by ``.to_event(n)``, a plate, or :class:`~pyro_aevb.vae.columns.Columns`.
        guide: q(z|x), called likewise; ``None`` for chains alone.
        x: (N, ...), of any kind that :func:`~pyro_aevb.training.fit` takes, of which ``observed`` may be the second
            part; what stands in a missing cell doesn't count.
        observed: of x's shape and of bool, true for cells that are there; by default those that aren't NaN.
        args: what model and guide take besides, datapoints first.
        method: as for :func:`.posterior`, or ``"gibbs"``: chains whose proposals are the guide's at filled-in rows
            (:mod:`pyro_aevb.posterior.gibbs`), for a guide that was trained on whole rows and for discrete latents; it
            is run on whole minibatches.  Likewise the other options.
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
        ValueError, TypeError: for a mask of another shape or kind, observed values outside of the likelihood's support,
            a model without a site for x or with one whose cells can't be left out, or that reads a missing cell to make
            x, missing cells of another shape than x's, and as for :func:`.posterior`.

    >>> def model(x):  # two columns that share z: x_1 given x_0 is N(x_0 / 2, 3 / 2)
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
    ...         pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 2), 1.0).to_event(1), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x.sum(-1) / 2, 0.8))
    >>> x = torch.tensor([[2.0, float("nan")]])
    >>> found = impute(model, guide, x, num_draws=1000, seed=0)
    >>> bool((found.mean - torch.tensor([[2.0, 1.0]])).abs().max() < 0.1)
    True
    >>> bool((found.draws[..., 1].var() - 1.5).abs() < 0.3)
    True
    """
    options = Options(method, num_draws, num_particles, chains, batch_size, seed, vectorize, compile, progress)
    check_callables(model, guide)
    streams = Streams(seed)
    x, observed, args = _cells(x, observed, args, streams)
    call = Arguments(x, *args, **kwargs)
    check_options((model, guide), call, **options.given())
    masked = {half: takes(fn, "observed", call) for half, fn in (("model", model), ("guide", guide))}
    for half, fn in (("model", model), ("guide", guide)):
        check_call(half, fn, (x[:1], *args), kwargs | ({"observed": observed[:1]} if masked[half] else {}))
    names: list[str] = []

    def of_x(observed: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return model(x, *args, **kwargs, **({"observed": observed} if masked["model"] else {}))

    def of_observed(observed: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        with ObservedCells(x, observed) as cells:
            result = of_x(observed, x, *args, **kwargs)
        names[:] = cells.names
        return result

    def proposal(observed: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        assert guide is not None
        return guide(x, *args, **kwargs, **({"observed": observed} if masked["guide"] else {}))

    batches, its_model, its_guide = over_minibatches(
        of_observed, None if guide is None else proposal, (observed, x, *args), kwargs, batch_size, {}
    )
    first = next(iter(batches))
    reading = read(its_model, its_guide, first)
    name = the_site(names, reading)
    for batch in batches:
        check_drawn_in(batches.arranged(of_x), batch, name, 1, ~batch[0])
    latent = _missing_cells(name, reading)
    layout = Layout.of(reading.observations[name], reading)
    predictions = Predictions(name, layout, streams, vectorize, predicted)
    keep: Any = predictions.drawn
    visit = predictions.visit if latent is None else (lambda model, gate, draws, places, args: keep.append(draws))
    others = {} if latent is not None else {GIBBS: functools.partial(Gibbs, site=name)}
    angles = visit_minibatches(its_model, its_guide, batches, options, streams, visit, others)
    observed, x = (torch.cat([batch[place] for batch in batches]) for place in (0, 1))
    found = joined(predictions.drawn, angles)
    fn = reading.observations[name].fn
    angle = are_angles(fn) if latent is None else are_angles(fn) | found.angles.get(latent, NOT_ONE)
    draws = None if latent is None else found.draws[latent]
    cells = predictions.all() if draws is None else Predicted(draws, on_the_circle(draws, angle))
    return _filled(cells, fn, angle, found, x, observed)


def _missing_cells(name: str, reading: Reading) -> str | None:
    """Return the name of the latent that x's missing cells are, or ``None``; raise for one of another shape."""
    latent = f"{name}_missing"
    if latent not in reading.latents:
        return None
    sites = reading.latents[latent], reading.observations[name]
    shapes = [tuple(site.batch_shape + site.fn.event_shape) for site in sites]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"expected missing cells at site {latent!r} of the shape {shapes[1]} of site {name!r}, got {shapes[0]}; "
            "sample all cells there, of which those that are observed don't count, or give the site another name"
        )
    return latent


def _filled(found: Predicted, fn: Any, angle: Tensor, posterior: Posterior, x: Tensor, observed: Tensor) -> Imputed:
    """Return x with draws in its missing cells."""
    discrete, mode = are_discrete(fn).to(x.device), None
    draws = filled_in(x, observed, found.draws, fn)
    error = torch.where(observed, 0.0, posterior.standard_error(deviations(found.mean, angle)))
    mean = average(found.mean, angle)
    mean = torch.where(observed, x.to(mean), mean)
    if discrete.any():
        frequent = torch.where(observed, x, draws.mode(0).values)
        mode = frequent if discrete.all() else torch.where(discrete, frequent.to(mean), torch.nan)
    return Imputed(draws, mean, error, mode, posterior, angle)


def _cells(x: Any, observed: Any, args: tuple[Any, ...], streams: Streams) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Return x with 0 in its missing cells, which are there, and the other arguments; raise for a mask that isn't one.

    Data that have several parts bring the mask, if it is of bool, and the arguments after it.
    """
    if isinstance(x, np.ma.MaskedArray):
        x, hidden = x.filled(0), np.ma.getmaskarray(x)
        observed = ~hidden if observed is None else observed
    x, *others = (each.detach() for each in in_memory(x, streams, finite=False))
    if observed is None and others and others[0].dtype == torch.bool:
        observed = others.pop(0)
    observed = ~x.isnan() if observed is None else torch.as_tensor(observed, device=x.device)
    if observed.dtype != torch.bool or observed.shape != x.shape:
        raise ValueError(
            f"expected observed of bool and of x's shape {tuple(x.shape)}, got {observed.dtype} of shape "
            f"{tuple(observed.shape)}; pass ~x.isnan(), or observed.bool().expand(x.shape)"
        )
    if x[observed].isinf().any():
        raise ValueError("expected finite values in the observed cells, got infinite ones; leave them out of observed")
    return torch.where(observed, x, torch.zeros((), dtype=x.dtype, device=x.device)), observed, (*others, *args)
