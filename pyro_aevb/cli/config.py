"""A training run in words: one frozen record, as TOML and back, and what is built from it.

A field's name is the key in the file, and with dashes in place of underscores the option on the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import tomlkit
import tomlkit.exceptions

from pyro_aevb.cli.choices import choices

if TYPE_CHECKING:
    from pyro_aevb.capture.capture import Compile

CONFIG = "config.toml"  # in a run's folder
EPOCHS = 20  # where neither epochs nor samples are given
PARTS = ("train", "validation", "test")  # of a named data set
LEARNERS = ("aevb", "wake-sleep", "reweighted-wake-sleep", "mcem")
FULL_VB = ("aevb", "reweighted-wake-sleep")  # the learners that take global latents
COMPILE: dict[str, Compile] = {"auto": "auto", "always": True, "graph": "graph", "never": False}
COLUMN_KINDS = choices("datasets.columns", "KINDS")
COLUMN_HELP = (
    f"what a column of a table is, if it isn't what it seems; KIND out of {', '.join(COLUMN_KINDS)}; of levels in an "
    "order ordered:low,medium,high"
)
SGVB = ("sgvb-a", "sgvb-b")
WEIGHING = ("blend", *SGVB, "stl")
# Who takes which.
OBJECTIVE_OPTIONS = {"alpha": ("renyi",), "beta": WEIGHING, "free_bits": SGVB, "weighs": WEIGHING}
# What says how the VAE is made: a run that goes on has the same, and a pair of one's own has none of it.
ARCHITECTURE = ("latent_dim", "hidden_dims", "prior", "likelihood", "posterior", "convolutions", "conditional", "init")
OPTIMIZERS = ("adam", "adagrad")


def _option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class TrainingConfig:
    """The options of a training run; each field's help is in its metadata.

    Raises ``ValueError`` for values that no run can have.

    >>> from pyro_aevb.cli.config import TrainingConfig
    >>> config = TrainingConfig(data="digits", latent_dim=2, hidden_dims=(100, 50))
    >>> TrainingConfig.from_toml(config.to_toml()) == config
    True
    >>> TrainingConfig.from_toml("latent_dims = 3")
    Traceback (most recent call last):
    ...
    ValueError: expected keys of a configuration, got 'latent_dims'; did you mean 'latent_dim'?
    """

    data: str | None = _option(None, "a data set's name, a file or a folder of images")
    key: str | None = _option(None, "which array of an .npz file")
    pixels: str | None = _option(
        None,
        "what to do with pixels in [0, 1]; 'dynamic' draws binary ones anew at each visit",
        choices("datasets.pixels", "PIXELS"),
    )
    model: str | None = _option(
        None, "FILE.py:FACTORY, a function that returns (model, guide), in place of the VAE that the options describe"
    )
    learner: str = _option("aevb", "how to learn", LEARNERS)
    objective: str | None = _option(
        None,
        "AEVB's bound and gradient; by default blend, and sgvb-b with free_bits",
        choices("cli.objectives", "OBJECTIVES"),
    )
    num_particles: int | None = _option(None, "draws from the guide a datapoint; by default what suits the objective")
    alpha: float | None = _option(None, "of renyi, 0 or more: 1 is the ELBO, and 0 IWAE's bound")
    beta: float | None = _option(None, "weight of the KL in blend, sgvb-a, sgvb-b and stl; 1 by default")
    free_bits: float | None = _option(None, "nats of the KL that cost nothing in sgvb-a and sgvb-b; 0 by default")
    weighs: str | None = _option(
        None, "which KLs beta and kl_warm_up weigh under full_vb; both by default", ("both", "local", "global")
    )
    latent_dim: int | tuple[int, ...] = _option(10, "latent dimensions; of several layers from the bottom: 20,10")
    hidden_dims: tuple[int, ...] = _option((500,), "units of the encoder's layers; the decoder has them in reverse")
    prior: str = _option("normal", "p(z)", choices("vae.priors", "PRIORS"))
    likelihood: str | None = _option(
        None, "p(x|z); follows the data by default", choices("vae.likelihoods", "LIKELIHOODS")
    )
    posterior: str = _option("normal", "q(z|x)", choices("vae.posteriors", "POSTERIORS"))
    convolutions: bool = _option(False, "convolutional networks, for images")
    image_shape: tuple[int, ...] | None = _option(None, "[channels,]height,width, where the data don't say")
    conditional: bool = _option(False, "p(x|z, c) and q(z|x, c), with the folder that an image lies in as its class c")
    init: str = _option("modern", "how weights begin", choices("vae.networks", "INITIALIZATIONS"))
    samples: int | None = _option(None, "datapoints to visit in all, in place of epochs")
    epochs: int | None = _option(None, f"passes over the data; {EPOCHS} by default")
    batch_size: int = _option(100, "datapoints a step")
    optimizer: str = _option("adam", "how to step; adagrad as in the paper", OPTIMIZERS)
    learning_rate: float | None = _option(
        None, "the optimizer's; what isn't given of these is as tuned for the learner"
    )
    guide_learning_rate: float | None = _option(None, "for q(z|x), where it has an optimizer of its own")
    beta1: float | None = _option(None, "Adam's momentum")
    schedule: str | None = _option(
        None, "how the learning rate falls over the run", choices("learners.schedules", "SHAPES")
    )
    warm_up: float | None = _option(None, "the fraction of the run over which the learning rate rises first")
    clip_norm: float | None = _option(None, "largest norm of a datapoint's share of the gradient")
    kl_warm_up: int | None = _option(None, "samples over which the KL's weight grows to 1")
    theta_prior: float | None = _option(None, "scale of a Gaussian prior on theta (MAP); the paper's is 1")
    full_vb: bool = _option(
        False, "q(theta), a Gaussian for each of the decoder's and the prior's parameters, with p(theta) = N(0, 1)"
    )
    validation: str | None = _option(
        None, "what to validate on: a part of the data (0.1), a file, or a data set's 'validation' or 'test'"
    )
    evaluate_every: int | None = _option(None, "samples between two evaluations; a pass by default")
    patience: int | None = _option(None, "stop after so many validations that were no better than the best")
    keep_best: bool = _option(False, "keep the parameters of the best validation, not the last")
    checkpoint_every: float = _option(60.0, "seconds")
    seed: int = _option(0, "for weights, order and noise")
    precision: str = _option("float32", "of the factors of matrix products", choices("capture.precision", "PRECISIONS"))
    compile: str = _option("auto", "the fast path: where it pays, from the first step, uncompiled", tuple(COMPILE))
    device: str = _option("cpu", "cpu, cuda, cuda:1, ...")
    columns: Mapping[str, str] | None = _option(None, COLUMN_HELP)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata["choices"]
            if value is not None and choices and value not in choices:
                raise ValueError(f"expected {field.name} out of {', '.join(choices)}, got {value!r}")
        for name, kind in (self.columns or {}).items():
            word, colon, _ = kind.partition(":")
            if word not in COLUMN_KINDS or (colon and word != "ordered"):
                close = difflib.get_close_matches(kind, COLUMN_KINDS, 1)
                remedy = f"did you mean {close[0]!r}?" if close else "choose one"
                raise ValueError(
                    f"expected a kind out of {', '.join(COLUMN_KINDS)} for column {name!r}, got {kind!r}; {remedy}"
                )
        if self.columns and self.likelihood is not None:
            raise ValueError(
                f"expected kinds of columns or a likelihood of all of them, got both, likelihood {self.likelihood!r} "
                "last; drop one"
            )
        if self.samples is not None and self.epochs is not None:
            raise ValueError(f"expected one of samples and epochs, got {self.samples} and {self.epochs}; drop one")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"expected a seed from 0 to 2^32 - 1, got {self.seed}; pass another")
        if self.validation is None and (self.patience is not None or self.keep_best):
            raise ValueError("expected validation data for patience and keep_best, got none; say what to validate on")
        if self.objective is not None and self.learner != "aevb":
            raise ValueError(f"expected no objective for {self.learner}, got {self.objective!r}; it is AEVB's")
        self._check_objective()
        self._check_model()
        if self.num_particles is not None and self.learner not in ("aevb", "reweighted-wake-sleep"):
            raise ValueError(f"expected no num_particles for {self.learner}, got {self.num_particles}; leave it out")
        if self.beta1 is not None and self.optimizer != "adam":
            raise ValueError(f"expected no beta1 for {self.optimizer}, got {self.beta1}; it is Adam's: leave it out")
        if self.full_vb and self.learner not in FULL_VB:
            raise ValueError(
                f"expected a learner with global latents for full_vb, got {self.learner}, which is for one theta; use "
                f"{' or '.join(FULL_VB)}, or drop full_vb"
            )
        if self.full_vb and self.conditional:
            raise ValueError("expected one of full_vb and conditional, got both; drop one")
        if self.full_vb and self.theta_prior is not None:
            raise ValueError(
                f"expected one of full_vb and theta_prior, got theta_prior {self.theta_prior} beside full_vb, whose "
                "p(theta) is N(0, 1); drop one"
            )

    @property
    def used_objective(self) -> str:
        """AEVB's objective by its name, also where none is given."""
        return self.objective or ("blend" if self.free_bits is None else "sgvb-b")

    def _check_objective(self) -> None:
        objective = self.used_objective
        for name, objectives in OBJECTIVE_OPTIONS.items():
            value = getattr(self, name)
            if value is not None and (self.learner != "aevb" or objective not in objectives):
                got = f"objective {objective}" if self.learner == "aevb" else f"learner {self.learner}"
                *others, last = objectives
                those = f"{', '.join(others)} and {last}" if others else last
                raise ValueError(f"expected no {name} for {got}, got {value}; it is for {those}, leave it out")
        if objective == "renyi" and self.alpha is None:
            raise ValueError("expected alpha for objective renyi, got none; pass one, such as 0.5")

    def _check_model(self) -> None:
        if self.model is None:
            return
        for field in dataclasses.fields(self):
            if field.name in (*ARCHITECTURE, "full_vb") and (value := getattr(self, field.name)) != field.default:
                raise ValueError(
                    f"expected no {field.name} beside model, got {value}; {self.model} says how the model is made, "
                    "leave it out"
                )

    def but(self, changes: Mapping[str, Any]) -> TrainingConfig:
        """Return a configuration with other values, given as text or as TOML has them.

        ``epochs`` takes the place of ``samples`` and the other way round.
        """
        changed = {name: _converted(name, value) for name, value in changes.items()}
        if changed.get("columns") is not None:
            changed["columns"] = {**(self.columns or {}), **changed["columns"]}
        instead = {"samples": "epochs", "epochs": "samples"}
        dropped = {instead[name]: None for name in changed if name in instead and instead[name] not in changed}
        return dataclasses.replace(self, **(dropped | changed))

    def to_toml(self) -> str:
        """Return the whole of it as TOML; what isn't set is a comment."""
        document = tomlkit.document()
        document.add(tomlkit.comment("a training run: pyro-aevb train --config FILE --out FOLDER"))
        for field in sorted(dataclasses.fields(self), key=lambda field: field.name == "columns"):  # tables come last
            value = getattr(self, field.name)
            if value is None:
                document.add(tomlkit.comment(f"{field.name} is not set: {field.metadata['help']}"))
            else:
                document.add(field.name, tomlkit.item(list(value) if isinstance(value, tuple) else value))
        return tomlkit.dumps(document)

    def relative_to(self, folder: str | Path) -> TrainingConfig:
        """Return the configuration as a file in ``folder`` has it: relative paths are relative to that."""
        return self._with_paths(lambda name: os.path.relpath(name, folder))

    def _with_paths(self, moved: Callable[[str], str]) -> TrainingConfig:
        """Return the configuration with other relative paths; absolute ones and names stay."""
        named = {"data": choices("datasets.image_datasets", "DATASETS"), "validation": PARTS, "model": ()}
        values = {name: getattr(self, name) for name in named}
        paths = {name: str(v) for name, v in values.items() if v is not None and v not in named[name] and _is_path(v)}
        return dataclasses.replace(self, **dict[str, Any]({name: moved(path) for name, path in paths.items()}))

    @staticmethod
    def from_toml(text: str) -> TrainingConfig:
        """Return the configuration that a TOML text holds; what it leaves out is as by default."""
        try:
            values = tomlkit.parse(text).unwrap()
        except tomlkit.exceptions.TOMLKitError as error:
            raise ValueError(f"expected a configuration as TOML, got: {error}") from error
        return TrainingConfig().but(values)

    @staticmethod
    def read(path: str | Path) -> TrainingConfig:
        """Return the configuration in a file, whose relative paths are relative to its folder."""
        try:
            config = TrainingConfig.from_toml(Path(path).read_text(encoding="utf-8"))
            return config._with_paths(lambda name: os.path.relpath(Path(path).parent / name))
        except UnicodeDecodeError as error:
            raise ValueError(f"expected a configuration as TOML, got {path}: {error}") from error


