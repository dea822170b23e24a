"""A pair of one's own, opened on the command line: ``FILE.py:FACTORY``, or ``FILE.py:FACTORY@FOLDER`` with its weights.

Shapes: N datapoints, D data dimensions.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pyro_aevb import posterior
from pyro_aevb.cli.own_pair import own_pair
from pyro_aevb.cli.trained_run import Run, TrainedRun, drawn_at, observed_site
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.training.saved_pair import load_pair, read_pair

OWN = re.compile(r"(.*?\.py(?::\w*)?)(?:@(.+))?")  # either path may have an @
VERBS = ("encode", "reconstruct", "impute", "denoise", "anomaly_score")


def open_run(name: str | Path, device: str) -> Run:
    """Return the VAE in a folder, or a pair of one's own.

    Args:
        name: a folder, ``FILE.py:FACTORY`` or ``FILE.py:FACTORY@FOLDER``.
        device: where to put them.
    """
    found = OWN.fullmatch(str(name))
    if found is None or Path(name).is_dir():
        return TrainedRun(Path(name), device)
    code, folder = found.groups()
    return OwnRun(code, Path(folder) if folder else None, device)


class OwnRun(Run):
    """A model and a guide of one's own, which take x of shape (N, D), and the weights in a folder.

    Args:
        code: ``FILE.py:FACTORY``.
        folder: what ``train --model`` or :func:`~pyro_aevb.save_pair` wrote; ``None`` for a pair that has its weights.
        device: where to put data, and what the factory makes.

    Raises:
        FileNotFoundError, ValueError: for code or weights that can't be used.
    """

    def __init__(self, code: str, folder: Path | None, device: str) -> None:
        super().__init__(folder, device)
        self._saved = None if folder is None else read_pair(folder)
        self.code = code
        with torch.device(device):
            self._pair = own_pair(code)
        self.verbs = SimpleNamespace(
            **{verb: functools.partial(getattr(posterior, verb), *self._pair) for verb in VERBS}
        )
        self.verbs.manifold = self._manifold
        if self._saved is not None and (self._saved.rows is None or len(self._saved.rows) != 1 or self.x_dim is None):
            shapes = "other arguments" if self._saved.rows is None else [shape for shape, _ in self._saved.rows]
            raise ValueError(
                f"expected a pair that takes x alone, of shape (N, D), got one that takes {shapes}; use it in Python, "
                "or save it with a function of x (N, D)"
            )

    @property
    def pair(self) -> tuple[PyroCallable, Any]:
        """Model and guide."""
        return self._pair

    @property
    def x_dim(self) -> int | None:
        """D, as the folder says it."""
        shape = self._saved.rows[0][0] if self._saved is not None and self._saved.rows else ()
        return shape[0] if len(shape) == 1 else None

    def put_weights(self, x: Tensor) -> None:
        """Put the saved weights into the pair, which is run on the rows of x without holes."""
        if self.folder is None:
            return
        whole = x[~x.isnan().any(1)]
        load_pair(*self._pair, self.folder, whole if len(whole) else self._drawn())

    def sample(self, number: int, mean: bool, seed: int, of_class: str | None = None) -> Tensor:
        """Return draws of x (N, D) for z ~ p(z): from p(x|z), or its means; there are no classes."""
        self.columns_of(number, of_class)
        x = self._drawn()
        self.put_weights(x)
        return posterior.sample(*self._pair, number, x, mean=mean, seed=seed, progress=False)

    def _manifold(self, side: int) -> Tensor:
        x = self._drawn()
        self.put_weights(x)
        return posterior.manifold(*self._pair, x, side=side)

    @torch.no_grad()
    def _drawn(self) -> Tensor:
        """Return two rows of x that the model draws before its weights are there: inside of any support."""
        if self.x_dim is None:
            raise ValueError(
                f"expected {self.code}@FOLDER, for the folder says how many columns x has, got {self.code}; write one "
                "with train --model or save_pair"
            )
        zeros = torch.zeros(2, self.x_dim, device=self.device)
        return drawn_at(observed_site(self._pair.model, zeros)["name"], self._pair.model, zeros)
