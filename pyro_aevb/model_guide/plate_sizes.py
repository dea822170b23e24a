"""Plates with as many entries as there are datapoints: which of them changes with the number of datapoints.

Shapes: M datapoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro import poutine
from torch import Tensor

from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.sites import frames_around
from pyro_aevb.model_guide.traces import NO_KWARGS, Kwargs, PyroCallable


def plate_sizes(model: PyroCallable, args: tuple[Any, ...], kwargs: Kwargs = NO_KWARGS) -> dict[str, int]:
    """Return the numbers of entries that the plates of a run of the model have, by name.

    Args:
        model: p(x, z).
        args: what it is called with.
        kwargs: likewise.
    """
    nodes: Mapping[str, Any] = poutine.trace(model).get_trace(*args, **kwargs).nodes
    statements = [node for node in nodes.values() if node["type"] == "sample"]
    return {frame.name: frame.size for node in statements for frame in frames_around(node)}


def as_many_entries(reading: Reading) -> list[str]:
    """Return the model's plates that could be that of the datapoints as well, by their numbers of entries.

    Args:
        reading: of the pair.
    """
    plate = reading.plate
    frames = [frame for site in reading.model.values() for frame in site.frames]
    alike = {f.name for f in frames if f.size == plate.size and f.dim is not None and f.name != plate.name}
    subsampled = {f.name for f in frames if f.full_size not in (None, f.size)}
    return sorted(alike) if plate.name not in subsampled or alike & subsampled else []


def check_plate_follows(
    reading: Reading, plates: list[str], model: PyroCallable, args: tuple[Any, ...], kwargs: Kwargs, num_rows: int
) -> None:
    """Check that the data plate changes with the number of datapoints, and not another one of as many entries.

    The model is run on one datapoint less; one that can't be tells nothing.

    Args:
        reading: of the pair.
        plates: the names of the other ones.
        model: p(x, z).
        args: what the reading was made with.
        kwargs: likewise.
        num_rows: how many of ``args`` have datapoints first.

    Raises:
        ValueError: if it is another plate that does.
    """
    size = reading.plate.size
    rows = slice(size - 1) if size > 1 else [0, 0]

    def fewer(value: Any) -> Any:
        return value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == size else value

    by_name = {name: fewer(value) for name, value in kwargs.items()}
    try:
        sizes = plate_sizes(model, (*map(fewer, args[:num_rows]), *args[num_rows:]), by_name)
    except Exception:  # each model fails in its own way on a number of datapoints that it isn't for
        return
    follows = [name for name in plates if sizes.get(name, size) != size]
    if follows and sizes.get(reading.plate.name) == size:
        raise ValueError(
            f"expected a plate of the datapoints that can be told from the others, got {size} datapoints, as many as "
            f"plate {reading.plate.name!r} has entries beside {follows[0]!r}; pass another batch_size, so that no "
            f"minibatch has {size}, or write the N of the data into the plate: pyro.plate({follows[0]!r}, N, "
            "subsample_size=len(x))"
        )