def _is_path(value: str) -> bool:
    """Return whether text that isn't a known name is a relative path, and no fraction."""
    try:
        float(value)
    except ValueError:
        return not os.path.isabs(value)
    return False


KINDS = {name: hint for name, hint in get_type_hints(TrainingConfig).items()}


def kind_of(name: str) -> Any:
    """Return the type of a field's values: bool, int, float, str, tuple for whole numbers, dict for text by name."""
    kinds = [kind for kind in get_args(KINDS[name]) or (KINDS[name],) if kind not in (type(None), ...)]
    if Mapping[str, str] in kinds:
        return dict
    return tuple if KINDS[name] == tuple[int, ...] or tuple[int, ...] in kinds else kinds[0]


def _converted(name: str, value: Any) -> Any:
    """Return a value, as text or as TOML has it, in the field's type."""
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS, 1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(KINDS)}"
        raise ValueError(f"expected keys of a configuration, got {name!r}; {remedy}")
    kind, kinds = kind_of(name), get_args(KINDS[name])
    one_or_several = int in kinds and tuple[int, ...] in kinds
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        tuple: "whole numbers: 28,28",
        dict: "NAME=KIND",
    }
    try:
        found = _CONVERT[kind](value)
        return found[0] if one_or_several and len(found) == 1 else found
    except (ValueError, TypeError, OverflowError):
        expected = "a whole number, or several: 20,10" if one_or_several else words[kind]
        raise ValueError(f"expected {name} as {expected}, got {value!r}") from None


