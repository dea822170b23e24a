"""The precision of matrix products: float32, or factors rounded to bfloat16.

Densities, parameters and sums stay in the dtype they are in; with bfloat16 only the factors of a product change.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Precision = Literal["float32", "bf16"]
PRECISIONS = ("float32", "bf16")
aten = torch.ops.aten


def check_precision(precision: str) -> None:
    """Raise ``ValueError`` unless the precision is one of ``PRECISIONS``."""
    if precision not in PRECISIONS:
        raise ValueError(f"expected precision out of {PRECISIONS}, got {precision!r}")


def in_precision(precision: Precision) -> AbstractContextManager[Any]:
    """Return a context in which products and convolutions have this precision, whether they are run or traced.

    Args:
        precision: ``"float32"``, or ``"bf16"`` for factors rounded to bfloat16.

    >>> from pyro_aevb.capture.precision import in_precision
    >>> a = torch.tensor([[1.00390625]])  # 1 + 2^-8: half of bfloat16's last place
    >>> with in_precision("bf16"):
    ...     a @ a
    tensor([[1.]])
    """
    return _BFloat16() if precision == "bf16" else contextlib.nullcontext()


class _BFloat16(TorchDispatchMode):
    """Round the float32 factors of products and convolutions to bfloat16; the result is float32 again."""

    factors: ClassVar = {  # which arguments are factors
        aten.mm.default: (0, 1),
        aten.bmm.default: (0, 1),
        aten.convolution.default: (0, 1, 2),
        aten.convolution_backward.default: (0, 1, 2),
    }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.addmm.default and not kwargs and args[1].dtype == torch.float32:
            return self.__torch_dispatch__(aten.mm.default, types, args[1:]) + args[0]
        if func not in self.factors or args[0].dtype != torch.float32:
            return func(*args, **kwargs)
        rounded = [a.bfloat16() if i in self.factors[func] and isinstance(a, Tensor) else a for i, a in enumerate(args)]
        result = func(*rounded, **kwargs)
        if isinstance(result, Tensor):
            return result.float()
        return tuple(r.float() if isinstance(r, Tensor) else r for r in result)
