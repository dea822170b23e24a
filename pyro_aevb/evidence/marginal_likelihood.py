"""log p(x) per datapoint, with an error bar and a direction: one call, seven estimators.

Each estimator has a file of its own; checks, minibatches, seeds, progress and the warning of tails are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.evidence.annealing import AIS, BDMC
from pyro_aevb.evidence.auto import Auto
from pyro_aevb.evidence.estimates import Evidence, concatenate
from pyro_aevb.evidence.estimator import Estimator, Evaluate, Problem, check_sizes, over_minibatches
from pyro_aevb.evidence.global_draws import GlobalDraws, check_given, condition, predictive
from pyro_aevb.evidence.importance import Importance
from pyro_aevb.evidence.importance_weights import SAFE_PARETO_K
from pyro_aevb.evidence.posterior_density import PosteriorDensity
from pyro_aevb.evidence.quadrature import Quadrature
from pyro_aevb.evidence.smc import SMC
from pyro_aevb.evidence.summed import summed
from pyro_aevb.model_guide.contract import check_callables, read
from pyro_aevb.model_guide.contract import given as given_options
from pyro_aevb.model_guide.guide_supports import TURNS_OF_WEIGHTS, narrower, wider
from pyro_aevb.model_guide.guide_values import enumerated, summed_in_model
from pyro_aevb.model_guide.local_densities import require_local_densities
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.progress_bar import DATAPOINTS, progress_bar
from pyro_aevb.random_state import seeded
from pyro_aevb.warning import warn

METHODS: dict[str, type[Estimator]] = {
    "importance": Importance,
    "auto": Auto,
    "posterior-density": PosteriorDensity,
    "ais": AIS,
    "smc": SMC,
    "bdmc": BDMC,
    "quadrature": Quadrature,
}


# The effective sample size of weights of which one is four fifths.  Of K = 16 log weights with a standard deviation of
# 1, whose intervals are nearly right, hardly any have less; with 3, whose intervals often miss the truth, a third.
SMALLEST_SIZE = 1.5
FEWEST_WEIGHTS = 8  # fewer are so by choice, and Student's t makes their intervals wide


@one_thread
@torch.no_grad()
def log_marginal_likelihood(
    model: PyroCallable,
    guide: PyroCallable | None,
    *args: Any,
    method: str | Estimator = "importance",
    num_particles: int | None = None,
    num_global_draws: int = 20,
    given: Mapping[str, Tensor] | None = None,
    batch_size: int = 100,
    seed: int | None = None,
    vectorize: bool = True,
    compile: Compile = "auto",
    progress: bool = True,
    **kwargs: Any,
) -> Evidence:
    r"""Estimate log p(x_n) = log int p(x_n, z) dz for each datapoint, in nats, larger is better.

    ============================ ============================================================= ==================
    method                       what it does                                                  direction
    ============================ ============================================================= ==================
    ``"importance"``             log mean weight of K draws from the guide: the IWAE bound L_K lower
    ``"auto"``                   quadrature up to 3 latent dimensions, else importance, or AIS numerical or lower
    ``"posterior-density"``      Kingma & Welling 2013, Appendix D                             upper
    ``"ais"``                    annealed importance sampling, prior (or guide) to joint       lower
    ``"smc"``                    annealed sequential Monte Carlo: AIS with resampling          lower
    ``"bdmc"``                   AIS both ways on data simulated from the model, or ``chain=`` both
    ``"quadrature"``             an integral over a tree of cells, up to 3 latent dimensions   numerical
    ============================ ============================================================= ==================

    In a model with global latents w, outside of the data plate, the estimate is of the posterior predictive density of
    each datapoint by itself, log E_q(w)[p(x_n|w)], from draws of w; given values of w, it is of log p(x_n|w).

    Where all latents are summed out, the methods that would move them give the exact value, its direction
    ``"numerical"``.

    Masks in the model count, scales (N/M, ``poutine.scale``) don't.  Given the noise, the numbers of a datapoint depend
    on that datapoint alone; its neighbours, batches and order only change which noise it gets.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)`` with minibatches of the data.
        guide: q(z|x), called likewise; ``None`` for a model without one (all methods but importance).
        args: the data, datapoints first, of any kind that :func:`~pyro_aevb.training.fit` takes; the first tensor is x,
            of shape (N, ...).  Or all of the data, a ``Dataset``, a ``DataLoader`` or :class:`~pyro_aevb.Arguments`.
        method: a name, or an :class:`~pyro_aevb.evidence.Estimator` with its options:
            :class:`~pyro_aevb.evidence.Importance`, :class:`~pyro_aevb.evidence.Auto`,
            :class:`~pyro_aevb.evidence.PosteriorDensity`, :class:`~pyro_aevb.evidence.AIS`,
            :class:`~pyro_aevb.evidence.SMC`, :class:`~pyro_aevb.evidence.BDMC`,
            :class:`~pyro_aevb.evidence.Quadrature`, or one of your own.
        num_particles: K draws, AIS chains or posterior samples for each datapoint; by default the method's choice.
        num_global_draws: S draws from the guide of the global latents, if there are any; the method runs given each.
        given: values of global latents, by name: ``{"w": value}``.
        batch_size: datapoints evaluated at a time; bounds memory.
        seed: a seed for the noise; the global generators are then left as they were.
        vectorize: whether all particles are evaluated in one pass; ``False`` for a model that can't take z of shape
            (K, M, J).
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name.

    Raises:
        ValueError, TypeError: for data, sizes, options or a pair that can't be used, and for a datapoint whose weights
            are all zero.

    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.9))
    >>> x = torch.tensor([0.0, 2.0])  # log N(x; 0, 2) = -1.2655, -2.2655
    >>> evidence = log_marginal_likelihood(model, guide, x, num_particles=10_000, seed=0)
    >>> [round(v, 2) for v in evidence.value.tolist()], evidence.direction, bool((evidence.standard_error < 0.01).all())
    ([-1.26, -2.27], 'lower', True)
    >>> exact = log_marginal_likelihood(model, guide, x, method="quadrature", seed=0)
    >>> [round(v, 4) for v in exact.value.tolist()], exact.direction
    ([-1.2655, -2.2655], 'numerical')
    """
    estimator = _estimator(method)
    check_sizes(num_particles=num_particles, num_global_draws=num_global_draws)
    check_callables(model, guide)
    options = given_options(
        method=(method, "importance"), num_particles=(num_particles, None), num_global_draws=(num_global_draws, 20),
        given=(given, None), batch_size=(batch_size, 100), seed=(seed, None), vectorize=(vectorize, True),
        compile=(compile, "auto"), progress=(progress, True),
    )  # fmt: skip
    batches, model, guide = over_minibatches(model, guide, args, kwargs, batch_size, options)
    first = next(iter(batches))
    if given:
        model, guide = condition(model, guide, given)
    reading = _check_pair(model, guide, batches, estimator)
    check_given(reading, given or {})
    if reading.global_latents:
        _check_predictive(estimator, reading)
    else:
        num_global_draws = 1
    prepare, model, guide = _over_the_rest(estimator, model, guide, reading)
    num_batches = len(batches) * num_global_draws
    problem = Problem(model, guide, first, num_particles, num_batches, vectorize, compile)
    with (
        evaluated(model, guide) as (its_model, its_guide, _),
        seeded(seed),
        _bar(batches.num_data, progress) as bar,
    ):
        given_draws = None
        if reading.global_latents:
            given_draws = GlobalDraws(its_model, its_guide, reading, first)
            its_model, its_guide = given_draws.model, given_draws.guide
        evaluate = prepare(problem._replace(model=its_model, guide=its_guide))
        each: list[Evidence] = []  # given each draw of the global latents
        for draw in range(num_global_draws):
            if draw and given_draws is not None:
                given_draws.renew()
            sizes = [len(batch[0]) / num_global_draws for batch in batches]
            parts = [evaluate(_advance(bar, size), *batch) for size, batch in zip(sizes, batches, strict=True)]
            each.append(concatenate(parts))
    evidence = each[0] if given_draws is None else predictive(each)
    _warn_of_tails(evidence.pareto_k)
    weights = num_particles if given_draws is None else num_global_draws
    few_on_purpose = weights is not None and weights < FEWEST_WEIGHTS
    if not few_on_purpose and (given_draws is not None or not isinstance(estimator, Importance)):
        _warn_of_one(evidence)
    return evidence


def _bar(num_data: int, progress: bool) -> Any:
    return progress_bar(show=progress, total=float(num_data), desc="log p(x)", bar_format=DATAPOINTS, delay=1)


def _advance(bar: Any, num_data: float) -> Callable[[float], None]:
    return lambda part: bar.update(part * num_data)


def _check_predictive(estimator: Estimator, reading: Reading) -> None:
    """Raise ``ValueError`` for global latents that there is nothing to draw from, or no estimate of this kind with."""
    name = next(iter(reading.global_latents))
    if not reading.guide:
        raise ValueError(
            f"expected a guide that samples the global latent {name!r}, got none; pass the guide, or a value: "
            f"given={{{name!r}: value}}"
        )
    if isinstance(estimator, PosteriorDensity | BDMC):
        raise ValueError(
            f"expected a method with a lower bound for log E_q(w)[p(x|w)], got {type(estimator).__name__} for a model "
            f"with the global latent {name!r}; use importance, 'auto', 'ais' or 'smc', or pass a value: "
            f"given={{{name!r}: value}}"
        )


def _estimator(method: str | Estimator) -> Estimator:
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"expected a method out of {list(METHODS)} or an object such as AIS(...), got {method!r}")
        return METHODS[method]()
    if not isinstance(method, Estimator):
        raise TypeError(
            f"expected a method's name or an object such as AIS(num_temperatures=100), got {method!r}; derive a method "
            "of your own from pyro_aevb.evidence.Estimator"
        )
    return method


def _over_the_rest(
    estimator: Estimator, model: PyroCallable, guide: PyroCallable | None, reading: Reading
) -> tuple[Callable[[Problem], Evaluate], PyroCallable, PyroCallable | None]:
    """Return what prepares a method, and its pair: the model sums out what the guide enumerates, where a method can't.

    With nothing left to be moved or integrated over, log p(x) is the model's own number.
    """
    names = list(enumerated(reading, guide))
    if not reading.latents.keys() - set(names) and isinstance(
        estimator, Auto | AIS | SMC | PosteriorDensity | Quadrature
    ):
        return summed, summed_in_model(model, names), guide
    if not names or isinstance(estimator, Importance):
        return estimator.prepare, model, guide
    if getattr(getattr(estimator, "annealing", estimator), "start", "prior") == "guide":
        raise ValueError(
            f"expected a start from the prior, got start='guide' for a guide that enumerates {names}, which are summed "
            "out of the model; leave start='guide' out, or use method='importance'"
        )
    return estimator.prepare, summed_in_model(model, names), guide if isinstance(estimator, Auto) else None


def _draws_from_guide(estimator: Estimator) -> bool:
    """Return whether the guide is only drawn from, if at all, so that auxiliary sites of it are integrated out."""
    if isinstance(estimator, AIS | SMC):
        return estimator.start == "prior"
    return isinstance(estimator, Importance) or (isinstance(estimator, Auto) and estimator.annealing.start == "prior")


def _weighs_by_guide(estimator: Estimator) -> bool:
    """Return whether log q(z|x) is a term; without it a guide is a place to begin at, if it is used at all."""
    if isinstance(estimator, Quadrature):
        return False
    annealing = estimator.annealing if isinstance(estimator, BDMC) else estimator
    return not (isinstance(annealing, AIS | SMC) and annealing.start == "prior")


def _check_pair(
    model: PyroCallable, guide: PyroCallable | None, batches: Iterable[tuple[Any, ...]], estimator: Estimator
) -> Reading:
    """Read the pair on each minibatch; raise ``ValueError`` if log p(x) isn't what would come out."""
    left_out: str | None = None
    for batch in batches:
        reading = read(model, guide, batch)
        reading.require_summed()
        reading.require_density()
        others = [*reading.sites("guide", "by-product"), *reading.sites("guide", "auxiliary")]
        if others and not _draws_from_guide(estimator):
            raise ValueError(
                f"expected a guide whose density is that of the model's latents, got auxiliary sites {others}; "
                "use method='importance', which integrates them out, or pass guide=None"
            )
        if _weighs_by_guide(estimator):
            require_local_densities(reading, model, guide, batch)
            left_out = left_out or narrower(reading, model, batch)
            turns = None if guide is None else wider(reading, guide, batch, most=TURNS_OF_WEIGHTS)
            if turns is not None and not _anneals_the_rest(estimator):
                raise ValueError(turns)
    if left_out is not None and isinstance(estimator, PosteriorDensity | BDMC):  # whose upper side isn't above then
        raise ValueError(left_out)
    if left_out is not None and not _anneals_the_rest(estimator):
        warn(left_out)
    return reading


