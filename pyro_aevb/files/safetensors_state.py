"""A nested state (dicts, lists, tuples, numbers, strings, tensors, arrays) as the bytes of one safetensors file.

Unlike in a pickle, nothing in it is ever executed: tensors are tensors, and everything else is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

NUMBERS = "biufc"  # kinds of NumPy's dtypes
STRUCTURE = "structure"  # the name of the tensor that holds the JSON, as bytes


def pack(state: Any) -> bytes:
    """Return ``state`` as the bytes of a safetensors file; tensors come back on the CPU.

    Args:
        state: dicts, lists, tuples, numbers, strings, bytes, ``None``, tensors and NumPy's arrays and numbers, nested
            in any way.

    Raises:
        TypeError: if there is anything else in it; the message says where.

    >>> from pyro_aevb.files import pack, unpack
    >>> unpack(pack({"step": 3, "rates": (0.1, float("inf")), 0: [torch.eye(2)]}))
    {'step': 3, 'rates': (0.1, inf), 0: [tensor([[1., 0.],
            [0., 1.]])]}
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_encode(state, tensors, "state")).encode()
    tensors[STRUCTURE] = torch.frombuffer(bytearray(structure), dtype=torch.uint8)
    return safetensors.torch.save(tensors)


def unpack(data: bytes) -> Any:
    """Return the state whose bytes :func:`pack` made.

    Args:
        data: the bytes of a safetensors file.

    Raises:
        ValueError: if :func:`pack` didn't make them.
    """
    try:
        tensors = safetensors.torch.load(data)
        return _decode(json.loads(tensors.pop(STRUCTURE).numpy().tobytes()), tensors)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"expected a state as safetensors, got something else ({error!r})") from error


def _encode(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, bytes) or _is_numpys(value):
        content = value if isinstance(value, bytes) else value.tobytes()
        name = str(len(tensors))
        tensors[name] = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[: len(content)]
        return {"bytes": name} if isinstance(value, bytes) else {"array": [name, value.dtype.str, *value.shape]}
    if isinstance(value, list):
        return [_encode(v, tensors, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, tensors, f"{where}[{i}]") for i, v in enumerate(value)]}
    if isinstance(value, Mapping):
        keys = (_encode(key, tensors, f"a key of {where}") for key in value)
        return {
            "dict": [[k, _encode(v, tensors, f"{where}[{n!r}]")] for k, (n, v) in zip(keys, value.items(), strict=True)]
        }
    raise TypeError(
        f"expected a state of dicts, lists, tuples, numbers, strings and tensors, got {type(value).__name__} at {where}"
    )


def _is_numpys(value: Any) -> bool:
    return type(value).__module__ == "numpy" and getattr(getattr(value, "dtype", None), "kind", "") in tuple(NUMBERS)


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "bytes":
        return tensors[content].numpy().tobytes()
    if kind == "array":
        import numpy as np  # here, since not every state has an array

        name, dtype, *shape = content
        return np.frombuffer(tensors[name].numpy().tobytes(), dtype).reshape(shape).copy()[()]
    if kind == "tuple":
        return tuple(_decode(v, tensors) for v in content)
    return {_decode(k, tensors): _decode(v, tensors) for k, v in content}
