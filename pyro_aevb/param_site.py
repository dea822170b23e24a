"""A module's parameter as a ``param`` site that Pyro's handlers see, without Pyro's parameter store."""

from __future__ import annotations

import weakref

import pyro
from torch import Tensor, nn
from torch.distributions import constraints


def announce(site: str, parameter: nn.Parameter) -> Tensor:
    """Return a parameter, or the value that a handler puts in its place, as the ``param`` site that handlers see.

    Unlike with ``pyro.param``, nothing goes into Pyro's parameter store.

    Args:
        site: the name of the ``param`` site.
        parameter: of any shape, unconstrained.
    """
    parameter.unconstrained = _Itself(parameter)  # type: ignore[attr-defined]  # what SVI asks of a param site
    statement = pyro.poutine.runtime.effectful(type="param")(lambda *_, **__: parameter)
    result: Tensor = statement(site, parameter, constraint=constraints.real, event_dim=None, name=site)
    return result


class _Itself:
    """A function that returns its parameter, and doesn't go along when that is copied or pickled."""

    def __init__(self, parameter: nn.Parameter | None = None) -> None:
        self._parameter = None if parameter is None else weakref.ref(parameter)

    def __call__(self) -> nn.Parameter | None:
        return None if self._parameter is None else self._parameter()

    def __reduce__(self) -> tuple[type[_Itself], tuple[()]]:
        return _Itself, ()
