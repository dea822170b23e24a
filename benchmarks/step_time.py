"""How long a training step takes: stock Pyro, hand-written PyTorch, NumPyro, pythae, and this library.

    python benchmarks/step_time.py --quick      # the paper's MNIST case, about a minute
    python benchmarks/step_time.py              # every case

All variants of a case train the same networks on the same images with Adam.  They take turns, a block of steps each,
in one run; times are medians over the blocks, and ratios are made turn by turn before the median is taken, so that a
machine that slows down slows all of them.  Beside the time stands the loss each variant reached (nats per datapoint)
after the same number of steps: a fast step that learns something else would show there.  The floor is the time of a
step's matrix products alone, measured in the same turns.

NumPyro and pythae come with the extra `bench`; without them their rows are left out, and said.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import io
import json
import logging
import math
import os
import platform
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.transforms import AffineAutoregressive
from pyro.infer import SVI, JitTrace_ELBO, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn
from tqdm import tqdm

import pyro_aevb
from pyro_aevb import AEVB, IWAE
from pyro_aevb.capture import Capture
from pyro_aevb.capture.graph_passes import onednn_is_faster
from pyro_aevb.datasets import Binarized
from pyro_aevb.model_guide.log_density import capture_log_density, log_density
from pyro_aevb.samplers import hmc
from pyro_aevb.samplers.latent_space import LatentSpace

IMAGES, RATE = 5000, 1e-3
STOCK, SCAN = "pyro TraceMeanField", "numpyro scan"


class Case(NamedTuple):
    """One set of shapes: D pixels, H hidden units, J latents, M images a batch, K particles."""

    name: str
    x_dim: int = 784
    hidden: int = 500
    latent_dim: int = 20
    batch: int = 100
    particles: int = 1
    gaussian: bool = False
    conv: bool = False
    flow: bool = False
    dynamic: bool = False  # pixels drawn anew in each step

    @property
    def outputs(self) -> int:
        """How many numbers the decoder gives."""
        return self.x_dim * (1 + self.gaussian)


QUICK = Case("mnist M=100")
CASES = [
    Case("mnist M=20", batch=20),
    QUICK,
    Case("mnist M=1000", batch=1000),
    Case("frey M=100", x_dim=560, hidden=200, latent_dim=10, gaussian=True),
    Case("mnist M=20, IWAE K=50", batch=20, particles=50),
    Case("mnist M=100, convolutions", conv=True),
    Case("mnist M=100, flow", flow=True),
    Case("mnist M=100, pixels drawn", dynamic=True),
]


class Variant(NamedTuple):
    """One way of training: ``block(n)`` makes n steps and returns their mean loss."""

    name: str
    block: Callable[[int], Any]
    compile_seconds: float = 0.0
    memory: float = 0.0


# -- The model, as someone would write it in Pyro ----------------------------------------------------------------------


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a layer with fan-in initialisation."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """q(z|x)'s mean and log variance."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        if case.conv:
            self.net = nn.Sequential(
                nn.Unflatten(-1, (1, 28, 28)), nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1),
                nn.ReLU(), nn.Flatten(), linear(64 * 49, 2 * case.latent_dim),
            )  # fmt: skip
        else:
            self.net = nn.Sequential(
                linear(case.x_dim, case.hidden), nn.Tanh(), linear(case.hidden, 2 * case.latent_dim)
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and scale."""
        loc, log_variance = self.net(x).chunk(2, -1)
        return loc, (0.5 * log_variance).exp()


class Decoder(nn.Module):
    """p(x|z)'s logits, or mean and log variance."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        if case.conv:
            self.net = nn.Sequential(
                linear(case.latent_dim, 64 * 49), nn.ReLU(), nn.Unflatten(-1, (64, 7, 7)),
                nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Flatten(),
            )  # fmt: skip
        else:
            self.net = nn.Sequential(linear(case.latent_dim, case.hidden), nn.Tanh(), linear(case.hidden, case.outputs))

    def forward(self, z: Tensor) -> Tensor:
        """Return the outputs."""
        return self.net(z)


class Networks(nn.Module):
    """The networks of a case, the same ones for every variant in PyTorch, and the model and guide over them."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.case, self.encoder, self.decoder = case, Encoder(case), Decoder(case)
        self.flow = AutoRegressiveNN(case.latent_dim, [100]) if case.flow else None

    def model(self, x: Tensor) -> None:
        """p(z) p(x|z)."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.case.latent_dim), 1.0).to_event(1))
            h = self.decoder(z)
            if self.case.gaussian:
                loc, log_variance = h.chunk(2, -1)
                pyro.sample("x", dist.Normal(loc.sigmoid(), (0.5 * log_variance).exp()).to_event(1), obs=x)
            else:
                pyro.sample("x", dist.Bernoulli(logits=h).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z|x)."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            q = dist.Normal(*self.encoder(x)).to_event(1)
            if self.flow is not None:
                pyro.module("flow", self.flow)
                q = dist.TransformedDistribution(q, [AffineAutoregressive(self.flow)])
            pyro.sample("z", q)

    def loss(self, x: Tensor) -> Tensor:
        """Return the same loss written by hand: -L^B, -L^A with a flow, the IWAE bound for K > 1."""
        k = self.case.particles
        if self.case.dynamic:
            x = torch.bernoulli(x)
        loc, scale = self.encoder(x)
        if k > 1:
            loc, scale = loc.expand(k, *loc.shape), scale.expand(k, *scale.shape)
        eps = torch.randn_like(loc)
        z, log_det = loc + scale * eps, 0.0
        if self.flow is not None:
            shift, log_scale = self.flow(z)
            log_scale = log_scale.clamp(-5.0, 3.0)
            z, log_det = log_scale.exp() * z + shift, log_scale.sum(-1)
        log_likelihood = self.log_likelihood(x, z)
        if k == 1 and self.flow is None:
            kl = 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum(-1)
            return (kl - log_likelihood).sum()
        log_weight = (
            log_likelihood - 0.5 * z.square().sum(-1) + 0.5 * eps.square().sum(-1) + scale.log().sum(-1) + log_det
        )
        return -(log_weight.logsumexp(0) - math.log(k)).sum() if k > 1 else -log_weight.sum()

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z) by hand."""
        h = self.decoder(z)
        if self.case.gaussian:
            loc, log_variance = h.chunk(2, -1)
            error = (x - loc.sigmoid()).square() * (-log_variance).exp()
            return -0.5 * (error + log_variance + math.log(2 * math.pi)).sum(-1)
        return -F.binary_cross_entropy_with_logits(h, x.expand_as(h), reduction="none").sum(-1)


def images(case: Case) -> Tensor:
    """Return 5000 images: ten random prototypes, each pixel flipped or blurred at random."""
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(10, case.x_dim, generator=generator) < 0.3
    chosen = prototypes[torch.randint(10, (IMAGES,), generator=generator)].float()
    if case.gaussian:
        return (0.5 + 0.4 * (chosen - 0.5) + 0.1 * torch.randn(chosen.shape, generator=generator)).clamp(0, 1)
    if case.dynamic:
        return 0.1 + 0.8 * chosen
    return torch.where(torch.rand(chosen.shape, generator=generator) < 0.1, 1 - chosen, chosen)


class Feed:
    """Minibatches of the same images in the same order for every variant."""

    def __init__(self, case: Case) -> None:
        self.x = images(case)
        generator = torch.Generator().manual_seed(1)
        self.index = torch.randint(IMAGES, (200, case.batch), generator=generator)
        self._next = 0

    def __call__(self) -> Tensor:
        """Return the next minibatch."""
        self._next += 1
        return self.x.index_select(0, self.index[self._next % len(self.index)])


def blocks(step: Callable[[Tensor], Any], case: Case) -> Callable[[int], float]:
    """Make a variant's block of a step that returns a loss for the minibatch."""
    feed = Feed(case)

    def block(n: int) -> float:
        total: Any = 0.0
        for _ in range(n):
            total = total + step(feed())
        return float(total) / n / case.batch

    return block


