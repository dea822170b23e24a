r"""How surprising each datapoint is to a model: -log p(x) with its error, and its place among reference data.

A rare x has a small p(x); but in high dimensions an x of very large p(x), such as a grey image, is unlike any datapoint
too.  The first is asked by ``tail``, both by ``typicality`` (Nalisnick et al. 2019, *Detecting out-of-distribution
inputs to deep generative models using typicality*).  Both are p-values for an x that is drawn as the reference is: the
first at any R, the second up to the noise of the reference's median.

Simple x have a large p(x) under many a model that never saw their like.  The likelihood regret asks how much better the
guide would have to be for x, and cancels what is simple about it (Xiao, Yan and Amit 2020, *Likelihood regret: an
out-of-distribution detection score for variational auto-encoder*, Eq. (5)):

.. math:: LR(x_n) = \max_{q \in Q} L(q; x_n) - L(q_\phi(\cdot|x_n); x_n)

with Q the guide's family, each datapoint having parameters of its own: :func:`.evidence_gap` calls it the amortization
gap.

Shapes: N datapoints, R of the reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_aevb.capture.capture import Compile
from pyro_aevb.data_source import Stream
from pyro_aevb.evidence.estimates import Evidence
from pyro_aevb.evidence.estimator import Estimator
from pyro_aevb.evidence.evidence_gap import evidence_gap
from pyro_aevb.evidence.marginal_likelihood import log_marginal_likelihood
from pyro_aevb.model_guide.contract import check_callables
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.short_repr import short_repr


@dataclass(frozen=True)
class AnomalyScore:
    """-log p(x_n) for each of N datapoints, and its place among R others.

    Attributes:
        score: -log p(x_n) in nats, (N,), larger is more surprising.
        standard_error: of the Monte Carlo noise in ``score``, (N,).
        tail: the share of the reference that is as surprising or more, x_n counted in it, (N,); ``None`` without one.
        typicality: the share of the reference that is as far from its median score or farther, on either side, x_n
            counted in it, (N,); ``None`` without one.
        evidence: log p(x_n), by whichever method.
        regret: the likelihood regret in nats, (N,), larger is more surprising; ``None`` unless it was asked for.
        regret_error: of the Monte Carlo noise in ``regret``, (N,); likewise.
    """

    score: Tensor
    standard_error: Tensor
    tail: Tensor | None
    typicality: Tensor | None
    evidence: Evidence
    regret: Tensor | None = None
    regret_error: Tensor | None = None

    def __repr__(self) -> str:
        return short_repr(self)


def anomaly_score(
    model: PyroCallable,
    guide: PyroCallable | None,
    *args: Any,
    reference: Any = None,
    regret: bool = False,
    method: str | Estimator = "auto",
    num_particles: int | None = None,
    batch_size: int = 100,
    seed: int | None = None,
    vectorize: bool = True,
    compile: Compile = "auto",
    progress: bool = True,
    **kwargs: Any,
) -> AnomalyScore:
    r"""Return -log p(x_n) for each datapoint, with its standard error, and where it stands among reference data.

    Args:
        model: p(x, z).
        guide: q(z|x), or ``None``.
        args: the data, datapoints first, of any kind that :func:`~pyro_aevb.training.fit` takes.
        reference: data that are as they should be and that the model wasn't trained on, of the same kinds, a tuple for
            several arguments; or the :class:`AnomalyScore` of such data.
        regret: whether to give the likelihood regret too, which fits a q of each datapoint's own; 500 steps of Adam, as
            :func:`.evidence_gap` takes them.
        method: of log p(x), as for :func:`~pyro_aevb.log_marginal_likelihood`, likewise the other options.
        num_particles: K.
        batch_size: datapoints at a time.
        seed: of the noise.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        compile: the fast path.
        progress: whether to show a progress bar after a second.
        kwargs: what model and guide take by name, for the reference too; none of them data.

    Raises:
        ValueError, TypeError: as for :func:`~pyro_aevb.log_marginal_likelihood`; a regret without a guide, and as for
            :func:`.evidence_gap`.

    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.8))
    >>> usual = 2**0.5 * torch.randn(99)
    >>> found = anomaly_score(model, guide, torch.tensor([0.0, 9.0]), reference=usual, seed=0)
    >>> [round(v, 1) for v in found.score.tolist()], round(found.tail[1].item(), 4)  # -log N(x; 0, 2) is 1.3 and 21.5
    ([1.3, 21.5], 0.01)
    """
    check_callables(model, guide)
    options: dict[str, Any] = {
        "method": method, "num_particles": num_particles, "batch_size": batch_size, "vectorize": vectorize,
        "compile": compile, "progress": progress, "seed": seed,
    }  # fmt: skip
    if regret and guide is None:
        raise ValueError("expected a guide, whose regret it is, got None; leave regret out")
    if len(args) == 1 and isinstance(args[0], Iterator):
        args = (Stream(list(args[0])),)  # which is read more than once
    evidence = log_marginal_likelihood(model, guide, *args, **options, **kwargs)
    score, error = -evidence.value, evidence.standard_error
    found = AnomalyScore(score, error, None, None, evidence)
    if regret:
        assert guide is not None
        own = {name: options[name] for name in ("batch_size", "progress", "seed")}
        gap = evidence_gap(model, guide, *args, evidence=evidence, **own, **kwargs).amortization
        found = dataclasses.replace(found, regret=gap.value, regret_error=gap.standard_error)
    if reference is None:
        return found
    if not isinstance(reference, AnomalyScore):
        data = reference if isinstance(reference, tuple) else (reference,)
        options["seed"] = None if seed is None else seed + 1  # other noise than that of the data
        others = log_marginal_likelihood(model, guide, *data, **options, **kwargs)
        reference = AnomalyScore(-others.value, others.standard_error, None, None, others)
    return among(found, reference.score)


def among(found: AnomalyScore, usual: Tensor) -> AnomalyScore:
    """Return scores with their place among those of reference data.

    Args:
        found: the scores.
        usual: the reference's, (R,).
    """
    score, usual = found.score, usual.to(found.score)
    middle = usual.median()
    typicality = _share((score - middle).abs(), (usual - middle).abs())
    return dataclasses.replace(found, tail=_share(score, usual), typicality=typicality)


def _share(values: Tensor, others: Tensor) -> Tensor:
    """Return (1 + the number of R others that are as large as each of N values) / (1 + R), (N,)."""
    return (1 + (others >= values[:, None]).sum(1)).to(values) / (1 + len(others))
