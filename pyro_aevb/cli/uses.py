"""The commands that use a trained model: ``pyro-aevb impute | denoise | score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_aevb.cli.choices import choices
from pyro_aevb.cli.inputs import (
    PICTURE,
    Data,
    Device,
    ImageShape,
    Key,
    Limit,
    Model,
    Out,
    Part,
    Pixels,
    Seed,
    run_and_rows,
)
from pyro_aevb.cli.options import Debug, Json, Quiet, one_of, tell

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pyro_aevb.cli.data import Rows
    from pyro_aevb.cli.trained_run import Run
    from pyro_aevb.posterior import Imputed

METHODS = choices("posterior.gate", "METHODS")
IMPUTE_METHODS = choices("posterior.impute", "METHODS")
EVIDENCE = choices("evidence.marginal_likelihood", "METHODS")
FILLS = ("mean", "mode", "draw")
FEWEST_DRAWS = 100  # that a mean is of
PICTURED = 50  # datapoints of a picture without --limit

Method = Annotated[str, typer.Option(help=f"How to draw from p(z|x): {', '.join(METHODS)}.")]
ImputeMethod = Annotated[str, typer.Option(help=f"How to draw from p(z|x): {', '.join(IMPUTE_METHODS)}.")]
Draws = Annotated[int | None, typer.Option(help="How many draws to write too, to an .npz file.", min=2)]


def impute_command(
    model: Model,
    data: Data,
    out: Out,
    observed: Annotated[
        str | None,
        typer.Option(help="A file of DATA's shape, 1 for a cell that is there; by default all but empty ones and NaN."),
    ] = None,
    fill: Annotated[str, typer.Option(help=f"What to put into a missing cell: {', '.join(FILLS)}.")] = "mean",
    draws: Draws = None,
    interval: Annotated[
        float | None, typer.Option(help="Write the ends of the central interval of this probability too, such as 0.9.")
    ] = None,
    method: ImputeMethod = "auto",
    limit: Limit = None,
    part: Part = None,
    key: Key = None,
    pixels: Pixels = None,
    image_shape: ImageShape = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fill in the missing cells of DATA from p(x_missing | x_observed), to a .npy, .npz, .csv or .png file.

    Empty cells of a table and NaN are missing.  Cells that are there are written as they are; a row without any is
    answered from the prior.  An .npz file has "x", its standard errors, and what --draws and --interval ask for; a .csv
    file has columns beside it for the interval.  Of a table levels are filled in by their most frequent one, counts are
    rounded, and an .npz has numbers, for a level its place.

    \b
    Examples:
      pyro-aevb impute run table.csv --out filled.csv --interval 0.9
      pyro-aevb impute run holes.npy --draws 20 --out filled.npz
      pyro-aevb impute run digits --observed mask.npy --limit 30 --out filled.png
    """
    one_of("--method", method, IMPUTE_METHODS)
    one_of("--fill", fill, FILLS)
    if interval is not None and not 0 < interval < 1:
        raise typer.BadParameter(f"expected --interval between 0 and 1, got {interval}")
    _check_extras(out, draws, interval)
    from pyro_aevb.cli.imputed_tables import write_imputed
    from pyro_aevb.cli.reports import print_file
    from pyro_aevb.datasets.array_files import WRITABLE, check_output

    check_output(out, (*WRITABLE, *PICTURE))
    limit = PICTURED if out.suffix in PICTURE and limit is None else limit
    run, rows = run_and_rows(model, device, data, part, limit, every=True, holes=True, key=key, pixels=pixels)
    shape = run.image_shape(image_shape) if out.suffix in PICTURE else None
    if interval is not None and out.suffix == ".csv":
        _check_ends(rows)
    there = _there(rows)
    if observed is not None:
        rows, there = _with_holes(observed, rows, there, part)
    _tell_of_rows(there)
    _tell_of_theta(run)
    number = max(FEWEST_DRAWS, draws or 0)
    options = {"method": method, "num_draws": number, "seed": seed, "progress": not quiet}
    found = run.verbs.impute(rows.x, there, **options, **rows.known)
    if fill == "mode" and found.mode is None:
        raise ValueError("expected cells that are categories or counts for --fill mode, got none; use --fill mean")
    if rows.table is not None:
        write_imputed(out, rows.table, found, fill, interval, draws)
        print_file(out, found.mean, json)
        return
    _write_filled(out, run, rows, there, found, fill, interval, draws, shape)
    print_file(out, found.mean, json)


