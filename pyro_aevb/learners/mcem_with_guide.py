"""Monte Carlo EM, and beside it a guide fitted to its model, so that there is a bound to report and a code to encode.

MCEM itself (Kingma & Welling 2013, Appendix E) never sees the guide: theta is trained on posterior samples alone, phi
by AEVB's gradient with theta untouched.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pyro_aevb.learners.aevb import AEVB
from pyro_aevb.learners.learner import Draw, StepInfo
from pyro_aevb.learners.mcem import MCEM
from pyro_aevb.learners.minibatch_share import Share
from pyro_aevb.learners.optimizer import Optimizer
from pyro_aevb.model_guide.parameters import Parameter
from pyro_aevb.model_guide.traces import PyroCallable


class MCEMWithGuide:
    """A learner for :func:`~pyro_aevb.training.fit` out of two: ``mcem`` for theta, ``recognition`` for phi.

    Args:
        mcem: over the model.
        recognition: over the same model and a guide, with ``update="guide"``.
    """

    def __init__(self, mcem: MCEM, recognition: AEVB) -> None:
        if recognition.update != "guide":
            raise ValueError(f"expected a guide's learner, AEVB(..., update='guide'), got {recognition.update!r}")
        self.mcem, self.recognition = mcem, recognition
        self.draw = Draw()  # one draw of pixels for both
        self.optimizers: dict[str, Optimizer] = mcem.optimizers | {"guide": recognition.optimizers["optim"]}

    @property
    def model(self) -> PyroCallable:
        """p(x, z)."""
        return self.recognition.model

    @property
    def guide(self) -> PyroCallable | None:
        """q(z|x)."""
        return self.recognition.guide

    @property
    def modules(self) -> list[nn.Module]:
        """Those that model and guide can reach."""
        return self.recognition.modules

    @property
    def theta(self) -> dict[str, Parameter]:
        """The model's parameters."""
        return self.recognition.theta

    @property
    def phi(self) -> dict[str, Parameter]:
        """The guide's parameters."""
        return self.recognition.phi

    @property
    def theta_prior(self) -> Any:
        """p(theta)."""
        return self.mcem.theta_prior

    @property
    def dataset_size(self) -> int:
        """N of Eq. (8)."""
        return self.recognition.dataset_size

    @property
    def clip_norm(self) -> float | None:
        """The largest norm of a gradient, for each of the two."""
        return self.recognition.clip_norm

    @clip_norm.setter
    def clip_norm(self, value: float | None) -> None:
        self.mcem.clip_norm = self.recognition.clip_norm = value

    @property
    def share(self) -> Share | None:
        """Which part of the minibatch this process has."""
        return self.recognition.share

    @share.setter
    def share(self, value: Share | None) -> None:
        self.mcem.share = self.recognition.share = value

    @property
    def compile_seconds(self) -> float:
        """What tracing and compiling took so far."""
        return self.mcem.compile_seconds + self.recognition.compile_seconds

    def configure(self, **options: Any) -> None:
        """Choose how steps are computed."""
        self.mcem.configure(**options)
        self.recognition.configure(**options)

    def prepare(self, *args: Tensor) -> None:
        """Check data and pair."""
        self.mcem.prepare(*args)
        self.recognition.prepare(*args)

    def step(self, *args: Tensor, index: Tensor | None = None) -> StepInfo:
        """Make a step of MCEM on theta and one of AEVB on phi; return what the second returns."""
        args = self.draw(*args)
        self.mcem.step(*args, index=index)
        return self.recognition.step(*args)

    def copy_parameters(self) -> dict[str, Any]:
        """Return a copy of theta and phi, and of the buffers."""
        return self.recognition.copy_parameters()

    def put_parameters(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`copy_parameters` gave."""
        self.recognition.put_parameters(state)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the two."""
        return {"mcem": self.mcem.state_dict(), "recognition": self.recognition.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`."""
        self.mcem.load_state_dict(state["mcem"])
        self.recognition.load_state_dict(state["recognition"])