def _whole(value: Any) -> int:
    """Return a whole number, also one written 1e6."""
    if isinstance(value, bool):
        raise TypeError
    try:
        return int(value) if not isinstance(value, float) else _exactly(value)
    except ValueError:
        return _exactly(float(value))


def _exactly(value: float) -> int:
    if value != int(value):
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _text(value: Any) -> str:
    if isinstance(value, bool | list | dict):
        raise TypeError
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return tuple(_whole(part) for part in parts)


def _by_name(value: Any) -> dict[str, str]:
    """Return text by name: of a table, or of lines "name=text", of which the last "=" that is before a kind counts."""
    if isinstance(value, Mapping):
        return {str(name): _text(each) for name, each in value.items()}
    lines = [value] if isinstance(value, str) else value
    parts = [_at_kind(each) for each in lines]
    if not all(name and text for name, _, text in parts):
        raise ValueError
    return {name: text for name, _, text in parts}


def _at_kind(line: str) -> tuple[str, str, str]:
    """Return a line "name=kind" in its three parts; levels in an order may have "=" in them."""
    before, ordered, levels = line.partition("=ordered:")
    return (before, "=", f"ordered:{levels}") if ordered else line.rpartition("=")


_CONVERT: dict[Any, Callable[[Any], Any]] = {
    bool: _flag,
    int: _whole,
    float: _number,
    str: _text,
    tuple: _sizes,
    dict: _by_name,
}
