"""Checks of a VAE: its sizes, the parts it is built of, and the arguments of its model and guide.

Shapes: M datapoints, K particles, J latent and D data dimensions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_aevb.checks import check_integers
from pyro_aevb.distributions.table import ColumnsDistribution
from pyro_aevb.vae.networks import INITIALIZATIONS
from pyro_aevb.vae.notation import support_in_words
from pyro_aevb.vae.posteriors import Posterior
from pyro_aevb.vae.priors import Prior, VampPrior

STACKS = ((3, 2), (2, 3))  # a module that mixes up dimensions may agree by chance with one of them


def check_sizes(
    x_shape: Sequence[int],
    latent_dims: Sequence[int],
    dataset_size: int | None,
    hidden_dims: Sequence[int],
    init: str,
    covariates: int,
) -> None:
    """Raise ``ValueError`` for sizes below 1 and an unknown ``init``, ``TypeError`` for what is no integer."""
    check_integers(dataset_size=dataset_size, covariates=covariates)
    for name, sizes in (("x_dim", x_shape), ("latent_dim", latent_dims), ("hidden_dims", hidden_dims)):
        if isinstance(sizes, str) or not isinstance(sizes, Iterable):
            raise TypeError(f"expected integers for {name}, a layer each, got {sizes!r}; write a tuple: (500,)")
        for size in sizes:
            check_integers(**{name: size})
    if covariates < 0:
        raise ValueError(f"expected covariates of 0 or more, how many columns they have, got {covariates}")
    for name, dims in (("x_dim", x_shape), ("latent_dim", latent_dims)):
        if not dims or min(dims) < 1:
            raise ValueError(f"expected {name} of 1 or more, got {dims[0] if len(dims) == 1 else tuple(dims)}")
    if dataset_size is not None and dataset_size < 1:
        raise ValueError(f"expected dataset_size of 1 or more, got {dataset_size}")
    if not hidden_dims or min(hidden_dims) < 1:
        raise ValueError(f"expected one or more hidden layers of 1 or more units, got {tuple(hidden_dims)}")
    if init not in INITIALIZATIONS:
        raise ValueError(f"expected init out of {sorted(INITIALIZATIONS)}, got {init!r}")


def check_labels(labels: int, label_weight: float, missingness: Any) -> None:
    """Raise ``ValueError`` for a single label, a negative weight, and labels beside a missingness."""
    if labels < 0 or labels == 1:
        raise ValueError(f"expected labels of 2 or more, how many there are, or 0 for none, got {labels}")
    if not 0 <= label_weight < math.inf:
        raise ValueError(f"expected label_weight of 0 or more, got {label_weight}; it is nats a label")
    if labels and missingness is not None:
        raise ValueError(
            "expected labels or missingness, got both, whose missing entries would be drawn for each label; leave one "
            "out, or pass one-hot labels as covariates"
        )


def image_shape(convolutions: bool | Sequence[int], x_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape of the images that the networks are convolutions over, ``None`` for perceptrons.

    Args:
        convolutions: true for those over x of its shape, or the shape.
        x_shape: of x.

    Raises:
        ValueError: for an x that has another shape.
    """
    if not convolutions:
        return None
    given = convolutions if convolutions is True else tuple(convolutions)
    if given is not True and len(x_shape) == 1:
        return given
    if len(x_shape) != 3 or given not in (True, x_shape):
        raise ValueError(
            f"expected x_dim=(channels, height, width) for convolutions, got {x_shape} and convolutions={given}; pass "
            "such an x_dim and convolutions=True, or, for a flat x, convolutions=(channels, height, width)"
        )
    return x_shape


