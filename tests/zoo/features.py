"""What is asked of each variant: features by name, each a function that returns a note or raises.

A number is compared with Pyro's, or with the eager run's.  A refusal is a sentence of ours: "expected ..., got ...".
"""

import functools
import math
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from pyro_aevb import (
    AEVB,
    AIS,
    IWAE,
    MCEM,
    SGVB,
    Arguments,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    elbo,
    fit,
    log_marginal_likelihood,
)
from pyro_aevb.capture.python_state import PythonState
from zoo.entry import Entry, M, N, Pair

SGD = functools.partial(torch.optim.SGD, lr=1e-4)
STEPS = 4  # of which a graph makes three by itself, two of them compared


class WrongError(AssertionError):
    """A number that isn't what it should be."""


@contextmanager
def made(entry: Entry) -> Iterator[Pair]:
    """Give a new pair, in a parameter store of its own; draws after it are from one seed."""
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(0)
        pair = entry.make()
        with torch.no_grad(), pyro.poutine.block():
            pair.guide(*pair.args, **pair.kwargs)  # Pyro's own guides look at the model first, and draw for it
        pyro.set_rng_seed(1)
        yield pair


def check_close(found: Any, expected: Any, what: str, tolerance: float = 1e-9) -> None:
    found, expected = (torch.as_tensor(each, dtype=torch.float64) for each in (found, expected))
    if not torch.isfinite(found).all() or not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
        raise WrongError(f"expected {what} {expected.tolist()}, got {found.tolist()}")


def parameters() -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for _, p in sorted(pyro.get_param_store().named_parameters())])


def _losses(learner: Any, pair: Pair, steps: int = 2) -> list[float]:
    index = torch.arange(N)
    return [float(learner.step(*pair.args, index=index, **pair.kwargs).loss) for _ in range(steps)]


def _oracle(entry: Entry) -> Any:
    return TraceEnum_ELBO(max_plate_nesting=entry.plates) if entry.enumerated else Trace_ELBO()


def _optimizer(entry: Entry, pyros: bool = False) -> Any:
    if entry.optim is not None:
        return entry.optim()
    return pyro.optim.SGD({"lr": 1e-4}) if pyros else SGD


def svi(entry: Entry) -> str:
    """AEVB with Pyro's ELBO takes the steps of SVI."""
    with made(entry) as pair:
        losses, ours = _losses(AEVB(pair.model, pair.guide, _optimizer(entry), _oracle(entry)), pair), parameters()
    with made(entry) as pair:
        optimizer = _optimizer(entry, pyros=True)
        inference = SVI(pair.model, pair.guide, optimizer, _oracle(entry))
        expected = [inference.step(*pair.args, **pair.kwargs) for _ in range(2)]
        check_close(losses, expected, "SVI's losses")
        check_close(ours, parameters(), "SVI's parameters")
    return "SVI's numbers"


def _first_loss(entry: Entry, objective: Any, oracle: Any) -> str:
    with made(entry) as pair:
        losses = _losses(AEVB(pair.model, pair.guide, SGD, objective), pair)
    with made(entry) as pair:
        check_close(losses[0], oracle.loss(pair.model, pair.guide, *pair.args, **pair.kwargs), "Pyro's loss")
    check_close(losses, losses, "finite losses")
    return "Pyro's loss"


def sgvb(entry: Entry) -> str:
    """SGVB's estimator A has Pyro's loss on the same draws, and steps."""
    return _first_loss(entry, SGVB(), _oracle(entry))


def closed_form(entry: Entry) -> str:
    """SGVB's estimator B has the loss of Pyro's TraceMeanField_ELBO, where that is made for the pair."""
    if entry.enumerated or not entry.mean_field:
        with made(entry) as pair:
            losses = _losses(AEVB(pair.model, pair.guide, SGD, SGVB(kl="analytic")), pair)
            check_close(losses, losses, "finite losses")
        return "finite"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro's, of what isn't mean-field
        return _first_loss(entry, SGVB(kl="analytic"), TraceMeanField_ELBO())


def score(entry: Entry) -> str:
    """The score function's estimator has Pyro's loss on the same draw."""
    return _first_loss(entry, ScoreFunction(1), _oracle(entry))


def iwae(entry: Entry) -> str:
    with made(entry) as pair:
        losses = _losses(AEVB(pair.model, pair.guide, SGD, IWAE(3)), pair)
    check_close(losses, losses, "finite losses")
    return "finite"


def _trains(entry: Entry, learner: Callable[[Pair], Any]) -> str:
    with made(entry) as pair:
        made_learner = learner(pair)
        made_learner.prepare(*pair.args, **pair.kwargs)
        before = parameters()
        losses = _losses(made_learner, pair)
        check_close(losses, losses, "finite losses")
        if torch.equal(before, parameters()):
            raise WrongError("expected parameters that move, got the ones from before")
    return "finite"


def wake_sleep(entry: Entry) -> str:
    return _trains(entry, lambda pair: WakeSleep(pair.model, pair.guide, SGD, SGD, dream_arguments=entry.dream))


