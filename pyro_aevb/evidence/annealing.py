"""log p(x) of a Pyro model by annealed importance sampling, and by bidirectional Monte Carlo.

The sampling itself is in :mod:`pyro_aevb.samplers.ais`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_aevb.evidence.estimates import Direction, Evidence
from pyro_aevb.evidence.estimator import Estimator, Evaluate, Problem, check_sizes
from pyro_aevb.evidence.importance_weights import log_mean, widened
from pyro_aevb.model_guide.contract import read
from pyro_aevb.model_guide.dreaming import Dreaming
from pyro_aevb.model_guide.traces import PyroCallable, number_of_datapoints, trace_model
from pyro_aevb.random_state import forked
from pyro_aevb.samplers import ais, hmc
from pyro_aevb.samplers.ais import Tick, Tuned
from pyro_aevb.samplers.annealed_path import AnnealedPath, Start


@final
@dataclass(frozen=True)
class AIS(Estimator):
    """``method="ais"``: K chains (``num_particles``, 16 by default) for each datapoint, annealed to the joint.

    A first run along the same temperatures tunes the step sizes, which are then frozen.

    Args:
        num_temperatures: T, steps from beta = 0 to 1.
        num_leapfrog: leapfrog steps at each temperature.
        start: ``"prior"``, along p(z) p(x|z)^beta, or ``"guide"``, along q(z|x)^(1-beta) p(x, z)^beta.
        schedule: the betas, (T+1,), rising from 0 to 1; by default a sigmoid.
        target_acceptance: the acceptance rate that step sizes are tuned to.

    Raises:
        ValueError: for options outside their range, and a schedule that doesn't rise from 0 to 1.
    """

    num_temperatures: int = 1000
    num_leapfrog: int = 10
    start: Start = "prior"
    schedule: Tensor | None = field(default=None, compare=False)
    target_acceptance: float = 0.65

    def __post_init__(self) -> None:
        if self.num_temperatures < 1 or self.num_leapfrog < 1:
            raise ValueError(
                "expected num_temperatures and num_leapfrog of 1 or more, "
                f"got {self.num_temperatures} and {self.num_leapfrog}"
            )
        if self.start not in ("prior", "guide"):
            raise ValueError(f"expected start to be 'prior' or 'guide', got {self.start!r}")
        if not 0 < self.target_acceptance < 1:
            raise ValueError(f"expected target_acceptance between 0 and 1, got {self.target_acceptance}")
        ais.check_schedule(self.betas())

    def betas(self) -> Tensor:
        """Return the schedule (T+1,)."""
        return ais.sigmoid_schedule(self.num_temperatures) if self.schedule is None else self.schedule

    def prepare(self, problem: Problem) -> Evaluate:
        """Return the function that anneals the chains of a minibatch."""
        path = self.path(problem.model, problem)
        num_chains = problem.num_particles or 16

        def evaluate(tick: Tick, *args: Tensor) -> Evidence:
            return self.forward(path, num_chains, args, lambda part: tick(part / 2))[0]

        return evaluate

    def path(self, model: PyroCallable, problem: Problem, *more: Tensor) -> AnnealedPath:
        """Return the path for ``model``, which takes the problem's arguments and ``more``.

        Raises:
            ValueError: for a start from the guide in a problem without one.
        """
        if self.start == "guide" and problem.guide is None:
            raise ValueError("expected a guide to start from, got None; start from the prior: AIS(start='prior')")
        gradients = 2 * problem.num_batches * (len(self.betas()) - 1) * (self.num_leapfrog + 1)
        return AnnealedPath(
            model,
            problem.guide if self.start == "guide" else None,
            *problem.args,
            *more,
            start=self.start,
            vectorize=problem.vectorize,
            compile=problem.compile,
            expected_calls=gradients,
        )

    def forward(
        self, path: AnnealedPath, num_chains: int, args: tuple[Tensor, ...], tick: Tick
    ) -> tuple[Evidence, Tuned]:
        """Tune, then anneal; return the lower bound and what the tuning found."""
        density, schedule = path.at(*args), self.betas()
        tuned = ais.tune(
            density,
            schedule,
            path.draw(num_chains, *args),
            self.num_leapfrog,
            target_acceptance=self.target_acceptance,
            tick=tick,
        )
        log_weight = ais.anneal(
            density, schedule, path.draw(num_chains, *args), tuned.step_sizes, self.num_leapfrog, tick=tick
        )
        value, error, ess = log_mean(log_weight).result()
        return Evidence(value, widened(error, num_chains), "lower", ess), tuned


@final
@dataclass(frozen=True)
class BDMC(Estimator):
    """``method="bdmc"``: AIS in both directions, on data simulated from the model, or on ``x`` from the ends of chains.

    Data are simulated in the shape of ``x``.  The values then belong to them (``Evidence.data``), not to ``x``: they
    show how good AIS is for this model.  All reverse chains begin at the one z that the datapoint was simulated from,
    an exact draw from its posterior.  They are not independent, so the upper side's standard error leaves out the noise
    of that draw.  Arguments that the model reads without observing them (masks, labels) keep their values.

    With ``chain`` the values belong to ``x``, whose posterior nobody can draw from.  Each reverse chain begins where
    ``chain`` transitions of HMC under the posterior end; they start at the ends of annealed chains, drawn by their
    weights.  The upper side is above log p(x) in expectation as far as these ends are draws from the posterior, and so
    its direction is ``"upper (approximate)"``.  A mode that annealing missed isn't visited by the chains either, and
    then both sides are low alike: agreement doesn't prove that the mass was found.

    Args:
        annealing: temperatures and other options; with ``start="prior"`` unless there is a ``chain``.
        chain: transitions of HMC before the reverse chains, 1 or more; ``None`` for simulated data.

    Raises:
        ValueError: for annealing of simulated data that starts from the guide, a ``chain`` below 1, and one with a
            single temperature, which leaves no step size to be tuned.

    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> method = BDMC(AIS(50, num_leapfrog=3), chain=50)
    >>> evidence = log_marginal_likelihood(model, None, torch.tensor([0.0, 2.0]), method=method, seed=0)
    >>> evidence.upper.direction, bool((evidence.gap().value.abs() < 0.2).all())
    ('upper (approximate)', True)
    """

    annealing: AIS = field(default_factory=AIS)
    chain: int | None = None

    def __post_init__(self) -> None:
        check_sizes(chain=self.chain)
        if self.chain is None and self.annealing.start != "prior":
            raise ValueError(
                "expected AIS from the prior, got start='guide': a guide sees x, not the simulated data; "
                "pass AIS(start='prior'), or chain=100 for values of x itself"
            )
        if self.chain is not None and len(self.annealing.betas()) < 3:
            raise ValueError(
                "expected 2 temperatures or more, whose tuning finds the step size of a chain, got 1; "
                "pass AIS(num_temperatures=2) or more, or chain=None"
            )

    def prepare(self, problem: Problem) -> Evaluate:
        """Return the function that anneals a minibatch in both directions, after simulating it if there's no chain."""
        return self._of_simulated(problem) if self.chain is None else self._of_x(problem, self.chain)

    def _of_x(self, problem: Problem, length: int) -> Evaluate:
        """Return the function for x itself, whose reverse chains begin at the ends of HMC chains of this length."""
        path, num_chains = self.annealing.path(problem.model, problem), problem.num_particles or 16
        work = 3 * (len(self.annealing.betas()) - 1) + length
        part_of_annealing, part_of_chain = 1 - length / work, length / work

        def evaluate(tick: Tick, *args: Tensor) -> Evidence:
            annealed: Tick = lambda part: tick(part_of_annealing * part / 3)  # noqa: E731
            lower, tuned = self.annealing.forward(path, num_chains, args, annealed)
            density = path.at(*args)
            target: hmc.Target = lambda u: density(u, torch.ones_like(u[0, 0, 0]))  # noqa: E731
            state = hmc.init(target, _drawn_by_weight(tuned.position, tuned.log_weight))
            for _ in range(length):
                state, _ = hmc.transition(
                    target, state, hmc.jittered(tuned.step_sizes[-1], state), self.annealing.num_leapfrog
                )
                tick(part_of_chain / length)
            upper = self._backward(path, args, state.position, tuned, "upper (approximate)", annealed)
            return replace(lower, upper=upper)

        return evaluate

    def _of_simulated(self, problem: Problem) -> Evaluate:
        """Return the function that simulates a minibatch and anneals in both directions."""
        model, method, num_chains = problem.model, self.annealing, problem.num_particles or 16
        num_args = len(problem.args)
        with forked(), torch.no_grad():
            reading = read(model, None, problem.args)
            names, dim = reading.observed, reading.plate.dim
            first = _simulate(model, problem.args, names)[1].values()

        def simulated(*args: Tensor) -> Any:
            """Run the model on observations of its own, which come after its arguments."""
            data = dict(zip(names, args[num_args:], strict=True))
            return poutine.condition(Dreaming(names)(model), data=data)(*args[:num_args])

        path = method.path(simulated, problem, *(site["value"] for site in first))

        def evaluate(tick: Tick, *args: Tensor) -> Evidence:
            with torch.no_grad():
                trace, sites = _simulate(model, args, names)
            everything = (*args, *(site["value"] for site in sites.values()))
            third: Tick = lambda part: tick(part / 3)  # noqa: E731
            lower, tuned = method.forward(path, num_chains, everything, third)
            with torch.no_grad():
                observed = trace_model(simulated, trace, everything)
            exact = path.space.position(observed, number_of_datapoints(args)).expand(num_chains, -1, -1)
            upper = self._backward(path, everything, exact, tuned, "upper", third)
            data = {name: site["value"].movedim(dim - site["fn"].event_dim, 0) for name, site in sites.items()}
            return replace(lower, upper=upper, data=data)

        return evaluate

    def _backward(
        self,
        path: AnnealedPath,
        args: tuple[Tensor, ...],
        start: Tensor,
        tuned: Tuned,
        direction: Direction,
        tick: Tick,
    ) -> Evidence:
        """Anneal from the posterior, at ``start`` (K, M, J), to the path's other end; return the upper side."""
        schedule, sizes = self.annealing.betas().flip(0), tuned.step_sizes.flip(0)
        log_weight = ais.anneal(path.at(*args), schedule, start, sizes, self.annealing.num_leapfrog, tick=tick)
        value, error, ess = log_mean(log_weight).result()
        return Evidence(-value, widened(error, len(start)), direction, ess)


def _drawn_by_weight(position: Tensor, log_weight: Tensor) -> Tensor:
    """Return K of the positions (K, M, J) for each datapoint, drawn with probabilities in proportion to its weights."""
    index = torch.multinomial(log_weight.softmax(0).T, len(position), replacement=True).T
    return position.gather(0, index.unsqueeze(-1).expand_as(position))


def _simulate(model: PyroCallable, args: tuple[Tensor, ...], names: Sequence[str]) -> tuple[Trace, dict[str, Any]]:
    """Return a trace of the model with its observations drawn, and these sites."""
    trace = poutine.trace(Dreaming(names)(model)).get_trace(*args)
    return trace, {name: trace.nodes[name] for name in names}
