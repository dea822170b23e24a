"""The densities of a few datapoints, kept beside a VAE's weights: parts that compute something else are found by them.

Weights fit any network, and outputs any likelihood, of the same sizes.  A tanh in the place of a ReLU, or another scale
of a likelihood, is seen in these numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_aevb.model_guide import Given, log_densities, read
from pyro_aevb.random_state import seeded
from pyro_aevb.vae import checks
from pyro_aevb.vae.posteriors import PerDatapoint

if TYPE_CHECKING:
    from pyro_aevb.vae.vae import VAE

ROWS = 2
X, LATENT = "x", "latent."  # the datapoints, and before the names of their latents
PARTS = {"model": "prior, decoder, likelihood or missingness", "guide": "encoder or posterior"}
TOLERANCE, COARSE = 1e-3, 5e-2  # of float32 and float64 on any device, and of halves; relative


@torch.no_grad()
def densities(vae: VAE) -> dict[str, Tensor]:
    """Return log p and log q of each site for a few datapoints and latents, and these.

    Nothing is returned for a VAE whose densities aren't the same twice, or that can't be run as it is.

    Args:
        vae: on any device; its mode, buffers and the random state stay as they are.

    >>> from pyro_aevb.vae.kept_densities import densities
    >>> sorted(densities(VAE(6, 2)))
    ['guide.z', 'latent.z', 'model.x', 'model.z', 'x']
    """
    try:
        with seeded(0):
            x = vae.sample(ROWS, **({"covariates": _columns(vae)} if vae.covariates else {}))
            drawn = read(vae.model, vae.guide, (x,), _arguments(vae, x))
        latents = {name: site.value for name, site in (drawn.latents | drawn.proposals).items()}
        found, again = (_log_densities(vae, x, latents, seed) for seed in (1, 2))
    except (RuntimeError, ValueError):  # of two dtypes, a likelihood with a density alone; of NaN: saved all the same
        return {}
    if any(not _is_close(found[name], again[name], 0.0) for name in found):
        return {}
    return found | {X: x} | {LATENT + name: value for name, value in latents.items()}


@torch.no_grad()
def check(vae: VAE, kept: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` if the VAE's densities aren't those that were kept.

    Args:
        vae: with the saved weights.
        kept: what :func:`densities` returned of the saved one; nothing is checked if that was nothing.
    """
    if X not in kept:
        return
    like = next(iter(vae.parameters()), torch.empty(()))
    moved = {name: value.to(like.device) for name, value in kept.items()}
    latents = {name.removeprefix(LATENT): value for name, value in moved.items() if name.startswith(LATENT)}
    found = _log_densities(vae, moved[X], latents, seed=1)
    tolerance = TOLERANCE if torch.finfo(like.dtype).eps < 1e-5 else COARSE
    for name, expected in kept.items():
        half, _, site = name.partition(".")
        if half in PARTS and not (name in found and _is_close(found[name].cpu(), expected, tolerance)):
            raise ValueError(
                f"expected log {'p' if half == 'model' else 'q'}({site}) {_in_words(expected)} nats for the datapoints "
                f"that save kept, got {_in_words(found.get(name))}: {PARTS[half]} computes something else than the "
                "saved one did; pass the same parts, with the same activations, settings and families"
            )


def _arguments(vae: VAE, x: Tensor) -> dict[str, Tensor]:
    """Return what model and guide take beside x, of this VAE."""
    found = {}
    if vae.missingness is not None:
        found["observed"] = (torch.arange(x.numel(), device=x.device) % 2 == 0).reshape(x.shape)
    if isinstance(vae.posterior, PerDatapoint):
        found["index"] = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    if vae.covariates:
        found["covariates"] = _columns(vae).to(x)
    return found


def _columns(vae: VAE) -> Tensor:
    return checks.different_rows(vae.covariates)[:ROWS]


def _log_densities(vae: VAE, x: Tensor, latents: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    with seeded(seed):
        return log_densities(read(Given(latents)(vae.model), Given(latents)(vae.guide), (x,), _arguments(vae, x)))


def _is_close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def _in_words(log_probs: Tensor | None) -> str:
    return "none" if log_probs is None else str([round(value, 3) for value in log_probs.flatten().tolist()])