# -- Parts ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and restore all modes and buffers at the end."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [
        (part, name, buffer, buffer.clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for part, name, buffer, value in buffers:
            setattr(part, name, buffer)
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def takes_rows_only(name: str, network: nn.Module, rows: Tensor, out_dim: int, *, any_shape: bool = False) -> bool:
    """Return whether a network must see one batch dimension: with more, it fails or gives each row another output.

    Layers such as ``nn.BatchNorm1d`` and ``nn.Conv1d`` take a leading particle dimension for something else.  The
    network is run on a batch, and on the same rows with two batch dimensions.

    Args:
        name: ``"encoder"`` or ``"decoder"``, for the error.
        network: in evaluation mode.
        rows: a batch of 6 different inputs, (6, ...).
        out_dim: how many outputs it should have.
        any_shape: whether these may have any shape, as those of an x of several dimensions.

    Raises:
        ValueError: for a network that doesn't take these inputs, or makes outputs of another shape.
    """
    devices = {p.device for p in network.parameters() if p.is_cuda}
    with torch.random.fork_rng(list(devices)):
        try:
            outputs = network(rows)
        except Exception as error:  # whatever a network of somebody's own raises
            raise ValueError(
                f"expected the {name} to take inputs of shape {tuple(rows.shape)}, got: {error}; change its first layer"
            ) from error
        expected = len(rows), out_dim
        if outputs.shape != expected and not (any_shape and outputs.flatten(1).shape == expected):
            raise ValueError(
                f"expected the {name} to make outputs of shape {(len(rows), out_dim)} from {tuple(rows.shape)}, got "
                f"{tuple(outputs.shape)}; change its last layer, or flatten what comes out of it"
            )
        return not all(_same(network, rows.reshape(*stack, *rows.shape[1:]), outputs) for stack in STACKS)


def different_rows(dim: int) -> Tensor:
    """Return 6 different rows (6, dim) of numbers between 0 and 1."""
    return (1.0 + torch.arange(6.0 * dim).sin()).reshape(6, dim) / 2


def different_latents(dim: int) -> Tensor:
    """Return 6 different rows (6, dim) in the support of every prior: between 0 and 1, and of sum 1 if dim > 1."""
    rows = torch.arange(6.0 * dim).sin().exp().reshape(6, dim)
    return rows / (rows.sum(-1, keepdim=True) if dim > 1 else rows.sum())


def _same(network: nn.Module, stacked: Tensor, outputs: Tensor) -> bool:
    """Return whether the network gives stacked rows (K, M, ...) the outputs that it gave the batch (K * M, ...)."""
    try:
        got = network(stacked)
    except Exception:
        return False
    expected = outputs.reshape(*stacked.shape[:2], *outputs.shape[1:])
    return got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-4, atol=1e-5)