def reweighted(entry: Entry) -> str:
    return _trains(entry, lambda pair: ReweightedWakeSleep(pair.model, pair.guide, SGD, SGD, num_particles=3))


def mcem(entry: Entry) -> str:
    return _trains(entry, lambda pair: MCEM(pair.model, SGD, num_leapfrog=2, num_updates=1))


def _own_objective(entry: Entry) -> Any:
    return ScoreFunction(1) if "sgvb" in entry.senseless else SGVB()


def graph(entry: Entry) -> str:
    """Steps on the fast path are the eager ones."""
    found, obstacle = [], None
    for compile in ("graph", False):
        with made(entry) as pair:
            learner = AEVB(pair.model, pair.guide, SGD, _own_objective(entry), compile=compile)
            losses = _losses(learner, pair, STEPS)
            found.append((losses, parameters()))
            obstacle = obstacle or next((c.obstacle for c in learner.captures if c.obstacle), None)
    check_close(found[0][0], found[1][0], "the eager losses")
    check_close(found[0][1], found[1][1], "the eager parameters")
    return "eager's numbers" if obstacle is None else f"runs eagerly: {obstacle}"


def fits(entry: Entry) -> str:
    """Two epochs with validation, and one epoch and its resumption, end the same, bit for bit."""
    ends = []
    for epochs in ((2,), (1, 2)):
        with tempfile.TemporaryDirectory() as folder:
            for number in epochs:
                with made(entry) as pair:
                    data = Arguments(*pair.args, **pair.kwargs)
                    learner = AEVB(pair.model, pair.guide, _optimizer(entry), _own_objective(entry))
                    history = fit(
                        learner, data, data, epochs=number, batch_size=M, progress=False,
                        checkpoint_dir=folder, resume=number != epochs[0],
                    )  # fmt: skip
                    end = parameters()
        ends.append((history.records[-1].values["validation"], end))
    if ends[0][0] != ends[1][0] or not torch.equal(ends[0][1], ends[1][1]) or not math.isfinite(ends[0][0]):
        raise WrongError(f"expected the end of the run that wasn't stopped, {ends[0][0]}, got {ends[1][0]}")
    return "bit for bit"


def bound(entry: Entry) -> str:
    """``elbo`` is Pyro's ELBO of all data, on the same draw."""
    with made(entry) as pair:
        found = elbo(pair.model, pair.guide, *pair.args, **pair.kwargs)
        check_close(found.value, found.value, "finite bounds")
    if entry.scaled:
        return "finite"
    with made(entry) as pair, torch.no_grad():
        modules = [m for m in _modules(pair) if m.training]
        for module in modules:
            module.eval()
        expected = -_oracle(entry).loss(pair.model, pair.guide, *pair.args, **pair.kwargs)
    check_close(found.total().value, expected, "Pyro's ELBO")
    return "Pyro's ELBO"


def _modules(pair: Pair) -> list[Any]:
    return PythonState([pair.model, pair.guide]).modules


def _evidence(entry: Entry, **options: Any) -> str:
    with made(entry) as pair, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the tails of so few weights
        options |= {"batch_size": N, "progress": False, "num_global_draws": 2}
        found = log_marginal_likelihood(pair.model, pair.guide, *pair.args, **options, **pair.kwargs)
    check_close(found.value, found.value, "finite values")
    if found.value.shape != (N,):
        raise WrongError(f"expected {N} values, got {tuple(found.value.shape)}")
    return "finite"


def importance(entry: Entry) -> str:
    return _evidence(entry, num_particles=4)


def annealed(entry: Entry) -> str:
    return _evidence(entry, method=AIS(2, num_leapfrog=1), num_particles=2)


FEATURES: dict[str, Callable[[Entry], str]] = {
    "svi": svi,
    "sgvb": sgvb,
    "closed form": closed_form,
    "score": score,
    "iwae": iwae,
    "wake-sleep": wake_sleep,
    "reweighted": reweighted,
    "mcem": mcem,
    "graph": graph,
    "fit": fits,
    "elbo": bound,
    "importance": importance,
    "ais": annealed,
}


def outcome(entry: Entry, feature: str) -> tuple[str, str]:
    """Return "works", "refused" or "WRONG", and a note: what was compared, the sentence, the error."""
    try:
        return "works", FEATURES[feature](entry)
    except WrongError as error:
        return "WRONG", str(error)
    except Exception as error:
        sentence = str(error).strip().split("\n")[0]
        ours = isinstance(error, ValueError | TypeError | FloatingPointError) and sentence.startswith("expected ")
        return ("refused" if ours else "WRONG"), sentence if ours else f"{type(error).__name__}: {sentence}"


def letter(entry: Entry, feature: str, found: str, note: str) -> str:
    """Return ``.`` works, ``s`` refused and makes no sense, ``-`` is lacking, ``R`` refused otherwise, ``X`` wrong."""
    for listed, mark in ((entry.senseless, "s"), (entry.lacks, "-")):
        if feature in listed:  # what works by now is to be listed no more
            return mark if found != "works" and re.search(listed[feature], note) else "R"
    return {"works": ".", "refused": "R", "WRONG": "X"}[found]