def _anneals_the_rest(estimator: Estimator) -> bool:
    """Return whether a method leaves a guide aside that its weights can't tell the truth about."""
    return isinstance(estimator, Auto) and estimator.annealing.start == "prior"


def _warn_of_tails(pareto_k: Tensor | None) -> None:
    if pareto_k is None:
        return
    bad = pareto_k > SAFE_PARETO_K
    if bad.any():
        warn(
            f"pareto_k is above {SAFE_PARETO_K} for {int(bad.sum())} of {len(bad)} datapoints, up to "
            f"{pareto_k[bad].max():.2f}: their values and standard errors can't be relied on; "
            "raise num_particles, train a wider guide, or, if all latents are continuous or summed out in the model, "
            "use method='auto', which integrates or anneals these; of draws of global latents, raise num_global_draws"
        )


def _warn_of_one(evidence: Evidence) -> None:
    """Warn where a single weight outweighs the rest, if there are too few for a tail: its error is that of chance."""
    if evidence.upper is not None:
        _warn_of_one(evidence.upper)
    ess, tail = evidence.effective_sample_size, evidence.pareto_k
    if ess is None:
        return
    few = (ess < SMALLEST_SIZE) & evidence.standard_error.isfinite()
    few = few if tail is None else few & tail.isnan()
    if few.any():
        warn(
            f"the effective sample size is below {SMALLEST_SIZE} for {int(few.sum())} of {len(few)} datapoints, down "
            f"to {ess[few].min():.2f}: a single weight is most of each, and their standard errors can't be relied on; "
            "raise num_temperatures of AIS or SMC, start them from a guide (start='guide'), raise num_particles, or, "
            "for draws of global latents, num_global_draws"
        )
