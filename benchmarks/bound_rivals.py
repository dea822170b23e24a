"""Ways of training one VAE to a bound, each in a process of its own, with no more imports than it needs.

``time_to_bound.py`` starts ``python -c "import bound_rivals; bound_rivals.main()" JOB``, JOB a :class:`Job` as JSON.
All have the paper's networks, of the same eight arrays: W (outputs, inputs) and b of the encoder's two layers, then the
decoder's.  At each report they hand these over, and the bound is computed from them in NumPy, with the same noise.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BATCH_SIZE = 100
Arrays = list[np.ndarray]
Report = Callable[[int, Arrays], bool]  # (samples, weights) -> whether the bound is reached
ROWS = 1000  # evaluated at a time


class Job(NamedTuple):
    """A run: data (train.npy and test.npy in ``folder``, grey pixels and drawn ones), sizes, and how to train.

    ``length`` are the samples of the whole run, which a schedule is stretched over.
    """

    rival: str
    folder: str
    gaussian: bool
    hidden: int
    latent_dim: int
    target: float
    length: int
    every: int
    seed: int
    learning_rate: float
    beta1: float
    shape: str
    warm_up: float
    tuned: bool

    @property
    def train(self) -> np.ndarray:
        """Return the training images (N, D)."""
        return np.load(Path(self.folder) / "train.npy")

    def factor(self, done: float) -> float:
        """Return the learning rate's factor, as ``pyro_aevb.learners.Schedule`` has it."""
        if self.shape == "constant":
            return 1.0
        if done < self.warm_up:
            return 0.01 + 0.99 * done / self.warm_up
        return (1 - done) / (1 - self.warm_up)

    def initial(self) -> Arrays:
        """Return the weights that a run begins with: of variance 1/fan-in, or torch's by default."""
        rng, x_dim = np.random.default_rng(self.seed), self.train.shape[1]
        outputs = x_dim * (2 if self.gaussian else 1)
        layers = [(x_dim, self.hidden), (self.hidden, 2 * self.latent_dim)]
        layers += [(self.latent_dim, self.hidden), (self.hidden, outputs)]
        found = []
        for n, m in layers:
            edge = n**-0.5
            weight = rng.normal(0, edge, (m, n)) if self.tuned else rng.uniform(-edge, edge, (m, n))
            bias = np.zeros(m) if self.tuned else rng.uniform(-edge, edge, m)
            found += [weight.astype(np.float32), bias.astype(np.float32)]
        return found


def perceptron(weights: Arrays, x: np.ndarray) -> np.ndarray:
    """Return a perceptron's outputs."""
    w, b, v, c = weights
    return np.tanh(x @ w.T + b) @ v.T + c


def bound(weights: Arrays, x: np.ndarray, *, gaussian: bool) -> float:
    """Return the mean bound L^B with one draw a datapoint, in nats.

    >>> weights = [np.zeros((2, 3)), np.zeros(2), np.zeros((2, 2)), np.zeros(2)]
    >>> weights += [np.zeros((2, 1)), np.zeros(2), np.zeros((3, 2)), np.zeros(3)]
    >>> round(bound(weights, np.ones((5, 3)), gaussian=False) / math.log(2), 6)  # q = p, and three fair coins
    -3.0
    """
    rng, total = np.random.default_rng(0), 0.0
    for rows in np.split(x, range(ROWS, len(x), ROWS)):
        loc, log_variance = np.split(perceptron(weights[:4], rows), 2, -1)
        z = loc + np.exp(0.5 * log_variance) * rng.standard_normal(loc.shape).astype(loc.dtype)
        kl = 0.5 * (loc**2 + np.exp(log_variance) - 1 - log_variance).sum()
        outputs = perceptron(weights[4:], z)
        if gaussian:
            logits, log_variance = np.split(outputs, 2, -1)
            error = (rows - 1 / (1 + np.exp(-logits))) ** 2 * np.exp(-log_variance)
            likelihood = -0.5 * (error + log_variance + math.log(2 * math.pi)).sum()
        else:
            likelihood = (rows * outputs - np.logaddexp(0, outputs)).sum()
        total += float(likelihood - kl)
    return total / len(x)


