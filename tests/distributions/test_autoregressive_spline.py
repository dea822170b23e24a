"""Splines by zuko: maps with the right Jacobian, densities in a VAE, captured as they are, and optional."""

import functools
import importlib.util
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import Distribution

from pyro_aevb import AEVB, SGVB, VAE, fit, load, log_marginal_likelihood, save
from pyro_aevb.distributions import AutoregressiveSpline

pytestmark = pytest.mark.skipif(importlib.util.find_spec("zuko") is None, reason="zuko is optional")
ADAM = functools.partial(torch.optim.Adam, lr=0.01)
X = (torch.rand(12, 5, generator=torch.Generator().manual_seed(0)) < 0.5).double()
SPLINES = {"prior": {"prior": "spline"}, "posterior": {"posterior": "spline"}}
SPLINES["both"] = SPLINES["prior"] | SPLINES["posterior"]


def make(dim, kind):
    pyro.set_rng_seed(0)
    return VAE(5, dim, hidden_dims=(6,), dataset_size=len(X), **SPLINES[kind]).double()


def spline(dim, context_dim=0):
    torch.manual_seed(0)
    return AutoregressiveSpline(dim, context_dim, hidden_dim=8).double()


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("context", [None, torch.randn(4, 2, generator=torch.Generator().manual_seed(1)).double()])
def test_the_map_its_inverse_its_jacobian_and_their_gradients(dim, context):
    made = spline(dim, 0 if context is None else 2)
    x = 3 * torch.randn(4, dim, generator=torch.Generator().manual_seed(2)).double()
    x[0] = 7.0  # beyond the knots it is the identity
    y = made(context)(x)
    torch.testing.assert_close(y[0], x[0])
    assert (y[1:] - x[1:]).abs().max() > 0.01
    torch.testing.assert_close(made(context).inv(y.clone()), x)
    for n in range(4):
        one = None if context is None else context[n]
        jacobian = torch.autograd.functional.jacobian(lambda v, one=one: made(one)(v), x[n])
        log_determinant = made(context).log_abs_det_jacobian(x, y)[n]
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_determinant)
        assert torch.equal(jacobian, jacobian.tril())
    x.requires_grad_()
    assert gradcheck(lambda v: made(context)(v), x)
    assert gradcheck(lambda v: made(context).inv(v), y.detach().requires_grad_())
    assert gradcheck(lambda v: made(context).log_abs_det_jacobian(v, made(context)(v)), x)


@pytest.mark.parametrize("dim", [1, 2])
def test_draws_have_the_density_that_is_said(dim):
    """The means of z, z^2 and log p(z) over draws are those over a grid, and the density sums to 1."""
    flow = dist.TransformedDistribution(dist.Normal(torch.zeros(dim).double(), 1.0).to_event(1), [spline(dim)()])
    line = torch.linspace(-9, 9, 1201 if dim == 1 else 401).double()
    grid = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
    with torch.no_grad():
        log_p = flow.log_prob(grid)
        weights = log_p.exp() * (line[1] - line[0]) ** dim
        torch.testing.assert_close(weights.sum(), torch.ones(()).double(), rtol=2e-3, atol=0)
        torch.manual_seed(3)
        z = flow.sample((40_000,))
        drawn = torch.cat([z, z**2, flow.log_prob(z)[:, None]], -1)
        exact = (weights[:, None] * torch.cat([grid, grid**2, log_p[:, None]], -1)).sum(0)
        error = drawn.std(0) / len(drawn) ** 0.5
        assert ((drawn.mean(0) - exact).abs() < 5 * error + 0.005).all()
        torch.testing.assert_close(flow.log_prob(z), flow.log_prob(z.clone()))  # of a draw, and of any value


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pareto_k")  # a guide that isn't trained
@pytest.mark.parametrize("kind", SPLINES)
@pytest.mark.parametrize("dim", [1, 2])
def test_log_p_is_that_of_quadrature(kind, dim):
    vae, options = make(dim, kind), {"seed": 0, "progress": False, "compile": False}
    exact = log_marginal_likelihood(vae.model, vae.guide, X, method="quadrature", **options).value
    found = log_marginal_likelihood(vae.model, vae.guide, X, method="importance", num_particles=2000, **options)
    assert ((found.value - exact).abs() < 5 * found.standard_error + 0.02).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPLINES)
def test_the_captured_steps_are_the_eager_ones(kind):
    ends = []
    for compile in (False, "graph"):
        vae = make(2, kind)
        learner = AEVB(vae.model, vae.guide, ADAM, SGVB(2), compile=compile)
        fit(learner, X, epochs=3, batch_size=4, seed=0, progress=False)
        assert all(capture.obstacle is None for capture in learner.captures)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in vae.parameters()]))
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", SPLINES)
def test_it_is_saved_and_loaded(kind, tmp_path):
    vae = make(2, kind)
    save(vae, tmp_path)
    same = load(tmp_path)
    bounds = []
    for each in (vae, same):
        pyro.set_rng_seed(1)
        bounds.append(SGVB().terms(each.model, each.guide, X).bound)
    assert torch.equal(*bounds)
    assert str(same) == str(vae)


def test_without_zuko_one_sentence_says_so(tmp_path, monkeypatch):
    save(make(2, "both"), tmp_path)
    before = Distribution._validate_args, Distribution.arg_constraints
    monkeypatch.setitem(sys.modules, "zuko", None)
    for use in (lambda: VAE(5, 2, prior="spline"), lambda: VAE(5, 2, posterior="spline"), lambda: load(tmp_path)):
        with pytest.raises(ImportError, match=r"expected zuko for splines, got none; .* 'pyro-aevb\[zuko\]'"):
            use()
    assert before == (Distribution._validate_args, Distribution.arg_constraints)


def test_distributions_are_validated_as_before():
    """Which zuko switches off for all of torch where it is imported."""
    code = (
        "import sys, torch, pyro_aevb; from pyro_aevb import VAE; from torch.distributions import Distribution as D; "
        "assert 'zuko' not in sys.modules; before = D._validate_args, D.arg_constraints; VAE(4, 2, prior='spline'); "
        "assert 'zuko' in sys.modules; assert before == (D._validate_args, D.arg_constraints); print(before[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
