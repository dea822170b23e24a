"""The command ``pyro-aevb evaluate``: the bound and log p(x) of data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_aevb.cli.choices import choices
from pyro_aevb.cli.inputs import Data, Device, Key, Limit, Model, Part, Pixels, Seed, run_and_rows
from pyro_aevb.cli.options import Debug, Json, Quiet, given, one_of

METHODS = choices("evidence.marginal_likelihood", "METHODS")


def evaluate_command(
    model: Model,
    data: Data,
    method: Annotated[str, typer.Option(help=f"How to estimate log p(x): {', '.join(METHODS)}.")] = "auto",
    particles: Annotated[int | None, typer.Option(help="Draws, or chains, a datapoint.", min=1)] = None,
    temperatures: Annotated[
        int | None, typer.Option(help="Of ais, auto and bdmc, by default 1000, and of smc, 100.", min=1)
    ] = None,
    leapfrog: Annotated[
        int | None, typer.Option(help="Steps of ais, auto, bdmc and smc at each temperature.", min=1)
    ] = None,
    chain: Annotated[
        int | None,
        typer.Option(help="Of bdmc: HMC steps before it anneals back, for DATA and not simulated ones.", min=1),
    ] = None,
    theta_draws: Annotated[
        int | None, typer.Option(help="Draws of theta after train --full-vb, 20 by default.", min=1)
    ] = None,
    per_row: Annotated[
        Path | None, typer.Option(help="Write log p(x) of each row too, to .csv or .npz.", metavar="FILE")
    ] = None,
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
    """Print the bound and log p(x) of DATA under MODEL, in nats per datapoint, with standard errors.

    By default, auto, log p(x) is an integral by quadrature for up to 3 latent dimensions, and estimated by importance
    sampling for more; by AIS for datapoints whose integral doesn't settle or whose weights have a heavy tail.

    bdmc without --chain is about data that MODEL simulates: how good AIS is for it.  After train --full-vb, log p(x) is
    the posterior predictive: the logarithm of the mean of p(x) over draws of theta.

    \b
    Examples:
      pyro-aevb evaluate run digits --particles 1000 --per-row log_p.csv
      pyro-aevb evaluate counts.py:pair@own counts.npy --method quadrature
      pyro-aevb evaluate run digits --method bdmc --chain 100 --limit 100
      pyro-aevb evaluate run digits --method ais --temperatures 200 --limit 100 --json
    """
    one_of("--method", method, METHODS)
    if chain is not None and method != "bdmc":
        raise typer.BadParameter(f"expected --chain with --method bdmc alone, got {method}; leave it out")
    if per_row is not None and method == "bdmc" and chain is None:
        raise typer.BadParameter("expected --chain beside --per-row, for without it bdmc is about simulated rows")
    from pyro_aevb.cli.reports import print_evidence
    from pyro_aevb.cli.tables import PER_ROW, evidence_columns, evidence_of_cells, with_labels, write_columns
    from pyro_aevb.datasets.array_files import check_output
    from pyro_aevb.evidence import elbo, log_marginal_likelihood

    if per_row is not None:
        check_output(per_row, PER_ROW)
    run, rows = run_and_rows(model, device, data, part, limit, key=key, pixels=pixels)
    if rows.table is not None and method == "bdmc" and chain is None:
        raise typer.BadParameter("expected --chain beside --method bdmc for a table, whose cells have units; pass it")
    draws = run.theta_draws(theta_draws)
    bound = elbo(*run.pair, *rows.args, num_particles=draws, vectorize=run.full is None, seed=seed)
    evidence = log_marginal_likelihood(
        *run.pair,
        *rows.args,
        method=_estimator(method, temperatures, leapfrog, chain),
        num_particles=particles,
        num_global_draws=draws,
        seed=seed,
        progress=not quiet,
    )
    bound, evidence = evidence_of_cells(rows.table, bound, evidence)
    if per_row is not None:
        write_columns(per_row, with_labels(rows.labels, evidence_columns(evidence, method)))
    print_evidence(bound.mean(), evidence, method, seed, json, None if run.full is None else draws)


def register(app: typer.Typer) -> None:
    """Add the command to the others.

    Args:
        app: the command line.
    """
    app.command("evaluate", short_help="Print the bound and log p(x) of data.")(evaluate_command)


def _estimator(method: str, temperatures: int | None, leapfrog: int | None, chain: int | None) -> Any:
    """Return the estimator of a name with its options."""
    from pyro_aevb.evidence import AIS, BDMC, SMC, Auto

    sizes = given({"num_temperatures": temperatures, "num_leapfrog": leapfrog})
    annealing = AIS(**sizes)
    methods = {"ais": annealing, "auto": Auto(annealing=annealing), "smc": SMC(**sizes)}
    return BDMC(annealing, chain=chain) if method == "bdmc" else methods.get(method, method)