def chunks(job: Job) -> Iterator[tuple[int, int]]:
    """Return the steps between two reports, as (first, last + 1)."""
    steps, every = job.length // BATCH_SIZE, job.every // BATCH_SIZE
    return ((first, min(steps, first + every)) for first in range(0, steps, every))


# -- The rivals -------------------------------------------------------------------------------------------------------


def ours(job: Job, report: Report, **options: Any) -> None:
    """This library, its presets and ``fit`` as they are by default."""
    import pyro
    import torch

    from pyro_aevb import AEVB, VAE
    from pyro_aevb.datasets import Binarized
    from pyro_aevb.training import fit

    pyro.set_rng_seed(job.seed)
    train = torch.from_numpy(job.train)
    likelihood = "sigmoid-gaussian" if job.gaussian else "bernoulli"
    sizes = {"hidden_dims": (job.hidden,), "dataset_size": len(train)}
    vae = VAE(train.shape[1], job.latent_dim, likelihood=likelihood, **sizes)
    learner = AEVB(vae.model, vae.guide)
    weights = [p.detach() for p in vae.parameters()]
    fit(
        learner,
        train if job.gaussian else Binarized(train),
        samples=job.length,
        batch_size=BATCH_SIZE,
        seed=job.seed,
        evaluate=lambda: {},
        evaluate_every=job.every,
        callbacks=[lambda history: report(history.samples, [w.numpy() for w in weights])],
        progress=False,
        **options,
    )


def torch_networks(job: Job) -> tuple[Any, Any, Any]:
    """Return encoder and decoder with the job's first weights, and a list of these."""
    import torch
    from torch import nn

    arrays = job.initial()
    layers = [nn.Linear(w.shape[1], w.shape[0]) for w in arrays[::2]]
    weights = [p for layer in layers for p in (layer.weight, layer.bias)]
    with torch.no_grad():
        for parameter, array in zip(weights, arrays, strict=True):
            parameter.copy_(torch.from_numpy(array))
    networks = [nn.Sequential(layers[i], nn.Tanh(), layers[i + 1]) for i in (0, 2)]
    return networks[0], networks[1], weights


def torch_run(job: Job, report: Report, weights: Any, step: Callable[[Any, float], Any]) -> None:
    """Make steps on minibatches of a permutation a pass; ``step`` takes a minibatch and the learning rate's factor."""
    import torch

    torch.manual_seed(job.seed)
    train, order = torch.from_numpy(job.train), torch.empty(0, dtype=torch.long)
    for first, last in chunks(job):
        for i in range(first, last):
            if len(order) < BATCH_SIZE:
                order = torch.randperm(len(train))
            rows, order = train.index_select(0, order[:BATCH_SIZE]), order[BATCH_SIZE:]
            step(rows if job.gaussian else torch.bernoulli(rows), job.factor(i * BATCH_SIZE / job.length))
        if report(last * BATCH_SIZE, [w.detach().numpy() for w in weights]):
            return


def by_hand(job: Job, report: Report, compiled: bool) -> None:
    """A PyTorch loop with the loss written out, torch's fused Adam and a torch scheduler's arithmetic."""
    import torch
    import torch.nn.functional as F

    encoder, decoder, weights = torch_networks(job)
    adam = torch.optim.Adam(weights, lr=job.learning_rate, betas=(job.beta1, 0.999), fused=True)

    def loss(x: Any) -> Any:
        loc, log_variance = encoder(x).chunk(2, -1)
        h = decoder(loc + (0.5 * log_variance).exp() * torch.randn_like(loc))
        kl = 0.5 * (loc.square() + log_variance.exp() - 1 - log_variance).sum()
        if not job.gaussian:
            return kl + F.binary_cross_entropy_with_logits(h, x, reduction="sum")
        logits, log_variance = h.chunk(2, -1)
        error = (x - logits.sigmoid()).square() * (-log_variance).exp()
        return kl + 0.5 * (error + log_variance + math.log(2 * math.pi)).sum()

    loss_of = torch.compile(loss, dynamic=False) if compiled else loss

    def step(x: Any, factor: float) -> None:
        adam.param_groups[0]["lr"] = job.learning_rate * factor
        adam.zero_grad()
        loss_of(x).backward()
        adam.step()

    torch_run(job, report, weights, step)


