"""Every family of Section 2.4, one law a test id, against SciPy in float64.

A case says which scalar of z is compared with SciPy (``project``; z itself for scalar families) and how SciPy writes
that scalar's law (``reference``).  Kolmogorov-Smirnov tests fail a right sampler once in 10^6 fresh seeds.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.distributions import constraints
from statistics_tools import SIGMAS, assert_mean

from pyro_aevb.distributions.families import FAMILIES
from pyro_aevb.distributions.from_cdf import FromCDF

KS_FAILURE_RATE = 1e-6
W = torch.tensor([1.0, -0.5]).double()  # a direction in the plane
L = [[0.8, 0.0], [0.6, 0.5]]


def truncated(loc, scale):
    """N(loc, scale^2) kept to (0, inf), from its CDF."""
    gaussian = dist.Normal(loc, scale)
    outside = gaussian.cdf(torch.zeros_like(gaussian.loc))
    return FromCDF(
        lambda z: (gaussian.cdf(z) - outside) / (1 - outside),
        lambda z: gaussian.log_prob(z) - (1 - outside).log(),
        support=constraints.positive,
    )


def two_gaussians(weight, loc, scale):
    """Half of it at -1, half at `loc`, when weight is 0.5."""
    parts = dist.Normal(torch.full_like(loc, -1.0), 0.5), dist.Normal(loc, scale)
    return FromCDF(
        lambda z: (1 - weight) * parts[0].cdf(z) + weight * parts[1].cdf(z),
        lambda z: torch.logaddexp((1 - weight).log() + parts[0].log_prob(z), weight.log() + parts[1].log_prob(z)),
    )


class TwoGaussians(scipy.stats.rv_continuous):
    def __init__(self, weight, loc, scale):
        super().__init__()
        self.parts = [(1 - weight, scipy.stats.norm(-1, 0.5)), (weight, scipy.stats.norm(loc, scale))]

    def _pdf(self, x):
        return sum(w * p.pdf(x) for w, p in self.parts)

    def _cdf(self, x):
        return sum(w * p.cdf(x) for w, p in self.parts)

    def _stats(self):
        mean = sum(w * p.mean() for w, p in self.parts)
        return mean, sum(w * (p.var() + p.mean() ** 2) for w, p in self.parts) - mean**2, None, None


class Case(NamedTuple):
    parameters: dict[str, Any]
    reference: Callable[..., Any]
    extremes: list[dict[str, Any]]
    outside: float | list[float] | None = None  # a value the support excludes
    fixed: tuple[str, ...] = ()  # parameters without a gradient
    mean: bool = True
    project: Callable[[torch.Tensor], torch.Tensor] = lambda z: z
    make: Callable[..., Any] | None = None


def location_scale(family, **kwargs):
    extremes = [{"loc": 0.0, "scale": s} for s in (1e-6, 1e6)] + [{"loc": 1e6, "scale": 1e-3}]
    return Case({"loc": 0.3, "scale": 0.7}, lambda loc, scale: family(loc, scale), extremes, **kwargs)


def each(**kwargs):
    return [dict(zip(kwargs, values, strict=True)) for values in zip(*kwargs.values(), strict=True)]


def gamma(concentration, rate):
    return scipy.stats.gamma(concentration, scale=1 / rate)


def in_direction(family):  # w'(loc + L eps), eps spherical
    return lambda loc, scale_tril, **df: family(
        *df.values(), W.numpy() @ loc, np.linalg.norm(np.reshape(scale_tril, (2, 2)).T @ W.numpy())
    )


def project_w(z):
    return z @ W.to(z.dtype)


S = scipy.stats
CASES = {
    "exponential": Case({"rate": 2.0}, lambda rate: S.expon(scale=1 / rate), each(rate=[1e-6, 1e6]), -1.0),
    "cauchy": location_scale(S.cauchy, mean=False),
    "logistic": location_scale(S.logistic),
    "rayleigh": Case({"scale": 0.7}, lambda scale: S.rayleigh(scale=scale), each(scale=[1e-6, 1e6]), -1.0),
    "pareto": Case(
        {"scale": 0.5, "alpha": 5.0}, lambda scale, alpha: S.pareto(alpha, scale=scale),
        each(scale=[2.0, 2.0, 1e6, 1e-6], alpha=[0.01, 1e6, 0.5, 2.0]), 0.4,
    ),
    "weibull": Case(
        {"scale": 0.7, "concentration": 1.5}, lambda scale, concentration: S.weibull_min(concentration, scale=scale),
        each(scale=[2.0, 2.0, 1e6, 1e-6], concentration=[0.01, 1e4, 0.3, 1.0]), -1.0,
    ),
    "reciprocal": Case(
        {"low": 0.5, "high": 3.0}, lambda low, high: S.loguniform(low, high),
        each(low=[1e-15, 1.0, 1e-30], high=[1e15, 1.001, 1.0]), 0.4
    ),
    "gompertz": Case(
        {"concentration": 0.4, "rate": 1.3}, lambda concentration, rate: S.gompertz(concentration, scale=1 / rate),
        each(concentration=[1e-20, 1e6, 1.0, 1.0], rate=[1.0, 1.0, 1e-6, 1e6]), -1.0,
    ),
    "gumbel": location_scale(S.gumbel_r),
    "erlang": Case(
        {"concentration": 3.0, "rate": 2.0}, gamma,
        each(concentration=[1.0, 1e5, 2.0, 2.0], rate=[1.0, 1.0, 1e-6, 1e6]), -1.0, fixed=("concentration",),
    ),
    "laplace": location_scale(S.laplace),
    "multivariate-gaussian": Case(
        {"loc": [0.3, -0.2], "scale_tril": L}, in_direction(S.norm),
        each(loc=[[0.0, 0.0]] * 2, scale_tril=[[[1e-6, 0.0], [1e3, 1e-3]], [[1e6, 0.0], [0.0, 1e-6]]]),
        project=project_w,
    ),
    "multivariate-student-t": Case(
        {"df": 5.0, "loc": [0.3, -0.2], "scale_tril": L}, in_direction(S.t),
        each(df=[0.05, 1e6, 2.0], loc=[[0.0, 0.0]] * 3, scale_tril=[L, L, [[1e6, 0.0], [0.0, 1e-3]]]),
        project=project_w,
    ),
    "student-t": Case(
        {"df": 5.0, "loc": 0.3, "scale": 0.7}, S.t,
        each(df=[0.05, 1e6, 2.0, 2.0], loc=[0.0] * 4, scale=[1.0, 1.0, 1e6, 1e-6]),
    ),
    "uniform": Case(
        {"low": -0.5, "high": 2.0}, lambda low, high: S.uniform(low, high - low),
        each(low=[1.0, -1e30, 0.0], high=[1.0001, 1e30, 1e-30]), 2.5,
    ),
    "triangular": Case(
        {"low": -0.5, "high": 2.0, "peak": 0.3},
        lambda low, high, peak: S.triang((peak - low) / (high - low), low, high - low),
        each(low=[0.0, 0.0, 1.0, -1e20], high=[1.0, 1.0, 1.0001, 1e20], peak=[0.0, 1.0, 1.00005, 0.0]), 2.5,
    ),
    "gaussian": location_scale(S.norm),
    "log-normal": Case(
        {"loc": 0.3, "scale": 0.5}, lambda loc, scale: S.lognorm(scale, scale=np.exp(loc)),
        each(loc=[0.0, 50.0, 0.0], scale=[100.0, 10.0, 1e-4]), -1.0,
    ),
    "gamma": Case(
        {"concentration": 1.5, "rate": 2.0}, gamma,
        each(concentration=[0.01, 1e6, 1.0, 1.0], rate=[1.0, 1.0, 1e-6, 1e6]), -1.0,
    ),
    "dirichlet": Case(
        {"concentration": [2.0, 3.0, 4.0]}, lambda concentration: S.beta(concentration[0], sum(concentration[1:])),
        each(concentration=[[0.01] * 3, [1e5] * 3, [1e-2, 1e3, 1.0]]), [0.5, 0.6, 0.1], project=lambda z: z[..., 0],
    ),
    "beta": Case(
        {"concentration1": 0.7, "concentration0": 2.5},
        lambda concentration1, concentration0: S.beta(concentration1, concentration0),
        each(concentration1=[0.01, 1e5, 1e-2], concentration0=[0.01, 1e5, 1e3]), 1.5,
    ),
    "chi-squared": Case({"df": 3.0}, S.chi2, each(df=[0.02, 1e6]), -1.0),
    "f": Case(
        {"df1": 4.0, "df2": 12.0}, lambda df1, df2: S.f(df1, df2),
        each(df1=[0.01, 1e6, 0.02, 1e5], df2=[0.01, 1e6, 1e5, 0.02]), -1.0
    ),
    "from-cdf, truncated": Case(
        {"loc": -0.4, "scale": 0.7}, lambda loc, scale: S.truncnorm(-loc / scale, np.inf, loc, scale),
        each(loc=[1e4, 0.0, 0.0], scale=[1.0, 1e6, 1e-6]), make=truncated,
    ),
    "from-cdf, mixture": Case(
        {"weight": 0.3, "loc": 1.0, "scale": 0.8}, TwoGaussians,
        each(weight=[0.5, 1e-6], loc=[1e4, 1.0], scale=[1.0, 1.0]), make=two_gaussians,
    ),
}  # fmt: skip
SCALAR = [n for n, c in CASES.items() if n not in ("multivariate-gaussian", "multivariate-student-t", "dirichlet")]
every_case = pytest.mark.parametrize("name", CASES)
every_scalar_case = pytest.mark.parametrize("name", SCALAR)


def build(name, parameters=None, dtype=torch.float64, validate_args=True):
    """Return the distribution, and the leaves of its parameters."""
    leaves = {
        n: torch.as_tensor(p, dtype=dtype).clone().requires_grad_()
        for n, p in (parameters or CASES[name].parameters).items()
    }
    if CASES[name].make is not None:
        return CASES[name].make(**leaves), leaves
    return FAMILIES[name].distribution(**leaves, validate_args=validate_args), leaves


def derivatives(name, statistic):
    """d statistic(reference) / d parameter, by central differences, for every number in the parameters."""
    case = CASES[name]
    values = {n: np.asarray(p, dtype=float) for n, p in case.parameters.items()}

    def at(n, i, h):
        moved = {m: v.copy() for m, v in values.items()}
        moved[n].reshape(-1)[i] += h
        return statistic(case.reference(**{m: v if v.ndim else float(v) for m, v in moved.items()}))

    h = 1e-4
    return {n: [(at(n, i, h) - at(n, i, -h)) / (2 * h) for i in range(v.size)] for n, v in values.items()}


def reference(name):
    case = CASES[name]
    return case.reference(**{n: np.asarray(p) if isinstance(p, list) else p for n, p in case.parameters.items()})


def test_there_is_a_case_for_every_family():
    assert {n for n in CASES if not n.startswith("from-cdf")} == set(FAMILIES)


@every_scalar_case
def test_density_integrates_to_one(name):
    """Gauss-Legendre between SciPy's quantiles: each piece is SciPy's probability of it, and all make one."""
    ref, (d, _) = reference(name), build(name)
    tail = np.geomspace(1e-8, 0.05, 12)
    cuts = ref.ppf(np.concatenate([tail, np.linspace(0.1, 0.9, 9), 1 - tail[::-1]]))
    if name == "triangular":  # a kink
        cuts = np.sort(np.append(cuts, CASES[name].parameters["peak"]))
    nodes, weights = np.polynomial.legendre.leggauss(60)
    half = np.diff(cuts)[:, None] / 2
    z = torch.tensor(cuts[:-1, None] + half * (nodes + 1))
    mass = (d.log_prob(z).exp().detach().numpy() * weights * half).sum(-1)
    np.testing.assert_allclose(mass, np.diff(ref.cdf(cuts)), rtol=0, atol=1e-8)
    assert mass.sum() == pytest.approx(1.0, abs=1e-7)


def test_plane_densities_integrate_to_one():
    nodes, weights = np.polynomial.legendre.leggauss(40)
    angle = torch.arange(64).double() * (2 * torch.pi / 64)
    edges = np.concatenate([[0.0], np.geomspace(0.1, 1e5, 60)])
    half = np.diff(edges)[:, None] / 2
    r, dr = (torch.tensor(a).reshape(-1, 1) for a in (edges[:-1, None] + half * (nodes + 1), half * weights))
    ring = torch.stack([r * angle.cos(), r * angle.sin()], -1)
    for name in ("multivariate-gaussian", "multivariate-student-t"):
        d, _ = build(name)
        total = (d.log_prob(ring + d.loc).exp() * r * dr).sum() * (2 * torch.pi / 64)
        assert total.item() == pytest.approx(1.0, abs=1e-9)
    d, _ = build("dirichlet")
    x, dx = torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)
    first, share = torch.meshgrid(x, x, indexing="ij")
    z = torch.stack([first, (1 - first) * share, (1 - first) * (1 - share)], -1)
    total = (d.log_prob(z).exp() * (1 - first) * dx[:, None] * dx).sum()
    assert total.item() == pytest.approx(1.0, abs=1e-9)


def test_plane_densities_are_scipys():
    z = torch.tensor([[0.3, -0.2], [1.5, 2.0], [-30.0, 4.0]]).double()
    loc, shape = [0.3, -0.2], np.array(L) @ np.array(L).T
    for name, expected in (
        ("multivariate-gaussian", S.multivariate_normal(loc, shape)),
        ("multivariate-student-t", S.multivariate_t(loc, shape, df=5.0)),
    ):
        np.testing.assert_allclose(build(name)[0].log_prob(z).detach(), expected.logpdf(z), rtol=1e-10)


@every_scalar_case
def test_cdf_and_its_inverse_are_scipys(name):
    ref, (d, _) = reference(name), build(name)
    u = np.array([1e-6, 0.01, 0.3, 0.5, 0.8, 0.999])
    checked = 0
    for method, argument, expected in ((d.cdf, ref.ppf(u), u), (d.icdf, u, ref.ppf(u))):
        try:
            value = method(torch.tensor(argument))
        except NotImplementedError:
            continue
        np.testing.assert_allclose(value.detach(), expected, rtol=1e-7)
        checked += 1
    assert checked == {"student-t": 0, "f": 0, "beta": 0, "gamma": 1, "chi-squared": 1, "erlang": 1}.get(name, 2)


@every_case
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=["float32", "float64"]
)
def test_samples_fit(name, dtype):
    d, _ = build(name, dtype=dtype)
    z = d.sample((100000,))
    assert z.dtype == dtype
    assert not z.requires_grad
    assert d.support.check(z).all()
    fit = S.kstest(CASES[name].project(z).numpy(), reference(name).cdf)
    assert fit.pvalue > KS_FAILURE_RATE, f"D = {fit.statistic:.3g}"


def assert_gradients(name, function, expected, *, resolution, visible):
    leaves, n = build(name)[1], 100000
    copies = {m: p.detach().expand(n, *p.shape).clone().requires_grad_() for m, p in leaves.items()}
    made = CASES[name].make or FAMILIES[name].distribution
    value = function(CASES[name].project(made(**copies).rsample()))
    grads = torch.autograd.grad(value.sum(), list(copies.values()), allow_unused=True)
    for parameter, grad in zip(copies, grads, strict=True):
        if parameter in CASES[name].fixed:
            assert grad is None
        else:
            grad, truth = grad.reshape(n, -1), torch.tensor(expected[parameter]).double()
            assert_mean(grad, truth, resolution=resolution)
            if visible:  # no gradient at all would fail
                assert (truth.abs() > 3 * SIGMAS * grad.std(0) / n**0.5).all()


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n].mean])
def test_gradient_of_the_mean(name):
    assert_gradients(name, lambda z: z, derivatives(name, lambda ref: ref.mean()), resolution=0.04, visible=False)


@every_case
def test_gradient_of_a_bounded_function(name):
    """d E[tanh(z - 0.2)]: every parameter moves it, also those the mean does not depend on."""
    nodes, weights = np.polynomial.legendre.leggauss(50)
    edges = np.concatenate(
        [[0], np.geomspace(1e-6, 0.1, 10), np.linspace(0.2, 0.8, 7), 1 - np.geomspace(0.1, 1e-6, 10), [1]]
    )
    half = np.diff(edges)[:, None] / 2
    quantiles, weights = edges[:-1, None] + half * (nodes + 1), half * weights

    def expectation(ref):
        return (np.tanh(ref.ppf(quantiles) - 0.2) * weights).sum()

    if name == "from-cdf, mixture":  # SciPy inverts it point by point

        def expectation(ref):
            return sum(w * (np.tanh(p.ppf(quantiles) - 0.2) * weights).sum() for w, p in ref.parts)

    assert_gradients(name, lambda z: (z - 0.2).tanh(), derivatives(name, expectation), resolution=0.04, visible=True)


@pytest.mark.parametrize("name", [n for n in SCALAR if not n.startswith("from-cdf")])
def test_moments_are_scipys(name):
    d, _ = build(name)
    if CASES[name].mean:
        np.testing.assert_allclose([d.mean.item(), d.variance.item()], reference(name).stats("mv"), rtol=1e-9)
    else:
        assert d.mean.isnan()
        assert d.variance.isnan()


@pytest.mark.parametrize(
    ("name", "parameters", "mean", "variance"),
    [
        ("pareto", {"scale": 2.0, "alpha": 0.9}, torch.inf, torch.inf),
        ("pareto", {"scale": 2.0, "alpha": 1.5}, 6.0, torch.inf),
        ("student-t", {"df": 0.9, "loc": 1.0, "scale": 1.0}, torch.nan, torch.nan),
        ("student-t", {"df": 1.5, "loc": 1.0, "scale": 1.0}, 1.0, torch.inf),
        ("f", {"df1": 3.0, "df2": 1.5}, torch.inf, torch.nan),
        ("f", {"df1": 3.0, "df2": 3.0}, 3.0, torch.inf),
        ("reciprocal", {"low": 1.0, "high": 1.0 + 1e-6}, 1.0 + 5e-7, 1e-12 / 12),
        ("gompertz", {"concentration": 1e-10, "rate": 1.0}, 22.448635264, 1.644934063),  # Gumbel's, less rounding
        ("gompertz", {"concentration": 1e6, "rate": 2.0}, 5e-7, 2.5e-13),  # nearly exponential
    ],
)
def test_moments_at_the_edges(name, parameters, mean, variance):
    d, _ = build(name, parameters)
    np.testing.assert_allclose([d.mean.item(), d.variance.item()], [mean, variance], rtol=1e-5)


def test_series_are_as_good_as_the_formulas_they_replace():
    d, _ = build("reciprocal", {"low": 1.0, "high": 1.3})
    log_ratio = np.log(1.3)
    assert d.variance.item() == pytest.approx((1.69 - 1) / (2 * log_ratio) - (0.3 / log_ratio) ** 2, rel=1e-10)
    z = torch.linspace(-3, 3, 7).double()
    for df in (59.9, 60.1, 500.0):
        d, _ = build("student-t", {"df": df, "loc": 0.0, "scale": 1.0})
        np.testing.assert_allclose(d.log_prob(z).detach(), S.t(df).logpdf(z), rtol=0, atol=1e-12)


@every_case
def test_extreme_parameters_stay_finite(name):
    for parameters in CASES[name].extremes:
        d, leaves = build(name, parameters, torch.float32)
        z = d.rsample((20000,))
        log_prob = d.log_prob(z.detach())
        values = [z, log_prob]
        for value in (z, log_prob):
            grads = torch.autograd.grad(
                value.mean(0).sum(), list(leaves.values()), retain_graph=True, allow_unused=True
            )
            values += [g for g in grads if g is not None]
        assert all(v.isfinite().all() for v in values), (parameters, [v.isfinite().all() for v in values])


def test_samplers_survive_the_ends_of_the_unit_interval(monkeypatch):
    """The random numbers of one draw in 2^24, 0 and the largest below 1, give values of finite density."""
    ends = torch.tensor([0.0, 1 - 2**-24])
    monkeypatch.setattr(torch, "rand", lambda shape, **_: ends.expand(shape))
    for name in ("logistic", "rayleigh", "pareto", "weibull", "reciprocal", "gompertz", "uniform", "triangular"):
        d, _ = build(name, dtype=torch.float32)
        assert d.log_prob(d.sample((3, 2))).isfinite().all(), name
    d = FAMILIES["uniform"].distribution(torch.tensor(1.0), torch.tensor(2.0))
    assert (d.sample((2,)) < 2.0).all()


@every_case
def test_float32_is_close_to_float64(name):
    d, leaves = build(name)
    z = d.sample((1000,)).float()
    if name == "dirichlet":
        z = z / z.sum(-1, keepdim=True)
    results = []
    for dtype in (torch.float32, torch.float64):
        d, leaves = build(name, dtype=dtype, validate_args=False)
        log_prob = d.log_prob(z.to(dtype))
        results.append([log_prob, *torch.autograd.grad(log_prob.mean(), list(leaves.values()))])
        if name in SCALAR and name not in ("student-t", "f", "beta"):
            results[-1].append(d.cdf(z.to(dtype)))
    for single, double in zip(*results, strict=True):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["student-t", "multivariate-student-t"])
def test_a_large_df_keeps_the_density_in_float32(name):
    parameters = {**CASES[name].parameters, "df": 1e6}
    single, double = (build(name, parameters, dtype)[0] for dtype in (torch.float32, torch.float64))
    z = double.sample((1000,)).float()
    torch.testing.assert_close(single.log_prob(z).double(), double.log_prob(z.double()), rtol=0, atol=1e-5)


@every_case
def test_shapes(name):
    """Parameters (3, 1) and (2,) broadcast, expand, become events, stand in a plate; the density stays."""
    d, _ = build(name)
    event = d.event_shape
    case = CASES[name]
    tensors = {n: torch.tensor(p).double() for n, p in case.parameters.items()}
    shapes = [(3, 1), (2,), (1,)]
    made = case.make or FAMILIES[name].distribution
    batched = made(**{n: p.expand(*s, *p.shape) for (n, p), s in zip(tensors.items(), shapes, strict=False)})
    batch = torch.broadcast_shapes(*shapes[: len(tensors)])
    assert batched.batch_shape == batch
    z = batched.rsample((5,))
    assert z.shape == (5, *batch, *event)
    torch.testing.assert_close(batched.log_prob(z), d.log_prob(z).detach())
    expanded = batched.expand((4, 3, 2))
    assert (expanded.batch_shape, expanded.event_shape) == ((4, 3, 2), event)
    z = expanded.rsample((5,))
    assert z.shape == (5, 4, 3, 2, *event)
    torch.testing.assert_close(expanded.log_prob(z), d.log_prob(z).detach())
    if not name.startswith("from-cdf"):
        assert expanded.mean.shape == expanded.variance.shape == (4, 3, 2, *event)
    whole = expanded.to_event(2)
    assert (whole.batch_shape, whole.event_shape) == ((4,), (3, 2, *event))
    torch.testing.assert_close(whole.log_prob(z), d.log_prob(z).sum((-1, -2)).detach())
    with pyro.plate("data", 7):
        assert pyro.sample("z", d).shape == (7, *event)
    trace = pyro.poutine.trace(lambda: pyro.sample("z", expanded)).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["log_prob"].shape == (4, 3, 2)


@pytest.mark.parametrize("name", FAMILIES)
def test_bad_parameters_are_refused(name):
    good = {n: torch.tensor(p) for n, p in CASES[name].parameters.items()}
    for parameter, value in good.items():
        with pytest.raises(ValueError, match="Expected parameter"):
            FAMILIES[name].distribution(**{**good, parameter: torch.full_like(value, torch.nan)}, validate_args=True)
        if parameter not in ("loc", "low", "high", "peak"):
            with pytest.raises(ValueError, match="Expected parameter"):
                FAMILIES[name].distribution(**{**good, parameter: -value}, validate_args=True)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("erlang", (2.5, 1.0)),
        ("reciprocal", (0.0, 1.0)),
        ("reciprocal", (2.0, 1.0)),
        ("uniform", (1.0, 1.0)),
        ("triangular", (1.0, 0.0, 0.5)),
        ("triangular", (0.0, 1.0, 1.5)),
    ],
)
def test_parameters_that_do_not_fit_together_are_refused(name, parameters):
    with pytest.raises(ValueError, match="Expected parameter"):
        FAMILIES[name].distribution(*(torch.tensor(p) for p in parameters), validate_args=True)


@pytest.mark.parametrize("name", [n for n in FAMILIES if CASES[n].outside is not None])
def test_values_outside_the_support_are_refused(name):
    d, _ = build(name)
    with pytest.raises(ValueError, match="within the support"):
        d.log_prob(torch.tensor(CASES[name].outside).double())


def test_gumbel_cdf_far_out():
    d, _ = build("gumbel", dtype=torch.float32)
    assert d.cdf(torch.tensor([-1e4, 1e4])).tolist() == [0.0, 1.0]


def test_from_cdf_finds_every_scale_and_its_gradient():
    """Gaussians from 1e-12 to 1e12 wide: z is the quantile and its gradient the location-scale one."""
    scale = torch.logspace(-12, 12, 25).double().requires_grad_()
    gaussian = dist.Normal(0.0, scale)
    u = torch.tensor([1e-4, 0.3, 0.9]).double().unsqueeze(-1).requires_grad_()
    z = FromCDF(gaussian.cdf, gaussian.log_prob).icdf(u)
    expected = gaussian.icdf(u)
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=0)
    for leaf in (scale, u):
        grads = [torch.autograd.grad(value.sum(), leaf, retain_graph=True)[0] for value in (z, expected)]
        torch.testing.assert_close(*grads, rtol=1e-8, atol=0)


def test_from_cdf_refuses_what_is_no_cdf():
    gaussian = dist.Normal(torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"rises from 0 to 1 over its support.*support="):
        FromCDF(gaussian.cdf, gaussian.log_prob, support=constraints.positive, validate_args=True)
    with pytest.raises(ValueError, match="within the support"):
        truncated(torch.tensor(0.0), torch.tensor(1.0)).log_prob(torch.tensor(-1.0))


@pytest.mark.parametrize("name", ["gumbel", "pareto", "uniform", "log-normal", "cauchy"])
def test_mended_families_keep_pyros_divergences(name):
    stock = getattr(dist, FAMILIES[name].distribution.__name__)
    leaves = build(name)[1]
    wider = {n: p + 0.5 if n in ("high", "scale") and name != "pareto" else p for n, p in leaves.items()}
    kls = [torch.distributions.kl_divergence(made(**leaves), made(**wider)) for made in (FAMILIES[name][0], stock)]
    torch.testing.assert_close(*kls)


def test_document_lists_every_family():
    text = (Path(__file__).parents[2] / "docs" / "reparameterization.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|.*\| (ours|mended|Pyro) \|", text, re.M)
    homes = {
        name: "Pyro" if not f.distribution.__module__.startswith("pyro_aevb")
        else "mended" if hasattr(dist, f.distribution.__name__) else "ours"
        for name, f in FAMILIES.items()
    }  # fmt: skip
    assert rows == [(name, f.strategy, homes[name]) for name, f in FAMILIES.items()]
