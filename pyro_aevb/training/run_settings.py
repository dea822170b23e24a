"""The settings of a run as plain values: those that a checkpoint and the run that resumes it must share.

:data:`ON_RESUME` says it for each argument of :func:`~pyro_aevb.training.fit`; nothing else decides about it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.distributions import Distribution

from pyro_aevb.learners.learner import Learner
from pyro_aevb.training.step_plan import factor_at

LARGEST_TENSOR = 100  # numbers that are compared one by one
FOUND_IN_USE = "max_plate_nesting"  # Pyro's ELBOs set it when they first run
SAME = "the same, or the resume is refused"
SAME_OR_NONE = "the same, or the resume is refused; may be added or left out"
NEW = "as it is now"
ON_RESUME = {
    "learner": SAME,  # its class, objective, optimizers, their numbers, the parameters, the distributions' families
    "train": SAME,  # the kind of data, N, rows from all over, a loader's numbers and its minibatches
    "validation": SAME_OR_NONE,
    "samples": NEW,
    "epochs": NEW,
    "batch_size": SAME,
    "drop_last": SAME,
    "dataset_size": SAME,
    "device": NEW,
    "schedule": SAME,  # its name, and its values at quarters of a run
    "clip_norm": SAME,
    "kl_warm_up": SAME,
    "evaluate": NEW,
    "evaluate_every": NEW,
    "evaluate_at": NEW,
    "validation_particles": NEW,
    "monitor": SAME_OR_NONE,
    "patience": NEW,  # a run that it ended goes on if it would not end by the new one
    "keep_best": SAME,
    "callbacks": NEW,  # a run that one ended asks those of now again, from where it asked, and goes on if none ends it
    "checkpoint_dir": NEW,
    "checkpoint_every": NEW,
    "checkpoints_kept": NEW,
    "resume": NEW,
    "seed": SAME,
    "compile": NEW,
    "precision": SAME,
    "progress": NEW,
    "label": NEW,
    "bar_position": NEW,
}
PLAIN = (bool, int, float, str, type(None))


def run_settings(learner: Learner, **of_the_loop: Any) -> dict[str, Any]:
    """Return learner, objective, optimizers, parameters and the loop's own arguments, under dotted names.

    A learner's and an objective's settings are their public attributes with plain values.

    >>> from pyro_aevb.training.run_settings import run_settings
    >>> def pair(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0), obs=x)
    >>> learner = AEVB(pair, lambda x: None, functools.partial(torch.optim.Adam, lr=0.1), SGVB(beta=2.0))
    >>> learner.prepare(torch.zeros(3))
    >>> settings = run_settings(learner, seed=0)
    >>> [settings[name] for name in ("learner", "learner.objective", "learner.objective.beta", "optim.lr", "seed")]
    ['AEVB', 'SGVB', 2.0, 0.1, 0]
    """
    parameters = learner.theta | learner.phi
    shapes = {name: [str(p.unconstrained.dtype), *p.unconstrained.shape] for name, p in parameters.items()}
    settings: dict[str, Any] = {"learner": type(learner).__name__}
    for name, value in _public(learner).items():
        if name not in ("model", "guide", "optimizers"):  # a pair is compared by its parameters
            settings |= _flat(f"learner.{name}", value)
    for name, optimizer in learner.optimizers.items():
        for option, value in optimizer.settings().items():
            settings |= _flat(name if option == "optimizer" else f"{name}.{option}", value)
    for name, value in of_the_loop.items():
        settings |= _flat(name, value)
    if callable(schedule := of_the_loop.get("schedule")):
        settings["schedule.values"] = [float(factor_at(schedule, quarter / 4)) for quarter in range(4)]
    families = {f"distribution.{name}": family for name, family in learner.families.items()}
    return settings | families | {"precision": learner.precision, "parameters": shapes}


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the names under which two runs' settings differ: the outermost, where one is inside of another.

    >>> from pyro_aevb.training.run_settings import differences
    >>> differences({"learner": "AEVB", "learner.objective": "SGVB", "seed": 0}, {"learner": "MCEM", "seed": 0})
    ['learner']
    """
    names = [name for name in dict.fromkeys([*mine, *theirs]) if mine.get(name) != theirs.get(name)]
    either = {name for name, rule in ON_RESUME.items() if rule == SAME_OR_NONE}
    names = [name for name in names if name not in either or None not in (mine.get(name), theirs.get(name))]
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def _public(owner: object) -> dict[str, Any]:
    return {name: value for name, value in vars(owner).items() if name[0] != "_" and name != FOUND_IN_USE}


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Return a value, and what it is made of, as plain values."""
    if isinstance(value, PLAIN):
        return {name: value}
    if isinstance(value, Tensor):
        return {name: value.tolist() if value.numel() <= LARGEST_TENSOR else f"a tensor of {tuple(value.shape)}"}
    if isinstance(value, list | tuple) and all(isinstance(each, PLAIN) for each in value):
        return {name: list(value)}
    if isinstance(value, Mapping):
        parts = dict(value)
    elif isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    elif isinstance(value, functools.partial):
        parts = {"function": value.func, **dict(enumerate(value.args)), **value.keywords}
    elif isinstance(value, ELBO):
        parts = _public(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, Distribution):
        parts = {key: getattr(value, key) for key in value.arg_constraints if key in vars(value)}
    else:
        return {name: _name_of(value)}
    result: dict[str, Any] = {name: type(value).__name__}
    for key, part in parts.items():
        result |= _flat(f"{name}.{key}", part)
    return result


def _name_of(value: Callable[..., Any] | object) -> str:
    """Return the name of a function or a class, or of an object's class."""
    return getattr(value, "__qualname__", type(value).__name__)
