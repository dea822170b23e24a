r"""Means of x along paths in the latents: between datapoints, along one dimension, on a grid of two.

Shapes: N datapoints, T steps, J latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from pyro import poutine
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.distributions.angles import base_support, is_directional, unrolled, wrapped
from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.evidence.estimator import check_sizes
from pyro_aevb.model_guide.contract import check_callables, read
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.posterior.angles import NOT_ONE, angles_of, are_angles
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.data import over_own_minibatches, rows_of
from pyro_aevb.posterior.encode import codes_of
from pyro_aevb.posterior.likelihood import Likelihood, Redrawn, likelihood_of, one_of_sites
from pyro_aevb.posterior.noise import Streams
from pyro_aevb.posterior.posterior import Options
from pyro_aevb.posterior.proposals import At
from pyro_aevb.posterior.reconstruct import means_at
from pyro_aevb.random_state import forked, seeded

Path = Literal["straight", "spherical"]
PRIOR_DRAWS = 10_000  # for the quantiles of a prior whose inverse CDF can't be written down


@one_thread
def interpolate(
    model: PyroCallable,
    guide: PyroCallable | None,
    start: Any,
    end: Any,
    *,
    num_steps: int = 10,
    path: Path = "straight",
    site: str | None = None,
    method: str = "guide",
    num_draws: int = 100,
    num_particles: int | None = None,
    chains: Chains = Chains(),  # noqa: B008  # it is frozen
    batch_size: int = 100,
    seed: int | None = None,
    vectorize: bool = True,
    compile: Compile = "auto",
    progress: bool = True,
) -> Tensor:
    r"""Return the means of p(x|z) on the way from the codes of N datapoints to those of N others.

    Straight: z_t = (1 - t) z_0 + t z_1, of angles the shorter way round.  Spherical: along the great circle, z_t =
    [sin((1 - t) a) z_0 + sin(t a) z_1] / sin a, with a the angle between z_0 and z_1 (White 2016, *Sampling generative
    networks*), each latent by itself.

    Args:
        model: p(x, z); what it reads besides x is that of ``start``.
        guide: q(z|x), or ``None``.
        start: N datapoints, of any kind that :func:`~pyro_aevb.training.fit` takes; a tuple for several arguments.
        end: as many others.
        num_steps: T, both ends among them.
        path: ``"straight"``, or ``"spherical"`` for latents that may be any real numbers, and those of length 1.
        site: the name of the site of x; needed if there are several.
        method: of the codes, as for :func:`.encode`, likewise the options that follow.
        num_draws: L.
        num_particles: K.
        chains: options of the chains.
        batch_size: datapoints at a time.
        seed: of the draws.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        compile: the fast path.
        progress: whether to show a progress bar after a second.

    Returns:
        (T, N, ...).

    Raises:
        ValueError, TypeError: for other numbers of datapoints, fewer than 2 steps, latents that the path leaves the
            support of, and as for :func:`.encode`.

    >>> from pyro_aevb import VAE
    >>> from pyro_aevb.posterior import interpolate
    >>> vae = VAE(8, 2)
    >>> interpolate(vae.model, vae.guide, torch.zeros(3, 8), torch.ones(3, 8), num_steps=5).shape
    torch.Size([5, 3, 8])
    """
    check_sizes(num_steps=num_steps)
    check_callables(model, guide)
    if num_steps < 2:
        raise ValueError(f"expected num_steps of 2 or more, got {num_steps}; both ends are among them")
    if path not in get_args(Path):
        raise ValueError(f"expected path out of {list(get_args(Path))}, got {path!r}; the default is 'straight'")
    options = Options(method, num_draws, num_particles, chains, batch_size, seed, vectorize, compile, progress)
    streams = Streams(seed)
    opened = _open(model, guide, _as_args(start), {}, options, site, streams)
    other = _open(model, guide, _as_args(end), {}, options, site, streams)
    if len(opened.rows[0]) != len(other.rows[0]):
        raise ValueError(
            f"expected as many datapoints at both ends, got {len(opened.rows[0])} and {len(other.rows[0])}; repeat "
            "one: x.expand(N, ...)"
        )
    along = _straight if path == "straight" else _spherical
    pairs = {
        name: (code, other.codes[name], opened.prior(name, None), opened.angles.get(name, NOT_ONE))
        for name, code in opened.codes.items()
    }
    steps = [step / (num_steps - 1) for step in range(num_steps)]
    places = [{name: along(*each, step) for name, each in pairs.items()} for step in steps]
    return torch.stack([opened.means(place, batch_size) for place in places])


@one_thread
def traverse(
    model: PyroCallable,
    guide: PyroCallable | None,
    *args: Any,
    latent: str | None = None,
    num_steps: int = 7,
    coverage: float = 0.9,
    site: str | None = None,
    method: str = "guide",
    num_draws: int = 100,
    num_particles: int | None = None,
    chains: Chains = Chains(),  # noqa: B008  # it is frozen
    batch_size: int = 100,
    seed: int | None = None,
    vectorize: bool = True,
    compile: Compile = "auto",
    progress: bool = True,
    **kwargs: Any,
) -> Tensor:
    r"""Return the means of p(x|z) with one latent dimension at a time at quantiles of the prior, others at the codes.

    The quantiles are equally spaced, and the middle T of the prior's; given the latents before it, if it depends on
    these.  Where its inverse CDF can't be written down they are those of 10,000 draws.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)``.
        guide: q(z|x), called likewise.
        args: N datapoints, of any kind that :func:`~pyro_aevb.training.fit` takes.
        latent: the name of the latent; needed if there are several.
        num_steps: T.
        coverage: the probability between the first and the last quantile.
        site: the name of the site of x; needed if there are several.
        method: of the codes, as for :func:`.encode`, likewise the options that follow.
        num_draws: L.
        num_particles: K.
        chains: options of the chains.
        batch_size: datapoints at a time.
        seed: of the draws.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        compile: the fast path.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name.

    Returns:
        (J, T, N, ...).

    Raises:
        ValueError, TypeError: for a coverage that isn't between 0 and 1, a latent whose dimensions can't be moved one
            by one, and as for :func:`.encode`.

    >>> from pyro_aevb import VAE
    >>> from pyro_aevb.posterior import traverse
    >>> vae = VAE(8, 2)
    >>> traverse(vae.model, vae.guide, torch.zeros(3, 8), num_steps=5).shape
    torch.Size([2, 5, 3, 8])
    """
    check_sizes(num_steps=num_steps)
    check_callables(model, guide)
    if not 0 < coverage < 1:
        raise ValueError(f"expected coverage between 0 and 1, got {coverage}; 0.9 leaves a twentieth on each side")
    options = Options(method, num_draws, num_particles, chains, batch_size, seed, vectorize, compile, progress)
    opened = _open(model, guide, args, kwargs, options, site, Streams(seed))
    name = one_of_sites(list(opened.codes), latent, "latent", "latent")
    code = opened.codes[name]
    ends = (1 - coverage) / 2, (1 + coverage) / 2
    q = torch.linspace(*ends, num_steps, dtype=code.dtype) if num_steps > 1 else torch.tensor([0.5], dtype=code.dtype)
    quantiles = opened.quantiles(name, q.to(code.device), seed).reshape(num_steps, len(code), -1)  # (T, N, J)
    flat = code.flatten(1) if code.dim() > 1 else code[:, None]
    support, found = opened.prior(name, None).support, []
    for dim in range(flat.shape[1]):
        for step in range(num_steps):
            moved = flat.clone()
            moved[:, dim] = quantiles[step, :, dim]
            place = opened.codes | {name: moved.reshape(code.shape)}
            opened.check(name, place[name], support)
            found.append(opened.means(place, batch_size))
    return torch.stack(found).reshape(flat.shape[1], num_steps, *found[0].shape)


@one_thread
def manifold(
    model: PyroCallable,
    guide: PyroCallable | None,
    *args: Any,
    side: int = 20,
    site: str | None = None,
    batch_size: int = 1000,
    **kwargs: Any,
) -> Tensor:
    """Return the means of p(x|z) on a grid of 2 latent dimensions: the unit square through the prior's inverse CDF.

    Kingma & Welling 2013, Appendix A and Figure 4.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)``; one latent of 2 dimensions.
        guide: as for the other verbs; it isn't run.
        args: one row of data; what the sites observe doesn't count, only what the model reads besides.
        side: of the grid.
        site: the name of the site of x; needed if there are several.
        batch_size: places at a time.
        kwargs: what the model takes by name.

    Returns:
        (side^2, ...), from left to right and from the top to the bottom.

    Raises:
        ValueError: for other than two latent dimensions, and a prior whose dimensions depend on each other or that has
            no inverse CDF.

    >>> from pyro_aevb import VAE
    >>> from pyro_aevb.posterior import manifold
    >>> vae = VAE(8, 2)
    >>> manifold(vae.model, None, torch.zeros(1, 8), side=3).shape
    torch.Size([9, 8])
    """
    check_sizes(side=side, batch_size=batch_size)
    check_callables(model, guide)
    batches, model, _ = over_own_minibatches(model, None, args, kwargs, batch_size, {}, Streams(0))
    one = tuple(row[:1] for row in rows_of(batches))
    likelihood = likelihood_of(model, one, site)
    name = one_of_sites(list(likelihood.latents), None, "latent")
    prior = _Opened(model, likelihood, one, {}).prior(name, None)
    dims = prior.event_shape.numel() * math.prod(prior.batch_shape[1:])
    if dims != 2:
        raise ValueError(f"expected 2 latent dimensions for a manifold, got {dims}; draw samples instead")
    try:
        u = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        vertical, horizontal = torch.meshgrid(u.flip(0), u, indexing="ij")
        square = torch.stack([horizontal, vertical], -1).reshape(-1, 2)
        codes = _inverse_cdf(prior, square)
    except (AttributeError, NotImplementedError) as error:
        raise ValueError(
            "expected a prior of independent latents with an inverse CDF for a manifold, got "
            f"{type(innermost(prior)).__name__}; draw samples instead"
        ) from error
    rows = tuple(row.expand(side * side, *row.shape[1:]) for row in one)
    return _Opened(model, likelihood, rows, {}).means({name: codes}, batch_size)


NONE: Mapping[str, Tensor] = {}


class _Opened(NamedTuple):
    """A model, N rows of its arguments, the codes of these, and which of them are angles, as :func:`.angles_of`."""

    model: PyroCallable
    likelihood: Likelihood
    rows: tuple[Tensor, ...]
    codes: dict[str, Tensor]
    angles: Mapping[str, Tensor] = NONE

    @torch.no_grad()
    def means(self, place: dict[str, Tensor], batch_size: int) -> Tensor:
        """Return the means of x at latents (N, ...)."""
        with evaluated(self.model, None) as (its_model, _, _), forked():
            return means_at(its_model, self.likelihood, place, self.rows, batch_size)

    @torch.no_grad()
    def prior(self, name: str, seed: int | None) -> Any:
        """Return the prior of a latent for these rows, given the codes of the latents before it."""
        at = self.likelihood.in_a_run({each: code for each, code in self.codes.items() if each != name})
        run = Redrawn((self.likelihood.site,))
        with evaluated(self.model, None) as (its_model, _, _), seeded(seed or 0), poutine.block(), At(at), run:
            its_model(*self.rows)
        return run.latent_fns[name]

    def quantiles(self, name: str, q: Tensor, seed: int | None) -> Tensor:
        """Return the quantiles (T,) of a latent's prior, (T, N, ...)."""
        prior, layout, size = self.prior(name, seed), self.likelihood.latents[name], len(self.rows[0])
        try:
            shape = prior.batch_shape + prior.event_shape
            found = [_inverse_cdf(prior, each.expand(shape)) for each in q]
        except (AttributeError, NotImplementedError):
            with seeded(seed or 0):
                draws = prior.sample((PRIOR_DRAWS,))
            angle = are_angles(prior)
            order = unrolled(draws, angle).sort(0).values
            found = [order[min(PRIOR_DRAWS - 1, int(each * PRIOR_DRAWS))] for each in q.tolist()]
            found = [torch.where(angle.to(each.device), wrapped(each), each) for each in found]
        return torch.stack([layout.datapoints_second(each, 1, size)[0] for each in found])

    def check(self, name: str, value: Tensor, support: Any) -> None:
        """Raise ``ValueError`` unless a place (N, ...) is in the support of a latent."""
        at = self.likelihood.in_a_run({name: value})[name]
        if not support.check(at).all():
            raise ValueError(
                f"expected a latent whose dimensions can be moved one by one, got site {name!r} with the support "
                f"{support}; use interpolate between datapoints"
            )


