"""On a GPU: CUDA graphs equal eager Pyro, data lies where it is said to, losses are read late, estimates are exact.

Skipped where there is none.
"""

import functools
import logging
import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import LinearGaussian
from pairs import CONTINUOUS, N, batch_norm_vae, sigmoid_belief_net
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from pyro_aevb import (
    AEVB,
    AIS,
    BDMC,
    IWAE,
    MCEM,
    SGVB,
    SMC,
    STL,
    VAE,
    VIMCO,
    Auto,
    Bayesian,
    DReG,
    Importance,
    PosteriorDensity,
    Quadrature,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    log_marginal_likelihood,
)
from pyro_aevb.data_source import DataSet
from pyro_aevb.datasets import Binarized
from pyro_aevb.evidence import elbo, evidence_gap
from pyro_aevb.learners.step import Minibatch, StepSettings
from pyro_aevb.training import fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
FUSED = functools.partial(torch.optim.Adam, lr=0.01, fused=True)
THETA = dist.Normal(0.0, 1.0)
LEARNERS = {
    "L^A": lambda p, **kw: AEVB(p.model, p.guide, FUSED, Trace_ELBO(), **kw),
    "L^B": lambda p, **kw: AEVB(p.model, p.guide, ADAM, TraceMeanField_ELBO(), **kw),
    "SGVB B, beta": lambda p, **kw: AEVB(p.model, p.guide, ADAM, SGVB(2, kl="analytic", beta=0.5, free_bits=0.1), **kw),
    "STL": lambda p, **kw: AEVB(p.model, p.guide, ADAM, STL(), **kw),
    "blend": lambda p, **kw: AEVB(p.model, p.guide, ADAM, **kw),
    "IWAE": lambda p, **kw: AEVB(p.model, p.guide, FUSED, IWAE(3), **kw),
    "Renyi": lambda p, **kw: AEVB(p.model, p.guide, ADAM, Renyi(0.5, 3), **kw),
    "DReG": lambda p, **kw: AEVB(p.model, p.guide, ADAM, DReG(3), **kw),
    "score": lambda p, **kw: AEVB(p.model, p.guide, ADAM, ScoreFunction(3, baseline="leave-one-out"), **kw),
    "VIMCO": lambda p, **kw: AEVB(p.model, p.guide, ADAM, VIMCO(3), **kw),
    "wake-sleep": lambda p, **kw: WakeSleep(p.model, p.guide, ADAM, FUSED, **kw),
    "reweighted": lambda p, **kw: ReweightedWakeSleep(
        p.model, p.guide, ADAM, ADAM, num_particles=3, insomnia=0.5, **kw
    ),
    "mcem": lambda p, **kw: MCEM(p.model, ADAM, num_leapfrog=3, **kw),
}
DISCRETE = ("wake-sleep", "score", "VIMCO", "reweighted")
PAIRS = [(learner, f) for learner in LEARNERS for f in CONTINUOUS.values() if f.__name__ != "two_level"]
PAIRS += [(learner, sigmoid_belief_net) for learner in DISCRETE] + [("L^A", batch_norm_vae), ("IWAE", batch_norm_vae)]


@pytest.fixture(autouse=True)
def _cuda_graphs_are_used(caplog):
    """Every test notices a line that says that the fast path was left."""
    caplog.set_level(logging.WARNING, "pyro_aevb")
    yield
    said = [record.getMessage() for record in caplog.get_records("call") if record.name == "pyro_aevb"]
    assert not [line for line in said if "without" in line]


def on_gpu(make):
    """Return a pair and its data with all of their tensors on the GPU."""
    pair, x = make()
    if isinstance(pair, torch.nn.Module):
        pair.cuda()
    if isinstance(pair, LinearGaussian):
        pair.initial = {name: value.cuda() for name, value in pair.initial.items()}
    return pair, x.cuda()


@pytest.mark.parametrize("compile", ["graph", True])
@pytest.mark.parametrize(("learner", "make"), PAIRS, ids=lambda value: getattr(value, "__name__", value))
def test_a_step_is_that_of_eager_pyro(learner, make, compile):
    losses, parameters = [], []
    for how in (False, compile):
        with pyro.get_param_store().scope(), torch.device("cuda"):
            pyro.set_rng_seed(0)
            with torch.device("cpu"):
                pair, x = on_gpu(make)
            made = LEARNERS[learner](pair, compile=how)
            pyro.set_rng_seed(1)
            batches = [torch.arange(10) + 10 * (i % 4) for i in range(20)]
            losses.append(torch.stack([made.step(x[rows], index=rows).loss for rows in batches]))
            parameters.append({n: p.unconstrained.detach().clone() for n, p in (made.theta | made.phi).items()})
            assert all(capture.obstacle is None for capture in made.captures)
            assert all(value.is_cuda for value in parameters[-1].values())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-7, atol=1e-7)
    for name, value in parameters[0].items():
        assert (parameters[1][name] - value).norm() <= 1e-6 * (1 + value.norm()), name


