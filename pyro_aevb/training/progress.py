"""The display of a run while it goes on: a progress bar with the bound, the speed and the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyro_aevb.progress_bar import progress_bar
from pyro_aevb.training.history import ERROR


class Progress:
    """The progress bar: samples, samples/s, time left, the mean bound since it was last written, the last evaluation.

    Args:
        total: training samples in all, where that is known.
        done: those that an earlier run made.
        show: ``False`` shows nothing.
        label: what stands before the bar.
        position: the bar's line, where several run at once.
    """

    interval = 0.5  # seconds

    def __init__(self, total: int | None, done: int, show: bool, label: str, position: int | None) -> None:
        self.bar = progress_bar(
            show=show, total=total, initial=done, desc=label, unit=" samples", unit_scale=True, position=position
        )
        self.evaluation = ""
        self.sum: Tensor | float = 0.0
        self.count, self.written = 0, time.perf_counter()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()

    def stepped(self, name: str, bound: Tensor, samples: int) -> None:
        """Count a step."""
        if self.bar.disable:
            return
        self.sum, self.count = self.sum + bound, self.count + 1
        self.bar.update(samples)
        if time.perf_counter() - self.written > self.interval:
            self.bar.set_postfix_str(f"{name} {float(self.sum) / self.count:.2f}{self.evaluation}", refresh=False)
            self.sum, self.count, self.written = 0.0, 0, time.perf_counter()

    def compiled(self, seconds: float) -> None:
        """Say how long that took."""
        self.bar.set_postfix_str(f"compiled in {seconds:.1f} s")

    def evaluated(self, values: Mapping[str, float]) -> None:
        """Show an evaluation from here on."""
        self.evaluation = "".join(f" {n} {value:.2f}" for n, value in values.items() if not n.endswith(ERROR))
