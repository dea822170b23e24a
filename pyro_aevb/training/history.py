"""The history of a training run: its evaluations, as a table and as a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pyro_aevb.short_repr import short_repr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERROR = "_standard_error"  # what belongs to ``name`` is called name + ERROR


class Record(NamedTuple):
    """One evaluation: training ``samples`` seen, ``seconds`` since the start, and the ``values`` that came back.

    ``training`` is the mean of the bound (of -loss, where a learner has no bound) over the minibatches since the record
    before; it moves while it is taken, so it is no estimate of the bound here and now.  NaN where there were none.
    """

    samples: int
    seconds: float
    values: dict[str, float]
    training: float = math.nan

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass
class History:
    """The history of one :func:`~pyro_aevb.training.fit`.

    Attributes:
        records: its evaluations, in order.
        samples: training samples seen.
        seconds: how long it took, with evaluations and compilation, over all the runs that were resumed.
        evaluation_seconds: of these, what evaluations took.
        compile_seconds: and what tracing and compiling took in this process.
        interrupted: whether ctrl-C ended it.
        stopped_early: whether evaluations that got no better, or a callback, ended it.
        best: the record that was best, by the value that the run monitors.
    """

    records: list[Record] = field(default_factory=list)
    samples: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    compile_seconds: float = 0.0
    interrupted: bool = False
    stopped_early: bool = False
    best: Record | None = None

    def __repr__(self) -> str:
        return short_repr(self)

    def table(self) -> dict[str, list[float]]:
        """Return the records as columns of one length: samples, seconds, training, and each value (NaN where missing).

        ``pandas.DataFrame(history.table())`` makes a data frame of it.

        >>> from pyro_aevb.training import Record
        >>> history = History([Record(100, 0.5, {}, -3.0), Record(200, 1.0, {"validation": -2.5}, -2.0)])
        >>> history.table()["validation"]
        [nan, -2.5]
        """
        names = dict.fromkeys(name for record in self.records for name in record.values)
        columns: dict[str, list[float]] = {
            "samples": [record.samples for record in self.records],
            "seconds": [record.seconds for record in self.records],
            "training": [record.training for record in self.records],
        }
        for name in names:
            columns[name] = [record.values.get(name, math.nan) for record in self.records]
        return columns

    def plot(self) -> Figure:
        """Return a figure of every value against training samples, with bands of two standard errors.

        >>> from pyro_aevb.training import Record
        >>> figure = History([Record(100, 0.5, {"validation": -3.0}), Record(200, 1.0, {"validation": -2.5})]).plot()
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['validation']
        """
        from matplotlib.figure import Figure  # here, since it takes a second to import

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        table = self.table()
        samples = table.pop("samples")
        del table["seconds"]
        for name, values in table.items():
            if name.endswith(ERROR) or all(map(math.isnan, values)):
                continue
            (line,) = axes.plot(samples, values, marker="o" if len(values) < 20 else None, markersize=3, label=name)
            if name + ERROR in table:
                errors = [2 * e for e in table[name + ERROR]]
                low, high = ([v + s * e for v, e in zip(values, errors, strict=True)] for s in (-1, 1))
                axes.fill_between(samples, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        if self.best is not None:
            axes.axvline(self.best.samples, color="grey", linestyle=":", linewidth=1, label="best")
        axes.set_xlabel("training samples")
        axes.set_ylabel("nats per datapoint")
        if axes.lines:
            axes.legend(frameon=False)
        return figure

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and dicts; what ended a run is decided anew by the one that goes on."""
        return {
            "records": [tuple(record) for record in self.records],
            "samples": self.samples,
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "best": None if self.best is None else tuple(self.best),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        self.records = [Record(*record) for record in state["records"]]
        self.samples, self.seconds = state["samples"], state["seconds"]
        self.evaluation_seconds = state["evaluation_seconds"]
        self.best = None if state["best"] is None else Record(*state["best"])