def stock_pyro(job: Job, report: Report) -> None:
    """SVI with TraceMeanField_ELBO, as in Pyro's own examples."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI, TraceMeanField_ELBO

    encoder, decoder, weights = torch_networks(job)

    def model(x: Any) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), job.latent_dim), 1.0).to_event(1))
            h = decoder(z)
            likelihood: Any = dist.Bernoulli(logits=h)
            if job.gaussian:
                logits, log_variance = h.chunk(2, -1)
                likelihood = dist.Normal(logits.sigmoid(), (0.5 * log_variance).exp())
            pyro.sample("x", likelihood.to_event(1), obs=x)

    def guide(x: Any) -> None:
        pyro.module("encoder", encoder)
        loc, log_variance = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1))

    adam = pyro.optim.Adam({"lr": job.learning_rate, "betas": (job.beta1, 0.999)})
    svi = SVI(model, guide, adam, TraceMeanField_ELBO())

    def step(x: Any, factor: float) -> None:
        for each in adam.optim_objs.values():
            each.param_groups[0]["lr"] = job.learning_rate * factor
        svi.step(x)

    torch_run(job, report, weights, step)


def numpyro_scan(job: Job, report: Report) -> None:
    """NumPyro's SVI, the steps between two reports under one ``lax.scan``."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, TraceMeanField_ELBO

    start = [jnp.asarray(each) for each in job.initial()]

    def apply(layers: Any, x: Any) -> Any:
        w, b, v, c = layers
        return jnp.tanh(x @ w.T + b) @ v.T + c

    def model(x: Any) -> None:
        h_of = functools.partial(apply, numpyro.param("decoder", start[4:]))
        with numpyro.plate("data", BATCH_SIZE):
            h = h_of(numpyro.sample("z", dist.Normal(jnp.zeros((BATCH_SIZE, job.latent_dim)), 1.0).to_event(1)))
            likelihood: Any = dist.Bernoulli(logits=h)
            if job.gaussian:
                logits, log_variance = jnp.split(h, 2, -1)
                likelihood = dist.Normal(jax.nn.sigmoid(logits), jnp.exp(0.5 * log_variance))
            numpyro.sample("x", likelihood.to_event(1), obs=x)

    def guide(x: Any) -> None:
        loc, log_variance = jnp.split(apply(numpyro.param("encoder", start[:4]), x), 2, -1)
        with numpyro.plate("data", BATCH_SIZE):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(0.5 * log_variance)).to_event(1))

    steps, warm_up = job.length // BATCH_SIZE, job.warm_up

    def rate(i: Any) -> Any:
        done = i / steps
        rise = 0.01 + 0.99 * done / max(warm_up, 1e-9)
        factor = jnp.where(done < warm_up, rise, (1 - done) / (1 - warm_up))
        return job.learning_rate * (1.0 if job.shape == "constant" else factor)

    svi = SVI(model, guide, numpyro.optim.Adam(rate, b1=job.beta1), TraceMeanField_ELBO())
    x = jnp.asarray(job.train)

    def one(carry: Any, index: Any) -> tuple[Any, None]:
        state, key = carry
        key, draw = jax.random.split(key)
        rows = x[index]
        rows = rows if job.gaussian else jax.random.bernoulli(draw, rows).astype(rows.dtype)
        return (svi.update(state, rows)[0], key), None

    carry = svi.init(jax.random.PRNGKey(job.seed), x[:BATCH_SIZE]), jax.random.PRNGKey(job.seed + 1)
    run = jax.jit(lambda carry, index: jax.lax.scan(one, carry, index)[0])
    rng, order = np.random.default_rng(job.seed), np.empty(0, dtype=np.int64)
    for first, last in chunks(job):
        while len(order) < (last - first) * BATCH_SIZE:
            order = np.concatenate([order, rng.permutation(len(x))[: len(x) - len(x) % BATCH_SIZE]])
        taken, order = np.split(order, [(last - first) * BATCH_SIZE])
        carry = run(carry, taken.reshape(-1, BATCH_SIZE))
        found = svi.get_params(carry[0])
        if report(last * BATCH_SIZE, [np.asarray(each) for each in found["encoder"] + found["decoder"]]):
            return


