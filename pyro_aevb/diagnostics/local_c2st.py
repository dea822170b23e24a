r"""A classifier two-sample test for each datapoint: is q(z|x_n) right at this x_n?

A classifier learns to tell pairs (z, x) of the model, class 1, from pairs (z', x) with z' ~ q(z|x), class 0.  If
q(z|x_n) = p(z|x_n), it can't at x_n, and its d(z, x_n) is 1/2 but for noise:

.. math:: T_n = E_{q(z|x_n)} [(d(z, x_n) - 1/2)^2]

How large T_n is by noise alone, classifiers show whose two classes were exchanged at random, pair by pair.

Source: Linhart, Gramfort and Rodrigues, *L-C2ST: local diagnostics for posterior approximations in simulation-based
inference*, 2023; for many datapoints at once, Westfall and Young, *Resampling-based multiple testing*,
1993 (single-step maxT).

Shapes: N datapoints, L draws for each, S simulated pairs, H classifiers of exchanged classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.diagnostics.simulations import Posteriors, Simulations, given_of, side_by_side, unit_scale
from pyro_aevb.evidence.estimator import check_sizes
from pyro_aevb.learners.dreams import DreamArguments
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.posterior.chains import Chains
from pyro_aevb.posterior.posterior import Options
from pyro_aevb.progress_bar import progress_bar
from pyro_aevb.random_state import unmoved
from pyro_aevb.short_repr import short_repr

LARGEST_LAYER = 100  # hidden units; ten for each input, if that is less
EPOCHS = 50  # as many for all classifiers: early stopping, each at its own, makes T vary more and tells less

MakeClassifier = Callable[[int], Any]
"""From a seed to a classifier of scikit-learn's, with ``fit`` and ``predict_proba``."""


@dataclass(frozen=True)
class LocalTest:
    """The local test statistic of each datapoint, and those of classifiers that can't know anything.

    Attributes:
        statistic: T_n, (N,), between 0 and 1/4.
        null: those of H classifiers of exchanged classes, (H, N).
        p_value: of each datapoint by itself, (N,): the share of these that are as large, its own counted in.
    """

    statistic: Tensor
    null: Tensor
    p_value: Tensor

    def __repr__(self) -> str:
        return short_repr(self)

    def adjusted(self) -> Tensor:
        """Return p-values for all N datapoints together, (N,): that some right q(z|x_n) is below 0.05 has this chance.

        Each statistic is compared, in units of its own spread, with the largest of the N of each of the H classifiers.
        """
        every = torch.cat([self.statistic[None], self.null])
        spread = every.std(0)
        unit = (every - every.mean(0)) / torch.where(spread > 0, spread, 1.0)
        largest = unit[1:].amax(1)
        return (1 + (largest[:, None] >= unit[0]).sum(0)).to(every) / (1 + len(largest))

    def wrong(self, level: float = 0.05, least: float = 0.0) -> Tensor:
        """Return for which datapoints q(z|x_n) isn't p(z|x_n), (N,) of bool.

        Args:
            level: the probability that one of them is named, if q(z|x_n) is right at all.
            least: the smallest statistic that counts: at 0.01 the classifier's d is off 1/2 by 0.1.  If q is wrong at
                some x, classifiers say so of their neighbours too, less loudly.

        Raises:
            ValueError: for a level that isn't between 0 and 1, or that so few classifiers can't reach.

        >>> null = torch.linspace(0.0, 0.01, 40).reshape(20, 2)
        >>> found = LocalTest(torch.tensor([0.02, 0.001]), null, torch.tensor([0.05, 0.9]))
        >>> found.wrong(0.1).tolist(), found.wrong(0.1, least=0.03).tolist()
        ([True, False], [False, False])
        """
        if not 0 < level < 1:
            raise ValueError(f"expected level between 0 and 1, got {level}; 0.05 is usual")
        fewest = round(1 / level - 1)
        if len(self.null) < fewest:
            raise ValueError(
                f"expected {fewest} classifiers or more to tell at the level {level}, got {len(self.null)}; call "
                f"l_c2st with num_null={fewest} or more"
            )
        return (self.adjusted() <= level) & (self.statistic >= least)