def gpu_vae(dtype=torch.float32):
    x = (torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.4).to(dtype)
    return VAE(6, 2, hidden_dims=(20,), dataset_size=N).to("cuda", dtype), x


def test_a_graph_follows_parameters_that_moved():
    """A CUDA graph reads memory where it lay; `p.data = ...` puts a parameter elsewhere."""
    losses = []
    for how in (False, True):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            vae, x = gpu_vae(torch.float64)
            learner, x = AEVB(vae.model, vae.guide, ADAM, compile=how), x.cuda()
            pyro.set_rng_seed(1)
            for i in range(12):
                if i == 6:
                    for parameter in vae.parameters():
                        parameter.data = 0.5 * parameter.data
                losses.append(learner.step(x).loss)
    torch.testing.assert_close(torch.stack(losses[12:]), torch.stack(losses[:12]), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:pareto_k")
@pytest.mark.parametrize("compile", ["graph", True])
@pytest.mark.parametrize("prior", [None, dist.Laplace(0.0, 1.0)])
def test_full_vb(prior, compile):
    """The prior's numbers lie on the processor, the parameters on the device."""
    losses = []
    for how in (False, compile):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            vae, x = gpu_vae(torch.float64)
            full = Bayesian(vae.model, vae.guide, x.cuda(), prior=prior)
            learner = AEVB(full.model, full.guide, ADAM, SGVB(), compile=how)
            pyro.set_rng_seed(1)
            losses += [learner.step(x.cuda()).loss for _ in range(20)]
            assert all(capture.obstacle is None for capture in learner.captures)
    torch.testing.assert_close(torch.stack(losses[20:]), torch.stack(losses[:20]), rtol=1e-7, atol=1e-7)
    evidence = log_marginal_likelihood(
        full.model, full.guide, x.cuda(), num_particles=50, num_global_draws=5, progress=False
    )
    assert evidence.value.isfinite().all()


@pytest.mark.parametrize("kl", ["analytic", "sampled"])
def test_an_enumerated_guide_makes_a_cuda_graph(kl):
    """torch's KL of two Categoricals puts numbers by a mask, which a trace keeps in the processor's memory."""
    losses = []
    x = (torch.rand(20, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double().cuda()
    y = torch.eye(3).double().cuda().repeat(7, 1)[:20]
    for how in (False, True):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            nets = (
                torch.nn.ModuleDict({"label": torch.nn.Linear(6, 3), "pixels": torch.nn.Linear(3, 6)}).cuda().double()
            )

            def model(x, y=None, nets=nets):
                pyro.module("nets", nets)
                with pyro.plate("data", len(x), device="cuda"):
                    y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(3)), obs=y)
                    pyro.sample("x", dist.Bernoulli(logits=nets["pixels"](y)).to_event(1), obs=x)

            def guide(x, y=None, nets=nets):
                pyro.module("nets", nets)
                with pyro.plate("data", len(x), device="cuda"):
                    if y is None:
                        q = dist.OneHotCategorical(logits=nets["label"](x))
                        pyro.sample("y", q, infer={"enumerate": "parallel"})

            learner = AEVB(model, guide, ADAM, SGVB(kl=kl), compile=how)
            for _ in range(20):
                losses += [learner.step(x).loss, learner.step(x, y).loss]
            assert all(capture.obstacle is None for capture in learner.captures)
    torch.testing.assert_close(torch.stack(losses[40:]), torch.stack(losses[:40]), rtol=1e-7, atol=1e-7)


def test_a_value_kept_on_the_processor_is_followed_too():
    losses = []
    for how in (False, True):
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            temperature = torch.tensor(1.0)

            def model(x, temperature=temperature):
                w = pyro.param("w", torch.ones(3, device="cuda"))
                with pyro.plate("data", len(x), device="cuda"):
                    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), device="cuda"), 1.0))
                    pyro.sample("x", dist.Normal(z[..., None] * w * temperature, 1.0).to_event(1), obs=x)

            def guide(x):
                loc = pyro.param("loc", torch.zeros(3, device="cuda"))
                with pyro.plate("data", len(x), device="cuda"):
                    pyro.sample("z", dist.Normal(x @ loc, 1.0))

            learner, x = AEVB(model, guide, ADAM, compile=how), torch.ones(5, 3, device="cuda")
            pyro.set_rng_seed(1)
            for i in range(30):
                temperature.fill_(1.0 + i)
                losses.append(learner.step(x).loss)
    torch.testing.assert_close(torch.stack(losses[30:]), torch.stack(losses[:30]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_fit(where, precision):
    vae, x = gpu_vae()
    pixels = x.to(where)
    learner = AEVB(vae.model, vae.guide, FUSED, SGVB(kl="analytic"))
    history = fit(
        learner,
        pixels[:30],
        pixels[30:],
        epochs=60,
        batch_size=10,
        device="cuda",
        schedule=lambda done: 1 - done / 2,
        clip_norm=1.0,
        kl_warm_up=300,
        patience=50,
        keep_best=True,
        precision=precision,
        compile=True,
        progress=False,
    )
    bounds = [record.values["validation"] for record in history.records]
    assert max(bounds) > bounds[0] + 0.2
    assert {p.device.type for p in vae.parameters()} == {"cuda"}


def test_pixels_are_drawn_where_the_images_lie():
    images = torch.tensor([[0.0, 1.0], [1.0, 0.0]], device="cuda")
    drawn = Binarized(images)[torch.tensor([1, 0, 1], device="cuda")]
    assert drawn.is_cuda
    assert drawn.tolist() == [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    vae, x = gpu_vae()
    learner = AEVB(vae.model, vae.guide, FUSED)
    data = DataSet(Binarized(0.8 * x.cpu() + 0.1), "cuda")
    assert data.index_device == data.at(torch.arange(3, device="cuda")).tensors[0].device
    for each in (data, Binarized(x.cpu())):
        history = fit(learner, each, epochs=2, batch_size=10, device="cuda", compile=True, progress=False)
        assert history.samples == 2 * N
    assert all(capture.obstacle is None for capture in learner.captures)


def test_a_resumed_run_is_the_same_run(tmp_path):
    ends = []
    for folder, stops in (("whole", (120,)), ("twice", (50, 120))):
        for stop in stops:
            with pyro.get_param_store().scope():
                pyro.set_rng_seed(0)
                vae, x = gpu_vae()
                learner = AEVB(vae.model, vae.guide, FUSED)
                fit(
                    learner, x, samples=stop, batch_size=10, device="cuda", compile="graph", progress=False,
                    checkpoint_dir=tmp_path / folder, resume=True,
                )  # fmt: skip
        ends.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(*ends)


METHODS = {
    "importance": (Importance(), 500),
    "posterior-density": (PosteriorDensity(), 100),
    "ais": (AIS(100, num_leapfrog=3), 16),
    "quadrature": (Quadrature(), None),
    "smc": (SMC(20, num_leapfrog=3), 8),
    "auto": (Auto(), None),
    "auto, without quadrature": (Auto(annealing=AIS(100, num_leapfrog=3), quadrature=None), 500),
}


@pytest.mark.filterwarnings("ignore:(pareto_k|the fitted density|posterior-density is meant)")
@pytest.mark.parametrize("compile", [False, "graph", True])
@pytest.mark.parametrize("method", METHODS)
def test_log_marginal_likelihood(method, compile):
    lg = LinearGaussian(100, 2, 6)
    truth = lg.log_evidence(lg.x)
    pyro.clear_param_store()
    lg.initial = {name: value.cuda() for name, value in lg.initial.items()}
    with torch.device("cuda"):
        W, s = lg.initial["W"], lg.initial["log_s"].exp()
        P = torch.eye(2).double() + W.T @ W / s**2
        lg.initial |= {
            "A": torch.linalg.solve(P, W.T) / s**2,
            "c": lg.initial["m"],
            "r": -0.5 * P.diagonal().log() + 0.2,
        }
        options, num_particles = METHODS[method]
        evidence = log_marginal_likelihood(
            lg.model, lg.guide, lg.x.cuda(), method=options, num_particles=num_particles, compile=compile, seed=0,
            progress=False,
        )  # fmt: skip
    error = (evidence.value.cpu() - truth).mean().abs().item()
    scale = evidence.standard_error.square().mean().sqrt().item()
    assert error < max(5 * scale / 10, 1e-3), (error, scale)
    assert scale < 0.3


def test_bdmc_elbo_and_the_gap():
    vae, x = gpu_vae()
    x = x.cuda()
    bounds = elbo(vae.model, vae.guide, x, num_particles=200)
    exact = log_marginal_likelihood(vae.model, vae.guide, x, method="quadrature", progress=False)
    assert (bounds.value < exact.value + 5 * bounds.standard_error).all()
    few = log_marginal_likelihood(vae.model, vae.guide, x[:5], method="quadrature", progress=False)
    gap = evidence_gap(vae.model, vae.guide, x[:5], evidence=few, progress=False)
    assert gap.total.value.isfinite().all()
    sandwich = log_marginal_likelihood(
        vae.model, vae.guide, x[:5], method=BDMC(AIS(20)), num_particles=4, progress=False
    )
    assert sandwich.value.isfinite().all()


def test_the_vae_and_its_verbs(tmp_path):
    from pyro_aevb.vae.saving import load, save

    vae, _ = gpu_vae()
    save(vae, tmp_path)
    for device in ("cpu", "cuda"):
        other = load(tmp_path, device=device)
        assert {p.device.type for p in other.parameters()} == {device}
        for a, b in zip(vae.parameters(), other.parameters(), strict=True):
            assert torch.equal(a.cpu(), b.cpu())


@pytest.mark.filterwarnings("ignore:the draws of", "ignore:pareto_k")
def test_the_verbs_of_a_vae_are_those_of_the_processor():
    """Data wherever they lie; what is drawn has other numbers there, and the same law."""
    vae, x = gpu_vae()
    vae, x = vae.cuda(), x[:20]
    there = x.cuda()
    means = {
        "encode": lambda v, x: v.encode(x),
        "reconstruct": lambda v, x: v.reconstruct(x),
        "decode": lambda v, x: v.decode(torch.ones(3, v.latent_dim).to(x)),
        "interpolate": lambda v, x: v.interpolate(x[:10], x[10:]),
        "traverse": lambda v, x: v.traverse(x, num_steps=3),
    }
    few = {"method": "importance", "num_particles": 50, "progress": False, "seed": 0}
    draws = {
        "encode": lambda data: vae.encode(data, num_draws=20, **few),
        "reconstruct": lambda data: vae.reconstruct(data, num_draws=20, **few),
        "sample": lambda data: vae.sample(30, data, source="aggregate", **few),
        "given": lambda data: vae.sample(20, data, x > 0.5, source="given", **few),
        "impute": lambda data: vae.impute(data, x > 0.5, num_draws=20, **few).mean,
        "denoise": lambda data: vae.denoise(data, lambda x: dist.Normal(x, 1.0).to_event(1), num_draws=20, **few).mean,
        "score": lambda data: vae.anomaly_score(data, reference=data, **few).tail,
    }
    on_gpu = {name: mean(vae, there) for name, mean in means.items()}
    of_draws = {name: draw(there) for name, draw in draws.items()}
    assert all(value.is_cuda and value.isfinite().all() for value in (*on_gpu.values(), *of_draws.values()))
    for name, draw in draws.items():
        for data in (x, x.numpy()):
            torch.testing.assert_close(torch.as_tensor(draw(data)), of_draws[name].cpu(), check_device=False)
    assert vae.sample(5).is_cuda
    assert vae.manifold(3).is_cuda or vae.latent_dim != 2
    vae = vae.cpu()
    for name, mean in means.items():
        torch.testing.assert_close(mean(vae, x), on_gpu[name].cpu(), rtol=1e-3, atol=1e-4)


def test_nccl_in_a_group_of_one():
    """The collectives that the ranks use run on the device; two ranks need two GPUs."""
    from pyro_aevb.learners.minibatch_share import Share
    from pyro_aevb.training.ranks import Ranks

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    torch.cuda.set_device(0)
    torch.distributed.init_process_group("nccl", rank=0, world_size=1)
    try:
        ranks = Ranks()
        assert ranks._device == torch.device("cuda", 0)
        assert ranks.of_all("a") == ["a"]
        ranks.size = 2  # so that the collectives are called
        assert ranks.any(True, False) == [True, False]
        assert ranks.from_first({"a": 1}) == {"a": 1}
        ranks.copy_first([torch.ones(3, device="cuda")])
        vae, x = gpu_vae()
        learner = AEVB(vae.model, vae.guide, FUSED, compile=False)
        info = learner.step_on(Minibatch((x[:10].cuda(),), None), StepSettings(share=Share(0, 10, 10, False)))
        assert info.loss.isfinite()
        assert Share(0, 4, 4, False).gather(torch.ones(4, 2, device="cuda")).sum() == 8
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:pareto_k")
def test_command_line(tmp_path):
    from typer.testing import CliRunner

    from pyro_aevb.cli import app

    run = CliRunner().invoke
    for command in (
        ["train", "digits", "--device", "cuda", "--samples", "3000", "--out", str(tmp_path / "run")],
        ["evaluate", str(tmp_path / "run"), "digits", "--device", "cuda", "--limit", "50", "--particles", "100"],
        ["sample", str(tmp_path / "run"), "--device", "cuda", "--out", str(tmp_path / "a.png")],
    ):
        result = run(app, command)
        assert result.exit_code == 0, (command, result.output, result.exception)
    assert Path(tmp_path / "a.png").exists()
