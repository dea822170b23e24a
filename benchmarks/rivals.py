"""Ways of training one model, by name: stock Pyro, PyTorch by hand, NumPyro, pythae, and this library.

Each is a :class:`Rival`: which cases it can do, and how it is made; all of them are in ``RIVALS``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
import math
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer import SVI, JitTrace_ELBO, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from step_cases import Block, Case, Feed, Networks, blocks
from torch import Tensor, nn

from pyro_aevb import AEVB, IWAE
from pyro_aevb.capture.graph_passes import onednn_is_faster
from pyro_aevb.datasets import Binarized
from pyro_aevb.learners import Minibatch, StepSettings

RATE = 1e-3


def stock_pyro(case: Case, objective: Any) -> Block:
    """SVI as in Pyro's own examples."""
    networks = Networks(case)
    svi = SVI(networks.model, networks.guide, pyro.optim.Adam({"lr": RATE}), objective)
    return blocks((lambda x: svi.step(torch.bernoulli(x))) if case.dynamic else svi.step, case)


def by_hand(case: Case, compiled: bool) -> Block:
    """A PyTorch loop with the loss written out, and torch's fused Adam."""
    networks = Networks(case)
    optimizer = torch.optim.Adam(networks.parameters(), lr=RATE, fused=True)
    mode = "default" if case.device == "cpu" else "reduce-overhead"  # which makes CUDA graphs
    loss_of = torch.compile(networks.loss, dynamic=False, mode=mode) if compiled else networks.loss

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return blocks(step, case)


def ours(case: Case, objective: Any, **options: Any) -> Block:
    """This library's AEVB on the same Pyro model and guide."""
    networks = Networks(case)
    adam = functools.partial(torch.optim.Adam, lr=RATE, fused=True)
    learner = AEVB(networks.model, networks.guide, adam, objective)
    learner.configure(**options)
    draw = (lambda x: (Binarized.draw(x),)) if case.dynamic else None
    return blocks(lambda x: learner.step_on(Minibatch((x,), draw=draw), StepSettings()).loss, case)


def numpyro_blocks(case: Case, scan: bool) -> Block:
    """NumPyro's SVI: a jitted update for each step, or all of a block under lax.scan."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as ndist
    from numpyro.infer import SVI, TraceMeanField_ELBO

    networks = Networks(case)

    def weights(net: nn.Sequential) -> list[Any]:
        layers = [layer for layer in net if isinstance(layer, nn.Linear)]
        return [
            (jnp.asarray(w.weight.detach().cpu().numpy().T), jnp.asarray(w.bias.detach().cpu().numpy())) for w in layers
        ]

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
    x, index = jnp.asarray(feed.x.cpu().numpy()), jnp.asarray(feed.index.cpu().numpy())
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


def pythae_blocks(case: Case) -> Block:
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


# -- The table --------------------------------------------------------------------------------------------------------


class Rival(NamedTuple):
    """A way of training a case: ``make(case)`` returns a block of steps; ``can`` tells for which cases."""

    make: Callable[[Case], Block]
    can: Callable[[Case], bool] = lambda case: True
    needs: str = ""  # a package of the extra `bench`


def own(case: Case, **options: Any) -> Block:
    """Make this library's AEVB, with the IWAE bound for K > 1."""
    return ours(case, IWAE(case.particles) if case.particles > 1 else TraceMeanField_ELBO(), **options)


def renyi(case: Case) -> Block:
    """Make Pyro's IWAE bound."""
    objective = RenyiELBO(alpha=0.0, num_particles=case.particles, vectorize_particles=True, max_plate_nesting=1)
    return stock_pyro(case, objective)


def one(case: Case) -> bool:
    """Return whether the case's bound has one particle."""
    return case.particles == 1


def plain(case: Case) -> bool:
    """Return whether the case is perceptrons, one particle, and fixed pixels."""
    return one(case) and not (case.conv or case.flow or case.dynamic)


RIVALS = {
    "pyro TraceMeanField": Rival(lambda case: stock_pyro(case, TraceMeanField_ELBO()), one),
    "pyro RenyiELBO": Rival(renyi, lambda case: not one(case)),
    "pyro Trace": Rival(lambda case: stock_pyro(case, Trace_ELBO()), one),
    "pyro JitTrace": Rival(lambda case: stock_pyro(case, JitTrace_ELBO(ignore_jit_warnings=True)), one),
    "torch by hand": Rival(functools.partial(by_hand, compiled=False)),
    "torch by hand, compiled": Rival(functools.partial(by_hand, compiled=True)),
    "numpyro jit": Rival(functools.partial(numpyro_blocks, scan=False), plain, "numpyro"),
    "numpyro scan": Rival(functools.partial(numpyro_blocks, scan=True), plain, "numpyro"),
    "pythae": Rival(pythae_blocks, lambda case: plain(case) and not case.gaussian and case.device == "cpu", "pythae"),
    "ours, eager": Rival(functools.partial(own, compile=False)),
    "ours, graph": Rival(functools.partial(own, compile="graph")),
    "ours, compiled": Rival(functools.partial(own, compile=True)),
    "ours, compiled, bf16": Rival(functools.partial(own, compile=True, precision="bf16")),
}


def missing() -> list[str]:
    """Return the packages that rivals need and that aren't installed."""
    needed = dict.fromkeys(rival.needs for rival in RIVALS.values() if rival.needs)
    return [name for name in needed if importlib.util.find_spec(name) is None]


def rivals_of(case: Case) -> dict[str, Callable[[], Block]]:
    """Return how each rival that can do a case, and is installed, is made for it."""
    absent = missing()
    chosen = {name: rival for name, rival in RIVALS.items() if rival.can(case) and rival.needs not in absent}
    return {name: functools.partial(rival.make, case) for name, rival in chosen.items()}


# -- The floor --------------------------------------------------------------------------------------------------------


def products_of(case: Case) -> list[tuple[int, int, int]]:
    """Return the matrix products (rows, inner, columns) of a step of the perceptrons, forward and backward."""
    m, k = case.batch, case.particles
    layers = [(m, case.x_dim, case.hidden, False), (m, case.hidden, 2 * case.latent_dim, True)]
    layers += [(m * k, case.latent_dim, case.hidden, True), (m * k, case.hidden, case.outputs, True)]
    found = []
    for rows, inputs, outputs, input_gradient in layers:
        found += [(rows, inputs, outputs), (outputs, rows, inputs)] + [(rows, outputs, inputs)] * input_gradient
    return found


def fastest_product(device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the fastest kernel here for float32 products a b'."""
    if device == "cpu" and onednn_is_faster():
        return lambda a, b: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return lambda a, b: a @ b.t()


def floor(case: Case) -> Callable[[int], float]:
    """Return a block of nothing but a step's matrix products, by the fastest kernel for float32 there is."""
    new = functools.partial(torch.randn, device=case.device)
    pairs = [(new(n, k), new(m, k)) for n, k, m in products_of(case)]
    product = fastest_product(case.device)

    def block(n: int) -> float:
        for _ in range(n):
            for a, b in pairs:
                product(a, b)
        if case.device != "cpu":
            torch.cuda.synchronize(case.device)
        return math.nan

    return block