def _open(
    model: PyroCallable,
    guide: PyroCallable | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    site: str | None,
    streams: Streams,
) -> _Opened:
    given = options.given()
    batches, model, guide = over_own_minibatches(model, guide, args, kwargs, options.batch_size, given, streams)
    codes = codes_of(model, guide, batches, options, streams)
    rows = rows_of(batches)
    angles = angles_of(read(model, guide, next(iter(batches))))
    return _Opened(model, likelihood_of(model, rows, site), rows, codes, angles)


def _as_args(data: Any) -> tuple[Any, ...]:
    return data if isinstance(data, tuple) else (data,)


def _inverse_cdf(prior: Any, u: Tensor) -> Tensor:
    """Return the inverse CDF of a distribution of independent cells at ``u``; ``AttributeError`` for others."""
    base = prior
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if base.event_shape:
        raise NotImplementedError
    with forked():
        like = base.sample()  # of the dtype and on the device of its own
    return base.icdf(u.to(like))


def _straight(start: Tensor, end: Tensor, prior: Any, angle: Tensor, t: float) -> Tensor:
    """Return the place t of the way from ``start`` to ``end``, (N, ...) each."""
    if is_directional(prior):
        raise ValueError(
            f"expected latents with a straight path between them, got values of length 1, {prior.support}; use "
            "path='spherical'"
        )
    around = wrapped(start + t * wrapped(end - start))
    return torch.where(angle.to(start.device), around, (1 - t) * start + t * end)


def _spherical(start: Tensor, end: Tensor, prior: Any, angle: Tensor, t: float) -> Tensor:
    """Return the place t of the way along the great circle from ``start`` to ``end``, (N, ...) each."""
    if is_directional(prior):
        a, b = start, end
    elif base_support(prior) is torch.distributions.constraints.real and not angle.any():
        a, b = (each.flatten(1) if each.dim() > 1 else each[:, None] for each in (start, end))
    else:
        got = "angles" if angle.any() else f"the support {prior.support}"
        raise ValueError(
            f"expected latents that may be any real numbers for a spherical path, got {got}; use path='straight'"
        )
    cosine = (a * b).sum(-1, keepdim=True) / (a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True))
    between = cosine.nan_to_num(1.0).clamp(-1, 1).arccos()
    flat = between.sin() < 1e-4  # the same direction, or opposite ones, between which any circle leads
    ahead = torch.where(flat, 1 - t, ((1 - t) * between).sin() / between.sin())
    behind = torch.where(flat, t, (t * between).sin() / between.sin())
    return (ahead * a + behind * b).reshape(start.shape)