# -- Variants ----------------------------------------------------------------------------------------------------------


def stock_pyro(case: Case, objective: Any) -> Callable[[int], float]:
    """SVI as in Pyro's own examples."""
    networks = Networks(case)
    svi = SVI(networks.model, networks.guide, pyro.optim.Adam({"lr": RATE}), objective)
    return blocks((lambda x: svi.step(torch.bernoulli(x))) if case.dynamic else svi.step, case)


def by_hand(case: Case, compiled: bool) -> Callable[[int], float]:
    """A PyTorch loop with the loss written out, and torch's fused Adam."""
    networks = Networks(case)
    optimizer = torch.optim.Adam(networks.parameters(), lr=RATE, fused=True)
    loss_of = torch.compile(networks.loss, dynamic=False) if compiled else networks.loss

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return blocks(step, case)


def ours(case: Case, objective: Any, **options: Any) -> Callable[[int], float]:
    """This library's AEVB on the same Pyro model and guide."""
    networks = Networks(case)
    adam = functools.partial(torch.optim.Adam, lr=RATE, fused=True)
    learner = AEVB(networks.model, networks.guide, adam, objective)
    learner.configure(**options)
    if case.dynamic:
        learner.draw.fn = lambda x: (Binarized.draw(x),)
    return blocks(lambda x: learner.step(x).loss, case)


