"""The folder of a training run, opened again: the model, and what its config.toml says about the data.

A run of full VB has q(theta) beside the VAE, whose theta is then the middle of q(theta).  A pair of one's own is opened
by :mod:`.own_run`.

Shapes: N datapoints, D data dimensions, J latent dimensions.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from pyro_aevb.cli.classes import covariates_of, read_classes
from pyro_aevb.cli.config import CONFIG, TrainingConfig
from pyro_aevb.cli.data import ImageShape, Rows, in_colour, rows
from pyro_aevb.cli.parts import part_of_file
from pyro_aevb.cli.table_files import COLUMNS, read_again
from pyro_aevb.cli.table_numbers import central_numbers, noise_of_columns
from pyro_aevb.cli.train import check_device
from pyro_aevb.cli.units import read_divisor
from pyro_aevb.datasets.columns import Column, modelled_columns
from pyro_aevb.datasets.scaled_rows import ScaledRows
from pyro_aevb.datasets.table import Table, read_columns
from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.model_guide.bayesian import Bayesian
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.plots import white_of
from pyro_aevb.random_state import forked
from pyro_aevb.training.saved_pair import PAIR
from pyro_aevb.vae.saving import load_beside
from pyro_aevb.vae.vae import VAE

CHUNK = 1000  # datapoints at a time
THETA_DRAWS = 20


class Run(ABC):
    """A model and a guide to use, and the configuration they were trained with.

    Args:
        folder: of the run; ``None`` for a pair whose weights are its own.
        device: where the data go.

    Attributes:
        full: the pair with theta as global latents, after full VB; else ``None``.
        columns: of the table that it was trained on, ids and constants among them; else empty.
        classes: the names of those that a conditional VAE is conditioned on; else empty.
        white: the value of the brightest pixel.
        verbs: ``encode``, ``reconstruct``, ``impute``, ... of the pair, as methods.
    """

    full: Bayesian | None = None
    columns: tuple[Column, ...] = ()
    classes: tuple[str, ...] = ()
    white: float = 1.0
    verbs: Any

    def __init__(self, folder: Path | None, device: str) -> None:
        check_device(device)
        self.folder, self.device = folder, device
        path = None if folder is None else folder / CONFIG
        self.config = TrainingConfig() if path is None or not path.exists() else TrainingConfig.read(path)

    @property
    @abstractmethod
    def pair(self) -> tuple[PyroCallable, Any]:
        """Model and guide: theta is among their latents after full VB."""

    @property
    @abstractmethod
    def x_dim(self) -> int | None:
        """D; ``None`` if nothing says."""

    @abstractmethod
    def sample(self, number: int, mean: bool, seed: int, of_class: str | None = None) -> Tensor:
        """Return draws of x (N, D) for z ~ p(z): from p(x|z), or its means; of a class, or of each in turn."""

    @abstractmethod
    def put_weights(self, x: Tensor) -> None:
        """Put the saved weights in their place, if that takes data (N, D)."""

    def theta_draws(self, number: int | None) -> int:
        """Return how many draws of theta an estimate takes: as given or 20 after full VB, and else the one theta."""
        if self.full is None and number is not None:
            raise ValueError(
                f"expected no --theta-draws for a run without q(theta), got {number}; leave it out, or train --full-vb"
            )
        return (number or THETA_DRAWS) if self.full is not None else 1

    def rows(
        self,
        data: str,
        part: str | None,
        limit: int | None,
        options: dict[str, Any],
        *,
        every: bool = False,
        holes: bool = False,
    ) -> Rows:
        """Return datapoints (N, D); ``options`` are fields that take the place of the training's.

        Without a ``part`` what was held out of the file that the run was trained on, or ``every`` row.  With ``holes``
        cells may be empty or NaN; those of a table may be in any case.  Raises ``ValueError`` for other than D columns,
        and a part that there isn't.
        """
        if self.columns:
            return self._table_rows(data, part, limit, options, every)
        config = dataclasses.replace(self.config.but(options), image_shape=None)
        divisor = None if self.folder is None else read_divisor(self.folder)
        colours = in_colour(self.config.image_shape)
        found = rows(data, config, part or "test", holes=holes, divisor=divisor, colours=colours)
        x, said, values, classes = found.x, found.said, found.values, found.classes
        if found.raw is not None and self.folder is not None:
            part = "all" if part is None and every else part
            some, which = part_of_file(data, part, self.config, self.folder, [found.raw])
            x, said = x.at(some) if isinstance(x, ScaledRows) else x[some], said + which
            values = None if values is None else values[some]
            classes = tuple(np.array(classes)[some]) if classes else ()
        x = x[torch.arange(len(x))[:limit]] if isinstance(x, ScaledRows) else x[:limit]
        values, classes = None if values is None else values[:limit], classes[:limit]
        self._check_width(data, x)
        x = x.to(self.device)
        self.put_weights(x)
        covariates = covariates_of(classes, self.classes, data).to(self.device) if self.classes else None
        return Rows(x, found.image_shape, said, values, found.names, classes=classes, covariates=covariates)

    def _table_rows(self, data: str, part: str | None, limit: int | None, options: dict[str, Any], every: bool) -> Rows:
        if options.get("pixels") not in (None, "grey"):
            raise ValueError(f"expected no --pixels for a table, got {options['pixels']!r}; leave it out")
        assert self.folder is not None
        found = read_again(data, self.columns, options.get("key", self.config.key))
        part = "all" if part is None and every else part
        some, which = part_of_file(data, part, self.config, self.folder, found.table.numbers)
        table = found.table.take(some).take(slice(limit))
        x, observed = (torch.from_numpy(each).to(self.device) for each in (table.x, table.observed))
        self._check_width(data, x)
        whole = bool(observed.all())
        return Rows(x, None, found.said + which, table=table, observed=None if whole else observed)

    def _check_width(self, data: str, x: Any) -> None:
        if self.x_dim is not None and x.shape[1] != self.x_dim:
            raise ValueError(f"expected {self.x_dim} columns, as the model has, got {x.shape[1]} in {data}")

    def empty_table(self, number: int) -> Table:
        """Return a table of so many rows without ids, to write draws in."""
        kept = [column for column in self.columns if column.kind != "id"]
        cells = {c.name: [c.levels[0] if c.kind == "constant" and c.levels else None] * number for c in kept}
        return Table(cells, columns=kept)

    def reconstruct(self, rows: Rows, seed: int, *, progress: bool) -> Tensor:
        """Return the means of p(x|z) at the means of q(z|x), (N, D); of a table the central numbers of its columns."""
        return self.verbs.reconstruct(*rows.args, seed=seed, progress=progress)

    def manifold(self, side: int, of_class: str | None = None) -> Tensor:
        """Return the means of p(x|z) on a grid of two latent dimensions, (side^2, D), of a class if there are any."""
        if self.columns:
            raise ValueError("expected a model of images for a manifold, got one of a table; use encode, or sample")
        if self.classes and of_class is None:
            raise ValueError(f"expected --class out of {list(self.classes)} for a manifold, got none; pass one")
        columns = self.columns_of(1, of_class)
        found: Tensor = self.verbs.manifold(side) if columns is None else self.verbs.manifold(side, columns[0])
        return found

    def columns_of(self, number: int, of_class: str | None) -> Tensor | None:
        """Return the covariates of so many x, (N, C): of a class, or of each in turn; ``None`` without classes."""
        if not self.classes:
            if of_class is not None:
                raise ValueError(f"expected no --class for a model without classes, got {of_class}; leave it out")
            return None
        if of_class not in (None, *self.classes):
            raise ValueError(f"expected --class out of {list(self.classes)}, got {of_class!r}; pass one of them")
        names = [of_class] if of_class is not None else self.classes
        return covariates_of([names[n % len(names)] for n in range(number)], self.classes, "--class").to(self.device)

    def image_shape(self, text: str | None) -> tuple[int, ...]:
        """Return the shape of an image, as given or as in training; ``ValueError`` if neither says, or for a table."""
        if self.columns:
            raise ValueError("expected images to make a picture of, got a table; write .csv, .npy or .npz")
        shape: ImageShape = self.config.image_shape
        if text is not None:
            shape = TrainingConfig().but({"image_shape": text}).image_shape
        if shape is None:
            raise ValueError(
                f"expected the shape of an image of {self.x_dim} pixels, got data without; pass --image-shape, "
                "such as 28,28, or write .npy or .csv"
            )
        return shape

    def noise(self, kind: str, size: float, x: Tensor, **known: Tensor) -> Callable[[Tensor], Any]:
        """Return the law of a noisy x given a clean one.

        Args:
            kind: "gaussian", of standard deviation ``size``; "flips" of binary cells, each with this probability.
            size: likewise.
            x: what is noisy, (N, D).
            known: what the model takes besides, by name.

        Raises:
            ValueError: for flips of what isn't binary, and noise that columns of a table can't have.
        """
        if self.columns:
            return noise_of_columns(kind, size, modelled_columns(self.columns), x)
        if kind == "gaussian":
            return lambda clean: dist.Normal(clean, size).to_event(1)
        beside = {name: value[:2] for name, value in known.items()}
        likelihood = innermost(observed_site(self.pair[0], x[:2], **beside)["fn"])
        if not isinstance(likelihood.support, type(constraints.boolean)) or not ((x == 0) | (x == 1)).all():
            raise ValueError(
                f"expected binary cells, modelled as such, for flips, got {type(likelihood).__name__} and values from "
                f"{x.min():.4g} to {x.max():.4g}; use --noise gaussian:S, or --pixels static"
            )
        return lambda clean: dist.Bernoulli(size + (1 - 2 * size) * clean).to_event(1)


@torch.no_grad()
def observed_site(model: PyroCallable, x: Tensor, **known: Tensor) -> Any:
    """Return the node of the site that observes x, (N, D), in a run of the model on it and what is known besides.

    Raises:
        ValueError: for a model without one.
    """
    with forked():
        nodes: Any = poutine.trace(model).get_trace(x, **known).nodes
    for node in nodes.values():
        if node["type"] == "sample" and node["is_observed"] and getattr(node["value"], "shape", None) == x.shape:
            return node
    raise ValueError(
        f"expected a model with a site that observes x, of shape {tuple(x.shape)}, got none; observe it with obs=x"
    )


@torch.no_grad()
def drawn_at(site: str, model: PyroCallable, x: Tensor) -> Tensor:
    """Return what the model draws at a site in place of x: data inside of any support."""
    with forked():
        nodes: Any = poutine.trace(poutine.uncondition(model)).get_trace(x).nodes
    return nodes[site]["value"]


class TrainedRun(Run):
    """The VAE in a folder, and the configuration it was trained with; defaults, where :func:`save` alone wrote it.

    Args:
        folder: what ``train`` or :func:`~pyro_aevb.save` wrote.
        device: where to put the VAE.

    Attributes:
        vae: p(x, z) and q(z|x), at the middle of q(theta) where there is one.
        full: the VAE with theta as global latents, after full VB; else ``None``.
    """

    def __init__(self, folder: Path, device: str) -> None:
        super().__init__(folder, device)
        if (folder / PAIR).exists() and not (folder / "vae.json").exists():
            raise ValueError(
                f"expected the folder of a VAE, got {folder}, which has the weights of a pair of one's own; say "
                f"which code makes it: FILE.py:FACTORY@{folder}"
            )
        vae, beside = load_beside(folder, device=device)
        self.vae: VAE = vae.eval()
        self.verbs, self.white = self.vae, white_of(self.vae)
        columns = folder / COLUMNS
        self.columns = read_columns(columns) if columns.exists() else ()
        self.classes = read_classes(folder)
        if self.config.image_shape is None:
            self.config = dataclasses.replace(self.config, image_shape=self.vae.image_shape)
        if self.config.full_vb and not beside:
            raise ValueError(
                f"expected q(theta) beside the VAE in {folder}, as its {CONFIG} says full_vb, got the VAE alone; save "
                "it with beside=full.state_dict(), or set full_vb = false for theta as it is"
            )
        self.full = self._with_q_theta(beside) if beside else None

    @torch.no_grad()
    def _with_q_theta(self, state: dict[str, Tensor]) -> Bayesian:
        """Return the pair with q(theta) as it was saved; ``ValueError`` for tensors that aren't that."""
        x = drawn_at("x", self.vae.model, self._zeros(2))
        with forked():
            full = Bayesian(self.vae.model, self.vae.guide, x)
        try:
            full.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"expected q(theta) of this VAE beside it, got: {error}; save both again") from error
        return full

    @property
    def pair(self) -> tuple[PyroCallable, Any]:
        """Model and guide: theta is among their latents after full VB."""
        pair = self.vae if self.full is None else self.full
        return pair.model, pair.guide

    @property
    def x_dim(self) -> int:
        """D."""
        return self.vae.x_dim

    def put_weights(self, x: Tensor) -> None:
        """Do nothing: they are the VAE's already."""

    @torch.no_grad()
    def sample(self, number: int, mean: bool, seed: int, of_class: str | None = None) -> Tensor:
        """Return draws of x (N, D) for z ~ p(z): from p(x|z), or its means, which of a table are central numbers.

        Those of a conditional VAE are of a class, or of each in turn.  After full VB each x has a theta ~ q(theta) of
        its own: they are draws of the posterior predictive.
        """
        modelled = modelled_columns(self.columns)
        pyro.set_rng_seed(seed)

        columns = self.columns_of(number, of_class)

        def draws(x: Tensor, some: slice) -> Tensor:
            args = (x,) if columns is None else (x, None, None, columns[some])
            theta = {} if self.full is None else {name: q.sample() for name, q in self.full.posterior().items()}
            model = pyro.condition(poutine.uncondition(self.pair[0]), theta)
            nodes: Any = poutine.trace(model).get_trace(*args).nodes
            fn, drawn = nodes["x"]["fn"], nodes["x"]["value"]
            return drawn if not mean else central_numbers(fn, modelled) if modelled else fn.mean

        size, x = CHUNK if self.full is None else 1, self._zeros(number)
        places = [slice(begin, begin + size) for begin in range(0, number, size)]
        return torch.cat([draws(x[some], some) for some in places])

    @torch.no_grad()
    def reconstruct(self, rows: Rows, seed: int, *, progress: bool) -> Tensor:
        """Return the means of p(x|z) at the means of q(z|x), (N, D); of a table the central numbers of its columns."""
        if not self.columns:
            return super().reconstruct(rows, seed, progress=progress)
        options = {"seed": seed, "progress": progress}
        codes = {site: self.vae.encode(*rows.args, site=site, **options) for site in self.vae.hierarchy.sites}
        found = []
        for place in range(0, len(rows.x), CHUNK):
            some = slice(place, place + CHUNK)
            model = pyro.condition(self.vae.model, {site: code[some] for site, code in codes.items()})
            nodes: Any = poutine.trace(model).get_trace(rows.x[some]).nodes
            found.append(central_numbers(nodes["x"]["fn"], modelled_columns(self.columns)))
        return torch.cat(found)

    def _zeros(self, number: int) -> Tensor:
        return torch.zeros(number, self.vae.x_dim).to(next(self.vae.parameters()))
