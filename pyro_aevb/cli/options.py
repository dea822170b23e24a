"""The parts that the commands of :mod:`pyro_aevb.cli` share: how they fail, and options out of a configuration."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pyro_aevb.cli.config import ARCHITECTURE, CONFIG, TrainingConfig, kind_of

INTERRUPTED = 130
HINTS = {  # what the library says in terms of Python, in terms of options
    "inside the support of site": "; the options for it are --pixels and --likelihood",
    "for which log q(z|x) is not known": "; the options for it are --posterior, --objective and --method",
    "a method with a lower bound for log E_q(w)[p(x|w)]": "; the option for it is --method",
}


def tell(text: str) -> None:
    """Print to stderr; of the processes that torchrun started, another than the first says which it is."""
    rank = int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0
    print(text if rank == 0 else f"[process {rank}] {text}", file=sys.stderr)


class Commands(TyperGroup):
    """A group whose commands end with one clear line and an exit code, whatever ends them."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer's own Context is click's
        """Run the command that was asked for."""
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: tell(f"warning: {message}")
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                tell("interrupted")
                raise typer.Exit(INTERRUPTED) from None
            except failures() as error:
                if ctx.meta.get("debug"):
                    traceback.print_exc()
                tell(f"error: {_one_line(error)}")
                raise typer.Exit(1) from None


def failures() -> tuple[type[BaseException], ...]:
    """Return what ends a command with one line: this library's errors, and torch's if it was imported."""
    found = (ValueError, OSError, ImportError, MemoryError)
    if "torch" not in sys.modules:
        return found
    import torch

    from pyro_aevb.model_guide.contract import NonFiniteLossError

    return *found, NonFiniteLossError, torch.OutOfMemoryError


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.filename is None else None
    text = " ".join((text or str(error) or type(error).__name__).split())
    return text + next((hint for words, hint in HINTS.items() if words in text), "")


def _set_debug(ctx: typer.Context, value: bool) -> None:
    ctx.meta["debug"] = value


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")]


def configured(*, without: Iterable[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of :class:`TrainingConfig`; it finds those that were used in ``options``.

    They are what a function says with ``**options``, spelled out for typer: an option that isn't used is ``None``.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        fields = [field for field in dataclasses.fields(TrainingConfig) if field.name not in {"data", *without}]
        parameters = own + [_parameter(field) for field in fields]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # PEP 362 has it
        return command

    return decorate


def _parameter(field: dataclasses.Field[Any]) -> inspect.Parameter:
    kind = kind_of(field.name)
    names = {int: "INTEGER", float: "NUMBER", str: "TEXT", tuple: "INTEGER,...", dict: "NAME=KIND"}
    text = field.metadata["help"]
    if text.split()[0].isalpha():  # a word, not p(z)
        text = text[0].upper() + text[1:]
    if field.metadata["choices"]:
        text += f" ({', '.join(field.metadata['choices'])})"
    if field.default is not None and kind is not bool:
        text += f" [default: {_text(field.default)}]"
    spelled: Any = ("--column",) if kind is dict else ()  # one at a time
    info = typer.Option(*spelled, help=text, metavar=names.get(kind), show_default=False)
    # Text is converted where TOML's values are, with the same errors.
    hint: Any = list[str] if kind is dict else bool if kind is bool else str
    hint = hint | None
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[hint, info])


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if value != str(value) else value


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were used."""
    return {name: value for name, value in options.items() if value is not None and value != []}


def settings_from(config: Path | None, earlier: Path | None, used: dict[str, Any]) -> TrainingConfig:
    """Return the configuration of a file (or of the run in the folder ``earlier``) with the options that were used.

    What can't be a configuration is wrong usage: ``typer.BadParameter``.
    """
    path = earlier / CONFIG if config is None and earlier is not None else config
    try:
        base = TrainingConfig()
        if path is not None and (config is not None or path.exists()):
            base = TrainingConfig.read(path)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(f"{error}", param_hint=f"{path}") from None
    try:
        settings = base.but(used)
    except ValueError as error:
        raise typer.BadParameter(_as_option(str(error))) from None
    if settings.model is not None and "model" not in used:
        raise typer.BadParameter(
            f"expected --model on the command line, got it from {path} alone; a file whose code is to run is one "
            f"that you name: --model {settings.model}"
        )
    if earlier is not None and path == earlier / CONFIG and path.exists():
        _check_same(base, settings, earlier)
    return settings


def _check_same(before: TrainingConfig, now: TrainingConfig, folder: Path) -> None:
    """Raise ``typer.BadParameter`` for a run that goes on with another architecture."""
    for name in ARCHITECTURE:
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            raise typer.BadParameter(
                f"expected --{name.replace('_', '-')} {_text(old)}, as the run in {folder} has, got {_text(new)}; "
                "leave it out to go on, or begin another run in another --out"
            )


def one_of(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``typer.BadParameter`` for another value."""
    if value not in choices:
        close = difflib.get_close_matches(value, choices, 1)
        remedy = f"; did you mean {close[0]!r}?" if close else ""
        raise typer.BadParameter(f"expected {option} out of {', '.join(choices)}, got {value!r}{remedy}")


def several_of(option: str, text: str, choices: Sequence[str]) -> list[str]:
    """Return the values of a list with commas or spaces; raise ``typer.BadParameter`` for another one, and for two."""
    values = text.replace(",", " ").split() or [""]
    for value in values:
        one_of(option, value, choices)
        if values.count(value) > 1:
            raise typer.BadParameter(f"expected each of {option} once, got {value} twice")
    return values


def _as_option(text: str) -> str:
    """Return an error about a field as one about its option: ``latent_dim`` is ``--latent-dim``."""
    for field in dataclasses.fields(TrainingConfig)[1:]:  # data is an argument
        option = "column" if field.name == "columns" else field.name.replace("_", "-")
        text = text.replace(f"expected {field.name} ", f"expected --{option} ")
    return text
