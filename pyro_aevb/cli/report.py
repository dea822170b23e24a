"""The command ``pyro-aevb report``: how far a model can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_aevb.cli.app import app
from pyro_aevb.cli.choices import choices
from pyro_aevb.cli.inputs import (
    PICTURE,
    Data,
    Device,
    Key,
    Limit,
    Model,
    Part,
    Pixels,
    Seed,
    run_and_rows,
)
from pyro_aevb.cli.options import Debug, Json, Quiet, one_of, tell

METHODS = choices("evidence.marginal_likelihood", "METHODS")
Page = Annotated[Path | None, typer.Option(help="A page of pictures to write.", metavar="FILE", show_default=False)]


@app.command("report", short_help="Say how good a model is and how far q(z|x) can be trusted.")
def report_command(
    model: Model,
    data: Data,
    out: Page = None,
    method: Annotated[str, typer.Option(help="How to estimate log p(x), as evaluate does.")] = "importance",
    particles: Annotated[int | None, typer.Option(help="Draws, or chains, a datapoint for log p(x).", min=1)] = None,
    gap: Annotated[
        int, typer.Option(help="Of how many datapoints log p(x) - bound is taken apart, about a second each.", min=0)
    ] = 0,
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
    """Print the bound of DATA in parts, log p(x), the tails of the weights, and what the latent dimensions carry.

    A pareto_k above 0.7 says that q(z|x) misses some of p(z|x).  A latent dimension that carries less than 0.01 nats
    has collapsed.  --out writes a page of pictures, that ends in .pdf, .png, .svg or .jpg.

    \b
    Examples:
      pyro-aevb report run digits --out report.pdf
      pyro-aevb report run digits --limit 200 --gap 20 --json
    """
    one_of("--method", method, METHODS)
    from pyro_aevb.cli.reports import print_json
    from pyro_aevb.datasets.array_files import check_output
    from pyro_aevb.diagnostics import report
    from pyro_aevb.environment import versions
    from pyro_aevb.plots import write_figure

    if out is not None:
        check_output(out, PICTURE)
    run, rows = run_and_rows(model, device, data, part, limit, key=key, pixels=pixels)
    found = report(
        *run.pair,
        *rows.args,
        method=method,
        num_weights=particles,
        num_gap=gap,
        vectorize=run.full is None,
        vectorize_weights=True,
        seed=seed,
        progress=not quiet,
    )
    if out is not None:
        write_figure(found.plot(), out)
    if rows.table is not None:
        tell(
            "nats are those of standardised numbers; log p(x) of the cells in the units of the file is larger by "
            f"{rows.table.log_scale().mean():.4g} in the mean"
        )
    if json:
        print_json(found.summary() | {"out": out and str(out), "seed": seed, "versions": versions()})
        return
    print(found)
    print(f"seed {seed}; errors cover the noise and the choice of datapoints")
    if out is not None:
        print(f"written: {out}")
