"""Draws from p(z|x) as ArviZ takes them: a DataTree with posterior, sample_stats, log_likelihood and observed_data.

Latents are local: given theta, p(x_n|x_others) is p(x_n), and so ``loo`` of these draws estimates log p(x_n):
p(x_n) = 1 / E_p(z|x)[1 / p(x_n|z)].

Shapes: N datapoints, L draws.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_aevb.diagnostics.densities import densities_at
from pyro_aevb.evaluation_data import Minibatches
from pyro_aevb.evidence.estimator import check_sizes, over_minibatches
from pyro_aevb.model_guide.contract import check_callables, given, read
from pyro_aevb.model_guide.modes import evaluated
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.one_thread import one_thread
from pyro_aevb.posterior.posterior import Posterior
from pyro_aevb.posterior.proposals import Layout
from pyro_aevb.random_state import forked

LOG_JOINT = "lp"  # ArviZ's name of the log joint density of a draw
OF_DATAPOINTS = ("trusted", "effective_sample_size", "pareto_k", "r_hat")


@one_thread
def to_arviz(
    found: Posterior,
    model: PyroCallable | None = None,
    *args: Any,
    num_chains: int = 1,
    batch_size: int = 100,
    vectorize: bool = True,
    **kwargs: Any,
) -> Any:
    r"""Return draws from p(z|x) as an ``xarray.DataTree``, as ``arviz_stats`` and ``arviz_plots`` take it.

    - ``posterior``: each latent, (chain, draw, datapoint, ...).  The L draws are one chain, or dealt out to several in
      turn, so that ArviZ has an R-hat of its own; chains of HMC stay whole if there are a multiple of these.
    - ``sample_stats``: method, trusted and the diagnostics of each datapoint; with the model, ``lp``, log p(x, z).
    - ``log_likelihood`` and ``observed_data``, with the model: log p(x_n|z) of each observed site, (chain, draw,
      datapoint), in nats, and what it observed.

    Args:
        found: of :func:`.posterior`.
        model: p(x, z), as it was passed to :func:`.posterior`.
        args: the data, likewise.
        num_chains: of ArviZ's; L is a multiple of it.
        batch_size: datapoints at a time.
        vectorize: whether all draws of a datapoint are evaluated in one pass.
        kwargs: what the model takes by name.

    Raises:
        ImportError: without ``arviz-base``.
        ValueError, TypeError: for data of another number of datapoints, a model with other latents, or a number of
            chains that the draws can't be dealt out to.

    >>> import pytest
    >>> _ = pytest.importorskip("arviz_base")
    >>> from pyro_aevb.posterior import posterior
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> x = torch.tensor([0.0, 2.0])
    >>> found = posterior(model, guide, x, num_draws=50, seed=0, compile=False)
    >>> tree = to_arviz(found, model, x)
    >>> sorted(tree.children), dict(tree.log_likelihood.sizes)
    (['log_likelihood', 'observed_data', 'posterior', 'sample_stats'], {'chain': 1, 'draw': 50, 'datapoint': 2})
    """
    try:
        from arviz_base import from_dict  # here, since few have it
    except ImportError as error:
        raise ImportError(
            "expected arviz-base for draws in ArviZ's format, got none; pip install 'pyro-aevb[arviz]', on Python 3.11 "
            "or later"
        ) from error
    check_sizes(num_chains=num_chains)
    num_draws = len(next(iter(found.draws.values())))
    if num_draws % num_chains:
        raise ValueError(
            f"expected num_chains that divides the {num_draws} draws, got {num_chains}; use num_chains=1, or ask "
            f"posterior() for {num_draws - num_draws % num_chains + num_chains} draws"
        )
    groups: dict[str, dict[str, Any]] = {
        "posterior": {name: _chains(each, num_chains) for name, each in found.draws.items()}
    }
    dims = {name: _dims(name, draws[0]) for name, draws in found.draws.items()}
    stats: dict[str, Any] = {}
    if model is not None:
        check_callables(model, None)
        options = given(num_chains=(num_chains, 1), batch_size=(batch_size, 100), vectorize=(vectorize, True))
        batches, model, _ = over_minibatches(model, None, args, kwargs, batch_size, options)
        joint, likelihood, observed = _of_model(found, model, batches, vectorize)
        stats = {LOG_JOINT: _chains(joint, num_chains)}
        groups["log_likelihood"] = {name: _chains(each, num_chains) for name, each in likelihood.items()}
        groups["observed_data"] = {name: each.cpu().numpy() for name, each in observed.items()}
        dims |= {name: _dims(name, each) for name, each in observed.items()} | {LOG_JOINT: ["datapoint"]}
    tree = _tree(from_dict, groups, stats, dims)
    of_each = {name: ("datapoint", getattr(found, name).cpu().numpy()) for name in OF_DATAPOINTS}
    tree["sample_stats"] = tree["sample_stats"].to_dataset().assign(method=("datapoint", list(found.method)), **of_each)
    return tree


def _tree(from_dict: Any, groups: dict[str, Any], stats: dict[str, Any], dims: dict[str, list[str]]) -> Any:
    """Return the tree, log likelihoods with one number a datapoint and draw."""
    for_likelihood = {name: ["datapoint"] for name in groups.get("log_likelihood", {})}
    parts = {name: each for name, each in groups.items() if name != "log_likelihood"} | {"sample_stats": stats}
    tree = from_dict({name: each for name, each in parts.items() if each}, dims=dims)
    if for_likelihood:
        tree["log_likelihood"] = from_dict({"log_likelihood": groups["log_likelihood"]}, dims=for_likelihood)[
            "log_likelihood"
        ]
    if "sample_stats" not in tree.children:
        tree["sample_stats"] = type(tree)()
    return tree


def _of_model(
    found: Posterior, model: PyroCallable, batches: Minibatches, vectorize: bool
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return log p(x, z) (L, N), log p(x|z) of each observed site (L, N), and what it observed, (N, ...)."""
    if batches.num_data != len(found.method):
        raise ValueError(
            f"expected the {len(found.method)} datapoints of the draws, got {batches.num_data}; pass the data that "
            "posterior() was called with"
        )
    joint: list[Tensor] = []
    likelihood: list[dict[str, Tensor]] = []
    observed: list[dict[str, Tensor]] = []
    done = 0
    with evaluated(model, None) as (its_model, _, _), forked():
        for batch in batches:
            reading = read(its_model, None, batch)
            reading.require_density()
            if set(reading.latents) != set(found.draws):
                raise ValueError(
                    f"expected a model with the latents {sorted(found.draws)}, got {sorted(reading.latents)}; pass the "
                    "model that posterior() was called with"
                )
            layouts = {
                name: Layout.of(site, reading) for name, site in (reading.latents | reading.observations).items()
            }
            size = len(batch[0])
            values = {name: draws[:, done : done + size] for name, draws in found.draws.items()}
            at = densities_at(its_model, {name: layouts[name] for name in values}, values, batch, vectorize)
            joint.append(at.log_joint)
            likelihood.append(at.log_likelihood)
            seen = {n: layouts[n].datapoints_second(s.value, 1, size)[0] for n, s in reading.observations.items()}
            observed.append(seen)
            done += size
    return torch.cat(joint, 1), _joined(likelihood, 1), _joined(observed, 0)


def _joined(parts: list[dict[str, Tensor]], dim: int) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}


def _chains(draws: Tensor, number: int) -> Any:
    """Return draws (L, N, ...) as those of C chains, (C, L / C, N, ...)."""
    return draws.detach().reshape(-1, number, *draws.shape[1:]).swapaxes(0, 1).cpu().numpy()


def _dims(name: str, value: Tensor) -> list[str]:
    """Return names of the dimensions of (N, ...)."""
    return ["datapoint", *(f"{name}_dim_{place}" for place in range(value.dim() - 1))]
