"""The arguments that several commands have in common, and the run and the data that they open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyro_aevb.cli.choices import choices
from pyro_aevb.cli.config import PARTS
from pyro_aevb.cli.options import given, one_of, tell

if TYPE_CHECKING:
    from pyro_aevb.cli.data import Rows
    from pyro_aevb.cli.trained_run import Run

PICTURE = (".png", ".pdf", ".svg", ".jpg")  # plots.PICTURE, which takes long to import

Model = Annotated[
    Path,
    typer.Argument(
        help="The folder that train wrote; or FILE.py:FACTORY@FOLDER, a function of yours that returns (model, guide) "
        "and the folder of their weights.",
        metavar="MODEL",
        show_default=False,
    ),
]
DATASETS = choices("datasets.image_datasets", "DATASETS")
FILES = ", ".join(choices("datasets.array_files", "READABLE"))
KINDS_OF_DATA = f"A data set's name ({', '.join(DATASETS)}), a file ({FILES}) or a folder of images."
Data = Annotated[str, typer.Argument(help=KINDS_OF_DATA, metavar="DATA", show_default=False)]
PARTS_HELP = (
    "train, validation or test of a named data set, test by default; train, validation or all of the file that the run "
    "was trained on with --validation."
)
Part = Annotated[str | None, typer.Option(help=PARTS_HELP)]
Key = Annotated[str | None, typer.Option(help="Which array of an .npz file.")]
Pixels = Annotated[str | None, typer.Option(help="What to do with pixels; as in training by default.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many datapoints.", min=1)]
Seed = Annotated[int, typer.Option(help="For the noise.", min=0, max=2**32 - 2)]  # NumPy's, and another for a reference
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Class = Annotated[
    str | None, typer.Option("--class", help="Of a model trained with --conditional: which class.", metavar="NAME")
]
ImageShape = Annotated[str | None, typer.Option(help="[channels,]height,width; as in training by default.")]
Config = Annotated[
    Path | None,
    typer.Option(
        help="Options from a TOML file, whose paths are relative to it; those given here win.", metavar="FILE"
    ),
]
Out = Annotated[Path, typer.Option(help="The file to write.", metavar="FILE", show_default=False)]


def run_and_rows(
    model: Path,
    device: str,
    data: str,
    part: str | None,
    limit: int | None,
    *,
    every: bool = False,
    holes: bool = False,
    **changes: str | None,
) -> tuple[Run, Rows]:
    """Return a trained run, and datapoints prepared as in its training but for ``changes``.

    Of the file that it was trained on, what was held out, or ``every`` row.  With ``holes`` cells may be missing from
    what isn't a table, too.
    """
    if part is not None:
        one_of("--part", part, (*PARTS, "all"))
    from pyro_aevb.cli.own_run import open_run

    run = open_run(model, device)
    rows = run.rows(data, part, limit, given(changes), every=every, holes=holes)
    if rows.said:
        tell(rows.said)
    return run, rows