def numpyro_blocks(case: Case, scan: bool) -> Callable[[int], float]:
    """NumPyro's SVI: a jitted update for each step, or all of a block under lax.scan."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist
    from numpyro.infer import SVI, TraceMeanField_ELBO

    networks = Networks(case)

    def weights(net: nn.Sequential) -> list[Any]:
        layers = [layer for layer in net if isinstance(layer, nn.Linear)]
        return [(jnp.asarray(w.weight.detach().numpy().T), jnp.asarray(w.bias.detach().numpy())) for w in layers]

    start = {"encoder": weights(networks.encoder.net), "decoder": weights(networks.decoder.net)}

    def apply(layers: Any, x: Any) -> Any:
        (w, b), (v, c) = layers
        return jnp.tanh(x @ w + b) @ v + c

    def model(x: Any) -> None:
        layers = numpyro.param("decoder", start["decoder"])
        with numpyro.plate("data", case.batch):
            z = numpyro.sample("z", ndist.Normal(jnp.zeros((case.batch, case.latent_dim)), 1.0).to_event(1))
            h = apply(layers, z)
            if case.gaussian:
                loc, log_variance = jnp.split(h, 2, -1)
                likelihood: Any = ndist.Normal(jax.nn.sigmoid(loc), jnp.exp(0.5 * log_variance))
            else:
                likelihood = ndist.Bernoulli(logits=h)
            numpyro.sample("x", likelihood.to_event(1), obs=x)

    def guide(x: Any) -> None:
        loc, log_variance = jnp.split(apply(numpyro.param("encoder", start["encoder"]), x), 2, -1)
        with numpyro.plate("data", case.batch):
            numpyro.sample("z", ndist.Normal(loc, jnp.exp(0.5 * log_variance)).to_event(1))

    feed = Feed(case)
    svi = SVI(model, guide, numpyro.optim.Adam(RATE), TraceMeanField_ELBO())
    x, index = jnp.asarray(feed.x.numpy()), jnp.asarray(feed.index.numpy())
    state = svi.init(jax.random.PRNGKey(0), x[index[0]])
    update = jax.jit(lambda state, i: svi.update(state, x[i]))
    updates = jax.jit(lambda state, i: jax.lax.scan(lambda s, j: svi.update(s, x[j]), state, i))
    done = 0

    def block(n: int) -> float:
        nonlocal state, done
        rows = jnp.arange(done, done + n) % len(index)
        done += n
        if scan:
            state, losses = updates(state, index[rows])
            return float(losses.mean()) / case.batch
        total = 0.0
        for row in index[rows]:
            state, loss = update(state, row)
            total = total + loss
        return float(total) / n / case.batch

    return block


def pythae_blocks(case: Case) -> Callable[[int], float]:
    """pythae's trainer on its VAE with the same networks; its loader's work is part of it.

    Its epochs are blocks, so that each goes over the same few minibatches again: the loss is not comparable.
    """
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.getLogger("pythae").setLevel(logging.ERROR)
    networks, feed = Networks(case), Feed(case)

    class TheEncoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = networks.encoder.net

        def forward(self, x: Tensor) -> Any:
            loc, log_variance = self.net(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class TheDecoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = networks.decoder.net

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z).sigmoid())

    config = VAEConfig(input_dim=(case.x_dim,), latent_dim=case.latent_dim, reconstruction_loss="bce")
    model = VAE(config, encoder=TheEncoder(), decoder=TheDecoder())

    def trainer_of(n: int) -> Any:
        folder = tempfile.mkdtemp()
        settings = BaseTrainerConfig(
            output_dir=folder, learning_rate=RATE, per_device_train_batch_size=case.batch, num_epochs=1, no_cuda=True
        )
        data = feed.x[feed.index[torch.arange(n) % len(feed.index)].flatten()]
        trainer = BaseTrainer(model, BaseDataset(data, torch.zeros(len(data))), training_config=settings)
        trainer.set_output_dir = lambda: None
        trainer.prepare_training()
        return trainer

    trainers: dict[int, Any] = {}

    def block(n: int) -> float:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            if n not in trainers:
                trainers[n] = trainer_of(n)
            return float(trainers[n].train_step(epoch=1))

    return block


def variants(case: Case) -> dict[str, Callable[[], Callable[[int], float]]]:
    """Return how each variant of a case is made, by name."""
    iwae = functools.partial(RenyiELBO, alpha=0.0, num_particles=case.particles, vectorize_particles=True)
    objective = functools.partial(iwae, max_plate_nesting=1) if case.particles > 1 else TraceMeanField_ELBO
    own = functools.partial(IWAE, case.particles) if case.particles > 1 else TraceMeanField_ELBO
    made: dict[str, Callable[[], Callable[[int], float]]] = {}
    made[STOCK if case.particles == 1 else "pyro RenyiELBO"] = lambda: stock_pyro(case, objective())
    if case.particles == 1:
        made["pyro Trace"] = lambda: stock_pyro(case, Trace_ELBO())
        made["pyro JitTrace"] = lambda: stock_pyro(case, JitTrace_ELBO(ignore_jit_warnings=True))
    made["torch by hand"] = lambda: by_hand(case, compiled=False)
    made["torch by hand, compiled"] = lambda: by_hand(case, compiled=True)
    if case.particles == 1 and not (case.conv or case.flow or case.dynamic):
        if importlib.util.find_spec("numpyro"):
            made["numpyro jit"] = lambda: numpyro_blocks(case, scan=False)
            made[SCAN] = lambda: numpyro_blocks(case, scan=True)
        if importlib.util.find_spec("pythae") and not case.gaussian:
            made["pythae"] = lambda: pythae_blocks(case)
    made["ours, eager"] = lambda: ours(case, own(), compile=False)
    made["ours, graph"] = lambda: ours(case, own(), compile="graph")
    made["ours, compiled"] = lambda: ours(case, own(), compile=True)
    made["ours, compiled, bf16"] = lambda: ours(case, own(), compile=True, precision="bf16")
    return made


# -- Log densities: MCEM's leapfrog step, importance weights -----------------------------------------------------------


def leapfrog_variants() -> dict[str, Callable[[], Callable[[int], float]]]:
    """The gradient of log p(x, z) in z, 100 chains: what a leapfrog step costs."""
    case = QUICK

    def of(make: Callable[[Networks, Tensor], Callable[[Tensor], tuple[Tensor, Tensor]]]) -> Callable[[int], float]:
        networks, x = Networks(case), Feed(case)()
        target = make(networks, x)
        state = hmc.init(target, torch.randn(case.batch, case.latent_dim))

        def block(n: int) -> float:
            nonlocal state
            state, _ = hmc.leapfrog(target, state, torch.randn_like(state.position), 0.01, n)
            return -float(state.log_prob.mean())

        return block

    def hand(networks: Networks, x: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        constant = 0.5 * case.latent_dim * math.log(2 * math.pi)
        return hmc.differentiable(lambda z: networks.log_likelihood(x, z) - 0.5 * z.square().sum(-1) - constant)

    def ours(compile: Any) -> Callable[[Networks, Tensor], Callable[[Tensor], tuple[Tensor, Tensor]]]:
        def make(networks: Networks, x: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
            space = LatentSpace(networks.model, x)
            gradient = lambda u, x: hmc.differentiable(lambda v: space.log_joint(v, x))(u)  # noqa: E731
            parameters = lambda: dict(networks.decoder.named_parameters())  # noqa: E731
            capture = Capture(gradient, parameters, [networks.model], compile=compile)
            return lambda u: capture(u, x)

        return make

    return {
        "torch by hand": lambda: of(hand),
        "ours, eager": lambda: of(ours(False)),
        "ours, graph": lambda: of(ours("graph")),
        "ours, compiled": lambda: of(ours(True)),
    }


def importance_variants() -> dict[str, Callable[[], Callable[[int], float]]]:
    """Log weights of 100 images with 50 particles, no gradient: what an importance estimate is made of."""
    case = QUICK._replace(particles=50)

    def of(make: Callable[[Networks], Callable[[Tensor], Tensor]]) -> Callable[[int], float]:
        networks, feed = Networks(case), Feed(case)
        log_weight = make(networks)

        def block(n: int) -> float:
            with torch.no_grad():
                return float(sum(-(log_weight(feed()).logsumexp(0) - math.log(50)).mean() for _ in range(n)) / n)

        return block

    def hand(networks: Networks) -> Callable[[Tensor], Tensor]:
        def log_weight(x: Tensor) -> Tensor:
            loc, scale = networks.encoder(x)
            eps = torch.randn(50, *loc.shape)
            z = loc + scale * eps
            log_ratio = -0.5 * z.square().sum(-1) + 0.5 * eps.square().sum(-1) + scale.log().sum(-1)
            return networks.log_likelihood(x, z) + log_ratio

        return log_weight

    def ours(compile: Any) -> Callable[[Networks], Callable[[Tensor], Tensor]]:
        def make(networks: Networks) -> Callable[[Tensor], Tensor]:
            density = capture_log_density(networks.model, networks.guide, num_particles=50, compile=compile)
            return lambda x: density(x).log_weight

        return make

    def eager(networks: Networks) -> Callable[[Tensor], Tensor]:
        return lambda x: log_density(networks.model, networks.guide, x, num_particles=50).log_weight

    return {
        "torch by hand": lambda: of(hand),
        "ours, eager": lambda: of(eager),
        "ours, graph": lambda: of(ours("graph")),
        "ours, compiled": lambda: of(ours(True)),
    }


# -- Measuring ---------------------------------------------------------------------------------------------------------


def products_of(case: Case) -> list[tuple[int, int, int]]:
    """Return the matrix products (rows, inner, columns) of a step of the perceptrons, forward and backward."""
    m, k = case.batch, case.particles
    layers = [(m, case.x_dim, case.hidden, False), (m, case.hidden, 2 * case.latent_dim, True)]
    layers += [(m * k, case.latent_dim, case.hidden, True), (m * k, case.hidden, case.outputs, True)]
    found = []
    for rows, inputs, outputs, input_gradient in layers:
        found += [(rows, inputs, outputs), (outputs, rows, inputs)] + [(rows, outputs, inputs)] * input_gradient
    return found


def fastest_product() -> Callable[[Tensor, Tensor], Tensor]:
    """Return the fastest kernel here for float32 products a b'."""
    if onednn_is_faster():
        return lambda a, b: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return lambda a, b: a @ b.t()