@one_thread
@torch.no_grad()
def l_c2st(
    model: PyroCallable,
    guide: PyroCallable | None,
    *args: Any,
    num_simulations: int = 2000,
    num_draws: int = 100,
    num_null: int = 100,
    classifier: MakeClassifier | None = None,
    method: str = "guide",
    num_particles: int | None = None,
    chains: Chains = Chains(),  # noqa: B008  # it is frozen
    dream_arguments: DreamArguments | None = None,
    batch_size: int = 100,
    seed: int | None = None,
    vectorize: bool = True,
    compile: Compile = "auto",
    progress: bool = True,
    **kwargs: Any,
) -> LocalTest:
    r"""Test for each datapoint whether q(z|x_n) is p(z|x_n), by a classifier of pairs that the model makes.

    It sees as much as the classifier has learned from S pairs: a large p-value is no proof.  P-values are exact if q is
    right everywhere.  If it is wrong at some x, a classifier blurs that into the neighbourhood, and is busier elsewhere
    than those of exchanged classes: right datapoints then have small p-values too, but small statistics, smaller with
    more pairs.  Time goes into the H + 1 classifiers.

    Args:
        model: p(x, z), as for :func:`.sbc`.
        guide: q(z|x), likewise; ``None`` for chains alone.
        args: the datapoints to test at, N of them; pairs are simulated in their shapes.
        num_simulations: S, 20 or more.
        num_draws: L.
        num_null: H, which no p-value is below 1 / (H + 1) of.
        classifier: from a seed to a classifier of scikit-learn's; by default one with two layers of relu units, trained
            for 50 epochs.  One that can't follow how q(z|x) changes with x takes right datapoints for wrong ones.
        method: of the draws from q(z|x), as for :func:`.sbc`, likewise the other options.
        num_particles: K.
        chains: options of the chains.
        dream_arguments: of simulated data.
        batch_size: datapoints at a time.
        seed: of all noise.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        compile: the fast path.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name.

    Raises:
        ValueError, TypeError: as for :func:`.sbc`.

    >>> from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x, shift=0.0):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5))
    >>> x, wrong = torch.tensor([0.0, 1.0]), functools.partial(guide, shift=1.0)
    >>> quadratic = lambda seed: QuadraticDiscriminantAnalysis()  # which is enough for Gaussians
    >>> options = {"num_simulations": 500, "num_null": 30, "classifier": quadratic, "seed": 0}
    >>> l_c2st(model, guide, x, **options).wrong().tolist(), l_c2st(model, wrong, x, **options).wrong().tolist()
    ([False, False], [True, True])
    """
    check_sizes(num_simulations=num_simulations, num_draws=num_draws, num_null=num_null)
    if num_simulations < 20:
        raise ValueError(f"expected num_simulations of 20 or more, got {num_simulations}; a classifier takes thousands")
    options = Options(method, num_draws, num_particles, chains, batch_size, seed, vectorize, compile, progress)
    of_ours = given_of(
        options, method=(method, "guide"), num_simulations=(num_simulations, 2000), num_null=(num_null, 100),
        classifier=(classifier, None), dream_arguments=(dream_arguments, None),
    )  # fmt: skip
    at_data = Simulations(model, guide, args, kwargs, options, dream_arguments, of_ours)
    other = options._replace(num_draws=2, seed=None if seed is None else seed + 1)  # other noise than at the data
    at_pairs = Simulations(model, guide, args, kwargs, other, dream_arguments, of_ours)
    simulated = at_pairs.draw(num_simulations)
    x = side_by_side(at_data.data, 1)
    z_of_pairs, z_of_data = drawn(at_pairs, simulated.args)[0], drawn(at_data, at_data.data)
    z = at_pairs.coordinates(simulated.latents, 1)
    z_scale, x_scale = unit_scale(z), unit_scale(simulated.x)

    def pairs(each: Tensor, x: Tensor) -> np.ndarray:
        both = [(each - z.mean(0)) / z_scale, (x - simulated.x.mean(0)) / x_scale]
        return torch.cat(both, 1).cpu().numpy()

    one, zero = pairs(z, simulated.x), pairs(z_of_pairs, simulated.x)
    tested = pairs(z_of_data.flatten(0, 1), x.repeat(num_draws, 1))
    make = classifier or perceptron(one.shape[1])
    random = np.random.default_rng(at_pairs.seed("classifiers"))
    bar = progress_bar(show=progress, total=num_null + 1, desc="classifiers", delay=1)
    found = []
    with bar:
        for number in range(num_null + 1):
            exchanged = random.random(len(one)) < (0.5 if number else 0.0)
            d = probability(make(int(random.integers(2**31))), one, zero, exchanged, tested)
            found.append(np.square(d.reshape(num_draws, len(x)) - 0.5).mean(0))
            bar.update()
    every = torch.from_numpy(np.stack(found)).to(x.device)
    return LocalTest(every[0], every[1:], (every >= every[0]).double().mean(0))


def drawn(simulations: Simulations, args: tuple[Tensor, ...]) -> Tensor:
    """Return draws from q(z|x) for each datapoint, all latents side by side, (L, N, J)."""
    found: list[Tensor] = []

    def visit(some: Posteriors) -> None:
        found.append(simulations.coordinates(some.draws, 2))

    simulations.visit(args, visit)
    return torch.cat(found, 1)


def perceptron(num_inputs: int) -> MakeClassifier:
    """Return the classifier that is used by default."""
    width = min(10 * num_inputs, LARGEST_LAYER)

    def make(seed: int) -> Any:
        with unmoved():
            from sklearn.neural_network import MLPClassifier  # here, since it takes a second to import

        return MLPClassifier((width, width), max_iter=EPOCHS, random_state=seed)

    return make


def probability(
    classifier: Any, one: np.ndarray, zero: np.ndarray, exchanged: np.ndarray, tested: np.ndarray
) -> np.ndarray:
    """Return the probability of class 1 at the tested pairs, by a classifier of two classes, (n,).

    Args:
        classifier: untrained.
        one: pairs (S, J + D) of class 1.
        zero: those of class 0, with the same x.
        exchanged: which pairs have each other's class, (S,) of bool.
        tested: (n, J + D).
    """
    with unmoved():
        from sklearn.exceptions import ConvergenceWarning

    label = np.concatenate([~exchanged, exchanged]).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # all have the same number of epochs
        classifier.fit(np.concatenate([one, zero]), label)
    return classifier.predict_proba(tested)[:, 1]
