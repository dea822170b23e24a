"""A VAE in a folder: ``vae.json`` describes its parts, ``weights-<digest>.safetensors`` holds its tensors.

Nothing in the folder is code.  Networks, functions and classes that :mod:`pyro_aevb.vae.descriptions` has no name for
are marked ``custom``; the caller of ``load`` passes them.

``vae.json`` is read first: it holds a checksum of what it says itself, and the checksum of the weights, whose first
digits are in the name of their file.  ``save`` writes the weights, then replaces ``vae.json`` in one operation, then
removes the old weights, so that the folder can be read even if ``save`` is stopped halfway.

What ``vae.json`` describes is built within bounds that the weights set: one written by somebody else takes no more time
and memory to refuse than a VAE with these weights takes to load.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.files.lock import locked
from pyro_aevb.files.regular import check_regular
from pyro_aevb.vae import kept_densities
from pyro_aevb.vae.bounded import Bounded
from pyro_aevb.vae.descriptions import DTYPES, UnknownPartError, describe, restore
from pyro_aevb.vae.missingness import Missingness
from pyro_aevb.vae.networks import layers_of
from pyro_aevb.vae.posteriors import Posterior
from pyro_aevb.vae.priors import GivenPrior, Prior
from pyro_aevb.vae.vae import VAE
from pyro_aevb.version import __version__

FORMAT = 3
PARTS = ("prior", "likelihood", "posterior", "encoder", "decoder", "missingness")
ARGUMENTS = {"image_shape": "convolutions"}  # those that files call otherwise than the VAE does
OURS = re.compile(r"(vae\.json|weights-[0-9a-f]{16}\.safetensors)(\.[0-9a-f]{8}\.part)?")
LARGEST_DESCRIPTION = 2**26  # bytes
BESIDE, KEPT = "beside/", "kept/"  # before the names of tensors that aren't the VAE's own
DAMAGED = "the file is damaged or was changed; get the folder again, or save the model again"


def save(vae: VAE, folder: str | os.PathLike[str], *, beside: Mapping[str, Tensor] | None = None) -> None:
    """Write the VAE into a folder, and replace the VAE that the folder holds, if any.

    ``save`` writes ``vae.json`` (versions, sizes, the prior, likelihood and posterior with their settings) and one file
    of safetensors with all parameters and buffers, bit for bit.  It doesn't write the training mode,
    ``requires_grad``, hooks, and the code of networks, functions and classes of your own: :func:`load` takes those as
    arguments.  The folder can be read at any moment, also after a crash; of two that write, one waits for the other.

    Args:
        vae: on any device; the device is not saved.
        folder: a path; the folder is made if it doesn't exist.
        beside: tensors that belong to it, by name, such as q(theta) of :class:`~pyro_aevb.Bayesian`, its
            ``state_dict()``: they are in the same file, and :func:`load_beside` gives them back.

    Raises:
        TypeError: for a subclass of :class:`~pyro_aevb.VAE`, which a description can't rebuild.
        ValueError: if ``folder`` is a file, or the state of a network is not made of tensors that safetensors can hold.
        OSError: if the folder can't be written to; ``BlockingIOError`` if somebody else writes to it for ten seconds.

    >>> vae = VAE(64, 5, hidden_dims=(100,), prior="mixture")
    >>> save(vae, "saved")
    >>> same = load("saved")
    >>> z = torch.randn(3, 5)
    >>> torch.equal(same.decode(z), vae.decode(z)), str(same) == str(vae)
    (True, True)
    """
    if type(vae) is not VAE:
        raise TypeError(
            f"expected a VAE, got a {type(vae).__name__}, which load couldn't build; move its code into parts of a "
            "VAE: encoder=..., likelihood=..., ..."
        )
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder, got the file {folder}; choose another path")
    tied = _tied(vae)
    parts = [name for name in PARTS if name != "missingness" or vae.missingness is not None]
    described = {name: _describe_part(vae, name) for name in parts}
    own = kept_densities.densities(vae) if any("custom" in (part or {}) for part in described.values()) else {}
    others = {BESIDE + name: tensor for name, tensor in (beside or {}).items()}
    others |= {KEPT + name: tensor for name, tensor in own.items()}
    weights = _weights(vae, {name for _, *more in tied for name in more}, others)
    digest = hashlib.sha256(weights).hexdigest()
    dtypes = (p.dtype for p in vae.parameters() if p.dtype in DTYPES.values())
    sizes: dict[str, Any] = {
        name: getattr(vae, name) for name in ("hidden_dims", "image_shape", "init", "dataset_size")
    }
    sizes |= {"x_dim": _one_or_several(vae.x_shape), "latent_dim": _one_or_several(vae.latent_dims)}
    sizes |= {"covariates": vae.covariates} if vae.covariates else {}  # the format is older than these
    if vae.labels is not None:
        sizes |= {"labels": vae.labels.number, "label_weight": vae.labels.weight}
    record = {
        "format": FORMAT,
        "versions": {"pyro_aevb": __version__, "torch": str(torch.__version__), "pyro": pyro.__version__},
        "sha256": digest,
        "dtype": str(next(dtypes, torch.get_default_dtype())).removeprefix("torch."),
        "tied": tied,
        "vae": sizes | described,
    }
    record = json.loads(json.dumps(record, allow_nan=False, default=int))  # whole numbers of NumPy's are int's
    text = json.dumps(record | {"checksum": checksum(record)}, indent=1) + "\n"
    with locked(folder):
        write_atomically(folder / _weights_name(digest), weights)
        write_atomically(folder / "vae.json", text.encode())
        for path in folder.iterdir():
            if OURS.fullmatch(path.name) and path.name not in (_weights_name(digest), "vae.json"):
                with contextlib.suppress(OSError):  # one that stays does no harm
                    path.unlink()


def load(
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    prior: Prior | dist.TorchDistribution | None = None,
    likelihood: Callable[[Tensor], dist.TorchDistribution] | None = None,
    posterior: Posterior | None = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    missingness: Missingness | None = None,
) -> VAE:
    """Return the VAE that :func:`save` wrote: the same tensors bit for bit, in training mode, as a new VAE is.

    No code in the folder is run, and torch's random state stays as it is.

    Args:
        folder: the path that was passed to ``save``.
        device: of the VAE's tensors; by default torch's default device.
        prior: a prior like the saved one, if that was a class of your own; likewise the other parts.
        likelihood: likewise.
        posterior: likewise.
        encoder: likewise; the module's weights are replaced by the saved ones.
        decoder: likewise.
        missingness: likewise.

    Raises:
        FileNotFoundError: if the folder or one of its files doesn't exist.
        ValueError: for files that are damaged, of a newer version, or don't fit together, for parts that are missing
            or superfluous, and for those that compute something else than the saved ones did.
        ImportError: for splines without zuko.

    >>> vae = VAE(64, 5, encoder=torch.nn.Linear(64, 10))
    >>> save(vae, "saved")
    >>> same = load("saved", encoder=torch.nn.Linear(64, 10))
    >>> torch.equal(same.encoder.weight, vae.encoder.weight)
    True
    """
    given: dict[str, Any] = {"prior": prior, "likelihood": likelihood, "posterior": posterior, "encoder": encoder}
    return load_beside(folder, device=device, decoder=decoder, missingness=missingness, **given)[0]


def load_beside(
    folder: str | os.PathLike[str], *, device: torch.device | str | None = None, **parts: Any
) -> tuple[VAE, dict[str, Tensor]]:
    """Return the VAE of :func:`load`, and the tensors that :func:`save` was given beside it, of the same moment.

    Args:
        folder: the path that was passed to ``save``.
        device: of the VAE's tensors, as for ``load``; those beside it are on the CPU.
        parts: ``prior=``, ``likelihood=``, ... of your own, as for ``load``.

    Raises:
        FileNotFoundError, ValueError: as ``load``.

    >>> from pyro_aevb.vae import load_beside
    >>> vae, x = VAE(6, 2, hidden_dims=(5,)), torch.ones(3, 6)
    >>> save(vae, "saved", beside=Bayesian(vae.model, vae.guide, x).state_dict())
    >>> same, tensors = load_beside("saved")
    >>> Bayesian(same.model, same.guide, x).load_state_dict(tensors)
    <All keys matched successfully>
    """
    record, tensors = _read(Path(folder))
    beside, kept = _taken(tensors, BESIDE), _taken(tensors, KEPT)
    device = torch.get_default_device() if device is None else torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        vae = _build(record, dict.fromkeys(PARTS) | parts, device, _bounds(tensors))
    _fill(vae, tensors, record["tied"])
    kept_densities.check(vae, kept)
    return vae, beside


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors with this prefix away, and return them without it."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def _one_or_several(sizes: tuple[int, ...]) -> int | tuple[int, ...]:
    return sizes[0] if len(sizes) == 1 else sizes


# -- Building ---------------------------------------------------------------------------------------------------------


def _describe_part(vae: VAE, name: str) -> Any:
    """Return the part as plain JSON; ``{"custom": ...}`` for one that the caller of ``load`` passes."""
    part = getattr(vae, name)
    if name in ("encoder", "decoder"):
        if vae.own_layers.get(name) == layers_of(part):
            return None
    else:
        with contextlib.suppress(UnknownPartError):
            return describe(part)
    part = part.given if isinstance(part, GivenPrior) else part
    return {"custom": getattr(part, "__name__", type(part).__name__)}


def _bounds(weights: Mapping[str, Tensor]) -> Bounded:
    """Return how much may be computed to build a VAE with these weights.

    Building one makes each of its numbers a few times, and checks it on a few rows, in up to a hundred operations for
    each tensor.  A GB of numbers comes on top, for the inputs of networks whose weights are few.
    """
    numbers = sum(tensor.numel() for tensor in weights.values())
    return Bounded(most_numbers=2**28 + 30 * numbers, most_operations=2000 + 300 * len(weights))


def _build(record: Mapping[str, Any], given: Mapping[str, Any], device: torch.device, bounds: Bounded) -> VAE:
    """Return the VAE of the description, with initial weights."""
    described = record["vae"]
    custom = {name: described[name]["custom"] for name in PARTS if "custom" in (described[name] or {})}
    for name, part in given.items():
        if name in custom and part is None:
            raise ValueError(
                f"expected {name}=, got none: the VAE's {name} was {custom[name]}, which is not this library's; call "
                f"load(folder, {name}=...) with one like it"
            )
        if name not in custom and part is not None:
            raise ValueError(
                f"expected no {name}=, got a {type(part).__name__}: the folder has what the VAE had; leave it out"
            )
    for part in given.values():
        if isinstance(part, nn.Module):
            part.to(device, torch.get_default_dtype())
    try:
        with bounds:
            parts = {name: given[name] if name in custom else restore(described[name]) for name in PARTS}
            options = {ARGUMENTS.get(name, name): value for name, value in described.items()} | parts
            return VAE(**options).to(device, DTYPES[record["dtype"]])
    except ImportError:  # of a package that is optional
        raise
    except Exception as error:  # anything, if the description was not written by `save`
        remedy = f"check {', '.join(f'{name}=' for name in custom)}, or else: {DAMAGED}" if custom else DAMAGED
        raise ValueError(
            f"expected a VAE that can be built from vae.json, got {type(error).__name__}: {error}; {remedy}"
        ) from error


# -- Weights ----------------------------------------------------------------------------------------------------------


def _tied(vae: VAE) -> list[list[str]]:
    """Return the names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in vae.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _weights(vae: VAE, left_out: set[str], others: Mapping[str, Tensor]) -> bytes:
    """Return parameters and buffers, and the other tensors, as safetensors."""
    tensors = {}
    for name, tensor in (vae.state_dict() | dict(others)).items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"expected tensors in the VAE's state, got {name} of {type(tensor).__name__}; keep it in a buffer"
            )
        if name not in left_out:
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format).cpu()
    try:
        return safetensors.torch.save(tensors)
    except (KeyError, SafetensorError) as error:
        raise ValueError(f"expected tensors of dtypes that safetensors knows, got {error}; convert them") from error


