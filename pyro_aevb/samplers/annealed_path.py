"""The path of densities that AIS and HMC move along: from the prior or the guide to the joint of a Pyro model.

Shapes: K particles, M datapoints, J unconstrained dimensions (:mod:`pyro_aevb.samplers.latent_space`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pyro_aevb.capture.capture import Capture, Compile
from pyro_aevb.distributions.angles import is_angle
from pyro_aevb.distributions.wrappers import innermost
from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.parameters import ParameterRecorder
from pyro_aevb.model_guide.reading import Reading
from pyro_aevb.model_guide.traces import PyroCallable, require_own_run
from pyro_aevb.random_state import forked
from pyro_aevb.samplers import hmc
from pyro_aevb.samplers.ais import Path
from pyro_aevb.samplers.latent_space import LatentSpace

Start = Literal["prior", "guide"]
FEWEST_ROWS = 8
REMEDY = "start from the prior: AIS(start='prior'), SMC(start='prior'), or guide=None for 'posterior-density'"


class AnnealedPath:
    r"""log f_beta(u) = log p_0(u) + beta (log p(x, u) - log p_0(u)), with p_0 the prior or the guide, on the fast path.

    From the prior it is p(z) p(x|z)^beta.  Densities are those of the unconstrained u, Jacobian included, and go around
    with an angle: so does a guide's, which has to be one of angles then.

    Args:
        model: p(x, z), its latents continuous and local.
        guide: q(z|x), or ``None`` if the path starts from the prior.
        args: a minibatch, to find the latents with.
        start: ``"prior"`` or ``"guide"``.
        vectorize: evaluate all particles in one pass; ``False`` for a model that can't take z of shape (K, M, J).
        compile: the fast path, see :class:`~pyro_aevb.capture.Capture`.
        expected_calls: the number of gradients to expect.
        expected_joints: the number of calls of :meth:`log_joint` to expect.
        cut: whether the circles of angles are cut open, as an integral over R^J needs them.

    Raises:
        ValueError: for a start from a guide messenger, from a guide of numbers for angles, and latents that can't be
            moved.
    """

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable | None,
        *args: Tensor,
        start: Start = "prior",
        vectorize: bool = True,
        compile: Compile = "auto",
        expected_calls: int = 0,
        expected_joints: int = 0,
        cut: bool = False,
    ) -> None:
        if start == "guide":
            require_own_run(guide, REMEDY)
        parameters = ParameterRecorder()
        self._model, self._start, self._vectorize = parameters(model), start, vectorize
        self._guide = None if guide is None else parameters(guide)
        with forked():
            self.space = LatentSpace(self._model, *args, cut=cut)
            if start == "guide":
                _check_angles(read(self._model, self._guide, args))
        watched = [model] if guide is None else [model, guide]
        leaves = lambda: {name: p.unconstrained for name, p in parameters.parameters.items()}  # noqa: E731
        self._gradient = Capture(self._log_density_and_gradient, leaves, watched, compile=compile)
        self._gradient.expected_calls = expected_calls
        self._joint = Capture(self._log_joint, leaves, watched, compile=compile)
        self._joint.expected_calls = expected_joints

    def at(self, *args: Tensor) -> Path:
        """Return the path for a minibatch: u (K, M, J) and beta to log f_beta (K, M) and its gradient (K, M, J)."""
        return lambda u, beta: self._gradient(u, beta, *args)

    def log_joint(self, u: Tensor, *args: Tensor) -> Tensor:
        """Return log p(x, u) in nats, (K, M), for ``u`` (K, M, J)."""
        return self._joint(u, *args)[0]

    def log_joint_and_resolved(self, u: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`log_joint`, and whether floating-point numbers resolve the latents there, each (K, M)."""
        return self._joint(u, *args)

    def takes(self, index: Tensor, u: Tensor, *args: Tensor) -> bool:
        """Return whether datapoints have the same log p(x, u) in a minibatch of rows ``index`` (R,) of this one.

        They don't if the model knows more of a datapoint than its row of ``args``, such as its place in the minibatch,
        and the model may not take R rows at all.

        Args:
            index: rows, in any order and number.
            u: one place for each datapoint, (1, M, J).
            args: the minibatch.
        """
        expected = self.log_joint(u, *args)[:, index]
        try:
            found = self.log_joint(u[:, index], *(arg[index] for arg in args))
        except (ValueError, RuntimeError, IndexError):  # each model says in its own way that it has other rows
            return False
        return torch.allclose(found, expected, rtol=1e-3, atol=1e-3, equal_nan=True)

    def minibatch(self, rows: Tensor, *args: Tensor) -> Tensor:
        """Return the rows of a minibatch that has ``rows`` first, or is the whole one, (M,).

        It has one of a few sizes, so that graphs are used again: a power of 2, unless the model wants all M rows.

        Args:
            rows: some of the minibatch, (R,).
            args: the minibatch.
        """
        num_data = len(args[0])
        everyone = torch.arange(num_data, device=rows.device)
        size = max(FEWEST_ROWS, 2 ** (len(rows) - 1).bit_length())
        if size >= num_data:
            return everyone
        index = torch.cat([rows, rows[:1].expand(size - len(rows))])
        return index if self.takes(index, self.draw(1, *args), *args) else everyone

    def draw(self, num_particles: int, *args: Tensor) -> Tensor:
        """Return draws from the start of the path, (K, M, J)."""
        if self._start == "prior":
            return torch.stack([self.space.prior_draw(*args) for _ in range(num_particles)])
        assert self._guide is not None
        return torch.stack([self.space.guide_draw(self._guide, *args) for _ in range(num_particles)])

    def _log_density_and_gradient(self, u: Tensor, beta: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
        def log_density(u: Tensor) -> Tensor:
            if self._start == "prior":
                start, change = self.space.terms(u, *args)
            else:
                assert self._guide is not None
                joint, start = self.space.log_joint_and_guide(self._guide, u, *args)
                change = joint - start
            return start + torch.where(beta > 0, beta * change, 0.0)  # at 0 a likelihood of zero doesn't matter

        return hmc.differentiable(lambda u: self._each(log_density, u))(u)

    @torch.no_grad()
    def _log_joint(self, u: Tensor, *args: Tensor) -> tuple[Tensor, Tensor]:
        if self._vectorize:
            return self.space.log_joint_and_resolved(u, *args)
        joint, resolved = zip(*(self.space.log_joint_and_resolved(particle, *args) for particle in u), strict=True)
        return torch.stack(joint), torch.stack(resolved)

    def _each(self, log_density: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        """Return the log density of all particles at once, or of one after the other."""
        return log_density(u) if self._vectorize else torch.stack([log_density(particle) for particle in u])


def _check_angles(reading: Reading) -> None:
    """Raise ``ValueError`` for a guide whose density doesn't repeat with each turn where the prior's does."""
    for name, site in reading.sites("guide", "local").items():
        if is_angle(reading.model[name].fn) and not is_angle(site.fn):
            raise ValueError(
                f"expected a guide of angles to start from at site {name!r}, got {type(innermost(site.fn)).__name__}, "
                f"whose density isn't the same a turn farther; write pyro.sample({name!r}, dist.VonMises(loc, "
                f"concentration)) in the guide, or {REMEDY}"
            )