def pythae(job: Job, report: Report) -> None:
    """pythae's trainer on its VAE with the same networks; its data set draws the pixels."""
    import torch
    from pythae.data.datasets import BaseDataset, DatasetOutput
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    net_encoder, net_decoder, weights = torch_networks(job)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = net_encoder

        def forward(self, x: Any) -> Any:
            loc, log_variance = self.net(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = net_decoder

        def forward(self, z: Any) -> Any:
            return ModelOutput(reconstruction=self.net(z).sigmoid())

    class Drawn(BaseDataset):
        def __getitem__(self, index: int) -> Any:
            return DatasetOutput(data=torch.bernoulli(self.data[index]), labels=self.labels[index])

    train = torch.from_numpy(job.train)
    config = VAEConfig(input_dim=(train.shape[1],), latent_dim=job.latent_dim, reconstruction_loss="bce")
    options: dict[str, Any] = {}
    if job.tuned:
        options = {"scheduler_cls": "LambdaLR", "scheduler_params": {"lr_lambda": _by_epoch(job, len(train))}}
    settings = BaseTrainerConfig(
        output_dir=job.folder,
        learning_rate=job.learning_rate,
        per_device_train_batch_size=BATCH_SIZE if job.tuned else 64,
        num_epochs=-(-job.length // len(train)),
        optimizer_params={"betas": (job.beta1, 0.999)},
        no_cuda=True,
        **options,
    )
    torch.manual_seed(job.seed)
    trainer = BaseTrainer(VAE(config, Encoder(), Decoder()), Drawn(train, torch.zeros(len(train))), None, settings)
    trainer.set_output_dir = lambda: None
    trainer.prepare_training()
    for epoch in range(1, settings.num_epochs + 1):
        trainer.train_step(epoch=epoch)
        if trainer.scheduler is not None:
            trainer.scheduler.step()
        if report(epoch * len(train), [w.detach().numpy() for w in weights]):
            return


def _by_epoch(job: Job, size: int) -> Callable[[int], float]:
    """Return the factor in each epoch: pythae steps schedulers between epochs."""
    return lambda epoch: job.factor(min(1.0, (epoch + 0.5) * size / job.length))


RIVALS: dict[str, Callable[[Job, Report], None]] = {
    "ours": ours,
    "ours, bf16": functools.partial(ours, precision="bf16"),
    "pyro SVI": stock_pyro,
    "torch by hand": functools.partial(by_hand, compiled=False),
    "torch by hand, compiled": functools.partial(by_hand, compiled=True),
    "numpyro scan": numpyro_scan,
    "pythae": pythae,
}
NEEDS = {"numpyro scan": "numpyro", "pythae": "pythae"}
# By default: Adam's rate in each one's own VAE example, or its configuration's default (pythae).
OWN_RATE = {"pythae": 1e-4}
OTHERS_RATE = 1e-3


def main() -> None:
    """Run the job in this process's first argument; print a line of JSON a report, until the target is reached."""
    job, evaluating = Job(**json.loads(sys.argv[1])), 0.0
    test = np.load(Path(job.folder) / "test.npy")

    def report(samples: int, weights: Arrays) -> bool:
        nonlocal evaluating
        start = time.perf_counter()
        value = bound(weights, test, gaussian=job.gaussian)
        evaluating += time.perf_counter() - start
        print(json.dumps({"samples": samples, "bound": round(value, 3), "evaluating": evaluating}), flush=True)
        return value >= job.target

    RIVALS[job.rival](job, report)