def _fill(vae: VAE, weights: Mapping[str, Tensor], tied: list[list[str]]) -> None:
    """Put the tensors into the VAE, each in its own dtype."""
    parameters = dict(vae.named_parameters(remove_duplicate=False))
    for first, *others in tied:
        if not {first, *others} <= parameters.keys():
            raise ValueError(
                f"expected shared parameters among {sorted(parameters)}, got {[first, *others]}; {DAMAGED}"
            )
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(vae.get_submodule(owner), attribute, parameters[first])
    if sorted(_tied(vae)) != sorted(tied):
        raise ValueError(
            f"expected the shared parameters {tied}, got {_tied(vae)}; pass networks that share what the saved ones did"
        )
    saved = {**weights, **{name: weights[first] for first, *others in tied for name in others if first in weights}}
    state = vae.state_dict(keep_vars=True)
    for name in sorted(state.keys() | saved.keys()):
        expected, got = (_kind(tensors.get(name)) for tensors in (state, saved))
        if expected != got:
            raise ValueError(
                f"expected for {name} {expected}, got {got} in the folder; pass networks like the ones that were "
                f"saved, and if none were: {DAMAGED}"
            )
    for name, tensor in state.items():
        tensor.data = tensor.data.to(saved[name].dtype)
    vae.load_state_dict(saved)


