"""Two threads in Pyro at once: one trains as if it were alone, the other one is told."""

import functools
import multiprocessing
import sys
import threading

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import bernoulli_vae
from pyro.infer import SVI

from pyro_aevb import AEVB, IWAE, elbo, evidence_gap, log_marginal_likelihood
from pyro_aevb.evidence import Evidence
from pyro_aevb.model_guide import log_density, read
from pyro_aevb.one_thread import _running, one_thread
from pyro_aevb.training import fit

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
MESSAGE = "expected one thread at a time in models and guides, got a call of {} while another"


def elsewhere(work):
    """Return the error of ``work`` in another thread, ``None`` if there is none."""
    errors = []

    def run():
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return errors[0] if errors else None


@pytest.fixture(autouse=True)
def _nothing_is_held():
    assert not _running
    yield
    assert not _running


def of_a_learner(use):
    def door(model, guide, x):
        use(AEVB(model, guide, ADAM, compile=False), x)

    return door


EVIDENCE = Evidence(torch.zeros(40).double(), torch.zeros(40).double(), "exact")
DOORS = {
    "terms": lambda model, guide, x: SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), IWAE(2)).step(x),
    "step_on": of_a_learner(lambda learner, x: learner.step(x)),
    "prepare": of_a_learner(lambda learner, x: learner.prepare(x)),
    "check": of_a_learner(lambda learner, x: learner.check(x)),
    "fit": of_a_learner(lambda learner, x: fit(learner, x, samples=8, batch_size=8, progress=False)),
    "elbo": lambda model, guide, x: elbo(model, guide, x),
    "log_marginal_likelihood": lambda model, guide, x: log_marginal_likelihood(model, guide, x, num_particles=1),
    "evidence_gap": lambda model, guide, x: evidence_gap(model, guide, x, evidence=EVIDENCE, num_steps=1),
    "log_density": lambda model, guide, x: log_density(model, guide, x),
    "read": lambda model, guide, x: read(model, guide, (x,)),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_tells_a_second_thread(door):
    vae, x = bernoulli_vae()
    told = []

    def model(x):
        if not told:
            told.append(elsewhere(lambda: DOORS[door](vae.model, vae.guide, x)))
        return vae.model(x)

    AEVB(model, vae.guide, ADAM, compile=False).step(x)
    assert isinstance(told[0], RuntimeError)
    assert str(told[0]).startswith(MESSAGE.format(door))


@pytest.mark.parametrize("door", DOORS)
def test_every_door_holds_the_others(door):
    vae, x = bernoulli_vae()
    told = []

    def model(x):
        told.append(elsewhere(lambda: read(vae.model, vae.guide, (x,))))
        return vae.model(x)

    DOORS[door](model, vae.guide, x)
    assert told
    assert all(isinstance(error, RuntimeError) for error in told)
    assert elsewhere(lambda: read(vae.model, vae.guide, (x,))) is None


def test_a_second_thread_that_encodes_is_told():
    vae, x = bernoulli_vae()
    told = []

    def model(x):
        told.append(elsewhere(lambda: vae.encode(x)))
        return vae.model(x)

    AEVB(model, vae.guide, ADAM, compile=False).step(x)
    assert {str(error)[: len(MESSAGE.format("encode"))] for error in told} == {MESSAGE.format("encode")}
    assert vae.encode(x).shape == (len(x), 2)


def test_fit_is_one_door_from_beginning_to_end():
    """Between its steps too, where a callback of its own may run pairs."""
    vae, x = bernoulli_vae()
    told = []

    def between(history):
        told.append(elsewhere(lambda: elbo(vae.model, vae.guide, x)))
        elbo(vae.model, vae.guide, x)

    fit(AEVB(vae.model, vae.guide, ADAM), x, epochs=1, batch_size=20, callbacks=[between], progress=False)
    assert isinstance(told[0], RuntimeError)


def test_with_a_lock_of_their_own_two_threads_train():
    """The remedy."""
    _, x = bernoulli_vae()
    lock, errors = threading.Lock(), []

    def pair(name):
        net = torch.nn.Linear(6, 4).double()

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

        def guide(x):
            pyro.module(name, net)
            loc, log_scale = net(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        return AEVB(model, guide, ADAM, compile=False), net

    def work(learner):
        for _ in range(10):
            with lock:
                learner.step(x)

    learners = [pair(name) for name in ("a", "b")]
    before = [net.weight.clone() for _, net in learners]
    threads = [
        threading.Thread(target=lambda one=one: errors.append(elsewhere(lambda: work(one)))) for one, _ in learners
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [None, None]
    for (learner, net), was in zip(learners, before, strict=True):
        assert set(learner.phi) == {f"{'ab'[net is learners[1][1]]}$$${name}" for name in ("weight", "bias")}
        assert not torch.equal(net.weight, was)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_ends_with_an_error(error):
    @one_thread
    def door():
        raise error

    with pytest.raises(error):
        door()
    assert elsewhere(one_thread(lambda: None)) is None


def test_ctrl_c_at_any_line_leaves_nobody_in():
    """But in the one that ends it."""
    code = one_thread(lambda: None).__code__
    lines = sorted({line for *_, line in code.co_lines() if line is not None})
    interrupted = 0
    for line in lines[1:-1]:

        def interrupt(frame, event, arg, line=line):
            if frame.f_code is code and event == "line" and frame.f_lineno == line:
                raise KeyboardInterrupt
            return interrupt if frame.f_code is code else None

        before = sys.gettrace()
        sys.settrace(interrupt)
        try:
            one_thread(lambda: None)()
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(before)
        if line < lines[-2]:
            assert not _running, f"line {line}"
        _running.clear()
    assert interrupted >= 4


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_begins_with_nobody_in():
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    @one_thread
    def fork():
        def inside():
            results.put(repr(elsewhere(one_thread(lambda: None))))

        child = context.Process(target=inside)
        child.start()
        child.join()

    fork()
    assert results.get() == "None"
