"""The verbs of :mod:`pyro_aevb.posterior` as methods of a VAE.

One rule for what comes out: of an array or a frame, NumPy arrays; of anything else, tensors on the VAE's device.  A
record has its own fields so, and the records inside of it as they are.  Nothing has a gradient unless it is asked for.

Shapes: N datapoints, D data dimensions, J latent dimensions, L draws, T steps.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar, overload

import numpy as np
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_aevb import posterior as verbs
from pyro_aevb.arguments import Arguments
from pyro_aevb.data_source import Data, Frame, data_source
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.posterior import AnomalyScore, Denoised, Imputed
from pyro_aevb.vae.checks import check_made_of
from pyro_aevb.vae.hierarchy import Hierarchy
from pyro_aevb.vae.labels import Labels, Y
from pyro_aevb.vae.posteriors import PerDatapoint

Array = TypeVar("Array", Tensor, np.ndarray)  # what goes in comes out
NAMED = ("observed", "index", "covariates", "offset", "label")  # data beside x
AT_ONCE = 1000  # datapoints of data that are moved to another device


class Verbs(nn.Module, ABC):
    """The uses of a model and a guide; each method calls the function of its name with the pair.

    What the functions take besides model, guide and data are ``options``; see there for these, results and errors.
    """

    x_shape: tuple[int, ...]
    latent_dims: tuple[int, ...]
    hierarchy: Hierarchy
    labels: Labels | None
    posterior: nn.Module

    @abstractmethod
    def model(
        self,
        x: Tensor,
        observed: Tensor | None = None,
        index: Tensor | None = None,
        covariates: Tensor | None = None,
        offset: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """Sample z ~ p(z) and observe x ~ p(x|z)."""

    @abstractmethod
    def guide(
        self,
        x: Tensor,
        observed: Tensor | None = None,
        index: Tensor | None = None,
        covariates: Tensor | None = None,
        offset: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """Sample z ~ q(z|x)."""

    @overload
    def encode(self, x: Array, *unnamed: Any, **options: Any) -> Array: ...
    @overload
    def encode(self, x: Data, *unnamed: Any, **options: Any) -> Any: ...
    def encode(self, x: Any, *unnamed: Any, **options: Any) -> Any:
        """Return the mean of q(z|x), (N, J), or of p(z|x) by another ``method``; see :func:`.posterior.encode`.

        ``site="z2"`` is for another layer.  Where z depends on z2 or on a label, it is a mean of draws.

        Args:
            x: (N, D), of any kind that :func:`~pyro_aevb.training.fit` takes.
            unnamed: ``observed``, as for the model; it may be named too.
            options: those of the function, and ``observed``, ``index``, ``covariates``, ``offset`` or ``label``.
        """
        return self._given(verbs.encode, x, unnamed, {"site": "z"} | options)

    def approximate_posterior(self, x: Data, *unnamed: Any, **options: Any) -> Any:
        """Return q(z|x) as a Pyro distribution; see :func:`.posterior.approximate_posterior`, and :meth:`encode`."""
        return self._called(verbs.approximate_posterior, x, unnamed, {"site": "z"} | options)

    @overload
    def classify(self, x: Array, *unnamed: Any, **options: Any) -> Array: ...
    @overload
    def classify(self, x: Data, *unnamed: Any, **options: Any) -> Any: ...
    def classify(self, x: Any, *unnamed: Any, **options: Any) -> Any:
        """Return the probabilities of the labels by q(y|x), (N, C), of a VAE that has ``labels``.

        Args:
            x: as for :meth:`encode`, likewise the others.
            unnamed: ``observed``.
            options: ``observed`` or ``covariates``.

        Raises:
            ValueError: for a VAE without labels, and labels that are given.
        """
        if self.labels is None or "label" in options:
            got = "a VAE without" if self.labels is None else "a label of the datapoints"
            raise ValueError(f"expected labels to tell, got {got}; write VAE(..., labels=C), and leave label out")

        def probabilities(model: PyroCallable, guide: PyroCallable, *args: Any, **kwargs: Any) -> Tensor:
            return torch.as_tensor(verbs.approximate_posterior(model, guide, *args, site=Y, **kwargs).probs)

        return self._given(probabilities, x, unnamed, options)

    @overload
    def reconstruct(self, x: Array, *unnamed: Any, **options: Any) -> Array: ...
    @overload
    def reconstruct(self, x: Data, *unnamed: Any, **options: Any) -> Any: ...
    def reconstruct(self, x: Any, *unnamed: Any, **options: Any) -> Any:
        """Return the mean of p(x|z) at the mean of q(z|x), (N, D); see :func:`.posterior.reconstruct`.

        With ``labels`` it is E[x_new | x], by ``method="importance"``.

        Args:
            x: as for :meth:`encode`, likewise the others.
            unnamed: ``observed``.
            options: those of the function, and ``observed``, ``index``, ``covariates``, ``offset`` or ``label``.
        """
        return self._given(verbs.reconstruct, x, unnamed, {"site": "x"} | self._by_weights() | options)

    def decode(self, z: Array, covariates: Any = None, *, label: Any = None, gradient: bool = False) -> Array:
        """Return the mean of p(x|z), (..., D), for z (..., J); see :func:`.posterior.decode`.

        Args:
            z: a tensor or an array.
            covariates: (..., C), or one row for all, of a VAE that has them.
            label: (...) of whole numbers, or one for all, of a VAE that has labels: the mean is that of p(x|z, y).
            gradient: whether the mean has its gradient.

        Raises:
            ValueError: for a VAE that has labels, and no label.
        """
        if self.labels is not None and label is None:
            end = self.labels.number - 1
            raise ValueError(f"expected the labels that x has beside z, got none; pass label=, from 0 to {end}")
        row = self._row()
        rows = torch.as_tensor(z).to(row["x"].device).reshape(-1, self.latent_dims[0])
        if covariates is not None:
            given = torch.as_tensor(covariates).to(row["x"]).expand(*z.shape[:-1], -1).reshape(len(rows), -1)
            row = _expanded(row, len(rows)) | {"covariates": given}
        if label is not None:
            labels = self._made_of(label).to(rows.device).expand(z.shape[:-1]).reshape(-1)
            row = _expanded(row, len(rows)) | {"label": labels}
        sizes = zip(self.hierarchy.sites, self.latent_dims, strict=True)
        # x is made of z and of what is given; the other latents stand for themselves.
        values = {site: rows.new_zeros(len(rows), dim) for site, dim in sizes}
        values |= {} if label is None else {f"{Y}_unobserved": row["label"]}
        means = verbs.decode(self.model, None, values | {"z": rows}, Arguments(**row), site="x", gradient=gradient)
        found: Any = _as(z, means.reshape(*z.shape[:-1], *self.x_shape))
        return found

    def sample(self, number: int, x: Any = None, *unnamed: Any, **options: Any) -> Any:
        """Draw x from the model, (number, D), or by ``source`` from data x; see :func:`.posterior.sample`.

        Args:
            number: how many.
            x: data, for ``source="aggregate"`` or ``"given"``; without, ``covariates`` (number, C) or (1, C) say of
                what a VAE that has them is to draw, and ``label`` (number,) or (1,) of which label.
            unnamed: ``observed``.
            options: those of the function, and ``observed``, ``index``, ``covariates``, ``offset`` or ``label``.
        """

        options = (self._by_weights() if options.get("source") == "given" else {"site": "x"}) | options

        def drawn(model: PyroCallable, guide: PyroCallable, *args: Any, **kwargs: Any) -> Tensor:
            return verbs.sample(model, guide, number, *args, **kwargs)

        def of_label(x: Tensor, label: Tensor, **known: Tensor) -> Tensor:
            with poutine.do(data={Y: label}):
                return self.model(x, **known)

        if x is None:
            names = [name for name in ("covariates", "label") if options.get(name) is not None]
            kinds: dict[str, Callable[[Any], Tensor]] = {"covariates": torch.as_tensor, "label": self._made_of}
            given = {name: kinds[name](options.pop(name)) for name in names}
            rows = max([1, *map(len, given.values())])
            row = _expanded(self._row(), rows)
            for name, value in given.items():
                kind = torch.long if name == "label" else row["x"].dtype
                row[name] = value.to(row["x"].device, kind).expand(rows, *value.shape[1:])
            return drawn(of_label if "label" in row else self.model, self.guide, Arguments(**row), **options)
        if options.get("source") == "given":
            return _as(x, drawn(self.model, self.guide, self._here(x, finite=False), *unnamed, **options))
        return self._given(drawn, x, unnamed, options)

    def impute(self, x: Data, observed: Any = None, **options: Any) -> Imputed:
        """Fill in the missing cells of x; see :func:`.posterior.impute`.

        Args:
            x: (N, D), with NaN for what is missing, unless ``observed`` says it.
            observed: of bool, true for cells that are there.
            options: those of the function.
        """
        options = self._by_weights() | options
        return _record(x, verbs.impute(self.model, self.guide, self._here(x, finite=False), observed, **options))

    def denoise(self, x: Data, noise: Callable[[Tensor], Any], **options: Any) -> Denoised:
        """Return the mean of the clean x behind a noisy one; see :func:`.posterior.denoise`.

        Args:
            x: noisy, (N, D).
            noise: from a clean x to the distribution of a noisy one.
            options: those of the function.
        """
        options = self._by_weights() | options
        return _record(x, verbs.denoise(self.model, self.guide, self._here(x), noise, **options))

    @overload
    def interpolate(self, start: Array, end: Any, **options: Any) -> Array: ...
    @overload
    def interpolate(self, start: Data, end: Any, **options: Any) -> Any: ...
    def interpolate(self, start: Any, end: Any, **options: Any) -> Any:
        """Return the means of p(x|z) between the codes of datapoints, (T, N, D); see :func:`.posterior.interpolate`.

        Args:
            start: N datapoints.
            end: as many others.
            options: those of the function.
        """
        options = {"site": "x"} | options
        found = verbs.interpolate(self.model, self.guide, self._here(start), self._here(end), **options)
        return _as(start, found)

    @overload
    def traverse(self, x: Array, *unnamed: Any, **options: Any) -> Array: ...
    @overload
    def traverse(self, x: Data, *unnamed: Any, **options: Any) -> Any: ...
    def traverse(self, x: Any, *unnamed: Any, **options: Any) -> Any:
        """Return the means of p(x|z) along each latent dimension, (J, T, N, D); see :func:`.posterior.traverse`.

        Args:
            x: as for :meth:`encode`, likewise the others.
            unnamed: ``observed``.
            options: those of the function, and ``observed``, ``index``, ``covariates``, ``offset`` or ``label``.
        """
        return self._given(verbs.traverse, x, unnamed, {"latent": "z", "site": "x"} | options)

    def manifold(self, side: int = 20) -> Tensor:
        """Return the means of p(x|z) on a grid of 2 latent dimensions, (side^2, D); see :func:`.posterior.manifold`."""
        if self.labels is not None or len(self.latent_dims) > 1:
            got = "layers of them" if self.labels is None else "a label beside it"
            raise ValueError(f"expected one latent of 2 dimensions for a manifold, got {got}; decode a grid of z")
        return verbs.manifold(self.model, None, Arguments(**self._row()), side=side)

    def _made_of(self, label: Any) -> Tensor:
        """Return labels that x is to be made of, as a tensor."""
        labels = torch.as_tensor(label)
        check_made_of(labels, 0 if self.labels is None else self.labels.number)
        return labels

    def _by_weights(self) -> dict[str, Any]:
        """Return how latents are drawn, where there is a label among them: it has no mean, and chains can't move it."""
        return {} if self.labels is None else {"method": "importance"}

    def anomaly_score(self, x: Data, *unnamed: Any, reference: Any = None, **options: Any) -> AnomalyScore:
        """Return -log p(x), and its place among reference data; see :func:`.posterior.anomaly_score`.

        Args:
            x: as for :meth:`encode`, likewise the others.
            unnamed: ``observed``.
            reference: data that are as they should be, or their score.
            options: those of the function, and ``observed``, ``index``, ``covariates``, ``offset`` or ``label``.
        """
        if reference is not None and not isinstance(reference, AnomalyScore):
            reference = self._here(reference)
        elif isinstance(reference, AnomalyScore):
            reference = dataclasses.replace(reference, score=torch.as_tensor(reference.score))
        return _record(x, self._called(verbs.anomaly_score, x, unnamed, options | {"reference": reference}))

    def _given(self, verb: Callable[..., Any], x: Any, unnamed: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return _as(x, self._called(verb, x, unnamed, options))

    def _called(self, verb: Callable[..., Any], x: Any, unnamed: tuple[Any, ...], options: dict[str, Any]) -> Any:
        named = {name: options.pop(name) for name in NAMED if name in options}
        data = self._here(x) if not (unnamed or named) else self._here(Arguments(x, *unnamed, **named))
        return verb(self.model, self.guide, data, **options)

    def _here(self, data: Any, *, finite: bool = True) -> Any:
        """Return data on the VAE's device."""
        device = next((each.device for each in (*self.parameters(), *self.buffers())), torch.device("cpu"))
        if device.type == "cpu" or np.ma.isMaskedArray(data):
            return data
        return data.to(device) if isinstance(data, Tensor) else data_source(data, AT_ONCE, device, finite=finite)

    def _row(self) -> dict[str, Tensor]:
        """Return the arguments of one datapoint, for what depends on no data."""
        like = next((each for each in self.parameters()), torch.zeros(()))
        row = {"x": like.new_zeros(1, *self.x_shape)}
        if isinstance(self.posterior, PerDatapoint):
            row["index"] = torch.zeros(1, dtype=torch.long, device=like.device)
        return {name: value.detach() for name, value in row.items()}


def _expanded(row: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return as many datapoints as there are to be, of one."""
    return {name: value.expand(number, *value.shape[1:]) for name, value in row.items()}


def _is_array(x: Any) -> bool:
    if isinstance(x, tuple) and x:
        return _is_array(x[0])
    return isinstance(x, np.ndarray | Frame) and not isinstance(x, Tensor)


def _as(x: Any, result: Any) -> Any:
    """Return a tensor, as an array if x is one, or a frame."""
    return result.detach().cpu().numpy() if _is_array(x) and isinstance(result, Tensor) else result


Record = TypeVar("Record", Imputed, Denoised, AnomalyScore)


def _record(x: Any, result: Record) -> Record:
    """Return a record with its tensors as arrays if x is one, or a frame."""
    if not _is_array(x):
        return result
    fields = {field.name: _as(x, getattr(result, field.name)) for field in dataclasses.fields(result)}
    return dataclasses.replace(result, **fields)