def denoise_command(
    model: Model,
    data: Data,
    out: Out,
    noise: Annotated[
        str,
        typer.Option(
            help="gaussian:S, added to each cell with standard deviation S; flips:P, binary cells flipped with "
            "probability P.",
            show_default=False,
        ),
    ],
    draws: Draws = None,
    method: Method = "auto",
    limit: Limit = None,
    part: Part = None,
    key: Key = None,
    pixels: Annotated[str, typer.Option(help="What to do with pixels; nothing by default.")] = "grey",
    image_shape: ImageShape = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the mean of the clean x behind each noisy datapoint of DATA, to a .npy, .npz, .csv or .png file.

    An .npz file has "x", its standard errors, and the draws that --draws asks for.  Of a table of real columns S is in
    the units of the cells.

    \b
    Examples:
      pyro-aevb denoise run noisy.npy --noise gaussian:0.3 --out clean.npy
      pyro-aevb denoise run digits --pixels static --noise flips:0.1 --limit 20 --out clean.png
    """
    one_of("--method", method, METHODS)
    _check_extras(out, draws, None)
    kind, size = _parsed(noise)
    from pyro_aevb.cli.imputed_tables import write_denoised
    from pyro_aevb.cli.reports import print_file
    from pyro_aevb.datasets.array_files import WRITABLE, check_output

    check_output(out, (*WRITABLE, *PICTURE))
    limit = PICTURED if out.suffix in PICTURE and limit is None else limit
    run, rows = run_and_rows(model, device, data, part, limit, every=True, key=key, pixels=pixels)
    x = rows.x
    law = run.noise(kind, size, x, **rows.known)
    if rows.observed is not None:
        raise ValueError("expected a table without missing cells to denoise, got some; fill them in first, by impute")
    _tell_of_theta(run)
    shape = run.image_shape(image_shape) if out.suffix in PICTURE else None
    number = max(FEWEST_DRAWS, draws or 0)
    options = {"method": method, "num_draws": number, "seed": seed, "progress": not quiet}
    found = run.verbs.denoise(x, law, **options, **rows.known)
    if rows.table is not None:
        write_denoised(out, rows.table, found, draws)
        print_file(out, found.mean, json)
        return
    if shape is not None:
        _write_pairs(run, x, found.mean.cpu().numpy(), out, shape)
    else:
        more = {"standard_error": found.standard_error.cpu().numpy()} if out.suffix == ".npz" else {}
        if draws is not None:
            more["draws"] = found.draws[:draws].cpu().numpy()
        _write(out, found.mean.cpu().numpy(), more, ())
    print_file(out, found.mean, json)


def score_command(
    model: Model,
    data: Data,
    out: Out,
    reference: Annotated[
        str | None, typer.Option(help="Data that are as they should be, and that the model wasn't trained on.")
    ] = None,
    regret: Annotated[bool, typer.Option("--regret", help="The likelihood regret too, which takes longer.")] = False,
    method: Annotated[str, typer.Option(help="How to estimate log p(x), as for evaluate.")] = "auto",
    particles: Annotated[int | None, typer.Option(help="Draws a datapoint.", min=1)] = None,
    limit: Limit = None,
    part: Part = None,
    key: Key = None,
    pixels: Pixels = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write how surprising each datapoint of DATA is: -log p(x) in nats with its standard error, to .csv or .npz.

    With --reference two p-values among these: tail, the share that is as surprising, and typicality, the share that is
    as far from the middle.  With --regret how many nats a guide of the datapoint's own would gain.

    \b
    Examples:
      pyro-aevb score run new.csv --out scores.csv --reference held_out.csv
      pyro-aevb score run digits --limit 100 --regret --out scores.npz
    """
    one_of("--method", method, [name for name in EVIDENCE if name != "bdmc"])
    from pyro_aevb.cli.reports import print_file
    from pyro_aevb.cli.tables import PER_ROW, scores_of_cells, with_labels, write_columns
    from pyro_aevb.datasets.array_files import check_output
    from pyro_aevb.posterior.anomaly import among

    check_output(out, PER_ROW)
    run, rows = run_and_rows(model, device, data, part, limit, key=key, pixels=pixels)
    _tell_of_theta(run)
    options: dict[str, Any] = {"method": method, "num_particles": particles, "progress": not quiet}
    found = scores_of_cells(rows.table, run.verbs.anomaly_score(*rows.args, regret=regret, seed=seed, **options))
    if reference is not None:
        _, usual = run_and_rows(model, device, reference, None, None, key=key, pixels=pixels)
        others = run.verbs.anomaly_score(*usual.args, seed=seed + 1, **options)  # other noise than that of the data
        found = among(found, scores_of_cells(usual.table, others).score)
    if rows.table is not None:
        tell("scores are -log p(x) of the observed cells of a row, in the units of the file")
    names = ("score", "standard_error", "tail", "typicality", "regret", "regret_error")
    columns = {name: getattr(found, name) for name in names}
    numbers = {name: value.cpu().numpy() for name, value in columns.items() if value is not None}
    write_columns(out, with_labels(rows.labels, numbers))
    print_file(out, found.score, json)


def register(app: typer.Typer) -> None:
    """Add these commands to the others.

    Args:
        app: the command line.
    """
    app.command("impute", short_help="Fill in missing cells.")(impute_command)
    app.command("denoise", short_help="Write clean data behind noisy data.")(denoise_command)
    app.command("score", short_help="Write how surprising each datapoint is.")(score_command)


def _there(rows: Rows) -> Tensor:
    """Return which cells are there: those that aren't NaN, or missing from a table."""
    x: Tensor = rows.x
    if rows.table is None:
        return ~x.isnan()
    return x.new_ones(x.shape).bool() if rows.observed is None else rows.observed


def _with_holes(observed: str, rows: Rows, there: Tensor, part: str | None) -> tuple[Rows, Tensor]:
    """Return rows and which of their cells are there, also by a file of 0 and 1, which a table without names takes.

    Raises ``ValueError`` for another file, for a table with names, and for a part of a file.
    """
    import torch

    from pyro_aevb.datasets.table import Table

    x, table = rows.x, rows.table
    if part in ("train", "validation") and (table is not None or rows.raw is not None):
        raise ValueError(f"expected all rows for --observed, got --part {part}; leave it out")
    if table is None:
        return rows, there & _mask_of(observed, tuple(x.shape)).to(x.device)
    names = list(table.cells)
    if names != [f"x{d}" for d in range(len(names))]:
        raise ValueError(f"expected a table whose missing cells are empty, got --observed {observed}; leave it out")
    kept = _mask_of(observed, (len(table), len(names))).T.tolist()
    cells = {
        name: [cell if keep else None for cell, keep in zip(column, mask, strict=True)]
        for (name, column), mask in zip(table.cells.items(), kept, strict=True)
    }
    holed = Table(cells, columns=table.columns)
    numbers, known = (torch.from_numpy(each).to(x.device) for each in holed.numbers)
    return rows._replace(x=numbers, observed=known, table=holed), known


def _mask_of(observed: str, shape: tuple[int, ...]) -> Tensor:
    """Return which cells of data of this shape are there, by a file, whose first rows may be enough."""
    import torch

    from pyro_aevb.datasets.array_files import read_contents

    values = torch.from_numpy(read_contents(observed).values)
    values = values.flatten(1)[: shape[0]] if values.dim() > 1 else values[:, None]
    if values.shape != shape or not ((values == 0) | (values == 1)).all():
        raise ValueError(
            f"expected 0 and 1 of the shape {shape} of the data in {observed}, got shape {tuple(values.shape)} and "
            f"values from {values.min():.4g} to {values.max():.4g}; 1 is for a cell that is there"
        )
    return values == 1


def _write_filled(
    out: Path,
    run: Run,
    rows: Rows,
    there: Tensor,
    found: Imputed,
    fill: str,
    interval: float | None,
    draws: int | None,
    shape: tuple[int, ...] | None,
) -> None:
    """Write an array with its missing cells filled in, or a picture of it."""
    import numpy as np

    kept = there.cpu().numpy()
    values = rows.x.cpu().double().numpy() if rows.values is None else rows.values
    x = np.where(kept, values, _filled(found, fill).cpu().numpy().astype(np.float64))
    if shape is not None:
        _write_pairs(run, rows.x.nan_to_num(), x, out, shape)
    else:
        more = {} if interval is None else dict(zip(("low", "high"), found.interval(interval), strict=True))
        more |= {} if draws is None else {"draws": found.draws[:draws]}
        beside = {name: np.where(kept, values, each.cpu().numpy()) for name, each in more.items()}
        errors = {"standard_error": found.standard_error.cpu().numpy()} if out.suffix == ".npz" else {}
        _write(out, x, errors | beside, rows.names)


def _filled(found: Imputed, fill: str) -> Tensor:
    """Return what is put into missing cells, by the name of it."""
    filled = {"mean": found.mean, "draw": found.draws[0], "mode": found.mode}[fill]
    assert filled is not None
    return found.mean.where(filled.isnan(), filled)  # of cells without a mode


def _tell_of_rows(there: Tensor) -> None:
    missing, empty = int((~there).sum()), int((~there.any(1)).sum())
    if not missing:
        tell("nothing is missing: all cells are written as they are")
    if empty:
        tell(f"{empty} of {len(there)} rows have no observed cell: these are answered from the prior")


def _tell_of_theta(run: Run) -> None:
    if run.full is not None:
        tell("theta is the middle of q(theta)")


def _check_extras(out: Path, draws: int | None, interval: float | None) -> None:
    """Raise ``typer.BadParameter`` for what a file of this kind has no place for."""
    if draws is not None and out.suffix != ".npz":
        raise typer.BadParameter(f"expected --out ending in .npz for --draws, got {out}; name another, or leave it out")
    if interval is not None and out.suffix not in (".npz", ".csv"):
        raise typer.BadParameter(f"expected --out ending in .npz or .csv for --interval, got {out}; name another")


def _check_ends(rows: Rows) -> None:
    """Raise ``ValueError`` for a table with columns of the names that the ends of intervals have."""
    from pyro_aevb.cli.imputed_tables import ended
    from pyro_aevb.cli.tables import names_beside

    table = rows.table
    names = rows.names if table is None else ended(table.modelled)
    names_beside(names, ("low", "high"), names if table is None else table.cells)


def _parsed(noise: str) -> tuple[str, float]:
    """Return the kind and the size of the noise; ``typer.BadParameter`` for anything else."""
    kind, _, text = noise.partition(":")
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if (kind == "gaussian" and 0 < size < float("inf")) or (kind == "flips" and 0 < size < 1):
        return kind, size
    raise typer.BadParameter(
        f"expected --noise gaussian:S with S above 0, or flips:P with P between 0 and 1, got {noise!r}"
    )


def _write(out: Path, x: np.ndarray, more: dict[str, np.ndarray], names: tuple[str, ...]) -> None:
    """Write an array, and what belongs to it: by name in an .npz, in columns beside it in a .csv."""
    from pyro_aevb.cli.tables import write_beside
    from pyro_aevb.datasets.array_files import write_array

    names = names or tuple(f"x{d}" for d in range(x.shape[1]))
    if more:
        write_beside(out, x, more, names)
    else:
        write_array(out, x, names=names)


def _write_pairs(run: Run, x: Tensor, found: np.ndarray, out: Path, shape: tuple[int, ...]) -> None:
    import torch

    from pyro_aevb.plots import pairs, write_image

    write_image(pairs(x.cpu(), torch.from_numpy(found), shape, white=run.white), out)
