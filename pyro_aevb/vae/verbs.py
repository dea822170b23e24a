"""The verbs of :mod:`pyro_aevb.posterior` as methods of a VAE.

One rule for what comes out: of an array or a frame, NumPy arrays; of anything else, tensors on the VAE's device.  A
record has its own fields so, and the records inside of it as they are.  Nothing has a gradient unless it is asked for.

Shapes: N datapoints, D data dimensions, J latent dimensions, L draws, T steps.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
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
from pyro_aevb.vae.checks import check_beside, check_dtype, check_made_of
from pyro_aevb.vae.hierarchy import Hierarchy
from pyro_aevb.vae.labels import Labels, Y
from pyro_aevb.vae.likelihoods import Bernoulli
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
    covariates: int
    labels: Labels | None
    likelihood: Callable[[Tensor], Any]
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

    @abstractmethod
    def given_label(self) -> tuple[PyroCallable, PyroCallable]:
        """Return model and guide for datapoints whose labels are all known."""

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

        With ``labels`` it is E[x_new | x], by ``method="importance"``; where all are known it may be any other too.

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
            ValueError, TypeError: for z of another shape or dtype, and a VAE that has labels without a label.
        """
        self._require_label(label)
        dim = self.latent_dims[0]
        if z.shape[-1:] != (dim,):
            raise ValueError(f"expected z of shape (..., {dim}), got {tuple(z.shape)}; pass {dim} numbers a datapoint")
        row = self._rows(z.shape[:-1], covariates, label)
        rows = torch.as_tensor(z).to(row["x"].device).reshape(-1, dim)
        check_dtype("z", rows, row["x"].dtype)
        sizes = zip(self.hierarchy.sites, self.latent_dims, strict=True)
        # x is made of z and of what is given; the other latents stand for themselves.
        values = {site: rows.new_zeros(len(rows), dim) for site, dim in sizes}
        model, _ = self._pair({"label": label})
        means = verbs.decode(model, None, values | {"z": rows}, Arguments(**row), site="x", gradient=gradient)
        found: Any = _as(z, means.reshape(*z.shape[:-1], *self.x_shape))
        return found

    def sample(self, number: int, x: Any = None, *unnamed: Any, **options: Any) -> Any:
        """Draw x from the model, (number, D), or by ``source`` from data x; see :func:`.posterior.sample`.

        Args:
            number: how many.
            x: data, for ``source="aggregate"`` or ``"given"``; without, ``covariates`` (number, C), or one row for
                all, say of what a VAE that has them is to draw, and ``label`` (number,), or one for all, of which
                label.
            unnamed: ``observed``.
            options: those of the function, and ``observed``, ``index``, ``covariates``, ``offset`` or ``label``.
        """

        options = (self._by_weights() if options.get("source") == "given" else {"site": "x"}) | options

        def drawn(model: PyroCallable, guide: PyroCallable | None, *args: Any, **kwargs: Any) -> Tensor:
            return verbs.sample(model, guide, number, *args, **kwargs)

        def of_label(x: Tensor, label: Tensor, **known: Tensor) -> Tensor:
            with poutine.do(data={Y: label}):
                return self.model(x, **known)

        if x is None:
            known = {name: options.pop(name, None) for name in ("covariates", "label")}
            alone = {"covariates": 1, "label": 0}  # dimensions of one for all
            given = {name: torch.as_tensor(value) for name, value in known.items() if value is not None}
            one = all(value.dim() <= alone[name] or len(value) == 1 for name, value in given.items())
            row = self._rows((1 if one else number,), **known)
            return drawn(of_label if "label" in row else self.model, self.guide, Arguments(**row), **options)
        if options.get("source") == "given":
            return _as(x, drawn(*self._pair(options), self._here(x, finite=False), *unnamed, **options))
        return self._given(drawn, x, unnamed, options)

    def impute(self, x: Data, observed: Any = None, **options: Any) -> Imputed:
        """Fill in the missing cells of x; see :func:`.posterior.impute`.

        Args:
            x: (N, D), with NaN for what is missing, unless ``observed`` says it.
            observed: of bool, true for cells that are there.
            options: those of the function.
        """
        options = self._by_weights() | options
        return _record(x, verbs.impute(*self._pair(options), self._here(x, finite=False), observed, **options))

    def denoise(self, x: Data, noise: Callable[[Tensor], Any], **options: Any) -> Denoised:
        """Return the mean of the clean x behind a noisy one; see :func:`.posterior.denoise`.

        Args:
            x: noisy, (N, D).
            noise: from a clean x to the distribution of a noisy one.
            options: those of the function.
        """
        options = self._by_weights() | options
        return _record(x, verbs.denoise(*self._pair(options), self._here(x), noise, **options))

    @overload
    def interpolate(self, start: Array, end: Any, **options: Any) -> Array: ...
    @overload
    def interpolate(self, start: Data, end: Any, **options: Any) -> Any: ...
    def interpolate(self, start: Any, end: Any, **options: Any) -> Any:
        """Return the means of p(x|z) between the codes of datapoints, (T, N, D); see :func:`.posterior.interpolate`.

        With ``labels`` they are of p(x|z, y), with the label of the start: that of ``label``, which is then the end's
        too, or the most probable one by q(y|x) of each end.

        Args:
            start: N datapoints.
            end: as many others.
            options: those of the function, and ``index``, ``covariates``, ``offset`` or ``label`` of both ends.
        """
        named = {name: options.pop(name) for name in NAMED if name in options}
        ends = [self._known(x, (), named) for x in (start, end)]
        pair = self._pair(ends[0][1] | options)
        data = [Arguments(self._real(x), **known) if known else x for x, known in ends]
        return _as(start, verbs.interpolate(*pair, *map(self._here, data), **({"site": "x"} | options)))

    @overload
    def traverse(self, x: Array, *unnamed: Any, **options: Any) -> Array: ...
    @overload
    def traverse(self, x: Data, *unnamed: Any, **options: Any) -> Any: ...
    def traverse(self, x: Any, *unnamed: Any, **options: Any) -> Any:
        """Return the means of p(x|z) along each latent dimension, (J, T, N, D); see :func:`.posterior.traverse`.

        With ``labels`` they are of p(x|z, y), with the most probable y by q(y|x) where ``label`` doesn't say it.

        Args:
            x: as for :meth:`encode`, likewise the others.
            unnamed: ``observed``.
            options: those of the function, and ``observed``, ``index``, ``covariates``, ``offset`` or ``label``.
        """
        x, options = self._known(x, unnamed, options)
        return self._given(verbs.traverse, x, unnamed, {"latent": "z", "site": "x"} | options)

    def manifold(self, side: int = 20, covariates: Any = None, *, label: int | None = None) -> Tensor:
        """Return the means of p(x|z) on a grid of 2 latent dimensions, (side^2, D); see :func:`.posterior.manifold`.

        Args:
            side: of the grid.
            covariates: (C,), of a VAE that has them.
            label: of all x, of a VAE that has labels.

        Raises:
            ValueError: for latents in layers, labels and none that is given, and as for the function.
        """
        if len(self.latent_dims) > 1:
            raise ValueError("expected one latent of 2 dimensions for a manifold, got layers; decode a grid of z")
        self._require_label(label)
        model, _ = self._pair({"label": label})
        return verbs.manifold(model, None, Arguments(**self._rows((1,), covariates, label)), side=side, site="x")

    def _require_label(self, label: Any) -> None:
        if self.labels is not None and label is None:
            end = self.labels.number - 1
            raise ValueError(f"expected the labels that x has beside z, got none; pass label=, from 0 to {end}")

    def _by_weights(self) -> dict[str, Any]:
        """Return how latents are drawn, where there may be a label among them, which has no mean."""
        return {} if self.labels is None else {"method": "importance"}

    def _known(self, x: Any, unnamed: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return x and named arguments, of a VAE that has labels with the most probable one where none is known."""
        if self.labels is None:
            return x, named
        if isinstance(x, Mapping):  # as in training
            x, named = x["x"], {name: value for name, value in x.items() if name != "x"} | named
        seen = {name: named[name] for name in ("observed", "covariates") if name in named}
        found = torch.as_tensor(self.classify(x, *unnamed, **seen)).argmax(-1)
        if (label := named.get("label")) is not None:
            label = torch.as_tensor(label, device=found.device)
            found = torch.where(label < 0, found, label)
        return x, named | {"label": found}

    def _pair(self, options: dict[str, Any]) -> tuple[PyroCallable, PyroCallable | None]:
        """Return model and guide for these options: a label that is known of all is data, and chains sum others out."""
        label = options.get("label")
        if self.labels is None:
            return self.model, self.guide
        if label is not None and (torch.as_tensor(label) >= 0).all():
            return self.given_label()
        return self.model, None if options.get("method") in ("auto", "hmc") else self.guide

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
        pair = self._pair({"label": options.get("label")})
        return _record(x, self._called(verbs.anomaly_score, x, unnamed, options | {"reference": reference}, pair))

    def _given(self, verb: Callable[..., Any], x: Any, unnamed: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return _as(x, self._called(verb, x, unnamed, options))

    def _called(
        self,
        verb: Callable[..., Any],
        x: Any,
        unnamed: tuple[Any, ...],
        options: dict[str, Any],
        pair: tuple[PyroCallable, PyroCallable | None] | None = None,
    ) -> Any:
        pair = pair or self._pair(options)
        named = {name: options.pop(name) for name in NAMED if name in options}
        data = self._here(x) if not (unnamed or named) else self._here(Arguments(self._real(x), *unnamed, **named))
        return verb(*pair, data, **options)

    def _here(self, data: Any, *, finite: bool = True) -> Any:
        """Return data on the VAE's device."""
        data = self._real(data)
        device = next((each.device for each in (*self.parameters(), *self.buffers())), torch.device("cpu"))
        if device.type == "cpu" or np.ma.isMaskedArray(data):
            return data
        return data.to(device) if isinstance(data, Tensor) else data_source(data, AT_ONCE, device, finite=finite)

    def _real(self, x: Any) -> Any:
        """Return whole numbers in the VAE's dtype, if its likelihood is of these and none is rounded; else x."""
        if getattr(self.likelihood, "values", "any") == "any" and not isinstance(self.likelihood, Bernoulli):
            return x
        dtype = self._row()["x"].dtype
        if isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex()):
            found: Any = x.to(dtype)
            return found if torch.equal(found.to(x.dtype), x) else x
        if isinstance(x, np.ndarray) and not np.ma.isMaskedArray(x) and x.dtype.kind in "biu":
            found = x.astype(torch.empty(0, dtype=dtype).numpy().dtype)
            return found if np.array_equal(found, x) else x
        return x

    def _row(self) -> dict[str, Tensor]:
        """Return the arguments of one datapoint, for what depends on no data."""
        like = next((each for each in self.parameters()), torch.zeros(()))
        row = {"x": like.new_zeros(1, *self.x_shape)}
        if isinstance(self.posterior, PerDatapoint):
            row["index"] = torch.zeros(1, dtype=torch.long, device=like.device)
        return {name: value.detach() for name, value in row.items()}

    def _rows(self, lead: Sequence[int], covariates: Any, label: Any) -> dict[str, Tensor]:
        """Return the arguments of datapoints that x is to be made of, as many as a shape has; check their labels."""
        row, number = self._row(), math.prod(lead)
        rows = {name: value.expand(number, *value.shape[1:]) for name, value in row.items()}
        if covariates is not None:
            columns = torch.as_tensor(covariates).to(row["x"])
            check_beside("covariates", columns, lead, (self.covariates,))
            rows["covariates"] = columns.expand(*lead, -1).reshape(number, -1)
        if label is not None:
            labels = torch.as_tensor(label)
            check_made_of(labels, 0 if self.labels is None else self.labels.number)
            check_beside("label", labels, lead)
            rows["label"] = labels.to(row["x"].device, torch.long).expand(*lead).reshape(-1)
        return rows


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
