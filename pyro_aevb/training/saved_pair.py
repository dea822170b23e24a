"""Any model and guide in a folder: their tensors in ``pair.safetensors``; the code stays with its author.

A model of one's own is a function, and a folder holds no functions.  So :func:`save_pair` writes what training
changed, and :func:`load_pair` puts it into a model and a guide that the caller has made by the same code.  Both run the
pair once on a few datapoints, for Pyro's parameters come to light only as they run.

``pair.safetensors`` is written whole or not at all.  Its header holds the constraint of each parameter, the shapes of
the datapoints, and a checksum of everything else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pyro_aevb.evidence.estimator import over_minibatches
from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.files.lock import locked
from pyro_aevb.files.regular import check_regular
from pyro_aevb.learners.checks import check_names
from pyro_aevb.learners.trained_pair import TrainedPair
from pyro_aevb.model_guide.contract import check_callables, read
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.random_state import forked
from pyro_aevb.version import __version__

PAIR = "pair.safetensors"
FORMAT = "1"
ROWS = 100  # datapoints that the pair runs on
DAMAGED = "the file is damaged or was changed; get it again, or save the pair again"


class PairFile(NamedTuple):
    """The contents of ``pair.safetensors``.

    ``tensors``: by name.  ``constraints``: of the parameters.  ``rows``: shape and dtype of one datapoint in each of
    the tensors that the pair was run on; ``None`` if it takes anything else besides.
    """

    tensors: dict[str, Tensor]
    constraints: dict[str, str]
    rows: list[tuple[tuple[int, ...], str]] | None


def save_pair(
    model: PyroCallable, guide: PyroCallable | None, folder: str | os.PathLike[str], *args: Any, **kwargs: Any
) -> None:
    """Write theta and phi of any model and guide into a folder, in the place of those that it holds, if any.

    Written are the parameters that run on the data, unconstrained and bit for bit, and all parameters and buffers of
    the modules that model and guide can reach.  The functions themselves aren't; :func:`load_pair` takes them.

    Args:
        model: p(x, z), called as ``model(*args, **kwargs)``.
        guide: q(z|x), called likewise; ``None`` for a model alone.
        folder: a path; the folder is made if it doesn't exist.
        args: data as for :func:`~pyro_aevb.training.fit`, a few datapoints are enough; none of them is written.
        kwargs: what model and guide take by name.

    Raises:
        ValueError, TypeError: for a pair that breaks the contract, and one without anything to save.
        OSError: if the folder can't be written to.

    >>> from pyro_aevb import load_pair, save_pair
    >>> def model(x):
    ...     loc = pyro.param("loc", torch.tensor(0.0))
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(loc, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.7))
    >>> x = torch.tensor([3.0, 5.0])
    >>> loc = pyro.param("loc", torch.tensor(4.0))  # as training would leave it
    >>> save_pair(model, guide, "saved", x)
    >>> pyro.clear_param_store()
    >>> load_pair(model, guide, "saved", x)
    >>> pyro.param("loc").item()
    4.0
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder, got the file {folder}; choose another path")
    pair, rows = _run(model, guide, args, kwargs)
    tensors = {name: _copy(tensor) for name, tensor in _state(pair).items()}
    if not tensors:
        raise ValueError(
            "expected a model and a guide with parameters to save, got none; register them with pyro.param or "
            "pyro.module(name, module)"
        )
    record = {"format": FORMAT, "constraints": json.dumps(_constraints(pair)), "rows": json.dumps(rows)}
    versions = {"pyro_aevb": __version__, "torch": str(torch.__version__), "pyro": pyro.__version__}
    metadata = record | versions | {"sha256": _checksum(record, tensors)}
    try:
        data = safetensors.torch.save(tensors, metadata)
    except (KeyError, SafetensorError) as error:
        raise ValueError(f"expected tensors of dtypes that safetensors knows, got {error}; convert them") from error
    with locked(folder):
        write_atomically(folder / PAIR, data)