def check_likelihood(made: dist.TorchDistribution, outputs: Tensor, x_shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless the distribution made of outputs (M, ...) is one of M datapoints of this shape."""
    num_rows = len(outputs)
    if made.event_shape != x_shape or made.batch_shape != (num_rows,):
        raise ValueError(
            f"expected a likelihood that makes a distribution with batch shape ({num_rows},) and event shape "
            f"{x_shape} from outputs of shape {tuple(outputs.shape)}, got {tuple(made.batch_shape)} and "
            f"{tuple(made.event_shape)}; end it with .to_event(1), or say how many outputs a dimension takes: "
            "CustomLikelihood(fn, outputs_per_dim=...)"
        )


def check_layers(latent_dims: Sequence[int], q: Any, posterior: Posterior) -> None:
    """Raise ``ValueError`` unless q(z|x) is of real numbers, if there are layers above z, whose p(z|z2) is Gaussian."""
    if len(latent_dims) > 1 and (support := support_in_words(q.support)) != "real":
        raise ValueError(
            f"expected a posterior of real latents for layers of {tuple(latent_dims)} dimensions, in which p(z|z2) is "
            f"Gaussian, got q(z|x) = {posterior.notation}, {support}; take posterior='normal', or one layer"
        )


def check_prior(prior: Prior, posterior: Posterior, q: Any, inputs: tuple[Any, ...]) -> None:
    """Raise ``ValueError`` unless p(z) has the support of q(z|x) and a density for its draws.

    Args:
        prior: p(z), of the topmost layer.
        posterior: makes q(z|x) of the encoder's outputs, for the error.
        q: q(z|x), of the topmost layer.
        inputs: of the prior.
    """
    try:
        p = prior(*inputs)
        supports = support_in_words(p.support), support_in_words(q.support)
        if supports[0] != supports[1]:
            raise ValueError(
                f"expected prior and posterior with one support, got {supports[0]} for p(z) = {prior.notation} and "
                f"{supports[1]} for q(z|x) = {posterior.notation}; change one of them"
            )
        p.log_prob(torch.as_tensor(q.sample()).clone())
    except NotImplementedError as error:
        raise ValueError(
            f"expected a prior that gives the density of any z, got {prior.notation} with q(z|x) = "
            f"{posterior.notation}; change one of them"
        ) from error


# -- Minibatches ------------------------------------------------------------------------------------------------------


def check_x(x: Any, x_shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
    """Raise ``ValueError`` or ``TypeError`` unless x is (M, *x_shape) of this dtype, or of any."""
    if not isinstance(x, Tensor):
        got = f"{type(x).__name__} of {sorted(map(str, x))}" if isinstance(x, dict) else type(x).__name__
        raise TypeError(
            f"expected a tensor for x, got {got}; a VAE takes x, observed, index, covariates, offset and label"
        )
    if x.dim() != 1 + len(x_shape) or x.shape[1:] != x_shape:
        shape = ", ".join(["M", *map(str, x_shape)])
        own = tuple(x.shape[1:]) if x.dim() > 2 else math.prod(x.shape[1:])
        remedy = f"or write VAE(x_dim={own}, ...)"
        if x.shape == x_shape:
            remedy = "pass x[None] for one datapoint"
        elif x.dim() < 2:
            remedy = "pass rows, a datapoint each"
        elif math.prod(x.shape[1:]) == math.prod(x_shape):
            how = "flatten with x.flatten(1)" if len(x_shape) == 1 else f"reshape with x.reshape(-1, {shape[3:]})"
            remedy = f"{how}, {remedy}"
        else:
            remedy = remedy.removeprefix("or ")
        raise ValueError(f"expected x of shape ({shape}), got {tuple(x.shape)}; {remedy}")
    if dtype is not None:
        check_dtype("x", x, dtype)


def check_dtype(name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Raise ``TypeError`` unless an argument has the dtype of a VAE."""
    if value.dtype != dtype:
        other = f", or the VAE with vae.to({value.dtype})" if value.is_floating_point() else ""
        raise TypeError(f"expected {name} of dtype {dtype}, got {value.dtype}; convert with {name}.to({dtype}){other}")


def observed_entries(likelihood: Any, observed: Tensor) -> Any:
    """Return p(x_observed|z), the likelihood of those entries that are observed.

    Args:
        likelihood: p(x|z), of independent entries: a ``ColumnsDistribution``, or one made by ``.to_event``.
        observed: (M, D) of bool, or of x's shape.

    Raises:
        ValueError: for a likelihood whose entries depend on one another.
    """
    if isinstance(likelihood, ColumnsDistribution):
        return likelihood.where(observed)
    if isinstance(likelihood, dist.Independent) and likelihood.reinterpreted_batch_ndims == likelihood.event_dim:
        return likelihood.base_dist.mask(observed).to_event(likelihood.event_dim)
    raise ValueError(
        f"expected a likelihood of independent entries for observed=, made by .to_event(1), got "
        f"{type(likelihood).__name__}, of which single entries can't be left out; use another likelihood, or write a "
        "model that integrates them out"
    )


def check_observed(x: Tensor, observed: Tensor | None) -> None:
    """Raise ``ValueError`` unless ``observed`` is ``None`` or of bool and x's shape."""
    if observed is not None and (observed.dtype != torch.bool or observed.shape != x.shape):
        raise ValueError(
            f"expected which entries of x are observed, as bool of shape {tuple(x.shape)}, got "
            f"{tuple(observed.shape)} of {observed.dtype}; a mask of numbers is converted with .bool(), a datapoint's "
            'place is passed as index=, {"x": x, "index": index} for fit, and labels as covariates= of a '
            "VAE(..., covariates=C)"
        )


def check_per_datapoint(own: int, encoder: Any, prior: Any, dataset_size: int | None) -> None:
    """Raise ``ValueError`` for parts that a posterior without an encoder can't have, and another data set's size.

    Args:
        own: the posterior's dataset_size.
        encoder: one that is given, or ``None``.
        prior: p(z).
        dataset_size: the VAE's.
    """
    if encoder is not None:
        raise ValueError("expected no encoder beside a PerDatapoint posterior, got one; leave encoder out")
    if isinstance(prior, VampPrior):
        raise ValueError(
            "expected a prior that isn't made of q(z|x) beside a PerDatapoint posterior, which has no encoder of "
            "pseudo-inputs, got a VampPrior; take prior='mixture'"
        )
    if dataset_size not in (None, own):
        raise ValueError(
            f"expected one data set's size, got dataset_size={dataset_size} of the VAE and {own} of the PerDatapoint "
            f"posterior; pass PerDatapoint(..., dataset_size={dataset_size})"
        )


def check_index(x: Tensor, index: Tensor | None, per_datapoint: bool) -> None:
    """Raise ``ValueError`` unless there is an index (M,) of int64 where the posterior needs one, and none elsewhere."""
    if not per_datapoint:
        if index is not None:
            raise ValueError("expected index for a PerDatapoint posterior, got one beside an encoder; leave index out")
        return
    if index is None or index.dtype != torch.long or index.shape != (len(x),):
        got = None if index is None else (tuple(index.shape), index.dtype)
        raise ValueError(
            "expected each datapoint's place in the data set for a PerDatapoint posterior, (M,) of int64, got "
            f'{got}; pass vae.guide(x, index=index), and {{"x": x, "index": torch.arange(N)}} to fit'
        )


def index_error(index: Tensor, size: int) -> ValueError:
    """Return the error for places (M,) that aren't all among the ``size`` that there are."""
    return ValueError(
        f"expected places in the data set from 0 to {size - 1}, as PerDatapoint(dataset_size={size}) says, got some "
        f"from {int(index.min())} to {int(index.max())}; pass index=torch.arange(N) of the data it was trained on"
    )


def check_covariates(x: Tensor, covariates: Tensor | None, number: int) -> None:
    """Raise ``ValueError`` unless there are the covariates (M, C) that the VAE was built for."""
    if number == 0 and covariates is None:
        return
    if covariates is None or covariates.shape != (len(x), number) or covariates.dtype != x.dtype:
        got = None if covariates is None else (tuple(covariates.shape), covariates.dtype)
        raise ValueError(
            f"expected covariates of shape {(len(x), number)} and of x's dtype {x.dtype}, as VAE(covariates={number}) "
            f"says, got {got}; labels become columns by torch.nn.functional.one_hot(labels, C).float()"
        )


def check_offset(x: Tensor, offset: Tensor | None, likelihood: Any) -> None:
    """Raise ``ValueError`` unless the offset can multiply the likelihood's means, row by row."""
    if offset is None:
        return
    if offset.shape not in ((len(x), 1), x.shape) or offset.dtype != x.dtype:
        raise ValueError(
            f"expected an offset of shape {(len(x), 1)} or {tuple(x.shape)} and of x's dtype {x.dtype}, got "
            f"{tuple(offset.shape)} of {offset.dtype}; x.sum(1, keepdim=True) is one"
        )
    if getattr(likelihood, "log_mean", None) is None:
        raise ValueError(
            f"expected a likelihood of counts for offset=, with a log_mean among its outputs, got "
            f"{type(likelihood).__name__}; take 'poisson' or 'negative-binomial', or leave offset out"
        )


def check_beside(name: str, value: Tensor, lead: Sequence[int], columns: Sequence[int] = ()) -> None:
    """Raise ``ValueError`` unless there is a row of what is beside z for each x that is to be made, or one for all.

    Args:
        name: what it is called.
        value: it.
        lead: the batch shape of z.
        columns: the shape of a row.
    """
    expected = *lead, *columns
    try:
        fits = value.expand(expected).shape == expected and (not columns or value.shape[-1:] == tuple(columns))
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"expected {name} of shape {expected}, a row for each x, or of {tuple(columns)}, one for all, got "
            f"{tuple(value.shape)}; pass as many as x are to be made"
        )


def check_made_of(label: Tensor, number: int) -> None:
    """Raise ``ValueError`` unless x can be made of these labels: each is one of a VAE's, and known."""
    if number == 0:
        raise ValueError("expected no label, got one: the VAE has none; write VAE(..., labels=C), or leave label out")
    if label.is_floating_point() or label.min() < 0 or label.max() >= number:
        raise ValueError(
            f"expected labels from 0 to {number - 1}, of whole numbers, got {label.unique().tolist()[:5]}; sample "
            "without label draws it too"
        )


def check_label(x: Tensor, label: Tensor | None, number: int) -> None:
    """Raise ``ValueError`` unless ``label`` is ``None`` or (M,) of int64, of a VAE that has labels."""
    if label is None:
        return
    if number == 0:
        raise ValueError("expected no label, got one: the VAE has none; write VAE(..., labels=C), or leave label out")
    if label.dtype != torch.long or label.shape != (len(x),):
        raise ValueError(
            f"expected label of shape {(len(x),)} and of int64, from 0 to {number - 1}, and -1 where it isn't known, "
            f"got {tuple(label.shape)} of {label.dtype}; one-hot rows become numbers with .argmax(1)"
        )
