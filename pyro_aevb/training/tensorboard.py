"""A run's evaluations in TensorBoard, while it goes on."""

from __future__ import annotations

import math
from pathlib import Path

from pyro_aevb.training.history import History


class TensorBoard:
    """A callback for :func:`~pyro_aevb.training.fit` that writes each evaluation's values and the training bound.

    They stand under ``bound/``, against training samples; ``tensorboard --logdir FOLDER`` shows them.

    Args:
        log_dir: a folder for the event files.

    Raises:
        ImportError: without the package tensorboard.
    """

    def __init__(self, log_dir: str | Path) -> None:
        try:  # here, not above: few want it, and it takes a second
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                'expected the package tensorboard, got none; pip install "pyro-aevb[tensorboard]"'
            ) from error
        self._writer = SummaryWriter(str(log_dir))

    def __call__(self, history: History) -> None:
        """Write the last record."""
        record = history.records[-1]
        for name, value in {"training": record.training, **record.values}.items():
            if not math.isnan(value):
                self._writer.add_scalar(f"bound/{name}", value, record.samples)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