def _kind(tensor: Tensor | None) -> str:
    """Return the kind and shape of a tensor in words, without its precision."""
    if tensor is None:
        return "nothing"
    return f"{'floating point' if tensor.is_floating_point() else tensor.dtype} of shape {tuple(tensor.shape)}"


# -- Files ------------------------------------------------------------------------------------------------------------


def _weights_name(digest: str) -> str:
    return f"weights-{digest[:16]}.safetensors"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the checked contents of ``vae.json`` and of its weights."""
    if not folder.exists():
        raise FileNotFoundError(f"expected a folder that save made, got {folder}, which isn't there; check the path")
    if not folder.is_dir():
        raise ValueError(f"expected a folder that save made, got the file {folder}; pass the folder it is in")
    description = folder / "vae.json"
    while True:
        if not description.exists():
            raise FileNotFoundError(f"expected vae.json in {folder}, got none; pass a folder that save made")
        check_regular(description)
        if (size := description.stat().st_size) > LARGEST_DESCRIPTION:
            raise ValueError(f"expected {description} of up to {LARGEST_DESCRIPTION} bytes, got {size}; {DAMAGED}")
        text = description.read_bytes()
        record = _parse(text, description)
        path = folder / _weights_name(record["sha256"])
        try:
            check_regular(path)
            weights = path.read_bytes()
            break
        except FileNotFoundError:
            if description.read_bytes() == text:  # else another process has saved in between: look again
                raise FileNotFoundError(
                    f"expected the weights {path.name} in {folder}, got none; copy the whole folder, or save the model "
                    "again"
                ) from None
    digest = hashlib.sha256(weights).hexdigest()
    if digest != record["sha256"]:
        raise ValueError(f"expected {path} with SHA-256 {record['sha256']}, got {digest}; {DAMAGED}")
    try:
        return record, safetensors.torch.load(weights)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"expected safetensors in {path}, got: {error}; {DAMAGED}") from error


_NOTHING = type(None)
FIELDS: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "checksum": (str,),
    "sha256": (str,),
    "dtype": (str,),
    "tied": (list,),
    "vae": (dict,),
}
VAE_FIELDS: dict[str, tuple[type, ...]] = {
    "x_dim": (int, list), "latent_dim": (int, list), "hidden_dims": (list,), "image_shape": (list, _NOTHING),
    "init": (str,), "dataset_size": (int, _NOTHING), "prior": (dict,), "likelihood": (dict,), "posterior": (dict,),
    "encoder": (dict, _NOTHING), "decoder": (dict, _NOTHING), "missingness": (dict, _NOTHING),
}  # fmt: skip


def checksum(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a description's values, however they are set out, without its own checksum."""
    values = {name: value for name, value in record.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    """Return the contents of ``vae.json``, with the type of every field checked."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {path}, got: {error}; {DAMAGED}") from error
    if isinstance(record, dict) and type(record.get("format")) is int and 0 < record["format"] != FORMAT:
        versions = record.get("versions")
        writer = versions.get("pyro_aevb") if isinstance(versions, dict) else "unknown"
        age, remedy = "an older", "load and save it with one in between, or save the model again"
        if record["format"] > FORMAT:
            age, remedy = "a newer", "upgrade"
        raise ValueError(
            f"expected a folder of format {FORMAT}, got {record['format']}, written by {age} pyro_aevb ({writer}); "
            f"this is {__version__}: {remedy}"
        )
    _check_fields(record, FIELDS, path)
    if record["checksum"] != checksum(record):
        raise ValueError(f"expected the checksum of what {path} says, {checksum(record)}, got another; {DAMAGED}")
    record["vae"].setdefault("missingness", None)  # written where there is one
    _check_fields(record["vae"], VAE_FIELDS, path)
    for name, fits in (
        ("format", record["format"] == FORMAT),
        ("sha256", re.fullmatch("[0-9a-f]{64}", record["sha256"])),
        ("dtype", record["dtype"] in DTYPES),
        (
            "tied",
            all(isinstance(g, list) and len(g) > 1 and all(isinstance(n, str) for n in g) for g in record["tied"]),
        ),
    ):
        if not fits:
            raise ValueError(f"expected {name} as save writes it in {path}, got {record[name]!r}; {DAMAGED}")
    return record


def _check_fields(record: Any, fields: Mapping[str, tuple[type, ...]], path: Path) -> None:
    for name, kinds in fields.items():
        if not isinstance(record, dict) or name not in record or type(record[name]) not in kinds:
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"expected {name} as {expected} in {path}, got {record!r:.200}; {DAMAGED}")
