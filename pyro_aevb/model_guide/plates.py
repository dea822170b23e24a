"""The plates around a site: which of them is that of the datapoints, and whether they own its dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pyro_aevb.model_guide.sites import DataPlate, Particles, Site


def is_particles(frame: CondIndepStackFrame, particles: Particles | None) -> bool:
    """Return whether a plate is that of the particles."""
    return particles is not None and frame.dim is not None and frame.dim <= particles[0]


def data_plate(inside: Mapping[str, list[CondIndepStackFrame]], kinds: Mapping[str, str], num_data: int) -> DataPlate:
    """Return the plate that the datapoints are in: of those of M entries around observed sites, that with most sites.

    Of several, the one that stands for more datapoints; then the one at dim=-1.
    """
    if not any(kinds[name] == "observed" for name in inside):
        raise ValueError("expected a model that observes data, got no observed site; write pyro.sample(..., obs=x)")
    found: dict[tuple[str, int], tuple[int, CondIndepStackFrame]] = {}
    around_data: set[str] = set()
    for name, frames in inside.items():
        for frame in frames:
            if frame.dim is not None and frame.size in (num_data, -1):
                around_data |= {frame.name} if kinds[name] == "observed" else set()
                count = found.get((frame.name, frame.dim), (0, frame))[0]
                found[frame.name, frame.dim] = count + 1, frame
    if not found:
        raise _no_data_plate(inside, kinds, num_data)

    def evidence(entry: tuple[int, CondIndepStackFrame]) -> tuple[bool, int, bool, bool, bool]:
        count, frame = entry
        subsampled = frame.size != -1 and frame.full_size not in (None, frame.size)
        return frame.name in around_data, count, subsampled, frame.dim == -1, frame.size != -1

    _, frame = max(found.values(), key=evidence)
    assert frame.dim is not None
    return DataPlate(frame.name, frame.dim, num_data, full_size_of(frame, num_data))


def full_size_of(frame: CondIndepStackFrame, num_data: int) -> int:
    """Return N of a plate of datapoints: M, ``num_data``, if it has no size or no other."""
    return num_data if frame.size == -1 else frame.full_size or frame.size


def _no_data_plate(
    inside: Mapping[str, list[CondIndepStackFrame]], kinds: Mapping[str, str], num_data: int
) -> ValueError:
    name, frames = next((n, f) for n, f in inside.items() if kinds[n] == "observed")
    if any(frame.dim is None for frame in frames):
        frame = next(frame for frame in frames if frame.dim is None)
        return ValueError(
            f"expected one vectorized data plate, got site {name!r} in a loop over the plate {frame.name!r}; write "
            f"`with pyro.plate({frame.name!r}, len(x)):` around statements on all of the datapoints"
        )
    if not frames:
        return ValueError(
            f"expected site {name!r} in the data plate, got it outside any; write `with pyro.plate('data', len(x)):` "
            "around it, and .to_event(...) for the dimensions of one datapoint alone"
        )
    got = ", ".join(f"{frame.name!r} of {frame.size} at dim={frame.dim}" for frame in frames)
    return ValueError(
        f"expected site {name!r} in a plate of {num_data} datapoints, as x has, got {got}; use pyro.plate('data', N, "
        "subsample_size=len(x)) or pyro.plate('data', len(x)), and arguments with datapoints first"
    )


def frame_of(frames: Iterable[CondIndepStackFrame], plate: DataPlate) -> CondIndepStackFrame | None:
    """Return the data plate's frame among a site's: of its dimension and size, and of its name or its N."""
    for frame in frames:
        alike = frame.dim == plate.dim and frame.size in (plate.size, -1)
        if alike and (frame.name == plate.name or full_size_of(frame, plate.size) == plate.full_size):
            return frame
    return None


def check_one_data_plate(
    inside: Mapping[str, list[CondIndepStackFrame]], kinds: Mapping[str, str], plate: DataPlate
) -> None:
    """Raise ``ValueError`` if a latent's plate has M entries by chance, or by another name: nothing would tell."""
    of_data = {frame.name for name, frames in inside.items() if kinds[name] == "observed" for frame in frames}
    for name, frames in inside.items():
        frame = frame_of(frames, plate)
        if kinds[name] == "latent" and frame is not None and frame.name not in of_data | {plate.name}:
            raise ValueError(
                f"expected one name for the plate of the datapoints, got {plate.name!r} and, around site {name!r}, "
                f"{frame.name!r}, of {plate.size} entries too; write `with pyro.plate({plate.name!r}, ...):` around "
                "both if these are datapoints, or else give the data plate its N, or take another number of datapoints"
            )


def check_shape(site: Site, half: str, particles: Particles | None, num_data: int) -> None:
    """Raise ``ValueError`` unless every dimension of the site's log probabilities is owned by one of its plates.

    Raise ``TypeError`` for a value that isn't a tensor.
    """
    if not isinstance(site.value, Tensor):
        raise TypeError(
            f"expected a tensor observed at site {site.name!r} of the {half}, got {type(site.value).__name__}; pass "
            "torch.as_tensor(...) of it to model and guide"
        )
    sizes = {frame.dim: frame.size for frame in site.frames if frame.dim is not None}
    try:
        shape = site.batch_shape
    except RuntimeError as error:
        raise ValueError(
            f"expected a value that site {site.name!r} of the {half} can have, got shape {tuple(site.value.shape)} for "
            f"a distribution of batch shape {tuple(site.fn.batch_shape)} and event shape "
            f"{tuple(site.fn.event_shape)}; declare the dimensions of one datapoint with .to_event(...)"
        ) from error
    particles_dim, num_particles = particles or (None, 1)
    for dim in range(-len(shape), 0):
        expected = sizes.get(dim, 1)
        if shape[dim] != expected and expected != -1 and (dim != particles_dim or shape[dim] != num_particles):
            break
    else:
        return
    expected_shape = tuple(sizes.get(dim, 1) for dim in range(min(sizes, default=0), 0))
    got = (
        f"got {tuple(shape)}, from a distribution of batch shape {tuple(site.fn.batch_shape)} and a value of shape "
        f"{tuple(site.value.shape)}"
    )
    if particles_dim is not None:
        raise ValueError(
            f"expected log probabilities of site {site.name!r} of the {half} that have the shape of its plates, "
            f"{expected_shape}, with {num_particles} particles at dim={particles_dim}, {got}; a number that is drawn "
            f"has shape {(num_particles, *(1,) * (-particles_dim - 1))} here: keep its dimensions where they are, "
            "counted from the right, or pass vectorize=False"
        )
    raise ValueError(
        f"expected log probabilities of site {site.name!r} of the {half} that have the shape of its plates, "
        f"{expected_shape}, {got}; declare the dimensions of one datapoint with .to_event(...), and give the value no "
        "dimensions that the distribution hasn't: y.squeeze(-1)"
    )


def check_data_frame(site: Site, half: str, plate: DataPlate) -> None:
    """Raise ``ValueError`` unless the site is in the data plate."""
    frame = frame_of(site.frames, plate)
    if frame is None:
        raise ValueError(
            f"expected site {site.name!r} of the {half} in a plate of {plate.size} datapoints at dim={plate.dim}, as "
            f"in the model's {plate.name!r}, got {[(f.name, f.size, f.dim) for f in site.frames] or 'it outside any'}; "
            f"write `with pyro.plate({plate.name!r}, N, subsample_size=len(x)):` around it in both"
        )
