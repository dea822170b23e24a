"""Full variational Bayes: the parameters theta of a model as global latents (Kingma & Welling 2013, Appendix F)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, final

import pyro
import torch
from pyro import distributions as dist
from pyro import primitives
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import biject_to, constraints, transform_to

from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.modes import named_by_the_caller
from pyro_aevb.model_guide.parameters import Parameter, ParameterRecorder
from pyro_aevb.model_guide.traces import PyroCallable
from pyro_aevb.param_site import announce

GuideFor = Callable[[str, Tensor], dist.TorchDistribution]
INITIAL_SCALE = 0.01


@final
class Bayesian(nn.Module):
    r"""A pair whose model has global latents in the place of its parameters theta, and whose guide has q(theta).

    .. math:: \mathcal{L} = E_{q(\theta)}\Big[\frac{N}{M} \sum_m \mathcal{L}(\theta, \phi; x_m)\Big]
        - KL(q(\theta) \| p(\theta))

    The parameters that run in the model and not in the guide become sample sites of their names, ahead of the model's
    own and outside of its plates; one with several names is one site.  Modules stay as they are: a run computes with
    the draw instead of their weights.  ``model`` and ``guide`` are ordinary Pyro functions, for every learner and
    estimate that takes global latents.

    Args:
        model: p(x, z), with parameters.
        guide: q(z|x).
        args: a minibatch, on which the pair is run once to find the parameters.
        prior: p(theta), each element's distribution in unconstrained space, N(0, 1) by default.
        guide_for: q(theta): ``"normal"``, a Gaussian for each element in unconstrained space that begins at the
            parameter's value with a standard deviation of 0.01; ``"delta"``, a point, which is MAP; or a function of
            name and value that returns a distribution of the value's shape, declared with ``.to_event``.

    With ``"delta"`` the steps are those of a learner's ``theta_prior=`` but for three things.  ``theta_prior`` is the
    distribution of the values, ``prior`` that of their places in unconstrained space: N(0, 1) there is LogNormal(0, 1)
    for a positive value.  ``theta_prior`` weighs parameters that run in the guide too.  And Pyro keeps a simplex in
    other coordinates than a bijection has, in which the same mode is reached by other steps.

    Raises:
        ValueError: for a model without parameters of its own, another ``guide_for``, a pair that breaks the contract.

    >>> def model(x):
    ...     mean = pyro.param("mean", torch.tensor(0.0))
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(mean, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
    >>> x = torch.tensor([1.0, 2.0])
    >>> pair = Bayesian(model, guide, x)
    >>> list(pyro.poutine.trace(pair.guide).get_trace(x).stochastic_nodes)
    ['mean', 'data', 'z']
    >>> learner = AEVB(pair.model, pair.guide, functools.partial(torch.optim.Adam, lr=0.05), SGVB(kl="analytic"))
    >>> for _ in range(100):
    ...     info = learner.step(x)
    >>> bool((pair.posterior()["mean"].mean - 0.5).abs() < 0.3)  # the best one beside this guide is N(1/2, 1/3)
    True
    """

    def __init__(
        self,
        model: PyroCallable,
        guide: PyroCallable,
        *args: Any,
        prior: dist.TorchDistribution | None = None,
        guide_for: Literal["normal", "delta"] | GuideFor = "normal",
    ) -> None:
        super().__init__()
        if not callable(guide_for) and guide_for not in ("normal", "delta"):
            raise ValueError(
                f"expected guide_for to be 'normal', 'delta' or a function of name and value, got {guide_for!r}"
            )
        theta, phi = ParameterRecorder(), ParameterRecorder()
        read(theta(model), phi(guide), args)
        shared = {id(parameter.unconstrained) for parameter in phi.parameters.values()}
        own = {n: p for n, p in theta.parameters.items() if id(p.unconstrained) not in shared}
        first = {id(parameter.unconstrained): name for name, parameter in reversed(own.items())}
        self._site_of = {name: first[id(parameter.unconstrained)] for name, parameter in own.items()}
        self._sites = {name: parameter for name, parameter in own.items() if self._site_of[name] == name}
        if not self._sites:
            raise ValueError(
                "expected a model with parameters of its own, got none; register them with pyro.module(name, module), "
                "pyro.param or a PyroModule"
            )
        self._model, self._guide, self._guide_for = model, guide, guide_for
        self._prior = dist.Normal(0.0, 1.0) if prior is None else prior
        self._keys = {name: name.replace(".", "|") for name in self._sites}  # what a ParameterDict takes
        free = {name: _free(parameter) for name, parameter in self._sites.items()}
        self._shapes = {name: value.shape for name, value in free.items()}
        start = {} if callable(guide_for) else {self._keys[name]: value for name, value in free.items()}
        self.loc = nn.ParameterDict({key: nn.Parameter(value.clone()) for key, value in start.items()})
        log_scale = {key: torch.full_like(value, INITIAL_SCALE).log() for key, value in start.items()}
        self.log_scale = nn.ParameterDict(log_scale if guide_for == "normal" else {})

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """Sample theta ~ p(theta), then what the model samples with it; arguments are the model's."""
        values = {}
        for name, parameter in self._sites.items():
            shape, prior = self._shapes[name], _like(parameter.unconstrained, self._prior)
            prior = prior.expand(torch.broadcast_shapes(prior.batch_shape, shape)).to_event(len(shape))
            values[name] = pyro.sample(name, _constrained(prior, parameter))
        with _Substituted({name: values[site] for name, site in self._site_of.items()}):
            return self._model(*args, **kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """Sample theta ~ q(theta), then what the guide samples; arguments are the guide's."""
        for name, q in self.posterior().items():
            pyro.sample(name, q)
        return self._guide(*args, **kwargs)

    def posterior(self) -> dict[str, Any]:
        """Return q(theta), the distribution of each parameter by name."""
        if callable(self._guide_for):
            values = {name: parameter.value().detach() for name, parameter in self._sites.items()}
            return {name: self._guide_for(name, value) for name, value in values.items()}
        result = {}
        for name, parameter in self._sites.items():
            key = self._keys[name]
            loc = announce(f"{name}.loc", self.loc[key])
            if self._guide_for == "delta":
                result[name] = dist.Delta(_bijection(parameter)(loc), event_dim=parameter.value().dim())
                continue
            scale = announce(f"{name}.log_scale", self.log_scale[key]).exp()
            result[name] = _constrained(dist.Normal(loc, scale).to_event(loc.dim()), parameter)
        return result

    @torch.no_grad()
    def put_middle(self) -> None:
        """Give the model's own parameters the middle of q(theta), for what needs one value of each.

        That is the mean in unconstrained space, and the mean of a distribution of your own.

        >>> vae, x = VAE(6, 2, hidden_dims=(5,)), torch.ones(3, 6)
        >>> full = Bayesian(vae.model, vae.guide, x)
        >>> full.put_middle()
        >>> bool((vae.decoder[0].weight == full.posterior()["decoder.0.weight"].mean).all())
        True
        """
        own = self.posterior() if callable(self._guide_for) else {}
        for name, parameter in self._sites.items():
            value = own[name].mean if own else _bijection(parameter)(self.loc[self._keys[name]])
            parameter.unconstrained.copy_(transform_to(parameter.constraint).inv(value))


def _like(parameter: Tensor, fn: Any) -> Any:
    """Return a distribution whose parameters have the device and dtype of this one: itself, or another of its kind."""
    own = {name: getattr(fn, name) for name in fn.arg_constraints}
    if all(value.device == parameter.device and value.dtype == parameter.dtype for value in own.values()):
        return fn
    return type(fn)(**{name: value.to(parameter) for name, value in own.items()})


def _bijection(parameter: Parameter) -> Any:
    return biject_to(parameter.constraint)


def _free(parameter: Parameter) -> Tensor:
    """Return the parameter's value in R^n."""
    value = parameter.value().detach()
    return value if parameter.constraint is constraints.real else _bijection(parameter).inv(value)


def _constrained(fn: dist.TorchDistribution, parameter: Parameter) -> dist.TorchDistribution:
    """Return the distribution of the parameter's value, from that of its place in R^n."""
    if parameter.constraint is constraints.real:
        return fn
    return dist.TransformedDistribution(fn, [_bijection(parameter)])


class _Substituted(Messenger):
    """Run with these values of parameters, by name; nothing of it stays."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values
        self._before: list[tuple[nn.Module, str, Any]] = []

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] not in self._values:
            return
        value = self._values[msg["name"]]
        if primitives._MODULE_NAMESPACE_DIVIDER in msg["name"]:
            self._put(msg["args"][1], value)
        msg["value"], msg["done"], msg["stop"] = value, True, True

    def _put(self, parameter: Any, value: Tensor) -> None:
        """Let the module that the call of ``pyro.module`` on the stack is about compute with the value."""
        for module in named_by_the_caller():
            for key, own in _slots(module).items():
                if own is parameter:
                    self._before.append((module, key, own))
                    _slots(module)[key] = value

    def __exit__(self, *error: Any) -> None:
        for module, key, own in reversed(self._before):  # a slot that was put into twice has its own value first
            _slots(module)[key] = own
        self._before.clear()
        super().__exit__(*error)


def _slots(module: nn.Module) -> dict[str, Any]:
    """Return where a module keeps its parameters, in which a draw can stand that is none."""
    slots: dict[str, Any] = vars(module)["_parameters"]
    return slots