def floor(case: Case) -> Callable[[int], float]:
    """Return a block of nothing but a step's matrix products, by the fastest kernel for float32 there is."""
    pairs = [(torch.randn(n, k), torch.randn(m, k)) for n, k, m in products_of(case)]
    product = fastest_product()

    def block(n: int) -> float:
        for _ in range(n):
            for a, b in pairs:
                product(a, b)
        return math.nan

    return block


def resident() -> float:
    """Return the process's resident memory in MB; NaN where the system doesn't tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return math.nan


def measure(
    name: str, makers: dict[str, Callable[[], Callable[[int], float]]], bare: Callable[[int], float] | None, rounds: int
) -> list[dict[str, Any]]:
    """Let the variants take turns; return a row for each."""
    made: dict[str, Variant] = {}
    for variant, make in tqdm(makers.items(), desc=f"{name}: compiling", leave=False):
        with pyro.get_param_store().scope():
            before, start = resident(), time.perf_counter()
            block = make()
            block(2)
            made[variant] = Variant(variant, in_store(block), time.perf_counter() - start, resident() - before)
    if bare is not None:
        made["floor"] = Variant("floor", bare)
    start = time.perf_counter()
    next(iter(made.values())).block(2)
    steps = max(3, min(60, int(0.1 / ((time.perf_counter() - start) / 2))))
    for i, v in enumerate(made.values()):
        v.block(steps if i else steps - 2)  # as many steps as all of them; NumPyro compiles for this length
    times: dict[str, list[float]] = {variant: [] for variant in made}
    losses: dict[str, float] = {}
    for turn in tqdm(range(rounds), desc=f"{name}: {steps} steps a turn", leave=False):
        order = list(made.values())
        for v in order[turn % len(order) :] + order[: turn % len(order)]:
            start = time.perf_counter()
            losses[v.name] = v.block(steps)
            times[v.name].append(1e3 * (time.perf_counter() - start) / steps)
    stock = next((times[n] for n in (STOCK, "pyro RenyiELBO") if n in times), None)
    rows = []
    for variant, spent in times.items():
        if variant == "floor":
            continue
        low, high = np.quantile(spent, [0.25, 0.75])
        rows.append(
            {
                "case": name,
                "variant": variant,
                "median_ms": round(float(np.median(spent)), 4),
                "quartiles_ms": [round(float(low), 4), round(float(high), 4)],
                "ratio_to_stock_pyro": ratio(stock, spent),
                "ratio_to_numpyro_scan": ratio(times.get(SCAN), spent),
                "ratio_to_torch_by_hand": ratio(times["torch by hand"], spent),
                "ratio_to_torch_compiled": ratio(times.get("torch by hand, compiled"), spent),
                "floor_ms": round(float(np.median(times["floor"])), 4) if bare is not None else None,
                "loss": round(losses[variant], 3),
                "first_steps_seconds": round(made[variant].compile_seconds, 2),
                "memory_mb": round(made[variant].memory, 1),
            }
        )
    return rows


def in_store(block: Callable[[int], float]) -> Callable[[int], float]:
    """Give a block a Pyro parameter store of its own, kept from call to call."""
    store = dict(pyro.get_param_store().get_state())

    def inside(n: int) -> float:
        with pyro.get_param_store().scope(store):
            return block(n)

    return inside


def ratio(reference: list[float] | None, spent: list[float]) -> float | None:
    """Return the median over turns of reference time over time: larger is faster."""
    return None if reference is None else round(float(np.median(np.divide(reference, spent))), 3)


def table(result: dict[str, Any]) -> str:
    """Return the rows as a table."""
    header = [
        "variant",
        "ms a step",
        "quartiles",
        "x Pyro",
        "x hand",
        "x compiled",
        "x NumPyro",
        "loss",
        "start s",
        "MB",
    ]
    lines = []
    for case in dict.fromkeys(row["case"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["case"] == case]
        bare = rows[0]["floor_ms"]
        lines += ["", f"{case}" + (f" (matrix products alone: {bare:.3f} ms)" if bare else "")]
        cells = [header]
        for row in rows:
            ratios = [row[f"ratio_to_{r}"] for r in ("stock_pyro", "torch_by_hand", "torch_compiled", "numpyro_scan")]
            cells.append(
                [row["variant"], f"{row['median_ms']:.3f}", "{:.3f}-{:.3f}".format(*row["quartiles_ms"])]
                + ["" if r is None else f"{r:.2f}" for r in ratios]
                + [f"{row['loss']:.2f}", f"{row['first_steps_seconds']:.1f}", f"{row['memory_mb']:.0f}"]
            )
        widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
        lines += [
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in cells
        ]
    return "\n".join(lines).strip("\n")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it writes as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the paper's MNIST case alone")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=25, help="turns of each variant")
    parser.add_argument("--json", type=Path, default=Path("out/step_time/results.json"))
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"expected --rounds of 1 or more, got {args.rounds}")
    try:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"expected a folder that can be written, got {args.json.parent}: {error}; name another with --json")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    missing = [name for name in ("numpyro", "pythae") if not importlib.util.find_spec(name)]
    if missing:
        print(f"without {' and '.join(missing)}, which the extra `bench` brings: pip install -e '.[bench]'")
    jobs: list[tuple[str, Any, Any]] = [
        (case.name, variants(case), None if case.conv or case.flow else floor(case))
        for case in ([QUICK] if args.quick else CASES)
    ]
    if not args.quick:
        jobs += [("leapfrog step, 100 chains", leapfrog_variants(), None)]
        jobs += [("log weights, M=100, K=50", importance_variants(), None)]
    jobs = [job for job in jobs if not args.only or args.only in job[0]]
    if not jobs:
        parser.error(f"expected --only to be part of one of {[c.name for c in CASES]}, got {args.only!r}")
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/step_time.py", *(sys.argv[1:] if argv is None else argv)]),
        "ratios": "median over turns of the reference's time over the variant's: larger is faster",
        "threads": torch.get_num_threads(),
        "versions": {"pyro_aevb": pyro_aevb.__version__, "pyro": pyro.__version__, "torch": torch.__version__}
        | {"python": platform.python_version()},
        "rows": [],
    }
    for name, makers, bare in jobs:
        torch._dynamo.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the rivals warn of
            result["rows"] += measure(name, makers, bare, args.rounds)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"\nlosses in nats per datapoint; written: {args.json}")
    return result


if __name__ == "__main__":
    main()
