"""The command line: ``pyro-aevb train | encode | sample | reconstruct | manifold | compare | info``, and those of
:mod:`pyro_aevb.cli.evaluate` and :mod:`pyro_aevb.cli.uses`.

Exit codes: 0, 1 (it failed, and a line says why), 2 (wrong usage), 130 (ctrl-C), 143 (SIGTERM).

A command imports what it runs when it is run: torch takes seconds, which ``--help`` and wrong usage don't wait for.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_aevb.cli import evaluate, uses
from pyro_aevb.cli.choices import choices
from pyro_aevb.cli.config import LEARNERS
from pyro_aevb.cli.inputs import (
    KINDS_OF_DATA,
    PICTURE,
    Class,
    Config,
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
from pyro_aevb.cli.options import (
    INTERRUPTED,
    Commands,
    Debug,
    Json,
    Quiet,
    configured,
    given,
    one_of,
    settings_from,
    several_of,
    tell,
)
from pyro_aevb.version import __version__

CODES = choices("posterior.gate", "METHODS")
app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def print_version(asked: bool) -> None:
    """Print the version and exit, if that was asked for."""
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Auto-Encoding Variational Bayes: train a VAE on your data, measure it, use it."""


@app.command("train", short_help="Train a VAE and write it to a folder.")
@configured()
def train_command(
    data: Annotated[str | None, typer.Argument(help=KINDS_OF_DATA, metavar="DATA", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write.", metavar="FOLDER", show_default=False)] = None,
    config: Config = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print all options as TOML and exit.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write events to OUT/tensorboard.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Train a VAE on DATA and write it to a folder, with config.toml, history.csv, history.png and checkpoints/.

    Ctrl-C saves what there is; --resume goes on, with the options in OUT/config.toml.

    \b
    Examples:
      pyro-aevb train digits --pixels dynamic --latent-dim 5 --epochs 50 --validation 0.1 --out run
      pyro-aevb train people.csv --column age=count --hidden-dims 64,64 --keep-best --validation 0.2 --out run
      pyro-aevb train scans/ --convolutions --out run
      pyro-aevb train classes/ --conditional --out run
      pyro-aevb train scans/ --likelihood discretized-logistic --out run
      pyro-aevb train digits --pixels dynamic --full-vb --samples 4e5 --out run
      pyro-aevb train counts.npy --model counts.py:pair --objective renyi --alpha 0.5 --out own
      pyro-aevb train --out run --resume --epochs 100
      torchrun --nproc-per-node=2 -m pyro_aevb train mnist --pixels dynamic --out run
    """
    used = given(options) | ({} if data is None else {"data": data})
    settings = settings_from(config, out if resume else None, used)
    if print_config:
        print(settings.to_toml(), end="")
        return
    if settings.data is None:
        raise typer.BadParameter("expected data to train on, got none", param_hint="DATA")
    if out is None:
        raise typer.BadParameter("expected a folder to write to, got none", param_hint="--out")
    from pyro_aevb.cli.reports import print_training
    from pyro_aevb.cli.train import train
    from pyro_aevb.training.ranks import Ranks, process_group

    with process_group(settings.device) as device:
        history = train(
            dataclasses.replace(settings, device=device),
            out,
            resume=resume,
            tensorboard=tensorboard,
            progress=not quiet,
        )
        if Ranks().rank == 0:
            print_training(history, out, json)
    if history.interrupted:
        raise typer.Exit(INTERRUPTED)


evaluate.register(app)


@app.command("encode", short_help="Write codes, the means of q(z|x).")
def encode_command(
    model: Model,
    data: Data,
    out: Out,
    method: Annotated[
        str, typer.Option(help=f"guide for q(z|x); for p(z|x) auto, or another of {', '.join(CODES)}.")
    ] = "guide",
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
    """Write the means of q(z|x) for each datapoint of DATA: (N, J), to a .npy, .npz (as "z") or .csv file.

    With another --method the means of p(z|x), by draws that are weighed or moved by HMC.

    \b
    Examples:
      pyro-aevb encode run digits --out codes.npy
      pyro-aevb encode run new.csv --out codes.csv
    """
    one_of("--method", method, CODES)
    from pyro_aevb.cli.reports import print_file
    from pyro_aevb.cli.tables import write_codes
    from pyro_aevb.datasets.array_files import WRITABLE, check_output

    check_output(out, WRITABLE)
    run, rows = run_and_rows(model, device, data, part, limit, key=key, pixels=pixels, every=True)
    codes = run.verbs.encode(*rows.args, method=method, seed=seed, progress=not quiet)
    codes = codes.reshape(len(codes), -1)
    write_codes(out, codes.cpu().numpy(), rows.labels)
    print_file(out, codes, json)


@app.command("sample", short_help="Write draws of x from the model.")
def sample_command(
    model: Model,
    out: Out,
    number: Annotated[int, typer.Option("-n", "--number", help="How many.", min=1)] = 64,
    mean: Annotated[bool, typer.Option("--mean", help="Means of p(x|z) in place of draws from it.")] = False,
    of_class: Class = None,
    image_shape: ImageShape = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write draws of x from the model: z ~ p(z), x ~ p(x|z), to a .npy, .npz or .csv file.

    Or to a picture, .png, .pdf, .svg or .jpg.  After train --full-vb each x has a draw of theta of its own.

    \b
    Examples:
      pyro-aevb sample run -n 1000 --out x.npy
      pyro-aevb sample run -n 100 --mean --out x.png
    """
    from pyro_aevb.cli.own_run import open_run
    from pyro_aevb.cli.reports import print_file
    from pyro_aevb.cli.tables import write_table
    from pyro_aevb.datasets.array_files import WRITABLE, check_output, write_array
    from pyro_aevb.plots import image_grid, write_image

    check_output(out, (*WRITABLE, *PICTURE))
    run = open_run(model, device)
    shape = run.image_shape(image_shape) if out.suffix in PICTURE else None
    x = run.sample(number, mean, seed, of_class)
    if shape is not None:
        write_image(image_grid(x, shape, white=run.white), out)
    elif run.columns:
        write_table(out, run.empty_table(number), x.cpu().numpy())
    else:
        write_array(out, x.cpu().numpy(), names=[f"x{d}" for d in range(x.shape[1])])
    print_file(out, x, json)


@app.command("reconstruct", short_help="Write reconstructions of data.")
def reconstruct_command(
    model: Model,
    data: Data,
    out: Out,
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
    """Write the mean of p(x|z) at the mean of q(z|x) for each datapoint of DATA, to a .npy, .npz or .csv file.

    Or to a picture, .png, .pdf, .svg or .jpg: rows of ten datapoints, each above its reconstructions; 50 datapoints
    without --limit.  After train --full-vb, theta is the middle of q(theta).

    \b
    Examples:
      pyro-aevb reconstruct run digits --out x.csv
      pyro-aevb reconstruct run digits --limit 30 --out x.png
    """
    from pyro_aevb.cli.reports import print_file
    from pyro_aevb.cli.tables import write_table
    from pyro_aevb.datasets.array_files import WRITABLE, check_output, write_array
    from pyro_aevb.plots import pairs, write_image

    check_output(out, (*WRITABLE, *PICTURE))
    if out.suffix in PICTURE and limit is None:
        limit = 50
    run, rows = run_and_rows(model, device, data, part, limit, key=key, pixels=pixels, every=True)
    shape = run.image_shape(image_shape) if out.suffix in PICTURE else None
    means = run.reconstruct(rows, seed, progress=not quiet)
    if shape is not None:
        write_image(pairs(rows.x, means, shape, white=run.white), out)
    elif rows.table is not None:
        write_table(out, rows.table, means.cpu().numpy())
    else:
        write_array(out, means.cpu().numpy(), names=[f"x{d}" for d in range(means.shape[1])])
    print_file(out, means, json)


@app.command("manifold", short_help="Draw the manifold of 2 latent dimensions.")
def manifold_command(
    model: Model,
    out: Out,
    side: Annotated[int, typer.Option(help="Images in a row.", min=1)] = 20,
    of_class: Class = None,
    image_shape: ImageShape = None,
    device: Device = "cpu",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a picture of the 2 latent dimensions: means of p(x|z) on a grid through the prior's inverse CDF.

    That is Figure 4 of Kingma & Welling 2013.  After train --full-vb, theta is the middle of q(theta).

    \b
    Examples:
      pyro-aevb manifold run --out manifold.png
    """
    from pyro_aevb.cli.own_run import open_run
    from pyro_aevb.cli.reports import print_file
    from pyro_aevb.datasets.array_files import check_output
    from pyro_aevb.plots import image_grid, write_image

    check_output(out, PICTURE)
    run = open_run(model, device)
    image = image_grid(run.manifold(side, of_class), run.image_shape(image_shape), side, run.white)
    write_image(image, out)
    print_file(out, image, json)


uses.register(app)


@app.command("compare", short_help="Train with AEVB, wake-sleep and MCEM, side by side.")
@configured(without=["learner", "checkpoint_every"])
def compare_command(
    data: Data,
    learners: Annotated[
        str, typer.Option(help=f"Which, with commas or spaces: {', '.join(LEARNERS)}.")
    ] = "aevb,wake-sleep,mcem",
    out: Annotated[Path, typer.Option(help="The picture to write.", metavar="FILE")] = Path("compare.png"),
    config: Config = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Train with AEVB, wake-sleep and Monte Carlo EM, the same seed and samples; print the validation bounds.

    MCEM's bound is that of a guide fitted beside it, which it never sees.  Without --validation, a tenth of the data.

    \b
    Examples:
      pyro-aevb compare digits --latent-dim 3 --hidden-dims 100 --samples 1e5 --out compare.png
    """
    names = several_of("--learners", learners, LEARNERS)
    settings = settings_from(config, None, given(options) | {"data": data})
    from pyro_aevb.cli.reports import print_comparison
    from pyro_aevb.cli.train import compare
    from pyro_aevb.datasets.array_files import check_output
    from pyro_aevb.plots import compare_histories, write_figure

    check_output(out, PICTURE)
    histories = compare(settings, names, progress=not quiet)
    if histories:
        write_figure(compare_histories(histories), out)
    print_comparison(histories, out, json)
    if len(histories) < len(names) or any(history.interrupted for history in histories.values()):
        tell("interrupted: this is what there is")
        raise typer.Exit(INTERRUPTED)


@app.command("info", short_help="Print versions, devices, and the state of the fast path.")
def info_command(json: Json = False, debug: Debug = False) -> None:
    """Print versions, devices, and what the fast path can use here.

    \b
    Examples:
      pyro-aevb info --json
    """
    from pyro_aevb.cli.reports import print_information

    print_information(json)