def load_pair(
    model: PyroCallable, guide: PyroCallable | None, folder: str | os.PathLike[str], *args: Any, **kwargs: Any
) -> None:
    """Put into a model and a guide what :func:`save_pair` wrote: the same tensors, bit for bit.

    The pair is made by the code that made the saved one.  Its parameters are then in Pyro's store and in its modules,
    as they were after training, and :func:`~pyro_aevb.evidence.elbo` and the others give the same numbers.

    Args:
        model: p(x, z), like the saved one.
        guide: q(z|x), likewise.
        folder: the path that was passed to ``save_pair``.
        args: data as for ``save_pair``, not necessarily the same.
        kwargs: likewise.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is damaged, and for a pair with other parameters, shapes, dtypes or constraints than
            the saved one's; nothing is changed then.

    >>> from pyro_aevb import load_pair, save_pair
    >>> vae, x = VAE(6, 2, hidden_dims=(5,)), torch.ones(3, 6)
    >>> save_pair(vae.model, vae.guide, "saved", x)
    >>> pyro.clear_param_store()
    >>> other = VAE(6, 2, hidden_dims=(5,))
    >>> load_pair(other.model, other.guide, "saved", x)
    >>> all(torch.equal(a, b) for a, b in zip(vae.parameters(), other.parameters()))
    True
    """
    found = read_pair(folder)
    pair, _ = _run(model, guide, args, kwargs)
    state = _state(pair)
    mine, theirs = _kinds(state, _constraints(pair)), _kinds(found.tensors, found.constraints)
    for name in sorted(mine.keys() | theirs.keys()):
        if (expected := theirs.get(name, "nothing")) != (got := mine.get(name, "nothing")):
            raise ValueError(
                f"expected a pair like the one in {folder}, which has for {name!r} {expected}, got one that has {got}; "
                "make model and guide by the code that was saved, and run them with the same arguments"
            )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(found.tensors[name])


def read_pair(folder: str | os.PathLike[str]) -> PairFile:
    """Return what :func:`save_pair` wrote, on the CPU.

    Args:
        folder: the path that was passed to it.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_pair`, for the file.
    """
    path = Path(folder) / PAIR
    if not path.exists():
        raise FileNotFoundError(f"expected {PAIR} in {folder}, got none; pass a folder that save_pair made")
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"expected safetensors in {path}, got: {error}; {DAMAGED}") from error
    if (version := metadata.get("format")) not in (None, FORMAT):
        raise ValueError(
            f"expected {path} in format {FORMAT}, got {version}, written by pyro_aevb {metadata.get('pyro_aevb')}; "
            f"this is {__version__}: upgrade"
        )
    record = {name: metadata.get(name, "") for name in ("format", "constraints", "rows")}
    if metadata.get("sha256") != _checksum(record, tensors):
        raise ValueError(f"expected {path} with the checksum of its contents, got another; {DAMAGED}")
    rows = json.loads(record["rows"])
    shapes = None if rows is None else [(tuple(shape), dtype) for shape, dtype in rows]
    return PairFile(tensors, json.loads(record["constraints"]), shapes)


def _run(
    model: PyroCallable, guide: PyroCallable | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[TrainedPair, list[tuple[tuple[int, ...], str]] | None]:
    """Run the pair on the first datapoints; return it with its parameters noted, and what one datapoint is."""
    check_callables(model, guide)
    with forked():
        batches, _, _ = over_minibatches(model, guide, args, kwargs, ROWS, {})
        first = next(iter(batches))
    pair = TrainedPair(model, guide, [each for each in (model, guide) if each is not None])
    pair.arrange(batches.form)
    pair.note(read(pair.model, pair.guide, first, modules=pair.modules).named_modules)
    check_names(pair.strangers, pair.leaves())
    plain = batches.form is None
    return pair, [(tuple(x.shape[1:]), _dtype(x)) for x in first] if plain else None


def _state(pair: TrainedPair) -> dict[str, Tensor]:
    """Return theta and phi, unconstrained, and what else its modules hold, by the module's place."""
    state = dict(pair.leaves())
    seen = {id(tensor) for tensor in state.values()}
    for place, module in enumerate(pair.modules):
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                state[f"modules/{place}/{type(module).__name__}.{name}"] = tensor
    return state


def _constraints(pair: TrainedPair) -> dict[str, str]:
    return {name: str(parameter.constraint) for name, parameter in sorted((pair.theta | pair.phi).items())}


def _kinds(tensors: Mapping[str, Tensor], constraints: Mapping[str, str]) -> dict[str, str]:
    """Return what each tensor is, in words."""
    return {
        name: f"{_dtype(tensor)} of shape {tuple(tensor.shape)}"
        + (f", constraint {constraints[name]}" if name in constraints else "")
        for name, tensor in tensors.items()
    }


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format).cpu()


def _checksum(record: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the header's record and of all tensors, in the order of their names."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, _dtype(tensor), *tensor.shape]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
